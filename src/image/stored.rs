//! Images that are in the store already.

use super::receive::{BlobSource, choose, document, receive};
use super::{Image, ImageError, ImageLayer, StoredImage};
use crate::oci::{
    Config, Descriptor, Digest, Document, DocumentError, Manifest, Platform, Reference,
};
use crate::store::{Layer, Store, Tagged};
use crate::sys::cancel::Cancel;
use std::io::Read;

/// The fewest hexadecimal digits that may stand for an id: fewer are sooner a name.
const ID_MIN: usize = 4;

/// What the store is called in messages.
pub(super) const STORE: &str = "the store";

/// The store as a source of blobs.
#[derive(Debug, Clone, Copy)]
pub struct StoreSource<'s>(pub &'s Store);

impl BlobSource for StoreSource<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        if !self.0.has_blob(&blob.digest) {
            return Err(ImageError::MissingBlob { name: self.name(), digest: blob.digest });
        }
        Ok(Box::new(self.0.open_blob(&blob.digest)?))
    }

    fn name(&self) -> String {
        STORE.to_owned()
    }
}

/// Finds an image by its name (`debian` is `docker.io/library/debian:latest`), by `name@digest`, by
/// its id, or by the beginning of that.
///
/// An id is the digest of the config or of the manifest, of an image of an index too; what is found
/// then has no name. `None` where nothing fits.
///
/// # Errors
///
/// [`ImageError::AmbiguousId`] where the beginning of an id fits several images.
pub fn find(store: &Store, text: &str) -> Result<Option<Tagged>, ImageError> {
    let images = store.images()?;
    // No repository is called `sha256`: that is an id.
    if let Ok(name) = Reference::parse(text)
        && !text.starts_with("sha256:")
    {
        let name = name.or_latest();
        if let Some(digest) = name.digest() {
            let is_it = |image: &&Tagged| {
                image.descriptor.digest == *digest
                    && image
                        .name
                        .as_deref()
                        .and_then(|n| Reference::parse(n).ok())
                        .is_some_and(|n| n.name() == name.name())
            };
            let full = name.to_string();
            let exact = images.iter().find(|image| image.name.as_ref() == Some(&full));
            if let Some(found) = exact.or_else(|| images.iter().find(is_it)) {
                return Ok(Some(found.clone()));
            }
            // It may be the digest of an image of an index.
            let of_name =
                |text: &str| Reference::parse(text).is_ok_and(|n| n.name() == name.name());
            for image in images.iter().filter(|image| image.name.as_deref().is_some_and(of_name)) {
                let children = StoredImage::read(store, &image.descriptor).map(|it| it.here);
                let child =
                    children.unwrap_or_default().into_iter().find(|c| c.0.digest == *digest);
                if let Some((descriptor, ..)) = child {
                    return Ok(Some(Tagged { name: None, descriptor }));
                }
            }
        } else {
            let full = name.to_string();
            if let Some(found) = images.iter().find(|image| image.name.as_ref() == Some(&full)) {
                return Ok(Some(found.clone()));
            }
        }
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() < ID_MIN || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    let mut found: Option<(Digest, Tagged)> = None;
    let (mut named, mut parts) = (Vec::new(), Vec::new());
    for image in images {
        for (id, of) in ids(store, &image) {
            let is_part = of.name.is_none();
            if id.to_hex().starts_with(hex) {
                if is_part { parts.push((id, of)) } else { named.push((id, of)) }
            }
        }
    }
    // An image of its own goes before one of an index, which may be the same.
    for (id, image) in named.into_iter().chain(parts) {
        match &found {
            Some((other, _)) if *other != id => {
                return Err(ImageError::AmbiguousId { id: text.to_owned() });
            }
            Some(_) => {}
            None => found = Some((id, image)),
        }
    }
    Ok(found.map(|(_, image)| image))
}

/// Returns the ids of an image, each with what it stands for: of an index its own, and those of its
/// images. Where the store has one image of an index, that image's id stands for the index.
fn ids(store: &Store, image: &Tagged) -> Vec<(Digest, Tagged)> {
    let mut ids = vec![(image.descriptor.digest, image.clone())];
    let Ok(found) = StoredImage::read(store, &image.descriptor) else { return ids };
    let is_single = found.here.len() == 1;
    for (descriptor, manifest, _) in found.here {
        let child = Tagged { name: None, descriptor };
        let own = if is_single { image.clone() } else { child.clone() };
        ids.push((manifest.config.digest, own));
        if found.index.is_some() {
            ids.push((child.descriptor.digest, child));
        }
    }
    ids
}

/// Returns the layers of the store that tars of these `diff_ids`, the bottom first, were unpacked
/// to; `None` for those that are not here.
///
/// # Errors
///
/// [`ImageError::Store`] where the store cannot be read.
pub fn layers_of(store: &Store, diff_ids: &[Digest]) -> Result<Vec<Option<Layer>>, ImageError> {
    let mut below = Vec::with_capacity(diff_ids.len());
    let mut layers = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let layer = store.layer_of_diff(diff_id, &below)?;
        // Without it nothing above is found that depends on it.
        below.extend(layer.as_ref().map(|layer| layer.id));
        layers.push(layer);
    }
    Ok(layers)
}

/// Reads the manifest and the config of an image of the store; of an index, those for `platform`.
///
/// # Errors
///
/// [`DocumentError::NotAnImage`] for an artifact, or others where one is missing or damaged.
pub fn read(
    store: &Store,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<(Descriptor, Manifest, Config), ImageError> {
    let (descriptor, manifest) = manifest(store, descriptor, platform)?;
    let (digest, media_type) = (descriptor.digest, &manifest.config.media_type);
    if !manifest.is_image() {
        return Err(DocumentError::NotAnImage { digest, media_type: media_type.clone() }.into());
    }
    let bytes = document(store, &StoreSource(store), &manifest.config)?;
    let config = Config::parse(&bytes, &manifest.config.digest)?;
    Ok((descriptor, manifest, config))
}

/// Reads a manifest of the store, which may be an artifact's; of an index, that for `platform`.
///
/// # Errors
///
/// [`ImageError`] where it is missing or damaged.
pub fn manifest(
    store: &Store,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<(Descriptor, Manifest), ImageError> {
    let source = StoreSource(store);
    let mut descriptor = descriptor.clone();
    // An index of the store leads to manifests at once: deeper ones are resolved when received.
    for _ in 0..4 {
        let bytes = document(store, &source, &descriptor)?;
        match Document::parse_any(&bytes, &descriptor.digest)? {
            Document::Manifest(manifest) => return Ok((descriptor, *manifest)),
            Document::Index(index) => {
                let best = index.candidates(platform).first().map(|d| (*d).clone());
                descriptor = best.ok_or_else(|| ImageError::NoPlatform {
                    name: source.name(),
                    wanted: platform.clone(),
                    available: index.platforms(),
                })?;
            }
        }
    }
    Err(DocumentError::Malformed {
        digest: descriptor.digest,
        what: "indexes nest too deep".to_owned(),
    }
    .into())
}

/// Returns an image of which the store has all: its documents and its unpacked layers; `None` where
/// anything is missing. Nothing is written.
///
/// # Errors
///
/// [`ImageError`] where something is damaged.
pub fn whole(
    store: &Store,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<Option<Image>, ImageError> {
    let source = StoreSource(store);
    let chosen = match choose(store, &source, descriptor, platform) {
        Ok(Some(chosen)) => chosen,
        Ok(None) | Err(ImageError::MissingBlob { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (descriptor, manifest, config) = chosen;
    let Ok(diff_ids) = config.diff_ids() else { return Ok(None) };
    let layers = layers_of(store, &diff_ids)?;
    if layers.len() != manifest.layers.len() {
        return Ok(None);
    }
    let layers: Option<Vec<_>> = layers
        .into_iter()
        .zip(diff_ids)
        .zip(manifest.layers)
        .map(|((layer, diff_id), blob)| {
            let (diff_id, descriptor) = (Some(diff_id), Some(blob));
            Some(ImageLayer { diff_id, layer: layer?, descriptor })
        })
        .collect();
    Ok(layers.map(|layers| Image { config, layers, manifest: Some(descriptor) }))
}

/// Returns the annotations of a manifest of the store.
///
/// # Errors
///
/// [`ImageError`] where it is missing or damaged.
pub fn annotations(
    store: &Store,
    descriptor: &Descriptor,
) -> Result<std::collections::BTreeMap<String, String>, ImageError> {
    let bytes = document(store, &StoreSource(store), descriptor)?;
    match Document::parse(&bytes, &descriptor.digest)? {
        Document::Manifest(manifest) => Ok(manifest.annotations),
        Document::Index(index) => Ok(index.annotations),
    }
}

/// Returns an image's id, as Docker shows it: the digest of its config; of an index with several
/// images, that of the index.
///
/// # Errors
///
/// [`ImageError`] where the manifest is missing or damaged.
pub fn id(store: &Store, descriptor: &Descriptor) -> Result<Digest, ImageError> {
    Ok(StoredImage::read(store, descriptor)?.id(descriptor))
}

/// Loads an image of the store, unpacking layers of which only the blob is here.
///
/// # Errors
///
/// [`ImageError`] where something is missing or damaged.
pub fn load_stored(
    store: &Store,
    descriptor: &Descriptor,
    platform: &Platform,
    cancel: &Cancel,
) -> Result<Image, ImageError> {
    match receive(store, &StoreSource(store), descriptor, platform, cancel) {
        Err(error @ ImageError::MissingBlob { .. }) => match StoredImage::read(store, descriptor) {
            Ok(found) if found.best(platform).is_none() => Err(found.lacks(platform)),
            _ => Err(error),
        },
        other => other,
    }
}
