//! Pulls and pushes: how they are shown, and what kept an image from being pulled or pushed.
//!
//! # Not here
//!
//! The protocol: [`crate::registry`]. Where settings and credentials are: the caller, who makes the
//! [`Client`].

use super::failure::{self, Class, Failure};
use crate::export::{self, Annotation, Compression, Encoding, PackOptions};
use crate::image::{
    self, Closure, Image, ImageError, Offline, PullProgress, RegistrySource, ResolvedRef, Selector,
    StoreSource, StoredImage, load_stored,
};
use crate::oci::{Descriptor, Digest, DocumentError, Platform, Reference, media_type};
use crate::progress::{self, Event, Progress, Vertex};
use crate::registry::{Client, RegistryError, Remote};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

/// Shows blobs as parts of a vertex.
#[derive(Debug)]
pub struct Shown<'a> {
    progress: &'a Progress,
    vertex: Digest,
    /// What is done to blobs: put in front of their digests.
    doing: &'static str,
}

impl<'a> Shown<'a> {
    /// Shows blobs below `vertex`; `doing` is put in front of their digests.
    pub fn new(progress: &'a Progress, vertex: Digest, doing: &'static str) -> Self {
        Self { progress, vertex, doing }
    }
}

impl PullProgress for Shown<'_> {
    fn blob(&self, digest: &Digest, current: u64, total: u64, is_done: bool) {
        let id = match self.doing {
            "" => digest.to_string(),
            doing => format!("{doing} {digest}"),
        };
        let (vertex, total) = (self.vertex, Some(total));
        self.progress.emit(Event::Status { vertex, id, current, total, is_done });
    }
}

/// A client of registries that is made when it is needed first: a build whose images are here
/// reads no settings of registries.
pub struct Clients<'a> {
    make: Box<dyn Fn() -> Result<Client, Failure> + 'a>,
    made: OnceCell<Client>,
}

/// Settings of registries that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct NoClient(pub Failure);

impl std::fmt::Debug for Clients<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("made", &self.made).finish_non_exhaustive()
    }
}

impl<'a> Clients<'a> {
    /// Takes what makes the client.
    pub fn new(make: impl Fn() -> Result<Client, Failure> + 'a) -> Self {
        Self { make: Box::new(make), made: OnceCell::new() }
    }

    /// Returns the client.
    ///
    /// # Errors
    ///
    /// [`NoClient`] with the failure to show.
    pub fn get(&self) -> Result<&Client, NoClient> {
        match self.made.get() {
            Some(client) => Ok(client),
            None => {
                let client = (self.make)().map_err(NoClient)?;
                Ok(self.made.get_or_init(|| client))
            }
        }
    }
}

/// What a build needs to pull images.
#[derive(Debug)]
pub struct Pulls<'a> {
    /// The client.
    pub clients: Clients<'a>,
    /// Shows what is fetched.
    pub progress: &'a Progress,
    /// Whether the registry is asked even for what the store has: `--pull`.
    pub is_forced: bool,
    /// What names were found to mean, so that all platforms of a build come from one index.
    looked_up: RefCell<BTreeMap<String, ResolvedRef>>,
}

/// A pull that failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PullFailed(#[from] pub ImageError);

impl<'a> Pulls<'a> {
    /// Makes pulls that are shown by `progress`.
    pub fn new(clients: Clients<'a>, progress: &'a Progress, is_forced: bool) -> Self {
        Self { clients, progress, is_forced, looked_up: RefCell::default() }
    }

    /// Brings an image into the store, showing how.
    ///
    /// # Errors
    ///
    /// [`PullFailed`].
    pub fn pull(
        &self,
        client: &Client,
        store: &Store,
        name: &Reference,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<(ResolvedRef, Image), PullFailed> {
        let remote = client.remote_of(name).map_err(ImageError::from)?;
        let known = self.looked_up.borrow().get(&name.to_string()).cloned();
        let named = match known {
            Some(named) => named,
            None => self.look_up(store, &remote, name)?,
        };
        let image = self.fetch(store, &remote, name, &named, platform, cancel)?;
        Ok((named, image))
    }

    fn look_up(
        &self,
        store: &Store,
        remote: &Remote,
        name: &Reference,
    ) -> Result<ResolvedRef, PullFailed> {
        let offline = if self.is_forced { Offline::Fail } else { Offline::UseLast };
        let shown = Vertex::internal(format!("[internal] load metadata for {name}"));
        let named = self.show(shown, |_| image::look_up(store, remote, name, offline))?;
        if let Some(outage) = &named.outage {
            let last = named.descriptor.digest;
            self.progress.notice(format!("{outage}; using what {name} was before: {last}"));
        }
        self.looked_up.borrow_mut().insert(name.to_string(), named.clone());
        Ok(named)
    }

    /// Brings an image of several platforms into the store, all of it; returns the platforms.
    ///
    /// # Errors
    ///
    /// [`PullFailed`].
    pub fn pull_all(
        &self,
        client: &Client,
        store: &Store,
        name: &Reference,
        cancel: &Cancel,
    ) -> Result<Vec<Platform>, PullFailed> {
        let remote = client.remote_of(name).map_err(ImageError::from)?;
        let shown = Vertex::internal(format!("[internal] pull all platforms of {name}"));
        self.show(shown, |vertex| {
            let named = image::look_up(store, &remote, name, Offline::Fail)?;
            let watch = Shown::new(self.progress, vertex, "");
            let source = RegistrySource { remote: remote.clone(), watch: &watch };
            image::fetch(store, &source, &named.descriptor, Selector::All, cancel)?;
            Ok(StoredImage::read(store, &named.descriptor)?.platforms())
        })
    }

    fn fetch(
        &self,
        store: &Store,
        remote: &Remote,
        name: &Reference,
        named: &ResolvedRef,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<Image, PullFailed> {
        let descriptor = &named.descriptor;
        let full = match name.digest() {
            Some(_) => name.to_string(),
            None => format!("{name}@{}", descriptor.digest),
        };
        self.show(Vertex::internal(format!("[internal] pull {full}")), |vertex| {
            let watch = Shown::new(self.progress, vertex, "");
            image::pull(store, remote, name, descriptor, platform, &watch, cancel)
        })
    }

    fn show<T>(
        &self,
        vertex: Vertex,
        work: impl FnOnce(Digest) -> Result<T, ImageError>,
    ) -> Result<T, PullFailed> {
        show(self.progress, vertex, work).map_err(PullFailed)
    }
}

/// Shows a piece of work as a vertex of its own.
///
/// # Errors
///
/// That of the work.
pub fn show<T>(
    progress: &Progress,
    vertex: Vertex,
    work: impl FnOnce(Digest) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    let digest = vertex.digest;
    progress.started(vertex);
    let result = work(digest);
    let outcome = match &result {
        Ok(_) => progress::Outcome::Ran,
        Err(ImageError::Cancelled) => progress::Outcome::Cancelled,
        Err(error) => progress::Outcome::Failed(failure::chain(error)),
    };
    progress.done(digest, outcome);
    result
}

/// Makes a failure of what kept an image from being pulled or pushed.
pub fn failure_of(error: &ImageError) -> Failure {
    let class = match error {
        ImageError::Cancelled => return Failure::new(Class::Interrupted, "interrupted"),
        error if error.is_remote() => Class::Network,
        _ => Class::Environment,
    };
    let failure = Failure::of(class, error);
    match error {
        ImageError::Registry(error) => with_hint(failure, error),
        error if hint_of_platform(error).is_some() => {
            hint_of_platform(error).into_iter().fold(failure, Failure::with_hint)
        }
        ImageError::NoTag { near, count, .. } if !near.is_empty() => {
            let more = match count - near.len().min(*count) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            failure.with_hint(format!("tags that are there: {}{more}", near.join(", ")))
        }
        ImageError::NoTag { .. } => {
            failure.with_hint("check the name and the tag: the registry lists no tags for it")
        }
        _ => failure,
    }
}

/// Returns what to do where an image is not there for a platform.
pub fn hint_of_platform(error: &ImageError) -> Option<String> {
    match error {
        ImageError::NoPlatform { available, .. } => {
            let first = available.first()?;
            Some(format!("name one that there is: --platform {first}"))
        }
        ImageError::PlatformNotHere { wanted, .. } => {
            Some(format!("fetch it: builder pull --platform {wanted} IMAGE"))
        }
        _ => None,
    }
}

/// Makes a failure of a registry's error.
pub fn failure_of_registry(error: RegistryError) -> Failure {
    failure_of(&error.into())
}

/// Shows the end of a vertex.
pub fn ended<T>(progress: &Progress, vertex: Digest, result: &Result<T, Failure>) {
    let outcome = match result {
        Ok(_) => progress::Outcome::Ran,
        Err(failure) if failure.class == Class::Interrupted => progress::Outcome::Cancelled,
        Err(failure) => progress::Outcome::Failed(failure.message.clone()),
    };
    progress.done(vertex, outcome);
}

/// Says whether a registry was not reached at all.
pub fn is_unreachable(error: &ImageError) -> bool {
    matches!(error, ImageError::Registry(RegistryError::Connection { .. }))
}

fn with_hint(failure: Failure, error: &RegistryError) -> Failure {
    match error {
        RegistryError::Forbidden { path, .. } => failure.with_hint(format!(
            "change that file, or name another image: cat {}",
            path.display()
        )),
        RegistryError::Unauthorized { host, .. } => {
            let host = if host == "docker.io" { String::new() } else { format!(" {host}") };
            failure
                .with_hint(format!("log in: builder login{host}"))
                .with_hint("or check the name: registries answer so for what does not exist, too")
        }
        RegistryError::Connection { host, what, .. } if what.contains("certificate of ours") => failure
            .with_hint(format!(
                "name one in registries.toml: [registry.\"{host}\"] keypair = [{{ cert = \"FILE\", key = \"FILE\" }}]"
            )),
        RegistryError::Connection { host, what, .. } if what.contains("certificate") => failure
            .with_hint(format!(
                "name its certificate in registries.toml: [registry.\"{host}\"] ca = [\"FILE\"]"
            )),
        _ => failure,
    }
}

/// What pushing takes.
#[derive(Debug)]
pub struct Pushes<'a> {
    /// The client.
    pub client: Client,
    /// Where the images are.
    pub store: &'a Store,
    /// Shows what is sent.
    pub progress: &'a Progress,
    /// What stops it.
    pub cancel: &'a Cancel,
}

impl Pushes<'_> {
    /// Makes an image of the store fit to be pushed. One whose layers all are compressed goes as it
    /// is, byte for byte, and so does an index; of one that is here in part, the image for the platform
    /// goes.
    ///
    /// # Errors
    ///
    /// The failure to show.
    pub fn prepared(
        &self,
        descriptor: &Descriptor,
        platform: Option<&Platform>,
        vertex: Digest,
    ) -> Result<Closure, Failure> {
        let (store, source) = (self.store, StoreSource(self.store));
        let failed = |error| failure_of(&error);
        let host = Platform::host();
        let mut wanted = platform.unwrap_or(&host).clone();
        if platform.is_none() && media_type::is_index(&descriptor.media_type) {
            if let Some(whole) = image::complete(store, descriptor).map_err(failed)? {
                return self.prepared_index(whole, vertex);
            }
            let found = StoredImage::read(store, descriptor).map_err(failed)?;
            let here = found.platforms();
            if let (None, [only]) = (found.best(&wanted), here.as_slice()) {
                wanted.clone_from(only);
            }
            if found.best(&wanted).is_none() {
                return Err(failed(found.lacks(&wanted)));
            }
            let what = match here.as_slice() {
                [_] => format!("only the image for {wanted} is here: that"),
                all => {
                    format!("{} images are here and others are not: that for {wanted}", all.len())
                }
            };
            self.progress.notice(format!("of {} {what} is pushed", descriptor.digest));
        }
        let wanted = &wanted;
        let mut whole =
            image::survey(store, &source, descriptor, Selector::For(wanted)).map_err(failed)?;
        let is_packed = |blob: &Descriptor| {
            !matches!(blob.media_type.as_str(), media_type::OCI_LAYER | media_type::DOCKER_LAYER)
        };
        let is_artifact = matches!(
            image::read(store, &whole.top, wanted),
            Err(ImageError::Document(DocumentError::NotAnImage { .. }))
        );
        if is_artifact || whole.blobs.iter().all(is_packed) {
            return Ok(whole);
        }
        let image = load_stored(store, &whole.top, wanted, self.cancel).map_err(failed)?;
        let context =
            export::Context { store, progress: self.progress, vertex, cancel: self.cancel };
        let options = PackOptions {
            compression: Encoding::new(Compression::Gzip, None),
            is_docker: whole.top.media_type == media_type::DOCKER_MANIFEST,
            annotations: image::annotations(store, &whole.top)
                .map_err(failed)?
                .into_iter()
                .map(|(name, value)| Annotation::of_manifest(name, value))
                .collect(),
            ..PackOptions::default()
        };
        let packed = export::pack(&context, &image, &options)
            .map_err(|error| Failure::of(Class::Environment, &error))?;
        whole = image::survey(store, &source, &packed.manifest, Selector::All).map_err(failed)?;
        Ok(whole)
    }

    /// Makes an index fit to be pushed, all of which is in the store: where layers of its images are
    /// not compressed, it lists images whose layers are.
    fn prepared_index(&self, whole: Closure, vertex: Digest) -> Result<Closure, Failure> {
        let (store, failed) = (self.store, |error| failure_of(&error));
        let is_plain = |blob: &Descriptor| {
            matches!(blob.media_type.as_str(), media_type::OCI_LAYER | media_type::DOCKER_LAYER)
        };
        if !whole.blobs.iter().any(is_plain) {
            return Ok(whole);
        }
        let found = StoredImage::read(store, &whole.top).map_err(failed)?;
        let Some(index) = found.index else { return Ok(whole) };
        // What a statement is about must stay what it is.
        let subjects: Vec<_> = index.manifests.iter().filter_map(image::subject).collect();
        let mut replaced = Vec::new();
        for (child, _, config) in &found.here {
            let is_own = index.manifests.iter().any(|listed| listed.digest == child.digest);
            if !is_own || subjects.contains(&child.digest) {
                continue;
            }
            let prepared = self.prepared(child, Some(&config.platform()), vertex)?;
            if prepared.top.digest != child.digest {
                replaced.push((child.digest, prepared.top));
            }
        }
        if replaced.is_empty() {
            return Ok(whole);
        }
        let index = image::with_replaced(&index, &replaced);
        let top = image::put_index(store, &index).map_err(|error| failed(error.into()))?;
        image::survey(store, &StoreSource(store), &top, Selector::All).map_err(failed)
    }

    /// Pushes to the repository of `name` under `tags`; without any, by the digest only.
    ///
    /// # Errors
    ///
    /// The failure to show.
    pub fn push(
        &self,
        image: &Closure,
        name: &Reference,
        tags: &[String],
        vertex: Digest,
    ) -> Result<(), Failure> {
        let remote = self.client.remote(&name.repository());
        let watch = Shown::new(self.progress, vertex, "pushing");
        image::push(self.store, &remote, image, tags, &watch, self.cancel)
            .map_err(|error| failure_of(&error))
    }
}
