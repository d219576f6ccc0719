//! What can be reported.

use crate::oci::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

/// Something that happened in a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A vertex began.
    VertexStarted(Vertex),
    /// A vertex ended; it has begun before.
    VertexDone {
        /// Which one.
        vertex: Digest,
        /// How it ended.
        outcome: Outcome,
    },
    /// How far a part of a vertex is: a transfer, an export.
    Status {
        /// Whose part it is.
        vertex: Digest,
        /// What it is called, as `sending layer sha256:…`; one line per id.
        id: String,
        /// Bytes or items done.
        current: u64,
        /// Bytes or items there are; `None` where that is not known.
        total: Option<u64>,
        /// Whether the part is finished.
        is_done: bool,
    },
    /// A step wrote something.
    Log {
        /// Which step.
        vertex: Digest,
        /// Where it wrote.
        stream: Stream,
        /// What it wrote; cut anywhere, even within a character.
        #[serde(serialize_with = "as_base64")]
        data: Vec<u8>,
    },
    /// Something in the Dockerfile deserves attention.
    Warning(Warning),
    /// Something to know.
    Notice {
        /// The step it is about; `None` for the build as a whole.
        vertex: Option<Digest>,
        /// One line.
        text: String,
    },
    /// What confines the commands of the build.
    Confined {
        /// The rung's name, as `--confinement` takes it.
        rung: String,
        /// How commands run there.
        text: String,
    },
    /// The command of a step runs in an emulator.
    Emulated {
        /// Which step.
        vertex: Digest,
        /// What its programs are for: `linux/arm64`.
        platform: String,
        /// What the emulator is called: its path.
        emulator: String,
    },
    /// How many steps there will be.
    Expected {
        /// Instructions of the Dockerfile that are to be cached or run.
        steps: usize,
    },
    /// What was made, for the end of the output.
    Made {
        /// One line: the image, its digest and where it is.
        text: String,
    },
}

impl Event {
    /// Returns how many bytes of a log it carries.
    pub(super) fn log_bytes(&self) -> usize {
        match self {
            Self::Log { data, .. } => data.len(),
            _ => 0,
        }
    }
}

/// One node of the graph, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vertex {
    /// What distinguishes it from the build's others.
    pub digest: Digest,
    /// The vertices it starts from.
    pub inputs: Vec<Digest>,
    /// What people read: `[build 2/4] RUN make`, `[internal] load build context`.
    pub name: String,
    /// Whether it counts as a step in the summary: an instruction of the Dockerfile, not our own
    /// doings.
    pub is_step: bool,
}

impl Vertex {
    /// Describes an instruction of the Dockerfile.
    pub fn step(digest: Digest, inputs: Vec<Digest>, name: impl Into<String>) -> Self {
        Self { digest, inputs, name: name.into(), is_step: true }
    }

    /// Describes something of our own doing, as `[internal] load build definition`; its digest is
    /// that of its name.
    pub fn internal(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { digest: Digest::of(name.as_bytes()), inputs: Vec::new(), name, is_step: false }
    }
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It ran.
    Ran,
    /// Its result was in the cache.
    Cached,
    /// It failed, with the message to show.
    Failed(String),
    /// It was stopped because the build ends.
    Cancelled,
}

/// Where a process wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// A finding about the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The vertex it is about; `None` for the file as a whole.
    pub vertex: Option<Digest>,
    /// BuildKit's level; 1 for all of its checks.
    pub level: u32,
    /// One line.
    pub short: String,
    /// Further lines.
    pub detail: Vec<String>,
    /// Where it is explained.
    pub url: Option<String>,
    /// The file it is in.
    pub source: Option<Source>,
    /// The places: first and last line, one-based.
    pub lines: Vec<(u32, u32)>,
}

/// A text that a warning points into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Its name, as given.
    pub filename: String,
    /// All of it.
    pub text: String,
}

fn as_base64<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(data))
}
