//! Garbage collection and verification: inventory of the store, what of it can be removed, and
//! whether it is undamaged.
//!
//! In comes a store that builds may be using at the same time; out come an [`Inventory`], the
//! [`Removals`] (selected by a pure function, so that `--dry-run` shows what would really happen),
//! and findings about damage.
//!
//! # What is never removed
//!
//! - What a named image reaches: its documents, its layers' blobs, its unpacked layers.
//! - What a process uses: see the store's leases. Collection runs beside builds and waits for none
//!   of them.
//!
//! # What goes first
//!
//! Everything else is cache, and the least recently used goes first. A look-up counts as a use. A
//! blob whose layer goes, goes with it; so do notes that lead nowhere any more. Records of results
//! that are gone stay for a while: they are small, and `explain` says "evicted" by them.
//!
//! # Not here
//!
//! The history of builds has its own rules: [`crate::history::History::prune`]. When all this
//! happens: the command line.

mod collect;
mod inventory;
mod only;
mod selection;
mod verify;

pub use collect::{Collected, collect};
pub use inventory::{ImageUse, Inventory, Item, ItemKind, Reach};
pub use only::Only;
pub use selection::{EVIDENCE_AGE, Includes, Policy, Removals, select};
pub use verify::{Finding, VerifyReport, verify};

use crate::store::StoreError;

/// Failure of a collection or verification: only what is wrong with the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system call on a file of the store failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: std::path::PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// Names were given and taken away faster than a plan could be made.
    #[error("images were named all the time while garbage was collected")]
    Restless,
    /// The user interrupted it.
    #[error("cancelled")]
    Cancelled,
}
