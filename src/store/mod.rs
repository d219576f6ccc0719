//! The store: blobs, layers, tags, records, locks.

mod digest;

pub use digest::{ChainId, ContentId, Digest, DigestParseError, Key, LayerId};
