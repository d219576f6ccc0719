//! `builder copy`: images between registries, layouts, archives and the store, byte for byte.
//!
//! Everything goes through the store, which keeps blobs only (nothing is unpacked): what it has is
//! not fetched, and what the other side has is not sent.

use super::Environment;
use super::failure::{Class, Failure};
use super::image_arg;
use super::pull::platform;
use super::registry;
use crate::export::{self, Dest, Form, OutputKind, OutputSpec, Packed};
use crate::image::{
    self, BlobSource, Closure, ImageError, LayoutArchive, LayoutRef, LayoutSource, Offline,
    RegistrySource, Selector, StoreSource, load_archive,
};
use crate::job::transfers::{self, Pushes, Shown, failure_of};
use crate::oci::{Descriptor, Digest, DocumentError, Platform, Reference, annotation, media_type};
use crate::progress::{Mode, Output, Progress, Vertex};
use crate::store::Store;
use crate::sys::foreign::Given;
use std::path::{Path, PathBuf};

/// Copy an image from one place to another.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Places:
  docker://NAME              a registry
  oci:DIR[:TAG]              an OCI layout
  oci-archive:FILE[:NAME]    an OCI layout in a tar
  docker-archive:FILE[:NAME] what docker save writes
  NAME, store:NAME           the store")]
pub struct CopyArgs {
    /// Where the image is
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where it goes
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
    /// Copy all platforms of an image that has several
    #[arg(short, long, conflicts_with = "platform")]
    pub all: bool,
    /// Platform to copy
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
    /// How to show progress: auto, tty, plain, rawjson or quiet
    #[arg(long, value_name = "MODE", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: Mode,
    /// Print nothing but the digest
    #[arg(short, long)]
    pub quiet: bool,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
}

/// A place images are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Registry(Reference),
    Layout(String),
    Archive { kind: OutputKind, file: PathBuf, name: Option<String> },
    Store(String),
}

impl Endpoint {
    /// Reads a place by its prefix; without one it is the store.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(Class::Usage, message);
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(reference(name)?));
        }
        for (prefix, kind) in
            [("oci-archive:", OutputKind::Oci), ("docker-archive:", OutputKind::Docker)]
        {
            let Some(rest) = text.strip_prefix(prefix) else { continue };
            let (file, name) = match rest.split_once(':') {
                Some((file, name)) => (file, Some(name)),
                None => (rest, None),
            };
            if file.is_empty() {
                return Err(usage(format!("{text:?} names no file")));
            }
            name.map(reference).transpose()?;
            return Ok(Self::Archive { kind, file: file.into(), name: name.map(str::to_owned) });
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return Ok(Self::Layout(rest.to_owned()));
        }
        Ok(Self::Store(text.strip_prefix("store:").unwrap_or(text).to_owned()))
    }
}

impl Endpoint {
    /// Checks that `policy.json` lets an image be read there. Registries are checked when they are
    /// asked.
    pub(super) fn check(&self, environment: &Environment) -> Result<(), Failure> {
        match self {
            Self::Registry(_) | Self::Store(_) => Ok(()),
            Self::Layout(text) => {
                let reference = LayoutRef::parse(text).map_err(|error| failure_of(&error))?;
                registry::check_place(environment, "oci", &reference.dir)
            }
            Self::Archive { kind, file, .. } => {
                let is_oci = *kind == OutputKind::Oci;
                let transport = if is_oci { "oci-archive" } else { "docker-archive" };
                registry::check_place(environment, transport, file)
            }
        }
    }
}

/// Reads a name, whole or short.
fn reference(text: &str) -> Result<Reference, Failure> {
    let name = text.parse::<Reference>().map_err(|e| Failure::of(Class::Usage, &e))?;
    Ok(name.or_latest())
}

/// Copies an image; prints its digest.
///
/// # Errors
///
/// The failure to show; the destination is as it was, but for blobs without a name.
pub fn run(args: &CopyArgs, environment: &Environment) -> Result<(), Failure> {
    let (from, to) = (Endpoint::parse(&args.source)?, Endpoint::parse(&args.destination)?);
    if args.all && matches!(to, Endpoint::Archive { kind: OutputKind::Docker, .. }) {
        let message = "a docker-archive holds an image of one platform: --all has no place there";
        return Err(Failure::new(Class::Usage, message)
            .with_hint("choose a platform: builder copy --platform linux/amd64 …"));
    }
    let wanted = platform(&args.platform)?;
    from.check(environment)?;
    let store = environment.store()?;
    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let output = Output::stderr(environment.is_coloured);
    let progress = Progress::new(mode, output, environment.started);
    let client = registry::client(environment, args.tls.verifies, &progress)?;
    let pushes = Pushes { client, store: &store, progress: &progress, cancel: &environment.cancel };
    let vertex = Vertex::internal(format!("[internal] copy {} {}", args.source, args.destination));
    let shown = vertex.digest;
    progress.started(vertex);
    let copy = Copy { pushes: &pushes, platform: wanted, is_all: args.all, vertex: shown };
    let result = copy.read(&from).and_then(|image| {
        copy.write(&image, &to)?;
        Ok(image.top.digest)
    });
    transfers::ended(&progress, shown, &result);
    progress.finish();
    environment.print(&format!("{}\n", result?));
    store.sync().map_err(|error| Failure::of(Class::Environment, &error))
}

pub(super) struct Copy<'a> {
    pushes: &'a Pushes<'a>,
    platform: Platform,
    is_all: bool,
    vertex: Digest,
}

impl<'a> Copy<'a> {
    /// Writes what is in the store already.
    pub(super) fn of(pushes: &'a Pushes<'a>, vertex: Digest) -> Self {
        Self { pushes, platform: Platform::host(), is_all: true, vertex }
    }

    fn store(&self) -> &Store {
        self.pushes.store
    }

    /// Brings the image into the store.
    fn read(&self, from: &Endpoint) -> Result<Closure, Failure> {
        let failed = |error| failure_of(&error);
        let store = self.store();
        match from {
            Endpoint::Registry(name) => {
                let remote =
                    self.pushes.client.remote_of(name).map_err(transfers::failure_of_registry)?;
                let named = image::look_up(store, &remote, name, Offline::Fail).map_err(failed)?;
                let watch = Shown::new(self.pushes.progress, self.vertex, "");
                let source = RegistrySource { remote, watch: &watch };
                self.fetch(&source, &named.descriptor)
            }
            Endpoint::Layout(text) => {
                let reference = LayoutRef::parse(text).map_err(failed)?;
                let source = LayoutSource { dir: reference.dir.clone() };
                let top = source.find(&reference, &self.platform).map_err(failed)?;
                self.fetch(&source, &top)
            }
            Endpoint::Archive { kind, file, name } => self.unpack(*kind, file, name.as_deref()),
            Endpoint::Store(text) => {
                let found = image_arg::image(store, text).map_err(|e| Failure::of_images(&e))?;
                self.fetch(&StoreSource(store), &found.descriptor)
            }
        }
    }

    /// Brings the image of an archive into the store.
    fn unpack(
        &self,
        kind: OutputKind,
        file: &Path,
        name: Option<&str>,
    ) -> Result<Closure, Failure> {
        let input = Given::open_stream(file, self.pushes.cancel)
            .map_err(|e| super::failure::cannot("open", file, &e))?;
        let shown = file.display().to_string();
        let (store, cancel, failed) =
            (self.store(), self.pushes.cancel, |error| failure_of(&error));
        let none = || {
            let message =
                format!("{shown} has no single image: {} was asked for", name.unwrap_or("one"));
            Failure::new(Class::Usage, message)
        };
        if kind == OutputKind::Oci {
            let archive = LayoutArchive::read(store, input, &shown, cancel).map_err(failed)?;
            let top = archive.find(name, &self.platform).map_err(failed)?.ok_or_else(none)?;
            return self.fetch(&archive, &top);
        }
        let loaded = load_archive(store, input, &shown, &self.platform, cancel).map_err(failed)?;
        let several = loaded.len() > 1;
        let wanted = name.map(reference).transpose()?;
        let fits = |image: &image::Loaded| {
            wanted.as_ref().map_or(!several, |name| image.names.contains(name))
        };
        let found = loaded.into_iter().find(fits).and_then(|loaded| loaded.image.manifest);
        self.fetch(&StoreSource(store), &found.ok_or_else(none)?)
    }

    fn fetch(&self, source: &dyn BlobSource, top: &Descriptor) -> Result<Closure, Failure> {
        let which = if self.is_all { Selector::All } else { Selector::For(&self.platform) };
        image::fetch(self.store(), source, top, which, self.pushes.cancel)
            .map_err(|error| failure_of(&error))
    }

    /// Puts an image, all of which is in the store, into a place.
    pub(super) fn write(&self, image: &Closure, to: &Endpoint) -> Result<(), Failure> {
        let store = self.store();
        match to {
            Endpoint::Registry(name) => {
                if name.digest().is_some_and(|digest| *digest != image.top.digest) {
                    let message = format!("{name} cannot be the name of {}", image.top.digest);
                    return Err(Failure::new(Class::Usage, message));
                }
                let tags: Vec<_> = name.tag().map(str::to_owned).into_iter().collect();
                self.pushes.push(image, name, &tags, self.vertex)
            }
            Endpoint::Store(text) => {
                let name = text.parse::<Reference>().map_err(|e| Failure::of(Class::Usage, &e))?;
                if name.digest().is_some() {
                    let message = format!("{text} has a digest: a name to give has none");
                    return Err(Failure::new(Class::Usage, message));
                }
                let mut top = image.top.clone();
                top.platform = self.platform_of(image)?;
                store
                    .tag(&name.or_latest().to_string(), &top)
                    .map_err(|error| Failure::of(Class::Environment, &error))
            }
            Endpoint::Layout(text) => {
                let reference = LayoutRef::parse(text).map_err(|error| failure_of(&error))?;
                let mut spec =
                    OutputSpec::new(OutputKind::Oci, Some(Dest::Path(reference.dir.clone())));
                spec.form = Form::Dir;
                self.layout(image, &spec, reference.tag, &[])
            }
            Endpoint::Archive { kind, file, name } => {
                let spec = OutputSpec::new(*kind, Some(Dest::Path(file.clone())));
                let names: Vec<_> =
                    name.as_deref().map(reference).transpose()?.into_iter().collect();
                // A bare word is a name to us, and a tag to others.
                let tag = name.clone().filter(|name| !name.contains(['/', ':']));
                match kind {
                    OutputKind::Oci => self.layout(image, &spec, tag, &names),
                    _ => export::write_archive(
                        &self.context(),
                        &[(&self.packed(image)?, &names)],
                        &spec,
                        &mut std::io::sink(),
                    )
                    .map_err(|error| Failure::of(Class::Environment, &error)),
                }
            }
        }
    }

    fn context(&self) -> export::Context<'_> {
        export::Context {
            store: self.store(),
            progress: self.pushes.progress,
            vertex: self.vertex,
            cancel: self.pushes.cancel,
        }
    }

    fn layout(
        &self,
        image: &Closure,
        spec: &OutputSpec,
        tag: Option<String>,
        names: &[Reference],
    ) -> Result<(), Failure> {
        let mut listed = image.top.clone();
        listed.platform = self.platform_of(image)?;
        listed.annotations.extend(tag.map(|tag| (annotation::REF_NAME.to_owned(), tag)));
        export::write_layout(&self.context(), image, listed, names, spec)
            .map_err(|error| Failure::of(Class::Environment, &error))
    }

    /// Writes an index into a layout that has its blobs already, under a tag.
    pub(super) fn write_layout(
        &self,
        image: &Closure,
        dir: &Path,
        tag: Option<String>,
    ) -> Result<(), Failure> {
        let mut spec = OutputSpec::new(OutputKind::Oci, Some(Dest::Path(dir.to_owned())));
        spec.form = Form::Dir;
        self.layout(image, &spec, tag, &[])
    }

    /// Returns what an image runs on; `None` for an index and for what is not an image.
    fn platform_of(&self, image: &Closure) -> Result<Option<serde_json::Value>, Failure> {
        if media_type::is_index(&image.top.media_type) {
            return Ok(None);
        }
        match image::read(self.store(), &image.top, &self.platform) {
            Ok((_, _, config)) => Ok(Some(config.platform().to_json())),
            Err(ImageError::Document(DocumentError::NotAnImage { .. })) => Ok(None),
            Err(error) => Err(failure_of(&error)),
        }
    }

    /// Describes an image of the store as archives want it.
    fn packed(&self, image: &Closure) -> Result<Packed, Failure> {
        let read = image::read(self.store(), &image.top, &self.platform);
        let (descriptor, manifest, config) = read.map_err(|error| failure_of(&error))?;
        Ok(Packed {
            manifest: descriptor,
            config: manifest.config,
            layers: manifest.layers,
            diff_ids: config.diff_ids().unwrap_or_default(),
            platform: config.platform(),
            created: config.created().map(str::to_owned),
            descriptor_annotations: std::collections::BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_reported_by_their_prefix() {
        let name = |text: &str| text.parse::<Reference>().unwrap().or_latest();
        let archive = |kind, file: &str, name: Option<&str>| Endpoint::Archive {
            kind,
            file: file.into(),
            name: name.map(str::to_owned),
        };
        for (text, want) in [
            ("docker://a.example/b", Endpoint::Registry(name("a.example/b"))),
            ("oci:/no/dir:tag", Endpoint::Layout("/no/dir:tag".to_owned())),
            ("oci-archive:x.tar", archive(OutputKind::Oci, "x.tar", None)),
            ("docker-archive:x.tar:a:1", archive(OutputKind::Docker, "x.tar", Some("a:1"))),
            ("store:a", Endpoint::Store("a".to_owned())),
            ("a:1", Endpoint::Store("a:1".to_owned())),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap(), want, "{text}");
        }
        for text in ["docker://", "docker://A", "oci-archive:", "oci-archive:x:A"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
