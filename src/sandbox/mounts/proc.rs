//! What of `/proc` and `/sys` a command may not see or change.
//!
//! Source: moby `oci/defaults.go`, `DefaultLinuxSpec`: masked and read-only paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags};
use rustix::mount::MountAttrFlags;

use super::super::fault::{Doing, Fault};
use super::{Building, EMPTY, READ_ONLY, attach, clone, restrict};
use crate::sys::rooted::open_beneath;

/// Paths in `/proc` shown as an empty directory, or as the null device.
const MASKED_PROC: [&str; 10] = [
    "asound",
    "acpi",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "scsi",
];

/// The same in `/sys`.
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Paths in `/proc` that are read-only.
const FROZEN_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

impl Building<'_> {
    /// Hides and freezes those of the paths that this kernel has, beneath the mounts themselves.
    pub(super) fn mask(&self, proc: BorrowedFd<'_>, sys: BorrowedFd<'_>) -> Result<(), Fault> {
        for path in FROZEN_PROC {
            let Some(place) = kernel_path(proc, path)? else { continue };
            let mount = clone(place.as_fd(), "").doing(|| format!("cloning /proc/{path}"))?;
            restrict(mount.as_fd(), READ_ONLY).doing(|| format!("freezing /proc/{path}"))?;
            attach(mount.as_fd(), place.as_fd()).doing(|| format!("mounting /proc/{path}"))?;
        }
        let masked = MASKED_PROC.iter().map(|path| (proc, path));
        for (top, path) in masked.chain(MASKED_SYS.iter().map(|path| (sys, path))) {
            let Some(place) = kernel_path(top, path)? else { continue };
            let stat = rustix::fs::fstat(&place).doing(|| format!("looking at {path}"))?;
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            let mount = clone(self.stage, if is_dir { EMPTY } else { "null" })
                .doing(|| format!("making a mask for {path}"))?;
            let attributes =
                if is_dir { READ_ONLY | MountAttrFlags::MOUNT_ATTR_NODEV } else { READ_ONLY };
            restrict(mount.as_fd(), attributes).doing(|| format!("making a mask for {path}"))?;
            attach(mount.as_fd(), place.as_fd()).doing(|| format!("masking {path}"))?;
        }
        Ok(())
    }
}

/// Opens a path of the kernel's beneath one of our mounts; `None` where this kernel lacks it.
///
/// # Errors
///
/// Any other reason: a path that is there and cannot be hidden must not be left as it is.
fn kernel_path(top: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Fault> {
    match open_beneath(top, path.as_bytes(), OFlags::PATH | OFlags::CLOEXEC) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        opened => opened.map(Some).doing(|| format!("opening {path} to restrict it")),
    }
}

/// Lets every user of a network namespace of our own bind low ports and ping, as Docker does.
/// Nothing depends on it, so failures are passed over.
pub(super) fn own_network(proc: BorrowedFd<'_>) {
    for (path, text) in [
        ("sys/net/ipv4/ip_unprivileged_port_start", "0"),
        ("sys/net/ipv4/ping_group_range", "0 2147483647"),
    ] {
        if let Ok(file) = open_beneath(proc, path.as_bytes(), OFlags::WRONLY | OFlags::CLOEXEC) {
            rustix::io::write(file, text.as_bytes()).ok();
        }
    }
}
