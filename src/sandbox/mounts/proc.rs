//! What of `/proc` and `/sys` a command may not see or change.
//!
//! Source: moby `oci/defaults.go`, `DefaultLinuxSpec`: masked and read-only paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::super::fault::{Doing, Fault};
use super::{Building, READ_ONLY, attach, clone, restrict};
use crate::sys::rooted::open_beneath;

/// Shown as an empty folder, or as the null device.
const MASKED: [&str; 12] = [
    "proc/asound",
    "proc/acpi",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
];

const FROZEN: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

impl Building<'_> {
    /// Hides and freezes those of the paths that this kernel has.
    ///
    /// Each is looked for beneath the mount's own descriptor, so nothing that an image holds has a say in
    /// where it is.
    pub(super) fn mask(
        &mut self,
        proc: BorrowedFd<'_>,
        sys: Option<BorrowedFd<'_>>,
    ) -> Result<(), Fault> {
        let kernel_path = |path: &'static str| -> Result<Option<OwnedFd>, Fault> {
            let (mount, below) = match path.split_once('/') {
                Some(("proc", below)) => (Some(proc), below),
                Some(("sys", below)) => (sys, below),
                _ => (None, path),
            };
            let Some(mount) = mount else { return Ok(None) };
            match open_beneath(mount, below.as_bytes(), OFlags::PATH | OFlags::CLOEXEC) {
                // This kernel lacks it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                found => found.map(Some).doing(|| format!("opening /{path}")),
            }
        };
        rustix::fs::mkdirat(self.stage, "empty", Mode::from_raw_mode(0o555))
            .doing(|| "making an empty folder")?;
        for path in FROZEN {
            let Some(place) = kernel_path(path)? else { continue };
            let mount = clone(place.as_fd(), "").doing(|| format!("cloning /{path}"))?;
            restrict(mount.as_fd(), READ_ONLY).doing(|| format!("freezing /{path}"))?;
            attach(mount.as_fd(), place.as_fd()).doing(|| format!("mounting /{path}"))?;
        }
        for path in MASKED {
            let Some(place) = kernel_path(path)? else { continue };
            let stat = rustix::fs::fstat(&place).doing(|| format!("looking at /{path}"))?;
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            let mount = clone(self.stage, if is_dir { "empty" } else { "null" })
                .doing(|| format!("making a mask for /{path}"))?;
            let attributes =
                if is_dir { READ_ONLY | MountAttrFlags::MOUNT_ATTR_NODEV } else { READ_ONLY };
            restrict(mount.as_fd(), attributes).doing(|| format!("making a mask for /{path}"))?;
            attach(mount.as_fd(), place.as_fd()).doing(|| format!("masking /{path}"))?;
        }
        Ok(())
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
