//! Records on disk: written when a step has run, looked up before one does.

use super::{Inputs, TreeEntry, TreeId};
use crate::store::{
    ChainId, ContentId, Key, Layer, LayerId, Store, StoreError, StorePart, TimesId,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The format of a record. Records of other formats are misses.
const RECORD_VERSION: u32 = StorePart::Records.version();

/// What can go wrong with the cache: only what is wrong with the store.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the build cache")]
pub struct CacheError(#[from] pub StoreError);

/// The result of a step, with everything it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format of this document.
    pub version: u32,
    /// The hash of `inputs`.
    pub key: Key,
    /// The chain of the files the step started from.
    pub parent: ChainId,
    /// Every input of the key.
    pub inputs: Inputs,
    /// What it made.
    pub output: Output,
    /// The build that ran it, as in `builds/<id>`.
    pub build: String,
    /// When it was finished, in seconds since 1970.
    pub finished: i64,
    /// What it cost.
    pub cost: Cost,
}

impl Record {
    /// Says whether it is of the format that this program writes and hits.
    pub fn is_current(&self) -> bool {
        self.version == RECORD_VERSION
    }
}

/// What a step made: one layer on top of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The layer in the store.
    pub layer: LayerId,
    /// Its content without times.
    pub content: ContentId,
    /// The times that the step set, if it set any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_times: Option<TimesId>,
}

impl Output {
    /// Returns the chain that this makes on top of `parent`.
    pub fn on(&self, parent: &ChainId) -> ChainId {
        parent.with(&self.content).with_times(self.set_times.as_ref())
    }
}

/// What running a step cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// From start to finished layer, in microseconds.
    pub wall_us: u64,
    /// Processor time of its processes, user and system, in microseconds.
    #[serde(default)]
    pub cpu_us: u64,
    /// The part of it that the kernel used for them.
    #[serde(default)]
    pub system_us: u64,
    /// The most memory its control group held, in bytes; 0 where not measured.
    #[serde(default)]
    pub peak_memory: u64,
    /// Bytes read from storage; 0 where not measured.
    #[serde(default)]
    pub io_read: u64,
    /// Bytes written to storage; 0 where not measured.
    #[serde(default)]
    pub io_written: u64,
    /// The most processes and threads at one time; 0 where not measured.
    #[serde(default)]
    pub max_pids: u64,
    /// Bytes of files in its layer.
    #[serde(default)]
    pub layer_bytes: u64,
}

/// Why there was nothing to hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No step of this key was ever recorded here.
    Key,
    /// The key is known, but not on this parent.
    Parent,
    /// The record is there and its layer is gone.
    Layer,
    /// The record is there and cannot be read.
    Damaged,
    /// The record is there, in the format of another version of the program.
    Format,
}

/// What is noted of a chain: the layer that completes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// The layer.
    pub layer: LayerId,
    /// When it was made, in seconds since 1970.
    pub finished: i64,
    /// The chain below it; not in notes of earlier versions.
    pub parent: Option<ChainId>,
}

impl Completed {
    /// Reads a note; `None` where it is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.split_whitespace();
        let (layer, finished) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let parent = words.next().map(|word| word.parse().ok());
        let is_whole = words.next().is_none() && parent != Some(None);
        is_whole.then_some(Self { layer, finished, parent: parent.flatten() })
    }

    fn to_line(self) -> String {
        let Self { layer, finished, parent } = self;
        let parent = parent.map(|parent| format!(" {}", parent.to_hex())).unwrap_or_default();
        format!("{layer} {finished}{parent}\n")
    }
}

/// The records of one store.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) store: Store,
    /// Whether what is found is going to be used.
    is_peeking: bool,
}

impl Cache {
    /// Uses the records of `store`.
    pub fn new(store: Store) -> Self {
        Self { store, is_peeking: false }
    }

    /// Uses the records of `store` to say what would be: nothing that is found is held, nor counts
    /// as used.
    pub fn peeking(store: Store) -> Self {
        Self { store, is_peeking: true }
    }

    fn layer(&self, id: &LayerId) -> Result<Option<Layer>, StoreError> {
        if self.is_peeking { self.store.peek_layer(id) } else { self.store.layer(id) }
    }

    /// Says whether a record of `key` exists on any parent. One system call.
    pub fn knows(&self, key: &Key) -> bool {
        self.store.root().join(key_dir(key)).exists()
    }

    /// Looks up the result of a step.
    ///
    /// # Errors
    ///
    /// The inner `Err` says why there is no hit; a damaged record is one of those reasons.
    /// [`CacheError`] only where the store itself cannot be read.
    pub fn lookup(
        &self,
        key: &Key,
        parent: &ChainId,
    ) -> Result<Result<(Record, Layer), Missing>, CacheError> {
        let record = match self.read(key, parent)? {
            Ok(record) => record,
            Err(Missing::Key) if self.knows(key) => return Ok(Err(Missing::Parent)),
            Err(missing) => return Ok(Err(missing)),
        };
        Ok(match self.layer(&record.output.layer)? {
            Some(layer) if layer.meta.content == record.output.content => Ok((record, layer)),
            _ => Err(Missing::Layer),
        })
    }

    /// Reads a record without looking for its layer.
    fn read(&self, key: &Key, parent: &ChainId) -> Result<Result<Record, Missing>, CacheError> {
        let Some(bytes) = self.store.read_file(&record_path(key, parent))? else {
            return Ok(Err(Missing::Key));
        };
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
            return Ok(Err(why_unreadable(&bytes)));
        };
        Ok(match record.version {
            RECORD_VERSION if record.key == *key && record.parent == *parent => Ok(record),
            RECORD_VERSION => Err(Missing::Damaged),
            _ => Err(Missing::Format),
        })
    }

    /// Returns the records of `key` that could be hit, on whatever parent: those that can be read
    /// and whose layer is in the store.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where the store cannot be read.
    pub fn usable(&self, key: &Key) -> Result<Vec<Record>, CacheError> {
        let mut found = Vec::new();
        let parents = std::fs::read_dir(self.store.root().join(key_dir(key)));
        for entry in parents.into_iter().flatten().flatten() {
            let Some(parent) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Ok((record, _)) = self.lookup(key, &parent)? {
                found.push(record);
            }
        }
        found.sort_by_key(|record| record.parent);
        Ok(found)
    }

    /// Returns every record that could be hit. Reads all of them.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where the store cannot be read.
    pub fn all_usable(&self) -> Result<Vec<Record>, CacheError> {
        let mut found = Vec::new();
        let directories = std::fs::read_dir(self.store.place(StorePart::Records));
        for directory in directories.into_iter().flatten().flatten() {
            for entry in std::fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                let key = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if let Some(key) = key {
                    found.extend(self.usable(&key)?);
                }
            }
        }
        Ok(found)
    }

    /// Returns the chain that `chain` extends by one layer; `None` where the store does not know.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where the store cannot be read.
    pub fn parent_of(&self, chain: &ChainId) -> Result<Option<ChainId>, CacheError> {
        let bytes = self.store.read_file(&chain_path(chain))?;
        Ok(bytes.and_then(|bytes| Completed::parse(&bytes)).and_then(|known| known.parent))
    }

    /// Reads a record for comparing, whether or not its layer still exists.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where the store cannot be read.
    pub fn record(&self, key: &Key, parent: &ChainId) -> Result<Option<Record>, CacheError> {
        Ok(self.read(key, parent)?.ok())
    }

    /// Files a record; one of the same key and parent is replaced.
    ///
    /// # Errors
    ///
    /// [`CacheError`], for example on a full disk.
    pub fn file(&self, record: &Record) -> Result<(), CacheError> {
        let json = serde_json::to_vec(record).expect("a record is plain data");
        Ok(self.store.write_file(&record_path(&record.key, &record.parent), &json)?)
    }

    /// Makes a record of the current format.
    pub fn new_record(
        inputs: Inputs,
        parent: ChainId,
        output: Output,
        build: String,
        finished: i64,
        cost: Cost,
    ) -> Record {
        let key = inputs.key();
        Record { version: RECORD_VERSION, key, parent, inputs, output, build, finished, cost }
    }

    /// Returns the layer that completes `chain`, if one is known and still here, and when it was
    /// made, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where the store cannot be read.
    pub fn interned(&self, chain: &ChainId) -> Result<Option<(Layer, i64)>, CacheError> {
        let Some(bytes) = self.store.read_file(&chain_path(chain))? else { return Ok(None) };
        match Completed::parse(&bytes) {
            Some(known) => Ok(self.layer(&known.layer)?.map(|layer| (layer, known.finished))),
            None => Ok(None),
        }
    }

    /// Notes that `layer`, made at `finished`, completes `chain` on top of `parent`.
    ///
    /// # Errors
    ///
    /// [`CacheError`], for example on a full disk.
    pub fn intern(
        &self,
        chain: &ChainId,
        layer: &LayerId,
        finished: i64,
        parent: &ChainId,
    ) -> Result<(), CacheError> {
        let known = Completed { layer: *layer, finished, parent: Some(*parent) };
        Ok(self.store.write_file(&chain_path(chain), known.to_line().as_bytes())?)
    }

    /// Keeps a listing of files, unless it is kept already. One JSON object a line.
    ///
    /// # Errors
    ///
    /// [`CacheError`], for example on a full disk.
    pub fn keep_tree(
        &self,
        id: &TreeId,
        entries: impl Iterator<Item = TreeEntry>,
    ) -> Result<(), CacheError> {
        let path = tree_path(id);
        if self.store.root().join(&path).exists() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, &entry).expect("a listing is plain data");
            lines.push(b'\n');
        }
        Ok(self.store.write_file(&path, &lines)?)
    }

    /// Reads a listing; `None` where it is gone or damaged.
    ///
    /// # Errors
    ///
    /// [`CacheError`] where the store cannot be read.
    pub fn tree(&self, id: &TreeId) -> Result<Option<Vec<TreeEntry>>, CacheError> {
        let Some(bytes) = self.store.read_file(&tree_path(id))? else { return Ok(None) };
        Ok(serde_json::Deserializer::from_slice(&bytes).into_iter().collect::<Result<_, _>>().ok())
    }
}

fn key_dir(key: &Key) -> PathBuf {
    StorePart::Records.fan_out(&key.to_hex())
}

fn record_path(key: &Key, parent: &ChainId) -> PathBuf {
    key_dir(key).join(parent.to_hex())
}

/// Distinguishes the record of another version from a damaged one.
fn why_unreadable(bytes: &[u8]) -> Missing {
    /// What every format has.
    #[derive(Deserialize)]
    struct Any {
        version: u32,
    }
    match serde_json::from_slice::<Any>(bytes) {
        Ok(any) if any.version != RECORD_VERSION => Missing::Format,
        _ => Missing::Damaged,
    }
}

fn chain_path(chain: &ChainId) -> PathBuf {
    StorePart::Chains.fan_out(&chain.to_hex())
}

fn tree_path(id: &TreeId) -> PathBuf {
    StorePart::Trees.fan_out(&Key::from_bytes(id.0).to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LayerMeta;
    use std::fs;

    fn record(store: &Store) -> Record {
        let work = store.session().unwrap().new_work().unwrap();
        fs::create_dir(work.join("fs")).unwrap();
        let (id, content) = (LayerId::from_bytes([1; 32]), ContentId::from_bytes([2; 32]));
        store.add_layer(&work, &LayerMeta::new(id, content, 0, 0)).unwrap();
        let mut inputs = Inputs::new();
        inputs.text("argv", "true");
        let output = Output { layer: id, content, set_times: None };
        Cache::new_record(inputs, ChainId::scratch(), output, "b".into(), 5, Cost::default())
    }

    #[test]
    fn a_note_of_a_chain_is_read_with_and_without_what_is_below() {
        let (layer, parent) = (LayerId::from_bytes([1; 32]), ChainId::scratch());
        let known = Completed { layer, finished: -7, parent: Some(parent) };
        assert_eq!(Completed::parse(known.to_line().as_bytes()), Some(known));
        let older = Completed { parent: None, ..known };
        assert_eq!(older.to_line(), format!("{layer} -7\n"));
        assert_eq!(Completed::parse(older.to_line().as_bytes()), Some(older));
        for damaged in [
            String::new(),
            format!("{layer}\n"),
            format!("{layer} seven\n"),
            format!("{layer} -7 x\n"),
            format!("{layer} -7 {} x\n", parent.to_hex()),
        ] {
            assert_eq!(Completed::parse(damaged.as_bytes()), None, "{damaged:?}");
        }
    }

    #[test]
    fn a_record_is_found_on_its_parent_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let cache = Cache::new(store.clone());
        let record = record(&store);
        let (key, parent) = (record.key, record.parent);
        let miss = |key: &Key, parent: &ChainId| cache.lookup(key, parent).unwrap().unwrap_err();

        assert_eq!(miss(&key, &parent), Missing::Key);
        cache.file(&record).unwrap();
        assert_eq!(cache.lookup(&key, &parent).unwrap().unwrap().0, record);
        let elsewhere = record.output.on(&parent);
        assert_eq!(miss(&key, &elsewhere), Missing::Parent);
    }

    #[test]
    fn a_record_that_is_cut_short_or_lost_its_layer_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let cache = Cache::new(store.clone());
        let record = record(&store);
        let (key, parent) = (record.key, record.parent);
        cache.file(&record).unwrap();
        fs::remove_dir_all(store.layer_fs(&record.output.layer).parent().unwrap()).unwrap();
        assert_eq!(cache.lookup(&key, &parent).unwrap().unwrap_err(), Missing::Layer);

        let path = store.root().join(record_path(&key, &parent));
        let bytes = fs::read(&path).unwrap();
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(cache.lookup(&key, &parent).unwrap().unwrap_err(), Missing::Damaged);
        }
    }

    #[test]
    fn a_listing_comes_back_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(Store::open(&dir.path().join("s")).unwrap());
        let entry = |path: &str| TreeEntry {
            path: path.into(),
            kind: "file".into(),
            mode: 0o644,
            owner: None,
            size: Some(3),
            content: Some("abc".into()),
        };
        let id = TreeId([4; 32]);
        assert_eq!(cache.tree(&id).unwrap(), None);
        cache.keep_tree(&id, ["b", "a"].map(entry).into_iter()).unwrap();
        assert_eq!(cache.tree(&id).unwrap().unwrap(), ["b", "a"].map(entry));
    }
}
