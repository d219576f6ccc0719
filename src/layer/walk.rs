//! Walking a layer's directory: its entries in the order of their raw path bytes.
//!
//! Everything goes through descriptors of directories, so a path may be longer than `PATH_MAX` and
//! no link is ever followed. A level of directories costs a descriptor; far up ones are closed and
//! found again through `..`, so deep trees stay within the usual limit of 1024.
//!
//! The order is that of whole paths, in which `a-b` comes between `a` and `a/c`. So each directory
//! has two places among its siblings: its own, and that of everything in it, whose common prefix
//! ends in a `/`.

use super::whiteout::{DirectoryMark, directory_mark, is_whiteout_at};
use super::{LayerError, OPAQUE_MARKER, WHITEOUT_PREFIX};
use super::{XattrSpace, owner};
use crate::sys::cancel::Cancel;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many levels keep their descriptor.
const OPEN_LEVELS: usize = 64;

/// An entry of a layer, as a tar has it. Whiteouts and opaque marks are entries of their own.
#[derive(Debug, Clone)]
pub struct LayerEntry<'a> {
    /// Relative to the layer's root, without a leading or trailing `/`. A whiteout's is the path it
    /// removes, an opaque mark's that of its directory (empty for the root).
    pub path: &'a [u8],
    /// What it is.
    pub kind: LayerEntryKind<'a>,
    /// The low twelve bits: permissions, setuid, setgid, sticky. 0 for whiteouts and marks.
    pub mode: u32,
    /// The owner, as on disk.
    pub uid: u32,
    /// The group, as on disk.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nsec: u32,
    /// The value of `security.capability`; empty where there is none.
    pub capability: &'a [u8],
    /// The first path of the layer that names the same file, where this is not the first.
    pub hard_link: Option<&'a [u8]>,
}

impl<'a> LayerEntry<'a> {
    /// A directory of root's, of 1970.
    pub(super) fn directory(path: &'a [u8]) -> Self {
        Self {
            path,
            kind: LayerEntryKind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nsec: 0,
            capability: &[],
            hard_link: None,
        }
    }
}

/// What an entry is. Sockets are none: no tar can hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerEntryKind<'a> {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// What it points to, as it stands.
        target: &'a [u8],
    },
    /// A character device.
    Char {
        /// Its driver.
        major: u32,
        /// Its unit.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Its driver.
        major: u32,
        /// Its unit.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Removes the path from the layers below.
    Whiteout,
    /// Hides what the layers below have in the directory.
    Opaque,
}

/// A walk over one layer.
#[derive(Debug)]
pub struct Walk<'c> {
    xattrs: XattrSpace,
    cancel: &'c Cancel,
    /// First paths of files with several names, by device and inode.
    links: BTreeMap<(u64, u64), Vec<u8>>,
    path: Vec<u8>,
    target: Vec<u8>,
}

/// A directory being walked.
struct Level {
    /// Closed while the walk is far below.
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    /// The names of all items, one after the other.
    names: Vec<u8>,
    items: Vec<Item>,
    next: usize,
    /// Directories that had their own place, but whose contents have not.
    pending: Vec<(u32, OwnedFd)>,
    /// The length of the path of this directory, with its `/`.
    prefix: usize,
}

#[derive(Clone, Copy)]
struct Item {
    start: u32,
    length: u32,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    File,
    Dir,
    /// The place of a directory's contents.
    Inside,
    Other,
    /// Its name carries the prefix already.
    Whiteout,
    Opaque,
    Unknown,
}

impl Level {
    fn name(&self, item: Item) -> &[u8] {
        &self.names[item.start as usize..(item.start + item.length) as usize]
    }

    fn push(&mut self, prefix: &[u8], name: &[u8], role: Role) -> Item {
        let start = self.names.len() as u32;
        self.names.extend(prefix);
        self.names.extend(name);
        let item = Item { start, length: (prefix.len() + name.len()) as u32, role };
        self.items.push(item);
        item
    }
}

impl<'c> Walk<'c> {
    /// Prepares a walk; `xattrs` says which opaque marks count.
    pub fn new(xattrs: XattrSpace, cancel: &'c Cancel) -> Self {
        Self { xattrs, cancel, links: BTreeMap::new(), path: Vec::new(), target: Vec::new() }
    }

    /// Calls `visit` for each entry below `root`, in order; a regular file that is not a hard link
    /// to an earlier one comes with its descriptor, open for reading.
    ///
    /// # Errors
    ///
    /// [`LayerError::Io`] with the path, [`LayerError::Cancelled`], or whatever `visit` returns.
    pub fn run(
        mut self,
        root: BorrowedFd<'_>,
        mut visit: impl FnMut(&LayerEntry<'_>, Option<OwnedFd>) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let fd = openat(root, ".", DIR_FLAGS, Mode::empty())
            .map_err(|e| LayerError::io("open", b"", e))?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let stat = fstat(&fd).map_err(|e| LayerError::io("read", b"", e))?;
        let mark = self.mark(&fd)?;
        let mut levels = vec![self.enter(fd, &stat, mark, &mut buffer)?];

        while let Some(depth) = levels.len().checked_sub(1) {
            let level = &mut levels[depth];
            self.path.truncate(level.prefix);
            let Some(&item) = level.items.get(level.next) else {
                self.leave(&mut levels)?;
                continue;
            };
            level.next += 1;
            if self.cancel.is_cancelled() {
                return Err(LayerError::Cancelled);
            }
            if item.role == Role::Inside {
                let place = level.pending.iter().rposition(|(start, _)| *start == item.start);
                // The directory turned out to be none, or is not ours to enter.
                let Some(place) = place else { continue };
                let (_, fd) = level.pending.remove(place);
                self.path.extend(&level.names[item.start as usize..][..item.length as usize]);
                let stat = fstat(&fd).map_err(|e| LayerError::io("read", &self.path, e))?;
                let mark = self.mark(&fd)?;
                let below = self.enter(fd, &stat, mark, &mut buffer)?;
                levels.push(below);
                if let Some(far) = levels.len().checked_sub(1 + OPEN_LEVELS) {
                    levels[far].fd = None;
                }
                continue;
            }
            self.item(level, item, &mut visit)?;
        }
        Ok(())
    }

    /// Lists a directory whose path is in `self.path`.
    fn enter(
        &mut self,
        fd: OwnedFd,
        stat: &Stat,
        mark: DirectoryMark,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Level, LayerError> {
        let path = &mut self.path;
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let mut level = Level {
            fd: None,
            identity: (stat.st_dev, stat.st_ino),
            names: Vec::new(),
            items: Vec::new(),
            next: 0,
            pending: Vec::new(),
            prefix: path.len(),
        };
        if mark == DirectoryMark::Opaque {
            level.push(b"", OPAQUE_MARKER, Role::Opaque);
        }
        let mut dir = RawDir::new(fd.as_fd(), buffer);
        while let Some(entry) = dir.next() {
            let entry = entry.map_err(|e| LayerError::io("list", path, e))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match entry.file_type() {
                FileType::RegularFile if mark == DirectoryMark::WhiteoutFiles => {
                    let fail = |e| LayerError::io("read", &[path.as_slice(), name].concat(), e);
                    match is_whiteout_at(fd.as_fd(), name, self.xattrs) {
                        Ok(true) => level.push(WHITEOUT_PREFIX, name, Role::Whiteout),
                        Ok(false) => level.push(b"", name, Role::File),
                        // As below.
                        Err(Errno::NOENT) => continue,
                        Err(e) => return Err(fail(e)),
                    }
                }
                FileType::RegularFile => level.push(b"", name, Role::File),
                FileType::Directory => {
                    let item = level.push(b"", name, Role::Dir);
                    level.names.push(b'/');
                    let inside = Item { length: item.length + 1, role: Role::Inside, ..item };
                    level.items.push(inside);
                    item
                }
                FileType::CharacterDevice => {
                    let stat = match statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => stat,
                        // A whiteout of nothing, in a directory that one layer alone has: overlay
                        // lists the name and has no such file.
                        Err(Errno::NOENT) => continue,
                        Err(e) => {
                            let path = [path.as_slice(), name].concat();
                            return Err(LayerError::io("read", &path, e));
                        }
                    };
                    if stat.st_rdev == 0 {
                        level.push(WHITEOUT_PREFIX, name, Role::Whiteout)
                    } else {
                        level.push(b"", name, Role::Other)
                    }
                }
                FileType::Socket => continue,
                FileType::Unknown => level.push(b"", name, Role::Unknown),
                FileType::Symlink | FileType::BlockDevice | FileType::Fifo => {
                    level.push(b"", name, Role::Other)
                }
            };
        }
        self.resolve_unknown(&fd, &mut level)?;
        let names = &level.names;
        let key = |item: &Item| &names[item.start as usize..(item.start + item.length) as usize];
        level.items.sort_unstable_by(|a, b| key(a).cmp(key(b)));
        level.fd = Some(fd);
        Ok(level)
    }

    /// Finds out the types that the filesystem's listing did not give.
    fn resolve_unknown(&self, fd: &OwnedFd, level: &mut Level) -> Result<(), LayerError> {
        if !level.items.iter().any(|item| item.role == Role::Unknown) {
            return Ok(());
        }
        for item in std::mem::take(&mut level.items) {
            if item.role != Role::Unknown {
                level.items.push(item);
                continue;
            }
            let name = level.name(item).to_vec();
            let stat = statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| LayerError::io("read", &[&self.path, name.as_slice()].concat(), e))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => _ = level.push(b"", &name, Role::File),
                FileType::Directory => {
                    let item = level.push(b"", &name, Role::Dir);
                    level.names.push(b'/');
                    level.items.push(Item { length: item.length + 1, role: Role::Inside, ..item });
                }
                FileType::CharacterDevice if stat.st_rdev == 0 => {
                    level.push(WHITEOUT_PREFIX, &name, Role::Whiteout);
                }
                FileType::Socket => {}
                _ => _ = level.push(b"", &name, Role::Other),
            }
        }
        Ok(())
    }

    /// Goes back to the directory above.
    fn leave(&mut self, levels: &mut Vec<Level>) -> Result<(), LayerError> {
        let Some(done) = levels.pop() else { return Ok(()) };
        let Some(above) = levels.last_mut() else { return Ok(()) };
        if above.fd.is_none() {
            let fd = done.fd.as_ref().expect("the level that was just walked is open");
            let fail = |e| LayerError::io("go back to", &self.path[..above.prefix], e);
            let up = openat(fd, "..", DIR_FLAGS, Mode::empty()).map_err(fail)?;
            let stat = fstat(&up).map_err(fail)?;
            if (stat.st_dev, stat.st_ino) != above.identity {
                return Err(fail(Errno::STALE));
            }
            above.fd = Some(up);
        }
        Ok(())
    }

    fn mark(&self, dir: &OwnedFd) -> Result<DirectoryMark, LayerError> {
        directory_mark(dir, self.xattrs)
            .map_err(|e| LayerError::io("read the opaque mark of", &self.path, e))
    }

    fn item(
        &mut self,
        level: &mut Level,
        item: Item,
        visit: &mut impl FnMut(&LayerEntry<'_>, Option<OwnedFd>) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let name_range = item.start as usize..(item.start + item.length) as usize;
        let name = &level.names[name_range];
        let mark = |path, kind| LayerEntry {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nsec: 0,
            capability: b"",
            hard_link: None,
        };
        match item.role {
            Role::Whiteout => {
                self.path.extend(&name[WHITEOUT_PREFIX.len()..]);
                return visit(&mark(&self.path, LayerEntryKind::Whiteout), None);
            }
            Role::Opaque => {
                let directory = &self.path[..level.prefix.saturating_sub(1)];
                return visit(&mark(directory, LayerEntryKind::Opaque), None);
            }
            _ => self.path.extend(name),
        }
        let dir = level.fd.as_ref().expect("the level being walked is open");
        let fail = |doing, e| LayerError::io(doing, &self.path, e);

        let mut opened = None;
        let mut stat = match item.role {
            Role::File => {
                let fd = open_file(dir.as_fd(), name).map_err(|e| fail("open", e))?;
                let stat = fstat(&fd).map_err(|e| fail("read", e))?;
                opened = Some(fd);
                stat
            }
            Role::Dir => {
                let fd =
                    openat(dir, name, DIR_FLAGS, Mode::empty()).map_err(|e| fail("open", e))?;
                let stat = fstat(&fd).map_err(|e| fail("read", e))?;
                level.pending.push((item.start, fd));
                stat
            }
            _ => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail("read", e))?,
        };

        match (&opened, item.role, level.pending.last()) {
            (Some(file), ..) => owner::amend_open(file, &mut stat),
            (None, Role::Dir, Some((_, directory))) => owner::amend_open(directory, &mut stat),
            _ => owner::amend(dir.as_fd(), name, &mut stat),
        }
        let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => LayerEntryKind::File { size: stat.st_size as u64 },
            FileType::Directory => LayerEntryKind::Dir,
            FileType::Symlink => {
                let buffer = std::mem::take(&mut self.target);
                self.target = rustix::fs::readlinkat(dir, name, buffer)
                    .map_err(|e| fail("read the link", e))?
                    .into_bytes();
                LayerEntryKind::Symlink { target: &self.target }
            }
            FileType::CharacterDevice => {
                let (major, minor) = device();
                LayerEntryKind::Char { major, minor }
            }
            FileType::BlockDevice => {
                let (major, minor) = device();
                LayerEntryKind::Block { major, minor }
            }
            FileType::Fifo => LayerEntryKind::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(()),
        };

        let mut capability = [0u8; 64];
        let mut capability_length = 0;
        if let Some(fd) = &opened {
            capability_length = owner::capability(fd, &mut capability)
                .map_err(|e| fail("read the capabilities of", e))?;
        }

        let mut hard_link = None;
        if stat.st_nlink > 1 && kind != LayerEntryKind::Dir {
            match self.links.entry((stat.st_dev, stat.st_ino)) {
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(self.path.clone());
                }
                std::collections::btree_map::Entry::Occupied(slot) => {
                    hard_link = Some(slot.into_mut().as_slice());
                }
            }
        }
        if hard_link.is_some() {
            opened = None;
        }
        let entry = LayerEntry {
            path: &self.path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            mtime_nsec: stat.st_mtime_nsec as u32,
            capability: &capability[..capability_length],
            hard_link,
        };
        visit(&entry, opened)
    }
}

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a regular file without touching its access time, which would dirty its inode.
fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    // Should it be a fifo by now, do not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}
