//! The file system tree of a sandbox, built in the init's own mount namespace.
//!
//! Everything is made with the mount API by descriptors: a file system or a clone is made detached,
//! gets its attributes, and is then moved to its place.
//!
//! # Places that an image chose
//!
//! A source is open only until its mount is made. Then all sources are closed, and only then is the
//! first place looked for: by the texts of the links in its path, inside the new root, so that its
//! end is known by name and no link leads out ([`stub`]). `/proc`, `/sys` and `/dev` are placed
//! without following a link; what lies below them is placed beneath the descriptor of the mount
//! itself. `/proc` comes last: while places are looked for, procfs is absent, so no path can lead
//! through its links.
//!
//! Two mounts are stacked on the old root before `pivot_root` changes to the upper one: the
//! *stage*, a tmpfs that holds what is made for this step alone (generated files, secrets, sockets,
//! device nodes) and that is reachable from inside only where a single file of it is bound; and the
//! root.
//!
//! Every mount but those of single device nodes has `nodev`, so a device node that a command makes
//! cannot be opened, control group for devices or not.

mod cgroup;
mod dev;
mod proc;
mod stub;
mod wanted;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FsWord, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};

use super::descriptors::Descriptors;
use super::fault::{Doing, Fault};
use super::idmap::IdMap;
use super::policy::NetworkMode;
use super::protocol::{RunRequest, StdioFds, Stub};
use super::spec::Security;
use crate::layer::owner;
use crate::sys::mount::{MountAttributes, make_private, mount_setattr};

pub(super) use dev::{LINKS, NODES};
pub(super) use stub::check_place;
pub(super) use stub::remove as remove_stubs;

/// What came of building.
pub(super) struct Tree {
    /// Mount points made for the step.
    pub stubs: Vec<Stub>,
    /// Listening sockets of agent mounts, in order.
    pub agents: Vec<OwnedFd>,
    /// Notices for the user.
    pub notices: Vec<String>,
    /// Master and slave side of the terminal.
    pub terminal: Option<(OwnedFd, OwnedFd)>,
    /// Device numbers of the file systems that were made for this step alone.
    pub own: Vec<u64>,
    /// The null device of `/dev`, opened before other mounts may cover it.
    pub null: OwnedFd,
}

/// What was being done where `/` is not a mount: the kernel does not allow such a root to be
/// changed.
const IN_CHROOT: &str = "making mounts private in a chroot whose root is a directory (make it a mount \
                         first: mount --bind DIR DIR && chroot DIR)";

/// The notice of a container around the builder that masks parts of its `/proc`: the kernel mounts
/// none that shows more.
pub const PROC_IS_MASKED: &str = "/proc is masked by a container around the builder; commands see \
                                  that one, with the processes outside their sandbox";

const NOTHING_SPECIAL: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// An empty directory on the stage.
const EMPTY: &str = "empty";

/// `f_type` of an overlay (`OVERLAYFS_SUPER_MAGIC`).
const OVERLAYFS: FsWord = 0x794c_7630;

/// Says whether `path`, outside, is a sysfs.
fn is_sysfs(path: &str) -> bool {
    const SYSFS: FsWord = 0x6265_6572;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == SYSFS)
}

/// Makes a file system of `kind`, detached.
fn make(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Fault> {
    let run = || {
        let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            fsconfig_set_string(&fs, *key, *value)?;
        }
        fsconfig_create(&fs)?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    run().doing(|| format!("making a file system of type {kind}"))
}

/// Clones the mount at `path` beneath `dir` and what is mounted below it, detached.
fn clone(dir: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(dir, path, flags)
}

/// Clones what is mounted at and below `path`, outside, and restricts all of it.
fn clone_all(path: &str, set: MountAttrFlags) -> Result<OwnedFd, Fault> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let run = || -> std::io::Result<OwnedFd> {
        let tree = open_tree(CWD, path, flags)?;
        restrict(tree.as_fd(), set)?;
        make_private(tree.as_fd())?;
        Ok(tree)
    };
    run().doing(|| format!("cloning {path}"))
}

/// Moves a detached mount onto `place`.
fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}

/// Switches attributes on, for a mount and what is mounted below it.
fn restrict(mount: BorrowedFd<'_>, set: MountAttrFlags) -> std::io::Result<()> {
    mount_setattr(mount, &MountAttributes { set: Some(set), idmap: None, is_recursive: true })
}

/// Builds the tree and makes it this process's root.
///
/// The caller is alone in a new mount namespace, in the sandbox's pid, network, ipc and cgroup
/// namespaces, makes files as the sandbox's root and has umask 0.
pub(super) fn build(
    request: &RunRequest,
    fds: &mut Descriptors,
    map: Option<&IdMap>,
) -> Result<Tree, Fault> {
    let spec = &request.spec;
    let strict = spec.security == Security::Default;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| Fault::Failed {
        doing: match errno {
            Errno::INVAL => IN_CHROOT,
            _ => "making mounts private",
        }
        .to_owned(),
        errno: errno.raw_os_error(),
    })?;

    let stage = make(
        "tmpfs",
        &[("mode", "0755"), ("source", "builder")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    let stack = |mount: BorrowedFd<'_>| {
        move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    };
    stack(stage.as_fd()).doing(|| "mounting the stage")?;
    let root = fds.take(request.root)?;
    let root = root.as_fd();
    rustix::fs::mkdirat(&stage, EMPTY, Mode::from_raw_mode(0o555))
        .doing(|| "making an empty directory")?;
    stack(root).doing(|| "mounting the root file system")?;
    restrict(root, MountAttrFlags::MOUNT_ATTR_NODEV).doing(|| "restricting the root")?;

    let mut building = Building {
        root,
        stage: stage.as_fd(),
        map,
        stubs: stub::Maker::new(root).doing(|| "looking at the root file system")?,
        agents: Vec::new(),
        notices: Vec::new(),
        own: Vec::new(),
    };
    // What an image or a user chose is resolved from here on: no source is open any more.
    let mounts = building.prepare(request, fds)?;
    let sys = building.sys(request)?;
    let (null, terminal) =
        building.dev(spec.policy.shm_size, matches!(request.stdio, StdioFds::Terminal { .. }))?;
    building.generated("hosts", request.hosts.as_bytes(), "/etc/hosts")?;
    building.generated("resolv.conf", request.resolv_conf.as_bytes(), "/etc/resolv.conf")?;
    building.place(mounts)?;
    // Last, so that no path above could lead through it.
    let proc = building.proc()?;
    if spec.policy.network != NetworkMode::Host && request.netns.is_none() {
        proc::own_network(proc.as_fd());
    }
    if strict {
        building.mask(proc.as_fd(), sys.as_fd())?;
    }
    if spec.readonly_root {
        // Not what is mounted in it.
        let change = MountAttributes { set: Some(READ_ONLY), ..MountAttributes::default() };
        mount_setattr(root, &change).doing(|| "making the root read-only")?;
    }
    building.own_root()?;
    let Building { stubs, agents, mut notices, own, .. } = building;

    let old = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening the old root")?;
    rustix::process::fchdir(root).doing(|| "entering the root")?;
    match rustix::process::pivot_root(".", ".") {
        // The filter of a container around us. Who could unmount the new root must not be left here.
        Err(Errno::PERM | Errno::NOSYS)
            if map.is_some() || super::init::capabilities(spec)? & super::caps::SYS_ADMIN == 0 =>
        {
            stay_covered(root)?;
            notices.push(
                "a container around the builder does not let the root be changed by pivot_root; \
                 the builder's root stays mounted beneath that of commands, out of their reach"
                    .to_owned(),
            );
            return Ok(Tree { stubs: stubs.into_list(), agents, notices, terminal, null, own });
        }
        result => result.doing(|| "changing the root")?,
    }
    // The old root now lies on the new one, and the stage on it: from the old root, the name `.`
    // means the topmost of the two that is left.
    rustix::process::fchdir(&old).doing(|| "entering the old root")?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leaving the stage")?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leaving the old root")?;
    rustix::process::chdir("/").doing(|| "entering the new root")?;
    Ok(Tree { stubs: stubs.into_list(), agents, notices, terminal, null, own })
}

/// Enters the new root where it lies: on the stage, which lies on the old root, all of them at `/`.
///
/// A process that leaves a directory below it by `..` comes to `/`, and so to what is mounted there last,
/// which is the new root. What is beneath could only be reached by unmounting that: a command has
/// no capability for it, or is in a namespace in which all these mounts are locked.
fn stay_covered(root: BorrowedFd<'_>) -> Result<(), Fault> {
    rustix::process::fchdir(root).doing(|| "entering the root")?;
    // What was mounted on `/` last is moved to where it is already: a check that it is a mount of
    // this namespace, and on top.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    match move_mount(root, "", CWD, "/", flags) {
        // It lies there.
        Ok(()) | Err(Errno::LOOP | Errno::INVAL) => {}
        Err(error) => return Err(error).doing(|| "moving the root file system"),
    }
    rustix::process::chroot(".").doing(|| "changing the root")?;
    rustix::process::chdir("/").doing(|| "entering the new root")
}

struct Building<'a> {
    root: BorrowedFd<'a>,
    stage: BorrowedFd<'a>,
    map: Option<&'a IdMap>,
    stubs: stub::Maker<'a>,
    agents: Vec<OwnedFd>,
    notices: Vec<String>,
    /// See [`Tree::own`].
    own: Vec<u64>,
}

impl Building<'_> {
    /// Mounts `/proc`, and returns the mount. Its directory stays where it had to be made.
    fn proc(&mut self) -> Result<OwnedFd, Fault> {
        let proc = match make("proc", &[], NOTHING_SPECIAL) {
            Err(Fault::Failed { errno: libc::EPERM, .. }) => {
                self.notices.push(PROC_IS_MASKED.to_owned());
                clone_all("/proc", NOTHING_SPECIAL)?
            }
            made => made?,
        };
        let place = self.stubs.own("proc")?;
        attach(proc.as_fd(), place.as_fd()).doing(|| "mounting /proc")?;
        Ok(proc)
    }

    /// Mounts `/sys` and the control groups in it, and returns the mount. Its directory stays where
    /// it had to be made.
    fn sys(&mut self, request: &RunRequest) -> Result<OwnedFd, Fault> {
        let mut attributes = NOTHING_SPECIAL;
        if request.spec.security == Security::Default {
            attributes |= READ_ONLY;
        }
        let sys = match make("sysfs", &[], attributes) {
            // That of a network namespace which is not ours, or a masked one.
            Err(Fault::Failed { errno: libc::EPERM, .. }) if is_sysfs("/sys") => {
                clone_all("/sys", attributes)?
            }
            // A command needs none.
            Err(Fault::Failed { errno: libc::EPERM | libc::ENODEV, .. }) => {
                let empty = clone(self.stage, EMPTY).doing(|| "making an empty /sys")?;
                restrict(empty.as_fd(), NOTHING_SPECIAL | READ_ONLY)
                    .doing(|| "making an empty /sys")?;
                empty
            }
            made => made?,
        };
        let place = self.stubs.own("sys")?;
        attach(sys.as_fd(), place.as_fd()).doing(|| "mounting /sys")?;
        Self::cgroup(request, sys.as_fd(), attributes)?;
        Ok(sys)
    }

    /// Adds the root to the file systems made for this step, where it is one.
    fn own_root(&mut self) -> Result<(), Fault> {
        let look = || -> rustix::io::Result<Option<u64>> {
            // Any other kind may be one of the machine, shown whole or in part.
            let is_overlay = rustix::fs::fstatfs(self.root)?.f_type == OVERLAYFS;
            Ok(if is_overlay { Some(rustix::fs::fstat(self.root)?.st_dev) } else { None })
        };
        self.own.extend(look().doing(|| "looking at the root file system")?);
        Ok(())
    }

    /// Adds a file system that was just made for this step.
    fn own(&mut self, made: BorrowedFd<'_>) -> Result<(), Fault> {
        let stat = rustix::fs::fstat(made).doing(|| "looking at a new file system")?;
        self.own.push(stat.st_dev);
        Ok(())
    }

    /// Binds a generated file, read-only.
    fn generated(&mut self, name: &str, text: &[u8], target: &str) -> Result<(), Fault> {
        self.stage_file(name, text, 0o644, None)?;
        self.bind_stage(name, target, NOTHING_SPECIAL | READ_ONLY)
    }

    fn stage_file(
        &self,
        name: &str,
        bytes: &[u8],
        mode: u32,
        owned_by: Option<(u32, u32)>,
    ) -> Result<(), Fault> {
        let write = || -> std::io::Result<()> {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(self.stage, name, flags, Mode::from_raw_mode(0o600))?;
            let mut file = std::fs::File::from(fd);
            std::io::Write::write_all(&mut file, bytes)?;
            if let Some((uid, gid)) = owned_by {
                as_far_as_known(owner::set_open(&file, uid, gid))?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            Ok(())
        };
        write().doing(|| format!("making the file {name}"))
    }

    /// Shows the stage's `name` at `target`.
    fn bind_stage(
        &mut self,
        name: &str,
        target: &str,
        attributes: MountAttrFlags,
    ) -> Result<(), Fault> {
        let mount = clone(self.stage, name).doing(|| format!("cloning {name}"))?;
        restrict(mount.as_fd(), attributes).doing(|| format!("restricting {name}"))?;
        let place = self.stubs.file(target)?;
        attach(mount.as_fd(), place.as_fd()).doing(|| format!("mounting {target}"))
    }

    /// Translates ids of the sandbox to the ones its files are made with.
    fn owner(&self, uid: u32, gid: u32) -> Result<(u32, u32), Fault> {
        let Some(map) = self.map else { return Ok((uid, gid)) };
        if owner::is_recorded() {
            return Ok((uid, gid));
        }
        match (map.uid(uid), map.gid(gid)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            (None, _) => Err(map.lacks(uid, "a mount's owner")),
            (_, None) => Err(map.lacks(gid, "a mount's group")),
        }
    }
}

/// Lets it pass that an owner cannot be written down: memory takes attributes since Linux 6.6.
fn as_far_as_known(done: Result<(), Errno>) -> Result<(), Errno> {
    done.or_else(|error| match error {
        Errno::NOTSUP if owner::is_recorded() => Ok(()),
        error => Err(error),
    })
}

pub(super) fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}
