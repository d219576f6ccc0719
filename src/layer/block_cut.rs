//! Block boundaries in the tar of a layer. Each block is compressed by itself.
//!
//! A compressed layer is a sequence of gzip members or zstd frames, one for each block. A boundary
//! depends only on the entries near it, so a change of one file changes the block it is in, and all
//! others come out the same: they need not be compressed again.
//!
//! # The rules
//!
//! They are part of what the bytes of a blob depend on.
//!
//! - A file of at least [`LARGE`] bytes has blocks of its own: cut behind its header, and then
//!   after each [`LARGE`] bytes of it. Its last piece shares a block with what follows.
//! - Between smaller entries, a block of at least [`MIN`] bytes ends before an entry whose name's
//!   hash says so (one in sixteen); that is what makes two versions of a layer fall into step again
//!   after an entry that was added or taken away.
//! - No block is larger than [`MAX`], and no smaller file is cut in two.
//! - From the first header on that is none, and after the end of the archive, cuts come every
//!   [`LARGE`] bytes.
//!
//! For eStargz every file counts as large, and [`CHUNK`] takes the place of [`LARGE`].

use super::estargz::CHUNK;

/// A block before which no cut is made between small entries.
const MIN: usize = 512 << 10;

/// What a file has blocks of its own from, and the size of these, in bytes.
pub(super) const LARGE: usize = 1 << 20;

/// The largest block, in bytes: [`LARGE`] and a smaller file, with room for headers.
pub(super) const MAX: usize = 2 << 20;

/// Whom the cuts are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// The next export of much the same layer.
    Blocks,
    /// Readers of single files.
    Files,
}

/// The unit of a tar.
const RECORD: usize = 512;

/// Sees the bytes of a tar go by and says where to cut.
#[derive(Debug)]
pub(super) struct BlockCutter {
    policy: Policy,
    /// The bytes of the current block.
    length: usize,
    state: CutState,
    /// The bytes of a header that came in pieces.
    header: Vec<u8>,
    /// Whether the last header belongs to the next one.
    is_extended: bool,
}

#[derive(Debug, Clone, Copy)]
enum CutState {
    /// A header comes next.
    Header,
    /// The rest of a small entry, which stays in the block.
    Small(u64),
    /// The rest of a large file; a cut is due before it.
    LargeBegins(u64),
    /// The rest of a large file.
    Large(u64),
    /// No tar any more.
    Other,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'b> {
    /// Put these bytes into the block.
    Take(&'b [u8]),
    /// The block ends here.
    Cut,
    /// Put the header that [`BlockCutter::header`] has into the block.
    TakeHeader,
}

impl BlockCutter {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, length: 0, state: CutState::Header, header: Vec::new(), is_extended: false }
    }

    /// Returns the header that came last.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Says whether the header that came last ends the archive, or is none.
    pub(super) fn is_at_end(&self) -> bool {
        matches!(self.state, CutState::Other)
    }

    /// Returns where a large file is cut.
    fn large(&self) -> usize {
        match self.policy {
            Policy::Blocks => LARGE,
            Policy::Files => CHUNK,
        }
    }

    /// Forgets the header, which is in the block now.
    pub(super) fn header_taken(&mut self) {
        self.length += self.header.len();
        self.header.clear();
    }

    /// Looks at the bytes that come next, and takes some of them off `bytes`; `None` when there are
    /// none left.
    pub(super) fn step<'b>(&mut self, bytes: &mut &'b [u8]) -> Option<Step<'b>> {
        if self.header.len() == RECORD {
            return Some(self.at_header());
        }
        if bytes.is_empty() {
            return None;
        }
        let (left, limit) = match self.state {
            CutState::Header => {
                let length = (RECORD - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..length]);
                *bytes = &bytes[length..];
                return self.step(bytes);
            }
            CutState::Small(left) => (left, MAX),
            CutState::LargeBegins(left) => {
                self.state = CutState::Large(left);
                return Some(self.cut());
            }
            CutState::Large(left) => (left, self.large()),
            CutState::Other => (u64::MAX, LARGE),
        };
        if self.length >= limit {
            return Some(self.cut());
        }
        let length = bytes.len().min(limit - self.length);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        self.length += length;
        let left = left - length as u64;
        self.state = match self.state {
            CutState::Other => CutState::Other,
            _ if left == 0 => CutState::Header,
            CutState::Large(_) => CutState::Large(left),
            _ => CutState::Small(left),
        };
        let (taken, rest) = bytes.split_at(length);
        *bytes = rest;
        Some(Step::Take(taken))
    }

    fn cut(&mut self) -> Step<'static> {
        self.length = 0;
        Step::Cut
    }

    /// A whole header is there; it may begin a new block.
    fn at_header<'b>(&mut self) -> Step<'b> {
        let size = match size_of(&self.header) {
            Some(size) => size.next_multiple_of(RECORD as u64),
            None => {
                self.state = CutState::Other;
                return Step::TakeHeader;
            }
        };
        if !self.is_extended && self.ends_before(size) {
            return self.cut();
        }
        // A PAX or GNU header describes the entry behind it.
        self.is_extended = matches!(self.header[156], b'x' | b'g' | b'L' | b'K');
        self.state = match size {
            0 => CutState::Header,
            _ if self.is_large(size) => CutState::LargeBegins(size),
            _ => CutState::Small(size),
        };
        Step::TakeHeader
    }

    fn is_large(&self, size: u64) -> bool {
        match self.policy {
            Policy::Blocks => size >= LARGE as u64,
            Policy::Files => matches!(self.header[156], b'0' | 0),
        }
    }

    fn ends_before(&self, size: u64) -> bool {
        let size = if self.is_large(size) { 0 } else { size };
        let is_too_much = self.length + RECORD + size as usize > MAX;
        let is_wanted = || self.policy == Policy::Blocks && hash(&self.header).is_multiple_of(16);
        self.length > 0 && (is_too_much || (self.length >= MIN && is_wanted()))
    }
}

/// Returns the size that a header gives; `None` for what is not a header.
fn size_of(header: &[u8]) -> Option<u64> {
    let field = &header[124..136];
    let is_ours = &header[257..262] == b"ustar" && header[0] != 0;
    if !is_ours {
        return None;
    }
    // GNU tar writes sizes from 8 GiB in base 256; PAX has a record for them, and 0 here. Such a
    // file is cut as what is not a tar.
    let digits = field.iter().skip_while(|&&b| b == b' ').take_while(|b| b.is_ascii_digit());
    let size = digits.fold(0u64, |size, &b| size * 8 + u64::from(b & 7));
    match header[156] {
        // Links and directories have no content, whatever they say.
        b'1'..=b'6' => Some(0),
        _ if field[0] & 0x80 != 0 => None,
        _ => Some(size),
    }
}

/// Hashes the name of an entry (FNV-1a): the fields `name` and `prefix`.
fn hash(header: &[u8]) -> u64 {
    let bytes = header[..100].iter().chain(&header[345..500]).filter(|&&b| b != 0);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, &b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    // Its low bits depend on few bits of the name.
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts a tar that comes in pieces of `piece` bytes.
    fn cuts(tar: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let (mut cutter, mut blocks, mut block) =
            (BlockCutter::new(Policy::Blocks), Vec::new(), Vec::new());
        for mut bytes in tar.chunks(piece) {
            while let Some(step) = cutter.step(&mut bytes) {
                match step {
                    Step::Take(bytes) => block.extend_from_slice(bytes),
                    Step::Cut => blocks.push(std::mem::take(&mut block)),
                    Step::TakeHeader => {
                        block.extend_from_slice(cutter.header());
                        cutter.header_taken();
                    }
                }
            }
        }
        block.extend_from_slice(cutter.header());
        blocks.push(block);
        blocks
    }

    fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            tar.append(&header, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn files(count: usize, size: impl Fn(usize) -> usize) -> Vec<(String, Vec<u8>)> {
        (0..count).map(|i| (format!("dir/file-{i:05}"), vec![i as u8; size(i)])).collect()
    }

    #[test]
    fn blocks_put_together_are_the_tar_however_it_came() {
        let mut mixed = files(600, |i| i * 37 % 20_000);
        mixed.insert(300, ("big".into(), (0..5_000_000u32).map(|i| (i >> 8) as u8).collect()));
        let tar = tar_of(&mixed);
        let whole = cuts(&tar, tar.len());
        assert_eq!(whole.concat(), tar);
        assert!(
            whole.len() > 8 && whole.iter().all(|block| !block.is_empty() && block.len() <= MAX)
        );
        for piece in [1000, 511, 4096, 65_537] {
            assert!(cuts(&tar, piece) == whole, "pieces of {piece}");
        }
        for other in [vec![], vec![7; 300], vec![7; 3 << 20], tar[..4_000_100].to_vec()] {
            assert_eq!(cuts(&other, 9999).concat(), other);
        }
    }

    #[test]
    fn a_change_touches_the_blocks_near_it() {
        let before = files(2000, |i| 2000 + i * 7919 % 30_000);
        let old = cuts(&tar_of(&before), 1 << 18);
        let fresh = |changed: &[(String, Vec<u8>)]| {
            let new = cuts(&tar_of(changed), 1 << 18);
            new.iter().filter(|block| !old.contains(block)).count()
        };
        let mut grown = before.clone();
        grown[1000].1.extend([9; 5000]);
        let mut fewer = before.clone();
        fewer.remove(700);
        let mut more = before.clone();
        more.insert(1200, ("dir/file-01199-more".into(), vec![5; 40_000]));
        for (what, changed) in [("grown", grown), ("fewer", fewer), ("more", more)] {
            let count = fresh(&changed);
            assert!((1..=4).contains(&count), "{what}: {count} of {} blocks are new", old.len());
        }
    }

    #[test]
    fn a_large_file_is_cut_at_its_own_offsets() {
        let big: Vec<u8> = (0..3_500_000u32).map(|i| (i >> 9) as u8).collect();
        let one =
            cuts(&tar_of(&[("a".into(), vec![1; 700]), ("big".into(), big.clone())]), 1 << 18);
        let two = cuts(&tar_of(&[("abc".into(), vec![2; 99_000]), ("big".into(), big)]), 1 << 18);
        assert_eq!(one[1..], two[1..]);
        assert_eq!(one[1].len(), LARGE);
        assert_eq!(one.len(), 5);
    }
}
