//! The file system tree of a sandbox, built in the init's own mount namespace.
//!
//! Everything is made with the mount API by descriptors: a file system or a clone is made detached,
//! gets its attributes, and is then moved to its place. Places are resolved inside the new root, so
//! no link of an image leads out of it.
//!
//! - `/proc`, `/sys` and `/dev` are mounted on directories of the image, never through a link: an image could
//!   else move them to where masks do not reach. Masks are put beneath the mounts' own descriptors.
//! - `/proc` comes last. While places that an image or a user chose are resolved there is no procfs in the tree, whose
//!   magic links lead to whatever this process has open; and nothing can be mounted below `/proc`.
//! - The source of a mount that is read-only everywhere is made read-only itself.
//!
//! Two mounts are stacked on the old root before `pivot_root` changes to the upper one: the *stage*,
//! a tmpfs that holds what is made for this step alone (generated files, secrets, sockets, device
//! nodes) and that is reachable from inside only where a single file of it is bound; and the root.
//!
//! Every mount but those of single device nodes has `nodev`, so a device node that a command makes
//! cannot be opened, control group for devices or not.

mod cgroup;
mod dev;
mod proc;
mod stub;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};

use super::fault::{Doing, Fault};
use super::idmap::IdMap;
use super::init::Descriptors;
use super::protocol::{RunRequest, SourceFd, StdioFds, Stub};
use super::spec::{MountKind, NetworkMode, Security};
use crate::layer::owner;
use crate::sys::mount::{MountAttributes, make_private, mount_setattr};
use crate::sys::rooted::open_in_root;

pub(super) use stub::remove as remove_stubs;

/// What came of building.
pub(super) struct Tree {
    /// Mount points made for the step.
    pub stubs: Vec<Stub>,
    /// Listening sockets of agent mounts, in order.
    pub agents: Vec<OwnedFd>,
    /// What the user is to be told.
    pub notices: Vec<String>,
    /// Master and slave side of the terminal.
    pub terminal: Option<(OwnedFd, OwnedFd)>,
    /// The null device of `/dev`, opened before other mounts may cover it.
    pub null: OwnedFd,
    /// Numbers of the file systems that belong to the sandbox alone: the root, where it is an overlay of
    /// its own, and `/dev`.
    pub own: Vec<u64>,
}

/// What was being done where `/` is no mount: the kernel lets nobody change such a root.
const IN_CHROOT: &str = "making mounts private in a chroot whose root is a folder (make it a mount \
                         first: mount --bind DIR DIR && chroot DIR)";

const NOTHING_SPECIAL: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAY: rustix::fs::FsWord = 0x794c_7630;

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
    fds: &Descriptors,
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
    let root = fds.get(request.root)?;
    stack(root).doing(|| "mounting the root file system")?;
    restrict(root, MountAttrFlags::MOUNT_ATTR_NODEV).doing(|| "restricting the root")?;

    let mut building = Building {
        stage: stage.as_fd(),
        map,
        stubs: stub::Maker::new(root).doing(|| "looking at the root file system")?,
        agents: Vec::new(),
        notices: Vec::new(),
        own: Vec::new(),
    };
    let sys = building.sys(request)?;
    let (null, terminal) =
        building.dev(spec.shm_size, matches!(request.stdio, StdioFds::Terminal { .. }))?;
    building.generated("hosts", request.hosts.as_bytes(), "/etc/hosts")?;
    building.generated("resolv.conf", request.resolv_conf.as_bytes(), "/etc/resolv.conf")?;
    building.extra(request, fds)?;
    let proc = building.proc()?;
    if request.spec.network != NetworkMode::Host && request.netns.is_none() {
        proc::own_network(proc.as_fd());
    }
    if strict {
        building.mask(proc.as_fd(), sys.as_ref().map(AsFd::as_fd))?;
    }
    if spec.readonly_root {
        // Not what is mounted in it.
        let change = MountAttributes { set: Some(READ_ONLY), ..MountAttributes::default() };
        mount_setattr(root, &change).doing(|| "making the root read-only")?;
    }
    let Building { stubs, agents, notices, mut own, .. } = building;
    if rustix::fs::fstatfs(root).doing(|| "looking at the root")?.f_type == OVERLAY {
        own.push(rustix::fs::fstat(root).doing(|| "looking at the root")?.st_dev);
    }

    let old = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening the old root")?;
    rustix::process::fchdir(root).doing(|| "entering the root")?;
    rustix::process::pivot_root(".", ".").doing(|| "changing the root")?;
    // The old root now lies on the new one, and the stage on it: from the old root, the name `.`
    // means the topmost of the two that is left.
    rustix::process::fchdir(&old).doing(|| "entering the old root")?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leaving the stage")?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leaving the old root")?;
    rustix::process::chdir("/").doing(|| "entering the new root")?;
    Ok(Tree { stubs: stubs.into_list(), agents, notices, terminal, null, own })
}

struct Building<'a> {
    stage: BorrowedFd<'a>,
    map: Option<&'a IdMap>,
    stubs: stub::Maker<'a>,
    agents: Vec<OwnedFd>,
    notices: Vec<String>,
    own: Vec<u64>,
}

impl Building<'_> {
    /// Mounts `/proc` and returns its mount. Its directory stays where it had to be made.
    fn proc(&mut self) -> Result<OwnedFd, Fault> {
        let proc = match make("proc", &[], NOTHING_SPECIAL) {
            // The kernel shows nobody a /proc with more in it than the one there is, which a
            // container around us has masked in parts.
            Err(Fault::Failed { errno: libc::EPERM, .. }) => {
                self.notices.push(
                    "/proc is masked by a container around the builder; commands see that one, \
                     with the processes outside their sandbox"
                        .to_owned(),
                );
                clone_all("/proc", NOTHING_SPECIAL)?
            }
            made => made?,
        };
        let place = self.stubs.own_dir("proc")?;
        attach(proc.as_fd(), place.as_fd()).doing(|| "mounting /proc")?;
        Ok(proc)
    }

    /// Mounts `/sys` and returns its mount; none where the machine shows none itself. Its directory
    /// stays where it had to be made.
    fn sys(&mut self, request: &RunRequest) -> Result<Option<OwnedFd>, Fault> {
        let place = self.stubs.own_dir("sys")?;
        let mut attributes = NOTHING_SPECIAL;
        if request.spec.security == Security::Default {
            attributes |= READ_ONLY;
        }
        let sys = match make("sysfs", &[], attributes) {
            // That of a network namespace which is not ours, or a masked one.
            Err(Fault::Failed { errno: libc::EPERM, .. }) => {
                match clone_all("/sys", attributes) {
                    // The root around us has no /sys, and few commands need one.
                    Err(Fault::Failed { errno: libc::ENOENT | libc::EINVAL, .. }) => {
                        return Ok(None);
                    }
                    cloned => cloned?,
                }
            }
            made => made?,
        };
        attach(sys.as_fd(), place.as_fd()).doing(|| "mounting /sys")?;
        self.cgroup(request, sys.as_fd(), attributes)?;
        Ok(Some(sys))
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

    /// The spec's own mounts, shallow ones first, so that none hides another; of several with one
    /// target the last in the spec wins.
    fn extra(&mut self, request: &RunRequest, fds: &Descriptors) -> Result<(), Fault> {
        let mut mounts: Vec<(usize, &super::spec::MountSpec)> =
            request.spec.mounts.iter().enumerate().collect();
        mounts.sort_by_key(|(_, mount)| depth(&mount.target));
        let only_read = only_read(request);
        let mut attached: Vec<bool> = vec![false; request.sources.len()];
        for (index, mount) in mounts {
            let target = mount.target.as_str();
            match &mount.kind {
                MountKind::Bind { source, subpath, readonly } => {
                    let made = {
                        let only_read = only_read[*source];
                        self.bind_source(request, fds, *source, subpath, &mut attached, only_read)?
                    };
                    make_private(made.as_fd())
                        .doing(|| format!("making the mount of {target} private"))?;
                    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
                    if *readonly {
                        attributes |= READ_ONLY;
                    }
                    restrict(made.as_fd(), attributes)
                        .doing(|| format!("restricting the mount of {target}"))?;
                    let is_dir = rustix::fs::fstat(&made)
                        .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
                        .doing(|| format!("looking at the source of {target}"))?;
                    let place =
                        if is_dir { self.stubs.dir(target) } else { self.stubs.file(target) }?;
                    attach(made.as_fd(), place.as_fd()).doing(|| format!("mounting {target}"))?;
                }
                MountKind::Tmpfs { size, mode } => {
                    let mode = format!("{mode:o}");
                    let size = size.map(|size| size.to_string());
                    let mut options = vec![("mode", mode.as_str()), ("source", "tmpfs")];
                    options.extend(size.as_deref().map(|size| ("size", size)));
                    let attributes =
                        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                    let made = make("tmpfs", &options, attributes)?;
                    let place = self.stubs.dir(target)?;
                    attach(made.as_fd(), place.as_fd()).doing(|| format!("mounting {target}"))?;
                }
                MountKind::Writable => {
                    let place = self.stubs.dir(target)?;
                    let made = clone(place.as_fd(), "").doing(|| format!("cloning {target}"))?;
                    attach(made.as_fd(), place.as_fd()).doing(|| format!("mounting {target}"))?;
                }
                MountKind::Secret { source, mode, uid, gid } => {
                    let Some(SourceFd::File(fd)) = request.sources.get(*source) else {
                        return Err(Fault::Refused(format!("{target} has no secret to show")));
                    };
                    let mut bytes = Vec::new();
                    fds.get(*fd)?
                        .try_clone_to_owned()
                        .map(std::fs::File::from)
                        .and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut bytes))
                        .doing(|| format!("reading the secret for {target}"))?;
                    let name = format!("secret-{index}");
                    self.stage_file(&name, &bytes, *mode, Some(self.owner(*uid, *gid)?))?;
                    self.bind_stage(&name, target, NOTHING_SPECIAL | READ_ONLY)?;
                }
                MountKind::Ssh { mode, uid, gid, .. } => {
                    let name = format!("agent-{index}");
                    let socket = self.listen(&name, *mode, self.owner(*uid, *gid)?)?;
                    self.agents.push(socket);
                    self.bind_stage(&name, target, NOTHING_SPECIAL)?;
                }
            }
        }
        Ok(())
    }

    /// Returns a detached mount of a source, or of `subpath` beneath it.
    fn bind_source(
        &self,
        request: &RunRequest,
        fds: &Descriptors,
        source: usize,
        subpath: &str,
        attached: &mut [bool],
        only_read: bool,
    ) -> Result<OwnedFd, Fault> {
        let Some(&SourceFd::Mount(fd)) = request.sources.get(source) else {
            return Err(Fault::Refused("a bind mount has no source".into()));
        };
        let mount = fds.get(fd)?;
        if only_read && !attached[source] {
            restrict(mount, READ_ONLY).doing(|| "restricting the source of a bind mount")?;
        }
        // Only what is attached in this namespace can be cloned before Linux 6.15; so the source
        // is mounted on the stage, once, and what is shown are clones.
        if !attached[source] {
            let name = format!("source-{source}");
            let stat =
                rustix::fs::fstat(mount).doing(|| "looking at the source of a bind mount")?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                rustix::fs::mkdirat(self.stage, &*name, Mode::from_raw_mode(0o700))
                    .doing(|| "making a place for a source")?;
            } else {
                self.stage_file(&name, b"", 0o600, None)?;
            }
            let place = rustix::fs::openat(
                self.stage,
                &*name,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .doing(|| "opening the place of a source")?;
            attach(mount, place.as_fd()).doing(|| "mounting the source of a bind mount")?;
            attached[source] = true;
        }
        let inner = subpath.trim_matches('/');
        if inner.is_empty() {
            return clone(mount, "").doing(|| "cloning a source");
        }
        let found = open_in_root(mount, inner.as_bytes(), OFlags::PATH | OFlags::CLOEXEC).map_err(
            |error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {
                    Fault::Refused(format!("/{inner}: not found in the source of a bind mount"))
                }
                errno => Fault::Failed {
                    doing: format!("opening {inner} in the source of a bind mount"),
                    errno: errno.unwrap_or(libc::EIO),
                },
            },
        )?;
        clone(found.as_fd(), "").doing(|| format!("cloning {inner} of a source"))
    }

    /// Makes a listening socket on the stage.
    fn listen(&self, name: &str, mode: u32, (uid, gid): (u32, u32)) -> Result<OwnedFd, Fault> {
        let make = || -> std::io::Result<OwnedFd> {
            // A socket's address is a path, at most 108 bytes; relative to the stage it is short.
            rustix::process::fchdir(self.stage)?;
            let listener = std::os::unix::net::UnixListener::bind(name)?;
            as_far_as_known(owner::set(self.stage, name.as_bytes(), uid, gid))?;
            rustix::fs::chmodat(
                self.stage,
                name,
                Mode::from_raw_mode(mode),
                rustix::fs::AtFlags::empty(),
            )?;
            Ok(listener.into())
        };
        make().doing(|| "making an agent's socket")
    }

    /// Translates ids of the sandbox to the ones its files are made with.
    fn owner(&self, uid: u32, gid: u32) -> Result<(u32, u32), Fault> {
        let Some(map) = self.map else { return Ok((uid, gid)) };
        if owner::is_recorded() {
            return Ok((uid, gid));
        }
        match (map.uid(uid), map.gid(gid)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            (None, _) => Err(Fault::Refused(map.lacks(uid, "a mount's owner"))),
            (_, None) => Err(Fault::Refused(map.lacks(gid, "a mount's group"))),
        }
    }
}

/// Says of each source whether all mounts of it are read-only. A descriptor of such a source can write
/// nothing either, whoever should get hold of one.
fn only_read(request: &RunRequest) -> Vec<bool> {
    let mut only_read = vec![true; request.sources.len()];
    for mount in &request.spec.mounts {
        if let MountKind::Bind { source, readonly: false, .. } = mount.kind
            && let Some(source) = only_read.get_mut(source)
        {
            *source = false;
        }
    }
    only_read
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
