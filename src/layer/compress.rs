//! A layer's tar becomes the blob that an image stores: compressed, hashed twice, in one pass.
//!
//! ```text
//! tar bytes ── cut into blocks ──┬── sha256 ──────────────────────────────► diff_id
//!                                └── compress, n threads ── in order ──┬── sha256 ► digest
//!                                    or find                           └── write  ► out
//! ```
//!
//! # Invariants
//!
//! - The bytes depend on the tar, the format and the level; never on the number of threads, on how
//!   the tar came in pieces, or on which blocks were found instead of made.
//! - Memory is bounded by blocks: a few per thread, whatever the layer's size.
//! - A tar of a single block is done on the calling thread.
//!
//! A level means what the library at hand makes of it, so a new version of that library may give
//! other bytes for the same layer. The pinned digests in the tests say when that happens; nothing
//! is filed under a compressed digest alone.

use super::LayerError;
use super::block_cut::{BlockCutter, MAX, Policy, Step};
use super::encode::{Encoder, encoding};
use super::estargz::{END, TAR_SIZE, TOC_DIGEST, Toc, footer};
use super::pack::{Packed, TarOptions, Wanted, pack};
use crate::oci::{Digest, media_type};
use crate::store::{Block, KnownBlocks, Sum, TarFacts};
use crate::sys::cancel::Cancel;
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// How many threads compress at most: more would only hold more memory, since one reads.
const THREADS_MAX: usize = 16;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// gzip, a member for each block, level 0 (stored) to 9.
    Gzip(u32),
    /// Zstandard, a frame for each block, level 1 to 22.
    Zstd(i32),
    /// gzip that runtimes can read file by file, level 0 to 9; see `estargz`.
    Estargz(u32),
}

impl Compression {
    /// gzip at the level that costs least for what it saves; see `encode`.
    pub const GZIP: Self = Self::Gzip(1);
    /// Zstandard at its own default level.
    pub const ZSTD: Self = Self::Zstd(3);

    /// Returns what the name of an export's `compression=` and its `compression-level=` mean; the
    /// usual level where none is given, the nearest one where it is out of range.
    pub fn parse(name: &str, level: Option<i32>) -> Option<Self> {
        match name {
            "uncompressed" => Some(Self::Uncompressed),
            "gzip" => Some(level.map_or(Self::GZIP, |level| Self::Gzip(level.clamp(0, 9) as u32))),
            "estargz" => Some(Self::Estargz(level.map_or(1, |level| level.clamp(0, 9) as u32))),
            "zstd" => Some(level.map_or(Self::ZSTD, |level| Self::Zstd(level.clamp(1, 22)))),
            _ => None,
        }
    }

    /// Returns the media type of an OCI layer so compressed.
    ///
    /// Source: OCI image specification, "Layer media types".
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Uncompressed => media_type::OCI_LAYER,
            Self::Gzip(_) | Self::Estargz(_) => media_type::OCI_LAYER_GZIP,
            Self::Zstd(_) => media_type::OCI_LAYER_ZSTD,
        }
    }
}

/// As the store notes it: `uncompressed`, `gzip:1`, `zstd:3`.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncompressed => f.write_str("uncompressed"),
            Self::Gzip(level) => write!(f, "gzip:{level}"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::Estargz(level) => write!(f, "estargz:{level}"),
        }
    }
}

impl Compression {
    /// Returns what blobs of this compression are called where their blocks are remembered; names
    /// the version of the code too. `None` for plain tars, which have no blocks worth it.
    pub fn encoding(self) -> Option<String> {
        (self != Self::Uncompressed).then(|| encoding(self))
    }
}

/// Result of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compressed {
    /// The tar.
    pub tar: TarFacts,
    /// The sha256 of what was written.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its blocks, in their order; none for a plain tar or a single block.
    pub blocks: Vec<Block>,
    /// What readers of the blob want to find in its descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// How to go about it; nothing here shows in the bytes.
#[derive(Debug, Clone, Copy)]
pub struct Effort<'a> {
    /// How many threads compress, at least one; the caller's, which reads the files, and two that
    /// hash come on top.
    pub threads: usize,
    /// Blocks that need not be compressed again.
    pub known: &'a KnownBlocks,
}

/// Writes the tar of the layer in `fs` to `out`, compressed.
///
/// # Errors
///
/// [`LayerError`] with the path that cannot be read, or [`LayerError::Output`]; what `out` got is
/// of no use then.
pub fn write_compressed(
    fs: BorrowedFd<'_>,
    out: &mut (dyn Write + Send),
    compression: Compression,
    options: &TarOptions,
    effort: Effort<'_>,
    cancel: &Cancel,
) -> Result<Compressed, LayerError> {
    let (_, compressed): (Packed, _) = pipeline(out, compression, effort, |feed| {
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
    effort: Effort<'_>,
    cancel: &Cancel,
) -> Result<Compressed, LayerError> {
    let ((), compressed) = pipeline(out, compression, effort, |feed| {
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
    effort: Effort<'_>,
    produce: impl FnOnce(&mut Feed<'_>) -> Result<T, LayerError>,
) -> Result<(T, Compressed), LayerError> {
    let threads = effort.threads.clamp(1, THREADS_MAX);
    std::thread::scope(|scope| {
        let (to_pool, pool) = bounded(2 * threads + 4);
        let is_estargz = matches!(compression, Compression::Estargz(_));
        let policy = if is_estargz { Policy::Files } else { Policy::Blocks };
        let mut feeder = Feeder {
            scope,
            compression,
            threads,
            known: effort.known,
            out: Some(out),
            cutter: BlockCutter::new(policy),
            toc: is_estargz.then(Toc::default),
            block: Vec::new(),
            pool,
            to_pool,
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

/// A block of the tar; its memory is used again.
struct Plain {
    bytes: Vec<u8>,
    to_pool: Sender<Vec<u8>>,
}

impl Drop for Plain {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let _ = self.to_pool.try_send(bytes);
    }
}

/// Cuts the tar into blocks and starts the other stages when the first one is full.
struct Feeder<'scope, 'env, 'w> {
    scope: &'scope Scope<'scope, 'env>,
    compression: Compression,
    threads: usize,
    known: &'w KnownBlocks,
    out: Option<&'w mut (dyn Write + Send)>,
    cutter: BlockCutter,
    toc: Option<Toc>,
    block: Vec<u8>,
    pool: Receiver<Vec<u8>>,
    to_pool: Sender<Vec<u8>>,
    running: Option<Running<'scope, 'w>>,
}

struct Running<'scope, 'w> {
    to_hash: Sender<Arc<Plain>>,
    to_write: Sender<Ready>,
    to_encode: Option<Sender<Job>>,
    hash: ScopedJoinHandle<'scope, TarHash>,
    write: ScopedJoinHandle<'scope, Result<Writer<'w>, LayerError>>,
}

/// A block on its way to the writer.
enum Ready {
    Plain(Arc<Plain>),
    Encoded(Receiver<io::Result<Encoded>>),
}

struct Job {
    block: Arc<Plain>,
    reply: Sender<io::Result<Encoded>>,
}

/// A block as the blob has it, its sum, and the hash of what it was before.
struct Encoded {
    hash: [u8; 32],
    bytes: Vec<u8>,
    sum: Sum,
}

impl<'scope, 'w: 'scope> Feeder<'scope, '_, 'w> {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), LayerError> {
        while let Some(step) = self.cutter.step(&mut bytes) {
            match step {
                // The archive's end gets a member of its own, see `finish_estargz`.
                Step::Take(_) | Step::TakeHeader
                    if self.toc.is_some() && self.cutter.is_at_end() =>
                {
                    self.cutter.header_taken();
                }
                Step::Take(bytes) => {
                    self.block.extend_from_slice(bytes);
                    if let Some(toc) = &mut self.toc {
                        toc.bytes(bytes);
                    }
                }
                Step::TakeHeader => {
                    if let Some(toc) = &mut self.toc {
                        toc.header(self.cutter.header())?;
                    }
                    self.block.extend_from_slice(self.cutter.header());
                    self.cutter.header_taken();
                }
                Step::Cut if self.block.is_empty() => {}
                Step::Cut => {
                    self.emit()?;
                    if let Some(toc) = &mut self.toc {
                        toc.cut();
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands on the block.
    fn emit(&mut self) -> Result<(), LayerError> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_ref().expect("it was just started");
        let next = self.pool.try_recv().unwrap_or_else(|_| Vec::with_capacity(MAX));
        let bytes = std::mem::replace(&mut self.block, next);
        let block = Arc::new(Plain { bytes, to_pool: self.to_pool.clone() });
        let closed = || LayerError::Closed;
        running.to_hash.send(Arc::clone(&block)).map_err(|_| closed())?;
        match &running.to_encode {
            None => running.to_write.send(Ready::Plain(block)).map_err(|_| closed()),
            Some(to_encode) => {
                let (reply, ready) = bounded(1);
                running.to_write.send(Ready::Encoded(ready)).map_err(|_| closed())?;
                to_encode.send(Job { block, reply }).map_err(|_| closed())
            }
        }
    }

    fn start(&mut self) -> Result<Running<'scope, 'w>, LayerError> {
        let thread = |source| LayerError::Thread { source };
        let name = |name: &str| Builder::new().name(name.into());
        let waiting = self.threads + 2;
        let (to_hash, blocks) = bounded::<Arc<Plain>>(waiting);
        let hash = name("layer-diff-id")
            .spawn_scoped(self.scope, move || {
                let mut hash = TarHash::default();
                for block in blocks {
                    hash.update(&block.bytes);
                }
                hash
            })
            .map_err(thread)?;
        let encoders = (0..self.threads).filter_map(|_| Encoder::new(self.compression).transpose());
        let encoders = encoders.collect::<io::Result<Vec<_>>>().map_err(output)?;
        let is_plain = encoders.is_empty();
        let (to_encode, jobs) = bounded::<Job>(waiting);
        for encoder in encoders {
            let (jobs, known) = (jobs.clone(), self.known);
            name("layer-compress")
                .spawn_scoped(self.scope, move || encode(encoder, known, &jobs))
                .map_err(thread)?;
        }
        let to_encode = (!is_plain).then_some(to_encode);
        let (to_write, ready) = bounded::<Ready>(waiting);
        let out = self.out.take().expect("the stages start once");
        let write = name("layer-write")
            .spawn_scoped(self.scope, move || {
                let mut writer = Writer::new(out, !is_plain);
                for block in ready {
                    match block {
                        Ready::Plain(block) => writer.write(&block.bytes)?,
                        // Gone without a reply only when the feeder gave up.
                        Ready::Encoded(block) => match block.recv() {
                            Ok(block) => writer.block(&block.map_err(output)?)?,
                            Err(_) => return Err(LayerError::Closed),
                        },
                    }
                }
                Ok(writer)
            })
            .map_err(thread)?;
        Ok(Running { to_hash, to_write, to_encode, hash, write })
    }

    fn finish(mut self) -> Result<Compressed, LayerError> {
        self.block.extend_from_slice(self.cutter.header());
        if self.running.is_none() && self.toc.is_some() {
            self.running = Some(self.start()?);
        }
        if self.running.is_none() {
            return self.finish_inline();
        }
        let sent = if self.block.is_empty() { Ok(()) } else { self.emit() };
        let running = self.running.take().expect("it is running");
        drop((running.to_hash, running.to_write, running.to_encode));
        let mut tar = running.hash.join().unwrap_or_else(|panic| resume_unwind(panic));
        let written = running.write.join().unwrap_or_else(|panic| resume_unwind(panic));
        let mut writer = written?;
        sent?;
        let toc = self.toc.take();
        let toc = toc.map(|toc| finish_estargz(toc, self.compression, &mut tar, &mut writer));
        let toc = toc.transpose()?;
        writer.finish(tar.finish(), toc)
    }

    /// The whole tar is one block.
    fn finish_inline(mut self) -> Result<Compressed, LayerError> {
        let block = std::mem::take(&mut self.block);
        let mut tar = TarHash::default();
        tar.update(&block);
        let out = self.out.take().expect("the stages never started");
        let encoder = Encoder::new(self.compression).map_err(output)?;
        let mut writer = Writer::new(out, encoder.is_some());
        match encoder {
            Some(mut encoder) => {
                let mut bytes = Vec::new();
                encoder.block(&block, &mut bytes).map_err(output)?;
                writer.write(&bytes)?;
            }
            None => writer.write(&block)?,
        }
        writer.finish(tar.finish(), None)
    }
}

/// Writes the end of the archive, the table of contents and what leads to it; returns the table's
/// digest.
fn finish_estargz(
    toc: Toc,
    compression: Compression,
    tar: &mut TarHash,
    writer: &mut Writer<'_>,
) -> Result<Digest, LayerError> {
    let tail = toc.finish(&writer.blocks);
    let encoder = Encoder::new(compression).map_err(output)?;
    let mut encoder = encoder.expect("eStargz is compressed");
    let mut table = 0;
    for plain in [END.as_slice(), &tail.tar] {
        table = writer.size;
        tar.update(plain);
        let mut bytes = Vec::new();
        encoder.block(plain, &mut bytes).map_err(output)?;
        writer.write(&bytes)?;
    }
    writer.write(&footer(table))?;
    Ok(Digest::from_bytes(tail.digest))
}

/// The hash of a tar in the making.
#[derive(Default)]
struct TarHash {
    hash: Sha256,
    size: u64,
}

impl TarHash {
    fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn finish(self) -> TarFacts {
        TarFacts { diff_id: Digest::from_bytes(self.hash.finalize().into()), size: self.size }
    }
}

fn encode(mut encoder: Encoder, known: &KnownBlocks, jobs: &Receiver<Job>) {
    for Job { block, reply } in jobs {
        let hash = *blake3::hash(&block.bytes).as_bytes();
        let mut bytes = Vec::new();
        let sum = match known.get(&hash, &mut bytes) {
            Some(sum) => Ok(sum),
            None => encoder.block(&block.bytes, &mut bytes).map(|()| Block::sum(&bytes)),
        };
        drop(block);
        let _ = reply.send(sum.map(|sum| Encoded { hash, bytes, sum }));
    }
}

/// Hashes what is written, and notes where blocks are.
struct Writer<'w> {
    out: &'w mut (dyn Write + Send),
    /// A plain tar's digest is its diff_id, which is computed anyway.
    hash: Option<Sha256>,
    size: u64,
    blocks: Vec<Block>,
}

impl<'w> Writer<'w> {
    fn new(out: &'w mut (dyn Write + Send), is_hashed: bool) -> Self {
        Self { out, hash: is_hashed.then(Sha256::new), size: 0, blocks: Vec::new() }
    }

    fn block(&mut self, block: &Encoded) -> Result<(), LayerError> {
        self.blocks.push(Block {
            hash: block.hash,
            offset: self.size,
            length: u32::try_from(block.bytes.len()).expect("a block is small"),
            sum: block.sum,
        });
        self.write(&block.bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(bytes).map_err(output)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn finish(self, tar: TarFacts, toc: Option<Digest>) -> Result<Compressed, LayerError> {
        self.out.flush().map_err(output)?;
        let digest = self.hash.map(|hash| Digest::from_bytes(hash.finalize().into()));
        let annotations = toc.map(|toc| {
            BTreeMap::from([
                (TOC_DIGEST.to_owned(), toc.to_string()),
                (TAR_SIZE.to_owned(), tar.size.to_string()),
            ])
        });
        Ok(Compressed {
            tar,
            digest: digest.unwrap_or(tar.diff_id),
            size: self.size,
            blocks: self.blocks,
            annotations: annotations.unwrap_or_default(),
        })
    }
}

fn output(source: io::Error) -> LayerError {
    LayerError::Output { what: "blob", source }
}

#[cfg(test)]
mod tests;
