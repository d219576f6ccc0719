//! `/proc` of a step: files of the container's, of the step's own processes, and of the machine.
//!
//! A directory or a file is handed in as it is, so that listing and reading cost no more. The links by
//! which a process shows what it has open are followed by their meaning in the step's view.
//!
//! A number says nothing for long: its process may end, and another get it. So the directory of a
//! process is held before it is judged, as are those of the processes above it, and all that is looked
//! at is opened through what is held.
//!
//! | path | what is there |
//! |---|---|
//! | `/proc/PID` of a process of the step | what [`OF_PROCESS`] lists |
//! | `mounts`, `mountinfo`, `maps` | made up: one root, and paths as the step knows them |
//! | `/proc/PID` of another process | nothing |
//! | what [`OF_MACHINE`] lists, `/proc/sys` and, of a step with a network, `/proc/net` | the container's, read-only |
//! | all else | not there |

use rustix::fs::{Access, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use super::super::supervisor::target::Target;
use super::World;
use super::paths::{Found, HELD, link};

/// How many processes are looked at, one above the other, to find the keeper.
const PARENTS_MAX: usize = 256;

/// Longest text of the memory of a process.
const MAPS_MAX: u64 = 16 << 20;

/// Files in which a process shows itself. Its memory, its namespaces and what would reach past the
/// step are not among them.
const OF_PROCESS: &[&[u8]] = &[
    b"auxv",
    b"cgroup",
    b"cmdline",
    b"comm",
    b"coredump_filter",
    b"environ",
    b"fd",
    b"fdinfo",
    b"gid_map",
    b"io",
    b"limits",
    b"loginuid",
    b"oom_adj",
    b"oom_score",
    b"oom_score_adj",
    b"personality",
    b"sched",
    b"schedstat",
    b"sessionid",
    b"setgroups",
    b"smaps",
    b"smaps_rollup",
    b"stat",
    b"statm",
    b"status",
    b"task",
    b"timerslack_ns",
    b"uid_map",
    b"wchan",
    b"net",
];

/// Of those, what a process may write.
const WRITABLE: &[&[u8]] =
    &[b"comm", b"coredump_filter", b"oom_adj", b"oom_score_adj", b"timerslack_ns"];

/// Files about the machine.
const OF_MACHINE: &[&[u8]] = &[
    b"cpuinfo",
    b"meminfo",
    b"stat",
    b"version",
    b"filesystems",
    b"uptime",
    b"loadavg",
    b"devices",
    b"misc",
    b"swaps",
    b"diskstats",
    b"partitions",
    b"crypto",
    b"vmstat",
    b"zoneinfo",
    b"cgroups",
    b"cmdline",
    b"modules",
    b"interrupts",
    b"softirqs",
    b"sys",
];

const MOUNTS: &[u8] =
    b"overlay / overlay rw,relatime 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n\
    tmpfs /dev tmpfs rw,nosuid,mode=755 0 0\n";

const MOUNTINFO: &[u8] = b"21 1 0:20 / / rw,relatime - overlay overlay rw\n\
    22 21 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
    23 21 0:22 / /dev rw,nosuid - tmpfs tmpfs rw,mode=755\n";

/// A file of `/proc` that is made up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text {
    Fixed(&'static [u8]),
    /// What a process has mapped.
    Maps,
}

/// A link of `/proc`.
pub(super) struct Link {
    /// What it says in the step's view.
    pub text: Vec<u8>,
    directory: OwnedFd,
    name: String,
}

impl Link {
    /// Holds the link itself.
    pub(super) fn held(&self) -> Result<OwnedFd, Errno> {
        beneath(&self.directory, &self.name)
    }

    /// Holds what it leads to.
    pub(super) fn end(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.directory, self.name.as_str(), HELD, Mode::empty())
    }
}

impl World {
    /// Returns a link of `/proc`; `None` for what is not a link.
    pub(super) fn proc_link(
        &self,
        target: Target<'_>,
        at: &[Vec<u8>],
    ) -> Result<Option<Link>, Errno> {
        let names: Vec<&[u8]> = at.iter().map(Vec::as_slice).collect();
        let of_all = |text: String, name: &str| {
            let (text, name) = (text.into_bytes(), name.to_owned());
            Ok(Some(Link { text, directory: all()?, name }))
        };
        match names[1..] {
            [b"self"] => return of_all(Self::group_of(target)?.to_string(), "self"),
            [b"thread-self"] => {
                let group = Self::group_of(target)?;
                return of_all(format!("{group}/task/{}", target.call.pid), "thread-self");
            }
            [b"mounts"] => return of_all("self/mounts".to_owned(), "mounts"),
            [b"net"] if self.has_network => return of_all("self/net".to_owned(), "net"),
            _ => {}
        }
        let Some((pid, rest)) = names[1..].split_first() else { return Ok(None) };
        let Some(pid) = number(pid) else { return Ok(None) };
        let (directory, rest) = self.process(target, pid, rest)?;
        let (name, text) = match rest {
            [b"root"] => ("root".to_owned(), Some(b"/".to_vec())),
            [b"exe"] => {
                let program = self.program_of(pid);
                // So that the number is still this one's.
                rustix::fs::accessat(&directory, "stat", Access::EXISTS, AtFlags::empty())?;
                ("exe".to_owned(), Some(program.ok_or(Errno::NOENT)?))
            }
            [b"cwd"] => ("cwd".to_owned(), None),
            [b"fd", file] => (format!("fd/{}", number(file).ok_or(Errno::NOENT)?), None),
            _ => return Ok(None),
        };
        let text = match text {
            Some(text) => text,
            None => {
                let text = rustix::fs::readlinkat(&directory, name.as_str(), Vec::new())?;
                let text = text.into_bytes();
                self.inside(&text).unwrap_or(text)
            }
        };
        Ok(Some(Link { text, directory, name }))
    }

    /// Returns what is at a path of `/proc` that is not a link.
    pub(super) fn shown_of_proc(&self, target: Target<'_>, at: &[Vec<u8>]) -> Result<Found, Errno> {
        let names: Vec<&[u8]> = at.iter().map(Vec::as_slice).collect();
        let joined =
            |names: &[&[u8]]| String::from_utf8(names.join(&b'/')).map_err(|_| Errno::NOENT);
        let path = format!("/{}", joined(&names)?);
        let [first, rest @ ..] = &names[1..] else { return Ok(Found::Proc(all()?, path)) };
        let Some(pid) = number(first) else {
            let is_shown = OF_MACHINE.contains(first) && (rest.is_empty() || *first == b"sys");
            if !is_shown {
                return Err(Errno::NOENT);
            }
            return Ok(Found::Proc(beneath(&all()?, &joined(&names[1..])?)?, path));
        };
        let (directory, rest) = self.process(target, pid, rest)?;
        let text = match rest {
            [] => return Ok(Found::Proc(directory, path)),
            [b"mounts"] => Some(Text::Fixed(MOUNTS)),
            [b"mountinfo"] => Some(Text::Fixed(MOUNTINFO)),
            [b"maps"] => Some(Text::Maps),
            [b"net", ..] if !self.has_network => return Err(Errno::NOENT),
            [b"net", ..] | [b"fdinfo" | b"fd", _] => None,
            [name] if OF_PROCESS.contains(name) => None,
            _ => return Err(Errno::NOENT),
        };
        let file = beneath(&directory, &joined(rest)?)?;
        Ok(match text {
            Some(text) => Found::Text(file, text),
            None => Found::Proc(file, path),
        })
    }

    /// Returns what is in a file that is made up.
    pub(super) fn content(&self, text: Text, file: &OwnedFd) -> Result<Vec<u8>, Errno> {
        if let Text::Fixed(text) = text {
            return Ok(text.to_vec());
        }
        let how = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(link(file), how, Mode::empty())?);
        let mut text = Vec::new();
        let read = file.take(MAPS_MAX + 1).read_to_end(&mut text);
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        if text.len() as u64 > MAPS_MAX {
            return Err(Errno::NOMEM);
        }
        self.without_prefix(&text)
    }

    /// Says whether a file of `/proc` may be opened to be written.
    pub(super) fn is_writable(path: &str) -> bool {
        let names: Vec<&[u8]> = path.as_bytes().split(|&byte| byte == b'/').collect();
        match names.as_slice() {
            [b"", b"proc", process, .., name] => {
                number(process).is_some() && WRITABLE.contains(name)
            }
            _ => false,
        }
    }

    /// Takes the path of the tree out of a text.
    fn without_prefix(&self, text: &[u8]) -> Result<Vec<u8>, Errno> {
        let prefix = [self.prefix.as_slice(), b"/"].concat();
        let mut out = Vec::new();
        out.try_reserve_exact(text.len()).map_err(|_| Errno::NOMEM)?;
        let mut rest = text;
        while let Some(at) = rest.windows(prefix.len()).position(|window| window == prefix) {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + prefix.len() - 1..];
        }
        out.extend_from_slice(rest);
        Ok(out)
    }

    /// Returns the process that a calling thread belongs to.
    pub(super) fn group_of(target: Target<'_>) -> Result<u32, Errno> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", target.call.pid));
        let text = text.map_err(|_| Errno::SRCH)?;
        target.check()?;
        let field = text.lines().find_map(|line| line.strip_prefix("Tgid:"));
        field.and_then(|field| field.trim().parse().ok()).ok_or(Errno::SRCH)
    }

    /// Returns the path of what a process executes.
    fn program_of(&self, pid: u32) -> Option<Vec<u8>> {
        let number = self.credentials.noted(pid as i32).program;
        self.programs.get(number.checked_sub(1)? as usize).cloned()
    }

    /// Holds the directory of a process of the step, or of its thread that a path leads to. Returns it
    /// with the rest of the path. It stays the directory of this process when the number is another's.
    fn process<'a, 'b>(
        &self,
        target: Target<'_>,
        pid: u32,
        rest: &'a [&'b [u8]],
    ) -> Result<(OwnedFd, &'a [&'b [u8]]), Errno> {
        let process = beneath(&all()?, &pid.to_string())?;
        if pid == target.call.pid {
            target.check()?;
        } else if !self.is_own(&process) {
            return Err(Errno::NOENT);
        }
        match rest {
            [b"task", thread, rest @ ..] => {
                let thread = number(thread).ok_or(Errno::NOENT)?;
                Ok((beneath(&process, &format!("task/{thread}"))?, rest))
            }
            rest => Ok((process, rest)),
        }
    }

    /// Says whether a process that is held is one of the step: the keeper is above it. One that is stays
    /// so, as what loses its parent becomes the keeper's.
    fn is_own(&self, process: &OwnedFd) -> bool {
        let mut above: Option<OwnedFd> = None;
        for _ in 0..PARENTS_MAX {
            let process = above.as_ref().unwrap_or(process);
            let Ok((parent, session)) = place_of(process) else { return false };
            if parent == self.keeper {
                // The keeper's own children, which open what waits, have not left its session.
                let keepers = all().and_then(|all| beneath(&all, &self.keeper.to_string()));
                let keepers = keepers.and_then(|keeper| place_of(&keeper));
                return keepers.is_ok_and(|(_, keepers)| keepers != session);
            }
            if parent <= 1 {
                return false;
            }
            // What is held is the parent if the number was still the parent's afterwards.
            let held = all().and_then(|all| beneath(&all, &parent.to_string()));
            if let Ok(held) = held
                && place_of(process).is_ok_and(|(still, _)| still == parent)
            {
                above = Some(held);
            }
        }
        false
    }
}

/// Holds the container's `/proc`.
fn all() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/proc", HELD | OFlags::DIRECTORY, Mode::empty())
}

/// Holds what is beneath a directory of `/proc`, following no link.
fn beneath(directory: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(directory, path, HELD | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Returns the parent and the session of a process that is held.
fn place_of(process: &OwnedFd) -> Result<(u32, u32), Errno> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(process, "stat", how, Mode::empty())?;
    let mut bytes = [0; 256];
    let length = rustix::io::read(&file, &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    // After the name, which may have anything in it: the state, the parent, the group, the session.
    let mut fields = text.rsplit(") ").next().unwrap_or_default().split(' ').skip(1);
    let mut field = |skipped| fields.nth(skipped).and_then(|field| field.parse().ok());
    Ok((field(0).ok_or(Errno::SRCH)?, field(1).ok_or(Errno::SRCH)?))
}

fn number(name: &[u8]) -> Option<u32> {
    let is_number =
        matches!(name, [b'0'] | [b'1'..=b'9', ..]) && name.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(name).ok().filter(|_| is_number)?.parse().ok()
}

/// Puts a text into a file in memory, at its beginning.
pub(super) fn file_of(text: &[u8]) -> Result<OwnedFd, Errno> {
    use std::io::{Seek as _, Write as _};
    let file = rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    let written = file.write_all(text).and_then(|()| file.rewind());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(file.into())
}
