//! Tars from elsewhere become a layer's directory, or files of a tree.

use super::apply::{Applied, Applier, Target};
use super::decompress::decompress;
use super::stack::Stack;
use super::untar::{MemberKind, Piece, TarReader};
use super::{HashCache, LayerError, XattrSpace};
use crate::oci::Digest;
use crate::store::TarFacts;
use crate::sys::cancel::{Cancel, Stoppable};
use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{Mode, fchmod};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufRead, Read, Write as _};
use std::os::fd::BorrowedFd;

/// How to unpack a layer.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions<'a> {
    /// The namespace of the opaque marks to make.
    pub xattrs: XattrSpace,
    /// The layers below, where they are at hand: directories that the tar uses but does not
    /// describe take their attributes from there, and hard links to files there become copies.
    pub below: Option<&'a Stack>,
}

/// What a layer was unpacked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The facts of the tar as it was read, to its last byte.
    pub tar: TarFacts,
    /// Its members, the root not counted.
    pub entries: u64,
    /// The bytes of its files.
    pub bytes: u64,
    /// Devices and file capabilities that this process was not allowed to make, as in a user
    /// namespace.
    pub refused: u64,
    /// Directories that the tar uses but does not describe, and hard links to files it does not
    /// have. If there are any, the same tar over other layers gives another layer.
    pub borrowed: u64,
    /// What its files hold, for [`super::scan_written`].
    pub contents: HashCache,
}

/// Applies the uncompressed `tar` of a layer to the empty directory `into`, in overlay form.
///
/// The root becomes 0755. Of extended attributes only `security.capability` is kept: no other can
/// be in a layer. Nothing is synced.
///
/// # Errors
///
/// [`LayerError::Malformed`], [`LayerError::Truncated`] and [`LayerError::HardLink`] for a bad tar,
/// [`LayerError::Input`] where it cannot be read, and [`LayerError::Io`]. The directory holds
/// part of the layer then.
pub fn unpack_layer(
    tar: impl Read + Send,
    into: BorrowedFd<'_>,
    options: &UnpackOptions<'_>,
    cancel: &Cancel,
) -> Result<Unpacked, LayerError> {
    fchmod(into, Mode::from(0o755)).map_err(|e| LayerError::io("change the mode of", b"", e))?;
    let target = Target::Layer { xattrs: options.xattrs, below: options.below };
    let ((applied, contents), tar) = hashing(tar, |input| apply(input, into, target, cancel))?;
    Ok(Unpacked {
        tar,
        entries: applied.entries,
        bytes: applied.bytes,
        refused: applied.refused,
        borrowed: applied.borrowed,
        contents,
    })
}

/// Makes a layer of a root filesystem's tar, compressed or not, as `mmdebstrap` and `docker export`
/// write them. Otherwise as [`unpack_layer`].
///
/// # Errors
///
/// As [`unpack_layer`].
pub fn import_rootfs(
    tar: impl Read + Send,
    into: BorrowedFd<'_>,
    xattrs: XattrSpace,
    cancel: &Cancel,
) -> Result<Unpacked, LayerError> {
    let tar = decompress(Stoppable::new(tar, cancel)).map_err(|e| input(e, cancel))?;
    unpack_layer(tar, into, &UnpackOptions { xattrs, below: None }, cancel)
}

/// What ADD extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extracted {
    /// Members, the root not counted.
    pub entries: u64,
    /// The bytes of files.
    pub bytes: u64,
    /// Devices and file capabilities that this process was not allowed to make.
    pub refused: u64,
    /// Whether a member set mode, owner and time of the destination.
    pub sets_root: bool,
}

impl Extracted {
    fn of(applied: &Applied) -> Self {
        Self {
            entries: applied.entries,
            bytes: applied.bytes,
            refused: applied.refused,
            sets_root: applied.sets_root,
        }
    }
}

/// Extracts an archive, compressed or not, into the directory `dest` of a tree, as ADD does.
///
/// `dest` is the root of everything: `..` stops there, absolute links in the archive or already in
/// the tree are resolved inside it. Owners, modes and times are the archive's, `owner` (`--chown`)
/// overrides the owner. A member `/` sets those of `dest`, `.` has no effect; directories that the
/// archive implies are 0755 and root's. Times before 1970 and after 2262 become 1970. Names that
/// begin with `.wh.` are names. Nothing is read behind the end of the archive.
///
/// # Errors
///
/// As [`unpack_layer`]. The tree holds part of the archive then.
///
/// Source: BuildKit solver/llbsolver/file/unpack.go and moby/go-archive (behaviour).
pub fn extract_archive(
    archive: impl Read + Send,
    dest: BorrowedFd<'_>,
    owner: Option<(u32, u32)>,
    cancel: &Cancel,
) -> Result<Extracted, LayerError> {
    let archive = decompress(Stoppable::new(archive, cancel)).map_err(|e| input(e, cancel))?;
    let input = io::BufReader::with_capacity(CHUNK, archive);
    let (applied, _) = apply(input, dest, Target::Tree { owner }, cancel)?;
    Ok(Extracted::of(&applied))
}

/// Puts the members of an uncompressed `tar` into the empty directory `into`, which is not a layer:
/// names that begin with `.wh.` mean nothing, and devices are refused.
///
/// # Errors
///
/// As [`unpack_layer`]. The directory holds part of the tar then.
pub fn unpack_plain(
    tar: impl BufRead,
    into: BorrowedFd<'_>,
    cancel: &Cancel,
) -> Result<Extracted, LayerError> {
    let (applied, _) = apply(tar, into, Target::Plain, cancel)?;
    Ok(Extracted::of(&applied))
}

/// Returns the error of a stream that cannot be read, or was stopped.
fn input(source: io::Error, cancel: &Cancel) -> LayerError {
    if cancel.is_cancelled() { LayerError::Cancelled } else { LayerError::Input { source } }
}

/// A member of an archive that is read and not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveMember<'a> {
    /// A regular file.
    File,
    /// A symbolic link to this path.
    Symlink(&'a [u8]),
    /// Another name of the member with this path.
    HardLink(&'a [u8]),
    /// A directory, a device or the like.
    Other,
}

/// Calls `member` with the path and kind of each member of an archive, compressed or not; it
/// returns the file that a regular file's content is written to. Limits are those of
/// [`unpack_layer`].
///
/// # Errors
///
/// As [`unpack_layer`], and those of `member`.
pub fn read_archive<E: From<LayerError>>(
    archive: impl Read + Send,
    cancel: &Cancel,
    mut member: impl FnMut(&[u8], ArchiveMember<'_>) -> Result<Option<File>, E>,
) -> Result<(), E> {
    let stopped = |error: LayerError| match cancel.is_cancelled() {
        true => LayerError::Cancelled,
        false => error,
    };
    let archive = decompress(Stoppable::new(archive, cancel)).map_err(|e| input(e, cancel))?;
    let archive = io::BufReader::with_capacity(CHUNK, archive);
    let mut tar = TarReader::new(Stoppable::new(archive, cancel));
    while let Some(found) = tar.next().map_err(stopped)? {
        let kind = match found.kind {
            MemberKind::File => ArchiveMember::File,
            MemberKind::Symlink => ArchiveMember::Symlink(&found.link),
            MemberKind::HardLink => ArchiveMember::HardLink(&found.link),
            _ => ArchiveMember::Other,
        };
        let Some(mut file) = member(&found.path, kind)? else { continue };
        let write = |piece: Piece<'_>| match piece {
            Piece::Bytes(bytes) => {
                file.write_all(bytes).map_err(|e| LayerError::io("write", &found.path, e))
            }
            Piece::Hole(_) => {
                Err(LayerError::malformed("sparse members are not supported here", &found.path))
            }
        };
        tar.pieces(write).map_err(stopped)?;
    }
    Ok(())
}

/// Says whether ADD extracts this file: whether, decompressed if need be, it begins with a sound
/// header of a tar. The type of that first member does not matter: one that is not supported is an
/// error of the extraction.
///
/// # Errors
///
/// None: what cannot be read is not an archive.
pub fn is_archive(file: impl Read + Send) -> bool {
    let Ok(input) = decompress(file) else { return false };
    TarReader::new(io::BufReader::new(input)).has_header()
}

fn apply(
    input: impl BufRead,
    root: BorrowedFd<'_>,
    target: Target<'_>,
    cancel: &Cancel,
) -> Result<(Applied, HashCache), LayerError> {
    let mut tar = TarReader::new(Stoppable::new(input, cancel));
    let mut applier = Applier::new(root, target, cancel);
    let mut members = || {
        let mut count = 0;
        while let Some(member) = tar.next()? {
            count += 1;
            if count > MEMBERS_MAX {
                return Err(LayerError::malformed("more than 16 million members", &member.path));
            }
            applier.member(&member, &mut tar)?;
        }
        // Nothing else of an archive is looked at: padding, a line end, a signature.
        if matches!(target, Target::Tree { .. }) { Ok(()) } else { tar.drain() }
    };
    match members() {
        // Whatever the reader says: it was stopped.
        Err(_) if cancel.is_cancelled() => return Err(LayerError::Cancelled),
        result => result?,
    }
    applier.finish()
}

/// The most members of one tar: each costs memory until the tar is read, and no image has as many
/// files.
const MEMBERS_MAX: u64 = 16 << 20;

/// How many bytes go from thread to thread at a time, and how many such pieces may wait.
const CHUNK: usize = 256 * 1024;
const QUEUE: usize = 8;

/// Reads `tar` on one thread, which mostly means decompressing it, hashes it on a second, and lets
/// `consume` work on the caller's. A tar of less than a chunk needs no threads.
fn hashing<T>(
    tar: impl Read + Send,
    consume: impl FnOnce(Box<dyn BufRead + '_>) -> Result<T, LayerError>,
) -> Result<(T, TarFacts), LayerError> {
    let mut tar = tar;
    let mut first = Vec::with_capacity(CHUNK);
    tar.by_ref()
        .take(CHUNK as u64)
        .read_to_end(&mut first)
        .map_err(|source| LayerError::Input { source })?;
    let mut hasher = Sha256::new();
    hasher.update(&first);
    if first.len() < CHUNK {
        let size = first.len() as u64;
        let value = consume(Box::new(first.as_slice()))?;
        return Ok((value, facts(hasher, size)));
    }
    std::thread::scope(|scope| {
        let (read, to_hash) = crossbeam_channel::bounded::<io::Result<Vec<u8>>>(QUEUE);
        let (hashed, to_apply) = crossbeam_channel::bounded::<io::Result<Vec<u8>>>(QUEUE);
        let (back, empty) = crossbeam_channel::bounded::<Vec<u8>>(2 * QUEUE + 4);
        let start = |name: &str| std::thread::Builder::new().name(name.into());
        let thread = |source| LayerError::Thread { source };
        start("layer-read")
            .spawn_scoped(scope, move || read_ahead(&mut tar, &read, &empty))
            .map_err(thread)?;
        let hash = start("layer-sha256")
            .spawn_scoped(scope, move || {
                let mut size = CHUNK as u64;
                for chunk in to_hash {
                    if let Ok(bytes) = &chunk {
                        hasher.update(bytes);
                        size += bytes.len() as u64;
                    }
                    if hashed.send(chunk).is_err() {
                        break;
                    }
                }
                facts(hasher, size)
            })
            .map_err(thread)?;
        let reader = ChunkReader { chunk: first, position: 0, source: to_apply, back };
        // On failure the reader is dropped, whereupon the other threads end.
        let value = consume(Box::new(reader))?;
        let facts = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((value, facts))
    })
}

fn facts(hasher: Sha256, size: u64) -> TarFacts {
    TarFacts { diff_id: Digest::from_bytes(hasher.finalize().into()), size }
}

fn read_ahead(input: &mut dyn Read, out: &Sender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        let mut failure = None;
        while filled < CHUNK {
            match input.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    failure = Some(e);
                    break;
                }
            }
        }
        chunk.truncate(filled);
        let is_last = filled < CHUNK;
        if filled > 0 && out.send(Ok(chunk)).is_err() {
            return;
        }
        if let Some(e) = failure {
            let _ = out.send(Err(e));
        }
        if is_last {
            return;
        }
    }
}

/// Reads the chunks that another thread sends.
struct ChunkReader {
    chunk: Vec<u8>,
    position: usize,
    source: Receiver<io::Result<Vec<u8>>>,
    back: Sender<Vec<u8>>,
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let length = bytes.len().min(out.len());
        out[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.chunk.len() {
            let old = std::mem::take(&mut self.chunk);
            self.position = 0;
            let _ = self.back.try_send(old);
            if let Ok(next) = self.source.recv() {
                self.chunk = next?;
            }
        }
        Ok(&self.chunk[self.position..])
    }

    fn consume(&mut self, length: usize) {
        self.position += length;
    }
}

#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod tests;
