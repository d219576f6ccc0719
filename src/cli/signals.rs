//! Signals from outside.
//!
//! | signal | while a build works | while `builder run` runs its command |
//! |---|---|---|
//! | INT, TERM, HUP | the first asks everything to stop, the second does not ask | handed to the command's keeper |
//! | QUIT, USR1, USR2 | what the kernel does | handed to the command's keeper |
//! | TSTP (Ctrl-Z) | running commands are frozen, then we stop; CONT (`fg`) lets all go on | the same |
//!
//! Commands have sessions of their own, so nothing that a terminal sends reaches them by itself.

use crate::sandbox::Sandbox;
use crate::sys::cancel::Cancel;
use nix::sys::signal::{SigSet, Signal, raise};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

/// Signals that mean us, whatever we do.
const ALWAYS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTSTP];

/// Signals that only a command may want.
const FOR_COMMANDS: [Signal; 3] = [Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

type Receiver = Box<dyn FnMut(Signal) + Send>;

#[derive(Default)]
struct State {
    receiver: Option<Receiver>,
    sandbox: Weak<Sandbox>,
}

/// What signals do at the moment. Clones are the same.
#[derive(Clone, Default)]
pub struct Signals(Arc<Mutex<State>>);

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals(…)")
    }
}

impl Signals {
    fn lock(&self) -> MutexGuard<'_, State> {
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
        if cancel.is_cancelled() || FOR_COMMANDS.contains(&signal) {
            std::process::exit(128 + signal as i32);
        }
        cancel.cancel();
    }

    /// Freezes what runs for us, stops all our threads until somebody sends SIGCONT, and thaws.
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

/// While it lives, signals go to a receiver.
#[derive(Debug)]
pub struct Handed<'a>(&'a Signals);

impl Handed<'_> {
    /// Keeps it so to the end of the program: a signal that comes between the command's end and ours
    /// is nobody's.
    pub fn for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        self.0.lock().receiver = None;
    }
}
