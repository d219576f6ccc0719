//! A mount of the store goes into a layout.

use super::chunks::{Chunker, MAX, compressed_max};
use super::{
    ARTIFACT_TYPE, CONTENTS_TYPE, ChunkFacts, DOCUMENT_MAX, DOCUMENT_TYPE, DOCUMENT_VERSION,
    Document, LEVEL, LISTING_TYPE, MountError, tag,
};
use crate::export::{ExportError, LayoutDirectory};
use crate::layer::{LayerError, SplitSink, owner, split_tar};
use crate::oci::{Descriptor, Digest, Manifest, canonical_json, media_type};
use crate::store::{KnownMount, Store};
use crate::sys::cancel::Cancel;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

/// How many bytes of chunks are hashed and compressed at a time, on all processors: enough to keep
/// these busy, and the bound of the memory that an export takes.
const BATCH: usize = 8 * MAX;

/// What an export did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Entries of the mount.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its chunks.
    pub chunks: u64,
    /// Those that were not there.
    pub new_chunks: u64,
    /// The bytes that were written, compressed, documents included.
    pub written: u64,
}

/// Writes a mount to a layout; `None` where the store has it no more. `waiting` is called where a
/// build uses it, which is waited for.
///
/// # Errors
///
/// [`MountError`]; an older export of the mount stays whole then.
pub fn export_mount(
    store: &Store,
    mount: &KnownMount,
    directory: &mut LayoutDirectory,
    cancel: &Cancel,
    waiting: impl Fn(),
) -> Result<Option<Exported>, MountError> {
    let name = mount.name();
    let Some(seized) = store.seize_mount(&name, cancel, waiting)? else { return Ok(None) };
    let path = seized.fs();
    let fs = File::open(&path).map_err(|e| MountError::io("open", &path, e))?;
    let mut root = rustix::fs::fstat(&fs).map_err(|e| MountError::io("read", &path, e))?;
    owner::amend_open(&fs, &mut root);

    let written_before = directory.written();
    let known = known_chunks(directory);
    let mut writer = Writer {
        directory,
        known,
        streams: [Stream::new(LISTING_TYPE), Stream::new(CONTENTS_TYPE)],
        batch: Vec::new(),
        batch_bytes: 0,
        new_chunks: 0,
        failure: None,
    };
    let walked = split_tar(fs.as_fd(), &mut writer, cancel);
    let (entries, bytes) = match (walked, writer.failure.take()) {
        (_, Some(failure)) => return Err(failure.into()),
        (walked, None) => walked.map_err(|e| MountError::of_layer(e, MountError::Read))?,
    };
    writer.end()?;
    drop(seized);

    let new_chunks = writer.new_chunks;
    let chunks: Vec<_> = writer.streams.into_iter().flat_map(|stream| stream.done).collect();
    let document = Document {
        version: DOCUMENT_VERSION,
        id: mount.id.clone(),
        start: mount.start.clone(),
        copy: mount.copy,
        uid: root.st_uid,
        gid: root.st_gid,
        mode: root.st_mode & 0o7777,
        mtime: root.st_mtime,
        mtime_nsec: root.st_mtime_nsec as u32,
        entries,
        bytes,
        chunks: chunks.iter().map(|(facts, _)| *facts).collect(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config: directory.put(&canonical_json(&document), DOCUMENT_TYPE)?,
        layers: chunks.iter().map(|(_, blob)| blob.clone()).collect(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    let mut top = directory.put(&canonical_json(&manifest), media_type::OCI_MANIFEST)?;
    top.artifact_type = Some(ARTIFACT_TYPE.to_owned());
    directory.name(top, &tag(&name))?;
    let written = directory.written() - written_before;
    Ok(Some(Exported { entries, bytes, chunks: chunks.len() as u64, new_chunks, written }))
}

/// The chunks that the layout's mounts have, by what is in them. What cannot be read is written
/// again.
fn known_chunks(directory: &LayoutDirectory) -> BTreeMap<Digest, (u64, Digest)> {
    let mut known = BTreeMap::new();
    for entry in directory.entries() {
        if entry.artifact_type.as_deref() != Some(ARTIFACT_TYPE) {
            continue;
        }
        let read = |digest: &Digest| directory.read(digest, DOCUMENT_MAX).ok();
        let manifest =
            read(&entry.digest).and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
        let Some(manifest) = manifest else { continue };
        let document = read(&manifest.config.digest)
            .and_then(|bytes| serde_json::from_slice::<Document>(&bytes).ok());
        let Some(document) = document.filter(|d| d.version == DOCUMENT_VERSION) else { continue };
        for (facts, blob) in document.chunks.iter().zip(&manifest.layers) {
            known.insert(facts.digest, (blob.size, blob.digest));
        }
    }
    known
}

/// One of the two streams.
struct Stream {
    media_type: &'static str,
    chunker: Chunker,
    done: Vec<(ChunkFacts, Descriptor)>,
}

impl Stream {
    fn new(media_type: &'static str) -> Self {
        Self { media_type, chunker: Chunker::default(), done: Vec::new() }
    }
}

const LISTING: usize = 0;
const CONTENTS: usize = 1;

/// Cuts the streams and writes the chunks.
struct Writer<'f> {
    directory: &'f mut LayoutDirectory,
    known: BTreeMap<Digest, (u64, Digest)>,
    streams: [Stream; 2],
    /// Chunks that are complete, and whose they are.
    batch: Vec<(usize, Vec<u8>)>,
    batch_bytes: usize,
    new_chunks: u64,
    /// What stopped the walk, which has no words for it.
    failure: Option<ExportError>,
}

impl SplitSink for Writer<'_> {
    fn listing(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.push(LISTING, bytes)
    }

    fn contents(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.push(CONTENTS, bytes)
    }
}

impl Writer<'_> {
    fn push(&mut self, stream: usize, bytes: &[u8]) -> Result<(), LayerError> {
        let Self { streams, batch, batch_bytes, .. } = self;
        let Ok(()) = streams[stream].chunker.push(bytes, |chunk| {
            *batch_bytes += chunk.len();
            batch.push((stream, chunk));
            Ok::<(), std::convert::Infallible>(())
        });
        if self.batch_bytes >= BATCH {
            self.write().map_err(|failure| {
                self.failure = Some(failure);
                LayerError::Closed
            })?;
        }
        Ok(())
    }

    /// Writes what is left of both streams.
    fn end(&mut self) -> Result<(), ExportError> {
        for stream in [LISTING, CONTENTS] {
            let rest = std::mem::take(&mut self.streams[stream].chunker).finish();
            self.batch.extend(rest.map(|chunk| (stream, chunk)));
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), ExportError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let digests: Vec<_> = batch.par_iter().map(|(_, chunk)| Digest::of(chunk)).collect();
        let found: Vec<_> = digests.iter().map(|digest| self.find(digest)).collect();
        let compressed: Vec<_> = batch
            .par_iter()
            .zip(&found)
            .map(|((_, chunk), found)| match found {
                Some(_) => Ok(Vec::new()),
                None => zstd::bulk::compress(chunk, LEVEL),
            })
            .collect::<io::Result<_>>()
            .map_err(|source| LayerError::Output { what: "chunk", source })?;
        for (place, (stream, chunk)) in batch.iter().enumerate() {
            let facts = ChunkFacts { digest: digests[place], size: chunk.len() as u64 };
            let media_type = self.streams[*stream].media_type;
            // An equal one may have come just before.
            let blob = match found[place].or_else(|| self.known.get(&facts.digest).copied()) {
                Some((size, digest)) => Descriptor::new(media_type, digest, size),
                None => {
                    let blob = self.directory.put(&compressed[place], media_type)?;
                    self.known.insert(facts.digest, (blob.size, blob.digest));
                    self.new_chunks += 1;
                    blob
                }
            };
            self.streams[*stream].done.push((facts, blob));
        }
        Ok(())
    }

    /// Finds a chunk in the layout. It is read, since a damaged one would be kept for ever
    /// otherwise.
    fn find(&mut self, digest: &Digest) -> Option<(u64, Digest)> {
        let (size, blob) = *self.known.get(digest)?;
        let bytes = self.directory.read(&blob, size.min(compressed_max())).unwrap_or_default();
        if bytes.len() as u64 == size && Digest::of(&bytes) == blob {
            return Some((size, blob));
        }
        self.known.remove(digest);
        None
    }
}
