//! Running a build: images and a plan, the solver, the guard of secrets, the delivery, the record.

use super::deliver::deliver;
use super::failure::{self, Class, Failure};
use super::load::Loaded;
use super::recorder::Recorder;
use super::request::{BuildRequest, PullPolicy};
use super::resolve::{Images, NamedContext};
use super::transfers::{Clients, Pulls};
use super::{
    Caller, check, destination, emulators, housekeeping, limits, on_error, secrets, shared_cache,
};
use crate::dockerfile::lint::Finding;
use crate::explain::emulation;
use crate::export::{OutputSpec, PackedProduct};
use crate::history::{About, BuildId, History, Outcome};
use crate::image::Image;
use crate::oci::Digest;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::solve::{self, Counts, Job, SolveError, StepReport};
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many earlier builds are looked at for steps that ran natively.
const LOOKED_AT: usize = 20;

/// A build that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Its name in the history.
    pub build: BuildId,
    /// The image's id, which is the digest of its configuration, or of the index of several;
    /// `None` where no image was made.
    pub image: Option<Digest>,
    /// The digest of the image's manifest, or of the index.
    pub manifest: Option<Digest>,
    /// What the scheduler did.
    pub counts: Counts,
    /// Bytes of cache that were collected afterwards.
    pub collected: u64,
}

/// Builds, delivers and records; what may be wrong with the file is shown as warnings at the end,
/// whether or not the build succeeds.
///
/// # Errors
///
/// The failure to show. Nothing half-made is left where outputs go.
pub fn build(
    loaded: &Loaded<'_>,
    store: &Store,
    caller: &dyn Caller,
    progress: &Progress,
) -> Result<Built, Failure> {
    let BuildRequest { delivery, .. } = loaded.request;
    destination::check(delivery)?;
    let mut images = images(loaded, store, &loaded.contexts, caller, progress);
    let (plan, findings) = loaded.checked_plan(&mut images);
    for (name, warning) in &images.mismatches {
        let is_found = |finding: &Finding| {
            finding.rule.name == "InvalidBaseImagePlatform" && finding.message.contains(name)
        };
        match delivery.shows_only_id {
            // Other warnings are hidden; here the result is not for the wanted platform.
            true => caller.warn(warning),
            false if findings.iter().any(is_found) => {}
            false => progress.notice(warning.as_str()),
        }
    }
    let result = plan
        .and_then(|plan| build_plan(loaded, store, caller, progress, &plan, &images, &findings));
    check::warn(&findings, loaded, progress);
    result
}

/// Finds images in contexts and in the store, and pulls others as the request allows.
fn images<'a>(
    loaded: &'a Loaded<'_>,
    store: &'a Store,
    contexts: &'a BTreeMap<String, NamedContext>,
    caller: &'a dyn Caller,
    progress: &'a Progress,
) -> Images<'a> {
    let source = &loaded.request.source;
    let images = Images::new(store, contexts, caller.cancel()).under(&source.policies);
    if source.pull == PullPolicy::Never {
        return images;
    }
    let verifies_tls = loaded.request.verifies_tls;
    let clients = Clients::new(move || caller.client(verifies_tls, progress));
    let is_forced = source.pull == PullPolicy::Always;
    images.or_pulled(Pulls::new(clients, progress, is_forced))
}

fn build_plan(
    loaded: &Loaded<'_>,
    store: &Store,
    caller: &dyn Caller,
    progress: &Progress,
    plan: &Plan,
    images: &Images<'_>,
    findings: &[Finding],
) -> Result<Built, Failure> {
    let BuildRequest { source, steps, delivery, .. } = loaded.request;
    for name in &plan.unused_args {
        progress.notice(format!("build argument {name} is declared by no ARG"));
    }
    let is_idle = |spec: &OutputSpec| spec.layers.rewrites_times == Some(true);
    if loaded.epoch.is_none() && delivery.outputs.iter().any(is_idle) {
        progress.notice(
            "rewrite-timestamp=true changes nothing without SOURCE_DATE_EPOCH or --timestamp"
                .to_owned(),
        );
    }
    if source.has_epoch_of_context && loaded.epoch.is_none() {
        progress.notice(
            "SOURCE_DATE_EPOCH=context has no effect: a directory has no time of its own"
                .to_owned(),
        );
    }
    progress.expect(plan.steps.len());
    let log = History::new(store)
        .begin(loaded.about(plan, caller))
        .map_err(|error| Failure::of(Class::Environment, &error))?;
    let build = log.id();
    let id = build.to_string();
    let recorder = Recorder::new(log, plan, &images.images);
    let sandbox = sandbox(loaded, store, caller, progress, (plan, &images.images))?;
    if let Some(rung) = steps.confinement.rung().filter(|_| plan.runs_commands()) {
        progress.confined(rung.name(), rung.describe());
    }
    // A failure stops the other steps, and not what follows it.
    let steps_cancel = caller.cancel().child();
    let job = loaded.job(
        plan,
        store,
        &images.images,
        progress,
        &recorder,
        &sandbox,
        (caller, &steps_cancel),
        &id,
    )?;
    let solved = match solve::solve(&job) {
        Ok(solved) => solved,
        Err(failed) => return Err(unsolved(loaded, &job, *failed, &recorder, caller)),
    };
    let delivered = guarded(loaded, &job, &solved, build, &recorder)
        .and_then(|()| deliver(loaded, caller, &job, &solved, findings))
        .and_then(|packed| shared_cache::write(&delivery.caches, &job, &solved).map(|()| packed));
    let packed = match delivered {
        Ok(packed) => packed,
        Err(failure) => {
            let outcome = Outcome::Failed { message: failure.message.clone() };
            let _ = recorder.finish(caller.now(), outcome, None, &solved.steps);
            return Err(failure);
        }
    };
    let image = packed.as_ref().map(PackedProduct::id);
    recorder.finish(caller.now(), Outcome::Ok, packed.as_ref(), &solved.steps)?;
    hint_of_emulation(store, build, &solved.steps, progress);
    store.sync().map_err(|error| Failure::of(Class::Environment, &error))?;
    let ran = solved.steps.iter().filter(|step| step.end == solve::StepEnd::Ran);
    let added = ran.map(|step| step.cost.layer_bytes).reduce(|a, b| a + b);
    let collected = housekeeping::after_build(&steps.disk, store, caller, added);
    let collected = collected.unwrap_or_else(|error| {
        progress.notice(format!("cannot tidy up the cache: {error}"));
        0
    });
    let manifest = packed.map(|packed| packed.top().digest);
    Ok(Built { build, image, manifest, counts: solved.counts, collected })
}

/// Records a build whose steps did not all succeed, and does with the failed one what was asked for.
fn unsolved(
    loaded: &Loaded<'_>,
    job: &Job<'_>,
    failed: solve::Failed,
    recorder: &Recorder<'_>,
    caller: &dyn Caller,
) -> Failure {
    let message = match &failed.error {
        SolveError::Cancelled => None,
        error => Some(failure::chain(error)),
    };
    let outcome = message.map_or(Outcome::Cancelled, |message| Outcome::Failed { message });
    // What failed is the news, not that the disk has no room to note it.
    let _ = recorder.finish(caller.now(), outcome, None, &failed.steps);
    if let Ok(build) = job.build.parse() {
        hint_of_emulation(job.store, build, &failed.steps, job.progress);
    }
    let kept = failed.failed_step;
    let failure = loaded.solve_failure(failed.error, job.progress);
    let Some(kept) = kept else { return failure };
    on_error::act(loaded.request.steps.on_error, job, *kept, &failed.steps, failure, caller)
}

/// Shows what it cost that steps ran emulated, if the records say that another way would pay.
fn hint_of_emulation(store: &Store, build: BuildId, steps: &[StepReport], progress: &Progress) {
    if steps.iter().all(|step| step.emulator.is_none()) {
        return;
    }
    let history = History::new(store);
    let Ok(own) = history.read(build) else { return };
    if !emulation::is_notable(&own.steps) {
        return;
    }
    let ids = history.ids().unwrap_or_default().into_iter().filter(|id| *id != build);
    let earlier = ids.take(LOOKED_AT).filter_map(|id| history.read(id).ok());
    let place = |about: &About| (about.context.clone(), about.dockerfile.clone());
    let earlier: Vec<_> = earlier.filter(|one| place(&one.about) == place(&own.about)).collect();
    if let Some(hint) = emulation::hint(&own.steps, earlier.iter().flat_map(|one| &one.steps)) {
        progress.notice(hint);
    }
}

/// Makes what runs commands. Limits that nothing here can enforce are refused before anything runs;
/// ones that are enforced in part are reported.
fn sandbox(
    loaded: &Loaded<'_>,
    store: &Store,
    caller: &dyn Caller,
    progress: &Progress,
    (plan, known): (&Plan, &[Image]),
) -> Result<Arc<Sandbox>, Failure> {
    let mut options = loaded.sandbox_options(store);
    let machines = emulators::machines_of(plan, known);
    if !machines.is_empty() {
        let contexts = BTreeMap::new();
        let mut images = images(loaded, store, &contexts, caller, progress);
        options.emulators = emulators::bring(&options.emulators, &machines, &mut images);
    }
    let sandbox = Arc::new(Sandbox::new(options));
    caller.sandbox_made(&sandbox);
    for notice in limits::check(&sandbox, &loaded.request.steps.policy.limits)? {
        progress.notice(notice);
    }
    Ok(sandbox)
}

/// Sees that no secret leaves with the image.
fn guarded(
    loaded: &Loaded<'_>,
    job: &Job<'_>,
    solved: &solve::Solved,
    build: BuildId,
    recorder: &Recorder<'_>,
) -> Result<(), Failure> {
    if !job.options.wants_image || secrets::is_nothing(job) {
        return Ok(());
    }
    let images = solve::images_of(job, solved);
    let dockerfile = (&*loaded.inputs.dockerfile_name, &*loaded.text());
    let is_allowed = loaded.request.delivery.allows_secrets;
    secrets::check(job, solved, &images, build, recorder, is_allowed, dockerfile)
}
