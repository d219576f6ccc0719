//! Blocks of compressed layers: where in which blob each one is, so that the next export of a layer
//! of much the same content compresses only what is new.
//!
//! ```text
//! blocks/<encoding>/<blob hex>     one blob's blocks, in their order
//!
//! index  = entry* sum:[u8;8]                   numbers little-endian
//! entry  = hash:[u8;32] offset:u64 length:u32 sum:[u8;8]
//! ```
//!
//! `hash` is the BLAKE3 of a block before compression, `sum` the first bytes of the BLAKE3 of it
//! after compression, and at the end that of all entries. `encoding` names the format, the level
//! and the version of the code that made the blob, so a block found here is what compressing would
//! give.
//!
//! An index is worth nothing without its blob: one whose blob is gone is removed when it is come
//! across, and garbage collection may remove any at any time. One that is damaged is a miss.

use super::{Store, StorePart};
use crate::oci::Digest;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// How many blobs are searched for blocks, the latest first. An index of 500 MB of files has about
/// 40 KB.
const SEARCHED: usize = 64;

/// The bytes of an entry.
const ENTRY: usize = 52;

/// The bytes of a sum.
const SUM: usize = 8;

/// What shows whether a block's compressed bytes are unchanged.
pub type Sum = [u8; SUM];

/// A block of a compressed layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The BLAKE3 of its bytes before compression.
    pub hash: [u8; 32],
    /// Where in the blob it is.
    pub offset: u64,
    /// How many bytes of the blob it has.
    pub length: u32,
    /// What [`Block::sum`] says of these.
    pub sum: Sum,
}

impl Block {
    /// Returns the sum of a block's compressed bytes.
    pub fn sum(bytes: &[u8]) -> Sum {
        let hash = blake3::hash(bytes);
        hash.as_bytes()[..SUM].try_into().expect("a part of fixed size")
    }
}

/// The blocks of the blobs that were made lately with one encoding.
#[derive(Debug, Default)]
pub struct KnownBlocks {
    blobs: Vec<File>,
    /// By the hash: the blob's place in `blobs`, and the block.
    blocks: BTreeMap<[u8; 32], (usize, Block)>,
}

impl KnownBlocks {
    /// Replaces `bytes` by the block that had this hash before compression, as it is after; returns
    /// its sum. `None` where there is none: what `bytes` are then is not said.
    pub fn get(&self, hash: &[u8; 32], bytes: &mut Vec<u8>) -> Option<Sum> {
        let (blob, block) = self.blocks.get(hash)?;
        bytes.resize(block.length as usize, 0);
        self.blobs[*blob].read_exact_at(bytes, block.offset).ok()?;
        (Block::sum(bytes) == block.sum).then_some(block.sum)
    }

    fn add(&mut self, blob: File, index: &[u8]) {
        for entry in index.chunks_exact(ENTRY) {
            let (hash, rest) = entry.split_at(32);
            let (offset, rest) = rest.split_at(8);
            let (length, sum) = rest.split_at(4);
            let whole = "a part of fixed size";
            let block = Block {
                hash: hash.try_into().expect(whole),
                offset: u64::from_le_bytes(offset.try_into().expect(whole)),
                length: u32::from_le_bytes(length.try_into().expect(whole)),
                sum: sum.try_into().expect(whole),
            };
            self.blocks.entry(block.hash).or_insert((self.blobs.len(), block));
        }
        self.blobs.push(blob);
    }
}

impl Store {
    /// Returns the blocks of the latest blobs of an encoding. What cannot be read is left out.
    pub fn known_blocks(&self, encoding: &str) -> KnownBlocks {
        let mut known = KnownBlocks::default();
        let Ok(listing) = fs::read_dir(self.place(StorePart::Blocks).join(encoding)) else {
            return known;
        };
        let mut indexes: Vec<_> = listing
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        indexes.sort_by(|a, b| b.cmp(a));
        for (_, path) in indexes {
            if known.blobs.len() == SEARCHED {
                break;
            }
            let name = path.file_name().and_then(|name| name.to_str());
            let digest = name.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            let blob = digest.map(|digest| File::open(self.blob_path(&digest)));
            match blob {
                Some(Ok(blob)) => {
                    if let Some(index) = read(&path) {
                        known.add(blob, &index);
                    }
                }
                Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => {}
                _ => _ = fs::remove_file(&path),
            }
        }
        known
    }

    /// Notes the blocks of a blob. That this fails is not an error: the blocks are made again then.
    pub fn note_blocks(&self, encoding: &str, digest: &Digest, blocks: &[Block]) {
        let mut index = Vec::with_capacity(blocks.len() * ENTRY + SUM);
        for block in blocks {
            index.extend(block.hash);
            index.extend(block.offset.to_le_bytes());
            index.extend(block.length.to_le_bytes());
            index.extend(block.sum);
        }
        let sum = Block::sum(&index);
        index.extend(sum);
        let name = StorePart::Blocks.entry(encoding).join(digest.to_hex());
        let _ = self.write_file(&name, &index);
    }
}

/// Reads the entries of an index; `None` where it is damaged.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let entries = bytes.len().checked_sub(SUM).filter(|length| length.is_multiple_of(ENTRY))?;
    let sum = bytes.split_off(entries);
    (Block::sum(&bytes) == sum[..]).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    const ENCODING: &str = "gzip-1";

    fn hash(text: &str) -> [u8; 32] {
        *blake3::hash(text.as_bytes()).as_bytes()
    }

    /// A blob of the two "compressed" blocks `AA` and `BBB`.
    fn store() -> (tempfile::TempDir, Store, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let digest = store.put_blob(b"AABBB").unwrap();
        let block = |text: &str, offset, bytes: &[u8]| Block {
            hash: hash(text),
            offset,
            length: bytes.len() as u32,
            sum: Block::sum(bytes),
        };
        store.note_blocks(ENCODING, &digest, &[block("a", 0, b"AA"), block("b", 2, b"BBB")]);
        (dir, store, digest)
    }

    fn found(known: &KnownBlocks, text: &str) -> Option<Vec<u8>> {
        let mut bytes = b"of another block".to_vec();
        let sum = known.get(&hash(text), &mut bytes)?;
        assert_eq!(sum, Block::sum(&bytes));
        Some(bytes)
    }

    #[test]
    fn blocks_of_the_same_encoding_come_back() {
        let (_dir, store, _) = store();
        let known = store.known_blocks(ENCODING);
        assert_eq!(found(&known, "a").as_deref(), Some(&b"AA"[..]));
        assert_eq!(found(&known, "b").as_deref(), Some(&b"BBB"[..]));
        assert_eq!(found(&known, "c"), None);
        assert_eq!(found(&store.known_blocks("gzip-6"), "a"), None);
    }

    #[test]
    fn damage_is_a_miss() {
        let (_dir, store, digest) = store();
        let write = |path: &Path, at: u64| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(b"x", at).unwrap();
        };
        write(&store.blob_path(&digest), 1);
        let known = store.known_blocks(ENCODING);
        assert_eq!(found(&known, "a"), None);
        assert_eq!(found(&known, "b").as_deref(), Some(&b"BBB"[..]));
        write(&store.root().join("blocks").join(ENCODING).join(digest.to_hex()), 33);
        assert_eq!(found(&store.known_blocks(ENCODING), "b"), None);
    }

    #[test]
    fn an_index_goes_with_its_blob() {
        let (_dir, store, digest) = store();
        fs::remove_file(store.blob_path(&digest)).unwrap();
        assert_eq!(found(&store.known_blocks(ENCODING), "a"), None);
        let left = fs::read_dir(store.root().join("blocks").join(ENCODING)).unwrap().count();
        assert_eq!(left, 0);
    }
}
