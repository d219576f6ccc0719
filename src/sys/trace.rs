//! ptrace(2), for the moments in which a call of another process has to become another call.
//!
//! A thread whose call waits for the answer of a seccomp listener is seized, interrupted, and
//! answered that its call is to be restarted: so it stops right after the call, before any signal.
//! There its registers are changed, and it is let go. In between no process is traced.
//!
//! Source: ptrace(2); the kernel's `kernel/entry`, `arch/*/kernel/signal.c`.

#![expect(unsafe_code, reason = "the library has no call that stops a thread")]

use super::notify::{self, Answer, Call};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;

/// What the kernel returns inside for a call that it makes again in any case.
const RESTART: i32 = 513;

const SEIZE: u32 = 0x4206;
const INTERRUPT: u32 = 0x4207;
const GET_REGISTERS: u32 = 0x4204;
const SET_REGISTERS: u32 = 0x4205;
const GET_MASK: u32 = 0x420a;
const SET_MASK: u32 = 0x420b;
const CALL: u32 = 24;
const DETACH: u32 = 17;

/// General registers, `NT_PRSTATUS`.
const GENERAL: usize = 1;

/// The number of the call in progress, `NT_ARM_SYSTEM_CALL`.
#[cfg(target_arch = "aarch64")]
const IN_PROGRESS: usize = 0x404;

/// Stops at calls are marked.
const MARK_CALLS: usize = 1;

#[cfg(target_arch = "x86_64")]
type Registers = libc::user_regs_struct;
#[cfg(target_arch = "aarch64")]
type Registers = libc::user_regs_struct;

/// Why a call could not be changed.
#[derive(Debug)]
pub enum Failure {
    /// The thread may not be traced: its call still waits for an answer.
    Refused(Errno),
    /// It has ended with this status; if it was a child, it has been waited for.
    Ended(i32),
    /// Its call has been given up, or it is no longer to be found.
    Gone,
}

/// A thread that stands still right after its call. Dropping it lets it go, with the call to be made
/// again.
#[derive(Debug)]
pub struct Stopped {
    thread: i32,
    before: Registers,
}

fn request(request: u32, thread: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the callers pass addresses of live locals of the sizes that their requests ask for, or
    // plain numbers.
    let status = unsafe { libc::syscall(libc::SYS_ptrace, request, thread, address, data) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until a seized thread stands still.
fn wait(thread: i32) -> Result<i32, Failure> {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a live local.
        let pid = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        if pid == thread && libc::WIFSTOPPED(status) {
            return Ok(status);
        }
        if pid == thread {
            let ended = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            return Err(Failure::Ended(ended));
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return Err(Failure::Gone);
        }
    }
}

impl Stopped {
    /// Stops the thread whose call this is. Unless it is refused, the call is answered by that.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn at(listener: BorrowedFd<'_>, call: &Call) -> Result<Self, Failure> {
        let thread = call.pid as i32;
        let refused = |error: io::Error| {
            Failure::Refused(Errno::from_io_error(&error).unwrap_or(Errno::PERM))
        };
        request(SEIZE, thread, 0, MARK_CALLS).map_err(refused)?;
        // A call that waits now has waited all the time: the thread seized is the one that made it,
        // and not a later one of its number.
        let is_callers = notify::is_waiting(listener, call);
        request(INTERRUPT, thread, 0, 0).map_err(|_| Failure::Gone)?;
        let restart = Answer::Error(RESTART);
        let is_restarted = is_callers && notify::answer(listener, call, &restart).is_ok();
        wait(thread)?;
        match registers(thread) {
            Ok(before) if is_restarted => Ok(Self { thread, before }),
            _ => {
                request(DETACH, thread, 0, 0).ok();
                Err(Failure::Gone)
            }
        }
    }

    /// Lets it go on with another call in the place of its own.
    pub fn call_instead(self, number: i64, arguments: [u64; 6]) {
        let mut registers = self.before;
        prepare(&mut registers, number, arguments);
        if set_registers(self.thread, &registers).is_ok() {
            forget_call(self.thread);
        }
    }

    /// Has it make calls, one after the other, and then go on as if its own call had returned what
    /// the first of them did.
    ///
    /// # Errors
    ///
    /// [`Failure::Ended`] and [`Failure::Gone`].
    pub fn call_and_return(self, calls: &[(i64, [u64; 6])]) -> Result<(), Failure> {
        let mut mask = 0_u64;
        let lost = |_| Failure::Gone;
        request(GET_MASK, self.thread, 8, (&raw mut mask).addr()).map_err(lost)?;
        let all = u64::MAX;
        request(SET_MASK, self.thread, 8, (&raw const all).addr()).map_err(lost)?;
        let mut first = None;
        for (number, arguments) in calls {
            let mut registers = self.before;
            prepare(&mut registers, *number, *arguments);
            set_registers(self.thread, &registers).map_err(lost)?;
            forget_call(self.thread);
            // To its beginning, and to its end.
            for _ in 0..2 {
                request(CALL, self.thread, 0, 0).map_err(lost)?;
                wait(self.thread)?;
            }
            let result = result(&self::registers(self.thread).map_err(lost)?);
            first.get_or_insert(result);
        }
        let mut registers = self.before;
        finish(&mut registers, first.unwrap_or_default());
        set_registers(self.thread, &registers).map_err(lost)?;
        forget_call(self.thread);
        request(SET_MASK, self.thread, 8, (&raw const mask).addr()).map_err(lost)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        request(DETACH, self.thread, 0, 0).ok();
    }
}

fn registers(thread: i32) -> io::Result<Registers> {
    // SAFETY: all-zero is a valid set of registers.
    let mut registers: Registers = unsafe { std::mem::zeroed() };
    let place =
        libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
    request(GET_REGISTERS, thread, GENERAL, (&raw const place).addr())?;
    Ok(registers)
}

fn set_registers(thread: i32, registers: &Registers) -> io::Result<()> {
    let place = libc::iovec {
        iov_base: std::ptr::from_ref(registers).cast_mut().cast(),
        iov_len: size_of::<Registers>(),
    };
    request(SET_REGISTERS, thread, GENERAL, (&raw const place).addr())
}

/// Makes the registers those of a thread that is about to make a call.
#[cfg(target_arch = "x86_64")]
fn prepare(registers: &mut Registers, number: i64, arguments: [u64; 6]) {
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] =
        arguments;
    registers.rax = number as u64;
    registers.orig_rax = u64::MAX;
    // The instruction has two bytes.
    registers.rip -= 2;
}

/// Makes the registers those of a thread whose call has returned.
#[cfg(target_arch = "x86_64")]
fn finish(registers: &mut Registers, value: i64) {
    registers.rax = value as u64;
    registers.orig_rax = u64::MAX;
}

#[cfg(target_arch = "x86_64")]
fn result(registers: &Registers) -> i64 {
    registers.rax as i64
}

/// The number that says that no call is in progress is one of the registers here.
#[cfg(target_arch = "x86_64")]
fn forget_call(_thread: i32) {}

#[cfg(target_arch = "aarch64")]
fn prepare(registers: &mut Registers, number: i64, arguments: [u64; 6]) {
    registers.regs[..6].copy_from_slice(&arguments);
    registers.regs[8] = number as u64;
    registers.pc -= 4;
}

#[cfg(target_arch = "aarch64")]
fn finish(registers: &mut Registers, value: i64) {
    registers.regs[0] = value as u64;
}

#[cfg(target_arch = "aarch64")]
fn result(registers: &Registers) -> i64 {
    registers.regs[0] as i64
}

/// Says that no call is in progress, so that the kernel restarts none.
#[cfg(target_arch = "aarch64")]
fn forget_call(thread: i32) {
    let number = -1_i32;
    let place = libc::iovec { iov_base: (&raw const number).cast_mut().cast(), iov_len: 4 };
    request(SET_REGISTERS, thread, IN_PROGRESS, (&raw const place).addr()).ok();
}
