//! Owners of files where the kernel gives this process one id.
//!
//! A user without subordinate ids is root of a namespace in which no other id exists, so every file
//! is root's. What a step or an image asked for is written into an attribute of the file, and a
//! process that reads a layer reads it there. It travels with the file through renames, hard links,
//! overlay's copies and `cp -a`, and never into a tar.
//!
//! | what | attribute | value |
//! |---|---|---|
//! | regular file, directory | `user.builder.owner` | `UID:GID` |
//! | link, pipe, socket | `security.capability` | a capability whose permitted set is the user, whose inheritable one is the group |
//!
//! The kernel lets users put attributes of their own on files and directories alone. On the rest it
//! takes file capabilities, which nothing there uses: only what is executed has them.
//!
//! Everywhere else this is chown(2) and nothing more.

use rustix::fs::{AtFlags, FileType, Gid, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::LazyLock;

/// Of regular files and directories.
const ATTRIBUTE: &str = "user.builder.owner";

/// Of all else.
const CAPABILITY: &str = "security.capability";

/// First word of a capability, its revision: two sets of 64 bits follow, low halves first.
const REVISION: u32 = 0x0200_0000;

/// Whether this process has one id. It is decided before the first layer is touched.
static IS_SINGLE: LazyLock<bool> = LazyLock::new(|| {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().count() == 1 && map.split_ascii_whitespace().nth(2) == Some("1")
});

/// Says whether owners are written down rather than set.
pub fn is_recorded() -> bool {
    *IS_SINGLE
}

/// An id of chown(2) that leaves what a file has.
const UNCHANGED: u32 = u32::MAX;

/// Gives a name, not what it links to, an owner; an id of `u32::MAX` leaves the one it has.
///
/// # Errors
///
/// What chown(2) says.
pub fn set(dir: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> Result<(), Errno> {
    if !is_recorded() {
        return rustix::fs::chownat(dir, name, user(uid), group(gid), AtFlags::SYMLINK_NOFOLLOW);
    }
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let path = entry(dir, name);
    let had =
        || find(kind(&stat), |name, value| rustix::fs::lgetxattr(path.as_slice(), name, value));
    match attribute(kind(&stat), merged((uid, gid), had)) {
        (name, Some(value)) => {
            rustix::fs::lsetxattr(path.as_slice(), name, &value, XattrFlags::empty())
        }
        (name, None) => gone(rustix::fs::lremovexattr(path.as_slice(), name)),
    }
}

/// Gives an open file an owner; an id of `u32::MAX` leaves the one it has.
///
/// # Errors
///
/// What chown(2) says.
pub fn set_open(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    if !is_recorded() {
        return rustix::fs::fchown(file, user(uid), group(gid));
    }
    let kind = kind(&rustix::fs::fstat(&file)?);
    let had = || find(kind, |name, value| rustix::fs::fgetxattr(&file, name, value));
    match attribute(kind, merged((uid, gid), had)) {
        (name, Some(value)) => rustix::fs::fsetxattr(file, name, &value, XattrFlags::empty()),
        (name, None) => gone(rustix::fs::fremovexattr(file, name)),
    }
}

/// Puts the owner that was asked for into what stat(2) said of a name.
pub fn amend(dir: BorrowedFd<'_>, name: &[u8], stat: &mut Stat) {
    if is_recorded() {
        let path = entry(dir, name);
        put(stat, |name, value| rustix::fs::lgetxattr(path.as_slice(), name, value));
    }
}

/// The same of an open file.
pub fn amend_open(file: impl AsFd, stat: &mut Stat) {
    if is_recorded() {
        put(stat, |name, value| rustix::fs::fgetxattr(&file, name, value));
    }
}

/// Reads whose the file behind a link of `/proc/*/fd` is to be; `None` for one that is root's.
pub fn read(link: &str, kind: FileType) -> Option<(u32, u32)> {
    find(kind, |name, value| rustix::fs::getxattr(link, name, value))
}

/// Writes down whose the file behind a link of `/proc/*/fd` is to be.
///
/// # Errors
///
/// What setxattr(2) says.
pub fn write(link: &str, kind: FileType, owner: (u32, u32)) -> Result<(), Errno> {
    match attribute(kind, owner) {
        (name, Some(value)) => rustix::fs::setxattr(link, name, &value, XattrFlags::empty()),
        (name, None) => gone(rustix::fs::removexattr(link, name)),
    }
}

fn user(id: u32) -> Option<Uid> {
    (id != UNCHANGED).then(|| Uid::from_raw(id))
}

fn group(id: u32) -> Option<Gid> {
    (id != UNCHANGED).then(|| Gid::from_raw(id))
}

/// Puts the recorded owner, root's where there is none, in the place of ids that stay unchanged.
fn merged((uid, gid): (u32, u32), had: impl FnOnce() -> Option<(u32, u32)>) -> (u32, u32) {
    if uid != UNCHANGED && gid != UNCHANGED {
        return (uid, gid);
    }
    let had = had().unwrap_or_default();
    (if uid == UNCHANGED { had.0 } else { uid }, if gid == UNCHANGED { had.1 } else { gid })
}

fn put(stat: &mut Stat, get: impl FnOnce(&str, &mut [u8]) -> Result<usize, Errno>) {
    if let Some((uid, gid)) = find(kind(stat), get) {
        (stat.st_uid, stat.st_gid) = (uid, gid);
    }
}

fn find(
    kind: FileType,
    get: impl FnOnce(&str, &mut [u8]) -> Result<usize, Errno>,
) -> Option<(u32, u32)> {
    let mut value = [0; 32];
    if has_attributes(kind) {
        let length = get(ATTRIBUTE, &mut value).ok()?;
        parse(&value[..length])
    } else {
        let length = get(CAPABILITY, &mut value).ok()?;
        let word = |at| value[..length].get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        Some((word(4)?, word(8)?))
    }
}

/// Returns the attribute that says an owner, and its value; root needs none.
fn attribute(kind: FileType, owner: (u32, u32)) -> (&'static str, Option<Vec<u8>>) {
    let (uid, gid) = owner;
    let (name, value) = if has_attributes(kind) {
        (ATTRIBUTE, format!("{uid}:{gid}").into_bytes())
    } else {
        (CAPABILITY, [REVISION, uid, gid, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect())
    };
    (name, (owner != (0, 0)).then_some(value))
}

fn parse(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Says whether the kernel takes attributes of users on it.
fn has_attributes(kind: FileType) -> bool {
    matches!(kind, FileType::RegularFile | FileType::Directory)
}

/// Names what has a name in an open directory: calls about attributes know none of those.
fn entry(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat()
}

fn gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        result => result,
    }
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

    #[test]
    fn an_id_of_minus_one_keeps_what_is_recorded() {
        let had = || Some((7, 8));
        assert_eq!(merged((1, 2), had), (1, 2));
        assert_eq!(merged((UNCHANGED, 2), had), (7, 2));
        assert_eq!(merged((1, UNCHANGED), had), (1, 8));
        assert_eq!(merged((UNCHANGED, UNCHANGED), || None), (0, 0));
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        for kind in [FileType::RegularFile, FileType::Directory, FileType::Symlink, FileType::Fifo]
        {
            let (written, value) = attribute(kind, (1000, u32::MAX));
            let value = value.unwrap();
            let found = find(kind, |name, buffer| {
                assert_eq!(name, written);
                buffer[..value.len()].copy_from_slice(&value);
                Ok(value.len())
            });
            assert_eq!(found, Some((1000, u32::MAX)), "{kind:?}");
            assert_eq!(attribute(kind, (0, 0)).1, None);
        }
    }
}
