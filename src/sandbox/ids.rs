//! Which ids the users of a sandbox have on the machine.
//!
//! As root, a command's users are given ids of the machine that no user there has, while the store
//! keeps the true ids: mounts translate. So a command that breaks out of everything else has no
//! power over any file. Users 0 to 65535 are those that `/etc/subuid` and `/etc/subgid` set aside
//! for `builder`, else for `root`, else [`DEFAULT_FIRST`] and what follows; [`super::idmap`] says
//! where all other ids are.
//!
//! Inside a user namespace, where a user without privileges has put us, a command's ids are ours,
//! one to one, in a namespace below: nothing on disk has to be translated, and the command has no
//! power over what the builder made.
//!
//! Source: subuid(5), user_namespaces(7).

use std::fs;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use super::idmap::IdMap;
use crate::snapshot::{self, IdMapping};

/// Number of ids that a range set aside for the builder must have: enough for `nobody`, 65534.
const COUNT: u32 = 65_536;

/// First id of a sandbox as root, where none is set aside. Users' ranges begin at 100000, systemd
/// gives what lies below this one to containers and leaves what follows alone.
pub(super) const DEFAULT_FIRST: u32 = 0x7000_0000;

/// The user namespace of commands, and how it maps.
#[derive(Debug)]
pub struct Ids {
    userns: OwnedFd,
    map: IdMap,
}

impl Ids {
    /// Takes a namespace with this map, if layers near `directory` can be seen through it.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub(super) fn new(userns: OwnedFd, map: IdMap, directory: &Path) -> Result<Self, String> {
        let ids = Self { userns, map };
        if let Some(mapping) = ids.mapping() {
            fs::create_dir_all(directory).map_err(|error| error.to_string())?;
            snapshot::can_map(directory, mapping).map_err(|error| {
                let why = std::error::Error::source(&error);
                why.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"))
            })?;
        }
        Ok(ids)
    }

    /// Takes a further namespace with a map that another has.
    pub(super) fn same(userns: OwnedFd, map: IdMap) -> Self {
        Self { userns, map }
    }

    /// Returns the namespace.
    pub fn userns(&self) -> BorrowedFd<'_> {
        self.userns.as_fd()
    }

    /// Returns how it maps.
    pub fn map(&self) -> &IdMap {
        &self.map
    }

    /// Returns how mounts must translate; `None` where ids are the same on both sides.
    pub fn mapping(&self) -> Option<IdMapping<'_>> {
        let (uid, gid) = self.map.root();
        self.map.translates().then(|| IdMapping { userns: self.userns(), uid, gid })
    }
}

/// Chooses the ids of commands for this process: with all ids of the machine at hand the range set
/// aside and what no user has, else those there are, one to one. `wanted` is the first id that the
/// user asks for.
pub fn choose_map(wanted: Option<u32>) -> IdMap {
    let own = (read("/proc/self/uid_map"), read("/proc/self/gid_map"));
    if !owns_all(&own.0) {
        return IdMap::one_to_one(&own.0, &own.1);
    }
    let choose = |ranges: &str, names: &str| {
        let (ranges, names) = (read(ranges), read(names));
        let set_aside =
            || ["builder", "root", "0"].iter().find_map(|owner| first_range(&ranges, owner));
        let first = wanted.or_else(set_aside).unwrap_or(DEFAULT_FIRST);
        (first, taken(&ranges, &names))
    };
    let (uid, gid) = (choose("/etc/subuid", "/etc/passwd"), choose("/etc/subgid", "/etc/group"));
    IdMap::spread((uid.0, gid.0), (&uid.1, &gid.1))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns the ids that these texts give to users: `/etc/subuid` or `/etc/subgid`, and the third
/// field of `/etc/passwd` or `/etc/group`.
fn taken(ranges: &str, names: &str) -> Vec<Range<u64>> {
    let number = |field: Option<&str>| field?.trim().parse::<u32>().ok().map(u64::from);
    let ranges = ranges.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(1);
        let (first, count) = (number(fields.next())?, number(fields.next())?);
        Some(first..first + count)
    });
    let names = names.lines().filter_map(|line| {
        let id = number(line.split(':').nth(2))?;
        Some(id..id + 1)
    });
    ranges.chain(names).collect()
}

/// Says whether this process has all ids of the machine.
pub fn owns_machine() -> bool {
    owns_all(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

/// Says whether a map is that of the machine itself. Without one, there are no user namespaces.
fn owns_all(map: &str) -> bool {
    map.is_empty() || map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
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
        // Id -1 means no id to every call.
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
    fn ids_of_users_are_read_from_both_kinds_of_files() {
        let ranges = "root:1000:10\nbroken\nuser:200000:65536\n";
        let names = "root:x:0:0:root:/root:/bin/sh\nbig:x:3000000000:5::/:\n+::::::\n";
        let expected = [1000..1010, 200_000..265_536, 0..1, 3_000_000_000..3_000_000_001];
        assert_eq!(taken(ranges, names), expected);
    }
}
