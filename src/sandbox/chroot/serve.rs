//! Serves `/proc` to a command: a thread that gets its calls with paths.
//!
//! A second filter hands the calls that name a file by its path to this thread. It reads the path,
//! and answers where that means something of `/proc` ([`procfs`](super::super::procfs)); all else is
//! left to the kernel, which reads the path again. So no refusal rests on what was read: what is not
//! answered finds the directory that the tree has, and there is no procfs in the tree.
//!
//! The thread keeps the builder's capabilities, since the kernel lets a process be read only by who
//! has all that it has, and acts with the ids and capabilities of the caller.

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Access, OFlags};
use rustix::io::Errno;

use super::super::procfs::{Caller, Change, Found, Named, Procfs, named};
use super::super::seccomp;
use super::super::supervisor::target::Target;
use super::super::supervisor::{StatFormat, narrow};
use crate::sys::notify::{self, Answer, Call};
use crate::sys::stat::{stat_bytes, statfs_bytes, statx_bytes};

/// What is served.
#[derive(Debug)]
pub(in super::super) struct Service {
    /// The root directory of the command.
    pub root: OwnedFd,
    /// The process that keeps it.
    pub keeper: i32,
    /// Whether it has a network.
    pub has_network: bool,
    /// The near side of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Most links that a path may end in, one after the other, on its way to `/proc`.
const LINKS_MAX: usize = 4;

/// Serves calls until no process is left that could make one. Returns what the user is to know.
pub(in super::super) fn serve(listener: &OwnedFd, service: &Service) -> Option<String> {
    let procfs = Procfs::new(service.root.as_fd(), service.keeper, service.has_network);
    let (procfs, lack) = match procfs {
        Ok(mut procfs) => {
            if let Some(terminal) = &service.terminal {
                procfs.add_terminal(terminal.as_fd()).ok();
            }
            (Some(procfs), None)
        }
        Err(error) => (None, Some(error.to_string())),
    };
    let mut server =
        Server { listener: listener.as_fd(), procfs, lack, is_first: true, looks: false };
    notify::take_turns(listener.as_fd());
    loop {
        // Only poll reports, on all kernels, that no process is left that could call.
        let mut watched = [PollFd::new(listener, PollFlags::IN)];
        match rustix::event::poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        if !watched[0].revents().contains(PollFlags::IN) {
            break;
        }
        // One that was given up in the meantime wants no answer.
        if let Ok(call) = notify::receive(listener.as_fd()) {
            let answer = server.answer(&call);
            let answer = answer.unwrap_or_else(|error| Answer::Error(error.raw_os_error()));
            notify::answer(listener.as_fd(), &call, &answer).ok();
        }
    }
    server.lack.map(|reason| format!("{} ({reason})", super::NO_PROC))
}

/// What a call wants.
#[derive(Debug, Clone, Copy)]
enum Want {
    Open {
        flags: OFlags,
    },
    /// The same by openat2(2), which has its flags in memory.
    OpenHow {
        how: u64,
    },
    Stat {
        form: StatFormat,
        buffer: u64,
    },
    ReadLink {
        buffer: u64,
        size: u64,
    },
    Access {
        mode: Access,
    },
    FileSystem {
        buffer: u64,
    },
    /// Attributes, of which `/proc` has none: the error for it, or an empty list.
    Attributes {
        error: Option<Errno>,
    },
    Change(Change),
    /// A change of times, which are at this address.
    Touch {
        times: u64,
    },
    /// A further name, for a file that has none perhaps.
    Link {
        directory: i32,
        path: u64,
    },
    Enter,
    Execute,
}

/// A call with a path, taken apart.
#[derive(Debug, Clone, Copy)]
struct Request {
    directory: i32,
    path: u64,
    follows: bool,
    want: Want,
}

impl Request {
    fn of(call: &Call) -> Option<Self> {
        let [first, second, third, fourth, fifth, _] = call.arguments;
        let name = seccomp::call_name(call)?;
        let is_narrow = seccomp::is_narrow(call.arch);
        let at = |directory: u64, path, follows, want| {
            Some(Self { directory: directory as i32, path, follows, want })
        };
        let here = |follows, want| at(libc::AT_FDCWD as u64, first, follows, want);
        let open = |flags: u64| {
            let flags = OFlags::from_bits_retain(flags as u32);
            let is_itself = flags.contains(OFlags::NOFOLLOW);
            (!is_itself, Want::Open { flags })
        };
        let follows = |flags: u64| flags as i32 & libc::AT_SYMLINK_NOFOLLOW == 0;
        let plain = |buffer| Want::Stat { form: StatFormat::Plain, buffer };
        let small = |buffer| Want::Stat { form: StatFormat::Narrow, buffer };
        let access = |mode: u64| Want::Access { mode: Access::from_bits_retain(mode as u32) };
        match name {
            "open" => {
                let (follows, want) = open(second);
                here(follows, want)
            }
            "creat" => here(true, Want::Open { flags: CREATION }),
            "openat" => {
                let (follows, want) = open(third);
                at(first, second, follows, want)
            }
            "openat2" => at(first, second, true, Want::OpenHow { how: third }),
            "stat" if !is_narrow => here(true, plain(second)),
            "lstat" if !is_narrow => here(false, plain(second)),
            "newfstatat" => at(first, second, follows(fourth), plain(third)),
            "stat64" => here(true, small(second)),
            "lstat64" => here(false, small(second)),
            "fstatat64" => at(first, second, follows(fourth), small(third)),
            "statx" => {
                let form = StatFormat::Extended { flags: third as i32, mask: fourth as u32 };
                at(first, second, follows(third), Want::Stat { form, buffer: fifth })
            }
            "readlink" => here(false, Want::ReadLink { buffer: second, size: third }),
            "readlinkat" => {
                at(first, second, false, Want::ReadLink { buffer: third, size: fourth })
            }
            "access" => here(true, access(second)),
            "faccessat" => at(first, second, true, access(third)),
            "faccessat2" => at(first, second, follows(fourth), access(third)),
            "statfs" if !is_narrow => here(true, Want::FileSystem { buffer: second }),
            "getxattr" => here(true, Want::Attributes { error: Some(Errno::OPNOTSUPP) }),
            "lgetxattr" => here(false, Want::Attributes { error: Some(Errno::OPNOTSUPP) }),
            "listxattr" => here(true, Want::Attributes { error: None }),
            "llistxattr" => here(false, Want::Attributes { error: None }),
            "chmod" => here(true, Want::Change(Change::Mode(second as u32))),
            "fchmodat" => at(first, second, true, Want::Change(Change::Mode(third as u32))),
            "fchmodat2" => {
                let want = Want::Change(Change::Mode(third as u32));
                at(first, second, follows(fourth), want)
            }
            "chown" if is_narrow => None,
            "chown" | "chown32" => {
                here(true, Want::Change(Change::Owner(second as u32, third as u32)))
            }
            "fchownat" => {
                let want = Want::Change(Change::Owner(third as u32, fourth as u32));
                at(first, second, follows(fifth), want)
            }
            "utimensat" if !is_narrow => {
                at(first, second, follows(fourth), Want::Touch { times: third })
            }
            // The only kind of link that can be made of a descriptor.
            "linkat" if fifth as i32 & libc::AT_SYMLINK_FOLLOW != 0 => {
                at(first, second, true, Want::Link { directory: third as i32, path: fourth })
            }
            "chdir" => here(true, Want::Enter),
            "execve" => here(true, Want::Execute),
            _ => None,
        }
    }
}

/// What creat(2) stands for.
const CREATION: OFlags = OFlags::CREATE.union(OFlags::WRONLY).union(OFlags::TRUNC);

struct Server<'a> {
    listener: BorrowedFd<'a>,
    procfs: Option<Procfs>,
    /// Why nothing is served.
    lack: Option<String>,
    /// Whether no call has come yet.
    is_first: bool,
    /// Whether a process may have a directory of `/proc` open or as its working directory.
    looks: bool,
}

impl Server<'_> {
    fn answer(&mut self, call: &Call) -> Result<Answer, Errno> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        if seccomp::call_name(call) == Some("prlimit64") {
            let target = Target { listener: self.listener, call, powers: None };
            let is_own = target.is_itself(call.arguments[0]);
            return if is_own { Ok(Answer::Kernel) } else { Err(Errno::PERM) };
        }
        let Some(procfs) = &self.procfs else { return Ok(Answer::Kernel) };
        let Some(mut request) = Request::of(call) else { return Ok(Answer::Kernel) };
        let tid = call.pid as i32;
        if let Want::OpenHow { how } = request.want {
            let Ok([flags, _mode, resolve]) = reading(procfs, tid, || numbers(tid, how)) else {
                return Ok(Answer::Kernel);
            };
            // What stays in a directory or a file system is the kernel's.
            if resolve != 0 {
                return Ok(Answer::Kernel);
            }
            let flags = OFlags::from_bits_retain(flags as u32);
            request.follows = !flags.contains(OFlags::NOFOLLOW);
            request.want = Want::Open { flags };
        }
        let path = match reading(procfs, tid, || text(tid, request.path)) {
            Ok(path) => path,
            Err(error) => {
                // What starts the command can be read, unless nothing can.
                if is_first && error == Errno::PERM {
                    self.lack = Some(
                        "the memory of commands cannot be read: Yama or another security module \
                         forbids it"
                            .to_owned(),
                    );
                    self.procfs = None;
                }
                return Ok(Answer::Kernel);
            }
        };
        let Some(name) = self.meaning(call, &request, &path) else { return Ok(Answer::Kernel) };
        let Some(procfs) = &mut self.procfs else { return Ok(Answer::Kernel) };
        let Ok(caller) = procfs.caller(tid) else { return Ok(Answer::Kernel) };
        let names = match name {
            Named::Proc(names) => names,
            Named::Multiplexer => return self.terminal(call, &request, None, &caller),
            Named::Terminals(names) => {
                return self.terminal(call, &request, Some(&names), &caller);
            }
        };
        let found = match procfs.find(&names, request.follows, &caller) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Answer::Kernel),
            Err(Errno::NOENT) if matches!(request.want, Want::Enter | Want::Execute) => {
                return Ok(Answer::Kernel);
            }
            Err(error) => return Err(error),
        };
        // All that was opened by the caller's number is the caller's.
        if !notify::is_waiting(self.listener, call) {
            return Err(Errno::SRCH);
        }
        self.act(call, &request, &found, &caller)
    }

    /// Says what of ours a path means.
    fn meaning(&self, call: &Call, request: &Request, path: &[u8]) -> Option<Named> {
        let procfs = self.procfs.as_ref()?;
        if path.starts_with(b"/") {
            if let Some(name) = named(b"/", path, request.follows) {
                return Some(name);
            }
            // A link of the image to a file of /proc or /dev: /etc/mtab, the logs of servers.
            let Want::Open { flags } = request.want else { return None };
            if !request.follows || flags.contains(OFlags::CREATE | OFlags::EXCL) {
                return None;
            }
            let mut path = path.to_vec();
            for _ in 0..LINKS_MAX {
                let text = procfs.link_in_tree(&path)?;
                path = match text.starts_with(b"/") {
                    true => text,
                    false => {
                        let end = path.iter().rposition(|&byte| byte == b'/')?;
                        [&path[..=end], &text].concat()
                    }
                };
                let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
                // The directories of links that are as long as they look.
                let plain = lexical(parts);
                if let Some(name) = named(b"/", &plain, true) {
                    return Some(name);
                }
            }
            return None;
        }
        let names_ours = path
            .split(|&byte| byte == b'/')
            .any(|part| part == b"proc" || part == b"dev" || part == b"fd");
        if path.is_empty() || !self.looks && !names_ours {
            return None;
        }
        let caller = procfs.caller(call.pid as i32).ok()?;
        let base = procfs.base(&caller, request.directory)?;
        named(&base, path, request.follows)
    }

    fn act(
        &mut self,
        call: &Call,
        request: &Request,
        found: &Found,
        caller: &Caller,
    ) -> Result<Answer, Errno> {
        let Some(procfs) = &mut self.procfs else { return Ok(Answer::Kernel) };
        match request.want {
            Want::Open { flags } => {
                let file = procfs.open(found, caller, flags)?;
                self.looks |= found.is_directory();
                Ok(Answer::Descriptor(file, flags.contains(OFlags::CLOEXEC)))
            }
            Want::OpenHow { .. } => Ok(Answer::Kernel),
            Want::Stat { form, buffer } => {
                let held = procfs.hold(found, caller, request.follows)?;
                self.show(call, caller, &held, form, buffer)
            }
            Want::ReadLink { buffer, size } => {
                let text = procfs.read_link(found, caller)?;
                let size = usize::try_from(size as i32).ok().filter(|size| *size > 0);
                let length = text.len().min(size.ok_or(Errno::INVAL)?);
                self.write(call, caller, &text[..length], buffer)?;
                Ok(Answer::Value(length as i64))
            }
            Want::Access { mode } => {
                procfs.access(found, caller, mode)?;
                Ok(Answer::Value(0))
            }
            Want::FileSystem { buffer } => {
                let held = procfs.hold(found, caller, true)?;
                self.write(call, caller, &statfs_bytes(held.as_fd(), false)?, buffer)?;
                Ok(Answer::Value(0))
            }
            Want::Attributes { error: Some(error) } => {
                procfs.hold(found, caller, request.follows)?;
                Err(error)
            }
            Want::Attributes { error: None } => {
                procfs.hold(found, caller, request.follows)?;
                Ok(Answer::Value(0))
            }
            Want::Change(change) => {
                procfs.change(found, caller, change)?;
                Ok(Answer::Value(0))
            }
            Want::Touch { times } => {
                let change = touch(procfs, caller.thread, times)?;
                procfs.change(found, caller, change)?;
                Ok(Answer::Value(0))
            }
            Want::Link { directory, path } => {
                let thread = caller.thread;
                let mut path = reading(procfs, thread, || text(thread, path))?;
                if !path.starts_with(b"/") {
                    let mut whole = procfs.base(caller, directory).ok_or(Errno::NOENT)?;
                    whole.push(b'/');
                    whole.append(&mut path);
                    path = whole;
                }
                procfs.link(found, caller, &path)?;
                Ok(Answer::Value(0))
            }
            Want::Enter => {
                self.looks = true;
                procfs.enter(found, caller);
                Ok(Answer::Kernel)
            }
            Want::Execute => {
                if found.is_own_program() {
                    procfs.link_to_program(found, caller)?;
                }
                Ok(Answer::Kernel)
            }
        }
    }

    /// Answers a call about a terminal, or about the device that makes them (`None`).
    fn terminal(
        &mut self,
        call: &Call,
        request: &Request,
        names: Option<&[Vec<u8>]>,
        caller: &Caller,
    ) -> Result<Answer, Errno> {
        let Some(procfs) = &mut self.procfs else { return Ok(Answer::Kernel) };
        if !notify::is_waiting(self.listener, call) {
            return Err(Errno::SRCH);
        }
        // The directory is the tree's own, but for what file system it says that it is: the C library
        // of Debian 12 asks.
        if names.is_some_and(<[_]>::is_empty) && !matches!(request.want, Want::FileSystem { .. }) {
            return Ok(Answer::Kernel);
        }
        let hold = |procfs: &Procfs| match names {
            Some([]) => Procfs::hold_terminals(),
            Some(names) => procfs.hold_terminal(names),
            None => Procfs::hold_multiplexer(),
        };
        match request.want {
            Want::Open { flags } if flags.contains(OFlags::CREATE | OFlags::EXCL) => {
                Err(Errno::EXIST)
            }
            Want::Open { flags } => {
                let file = match names {
                    Some(names) => procfs.open_terminal(names, caller, flags)?,
                    None => procfs.make_terminal(caller, flags)?,
                };
                Ok(Answer::Descriptor(file, flags.contains(OFlags::CLOEXEC)))
            }
            Want::Stat { form, buffer } => {
                let held = hold(procfs)?;
                self.show(call, caller, &held, form, buffer)
            }
            Want::Access { mode } => {
                let held = hold(procfs)?;
                procfs.access_held(&held, caller, mode)?;
                Ok(Answer::Value(0))
            }
            Want::ReadLink { .. } => hold(procfs).and(Err(Errno::INVAL)),
            Want::Attributes { error } => {
                hold(procfs)?;
                error.map_or(Ok(Answer::Value(0)), Err)
            }
            Want::Change(_) | Want::Touch { .. } => {
                let Some(names) = names else { return Err(Errno::PERM) };
                let change = match request.want {
                    Want::Touch { times } => touch(procfs, caller.thread, times)?,
                    Want::Change(change) => change,
                    _ => return Ok(Answer::Kernel),
                };
                procfs.change_terminal(names, caller, change)?;
                Ok(Answer::Value(0))
            }
            Want::FileSystem { buffer } => {
                let held = hold(procfs)?;
                self.write(call, caller, &statfs_bytes(held.as_fd(), false)?, buffer)?;
                Ok(Answer::Value(0))
            }
            Want::OpenHow { .. } | Want::Link { .. } | Want::Enter | Want::Execute => {
                Ok(Answer::Kernel)
            }
        }
    }

    /// Answers a look at something.
    fn show(
        &self,
        call: &Call,
        caller: &Caller,
        held: &OwnedFd,
        form: StatFormat,
        buffer: u64,
    ) -> Result<Answer, Errno> {
        let stat = rustix::fs::fstat(held)?;
        let owner = (stat.st_uid, stat.st_gid);
        let bytes = match form {
            StatFormat::Plain => stat_bytes(held.as_fd(), owner, None)?,
            StatFormat::Narrow => narrow(&stat, owner),
            StatFormat::Extended { flags, mask } => {
                statx_bytes(held.as_fd(), flags, mask, owner, None)?
            }
        };
        self.write(call, caller, &bytes, buffer)?;
        Ok(Answer::Value(0))
    }

    /// Writes into the caller's memory: into the one that was opened while it waited, should its
    /// number be another's by then.
    fn write(&self, call: &Call, caller: &Caller, bytes: &[u8], at: u64) -> Result<(), Errno> {
        let Some(procfs) = &self.procfs else { return Err(Errno::SRCH) };
        let memory = procfs.memory(caller)?;
        if !notify::is_waiting(self.listener, call) {
            return Err(Errno::SRCH);
        }
        memory.write_all_at(bytes, at).map_err(|_| Errno::FAULT)
    }
}

/// Reads from the memory of a thread.
///
/// # Errors
///
/// `EPERM` where it may not be read.
fn reading<T>(
    procfs: &Procfs,
    thread: i32,
    read: impl Fn() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match read() {
        // One of another user: only who has its ids may.
        Err(Errno::PERM) => {
            let caller = procfs.caller(thread)?;
            let _acting = Procfs::act(&caller)?;
            read()
        }
        result => result,
    }
}

/// Reads the times of utimensat(2).
fn touch(procfs: &Procfs, thread: i32, address: u64) -> Result<Change, Errno> {
    if address == 0 {
        return Ok(Change::Times(None));
    }
    let [a, b, c, d] = reading(procfs, thread, || numbers(thread, address))?;
    let times = [(a as i64, b as i64), (c as i64, d as i64)];
    Ok(Change::Times(Some(times)))
}

/// Reads numbers of 64 bits.
fn numbers<const COUNT: usize>(thread: i32, address: u64) -> Result<[u64; COUNT], Errno> {
    let mut bytes = vec![0; 8 * COUNT];
    let base = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    let remote = [RemoteIoVec { base, len: bytes.len() }];
    let pid = nix::unistd::Pid::from_raw(thread);
    let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &remote)
        .map_err(|error| Errno::from_raw_os_error(error as i32))?;
    if read < bytes.len() {
        return Err(Errno::FAULT);
    }
    let mut numbers = [0; COUNT];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = u64::from_ne_bytes(bytes.try_into().map_err(|_| Errno::FAULT)?);
    }
    Ok(numbers)
}

fn text(thread: i32, address: u64) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    let mut piece = [0; 256];
    while text.len() < libc::PATH_MAX as usize {
        let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
        // Up to the end of a page: the next may not be there.
        let length = piece.len().min(4096 - (at % 4096) as usize);
        let base = usize::try_from(at).map_err(|_| Errno::FAULT)?;
        let remote = [RemoteIoVec { base, len: length }];
        let pid = nix::unistd::Pid::from_raw(thread);
        let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut piece[..length])], &remote)
            .map_err(|error| Errno::from_raw_os_error(error as i32))?;
        if read == 0 {
            return Err(Errno::FAULT);
        }
        if let Some(end) = piece[..read].iter().position(|&byte| byte == 0) {
            text.extend(&piece[..end]);
            return Ok(text);
        }
        text.extend(&piece[..read]);
    }
    Err(Errno::NAMETOOLONG)
}

/// Takes `..` out of an absolute path as if no part of it were a link.
fn lexical<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in parts {
        match part {
            b"." => {}
            b".." => _ = kept.pop(),
            part => kept.push(part),
        }
    }
    let mut path = vec![b'/'];
    path.extend(kept.join(&b'/'));
    path
}
