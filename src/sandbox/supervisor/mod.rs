//! The supervisor: a thread that answers the system calls which a command's user namespace forbids
//! and an image may need.
//!
//! A second, small seccomp filter hands some calls, and no others, to the supervisor, which acts
//! for the command: beneath the command's own root, from its working directory, with its ids, its
//! umask and no more file capabilities than it has. The thread has given up the builder's other
//! privileges.
//!
//! **As root** these are calls that make device nodes. The kernel lets no process make one in a
//! user namespace, though one is harmless here: every mount that a command can reach has
//! `nodev`, so nothing opens it. Docker's commands can make them, and base images are made that
//! way. They are made in file systems of the step's own only: on a volume the node would be one of
//! the machine's, which may open it.
//!
//! **Where the user has one id** (no subordinate ones) the kernel refuses every other owner and
//! every change of users. There the supervisor emulates owners and users:
//!
//! | calls | what is done | where |
//! |---|---|---|
//! | chown and similar calls | the owner is recorded, as [`layer::owner`](crate::layer::owner) says | [`ownership`] |
//! | stat and similar calls | a recorded owner is returned; for other files the kernel answers | [`ownership`] |
//! | setuid, getuid and similar calls | the ids that a process has set are remembered, and returned to it | [`credentials`] |
//! | calls that make files | a file of another user than root is made, and its owner recorded | [`create`] |
//!
//! Only what a command sees is emulated: to the kernel, and for every permission, all processes are
//! root of the command's namespace, as without a supervisor. A call that the supervisor cannot
//! answer is left to the kernel, with the caller's own rights. So no mistake here grants access to
//! anything.
//!
//! # Invariants
//!
//! From seccomp_unotify(2), whose traps are: the thread may be gone and its number another's, so
//! all is opened first, then the call is looked at again, then something is done; memory can change
//! after it was read, so it is read once.
//!
//! Paths are resolved by the kernel with this thread's root at the caller's and without the links
//! of `/proc` that lead to wherever a process is. This thread's working directory is the builder's
//! `/proc`.
//!
//! # Not here
//!
//! The filter: [`super::seccomp`]. Loading it and sending the listener: [`super::init`].

mod create;
pub(super) mod credentials;
mod ownership;
pub(super) mod target;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::caps;
use super::protocol::RunRequest;
use super::seccomp;
use crate::layer::owner;
use crate::sys::notify::{self, Answer, Call};
use create::NewNode;
use credentials::{Change, Credentials, Query, Register, Width};
pub(super) use ownership::{StatFormat, narrow};
use target::{Name, Target};

/// Serves calls until no process is left that could make one. Meant for a thread of its own, whose
/// root, working directory and capabilities it changes.
///
/// Devices are made on the file systems with the numbers `own` only.
pub(super) fn serve(listener: &OwnedFd, own: &[u64]) -> io::Result<()> {
    // Looked up while `/proc` is still ours: it is remembered for the whole process.
    let is_single = owner::is_recorded();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    rustix::process::chdir("/proc")?;
    caps::hold(HELD)?;
    notify::take_turns(listener.as_fd());
    let mut credentials = Credentials::default();
    loop {
        // Only poll reports, on all kernels, that no process is left that could call.
        let mut watched = [PollFd::new(listener, PollFlags::IN)];
        match rustix::event::poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            result => _ = result?,
        }
        if !watched[0].revents().contains(PollFlags::IN) {
            return Ok(());
        }
        // One that was given up in the meantime wants no answer.
        if let Ok(call) = notify::receive(listener.as_fd()) {
            let target = Target { listener: listener.as_fd(), call: &call, powers: None };
            let answer =
                if is_single { appearance(&mut credentials, target) } else { device(target, own) };
            let answer = answer.unwrap_or_else(|error| Answer::Error(error.raw_os_error()));
            notify::answer(listener.as_fd(), &call, &answer).ok();
        }
    }
}

/// What this thread keeps of the builder's capabilities, if that has them: those about files, and
/// what it takes to stand in another's place (`SETGID`, `SETUID`, `SYS_CHROOT`, `SYS_PTRACE`) and
/// to write owners of links down (`SETFCAP`).
const HELD: u64 = caps::FILES | caps::SETGID | caps::SETUID | 1 << 18 | 1 << 19 | 1 << 31;

/// What a supervisor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Makes device nodes.
    Devices,
    /// Emulates owners and users.
    Owners,
    /// Serves `/proc` to a command in a root directory, see [`super::chroot`].
    Paths,
    /// Resolves all paths, and emulates owners and users, see [`super::emulated`].
    Everything,
}

impl Task {
    /// Returns what a command needs.
    pub(super) fn of(request: &RunRequest) -> Option<Self> {
        match request.userns.as_ref().map(|(_, map)| map) {
            _ if request.chroot.is_some() => Some(Self::Paths),
            _ if request.emulated.is_some() => Some(Self::Everything),
            _ if owner::is_recorded() => Some(Self::Owners),
            Some(map) if map.translates() => Some(Self::Devices),
            // The builder may no more than the command.
            _ => None,
        }
    }

    /// Says whether it is of any use to a command with these capabilities.
    pub(super) fn serves(self, capabilities: u64) -> bool {
        self != Self::Devices || capabilities & caps::MKNOD != 0
    }
}

fn device(target: Target<'_>, own: &[u64]) -> Result<Answer, Errno> {
    let [first, second, third, fourth, ..] = target.call.arguments;
    let (directory, path, mode, device) = match seccomp::call_name(target.call) {
        Some("mknod") => (libc::AT_FDCWD, first, second, third),
        Some("mknodat") => (first as i32, second, third, fourth),
        _ => return Err(Errno::NOSYS),
    };
    let name = Name { directory, path: Some(path), flags: 0 };
    create::make_device(target, name, mode as u32, device, own)
}

fn appearance(credentials: &mut Credentials, target: Target<'_>) -> Result<Answer, Errno> {
    let Some(request) = Trapped::of(target.call) else { return Ok(Answer::Kernel) };
    match request {
        Trapped::Look(name, form, buffer) => {
            Ok(ownership::look(target, name, form, buffer).unwrap_or(Answer::Kernel))
        }
        Trapped::Give(name, owner) => {
            ownership::give(target, &*credentials.identity(target)?, name, owner)
        }
        Trapped::Create(name, node) => {
            let created = credentials
                .identity(target)
                .and_then(|identity| create::create(target, &identity, name, node));
            Ok(created.unwrap_or(Answer::Kernel))
        }
        Trapped::Ask(which, question, width) => credentials.ask(target, which, question, width),
        Trapped::Keep(keeps) => credentials.keep(target, keeps),
        Trapped::Groups { room, list, width } => credentials.groups(target, room, list, width),
        Trapped::SetGroups { count, list, width } => {
            credentials.set_groups(target, count, list, width)
        }
    }
}

/// Says whether this is a call that the supervisor answers for a user with one id.
pub(super) fn is_taken(call: &Call) -> bool {
    Trapped::of(call).is_some()
}

/// A call, taken apart.
enum Trapped {
    Look(Name, StatFormat, u64),
    Give(Name, (u32, u32)),
    Create(Name, NewNode),
    Ask(Register, Query, Width),
    Keep(bool),
    Groups { room: u64, list: u64, width: Width },
    SetGroups { count: u64, list: u64, width: Width },
}

impl Trapped {
    /// Takes a call apart; `None` for one that is the kernel's alone.
    fn of(call: &Call) -> Option<Self> {
        let [first, second, third, fourth, fifth, _] = call.arguments;
        let name = seccomp::call_name(call)?;
        let is_narrow = seccomp::is_narrow(call.arch);
        let at = |directory: u64, path, flags: u64| Name {
            directory: directory as i32,
            path: Some(path),
            flags: flags as i32,
        };
        let here = |path| at(HERE, path, 0);
        let no_link = |path| at(HERE, path, libc::AT_SYMLINK_NOFOLLOW as u64);
        let open = |file: u64| Name { directory: file as i32, path: None, flags: 0 };
        // Names that 32-bit architectures gave their first, 16-bit calls.
        let width = if is_narrow && !name.ends_with("32") { Width::Two } else { Width::Four };
        let owner = |uid, gid| (width.id(uid), width.id(gid));
        Some(match name {
            "newfstatat" => Self::Look(at(first, second, fourth), StatFormat::Plain, third),
            "stat" if !is_narrow => Self::Look(here(first), StatFormat::Plain, second),
            "lstat" if !is_narrow => Self::Look(no_link(first), StatFormat::Plain, second),
            "fstat" if !is_narrow => Self::Look(open(first), StatFormat::Plain, second),
            "fstatat64" => Self::Look(at(first, second, fourth), StatFormat::Narrow, third),
            "stat64" => Self::Look(here(first), StatFormat::Narrow, second),
            "lstat64" => Self::Look(no_link(first), StatFormat::Narrow, second),
            "fstat64" => Self::Look(open(first), StatFormat::Narrow, second),
            "statx" => {
                let form = StatFormat::Extended { flags: third as i32, mask: fourth as u32 };
                Self::Look(at(first, second, third), form, fifth)
            }
            "chown" | "chown32" => Self::Give(here(first), owner(second, third)),
            "lchown" | "lchown32" => Self::Give(no_link(first), owner(second, third)),
            "fchown" | "fchown32" => Self::Give(open(first), owner(second, third)),
            "fchownat" => Self::Give(at(first, second, fifth), (third as u32, fourth as u32)),
            "open" => Self::file(here(first), second, third)?,
            "openat" => Self::file(at(first, second, 0), third, fourth)?,
            "creat" => Self::file(here(first), CREATION, second)?,
            "mkdir" => Self::Create(here(first), NewNode::Directory { mode: second as u32 }),
            "mkdirat" => {
                Self::Create(at(first, second, 0), NewNode::Directory { mode: third as u32 })
            }
            "symlink" => Self::Create(here(second), NewNode::Link { text: first }),
            "symlinkat" => Self::Create(at(second, third, 0), NewNode::Link { text: first }),
            "mknod" => Self::node(here(first), second, third)?,
            "mknodat" => Self::node(at(first, second, 0), third, fourth)?,
            "prctl" if first as i32 == libc::PR_SET_KEEPCAPS => Self::Keep(second != 0),
            "getgroups" | "getgroups32" => Self::Groups { room: first, list: second, width },
            "setgroups" | "setgroups32" => Self::SetGroups { count: first, list: second, width },
            _ => {
                let (which, question) = question(name, width, [first, second, third])?;
                Self::Ask(which, question, width)
            }
        })
    }

    fn file(name: Name, flags: u64, mode: u64) -> Option<Self> {
        let flags = flags as i32;
        // None of these makes a file, or a name for it.
        let others = libc::O_PATH | libc::O_DIRECTORY;
        (flags & libc::O_CREAT != 0 && flags & others == 0)
            .then_some(Self::Create(name, NewNode::File { flags, mode: mode as u32 }))
    }

    fn node(name: Name, mode: u64, device: u64) -> Option<Self> {
        let mode = mode as u32;
        // Devices the kernel refuses.
        (!matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK))
            .then_some(Self::Create(name, NewNode::Node { mode, device }))
    }
}

/// The working directory, as an argument.
const HERE: u64 = libc::AT_FDCWD as u32 as u64;

/// What creat(2) stands for.
const CREATION: u64 = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64;

/// Takes a call about users or groups apart.
pub(super) fn question(name: &str, width: Width, arguments: [u64; 3]) -> Option<(Register, Query)> {
    let [first, second, third] = arguments.map(|argument| width.id(argument));
    let (which, question) = match name.trim_end_matches("32") {
        "getuid" => (Register::Users, Query::Real),
        "geteuid" => (Register::Users, Query::Effective),
        "getresuid" => (Register::Users, Query::All(arguments)),
        "setuid" => (Register::Users, Query::Change(Change::One(first))),
        "setreuid" => (Register::Users, Query::Change(Change::Two(first, second))),
        "setresuid" => (Register::Users, Query::Change(Change::Three(first, second, third))),
        "setfsuid" => (Register::Users, Query::Change(Change::File(first))),
        "getgid" => (Register::Groups, Query::Real),
        "getegid" => (Register::Groups, Query::Effective),
        "getresgid" => (Register::Groups, Query::All(arguments)),
        "setgid" => (Register::Groups, Query::Change(Change::One(first))),
        "setregid" => (Register::Groups, Query::Change(Change::Two(first, second))),
        "setresgid" => (Register::Groups, Query::Change(Change::Three(first, second, third))),
        "setfsgid" => (Register::Groups, Query::Change(Change::File(first))),
        _ => return None,
    };
    Some((which, question))
}
