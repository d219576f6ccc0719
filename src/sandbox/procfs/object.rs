//! What a link of a process leads to: a descriptor's file, a program, a directory.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, openat};
use rustix::io::Errno;

use super::{Caller, Change, Procfs, errno, own_link};
use crate::sys::rooted::open_in_root;

/// File systems by the numbers that statfs(2) has for them.
const PIPES: u64 = 0x5049_5045;
const MEMORY: u64 = 0x0102_1994;
const PROCFS: u64 = 0x9fa0;
const TERMINALS: u64 = 0x1cd1;

/// Devices that a command has in its `/dev` and that are the same for all: null, zero, full, random,
/// urandom. Not the terminal, which is that of who opens it.
const DEVICES: [(u32, u32); 5] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)];

/// How one of them may be opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// As it is asked for.
    Freely,
    /// For reading only.
    ToRead,
    /// With an error, as the kernel has it for what has no name.
    Never(Errno),
}

/// Something that is open, held without any right to it.
#[derive(Debug)]
pub(super) struct Object<'a> {
    proc: BorrowedFd<'a>,
    held: OwnedFd,
    again: Again,
}

impl<'a> Object<'a> {
    pub(super) fn new(proc: BorrowedFd<'a>, held: OwnedFd, is_inside: bool, text: &[u8]) -> Self {
        let again = judge(&held, is_inside, text).unwrap_or_else(Again::Never);
        Self { proc, held, again }
    }

    pub(super) fn into_held(self) -> OwnedFd {
        self.held
    }

    /// Changes it with the rights of the caller.
    pub(super) fn change(self, caller: &Caller, change: Change) -> Result<(), Errno> {
        if self.again != Again::Freely {
            return Err(Errno::PERM);
        }
        let name = own_link(&self.held);
        let _acting = Procfs::act(caller)?;
        match change {
            Change::Mode(mode) => {
                let mode = Mode::from_raw_mode(mode & 0o7777);
                rustix::fs::chmodat(self.proc, name, mode, AtFlags::empty())
            }
            Change::Owner(uid, gid) => {
                let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
                let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
                rustix::fs::chownat(self.proc, name, uid, gid, AtFlags::empty())
            }
            Change::Times(times) => {
                let now = (0, rustix::fs::UTIME_NOW);
                let [access, modification] = times.unwrap_or([now, now]);
                let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
                let times =
                    Timestamps { last_access: time(access), last_modification: time(modification) };
                rustix::fs::utimensat(self.proc, name, &times, AtFlags::empty())
            }
        }
    }

    /// Makes a name for it below a root directory with the rights of the caller.
    pub(super) fn link(
        self,
        caller: &Caller,
        root: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<(), Errno> {
        if self.again != Again::Freely {
            return Err(Errno::XDEV);
        }
        let slash = path.iter().rposition(|&byte| byte == b'/').ok_or(Errno::NOENT)?;
        let (parent, name) = (&path[..=slash], &path[slash + 1..]);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::EXIST);
        }
        let _acting = Procfs::act(caller)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = open_in_root(root, parent, flags).map_err(|error| errno(&error))?;
        let from = own_link(&self.held);
        rustix::fs::linkat(self.proc, from, parent, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Opens it again with the rights of the caller.
    pub(super) fn open(self, caller: &Caller, flags: OFlags) -> Result<OwnedFd, Errno> {
        let writes = flags.intersects(OFlags::RDWR | OFlags::WRONLY | OFlags::TRUNC);
        match self.again {
            Again::Never(error) => return Err(error),
            Again::ToRead if writes => return Err(Errno::ACCESS),
            Again::ToRead | Again::Freely => {}
        }
        let _acting = Procfs::act(caller)?;
        open_at_once(self.proc, &own_link(&self.held), flags & KEPT)
    }
}

/// Which flags of a caller count. What is open is there already.
const KEPT: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::NOATIME)
    .union(OFlags::DIRECT)
    .union(OFlags::DIRECTORY);

fn judge(held: &OwnedFd, is_inside: bool, text: &[u8]) -> Result<Again, Errno> {
    let stat = rustix::fs::fstat(held)?;
    let file_system = rustix::fs::fstatfs(held)?.f_type as u64;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let again = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo if is_inside || file_system == PIPES => Again::Freely,
        FileType::CharacterDevice if file_system == TERMINALS && device.0 >= 136 => Again::Freely,
        FileType::CharacterDevice if is_inside && DEVICES.contains(&device) => Again::Freely,
        FileType::RegularFile if file_system == PROCFS => Again::ToRead,
        FileType::RegularFile | FileType::Directory | FileType::Symlink if is_inside => {
            Again::Freely
        }
        // What has a name only as long as a process has it open.
        FileType::RegularFile
            if file_system == MEMORY && stat.st_nlink == 0 && text.starts_with(b"/memfd:") =>
        {
            Again::Freely
        }
        FileType::RegularFile | FileType::Directory => Again::Never(Errno::ACCESS),
        _ => Again::Never(Errno::NXIO),
    };
    Ok(again)
}

/// Opens a path of the tree to read it.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    // Devices and pipes are the kernel's to open, by their own names.
    let hold = OFlags::PATH | OFlags::CLOEXEC | flags & (OFlags::NOFOLLOW | OFlags::DIRECTORY);
    let held = open_in_root(root, path, hold).map_err(|error| errno(&error))?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode);
    if !kind.is_file() && !kind.is_dir() {
        return Err(if kind.is_symlink() { Errno::LOOP } else { Errno::NXIO });
    }
    let path = format!("/proc/{}", own_link(&held));
    open_at_once(rustix::fs::CWD, &path, flags & KEPT)
}

/// Opens something without waiting for what another process does, as the end of a lease or the other
/// end of a pipe.
fn open_at_once(dir: BorrowedFd<'_>, path: &str, asked: OFlags) -> Result<OwnedFd, Errno> {
    let how = asked | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(dir, path, how, Mode::empty())?;
    if !asked.contains(OFlags::NONBLOCK) {
        let now = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, now - OFlags::NONBLOCK)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    fn judged(path: &str, is_inside: bool) -> Again {
        let held = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        judge(&held, is_inside, path.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_opened_again_is_in_the_tree_or_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "1").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(judged(file, true), Again::Freely);
        assert_eq!(judged(file, false), Again::Never(Errno::ACCESS));
        assert_eq!(judged("/etc", false), Again::Never(Errno::ACCESS));
        assert_eq!(judged("/proc/version", false), Again::ToRead);
        assert_eq!(judged("/dev/null", true), Again::Freely);
        assert_eq!(judged("/dev/null", false), Again::Never(Errno::NXIO));
        assert_eq!(judged("/dev/tty", true), Again::Never(Errno::NXIO));
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(judged(&format!("/proc/self/fd/{}", pipe.as_raw_fd()), false), Again::Freely);
        let socket = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = format!("/proc/self/fd/{}", socket.0.as_raw_fd());
        assert_eq!(judged(&socket, false), Again::Never(Errno::NXIO));
    }
}
