//! A mount comes out of a layout and becomes one of the store.

use super::chunks::{MAX, compressed_max};
use super::{
    ARTIFACT_TYPE, CONTENTS_TYPE, ChunkFacts, DOCUMENT_MAX, DOCUMENT_VERSION, Document,
    LISTING_TYPE, MountError,
};
use crate::image::LayoutSource;
use crate::layer::{JoinedTar, LayerError, owner, unpack_plain};
use crate::oci::{Descriptor, Digest, Manifest};
use crate::store::{KnownMount, Placed, Store};
use crate::sys::cancel::Cancel;
use rustix::fs::{Timespec, Timestamps, futimens};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A mount of a layout.
#[derive(Debug)]
pub struct FoundMount {
    dir: PathBuf,
    /// Which mount it is; where that cannot be read, why.
    pub mount: Result<KnownMount, MountError>,
    /// The digest of its manifest.
    pub digest: Digest,
    document: Option<Document>,
    blobs: Vec<Descriptor>,
}

/// Result for a mount that was to be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Whether it took the place of one that was there.
    pub placed: Placed,
    /// Its entries.
    pub entries: u64,
    /// The bytes of its files.
    pub bytes: u64,
}

/// Reads which mounts a layout has.
///
/// # Errors
///
/// [`MountError::Image`] where the directory is not a layout. A mount whose documents cannot be
/// read is listed with its error.
pub fn found_mounts(dir: &Path) -> Result<Vec<FoundMount>, MountError> {
    let index = LayoutSource { dir: dir.to_owned() }.index()?;
    let found = index.manifests.iter().filter(|entry| is_mount(dir, entry)).map(|entry| {
        let mut found = FoundMount {
            dir: dir.to_owned(),
            mount: Ok(KnownMount { id: String::new(), start: String::new(), copy: 0 }),
            digest: entry.digest,
            document: None,
            blobs: Vec::new(),
        };
        found.mount = read_documents(dir, entry).map(|(document, blobs)| {
            let (id, start) = (document.id.clone(), document.start.clone());
            let mount = KnownMount { id, start, copy: document.copy };
            (found.document, found.blobs) = (Some(document), blobs);
            mount
        });
        found
    });
    Ok(found.collect())
}

/// Says whether an entry of an index is a mount. Tools that copy it may leave that out of the
/// entry, and then its manifest says it.
fn is_mount(dir: &Path, entry: &Descriptor) -> bool {
    let artifact_type = entry.artifact_type.clone().or_else(|| {
        let bytes = read_document(dir, entry).ok()?;
        serde_json::from_slice::<Manifest>(&bytes).ok()?.artifact_type
    });
    artifact_type.as_deref() == Some(ARTIFACT_TYPE)
}

fn read_documents(
    dir: &Path,
    entry: &Descriptor,
) -> Result<(Document, Vec<Descriptor>), MountError> {
    let malformed = |what: &str| MountError::Malformed { what: what.to_owned() };
    let bytes = read_document(dir, entry)?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|e| malformed(&format!("manifest does not parse: {e}")))?;
    let bytes = read_document(dir, &manifest.config)?;
    let bad = |e: serde_json::Error| malformed(&format!("document does not parse: {e}"));
    let version = serde_json::from_slice::<Version>(&bytes).map_err(bad)?.version;
    if version != DOCUMENT_VERSION {
        return Err(MountError::OtherVersion { found: version });
    }
    let document: Document = serde_json::from_slice(&bytes).map_err(bad)?;
    if document.chunks.len() != manifest.layers.len() {
        return Err(malformed("document speaks of other chunks than its manifest"));
    }
    if document.chunks.iter().any(|chunk| chunk.size > MAX as u64) {
        return Err(malformed("document speaks of a chunk that is too large"));
    }
    if manifest.layers.iter().any(|blob| blob.size > compressed_max()) {
        return Err(malformed("manifest speaks of a chunk that is too large"));
    }
    let is_known = |blob: &Descriptor| [LISTING_TYPE, CONTENTS_TYPE].contains(&&*blob.media_type);
    if !manifest.layers.iter().all(is_known) {
        return Err(malformed("manifest has a chunk of an unknown type"));
    }
    Ok((document, manifest.layers))
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Makes a mount of the layout one of the store. `replaces` says the results of one that is there;
/// `waiting` is called where a build uses that, which is waited for.
///
/// # Errors
///
/// [`MountError`]; the store is as it was then.
pub fn import_mount(
    store: &Store,
    found: &FoundMount,
    replaces: bool,
    cancel: &Cancel,
    waiting: impl Fn(),
) -> Result<Imported, MountError> {
    let (Ok(mount), Some(document)) = (&found.mount, &found.document) else {
        return Err(MountError::Malformed { what: "documents cannot be read".to_owned() });
    };
    let (entries, bytes) = (document.entries, document.bytes);
    if !replaces && store.mounts()?.contains(mount) {
        return Ok(Imported { placed: Placed::Kept, entries, bytes });
    }
    check_space(store, document)?;
    let work = store.session()?.new_work()?;
    let imported = unpack(found, document, &work, cancel).and_then(|()| {
        let placed = store.place_mount(&work, &mount.name(), replaces, cancel, waiting)?;
        Ok(Imported { placed, entries, bytes })
    });
    // What is there now is of no use: half a mount, or the one that was replaced.
    let _ = crate::store::remove_tree(&work);
    imported
}

/// Refuses what cannot fit, before the disk is full.
fn check_space(store: &Store, document: &Document) -> Result<(), MountError> {
    let needed = document.chunks.iter().fold(0u64, |sum, chunk| sum.saturating_add(chunk.size));
    let path = store.root();
    let disk = rustix::fs::statvfs(path).map_err(|e| MountError::io("read", path, e))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    match needed > free {
        true => Err(MountError::NoSpace { needed, free, path: path.to_owned() }),
        false => Ok(()),
    }
}

/// Makes the directory of a mount at `work`.
fn unpack(
    found: &FoundMount,
    document: &Document,
    work: &Path,
    cancel: &Cancel,
) -> Result<(), MountError> {
    let made = work.join("fs");
    fs::create_dir(&made).map_err(|e| MountError::io("create", &made, e))?;
    let root = File::open(&made).map_err(|e| MountError::io("open", &made, e))?;
    let stream = |media_type| Chunks::new(found, document, media_type);
    let tar = JoinedTar::new(stream(LISTING_TYPE), stream(CONTENTS_TYPE));
    let failed = |e| chunk_error(e).unwrap_or_else(MountError::Make);
    unpack_plain(tar, root.as_fd(), cancel).map_err(|e| MountError::of_layer(e, failed))?;
    owner::set_open(&root, document.uid, document.gid)
        .map_err(|e| MountError::io("change the owner of", &made, e))?;
    let mode = fs::Permissions::from_mode(document.mode & 0o7777);
    fs::set_permissions(&made, mode).map_err(|e| MountError::io("change the mode of", &made, e))?;
    let time = Timespec { tv_sec: document.mtime, tv_nsec: i64::from(document.mtime_nsec) };
    let times = Timestamps { last_access: time, last_modification: time };
    futimens(&root, &times).map_err(|e| MountError::io("set the time of", &made, e))?;
    for (name, text) in [("id", &document.id), ("start", &document.start)] {
        if name == "id" || !text.is_empty() {
            let label = work.join(name);
            fs::write(&label, text).map_err(|e| MountError::io("write", &label, e))?;
        }
    }
    Ok(())
}

/// Takes our own error out of the one that reading the tar failed with.
fn chunk_error(error: LayerError) -> Result<MountError, LayerError> {
    let LayerError::Input { source } = error else { return Err(error) };
    match source.downcast::<MountError>() {
        Ok(ours) => Ok(ours),
        Err(source) => Err(LayerError::Input { source }),
    }
}

/// Reads the chunks of one stream, one after the other.
struct Chunks<'f> {
    dir: &'f Path,
    parts: Vec<(&'f Descriptor, &'f ChunkFacts)>,
    next: usize,
    bytes: Vec<u8>,
    read: usize,
}

impl<'f> Chunks<'f> {
    fn new(found: &'f FoundMount, document: &'f Document, media_type: &str) -> Self {
        let all = found.blobs.iter().zip(&document.chunks);
        let parts = all.filter(|(blob, _)| blob.media_type == media_type).collect();
        Self { dir: &found.dir, parts, next: 0, bytes: Vec::new(), read: 0 }
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.read == self.bytes.len() {
            let Some((blob, facts)) = self.parts.get(self.next) else { return Ok(0) };
            self.bytes = read_chunk(self.dir, blob, facts).map_err(io::Error::other)?;
            (self.next, self.read) = (self.next + 1, 0);
        }
        let length = out.len().min(self.bytes.len() - self.read);
        out[..length].copy_from_slice(&self.bytes[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}

fn read_chunk(dir: &Path, blob: &Descriptor, facts: &ChunkFacts) -> Result<Vec<u8>, MountError> {
    let compressed = read_blob(dir, blob)?;
    let malformed = |e| MountError::Malformed { what: format!("chunk {}: {e}", blob.digest) };
    let bytes = zstd::bulk::decompress(&compressed, facts.size as usize).map_err(malformed)?;
    let actual = Digest::of(&bytes);
    if actual != facts.digest {
        return Err(MountError::Damaged { digest: facts.digest, actual });
    }
    Ok(bytes)
}

fn read_document(dir: &Path, blob: &Descriptor) -> Result<Vec<u8>, MountError> {
    if blob.size > DOCUMENT_MAX {
        let what = format!("document {} is too large", blob.digest);
        return Err(MountError::Malformed { what });
    }
    read_blob(dir, blob)
}

/// Reads a whole blob and checks its digest. No link is followed, and only a regular file is
/// opened.
fn read_blob(dir: &Path, blob: &Descriptor) -> Result<Vec<u8>, MountError> {
    let layout = LayoutSource { dir: dir.to_owned() };
    let path = layout.path_of(&blob.digest);
    let no_blob = || MountError::NoBlob { blob: blob.clone() };
    let file = layout.open_file(&blob.digest).map_err(|_| no_blob())?;
    let facts = file.metadata().map_err(|e| MountError::io("read", &path, e))?;
    if facts.len() != blob.size {
        return Err(no_blob());
    }
    let mut bytes = Vec::with_capacity(blob.size as usize);
    file.take(blob.size).read_to_end(&mut bytes).map_err(|e| MountError::io("read", &path, e))?;
    let actual = Digest::of(&bytes);
    if actual != blob.digest {
        return Err(MountError::Damaged { digest: blob.digest, actual });
    }
    Ok(bytes)
}
