//! Interruptions: the first asks everything to stop, the second does not ask.

use crate::sys::cancel::Cancel;
use nix::sys::signal::{SigSet, Signal};
use std::thread;

/// Watches for Ctrl-C, a polite kill and a lost terminal from a thread of its own. To be called
/// before any other thread is started, so that all inherit the mask.
pub(super) fn watch(cancel: &Cancel) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    let cancel = cancel.clone();
    // Without the thread the signals stay blocked, so they are given back.
    let watcher = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            if cancel.is_cancelled() {
                std::process::exit(128 + signal as i32);
            }
            cancel.cancel();
        }
    });
    if watcher.is_err() {
        let _ = signals.thread_unblock();
    }
}
