//! Lines for logs and CI: each is marked with the number of its vertex.
//!
//! ```text
//! #5 [build 2/4] RUN make
//! #5 0.123 cc -c a.c
//! #5 DONE 0.4s
//! ```
//!
//! While one vertex prints, what others print is held back, so that their lines do not alternate:
//! until the first ends, another ends (that is shown at once), or [`TURN`] is over.
//!
//! Source: BuildKit, `util/progress/progressui/printer.go`, for the form of the lines.

use super::clean::clean_line;
use super::pace::{Pace, short};
use super::{Event, Outcome, Quietly, Renderer, Vertex, Warning, seconds};
use crate::oci::Digest;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// How long one vertex may print before another that waits gets its turn.
const TURN: f64 = 5.0;

/// How much of a waiting vertex's output is held back, in bytes; more than that takes its turn.
const HELD: usize = 1 << 20;

/// How long an unfinished line waits for its end; a prompt has none.
const PARTIAL: f64 = 1.0;

/// The longest line held together, in bytes.
const LINE_MAX: usize = 64 << 10;

/// How often a moving status is printed, in seconds, unless it moved by a twentieth of its total.
const STATUS_EVERY: f64 = 5.0;

pub(super) struct Plain {
    out: Quietly,
    buffer: Vec<u8>,
    next_number: usize,
    lanes: BTreeMap<Digest, Lane>,
    /// The vertex that prints, and since when.
    current: Option<(Digest, Timestamp)>,
    is_first: bool,
    /// Lines for the end.
    made: Vec<String>,
}

/// One vertex that runs.
struct Lane {
    vertex: Vertex,
    started: Timestamp,
    /// 0 until it first prints.
    number: usize,
    held: Vec<u8>,
    partial: Vec<u8>,
    partial_since: Timestamp,
    /// Whether the beginning of the current line was printed already.
    is_cut: bool,
    parts: BTreeMap<String, Part>,
}

struct Part {
    pace: Pace,
    printed: Timestamp,
    /// What was printed last.
    shown: u64,
}

impl Plain {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self {
            out: Quietly(Some(writer)),
            buffer: Vec::new(),
            next_number: 1,
            lanes: BTreeMap::new(),
            current: None,
            is_first: true,
            made: Vec::new(),
        }
    }

    /// Lets a vertex print what it holds back, after a header where another printed before.
    fn turn_to(&mut self, digest: Digest, now: Timestamp) {
        let current = self.current.map(|(digest, _)| digest);
        if current != Some(digest) {
            if let Some(old) = current.and_then(|d| self.lanes.get(&d)) {
                self.buffer.extend_from_slice(format!("#{} ...\n", old.number).as_bytes());
            }
            let Some(lane) = self.lanes.get_mut(&digest) else { return };
            if lane.number == 0 {
                lane.number = self.next_number;
                self.next_number += 1;
            }
            if !self.is_first {
                self.buffer.push(b'\n');
            }
            self.is_first = false;
            let name = clean_line(lane.vertex.name.replace('\n', " ").as_bytes());
            self.buffer.extend_from_slice(format!("#{} {name}\n", lane.number).as_bytes());
            self.current = Some((digest, now));
        }
        if let Some(lane) = self.lanes.get_mut(&digest) {
            let prefix = format!("#{} ", lane.number);
            for line in lane.held.split_inclusive(|&b| b == b'\n') {
                self.buffer.extend_from_slice(prefix.as_bytes());
                self.buffer.extend_from_slice(line);
            }
            lane.held.clear();
        }
    }

    /// Prints what is due without changing turns.
    fn settle(&mut self, digest: Digest, now: Timestamp) {
        match self.current {
            Some((current, _)) if current != digest => {
                if self.lanes.get(&digest).is_some_and(|lane| lane.held.len() > HELD) {
                    self.turn_to(digest, now);
                }
            }
            _ => self.turn_to(digest, now),
        }
    }

    fn done(&mut self, at: Timestamp, digest: Digest, outcome: &Outcome) {
        let Some(lane) = self.lanes.get_mut(&digest) else { return };
        lane.end_line(at);
        let text = match outcome {
            Outcome::Cached => "CACHED".to_owned(),
            Outcome::Ran => format!("DONE {:.1}s", seconds(lane.started, at)),
            Outcome::Cancelled => "CANCELED".to_owned(),
            Outcome::Failed(message) => {
                let mut text = String::from("ERROR:");
                for line in message.lines() {
                    text.push(' ');
                    text.push_str(&clean_line(line.as_bytes()));
                }
                text
            }
        };
        lane.hold(&text);
        self.turn_to(digest, at);
        self.lanes.remove(&digest);
        self.current = None;
    }

    fn warning(&mut self, at: Timestamp, warning: &Warning) {
        let short = clean_line(warning.short.as_bytes());
        match warning.vertex.and_then(|digest| self.lanes.get_mut(&digest)) {
            Some(lane) => {
                lane.hold(&format!("WARN: {short}"));
                let digest = lane.vertex.digest;
                self.settle(digest, at);
            }
            None => self.outside(&format!("WARN: {short}")),
        }
    }

    /// Prints a line that belongs to no vertex.
    fn outside(&mut self, line: &str) {
        if let Some((digest, _)) = self.current.take()
            && let Some(lane) = self.lanes.get(&digest)
        {
            self.buffer.extend_from_slice(format!("#{} ...\n", lane.number).as_bytes());
        }
        if !self.is_first {
            self.buffer.push(b'\n');
        }
        self.is_first = false;
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
    }
}

impl Lane {
    fn hold(&mut self, line: &str) {
        self.held.extend_from_slice(line.as_bytes());
        self.held.push(b'\n');
    }

    fn log(&mut self, at: Timestamp, data: &[u8]) {
        for piece in data.split_inclusive(|&b| b == b'\n') {
            if self.partial.is_empty() {
                self.partial_since = at;
            }
            match piece.strip_suffix(b"\n") {
                Some(rest) => {
                    self.partial.extend_from_slice(rest);
                    // The end of a line that was printed before it ended.
                    let is_over = std::mem::take(&mut self.is_cut)
                        && self.partial.iter().all(|byte| *byte == b'\r');
                    match is_over {
                        true => self.partial.clear(),
                        false => self.close_line(),
                    }
                }
                None => self.overwrite(piece),
            }
            if self.partial.len() > LINE_MAX {
                self.close_line();
                self.is_cut = true;
            }
        }
    }

    /// Adds to the unfinished line. Of one that overwrites itself only the last two versions are
    /// kept, so that what is printed of it is the last whole one.
    fn overwrite(&mut self, piece: &[u8]) {
        self.partial.extend_from_slice(piece);
        let mut ends = self.partial.iter().enumerate().rev().filter(|(_, b)| **b == b'\r');
        if let Some((at, _)) = ends.nth(2) {
            self.partial.drain(..=at);
        }
    }

    /// Prints the unfinished line as it is, if there is one.
    fn end_line(&mut self, _at: Timestamp) {
        if !self.partial.is_empty() {
            self.close_line();
            self.is_cut = true;
        }
    }

    fn close_line(&mut self) {
        let time = seconds(self.started, self.partial_since);
        let precision = match time {
            t if t < 10.0 => 3,
            t if t < 100.0 => 2,
            _ => 1,
        };
        let text = clean_line(&self.partial);
        self.partial.clear();
        self.hold(&format!("{time:.precision$} {text}"));
    }

    fn status(&mut self, at: Timestamp, id: &str, current: u64, total: Option<u64>, is_done: bool) {
        let part = self.parts.entry(id.to_owned());
        let is_new = matches!(part, std::collections::btree_map::Entry::Vacant(_));
        let part = part.or_insert_with(|| Part {
            pace: Pace::new(at, current, total),
            printed: at,
            shown: current,
        });
        part.pace.advance(current, total);
        let moved = current.saturating_sub(part.shown) as f64;
        let is_far = total.is_some_and(|total| total > 0 && moved / total as f64 >= 0.05);
        let is_late = seconds(part.printed, at) >= STATUS_EVERY;
        if !(is_new || is_done || is_late || is_far) {
            return;
        }
        (part.printed, part.shown) = (at, current);
        let took = match seconds(part.pace.started, at) {
            time if time > 0.01 => format!(" {time:.1}s"),
            _ => String::new(),
        };
        let name = short(&clean_line(id.as_bytes()));
        let (amount, rate) = (part.pace.amount(), part.pace.rate(at));
        let line = match is_done {
            true => format!("{name}{amount}{took} done"),
            false => format!("{name}{amount}{took}{rate}"),
        };
        if is_done {
            self.parts.remove(id);
        }
        self.hold(&line);
    }
}

impl Renderer for Plain {
    fn take(&mut self, at: Timestamp, event: Event) {
        match event {
            Event::VertexStarted(vertex) => {
                let digest = vertex.digest;
                let lane = Lane {
                    vertex,
                    started: at,
                    number: 0,
                    held: Vec::new(),
                    partial: Vec::new(),
                    partial_since: at,
                    is_cut: false,
                    parts: BTreeMap::new(),
                };
                self.lanes.insert(digest, lane);
                if self.current.is_none() {
                    self.turn_to(digest, at);
                }
            }
            Event::VertexDone { vertex, outcome } => self.done(at, vertex, &outcome),
            Event::Log { vertex, data, .. } => {
                if let Some(lane) = self.lanes.get_mut(&vertex) {
                    lane.log(at, &data);
                    self.settle(vertex, at);
                }
            }
            Event::Status { vertex, id, current, total, is_done } => {
                if let Some(lane) = self.lanes.get_mut(&vertex) {
                    lane.status(at, &id, current, total, is_done);
                    self.settle(vertex, at);
                }
            }
            Event::Warning(warning) => self.warning(at, &warning),
            Event::Notice { vertex, text } => {
                let line = format!("WARN: {}", clean_line(text.as_bytes()));
                match vertex.and_then(|digest| self.lanes.get_mut(&digest)) {
                    Some(lane) => {
                        lane.hold(&line);
                        let digest = lane.vertex.digest;
                        self.settle(digest, at);
                    }
                    None => self.outside(&line),
                }
            }
            Event::Confined { rung, text } => {
                self.outside(&format!("#0 commands run {text}: --confinement={rung}"));
            }
            Event::Emulated { vertex, platform, emulator } => {
                if let Some(lane) = self.lanes.get_mut(&vertex) {
                    let text = format!("emulated: {platform} by {emulator}");
                    lane.hold(&clean_line(text.as_bytes()));
                    self.settle(vertex, at);
                }
            }
            Event::Expected { .. } => {}
            Event::Made { text } => self.made.push(clean_line(text.as_bytes())),
        }
    }

    fn flush(&mut self, now: Timestamp) -> Option<Duration> {
        let mut is_waiting = false;
        for lane in self.lanes.values_mut() {
            if !lane.partial.is_empty() {
                if seconds(lane.partial_since, now) >= PARTIAL {
                    lane.end_line(now);
                } else {
                    is_waiting = true;
                }
            }
        }
        if let Some((digest, since)) = self.current {
            self.turn_to(digest, now);
            let other = self.lanes.iter().find(|(d, lane)| **d != digest && !lane.held.is_empty());
            if let Some((&other, _)) = other {
                if seconds(since, now) >= TURN {
                    self.turn_to(other, now);
                }
                is_waiting = true;
            }
        } else if let Some((&digest, _)) = self.lanes.iter().find(|(_, lane)| !lane.held.is_empty())
        {
            self.turn_to(digest, now);
            is_waiting = true;
        }
        self.out.write(&self.buffer);
        self.buffer.clear();
        is_waiting.then_some(Duration::from_millis(250))
    }

    fn finish(&mut self, now: Timestamp) {
        let waiting: Vec<_> = self.lanes.keys().copied().collect();
        for digest in waiting {
            if let Some(lane) = self.lanes.get_mut(&digest) {
                lane.end_line(now);
                if !lane.held.is_empty() {
                    self.turn_to(digest, now);
                }
            }
        }
        for line in std::mem::take(&mut self.made) {
            self.outside(&line);
        }
        self.out.write(&self.buffer);
        self.buffer.clear();
    }
}
