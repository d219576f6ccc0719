//! File content from one descriptor to another by the cheapest sound way.

use crate::sys::cancel::Cancel;
use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

/// Up to this size one read and one write beat every other way.
const SMALL: u64 = 64 * 1024;

/// Bytes that the kernel copies between two looks at the cancel flag.
const STEP: usize = 16 << 20;

/// Why a content was not copied.
#[derive(Debug)]
pub enum DataError {
    /// The source could not be read.
    Read(io::Error),
    /// The target could not be written.
    Write(io::Error),
    /// It was interrupted.
    Cancelled,
}

/// Copies contents; remembers which ways the file systems at hand do not have.
#[derive(Debug, Default)]
pub struct Copier {
    buffer: Vec<u8>,
    lacks_clone: bool,
    lacks_range: bool,
}

impl Copier {
    /// Makes one that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies all of `from` into the empty file `to`. `size` and `allocated` are what a stat said,
    /// in bytes. Returns the bytes copied.
    ///
    /// # Errors
    ///
    /// [`DataError`].
    pub fn copy(
        &mut self,
        from: &mut File,
        to: &mut File,
        size: u64,
        allocated: u64,
        cancel: &Cancel,
    ) -> Result<u64, DataError> {
        if size <= SMALL {
            return self.copy_through_memory(from, to, size, cancel);
        }
        if !self.lacks_clone {
            match ioctl_ficlone(&*to, &*from) {
                Ok(()) => return Ok(size),
                Err(_) => self.lacks_clone = true,
            }
        }
        if allocated < size {
            return self.copy_with_holes(from, to, size, cancel);
        }
        self.copy_range(from, to, u64::MAX, cancel)
    }

    /// Copies up to `limit` bytes from where the files are.
    fn copy_range(
        &mut self,
        from: &mut File,
        to: &mut File,
        limit: u64,
        cancel: &Cancel,
    ) -> Result<u64, DataError> {
        let mut done = 0;
        while !self.lacks_range && done < limit {
            if cancel.is_cancelled() {
                return Err(DataError::Cancelled);
            }
            let step = usize::try_from(limit - done).unwrap_or(STEP).min(STEP);
            match copy_file_range(&*from, None, &*to, None, step) {
                Ok(0) if done > 0 => return Ok(done),
                // Some file systems of the kernel's own say so of files that have content.
                Ok(0) => break,
                Ok(count) => done += count as u64,
                Err(Errno::INTR) => {}
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::ROFS)) => {
                    return Err(DataError::Write(e.into()));
                }
                Err(_) => self.lacks_range = true,
            }
        }
        Ok(done + self.copy_through_memory(from, to, limit - done, cancel)?)
    }

    /// Copies data and leaves holes as holes.
    fn copy_with_holes(
        &mut self,
        from: &mut File,
        to: &mut File,
        size: u64,
        cancel: &Cancel,
    ) -> Result<u64, DataError> {
        let mut at = 0;
        while at < size {
            let start = match seek(&*from, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(_) => at,
            };
            let end = seek(&*from, SeekFrom::Hole(start)).unwrap_or(size).max(start);
            seek(&*from, SeekFrom::Start(start)).map_err(|e| DataError::Read(e.into()))?;
            seek(&*to, SeekFrom::Start(start)).map_err(|e| DataError::Write(e.into()))?;
            let copied = self.copy_range(from, to, end - start, cancel)?;
            if copied == 0 {
                break;
            }
            at = start + copied;
        }
        ftruncate(&*to, size).map_err(|e| DataError::Write(e.into()))?;
        Ok(size)
    }

    fn copy_through_memory(
        &mut self,
        from: &mut File,
        to: &mut File,
        limit: u64,
        cancel: &Cancel,
    ) -> Result<u64, DataError> {
        self.buffer.resize(SMALL as usize, 0);
        let mut done = 0;
        while done < limit {
            let most = usize::try_from(limit - done).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = match from.read(&mut self.buffer[..most]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(DataError::Read(e)),
            };
            to.write_all(&self.buffer[..count]).map_err(DataError::Write)?;
            done += count as u64;
            if done > SMALL && cancel.is_cancelled() {
                return Err(DataError::Cancelled);
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    #[test]
    fn contents_arrive_whole_by_every_way() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, SMALL - 1, SMALL, SMALL + 1, 300_000] {
            for (lacks_clone, lacks_range) in [(false, false), (true, false), (true, true)] {
                let content: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
                std::fs::write(dir.path().join("from"), &content).unwrap();
                let mut from = File::open(dir.path().join("from")).unwrap();
                let mut to = File::create(dir.path().join("to")).unwrap();
                let mut copier = Copier { lacks_clone, lacks_range, ..Copier::new() };
                let copied = copier.copy(&mut from, &mut to, size, size, &Cancel::new()).unwrap();
                assert_eq!(copied, size);
                assert_eq!(std::fs::read(dir.path().join("to")).unwrap(), content);
            }
        }
    }

    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let from = File::create_new(dir.path().join("from")).unwrap();
        from.write_all_at(b"head", 0).unwrap();
        from.write_all_at(b"mid", 5_000_000).unwrap();
        from.set_len(9_000_000).unwrap();
        let mut from = File::open(dir.path().join("from")).unwrap();
        let mut to = File::create(dir.path().join("to")).unwrap();
        let facts = from.metadata().unwrap();
        let allocated = facts.blocks() * 512;
        Copier { lacks_clone: true, ..Copier::new() }
            .copy(&mut from, &mut to, facts.len(), allocated, &Cancel::new())
            .unwrap();
        let copy = std::fs::read(dir.path().join("to")).unwrap();
        assert_eq!(copy, std::fs::read(dir.path().join("from")).unwrap());
        if allocated < 9_000_000 {
            assert!(to.metadata().unwrap().blocks() * 512 < 1_000_000);
        }
    }

    #[test]
    fn a_cancelled_copy_stops() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("from"), vec![1; 200_000]).unwrap();
        let mut from = File::open(dir.path().join("from")).unwrap();
        let mut to = File::create(dir.path().join("to")).unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        let result = Copier { lacks_clone: true, ..Copier::new() }
            .copy(&mut from, &mut to, 200_000, 200_000, &cancel);
        assert!(matches!(result, Err(DataError::Cancelled)), "{result:?}");
    }
}
