//! The store: content-addressed blobs, unpacked layers, image names, and the locks around them.
//!
//! Everything `builder` keeps lives under one directory, which is at the same time a valid OCI
//! image layout:
//!
//! ```text
//! version                     format and number of this store
//! form                        how layers mark deletions and note owners: [`Store::agree_on_form`]
//! oci-layout  index.json      image names; each entry is one tagged manifest
//! blobs/sha256/<hex>          manifests, configs, compressed and uncompressed layers
//! blocks/<encoding>/<hex>     where the blocks of a compressed layer are in its blob
//! layers/<layer-id>/fs/       one layer, unpacked once, immutable, in overlay form
//! layers/<layer-id>/meta.json what is known of it: [`LayerMeta`]
//! layers/<layer-id>/listing   its entries, see [`crate::layer::Listing`]; of large copies only
//! diffs/<diff_id hex>         the layer id that a tar with this diff_id was unpacked to
//! chains/<kk>/<chain-id>      which layer completes this chain (interning)
//! records/<kk>/<key>/<chain>  step results, see [`crate::cache`]
//! trees/<kk>/<hash>           listings of what COPY steps read
//! copies/<kk>/<hash>          what a COPY took last, see [`crate::cache::Copied`]
//! context/                    fingerprint indexes, downloaded sources
//! remotes/                    what the tags of registries meant last, see [`crate::image`]
//! builds/<id>/                history
//! mounts/<id>/                cache mounts of RUN
//! damaged/                    what `builder store verify --repair` set aside
//! usage                       how many bytes of cache there were when they were counted last
//! tmp/<session>/              work in progress; garbage once its session is gone
//! locks/                      advisory locks (flock), never deleted
//! ```
//!
//! # Writing
//!
//! A single file appears by rename from a temporary file of its own directory's file system, a
//! layer by rename of its whole directory, so a reader never sees half of either. Durability is by
//! one `syncfs` when a [`Store`] is closed ([`Store::sync`] for an earlier barrier). Until then
//! each new blob and layer is named in the session's `pending/` directory. If the machine loses
//! power before the barrier, the next [`Store::open`] finds the session of another boot and removes
//! what it names; if only the process died, the page cache is whole, and the next open syncs
//! instead. Records, chains and indexes need no such care: one that does not parse or names
//! something missing is a miss.
//!
//! # Locks
//!
//! Layers, blobs and cache mounts are locked by the processes that use them, with shared locks: see
//! [`leases`]. Garbage collection works beside builds and leaves alone what it cannot lock. A
//! session directory is alive while a process holds its `lock`. Locks belong to open files, so the
//! kernel drops them however a process ends.
//!
//! # Not here
//!
//! What is in a record: [`crate::cache`]. What is in a layer: [`crate::layer`].

mod blobs;
mod blocks;
mod cache_mounts;
mod ids;
mod layers;
mod leases;
mod locks;
mod parts;
mod refs;
mod session;

use crate::oci::Digest;
use crate::sys::cancel::Cancel;
use crate::sys::fault;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tracing::debug;

pub use blobs::{BlobWriter, DOCUMENT_MAX};
pub use blocks::{Block, KnownBlocks, Sum};
pub use cache_mounts::{KnownMount, MountName, Placed, SeizedMount};
pub use ids::{ChainId, ContentId, Key, LayerId, TimesId};
pub use layers::{DeltaBase, Diff, LISTING, Layer, LayerBlob, LayerMeta, TarFacts};
pub use leases::CollectResult;
pub use locks::StepLock;
pub use parts::{GcClass, StorePart};
pub use refs::Tagged;
pub use session::Session;

/// The number of the on-disk format. A store of a larger number is refused.
pub const VERSION: u32 = StorePart::Version.version();

/// How often a lock that another process has is tried: a wait in the kernel could not be
/// interrupted.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const VERSION_PREFIX: &str = "builder store ";

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call on a file of the store failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done: "read", "write", "rename" …
        doing: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// Why the kernel refused.
        source: io::Error,
    },
    /// The directory holds something that is not a store of ours.
    #[error("{} is not a builder store", path.display())]
    NotAStore {
        /// The root that was to be opened.
        path: PathBuf,
    },
    /// The store was written by a newer program.
    #[error("the store at {} has format {found}, newer than this program's {VERSION}", path.display())]
    Newer {
        /// The root that was to be opened.
        path: PathBuf,
        /// Its format number.
        found: u32,
    },
    /// Layers of the store are in a form that this process would misread.
    #[error(
        "the store {} has layers made {found}, which would be misread {wanted}", path.display()
    )]
    OtherForm {
        /// The store.
        path: PathBuf,
        /// Where they were made.
        found: String,
        /// Where this process is.
        wanted: &'static str,
    },
    /// Another user could put anything into the store.
    #[error("the store {} cannot be trusted: {what}", path.display())]
    Untrusted {
        /// The store, or the part of it that others may write.
        path: PathBuf,
        /// Who may.
        what: &'static str,
    },
    /// A blob's bytes are not those its name promises.
    #[error("blob {digest} is damaged: its bytes hash to {actual}")]
    Damaged {
        /// The name.
        digest: Digest,
        /// The hash of the bytes found.
        actual: Digest,
    },
    /// A JSON document of the store does not parse.
    #[error("{} is damaged", path.display())]
    BadJson {
        /// The document.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// A document is larger than any honest one.
    #[error("{} has {size} bytes, more than the {DOCUMENT_MAX} a document may have", path.display())]
    TooLarge {
        /// The document.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob was to have one digest and turned out to have another.
    #[error("expected {expected}, got {actual}")]
    WrongDigest {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl StoreError {
    /// Returns the operating system's error, if that is what this is.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Attaches what was being done, and to what, to an [`io::Error`].
trait IoContext<T> {
    fn context(self, doing: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, doing: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|e| StoreError::Io { doing, path: path.to_owned(), source: e.into() })
    }
}

/// An open store. Clones are cheap and share one session; the last one dropped closes it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    session: Mutex<Option<Arc<session::Live>>>,
    leases: Mutex<leases::Leases>,
    /// Whether looking at a thing counts as using it.
    is_user: bool,
    /// Ends the wait for a lock.
    cancel: OnceLock<Cancel>,
    /// Whether the next process makes durable what this one writes.
    syncs_later: Arc<AtomicBool>,
}

impl Store {
    /// Opens the store at `root`, creating it where nothing is, and sweeps what dead sessions left.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotAStore`] for a non-empty directory of another kind, [`StoreError::Newer`]
    /// for a store of a later format, [`StoreError::Io`] where the kernel refuses.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).context("resolve", root)?;
        let version = StorePart::Version.in_root(&root);
        check_owner(&root)?;
        match fs::read_to_string(&version) {
            Ok(text) => check_version(&root, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(&root)?,
            Err(e) => return Err(e).context("read", &version),
        }
        session::sweep(&root)?;
        Ok(Self::at(root, true))
    }

    /// Opens the store at `root` for a process that leaves everything in it as it is, times of use
    /// included; `None` where there is no store.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_to_look(root: &Path) -> Result<Option<Self>, StoreError> {
        let root = std::path::absolute(root).context("resolve", root)?;
        let version = StorePart::Version.in_root(&root);
        check_owner(&root)?;
        match fs::read_to_string(&version) {
            Ok(text) => check_version(&root, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context("read", &version),
        }
        Ok(Some(Self::at(root, false)))
    }

    /// Notes in which form this process writes layers, or refuses a store whose layers have another:
    /// deletions in them would be taken for nothing, and owners for root.
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherForm`].
    pub fn agree_on_form(&self, wanted: &'static str) -> Result<(), StoreError> {
        let part = StorePart::LayerForm.path();
        match self.read_file(part)? {
            Some(found) if found == wanted.as_bytes() => Ok(()),
            Some(found) => Err(StoreError::OtherForm {
                path: self.root().to_owned(),
                found: String::from_utf8_lossy(&found).into_owned(),
                wanted,
            }),
            None if self.inner.is_user => self.write_file(part, wanted.as_bytes()),
            None => Ok(()),
        }
    }

    fn at(root: PathBuf, is_user: bool) -> Self {
        let (session, leases) = (Mutex::default(), Mutex::default());
        let (cancel, syncs_later) = (OnceLock::new(), Arc::default());
        Self { inner: Arc::new(Inner { root, session, leases, is_user, cancel, syncs_later }) }
    }

    /// Leaves it to the next process to make durable what this one writes: for a job whose store is
    /// seldom used again. After a power cut the layers and blobs of it are gone, and made anew.
    pub fn sync_later(&self) {
        self.inner.syncs_later.store(true, Ordering::Relaxed);
    }

    /// Lets `cancel` end the wait for a lock. Has no effect after the first call.
    pub fn stop_waiting_with(&self, cancel: &Cancel) {
        let _ = self.inner.cancel.set(cancel.clone());
    }

    /// Returns what ends long work for this store.
    pub fn cancel(&self) -> Cancel {
        self.inner.cancel.get().cloned().unwrap_or_default()
    }

    /// Waits for a lock, which `try_lock` takes, until it is had or the wait is ended. `waiting` is
    /// called once, before the first pause.
    fn wait_for(
        &self,
        path: &Path,
        cancel: Option<&Cancel>,
        mut try_lock: impl FnMut() -> Result<(), fs::TryLockError>,
        waiting: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let mut waiting = Some(waiting);
        loop {
            match try_lock() {
                Ok(()) => return Ok(()),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(e)) => return Err(e).context("lock", path),
            }
            let mut tokens = self.inner.cancel.get().into_iter().chain(cancel);
            if tokens.any(Cancel::is_cancelled) {
                return Err(StoreError::Cancelled);
            }
            if let Some(waiting) = waiting.take() {
                debug!(lock = %path.display(), "waits for a lock");
                waiting();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Returns the absolute path of the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Reads a small file at `relative`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn read_file(&self, relative: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.root().join(relative);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context("read", &path),
        }
    }

    /// Puts `bytes` at `relative`, replacing what is there in one rename; makes the directories
    /// above.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; nothing is left behind then.
    pub fn write_file(&self, relative: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let target = self.root().join(relative);
        let temp = self.session()?.new_path()?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&temp)?;
            file.write_all(bytes)?;
            fault::at("file.written")
        };
        if let Err(e) = write() {
            let _ = fs::remove_file(&temp);
            return Err(e).context("write", &target);
        }
        let renamed = match fs::rename(&temp, &target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = target.parent().unwrap_or(self.root());
                fs::create_dir_all(parent).context("create", parent)?;
                fs::rename(&temp, &target)
            }
            other => other,
        };
        if renamed.is_err() {
            let _ = fs::remove_file(&temp);
        }
        renamed.and_then(|()| fault::at("file.renamed")).context("write", &target)
    }

    /// Takes the named lock exclusively; it is held until the returned file is dropped.
    ///
    /// `waiting` is called once, before blocking, when another process holds it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the lock file cannot be made, [`StoreError::Cancelled`].
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<File, StoreError> {
        self.lock_unless(name, None, waiting)
    }

    /// As [`lock`](Self::lock), unless `cancel` ends the wait.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_unless(
        &self,
        name: &str,
        cancel: Option<&Cancel>,
        waiting: impl FnOnce(),
    ) -> Result<File, StoreError> {
        let path = self.place(StorePart::Locks).join(name);
        let file = open_lock(&path)?;
        self.wait_for(&path, cancel, || file.try_lock(), waiting)?;
        Ok(file)
    }

    /// Takes the named lock if it is free.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the lock file cannot be made.
    pub fn try_lock(&self, name: &str) -> Result<Option<File>, StoreError> {
        let path = self.place(StorePart::Locks).join(name);
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(e).context("lock", &path),
        }
    }
}

/// Removes what is at a path, and everything below it, at any depth. Absence is not an error.
///
/// # Errors
///
/// The first refusal of the kernel.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = File::open(directory)?;
    crate::sys::remove::remove_tree(directory.as_fd(), &CString::new(name.as_bytes())?)
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().create(true).append(true).open(path).context("open", path)
}

/// Refuses a store into which another user may put files: what is in it runs, and becomes images.
fn check_owner(root: &Path) -> Result<(), StoreError> {
    let own = rustix::process::geteuid().as_raw();
    let parts = StorePart::ALL.into_iter().filter(|part| part.is_trusted());
    let blobs = StorePart::Blobs.in_root(root);
    let above_blobs = blobs.parent().map(Path::to_owned);
    let places = [root.to_owned()].into_iter().chain(above_blobs);
    for path in places.chain(parts.map(|part| part.in_root(root))) {
        // Links to the store, and of its parts, lead where their owner wants.
        let facts = match fs::metadata(&path) {
            Ok(facts) => facts,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context("read", &path),
        };
        let what = if facts.uid() != own {
            "another user owns it"
        } else if facts.mode() & 0o002 != 0 {
            "all users may write there"
        } else {
            continue;
        };
        return Err(StoreError::Untrusted { path, what });
    }
    Ok(())
}

fn check_version(root: &Path, text: &str) -> Result<(), StoreError> {
    let found = text
        .strip_prefix(VERSION_PREFIX)
        .and_then(|rest| rest.trim_end().parse::<u32>().ok())
        .ok_or_else(|| StoreError::NotAStore { path: root.to_owned() })?;
    if found > VERSION {
        return Err(StoreError::Newer { path: root.to_owned(), found });
    }
    Ok(())
}

/// Makes the directories of a new store. Two processes may do this at once.
fn create(root: &Path) -> Result<(), StoreError> {
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    private.create(root).context("create", root)?;
    let foreign = fs::read_dir(root)
        .context("list", root)?
        .filter_map(Result::ok)
        .any(|entry| !may_be_in_new(&entry.file_name()));
    if foreign {
        return Err(StoreError::NotAStore { path: root.to_owned() });
    }
    for part in StorePart::ALL.into_iter().filter(|part| part.is_made_first()) {
        let path = part.in_root(root);
        private.create(&path).context("create", &path)?;
    }
    write_new(&StorePart::OciLayout.in_root(root), b"{\"imageLayoutVersion\":\"1.0.0\"}\n")?;
    write_new(&StorePart::Index.in_root(root), refs::EMPTY_INDEX)?;
    // Last: a store with a version is complete.
    let version = format!("{VERSION_PREFIX}{VERSION}\n");
    write_new(&StorePart::Version.in_root(root), version.as_bytes())
}

/// Whether something may stand in a directory that [`create`] takes over: a part of a store that
/// another process is making, or a file system's own directory.
fn may_be_in_new(name: &OsStr) -> bool {
    name == "lost+found" || StorePart::ALL.iter().any(|part| name == part.top())
}

/// Writes a file that only ever has this content, by rename so that no reader sees half of it.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temp = path.with_file_name(StorePart::Tmp.name()).join(name);
    fs::write(&temp, bytes).context("write", path)?;
    match fs::hard_link(&temp, path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            let _ = fs::remove_file(&temp);
            Err(e).context("write", path)
        }
        _ => fs::remove_file(&temp).context("remove", &temp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_an_oci_layout_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = Store::open(&root).unwrap();
        let layout: serde_json::Value =
            serde_json::from_slice(&fs::read(store.root().join("oci-layout")).unwrap()).unwrap();
        assert_eq!(layout["imageLayoutVersion"], "1.0.0");
        assert!(root.join("blobs/sha256").is_dir());
    }

    #[test]
    fn a_newer_store_and_a_foreign_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "mine").unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::NotAStore { .. })));

        let root = dir.path().join("store");
        drop(Store::open(&root).unwrap());
        fs::write(root.join("version"), "builder store 99\n").unwrap();
        assert!(matches!(Store::open(&root), Err(StoreError::Newer { found: 99, .. })));
    }

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let name = Path::new("records/ab/x");
        assert_eq!(store.read_file(name).unwrap(), None);
        store.write_file(name, b"one").unwrap();
        store.write_file(name, b"two").unwrap();
        assert_eq!(store.read_file(name).unwrap().as_deref(), Some(&b"two"[..]));
    }

    #[test]
    fn a_held_lock_is_not_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let held = store.lock("step-1", || unreachable!("it is free")).unwrap();
        assert!(store.try_lock("step-1").unwrap().is_none());
        drop(held);
        assert!(store.try_lock("step-1").unwrap().is_some());
    }
}
