//! Why a command could not be run at all.

use std::io;
use std::path::PathBuf;

use super::platforms::EmulatorLack;
use crate::cgroup::CgroupError;

/// A sandbox that could not be made or was given up. A command that ran and failed is not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// It was interrupted; everything in the sandbox was killed.
    #[error("cancelled")]
    Cancelled,
    /// A system call of ours, in this process, failed.
    #[error("{doing}")]
    Io {
        /// What was being done, with its path.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Output of the command could not be written to where it was to go.
    #[error("cannot write the output of the command")]
    Output {
        /// What the kernel said.
        source: io::Error,
    },
    /// The child could not set up the sandbox.
    #[error("setting up the sandbox: {doing}: {}", reason(doing, *errno))]
    Setup {
        /// What was being done, with its path.
        doing: String,
        /// Error number that the kernel gave.
        errno: i32,
    },
    /// The spec asks for what cannot be, such as a user that the image lacks.
    #[error("{message}")]
    Spec {
        /// What is wrong.
        message: String,
    },
    /// The command's user, or the owner of a mount, has an id that the sandbox's user namespace
    /// does not map.
    #[error("{of} has id {id}, which the sandbox's user namespace does not map")]
    UnmappedId {
        /// What has the id: "user app", "a mount's owner".
        of: String,
        /// The id.
        id: u32,
        /// Whether the builder chose the ids of the namespace; otherwise they are the ranges of
        /// /etc/subuid and /etc/subgid that the builder's user has.
        is_chosen: bool,
    },
    /// No command can be confined here.
    #[error("commands cannot be confined here: {reason}")]
    NoConfinement {
        /// What the place refuses.
        reason: String,
        /// What to change.
        fix: String,
    },
    /// Programs of another processor do not run here.
    #[error("programs of {platform} do not run here: {reason}")]
    NoEmulator {
        /// Their platform.
        platform: String,
        /// Why not.
        reason: String,
        /// What is lacking.
        lack: EmulatorLack,
    },
    /// What stays above a command's processes was killed, so that some of them may be left.
    #[error("the process above the command was killed, and what the command started may still run")]
    KeeperLost,
    /// The helper process that starts sandboxes cannot be started or is gone.
    #[error("the sandbox helper `{}` is gone", program.display())]
    Spawner {
        /// Program that was to be it.
        program: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The init of the sandbox died before it said how the command ended.
    #[error("the sandbox's init was killed from outside")]
    InitLost,
    /// A limit cannot be enforced, or a control group cannot be made.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No private network can be had although it was demanded.
    #[error("no private network: {reason}")]
    Network {
        /// Which helpers were tried, and what each said.
        reason: String,
    },
}

impl SandboxError {
    /// Makes the error of a failed system call.
    pub(super) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing: doing.into(), source: source.into() }
    }
}

/// Says why the kernel refused something. Of a namespace `ENOSPC` means a limit and not a disk.
///
/// Source: unshare(2), namespaces(7).
pub(super) fn reason(doing: &str, errno: i32) -> String {
    if errno == libc::ENOSPC && doing.contains("namespace") {
        "the limit of namespaces is reached: sysctl user.max_user_namespaces, user.max_net_namespaces \
         and similar ones, or 32 levels of user namespaces"
            .to_owned()
    } else {
        io::Error::from_raw_os_error(errno).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_namespaces_is_not_a_full_disk() {
        let error = |doing: &str| SandboxError::Setup { doing: doing.into(), errno: libc::ENOSPC };
        let text = error("making a user namespace").to_string();
        assert!(text.contains("limit of namespaces") && !text.contains("No space"), "{text}");
        assert!(error("making the file hosts").to_string().contains("No space left"));
    }
}
