//! `builder history inspect attachment`: documents that a build made.
//!
//! Source: docker/buildx, `commands/history/inspect_attachment.go`.

use crate::cli::explain::ExplainError;
use crate::history::{History, LAST};
use crate::oci::Digest;
use crate::store::Store;
use std::io::Write;

/// What `builder history inspect` has below it.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum InspectCommand {
    /// Print a document that a build made: the image's manifest or configuration
    Attachment(AttachmentArgs),
}

/// What `builder history inspect attachment` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct AttachmentArgs {
    /// The build: its id or the beginning of it, its name, `last`, or ^1 for the one before it
    #[arg(default_value = LAST)]
    pub build: String,
    /// The document, by its digest
    #[arg(conflicts_with = "kind")]
    pub digest: Option<String>,
    /// The document, by what it is: manifest or image (the configuration)
    #[arg(id = "kind", long = "type", value_name = "TYPE", default_value = "manifest")]
    pub kind: Kind,
    /// The platform of the document
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

/// Documents that builds make, here or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The image's manifest
    Manifest,
    /// The image's configuration
    Image,
    /// An index, which is not made: one platform is built
    #[value(hide = true)]
    Index,
    /// Provenance, which is not made
    #[value(hide = true)]
    Provenance,
    /// A bill of materials, which is not made
    #[value(hide = true)]
    Sbom,
}

/// Prints a document.
///
/// # Errors
///
/// [`ExplainError::NoAttachment`] for one that the build did not make, or that is gone.
pub(super) fn run(
    args: &AttachmentArgs,
    store: &Store,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    let build = History::new(store).load(&args.build)?;
    let none = |what: String| ExplainError::NoAttachment { build: build.id.to_string(), what };
    let made = [build.manifest, build.image];
    if let Some(platform) = args.platform.as_ref().filter(|name| **name != build.about.platform) {
        let of = &build.about.platform;
        return Err(none(format!("nothing for {platform}: it is of {of}")));
    }
    let digest = match (&args.digest, args.kind) {
        (Some(text), _) => {
            let is_meant = |digest: &&Digest| {
                digest.to_string() == *text || digest.to_hex().starts_with(text.as_str())
            };
            let found = made.iter().flatten().find(is_meant).copied();
            found.ok_or_else(|| none(format!("no document {text:?}")))?
        }
        (None, Kind::Manifest) => build.manifest.ok_or_else(|| none("no manifest".to_owned()))?,
        (None, Kind::Image) => build.image.ok_or_else(|| none("no image".to_owned()))?,
        (None, Kind::Index) => return Err(none("no index: one platform is built".to_owned())),
        (None, Kind::Provenance | Kind::Sbom) => {
            return Err(none("no attestation: none are made yet".to_owned()));
        }
    };
    if !store.has_blob(&digest) {
        let gone = format!("document {digest} no longer: the image is not in the store");
        return Err(none(gone));
    }
    let bytes = store.read_blob(&digest).map_err(crate::history::HistoryError::from)?;
    out.write_all(&bytes)?;
    if !bytes.ends_with(b"\n") {
        writeln!(out)?;
    }
    Ok(())
}
