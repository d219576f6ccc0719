//! Steps that need not run because every step that reads their files is found by definition.
//!
//! The key of a COPY --from names the files that it copies, so it is known only once the stage is
//! there. A cache of mode `min` has no records of such a stage: all of it would run, only for its
//! COPY to hit. A *definition* names the same step by how its files come about: its own inputs
//! without the content of what other steps make, and the definitions of those steps. It is known
//! before anything runs, and an exported cache names its records by it, too.
//!
//! To hit by definition rests on what every hit rests on: a step that ran on the same files with
//! the same inputs would make what it made before.
//!
//! # What is done
//!
//! [`look`] follows the plan without running anything: a step hits if its parent's chain is known
//! and there is a record of its key or of its definition on it. Steps that only such hits read are
//! not needed. The records that this rests on are brought here first, so that no blob that turns
//! out to be damaged can take a decision back. If no step that would have to run can be left out,
//! nothing is done ahead: the coordinator finds the hits by itself.
//!
//! Source: BuildKit, `docs/dev/solver.md`, "Cache keys" and "Fast cache keys".

use super::inputs;
use super::step_context::{Shared, StepContext};
use super::trees::chain_of;
use super::{Cause, Job, StepReport};
use crate::cache::{Cache, Inputs, Record};
use crate::plan::{Files, MountKind, Op, Step, StepId, Tree};
use crate::store::{ChainId, Key, Layer};
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

/// What is known before anything runs.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Steps that hit, by their places in the plan.
    pub(super) hits: BTreeMap<usize, (Record, Layer)>,
    /// Steps that nothing needs: their inputs as far as they are known, and the build that ran a
    /// step which read their files.
    pub(super) unneeded: BTreeMap<usize, (Inputs, String)>,
}

/// Looks for steps that need not run. Asks imported caches only: where the records of a stage are
/// in the store, it hits as it is.
pub(super) fn look(
    job: &Job<'_>,
    shared: &Shared,
    cache: &Cache,
    base_chains: &[ChainId],
) -> Result<Ahead, Cause> {
    let steps = &job.plan.steps;
    if !job.imports.iter().any(crate::cache::Import::has_definitions)
        || !steps.iter().any(reads_steps)
    {
        return Ok(Ahead::default());
    }
    let mut known = Vec::with_capacity(steps.len());
    let mut definitions = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        let context = StepContext::before_all(job, shared, index);
        let inputs = inputs::describe_within(&context)?;
        definitions.push(definition(step, &inputs, base_chains, &definitions));
        known.push(inputs);
    }
    loop {
        let hits = follow(job, cache, base_chains, &known, &definitions)?;
        let needed = needed(job, &hits);
        // Where the records of a whole stage are at hand, it is brought here like any other.
        if hits.iter().zip(&needed).all(|(hit, is_needed)| *is_needed || hit.is_some()) {
            return Ok(Ahead::default());
        }
        let wanted: Vec<&Hit> = hits
            .iter()
            .zip(&needed)
            .filter(|(_, needed)| **needed)
            .filter_map(|(hit, _)| hit.as_ref())
            .collect();
        if !bring(job, &wanted) {
            // What could not be brought is not offered again.
            if job.cancel.is_cancelled() {
                return Err(Cause::Cancelled);
            }
            continue;
        }
        let mut ahead = Ahead::default();
        for (index, hit) in hits.iter().enumerate() {
            match hit {
                Some(hit) if needed[index] => match cache.lookup(&hit.key, &hit.parent)? {
                    Ok(found) => drop(ahead.hits.insert(index, found)),
                    // Another process removed it: the usual way finds out what to do.
                    Err(_) => return Ok(Ahead::default()),
                },
                _ if !needed[index] => {
                    let build = build_that_read(job, &hits, index);
                    ahead.unneeded.insert(index, (known[index].clone(), build));
                }
                _ => {}
            }
        }
        return Ok(ahead);
    }
}

/// Returns the definitions of a successful build's steps, by their places in the plan.
pub fn definitions(job: &Job<'_>, reports: &[StepReport]) -> Vec<Key> {
    let base_chains = base_chains(job);
    let mut all = Vec::with_capacity(reports.len());
    for (step, report) in job.plan.steps.iter().zip(reports) {
        let inputs = report.inputs.as_ref().map(|inputs| without_files(step, inputs));
        all.push(definition(step, &inputs.unwrap_or_default(), &base_chains, &all));
    }
    all
}

/// The chains of the images that stages start from.
pub(super) fn base_chains(job: &Job<'_>) -> Vec<ChainId> {
    job.plan.bases.iter().map(|base| chain_of(&job.images[base.image].layers)).collect()
}

/// Whether a step reads files of other steps or of images.
fn reads_steps(step: &Step) -> bool {
    step.trees().iter().any(|tree| matches!(tree, Tree::Files(_)))
}

/// Returns the files that a step starts from, and those that it reads.
fn files_below(step: &Step) -> impl Iterator<Item = Files> {
    let read = step.trees().into_iter().filter_map(|tree| match tree {
        Tree::Files(files) => Some(files),
        Tree::Context(_) => None,
    });
    read.chain([step.parent])
}

/// Leaves out what files of other steps and images were found to be.
fn without_files(step: &Step, inputs: &Inputs) -> Inputs {
    match &step.op {
        Op::Copy(copy) if matches!(copy.tree, Tree::Files(_)) => inputs.without_trees(|_| true),
        Op::Run(run) => {
            let names: BTreeSet<String> = run
                .mounts
                .iter()
                .filter(|mount| {
                    let tree = match &mount.kind {
                        MountKind::Bind { tree, .. } => Some(*tree),
                        MountKind::Cache { start, .. } => start.tree(),
                        _ => None,
                    };
                    matches!(tree, Some(Tree::Files(_)))
                })
                .map(|mount| inputs::files_of_mount(&mount.target))
                .collect();
            inputs.without_trees(|name| names.contains(name))
        }
        Op::Copy(_) | Op::Workdir(_) => inputs.clone(),
    }
}

fn definition(step: &Step, inputs: &Inputs, base_chains: &[ChainId], known: &[Key]) -> Key {
    let name = |files: Files| match files {
        Files::Nothing => "nothing".to_owned(),
        Files::Base(base) => format!("image {}", base_chains[base.0].to_hex()),
        Files::Step(StepId(index)) => format!("step {}", known[index].to_hex()),
    };
    let mut all = inputs.clone();
    if !stands_alone(step) {
        all.text("definition of parent", name(step.parent));
    }
    for tree in step.trees() {
        if let Tree::Files(files) = tree {
            all.text("definition of files", name(files));
        }
    }
    all.key()
}

fn stands_alone(step: &Step) -> bool {
    matches!(&step.op, Op::Copy(copy) if copy.is_link)
}

/// A record that a step would hit.
#[derive(Debug)]
struct Hit {
    key: Key,
    parent: ChainId,
    build: String,
    chain: Option<ChainId>,
}

/// Finds out which steps hit, with nothing but what is known before anything runs.
fn follow(
    job: &Job<'_>,
    cache: &Cache,
    base_chains: &[ChainId],
    known: &[Inputs],
    definitions: &[Key],
) -> Result<Vec<Option<Hit>>, Cause> {
    let mut hits: Vec<Option<Hit>> = Vec::with_capacity(known.len());
    // Steps that are to run in any case, and those that start from them or read them.
    let mut is_anew = vec![false; known.len()];
    for (index, step) in job.plan.steps.iter().enumerate() {
        let chain = |files: Files| match files {
            Files::Nothing => Some(ChainId::scratch()),
            Files::Base(base) => Some(base_chains[base.0]),
            Files::Step(StepId(index)) => hits[index].as_ref().and_then(|hit| hit.chain),
        };
        is_anew[index] = step.ignore_cache
            || files_below(step).any(|files| matches!(files, Files::Step(StepId(i)) if is_anew[i]));
        let below = chain(step.parent);
        let parent = if stands_alone(step) { Some(ChainId::scratch()) } else { below };
        let (Some(parent), false) = (parent, step.ignore_cache) else {
            hits.push(None);
            continue;
        };
        let keys = match reads_steps(step) {
            false => vec![known[index].key()],
            true if is_anew[index] => Vec::new(),
            true => job.imports.iter().flat_map(|i| i.defined(&definitions[index])).collect(),
        };
        let mut hit = None;
        for key in keys {
            let found = match cache.record(&key, &parent)? {
                Some(record) if job.store.peek_layer(&record.output.layer)?.is_some() => {
                    Some(record)
                }
                _ => job.imports.iter().find_map(|import| import.record(&key, &parent)).cloned(),
            };
            if let Some(record) = found {
                let chain = below.map(|below| record.output.on(&below));
                hit = Some(Hit { key, parent, build: record.build, chain });
                break;
            }
        }
        hits.push(hit);
    }
    Ok(hits)
}

/// Says of each step whether its files are needed: for a target, or to run a step that does not
/// hit.
fn needed(job: &Job<'_>, hits: &[Option<Hit>]) -> Vec<bool> {
    let mut needed = vec![false; hits.len()];
    let mut open: Vec<_> = job.plan.targets.iter().map(|target| target.files).collect();
    while let Some(files) = open.pop() {
        let Files::Step(StepId(index)) = files else { continue };
        if std::mem::replace(&mut needed[index], true) {
            continue;
        }
        let step = &job.plan.steps[index];
        open.push(step.parent);
        if hits[index].is_none() {
            open.extend(files_below(step));
        }
    }
    needed
}

/// Brings records here that are not, some at a time. Says whether all could be.
fn bring(job: &Job<'_>, hits: &[&Hit]) -> bool {
    let workers = job.options.parallelism.max(1);
    hits.chunks(workers).all(|some| {
        thread::scope(|scope| {
            let started: Vec<_> =
                some.iter().map(|hit| scope.spawn(|| bring_one(job, hit))).collect();
            let ends = started.into_iter().map(thread::ScopedJoinHandle::join);
            ends.fold(true, |all, end| {
                all & end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    })
}

fn bring_one(job: &Job<'_>, hit: &Hit) -> bool {
    let cache = Cache::new(job.store.clone());
    if matches!(cache.lookup(&hit.key, &hit.parent), Ok(Ok(_))) {
        return true;
    }
    let Some(import) = job.imports.iter().find(|import| import.has(&hit.key, &hit.parent)) else {
        return false;
    };
    match import.bring(job.store, &hit.key, &hit.parent, job.cancel) {
        Ok(()) => true,
        Err(error) => {
            if !job.cancel.is_cancelled() {
                let why = crate::text::chain(&error);
                job.progress.notice(format!("cache {}: {why}", import.name()));
            }
            false
        }
    }
}

/// The build that ran the first step which hits and has read the files of a step, directly or not.
fn build_that_read(job: &Job<'_>, hits: &[Option<Hit>], index: usize) -> String {
    let steps = &job.plan.steps;
    let mut above = BTreeSet::from([index]);
    for (later, step) in steps.iter().enumerate().skip(index + 1) {
        if files_below(step)
            .any(|files| matches!(files, Files::Step(StepId(i)) if above.contains(&i)))
        {
            if let Some(hit) = &hits[later] {
                return hit.build.clone();
            }
            above.insert(later);
        }
    }
    String::new()
}
