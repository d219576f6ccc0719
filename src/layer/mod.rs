//! Layers as bytes: tar out, tar in, compression, identities.
//!
//! A layer on disk is a directory in overlay form: whiteouts are character devices 0:0, a directory
//! that hides what is below it carries overlay's opaque xattr. This room turns such a directory
//! into its facts ([`scan`]), its tar ([`write_tar`]) and its blob ([`write_compressed`]), and tars
//! that come from elsewhere into such a directory ([`unpack_layer`]) or into files of a tree
//! ([`extract_archive`]).
//!
//! # Invariants
//!
//! - The same directory gives the same bytes on any machine, at any thread count: entries go by the
//!   raw bytes of their paths, and nothing but path, type, mode, owner, size, content, link target,
//!   device, file capability and whole-second mtime is written.
//! - A file is read once, however many hashes are wanted.
//! - A tar from elsewhere is never trusted: each of its paths is resolved beneath the root by the
//!   kernel, and it can make no whiteout, overlay mark or set of xattrs that a layer may not have.
//! - A layer may hold several thousand directories below each other, so nothing here recurses.
//!
//! # Not here
//!
//! What a RUN left behind becomes fit to be a layer in `snapshot`; blobs and directories are kept
//! by `store`.

mod apply;
mod block_cut;
mod compress;
mod content;
mod decompress;
mod delta_tar;
mod encode;
mod error;
mod estargz;
mod hash_cache;
mod header;
mod listing;
mod meter;
pub mod owner;
mod pack;
mod scan;
mod sparse;
mod stack;
mod tar_split;
mod unpack;
mod untar;
mod walk;
pub(crate) mod whiteout;
mod xattrs;

pub use compress::{Compressed, Compression, Effort, compress, write_compressed};
pub use content::{CONTENT_VERSION, LayerHasher, LayerIds, Now, Time};
pub use decompress::{Format, decompress, decompress_as, detect};
pub use error::LayerError;
pub use estargz::{TAR_SIZE, TOC_DIGEST};
pub use hash_cache::HashCache;
pub use listing::Listing;
pub use meter::Meter;
pub use pack::{TarOptions, Times, write_tar, write_trees};
pub use scan::{Beneath, Scan, ScanOptions, scan, scan_into, scan_over, scan_written};
pub use stack::{Found, Stack, StackDir};
pub use tar_split::{JoinedTar, SplitSink, split_tar};
pub use unpack::{
    ArchiveMember, Extracted, UnpackOptions, Unpacked, extract_archive, import_rootfs, is_archive,
    read_archive, unpack_layer, unpack_plain,
};
pub use walk::{LayerEntry, LayerEntryKind, Walk};
pub use xattrs::XattrSpace;

/// What a whiteout's name starts with in a tar.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The tar entry that makes its directory opaque.
pub const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
