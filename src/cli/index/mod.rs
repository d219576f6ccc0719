//! `builder index`: images for several platforms under one name, made of images that are there.
//!
//! Names are of registries, as those of `buildx imagetools` and `docker manifest` are; the store and
//! layouts are places with a prefix.

mod annotate;
mod create;
mod inspect;
mod manifest;
mod place;
mod rm;

use super::Environment;
use super::failure::Failure;
pub use annotate::AnnotateArgs;
pub use create::CreateArgs;
pub use inspect::InspectArgs;
pub use manifest::ManifestCommand;
pub use rm::RmArgs;
use std::io::Write;

/// What the help says of places.
const PLACES: &str = "\
Places:
  NAME, docker://NAME        a registry
  store:NAME                 the store
  oci:DIR[:TAG]              an OCI layout
  oci-archive:FILE[:NAME]    an OCI layout in a tar";

/// The commands on indexes.
#[derive(Debug, clap::Subcommand)]
pub enum IndexCommand {
    /// Make an index of images that are there
    Create(CreateArgs),
    /// Show what an index lists
    Inspect(InspectArgs),
    /// Change what an index says of its images, or of itself
    Annotate(AnnotateArgs),
    /// Remove indexes from the store or a registry
    Rm(RmArgs),
}

/// Runs a command on indexes.
///
/// # Errors
///
/// The failure to show.
pub fn run(
    command: &IndexCommand,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        IndexCommand::Create(args) => create::run(args, environment),
        IndexCommand::Inspect(args) => inspect::run(args, environment, out),
        IndexCommand::Annotate(args) => annotate::run(args, environment),
        IndexCommand::Rm(args) => rm::run(args, environment),
    }
}

/// Runs a command as `docker manifest` has it.
///
/// # Errors
///
/// The failure to show.
pub fn run_manifest(
    command: &ManifestCommand,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    manifest::run(command, environment, out)
}
