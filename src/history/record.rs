//! What is kept of a build: `builds/<id>/build.jsonl`.

use super::BuildId;
use crate::cache::{Cost, Inputs, Missing, Output};
use crate::oci::Digest;
use crate::store::{ChainId, Key, StorePart};
use serde::{Deserialize, Serialize};

/// The format of a build's record. Records of a larger number are not read.
pub(super) const RECORD_VERSION: u32 = StorePart::Builds.version();

/// What is known of a build when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// The main context: an absolute path, or the address of a remote one without credentials.
    pub context: String,
    /// The Dockerfile: relative to the context where it lies in it, else an absolute path; `-` for
    /// standard input.
    pub dockerfile: String,
    /// The stage that is built: its name, or its number from 0.
    pub target: String,
    /// Its platform, as `linux/amd64`; several with commas between them.
    pub platform: String,
    /// What confined its commands, as `--confinement` names it; `None` for a build without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<String>,
    /// The names the image is to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The build's name: the one that was given (`BUILDKIT_BUILD_NAME`), else one of
    /// [`derived_name`]; empty in records of older versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The address of the git repository that the context is, or is checked out of, without
    /// credentials; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// The commit of the context, with `-dirty` where files were changed since; empty where it is
    /// not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
}

impl About {
    /// Returns the platforms that it is for, in the order in which they were asked for.
    pub fn platforms(&self) -> Vec<&str> {
        self.platform.split(',').filter(|platform| !platform.is_empty()).collect()
    }

    /// Returns the build's name; records of older versions have one as well.
    pub fn name(&self) -> String {
        match self.name.is_empty() {
            true => derived_name(&self.context, &self.dockerfile, None),
            false => self.name.clone(),
        }
    }
}

/// Returns the name of a build that was given none, as buildx makes them: the last part of the
/// context's path (or its address), the Dockerfile if it is not `Dockerfile`, and the target that
/// was asked for.
pub fn derived_name(context: &str, dockerfile: &str, target: Option<&str>) -> String {
    let is_address = context.contains("://") || context.starts_with("git@");
    let mut name = match context.trim_end_matches('/').rsplit('/').next() {
        Some(last) if !is_address && !last.is_empty() => last.to_owned(),
        _ => context.to_owned(),
    };
    if !matches!(dockerfile, "Dockerfile" | "-") && dockerfile != context {
        // Outside the context it is an absolute path, of which the last part says enough.
        let file = match dockerfile.starts_with('/') {
            true => dockerfile.rsplit('/').next().unwrap_or(dockerfile),
            false => dockerfile,
        };
        name = format!("{name}/{file}");
    }
    match target {
        Some(target) => format!("{name} ({target})"),
        None => name,
    }
}

/// What is known of a build when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// When it ended, in milliseconds since 1970.
    pub finished_ms: i64,
    /// How it ended.
    pub outcome: Outcome,
    /// The image's id: the digest of its config.
    pub image: Option<Digest>,
    /// The digest of the image's manifest.
    pub manifest: Option<Digest>,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// It has not ended.
    Running,
    /// It made its image.
    Ok,
    /// It failed.
    Failed {
        /// The error's first line.
        message: String,
    },
    /// It was interrupted.
    Cancelled,
    /// Its process died before it could say anything.
    Interrupted,
    /// It has not been run: this is what it would do.
    Predicted,
}

/// A build: what it was for, how it ended, and its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRecord {
    /// Its name in the store; that of a prediction is the one it would at least have.
    pub id: BuildId,
    /// What it was for.
    pub about: About,
    /// When it ended, in milliseconds since 1970.
    pub finished_ms: Option<i64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The image it made.
    pub image: Option<Digest>,
    /// The digest of that image's manifest.
    pub manifest: Option<Digest>,
    /// Whether another machine made the build, and its record was imported.
    pub is_imported: bool,
    /// What should be known of the image, as sentences: secrets that it was allowed to hold.
    pub notes: Vec<String>,
    /// Its steps in the order of [`StepRecord::number`]; empty where only the head was read.
    pub steps: Vec<StepRecord>,
}

impl BuildRecord {
    /// Returns the platforms whose images need a step of the build.
    pub fn targets_of<'a>(&'a self, step: &'a StepRecord) -> Vec<&'a str> {
        match step.targets.is_empty() {
            true => self.about.platforms(),
            false => step.targets.iter().map(String::as_str).collect(),
        }
    }

    /// Leaves what is for one platform; `None` where the build is not for it.
    pub fn only_for(mut self, platform: &str) -> Option<Self> {
        if !self.about.platforms().contains(&platform) {
            return None;
        }
        let is_for = |step: &StepRecord| self.targets_of(step).contains(&platform);
        let kept: Vec<bool> = self.steps.iter().map(is_for).collect();
        let mut kept = kept.into_iter();
        self.steps.retain(|_| kept.next().unwrap_or_default());
        platform.clone_into(&mut self.about.platform);
        for step in &mut self.steps {
            step.targets.clear();
        }
        Some(self)
    }
}

/// The first line of a build's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) version: u32,
    pub(super) id: BuildId,
    #[serde(flatten)]
    pub(super) about: About,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) finished_ms: Option<i64>,
    pub(super) outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<Digest>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_imported: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

impl Head {
    /// The first line of a build that has ended.
    pub(super) fn of(build: &BuildRecord) -> Self {
        Self {
            version: RECORD_VERSION,
            id: build.id,
            about: build.about.clone(),
            finished_ms: build.finished_ms,
            outcome: build.outcome.clone(),
            image: build.image,
            manifest: build.manifest,
            is_imported: build.is_imported,
            notes: build.notes.clone(),
        }
    }

    pub(super) fn into_record(self, steps: Vec<StepRecord>) -> BuildRecord {
        let Self { id, about, finished_ms, outcome, image, manifest, is_imported, notes, .. } =
            self;
        BuildRecord { id, about, finished_ms, outcome, image, manifest, is_imported, notes, steps }
    }
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// No layers: `FROM scratch`.
    Scratch,
    /// An image.
    Image {
        /// Its full name.
        name: String,
        /// The digest it stood for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// A step of the same build.
    Step {
        /// Its [`StepRecord::number`].
        number: usize,
    },
    /// A build context.
    Context {
        /// Its name; empty for the main one.
        name: String,
    },
}

/// One step of a build, and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its place among all steps of the build, from 0; the name of its log.
    pub number: usize,
    /// The name that progress shows: `[build 2/5] RUN make`.
    pub name: String,
    /// Its stage's name, or number from 0.
    pub stage: String,
    /// The platform that it is on; empty in records of older versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Of a build for several platforms: those whose images need the step, in the order of the build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// The instruction as it stands in the Dockerfile, variables unexpanded.
    pub instruction: String,
    /// First and last line in the Dockerfile, from 1.
    pub lines: (u32, u32),
    /// The files it starts from.
    pub from: Origin,
    /// What else it reads, in the order of its sources and mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<Origin>,
    /// The hash of `inputs`; none where they were never known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The chain of the files it starts from; none where it was never known, or does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ChainId>,
    /// Every input of its key; empty where they were never known.
    #[serde(default)]
    pub inputs: Inputs,
    /// Its result.
    pub outcome: StepOutcome,
    /// Why there was no hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss: Option<Miss>,
    /// Whether what it copied changed while it was copied, so that no record was filed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unsound: bool,
    /// What ran its command in this build, where that was an emulator: its path, or `the host's
    /// handler`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator: Option<String>,
    /// The layer it made or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// How long after the build it began, in microseconds.
    #[serde(default)]
    pub began_us: u64,
    /// From its begin to its end in this build, in microseconds.
    #[serde(default)]
    pub wall_us: u64,
}

/// Result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum StepOutcome {
    /// A record was used.
    Hit {
        /// The build that made the record.
        build: String,
        /// What the step cost then.
        cost: Cost,
    },
    /// It ran.
    Ran {
        /// What it cost.
        cost: Cost,
    },
    /// It ran and failed.
    Failed {
        /// Its exit status, 128 + signal for a killed one; none where it could not be started.
        exit: Option<i32>,
        /// What it cost until then.
        #[serde(default)]
        cost: Cost,
    },
    /// The build ended before it.
    NotReached,
    /// In a prediction: it would run.
    WouldRun,
    /// In a prediction: it hits only if that step makes the same files as in one of those builds.
    DependsOn {
        /// The [`StepRecord::number`] of the step.
        number: usize,
        /// The builds whose results it could hit.
        #[serde(default)]
        builds: Vec<String>,
    },
}

/// Why a step did not hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    /// No step of this key was ever recorded here.
    Key,
    /// The key is known, but not on this parent.
    Parent,
    /// The record is there and its layer is gone.
    Layer,
    /// The record is there and cannot be read.
    Damaged,
    /// The record is there, in the format of another version of the program.
    Format,
    /// Records were not looked up: `--no-cache`.
    NoCache,
}

impl From<Missing> for Miss {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Key => Self::Key,
            Missing::Parent => Self::Parent,
            Missing::Layer => Self::Layer,
            Missing::Damaged => Self::Damaged,
            Missing::Format => Self::Format,
        }
    }
}

impl StepRecord {
    /// Says whether its key was ever made, so that it can be compared.
    pub fn is_keyed(&self) -> bool {
        self.key.is_some()
    }

    /// Returns what the step cost when it ran, in microseconds, in this build or in the one that it
    /// was taken from; `None` where it did not run.
    pub fn run_us(&self) -> Option<u64> {
        match &self.outcome {
            // A step that was left out, because nothing needed its files, hits without a known
            // cost.
            StepOutcome::Hit { cost, .. } if cost.wall_us == 0 => None,
            StepOutcome::Hit { cost, .. } | StepOutcome::Ran { cost } => Some(cost.wall_us),
            _ => None,
        }
    }

    /// Says whether the step began to run in this build.
    pub fn has_run(&self) -> bool {
        matches!(self.outcome, StepOutcome::Ran { .. } | StepOutcome::Failed { .. })
    }
}
