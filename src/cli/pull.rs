//! `builder pull`: images of registries into the store, under their names.

use super::failure::{Class, Failure};
use super::registry;
use super::{Environment, platforms};
use crate::job::resolve::mismatch;
use crate::job::transfers::{self, Clients, PullFailed, Pulls};
use crate::oci::{Platform, Reference, media_type};
use crate::progress::{Mode, Output, Progress};
use std::collections::BTreeSet;

/// Pull images from registries.
#[derive(Debug, Clone, clap::Args)]
pub struct PullArgs {
    /// Images to pull
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Platforms, of images that have several
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    pub platform: Vec<String>,
    /// Pull the images for all platforms
    #[arg(long)]
    pub all_platforms: bool,
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

/// Pulls images; prints the full name of each with its digest.
///
/// # Errors
///
/// The failure to show; images pulled before stay.
pub fn run(args: &PullArgs, environment: &Environment) -> Result<(), Failure> {
    names(&args.images)?;
    let platforms = platforms_of(&args.platform)?;
    let store = environment.store()?;
    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let output = Output::stderr(environment.is_coloured);
    let progress = Progress::new(mode, output, environment.started);
    let client = registry::client(environment, args.tls.verifies, &progress)?;
    let mut images = args.images.clone();
    for image in &mut images {
        if let Some(long) = client.long_name(image).map_err(transfers::failure_of_registry)? {
            *image = long;
        }
    }
    let names = names(&images)?;
    let clients = Clients::new(|| Ok(client.clone()));
    let pulls = Pulls::new(clients, &progress, true);
    let mut pulled = Vec::new();
    let mut warnings = Vec::new();
    let result = names.iter().try_for_each(|name| {
        let failed = |error: PullFailed| transfers::failure_of(&error.0);
        let cancel = &environment.cancel;
        let mut own = platforms.clone();
        if args.all_platforms {
            let whole = pulls.pull_all(&client, &store, name, cancel).map_err(failed)?;
            // That of this machine is unpacked as well.
            own =
                whole.iter().filter(|has| Platform::host().rank(has).is_some()).cloned().collect();
            own.extend((own.is_empty()).then(|| whole.first().cloned()).flatten());
            own.truncate(1);
        }
        let mut last = None;
        for platform in &own {
            let (named, image) =
                pulls.pull(&client, &store, name, platform, cancel).map_err(failed)?;
            warnings.extend(mismatch(&name.to_string(), &image, platform));
            last = Some((named, image));
        }
        let Some((named, image)) = last else { return Ok(()) };
        let mut descriptor = named.descriptor;
        if !media_type::is_index(&descriptor.media_type) {
            descriptor.platform = Some(image.config.platform().to_json());
        }
        store
            .tag(&name.to_string(), &descriptor)
            .map_err(|error| Failure::of(Class::Environment, &error))?;
        let digest = match name.digest() {
            Some(_) => String::new(),
            None => format!("@{}", descriptor.digest),
        };
        pulled.push(format!("{name}{digest}\n"));
        Ok(())
    });
    progress.finish();
    for warning in &warnings {
        environment.warn(warning);
    }
    environment.print(&pulled.concat());
    result
}

/// Parses the names of images, each once.
pub(super) fn names(texts: &[String]) -> Result<Vec<Reference>, Failure> {
    let mut seen = BTreeSet::new();
    let mut names = Vec::with_capacity(texts.len());
    for text in texts {
        let name = text.parse::<Reference>().map_err(|error| Failure::of(Class::Usage, &error))?;
        let name = name.or_latest();
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Parses the `--platform` options of a command that takes several; this machine's where there are
/// none.
fn platforms_of(texts: &[String]) -> Result<Vec<Platform>, Failure> {
    let found = platforms::parse_all(texts);
    let found = found.map_err(|error| Failure::of(Class::Usage, &error))?;
    Ok(if found.is_empty() { vec![Platform::host()] } else { found })
}

/// Parses the `--platform` options of a command; this machine's where there are none.
pub(super) fn platform(texts: &[String]) -> Result<Platform, Failure> {
    let platform = platforms::parse(texts);
    let platform = platform.map_err(|error| Failure::of(Class::Usage, &error))?;
    Ok(platform.unwrap_or_else(Platform::host))
}
