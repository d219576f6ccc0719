//! Predictions: what can be known of steps behind one that would run.
//!
//! What COPY, ADD and WORKDIR make follows from their inputs, so it is made, in a directory that is
//! removed at the end, and what follows is looked up on it. What a RUN makes is not known. A step
//! behind it may still hit, if a record of it is filed on a chain that the RUN could make: one that
//! extends, layer by layer, what the RUN would start from. A COPY between the two is done on top of
//! such a chain, to see whether it would make the rest. If there is no such record, the step would
//! run for certain.

//!
//! Which records are possible is a question of many reads and perhaps of a few copies, so a worker
//! answers it: see [`super::below`].

use super::below::{Below, BelowStep};
use super::phase::{Admitted, Node, Phase};
use super::{Coordinator, Event};
use crate::cache::{Missing, Record};
use crate::plan::{Files, Op, StepId};
use crate::solve::inputs::StepInputs;
use crate::solve::{Cause, Miss, StepEnd, exec, inputs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    /// Goes on with a step that would run: makes its files if they can be known.
    pub(super) fn foresee(&mut self, index: usize, inputs: Arc<StepInputs>) -> Result<(), Cause> {
        let step = self.step(index);
        let stands_alone = matches!(&step.op, Op::Copy(copy) if copy.is_link);
        let is_needed = !self.children[index].is_empty() || !self.readers[index].is_empty();
        let is_known = !matches!(step.op, Op::Run(_));
        let is_there = stands_alone || self.is_usable(step.parent);
        if !is_known || !is_needed || !is_there && self.stay_unknown(step.parent) {
            return self.predict_step(index, StepEnd::Ran);
        }
        if !is_there {
            // Its chain arrives before its files do: it is decided again with those.
            return Ok(());
        }
        let (context, stack) = (self.context(index), self.stack(step.parent));
        let admitted = Admitted { inputs: Arc::clone(&inputs), lock: None };
        self.nodes[index].phase = Phase::Running(admitted);
        self.running += 1;
        self.work(index, move || {
            Event::Executed(index, exec::execute(&context, &inputs.chosen, &stack))
        });
        Ok(())
    }

    /// Notes what a step would make. Nothing is filed.
    pub(super) fn on_foreseen(&mut self, index: usize) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        node.report.end = StepEnd::Ran;
        node.report.wall_us = 0;
        self.link(index)?;
        self.give_up_above(index)
    }

    /// Goes on without the files of a step, which could not be made.
    pub(super) fn not_foreseen(&mut self, index: usize) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        node.report.output = None;
        node.is_usable = false;
        node.report.wall_us = 0;
        self.predict_step(index, StepEnd::Ran)
    }

    /// Notes a step whose files stay unknown.
    fn predict_step(&mut self, index: usize, end: StepEnd) -> Result<(), Cause> {
        self.nodes[index].settle(end);
        self.give_up_above(index)
    }

    /// Decides what starts from or reads files that stay unknown.
    pub(super) fn give_up_above(&mut self, index: usize) -> Result<(), Cause> {
        if !self.stay_unknown(Files::Step(StepId(index))) {
            return Ok(());
        }
        for reader in self.readers[index].clone() {
            if matches!(self.nodes[reader].phase, Phase::Waiting) {
                self.without_inputs(reader, index)?;
            }
        }
        for child in self.children[index].clone() {
            self.decide(child)?;
            if self.nodes[child].phase.is_done() {
                self.give_up_above(child)?;
            }
        }
        Ok(())
    }

    /// Whether these files stay unknown: a step under them would have to run.
    pub(super) fn stay_unknown(&self, files: Files) -> bool {
        let Files::Step(StepId(index)) = files else { return false };
        let Node { phase, is_usable, .. } = &self.nodes[index];
        phase.is_done()
            && !is_usable
            && (phase.lower().is_none() || self.stay_unknown(self.step(index).parent))
    }

    /// The topmost step of these files that makes them unknown: not one whose files follow from
    /// those below it.
    fn unknown_below(&self, mut files: Files) -> Option<usize> {
        let mut follows = None;
        while let Files::Step(StepId(index)) = files {
            let phase = &self.nodes[index].phase;
            if phase.lower().is_none() {
                if matches!(self.step(index).op, Op::Run(_)) || phase.inputs().is_none() {
                    return Some(index);
                }
                follows.get_or_insert(index);
            }
            files = self.step(index).parent;
        }
        follows
    }

    /// Decides a step whose inputs are known and the files it starts from are not.
    pub(super) fn without_parent(
        &mut self,
        index: usize,
        inputs: Arc<StepInputs>,
    ) -> Result<(), Cause> {
        let step = self.step(index);
        if step.ignore_cache {
            self.nodes[index].report.miss = Some(Miss::NoCache);
            return self.predict_step(index, StepEnd::Ran);
        }
        let (below, parent, key) = (self.below(step.parent), step.parent, inputs.key);
        let after = self.unknown_below(parent).expect("a step below is unknown");
        self.nodes[index].phase = Phase::Predicting(Some(inputs));
        self.work_in_order(index, move || {
            let ask = || {
                let usable = below.cache.usable(&key)?;
                let is_gone = usable.is_empty();
                let open = below.feasible(parent, usable)?;
                let missing = match (is_gone, below.cache.knows(&key)) {
                    (true, true) => Missing::Layer,
                    (true, false) => Missing::Key,
                    (false, _) => Missing::Parent,
                };
                Ok(prospect(&open, after, missing))
            };
            Event::Predicted(index, ask())
        });
        Ok(())
    }

    /// Decides a step that reads files which stay unknown, those of step `source`.
    fn without_inputs(&mut self, index: usize, source: usize) -> Result<(), Cause> {
        let step = self.step(index);
        let outline = inputs::outline(self.job, step)?;
        self.nodes[index].report.inputs = Some(outline.clone());
        if step.ignore_cache {
            self.nodes[index].report.miss = Some(Miss::NoCache);
            return self.predict_step(index, StepEnd::Ran);
        }
        let below = self.below(step.parent);
        let after = self.unknown_below(Files::Step(StepId(source))).unwrap_or(source);
        self.nodes[index].phase = Phase::Predicting(None);
        self.work_in_order(index, move || {
            let ask = || {
                let matching = below.records_like(&outline)?;
                let open = match &step.op {
                    Op::Copy(copy) if copy.is_link => matching,
                    _ => below.feasible(step.parent, matching)?,
                };
                Ok(prospect(&open, after, Missing::Key))
            };
            Event::Predicted(index, ask())
        });
        Ok(())
    }

    /// A worker has found out what a step behind unknown files could hit.
    pub(super) fn on_predicted(
        &mut self,
        index: usize,
        miss: Option<Miss>,
        end: StepEnd,
    ) -> Result<(), Cause> {
        self.nodes[index].report.miss = miss.or(self.nodes[index].report.miss);
        self.predict_step(index, end)
    }

    /// What is known of these files, for a worker.
    fn below(&self, mut files: Files) -> Below<'env> {
        let mut steps = BTreeMap::new();
        while let Files::Step(StepId(index)) = files {
            let node = &self.nodes[index];
            let known = BelowStep {
                chain: node.chain,
                output: node.report.output,
                key: node.report.key,
                inputs: node.phase.inputs().cloned(),
                context: self.context(index),
            };
            steps.insert(index, known);
            files = self.step(index).parent;
        }
        Below {
            job: self.job,
            cache: self.cache.clone(),
            base: self.chain(files).zip(Some(self.stack(files))),
            steps,
            memory: Arc::clone(&self.memory),
        }
    }

    /// Fills in the parents that came to be known after their steps were decided.
    pub(super) fn complete_prediction(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].report.parent.is_none() {
                self.nodes[index].report.parent = self.key_parent(self.step(index));
            }
        }
    }
}

/// What becomes of a step that could hit `open`, which shows once step `after` has run.
fn prospect(open: &[Record], after: usize, missing: Missing) -> (Option<Miss>, StepEnd) {
    if open.is_empty() {
        return (Some(Miss::Missing(missing)), StepEnd::Ran);
    }
    (None, StepEnd::Unknown { after, builds: builds(open) })
}

/// The builds of records, each once, the newest first.
fn builds(records: &[Record]) -> Vec<String> {
    let builds: BTreeSet<&str> = records.iter().map(|record| record.build.as_str()).collect();
    builds.into_iter().rev().map(str::to_owned).collect()
}
