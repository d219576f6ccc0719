//! Files that are on their way to the disk while they are written.
//!
//! Source: sync_file_range(2).

#![expect(unsafe_code, reason = "sync_file_range has no safe wrapper in rustix or nix")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;

/// How much is written before write-back is started, in bytes: enough for it to work at its full
/// speed.
const PIECE: u64 = 8 << 20;

/// A file that is to be synced when it is whole, so its pages go to the disk as they come rather
/// than all at the end. Nothing waits for them, and nothing is promised of them.
#[derive(Debug)]
pub struct Flowing {
    file: File,
    written: u64,
    /// Up to where write-back has been started.
    reported: u64,
}

impl Flowing {
    /// Takes a new file, which is written from its beginning.
    pub fn new(file: File) -> Self {
        Self { file, written: 0, reported: 0 }
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Write for Flowing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        if self.written - self.reported >= PIECE {
            start(&self.file, self.reported, self.written - self.reported);
            self.reported = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Asks the kernel to begin writing a part of a file to the disk. It may decline: on pipes, say.
fn start(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: the call reads and writes no memory of ours; the descriptor is open as long as `file`
    // is.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        let bytes: Vec<u8> = (0..(PIECE as usize * 2 + 7)).map(|i| (i >> 10) as u8).collect();
        let mut flowing = Flowing::new(file);
        flowing.write_all(&bytes).unwrap();
        flowing.flush().unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}
