//! Leases: a shared `flock` on each layer, blob and cache mount in use keeps garbage collection
//! away from it.
//!
//! A lease is taken on the file or directory itself when a layer, a blob or a cache mount is looked
//! up or made, and kept until the store is closed. Collection takes the exclusive lock before it
//! renames a thing away, so it needs no registry of users and no lock that all would wait for:
//!
//! - A thing that a process has leased is not collected, however long that process runs.
//! - A look-up during a collection waits for that one rename, then sees that the name no longer
//!   leads to what was opened, and reports the thing as absent.
//!
//! The kernel drops the locks of a process however that ends. A look-up counts as a use: it sets
//! the thing's modification time, which collection goes by.

use super::{IoContext as _, Store, StoreError};
use crate::oci::Digest;
use crate::sys::fault;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

/// Leased things, by their absolute paths.
pub(super) type Leases = BTreeMap<PathBuf, File>;

/// Result of trying to collect a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CollectResult {
    /// It was renamed to this path of the session, to be deleted there.
    Removed(PathBuf),
    /// A process has a lease on it.
    Leased,
    /// It has been used since it was chosen.
    Used,
    /// Another process removed it first.
    Gone,
}

impl Store {
    /// Leases what is at `path`; returns whether anything is there.
    pub(super) fn lease(&self, path: &Path) -> Result<bool, StoreError> {
        self.lease_or_wait(path, &|| {})
    }

    /// As [`lease`](Self::lease); `waiting` is called before waiting for a process with the
    /// exclusive lock.
    pub(super) fn lease_or_wait(
        &self,
        path: &Path,
        waiting: &dyn Fn(),
    ) -> Result<bool, StoreError> {
        if self.leases().contains_key(path) {
            return Ok(true);
        }
        loop {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(false);
                }
                Err(e) => return Err(e).context("open", path),
            };
            self.wait_for(path, None, || file.try_lock_shared(), waiting)?;
            if is_at(&file, path)? {
                if self.inner.is_user {
                    touch(&file);
                }
                self.leases().insert(path.to_owned(), file);
                return Ok(true);
            }
        }
    }

    /// Holds a thing of ours that is about to get the name `path`, so that there is no moment at
    /// which it has the name and no other process holds it.
    pub(super) fn lease_as(&self, file: File, path: &Path) -> Result<(), StoreError> {
        file.lock_shared().context("lock", path)?;
        self.leases().insert(path.to_owned(), file);
        Ok(())
    }

    /// Forgets a hold on a name that turned out to be another's.
    pub(super) fn release(&self, path: &Path) {
        self.leases().remove(path);
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, Leases> {
        self.inner.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a blob; says whether it is here. Reads nothing of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn lease_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.lease(&self.blob_path(digest))
    }

    /// Removes what is at `relative` by renaming it into the session, unless a process has leased
    /// it or has used it after `last_used` (`None`: whenever that was).
    ///
    /// `is_current` is called while no process can begin to use it; `false` leaves it in place, as
    /// [`CollectResult::Used`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the kernel refuses.
    pub fn try_collect(
        &self,
        relative: &Path,
        last_used: Option<SystemTime>,
        is_current: impl FnOnce() -> bool,
    ) -> Result<CollectResult, StoreError> {
        let path = self.root().join(relative);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(CollectResult::Gone),
            Err(e) => return Err(e).context("open", &path),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(CollectResult::Leased),
            Err(TryLockError::Error(e)) => return Err(e).context("lock", &path),
        }
        if !is_at(&file, &path)? {
            return Ok(CollectResult::Gone);
        }
        let modified = file.metadata().and_then(|facts| facts.modified()).context("read", &path)?;
        if last_used.is_some_and(|time| modified > time) || !is_current() {
            return Ok(CollectResult::Used);
        }
        let away = self.session()?.new_path()?;
        fs::rename(&path, &away).context("remove", &path)?;
        fault::at("collect.renamed").context("remove", &path)?;
        Ok(CollectResult::Removed(away))
    }
}

/// Says whether `path` still leads to the open file.
pub(super) fn is_at(file: &File, path: &Path) -> Result<bool, StoreError> {
    let ours = file.metadata().context("read", path)?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).context("read", path),
    }
}

/// Notes that a thing is used. Where that fails, it only looks older than it is.
fn touch(file: &File) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    let _ = futimens(file, &times);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        (dir, store)
    }

    fn blob_of(store: &Store, bytes: &[u8]) -> (PathBuf, SystemTime) {
        let path = store.blob_path(&store.put_blob(bytes).unwrap());
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        (path.strip_prefix(store.root()).unwrap().to_owned(), time)
    }

    #[test]
    fn what_a_process_has_leased_is_not_collected() {
        let (_dir, store) = store();
        let (blob, time) = blob_of(&store, b"hello");
        let other = Store::open(store.root()).unwrap();
        assert_eq!(
            other.try_collect(&blob, Some(time), || true).unwrap(),
            CollectResult::Leased,
            "its maker"
        );
        let root = store.root().to_owned();
        drop(store);
        let user = Store::open(&root).unwrap();
        assert!(user.lease_blob(&Digest::of(b"hello")).unwrap());
        assert_eq!(
            other.try_collect(&blob, Some(time), || true).unwrap(),
            CollectResult::Leased,
            "its user"
        );
        drop(user);
        assert_eq!(
            other.try_collect(&blob, Some(time), || true).unwrap(),
            CollectResult::Used,
            "a moment ago"
        );
        let time = fs::metadata(root.join(&blob)).unwrap().modified().unwrap();
        assert_eq!(other.try_collect(&blob, Some(time), || false).unwrap(), CollectResult::Used);
        let CollectResult::Removed(away) = other.try_collect(&blob, Some(time), || true).unwrap()
        else {
            panic!("it is not in use");
        };
        assert_eq!(fs::read(away).unwrap(), b"hello");
        assert!(!other.lease_blob(&Digest::of(b"hello")).unwrap());
        assert_eq!(other.try_collect(&blob, Some(time), || true).unwrap(), CollectResult::Gone);
    }

    #[test]
    fn who_looks_while_it_is_taken_away_finds_nothing() {
        let (_dir, store) = store();
        let root = store.root().to_owned();
        let (blob, _) = blob_of(&store, b"hello");
        drop(store);
        let collector = Store::open(&root).unwrap();
        let now = fs::metadata(root.join(&blob)).unwrap().modified().unwrap();
        std::thread::scope(|scope| {
            let mut looker = None;
            let taken = collector.try_collect(&blob, Some(now), || {
                let other = Store::open(&root).unwrap();
                let looking = scope.spawn(move || other.lease_blob(&Digest::of(b"hello")));
                // Whether it waits for the lock already or comes later: it must find nothing.
                std::thread::yield_now();
                looker = Some(looking);
                true
            });
            assert!(matches!(taken.unwrap(), CollectResult::Removed(_)));
            assert!(!looker.unwrap().join().unwrap().unwrap());
        });
    }
}
