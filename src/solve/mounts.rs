//! RUN's mounts: from plan to what the sandbox takes.

use super::trees::{Stack, Trees};
use super::{Cause, Job, Secret};
use crate::context::SelectOptions;
use crate::layer::owner;
use crate::plan::{Mount, MountKind, Sharing, Tree};
use crate::sandbox::{self, Ids, MountSpec, Source};
use crate::snapshot::copy::{self as engine, CopyRequest, CopySource};
use crate::snapshot::{Mounted, Scratch};
use crate::store::{ChainId, MountName};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The mode of a cache mount's root where none is given, as BuildKit's.
const CACHE_MODE: u32 = 0o755;

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
    Agent(PathBuf),
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
                Held::Agent(path) => Source::Agent(path),
            })
            .collect()
    }

    /// Shows a heredoc as an executable file, in a folder of its own that cannot be written.
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
        let (folder, name) = path.rsplit_once('/').unwrap_or(("/", path));
        let file = dir.join(name);
        fs::write(&file, data)
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(mode)))
            .map_err(|e| io("write", &file, e))?;
        let source = self.hold(Held::Tree(open_dir(&dir)?));
        let kind = sandbox::MountKind::Bind { source, subpath: String::new(), readonly: true };
        self.add(folder, kind);
        Ok(())
    }

    fn hold(&mut self, held: Held) -> usize {
        self.held.push(held);
        self.held.len() - 1
    }

    fn add(&mut self, target: &str, kind: sandbox::MountKind) {
        self.specs.push(MountSpec { target: target.to_owned(), kind });
    }
}

/// Prepares all mounts of a step.
pub(super) fn prepare(
    job: &Job<'_>,
    trees: &Trees,
    mounts: &[Mount],
    ids: Option<&Ids>,
    files: &dyn Fn(Tree) -> (Stack, Option<ChainId>),
) -> Result<Prepared, Cause> {
    let mut prepared = Prepared::default();
    let mut sockets = 0;
    let mut has_agent = false;
    for mount in mounts {
        let target = &mount.target;
        match &mount.kind {
            MountKind::Bind { tree, source, is_read_only } => {
                bind(job, trees, &mut prepared, target, *tree, source, *is_read_only, ids, files)?;
            }
            MountKind::Cache { .. } => cache(job, trees, &mut prepared, mount, files)?,
            MountKind::Tmpfs { size } => {
                let size = (*size > 0).then_some(*size);
                prepared.add(target, sandbox::MountKind::Tmpfs { size, mode: 0o1777 });
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
                let Some(socket) = job.options.ssh.get(id) else {
                    if *is_required {
                        return Err(Cause::NotGiven { kind: "ssh agent", id: id.clone() });
                    }
                    continue;
                };
                let target = target
                    .strip_suffix("ssh_agent.0")
                    .map_or_else(|| target.clone(), |dir| format!("{dir}ssh_agent.{sockets}"));
                sockets += 1;
                let source = prepared.hold(Held::Agent(socket.clone()));
                let (mode, uid, gid) = (*mode, *uid, *gid);
                prepared.add(&target, sandbox::MountKind::Ssh { source, mode, uid, gid });
            }
        }
    }
    Ok(prepared)
}

/// Shows a part of a tree. A context is copied first: the command must see the files that were
/// hashed, as root's, without what the ignore file hides.
#[expect(clippy::too_many_arguments, reason = "one mount's fields, used here only")]
fn bind(
    job: &Job<'_>,
    trees: &Trees,
    prepared: &mut Prepared,
    target: &str,
    tree: Tree,
    source: &str,
    is_read_only: bool,
    ids: Option<&Ids>,
    files: &dyn Fn(Tree) -> (Stack, Option<ChainId>),
) -> Result<(), Cause> {
    let (mut stack, chain) = files(tree);
    let mut subpath = source.to_owned();
    if let Tree::Context(_) = tree {
        let copied = copy_of_context(job, trees, tree, source, &stack, chain.as_ref())?;
        subpath = copied.1;
        stack = Stack(vec![super::trees::Lower::held(&copied.0, false)?]);
    }
    let mounted = if is_read_only {
        stack.mount_for(None, ids)?
    } else {
        // What is written is thrown away with the session.
        let work = job.store.session()?.new_work()?;
        let scratch = Scratch::new(&work)?;
        stack.mount_for(Some(&scratch.upper()), ids)?
    };
    let source = prepared.hold(Held::Detached(mounted));
    prepared.add(target, sandbox::MountKind::Bind { source, subpath, readonly: is_read_only });
    Ok(())
}

/// Copies what a bind mount shows of a context; returns the folder and the path in it.
fn copy_of_context(
    job: &Job<'_>,
    trees: &Trees,
    tree: Tree,
    path: &str,
    stack: &Stack,
    chain: Option<&ChainId>,
) -> Result<(PathBuf, String), Cause> {
    let source = trees.source(job, tree, stack, chain)?;
    let selection = source.select(&[path], &SelectOptions::default(), job.cancel)?;
    let dir = job.store.session()?.new_work()?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
        .map_err(|source| io("change", &dir, source))?;
    let root = open_dir(&dir)?;
    let request = CopyRequest {
        sources: vec![CopySource::Tree {
            root: source.root(),
            selection: &selection,
            keep_owner: false,
            unpack: false,
        }],
        dest: b"/mount",
        workdir: b"/",
        owner: None,
        mode: None,
        created: None,
        before: None,
    };
    engine::copy_into(root.as_fd(), &request, job.cancel)?;
    Ok((dir, "/mount".to_owned()))
}

/// Gives a folder of the store that lasts.
fn cache(
    job: &Job<'_>,
    trees: &Trees,
    prepared: &mut Prepared,
    mount: &Mount,
    files: &dyn Fn(Tree) -> (Stack, Option<ChainId>),
) -> Result<(), Cause> {
    let MountKind::Cache { id, sharing, seed, source, mode, uid, gid, is_read_only } = &mount.kind
    else {
        unreachable!("called for cache mounts");
    };
    let name = MountName::new(id, 0);
    let (name, locks) = match sharing {
        Sharing::Shared => (name, Vec::new()),
        Sharing::Locked => {
            let lock = format!("mount-{name}");
            let waiting = || {
                job.progress.notice(format!("waiting for another step that uses cache mount {id}"));
            };
            (name, vec![job.store.lock_unless(&lock, Some(job.cancel), waiting)?])
        }
        Sharing::Private => {
            let mut copy = 0;
            loop {
                let name = MountName::new(id, copy);
                if let Some(lock) = job.store.try_lock(&format!("mount-{name}"))? {
                    break (name, vec![lock]);
                }
                copy += 1;
            }
        }
    };
    let dir = job.store.root().join(name.path()).join("fs");
    let seized = || {
        job.progress.notice(format!("waiting for a command that copies cache mount {id}"));
    };
    // Held, so that nobody collects it while the command runs, nor before it starts.
    while !job.store.hold_mount(&name, seized)? {
        let _making = job.store.lock("mounts", || {})?;
        if !dir.is_dir() {
            make_cache(job, trees, &dir, id, *seed, source, (*mode, *uid, *gid), files)?;
        }
    }
    prepared.locks.extend(locks);
    let source = prepared.hold(Held::Tree(open_dir(&dir)?));
    let kind = sandbox::MountKind::Bind { source, subpath: String::new(), readonly: *is_read_only };
    prepared.add(&mount.target, kind);
    Ok(())
}

/// Makes the folder of a cache mount under another name and renames it in.
#[expect(clippy::too_many_arguments, reason = "one mount's fields, used here only")]
fn make_cache(
    job: &Job<'_>,
    trees: &Trees,
    dir: &Path,
    id: &str,
    seed: Option<Tree>,
    source: &str,
    (mode, uid, gid): (Option<u32>, Option<u32>, Option<u32>),
    files: &dyn Fn(Tree) -> (Stack, Option<ChainId>),
) -> Result<(), Cause> {
    let work = job.store.session()?.new_work()?;
    let made = work.join("fs");
    fs::DirBuilder::new().mode(0o700).create(&made).map_err(|e| io("create", &made, e))?;
    if let Some(tree) = seed {
        let (stack, chain) = files(tree);
        let from = trees.source(job, tree, &stack, chain.as_ref())?;
        let selection = from.select(&[source], &SelectOptions::default(), job.cancel)?;
        let root = open_dir(&made)?;
        let request = CopyRequest {
            sources: vec![CopySource::Tree {
                root: from.root(),
                selection: &selection,
                keep_owner: from.keeps_owner(),
                unpack: false,
            }],
            dest: b"/",
            workdir: b"/",
            owner: None,
            mode: None,
            created: None,
            before: None,
        };
        engine::copy_into(root.as_fd(), &request, job.cancel)?;
    }
    owner::set_open(open_dir(&made)?, uid.unwrap_or(0), gid.unwrap_or(0))
        .map_err(std::io::Error::from)
        .and_then(|()| {
            let mode = fs::Permissions::from_mode(mode.unwrap_or(CACHE_MODE));
            fs::set_permissions(&made, mode)
        })
        .map_err(|e| io("change", &made, e))?;
    let label = work.join("id");
    fs::write(&label, id).map_err(|e| io("write", &label, e))?;
    let parent = dir.parent().unwrap_or(dir);
    crate::sys::fault::at("mount.made").map_err(|e| io("create", parent, e))?;
    match fs::rename(&work, parent) {
        Err(e) if !dir.is_dir() => Err(io("create", parent, e)),
        _ => Ok(()),
    }
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

fn open_dir(path: &Path) -> Result<OwnedFd, Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| io("open", path, e.into()))
}

fn io(doing: &'static str, path: impl AsRef<OsStr>, source: std::io::Error) -> Cause {
    Cause::Io { doing, path: PathBuf::from(path.as_ref()), source }
}
