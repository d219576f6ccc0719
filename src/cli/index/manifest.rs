//! `docker manifest`: its commands, on indexes of the store.
//!
//! Docker keeps a list in files of its own until it is pushed; here it is in the store, where all
//! commands know it.

use super::annotate::{self, AnnotateArgs};
use super::create::{self, CreateArgs};
use super::inspect::{self, InspectArgs};
use super::rm::{self, RmArgs};
use crate::cli::failure::{Class, Failure};
use crate::cli::push::{self, PushArgs};
use crate::cli::{Environment, registry};
use crate::oci::Reference;
use crate::progress::Mode;
use std::io::Write;

/// The commands of `docker manifest`.
#[derive(Debug, clap::Subcommand)]
pub enum ManifestCommand {
    /// Make an index in the store of images in registries
    Create {
        /// Its name
        #[arg(value_name = "INDEX")]
        index: String,
        /// The images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Add to the index of that name
        #[arg(short, long)]
        amend: bool,
        #[command(flatten)]
        /// Whom to trust.
        trust: Trust,
    },
    /// Change what an index of the store says of an image
    Annotate(AnnotateArgs),
    /// Show an index of the store or a registry
    Inspect {
        /// Its name
        #[arg(value_name = "INDEX")]
        index: String,
        /// Show more; all is shown
        #[arg(short, long)]
        verbose: bool,
        #[command(flatten)]
        /// Whom to trust.
        trust: Trust,
    },
    /// Push an index of the store
    Push {
        /// Its name
        #[arg(value_name = "INDEX")]
        index: String,
        /// Remove it from the store then
        #[arg(short, long)]
        purge: bool,
        #[command(flatten)]
        /// Whom to trust.
        trust: Trust,
    },
    /// Remove indexes from the store
    Rm {
        /// Their names
        #[arg(required = true, value_name = "INDEX")]
        indexes: Vec<String>,
    },
}

/// Whom to trust, in docker's words.
#[derive(Debug, Clone, clap::Args)]
pub struct Trust {
    /// Talk to registries without TLS, or with certificates that cannot be verified
    #[arg(long)]
    insecure: bool,
}

impl Trust {
    fn tls(&self) -> registry::TlsArgs {
        registry::TlsArgs { verifies: !self.insecure }
    }
}

/// Runs a command.
///
/// # Errors
///
/// The failure to show.
pub(super) fn run(
    command: &ManifestCommand,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let stored = |name: &String| format!("store:{name}");
    match command {
        ManifestCommand::Create { index, images, amend, trust } => {
            let args = CreateArgs {
                sources: images.clone(),
                tag: vec![stored(index)],
                file: Vec::new(),
                append: *amend && is_stored(environment, index)?,
                annotation: Vec::new(),
                platform: Vec::new(),
                dry_run: false,
                prefer_index: true,
                metadata_file: None,
                progress: Mode::Auto,
                builder: None,
                tls: trust.tls(),
            };
            create::run(&args, environment)
        }
        ManifestCommand::Annotate(args) => {
            let args = AnnotateArgs { name: stored(&args.name), ..args.clone() };
            annotate::run(&args, environment)
        }
        ManifestCommand::Inspect { index, trust, .. } => {
            let is_stored = is_stored(environment, index)?;
            let args = InspectArgs {
                name: if is_stored { stored(index) } else { index.clone() },
                format: None,
                raw: true,
                builder: None,
                tls: trust.tls(),
            };
            inspect::run(&args, environment, out)
        }
        ManifestCommand::Push { index, purge, trust } => {
            let args = PushArgs {
                image: index.clone(),
                all_tags: false,
                platform: Vec::new(),
                progress: Mode::Auto,
                quiet: false,
                tls: trust.tls(),
            };
            push::run(&args, environment)?;
            if *purge {
                let args = RmArgs { names: vec![stored(index)], tls: trust.tls() };
                return rm::run(&args, environment);
            }
            Ok(())
        }
        ManifestCommand::Rm { indexes } => {
            let names = indexes.iter().map(stored).collect();
            let tls = registry::TlsArgs { verifies: true };
            rm::run(&RmArgs { names, tls }, environment)
        }
    }
}

/// Says whether the store has an index of that name.
fn is_stored(environment: &Environment, text: &str) -> Result<bool, Failure> {
    let name = text.parse::<Reference>().map_err(|error| Failure::of(Class::Usage, &error))?;
    let found = environment.store()?.resolve(&name.or_latest().to_string());
    Ok(found.map_err(|error| Failure::of(Class::Environment, &error))?.is_some())
}
