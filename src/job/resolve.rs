//! Finding images: named contexts first, then the store, then registries.
//!
//! An image that the store has under the very name is taken without a request, unless `--pull`
//! says otherwise. One that only builds have pulled has no name there; its registry is asked what
//! the tag means now, which is one request when that is here already.

use super::transfers::Pulls;
use crate::dockerfile::address::Address;
use crate::dockerfile::git_url::GitUrl;
use crate::image::{
    self, BlobSource, Image, ImageError, LayoutRef, LayoutSource, StoreSource, StoredImage,
    receive, remembered,
};
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::plan::{Resolved, Resolver};
use crate::policy::{Policies, Source};
use crate::store::{Store, StoreError, Tagged};
use crate::sys::cancel::Cancel;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

/// Digits of an id where it is shown shortened.
const SHORT_ID: usize = 12;

/// What a `--build-context` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory.
    Dir(PathBuf),
    /// An image under another name.
    Image(String),
    /// An image of an OCI layout, as `DIR[:TAG|@DIGEST]`.
    Layout(String),
    /// An address to fetch: a tar or a git repository.
    Remote(Address),
}

impl NamedContext {
    /// Reads the value of `--build-context name=VALUE`.
    pub fn parse(value: &str) -> Self {
        if let Some(image) = value.strip_prefix("docker-image://") {
            return Self::Image(image.to_owned());
        }
        if let Some(path) = value.strip_prefix("oci-layout://") {
            return Self::Layout(path.to_owned());
        }
        // A repository with a query that is not known is one, too: its fetch says what is wrong.
        let is_git = !matches!(GitUrl::parse(value), Ok(None));
        if is_git || value.starts_with("http://") || value.starts_with("https://") {
            return Self::Remote(Address::parse(value));
        }
        Self::Dir(PathBuf::from(value))
    }
}

/// Brings names into the form in which contexts are looked up: familiar, without `:latest`.
pub fn context_name(name: &str) -> String {
    // `NAME::PLATFORM` is a context for one platform.
    if let Some((name, platform)) = name.split_once("::") {
        let platform = match platform.parse::<Platform>() {
            Ok(platform) => platform.to_string(),
            Err(_) => platform.to_owned(),
        };
        return format!("{}::{platform}", context_name(name));
    }
    match name.parse::<Reference>() {
        Ok(reference) => {
            let familiar = reference.familiar();
            familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
        }
        Err(_) => name.to_owned(),
    }
}

/// A name that is not an image here.
#[derive(Debug, thiserror::Error)]
#[error("no image {name:?} in the store")]
pub struct NotHere {
    /// Its full name.
    pub name: String,
    /// The image's name as typed, for the hints.
    pub typed: String,
}

/// The [`Resolver`] of jobs.
#[derive(Debug)]
pub struct Images<'a> {
    store: &'a Store,
    /// Where images come that are not in `store`.
    into: &'a Store,
    contexts: &'a BTreeMap<String, NamedContext>,
    cancel: &'a Cancel,
    /// How to pull; `None` for what must not, as a prediction.
    pulls: Option<Pulls<'a>>,
    policies: Option<&'a Policies>,
    known: BTreeMap<(String, String), Resolved>,
    /// What was found, by the number that plans use.
    pub images: Vec<Image>,
    /// The name of each image that is for another platform than the wanted one, and a sentence that
    /// says so.
    pub mismatches: Vec<(String, String)>,
}

impl<'a> Images<'a> {
    /// Looks names up in `contexts`, then in `store`.
    pub fn new(
        store: &'a Store,
        contexts: &'a BTreeMap<String, NamedContext>,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            store,
            into: store,
            contexts,
            cancel,
            pulls: None,
            policies: None,
            known: BTreeMap::new(),
            images: Vec::new(),
            mismatches: Vec::new(),
        }
    }

    /// Brings what is not in the store to another one.
    #[must_use]
    pub fn brought_to(mut self, into: &'a Store) -> Self {
        self.into = into;
        self
    }

    /// Lets images be pulled that are not here.
    #[must_use]
    pub fn or_pulled(mut self, pulls: Pulls<'a>) -> Self {
        self.pulls = Some(pulls);
        self
    }

    /// Asks policies about images of registries.
    #[must_use]
    pub fn under(mut self, policies: &'a Policies) -> Self {
        self.policies = Some(policies);
        self
    }

    fn add(&mut self, name: String, image: Image) -> Resolved {
        let digest = image.manifest.as_ref().map(|manifest| manifest.digest);
        self.add_as(name, digest, image)
    }

    fn add_as(&mut self, name: String, digest: Option<Digest>, image: Image) -> Resolved {
        let config = image.config.clone();
        let name = match digest {
            Some(digest) if !name.contains('@') => format!("{name}@{digest}"),
            _ => name,
        };
        self.images.push(image);
        Resolved::Image { image: self.images.len() - 1, name, config }
    }

    fn stored(
        &mut self,
        typed: &str,
        platform: &Platform,
    ) -> Result<Resolved, Box<dyn Error + Send + Sync>> {
        if let Some(found) = self.by_id(typed)? {
            let image = self.receive(&StoreSource(self.store), &found.descriptor, platform)?;
            return Ok(self.add_as(found.descriptor.digest.to_string(), None, image));
        }
        let mut reference = typed.parse::<Reference>()?.or_latest();
        if let Some(pulls) = &self.pulls
            && self.local(&reference)?.is_none()
            && let Some(long) = pulls.clients.get()?.long_name(typed)?
        {
            reference = long.parse::<Reference>()?.or_latest();
        }
        if let Some(policies) = self.policies
            && let Some(next) = policies.apply(&Source::image(&reference))?
        {
            reference = next.to_image().unwrap_or(reference);
        }
        let name = reference.to_string();
        let is_forced = self.pulls.as_ref().is_some_and(|pulls| pulls.is_forced);
        let mut other = None;
        if let Some(descriptor) = self.local(&reference)?.filter(|_| !is_forced) {
            // The store is itself a layout.
            let source = StoreSource(self.store);
            match self.receive(&source, &descriptor, platform) {
                // The registry may have one for the wanted platform.
                Ok(image)
                    if self.pulls.is_some() && mismatch(&name, &image, platform).is_some() =>
                {
                    other = Some(image);
                }
                Ok(image) => return Ok(self.add(name, image)),
                // Of an image for several platforms, others may be wanted than are here.
                Err(ImageError::MissingBlob { .. }) if self.pulls.is_some() => {}
                Err(error @ ImageError::MissingBlob { .. }) => {
                    let found = StoredImage::read(self.store, &descriptor)?;
                    let lacks = found.best(platform).is_none().then(|| found.lacks(platform));
                    return Err(lacks.unwrap_or(error).into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        match &self.pulls {
            None => Err(Box::new(NotHere { name, typed: typed.to_owned() })),
            Some(pulls) => {
                let client = pulls.clients.get()?;
                let pulled = pulls.pull(client, self.store, &reference, platform, self.cancel);
                match (pulled, other) {
                    (Ok((named, image)), _) => {
                        Ok(self.add_as(name, Some(named.descriptor.digest), image))
                    }
                    (Err(_), Some(image)) if !self.cancel.is_cancelled() => {
                        Ok(self.add(name, image))
                    }
                    (Err(error), _) => Err(error.into()),
                }
            }
        }
    }

    /// Finds the image of the store whose id this is, or the beginning of one. What is an id by its
    /// form, and is not here, is nowhere: no registry is asked for `sha256:…`.
    fn by_id(&self, typed: &str) -> Result<Option<Tagged>, Box<dyn Error + Send + Sync>> {
        let is_hex = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_marked = typed.strip_prefix("sha256:").is_some_and(is_hex);
        // Fewer digits are a word: `FROM cafe` is not whatever image has an id that begins so.
        let is_long = typed.len() >= SHORT_ID && is_hex(typed);
        if !is_marked && !is_long {
            return Ok(None);
        }
        match image::find(self.store, typed)? {
            Some(found) => Ok(Some(found)),
            None if is_marked || typed.len() == 64 => {
                Err(Box::new(NotHere { name: typed.to_owned(), typed: typed.to_owned() }))
            }
            None => Ok(None),
        }
    }

    /// Finds an image in the store, or brings it where images are brought.
    fn receive(
        &self,
        source: &dyn BlobSource,
        descriptor: &Descriptor,
        platform: &Platform,
    ) -> Result<Image, ImageError> {
        if self.into.root() != self.store.root()
            && let Some(image) = image::whole(self.store, descriptor, platform)?
        {
            return Ok(image);
        }
        receive(self.into, source, descriptor, platform, self.cancel)
    }

    /// Finds what the store itself knows of a name.
    fn local(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        let Some(digest) = reference.digest() else {
            if let Some(found) = self.store.resolve(&reference.to_string())? {
                return Ok(Some(found));
            }
            // What cannot be asked for is as it was last.
            let last = remembered(self.store, reference).filter(|_| self.pulls.is_none());
            return Ok(last.map(|last| last.descriptor));
        };
        let images = self.store.images()?;
        let own = images.into_iter().map(|image| image.descriptor).find(|d| d.digest == *digest);
        // It may be that of an image of an index.
        let part = || image::find(self.store, &reference.to_string()).ok().flatten();
        Ok(own.or_else(|| part().map(|found| found.descriptor)))
    }
}

impl Resolver for Images<'_> {
    fn resolve(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Resolved, Box<dyn Error + Send + Sync>> {
        let key = (context_name(name), platform.to_string());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let full = || match name.parse::<Reference>() {
            Ok(reference) => reference.or_latest().to_string(),
            Err(_) => name.to_owned(),
        };
        let exact = format!("{}::{platform}", key.0);
        let found = self.contexts.get_key_value(&exact);
        let found = found.or_else(|| self.contexts.get_key_value(&key.0));
        let resolved = match found.map(|(_, context)| context) {
            Some(NamedContext::Dir(_) | NamedContext::Remote(_)) => {
                Resolved::Context(found.map(|(name, _)| name.clone()).unwrap_or_default())
            }
            Some(NamedContext::Image(image)) if image == "scratch" => {
                self.add_as("scratch".to_owned(), None, Image::scratch(platform))
            }
            Some(NamedContext::Image(image)) => self.stored(image, platform)?,
            Some(NamedContext::Layout(text)) => {
                let layout = LayoutRef::parse(text)?;
                let source = LayoutSource { dir: layout.dir.clone() };
                let found = source.find(&layout, platform)?;
                let image = self.receive(&source, &found, platform)?;
                self.add(full(), image)
            }
            None => self.stored(name, platform)?,
        };
        if let Resolved::Image { image, .. } = &resolved {
            let found = mismatch(name, &self.images[*image], platform);
            self.mismatches.extend(found.map(|text| (name.to_owned(), text)));
        }
        let is_context = matches!(resolved, Resolved::Context(_));
        tracing::debug!(name, %platform, is_context, "resolved the name of an image");
        self.known.insert(key, resolved.clone());
        Ok(resolved)
    }
}

/// Returns the sentence that warns of an image for another platform than the wanted one; `None`
/// where it is for that, or has no layers and so is for any.
pub fn mismatch(name: &str, image: &Image, wanted: &Platform) -> Option<String> {
    let actual = image.config.platform();
    let is_same = (&actual.os, &actual.architecture) == (&wanted.os, &wanted.architecture)
        && wanted.rank(&actual).is_some();
    (!is_same && !image.layers.is_empty()).then(|| {
        format!("image {name} is for platform {actual}, not {wanted}: there is none for that")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_directories_images_layouts_or_addresses() {
        for (value, want) in [
            ("../x", NamedContext::Dir("../x".into())),
            ("docker-image://a:1", NamedContext::Image("a:1".into())),
            ("oci-layout:///no/dir:tag", NamedContext::Layout("/no/dir:tag".into())),
            ("https://a/b.tar", NamedContext::Remote("https://a/b.tar".into())),
            ("https://a/b.git#x", NamedContext::Remote("https://a/b.git#x".into())),
        ] {
            assert_eq!(NamedContext::parse(value), want, "{value}");
        }
    }

    #[test]
    fn contexts_are_looked_up_by_their_familiar_name() {
        for (name, want) in [
            ("busybox", "busybox"),
            ("busybox:latest", "busybox"),
            ("docker.io/library/busybox:1", "busybox:1"),
            ("docker.io/library/busybox:latest::linux/amd64", "busybox::linux/amd64"),
            ("Not A Name", "Not A Name"),
        ] {
            assert_eq!(context_name(name), want);
        }
    }
}
