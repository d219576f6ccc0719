//! The coordinator: one thread that owns the graph, decides, and never works itself.
//!
//! Here are its state and its loop. What it does with an event is described in the order of a
//! step's life: `phase` (where it is), `lookup` (inputs, hit or miss), `admission` (locks, limits),
//! `results` (hashes, records); `prediction` and `below` say what a build would do; `files` and
//! `vertices` answer questions.
//!
//! # What it does itself
//!
//! Nothing that waits for a disk or for another process: files are hashed and steps run by workers,
//! layers, records, listings and history are written by one (`lane`), and locks that are not free
//! are waited for by threads of their own. What is left are the few system calls of a look-up (a
//! record and its layer's facts, each of some hundred bytes) and of taking a lock that is free:
//! they take less time than handing them over would. A look-up that meets a garbage collection waits
//! for its one rename. Before the loop, when nothing else is there to do, `ahead` looks at imported
//! caches and cache mounts that are to be new are emptied.

mod admission;
mod below;
mod files;
mod lane;
mod lookup;
mod phase;
mod prediction;
mod results;
mod vertices;

pub(super) use results::add_tar_facts;

use self::below::Memory;
use self::lane::Lane;
use self::phase::{Node, Phase};
use crate::cache::Cache;
use crate::layer::Scan;
use crate::plan::{Files, Step, StepId, Tree};
use crate::progress::Outcome;
use crate::solve::ahead;
use crate::solve::cache_mounts;
use crate::solve::exec::{ExecError, ExecResult};
use crate::solve::inputs::StepInputs;
use crate::solve::record::{cost_of, micros};
use crate::solve::step_context::Shared;
use crate::solve::{
    Cause, Counts, Failed, FailedStep, Job, Miss, Predicted, Secret, SolveError, Solved, StepEnd,
    StepError, StepReport,
};
use crate::store::{ChainId, LayerMeta, StepLock};
use crate::text::chain;
use crate::trace;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};
use tracing::{Span, debug};

/// How often an interruption is looked for while only locks of other builds are waited for, whose
/// waiting the kernel cannot cut short.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Runs what has to be run and returns the target's layers.
///
/// # Errors
///
/// [`Failed`] with the first error; nothing runs or is mounted any more then.
pub fn solve(job: &Job<'_>) -> Result<Solved, Box<Failed>> {
    hide_secrets(job);
    let shared = Shared::default();
    let solved = thread::scope(|scope| {
        let mut coordinator = Coordinator::new(job, &shared, Mode::Solve, scope);
        let emptied = match job.options.keeps_cache_mounts {
            true => Ok(()),
            false => cache_mounts::empty(job).map_err(SolveError::Other),
        };
        let end = emptied.and_then(|()| coordinator.run());
        let end = end.and_then(|()| coordinator.complete_layers());
        coordinator.into_result(end)
    });
    shared.trees.flush(job);
    solved
}

/// Keeps what is known to be secret out of the diagnostic log. Secrets in files are read, and
/// hidden, when a step needs them.
fn hide_secrets(job: &Job<'_>) {
    if !trace::is_on() {
        return;
    }
    let credentials = job.options.credentials.iter().cloned().chain(job.plan.credentials());
    for (_, value) in credentials {
        trace::hide(value.as_bytes());
    }
    for secret in job.options.secrets.values() {
        if let Secret::Value(value) = secret {
            trace::hide(value);
        }
    }
}

/// Says what [`solve`] would do. Nothing is run or written.
///
/// # Errors
///
/// [`Failed`] where files cannot be read.
pub fn predict(job: &Job<'_>) -> Result<Predicted, Box<Failed>> {
    let shared = Shared::default();
    thread::scope(|scope| {
        let mut coordinator = Coordinator::new(job, &shared, Mode::Predict, scope);
        let end = coordinator.run();
        coordinator.complete_prediction();
        let mut listings = BTreeMap::new();
        for node in &coordinator.nodes {
            if let Some(inputs) = node.phase.inputs() {
                inputs.collect_listings(&mut listings);
            }
        }
        let solved = coordinator.into_result(end)?;
        Ok(Predicted { steps: solved.steps, listings })
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Solve,
    Predict,
}

/// What a worker reports.
enum Event {
    Described(usize, Result<StepInputs, Cause>),
    /// Result of the attempt to bring a result here from another cache.
    Brought(usize, Arc<StepInputs>, Result<(), String>),
    Locked(usize, Arc<StepInputs>, Result<StepLock, Cause>),
    Executed(usize, Result<ExecResult, ExecError>),
    Digested(usize, Result<(Scan, LayerMeta), Cause>),
    /// A step's layer and record are in the store.
    Recorded(usize, Result<Box<StepReport>, Cause>),
    /// What would become of a step behind one whose files are not known.
    Predicted(usize, Result<(Option<Miss>, StepEnd), Cause>),
    Panicked(Box<dyn std::any::Any + Send>),
}

pub(super) struct Coordinator<'scope, 'env: 'scope> {
    job: &'env Job<'env>,
    shared: &'env Shared,
    cache: Cache,
    mode: Mode,
    scope: &'scope Scope<'scope, 'env>,
    /// What does jobs in their order, once there has been one.
    lane: Option<Lane<'scope>>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    nodes: Vec<Node>,
    /// Steps that start from a step, and steps that read a step's files.
    children: Vec<Vec<usize>>,
    readers: Vec<Vec<usize>>,
    base_chains: Vec<ChainId>,
    /// Whether a step's layer is one of a target's.
    in_target: Vec<bool>,
    to_describe: VecDeque<usize>,
    to_run: VecDeque<usize>,
    describing: usize,
    running: usize,
    /// What running commands have reserved of the memory budget, in bytes.
    reserved: u64,
    /// Jobs of workers that no limit counts: results brought here, hashed, recorded, predicted.
    background: usize,
    locking: usize,
    error: Option<SolveError>,
    /// The files of the command that failed, where they are wanted.
    failed_step: Option<Box<FailedStep>>,
    counts: Counts,
    begun: Instant,
    /// What a prediction has found out so far.
    memory: Arc<Memory>,
}

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    fn new(
        job: &'env Job<'env>,
        shared: &'env Shared,
        mode: Mode,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Self {
        let (sender, events) = unbounded();
        let steps = &job.plan.steps;
        let mut children = vec![Vec::new(); steps.len()];
        let mut readers = vec![Vec::new(); steps.len()];
        let mut nodes = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            if let Files::Step(StepId(parent)) = step.parent {
                children[parent].push(index);
            }
            let mut missing_trees = 0;
            for tree in step.trees() {
                if let Tree::Files(Files::Step(StepId(source))) = tree {
                    readers[source].push(index);
                    missing_trees += 1;
                }
            }
            nodes.push(Node::new(missing_trees));
        }
        let mut in_target = vec![false; steps.len()];
        for StepId(index) in job.plan.targets.iter().flat_map(|target| job.plan.made(target.files))
        {
            in_target[index] = true;
        }
        let base_chains = ahead::base_chains(job);
        Self {
            job,
            shared,
            cache: match mode {
                Mode::Solve => Cache::new(job.store.clone()),
                Mode::Predict => Cache::peeking(job.store.clone()),
            },
            mode,
            scope,
            lane: None,
            sender,
            events,
            nodes,
            children,
            readers,
            base_chains,
            in_target,
            to_describe: (0..steps.len()).collect(),
            to_run: VecDeque::new(),
            describing: 0,
            running: 0,
            reserved: 0,
            background: 0,
            locking: 0,
            error: None,
            failed_step: None,
            counts: Counts::default(),
            begun: Instant::now(),
            memory: Arc::default(),
        }
    }

    /// Finds out what would hit, and stays to be asked for it.
    pub(super) fn predicted(
        job: &'env Job<'env>,
        shared: &'env Shared,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Result<Self, Box<Failed>> {
        let mut coordinator = Self::new(job, shared, Mode::Predict, scope);
        match coordinator.run() {
            Ok(()) => Ok(coordinator),
            Err(error) => coordinator.into_result(Err(error)).map(|_| unreachable!("it failed")),
        }
    }

    fn step(&self, index: usize) -> &'env Step {
        &self.job.plan.steps[index]
    }

    /// The loop: start what can be started, wait for one event, decide.
    fn run(&mut self) -> Result<(), SolveError> {
        if self.mode == Mode::Solve {
            self.show_bases();
            let ahead = ahead::look(self.job, self.shared, &self.cache, &self.base_chains);
            let end = ahead.and_then(|ahead| self.leave_out(ahead));
            end.map_err(|cause| match cause.is_cancelled() {
                true => SolveError::Cancelled,
                false => SolveError::Other(cause),
            })?;
        }
        loop {
            self.start_describing();
            self.start_running();
            let busy = self.describing + self.running + self.background;
            let is_over = self.error.is_some() || self.job.cancel.is_cancelled();
            if busy == 0 && (is_over || self.locking == 0) {
                break;
            }
            let event = if busy == 0 {
                match self.events.recv_timeout(LOCK_POLL) {
                    Ok(event) => event,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender"),
                }
            } else {
                self.events.recv().expect("we hold a sender")
            };
            self.handle(event);
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.job.cancel.is_cancelled() {
            return Err(SolveError::Cancelled);
        }
        debug_assert!(self.nodes.iter().all(|node| node.phase.is_done()), "nothing waits");
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        let (index, result) = match event {
            Event::Described(index, result) => {
                self.describing -= 1;
                (index, result.map(|described| self.on_described(index, described)))
            }
            Event::Brought(index, inputs, result) => {
                self.background -= 1;
                (index, Ok(self.on_brought(index, inputs, result)))
            }
            Event::Locked(index, inputs, result) => {
                self.locking -= 1;
                (index, result.map(|lock| self.on_locked(index, inputs, lock)))
            }
            Event::Executed(index, result) => {
                self.running -= 1;
                self.reserved -= self.reservation(index);
                match result {
                    Ok(result) => (index, Ok(self.on_executed(index, result))),
                    Err(ExecError { cause, failed_step }) => {
                        if !self.is_stopping() {
                            self.failed_step = failed_step;
                        }
                        (index, Err(cause))
                    }
                }
            }
            Event::Digested(index, result) => {
                self.background -= 1;
                (index, result.map(|digested| self.on_digested(index, digested)))
            }
            Event::Recorded(index, result) => {
                self.background -= 1;
                let done = result.map(|report| {
                    self.on_recorded(index, *report);
                    Ok(())
                });
                (index, done)
            }
            Event::Predicted(index, result) => {
                self.background -= 1;
                (index, result.map(|(miss, end)| self.on_predicted(index, miss, end)))
            }
            Event::Panicked(panic) => {
                // A bug of ours: stop the others, then let the panic speak.
                self.job.cancel.cancel();
                resume_unwind(panic);
            }
        };
        if let Err(cause) | Ok(Err(cause)) = result {
            if self.mode == Mode::Predict
                && matches!(self.nodes[index].phase, Phase::Running(_) | Phase::Digesting(..))
                && !cause.is_cancelled()
            {
                // What it would make stays unknown.
                if let Err(cause) = self.not_foreseen(index) {
                    self.on_failure(index, cause);
                }
                return;
            }
            self.on_failure(index, cause);
        }
    }

    /// Spawns a worker for a step. A panic in it reaches the coordinator, which would wait for ever
    /// otherwise.
    fn work(&self, index: usize, job: impl FnOnce() -> Event + Send + 'scope) {
        let (sender, span) = (self.sender.clone(), self.span(index));
        self.scope.spawn(move || {
            let _step = span.entered();
            let event = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(Event::Panicked);
            let _ = sender.send(event);
        });
    }

    /// Has a job for a step done after those that were handed over before it.
    fn work_in_order(&mut self, index: usize, job: impl FnOnce() -> Event + Send + 'scope) {
        self.background += 1;
        let span = self.span(index);
        self.lane().hand_over(move || {
            let _step = span.entered();
            Some(job())
        });
    }

    /// The span of what is reported of a step in the diagnostic log.
    fn span(&self, index: usize) -> Span {
        trace::step(&self.step(index).name)
    }

    fn lane(&mut self) -> &Lane<'scope> {
        let (scope, sender) = (self.scope, &self.sender);
        self.lane.get_or_insert_with(|| Lane::start(scope, sender.clone()))
    }

    /// Reports the end of a step that no worker recorded. Before anything has run, an observer
    /// writes nothing; afterwards its writes keep their order.
    fn report_end(&self, index: usize) {
        let (observer, report) = (self.job.observer, &self.nodes[index].report);
        match &self.lane {
            None => observer.ended(index, report),
            Some(lane) => {
                let report = report.clone();
                lane.hand_over(move || {
                    observer.ended(index, &report);
                    None
                });
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.error.is_some() || self.job.cancel.is_cancelled()
    }

    fn on_failure(&mut self, index: usize, cause: Cause) {
        let was_running = self.nodes[index].phase.is_running();
        debug!(parent: &self.span(index), cause = chain(&cause), "failed");
        if let Some(lock) = self.nodes[index].phase.lock_mut() {
            *lock = None;
        }
        let vertex = self.vertex_digest(index);
        if cause.is_cancelled() || self.is_stopping() {
            if was_running {
                self.job.progress.done(vertex, Outcome::Cancelled);
            }
            return;
        }
        let message = cause.to_string();
        let exit = match &cause {
            Cause::Exit { status, usage, .. } => {
                let wall = Duration::from_micros(usage.wall_us);
                self.nodes[index].report.cost = cost_of(wall, usage);
                Some(*status)
            }
            _ => None,
        };
        if was_running {
            let report = &mut self.nodes[index].report;
            report.wall_us = micros(self.begun.elapsed()).saturating_sub(report.began_us).max(1);
            report.emulator = self.shared.emulations.of(index);
        }
        if !was_running {
            self.job.progress.started(self.vertex(index));
        }
        self.job.progress.done(vertex, Outcome::Failed(message.clone()));
        let step = self.step(index);
        self.nodes[index].report.end = StepEnd::Failed { message, exit };
        self.report_end(index);
        self.error = Some(SolveError::Step(Box::new(StepError {
            step: index,
            name: step.name.clone(),
            lines: step.lines,
            vertex,
            cause,
        })));
        self.job.cancel.cancel();
    }

    /// Finds the diff_ids of the targets' layers where images are wanted.
    fn complete_layers(&mut self) -> Result<(), SolveError> {
        if !self.job.options.wants_image {
            return Ok(());
        }
        let is_wanted = self.in_target.iter();
        let wanted = self.nodes.iter_mut().zip(is_wanted).filter(|(_, is_wanted)| **is_wanted);
        let layers = wanted.filter_map(|(node, _)| node.report.layer.as_mut());
        add_tar_facts(self.job, layers, self.job.cancel).map_err(|cause| {
            match cause.is_cancelled() {
                true => SolveError::Cancelled,
                false => SolveError::Other(cause),
            }
        })
    }

    fn into_result(self, end: Result<(), SolveError>) -> Result<Solved, Box<Failed>> {
        let counts = self.counts;
        let steps = self.nodes.into_iter().map(|node| node.report).collect();
        match end {
            Ok(()) => Ok(Solved { steps, counts }),
            Err(error) => Err(Box::new(Failed { error, steps, failed_step: self.failed_step })),
        }
    }
}
