//! Hashing the files that a step made, and writing their tar where that is wanted.

use super::exec::{ExecResult, io};
use super::{Cause, Job};
use crate::export;
use crate::layer::{self, LayerError, Meter, Scan, ScanOptions};
use crate::oci::Digest;
use crate::progress::Tally;
use crate::snapshot;
use crate::store::{DeltaBase, LISTING, LayerMeta, Store};
use crate::sys::cancel::Cancel;
use crate::sys::writeback::Flowing;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Seek as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to find out about a layer in the making.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerDigest {
    /// Whether its `diff_id` is needed.
    pub(super) wants_tar: bool,
    /// Whether its tar is to be a blob of the store then.
    pub(super) stores_tar: bool,
    /// Whether its listing is to stand beside its files.
    pub(super) wants_listing: bool,
}

/// Hashes the files that a step made, and returns what the store is to know of the layer. `name` is
/// the step's.
pub(super) fn digest(
    job: &Job<'_>,
    name: &str,
    made: &ExecResult,
    wanted: LayerDigest,
    cancel: &Cancel,
) -> Result<(Scan, LayerMeta), Cause> {
    let mut tar =
        (wanted.wants_tar && wanted.stores_tar).then(|| NewTar::create(job)).transpose()?;
    let scan = match scan_delta(job, made, wanted, tar.as_mut(), cancel)? {
        Some(scan) => scan,
        None => scan_made(job, name, made, wanted, tar.as_mut(), cancel)?,
    };
    let mut meta = scan.meta();
    if let (Some(tar), Some(facts)) = (tar, &scan.tar) {
        tar.keep(job, &facts.diff_id)?;
        meta.blobs.push(export::plain_blob(facts));
    }
    if let Some(delta) = &made.delta {
        meta = meta.over(DeltaBase { layer: delta.layer.id, own_bytes: scan.own_bytes });
    }
    Ok((scan, meta))
}

/// Hashes a difference, as far as that can be done without reading what it is a difference to.
fn scan_delta(
    job: &Job<'_>,
    made: &ExecResult,
    wanted: LayerDigest,
    tar: Option<&mut NewTar>,
    cancel: &Cancel,
) -> Result<Option<Scan>, Cause> {
    let Some(delta) = &made.delta else { return Ok(None) };
    let old = if wanted.wants_tar { delta.tar(job)? } else { None };
    let options = ScanOptions { now: Some(made.now), ..ScanOptions::detect(wanted.wants_tar) };
    let dir = open_dir(made.lower.path())?;
    let beneath = delta.beneath(old.as_ref());
    let mut tar = tar.map(NewTar::begin).transpose()?;
    let out = tar.as_mut().map(|tar| tar as &mut dyn Write);
    let scan = layer::scan_over(dir.as_fd(), &beneath, &options, out, cancel);
    scan.map_err(of_output)
}

/// Hashes all the files of a layer.
fn scan_made(
    job: &Job<'_>,
    name: &str,
    made: &ExecResult,
    wanted: LayerDigest,
    tar: Option<&mut NewTar>,
    cancel: &Cancel,
) -> Result<Scan, Cause> {
    let tally = Tally::of_long_work(job.progress, format!("hashing the files of {name}"), None);
    let (tally, directories) = (Arc::new(tally), made.lower.directories());
    let (counting, measured) = (Arc::clone(&tally), directories.clone());
    let options = ScanOptions {
        now: Some(made.now),
        want_listing: wanted.wants_listing,
        meter: Meter::new(move |bytes| counting.add(bytes, || bytes_in(&measured))),
        ..ScanOptions::detect(wanted.wants_tar)
    };
    let files = snapshot::view(&directories, job.workshop)?;
    let mut tar = tar.map(NewTar::begin).transpose()?;
    let out = tar.as_mut().map(|tar| tar as &mut dyn Write);
    let mut scan = layer::scan_into(files.root(), &options, out, cancel).map_err(of_output)?;
    tally.finish(None);
    if let Some(listing) = scan.listing.take() {
        let path = made.work.join(LISTING);
        fs::write(&path, listing).map_err(|e| io("write", &path, e))?;
    }
    Ok(scan)
}

/// A disk that is full is not the layer's trouble.
fn of_output(error: LayerError) -> Cause {
    match error {
        LayerError::Output { source, .. } => io("write", Path::new("the tar of a layer"), source),
        other => other.into(),
    }
}

/// The tar of a layer, on its way to be a blob. Dropped before it is kept, it goes with the
/// session.
struct NewTar {
    path: PathBuf,
    file: File,
}

impl NewTar {
    fn create(job: &Job<'_>) -> Result<Self, Cause> {
        let path = job.store.session()?.new_path()?;
        let file = File::create_new(&path).map_err(|e| io("create", &path, e))?;
        Ok(Self { path, file })
    }

    /// Makes it empty, to be written.
    fn begin(&mut self) -> Result<Flowing, Cause> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        let file = emptied.and_then(|()| self.file.try_clone());
        file.map(Flowing::new).map_err(|e| io("write", &self.path, e))
    }

    fn keep(self, job: &Job<'_>, diff_id: &Digest) -> Result<(), Cause> {
        if job.store.lease_blob(diff_id)? {
            return fs::remove_file(&self.path).map_err(|e| io("remove", &self.path, e));
        }
        Ok(job.store.adopt_blob(&self.path, diff_id)?)
    }
}

/// Hashes files with their tar.
pub(super) fn scan(
    store: &Store,
    directories: &[PathBuf],
    meter: Meter,
    cancel: &Cancel,
) -> Result<Scan, Cause> {
    let files = snapshot::view(directories, store)?;
    let options = ScanOptions { meter, ..ScanOptions::detect(true) };
    Ok(layer::scan(files.root(), &options, cancel)?)
}

/// Adds up the regular files of one directory, each counted once. Of several that lie over each
/// other it does not say.
fn bytes_in(directories: &[PathBuf]) -> Option<u64> {
    let [directory] = directories else { return None };
    let mut inodes = BTreeSet::new();
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(directory) {
        let facts = entry.ok()?.metadata().ok()?;
        if facts.is_file() && (facts.nlink() == 1 || inodes.insert((facts.dev(), facts.ino()))) {
            bytes += facts.len();
        }
    }
    Some(bytes)
}

fn open_dir(path: &Path) -> Result<OwnedFd, Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| io("open", path, e.into()))
}
