//! What is done after builds without being asked: old history goes, and cache that is too large.
//!
//! A build that ran nothing costs one listing here. One that did adds what it made to a running
//! sum, and only when that passes the cap, or the disk is nearly full, is everything counted.

use super::Caller;
use super::request::DiskPolicy;
use crate::gc::{GcError, Includes, Inventory, Only, Policy, collect};
use crate::history::{History, KEEP_BUILDS};
use crate::store::{Store, StorePart};
use crate::sys::cancel::Cancel;
use crate::sys::room::Watch;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long builds are kept in the history, in milliseconds: a quarter of a year.
const HISTORY_AGE_MS: i64 = 90 * 24 * 60 * 60 * 1000;

/// How much of the disk the cache may take by default: BuildKit's default, and its
/// largest.
const CAP_SHARE: u64 = 10;
const CAP_MIN: u64 = 10 << 30;
const CAP_MAX: u64 = 100 << 30;

/// How much of the disk is to stay free, and at most how much: enough for what else lives there.
const FLOOR_SHARE: u64 = 20;
const FLOOR_MAX: u64 = 10 << 30;

/// A step is ended when it leaves less than this share of the floor: collecting cannot help it any
/// more.
const STEP_SHARE: u64 = 10;

/// How much cache stays whatever the disk's floor says, where that is our own idea: on a disk that
/// others fill, to throw all of it away after each build would gain little and cost every hit.
const RESERVE: u64 = 2 << 30;

/// Collection goes on to this many percent of the cap, so that it does not come with every build.
const TARGET_PERCENT: u64 = 80;

/// After so many seconds the running sum is not trusted any more: other commands add and remove
/// too.
const SUM_AGE: i64 = 24 * 60 * 60;

/// The running sum: `usage`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Usage {
    /// Bytes of cache.
    bytes: u64,
    /// When they were last counted, in seconds since 1970.
    counted: i64,
}

/// What the cache may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    /// Bytes of cache.
    cap: u64,
    /// Bytes of the disk that stay free.
    floor: u64,
    /// Bytes of cache that stay for all the floor says.
    reserve: u64,
    /// Bytes of the disk that are free.
    free: u64,
}

impl Bounds {
    /// What of `bytes` of cache is to stay; `None` where all may.
    fn keep(self, bytes: u64) -> Option<u64> {
        let lacking = self.floor.saturating_sub(self.free);
        let is_over = bytes > self.cap;
        let target = if is_over { self.cap / 100 * TARGET_PERCENT } else { self.cap };
        let keep = target.min(bytes.saturating_sub(lacking).max(self.reserve));
        (keep < bytes).then_some(keep)
    }
}

/// Tidies up after a build that made `added` bytes of layers; returns how many bytes of cache were
/// collected.
///
/// # Errors
///
/// [`GcError`], which need not fail the build.
pub(super) fn after_build(
    disk: &DiskPolicy,
    store: &Store,
    caller: &dyn Caller,
    added: Option<u64>,
) -> Result<u64, GcError> {
    let now = caller.now();
    let oldest = now.as_millisecond() - HISTORY_AGE_MS;
    let _ = History::new(store).prune(KEEP_BUILDS, oldest, now.as_millisecond());
    let (Some(added), Some(bounds)) = (added, bounds(disk, store)) else { return Ok(0) };
    match tidy(store, bounds, added, now, caller.cancel()) {
        Err(GcError::Cancelled) => Ok(0),
        result => result,
    }
}

fn tidy(
    store: &Store,
    bounds: Bounds,
    added: u64,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<u64, GcError> {
    let place = StorePart::Usage.path();
    let known = store
        .read_file(place)?
        .and_then(|bytes| serde_json::from_slice::<Usage>(&bytes).ok())
        .filter(|usage| (0..SUM_AGE).contains(&(now.as_second() - usage.counted)));
    let write = |usage: Usage| {
        let json = serde_json::to_vec(&usage).expect("a sum is plain data");
        store.write_file(place, &json)
    };
    if let Some(usage) = known {
        let bytes = usage.bytes.saturating_add(added);
        if bounds.keep(bytes).is_none() {
            write(Usage { bytes, ..usage })?;
            return Ok(0);
        }
    }
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let mut bytes = Inventory::of(store)?.cache_bytes();
    let mut removed = 0;
    if let Some(keep) = bounds.keep(bytes) {
        let policy = Policy {
            includes: Includes::Everything,
            only: Only::ALL,
            unused_since: None,
            keep_bytes: Some(keep),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        };
        removed = collect(store, &policy, cancel)?.bytes();
        bytes = bytes.saturating_sub(removed);
    }
    write(Usage { bytes, counted: now.as_second() })?;
    Ok(removed)
}

/// How many bytes of the disk the steps of a build leave free.
pub(super) fn step_floor(disk: &DiskPolicy, store: &Store) -> u64 {
    floor_of(disk, store.root())
}

/// Watches the disk of `dir` while a command writes there.
pub fn watch_room(disk: &DiskPolicy, dir: &Path, cancel: &Cancel) -> Watch {
    Watch::start(dir, floor_of(disk, dir), cancel)
}

/// How many bytes of the disk of `dir` are to stay free.
fn floor_of(policy: &DiskPolicy, dir: &Path) -> u64 {
    let disk = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
    let Some(disk) = disk else { return 0 };
    floor(policy, disk.f_blocks * disk.f_frsize).0 / STEP_SHARE
}

/// What the policy and the disk say; `None` where nothing is to be collected.
fn bounds(policy: &DiskPolicy, store: &Store) -> Option<Bounds> {
    let disk = rustix::fs::statvfs(store.root()).ok()?;
    let (size, free) = (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize);
    if !policy.collects {
        return None;
    }
    let cap = policy.keep.unwrap_or((size / CAP_SHARE).clamp(CAP_MIN, CAP_MAX));
    let (floor, reserve) = floor(policy, size);
    Some(Bounds { cap, floor, reserve, free })
}

/// How much of a disk of `size` bytes is to stay free, and how much cache for all that.
fn floor(policy: &DiskPolicy, size: u64) -> (u64, u64) {
    match policy.min_free {
        Some(floor) => (floor, 0),
        None => ((size / FLOOR_SHARE).min(FLOOR_MAX), RESERVE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_and_a_floor_say_how_much_stays() {
        let keep = |cap, floor, free, bytes| Bounds { cap, floor, free, reserve: 0 }.keep(bytes);
        assert_eq!(keep(1000, 10, 500, 1000), None);
        assert_eq!(keep(1000, 10, 500, 1001), Some(800), "further than it must");
        assert_eq!(keep(1000, 100, 40, 500), Some(440), "60 bytes are missing on the disk");
        assert_eq!(keep(1000, 900, 40, 500), Some(0), "all of it does not help");
        assert_eq!(keep(0, 0, 1, 1), Some(0));
        let reserving = Bounds { cap: 1000, floor: 900, free: 40, reserve: 300 };
        assert_eq!(reserving.keep(500), Some(300), "some stays on a disk that others fill");
        assert_eq!(reserving.keep(200), None);
    }
}
