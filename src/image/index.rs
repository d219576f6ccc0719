//! Indexes: which of their images the store has, and indexes made of others.
//!
//! # Not here
//!
//! The bytes of an index: [`Index::joined`]. Picking the image for a platform to use it:
//! [`super::receive`].

use super::receive::{BlobSource, Chosen, document};
use super::stored::{STORE, StoreSource};
use super::{Closure, ImageError, Selector, survey};
use crate::oci::{
    Config, Descriptor, Digest, Document, DocumentError, Index, Platform,
    annotation::{ATTESTATION, CONTAINERD_NAME, CREATED, REF_NAME, SUBJECT},
    canonical_json, media_type,
};
use crate::store::{Store, StoreError};
use std::collections::BTreeSet;

/// How deep indexes may nest.
const NESTING_MAX: usize = 4;

/// What the store has of an image: the one that its name means, or those of an index.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// The index; `None` for an image of its own.
    pub index: Option<Index>,
    /// The images whose manifest and config are here, in the order of the index.
    pub here: Vec<Chosen>,
    /// How the index lists those that are not.
    pub missing: Vec<Descriptor>,
}

impl StoredImage {
    /// Reads what is here of an image. Layers are not looked at, statements about images are left
    /// out.
    ///
    /// # Errors
    ///
    /// [`ImageError`] where the top document is missing, or anything is damaged.
    pub fn read(store: &Store, top: &Descriptor) -> Result<Self, ImageError> {
        let mut found = Self { index: None, here: Vec::new(), missing: Vec::new() };
        let mut known = BTreeSet::new();
        found.add(store, top, &mut known, 0)?;
        Ok(found)
    }

    fn add(
        &mut self,
        store: &Store,
        descriptor: &Descriptor,
        known: &mut BTreeSet<Digest>,
        depth: usize,
    ) -> Result<(), ImageError> {
        if !known.insert(descriptor.digest) {
            return Ok(());
        }
        if depth > 0 && !store.has_blob(&descriptor.digest) {
            self.missing.push(descriptor.clone());
            return Ok(());
        }
        let source = StoreSource(store);
        let bytes = document(store, &source, descriptor)?;
        match Document::parse_any(&bytes, &descriptor.digest)? {
            Document::Manifest(manifest) if !manifest.is_image() => {
                let media_type = manifest.config.media_type.clone();
                match depth {
                    0 => {
                        let digest = descriptor.digest;
                        Err(DocumentError::NotAnImage { digest, media_type }.into())
                    }
                    _ => Ok(()),
                }
            }
            Document::Manifest(manifest) => {
                if depth > 0 && !store.has_blob(&manifest.config.digest) {
                    self.missing.push(descriptor.clone());
                    return Ok(());
                }
                let bytes = document(store, &source, &manifest.config)?;
                let config = Config::parse(&bytes, &manifest.config.digest)?;
                self.here.push((descriptor.clone(), *manifest, config));
                Ok(())
            }
            Document::Index(_) if depth >= NESTING_MAX => Err(DocumentError::Malformed {
                digest: descriptor.digest,
                what: format!("indexes nest deeper than {NESTING_MAX}"),
            }
            .into()),
            Document::Index(index) => {
                for entry in &index.manifests {
                    if !entry.annotations.contains_key(ATTESTATION) {
                        self.add(store, entry, known, depth + 1)?;
                    }
                }
                if depth == 0 {
                    self.index = Some(index);
                }
                Ok(())
            }
        }
    }

    /// Returns the image that is here and serves a platform best.
    pub fn best(&self, wanted: &Platform) -> Option<&Chosen> {
        let ranked = self.here.iter().filter_map(|one| Some((wanted.rank(&platform(one))?, one)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, one)| one)
    }

    /// Returns the image to show where no platform was asked for: this machine's, or the first that
    /// is here.
    pub fn shown(&self) -> Option<&Chosen> {
        self.best(&Platform::host()).or_else(|| self.here.first())
    }

    /// Returns the platforms of the images that are here.
    pub fn platforms(&self) -> Vec<Platform> {
        self.here.iter().map(platform).collect()
    }

    /// Returns the id that people see: the digest of the config where one image is here, else that
    /// of the index.
    pub fn id(&self, top: &Descriptor) -> Digest {
        match self.here.as_slice() {
            [(_, manifest, _)] => manifest.config.digest,
            _ => top.digest,
        }
    }

    /// Returns the images for some platforms, each once.
    ///
    /// # Errors
    ///
    /// [`ImageError::PlatformNotHere`] for one that the index lists and the store lacks,
    /// [`ImageError::NoPlatform`] for others.
    pub fn of_platforms(&self, wanted: &[Platform]) -> Result<Vec<&Chosen>, ImageError> {
        let mut chosen: Vec<&Chosen> = Vec::new();
        for wanted in wanted {
            let best = self.best(wanted).ok_or_else(|| self.lacks(wanted))?;
            if chosen.iter().all(|(descriptor, ..)| descriptor.digest != best.0.digest) {
                chosen.push(best);
            }
        }
        Ok(chosen)
    }

    /// Returns the error that says what there is instead of an image for a platform.
    pub fn lacks(&self, wanted: &Platform) -> ImageError {
        let listed = |d: &Descriptor| d.platform.as_ref().and_then(Platform::of_json);
        let is_listed = self.missing.iter().filter_map(listed).any(|p| wanted.rank(&p).is_some());
        match is_listed {
            true => ImageError::PlatformNotHere { wanted: wanted.clone(), here: self.platforms() },
            false => ImageError::NoPlatform {
                name: STORE.to_owned(),
                wanted: wanted.clone(),
                available: self.platforms(),
            },
        }
    }
}

fn platform((_, _, config): &Chosen) -> Platform {
    config.platform()
}

/// The images that a document is or lists, as an index lists them.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The document's bytes.
    pub bytes: Vec<u8>,
    /// The index, where it is one.
    pub index: Option<Index>,
    /// The images, and statements about them.
    pub children: Vec<Descriptor>,
}

/// Reads what a document lists. A manifest is described as an index lists it, with the platform of
/// its config, unless its descriptor states one.
///
/// # Errors
///
/// [`DocumentError::NotAnImage`] for an artifact without a stated platform; others for documents
/// that are missing or damaged.
pub fn listed(
    store: &Store,
    source: &dyn BlobSource,
    top: &Descriptor,
) -> Result<Listed, ImageError> {
    let bytes = document(store, source, top)?;
    let manifest = match Document::parse_any(&bytes, &top.digest)? {
        Document::Index(index) => {
            let children = index.manifests.clone();
            return Ok(Listed { bytes, index: Some(index), children });
        }
        Document::Manifest(manifest) => manifest,
    };
    let media_type = manifest.media_type.clone().unwrap_or_else(|| top.media_type.clone());
    let mut child = Descriptor::new(media_type, top.digest, bytes.len() as u64);
    child.annotations.clone_from(&top.annotations);
    for of_place in [REF_NAME, CONTAINERD_NAME, CREATED] {
        child.annotations.remove(of_place);
    }
    child.platform = match &top.platform {
        Some(stated) if !manifest.is_image() => Some(stated.clone()),
        _ if !manifest.is_image() => {
            let media_type = manifest.config.media_type.clone();
            return Err(DocumentError::NotAnImage { digest: top.digest, media_type }.into());
        }
        _ => {
            let bytes = document(store, source, &manifest.config)?;
            let config = Config::parse(&bytes, &manifest.config.digest)?;
            Some(config.platform_json())
        }
    };
    Ok(Listed { bytes, index: None, children: vec![child] })
}

/// Puts an index into the store; returns its descriptor.
///
/// # Errors
///
/// [`ImageError::Store`].
pub fn put_index(store: &Store, index: &Index) -> Result<Descriptor, StoreError> {
    let bytes = canonical_json(index);
    let digest = store.put_blob(&bytes)?;
    let media_type = index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX);
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

/// Replaces images of an index; the others, and what is noted of each, stay.
pub fn with_replaced(index: &Index, replaced: &[(Digest, Descriptor)]) -> Index {
    let mut index = index.clone();
    for child in &mut index.manifests {
        if let Some((_, new)) = replaced.iter().find(|(old, _)| *old == child.digest) {
            child.media_type.clone_from(&new.media_type);
            (child.digest, child.size) = (new.digest, new.size);
        }
    }
    index
}

/// Leaves those images in an index, and the statements about them, whose digests are `kept`.
pub fn with_only(index: &Index, kept: &BTreeSet<Digest>) -> Index {
    let mut index = index.clone();
    index.manifests.retain(|child| match subject(child) {
        Some(subject) => kept.contains(&subject),
        None => kept.contains(&child.digest),
    });
    index
}

/// Returns the image that an entry of an index is a statement about; `None` for an image.
pub fn subject(child: &Descriptor) -> Option<Digest> {
    child.annotations.get(ATTESTATION)?;
    child.annotations.get(SUBJECT)?.parse().ok()
}

/// Returns all that an index of the store leads to, where all of it is here. It is held then, so
/// that collection leaves it.
///
/// # Errors
///
/// [`ImageError`] for damage.
pub fn complete(store: &Store, top: &Descriptor) -> Result<Option<Closure>, ImageError> {
    let whole = match survey(store, &StoreSource(store), top, Selector::All) {
        Ok(whole) => whole,
        Err(ImageError::MissingBlob { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(match whole.missing(store)? {
        Some(_) => None,
        None => Some(whole),
    })
}
