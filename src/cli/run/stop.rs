//! Stopping a running command.
//!
//! A polite kill, and a terminal that is gone, become the image's STOPSIGNAL, and KILL after a
//! while; every other signal is the command's as it is, as with `docker run`. A user who interrupts
//! three times means it.

use crate::sandbox::Control;
use nix::sys::signal::Signal;
use std::thread;
use std::time::Duration;

/// How many interruptions a command may ignore.
const PATIENCE: u32 = 3;

/// Passes signals on.
#[derive(Debug)]
pub(super) struct Keeper {
    control: Control,
    stop_signal: i32,
    timeout: Option<Duration>,
    interruptions: u32,
    is_stopping: bool,
}

impl Keeper {
    /// `timeout` is how long the command may take to end; `None` for as long as it wants.
    pub(super) fn new(control: Control, stop_signal: i32, timeout: Option<Duration>) -> Self {
        Self { control, stop_signal, timeout, interruptions: 0, is_stopping: false }
    }

    pub(super) fn take(&mut self, signal: Signal) {
        match signal {
            Signal::SIGTERM | Signal::SIGHUP => self.stop(),
            Signal::SIGINT => {
                self.interruptions += 1;
                let is_last = self.interruptions >= PATIENCE;
                self.control.signal(if is_last { libc::SIGKILL } else { libc::SIGINT });
            }
            other => self.control.signal(other as i32),
        }
    }

    fn stop(&mut self) {
        self.control.signal(self.stop_signal);
        let Some(timeout) = self.timeout else { return };
        if std::mem::replace(&mut self.is_stopping, true) {
            return;
        }
        let control = self.control.clone();
        // Nothing waits for it: when the command has ended, so have we.
        let _ = thread::Builder::new().name("stop".into()).spawn(move || {
            thread::sleep(timeout);
            control.signal(libc::SIGKILL);
        });
    }
}
