//! Where COPY and ADD bytes come from.
//!
//! In come a directory of the host, with what its ignore file hides, or a mounted snapshot of
//! another stage or image; and source patterns as a Dockerfile has them. Out comes a [`Selection`]:
//! every file that the instruction copies, with the hash of its content, in the order of the copy.
//!
//! Files are read once: an [index](index) in the store knows the content of what has not changed
//! since, so choosing among 20,000 unchanged files costs a directory walk.
//!
//! | module | what it does |
//! |---|---|
//! | `select` | BuildKit's rules for COPY sources |
//! | `wildcard` | Go's `path.Match` |
//! | `walk` | lists trees below a descriptor |
//! | `fingerprint`, `index` | content hashes, and the file that remembers them |
//! | [`remote`] | downloads and git repositories, which become directories first |
//! | `worktree` | the git repository that a directory is in: commit, remote |
//!
//! # Not here
//!
//! Parsing ignore files is `dockerfile::ignore`'s business, writing the files `copy`'s.

mod fingerprint;
mod index;
pub mod remote;
mod select;
mod walk;
mod wildcard;
mod worktree;

pub use crate::copy::{EntryKind, Picked, SelectedEntry, Selection};
pub use worktree::WorkTree;

use crate::dockerfile::ignore::{IgnoreError, Matcher};
use index::{Index, Trust};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The line of an ignore file that hid a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenBy {
    /// The file, as the user knows it.
    pub file: String,
    /// One-based line.
    pub line: u32,
    /// The line as it stands.
    pub text: String,
}

/// Why files could not be chosen or read. Paths are inside the source unless they are absolute.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
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
    /// A source without wildcards that is not there.
    #[error("{pattern:?} not found{}", .hidden_by.as_ref().map_or(String::new(), |h| format!(
        ": line {} of {}, {:?}, excludes it", h.line, h.file, h.text)))]
    NotFound {
        /// The source as it was written.
        pattern: String,
        /// The line that hid it, where it is there but ignored.
        hidden_by: Option<HiddenBy>,
        /// Sources that exist and are spelled nearly like it, nearest first; at most 3.
        similar: Vec<String>,
    },
    /// A source or an `--exclude` that is not a pattern.
    #[error("malformed pattern {pattern:?}")]
    BadPattern {
        /// The pattern.
        pattern: String,
    },
    /// A line of the ignore file that is malformed, found out when it was tried on a path.
    #[error("{file} is malformed")]
    Ignore {
        /// The file, as the user knows it.
        file: String,
        /// What is wrong with the line.
        source: IgnoreError,
    },
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl ContextError {
    fn io(doing: &'static str, path: &[u8], source: io::Error) -> Self {
        let path = if path.is_empty() { b"." } else { path };
        Self::Io { doing, path: Path::new(OsStr::from_bytes(path)).to_owned(), source }
    }
}

/// How sources are chosen.
#[derive(Debug, Clone, Default)]
pub struct SelectOptions {
    /// `--parents`: sources keep their directories, from a `/./` on where there is one.
    pub parents: bool,
    /// `--exclude`, in order; the language of ignore files.
    pub excludes: Vec<String>,
    /// True for what was downloaded: names are taken as they are, without wildcards, and the
    /// directory itself is copied, not its contents.
    pub exact: bool,
}

#[derive(Debug)]
enum Root {
    Directory(OwnedFd),
    Shared(Arc<dyn SharedRoot>),
}

/// A root directory that others hold too, such as a mounted snapshot.
pub trait SharedRoot: AsFd + Send + Sync + std::fmt::Debug {}

impl<T: AsFd + Send + Sync + std::fmt::Debug> SharedRoot for T {}

#[derive(Debug)]
struct Inner {
    root: Root,
    ignore: Option<Matcher>,
    index: Mutex<Index>,
    keeps_owner: bool,
    /// The permission bits that count.
    mode_mask: u32,
    directories: AtomicU64,
    hashed: AtomicU64,
}

/// What a umask of 022 takes away and one of 002 or 000 leaves.
const UMASK_BITS: u32 = 0o022;

/// A tree that COPY and ADD may read. Clones share everything; steps may use one at the same time.
#[derive(Debug, Clone)]
pub struct Source(Arc<Inner>);

impl Source {
    /// Opens a directory of the host: a build context.
    ///
    /// `ignore` hides files. `index` is the file that remembers fingerprints between builds; its
    /// directory must exist. Files are copied as root's, without capabilities.
    ///
    /// # Errors
    ///
    /// [`ContextError::Io`] when the directory cannot be opened.
    pub fn dir(
        path: &Path,
        ignore: Option<Matcher>,
        index: Option<PathBuf>,
    ) -> Result<Self, ContextError> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| {
            ContextError::io("open the context", path.as_os_str().as_bytes(), e.into())
        })?;
        let ignore = ignore.filter(|matcher| !matcher.is_empty());
        Ok(Self::new(Root::Directory(root), ignore, Index::open(index, Trust::Stamp), false))
    }

    /// Takes a directory that this build made, such as a git checkout: nothing is remembered of it.
    pub fn checkout(root: OwnedFd) -> Self {
        Self::new(Root::Directory(root), None, Index::open(None, Trust::Stamp), false)
    }

    /// Takes a directory into which this build extracted an archive: owners and capabilities are
    /// the archive's, and are kept.
    pub fn extracted(root: OwnedFd) -> Self {
        Self::new(Root::Directory(root), None, Index::open(None, Trust::Stamp), true)
    }

    /// Takes a mounted snapshot, of another stage or an image. Owners and capabilities are kept.
    ///
    /// `index` remembers fingerprints between builds; its name must identify the snapshot's content
    /// (its chain), because inodes and change times of a mount mean nothing in the next one.
    pub fn snapshot(root: Arc<dyn SharedRoot>, index: Option<PathBuf>) -> Self {
        Self::new(Root::Shared(root), None, Index::open(index, Trust::Immutable), true)
    }

    fn new(root: Root, ignore: Option<Matcher>, index: Index, keeps_owner: bool) -> Self {
        Self(Arc::new(Inner {
            root,
            ignore,
            index: Mutex::new(index),
            keeps_owner,
            mode_mask: 0o7777,
            directories: AtomicU64::new(0),
            hashed: AtomicU64::new(0),
        }))
    }

    /// Leaves write permission of group and others out of all modes, so that a checkout under
    /// another umask is the same context. Of a source that was just opened.
    #[must_use]
    pub fn with_normal_modes(mut self) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.mode_mask = 0o7777 & !UMASK_BITS;
        }
        self
    }

    /// Returns the directory that selections of this source are relative to.
    pub fn root(&self) -> BorrowedFd<'_> {
        match &self.0.root {
            Root::Directory(fd) => fd.as_fd(),
            Root::Shared(shared) => shared.as_fd(),
        }
    }

    /// Says whether copies keep owners and capabilities; also what to give to
    /// [`Selection::digest`].
    pub fn keeps_owner(&self) -> bool {
        self.0.keeps_owner
    }

    /// Returns the permission bits that copies of a file or directory of this mode have.
    pub fn mode_of(&self, mode: u32) -> u32 {
        mode & self.0.mode_mask
    }

    /// Returns how many directories were read so far.
    pub fn directories_read(&self) -> u64 {
        self.0.directories.load(Ordering::Relaxed)
    }

    /// Returns how many files were hashed so far.
    pub fn files_hashed(&self) -> u64 {
        self.0.hashed.load(Ordering::Relaxed)
    }

    /// Lists what a build may see of this source: paths from its root, of all that is not a
    /// directory.
    ///
    /// # Errors
    ///
    /// [`ContextError`] when a directory cannot be read.
    pub fn files(&self, cancel: &crate::sys::cancel::Cancel) -> Result<Vec<Vec<u8>>, ContextError> {
        let rules = walk::Rules {
            ignore: self.0.ignore.as_ref(),
            exclude: None,
            include: None,
            wants_capabilities: false,
        };
        let listings = walk::Walk { root: self.root(), rules, cancel }.run(b"")?;
        self.check_ignore()?;
        Ok(listings.iter().flat_map(walk::Listing::files).collect())
    }

    /// Reports a malformed line of the ignore file that was tried.
    fn check_ignore(&self) -> Result<(), ContextError> {
        let Some(ignore) = &self.0.ignore else { return Ok(()) };
        ignore.failure().map_or(Ok(()), |source| {
            Err(ContextError::Ignore { file: ignore.file().to_owned(), source })
        })
    }

    /// Writes what was learnt to the index file; to be called once, when the build is over.
    ///
    /// # Errors
    ///
    /// [`ContextError::Io`] when the file cannot be written; the next build is then slower, and no
    /// less right.
    pub fn flush(&self) -> Result<(), ContextError> {
        let mut index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.flush().map_err(|e| ContextError::io("write the fingerprint index of", b".", e))
    }
}
