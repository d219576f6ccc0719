//! gzip of independent blocks: one member, the same bytes whoever made which block.
//!
//! Each block is raw deflate that begins on a byte, may refer to the last 32 KiB of the block before
//! (given as a dictionary), and ends with an empty stored block ("sync flush"), except for the last
//! one, which ends the stream. Put one after the other they are one deflate stream. The checksum of
//! the whole is combined from those of the blocks.
//!
//! [`Deflater`] is the only place that knows the deflate library: another engine takes its place here,
//! chosen by level.
//!
//! Source: RFC 1951, RFC 1952; zlib manual, Z_SYNC_FLUSH, deflateSetDictionary.

use super::LayerError;
use flate2::{Compress, Crc, FlushCompress, Status};
use std::io;

/// What deflate can refer back to.
const WINDOW: usize = 32 * 1024;

/// Deflates blocks at one level; keeps its tables between them.
pub(super) struct Deflater {
    engine: Compress,
}

impl Deflater {
    pub(super) fn new(level: u32) -> Self {
        Self { engine: Compress::new(flate2::Compression::new(level.min(9)), false) }
    }

    /// Appends `block` deflated to `out`; `before` is the block before it, empty for the first.
    pub(super) fn block(
        &mut self,
        before: &[u8],
        block: &[u8],
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        let fail = |e: &dyn std::fmt::Display| LayerError::Output {
            what: "gzip blob",
            source: io::Error::other(e.to_string()),
        };
        self.engine.reset();
        if !before.is_empty() {
            let window = &before[before.len().saturating_sub(WINDOW)..];
            self.engine.set_dictionary(window).map_err(|e| fail(&e))?;
        }
        out.reserve(block.len() / 2 + 1024);
        let flush = if is_last { FlushCompress::Finish } else { FlushCompress::Sync };
        let mut rest = block;
        loop {
            let read = self.engine.total_in();
            let status = self.engine.compress_vec(rest, out, flush).map_err(|e| fail(&e))?;
            rest = &rest[(self.engine.total_in() - read) as usize..];
            let is_done = match status {
                Status::StreamEnd => true,
                // A sync flush is complete when it leaves room in the output.
                Status::Ok | Status::BufError => {
                    !is_last && rest.is_empty() && out.len() < out.capacity()
                }
            };
            if is_done {
                return Ok(());
            }
            out.reserve(64 * 1024);
        }
    }
}

/// The end of a gzip member: checksum and size of what went in.
pub(super) struct GzipEnd {
    checksum: Crc,
}

impl GzipEnd {
    /// No name, no time, an unknown system: nothing that differs between machines.
    pub(super) const HEADER: &'static [u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

    pub(super) fn new() -> Self {
        Self { checksum: Crc::new() }
    }

    pub(super) fn add(&mut self, block: &Crc) {
        self.checksum.combine(block);
    }

    pub(super) fn trailer(&self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&self.checksum.sum().to_le_bytes());
        out[4..].copy_from_slice(&self.checksum.amount().to_le_bytes());
        out
    }
}
