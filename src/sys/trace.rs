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
use std::time::Duration;

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

/// A program that is executed is a stop.
const MARK_EXECUTION: usize = 0x10;

/// The stop of a call that is marked.
const CALL_STOP: i32 = libc::SIGTRAP | 0x80;

const EVENT_EXECUTION: i32 = 4;
const EVENT_STOP: i32 = 128;

#[cfg(target_arch = "x86_64")]
type Registers = libc::user_regs_struct;
#[cfg(target_arch = "aarch64")]
type Registers = libc::user_regs_struct;

/// Why a call could not be changed.
#[derive(Debug)]
pub enum Failure {
    /// The thread may not be traced: its call still waits for an answer.
    Refused(Errno),
    /// What had this number has ended with this status: the thread, or its process. It has been
    /// waited for.
    Ended {
        /// The number, which may be another's from now on.
        pid: i32,
        /// Exit status; 128 + signal number where a signal ended it.
        status: i32,
    },
    /// Its call has been given up, or it is no longer to be found.
    Gone,
}

/// The outcome of a call that executes a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// The process executes it, and has run no instruction of it yet.
    Done,
    /// The call has returned an error.
    Failed,
}

/// A thread that stands still right after its call. Dropping it lets it go, with the call to be made
/// again.
#[derive(Debug)]
pub struct Stopped {
    thread: i32,
    before: Registers,
    patience: Patience,
}

/// How long a thread is waited for. Time counts only while this process runs, so that a container
/// that was frozen is not one whose process hides.
#[derive(Debug)]
struct Patience {
    left: Duration,
    next: Duration,
}

/// How long a thread may take to the stops of one call. It needs some microseconds; one that changes
/// its own instructions in the meantime never comes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for a message that a thread has stopped.
const SLICE: Duration = Duration::from_millis(32);

/// What a stop costs that is not the one waited for.
const DETOUR: Duration = Duration::from_millis(40);

impl Patience {
    fn new() -> Self {
        Self { left: PATIENCE, next: Duration::from_millis(1) }
    }

    /// Waits until a child may have stopped; says whether one has, by a signal that is to be sent
    /// again. `None` where it has been waited long enough.
    fn wait(&mut self) -> Option<bool> {
        self.left = self.left.checked_sub(self.next)?;
        // SAFETY: all-zero is a valid set of signals, which the second call fills.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        let slice = libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::c_long::try_from(self.next.as_nanos()).unwrap_or(1_000_000),
        };
        // SAFETY: the pointers are to live locals.
        let signal = unsafe {
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const slice)
        };
        if signal != libc::SIGCHLD {
            self.next = (self.next * 2).min(SLICE);
        }
        Some(signal == libc::SIGCHLD)
    }

    fn pay(&mut self, cost: Duration) -> bool {
        self.left = self.left.saturating_sub(cost);
        !self.left.is_zero()
    }
}

fn request(request: u32, thread: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the callers pass exposed addresses of live locals of the sizes that their requests ask
    // for, or plain numbers.
    let status = unsafe { libc::syscall(libc::SYS_ptrace, request, thread, address, data) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Looks whether a thread stands still or has ended, without waiting.
fn look(thread: i32) -> Result<Option<i32>, Failure> {
    let mut status = 0;
    // SAFETY: the pointer is to a live local.
    let pid = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
    if pid == 0 {
        return Ok(None);
    }
    if pid != thread {
        return Err(Failure::Gone);
    }
    if libc::WIFSTOPPED(status) {
        return Ok(Some(status));
    }
    Err(Failure::Ended { pid, status: super::process::exit_status(status) })
}

/// Lets go a thread that stands still and is waited for by none: one that was let alone before it
/// stopped. What it was to get, it gets.
pub(super) fn let_go(thread: i32, status: i32) {
    let signal = if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
    let signal = if signal == CALL_STOP { 0 } else { signal };
    request(DETACH, thread, 0, signal as usize).ok();
}

/// Says whether a thread is traced by this process. One whose process has executed a program by
/// another thread has left its number to that one, which is not.
fn is_traced(thread: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    let own = rustix::process::getpid().as_raw_nonzero().get();
    tracer.and_then(|tracer| tracer.trim().parse().ok()) == Some(own)
}

/// Waits until a seized thread stands still; also under the number of its process, which it has once
/// it executes a program. Returns its number and its status. One that does not stand still is killed
/// with its process, if it may be; another is [let go](let_go) when its stop is seen.
fn wait(
    thread: i32,
    process: i32,
    patience: &mut Patience,
    may_kill: bool,
) -> Result<(i32, i32), Failure> {
    let mut is_signalled = false;
    let stopped = loop {
        match look(thread) {
            Ok(Some(status)) => break Ok((thread, status)),
            Err(Failure::Gone) if process != thread => {}
            Err(failure) => break Err(failure),
            Ok(None) => {}
        }
        if process != thread {
            match look(process) {
                Ok(Some(status)) => break Ok((process, status)),
                Err(Failure::Gone) | Ok(None) => {}
                Err(failure) => break Err(failure),
            }
        }
        match patience.wait() {
            Some(true) => is_signalled = true,
            Some(false) if is_traced(thread) || is_traced(process) => {}
            Some(false) => {
                // It may have stopped, or ended, in between.
                match look(thread) {
                    Ok(Some(status)) => break Ok((thread, status)),
                    Ok(None) => break Err(Failure::Gone),
                    Err(failure) => break Err(failure),
                }
            }
            None => {
                // What is traced has its number for as long as it is.
                let traced = [thread, process].into_iter().find(|&number| is_traced(number));
                if let Some(number) = traced.filter(|_| may_kill) {
                    super::process::send_signal(number, libc::SIGKILL).ok();
                }
                break Err(Failure::Gone);
            }
        }
    };
    if is_signalled {
        // Who waits for other children is to see them.
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::CHILD).ok();
    }
    stopped
}

/// What a thread has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The beginning or the end of a call.
    Call,
    /// Another program.
    Execution,
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
        request(SEIZE, thread, 0, MARK_CALLS | MARK_EXECUTION).map_err(refused)?;
        // A call that waits now has waited all the time: the thread seized is the one that made it,
        // and not a later one of its number.
        let is_callers = notify::is_waiting(listener, call);
        request(INTERRUPT, thread, 0, 0).map_err(|_| Failure::Gone)?;
        let restart = Answer::Error(RESTART);
        let is_restarted = is_callers && notify::answer(listener, call, &restart).is_ok();
        let mut patience = Patience::new();
        let (_, status) = wait(thread, thread, &mut patience, is_callers)?;
        match registers(thread) {
            Ok(before) if is_restarted && status >> 16 == EVENT_STOP => {
                Ok(Self { thread, before, patience })
            }
            _ => {
                let_go(thread, status);
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
    pub fn call_and_return(mut self, calls: &[(i64, [u64; 6])]) -> Result<(), Failure> {
        let mask = self.block_signals()?;
        let mut first = None;
        for (number, arguments) in calls {
            let result = self.call(*number, *arguments)?;
            first.get_or_insert(result);
        }
        self.go_on(first.unwrap_or_default(), mask)
    }

    /// Has it execute a program in the place of its own call; where that fails, has it close a
    /// descriptor, and go on with the error. `is_meant` is asked whether what the process executes
    /// then is what was meant.
    ///
    /// # Errors
    ///
    /// [`Failure::Ended`] and [`Failure::Gone`].
    pub fn execute_instead(
        mut self,
        process: i32,
        (number, arguments): (i64, [u64; 6]),
        descriptor: u64,
        is_meant: impl FnOnce(i32) -> bool,
    ) -> Result<Execution, Failure> {
        let mask = self.block_signals()?;
        let mut registers = self.before;
        prepare(&mut registers, number, arguments);
        set_registers(self.thread, &registers).map_err(|_| Failure::Gone)?;
        forget_call(self.thread);
        let begun = self.advance(process)?;
        let ended = if begun == Stop::Call { self.advance(process)? } else { begun };
        if ended == Stop::Execution {
            self.set_mask(mask)?;
            return if is_meant(self.thread) { Ok(Execution::Done) } else { Err(Failure::Gone) };
        }
        let result = result(&self::registers(self.thread).map_err(|_| Failure::Gone)?);
        self.call(libc::SYS_close, [descriptor, 0, 0, 0, 0, 0])?;
        self.go_on(result, mask)?;
        Ok(Execution::Failed)
    }

    /// Has it make a call; returns what that returns.
    fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<i64, Failure> {
        let lost = |_| Failure::Gone;
        let mut registers = self.before;
        prepare(&mut registers, number, arguments);
        set_registers(self.thread, &registers).map_err(lost)?;
        forget_call(self.thread);
        // To its beginning, and to its end.
        for _ in 0..2 {
            if self.advance(self.thread)? != Stop::Call {
                return Err(Failure::Gone);
            }
        }
        Ok(result(&self::registers(self.thread).map_err(lost)?))
    }

    /// Lets it run to the next beginning or end of a call. Other stops, such as a SIGSTOP, are gone
    /// through.
    fn advance(&mut self, process: i32) -> Result<Stop, Failure> {
        let mut signal = 0;
        loop {
            request(CALL, self.thread, 0, signal as usize).map_err(|_| Failure::Gone)?;
            let (thread, status) = wait(self.thread, process, &mut self.patience, true)?;
            self.thread = thread;
            signal = match (status >> 16, libc::WSTOPSIG(status)) {
                (0, CALL_STOP) => return Ok(Stop::Call),
                (EVENT_EXECUTION, _) => return Ok(Stop::Execution),
                (0, signal) => signal,
                _ => 0,
            };
            if !self.patience.pay(DETOUR) {
                super::process::send_signal(self.thread, libc::SIGKILL).ok();
                return Err(Failure::Gone);
            }
        }
    }

    /// Lets it go on as if its call had returned a value.
    fn go_on(&self, value: i64, mask: u64) -> Result<(), Failure> {
        let mut registers = self.before;
        finish(&mut registers, value);
        set_registers(self.thread, &registers).map_err(|_| Failure::Gone)?;
        forget_call(self.thread);
        self.set_mask(mask)
    }

    /// Blocks all signals of it; returns which were.
    fn block_signals(&self) -> Result<u64, Failure> {
        let mut mask = 0_u64;
        let place = (&raw mut mask).expose_provenance();
        request(GET_MASK, self.thread, 8, place).map_err(|_| Failure::Gone)?;
        self.set_mask(u64::MAX)?;
        Ok(mask)
    }

    fn set_mask(&self, mask: u64) -> Result<(), Failure> {
        let place = (&raw const mask).expose_provenance();
        request(SET_MASK, self.thread, 8, place).map_err(|_| Failure::Gone)
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
    request(GET_REGISTERS, thread, GENERAL, (&raw const place).expose_provenance())?;
    Ok(registers)
}

fn set_registers(thread: i32, registers: &Registers) -> io::Result<()> {
    let place = libc::iovec {
        iov_base: std::ptr::from_ref(registers).cast_mut().cast(),
        iov_len: size_of::<Registers>(),
    };
    request(SET_REGISTERS, thread, GENERAL, (&raw const place).expose_provenance())
}

/// Makes the registers those of a thread that is about to make a call.
#[cfg(target_arch = "x86_64")]
fn prepare(registers: &mut Registers, number: i64, arguments: [u64; 6]) {
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] =
        arguments;
    registers.rax = number as u64;
    registers.orig_rax = u64::MAX;
    // The instruction has two bytes.
    registers.rip = registers.rip.wrapping_sub(2);
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
    registers.pc = registers.pc.wrapping_sub(4);
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
    request(SET_REGISTERS, thread, IN_PROGRESS, (&raw const place).expose_provenance()).ok();
}
