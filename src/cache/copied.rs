//! What a COPY took when its layer was made, so that the next one of the same instruction on the
//! same files need take only what has changed since.
//!
//! ```text
//! copies/<kk>/<place>                  the place says which instruction, on which files
//!
//! note  = line entry* sum:[u8;32]      numbers little-endian; the sum is the BLAKE3 of all before
//! line  = "<layer id> <s> <ns> <s> <ns> <s> <ns>\n"     the layer, and its step's `Now`; `-` for
//! none entry = length:u32 path kind:u8 seconds:i64 nanoseconds:u32 rest:[u8;16]
//! ```
//!
//! `rest` is a hash of all else that a copy makes of an entry. A note that is damaged, or whose
//! layer is gone, is none.

use super::{Cache, CacheError, Inputs, Value};
use crate::copy::{EntryKind, FileTime, Picked, SelectedEntry, Selection};
use crate::layer::Now;
use crate::store::{ChainId, Key, LayerId, StorePart};
use std::cmp::Ordering;
use std::path::PathBuf;

/// Below so many entries, copying them all again costs less than thinking about it.
const ENTRIES_MIN: usize = 256;

/// A difference of more than one entry in so many is not a small one.
const CHANGED_SHARE: usize = 8;

const SUM: usize = 32;

/// A note of what a COPY took.
#[derive(Debug)]
pub struct Copied {
    /// The layer that it made.
    pub layer: LayerId,
    /// Which times the step did not set.
    pub now: Now,
    entries: Vec<u8>,
}

impl Copied {
    /// Notes that `layer` was made of `selection`. `None` where what is copied may not be taken
    /// apart: where files are links of each other, where one source may write over what another
    /// wrote, and where there is little to gain.
    pub fn new(layer: LayerId, now: Now, selection: &Selection, keeps_owner: bool) -> Option<Self> {
        whole_tree(selection)?;
        let mut entries = Vec::new();
        for entry in &selection.entries {
            let noted = Noted::of(entry, keeps_owner);
            entries.extend((entry.path.len() as u32).to_le_bytes());
            entries.extend(&entry.path);
            entries.push(noted.kind);
            entries.extend(noted.time.seconds.to_le_bytes());
            entries.extend(noted.time.nanoseconds.to_le_bytes());
            entries.extend(noted.rest);
        }
        Some(Self { layer, now, entries })
    }

    /// Whether [`new`](Self::new) would note it.
    pub fn can_be_of(selection: &Selection) -> bool {
        whole_tree(selection).is_some()
    }

    /// Returns what of `selection` has to be copied over the layer to make the layer that all of it
    /// would make: what differs from the noted one, and the directories above. `None` where that
    /// cannot be, as nothing is ever taken away from the layer, or where it is not worth it.
    pub fn changed(&self, selection: &Selection, keeps_owner: bool) -> Option<Selection> {
        let picked = whole_tree(selection)?;
        let mut old = noted(&self.entries).peekable();
        let mut is_needed = vec![false; selection.entries.len()];
        let mut above: Vec<usize> = Vec::new();
        let mut changed = 0;
        for (index, entry) in selection.entries.iter().enumerate() {
            let new = Noted::of(entry, keeps_owner);
            let order = old.peek().map(|(path, _)| in_order(path, &entry.path));
            let known = match order {
                Some(Ordering::Less) => return None,
                Some(Ordering::Equal) => old.next().map(|(_, noted)| noted),
                Some(Ordering::Greater) | None => None,
            };
            while above.last().is_some_and(|&dir| !is_in(&selection.entries[dir], entry)) {
                above.pop();
            }
            if known.is_none_or(|known| known != new) {
                let is_dir = |noted: &Noted| noted.kind == EntryKind::Dir as u8;
                let turned = known.is_some_and(|known| is_dir(&known) != is_dir(&new));
                changed += 1;
                if turned || changed > selection.entries.len() / CHANGED_SHARE {
                    return None;
                }
                is_needed[index] = true;
                for &dir in &above {
                    is_needed[dir] = true;
                }
            }
            if entry.kind == EntryKind::Dir {
                above.push(index);
            }
        }
        if old.next().is_some() {
            return None;
        }
        let needed = selection.entries.iter().zip(is_needed).filter(|(_, is_needed)| *is_needed);
        let entries: Vec<SelectedEntry> = needed.map(|(entry, _)| entry.clone()).collect();
        let picked = Picked { range: 0..entries.len(), ..picked.clone() };
        Some(Selection { picked: vec![picked], entries })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Now { from, to, made } = self.now;
        let made = made.map_or("- -".to_owned(), |(s, ns)| format!("{s} {ns}"));
        let line = format!("{} {} {} {} {} {made}\n", self.layer, from.0, from.1, to.0, to.1);
        let mut bytes = line.into_bytes();
        bytes.extend(&self.entries);
        let sum = blake3::hash(&bytes);
        bytes.extend(sum.as_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) made; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (bytes, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
        if blake3::hash(bytes).as_bytes() != sum {
            return None;
        }
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let words: Vec<&str> = std::str::from_utf8(&bytes[..end]).ok()?.split(' ').collect();
        let [layer, from_s, from_ns, to_s, to_ns, made_s, made_ns] = words[..] else { return None };
        let time = |s: &str, ns: &str| Some((s.parse().ok()?, ns.parse().ok()?));
        let now = Now {
            from: time(from_s, from_ns)?,
            to: time(to_s, to_ns)?,
            made: time(made_s, made_ns),
        };
        Some(Self { layer: layer.parse().ok()?, now, entries: bytes[end + 1..].to_vec() })
    }
}

/// What is noted of an entry beside its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Noted {
    kind: u8,
    time: FileTime,
    rest: [u8; 16],
}

impl Noted {
    fn of(entry: &SelectedEntry, keeps_owner: bool) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut part = Vec::with_capacity(128);
        let mut bytes = |bytes: &[u8]| {
            part.extend((bytes.len() as u64).to_le_bytes());
            part.extend(bytes);
        };
        bytes(&entry.mode.to_le_bytes());
        bytes(&entry.size.to_le_bytes());
        bytes(&entry.rdev.to_le_bytes());
        bytes(entry.content.as_ref().map_or(&[], |content| content.as_slice()));
        bytes(entry.link.as_deref().unwrap_or_default());
        bytes(entry.capability.as_deref().unwrap_or_default());
        if keeps_owner {
            bytes(&entry.uid.to_le_bytes());
            bytes(&entry.gid.to_le_bytes());
        }
        hasher.update(&part);
        let rest = hasher.finalize().as_bytes()[..16].try_into().expect("a part of fixed size");
        Self { kind: entry.kind as u8, time: entry.mtime(), rest }
    }
}

/// Returns the root of a selection that is one directory, in which every entry stands for itself.
fn whole_tree(selection: &Selection) -> Option<&Picked> {
    let [picked] = &selection.picked[..] else { return None };
    let is_plain = |entry: &SelectedEntry| entry.hard_link.is_none() && !entry.is_implied;
    let entries = &selection.entries;
    let is_tree = picked.range == (0..entries.len())
        && entries.len() >= ENTRIES_MIN
        // Its own name would go into the directory that the first copy made.
        && picked.contents_only
        && entries[0].kind == EntryKind::Dir;
    (is_tree && entries.iter().all(is_plain)).then_some(picked)
}

fn noted(mut rest: &[u8]) -> impl Iterator<Item = (&[u8], Noted)> {
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk()?;
        let (path, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let ([kind], after) = after.split_first_chunk()?;
        let (seconds, after) = after.split_first_chunk()?;
        let (nanoseconds, after) = after.split_first_chunk()?;
        let (hash, after) = after.split_first_chunk()?;
        rest = after;
        let time = FileTime {
            seconds: i64::from_le_bytes(*seconds),
            nanoseconds: u32::from_le_bytes(*nanoseconds),
        };
        Some((path, Noted { kind: *kind, time, rest: *hash }))
    })
}

/// Compares paths as selections are ordered: a directory, then all in it, then its next sibling.
fn in_order(a: &[u8], b: &[u8]) -> Ordering {
    let place = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(place).cmp(b.iter().map(place))
}

fn is_in(dir: &SelectedEntry, entry: &SelectedEntry) -> bool {
    match entry.path.strip_prefix(&dir.path[..]) {
        Some(rest) => dir.path.is_empty() || rest.first() == Some(&b'/'),
        None => false,
    }
}

impl Cache {
    /// Says under which place copies of the same instruction on the same files are noted.
    pub fn place_of_copy(inputs: &Inputs, parent: &ChainId, keeps_owner: bool) -> Key {
        let mut place = Inputs::new();
        place.text("note", "builder copied 1");
        place.text("parent", parent.to_hex());
        place.text("keeps owner", keeps_owner.to_string());
        for input in inputs {
            match &input.value {
                Value::Text(text) => place.text(&input.name, text),
                Value::List(words) => place.list(&input.name, words.clone()),
                Value::Tree(_) => {}
            }
        }
        place.key()
    }

    /// Reads what the last copy at a place took; `None` where there is no sound note.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where the store cannot be read.
    pub fn copied(&self, place: &Key) -> Result<Option<Copied>, CacheError> {
        Ok(self.store.read_file(&path_of(place))?.and_then(|bytes| Copied::parse(&bytes)))
    }

    /// Notes what a copy took.
    ///
    /// # Errors
    ///
    /// [`CacheError`], for example on a full disk.
    pub fn note_copied(&self, place: &Key, copied: &Copied) -> Result<(), CacheError> {
        Ok(self.store.write_file(&path_of(place), &copied.to_bytes())?)
    }
}

fn path_of(place: &Key) -> PathBuf {
    StorePart::Copies.fan_out(&place.to_hex())
}

#[cfg(test)]
#[path = "copied_tests.rs"]
mod tests;
