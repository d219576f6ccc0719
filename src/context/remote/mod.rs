//! Sources that have to be brought here first: downloads, git repositories, tars on a stream.
//!
//! Each becomes a directory of the session, and that a [`Source`](super::Source). What was brought
//! is identified by content (sha256, commit), so a step's key needs no address.
//!
//! # Not here
//!
//! Registries and their protocol.

mod access;
mod dirty;
mod git;
mod http;
mod stream;

pub use access::Access;
pub use dirty::is_dirty;
pub use git::{GitCheckout, GitOptions};
pub use http::{Download, HttpOptions, download, file_name_of};
pub use stream::{DOCKERFILE_MAX, StreamContext, read_stream};

use crate::dockerfile::address::AddressError;
use crate::layer::LayerError;
use crate::oci::Digest;
use std::io;
use std::path::PathBuf;

/// Why something could not be brought here. Addresses are shown without passwords.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// An address that cannot be understood.
    #[error(transparent)]
    BadAddress(#[from] AddressError),
    /// The server was not reached, or broke off.
    #[error("cannot download {url}")]
    Http {
        /// The address.
        url: String,
        /// What the connection said.
        source: Box<ureq::Error>,
    },
    /// The server answered, but not with the file.
    #[error("cannot download {url}: the server answered {status}")]
    Status {
        /// The address.
        url: String,
        /// Status code.
        status: u16,
    },
    /// The body is compressed, and much larger than what was sent.
    #[error("{url} decodes to more than {limit} bytes")]
    TooLarge {
        /// The address.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("{url} has the digest {actual}, but {expected} was asked for")]
    Checksum {
        /// The address.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The commit is not the one that was asked for.
    #[error("{url} is at commit {actual}, but {expected} was asked for")]
    Commit {
        /// The address.
        url: String,
        /// What was asked for.
        expected: String,
        /// What is there.
        actual: String,
    },
    /// A git command failed.
    #[error("git cannot {doing} {url}: {said}")]
    Git {
        /// What was being done.
        doing: &'static str,
        /// The address.
        url: String,
        /// The end of what git wrote.
        said: String,
    },
    /// There is no git program.
    #[error("cannot run git for {url}: is it installed?")]
    NoGit {
        /// The address.
        url: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// A directory that the repository does not have.
    #[error("{url} has no directory {subdir:?}")]
    NoSubdir {
        /// The address.
        url: String,
        /// The directory.
        subdir: String,
    },
    /// A stream that is a tar, but not a sound one.
    #[error("cannot extract {name}")]
    Extract {
        /// What the stream is.
        name: String,
        /// Cause of the failure.
        source: LayerError,
    },
    /// A stream that is not a tar, and longer than any Dockerfile.
    #[error("{name} is neither a tar nor a Dockerfile of at most {DOCKERFILE_MAX} bytes")]
    TooLong {
        /// What the stream is.
        name: String,
    },
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where, on the host.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}
