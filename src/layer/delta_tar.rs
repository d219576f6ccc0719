//! The tar and the ids of a layer that is stored as a delta to another, whose listing is at hand.
//!
//! Entries that are the same in both are taken from the listing, and their bytes, header and
//! content, from the other layer's tar, at offsets that follow from the listing. So only the
//! directory of the delta is walked; the old tar is read from beginning to end, which no hash of a
//! tar can avoid.

use super::header::{self, BLOCK};
use super::listing::Known;
use super::pack::{CHUNK, Packed, Packer, Sink, Times, Wanted};
use super::scan::Beneath;
use super::walk::{LayerEntryKind, Walk};
use super::{LayerError, LayerHasher, XattrSpace};
use crate::sys::cancel::Cancel;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

/// Packs the layer that `fs` over another layer is. Of that other only the listing and the tar are
/// read; `None` where its tar is not the one that its listing would make.
pub(super) fn pack_over(
    fs: BorrowedFd<'_>,
    beneath: &Beneath<'_>,
    xattrs: XattrSpace,
    wanted: Wanted,
    cancel: &Cancel,
    sink: &mut Sink<'_>,
) -> Result<Option<Packed>, LayerError> {
    let hasher = LayerHasher::new(wanted.now());
    let mut packer = Packer::new(Times::Kept, wanted, hasher, cancel, sink);
    let mut splice = Splice { beneath, header: Vec::new(), run: 0..0 };
    let mut known = beneath.listing.entries().peekable();
    Walk::new(xattrs, cancel).run(fs, |entry, file| {
        while let Some(before) = known.next_if(|known| known.entry.path < entry.path) {
            splice.keep(&before, &mut packer)?;
        }
        splice.hand_over(&mut packer)?;
        if let Some(old) = known.next_if(|known| known.entry.path == entry.path) {
            splice.leave_out(&old, &mut packer);
        }
        packer.entry(entry, file)
    })?;
    for after in known {
        splice.keep(&after, &mut packer)?;
    }
    splice.hand_over(&mut packer)?;
    if !splice.is_at_end(&packer)? {
        return Ok(None);
    }
    packer.finish().map(Some)
}

/// The tar of the layer beneath, taken over piece by piece.
struct Splice<'b> {
    beneath: &'b Beneath<'b>,
    header: Vec<u8>,
    /// What is to be taken over next, in bytes of the tar. What is before it is done with.
    run: Range<u64>,
}

impl Splice<'_> {
    /// The bytes that an entry takes in the tar.
    fn length(&mut self, known: &Known<'_>, packer: &mut Packer<'_, '_>) -> u64 {
        let entry = &known.entry;
        self.header.clear();
        header::tar_name(entry, &mut packer.name);
        header::append(&mut self.header, entry, &packer.name, (entry.mtime, 0));
        let content = match entry.kind {
            LayerEntryKind::File { size } => size.next_multiple_of(BLOCK as u64),
            _ => 0,
        };
        self.header.len() as u64 + content
    }

    fn keep(&mut self, known: &Known<'_>, packer: &mut Packer<'_, '_>) -> Result<(), LayerError> {
        packer.packed.entries += 1;
        if let LayerEntryKind::File { size } = known.entry.kind {
            packer.packed.bytes += size;
        }
        packer.hasher.add_known(known, self.beneath.now);
        if packer.wanted.tar() {
            self.run.end += self.length(known, packer);
            if self.run.end - self.run.start >= CHUNK as u64 {
                self.hand_over(packer)?;
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, known: &Known<'_>, packer: &mut Packer<'_, '_>) {
        if packer.wanted.tar() {
            let next = self.run.end + self.length(known, packer);
            self.run = next..next;
        }
    }

    /// Copies what was kept.
    fn hand_over(&mut self, packer: &mut Packer<'_, '_>) -> Result<(), LayerError> {
        while !self.run.is_empty() {
            let tar = self.beneath.tar.expect("no tar is packed over a layer without one");
            let room = CHUNK.saturating_sub(packer.chunk.len()) as u64;
            let want = room.min(self.run.end - self.run.start) as usize;
            let start = packer.chunk.len();
            packer.chunk.resize(start + want, 0);
            tar.read_exact_at(&mut packer.chunk[start..], self.run.start)
                .map_err(|source| LayerError::Input { source })?;
            self.run.start += want as u64;
            if packer.chunk.len() >= CHUNK {
                packer.hand_on()?;
            }
        }
        Ok(())
    }

    /// Whether the end of the listing is the end of the tar.
    fn is_at_end(&self, packer: &Packer<'_, '_>) -> Result<bool, LayerError> {
        let Some(tar) = self.beneath.tar.filter(|_| packer.wanted.tar()) else { return Ok(true) };
        let facts = tar.metadata().map_err(|source| LayerError::Input { source })?;
        Ok(facts.len() == self.run.end + 2 * BLOCK as u64)
    }
}

#[cfg(test)]
#[path = "delta_tar_tests.rs"]
mod tests;
