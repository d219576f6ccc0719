//! Images for tests: small layouts and archives, made without the code under test.

use crate::oci::{
    Config, Descriptor, Digest, Index, Manifest, Platform, annotation::REF_NAME, canonical_json,
    media_type,
};
use crate::store::Store;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// Returns a tar of files owned by the user who runs the test; a name that ends in `/` is a
/// directory.
pub(crate) fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o644 });
        header.set_entry_type(match name.ends_with('/') {
            true => tar::EntryType::Directory,
            false => tar::EntryType::Regular,
        });
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(1_500_000_000);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A layout on disk, made piece by piece.
pub(crate) struct Layout<'d> {
    pub(crate) dir: &'d Path,
    pub(crate) entries: Vec<Descriptor>,
}

impl<'d> Layout<'d> {
    pub(crate) fn new(dir: &'d Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir, entries: Vec::new() }
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        fs::write(self.path(&digest), bytes).unwrap();
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    pub(crate) fn path(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.join("blobs/sha256").join(digest.to_hex())
    }

    /// Adds an image of gzip layers given as plain tars; returns its manifest.
    pub(crate) fn image(&self, platform: &str, layers: &[Vec<u8>]) -> Descriptor {
        let platform: Platform = platform.parse().unwrap();
        let mut config = Config::empty(&platform);
        config.set_created("2020-01-01T00:00:00Z");
        let ids: Vec<_> = layers.iter().map(|tar| Digest::of(tar)).collect();
        config.set_diff_ids(&ids);
        config.reconcile_history(ids.len());
        let layers = layers
            .iter()
            .map(|tar| self.blob(&media_type::layer(true, "gzip"), &gzip(tar)))
            .collect();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: self.blob(media_type::OCI_CONFIG, &config.to_bytes()),
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let mut manifest = self.blob(media_type::OCI_MANIFEST, &canonical_json(&manifest));
        manifest.platform = Some(platform.to_json());
        manifest
    }

    pub(crate) fn tag(&mut self, name: &str, mut entry: Descriptor) {
        entry.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        self.entries.push(entry);
        let index = canonical_json(&Index::new(self.entries.clone()));
        fs::write(self.dir.join("index.json"), index).unwrap();
    }
}

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}
