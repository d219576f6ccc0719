//! Where a stream of bytes is cut: at places that its content chooses.
//!
//! A hash rolls over the last 64 bytes, and where its upper bits are zero the stream is cut. So a
//! cut depends on what stands before it and on nothing else: bytes that are put in or taken out
//! change the chunk they are in, seldom a neighbour, and all others are the same as before.
//!
//! Around [`AVERAGE`] bytes the chance of a cut changes, which keeps sizes close to it; no chunk
//! but the last has less than [`MIN`] bytes, and none has more than [`MAX`].
//!
//! Source: Xia and others, "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for
//! Data Deduplication", USENIX ATC 2016.

/// The smallest chunk but for the last, in bytes.
pub(super) const MIN: usize = 256 << 10;

/// What chunks have more or less, in bytes. Smaller ones would write less after a change, and a
/// manifest names each of them: this way one of 10 GB has 10,000 names.
pub(super) const AVERAGE: usize = 1 << 20;

/// The largest chunk, in bytes.
pub(super) const MAX: usize = 4 << 20;

/// The largest compressed chunk, in bytes.
pub(super) fn compressed_max() -> u64 {
    zstd::zstd_safe::compress_bound(MAX) as u64
}

/// How many upper bits are zero at a cut: more before [`AVERAGE`] bytes, fewer after. Two bits to
/// either side of the average's own twenty.
const BITS_BEFORE: u32 = AVERAGE.trailing_zeros() + 2;
const BITS_AFTER: u32 = AVERAGE.trailing_zeros() - 2;

/// What each byte adds to the hash: 256 numbers that have nothing to do with each other.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0u64;
    let mut place = 0;
    while place < 256 {
        // SplitMix64, whose outputs are as good as drawn.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[place] = number ^ (number >> 31);
        place += 1;
    }
    table
}

/// Cuts a stream into chunks.
#[derive(Debug, Default)]
pub(super) struct Chunker {
    chunk: Vec<u8>,
    /// How far the chunk has been looked at.
    seen: usize,
    hash: u64,
}

impl Chunker {
    /// Takes the next bytes of the stream; hands each chunk that is complete to `done`.
    pub(super) fn push<E>(
        &mut self,
        mut bytes: &[u8],
        mut done: impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let length = bytes.len().min(MAX - self.chunk.len());
            let (taken, rest) = bytes.split_at(length);
            self.chunk.extend_from_slice(taken);
            bytes = rest;
            while let Some(end) = self.cut() {
                let after = self.chunk.split_off(end);
                (self.seen, self.hash) = (0, 0);
                done(std::mem::replace(&mut self.chunk, after))?;
            }
        }
        Ok(())
    }

    /// Returns what is left at the end of the stream, if anything is.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (!self.chunk.is_empty()).then_some(self.chunk)
    }

    /// Returns where the chunk ends, if it does.
    fn cut(&mut self) -> Option<usize> {
        // What cannot be a cut still is in the hash of one: 64 bytes of it are enough.
        self.seen = self.seen.max((MIN - 64).min(self.chunk.len()));
        while let Some(&byte) = self.chunk.get(self.seen) {
            self.hash = (self.hash << 1).wrapping_add(GEAR[usize::from(byte)]);
            self.seen += 1;
            let bits = if self.seen < AVERAGE { BITS_BEFORE } else { BITS_AFTER };
            if (self.seen >= MIN && self.hash >> (64 - bits) == 0) || self.seen == MAX {
                return Some(self.seen);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    fn random(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut reader = blake3::Hasher::new_keyed(&[seed as u8; 32]).finalize_xof();
        reader.fill(&mut bytes);
        bytes
    }

    fn chunks(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::default();
        let mut chunks = Vec::new();
        for piece in bytes.chunks(piece) {
            let pushed: Result<(), Infallible> = chunker.push(piece, |chunk| {
                chunks.push(chunk);
                Ok(())
            });
            let Ok(()) = pushed;
        }
        chunks.extend(chunker.finish());
        chunks
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_come() {
        let bytes = random(8 << 20, 1);
        let whole = chunks(&bytes, usize::MAX);
        assert_eq!(whole.concat(), bytes);
        for piece in [1 << 10, 12_345, 5 << 20] {
            assert!(chunks(&bytes, piece) == whole, "{piece}");
        }
    }

    #[test]
    fn sizes_stay_between_their_bounds_and_near_the_average() {
        let cut = chunks(&random(24 << 20, 2), 1 << 20);
        let (_, all_but_last) = cut.split_last().unwrap();
        assert!(all_but_last.iter().all(|chunk| (MIN..=MAX).contains(&chunk.len())));
        assert!((14..=48).contains(&cut.len()), "{}", cut.len());
        let zeros = chunks(&vec![0; 9 << 20], 1 << 20);
        assert_eq!(zeros.iter().map(Vec::len).collect::<Vec<_>>(), [MAX, MAX, 1 << 20]);
        assert!(chunks(b"", 1).is_empty());
    }

    #[test]
    fn bytes_put_in_change_the_chunk_they_are_in() {
        let bytes = random(12 << 20, 3);
        let before: BTreeSet<_> = chunks(&bytes, 1 << 20).into_iter().collect();
        for place in [0, 5 << 20, 11 << 20] {
            let changed = [&bytes[..place], b"something new", &bytes[place..]].concat();
            let new = chunks(&changed, 1 << 20).into_iter().filter(|c| !before.contains(c)).count();
            assert!((1..=3).contains(&new), "{new} new chunks after a change at {place}");
        }
    }

    /// The cuts are part of the format: others would make the next export write everything.
    #[test]
    fn the_cuts_are_those_of_the_format() {
        let lengths: Vec<_> = chunks(&random(6 << 20, 4), 1 << 20).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1_436_566, 1_155_742, 1_432_662, 546_909, 1_479_711, 239_866]);
    }
}
