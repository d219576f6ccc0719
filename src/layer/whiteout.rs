//! Whiteouts and opaque directories: marks of an overlay that hide paths of the layers below.
//!
//! | mark | form |
//! |---|---|
//! | whiteout | a character device 0:0 of the hidden name |
//! | whiteout, where no such device can be made | an empty file of that name with an attribute; its directory and the layer's root say that there are such files |
//! | opaque directory | an attribute of the directory |
//!
//! Overlay refuses to make whiteouts through itself, and the root of a container is an overlay: a
//! store in there uses the second form, which kernels know since 6.7.
//!
//! Source: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories", "Nesting
//! overlayfs mounts".

use super::XattrSpace;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, XattrFlags, fgetxattr, fsetxattr, mknodat,
    openat, statat, unlinkat,
};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a directory of a layer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirectoryMark {
    /// Nothing.
    None,
    /// It hides what the layers below have in it.
    Opaque,
    /// Whiteouts in it are files. At a layer's root: there may be such directories in the layer.
    WhiteoutFiles,
}

/// Reads the mark of a directory.
pub(crate) fn directory_mark(dir: impl AsFd, xattrs: XattrSpace) -> Result<DirectoryMark, Errno> {
    let mut value = [0u8; 4];
    match fgetxattr(dir, xattrs.opaque(), &mut value) {
        Ok(length) => Ok(match &value[..length] {
            b"y" => DirectoryMark::Opaque,
            b"x" => DirectoryMark::WhiteoutFiles,
            _ => DirectoryMark::None,
        }),
        // RANGE: a longer value, which overlay takes for no mark.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(DirectoryMark::None),
        Err(e) => Err(e),
    }
}

/// Says whether a file is the device that is a whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Says whether a file may be a whiteout in the form of a file.
pub(crate) fn may_be_whiteout_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0
}

/// Says whether an open file is a whiteout.
pub(crate) fn is_whiteout_file(file: impl AsFd, xattrs: XattrSpace) -> Result<bool, Errno> {
    let mut value = [0u8; 4];
    match fgetxattr(file, xattrs.whiteout(), &mut value) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Says whether `name` is a whiteout, in either form.
pub(crate) fn is_whiteout_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    xattrs: XattrSpace,
) -> Result<bool, Errno> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if may_be_whiteout_file(&stat) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        return is_whiteout_file(openat(dir, name, flags, Mode::empty())?, xattrs);
    }
    Ok(is_whiteout(&stat))
}

/// The form of a whiteout that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whiteout {
    /// A device.
    Device,
    /// A file: the root of the layer must be given to [`announce_whiteout_files`].
    File,
}

/// Makes a whiteout in a directory; in an opaque one, which needs none, it may make nothing.
///
/// # Errors
///
/// [`Errno::EXIST`] where something has the name.
pub(crate) fn make_whiteout(
    dir: BorrowedFd<'_>,
    name: &[u8],
    xattrs: XattrSpace,
) -> Result<Whiteout, Errno> {
    match mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => {}
        other => return other.map(|()| Whiteout::Device),
    }
    if directory_mark(dir, xattrs)? == DirectoryMark::Opaque {
        return Ok(Whiteout::Device);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    // Only what its owner may write takes an attribute from a user.
    let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    fsetxattr(&file, xattrs.whiteout(), b"y", XattrFlags::empty())?;
    announce_whiteout_files(dir, xattrs)?;
    Ok(Whiteout::File)
}

/// Notes at a directory that whiteouts in it (at a layer's root: below it) are files.
pub(crate) fn announce_whiteout_files(
    dir: BorrowedFd<'_>,
    xattrs: XattrSpace,
) -> Result<(), Errno> {
    match directory_mark(dir, xattrs)? {
        DirectoryMark::None => fsetxattr(dir, xattrs.opaque(), b"x", XattrFlags::empty()),
        DirectoryMark::Opaque | DirectoryMark::WhiteoutFiles => Ok(()),
    }
}

/// Makes a directory opaque.
pub(crate) fn make_opaque(dir: BorrowedFd<'_>, xattrs: XattrSpace) -> Result<(), Errno> {
    if directory_mark(dir, xattrs)? == DirectoryMark::WhiteoutFiles {
        // Under the new mark they would be plain files.
        let fd: OwnedFd = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(&fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let is_candidate =
                matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown);
            if is_candidate && is_whiteout_at(dir, entry.file_name().to_bytes(), xattrs)? {
                names.push(entry.file_name().to_owned());
            }
        }
        for name in names {
            unlinkat(dir, name, AtFlags::empty())?;
        }
    }
    fsetxattr(dir, xattrs.opaque(), b"y", XattrFlags::empty())
}
