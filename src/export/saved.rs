//! Images of the store in one archive: `save`.

use super::archive::{Archive, ArchiveEntry};
use super::{Context, ExportError, OutputKind, OutputSpec, Packed};
use crate::image::Closure;
use crate::oci::{Reference, annotation::REF_NAME};
use std::collections::BTreeMap;
use std::io::Write;

/// An image that goes into an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// An image of one platform; of an index, that which readers get which know of no index.
    pub main: Packed,
    /// The index as it is, with all that it leads to.
    pub whole: Option<Closure>,
}

/// Writes images, each with its names, as one archive.
///
/// # Errors
///
/// [`ExportError`]; the destination is as it was before.
pub fn write_saved(
    context: &Context<'_>,
    images: &[(Saved, Vec<Reference>)],
    spec: &OutputSpec,
    stdout: &mut dyn Write,
) -> Result<(), ExportError> {
    let archive = Archive {
        store: context.store,
        entries: images.iter().map(|(saved, names)| entry(saved, names)).collect(),
        kept: Vec::new(),
        is_docker: spec.kind == OutputKind::Docker,
        index_annotations: &BTreeMap::new(),
        cancel: context.cancel,
    };
    archive.write(spec, stdout)
}

fn entry<'a>(saved: &'a Saved, names: &'a [Reference]) -> ArchiveEntry<'a> {
    let Some(whole) = &saved.whole else { return ArchiveEntry::of_packed(&saved.main, names) };
    let mut listed = whole.top.clone();
    listed.annotations.remove(REF_NAME);
    let mut entry = ArchiveEntry::of_whole(whole, listed, names);
    entry.parts = Some((&saved.main.config, &saved.main.layers));
    entry
}
