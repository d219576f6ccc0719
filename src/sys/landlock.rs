//! Landlock: a process gives up access to files, and to processes, for good.
//!
//! Source: landlock(7), `linux/landlock.h`.

#![expect(unsafe_code, reason = "the three calls have no wrapper")]

use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

const CREATE_RULESET: libc::c_long = 444;
const ADD_RULE: libc::c_long = 445;
const RESTRICT_SELF: libc::c_long = 446;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;

/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: u32 = 1;

/// Sending signals, and connecting to abstract sockets, across the border of the domain.
const SCOPES: u64 = 0b11;

/// From this version on the border holds for signals and abstract sockets too (Linux 6.12).
pub const SCOPED_FROM: u32 = 6;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// Returns the version of Landlock in this kernel; `None` without it.
pub fn version() -> Option<u32> {
    // SAFETY: with this flag the kernel takes a null pointer of length 0 and makes nothing.
    let version =
        unsafe { libc::syscall(CREATE_RULESET, std::ptr::null::<RulesetAttr>(), 0_usize, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// All that a version can refuse about files.
fn all_access(version: u32) -> u64 {
    let bits = match version {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << bits) - 1
}

/// A domain in the making: nothing is allowed in it but what is added.
#[derive(Debug)]
pub struct Domain {
    ruleset: OwnedFd,
    access: u64,
}

impl Domain {
    /// Makes one that has all borders which this version of Landlock knows.
    ///
    /// # Errors
    ///
    /// What `landlock_create_ruleset(2)` says.
    pub fn new(version: u32) -> io::Result<Self> {
        let access = all_access(version);
        let scoped = if version >= SCOPED_FROM { SCOPES } else { 0 };
        let attr = RulesetAttr { handled_access_fs: access, handled_access_net: 0, scoped };
        // Older kernels know only the first fields.
        let size = match version {
            1..=3 => 8,
            4 | 5 => 16,
            _ => size_of::<RulesetAttr>(),
        };
        // SAFETY: `attr` lives through the call, which reads `size` bytes of it.
        let fd = unsafe { libc::syscall(CREATE_RULESET, &raw const attr, size, 0_u32) };
        let fd =
            i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel just made it, closed on exec, and nothing else owns it.
        Ok(Self { ruleset: unsafe { OwnedFd::from_raw_fd(fd) }, access })
    }

    /// Returns its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.ruleset)
    }

    /// Allows everything in a directory and below.
    ///
    /// # Errors
    ///
    /// What `landlock_add_rule(2)` says.
    pub fn allow(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let attr =
            PathBeneathAttr { allowed_access: self.access, parent_fd: directory.as_raw_fd() };
        // SAFETY: both descriptors are open, and `attr` lives through the call, which reads it.
        let status = unsafe {
            libc::syscall(ADD_RULE, self.ruleset.as_raw_fd(), PATH_BENEATH, &raw const attr, 0_u32)
        };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Puts this thread, and all processes that it starts, into the domain. It must have given up
    /// gaining privileges.
    ///
    /// # Errors
    ///
    /// What `landlock_restrict_self(2)` says.
    pub fn enter(&self) -> Result<(), Errno> {
        // SAFETY: an open descriptor and a number.
        let status = unsafe { libc::syscall(RESTRICT_SELF, self.ruleset.as_raw_fd(), 0_u32) };
        match status {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }
}
