//! Image names: the entries of `index.json`.

use super::{IoContext as _, Store, StoreError, StorePart};
use crate::oci::{Descriptor, Digest, annotation::REF_NAME};
use serde::{Deserialize, Serialize};
use std::fs;

pub(super) const EMPTY_INDEX: &[u8] =
    b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}\n";

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Its full name, as `docker.io/library/hello:latest`; none for the result of a build without a
    /// name.
    pub name: Option<String>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexFile {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    manifests: Vec<Descriptor>,
}

impl Store {
    /// Lists the images, in the order of their names; a store without any gives an empty list.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadJson`] where `index.json` is damaged.
    pub fn images(&self) -> Result<Vec<Tagged>, StoreError> {
        let mut images: Vec<_> = self
            .read_index()?
            .manifests
            .into_iter()
            // One without a name is collected like any cache.
            .filter(|d| d.annotations.contains_key(REF_NAME) || self.has_blob(&d.digest))
            .map(|descriptor| Tagged {
                name: descriptor.annotations.get(REF_NAME).cloned(),
                descriptor,
            })
            .collect();
        images.sort_by(|a, b| (&a.name, a.descriptor.digest).cmp(&(&b.name, b.descriptor.digest)));
        Ok(images)
    }

    /// Finds the image of that full name.
    ///
    /// # Errors
    ///
    /// As [`images`](Self::images).
    pub fn resolve(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let index = self.read_index()?;
        Ok(index
            .manifests
            .into_iter()
            .find(|d| d.annotations.get(REF_NAME).is_some_and(|n| n == name)))
    }

    /// Gives the image a full name, taking it from the image that had it. Writes nothing where the
    /// image has it already. The blobs it names are synced first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the old names stay then.
    pub fn tag(&self, name: &str, descriptor: &Descriptor) -> Result<(), StoreError> {
        let mut wanted = descriptor.clone();
        wanted.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        if self.resolve(name)?.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.sync()?;
        self.edit_index(|manifests| {
            // With a name it is no longer one without.
            let digest = wanted.digest;
            manifests.retain(|d| match d.annotations.get(REF_NAME) {
                Some(other) => other != name,
                None => d.digest != digest,
            });
            manifests.push(wanted);
        })
    }

    /// Keeps an image that has no name until it is collected or [forgotten](Self::forget). One that
    /// the store has already, with a name or without, is left as it is. The blobs it names are
    /// synced first.
    ///
    /// # Errors
    ///
    /// As [`tag`](Self::tag).
    pub fn keep(&self, descriptor: &Descriptor) -> Result<(), StoreError> {
        let is_it = |known: &Descriptor| known.digest == descriptor.digest;
        if self.read_index()?.manifests.iter().any(is_it) {
            return Ok(());
        }
        self.sync()?;
        self.edit_index(|manifests| {
            if !manifests.iter().any(is_it) {
                manifests.push(descriptor.clone());
            }
        })
    }

    /// Forgets an image that has no name; returns whether there was one. The blobs stay until
    /// garbage collection.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the image stays then.
    pub fn forget(&self, digest: &Digest) -> Result<bool, StoreError> {
        let mut was_there = false;
        self.edit_index(|manifests| {
            manifests.retain(|d| {
                let is_it = d.digest == *digest && !d.annotations.contains_key(REF_NAME);
                was_there |= is_it;
                !is_it
            });
        })?;
        Ok(was_there)
    }

    /// Takes a full name away; returns what it named. The blobs stay until garbage collection.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the name stays then.
    pub fn untag(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let mut removed = None;
        self.edit_index(|manifests| {
            manifests.retain(|d| {
                let is_it = d.annotations.get(REF_NAME).is_some_and(|n| n == name);
                if is_it {
                    removed = Some(d.clone());
                }
                !is_it
            });
        })?;
        Ok(removed)
    }

    fn read_index(&self) -> Result<IndexFile, StoreError> {
        let path = self.place(StorePart::Index);
        let bytes = fs::read(&path).context("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::BadJson { path, source })
    }

    fn edit_index(&self, edit: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), StoreError> {
        let _held = self.lock("index", || {})?;
        let mut index = self.read_index()?;
        edit(&mut index.manifests);
        index
            .manifests
            .retain(|d| d.annotations.contains_key(REF_NAME) || self.has_blob(&d.digest));
        index.manifests.sort_by(|a, b| {
            (a.annotations.get(REF_NAME), a.digest).cmp(&(b.annotations.get(REF_NAME), b.digest))
        });
        let json = serde_json::to_vec(&index).expect("an index is plain data");
        self.write_file(StorePart::Index.path(), &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn a_name_moves_to_the_image_tagged_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let describe = |text: &str| Descriptor::new("m", Digest::of(text.as_bytes()), 1);
        store.tag("a:1", &describe("old")).unwrap();
        store.tag("a:1", &describe("new")).unwrap();
        store.tag("b:1", &describe("new")).unwrap();
        let names: Vec<_> = store.images().unwrap().into_iter().map(|i| i.name).collect();
        assert_eq!(names, [Some("a:1".to_owned()), Some("b:1".to_owned())]);
        assert_eq!(store.resolve("a:1").unwrap().unwrap().digest, Digest::of(b"new"));
        assert!(store.untag("a:1").unwrap().is_some());
        assert!(store.untag("a:1").unwrap().is_none());
    }
}
