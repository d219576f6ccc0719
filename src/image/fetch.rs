//! An image into the store as it is: documents and blobs, nothing unpacked.
//!
//! # Not here
//!
//! Images that are to be used: [`super::receive`].

use super::ImageError;
use super::receive::{BlobSource, check_size, choose, document, wrong_digest};
use super::tee::{Output, Tee};
use crate::oci::{Descriptor, Digest, Document, DocumentError, Manifest, Platform};
use crate::store::{Store, StoreError};
use crate::sys::{cancel::Cancel, threads::side_by_side};
use std::collections::BTreeSet;
use std::io;

/// How deep indexes may nest.
const NESTING_MAX: usize = 4;

/// Which manifests of an index are meant.
#[derive(Debug, Clone, Copy)]
pub enum Selector<'p> {
    /// The image for a platform.
    For(&'p Platform),
    /// All manifests, attestations included.
    All,
}

/// A manifest or index with everything that it refers to, down to the blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// Where it starts.
    pub top: Descriptor,
    /// Manifests and indexes, each after all it names; the last is the top.
    pub documents: Vec<Descriptor>,
    /// Configs and layers, each once.
    pub blobs: Vec<Descriptor>,
}

/// Reads what an image consists of, keeping its documents in the store. Of an index, `which` says
/// what is meant: for a platform, the top is that image's own manifest.
///
/// # Errors
///
/// [`ImageError`] for documents that are missing or make no sense.
pub fn survey(
    store: &Store,
    source: &dyn BlobSource,
    top: &Descriptor,
    which: Selector<'_>,
) -> Result<Closure, ImageError> {
    let mut whole = Closure { top: top.clone(), documents: Vec::new(), blobs: Vec::new() };
    let mut known = BTreeSet::new();
    if let Document::Manifest(manifest) =
        Document::parse_any(&document(store, source, top)?, &top.digest)?
    {
        // It may be an artifact, which is of no platform.
        whole.top.annotations.clear();
        whole.add_manifest(whole.top.clone(), *manifest, &mut known);
        return Ok(whole);
    }
    match which {
        Selector::All => whole.add(store, source, top, &mut known, 0)?,
        Selector::For(platform) => {
            let chosen = choose(store, source, top, platform)?;
            let (descriptor, manifest, _) = chosen.ok_or_else(|| ImageError::NoPlatform {
                name: source.name(),
                wanted: platform.clone(),
                available: Vec::new(),
            })?;
            whole.top = descriptor.clone();
            whole.add_manifest(descriptor, manifest, &mut known);
        }
    }
    Ok(whole)
}

impl Closure {
    fn add(
        &mut self,
        store: &Store,
        source: &dyn BlobSource,
        descriptor: &Descriptor,
        known: &mut BTreeSet<Digest>,
        depth: usize,
    ) -> Result<(), ImageError> {
        if !known.insert(descriptor.digest) {
            return Ok(());
        }
        let bytes = document(store, source, descriptor)?;
        match Document::parse_any(&bytes, &descriptor.digest)? {
            Document::Manifest(manifest) => {
                self.add_manifest(descriptor.clone(), *manifest, known);
            }
            Document::Index(_) if depth >= NESTING_MAX => {
                return Err(DocumentError::Malformed {
                    digest: descriptor.digest,
                    what: format!("indexes nest deeper than {NESTING_MAX}"),
                }
                .into());
            }
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.add(store, source, entry, known, depth + 1)?;
                }
                self.documents.push(descriptor.clone());
            }
        }
        Ok(())
    }

    fn add_manifest(
        &mut self,
        descriptor: Descriptor,
        manifest: Manifest,
        known: &mut BTreeSet<Digest>,
    ) {
        for blob in std::iter::once(manifest.config).chain(manifest.layers) {
            if known.insert(blob.digest) {
                self.blobs.push(blob);
            }
        }
        self.documents.push(descriptor);
    }

    /// Lists configs and layers but for those that may not be distributed.
    pub fn distributable(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.iter().filter(|blob| !is_foreign(blob))
    }

    /// Holds all of it in the store, so that collection leaves it; says what is not there. Layers
    /// that may not be distributed need not be.
    ///
    /// # Errors
    ///
    /// [`ImageError::Store`].
    pub fn missing(&self, store: &Store) -> Result<Option<&Descriptor>, ImageError> {
        for blob in self.documents.iter().chain(self.distributable()) {
            if !store.lease_blob(&blob.digest)? {
                return Ok(Some(blob));
            }
        }
        Ok(None)
    }
}

/// Whether a layer may not be distributed: who needs it gets it from where its manifest says.
fn is_foreign(blob: &Descriptor) -> bool {
    blob.media_type.contains(".nondistributable.") || blob.media_type.contains(".foreign.")
}

/// Brings an image's documents and blobs into the store, unless they are here.
///
/// # Errors
///
/// [`ImageError`]; what had arrived whole stays.
pub fn fetch(
    store: &Store,
    source: &dyn BlobSource,
    top: &Descriptor,
    which: Selector<'_>,
    cancel: &Cancel,
) -> Result<Closure, ImageError> {
    let whole = survey(store, source, top, which)?;
    side_by_side(whole.blobs.len(), source.streams(), |number| {
        fetch_blob(store, source, &whole.blobs[number], cancel)
    })?;
    Ok(whole)
}

pub(super) fn fetch_blob(
    store: &Store,
    source: &dyn BlobSource,
    blob: &Descriptor,
    cancel: &Cancel,
) -> Result<(), ImageError> {
    if cancel.is_cancelled() {
        return Err(ImageError::Cancelled);
    }
    if store.lease_blob(&blob.digest)? {
        return Ok(());
    }
    let mut tee = Tee::new(source.open(blob)?, Output::Blob(store.blob_writer()?));
    let copied = cancel.copy(&mut tee, &mut io::sink());
    if cancel.is_cancelled() {
        return Err(ImageError::Cancelled);
    }
    if let Some(error) = tee.failed {
        return Err(ImageError::io("write", &store.blob_path(&blob.digest), error));
    }
    copied.map_err(|e| ImageError::read_blob(source, blob, e))?;
    check_size(source, blob, tee.size)?;
    let Output::Blob(writer) = tee.output else { unreachable!("made as a blob above") };
    writer.finish_as(&blob.digest).map_err(|e| match e {
        StoreError::WrongDigest { actual, .. } => wrong_digest(source, blob, actual),
        other => other.into(),
    })?;
    Ok(())
}
