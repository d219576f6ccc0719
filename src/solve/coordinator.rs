//! The coordinator: one thread that owns the graph, decides, and never works itself.

use super::exec::{self, Made};
use super::inputs::{self, Described};
use super::trees::{Lower, Stack, Trees, chain_of};
use super::{
    Cause, Counts, End, Failed, Job, Miss, Predicted, SolveError, Solved, StepError, StepReport,
};
use crate::cache::{Cache, Cost, ImportError, Missing, Output, Record};
use crate::layer::Scan;
use crate::plan::{Files, Op, Step, StepId, Tree};
use crate::progress::{Outcome, Vertex};
use crate::sandbox::Usage;
use crate::store::{ChainId, Digest, Key, Layer, StepLock};
use crate::sys::cancel::Cancel;
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
        let end = coordinator.run();
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
    Described(usize, Result<Described, Cause>),
    /// What became of the attempt to bring a result here from another cache.
    Brought(usize, Result<(), String>),
    Locked(usize, Result<StepLock, Cause>),
    Made(usize, Result<Made, Cause>),
    Sealed(usize, Result<Scan, Cause>),
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
    described: Option<Arc<Described>>,
    /// Its own files, once there.
    lower: Option<Lower>,
    /// Whether its files and all below them are there.
    is_usable: bool,
    /// The chain up to it, once known.
    chain: Option<ChainId>,
    made: Option<Made>,
    scan: Option<Scan>,
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
        let base_chains =
            job.plan.bases.iter().map(|base| chain_of(&job.images[base.image].layers)).collect();
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

    /// The layer that a step would hit.
    pub(super) fn known_layer(&self, index: usize) -> Option<&Layer> {
        let report = &self.nodes[index].report;
        report.layer.as_ref().filter(|_| matches!(report.end, End::Hit { .. }))
    }

    /// The layers of steps that a step starts from or reads.
    pub(super) fn layers_below(&self, index: usize) -> Vec<&Layer> {
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

    /// What a step that would hit depends on.
    pub(super) fn described(&self, index: usize) -> &Described {
        self.nodes[index].described.as_ref().expect("a step that hits has been described")
    }

    fn step(&self, index: usize) -> &'env Step {
        &self.job.plan.steps[index]
    }

    /// The loop: start what can be started, wait for one event, decide.
    fn run(&mut self) -> Result<(), SolveError> {
        if self.mode == Mode::Solve {
            self.show_bases();
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

    fn show_bases(&self) {
        for base in &self.job.plan.bases {
            if base.step_name.starts_with('[') {
                self.job.progress.cached(Vertex {
                    is_step: false,
                    ..Vertex::step(base_vertex(&base.step_name), Vec::new(), &base.step_name)
                });
            }
        }
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
            Event::Made(index, result) => {
                self.running -= 1;
                self.reserved -= self.reservation(index);
                (index, result.map(|made| self.on_made(index, made)))
            }
            Event::Sealed(index, result) => {
                self.sealing -= 1;
                (index, result.map(|scan| self.on_sealed(index, scan)))
            }
            Event::Panicked(panic) => {
                // A bug of ours: stop the others, then let the panic speak.
                self.job.cancel.cancel();
                resume_unwind(panic);
            }
        };
        if let Err(cause) | Ok(Err(cause)) = result {
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

    // Inputs.

    fn start_describing(&mut self) {
        let mut later = VecDeque::new();
        while let Some(index) = self.to_describe.pop_front() {
            if self.is_stopping() {
                return;
            }
            let node = &self.nodes[index];
            if node.phase == Phase::Done {
                continue;
            }
            if node.missing_trees > 0 || self.describing >= self.job.options.parallelism {
                later.push_back(index);
                continue;
            }
            let step = self.step(index);
            let files = self.files_of_trees(step);
            let (job, trees) = (self.job, self.trees);
            if reads_nothing(step) {
                let described = describe(job, trees, step, &files);
                let end = described.and_then(|described| self.on_described(index, described));
                if let Err(cause) = end {
                    self.on_failure(index, cause);
                }
                continue;
            }
            self.describing += 1;
            self.work(move || Event::Described(index, describe(job, trees, step, &files)));
        }
        self.to_describe = later;
    }

    fn on_described(&mut self, index: usize, described: Described) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        node.report.inputs = Some(described.inputs.clone());
        node.report.key = Some(described.inputs.key());
        node.described = Some(Arc::new(described));
        node.phase = Phase::Described;
        self.counts.described += 1;
        self.decide(index)
    }

    /// Decides what becomes of a step whose inputs are known, as far as that can be said now.
    fn decide(&mut self, index: usize) -> Result<(), Cause> {
        let step = self.step(index);
        let node = &self.nodes[index];
        if !matches!(node.phase, Phase::Described | Phase::AwaitingChain) || self.is_stopping() {
            return Ok(());
        }
        let key = node.report.key.expect("a described step has a key");
        let parent = self.key_parent(step);
        if !self.is_usable(step.parent) && parent.is_none() {
            // Only a prediction can know that there will be no parent to ask for.
            if self.mode == Mode::Predict && self.is_hopeless(step.parent) {
                let is_miss = step.ignore_cache || !self.cache.knows(&key);
                let miss =
                    if step.ignore_cache { Miss::NoCache } else { Miss::Missing(Missing::Key) };
                let Files::Step(StepId(after)) = step.parent else {
                    unreachable!("only steps can be hopeless")
                };
                let end = if is_miss { End::Ran } else { End::Unknown { after } };
                self.nodes[index].report.miss = is_miss.then_some(miss);
                return self.foretell(index, end);
            }
            return Ok(());
        }
        if step.ignore_cache {
            return self.miss(index, Miss::NoCache);
        }
        let Some(parent) = parent else {
            let is_solving = self.mode == Mode::Solve;
            let knows = || self.job.imports.iter().any(|import| import.knows(&key));
            if self.cache.knows(&key) || is_solving && knows() {
                self.nodes[index].phase = Phase::AwaitingChain;
                return Ok(());
            }
            return self.miss(index, Miss::Missing(Missing::Key));
        };
        self.nodes[index].report.parent = Some(parent);
        self.counts.looked_up += 1;
        match self.cache.lookup(&key, &parent)? {
            Ok((record, layer)) => self.hit(index, &record, layer),
            Err(_) if self.bring(index, key, parent) => Ok(()),
            Err(missing) => self.miss(index, Miss::Missing(missing)),
        }
    }

    /// Begins to bring a result here from the first other cache that has it; says whether one has.
    fn bring(&mut self, index: usize, key: Key, parent: ChainId) -> bool {
        if self.mode == Mode::Predict {
            return false;
        }
        let job = self.job;
        let Some(import) = job.imports.iter().find(|import| import.has(&key, &parent)) else {
            return false;
        };
        self.nodes[index].phase = Phase::Bringing;
        self.bringing += 1;
        self.counts.brought += 1;
        self.work(move || {
            let brought = import.bring(job.store, &key, &parent, job.cancel);
            let told = |error: ImportError| format!("cache {}: {}", import.name(), chain(&error));
            Event::Brought(index, brought.map_err(told))
        });
        true
    }

    /// A result is here now, or its cache is of no use: then the next one is asked, or the step runs.
    fn on_brought(&mut self, index: usize, result: Result<(), String>) -> Result<(), Cause> {
        if let Err(trouble) = result
            && !self.is_stopping()
        {
            self.job.progress.notice(trouble);
        }
        self.nodes[index].phase = Phase::Described;
        self.decide(index)
    }

    fn hit(&mut self, index: usize, record: &Record, layer: Layer) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        node.lower = Some(Lower::finished(&layer));
        node.report.end = End::Hit { build: record.build.clone() };
        node.report.miss = None;
        node.report.created = Some(record.finished);
        node.report.cost = record.cost;
        node.report.layer = Some(layer);
        node.report.output = Some(record.output);
        node.phase = Phase::Done;
        node.lock = None;
        if self.mode == Mode::Solve {
            self.job.progress.cached(self.vertex(index));
            self.job.observer.ended(index, &self.nodes[index].report);
        }
        // First the chain, so that what follows is looked up and locked by its full name.
        self.link(index)?;
        self.on_usable(index)
    }

    fn miss(&mut self, index: usize, miss: Miss) -> Result<(), Cause> {
        self.nodes[index].report.miss = Some(miss);
        if self.mode == Mode::Predict {
            return self.foretell(index, End::Ran);
        }
        self.lock(index)
    }

    /// Notes a step of a prediction that cannot be looked up.
    fn foretell(&mut self, index: usize, end: End) -> Result<(), Cause> {
        let node = &mut self.nodes[index];
        node.report.end = end;
        node.phase = Phase::Done;
        for reader in self.readers[index].clone() {
            let node = &mut self.nodes[reader];
            node.is_blind = true;
            if node.phase == Phase::Waiting {
                self.foretell(reader, End::Unknown { after: index })?;
            }
        }
        for child in self.children[index].clone() {
            self.decide(child)?;
        }
        Ok(())
    }

    /// Whether nothing will ever be known of these files: a step under them would have to run.
    fn is_hopeless(&self, files: Files) -> bool {
        matches!(files, Files::Step(StepId(index))
            if self.nodes[index].phase == Phase::Done && self.nodes[index].lower.is_none())
    }

    // Running.

    /// The name of a step's lock: what it is, on what.
    fn lock_name(&self, index: usize) -> Option<String> {
        let key = self.nodes[index].report.key?;
        let parent = self.key_parent(self.step(index))?;
        Some(format!("{}-{}", &key.to_hex()[..32], &parent.to_hex()[..32]))
    }

    fn holder(&self) -> String {
        format!("build {} (pid {})", self.job.build, std::process::id())
    }

    /// Makes sure that no other build runs the step, where that can be said already.
    fn lock(&mut self, index: usize) -> Result<(), Cause> {
        let Some(name) = self.lock_name(index) else {
            self.enqueue(index);
            return Ok(());
        };
        if let Some(lock) = self.job.store.try_lock_step(&name, &self.holder())? {
            return self.on_locked(index, lock);
        }
        let other = self.job.store.step_holder(&name).unwrap_or_else(|| "another build".to_owned());
        if other != self.holder() {
            self.job.progress.notice(format!("{}: waiting for {other}", self.step(index).name));
        }
        self.nodes[index].phase = Phase::AwaitingLock;
        self.locking += 1;
        // Not one of the scope's threads: nothing can wake it but the other build.
        let (store, holder, sender) = (self.job.store.clone(), self.holder(), self.sender.clone());
        thread::spawn(move || {
            let lock = store.lock_step(&name, &holder).map_err(Cause::from);
            let _ = sender.send(Event::Locked(index, lock));
        });
        Ok(())
    }

    /// The lock is ours; the result may have come since we looked.
    fn on_locked(&mut self, index: usize, lock: StepLock) -> Result<(), Cause> {
        let step = self.step(index);
        let node = &self.nodes[index];
        let known = match (node.report.key, self.key_parent(step), step.ignore_cache) {
            (Some(key), Some(parent), false) => {
                self.counts.looked_up += 1;
                self.cache.lookup(&key, &parent)?.ok()
            }
            _ => None,
        };
        if let Some((record, layer)) = known {
            drop(lock);
            return self.hit(index, &record, layer);
        }
        self.nodes[index].lock = Some(lock);
        self.enqueue(index);
        Ok(())
    }

    fn enqueue(&mut self, index: usize) {
        self.nodes[index].phase = Phase::Queued;
        self.to_run.push_back(index);
    }

    /// How much of the memory budget a step takes while it runs. Only commands count: copies use
    /// little, whatever they copy.
    fn reservation(&self, index: usize) -> u64 {
        match (&self.step(index).op, self.job.options.memory_budget) {
            (Op::Run(_), Some(budget)) => {
                self.job.options.limits.memory.map_or(budget, |memory| memory.min(budget))
            }
            _ => 0,
        }
    }

    /// Takes the first step in line that fits into what is left of the budget. None waits for ever:
    /// all commands of a build reserve the same.
    fn next_to_run(&mut self) -> Option<usize> {
        let left = self.job.options.memory_budget.map_or(u64::MAX, |b| b - self.reserved);
        let place = self.to_run.iter().position(|&index| self.reservation(index) <= left)?;
        self.to_run.remove(place)
    }

    fn start_running(&mut self) {
        while self.running < self.job.options.parallelism && !self.is_stopping() {
            let Some(index) = self.next_to_run() else { return };
            self.reserved += self.reservation(index);
            let step = self.step(index);
            let stack = self.stack(step.parent);
            let files = self.files_of_trees(step);
            let described =
                Arc::clone(self.nodes[index].described.as_ref().expect("a queued step has inputs"));
            let vertex = self.vertex(index);
            let digest = vertex.digest;
            self.job.progress.started(vertex);
            self.job.observer.started(index);
            self.nodes[index].phase = Phase::Running;
            self.nodes[index].report.began_us = micros(self.begun.elapsed());
            self.running += 1;
            self.counts.ran += 1;
            let (job, trees) = (self.job, self.trees);
            self.work(move || {
                let files = |tree: Tree| files.get(&tree).cloned().unwrap_or_default();
                let made =
                    exec::execute(job, trees, index, digest, &described.chosen, &stack, &files);
                Event::Made(index, made)
            });
        }
    }

    fn on_made(&mut self, index: usize, made: Made) -> Result<(), Cause> {
        let wants_tar = self.job.options.wants_image && self.in_target[index];
        let fs = made.lower.path().to_owned();
        let (held, now) = (made.lower.clone(), made.now);
        let node = &mut self.nodes[index];
        node.lower = Some(made.lower.clone());
        node.report.wall_us = micros(made.wall);
        node.made = Some(made);
        node.phase = Phase::Sealing;
        self.job.progress.done(self.vertex_digest(index), Outcome::Ran);
        self.sealing += 1;
        self.counts.hashed += 1;
        let cancel = self.job.interrupt;
        self.work(move || {
            let _held = held;
            Event::Sealed(index, exec::seal(&fs, wants_tar, Some(now), cancel))
        });
        self.on_usable(index)
    }

    fn on_sealed(&mut self, index: usize, scan: Scan) -> Result<(), Cause> {
        let output = Output { layer: scan.id, content: scan.content, set_times: scan.set_times };
        self.nodes[index].report.output = Some(output);
        self.nodes[index].scan = Some(scan);
        self.link(index)
    }

    /// A step's own files are there: tells all that waited for them, where what is below is there
    /// too. A copy that stands by itself (`--link`) may have come before what it stands on.
    fn on_usable(&mut self, index: usize) -> Result<(), Cause> {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let node = &self.nodes[index];
            if node.is_usable || node.lower.is_none() || !self.is_usable(self.step(index).parent) {
                continue;
            }
            self.nodes[index].is_usable = true;
            for reader in self.readers[index].clone() {
                self.nodes[reader].missing_trees -= 1;
            }
            for child in self.children[index].clone() {
                self.decide(child)?;
                open.push(child);
            }
        }
        Ok(())
    }

    /// Learns a step's chain, if its parent's and its own content are known; files its record; goes
    /// on with its children.
    fn link(&mut self, index: usize) -> Result<(), Cause> {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let node = &self.nodes[index];
            let (None, Some(output), Some(parent)) =
                (node.chain, node.report.output, self.chain(self.step(index).parent))
            else {
                continue;
            };
            self.nodes[index].chain = Some(output.on(&parent));
            for child in self.children[index].clone() {
                // Before the record is visible: a build that hits it will ask for the child next, and is
                // to wait for ours, also where that has run already and is only being hashed.
                if matches!(
                    self.nodes[child].phase,
                    Phase::Queued | Phase::Running | Phase::Sealing
                ) && self.nodes[child].lock.is_none()
                    && let Some(name) = self.lock_name(child)
                {
                    self.nodes[child].lock = self.job.store.try_lock_step(&name, &self.holder())?;
                }
            }
            if self.nodes[index].phase == Phase::Sealing {
                self.record(index)?;
            }
            for child in self.children[index].clone() {
                self.decide(child)?;
                open.push(child);
            }
        }
        Ok(())
    }

    /// Puts a finished layer in its place: interned, filed.
    fn record(&mut self, index: usize) -> Result<(), Cause> {
        let step = self.step(index);
        let parent = self.key_parent(step).expect("a step is recorded when its parent is known");
        let node = &mut self.nodes[index];
        let scan = node.scan.take().expect("a sealing step has been scanned");
        let made = node.made.take().expect("a sealing step has been made");
        let described = Arc::clone(node.described.as_ref().expect("a step that ran has inputs"));
        let usage = made.usage.unwrap_or_default();
        let cost = Cost { layer_bytes: scan.bytes, ..cost_of(made.wall, &usage) };
        let made_output = node.report.output.expect("a scanned step has an output");
        let chain = made_output.on(&parent);
        let known = if step.ignore_cache { None } else { self.cache.interned(&chain)? };
        let (layer, finished) = match known {
            // With its older time: an image made of the same files stays the same image.
            Some(known) => known,
            None => {
                let layer = self.job.store.add_layer(&made.work, &scan.meta())?;
                self.cache.intern(&chain, &layer.id, self.job.now)?;
                (layer, self.job.now)
            }
        };
        let output = Output { layer: layer.id, ..made_output };
        let record = Cache::new_record(
            described.inputs.clone(),
            parent,
            output,
            self.job.build.clone(),
            finished,
            cost,
        );
        if !made.is_unsound {
            described.keep_listings(&self.cache)?;
            self.cache.file(&record)?;
        }
        let node = &mut self.nodes[index];
        node.report.parent = Some(parent);
        node.report.end = End::Ran;
        node.report.created = Some(record.finished);
        node.report.cost = cost;
        node.report.layer = Some(layer);
        node.report.output = Some(output);
        node.phase = Phase::Done;
        node.lock = None;
        self.job.observer.ended(index, &self.nodes[index].report);
        Ok(())
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
        if !was_running {
            self.job.progress.started(self.vertex(index));
        }
        self.job.progress.done(vertex, Outcome::Failed(message.clone()));
        let step = self.step(index);
        self.nodes[index].report.end = End::Failed { message, exit };
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

    // What is known of files.

    fn is_usable(&self, files: Files) -> bool {
        match files {
            Files::Nothing | Files::Base(_) => true,
            Files::Step(StepId(index)) => self.nodes[index].is_usable,
        }
    }

    fn chain(&self, files: Files) -> Option<ChainId> {
        match files {
            Files::Nothing => Some(ChainId::scratch()),
            Files::Base(base) => Some(self.base_chains[base.0]),
            Files::Step(StepId(index)) => self.nodes[index].chain,
        }
    }

    /// The chain a step's record is filed under.
    fn key_parent(&self, step: &Step) -> Option<ChainId> {
        match &step.op {
            Op::Copy(copy) if copy.is_link => Some(ChainId::scratch()),
            _ => self.chain(step.parent),
        }
    }

    pub(super) fn stack(&self, mut files: Files) -> Stack {
        let mut lowers = Vec::new();
        while let Files::Step(StepId(index)) = files {
            lowers.extend(self.nodes[index].lower.clone());
            files = self.step(index).parent;
        }
        if let Files::Base(base) = files {
            let image = &self.job.images[self.job.plan.bases[base.0].image];
            lowers.extend(image.layers.iter().rev().map(|layer| Lower::finished(&layer.layer)));
        }
        lowers.reverse();
        Stack(lowers)
    }

    pub(super) fn files_of_trees(&self, step: &Step) -> BTreeMap<Tree, (Stack, Option<ChainId>)> {
        step.trees()
            .into_iter()
            .map(|tree| match tree {
                Tree::Context(_) => (tree, (Stack::default(), None)),
                Tree::Files(files) => (tree, (self.stack(files), self.chain(files))),
            })
            .collect()
    }

    // Progress.

    fn vertex_digest(&self, index: usize) -> Digest {
        Digest::of(format!("step {index} {}", self.step(index).name).as_bytes())
    }

    fn vertex(&self, index: usize) -> Vertex {
        let step = self.step(index);
        let of_files = |files: Files| match files {
            Files::Nothing => None,
            Files::Base(base) => Some(base_vertex(&self.job.plan.bases[base.0].step_name)),
            Files::Step(StepId(index)) => Some(self.vertex_digest(index)),
        };
        let read = step.trees().into_iter().filter_map(|tree| match tree {
            Tree::Files(files) => of_files(files),
            Tree::Context(_) => None,
        });
        let inputs = of_files(step.parent).into_iter().chain(read).collect();
        Vertex::step(self.vertex_digest(index), inputs, &step.name)
    }

    // The end.

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
            scan: None,
            lock: None,
            report: StepReport {
                end: End::NotReached,
                inputs: None,
                key: None,
                parent: None,
                miss: None,
                created: None,
                cost: Cost::default(),
                layer: None,
                output: None,
                began_us: 0,
                wall_us: 0,
            },
        }
    }
}

/// An error and its causes: `a: b`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn cost_of(wall: Duration, usage: &Usage) -> Cost {
    Cost {
        wall_us: micros(wall),
        cpu_us: usage.cpu_user_us + usage.cpu_system_us,
        system_us: usage.cpu_system_us,
        peak_memory: usage.peak_memory.unwrap_or(0),
        io_read: usage.io_read.unwrap_or(0),
        io_written: usage.io_written.unwrap_or(0),
        max_pids: usage.max_pids.unwrap_or(0),
        layer_bytes: 0,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn base_vertex(name: &str) -> Digest {
    Digest::of(format!("base {name}").as_bytes())
}

/// Whether the inputs of a step are known without reading any file.
fn reads_nothing(step: &Step) -> bool {
    use crate::plan::CopySource;
    match &step.op {
        Op::Workdir(_) => true,
        Op::Run(_) => step.trees().is_empty(),
        Op::Copy(copy) => {
            copy.sources.iter().all(|source| matches!(source, CopySource::Inline { .. }))
        }
    }
}

fn describe(
    job: &Job<'_>,
    trees: &Trees,
    step: &Step,
    files: &BTreeMap<Tree, (Stack, Option<ChainId>)>,
) -> Result<Described, Cause> {
    let files = |tree: Tree| files.get(&tree).cloned().unwrap_or_default();
    inputs::describe(job, trees, step, &files)
}

/// Hashes the tars of layers nobody needed as an image before, side by side.
pub(super) fn add_tar_facts(
    job: &Job<'_>,
    layers: &mut [Layer],
    cancel: &Cancel,
) -> Result<(), Cause> {
    let missing: Vec<&mut Layer> =
        layers.iter_mut().filter(|layer| layer.meta.tar.is_none()).collect();
    let queue = std::sync::Mutex::new(missing.into_iter());
    let workers = job.options.parallelism.clamp(1, 4);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().expect("workers do not panic").next();
                        let Some(layer) = next else { return Ok(()) };
                        layer.meta.tar = exec::seal(&layer.fs(), true, None, cancel)?.tar;
                        job.store.update_layer(&layer.meta)?;
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|p| resume_unwind(p)))
    })
}
