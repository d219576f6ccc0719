//! Images that arrive and leave: read from layouts, archives, registries and the store, unpacked,
//! compared, pushed.
//!
//! Comes in: a name, a layout or an archive. Goes out: an [`Image`], whose documents and layers are
//! in the store.
//!
//! # Not here
//!
//! The documents themselves: [`crate::oci`]. Making blobs of layers and writing archives:
//! [`crate::export`].

mod archive;
mod compare;
mod error;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod import;
mod index;
mod layout;
mod push;
mod receive;
mod receive_layers;
mod remote;
mod stored;
mod tee;
mod unpack;

use crate::oci::{Config, Descriptor, Digest, Platform};
use crate::store::Layer;

pub use archive::{LayoutArchive, Loaded, LoadedTop, load_all, load_archive};
pub use compare::{Difference, Differences, FileDifference, Presence, compare};
pub use error::ImageError;
pub use fetch::{Closure, Selector, fetch, survey};
pub use import::{ImportOptions, import_rootfs};
pub use index::{
    Listed, StoredImage, complete, listed, put_index, subject, with_only, with_replaced,
};
pub use layout::{LayoutRef, LayoutSource, load_layout};
pub use push::{Supply, push, relay};
pub use receive::{BlobSource, Chosen, choose, document, receive};
pub use remote::{
    ACCEPT, NoProgress, Offline, PullProgress, RegistrySource, Remembered, ResolvedRef, look_up,
    pull, remembered,
};
pub use stored::{
    StoreSource, annotations, find, id, layers_of, load_stored, manifest, read, whole,
};
pub use unpack::unpack_tar;

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
    /// The sha256 of its tar; `None` if it was not needed yet.
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

#[cfg(test)]
mod tests;
