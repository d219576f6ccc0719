//! What calls about files write, as bytes, for another process.

#![expect(unsafe_code, reason = "no library leaves the kernel's own bytes as they are")]

use rustix::io::Errno;
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const FLAGS: i32 = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;

/// Returns the `struct stat` of a file, as native programs get it, with another owner, and
/// another mode where one is given.
///
/// # Errors
///
/// What fstatat(2) says.
pub fn stat_bytes(
    file: BorrowedFd<'_>,
    owner: (u32, u32),
    mode: Option<u32>,
) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; size_of::<libc::stat>()];
    let (number, path) = (file.as_raw_fd(), c"".as_ptr());
    // SAFETY: the kernel writes one `struct stat`, whose size the buffer has; libc's is the
    // kernel's on the architectures that we run on, which the test below shows.
    let status =
        unsafe { libc::syscall(libc::SYS_newfstatat, number, path, bytes.as_mut_ptr(), FLAGS) };
    let places = [offset_of!(libc::stat, st_uid), offset_of!(libc::stat, st_gid)];
    let mode = mode.map(|mode| (offset_of!(libc::stat, st_mode), mode.to_ne_bytes().to_vec()));
    finish(status, bytes, places, owner, mode)
}

/// Returns the `struct statx` of a file, the same for all programs, with another owner. Of `flags`
/// only those count that say how fresh it has to be.
///
/// # Errors
///
/// What statx(2) says.
pub fn statx_bytes(
    file: BorrowedFd<'_>,
    flags: i32,
    mask: u32,
    owner: (u32, u32),
    mode: Option<u32>,
) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; size_of::<libc::statx>()];
    let (number, path) = (file.as_raw_fd(), c"".as_ptr());
    let flags = FLAGS | flags & (libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC);
    // SAFETY: the kernel writes one `struct statx`, 256 bytes everywhere, as the buffer has.
    let status =
        unsafe { libc::syscall(libc::SYS_statx, number, path, flags, mask, bytes.as_mut_ptr()) };
    let places = [offset_of!(libc::statx, stx_uid), offset_of!(libc::statx, stx_gid)];
    let mode =
        mode.map(|mode| (offset_of!(libc::statx, stx_mode), (mode as u16).to_ne_bytes().to_vec()));
    finish(status, bytes, places, owner, mode)
}

fn checked(status: libc::c_long) -> Result<(), Errno> {
    if status < 0 {
        let number = std::io::Error::last_os_error().raw_os_error();
        return Err(Errno::from_raw_os_error(number.unwrap_or(libc::EIO)));
    }
    Ok(())
}

/// Returns the `struct statfs` of the file system of a file, as native programs get it; that of a
/// mount that can only be read where `is_read_only` says so.
///
/// # Errors
///
/// What fstatfs(2) says.
pub fn statfs_bytes(file: BorrowedFd<'_>, is_read_only: bool) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; size_of::<libc::statfs>()];
    // SAFETY: the kernel writes one `struct statfs`, whose size the buffer has.
    let status = unsafe { libc::syscall(libc::SYS_fstatfs, file.as_raw_fd(), bytes.as_mut_ptr()) };
    checked(status)?;
    if is_read_only {
        // The flags come behind the size of fragments, each as wide as a word.
        let place = offset_of!(libc::statfs, f_frsize) + size_of::<usize>();
        let place =
            if cfg!(target_endian = "big") { place + size_of::<usize>() - 1 } else { place };
        bytes[place] |= libc::ST_RDONLY as u8;
    }
    Ok(bytes)
}

fn finish(
    status: libc::c_long,
    mut bytes: Vec<u8>,
    places: [usize; 2],
    (uid, gid): (u32, u32),
    mode: Option<(usize, Vec<u8>)>,
) -> Result<Vec<u8>, Errno> {
    checked(status)?;
    if let Some((place, mode)) = mode {
        bytes[place..place + mode.len()].copy_from_slice(&mode);
    }
    for (place, id) in places.into_iter().zip([uid, gid]) {
        bytes[place..place + 4].copy_from_slice(&id.to_ne_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn bytes_are_those_of_the_file_but_for_its_owner() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let metadata = file.metadata().unwrap();
        let word =
            |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let half =
            |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let plain = stat_bytes(file.as_fd(), (5, 6), None).unwrap();
        assert_eq!(word(&plain, offset_of!(libc::stat, st_ino)), metadata.ino());
        assert_eq!(word(&plain, offset_of!(libc::stat, st_size)), metadata.size());
        assert_eq!(half(&plain, offset_of!(libc::stat, st_mode)), metadata.mode());
        assert_eq!(half(&plain, offset_of!(libc::stat, st_uid)), 5);
        assert_eq!(half(&plain, offset_of!(libc::stat, st_gid)), 6);
        let extended =
            statx_bytes(file.as_fd(), 0, libc::STATX_BASIC_STATS, (5, 6), Some(0o100_641)).unwrap();
        assert_eq!(extended.len(), 256);
        assert_eq!(word(&extended, offset_of!(libc::statx, stx_ino)), metadata.ino());
        assert_eq!(half(&extended, offset_of!(libc::statx, stx_uid)), 5);
        assert_eq!(half(&extended, offset_of!(libc::statx, stx_gid)), 6);
        let mode = offset_of!(libc::statx, stx_mode);
        assert_eq!(extended[mode..mode + 2], 0o100_641_u16.to_ne_bytes());
    }
}
