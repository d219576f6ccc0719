//! The layers of an image from elsewhere: blobs kept as they are, files unpacked once.
//!
//! Every byte is hashed while it is copied and unpacked, in one pass. Layers are received side by
//! side; who needs a layer that another is receiving waits for it.

use super::ImageError;
use super::receive::{BlobSource, check_size, wrong_digest};
use super::tee::{Output, Tee};
use super::unpack::Unpacked;
use crate::store::{Descriptor, Digest, Layer, Store, StoreError};
use crate::sys::cancel::Cancel;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// Brings layers here, each a blob and the `diff_id` of its tar; returns them in that order.
pub(super) fn receive_layers(
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
fn receive_layer(
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
            (Box::new(file), Output::hash())
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
