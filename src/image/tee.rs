//! Bytes on their way into a layer, kept or hashed as they pass.

use crate::store::BlobWriter;
use sha2::Digest as _;
use std::io::{self, Read, Write as _};

/// Hands on what is read, and keeps it or hashes it on the way.
pub(super) struct Tee<'a> {
    pub(super) input: Box<dyn Read + Send + 'a>,
    pub(super) output: Output,
    pub(super) size: u64,
    /// Why the blob cannot be written; the reader gets an error of its own.
    pub(super) failed: Option<io::Error>,
}

/// What becomes of the bytes.
pub(super) enum Output {
    /// A blob of the store.
    Blob(BlobWriter),
    /// A digest.
    Hash(sha2::Sha256),
}

impl Output {
    pub(super) fn hash() -> Self {
        Self::Hash(sha2::Sha256::new())
    }
}

impl<'a> Tee<'a> {
    pub(super) fn new(input: Box<dyn Read + Send + 'a>, output: Output) -> Self {
        Self { input, output, size: 0, failed: None }
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.size += n as u64;
        match &mut self.output {
            Output::Hash(hasher) => hasher.update(&buffer[..n]),
            Output::Blob(writer) => {
                if let Err(error) = writer.write_all(&buffer[..n]) {
                    let kind = error.kind();
                    self.failed.get_or_insert(error);
                    return Err(kind.into());
                }
            }
        }
        Ok(n)
    }
}
