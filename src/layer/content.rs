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
//! ```
//!
//! Records follow each other in the order of the raw bytes of their paths. Numbers are little-endian.
//! `bytes` is a u32 length and that many bytes. No field is optional, so nothing can be shifted from
//! one field into the next:
//!
//! ```text
//! record = path:bytes kind:u8 body
//! kind   'f' file       mode:u32 uid:u32 gid:u32 size:u64 blake3:[u8;32] capability:bytes
//!        'd' folder     mode:u32 uid:u32 gid:u32
//!        'l' symlink    mode:u32 uid:u32 gid:u32 target:bytes
//!        'c' 'b' device mode:u32 uid:u32 gid:u32 major:u32 minor:u32
//!        'p' fifo       mode:u32 uid:u32 gid:u32
//!        'h' hard link  target:bytes            (the first path of the same file)
//!        'w' whiteout                           (path without `.wh.`)
//!        'o' opaque                             (path of the folder it hides things in)
//! mtime  = seconds:i64 nanoseconds:u32          (nothing for 'h', 'w' and 'o')
//! ```
//!
//! `mode` is the low twelve bits. `capability` is the value of `security.capability`, empty where
//! there is none. The root itself has no record, and sockets have none, as in the tar.

use super::walk::{Entry, Kind};
use crate::store::{ContentId, LayerId};

/// The version of the canonical form; a change of it changes every identity.
pub const CONTENT_VERSION: u32 = 1;

/// Hashes the entries of a layer, given in order, to its two identities.
#[derive(Debug)]
pub struct LayerHasher {
    content: blake3::Hasher,
    times: blake3::Hasher,
    /// Records are collected here: BLAKE3 is several times faster on long slices.
    content_bytes: Vec<u8>,
    times_bytes: Vec<u8>,
}

/// How many bytes of records are collected before they are hashed.
const BATCH: usize = 64 * 1024;

impl LayerHasher {
    /// Returns a hasher that has seen no entry.
    pub fn new() -> Self {
        let mut content = blake3::Hasher::new();
        let mut times = blake3::Hasher::new();
        content.update(format!("builder layer content v{CONTENT_VERSION}\n").as_bytes());
        times.update(format!("builder layer times v{CONTENT_VERSION}\n").as_bytes());
        Self { content, times, content_bytes: Vec::new(), times_bytes: Vec::new() }
    }

    /// Adds an entry; `file` is the BLAKE3 of a regular file's content and ignored for others.
    pub fn add(&mut self, entry: &Entry<'_>, file: &[u8; 32]) {
        let out = &mut self.content_bytes;
        let start = out.len();
        bytes(out, entry.path);
        if let Some(first) = entry.hard_link {
            out.push(b'h');
            bytes(out, first);
        } else {
            out.push(kind_byte(&entry.kind));
            if !matches!(entry.kind, Kind::Whiteout | Kind::Opaque) {
                for number in [entry.mode, entry.uid, entry.gid] {
                    out.extend(number.to_le_bytes());
                }
            }
            match entry.kind {
                Kind::File { size } => {
                    out.extend(size.to_le_bytes());
                    out.extend(file);
                    bytes(out, entry.capability);
                }
                Kind::Symlink { target } => bytes(out, target),
                Kind::Char { major, minor } | Kind::Block { major, minor } => {
                    out.extend(major.to_le_bytes());
                    out.extend(minor.to_le_bytes());
                }
                Kind::Dir | Kind::Fifo | Kind::Whiteout | Kind::Opaque => {}
            }
        }
        self.times_bytes.extend(&self.content_bytes[start..]);
        let timeless =
            entry.hard_link.is_some() || matches!(entry.kind, Kind::Whiteout | Kind::Opaque);
        if !timeless {
            self.times_bytes.extend(entry.mtime.to_le_bytes());
            self.times_bytes.extend(entry.mtime_nsec.to_le_bytes());
        }
        if self.content_bytes.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.content.update(&self.content_bytes);
        self.times.update(&self.times_bytes);
        self.content_bytes.clear();
        self.times_bytes.clear();
    }

    /// Returns the identities of what was added.
    pub fn finish(mut self) -> (ContentId, LayerId) {
        self.flush();
        (
            ContentId::from_bytes(*self.content.finalize().as_bytes()),
            LayerId::from_bytes(*self.times.finalize().as_bytes()),
        )
    }
}

impl Default for LayerHasher {
    fn default() -> Self {
        Self::new()
    }
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("paths and xattrs are shorter than 4 GiB");
    out.extend(length.to_le_bytes());
    out.extend(value);
}

fn kind_byte(kind: &Kind<'_>) -> u8 {
    match kind {
        Kind::File { .. } => b'f',
        Kind::Dir => b'd',
        Kind::Symlink { .. } => b'l',
        Kind::Char { .. } => b'c',
        Kind::Block { .. } => b'b',
        Kind::Fifo => b'p',
        Kind::Whiteout => b'w',
        Kind::Opaque => b'o',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(path: &'a [u8], kind: Kind<'a>) -> Entry<'a> {
        Entry {
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

    fn ids(entries: &[Entry<'_>], file: u8) -> (ContentId, LayerId) {
        let mut hasher = LayerHasher::new();
        for entry in entries {
            hasher.add(entry, &[file; 32]);
        }
        hasher.finish()
    }

    #[test]
    fn times_are_in_the_layer_id_only() {
        let a = entry(b"f", Kind::File { size: 1 });
        let later = Entry { mtime_nsec: 3, ..a.clone() };
        assert_eq!(ids(std::slice::from_ref(&a), 0).0, ids(std::slice::from_ref(&later), 0).0);
        assert_ne!(ids(&[a], 0).1, ids(&[later], 0).1);
    }

    #[test]
    fn every_other_field_is_in_both() {
        let base = entry(b"f", Kind::File { size: 1 });
        let (content, times) = ids(std::slice::from_ref(&base), 0);
        let others = [
            entry(b"g", Kind::File { size: 1 }),
            entry(b"f", Kind::File { size: 2 }),
            entry(b"f", Kind::Dir),
            entry(b"f", Kind::Fifo),
            entry(b"f", Kind::Whiteout),
            entry(b"f", Kind::Opaque),
            entry(b"f", Kind::Symlink { target: b"x" }),
            entry(b"f", Kind::Char { major: 1, minor: 3 }),
            entry(b"f", Kind::Block { major: 1, minor: 3 }),
            Entry { mode: 0o755, ..base.clone() },
            Entry { uid: 1, ..base.clone() },
            Entry { gid: 1, ..base.clone() },
            Entry { capability: b"x", ..base.clone() },
            Entry { hard_link: Some(b"e"), ..base.clone() },
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
            entry(b"a", Kind::Dir),
            entry(b"a/f", Kind::File { size: 3 }),
            Entry { hard_link: Some(b"a/f"), ..entry(b"a/g", Kind::File { size: 3 }) },
            entry(b"gone", Kind::Whiteout),
        ];
        let (content, times) = ids(&entries, 9);
        insta::assert_snapshot!(format!("{content} {times}"), @"2dcc15e82d1baf31b783c402925173c746f35b417b47292783034fc18c4f872d f363333472b3415f31184faeb4185a1b3549a87b90547db6618239f8ddd6f036");
    }
}
