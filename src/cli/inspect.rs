//! `builder inspect`: all about an image, as JSON.

use super::image_arg::{self, ImageCommandError};
use super::images::unpacked_size;
use crate::image;
use crate::oci::{Manifest, Platform, Reference};
use crate::store::Store;
use serde_json::{Value, json};
use std::io::Write;

/// Show details of images.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Print `json`, the only format there is
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub format: String,
    /// Print the manifest's own bytes, or with `--raw=config` the config's
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "manifest")]
    pub raw: Option<String>,
    /// The platform, of an image that has several
    #[arg(long)]
    pub platform: Vec<String>,
}

/// Prints an array with one object per image, or the raw bytes of documents.
///
/// # Errors
///
/// [`ImageCommandError`] for an unknown image or format; what came before it is printed.
pub fn run(
    args: &InspectArgs,
    store: &Store,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    if args.format != "json" {
        return Err(ImageCommandError::Format { text: args.format.clone(), expected: "json" });
    }
    let platform = super::import::platform(&args.platform)?;
    if let Some(raw) = &args.raw {
        for text in &args.images {
            let found = image_arg::image(store, text)?;
            let (descriptor, manifest) = image::manifest(store, &found.descriptor, &platform)?;
            let digest = match raw.as_str() {
                "manifest" => descriptor.digest,
                "config" => manifest.config.digest,
                _ => {
                    return Err(ImageCommandError::Format {
                        text: raw.clone(),
                        expected: "manifest or config",
                    });
                }
            };
            out.write_all(&store.read_blob(&digest)?)?;
        }
        return Ok(());
    }
    let mut all = Vec::new();
    for text in &args.images {
        all.push(details(store, text, &platform)?);
    }
    serde_json::to_writer_pretty(&mut *out, &all).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Returns what `docker image inspect` shows, as far as it has a meaning here.
fn details(store: &Store, text: &str, platform: &Platform) -> Result<Value, ImageCommandError> {
    let found = image_arg::image(store, text)?;
    let (descriptor, manifest, config): (_, Manifest, _) =
        image::read(store, &found.descriptor, platform)?;
    let names: Vec<Reference> = store
        .images()?
        .into_iter()
        .filter(|image| image.descriptor.digest == found.descriptor.digest)
        .filter_map(|image| Reference::parse(&image.name?).ok())
        .collect();
    let tags: Vec<_> = names.iter().map(Reference::familiar).collect();
    let mut digests: Vec<_> = names
        .iter()
        .map(|name| format!("{}@{}", name.familiar_name(), descriptor.digest))
        .collect();
    digests.dedup();
    let platform = config.platform();
    let size = unpacked_size(store, &manifest, &config)?;
    let json = config.as_json();
    let mut value = json!({
        "Id": manifest.config.digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": config.created(),
        "Author": config.author(),
        "Architecture": platform.architecture,
        "Os": platform.os,
        "Size": size,
        "RootFS": {
            "Type": "layers",
            "Layers": config.diff_ids().unwrap_or_default(),
        },
        "Config": json.get("config").cloned().unwrap_or_else(|| json!({})),
        "Descriptor": descriptor,
        "Manifest": {
            "MediaType": manifest.media_type,
            "Layers": manifest.layers,
            "Annotations": manifest.annotations,
        },
    });
    if !platform.variant.is_empty() {
        value["Variant"] = json!(platform.variant);
    }
    Ok(value)
}
