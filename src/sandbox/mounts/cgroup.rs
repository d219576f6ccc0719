//! `/sys/fs/cgroup`: programs size themselves by the limits they read there.
//!
//! Each hierarchy is mounted anew in the sandbox's own control group namespace, read-only, so a
//! command sees its own group as the top and none beside it. Without the files a program takes the
//! whole machine for its own; a step goes on where a kernel or a container around us refuses.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::super::fault::{Doing, Fault};
use super::super::protocol::RunRequest;
use super::{Building, attach, make};
use crate::sys::rooted::open_beneath;

impl Building<'_> {
    /// Mounts what the machine has: version 2, or those hierarchies of version 1 that limit
    /// something.
    pub(super) fn cgroup(
        request: &RunRequest,
        sys: BorrowedFd<'_>,
        attributes: MountAttrFlags,
    ) -> Result<(), Fault> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(place) = open_beneath(sys, b"fs/cgroup", flags) else { return Ok(()) };
        if request.cgroup2_only {
            if let Ok(mount) = make("cgroup2", &[], attributes) {
                attach(mount.as_fd(), place.as_fd()).doing(|| "mounting /sys/fs/cgroup")?;
            }
            return Ok(());
        }
        if request.cgroup1_shown.is_empty() {
            return Ok(());
        }
        let options = [("mode", "0755"), ("size", "64k"), ("source", "tmpfs")];
        let Ok(top) = make("tmpfs", &options, MountAttrFlags::empty()) else { return Ok(()) };
        // First: before Linux 6.15 nothing can be mounted on what has no place itself.
        attach(top.as_fd(), place.as_fd()).doing(|| "mounting /sys/fs/cgroup")?;
        for names in &request.cgroup1_shown {
            let Ok(mount) = hierarchy(names, attributes) else { continue };
            let made = || -> rustix::io::Result<()> {
                rustix::fs::mkdirat(&top, names.as_str(), Mode::from_raw_mode(0o755))?;
                let place = rustix::fs::openat(&top, names.as_str(), flags, Mode::empty())?;
                attach(mount.as_fd(), place.as_fd())?;
                // Controllers that share a hierarchy are found by their own names too.
                for name in names.split(',').filter(|name| name != names) {
                    rustix::fs::symlinkat(names.as_str(), &top, name)?;
                }
                Ok(())
            };
            made().doing(|| format!("mounting /sys/fs/cgroup/{names}"))?;
        }
        super::restrict(top.as_fd(), attributes).doing(|| "restricting /sys/fs/cgroup")
    }
}

/// Makes a mount of a version 1 hierarchy, named by its controllers.
fn hierarchy(names: &str, attributes: MountAttrFlags) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let fs = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for name in names.split(',') {
        match name.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&fs, key, value)?,
            None => fsconfig_set_flag(&fs, name)?,
        }
    }
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
