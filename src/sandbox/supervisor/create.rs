//! Creation of device nodes, and of files whose owner is not root or comes from a set-group-id
//! directory.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

use super::super::caps::MKNOD;
use super::credentials::Identity;
use super::ownership::link;
use super::target::{Name, Target};
use crate::layer::owner;
use crate::sys::notify::Answer;

/// What a caller wants to make.
#[derive(Debug, Clone, Copy)]
pub(super) enum NewNode {
    File { flags: i32, mode: u32 },
    Directory { mode: u32 },
    Link { text: u64 },
    Node { mode: u32, device: u64 },
}

/// Which of a call's flags go into the opening of a new file.
const FLAGS: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::NOATIME)
    .union(OFlags::DIRECT);

/// Makes a device node in the caller's place, on one of the file systems `own`.
///
/// A volume's file system is another one. It may be mounted on the host without `nodev`, where a
/// node could be opened.
///
/// # Errors
///
/// `EPERM` on any other file system, as the kernel answers a process that may not make devices.
pub(super) fn make_device(
    target: Target<'_>,
    name: Name,
    mode: u32,
    device: u64,
    own: &[u64],
) -> Result<Answer, Errno> {
    if target.capabilities()? & MKNOD == 0 {
        return Err(Errno::PERM);
    }
    let place = target.place(name)?;
    rustix::process::umask(Mode::from_raw_mode(target.status()?.umask));
    let _acting = target.act()?;
    let (parent, name) = place.parent()?;
    if !own.contains(&rustix::fs::fstat(&parent)?.st_dev) {
        return Err(Errno::PERM);
    }
    make_node(&parent, name, mode, device)?;
    Ok(Answer::Value(0))
}

/// Makes what will not be root's, and writes down whose it is; leaves all else to the kernel.
///
/// # Errors
///
/// Any, for the kernel to find again.
pub(super) fn create(
    target: Target<'_>,
    identity: &Identity,
    name: Name,
    node: NewNode,
) -> Result<Answer, Errno> {
    let mut place = target.place(name)?;
    if matches!(node, NewNode::Directory { .. }) {
        place.trim();
    }
    let acting = target.act()?;
    let (parent, name) = place.parent()?;
    let passes_group = rustix::fs::fstat(&parent)?.st_mode & libc::S_ISGID != 0;
    let group = if passes_group {
        owner::read(&link(&parent), FileType::Directory).map_or(0, |(_, gid)| gid)
    } else {
        identity.group.file
    };
    let owner = (identity.user.file, group);
    if owner == (0, 0) {
        return Ok(Answer::Kernel);
    }
    rustix::process::umask(Mode::from_raw_mode(target.status()?.umask));
    let made = make(target, &parent, name, node)?;
    drop(acting);
    let file = match &made {
        Answer::Descriptor(file, _) => file,
        _ => &open(&parent, name)?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    owner::write(&link(file), kind, owner).ok();
    Ok(made)
}

fn make(target: Target<'_>, parent: &OwnedFd, name: &[u8], node: NewNode) -> Result<Answer, Errno> {
    match node {
        NewNode::File { flags, mode } => {
            // One that is there already is the kernel's to open.
            let how = OFlags::from_bits_retain(flags as u32) & FLAGS
                | OFlags::CREATE
                | OFlags::EXCL
                | OFlags::CLOEXEC;
            let file = rustix::fs::openat(parent, name, how, Mode::from_raw_mode(mode & 0o7777))?;
            return Ok(Answer::Descriptor(file, flags & libc::O_CLOEXEC != 0));
        }
        NewNode::Directory { mode } => {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode & 0o7777))?;
        }
        NewNode::Link { text } => {
            rustix::fs::symlinkat(target.text(text)?.as_slice(), parent, name)?;
        }
        NewNode::Node { mode, device } => make_node(parent, name, mode, device)?,
    }
    Ok(Answer::Value(0))
}

fn make_node(parent: &OwnedFd, name: &[u8], mode: u32, device: u64) -> Result<(), Errno> {
    let (kind, mode) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode & 0o7777));
    rustix::fs::mknodat(parent, name, kind, mode, device)
}

/// Opens what was made just now; should it be something else by now, that is in the same directory.
fn open(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}
