//! One block of a tar becomes one gzip member or one zstd frame.
//!
//! The only place that knows the compression libraries.
//!
//! # Why these
//!
//! What is wanted: the same bytes on any machine, and speed. One thread over 398 MB of programs and
//! libraries in blocks of 1 MiB, MB/s of CPU time and the size of what came out:
//!
//! | library, level | MB/s | MB |
//! |---|---|---|
//! | **libdeflate 1** | 202 | 154.8 |
//! | libdeflate 2 / 3 / 4 / 6 | 153 / 138 / 128 / 86 | 147.8 / 146.5 / 145.7 / 141.8 |
//! | zlib-rs 1 / 2 / 3 / 6 | 205 / 117 / 105 / 66 | 190.1 / 157.3 / 151.7 / 147.2 |
//! | ISA-L 1 / 3 | 415 / 263 | 162.9 / 158.7 |
//! | **zstd 3** (1, 2) | 257 (451, 338) | 141.6 (156.9, 148.3) |
//!
//! libdeflate is faster than zlib-rs for the same size at every level, so it does all of gzip. Its
//! levels 1 to 9 are what `compression-level=` means; without one it is 1, which is three times as
//! fast as zlib's 6 for five in a hundred more bytes.
//!
//! ISA-L would be faster still, but picks other match finders on other processors (`icf_body_lvl3`,
//! `gen_icf_map_lh1` and `deflate_hash` of its dispatch table), so one layer would have several
//! digests. libdeflate and libzstd choose among implementations of one and the same algorithm only.
//!
//! Members and frames in a row are what estargz blobs and `pigz -i` consist of; Docker, containerd,
//! Podman and umoci read them.

use super::Compression;
use libdeflater::{CompressionLvl, Compressor};
use std::io;

/// The version of what the libraries make of a block, and of where blocks are cut. To be raised
/// with the pinned digests in the tests: blocks of other versions are not used again.
const VERSION: u32 = 1;

/// Compresses blocks, one after the other.
pub(super) enum Encoder {
    Gzip(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    /// Makes an encoder; `None` for tars that are not compressed.
    pub(super) fn new(compression: Compression) -> io::Result<Option<Self>> {
        Ok(match compression {
            Compression::Uncompressed => None,
            Compression::Gzip(level) | Compression::Estargz(level) => {
                let level = CompressionLvl::new(level.min(9).cast_signed())
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                Some(Self::Gzip(Compressor::new(level)))
            }
            Compression::Zstd(level) => Some(Self::Zstd(zstd::bulk::Compressor::new(level)?)),
        })
    }

    /// Replaces `out` by the block's compressed form.
    pub(super) fn block(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match self {
            Self::Gzip(compressor) => {
                out.resize(compressor.gzip_compress_bound(block.len()), 0);
                let length = compressor.gzip_compress(block, out).map_err(io::Error::other)?;
                out.truncate(length);
            }
            Self::Zstd(compressor) => {
                out.reserve(zstd::zstd_safe::compress_bound(block.len()));
                compressor.compress_to_buffer(block, out)?;
            }
        }
        Ok(())
    }
}

/// Returns the name under which blocks of this compression are remembered.
pub(super) fn encoding(compression: Compression) -> String {
    format!("{compression}.{VERSION}").replace(':', "-")
}
