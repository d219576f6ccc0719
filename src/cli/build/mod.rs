//! `builder build`: what was typed becomes a request, a plan, an image.
//!
//! `flags` is what clap reads, `request` what it means; the run is here; `deliver` makes the
//! outputs, `recorder` keeps the history, `secrets` guards what leaves, `housekeeping` collects
//! afterwards.

mod arguments;
mod attestations;
mod deliver;
mod flags;
mod given;
mod housekeeping;
mod neighbours;
pub mod on_error;
mod recorder;
mod request;
mod secrets;
mod shared_cache;

pub use flags::{BuildArgs, BuildCommand};
pub(super) use housekeeping::watch_room;
pub(super) use request::Request;

use self::deliver::deliver;
use self::recorder::{NoObserver, Recorder, record_of};
use crate::cache::{TreeEntry, TreeId};
use crate::cli::check::{Call, Format};
use crate::cli::failure::{self, Class, Failure};
use crate::cli::findings::{self, Subject};
use crate::cli::parse_args::PullPolicy;
use crate::cli::{Environment, check, limits, list_targets, parse_args, registry, throwaway_store};
use crate::explain::{Audit, AuditVerdict, AuditedStep};
use crate::export::{Dest, OutputSpec};
use crate::history::{BuildId, BuildRecord, History, Outcome};
use crate::image::Image;
use crate::job::resolve::Images;
use crate::job::transfers::Pulls;
use crate::oci::Digest;
use crate::plan::Plan;
use crate::progress::{LogLimits, Mode, Output, Progress};
use crate::registry::Client;
use crate::sandbox::Sandbox;
use crate::solve::{self, Audited, Job, SolveError};
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Runs `builder build`.
///
/// # Errors
///
/// The failure to show.
pub fn run(command: &BuildCommand, environment: &Environment) -> Result<(), Failure> {
    let mut args = command.args.clone();
    args.neighbours.format.clone_from(&command.format);
    let args = &args;
    match command.call {
        _ if command.check => {
            return check::run_as_docker(&command.path, args, Format::Text, environment);
        }
        Call::Check(format) => {
            return check::run_as_docker(&command.path, args, format, environment);
        }
        Call::Targets(format) => {
            return list_targets::run(&command.path, args, format, environment);
        }
        Call::Build => {}
    }
    args.on_error.check()?;
    let store = environment.store()?;
    let _room = watch_room(environment, store.root());
    let request = Request::new(&command.path, args, &store, environment)?;
    // An output may be on another disk than the store.
    let dests = request.all_outputs().filter_map(|spec| match &spec.dest {
        Some(Dest::Path(path)) => Some(watch_room(environment, path)),
        Some(Dest::Stdout) | None => None,
    });
    let _rooms: Vec<_> = dests.collect();
    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let progress =
        Progress::new(mode, Output::stderr(environment.is_coloured), environment.started)
            .with_log_limits(log_limits(environment)?);
    let result = build(args, &request, environment, &store, &progress);
    progress.finish();
    let digest = result?;
    if mode == Mode::Quiet
        && let Some(digest) = digest
    {
        environment.print(&format!("{digest}\n"));
    }
    Ok(())
}

/// What a build would do, for `builder explain`.
///
/// # Errors
///
/// The failure to show.
pub fn predict(
    path: &str,
    args: &BuildArgs,
    environment: &Environment,
    store: &Store,
) -> Result<(BuildRecord, BTreeMap<TreeId, Vec<TreeEntry>>), Failure> {
    let (elsewhere, _dir) = throwaway_store()?;
    with_job(path, args, environment, store, &elsewhere, |request, job, images| {
        let predicted = solve::predict(job)
            .map_err(|failed| request.solve_failure(failed.error, job.progress))?;
        let id = BuildId::at(environment.started.as_millisecond());
        let about = request.about(args, job.plan, environment);
        let steps = &predicted.steps;
        let record = record_of(id, about, Outcome::Predicted, job.plan, images, steps);
        Ok((record, predicted.listings))
    })
}

/// Runs the steps that a build would find in the cache once more, for `builder explain --audit`.
///
/// # Errors
///
/// The failure to show.
pub fn audit(path: &str, args: &BuildArgs, environment: &Environment) -> Result<Audit, Failure> {
    let store = environment.store()?;
    with_job(path, args, environment, &store, &store, |request, job, _| {
        let mut audit = Audit::default();
        let report = &mut |number: usize, audited: Audited| {
            let step = &job.plan.steps[number];
            audit.steps.push(AuditedStep {
                number,
                name: step.name.clone(),
                line: step.lines.0,
                verdict: match audited {
                    Audited::Same => AuditVerdict::Reproducible,
                    Audited::Differs { known, now } => AuditVerdict::of(&known, &now),
                    Audited::Failed(cause) => {
                        AuditVerdict::Failed { message: failure::chain(&cause) }
                    }
                    Audited::NoResult => AuditVerdict::NoResult,
                },
            });
        };
        solve::audit(job, report)
            .map_err(|failed| request.solve_failure(failed.error, job.progress))?;
        Ok(audit)
    })
}

/// Puts together what a build would begin with, without beginning one. Images that `store` lacks
/// are brought to `elsewhere`.
fn with_job<T>(
    path: &str,
    args: &BuildArgs,
    environment: &Environment,
    store: &Store,
    elsewhere: &Store,
    ask: impl FnOnce(&Request, &Job<'_>, &[Image]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let request = Request::new(path, args, store, environment)?;
    let cancel = &environment.cancel;
    let mut images = Images::new(store, &request.contexts, cancel).brought_to(elsewhere);
    let plan = request.plan(args, &mut images)?;
    let progress = Progress::quiet();
    let sandbox = Sandbox::new(args.security.sandbox(store));
    let mut job = request.job(
        &plan,
        store,
        &images.images,
        &progress,
        &NoObserver,
        &sandbox,
        (environment, cancel),
        "",
    )?;
    job.workshop = elsewhere;
    ask(&request, &job, &images.images)
}

/// Builds, and then says what may be wrong with the file.
fn build(
    args: &BuildArgs,
    request: &Request,
    environment: &Environment,
    store: &Store,
    progress: &Progress,
) -> Result<Option<Digest>, Failure> {
    let notices = args.neighbours.notices().into_iter().chain(args.security.notices());
    if !args.volume.is_empty() {
        progress.notice("what steps read of --volume does not count for their cache keys");
    }
    notices.chain(args.attestations.notice()?).for_each(|text| progress.notice(text));
    request.caches.notices().iter().for_each(|text| progress.notice(text.as_str()));
    let mut images = Images::new(store, &request.contexts, &environment.cancel);
    if args.pull != PullPolicy::Never {
        let client = client(args, environment, progress)?;
        let is_forced = args.pull == PullPolicy::Always;
        images = images.or_pulled(Pulls { client, progress, is_forced });
    }
    let (plan, findings) = request.checked_plan(args, &mut images);
    // `-q` hides other warnings; here the result is not for the wanted platform.
    for (name, warning) in &images.mismatches {
        let is_found = |finding: &crate::dockerfile::lint::Finding| {
            finding.rule.name == "InvalidBaseImagePlatform" && finding.message.contains(name)
        };
        match args.quiet {
            true => environment.warn(warning),
            false if findings.iter().any(is_found) => {}
            false => progress.notice(warning.as_str()),
        }
    }
    let result = plan
        .and_then(|plan| build_plan(args, request, environment, store, progress, &plan, &images));
    let text = request.text();
    let subject = Subject { name: &request.inputs.dockerfile_name, text: &text };
    findings::warn(&findings, subject, progress);
    result
}

fn build_plan(
    args: &BuildArgs,
    request: &Request,
    environment: &Environment,
    store: &Store,
    progress: &Progress,
    plan: &Plan,
    images: &Images<'_>,
) -> Result<Option<Digest>, Failure> {
    for name in &plan.unused_args {
        progress.notice(format!("build argument {name} is declared by no ARG"));
    }
    let is_idle = |spec: &OutputSpec| spec.layers.rewrites_times == Some(true);
    if request.options.epoch.is_none() && request.outputs.iter().any(is_idle) {
        progress.notice(
            "rewrite-timestamp=true changes nothing without SOURCE_DATE_EPOCH or --timestamp"
                .to_owned(),
        );
    }
    progress.expect(plan.steps.len());
    let history = History::new(store);
    let log = history
        .begin(request.about(args, plan, environment))
        .map_err(|error| Failure::of(Class::Environment, &error))?;
    let build = log.id();
    let id = build.to_string();
    let recorder = Recorder::new(log, plan, &images.images);
    let sandbox = sandbox(args, request, environment, store, progress)?;
    // A failure stops the other steps, and not what follows it.
    let steps_cancel = environment.cancel.child();
    let job = request.job(
        plan,
        store,
        &images.images,
        progress,
        &recorder,
        &sandbox,
        (environment, &steps_cancel),
        &id,
    )?;
    let solved = match solve::solve(&job) {
        Ok(solved) => solved,
        Err(failed) => {
            let failed = *failed;
            let message = match &failed.error {
                SolveError::Cancelled => None,
                error => Some(failure::chain(error)),
            };
            let outcome = message.map_or(Outcome::Cancelled, |message| Outcome::Failed { message });
            // What failed is the news, not that the disk has no room to note it.
            let _ = recorder.finish(environment, outcome, None, &failed.steps);
            let kept = failed.failed_step;
            let failure = request.solve_failure(failed.error, progress);
            let Some(kept) = kept else { return Err(failure) };
            return Err(on_error::act(
                args.on_error,
                &job,
                *kept,
                &failed.steps,
                failure,
                environment,
            ));
        }
    };
    let delivered = guarded(args, request, &job, &solved, build, &recorder)
        .and_then(|()| deliver(args, request, environment, &job, &solved))
        .and_then(|digest| request.caches.write(&job, &solved).map(|()| digest));
    let digest = match delivered {
        Ok(digest) => digest,
        Err(failure) => {
            let outcome = Outcome::Failed { message: failure.message.clone() };
            let _ = recorder.finish(environment, outcome, None, &solved.steps);
            return Err(failure);
        }
    };
    recorder.finish(environment, Outcome::Ok, digest, &solved.steps)?;
    store.sync().map_err(|error| Failure::of(Class::Environment, &error))?;
    let ran = solved.steps.iter().filter(|step| step.end == solve::StepEnd::Ran);
    let added = ran.map(|step| step.cost.layer_bytes).reduce(|a, b| a + b);
    housekeeping::after_build(environment, store, progress, added);
    Ok(digest)
}

/// Makes the client of registries that images are pulled from and pushed to.
fn client(
    args: &BuildArgs,
    environment: &Environment,
    progress: &Progress,
) -> Result<Client, Failure> {
    match args.neighbours.tls_verify {
        Some(false) => registry::unverified_client(environment, progress),
        _ => registry::client(environment, progress),
    }
}

/// Reads how much of a step's output is shown, by BuildKit's names.
fn log_limits(environment: &Environment) -> Result<LogLimits, Failure> {
    let defaults = LogLimits::default();
    let read = |name: &str, default| match environment.variable(name) {
        Some(text) if !text.is_empty() => LogLimits::parse(&text)
            .map_err(|error| Failure::new(Class::Usage, format!("{name}: {error}"))),
        _ => Ok(default),
    };
    Ok(LogLimits {
        size: read("BUILDKIT_STEP_LOG_MAX_SIZE", defaults.size)?,
        speed: read("BUILDKIT_STEP_LOG_MAX_SPEED", defaults.speed)?,
    })
}

/// Makes what runs commands. Limits that nothing here can enforce are refused before anything runs;
/// ones that are enforced in part are reported.
fn sandbox(
    args: &BuildArgs,
    request: &Request,
    environment: &Environment,
    store: &Store,
    progress: &Progress,
) -> Result<Arc<Sandbox>, Failure> {
    let mut options = args.security.sandbox(store);
    let network =
        parse_args::network(&args.network).map_err(|error| Failure::new(Class::Usage, error))?;
    options.network.reaches_host_loopback = network.reaches_host_loopback;
    let sandbox = Arc::new(Sandbox::new(options));
    environment.signals.freeze_with_us(&sandbox);
    for notice in limits::check(&sandbox, &request.options.policy.limits)? {
        progress.notice(notice);
    }
    Ok(sandbox)
}

/// Sees that no secret leaves with the image.
fn guarded(
    args: &BuildArgs,
    request: &Request,
    job: &Job<'_>,
    solved: &solve::Solved,
    build: BuildId,
    recorder: &Recorder<'_>,
) -> Result<(), Failure> {
    if !job.options.wants_image || secrets::is_nothing(job) {
        return Ok(());
    }
    let image = solve::image_of(job, solved);
    let dockerfile = (&*request.inputs.dockerfile_name, &*request.text());
    let is_allowed = args.allow_secret_in_image;
    secrets::check(job, solved, &image, build, recorder, is_allowed, dockerfile)
}
