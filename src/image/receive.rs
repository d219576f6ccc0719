//! An image from elsewhere arrives in the store: documents and blobs verified, layers unpacked
//! once.
//!
//! Whatever the source is (a layout, an archive, a registry), only its way to open a blob differs:
//! [`BlobSource`]. Every byte is hashed while it is copied and unpacked, in one pass; what the
//! store has is not read again.

use super::receive_layers::receive_layers;
use super::{Image, ImageError, ImageLayer};
use crate::oci::{Config, Descriptor, Digest, Document, DocumentError, Manifest, Platform};
use crate::store::{DOCUMENT_MAX, Store, StoreError};
use crate::sys::cancel::Cancel;
use std::collections::BTreeSet;
use std::io::{Read, Write as _};
use std::path::PathBuf;

/// How deep indexes may nest. Two are seen in the wild; more is a trap.
const NESTING_MAX: usize = 4;

/// The most layers an image may have: the kernel stacks no more.
const LAYERS_MAX: usize = 500;

/// Where the blobs of an image come from.
pub trait BlobSource: Sync {
    /// Opens a blob for reading. What it gives is verified by the caller.
    ///
    /// # Errors
    ///
    /// [`ImageError::MissingBlob`] where there is none.
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>, ImageError>;

    /// Returns a file of the store's own session that holds the blob and may be renamed away.
    fn spooled(&self, _blob: &Descriptor) -> Option<PathBuf> {
        None
    }

    /// Returns what the source is called in messages.
    fn name(&self) -> String;

    /// Returns how many blobs are best read at once.
    fn streams(&self) -> usize {
        crate::sys::threads::count()
    }
}

/// Brings the image that `descriptor` names, or of an index the one for `platform`, into the store.
///
/// Where everything is here already, only manifest, config and the layers' facts are read. Layers
/// are unpacked side by side.
///
/// # Errors
///
/// [`ImageError`] naming the document or layer; nothing half-unpacked stays visible.
pub fn receive(
    store: &Store,
    source: &dyn BlobSource,
    descriptor: &Descriptor,
    platform: &Platform,
    cancel: &Cancel,
) -> Result<Image, ImageError> {
    let (descriptor, manifest, config) =
        choose(store, source, descriptor, platform)?.ok_or_else(|| ImageError::NoPlatform {
            name: source.name(),
            wanted: platform.clone(),
            available: Vec::new(),
        })?;
    let diff_ids = config.diff_ids().map_err(|e| DocumentError::Malformed {
        digest: manifest.config.digest,
        what: e.to_string(),
    })?;
    if diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::LayerCount {
            digest: descriptor.digest,
            layers: manifest.layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    if diff_ids.len() > LAYERS_MAX {
        return Err(ImageError::TooManyLayers {
            digest: descriptor.digest,
            layers: diff_ids.len(),
        });
    }
    let pairs: Vec<_> = manifest.layers.into_iter().zip(diff_ids).collect();
    let layers = receive_layers(store, source, &pairs, cancel)?;
    let layers = pairs
        .into_iter()
        .zip(layers)
        .map(|((blob, diff_id), layer)| ImageLayer {
            diff_id: Some(diff_id),
            layer,
            descriptor: Some(blob),
        })
        .collect();
    Ok(Image { config, layers, manifest: Some(descriptor) })
}

/// A manifest with what it describes: its descriptor, itself, the config.
pub type Chosen = (Descriptor, Manifest, Config);

/// Follows indexes to the one manifest wanted, and reads its config; layers are not looked at.
///
/// # Errors
///
/// [`ImageError::NoPlatform`] with those that an index lists; others where a document is missing,
/// damaged, or not of an image.
pub fn choose(
    store: &Store,
    source: &dyn BlobSource,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<Option<Chosen>, ImageError> {
    let mut search = Search { store, source, platform, rejected: BTreeSet::new() };
    search.choose(descriptor, false, 0)
}

/// A search for an image among indexes that list each other.
struct Search<'s> {
    store: &'s Store,
    source: &'s dyn BlobSource,
    platform: &'s Platform,
    /// Documents that were looked at in vain, and whether their config had to fit. Indexes may list
    /// one document many times, and so may each index that they list: it is looked at once.
    rejected: BTreeSet<(Digest, bool)>,
}

impl Search<'_> {
    fn choose(
        &mut self,
        descriptor: &Descriptor,
        must_fit: bool,
        depth: usize,
    ) -> Result<Option<Chosen>, ImageError> {
        let bytes = document(self.store, self.source, descriptor)?;
        match Document::parse(&bytes, &descriptor.digest)? {
            Document::Manifest(manifest) => {
                let bytes = document(self.store, self.source, &manifest.config)?;
                let config = Config::parse(&bytes, &manifest.config.digest)?;
                if must_fit && self.platform.rank(&config.platform()).is_none() {
                    return Ok(None);
                }
                let mut descriptor = descriptor.clone();
                descriptor.annotations.clear();
                Ok(Some((descriptor, *manifest, config)))
            }
            Document::Index(_) if depth >= NESTING_MAX => Err(DocumentError::Malformed {
                digest: descriptor.digest,
                what: format!("indexes nest deeper than {NESTING_MAX}"),
            }
            .into()),
            Document::Index(index) => {
                for candidate in index.candidates(self.platform) {
                    let fits = candidate.platform.is_some();
                    if !self.rejected.insert((candidate.digest, fits)) {
                        continue;
                    }
                    match self.choose(candidate, !fits, depth + 1) {
                        Ok(None) | Err(ImageError::Document(DocumentError::NotAnImage { .. })) => {}
                        other => return other,
                    }
                }
                if must_fit {
                    return Ok(None);
                }
                Err(ImageError::NoPlatform {
                    name: self.source.name(),
                    wanted: self.platform.clone(),
                    available: index.platforms(),
                })
            }
        }
    }
}

/// Returns the bytes of a manifest, index or config, keeping them in the store.
///
/// # Errors
///
/// [`ImageError::WrongDigest`], [`ImageError::WrongSize`], or what the source says.
pub fn document(
    store: &Store,
    source: &dyn BlobSource,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, ImageError> {
    if store.has_blob(&descriptor.digest) {
        match store.read_blob(&descriptor.digest) {
            // A damaged copy is replaced by the source's.
            Err(StoreError::Damaged { .. }) => {}
            other => return Ok(other?),
        }
    }
    if descriptor.size > DOCUMENT_MAX {
        return Err(ImageError::TooLarge { digest: descriptor.digest, size: descriptor.size });
    }
    let mut bytes = Vec::with_capacity(descriptor.size as usize);
    source
        .open(descriptor)?
        .take(DOCUMENT_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| ImageError::read_blob(source, descriptor, e))?;
    check_size(source, descriptor, bytes.len() as u64)?;
    let actual = Digest::of(&bytes);
    if actual != descriptor.digest {
        return Err(wrong_digest(source, descriptor, actual));
    }
    if store.has_blob(&descriptor.digest) {
        // Of the right size and damaged: `put_blob` would take it for good.
        let mut writer = store.blob_writer()?;
        let path = store.blob_path(&descriptor.digest);
        writer.write_all(&bytes).map_err(|e| ImageError::io("write", &path, e))?;
        writer.finish_as(&descriptor.digest)?;
    } else {
        store.put_blob(&bytes)?;
    }
    Ok(bytes)
}

pub(super) fn check_size(
    source: &dyn BlobSource,
    descriptor: &Descriptor,
    actual: u64,
) -> Result<(), ImageError> {
    if actual == descriptor.size {
        return Ok(());
    }
    Err(ImageError::WrongSize {
        name: source.name(),
        digest: descriptor.digest,
        expected: descriptor.size,
        actual,
    })
}

pub(super) fn wrong_digest(
    source: &dyn BlobSource,
    descriptor: &Descriptor,
    actual: Digest,
) -> ImageError {
    ImageError::WrongDigest { name: source.name(), expected: descriptor.digest, actual }
}
