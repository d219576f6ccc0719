//! The fingerprint index: which content a file had when it last was read.
//!
//! One file for each context root, named by the caller. Little-endian:
//!
//! ```text
//! "bfpi"  version u32  records u32  names u32    header, 16 bytes
//! record × records, sorted by path:              96 bytes each
//!     name offset u32, name length u32, age u32, mtime ns u32, ctime ns u32, zero u32,
//!     dev u64, inode u64, size u64, mtime s i64, ctime s i64, BLAKE3 of the content [32]
//! names                                          paths, without separators
//! BLAKE3 of all before                           32 bytes
//! ```
//!
//! # Invariants
//!
//! - A reader sees a whole index or none: it is replaced by rename, and one that fails its
//!   checksum, or is of another version, counts as empty. Losing an index costs time, never a wrong
//!   result.
//! - A record is written only if its file's ctime was older than the clock when reading began, by
//!   more than the file system's granularity. So an edit after the reading has another ctime, also
//!   within the same tick; with a clock set back the file is read again until time has caught up.
//!   Renames, reused inodes and other mounts differ in inode, ctime or device.

use crate::copy::{FileTime, Stamp};
use crate::store::StorePart;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 4] = b"bfpi";
const VERSION: u32 = StorePart::Fingerprints.version();
const HEADER: usize = 16;
const RECORD: usize = 96;
const CHECKSUM: usize = 32;

/// Largest index that is read, in bytes: some 7 million files.
const SIZE_MAX: u64 = 1 << 30;

/// A record that was not looked at in so many rewrites of its index is dropped.
const AGE_MAX: u32 = 32;

/// What the ticks of the kernel's coarse clock can hide, in nanoseconds: 100 Hz and some.
const TICK: i128 = 20_000_000;

/// The same for file systems that keep whole seconds, or two (FAT).
const COARSE_TICK: i128 = 2_100_000_000;

/// What must be equal for a file to count as unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Device, inode, size, mtime and ctime: a directory that any user may write.
    Stamp,
    /// Size and mtime: a snapshot whose identity names the index, mounted anew each time.
    Immutable,
}

/// The content of a file, and when it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) stamp: Stamp,
    pub(super) content: [u8; 32],
    /// True when a later edit could look the same, so that it holds for this build only.
    pub(super) is_racy: bool,
}

/// Says whether an edit after `now` could leave a file with this stamp.
pub(super) fn is_racy(stamp: &Stamp, now: FileTime) -> bool {
    let nanoseconds =
        |t: FileTime| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanoseconds);
    let tick = if stamp.ctime.nanoseconds == 0 { COARSE_TICK } else { TICK };
    nanoseconds(stamp.ctime) + tick >= nanoseconds(now)
}

/// An index while a build uses it.
#[derive(Debug)]
pub(super) struct Index {
    path: Option<PathBuf>,
    trust: Trust,
    /// The file as it was read, without its checksum; empty when there was none.
    base: Vec<u8>,
    /// For each record of `base`, whether this build looked at it.
    seen: Vec<bool>,
    /// What this build read itself; wins over `base`.
    fresh: BTreeMap<Box<[u8]>, Fingerprint>,
    /// Record after the last hit: the next file of a sorted walk is most often there.
    cursor: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads an index file; anything but a sound one is nothing.
fn read(path: &Path) -> Option<Vec<u8>> {
    if std::fs::metadata(path).ok()?.len() > SIZE_MAX {
        return None;
    }
    let mut bytes = std::fs::read(path).ok()?;
    let end = bytes.len().checked_sub(CHECKSUM)?;
    if blake3::hash(&bytes[..end]).as_bytes() != &bytes[end..] {
        return None;
    }
    bytes.truncate(end);
    if end < HEADER || &bytes[..4] != MAGIC || u32_at(&bytes, 4) != VERSION {
        return None;
    }
    let (records, names) = (u32_at(&bytes, 8) as usize, u32_at(&bytes, 12) as usize);
    (HEADER + records * RECORD + names == end).then_some(bytes)
}

impl Index {
    /// Opens the index at `path`; `None` keeps it in memory only.
    pub(super) fn open(path: Option<PathBuf>, trust: Trust) -> Self {
        let base = path.as_deref().and_then(read).unwrap_or_default();
        let records = if base.is_empty() { 0 } else { u32_at(&base, 8) as usize };
        Self { path, trust, base, seen: vec![false; records], fresh: BTreeMap::new(), cursor: 0 }
    }

    fn record(&self, at: usize) -> &[u8] {
        &self.base[HEADER + at * RECORD..][..RECORD]
    }

    fn name(&self, at: usize) -> &[u8] {
        let record = self.record(at);
        let names = &self.base[HEADER + self.seen.len() * RECORD..];
        let (start, length) = (u32_at(record, 0) as usize, u32_at(record, 4) as usize);
        names.get(start..start + length).unwrap_or_default()
    }

    fn stamp(&self, at: usize) -> Stamp {
        let record = self.record(at);
        let time = |seconds, nanoseconds| FileTime {
            seconds: u64_at(record, seconds) as i64,
            nanoseconds: u32_at(record, nanoseconds),
        };
        Stamp {
            dev: u64_at(record, 24),
            ino: u64_at(record, 32),
            size: u64_at(record, 40),
            mtime: time(48, 12),
            ctime: time(56, 16),
        }
    }

    fn find(&mut self, path: &[u8]) -> Option<usize> {
        let count = self.seen.len();
        if self.cursor < count && self.name(self.cursor) == path {
            self.cursor += 1;
            return Some(self.cursor - 1);
        }
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle).cmp(path) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => {
                    self.cursor = middle + 1;
                    return Some(middle);
                }
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        self.cursor = low;
        None
    }

    /// Returns the content of the file at `path` if it is known to be unchanged.
    pub(super) fn get(&mut self, path: &[u8], stamp: &Stamp) -> Option<[u8; 32]> {
        let is_same = |trust, old: &Stamp| match trust {
            Trust::Stamp => old == stamp,
            Trust::Immutable => old.size == stamp.size && old.mtime == stamp.mtime,
        };
        if !self.fresh.is_empty()
            && let Some(fingerprint) = self.fresh.get(path)
        {
            return is_same(self.trust, &fingerprint.stamp).then_some(fingerprint.content);
        }
        let at = self.find(path)?;
        self.seen[at] = true;
        is_same(self.trust, &self.stamp(at))
            .then(|| self.record(at)[64..96].try_into().expect("a record ends in 32 bytes"))
    }

    /// Remembers what was read.
    pub(super) fn insert(&mut self, path: &[u8], fingerprint: Fingerprint) {
        self.fresh.insert(path.into(), fingerprint);
    }

    /// Replaces the file if this build learnt anything.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let is_kept = |f: &Fingerprint| !f.is_racy || self.trust == Trust::Immutable;
        if !self.fresh.values().any(is_kept) {
            return Ok(());
        }
        let bytes = self.serialise();
        let parent = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".index-").tempfile_in(parent)?;
        file.write_all(&bytes)?;
        crate::sys::fault::at("index.written")?;
        file.persist(&path).map_err(|e| e.error)?;
        // What is on disk now is what a later flush has to start from.
        let trust = self.trust;
        let racy = std::mem::take(&mut self.fresh);
        *self = Self::open(Some(path), trust);
        self.fresh = racy.into_iter().filter(|(_, f)| f.is_racy).collect();
        Ok(())
    }

    fn serialise(&self) -> Vec<u8> {
        let mut records = Vec::with_capacity((self.seen.len() + self.fresh.len()) * RECORD);
        let mut names: Vec<u8> = Vec::new();
        let mut count: u32 = 0;
        let mut put = |path: &[u8], age: u32, stamp: &Stamp, content: &[u8]| {
            for value in [
                names.len() as u32,
                path.len() as u32,
                age,
                stamp.mtime.nanoseconds,
                stamp.ctime.nanoseconds,
                0,
            ] {
                records.extend_from_slice(&value.to_le_bytes());
            }
            for value in [
                stamp.dev,
                stamp.ino,
                stamp.size,
                stamp.mtime.seconds as u64,
                stamp.ctime.seconds as u64,
            ] {
                records.extend_from_slice(&value.to_le_bytes());
            }
            records.extend_from_slice(content);
            names.extend_from_slice(path);
            count += 1;
        };
        let mut fresh = self.fresh.iter().peekable();
        for at in 0..=self.seen.len() {
            let old = (at < self.seen.len()).then(|| self.name(at));
            while let Some((path, new)) =
                fresh.next_if(|(path, _)| old.is_none_or(|old| path.as_ref() <= old))
            {
                if !new.is_racy || self.trust == Trust::Immutable {
                    put(path, 0, &new.stamp, &new.content);
                }
            }
            let Some(old) = old else { break };
            let age = if self.seen[at] { 0 } else { u32_at(self.record(at), 8) + 1 };
            if age <= AGE_MAX && !self.fresh.contains_key(old) {
                put(old, age, &self.stamp(at), &self.record(at)[64..96]);
            }
        }
        let mut bytes = Vec::with_capacity(HEADER + records.len() + names.len() + CHECKSUM);
        bytes.extend_from_slice(MAGIC);
        for value in [VERSION, count, names.len() as u32] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&records);
        bytes.extend_from_slice(&names);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(ino: u64) -> Stamp {
        let time = |seconds| FileTime { seconds, nanoseconds: 5 };
        Stamp { dev: 1, ino, size: 3, mtime: time(10), ctime: time(-20) }
    }

    fn fingerprint(ino: u64, is_racy: bool) -> Fingerprint {
        Fingerprint { stamp: stamp(ino), content: [ino as u8; 32], is_racy }
    }

    #[test]
    fn what_was_flushed_is_found_again_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = Index::open(Some(path.clone()), Trust::Stamp);
        for (i, name) in ["b", "a/x", "a-b", "a", "c/d/e"].iter().enumerate() {
            index.insert(name.as_bytes(), fingerprint(i as u64, false));
        }
        index.insert(b"racy", fingerprint(9, true));
        index.flush().unwrap();
        assert_eq!(index.get(b"racy", &stamp(9)), Some([9; 32]), "holds within the build");

        let mut index = Index::open(Some(path.clone()), Trust::Stamp);
        for (i, name) in ["b", "a/x", "a-b", "a", "c/d/e"].iter().enumerate() {
            assert_eq!(index.get(name.as_bytes(), &stamp(i as u64)), Some([i as u8; 32]), "{name}");
            assert_eq!(index.get(name.as_bytes(), &stamp(77)), None, "{name}");
        }
        assert_eq!(index.get(b"racy", &stamp(9)), None);
        assert_eq!(index.get(b"zz", &stamp(0)), None);

        index.insert(b"a", fingerprint(6, false));
        index.insert(b"aa", fingerprint(7, false));
        index.flush().unwrap();
        let mut index = Index::open(Some(path), Trust::Stamp);
        assert_eq!(index.get(b"a", &stamp(6)), Some([6; 32]));
        assert_eq!(index.get(b"aa", &stamp(7)), Some([7; 32]));
        assert_eq!(index.get(b"b", &stamp(0)), Some([0; 32]));
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = Index::open(Some(path.clone()), Trust::Stamp);
        index.insert(b"a", fingerprint(1, false));
        index.flush().unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(Index::open(Some(path.clone()), Trust::Stamp).get(b"a", &stamp(1)), None);
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(Index::open(Some(path.clone()), Trust::Stamp).get(b"a", &stamp(1)), None);
        }
    }

    #[test]
    fn records_that_are_not_used_are_dropped_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = Index::open(Some(path.clone()), Trust::Stamp);
        index.insert(b"old", fingerprint(1, false));
        index.flush().unwrap();
        for round in 0..=AGE_MAX {
            let mut index = Index::open(Some(path.clone()), Trust::Stamp);
            assert!(index.find(b"old").is_some(), "{round}");
            index.insert(b"new", fingerprint(u64::from(round), false));
            index.flush().unwrap();
        }
        assert!(Index::open(Some(path), Trust::Stamp).find(b"old").is_none());
    }

    #[test]
    fn a_file_as_young_as_the_clock_is_racy() {
        let at = |seconds, nanoseconds| FileTime { seconds, nanoseconds };
        let racy = |ctime, now| is_racy(&Stamp { ctime, ..Stamp::default() }, now);
        assert!(racy(at(100, 500), at(100, 500)));
        assert!(racy(at(100, 500), at(100, 19_000_000)));
        assert!(!racy(at(100, 500), at(100, 21_000_000)));
        assert!(racy(at(100, 0), at(102, 0)), "whole seconds only");
        assert!(!racy(at(100, 0), at(103, 0)));
        assert!(racy(at(100, 500), at(50, 0)), "the clock was set back");
    }
}
