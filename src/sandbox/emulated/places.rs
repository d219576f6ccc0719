//! Directories and files in the tree that stand for mounts: which of them can only be read.
//!
//! A change of something is refused by the nearest place around it, as the kernel does by the mount that
//! it is in. Places are known by what they are called now: a directory above one may be renamed, and
//! only the keeper renames.

use rustix::fs::{AtFlags, OFlags, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, OwnedFd};

use super::super::fault::{Doing as _, Fault};
use super::super::protocol;
use super::World;
use super::paths::{HELD, link};
use crate::sys::rooted::open_beneath;

/// The places of a step; none where all of them can be written.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

#[derive(Debug)]
struct Place {
    held: OwnedFd,
    /// Device and inode.
    id: (u64, u64),
    /// What it is called, in the container.
    path: Vec<u8>,
    is_read_only: bool,
}

impl Places {
    /// Holds what is at the places, before the command can change it.
    pub(super) fn open(root: &OwnedFd, places: &[protocol::Place]) -> Result<Self, Fault> {
        let open = |place: &protocol::Place| -> std::io::Result<Place> {
            let held = open_beneath(root.as_fd(), &place.path.0, HELD | OFlags::NOFOLLOW)?;
            let stat = rustix::fs::fstat(&held)?;
            let path = path_of(&held)?;
            let is_read_only = place.is_read_only;
            Ok(Place { held, id: (stat.st_dev, stat.st_ino), path, is_read_only })
        };
        let all: std::io::Result<_> = places.iter().map(open).collect();
        all.map(Self).doing(|| "holding what was put into the tree")
    }

    /// Looks what the places are called, after a directory was renamed.
    pub(super) fn renamed(&mut self) {
        for place in &mut self.0 {
            if let Ok(path) = path_of(&place.held) {
                place.path = path;
            }
        }
    }

    /// Returns the nearest place around something.
    fn around(&self, path: &[u8]) -> Option<&Place> {
        let is_in = |place: &&Place| {
            let rest = path.strip_prefix(place.path.as_slice());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.0.iter().filter(is_in).max_by_key(|place| place.path.len())
    }
}

fn path_of(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlink(link(file), Vec::new())?.into_bytes())
}

impl World {
    /// Returns the inode of the read-only place that something is in; `None` of what can be written.
    fn read_only_around(&self, file: &OwnedFd) -> Result<Option<(u64, u64)>, Errno> {
        if self.places.0.is_empty() {
            return Ok(None);
        }
        let place = self.places.around(&path_of(file)?);
        Ok(place.filter(|place| place.is_read_only).map(|place| place.id))
    }

    /// Says whether something can only be read.
    pub(super) fn is_read_only(&self, file: &OwnedFd) -> Result<bool, Errno> {
        Ok(self.read_only_around(file)?.is_some())
    }

    /// Refuses a change of something that can only be read.
    pub(super) fn check_writable(&self, file: &OwnedFd) -> Result<(), Errno> {
        if self.is_read_only(file)? { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// The same for a name that something new is to get, which may be there already: that is what the
    /// kernel says first.
    pub(super) fn check_new(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let refused = self.check_writable(parent);
        if refused.is_err() && rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Errno::EXIST);
        }
        refused
    }

    /// Refuses that a name is removed from a directory, or given to something else: in what can only be
    /// read, and that of such a place itself.
    pub(super) fn check_name(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        self.check_writable(parent)?;
        let is_place = |stat: Stat| {
            let id = (stat.st_dev, stat.st_ino);
            self.places.0.iter().any(|place| place.is_read_only && place.id == id)
        };
        let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        if !self.places.0.is_empty() && there.is_ok_and(is_place) {
            return Err(Errno::BUSY);
        }
        Ok(())
    }

    /// Refuses that something gets a name in another mount, where one of them can only be read.
    pub(super) fn check_same_place(&self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        match self.read_only_around(from)? == self.read_only_around(to)? {
            true => Ok(()),
            false => Err(Errno::XDEV),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;

    #[test]
    fn the_nearest_place_decides_by_what_it_is_called_now() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/ro/rw")).unwrap();
        std::fs::write(dir.path().join("a/rose"), "").unwrap();
        let open = |path: &str| {
            rustix::fs::open(dir.path().join(path), HELD | OFlags::NOFOLLOW, Mode::empty()).unwrap()
        };
        let place = |path: &str, is_read_only| protocol::Place { path: path.into(), is_read_only };
        let wanted = [place("a/ro", true), place("a/ro/rw", false)];
        let mut places = Places::open(&open("."), &wanted).unwrap();
        let decides = |places: &Places, path: &str| {
            let path = path_of(&open(path)).unwrap();
            places.around(&path).map(|place| place.is_read_only)
        };
        assert_eq!(decides(&places, "a/ro"), Some(true));
        assert_eq!(decides(&places, "a/ro/rw"), Some(false));
        assert_eq!(decides(&places, "a/rose"), None);
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(decides(&places, "b/ro"), None);
        places.renamed();
        assert_eq!(decides(&places, "b/ro"), Some(true));
        assert_eq!(decides(&places, "b/ro/rw"), Some(false));
    }
}
