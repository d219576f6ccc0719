//! What a process uses is held: garbage collection keeps its hands off it.
//!
//! A hold is a shared lock on the file or folder itself, taken when a layer, a blob or a cache mount
//! is looked up or made, and kept until the store is closed. Collection takes the exclusive lock
//! before it renames a thing away, so it can tell without asking anybody, and without one thing in
//! common that all would wait for:
//!
//! - A thing that somebody holds is not collected, however long its user runs.
//! - Whoever looks a thing up while it is being taken away waits for that one rename, then sees that
//!   the name no longer leads to what was opened, and takes it as not here.
//!
//! The kernel drops the locks of a process however that ends. A look counts as a use: it sets the
//! thing's time, which collection goes by.

use super::{Digest, IoContext as _, Store, StoreError};
use crate::sys::fault;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

/// Things held, by their absolute paths.
pub(super) type Holds = BTreeMap<PathBuf, File>;

/// What became of something that was to be collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It has no name any more; what it was lies at this path of the session, to be removed.
    Away(PathBuf),
    /// A process uses it.
    Held,
    /// It has been used since it was chosen.
    Used,
    /// Somebody else was faster.
    Gone,
}

impl Store {
    /// Holds what is at `path`, if anything is.
    pub(super) fn hold(&self, path: &Path) -> Result<bool, StoreError> {
        self.hold_or_wait(path, &|| {})
    }

    /// The same; `waiting` is called before waiting for somebody who has it alone.
    pub(super) fn hold_or_wait(&self, path: &Path, waiting: &dyn Fn()) -> Result<bool, StoreError> {
        if self.holds().contains_key(path) {
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
                self.holds().insert(path.to_owned(), file);
                return Ok(true);
            }
        }
    }

    /// Holds a thing of ours that is about to get the name `path`, so that there is no moment at
    /// which it has the name and nobody holds it.
    pub(super) fn hold_as(&self, file: File, path: &Path) -> Result<(), StoreError> {
        file.lock_shared().context("lock", path)?;
        self.holds().insert(path.to_owned(), file);
        Ok(())
    }

    /// Forgets a hold on a name that turned out to be another's.
    pub(super) fn release(&self, path: &Path) {
        self.holds().remove(path);
    }

    fn holds(&self) -> std::sync::MutexGuard<'_, Holds> {
        self.inner.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a blob; says whether it is here. Reads nothing of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn hold_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.hold(&self.blob_path(digest))
    }

    /// Takes what is at `relative` away by renaming it into the session, unless somebody uses it or
    /// has used it after `last_used` (`None`: whenever that was).
    ///
    /// `is_current` is asked while nobody can begin to use it; `false` leaves it where it is, as
    /// [`Taken::Used`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the kernel refuses.
    pub fn take_away(
        &self,
        relative: &Path,
        last_used: Option<SystemTime>,
        is_current: impl FnOnce() -> bool,
    ) -> Result<Taken, StoreError> {
        let path = self.root().join(relative);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Taken::Gone),
            Err(e) => return Err(e).context("open", &path),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Taken::Held),
            Err(TryLockError::Error(e)) => return Err(e).context("lock", &path),
        }
        if !is_at(&file, &path)? {
            return Ok(Taken::Gone);
        }
        let modified = file.metadata().and_then(|facts| facts.modified()).context("read", &path)?;
        if last_used.is_some_and(|time| modified > time) || !is_current() {
            return Ok(Taken::Used);
        }
        let away = self.session()?.new_path()?;
        fs::rename(&path, &away).context("remove", &path)?;
        fault::at("collect.renamed").context("remove", &path)?;
        Ok(Taken::Away(away))
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
    fn what_somebody_holds_is_not_taken_away() {
        let (_dir, store) = store();
        let (blob, time) = blob_of(&store, b"hello");
        let other = Store::open(store.root()).unwrap();
        assert_eq!(other.take_away(&blob, Some(time), || true).unwrap(), Taken::Held, "its maker");
        let root = store.root().to_owned();
        drop(store);
        let user = Store::open(&root).unwrap();
        assert!(user.hold_blob(&Digest::of(b"hello")).unwrap());
        assert_eq!(other.take_away(&blob, Some(time), || true).unwrap(), Taken::Held, "its user");
        drop(user);
        assert_eq!(
            other.take_away(&blob, Some(time), || true).unwrap(),
            Taken::Used,
            "a moment ago"
        );
        let time = fs::metadata(root.join(&blob)).unwrap().modified().unwrap();
        assert_eq!(other.take_away(&blob, Some(time), || false).unwrap(), Taken::Used);
        let Taken::Away(away) = other.take_away(&blob, Some(time), || true).unwrap() else {
            panic!("nobody uses it");
        };
        assert_eq!(fs::read(away).unwrap(), b"hello");
        assert!(!other.hold_blob(&Digest::of(b"hello")).unwrap());
        assert_eq!(other.take_away(&blob, Some(time), || true).unwrap(), Taken::Gone);
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
            let taken = collector.take_away(&blob, Some(now), || {
                let other = Store::open(&root).unwrap();
                let looking = scope.spawn(move || other.hold_blob(&Digest::of(b"hello")));
                // Whether it waits for the lock already or comes later: it must find nothing.
                std::thread::yield_now();
                looker = Some(looking);
                true
            });
            assert!(matches!(taken.unwrap(), Taken::Away(_)));
            assert!(!looker.unwrap().join().unwrap().unwrap());
        });
    }
}
