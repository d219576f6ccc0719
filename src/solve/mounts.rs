//! RUN's mounts: from plan to what the sandbox takes.

use super::step_context::StepContext;
use super::trees::{LowerDir, Stack};
use super::{Cause, Job, Secret, cache_mounts};
use crate::context::{SelectOptions, Source as FileSource};
use crate::copy::{self as engine, CopyRequest, CopySource, Selection};
use crate::layer::owner;
use crate::plan::{Mount, MountKind, Tree};
use crate::sandbox::{self, Ids, MountSpec, Rung, Source};
use crate::snapshot::{Mounted, Scratch};
use crate::sys::rooted::open_in_root;
use rustix::fs::{CWD, FileType, Mode, OFlags, Timespec, Timestamps, openat};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tracing::debug;

/// Mounts of a step, with what keeps them alive.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) specs: Vec<MountSpec>,
    /// Variables that hold secrets.
    pub(super) env: Vec<(String, String)>,
    held: Vec<Held>,
    /// Locks on cache mounts, for as long as the step runs.
    locks: Vec<File>,
}

#[derive(Debug)]
enum Held {
    Detached(Mounted),
    Tree(OwnedFd),
    File(File),
    Agent(sandbox::Agent),
}

impl Prepared {
    /// Returns what the specs' numbers mean.
    pub(super) fn sources(&self) -> Vec<Source<'_>> {
        self.held
            .iter()
            .map(|held| match held {
                Held::Detached(mounted) => Source::Detached(mounted.root()),
                Held::Tree(dir) => Source::Tree(dir.as_fd()),
                Held::File(file) => Source::File(file.as_fd()),
                Held::Agent(agent) => Source::Agent(agent),
            })
            .collect()
    }

    /// Shows a heredoc as an executable file, in a directory of its own that cannot be written.
    pub(super) fn script(
        &mut self,
        job: &Job<'_>,
        path: &str,
        data: &[u8],
        mode: u32,
    ) -> Result<(), Cause> {
        let dir = job.store.session()?.new_work()?;
        let open_to_all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&dir, open_to_all).map_err(|e| io("change", &dir, e))?;
        let (directory, name) = path.rsplit_once('/').unwrap_or(("/", path));
        let file = dir.join(name);
        fs::write(&file, data)
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(mode)))
            .map_err(|e| io("write", &file, e))?;
        let source = self.hold(Held::Tree(open_dir(&dir)?));
        let kind = sandbox::MountKind::Bind { source, subpath: String::new(), readonly: true };
        self.add(directory, kind);
        Ok(())
    }

    fn hold(&mut self, held: Held) -> usize {
        self.held.push(held);
        self.held.len() - 1
    }

    /// Leaves one mount for each target, the last; secrets and agents come after all others, as in
    /// BuildKit.
    fn settle(&mut self) {
        let is_late = |spec: &MountSpec| {
            matches!(spec.kind, sandbox::MountKind::Secret { .. } | sandbox::MountKind::Ssh { .. })
        };
        self.specs.sort_by_key(is_late);
        let mut seen = BTreeSet::new();
        let mut kept: Vec<_> = std::mem::take(&mut self.specs)
            .into_iter()
            .rev()
            .filter(|spec| seen.insert(spec.target.clone()))
            .collect();
        kept.reverse();
        self.specs = kept;
    }

    fn add(&mut self, target: &str, kind: sandbox::MountKind) {
        self.specs.push(MountSpec { target: target.to_owned(), kind });
    }
}

/// Prepares all mounts of a step.
pub(super) fn prepare(
    context: &StepContext<'_>,
    mounts: &[Mount],
    ids: Option<&Ids>,
) -> Result<Prepared, Cause> {
    let job = context.job;
    let mut prepared = Prepared::default();
    let mut caches = cache_mounts::open_all(context, &mut prepared.locks, mounts)?.into_iter();
    let mut sockets = 0;
    let mut has_agent = false;
    for mount in mounts {
        let target = &mount.target;
        debug!(target_path = target, kind = kind_of(&mount.kind), "prepares a mount");
        match &mount.kind {
            MountKind::Bind { tree, source, is_read_only } => {
                let (mounted, subpath) = bind(context, *tree, source, *is_read_only, ids)?;
                let source = prepared.hold(Held::Detached(mounted));
                let readonly = *is_read_only;
                prepared.add(target, sandbox::MountKind::Bind { source, subpath, readonly });
            }
            MountKind::Cache { .. } => {
                let Some(cache) = caches.next() else { continue };
                let source = prepared.hold(Held::Tree(open_dir(&cache.dir)?));
                let (subpath, readonly) = (cache.part, cache.is_read_only);
                prepared.add(target, sandbox::MountKind::Bind { source, subpath, readonly });
            }
            MountKind::Host { source, is_read_only } => {
                if job.sandbox.rung()? != Rung::Namespaces {
                    let message = format!(
                        "--volume shows commands {source} of this machine at {target}, which takes \
                         namespaces that this place does not allow"
                    );
                    let error = sandbox::SandboxError::Spec { message };
                    return Err(error.into());
                }
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let opened = openat(CWD, source.as_str(), flags, Mode::empty())
                    .map_err(|e| io("open", source, e.into()))?;
                let source = prepared.hold(Held::Tree(opened));
                let (subpath, readonly) = (String::new(), *is_read_only);
                prepared.add(target, sandbox::MountKind::Bind { source, subpath, readonly });
            }
            MountKind::Tmpfs { size } => {
                let size = (*size > 0).then_some(*size);
                prepared.add(target, sandbox::MountKind::Tmpfs { size, mode: None });
            }
            MountKind::Secret { id, env, is_required, mode, uid, gid } => {
                let Some(bytes) = secret(job, id, *is_required)? else { continue };
                if let Some(name) = env {
                    let value = String::from_utf8_lossy(&bytes).into_owned();
                    prepared.env.push((name.clone(), value));
                }
                if !target.is_empty() {
                    let source = prepared.hold(Held::File(in_memory(&bytes)?));
                    let (mode, uid, gid) = (*mode, *uid, *gid);
                    prepared.add(target, sandbox::MountKind::Secret { source, mode, uid, gid });
                }
            }
            MountKind::Ssh { id, is_required, mode, uid, gid } => {
                // With or without an agent the first mount's socket is the one that ssh looks for.
                if !has_agent {
                    prepared.env.push(("SSH_AUTH_SOCK".to_owned(), target.clone()));
                    has_agent = true;
                }
                let Some(agent) = job.options.ssh.get(id) else {
                    if *is_required {
                        return Err(Cause::NotGiven { kind: "ssh agent", id: id.clone() });
                    }
                    continue;
                };
                let target = target
                    .strip_suffix("ssh_agent.0")
                    .map_or_else(|| target.clone(), |dir| format!("{dir}ssh_agent.{sockets}"));
                sockets += 1;
                let source = prepared.hold(Held::Agent(agent.clone()));
                let (mode, uid, gid) = (*mode, *uid, *gid);
                prepared.add(&target, sandbox::MountKind::Ssh { source, mode, uid, gid });
            }
        }
    }
    prepared.settle();
    Ok(prepared)
}

/// The type of a mount, as `--mount` has it.
fn kind_of(kind: &MountKind) -> &'static str {
    match kind {
        MountKind::Bind { .. } => "bind",
        MountKind::Cache { .. } => "cache",
        MountKind::Host { .. } => "host",
        MountKind::Tmpfs { .. } => "tmpfs",
        MountKind::Secret { .. } => "secret",
        MountKind::Ssh { .. } => "ssh",
    }
}

/// Mounts a tree; returns it with the path of the part to show. A context is copied first: the
/// command must see the files that were hashed, as root's, without what the ignore file hides.
fn bind(
    context: &StepContext<'_>,
    tree: Tree,
    source: &str,
    is_read_only: bool,
    ids: Option<&Ids>,
) -> Result<(Mounted, String), Cause> {
    let (stack, subpath) = match tree {
        Tree::Context(_) => {
            let (copied, subpath) = copy_of_context(context, tree, source)?;
            (Stack(vec![LowerDir::held(&copied, false)?]), subpath)
        }
        Tree::Files(_) => (context.stack(tree), source.to_owned()),
    };
    let mounted = if is_read_only {
        stack.mount_for(context.shared, context.job.store, None, ids)?
    } else {
        // What is written is thrown away with the session.
        let work = context.job.store.session()?.new_work()?;
        let scratch = Scratch::new(&work)?;
        stack.mount_for(context.shared, context.job.store, Some(&scratch.upper()), ids)?
    };
    Ok((mounted, subpath))
}

/// Copies what a bind mount shows of a context; returns the directory and the path in it.
fn copy_of_context(
    context: &StepContext<'_>,
    tree: Tree,
    path: &str,
) -> Result<(PathBuf, String), Cause> {
    let (job, source) = (context.job, context.source(tree)?);
    let dir = job.store.session()?.new_work()?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
        .map_err(|source| io("change", &dir, source))?;
    copy_part(job, &source, path, &dir, "/mount")?;
    Ok((dir, "/mount".to_owned()))
}

/// Copies a file or a directory of a tree to `dest` in `dir`. The directory itself has the owner,
/// the mode and the time it has in the tree.
pub(super) fn copy_part(
    job: &Job<'_>,
    from: &FileSource,
    part: &str,
    dir: &Path,
    dest: &str,
) -> Result<Selection, Cause> {
    let selection = from.select(&[part], &SelectOptions::default(), job.cancel)?;
    let root = open_dir(dir)?;
    let request = CopyRequest {
        sources: vec![CopySource::Tree {
            root: from.root(),
            selection: &selection,
            keep_owner: from.keeps_owner(),
            unpack: false,
        }],
        dest: dest.as_bytes(),
        workdir: b"/",
        owner: None,
        mode: None,
        created: None,
        before: None,
    };
    engine::copy_into(root.as_fd(), &request, job.cancel)?;
    // A copy of a directory is one of what is in it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = |error: std::io::Error| io("copy", Path::new(part), error);
    let original = open_in_root(from.root(), part.as_bytes(), OFlags::PATH | OFlags::CLOEXEC)
        .map_err(failed)?;
    let mut stat = rustix::fs::fstat(&original).map_err(|e| failed(e.into()))?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Ok(selection);
    }
    let original = open_in_root(from.root(), part.as_bytes(), flags).map_err(failed)?;
    owner::amend_open(&original, &mut stat);
    let made = open_in_root(root.as_fd(), dest.as_bytes(), flags).map_err(failed)?;
    if from.keeps_owner() {
        owner::set_open(&made, stat.st_uid, stat.st_gid).map_err(|e| failed(e.into()))?;
    }
    let mode = Mode::from_raw_mode(from.mode_of(stat.st_mode));
    rustix::fs::fchmod(&made, mode).map_err(|e| failed(e.into()))?;
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(&made, &times).map_err(|e| failed(e.into()))?;
    Ok(selection)
}

/// Reads a secret; `None` where it was not given and need not be.
fn secret(job: &Job<'_>, id: &str, is_required: bool) -> Result<Option<Vec<u8>>, Cause> {
    match job.options.secrets.get(id) {
        Some(secret) => secret.read(job.cancel).map(Some).map_err(|source| Cause::Secret {
            id: id.to_owned(),
            path: match secret {
                Secret::File(path) => path.clone(),
                Secret::Value(_) => PathBuf::new(),
            },
            source,
        }),
        None if is_required => Err(Cause::NotGiven { kind: "secret", id: id.to_owned() }),
        None => Ok(None),
    }
}

/// A file that is on no disk.
fn in_memory(bytes: &[u8]) -> Result<File, Cause> {
    let name = Path::new("memory");
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let fd = rustix::fs::memfd_create("secret", flags).map_err(|e| io("create", name, e.into()))?;
    let mut file = File::from(fd);
    file.write_all(bytes).and_then(|()| file.rewind()).map_err(|e| io("write", name, e))?;
    Ok(file)
}

pub(super) fn open_dir(path: &Path) -> Result<OwnedFd, Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| io("open", path, e.into()))
}

pub(super) fn io(doing: &'static str, path: impl AsRef<OsStr>, source: std::io::Error) -> Cause {
    Cause::Io { doing, path: PathBuf::from(path.as_ref()), source }
}
