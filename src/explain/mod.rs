//! Why a step hit or missed: what builds did, compared, and what a build would do.
//!
//! # Overview
//!
//! Every build leaves a [`BuildRecord`] in the store: its steps, with every input of their keys,
//! the result of each, and what it cost. Two such records are [compared](compare) step by step,
//! and the differences are the causes that a [`Report`](report::Report) names. A build that has
//! not run yet is described by the same record, with outcomes that say "would run", so a
//! prediction and a look back are one piece of code.
//!
//! Nothing is reconstructed by guessing: a cause is a difference between two recorded inputs, with
//! both values as evidence.
//!
//! # Invariants
//!
//! - No clock is read here; times come from the caller.
//! - What looks like a secret by its name is shown as changed, never by its value.
//!
//! # Not here
//!
//! Deciding whether a step hits: [`crate::solve`]. Printing: [`crate::cli`] gets text from
//! [`report`] and chooses colour.

mod align;
mod audit;
pub mod builds;
pub mod compare;
mod describe;
pub mod diff;
pub mod emulation;
pub mod html;
pub mod listing;
pub mod platforms;
pub mod redact;
pub mod report;
#[cfg(test)]
mod report_tests;
#[cfg(test)]
mod sentences_tests;
pub mod spans;
pub mod suggest;
#[cfg(test)]
mod testing;
pub mod text;

pub use audit::{Audit, AuditedStep, Verdict as AuditVerdict};
