//! Images of an archive as they are: indexes stay indexes.

use super::super::fetch::fetch_blob;
use super::super::index::{StoredImage, put_index};
use super::super::receive::{BlobSource, document, receive};
use super::{DockerEntry, Loaded, Spool, has_name, name_of};
use crate::image::ImageError;
use crate::oci::{
    Descriptor, Digest, Document, DocumentError, Index, Platform, Reference,
    annotation::{ATTESTATION, CONTAINERD_NAME, CREATED, REF_NAME},
    media_type,
};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// How deep indexes may nest.
const NESTING_MAX: usize = 4;

/// What an archive had under a name, as it is: an image, or an index with those of its images that
/// the archive has.
#[derive(Debug)]
pub struct LoadedTop {
    /// The manifest or index.
    pub top: Descriptor,
    /// The names it has in the archive; none where it has no whole one.
    pub names: Vec<Reference>,
    /// Its tag, where it has one but no name.
    pub tag: Option<String>,
}

/// As [`load_archive`], with indexes as they are. Images of one name for different platforms become
/// an index. The image for this machine is unpacked, the others are when they are used.
///
/// # Errors
///
/// As [`load_archive`].
pub fn load_all(
    store: &Store,
    input: impl Read + Send,
    name: &str,
    cancel: &Cancel,
) -> Result<Vec<LoadedTop>, ImageError> {
    let (spool, docker) = Spool::open(store, input, name, cancel)?;
    if let Some(bytes) = spool.document("index.json")? {
        return spool.load_tops(store, &bytes, &docker, cancel);
    }
    if docker.is_empty() {
        return Err(ImageError::NotAnArchive { name: name.to_owned() });
    }
    let host = Platform::host();
    let load = |entry| spool.load_docker(store, entry, &host, cancel).map(LoadedTop::of_image);
    docker.iter().map(load).collect()
}

impl LoadedTop {
    /// An image of one platform.
    pub fn of_image(Loaded { image, names, tag }: Loaded) -> Self {
        let mut top = image.manifest.expect("an image that was loaded has a manifest");
        top.platform = Some(image.config.platform().to_json());
        Self { top, names, tag }
    }
}

impl Spool {
    /// Loads all that the index of an archive lists.
    fn load_tops(
        &self,
        store: &Store,
        bytes: &[u8],
        docker: &[DockerEntry],
        cancel: &Cancel,
    ) -> Result<Vec<LoadedTop>, ImageError> {
        let Document::Index(index) = Document::parse(bytes, &Digest::of(bytes))? else {
            return Err(ImageError::NotAnArchive { name: self.name.clone() });
        };
        let mut loaded: Vec<LoadedTop> = Vec::new();
        for entry in joined_by_name(store, &index)? {
            let known = loaded.iter().position(|other| other.top.digest == entry.digest);
            let at = match known {
                Some(at) => at,
                None => {
                    let docker = if has_name(&index, &entry) { &[] } else { docker };
                    loaded.push(self.load_top(store, &entry, docker, cancel)?);
                    loaded.len() - 1
                }
            };
            let one = &mut loaded[at];
            match name_of(&entry) {
                Some(Ok(name)) if !one.names.contains(&name) => one.names.push(name),
                Some(Err(tag)) => one.tag = Some(tag),
                _ => {}
            }
        }
        Ok(loaded)
    }

    fn load_top(
        &self,
        store: &Store,
        entry: &Descriptor,
        docker: &[DockerEntry],
        cancel: &Cancel,
    ) -> Result<LoadedTop, ImageError> {
        let host = Platform::host();
        let bytes = document(store, self, entry)?;
        if let Document::Manifest(_) = Document::parse(&bytes, &entry.digest)? {
            let image = receive(store, self, entry, &host, cancel)?;
            let names = self.docker_names(store, &image, docker)?;
            return Ok(LoadedTop::of_image(Loaded { image, names, tag: None }));
        }
        self.bring(store, entry, 0, cancel)?;
        let found = StoredImage::read(store, entry)?;
        if let (true, Some(first)) = (found.here.is_empty(), found.missing.first()) {
            return Err(ImageError::MissingBlob { name: self.name(), digest: first.digest });
        }
        if let Some((descriptor, ..)) = found.best(&host) {
            receive(store, self, descriptor, &host, cancel)?;
        }
        let hexes: Vec<_> = found.here.iter().map(|one| one.1.config.digest.to_hex()).collect();
        let is_of = |entry: &&DockerEntry| hexes.iter().any(|hex| entry.config.contains(hex));
        let names = docker.iter().find(is_of).map(DockerEntry::names).unwrap_or_default();
        let mut top = entry.clone();
        top.annotations.retain(|name, _| !matches!(&**name, REF_NAME | CONTAINERD_NAME | CREATED));
        Ok(LoadedTop { top, names, tag: None })
    }

    /// Brings what the archive has of an index into the store.
    fn bring(
        &self,
        store: &Store,
        descriptor: &Descriptor,
        depth: usize,
        cancel: &Cancel,
    ) -> Result<(), ImageError> {
        let bytes = document(store, self, descriptor)?;
        match Document::parse_any(&bytes, &descriptor.digest)? {
            Document::Manifest(manifest) => {
                let layers = manifest.layers.iter();
                for blob in std::iter::once(&manifest.config).chain(layers) {
                    fetch_blob(store, self, blob, cancel)?;
                }
                Ok(())
            }
            Document::Index(_) if depth >= NESTING_MAX => Err(DocumentError::Malformed {
                digest: descriptor.digest,
                what: format!("indexes nest deeper than {NESTING_MAX}"),
            }
            .into()),
            Document::Index(index) => {
                // An archive need not have all platforms.
                let is_here = |d: &&Descriptor| self.spooled(d).is_some();
                let here = index.manifests.iter().filter(is_here);
                here.into_iter().try_for_each(|d| self.bring(store, d, depth + 1, cancel))
            }
        }
    }
}

/// Returns the entries of an archive's index but for statements about images; entries of one name
/// for different platforms are one index.
fn joined_by_name(store: &Store, index: &Index) -> Result<Vec<Descriptor>, ImageError> {
    let images = index.manifests.iter().filter(|d| !d.annotations.contains_key(ATTESTATION));
    let mut entries: Vec<Descriptor> = Vec::new();
    let mut groups: Vec<(Result<Reference, String>, Vec<&Descriptor>)> = Vec::new();
    for entry in images {
        let is_part = entry.platform.is_some() && !media_type::is_index(&entry.media_type);
        match name_of(entry).filter(|_| is_part) {
            None => entries.push(entry.clone()),
            Some(name) => match groups.iter_mut().find(|(other, _)| *other == name) {
                Some((_, group)) => group.push(entry),
                None => groups.push((name, vec![entry])),
            },
        }
    }
    for (_, group) in groups {
        let platforms: BTreeSet<_> =
            group.iter().filter_map(|d| Platform::of_json(d.platform.as_ref()?)).collect();
        // Of two images for one platform the last has the name, as in an archive of one platform.
        if platforms.len() < 2 || platforms.len() < group.len() {
            entries.extend(group.into_iter().cloned());
            continue;
        }
        let name = |d: &Descriptor| {
            let mut named = d.annotations.clone();
            named.retain(|key, _| matches!(&**key, REF_NAME | CONTAINERD_NAME));
            named
        };
        let children = group.iter().map(|d| {
            let mut child = (*d).clone();
            child
                .annotations
                .retain(|key, _| !matches!(&**key, REF_NAME | CONTAINERD_NAME | CREATED));
            child
        });
        let is_docker = group.iter().all(|d| d.media_type == media_type::DOCKER_MANIFEST);
        let joined = Index::joined(children.collect(), BTreeMap::new(), is_docker);
        let mut top = put_index(store, &joined)?;
        top.annotations = name(group[0]);
        entries.push(top);
    }
    Ok(entries)
}
