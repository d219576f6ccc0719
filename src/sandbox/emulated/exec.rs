//! Execution of programs.
//!
//! The kernel would look for a program, and for the interpreter that the program names, in the
//! container. So a process that executes one is made to execute [a loader](crate::sys::loader), which
//! has no path, with the arguments that it gave; the loader asks what to map, and gets both files.
//! All of this is decided once, by the keeper's own look at the file, and nothing that the step can
//! write is read again. The mark that lets the loader be executed is not a secret: in the step's
//! domain no file can be executed by a path, so that who makes such a call starts a file in memory
//! of its own, in the same confinement.

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use super::super::seccomp::MARK;
use super::super::supervisor::target::{Name, Target};
use super::World;
use super::elf::{Elf, HEAD, Operation, script};
use super::paths::{Found, HELD, kind, link};
use super::vectors::Vectors;
use crate::sys::loader::{ASK, JUMP};
use crate::sys::notify::{self, Answer, Call};
use crate::sys::trace::{Execution, Failure, Stopped};

/// Where programs go that can go anywhere, and their interpreters: far from each other, from the
/// loader with the heap above it, and from what the kernel puts at the end.
const PROGRAMS: u64 = if cfg!(target_arch = "aarch64") { 0x55_0000_0000 } else { 0x5600_0000_0000 };
const INTERPRETERS: u64 =
    if cfg!(target_arch = "aarch64") { 0x70_0000_0000 } else { 0x7800_0000_0000 };

/// By how much their places differ from process to process.
const SPREAD: u64 = if cfg!(target_arch = "aarch64") { 1 << 30 } else { 1 << 40 };

/// Scripts may have scripts as their interpreters; the kernel follows this many.
const INTERPRETERS_MAX: usize = 5;

/// Most programs whose paths are kept for `/proc/PID/exe`.
const PROGRAMS_MAX: usize = 1 << 14;

/// How many programs are remembered whose processes have not asked for them: as many as can be executed
/// at once. Each has three descriptors at most.
const PENDING_MAX: usize = 1024;

/// Whom the bits of a program make of the user and the group that execute it.
type SetIds = (Option<u32>, Option<u32>);

/// What a process is about to execute.
#[derive(Debug)]
pub(super) struct Pending {
    program: File,
    elf: Elf,
    interpreter: Option<(File, Elf)>,
    /// What comes in the place of the first argument, of a script.
    arguments: Option<Vec<Vec<u8>>>,
    /// What the program was called by.
    name: Vec<u8>,
    /// Its path, without links.
    path: Vec<u8>,
    set_ids: SetIds,
    /// The process, in whose place another of its number is known not to be.
    process: OwnedFd,
    /// The number of the loader in it.
    loader: i32,
    /// The thread whose call this is. Another call of it says that this one has failed.
    thread: u32,
    /// That the loader has been seen to be executed: without that, set-id bits mean nothing.
    is_executed: bool,
}

impl World {
    pub(super) fn execute(
        &mut self,
        target: Target<'_>,
        name: Name,
        argv: u64,
        env: u64,
    ) -> Result<Answer, Errno> {
        let address = name.path.ok_or(Errno::FAULT)?;
        let given = target.text(address)?;
        let found = self.named_by(target, name, given.clone())?;
        let group = Self::group_of(target)?;
        if self.pending.len() >= PENDING_MAX {
            self.pending.retain(|_, pending| lives(&pending.process));
            if self.pending.len() >= PENDING_MAX {
                return Err(Errno::AGAIN);
            }
        }
        let pending = self.prepare(target, found, (name.directory, &given), group)?;
        let loader = pending.loader;
        let raises = pending.set_ids != (None, None);
        self.pending.insert(group, pending);
        let stopped = match Stopped::at(target.listener, target.call) {
            Ok(stopped) => stopped,
            Err(Failure::Refused(error)) => {
                self.note_failed(group);
                return Err(error);
            }
            Err(failure) => return self.lost(group, &failure),
        };
        // No path: the end of the one that was given.
        let empty = address.wrapping_add(given.len() as u64);
        let flags = libc::AT_EMPTY_PATH as u64;
        let arguments = [loader as u64, empty, argv, env, flags, MARK];
        if !raises {
            stopped.call_instead(libc::SYS_execveat, arguments);
            return Err(super::LATER);
        }
        // Whom it makes of the process, it makes of the program, which has to be seen to begin.
        let is_loader = |process: i32| is_same(&self.loader, &format!("/proc/{process}/exe"));
        let instead = (libc::SYS_execveat, arguments);
        match stopped.execute_instead(group as i32, instead, loader as u64, is_loader) {
            Ok(Execution::Done) => {
                if let Some(pending) = self.pending.get_mut(&group) {
                    pending.is_executed = true;
                }
            }
            Ok(Execution::Failed) => _ = self.pending.remove(&group),
            Err(failure) => return self.lost(group, &failure),
        }
        Err(super::LATER)
    }

    /// Forgets what a process was to execute that is lost, or notes its end.
    fn lost(&mut self, group: u32, failure: &Failure) -> Result<Answer, Errno> {
        self.pending.remove(&group);
        match failure {
            Failure::Ended { pid, status } => self.ended(*pid, *status),
            _ => Err(super::LATER),
        }
    }

    /// Holds the process of a caller.
    fn hold_process(target: Target<'_>, group: u32) -> Result<OwnedFd, Errno> {
        let how = HELD | OFlags::DIRECTORY;
        let held = rustix::fs::open(format!("/proc/{group}"), how, Mode::empty());
        let held = held.map_err(|_| Errno::SRCH)?;
        target.check()?;
        Ok(held)
    }

    /// Puts the loader into a caller: where a call of it that failed has left it, if it is there.
    fn give_loader(&mut self, target: Target<'_>, group: u32) -> Result<i32, Errno> {
        if let Some((process, number)) = self.left.remove(&group) {
            let place = format!("/proc/{}/fd/{number}", target.call.pid);
            if lives(&process) && is_same(&self.loader, &place) {
                return target.check().map(|()| number);
            }
        }
        notify::add(target.listener, target.call, self.loader.as_fd(), None)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
    }

    /// Forgets what a process was to execute that goes on with its old program.
    fn note_failed(&mut self, group: u32) {
        let Some(Pending { process, loader, .. }) = self.pending.remove(&group) else { return };
        if self.left.len() >= PENDING_MAX {
            self.left.retain(|_, (process, _)| lives(process));
        }
        if self.left.len() < PENDING_MAX {
            self.left.insert(group, (process, loader));
        }
    }

    /// Forgets what a caller was to execute whose call shows that it goes on with its old program.
    pub(super) fn forget_failed(&mut self, call: &Call) {
        let asks = i64::from(call.number) == libc::SYS_prctl && call.arguments[0] as u32 == ASK;
        if !asks && !self.pending.is_empty() {
            let failed = self.pending.iter().filter(|(_, pending)| pending.thread == call.pid);
            let failed: Vec<u32> = failed.map(|(&group, _)| group).collect();
            for group in failed {
                self.note_failed(group);
            }
        }
    }

    /// Looks at a program, and at its interpreters.
    fn prepare(
        &mut self,
        target: Target<'_>,
        found: Found,
        (directory, given): (i32, &[u8]),
        group: u32,
    ) -> Result<Pending, Errno> {
        let mut found = found;
        let mut name = match given.is_empty() {
            true => format!("/dev/fd/{directory}").into_bytes(),
            false => given.to_vec(),
        };
        let called = name.clone();
        let mut arguments: Option<Vec<Vec<u8>>> = None;
        for _ in 0..=INTERPRETERS_MAX {
            let (program, path, set_ids) = self.program(found)?;
            let mut head = [0; HEAD];
            let length = program.read_at(&mut head, 0).map_err(|_| Errno::IO)?;
            let Some((interpreter, argument)) = script(&head[..length]) else {
                let elf = Elf::read(&program)?;
                let interpreter = match elf.interpreter(&program)? {
                    None => None,
                    Some(path) => {
                        let path = self.absolute(target, libc::AT_FDCWD, path)?;
                        let (file, ..) = self.program(self.find(target, &path, true)?)?;
                        let elf = Elf::read(&file).map_err(|_| LIBRARY_BAD)?;
                        Some((file, elf))
                    }
                };
                let process = Self::hold_process(target, group)?;
                return Ok(Pending {
                    program,
                    elf,
                    interpreter,
                    arguments,
                    name: called,
                    path,
                    set_ids,
                    process,
                    loader: self.give_loader(target, group)?,
                    thread: target.call.pid,
                    is_executed: false,
                });
            };
            // In the place of the first argument: the interpreter, its argument, the script.
            let mut words = vec![interpreter.clone()];
            words.extend(argument);
            words.push(name);
            words.extend(arguments.into_iter().flatten().skip(1));
            arguments = Some(words);
            let path = self.absolute(target, libc::AT_FDCWD, interpreter.clone())?;
            found = self.find(target, &path, true)?;
            name = interpreter;
        }
        Err(Errno::LOOP)
    }

    /// Opens a file that is to be executed; returns with it its path, and whom its bits make of who
    /// executes it.
    fn program(&self, found: Found) -> Result<(File, Vec<u8>, SetIds), Errno> {
        let (file, mut stat) = self.own(found).map_err(|_| Errno::ACCESS)?;
        self.show(&file, &mut stat);
        if !kind(&stat).is_file() || stat.st_mode & 0o111 == 0 {
            return Err(Errno::ACCESS);
        }
        let has = |bits| stat.st_mode & bits == bits;
        let user = has(libc::S_ISUID).then_some(stat.st_uid);
        let group = has(libc::S_ISGID | libc::S_IXGRP).then_some(stat.st_gid);
        let how = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(link(&file), how, Mode::empty())?;
        let text = rustix::fs::readlink(link(&file), Vec::new())?.into_bytes();
        let path = self.inside(&text).unwrap_or(text);
        Ok((opened.into(), path, (user, group)))
    }

    /// Answers the loader, whose stack begins at an address.
    pub(super) fn load(&mut self, target: Target<'_>, stack: u64) -> Result<Answer, Errno> {
        let pending = self.pending.remove(&target.call.pid).ok_or(Errno::PERM)?;
        if !lives(&pending.process) {
            return Err(Errno::PERM);
        }
        if pending.set_ids != (None, None) && !pending.is_executed {
            return Err(Errno::PERM);
        }
        let number = self.number_of(&pending.path);
        let identity = self.credentials.executes(target, number, pending.set_ids)?;
        let give = |file: &File| {
            notify::add(target.listener, target.call, file.as_fd(), None)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
        };
        let program = give(&pending.program)?;
        let (placed, mut operations) = pending.elf.place(PROGRAMS + random() % SPREAD, program);
        let mut starts_at = placed.entry;
        let mut base = 0;
        operations.push(call(libc::SYS_close, [program as u64, 0, 0]));
        if let Some((file, elf)) = &pending.interpreter {
            let number = give(file)?;
            let (placed, more) = elf.place(INTERPRETERS + random() % SPREAD, number);
            operations.extend(more);
            operations.push(call(libc::SYS_close, [number as u64, 0, 0]));
            (starts_at, base) = (placed.entry, placed.base);
        }
        let [user, acting_user, group, acting_group] = identity.shown();
        let values = [
            (libc::AT_PHDR, placed.headers),
            (libc::AT_PHENT, 56),
            (libc::AT_PHNUM, pending.elf.count.into()),
            (libc::AT_BASE, base),
            (libc::AT_ENTRY, placed.entry),
            (libc::AT_SECURE, u64::from(user != acting_user || group != acting_group)),
        ];
        let ids = [libc::AT_UID, libc::AT_EUID, libc::AT_GID, libc::AT_EGID];
        let ids = ids.into_iter().zip(identity.shown().map(u64::from));
        let mut vectors = Vectors::read(stack, |bytes, at| target.read_exact(bytes, at))?;
        for (kind, value) in values.into_iter().chain(ids) {
            vectors.set(kind, value);
        }
        let arguments = pending.arguments.as_deref();
        let (bytes, stack, comm) = vectors.with(&pending.name, arguments, stack);
        target.write(&bytes, stack)?;
        operations.push(call(libc::SYS_prctl, [libc::PR_SET_NAME as u64, comm, 0]));
        if pending.elf.executes_stack() {
            let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC | libc::PROT_GROWSDOWN;
            operations.push(call(libc::SYS_mprotect, [stack & !4095, 4096, all as u64]));
        }
        operations.push([JUMP, stack, starts_at, 0, 0, 0, 0]);
        let list: Vec<u8> =
            operations.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect();
        let at = (stack - 256 - list.len() as u64) & !15;
        target.write(&list, at)?;
        Ok(Answer::Value(at as i64))
    }

    fn number_of(&mut self, path: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        if self.programs.len() == PROGRAMS_MAX {
            return 0;
        }
        self.programs.push(path.to_vec());
        let number = self.programs.len() as u32;
        self.numbers.insert(path.to_vec(), number);
        number
    }

    pub(super) fn chdir(&mut self, target: Target<'_>, path: u64) -> Result<Answer, Errno> {
        let name = Name { directory: libc::AT_FDCWD, path: Some(path), flags: 0 };
        let found = self.named(target, name)?;
        let (held, stat): (OwnedFd, _) = Self::held(found)?;
        if !kind(&stat).is_dir() {
            return Err(Errno::NOTDIR);
        }
        // The kernel passes no descriptor on that was only held.
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(link(&held), how, Mode::empty())?;
        let number = notify::add(target.listener, target.call, directory.as_fd(), None)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
        let stopped = match Stopped::at(target.listener, target.call) {
            Ok(stopped) => stopped,
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Ended { pid, status }) => return self.ended(pid, status),
            Err(Failure::Gone) => return Err(super::LATER),
        };
        let number = [number as u64, 0, 0, 0, 0, 0];
        let calls = [(libc::SYS_fchdir, number), (libc::SYS_close, number)];
        match stopped.call_and_return(&calls) {
            Err(Failure::Ended { pid, status }) => self.ended(pid, status),
            _ => Err(super::LATER),
        }
    }

    /// Notes the end of what was waited for here.
    fn ended(&mut self, pid: i32, status: i32) -> Result<Answer, Errno> {
        self.waited.push((pid, status));
        Err(super::LATER)
    }
}

/// What the kernel says of an interpreter that is not one.
const LIBRARY_BAD: Errno = Errno::LIBBAD;

/// Says whether a process that is held has not been waited for: until then no other has its number.
fn lives(process: &OwnedFd) -> bool {
    rustix::fs::statat(process, "stat", AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Says whether a path leads to an open file.
fn is_same(file: &OwnedFd, path: &str) -> bool {
    let place = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let found = rustix::fs::stat(path).map(place);
    found.is_ok() && found == rustix::fs::fstat(file).map(place)
}

fn call(number: i64, [first, second, third]: [u64; 3]) -> Operation {
    [number as u64, first, second, third, 0, 0, 0]
}

fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty()).ok();
    u64::from_ne_bytes(bytes) & !4095
}
