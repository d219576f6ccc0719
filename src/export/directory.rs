//! A directory that is an OCI layout of what builds leave for each other: caches, cache mounts.
//!
//! Blobs that are there already are not written again, and when the new `index.json` is in place,
//! blobs that only an older export needed are removed, so the directory does not grow with every
//! build. A layout that holds anything else keeps all its blobs. Exports into one directory wait
//! for each other.

use super::ExportError;
use super::dest::{DestFile, write_whole};
use crate::image::LayoutSource;
use crate::oci::{Descriptor, Digest, Index, Manifest, annotation::REF_NAME, canonical_json};
use crate::store::{DOCUMENT_MAX, Key};
use crate::sys::cancel::Cancel;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

/// What all artifacts of ours begin their type with.
const OURS: &str = "application/vnd.builder.";

/// A layout that is being added to. No other process adds to it at the same time.
#[derive(Debug)]
pub struct LayoutDirectory {
    dir: PathBuf,
    index: Index,
    written: u64,
    cancel: Cancel,
    _lock: File,
}

/// Interval at which a waiting export looks at the lock and at the cancel flag.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl LayoutDirectory {
    /// Opens the layout at `dir`, making it where there is none. `waiting` is called once, before
    /// blocking, where another process adds to it.
    ///
    /// # Errors
    ///
    /// [`ExportError::Io`] where the directory cannot be made; [`ExportError::Cancelled`].
    pub fn open(
        dir: &std::path::Path,
        cancel: &Cancel,
        waiting: impl FnOnce(),
    ) -> Result<Self, ExportError> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|e| ExportError::io("create", &blobs, e))?;
        let failed = |e| ExportError::io("lock", &blobs, e);
        let lock = File::open(&blobs).map_err(failed)?;
        let mut waiting = Some(waiting);
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(failed(e)),
                Err(TryLockError::WouldBlock) if cancel.is_cancelled() => {
                    return Err(ExportError::Cancelled);
                }
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
        }
        // What is there and is not an index is replaced: it cannot be used.
        let index =
            LayoutSource { dir: dir.to_owned() }.index().unwrap_or_else(|_| Index::new(Vec::new()));
        let cancel = cancel.clone();
        Ok(Self { dir: dir.to_owned(), index, written: 0, cancel, _lock: lock })
    }

    /// Returns the entries that there are.
    pub fn entries(&self) -> &[Descriptor] {
        &self.index.manifests
    }

    /// Returns how many bytes of blobs were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns where a blob is, or would be.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.to_hex())
    }

    /// Reads a blob of at most `max` bytes, without a check of its digest.
    ///
    /// # Errors
    ///
    /// What the kernel says; `FileTooLarge`; `InvalidInput` for anything but a regular file.
    pub fn read(&self, digest: &Digest, max: u64) -> io::Result<Vec<u8>> {
        LayoutSource { dir: self.dir.clone() }.read_file(digest, max)
    }

    /// Says whether a blob is there, by its size.
    pub fn has(&self, blob: &Descriptor) -> bool {
        fs::symlink_metadata(self.blob(&blob.digest))
            .is_ok_and(|facts| facts.is_file() && facts.len() == blob.size)
    }

    /// Writes a blob, unless it is there.
    ///
    /// # Errors
    ///
    /// [`ExportError::Io`], [`ExportError::Cancelled`]; nothing half-written is left then.
    pub fn add(&mut self, blob: &Descriptor, from: &mut File) -> Result<(), ExportError> {
        if self.has(blob) {
            return Ok(());
        }
        let path = self.blob(&blob.digest);
        let mut to = DestFile::create(&path)?;
        self.cancel.copy(from, to.file()).map_err(|e| match self.cancel.is_cancelled() {
            true => ExportError::Cancelled,
            false => ExportError::io("write", &path, e),
        })?;
        to.finish()?;
        self.written += blob.size;
        Ok(())
    }

    /// Writes a blob, whatever is in its place.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn put(&mut self, bytes: &[u8], media_type: &str) -> Result<Descriptor, ExportError> {
        let blob = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
        let path = self.blob(&blob.digest);
        let mut to = DestFile::create(&path)?;
        to.file().write_all(bytes).map_err(|e| ExportError::io("write", &path, e))?;
        to.finish()?;
        self.written += blob.size;
        Ok(blob)
    }

    /// Names a manifest, which takes the place of the one that had that name.
    ///
    /// # Errors
    ///
    /// [`ExportError::Io`]; the layout is as it was then, with some blobs more.
    pub fn name(&mut self, mut manifest: Descriptor, tag: &str) -> Result<(), ExportError> {
        manifest.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        self.index
            .manifests
            .retain(|entry| entry.annotations.get(REF_NAME).is_none_or(|t| t != tag));
        self.index.manifests.push(manifest);
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        write_whole(&self.dir.join("oci-layout"), layout)?;
        write_whole(&self.dir.join("index.json"), &canonical_json(&self.index))
    }

    /// Removes the blobs that nothing needs any more. Failing leaves a larger directory, nothing
    /// else.
    pub fn sweep(&self) {
        let Some(needed) = self.needed() else { return };
        let Ok(blobs) = fs::read_dir(self.dir.join("blobs/sha256")) else { return };
        for blob in blobs.filter_map(Result::ok) {
            let name = blob.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| hex.parse::<Key>().ok())
                .map(|key| Digest::from_bytes(*key.as_bytes()));
            if digest.is_some_and(|digest| !needed.contains(&digest)) {
                let _ = fs::remove_file(blob.path());
            }
        }
    }

    /// The blobs that the entries lead to; `None` if that is unknown.
    fn needed(&self) -> Option<BTreeSet<Digest>> {
        let mut needed = BTreeSet::new();
        for entry in &self.index.manifests {
            if !entry.artifact_type.as_ref().is_some_and(|of| of.starts_with(OURS)) {
                return None;
            }
            let bytes = self.read(&entry.digest, DOCUMENT_MAX).ok()?;
            let manifest = serde_json::from_slice::<Manifest>(&bytes).ok()?;
            needed.insert(entry.digest);
            needed.insert(manifest.config.digest);
            needed.extend(manifest.layers.iter().map(|layer| layer.digest));
        }
        Some(needed)
    }
}
