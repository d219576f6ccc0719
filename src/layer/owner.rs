//! Owners of files where the kernel gives this process one id.
//!
//! A user without subordinate ids is root of a namespace in which no other id exists, so every file is
//! root's. What a step or an image asked for is written into an attribute of the file,
//! `user.builder.owner`, and whoever reads a layer reads it there. It travels with the file through
//! overlay's copies and through `cp -a`, and never into a tar: of attributes, a layer has only file
//! capabilities.
//!
//! Only regular files and folders can carry it: links, pipes and devices stay root's.
//!
//! Everywhere else this is chown(2) and nothing more.

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags, openat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;

/// Holds `UID:GID`.
const ATTRIBUTE: &str = "user.builder.owner";

/// Whether this process has one id. It is decided before the first layer is touched.
static IS_SINGLE: LazyLock<bool> = LazyLock::new(|| {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().count() == 1 && map.split_ascii_whitespace().nth(2) == Some("1")
});

/// Says whether owners are written down rather than set.
pub fn is_recorded() -> bool {
    *IS_SINGLE
}

/// Gives a name, not what it links to, an owner.
///
/// # Errors
///
/// What chown(2) says.
pub fn set(dir: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> Result<(), Errno> {
    if !is_recorded() {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        return rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    }
    match open(dir, name)? {
        Some(file) => record(file.as_fd(), uid, gid),
        None => Ok(()),
    }
}

/// Gives an open file an owner.
///
/// # Errors
///
/// What chown(2) says.
pub fn set_open(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    if is_recorded() {
        return record(file.as_fd(), uid, gid);
    }
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Writes down whose a regular file or a folder is to be.
///
/// # Errors
///
/// What setxattr(2) says.
pub fn record(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    if (uid, gid) == (0, 0) {
        return match rustix::fs::fremovexattr(file, ATTRIBUTE) {
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            result => result,
        };
    }
    let value = format!("{uid}:{gid}");
    rustix::fs::fsetxattr(file, ATTRIBUTE, value.as_bytes(), XattrFlags::empty())
}

/// Puts the owner that was asked for into what stat(2) said of a name.
pub fn amend(dir: BorrowedFd<'_>, name: &[u8], stat: &mut Stat) {
    if is_recorded()
        && is_recordable(stat)
        && let Ok(Some(file)) = open(dir, name)
    {
        amend_open(file, stat);
    }
}

/// The same of an open file.
pub fn amend_open(file: impl AsFd, stat: &mut Stat) {
    let mut value = [0; 32];
    if is_recorded()
        && is_recordable(stat)
        && let Ok(length) = rustix::fs::fgetxattr(file, ATTRIBUTE, &mut value)
        && let Some((uid, gid)) = parse(&value[..length])
    {
        (stat.st_uid, stat.st_gid) = (uid, gid);
    }
}

fn parse(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

fn is_recordable(stat: &Stat) -> bool {
    matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory)
}

/// Opens a regular file or a folder; `None` for anything else, which is not touched.
fn open(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_recordable(&stat) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_two_numbers() {
        assert_eq!(parse(b"5:6"), Some((5, 6)));
        assert_eq!(parse(b"0:4294967295"), Some((0, u32::MAX)));
        for wrong in [&b""[..], b"5", b"5:", b":6", b"a:b", b"5:6:7"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
