//! A layer's directory becomes tar bytes, hashes, or both, in one pass over its files.

use super::XattrSpace;
use super::hash_cache::{HashCache, UNKNOWN};
use super::header::{self, BLOCK};
use super::walk::{LayerEntry, LayerEntryKind, Walk};
use super::{LayerError, LayerHasher, LayerIds, Meter, Now};
use crate::sys::cancel::Cancel;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};

/// How many bytes of tar are handed on at a time: large enough that a hand-over between threads
/// costs nothing, small enough for a level 2 cache.
pub(super) const CHUNK: usize = 256 * 1024;

/// How a tar is written.
#[derive(Debug, Clone)]
pub struct TarOptions {
    /// Which opaque marks count.
    pub xattrs: XattrSpace,
    /// Which times are written.
    pub times: Times,
    /// Counts the bytes of files that are read.
    pub meter: Meter,
}

/// Which times the entries of a tar get; all in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Their own.
    Kept,
    /// Their own, but none after this one (`rewrite-timestamp=true` with `SOURCE_DATE_EPOCH`).
    Clamped(i64),
    /// This one.
    Set(i64),
}

impl Times {
    /// Returns the time to write for an entry of time `own`.
    pub fn of(self, own: i64) -> i64 {
        match self {
            Self::Kept => own,
            Self::Clamped(latest) => own.min(latest),
            Self::Set(time) => time,
        }
    }
}

impl TarOptions {
    /// Returns what this process needs: its own kind of opaque marks, times as they are.
    pub fn detect() -> Self {
        Self { xattrs: XattrSpace::detect(), times: Times::Kept, meter: Meter::default() }
    }
}

/// Writes the layer's tar to `out` and returns its size in bytes.
///
/// The bytes depend on nothing but the layer and `times`. `fs` is an open directory in overlay
/// form; its root itself is not an entry.
///
/// # Errors
///
/// [`LayerError`] with the path that cannot be read, or [`LayerError::Output`].
pub fn write_tar(
    fs: BorrowedFd<'_>,
    out: &mut dyn Write,
    options: &TarOptions,
    cancel: &Cancel,
) -> Result<u64, LayerError> {
    let packed = pack(fs, options, Wanted::Tar, cancel, &mut |mut chunk| {
        out.write_all(&chunk).map_err(|source| LayerError::Output { what: "tar", source })?;
        chunk.clear();
        Ok(chunk)
    })?;
    Ok(packed.tar_size)
}

/// Writes trees as one tar, each below a directory of its name, or as they are where that is empty.
///
/// # Errors
///
/// As [`write_tar`].
pub fn write_trees(
    trees: &[(String, BorrowedFd<'_>)],
    out: &mut dyn Write,
    options: &TarOptions,
    cancel: &Cancel,
) -> Result<u64, LayerError> {
    let sink: &mut Sink<'_> = &mut |mut chunk| {
        out.write_all(&chunk).map_err(|source| LayerError::Output { what: "tar", source })?;
        chunk.clear();
        Ok(chunk)
    };
    let packer = Packer::new(options.times, Wanted::Tar, LayerHasher::new(None), cancel, sink);
    let mut packer = Packer { meter: options.meter.clone(), ..packer };
    for (name, root) in trees {
        let top = name.as_bytes();
        if !top.is_empty() {
            packer.entry(&LayerEntry::directory(top), None)?;
        }
        let below = |path: &[u8]| match top {
            [] => path.to_vec(),
            top => [top, b"/", path].concat(),
        };
        Walk::new(options.xattrs, cancel).run(*root, |entry, file| {
            let (path, first) = (below(entry.path), entry.hard_link.map(below));
            let entry = LayerEntry { path: &path, hard_link: first.as_deref(), ..*entry };
            packer.entry(&entry, file)
        })?;
    }
    Ok(packer.finish()?.tar_size)
}

/// What a pass over a layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// With the times that the layer's step did not set.
    Identities(Option<Now>),
    Tar,
    Both(Option<Now>),
}

impl Wanted {
    pub(super) fn tar(self) -> bool {
        !matches!(self, Self::Identities(_))
    }

    fn identities(self) -> bool {
        self != Self::Tar
    }

    pub(super) fn now(self) -> Option<Now> {
        match self {
            Self::Identities(now) | Self::Both(now) => now,
            Self::Tar => None,
        }
    }
}

/// What a pass over a layer found.
#[derive(Debug)]
pub(super) struct Packed {
    /// Present if identities were wanted.
    pub(super) identities: Option<LayerIds>,
    /// Present if that was wanted.
    pub(super) listing: Option<Vec<u8>>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Of these, the bytes that are in the directory itself.
    pub(super) own_bytes: u64,
    pub(super) tar_size: u64,
}

/// Takes a full chunk of the tar and gives back an empty one to fill. Blocks for as long as the
/// consumer that consumes the tar is behind, which is what bounds memory.
pub(super) type Sink<'s> = dyn FnMut(Vec<u8>) -> Result<Vec<u8>, LayerError> + 's;

/// Reads the layer once, handing its tar to `sink` chunk by chunk where one is wanted.
pub(super) fn pack(
    fs: BorrowedFd<'_>,
    options: &TarOptions,
    wanted: Wanted,
    cancel: &Cancel,
    sink: &mut Sink<'_>,
) -> Result<Packed, LayerError> {
    let hasher = LayerHasher::new(wanted.now());
    pack_hashing(fs, options, (wanted, hasher), &UNKNOWN, cancel, sink)
}

/// As [`pack`]; where no tar is wanted, files that `contents` has are not read.
pub(super) fn pack_written(
    fs: BorrowedFd<'_>,
    options: &TarOptions,
    wanted: Wanted,
    contents: &HashCache,
    cancel: &Cancel,
    sink: &mut Sink<'_>,
) -> Result<Packed, LayerError> {
    let hasher = LayerHasher::new(wanted.now());
    pack_hashing(fs, options, (wanted, hasher), contents, cancel, sink)
}

/// As [`pack`], telling the layer's listing as well.
pub(super) fn pack_listing(
    fs: BorrowedFd<'_>,
    options: &TarOptions,
    wanted: Wanted,
    cancel: &Cancel,
    sink: &mut Sink<'_>,
) -> Result<Packed, LayerError> {
    let hasher = LayerHasher::listing(wanted.now());
    pack_hashing(fs, options, (wanted, hasher), &UNKNOWN, cancel, sink)
}

fn pack_hashing(
    fs: BorrowedFd<'_>,
    options: &TarOptions,
    (wanted, hasher): (Wanted, LayerHasher),
    contents: &HashCache,
    cancel: &Cancel,
    sink: &mut Sink<'_>,
) -> Result<Packed, LayerError> {
    let packer = Packer::new(options.times, wanted, hasher, cancel, sink);
    let mut packer = Packer { contents, meter: options.meter.clone(), ..packer };
    Walk::new(options.xattrs, cancel).run(fs, |entry, file| packer.entry(entry, file))?;
    packer.finish()
}

/// Makes the tar and the identities of a layer, entry by entry.
pub(super) struct Packer<'s, 'f> {
    pub(super) wanted: Wanted,
    contents: &'s HashCache,
    times: Times,
    meter: Meter,
    pub(super) hasher: LayerHasher,
    /// The tar that has not been handed on yet.
    pub(super) chunk: Vec<u8>,
    pub(super) name: Vec<u8>,
    pub(super) packed: Packed,
    sink: &'s mut Sink<'f>,
    cancel: &'s Cancel,
}

impl<'s, 'f> Packer<'s, 'f> {
    pub(super) fn new(
        times: Times,
        wanted: Wanted,
        hasher: LayerHasher,
        cancel: &'s Cancel,
        sink: &'s mut Sink<'f>,
    ) -> Self {
        let packed = Packed {
            identities: None,
            listing: None,
            entries: 0,
            bytes: 0,
            own_bytes: 0,
            tar_size: 0,
        };
        Self {
            wanted,
            contents: &UNKNOWN,
            times,
            meter: Meter::default(),
            hasher,
            chunk: Vec::new(),
            name: Vec::new(),
            packed,
            sink,
            cancel,
        }
    }

    pub(super) fn entry(
        &mut self,
        entry: &LayerEntry<'_>,
        file: Option<OwnedFd>,
    ) -> Result<(), LayerError> {
        self.packed.entries += 1;
        if self.wanted.tar() {
            header::tar_name(entry, &mut self.name);
            header::append(&mut self.chunk, entry, &self.name, (self.times.of(entry.mtime), 0));
        }
        let mut digest = [0; 32];
        if let (LayerEntryKind::File { size }, Some(file)) = (entry.kind, file) {
            self.packed.bytes += size;
            self.packed.own_bytes += size;
            let known = if self.wanted.tar() { None } else { self.contents.get(&file, size) };
            digest = match known {
                Some(digest) => digest,
                None => self.content(entry, &file, size)?,
            };
        }
        if self.wanted.identities() {
            self.hasher.add(entry, &digest);
        }
        if self.chunk.len() >= CHUNK {
            self.hand_on()?;
        }
        Ok(())
    }

    /// Reads a file into the tar, hashing it on the way.
    fn content(
        &mut self,
        entry: &LayerEntry<'_>,
        file: &OwnedFd,
        size: u64,
    ) -> Result<[u8; 32], LayerError> {
        let mut left = size;
        let mut hasher = None;
        let mut digest = None;
        while left > 0 {
            if self.cancel.is_cancelled() {
                return Err(LayerError::Cancelled);
            }
            if !self.wanted.tar() {
                self.chunk.clear();
            } else if self.chunk.len() + BLOCK > CHUNK {
                self.hand_on()?;
            }
            // Rounded so that a large file is hashed in whole power-of-two pieces most of the time.
            let room = (CHUNK - self.chunk.len()).next_multiple_of(BLOCK);
            let want = left.min(room as u64) as usize;
            let start = self.chunk.len();
            self.chunk.resize(start + want, 0);
            let mut filled = start;
            while filled < start + want {
                match rustix::io::read(file, &mut self.chunk[filled..]) {
                    Ok(0) => break,
                    Ok(length) => filled += length,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(LayerError::io("read", entry.path, e)),
                }
            }
            if filled < start + want {
                return Err(LayerError::Changed {
                    path: String::from_utf8_lossy(entry.path).into(),
                    expected: size,
                    read: size - left + (filled - start) as u64,
                });
            }
            left -= want as u64;
            self.meter.add(want);
            if self.wanted.identities() {
                let bytes = &self.chunk[start..];
                if hasher.is_none() && left == 0 {
                    digest = Some(blake3::hash(bytes));
                } else {
                    hasher.get_or_insert_with(blake3::Hasher::new).update(bytes);
                }
            }
        }
        if self.wanted.tar() {
            header::pad(&mut self.chunk, size);
        } else {
            self.chunk.clear();
        }
        let digest = match (digest, hasher) {
            (Some(digest), _) => digest,
            (None, Some(hasher)) => hasher.finalize(),
            (None, None) => blake3::hash(b""),
        };
        Ok(*digest.as_bytes())
    }

    pub(super) fn hand_on(&mut self) -> Result<(), LayerError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.packed.tar_size += chunk.len() as u64;
        self.chunk = (self.sink)(chunk)?;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Packed, LayerError> {
        if self.wanted.tar() {
            self.chunk.resize(self.chunk.len() + 2 * BLOCK, 0);
            self.hand_on()?;
        }
        if self.wanted.identities() {
            let (ids, listing) = self.hasher.finish_listing();
            self.packed.identities = Some(ids);
            self.packed.listing = listing;
        }
        Ok(self.packed)
    }
}

#[cfg(test)]
mod tests;
