//! A filter on what a tap device hands to the process behind it.

#![expect(unsafe_code, reason = "an ioctl that no library wraps")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOW('T', 213, struct sock_fprog)`.
const TUNATTACHFILTER: u64 = 1 << 30 | (size_of::<libc::sock_fprog>() as u64) << 16 | 0x54d5;

/// Attaches a classic BPF program `(code, jt, jf, k)` to a descriptor of `/dev/net/tun` that has a
/// tap device: frames for which it returns 0 are dropped before that descriptor can read them,
/// whatever kind of socket sent them.
///
/// # Errors
///
/// `EBADFD` for a descriptor without a device, `EINVAL` for a program that the kernel refuses.
///
/// Source: the kernel's `drivers/net/tun.c`.
pub fn attach_filter(tap: BorrowedFd<'_>, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: the ioctl reads a `sock_fprog`, and through it `len` instructions; both outlive the
    // call, which copies them.
    let status = unsafe { libc::ioctl(tap.as_raw_fd(), TUNATTACHFILTER as _, &raw const program) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
