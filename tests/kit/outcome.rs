//! What a run of the program showed: its status, its output, and the steps in its JSON progress.

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Output;

/// The end of a run.
pub struct Outcome {
    /// The exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    stdout: Vec<u8>,
    text: String,
    steps: Vec<Step>,
    log: String,
    warnings: Vec<Value>,
}

/// One instruction that touched files, as the progress showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `[stage 2/3] RUN make`.
    pub name: String,
    /// What became of it.
    pub state: State,
    /// What its command ran in, if that was an emulator.
    pub emulator: Option<String>,
}

impl Step {
    /// The instruction alone: `RUN make`.
    pub fn instruction(&self) -> &str {
        self.name.split_once("] ").map_or(&self.name, |(_, text)| text)
    }
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its record was found.
    Cached,
    /// It ran to its end.
    Ran,
    /// It ran and failed.
    Failed,
    /// It was never finished.
    Open,
}

/// How many steps ran and how many were found in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Steps that ran.
    pub ran: usize,
    /// Steps that did not have to.
    pub cached: usize,
}

impl Outcome {
    /// Reads what a process that has ended said.
    pub fn of(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let (mut text, mut log, mut warnings) = (String::new(), Vec::new(), Vec::new());
        let (mut order, mut vertexes) = (Vec::new(), BTreeMap::<String, Step>::new());
        for line in stderr.lines() {
            let Some(event) =
                line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten()
            else {
                text.push_str(line);
                text.push('\n');
                continue;
            };
            let event: Value = event;
            for vertex in items(&event, "vertexes") {
                let digest = vertex["digest"].as_str().expect("a vertex has a digest");
                let step = vertexes.entry(digest.to_owned()).or_insert_with(|| {
                    order.push(digest.to_owned());
                    Step { name: String::new(), state: State::Open, emulator: None }
                });
                if let Some(name) = vertex["name"].as_str() {
                    name.clone_into(&mut step.name);
                }
                if let Some(emulator) = vertex["emulator"].as_str() {
                    step.emulator = Some(emulator.to_owned());
                }
                if vertex["error"].as_str().is_some_and(|error| !error.is_empty()) {
                    step.state = State::Failed;
                } else if vertex["cached"] == Value::Bool(true) {
                    step.state = State::Cached;
                } else if vertex["completed"].is_string() && step.state == State::Open {
                    step.state = State::Ran;
                }
            }
            warnings.extend(items(&event, "warnings").cloned());
            for entry in items(&event, "logs") {
                log.extend(base64(entry["data"].as_str().expect("a log has data")));
            }
        }
        let steps = order.into_iter().filter_map(|digest| vertexes.remove(&digest));
        Self {
            status: output.status.code(),
            stdout: output.stdout,
            text,
            steps: steps.filter(|step| is_step(&step.name)).collect(),
            log: String::from_utf8_lossy(&log).into_owned(),
            warnings,
        }
    }

    /// The warnings in the JSON progress.
    pub fn warnings(&self) -> &[Value] {
        &self.warnings
    }

    /// Standard output, which is data.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as it came.
    pub fn bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).expect("JSON on standard output")
    }

    /// Standard error but for the JSON progress: warnings, notices, the error.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the steps printed.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// The steps that touch files, FROM and the metadata instructions left out.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How many ran, how many were cached.
    pub fn counts(&self) -> Counts {
        let of = |state| self.steps.iter().filter(|step| step.state == state).count();
        Counts { ran: of(State::Ran), cached: of(State::Cached) }
    }

    /// The instructions that ran, in the order they were started.
    pub fn ran(&self) -> Vec<&str> {
        let ran = self.steps.iter().filter(|step| step.state == State::Ran);
        ran.map(Step::instruction).collect()
    }

    /// Checks that each of these stands in the messages.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.text.contains(part), "`{part}` is not in:\n{}", self.text);
        }
        self
    }
}

fn items<'a>(event: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    event[name].as_array().into_iter().flatten()
}

fn is_step(name: &str) -> bool {
    let Some((place, text)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return false;
    };
    let word = text.split_whitespace().next().unwrap_or("");
    place.contains('/') && matches!(word, "RUN" | "COPY" | "ADD" | "WORKDIR")
}

/// Decodes what the JSON progress encodes.
pub fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter_map(value) {
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
