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
    /// Namespaces of the host or of another container
    #[arg(long, hide = true, value_name = "MODE")]
    pid: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    ipc: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    uts: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    cgroupns: Option<String>,
    /// Mounts of another container
    #[arg(long, hide = true, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Another container
    #[arg(long, hide = true, value_name = "CONTAINER")]
    link: Vec<String>,
    /// Settings of the kernel
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// Resolvers of names
    #[arg(long, hide = true, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Further groups
    #[arg(long, hide = true, value_name = "GROUP")]
    group_add: Vec<String>,
    /// File for the container's id
    #[arg(long, hide = true, value_name = "FILE")]
    cidfile: Option<String>,
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
        let shared = [
            ("--pid", &self.pid),
            ("--ipc", &self.ipc),
            ("--uts", &self.uts),
            ("--cgroupns", &self.cgroupns),
        ];
        for (flag, mode) in shared {
            if mode.as_deref().is_some_and(|mode| !matches!(mode, "" | "private" | "shareable")) {
                return refuse(
                    &format!("{flag} of the host or of a container is not there"),
                    &format!("leave {flag} out: the command has a namespace of its own"),
                );
            }
        }
        if !self.volumes_from.is_empty() || !self.link.is_empty() || self.cidfile.is_some() {
            return refuse(
                "there are no containers to share with or to name: a command leaves none behind",
                "share a directory of the host: builder run -v /srv/data:/data IMAGE",
            );
        }
        if !self.sysctl.is_empty() {
            return refuse(
                "--sysctl is not there: settings of the kernel stay as the machine has them",
                "set it on the machine: sysctl NAME=VALUE",
            );
        }
        if !self.dns.is_empty() {
            return refuse(
                "--dns is not there: the command uses the machine's resolvers",
                "give a file of your own: builder run -v /srv/resolv.conf:/etc/resolv.conf:ro IMAGE",
            );
        }
        if !self.group_add.is_empty() {
            return refuse(
                "--group-add is not there: the groups of a user come from the image's /etc/group",
                "name the primary group with the user: builder run --user 1000:GROUP IMAGE",
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
