//! How a user without privileges becomes root of something: a user namespace of this process's own.
//!
//! Called first of all, while there is one thread, by commands that touch the files of layers. The
//! process stays the same: it keeps its number, its terminal and its descriptors, and is user 0
//! afterwards, with every capability over what it makes from then on and none over anything that was
//! there.
//!
//! | who calls | ids it gets |
//! |---|---|
//! | root of the machine | all: nothing is done |
//! | a user with ranges in `/etc/subuid` and `/etc/subgid` | 0 is the user, 1 and up the ranges, by newuidmap(1) |
//! | a user without | 0 is the user, and there is no other |
//! | root of a container without `CAP_SYS_ADMIN` or `CAP_NET_ADMIN` | the container's |
//! | root of a user namespace that another program made | those, in a mount namespace of its own |
//! | a process that may make no namespace | those it has: see [`Standing::Container`] and [`Standing::User`] |
//!
//! Whether a namespace can be had is tried in a process that goes: one that was made and cannot be
//! mapped could not be left.
//!
//! Source: user_namespaces(7), newuidmap(1), subuid(5).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use rustix::thread::CapabilitySet;

use super::error::reason;
use super::idmap::IdMap;
use super::ids;
use crate::layer::owner;
use crate::sys::process::{self, Forked, SingleThreaded};

/// What this process is root of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The machine.
    Machine,
    /// A user namespace with more ids than one.
    Ranges,
    /// A user namespace with one id: files can have no other owner.
    Single,
    /// The files of a container in which no namespace can be made: they have owners, and nothing can
    /// be mounted.
    Container,
    /// Nothing: owners, modes and capabilities of files are written down, and nothing can be mounted.
    User,
}

impl Standing {
    /// Says whether commands can have namespaces of their own.
    pub fn has_namespaces(self) -> bool {
        !matches!(self, Self::Container | Self::User)
    }

    /// What is left to a process that can make no namespace.
    fn without_namespace() -> Self {
        if owner::go_without_rights() { Self::User } else { Self::Container }
    }
}

/// No user namespace can be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EnterError {
    /// The kernel, a setting or a filter forbids them.
    #[error("no user namespace can be made: {}", reason("making a namespace", *errno))]
    Made {
        /// What unshare(2) said.
        errno: i32,
    },
    /// They can be made and not be mapped.
    #[error("a user namespace can be made, and no ids be mapped in it: {}", reason("", *errno))]
    Mapped {
        /// What the kernel said of the map, or of the first call that needs one.
        errno: i32,
    },
    /// They can be made by others than user 0.
    #[error(
        "a user namespace can be made, and user 0 may not map itself in it: that takes CAP_SETFCAP"
    )]
    UserZero,
    /// This process is not one that can.
    #[error("cannot prepare a user namespace: {message}")]
    Process {
        /// What failed.
        message: String,
    },
}

impl From<io::Error> for EnterError {
    fn from(error: io::Error) -> Self {
        Self::Process { message: error.to_string() }
    }
}

/// Becomes root of something, where this process is not. Returns why not, where it stays what it
/// is: files are then made by other means, and commands cannot be run in namespaces.
pub fn enter() -> (Standing, Option<EnterError>) {
    match enter_or_fail() {
        Ok(standing) => (standing, None),
        Err(error) => (Standing::without_namespace(), Some(error)),
    }
}

fn enter_or_fail() -> Result<Standing, EnterError> {
    let capabilities = rustix::thread::capabilities(None).map_err(io::Error::from)?.effective;
    let is_admin = capabilities.contains(CapabilitySet::SYS_ADMIN);
    // A network needs its own capability, which the root of a namespace always has.
    let is_whole = is_admin && capabilities.contains(CapabilitySet::NET_ADMIN);
    if is_whole && ids::owns_machine() {
        return Ok(Standing::Machine);
    }
    let proof = SingleThreaded::prove()?;
    if is_whole {
        proof.unshare(libc::CLONE_NEWNS).map_err(|error| made(&error))?;
        return Ok(standing());
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let may_map = capabilities.contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
    let mapper = if may_map { Mapper::Ourselves } else { Mapper::Tools(uid, gid) };
    match probe(proof, &mapper) {
        Err(EnterError::Mapped { .. })
            if uid == 0 && !capabilities.contains(CapabilitySet::SETFCAP) =>
        {
            return Err(EnterError::UserZero);
        }
        // What there is without a namespace of our own is more than nothing.
        Err(_) if is_admin => {
            if ids::owns_machine() {
                return Ok(Standing::Machine);
            }
            proof.unshare(libc::CLONE_NEWNS).map_err(|error| made(&error))?;
            return Ok(standing());
        }
        other => other?,
    }

    // Who maps must stay outside.
    let (mut go, go_writer) = io::pipe().map(|(reader, writer)| (reader, Some(writer)))?;
    let (mut done, done_writer) = io::pipe()?;
    let pid = std::process::id();
    let child = match proof.clone_process(0, None)? {
        Forked::Parent(child) => child,
        Forked::Child => {
            drop((go_writer, done));
            let mut byte = [0];
            let is_mapped = go.read_exact(&mut byte).is_ok() && mapper.map(pid);
            let mut done_writer = done_writer;
            done_writer.write_all(&[u8::from(is_mapped)]).ok();
            process::exit_now(0);
        }
    };
    drop((go, done_writer));
    let unshared = proof.unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
    if let (Ok(()), Some(mut writer)) = (&unshared, go_writer) {
        writer.write_all(&[1])?;
    }
    let mut is_mapped = [0];
    done.read_exact(&mut is_mapped).ok();
    wait_for(child.pid);
    unshared.map_err(|error| made(&error))?;
    if is_mapped != [1] {
        // A range may have been mapped for one of the two.
        map_own(uid, gid).ok();
    }
    if !rustix::process::geteuid().is_root() {
        return Err(EnterError::Mapped { errno: libc::EPERM });
    }
    Ok(standing())
}

fn made(error: &io::Error) -> EnterError {
    EnterError::Made { errno: error.raw_os_error().unwrap_or(libc::EPERM) }
}

fn wait_for(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok();
    }
}

/// Maps the one id of a user in the namespace of this process.
fn map_own(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Tries in a process of its own whether a namespace can be made and be mapped.
fn probe(proof: SingleThreaded, mapper: &Mapper) -> Result<(), EnterError> {
    let (mut go, go_writer) = io::pipe().map(|(reader, writer)| (reader, Some(writer)))?;
    let (mut done, mut done_writer) = io::pipe()?;
    let child = match proof.clone_process(0, None)? {
        Forked::Parent(child) => child,
        Forked::Child => {
            drop((go_writer, done));
            let errno = |result: io::Result<()>| {
                result.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EPERM))
            };
            let unshared = errno(proof.unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS));
            done_writer.write_all(&unshared.to_ne_bytes()).ok();
            if unshared != 0 {
                process::exit_now(0);
            }
            let mapped = match mapper {
                Mapper::Ourselves => go.read_exact(&mut [0]),
                Mapper::Tools(uid, gid) => map_own(*uid, *gid),
            };
            let is_root = || match rustix::process::geteuid().is_root() {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::EPERM)),
            };
            done_writer.write_all(&errno(mapped.and_then(|()| is_root())).to_ne_bytes()).ok();
            process::exit_now(0);
        }
    };
    drop((go, done_writer));
    let mut answer = [0; 4];
    let mut read = || done.read_exact(&mut answer).map(|()| i32::from_ne_bytes(answer));
    let unshared = read();
    if matches!(unshared, Ok(0)) && matches!(mapper, Mapper::Ourselves) {
        let is_mapped = u32::try_from(child.pid).is_ok_and(|pid| mapper.map(pid));
        if let (true, Some(writer)) = (is_mapped, &go_writer) {
            (&*writer).write_all(&[1]).ok();
        }
    }
    // Without that byte the child reads the end of the pipe, which is an error to it.
    drop(go_writer);
    let mapped = match unshared {
        Ok(0) => read(),
        _ => Ok(0),
    };
    wait_for(child.pid);
    match (unshared, mapped) {
        (Ok(0), Ok(0)) => Ok(()),
        (Ok(0), Ok(errno)) => Err(EnterError::Mapped { errno }),
        (Ok(errno), _) => Err(EnterError::Made { errno }),
        // It was killed: by a filter, for the call.
        (Err(_), _) => Err(EnterError::Made { errno: libc::EPERM }),
    }
}

fn standing() -> Standing {
    if ids::choose_map(None).is_single() { Standing::Single } else { Standing::Ranges }
}

/// Who writes the maps.
enum Mapper {
    /// A process that may, in the namespace above: all ids that it has.
    Ourselves,
    /// The programs that may, for this user and group.
    Tools(u32, u32),
}

impl Mapper {
    /// Maps ids of the process `pid`; says whether that worked.
    fn map(&self, pid: u32) -> bool {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        match self {
            Self::Ourselves => {
                let own = IdMap::within(&read("/proc/self/uid_map"), &read("/proc/self/gid_map"));
                let write = |(file, text)| fs::write(format!("/proc/{pid}/{file}"), text).is_ok();
                own.texts().into_iter().all(write)
            }
            Self::Tools(uid, gid) => {
                let number = uid.to_string();
                let name = name_of(&read("/etc/passwd"), &number);
                [("newuidmap", "/etc/subuid", uid), ("newgidmap", "/etc/subgid", gid)].iter().all(
                    |(program, file, own)| {
                        let text = read(file);
                        let ranges = [name.as_deref(), Some(number.as_str())]
                            .into_iter()
                            .flatten()
                            .flat_map(|owner| ids::subordinate(&text, owner));
                        let words = words(**own, ranges);
                        words.len() > 3 && run(program, pid, &words)
                    },
                )
            }
        }
    }
}

/// Runs newuidmap or newgidmap.
fn run(program: &str, pid: u32, words: &[u32]) -> bool {
    let places = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"];
    let paths = places.iter().map(|dir| Path::new(dir).join(program));
    let Some(path) = paths.into_iter().find(|path| path.exists()) else { return false };
    Command::new(path)
        .arg(pid.to_string())
        .args(words.iter().map(u32::to_string))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Most triples that the tools are given: the kernel's limit of extents in a map.
const TRIPLES_MAX: usize = 340;

/// Writes what the tools take: triples of first id inside, first outside, and count. The ids of all
/// ranges follow each other inside.
fn words(own: u32, ranges: impl Iterator<Item = (u32, u32)>) -> Vec<u32> {
    let mut words = vec![0, own, 1];
    let mut next = 1_u32;
    for (first, count) in ranges.take(TRIPLES_MAX - 1) {
        let count = count.min(u32::MAX - next);
        if count == 0 {
            break;
        }
        words.extend([next, first, count]);
        next += count;
    }
    words
}

/// Finds the name of a user in the text of `/etc/passwd`.
fn name_of(passwd: &str, uid: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_users_own_id_up_to_the_last_id_there_is() {
        let of = |ranges: &[(u32, u32)]| words(1000, ranges.iter().copied());
        assert_eq!(of(&[]), [0, 1000, 1]);
        assert_eq!(of(&[(100_000, 65_536)]), [0, 1000, 1, 1, 100_000, 65_536]);
        assert_eq!(of(&[(5, 10), (50, 20)]), [0, 1000, 1, 1, 5, 10, 11, 50, 20]);
        let all = u32::MAX - 1;
        assert_eq!(of(&[(5, all - 8), (90_000, 9)])[6..], [all - 7, 90_000, 8]);
        assert_eq!(of(&[(5, all), (90_000, 9)]).len(), 6);
        assert_eq!(of(&[(5, 1); 500]).len(), 3 * TRIPLES_MAX);
    }

    #[test]
    fn users_are_found_by_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(passwd, "1000").as_deref(), Some("ann"));
        assert_eq!(name_of(passwd, "7"), None);
    }
}
