//! Why a control group cannot do what it is asked.

use std::io;
use std::path::PathBuf;

/// A control group that cannot be made, or a limit it cannot enforce.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// An explicit limit that nothing here can enforce.
    #[error("{limit} cannot be enforced: {reason}")]
    NotEnforceable {
        /// The limit as the user knows it: `memory`, `cpus`, …
        limit: &'static str,
        /// Cause of the failure.
        reason: String,
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
