//! `builder index rm`: a name of an index goes, in the store, a layout or a registry.
//!
//! The images of the index stay: in the store and in a layout until they are collected, in a
//! registry until that collects what has no name.

use super::PLACES;
use super::annotate::index_of;
use super::place::{Desk, parse};
use crate::cli::copy::Endpoint;
use crate::cli::failure::{Class, Failure};
use crate::cli::image_arg::ImageCommandError;
use crate::cli::rmi::{self, RmiArgs};
use crate::cli::{Environment, registry};
use crate::export;
use crate::image::{ImageError, LayoutRef, LayoutSource};
use crate::job::transfers::{Shown, failure_of, failure_of_registry};
use crate::oci::{DEFAULT_TAG, Digest, Reference, canonical_json};
use crate::progress::{Mode, Output, Progress};

/// What `builder index rm` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = PLACES)]
pub struct RmArgs {
    /// The indexes
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
}

/// Removes indexes; prints what went.
///
/// # Errors
///
/// The first failure, with the others; what can be removed is.
pub(super) fn run(args: &RmArgs, environment: &Environment) -> Result<(), Failure> {
    let places: Vec<_> =
        args.names.iter().map(|text| Ok((text, parse(text)?))).collect::<Result<_, Failure>>()?;
    let store = environment.store()?;
    let progress =
        Progress::new(Mode::Quiet, Output::stderr(environment.is_coloured), environment.started);
    let client = registry::client(environment, args.tls.verifies, &progress)?;
    let watch = Shown::new(&progress, Digest::of(b""), "");
    let desk = Desk { environment, store: &store, client: &client, watch: &watch };
    let mut failures = Vec::new();
    for (text, place) in places {
        match remove(&desk, text, &place) {
            Ok(printed) => environment.print(&printed),
            Err(failure) => failures.push(failure),
        }
    }
    progress.finish();
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(()),
        Some(mut first) => {
            first.others = failures.collect();
            Err(first)
        }
    }
}

fn remove(desk: &Desk<'_>, text: &str, place: &Endpoint) -> Result<String, Failure> {
    let failed = |error: ImageError| failure_of(&error);
    let source = desk.find(place)?;
    index_of(desk, &source, text).map_err(|mut failure| {
        failure.hints = match place {
            Endpoint::Store(name) => vec![format!("remove it: builder rmi {name}")],
            _ => Vec::new(),
        };
        failure
    })?;
    let digest = source.top.digest;
    match place {
        Endpoint::Store(name) => {
            let args = RmiArgs { images: vec![name.clone()], force: false, no_prune: false };
            let mut out = Vec::new();
            rmi::run(&args, desk.store, &mut out)
                .map_err(|error: ImageCommandError| Failure::of_images(&error))?;
            Ok(String::from_utf8_lossy(&out).into_owned())
        }
        Endpoint::Layout(text) => {
            let reference = LayoutRef::parse(text).map_err(failed)?;
            let layout = LayoutSource { dir: reference.dir.clone() };
            let mut index = layout.index().map_err(failed)?;
            let is_it = |d: &crate::oci::Descriptor| {
                d.digest == digest && d.annotations == source.top.annotations
            };
            index.manifests.retain(|d| !is_it(d));
            export::write_whole(&reference.dir.join("index.json"), &canonical_json(&index))
                .map_err(|error| Failure::of(Class::Environment, &error))?;
            Ok(format!("Untagged: oci:{text}\n"))
        }
        Endpoint::Archive { .. } => {
            Err(Failure::new(Class::Usage, "an archive is not changed where it is"))
        }
        Endpoint::Registry(name) => of_registry(desk, name, &digest),
    }
}

/// Removes a tag, or by its digest an index with all its tags.
fn of_registry(desk: &Desk<'_>, name: &Reference, digest: &Digest) -> Result<String, Failure> {
    let remote = desk.client.remote(&name.repository());
    if name.digest().is_some() {
        if remote.delete_manifest(&digest.to_string()).map_err(failure_of_registry)? {
            return Ok(format!("Deleted: {name}\n"));
        }
        let message = format!("{} does not let clients delete images", name.domain());
        return Err(Failure::new(Class::Network, message)
            .with_hint("switch it on in the registry, or delete the image there"));
    }
    let tag = name.tag().unwrap_or(DEFAULT_TAG);
    if remote.delete_manifest(tag).map_err(failure_of_registry)? {
        return Ok(format!("Untagged: {name}\n"));
    }
    let message = format!("{} does not remove a tag and leave its index", name.domain());
    Err(Failure::new(Class::Network, message).with_hint(format!(
        "remove the index with all its tags: builder index rm {}@{digest}",
        name.name()
    )))
}
