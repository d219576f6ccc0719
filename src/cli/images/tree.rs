//! `builder images --tree`: each image with the platforms that it is for.

use super::{Row, id, unpacked_size, write_table};
use crate::cli::image_arg::ImageCommandError;
use crate::image::{self, StoreSource};
use crate::oci::annotation::ATTESTATION;
use crate::oci::{Descriptor, Document, Platform};
use crate::store::Store;
use crate::text::size::decimal;
use std::io::Write;

/// The most platforms that are shown of an image: an index may list any number.
const PLATFORMS_MAX: usize = 100;

/// An image of one platform.
struct Branch {
    platform: String,
    id: String,
    /// Bytes of its unpacked files; none where the image is not here.
    files: Option<u64>,
    /// Bytes of its packed layers and documents that are here.
    content: u64,
}

/// Prints images, those of several names once.
///
/// # Errors
///
/// [`ImageCommandError`] where the store cannot be read or the output not be written.
pub(super) fn write(
    rows: &[Row],
    store: &Store,
    is_whole: bool,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let header = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE"].map(str::to_owned);
    let mut table = vec![header.to_vec()];
    for (at, row) in rows.iter().enumerate() {
        let is_it = |other: &Row| other.image.descriptor.digest == row.image.descriptor.digest;
        if rows[..at].iter().any(is_it) {
            continue;
        }
        let names: Vec<_> = rows.iter().filter(|other| is_it(other)).collect();
        let branches = branches(&row.image.descriptor, store, is_whole);
        let total = |of: fn(&Branch) -> u64| branches.iter().map(of).sum();
        let sizes = [total(|b| b.files.unwrap_or(0)), total(|b| b.content)].map(decimal);
        for (number, name) in names.iter().enumerate() {
            let shown = match &name.name {
                Some(name) => name.familiar(),
                None => "<untagged>".to_owned(),
            };
            let mut line = vec![shown, id(row.id.as_ref(), is_whole)];
            match number {
                0 => line.extend(sizes.clone()),
                _ => line.extend([String::new(), String::new()]),
            }
            table.push(line);
        }
        for (number, branch) in branches.iter().enumerate() {
            let is_last = number + 1 == branches.len();
            let line = if is_last { "└─" } else { "├─" };
            table.push(vec![
                format!("{line} {}", branch.platform),
                branch.id.clone(),
                branch.files.map_or("not here".to_owned(), decimal),
                decimal(branch.content),
            ]);
        }
    }
    Ok(write_table(&table, out)?)
}

/// Returns the images of an index, or the one that it is. What is damaged is left out.
fn branches(top: &Descriptor, store: &Store, is_whole: bool) -> Vec<Branch> {
    let document = image::document(store, &StoreSource(store), top);
    let document = document.ok().and_then(|bytes| Document::parse(&bytes, &top.digest).ok());
    let listed = match document {
        Some(Document::Index(index)) => index.manifests,
        Some(Document::Manifest(_)) => vec![top.clone()],
        None => Vec::new(),
    };
    let images = listed.iter().filter(|d| !d.annotations.contains_key(ATTESTATION));
    images.take(PLATFORMS_MAX).map(|descriptor| branch(descriptor, store, is_whole)).collect()
}

fn branch(descriptor: &Descriptor, store: &Store, is_whole: bool) -> Branch {
    let stated = descriptor.platform.as_ref().and_then(Platform::of_json);
    let any = stated.clone().unwrap_or_else(Platform::host);
    let here = store.has_blob(&descriptor.digest);
    let read = here.then(|| image::read(store, descriptor, &any).ok()).flatten();
    let Some((_, manifest, config)) = read else {
        let platform = stated.map_or("unknown".to_owned(), |platform| platform.to_string());
        let id = id(Some(&descriptor.digest), is_whole);
        return Branch { platform, id, files: None, content: 0 };
    };
    let blobs = [descriptor, &manifest.config].into_iter().chain(&manifest.layers);
    Branch {
        platform: config.platform().to_string(),
        id: id(Some(&manifest.config.digest), is_whole),
        files: unpacked_size(store, &manifest, &config).ok(),
        content: blobs.filter(|blob| store.has_blob(&blob.digest)).map(|blob| blob.size).sum(),
    }
}
