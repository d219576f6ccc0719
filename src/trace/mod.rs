//! The program's diagnostic log: what it decided, waited for and asked others, for a person who debugs
//! the builder itself.
//!
//! Every room reports with the macros of the `tracing` crate; the target of an event is its module,
//! so its first part is the room. Events within the work on a step are in a span made by [`step`],
//! which has the name that progress shows. Nothing is formatted, and no clock is read, unless
//! [`start`] was called: an event costs the comparison of one number then.
//!
//! # Format
//!
//! ```text
//! SECONDS LEVEL ROOM [STEP: ]MESSAGE NAME=VALUE…
//! ```
//!
//! One event a line, in the order of the events; seconds since the program began. This is for
//! people: it may change with any version.
//!
//! # Secrets
//!
//! No event has the value of a secret or of a variable, the output of a command, or a header. What
//! an event or the name of a step has all the same is cleaned on the way out: credentials and queries
//! of addresses, and texts that [`hide`] was given, become `***`.
//!
//! # Not here
//!
//! The output of steps and the history of builds: [`crate::history`]. What users see while a build
//! runs: [`crate::progress`]. The flag and the variables: [`crate::cli`].

mod filter;
mod format;

pub use filter::{Filter, FilterError, LEVELS};

use format::{Cleaned, Line};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tracing::Span;
use tracing_subscriber::fmt::Layer;
use tracing_subscriber::layer::SubscriberExt as _;

/// The target of spans of steps. A filter that lets any event through lets these through.
const STEPS: &str = "builder::step";

/// Whether the log goes to stderr.
static IS_ON_STDERR: AtomicBool = AtomicBool::new(false);

/// Whether there is a log at all.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Texts that do not appear in the log.
static HIDDEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The least number of bytes of a text that is hidden: a shorter one stands in any log by chance.
const HIDDEN_MIN: usize = 4;

/// Starts the log: what `filter` lets through is written to `file`, or to stderr without one. Has no
/// effect after the first call in a process.
pub fn start(filter: &Filter, file: Option<File>) {
    let is_on_stderr = file.is_none();
    let layer = Layer::new().event_format(Line::begin()).with_writer(Cleaned::to(file));
    let subscriber = tracing_subscriber::registry().with(filter.targets()).with(layer);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        IS_ON.store(true, Ordering::Relaxed);
        IS_ON_STDERR.store(is_on_stderr, Ordering::Relaxed);
    }
}

/// Returns whether there is a log.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Returns whether lines of the log appear on stderr, between those of the program.
pub fn is_on_stderr() -> bool {
    IS_ON_STDERR.load(Ordering::Relaxed)
}

/// Keeps a text and each of its longer lines out of the log.
pub fn hide(value: &[u8]) {
    if !is_on() {
        return;
    }
    let text = String::from_utf8_lossy(value);
    let mut hidden = HIDDEN.lock().unwrap_or_else(PoisonError::into_inner);
    for part in std::iter::once(text.as_ref()).chain(text.lines()) {
        let part = part.trim();
        if part.len() >= HIDDEN_MIN && !hidden.iter().any(|known| known == part) {
            hidden.push(part.to_owned());
        }
    }
    // A text that is part of another goes last, or the rest of that one would show.
    hidden.sort_by_key(|text| std::cmp::Reverse(text.len()));
}

/// Returns the span of the work on a step, by the name that progress shows.
pub fn step(name: &str) -> Span {
    tracing::info_span!(target: STEPS, "step", "{name}")
}
