//! Image names: the entries of `index.json`.

use super::{Descriptor, IoContext as _, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

pub(super) const EMPTY_INDEX: &[u8] =
    b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}\n";

const NAME: &str = "org.opencontainers.image.ref.name";

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Its full name, as `docker.io/library/hello:latest`; none for an image that lost its last.
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
            .map(|descriptor| Tagged {
                name: descriptor.annotations.get(NAME).cloned(),
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
        Ok(index.manifests.into_iter().find(|d| d.annotations.get(NAME).is_some_and(|n| n == name)))
    }

    /// Gives the image a full name, taking it from the image that had it. Writes nothing where the
    /// image has it already. The blobs it names are synced first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the old names stay then.
    pub fn tag(&self, name: &str, descriptor: &Descriptor) -> Result<(), StoreError> {
        let mut wanted = descriptor.clone();
        wanted.annotations.insert(NAME.to_owned(), name.to_owned());
        if self.resolve(name)?.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.sync()?;
        self.edit_index(|manifests| {
            manifests.retain(|d| d.annotations.get(NAME).is_none_or(|n| n != name));
            manifests.push(wanted);
        })
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
                let is_it = d.annotations.get(NAME).is_some_and(|n| n == name);
                if is_it {
                    removed = Some(d.clone());
                }
                !is_it
            });
        })?;
        Ok(removed)
    }

    fn read_index(&self) -> Result<IndexFile, StoreError> {
        let path = self.root().join("index.json");
        let bytes = fs::read(&path).context("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::BadJson { path, source })
    }

    fn edit_index(&self, edit: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), StoreError> {
        let _held = self.lock("index", || {})?;
        let mut index = self.read_index()?;
        edit(&mut index.manifests);
        index.manifests.sort_by(|a, b| {
            (a.annotations.get(NAME), a.digest).cmp(&(b.annotations.get(NAME), b.digest))
        });
        let json = serde_json::to_vec(&index).expect("an index is plain data");
        self.write_file(Path::new("index.json"), &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Digest;

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
