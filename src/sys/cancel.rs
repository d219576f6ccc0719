//! One flag that asks every loop of a build to stop.

use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes that are copied between two looks at the flag.
const PIECE: u64 = 8 << 20;

fn stopped() -> io::Error {
    io::Error::other("interrupted")
}

/// A request to stop, shared by all that work for one build; clones see the same flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    is_set: AtomicBool,
    /// Bytes that were left on a disk when that was the reason.
    room_left: OnceLock<u64>,
    /// Whose request is ours too.
    parent: Option<Cancel>,
}

impl Cancel {
    /// Returns a token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a token of its own, cancelled also when this one is.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Flag { parent: Some(self.clone()), ..Flag::default() }))
    }

    /// Asks all holders to stop. Never blocks; safe in a signal handler.
    pub fn cancel(&self) {
        self.0.is_set.store(true, Ordering::Release);
    }

    /// Asks all holders to stop because a disk has only `left` bytes free.
    pub fn fill(&self, left: u64) {
        let _ = self.0.room_left.set(left);
        self.cancel();
    }

    /// Returns how many bytes were free on a disk, if that was the reason to stop.
    pub fn room_left(&self) -> Option<u64> {
        let own = self.0.room_left.get().copied();
        own.or_else(|| self.0.parent.as_ref().and_then(Self::room_left))
    }

    /// Copies a stream to its end, a piece at a time, and returns the number of bytes. Between
    /// files the kernel copies the pieces itself.
    ///
    /// # Errors
    ///
    /// As [`io::copy`]; an error of no kind of its own once this is cancelled: callers ask the
    /// token first.
    pub fn copy<R: Read + ?Sized, W: Write + ?Sized>(
        &self,
        from: &mut R,
        to: &mut W,
    ) -> io::Result<u64> {
        let mut done = 0;
        loop {
            if self.is_cancelled() {
                return Err(stopped());
            }
            match io::copy(&mut from.take(PIECE), to)? {
                0 => return Ok(done),
                count => done += count,
            }
        }
    }

    /// Says whether an interruption was requested.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
            || self.0.parent.as_ref().is_some_and(Self::is_cancelled)
    }
}

/// Reader or writer that fails as soon as its token is cancelled, so that a loop over it, a decoder
/// or [`io::copy`] stops after at most one buffer, whatever the length of the stream.
///
/// The error is of no kind of its own: callers ask the token first.
#[derive(Debug)]
pub struct Stoppable<'c, S> {
    stream: S,
    cancel: &'c Cancel,
}

impl<'c, S> Stoppable<'c, S> {
    /// Wraps a stream.
    pub fn new(stream: S, cancel: &'c Cancel) -> Self {
        Self { stream, cancel }
    }

    fn check(&self) -> io::Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(stopped()),
            false => Ok(()),
        }
    }
}

impl<S: Read> Read for Stoppable<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.read(buffer)
    }
}

impl<S: BufRead> BufRead for Stoppable<'_, S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.stream.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.stream.consume(length);
    }
}

impl<S: Write> Write for Stoppable<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_with_an_error_once_its_token_is_cancelled() {
        let cancel = Cancel::new();
        let mut read = Stoppable::new(io::repeat(1), &cancel);
        read.read_exact(&mut [0; 100]).unwrap();
        cancel.cancel();
        assert!(read.read(&mut [0]).is_err());
        assert!(Stoppable::new(io::sink(), &cancel).write(&[0]).is_err());
        assert!(Stoppable::new(&b"x"[..], &cancel).fill_buf().is_err());
    }

    #[test]
    fn a_copy_ends_within_a_piece_of_its_cancellation() {
        struct CancelsAt<'c>(u64, &'c Cancel);
        impl Write for CancelsAt<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len() as u64;
                if self.0 > 3 * PIECE {
                    self.1.cancel();
                }
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let cancel = Cancel::new();
        let mut to = CancelsAt(0, &cancel);
        assert!(cancel.copy(&mut io::repeat(1), &mut to).is_err());
        assert_eq!(to.0, 4 * PIECE);
        let whole = Cancel::new().copy(&mut io::repeat(1).take(2 * PIECE + 1), &mut io::sink());
        assert_eq!(whole.unwrap(), 2 * PIECE + 1);
    }

    #[test]
    fn a_child_stops_with_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::new();
        let (one, other) = (parent.child(), parent.child());
        one.cancel();
        assert_eq!([&parent, &one, &other].map(Cancel::is_cancelled), [false, true, false]);
        parent.cancel();
        assert!(other.is_cancelled());
    }
}
