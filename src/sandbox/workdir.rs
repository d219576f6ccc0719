//! The working directory of a command: resolved inside the sandbox's root, made where it is
//! missing.
//!
//! An image, a Dockerfile or a user chose the path. It is resolved without the links of procfs that
//! lead to what a process has open, used by descriptor, and checked afterwards: a directory that
//! cannot be reached from the root by its own name is refused (CVE-2024-21626).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::fault::{Doing, Fault};
use super::users::Identity;
use crate::layer::owner;
use crate::sys::rooted::{open_beneath, open_in_root, resolve_in_root};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Enters the working directory. Missing parts of it are made with mode 0755 and belong to the
/// command's user and group.
///
/// Source: moby/buildkit `executor/runcexecutor`, which makes it so.
pub(super) fn enter(cwd: &str, identity: &Identity) -> Result<(), Fault> {
    let root = rustix::fs::open("/", DIRECTORY, Mode::empty()).doing(|| "opening the root")?;
    let dir = enter_in(root.as_fd(), cwd, identity)?;
    confirm(root.as_fd(), dir.as_fd(), cwd)
}

/// Enters the working directory of a command whose root is this directory, and not the process's.
pub(super) fn enter_in(
    root: BorrowedFd<'_>,
    cwd: &str,
    identity: &Identity,
) -> Result<OwnedFd, Fault> {
    let dir = match open_in_root(root, cwd.as_bytes(), DIRECTORY) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => make(root, cwd, identity)?,
        found => found.map_err(|error| refused(cwd, "entering", &error))?,
    };
    rustix::process::fchdir(&dir).doing(|| format!("entering the working directory {cwd}"))?;
    Ok(dir)
}

fn refused(cwd: &str, doing: &str, error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::ELOOP) => Fault::Refused(format!(
            "the working directory {cwd} is refused: its path has a loop of links, or a link of /proc \
             that could lead out of the sandbox"
        )),
        errno => Fault::Failed {
            doing: format!("{doing} the working directory {cwd}"),
            errno: errno.unwrap_or(libc::EIO),
        },
    }
}

fn make(root: BorrowedFd<'_>, cwd: &str, identity: &Identity) -> Result<OwnedFd, Fault> {
    let resolved =
        resolve_in_root(root, cwd.as_bytes()).map_err(|error| refused(cwd, "resolving", &error))?;
    let parts: Vec<&[u8]> = resolved.path.split(|&b| b == b'/').collect();
    let run = || -> std::io::Result<OwnedFd> {
        let existing = parts.len().saturating_sub(resolved.missing);
        let mut parent = open_beneath(root, &parts[..existing].join(&b'/'), DIRECTORY)?;
        for &name in &parts[existing..] {
            let is_new = match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = open_beneath(parent.as_fd(), name, flags)?;
            if is_new {
                give(&dir, identity)?;
            }
            parent = dir;
        }
        Ok(parent)
    };
    run().map_err(|error| refused(cwd, "making", &error))
}

/// Gives a directory that was just made to the command's user.
fn give(dir: &OwnedFd, identity: &Identity) -> std::io::Result<()> {
    let (uid, gid) = (identity.uid, identity.gid);
    let stat = rustix::fs::fstat(dir)?;
    // Where only one owner is possible, root's is what a new directory has.
    let is_so = if owner::is_recorded() { (0, 0) } else { (stat.st_uid, stat.st_gid) };
    if is_so != (uid, gid) {
        owner::set_open(dir, uid, gid)?;
    }
    Ok(())
}

/// Checks that this process's working directory lies in the sandbox's root: that its own name,
/// followed from the root without any link, leads to the same directory of the same mount.
fn confirm(root: BorrowedFd<'_>, dir: BorrowedFd<'_>, cwd: &str) -> Result<(), Fault> {
    let outside = || {
        Fault::Refused(format!("the working directory {cwd} is refused: it is outside the sandbox"))
    };
    let name = rustix::process::getcwd(Vec::new()).map_err(|_| outside())?.into_bytes();
    let Some(name) = name.strip_prefix(b"/") else { return Err(outside()) };
    let again = open_beneath(root, name, DIRECTORY).map_err(|_| outside())?;
    let identity = |fd: BorrowedFd<'_>| -> std::io::Result<(u64, u64, Option<u64>)> {
        let stat = rustix::fs::fstat(fd)?;
        Ok((stat.st_dev, stat.st_ino, mount_of(fd)))
    };
    match (identity(dir), identity(again.as_fd())) {
        (Ok(one), Ok(other)) if one == other => Ok(()),
        _ => Err(outside()),
    }
}

/// Returns the number of the mount that a file was opened by; `None` before Linux 5.8.
fn mount_of(file: BorrowedFd<'_>) -> Option<u64> {
    let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}
