//! How a user without privileges becomes root of something: a user namespace of this process's own.
//!
//! Called once, first of all, while there is one thread. The process stays the same: it keeps its
//! number, its terminal and its descriptors, and is user 0 afterwards, with every capability over
//! what it makes from then on and none over anything that was there.
//!
//! | who calls | ids it gets |
//! |---|---|
//! | root of the machine | all: nothing is done |
//! | a user with ranges in `/etc/subuid` and `/etc/subgid` | 0 is the user, 1 and up the ranges, by newuidmap(1) |
//! | a user without | 0 is the user, and there is no other |
//! | root of a container without `CAP_SYS_ADMIN` | the container's |
//! | root of a user namespace that another program made | those, in a mount namespace of its own |
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
}

/// No user namespace can be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a user namespace")]
pub struct EnterError {
    source: io::Error,
}

impl From<io::Error> for EnterError {
    fn from(source: io::Error) -> Self {
        // No disk is full: so the kernel says that a limit of namespaces is reached.
        let source = match source.raw_os_error() {
            Some(errno @ libc::ENOSPC) => io::Error::other(reason("making a namespace", errno)),
            _ => source,
        };
        Self { source }
    }
}

/// Becomes root of something, where this process is not.
///
/// # Errors
///
/// When the kernel or the machine's settings forbid user namespaces.
pub fn enter() -> Result<Standing, EnterError> {
    let capabilities = rustix::thread::capabilities(None).map_err(io::Error::from)?.effective;
    let is_admin = capabilities.contains(CapabilitySet::SYS_ADMIN);
    if is_admin && ids::owns_machine() {
        return Ok(Standing::Machine);
    }
    let proof = SingleThreaded::prove()?;
    if is_admin {
        proof.unshare(libc::CLONE_NEWNS)?;
        return Ok(standing());
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let may_map = capabilities.contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
    let mapper = if may_map { Mapper::Ourselves } else { Mapper::Tools(uid, gid) };

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
    if let Some(pid) = rustix::process::Pid::from_raw(child.pid) {
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok();
    }
    unshared?;
    if is_mapped != [1] {
        // A range may have been mapped for one of the two.
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).ok();
        fs::write("/proc/self/setgroups", "deny").ok();
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).ok();
    }
    if !rustix::process::geteuid().is_root() {
        return Err(io::Error::from_raw_os_error(libc::EPERM).into());
    }
    Ok(standing())
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
                let own =
                    IdMap::one_to_one(&read("/proc/self/uid_map"), &read("/proc/self/gid_map"));
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
