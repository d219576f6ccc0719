//! `builder index create`: an index of images in registries, layouts and the store.
//!
//! Sources are read in one pass; each becomes the images that it lists. For a registry, images of
//! other repositories are put into the repository of the index first: what the same registry has is
//! mounted. The index goes last, under its tags.
//!
//! Source: Docker's `buildx imagetools create`.

use super::PLACES;
use super::place::{Desk, Notes, Source, lacks, parse, parse_target, platform_of};
use crate::cli::copy::{Copy, Endpoint};
use crate::cli::failure::{Class, Failure, cannot};
use crate::cli::{Environment, platforms, registry};
use crate::export;
use crate::image::{self, ImageError, Selector, StoreSource, StoredImage, Supply};
use crate::job::transfers::{self, Pushes, Shown, failure_of, failure_of_registry};
use crate::oci::annotation::ATTESTATION;
use crate::oci::{Descriptor, Digest, Index, Platform, canonical_json, media_type};
use crate::progress::{Mode, Output, Progress, Vertex};
use crate::sys::foreign;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The longest descriptor that is read from a file, in bytes.
const DESCRIPTOR_MAX: u64 = 1 << 20;

/// What `builder index create` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = PLACES)]
pub struct CreateArgs {
    /// Images and indexes: places, or digests and descriptors in the repository of the index
    #[arg(value_name = "SOURCE", required_unless_present = "file")]
    pub sources: Vec<String>,
    /// Name of the index, in a registry or another place; may be repeated
    #[arg(short, long = "tag", value_name = "NAME", required_unless_present = "dry_run")]
    pub tag: Vec<String>,
    /// File with a source: the descriptor of an image as JSON, or a name
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Add to the index of the first name; an image for the same platform is replaced
    #[arg(long)]
    pub append: bool,
    /// Annotation of the index, or after `manifest-descriptor[PLATFORM]:` of its entries, after
    /// `index-descriptor:` of the index's entry in a layout
    #[arg(long, value_name = "[PLACE:]NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Images to take, by their platforms; all by default
    #[arg(short, long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
    /// Print the index, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Make an index of a single image too; false copies it as it is
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub prefer_index: bool,
    /// Write the name, digest and descriptor of the index to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How to show progress: auto, tty, plain, rawjson or quiet
    #[arg(long, value_name = "MODE", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: Mode,
    /// There are no builder instances
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
}

/// What a descriptor given as a source states.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stated {
    media_type: Option<String>,
    digest: Option<Digest>,
    size: Option<u64>,
    platform: Option<Value>,
    annotations: BTreeMap<String, String>,
}

/// A source as it was given.
#[derive(Debug, Clone, PartialEq)]
struct Named {
    text: String,
    /// Where it is; of a digest alone, where the index is.
    place: Option<Endpoint>,
    stated: Stated,
}

impl Named {
    fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        let stated = if text.starts_with('{') {
            let stated: Stated = serde_json::from_str(text).map_err(|error| {
                Failure::new(Class::Usage, format!("{text} is not a descriptor: {error}"))
            })?;
            if stated.digest.is_none() {
                return Err(Failure::new(Class::Usage, format!("{text} has no digest")));
            }
            stated
        } else if text.starts_with("sha256:") {
            let digest = text.parse().map_err(|_| {
                Failure::new(Class::Usage, format!("{text} is not a digest: it has 64 digits"))
            })?;
            Stated { digest: Some(digest), ..Stated::default() }
        } else {
            let (text, place) = (text.to_owned(), Some(parse(text)?));
            return Ok(Self { text, place, stated: Stated::default() });
        };
        Ok(Self { text: text.to_owned(), place: None, stated })
    }
}

/// A source that was read.
struct Read<'a> {
    source: Source<'a>,
    listed: image::Listed,
}

/// An entry of the index, with the number of the source it is from.
struct Child {
    descriptor: Descriptor,
    of: usize,
    /// What was made of it for a registry, where its layers had to be compressed.
    prepared: Option<image::Closure>,
}

/// Makes an index; prints each name with its digest.
///
/// # Errors
///
/// The failure to show; no name is given then, unless giving one of several failed.
pub(super) fn run(args: &CreateArgs, environment: &Environment) -> Result<(), Failure> {
    let targets: Vec<_> =
        args.tag.iter().map(|text| parse_target(text)).collect::<Result<_, _>>()?;
    let files = args.file.iter().map(|path| {
        let bytes = foreign::read_at(path, DESCRIPTOR_MAX);
        let bytes = bytes.map_err(|error| cannot("read", path, &error))?;
        Named::parse(&String::from_utf8_lossy(&bytes)).map_err(|f| f.about(&path.display()))
    });
    let sources = args.sources.iter().map(|text| Named::parse(text));
    let sources: Vec<Named> = files.chain(sources).collect::<Result<_, _>>()?;
    let wanted = platforms::parse_all(&args.platform);
    let wanted = wanted.map_err(|error| Failure::of(Class::Usage, &error))?;
    let notes = Notes::parse(&args.annotation, None)?;
    let is_listed = |place: &Endpoint| !matches!(place, Endpoint::Registry(_));
    if !notes.descriptor.is_empty() && !targets.iter().any(is_listed) {
        let message = "--annotation index-descriptor:…: no entry of a registry describes an index";
        return Err(Failure::new(Class::Usage, message)
            .with_hint("annotate the index itself: --annotation index:NAME=VALUE"));
    }
    if args.append && targets.is_empty() {
        return Err(Failure::new(Class::Usage, "--append adds to an index: name it with --tag"));
    }
    let store = environment.store()?;
    let output = Output::stderr(environment.is_coloured);
    let progress = Progress::new(args.progress, output, environment.started);
    let client = registry::client(environment, args.tls.verifies, &progress)?;
    let pushes = Pushes { client, store: &store, progress: &progress, cancel: &environment.cancel };
    let what = args.tag.first().map_or("an index", String::as_str);
    let vertex = Vertex::internal(format!("[internal] make {what}"));
    let digest = vertex.digest;
    progress.started(vertex);
    let watch = Shown::new(&progress, digest, "");
    let desk = Desk { environment, store: &store, client: &pushes.client, watch: &watch };
    let work = Work { args, desk, pushes: &pushes, vertex: digest, targets, wanted, notes };
    let result = work.run(&sources);
    transfers::ended(&progress, digest, &result);
    progress.finish();
    environment.print(&result?);
    store.sync().map_err(|error| Failure::of(Class::Environment, &error))
}

struct Work<'a> {
    args: &'a CreateArgs,
    desk: Desk<'a>,
    pushes: &'a Pushes<'a>,
    vertex: Digest,
    targets: Vec<Endpoint>,
    wanted: Vec<Platform>,
    notes: Notes,
}

impl<'a> Work<'a> {
    /// Does all of it; returns what is printed.
    fn run(&self, named: &[Named]) -> Result<String, Failure> {
        let failed = |error: ImageError| failure_of(&error);
        let mut read = Vec::new();
        if let (true, Some(target)) = (self.args.append, self.targets.first()) {
            let source = self.desk.find(target).map_err(|failure| {
                failure.with_hint("make it, where it is not there yet: leave out --append")
            })?;
            let listed = image::listed(self.desk.store, source.blobs.as_ref(), &source.top)
                .map_err(failed)?;
            read.push(Read { source, listed });
        }
        for one in named {
            read.push(self.read(one, named).map_err(|failure| failure.about(&one.text))?);
        }
        let (bytes, mut top, children) = match self.carbon_copy(&read) {
            Some((bytes, top, children)) => (bytes, top, children),
            None => self.join(&read)?,
        };
        top.annotations.clone_from(&self.notes.descriptor);
        if self.args.dry_run {
            return Ok(format!("{}\n", String::from_utf8_lossy(&bytes)));
        }
        let (store, failed_store) = (self.desk.store, |e| Failure::of(Class::Environment, &e));
        store.put_blob(&bytes).map_err(failed_store)?;
        let mut printed = String::new();
        for (target, text) in self.targets.iter().zip(&self.args.tag) {
            match target {
                Endpoint::Registry(name) => {
                    self.send(name, &read, &children, &top, &bytes)?;
                    printed.push_str(&format!("{name}@{}\n", top.digest));
                }
                place => {
                    self.keep(place, &read, &children, &top)?;
                    printed.push_str(&format!("{text}@{}\n", top.digest));
                }
            }
        }
        if let Some(path) = &self.args.metadata_file {
            let name = |(place, text): (&Endpoint, &String)| match place {
                Endpoint::Registry(name) => name.to_string(),
                _ => text.clone(),
            };
            let names: Vec<_> = self.targets.iter().zip(&self.args.tag).map(name).collect();
            let value = json!({
                "containerimage.descriptor": top,
                "containerimage.digest": top.digest,
                "image.name": names.join(","),
            });
            export::write_whole(path, &canonical_json(&value))
                .map_err(|error| Failure::of(Class::Environment, &error))?;
        }
        Ok(printed)
    }

    /// Finds a source and reads what it lists.
    fn read(&self, one: &Named, all: &[Named]) -> Result<Read<'a>, Failure> {
        let usage = |message: String| Failure::new(Class::Usage, message);
        let place = match (&one.place, &one.stated.digest) {
            (Some(place), _) => place.clone(),
            (None, digest) => {
                self.place_of_digest(&digest.expect("a source without a place has one"), all)?
            }
        };
        let mut source = self.desk.find(&place)?;
        let Stated { media_type, size, platform, annotations, .. } = &one.stated;
        if let Some(size) = size.filter(|size| *size != 0 && *size != source.top.size) {
            let message =
                format!("the descriptor says {size} bytes, and it has {}", source.top.size);
            return Err(usage(message));
        }
        if let Some(media_type) = media_type.as_ref().filter(|text| !text.is_empty()) {
            source.top.media_type.clone_from(media_type);
        }
        if let Some(platform) = platform {
            source.top.platform = Some(platform.clone());
        }
        let blobs = source.blobs.as_ref();
        let mut listed = image::listed(self.desk.store, blobs, &source.top)
            .map_err(|error| failure_of(&error))?;
        match (platform, &listed.index) {
            (Some(_), Some(_)) => {
                return Err(usage("an index is of no single platform".to_owned()));
            }
            (Some(Value::Object(stated)), None) => {
                // What is left out is that of the config.
                let child = listed.children.first_mut();
                if let Some(Value::Object(known)) = child.and_then(|child| child.platform.as_mut())
                {
                    known.extend(stated.clone());
                }
            }
            _ => {}
        }
        for child in &mut listed.children {
            child.annotations.extend(annotations.clone());
        }
        Ok(Read { source, listed })
    }

    /// Finds where a digest alone is: in the one repository that is named, or in the place of the
    /// index.
    fn place_of_digest(&self, digest: &Digest, all: &[Named]) -> Result<Endpoint, Failure> {
        let places = self.targets.iter().chain(all.iter().filter_map(|one| one.place.as_ref()));
        let repositories: BTreeSet<String> = places
            .filter_map(|place| match place {
                Endpoint::Registry(name) => Some(name.name()),
                _ => None,
            })
            .collect();
        let mut repositories = repositories.into_iter();
        match (repositories.next(), repositories.next(), self.targets.first()) {
            (Some(one), None, _) => parse(&format!("{one}@{digest}")),
            (None, None, Some(Endpoint::Store(_))) => Ok(Endpoint::Store(digest.to_string())),
            (None, None, Some(Endpoint::Layout(text))) => {
                let layout = image::LayoutRef::parse(text).map_err(|error| failure_of(&error))?;
                Ok(Endpoint::Layout(format!("{}@{digest}", layout.dir.display())))
            }
            _ => Err(Failure::new(Class::Usage, "which repository is it in?")
                .with_hint(format!("name it: REPOSITORY@{digest}"))),
        }
    }

    /// Returns the only source as it is, where nothing is asked for that changes it.
    fn carbon_copy(&self, read: &[Read<'_>]) -> Option<(Vec<u8>, Descriptor, Vec<Child>)> {
        let [Read { source, listed }] = read else { return None };
        let is_index = listed.index.is_some();
        let is_as_it_is = self.notes.leaves_index() && self.wanted.is_empty();
        if self.args.append || !is_as_it_is || !is_index && self.args.prefer_index {
            return None;
        }
        // Its images may have to be made anew, and the index with them.
        if source.is_stored && self.sends() {
            return None;
        }
        let top = &source.top;
        let top = Descriptor::new(top.media_type.clone(), top.digest, listed.bytes.len() as u64);
        let children = match is_index {
            true => listed.children.clone(),
            false => vec![top.clone()],
        };
        let children = children.into_iter();
        let children = children.map(|descriptor| Child { descriptor, of: 0, prepared: None });
        Some((listed.bytes.clone(), top, children.collect()))
    }

    /// Says whether the index goes to a registry.
    fn sends(&self) -> bool {
        self.targets.iter().any(|place| matches!(place, Endpoint::Registry(_)))
    }

    /// Makes the index.
    fn join(&self, read: &[Read<'_>]) -> Result<(Vec<u8>, Descriptor, Vec<Child>), Failure> {
        let mut children: Vec<Child> = Vec::new();
        for (of, Read { listed, .. }) in read.iter().enumerate() {
            for descriptor in &listed.children {
                children.push(Child { descriptor: descriptor.clone(), of, prepared: None });
            }
        }
        if self.args.append {
            replace(&mut children);
        }
        refuse_doubles(&children, read.len())?;
        self.choose(&mut children)?;
        for child in children.iter_mut().filter(|child| read[child.of].source.is_stored) {
            self.prepare(child)?;
        }
        // What one index says of itself is kept; of several, none speaks for all.
        let indexes = read.iter().filter_map(|one| one.listed.index.as_ref());
        let mut indexes = indexes.take(if self.args.append { 1 } else { usize::MAX });
        let base = match (indexes.next(), indexes.next()) {
            (Some(one), None) if self.args.append || read.len() == 1 => Some(one),
            _ => None,
        };
        let mut annotations = base.map(|base| base.annotations.clone()).unwrap_or_default();
        annotations.extend(self.notes.index.clone());
        let mut descriptors: Vec<_> = children.iter().map(|it| it.descriptor.clone()).collect();
        self.notes.put_on(&mut descriptors)?;
        let is_of_docker = |d: &Descriptor| {
            matches!(&*d.media_type, media_type::DOCKER_MANIFEST | media_type::DOCKER_INDEX)
        };
        // Docker's lists have no annotations.
        let is_docker = descriptors.iter().all(|d| is_of_docker(d) && d.annotations.is_empty())
            && annotations.is_empty();
        let mut index = Index::joined(descriptors, annotations, is_docker);
        if let Some(base) = base {
            index.other.clone_from(&base.other);
        }
        let bytes = canonical_json(&index);
        let media_type = index.media_type.unwrap_or_default();
        let top = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        Ok((bytes, top, children))
    }

    /// Leaves the images for the platforms that are wanted, and statements about them.
    fn choose(&self, children: &mut Vec<Child>) -> Result<(), Failure> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let all: Vec<_> = children.iter().map(|child| child.descriptor.clone()).collect();
        let is_wanted = |child: &Descriptor| {
            let platform = platform_of(child).filter(|_| !is_statement(child));
            platform.is_some_and(|platform| self.wanted.contains(&platform))
        };
        if let Some(wanted) = self
            .wanted
            .iter()
            .find(|wanted| !all.iter().any(|child| platform_of(child).as_ref() == Some(*wanted)))
        {
            return Err(lacks(&all, wanted));
        }
        let kept: BTreeSet<_> = all.iter().filter(|d| is_wanted(d)).map(|d| d.digest).collect();
        children.retain(|child| match image::subject(&child.descriptor) {
            Some(subject) => kept.contains(&subject),
            None => kept.contains(&child.descriptor.digest),
        });
        Ok(())
    }

    /// Makes an image of the store fit for a registry, where the index goes to one: its layers are
    /// compressed as by `builder push`.
    fn prepare(&self, child: &mut Child) -> Result<(), Failure> {
        let descriptor = &child.descriptor;
        let Some(platform) = platform_of(descriptor).filter(|_| !is_statement(descriptor)) else {
            return Ok(());
        };
        let failed = |error: ImageError| failure_of(&error);
        let found = match StoredImage::read(self.desk.store, descriptor) {
            Err(ImageError::MissingBlob { .. }) => {
                let error = ImageError::PlatformNotHere { wanted: platform, here: Vec::new() };
                return Err(failed(error));
            }
            other => other.map_err(failed)?,
        };
        if !self.sends() || found.index.is_some() {
            return Ok(());
        }
        let prepared = self.pushes.prepared(descriptor, Some(&platform), self.vertex)?;
        let top = &prepared.top;
        child.descriptor.media_type.clone_from(&top.media_type);
        (child.descriptor.digest, child.descriptor.size) = (top.digest, top.size);
        child.prepared = Some(prepared);
        Ok(())
    }

    /// Puts the images into a repository, and the index under its tag.
    fn send(
        &self,
        name: &crate::oci::Reference,
        read: &[Read<'_>],
        children: &[Child],
        top: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let failed = |error: ImageError| failure_of(&error);
        let (store, cancel) = (self.desk.store, &self.desk.environment.cancel);
        let repository = name.repository();
        let remote = self.desk.client.remote(&repository);
        let watch = Shown::new(self.pushes.progress, self.vertex, "pushing");
        for child in children {
            let source = &read[child.of].source;
            if source.repository.as_ref() == Some(&repository) {
                continue;
            }
            let blobs = source.blobs.as_ref();
            let whole = match &child.prepared {
                Some(prepared) => prepared.clone(),
                None => {
                    image::survey(store, blobs, &child.descriptor, Selector::All).map_err(failed)?
                }
            };
            let supply = match source.is_stored {
                true => Supply::Store,
                false => Supply::Elsewhere(blobs, source.repository.as_ref()),
            };
            image::relay(store, supply, &remote, &whole, &watch, cancel).map_err(failed)?;
        }
        let tag = name.tag().unwrap_or(crate::oci::DEFAULT_TAG);
        remote.put_manifest(tag, &top.media_type, bytes).map_err(failure_of_registry)
    }

    /// Puts the index, with all that it lists, into the store, a layout or an archive.
    fn keep(
        &self,
        place: &Endpoint,
        read: &[Read<'_>],
        children: &[Child],
        top: &Descriptor,
    ) -> Result<(), Failure> {
        let failed = |error: ImageError| failure_of(&error);
        let (store, cancel) = (self.desk.store, &self.desk.environment.cancel);
        for child in children {
            let blobs = read[child.of].source.blobs.as_ref();
            image::fetch(store, blobs, &child.descriptor, Selector::All, cancel).map_err(failed)?;
        }
        let mut whole =
            image::survey(store, &StoreSource(store), top, Selector::All).map_err(failed)?;
        if let Some(missing) = whole.missing(store).map_err(failed)? {
            let name = "the store".to_owned();
            return Err(failed(ImageError::MissingBlob { name, digest: missing.digest }));
        }
        whole.top.annotations.clone_from(&top.annotations);
        Copy::of(self.pushes, self.vertex).write(&whole, place)
    }
}

fn is_statement(child: &Descriptor) -> bool {
    child.annotations.contains_key(ATTESTATION)
}

/// What two images of one index must not have in common: a platform, with the system's version.
fn place_of(child: &Descriptor) -> Option<(Platform, String)> {
    let platform = platform_of(child).filter(|_| !is_statement(child))?;
    let version = child.platform.as_ref().and_then(|platform| platform.get("os.version"));
    Some((platform, version.map(Value::to_string).unwrap_or_default()))
}

/// Removes the images of the first source for whose platforms others have one, and the statements
/// about them.
fn replace(children: &mut Vec<Child>) {
    let new = children.iter().filter(|child| child.of > 0);
    let new: Vec<_> =
        new.map(|child| (place_of(&child.descriptor), child.descriptor.digest)).collect();
    let is_replaced = |child: &Child| {
        let place = place_of(&child.descriptor);
        let digest = child.descriptor.digest;
        child.of == 0
            && place.is_some()
            && new.iter().any(|(other, by)| *other == place && *by != digest)
    };
    let replaced = children.iter().filter(|child| is_replaced(child));
    let replaced: BTreeSet<_> = replaced.map(|child| child.descriptor.digest).collect();
    let is_kept_elsewhere = |digest: &Digest| new.iter().any(|(_, other)| other == digest);
    children.retain(|child| {
        let digest = child.descriptor.digest;
        let subject = image::subject(&child.descriptor);
        let is_gone = |digest: &Digest| replaced.contains(digest) && !is_kept_elsewhere(digest);
        let is_replaced = child.of == 0 && replaced.contains(&digest);
        !is_replaced && subject.is_none_or(|subject| !is_gone(&subject))
    });
}

/// Refuses two images of different sources for one platform: which of them a client took would be
/// chance.
fn refuse_doubles(children: &[Child], sources: usize) -> Result<(), Failure> {
    if sources < 2 {
        return Ok(());
    }
    for (at, one) in children.iter().enumerate() {
        let Some(place) = place_of(&one.descriptor) else { continue };
        let is_same = |other: &&Child| {
            other.of != one.of
                && other.descriptor.digest != one.descriptor.digest
                && place_of(&other.descriptor).as_ref() == Some(&place)
        };
        if let Some(other) = children[at + 1..].iter().find(is_same) {
            let message = format!(
                "two images for {}: {} and {}",
                place.0, one.descriptor.digest, other.descriptor.digest
            );
            return Err(Failure::new(Class::Usage, message)
                .with_hint("leave one out; --append replaces the one that an index has"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(n: u8, platform: &str, of: usize) -> Child {
        let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&[n]), 1);
        descriptor.platform = Some(platform.parse::<Platform>().unwrap().to_json());
        Child { descriptor, of, prepared: None }
    }

    fn statement(n: u8, about: u8, of: usize) -> Child {
        let mut made = child(n, "unknown/unknown", of);
        let notes = &mut made.descriptor.annotations;
        notes.insert(ATTESTATION.to_owned(), "attestation-manifest".to_owned());
        notes.insert(crate::oci::annotation::SUBJECT.to_owned(), Digest::of(&[about]).to_string());
        made
    }

    #[test]
    fn an_appended_image_replaces_that_of_its_platform_with_what_was_said_of_it() {
        let mut children = vec![
            child(1, "linux/amd64", 0),
            child(2, "linux/arm64", 0),
            statement(3, 1, 0),
            statement(4, 2, 0),
            child(5, "linux/arm64/v8", 1),
            child(6, "linux/riscv64", 1),
        ];
        replace(&mut children);
        let left: Vec<_> = children.iter().map(|child| child.descriptor.digest).collect();
        assert_eq!(left, [1, 3, 5, 6].map(|n: u8| Digest::of(&[n])));
        assert!(refuse_doubles(&children, 2).is_ok());
    }

    #[test]
    fn two_images_for_one_platform_are_refused() {
        let children = [child(1, "linux/arm64", 0), child(2, "linux/arm64/v8", 1)];
        let failure = refuse_doubles(&children, 2).unwrap_err();
        assert!(failure.message.starts_with("two images for linux/arm64: "), "{}", failure.message);
        assert!(refuse_doubles(&[child(1, "arm64", 0), child(1, "arm64", 1)], 2).is_ok());
        assert!(refuse_doubles(&[child(1, "arm64", 0), child(2, "arm/v7", 1)], 2).is_ok());
    }

    #[test]
    fn sources_are_places_digests_and_descriptors() {
        let digest = Digest::of(b"x");
        let bare = Named::parse(&digest.to_string()).unwrap();
        assert_eq!((bare.place, bare.stated.digest), (None, Some(digest)));
        let text = format!("{{\"digest\":\"{digest}\",\"platform\":{{\"os\":\"linux\"}}}}\n");
        let stated = Named::parse(&text).unwrap().stated;
        assert_eq!((stated.digest, stated.platform), (Some(digest), Some(json!({"os": "linux"}))));
        let name = Named::parse("a.example/b").unwrap();
        assert_eq!(name.place, Some(Endpoint::parse("docker://a.example/b").unwrap()));
        for text in ["{}", "{", "sha256:12", "A"] {
            assert!(Named::parse(text).is_err(), "{text}");
        }
    }
}
