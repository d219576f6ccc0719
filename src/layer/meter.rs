//! Counting what a pass over a layer has read, for progress.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

/// Learns how many bytes of files were read, piece by piece. Clones count together.
#[derive(Clone, Default)]
pub struct Meter(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl Meter {
    /// Makes a meter that calls `count` with the length of each piece.
    pub fn new(count: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(count)))
    }

    /// Counts a piece.
    pub fn add(&self, length: usize) {
        if let Some(count) = &self.0 {
            count(length as u64);
        }
    }

    /// Wraps a reader, of which all that is read is counted.
    pub fn count<R: Read>(&self, reader: R) -> impl Read + use<R> {
        Counted { reader, meter: self.clone() }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meter").field(&self.0.is_some()).finish()
    }
}

struct Counted<R> {
    reader: R,
    meter: Meter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.meter.add(length);
        Ok(length)
    }
}
