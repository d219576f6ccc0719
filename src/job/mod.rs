//! One build as data: a request goes in, an image, a prediction or findings come out.
//!
//! This is the use case without its front end. [`load`] reads what a [`BuildRequest`] names;
//! [`build`] finds images and contexts, runs the solver, keeps secrets in, delivers the image,
//! records what happened, and collects what the store does not need any more; [`predict`],
//! [`audit`] and [`check`] answer questions about the same request. What is wrong is a [`Failure`],
//! as data.
//!
//! # Invariants
//!
//! - Nothing here prints, or reads arguments, the environment or the clock: what a job needs of its
//!   process comes from its [`Caller`].
//! - A request has no flags and no defaults that are still to be looked up.
//!
//! # Not here
//!
//! Flags, and text for people: [`crate::cli`]. The steps themselves: [`crate::solve`].

mod build;
mod check;
mod deliver;
mod destination;
pub mod emulators;
pub mod failure;
mod git;
pub mod housekeeping;
pub mod limits;
mod load;
mod on_error;
pub mod outline;
pub mod policies;
mod predict;
mod recipe;
mod recorder;
pub mod request;
pub mod resolve;
mod secrets;
mod shared_cache;
pub mod sources;
pub mod step_error;
pub mod transfers;

pub use build::{Built, build};
pub use check::{Checked, check};
pub use deliver::check_push;
pub use failure::{Class, Failure};
pub use load::{Loaded, load};
pub use on_error::{OnError, OpenStep};
pub use predict::{Prediction, audit, predict};
pub use request::{
    BuildRequest, DeliverySpec, DiskPolicy, GitFacts, PullPolicy, SourceSpec, StepSpec,
};

use crate::progress::Progress;
use crate::registry::Client;
use crate::sandbox::Sandbox;
use crate::sys::cancel::Cancel;
use crate::sys::foreign::Given;
use jiff::Timestamp;
use std::io::Write;
use std::sync::Arc;

/// The program around a job: what a job takes from the process that it runs in.
pub trait Caller {
    /// Returns what an interruption sets.
    fn cancel(&self) -> &Cancel;

    /// Returns the time at which the program was started: that of the build.
    fn started(&self) -> Timestamp;

    /// Returns the time.
    fn now(&self) -> Timestamp;

    /// Returns standard input; reading it ends when the job is cancelled.
    ///
    /// # Errors
    ///
    /// A failure of class environment.
    fn stdin(&self) -> Result<Given, Failure>;

    /// Returns where an output goes whose destination is standard output.
    fn stdout(&self) -> Box<dyn Write + '_>;

    /// Makes a client of registries that reports retries to `progress`. Without `verifies_tls` it
    /// takes any certificate, and plain HTTP.
    ///
    /// # Errors
    ///
    /// A failure for settings that cannot be read.
    fn client(&self, verifies_tls: bool, progress: &Progress) -> Result<Client, Failure>;

    /// Shows a warning that no choice of progress hides.
    fn warn(&self, text: &str);

    /// Called with what will run commands, before the first one: a process that is stopped may want
    /// to stop them too.
    fn sandbox_made(&self, sandbox: &Arc<Sandbox>) {
        let _ = sandbox;
    }

    /// Called for a RUN step that failed, with its files, where [`OnError::Shell`] asks for that;
    /// the failure counts as shown afterwards.
    fn step_failed(&self, step: &OpenStep<'_>, failure: &Failure) {
        let _ = (step, failure);
    }
}
