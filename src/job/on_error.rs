//! What a RUN step that fails leaves behind.
//!
//! With [`OnError::Shell`] the caller may enter it, with its files, environment, mounts, network and
//! limits; then the build ends with the step's failure. With [`OnError::Keep`] its files become an
//! image `failed:BUILD`: `builder images` lists it, `builder run` enters it, `builder rmi` removes it.

use super::Caller;
use super::failure::{self, Failure};
use crate::export::{self, OutputKind, OutputSpec, Product};
use crate::oci::Reference;
use crate::progress::{Outcome, Vertex};
use crate::sandbox::Stdio;
use crate::solve::{Cause, FailedStep, Job, StepReport};
use crate::sys::cancel::Cancel;
use std::fmt;
use std::io;

/// The name of kept files; the tag is the build.
const NAME: &str = "failed";

/// What a RUN step that fails leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// Nothing.
    #[default]
    Fail,
    /// Its files, for [`Caller::step_failed`], before they go.
    Shell,
    /// An image of its files.
    Keep,
}

/// A RUN step that failed, with its files.
pub struct OpenStep<'a> {
    job: &'a Job<'a>,
    failed: &'a FailedStep,
}

impl fmt::Debug for OpenStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenStep").field(self.failed).finish()
    }
}

impl OpenStep<'_> {
    /// Runs a shell where the command failed, to its end. `terminal` is the value of TERM.
    ///
    /// # Errors
    ///
    /// [`Cause`] where the shell cannot be started.
    pub fn enter(&self, terminal: String, stdio: Stdio<'_>) -> Result<(), Cause> {
        self.failed.enter(self.job, Some(terminal), stdio).map(drop)
    }
}

/// Does what was asked for with a step that failed; returns the failure to show at the end.
pub(super) fn act(
    wanted: OnError,
    job: &Job<'_>,
    failed: FailedStep,
    steps: &[StepReport],
    failure: Failure,
    caller: &dyn Caller,
) -> Failure {
    match wanted {
        OnError::Fail => failure,
        OnError::Shell => {
            job.progress.finish();
            caller.step_failed(&OpenStep { job, failed: &failed }, &failure);
            // Shown already: what is left is its status.
            Failure::new(failure.class, "")
        }
        OnError::Keep => match keep(job, failed, steps) {
            Ok(name) => failure
                .with_hint(format!("look at its files: builder run -it {name}"))
                .with_hint(format!("remove them: builder rmi {name}")),
            Err(reason) => failure.with_hint(format!("its files could not be kept: {reason}")),
        },
    }
}

/// Puts an image of the files into the store and returns its name.
fn keep(job: &Job<'_>, failed: FailedStep, steps: &[StepReport]) -> Result<String, String> {
    let vertex = Vertex::internal("keeping the failed step's files");
    let shown = vertex.digest;
    job.progress.started(vertex);
    let name = format!("{NAME}:{}", job.build);
    let kept =
        failed.keep(job, steps).map_err(|cause: Cause| failure::chain(&cause)).and_then(|image| {
            let names = [name.parse::<Reference>().map_err(|error| failure::chain(&error))?];
            let cancel = Cancel::new();
            let context = export::Context {
                store: job.store,
                progress: job.progress,
                vertex: shown,
                cancel: &cancel,
            };
            let spec = OutputSpec::new(OutputKind::Image, None);
            export::export(&context, Product::Image(&image), &names, &spec, &mut io::sink())
                .map_err(|error| failure::chain(&error))?;
            job.store.sync().map_err(|error| failure::chain(&error))
        });
    job.progress.done(shown, kept.clone().map_or_else(Outcome::Failed, |()| Outcome::Ran));
    kept.map(|()| name)
}
