//! Whether the steps below could come to make the files that a record was made on.
//!
//! A worker of a prediction asks this. It has a copy of what the coordinator knows of these steps at
//! that moment; what they would make on files that they may come to stand on is made in the
//! workshop, and remembered for the other questions of the same prediction.

use crate::cache::{Cache, Inputs, Output, Record, Value};
use crate::plan::{Files, Op, StepId};
use crate::solve::digest::{self, LayerDigest};
use crate::solve::inputs::StepInputs;
use crate::solve::step_context::StepContext;
use crate::solve::trees::{LowerDir, Stack};
use crate::solve::{Cause, Job, exec};
use crate::store::{self, ChainId, Key};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// On how many chains a step is tried. Beyond that, it is taken to be able to make any files.
const TRIES_MAX: usize = 16;

/// What a prediction has found out so far.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// All records that could be hit, once they had to be asked for.
    all_records: OnceLock<Vec<Record>>,
    /// What steps would make on top of chains; `None` for what could not be found out.
    made_on: Mutex<BTreeMap<(usize, ChainId), Option<Output>>>,
}

/// What is known of a step below.
pub(super) struct BelowStep<'a> {
    pub(super) chain: Option<ChainId>,
    pub(super) output: Option<Output>,
    pub(super) key: Option<Key>,
    pub(super) inputs: Option<Arc<StepInputs>>,
    pub(super) context: StepContext<'a>,
}

/// Files that are not known, with the steps that would make them.
pub(super) struct Below<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) cache: Cache,
    /// What the bottommost step starts from.
    pub(super) base: Option<(ChainId, Stack)>,
    pub(super) steps: BTreeMap<usize, BelowStep<'a>>,
    pub(super) memory: Arc<Memory>,
}

impl Below<'_> {
    /// Returns the records of steps with these inputs, whatever files of other steps they read.
    pub(super) fn records_like(&self, outline: &Inputs) -> Result<Vec<Record>, Cause> {
        let all = match self.memory.all_records.get() {
            Some(all) => all,
            None => {
                let all = self.cache.all_usable()?;
                self.memory.all_records.get_or_init(|| all)
            }
        };
        let is_like = |record: &&Record| {
            let plain = record.inputs.iter().filter(|i| !matches!(i.value, Value::Tree(_)));
            plain.eq(outline.iter())
        };
        Ok(all.iter().filter(is_like).cloned().collect())
    }

    /// Keeps the records whose parent these files could come to be.
    pub(super) fn feasible(
        &self,
        files: Files,
        records: Vec<Record>,
    ) -> Result<Vec<Record>, Cause> {
        let mut open = Vec::new();
        for record in records {
            if self.can_become(files, &record.parent)? {
                open.push(record);
            }
        }
        Ok(open)
    }

    fn chain(&self, files: Files) -> Option<ChainId> {
        match files {
            Files::Step(StepId(index)) => self.steps.get(&index).and_then(|step| step.chain),
            Files::Nothing | Files::Base(_) => self.base.as_ref().map(|(chain, _)| *chain),
        }
    }

    /// Whether the chain of these files could come to be `chain`.
    fn can_become(&self, files: Files, chain: &ChainId) -> Result<bool, Cause> {
        if let Some(known) = self.chain(files) {
            return Ok(known == *chain);
        }
        let Files::Step(StepId(index)) = files else { return Ok(false) };
        let Some(known) = self.steps.get(&index) else { return Ok(false) };
        // Stores of earlier versions do not say.
        let Some(parent) = self.cache.parent_of(chain)? else { return Ok(true) };
        let step = known.context.step();
        if !self.can_become(step.parent, &parent)? {
            return Ok(false);
        }
        if let Some(output) = known.output {
            return Ok(output.on(&parent) == *chain);
        }
        if let Some(key) = known.key.filter(|_| !step.ignore_cache)
            && let Ok((record, _)) = self.cache.lookup(&key, &parent)?
        {
            return Ok(record.output.on(&parent) == *chain);
        }
        let made = self.made_on(known, parent)?;
        Ok(made.is_none_or(|made| made.on(&parent) == *chain))
    }

    /// What a step would make on top of `parent`; `None` if that is not known.
    fn made_on(&self, known: &BelowStep<'_>, parent: ChainId) -> Result<Option<Output>, Cause> {
        let place = (known.context.index, parent);
        let memory = || self.memory.made_on.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = memory().get(&place) {
            return Ok(*known);
        }
        let made = match self.make_on(known, parent) {
            Err(cause) if cause.is_cancelled() => return Err(cause),
            // It may be for want of room, so that it says nothing of a build.
            made => made.ok().flatten(),
        };
        memory().insert(place, made);
        Ok(made)
    }

    fn make_on(&self, known: &BelowStep<'_>, parent: ChainId) -> Result<Option<Output>, Cause> {
        let (job, step, index) = (self.job, known.context.step(), known.context.index);
        let Some(inputs) = &known.inputs else { return Ok(None) };
        let memory = self.memory.made_on.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = memory.keys().filter(|(other, _)| *other == index).count();
        drop(memory);
        if matches!(step.op, Op::Run(_)) || tries >= TRIES_MAX {
            return Ok(None);
        }
        let Some(stack) = self.stack_of(parent)? else { return Ok(None) };
        let made = exec::execute(&known.context, &inputs.chosen, &stack);
        let made = made.map_err(|error| error.cause)?;
        let wanted = LayerDigest { wants_tar: false, stores_tar: false, wants_listing: false };
        let scan = digest::digest(job, &step.name, &made, wanted, job.cancel)?.0;
        store::remove_tree(&made.work).map_err(|e| exec::io("remove", &made.work, e))?;
        Ok(Some(Output { layer: scan.id, content: scan.content, set_times: scan.set_times }))
    }

    /// The layers of `chain`, which extends the base of these files; `None` if one is not here.
    fn stack_of(&self, mut chain: ChainId) -> Result<Option<Stack>, Cause> {
        let Some((base, stack)) = &self.base else { return Ok(None) };
        let mut lowers = Vec::new();
        while *base != chain {
            let known = self.cache.interned(&chain)?;
            let (Some((layer, _)), Some(parent)) = (known, self.cache.parent_of(&chain)?) else {
                return Ok(None);
            };
            lowers.push(LowerDir::finished(&layer));
            chain = parent;
        }
        let mut stack = stack.clone();
        stack.0.extend(lowers.into_iter().rev());
        Ok(Some(stack))
    }
}
