//! Why a snapshot could not be mounted, read or changed.

use super::LOWER_MAX;
use crate::layer::LayerError;
use std::io;
use std::path::PathBuf;

/// A mount, a lookup or a change of a snapshot that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A layer's directory cannot be opened.
    #[error("cannot open layer {} of {total}, {}", .index + 1, .path.display())]
    Lower {
        /// Its place, counted from 0 at the bottom.
        index: usize,
        /// How many layers were to be stacked.
        total: usize,
        /// Its directory.
        path: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// The kernel refused a layer.
    #[error("the kernel refuses layer {} of {total}, {}{}", .index + 1, .path.display(), kernel_said(.log))]
    LowerRefused {
        /// Its place, counted from 0 at the bottom.
        index: usize,
        /// How many layers were to be stacked.
        total: usize,
        /// Its directory.
        path: PathBuf,
        /// What the kernel added, if anything.
        log: String,
        /// Cause of the failure.
        source: io::Error,
    },
    /// More layers than the kernel can stack.
    #[error("{count} layers are more than the {LOWER_MAX} that can be stacked")]
    TooManyLayers {
        /// How many there are.
        count: usize,
    },
    /// The mount itself failed.
    #[error("cannot mount a snapshot of {layers} layers: {doing}{}", kernel_said(.log))]
    Mount {
        /// How many layers it has, the upper not counted.
        layers: usize,
        /// What was being done, as `set upperdir`.
        doing: &'static str,
        /// What the kernel added, if anything.
        log: String,
        /// Cause of the failure.
        source: io::Error,
    },
    /// Work on a snapshot's files failed.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// A layer cannot be read or changed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

fn kernel_said(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}
