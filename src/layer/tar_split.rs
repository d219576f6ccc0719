//! Splitting of a tar into two streams: the headers, and the contents of the files.
//!
//! Tools touch the files of a cache that they find there, so many times change while few contents
//! do. In a tar, which has a header before each content, that changes every block. Split, the
//! contents stay the same:
//!
//! ```text
//! listing  = entry*
//! entry    = size:u64 length:u32 header:[u8; length]      numbers little-endian
//! contents = the bytes of all files, one after the other
//! ```
//!
//! `header` is what a tar has before the `size` bytes of content: a ustar header and, where need
//! be, a PAX header in front. [`JoinedTar`] puts the tar together again, so there is one reader of
//! tars, and it trusts none of this.

use super::header::{self, BLOCK};
use super::walk::{LayerEntryKind, Walk};
use super::{LayerError, XattrSpace};
use crate::sys::cancel::Cancel;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

/// The longest header, in bytes: PAX records of a path and a link, each as long as the kernel
/// takes, fit many times.
const HEADER_MAX: u32 = 2 << 20;

/// How many bytes of a file are read at a time.
const PIECE: usize = 256 << 10;

/// Takes the two streams.
pub trait SplitSink {
    /// Takes the next bytes of the listing.
    ///
    /// # Errors
    ///
    /// Whatever stops the walk.
    fn listing(&mut self, bytes: &[u8]) -> Result<(), LayerError>;

    /// Takes the next bytes of the contents.
    ///
    /// # Errors
    ///
    /// Whatever stops the walk.
    fn contents(&mut self, bytes: &[u8]) -> Result<(), LayerError>;
}

/// Hands what is in the directory `fs` to `parts`, in the order of raw paths, with times to the
/// nanosecond. Returns the number of entries and the bytes of files.
///
/// The directory is not a layer, so what would be a mark in one is left out, as are sockets and
/// devices.
///
/// # Errors
///
/// [`LayerError::Io`] and [`LayerError::Changed`] with the path, [`LayerError::Cancelled`], or what
/// `parts` returns.
pub fn split_tar(
    fs: BorrowedFd<'_>,
    parts: &mut impl SplitSink,
    cancel: &Cancel,
) -> Result<(u64, u64), LayerError> {
    let (mut entries, mut bytes) = (0, 0);
    let (mut name, mut entry_header, mut piece) = (Vec::new(), Vec::new(), vec![0; PIECE]);
    Walk::new(XattrSpace::detect(), cancel).run(fs, |entry, file| {
        let is_no_file = matches!(
            entry.kind,
            LayerEntryKind::Whiteout
                | LayerEntryKind::Opaque
                | LayerEntryKind::Char { .. }
                | LayerEntryKind::Block { .. }
        );
        if is_no_file {
            return Ok(());
        }
        let content = match (entry.kind, file) {
            (LayerEntryKind::File { size }, Some(file)) => Some((file, size)),
            _ => None,
        };
        let size = content.as_ref().map_or(0, |(_, size)| *size);
        header::tar_name(entry, &mut name);
        entry_header.clear();
        header::append(&mut entry_header, entry, &name, (entry.mtime, entry.mtime_nsec));
        parts.listing(&size.to_le_bytes())?;
        parts.listing(&(entry_header.len() as u32).to_le_bytes())?;
        parts.listing(&entry_header)?;
        entries += 1;
        bytes += size;
        match content {
            Some((file, size)) => read_file(&file, entry.path, size, &mut piece, parts, cancel),
            None => Ok(()),
        }
    })?;
    Ok((entries, bytes))
}

/// Hands on exactly `size` bytes of a file.
fn read_file(
    file: &OwnedFd,
    path: &[u8],
    size: u64,
    piece: &mut [u8],
    parts: &mut impl SplitSink,
    cancel: &Cancel,
) -> Result<(), LayerError> {
    let mut left = size;
    while left > 0 {
        if cancel.is_cancelled() {
            return Err(LayerError::Cancelled);
        }
        let want = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        match rustix::io::read(file, &mut piece[..want]) {
            Ok(0) => {
                let path = String::from_utf8_lossy(path).into();
                return Err(LayerError::Changed { path, expected: size, read: size - left });
            }
            Ok(length) => {
                parts.contents(&piece[..length])?;
                left -= length as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(LayerError::io("read", path, e)),
        }
    }
    Ok(())
}

/// The tar that two streams make.
#[derive(Debug)]
pub struct JoinedTar<L, C> {
    listing: L,
    contents: BufReader<C>,
    /// The header of the entry at hand, or zeros: what comes before and after the content.
    frame: Vec<u8>,
    read: usize,
    /// Bytes of content that follow the frame.
    content: u64,
    /// Zeros that follow those.
    padding: usize,
    is_ended: bool,
}

impl<L: Read, C: Read> JoinedTar<L, C> {
    /// Puts a listing and its contents together.
    pub fn new(listing: L, contents: C) -> Self {
        Self {
            listing,
            contents: BufReader::with_capacity(PIECE, contents),
            frame: Vec::new(),
            read: 0,
            content: 0,
            padding: 0,
            is_ended: false,
        }
    }

    /// Reads the next entry's header, or makes the end of the archive.
    fn next_entry(&mut self) -> io::Result<()> {
        let mut size = [0; 8];
        self.read = 0;
        if !fill_or_end(&mut self.listing, &mut size)? {
            if !self.contents.fill_buf()?.is_empty() {
                return Err(bad("more content than the listing speaks of"));
            }
            self.is_ended = true;
            self.frame = vec![0; 2 * BLOCK];
            return Ok(());
        }
        let mut length = [0; 4];
        self.listing.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > HEADER_MAX || !(length as usize).is_multiple_of(BLOCK) {
            return Err(bad("a header of an impossible length"));
        }
        self.frame.resize(length as usize, 0);
        self.listing.read_exact(&mut self.frame)?;
        self.content = u64::from_le_bytes(size);
        self.padding = ((BLOCK as u64 - self.content % BLOCK as u64) % BLOCK as u64) as usize;
        Ok(())
    }
}

impl<L: Read, C: Read> Read for JoinedTar<L, C> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let length = bytes.len().min(out.len());
        out[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<L: Read, C: Read> BufRead for JoinedTar<L, C> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.read == self.frame.len() && self.content == 0 && !self.is_ended {
            if self.padding > 0 {
                self.frame.clear();
                self.frame.resize(std::mem::take(&mut self.padding), 0);
                self.read = 0;
            } else {
                self.next_entry()?;
            }
        }
        if self.read < self.frame.len() || self.content == 0 {
            return Ok(&self.frame[self.read..]);
        }
        let bytes = self.contents.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length =
            usize::try_from(self.content).map_or(bytes.len(), |left| left.min(bytes.len()));
        Ok(&bytes[..length])
    }

    fn consume(&mut self, length: usize) {
        if self.read < self.frame.len() {
            self.read += length;
        } else {
            self.contents.consume(length);
            self.content -= length as u64;
        }
    }
}

/// Fills `buffer`; says `false` where the input is at its end.
fn fill_or_end(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    loop {
        match input.read(&mut buffer[..1]) {
            Ok(0) => return Ok(false),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    input.read_exact(&mut buffer[1..]).map(|()| true)
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::unpack_plain;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    #[derive(Default)]
    struct Streams {
        listing: Vec<u8>,
        contents: Vec<u8>,
    }

    impl SplitSink for Streams {
        fn listing(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
            self.listing.extend(bytes);
            Ok(())
        }

        fn contents(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
            self.contents.extend(bytes);
            Ok(())
        }
    }

    fn streams(dir: &Path) -> Streams {
        let mut streams = Streams::default();
        let fs = fs::File::open(dir).unwrap();
        split_tar(fs.as_fd(), &mut streams, &Cancel::new()).unwrap();
        streams
    }

    fn put_together(streams: &Streams) -> Result<tempfile::TempDir, LayerError> {
        let dir = tempfile::tempdir().unwrap();
        put_together_in(streams, dir.path()).map(|()| dir)
    }

    fn put_together_in(streams: &Streams, dir: &Path) -> Result<(), LayerError> {
        let whole = JoinedTar::new(&streams.listing[..], &streams.contents[..]);
        let into = fs::File::open(dir).unwrap();
        unpack_plain(whole, into.as_fd(), &Cancel::new()).map(|_| ())
    }

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("d")).unwrap();
        fs::write(path("d/.wh.kept"), "a name like any other").unwrap();
        fs::write(path("empty"), "").unwrap();
        fs::write(path("block"), [7; BLOCK]).unwrap();
        fs::write(path("large"), vec![9; 3 * PIECE + 1]).unwrap();
        fs::write(path(&"n".repeat(200)), "long").unwrap();
        fs::hard_link(path("block"), path("linked")).unwrap();
        symlink("../../etc/passwd", path("link")).unwrap();
        let old = std::time::UNIX_EPOCH - std::time::Duration::from_nanos(1_500_000_001);
        fs::File::open(path("empty")).unwrap().set_modified(old).unwrap();
        dir
    }

    #[test]
    fn a_directory_comes_back_to_the_nanosecond() {
        let from = sample();
        let to = put_together(&streams(from.path())).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(from.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.push("d/.wh.kept".into());
        for name in names {
            let facts = |dir: &Path| fs::symlink_metadata(dir.join(&name)).unwrap();
            let (old, new) = (facts(from.path()), facts(to.path()));
            let facts = |m: &fs::Metadata| (m.mode(), m.uid(), m.size(), m.mtime(), m.mtime_nsec());
            if old.is_dir() {
                assert_eq!((old.mtime(), old.mtime_nsec()), (new.mtime(), new.mtime_nsec()));
            } else {
                assert_eq!(facts(&old), facts(&new), "{}", name.display());
            }
            if old.is_file() {
                let read = |dir: &Path| fs::read(dir.join(&name)).unwrap();
                assert_eq!(read(from.path()), read(to.path()));
            }
        }
        assert_eq!(fs::metadata(to.path().join("linked")).unwrap().nlink(), 2);
    }

    #[test]
    fn a_touched_file_changes_the_listing_only() {
        let dir = sample();
        let before = streams(dir.path());
        let file = fs::File::open(dir.path().join("large")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let after = streams(dir.path());
        assert!(before.listing != after.listing);
        assert!(before.contents == after.contents);
    }

    #[test]
    fn streams_that_do_not_fit_are_refused() {
        let dir = sample();
        let sound = streams(dir.path());
        let cut = |listing: usize, contents: usize| Streams {
            listing: sound.listing[..sound.listing.len() - listing].to_vec(),
            contents: sound.contents[..sound.contents.len() - contents].to_vec(),
        };
        assert!(put_together(&cut(0, 0)).is_ok());
        for (listing, contents) in [(1, 0), (511, 0), (0, 1), (0, 3000)] {
            assert!(put_together(&cut(listing, contents)).is_err(), "{listing} {contents}");
        }
        let mut more = cut(0, 0);
        more.contents.push(0);
        assert!(put_together(&more).is_err(), "content that belongs to nothing");
        let mut huge = cut(0, 0);
        huge.listing[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(put_together(&huge).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever a layout holds: it is refused or makes files in the directory, and nothing
        /// else.
        #[test]
        fn damage_is_refused_or_stays_inside(
            flips in vec((any::<Index>(), any::<u8>()), 1..6),
            listing_kept in 0.5f64..1.2,
            contents_kept in 0.5f64..1.2,
        ) {
            let dir = sample();
            fs::remove_file(dir.path().join("large")).unwrap();
            let mut streams = streams(dir.path());
            for (place, byte) in flips {
                let place = place.index(streams.listing.len());
                streams.listing[place] = byte;
            }
            let cut = |bytes: &mut Vec<u8>, kept: f64| {
                bytes.truncate((bytes.len() as f64 * kept) as usize);
            };
            cut(&mut streams.listing, listing_kept);
            cut(&mut streams.contents, contents_kept);
            let cage = tempfile::tempdir().unwrap();
            let inside = cage.path().join("inside");
            fs::create_dir(&inside).unwrap();
            // Refused or not: what counts is where its files are.
            let _ = put_together_in(&streams, &inside);
            prop_assert_eq!(fs::read_dir(cage.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn nothing_leaves_the_directory_and_no_device_is_made() {
        let outside = tempfile::tempdir().unwrap();
        let entry = |name: &str, kind: tar::EntryType, link: &str, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
                set(&mut header, 0);
            }
            header.set_mode(0o644);
            header.set_cksum();
            let mut listing = (content.len() as u64).to_le_bytes().to_vec();
            listing.extend((BLOCK as u32).to_le_bytes());
            listing.extend(header.as_bytes());
            Streams { listing, contents: content.to_vec() }
        };
        let join = |parts: Vec<Streams>| Streams {
            listing: parts.iter().flat_map(|part| part.listing.clone()).collect(),
            contents: parts.iter().flat_map(|part| part.contents.clone()).collect(),
        };
        let target = outside.path().to_str().unwrap();
        let through_link = join(vec![
            entry("out", tar::EntryType::Symlink, target, b""),
            entry("out/stolen", tar::EntryType::Regular, "", b"x"),
        ]);
        let _ = put_together(&through_link);
        let up = format!("../../../../..{target}/stolen");
        let _ = put_together(&entry(&up, tar::EntryType::Regular, "", b"x"));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let device = put_together(&entry("sda", tar::EntryType::Block, "", b""));
        assert!(matches!(device, Err(LayerError::Malformed { .. })), "{device:?}");
    }
}
