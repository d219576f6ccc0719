//! Export and import of cache mounts: from the store to a layout, and from there into the store of
//! another machine.
//!
//! # The format
//!
//! An exported mount is an artifact of an OCI layout, so whatever copies images copies it:
//!
//! ```text
//! index.json               one entry for each mount, tagged `mount-<name>`
//! manifest                 artifactType [`ARTIFACT_TYPE`]
//! ├─ config                a [`Document`]: whose mount it is, and what each chunk has
//! └─ layers                chunks, each one zstd frame: first the listing's, then the contents'
//! ```
//!
//! The listing and the contents are [a tar taken apart](crate::layer::take_apart), each cut where
//! [its content says](chunks). So the next export writes the chunks in which something changed, and
//! no others: a file that was only touched costs its place in the listing.
//!
//! # Beside builds
//!
//! A mount is copied while no build uses it, so what is copied is what it was at one moment. Who
//! comes first is waited for, with a message; no process holds two mounts here, so there is no
//! deadlock.
//!
//! # Trust
//!
//! Nothing of a layout is believed. Every blob must be a regular file of the promised size and
//! digest, every chunk must have the promised bytes, the tar is put into a directory of its own as
//! any stranger's tar, with no devices, and only when all of that went well does the directory
//! become the mount. So a layout that is damaged, of another version or hostile leaves everything
//! as it was.
//!
//! # Not here
//!
//! How steps get their mounts: [`crate::solve`]. Locks: [`crate::store`]. Listing and removing:
//! [`crate::gc`].

mod chunks;
mod export;
mod import;

pub use export::{Exported, export_mount};
pub use import::{FoundMount, Imported, found_mounts, import_mount};

use crate::export::ExportError;
use crate::image::ImageError;
use crate::layer::LayerError;
use crate::oci::{Descriptor, Digest};
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What an exported mount's manifest says it is.
pub const ARTIFACT_TYPE: &str = "application/vnd.builder.mount.v1";

/// The media type of the document.
const DOCUMENT_TYPE: &str = "application/vnd.builder.mount.document.v1+json";

/// The media types of the chunks.
const LISTING_TYPE: &str = "application/vnd.builder.mount.listing.v1+zstd";
const CONTENTS_TYPE: &str = "application/vnd.builder.mount.contents.v1+zstd";

/// The format of the document.
const DOCUMENT_VERSION: u32 = 1;

/// The largest manifest or document that is read, in bytes: chunks of 500 GB.
const DOCUMENT_MAX: u64 = 128 << 20;

/// How hard chunks are compressed: zstd's own default.
const LEVEL: i32 = 3;

/// What is said of an exported mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    version: u32,
    /// What steps call the mount.
    id: String,
    /// What it was made of; empty for nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    start: String,
    /// Which of several copies it is.
    copy: u32,
    /// Owner, group, permissions and time of its root, which the listing does not have.
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
    mtime_nsec: u32,
    /// Entries, and bytes of files, for people.
    entries: u64,
    bytes: u64,
    /// What each chunk has, in the order of the manifest.
    chunks: Vec<ChunkFacts>,
}

/// What a chunk has, before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct ChunkFacts {
    digest: Digest,
    size: u64,
}

/// Why a mount cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(StoreError),
    /// The layout cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The layout cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its files cannot be read.
    #[error("cannot read the mount's files")]
    Read(#[source] LayerError),
    /// Its files cannot be made.
    #[error("cannot make the mount's files")]
    Make(#[source] LayerError),
    /// A blob of the layout is not a file, or of another size.
    #[error("blob {} is missing, or is not a file of {} bytes", blob.digest, blob.size)]
    NoBlob {
        /// What was promised.
        blob: Descriptor,
    },
    /// A blob of the layout has other bytes.
    #[error("blob {digest} is damaged: its bytes hash to {actual}")]
    Damaged {
        /// Its name.
        digest: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A manifest or document does not say what it should.
    #[error("its {what}")]
    Malformed {
        /// Which one, and what is wrong.
        what: String,
    },
    /// The document is of another format.
    #[error("its format is {found}, and this program reads {DOCUMENT_VERSION}")]
    OtherVersion {
        /// Its format.
        found: u32,
    },
    /// The disk is too small.
    #[error("it has {needed} bytes, and the disk of {} has {free} left", path.display())]
    NoSpace {
        /// The bytes of the mount.
        needed: u64,
        /// The bytes that are free.
        free: u64,
        /// The store.
        path: PathBuf,
    },
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl From<StoreError> for MountError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled => Self::Cancelled,
            other => Self::Store(other),
        }
    }
}

impl MountError {
    fn io(doing: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io { doing, path: path.to_owned(), source: source.into() }
    }

    /// Makes one of trouble with files, which may be no more than an interruption.
    fn of_layer(error: LayerError, of: fn(LayerError) -> Self) -> Self {
        match error {
            LayerError::Cancelled => Self::Cancelled,
            other => of(other),
        }
    }
}

/// Returns the tag of a mount in a layout.
fn tag(name: &crate::store::MountName) -> String {
    format!("mount-{name}")
}
