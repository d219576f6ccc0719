//! `builder index annotate`: what an index says of an image, or of itself, changes.
//!
//! The images stay as they are. Fields of the index that are not known here are kept, and its order
//! too.
//!
//! Source: Docker's `docker manifest annotate`.

use super::PLACES;
use super::place::{Desk, Notes, Source, lacks, parse_target, platform_of};
use crate::cli::copy::{Copy, Endpoint};
use crate::cli::failure::{Class, Failure};
use crate::cli::{Environment, platforms, registry};
use crate::image::{self, ImageError, LayoutRef, LayoutSource, Selector};
use crate::job::transfers::{self, Pushes, Shown, failure_of, failure_of_registry};
use crate::oci::annotation::REF_NAME;
use crate::oci::{DEFAULT_TAG, Descriptor, Index, OSES, Platform, Reference, canonical_json};
use crate::progress::{Mode, Output, Progress, Vertex};
use serde_json::{Value, json};

/// The fewest digits that may stand for a digest.
const DIGITS_MIN: usize = 4;

/// What `builder index annotate` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = PLACES)]
pub struct AnnotateArgs {
    /// The index
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The image in it: a platform, a digest or its beginning, or a name
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
    /// Annotation of the image's entry or, without IMAGE, of the index; a place may stand before it,
    /// as in index:NAME=VALUE
    #[arg(long, value_name = "[PLACE:]NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Operating system of the image
    #[arg(long, value_name = "OS", requires = "image")]
    pub os: Option<String>,
    /// Architecture of the image
    #[arg(long, value_name = "ARCHITECTURE", requires = "image")]
    pub arch: Option<String>,
    /// Variant of the architecture; an empty one removes it
    #[arg(long, value_name = "VARIANT", requires = "image")]
    pub variant: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION", requires = "image")]
    pub os_version: Option<String>,
    /// Feature of the operating system; may be repeated, or a list with commas
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', requires = "image")]
    pub os_features: Vec<String>,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
}

impl AnnotateArgs {
    fn states_platform(&self) -> bool {
        self.os.is_some()
            || self.arch.is_some()
            || self.variant.is_some()
            || self.os_version.is_some()
            || !self.os_features.is_empty()
    }
}

/// Changes an index; prints its name with the new digest.
///
/// # Errors
///
/// The failure to show; the index is as it was.
pub(super) fn run(args: &AnnotateArgs, environment: &Environment) -> Result<(), Failure> {
    if args.annotation.is_empty() && !args.states_platform() {
        return Err(Failure::new(Class::Usage, "nothing to change is named")
            .with_hint("name it: --annotation NAME=VALUE, --os, --arch, --variant …"));
    }
    let place = parse_target(&args.name)?;
    if let Endpoint::Archive { .. } = place {
        return Err(Failure::new(Class::Usage, "an archive is not changed where it is").with_hint(
            "copy it to a layout, and annotate that: builder copy --all … oci:DIR:TAG",
        ));
    }
    let store = environment.store()?;
    let output = Output::stderr(environment.is_coloured);
    let progress = Progress::new(Mode::Quiet, output, environment.started);
    let client = registry::client(environment, args.tls.verifies, &progress)?;
    let pushes = Pushes { client, store: &store, progress: &progress, cancel: &environment.cancel };
    let vertex = Vertex::internal(format!("[internal] annotate {}", args.name));
    let digest = vertex.digest;
    progress.started(vertex);
    let watch = Shown::new(&progress, digest, "");
    let desk = Desk { environment, store: &store, client: &pushes.client, watch: &watch };
    let result = annotate(args, &desk, &place, &Copy::of(&pushes, digest));
    transfers::ended(&progress, digest, &result);
    progress.finish();
    let shown = match &place {
        Endpoint::Registry(name) => name.to_string(),
        _ => args.name.clone(),
    };
    environment.print(&format!("{shown}@{}\n", result?.digest));
    store.sync().map_err(|error| Failure::of(Class::Environment, &error))
}

fn annotate(
    args: &AnnotateArgs,
    desk: &Desk<'_>,
    place: &Endpoint,
    copy: &Copy<'_>,
) -> Result<Descriptor, Failure> {
    let failed = |error: ImageError| failure_of(&error);
    let source = desk.find(place)?;
    let mut index = index_of(desk, &source, &args.name)?;
    let mut subject = None;
    if let Some(text) = &args.image {
        let at = position(desk, &index, text)?;
        if args.states_platform() {
            restate(args, &mut index.manifests[at])?;
        }
        subject = Some(at);
    }
    let platform = subject.and_then(|at| platform_of(&index.manifests[at]));
    let notes = Notes::parse(&args.annotation, platform.as_ref())?;
    match subject {
        // What names no place is for that entry alone, also where another has its platform.
        Some(at) => notes.put_on(std::slice::from_mut(&mut index.manifests[at]))?,
        None => notes.put_on(&mut index.manifests)?,
    }
    index.annotations.extend(notes.index.clone());
    if !notes.descriptor.is_empty() && matches!(place, Endpoint::Registry(_)) {
        let message = "no entry of a registry describes an index: index-descriptor: is for layouts";
        return Err(Failure::new(Class::Usage, message)
            .with_hint("annotate the index itself: --annotation index:NAME=VALUE"));
    }
    let mut top = image::put_index(desk.store, &index).map_err(|error| failed(error.into()))?;
    top.annotations.clone_from(&source.top.annotations);
    top.annotations.extend(notes.descriptor);
    match place {
        Endpoint::Registry(name) => {
            let remote = desk.client.remote(&name.repository());
            let tag = name.tag().unwrap_or(DEFAULT_TAG);
            remote
                .put_manifest(tag, &top.media_type, &canonical_json(&index))
                .map_err(failure_of_registry)?;
        }
        Endpoint::Store(text) => {
            let name = source.top.annotations.get(REF_NAME).ok_or_else(|| {
                Failure::new(Class::Usage, format!("{text} has no name"))
                    .with_hint(format!("give it one: builder tag {text} NAME"))
            })?;
            let tagged = desk.store.tag(name, &top);
            tagged.map_err(|error| Failure::of(Class::Environment, &error))?;
        }
        Endpoint::Layout(text) => {
            let reference = LayoutRef::parse(text).map_err(failed)?;
            if reference.tag.is_none() && !top.annotations.contains_key(REF_NAME) {
                let dir = reference.dir.display();
                return Err(Failure::new(Class::Usage, format!("the index of {dir} has no tag"))
                    .with_hint(format!(
                        "copy it under one: builder copy --all oci:{dir} oci:{dir}:TAG"
                    )));
            }
            let layout = LayoutSource { dir: reference.dir.clone() };
            let whole = image::survey(desk.store, &layout, &top, Selector::All).map_err(failed)?;
            let tag = source.top.annotations.get(REF_NAME).cloned().or(reference.tag);
            let tag = tag.map_or(String::new(), |tag| format!(":{tag}"));
            copy.write_layout(&whole, &reference.dir, tag.strip_prefix(':').map(str::to_owned))?;
        }
        Endpoint::Archive { .. } => unreachable!("refused above"),
    }
    Ok(top)
}

/// Reads an index.
pub(super) fn index_of(desk: &Desk<'_>, source: &Source<'_>, name: &str) -> Result<Index, Failure> {
    let listed = image::listed(desk.store, source.blobs.as_ref(), &source.top);
    listed.map_err(|error| failure_of(&error))?.index.ok_or_else(|| {
        Failure::new(Class::Usage, format!("{name} is an image of one platform, not an index"))
            .with_hint(format!("make an index of it: builder index create -t NAME {name}"))
    })
}

/// Finds the entry that is meant.
fn position(desk: &Desk<'_>, index: &Index, text: &str) -> Result<usize, Failure> {
    let usage = |message: String| Failure::new(Class::Usage, message);
    let is_platform = text
        .split_once('/')
        .is_some_and(|(os, _)| OSES.contains(&os.to_ascii_lowercase().as_str()));
    if is_platform {
        let texts = [text.to_owned()];
        let wanted = platforms::parse(&texts).map_err(|e| Failure::of(Class::Usage, &e))?;
        let wanted = wanted.unwrap_or_else(Platform::host);
        let is_it = |child: &Descriptor| platform_of(child).as_ref() == Some(&wanted);
        return index
            .manifests
            .iter()
            .position(is_it)
            .ok_or_else(|| lacks(&index.manifests, &wanted));
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = hex.len() >= DIGITS_MIN && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex {
        let is_it = |child: &&Descriptor| child.digest.to_hex().starts_with(hex);
        let digests: Vec<_> = index.manifests.iter().filter(is_it).map(|d| d.digest).collect();
        match digests.as_slice() {
            [] => {}
            [first, rest @ ..] if rest.iter().all(|other| other == first) => {
                return at(index, first).ok_or_else(|| not_listed(text, index));
            }
            _ => return Err(usage(format!("{text} is the beginning of several digests"))),
        }
    }
    if text.starts_with("sha256:") {
        return Err(not_listed(text, index));
    }
    let name = text.parse::<Reference>().map_err(|e| Failure::of(Class::Usage, &e).about(&text))?;
    let digest = match name.digest() {
        Some(digest) => *digest,
        None => desk.find(&super::place::parse(text)?)?.top.digest,
    };
    at(index, &digest).ok_or_else(|| not_listed(text, index))
}

fn at(index: &Index, digest: &crate::oci::Digest) -> Option<usize> {
    index.manifests.iter().position(|child| child.digest == *digest)
}

fn not_listed(text: &str, index: &Index) -> Failure {
    let there: Vec<_> = index.platforms().iter().map(Platform::to_string).collect();
    Failure::new(Class::Usage, format!("the index does not list {text}"))
        .with_hint(format!("name it by its platform: {}", there.join(", ")))
}

/// States the platform of an entry.
fn restate(args: &AnnotateArgs, child: &mut Descriptor) -> Result<(), Failure> {
    let usage = |error: platforms::PlatformError| Failure::of(Class::Usage, &error);
    let mut platform = child.platform.clone().unwrap_or_else(|| json!({}));
    let given = [
        ("os", &args.os),
        ("architecture", &args.arch),
        ("variant", &args.variant),
        ("os.version", &args.os_version),
    ];
    for (name, value) in given {
        match value.as_deref() {
            None => {}
            Some("") => {
                platform.as_object_mut().map(|fields| fields.remove(name));
            }
            Some(value) => platform[name] = json!(value.to_ascii_lowercase()),
        }
    }
    if !args.os_features.is_empty() {
        let features: Vec<_> = args.os_features.iter().filter(|it| !it.is_empty()).collect();
        platform["os.features"] = json!(features);
    }
    let text = |name: &str| platform.get(name).and_then(Value::as_str).unwrap_or_default();
    let whole = match text("variant") {
        "" => format!("{}/{}", text("os"), text("architecture")),
        variant => format!("{}/{}/{variant}", text("os"), text("architecture")),
    };
    // Misspelt ones would never be chosen.
    platforms::parse(&[whole]).map_err(usage)?;
    child.platform = Some(platform);
    Ok(())
}
