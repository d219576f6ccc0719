//! Does for a command what its user namespace forbids and an image may need.
//!
//! The kernel lets nobody make a device node in a user namespace, though no harm can come of one
//! here: every mount that a command can reach has `nodev`, so nothing opens it. Docker's commands can
//! make them, and base images are made that way. So a second, small filter hands these calls, and no
//! others, to the builder, which makes the node in the command's place: beneath the command's own
//! root, from its own working folder, with its own ids and umask, and only if it has `CAP_MKNOD`.
//!
//! **Owners.** Where the user has one id (no subordinate ones), the kernel refuses every other owner. There
//! the filter hands over chown(2) and its kin, and the builder writes down what was asked for, as
//! [`layer::owner`](crate::layer::owner) says.
//!
//! # Not here
//!
//! The filter: [`super::seccomp`]. Loading it and sending the listener: [`super::init`].
//!
//! Source: seccomp_unotify(2), whose traps are: the thread may be gone and its number another's, so
//! the call is looked at again once all is open; memory can change after it was read, so it is read
//! once.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::caps::MKNOD;
use super::protocol::IdMap;
use super::seccomp;
use crate::layer::owner;
use crate::sys::notify::{self, Call};
use crate::sys::process::FsIds;

/// Serves calls until no process is left that could make one. Meant for a thread of its own, whose
/// root and working folder it changes.
pub(super) fn serve(listener: &OwnedFd) -> io::Result<()> {
    // Looked up while `/proc` is still ours: it is remembered for the whole process.
    owner::is_recorded();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        // Only poll tells, on all kernels, that nobody is left who could call.
        let mut watched = [PollFd::new(listener, PollFlags::IN)];
        match rustix::event::poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            result => _ = result?,
        }
        if !watched[0].revents().contains(PollFlags::IN) {
            return Ok(());
        }
        // One that was given up meanwhile wants no answer.
        if let Ok(call) = notify::receive(listener.as_fd()) {
            let outcome = act(&proc, listener, &call);
            notify::answer(listener.as_fd(), &call, outcome).ok();
        }
    }
}

/// What a deputy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Makes device nodes.
    Devices,
    /// Writes down owners.
    Owners,
}

impl Task {
    /// Returns what is needed under a map; without one, nothing is.
    pub(super) fn under(map: IdMap) -> Option<Self> {
        match (map.uid, map.gid, map.count) {
            (0, 0, 1) => Some(Self::Owners),
            // The ids of the builder, who may no more than the command.
            (0, 0, _) => None,
            _ => Some(Self::Devices),
        }
    }

    /// Returns the capability that the command needs for what is done in its place.
    pub(super) fn capability(self) -> u64 {
        match self {
            Self::Devices => MKNOD,
            Self::Owners => CHOWN,
        }
    }
}

fn act(proc: &OwnedFd, listener: &OwnedFd, call: &Call) -> Result<(), i32> {
    let [first, second, third, fourth, fifth, _] = call.arguments;
    let here = libc::AT_FDCWD;
    let request = match seccomp::call_name(call.arch, call.number) {
        Some("mknod") => Request::node(here, first, second, third),
        Some("mknodat") => Request::node(first as i32, second, third, fourth),
        Some("chown" | "chown32") => Request::owner(here, first, (second, third), 0),
        Some("lchown" | "lchown32") => {
            Request::owner(here, first, (second, third), libc::AT_SYMLINK_NOFOLLOW)
        }
        Some("fchown" | "fchown32") => {
            Request::owner(first as i32, 0, (second, third), libc::AT_EMPTY_PATH)
        }
        Some("fchownat") => Request::owner(first as i32, second, (third, fourth), fifth as i32),
        _ => return Err(libc::ENOSYS),
    };
    let caller = Caller::open(proc, call, &request).map_err(|error| number_of(&error))?;
    if !notify::is_waiting(listener.as_fd(), call) {
        return Err(libc::ESRCH);
    }
    let needed = match request.what {
        What::Node { .. } => MKNOD,
        What::Owner { .. } => CHOWN,
    };
    if caller.capabilities & needed == 0 {
        return Err(libc::EPERM);
    }
    let acting = caller.enter().map_err(|error| number_of(&error))?;
    let done = match request.what {
        What::Node { mode, device } => {
            let kind = FileType::from_raw_mode(mode);
            let permissions = Mode::from_raw_mode(mode & 0o7777 & !caller.umask);
            rustix::fs::mknodat(CWD, caller.path.as_slice(), kind, permissions, device)
        }
        What::Owner { uid, gid, flags } => caller.give(proc, uid, gid, flags),
    };
    drop(acting);
    done.map_err(Errno::raw_os_error)
}

/// A call, taken apart.
struct Request {
    folder: i32,
    path: u64,
    what: What,
}

enum What {
    Node { mode: u32, device: u64 },
    Owner { uid: u32, gid: u32, flags: i32 },
}

impl Request {
    fn node(folder: i32, path: u64, mode: u64, device: u64) -> Self {
        let what = What::Node { mode: mode as u32, device: device & u64::from(u32::MAX) };
        Self { folder, path, what }
    }

    fn owner(folder: i32, path: u64, (uid, gid): (u64, u64), flags: i32) -> Self {
        Self { folder, path, what: What::Owner { uid: uid as u32, gid: gid as u32, flags } }
    }
}

const CHOWN: u64 = 1 << 0;
const FOWNER: u64 = 1 << 3;
const FSETID: u64 = 1 << 4;
const DAC_OVERRIDE: u64 = 1 << 1;

fn number_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Who made a call, and where it stands.
struct Caller {
    root: OwnedFd,
    folder: OwnedFd,
    path: Vec<u8>,
    uid: u32,
    gid: u32,
    umask: u32,
    /// Effective, in its own user namespace.
    capabilities: u64,
}

impl Caller {
    fn open(proc: &OwnedFd, call: &Call, request: &Request) -> io::Result<Self> {
        let pid = call.pid;
        let open = |name: String, flags: OFlags| {
            rustix::fs::openat(proc, name, flags | OFlags::CLOEXEC, Mode::empty())
        };
        let folder = match request.folder {
            libc::AT_FDCWD => format!("{pid}/cwd"),
            number => format!("{pid}/fd/{number}"),
        };
        let memory = std::fs::File::from(open(format!("{pid}/mem"), OFlags::RDONLY)?);
        let mut status = String::new();
        let mut file = std::fs::File::from(open(format!("{pid}/status"), OFlags::RDONLY)?);
        io::Read::read_to_string(&mut file, &mut status)?;
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim)
        };
        // Real, effective, saved, and that for files.
        let id = |name| {
            let ids = field(name).split_ascii_whitespace().nth(3);
            ids.and_then(|id| id.parse().ok()).ok_or(io::ErrorKind::InvalidData)
        };
        Ok(Self {
            root: open(format!("{pid}/root"), OFlags::PATH | OFlags::DIRECTORY)?,
            folder: open(folder, OFlags::PATH).map_err(|error| match error {
                Errno::NOENT => Errno::BADF,
                error => error,
            })?,
            // A descriptor alone has no path.
            path: if request.path == 0 { Vec::new() } else { text_at(&memory, request.path)? },
            uid: id("Uid:")?,
            gid: id("Gid:")?,
            umask: u32::from_str_radix(field("Umask:"), 8).unwrap_or(0o022),
            capabilities: u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0),
        })
    }

    /// Takes the caller's place: its root, its folder, its ids for files and no more of our
    /// capabilities than it has of its own.
    fn enter(&self) -> io::Result<FsIds> {
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(".")?;
        // What a path does not start from need not be a folder.
        if !self.path.is_empty() {
            rustix::process::fchdir(&self.folder)?;
        }
        let kept = self.capabilities & (MKNOD | DAC_OVERRIDE | CHOWN | FOWNER | FSETID);
        FsIds::become_user_with(self.uid, self.gid, CapabilitySet::from_bits_retain(kept))
    }

    /// Writes down an owner, in the caller's place.
    fn give(&self, proc: &OwnedFd, uid: u32, gid: u32, flags: i32) -> Result<(), Errno> {
        let file = if !self.path.is_empty() {
            let mut how = OFlags::PATH | OFlags::CLOEXEC;
            if flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
                how |= OFlags::NOFOLLOW;
            }
            rustix::fs::openat(CWD, self.path.as_slice(), how, Mode::empty())?
        } else if flags & libc::AT_EMPTY_PATH != 0 {
            rustix::io::fcntl_dupfd_cloexec(&self.folder, 0)?
        } else {
            return Err(Errno::NOENT);
        };
        // The kernel's part: read-only mounts, permissions, and setuid bits that a change clears.
        let (root, group) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
        rustix::fs::chownat(&file, "", Some(root), Some(group), AtFlags::EMPTY_PATH)?;
        let mut stat = rustix::fs::fstat(&file)?;
        if !matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Directory
        ) {
            return Ok(());
        }
        let name = format!("self/fd/{}", file.as_raw_fd());
        let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(proc, name, how, Mode::empty())?;
        owner::amend_open(&file, &mut stat);
        // -1 leaves one of the two as it is.
        let or = |id: u32, old: u32| if id == u32::MAX { old } else { id };
        owner::record(file.as_fd(), or(uid, stat.st_uid), or(gid, stat.st_gid))
    }
}

/// Reads a path out of a process.
fn text_at(memory: &std::fs::File, address: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut piece = [0; 256];
    while text.len() < libc::PATH_MAX as usize {
        let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
        // Up to the end of a page: the next may not be there.
        let length = piece.len().min(4096 - (at % 4096) as usize);
        let read = match memory.read_at(&mut piece[..length], at) {
            Ok(0) | Err(_) => return Err(Errno::FAULT.into()),
            Ok(read) => read,
        };
        if let Some(end) = piece[..read].iter().position(|&byte| byte == 0) {
            text.extend(&piece[..end]);
            return Ok(text);
        }
        text.extend(&piece[..read]);
    }
    Err(Errno::NAMETOOLONG.into())
}
