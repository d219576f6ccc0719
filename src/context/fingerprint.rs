//! Content hashes of chosen files: from the index where nothing changed, else by reading them.

use super::index::{Fingerprint, is_racy};
use super::walk::{pool, stamp_of, time};
use super::{ContextError, Source};
use crate::copy::{EntryKind, FileTime, Selection};
use crate::sys::cancel::Cancel;
use crate::sys::rooted;
use rayon::prelude::*;
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Bytes read at once.
const BUFFER: usize = 128 * 1024;

/// How often a file that changes under our eyes is read again before it is taken as it is.
const ATTEMPTS: u32 = 3;

/// From how many files on the reading is spread over threads.
const PARALLEL_FILES: usize = 16;

fn now() -> FileTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time(now.tv_sec, now.tv_nsec as u64)
}

/// Reads and hashes one file.
fn read(
    root: BorrowedFd<'_>,
    path: &[u8],
    buffer: &mut Vec<u8>,
    cancel: &Cancel,
) -> Result<Fingerprint, ContextError> {
    let failed = |e: io::Error| ContextError::io("read", path, e);
    buffer.resize(BUFFER, 0);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let started = now();
        let fd =
            rooted::open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed)?;
        let before = stamp_of(&rustix::fs::fstat(&fd).map_err(|e| failed(e.into()))?);
        let mut file = File::from(fd);
        let mut hasher = blake3::Hasher::new();
        let mut size = 0u64;
        loop {
            let count = match file.read(buffer) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed(e)),
            };
            hasher.update(&buffer[..count]);
            size += count as u64;
            // A short read at the expected size is the end, without asking once more.
            if count == 0 || count < BUFFER && size == before.size {
                break;
            }
            if cancel.is_cancelled() {
                return Err(ContextError::Cancelled);
            }
        }
        let after = stamp_of(&rustix::fs::fstat(&file).map_err(|e| failed(e.into()))?);
        let is_steady = before == after && size == after.size;
        if is_steady || attempt == ATTEMPTS {
            let mut stamp = after;
            stamp.size = size;
            let is_racy = !is_steady || is_racy(&before, started);
            return Ok(Fingerprint { stamp, content: *hasher.finalize().as_bytes(), is_racy });
        }
    }
}

impl Source {
    /// Fills in the content hashes of a selection.
    ///
    /// Holds the index for as long as it takes, so that two steps never read the same file twice.
    pub(super) fn fingerprint(
        &self,
        selection: &mut Selection,
        cancel: &Cancel,
    ) -> Result<(), ContextError> {
        let mut index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = *blake3::hash(b"").as_bytes();
        let mut unknown: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut path = Vec::new();
        let Selection { picked, entries } = selection;
        for picked in picked {
            for at in picked.range.clone() {
                let entry = &mut entries[at];
                if entry.kind != EntryKind::File || entry.hard_link.is_some() {
                    continue;
                }
                if entry.size == 0 {
                    entry.content = Some(empty);
                    continue;
                }
                path.clear();
                path.extend_from_slice(&picked.path);
                if !path.is_empty() && !entry.path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&entry.path);
                entry.content = index.get(&path, &entry.stamp);
                if entry.content.is_none() {
                    unknown.push((at, path.clone()));
                }
            }
        }
        let root = self.root();
        let work = |buffer: &mut Vec<u8>, path: &[u8]| read(root, path, buffer, cancel);
        let fingerprints: Vec<Fingerprint> = if unknown.len() >= PARALLEL_FILES {
            pool().install(|| {
                unknown
                    .par_iter()
                    .map_init(Vec::new, |b, (_, p)| work(b, p))
                    .collect::<Result<_, _>>()
            })?
        } else {
            let mut buffer = Vec::new();
            unknown.iter().map(|(_, path)| work(&mut buffer, path)).collect::<Result<_, _>>()?
        };
        self.0.hashed.fetch_add(fingerprints.len() as u64, Ordering::Relaxed);
        for ((at, path), fingerprint) in unknown.into_iter().zip(fingerprints) {
            index.insert(&path, fingerprint);
            let entry = &mut entries[at];
            entry.content = Some(fingerprint.content);
            entry.size = fingerprint.stamp.size;
            entry.stamp = fingerprint.stamp;
        }
        drop(index);
        for at in 0..entries.len() {
            if let Some(first) = entries[at].hard_link {
                let first = &entries[first as usize];
                let (content, size, stamp) = (first.content, first.size, first.stamp);
                let entry = &mut entries[at];
                (entry.content, entry.size, entry.stamp) = (content, size, stamp);
            }
        }
        Ok(())
    }
}
