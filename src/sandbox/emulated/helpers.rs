//! Helpers: forks of the keeper, each of which answers one call that waits for another process.
//!
//! A call ends with its caller, and the helper does not see that: the keeper looks which calls still
//! wait, before it makes another helper and from time to time, and ends those whose calls do not.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::Signal;

use super::super::supervisor::target::Target;
use super::LATER;
use crate::sys::notify::{self, Answer, Call};
use crate::sys::process::{self, Forked, SingleThreaded};

/// Most helpers of a step at a time.
const HELPERS_MAX: usize = 128;

/// How often it is looked which calls still wait.
const PERIOD: Duration = Duration::from_secs(1);

/// The helpers of a step.
#[derive(Default)]
pub(super) struct Helpers {
    /// The call that each answers, and its process.
    all: Vec<(Call, OwnedFd)>,
    looked: Option<Instant>,
}

impl Helpers {
    /// Answers a call in a helper, by what `act` returns there.
    ///
    /// # Errors
    ///
    /// [`LATER`] where there is a helper, `EAGAIN` where there are too many.
    pub(super) fn answer(
        &mut self,
        proof: SingleThreaded,
        target: Target<'_>,
        act: impl FnOnce() -> Result<Answer, Errno>,
    ) -> Result<Answer, Errno> {
        self.end_others(target.listener);
        if self.all.len() >= HELPERS_MAX {
            return Err(Errno::AGAIN);
        }
        match proof.clone_process(0, None).map_err(|_| Errno::AGAIN)? {
            Forked::Parent(child) => {
                self.all.push((*target.call, child.pidfd));
                Err(LATER)
            }
            Forked::Child => {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok();
                let answer = act().unwrap_or_else(|error| Answer::Error(error.raw_os_error()));
                notify::answer(target.listener, target.call, &answer).ok();
                process::exit_now(0)
            }
        }
    }

    /// Returns how long the keeper may wait for calls until it is to look.
    pub(super) fn timeout(&self) -> Option<&'static Timespec> {
        const TIMEOUT: &Timespec =
            &Timespec { tv_sec: PERIOD.as_secs() as i64, tv_nsec: PERIOD.subsec_nanos() as i64 };
        if self.all.is_empty() { None } else { Some(TIMEOUT) }
    }

    /// Looks which calls still wait, if the last time was long ago.
    pub(super) fn look_at_times(&mut self, listener: BorrowedFd<'_>) {
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= PERIOD);
        if is_due && !self.all.is_empty() {
            self.end_others(listener);
        }
    }

    /// Ends the helpers whose calls do not wait any more: answered or given up.
    fn end_others(&mut self, listener: BorrowedFd<'_>) {
        self.looked = Some(Instant::now());
        self.all.retain(|(call, helper)| {
            let is_waiting = notify::is_waiting(listener, call);
            if !is_waiting {
                rustix::process::pidfd_send_signal(helper, Signal::KILL).ok();
            }
            is_waiting
        });
    }
}
