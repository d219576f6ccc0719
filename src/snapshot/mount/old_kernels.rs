//! Overlay mounts on kernels before 6.7: mount(2) in a thread with a namespace and a working
//! directory of its own.
//!
//! That call takes all lowers in one string of at most a page. The thread makes `/proc/self/fd` its
//! working directory, so that each lower costs the digits of its descriptor, mounts, and hands back a
//! clone of the mount.
//!
//! Source: Documentation/filesystems/overlayfs.rst; mount(2), open_tree(2).

use super::{
    MountOptions, Mounted, OFF, Upper, act_as_root_of, empty_fs, failed, mapped, mapped_pair,
    missing_lowers, open_dir, open_lower,
};
use crate::snapshot::{SnapshotError, XattrSpace};
use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    mount as mount_old, mount_change, move_mount, open_tree, unmount,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// Mounts as [`mount`](super::mount) does.
///
/// # Errors
///
/// [`SnapshotError`] with the layer that is missing, or what was refused.
pub(super) fn mount_in_thread(
    lowers: &[PathBuf],
    upper: Option<&Upper<'_>>,
    options: &MountOptions<'_>,
) -> Result<Mounted, SnapshotError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay-mount".into())
            .spawn_scoped(scope, || mount_old_way(lowers, upper, options))
            .map_err(|e| failed(lowers.len(), "start a thread", e))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount_old_way(
    lowers: &[PathBuf],
    upper: Option<&Upper<'_>>,
    options: &MountOptions<'_>,
) -> Result<Mounted, SnapshotError> {
    let layers = lowers.len();
    let fail = |doing: &'static str, e: io::Error| failed(layers, doing, e);
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|e| fail("leave the mount namespace", e.into()))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| fail("make mounts private", e.into()))?;

    // Held open to the end: the names below are their numbers.
    let mut dirs = Vec::with_capacity(layers + 3);
    let mut names = Vec::with_capacity(layers + 1);
    let places = options.idmap.map(|_| Places::new()).transpose();
    let places = places.map_err(|e| fail("make places for mapped layers", e))?;
    let map = |dir: OwnedFd| -> io::Result<OwnedFd> {
        let dir = mapped(dir, options)?;
        places.as_ref().map_or(Ok(()), |places| places.attach(&dir))?;
        Ok(dir)
    };
    for index in (0..layers).rev() {
        let dir = open_lower(lowers, index)?;
        let dir = map(dir).map_err(|e| fail("map the ids of a layer", e))?;
        names.push(dir.as_raw_fd().to_string());
        dirs.push(dir);
    }
    if missing_lowers(layers, upper) {
        let dir = empty_fs(MountAttrFlags::MOUNT_ATTR_RDONLY)
            .map_err(|e| fail("make an empty directory", e))?;
        names.push(dir.as_raw_fd().to_string());
        dirs.push(dir);
    }
    let mut data = vec![format!("lowerdir={}", names.join(":"))];
    for &(key, value, trusted_only) in OFF {
        if !trusted_only || options.xattrs == XattrSpace::Trusted {
            data.push(format!("{key}={value}"));
        }
    }
    if options.xattrs == XattrSpace::User {
        data.push("userxattr".into());
    }
    if let Some(upper) = upper {
        let (fs, work) = if options.idmap.is_some() {
            let (tree, fs, work) = mapped_pair(upper, &|path| {
                map(open_dir(path)?).map_err(|e| fail("map the ids of the upper", e))
            })?;
            dirs.push(tree);
            (fs, work)
        } else {
            (open_dir(upper.fs)?, open_dir(upper.work)?)
        };
        data.push(format!("upperdir={},workdir={}", fs.as_raw_fd(), work.as_raw_fd()));
        data.push("volatile".into());
        dirs.extend([fs, work]);
    }

    // The directory of descriptors cannot be mounted on, so the mount goes over /proc itself, which
    // this namespace needs no more once the names are resolved.
    rustix::process::chdir("/proc/self/fd").map_err(|e| fail("enter /proc/self/fd", e.into()))?;
    let data =
        std::ffi::CString::new(data.join(",")).expect("numbers and option names hold no NUL");
    let flags = if options.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let acting = act_as_root_of(options).map_err(|e| fail("act as the mapped root", e))?;
    mount_old("builder", "/proc", "overlay", flags, data.as_c_str())
        .map_err(|e| fail("mount it", e.into()))?;
    drop(acting);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = open_tree(CWD, "/proc", flags).map_err(|e| fail("clone the mount", e.into()))?;
    let _ = unmount("/proc", UnmountFlags::DETACH);
    Ok(Mounted::of_mount(fd))
}

/// Where a thread with a mount namespace of its own attaches mapped layers.
struct Places(OwnedFd);

impl Places {
    /// Mounts a tmpfs over `/sys`, which this namespace does not need.
    fn new() -> io::Result<Self> {
        let fs = empty_fs(MountAttrFlags::empty())?;
        move_mount(&fs, "", CWD, "/sys", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(Self(fs))
    }

    fn attach(&self, mount: &OwnedFd) -> io::Result<()> {
        let name = mount.as_raw_fd().to_string();
        rustix::fs::mkdirat(&self.0, &name, Mode::from(0o700))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(mount, "", &self.0, &name, flags)?)
    }
}
