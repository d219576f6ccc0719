//! Writing single files: content, owner, mode, capability, time.

use super::dest::{times, umask};
use super::engine::{Level, Tree, is_dir, join};
use super::{CopyError, CopyRequest, CopyStats, FileTime, Owner, Picked, SelectedEntry, absolute};
use crate::layer::owner;
use crate::sys::cancel::Cancel;
use crate::sys::copier::{Copier, DataError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

/// What a thread that copies has to itself.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) copier: Copier,
    pub(super) stats: CopyStats,
}

impl Worker {
    pub(super) fn new() -> Self {
        Self { copier: Copier::new(), stats: CopyStats::default() }
    }
}

/// What all threads of one copy share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) request: &'a CopyRequest<'a>,
    pub(super) cancel: &'a Cancel,
    pub(super) euid: u32,
    pub(super) egid: u32,
}

impl Writer<'_> {
    /// Says whose a copied entry becomes.
    pub(super) fn owner_of(&self, entry: &SelectedEntry, tree: &Tree<'_>) -> Owner {
        match self.request.owner {
            Some(owner) => owner,
            None if tree.keeps_owner => Owner { uid: entry.uid, gid: entry.gid },
            None => Owner::ROOT,
        }
    }

    /// Says what mode a copied entry gets.
    pub(super) fn mode_of(&self, mode: u32, is_dir: bool) -> u32 {
        self.request.mode.map_or(mode, |spec| spec.apply(mode, is_dir))
    }

    /// Copies one regular file.
    #[expect(clippy::too_many_arguments, reason = "a place in the source and one in the target")]
    pub(super) fn file(
        &self,
        worker: &mut Worker,
        level: &Level,
        tree: &Tree<'_>,
        picked: &Picked,
        entry: &SelectedEntry,
        source_name: &[u8],
        name: &[u8],
    ) -> Result<(), CopyError> {
        let source_path = || absolute(&join(&picked.path, &entry.path));
        let path = || join(&level.path, name);
        let source = if entry.size == 0 {
            None
        } else {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&level.source, source_name, flags, Mode::empty()).map_err(
                |e| CopyError::Io { doing: "read", path: source_path(), source: e.into() },
            )?;
            Some(File::from(fd))
        };
        let mode = self.mode_of(entry.mode, false);
        let mut file = match open_new(level.target.as_fd(), name, mode) {
            Ok(file) => file,
            Err(Errno::EXIST) => create(level.target.as_fd(), name, mode, &path())?,
            Err(e) => return Err(CopyError::io("create", &path(), e)),
        };
        let mut mtime = entry.mtime();
        if let Some(mut source) = source {
            let stat = rustix::fs::fstat(&source).map_err(|e| CopyError::Io {
                doing: "look at",
                path: source_path(),
                source: e.into(),
            })?;
            let allocated = stat.st_blocks as u64 * 512;
            let size = stat.st_size as u64;
            let copied = worker.copier.copy(&mut source, &mut file, size, allocated, self.cancel);
            let copied = copied.map_err(|e| match e {
                DataError::Read(source) => {
                    CopyError::Io { doing: "read", path: source_path(), source }
                }
                DataError::Write(source) => CopyError::io("write", &path(), source),
                DataError::Cancelled => CopyError::Cancelled,
            })?;
            worker.stats.bytes += copied;
            let is_as_chosen = copied == entry.size
                && stat.st_mtime == mtime.seconds
                && stat.st_mtime_nsec == u64::from(mtime.nanoseconds)
                // In a mount these mean nothing, and no other process writes there.
                && (tree.keeps_owner
                    || stat.st_ino == entry.stamp.ino
                        && stat.st_ctime == entry.stamp.ctime.seconds
                        && stat.st_ctime_nsec == u64::from(entry.stamp.ctime.nanoseconds));
            if !is_as_chosen {
                mtime = FileTime { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
                worker.stats.changed.push(source_path());
            }
        }
        worker.stats.files += 1;
        let owner = self.owner_of(entry, tree);
        let capability = entry.capability.as_deref().filter(|_| tree.keeps_owner);
        self.finish_file(&file, owner, mode, level.group, capability, Some(mtime), &path())
    }

    /// Gives a new file its owner, mode, capability and time, in the one order in which none of
    /// them undoes another; asks the kernel only for what is not so already.
    #[expect(clippy::too_many_arguments, reason = "each is one attribute of the file")]
    pub(super) fn finish_file(
        &self,
        file: &File,
        wanted: Owner,
        mode: u32,
        group: Option<u32>,
        capability: Option<&[u8]>,
        mtime: Option<FileTime>,
        path: &[u8],
    ) -> Result<(), CopyError> {
        let failed = |doing| move |e: Errno| CopyError::io(doing, path, e);
        if wanted.uid != self.euid || wanted.gid != group.unwrap_or(self.egid) {
            owner::set_open(file, wanted.uid, wanted.gid).map_err(failed("set the owner of"))?;
        }
        let is_made_so = owner::mode_to_make(FileType::RegularFile, mode) == mode;
        if mode & (umask() | 0o7000) != 0 || !is_made_so {
            owner::set_mode_open(file, mode).map_err(failed("set the mode of"))?;
        }
        if let Some(value) = capability {
            owner::set_capability(file, value).map_err(failed("set the capabilities of"))?;
        }
        if let Some(mtime) = mtime {
            rustix::fs::futimens(file, &times(mtime)).map_err(failed("set the time of"))?;
        }
        Ok(())
    }
}

/// Returns the group that the kernel gives to new files in a directory, if not the process's own.
pub(super) fn group_in(dir: BorrowedFd<'_>, path: &[u8]) -> Result<Option<u32>, CopyError> {
    let mut stat = rustix::fs::fstat(dir).map_err(|e| CopyError::io("look at", path, e))?;
    if owner::is_without_rights() {
        // Whatever group the kernel gives, nothing is written down until it is asked for.
        stat.st_gid = 0;
    }
    Ok((stat.st_mode & 0o2000 != 0).then_some(stat.st_gid))
}

/// Creates a file that is not there yet.
fn open_new(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = owner::mode_to_make(FileType::RegularFile, mode & 0o777);
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode)).map(File::from)
}

/// Creates a file in the place of whatever is there, unless that is a directory.
pub(super) fn create(
    dir: BorrowedFd<'_>,
    name: &[u8],
    mode: u32,
    path: &[u8],
) -> Result<File, CopyError> {
    make_room(dir, name, path)?;
    open_new(dir, name, mode).map_err(|e| CopyError::io("create", path, e))
}

/// Removes what is in the way of a file.
pub(super) fn make_room(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), CopyError> {
    let failed = |doing| move |e: Errno| CopyError::io(doing, path, e);
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_dir(&stat) => Err(CopyError::FileOverDirectory { path: absolute(path) }),
        Ok(_) => rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(failed("replace")),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(failed("look at")(e)),
    }
}
