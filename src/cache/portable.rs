//! Records that travel: what `--cache-to` writes and `--cache-from` reads.
//!
//! An exported cache is an artifact of an OCI layout, so whatever copies images copies it:
//!
//! ```text
//! index.json               one entry, tagged `latest` or as the user says
//! manifest                 artifactType [`ARTIFACT_TYPE`]
//! ├─ config                a [`Document`]: records, each with the layer it made
//! └─ layers                the layers' tars, compressed
//! ```
//!
//! # Trust
//!
//! Nothing of it is believed. A record counts if its key is the hash of its inputs, a layer if its
//! tar has the promised `diff_id` and its files the promised content id. Whatever does not verify,
//! or is of another version, is a miss and a warning.
//!
//! # What is brought here, and when
//!
//! Opening a cache reads the document only. A layer is brought here when a step is about to hit its
//! record, which is then filed as if the step had run here: with the time and cost of the build
//! that ran it, so the resulting image is the same image. Only the name of the layer differs: a tar
//! has whole seconds, and the name counts nanoseconds.

use super::{Cache, CacheError, Output, Record, TreeEntry, TreeId};
use crate::image::{BlobSource, ImageError, unpack_tar};
use crate::oci::{Descriptor, Digest, Index, Manifest, annotation::REF_NAME};
use crate::store::{ChainId, Key, Store};
use crate::sys::cancel::Cancel;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};

/// What an exported cache's manifest says it is.
pub const ARTIFACT_TYPE: &str = "application/vnd.builder.cache.v1";

/// The media type of the document.
pub const DOCUMENT_TYPE: &str = "application/vnd.builder.cache.document.v1+json";

/// The format of the document.
pub const DOCUMENT_VERSION: u32 = 1;

/// The largest document that is read, in bytes: records of some ten thousand steps with their
/// listings.
const DOCUMENT_MAX: u64 = 256 << 20;

/// The records of an exported cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The format.
    pub version: u32,
    /// The records.
    pub records: Vec<Portable>,
    /// The listings that their inputs name, for `explain`.
    #[serde(default)]
    pub listings: Vec<(TreeId, Vec<TreeEntry>)>,
}

/// A record and where its layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portable {
    /// The record.
    pub record: Record,
    /// The place of its layer in the manifest.
    pub layer: usize,
    /// The `diff_id` of that.
    pub diff_id: Digest,
    /// The definition of a step that reads files of other steps or images: how they come about,
    /// instead of what they are. See `solve::ahead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Key>,
}

/// Why an exported cache, or a part of it, is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// No cache of that name is there.
    #[error("no cache tagged `{tag}` in {name}")]
    NoCache {
        /// The tag.
        tag: String,
        /// The place.
        name: String,
    },
    /// The document cannot be read.
    #[error("its list of records is damaged: {what}")]
    BadDocument {
        /// In which way.
        what: String,
    },
    /// The document is of another format.
    #[error("its format is {found}, and this program reads {DOCUMENT_VERSION}")]
    OtherVersion {
        /// Its format.
        found: u32,
    },
    /// A blob is damaged.
    #[error("{digest} is damaged: its bytes hash to {actual}")]
    Damaged {
        /// Its name.
        digest: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A layer has other files than its record says.
    #[error("layer {digest} has other files than its record says")]
    OtherContent {
        /// The layer's blob.
        digest: Digest,
    },
    /// It cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What came cannot be kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// An exported cache, opened for hits.
pub struct Import {
    source: Box<dyn BlobSource + Send>,
    layers: Vec<Descriptor>,
    records: BTreeMap<Key, BTreeMap<ChainId, Portable>>,
    /// The keys of records by their definitions, in the order of the document.
    definitions: BTreeMap<Key, Vec<Key>>,
    listings: BTreeMap<TreeId, Vec<TreeEntry>>,
    /// Records that turned out to be of no use.
    refused: Mutex<Vec<(Key, ChainId)>>,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("name", &self.source.name()).finish_non_exhaustive()
    }
}

impl Import {
    /// Reads the records of the cache that `index`, the source's, has under `tag`.
    ///
    /// # Errors
    ///
    /// [`ImportError`]: there is none, it is damaged, it is of another version.
    pub fn open(
        source: Box<dyn BlobSource + Send>,
        index: &Index,
        tag: &str,
    ) -> Result<Self, ImportError> {
        let none = || ImportError::NoCache { tag: tag.to_owned(), name: source.name() };
        // Tools that copy a cache may leave what it is out of the entry; its manifest says it then.
        let is_cache = |artifact_type: &Option<String>| {
            artifact_type.as_deref().is_none_or(|name| name == ARTIFACT_TYPE)
        };
        let found = index.manifests.iter().find(|entry| {
            entry.annotations.get(REF_NAME).is_some_and(|name| name == tag)
                && is_cache(&entry.artifact_type)
        });
        let found = found.ok_or_else(none)?;
        let bytes = read(&*source, found)?;
        let bad = |e: serde_json::Error| ImportError::BadDocument { what: e.to_string() };
        let manifest = serde_json::from_slice::<Manifest>(&bytes).map_err(bad)?;
        if manifest.artifact_type.as_deref() != Some(ARTIFACT_TYPE) {
            return Err(none());
        }
        let bytes = read(&*source, &manifest.config)?;
        let version = serde_json::from_slice::<Version>(&bytes).map_err(bad)?.version;
        if version != DOCUMENT_VERSION {
            return Err(ImportError::OtherVersion { found: version });
        }
        let document = serde_json::from_slice::<Document>(&bytes).map_err(bad)?;
        let mut records: BTreeMap<Key, BTreeMap<ChainId, Portable>> = BTreeMap::new();
        let mut definitions: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
        for portable in document.records {
            let record = &portable.record;
            let is_sound = record.is_current()
                && record.inputs.key() == record.key
                && portable.layer < manifest.layers.len();
            if is_sound {
                if let Some(definition) = portable.definition {
                    definitions.entry(definition).or_default().push(record.key);
                }
                records.entry(record.key).or_default().insert(record.parent, portable);
            }
        }
        let listings = document.listings.into_iter().collect();
        let refused = Mutex::default();
        Ok(Self { source, layers: manifest.layers, records, definitions, listings, refused })
    }

    /// Returns what the cache is called in messages.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Says whether a record of `key` exists on any parent.
    pub fn knows(&self, key: &Key) -> bool {
        self.records.contains_key(key)
    }

    /// Says whether there is a record that may be brought here.
    pub fn has(&self, key: &Key, parent: &ChainId) -> bool {
        self.records.get(key).is_some_and(|records| records.contains_key(parent))
            && !self.refused().contains(&(*key, *parent))
    }

    /// Returns a record that may be brought here.
    pub fn record(&self, key: &Key, parent: &ChainId) -> Option<&Record> {
        let portable = self.records.get(key)?.get(parent)?;
        (!self.refused().contains(&(*key, *parent))).then_some(&portable.record)
    }

    /// Says whether records are known by definitions.
    pub fn has_definitions(&self) -> bool {
        !self.definitions.is_empty()
    }

    /// Returns the keys that a definition was found to have.
    pub fn defined(&self, definition: &Key) -> impl Iterator<Item = Key> {
        self.definitions.get(definition).into_iter().flatten().copied()
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Vec<(Key, ChainId)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the layer of a record here and files the record.
    ///
    /// # Errors
    ///
    /// [`ImportError`]; the record is not tried again then.
    pub fn bring(
        &self,
        store: &Store,
        key: &Key,
        parent: &ChainId,
        cancel: &Cancel,
    ) -> Result<(), ImportError> {
        let brought = self.try_bring(store, key, parent, cancel);
        if brought.is_err() {
            self.refused().push((*key, *parent));
        }
        brought
    }

    fn try_bring(
        &self,
        store: &Store,
        key: &Key,
        parent: &ChainId,
        cancel: &Cancel,
    ) -> Result<(), ImportError> {
        let Some(portable) = self.records.get(key).and_then(|records| records.get(parent)) else {
            return Ok(());
        };
        let blob = &self.layers[portable.layer];
        let layer = unpack_tar(store, &*self.source, blob, &portable.diff_id, cancel)?;
        if layer.meta.content != portable.record.output.content {
            return Err(ImportError::OtherContent { digest: blob.digest });
        }
        let cache = Cache::new(store.clone());
        let mut record = portable.record.clone();
        record.output = Output { layer: layer.id, ..record.output };
        for input in &record.inputs {
            if let super::Value::Tree(id) = &input.value
                && let Some(listing) = self.listings.get(id)
            {
                cache.keep_tree(id, listing.iter().cloned())?;
            }
        }
        cache.intern(&record.output.on(parent), &layer.id, record.finished, parent)?;
        cache.file(&record)?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a document and checks its digest.
fn read(source: &dyn BlobSource, blob: &Descriptor) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    let unread = |e: std::io::Error| ImportError::BadDocument { what: e.to_string() };
    source.open(blob)?.take(DOCUMENT_MAX).read_to_end(&mut bytes).map_err(unread)?;
    let actual = Digest::of(&bytes);
    if actual != blob.digest {
        return Err(ImportError::Damaged { digest: blob.digest, actual });
    }
    Ok(bytes)
}
