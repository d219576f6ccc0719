//! `mount_setattr(2)`, which rustix lacks: read-only and id-mapped mounts.

#![expect(unsafe_code, reason = "a system call that no library wraps")]

use rustix::mount::MountAttrFlags;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What [`mount_setattr`] changes on a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes<'a> {
    /// Attributes to switch on, besides the id mapping.
    pub set: Option<MountAttrFlags>,
    /// A user namespace whose mapping the mount takes. Only a mount that was never attached can
    /// take one, and only once.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Whether the mounts below it change too.
    pub is_recursive: bool,
}

/// Changes the attributes of the mount that `mount` is a descriptor of.
///
/// # Errors
///
/// The kernel's: `ENOSYS` before 5.12, `EINVAL` where the filesystem cannot be id-mapped.
///
/// Source: mount_setattr(2).
pub fn mount_setattr(mount: BorrowedFd<'_>, change: &MountAttributes<'_>) -> io::Result<()> {
    let mut set = u64::from(change.set.map_or(0, |flags| flags.bits()));
    if change.idmap.is_some() {
        set |= libc::MOUNT_ATTR_IDMAP;
    }
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: change.idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is a NUL-terminated constant, `attr` outlives the call and its size is the
    // one passed; the kernel only reads both. The descriptors are borrowed, hence open.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | if change.is_recursive { libc::AT_RECURSIVE } else { 0 },
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes `mount`, and all mounts below it, out of every propagation group: what is mounted beneath
/// it later appears nowhere else.
///
/// # Errors
///
/// The kernel's, as for [`mount_setattr`].
pub fn make_private(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attr =
        libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: as in `mount_setattr`: a constant path, and a structure of the size passed, only
    // read.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
