//! Owners, modes and capabilities of files where the kernel does not let this process set them.
//!
//! What a step or an image asked for is written into attributes of the file, and a process that
//! reads a layer reads it there. It travels with the file through renames and hard links, and never
//! into a tar. There are three kinds of places:
//!
//! | where | what is written down |
//! |---|---|
//! | root, of the machine, a container or a user namespace | nothing: this is chown(2), chmod(2) and setxattr(2) |
//! | a user namespace with one id, in which every file is root's | owners |
//! | a user who can make no namespace, or root without capabilities | owners, modes that the user could not open, capabilities |
//!
//! | what | attribute | value |
//! |---|---|---|
//! | owner of a regular file or directory | `user.builder.owner` | `UID:GID` |
//! | owner of a link, pipe, socket in a namespace | `security.capability` | a capability whose permitted set is the user, whose inheritable one is the group |
//! | the same without one | `user.builder.links` of the directory | see the module `links` |
//! | mode | `user.builder.mode` | octal |
//! | capabilities | `user.builder.capabilities` | those of `security.capability` |
//!
//! The kernel takes set-id bits and capabilities from a file when its content changes, by whatever
//! call. So that it does the same to what is written down, the file itself has the set-id bits too,
//! and one with capabilities has the set-user-id bit whatever its mode: what is written down holds as
//! long as the bit is there.
//!
//! The kernel lets users put attributes of their own on files and directories alone. On the rest it
//! takes file capabilities of a namespace's root, which nothing there uses: only what is executed
//! has them.

mod links;

pub use links::Record;

use super::XattrSpace;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Of regular files and directories.
const ATTRIBUTE: &str = "user.builder.owner";

/// The mode of a file whose own lets us do less.
const MODE: &str = "user.builder.mode";

/// What a file may do, where the kernel does not take that from us.
const WRITTEN_CAPABILITY: &str = "user.builder.capabilities";

/// The same in layers of before, which no bit of the file stands for.
const OLD_CAPABILITY: &str = "user.builder.capability";

/// Bits of a mode that the kernel takes when the content changes.
const SET_IDS: u32 = 0o6000;

/// The one that stands for what is written down about capabilities.
const SET_USER: u32 = 0o4000;

/// Of all else; what a file may do.
const CAPABILITY: &str = "security.capability";

/// First word of a capability, its revision: two sets of 64 bits follow, low halves first.
const REVISION: u32 = 0x0200_0000;

/// Whether this process has one id. It is decided before the first layer is touched.
static IS_SINGLE: LazyLock<bool> = LazyLock::new(|| {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().count() == 1 && map.split_ascii_whitespace().nth(2) == Some("1")
});

/// Whether this process has none of root's rights over files: see [`go_without_rights`].
static IS_WITHOUT_RIGHTS: AtomicBool = AtomicBool::new(false);

/// Looks whether this process may set owners, modes and capabilities of any file, and writes them
/// down from now on if it may not. To be called before the first layer is touched, by a process that
/// can become root of no namespace. Says whether they are written down.
pub fn go_without_rights() -> bool {
    let wanted = CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    let has = rustix::thread::capabilities(None)
        .is_ok_and(|capabilities| capabilities.permitted.contains(wanted));
    IS_WITHOUT_RIGHTS.store(!has, Ordering::Relaxed);
    !has
}

/// Says whether owners are written down rather than set.
pub fn is_recorded() -> bool {
    is_without_rights() || *IS_SINGLE
}

/// Says whether modes and capabilities are written down too: the kernel gives us none of root's
/// rights.
pub fn is_without_rights() -> bool {
    IS_WITHOUT_RIGHTS.load(Ordering::Relaxed)
}

/// Returns a name for the form in which this process writes layers: another form would be misread.
pub fn form() -> &'static str {
    match (is_without_rights(), XattrSpace::detect()) {
        (true, _) => "by a user without capabilities",
        (false, XattrSpace::Trusted) => "by root with CAP_SYS_ADMIN",
        (false, XattrSpace::User) => "by root without CAP_SYS_ADMIN, or in a user namespace",
    }
}

/// Returns whose the files are that this process makes, as layers have it.
pub fn of_new_files() -> (u32, u32) {
    match is_without_rights() {
        true => (0, 0),
        false => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    }
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
    if is_without_rights() && !has_attributes(kind(&stat)) {
        let had = || links::read(dir, name, stat.st_ino);
        return links::write(dir, name, stat.st_ino, merged((uid, gid), had));
    }
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

/// Returns what is written down of the links of an open directory, to be put back.
///
/// # Errors
///
/// What getxattr(2) says.
pub fn links_of(dir: BorrowedFd<'_>) -> Result<Record, Errno> {
    links::record(dir, b".")
}

/// Puts back what was written down of the links of an open directory.
///
/// # Errors
///
/// What setxattr(2) says.
pub fn put_back_links(dir: BorrowedFd<'_>, record: &Record) -> Result<(), Errno> {
    links::restore(dir, b".", record)
}

/// Writes down, without rights, whose a link is that is about to get a name in an open directory.
///
/// # Errors
///
/// What setxattr(2) says: `ENOSPC` where the owners of a directory's links take more room than it has.
pub fn set_coming(
    dir: BorrowedFd<'_>,
    name: &[u8],
    inode: u64,
    owner: (u32, u32),
) -> Result<(), Errno> {
    links::write(dir, name, inode, owner)
}

/// Returns the mode with which a file is made, so that it can be written and described: the mode
/// itself, and where a user makes it, the user's own rights.
pub fn mode_to_make(kind: FileType, mode: u32) -> u32 {
    if !is_without_rights() {
        return mode;
    }
    match kind {
        FileType::Directory => mode | 0o700,
        FileType::RegularFile => mode | 0o600,
        _ => mode,
    }
}

/// Gives a name, which is not a link, its mode.
///
/// # Errors
///
/// What chmod(2) says.
pub fn set_mode(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    if !is_without_rights() {
        return rustix::fs::chmodat(dir, name, Mode::from(mode), AtFlags::empty());
    }
    Place::Name(&entry(dir, name)).set_mode(mode)
}

/// Gives an open file its mode.
///
/// # Errors
///
/// What chmod(2) says.
pub fn set_mode_open(file: impl AsFd, mode: u32) -> Result<(), Errno> {
    if !is_without_rights() {
        return rustix::fs::fchmod(file, Mode::from(mode));
    }
    Place::Open(file.as_fd()).set_mode(mode)
}

/// Returns the attribute that has the capabilities of regular files.
pub fn capability_attribute() -> &'static str {
    if is_without_rights() { WRITTEN_CAPABILITY } else { CAPABILITY }
}

/// Gives an open file capabilities.
///
/// # Errors
///
/// What setxattr(2) says.
pub fn set_capability(file: impl AsFd, value: &[u8]) -> Result<(), Errno> {
    if !is_without_rights() {
        return rustix::fs::fsetxattr(file, CAPABILITY, value, XattrFlags::empty());
    }
    Place::Open(file.as_fd()).set_capability(value, XattrFlags::empty())
}

/// Gives the file behind a link of `/proc/*/fd` capabilities.
///
/// # Errors
///
/// What setxattr(2) says.
pub fn set_capability_linked(link: &str, value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
    if !is_without_rights() {
        return rustix::fs::setxattr(link, CAPABILITY, value, flags);
    }
    Place::Link(link).set_capability(value, flags)
}

/// Removes what is written down about the capabilities of the file behind a link of `/proc/*/fd` where
/// its content has changed since.
///
/// # Errors
///
/// What stat(2) and removexattr(2) say.
pub fn settle_linked(link: &str) -> Result<(), Errno> {
    if is_without_rights() { Place::Link(link).settle().map(drop) } else { Ok(()) }
}

/// Reads the capabilities of an open file: how many bytes they have, none for a file without.
///
/// # Errors
///
/// What getxattr(2) says.
pub fn capability(file: impl AsFd, value: &mut [u8]) -> Result<usize, Errno> {
    capability_of(Place::Open(file.as_fd()), value)
}

/// The same of a path, which is not that of a link.
///
/// # Errors
///
/// What getxattr(2) says.
pub fn capability_at(path: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
    capability_of(Place::Name(path), value)
}

fn capability_of(file: Place<'_>, value: &mut [u8]) -> Result<usize, Errno> {
    let absent_is_none = |result| match result {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(0),
        result => result,
    };
    if !is_without_rights() {
        return absent_is_none(file.get(CAPABILITY, value));
    }
    match absent_is_none(file.get(WRITTEN_CAPABILITY, value))? {
        0 => absent_is_none(file.get(OLD_CAPABILITY, value)),
        _ if file.stat()?.st_mode & SET_USER == 0 => Ok(0),
        length => Ok(length),
    }
}

/// Puts the owner and the mode that were asked for into what stat(2) said of a name.
pub fn amend(dir: BorrowedFd<'_>, name: &[u8], stat: &mut Stat) {
    if !is_recorded() {
        return;
    }
    if is_without_rights() && !has_attributes(kind(stat)) {
        (stat.st_uid, stat.st_gid) = links::read(dir, name, stat.st_ino).unwrap_or_default();
        return;
    }
    let path = entry(dir, name);
    put(stat, |name, value| rustix::fs::lgetxattr(path.as_slice(), name, value));
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

/// Puts the owner and the mode that were asked for into what stat(2) said of the file behind a link of
/// `/proc/*/fd`; of what can have no attributes, root's.
pub fn amend_linked(link: &str, stat: &mut Stat) {
    if is_recorded() {
        let has_attributes = has_attributes(kind(stat));
        put(stat, |name, value| match has_attributes {
            true => rustix::fs::getxattr(link, name, value),
            false => Err(Errno::NODATA),
        });
    }
}

/// Gives the file behind a link of `/proc/*/fd` its mode.
///
/// # Errors
///
/// What chmod(2) says.
pub fn set_mode_linked(link: &str, kind: FileType, mode: u32) -> Result<(), Errno> {
    if !is_without_rights() || !has_attributes(kind) {
        return rustix::fs::chmod(link, Mode::from(mode_to_make(kind, mode)));
    }
    Place::Link(link).set_mode(mode)
}

/// What is written down about: a path that is not that of a link, an open file, a link of `/proc/*/fd`.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Name(&'a [u8]),
    Open(BorrowedFd<'a>),
    Link(&'a str),
}

impl Place<'_> {
    fn get(self, name: &str, value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Name(path) => rustix::fs::lgetxattr(path, name, value),
            Self::Open(file) => rustix::fs::fgetxattr(file, name, value),
            Self::Link(link) => rustix::fs::getxattr(link, name, value),
        }
    }

    fn set(self, name: &str, value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        match self {
            Self::Name(path) => rustix::fs::lsetxattr(path, name, value, flags),
            Self::Open(file) => rustix::fs::fsetxattr(file, name, value, flags),
            Self::Link(link) => rustix::fs::setxattr(link, name, value, flags),
        }
    }

    fn remove(self, name: &str) -> Result<(), Errno> {
        gone(match self {
            Self::Name(path) => rustix::fs::lremovexattr(path, name),
            Self::Open(file) => rustix::fs::fremovexattr(file, name),
            Self::Link(link) => rustix::fs::removexattr(link, name),
        })
    }

    fn stat(self) -> Result<Stat, Errno> {
        match self {
            Self::Name(path) => rustix::fs::lstat(path),
            Self::Open(file) => rustix::fs::fstat(file),
            Self::Link(link) => rustix::fs::stat(link),
        }
    }

    fn chmod(self, mode: u32) -> Result<(), Errno> {
        match self {
            Self::Name(path) => rustix::fs::chmod(path, Mode::from(mode)),
            Self::Open(file) => rustix::fs::fchmod(file, Mode::from(mode)),
            Self::Link(link) => rustix::fs::chmod(link, Mode::from(mode)),
        }
    }

    fn note_mode(self, mode: u32) -> Result<(), Errno> {
        self.set(MODE, format!("{mode:o}").as_bytes(), XattrFlags::empty())
    }

    /// Sets a mode, and writes down what the file itself has otherwise.
    fn set_mode(self, mode: u32) -> Result<(), Errno> {
        let kind = kind(&self.stat()?);
        let has_capability = kind == FileType::RegularFile && self.settle()?;
        let stands_for_it = if has_capability { SET_USER } else { 0 };
        let made = mode_to_make(kind, mode) | stands_for_it;
        self.chmod(made)?;
        match made == mode {
            true if has_attributes(kind) => self.remove(MODE),
            true => Ok(()),
            false => self.note_mode(mode),
        }
    }

    /// Removes capabilities that the kernel would have taken from the file. Says whether it has any.
    fn settle(self) -> Result<bool, Errno> {
        match self.get(WRITTEN_CAPABILITY, &mut [0; 64]) {
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(false),
            Err(Errno::RANGE) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        let stat = self.stat()?;
        if kind(&stat) != FileType::RegularFile || stat.st_mode & SET_USER != 0 {
            return Ok(true);
        }
        self.remove(WRITTEN_CAPABILITY)?;
        Ok(false)
    }

    fn set_capability(self, value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        self.settle()?;
        self.set(WRITTEN_CAPABILITY, value, flags)?;
        let mut stat = self.stat()?;
        let made = stat.st_mode & 0o7777;
        if kind(&stat) != FileType::RegularFile || made & SET_USER != 0 {
            return Ok(());
        }
        put(&mut stat, |name, value| self.get(name, value));
        self.note_mode(stat.st_mode & 0o7777)?;
        self.chmod(made | SET_USER)
    }
}

/// Says whether an attribute is one in which something is written down here.
pub fn is_attribute_of_ours(name: &[u8]) -> bool {
    name.starts_with(b"user.builder.")
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

fn put(stat: &mut Stat, get: impl Fn(&str, &mut [u8]) -> Result<usize, Errno>) {
    if is_without_rights() {
        (stat.st_uid, stat.st_gid) = (0, 0);
        if has_attributes(kind(stat)) {
            let mut value = [0; 8];
            let written = get(MODE, &mut value).ok().and_then(|length| {
                u32::from_str_radix(std::str::from_utf8(&value[..length]).ok()?, 8).ok()
            });
            if let Some(mode) = written {
                let set_ids = mode & stat.st_mode & SET_IDS;
                stat.st_mode = stat.st_mode & !0o7777 | mode & 0o1777 | set_ids;
            }
        }
    }
    if let Some((uid, gid)) = find(kind(stat), get) {
        (stat.st_uid, stat.st_gid) = (uid, gid);
    }
}

fn find(
    kind: FileType,
    get: impl Fn(&str, &mut [u8]) -> Result<usize, Errno>,
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
