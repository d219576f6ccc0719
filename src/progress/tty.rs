//! A terminal: finished steps as one line each, below them a window of the running ones.
//!
//! The window is one `indicatif` bar whose message is all of it, cut to the terminal so that no
//! line wraps: a wrapped line makes the cursor arithmetic wrong, and the window walks up the
//! screen.

use super::clean::{clean_line, fit, width};
use super::pace::{Pace, short};
use super::{
    Counts, Event, Looks, Outcome, Quietly, Renderer, TerminalSize, Vertex, Warning, seconds,
};
use crate::oci::Digest;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Nothing is drawn before this much time: a build that ends earlier prints its lines and is done.
pub(super) const FIRST_DRAW: f64 = 0.12;

/// Time between two drawings of the window.
const REDRAW: Duration = Duration::from_millis(100);

/// The most bytes of an unfinished line that are kept.
const PARTIAL_MAX: usize = 4 << 10;

pub(super) struct Tty {
    screen: Screen,
    bar: Option<ProgressBar>,
    drawn: Timestamp,
    paint: Paint,
    started: Timestamp,
    /// Running vertices in the order they began.
    running: Vec<Running>,
    /// Lines to print above the window.
    finished: Vec<String>,
    counts: Counts,
    /// How many steps there will be, where that is known.
    expected: Option<usize>,
    /// Lines for the end.
    made: Vec<String>,
}

struct Running {
    vertex: Vertex,
    started: Timestamp,
    /// The last lines of its log, oldest first.
    lines: Vec<String>,
    /// The line that has no end yet.
    partial: Vec<u8>,
    parts: BTreeMap<String, Pace>,
    is_emulated: bool,
}

/// Colours, or none.
struct Paint {
    is_coloured: bool,
    looks: Looks,
}

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }
    fn error(&self, text: &str) -> String {
        self.with(&self.looks.error, text)
    }
    fn run(&self, text: &str) -> String {
        self.with(&self.looks.run, text)
    }
    fn cancel(&self, text: &str) -> String {
        self.with(&self.looks.cancel, text)
    }
    fn warning(&self, text: &str) -> String {
        self.with(&self.looks.warning, text)
    }
}

impl Tty {
    pub(super) fn new(
        writer: Box<dyn Write + Send>,
        size: TerminalSize,
        is_coloured: bool,
        started: Timestamp,
    ) -> Self {
        let inner = ScreenInner { out: Quietly(Some(writer)), buffer: Vec::new() };
        Self {
            screen: Screen { inner: Arc::new(Mutex::new(inner)), size: Arc::from(size) },
            bar: None,
            drawn: Timestamp::MIN,
            paint: Paint { is_coloured, looks: Looks::default() },
            started,
            running: Vec::new(),
            finished: Vec::new(),
            counts: Counts::default(),
            expected: None,
            made: Vec::new(),
        }
    }

    /// Sets how it looks.
    pub(super) fn with_looks(mut self, looks: Looks) -> Self {
        self.paint.looks = looks;
        self
    }

    fn find(&mut self, digest: &Digest) -> Option<&mut Running> {
        self.running.iter_mut().find(|r| r.vertex.digest == *digest)
    }

    fn done(&mut self, at: Timestamp, digest: &Digest, outcome: &Outcome) {
        let Some(i) = self.running.iter().position(|r| r.vertex.digest == *digest) else { return };
        let running = self.running.remove(i);
        let took = running.took(at);
        if running.vertex.is_step {
            let count = match outcome {
                Outcome::Cached => &mut self.counts.cached,
                Outcome::Ran => &mut self.counts.ran,
                Outcome::Failed(_) => &mut self.counts.failed,
                Outcome::Cancelled => &mut self.counts.cancelled,
            };
            *count += 1;
        } else if matches!(outcome, Outcome::Cached) || seconds(running.started, at) < 0.05 {
            // Our own doings are worth a line only where they took time.
            if !matches!(outcome, Outcome::Failed(_)) {
                return;
            }
        }
        let columns = self.columns();
        let line = match outcome {
            Outcome::Cached => {
                self.paint.run(&row("=> CACHED ", &running.vertex.name, "", columns))
            }
            Outcome::Ran => row("=> ", &running.vertex.name, &took, columns),
            Outcome::Failed(_) => {
                self.paint.error(&row("=> ERROR ", &running.vertex.name, &took, columns))
            }
            Outcome::Cancelled => {
                self.paint.cancel(&row("=> CANCELED ", &running.vertex.name, &took, columns))
            }
        };
        self.finished.push(line);
    }

    fn warning(&mut self, warning: &Warning) {
        let text = format!("WARN: {}", clean_line(warning.short.as_bytes()));
        self.finished.push(self.paint.warning(&text));
    }

    fn columns(&self) -> usize {
        usize::from(self.screen.width()).max(20)
    }

    /// Returns the window as lines that fit the terminal.
    fn window(&self, now: Timestamp) -> String {
        let columns = self.columns();
        // Two lines stay free: the head, and the one the cursor is in.
        let height = usize::from(self.screen.height()).saturating_sub(3).max(1);
        let shown = self.running.len().min(height.div_ceil(2));
        let hidden = self.running.len() - shown;
        let spare = height.saturating_sub(shown + usize::from(hidden > 0));
        let per_step = (spare / shown.max(1)).min(self.paint.looks.log_lines);
        let done = self.counts.steps();
        // Steps that a failure left out may be missing, never too many.
        let done = match (self.expected, self.running.iter().any(|running| running.vertex.is_step))
        {
            (Some(steps), _) if steps >= done => format!(", {done}/{steps}"),
            (_, false) if done == 0 => String::new(),
            _ => format!(", {done} done"),
        };
        let head = format!("[+] {:.1}s{done}", seconds(self.started, now));
        let mut lines = vec![fit(&head, columns)];
        for running in self.running.iter().take(shown) {
            let took = running.took(now);
            lines.push(row("=> ", &running.vertex.name, &took, columns));
            let part = |(id, pace): (&String, &Pace)| {
                format!("{}{}{}", short(&clean_line(id.as_bytes())), pace.amount(), pace.rate(now))
            };
            let mut below: Vec<String> = running.parts.iter().map(part).collect();
            below.extend(running.lines.iter().cloned());
            // A prompt, or a line that overwrites itself, has no end yet.
            below.extend(Some(clean_line(&running.partial)).filter(|line| !line.trim().is_empty()));
            for line in &below[below.len().saturating_sub(per_step)..] {
                lines.push(self.paint.dim(&fit(&format!("   {line}"), columns)));
            }
        }
        if hidden > 0 {
            lines.push(fit(&format!("   and {hidden} more"), columns));
        }
        lines.join("\n")
    }

    fn draw(&mut self, now: Timestamp) {
        let window = self.window(now);
        let bar = self.bar.get_or_insert_with(|| {
            let target =
                ProgressDrawTarget::term_like_with_hz(Box::new(self.screen.clone()), u8::MAX);
            let bar = ProgressBar::with_draw_target(None, target);
            let style = ProgressStyle::with_template("{msg}").expect("the template is constant");
            bar.set_style(style);
            bar
        });
        if !self.finished.is_empty() {
            bar.println(self.finished.join("\n"));
            self.finished.clear();
        }
        bar.set_message(window);
        bar.tick();
    }
}

/// Lays out a head, a name cut to fit, and a time at the right edge.
fn row(head: &str, name: &str, time: &str, columns: usize) -> String {
    let name = short(name);
    let name = clean_line(name.replace('\n', " ").as_bytes());
    // One column stays free: some terminals wrap when the last one is filled.
    let room = columns.saturating_sub(1);
    let left = fit(&format!("{head}{name}"), room.saturating_sub(time.len() + 1));
    let gap = room.saturating_sub(width(&left) + time.len());
    if time.is_empty() { left } else { format!("{left}{}{time}", " ".repeat(gap)) }
}

impl Running {
    /// What stands at the right edge: how long it has run, and whether that was in an emulator.
    fn took(&self, now: Timestamp) -> String {
        let mark = if self.is_emulated { "emulated " } else { "" };
        format!("{mark}{:.1}s", seconds(self.started, now))
    }

    fn log(&mut self, data: &[u8], log_lines: usize) {
        // Only what can still be seen is looked at: a step may print gigabytes.
        let from = data
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, b)| **b == b'\n')
            .nth(log_lines)
            .map_or(0, |(i, _)| i + 1);
        if from > 0 {
            self.partial.clear();
        }
        for piece in data[from..].split_inclusive(|&b| b == b'\n') {
            if self.partial.len() + piece.len() > PARTIAL_MAX {
                self.partial.clear();
            }
            self.partial.extend_from_slice(&piece[piece.len().saturating_sub(PARTIAL_MAX)..]);
            if self.partial.ends_with(b"\n") {
                self.partial.pop();
                let line = clean_line(&self.partial);
                self.partial.clear();
                if !line.trim().is_empty() {
                    self.lines.push(line);
                }
            }
        }
        let surplus = self.lines.len().saturating_sub(log_lines);
        self.lines.drain(..surplus);
    }
}

impl Renderer for Tty {
    fn take(&mut self, at: Timestamp, event: Event) {
        match event {
            Event::VertexStarted(vertex) => self.running.push(Running {
                vertex,
                started: at,
                lines: Vec::new(),
                partial: Vec::new(),
                parts: BTreeMap::new(),
                is_emulated: false,
            }),
            Event::VertexDone { vertex, outcome } => self.done(at, &vertex, &outcome),
            Event::Log { vertex, data, .. } => {
                let log_lines = self.paint.looks.log_lines;
                if let Some(running) = self.find(&vertex) {
                    running.log(&data, log_lines);
                }
            }
            Event::Status { vertex, id, current, total, is_done } => {
                if let Some(running) = self.find(&vertex) {
                    if is_done {
                        running.parts.remove(&id);
                    } else {
                        running
                            .parts
                            .entry(id)
                            .or_insert_with(|| Pace::new(at, current, total))
                            .advance(current, total);
                    }
                }
            }
            Event::Warning(warning) => self.warning(&warning),
            Event::Notice { vertex, text } => {
                let step = vertex.and_then(|digest| self.find(&digest));
                let step = step.map(|running| {
                    // Its place in the file says which it is: `[2/3]`.
                    let name = &running.vertex.name;
                    let place = name.find(']').map_or(name.as_str(), |end| &name[..=end]);
                    format!("{} ", clean_line(place.as_bytes()))
                });
                let text = clean_line(text.as_bytes());
                let line = format!("WARN: {}{text}", step.unwrap_or_default());
                self.finished.push(self.paint.warning(&line));
            }
            Event::Confined { text, .. } => self.finished.push(format!("commands run {text}")),
            Event::Emulated { vertex, .. } => {
                if let Some(running) = self.find(&vertex) {
                    running.is_emulated = true;
                }
            }
            Event::Expected { steps } => self.expected = Some(steps),
            Event::Made { text } => self.made.push(clean_line(text.as_bytes())),
        }
    }

    fn flush(&mut self, now: Timestamp) -> Option<Duration> {
        let age = seconds(self.started, now);
        if age < FIRST_DRAW && self.bar.is_none() {
            return Some(Duration::from_secs_f64(FIRST_DRAW - age));
        }
        // Events come faster than eyes.
        let since = Duration::from_secs_f64(seconds(self.drawn, now));
        if since < REDRAW {
            return Some(REDRAW.saturating_sub(since));
        }
        self.drawn = now;
        self.draw(now);
        Some(REDRAW)
    }

    fn finish(&mut self, now: Timestamp) {
        if let Some(bar) = self.bar.take() {
            if !self.finished.is_empty() {
                bar.println(self.finished.join("\n"));
                self.finished.clear();
            }
            bar.finish_and_clear();
        }
        let mut text = String::new();
        for line in self.finished.drain(..) {
            text.push_str(&line);
            text.push('\n');
        }
        let wall = Duration::from_secs_f64(seconds(self.started, now));
        text.push_str(&self.counts.summary(wall));
        text.push('\n');
        for line in self.made.drain(..) {
            text.push_str(&line);
            text.push('\n');
        }
        self.screen.write_now(text.as_bytes());
    }
}

/// The terminal as `indicatif` wants it: everything between two flushes goes out in one write.
#[derive(Clone)]
struct Screen {
    inner: Arc<Mutex<ScreenInner>>,
    size: Arc<dyn Fn() -> (u16, u16) + Send + Sync>,
}

struct ScreenInner {
    out: Quietly,
    buffer: Vec<u8>,
}

impl Screen {
    fn push(&self, text: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.buffer.extend_from_slice(text.as_bytes());
    }

    fn write_now(&self, bytes: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let ScreenInner { out, buffer } = &mut *inner;
        buffer.extend_from_slice(bytes);
        out.write(buffer);
        buffer.clear();
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        (self.size)().1
    }

    fn height(&self) -> u16 {
        (self.size)().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.push(&format!("\x1b[{n}A"));
        }
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.push(&format!("\x1b[{n}B"));
        }
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.push(&format!("\x1b[{n}C"));
        }
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.push(&format!("\x1b[{n}D"));
        }
        Ok(())
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.push(s);
        self.push("\n");
        Ok(())
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.push(s);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.push("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.write_now(b"");
        Ok(())
    }
}
