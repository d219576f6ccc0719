//! `builder import`: a root filesystem's tar becomes an image of one layer.

use super::tee::{Output, Tee};
use super::unpack::Unpacked;
use super::{Image, ImageError, ImageLayer};
use crate::layer::{self, Format};
use crate::oci::{Config, Descriptor, History, Manifest, Platform, canonical_json, media_type};
use crate::store::{Store, StorePart};
use crate::sys::cancel::{Cancel, Stoppable};
use crate::sys::rooted::resolve_in_root;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;

/// The PATH of images that bring none.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a tar does not contain.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// What its programs run on.
    pub platform: Platform,
    /// When the image is made, in RFC 3339.
    pub created: String,
    /// A note for its history.
    pub message: String,
}

/// Makes an image of a root filesystem's tar, compressed or not. `name` is what the tar is called
/// in messages.
///
/// The layer is kept as it came where images may hold it so: plain, gzip or zstd; otherwise
/// uncompressed. PATH is Docker's default, CMD the shell there is: `bash`, else `sh`.
///
/// # Errors
///
/// [`ImageError`]; nothing is visible then.
pub fn import_rootfs(
    store: &Store,
    input: impl Read + Send,
    name: &str,
    options: &ImportOptions,
    cancel: &Cancel,
) -> Result<Image, ImageError> {
    let unreadable = |source: io::Error| match cancel.is_cancelled() {
        true => ImageError::Cancelled,
        false => ImageError::Read { name: name.to_owned(), what: "the tar".to_owned(), source },
    };
    let mut input = Stoppable::new(input, cancel);
    let mut start = Vec::with_capacity(6);
    input.by_ref().take(6).read_to_end(&mut start).map_err(unreadable)?;
    let format = layer::detect(&start);
    let input = io::Cursor::new(start).chain(input);
    let (input, suffix): (Box<dyn Read + Send>, _) = match format {
        Format::Gzip => (Box::new(input), "gzip"),
        Format::Zstd => (Box::new(input), "zstd"),
        _ => (layer::decompress(input).map_err(unreadable)?, ""),
    };
    let mut tee = Tee::new(input, Output::Blob(store.blob_writer()?));
    let unpacked = Unpacked::of(store, &mut tee, &[], cancel);
    if let Some(error) = tee.failed {
        return Err(ImageError::io("write", &store.place(StorePart::Blobs), error));
    }
    let unpacked = unpacked?;
    io::copy(&mut tee, &mut io::sink()).map_err(unreadable)?;
    let Output::Blob(writer) = tee.output else { unreachable!("made as a blob above") };
    let (digest, size) = writer.finish()?;
    let shell = shell(&unpacked)?;
    let diff_id = unpacked.diff_id;
    let layer = unpacked.keep(store, &[])?;

    let mut config = Config::empty(&options.platform);
    config.set_env("PATH", DEFAULT_PATH);
    config.set_cmd(shell.map(|shell| vec![shell.to_owned()]).as_deref());
    config.set_created(&options.created);
    config.set_diff_ids(&[diff_id]);
    config.push_history(&History {
        created: Some(options.created.clone()),
        comment: options.message.clone(),
        ..History::default()
    });
    let blob = Descriptor::new(media_type::layer(true, suffix), digest, size);
    let manifest = write_manifest(store, &config.to_bytes(), vec![blob.clone()])?;
    let layer = ImageLayer { diff_id: Some(diff_id), layer, descriptor: Some(blob) };
    Ok(Image { config, layers: vec![layer], manifest: Some(manifest) })
}

/// Returns the shell that an interactive run starts.
fn shell(unpacked: &Unpacked) -> Result<Option<&'static str>, ImageError> {
    let path = unpacked.work.join("fs");
    let root = File::open(&path).map_err(|e| ImageError::io("open", &path, e))?;
    for (name, file) in [("bash", "/bin/bash"), ("sh", "/bin/sh")] {
        let found = resolve_in_root(root.as_fd(), file.as_bytes());
        if found.map_err(|e| ImageError::io("search", &path, e))?.missing == 0 {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Stores a config and the manifest that names it and the layers.
pub(super) fn write_manifest(
    store: &Store,
    config: &[u8],
    layers: Vec<Descriptor>,
) -> Result<Descriptor, ImageError> {
    let digest = store.put_blob(config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, digest, config.len() as u64),
        layers,
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let bytes = canonical_json(&manifest);
    let digest = store.put_blob(&bytes)?;
    Ok(Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64))
}
