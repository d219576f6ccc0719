//! `builder history inspect attachment`: documents that a build made.
//!
//! Source: docker/buildx, `commands/history/inspect_attachment.go`.

use crate::cli::explain::ExplainError;
use crate::cli::platforms;
use crate::history::{BuildRecord, History, LAST};
use crate::oci::{Descriptor, Digest, Document, Index, Platform};
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
    /// The document, by what it is: manifest, image (the configuration) or index
    #[arg(id = "kind", long = "type", value_name = "TYPE", default_value = "manifest")]
    pub kind: Kind,
    /// The platform of the document, where the build was for several
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
    /// The index of the images for several platforms
    Index,
    /// Provenance, which is not made
    #[value(hide = true)]
    Provenance,
    /// A bill of materials, which is not made
    #[value(hide = true)]
    Sbom,
}

/// The documents that a build made.
struct Documents {
    index: Option<Digest>,
    /// The manifests with their platforms, as the index has them.
    manifests: Vec<(Option<Platform>, Descriptor)>,
    /// The configuration of an image alone.
    image: Option<Digest>,
}

impl Documents {
    fn of(build: &BuildRecord, store: &Store) -> Self {
        let platform = build.about.platform.parse::<Platform>().ok();
        let index = build.manifest.and_then(|top| Some((top, index_of(store, &top)?)));
        match index {
            Some((top, index)) => {
                let platform = |d: &Descriptor| d.platform.as_ref().and_then(Platform::of_json);
                let manifests = index.manifests.into_iter().map(|d| (platform(&d), d)).collect();
                Self { index: Some(top), manifests, image: None }
            }
            None => {
                let manifest = build.manifest.map(|top| Descriptor::new("", top, 0));
                let manifests = manifest.into_iter().map(|d| (platform.clone(), d)).collect();
                Self { index: None, manifests, image: build.image }
            }
        }
    }

    /// Returns the manifest that is meant where none is named: that for this machine, or the first.
    fn manifest(&self) -> Option<Digest> {
        let host = Platform::host();
        let own = self.manifests.iter().find(|(platform, _)| platform.as_ref() == Some(&host));
        own.or_else(|| self.manifests.first()).map(|(_, manifest)| manifest.digest)
    }

    /// Returns the configuration that belongs to that manifest.
    fn config(&self, store: &Store) -> Option<Digest> {
        self.image.or_else(|| config_of(store, &self.manifest()?))
    }

    /// Returns every document.
    fn all(&self, store: &Store) -> Vec<Digest> {
        let manifests = self.manifests.iter().map(|(_, manifest)| manifest.digest);
        let configs = manifests.clone().filter_map(|manifest| config_of(store, &manifest));
        self.index.into_iter().chain(manifests).chain(self.image).chain(configs).collect()
    }
}

fn index_of(store: &Store, digest: &Digest) -> Option<Index> {
    match Document::parse(&store.read_blob(digest).ok()?, digest) {
        Ok(Document::Index(index)) => Some(index),
        _ => None,
    }
}

fn config_of(store: &Store, manifest: &Digest) -> Option<Digest> {
    match Document::parse(&store.read_blob(manifest).ok()?, manifest) {
        Ok(Document::Manifest(manifest)) => Some(manifest.config.digest),
        _ => None,
    }
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
    let mut documents = Documents::of(&build, store);
    if let Some(text) = &args.platform {
        let nothing = |of: &str| none(format!("nothing for {text}: it is of {of}"));
        let wanted = platforms::parse(std::slice::from_ref(text));
        let wanted =
            wanted.map_err(|error| none(error.to_string()))?.unwrap_or_else(Platform::host);
        let fits = |made: &(Option<Platform>, Descriptor)| made.0.as_ref() == Some(&wanted);
        documents.manifests.retain(fits);
        if documents.manifests.is_empty() {
            return Err(nothing(&build.about.platforms().join(", ")));
        }
    }
    let made = documents.all(store);
    let digest = match (&args.digest, args.kind) {
        (Some(text), _) => {
            let is_meant = |digest: &&Digest| {
                digest.to_string() == *text || digest.to_hex().starts_with(text.as_str())
            };
            let found = made.iter().find(is_meant).copied();
            found.ok_or_else(|| none(format!("no document {text:?}")))?
        }
        (None, Kind::Manifest) => {
            documents.manifest().ok_or_else(|| none("no manifest".to_owned()))?
        }
        (None, Kind::Image) => {
            documents.config(store).ok_or_else(|| none("no image".to_owned()))?
        }
        (None, Kind::Index) => {
            documents.index.ok_or_else(|| none("no index: one platform was built".to_owned()))?
        }
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
