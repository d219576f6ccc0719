//! `builder load`: images packed into one file, as OCI layouts or as `docker save` writes them.
//!
//! Members are spooled to the session's directory, since an archive names its blobs only at its
//! end, and renamed into the store from there.
//!
//! Source: Docker image specification 1.3, "Combined Image JSON + Filesystem Changeset Format".

mod whole;

use super::import::write_manifest;
use super::layout::best;
use super::receive::{BlobSource, document, receive};
use super::tee::{Output, Tee};
use super::{Image, ImageError};
use crate::layer::{self, ArchiveMember, Format, LayerError};
use crate::oci::{
    Config, Descriptor, Digest, Document, DocumentError, Index, Manifest, Platform, Reference,
    annotation::{ATTESTATION, CONTAINERD_NAME, REF_NAME},
    media_type,
};
use crate::store::{DOCUMENT_MAX, Store, StoreError};
use crate::sys::cancel::Cancel;
use crate::text::path;
use serde::Deserialize;
use sha2::Digest as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::PathBuf;

pub use whole::{LoadedTop, load_all};

/// The most members an archive may have.
const MEMBERS_MAX: usize = 100_000;

/// How many links are followed from one member to the next.
const LINKS_MAX: usize = 16;

/// An image of an archive.
#[derive(Debug)]
pub struct Loaded {
    /// The image, with its manifest.
    pub image: Image,
    /// The names it has in the archive; none where it has no whole one.
    pub names: Vec<Reference>,
    /// Its tag, where it has one but no name.
    pub tag: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Brings all images of an archive, compressed or not, into the store; of images for several
/// platforms the one for `platform`. `name` is what the archive is called in messages.
///
/// # Errors
///
/// [`ImageError::NotAnArchive`], or what is wrong with a member; images loaded before stay, without
/// names.
pub fn load_archive(
    store: &Store,
    input: impl Read + Send,
    name: &str,
    platform: &Platform,
    cancel: &Cancel,
) -> Result<Vec<Loaded>, ImageError> {
    let (spool, docker) = Spool::open(store, input, name, cancel)?;
    if let Some(bytes) = spool.document("index.json")? {
        return spool.load_index(store, &bytes, &docker, platform, cancel);
    }
    if docker.is_empty() {
        return Err(ImageError::NotAnArchive { name: name.to_owned() });
    }
    docker.iter().map(|entry| spool.load_docker(store, entry, platform, cancel)).collect()
}

/// An OCI layout in a tar, with its members in files of the session: for images that are to be
/// copied, not used.
pub struct LayoutArchive {
    spool: Spool,
    index: Index,
}

impl LayoutArchive {
    /// Reads an archive, compressed or not. `name` is what it is called in messages.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotAnArchive`] where there is no index in it.
    pub fn read(
        store: &Store,
        input: impl Read + Send,
        name: &str,
        cancel: &Cancel,
    ) -> Result<Self, ImageError> {
        let spool = Spool::read(store, input, name, cancel)?;
        let bytes = spool.document("index.json")?;
        let parsed = bytes.map(|bytes| Document::parse(&bytes, &Digest::of(&bytes))).transpose()?;
        match parsed {
            Some(Document::Index(index)) => Ok(Self { spool, index }),
            _ => Err(ImageError::NotAnArchive { name: name.to_owned() }),
        }
    }

    /// Returns the entry of this name or tag, or the only one; of several for different platforms
    /// the best. `None` where there is none, or no single one.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoPlatform`] where none is for this one.
    pub fn find(
        &self,
        wanted: Option<&str>,
        platform: &Platform,
    ) -> Result<Option<Descriptor>, ImageError> {
        let full = wanted.and_then(|text| Reference::parse(text).ok()).map(Reference::or_latest);
        let is_it = |entry: &&Descriptor| match (name_of(entry), wanted) {
            (_, None) => true,
            (Some(Ok(name)), Some(_)) => Some(name) == full,
            (Some(Err(tag)), Some(wanted)) => tag == wanted,
            (None, Some(_)) => false,
        };
        let images = self.index.manifests.iter();
        let images = images.filter(|entry| !entry.annotations.contains_key(ATTESTATION));
        let mut found: Vec<_> = images.filter(is_it).collect();
        // One image may have several names.
        found.sort_by_key(|entry| entry.digest);
        found.dedup_by_key(|entry| entry.digest);
        if found.is_empty() || found.len() > 1 && found.iter().any(|d| d.platform.is_none()) {
            return Ok(None);
        }
        // Of two images for one platform neither is the one that is meant.
        let platforms = found.iter().filter_map(|d| Some(d.platform.as_ref()?.to_string()));
        match platforms.collect::<BTreeSet<_>>().len() < found.len() {
            true if found.len() > 1 => Ok(None),
            _ => best(&found, platform, || self.name()).map(Some),
        }
    }
}

impl BlobSource for LayoutArchive {
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>, ImageError> {
        BlobSource::open(&self.spool, blob)
    }

    fn spooled(&self, blob: &Descriptor) -> Option<PathBuf> {
        self.spool.spooled(blob)
    }

    fn name(&self) -> String {
        self.spool.name()
    }
}

/// The members of an archive, each in a file of the session. They go with it.
struct Spool {
    name: String,
    files: BTreeMap<String, PathBuf>,
    links: BTreeMap<String, String>,
}

impl Drop for Spool {
    fn drop(&mut self) {
        for path in self.files.values() {
            // What became a blob was renamed away.
            let _ = fs::remove_file(path);
        }
    }
}

/// Why an archive is not spooled.
enum Unspooled {
    /// It cannot be read.
    Layer(LayerError),
    /// What it has is not taken.
    Image(ImageError),
}

impl From<LayerError> for Unspooled {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<ImageError> for Unspooled {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<StoreError> for Unspooled {
    fn from(error: StoreError) -> Self {
        Self::Image(error.into())
    }
}

impl Spool {
    /// Reads an archive and Docker's list of its images, where it has one.
    fn open(
        store: &Store,
        input: impl Read + Send,
        name: &str,
        cancel: &Cancel,
    ) -> Result<(Self, Vec<DockerEntry>), ImageError> {
        let spool = Self::read(store, input, name, cancel)?;
        let docker = match spool.document("manifest.json")? {
            Some(bytes) => spool.parse("manifest.json", &bytes)?,
            None => Vec::new(),
        };
        Ok((spool, docker))
    }

    fn read(
        store: &Store,
        input: impl Read + Send,
        name: &str,
        cancel: &Cancel,
    ) -> Result<Self, ImageError> {
        let mut spool =
            Self { name: name.to_owned(), files: BTreeMap::new(), links: BTreeMap::new() };
        let session = store.session()?;
        let mut count = 0;
        let mut spool_member = |path: &[u8], kind: ArchiveMember<'_>| {
            count += 1;
            if count > MEMBERS_MAX {
                let what = format!("more than {MEMBERS_MAX} members");
                return Err(Unspooled::Image(spool.unsupported(what)));
            }
            let Some(member) = member_path(path, "") else { return Ok(None) };
            let directory = member.rsplit_once('/').map_or("", |(directory, _)| directory);
            let target = match kind {
                ArchiveMember::File => {
                    let path = session.new_path()?;
                    let file = OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .open(&path)
                        .map_err(|e| ImageError::io("create", &path, e))?;
                    if let Some(older) = spool.files.insert(member, path) {
                        let _ = fs::remove_file(older);
                    }
                    return Ok(Some(file));
                }
                ArchiveMember::Symlink(target) => member_path(target, directory),
                ArchiveMember::HardLink(target) => member_path(target, ""),
                ArchiveMember::Other => None,
            };
            if let Some(target) = target {
                spool.links.insert(member, target);
            }
            Ok(None)
        };
        match layer::read_archive(input, cancel, &mut spool_member) {
            Ok(()) => Ok(spool),
            Err(Unspooled::Image(error)) => Err(error),
            Err(Unspooled::Layer(LayerError::Cancelled)) => Err(ImageError::Cancelled),
            Err(Unspooled::Layer(error)) => Err(ImageError::Read {
                name: name.to_owned(),
                what: "the archive".to_owned(),
                source: match error {
                    LayerError::Input { source } => source,
                    other => io::Error::other(other),
                },
            }),
        }
    }

    fn unsupported(&self, what: String) -> ImageError {
        ImageError::Unsupported { name: self.name.clone(), what }
    }

    /// Returns a member's file, through links.
    fn file(&self, member: &str) -> Option<&PathBuf> {
        let mut member = member_path(member.as_bytes(), "")?;
        for _ in 0..LINKS_MAX {
            if let Some(path) = self.files.get(&member) {
                return Some(path);
            }
            member = self.links.get(&member)?.clone();
        }
        None
    }

    fn need(&self, member: &str) -> Result<&PathBuf, ImageError> {
        self.file(member).ok_or_else(|| self.unsupported(format!("`{member}` is missing")))
    }

    fn document(&self, member: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(path) = self.file(member) else { return Ok(None) };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes))
            .map_err(|e| ImageError::io("read", path, e))?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(self.unsupported(format!("`{member}` is larger than {DOCUMENT_MAX} bytes")));
        }
        Ok(Some(bytes))
    }

    fn parse<T: serde::de::DeserializeOwned>(
        &self,
        member: &str,
        bytes: &[u8],
    ) -> Result<T, ImageError> {
        serde_json::from_slice(bytes)
            .map_err(|e| self.unsupported(format!("`{member}` is malformed: {e}")))
    }

    fn load_index(
        &self,
        store: &Store,
        bytes: &[u8],
        docker: &[DockerEntry],
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<Vec<Loaded>, ImageError> {
        let Document::Index(index) = Document::parse(bytes, &Digest::of(bytes))? else {
            return Err(ImageError::NotAnArchive { name: self.name.clone() });
        };
        let mut loaded: Vec<Loaded> = Vec::new();
        let mut by_digest: BTreeMap<Digest, usize> = BTreeMap::new();
        for entry in &index.manifests {
            if entry.annotations.contains_key(ATTESTATION) {
                continue;
            }
            let i = match by_digest.get(&entry.digest) {
                Some(&i) => i,
                None => {
                    let image = receive(store, self, entry, platform, cancel)?;
                    let docker = if has_name(&index, entry) { &[] } else { docker };
                    let names = self.docker_names(store, &image, docker)?;
                    loaded.push(Loaded { image, names, tag: None });
                    by_digest.insert(entry.digest, loaded.len() - 1);
                    loaded.len() - 1
                }
            };
            let image = &mut loaded[i];
            match name_of(entry) {
                Some(Ok(name)) if !image.names.contains(&name) => image.names.push(name),
                Some(Err(tag)) => image.tag = Some(tag),
                _ => {}
            }
        }
        Ok(loaded)
    }

    /// Returns the names that `manifest.json` gives an image.
    fn docker_names(
        &self,
        store: &Store,
        image: &Image,
        docker: &[DockerEntry],
    ) -> Result<Vec<Reference>, ImageError> {
        let Some(manifest) = &image.manifest else { return Ok(Vec::new()) };
        let bytes = document(store, self, manifest)?;
        let manifest: Manifest = self.parse("the manifest", &bytes)?;
        let hex = manifest.config.digest.to_hex();
        let entry = docker.iter().find(|entry| entry.config.contains(&hex));
        Ok(entry.map(DockerEntry::names).unwrap_or_default())
    }

    fn load_docker(
        &self,
        store: &Store,
        entry: &DockerEntry,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<Loaded, ImageError> {
        self.need(&entry.config)?;
        let bytes = self.document(&entry.config)?.unwrap_or_default();
        let digest = Digest::of(&bytes);
        let config = Config::parse(&bytes, &digest)?;
        let diff_ids = config
            .diff_ids()
            .map_err(|e| DocumentError::Malformed { digest, what: e.to_string() })?;
        let members = entry.layers.as_deref().unwrap_or_default();
        if members.len() != diff_ids.len() {
            return Err(ImageError::LayerCount {
                digest,
                layers: members.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let mut source = DockerSource { spool: self, blobs: BTreeMap::new() };
        let mut layers = Vec::with_capacity(members.len());
        for (member, diff_id) in members.iter().zip(&diff_ids) {
            let path = self.need(member)?;
            let blob =
                describe(path, diff_id, cancel).map_err(|e| match cancel.is_cancelled() {
                    true => ImageError::Cancelled,
                    false => ImageError::io("read", path, e),
                })?;
            source.blobs.insert(blob.digest, path.clone());
            layers.push(blob);
        }
        let manifest = write_manifest(store, &bytes, layers)?;
        let image = receive(store, &source, &manifest, platform, cancel)?;
        Ok(Loaded { image, names: entry.names(), tag: None })
    }
}

impl DockerEntry {
    fn names(&self) -> Vec<Reference> {
        let tags = self.repo_tags.iter().flatten();
        tags.filter_map(|tag| Reference::parse(tag).ok()).map(Reference::or_latest).collect()
    }
}

/// Returns an entry's whole name, or its tag where that is all there is.
fn name_of(entry: &Descriptor) -> Option<Result<Reference, String>> {
    if let Some(name) = entry.annotations.get(CONTAINERD_NAME)
        && let Ok(name) = Reference::parse(name)
    {
        return Some(Ok(name.or_latest()));
    }
    let text = entry.annotations.get(REF_NAME)?;
    if text.contains(['/', ':'])
        && let Ok(name) = Reference::parse(text)
    {
        return Some(Ok(name.or_latest()));
    }
    Some(Err(text.clone()))
}

/// Says whether an entry has a whole name, or another of its digest. Then `manifest.json`, which
/// knows images by their config only, has no say: several entries may have one config.
fn has_name(index: &Index, entry: &Descriptor) -> bool {
    let same = index.manifests.iter().filter(|other| other.digest == entry.digest);
    same.chain([entry]).any(|other| matches!(name_of(other), Some(Ok(_))))
}

/// Describes a layer's file: a plain tar is known by its `diff_id`, which is verified later, a
/// compressed one is hashed.
fn describe(path: &std::path::Path, diff_id: &Digest, cancel: &Cancel) -> io::Result<Descriptor> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut start = Vec::with_capacity(6);
    file.by_ref().take(6).read_to_end(&mut start)?;
    let suffix = match layer::detect(&start) {
        Format::Gzip => "gzip",
        Format::Zstd => "zstd",
        _ => return Ok(Descriptor::new(media_type::OCI_LAYER, *diff_id, size)),
    };
    let start = io::Cursor::new(start);
    let mut tee = Tee::new(Box::new(start.chain(file)), Output::hash());
    cancel.copy(&mut tee, &mut io::sink())?;
    let Output::Hash(hasher) = tee.output else { unreachable!("made as a hash above") };
    let digest = Digest::from_bytes(hasher.finalize().into());
    Ok(Descriptor::new(media_type::layer(true, suffix), digest, size))
}

impl BlobSource for Spool {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        open(self.spooled(blob), &self.name, blob)
    }

    fn spooled(&self, blob: &Descriptor) -> Option<PathBuf> {
        self.file(&format!("blobs/sha256/{}", blob.digest.to_hex())).cloned()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Layers of an archive that names them by path only.
struct DockerSource<'s> {
    spool: &'s Spool,
    blobs: BTreeMap<Digest, PathBuf>,
}

impl BlobSource for DockerSource<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        open(self.spooled(blob), &self.spool.name, blob)
    }

    fn spooled(&self, blob: &Descriptor) -> Option<PathBuf> {
        self.blobs.get(&blob.digest).cloned()
    }

    fn name(&self) -> String {
        self.spool.name.clone()
    }
}

fn open(
    path: Option<PathBuf>,
    name: &str,
    blob: &Descriptor,
) -> Result<Box<dyn Read + Send>, ImageError> {
    let missing = || ImageError::MissingBlob { name: name.to_owned(), digest: blob.digest };
    let path = path.ok_or_else(missing)?;
    match File::open(&path) {
        Ok(file) => Ok(Box::new(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing()),
        Err(e) => Err(ImageError::io("open", &path, e)),
    }
}

/// Returns a member's path, read relative to `directory`, without `.` and `..`; `None` where it
/// leaves the archive or is not UTF-8: no member we look for does.
fn member_path(path: &[u8], directory: &str) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let cleaned = match path.strip_prefix('/') {
        Some(path) => path::clean(path.trim_start_matches('/')),
        None => path::clean(format!("{directory}/{path}").trim_start_matches('/')),
    };
    let is_inside = !matches!(&cleaned[..], "." | "..") && !cleaned.starts_with("../");
    is_inside.then_some(cleaned)
}
