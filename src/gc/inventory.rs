//! Inventory of a store: every thing with its size, its last use and what refers to it.

use super::GcError;
use crate::cache::{Inputs, Value};
use crate::oci::{Descriptor, Digest, Document, Manifest};
use crate::store::{ChainId, GcClass, Key, LayerId, LayerMeta, Store, StorePart};
use crate::sys::threads;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a thing of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemKind {
    /// A document or a packed layer: `blobs/sha256/<hex>`.
    Blob,
    /// An unpacked layer: `layers/<id>`.
    Layer,
    /// A cache mount of RUN: `mounts/<name>`.
    Mount,
    /// What ADD brought from elsewhere: `context/http/…`.
    Download,
    /// The fingerprints of a context or a stage: `context/<name>`.
    Fingerprints,
    /// The result of a step, spelled out: `records/…`.
    Record,
    /// A note that leads to a layer: `chains/…`, `diffs/…`, `copies/…`; one of its blocks:
    /// `blocks/…`.
    Pointer,
    /// What a COPY read: `trees/…`.
    Listing,
    /// What a registry said: `remotes/…`.
    Remote,
    /// A build of the history: `builds/<id>`.
    Build,
    /// What `builder store verify --repair` set aside: `damaged/…`.
    Damaged,
}

impl ItemKind {
    /// Returns when garbage collection removes such things.
    pub fn class(self) -> GcClass {
        match self {
            Self::Blob => StorePart::Blobs,
            Self::Layer => StorePart::Layers,
            Self::Mount => StorePart::Mounts,
            Self::Download => StorePart::Downloads,
            Self::Fingerprints => StorePart::Fingerprints,
            Self::Record => StorePart::Records,
            Self::Pointer => StorePart::Chains,
            Self::Listing => StorePart::Trees,
            Self::Remote => StorePart::Remotes,
            Self::Build => StorePart::Builds,
            Self::Damaged => StorePart::Damaged,
        }
        .class()
    }
}

/// What leads to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nothing, or only the cache.
    Cache,
    /// A named image.
    Image,
}

/// A thing of the store.
#[derive(Debug, Clone)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Where it is, relative to the store.
    pub path: PathBuf,
    /// The bytes of its files.
    pub bytes: u64,
    /// When it was last used; where no use is noted, when it was made.
    pub last_used: SystemTime,
    /// What leads to it.
    pub reach: Reach,
    /// What people may know it by.
    pub label: Option<String>,
    /// What it leads to.
    pub links: Links,
}

/// What a thing leads to.
#[derive(Debug, Clone, Default)]
pub struct Links {
    /// The layer of a record, a note or a packed layer.
    pub layers: Vec<LayerId>,
    /// The listings of a record.
    pub listings: Vec<[u8; 32]>,
    /// The layer that a layer stands on, where it is kept as a difference.
    pub under: Option<LayerId>,
}

/// What a named image takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Its names.
    pub names: Vec<String>,
    /// The bytes of all that it reaches: documents, packed layers, unpacked layers.
    pub bytes: u64,
    /// The bytes of that which another image reaches as well.
    pub shared: u64,
}

/// Everything that is in a store.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// The named images, by their first names.
    pub images: Vec<ImageUse>,
    /// The things, by kind and path.
    pub items: Vec<Item>,
    /// The names of images at that moment: plans hold as long as they stay the same.
    pub(super) names: Vec<u8>,
    /// Where each layer is in `items`.
    pub(super) layers: BTreeMap<LayerId, usize>,
}

/// What is read of a record: the rest is for `explain`.
#[derive(Deserialize)]
struct RecordLinks {
    output: OutputLinks,
    inputs: Inputs,
}

#[derive(Deserialize)]
struct OutputLinks {
    layer: LayerId,
}

impl Inventory {
    /// Looks at everything in the store. Things that go in the meantime are left out; nothing is
    /// held.
    ///
    /// # Errors
    ///
    /// [`GcError`] where a directory cannot be listed.
    pub fn of(store: &Store) -> Result<Self, GcError> {
        let root = store.root();
        let names = read_names(store)?;
        let (items, layers) = (Vec::new(), BTreeMap::new());
        let mut inventory = Self { images: Vec::new(), items, names, layers };
        let metas = inventory.add_layers(store)?;
        let by_image = Reached::by_images(store, &metas)?;
        let reached = Reached::by_any(by_image.values().map(|(_, reached)| reached));
        inventory.add_blobs(root, &metas, &reached)?;
        inventory.add_records(root)?;
        inventory.add_pointers(root)?;
        for (path, facts) in fan(root, StorePart::Trees)? {
            let listing = hex_name(&path).and_then(|hex| hex.parse::<Key>().ok());
            let mut item = Item::new(ItemKind::Listing, path, &facts);
            item.links.listings.extend(listing.map(|key| *key.as_bytes()));
            inventory.items.push(item);
        }
        for (kind, part) in [
            (ItemKind::Mount, StorePart::Mounts),
            (ItemKind::Build, StorePart::Builds),
            (ItemKind::Damaged, StorePart::Damaged),
        ] {
            let found = entries(root, part.path())?;
            let count = |place: usize| Ok::<_, Infallible>(bytes_of(&root.join(&found[place].0)));
            let Ok(sizes) = threads::side_by_side(found.len(), threads::count(), count);
            for ((path, facts), bytes) in found.into_iter().zip(sizes) {
                let mut item = Item::new(kind, path, &facts);
                item.bytes = bytes;
                if kind == ItemKind::Mount {
                    item.label = fs::read_to_string(root.join(&item.path).join("id")).ok();
                }
                inventory.items.push(item);
            }
        }
        for (path, facts) in entries(root, StorePart::Remotes.path())? {
            if facts.is_dir() {
                for (path, facts) in entries(root, &path)? {
                    inventory.items.push(Item::new(ItemKind::Remote, path, &facts));
                }
            } else {
                inventory.items.push(Item::new(ItemKind::Remote, path, &facts));
            }
        }
        for (path, facts) in entries(root, StorePart::Fingerprints.path())? {
            if facts.is_dir() {
                for (path, facts) in entries(root, &path)? {
                    inventory.items.push(Item::new(ItemKind::Download, path, &facts));
                }
            } else {
                inventory.items.push(Item::new(ItemKind::Fingerprints, path, &facts));
            }
        }
        for (id, index) in &inventory.layers {
            if reached.layers.contains(id) {
                inventory.items[*index].reach = Reach::Image;
            }
        }
        inventory.use_what_is_under();
        inventory.images = inventory.uses(&by_image);
        Ok(inventory)
    }

    /// Adds up what each image takes.
    fn uses(&self, by_image: &BTreeMap<Digest, (Vec<String>, Reached)>) -> Vec<ImageUse> {
        let mut sizes: BTreeMap<Thing, u64> = BTreeMap::new();
        for item in self.items.iter().filter(|item| item.reach == Reach::Image) {
            let thing = match item.kind {
                ItemKind::Layer => item.links.layers.first().copied().map(Thing::Layer),
                _ => hex_name(&item.path)
                    .and_then(|hex| format!("sha256:{hex}").parse().ok())
                    .map(Thing::Blob),
            };
            sizes.extend(thing.map(|thing| (thing, item.bytes)));
        }
        let mut times: BTreeMap<Thing, u32> = BTreeMap::new();
        for thing in by_image.values().flat_map(|(_, reached)| reached.things()) {
            *times.entry(thing).or_default() += 1;
        }
        let mut uses: Vec<_> = by_image
            .values()
            .map(|(names, reached)| {
                let sum = |is_counted: &dyn Fn(&Thing) -> bool| {
                    let sizes =
                        reached.things().filter(is_counted).filter_map(|thing| sizes.get(&thing));
                    // A damaged layer may have any size.
                    sizes.fold(0_u64, |sum, size| sum.saturating_add(*size))
                };
                let (bytes, shared) = (sum(&|_| true), sum(&|thing| times[thing] > 1));
                ImageUse { names: names.clone(), bytes, shared }
            })
            .collect();
        uses.sort_by(|a, b| a.names.cmp(&b.names));
        uses
    }

    /// A user of a layer uses the one that it stands on.
    fn use_what_is_under(&mut self) {
        for index in 0..self.items.len() {
            let item = &self.items[index];
            let last_used = item.last_used;
            let Some(&under) = item.links.under.and_then(|id| self.layers.get(&id)) else {
                continue;
            };
            let under = &mut self.items[under];
            under.last_used = under.last_used.max(last_used);
        }
    }

    /// Says whether the layer was there.
    pub fn has_layer(&self, id: &LayerId) -> bool {
        self.layers.contains_key(id)
    }

    fn add_layers(&mut self, store: &Store) -> Result<BTreeMap<LayerId, LayerMeta>, GcError> {
        let mut metas = BTreeMap::new();
        for (path, facts) in entries(store.root(), StorePart::Layers.path())? {
            let id = hex_name(&path).and_then(|hex| hex.parse::<LayerId>().ok());
            let mut item = Item::new(ItemKind::Layer, path, &facts);
            item.bytes = 0;
            if let Some(id) = id {
                self.layers.insert(id, self.items.len());
                item.links.layers.push(id);
                if let Some(layer) = store.peek_layer(&id)? {
                    item.bytes = layer.meta.own_bytes();
                    item.links.under = layer.meta.under.map(|under| under.layer);
                    metas.insert(id, layer.meta);
                }
            }
            self.items.push(item);
        }
        Ok(metas)
    }

    fn add_blobs(
        &mut self,
        root: &Path,
        metas: &BTreeMap<LayerId, LayerMeta>,
        reached: &Reached,
    ) -> Result<(), GcError> {
        let mut owners: BTreeMap<Digest, Vec<LayerId>> = BTreeMap::new();
        for (id, meta) in metas {
            for blob in &meta.blobs {
                owners.entry(blob.digest).or_default().push(*id);
            }
        }
        for (path, facts) in fan(root, StorePart::Blocks)? {
            let digest = hex_name(&path).and_then(|hex| format!("sha256:{hex}").parse().ok());
            let mut item = Item::new(ItemKind::Pointer, path, &facts);
            let layers = digest.and_then(|digest: Digest| owners.get(&digest));
            item.links.layers = layers.cloned().unwrap_or_default();
            self.items.push(item);
        }
        for (path, facts) in entries(root, StorePart::Blobs.path())? {
            let digest = hex_name(&path).and_then(|hex| format!("sha256:{hex}").parse().ok());
            let mut item = Item::new(ItemKind::Blob, path, &facts);
            if let Some(digest) = digest {
                if reached.blobs.contains(&digest) {
                    item.reach = Reach::Image;
                }
                item.links.layers = owners.remove(&digest).unwrap_or_default();
            }
            self.items.push(item);
        }
        Ok(())
    }

    fn add_records(&mut self, root: &Path) -> Result<(), GcError> {
        for (key, facts) in fan(root, StorePart::Records)? {
            if !facts.is_dir() {
                continue;
            }
            for (path, facts) in entries(root, &key)? {
                let mut item = Item::new(ItemKind::Record, path, &facts);
                let record = fs::read(root.join(&item.path))
                    .ok()
                    .and_then(|bytes| serde_json::from_slice::<RecordLinks>(&bytes).ok());
                if let Some(record) = record {
                    item.links.layers.push(record.output.layer);
                    item.links.listings = record
                        .inputs
                        .iter()
                        .filter_map(|input| match &input.value {
                            Value::Tree(tree) => Some(tree.0),
                            _ => None,
                        })
                        .collect();
                    item.label = Some(label_of(&record.inputs));
                }
                self.items.push(item);
            }
        }
        Ok(())
    }

    fn add_pointers(&mut self, root: &Path) -> Result<(), GcError> {
        let found = fan(root, StorePart::Chains)?
            .into_iter()
            .chain(entries(root, StorePart::Diffs.path())?)
            .chain(fan(root, StorePart::Copies)?);
        for (path, facts) in found {
            let mut item = Item::new(ItemKind::Pointer, path, &facts);
            let text = first_word(&root.join(&item.path));
            let layer = text.and_then(|word| word.parse().ok());
            item.links.layers.extend::<Option<LayerId>>(layer);
            self.items.push(item);
        }
        Ok(())
    }
}

impl Item {
    fn new(kind: ItemKind, path: PathBuf, facts: &Metadata) -> Self {
        Self {
            kind,
            path,
            bytes: if facts.is_dir() { 0 } else { facts.len() },
            last_used: facts.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            reach: Reach::Cache,
            label: None,
            links: Links::default(),
        }
    }
}

/// A thing that images lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Blob(Digest),
    Layer(LayerId),
}

/// What named images lead to.
#[derive(Debug, Default)]
struct Reached {
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<LayerId>,
}

impl Reached {
    /// Follows each named image, by its digest; with its names.
    fn by_images(
        store: &Store,
        metas: &BTreeMap<LayerId, LayerMeta>,
    ) -> Result<BTreeMap<Digest, (Vec<String>, Self)>, GcError> {
        let with_under = |id: LayerId| {
            let under = metas.get(&id).and_then(|meta| meta.under);
            std::iter::once(id).chain(under.map(|under| under.layer))
        };
        let mut by_diff: BTreeMap<Digest, Vec<LayerId>> = BTreeMap::new();
        for (id, meta) in metas {
            if let Some(tar) = &meta.tar {
                by_diff.entry(tar.diff_id).or_default().extend(with_under(*id));
            }
        }
        // A tar that came from elsewhere need not be the one that we would write of its files.
        for (path, _) in entries(store.root(), StorePart::Diffs.path())? {
            let text = fs::read_to_string(store.root().join(&path)).unwrap_or_default();
            let diff = hex_name(&path).and_then(|name| {
                let hex = name.split('-').next()?;
                format!("sha256:{hex}").parse().ok()
            });
            if let (Some(diff), Ok(id)) = (diff, text.trim_end().parse()) {
                by_diff.entry(diff).or_default().extend(with_under(id));
            }
        }
        let mut by_image: BTreeMap<Digest, (Vec<String>, Self)> = BTreeMap::new();
        // One without a name is collected like any cache.
        for image in store.images()?.into_iter().filter(|image| image.name.is_some()) {
            let (names, reached) = by_image.entry(image.descriptor.digest).or_default();
            names.extend(image.name);
            if reached.blobs.is_empty() {
                *reached = Self::by_image(store, image.descriptor, &by_diff);
            }
        }
        Ok(by_image)
    }

    fn by_any<'r>(all: impl Iterator<Item = &'r Self>) -> Self {
        let mut any = Self::default();
        for reached in all {
            any.blobs.extend(&reached.blobs);
            any.layers.extend(&reached.layers);
        }
        any
    }

    fn things(&self) -> impl Iterator<Item = Thing> + '_ {
        let blobs = self.blobs.iter().copied().map(Thing::Blob);
        blobs.chain(self.layers.iter().copied().map(Thing::Layer))
    }

    fn by_image(
        store: &Store,
        image: Descriptor,
        by_diff: &BTreeMap<Digest, Vec<LayerId>>,
    ) -> Self {
        let mut reached = Self::default();
        let mut open = vec![image];
        while let Some(descriptor) = open.pop() {
            if !reached.blobs.insert(descriptor.digest) {
                continue;
            }
            // What is missing or damaged is for `verify` to report.
            let Ok(bytes) = store.read_blob(&descriptor.digest) else { continue };
            match Document::parse_any(&bytes, &descriptor.digest) {
                Ok(Document::Index(index)) => open.extend(index.manifests),
                Ok(Document::Manifest(manifest)) => reached.manifest(store, &manifest, by_diff),
                Err(_) => {}
            }
        }
        reached
    }

    fn manifest(
        &mut self,
        store: &Store,
        manifest: &Manifest,
        by_diff: &BTreeMap<Digest, Vec<LayerId>>,
    ) {
        self.blobs.insert(manifest.config.digest);
        self.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        let diff_ids = store
            .read_blob(&manifest.config.digest)
            .ok()
            .and_then(|bytes| crate::oci::Config::parse(&bytes, &manifest.config.digest).ok())
            .and_then(|config| config.diff_ids().ok())
            .unwrap_or_default();
        for diff_id in diff_ids {
            self.layers.extend(by_diff.get(&diff_id).into_iter().flatten());
        }
    }
}

/// Reads the word that a file begins with, if that is no longer than a digest.
fn first_word(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    fs::File::open(path).ok()?.take(128).read_to_end(&mut start).ok()?;
    let end = start.iter().position(u8::is_ascii_whitespace)?;
    start.truncate(end);
    String::from_utf8(start).ok()
}

/// Reads the names of images as they are written.
pub(super) fn read_names(store: &Store) -> Result<Vec<u8>, GcError> {
    Ok(store.read_file(StorePart::Index.path())?.unwrap_or_default())
}

/// What a step is called by what it depends on.
fn label_of(inputs: &Inputs) -> String {
    let text = |name: &str| match inputs.get(name) {
        Some(Value::Text(text)) => Some(text.clone()),
        Some(Value::List(words)) => Some(words.join(" ")),
        _ => None,
    };
    if let Some(argv) = text("argv") {
        return format!("RUN {}", argv.strip_prefix("/bin/sh -c ").unwrap_or(&argv));
    }
    if let Some(path) = text("workdir") {
        return format!("WORKDIR {path}");
    }
    let sources: Vec<&str> = inputs
        .iter()
        .filter_map(|input| match &input.value {
            Value::Text(source) if input.name == "source" => Some(source.as_str()),
            _ => None,
        })
        .collect();
    let [instruction, destination] = ["instruction", "destination"].map(text);
    format!(
        "{} {} {}",
        instruction.as_deref().unwrap_or("COPY"),
        sources.join(" "),
        destination.unwrap_or_default()
    )
}

/// Lists `directory` of the store, sorted by name; paths are relative to the store.
pub(super) fn entries(root: &Path, directory: &Path) -> Result<Vec<(PathBuf, Metadata)>, GcError> {
    let path = root.join(directory);
    let list = match fs::read_dir(&path) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(GcError::Io { doing: "list", path, source }),
    };
    let mut found = Vec::new();
    for entry in list {
        let entry =
            entry.map_err(|source| GcError::Io { doing: "list", path: path.clone(), source })?;
        // What went in the meantime is not there.
        if let Ok(facts) = entry.metadata() {
            found.push((directory.join(entry.file_name()), facts));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Lists `<part>/<kk>/*`.
pub(super) fn fan(root: &Path, part: StorePart) -> Result<Vec<(PathBuf, Metadata)>, GcError> {
    let mut found = Vec::new();
    for (directory, facts) in entries(root, part.path())? {
        if facts.is_dir() {
            found.extend(entries(root, &directory)?);
        }
    }
    Ok(found)
}

/// The last part of a path.
pub(super) fn hex_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The bytes of all files below a directory; what cannot be read counts nothing.
fn bytes_of(path: &Path) -> u64 {
    walkdir::WalkDir::new(path)
        .into_iter()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.metadata().ok())
        .filter(Metadata::is_file)
        .map(|facts| facts.len())
        .sum()
}

/// The key and the parent that a record's path says.
pub(super) fn place_of_record(path: &Path) -> Option<(Key, ChainId)> {
    let chain = hex_name(path)?.parse().ok()?;
    let key = hex_name(path.parent()?)?.parse().ok()?;
    Some((key, chain))
}
