//! Locks on steps: two builds that need the same step run it once.

use super::{IoContext as _, Store, StoreError, StorePart};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A held lock on a step. Its file goes away with it.
#[derive(Debug)]
pub struct StepLock {
    path: PathBuf,
    _file: File,
}

impl Drop for StepLock {
    fn drop(&mut self) {
        // Still locked: a process that opened it in between sees that it has no name any more.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// Takes the lock on a step if it is free. `holder` is what waiting processes report.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the lock file cannot be made.
    pub fn try_lock_step(&self, step: &str, holder: &str) -> Result<Option<StepLock>, StoreError> {
        let path = self.step_path(step);
        loop {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e).context("lock", &path),
            }
            if let Some(lock) = claim(&path, file, holder)? {
                return Ok(Some(lock));
            }
        }
    }

    /// Waits for the lock on a step.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the lock file cannot be made, [`StoreError::Cancelled`].
    pub fn lock_step(&self, step: &str, holder: &str) -> Result<StepLock, StoreError> {
        let path = self.step_path(step);
        loop {
            let file = open(&path)?;
            self.wait_for(&path, None, || file.try_lock(), || {})?;
            if let Some(lock) = claim(&path, file, holder)? {
                return Ok(lock);
            }
        }
    }

    /// Returns what the holder of a step's lock says of itself, where it is held.
    pub fn step_holder(&self, step: &str) -> Option<String> {
        fs::read_to_string(self.step_path(step)).ok().filter(|text| !text.is_empty())
    }

    fn step_path(&self, step: &str) -> PathBuf {
        self.place(StorePart::Locks).join(format!("step-{step}"))
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).write(true).truncate(false);
    options.open(path).context("open", path)
}

/// Makes a locked file ours, unless its last holder removed its name before we had it.
fn claim(path: &Path, mut file: File, holder: &str) -> Result<Option<StepLock>, StoreError> {
    let ours = file.metadata().context("read", path)?;
    if ours.nlink() == 0 {
        return Ok(None);
    }
    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).context("write", path)?;
    Ok(Some(StepLock { path: path.to_owned(), _file: file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_locked_once_and_its_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let lock = store.try_lock_step("a", "build 1").unwrap().unwrap();
        assert!(store.try_lock_step("a", "build 2").unwrap().is_none());
        assert_eq!(store.step_holder("a").as_deref(), Some("build 1"));
        assert!(store.try_lock_step("b", "build 2").unwrap().is_some());
        drop(lock);
        assert!(!store.step_path("a").exists());
        drop(store.lock_step("a", "build 2").unwrap());
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let lock = store.try_lock_step("a", "one").unwrap().unwrap();
        let waiter = {
            let store = store.clone();
            std::thread::spawn(move || store.lock_step("a", "two").map(drop))
        };
        drop(lock);
        waiter.join().unwrap().unwrap();
        assert!(store.try_lock_step("a", "three").unwrap().is_some());
    }
}
