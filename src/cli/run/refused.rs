//! Flags of `docker run` that mean something which a program without a daemon cannot do, or does not:
//! each is answered with what comes near.

use crate::cli::failure::{Class, Failure};
use clap::Args;

/// Flags that are refused; hidden in the help.
#[derive(Debug, Clone, Args)]
pub struct RefusedArgs {
    /// Run in the background
    #[arg(short, long, hide = true)]
    detach: bool,
    /// Run without confinement
    #[arg(long, hide = true)]
    privileged: bool,
    /// Devices for computing
    #[arg(long, hide = true, value_name = "SPEC")]
    gpus: Option<String>,
    /// Devices of the host
    #[arg(long, hide = true, value_name = "DEVICE")]
    device: Vec<String>,
    /// When to start the command again
    #[arg(long, hide = true, value_name = "POLICY")]
    restart: Option<String>,
}

impl RefusedArgs {
    /// Refuses what was asked for.
    ///
    /// # Errors
    ///
    /// A usage failure with a hint that can be run.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let refuse =
            |message: &str, hint: &str| Err(Failure::new(Class::Usage, message).with_hint(hint));
        if self.detach {
            return refuse(
                "--detach is not there: no daemon keeps the command after this program",
                "run it in the background of the shell: builder run IMAGE COMMAND &",
            );
        }
        if self.privileged {
            return refuse(
                "--privileged is not there: a command is always confined",
                "add what it needs: builder run --cap-add NAME --security-opt seccomp=unconfined IMAGE",
            );
        }
        if self.gpus.is_some() || !self.device.is_empty() {
            return refuse(
                "commands get no devices of this machine but null, zero, full, random and tty",
                "run it with docker: builder save IMAGE | docker load",
            );
        }
        match self.restart.as_deref() {
            None | Some("no" | "") => Ok(()),
            Some(_) => refuse(
                "--restart is not there: no daemon starts the command again",
                "let the shell do it: until builder run IMAGE COMMAND; do sleep 1; done",
            ),
        }
    }
}
