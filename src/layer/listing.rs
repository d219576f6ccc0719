//! The entries of a layer, written down: what its id is the hash of.
//!
//! A listing is the stream of `(record, mtime)` that [`super::content`] draws, without the line in
//! front. Since the layer's id is the hash of that, a listing needs no checksum and cannot be
//! another layer's. Code that makes a layer which differs in a few files from one with a listing
//! need not look at the others.

use super::content::id_of_listing;
use super::walk::{LayerEntry, LayerEntryKind};
use crate::store::LayerId;

/// The entries of a layer that holds nothing but files, directories, links, devices and pipes:
/// without hard links, whiteouts and opaque marks, each of its entries means the same whatever is
/// beside it.
#[derive(Debug)]
pub struct Listing {
    bytes: Vec<u8>,
}

/// An entry of a listing.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// The record, without the time.
    pub(super) record: &'a [u8],
    pub(super) entry: LayerEntry<'a>,
}

impl Listing {
    /// Says whether these are the bytes of the layer's listing.
    pub fn is_of(bytes: &[u8], id: &LayerId) -> bool {
        id_of_listing(bytes) == *id
    }

    /// Takes the listing of the layer `id`; `None` for one of another layer, a damaged one, and one
    /// whose entries depend on each other.
    pub fn parse(bytes: Vec<u8>, id: &LayerId) -> Option<Self> {
        if !Self::is_of(&bytes, id) {
            return None;
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            known(&mut rest)?;
        }
        Some(Self { bytes })
    }

    /// Returns the entries in their order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Known<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || known(&mut rest))
    }
}

/// Takes the first entry off.
fn known<'a>(rest: &mut &'a [u8]) -> Option<Known<'a>> {
    let start = *rest;
    let path = bytes(rest)?;
    let kind = number::<1>(rest)?[0];
    let [mode, uid, gid] = [u32_of(rest)?, u32_of(rest)?, u32_of(rest)?];
    let mut capability: &[u8] = b"";
    let kind = match kind {
        b'f' => {
            let size = u64::from_le_bytes(number(rest)?);
            number::<32>(rest)?;
            capability = bytes(rest)?;
            LayerEntryKind::File { size }
        }
        b'd' => LayerEntryKind::Dir,
        b'l' => LayerEntryKind::Symlink { target: bytes(rest)? },
        b'c' => LayerEntryKind::Char { major: u32_of(rest)?, minor: u32_of(rest)? },
        b'b' => LayerEntryKind::Block { major: u32_of(rest)?, minor: u32_of(rest)? },
        b'p' => LayerEntryKind::Fifo,
        _ => return None,
    };
    let record = &start[..start.len() - rest.len()];
    let mtime = i64::from_le_bytes(number(rest)?);
    let mtime_nsec = u32_of(rest)?;
    let entry =
        LayerEntry { path, kind, mode, uid, gid, mtime, mtime_nsec, capability, hard_link: None };
    Some(Known { record, entry })
}

fn number<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*number)
}

fn u32_of(rest: &mut &[u8]) -> Option<u32> {
    number(rest).map(u32::from_le_bytes)
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32_of(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}
