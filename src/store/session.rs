//! Work in progress: a directory of its own for every process, and the results of it when that
//! dies.
//!
//! ```text
//! tmp/<boot>-<pid>-<n>/lock       held exclusively while the session lives
//! tmp/<boot>-<pid>-<n>/pending/   `layer-<id>`, `blob-<hex>`: visible, but not yet synced
//! tmp/<boot>-<pid>-<n>/<number>   whatever the process works on
//! ```
//!
//! `<boot>` is the first half of the kernel's boot id, so that a later process can distinguish a
//! killed session (everything it wrote is in the page cache) from a crashed machine (nothing is
//! sure).

use super::{Inner, IoContext as _, Store, StoreError, StorePart, open_lock};
use crate::sys::fault;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tracing::debug;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A process's own directory under `tmp/`. Clones share it.
#[derive(Debug, Clone)]
pub struct Session(Arc<Live>);

#[derive(Debug)]
pub(super) struct Live {
    root: PathBuf,
    dir: PathBuf,
    next: AtomicU64,
    /// See [`Store::sync_later`].
    syncs_later: Arc<AtomicBool>,
    _lock: File,
}

impl Session {
    /// Returns the session's directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Returns a path in the session's directory at which nothing is.
    ///
    /// # Errors
    ///
    /// None today; the signature leaves room for a directory per kind of work.
    pub fn new_path(&self) -> Result<PathBuf, StoreError> {
        Ok(self.0.dir.join(self.0.next.fetch_add(1, Ordering::Relaxed).to_string()))
    }

    /// Makes an empty directory, mode 0700, for one piece of work. It goes with the session, or by
    /// [`Store::add_layer`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`], for example on a full disk.
    pub fn new_work(&self) -> Result<PathBuf, StoreError> {
        let path = self.new_path()?;
        fs::create_dir(&path).context("create", &path)?;
        Ok(path)
    }

    /// Notes that `name` is about to become visible and is not on disk yet.
    pub(super) fn pend(&self, name: &str) -> Result<(), StoreError> {
        let path = self.0.dir.join("pending").join(name);
        File::create(&path).context("create", &path).map(drop)
    }
}

impl Store {
    /// Returns this process's session, opening it on first use.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where its directory cannot be made.
    pub fn session(&self) -> Result<Session, StoreError> {
        let mut slot = self.inner.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(live) = &*slot {
            return Ok(Session(Arc::clone(live)));
        }
        let live = Arc::new(Live::begin(&self.inner.root, &self.inner.syncs_later)?);
        *slot = Some(Arc::clone(&live));
        Ok(Session(live))
    }

    /// Makes everything written so far durable with one `syncfs`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the disk reports an error.
    pub fn sync(&self) -> Result<(), StoreError> {
        let slot = self.inner.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let live = slot.clone();
        // It may take seconds, and others go on in the meantime.
        drop(slot);
        live.map_or(Ok(()), |live| live.sync())
    }
}

impl Live {
    fn begin(root: &Path, syncs_later: &Arc<AtomicBool>) -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // No process sweeps while a session is between mkdir and lock.
        let _making = sweep_lock(root, LockKind::Shared)?;
        let dir = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{}-{number}", boot()?, std::process::id());
            let dir = StorePart::Tmp.in_root(root).join(name);
            match fs::create_dir(&dir) {
                // Another process of our number, in another pid namespace or before us.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => {
                    other.context("create", &dir)?;
                    break dir;
                }
            }
        };
        fault::at("session.made").context("create", &dir)?;
        let lock_path = dir.join("lock");
        let lock = open_lock(&lock_path)?;
        lock.lock().context("lock", &lock_path)?;
        let pending = dir.join("pending");
        fs::create_dir(&pending).context("create", &pending)?;
        let (root, next) = (root.to_owned(), AtomicU64::new(0));
        Ok(Self { root, dir, next, syncs_later: Arc::clone(syncs_later), _lock: lock })
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.syncs_later.load(Ordering::Relaxed) {
            return Ok(());
        }
        let pending = self.dir.join("pending");
        let names: Vec<_> =
            fs::read_dir(&pending).context("list", &pending)?.filter_map(Result::ok).collect();
        if names.is_empty() {
            return Ok(());
        }
        debug!(pending = names.len(), "makes the file system durable");
        fault::at("sync.begun").context("sync", &self.root)?;
        syncfs(&self.root)?;
        fault::at("sync.done").context("sync", &self.root)?;
        for entry in names {
            let _ = fs::remove_file(entry.path());
        }
        Ok(())
    }
}

impl Live {
    /// Removes all but what the next process needs to know: nothing, if nothing is pending.
    fn leave_pending(&self) -> io::Result<()> {
        let pending = self.dir.join("pending");
        if fs::read_dir(&pending)?.next().is_none() {
            return super::remove_tree(&self.dir);
        }
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name() != "pending" && entry.file_name() != "lock" {
                super::remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.syncs_later.load(Ordering::Relaxed) && self.leave_pending().is_ok() {
            return;
        }
        // What could not be synced stays pending, and the next open sees to it.
        if self.sync().is_ok() && fault::at("session.ending").is_ok() {
            let _ = super::remove_tree(&self.dir);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Before the holds go: a tag or a record that the barrier makes durable protects more.
        self.session.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

pub(super) fn syncfs(root: &Path) -> Result<(), StoreError> {
    let directory = File::open(root).context("open", root)?;
    rustix::fs::syncfs(&directory).context("sync", root)
}

fn boot() -> Result<String, StoreError> {
    let text = fs::read_to_string(BOOT_ID).context("read", Path::new(BOOT_ID))?;
    Ok(text.trim().replace('-', "")[..16].to_owned())
}

#[derive(Clone, Copy)]
enum LockKind {
    Shared,
    TryExclusive,
}

fn sweep_lock(root: &Path, kind: LockKind) -> Result<Option<File>, StoreError> {
    let path = StorePart::Locks.in_root(root).join("sweep");
    let file = open_lock(&path)?;
    match kind {
        LockKind::Shared => file.lock_shared().context("lock", &path)?,
        LockKind::TryExclusive => {
            if file.try_lock().is_err() {
                return Ok(None);
            }
        }
    }
    Ok(Some(file))
}

/// Removes what dead sessions left, first settling what they had pending.
///
/// Cheap where there is nothing to do: one listing of an empty directory. Does nothing while
/// another process sweeps.
pub(super) fn sweep(root: &Path) -> Result<(), StoreError> {
    let tmp = StorePart::Tmp.in_root(root);
    let mut sessions = fs::read_dir(&tmp).context("list", &tmp)?.peekable();
    if sessions.peek().is_none() {
        return Ok(());
    }
    let Some(_sweeping) = sweep_lock(root, LockKind::TryExclusive)? else { return Ok(()) };
    let boot = boot()?;
    for entry in sessions {
        let entry = entry.context("list", &tmp)?;
        let dir = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // A file of a store in the making: at most its maker's few milliseconds old.
            let stale = entry
                .file_name()
                .to_string_lossy()
                .rsplit('.')
                .next()
                .is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if stale {
                let _ = fs::remove_file(&dir);
            }
            continue;
        }
        let lock_path = dir.join("lock");
        match File::open(&lock_path) {
            Ok(lock) => {
                if lock.try_lock().is_err() {
                    continue;
                }
                settle(root, &dir, entry.file_name().to_string_lossy().starts_with(&boot))?;
                remove_or_leave(&dir)?;
            }
            // Killed before it had a lock, so nothing of it was visible; or about to be gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound => remove_or_leave(&dir)?,
            Err(e) => return Err(e).context("open", &lock_path),
        }
    }
    Ok(())
}

/// Removes a session's directory; it is not an error that its own process was faster.
fn remove(dir: &Path) -> Result<(), StoreError> {
    match super::remove_tree(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove", dir),
        _ => Ok(()),
    }
}

/// As [`remove`], of a directory with files of users whom only a user namespace knows: outside it
/// they are left to the next process that is inside.
fn remove_or_leave(dir: &Path) -> Result<(), StoreError> {
    match remove(dir) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            debug!(session = %dir.display(), "is left to a process that may remove it");
            Ok(())
        }
        result => result,
    }
}

/// Decides about what a dead session made visible without a barrier.
fn settle(root: &Path, session: &Path, same_boot: bool) -> Result<(), StoreError> {
    let pending = session.join("pending");
    let names: Vec<String> = match fs::read_dir(&pending) {
        Ok(list) => list.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context("list", &pending),
    };
    if names.is_empty() {
        return Ok(());
    }
    if same_boot {
        return syncfs(root);
    }
    for name in names {
        let victim = match name.split_once('-') {
            Some(("layer", id)) => StorePart::Layers.in_root(root).join(id),
            Some(("blob", hex)) => StorePart::Blobs.in_root(root).join(hex),
            _ => continue,
        };
        let removed =
            if victim.is_dir() { super::remove_tree(&victim) } else { fs::remove_file(&victim) };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).context("remove", &victim);
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn a_closed_session_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::open(&root).unwrap();
        fs::write(store.session().unwrap().new_work().unwrap().join("x"), "y").unwrap();
        drop(store);
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_to_be_synced_later_stays_pending_until_the_store_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        for is_pending in [false, true] {
            let store = Store::open(&root).unwrap();
            store.sync_later();
            let session = store.session().unwrap();
            fs::write(session.new_work().unwrap().join("x"), "y").unwrap();
            if is_pending {
                session.pend("blob-00").unwrap();
            }
            store.sync().unwrap();
            let place = session.dir().to_owned();
            drop((session, store));
            let mut left: Vec<_> = match is_pending {
                true => fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect(),
                false => Vec::new(),
            };
            left.sort();
            assert_eq!(left, if is_pending { vec!["lock", "pending"] } else { vec![] });
            assert_eq!(place.exists(), is_pending);
        }
        drop(Store::open(&root).unwrap());
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    }

    /// Leaves behind what a process killed at this moment would, as of boot `boot`.
    fn kill(store: Store, boot: &str) {
        let session = store.session().unwrap();
        let dead = session.dir().with_file_name(format!("{boot}-1-0"));
        fs::create_dir_all(dead.join("pending")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        for entry in fs::read_dir(session.dir().join("pending")).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), dead.join("pending").join(entry.file_name())).unwrap();
        }
        drop(store);
    }

    #[test]
    fn a_killed_process_keeps_its_blobs_and_a_crashed_machine_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let digest = Digest::of(b"content");
        for (boot, kept) in [(boot().unwrap(), true), ("0123456789abcdef".to_owned(), false)] {
            let store = Store::open(&root).unwrap();
            let _ = fs::remove_file(store.blob_path(&digest));
            store.put_blob(b"content").unwrap();
            kill(store, &boot);
            let store = Store::open(&root).unwrap();
            assert_eq!(store.has_blob(&digest), kept);
            assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_live_session_is_not_swept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::open(&root).unwrap();
        let work = store.session().unwrap().new_work().unwrap();
        drop(Store::open(&root).unwrap());
        assert!(work.is_dir());
    }
}
