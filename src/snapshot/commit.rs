//! What a step left in its upper directory becomes a layer.
//!
//! Overlay's upper says more than a layer should: directories that were only passed through, files
//! that were opened for writing or changed back, whiteouts of what never was below, marks that hide
//! a directory's lower contents in one stroke. [`clean`] takes all that out, so that a layer holds
//! what BuildKit's would hold:
//!
//! - A directory is in the layer if something in it is, or if its mode or owner differ from those
//!   below.
//! - A file that is equal to the one below is not: same type, mode, owner, device, capability, size
//!   and time; where both times are whole seconds, as a tar leaves them, the content is compared.
//! - A whiteout of a path that is not below is not.
//! - An opaque directory becomes a plain one with a whiteout for each name below that it lacks.
//!
//! Source: BuildKit util/overlay/overlay_linux.go and containerd continuity fs/diff.go (behaviour).

use super::{SnapshotError, XattrSpace};
use crate::layer::owner;
use crate::layer::whiteout::{
    DirectoryMark, Whiteout, announce_whiteout_files, directory_mark, is_whiteout, make_whiteout,
};
use crate::layer::{Found, LayerError, Scan, ScanOptions, Stack, StackDir, scan};
use crate::sys::cancel::{Cancel, Stoppable};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, fremovexattr, fstat,
    futimens, open, openat, statat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many levels keep their descriptor; those further up are found again through `..`.
const OPEN_LEVELS: usize = 64;

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What [`clean`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Whether nothing is left: the step changed no file.
    pub is_empty: bool,
    /// How many files and directories were taken out because they equal what is below.
    pub unchanged: u64,
}

/// Makes the upper directory `fs` of a finished step a layer over `lowers`, which are given the
/// bottom first. Nothing may have it mounted any more; after this, it can be a lower.
///
/// Work is in proportion to what the step changed: directories that are not below are not entered,
/// and a step that changed nothing costs one listing.
///
/// # Errors
///
/// [`SnapshotError`] with the path; the directory is to be given up then.
pub fn clean(
    fs: &Path,
    lowers: &[PathBuf],
    xattrs: XattrSpace,
    cancel: &Cancel,
) -> Result<Cleaned, SnapshotError> {
    let root = open(fs, DIR_FLAGS, Mode::empty()).map_err(|e| SnapshotError::Io {
        doing: "open",
        path: fs.to_owned(),
        source: e.into(),
    })?;
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    let entries = list(&root, &mut buffer).map_err(|e| LayerError::io("list", b"", e))?;
    if entries.is_empty() {
        return Ok(Cleaned { is_empty: true, unchanged: 0 });
    }
    let stack = Stack::open(lowers, xattrs)?;
    let mut cleaner = Cleaner {
        stack: &stack,
        xattrs,
        cancel,
        buffer,
        path: Vec::new(),
        has_whiteout_files: false,
        cleaned: Cleaned::default(),
    };
    let top = root.try_clone().map_err(|source| SnapshotError::Io {
        doing: "open",
        path: fs.to_owned(),
        source,
    })?;
    let has_entries = cleaner.run(root, entries)?;
    if cleaner.has_whiteout_files {
        announce_whiteout_files(top.as_fd(), xattrs).map_err(|e| LayerError::io("mark", b"", e))?;
    }
    cleaner.cleaned.is_empty = !has_entries;
    Ok(cleaner.cleaned)
}

/// Cleans an upper directory as [`clean`] does and returns the facts of the layer it has become.
///
/// # Errors
///
/// As [`clean`].
pub fn commit(
    fs: &Path,
    lowers: &[PathBuf],
    options: &ScanOptions,
    cancel: &Cancel,
) -> Result<Scan, SnapshotError> {
    clean(fs, lowers, options.xattrs, cancel)?;
    let root = open(fs, DIR_FLAGS, Mode::empty()).map_err(|e| LayerError::io("open", b"", e))?;
    Ok(scan(root.as_fd(), options, cancel)?)
}

struct Cleaner<'a> {
    stack: &'a Stack,
    xattrs: XattrSpace,
    cancel: &'a Cancel,
    buffer: Vec<MaybeUninit<u8>>,
    /// Of the directory being worked on.
    path: Vec<u8>,
    /// Whether it made whiteouts that are files.
    has_whiteout_files: bool,
    cleaned: Cleaned,
}

/// A directory of the upper that is also below.
struct Level {
    /// Closed while the work is far below.
    fd: Option<OwnedFd>,
    stat: Stat,
    name: CString,
    below: StackDir,
    /// Attributes of the directory below.
    is_same: bool,
    entries: Vec<(CString, FileType)>,
    /// Whether something in it stays.
    has_entries: bool,
    /// Whether something was taken out or put in, which has changed its time.
    is_touched: bool,
    path: usize,
}

impl Cleaner<'_> {
    /// Says whether anything stays.
    fn run(
        &mut self,
        root: OwnedFd,
        entries: Vec<(CString, FileType)>,
    ) -> Result<bool, SnapshotError> {
        let stat = fstat(&root).map_err(|e| LayerError::io("read", b"", e))?;
        let mut levels = vec![Level {
            fd: Some(root),
            stat,
            name: CString::default(),
            below: self.stack.root(),
            is_same: false,
            entries,
            has_entries: false,
            is_touched: false,
            path: 0,
        }];
        loop {
            if self.cancel.is_cancelled() {
                return Err(SnapshotError::Cancelled);
            }
            let depth = levels.len();
            let level = &mut levels[depth - 1];
            if let Some((name, kind)) = level.entries.pop() {
                self.path.truncate(level.path);
                let next = self.entry(level, &name, kind)?;
                if let Some(next) = next {
                    levels.push(next);
                    if let Some(far) = levels.len().checked_sub(1 + OPEN_LEVELS) {
                        levels[far].fd = None;
                    }
                }
                continue;
            }
            let done = levels.pop().expect("there is a level");
            let fd = done.fd.as_ref().expect("the level being worked on is open");
            if done.is_touched {
                let times = Timestamps {
                    last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
                    last_modification: time(&done.stat),
                };
                futimens(fd, &times).map_err(|e| self.fail("set the time of", e))?;
            }
            let Some(above) = levels.last_mut() else { return Ok(done.has_entries) };
            if above.fd.is_none() {
                let fail = |e| self.fail("go back from", e);
                let up = openat(fd, "..", DIR_FLAGS, Mode::empty()).map_err(fail)?;
                let stat = fstat(&up).map_err(fail)?;
                if (stat.st_dev, stat.st_ino) != (above.stat.st_dev, above.stat.st_ino) {
                    return Err(fail(Errno::STALE));
                }
                above.fd = Some(up);
            }
            if done.has_entries || !done.is_same {
                above.has_entries = true;
            } else {
                let fd = above.fd.as_ref().expect("it was just opened");
                // A socket in it is not an entry of a layer, but is there.
                match unlinkat(fd, &done.name, AtFlags::REMOVEDIR) {
                    Ok(()) => {
                        above.is_touched = true;
                        self.cleaned.unchanged += 1;
                    }
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(e) => return Err(self.fail("take out", e)),
                }
            }
        }
    }

    /// Cleans an entry; returns a directory that must be entered.
    fn entry(
        &mut self,
        level: &mut Level,
        name: &CStr,
        kind: FileType,
    ) -> Result<Option<Level>, SnapshotError> {
        let fd = level.fd.as_ref().expect("the level being worked on is open");
        let start = self.path.len();
        if start > 0 {
            self.path.push(b'/');
        }
        self.path.extend(name.to_bytes());
        if kind == FileType::Socket {
            return Ok(None);
        }
        if kind == FileType::Directory {
            return self.directory(level, name);
        }
        let mut stat =
            statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| self.fail("read", e))?;
        owner::amend(fd.as_fd(), name.to_bytes(), &mut stat);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return self.directory(level, name);
        }
        let found = self.stack.lookup(&level.below, name.to_bytes())?;
        let is_needless = match &found {
            None => is_whiteout(&stat),
            Some(found) => self.is_same(fd.as_fd(), name, &stat, &level.below, found)?,
        };
        if is_needless {
            unlinkat(fd, name, AtFlags::empty()).map_err(|e| self.fail("take out", e))?;
            level.is_touched = true;
            self.cleaned.unchanged += u64::from(found.is_some());
        } else {
            level.has_entries = true;
        }
        Ok(None)
    }

    fn directory(
        &mut self,
        level: &mut Level,
        name: &CStr,
    ) -> Result<Option<Level>, SnapshotError> {
        let fail = |doing, e| LayerError::io(doing, &self.path, e);
        let above = level.fd.as_ref().expect("the level being worked on is open");
        let fd = openat(above, name, DIR_FLAGS, Mode::empty()).map_err(|e| fail("open", e))?;
        let mut stat = fstat(&fd).map_err(|e| fail("read", e))?;
        owner::amend_open(&fd, &mut stat);
        let mark =
            directory_mark(&fd, self.xattrs).map_err(|e| fail("read the opaque mark of", e))?;
        let is_opaque = mark == DirectoryMark::Opaque;
        if is_opaque {
            fremovexattr(&fd, self.xattrs.opaque()).map_err(|e| fail("unmark", e))?;
        }
        let Some(below) = self.stack.dir(&level.below, name.to_bytes())? else {
            // Nothing of it is below, so there is nothing to compare and nothing to hide.
            level.has_entries = true;
            return Ok(None);
        };
        let is_same = self
            .stack
            .lookup(&level.below, name.to_bytes())?
            .is_some_and(|found| same_attributes(&stat, &found.stat));
        let mut is_touched = false;
        if is_opaque {
            is_touched = self.expand(&fd, &below)?;
        }
        let entries = list(&fd, &mut self.buffer).map_err(|e| self.fail("list", e))?;
        Ok(Some(Level {
            fd: Some(fd),
            stat,
            name: name.to_owned(),
            below,
            is_same,
            entries,
            has_entries: false,
            is_touched,
            path: self.path.len(),
        }))
    }

    /// Puts into a directory, which was opaque until now, a whiteout for each name that it hid, and
    /// marks its directories, which hid theirs through it. Says whether it put anything.
    fn expand(&mut self, fd: &OwnedFd, below: &StackDir) -> Result<bool, SnapshotError> {
        let fail = |doing, e| LayerError::io(doing, &self.path, e);
        let mut is_touched = false;
        for name in self.stack.list(below)?.keys() {
            match statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let made = make_whiteout(fd.as_fd(), name, self.xattrs)
                        .map_err(|e| fail("white out a file of", e))?;
                    self.has_whiteout_files |= made == Whiteout::File;
                    is_touched = true;
                }
                Err(e) => return Err(fail("read", e).into()),
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    let dir = openat(fd, name.as_slice(), DIR_FLAGS, Mode::empty())
                        .map_err(|e| fail("open a directory of", e))?;
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::fsetxattr(&dir, self.xattrs.opaque(), b"y", flags)
                        .map_err(|e| fail("mark a directory of", e))?;
                }
                Ok(_) => {}
            }
        }
        Ok(is_touched)
    }

    /// Says whether a file of the upper is the one below.
    fn is_same(
        &self,
        fd: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        below: &StackDir,
        found: &Found,
    ) -> Result<bool, SnapshotError> {
        let old = &found.stat;
        if !same_attributes(stat, old)
            || stat.st_size != old.st_size
            || (stat.st_mtime, stat.st_mtime_nsec) != (old.st_mtime, old.st_mtime_nsec)
        {
            return Ok(false);
        }
        let is_exact = stat.st_mtime_nsec != 0;
        let fail = |e| LayerError::io("read", &self.path, e);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if !is_exact => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let other = self.stack.open_found(below, name.to_bytes(), found, flags)?;
                let new = rustix::fs::readlinkat(fd, name, Vec::new()).map_err(fail)?;
                let old = rustix::fs::readlinkat(&other, "", Vec::new()).map_err(fail)?;
                Ok(new == old)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let new = openat(fd, name, flags, Mode::empty()).map_err(fail)?;
                let old = self.stack.open_found(below, name.to_bytes(), found, flags)?;
                if capability(&new).map_err(fail)? != capability(&old).map_err(fail)? {
                    return Ok(false);
                }
                if is_exact {
                    return Ok(true);
                }
                match same_content(new.into(), old.into(), self.cancel) {
                    Err(_) if self.cancel.is_cancelled() => Err(LayerError::Cancelled.into()),
                    result => Ok(result.map_err(|e| LayerError::io("read", &self.path, e))?),
                }
            }
            _ => Ok(true),
        }
    }

    fn fail(&self, doing: &'static str, e: Errno) -> SnapshotError {
        LayerError::io(doing, &self.path, e).into()
    }
}

fn list(fd: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut entries = Vec::new();
    let mut dir = RawDir::new(fd, buffer);
    while let Some(entry) = dir.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            entries.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

fn same_attributes(a: &Stat, b: &Stat) -> bool {
    let of = |stat: &Stat| {
        let is_device = matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::CharacterDevice | FileType::BlockDevice
        );
        (stat.st_mode, stat.st_uid, stat.st_gid, if is_device { stat.st_rdev } else { 0 })
    };
    of(a) == of(b)
}

fn time(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 }
}

fn capability(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut value = [0u8; 64];
    owner::capability(fd, &mut value).map(|length| value[..length].to_vec())
}

pub(super) fn same_content(
    a: std::fs::File,
    b: std::fs::File,
    cancel: &Cancel,
) -> io::Result<bool> {
    use std::io::BufRead as _;
    let mut a = io::BufReader::with_capacity(128 * 1024, Stoppable::new(a, cancel));
    let mut b = io::BufReader::with_capacity(128 * 1024, b);
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
}

#[cfg(test)]
mod tests;
