//! Doing what a step says.
//!
//! # Not here
//!
//! Hashing what it made: [`super::digest`].

use super::copies::{self, SelectedSource};
use super::deltas::Delta;
use super::mask::{self, Mask};
use super::mounts::{self, Prepared};
use super::step_context::StepContext;
use super::trees::{LowerDir, Stack};
use super::{Cause, FailedStep, Job, disk_guard};
use crate::copy;
use crate::layer::{Now, Time};
use crate::oci::Digest;
use crate::plan::{Files, Network, Op, Run, Security, StepId};
use crate::progress;
use crate::sandbox::{
    self, Ids, Lineage, Machine, NetworkMode, OsBytes, RunSpec, Runs, Stdio, Stream, Usage,
};
use crate::snapshot::{self, Scratch, XattrSpace};
use crate::store;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::debug;

/// Mode of the script that a RUN heredoc with a `#!` line becomes.
const SCRIPT_MODE: u32 = 0o755;

/// The variable that names the socket of an agent.
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

/// The files that a step made, not hashed yet.
#[derive(Debug)]
pub(super) struct ExecResult {
    /// The directory of the session that holds `fs/`.
    pub(super) work: PathBuf,
    /// `fs/`, held open.
    pub(super) lower: LowerDir,
    /// What the command used.
    pub(super) usage: Option<Usage>,
    /// From start to end.
    pub(super) wall: Duration,
    /// Whether sources changed while they were copied, so that the key is not theirs.
    pub(super) is_unsound: bool,
    /// The times of files that the step wrote without setting them.
    pub(super) now: Now,
    /// What a copy went over, where it was not done in full.
    pub(super) delta: Option<Box<Delta>>,
}

/// Why a step did not get done, with the files of its command where they are wanted.
#[derive(Debug)]
pub(super) struct ExecError {
    pub(super) cause: Cause,
    pub(super) failed_step: Option<Box<FailedStep>>,
}

impl From<Cause> for ExecError {
    fn from(cause: Cause) -> Self {
        Self { cause, failed_step: None }
    }
}

/// Runs a copy over what an earlier one made; `None` where the layer would not be the one that
/// copying all makes.
pub(super) fn execute_over(
    context: &StepContext<'_>,
    delta: Delta,
    stack: &Stack,
) -> Result<Option<ExecResult>, Cause> {
    let job = context.job;
    let Op::Copy(copy) = &context.step().op else { return Ok(None) };
    let begun = Instant::now();
    let work = job.store.session()?.new_work()?;
    let scratch = Scratch::new(&work)?;
    if scratch.is_in_memory() || !snapshot::can_mount() {
        store::remove_tree(&work).map_err(|e| io("remove", &work, e))?;
        return Ok(None);
    }
    let from = time_of(scratch.upper().work)?;
    let mut below = if copy.is_link { Stack::default() } else { stack.clone() };
    let lowers = below.paths();
    let before = below.mount(job.workshop)?;
    below.0.push(LowerDir::finished(&delta.layer));
    let mounted = below.mount_for(context.shared, job.workshop, Some(&scratch.upper()), None)?;
    let stats = copies::perform(job, copy, &delta.chosen, mounted.root(), Some(before.root()))?;
    drop(mounted);
    // What equals the files below the copy is in no layer; to hide the older version takes another.
    let cleaned = snapshot::clean(scratch.written(), &lowers, XattrSpace::detect(), job.cancel)?;
    if cleaned.unchanged > 0 || !stats.changed.is_empty() {
        store::remove_tree(&work).map_err(|e| io("remove", &work, e))?;
        return Ok(None);
    }
    let lower = LowerDir::held(&scratch.into_layer(job.cancel)?, false)?.over(&delta.layer);
    let created = copies::created(job);
    let made = Some((created.seconds, created.nanoseconds));
    let now = Now { from, to: time_now(&work)?, made };
    Ok(Some(ExecResult {
        work,
        lower,
        usage: None,
        wall: begun.elapsed(),
        is_unsound: false,
        now,
        delta: Some(Box::new(delta)),
    }))
}

/// Runs a step on top of `stack`.
pub(super) fn execute(
    context: &StepContext<'_>,
    chosen: &[SelectedSource],
    stack: &Stack,
) -> Result<ExecResult, ExecError> {
    let mut failed_step = None;
    execute_and_keep(context, chosen, stack, &mut failed_step)
        .map_err(|cause| ExecError { cause, failed_step })
}

fn execute_and_keep(
    context: &StepContext<'_>,
    chosen: &[SelectedSource],
    stack: &Stack,
    failed_step: &mut Option<Box<FailedStep>>,
) -> Result<ExecResult, Cause> {
    let begun = Instant::now();
    let (job, step, vertex) = (context.job, context.step(), context.vertex());
    let work = job.workshop.session()?.new_work()?;
    let scratch = Scratch::new(&work)?;
    // By the clock of the file system, which is the one that files get their times from.
    let mut from = time_of(scratch.upper().work)?;
    if scratch.is_in_memory() {
        // Its files keep whole seconds when they go to the disk.
        from.1 = 0;
    }
    let nothing = Stack::default();
    let below = match &step.op {
        Op::Copy(copy) if copy.is_link => &nothing,
        _ => stack,
    };
    let ids = match &step.op {
        Op::Run(run) => {
            job.sandbox.rung()?;
            job.sandbox.ids(security_of(job, run)?)?
        }
        Op::Copy(_) | Op::Workdir(_) => None,
    };
    pass_notices_on(job, vertex);
    let mounted =
        below.mount_for(context.shared, job.workshop, Some(&scratch.upper()), ids.as_deref())?;
    let root = mounted.root();

    let mut usage = None;
    let mut is_unsound = false;
    match &step.op {
        Op::Workdir(workdir) => {
            let owner = copies::owner_of(root, &workdir.user)?;
            copy::make_workdir(root, workdir.path.as_bytes(), owner, Some(copies::created(job)))?;
        }
        Op::Copy(copy) => {
            let stats = copies::perform(job, copy, chosen, root, None)?;
            for remark in copies::remarks(copy, chosen, root) {
                job.progress.notice_of(vertex, remark);
            }
            if let Some(path) = stats.changed.first() {
                is_unsound = true;
                job.progress.notice_of(
                    vertex,
                    format!(
                        "{} changed while it was copied; the step is not kept in the cache",
                        path.display()
                    ),
                );
            }
        }
        Op::Run(run) => match command(context, run, root, ids.as_deref()) {
            Ok(used) => usage = Some(used),
            Err(cause) => {
                if matches!(cause, Cause::Exit { .. }) && job.options.keeps_failed {
                    mounted.finish(job.cancel)?;
                    let (index, trees) = (context.index, context.trees.clone());
                    let failed = FailedStep::new(index, work, scratch, below.clone(), trees);
                    *failed_step = Some(Box::new(failed));
                }
                return Err(cause);
            }
        },
    }
    let finished = mounted.finish(job.cancel)?;
    if let Some([first, second]) = &finished.shared {
        let text = format!(
            "{} and {} are one file, which was changed: in namespaces only the name that the command \
             used would have changed",
            first.display(),
            second.display()
        );
        job.progress.notice_of(vertex, text);
    }
    let cleaned =
        snapshot::clean(scratch.written(), &below.paths(), XattrSpace::detect(), job.cancel)?;
    let lower = LowerDir::held(&scratch.into_layer(job.cancel)?, cleaned.is_empty)?;
    let mut above = below.clone();
    above.0.push(lower.clone());
    finished.keep(&context.shared.laid, &above.paths());
    let made = match &step.op {
        Op::Run(_) => None,
        Op::Copy(_) | Op::Workdir(_) => {
            let created = copies::created(job);
            Some((created.seconds, created.nanoseconds))
        }
    };
    let now = Now { from, to: time_now(&work)?, made };
    Ok(ExecResult { work, lower, usage, wall: begun.elapsed(), is_unsound, now, delta: None })
}

/// The time of a directory that nothing has been put in yet.
fn time_of(dir: &Path) -> Result<Time, Cause> {
    let stat = rustix::fs::stat(dir).map_err(|e| io("read", dir, e.into()))?;
    Ok((stat.st_mtime, stat.st_mtime_nsec as u32))
}

/// What the clock of the file system of `work` says.
fn time_now(work: &Path) -> Result<Time, Cause> {
    let mark = work.join("end");
    fs::create_dir(&mark).map_err(|source| io("create", &mark, source))?;
    let time = time_of(&mark)?;
    fs::remove_dir(&mark).map_err(|source| io("remove", &mark, source))?;
    Ok(time)
}

fn command(
    context: &StepContext<'_>,
    run: &Run,
    root: BorrowedFd<'_>,
    ids: Option<&Ids>,
) -> Result<Usage, Cause> {
    let (job, index, vertex) = (context.job, context.index, context.vertex());
    let Command { spec, prepared, emulator } = prepare(context, run, root, ids)?;
    if let Some(emulator) = emulator {
        let platform = context.step().platform.to_string();
        job.progress.emulated(vertex, &platform, &emulator);
        context.shared.emulations.begin(index, emulator);
    }
    debug!(
        network = ?spec.policy.network, security = ?spec.security, user = spec.user, cwd = spec.cwd,
        mounts = spec.mounts.len(),
        "starts a command"
    );
    let inputs = sandbox::Inputs { root, sources: prepared.sources(), stdio: Stdio::Capture };
    let control = sandbox::Control::default();
    let mask = Mask::of(job, &context.shared.mask);
    let mut streams = [mask::Stream::default(), mask::Stream::default()];
    let begun = Instant::now();
    let hint = || {
        if let Some(hint) = context.shared.emulations.hint(index, begun.elapsed()) {
            job.progress.notice_of(vertex, hint);
        }
    };
    let emit = |number: usize, bytes: &[u8]| {
        if bytes.is_empty() {
            return;
        }
        hint();
        let stream = [progress::Stream::Stdout, progress::Stream::Stderr][number];
        job.progress.log(vertex, stream, bytes);
        job.observer.output(index, bytes);
    };
    let mut show = |stream, bytes: &[u8]| {
        let number = match stream {
            Stream::Stdout => 0,
            Stream::Stderr => 1,
        };
        match &mask {
            Some(mask) => emit(number, &streams[number].push(mask, bytes)),
            None => emit(number, bytes),
        }
    };
    let exit = disk_guard::guarded(job.store.root(), job.options.disk_floor, &control, || {
        Ok(job.sandbox.run(&spec, &inputs, job.cancel, &control, &mut show)?)
    });
    if let Some(mask) = &mask {
        for (number, stream) in streams.iter_mut().enumerate() {
            emit(number, &stream.finish(mask));
        }
        if streams.iter().any(|stream| stream.has_masked) {
            let text = "the command wrote a secret: it is shown and kept as ***";
            job.progress.notice_of(vertex, text);
        }
    }
    hint();
    let exit = exit?;
    let (status, usage) = (exit.status, &exit.usage);
    debug!(status, wall_us = usage.wall_us, peak_memory = usage.peak_memory, "a command ended");
    pass_notices_on(job, vertex);
    if job.cancel.is_cancelled() {
        return Err(Cause::Cancelled);
    }
    match exit.status {
        0 => {
            if let Some(limit) = exit.pids {
                let text =
                    format!("the command reached its limit of {limit} processes and threads");
                job.progress.notice_of(vertex, text);
            }
            Ok(exit.usage)
        }
        status => Err(Cause::Exit { status, oom: exit.oom, pids: exit.pids, usage: exit.usage }),
    }
}

/// A command that is ready to run.
pub(super) struct Command {
    pub(super) spec: RunSpec,
    pub(super) prepared: Prepared,
    /// What its program runs in, where that is not of this machine's processor.
    pub(super) emulator: Option<String>,
}

/// Works out all that a command is to run with, in a root.
pub(super) fn prepare(
    context: &StepContext<'_>,
    run: &Run,
    root: BorrowedFd<'_>,
    ids: Option<&Ids>,
) -> Result<Command, Cause> {
    let job = context.job;
    if run.network == Network::Host {
        allowed(job, "network.host")?;
    }
    let security = security_of(job, run)?;
    let mut prepared = mounts::prepare(context, &run.mounts, ids)?;
    if let Some((path, data)) = &run.script {
        prepared.script(job, path, data, SCRIPT_MODE)?;
    }
    let mut env = run.env.clone();
    let given = run.proxy.iter().chain(&prepared.env);
    for (name, value) in given {
        match env.iter_mut().find(|(known, _)| known == name) {
            // A proxy that ENV or ARG set wins over the build's.
            Some(_) if run.proxy.iter().any(|(proxy, _)| proxy == name) => {}
            // So does the socket of another agent.
            Some(_) if name == SSH_AUTH_SOCK => {}
            Some((_, old)) => old.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    let mut spec = RunSpec {
        argv: run.argv.iter().map(|word| OsBytes::from(word.as_str())).collect(),
        env,
        cwd: run.cwd.clone(),
        user: run.user.clone(),
        policy: job.options.policy.clone(),
        mounts: std::mem::take(&mut prepared.specs),
        security,
        readonly_root: false,
        lineage: lineage(job, context.index),
        runs: Runs::default(),
    };
    let program = sandbox::machine_of_command(root, &spec);
    spec.runs = job.sandbox.runs(&context.step().platform, security, program)?;
    spec.policy.network = match run.network {
        Network::Default => default_network(context, &spec.runs),
        Network::None => NetworkMode::None,
        Network::Host => NetworkMode::Host,
    };
    // A native program may still start others that are not.
    let is_native = program.is_some_and(Machine::is_host);
    let emulator = spec.runs.emulator().filter(|_| !is_native).map(str::to_owned);
    Ok(Command { spec, prepared, emulator })
}

/// Finds the steps whose files a step runs on.
fn lineage(job: &Job<'_>, index: usize) -> Lineage {
    let mut ancestors = Vec::new();
    let mut files = job.plan.steps[index].parent;
    while let Files::Step(StepId(above)) = files {
        ancestors.push(above);
        files = job.plan.steps[above].parent;
    }
    Lineage { own: Some(index), ancestors }
}

fn allowed(job: &Job<'_>, entitlement: &'static str) -> Result<(), Cause> {
    if job.options.allow.contains(entitlement) {
        Ok(())
    } else {
        Err(Cause::NotAllowed { entitlement })
    }
}

pub(super) fn security_of(job: &Job<'_>, run: &Run) -> Result<sandbox::Security, Cause> {
    match run.security {
        Security::Sandbox => Ok(sandbox::Security::Default),
        Security::Insecure => {
            allowed(job, "security.insecure")?;
            Ok(sandbox::Security::Insecure)
        }
    }
}

/// Shows, with the step, which parts of the confinement this machine lacks.
fn pass_notices_on(job: &Job<'_>, vertex: Digest) {
    for notice in job.sandbox.take_notices() {
        job.progress.notice_of(vertex, notice);
    }
}

/// The network of a step that asks for none in particular: the build's own where it can be had.
fn default_network(context: &StepContext<'_>, runs: &Runs) -> NetworkMode {
    let job = context.job;
    if job.options.policy.network != NetworkMode::Private {
        return job.options.policy.network;
    }
    match job.sandbox.start_network(runs) {
        Ok(()) => NetworkMode::Private,
        Err(error) => {
            if context.shared.take_network_report() {
                job.progress.notice(format!("{error}; RUN steps use the host's network"));
            }
            NetworkMode::Host
        }
    }
}

pub(super) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Cause {
    Cause::Io { doing, path: path.to_owned(), source }
}
