//! An image leaves the store, or settles in it.
//!
//! In come an [`Image`] whose layers are directories of the store, and an [`OutputSpec`]; out go
//! archives, directories, tars, or names in the store. Layers become blobs only here, several at a
//! time, and each blob is kept and remembered, so a second export compresses nothing.
//!
//! # Invariants
//!
//! - The same image and options give the same bytes: entries sorted, times fixed, JSON canonical.
//! - A layer that was received keeps its blob unless `force-compression` says otherwise or it came
//!   uncompressed; its `diff_id` is kept always.
//! - An output appears when it is whole: a file by rename, a directory's `index.json` last.
//!
//! # Not here
//!
//! Registries. What the flags mean together: the command line.

mod annotation;
mod archive;
mod blob;
mod cache;
mod dest;
mod directory;
pub mod guard;
mod load;
mod metadata;
mod product;
mod rootfs;
mod saved;
mod spec;

use crate::image::{Closure, Image, ImageError, LayoutSource};
use crate::layer::{LayerError, Times};
use crate::oci::{
    Config, Descriptor, Digest, Manifest, Platform, Reference, annotation::REF_NAME,
    canonical_json, media_type,
};
use crate::progress::Progress;
use crate::snapshot::SnapshotError;
use crate::store::{Diff, LayerBlob, Store, StoreError, TarFacts};
use crate::sys::cancel::Cancel;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use archive::{Archive, ArchiveEntry, TarSink};
use dest::DestFile;

pub use annotation::{Annotation, AnnotationError, AnnotationTarget};
pub use cache::{CACHE_TAG, CacheFrom, CacheMode, CacheSpecError, CacheTo, export_cache};
pub use dest::{write_by, write_whole};
pub use directory::LayoutDirectory;
pub use metadata::metadata;
pub use product::{PackedProduct, Product, pack_product};
pub use saved::{Saved, write_saved};
pub use spec::{
    Compression, Dest, Form, LayerOptions, OutputKind, OutputSpec, Push, SpecError, split_csv,
};

/// What can go wrong with an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A system call on a file of the output failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done: "create", "write" …
        doing: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// Why; [`io::ErrorKind::StorageFull`] on a full disk.
        source: io::Error,
    },
    /// A file is wanted where a directory is.
    #[error("cannot write {}: it is a directory", path.display())]
    IsDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// An entry of the image cannot be made in the directory.
    #[error("cannot {doing} `{path}` in {}", dest.display())]
    Entry {
        /// What was being done.
        doing: &'static str,
        /// The entry's path in the image.
        path: String,
        /// The directory it was to be made in.
        dest: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// Images for several platforms are to share a directory, and cannot.
    #[error(
        "{} and {} both have {path}: give each platform a directory with platform-split=true",
        platforms[0], platforms[1]
    )]
    SamePath {
        /// A path in both.
        path: String,
        /// The images' platforms.
        platforms: [Platform; 2],
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be read or compressed.
    #[error("cannot export a layer")]
    Layer(#[from] LayerError),
    /// The final files cannot be mounted.
    #[error("cannot read the image's files")]
    Snapshot(#[from] SnapshotError),
    /// A blob of the store has the wrong size.
    #[error("blob {digest} in the store is damaged: it has {actual} bytes instead of {expected}")]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// The size it should have.
        expected: u64,
        /// The size it has.
        actual: u64,
    },
    /// A blob of the store decompresses to something else.
    #[error("blob {digest} in the store is damaged: it unpacks to {actual} instead of {expected}")]
    BlobContent {
        /// The blob.
        digest: Digest,
        /// The layer's `diff_id`.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// An image is to be loaded, and nothing is here to load it into.
    #[error("neither docker nor podman answers here: there is nothing to load the image into")]
    NoEngine,
    /// The engine that an image was to be loaded into refused it.
    #[error("{program} load failed: {complaint}")]
    Engine {
        /// Which one.
        program: &'static str,
        /// What it said.
        complaint: String,
    },
    /// A layout that is to be added to cannot be read.
    #[error("cannot add to the layout")]
    Layout(#[from] Box<ImageError>),
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl ExportError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }
}

/// What every export works with.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where layers and blobs are.
    pub store: &'a Store,
    /// Receives which layers are compressed.
    pub progress: &'a Progress,
    /// The vertex that the statuses belong to.
    pub vertex: Digest,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// An image all of whose blobs are in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The manifest.
    pub manifest: Descriptor,
    /// The config.
    pub config: Descriptor,
    /// The layers' blobs, from the bottom up.
    pub layers: Vec<Descriptor>,
    /// The layers' `diff_ids`, from the bottom up.
    pub diff_ids: Vec<Digest>,
    /// What it runs on.
    pub platform: Platform,
    /// When it was made, in RFC 3339.
    pub created: Option<String>,
    /// What its entry in an index is annotated with.
    pub descriptor_annotations: BTreeMap<String, String>,
}

/// How an image is packed: [`LayerOptions`] with the output's defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// The compression of layers that have none yet, with its level.
    pub compression: Encoding,
    /// Whether layers that came compressed are made anew.
    pub is_forced: bool,
    /// Whether media types are Docker's.
    pub is_docker: bool,
    /// The latest time that files of layers made here may have, in seconds since 1970. Layers that
    /// were received keep their bytes.
    pub clamp: Option<i64>,
    /// Annotations of the manifest, and of its entry in an index.
    pub annotations: Vec<Annotation>,
}

pub use blob::Encoding;

impl PackOptions {
    /// Says whether an output wants the tars of an image's own layers in the store as they are.
    pub fn stores_tars(spec: &OutputSpec) -> bool {
        let options = Self::of(spec);
        spec.kind == OutputKind::Image
            && options.compression.compression == Compression::Uncompressed
            && options.clamp.is_none()
    }

    /// Fills in what an output leaves open: archives get gzip, the store keeps what there is.
    pub fn of(spec: &OutputSpec) -> Self {
        let default = match spec.kind {
            OutputKind::Image if !spec.push.is_wanted => Compression::Uncompressed,
            // An engine at hand unpacks it at once.
            OutputKind::Docker if spec.dest.is_none() => Compression::Uncompressed,
            _ => Compression::Gzip,
        };
        let compression = spec.layers.compression.unwrap_or(default);
        Self {
            compression: Encoding::new(compression, spec.layers.level),
            is_forced: spec.layers.is_forced,
            is_docker: !spec.layers.oci_media_types.unwrap_or(spec.kind != OutputKind::Docker),
            clamp: spec.epoch.filter(|_| spec.layers.rewrites_times == Some(true)),
            annotations: spec.annotations.clone(),
        }
    }
}

/// Says what the store remembers of a layer's tar that is there as a blob.
pub fn plain_blob(tar: &TarFacts) -> LayerBlob {
    LayerBlob {
        compression: Encoding::default().label(),
        digest: tar.diff_id,
        size: tar.size,
        media_type: media_type::layer(true, ""),
        diff_id: None,
        annotations: BTreeMap::new(),
    }
}

/// Makes the blobs of an image: layers as asked for, config, manifest.
///
/// What the store has already is not made again.
///
/// # Errors
///
/// [`ExportError`]; blobs made so far stay as garbage to be collected.
pub fn pack(
    context: &Context<'_>,
    image: &Image,
    options: &PackOptions,
) -> Result<Packed, ExportError> {
    let blobs = blob::layer_blobs(context, &image.layers, options)?;
    put_image(context, (&image.config.platform(), image), blobs, options)
}

/// Makes the documents of an image for a platform, whose layers' blobs are there.
fn put_image(
    context: &Context<'_>,
    (platform, image): (&Platform, &Image),
    blobs: Vec<(Descriptor, Digest)>,
    options: &PackOptions,
) -> Result<Packed, ExportError> {
    let diff_ids: Vec<_> = blobs.iter().map(|(_, diff_id)| *diff_id).collect();
    let mut config = image.config.clone();
    if config.diff_ids().ok().as_ref() != Some(&diff_ids) {
        config.set_diff_ids(&diff_ids);
    }
    config.reconcile_history(diff_ids.len());
    let (config_type, manifest_type) = match options.is_docker {
        true => (media_type::DOCKER_CONFIG, media_type::DOCKER_MANIFEST),
        false => (media_type::OCI_CONFIG, media_type::OCI_MANIFEST),
    };
    let config_descriptor =
        put(context.store, &config_bytes(context.store, image, &config), config_type)?;
    let annotated = |target| annotation::chosen(&options.annotations, target, platform);
    let layers: Vec<_> = blobs.into_iter().map(|(descriptor, _)| descriptor).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(manifest_type.to_owned()),
        artifact_type: None,
        config: config_descriptor.clone(),
        layers: layers.clone(),
        subject: None,
        annotations: annotated(AnnotationTarget::Manifest),
    };
    let manifest = put(context.store, &canonical_json(&manifest), manifest_type)?;
    Ok(Packed {
        manifest,
        config: config_descriptor,
        layers,
        diff_ids,
        platform: platform.clone(),
        created: config.created().map(str::to_owned),
        descriptor_annotations: annotated(AnnotationTarget::ManifestDescriptor),
    })
}

/// Returns the config's bytes: those received, if nothing of it was changed since.
fn config_bytes(store: &Store, image: &Image, config: &Config) -> Vec<u8> {
    if let Some(manifest) = &image.manifest
        && let Ok(bytes) = store.read_blob(&manifest.digest)
        && let Ok(received) = serde_json::from_slice::<Manifest>(&bytes)
        && let Ok(bytes) = store.read_blob(&received.config.digest)
        && serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|v| v == *config.as_json())
    {
        return bytes;
    }
    config.to_bytes()
}

fn put(store: &Store, bytes: &[u8], media_type: &str) -> Result<Descriptor, ExportError> {
    let digest = store.put_blob(bytes)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

/// Puts what a build made into the store under full names; without names it is only there by its
/// digest.
///
/// New layers become uncompressed blobs, so that other tools can read the store in place.
///
/// # Errors
///
/// [`ExportError`]; no name is given then.
pub fn store_product(
    context: &Context<'_>,
    product: Product<'_>,
    names: &[Reference],
    options: &PackOptions,
) -> Result<PackedProduct, ExportError> {
    let packed = pack_product(context, product, options)?;
    for ((_, image), packed) in product.images().into_iter().zip(&packed.images) {
        remember_layers(context.store, image, packed)?;
    }
    tag(context.store, &packed, names)?;
    if names.is_empty() {
        context.store.keep(&packed.listed())?;
    }
    Ok(packed)
}

/// Notes which layers an image was made of, so that its reader need not unpack its blobs; unless
/// these hold something else, as other times.
fn remember_layers(store: &Store, image: &Image, packed: &Packed) -> Result<(), ExportError> {
    for (layer, diff_id) in image.layers.iter().zip(&packed.diff_ids) {
        let own = store.layer(&layer.layer.id)?.and_then(|layer| layer.meta.tar);
        if own.is_some_and(|tar| tar.diff_id == *diff_id)
            && matches!(store.diff(diff_id)?, Diff::Unknown)
        {
            store.set_layer_of_diff(diff_id, &layer.layer.id)?;
        }
    }
    Ok(())
}

/// Names what was packed.
///
/// # Errors
///
/// [`ExportError::Store`].
pub fn tag(store: &Store, packed: &PackedProduct, names: &[Reference]) -> Result<(), ExportError> {
    for name in names {
        let name = name.clone().or_latest();
        store.tag(&name.to_string(), &packed.listed())?;
    }
    Ok(())
}

/// Makes one output of what a build made. `stdout` takes what goes to `dest=-`.
///
/// Returns what was packed; `None` for outputs that are not images.
///
/// # Errors
///
/// [`ExportError`]; the destination is as it was before, except that a `local` directory may hold
/// some of the files.
pub fn export(
    context: &Context<'_>,
    product: Product<'_>,
    names: &[Reference],
    spec: &OutputSpec,
    stdout: &mut dyn Write,
) -> Result<Option<PackedProduct>, ExportError> {
    let times = spec.epoch.map_or(Times::Kept, Times::Set);
    match spec.kind {
        OutputKind::CacheOnly => Ok(None),
        OutputKind::Image => {
            store_product(context, product, names, &PackOptions::of(spec)).map(Some)
        }
        OutputKind::Oci | OutputKind::Docker => {
            let packed = pack_product(context, product, &PackOptions::of(spec))?;
            // The new blobs are to be on the disk when all is over: they get there in the meantime.
            std::thread::scope(|scope| {
                let sync = scope.spawn(|| context.store.sync());
                write_product(context, &packed, names, spec, stdout)?;
                Ok(sync.join().unwrap_or_else(|panic| resume_unwind(panic))?)
            })
            .map(|()| Some(packed))
        }
        OutputKind::Local => {
            if let Some(Dest::Path(dir)) = &spec.dest {
                rootfs::write_local(context, product, spec.is_split, times, dir)?;
            }
            Ok(None)
        }
        OutputKind::Tar => {
            to_dest(spec, stdout, |path, mut out| {
                let out: &mut dyn Write = match &mut out {
                    TarSink::File(file) => *file,
                    TarSink::Other(writer) => *writer,
                };
                rootfs::write_tar(context, product, spec.is_split, times, path, out)
            })?;
            Ok(None)
        }
    }
}

/// Writes what a build made as one archive. Readers of `manifest.json`, which has no word for an
/// index, find one of its images there.
fn write_product(
    context: &Context<'_>,
    packed: &PackedProduct,
    names: &[Reference],
    spec: &OutputSpec,
    stdout: &mut dyn Write,
) -> Result<(), ExportError> {
    if packed.index.is_none() {
        return write_archive(context, &[(&packed.images[0], names)], spec, stdout);
    }
    let archive = Archive {
        store: context.store,
        entries: vec![ArchiveEntry::of_index(packed, names)],
        kept: Vec::new(),
        is_docker: spec.kind == OutputKind::Docker,
        index_annotations: &BTreeMap::new(),
        cancel: context.cancel,
    };
    archive.write(spec, stdout)
}

/// Writes packed images as one archive, each alone.
///
/// # Errors
///
/// [`ExportError`]; the destination is as it was before.
pub fn write_archive(
    context: &Context<'_>,
    images: &[(&Packed, &[Reference])],
    spec: &OutputSpec,
    stdout: &mut dyn Write,
) -> Result<(), ExportError> {
    let index_annotations = product::of_index(&spec.annotations, AnnotationTarget::Index);
    let archive = Archive {
        store: context.store,
        entries: images
            .iter()
            .map(|(packed, names)| ArchiveEntry::of_packed(packed, names))
            .collect(),
        kept: Vec::new(),
        is_docker: spec.kind == OutputKind::Docker,
        index_annotations: &index_annotations,
        cancel: context.cancel,
    };
    archive.write(spec, stdout)
}

/// Writes an image as it is into an OCI layout: an index with all it names, an artifact. `listed`
/// is how the layout lists it. A directory keeps what it lists under other names.
///
/// # Errors
///
/// [`ExportError`]; the destination is as it was before, but for blobs without a name.
pub fn write_layout(
    context: &Context<'_>,
    whole: &Closure,
    listed: Descriptor,
    names: &[Reference],
    spec: &OutputSpec,
) -> Result<(), ExportError> {
    let (mut kept, mut index_annotations) = (Vec::new(), BTreeMap::new());
    if let (Some(Dest::Path(dir)), Form::Dir) = (&spec.dest, spec.form)
        && dir.join("index.json").exists()
    {
        let index = LayoutSource { dir: dir.clone() }.index().map_err(Box::new)?;
        let name = |d: &Descriptor| d.annotations.get(REF_NAME).cloned();
        let takes_place = |d: &Descriptor| match name(&listed) {
            None => name(d).is_none() && d.digest == listed.digest,
            own => name(d) == own,
        };
        kept = index.manifests;
        kept.retain(|d| !takes_place(d));
        index_annotations = index.annotations;
    }
    let archive = Archive {
        store: context.store,
        entries: vec![ArchiveEntry::of_whole(whole, listed, names)],
        kept,
        is_docker: false,
        index_annotations: &index_annotations,
        cancel: context.cancel,
    };
    archive.write(spec, &mut io::sink())
}

/// Runs `write` with the destination's file or stdout, and makes the file visible if it succeeds.
fn to_dest(
    spec: &OutputSpec,
    stdout: &mut dyn Write,
    write: impl FnOnce(&Path, TarSink<'_>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    match &spec.dest {
        Some(Dest::Path(path)) => {
            let mut dest = DestFile::create(path)?;
            let file: &mut File = dest.file();
            write(path, TarSink::File(file))?;
            dest.finish()
        }
        _ => {
            let path = Path::new("stdout");
            write(path, TarSink::Other(stdout))?;
            stdout.flush().map_err(|e| ExportError::io("write", path, e))
        }
    }
}

#[cfg(test)]
mod tests;
