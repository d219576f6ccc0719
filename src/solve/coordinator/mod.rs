//! The coordinator: one thread that owns the graph, decides, and never works itself.
//!
//! Here are its state and its loop. What it does with an event is described in the order of a
//! step's life: `lookup` (inputs, hit or miss), `admission` (locks, limits), `results` (hashes,
//! records); `files` and `vertices` answer questions.

mod admission;
mod files;
mod lookup;
mod prediction;
mod results;
mod vertices;

pub(super) use lookup::chain;
pub(super) use results::add_tar_facts;
use results::{cost_of, micros};

use crate::cache::{Cache, Cost, Output, Record};
use crate::layer::Scan;
use crate::plan::{Files, Step, StepId, Tree};
use crate::progress::Outcome;
use crate::solve::ahead;
use crate::solve::cache_mounts;
use crate::solve::exec::ExecResult;
use crate::solve::inputs::StepInputs;
use crate::solve::trees::{LowerDir, Trees};
use crate::solve::{
    Cause, Counts, Failed, Job, Predicted, SolveError, Solved, StepEnd, StepError, StepReport,
};
use crate::store::{ChainId, Layer, LayerMeta, StepLock};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// How often an interruption is looked for while only locks of other builds are waited for, whose
/// waiting the kernel cannot cut short.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Runs what has to be run and returns the target's layers.
///
/// # Errors
///
/// [`Failed`] with the first error; nothing runs or is mounted any more then.
pub fn solve(job: &Job<'_>) -> Result<Solved, Box<Failed>> {
    let trees = Trees::default();
    let solved = thread::scope(|scope| {
        let mut coordinator = Coordinator::new(job, &trees, Mode::Solve, scope);
        let emptied = match job.options.keeps_cache_mounts {
            true => Ok(()),
            false => cache_mounts::empty(job).map_err(SolveError::Other),
        };
        let end = emptied.and_then(|()| coordinator.run());
        let layers = end.and_then(|()| coordinator.target_layers());
        coordinator.into_result(layers)
    });
    trees.flush(job);
    solved
}

/// Says what [`solve`] would do. Nothing is run or written.
///
/// # Errors
///
/// [`Failed`] where files cannot be read.
pub fn predict(job: &Job<'_>) -> Result<Predicted, Box<Failed>> {
    let trees = Trees::default();
    thread::scope(|scope| {
        let mut coordinator = Coordinator::new(job, &trees, Mode::Predict, scope);
        let end = coordinator.run();
        coordinator.complete_prediction();
        let mut listings = BTreeMap::new();
        for node in &coordinator.nodes {
            if let Some(described) = &node.described {
                described.collect_listings(&mut listings);
            }
        }
        let solved = coordinator.into_result(end.map(|()| Vec::new()))?;
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
    Brought(usize, Result<(), String>),
    Locked(usize, Result<StepLock, Cause>),
    ExecResult(usize, Result<ExecResult, Cause>),
    Digested(usize, Result<(Scan, LayerMeta), Cause>),
    Panicked(Box<dyn std::any::Any + Send>),
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its inputs are not known yet.
    Waiting,
    /// Its inputs are known.
    Described,
    /// A record could be hit; its parent's chain is not known yet.
    AwaitingChain,
    /// Its result is being brought here from another cache.
    Bringing,
    /// Another build runs it.
    AwaitingLock,
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// It ran; its files are usable, and are being hashed.
    Sealing,
    /// Its layer is in the store, or nothing more will come of it.
    Done,
}

struct Node {
    phase: Phase,
    /// How many of the trees it reads are not usable yet.
    missing_trees: usize,
    /// Whether a tree it reads will never be usable: an earlier step would have to run.
    is_blind: bool,
    described: Option<Arc<StepInputs>>,
    /// Its own files, once there.
    lower: Option<LowerDir>,
    /// Whether its files and all below them are there.
    is_usable: bool,
    /// The chain up to it, once known.
    chain: Option<ChainId>,
    made: Option<Arc<ExecResult>>,
    meta: Option<LayerMeta>,
    lock: Option<StepLock>,
    report: StepReport,
}

pub(super) struct Coordinator<'scope, 'env: 'scope> {
    job: &'env Job<'env>,
    trees: &'env Trees,
    cache: Cache,
    mode: Mode,
    scope: &'scope Scope<'scope, 'env>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    nodes: Vec<Node>,
    /// Steps that start from a step, and steps that read a step's files.
    children: Vec<Vec<usize>>,
    readers: Vec<Vec<usize>>,
    base_chains: Vec<ChainId>,
    /// Whether a step's layer is one of the target's.
    in_target: Vec<bool>,
    to_describe: VecDeque<usize>,
    to_run: VecDeque<usize>,
    describing: usize,
    running: usize,
    /// What running commands have reserved of the memory budget, in bytes.
    reserved: u64,
    sealing: usize,
    bringing: usize,
    locking: usize,
    error: Option<SolveError>,
    counts: Counts,
    begun: Instant,
    /// All records that could be hit, once a prediction had to ask for them.
    all_records: Option<Vec<Record>>,
    /// What steps would make on top of chains that they may come to stand on, as far as a
    /// prediction had to find out; `None` for what could not be found out.
    made_on: BTreeMap<(usize, ChainId), Option<Output>>,
}

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    fn new(
        job: &'env Job<'env>,
        trees: &'env Trees,
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
        let mut files = job.plan.target.files;
        while let Files::Step(StepId(index)) = files {
            in_target[index] = true;
            files = steps[index].parent;
        }
        let base_chains = ahead::base_chains(job);
        Self {
            job,
            trees,
            cache: match mode {
                Mode::Solve => Cache::new(job.store.clone()),
                Mode::Predict => Cache::peeking(job.store.clone()),
            },
            mode,
            scope,
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
            sealing: 0,
            bringing: 0,
            locking: 0,
            error: None,
            counts: Counts::default(),
            begun: Instant::now(),
            all_records: None,
            made_on: BTreeMap::new(),
        }
    }

    /// Finds out what would hit, and stays to be asked for it.
    pub(super) fn predicted(
        job: &'env Job<'env>,
        trees: &'env Trees,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Result<Self, Box<Failed>> {
        let mut coordinator = Self::new(job, trees, Mode::Predict, scope);
        match coordinator.run() {
            Ok(()) => Ok(coordinator),
            Err(error) => coordinator.into_result(Err(error)).map(|_| unreachable!("it failed")),
        }
    }

    /// What a step that would hit depends on.
    pub(super) fn described(&self, index: usize) -> &StepInputs {
        self.nodes[index].described.as_ref().expect("a step that hits has been described")
    }

    fn step(&self, index: usize) -> &'env Step {
        &self.job.plan.steps[index]
    }

    /// The loop: start what can be started, wait for one event, decide.
    fn run(&mut self) -> Result<(), SolveError> {
        if self.mode == Mode::Solve {
            self.show_bases();
            let ahead = ahead::look(self.job, self.trees, &self.cache, &self.base_chains);
            let end = ahead.and_then(|ahead| self.leave_out(ahead));
            end.map_err(|cause| match cause.is_cancelled() {
                true => SolveError::Cancelled,
                false => SolveError::Other(cause),
            })?;
        }
        loop {
            self.start_describing();
            self.start_running();
            let busy = self.describing + self.running + self.sealing + self.bringing;
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
        debug_assert!(self.nodes.iter().all(|node| node.phase == Phase::Done), "nothing waits");
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        let (index, result) = match event {
            Event::Described(index, result) => {
                self.describing -= 1;
                (index, result.map(|described| self.on_described(index, described)))
            }
            Event::Brought(index, result) => {
                self.bringing -= 1;
                (index, Ok(self.on_brought(index, result)))
            }
            Event::Locked(index, result) => {
                self.locking -= 1;
                (index, result.map(|lock| self.on_locked(index, lock)))
            }
            Event::ExecResult(index, result) => {
                self.running -= 1;
                self.reserved -= self.reservation(index);
                (index, result.map(|made| self.on_made(index, made)))
            }
            Event::Digested(index, result) => {
                self.sealing -= 1;
                (index, result.map(|sealed| self.on_sealed(index, sealed)))
            }
            Event::Panicked(panic) => {
                // A bug of ours: stop the others, then let the panic speak.
                self.job.cancel.cancel();
                resume_unwind(panic);
            }
        };
        if let Err(cause) | Ok(Err(cause)) = result {
            if self.mode == Mode::Predict
                && matches!(self.nodes[index].phase, Phase::Running | Phase::Sealing)
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

    /// Spawns a worker. A panic in it reaches the coordinator, which would wait for ever otherwise.
    fn work(&self, job: impl FnOnce() -> Event + Send + 'scope) {
        let sender = self.sender.clone();
        self.scope.spawn(move || {
            let event = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(Event::Panicked);
            let _ = sender.send(event);
        });
    }

    fn is_stopping(&self) -> bool {
        self.error.is_some() || self.job.cancel.is_cancelled()
    }

    fn on_failure(&mut self, index: usize, cause: Cause) {
        let was_running = self.nodes[index].phase == Phase::Running;
        self.nodes[index].lock = None;
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
        }
        if !was_running {
            self.job.progress.started(self.vertex(index));
        }
        self.job.progress.done(vertex, Outcome::Failed(message.clone()));
        let step = self.step(index);
        self.nodes[index].report.end = StepEnd::Failed { message, exit };
        self.job.observer.ended(index, &self.nodes[index].report);
        self.error = Some(SolveError::Step(Box::new(StepError {
            step: index,
            name: step.name.clone(),
            lines: step.lines,
            vertex,
            cause,
        })));
        self.job.cancel.cancel();
    }

    /// The layers that the target's steps made, with diff_ids where an image is wanted.
    fn target_layers(&mut self) -> Result<Vec<Layer>, SolveError> {
        let mut layers = Vec::new();
        let mut files = self.job.plan.target.files;
        while let Files::Step(StepId(index)) = files {
            layers
                .push(self.nodes[index].report.layer.clone().expect("a finished step has a layer"));
            files = self.step(index).parent;
        }
        layers.reverse();
        if self.job.options.wants_image {
            add_tar_facts(self.job, &mut layers, self.job.cancel).map_err(|cause| {
                match cause.is_cancelled() {
                    true => SolveError::Cancelled,
                    false => SolveError::Other(cause),
                }
            })?;
        }
        Ok(layers)
    }

    fn into_result(self, layers: Result<Vec<Layer>, SolveError>) -> Result<Solved, Box<Failed>> {
        let counts = self.counts;
        let steps = self.nodes.into_iter().map(|node| node.report).collect();
        match layers {
            Ok(layers) => Ok(Solved { layers, steps, counts }),
            Err(error) => Err(Box::new(Failed { error, steps })),
        }
    }
}

impl Node {
    fn new(missing_trees: usize) -> Self {
        Self {
            phase: Phase::Waiting,
            missing_trees,
            is_blind: false,
            described: None,
            lower: None,
            is_usable: false,
            chain: None,
            made: None,
            meta: None,
            lock: None,
            report: StepReport {
                end: StepEnd::NotReached,
                inputs: None,
                key: None,
                parent: None,
                miss: None,
                created: None,
                cost: Cost::default(),
                layer: None,
                output: None,
                is_unsound: false,
                began_us: 0,
                wall_us: 0,
            },
        }
    }
}
