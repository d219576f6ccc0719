//! `/proc` of a step: files of the container's, of the step's own processes, and of the machine.
//!
//! A directory or a file is handed in as it is, so that listing and reading cost no more. The links by
//! which a process shows what it has open are followed by their meaning in the step's view.
//!
//! | path | what is there |
//! |---|---|
//! | `/proc/PID` of a process of the step | what [`OF_PROCESS`] lists |
//! | `mounts`, `mountinfo`, `maps` | made up: one root, and paths as the step knows them |
//! | `/proc/PID` of another process | nothing |
//! | what [`OF_MACHINE`] lists, `/proc/sys` and `/proc/net` | the container's, read-only |
//! | all else | not there |

use rustix::io::Errno;

use super::super::supervisor::target::Target;
use super::World;
use super::paths::Found;

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

impl World {
    /// Returns what a link of `/proc` says in the step's view, and its own path; `None` for what is
    /// not a link.
    pub(super) fn proc_link(
        &self,
        target: Target<'_>,
        at: &[Vec<u8>],
    ) -> Result<Option<(Vec<u8>, String)>, Errno> {
        let names: Vec<&[u8]> = at.iter().map(Vec::as_slice).collect();
        let plain =
            |text: String, name: &str| Ok(Some((text.into_bytes(), format!("/proc/{name}"))));
        match names[1..] {
            [b"self"] => return plain(Self::group_of(target)?.to_string(), "self"),
            [b"thread-self"] => {
                let group = Self::group_of(target)?;
                return plain(format!("{group}/task/{}", target.call.pid), "thread-self");
            }
            [b"mounts"] => return plain("self/mounts".to_owned(), "mounts"),
            [b"net"] => return plain("self/net".to_owned(), "net"),
            _ => {}
        }
        let Some((pid, rest)) = names[1..].split_first() else { return Ok(None) };
        let Some(pid) = number(pid) else { return Ok(None) };
        if !self.is_own(target, pid) {
            return Err(Errno::NOENT);
        }
        let (place, rest) = match rest {
            [b"task", thread, rest @ ..] => {
                (format!("/proc/{pid}/task/{}", number(thread).ok_or(Errno::NOENT)?), rest)
            }
            rest => (format!("/proc/{pid}"), rest),
        };
        match rest {
            [b"root"] => Ok(Some((b"/".to_vec(), format!("{place}/root")))),
            [b"exe"] => {
                Ok(Some((self.program_of(pid).ok_or(Errno::NOENT)?, format!("{place}/exe"))))
            }
            [b"cwd"] => self.said(format!("{place}/cwd")),
            [b"fd", file] => self.said(format!("{place}/fd/{}", number(file).ok_or(Errno::NOENT)?)),
            _ => Ok(None),
        }
    }

    /// Reads a link of the container's `/proc`.
    fn said(&self, place: String) -> Result<Option<(Vec<u8>, String)>, Errno> {
        let text = rustix::fs::readlink(&place, Vec::new())?.into_bytes();
        let text = self.inside(&text).unwrap_or(text);
        Ok(Some((text, place)))
    }

    /// Returns what is at a path of `/proc` that is not a link.
    pub(super) fn shown_of_proc(&self, target: Target<'_>, at: &[Vec<u8>]) -> Result<Found, Errno> {
        let names: Vec<&[u8]> = at.iter().map(Vec::as_slice).collect();
        let path = at.iter().map(|part| std::str::from_utf8(part).map_err(|_| Errno::NOENT));
        let path = format!("/{}", path.collect::<Result<Vec<_>, _>>()?.join("/"));
        let [first, rest @ ..] = &names[1..] else { return Ok(Found::Proc(path)) };
        let Some(pid) = number(first) else {
            let is_shown = OF_MACHINE.contains(first) && (rest.is_empty() || *first == b"sys");
            return if is_shown { Ok(Found::Proc(path)) } else { Err(Errno::NOENT) };
        };
        if !self.is_own(target, pid) {
            return Err(Errno::NOENT);
        }
        let rest = match rest {
            [b"task", thread, rest @ ..] if number(thread).is_some() => rest,
            rest => rest,
        };
        match rest {
            [] => Ok(Found::Proc(path)),
            [b"mounts"] => Ok(Found::Text(MOUNTS.to_vec(), path)),
            [b"mountinfo"] => Ok(Found::Text(MOUNTINFO.to_vec(), path)),
            [b"maps"] => {
                let text = std::fs::read(&path).map_err(|_| Errno::NOENT)?;
                target.check()?;
                Ok(Found::Text(self.without_prefix(&text), path))
            }
            [b"net", ..] => Ok(Found::Proc(path)),
            [b"fdinfo" | b"fd", _] => Ok(Found::Proc(path)),
            [name] if OF_PROCESS.contains(name) => Ok(Found::Proc(path)),
            _ => Err(Errno::NOENT),
        }
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
    fn without_prefix(&self, text: &[u8]) -> Vec<u8> {
        let prefix = [self.prefix.as_slice(), b"/"].concat();
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.windows(prefix.len()).position(|window| window == prefix) {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + prefix.len() - 1..];
        }
        out.extend_from_slice(rest);
        out
    }

    /// Returns the process that a calling thread belongs to.
    pub(super) fn group_of(target: Target<'_>) -> Result<u32, Errno> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", target.call.pid));
        let text = text.map_err(|_| Errno::SRCH)?;
        let field = text.lines().find_map(|line| line.strip_prefix("Tgid:"));
        field.and_then(|field| field.trim().parse().ok()).ok_or(Errno::SRCH)
    }

    /// Returns the path of what a process executes.
    fn program_of(&self, pid: u32) -> Option<Vec<u8>> {
        let number = self.credentials.noted(pid as i32).program;
        self.programs.get(number.checked_sub(1)? as usize).cloned()
    }

    /// Says whether a path of `/proc` is about a process of the step, if it is about one.
    pub(super) fn is_still_shown(&self, target: Target<'_>, path: &str) -> bool {
        let name = path.split('/').nth(2).and_then(|name| number(name.as_bytes()));
        name.is_none_or(|pid| self.is_own(target, pid))
    }

    /// Says whether a process is one of the step: the keeper is above it.
    fn is_own(&self, target: Target<'_>, pid: u32) -> bool {
        if pid == target.call.pid {
            return true;
        }
        let mut pid = pid;
        for _ in 0..256 {
            let Ok(text) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
            let text = String::from_utf8_lossy(&text);
            let parent = text.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
            match parent.and_then(|parent| parent.parse::<u32>().ok()) {
                Some(parent) if parent == self.keeper => return true,
                Some(parent) if parent > 1 => pid = parent,
                _ => return false,
            }
        }
        false
    }
}

fn number(name: &[u8]) -> Option<u32> {
    let is_number = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(name).ok().filter(|_| is_number)?.parse().ok()
}

/// Puts a text into a file in memory, at its beginning.
pub(super) fn file_of(text: &[u8]) -> Result<std::os::fd::OwnedFd, Errno> {
    use std::io::{Seek as _, Write as _};
    let file = rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    let written = file.write_all(text).and_then(|()| file.rewind());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(file.into())
}
