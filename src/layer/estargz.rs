//! eStargz: gzip with a member for each piece of a file, and a table of contents at the end, so
//! that a runtime can fetch single files of a layer.
//!
//! [`Toc`] sees the layer's tar go by, and knows at the end what the table says. The table is an
//! entry behind the end of the archive, where ordinary runtimes read no further: they see the same
//! files as with gzip. It belongs to the tar all the same, whose `diff_id` is another than that of
//! the plain tar.
//!
//! Source: containerd/stargz-snapshotter, "docs/estargz.md" and "estargz/estargz.go".

use super::LayerError;
use crate::store::Block;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// How much of a file one member holds.
pub(super) const CHUNK: usize = 4 << 20;

/// The annotation with the table's digest, in the layer's descriptor.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// The annotation with the size of the tar.
pub const TAR_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// The entry that holds the table.
const TABLE: &str = "stargz.index.json";

/// The end of an archive.
pub(super) const END: [u8; 2 * 512] = [0; 2 * 512];

/// An entry of the table; fields in the order in which they are written.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
    /// The block that holds it, counted from 0.
    #[serde(skip)]
    block: Option<usize>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The table in the making.
#[derive(Debug, Default)]
pub(super) struct Toc {
    items: Vec<Item>,
    /// The PAX records for the next entry.
    pax: Vec<u8>,
    /// The bytes of PAX records still to come.
    pax_left: u64,
    file: Option<File>,
    /// The block that bytes go to.
    block: usize,
}

/// A file whose content goes by.
#[derive(Debug)]
struct File {
    /// Its first item.
    first: usize,
    size: u64,
    left: u64,
    whole: Sha256,
    chunk: Sha256,
    chunk_offset: u64,
}

/// What stands behind a layer's own members.
pub(super) struct Tail {
    /// The table's entry, and another end of the archive.
    pub(super) tar: Vec<u8>,
    /// The sha256 of the table.
    pub(super) digest: [u8; 32],
}

impl Toc {
    /// Takes the header of the next entry.
    pub(super) fn header(&mut self, header: &[u8]) -> Result<(), LayerError> {
        let text = |field: &[u8]| {
            let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        let number = |field: &[u8]| {
            let digits = field.iter().filter(|b| b.is_ascii_digit());
            digits.fold(0u64, |all, &b| all * 8 + u64::from(b & 7))
        };
        let size = number(&header[124..136]);
        if header[156] == b'x' {
            self.pax_left = size;
            return Ok(());
        }
        let mut name = text(&header[..100]);
        let prefix = text(&header[345..500]);
        if !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
        let mut item = Item {
            mode: number(&header[100..108]),
            uid: number(&header[108..116]),
            gid: number(&header[116..124]),
            link_name: text(&header[157..257]),
            ..Item::default()
        };
        let mut seconds = number(&header[136..148]).cast_signed();
        for (key, value) in records(&std::mem::take(&mut self.pax)) {
            let text = || String::from_utf8_lossy(value).into_owned();
            let decimal = || text().parse().unwrap_or(0);
            match key {
                b"path" => name = text(),
                b"linkpath" => item.link_name = text(),
                b"uid" => item.uid = decimal(),
                b"gid" => item.gid = decimal(),
                b"mtime" => seconds = text().parse().unwrap_or(seconds),
                _ => {
                    if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.") {
                        let xattr = String::from_utf8_lossy(xattr).into_owned();
                        item.xattrs.insert(xattr, STANDARD.encode(value));
                    }
                }
            }
        }
        item.modified = Timestamp::from_second(seconds).unwrap_or_default().to_string();
        item.kind = match header[156] {
            b'0' | 0 => "reg",
            b'1' => "hardlink",
            b'2' => "symlink",
            b'3' => "char",
            b'4' => "block",
            b'5' => "dir",
            b'6' => "fifo",
            _ => {
                return Err(LayerError::Malformed { what: "entry of an unknown type", path: name });
            }
        };
        if matches!(item.kind, "char" | "block") {
            item.dev_major = number(&header[329..337]);
            item.dev_minor = number(&header[337..345]);
        }
        item.name = name;
        if item.kind == "reg" {
            item.size = size;
            if size == 0 {
                item.digest = digest(Sha256::new());
            } else {
                self.file = Some(File {
                    first: self.items.len(),
                    size,
                    left: size,
                    whole: Sha256::new(),
                    chunk: Sha256::new(),
                    chunk_offset: 0,
                });
            }
        }
        self.items.push(item);
        Ok(())
    }

    /// Takes bytes that follow a header.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if self.pax_left > 0 {
            let length = bytes.len().min(self.pax_left as usize);
            self.pax.extend_from_slice(&bytes[..length]);
            self.pax_left -= length as u64;
            return;
        }
        let Some(file) = &mut self.file else { return };
        let length = bytes.len().min(file.left as usize);
        file.whole.update(&bytes[..length]);
        file.chunk.update(&bytes[..length]);
        file.left -= length as u64;
        if file.left == 0 {
            self.end_chunk();
            let file = self.file.take().expect("it is there");
            self.items[file.first].digest = digest(file.whole);
        }
    }

    /// Notes that what follows is in the next block.
    pub(super) fn cut(&mut self) {
        self.block += 1;
        let Some(file) = &mut self.file else { return };
        let offset = file.size - file.left;
        if offset > 0 {
            self.end_chunk();
            let name = self.items.last().expect("the file's first item").name.clone();
            self.items.push(Item { name, kind: "chunk", ..Item::default() });
            self.file.as_mut().expect("it is there").chunk_offset = offset;
        }
        self.items.last_mut().expect("the file's item").block = Some(self.block);
    }

    fn end_chunk(&mut self) {
        let (Some(file), Some(item)) = (&mut self.file, self.items.last_mut()) else { return };
        item.chunk_digest = digest(std::mem::take(&mut file.chunk));
        item.chunk_offset = file.chunk_offset;
        let end = file.size - file.left;
        // The last chunk is as long as what is left of the file.
        if end < file.size {
            item.chunk_size = end - file.chunk_offset;
        }
    }

    /// Makes what follows the end of the archive, now that it is known where the blocks are.
    pub(super) fn finish(mut self, blocks: &[Block]) -> Tail {
        for item in &mut self.items {
            item.offset = item.block.and_then(|at| blocks.get(at)).map_or(0, |block| block.offset);
        }
        #[derive(Serialize)]
        struct Table<'a> {
            version: u32,
            entries: &'a [Item],
        }
        let table = serde_json::to_vec(&Table { version: 1, entries: &self.items })
            .expect("the table is plain data");
        let size = table.len() as u64;
        let mut tar = entry(TABLE, size, 0);
        tar.extend_from_slice(&table);
        tar.resize(tar.len().next_multiple_of(512) + END.len(), 0);
        Tail { tar, digest: Sha256::digest(&table).into() }
    }
}

/// Returns the last bytes of a blob, which say where the table's member begins: an empty gzip
/// member with a field of its own.
pub(super) fn footer(table: u64) -> Vec<u8> {
    let field = format!("{table:016x}STARGZ");
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
    out.extend((field.len() as u16 + 4).to_le_bytes());
    out.extend(b"SG");
    out.extend((field.len() as u16).to_le_bytes());
    out.extend(field.as_bytes());
    // An empty stored block, and the checksum and the size of nothing.
    out.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

/// Returns the header of an entry of ours.
fn entry(name: &str, size: u64, mode: u32) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("our names are short");
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Returns the PAX records: key and value.
fn records(mut bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut records = Vec::new();
    while let Some(space) = bytes.iter().position(|&b| b == b' ') {
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|t| t.parse().ok());
        let Some(length) = length.filter(|&length| length > space + 1 && length <= bytes.len())
        else {
            break;
        };
        let record = &bytes[space + 1..length - 1];
        if let Some(equals) = record.iter().position(|&b| b == b'=') {
            records.push((&record[..equals], &record[equals + 1..]));
        }
        bytes = &bytes[length..];
    }
    records
}

fn digest(hash: Sha256) -> String {
    crate::oci::Digest::from_bytes(hash.finalize().into()).to_string()
}

#[cfg(test)]
mod tests;
