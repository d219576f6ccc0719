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
use crate::sandbox::Rung;
use crate::store::MountName;
use std::collections::{BTreeMap, BTreeSet};
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

/// A cache mount that a step is about to have.
pub(super) struct Opened {
    pub(super) dir: PathBuf,
    /// Path of the part to show.
    pub(super) part: String,
    /// Whether writing fails.
    pub(super) is_read_only: bool,
}

/// A cache mount before its directory is found.
struct Wanted<'a> {
    id: &'a str,
    sharing: Sharing,
    start: &'a CacheStart,
    is_read_only: bool,
    /// What it starts from, in words.
    described: String,
    files: Option<Source>,
}

impl Wanted<'_> {
    fn name(&self, copy: u32) -> MountName {
        MountName::new(self.id, &self.described, copy)
    }
}

/// Finds the directories of a step's cache mounts, in the order of its mounts, made where they are
/// missing, and takes what keeps them away from others into `locks`.
///
/// Where nothing can be mounted the files of a mount are moved into the tree of the command, which
/// has them alone for that time: one that is shared is locked there. Locks are taken in the order of
/// their names, so that no two steps wait for each other.
pub(super) fn open_all(
    context: &StepContext<'_>,
    locks: &mut Vec<File>,
    mounts: &[Mount],
) -> Result<Vec<Opened>, Cause> {
    let (job, step) = (context.job, context.step());
    let mut wanted = Vec::new();
    for mount in mounts {
        let MountKind::Cache { id, sharing, start, is_read_only } = &mount.kind else { continue };
        let content = start.tree().map(|tree| files_of(context, tree)).transpose()?;
        let described = describe(start, content.as_ref().map(|(_, _, id)| *id));
        let files = content.map(|(files, ..)| files);
        let (sharing, is_read_only) = (*sharing, *is_read_only);
        wanted.push(Wanted { id, sharing, start, is_read_only, described, files });
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let moves = job.sandbox.rung()? != Rung::Namespaces;
    let is_locked = |mount: &&Wanted<'_>| match mount.sharing {
        Sharing::Locked => true,
        Sharing::Shared => moves,
        Sharing::Private => false,
    };
    let names: BTreeMap<String, &str> = wanted
        .iter()
        .filter(is_locked)
        .map(|mount| (format!("mount-{}", mount.name(0)), mount.id))
        .collect();
    for (lock, id) in &names {
        let waiting = || {
            let place = step.place();
            let text = format!("{place} waiting for another step that uses cache mount {id}");
            job.progress.notice(text);
        };
        locks.push(job.store.lock_unless(lock, Some(job.cancel), waiting)?);
    }
    wanted.iter().map(|mount| open(context, locks, mount)).collect()
}

/// Finds the directory of a mount whose lock is held, if it has one.
fn open(
    context: &StepContext<'_>,
    locks: &mut Vec<File>,
    mount: &Wanted<'_>,
) -> Result<Opened, Cause> {
    let (job, step) = (context.job, context.step());
    let id = mount.id;
    let (name, lock) = match mount.sharing {
        Sharing::Shared | Sharing::Locked => (mount.name(0), None),
        Sharing::Private => {
            let mut copy = 0;
            loop {
                let name = mount.name(copy);
                if let Some(lock) = job.store.try_lock(&format!("mount-{name}"))? {
                    break (name, Some(lock));
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
            make(job, &dir, id, &mount.described, mount.start, mount.files.as_ref())?;
        }
    }
    locks.extend(lock);
    let part = match mount.start {
        CacheStart::Files { source, .. } => source.clone(),
        CacheStart::Empty | CacheStart::Owned { .. } => String::new(),
    };
    Ok(Opened { dir, part, is_read_only: mount.is_read_only })
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
