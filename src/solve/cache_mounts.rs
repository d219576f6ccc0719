//! Cache mounts: directories of the store that outlast steps and builds.
//!
//! Which directory a mount is follows from its id and from what it starts from, as in BuildKit:
//! `from` of other content, another owner or another mode is another directory. `source` picks a
//! part of it.
//!
//! Source: BuildKit, `dockerfile2llb/convert_runmount.go`, `solver/llbsolver/mounts/mount.go`.

use super::mounts::{copy_part, io, open_dir};
use super::step_context::StepContext;
use super::{Cause, Job};
use crate::cache::TreeId;
use crate::context::{SelectOptions, Source};
use crate::copy::Selection;
use crate::layer::owner;
use crate::plan::{CacheStart, Mount, MountKind, Op, Sharing, Tree};
use crate::store::MountName;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The root of a mount that starts from nothing.
const EMPTY: (u32, u32, u32) = (0, 0, 0o755);

/// The whole of a tree, which is what a mount starts from whatever part it shows.
pub(super) fn files_of(
    context: &StepContext<'_>,
    tree: Tree,
) -> Result<(Source, Selection, TreeId), Cause> {
    let from = context.source(tree)?;
    let selection = from.select(&["/"], &SelectOptions::default(), context.job.cancel)?;
    let id = TreeId(selection.digest(from.keeps_owner()));
    Ok((from, selection, id))
}

/// Finds the directory of a mount, made where it is missing, and takes what keeps it away from
/// others into `locks`. Returns it with the path of the part to show, and whether writing fails.
pub(super) fn open(
    context: &StepContext<'_>,
    locks: &mut Vec<File>,
    mount: &Mount,
) -> Result<(PathBuf, String, bool), Cause> {
    let (job, step) = (context.job, context.step());
    let MountKind::Cache { id, sharing, start, is_read_only } = &mount.kind else {
        unreachable!("called for cache mounts");
    };
    let content = start.tree().map(|tree| files_of(context, tree)).transpose()?;
    let described = describe(start, content.as_ref().map(|(_, _, id)| *id));
    let name = |copy| MountName::new(id, &described, copy);
    let (name, lock) = match sharing {
        Sharing::Shared => (name(0), None),
        Sharing::Locked => {
            let waiting = || {
                let place = step.place();
                let text = format!("{place} waiting for another step that uses cache mount {id}");
                job.progress.notice(text);
            };
            let lock = format!("mount-{}", name(0));
            (name(0), Some(job.store.lock_unless(&lock, Some(job.cancel), waiting)?))
        }
        Sharing::Private => {
            let mut copy = 0;
            loop {
                if let Some(lock) = job.store.try_lock(&format!("mount-{}", name(copy)))? {
                    break (name(copy), Some(lock));
                }
                copy += 1;
            }
        }
    };
    let dir = job.store.root().join(name.path()).join("fs");
    let seized = || {
        let place = step.place();
        job.progress.notice(format!("{place} waiting for a command that copies cache mount {id}"));
    };
    // Held, so that it is not collected while the command runs, nor before it starts.
    while !job.store.hold_mount(&name, seized)? {
        let _making = job.store.lock("mounts", || {})?;
        if !dir.is_dir() {
            make(job, &dir, id, &described, start, content.as_ref().map(|(from, ..)| from))?;
        }
    }
    locks.extend(lock);
    let part = match start {
        CacheStart::Files { source, .. } => source.clone(),
        CacheStart::Empty | CacheStart::Owned { .. } => String::new(),
    };
    Ok((dir, part, *is_read_only))
}

/// Says what a mount starts from, in words that are equal for the same beginning only; nothing for
/// nothing.
fn describe(start: &CacheStart, files: Option<TreeId>) -> String {
    let files = files.map(|id| format!("files {}", crate::store::Key::from_bytes(id.0).to_hex()));
    let owned = match start {
        CacheStart::Owned { uid, gid, mode, .. } => {
            Some(format!("owner {uid}:{gid} mode {mode:04o}"))
        }
        CacheStart::Empty | CacheStart::Files { .. } => None,
    };
    files.into_iter().chain(owned).collect::<Vec<_>>().join(", ")
}

/// Makes the directory of a mount under another name and renames it in.
fn make(
    job: &Job<'_>,
    dir: &Path,
    id: &str,
    described: &str,
    start: &CacheStart,
    from: Option<&Source>,
) -> Result<(), Cause> {
    let work = job.store.session()?.new_work()?;
    let made = work.join("fs");
    fs::DirBuilder::new().mode(0o700).create(&made).map_err(|e| io("create", &made, e))?;
    let root = match (start, from) {
        (CacheStart::Files { .. }, Some(from)) => {
            copy_part(job, from, "/", &made, "/")?;
            None
        }
        (CacheStart::Owned { uid, gid, mode, .. }, _) => Some((*uid, *gid, *mode)),
        (CacheStart::Empty | CacheStart::Files { .. }, _) => Some(EMPTY),
    };
    if let Some((uid, gid, mode)) = root {
        let change = |e| io("change the owner of", &made, e);
        owner::set_open(open_dir(&made)?, uid, gid).map_err(|e| change(e.into()))?;
        fs::set_permissions(&made, fs::Permissions::from_mode(mode)).map_err(change)?;
    }
    for (name, text) in [("id", id), ("start", described)] {
        if name == "id" || !text.is_empty() {
            let label = work.join(name);
            fs::write(&label, text).map_err(|e| io("write", &label, e))?;
        }
    }
    let parent = dir.parent().unwrap_or(dir);
    crate::sys::fault::at("mount.made").map_err(|e| io("create", parent, e))?;
    match fs::rename(&work, parent) {
        Err(e) if !dir.is_dir() => Err(io("create", parent, e)),
        _ => Ok(()),
    }
}

/// Removes the mounts of steps that are to run whatever the cache has, whatever they started from:
/// BuildKit gives such steps empty ones.
pub(super) fn empty(job: &Job<'_>) -> Result<(), Cause> {
    let mut ids = BTreeSet::new();
    for step in job.plan.steps.iter().filter(|step| step.ignore_cache) {
        let Op::Run(run) = &step.op else { continue };
        ids.extend(run.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Cache { id, .. } => Some(id.as_str()),
            _ => None,
        }));
    }
    if ids.is_empty() {
        return Ok(());
    }
    for mount in job.store.mounts()? {
        if !ids.contains(mount.id.as_str()) {
            continue;
        }
        let waiting = || {
            let id = &mount.id;
            job.progress.notice(format!("waiting for a build that uses cache mount {id}"));
        };
        if let Some(seized) = job.store.seize_mount(&mount.name(), job.cancel, waiting)? {
            seized.remove(job.store)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_start_from_different_things_are_different() {
        let tree = TreeId([1; 32]);
        let owned = |mode| CacheStart::Owned { tree: None, uid: 0, gid: 5, mode };
        assert_eq!(describe(&CacheStart::Empty, None), "");
        assert_eq!(describe(&owned(0o755), None), "owner 0:5 mode 0755");
        assert_ne!(describe(&owned(0o755), None), describe(&owned(0o700), None));
        assert!(describe(&owned(0o755), Some(tree)).starts_with("files 0101"));
    }
}
