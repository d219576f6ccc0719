//! The identities of a layer: one stream of records, hashed twice.
//!
//! # The canonical form, version 1
//!
//! Both hashes are BLAKE3. Each begins with a line that names the form, so that neither equals any
//! other hash of this program:
//!
//! ```text
//! content id   "builder layer content v1\n"  record*
//! layer id     "builder layer times v1\n"    (record, mtime)*
//! times id     "builder layer set times v1\n"  (path:bytes mtime)*   of the entries whose time was
//! set
//! ```
//!
//! Records follow each other in the order of the raw bytes of their paths. Numbers are
//! little-endian. `bytes` is a u32 length and that many bytes. No field is optional, so nothing can
//! be shifted from one field into the next:
//!
//! ```text
//! record = path:bytes kind:u8 body
//! kind   'f' file       mode:u32 uid:u32 gid:u32 size:u64 blake3:[u8;32] capability:bytes
//!        'd' directory     mode:u32 uid:u32 gid:u32
//!        'l' symlink    mode:u32 uid:u32 gid:u32 target:bytes
//!        'c' 'b' device mode:u32 uid:u32 gid:u32 major:u32 minor:u32
//!        'p' fifo       mode:u32 uid:u32 gid:u32
//!        'h' hard link  target:bytes            (the first path of the same file)
//!        'w' whiteout                           (path without `.wh.`)
//!        'o' opaque                             (path of the directory it hides things in)
//! mtime  = seconds:i64 nanoseconds:u32          (nothing for 'h', 'w' and 'o')
//! ```
//!
//! `mode` is the low twelve bits. `capability` is the value of `security.capability`, empty where
//! there is none. The root itself has no record, and sockets have none, as in the tar.
//!
//! # Times that were set
//!
//! A file that a command writes gets the time at which it does so: no two runs agree on it, and
//! nothing asked for it. A time that lies outside of the step's own run was put there: by
//! `touch -d`, by an archive, by COPY, which keeps those of its sources. [`Now`] separates the two.

use super::listing::Known;
use super::walk::{LayerEntry, LayerEntryKind};
use crate::store::{ContentId, LayerId, TimesId};

/// The version of the canonical form; a change of it changes every identity.
pub const CONTENT_VERSION: u32 = 1;

/// A time of a file: seconds since 1970 and nanoseconds.
pub type Time = (i64, u32);

/// The times that mean no more than "now" in what a step made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What the file system's clock said before the step began.
    pub from: Time,
    /// What it said when the step had ended.
    pub to: Time,
    /// The time that the build gives to what a step makes by itself, such as missing directories.
    pub made: Option<Time>,
}

impl Now {
    /// Says whether a file of that time was merely written by the step.
    pub fn contains(&self, time: Time) -> bool {
        // A clock that was set back in the meantime makes the two change places.
        let (first, last) = (self.from.min(self.to), self.from.max(self.to));
        (first..=last).contains(&time) || self.made == Some(time)
    }
}

/// The identities of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerIds {
    /// The hash of its entries without times.
    pub content: ContentId,
    /// The hash of its entries with times.
    pub id: LayerId,
    /// The hash of the times that were set; `None` where none was, or if it is not known when the
    /// step ran.
    pub set_times: Option<TimesId>,
}

/// Hashes the entries of a layer, given in order, to its identities.
#[derive(Debug)]
pub struct LayerHasher {
    now: Option<Now>,
    content: blake3::Hasher,
    times: blake3::Hasher,
    /// Records are collected here: BLAKE3 is several times faster on long slices.
    content_bytes: Vec<u8>,
    times_bytes: Vec<u8>,
    set_times: Option<blake3::Hasher>,
    /// All that went into `times`, where that is wanted.
    listing: Option<Vec<u8>>,
}

/// How many bytes of records are collected before they are hashed.
const BATCH: usize = 64 * 1024;

impl LayerHasher {
    /// Returns a hasher that has seen no entry. Given `now`, it separates the times that were set.
    pub fn new(now: Option<Now>) -> Self {
        let mut content = blake3::Hasher::new();
        content.update(format!("builder layer content v{CONTENT_VERSION}\n").as_bytes());
        let times = times_hasher();
        Self {
            now,
            content,
            times,
            content_bytes: Vec::new(),
            times_bytes: Vec::new(),
            set_times: None,
            listing: None,
        }
    }

    /// As [`new`](Self::new); [`finish_listing`](Self::finish_listing) returns the records as well.
    pub fn listing(now: Option<Now>) -> Self {
        Self { listing: Some(Vec::new()), ..Self::new(now) }
    }

    /// Adds an entry; `file` is the BLAKE3 of a regular file's content and ignored for others.
    pub fn add(&mut self, entry: &LayerEntry<'_>, file: &[u8; 32]) {
        let out = &mut self.content_bytes;
        let start = out.len();
        bytes(out, entry.path);
        if let Some(first) = entry.hard_link {
            out.push(b'h');
            bytes(out, first);
        } else {
            out.push(kind_byte(&entry.kind));
            if !matches!(entry.kind, LayerEntryKind::Whiteout | LayerEntryKind::Opaque) {
                for number in [entry.mode, entry.uid, entry.gid] {
                    out.extend(number.to_le_bytes());
                }
            }
            match entry.kind {
                LayerEntryKind::File { size } => {
                    out.extend(size.to_le_bytes());
                    out.extend(file);
                    bytes(out, entry.capability);
                }
                LayerEntryKind::Symlink { target } => bytes(out, target),
                LayerEntryKind::Char { major, minor } | LayerEntryKind::Block { major, minor } => {
                    out.extend(major.to_le_bytes());
                    out.extend(minor.to_le_bytes());
                }
                LayerEntryKind::Dir
                | LayerEntryKind::Fifo
                | LayerEntryKind::Whiteout
                | LayerEntryKind::Opaque => {}
            }
        }
        self.times_bytes.extend(&self.content_bytes[start..]);
        let timeless = entry.hard_link.is_some()
            || matches!(entry.kind, LayerEntryKind::Whiteout | LayerEntryKind::Opaque);
        if !timeless {
            self.times_bytes.extend(entry.mtime.to_le_bytes());
            self.times_bytes.extend(entry.mtime_nsec.to_le_bytes());
            if self.now.is_some_and(|now| !now.contains((entry.mtime, entry.mtime_nsec))) {
                self.set_time(entry);
            }
        }
        self.flush_batch();
    }

    /// Adds an entry of another layer that is in this one as well. `now` is what the other's step
    /// did not set.
    pub(super) fn add_known(&mut self, known: &Known<'_>, now: Option<Now>) {
        self.content_bytes.extend(known.record);
        self.times_bytes.extend(known.record);
        let entry = &known.entry;
        self.times_bytes.extend(entry.mtime.to_le_bytes());
        self.times_bytes.extend(entry.mtime_nsec.to_le_bytes());
        if now.is_some_and(|now| !now.contains((entry.mtime, entry.mtime_nsec))) {
            self.set_time(entry);
        }
        self.flush_batch();
    }

    fn flush_batch(&mut self) {
        if self.content_bytes.len() >= BATCH {
            self.flush();
        }
    }

    fn set_time(&mut self, entry: &LayerEntry<'_>) {
        let hasher = self.set_times.get_or_insert_with(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(format!("builder layer set times v{CONTENT_VERSION}\n").as_bytes());
            hasher
        });
        let mut record = Vec::with_capacity(entry.path.len() + 16);
        bytes(&mut record, entry.path);
        record.extend(entry.mtime.to_le_bytes());
        record.extend(entry.mtime_nsec.to_le_bytes());
        hasher.update(&record);
    }

    fn flush(&mut self) {
        self.content.update(&self.content_bytes);
        self.times.update(&self.times_bytes);
        if let Some(listing) = &mut self.listing {
            listing.extend(&self.times_bytes);
        }
        self.content_bytes.clear();
        self.times_bytes.clear();
    }

    /// Returns the identities of what was added.
    pub fn finish(self) -> LayerIds {
        self.finish_listing().0
    }

    /// Returns the identities of what was added, and its listing if that was asked for.
    pub fn finish_listing(mut self) -> (LayerIds, Option<Vec<u8>>) {
        self.flush();
        let ids = LayerIds {
            content: ContentId::from_bytes(*self.content.finalize().as_bytes()),
            id: LayerId::from_bytes(*self.times.finalize().as_bytes()),
            set_times: self
                .set_times
                .map(|hasher| TimesId::from_bytes(*hasher.finalize().as_bytes())),
        };
        (ids, self.listing)
    }
}

fn times_hasher() -> blake3::Hasher {
    let mut times = blake3::Hasher::new();
    times.update(format!("builder layer times v{CONTENT_VERSION}\n").as_bytes());
    times
}

/// Returns the id of the layer that has this listing.
pub(super) fn id_of_listing(listing: &[u8]) -> LayerId {
    LayerId::from_bytes(*times_hasher().update(listing).finalize().as_bytes())
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("paths and xattrs are shorter than 4 GiB");
    out.extend(length.to_le_bytes());
    out.extend(value);
}

fn kind_byte(kind: &LayerEntryKind<'_>) -> u8 {
    match kind {
        LayerEntryKind::File { .. } => b'f',
        LayerEntryKind::Dir => b'd',
        LayerEntryKind::Symlink { .. } => b'l',
        LayerEntryKind::Char { .. } => b'c',
        LayerEntryKind::Block { .. } => b'b',
        LayerEntryKind::Fifo => b'p',
        LayerEntryKind::Whiteout => b'w',
        LayerEntryKind::Opaque => b'o',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(path: &'a [u8], kind: LayerEntryKind<'a>) -> LayerEntry<'a> {
        LayerEntry {
            path,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1,
            mtime_nsec: 2,
            capability: b"",
            hard_link: None,
        }
    }

    fn ids(entries: &[LayerEntry<'_>], file: u8) -> (ContentId, LayerId) {
        let mut hasher = LayerHasher::new(None);
        for entry in entries {
            hasher.add(entry, &[file; 32]);
        }
        let ids = hasher.finish();
        (ids.content, ids.id)
    }

    #[test]
    fn only_times_outside_of_the_run_were_set() {
        let now = Now { from: (100, 5), to: (200, 0), made: Some((90, 0)) };
        let set = |times: &[Time]| {
            let mut hasher = LayerHasher::new(Some(now));
            for (mtime, mtime_nsec) in times {
                let entry = entry(b"f", LayerEntryKind::Dir);
                hasher
                    .add(&LayerEntry { mtime: *mtime, mtime_nsec: *mtime_nsec, ..entry }, &[0; 32]);
            }
            hasher.finish().set_times
        };
        for time in [(100, 5), (150, 0), (200, 0), (90, 0)] {
            assert_eq!(set(&[time]), None, "{time:?}");
        }
        for time in [(100, 4), (200, 1), (0, 0), (90, 1)] {
            assert!(set(&[time]).is_some(), "{time:?}");
        }
        assert_eq!(set(&[(1, 0), (150, 0)]), set(&[(150, 1), (1, 0)]), "others do not matter");
        assert_ne!(set(&[(1, 0)]), set(&[(2, 0)]));
    }

    #[test]
    fn times_are_in_the_layer_id_only() {
        let a = entry(b"f", LayerEntryKind::File { size: 1 });
        let later = LayerEntry { mtime_nsec: 3, ..a.clone() };
        assert_eq!(ids(std::slice::from_ref(&a), 0).0, ids(std::slice::from_ref(&later), 0).0);
        assert_ne!(ids(&[a], 0).1, ids(&[later], 0).1);
    }

    #[test]
    fn every_other_field_is_in_both() {
        let base = entry(b"f", LayerEntryKind::File { size: 1 });
        let (content, times) = ids(std::slice::from_ref(&base), 0);
        let others = [
            entry(b"g", LayerEntryKind::File { size: 1 }),
            entry(b"f", LayerEntryKind::File { size: 2 }),
            entry(b"f", LayerEntryKind::Dir),
            entry(b"f", LayerEntryKind::Fifo),
            entry(b"f", LayerEntryKind::Whiteout),
            entry(b"f", LayerEntryKind::Opaque),
            entry(b"f", LayerEntryKind::Symlink { target: b"x" }),
            entry(b"f", LayerEntryKind::Char { major: 1, minor: 3 }),
            entry(b"f", LayerEntryKind::Block { major: 1, minor: 3 }),
            LayerEntry { mode: 0o755, ..base.clone() },
            LayerEntry { uid: 1, ..base.clone() },
            LayerEntry { gid: 1, ..base.clone() },
            LayerEntry { capability: b"x", ..base.clone() },
            LayerEntry { hard_link: Some(b"e"), ..base.clone() },
        ];
        for other in &others {
            let (other_content, other_times) = ids(std::slice::from_ref(other), 0);
            assert_ne!(other_content, content, "{other:?}");
            assert_ne!(other_times, times, "{other:?}");
        }
        assert_ne!(ids(&[base], 1).0, content);
    }

    #[test]
    fn the_form_is_pinned() {
        let entries = [
            entry(b"a", LayerEntryKind::Dir),
            entry(b"a/f", LayerEntryKind::File { size: 3 }),
            LayerEntry {
                hard_link: Some(b"a/f"),
                ..entry(b"a/g", LayerEntryKind::File { size: 3 })
            },
            entry(b"gone", LayerEntryKind::Whiteout),
        ];
        let (content, times) = ids(&entries, 9);
        insta::assert_snapshot!(format!("{content} {times}"), @"2dcc15e82d1baf31b783c402925173c746f35b417b47292783034fc18c4f872d f363333472b3415f31184faeb4185a1b3549a87b90547db6618239f8ddd6f036");
    }
}
