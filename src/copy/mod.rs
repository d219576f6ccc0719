//! The copy engine of COPY and ADD: chosen files into a root given as a directory descriptor.
//!
//! What comes in: a [`CopyRequest`] with [`Selection`]s (made by `context`), inline documents, and
//! where they go. What goes out: files below the root, and [`CopyStats`].
//!
//! # Not here
//!
//! Which files a pattern means is `context`'s business; mounting the root and making a layer of
//! what was written are `snapshot`'s.
//!
//! Source: BuildKit's behaviour, as the conformance cases record it.

mod dest;
mod engine;
mod file;
mod owner;
mod selection;

pub use dest::make_workdir;
pub use engine::copy_into;
pub use owner::{Owner, lookup_owner, unknown_names};
pub use selection::{EntryKind, FileTime, Picked, SelectedEntry, Selection, Stamp};

use crate::dockerfile::chmod::{ChmodError, ChmodSpec};
use crate::layer::LayerError;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// One source of a copy.
#[derive(Debug)]
pub enum CopySource<'a> {
    /// Files of a tree.
    Tree {
        /// The directory that the selection was made in.
        root: BorrowedFd<'a>,
        /// What to copy.
        selection: &'a Selection,
        /// True to keep owners and file capabilities (`--from`); else files belong to root.
        keep_owner: bool,
        /// True to extract what is a tar archive, as ADD does.
        unpack: bool,
    },
    /// A document out of the Dockerfile, mode 0644.
    Inline {
        /// Name that it gets inside a destination directory.
        name: &'a [u8],
        /// Its bytes.
        data: &'a [u8],
    },
}

/// One COPY or ADD.
#[derive(Debug)]
pub struct CopyRequest<'a> {
    /// In the order of the instruction; later ones overwrite earlier ones.
    pub sources: Vec<CopySource<'a>>,
    /// The destination as it was written, after expansion. A final `/` or `/.` makes it a
    /// directory.
    pub dest: &'a [u8],
    /// Absolute directory that a relative destination starts from.
    pub workdir: &'a [u8],
    /// `--chown`, looked up; also for directories the copy creates.
    pub owner: Option<Owner>,
    /// `--chmod`; also for directories the copy creates.
    pub mode: Option<&'a ChmodSpec>,
    /// Time of directories and documents that have none of their own; `None` leaves the present.
    pub created: Option<FileTime>,
    /// Where this goes over an earlier copy of the same source, the root as that one found it: a
    /// destination that is not there was made by the copy, and gets the time of what it makes.
    pub before: Option<BorrowedFd<'a>>,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Regular files written, hard links not counted; of an extracted archive, its members.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Directories created.
    pub directories: u64,
    /// Source paths that changed between their fingerprint and their copy. What was written is then
    /// not what [`Selection::digest`] says: the result must not be filed under it.
    pub changed: Vec<PathBuf>,
}

/// Why a copy failed. Paths are inside the image unless they say otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done: a verb phrase that the path completes.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is where a directory would have to be.
    #[error("cannot copy a directory over {}, which is not a directory", path.display())]
    DirectoryOverFile {
        /// The file in the way.
        path: PathBuf,
    },
    /// A directory is where a file would have to be.
    #[error("cannot copy a file over the directory {}", path.display())]
    FileOverDirectory {
        /// The directory in the way.
        path: PathBuf,
    },
    /// A part of the destination path is not a directory.
    #[error("cannot create {}: a part of the path is not a directory", path.display())]
    NotADirectory {
        /// What was to be created.
        path: PathBuf,
    },
    /// A value of `--chmod` that is not a mode.
    #[error(transparent)]
    BadChmod(#[from] ChmodError),
    /// A name in `--chown` where there are no passwd and group files to look it up in.
    #[error("cannot look up {spec:?}: there are no files below this step to find the name in")]
    OwnerNeedsFiles {
        /// The value of `--chown`.
        spec: String,
    },
    /// A character device 0:0 in the source: in a layer it would delete the file of its name.
    #[error("cannot copy {}: a character device 0:0 is a deletion mark in a layer", path.display())]
    Whiteout {
        /// Path in the source.
        path: PathBuf,
    },
    /// An archive that ADD cannot extract.
    #[error("cannot extract {}", path.display())]
    Extract {
        /// Path in the source.
        path: PathBuf,
        /// Cause of the failure.
        source: LayerError,
    },
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl CopyError {
    pub(super) fn io(doing: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { doing, path: absolute(path), source: source.into() }
    }
}

/// Writes a path relative to the root as the absolute one a user knows.
fn absolute(path: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path))
}
