//! Why a control group cannot do what it is asked.

use super::Limit;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A control group that cannot be made, or a limit it cannot enforce.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// An explicit limit that nothing here can enforce.
    #[error("{limit} cannot be enforced: {missing}")]
    NotEnforceable {
        /// The limit.
        limit: Limit,
        /// What it would need.
        missing: Missing,
    },
    /// A file of the control group file system refused an operation.
    #[error("{doing} `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a limit needs and this machine, or this place on it, does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory in which control groups can be made.
    Group,
    /// The limit's controller.
    Controller,
    /// An I/O scheduler that takes weights.
    WeightedScheduler,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "no control group can be made here",
            Self::Controller => "its controller is not available here",
            Self::WeightedScheduler => "no I/O scheduler of this kernel takes weights",
        })
    }
}
