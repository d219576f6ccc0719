//! Layers become blobs: found, or made and remembered.

use super::{Compression, Context, ExportError, PackOptions};
use crate::image::ImageLayer;
use crate::layer::{self, Compressed, Effort, LayerError, Meter, TarOptions, Times};
use crate::oci::{Descriptor, Digest, media_type};
use crate::progress::Tally;
use crate::snapshot;
use crate::store::{Layer, LayerBlob, LayerMeta};
use crate::sys::threads;
use crate::sys::writeback::Flowing;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// A compression with its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// How.
    pub compression: Compression,
    /// How hard; 0 for uncompressed.
    pub level: i32,
}

/// The levels that cost least for what they save; see [`layer::Compression`].
const GZIP_LEVEL: i32 = 1;
const ZSTD_LEVEL: i32 = 3;

/// Below this many bytes of files, what other blobs hold is not looked up: compressing costs less.
const INDEXED_FROM: u64 = 2 << 20;

impl Default for Encoding {
    fn default() -> Self {
        Self::new(Compression::Uncompressed, None)
    }
}

impl Encoding {
    /// Fills in the default level.
    pub fn new(compression: Compression, level: Option<i32>) -> Self {
        let level = match compression {
            Compression::Uncompressed => 0,
            Compression::Gzip | Compression::Estargz => level.unwrap_or(GZIP_LEVEL),
            Compression::Zstd => level.unwrap_or(ZSTD_LEVEL),
        };
        Self { compression, level }
    }

    /// Returns what [`LayerBlob::compression`] says: `gzip:1`, `zstd:3`, `uncompressed`.
    pub(super) fn label(self) -> String {
        match self.compression {
            Compression::Uncompressed => "uncompressed".to_owned(),
            Compression::Gzip => format!("gzip:{}", self.level),
            Compression::Zstd => format!("zstd:{}", self.level),
            Compression::Estargz => format!("estargz:{}", self.level),
        }
    }

    fn as_layer(self) -> layer::Compression {
        match self.compression {
            Compression::Uncompressed => layer::Compression::Uncompressed,
            Compression::Gzip => layer::Compression::Gzip(self.level.clamp(0, 9) as u32),
            Compression::Zstd => layer::Compression::Zstd(self.level.clamp(1, 22)),
            Compression::Estargz => layer::Compression::Estargz(self.level.clamp(0, 9) as u32),
        }
    }

    fn suffix(self) -> &'static str {
        match self.compression {
            Compression::Uncompressed => "",
            Compression::Gzip | Compression::Estargz => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Returns the blob and `diff_id` of each layer, making those that are not there, several at a
/// time.
pub(super) fn layer_blobs(
    context: &Context<'_>,
    layers: &[ImageLayer],
    options: &PackOptions,
) -> Result<Vec<(Descriptor, Digest)>, ExportError> {
    let mut found = Vec::with_capacity(layers.len());
    for layer in layers {
        found.push(find(context, layer, options)?);
    }
    let missing: Vec<usize> = (0..layers.len()).filter(|&i| found[i].is_none()).collect();
    let workers = missing.len().min(threads::count()).max(1);
    let made = threads::side_by_side(missing.len(), workers, |number| {
        make(context, &layers[missing[number]], options, workers)
    })?;
    for (i, blob) in missing.into_iter().zip(made) {
        found[i] = Some(blob);
    }
    Ok(found.into_iter().flatten().collect())
}

/// Says whether a received blob may be used as it is.
fn is_kept(blob: &Descriptor, options: &PackOptions) -> bool {
    let is_compressed = blob.media_type.ends_with("gzip") || blob.media_type.ends_with("zstd");
    match options.compression.compression {
        Compression::Uncompressed => !options.is_forced || !is_compressed,
        _ => is_compressed && !options.is_forced,
    }
}

/// Returns the label under which a blob of a layer is remembered. `received` is the `diff_id` of a
/// tar that came from elsewhere, which may differ from the one we would write of the same files.
fn label(meta: &LayerMeta, received: Option<&Digest>, options: &PackOptions) -> String {
    let encoding = options.compression.label();
    match (received, options.clamp) {
        (Some(diff_id), _) if meta.tar.is_none_or(|tar| tar.diff_id != *diff_id) => {
            format!("{encoding} of {diff_id}")
        }
        (None, Some(seconds)) => format!("{encoding} until {seconds}"),
        _ => encoding,
    }
}

/// Returns the `diff_id` that a layer came with.
fn received_id(layer: &ImageLayer) -> Option<Digest> {
    layer.descriptor.as_ref().and(layer.diff_id)
}

/// Returns a blob of the layer that is in the store and fits.
fn find(
    context: &Context<'_>,
    layer: &ImageLayer,
    options: &PackOptions,
) -> Result<Option<(Descriptor, Digest)>, ExportError> {
    let is_oci = !options.is_docker;
    let received = received_id(layer);
    if let Some((blob, diff_id)) = layer.descriptor.as_ref().zip(received)
        && is_kept(blob, options)
        && context.store.lease_blob(&blob.digest)?
    {
        let mut blob = blob.clone();
        blob.media_type = media_type::convert(&blob.media_type, is_oci);
        blob.annotations.clear();
        blob.platform = None;
        return Ok(Some((blob, diff_id)));
    }
    let meta = current(context, layer)?.meta;
    let label = label(&meta, received.as_ref(), options);
    let known = meta.blobs.iter().find(|b| b.compression == label);
    let Some(blob) = known else { return Ok(None) };
    if !context.store.lease_blob(&blob.digest)? {
        return Ok(None);
    }
    let Some(diff_id) = blob.diff_id.or(received).or(meta.tar.map(|tar| tar.diff_id)) else {
        return Ok(None);
    };
    let media_type = media_type::layer(is_oci, options.compression.suffix());
    let mut descriptor = Descriptor::new(media_type, blob.digest, blob.size);
    descriptor.annotations.clone_from(&blob.annotations);
    Ok(Some((descriptor, diff_id)))
}

/// Reads the layer's facts as they are now: another process may have made a blob since.
fn current(context: &Context<'_>, layer: &ImageLayer) -> Result<Layer, ExportError> {
    Ok(context.store.layer(&layer.layer.id)?.unwrap_or_else(|| layer.layer.clone()))
}

/// Makes the blob of a layer and remembers it.
fn make(
    context: &Context<'_>,
    layer: &ImageLayer,
    options: &PackOptions,
    workers: usize,
) -> Result<(Descriptor, Digest), ExportError> {
    let store = context.store;
    let _held = store.lock(&format!("layer-{}", layer.layer.id.to_hex()), || {})?;
    if let Some(found) = find(context, layer, options)? {
        return Ok(found);
    }
    if context.cancel.is_cancelled() {
        return Err(ExportError::Cancelled);
    }
    let stored = current(context, layer)?;
    let files = snapshot::view(&stored.directories(), store)?;
    let mut meta = stored.meta;
    let encoding = options.compression;
    let part = format!("making {} of layer {}", encoding.label(), &layer.layer.id.to_hex()[..12]);
    let adds_entries = encoding.compression == Compression::Estargz;
    let clamp = options.clamp.filter(|_| received_id(layer).is_none());
    // A tar that came from elsewhere is only to be had from its blob.
    let received = match (&layer.descriptor, layer.diff_id) {
        (Some(blob), Some(diff_id)) if meta.tar.is_none_or(|tar| tar.diff_id != diff_id) => {
            Some((store.open_blob(&blob.digest)?, blob.digest, diff_id))
        }
        _ => None,
    };
    let total = match (&received, &layer.descriptor) {
        (Some(_), Some(blob)) => blob.size,
        _ => meta.bytes,
    };
    let tally = Arc::new(Tally::part(context.progress, context.vertex, part, Some(total)));
    let counting = Arc::clone(&tally);
    let meter = Meter::new(move |bytes| counting.add(bytes, || None));
    let threads = (threads::count() / workers).max(1);
    let encoded_as = encoding.as_layer().encoding();
    let known = encoded_as.as_ref().filter(|_| meta.bytes > INDEXED_FROM);
    let known = known.map(|name| store.known_blocks(name)).unwrap_or_default();
    let effort = Effort { threads, known: &known };
    let path = store.session()?.new_path()?;
    let encoded = encode(&path, |out| match &received {
        Some((blob, ..)) => {
            let tar = layer::decompress(meter.count(blob))
                .map_err(|source| LayerError::Input { source })?;
            layer::compress(tar, out, encoding.as_layer(), effort, context.cancel)
        }
        None => {
            let times = clamp.map_or(Times::Kept, Times::Clamped);
            let tar = TarOptions { times, meter: meter.clone(), ..TarOptions::detect() };
            layer::write_compressed(
                files.root(),
                out,
                encoding.as_layer(),
                &tar,
                effort,
                context.cancel,
            )
        }
    });
    let kept = encoded.and_then(|made| {
        match received {
            Some((_, digest, diff_id)) if !adds_entries && made.tar.diff_id != diff_id => {
                return Err(ExportError::BlobContent {
                    digest,
                    expected: diff_id,
                    actual: made.tar.diff_id,
                });
            }
            None if clamp.is_none() && !adds_entries => meta.tar = Some(made.tar),
            _ => {}
        }
        store.adopt_blob(&path, &made.digest)?;
        if let Some(name) = encoded_as.filter(|_| made.blocks.len() > 1) {
            store.note_blocks(&name, &made.digest, &made.blocks);
        }
        Ok(made)
    });
    let made = match kept {
        Ok(made) => made,
        Err(error) => {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
    };
    let diff_id = made.tar.diff_id;
    let label = label(&meta, received_id(layer).as_ref(), options);
    meta.blobs.retain(|blob| blob.compression != label);
    meta.blobs.push(LayerBlob {
        compression: label,
        digest: made.digest,
        size: made.size,
        media_type: media_type::layer(true, encoding.suffix()),
        diff_id: (clamp.is_some() || adds_entries).then_some(diff_id),
        annotations: made.annotations.clone(),
    });
    store.update_layer(&meta)?;
    tally.finish(Some(made.size));
    let media_type = media_type::layer(!options.is_docker, encoding.suffix());
    let mut descriptor = Descriptor::new(media_type, made.digest, made.size);
    descriptor.annotations = made.annotations;
    Ok((descriptor, diff_id))
}

/// Writes a new file at `path`.
fn encode(
    path: &Path,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<Compressed, LayerError>,
) -> Result<Compressed, ExportError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|e| ExportError::io("create", path, e))?;
    write(&mut Flowing::new(file)).map_err(|e| match e {
        LayerError::Cancelled => ExportError::Cancelled,
        LayerError::Output { source, .. } => ExportError::io("write", path, source),
        other => other.into(),
    })
}
