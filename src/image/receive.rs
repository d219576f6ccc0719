//! An image from elsewhere arrives in the store: documents and blobs verified, layers unpacked once.
//!
//! Whatever the source is (a layout, an archive, a registry), only its way to open a blob differs:
//! [`BlobSource`]. Every byte is hashed while it is copied and unpacked, in one pass; what the store
//! has is not read again.

use super::tee::{Output, Tee};
use super::unpack::Unpacked;
use super::{Config, Document, Image, ImageError, ImageLayer, Manifest, Platform};
use crate::store::{DOCUMENT_MAX, Descriptor, Digest, Layer, Store, StoreError};
use crate::sys::cancel::Cancel;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError>;

    /// Returns a file of the store's own session that holds the blob and may be renamed away.
    fn spooled(&self, _blob: &Descriptor) -> Option<PathBuf> {
        None
    }

    /// Returns what the source is called in messages.
    fn name(&self) -> String;
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
    let (descriptor, manifest, config) = choose(store, source, descriptor, platform, None, 0)?
        .ok_or_else(|| ImageError::NoPlatform {
            name: source.name(),
            wanted: platform.clone(),
            available: Vec::new(),
        })?;
    let diff_ids = config.diff_ids().map_err(|e| ImageError::BadDocument {
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

type Chosen = (Descriptor, Manifest, Config);

/// Follows indexes to the one manifest wanted. `must_fit` is the platform to compare with where
/// only the config tells it.
fn choose(
    store: &Store,
    source: &dyn BlobSource,
    descriptor: &Descriptor,
    platform: &Platform,
    must_fit: Option<&Platform>,
    depth: usize,
) -> Result<Option<Chosen>, ImageError> {
    let bytes = document(store, source, descriptor)?;
    match Document::parse(&bytes, &descriptor.digest)? {
        Document::Manifest(manifest) => {
            let bytes = document(store, source, &manifest.config)?;
            let config = Config::parse(&bytes, &manifest.config.digest)?;
            if must_fit.is_some_and(|wanted| wanted.rank(&config.platform()).is_none()) {
                return Ok(None);
            }
            let mut descriptor = descriptor.clone();
            descriptor.annotations.clear();
            Ok(Some((descriptor, *manifest, config)))
        }
        Document::Index(_) if depth >= NESTING_MAX => Err(ImageError::BadDocument {
            digest: descriptor.digest,
            what: format!("indexes nest deeper than {NESTING_MAX}"),
        }),
        Document::Index(index) => {
            for candidate in index.candidates(platform) {
                let must_fit = candidate.platform.is_none().then_some(platform);
                match choose(store, source, candidate, platform, must_fit, depth + 1) {
                    Ok(None) | Err(ImageError::NoImage { .. }) => {}
                    other => return other,
                }
            }
            if must_fit.is_some() {
                return Ok(None);
            }
            Err(ImageError::NoPlatform {
                name: source.name(),
                wanted: platform.clone(),
                available: index.platforms(),
            })
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

fn check_size(
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

fn wrong_digest(source: &dyn BlobSource, descriptor: &Descriptor, actual: Digest) -> ImageError {
    ImageError::WrongDigest { name: source.name(), expected: descriptor.digest, actual }
}

fn receive_layers(
    store: &Store,
    source: &dyn BlobSource,
    pairs: &[(Descriptor, Digest)],
    cancel: &Cancel,
) -> Result<Vec<Layer>, ImageError> {
    let mut layers = Vec::with_capacity(pairs.len());
    let mut missing = Vec::new();
    for (i, (blob, diff_id)) in pairs.iter().enumerate() {
        let known = present(store, blob, diff_id)?;
        if known.is_none() {
            missing.push(i);
        }
        layers.push(known);
    }
    let workers = missing.len().min(std::thread::available_parallelism().map_or(1, usize::from));
    if workers > 1 {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(missing.len()));
        let work = || {
            while let Some(&i) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (blob, diff_id) = &pairs[i];
                let result = receive_layer(store, source, blob, diff_id, cancel);
                if result.is_err() {
                    next.store(missing.len(), Ordering::Relaxed);
                }
                done.lock().expect("no thread panics while it holds this").push((i, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        for (i, result) in done.into_inner().expect("all threads ended") {
            layers[i] = Some(result?);
        }
    } else {
        for i in missing {
            let (blob, diff_id) = &pairs[i];
            layers[i] = Some(receive_layer(store, source, blob, diff_id, cancel)?);
        }
    }
    Ok(layers.into_iter().flatten().collect())
}

/// Returns the layer if both its folder and its blob are here.
fn present(
    store: &Store,
    blob: &Descriptor,
    diff_id: &Digest,
) -> Result<Option<Layer>, ImageError> {
    Ok(store.layer_of_diff(diff_id)?.filter(|_| store.has_blob(&blob.digest)))
}

/// Brings one layer here: its blob as it is, and its files unpacked. Who needs the same layer at
/// the same time waits and finds it.
///
/// # Errors
///
/// [`ImageError`]; the blob becomes visible only if its digest is right, the layer only if its
/// `diff_id` is as well.
pub(super) fn receive_layer(
    store: &Store,
    source: &dyn BlobSource,
    blob: &Descriptor,
    diff_id: &Digest,
    cancel: &Cancel,
) -> Result<Layer, ImageError> {
    let _held = store.lock(&format!("diff-{}", diff_id.to_hex()), || {})?;
    if let Some(layer) = present(store, blob, diff_id)? {
        return Ok(layer);
    }
    let known = store.layer_of_diff(diff_id)?;
    if store.has_blob(&blob.digest) {
        let file = store.open_blob(&blob.digest)?;
        return unpack(
            store,
            blob,
            diff_id,
            &mut io::BufReader::with_capacity(CHUNK, file),
            cancel,
        );
    }
    let spooled = source.spooled(blob);
    let (input, output): (Box<dyn Read + Send>, _) = match &spooled {
        Some(path) => {
            let file = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
            (Box::new(file), Output::Hash(sha2::Sha256::new()))
        }
        None => (source.open(blob)?, Output::Blob(store.blob_writer()?)),
    };
    let mut tee = Tee::new(input, output);
    let layer = match known {
        Some(layer) => Ok(layer),
        None => unpack(store, blob, diff_id, &mut tee, cancel),
    };
    // What does not unpack may be what was damaged on its way: then that is the error to tell.
    let drained = if cancel.is_cancelled() { Ok(0) } else { io::copy(&mut tee, &mut io::sink()) };
    if let Some(error) = tee.failed {
        return Err(ImageError::io("write", &store.blob_path(&blob.digest), error));
    }
    match drained {
        Ok(_) if cancel.is_cancelled() => return layer.and(Err(ImageError::Cancelled)),
        Ok(_) => {}
        Err(e) => return Err(ImageError::read_blob(source, blob, e)),
    }
    check_size(source, blob, tee.size)?;
    match tee.output {
        Output::Blob(writer) => {
            writer.finish_as(&blob.digest).map_err(|e| match e {
                StoreError::WrongDigest { actual, .. } => wrong_digest(source, blob, actual),
                other => other.into(),
            })?;
        }
        Output::Hash(hasher) => {
            let actual = Digest::from_bytes(hasher.finalize().into());
            if actual != blob.digest {
                return Err(wrong_digest(source, blob, actual));
            }
            if let Some(path) = spooled {
                store.adopt_blob(&path, &blob.digest)?;
            }
        }
    }
    layer
}

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// Unpacks a layer's blob, compressed or not, and makes the layer visible. Its bytes need no other
/// check than its `diff_id`.
fn unpack(
    store: &Store,
    blob: &Descriptor,
    diff_id: &Digest,
    input: &mut (dyn Read + Send),
    cancel: &Cancel,
) -> Result<Layer, ImageError> {
    let unpacked = Unpacked::of(store, input, cancel).map_err(|e| e.in_blob(&blob.digest))?;
    if unpacked.diff_id != *diff_id {
        return Err(ImageError::WrongDiffId {
            digest: blob.digest,
            expected: *diff_id,
            actual: unpacked.diff_id,
        });
    }
    unpacked.keep(store)
}
