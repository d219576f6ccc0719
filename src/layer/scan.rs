//! The facts of a layer: its identities, its size and, if it is needed, its `diff_id`.

use super::XattrSpace;
use super::content::Now;
use super::delta_tar::pack_over;
use super::hash_cache::HashCache;
use super::listing::Listing;
use super::pack::{Packed, Sink, TarOptions, Times, Wanted, pack, pack_listing, pack_written};
use super::{LayerError, Meter};
use crate::oci::Digest;
use crate::store::{ContentId, LayerId, LayerMeta, TarFacts, TimesId};
use crate::sys::cancel::Cancel;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;

/// What to find out about a layer.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// Which opaque marks count.
    pub xattrs: XattrSpace,
    /// Whether to hash the tar too, which keeps a second core busy.
    pub want_tar: bool,
    /// Which times the step that made the layer did not set; without it, all count as set.
    pub now: Option<Now>,
    /// Whether the layer's listing is wanted.
    pub want_listing: bool,
    /// Counts the bytes of files that are read.
    pub meter: Meter,
}

impl ScanOptions {
    /// Returns what this process needs, with or without the tar's facts.
    pub fn detect(want_tar: bool) -> Self {
        let (xattrs, meter) = (XattrSpace::detect(), Meter::default());
        Self { xattrs, want_tar, now: None, want_listing: false, meter }
    }
}

impl ScanOptions {
    fn tar(&self) -> TarOptions {
        TarOptions { xattrs: self.xattrs, times: Times::Kept, meter: self.meter.clone() }
    }
}

/// The facts of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The hash of its entries without times.
    pub content: ContentId,
    /// The hash of its entries with times.
    pub id: LayerId,
    /// The hash of the times that its step set, if it set any.
    pub set_times: Option<TimesId>,
    /// How many entries its tar has, whiteouts and opaque marks included.
    pub entries: u64,
    /// The bytes of its regular files, each counted once.
    pub bytes: u64,
    /// Of those bytes, the ones in the directory that was read; not all where that was scanned over
    /// another layer.
    pub own_bytes: u64,
    /// The facts of its tar, if wanted.
    pub tar: Option<TarFacts>,
    /// What [`super::Listing::parse`] takes, if wanted.
    pub listing: Option<Vec<u8>>,
}

/// The layer that a directory is scanned over.
#[derive(Debug, Clone, Copy)]
pub struct Beneath<'a> {
    /// Its entries.
    pub listing: &'a Listing,
    /// Its tar as [`super::write_tar`] writes it, where it is at hand.
    pub tar: Option<&'a File>,
    /// Which times its step did not set.
    pub now: Option<Now>,
}

impl Scan {
    /// Returns the facts as the store keeps them.
    pub fn meta(&self) -> LayerMeta {
        let mut meta = LayerMeta::new(self.id, self.content, self.entries, self.bytes);
        meta.tar = self.tar;
        meta
    }
}

/// Reads the layer in the directory `fs`, which is in overlay form, once, and returns its facts.
///
/// With `want_tar`, the tar is hashed as [`super::write_tar`] would write it without clamping. A
/// layer of less than a chunk (256 KiB) is done on the calling thread.
///
/// # Errors
///
/// [`LayerError`] with the path that cannot be read.
pub fn scan(
    fs: BorrowedFd<'_>,
    options: &ScanOptions,
    cancel: &Cancel,
) -> Result<Scan, LayerError> {
    scan_into(fs, options, None, cancel)
}

/// As [`scan`], writing the tar to `out` on the way.
///
/// # Errors
///
/// As [`scan`], and [`LayerError::Output`].
pub fn scan_into(
    fs: BorrowedFd<'_>,
    options: &ScanOptions,
    out: Option<&mut dyn Write>,
    cancel: &Cancel,
) -> Result<Scan, LayerError> {
    let tar_options = options.tar();
    let pack = if options.want_listing { pack_listing } else { pack };
    let (packed, digest) =
        hashing(options, out, |wanted, sink| pack(fs, &tar_options, wanted, cancel, sink))?;
    Ok(facts(packed, digest))
}

/// As [`scan`] without the tar's facts, of a layer whose files were hashed while they were written:
/// what `contents` has is not read again.
///
/// # Errors
///
/// As [`scan`].
pub fn scan_written(
    fs: BorrowedFd<'_>,
    options: &ScanOptions,
    contents: &HashCache,
    cancel: &Cancel,
) -> Result<Scan, LayerError> {
    let tar = options.tar();
    let wanted = Wanted::Identities(options.now);
    let packed = pack_written(fs, &tar, wanted, contents, cancel, &mut Ok)?;
    Ok(facts(packed, None))
}

/// Returns the facts of the layer that the directory `fs` over another layer is: entries of the
/// directory take the place of those of the same path. As [`scan_into`] otherwise, in proportion to
/// the directory but for the tar's hash.
///
/// Returns `None` where that cannot be done from what is known of the other: its tar is wanted and
/// not at hand, or not the one that the listing is of. What was written to `out` is of no use then.
///
/// # Errors
///
/// As [`scan_into`], and [`LayerError::Input`] where the other's tar cannot be read.
pub fn scan_over(
    fs: BorrowedFd<'_>,
    beneath: &Beneath<'_>,
    options: &ScanOptions,
    out: Option<&mut dyn Write>,
    cancel: &Cancel,
) -> Result<Option<Scan>, LayerError> {
    if options.want_tar && beneath.tar.is_none() {
        return Ok(None);
    }
    let (packed, digest) = hashing(options, out, |wanted, sink| {
        pack_over(fs, beneath, options.xattrs, wanted, cancel, sink)
    })?;
    Ok(packed.map(|packed| facts(packed, digest)))
}

/// Runs a pass, and hashes the tar beside it where that is wanted.
fn hashing<T>(
    options: &ScanOptions,
    mut out: Option<&mut dyn Write>,
    pack: impl FnOnce(Wanted, &mut Sink<'_>) -> Result<T, LayerError>,
) -> Result<(T, Option<Digest>), LayerError> {
    if !options.want_tar {
        return Ok((pack(Wanted::Identities(options.now), &mut Ok)?, None));
    }
    std::thread::scope(|scope| {
        let mut hash = HashThread { scope, worker: None, inline: Sha256::new() };
        let packed = pack(Wanted::Both(options.now), &mut |chunk| {
            if let Some(out) = &mut out {
                out.write_all(&chunk)
                    .map_err(|source| LayerError::Output { what: "tar", source })?;
            }
            hash.chunk(chunk)
        })?;
        Ok((packed, Some(hash.finish())))
    })
}

fn facts(packed: Packed, diff_id: Option<Digest>) -> Scan {
    let ids = packed.identities.expect("the pass was asked for identities");
    let tar = diff_id.map(|diff_id| TarFacts { diff_id, size: packed.tar_size });
    Scan {
        content: ids.content,
        id: ids.id,
        set_times: ids.set_times,
        entries: packed.entries,
        bytes: packed.bytes,
        own_bytes: packed.own_bytes,
        tar,
        listing: packed.listing,
    }
}

/// sha256 on a thread of its own, which starts with the second chunk.
struct HashThread<'scope, 'env> {
    scope: &'scope std::thread::Scope<'scope, 'env>,
    worker: Option<Worker<'scope>>,
    inline: Sha256,
}

struct Worker<'scope> {
    full: crossbeam_channel::Sender<Vec<u8>>,
    empty: crossbeam_channel::Receiver<Vec<u8>>,
    thread: std::thread::ScopedJoinHandle<'scope, Sha256>,
}

/// How many chunks may wait for the hash.
const QUEUE: usize = 8;

impl HashThread<'_, '_> {
    fn chunk(&mut self, chunk: Vec<u8>) -> Result<Vec<u8>, LayerError> {
        if self.worker.is_none() && chunk.len() < super::pack::CHUNK {
            self.inline.update(&chunk);
            return Ok(Vec::new());
        }
        if self.worker.is_none() {
            let (full, work) = crossbeam_channel::bounded::<Vec<u8>>(QUEUE);
            let (back, empty) = crossbeam_channel::bounded(QUEUE + 2);
            let mut hasher = std::mem::take(&mut self.inline);
            let thread = std::thread::Builder::new()
                .name("layer-sha256".into())
                .spawn_scoped(self.scope, move || {
                    for mut chunk in work {
                        hasher.update(&chunk);
                        chunk.clear();
                        let _ = back.try_send(chunk);
                    }
                    hasher
                })
                .map_err(|source| LayerError::Thread { source })?;
            self.worker = Some(Worker { full, empty, thread });
        }
        let worker = self.worker.as_ref().expect("it was just made");
        worker.full.send(chunk).expect("the hashing thread reads to the end");
        Ok(worker.empty.try_recv().unwrap_or_default())
    }

    fn finish(self) -> Digest {
        let hasher = match self.worker {
            None => self.inline,
            Some(worker) => {
                drop(worker.full);
                worker.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        };
        Digest::from_bytes(hasher.finalize().into())
    }
}
