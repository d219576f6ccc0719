//! Does for a command what its user namespace forbids and an image may need.
//!
//! A second, small filter hands some calls, and no others, to the builder, which acts in the command's
//! place: beneath the command's own root, from its own working folder, with its own ids, umask and
//! no more of the capabilities about files than it has. All else of the builder's power the thread has
//! given up.
//!
//! **As root** these are calls that make device nodes. The kernel lets nobody make one in a user
//! namespace, though no harm can come of one here: every mount that a command can reach has
//! `nodev`, so nothing opens it. Docker's commands can make them, and base images are made that way.
//! They are made in file systems of the step's own only: on a volume the node would be one of the
//! machine's, which may open it.
//!
//! **Where the user has one id** (no subordinate ones) the kernel refuses every other owner and every
//! change of users. There the deputy keeps up appearances:
//!
//! | calls | what is done | where |
//! |---|---|---|
//! | chown and its kin | the owner is written down, as [`layer::owner`](crate::layer::owner) says | [`owners`] |
//! | stat and its kin | one that was written down is told; of other files the kernel tells | [`owners`] |
//! | setuid, getuid and their kin | who a process says it is is remembered, and told to it | [`people`] |
//! | calls that make files | a file of somebody else than root is made, and its owner written down | [`births`] |
//!
//! They are appearances: to the kernel, and for every permission, all processes are root of the
//! command's namespace, as they would be without. Where the deputy cannot help, a look or a birth is left to
//! the kernel, with the caller's own rights. So nothing that it gets wrong opens anything.
//!
//! # Invariants
//!
//! From seccomp_unotify(2), whose traps are: the thread may be gone and its number another's, so all
//! is opened first, then the call is looked at again, then something is done; memory can change after
//! it was read, so it is read once.
//!
//! Paths are resolved by the kernel with this thread's root at the caller's and without the links of
//! `/proc` that lead to wherever a process is. This thread's working folder is the builder's `/proc`.
//!
//! # Not here
//!
//! The filter: [`super::seccomp`]. Loading it and sending the listener: [`super::init`].

mod births;
mod caller;
mod owners;
mod people;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::caps;
use super::idmap::IdMap;
use super::seccomp;
use crate::layer::owner;
use crate::sys::notify::{self, Answer, Call};
use births::Birth;
use caller::{Caller, Name};
use owners::Form;
use people::{Change, People, Question, Which, Width};

/// Serves calls until no process is left that could make one. Meant for a thread of its own, whose
/// root, working folder and capabilities it changes.
///
/// Devices are made on the file systems with the numbers `own` only.
pub(super) fn serve(listener: &OwnedFd, own: &[u64]) -> io::Result<()> {
    // Looked up while `/proc` is still ours: it is remembered for the whole process.
    let is_single = owner::is_recorded();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    rustix::process::chdir("/proc")?;
    caps::hold(HELD)?;
    notify::take_turns(listener.as_fd());
    let mut people = People::default();
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
            let caller = Caller { listener: listener.as_fd(), call: &call };
            let answer =
                if is_single { appearance(&mut people, caller) } else { device(caller, own) };
            let answer = answer.unwrap_or_else(|error| Answer::Error(error.raw_os_error()));
            notify::answer(listener.as_fd(), &call, &answer).ok();
        }
    }
}

/// What this thread keeps of the builder's capabilities, if that has them: those about files, and what
/// it takes to stand in another's place (`SETGID`, `SETUID`, `SYS_CHROOT`, `SYS_PTRACE`) and to write
/// owners of links down (`SETFCAP`).
const HELD: u64 = caps::FILES | caps::SETGID | caps::SETUID | 1 << 18 | 1 << 19 | 1 << 31;

/// What a deputy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Makes device nodes.
    Devices,
    /// Keeps up the appearance of owners and users.
    Owners,
}

impl Task {
    /// Returns what a command needs whose ids are mapped so, or are the builder's.
    pub(super) fn under(map: Option<&IdMap>) -> Option<Self> {
        match map {
            _ if owner::is_recorded() => Some(Self::Owners),
            Some(map) if map.translates() => Some(Self::Devices),
            // The builder may no more than the command.
            _ => None,
        }
    }

    /// Says whether it is of any use to a command with these capabilities.
    pub(super) fn serves(self, capabilities: u64) -> bool {
        self == Self::Owners || capabilities & caps::MKNOD != 0
    }
}

fn device(caller: Caller<'_>, own: &[u64]) -> Result<Answer, Errno> {
    let [first, second, third, fourth, ..] = caller.call.arguments;
    let (folder, path, mode, device) = match seccomp::call_name(caller.call) {
        Some("mknod") => (libc::AT_FDCWD, first, second, third),
        Some("mknodat") => (first as i32, second, third, fourth),
        _ => return Err(Errno::NOSYS),
    };
    let name = Name { folder, path: Some(path), flags: 0 };
    births::make_device(caller, name, mode as u32, device, own)
}

fn appearance(people: &mut People, caller: Caller<'_>) -> Result<Answer, Errno> {
    let Some(request) = Request::of(caller.call) else { return Ok(Answer::Kernel) };
    match request {
        Request::Look(name, form, buffer) => {
            Ok(owners::look(caller, name, form, buffer).unwrap_or(Answer::Kernel))
        }
        Request::Give(name, owner) => owners::give(caller, &*people.who(caller)?, name, owner),
        Request::Bear(name, birth) => {
            let born = people.who(caller).and_then(|who| births::bear(caller, &who, name, birth));
            Ok(born.unwrap_or(Answer::Kernel))
        }
        Request::Ask(which, question, width) => people.ask(caller, which, question, width),
        Request::Keep(keeps) => people.keep(caller, keeps),
        Request::Groups { room, list, width } => people.groups(caller, room, list, width),
        Request::SetGroups { count, list, width } => people.set_groups(caller, count, list, width),
    }
}

/// A call, taken apart.
enum Request {
    Look(Name, Form, u64),
    Give(Name, (u32, u32)),
    Bear(Name, Birth),
    Ask(Which, Question, Width),
    Keep(bool),
    Groups { room: u64, list: u64, width: Width },
    SetGroups { count: u64, list: u64, width: Width },
}

impl Request {
    /// Takes a call apart; `None` for one that is the kernel's alone.
    fn of(call: &Call) -> Option<Self> {
        let [first, second, third, fourth, fifth, _] = call.arguments;
        let name = seccomp::call_name(call)?;
        let is_narrow = seccomp::is_narrow(call.arch);
        let at = |folder: u64, path, flags: u64| Name {
            folder: folder as i32,
            path: Some(path),
            flags: flags as i32,
        };
        let here = |path| at(HERE, path, 0);
        let no_link = |path| at(HERE, path, libc::AT_SYMLINK_NOFOLLOW as u64);
        let open = |file: u64| Name { folder: file as i32, path: None, flags: 0 };
        // Names that 32-bit architectures gave their first, 16-bit calls.
        let width = if is_narrow && !name.ends_with("32") { Width::Two } else { Width::Four };
        let owner = |uid, gid| (width.id(uid), width.id(gid));
        Some(match name {
            "newfstatat" => Self::Look(at(first, second, fourth), Form::Plain, third),
            "stat" if !is_narrow => Self::Look(here(first), Form::Plain, second),
            "lstat" if !is_narrow => Self::Look(no_link(first), Form::Plain, second),
            "fstat" if !is_narrow => Self::Look(open(first), Form::Plain, second),
            "fstatat64" => Self::Look(at(first, second, fourth), Form::Narrow, third),
            "stat64" => Self::Look(here(first), Form::Narrow, second),
            "lstat64" => Self::Look(no_link(first), Form::Narrow, second),
            "fstat64" => Self::Look(open(first), Form::Narrow, second),
            "statx" => {
                let form = Form::Extended { flags: third as i32, mask: fourth as u32 };
                Self::Look(at(first, second, third), form, fifth)
            }
            "chown" | "chown32" => Self::Give(here(first), owner(second, third)),
            "lchown" | "lchown32" => Self::Give(no_link(first), owner(second, third)),
            "fchown" | "fchown32" => Self::Give(open(first), owner(second, third)),
            "fchownat" => Self::Give(at(first, second, fifth), (third as u32, fourth as u32)),
            "open" => Self::file(here(first), second, third)?,
            "openat" => Self::file(at(first, second, 0), third, fourth)?,
            "creat" => Self::file(here(first), CREATION, second)?,
            "mkdir" => Self::Bear(here(first), Birth::Folder { mode: second as u32 }),
            "mkdirat" => Self::Bear(at(first, second, 0), Birth::Folder { mode: third as u32 }),
            "symlink" => Self::Bear(here(second), Birth::Link { target: first }),
            "symlinkat" => Self::Bear(at(second, third, 0), Birth::Link { target: first }),
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
            .then_some(Self::Bear(name, Birth::File { flags, mode: mode as u32 }))
    }

    fn node(name: Name, mode: u64, device: u64) -> Option<Self> {
        let mode = mode as u32;
        // Devices the kernel refuses.
        (!matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK))
            .then_some(Self::Bear(name, Birth::Node { mode, device }))
    }
}

/// The working folder, as an argument.
const HERE: u64 = libc::AT_FDCWD as u32 as u64;

/// What creat(2) stands for.
const CREATION: u64 = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64;

/// Takes a call about users or groups apart.
fn question(name: &str, width: Width, arguments: [u64; 3]) -> Option<(Which, Question)> {
    let [first, second, third] = arguments.map(|argument| width.id(argument));
    let (which, question) = match name.trim_end_matches("32") {
        "getuid" => (Which::Users, Question::Real),
        "geteuid" => (Which::Users, Question::Effective),
        "getresuid" => (Which::Users, Question::All(arguments)),
        "setuid" => (Which::Users, Question::Change(Change::One(first))),
        "setreuid" => (Which::Users, Question::Change(Change::Two(first, second))),
        "setresuid" => (Which::Users, Question::Change(Change::Three(first, second, third))),
        "setfsuid" => (Which::Users, Question::Change(Change::File(first))),
        "getgid" => (Which::Groups, Question::Real),
        "getegid" => (Which::Groups, Question::Effective),
        "getresgid" => (Which::Groups, Question::All(arguments)),
        "setgid" => (Which::Groups, Question::Change(Change::One(first))),
        "setregid" => (Which::Groups, Question::Change(Change::Two(first, second))),
        "setresgid" => (Which::Groups, Question::Change(Change::Three(first, second, third))),
        "setfsgid" => (Which::Groups, Question::Change(Change::File(first))),
        _ => return None,
    };
    Some((which, question))
}
