//! One JSON object per line, in the shape of BuildKit's `SolveStatus`, for tools that read that.
//!
//! Source: BuildKit, `client/graph.go`.

use super::{Event, Outcome, Quietly, Renderer, Stream, Vertex, Warning};
use crate::oci::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

pub(super) struct RawJson {
    out: Quietly,
    buffer: Vec<u8>,
    running: BTreeMap<Digest, Running>,
    parts: BTreeMap<(Digest, String), Timestamp>,
}

struct Running {
    vertex: Vertex,
    started: Timestamp,
    emulator: Option<String>,
}

#[derive(Serialize)]
struct VertexJson<'a> {
    digest: &'a Digest,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    inputs: &'a [Digest],
    name: &'a str,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// What its command runs in; BuildKit has no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    emulator: Option<&'a str>,
}

impl<'a> VertexJson<'a> {
    fn of(running: &'a Running) -> Self {
        let Running { vertex, started, emulator } = running;
        Self {
            digest: &vertex.digest,
            inputs: &vertex.inputs,
            name: &vertex.name,
            started: started.to_string(),
            completed: None,
            cached: false,
            error: None,
            emulator: emulator.as_deref(),
        }
    }
}

impl RawJson {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self {
            out: Quietly(Some(writer)),
            buffer: Vec::new(),
            running: BTreeMap::new(),
            parts: BTreeMap::new(),
        }
    }

    fn line(&mut self, key: &str, value: &impl Serialize) {
        self.buffer.extend_from_slice(b"{\"");
        self.buffer.extend_from_slice(key.as_bytes());
        self.buffer.extend_from_slice(b"\":[");
        serde_json::to_writer(&mut self.buffer, value).expect("writing to memory cannot fail");
        self.buffer.extend_from_slice(b"]}\n");
    }

    /// Writes a notice as a log, since a warning is a finding of a check. A log names a vertex: one
    /// of its own where it is about no other.
    fn notice(&mut self, at: Timestamp, vertex: Option<Digest>, text: &str) {
        let own = vertex.is_none().then(|| Vertex::internal("[internal] notice"));
        let log = |digest: Digest| {
            let data = STANDARD.encode(format!("WARN: {text}\n").as_bytes());
            json!({"vertex": digest, "stream": 2, "data": data, "timestamp": at.to_string()})
        };
        if let Some(own) = own {
            let digest = own.digest;
            self.take(at, Event::VertexStarted(own));
            self.line("logs", &log(digest));
            self.take(at, Event::VertexDone { vertex: digest, outcome: Outcome::Ran });
        } else if let Some(digest) = vertex {
            self.line("logs", &log(digest));
        }
    }

    fn warning(&mut self, warning: &Warning) {
        self.line("warnings", &warning.to_json());
    }
}

impl Warning {
    /// Returns the warning as BuildKit's clients have it.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "level": self.level,
            "short": STANDARD.encode(self.short.as_bytes()),
        });
        let fields = value.as_object_mut().expect("made as an object above");
        if let Some(vertex) = &self.vertex {
            fields.insert("vertex".to_owned(), json!(vertex));
        }
        if !self.detail.is_empty() {
            let detail: Vec<_> =
                self.detail.iter().map(|d| STANDARD.encode(d.as_bytes())).collect();
            fields.insert("detail".to_owned(), json!(detail));
        }
        if let Some(url) = &self.url {
            fields.insert("url".to_owned(), json!(url));
        }
        if let Some(source) = &self.source {
            let info = json!({
                "filename": source.filename,
                "data": STANDARD.encode(source.text.as_bytes()),
                "language": "Dockerfile",
            });
            fields.insert("sourceInfo".to_owned(), info);
        }
        if !self.lines.is_empty() {
            let ranges: Vec<Value> = self
                .lines
                .iter()
                .map(|(first, last)| json!({"start": {"line": first}, "end": {"line": last}}))
                .collect();
            fields.insert("range".to_owned(), Value::Array(ranges));
        }
        value
    }
}

impl Renderer for RawJson {
    fn take(&mut self, at: Timestamp, event: Event) {
        match event {
            Event::VertexStarted(vertex) => {
                let running = Running { vertex, started: at, emulator: None };
                self.line("vertexes", &VertexJson::of(&running));
                self.running.insert(running.vertex.digest, running);
            }
            Event::VertexDone { vertex, outcome } => {
                let Some(running) = self.running.remove(&vertex) else { return };
                let error = match &outcome {
                    Outcome::Failed(message) => Some(message.as_str()),
                    Outcome::Cancelled => Some("context canceled"),
                    Outcome::Ran | Outcome::Cached => None,
                };
                let done = VertexJson {
                    completed: Some(at.to_string()),
                    cached: outcome == Outcome::Cached,
                    error,
                    ..VertexJson::of(&running)
                };
                self.line("vertexes", &done);
            }
            Event::Emulated { vertex, emulator, .. } => {
                if let Some(mut running) = self.running.remove(&vertex) {
                    running.emulator = Some(emulator);
                    self.line("vertexes", &VertexJson::of(&running));
                    self.running.insert(vertex, running);
                }
            }
            Event::Status { vertex, id, current, total, is_done } => {
                let part = (vertex, id);
                let started = *self.parts.entry(part.clone()).or_insert(at);
                let id = &part.1;
                let mut value = json!({
                    "id": id, "vertex": vertex, "current": current,
                    "timestamp": at.to_string(), "started": started.to_string(),
                });
                let fields = value.as_object_mut().expect("made as an object above");
                if let Some(total) = total {
                    fields.insert("total".to_owned(), json!(total));
                }
                if is_done {
                    self.parts.remove(&part);
                    fields.insert("completed".to_owned(), json!(at.to_string()));
                }
                self.line("statuses", &value);
            }
            Event::Log { vertex, stream, data } => {
                let stream = match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                };
                let data = STANDARD.encode(&data);
                self.line(
                    "logs",
                    &json!({"vertex": vertex, "stream": stream, "data": data, "timestamp": at.to_string()}),
                );
            }
            Event::Warning(warning) => self.warning(&warning),
            Event::Notice { vertex, text } => self.notice(at, vertex, &text),
            // BuildKit's clients count vertexes themselves, and find what was made among the
            // statuses.
            Event::Confined { .. } | Event::Expected { .. } | Event::Made { .. } => {}
        }
    }

    fn flush(&mut self, _now: Timestamp) -> Option<Duration> {
        self.out.write(&self.buffer);
        self.buffer.clear();
        None
    }

    fn finish(&mut self, now: Timestamp) {
        self.flush(now);
    }
}
