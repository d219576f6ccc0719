//! What is known of the files that steps start from and read.

use super::Coordinator;
use super::phase::Phase;
use crate::plan::{Files, Op, Step, StepId, Tree};
use crate::solve::StepEnd;
use crate::solve::inputs::StepInputs;
use crate::solve::step_context::{StepContext, TreeStacks};
use crate::solve::trees::{LowerDir, Stack};
use crate::store::{ChainId, Layer};

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    /// The layer that a step would hit, and what the step depends on.
    pub(in crate::solve) fn known_result(&self, index: usize) -> Option<(&Layer, &StepInputs)> {
        let node = &self.nodes[index];
        match (&node.report.end, &node.report.layer, &node.phase) {
            (StepEnd::Hit { .. }, Some(layer), Phase::Done { inputs: Some(inputs), .. }) => {
                Some((layer, inputs))
            }
            _ => None,
        }
    }

    /// The layers of steps that a step starts from or reads.
    pub(in crate::solve) fn layers_below(&self, index: usize) -> Vec<&Layer> {
        let step = self.step(index);
        let mut open = vec![step.parent];
        open.extend(step.trees().into_iter().filter_map(|tree| match tree {
            Tree::Files(files) => Some(files),
            Tree::Context(_) => None,
        }));
        let mut layers = Vec::new();
        for mut files in open {
            while let Files::Step(StepId(index)) = files {
                layers.extend(&self.nodes[index].report.layer);
                files = self.step(index).parent;
            }
        }
        layers
    }

    pub(super) fn is_usable(&self, files: Files) -> bool {
        match files {
            Files::Nothing | Files::Base(_) => true,
            Files::Step(StepId(index)) => self.nodes[index].is_usable,
        }
    }

    pub(super) fn chain(&self, files: Files) -> Option<ChainId> {
        match files {
            Files::Nothing => Some(ChainId::scratch()),
            Files::Base(base) => Some(self.base_chains[base.0]),
            Files::Step(StepId(index)) => self.nodes[index].chain,
        }
    }

    /// The chain a step's record is filed under.
    pub(super) fn key_parent(&self, step: &Step) -> Option<ChainId> {
        match &step.op {
            Op::Copy(copy) if copy.is_link => Some(ChainId::scratch()),
            _ => self.chain(step.parent),
        }
    }

    /// What the work on a step takes with it.
    pub(in crate::solve) fn context(&self, index: usize) -> StepContext<'env> {
        let trees = self.files_of_trees(self.step(index));
        StepContext { job: self.job, shared: self.shared, index, trees }
    }

    pub(in crate::solve) fn stack(&self, mut files: Files) -> Stack {
        let mut lowers = Vec::new();
        while let Files::Step(StepId(index)) = files {
            lowers.extend(self.nodes[index].phase.lower().cloned());
            files = self.step(index).parent;
        }
        if let Files::Base(base) = files {
            let image = &self.job.images[self.job.plan.bases[base.0].image];
            lowers.extend(image.layers.iter().rev().map(|layer| LowerDir::finished(&layer.layer)));
        }
        lowers.reverse();
        Stack(lowers)
    }

    pub(super) fn files_of_trees(&self, step: &Step) -> TreeStacks {
        step.trees()
            .into_iter()
            .map(|tree| match tree {
                Tree::Context(_) => (tree, (Stack::default(), None)),
                Tree::Files(files) => (tree, (self.stack(files), self.chain(files))),
            })
            .collect()
    }
}
