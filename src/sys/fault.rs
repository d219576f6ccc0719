//! Write points at which tests let the program fail or die. In release builds there is nothing here
//! but empty functions.
//!
//! A point stands before or after a change that others can see: a rename, a barrier, the removal of
//! a directory. [`arm`] says which of them fails: `POINT:N:ACTION` with `kill`, `enospc` or `eio`
//! at the N-th time that the point is reached, counted from 1; the point `any` is each of them. The
//! command line reads that from `BUILDER_FAULT`, where it exists at all.

/// Every point, in no order.
pub const POINTS: &[&str] = &[
    "session.made",
    "file.written",
    "file.renamed",
    "blob.written",
    "blob.renamed",
    "layer.described",
    "layer.renamed",
    "sync.begun",
    "sync.done",
    "session.ending",
    "collect.renamed",
    "mount.made",
    "history.written",
    "history.renamed",
    "index.written",
    "export.written",
];

/// Fails or dies here if a test said so.
///
/// # Errors
///
/// The error that the test asked for; never in release builds.
#[cfg(not(debug_assertions))]
#[inline]
pub fn at(_point: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
pub use armed::{arm, at};

#[cfg(debug_assertions)]
mod armed {
    use super::POINTS;
    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Clone, Copy)]
    enum Action {
        Kill,
        Fail(Errno),
    }

    #[derive(Debug)]
    struct FaultPlan {
        point: String,
        /// Counts down to the time that is meant.
        left: AtomicU64,
        action: Action,
    }

    static PLAN: OnceLock<FaultPlan> = OnceLock::new();

    /// Plans one failure of this process: `POINT:N:ACTION`. A second plan, or one that does not
    /// parse, is not taken; `false` says so.
    pub fn arm(text: &str) -> bool {
        let mut parts = text.split(':');
        let (Some(point), Some(number), Some(action), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let action = match action {
            "kill" => Action::Kill,
            "enospc" => Action::Fail(Errno::NOSPC),
            "eio" => Action::Fail(Errno::IO),
            _ => return false,
        };
        let Ok(number) = number.parse() else { return false };
        if point != "any" && !POINTS.contains(&point) {
            return false;
        }
        PLAN.set(FaultPlan { point: point.to_owned(), left: AtomicU64::new(number), action })
            .is_ok()
    }

    /// Fails or dies here if a test said so.
    ///
    /// # Errors
    ///
    /// The error that the test asked for.
    pub fn at(point: &'static str) -> io::Result<()> {
        debug_assert!(POINTS.contains(&point), "a point that tests do not know: {point}");
        let Some(plan) = PLAN.get() else { return Ok(()) };
        if plan.point != "any" && plan.point != point {
            return Ok(());
        }
        // Once only: the process goes on after an error, and its clearing up must work.
        if plan.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return Ok(());
        }
        match plan.action {
            Action::Fail(errno) => Err(errno.into()),
            Action::Kill => loop {
                let _ = kill_process(getpid(), Signal::KILL);
                std::thread::park();
            },
        }
    }
}
