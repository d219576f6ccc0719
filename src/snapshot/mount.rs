//! Detached overlay mounts.
//!
//! The new mount API takes any number of lowers one by one (`lowerdir+`, Linux 6.7), each as a
//! descriptor (6.13) or as a name below `/proc/self/fd`, so neither the length of the store's path
//! nor odd bytes in it matter. Kernels without it: [`old_kernels`].
//!
//! Source: Documentation/filesystems/overlayfs.rst; fsopen(2), fsconfig(2), fsmount(2).

mod old_kernels;

use super::laid::{Laid, LaidTrees};
use super::{SnapshotError, XattrSpace};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use crate::sys::mount::{MountAttributes, mount_setattr};
use crate::sys::process::FsIds;
use crate::text::chain;
use old_kernels::mount_in_thread;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tracing::debug;

/// The most lowers the kernel takes (`OVL_MAX_STACK`).
pub const LOWER_MAX: usize = 500;

/// The writable part of a mount.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// Takes what is written: `…/fs`.
    pub fs: &'a Path,
    /// Overlay's scratch directory, empty, on the same filesystem. `volatile` makes it usable once.
    pub work: &'a Path,
}

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions<'a> {
    /// Which extended attributes mark opaque directories.
    pub xattrs: XattrSpace,
    /// Makes the mount read-only even where it has an upper.
    pub read_only: bool,
    /// How the ids of all layers, the upper too, are seen. Needs [`XattrSpace::Trusted`] and a
    /// kernel with id-mapped overlay layers (5.19).
    pub idmap: Option<IdMapping<'a>>,
    /// Where the tree is laid out if nothing can be mounted here; `None` makes that an error.
    pub store: Option<&'a Store>,
    /// Trees that are laid out, from which one may be taken.
    pub trees: Option<&'a LaidTrees>,
}

/// A mapping of ids between the disk and a mount.
#[derive(Debug, Clone, Copy)]
pub struct IdMapping<'a> {
    /// The user namespace that has it.
    pub userns: BorrowedFd<'a>,
    /// What user 0 on disk is to the host.
    pub uid: u32,
    /// What group 0 on disk is to the host.
    pub gid: u32,
}

impl<'a> MountOptions<'a> {
    /// Returns what this process can use: writable, ids as they are on disk.
    pub fn detect() -> Self {
        let xattrs = XattrSpace::detect();
        Self { xattrs, read_only: false, idmap: None, store: None, trees: None }
    }

    /// As [`detect`](Self::detect), for a tree that may be laid out in a store.
    pub fn in_store(store: &'a Store) -> Self {
        Self { store: Some(store), ..Self::detect() }
    }
}

/// A layer's files as one tree.
#[derive(Debug)]
pub enum View {
    /// They are in one directory.
    Directory(OwnedFd),
    /// They are in several.
    Mounted(Mounted),
}

impl View {
    /// Returns the root of the tree.
    pub fn root(&self) -> BorrowedFd<'_> {
        match self {
            Self::Directory(directory) => directory.as_fd(),
            Self::Mounted(mounted) => mounted.root(),
        }
    }
}

/// Opens a layer of a store, given by [its directories](crate::store::Layer::directories), for
/// reading.
///
/// # Errors
///
/// [`SnapshotError`].
pub fn view(directories: &[PathBuf], store: &Store) -> Result<View, SnapshotError> {
    if let [directory] = directories {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(directory, flags, Mode::empty());
        return opened.map(View::Directory).map_err(|e| SnapshotError::Io {
            doing: "open",
            path: directory.clone(),
            source: e.into(),
        });
    }
    let options = MountOptions { read_only: true, ..MountOptions::in_store(store) };
    mount(directories, None, &options).map(View::Mounted)
}

/// A mounted tree without a mount point. Dropping it unmounts, unless it was moved into a mount
/// namespace or a process has files of it open. Where nothing can be mounted, a tree that is laid
/// out: dropping it removes that.
#[derive(Debug)]
pub struct Mounted {
    tree: MountedTree,
}

#[derive(Debug)]
enum MountedTree {
    Mount(OwnedFd),
    Laid { tree: Box<Laid>, upper: Option<PathBuf> },
}

/// A tree that was laid out, with what a step wrote in it.
#[derive(Debug)]
pub struct Finished {
    tree: Option<Box<Laid>>,
    /// Two names of one file that was changed: overlay would have changed it under one of them.
    pub shared: Option<[PathBuf; 2]>,
}

impl Finished {
    /// Keeps the tree, which `lowers` show now, for the next step on them.
    pub fn keep(self, trees: &LaidTrees, lowers: &[PathBuf]) {
        if let Some(tree) = self.tree {
            trees.keep(*tree, lowers);
        }
    }
}

impl Mounted {
    /// Returns the tree's root, good for `openat2` and `fchdir`, and of a mount for `move_mount`.
    pub fn root(&self) -> BorrowedFd<'_> {
        match &self.tree {
            MountedTree::Mount(fd) => fd.as_fd(),
            MountedTree::Laid { tree, .. } => tree.root(),
        }
    }

    /// Ends the work in a tree: all that was written is in the upper directory afterwards, as
    /// [`clean`](super::clean) takes it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`], where a tree was laid out.
    pub fn finish(self, cancel: &Cancel) -> Result<Finished, SnapshotError> {
        match self.tree {
            MountedTree::Laid { mut tree, upper: Some(upper) } => {
                let shared = tree.collect(&upper, cancel)?;
                Ok(Finished { tree: Some(tree), shared })
            }
            MountedTree::Laid { .. } | MountedTree::Mount(_) => {
                Ok(Finished { tree: None, shared: None })
            }
        }
    }

    fn of_mount(fd: OwnedFd) -> Self {
        Self { tree: MountedTree::Mount(fd) }
    }
}

impl AsFd for Mounted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root()
    }
}

/// Says whether this process can mount overlays: tried once, with two empty directories.
pub fn can_mount() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let can = mount_attached(&[], None, &MountOptions::detect())
            .and_then(|empty| overlay_of_nothing(&empty));
        if let Err(error) = &can {
            debug!(error = %chain(error), "nothing can be mounted here");
        }
        can.is_ok()
    })
}

/// Mounts an overlay of an empty directory and one more.
fn overlay_of_nothing(empty: &Mounted) -> Result<(), SnapshotError> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", empty.root().as_raw_fd()));
    mount_attached(&[path], None, &MountOptions::detect()).map(drop)
}

/// Mounts `lowers`, the bottom first, and above them `upper`. Where nothing can be mounted, their
/// tree is laid out in [`MountOptions::store`].
///
/// A directory may be given several times: only its topmost place counts, since there it covers all
/// that it would do further down. Without an upper the tree is read-only. No lowers and no upper
/// give an empty one, mode 0755. Changes to the upper are `volatile`: no sync of its files reaches
/// the disk through this mount, so its filesystem must be synced before anything that outlives a
/// crash refers to them.
///
/// The working directories of the process and its threads stay as they are; nothing is attached to
/// the caller's mount namespace.
///
/// # Errors
///
/// [`SnapshotError`] with the layer that is missing or refused.
pub fn mount(
    lowers: &[PathBuf],
    upper: Option<&Upper<'_>>,
    options: &MountOptions<'_>,
) -> Result<Mounted, SnapshotError> {
    let error = match mount_attached(lowers, upper, options) {
        Ok(mounted) => return Ok(mounted),
        Err(error) => error,
    };
    let Some(store) = options.store.filter(|_| options.idmap.is_none() && !can_mount()) else {
        return Err(error);
    };
    lay_out(lowers, upper, store, options.trees)
}

/// Lays the tree out, whatever can be mounted.
pub(super) fn lay_out(
    lowers: &[PathBuf],
    upper: Option<&Upper<'_>>,
    store: &Store,
    trees: Option<&LaidTrees>,
) -> Result<Mounted, SnapshotError> {
    let tree = Box::new(Laid::new(lowers, store, trees, upper.is_some())?);
    let upper = upper.map(|upper| upper.fs.to_owned());
    Ok(Mounted { tree: MountedTree::Laid { tree, upper } })
}

fn mount_attached(
    lowers: &[PathBuf],
    upper: Option<&Upper<'_>>,
    options: &MountOptions<'_>,
) -> Result<Mounted, SnapshotError> {
    // Overlay refuses to have a directory twice, whatever it is called; one that cannot be looked
    // at, it refuses better than we could.
    let mut seen = BTreeSet::new();
    let mut is_new = |path: &&PathBuf| {
        rustix::fs::stat(*path).map_or(true, |stat| seen.insert((stat.st_dev, stat.st_ino)))
    };
    let mut lowers: Vec<PathBuf> = lowers.iter().rev().filter(&mut is_new).cloned().collect();
    lowers.reverse();
    let lowers = &lowers[..];
    if lowers.len() > LOWER_MAX {
        return Err(SnapshotError::TooManyLayers { count: lowers.len() });
    }
    if lowers.is_empty() && upper.is_none() {
        return empty_dir().map_err(|source| failed(0, "make an empty directory", source));
    }
    debug!(layers = lowers.len(), is_writable = upper.is_some(), "mounts");
    let mounted = match mount_new(lowers, upper, options) {
        Err(SnapshotError::Mount { doing: NO_LOWERDIR_PLUS, .. }) => {
            mount_in_thread(lowers, upper, options)
        }
        // Before Linux 6.15 overlay takes only mounts that are attached somewhere.
        Err(SnapshotError::Mount { doing: CREATE, source, .. })
            if options.idmap.is_some() && source.raw_os_error() == Some(libc::EINVAL) =>
        {
            mount_in_thread(lowers, upper, options)
        }
        other => other,
    }?;
    let is_writable = upper.is_some() && !options.read_only;
    if is_writable && options.idmap.is_some() && is_read_only(&mounted) {
        // Overlay's answer to an upper that it cannot write, without an error.
        return Err(failed(lowers.len(), "write through the mapping of ids", Errno::ROFS));
    }
    Ok(mounted)
}

fn is_read_only(mounted: &Mounted) -> bool {
    use rustix::fs::StatVfsMountFlags;
    rustix::fs::fstatvfs(mounted.root())
        .is_ok_and(|facts| facts.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Says whether layers below `directory` can be mounted with a mapping of ids.
///
/// # Errors
///
/// Why not: a kernel before 5.19, or a filesystem that knows no id-mapped mounts.
pub fn can_map(directory: &Path, mapping: IdMapping<'_>) -> Result<(), SnapshotError> {
    let xattrs = XattrSpace::Trusted;
    let options =
        MountOptions { xattrs, read_only: true, idmap: Some(mapping), store: None, trees: None };
    mount(&[directory.to_owned()], None, &options).map(drop)
}

/// Marks the one failure that the old way can avoid.
const NO_LOWERDIR_PLUS: &str = "add lowers one by one";

/// And another, where it refuses what it was given before.
const CREATE: &str = "create it";

fn failed(layers: usize, doing: &'static str, source: impl Into<io::Error>) -> SnapshotError {
    SnapshotError::Mount { layers, doing, log: String::new(), source: source.into() }
}

fn open_lower(lowers: &[PathBuf], index: usize) -> Result<OwnedFd, SnapshotError> {
    let path = &lowers[index];
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
        SnapshotError::Lower { index, total: lowers.len(), path: path.clone(), source: e.into() }
    })
}

fn open_dir(path: &Path) -> Result<OwnedFd, SnapshotError> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SnapshotError::Io { doing: "open", path: path.to_owned(), source: e.into() })
}

/// Returns a private view of `dir` with the mapping of `options`, or `dir` itself.
fn mapped(dir: OwnedFd, options: &MountOptions<'_>) -> io::Result<OwnedFd> {
    let Some(mapping) = options.idmap else { return Ok(dir) };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&dir, "", flags)?;
    let change = MountAttributes { idmap: Some(mapping.userns), ..MountAttributes::default() };
    mount_setattr(tree.as_fd(), &change)?;
    Ok(tree)
}

/// Overlay keeps the credentials of the process that mounts it for all it does to the layers. Root
/// as the mapping shows it is the only one who owns what it makes in the work directory: for any
/// other user a mount that can be written fails, silently, and is read-only.
fn act_as_root_of(options: &MountOptions<'_>) -> io::Result<Option<FsIds>> {
    options.idmap.map(|mapping| FsIds::become_user(mapping.uid, mapping.gid)).transpose()
}

/// An empty read-only tree of its own.
fn empty_dir() -> io::Result<Mounted> {
    Ok(Mounted::of_mount(empty_fs(MountAttrFlags::MOUNT_ATTR_RDONLY)?))
}

fn empty_fs(attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "mode", "0755")?;
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Overlay takes one lower beside an upper and two without; this many empty directories are to be
/// added.
fn missing_lowers(lowers: usize, upper: Option<&Upper<'_>>) -> bool {
    lowers < if upper.is_some() { 1 } else { 2 }
}

/// The features that would make one layer refer to another, or its entries depend on the machine.
/// `userxattr` excludes the first two by itself and refuses to hear of them.
const OFF: &[(&str, &str, bool)] = &[
    ("redirect_dir", "nofollow", true),
    ("metacopy", "off", true),
    ("index", "off", false),
    ("xino", "off", false),
];

fn mount_new(
    lowers: &[PathBuf],
    upper: Option<&Upper<'_>>,
    options: &MountOptions<'_>,
) -> Result<Mounted, SnapshotError> {
    let layers = lowers.len();
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| failed(layers, "open the overlay filesystem", e))?;
    let with_log = |doing: &'static str, e: Errno| SnapshotError::Mount {
        layers,
        doing,
        log: kernel_log(&fs),
        source: e.into(),
    };

    fsconfig_set_string(&fs, "source", "builder").map_err(|e| with_log("set source", e))?;
    if options.xattrs == XattrSpace::User {
        fsconfig_set_flag(&fs, "userxattr").map_err(|e| with_log("set userxattr", e))?;
    }
    for &(key, value, trusted_only) in OFF {
        if trusted_only && options.xattrs == XattrSpace::User {
            continue;
        }
        fsconfig_set_string(&fs, key, value).map_err(|e| with_log("switch off features", e))?;
    }

    // A clone of a mount lives as long as its descriptor, until the overlay has clones of its own.
    let mut held = Vec::new();
    for index in (0..layers).rev() {
        let dir = open_lower(lowers, index)?;
        let refused = |source: io::Error, log: String| SnapshotError::LowerRefused {
            index,
            total: layers,
            path: lowers[index].clone(),
            log,
            source,
        };
        let dir = mapped(dir, options).map_err(|e| refused(e, String::new()))?;
        add_dir(&fs, "lowerdir+", &dir).map_err(|e| {
            if index + 1 == layers && lacks_lowerdir_plus(e) {
                return failed(layers, NO_LOWERDIR_PLUS, e);
            }
            refused(e.into(), kernel_log(&fs))
        })?;
        if options.idmap.is_some() {
            held.push(dir);
        }
    }
    if missing_lowers(layers, upper) {
        let dir = empty_fs(MountAttrFlags::MOUNT_ATTR_RDONLY)
            .map_err(|e| failed(layers, "make an empty directory", e))?;
        add_dir(&fs, "lowerdir+", &dir).map_err(|e| {
            let doing =
                if lacks_lowerdir_plus(e) { NO_LOWERDIR_PLUS } else { "add an empty lower" };
            with_log(doing, e)
        })?;
        held.push(dir);
    }

    if let Some(upper) = upper {
        let map = |path: &Path| {
            mapped(open_dir(path)?, options).map_err(|source| SnapshotError::Io {
                doing: "map the ids of",
                path: path.to_owned(),
                source,
            })
        };
        // The two must be on one mount, so with a mapping they are reached through a common one.
        let (fs_dir, work_dir) = if options.idmap.is_some() {
            let (tree, fs_dir, work_dir) = mapped_pair(upper, &map)?;
            held.push(tree);
            (fs_dir, work_dir)
        } else {
            (open_dir(upper.fs)?, open_dir(upper.work)?)
        };
        add_dir(&fs, "upperdir", &fs_dir).map_err(|e| with_log("set upperdir", e))?;
        add_dir(&fs, "workdir", &work_dir).map_err(|e| with_log("set workdir", e))?;
        fsconfig_set_flag(&fs, "volatile").map_err(|e| with_log("set volatile", e))?;
    }
    let acting =
        act_as_root_of(options).map_err(|e| failed(layers, "act as the mapped root", e))?;
    fsconfig_create(&fs).map_err(|e| with_log(CREATE, e))?;
    drop((acting, held));
    let attributes =
        if options.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    let fd = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|e| with_log("mount it", e))?;
    Ok(Mounted::of_mount(fd))
}

/// Opens upper and work below one mapped clone of their common parent, which comes first.
fn mapped_pair(
    upper: &Upper<'_>,
    map: &dyn Fn(&Path) -> Result<OwnedFd, SnapshotError>,
) -> Result<(OwnedFd, OwnedFd, OwnedFd), SnapshotError> {
    let parent = upper.fs.parent().filter(|parent| upper.work.parent() == Some(*parent));
    let (Some(parent), Some(fs), Some(work)) =
        (parent, upper.fs.file_name(), upper.work.file_name())
    else {
        return Err(SnapshotError::Io {
            doing: "find a common parent of upper and",
            path: upper.work.to_owned(),
            source: Errno::XDEV.into(),
        });
    };
    let tree = map(parent)?;
    let below = |name: &std::ffi::OsStr| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&tree, name, flags, Mode::empty()).map_err(|e| SnapshotError::Io {
            doing: "open",
            path: parent.join(name),
            source: e.into(),
        })
    };
    let (fs, work) = (below(fs)?, below(work)?);
    Ok((tree, fs, work))
}

/// Gives overlay a directory: as a descriptor, or by its name in `/proc` where it takes only
/// strings.
fn add_dir(fs: &OwnedFd, key: &str, dir: impl AsFd) -> Result<(), Errno> {
    match fsconfig_set_fd(fs, key, dir.as_fd()) {
        Err(Errno::INVAL) => {
            let name = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
            fsconfig_set_string(fs, key, name)
        }
        other => other,
    }
}

/// Says whether a lower was refused because the running kernel does not have the option
/// `lowerdir+`.
fn lacks_lowerdir_plus(error: Errno) -> bool {
    match error {
        // Before 6.5 overlay is behind a layer for old file systems, which takes strings only, and
        // any string.
        Errno::OPNOTSUPP => true,
        Errno::INVAL => fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_or(true, |fs| fsconfig_set_string(&fs, "lowerdir+", "/").is_err()),
        _ => false,
    }
}

/// Reads what the kernel had to say about a failed mount: lines such as `e overlay: …`.
fn kernel_log(fs: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(length @ 1..) = rustix::io::read(fs, &mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let text = text.trim();
        lines.push(text.strip_prefix("e ").unwrap_or(text).to_owned());
        if lines.len() == 8 {
            break;
        }
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests;
