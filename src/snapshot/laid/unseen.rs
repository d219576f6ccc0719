//! Changes that no time shows: files in memory, compared with those of the layers.

use super::{Index, open, split};
use crate::layer::{LayerError, Stack, StackDir, XattrSpace};
use crate::snapshot::SnapshotError;
use crate::snapshot::commit::same_content;
use crate::sys::cancel::Cancel;
use crate::sys::threads;
use rustix::fs::{FileType, Mode, OFlags, openat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

/// Returns the paths of files that look as before and have another content than in the layers, which
/// are what the tree was laid out from.
pub(super) fn changed<'a>(
    lowers: &[PathBuf],
    root: BorrowedFd<'_>,
    before: &Index,
    now: &'a Index,
    cancel: &Cancel,
) -> Result<BTreeSet<&'a [u8]>, SnapshotError> {
    let stack = Stack::open(lowers, XattrSpace::detect())?;
    // The directories of the files, which are looked up once.
    let mut directories: Vec<(StackDir, Vec<&'a [u8]>)> = Vec::new();
    let mut todo: Vec<(&'a [u8], StackDir)> = vec![(b"", stack.root())];
    let mut below: BTreeMap<&[u8], Vec<&'a [u8]>> = BTreeMap::new();
    for (path, seen) in now {
        let is_suspect = seen.is_dir || before.get(path) == Some(seen) && seen.facts.3 > 0;
        if is_suspect {
            below.entry(split(path).0).or_default().push(path);
        }
    }
    while let Some((path, dir)) = todo.pop() {
        let mut files = Vec::new();
        for child in below.remove(path).unwrap_or_default() {
            match now.get(child) {
                Some(seen) if seen.is_dir => {
                    if let Some(dir) = stack.dir(&dir, split(child).1)? {
                        todo.push((child, dir));
                    }
                }
                Some(seen) if FileType::from_raw_mode(seen.facts.0).is_file() => files.push(child),
                _ => {}
            }
        }
        if !files.is_empty() {
            directories.push((dir, files));
        }
    }
    let compare = |number: usize| -> Result<Vec<&'a [u8]>, SnapshotError> {
        let (dir, files) = &directories[number];
        let mut changed = Vec::new();
        for &path in files {
            let (parent, name) = split(path);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fail = |e| LayerError::io("read", path, e);
            let Some(found) = stack.lookup(dir, name)? else { continue };
            // In the places of devices are empty files.
            if !FileType::from_raw_mode(found.stat.st_mode).is_file() {
                continue;
            }
            let old = stack.open_found(dir, name, &found, flags)?;
            let new = openat(open(root, parent)?, name, flags, Mode::empty()).map_err(fail)?;
            match same_content(File::from(new), File::from(old), cancel) {
                _ if cancel.is_cancelled() => return Err(SnapshotError::Cancelled),
                Ok(true) => {}
                Ok(false) => changed.push(path),
                Err(error) => return Err(super::at("read", path, error)),
            }
        }
        Ok(changed)
    };
    let changed = threads::side_by_side(directories.len(), threads::count(), compare)?;
    Ok(changed.into_iter().flatten().collect())
}
