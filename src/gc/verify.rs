//! Verification: every document, blob, layer, record and name of a store is read and checked.
//!
//! Damage is not always trouble: a record or a layer that does not verify is a miss for the next
//! build. But bits do rot, and a tool that says "cached" should be able to say "and sound".

use super::GcError;
use super::inventory::{entries, fan, hex_name, place_of_record};
use crate::cache::{Completed, Copied, Record, TreeEntry};
use crate::history::{History, HistoryError};
use crate::layer::{Listing, ScanOptions, scan};
use crate::oci::{Config, Descriptor, Digest, Document, Manifest};
use crate::snapshot;
use crate::store::{CollectResult, LISTING, LayerId, Store, StorePart};
use crate::sys::cancel::Cancel;
use crate::sys::threads;
use crate::text::chain;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, relative to the store; for an image, its name.
    pub place: PathBuf,
    /// What is wrong, as a sentence without a full stop.
    pub trouble: String,
    /// Whether a repair removed it from use.
    pub is_repaired: bool,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// How many things of each kind were checked: `images`, `blobs`, `layers`, `records`,
    /// `listings`, `notes`, `builds`.
    pub checked: BTreeMap<&'static str, u64>,
    /// What is wrong, in the order of places.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Says whether nothing is wrong any more.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.is_repaired)
    }
}

/// Checks everything in the store, which builds may go on using. With `repairs`, what is damaged is
/// set aside under `damaged/`, and an image that lacks something loses its name: the next build
/// makes what it needs again.
///
/// # Errors
///
/// [`GcError`] where the store cannot be read at all.
pub fn verify(store: &Store, repairs: bool, cancel: &Cancel) -> Result<VerifyReport, GcError> {
    let mut verifier =
        Verifier { store, cancel, report: VerifyReport::default(), damaged: Vec::new() };
    verifier.blobs()?;
    verifier.layers()?;
    verifier.records()?;
    verifier.notes()?;
    verifier.builds()?;
    if repairs {
        verifier.set_aside()?;
    }
    // Last: what was set aside is missing from an image.
    verifier.images(repairs)?;
    if cancel.is_cancelled() {
        return Err(GcError::Cancelled);
    }
    verifier.report.findings.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(verifier.report)
}

struct Verifier<'a> {
    store: &'a Store,
    cancel: &'a Cancel,
    report: VerifyReport,
    /// Places in `report.findings` of things that can be set aside.
    damaged: Vec<usize>,
}

impl Verifier<'_> {
    fn damage(&mut self, place: PathBuf, trouble: String) {
        self.damaged.push(self.report.findings.len());
        self.report.findings.push(Finding { place, trouble, is_repaired: false });
    }

    /// Checks each of `paths` on all processors; `check` says what is wrong.
    fn each(
        &mut self,
        kind: &'static str,
        paths: &[PathBuf],
        check: impl Fn(&Path) -> Option<String> + Sync,
    ) {
        let cancel = self.cancel;
        let check = |number: usize| match cancel.is_cancelled() {
            true => Ok::<_, Infallible>(None),
            false => Ok(check(&paths[number])),
        };
        let Ok(found) = threads::side_by_side(paths.len(), threads::count(), check);
        *self.report.checked.entry(kind).or_default() += paths.len() as u64;
        for (path, trouble) in paths.iter().zip(found) {
            if let Some(trouble) = trouble {
                self.damage(path.clone(), trouble);
            }
        }
    }

    fn blobs(&mut self) -> Result<(), GcError> {
        let (root, cancel) = (self.store.root(), self.cancel);
        let paths = names(entries(root, StorePart::Blobs.path())?);
        self.each("blobs", &paths, |path| {
            let named: Option<Digest> =
                hex_name(path).and_then(|hex| format!("sha256:{hex}").parse().ok());
            let Some(named) = named else { return Some("its name is not a digest".to_owned()) };
            match digest_of(&root.join(path), cancel) {
                _ if cancel.is_cancelled() => None,
                Ok(actual) if actual == named => None,
                Ok(actual) => Some(format!("its bytes hash to {actual}")),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => Some(format!("it cannot be read: {e}")),
            }
        });
        Ok(())
    }

    fn layers(&mut self) -> Result<(), GcError> {
        let (store, cancel) = (self.store, self.cancel);
        let paths = names(entries(store.root(), StorePart::Layers.path())?);
        self.each("layers", &paths, |path| layer_trouble(store, path, cancel));
        self.stranded(&paths);
        let listings: Vec<_> = paths.iter().map(|path| path.join(LISTING)).collect();
        let listings: Vec<_> =
            listings.into_iter().filter(|path| store.root().join(path).exists()).collect();
        self.each("listings", &listings, |path| {
            let bytes = read(&store.root().join(path))?;
            let is_sound = layer_of(path.parent()?).is_some_and(|id| Listing::is_of(&bytes, &id));
            (!is_sound).then(|| "it is not the one of its layer".to_owned())
        });
        Ok(())
    }

    /// Finds the sound layers that stand on a damaged one.
    fn stranded(&mut self, paths: &[PathBuf]) {
        let places = self.damaged.iter().map(|&place| &self.report.findings[place].place);
        let damaged: BTreeSet<PathBuf> = places.cloned().collect();
        for path in paths.iter().filter(|path| !damaged.contains(*path)) {
            let layer = layer_of(path).and_then(|id| self.store.peek_layer(&id).ok()?);
            let Some(under) = layer.and_then(|layer| layer.meta.under) else { continue };
            if damaged.contains(&path.with_file_name(under.layer.to_hex())) {
                self.damage(path.clone(), "the layer that it stands on is damaged".to_owned());
            }
        }
    }

    fn records(&mut self) -> Result<(), GcError> {
        let root = self.store.root();
        let mut paths = Vec::new();
        for (directory, facts) in fan(root, StorePart::Records)? {
            if facts.is_dir() {
                paths.extend(names(entries(root, &directory)?));
            }
        }
        self.each("records", &paths, |path| record_trouble(root, path));
        Ok(())
    }

    fn notes(&mut self) -> Result<(), GcError> {
        let root = self.store.root();
        self.each("listings", &names(fan(root, StorePart::Trees)?), |path| {
            let bytes = read(&root.join(path))?;
            let mut lines = serde_json::Deserializer::from_slice(&bytes).into_iter::<TreeEntry>();
            lines.find_map(Result::err).map(|error| format!("it does not parse: {error}"))
        });
        self.each("notes", &names(fan(root, StorePart::Chains)?), |path| {
            let is_sound = Completed::parse(&read(&root.join(path))?).is_some();
            (!is_sound).then(|| "it names no layer".to_owned())
        });
        self.each("notes", &names(fan(root, StorePart::Copies)?), |path| {
            let is_sound = Copied::parse(&read(&root.join(path))?).is_some();
            (!is_sound).then(|| "it does not parse".to_owned())
        });
        self.each("notes", &names(entries(root, StorePart::Diffs.path())?), |path| {
            let text = String::from_utf8_lossy(&read(&root.join(path))?).into_owned();
            let is_sound = text == "borrows\n" || text.trim_end().parse::<LayerId>().is_ok();
            (!is_sound).then(|| "it names no layer".to_owned())
        });
        Ok(())
    }

    fn builds(&mut self) -> Result<(), GcError> {
        let history = History::new(self.store);
        let ids = history.ids().map_err(|error| match error {
            HistoryError::Io { doing, path, source } => GcError::Io { doing, path, source },
            other => GcError::Io {
                doing: "list",
                path: self.store.place(StorePart::Builds),
                source: io::Error::other(other),
            },
        })?;
        for id in ids {
            *self.report.checked.entry("builds").or_default() += 1;
            // A build that was killed at its very start has said nothing of itself: no damage.
            if let Err(error @ (HistoryError::Damaged { .. } | HistoryError::Io { .. })) =
                history.read(id)
            {
                self.damage(StorePart::Builds.entry(id.to_string()), error.to_string());
            }
        }
        Ok(())
    }

    /// Takes what is damaged out of use.
    fn set_aside(&mut self) -> Result<(), GcError> {
        let directory = self.store.place(StorePart::Damaged);
        for place in std::mem::take(&mut self.damaged) {
            let finding = &mut self.report.findings[place];
            let CollectResult::Removed(away) =
                self.store.try_collect(&finding.place, None, || true)?
            else {
                finding.trouble.push_str("; a process uses it, so it is left where it is");
                continue;
            };
            let name = finding.place.to_string_lossy().replace('/', "-");
            let kept = directory.join(name);
            let io =
                |doing, path: &Path, source| GcError::Io { doing, path: path.to_owned(), source };
            fs::create_dir_all(&directory).map_err(|e| io("create", &directory, e))?;
            crate::store::remove_tree(&kept).map_err(|e| io("remove", &kept, e))?;
            fs::rename(&away, &kept).map_err(|e| io("set aside", &finding.place, e))?;
            finding.is_repaired = true;
        }
        Ok(())
    }

    fn images(&mut self, repairs: bool) -> Result<(), GcError> {
        for image in self.store.images()? {
            *self.report.checked.entry("images").or_default() += 1;
            let name = image.name.clone().unwrap_or_else(|| image.descriptor.digest.to_string());
            let Some(trouble) = image_trouble(self.store, &image.descriptor) else { continue };
            let mut finding = Finding { place: name.into(), trouble, is_repaired: false };
            if let (true, Some(name)) = (repairs, &image.name) {
                self.store.untag(name)?;
                finding.is_repaired = true;
            }
            self.report.findings.push(finding);
        }
        Ok(())
    }
}

fn names(found: Vec<(PathBuf, fs::Metadata)>) -> Vec<PathBuf> {
    found.into_iter().map(|(path, _)| path).collect()
}

/// Reads a file that may be gone by now.
fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

fn digest_of(path: &Path, cancel: &Cancel) -> io::Result<Digest> {
    use sha2::Digest as _;
    struct Hash(sha2::Sha256);
    impl io::Write for Hash {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut reader = io::BufReader::with_capacity(256 << 10, File::open(path)?);
    let mut hash = Hash(sha2::Sha256::new());
    cancel.copy(&mut reader, &mut hash)?;
    Ok(Digest::from_bytes(hash.0.finalize().into()))
}

fn layer_of(path: &Path) -> Option<LayerId> {
    hex_name(path)?.parse().ok()
}

fn layer_trouble(store: &Store, path: &Path, cancel: &Cancel) -> Option<String> {
    let Some(id) = layer_of(path) else {
        return Some("its name is not a layer's".to_owned());
    };
    let layer = match store.peek_layer(&id) {
        Ok(Some(layer)) => layer,
        Ok(None) if !store.root().join(path).exists() => return None,
        Ok(None) => return Some("its facts cannot be read".to_owned()),
        Err(error) => return Some(chain(&error)),
    };
    let files = match snapshot::view(&layer.directories(), store) {
        Ok(files) => files,
        Err(error) => return Some(format!("its files cannot be read: {}", chain(&error))),
    };
    let options = ScanOptions::detect(layer.meta.tar.is_some());
    match scan(files.root(), &options, cancel) {
        _ if cancel.is_cancelled() => None,
        Ok(found) if found.content != layer.meta.content => {
            Some(format!("its files hash to {}", found.content))
        }
        Ok(found) if found.id != id => Some("the times of its files have changed".to_owned()),
        Ok(found) if found.tar != layer.meta.tar => {
            Some("its tar is not the one that is noted".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(chain(&error)),
    }
}

fn record_trouble(root: &Path, path: &Path) -> Option<String> {
    let bytes = read(&root.join(path))?;
    let record = match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) => record,
        Err(error) => return Some(format!("it does not parse: {error}")),
    };
    if !record.is_current() {
        return None;
    }
    let is_in_place = place_of_record(path) == Some((record.key, record.parent));
    if !is_in_place || record.inputs.key() != record.key {
        return Some("its inputs are not those of its key".to_owned());
    }
    None
}

fn image_trouble(store: &Store, top: &Descriptor) -> Option<String> {
    // An index may list one document many times, and so may each index that it lists.
    let mut seen = BTreeSet::new();
    let mut open = vec![top.clone()];
    while let Some(descriptor) = open.pop() {
        if !seen.insert(descriptor.digest) {
            continue;
        }
        let is_top = descriptor.digest == top.digest;
        // An index may name platforms that never were brought here.
        if !is_top && !store.has_blob(&descriptor.digest) {
            continue;
        }
        let document = match document(store, &descriptor) {
            Ok(document) => document,
            Err(trouble) => return Some(trouble),
        };
        match document {
            Document::Index(index) => open.extend(index.manifests),
            Document::Manifest(manifest) => {
                if let Some(trouble) = manifest_trouble(store, &manifest) {
                    return Some(trouble);
                }
            }
        }
    }
    None
}

fn document(store: &Store, descriptor: &Descriptor) -> Result<Document, String> {
    let bytes = store.read_blob(&descriptor.digest).map_err(|error| chain(&error))?;
    Document::parse_any(&bytes, &descriptor.digest).map_err(|error| chain(&error))
}

fn manifest_trouble(store: &Store, manifest: &Manifest) -> Option<String> {
    let config = match store.read_blob(&manifest.config.digest) {
        Ok(bytes) => bytes,
        Err(error) => return Some(chain(&error)),
    };
    if manifest.is_image()
        && let Err(error) = Config::parse(&config, &manifest.config.digest)
    {
        return Some(chain(&error));
    }
    manifest.layers.iter().find_map(|layer| match fs::metadata(store.blob_path(&layer.digest)) {
        Ok(facts) if facts.len() == layer.size => None,
        Ok(facts) => {
            Some(format!("{} has {} bytes instead of {}", layer.digest, facts.len(), layer.size))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Some(format!("{} is missing", layer.digest))
        }
        Err(e) => Some(format!("{} cannot be read: {e}", layer.digest)),
    })
}
