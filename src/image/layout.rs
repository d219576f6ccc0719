//! OCI image layouts: a directory of blobs and an `index.json` that names them.
//!
//! Source: OCI image specification 1.1, "image-layout.md".

use super::receive::{BlobSource, check_size, receive};
use super::{Image, ImageError};
use crate::oci::{
    DEFAULT_TAG, Descriptor, Digest, Document, DocumentError, Index, Platform, Reference,
    annotation::{ATTESTATION, CONTAINERD_NAME, REF_NAME},
};
use crate::store::{DOCUMENT_MAX, Store};
use crate::sys::cancel::Cancel;
use crate::sys::foreign::{self, Links};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

/// Which image of which layout: `DIR[:TAG|@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutRef {
    /// The directory.
    pub dir: PathBuf,
    /// The tag.
    pub tag: Option<String>,
    /// The digest of a manifest or index.
    pub digest: Option<Digest>,
}

impl LayoutRef {
    /// Parses what follows `oci-layout://`.
    ///
    /// # Errors
    ///
    /// [`ImageError::BadLayoutRef`] for an empty directory or a malformed tag or digest.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let bad = || ImageError::BadLayoutRef { text: text.to_owned() };
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if !digest.contains('/') => {
                (rest, Some(digest.parse().map_err(|_| bad())?))
            }
            _ => (text, None),
        };
        let (dir, tag) = match rest.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if dir.is_empty() || tag.as_ref().is_some_and(String::is_empty) {
            return Err(bad());
        }
        Ok(Self { dir: dir.into(), tag, digest })
    }
}

/// Reads an image of a layout into the store.
///
/// Without a tag the layout's only image is taken, or the one tagged `latest`; several entries of
/// different platforms without tags count as one image. Everything is verified against its digest.
///
/// # Errors
///
/// [`ImageError`]: no layout, no such tag (with those there are), damaged documents or layers.
pub fn load_layout(
    store: &Store,
    reference: &LayoutRef,
    platform: &Platform,
    cancel: &Cancel,
) -> Result<Image, ImageError> {
    let source = LayoutSource { dir: reference.dir.clone() };
    let found = source.find(reference, platform)?;
    receive(store, &source, &found, platform, cancel)
}

/// Returns the entries that a reference means: one, or those of several platforms.
fn find<'i>(index: &'i Index, reference: &LayoutRef) -> Result<Vec<&'i Descriptor>, ImageError> {
    let images: Vec<_> =
        index.manifests.iter().filter(|d| !d.annotations.contains_key(ATTESTATION)).collect();
    let unknown = || ImageError::NotInLayout {
        dir: reference.dir.clone(),
        wanted: reference
            .digest
            .map(|d| format!("@{d}"))
            .or_else(|| reference.tag.as_ref().map(|t| format!(":{t}")))
            .unwrap_or_default(),
        known: images.iter().filter_map(|d| tag_of(d)).collect(),
    };
    if let Some(digest) = &reference.digest {
        let listed: Vec<_> =
            images.iter().copied().filter(|d| d.digest == *digest).take(1).collect();
        return if listed.is_empty() { Err(unknown()) } else { Ok(listed) };
    }
    let tagged = |tag: &str| -> Vec<&Descriptor> {
        images.iter().copied().filter(|d| tag_of(d).as_deref() == Some(tag)).collect()
    };
    let mut found = match &reference.tag {
        Some(tag) => tagged(tag),
        None if images.len() == 1 => images.clone(),
        None => match tagged(DEFAULT_TAG) {
            latest if !latest.is_empty() => latest,
            _ if images.iter().all(|d| tag_of(d).is_none()) => images.clone(),
            _ => Vec::new(),
        },
    };
    if found.is_empty() {
        return Err(unknown());
    }
    // One name for several entries: fine for several platforms, ambiguous otherwise.
    found.dedup_by_key(|d| d.digest);
    if found.len() > 1 && found.iter().any(|d| d.platform.is_none()) {
        return Err(ImageError::Ambiguous {
            dir: reference.dir.clone(),
            digests: found.iter().map(|d| d.digest).collect(),
        });
    }
    Ok(found)
}

/// Returns the only entry, or of several the best for a platform. `name` is what holds them.
pub(super) fn best(
    entries: &[&Descriptor],
    platform: &Platform,
    name: impl Fn() -> String,
) -> Result<Descriptor, ImageError> {
    if let [one] = entries {
        return Ok((*one).clone());
    }
    let several = Index::new(entries.iter().map(|d| (*d).clone()).collect());
    let best = several.candidates(platform).first().map(|d| (*d).clone());
    best.ok_or_else(|| ImageError::NoPlatform {
        name: name(),
        wanted: platform.clone(),
        available: several.platforms(),
    })
}

/// Returns the tag of an entry; of a whole name, its last part.
fn tag_of(entry: &Descriptor) -> Option<String> {
    let name =
        entry.annotations.get(REF_NAME).or_else(|| entry.annotations.get(CONTAINERD_NAME))?;
    if !name.contains(['/', ':']) {
        return Some(name.clone());
    }
    match Reference::parse(name) {
        Ok(reference) => reference.or_latest().tag().map(str::to_owned),
        Err(_) => Some(name.clone()),
    }
}

/// A layout on disk.
#[derive(Debug, Clone)]
pub struct LayoutSource {
    /// Its directory.
    pub dir: PathBuf,
}

impl LayoutSource {
    /// Finds the entry that a reference means; of several for different platforms, the best.
    ///
    /// # Errors
    ///
    /// [`ImageError`] where there is none, or no single one.
    pub fn find(
        &self,
        reference: &LayoutRef,
        platform: &Platform,
    ) -> Result<Descriptor, ImageError> {
        let index = self.index()?;
        let found = find(&index, reference)?;
        best(&found, platform, || self.name())
    }

    fn root(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(CWD, &self.dir, flags, Mode::empty())?)
    }

    /// Returns where a blob is, or would be.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.dir.join(blob_path(digest))
    }

    /// Opens a blob: a regular file, reached through no link below the layout's directory.
    ///
    /// # Errors
    ///
    /// As [`foreign::open`].
    pub fn open_file(&self, digest: &Digest) -> io::Result<File> {
        foreign::open(self.root()?.as_fd(), blob_path(digest).as_bytes(), Links::Refused)
    }

    /// Reads a blob of at most `max` bytes, without a check of its digest.
    ///
    /// # Errors
    ///
    /// As [`foreign::read`].
    pub fn read_file(&self, digest: &Digest, max: u64) -> io::Result<Vec<u8>> {
        foreign::whole(self.open_file(digest)?, max)
    }

    /// Reads the layout's `index.json`.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotALayout`] where the directory is none.
    pub fn index(&self) -> Result<Index, ImageError> {
        let path = self.dir.join("index.json");
        let bytes = match self.root().and_then(|root| {
            foreign::read(root.as_fd(), b"index.json", Links::Refused, DOCUMENT_MAX)
        }) {
            Ok(bytes) => bytes,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Err(ImageError::NotALayout { dir: self.dir.clone() });
            }
            Err(e) => return Err(ImageError::io("read", &path, e)),
        };
        match Document::parse(&bytes, &Digest::of(&bytes)) {
            Ok(Document::Index(index)) => Ok(index),
            Ok(Document::Manifest(_)) => Err(ImageError::NotALayout { dir: self.dir.clone() }),
            Err(DocumentError::Malformed { what, .. }) => Err(ImageError::BadFile { path, what }),
            Err(other) => Err(other.into()),
        }
    }
}

/// Returns the path of a blob in its layout.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

impl BlobSource for LayoutSource {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let failed = |e| ImageError::io("open", &self.path_of(&blob.digest), e);
        let file = match self.open_file(&blob.digest) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::MissingBlob { name: self.name(), digest: blob.digest });
            }
            Err(e) => return Err(failed(e)),
        };
        // Reading a file of another size would show the same, later.
        check_size(self, blob, file.metadata().map_err(failed)?.len())?;
        Ok(Box::new(file.take(blob.size)))
    }

    fn name(&self) -> String {
        self.dir.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layout_references_take_a_tag_or_a_digest() {
        let digest = Digest::of(b"x");
        let cases = [
            ("dir", "dir", None, None),
            ("/a/b:1.2", "/a/b", Some("1.2"), None),
            ("/a:b/c", "/a:b/c", None, None),
            ("./d@", "", None, None),
            (":x", "", None, None),
            ("d:", "", None, None),
            ("d@sha256:12", "", None, None),
            ("/a@b/c", "/a@b/c", None, None),
            (&format!("d@{digest}"), "d", None, Some(digest)),
            (&format!("d:t@{digest}"), "d", Some("t"), Some(digest)),
        ];
        for (text, dir, tag, digest) in cases {
            match LayoutRef::parse(text) {
                Ok(parsed) => {
                    let expected =
                        LayoutRef { dir: dir.into(), tag: tag.map(str::to_owned), digest };
                    assert_eq!(parsed, expected, "{text}");
                }
                Err(_) => assert_eq!(dir, "", "{text}"),
            }
        }
    }

    #[test]
    fn without_a_tag_the_only_image_or_latest_is_meant() {
        let entry = |n: u8, name: Option<&str>, architecture: Option<&str>| {
            let mut d = Descriptor::new("m", Digest::of(&[n]), 1);
            if let Some(name) = name {
                d.annotations.insert(REF_NAME.to_owned(), name.to_owned());
            }
            d.platform = architecture.map(|a| json!({"os": "linux", "architecture": a}));
            d
        };
        let pick = |entries: &[Descriptor], text: &str| -> Result<Vec<Digest>, String> {
            let index = Index::new(entries.to_vec());
            find(&index, &LayoutRef::parse(text).unwrap())
                .map(|found| found.iter().map(|d| d.digest).collect())
                .map_err(|e| e.to_string())
        };
        let ids = |ns: &[u8]| Ok(ns.iter().map(|&n| Digest::of(&[n])).collect::<Vec<_>>());
        let one = [entry(1, Some("docker.io/library/a:v1"), None)];
        assert_eq!(pick(&one, "d"), ids(&[1]));
        assert_eq!(pick(&one, "d:v1"), ids(&[1]));
        assert!(pick(&one, "d:v2").unwrap_err().contains("v1"));
        let two = [entry(1, Some("v1"), None), entry(2, Some("latest"), None)];
        assert_eq!(pick(&two, "d"), ids(&[2]));
        assert_eq!(pick(&two, &format!("d@{}", Digest::of(&[1]))), ids(&[1]));
        let untagged = [entry(1, None, Some("amd64")), entry(2, None, Some("arm64"))];
        assert_eq!(pick(&untagged, "d"), ids(&[1, 2]));
        let twice = [entry(1, Some("a"), None), entry(2, Some("a"), None)];
        assert!(pick(&twice, "d:a").is_err());
    }
}
