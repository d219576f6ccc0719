//! Owners of files: recorded when the target changes them, returned when it asks for them.

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use super::super::caps::CHOWN;
use super::credentials::Identity;
use super::target::{Name, Target};
use crate::layer::owner;
use crate::sys::notify::Answer;
use crate::sys::stat::{stat_bytes, statx_bytes};

/// What a call about a file fills in.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum StatFormat {
    /// `struct stat` of 64-bit programs.
    Plain,
    /// `struct stat64` of 32-bit ones, by the places of what differs between architectures.
    Narrow,
    /// `struct statx`.
    Extended { flags: i32, mask: u32 },
}

/// Returns the recorded owner of a file; for files of root the kernel answers.
pub(super) fn look(
    target: Target<'_>,
    name: Name,
    form: StatFormat,
    buffer: u64,
) -> Result<Answer, Errno> {
    let place = target.place(name)?;
    let acting = target.act()?;
    let file = place.file()?;
    let stat = rustix::fs::fstat(&file)?;
    let Some(owner) = owner::read(&link(&file), kind(&stat)) else { return Ok(Answer::Kernel) };
    drop(acting);
    let bytes = match form {
        StatFormat::Plain => stat_bytes(file.as_fd(), owner, None)?,
        StatFormat::Narrow => narrow(&stat, owner),
        StatFormat::Extended { flags, mask } => {
            statx_bytes(file.as_fd(), flags, mask, owner, None)?
        }
    };
    target.write(&bytes, buffer)?;
    Ok(Answer::Value(0))
}

/// Writes down an owner; -1 leaves one of the two as it is.
pub(super) fn give(
    target: Target<'_>,
    identity: &Identity,
    name: Name,
    (uid, gid): (u32, u32),
) -> Result<Answer, Errno> {
    let place = target.place(name)?;
    let acting = target.act()?;
    let file = place.file()?;
    let kind = kind(&rustix::fs::fstat(&file)?);
    let before = owner::read(&link(&file), kind).unwrap_or((0, 0));
    let or = |id: u32, old: u32| if id == u32::MAX { old } else { id };
    let after = (or(uid, before.0), or(gid, before.1));
    let may_all = identity.user.file == 0 && target.capabilities()? & CHOWN != 0;
    if !may_all && !identity.may_give(before, after) {
        return Err(Errno::PERM);
    }
    // The kernel's part: read-only mounts, permissions, and setuid bits that a change clears.
    let (root, group) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::fs::chownat(&file, "", Some(root), Some(group), AtFlags::EMPTY_PATH)?;
    drop(acting);
    owner::write(&link(&file), kind, after)?;
    Ok(Answer::Value(0))
}

/// Names an open file, for calls about attributes, in `/proc`, where this thread stands.
pub(super) fn link(file: &OwnedFd) -> String {
    format!("self/fd/{}", file.as_raw_fd())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Lays a `struct stat64` out.
pub(in super::super) fn narrow(stat: &Stat, (uid, gid): (u32, u32)) -> Vec<u8> {
    // i386 aligns 64-bit numbers to 4 bytes, ARM to 8.
    let [size, block, blocks, times, inode, length] = if cfg!(target_arch = "aarch64") {
        [48, 56, 64, 72, 96, 104]
    } else {
        [44, 52, 56, 64, 88, 96]
    };
    let mut bytes = vec![0; length];
    let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
    put(0, &stat.st_dev.to_ne_bytes());
    put(12, &(stat.st_ino as u32).to_ne_bytes());
    put(16, &stat.st_mode.to_ne_bytes());
    put(20, &(stat.st_nlink as u32).to_ne_bytes());
    put(24, &uid.to_ne_bytes());
    put(28, &gid.to_ne_bytes());
    put(32, &stat.st_rdev.to_ne_bytes());
    put(size, &(stat.st_size as u64).to_ne_bytes());
    put(block, &(stat.st_blksize as u32).to_ne_bytes());
    put(blocks, &(stat.st_blocks as u64).to_ne_bytes());
    let seconds = [stat.st_atime as u32, stat.st_mtime as u32, stat.st_ctime as u32];
    let rest = [stat.st_atime_nsec as u32, stat.st_mtime_nsec as u32, stat.st_ctime_nsec as u32];
    for (index, (seconds, rest)) in seconds.into_iter().zip(rest).enumerate() {
        put(times + 8 * index, &seconds.to_ne_bytes());
        put(times + 8 * index + 4, &rest.to_ne_bytes());
    }
    put(inode, &stat.st_ino.to_ne_bytes());
    bytes
}
