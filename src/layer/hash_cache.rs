//! Cache of BLAKE3 hashes computed while files were written, so that a later scan need not re-read
//! them.

use rustix::fs::fstat;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// The BLAKE3 of files by inode: of one directory on one file system, which no other process writes
/// to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashCache(BTreeMap<u64, (u64, [u8; 32])>);

/// No file is known.
pub(super) static UNKNOWN: HashCache = HashCache(BTreeMap::new());

impl HashCache {
    /// Notes what a file of `size` bytes holds. A file that had its inode before it, and was
    /// removed, is forgotten.
    pub(super) fn insert(
        &mut self,
        file: impl AsFd,
        size: u64,
        hash: [u8; 32],
    ) -> Result<(), Errno> {
        self.0.insert(fstat(file)?.st_ino, (size, hash));
        Ok(())
    }

    /// Forgets what had the inode of a file that was made without being hashed.
    pub(super) fn forget(&mut self, file: impl AsFd) -> Result<(), Errno> {
        self.0.remove(&fstat(file)?.st_ino);
        Ok(())
    }

    /// Returns the hash of a file of `size` bytes; `None` where it must be read.
    pub(super) fn get(&self, file: impl AsFd, size: u64) -> Option<[u8; 32]> {
        if self.0.is_empty() {
            return None;
        }
        let (known, hash) = self.0.get(&fstat(file).ok()?.st_ino)?;
        (*known == size).then_some(*hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn a_file_is_known_by_its_inode_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| File::create(dir.path().join(name)).unwrap();
        let (one, other) = (make("one"), make("other"));
        let mut contents = HashCache::default();
        contents.insert(&one, 5, [1; 32]).unwrap();
        fs::hard_link(dir.path().join("one"), dir.path().join("link")).unwrap();
        let link = File::open(dir.path().join("link")).unwrap();
        assert_eq!(contents.get(&link, 5), Some([1; 32]));
        assert_eq!(contents.get(&link, 6), None);
        assert_eq!(contents.get(&other, 5), None);
        contents.forget(&link).unwrap();
        assert_eq!(contents.get(&one, 5), None);
    }
}
