//! Maps between ids inside a sandbox and ids of the machine.
//!
//! As root every id that a file can have has a place inside, so a command can own, change and
//! remove whatever an image holds. The places are chosen so that an id inside is, as far as the
//! numbers go, an id that no user of the machine has:
//!
//! | id inside | id of the machine |
//! |---|---|
//! | 0 to 65535 | the range set aside for the builder, see [`super::ids`] |
//! | 65536 to 2147483647 | from 2147483648 on: no tool hands these out, many cannot even write them |
//! | 4294901760 to 4294967294 | the last ones of the machine |
//! | 2147483648 to 2415853567 | from 1879048192 to 2147483647, beyond the ranges of systemd |
//! | 2415853568 and more | below 1879048192, where users of a directory service may have theirs |
//!
//! Ids of the machine below 65536, root's among them, have no place inside, nor do those that
//! `/etc/passwd`, `/etc/group`, `/etc/subuid` and `/etc/subgid` name. As many ids inside lack one:
//! the last ones before 4294901760.
//!
//! Source: user_namespaces(7); <https://systemd.io/UIDS-GIDS>; sssd-ldap(5), "ID MAPPING".

use super::fault::Fault;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Largest number of extents in one map (`UID_GID_MAP_MAX_EXTENTS`).
const EXTENTS_MAX: usize = 340;

/// Number of ids that exist: the last one, -1, means "leave as it is" to every call.
const ALL: u64 = u32::MAX as u64;

/// End of the ids of system users and local users.
const LOCAL_END: u64 = 65_536;

/// First id beyond those that systemd gives to containers.
const UNUSED_FIRST: u64 = 0x7000_0000;

/// First id that tools which read ids as signed numbers cannot handle.
const SIGNED_END: u64 = 0x8000_0000;

/// First of the ids inside that are preferred over others of their size: -2 is `nobody` to many.
const LAST_FIRST: u64 = 0xffff_0000;

/// A run of ids inside that maps to a run of ids of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First id inside the sandbox.
    pub inside: u32,
    /// First id on the machine.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Map of user ids and of group ids between a sandbox and the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// User ids; the first extent begins with the sandbox's user 0.
    uids: Vec<Extent>,
    /// Group ids; the first extent begins with the sandbox's group 0.
    gids: Vec<Extent>,
}

impl IdMap {
    /// Returns the map of a builder that has all ids of the machine: ids below 65536 map to the
    /// ranges that begin with these two, all others as the module's table says. Ids of the machine
    /// in `taken`, users and groups, have no place inside.
    pub fn spread((uid, gid): (u32, u32), taken: (&[Range<u64>], &[Range<u64>])) -> Self {
        Self { uids: spread(uid, taken.0), gids: spread(gid, taken.1) }
    }

    /// Returns the map with the same ids on both sides, from the texts of `uid_map` and `gid_map`
    /// of the namespace around it.
    pub(super) fn one_to_one(uid_map: &str, gid_map: &str) -> Self {
        Self { uids: same(uid_map), gids: same(gid_map) }
    }

    /// As [`one_to_one`](Self::one_to_one), of a namespace that can be known from the machine's own:
    /// where that has all ids, the last is left out.
    pub(super) fn within(uid_map: &str, gid_map: &str) -> Self {
        let mut map = Self::one_to_one(uid_map, gid_map);
        for extents in [&mut map.uids, &mut map.gids] {
            if let [Extent { inside: 0, count: count @ u32::MAX, .. }] = extents.as_mut_slice() {
                *count -= 1;
            }
        }
        map
    }

    /// Returns the ids of the machine that the sandbox's user 0 and group 0 have.
    pub fn root(&self) -> (u32, u32) {
        (self.uid(0).unwrap_or(0), self.gid(0).unwrap_or(0))
    }

    /// Says whether ids differ between the two sides.
    pub fn translates(&self) -> bool {
        self.uids.iter().chain(&self.gids).any(|extent| extent.inside != extent.outside)
    }

    /// Says whether user 0 is the only user.
    pub(super) fn is_single(&self) -> bool {
        [&self.uids, &self.gids].iter().any(|extents| find(extents, 1).is_none())
    }

    /// Returns the machine's id of a user.
    pub fn uid(&self, inside: u32) -> Option<u32> {
        find(&self.uids, inside)
    }

    /// Returns the machine's id of a group.
    pub fn gid(&self, inside: u32) -> Option<u32> {
        find(&self.gids, inside)
    }

    /// Returns the failure for an id that has no place inside; `of` says what has it.
    pub(super) fn lacks(&self, id: u32, of: &str) -> Fault {
        Fault::UnmappedId { of: of.to_owned(), id, is_chosen: self.translates() }
    }

    /// Returns the texts for `uid_map` and `gid_map`.
    pub(super) fn texts(&self) -> [(&'static str, String); 2] {
        let text = |extents: &[Extent]| {
            extents.iter().fold(String::new(), |text, e| {
                text + &format!("{} {} {}\n", e.inside, e.outside, e.count)
            })
        };
        [("uid_map", text(&self.uids)), ("gid_map", text(&self.gids))]
    }
}

fn find(extents: &[Extent], inside: u32) -> Option<u32> {
    let extent = extents.iter().find(|e| inside >= e.inside && inside - e.inside < e.count)?;
    extent.outside.checked_add(inside - extent.inside)
}

/// Returns the extents of a map with the same ids on both sides; the map around it may be in
/// pieces, which no extent may span.
fn same(map: &str) -> Vec<Extent> {
    let lines = map.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (first, _, count) = (fields.next()?.ok()?, fields.next()?, fields.next()?.ok()?);
        Some(Extent { inside: first, outside: first, count })
    });
    let mut extents: Vec<Extent> = lines.collect();
    extents.sort_unstable_by_key(|extent| extent.inside);
    extents
}

/// Returns the extents of a map whose first 65536 ids begin at `first` on the machine.
fn spread(first: u32, taken: &[Range<u64>]) -> Vec<Extent> {
    let first = u64::from(first);
    let own = first..first + LOCAL_END;
    let mut excluded = vec![0..LOCAL_END, own];
    excluded.extend_from_slice(taken);
    let mut outside = Vec::new();
    for area in [SIGNED_END..ALL, UNUSED_FIRST..SIGNED_END, LOCAL_END..UNUSED_FIRST] {
        outside.extend(without(area, &excluded));
    }
    let inside = [LOCAL_END..SIGNED_END, LAST_FIRST..ALL, SIGNED_END..LAST_FIRST];
    let mut extents = vec![extent(0, first, LOCAL_END)];
    let mut free = outside.into_iter();
    let mut place = free.next();
    for mut ids in inside {
        while !ids.is_empty() && extents.len() < EXTENTS_MAX {
            let Some(here) = &mut place else { return extents };
            let count = (ids.end - ids.start).min(here.end - here.start);
            extents.push(extent(ids.start, here.start, count));
            ids.start += count;
            here.start += count;
            if here.is_empty() {
                place = free.next();
            }
        }
    }
    extents
}

fn extent(inside: u64, outside: u64, count: u64) -> Extent {
    let id = |number| u32::try_from(number).expect("ids are cut from ranges that end at -1");
    Extent { inside: id(inside), outside: id(outside), count: id(count) }
}

/// Returns the parts of `area`, in order, that are in none of the excluded ranges.
fn without(area: Range<u64>, excluded: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = excluded.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut left = Vec::new();
    let mut start = area.start;
    for range in sorted {
        if range.start.min(area.end) > start {
            left.push(start..range.start.min(area.end));
        }
        start = start.max(range.end);
    }
    if start < area.end {
        left.push(start..area.end);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u32 = 0x7000_0000;

    /// Checks what every map must be: whole at its beginning, one to one, away from local users.
    #[track_caller]
    fn check(extents: &[Extent], taken: &[Range<u64>]) {
        let sorted = |start: fn(&Extent) -> u32| {
            let mut ranges: Vec<(u64, u64)> = extents
                .iter()
                .map(|e| (u64::from(start(e)), u64::from(start(e)) + u64::from(e.count)))
                .collect();
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:?}");
            ranges
        };
        sorted(|e| e.inside);
        for (start, end) in sorted(|e| e.outside) {
            assert!(start >= LOCAL_END && end <= ALL, "{start}..{end}");
            for taken in taken {
                assert!(end <= taken.start || start >= taken.end, "{start}..{end} {taken:?}");
            }
        }
        assert!(extents.len() <= EXTENTS_MAX);
        assert_eq!(extents[0].inside, 0);
    }

    #[test]
    fn every_usual_id_is_one_that_the_machine_gives_to_no_user() {
        let map = spread(FIRST, &[]);
        check(&map, &[]);
        assert_eq!(find(&map, 65_535), Some(FIRST + 65_535));
        for id in [65_536, 70_000, 100_000, 1_000_700_000, 2_147_483_647, 4_294_967_294] {
            assert!(find(&map, id).unwrap() >= 0x8000_0000, "{id}");
        }
        for id in [0x8000_0000, 2_415_853_567] {
            assert!((0x7001_0000..0x8000_0000).contains(&find(&map, id).unwrap()), "{id}");
        }
        assert!(find(&map, 4_294_836_223).is_some());
        let count: u64 = map.iter().map(|e| u64::from(e.count)).sum();
        assert_eq!(count, ALL - LOCAL_END, "all but as many as the machine's own");
        assert_eq!(find(&map, u32::MAX), None);
    }

    #[test]
    fn ids_of_known_users_have_no_place_wherever_the_builders_own_are() {
        let taken = [100_000..165_536, 3_000_000_000..3_000_000_001, 165_000..200_000];
        for first in [65_536, 100_000, FIRST, 0x7fff_8000, 0x8000_0000, u32::MAX - 65_537] {
            let taken = if first <= 100_000 { &taken[1..2] } else { &taken[..] };
            let map = spread(first, taken);
            check(&map, taken);
            for id in [0, 65_535, 65_536, 1_000_700_000, 2_147_483_648, 4_294_967_294] {
                assert!(find(&map, id).is_some(), "{id} {first}");
            }
        }
    }

    #[test]
    fn a_machine_of_many_ranges_still_has_a_map() {
        let taken: Vec<Range<u64>> =
            (0..1000).map(|n| 100_000 + n * 100_000..100_000 + n * 100_000 + 65_536).collect();
        let map = spread(FIRST, &taken);
        check(&map, &taken);
        assert_eq!(map.len(), EXTENTS_MAX);
    }

    #[test]
    fn a_containers_map_is_repeated_one_to_one() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        let map = IdMap::one_to_one(map, map);
        assert_eq!(map.texts()[0].1, "0 0 1\n1 1 65536\n");
        assert!(!map.translates() && !map.is_single());
        assert_eq!((map.uid(65_536), map.gid(65_537)), (Some(65_536), None));
        assert!(IdMap::one_to_one("0 1000 1\n5 7 9\n", "0 0 70\n").is_single());
    }
}
