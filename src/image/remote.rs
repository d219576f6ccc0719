//! Images of registries: found by name, received into the store, remembered.
//!
//! What a tag named when it was last asked for is kept in `remotes/`, so that a build that asks
//! again learns with one request that all is here, and one that cannot ask has something to go on.
//! Beside it stands which repositories have a blob, so that a push can have it mounted instead of
//! sent.
//!
//! # Not here
//!
//! The protocol: [`crate::registry`]. Sending images: [`super::push`].

use super::receive::{BlobSource, receive};
use super::stored::STORE;
use super::{Image, ImageError};
use crate::oci::{
    DEFAULT_TAG, Descriptor, Digest, Document, DocumentError, Platform, Reference, media_type,
};
use crate::registry::{BlobReader, RegistryError, Remote, Repository};
use crate::store::{Store, StorePart};
use crate::sys::cancel::Cancel;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::PathBuf;

/// The media types of what can be received, for the registry to choose from.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// What Docker's first format is called, in its two variants.
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// How many connections fetch layers at once: more than one, since each may be slow for itself.
const STREAMS: usize = 4;

/// The fewest bytes between two reports of progress.
const REPORT_MIN: u64 = 256 << 10;

/// How often the progress of a large blob is reported: a log has a line for each.
const REPORTS: u64 = 20;

/// The most tags that are named where the one that was asked for is not there.
const NEAR_MAX: usize = 8;

/// The most repositories that are remembered for a blob.
const ORIGINS_MAX: usize = 8;

/// Receives how far blobs are on their way, from any thread.
pub trait PullProgress: Sync {
    /// `current` of `total` bytes of a blob are through.
    fn blob(&self, digest: &Digest, current: u64, total: u64, is_done: bool);
}

/// Ignores the progress.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl PullProgress for NoProgress {
    fn blob(&self, _: &Digest, _: u64, _: u64, _: bool) {}
}

impl Reference {
    /// Returns the repository that the name is in.
    pub fn repository(&self) -> Repository {
        Repository { host: self.domain().to_owned(), path: self.path().to_owned() }
    }
}

/// A repository as a source of blobs.
pub struct RegistrySource<'a> {
    /// The repository.
    pub remote: Remote,
    /// Receives how far each blob is.
    pub watch: &'a dyn PullProgress,
}

impl std::fmt::Debug for RegistrySource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistrySource").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// Whether a descriptor points at what registries keep as a manifest.
pub(super) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST)
        || media_type::is_index(media_type)
}

impl BlobSource for RegistrySource<'_> {
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>, ImageError> {
        if is_manifest(&blob.media_type) {
            let bytes = self.remote.manifest(&blob.digest, ACCEPT)?;
            return Ok(Box::new(io::Cursor::new(bytes)));
        }
        let reader = self.remote.blob(blob)?;
        Ok(Box::new(Counted {
            reader,
            blob: blob.clone(),
            watch: self.watch,
            read: 0,
            reported: 0,
        }))
    }

    fn name(&self) -> String {
        self.remote.repository().to_string()
    }

    fn streams(&self) -> usize {
        STREAMS
    }
}

/// Returns how many bytes of a blob of `size` pass between two reports.
pub(super) fn report_step(size: u64) -> u64 {
    (size / REPORTS).max(REPORT_MIN)
}

/// Reports what passes through it.
struct Counted<'a> {
    reader: BlobReader,
    blob: Descriptor,
    watch: &'a dyn PullProgress,
    read: u64,
    reported: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.read += count as u64;
        let is_done = self.read >= self.blob.size;
        if count > 0 && (is_done || self.read - self.reported >= report_step(self.blob.size)) {
            self.reported = self.read;
            self.watch.blob(&self.blob.digest, self.read, self.blob.size, is_done);
        }
        Ok(count)
    }
}

/// The descriptor that a reference resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRef {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// Why the registry could not be reached, if the descriptor is that of its last response.
    pub outage: Option<String>,
}

/// Whether what a registry said last will do where it cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offline {
    /// It will.
    UseLast,
    /// It will not.
    Fail,
}

/// Finds out what a name means: nothing is asked for a digest that is here, one request is made for
/// a tag.
///
/// # Errors
///
/// [`ImageError::Registry`]; [`DocumentError::Schema1`] for the format Docker gave up.
pub fn look_up(
    store: &Store,
    remote: &Remote,
    name: &Reference,
    offline: Offline,
) -> Result<ResolvedRef, ImageError> {
    if let Some(digest) = name.digest() {
        return Ok(ResolvedRef { descriptor: pinned(store, remote, digest)?, outage: None });
    }
    let tag = name.tag().unwrap_or(DEFAULT_TAG);
    match remote.resolve(tag, ACCEPT) {
        Ok(descriptor) if descriptor.media_type.starts_with(SCHEMA_1) => {
            Err(DocumentError::Schema1 { digest: descriptor.digest }.into())
        }
        Ok(descriptor) => {
            // Manifests are few and small; one that is here saves the next build's request.
            let descriptor = match is_manifest(&descriptor.media_type) {
                true => descriptor,
                false => pinned(store, remote, &descriptor.digest)?,
            };
            Ok(ResolvedRef { descriptor, outage: None })
        }
        Err(error) if error.is_outage() && offline == Offline::UseLast => {
            match remembered(store, name) {
                Some(last) => {
                    Ok(ResolvedRef { descriptor: last.descriptor, outage: Some(error.to_string()) })
                }
                None => Err(error.into()),
            }
        }
        Err(source @ RegistryError::NotFound { .. }) => {
            // That there is no such tag is known; what there is is only good to know.
            let tags = remote.tags().unwrap_or_default();
            let (count, near) = (tags.len(), nearest(tag, tags));
            Err(ImageError::NoTag { source, near, count })
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the tags that are most like `wanted`, the nearest first: those that have most of its
/// beginning, then the shortest, then by name.
fn nearest(wanted: &str, mut tags: Vec<String>) -> Vec<String> {
    let is_tag = |tag: &String| {
        let is_of_tag = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        (1..=128).contains(&tag.len()) && tag.chars().all(is_of_tag)
    };
    tags.retain(is_tag);
    let common = |tag: &str| {
        let (tag, wanted) = (tag.to_ascii_lowercase(), wanted.to_ascii_lowercase());
        tag.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count()
    };
    tags.sort_by_cached_key(|tag| {
        (usize::MAX - common(tag), tag != DEFAULT_TAG, tag.len(), tag.clone())
    });
    tags.dedup();
    tags.truncate(NEAR_MAX);
    tags
}

/// Describes the manifest of that digest, fetching it where it is not here.
fn pinned(store: &Store, remote: &Remote, digest: &Digest) -> Result<Descriptor, ImageError> {
    let bytes = match store.has_blob(digest).then(|| store.read_blob(digest)) {
        Some(Ok(bytes)) => bytes,
        _ => {
            let bytes = remote.manifest(digest, ACCEPT)?;
            store.put_blob(&bytes)?;
            bytes
        }
    };
    describe(&bytes, digest)
}

/// Describes a manifest or index by its content.
fn describe(bytes: &[u8], digest: &Digest) -> Result<Descriptor, ImageError> {
    let (own, fallback) = match Document::parse_any(bytes, digest)? {
        Document::Manifest(manifest) => {
            let is_docker = manifest.config.media_type == media_type::DOCKER_CONFIG;
            let usual =
                if is_docker { media_type::DOCKER_MANIFEST } else { media_type::OCI_MANIFEST };
            (manifest.media_type, usual)
        }
        Document::Index(index) => (index.media_type, media_type::OCI_INDEX),
    };
    let media_type = own.unwrap_or_else(|| fallback.to_owned());
    Ok(Descriptor::new(media_type, *digest, bytes.len() as u64))
}

/// Brings an image of a registry into the store, and remembers what the name meant. What is here
/// already is not fetched.
///
/// # Errors
///
/// [`ImageError`]; what had arrived whole stays for the next time.
pub fn pull(
    store: &Store,
    remote: &Remote,
    name: &Reference,
    descriptor: &Descriptor,
    platform: &Platform,
    watch: &dyn PullProgress,
    cancel: &Cancel,
) -> Result<Image, ImageError> {
    let source = RegistrySource { remote: remote.clone(), watch };
    let image = receive(store, &source, descriptor, platform, cancel)?;
    remember(store, name, descriptor)?;
    let repository = remote.repository();
    for layer in image.layers.iter().filter_map(|layer| layer.descriptor.as_ref()) {
        remember_origin(store, &layer.digest, repository)?;
    }
    Ok(image)
}

/// What a registry said of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The name, with its tag.
    pub name: String,
    /// What it named.
    pub descriptor: Descriptor,
}

fn record_path(name: &str) -> PathBuf {
    StorePart::Remotes.entry(format!("{}.json", &blake3::hash(name.as_bytes()).to_hex()[..32]))
}

/// Returns what a registry said of a tag last, if that image is here.
pub fn remembered(store: &Store, name: &Reference) -> Option<Remembered> {
    let name = name.clone().or_latest().to_string();
    // A damaged record is none.
    let bytes = store.read_file(&record_path(&name)).ok()??;
    let last: Remembered = serde_json::from_slice(&bytes).ok()?;
    (last.name == name && store.has_blob(&last.descriptor.digest)).then_some(last)
}

fn remember(store: &Store, name: &Reference, descriptor: &Descriptor) -> Result<(), ImageError> {
    if name.digest().is_some() {
        return Ok(());
    }
    let known = remembered(store, name);
    if known.is_some_and(|known| known.descriptor == *descriptor) {
        return Ok(());
    }
    let name = name.clone().or_latest().to_string();
    let record = Remembered { name: name.clone(), descriptor: descriptor.clone() };
    let json = serde_json::to_vec(&record).expect("a record is plain data");
    // A record never names what a power cut may take back.
    store.sync()?;
    Ok(store.write_file(&record_path(&name), &json)?)
}

fn origin_path(digest: &Digest) -> PathBuf {
    StorePart::Origins.entry(digest.to_hex())
}

/// Returns the repositories that are known to have a blob, the latest first.
pub(super) fn origins(store: &Store, digest: &Digest) -> Vec<Repository> {
    let bytes = store.read_file(&origin_path(digest)).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let repositories = text.lines().filter_map(|line| line.split_once('/'));
    repositories
        .map(|(host, path)| Repository { host: host.to_owned(), path: path.to_owned() })
        .collect()
}

/// Notes that a repository has a blob.
pub(super) fn remember_origin(
    store: &Store,
    digest: &Digest,
    repository: &Repository,
) -> Result<(), ImageError> {
    let mut known = origins(store, digest);
    if known.first() == Some(repository) {
        return Ok(());
    }
    known.retain(|other| other != repository);
    known.insert(0, repository.clone());
    let lines: Vec<_> = known.iter().take(ORIGINS_MAX).map(|r| format!("{r}\n")).collect();
    Ok(store.write_file(&origin_path(digest), lines.concat().as_bytes())?)
}

impl ImageError {
    /// Says whether a registry is to blame, or the way to it, rather than this machine.
    pub fn is_remote(&self) -> bool {
        if let Self::NoPlatform { name, .. } = self {
            return *name != STORE;
        }
        !matches!(
            self,
            Self::Io { .. }
                | Self::Store(_)
                | Self::Cancelled
                | Self::PlatformNotHere { .. }
                | Self::Registry(
                    RegistryError::File { .. }
                        | RegistryError::Local { .. }
                        | RegistryError::Cancelled
                )
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::store;
    use super::*;

    #[test]
    fn a_tag_is_remembered_while_its_image_is_here() {
        let (_dir, store) = store();
        let name: Reference = "127.0.0.1:5000/app".parse().unwrap();
        let digest = store.put_blob(b"{}").unwrap();
        let descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, 2);
        assert_eq!(remembered(&store, &name), None);
        remember(&store, &name, &descriptor).unwrap();
        assert_eq!(remembered(&store, &name).unwrap().descriptor, descriptor);
        assert_eq!(remembered(&store, &"127.0.0.1:5000/app:other".parse().unwrap()), None);
        std::fs::remove_file(store.blob_path(&digest)).unwrap();
        assert_eq!(remembered(&store, &name), None);
    }

    #[test]
    fn the_latest_repositories_of_a_blob_are_remembered() {
        let (_dir, store) = store();
        let digest = Digest::of(b"x");
        let repository =
            |n: usize| Repository { host: "127.0.0.1:1".to_owned(), path: format!("a/{n}") };
        for n in (0..12).chain([5]) {
            remember_origin(&store, &digest, &repository(n)).unwrap();
        }
        let known = origins(&store, &digest);
        assert_eq!(known[0], repository(5));
        assert_eq!((known.len(), known[1].clone()), (ORIGINS_MAX, repository(11)));
    }
}
