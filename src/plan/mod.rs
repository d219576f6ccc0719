//! Planning: a syntax tree, arguments and platforms become a DAG of steps.
//!
//! In: a parsed [`Dockerfile`](crate::dockerfile::ast::Dockerfile) and a [`PlanRequest`]. Out: a
//! [`Plan`] with every variable expanded, holding the steps that the target needs and no others.
//! Nothing here touches a disk, a clock or the network; the configurations of base images come
//! through a [`Resolver`] that the caller implements.
//!
//! # How
//!
//! 1. `stages` gives every FROM, `COPY --from` and mount `from=` the stage or image it means, finds
//!    the stages that the target reaches, asks the resolver for the images among them, and puts
//!    ONBUILD triggers in place (which may reach further).
//! 2. `dispatch` walks the instructions of the reached stages in source order. Most change only the
//!    configuration; RUN, COPY, ADD and WORKDIR become steps.
//!
//! Every configuration is known when planning ends, layers and times excepted: no instruction's
//! effect on it depends on what a step does.
//!
//! # Not here
//!
//! Words and variables: [`crate::dockerfile`]. Keys: [`crate::cache`]. Running: [`crate::solve`].
//!
//! Source: BuildKit `frontend/dockerfile/dockerfile2llb`, of August 2026.

mod copy;
mod dispatch;
mod merge;
pub(crate) mod paths;
mod ports;
mod run;
mod run_mounts;
mod signals;
mod stages;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod words;

use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::env::Env;
use crate::dockerfile::errors::Error as DockerfileError;
use crate::dockerfile::lint::StageFacts;
use crate::oci::{Config, Platform};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::dockerfile::env::DEFAULT_PATH;
pub use signals::signal_number;
pub use step::{
    Base, BaseId, CacheStart, ContextId, Copy, CopySource, Files, Mount, MountKind, Network, Op,
    Plan, Run, Security, Sharing, Step, StepId, Target, Tree, Workdir,
};

impl Plan {
    /// Says whether any of the steps is a command.
    pub fn runs_commands(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.op, Op::Run(_)))
    }

    /// Mounts these in every RUN, beneath the mounts of its own.
    pub fn mount_everywhere(&mut self, mounts: &[Mount]) {
        for step in &mut self.steps {
            if let Op::Run(run) = &mut step.op {
                run.mounts.splice(0..0, mounts.iter().cloned());
            }
        }
    }

    /// Returns the credentials that stood in addresses of ADD: the address without them, and the
    /// secret.
    pub fn credentials(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for step in &self.steps {
            let Op::Copy(copy) = &step.op else { continue };
            for source in &copy.sources {
                if let CopySource::Url(address) | CopySource::Git(address) = source
                    && let Some(login) = &address.login
                {
                    let secrets = login.secrets().into_iter();
                    all.extend(secrets.map(|secret| (address.text.clone(), secret)));
                }
            }
        }
        all
    }
}

/// What is to be planned.
#[derive(Debug)]
pub struct PlanRequest<'a> {
    /// The parsed file.
    pub dockerfile: &'a Dockerfile,
    /// `--build-arg`s.
    pub build_args: BTreeMap<String, String>,
    /// `--target`: a stage's name or number; the last stage where `None`.
    pub target: Option<String>,
    /// One of `--platform`; the build's own where `None`.
    pub platform: Option<Platform>,
    /// Whether names of steps begin with their platforms, since there are several.
    pub names_platforms: bool,
    /// The platform that builds.
    pub build_platform: Platform,
    /// `--label`s.
    pub labels: BTreeMap<String, String>,
    /// Names of `--build-context`s, in familiar form without `:latest`.
    pub named_contexts: BTreeSet<String>,
    /// `--no-cache`, or the stages of `--no-cache-filter`.
    pub no_cache: NoCache,
}

impl PlanRequest<'_> {
    /// Says whether a name is a named context for a platform: `NAME::PLATFORM`, or `NAME` for any.
    fn has_context(&self, name: &str, platform: &Platform) -> bool {
        self.named_contexts.contains(name)
            || self.named_contexts.contains(&format!("{name}::{platform}"))
    }

    /// Returns the platform of a stage, which may have one of its own.
    fn platform_of<'p>(&'p self, own: Option<&'p Platform>) -> &'p Platform {
        own.or(self.platform.as_ref()).unwrap_or(&self.build_platform)
    }
}

/// Which steps must not come out of the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// Those of these stages, by name.
    Stages(BTreeSet<String>),
}

/// What a name after FROM or `--from=` turned out to be.
#[derive(Debug, Clone)]
pub enum Resolved {
    /// An image.
    Image {
        /// The caller's number for it.
        image: usize,
        /// Its full name, with the digest where one is known.
        name: String,
        /// Its configuration document.
        config: Config,
    },
    /// A directory of files, given by `--build-context`: the name it was given.
    Context(String),
    /// An image that is not at hand. Only for a [`Survey`] that no build uses: what depends on its
    /// variables is guessed, and not held against the file.
    Unknown,
}

/// Which stages a [`Survey`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that the target needs.
    Target,
    /// All of the file, for checks.
    All,
}

/// Finds images. The only way out of the room.
pub trait Resolver {
    /// Finds the image or context that `name` means on `platform`.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being found; the planner adds the place.
    fn resolve(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Resolved, Box<dyn std::error::Error + Send + Sync>>;
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The Dockerfile asks for something that cannot be: mistakes that do not depend on each other,
    /// at least one.
    #[error("{}", .0.first().map_or("", |error| &error.message))]
    Dockerfile(Vec<DockerfileError>),
    /// A base image cannot be had.
    #[error("cannot use image {name:?}")]
    Image {
        /// The name as the Dockerfile has it, expanded.
        name: String,
        /// Where it stands.
        place: Box<DockerfileError>,
        /// Cause of the failure.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `--target` names no stage.
    #[error("target stage {name:?} could not be found")]
    NoSuchTarget {
        /// What was asked for.
        name: String,
        /// The stages there are.
        stages: Vec<String>,
    },
}

impl From<DockerfileError> for PlanError {
    fn from(error: DockerfileError) -> Self {
        Self::Dockerfile(vec![error])
    }
}

/// The variables that the platforms and the target give to FROM lines.
pub fn platform_args(request: &PlanRequest<'_>) -> Env {
    words::platform_args(request)
}

/// The stages of a file, with the images they start from: half of a plan.
pub struct Survey<'a, 'r> {
    request: &'r PlanRequest<'a>,
    stages: stages::Stages<'a>,
}

impl<'a, 'r> Survey<'a, 'r> {
    /// Finds out what each stage starts from.
    ///
    /// # Errors
    ///
    /// [`PlanError`] for the first FROM, `--from=` or trigger that is wrong, and for images that
    /// cannot be had.
    pub fn new(
        request: &'r PlanRequest<'a>,
        scope: Scope,
        resolver: &mut dyn Resolver,
    ) -> Result<Self, PlanError> {
        Ok(Self { request, stages: stages::Stages::resolve(request, scope, resolver)? })
    }

    /// What the checks want to know of each stage.
    pub fn facts(&self) -> Vec<StageFacts> {
        self.stages.facts(self.request)
    }

    /// The stage that becomes the image, by its index.
    pub fn target(&self) -> usize {
        self.stages.target
    }

    /// Walks the instructions.
    ///
    /// # Errors
    ///
    /// [`PlanError`] for the first instruction that is wrong, in source order of the stages.
    pub fn plan(self) -> Result<Plan, PlanError> {
        dispatch::dispatch(self.request, self.stages)
    }
}

impl std::fmt::Debug for Survey<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Survey").field("target", &self.stages.target).finish_non_exhaustive()
    }
}

/// Plans a build.
///
/// # Errors
///
/// [`PlanError`] for what is wrong, in source order of the reached stages.
pub fn plan(request: &PlanRequest<'_>, resolver: &mut dyn Resolver) -> Result<Plan, PlanError> {
    Survey::new(request, Scope::Target, resolver)?.plan()
}
