//! Does for a command what its user namespace forbids and an image may need.
//!
//! The kernel lets nobody make a device node in a user namespace, though no harm can come of one
//! here: every mount that a command can reach has `nodev`, so nothing opens it. Docker's commands can
//! make them, and base images are made that way. So a second, small filter hands these calls, and no
//! others, to the builder, which makes the node in the command's place: beneath the command's own
//! root, from its own working folder, with its own ids and umask, and only if it has `CAP_MKNOD`.
//!
//! # Not here
//!
//! The filter: [`super::seccomp`]. Loading it and sending the listener: [`super::init`].
//!
//! Source: seccomp_unotify(2), whose traps are: the thread may be gone and its number another's, so
//! the call is looked at again once all is open; memory can change after it was read, so it is read
//! once.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::caps::MKNOD;
use super::seccomp;
use crate::sys::notify::{self, Call};
use crate::sys::process::FsIds;

/// Serves calls until no process is left that could make one. Meant for a thread of its own, whose
/// root and working folder it changes.
pub(super) fn serve(listener: &OwnedFd) -> io::Result<()> {
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

fn act(proc: &OwnedFd, listener: &OwnedFd, call: &Call) -> Result<(), i32> {
    let [first, second, third, fourth, ..] = call.arguments;
    let (folder, path, mode, device) = match seccomp::call_name(call.arch, call.number) {
        Some("mknod") => (libc::AT_FDCWD, first, second, third),
        Some("mknodat") => (first as i32, second, third, fourth),
        _ => return Err(libc::ENOSYS),
    };
    let caller = Caller::open(proc, call, folder, path).map_err(|error| number_of(&error))?;
    if !notify::is_waiting(listener.as_fd(), call) {
        return Err(libc::ESRCH);
    }
    if caller.capabilities & MKNOD == 0 {
        return Err(libc::EPERM);
    }
    let acting = caller.enter().map_err(|error| number_of(&error))?;
    let kind = FileType::from_raw_mode(mode as u32);
    let permissions = Mode::from_raw_mode(mode as u32 & 0o7777 & !caller.umask);
    let device = device & u64::from(u32::MAX);
    let made =
        rustix::fs::mknodat(rustix::fs::CWD, caller.path.as_slice(), kind, permissions, device);
    drop(acting);
    made.map_err(Errno::raw_os_error)
}

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
    fn open(proc: &OwnedFd, call: &Call, folder: i32, path: u64) -> io::Result<Self> {
        let pid = call.pid;
        let open = |name: String, flags: OFlags| {
            rustix::fs::openat(proc, name, flags | OFlags::CLOEXEC, Mode::empty())
        };
        let folder = match folder {
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
            path: text_at(&memory, path)?,
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
        rustix::process::fchdir(&self.folder)?;
        let bits = CapabilitySet::from_bits_retain(self.capabilities & (MKNOD | DAC_OVERRIDE));
        FsIds::become_user_with(self.uid, self.gid, bits)
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
