//! Predictions: what can be known of steps behind one that would run.
//!
//! What COPY, ADD and WORKDIR make follows from their inputs, so it is made, in a directory that is
//! removed at the end, and what follows is looked up on it. What a RUN makes is not known. A step
//! behind it may still hit, if a record of it is filed on a chain that the RUN could make: one that
//! extends, layer by layer, what the RUN would start from. A COPY between the two is done on top of
//! such a chain, to see whether it would make the rest. If there is no such record, the step would
//! run for certain.

use super::{Coordinator, Event, Phase};
use crate::cache::{Missing, Output, Record, Value};
use crate::plan::{Files, Op, StepId, Tree};
use crate::solve::digest::{self, LayerDigest};
use crate::solve::trees::{LowerDir, Stack};
use crate::solve::{Cause, Miss, StepEnd, exec, inputs};
use crate::store::{self, ChainId, Key};
use std::collections::BTreeSet;
use std::sync::Arc;

/// On how many chains a step is tried. Beyond that, it is taken to be able to make any files.
const TRIES_MAX: usize = 16;

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    /// Goes on with a step that would run: makes its files if they can be known.
    pub(super) fn foresee(&mut self, index: usize) -> Result<(), Cause> {
        let step = self.step(index);
        let stands_alone = matches!(&step.op, Op::Copy(copy) if copy.is_link);
        let is_needed = !self.children[index].is_empty() || !self.readers[index].is_empty();
        let is_known = !matches!(step.op, Op::Run(_));
        let is_there = stands_alone || self.is_usable(step.parent);
        if !is_known || !is_needed || !is_there && self.is_hopeless(step.parent) {
            return self.predict_step(index, StepEnd::Ran);
        }
        if !is_there {
            // Its chain arrives before its files do: it is decided again with those.
            return Ok(());
        }
        let stack = self.stack(step.parent);
        let files = self.files_of_trees(step);
        let described =
            Arc::clone(self.nodes[index].described.as_ref().expect("a decided step has inputs"));
        let vertex = self.vertex_digest(index);
        self.nodes[index].phase = Phase::Running;
        self.running += 1;
        let (job, trees) = (self.job, self.trees);
        self.work(move || {
            let files = |tree: Tree| files.get(&tree).cloned().unwrap_or_default();
            let chosen = &described.chosen;
            Event::ExecResult(
                index,
                exec::execute(job, trees, index, vertex, chosen, &stack, &files),
            )
        });
        Ok(())
    }

    /// Notes what a step would make. Nothing is filed.
    pub(super) fn on_foreseen(&mut self, index: usize) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        node.report.end = StepEnd::Ran;
        node.report.wall_us = 0;
        node.phase = Phase::Done;
        self.link(index)?;
        self.give_up_above(index)
    }

    /// Goes on without the files of a step, which could not be made.
    pub(super) fn not_foreseen(&mut self, index: usize) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        (node.lower, node.made, node.report.output) = (None, None, None);
        node.is_usable = false;
        node.report.wall_us = 0;
        self.predict_step(index, StepEnd::Ran)
    }

    /// Notes a step whose files stay unknown.
    pub(super) fn predict_step(&mut self, index: usize, end: StepEnd) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        node.report.end = end;
        node.phase = Phase::Done;
        self.give_up_above(index)
    }

    /// Decides what starts from or reads files that stay unknown.
    pub(super) fn give_up_above(&mut self, index: usize) -> Result<(), Cause> {
        if !self.is_hopeless(Files::Step(StepId(index))) {
            return Ok(());
        }
        for reader in self.readers[index].clone() {
            self.nodes[reader].is_blind = true;
            if self.nodes[reader].phase == Phase::Waiting {
                self.without_inputs(reader, index)?;
            }
        }
        for child in self.children[index].clone() {
            self.decide(child)?;
            if self.nodes[child].phase == Phase::Done {
                self.give_up_above(child)?;
            }
        }
        Ok(())
    }

    /// Whether these files stay unknown: a step under them would have to run.
    pub(super) fn is_hopeless(&self, files: Files) -> bool {
        let Files::Step(StepId(index)) = files else { return false };
        let node = &self.nodes[index];
        node.phase == Phase::Done
            && !node.is_usable
            && (node.lower.is_none() || self.is_hopeless(self.step(index).parent))
    }

    /// The topmost step of these files that makes them unknown: not one whose files follow from
    /// those below it.
    fn unknown_below(&self, mut files: Files) -> Option<usize> {
        let mut follows = None;
        while let Files::Step(StepId(index)) = files {
            let node = &self.nodes[index];
            if node.lower.is_none() {
                if matches!(self.step(index).op, Op::Run(_)) || node.described.is_none() {
                    return Some(index);
                }
                follows.get_or_insert(index);
            }
            files = self.step(index).parent;
        }
        follows
    }

    /// Decides a step whose inputs are known and the files it starts from are not.
    pub(super) fn without_parent(&mut self, index: usize, key: Key) -> Result<(), Cause> {
        let step = self.step(index);
        if step.ignore_cache {
            self.nodes[index].report.miss = Some(Miss::NoCache);
            return self.predict_step(index, StepEnd::Ran);
        }
        let usable = self.cache.usable(&key)?;
        let is_gone = usable.is_empty();
        let open = self.feasible(step.parent, usable)?;
        if open.is_empty() {
            let missing = match (is_gone, self.cache.knows(&key)) {
                (true, true) => Missing::Layer,
                (true, false) => Missing::Key,
                (false, _) => Missing::Parent,
            };
            self.nodes[index].report.miss = Some(Miss::Missing(missing));
            return self.predict_step(index, StepEnd::Ran);
        }
        let after = self.unknown_below(step.parent).expect("a step below is unknown");
        self.predict_step(index, StepEnd::Unknown { after, builds: builds(&open) })
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
        if self.all_records.is_none() {
            self.all_records = Some(self.cache.all_usable()?);
        }
        let all = self.all_records.iter().flatten();
        let matching: Vec<Record> = all
            .filter(|record| {
                let plain = record.inputs.iter().filter(|i| !matches!(i.value, Value::Tree(_)));
                plain.eq(outline.iter())
            })
            .cloned()
            .collect();
        let open = match &step.op {
            Op::Copy(copy) if copy.is_link => matching,
            _ => self.feasible(step.parent, matching)?,
        };
        if open.is_empty() {
            self.nodes[index].report.miss = Some(Miss::Missing(Missing::Key));
            return self.predict_step(index, StepEnd::Ran);
        }
        let after = self.unknown_below(Files::Step(StepId(source))).unwrap_or(source);
        self.predict_step(index, StepEnd::Unknown { after, builds: builds(&open) })
    }

    /// Keeps the records whose parent these files could come to be.
    fn feasible(&mut self, files: Files, records: Vec<Record>) -> Result<Vec<Record>, Cause> {
        let mut open = Vec::new();
        for record in records {
            if self.can_become(files, &record.parent)? {
                open.push(record);
            }
        }
        Ok(open)
    }

    /// Whether the chain of these files could come to be `chain`.
    fn can_become(&mut self, files: Files, chain: &ChainId) -> Result<bool, Cause> {
        if let Some(known) = self.chain(files) {
            return Ok(known == *chain);
        }
        let Files::Step(StepId(index)) = files else { return Ok(false) };
        // Stores of earlier versions do not say.
        let Some(parent) = self.cache.parent_of(chain)? else { return Ok(true) };
        let step = self.step(index);
        if !self.can_become(step.parent, &parent)? {
            return Ok(false);
        }
        let report = &self.nodes[index].report;
        if let Some(output) = report.output {
            return Ok(output.on(&parent) == *chain);
        }
        if let Some(key) = report.key.filter(|_| !step.ignore_cache)
            && let Ok((record, _)) = self.cache.lookup(&key, &parent)?
        {
            return Ok(record.output.on(&parent) == *chain);
        }
        let made = self.made_on(index, parent)?;
        Ok(made.is_none_or(|made| made.on(&parent) == *chain))
    }

    /// What a step would make on top of `parent`; `None` if that is not known.
    fn made_on(&mut self, index: usize, parent: ChainId) -> Result<Option<Output>, Cause> {
        if let Some(known) = self.made_on.get(&(index, parent)) {
            return Ok(*known);
        }
        let made = match self.make_on(index, parent) {
            Err(cause) if cause.is_cancelled() => return Err(cause),
            // It may be for want of room, so that it says nothing of a build.
            made => made.ok().flatten(),
        };
        self.made_on.insert((index, parent), made);
        Ok(made)
    }

    fn make_on(&self, index: usize, parent: ChainId) -> Result<Option<Output>, Cause> {
        let (job, step) = (self.job, self.step(index));
        let Some(described) = &self.nodes[index].described else { return Ok(None) };
        let tries = self.made_on.keys().filter(|(other, _)| *other == index).count();
        if matches!(step.op, Op::Run(_)) || tries >= TRIES_MAX {
            return Ok(None);
        }
        let Some(stack) = self.stack_of(step.parent, parent)? else { return Ok(None) };
        let files = self.files_of_trees(step);
        let files = |tree: Tree| files.get(&tree).cloned().unwrap_or_default();
        let vertex = self.vertex_digest(index);
        let made =
            exec::execute(job, self.trees, index, vertex, &described.chosen, &stack, &files)?;
        let wanted = LayerDigest { wants_tar: false, stores_tar: false, wants_listing: false };
        let scan = digest::digest(job, &job.plan.steps[index].name, &made, wanted, job.cancel)?.0;
        store::remove_tree(&made.work).map_err(|e| exec::io("remove", &made.work, e))?;
        Ok(Some(Output { layer: scan.id, content: scan.content, set_times: scan.set_times }))
    }

    /// The layers of `chain`, which extends the base of these files; `None` if one is not here.
    fn stack_of(&self, files: Files, mut chain: ChainId) -> Result<Option<Stack>, Cause> {
        let mut base = files;
        while let Files::Step(StepId(index)) = base {
            base = self.step(index).parent;
        }
        let mut lowers = Vec::new();
        while self.chain(base) != Some(chain) {
            let known = self.cache.interned(&chain)?;
            let (Some((layer, _)), Some(parent)) = (known, self.cache.parent_of(&chain)?) else {
                return Ok(None);
            };
            lowers.push(LowerDir::finished(&layer));
            chain = parent;
        }
        let mut stack = self.stack(base);
        stack.0.extend(lowers.into_iter().rev());
        Ok(Some(stack))
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

/// The builds of records, each once, the newest first.
fn builds(records: &[Record]) -> Vec<String> {
    let builds: BTreeSet<&str> = records.iter().map(|record| record.build.as_str()).collect();
    builds.into_iter().rev().map(str::to_owned).collect()
}
