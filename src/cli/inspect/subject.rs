//! The image that is inspected: in the store, or where it is.
//!
//! Documents of images elsewhere go into a store that is thrown away; the user's own is not
//! opened for them.

use crate::cli::copy::Endpoint;
use crate::cli::failure::{Class, Failure, cannot};
use crate::cli::images::unpacked_size;
use crate::cli::{Environment, image_arg, registry, throwaway_store};
use crate::export::OutputKind;
use crate::image::{
    self, BlobSource, Chosen, ImageError, LayoutArchive, LayoutRef, LayoutSource, NoProgress,
    Offline, RegistrySource, StoreSource, StoredImage,
};
use crate::job::transfers::{failure_of, failure_of_registry};
use crate::oci::annotation::ATTESTATION;
use crate::oci::{Config, Descriptor, Digest, Document, Index, Platform, Reference};
use crate::progress::Progress;
use crate::store::{Store, Tagged};
use crate::sys::foreign::Given;
use std::cell::OnceCell;
use std::path::Path;

/// Which document of an image is printed as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The manifest, or the index.
    Manifest,
    /// The config.
    Config,
}

/// What is known of an image.
#[derive(Debug)]
pub(super) struct Subject {
    /// Where it begins: a manifest or an index.
    pub(super) top: Descriptor,
    /// The image for the platform; none where no platform was asked for and none fits.
    pub(super) image: Option<Chosen>,
    /// The images of an index, each with whether the store has it; `None` where it is not known.
    pub(super) platforms: Option<Vec<(Descriptor, Option<bool>)>>,
    /// The id of an index, where it is that which is shown.
    pub(super) index_id: Option<Digest>,
    /// Names that it has, as people write them.
    pub(super) tags: Vec<String>,
    /// Names with a digest.
    pub(super) digests: Vec<String>,
    /// Bytes of its files or, where it is not unpacked, of its layers.
    pub(super) size: u64,
}

/// A document as it is, with what it lists.
pub(in crate::cli) struct Shown {
    /// The name that it was found by.
    pub(in crate::cli) name: Option<Reference>,
    /// How it is described.
    pub(in crate::cli) top: Descriptor,
    /// Its bytes.
    pub(in crate::cli) bytes: Vec<u8>,
    /// The index, where it is one.
    pub(in crate::cli) index: Option<Index>,
    /// The configs of its images.
    pub(in crate::cli) configs: Vec<Config>,
}

/// Where images are, each opened when it is needed first.
pub(in crate::cli) struct Places<'e> {
    environment: &'e Environment,
    verifies_tls: bool,
    own: OnceCell<Store>,
    scratch: OnceCell<(Store, tempfile::TempDir)>,
}

/// An image that was found, before its documents are read.
struct Found<'s> {
    /// The store that documents are kept in.
    store: &'s Store,
    source: Box<dyn BlobSource + 's>,
    top: Descriptor,
    names: Vec<Reference>,
    /// Whether the store is where it is.
    is_own: bool,
}

impl<'e> Places<'e> {
    pub(in crate::cli) fn new(environment: &'e Environment, verifies_tls: bool) -> Self {
        Self { environment, verifies_tls, own: OnceCell::new(), scratch: OnceCell::new() }
    }

    fn own(&self) -> Result<&Store, Failure> {
        if let Some(store) = self.own.get() {
            return Ok(store);
        }
        let store = self.environment.store()?;
        Ok(self.own.get_or_init(|| store))
    }

    fn scratch(&self) -> Result<&Store, Failure> {
        if let Some((store, _)) = self.scratch.get() {
            return Ok(store);
        }
        let made = throwaway_store()?;
        Ok(&self.scratch.get_or_init(|| made).0)
    }

    fn find(&self, text: &str, platform: &Platform) -> Result<Found<'_>, Failure> {
        let failed = |error: ImageError| failure_of(&error);
        let cancel = &self.environment.cancel;
        let endpoint = match text.starts_with("docker://") {
            true => Endpoint::parse(text)?,
            // An image may be called `oci:1`.
            false => match image::find(self.own()?, text).map_err(failed)? {
                Some(found) => return self.of_store(found),
                None => Endpoint::parse(text)?,
            },
        };
        endpoint.check(self.environment)?;
        match endpoint {
            Endpoint::Registry(name) => {
                let store = self.scratch()?;
                let client =
                    registry::client(self.environment, self.verifies_tls, &Progress::quiet())?;
                let remote = client.remote_of(&name).map_err(failure_of_registry)?;
                let named = image::look_up(store, &remote, &name, Offline::Fail).map_err(failed)?;
                let source = Box::new(RegistrySource { remote, watch: &NoProgress });
                let top = named.descriptor;
                Ok(Found { store, source, top, names: vec![name], is_own: false })
            }
            Endpoint::Layout(text) => {
                let reference = LayoutRef::parse(&text).map_err(failed)?;
                let source = LayoutSource { dir: reference.dir.clone() };
                let top = source.find(&reference, platform).map_err(failed)?;
                let (store, source) = (self.scratch()?, Box::new(source));
                Ok(Found { store, source, top, names: Vec::new(), is_own: false })
            }
            Endpoint::Archive { kind: OutputKind::Oci, file, name } => {
                let store = self.scratch()?;
                let input = Given::open_stream(&file, cancel)
                    .map_err(|error| cannot("open", &file, &error))?;
                let shown = file.display().to_string();
                let archive = LayoutArchive::read(store, input, &shown, cancel).map_err(failed)?;
                let top = archive.find(name.as_deref(), platform).map_err(failed)?;
                let top = top.ok_or_else(|| no_single_image(&file, name.as_deref()))?;
                Ok(Found {
                    store,
                    source: Box::new(archive),
                    top,
                    names: Vec::new(),
                    is_own: false,
                })
            }
            Endpoint::Archive { file, .. } => {
                let message = format!("{text}: a docker-archive is not inspected where it is");
                let hint = format!("load it: builder load -i {}", file.display());
                Err(Failure::new(Class::Usage, message).with_hint(hint))
            }
            Endpoint::Store(name) => {
                let found = image_arg::image(self.own()?, &name);
                self.of_store(found.map_err(|error| Failure::of_images(&error))?)
            }
        }
    }

    fn of_store(&self, found: Tagged) -> Result<Found<'_>, Failure> {
        let store = self.own()?;
        let images = store.images().map_err(|error| Failure::of(Class::Environment, &error))?;
        let names = images
            .into_iter()
            .filter(|image| image.descriptor.digest == found.descriptor.digest)
            .filter_map(|image| Reference::parse(&image.name?).ok())
            .collect();
        let (source, top) = (Box::new(StoreSource(store)), found.descriptor);
        Ok(Found { store, source, top, names, is_own: true })
    }

    /// Returns the bytes of a document. Without a platform an index is shown as it is.
    pub(super) fn raw(
        &self,
        text: &str,
        part: Part,
        platform: Option<&Platform>,
    ) -> Result<Vec<u8>, Failure> {
        let failed = |error: ImageError| failure_of(&error);
        let host = Platform::host();
        let found = self.find(text, platform.unwrap_or(&host))?;
        let source = found.source.as_ref();
        let bytes = image::document(found.store, source, &found.top).map_err(failed)?;
        let parsed =
            Document::parse_any(&bytes, &found.top.digest).map_err(|error| failed(error.into()))?;
        let wanted = match (parsed, part, platform) {
            (Document::Manifest(_), Part::Manifest, _) => return Ok(bytes),
            (Document::Index(_), Part::Manifest, None) => return Ok(bytes),
            // That of an artifact too.
            (Document::Manifest(manifest), Part::Config, _) => manifest.config,
            (Document::Index(_), part, _) => {
                let chosen = choose(&found, platform.unwrap_or(&host)).map_err(failed)?;
                if part == Part::Config { chosen.1.config } else { chosen.0 }
            }
        };
        image::document(found.store, source, &wanted).map_err(failed)
    }

    /// Returns a document with what it is called, and the images that it is or lists, each with its
    /// config if `reads_configs` and it can be read.
    pub(in crate::cli) fn document(
        &self,
        text: &str,
        reads_configs: bool,
    ) -> Result<Shown, Failure> {
        let failed = |error: ImageError| failure_of(&error);
        let host = Platform::host();
        let found = self.find(text, &host)?;
        let source = found.source.as_ref();
        let bytes = image::document(found.store, source, &found.top).map_err(failed)?;
        let parsed = Document::parse_any(&bytes, &found.top.digest);
        let index = match parsed.map_err(|error| failed(error.into()))? {
            Document::Index(index) => Some(index),
            Document::Manifest(_) => None,
        };
        let listed = index.as_ref().map_or(vec![found.top.clone()], |it| it.manifests.clone());
        let mut configs = Vec::new();
        let images = listed.iter().filter(|d| !d.annotations.contains_key(ATTESTATION));
        for child in images.filter(|_| reads_configs) {
            // Of an index of the store some images need not be here.
            let read = image::choose(found.store, source, child, &host);
            configs.extend(read.ok().flatten().map(|(_, _, config)| config));
        }
        let name = found.names.into_iter().next();
        Ok(Shown { name, top: found.top, bytes, index, configs })
    }

    /// Returns what is known of an image. Without a platform this machine's is shown, if there is
    /// one for it.
    pub(super) fn subject(
        &self,
        text: &str,
        platform: Option<&Platform>,
    ) -> Result<Subject, Failure> {
        let failed = |error: ImageError| failure_of(&error);
        let host = Platform::host();
        let found = self.find(text, platform.unwrap_or(&host))?;
        let bytes =
            image::document(found.store, found.source.as_ref(), &found.top).map_err(failed)?;
        let platforms = match Document::parse_any(&bytes, &found.top.digest) {
            Ok(Document::Index(index)) => {
                let is_here =
                    |d: &Descriptor| found.is_own.then(|| found.store.has_blob(&d.digest));
                let images = index.manifests.into_iter();
                let images = images.filter(|d| !d.annotations.contains_key(ATTESTATION));
                Some(images.map(|d| (d.clone(), is_here(&d))).collect::<Vec<_>>())
            }
            _ => None,
        };
        let is_several = platforms.as_ref().is_some_and(|listed| {
            listed.iter().filter(|(_, is_here)| *is_here == Some(true)).count() > 1
        });
        let image = match choose(&found, platform.unwrap_or(&host)) {
            Ok(chosen) => Some(chosen),
            Err(ImageError::NoPlatform { .. }) if platform.is_none() && platforms.is_some() => None,
            // Of an index of the store some images may be here.
            Err(ImageError::MissingBlob { .. }) if found.is_own && platforms.is_some() => {
                let stored = StoredImage::read(found.store, &found.top).map_err(failed)?;
                match platform {
                    Some(wanted) if stored.best(wanted).is_none() => {
                        return Err(failed(stored.lacks(wanted)));
                    }
                    Some(wanted) => stored.best(wanted).cloned(),
                    None => stored.shown().cloned(),
                }
            }
            Err(error) => return Err(failed(error)),
        };
        let index_id =
            (platform.is_none() && (is_several || image.is_none())).then_some(found.top.digest);
        let size = match &image {
            Some((_, manifest, config)) if found.is_own => {
                unpacked_size(found.store, manifest, config)
                    .map_err(|error| Failure::of_images(&error))?
            }
            Some((_, manifest, _)) => manifest.layers.iter().map(|layer| layer.size).sum(),
            None => 0,
        };
        let shown = match (&image, found.is_own) {
            (Some((descriptor, ..)), true) if index_id.is_none() => descriptor.digest,
            _ => found.top.digest,
        };
        let names = &found.names;
        let tagged = names.iter().filter(|name| name.digest().is_none() || found.is_own);
        let mut digests: Vec<_> =
            names.iter().map(|name| format!("{}@{shown}", name.familiar_name())).collect();
        digests.dedup();
        Ok(Subject {
            tags: tagged.map(Reference::familiar).collect(),
            top: found.top,
            image,
            platforms,
            index_id,
            digests,
            size,
        })
    }
}

fn choose(found: &Found<'_>, platform: &Platform) -> Result<Chosen, ImageError> {
    let chosen = image::choose(found.store, found.source.as_ref(), &found.top, platform)?;
    chosen.ok_or_else(|| ImageError::NoPlatform {
        name: found.source.name(),
        wanted: platform.clone(),
        available: Vec::new(),
    })
}

fn no_single_image(file: &Path, name: Option<&str>) -> Failure {
    let message = match name {
        Some(name) => format!("{} has no image {name}", file.display()),
        None => format!("{} has several images: name one", file.display()),
    };
    let hint = format!("name it behind the file: oci-archive:{}:NAME", file.display());
    Failure::new(Class::Usage, message).with_hint(hint)
}
