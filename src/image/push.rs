//! An image of the store into a registry.
//!
//! Blobs go first, several at a time, each only if the registry has not got it; one that another
//! repository of the same registry is known to have is mounted from there. Then the manifests by
//! their digests, and the tags at last: a push that is killed leaves nothing that anyone could
//! pull.

use super::ImageError;
use super::fetch::Closure;
use super::remote::{ACCEPT, PullProgress, origins, remember_origin, report_step};
use crate::oci::{Descriptor, Digest};
use crate::registry::Remote;
use crate::store::Store;
use crate::sys::{cancel::Cancel, threads::side_by_side};
use std::io::{self, Read, Seek as _, SeekFrom};

/// How many blobs are pushed at once.
const STREAMS: usize = 4;

/// Puts an image, all of which is in the store, into a repository under some tags; without any, it
/// is there by its digest only.
///
/// # Errors
///
/// [`ImageError`]; the repository's tags are as they were, unless setting one of several failed.
pub fn push(
    store: &Store,
    remote: &Remote,
    image: &Closure,
    tags: &[String],
    watch: &dyn PullProgress,
    cancel: &Cancel,
) -> Result<(), ImageError> {
    if let Some(missing) = image.missing(store)? {
        let name = "the store".to_owned();
        return Err(ImageError::MissingBlob { name, digest: missing.digest });
    }
    let blobs: Vec<_> = image.distributable().collect();
    side_by_side(blobs.len(), STREAMS, |number| {
        push_blob(store, remote, blobs[number], watch, cancel)
    })?;
    for descriptor in &image.documents {
        if cancel.is_cancelled() {
            return Err(ImageError::Cancelled);
        }
        let is_top = descriptor.digest == image.top.digest;
        if is_top && !tags.is_empty() {
            continue;
        }
        if remote.has_manifest(&descriptor.digest, ACCEPT)? {
            continue;
        }
        put(store, remote, descriptor, &descriptor.digest.to_string())?;
    }
    for tag in tags {
        put(store, remote, &image.top, tag)?;
    }
    Ok(())
}

fn put(
    store: &Store,
    remote: &Remote,
    descriptor: &Descriptor,
    reference: &str,
) -> Result<(), ImageError> {
    let bytes = store.read_blob(&descriptor.digest)?;
    Ok(remote.put_manifest(reference, &descriptor.media_type, &bytes)?)
}

fn push_blob(
    store: &Store,
    remote: &Remote,
    blob: &Descriptor,
    watch: &dyn PullProgress,
    cancel: &Cancel,
) -> Result<(), ImageError> {
    if cancel.is_cancelled() {
        return Err(ImageError::Cancelled);
    }
    let path = store.blob_path(&blob.digest);
    let actual = store.open_blob(&blob.digest)?.metadata();
    let actual = actual.map_err(|e| ImageError::io("read", &path, e))?.len();
    if actual != blob.size {
        return Err(ImageError::WrongSize {
            name: "the store".to_owned(),
            digest: blob.digest,
            expected: blob.size,
            actual,
        });
    }
    let done = || watch.blob(&blob.digest, blob.size, blob.size, true);
    if remote.has_blob(&blob.digest)? {
        done();
        return remember_origin(store, &blob.digest, remote.repository());
    }
    let own = remote.repository();
    let from = origins(store, &blob.digest)
        .into_iter()
        .find(|other| other.host == own.host && other.path != own.path)
        .map(|other| other.path);
    let open = |offset: u64| -> io::Result<Box<dyn Read + Send>> {
        let mut file = std::fs::File::open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    };
    let sent = std::sync::atomic::AtomicU64::new(0);
    let report = |digest: &Digest, at: u64| {
        let last = sent.load(std::sync::atomic::Ordering::Relaxed);
        if at.abs_diff(last) >= report_step(blob.size) {
            sent.store(at, std::sync::atomic::Ordering::Relaxed);
            watch.blob(digest, at, blob.size, false);
        }
    };
    remote.upload(blob, from.as_deref(), &open, &|at| report(&blob.digest, at))?;
    done();
    remember_origin(store, &blob.digest, own)
}
