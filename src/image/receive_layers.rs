//! The layers of an image from elsewhere: blobs kept as they are, files unpacked once.
//!
//! Every byte is hashed while it is copied and unpacked, in one pass. Layers are received side by
//! side; who needs a layer that another is receiving waits for it.

use super::ImageError;
use super::receive::{BlobSource, check_size, wrong_digest};
use super::tee::{Output, Tee};
use super::unpack::{Unpacked, ids};
use crate::layer::LayerError;
use crate::oci::{Descriptor, Digest};
use crate::store::{Diff, Layer, Store, StoreError};
use crate::sys::{
    cancel::{Cancel, Stoppable},
    threads::side_by_side,
};
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read};

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// Brings layers here, each a blob and the `diff_id` of its tar; returns them in that order.
///
/// Most layers are the same over whatever they lie on, and are received side by side. One that uses
/// directories or files below it without describing them (as builders without a root file system
/// write them) is unpacked once all below it are there, and filed under those too.
pub(super) fn receive_layers(
    store: &Store,
    source: &dyn BlobSource,
    pairs: &[(Descriptor, Digest)],
    cancel: &Cancel,
) -> Result<Vec<Layer>, ImageError> {
    let mut received = Vec::with_capacity(pairs.len());
    let mut missing = Vec::new();
    for (i, (blob, diff_id)) in pairs.iter().enumerate() {
        let known = present(store, blob, diff_id)?;
        if known.is_none() {
            missing.push(i);
        }
        received.push(known);
    }
    let arrived = side_by_side(missing.len(), source.streams(), |number| {
        let (blob, diff_id) = &pairs[missing[number]];
        receive_layer(store, source, blob, diff_id, cancel)
    })?;
    for (i, layer) in missing.into_iter().zip(arrived) {
        received[i] = Some(layer);
    }
    let mut layers: Vec<Layer> = Vec::with_capacity(pairs.len());
    for (received, (blob, diff_id)) in received.into_iter().zip(pairs) {
        let layer = match received.expect("what was not present was received") {
            Received::Layer(layer) => layer,
            Received::Borrows => receive_over(store, blob, diff_id, &layers, cancel)?,
        };
        layers.push(layer);
    }
    Ok(layers)
}

/// A layer whose blob is in the store.
#[expect(clippy::large_enum_variant, reason = "few are made, and soon taken apart")]
enum Received {
    /// It is unpacked.
    Layer(Layer),
    /// How it unpacks depends on the layers below it.
    Borrows,
}

/// Returns what is here of a layer, if its blob is.
fn present(
    store: &Store,
    blob: &Descriptor,
    diff_id: &Digest,
) -> Result<Option<Received>, ImageError> {
    if !store.lease_blob(&blob.digest)? {
        return Ok(None);
    }
    Ok(match store.diff(diff_id)? {
        Diff::Unknown => None,
        Diff::Layer(layer) => Some(Received::Layer(layer)),
        Diff::Borrows => Some(Received::Borrows),
    })
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
) -> Result<Received, ImageError> {
    let _held = store.lock(&lock_name(diff_id), || {})?;
    if let Some(received) = present(store, blob, diff_id)? {
        return Ok(received);
    }
    if store.lease_blob(&blob.digest)? {
        let file = store.open_blob(&blob.digest)?;
        let mut input = io::BufReader::with_capacity(CHUNK, Stoppable::new(file, cancel));
        return unpack_alone(store, blob, diff_id, &mut input, cancel);
    }
    let known = store.diff(diff_id)?;
    let spooled = source.spooled(blob);
    let (input, output): (Box<dyn Read + Send>, _) = match &spooled {
        Some(path) => {
            let file = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
            (Box::new(file), Output::hash())
        }
        None => (source.open(blob)?, Output::Blob(store.blob_writer()?)),
    };
    let mut tee = Tee::new(Box::new(Stoppable::new(input, cancel)), output);
    let received = match known {
        Diff::Layer(layer) => Ok(Received::Layer(layer)),
        Diff::Borrows => Ok(Received::Borrows),
        Diff::Unknown => unpack_alone(store, blob, diff_id, &mut tee, cancel),
    };
    // What does not unpack may be what was damaged on its way: then that is the error to report.
    let drained = io::copy(&mut tee, &mut io::sink());
    if cancel.is_cancelled() {
        return received.and(Err(ImageError::Cancelled));
    }
    if let Some(error) = tee.failed {
        return Err(ImageError::io("write", &store.blob_path(&blob.digest), error));
    }
    drained.map_err(|e| ImageError::read_blob(source, blob, e))?;
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
    received
}

/// Unpacks a layer's blob, compressed or not, and makes the layer visible, unless it depends on
/// what is below it. Its bytes need no other check than its `diff_id`.
fn unpack_alone(
    store: &Store,
    blob: &Descriptor,
    diff_id: &Digest,
    input: &mut (dyn Read + Send),
    cancel: &Cancel,
) -> Result<Received, ImageError> {
    match unpack(store, blob, diff_id, input, &[], cancel) {
        Ok(unpacked) if unpacked.borrows => Ok(Received::Borrows),
        Ok(unpacked) => unpacked.keep(store, &[]).map(Received::Layer),
        // The file may be below.
        Err(ImageError::Layer { source: LayerError::HardLink { .. }, .. }) => Ok(Received::Borrows),
        Err(other) => Err(other),
    }
}

/// Returns the layer that the blob, which is in the store, makes over the layers `below`.
fn receive_over(
    store: &Store,
    blob: &Descriptor,
    diff_id: &Digest,
    below: &[Layer],
    cancel: &Cancel,
) -> Result<Layer, ImageError> {
    let _held = store.lock(&lock_name(diff_id), || {})?;
    if let Some(layer) = store.layer_of_diff(diff_id, &ids(below))? {
        return Ok(layer);
    }
    let file = store.open_blob(&blob.digest)?;
    let mut input = io::BufReader::with_capacity(CHUNK, Stoppable::new(file, cancel));
    unpack(store, blob, diff_id, &mut input, below, cancel)?.keep(store, below)
}

fn lock_name(diff_id: &Digest) -> String {
    format!("diff-{}", diff_id.to_hex())
}

fn unpack(
    store: &Store,
    blob: &Descriptor,
    diff_id: &Digest,
    input: &mut (dyn Read + Send),
    below: &[Layer],
    cancel: &Cancel,
) -> Result<Unpacked, ImageError> {
    let unpacked =
        Unpacked::of(store, input, below, cancel).map_err(|e| e.in_blob(&blob.digest))?;
    if unpacked.diff_id != *diff_id {
        return Err(ImageError::WrongDiffId {
            digest: blob.digest,
            expected: *diff_id,
            actual: unpacked.diff_id,
        });
    }
    Ok(unpacked)
}
