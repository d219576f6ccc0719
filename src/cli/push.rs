//! `builder push`: images of the store into registries.

use super::Environment;
use super::failure::{Class, Failure};
use super::image_arg;
use super::platforms;
use super::registry;
use crate::job::transfers::{self, Pushes};
use crate::oci::{Descriptor, Reference};
use crate::progress::{Mode, Output, Progress, Vertex};
use crate::store::Store;

/// Push images to registries.
#[derive(Debug, Clone, clap::Args)]
pub struct PushArgs {
    /// Image to push, by its name
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Push all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Platform to push, of an image that has several
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
    /// How to show progress: auto, tty, plain, rawjson or quiet
    #[arg(long, value_name = "MODE", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: Mode,
    /// Print nothing but names
    #[arg(short, long)]
    pub quiet: bool,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
}

/// Pushes an image, or all of a repository; prints the full name of each with its digest.
///
/// # Errors
///
/// The failure to show; tags pushed before stay.
pub fn run(args: &PushArgs, environment: &Environment) -> Result<(), Failure> {
    let wanted = platforms::parse(&args.platform);
    let wanted = wanted.map_err(|error| Failure::of(Class::Usage, &error))?;
    let store = environment.store()?;
    let images = find(args, &store)?;
    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let output = Output::stderr(environment.is_coloured);
    let progress = Progress::new(mode, output, environment.started);
    let client = registry::client(environment, args.tls.verifies, &progress)?;
    let pushes = Pushes { client, store: &store, progress: &progress, cancel: &environment.cancel };
    let mut pushed = Vec::new();
    let result = images.iter().try_for_each(|(name, descriptor)| {
        let vertex = Vertex::internal(format!("[internal] push {name}"));
        let digest = vertex.digest;
        progress.started(vertex);
        let result = pushes.prepared(descriptor, wanted.as_ref(), digest).and_then(|image| {
            pushes.push(&image, name, &[name.tag().unwrap_or_default().to_owned()], digest)?;
            Ok(image.top.digest)
        });
        transfers::ended(&progress, digest, &result);
        pushed.push(format!("{name}@{}\n", result?));
        Ok(())
    });
    progress.finish();
    environment.print(&pushed.concat());
    result
}

/// Finds what is to be pushed: names with tags, and what they name.
fn find(args: &PushArgs, store: &Store) -> Result<Vec<(Reference, Descriptor)>, Failure> {
    let usage = |message: String| Failure::new(Class::Usage, message);
    let name = args.image.parse::<Reference>().map_err(|e| Failure::of(Class::Usage, &e))?;
    if name.digest().is_some() {
        return Err(usage(format!("{name} has a digest: push a tag"))
            .with_hint(format!("give it one: builder tag {name} {}:TAG", name.name())));
    }
    if args.all_tags {
        if name.tag().is_some() {
            return Err(usage(format!("{name} has a tag, and --all-tags pushes all there are")));
        }
        let images = store.images().map_err(|e| Failure::of(Class::Environment, &e))?;
        let found: Vec<_> = images
            .into_iter()
            .filter_map(|image| Some((image.name?.parse::<Reference>().ok()?, image.descriptor)))
            .filter(|(other, _)| other.name() == name.name() && other.tag().is_some())
            .collect();
        return match found.is_empty() {
            true => Err(usage(format!("no image of {} in the store", name.name()))
                .with_hint("list them: builder images")),
            false => Ok(found),
        };
    }
    let name = name.or_latest();
    let found =
        store.resolve(&name.to_string()).map_err(|e| Failure::of(Class::Environment, &e))?;
    match found {
        Some(descriptor) => Ok(vec![(name, descriptor)]),
        None => Err(match image_arg::image(store, &args.image) {
            Ok(_) => usage(format!("{} is not a name", args.image))
                .with_hint(format!("give it one: builder tag {} HOST/REPOSITORY:TAG", args.image)),
            Err(error) => Failure::of_images(&error),
        }),
    }
}
