//! What can go wrong with a layer.

use std::io;

/// Work on a layer that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A file of the layer cannot be read or made.
    #[error("cannot {doing} `{path}` in the layer")]
    Io {
        /// What was being done, as `read`.
        doing: &'static str,
        /// The path in the layer; bytes that are no UTF-8 are replaced.
        path: String,
        /// Cause of the failure.
        source: io::Error,
    },
    /// A file changed its size while it was read.
    #[error("`{path}` changed while it was read: {read} bytes instead of {expected}")]
    Changed {
        /// The path in the layer.
        path: String,
        /// How many bytes it should have.
        expected: u64,
        /// How many it had.
        read: u64,
    },
    /// What is made of the layer cannot be written.
    #[error("cannot write the layer's {what}")]
    Output {
        /// What was being written, as `tar`.
        what: &'static str,
        /// Why; [`io::ErrorKind::StorageFull`] on a full disk.
        source: io::Error,
    },
    /// A tar cannot be read, or what it is compressed with is damaged.
    #[error("cannot read the tar")]
    Input {
        /// Cause of the failure.
        source: io::Error,
    },
    /// A tar ends in the middle of a member.
    #[error("the tar is cut off{}", after(.path))]
    Truncated {
        /// The last member that was begun; empty where there is none.
        path: String,
    },
    /// A tar is not what a tar may be.
    #[error("bad tar: {what}{}", after(.path))]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// The member in question, or the last one that was begun.
        path: String,
    },
    /// The header behind a member of a tar is not what a header may be.
    #[error("bad tar: {what}{}", behind(.path))]
    MalformedNext {
        /// What is wrong.
        what: &'static str,
        /// The member before it; empty where there is none.
        path: String,
    },
    /// A hard link whose target cannot be linked to.
    #[error("cannot make `{path}` a hard link to `{target}`")]
    HardLink {
        /// The link.
        path: String,
        /// What it should link to, from the root.
        target: String,
        /// Cause of the failure.
        source: io::Error,
    },
    /// A worker thread cannot be started.
    #[error("cannot start a thread")]
    Thread {
        /// Cause of the failure.
        source: io::Error,
    },
    /// Another stage of the work has stopped; its own error says why.
    #[error("another stage of the work has stopped")]
    Closed,
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

fn behind(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(", after `{path}`") }
}

fn after(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(", at `{path}`") }
}

/// Longest path that an error quotes whole, in bytes.
const QUOTED_MAX: usize = 300;

/// Returns a path as errors quote it: of a long one the beginning and the end.
fn quoted(path: &[u8]) -> String {
    if path.len() <= QUOTED_MAX {
        return String::from_utf8_lossy(path).into();
    }
    let (start, end) = (&path[..QUOTED_MAX / 2], &path[path.len() - QUOTED_MAX / 2..]);
    format!("{}…{}", String::from_utf8_lossy(start), String::from_utf8_lossy(end))
}

impl LayerError {
    pub(crate) fn io(doing: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        let path = if path.is_empty() { "/".into() } else { quoted(path) };
        Self::Io { doing, path, source: source.into() }
    }

    pub(crate) fn truncated(path: &[u8]) -> Self {
        Self::Truncated { path: quoted(path) }
    }

    pub(crate) fn malformed_next(what: &'static str, path: &[u8]) -> Self {
        Self::MalformedNext { what, path: quoted(path) }
    }

    pub(crate) fn malformed(what: &'static str, path: &[u8]) -> Self {
        Self::Malformed { what, path: quoted(path) }
    }
}
