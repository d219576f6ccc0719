//! How slow a peer may be: one that sends or takes a byte now and then is as good as silent.
//!
//! Timeouts of single reads cannot detect that: each byte ends one. So the bytes of a while are
//! counted, and only the time spent waiting for the peer, not what we do with its bytes.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// The least that is to come within a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// The while.
    pub(super) stall: Duration,
    /// Bytes in each second of it, on average.
    pub(super) slowest: u64,
}

impl Limit {
    /// Returns the bytes that are to come in a while; at least one.
    pub(super) fn bytes(self) -> u64 {
        (self.stall.as_secs() * self.slowest).max(1)
    }
}

/// Counts what comes, while by while.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Limit,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(limit: Limit) -> Self {
        Self { limit, waited: Duration::ZERO, bytes: 0 }
    }

    /// Notes that so many bytes took so long.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when a while is over in which too little came.
    pub(super) fn passed(&mut self, waited: Duration, bytes: usize) -> io::Result<()> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.limit.stall {
            return Ok(());
        }
        let (seconds, came) = (self.waited.as_secs_f64(), self.bytes);
        let is_enough = came as f64 >= self.limit.slowest as f64 * seconds;
        *self = Self::new(self.limit);
        if is_enough {
            return Ok(());
        }
        let what = format!("it is too slow: {came} bytes in {seconds:.0} s");
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }
}

/// Reads what a peer sends, and gives up on one that is too slow.
pub(super) struct Paced<R> {
    reader: R,
    pace: Pace,
}

impl<R> Paced<R> {
    pub(super) fn new(reader: R, limit: Limit) -> Self {
        Self { reader, pace: Pace::new(limit) }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let count = self.reader.read(buffer)?;
        // The end is no sign of slowness.
        if count > 0 {
            self.pace.passed(begun.elapsed(), count)?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { stall: Duration::from_secs(10), slowest: 100 };

    #[test]
    fn a_while_with_too_few_bytes_ends_it() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(LIMIT);
        for _ in 0..9 {
            pace.passed(second, 99).unwrap();
        }
        let error = pace.passed(second, 99).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "it is too slow: 990 bytes in 10 s");
    }

    #[test]
    fn what_came_in_one_while_does_not_help_the_next() {
        let mut pace = Pace::new(LIMIT);
        pace.passed(LIMIT.stall, 1_000_000).unwrap();
        pace.passed(LIMIT.stall / 2, 999).unwrap();
        assert!(pace.passed(LIMIT.stall / 2, 0).is_err());
    }

    #[test]
    fn no_least_speed_is_no_limit() {
        let mut pace = Pace::new(Limit { slowest: 0, ..LIMIT });
        pace.passed(LIMIT.stall, 1).unwrap();
        assert_eq!(Limit { slowest: 0, ..LIMIT }.bytes(), 1);
        assert_eq!(LIMIT.bytes(), 1000);
    }
}
