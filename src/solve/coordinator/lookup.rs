//! What becomes of a step before it runs: its inputs are found out, then it hits or misses.

use super::phase::Phase;
use super::{Coordinator, Event, Mode};
use crate::cache::{ImportError, Missing, Record};
use crate::plan::{CopySource, Op, Step, Tree};
use crate::solve::ahead::Ahead;
use crate::solve::inputs::{self, StepInputs};
use crate::solve::trees::LowerDir;
use crate::solve::{Cause, Miss, StepEnd};
use crate::store::{ChainId, Layer};
use crate::text::chain;
use std::collections::VecDeque;
use std::sync::Arc;
use tracing::debug;

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    pub(super) fn start_describing(&mut self) {
        let mut later = VecDeque::new();
        while let Some(index) = self.to_describe.pop_front() {
            if self.is_stopping() {
                return;
            }
            let node = &self.nodes[index];
            if node.phase.is_done() {
                continue;
            }
            if node.missing_trees > 0 || self.describing >= self.job.options.parallelism {
                later.push_back(index);
                continue;
            }
            let context = self.context(index);
            if reads_nothing(context.step()) {
                let described = inputs::describe(&context);
                let end = described.and_then(|inputs| self.on_described(index, inputs));
                if let Err(cause) = end {
                    self.on_failure(index, cause);
                }
                continue;
            }
            self.describing += 1;
            self.work(index, move || Event::Described(index, inputs::describe(&context)));
        }
        self.to_describe = later;
    }

    pub(super) fn on_described(&mut self, index: usize, inputs: StepInputs) -> Result<(), Cause> {
        debug!(parent: &self.span(index), key = %inputs.key, "inputs known");
        let node = &mut self.nodes[index];
        node.report.inputs = Some(inputs.inputs.clone());
        node.report.key = Some(inputs.key);
        node.phase = Phase::Described(Arc::new(inputs));
        self.counts.described += 1;
        self.decide(index)
    }

    /// Decides the results of a step whose inputs are known, as far as that can be said now.
    pub(super) fn decide(&mut self, index: usize) -> Result<(), Cause> {
        let step = self.step(index);
        let phase = &self.nodes[index].phase;
        let (Phase::Described(inputs) | Phase::AwaitingChain(inputs)) = phase else {
            return Ok(());
        };
        if self.is_stopping() {
            return Ok(());
        }
        let inputs = Arc::clone(inputs);
        let key = inputs.key;
        let parent = self.key_parent(step);
        if !self.is_usable(step.parent) && parent.is_none() {
            // Only a prediction can know that there will be no parent to ask for.
            if self.mode == Mode::Predict && self.stay_unknown(step.parent) {
                return self.without_parent(index, inputs);
            }
            return Ok(());
        }
        if step.ignore_cache {
            return self.miss(index, inputs, Miss::NoCache);
        }
        let Some(parent) = parent else {
            let is_solving = self.mode == Mode::Solve;
            let knows = || self.job.imports.iter().any(|import| import.knows(&key));
            if self.cache.knows(&key) || is_solving && knows() {
                debug!(parent: &self.span(index), %key, "key known: waits for the parent's chain");
                self.nodes[index].phase = Phase::AwaitingChain(inputs);
                return Ok(());
            }
            return self.miss(index, inputs, Miss::Missing(Missing::Key));
        };
        self.nodes[index].report.parent = Some(parent);
        self.counts.looked_up += 1;
        match self.cache.lookup(&key, &parent)? {
            Ok((record, layer)) => self.hit(index, Some(inputs), &record, layer),
            Err(_) if self.bring(index, &inputs, parent) => Ok(()),
            Err(missing) => self.miss(index, inputs, Miss::Missing(missing)),
        }
    }

    /// Begins to bring a result here from the first other cache that has it; says whether one has.
    fn bring(&mut self, index: usize, inputs: &Arc<StepInputs>, parent: ChainId) -> bool {
        if self.mode == Mode::Predict {
            return false;
        }
        let (job, key, inputs) = (self.job, inputs.key, Arc::clone(inputs));
        let Some(import) = job.imports.iter().find(|import| import.has(&key, &parent)) else {
            return false;
        };
        self.nodes[index].phase = Phase::Bringing;
        self.background += 1;
        self.counts.brought += 1;
        debug!(parent: &self.span(index), %key, %parent, cache = import.name(), "imports the result");
        self.work(index, move || {
            let brought = import.bring(job.store, &key, &parent, job.cancel);
            let describe =
                |error: ImportError| format!("cache {}: {}", import.name(), chain(&error));
            Event::Brought(index, inputs, brought.map_err(describe))
        });
        true
    }

    /// A result is here now, or its cache is of no use: then the next one is asked, or the step
    /// runs.
    pub(super) fn on_brought(
        &mut self,
        index: usize,
        inputs: Arc<StepInputs>,
        result: Result<(), String>,
    ) -> Result<(), Cause> {
        if let Err(trouble) = result
            && !self.is_stopping()
        {
            debug!(parent: &self.span(index), trouble, "import failed");
            let place = self.step(index).place();
            self.job.progress.notice(format!("{place} {trouble}"));
        }
        self.nodes[index].phase = Phase::Described(inputs);
        self.decide(index)
    }

    /// Takes a known result. `inputs` are those of the step, where they had to be known for it.
    pub(super) fn hit(
        &mut self,
        index: usize,
        inputs: Option<Arc<StepInputs>>,
        record: &Record,
        layer: Layer,
    ) -> Result<(), Cause> {
        debug!(
            parent: &self.span(index),
            key = %record.key, parent = %record.parent, layer = %layer.id, build = record.build,
            "hit"
        );
        let node = &mut self.nodes[index];
        node.phase = Phase::Done { inputs, lower: Some(LowerDir::finished(&layer)) };
        node.report.end = StepEnd::Hit { build: record.build.clone() };
        node.report.miss = None;
        node.report.created = Some(record.finished);
        node.report.cost = record.cost;
        node.report.layer = Some(layer);
        node.report.output = Some(record.output);
        if self.mode == Mode::Solve {
            self.job.progress.cached(self.vertex(index));
            self.report_end(index);
        }
        // First the chain, so that what follows is looked up and locked by its full name.
        self.link(index)?;
        self.on_usable(index)?;
        self.give_up_above(index)
    }

    /// Takes over what was decided before anything runs.
    pub(super) fn leave_out(&mut self, ahead: Ahead) -> Result<(), Cause> {
        for (index, (inputs, build)) in ahead.unneeded {
            let reads_files = self.step(index).trees().iter().any(|t| matches!(t, Tree::Files(_)));
            let node = &mut self.nodes[index];
            node.report.key = (!reads_files).then(|| inputs.key());
            node.report.inputs = Some(inputs);
            node.settle(StepEnd::Hit { build });
            self.job.progress.cached(self.vertex(index));
            self.report_end(index);
        }
        for (index, (record, layer)) in ahead.hits {
            let node = &mut self.nodes[index];
            node.report.inputs = Some(record.inputs.clone());
            node.report.key = Some(record.key);
            node.report.parent = Some(record.parent);
            self.counts.brought += 1;
            self.hit(index, None, &record, layer)?;
        }
        Ok(())
    }

    fn miss(&mut self, index: usize, inputs: Arc<StepInputs>, miss: Miss) -> Result<(), Cause> {
        debug!(parent: &self.span(index), key = %inputs.key, reason = ?miss, "miss");
        self.nodes[index].report.miss = Some(miss);
        if self.mode == Mode::Predict {
            return self.foresee(index, inputs);
        }
        self.lock(index, inputs)
    }
}

/// Whether the inputs of a step are known without reading any file.
fn reads_nothing(step: &Step) -> bool {
    match &step.op {
        Op::Workdir(_) => true,
        Op::Run(_) => step.trees().is_empty(),
        Op::Copy(copy) => {
            copy.sources.iter().all(|source| matches!(source, CopySource::Inline { .. }))
        }
    }
}
