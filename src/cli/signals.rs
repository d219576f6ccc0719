//! Signals from outside.
//!
//! | signal | while a build works | while `builder run` runs its command |
//! |---|---|---|
//! | INT, TERM, HUP | the first asks all work to stop and ends the program after [`GRACE`]; the second ends it at once | handed to the command's keeper |
//! | QUIT, USR1, USR2 | what the kernel does | handed to the command's keeper |
//! | TSTP (Ctrl-Z) | running commands are frozen, then we stop; CONT (`fg`) lets all go on | the same |
//!
//! Commands have sessions of their own, so nothing that a terminal sends reaches them by itself.
//!
//! The exit status is 128 and the number of the signal, as of `docker`: 130 for Ctrl-C, 143 for
//! SIGTERM, 129 for SIGHUP.
//!
//! # Ending within a second
//!
//! Loops over files and streams ask the token and stop after a buffer. What cannot ask (a lock of
//! the kernel, a server that does not answer, an output that is not read, a removal of a million
//! files) is ended with the process: the store is written such that a killed process leaves nothing
//! half, and what it made so far is swept by the next one. RUN commands end with their builder.

use crate::sandbox::Sandbox;
use crate::sys::cancel::Cancel;
use nix::sys::signal::{SigSet, Signal, raise};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// How long work has to stop by itself after a first signal.
const GRACE: Duration = Duration::from_millis(700);

/// Signals that mean us, whatever we do.
const ALWAYS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTSTP];

/// Signals that only a command may want.
const FOR_COMMANDS: [Signal; 3] = [Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

type Receiver = Box<dyn FnMut(Signal) + Send>;

#[derive(Default)]
struct SignalState {
    receiver: Option<Receiver>,
    sandbox: Weak<Sandbox>,
    /// The first signal that asked us to stop.
    interrupted_by: Option<Signal>,
}

/// What signals do at the moment. Clones are the same.
#[derive(Clone, Default)]
pub struct Signals(Arc<Mutex<SignalState>>);

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals(…)")
    }
}

impl Signals {
    fn lock(&self) -> MutexGuard<'_, SignalState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands signals to `receiver` until what is returned is dropped.
    pub fn hand_to(&self, receiver: impl FnMut(Signal) + Send + 'static) -> Handed<'_> {
        self.lock().receiver = Some(Box::new(receiver));
        Handed(self)
    }

    /// Lets Ctrl-Z freeze what runs in `sandbox`, for as long as that lives.
    pub fn freeze_with_us(&self, sandbox: &Arc<Sandbox>) {
        self.lock().sandbox = Arc::downgrade(sandbox);
    }

    /// Returns the exit status of a program that a signal asked to stop: `None` where none did.
    pub(super) fn status(&self) -> Option<u8> {
        self.lock().interrupted_by.map(status_of)
    }

    /// Holds back the signals that [`watch`](Self::watch) takes, so that one that comes before is
    /// not lost.
    pub(super) fn hold() {
        let mut signals = SigSet::empty();
        for signal in ALWAYS {
            signals.add(signal);
        }
        let _ = signals.thread_block();
    }

    /// Watches from a thread of its own. To be called before any other thread is started, so that
    /// all inherit the mask.
    pub(super) fn watch(&self, cancel: &Cancel, is_run: bool) {
        let mut signals = SigSet::empty();
        let wanted = if is_run { &FOR_COMMANDS[..] } else { &[] };
        for signal in ALWAYS.iter().chain(wanted) {
            signals.add(*signal);
        }
        if signals.thread_block().is_err() {
            return;
        }
        let (this, cancel) = (self.clone(), cancel.clone());
        // Without the thread the signals stay blocked, so they are given back.
        let watcher = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while let Ok(signal) = signals.wait() {
                this.take(signal, &cancel);
            }
        });
        if watcher.is_err() {
            let _ = signals.thread_unblock();
        }
    }

    fn take(&self, signal: Signal, cancel: &Cancel) {
        if signal == Signal::SIGTSTP {
            self.stop();
            return;
        }
        if let Some(receiver) = &mut self.lock().receiver {
            receiver(signal);
            return;
        }
        if FOR_COMMANDS.contains(&signal) {
            std::process::exit(i32::from(status_of(signal)));
        }
        if cancel.is_cancelled() {
            end(signal);
        }
        self.lock().interrupted_by = Some(signal);
        cancel.cancel();
        let late = move || {
            thread::sleep(GRACE);
            end(signal);
        };
        // Without a thread, only what asks the token stops.
        let _ = thread::Builder::new().name("grace".to_owned()).spawn(late);
    }

    /// Freezes what runs for us, stops all our threads until SIGCONT arrives, and thaws.
    fn stop(&self) {
        let sandbox = self.lock().sandbox.upgrade();
        if let Some(sandbox) = &sandbox {
            sandbox.freeze();
        }
        // To this very thread: one to the process may be another's to take, and then this one would
        // thaw before it stops.
        let _ = raise(Signal::SIGSTOP);
        if let Some(sandbox) = &sandbox {
            sandbox.thaw();
        }
    }
}

fn status_of(signal: Signal) -> u8 {
    128 + u8::try_from(signal as i32).unwrap_or(0)
}

/// Ends the program, with a word on stderr where that takes it at once.
fn end(signal: Signal) -> ! {
    let stderr = io::stderr();
    let mut watched = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if matches!(poll(&mut watched, Some(&now)), Ok(1)) && watched[0].revents() == PollFlags::OUT {
        // Of a terminal, the cursor may be in the middle of a line.
        let start = if stderr.is_terminal() { "\n" } else { "" };
        // Not through the lock of `stderr`, which a thread that is stuck may hold.
        let _ = rustix::io::write(&stderr, format!("{start}error: interrupted\n").as_bytes());
    }
    std::process::exit(i32::from(status_of(signal)));
}

/// While it lives, signals go to a receiver.
#[derive(Debug)]
pub struct Handed<'a>(&'a Signals);

impl Handed<'_> {
    /// Keeps it so to the end of the program: a signal that comes between the command's end and
    /// ours belongs to no process.
    pub fn for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        self.0.lock().receiver = None;
    }
}
