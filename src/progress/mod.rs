//! Progress of a build: events in, text out.
//!
//! Rooms below emit [`Event`]s into a [`Progress`]; one thread renders them in the chosen [`Mode`].
//! The emitter stamps each event, keeps the last lines of every running step's log (so that an
//! error can show them in any mode) and counts steps.
//!
//! # Bounds
//!
//! Memory does not depend on what steps print, nor on how slowly the output is read: at most
//! [`QUEUE`] events wait for the renderer, which writes after [`BATCH`] bytes of logs, and each
//! renderer keeps a bounded part of each running step's output. What is shown of a step is bounded
//! by [`LogLimits`]; the history has all of it, see [`crate::explain`].
//!
//! # Cost
//!
//! The rendering thread starts with the first event, and never in quiet mode. It takes all events
//! that are waiting before it writes once, and the tty renderer draws nothing in the first
//! [`tty::FIRST_DRAW`], so a build served from the cache pays for a few sends and one write.
//!
//! # Not here
//!
//! Errors are rendered by the command line; the final digest on stdout is its as well.

mod clean;
mod event;
mod limit;
mod pace;
mod palette;
mod plain;
mod rawjson;
mod tail;
mod tally;
mod tty;

use crate::oci::Digest;
use crate::trace;
use crossbeam_channel::{RecvTimeoutError, Sender};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal as _, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use clean::clean_line;
pub use event::{Event, Outcome, Source, Stream, Vertex, Warning};
pub use limit::LogLimits;
use limit::Shown;
pub use palette::Looks;
use tail::Tail;
pub use tally::Tally;

/// Events waiting for the renderer before emitters wait for it. Log events carry up to [`PIECE`],
/// so this bounds memory at 2 MiB when a terminal is slower than a step.
const QUEUE: usize = 128;

/// The most bytes of one log event.
const PIECE: usize = 16 << 10;

/// The most bytes of logs that a renderer takes before it writes.
const BATCH: usize = 256 << 10;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// [`Mode::Tty`] on a terminal, [`Mode::Plain`] elsewhere.
    #[default]
    Auto,
    /// A window of running steps, redrawn.
    Tty,
    /// Lines, each marked with its step's number.
    Plain,
    /// One JSON object per line, in the shape of BuildKit's `SolveStatus`.
    RawJson,
    /// Nothing.
    Quiet,
}

impl Mode {
    /// All modes under the names of `--progress`.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("auto", Self::Auto),
        ("tty", Self::Tty),
        ("plain", Self::Plain),
        ("rawjson", Self::RawJson),
        ("quiet", Self::Quiet),
        ("none", Self::Quiet),
    ];
}

/// A `--progress` value that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown progress mode `{text}`: expected auto, tty, plain, rawjson, quiet or none")]
pub struct ModeParseError {
    /// What was given.
    pub text: String,
}

impl FromStr for Mode {
    type Err = ModeParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, mode)| *mode)
            .ok_or_else(|| ModeParseError { text: text.to_owned() })
    }
}

/// Returns rows and columns of a terminal.
pub type TerminalSize = Box<dyn Fn() -> (u16, u16) + Send + Sync>;

/// Where progress goes.
pub struct Output {
    /// Takes the bytes. Its errors are ignored: a closed pipe must not fail a build.
    pub writer: Box<dyn Write + Send>,
    /// Returns the size of the terminal behind `writer`; `None` where it is not a terminal.
    pub size: Option<TerminalSize>,
    /// Whether the tty renderer may use colours.
    pub is_coloured: bool,
    /// Which colours, and how much of a step's output is shown.
    pub looks: Looks,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("is_terminal", &self.size.is_some()).finish_non_exhaustive()
    }
}

impl Output {
    /// Returns the process's stderr, recognised as a terminal where it is one.
    pub fn stderr(is_coloured: bool) -> Self {
        let stderr = std::io::stderr();
        let size: Option<TerminalSize> =
            stderr.is_terminal().then(|| Box::new(stderr_size) as TerminalSize);
        Self { writer: Box::new(stderr), size, is_coloured, looks: Looks::default() }
    }

    /// Returns a sink that is not a terminal.
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Box::new(writer), size: None, is_coloured: false, looks: Looks::default() }
    }
}

fn stderr_size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        // A terminal that does not know its size, as a serial line.
        _ => (24, 80),
    }
}

/// How many steps there were, and their results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Steps taken from the cache.
    pub cached: usize,
    /// Steps that ran to their end.
    pub ran: usize,
    /// Steps that failed.
    pub failed: usize,
    /// Steps that were stopped.
    pub cancelled: usize,
}

impl Counts {
    /// Returns how many steps there were.
    pub fn steps(&self) -> usize {
        self.cached + self.ran + self.failed + self.cancelled
    }

    /// Returns the line that ends a build: `7 steps: 5 cached, 2 ran in 1.2s`.
    pub fn summary(&self, wall: Duration) -> String {
        let steps = self.steps();
        let parts: Vec<_> = [
            (self.cached, "cached"),
            (self.ran, "ran"),
            (self.failed, "failed"),
            (self.cancelled, "cancelled"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
        if parts.is_empty() {
            // A push or pull has no steps, and may have done a lot.
            return format!("done in {:.1}s", wall.as_secs_f64());
        }
        let parts = parts.join(", ");
        let plural = if steps == 1 { "" } else { "s" };
        format!("{steps} step{plural}: {parts} in {:.1}s", wall.as_secs_f64())
    }
}

/// The emitter: cheap to clone, shared by all threads of a build.
#[derive(Debug, Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    state: Mutex<EmitterState>,
}

#[derive(Debug)]
struct EmitterState {
    lane: Lane,
    tails: BTreeMap<Digest, Tail>,
    steps: BTreeMap<Digest, bool>,
    counts: Counts,
    limits: LogLimits,
    /// How much of each running step's output was shown.
    shown: BTreeMap<Digest, Shown>,
}

/// The way to the renderer.
enum Lane {
    Quiet,
    Idle(Box<dyn Renderer>),
    Running(Sender<Stamped>, JoinHandle<()>),
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quiet => "Quiet",
            Self::Idle(_) => "Idle",
            Self::Running(..) => "Running",
        })
    }
}

/// An event and when it was emitted.
#[derive(Debug, Clone)]
struct Stamped {
    at: Timestamp,
    event: Event,
}

/// The build's clock: wall time at the start, monotonic from there.
#[derive(Debug, Clone, Copy)]
struct Clock {
    started: Timestamp,
    instant: Instant,
}

impl Clock {
    fn now(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.instant.elapsed()).unwrap_or_default();
        self.started.saturating_add(since).unwrap_or(self.started)
    }
}

/// Turns events into bytes of an output.
trait Renderer: Send {
    /// Takes an event in; writes nothing yet.
    fn take(&mut self, at: Timestamp, event: Event);
    /// Writes what is due; returns after how long to be called again although nothing came.
    fn flush(&mut self, now: Timestamp) -> Option<Duration>;
    /// Writes what is left, and the end.
    fn finish(&mut self, now: Timestamp);
}

impl Progress {
    /// Makes an emitter that renders to `output`; `started` is the wall-clock time of this moment.
    ///
    /// [`Mode::Tty`] on something that is not a terminal falls back to [`Mode::Plain`]; a command
    /// line that wants to refuse that can ask `output.size` first.
    pub fn new(mode: Mode, output: Output, started: Timestamp) -> Self {
        let clock = Clock { started, instant: Instant::now() };
        let Output { writer, size, is_coloured, looks } = output;
        let lane = match (mode, size) {
            (Mode::Quiet, _) => Lane::Quiet,
            (Mode::RawJson, _) => Lane::Idle(Box::new(rawjson::RawJson::new(writer))),
            // A window would be redrawn over the lines of the log.
            (Mode::Auto, Some(_)) if trace::is_on_stderr() => {
                Lane::Idle(Box::new(plain::Plain::new(writer)))
            }
            (Mode::Auto | Mode::Tty, Some(size)) => {
                let tty = tty::Tty::new(writer, size, is_coloured, started);
                Lane::Idle(Box::new(tty.with_looks(looks)))
            }
            (Mode::Auto | Mode::Tty | Mode::Plain, _) => {
                Lane::Idle(Box::new(plain::Plain::new(writer)))
            }
        };
        let state = EmitterState {
            lane,
            tails: BTreeMap::new(),
            steps: BTreeMap::new(),
            counts: Counts::default(),
            limits: LogLimits::default(),
            shown: BTreeMap::new(),
        };
        Self { inner: Arc::new(Inner { clock, state: Mutex::new(state) }) }
    }

    /// Sets how much of the output of a step is shown.
    #[must_use]
    pub fn with_log_limits(self, limits: LogLimits) -> Self {
        self.lock().limits = limits;
        self
    }

    /// Makes an emitter that shows nothing and still keeps the last lines of logs.
    pub fn quiet() -> Self {
        Self::new(Mode::Quiet, Output::to(std::io::sink()), Timestamp::UNIX_EPOCH)
    }

    /// Reports an event. Waits where the renderer is far behind.
    pub fn emit(&self, event: Event) {
        let mut state = self.lock();
        state.note(&event);
        self.send(&mut state, event);
    }

    fn send(&self, state: &mut EmitterState, event: Event) {
        if matches!(state.lane, Lane::Quiet) {
            return;
        }
        let stamped = Stamped { at: self.inner.clock.now(), event };
        if let Lane::Running(sender, _) = state.lane.start(self.inner.clock) {
            // The renderer is gone only after a panic of its own; the build goes on without it.
            let _ = sender.send(stamped);
        }
    }

    /// Reports that `vertex` began.
    pub fn started(&self, vertex: Vertex) {
        self.emit(Event::VertexStarted(vertex));
    }

    /// Reports that a vertex ended.
    pub fn done(&self, vertex: Digest, outcome: Outcome) {
        self.emit(Event::VertexDone { vertex, outcome });
    }

    /// Reports that `vertex` was taken from the cache.
    pub fn cached(&self, vertex: Vertex) {
        let digest = vertex.digest;
        self.emit(Event::VertexStarted(vertex));
        self.emit(Event::VertexDone { vertex: digest, outcome: Outcome::Cached });
    }

    /// Reports output of a step. What is over the limits is not shown, but is among the
    /// [`last_lines`](Self::last_lines).
    pub fn log(&self, vertex: Digest, stream: Stream, data: &[u8]) {
        for part in data.chunks(PIECE) {
            let mut state = self.lock();
            state.tails.entry(vertex).or_default().push(part);
            if matches!(state.lane, Lane::Quiet) {
                continue;
            }
            let (limits, now) = (state.limits, self.inner.clock.instant.elapsed());
            let shown = state.shown.entry(vertex).or_insert_with(|| Shown::from(now));
            let (count, notice) = shown.admit(part.len(), limits, now);
            if count > 0 {
                let data = part[..count].to_vec();
                self.send(&mut state, Event::Log { vertex, stream, data });
            }
            if let Some(notice) = notice {
                let data = format!("\n{notice}\n").into_bytes();
                self.send(&mut state, Event::Log { vertex, stream: Stream::Stderr, data });
            }
        }
    }

    /// Reports something that is about the build as a whole.
    pub fn notice(&self, text: impl Into<String>) {
        self.emit(Event::Notice { vertex: None, text: text.into() });
    }

    /// Reports something that is about one step.
    pub fn notice_of(&self, vertex: Digest, text: impl Into<String>) {
        self.emit(Event::Notice { vertex: Some(vertex), text: text.into() });
    }

    /// Says what confines the build's commands.
    pub fn confined(&self, rung: &str, text: &str) {
        self.emit(Event::Confined { rung: rung.to_owned(), text: text.to_owned() });
    }

    /// Says that the command of a step runs in an emulator.
    pub fn emulated(&self, vertex: Digest, platform: &str, emulator: &str) {
        let (platform, emulator) = (platform.to_owned(), emulator.to_owned());
        self.emit(Event::Emulated { vertex, platform, emulator });
    }

    /// Says how many steps there will be.
    pub fn expect(&self, steps: usize) {
        self.emit(Event::Expected { steps });
    }

    /// Says what was made, for the end of the output.
    pub fn made(&self, text: impl Into<String>) {
        self.emit(Event::Made { text: text.into() });
    }

    /// Returns at most the `n` last lines that a running or failed vertex wrote, oldest first, fit
    /// for a terminal.
    pub fn last_lines(&self, vertex: &Digest, n: usize) -> Vec<String> {
        self.lock().tails.get(vertex).map_or_else(Vec::new, |tail| tail.lines(n))
    }

    /// Returns the result of the steps that ended so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Returns how long ago this emitter was made.
    pub fn elapsed(&self) -> Duration {
        self.inner.clock.instant.elapsed()
    }

    /// Waits until everything is rendered and ends the output. Later events are dropped.
    pub fn finish(&self) {
        let lane = std::mem::replace(&mut self.lock().lane, Lane::Quiet);
        lane.close();
    }

    fn lock(&self) -> MutexGuard<'_, EmitterState> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut state.lane, Lane::Quiet).close();
    }
}

impl EmitterState {
    fn note(&mut self, event: &Event) {
        match event {
            Event::VertexStarted(vertex) => {
                self.steps.insert(vertex.digest, vertex.is_step);
            }
            Event::VertexDone { vertex, outcome } => {
                self.shown.remove(vertex);
                if !matches!(outcome, Outcome::Failed(_)) {
                    self.tails.remove(vertex);
                }
                if self.steps.get(vertex) == Some(&true) {
                    let count = match outcome {
                        Outcome::Cached => &mut self.counts.cached,
                        Outcome::Ran => &mut self.counts.ran,
                        Outcome::Failed(_) => &mut self.counts.failed,
                        Outcome::Cancelled => &mut self.counts.cancelled,
                    };
                    *count += 1;
                }
            }
            // A log is noted before it is cut.
            Event::Log { .. }
            | Event::Status { .. }
            | Event::Warning(_)
            | Event::Notice { .. }
            | Event::Confined { .. }
            | Event::Emulated { .. }
            | Event::Expected { .. }
            | Event::Made { .. } => {}
        }
    }
}

impl Lane {
    /// Starts the renderer's thread if it has none yet.
    fn start(&mut self, clock: Clock) -> &Self {
        if matches!(self, Self::Idle(_))
            && let Self::Idle(mut renderer) = std::mem::replace(self, Self::Quiet)
        {
            let (sender, receiver) = crossbeam_channel::bounded(QUEUE);
            let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || {
                render(&receiver, renderer.as_mut(), clock);
            });
            // Without a thread (a pids limit of our own) the build goes on in silence.
            if let Ok(thread) = thread {
                *self = Self::Running(sender, thread);
            }
        }
        self
    }

    fn close(self) {
        if let Self::Running(sender, thread) = self {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn render(
    events: &crossbeam_channel::Receiver<Stamped>,
    renderer: &mut dyn Renderer,
    clock: Clock,
) {
    let mut wake = None;
    loop {
        let first = match wake {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(after) => events.recv_timeout(after),
        };
        match first {
            Ok(Stamped { at, event }) => {
                let mut taken = event.log_bytes();
                renderer.take(at, event);
                // Not for ever: a step may print faster than this.
                while taken < BATCH
                    && let Ok(Stamped { at, event }) = events.try_recv()
                {
                    taken += event.log_bytes() + 1;
                    renderer.take(at, event);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        wake = renderer.flush(clock.now());
    }
    renderer.finish(clock.now());
}

/// Returns the seconds from `from` to `to`, never negative.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

/// A writer that falls silent at its first error.
struct Quietly(Option<Box<dyn Write + Send>>);

impl Quietly {
    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(writer) = &mut self.0
            && writer.write_all(bytes).and_then(|()| writer.flush()).is_err()
        {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests;
