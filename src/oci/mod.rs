//! OCI images as plain data: names, digests, descriptors, platforms, configs, manifests, indexes.
//!
//! Comes in: bytes and texts of the user, of registries, layouts and archives. Goes out: values,
//! and the canonical bytes of documents of our own.
//!
//! # Invariants
//!
//! - No I/O, no clock, no environment: a value follows from the text it was parsed from.
//! - Documents that come from outside keep their bytes: they are hashed and stored as received, and
//!   read into [`Manifest`], [`Index`] and [`Config`] beside that. Documents of our own go through
//!   [`canonical_json`].
//!
//! # Not here
//!
//! Reading images from layouts, archives and registries: [`crate::image`]. Hashes of our own, such
//! as those of layers and chains: [`crate::store`].

pub mod annotation;
mod config;
mod descriptor;
mod digest;
mod document_error;
mod json;
mod manifest;
pub mod media_type;
mod platform;
mod reference;

pub use config::{Config, HISTORY_COMMENT, History};
pub use descriptor::Descriptor;
pub use digest::{Digest, DigestParseError};
pub(crate) use digest::{hash_type, parse_hex, write_hex};
pub use document_error::DocumentError;
pub use json::canonical_json;
pub use manifest::{Document, Index, Manifest};
pub use platform::{ARCHITECTURES, OSES, Platform, PlatformParseError, VARIANTS};
pub use reference::{DEFAULT_TAG, Reference, ReferenceError};
