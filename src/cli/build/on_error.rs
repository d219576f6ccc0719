//! `builder build --on-error`: what a RUN step that fails leaves behind.
//!
//! `shell` opens a shell where the command failed, with its files, environment, mounts, network and
//! limits; when it ends, so does the build, with the step's failure. `keep` makes an image
//! `failed:BUILD` of the files: `builder images` lists it, `builder run` enters it, `builder rmi`
//! removes it.

use crate::cli::Environment;
use crate::cli::failure::{self, Class, Failure};
use crate::export::{self, OutputKind, OutputSpec};
use crate::oci::Reference;
use crate::progress::{Outcome, Vertex};
use crate::sandbox::Stdio;
use crate::solve::{Cause, FailedStep, Job, StepReport};
use crate::sys::cancel::Cancel;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;

/// The name of kept files; the tag is the build.
const NAME: &str = "failed";

/// What a RUN step that fails leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// Nothing
    #[default]
    Fail,
    /// A shell in its files, before they go
    Shell,
    /// An image of its files
    Keep,
}

impl OnError {
    /// Refuses a shell if there is no terminal to type into.
    ///
    /// # Errors
    ///
    /// A usage failure with another way.
    pub(super) fn check(self) -> Result<(), Failure> {
        let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        if self == Self::Shell && !is_terminal {
            return Err(Failure::new(Class::Usage, "--on-error=shell needs a terminal")
                .with_hint("keep the files instead: --on-error=keep"));
        }
        Ok(())
    }
}

/// Does what was asked for with a step that failed; returns the failure to show at the end.
pub(super) fn act(
    wanted: OnError,
    job: &Job<'_>,
    failed: FailedStep,
    steps: &[StepReport],
    failure: Failure,
    environment: &Environment,
) -> Failure {
    match wanted {
        OnError::Fail => failure,
        OnError::Shell => shell(job, &failed, &failure, environment),
        OnError::Keep => match keep(job, failed, steps) {
            Ok(name) => failure
                .with_hint(format!("look at its files: builder run -it {name}"))
                .with_hint(format!("remove them: builder rmi {name}")),
            Err(reason) => failure.with_hint(format!("its files could not be kept: {reason}")),
        },
    }
}

fn shell(
    job: &Job<'_>,
    failed: &FailedStep,
    failure: &Failure,
    environment: &Environment,
) -> Failure {
    job.progress.finish();
    let mut stderr = io::stderr();
    let text = failure.render(environment.is_coloured);
    let _ = stderr.write_all(text.as_bytes());
    let _ = writeln!(stderr, "a shell where it failed; `exit` ends the build");
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let terminal = Some(environment.variable("TERM").unwrap_or_else(|| "xterm".to_owned()));
    let stdio = Stdio::Terminal { input: stdin.as_fd(), output: stdout.as_fd() };
    if let Err(cause) = failed.enter(job, terminal, stdio) {
        environment.warn(&format!("no shell could be started: {}", failure::chain(&cause)));
    }
    // Shown already: what is left is its status.
    Failure::new(failure.class, "")
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
            export::export(&context, &image, &names, &spec, &mut io::sink())
                .map_err(|error| failure::chain(&error))?;
            job.store.sync().map_err(|error| failure::chain(&error))
        });
    job.progress.done(shown, kept.clone().map_or_else(Outcome::Failed, |()| Outcome::Ran));
    kept.map(|()| name)
}
