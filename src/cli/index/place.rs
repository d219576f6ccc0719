//! Where indexes and their images are, and what annotations of them are wanted.

use crate::cli::Environment;
use crate::cli::copy::Endpoint;
use crate::cli::failure::{Class, Failure};
use crate::cli::image_arg;
use crate::export::{Annotation, AnnotationTarget, OutputKind};
use crate::image::{
    self, BlobSource, ImageError, LayoutArchive, LayoutRef, LayoutSource, Offline, RegistrySource,
    StoreSource,
};
use crate::job::transfers::{Shown, failure_of, failure_of_registry};
use crate::oci::annotation::ATTESTATION;
use crate::oci::{Descriptor, Index, Platform, Reference};
use crate::registry::{Client, Repository};
use crate::store::Store;
use crate::sys::foreign::Given;
use std::collections::BTreeMap;

/// The prefixes of places; what has none is the name of an image in a registry.
const PREFIXES: &[&str] = &["docker://", "oci:", "oci-archive:", "docker-archive:", "store:"];

/// Reads a place.
pub(super) fn parse(text: &str) -> Result<Endpoint, Failure> {
    if PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        return Endpoint::parse(text);
    }
    let parsed = text.parse::<Reference>();
    let name = parsed.map_err(|error| Failure::of(Class::Usage, &error).about(&text))?;
    Ok(Endpoint::Registry(name.or_latest()))
}

/// Reads a place that an index can be written to.
pub(super) fn parse_target(text: &str) -> Result<Endpoint, Failure> {
    let usage = |message: String| Failure::new(Class::Usage, message);
    let place = parse(text)?;
    match &place {
        Endpoint::Archive { kind: OutputKind::Docker, .. } => {
            Err(usage(format!("{text}: a docker-archive holds no index"))
                .with_hint("name an OCI archive: oci-archive:FILE:NAME"))
        }
        Endpoint::Registry(name) if name.digest().is_some() => {
            Err(usage(format!("{text} has a digest: a name to give has none")))
        }
        _ => Ok(place),
    }
}

/// What everything that reads and writes indexes works with.
pub(super) struct Desk<'a> {
    pub(super) environment: &'a Environment,
    pub(super) store: &'a Store,
    pub(super) client: &'a Client,
    pub(super) watch: &'a Shown<'a>,
}

/// An image or index that was found.
pub(super) struct Source<'a> {
    /// Where its blobs are.
    pub(super) blobs: Box<dyn BlobSource + 'a>,
    /// The repository that has them.
    pub(super) repository: Option<Repository>,
    /// How it is described.
    pub(super) top: Descriptor,
    /// Whether it is in the store.
    pub(super) is_stored: bool,
}

impl<'a> Desk<'a> {
    /// Finds an image or index.
    pub(super) fn find(&self, place: &Endpoint) -> Result<Source<'a>, Failure> {
        let failed = |error: ImageError| failure_of(&error);
        place.check(self.environment)?;
        let (store, cancel) = (self.store, &self.environment.cancel);
        let host = Platform::host();
        match place {
            Endpoint::Registry(name) => {
                let remote = self.client.remote_of(name).map_err(failure_of_registry)?;
                let named = image::look_up(store, &remote, name, Offline::Fail);
                let named = named.map_err(|error| hinted(failed(error), store, name))?;
                let repository = Some(name.repository());
                let blobs = Box::new(RegistrySource { remote, watch: self.watch });
                Ok(Source { blobs, repository, top: named.descriptor, is_stored: false })
            }
            Endpoint::Layout(text) => {
                let reference = LayoutRef::parse(text).map_err(failed)?;
                let source = LayoutSource { dir: reference.dir.clone() };
                let top = source.find(&reference, &host).map_err(failed)?;
                Ok(Source { blobs: Box::new(source), repository: None, top, is_stored: false })
            }
            Endpoint::Archive { kind: OutputKind::Oci, file, name } => {
                let shown = file.display().to_string();
                let input = Given::open_stream(file, cancel)
                    .map_err(|error| crate::cli::failure::cannot("open", file, &error))?;
                let archive = LayoutArchive::read(store, input, &shown, cancel).map_err(failed)?;
                let top = archive.find(name.as_deref(), &host).map_err(failed)?;
                let top = top.ok_or_else(|| {
                    let message = format!("{shown} has no single image: name one behind it");
                    Failure::new(Class::Usage, message)
                        .with_hint(format!("oci-archive:{shown}:NAME"))
                })?;
                Ok(Source { blobs: Box::new(archive), repository: None, top, is_stored: false })
            }
            Endpoint::Archive { file, .. } => {
                let message =
                    format!("{}: a docker-archive is not read where it is", file.display());
                let hint = format!("load it: builder load -i {}", file.display());
                Err(Failure::new(Class::Usage, message).with_hint(hint))
            }
            Endpoint::Store(text) => {
                let found = image_arg::image(store, text).map_err(|e| Failure::of_images(&e))?;
                let blobs = Box::new(StoreSource(store));
                Ok(Source { blobs, repository: None, top: found.descriptor, is_stored: true })
            }
        }
    }
}

/// Adds that the store has an image that its registry lacks, where that is so.
fn hinted(failure: Failure, store: &Store, name: &Reference) -> Failure {
    match store.resolve(&name.to_string()) {
        Ok(Some(_)) => {
            failure.with_hint(format!("the store has it: name it store:{}", name.familiar()))
        }
        _ => failure,
    }
}

/// What is to be noted, by where.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// On the index.
    pub(super) index: BTreeMap<String, String>,
    /// On the entry of the index where it is listed itself.
    pub(super) descriptor: BTreeMap<String, String>,
    /// On entries of the index, of one platform or of all.
    children: Vec<(Option<Platform>, String, String)>,
}

impl Notes {
    /// Reads `--annotation` options. What names no place is for the index, or with `child` for that
    /// entry.
    pub(super) fn parse(texts: &[String], child: Option<&Platform>) -> Result<Self, Failure> {
        let mut notes = Self::default();
        for text in texts {
            let usage = |what: String| Failure::new(Class::Usage, what);
            let has_place = text.split('=').next().is_some_and(|left| left.contains(':'));
            let parsed = Annotation::parse(text).map_err(|error| usage(error.to_string()))?;
            for Annotation { target, platform, name, value } in parsed {
                let target = match (has_place, child) {
                    (true, _) => target,
                    (false, Some(_)) => AnnotationTarget::ManifestDescriptor,
                    (false, None) => AnnotationTarget::Index,
                };
                match target {
                    AnnotationTarget::Index => drop(notes.index.insert(name, value)),
                    AnnotationTarget::IndexDescriptor => {
                        drop(notes.descriptor.insert(name, value));
                    }
                    AnnotationTarget::ManifestDescriptor => {
                        let platform = if has_place { platform } else { child.cloned() };
                        notes.children.push((platform, name, value));
                    }
                    AnnotationTarget::Manifest => {
                        let message = format!(
                            "--annotation {text}: the manifests of images are kept as they are"
                        );
                        let given = text.split_once(':').map_or(&**text, |(_, given)| given);
                        return Err(usage(message)
                            .with_hint(format!(
                                "annotate the entry of the index: manifest-descriptor:{given}"
                            ))
                            .with_hint(
                                "or the manifest when it is built: builder build --annotation …",
                            ));
                    }
                }
            }
        }
        Ok(notes)
    }

    /// Whether nothing in the index itself changes.
    pub(super) fn leaves_index(&self) -> bool {
        self.index.is_empty() && self.children.is_empty()
    }

    /// Puts notes on the entries of an index; those that name their platform win.
    pub(super) fn put_on(&self, children: &mut [Descriptor]) -> Result<(), Failure> {
        let named = |is_named: bool| {
            self.children.iter().filter(move |(platform, ..)| platform.is_some() == is_named)
        };
        for (platform, name, value) in named(false).chain(named(true)) {
            let mut is_met = platform.is_none();
            for child in children.iter_mut() {
                let fits = match platform {
                    Some(wanted) => platform_of(child).as_ref() == Some(wanted),
                    None => !child.annotations.contains_key(ATTESTATION),
                };
                if fits {
                    child.annotations.insert(name.clone(), value.clone());
                    is_met = true;
                }
            }
            if let (false, Some(wanted)) = (is_met, platform) {
                return Err(lacks(children, wanted));
            }
        }
        Ok(())
    }
}

/// Returns the platform of an entry of an index.
pub(super) fn platform_of(child: &Descriptor) -> Option<Platform> {
    child.platform.as_ref().and_then(Platform::of_json)
}

/// Returns the failure that says which platforms there are instead of the one that is wanted.
pub(super) fn lacks(children: &[Descriptor], wanted: &Platform) -> Failure {
    let index = Index::new(children.to_vec());
    let there: Vec<_> = index.platforms().iter().map(Platform::to_string).collect();
    let message = format!("no image for {wanted}: there are {}", there.join(", "));
    Failure::new(Class::Usage, message)
}
