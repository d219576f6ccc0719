//! Unpacked layers: each once, immutable, shared by every image and build that uses it.

use super::{ContentId, IoContext as _, LayerId, Store, StoreError, StorePart};
use crate::oci::Digest;
use crate::sys::fault;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The format of `meta.json`: of a layer that stands by itself, and of any that this program reads.
const META_VERSION: u32 = 1;
const META_VERSION_MAX: u32 = StorePart::Layers.version();

/// The name of a layer's [listing](crate::layer::Listing) in its directory, where it has one.
pub const LISTING: &str = "listing";

/// What is known of a layer: `layers/<id>/meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerMeta {
    /// The format of this document.
    pub version: u32,
    /// The hash of its entries with times; the directory's name.
    pub id: LayerId,
    /// The hash of its entries without times.
    pub content: ContentId,
    /// How many entries its tar has, whiteouts included.
    pub entries: u64,
    /// The bytes of its regular files.
    pub bytes: u64,
    /// Its tar's facts, once they were needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<TarFacts>,
    /// The blobs that hold it, compressed or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<LayerBlob>,
    /// The layer that its directory only says the difference to, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<DeltaBase>,
}

/// Base of a layer that is stored as a delta: its files are those of the base, and over them those
/// of its own directory. It hides nothing of the base, and the base is complete without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaBase {
    /// The other layer.
    pub layer: LayerId,
    /// The bytes of the regular files in the directory itself.
    pub own_bytes: u64,
}

impl LayerMeta {
    /// Describes a layer of which nothing but its entries is known.
    pub fn new(id: LayerId, content: ContentId, entries: u64, bytes: u64) -> Self {
        Self {
            version: META_VERSION,
            id,
            content,
            entries,
            bytes,
            tar: None,
            blobs: Vec::new(),
            under: None,
        }
    }

    /// Says that the layer's directory holds only its difference to another. Programs that know
    /// nothing of this take it for absent.
    #[must_use]
    pub fn over(mut self, under: DeltaBase) -> Self {
        self.version = META_VERSION_MAX;
        self.under = Some(under);
        self
    }

    /// The bytes of the regular files in its own directory.
    pub fn own_bytes(&self) -> u64 {
        self.under.map_or(self.bytes, |under| under.own_bytes)
    }
}

/// The uncompressed tar of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarFacts {
    /// The sha256 of the tar.
    pub diff_id: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A blob of the store that holds a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// How it was made, as `gzip:6`, `zstd:3`, `uncompressed`; or `received` for a base's own blob.
    pub compression: String,
    /// The sha256 of the stored bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// The media type a manifest gives it.
    pub media_type: String,
    /// The `diff_id` of its tar, where that is not the one of [`LayerMeta::tar`]: times were
    /// rewritten, or eStargz has added its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// What its descriptor is annotated with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A layer of the store.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its identity.
    pub id: LayerId,
    /// Its directory: `fs/` and `meta.json`; still under `tmp/` where a layer of the same identity
    /// was there first and ours is in use.
    pub dir: PathBuf,
    /// What is known of it.
    pub meta: LayerMeta,
}

impl Layer {
    /// Returns its own directory. That is the whole layer unless [`LayerMeta::under`] names
    /// another.
    pub fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// Returns the directories that overlays take as lowers, the bottom first.
    pub fn directories(&self) -> Vec<PathBuf> {
        let under =
            self.meta.under.map(|under| self.dir.with_file_name(under.layer.to_hex()).join("fs"));
        under.into_iter().chain([self.fs()]).collect()
    }
}

impl Store {
    /// Returns the directory that holds the layer's files.
    pub fn layer_fs(&self, id: &LayerId) -> PathBuf {
        self.layer_dir(id).join("fs")
    }

    fn layer_dir(&self, id: &LayerId) -> PathBuf {
        self.place(StorePart::Layers).join(id.to_hex())
    }

    /// Reads a layer's facts and holds it, so that it stays while this store is open; `None` where
    /// it is not here, or is damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn layer(&self, id: &LayerId) -> Result<Option<Layer>, StoreError> {
        if !self.lease(&self.layer_dir(id))? {
            return Ok(None);
        }
        let Some(layer) = self.peek_layer(id)? else { return Ok(None) };
        match layer.meta.under {
            Some(under) if !self.lease(&self.layer_dir(&under.layer))? => Ok(None),
            _ => Ok(Some(layer)),
        }
    }

    /// Reads a layer's facts as [`layer`](Self::layer) does, for those who will not use it: it may
    /// be gone the next moment, and does not count as used.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn peek_layer(&self, id: &LayerId) -> Result<Option<Layer>, StoreError> {
        let dir = self.layer_dir(id);
        let path = dir.join("meta.json");
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice::<LayerMeta>(&bytes)
                .ok()
                .filter(|meta| meta.id == *id && meta.version <= META_VERSION_MAX)
                .map(|meta| Layer { id: *id, dir, meta })),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(e) => Err(e).context("read", &path),
        }
    }

    /// Makes a finished layer visible: `work`, a directory of this session that holds `fs/`, is
    /// renamed to `layers/<id>`.
    ///
    /// Where a layer of that identity exists, it wins, and `work` stays to the end of the session,
    /// since a mount may be using it. What the existing one knows of its tar and blobs is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`], for example on a full disk.
    pub fn add_layer(&self, work: &Path, meta: &LayerMeta) -> Result<Layer, StoreError> {
        if let Some(existing) = self.layer(&meta.id)? {
            return Ok(existing);
        }
        let path = work.join("meta.json");
        let json = serde_json::to_vec(meta).expect("layer facts are plain data");
        fs::write(&path, json).context("write", &path)?;
        self.session()?.pend(&format!("layer-{}", meta.id.to_hex()))?;
        let dir = self.layer_dir(&meta.id);
        self.lease_as(File::open(work).context("open", work)?, &dir)?;
        fault::at("layer.described").context("write", &dir)?;
        match fs::rename(work, &dir) {
            Ok(()) => {
                fault::at("layer.renamed").context("write", &dir)?;
                Ok(Layer { id: meta.id, dir, meta: meta.clone() })
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {
                self.release(&dir);
                match self.layer(&meta.id)? {
                    Some(existing) => Ok(existing),
                    None => self.replace_damaged(work, &dir, meta),
                }
            }
            Err(e) => Err(e).context("rename", &dir),
        }
    }

    /// Puts a sound layer where one without readable facts stands; that one is set aside.
    fn replace_damaged(
        &self,
        work: &Path,
        dir: &Path,
        meta: &LayerMeta,
    ) -> Result<Layer, StoreError> {
        let aside = self.session()?.new_path()?;
        fs::rename(dir, &aside).context("set aside", dir)?;
        self.lease_as(File::open(work).context("open", work)?, dir)?;
        fs::rename(work, dir).context("rename", dir)?;
        Ok(Layer { id: meta.id, dir: dir.to_owned(), meta: meta.clone() })
    }

    /// Notes what was learnt of a layer: its tar's facts, a blob made of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the older facts stay then.
    pub fn update_layer(&self, meta: &LayerMeta) -> Result<(), StoreError> {
        let json = serde_json::to_vec(meta).expect("layer facts are plain data");
        self.write_file(&StorePart::Layers.entry(meta.id.to_hex()).join("meta.json"), &json)
    }

    /// Returns what is known of tars with this `diff_id`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn diff(&self, diff_id: &Digest) -> Result<Diff, StoreError> {
        match self.read_file(&diff_path(diff_id))? {
            Some(bytes) if bytes == BORROWS => Ok(Diff::Borrows),
            Some(bytes) => Ok(self.named_layer(&bytes)?.map_or(Diff::Unknown, Diff::Layer)),
            None => Ok(Diff::Unknown),
        }
    }

    /// Returns the layer that a tar of this `diff_id` was unpacked to over the layers `below`, the
    /// bottom first, if it is still here.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] for anything but absence.
    pub fn layer_of_diff(
        &self,
        diff_id: &Digest,
        below: &[LayerId],
    ) -> Result<Option<Layer>, StoreError> {
        match self.diff(diff_id)? {
            Diff::Layer(layer) => Ok(Some(layer)),
            Diff::Unknown => Ok(None),
            Diff::Borrows => match self.read_file(&diff_over_path(diff_id, below))? {
                Some(bytes) => self.named_layer(&bytes),
                None => Ok(None),
            },
        }
    }

    /// Notes which layer a tar of this `diff_id` was unpacked to, whatever is below it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn set_layer_of_diff(&self, diff_id: &Digest, id: &LayerId) -> Result<(), StoreError> {
        self.write_file(&diff_path(diff_id), format!("{id}\n").as_bytes())
    }

    /// Notes which layer a tar of this `diff_id` was unpacked to over the layers `below`, the
    /// bottom first, and that other layers below would have made another one of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn set_layer_of_diff_over(
        &self,
        diff_id: &Digest,
        below: &[LayerId],
        id: &LayerId,
    ) -> Result<(), StoreError> {
        self.write_file(&diff_over_path(diff_id, below), format!("{id}\n").as_bytes())?;
        self.write_file(&diff_path(diff_id), BORROWS)
    }

    fn named_layer(&self, line: &[u8]) -> Result<Option<Layer>, StoreError> {
        match std::str::from_utf8(line).ok().and_then(|text| text.trim_end().parse().ok()) {
            Some(id) => self.layer(&id),
            None => Ok(None),
        }
    }
}

/// What is known of the tars with one `diff_id`.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "few are made, and soon taken apart")]
pub enum Diff {
    /// Nothing.
    Unknown,
    /// They were unpacked to this layer.
    Layer(Layer),
    /// They use directories or files of the layers below without describing them, so each stack
    /// below makes another layer of them: see [`Store::layer_of_diff`].
    Borrows,
}

/// What stands in the file of a `diff_id` whose layer depends on what is below.
const BORROWS: &[u8] = b"borrows\n";

fn diff_path(diff_id: &Digest) -> PathBuf {
    StorePart::Diffs.entry(diff_id.to_hex())
}

fn diff_over_path(diff_id: &Digest, below: &[LayerId]) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    for id in below {
        hasher.update(id.as_bytes());
    }
    StorePart::Diffs.entry(format!("{}-{}", diff_id.to_hex(), hasher.finalize().to_hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_equal_layers_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let meta =
            LayerMeta::new(LayerId::from_bytes([7; 32]), ContentId::from_bytes([8; 32]), 1, 3);
        for text in ["one", "two"] {
            let work = store.session().unwrap().new_work().unwrap();
            fs::create_dir(work.join("fs")).unwrap();
            fs::write(work.join("fs/f"), text).unwrap();
            let layer = store.add_layer(&work, &meta).unwrap();
            assert_eq!(fs::read_to_string(layer.fs().join("f")).unwrap(), "one");
        }
        assert_eq!(store.layer(&meta.id).unwrap().unwrap().meta, meta);
    }

    #[test]
    fn a_layer_without_readable_facts_is_absent_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let meta =
            LayerMeta::new(LayerId::from_bytes([7; 32]), ContentId::from_bytes([8; 32]), 0, 0);
        let make = || {
            let work = store.session().unwrap().new_work().unwrap();
            fs::create_dir(work.join("fs")).unwrap();
            store.add_layer(&work, &meta).unwrap()
        };
        let layer = make();
        fs::write(layer.dir.join("meta.json"), "").unwrap();
        assert!(store.layer(&meta.id).unwrap().is_none());
        make();
        assert!(store.layer(&meta.id).unwrap().is_some());
    }
}
