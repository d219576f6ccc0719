//! Whether a part of a tree has changed.

use super::{Index, Seen, SnapshotError, index};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What was seen of a file, or of a directory and all that is in it. Two are equal if nothing of it
/// has changed in between, times of access aside.
#[derive(Debug, PartialEq, Eq)]
pub struct TreeState(Index);

impl TreeState {
    /// Looks at what is open, without some paths in it and what is below them.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn of(place: BorrowedFd<'_>, without: &[Vec<u8>]) -> io::Result<Self> {
        let stat = fstat(place)?;
        let mut seen = Index::new();
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = openat(place, ".", flags, Mode::empty())?;
            seen = index(std::os::fd::AsFd::as_fd(&dir))
                .map_err(|error: SnapshotError| io::Error::other(crate::text::chain(&error)))?;
            seen.retain(|path, _| !without.iter().any(|other| is_in(path, other)));
        }
        seen.insert(Vec::new(), Seen::of(&stat));
        Ok(Self(seen))
    }

    /// Waits until a change would leave another time than those that were seen, by making a file.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn wait_until_past(&self, mark: &Path) -> io::Result<()> {
        super::wait_until_past(mark, super::newest(&self.0)).map(drop)
    }
}

/// Says whether a path is another, or below it.
fn is_in(path: &[u8], other: &[u8]) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
