//! Solving: a plan becomes layers.
//!
//! # Overview
//!
//! One thread, the coordinator, owns the graph and never blocks on work: it decides, workers do.
//! A worker is an operating system thread that takes one job and sends one event back. One worker
//! takes many: it writes layers, records and history, in the order in which the steps ended.
//!
//! A step goes through these states:
//!
//! ```text
//! waiting ─ its inputs are being computed (files hashed), its parent is not there yet
//!    │  inputs known, parent's files usable
//! keyed ─── no record could be hit ──────────────────────────────┐
//!    │  parent's chain known                                     │
//! looked up ── hit ──► done                                      │
//!    │  miss; where an imported cache has it: brought here, looked up again
//! locked ── another build ran it in the meantime: looked up again      │
//!    │                                                           │
//! running ◄──────────────────────────────────────────────────────┘
//!    │  its files are usable: successors may run on them
//! digesting ─ content id and, where an image will need it, diff_id are computed
//!    │  chain known
//! recording ─ interned, recorded
//!    │
//! done
//! ```
//!
//! Inputs are computed as soon as the trees they come from exist, side by side with whatever runs.
//! A step whose key no record has ever had does not wait for its parent to be hashed.
//!
//! # Cancellation
//!
//! The first failure or an interruption sets the [`Cancel`] token, which every worker watches. The
//! coordinator then waits for the workers, so nothing is left running or mounted. Hashing goes on
//! after a failure: the steps before it need not run again.
//!
//! # Not here
//!
//! Which steps there are: [`crate::plan`]. What a key is made of: [`crate::cache`]. Why a step
//! missed: [`crate::explain`].

mod ahead;
mod audit;
mod cache_mounts;
mod coordinator;
mod copies;
mod deltas;
mod digest;
mod disk_guard;
mod emulations;
mod exec;
mod failed;
mod image;
mod inputs;
mod mask;
mod mounts;
mod record;
mod remote;
mod step_context;
#[cfg(test)]
mod tests;
mod trees;

use crate::cache::{Cost, Import, Inputs, Missing, Output, TreeEntry, TreeId};
use crate::context;
use crate::image::Image;
use crate::oci::Digest;
use crate::plan::{Plan, StepId, Target};
use crate::progress::Progress;
use crate::sandbox::{Oom, Sandbox, SandboxPolicy, Usage};
use crate::store::{ChainId, Key, Layer, Store};
use crate::sys::cancel::Cancel;
use crate::sys::foreign::Given;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use ahead::definitions;
pub use audit::{Audited, audit};
pub use coordinator::{predict, solve};
pub use failed::FailedStep;
pub use image::images_of;

/// Observer of the results of steps: the build's history.
pub trait Observer: Sync {
    /// A step is about to run.
    fn started(&self, step: usize);
    /// A step wrote something. Called from the step's own thread.
    fn output(&self, step: usize, bytes: &[u8]);
    /// Nothing more will come of a step.
    fn ended(&self, step: usize, report: &StepReport);
}

/// All that a build needs besides its plan. Nothing in it changes while the build runs: results are
/// in [`Solved`] and [`Failed`].
pub struct Job<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// Where layers and records are.
    pub store: &'a Store,
    /// Where files are made that go at the end: another store for a prediction, which writes
    /// nothing to `store`.
    pub workshop: &'a Store,
    /// The images, by the number the resolver gave each.
    pub images: &'a [Image],
    /// The contexts, in the order of [`Plan::contexts`].
    pub contexts: Vec<context::Source>,
    /// Settings of all steps.
    pub options: Options,
    /// Where events go.
    pub progress: &'a Progress,
    /// Further observers.
    pub observer: &'a dyn Observer,
    /// What stops the build: an interruption, or the first failure.
    pub cancel: &'a Cancel,
    /// What stops everything: an interruption alone. After a failure the steps that ran are still
    /// hashed and filed.
    pub interrupt: &'a Cancel,
    /// What runs commands.
    pub sandbox: &'a Sandbox,
    /// The build's id, for the records it makes.
    pub build: String,
    /// Caches from elsewhere, asked in this order where the store has no record.
    pub imports: Vec<Import>,
    /// The time of the build, in seconds since 1970: of new directories and records.
    pub now: i64,
}

/// Settings of all steps of a build; none of them is part of a key.
#[derive(Debug, Clone)]
pub struct Options {
    /// Network, limits and confinement of steps. Its network is what `--network=default` means.
    pub policy: SandboxPolicy,
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// Credentials that stood in addresses: where, and the secret text.
    pub credentials: Vec<(String, String)>,
    /// Credentials of git and http sources.
    pub access: context::remote::Access,
    /// Ssh agents by their ids.
    pub ssh: BTreeMap<String, crate::sandbox::Agent>,
    /// What steps may ask for: `network.host`, `security.insecure`.
    pub allow: BTreeSet<String>,
    /// How many steps may run at once.
    pub parallelism: usize,
    /// How much memory the commands that run at one time may use together, in bytes. Each reserves
    /// its own limit; one without a limit all of it.
    pub memory_budget: Option<u64>,
    /// Whether cache mounts of steps that must not be taken from the cache keep their contents.
    pub keeps_cache_mounts: bool,
    /// Bytes of the store's disk that commands leave free.
    pub disk_floor: u64,
    /// Whether the files of a command that failed are wanted.
    pub keeps_failed: bool,
    /// Whether diff_ids are wanted: false for a build without output.
    pub wants_image: bool,
    /// Whether the image's layers will be wanted in the store as plain tars: those that are hashed
    /// to their diff_ids anyhow are written there on the way.
    pub stores_tars: bool,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Where sources that were downloaded are kept between builds.
    pub downloads: PathBuf,
}

/// The largest secret, in bytes, as BuildKit's.
pub const SECRET_MAX: u64 = 500 << 10;

/// Where a secret's bytes are. A file is read when a step needs it, never before.
#[derive(Clone)]
pub enum Secret {
    /// A file of the host.
    File(PathBuf),
    /// The bytes themselves, from the environment or a pipe.
    Value(Vec<u8>),
}

impl Secret {
    /// Returns its bytes.
    ///
    /// # Errors
    ///
    /// What reading its file says; `FileTooLarge` beyond [`SECRET_MAX`].
    pub fn read(&self, cancel: &Cancel) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Value(bytes) => Ok(bytes.clone()),
            Self::File(path) => Given::open(path, cancel)?.read_to_limit(SECRET_MAX),
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What came of a build.
#[derive(Debug)]
pub struct Solved {
    /// Result of each step, by its place in the plan. The layers of the targets' steps have their
    /// diff_ids where an image was wanted.
    pub steps: Vec<StepReport>,
    /// What that took.
    pub counts: Counts,
}

impl Solved {
    /// Returns the layers that a target's steps made, from the bottom up, without those of its base.
    pub fn layers_of(&self, plan: &Plan, target: &Target) -> Vec<&Layer> {
        let made = plan.made(target.files).into_iter();
        made.map(|StepId(index)| {
            self.steps[index].layer.as_ref().expect("a finished step has a layer")
        })
        .collect()
    }
}

/// What the scheduler did, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps whose inputs were computed and hashed to a key.
    pub described: usize,
    /// Records that were looked up.
    pub looked_up: usize,
    /// Steps that were run.
    pub ran: usize,
    /// Layers that were hashed.
    pub hashed: usize,
    /// Results that were fetched from other caches.
    pub brought: usize,
}

/// What a build would do.
#[derive(Debug)]
pub struct Predicted {
    /// What would become of each step, by its place in the plan.
    pub steps: Vec<StepReport>,
    /// The files that steps would read, by the hashes that their inputs name.
    pub listings: BTreeMap<TreeId, Vec<TreeEntry>>,
}

/// Result of a step.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// How it ended.
    pub end: StepEnd,
    /// What it depends on, once known.
    pub inputs: Option<Inputs>,
    /// The hash of that.
    pub key: Option<Key>,
    /// The files it started from, once known.
    pub parent: Option<ChainId>,
    /// Why there was no hit.
    pub miss: Option<Miss>,
    /// When its layer was made, in seconds since 1970.
    pub created: Option<i64>,
    /// What it cost, or had cost the build that ran it.
    pub cost: Cost,
    /// Its layer.
    pub layer: Option<Layer>,
    /// What is filed of that.
    pub output: Option<Output>,
    /// Whether sources changed while they were copied, so that nothing was filed.
    pub is_unsound: bool,
    /// What ran its command, where that was an emulator.
    pub emulator: Option<String>,
    /// How long after the build it began, in microseconds.
    pub began_us: u64,
    /// From its begin to its end in this build, in microseconds.
    pub wall_us: u64,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// It was not reached.
    NotReached,
    /// Its result was there, made by this build.
    Hit {
        /// The build that ran it.
        build: String,
    },
    /// It ran; when predicting, it would run.
    Ran,
    /// It failed.
    Failed {
        /// What the message says.
        message: String,
        /// The status of its command, where it had one.
        exit: Option<i32>,
    },
    /// When predicting: whether it would hit shows only once an earlier step has run.
    Unknown {
        /// The place of that step in the plan.
        after: usize,
        /// The builds whose results it could hit.
        builds: Vec<String>,
    },
}

/// Why a step ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// There was no record to hit.
    Missing(Missing),
    /// Records were not to be used.
    NoCache,
}

/// The step that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("step {name} failed")]
pub struct StepError {
    /// The step's place in the plan.
    pub step: usize,
    /// Its progress name.
    pub name: String,
    /// Its first and last line in the Dockerfile.
    pub lines: (u32, u32),
    /// What to ask [`Progress::last_lines`] for.
    pub vertex: Digest,
    /// Cause of the failure.
    #[source]
    pub cause: Cause,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The command ended with a status other than 0.
    #[error("the command did not complete successfully: exit code: {status}")]
    Exit {
        /// Its status, 128 + n for signal n.
        status: i32,
        /// The kernel's out-of-memory kill, where that was it.
        oom: Option<Oom>,
        /// Its limit of processes and threads, if it reached that.
        pids: Option<u64>,
        /// What it used.
        usage: Usage,
    },
    /// The command was ended before it had filled the disk of the store.
    #[error("the command was ended: it left only {left} bytes of the disk free")]
    DiskFull {
        /// Bytes that were free then.
        left: u64,
    },
    /// Files could not be chosen.
    #[error(transparent)]
    Context(#[from] context::ContextError),
    /// A source could not be brought here.
    #[error(transparent)]
    Remote(#[from] context::remote::RemoteError),
    /// Files could not be copied.
    #[error(transparent)]
    Copy(#[from] crate::copy::CopyError),
    /// Layers could not be stacked.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// A layer could not be read.
    #[error(transparent)]
    Layer(#[from] crate::layer::LayerError),
    /// The command could not be started.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// The store could not be used.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
    /// A secret or agent that the step requires was not given.
    #[error("{kind} {id:?} is required and was not given")]
    NotGiven {
        /// "secret" or "ssh agent".
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// A secret could not be read.
    #[error("cannot read secret {id:?} from {}", path.display())]
    Secret {
        /// Its id.
        id: String,
        /// Its file.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// The step asks for something that `--allow` must grant.
    #[error("{entitlement} is not allowed")]
    NotAllowed {
        /// What `--allow` takes.
        entitlement: &'static str,
    },
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl Cause {
    /// Says whether this is not a failure of its own but the consequence of a request to stop.
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled
                | Self::Context(context::ContextError::Cancelled)
                | Self::Remote(context::remote::RemoteError::Cancelled)
                | Self::Copy(crate::copy::CopyError::Cancelled)
                | Self::Snapshot(crate::snapshot::SnapshotError::Cancelled)
                | Self::Layer(crate::layer::LayerError::Cancelled)
                | Self::Sandbox(crate::sandbox::SandboxError::Cancelled)
                | Self::Store(crate::store::StoreError::Cancelled)
        )
    }
}

/// Why a build ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// A step failed.
    #[error(transparent)]
    Step(Box<StepError>),
    /// Something outside of steps failed: the last hashing, the store.
    #[error(transparent)]
    Other(Cause),
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

/// A build that ended without a result, with the result of its steps until then.
#[derive(Debug)]
pub struct Failed {
    /// Cause of the failure.
    pub error: SolveError,
    /// Result of each step.
    pub steps: Vec<StepReport>,
    /// The files of the command that failed, where [`Options::keeps_failed`] says so.
    pub failed_step: Option<Box<FailedStep>>,
}
