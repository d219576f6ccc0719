//! The directories of RUN's cache mounts.
//!
//! ```text
//! mounts/<name>/fs/     what the steps see
//! mounts/<name>/id      what they call it
//! mounts/<name>/start   what it was made of; absent where that is nothing
//! ```
//!
//! The name is a hash of id and start: a mount that starts from other files is another one.
//!
//! A build holds a mount shared until it ends. A process that wants all of it as it is at one
//! moment, or wants to put another in its place, [seizes](Store::seize_mount) it, which waits for
//! those builds and lets others wait.

use super::{IoContext as _, Store, StoreError, StorePart, leases, session};
use crate::sys::cancel::Cancel;
use crate::sys::fault;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a mount is tried that a build uses: an interruption ends the wait, which it would not
/// end in the kernel.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The name of a cache mount's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountName(String);

impl MountName {
    /// The mount that steps call `id` and that was made of `start`. Private ones that are used at
    /// the same time have further copies.
    pub fn new(id: &str, start: &str, copy: u32) -> Self {
        let text = if start.is_empty() { id.to_owned() } else { format!("{id}\0{start}") };
        let hash = blake3::hash(text.as_bytes()).to_hex();
        match copy {
            0 => Self(hash[..32].to_owned()),
            _ => Self(format!("{}-{copy}", &hash[..32])),
        }
    }

    /// Returns which copy the directory `name` is, if it is one of the mount.
    fn copy_of(id: &str, start: &str, name: &str) -> Option<u32> {
        let copy = match name.split_once('-') {
            Some((_, number)) => number.parse().ok()?,
            None => 0,
        };
        (Self::new(id, start, copy).0 == name).then_some(copy)
    }

    /// Where the directory is, relative to the store.
    pub fn path(&self) -> PathBuf {
        StorePart::Mounts.entry(&self.0)
    }
}

impl fmt::Display for MountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cache mount that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KnownMount {
    /// What steps call it.
    pub id: String,
    /// What it was made of; empty for nothing.
    pub start: String,
    /// Which of several copies it is, from 0.
    pub copy: u32,
}

impl KnownMount {
    /// Returns the name of its directory.
    pub fn name(&self) -> MountName {
        MountName::new(&self.id, &self.start, self.copy)
    }
}

/// A mount that no other process uses for as long as this lives.
#[derive(Debug)]
pub struct SeizedMount {
    path: PathBuf,
    _lock: File,
}

impl SeizedMount {
    /// Removes the mount. The next build that uses it makes a new one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn remove(self, store: &Store) -> Result<(), StoreError> {
        let away = store.session()?.new_work()?.join("mount");
        fs::rename(&self.path, &away).context("remove", &self.path)?;
        super::remove_tree(&away).context("remove", &away)
    }

    /// Returns the directory that steps see.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }
}

/// Result for a mount that was to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It is there.
    New,
    /// It is there, and the one that was there is gone.
    Replaced,
    /// One is there already, and stays.
    Kept,
}

impl Store {
    /// Lists the cache mounts by their ids. Directories that are none are left out.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where they cannot be listed.
    pub fn mounts(&self) -> Result<Vec<KnownMount>, StoreError> {
        let directory = self.place(StorePart::Mounts);
        let mut mounts = Vec::new();
        for entry in fs::read_dir(&directory).context("list", &directory)? {
            let entry = entry.context("list", &directory)?;
            let Ok(id) = fs::read_to_string(entry.path().join("id")) else { continue };
            let start = fs::read_to_string(entry.path().join("start")).unwrap_or_default();
            let name = entry.file_name();
            let name = name.to_str();
            if let Some(copy) = name.and_then(|name| MountName::copy_of(&id, &start, name)) {
                mounts.push(KnownMount { id, start, copy });
            }
        }
        mounts.sort();
        Ok(mounts)
    }

    /// Holds the directory of a cache mount; says whether it is here. `waiting` is called if
    /// another process has seized it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn hold_mount(&self, name: &MountName, waiting: impl Fn()) -> Result<bool, StoreError> {
        self.lease_or_wait(&self.root().join(name.path()), &waiting)
    }

    /// Takes a mount for this process alone; `None` where there is none. `waiting` is called once,
    /// before waiting, where a build uses it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence, [`StoreError::Cancelled`].
    pub fn seize_mount(
        &self,
        name: &MountName,
        cancel: &Cancel,
        waiting: impl Fn(),
    ) -> Result<Option<SeizedMount>, StoreError> {
        let path = self.root().join(name.path());
        loop {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e).context("open", &path),
            };
            let mut is_waiting = false;
            loop {
                match file.try_lock() {
                    Ok(()) => break,
                    Err(fs::TryLockError::WouldBlock) if cancel.is_cancelled() => {
                        return Err(StoreError::Cancelled);
                    }
                    Err(fs::TryLockError::WouldBlock) => {
                        if !std::mem::replace(&mut is_waiting, true) {
                            waiting();
                        }
                        std::thread::sleep(LOOK_AGAIN);
                    }
                    Err(fs::TryLockError::Error(e)) => return Err(e).context("lock", &path),
                }
            }
            if leases::is_at(&file, &path)? {
                return Ok(Some(SeizedMount { path, _lock: file }));
            }
        }
    }

    /// Gives the directory `made`, of this session, to a mount, durably. `replaces` says the
    /// results of a mount that is there already; `waiting` is as of
    /// [`seize_mount`](Self::seize_mount).
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; what was there stays then.
    pub fn place_mount(
        &self,
        made: &Path,
        name: &MountName,
        replaces: bool,
        cancel: &Cancel,
        waiting: impl Fn(),
    ) -> Result<Placed, StoreError> {
        let path = self.root().join(name.path());
        session::syncfs(self.root())?;
        fault::at("mount.made").context("create", &path)?;
        loop {
            let (flags, placed, _seized) = match self.seize_mount(name, cancel, &waiting)? {
                Some(_) if !replaces => return Ok(Placed::Kept),
                Some(seized) => (RenameFlags::EXCHANGE, Placed::Replaced, Some(seized)),
                None => (RenameFlags::NOREPLACE, Placed::New, None),
            };
            match renameat_with(CWD, made, CWD, &path, flags) {
                Ok(()) => return Ok(placed),
                // A build made one just now, or it was pruned.
                Err(Errno::EXIST | Errno::NOENT) => {}
                Err(e) => return Err(e).context("create", &path),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        (dir, store)
    }

    fn made(store: &Store, id: &str, content: &str) -> PathBuf {
        let work = store.session().unwrap().new_work().unwrap();
        fs::create_dir(work.join("fs")).unwrap();
        fs::write(work.join("fs/f"), content).unwrap();
        fs::write(work.join("id"), id).unwrap();
        work
    }

    fn place(store: &Store, content: &str, replaces: bool) -> Placed {
        let work = made(store, "/c", content);
        store
            .place_mount(&work, &MountName::new("/c", "", 0), replaces, &Cancel::new(), || {})
            .unwrap()
    }

    #[test]
    fn a_mount_is_replaced_only_where_that_is_wanted() {
        let (_dir, store) = store();
        let read = || {
            fs::read_to_string(store.root().join(MountName::new("/c", "", 0).path()).join("fs/f"))
        };
        assert_eq!(place(&store, "one", false), Placed::New);
        assert_eq!(place(&store, "two", false), Placed::Kept);
        assert_eq!(read().unwrap(), "one");
        assert_eq!(place(&store, "three", true), Placed::Replaced);
        assert_eq!(read().unwrap(), "three");
        assert_eq!(
            store.mounts().unwrap(),
            [KnownMount { id: "/c".to_owned(), start: String::new(), copy: 0 }]
        );
    }

    #[test]
    fn copies_are_distinguished_and_foreign_directories_left_out() {
        let (_dir, store) = store();
        for copy in [0, 2] {
            let work = made(&store, "/c", "x");
            store
                .place_mount(&work, &MountName::new("/c", "", copy), false, &Cancel::new(), || {})
                .unwrap();
        }
        let work = made(&store, "/other", "x");
        store
            .place_mount(
                &work,
                &MountName::new("/not-its-name", "", 0),
                false,
                &Cancel::new(),
                || {},
            )
            .unwrap();
        let found: Vec<_> =
            store.mounts().unwrap().iter().map(|m| (m.id.clone(), m.copy)).collect();
        assert_eq!(found, [("/c".to_owned(), 0), ("/c".to_owned(), 2)]);
    }

    #[test]
    fn who_seizes_a_mount_waits_for_a_build_and_the_next_build_for_him() {
        let (_dir, store) = store();
        let name = MountName::new("/c", "", 0);
        place(&store, "one", false);
        let (waits, is_waiting) = std::sync::mpsc::channel();
        let build = Store::open(store.root()).unwrap();
        assert!(build.hold_mount(&name, || unreachable!("it is free")).unwrap());
        std::thread::scope(|scope| {
            let seizing = scope
                .spawn(|| store.seize_mount(&name, &Cancel::new(), || waits.send(()).unwrap()));
            is_waiting.recv().unwrap();
            // Interrupted, another one goes away with nothing.
            let cancel = Cancel::new();
            let interrupted = store.seize_mount(&name, &cancel, || cancel.cancel());
            assert!(matches!(interrupted, Err(StoreError::Cancelled)));
            drop(build);
            let seized = seizing.join().unwrap().unwrap().unwrap();
            let next = Store::open(store.root()).unwrap();
            let (name, waits) = (&name, waits.clone());
            let holding = scope.spawn(move || next.hold_mount(name, || waits.send(()).unwrap()));
            is_waiting.recv().unwrap();
            drop(seized);
            assert!(holding.join().unwrap().unwrap());
        });
    }
}
