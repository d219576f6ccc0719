//! `builder load`: images from an OCI or Docker archive.

use super::image_arg::ImageCommandError;
use super::import::open;
use super::platforms;
use crate::image::{self, ImageError, LoadedTop};
use crate::oci::{Platform, Reference};
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
    /// Platform to load, of images that have several; all that the archive has by default
    #[arg(long, value_name = "PLATFORM")]
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
    let platform = platforms::parse(&args.platform)?;
    let given = args.tag.as_deref().map(Reference::parse).transpose()?;
    let loaded = match open(&args.input, cancel)? {
        Some(file) => {
            let shown = args.input.display().to_string();
            load(store, file, &shown, platform.as_ref(), cancel)?
        }
        None => load(store, stdin, "stdin", platform.as_ref(), cancel)?,
    };
    if let (Some(name), 2..) = (&args.tag, loaded.len()) {
        return Err(ImageCommandError::SeveralImages { name: name.clone(), count: loaded.len() });
    }
    for LoadedTop { top, mut names, tag } in loaded {
        names.extend(given.clone());
        if names.is_empty() {
            let name = named_after_file(args, tag.as_deref());
            names.push(name.ok_or(ImageCommandError::Nameless { digest: top.digest })?);
        }
        for name in names {
            let name = name.or_latest();
            store.tag(&name.to_string(), &top)?;
            if !args.quiet {
                writeln!(out, "Loaded image: {}", name.familiar())?;
            }
        }
    }
    Ok(())
}

/// Loads all that an archive has, or the images for one platform.
fn load(
    store: &Store,
    input: impl Read + Send,
    shown: &str,
    platform: Option<&Platform>,
    cancel: &Cancel,
) -> Result<Vec<LoadedTop>, ImageError> {
    let Some(platform) = platform else {
        return image::load_all(store, input, shown, cancel);
    };
    let loaded = image::load_archive(store, input, shown, platform, cancel)?;
    Ok(loaded.into_iter().map(LoadedTop::of_image).collect())
}

/// An archive that knows only a tag, as `v1`, is named after its file: `app.tar` gives `app:v1`.
fn named_after_file(args: &LoadArgs, tag: Option<&str>) -> Option<Reference> {
    let stem = args.input.file_name()?.to_str()?.split('.').next()?;
    Reference::parse(&format!("{stem}:{}", tag?)).ok()
}
