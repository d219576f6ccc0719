//! What travels with one step through its work: the build, the files that it reads, and what all
//! steps of the build share.
//!
//! Inputs, execution, mounts and copies take a [`StepContext`]; each adds only what is its own.

use super::emulations::Emulations;
use super::mask;
use super::remote::Fetched;
use super::trees::{Stack, Trees};
use super::{Cause, Job};
use crate::context::Source;
use crate::oci::Digest;
use crate::plan::{Step, Tree};
use crate::snapshot::LaidTrees;
use crate::store::ChainId;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stacks of layers that a step reads, each with its chain id where that is known.
pub(super) type TreeStacks = BTreeMap<Tree, (Stack, Option<ChainId>)>;

/// What the steps of one build share while they run. It is made for a build and ends with it.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The trees that steps read.
    pub(super) trees: Trees,
    /// The mask for secrets in output, once a command has run.
    pub(super) mask: Mutex<Option<mask::Kept>>,
    /// Trees for the steps to come, where nothing can be mounted.
    pub(super) laid: LaidTrees,
    /// The sources elsewhere that steps name.
    pub(super) fetched: Fetched,
    /// Which commands run emulated.
    pub(super) emulations: Emulations,
    /// Whether the user was notified that there is no private network.
    has_reported_network: AtomicBool,
}

impl Shared {
    /// Returns what a command run after the build shares with it: no notice is repeated.
    pub(super) fn after_build() -> Self {
        Self { has_reported_network: AtomicBool::new(true), ..Self::default() }
    }

    /// Returns whether the lack of a private network is still to be reported: once a build.
    pub(super) fn take_network_report(&self) -> bool {
        !self.has_reported_network.swap(true, Ordering::Relaxed)
    }
}

/// One step of a build, with the files that it reads.
#[derive(Clone)]
pub(super) struct StepContext<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) shared: &'a Shared,
    /// Its place in the plan.
    pub(super) index: usize,
    /// The trees that it reads, as far as they are usable.
    pub(super) trees: TreeStacks,
}

impl<'a> StepContext<'a> {
    /// Returns a context for what is known of a step before any step has run.
    pub(super) fn before_all(job: &'a Job<'a>, shared: &'a Shared, index: usize) -> Self {
        Self { job, shared, index, trees: TreeStacks::new() }
    }

    pub(super) fn step(&self) -> &'a Step {
        &self.job.plan.steps[self.index]
    }

    /// Returns the digest that progress knows the step by.
    pub(super) fn vertex(&self) -> Digest {
        vertex_digest(self.index, &self.step().name)
    }

    /// Returns the layers of a tree; none for a context or a tree that is not usable.
    pub(super) fn stack(&self, tree: Tree) -> Stack {
        self.trees.get(&tree).map_or_else(Stack::default, |(stack, _)| stack.clone())
    }

    /// Opens a tree that the step reads.
    pub(super) fn source(&self, tree: Tree) -> Result<Source, Cause> {
        let nothing = Stack::default();
        let known = self.trees.get(&tree);
        let (stack, chain) =
            known.map_or((&nothing, None), |(stack, chain)| (stack, chain.as_ref()));
        self.shared.trees.source(self.job, tree, stack, chain)
    }
}

/// Returns the digest that progress knows a step by.
pub(super) fn vertex_digest(index: usize, name: &str) -> Digest {
    Digest::of(format!("step {index} {name}").as_bytes())
}
