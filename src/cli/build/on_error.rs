//! `builder build --on-error`: a shell where a RUN step failed.

use crate::cli::Environment;
use crate::cli::failure::{self, Class, Failure};
use crate::job::{OnError, OpenStep};
use crate::sandbox::Stdio;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;

/// What a RUN step that fails leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnErrorFlag {
    /// Nothing
    #[default]
    Fail,
    /// A shell in its files, before they go
    Shell,
    /// An image of its files
    Keep,
}

impl OnErrorFlag {
    /// Returns what is asked for. A shell is refused if there is no terminal to type into.
    ///
    /// # Errors
    ///
    /// A usage failure with another way.
    pub(super) fn checked(self) -> Result<OnError, Failure> {
        let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        match self {
            Self::Fail => Ok(OnError::Fail),
            Self::Keep => Ok(OnError::Keep),
            Self::Shell if is_terminal => Ok(OnError::Shell),
            Self::Shell => Err(Failure::new(Class::Usage, "--on-error=shell needs a terminal")
                .with_hint("keep the files instead: --on-error=keep")),
        }
    }
}

/// Shows the failure of a step, and opens a shell where it failed.
pub(in crate::cli) fn shell(step: &OpenStep<'_>, failure: &Failure, environment: &Environment) {
    let mut stderr = io::stderr();
    let text = failure.render(environment.is_coloured);
    let _ = stderr.write_all(text.as_bytes());
    let _ = writeln!(stderr, "a shell where it failed; `exit` ends the build");
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let terminal = environment.variable("TERM").unwrap_or_else(|| "xterm".to_owned());
    let stdio = Stdio::Terminal { input: stdin.as_fd(), output: stdout.as_fd() };
    if let Err(cause) = step.enter(terminal, stdio) {
        environment.warn(&format!("no shell could be started: {}", failure::chain(&cause)));
    }
}
