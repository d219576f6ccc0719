//! Images as OCI layouts and Docker archives, in one file or a directory.
//!
//! Both are the same layout: `oci-layout`, `index.json`, `blobs/sha256/`. A Docker archive has a
//! `manifest.json` besides, which `docker load` and other readers of that format go by.
//!
//! Source: OCI image specification 1.1, "image-layout.md"; Docker image specification 1.3,
//! "Combined Image JSON + Filesystem Changeset Format".

use super::dest::DestFile;
use super::{Dest, ExportError, Form, OutputSpec, Packed, PackedProduct, load, to_dest};
use crate::image::Closure;
use crate::oci::{
    Descriptor, Digest, Index, Reference,
    annotation::{CONTAINERD_NAME, CREATED, REF_NAME},
    canonical_json,
};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::Path;

/// How much is copied between two looks at the cancel token, in bytes.
const PIECE: u64 = 16 << 20;

/// Bytes of a tar's block.
const BLOCK: u64 = 512;

/// Sizes above this do not fit the eleven octal digits of a ustar header.
const USTAR_SIZE_MAX: u64 = 0o777_7777_7777;

/// What an archive holds of an image: its documents and blobs are in the store.
#[derive(Debug)]
pub(super) struct ArchiveEntry<'a> {
    /// How the index lists it, apart from names.
    pub(super) listed: Descriptor,
    /// The names it has.
    pub(super) names: &'a [Reference],
    /// All that is to be there of it.
    pub(super) blobs: Vec<&'a Descriptor>,
    /// Its config and layers, as Docker's `manifest.json` wants them.
    pub(super) parts: Option<(&'a Descriptor, &'a [Descriptor])>,
}

impl<'a> ArchiveEntry<'a> {
    /// An image that was packed.
    pub(super) fn of_packed(packed: &'a Packed, names: &'a [Reference]) -> Self {
        let mut listed = packed.listed();
        if let Some(created) = &packed.created {
            listed.annotations.insert(CREATED.to_owned(), created.clone());
        }
        let blobs = packed.layers.iter().chain([&packed.config, &packed.manifest]).collect();
        Self { listed, names, blobs, parts: Some((&packed.config, &packed.layers)) }
    }

    /// An index of images that were packed.
    pub(super) fn of_index(packed: &'a PackedProduct, names: &'a [Reference]) -> Self {
        let of_image = |one: &'a Packed| one.layers.iter().chain([&one.config, &one.manifest]);
        let blobs = packed.images.iter().flat_map(of_image).chain(&packed.index).collect();
        let preferred = packed.preferred();
        let parts = Some((&preferred.config, &*preferred.layers));
        Self { listed: packed.listed(), names, blobs, parts }
    }

    /// An image as it is: an index with all it names, say. What may not be distributed is left out.
    pub(super) fn of_whole(whole: &'a Closure, listed: Descriptor, names: &'a [Reference]) -> Self {
        let blobs = whole.documents.iter().chain(whole.distributable()).collect();
        Self { listed, names, blobs, parts: None }
    }
}

/// An archive in the making.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    pub(super) store: &'a Store,
    pub(super) entries: Vec<ArchiveEntry<'a>>,
    /// What the index lists besides, and is there already.
    pub(super) kept: Vec<Descriptor>,
    /// Whether to add Docker's `manifest.json`.
    pub(super) is_docker: bool,
    pub(super) index_annotations: &'a BTreeMap<String, String>,
    pub(super) cancel: &'a Cancel,
}

impl Archive<'_> {
    /// Lists the blobs, each once, in the order of their digests.
    fn blobs(&self) -> BTreeMap<Digest, u64> {
        let mut blobs = BTreeMap::new();
        for d in self.entries.iter().flat_map(|entry| &entry.blobs) {
            blobs.insert(d.digest, d.size);
        }
        blobs
    }

    fn index(&self) -> Vec<u8> {
        let mut entries = self.kept.clone();
        for ArchiveEntry { listed, names, .. } in &self.entries {
            if names.is_empty() {
                entries.push(listed.clone());
            }
            for name in *names {
                let mut entry = listed.clone();
                entry.annotations.insert(CONTAINERD_NAME.to_owned(), name.to_string());
                if let Some(tag) = name.tag() {
                    let tag = tag.to_owned();
                    entry.annotations.entry(REF_NAME.to_owned()).or_insert(tag);
                }
                entries.push(entry);
            }
        }
        let mut index = Index::new(entries);
        index.annotations.clone_from(self.index_annotations);
        canonical_json(&index)
    }

    fn docker_manifest(&self) -> Vec<u8> {
        let path = |d: &Descriptor| format!("blobs/sha256/{}", d.digest.to_hex());
        let entries: Vec<_> = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry.parts?, entry.names)))
            .map(|((config, layers), names)| {
                json!({
                    "Config": path(config),
                    "Layers": layers.iter().map(path).collect::<Vec<_>>(),
                    "RepoTags": match names.is_empty() {
                        true => serde_json::Value::Null,
                        false => json!(names.iter().map(Reference::familiar).collect::<Vec<_>>()),
                    },
                })
            })
            .collect();
        canonical_json(&entries)
    }

    /// Returns the small files beside the blobs, in the order of their names.
    fn documents(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut documents = vec![("index.json", self.index())];
        if self.is_docker {
            documents.push(("manifest.json", self.docker_manifest()));
        }
        documents.push(("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        documents
    }

    fn open(&self, digest: &Digest, size: u64) -> Result<File, ExportError> {
        let file = self.store.open_blob(digest)?;
        let path = self.store.blob_path(digest);
        let actual = file.metadata().map_err(|e| ExportError::io("read", &path, e))?.len();
        if actual == size {
            Ok(file)
        } else {
            Err(ExportError::BlobSize { digest: *digest, expected: size, actual })
        }
    }

    /// Writes the archive to where an output goes.
    pub(super) fn write(
        &self,
        spec: &OutputSpec,
        stdout: &mut dyn Write,
    ) -> Result<(), ExportError> {
        match (&spec.dest, spec.form) {
            (Some(Dest::Path(dir)), Form::Dir) => self.write_dir(dir),
            (None, _) => load::load(|path, mut out| self.write_tar(path, &mut out)),
            _ => to_dest(spec, stdout, |path, mut out| self.write_tar(path, &mut out)),
        }
    }

    /// Writes the archive as a tar: entries in the order of their names, all times 0, so that the
    /// same images give the same bytes.
    fn write_tar(&self, path: &Path, out: &mut TarSink<'_>) -> Result<(), ExportError> {
        let write = |e: io::Error| ExportError::io("write", path, e);
        for directory in ["blobs/", "blobs/sha256/"] {
            out.bytes(&header(directory, 0, tar::EntryType::Directory)).map_err(write)?;
        }
        for (digest, size) in self.blobs() {
            let name = format!("blobs/sha256/{}", digest.to_hex());
            let blob = self.open(&digest, size)?;
            out.bytes(&header(&name, size, tar::EntryType::Regular)).map_err(write)?;
            let mut left = size;
            while left > 0 {
                if self.cancel.is_cancelled() {
                    return Err(ExportError::Cancelled);
                }
                let copied = out.file(&blob, left.min(PIECE)).map_err(write)?;
                if copied == 0 {
                    return Err(ExportError::BlobSize {
                        digest,
                        expected: size,
                        actual: size - left,
                    });
                }
                left -= copied;
            }
            out.bytes(&padding(size)).map_err(write)?;
        }
        for (name, bytes) in self.documents() {
            let size = bytes.len() as u64;
            out.bytes(&header(name, size, tar::EntryType::Regular)).map_err(write)?;
            out.bytes(&bytes).map_err(write)?;
            out.bytes(&padding(size)).map_err(write)?;
        }
        out.bytes(&[0; 2 * BLOCK as usize]).map_err(write)
    }

    /// Writes the archive as a directory. Blobs appear one by one, each whole; `index.json`, which
    /// names them, comes last.
    fn write_dir(&self, dir: &Path) -> Result<(), ExportError> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|e| ExportError::io("create", &blobs, e))?;
        for (digest, size) in self.blobs() {
            let path = blobs.join(digest.to_hex());
            if fs::metadata(&path).is_ok_and(|m| m.len() == size) {
                continue;
            }
            let failed = |e: io::Error| match self.cancel.is_cancelled() {
                true => ExportError::Cancelled,
                false => ExportError::io("write", &path, e),
            };
            let mut blob = self.open(&digest, size)?;
            let mut dest = DestFile::create(&path)?;
            self.cancel.copy(&mut blob, dest.file()).map_err(failed)?;
            dest.finish()?;
        }
        for (name, bytes) in self.documents().iter().rev() {
            super::dest::write_whole(&dir.join(name), bytes)?;
        }
        Ok(())
    }
}

fn header(name: &str, size: u64, kind: tar::EntryType) -> [u8; BLOCK as usize] {
    let mut header =
        if size > USTAR_SIZE_MAX { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
    header.set_path(name).expect("our names are short and plain");
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    *header.as_bytes()
}

fn padding(size: u64) -> Vec<u8> {
    vec![0; (size.next_multiple_of(BLOCK) - size) as usize]
}

/// Takes a tar: a file, into which the kernel copies blobs itself, or any writer.
pub(super) enum TarSink<'a> {
    File(&'a mut File),
    Other(&'a mut dyn Write),
}

impl TarSink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Other(writer) => writer.write_all(bytes),
        }
    }

    fn file(&mut self, blob: &File, size: u64) -> io::Result<u64> {
        // `io::copy` from file to file becomes copy_file_range.
        match self {
            Self::File(file) => io::copy(&mut blob.take(size), *file),
            Self::Other(writer) => io::copy(&mut blob.take(size), writer),
        }
    }
}
