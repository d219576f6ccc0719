//! Putting members of a tar into a tree, each path resolved beneath its root by the kernel.

mod links;
mod names;
mod nodes;
mod parents;
mod way;

use self::names::{check_path, is_dot};
use self::nodes::Nodes;
use self::way::{Next, Way};
use super::hash_cache::HashCache;
use super::stack::Stack;
use super::untar::{Member, MemberKind, Piece, TarReader};
use super::whiteout::{
    DirectoryMark, Whiteout, announce_whiteout_files, directory_mark, is_whiteout_at, make_opaque,
    make_whiteout,
};
use super::{LayerError, OPAQUE_MARKER, WHITEOUT_PREFIX, XattrSpace, owner};
use crate::sys::cancel::Cancel;
use crate::sys::remove::remove_tree;
use crate::text::path::clean_bytes_below;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, ftruncate, futimens,
    mkdirat, mknodat, openat, seek, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::ffi::CString;
use std::io::BufRead;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// What differs between applying a layer and extracting an archive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// A fresh layer's directory: whiteouts become overlay's, and what is missing may be in a layer
    /// below.
    Layer { xattrs: XattrSpace, below: Option<&'a Stack> },
    /// A tree that is being changed: names that begin with `.wh.` mean themselves.
    Tree { owner: Option<(u32, u32)> },
    /// A fresh directory that is not a layer: every name means itself.
    Plain,
}

/// What was applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// File capabilities and devices that this process may not make.
    pub(super) refused: u64,
    /// Directories and files that the tar takes from the layers below, there or not.
    pub(super) borrowed: u64,
    /// Whether a member set the attributes of the root.
    pub(super) sets_root: bool,
    /// Directories that were opened to find members and their links.
    pub(super) opened: u64,
}

pub(super) struct Applier<'a> {
    root: BorrowedFd<'a>,
    target: Target<'a>,
    cancel: &'a Cancel,
    /// The way to the directory of the member before, which most members share.
    way: Way<'a>,
    /// The same for the target of a hard link.
    link_way: Way<'a>,
    /// Directories with their times, which are set when nothing more is put into them.
    nodes: Nodes,
    /// What the files of a layer hold.
    contents: HashCache,
    /// Time of the root, where an archive has one.
    root_time: Option<Timespec>,
    applied: Applied,
}

/// The last second of which every nanosecond since 1970 fits 63 bits, in 2262.
const NANOSECONDS_END: i64 = i64::MAX / 1_000_000_000;

/// A time far enough from the ends of every filesystem's range to be storable by some.
const TIME_MAX: i64 = 1 << 34;

impl<'a> Applier<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, target: Target<'a>, cancel: &'a Cancel) -> Self {
        Self {
            root,
            target,
            cancel,
            way: Way::new(root),
            link_way: Way::new(root),
            nodes: Nodes::new(),
            contents: HashCache::default(),
            root_time: None,
            applied: Applied::default(),
        }
    }

    /// Applies the member whose content `tar` is about to give.
    pub(super) fn member<R: BufRead>(
        &mut self,
        member: &Member,
        tar: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        let path = clean_bytes_below(&member.path);
        let Some(name) = path.rsplit(|&b| b == b'/').next().filter(|name| !name.is_empty()) else {
            return self.top(member);
        };
        let directory = &path[..path.len() - name.len()];
        let directory = directory.strip_suffix(b"/").unwrap_or(directory);
        self.applied.entries += 1;
        check_path(&path)?;

        let parent = self.open_parent(directory)?;
        let result =
            if name.starts_with(WHITEOUT_PREFIX) && matches!(self.target, Target::Layer { .. }) {
                self.whiteout(parent.as_fd(), &path, name)
            } else {
                self.put(parent.as_fd(), member, &path, name, tar)
            };
        self.way.give_back(parent);
        result
    }

    /// Applies a member that is the root itself. In a layer it has no effect: no layer has an entry
    /// for its root. Of an archive, `/` sets the destination's attributes, and `.` has no effect.
    fn top(&mut self, member: &Member) -> Result<(), LayerError> {
        let Target::Tree { owner } = self.target else { return Ok(()) };
        if is_dot(&member.path) {
            return Ok(());
        }
        if member.kind != MemberKind::Dir {
            let what = "a member that is not a directory has the place of the destination";
            return Err(LayerError::malformed(what, &member.path));
        }
        let fail = |doing| move |e: Errno| LayerError::io(doing, b"", e);
        let (uid, gid) = owner.unwrap_or((member.uid, member.gid));
        owner::set_open(self.root, uid, gid).map_err(fail("change the owner of"))?;
        owner::set_mode_open(self.root, member.mode).map_err(fail("change the mode of"))?;
        self.root_time = Some(self.time_of(member));
        Ok(())
    }

    /// Returns the time that a member gets.
    fn time_of(&self, member: &Member) -> Timespec {
        let seconds = match self.target {
            // As Docker's unpacker has it: what does not fit nanoseconds since 1970 in 63 bits is
            // 1970.
            Target::Tree { .. } if !(0..=NANOSECONDS_END).contains(&member.mtime) => {
                return Timespec { tv_sec: 0, tv_nsec: 0 };
            }
            Target::Tree { .. } => member.mtime,
            Target::Layer { .. } | Target::Plain => member.mtime.clamp(-TIME_MAX, TIME_MAX),
        };
        Timespec { tv_sec: seconds, tv_nsec: i64::from(member.mtime_nsec) }
    }

    /// Sets the times of directories. Returns what was applied, and of a layer what its files hold.
    pub(super) fn finish(mut self) -> Result<(Applied, HashCache), LayerError> {
        self.way.forget();
        self.way.rejoin(b"").map_err(|e| LayerError::io("open", b"", e))?;
        // Directories on the way down, each with those of its children that are still to be
        // visited.
        let mut open = vec![self.children(nodes::ROOT)];
        while let Some(todo) = open.last_mut() {
            let Some((name, number)) = todo.pop() else {
                open.pop();
                if !open.is_empty() {
                    self.way.pop().map_err(|e| LayerError::io("open", self.way.path(), e))?;
                }
                continue;
            };
            let path = |way: &Way<'_>| way.path_of(&name);
            if let (Some(time), Some(here)) = (self.nodes.at(number).time, self.way.here()) {
                match set_times(here, &name, time) {
                    // Removed under another name, which leads through a link.
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(e) => return Err(LayerError::io("set the time of", &path(&self.way), e)),
                }
            }
            if self.nodes.children(number).next().is_none() {
                continue;
            }
            let next = self.way.next(&name);
            let next = match next.map_err(|e| LayerError::io("open", &path(&self.way), e))? {
                Next::Dir(fd) => Some(fd),
                Next::Link => self.way.follow(&name).ok(),
                Next::Other | Next::Missing => None,
            };
            let Some(fd) = next else { continue };
            self.way
                .push(&name, fd, number)
                .map_err(|e| LayerError::io("open", self.way.path(), e))?;
            open.push(self.children(number));
        }
        if let Some(time) = self.root_time {
            let times = Timestamps { last_access: time, last_modification: time };
            futimens(self.root, &times).map_err(|e| LayerError::io("set the time of", b"", e))?;
            self.applied.sets_root = true;
        }
        self.applied.borrowed += self.nodes.implied() as u64;
        self.applied.opened = self.way.opened() + self.link_way.opened();
        Ok((self.applied, self.contents))
    }

    fn children(&self, number: u32) -> Vec<(Vec<u8>, u32)> {
        self.nodes.children(number).map(|(name, number)| (name.to_vec(), number)).collect()
    }

    fn whiteout(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), LayerError> {
        let fail = |e: Errno| LayerError::io("white out", path, e);
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        let Target::Layer { xattrs, .. } = self.target else { return Ok(()) };
        if name == OPAQUE_MARKER {
            return make_opaque(parent, xattrs).map_err(fail);
        }
        // aufs kept its own files under this prefix; no image needs them.
        if hidden.starts_with(WHITEOUT_PREFIX) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::Malformed {
                what: "a whiteout names nothing",
                path: String::from_utf8_lossy(path).into(),
            });
        }
        // Below an opaque directory there is nothing to hide.
        if directory_mark(parent, xattrs).map_err(fail)? == DirectoryMark::Opaque
            && !is_there(parent, hidden)
        {
            return Ok(());
        }
        match make_whiteout(parent, hidden, xattrs) {
            // This layer's own file of that name stays, by the specification; where it is a
            // directory, what is below it must go.
            Err(Errno::EXIST) => match open_dir(parent, hidden) {
                Ok(dir) => make_opaque(dir.as_fd(), xattrs).map_err(fail),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(e) => Err(fail(e)),
            },
            Ok(Whiteout::Device) => Ok(()),
            Ok(Whiteout::File) => announce_whiteout_files(self.root, xattrs).map_err(fail),
            Err(e) => Err(fail(e)),
        }
    }

    /// Removes what is at a path, and forgets what was known of it.
    fn remove(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), LayerError> {
        let name = CString::new(name).map_err(|_| LayerError::io("remove", path, Errno::INVAL))?;
        remove_tree(parent, &name).map_err(|e| LayerError::io("replace", path, e))?;
        self.nodes.remove(self.way.node(), name.to_bytes());
        self.link_way.forget();
        Ok(())
    }

    fn put<R: BufRead>(
        &mut self,
        parent: BorrowedFd<'_>,
        member: &Member,
        path: &[u8],
        name: &[u8],
        tar: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        // Almost nothing exists, so make first and look only when that fails.
        match self.make(parent, member, path, name, tar) {
            Err(MakeError::Exists) => {}
            Err(MakeError::Other(e)) => return Err(e),
            Ok(()) => return Ok(()),
        }
        let hides = match self.target {
            Target::Layer { xattrs, .. } => {
                is_whiteout_at(parent, name, xattrs).is_ok_and(|it_is| it_is).then_some(xattrs)
            }
            Target::Tree { .. } | Target::Plain => None,
        };
        self.remove(parent, path, name)?;
        match self.make(parent, member, path, name, tar) {
            Ok(()) => {}
            Err(MakeError::Other(e)) => return Err(e),
            Err(MakeError::Exists) => return Err(LayerError::io("make", path, Errno::EXIST)),
        }
        if let (Some(xattrs), MemberKind::Dir) = (hides, member.kind) {
            open_dir(parent, name)
                .and_then(|dir| make_opaque(dir.as_fd(), xattrs))
                .map_err(|e| LayerError::io("mark", path, e))?;
        }
        Ok(())
    }

    fn make<R: BufRead>(
        &mut self,
        parent: BorrowedFd<'_>,
        member: &Member,
        path: &[u8],
        name: &[u8],
        tar: &mut TarReader<R>,
    ) -> Result<(), MakeError> {
        let fail = |doing| {
            move |e: Errno| match e {
                Errno::EXIST => MakeError::Exists,
                e => MakeError::Other(LayerError::io(doing, path, e)),
            }
        };
        let (uid, gid) = match self.target {
            Target::Tree { owner: Some(owner) } => owner,
            _ => (member.uid, member.gid),
        };
        let time = self.time_of(member);
        let device = |kind, major, minor| {
            mknodat(parent, name, kind, Mode::from(0o600), rustix::fs::makedev(major, minor))
        };
        match member.kind {
            MemberKind::Other(_) => {
                let what = member.kind.refusal().unwrap_or_default();
                return Err(MakeError::Other(LayerError::malformed(what, path)));
            }
            MemberKind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = openat(parent, name, flags | OFlags::NOFOLLOW, Mode::from(0o600))
                    .map_err(fail("make"))?;
                self.applied.bytes += member.size;
                let is_layer = matches!(self.target, Target::Layer { .. });
                let mut hasher = is_layer.then(blake3::Hasher::new);
                let mut has_holes = false;
                tar.pieces(|piece| match piece {
                    Piece::Bytes(bytes) => {
                        hasher.as_mut().map(|hasher| hasher.update(bytes));
                        write_all(&file, bytes).map_err(|e| LayerError::io("write", path, e))
                    }
                    Piece::Hole(length) => {
                        has_holes = true;
                        seek(&file, SeekFrom::Current(length.cast_signed()))
                            .map(drop)
                            .map_err(|e| LayerError::io("write", path, e))
                    }
                })
                .map_err(MakeError::Other)?;
                if has_holes {
                    // Hashing holes may take longer than their archive takes to be read.
                    hasher = None;
                    ftruncate(&file, member.size).map_err(fail("write"))?;
                }
                if let Some(hasher) = hasher {
                    let hash = *hasher.finalize().as_bytes();
                    self.contents.insert(&file, member.size, hash).map_err(fail("look at"))?;
                }
                chown_fd(&file, uid, gid).map_err(fail("change the owner of"))?;
                self.capability(&file, member).map_err(fail("set the capabilities of"))?;
                owner::set_mode_open(&file, member.mode).map_err(fail("change the mode of"))?;
                let times = Timestamps { last_access: time, last_modification: time };
                return futimens(&file, &times).map_err(fail("set the time of"));
            }
            MemberKind::Dir => {
                let dir = match mkdirat(parent, name, Mode::from(0o700)) {
                    // A directory stays, and takes the member's attributes.
                    Ok(()) | Err(Errno::EXIST) => match open_dir(parent, name) {
                        Err(Errno::NOTDIR | Errno::LOOP) => return Err(MakeError::Exists),
                        other => other.map_err(fail("open"))?,
                    },
                    Err(e) => return Err(fail("make")(e)),
                };
                chown_fd(&dir, uid, gid).map_err(fail("change the owner of"))?;
                owner::set_mode_open(&dir, member.mode).map_err(fail("change the mode of"))?;
                let number = self.nodes.number(self.way.node(), name);
                *self.nodes.at(number) = nodes::Node { time: Some(time), is_implied: false };
                return Ok(());
            }
            MemberKind::HardLink => {
                return self.hard_link(parent, member, path, name, time, (uid, gid));
            }
            MemberKind::Symlink => {
                symlinkat(member.link.as_slice(), parent, name).map_err(fail("make"))?;
            }
            MemberKind::Fifo => device(FileType::Fifo, 0, 0).map_err(fail("make"))?,
            MemberKind::Char | MemberKind::Block => {
                // No step can make one, so its presence means harm.
                if matches!(self.target, Target::Plain) {
                    return Err(MakeError::Other(LayerError::Malformed {
                        what: "a device, which no step can have made",
                        path: String::from_utf8_lossy(path).into(),
                    }));
                }
                let kind = if member.kind == MemberKind::Char {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                // Overlay would take it for a whiteout.
                if kind == FileType::CharacterDevice && (member.major, member.minor) == (0, 0) {
                    return Err(MakeError::Other(LayerError::Malformed {
                        what: "a character device 0:0 would remove files",
                        path: String::from_utf8_lossy(path).into(),
                    }));
                }
                match device(kind, member.major, member.minor) {
                    // No process can make devices in a user namespace; Docker skips them there,
                    // too.
                    Err(Errno::PERM) => {
                        self.applied.refused += 1;
                        return Ok(());
                    }
                    other => other.map_err(fail("make"))?,
                }
            }
        }
        owner::set(parent, name, uid, gid).map_err(fail("change the owner of"))?;
        if member.kind != MemberKind::Symlink {
            // It was made just now, and by us: no link can be followed.
            owner::set_mode(parent, name, member.mode).map_err(fail("change the mode of"))?;
        }
        set_times(parent, name, time).map_err(fail("set the time of"))
    }

    fn restore_capability(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        member: &Member,
        path: &[u8],
    ) -> Result<(), MakeError> {
        if member.capability.is_none() {
            return Ok(());
        }
        let fail = |e: Errno| MakeError::Other(LayerError::io("set the capabilities of", path, e));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(parent, name, flags, Mode::empty()).map_err(fail)?;
        self.capability(&file, member).map_err(fail)
    }

    fn capability(&mut self, file: &OwnedFd, member: &Member) -> Result<(), Errno> {
        let Some(value) = &member.capability else { return Ok(()) };
        match owner::set_capability(file, value) {
            Err(Errno::NOTSUP | Errno::PERM) => {
                self.applied.refused += 1;
                Ok(())
            }
            other => other,
        }
    }
}

enum MakeError {
    /// Something is there already; nothing of the member's content was read.
    Exists,
    Other(LayerError),
}

const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

fn is_there(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn is_absent(e: &std::io::Error) -> bool {
    matches!(
        e.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NXIO)
    )
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn stat_time(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 }
}

fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn chown_fd(fd: &OwnedFd, uid: u32, gid: u32) -> Result<(), Errno> {
    owner::set_open(fd, uid, gid)
}

fn set_times(parent: BorrowedFd<'_>, name: &[u8], time: Timespec) -> Result<(), Errno> {
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(parent, name, &times, NOFOLLOW)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
