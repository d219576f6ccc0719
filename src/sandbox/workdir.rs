//! The working directory of a command: resolved inside the sandbox, made where it is missing.
//!
//! The path comes from a Dockerfile, an image's configuration or a flag. A path such as `/proc/self/fd/7` once
//! put commands outside of their sandbox (CVE-2024-21626), so three things hold, each of which is enough: the init
//! has nothing open that a path could lead to; no magic link of a procfs is followed; and the place that was
//! entered must be the one that the kernel names below the root.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::fault::{Doing, Fault};
use super::users::Identity;
use crate::layer::owner;
use crate::sys::rooted::{open_beneath, open_in_root, resolve_in_root};

const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Enters the working directory. What is missing of it is made, mode 0755, owned by the command's user and
/// group.
///
/// # Errors
///
/// [`Fault::Failed`] where it cannot be opened or made; [`Fault::Refused`] where it lies outside.
///
/// Source: moby/buildkit `executor/runcexecutor`, for the owner.
pub(super) fn enter(cwd: &str, user: &Identity) -> Result<(), Fault> {
    let doing = || format!("entering the working directory {cwd}");
    let root = rustix::fs::open("/", DIR, Mode::empty()).doing(|| "opening the root")?;
    let dir = match open_in_root(root.as_fd(), cwd.as_bytes(), DIR) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            make(root.as_fd(), cwd.as_bytes(), user)
                .doing(|| format!("making the working directory {cwd}"))?
        }
        found => found.doing(doing)?,
    };
    rustix::process::fchdir(&dir).doing(doing)?;
    if is_inside(root.as_fd()).doing(doing)? {
        Ok(())
    } else {
        Err(Fault::Refused(format!("the working directory {cwd} lies outside of the sandbox")))
    }
}

/// Makes the parts of a path that are missing.
fn make(root: BorrowedFd<'_>, path: &[u8], user: &Identity) -> std::io::Result<OwnedFd> {
    let resolved = resolve_in_root(root, path)?;
    let parts: Vec<&[u8]> = resolved.path.split(|&byte| byte == b'/').collect();
    let existing = parts.len().saturating_sub(resolved.missing);
    let mut parent = open_beneath(root, &parts[..existing].join(&b'/'), DIR)?;
    for name in &parts[existing..] {
        match rustix::fs::mkdirat(&parent, *name, Mode::from_raw_mode(0o755)) {
            Ok(()) => owner::set(parent.as_fd(), name, user.uid, user.gid)?,
            // Another step made it in a mount that both have.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        parent = open_beneath(parent.as_fd(), name, DIR)?;
    }
    Ok(parent)
}

/// Says whether the current directory is what its name below the root leads to, on the same mount.
fn is_inside(root: BorrowedFd<'_>) -> std::io::Result<bool> {
    let name = match rustix::process::getcwd(Vec::new()) {
        Ok(name) => name.into_bytes(),
        // It has no name, or one that does not begin at the root.
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // The kernel writes "(unreachable)" in front of a place that is not below the root.
    if !name.starts_with(b"/") {
        return Ok(false);
    }
    let named = open_in_root(root, &name, DIR)?;
    let identity = |dir: BorrowedFd<'_>, path: &str, flags: AtFlags| -> std::io::Result<_> {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(dir, path, flags, wanted)?;
        let mount = (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id);
        Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, mount))
    };
    Ok(identity(CWD, ".", AtFlags::empty())? == identity(named.as_fd(), "", AtFlags::EMPTY_PATH)?)
}
