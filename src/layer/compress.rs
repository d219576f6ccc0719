//! A layer's tar becomes the blob that an image stores: compressed, hashed twice, in one pass.
//!
//! ```text
//! tar bytes ── blocks of 1 MiB ──┬── sha256 ──────────────────────────────► diff_id
//!                                └── compress, n threads ── in order ──┬── sha256 ► digest
//!                                                                      └── write  ► out
//! ```
//!
//! # Invariants
//!
//! - The bytes depend on the tar, the format and the level; never on the number of threads or on how
//!   the tar came in pieces.
//! - Memory is bounded by blocks: a few per thread, whatever the layer's size.
//! - A tar of less than a block is done on the calling thread.
//!
//! A level means what the library at hand makes of it, so a new version of that library may give
//! other bytes for the same layer. The pinned digests in the tests say when that happens; nothing is
//! filed under a compressed digest alone.

use super::LayerError;
use super::gzip::{Deflater, GzipEnd};
use super::pack::{Packed, TarOptions, Wanted, pack};
use crate::store::{Digest, TarFacts};
use crate::sys::cancel::Cancel;
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// How many bytes of tar are compressed at a time. Part of what the bytes of a gzip blob depend on.
pub(super) const BLOCK: usize = 1024 * 1024;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// gzip, one member, level 0 (stored) to 9.
    Gzip(u32),
    /// Zstandard, one frame, level 1 to 22.
    Zstd(i32),
}

impl Compression {
    /// gzip at the level that Docker and BuildKit use.
    pub const GZIP: Self = Self::Gzip(6);
    /// Zstandard at its own default level.
    pub const ZSTD: Self = Self::Zstd(3);

    /// Returns what the name of an export's `compression=` and its `compression-level=` mean; the
    /// usual level where none is given, the nearest one where it is out of range.
    pub fn parse(name: &str, level: Option<i32>) -> Option<Self> {
        match name {
            "uncompressed" => Some(Self::Uncompressed),
            "gzip" => Some(level.map_or(Self::GZIP, |level| Self::Gzip(level.clamp(0, 9) as u32))),
            "zstd" => Some(level.map_or(Self::ZSTD, |level| Self::Zstd(level.clamp(1, 22)))),
            _ => None,
        }
    }

    /// Returns the media type of an OCI layer so compressed.
    ///
    /// Source: OCI image specification, "Layer media types".
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Uncompressed => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// As the store notes it: `uncompressed`, `gzip:6`, `zstd:3`.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncompressed => f.write_str("uncompressed"),
            Self::Gzip(level) => write!(f, "gzip:{level}"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// What became of a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// The tar.
    pub tar: TarFacts,
    /// The sha256 of what was written.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Writes the tar of the layer in `fs` to `out`, compressed by `threads` threads (at least one; the
/// caller's, which reads the files, and two that hash come on top).
///
/// # Errors
///
/// [`LayerError`] with the path that cannot be read, or [`LayerError::Output`]; what `out` got is of
/// no use then.
pub fn write_compressed(
    fs: BorrowedFd<'_>,
    out: &mut (dyn Write + Send),
    compression: Compression,
    options: &TarOptions,
    threads: usize,
    cancel: &Cancel,
) -> Result<Compressed, LayerError> {
    let (_, compressed): (Packed, _) = pipeline(out, compression, threads, |feed| {
        pack(fs, options, Wanted::Tar, cancel, &mut |mut chunk| {
            feed(&chunk)?;
            chunk.clear();
            Ok(chunk)
        })
    })?;
    Ok(compressed)
}

/// Compresses a tar that is at hand as bytes; otherwise as [`write_compressed`].
///
/// # Errors
///
/// [`LayerError::Input`] or [`LayerError::Output`].
pub fn compress(
    mut tar: impl Read,
    out: &mut (dyn Write + Send),
    compression: Compression,
    threads: usize,
    cancel: &Cancel,
) -> Result<Compressed, LayerError> {
    let ((), compressed) = pipeline(out, compression, threads, |feed| {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if cancel.is_cancelled() {
                return Err(LayerError::Cancelled);
            }
            match tar.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => feed(&buffer[..length])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Input { source }),
            }
        }
    })?;
    Ok(compressed)
}

type Feed<'f> = dyn FnMut(&[u8]) -> Result<(), LayerError> + 'f;

fn pipeline<T>(
    out: &mut (dyn Write + Send),
    compression: Compression,
    threads: usize,
    produce: impl FnOnce(&mut Feed<'_>) -> Result<T, LayerError>,
) -> Result<(T, Compressed), LayerError> {
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        let mut feeder = Feeder {
            scope,
            compression,
            threads,
            out: Some(out),
            block: Vec::new(),
            before: None,
            running: None,
        };
        let produced = produce(&mut |bytes| feeder.push(bytes));
        match produced {
            Ok(value) => Ok((value, feeder.finish()?)),
            // A stage that failed has closed its channel, and knows better what happened.
            Err(LayerError::Closed) => Err(feeder.finish().err().unwrap_or(LayerError::Closed)),
            Err(e) => Err(e),
        }
    })
}

/// Cuts the tar into blocks and starts the other stages when the first one is full.
struct Feeder<'scope, 'env, 'w> {
    scope: &'scope Scope<'scope, 'env>,
    compression: Compression,
    threads: usize,
    out: Option<&'w mut (dyn Write + Send)>,
    block: Vec<u8>,
    /// The block before, whose end a gzip block refers to.
    before: Option<Arc<Vec<u8>>>,
    running: Option<Running<'scope>>,
}

struct Running<'scope> {
    to_hash: Sender<Arc<Vec<u8>>>,
    to_write: Sender<Ready>,
    to_deflate: Option<Sender<Job>>,
    hash: ScopedJoinHandle<'scope, TarFacts>,
    write: ScopedJoinHandle<'scope, Result<(Option<Digest>, u64), LayerError>>,
}

/// A block on its way to the writer.
enum Ready {
    Plain(Arc<Vec<u8>>),
    Deflated(Receiver<Deflated>),
}

struct Job {
    block: Arc<Vec<u8>>,
    before: Option<Arc<Vec<u8>>>,
    is_last: bool,
    reply: Sender<Deflated>,
}

/// A block after deflate, with the checksum of what it was before.
struct Deflated {
    bytes: Vec<u8>,
    checksum: flate2::Crc,
}

impl<'scope, 'w: 'scope> Feeder<'scope, '_, 'w> {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            if self.block.len() == BLOCK {
                let block = std::mem::take(&mut self.block);
                self.emit(block, false)?;
            }
            if self.block.capacity() == 0 && self.running.is_some() {
                self.block.reserve_exact(BLOCK);
            }
            let length = bytes.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn emit(&mut self, block: Vec<u8>, is_last: bool) -> Result<(), LayerError> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_ref().expect("it was just started");
        let block = Arc::new(block);
        let closed = || LayerError::Closed;
        running.to_hash.send(Arc::clone(&block)).map_err(|_| closed())?;
        match &running.to_deflate {
            None => running.to_write.send(Ready::Plain(block)).map_err(|_| closed()),
            Some(to_deflate) => {
                let (reply, ready) = bounded(1);
                let before = self.before.replace(Arc::clone(&block));
                running.to_write.send(Ready::Deflated(ready)).map_err(|_| closed())?;
                let job = Job { block, before, is_last, reply };
                to_deflate.send(job).map_err(|_| closed())
            }
        }
    }

    fn start(&mut self) -> Result<Running<'scope>, LayerError> {
        let thread = |source| LayerError::Thread { source };
        let name = |name: &str| Builder::new().name(name.into());
        let waiting = self.threads + 2;
        let (to_hash, blocks) = bounded::<Arc<Vec<u8>>>(waiting);
        let hash = name("layer-diff-id")
            .spawn_scoped(self.scope, move || {
                let mut hasher = Sha256::new();
                let mut size = 0;
                for block in blocks {
                    hasher.update(block.as_slice());
                    size += block.len() as u64;
                }
                TarFacts { diff_id: Digest::from_bytes(hasher.finalize().into()), size }
            })
            .map_err(thread)?;
        let to_deflate = match self.compression {
            Compression::Gzip(level) => {
                let (to_deflate, jobs) = bounded::<Job>(waiting);
                for _ in 0..self.threads {
                    let jobs = jobs.clone();
                    name("layer-gzip")
                        .spawn_scoped(self.scope, move || deflate(level, &jobs))
                        .map_err(thread)?;
                }
                Some(to_deflate)
            }
            _ => None,
        };
        let (to_write, ready) = bounded::<Ready>(waiting);
        let out = self.out.take().expect("the stages start once");
        let writer = Writer::new(out, self.compression, self.threads)?;
        let write = name("layer-write")
            .spawn_scoped(self.scope, move || {
                let mut writer = writer;
                for block in ready {
                    match block {
                        Ready::Plain(block) => writer.plain(&block)?,
                        // Gone without a reply only when the feeder gave up.
                        Ready::Deflated(block) => match block.recv() {
                            Ok(block) => writer.deflated(&block)?,
                            Err(_) => return Err(LayerError::Closed),
                        },
                    }
                }
                writer.finish()
            })
            .map_err(thread)?;
        Ok(Running { to_hash, to_write, to_deflate, hash, write })
    }

    fn finish(mut self) -> Result<Compressed, LayerError> {
        let last = std::mem::take(&mut self.block);
        if self.running.is_none() {
            return self.finish_inline(&last);
        }
        let sent = self.emit(last, true);
        let running = self.running.take().expect("it is running");
        drop((running.to_hash, running.to_write, running.to_deflate));
        let tar = running.hash.join().unwrap_or_else(|panic| resume_unwind(panic));
        let written = running.write.join().unwrap_or_else(|panic| resume_unwind(panic));
        let (digest, size) = written?;
        sent?;
        Ok(Compressed { tar, digest: digest.unwrap_or(tar.diff_id), size })
    }

    /// The whole tar is one short block.
    fn finish_inline(mut self, block: &[u8]) -> Result<Compressed, LayerError> {
        let tar = TarFacts { diff_id: Digest::of(block), size: block.len() as u64 };
        let out = self.out.take().expect("the stages never started");
        // One worker gives the bytes that any number would.
        let mut writer = Writer::new(out, self.compression, 1)?;
        match self.compression {
            Compression::Gzip(level) => {
                let mut bytes = Vec::new();
                Deflater::new(level).block(&[], block, true, &mut bytes)?;
                writer.deflated(&Deflated { bytes, checksum: checksum(block) })?;
            }
            _ => writer.plain(block)?,
        }
        let (digest, size) = writer.finish()?;
        Ok(Compressed { tar, digest: digest.unwrap_or(tar.diff_id), size })
    }
}

fn checksum(block: &[u8]) -> flate2::Crc {
    let mut crc = flate2::Crc::new();
    crc.update(block);
    crc
}

fn deflate(level: u32, jobs: &Receiver<Job>) {
    let mut deflater = Deflater::new(level);
    for job in jobs {
        let mut bytes = Vec::new();
        let before = job.before.as_ref().map_or(&[][..], |before| before.as_slice());
        if deflater.block(before, &job.block, job.is_last, &mut bytes).is_err() {
            // The writer sees the missing reply.
            return;
        }
        let _ = job.reply.send(Deflated { bytes, checksum: checksum(&job.block) });
    }
}

/// Puts blocks into the format's frame and hashes what is written.
enum Writer<'w> {
    Plain(HashingWriter<'w>),
    Gzip(HashingWriter<'w>, GzipEnd),
    Zstd(Box<zstd::stream::write::Encoder<'static, HashingWriter<'w>>>),
}

impl<'w> Writer<'w> {
    fn new(
        out: &'w mut (dyn Write + Send),
        compression: Compression,
        threads: usize,
    ) -> Result<Self, LayerError> {
        // A plain tar's digest is its diff_id, which is computed anyway.
        let hash = (compression != Compression::Uncompressed).then(Sha256::new);
        let mut out = HashingWriter { out, hash, size: 0 };
        Ok(match compression {
            Compression::Uncompressed => Self::Plain(out),
            Compression::Gzip(_) => {
                out.write_all(GzipEnd::HEADER).map_err(output)?;
                Self::Gzip(out, GzipEnd::new())
            }
            Compression::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level).map_err(output)?;
                // Without workers the library makes other bytes.
                encoder.multithread(threads as u32).map_err(output)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    fn plain(&mut self, block: &[u8]) -> Result<(), LayerError> {
        match self {
            Self::Plain(out) => out.write_all(block),
            Self::Zstd(encoder) => encoder.write_all(block),
            Self::Gzip(..) => unreachable!("gzip blocks come deflated"),
        }
        .map_err(output)
    }

    fn deflated(&mut self, block: &Deflated) -> Result<(), LayerError> {
        let Self::Gzip(out, end) = self else { unreachable!("only gzip blocks come deflated") };
        end.add(&block.checksum);
        out.write_all(&block.bytes).map_err(output)
    }

    fn finish(self) -> Result<(Option<Digest>, u64), LayerError> {
        let mut out = match self {
            Self::Plain(out) => out,
            Self::Gzip(mut out, end) => {
                out.write_all(&end.trailer()).map_err(output)?;
                out
            }
            Self::Zstd(encoder) => encoder.finish().map_err(output)?,
        };
        out.flush().map_err(output)?;
        let digest = out.hash.map(|hash| Digest::from_bytes(hash.finalize().into()));
        Ok((digest, out.size))
    }
}

fn output(source: io::Error) -> LayerError {
    LayerError::Output { what: "blob", source }
}

struct HashingWriter<'w> {
    out: &'w mut (dyn Write + Send),
    hash: Option<Sha256>,
    size: u64,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&bytes[..length]);
        }
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
