//! Calls, taken apart and handed to what answers them.

use rustix::fs::Timespec;
use rustix::io::Errno;

use super::super::seccomp;
use super::super::supervisor::credentials::Width;
use super::super::supervisor::question;
use super::super::supervisor::target::{Name, Target};
use super::World;
use super::look::Form;
use crate::sys::loader::ASK;
use crate::sys::notify::Answer;
use crate::sys::process::LIMIT_LOCKS;

const HERE: u64 = libc::AT_FDCWD as u32 as u64;
const NO_LINK: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
const CREATION: u64 = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64;

/// A process, for ioprio_set(2).
const IOPRIO_PROCESS: u32 = 1;

fn at(directory: u64, path: u64, flags: u64) -> Name {
    Name { directory: directory as i32, path: Some(path), flags: flags as i32 }
}

fn open(file: u64) -> Name {
    Name { directory: file as i32, path: None, flags: 0 }
}

impl World {
    #[expect(clippy::many_single_char_names, reason = "arguments, which mean all sorts of things")]
    /// Answers a call; [`LATER`](super::LATER) where it has been answered already.
    pub(super) fn answer(&mut self, target: Target<'_>) -> Result<Answer, Errno> {
        let [a, b, c, d, e, _] = target.call.arguments;
        let name = seccomp::call_name(target.call).ok_or(Errno::NOSYS)?;
        match name {
            "newfstatat" => self.stat(target, at(a, b, d), Form::Plain, c),
            "stat" => self.stat(target, at(HERE, a, 0), Form::Plain, b),
            "lstat" => self.stat(target, at(HERE, a, NO_LINK), Form::Plain, b),
            "fstat" => self.stat(target, open(a), Form::Plain, b),
            "statx" => {
                let form = Form::Extended { flags: c as i32, mask: d as u32 };
                self.stat(target, at(a, b, c), form, e)
            }
            "open" => self.open(target, at(HERE, a, 0), b as i32, c as u32),
            "openat" => self.open(target, at(a, b, 0), c as i32, d as u32),
            "creat" => self.open(target, at(HERE, a, 0), CREATION as i32, b as u32),
            "access" => self.access(target, at(HERE, a, 0), b as i32),
            "faccessat" => self.access(target, at(a, b, 0), c as i32),
            "faccessat2" => self.access(target, at(a, b, d), c as i32),
            "readlink" => self.readlink(target, at(HERE, a, NO_LINK), b, c),
            "readlinkat" => {
                let flags = NO_LINK | libc::AT_EMPTY_PATH as u64;
                self.readlink(target, at(a, b, flags), c, d)
            }
            "getcwd" => self.getcwd(target, a, b),
            "chdir" => self.chdir(target, a),
            "statfs" => self.statfs(target, at(HERE, a, 0), b),
            "truncate" => self.truncate(target, at(HERE, a, 0), b),
            "execve" => self.execute(target, at(HERE, a, 0), b, c),
            "execveat" => self.execute(target, at(a, b, e), c, d),
            "mkdir" => self.mkdir(target, at(HERE, a, 0), b as u32),
            "mkdirat" => self.mkdir(target, at(a, b, 0), c as u32),
            "rmdir" => self.unlink(target, at(HERE, a, 0), true),
            "unlink" => self.unlink(target, at(HERE, a, 0), false),
            "unlinkat" => self.unlink(target, at(a, b, 0), c as i32 & libc::AT_REMOVEDIR != 0),
            "rename" => self.rename(target, at(HERE, a, 0), at(HERE, b, 0), 0),
            "renameat" => self.rename(target, at(a, b, 0), at(c, d, 0), 0),
            "renameat2" => self.rename(target, at(a, b, 0), at(c, d, 0), e as u32),
            "link" => self.link(target, at(HERE, a, 0), at(HERE, b, 0), false),
            "linkat" => {
                let follows = e as i32 & libc::AT_SYMLINK_FOLLOW != 0;
                self.link(target, at(a, b, e), at(c, d, 0), follows)
            }
            "symlink" => self.symlink(target, a, at(HERE, b, 0)),
            "symlinkat" => self.symlink(target, a, at(b, c, 0)),
            "mknod" => self.mknod(target, at(HERE, a, 0), b as u32, c),
            "mknodat" => self.mknod(target, at(a, b, 0), c as u32, d),
            "chmod" => self.chmod(target, at(HERE, a, 0), b as u32),
            "fchmod" => self.chmod(target, open(a), b as u32),
            "fchmodat" => self.chmod(target, at(a, b, 0), c as u32),
            "fchmodat2" => self.chmod(target, at(a, b, d), c as u32),
            "chown" => self.chown(target, at(HERE, a, 0), (b as u32, c as u32)),
            "lchown" => self.chown(target, at(HERE, a, NO_LINK), (b as u32, c as u32)),
            "fchown" => self.chown(target, open(a), (b as u32, c as u32)),
            "fchownat" => self.chown(target, at(a, b, e), (c as u32, d as u32)),
            "utime" | "utimes" | "futimesat" | "utimensat" => {
                let (file, times) = times(target, name, [a, b, c, d])?;
                self.set_times(target, file, times)
            }
            "getxattr" => self.get_attribute(target, at(HERE, a, 0), [b, c, d]),
            "lgetxattr" => self.get_attribute(target, at(HERE, a, NO_LINK), [b, c, d]),
            "fgetxattr" => self.get_attribute(target, open(a), [b, c, d]),
            "setxattr" => self.set_attribute(target, at(HERE, a, 0), [b, c, d, e]),
            "lsetxattr" => self.set_attribute(target, at(HERE, a, NO_LINK), [b, c, d, e]),
            "fsetxattr" => self.set_attribute(target, open(a), [b, c, d, e]),
            "listxattr" => self.list_attributes(target, at(HERE, a, 0), b, c),
            "llistxattr" => self.list_attributes(target, at(HERE, a, NO_LINK), b, c),
            "flistxattr" => self.list_attributes(target, open(a), b, c),
            "removexattr" => self.remove_attribute(target, at(HERE, a, 0), b),
            "lremovexattr" => self.remove_attribute(target, at(HERE, a, NO_LINK), b),
            "fremovexattr" => self.remove_attribute(target, open(a), b),
            "socket" => self.socket(b, c),
            "bind" => self.name_socket(target, [a, b, c], true),
            "connect" => self.name_socket(target, [a, b, c], false),
            "prctl" if a as u32 == ASK => self.load(target, b),
            "prctl" => self.credentials.keep(target, b != 0),
            "prlimit64" => Self::limit(target),
            "sched_setaffinity" | "sched_setscheduler" | "sched_setparam" | "sched_setattr" => {
                Self::if_own(target.is_of_its_process(a))
            }
            "setpriority" => {
                Self::if_own(a as u32 == libc::PRIO_PROCESS && target.is_of_its_process(b))
            }
            "ioprio_set" => Self::if_own(a as u32 == IOPRIO_PROCESS && target.is_of_its_process(b)),
            "getgroups" => self.credentials.groups(target, a, b, Width::Four),
            "setgroups" => self.credentials.set_groups(target, a, b, Width::Four),
            name => {
                let (which, question) =
                    question(name, Width::Four, [a, b, c]).ok_or(Errno::NOSYS)?;
                self.credentials.ask(target, which, question, Width::Four)
            }
        }
    }
}

impl World {
    /// Leaves a call to the kernel whose argument is a number of the caller's own.
    fn if_own(is_own: bool) -> Result<Answer, Errno> {
        if is_own { Ok(Answer::Kernel) } else { Err(Errno::PERM) }
    }

    /// Sets a limit of the caller, named by its number.
    fn limit(target: Target<'_>) -> Result<Answer, Errno> {
        let [number, limit, new, ..] = target.call.arguments;
        match Self::if_own(target.is_itself(number))? {
            // As the filter has it for the number zero.
            _ if limit as u32 == LIMIT_LOCKS && new != 0 => Ok(Answer::Value(0)),
            answer => Ok(answer),
        }
    }
}

/// Reads which file gets which times, by any of the calls that have been made for it.
fn times(
    target: Target<'_>,
    name: &str,
    [a, b, c, d]: [u64; 4],
) -> Result<(Name, Option<[Timespec; 2]>), Errno> {
    let (file, address) = match name {
        "utimensat" if b == 0 => (open(a), c),
        "utimensat" => (at(a, b, d), c),
        "futimesat" if b == 0 => (open(a), c),
        "futimesat" => (at(a, b, 0), c),
        _ => (at(HERE, a, 0), b),
    };
    if address == 0 {
        return Ok((file, None));
    }
    let mut bytes = vec![0; if name == "utime" { 16 } else { 32 }];
    target.read_exact(&mut bytes, address)?;
    let words: Vec<i64> = bytes
        .chunks_exact(8)
        .map(|word| word.iter().rev().fold(0, |all, &byte| all << 8 | i64::from(byte)))
        .collect();
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = match (name, words.as_slice()) {
        ("utime", [access, modification, ..]) => [time(*access, 0), time(*modification, 0)],
        ("utimensat", [a, b, c, d]) => [time(*a, *b), time(*c, *d)],
        (_, [a, b, c, d]) => {
            if !(0..1_000_000).contains(b) || !(0..1_000_000).contains(d) {
                return Err(Errno::INVAL);
            }
            [time(*a, b * 1000), time(*c, d * 1000)]
        }
        _ => return Err(Errno::FAULT),
    };
    Ok((file, Some(times)))
}
