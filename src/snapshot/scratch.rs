//! Where a step writes: the upper of its overlay.
//!
//! That is a directory of the store, which becomes the layer by rename. Where the store lies on an
//! overlay, as it does inside a container, the kernel takes no upper there: then the step writes
//! into memory, and what is left of it at its end is written into the store as a layer from
//! elsewhere would be.

use super::{SnapshotError, Upper, can_mount};
use crate::layer::{LayerError, TarOptions, UnpackOptions, XattrSpace, unpack_layer, write_tar};
use crate::sys::cancel::Cancel;
use rustix::fs::{CWD, Mode, OFlags, openat, statfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// How much of the machine's memory a step in memory may fill. The kernel's own default is half.
const MEMORY_SHARE: &str = "75%";

/// The two directories that an upper consists of.
#[derive(Debug)]
pub struct Scratch {
    /// Where the layer is to be.
    layer: PathBuf,
    fs: PathBuf,
    work: PathBuf,
    /// The file system in memory, where the two are in one.
    memory: Option<OwnedFd>,
}

impl Scratch {
    /// Makes the two directories in `dir`, an empty directory of the store, or in memory where an
    /// overlay could not use them there.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn new(dir: &Path) -> Result<Self, SnapshotError> {
        let layer = dir.join("fs");
        let memory = match statfs(dir).map_err(|e| fail("look at", dir, e.into()))?.f_type {
            OVERLAY_MAGIC if can_mount() => {
                Some(memory().map_err(|e| fail("make a file system for", dir, e))?)
            }
            _ => None,
        };
        let place = match &memory {
            Some(root) => PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())),
            None => dir.to_owned(),
        };
        let scratch = Self { layer, fs: place.join("fs"), work: place.join("work"), memory };
        for directory in [&scratch.fs, &scratch.work] {
            fs::create_dir(directory).map_err(|e| fail("create", directory, e))?;
        }
        open_to_all(&scratch.fs)?;
        Ok(scratch)
    }

    /// Returns the directories as an overlay takes them.
    pub fn upper(&self) -> Upper<'_> {
        Upper { fs: &self.fs, work: &self.work }
    }

    /// Makes the upper one for another overlay: what was written stays. The old overlay must be
    /// gone.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn renew(&self) -> Result<(), SnapshotError> {
        fs::remove_dir_all(&self.work).map_err(|e| fail("remove", &self.work, e))?;
        fs::create_dir(&self.work).map_err(|e| fail("create", &self.work, e))
    }

    /// Returns the directory that holds what was written, in overlay form.
    pub fn written(&self) -> &Path {
        &self.fs
    }

    /// Says whether the step wrote into memory.
    pub fn is_in_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Sees to it that what was written is in the directory `fs` of the store's directory, and
    /// returns that. Nothing may have the upper mounted any more.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`], for example on a full disk.
    pub fn into_layer(self, cancel: &Cancel) -> Result<PathBuf, SnapshotError> {
        if !self.is_in_memory() {
            return Ok(self.layer);
        }
        fs::create_dir(&self.layer).map_err(|e| fail("create", &self.layer, e))?;
        open_to_all(&self.layer)?;
        let (from, into) = (open(&self.fs)?, open(&self.layer)?);
        let (reader, writer) = io::pipe().map_err(|e| fail("make a pipe for", &self.layer, e))?;
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut writer = BufWriter::new(writer);
                write_tar(from.as_fd(), &mut writer, &TarOptions::detect(), cancel)?;
                writer.flush().map_err(|source| LayerError::Output { what: "tar", source })
            });
            let options = UnpackOptions { xattrs: XattrSpace::detect(), below: None };
            let read = unpack_layer(reader, into.as_fd(), &options, cancel);
            let written = writing.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
            // Where both failed, the reader went first.
            read.map(drop).and(written)
        });
        match written {
            Err(LayerError::Cancelled) => Err(SnapshotError::Cancelled),
            other => Ok(other.map(|()| self.layer)?),
        }
    }
}

/// Makes an empty file system in memory, which goes with its last descriptor.
fn memory() -> io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "size", MEMORY_SHARE)?;
    fsconfig_set_string(&fs, "mode", "0700")?;
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn open(path: &Path) -> Result<OwnedFd, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| fail("open", path, e.into()))
}

/// A root that everybody in the image can enter, whatever our umask is.
fn open_to_all(dir: &Path) -> Result<(), SnapshotError> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(|e| fail("change", dir, e))
}

fn fail(doing: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { doing, path: path.to_owned(), source }
}
