//! Blobs: bytes named by their sha256.

use super::{IoContext as _, Session, Store, StoreError, StorePart};
use crate::oci::Digest;
use crate::sys::fault;
use crate::sys::writeback::Flowing;
use sha2::Digest as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

/// The largest JSON document read whole, in bytes: manifests, indexes, configs.
///
/// Registries refuse manifests above 4 MiB.
pub const DOCUMENT_MAX: u64 = 4 << 20;

impl Store {
    /// Returns where the blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.place(StorePart::Blobs).join(digest.to_hex())
    }

    /// Says whether the blob is here at this moment; [`Store::lease_blob`] makes sure that it
    /// stays. Costs one system call and reads nothing.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Reads a document of at most [`DOCUMENT_MAX`] bytes and verifies it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] where the bytes are others than the name says.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = read_document(&path)?;
        let actual = Digest::of(&bytes);
        if actual == *digest {
            Ok(bytes)
        } else {
            Err(StoreError::Damaged { digest: *digest, actual })
        }
    }

    /// Opens a blob for streaming; the bytes are not verified.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where it is missing or unreadable.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).context("open", &path)
    }

    /// Stores `bytes`; writes nothing where they are here already.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`], for example on a full disk; nothing half-written is visible then.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        // A document that a power cut damaged is replaced, not trusted.
        if fs::metadata(self.blob_path(&digest)).is_ok_and(|m| m.len() == bytes.len() as u64)
            && self.lease_blob(&digest)?
        {
            return Ok(digest);
        }
        let mut writer = self.blob_writer()?;
        let path = writer.path.clone();
        writer.write_all(bytes).context("write", &path)?;
        writer.finish()?;
        Ok(digest)
    }

    /// Starts a blob whose digest is learnt while it is written.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where no temporary file can be made.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let session = self.session()?;
        let path = session.new_path()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .context("create", &path)?;
        Ok(BlobWriter {
            store: self.clone(),
            session,
            path,
            file: Flowing::new(file),
            hasher: sha2::Sha256::new(),
            size: 0,
            is_finished: false,
        })
    }

    /// Takes over a file of this session as the blob `digest`, which the caller has verified.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where the file cannot be renamed.
    pub fn adopt_blob(&self, file: &Path, digest: &Digest) -> Result<(), StoreError> {
        let target = self.blob_path(digest);
        self.session()?.pend(&format!("blob-{}", digest.to_hex()))?;
        self.lease_as(File::open(file).context("open", file)?, &target)?;
        fault::at("blob.written").context("write", &target)?;
        fs::rename(file, &target).context("write", &target)?;
        fault::at("blob.renamed").context("write", &target)
    }
}

/// A blob in the making. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    session: Session,
    path: PathBuf,
    file: Flowing,
    hasher: sha2::Sha256,
    size: u64,
    is_finished: bool,
}

impl BlobWriter {
    /// Makes the blob visible under its digest; returns that and its size in bytes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] where it cannot be renamed.
    pub fn finish(mut self) -> Result<(Digest, u64), StoreError> {
        let digest = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
        self.place(&digest)?;
        Ok((digest, self.size))
    }

    /// As [`finish`](Self::finish), but only if the digest is the one promised.
    ///
    /// # Errors
    ///
    /// [`StoreError::WrongDigest`]; nothing becomes visible then.
    pub fn finish_as(mut self, expected: &Digest) -> Result<u64, StoreError> {
        let actual = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
        if actual != *expected {
            return Err(StoreError::WrongDigest { expected: *expected, actual });
        }
        self.place(&actual)?;
        Ok(self.size)
    }

    fn place(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let target = self.store.blob_path(digest);
        self.session.pend(&format!("blob-{}", digest.to_hex()))?;
        self.store.lease_as(self.file.file().try_clone().context("open", &self.path)?, &target)?;
        fault::at("blob.written").context("write", &target)?;
        fs::rename(&self.path, &target).context("write", &target)?;
        self.is_finished = true;
        fault::at("blob.renamed").context("write", &target)?;
        Ok(())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads a file of at most [`DOCUMENT_MAX`] bytes.
fn read_document(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).context("open", path)?;
    let size = file.metadata().context("read", path)?.len();
    if size > DOCUMENT_MAX {
        return Err(StoreError::TooLarge { path: path.to_owned(), size });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes).context("read", path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        (dir, store)
    }

    #[test]
    fn bytes_come_back_under_their_digest() {
        let (_dir, store) = store();
        let digest = store.put_blob(b"hello").unwrap();
        assert_eq!(store.read_blob(&digest).unwrap(), b"hello");
        assert_eq!(store.put_blob(b"hello").unwrap(), digest);
    }

    #[test]
    fn a_damaged_blob_is_distinguished() {
        let (_dir, store) = store();
        let digest = store.put_blob(b"hello").unwrap();
        fs::write(store.blob_path(&digest), b"jello").unwrap();
        assert!(matches!(store.read_blob(&digest), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn an_unfinished_or_wrong_blob_leaves_nothing() {
        let (_dir, store) = store();
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"half").unwrap();
        drop(writer);
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"wrong").unwrap();
        let refused = writer.finish_as(&Digest::of(b"right"));
        assert!(matches!(refused, Err(StoreError::WrongDigest { .. })));
        assert_eq!(fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 0);
        let left: Vec<_> = fs::read_dir(store.session().unwrap().dir())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "only lock and pending: {left:?}");
    }
}
