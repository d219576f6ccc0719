//! From what solving reports to what the history keeps, while the build runs.

use super::failure::{Class, Failure};
use crate::export::PackedProduct;
use crate::history::{
    About, BuildId, BuildLog, BuildRecord, Finish, Miss, Origin, Outcome, StepLog, StepOutcome,
    StepRecord,
};
use crate::image::Image;
use crate::plan::{Files, Plan, Tree};
use crate::solve::{self, Observer, StepEnd, StepReport};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

/// Returns for each step of a plan for several platforms those whose images need it; nothing of a plan
/// for one.
fn targets(plan: &Plan) -> Vec<Vec<String>> {
    let mut targets = vec![Vec::new(); plan.steps.len()];
    if plan.targets.len() < 2 {
        return targets;
    }
    for target in &plan.targets {
        let mut needed = vec![false; plan.steps.len()];
        let mut todo = vec![target.files];
        while let Some(files) = todo.pop() {
            let Files::Step(id) = files else { continue };
            if !std::mem::replace(&mut needed[id.0], true) {
                let step = &plan.steps[id.0];
                todo.push(step.parent);
                todo.extend(step.trees().into_iter().filter_map(|tree| match tree {
                    Tree::Files(files) => Some(files),
                    Tree::Context(_) => None,
                }));
            }
        }
        for (targets, is_needed) in targets.iter_mut().zip(needed) {
            targets.extend(is_needed.then(|| target.platform.to_string()));
        }
    }
    targets
}

/// What is kept of one step, which is for images of some platforms.
fn step_of(
    index: usize,
    (plan, targets): (&Plan, &[Vec<String>]),
    images: &[Image],
    report: &StepReport,
) -> StepRecord {
    let step = &plan.steps[index];
    let of_files = |files: Files| match files {
        Files::Nothing => Origin::Scratch,
        Files::Base(base) => {
            let base = &plan.bases[base.0];
            let digest = images.get(base.image).and_then(|image| image.manifest.as_ref());
            Origin::Image { name: base.name.clone(), digest: digest.map(|m| m.digest) }
        }
        Files::Step(id) => Origin::Step { number: id.0 },
    };
    let of_tree = |tree: Tree| match tree {
        Tree::Context(id) => {
            Origin::Context { name: plan.contexts[id.0].clone().unwrap_or_default() }
        }
        Tree::Files(files) => of_files(files),
    };
    let outcome = match &report.end {
        StepEnd::NotReached => StepOutcome::NotReached,
        StepEnd::Hit { build } => StepOutcome::Hit { build: build.clone(), cost: report.cost },
        StepEnd::Ran if report.layer.is_none() => StepOutcome::WouldRun,
        StepEnd::Ran => StepOutcome::Ran { cost: report.cost },
        StepEnd::Failed { exit, .. } => StepOutcome::Failed { exit: *exit, cost: report.cost },
        StepEnd::Unknown { after, builds } => {
            StepOutcome::DependsOn { number: *after, builds: builds.clone() }
        }
    };
    StepRecord {
        number: index,
        name: step.name.clone(),
        stage: step.stage.clone(),
        platform: step.platform.to_string(),
        targets: targets[index].clone(),
        instruction: step.instruction.clone(),
        lines: step.lines,
        from: of_files(step.parent),
        reads: step.trees().into_iter().map(of_tree).collect(),
        key: report.key,
        parent: report.parent,
        inputs: report.inputs.clone().unwrap_or_default(),
        outcome,
        miss: report.miss.map(|miss| match miss {
            solve::Miss::Missing(missing) => missing.into(),
            solve::Miss::NoCache => Miss::NoCache,
        }),
        is_unsound: report.is_unsound,
        emulator: report.emulator.clone(),
        output: report.output,
        began_us: report.began_us,
        wall_us: report.wall_us,
    }
}

/// A build as a record, for one that is only predicted.
pub(super) fn record_of(
    id: BuildId,
    about: About,
    outcome: Outcome,
    plan: &Plan,
    images: &[Image],
    reports: &[StepReport],
) -> BuildRecord {
    let targets = targets(plan);
    let steps = reports
        .iter()
        .enumerate()
        .map(|(index, report)| step_of(index, (plan, &targets), images, report))
        .collect();
    BuildRecord {
        id,
        about,
        finished_ms: None,
        outcome,
        image: None,
        manifest: None,
        is_imported: false,
        notes: Vec::new(),
        steps,
    }
}

/// An observer that ignores the events.
pub(super) struct NoObserver;

impl Observer for NoObserver {
    fn started(&self, _: usize) {}
    fn output(&self, _: usize, _: &[u8]) {}
    fn ended(&self, _: usize, _: &StepReport) {}
}

/// Writes the build's history while it runs. Trouble with it never fails a build.
pub(super) struct Recorder<'a> {
    log: Mutex<Option<BuildLog>>,
    logs: Mutex<BTreeMap<usize, StepLog>>,
    plan: &'a Plan,
    targets: Vec<Vec<String>>,
    images: &'a [Image],
}

impl<'a> Recorder<'a> {
    pub(super) fn new(log: BuildLog, plan: &'a Plan, images: &'a [Image]) -> Self {
        let (log, targets) = (Mutex::new(Some(log)), targets(plan));
        Self { log, logs: Mutex::default(), plan, targets, images }
    }

    /// Notes what should be known of the image.
    pub(super) fn note(&self, text: &str) {
        if let Some(log) = &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner) {
            log.note(text);
        }
    }

    pub(super) fn finish(
        &self,
        now: Timestamp,
        outcome: Outcome,
        packed: Option<&PackedProduct>,
        steps: &[StepReport],
    ) -> Result<(), Failure> {
        let Some(mut log) = self.log.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        for (index, report) in steps.iter().enumerate() {
            if report.end == StepEnd::NotReached {
                let _ = log.step(step_of(index, (self.plan, &self.targets), self.images, report));
            }
        }
        let finish = Finish {
            finished_ms: now.as_millisecond(),
            outcome,
            image: packed.map(PackedProduct::id),
            manifest: packed.map(|packed| packed.top().digest),
        };
        log.finish(finish).map(drop).map_err(|error| Failure::of(Class::Environment, &error))
    }
}

impl Observer for Recorder<'_> {
    fn started(&self, _: usize) {
        if let Some(log) = &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = log.running();
        }
    }

    fn output(&self, step: usize, bytes: &[u8]) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if !logs.contains_key(&step) {
            let build = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            logs.extend(build.as_ref().map(|build| (step, build.log(step))));
        }
        if let Some(log) = logs.get_mut(&step) {
            let _ = log.write_all(bytes);
        }
    }

    fn ended(&self, step: usize, report: &StepReport) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(&step);
        if let Some(log) = &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = log.step(step_of(step, (self.plan, &self.targets), self.images, report));
        }
    }
}
