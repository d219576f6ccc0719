//! The program that spawner and inits run as: one that nothing in a sandbox can write.
//!
//! A process of a sandbox finds the program of its init, and for a moment of itself, at
//! `/proc/PID/exe`. Opened for writing there, the builder on the host would be replaced
//! (CVE-2019-5736); only the kernel's "text file busy" stood before that. So it is executed from a
//! mount of its own that is read-only and attached nowhere, or, where there can be none, from a
//! sealed copy in memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, fstatvfs};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::sys::mount::{MountAttributes, mount_setattr};

/// A program, open; it can be executed as long as this value lives.
pub(super) struct Sealed(OwnedFd);

impl Sealed {
    /// Path by which this process, and a child of it up to its exec, finds the program.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Opens a program so that a process that reaches it through `/proc` can read it, and not write it.
///
/// # Errors
///
/// When it cannot be read, or there is no memory for a copy.
pub(super) fn sealed(program: &Path) -> io::Result<Sealed> {
    read_only_mount(program).or_else(|_| copy_in_memory(program)).map(Sealed)
}

/// Clones the one file's mount, detached. What has no place cannot be mounted anew with other
/// options.
fn read_only_mount(program: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    read_only(open_tree(CWD, program, flags)?)
}

/// The same of a program that is open.
///
/// # Errors
///
/// When its mount cannot be cloned, or lets no program be executed.
pub(super) fn read_only_mount_of(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if fstatvfs(program)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    read_only(open_tree(program, "", flags)?)
}

fn read_only(mount: OwnedFd) -> io::Result<OwnedFd> {
    let set = Some(MountAttrFlags::MOUNT_ATTR_RDONLY);
    mount_setattr(mount.as_fd(), &MountAttributes { set, ..MountAttributes::default() })?;
    Ok(mount)
}

fn copy_in_memory(program: &Path) -> io::Result<OwnedFd> {
    in_memory("builder", &mut File::open(program)?)
}

/// Copies a program to memory, where nothing can write it any more.
///
/// # Errors
///
/// When it cannot be read, there is no memory for it, or this machine allows no programs in memory.
pub(super) fn in_memory(name: &str, program: &mut dyn io::Read) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels from 6.3 on may want it said that it is to be executed; those before do not know the
    // word.
    let memory = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(name, flags))?;
    let mut copy = File::from(memory);
    io::copy(program, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // One that is open for writing cannot be executed.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_copy_in_memory_runs_and_cannot_be_written() {
        let sealed = Sealed(copy_in_memory(Path::new("/bin/sh")).unwrap());
        let output = Command::new(sealed.path()).args(["-c", "echo ran"]).output().unwrap();
        assert_eq!(output.stdout, b"ran\n");
        let opened = File::options().write(true).open(sealed.path()).unwrap();
        let error = rustix::io::write(&opened, b"x").unwrap_err();
        assert_eq!(error, rustix::io::Errno::PERM);
    }
}
