//! Which ids the users of a sandbox have on the machine.
//!
//! As root, users 0 to 65535 of a command are given ids of the machine that belong to nobody, while
//! the store keeps the true ids: mounts translate. So a command that breaks out of everything else
//! is nobody. The ids are those that `/etc/subuid` and `/etc/subgid` set aside for `builder`, else for
//! `root`, else [`DEFAULT_FIRST`] and what follows.
//!
//! Inside a user namespace, where a user without privileges has put us, a command's ids are ours, one
//! to one, in a namespace below: nothing on disk has to be translated, and the command has no power
//! over what the builder made.
//!
//! Source: subuid(5), user_namespaces(7).

use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use super::protocol::IdMap;
use crate::snapshot::{self, IdMapping};

/// How many ids a sandbox has: enough for `nobody`, 65534.
pub(super) const COUNT: u32 = 65_536;

/// First id of a sandbox as root, where none is set aside. People's ranges begin at 100000, systemd
/// gives what lies below this one to containers and leaves what follows alone.
pub(super) const DEFAULT_FIRST: u32 = 0x7000_0000;

/// The user namespace of commands, and how it maps.
#[derive(Debug)]
pub struct Ids {
    userns: OwnedFd,
    map: IdMap,
}

impl Ids {
    /// Takes a namespace with this map, if layers near `folder` can be seen through it.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub(super) fn new(userns: OwnedFd, map: IdMap, folder: &Path) -> Result<Self, String> {
        let ids = Self { userns, map };
        if let Some(mapping) = ids.mapping() {
            fs::create_dir_all(folder).map_err(|error| error.to_string())?;
            snapshot::can_map(folder, mapping).map_err(|error| {
                let why = std::error::Error::source(&error);
                why.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"))
            })?;
        }
        Ok(ids)
    }

    /// Returns the namespace.
    pub fn userns(&self) -> BorrowedFd<'_> {
        self.userns.as_fd()
    }

    /// Returns how it maps.
    pub fn map(&self) -> IdMap {
        self.map
    }

    /// Returns how mounts must translate; `None` where ids are the same on both sides.
    pub fn mapping(&self) -> Option<IdMapping<'_>> {
        let IdMap { uid, gid, .. } = self.map;
        ((uid, gid) != (0, 0)).then(|| IdMapping { userns: self.userns(), uid, gid })
    }
}

/// Chooses the ids of commands for this process: with all ids of the machine at hand the range set
/// aside, else those there are, one to one. `wanted` is the first id that the user asks for.
pub fn choose_map(wanted: Option<u32>) -> IdMap {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let own = (read("/proc/self/uid_map"), read("/proc/self/gid_map"));
    if owns_all(&own.0) {
        let first = |path| {
            wanted.or_else(|| {
                let text = read(path);
                ["builder", "root", "0"].iter().find_map(|owner| first_range(&text, owner))
            })
        };
        return IdMap {
            uid: first("/etc/subuid").unwrap_or(DEFAULT_FIRST),
            gid: first("/etc/subgid").unwrap_or(DEFAULT_FIRST),
            count: COUNT,
        };
    }
    IdMap { uid: 0, gid: 0, count: from_zero(&own.0).min(from_zero(&own.1)) }
}

/// Says whether this process has all ids of the machine.
pub(super) fn owns_machine() -> bool {
    owns_all(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

/// Says whether a map is that of the machine itself. Without one, there are no user namespaces.
fn owns_all(map: &str) -> bool {
    map.is_empty() || map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Returns how many ids from 0 on a map knows, at most [`COUNT`], at least 1.
fn from_zero(map: &str) -> u32 {
    let mut ranges: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
            let (first, _, count) = (fields.next()?.ok()?, fields.next()?, fields.next()?.ok()?);
            Some((first, count))
        })
        .collect();
    ranges.sort_unstable();
    let known = ranges.iter().fold(0_u32, |known, &(first, count)| {
        if first <= known { known.max(first.saturating_add(count)) } else { known }
    });
    known.clamp(1, COUNT)
}

/// Translates a map into that of a namespace below with the same ids.
pub(super) fn one_to_one(map: &str) -> String {
    let lines = map.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (first, _, count) = (fields.next()?, fields.next()?, fields.next()?);
        Some(format!("{first} {first} {count}\n"))
    });
    lines.collect()
}

/// Returns the first range of at least [`COUNT`] ids that is set aside for `owner`.
fn first_range(text: &str, owner: &str) -> Option<u32> {
    subordinate(text, owner).find(|&(_, count)| count >= COUNT).map(|(first, _)| first)
}

/// Yields the ranges of `/etc/subuid` that belong to `owner`, a name or a number: first and count.
pub(super) fn subordinate<'a>(
    text: &'a str,
    owner: &'a str,
) -> impl Iterator<Item = (u32, u32)> + 'a {
    text.lines().filter_map(move |line| {
        let mut fields = line.trim().split(':');
        if fields.next() != Some(owner) {
            return None;
        }
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // Id -1 means nobody to every call.
        (u32::checked_add(first, count)? != u32::MAX && count > 0).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_their_owner() {
        let text = "# none\nroot:1000:10\nbuilder:200000:65536\nroot:300000:65536\nx:1\n";
        assert_eq!(first_range(text, "builder"), Some(200_000));
        assert_eq!(first_range(text, "root"), Some(300_000), "the first that is large enough");
        assert_eq!(first_range(text, "x"), None);
        assert_eq!(subordinate("u:4294967295:1\nu:5:0\n", "u").count(), 0);
    }

    #[test]
    fn ids_from_zero_on_are_counted_through_neighbours() {
        for (map, count) in [
            ("0 1000 1\n1 100000 65536\n", COUNT),
            ("0 1000 1\n", 1),
            ("1 100000 1000\n0 1000 1\n", 1001),
            ("0 1000 1\n5 100000 65536\n", 1),
            ("0 0 4294967295", COUNT),
            ("", 1),
        ] {
            assert_eq!(from_zero(map), count, "{map:?}");
        }
    }

    #[test]
    fn a_containers_map_is_repeated_one_to_one() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(one_to_one(map), "0 0 1\n1 1 65536\n");
    }
}
