//! The process above a keeper. A keeper answers a hostile command, and may fail at it: what it leaves
//! then becomes the guard's, which ends it.
//!
//! The guard knows nothing of the command: it has no descriptor of the step, and answers no call.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::set_child_subreaper;

use super::super::chroot;
use super::super::fault::{Doing, Fault};
use super::super::init;
use crate::sys::process::{self, ChildUsage, Forked, SingleThreaded};

/// How long a keeper that is to end has for it.
const LIMIT: Duration = Duration::from_secs(5);

/// Goes on as the keeper, below a guard. The guard does not return.
pub(super) fn split_off(proof: SingleThreaded) -> Result<(), Fault> {
    process::reset_signals();
    let mut handled = SigSet::empty();
    handled.add(Signal::SIGCHLD);
    handled.add(Signal::SIGTERM);
    handled.thread_block().doing(|| "blocking signals")?;
    chroot::die_with_parent()?;
    set_child_subreaper(Some(rustix::process::getpid()))
        .doing(|| "becoming the reaper of the command")?;
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /proc")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&handled, flags).doing(|| "watching signals")?;
    let Forked::Parent(keeper) = proof.clone_process(0, None).doing(|| "starting the keeper")?
    else {
        return Ok(());
    };
    process::close_others(proof, &[proc.as_fd(), signals.as_fd()]).ok();
    let (mut deadline, mut used) = (None, ChildUsage::default());
    loop {
        let left = deadline.map(|end: Instant| end.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut watched = [PollFd::new(&signals, PollFlags::IN)];
        rustix::event::poll(&mut watched, left.as_ref()).ok();
        while let Ok(Some(signal)) = signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 && deadline.is_none() {
                process::send_signal(keeper.pid, libc::SIGTERM).ok();
                deadline = Some(Instant::now() + LIMIT);
            }
        }
        // Whatever has woken it.
        if deadline.is_some_and(|end| end <= Instant::now()) {
            process::send_signal(keeper.pid, libc::SIGKILL).ok();
            deadline = Some(Instant::now() + LIMIT);
        }
        // One signal may stand for several ends: those of what a keeper left come with its own.
        if init::reap(keeper.pid, &mut used, false).is_some() {
            break;
        }
    }
    chroot::end_all(proc.as_fd(), keeper.pid, &mut used, &mut None);
    process::exit_now(0)
}
