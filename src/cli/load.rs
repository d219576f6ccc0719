//! `builder load`: images from an OCI or Docker archive.

use super::image_arg::ImageCommandError;
use super::import::{open, platform};
use crate::image::{self, Loaded};
use crate::oci::{Descriptor, Reference};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use std::io::{Read, Write};
use std::path::PathBuf;

/// Load images from an archive.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// The archive, plain or compressed; stdin otherwise
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Further name for the archive's image
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Option<String>,
    /// The platform, of images that have several
    #[arg(long)]
    pub platform: Vec<String>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// Loads all images of an archive and prints their names.
///
/// # Errors
///
/// [`ImageCommandError`]; images that came before the faulty one have their names.
pub fn run(
    args: &LoadArgs,
    store: &Store,
    stdin: impl Read + Send,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let platform = platform(&args.platform)?;
    let given = args.tag.as_deref().map(Reference::parse).transpose()?;
    let loaded = match open(&args.input, cancel)? {
        Some(file) => {
            let shown = args.input.display().to_string();
            image::load_archive(store, file, &shown, &platform, cancel)?
        }
        None => image::load_archive(store, stdin, "stdin", &platform, cancel)?,
    };
    if let (Some(name), 2..) = (&args.tag, loaded.len()) {
        return Err(ImageCommandError::SeveralImages { name: name.clone(), count: loaded.len() });
    }
    for Loaded { image, mut names, tag } in loaded {
        let Some(manifest) = &image.manifest else { continue };
        names.extend(given.clone());
        if names.is_empty() {
            let name = named_after_file(args, tag.as_deref());
            names.push(name.ok_or(ImageCommandError::Nameless { digest: manifest.digest })?);
        }
        let platform = Some(image.config.platform().to_json());
        let manifest = Descriptor { platform, ..manifest.clone() };
        for name in names {
            let name = name.or_latest();
            store.tag(&name.to_string(), &manifest)?;
            if !args.quiet {
                writeln!(out, "Loaded image: {}", name.familiar())?;
            }
        }
    }
    Ok(())
}

/// An archive that knows only a tag, as `v1`, is named after its file: `app.tar` gives `app:v1`.
fn named_after_file(args: &LoadArgs, tag: Option<&str>) -> Option<Reference> {
    let stem = args.input.file_name()?.to_str()?.split('.').next()?;
    Reference::parse(&format!("{stem}:{}", tag?)).ok()
}
