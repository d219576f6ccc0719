//! A layer's tar becomes a layer of the store.

use super::{BlobSource, ImageError};
use crate::layer::{self, LayerError, Scan, ScanOptions, Stack, UnpackOptions, XattrSpace};
use crate::oci::{Descriptor, Digest};
use crate::store::{self, Layer, LayerId, Store};
use crate::sys::cancel::Cancel;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

/// A layer unpacked in the session's own directory; dropped without being kept, it is removed.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Holds `fs/`.
    pub(super) work: PathBuf,
    scan: Option<Scan>,
    /// The sha256 of the tar, as it was read.
    pub(super) diff_id: Digest,
    /// Whether other layers below would have made another layer of the tar.
    pub(super) borrows: bool,
}

impl Unpacked {
    /// Unpacks a tar, compressed or not, over the layers `below`, reading `input` to its end.
    pub(super) fn of(
        store: &Store,
        input: &mut (dyn Read + Send),
        below: &[Layer],
        cancel: &Cancel,
    ) -> Result<Self, ImageError> {
        let work = store.session()?.new_work()?;
        let mut made =
            Self { work, scan: None, diff_id: Digest::from_bytes([0; 32]), borrows: false };
        let path = made.work.join("fs");
        fs::create_dir(&path).map_err(|e| ImageError::io("create", &path, e))?;
        let dir = File::open(&path).map_err(|e| ImageError::io("open", &path, e))?;
        let bad = |e: LayerError| match e {
            LayerError::Cancelled => ImageError::Cancelled,
            other => ImageError::Tar(other),
        };
        let tar = layer::decompress(input).map_err(|source| bad(LayerError::Input { source }))?;
        let directories: Vec<_> = below.iter().flat_map(Layer::directories).collect();
        let stack = match directories.is_empty() {
            true => None,
            false => Some(Stack::open(&directories, XattrSpace::detect()).map_err(bad)?),
        };
        let options = UnpackOptions { xattrs: XattrSpace::detect(), below: stack.as_ref() };
        let unpacked = layer::unpack_layer(tar, dir.as_fd(), &options, cancel).map_err(bad)?;
        made.diff_id = unpacked.tar.diff_id;
        made.borrows = unpacked.borrowed > 0;
        let (options, contents) = (ScanOptions::detect(false), &unpacked.contents);
        let scan = layer::scan_written(dir.as_fd(), &options, contents, cancel);
        made.scan = Some(scan.map_err(bad)?);
        Ok(made)
    }

    /// Makes it a layer of the store, filed under its `diff_id`, and under the layers `below` that
    /// it was unpacked over where it borrows from them.
    pub(super) fn keep(mut self, store: &Store, below: &[Layer]) -> Result<Layer, ImageError> {
        let scan = self.scan.take().expect("a layer is scanned when it is made");
        let layer = store.add_layer(&self.work, &scan.meta())?;
        if self.borrows {
            store.set_layer_of_diff_over(&self.diff_id, &ids(below), &layer.id)?;
        } else {
            store.set_layer_of_diff(&self.diff_id, &layer.id)?;
        }
        Ok(layer)
    }
}

pub(super) fn ids(layers: &[Layer]) -> Vec<LayerId> {
    layers.iter().map(|layer| layer.id).collect()
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // Renamed away where it was kept, unless an equal layer was there first.
        let _ = store::remove_tree(&self.work);
    }
}

/// Makes a layer of one blob: the tar `diff_id`, which must stand by itself. Returns the layer that
/// is here already, if one is.
///
/// # Errors
///
/// [`ImageError`]: the blob is missing or damaged, or has another tar.
pub fn unpack_tar(
    store: &Store,
    source: &dyn BlobSource,
    blob: &Descriptor,
    diff_id: &Digest,
    cancel: &Cancel,
) -> Result<Layer, ImageError> {
    let _held = store.lock(&format!("diff-{}", diff_id.to_hex()), || {})?;
    if let Some(layer) = store.layer_of_diff(diff_id, &[])? {
        return Ok(layer);
    }
    let mut input = source.open(blob)?;
    let unpacked = Unpacked::of(store, &mut *input, &[], cancel)
        .map_err(|error| error.in_blob(&blob.digest))?;
    if unpacked.diff_id != *diff_id {
        return Err(ImageError::WrongDiffId {
            digest: blob.digest,
            expected: *diff_id,
            actual: unpacked.diff_id,
        });
    }
    unpacked.keep(store, &[])
}
