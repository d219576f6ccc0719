//! An image into a registry: from the store, or from where it is.
//!
//! Blobs go first, several at a time, each only if the registry has not got it; one that another
//! repository of the same registry is known to have is mounted from there. Then the manifests by
//! their digests, and the tags at last: a push that is killed leaves nothing that anyone could
//! pull.

use super::ImageError;
use super::fetch::{Closure, fetch_blob};
use super::receive::BlobSource;
use super::remote::{ACCEPT, PullProgress, origins, remember_origin, report_step};
use crate::oci::{Descriptor, Digest};
use crate::registry::{Remote, Repository};
use crate::store::Store;
use crate::sys::{cancel::Cancel, threads::side_by_side};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many blobs are pushed at once.
const STREAMS: usize = 4;

/// Where the blobs of an image are that is pushed.
#[derive(Clone, Copy)]
pub enum Supply<'a> {
    /// All of them are in the store.
    Store,
    /// They are elsewhere: in a repository, or in a layout. One that the registry neither has nor
    /// mounts goes through the store.
    Elsewhere(&'a dyn BlobSource, Option<&'a Repository>),
}

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
    push_parts(store, Supply::Store, remote, image, !tags.is_empty(), watch, cancel)?;
    for tag in tags {
        put(store, remote, &image.top, tag)?;
    }
    Ok(())
}

/// Puts an image into a repository by its digest, from where it is: what the registry has in another
/// repository is mounted, and only the rest is fetched and sent.
///
/// # Errors
///
/// [`ImageError`]; the repository's tags are as they were.
pub fn relay(
    store: &Store,
    supply: Supply<'_>,
    remote: &Remote,
    image: &Closure,
    watch: &dyn PullProgress,
    cancel: &Cancel,
) -> Result<(), ImageError> {
    push_parts(store, supply, remote, image, false, watch, cancel)
}

/// Puts blobs and documents into a repository, the top too unless it gets a tag.
fn push_parts(
    store: &Store,
    supply: Supply<'_>,
    remote: &Remote,
    image: &Closure,
    is_tagged: bool,
    watch: &dyn PullProgress,
    cancel: &Cancel,
) -> Result<(), ImageError> {
    let blobs: Vec<_> = image.distributable().collect();
    side_by_side(blobs.len(), STREAMS, |number| {
        push_blob(store, supply, remote, blobs[number], watch, cancel)
    })?;
    for descriptor in &image.documents {
        if cancel.is_cancelled() {
            return Err(ImageError::Cancelled);
        }
        let is_top = descriptor.digest == image.top.digest;
        if is_top && is_tagged {
            continue;
        }
        if remote.has_manifest(&descriptor.digest, ACCEPT)? {
            continue;
        }
        put(store, remote, descriptor, &descriptor.digest.to_string())?;
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
    supply: Supply<'_>,
    remote: &Remote,
    blob: &Descriptor,
    watch: &dyn PullProgress,
    cancel: &Cancel,
) -> Result<(), ImageError> {
    if cancel.is_cancelled() {
        return Err(ImageError::Cancelled);
    }
    if let Supply::Store = supply {
        check_stored(store, blob)?;
    }
    let done = || watch.blob(&blob.digest, blob.size, blob.size, true);
    if remote.has_blob(&blob.digest)? {
        done();
        return remember_origin(store, &blob.digest, remote.repository());
    }
    let own = remote.repository();
    let known = match supply {
        Supply::Elsewhere(_, Some(repository)) => vec![repository.clone()],
        _ => origins(store, &blob.digest),
    };
    let from = known
        .into_iter()
        .find(|other| other.host == own.host && other.path != own.path)
        .map(|other| other.path);
    let path = store.blob_path(&blob.digest);
    let trouble = Mutex::new(None);
    let open = |offset: u64| -> io::Result<Box<dyn Read + Send>> {
        if let Supply::Elsewhere(source, _) = supply {
            fetch_blob(store, source, blob, cancel).map_err(|error| {
                *trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                io::Error::other("the blob cannot be fetched")
            })?;
        }
        let mut file = std::fs::File::open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    };
    let sent = AtomicU64::new(0);
    let report = |digest: &Digest, at: u64| {
        let last = sent.load(Ordering::Relaxed);
        if at.abs_diff(last) >= report_step(blob.size) {
            sent.store(at, Ordering::Relaxed);
            watch.blob(digest, at, blob.size, false);
        }
    };
    let uploaded = remote.upload(blob, from.as_deref(), &open, &|at| report(&blob.digest, at));
    // That the blob could not be opened is a consequence.
    let trouble = trouble.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match (uploaded, trouble) {
        (Ok(_), _) => {}
        (Err(_), Some(error)) => return Err(error),
        (Err(error), None) => return Err(error.into()),
    }
    done();
    remember_origin(store, &blob.digest, own)
}

/// Checks that a blob of the store has the size that its descriptor promises.
fn check_stored(store: &Store, blob: &Descriptor) -> Result<(), ImageError> {
    let path = store.blob_path(&blob.digest);
    let actual = store.open_blob(&blob.digest)?.metadata();
    let actual = actual.map_err(|e| ImageError::io("read", &path, e))?.len();
    if actual == blob.size {
        return Ok(());
    }
    Err(ImageError::WrongSize {
        name: "the store".to_owned(),
        digest: blob.digest,
        expected: blob.size,
        actual,
    })
}
