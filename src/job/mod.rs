//! One build as data: a request goes in, an image, a prediction or findings come out.
//!
//! This is the use case without its front end. It finds images and contexts, runs the solver, keeps
//! secrets in, delivers the image, records what happened, and collects what the store does not need
//! any more. What is wrong is a [`Failure`](failure::Failure), as data.
//!
//! # Invariants
//!
//! - Nothing here prints, or reads arguments, the environment or the clock: what a job needs of its
//!   process comes from its [`Caller`].
//!
//! # Not here
//!
//! Flags, and text for people: [`crate::cli`]. The steps themselves: [`crate::solve`].

pub mod failure;
mod recipe;
pub mod resolve;
pub mod sources;
pub mod transfers;

use crate::sys::cancel::Cancel;
use crate::sys::foreign::Given;
use failure::Failure;

/// The program around a job.
pub trait Caller {
    /// Returns what an interruption sets.
    fn cancel(&self) -> &Cancel;

    /// Returns standard input; reading it ends when the job is cancelled.
    ///
    /// # Errors
    ///
    /// A failure of class environment.
    fn stdin(&self) -> Result<Given, Failure>;
}
