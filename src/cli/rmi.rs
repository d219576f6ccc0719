//! `builder rmi`: names are taken away; what no name reaches is left to garbage collection.

use super::image_arg::{self, ImageCommandError};
use crate::image::StoredImage;
use crate::oci::{Digest, Reference};
use crate::store::{Store, Tagged};
use std::io::Write;

/// Remove images.
#[derive(Debug, Clone, clap::Args)]
pub struct RmiArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Remove all names of an image given by its id; do not mind missing images
    #[arg(short, long)]
    pub force: bool,
    /// Accepted for Docker's sake: parents are not images here
    #[arg(long)]
    pub no_prune: bool,
}

/// Removes images one after the other, going on where one is unknown.
///
/// # Errors
///
/// The first [`ImageCommandError`]; the other images are removed all the same.
pub fn run(args: &RmiArgs, store: &Store, out: &mut dyn Write) -> Result<(), ImageCommandError> {
    let mut first = None;
    for text in &args.images {
        match remove(args, store, text, out) {
            Err(ImageCommandError::Unknown { .. }) if args.force => {}
            Err(error) => {
                first.get_or_insert(error);
            }
            Ok(()) => {}
        }
    }
    first.map_or(Ok(()), Err)
}

fn remove(
    args: &RmiArgs,
    store: &Store,
    text: &str,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let found = image_arg::image(store, text)?;
    let digest = found.descriptor.digest;
    let images = store.images()?;
    if images.iter().all(|image| image.descriptor.digest != digest) {
        let indexes = indexes_with(store, images, &digest);
        return Err(ImageCommandError::PartOfIndex { id: text.to_owned(), indexes });
    }
    let names: Vec<String> = images
        .into_iter()
        .filter(|image| image.descriptor.digest == digest)
        .filter_map(|image| image.name)
        .collect();
    let is_name =
        Reference::parse(text).is_ok_and(|name| Some(name.or_latest().to_string()) == found.name);
    let doomed = match &found.name {
        Some(name) if is_name => vec![name.clone()],
        _ if names.len() > 1 && !args.force => {
            return Err(ImageCommandError::SeveralNames { id: text.to_owned(), names });
        }
        _ => names.clone(),
    };
    for name in &doomed {
        if store.untag(name)?.is_some() {
            let shown = Reference::parse(name).map_or(name.clone(), |n| n.familiar());
            writeln!(out, "Untagged: {shown}")?;
        }
    }
    if names.is_empty() {
        store.forget(&digest)?;
    }
    if doomed.len() == names.len() {
        writeln!(out, "Deleted: {digest}")?;
    }
    Ok(())
}

/// Returns what the indexes are called that have an image.
fn indexes_with(store: &Store, images: Vec<Tagged>, digest: &Digest) -> Vec<String> {
    let has = |image: &Tagged| {
        let found = StoredImage::read(store, &image.descriptor);
        found.is_ok_and(|found| found.here.iter().any(|(child, ..)| child.digest == *digest))
    };
    let shown = |image: Tagged| match image.name.as_deref().map(Reference::parse) {
        Some(Ok(name)) => name.familiar(),
        _ => image.descriptor.digest.to_string(),
    };
    images.into_iter().filter(has).map(shown).collect()
}
