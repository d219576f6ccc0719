//! Seccomp user notification: another process decides, and acts, on a call.
//!
//! Source: seccomp_unotify(2).

#![expect(unsafe_code, reason = "a filter with a listener and its ioctls have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const IS_VALID: libc::Ioctl = 0x4008_2102;
const ADD_FD: libc::Ioctl = 0x4018_2103;
const SET_FLAGS: libc::Ioctl = 0x4008_2104;

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// What names it when it is answered.
    pub id: u64,
    /// The thread that made it, as the receiver's pid namespace numbers it.
    pub pid: u32,
    /// `AUDIT_ARCH` number of the architecture it was made by.
    pub arch: u32,
    /// Its number there.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Loads a filter on this thread whose `SECCOMP_RET_USER_NOTIF` calls arrive at the descriptor
/// returned.
///
/// # Errors
///
/// As [`super::process::load_filter`]; `EBUSY` where there is a listener already.
pub fn load_filter_with_listener(program: &[(u16, u8, u8, u32)]) -> io::Result<OwnedFd> {
    let filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // A call that was received runs to its end even when a signal comes: 5.19. Kernels before
    // restart it, which the receiver must take.
    const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    for flags in [listener | WAIT_KILLABLE, listener] {
        // SAFETY: `program` and the instructions it points to outlive the call, which copies them.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        if fd >= 0 {
            // SAFETY: the kernel just made this descriptor, which nothing else owns.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
    }
    Err(io::Error::last_os_error())
}

/// Receives a call, waiting for one.
///
/// # Errors
///
/// `ENOENT` for one that was given up in the meantime, `EINTR`.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Call> {
    // SAFETY: all-zero is a valid notification, and what the kernel asks for.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one notification, whose size its number holds, to a live local.
    let status = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Call {
        id: call.id,
        pid: call.pid,
        arch: call.data.arch,
        number: call.data.nr as u32,
        arguments: call.data.args,
    })
}

/// Says whether a call still waits, so that what was read under its thread's number was that
/// thread's.
pub fn is_waiting(listener: BorrowedFd<'_>, call: &Call) -> bool {
    // SAFETY: the request reads one 64-bit number, which lives through the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID, &raw const call.id) == 0 }
}

/// Response to a call that waits.
#[derive(Debug)]
pub enum Answer {
    /// It returns this.
    Value(i64),
    /// It fails with this error number.
    Error(i32),
    /// The kernel does what it would have done without a filter, with the caller's rights. What the
    /// receiver saw of the caller's memory may have changed by then: no refusal can rest on it.
    Kernel,
    /// It returns a new descriptor of this file, closed on exec or not.
    Descriptor(OwnedFd, bool),
}

/// Answers a call.
///
/// # Errors
///
/// `ENOENT` for one that was given up in the meantime; what stands in the way of a new descriptor.
pub fn answer(listener: BorrowedFd<'_>, call: &Call, answer: &Answer) -> io::Result<()> {
    let response = |val, error, flags| libc::seccomp_notif_resp { id: call.id, val, error, flags };
    let response = match answer {
        Answer::Value(value) => response(*value, 0, 0),
        Answer::Error(errno) => response(0, -errno, 0),
        Answer::Kernel => response(0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Descriptor(file, closes) => match give(listener, call, file, *closes) {
            Err(error) => response(0, -error.raw_os_error().unwrap_or(libc::EIO), 0),
            done => return done,
        },
    };
    // SAFETY: the request reads one response, whose size its number holds.
    let status = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const response) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a descriptor into the caller, and has its call return the number.
fn give(listener: BorrowedFd<'_>, call: &Call, file: &OwnedFd, closes: bool) -> io::Result<()> {
    let addition = libc::seccomp_notif_addfd {
        id: call.id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if closes { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the request reads one addition, whose size its number holds.
    let status = unsafe { libc::ioctl(listener.as_raw_fd(), ADD_FD, &raw const addition) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a descriptor, closed on exec, into the caller, whose call goes on waiting; at a number of the
/// caller's where one is named. Returns the number.
///
/// # Errors
///
/// `ENOENT` for a call that was given up; what stands in the way of a new descriptor.
pub fn add(
    listener: BorrowedFd<'_>,
    call: &Call,
    file: BorrowedFd<'_>,
    at: Option<(u32, bool)>,
) -> io::Result<i32> {
    let (number, closes) = at.map_or((None, true), |(number, closes)| (Some(number), closes));
    let addition = libc::seccomp_notif_addfd {
        id: call.id,
        flags: number.map_or(0, |_| libc::SECCOMP_ADDFD_FLAG_SETFD as u32),
        srcfd: file.as_raw_fd() as u32,
        newfd: number.unwrap_or(0),
        newfd_flags: if closes { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the request reads one addition, whose size its number holds.
    let status = unsafe { libc::ioctl(listener.as_raw_fd(), ADD_FD, &raw const addition) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

/// Lets a caller and the receiver take turns on one processor, which halves what a call costs.
/// Before Linux 6.6 they do not.
pub fn take_turns(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: the request takes a plain number.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
}
