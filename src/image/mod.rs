//! Images as data: names, platforms, configs, manifests, indexes, and reading them from layouts.
//!
//! Documents that come from outside keep their bytes: they are hashed and stored as received, and
//! read into [`Manifest`], [`Index`] and [`Config`] beside that. Documents of our own go through
//! [`canonical_json`].
//!
//! # Not here
//!
//! Making blobs of layers and writing archives: [`crate::export`].

mod config;
mod json;
mod manifest;
mod platform;
mod reference;

use crate::store::{Digest, Layer, StoreError};
use std::io;
use std::path::PathBuf;

pub use crate::store::Descriptor;
pub use config::{Config, HISTORY_COMMENT, History};
pub use json::canonical_json;
pub use manifest::{Document, Index, Manifest, media_type};
pub use platform::{Platform, PlatformParseError};
pub use reference::{DEFAULT_TAG, Reference, ReferenceError};

/// An image whose layers are unpacked in the store, or about to be.
#[derive(Debug, Clone)]
pub struct Image {
    /// The config, all fields kept.
    pub config: Config,
    /// The layers, from the bottom up.
    pub layers: Vec<ImageLayer>,
    /// The manifest it was read from; `None` for an image in the making.
    pub manifest: Option<Descriptor>,
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub struct ImageLayer {
    /// The sha256 of its tar; `None` where nobody has needed it yet.
    pub diff_id: Option<Digest>,
    /// Where it is unpacked.
    pub layer: Layer,
    /// The blob it came as, for a layer that was received.
    pub descriptor: Option<Descriptor>,
}

impl Image {
    /// Makes the image `FROM scratch` starts with.
    pub fn scratch(platform: &Platform) -> Self {
        Self { config: Config::empty(platform), layers: Vec::new(), manifest: None }
    }
}

/// What can go wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A system call on a file of an image failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done: "read", "open" …
        doing: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// Why the kernel refused.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document does not parse, or contradicts itself.
    #[error("the document {digest} is malformed: {what}")]
    BadDocument {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        what: String,
    },
    /// Docker's first manifest format.
    #[error(
        "the manifest {digest} is of schema 1, which is no longer supported: push the image again with a current tool"
    )]
    Schema1 {
        /// Its digest.
        digest: Digest,
    },
    /// A manifest of something else: a chart, a signature, an attestation.
    #[error("the manifest {digest} is no image: its config is of type `{media_type}`")]
    NoImage {
        /// Its digest.
        digest: Digest,
        /// The config's media type.
        media_type: String,
    },
}
