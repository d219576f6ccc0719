//! What a build would do: predicted without running anything, or audited by running cached steps
//! once more.

use super::failure::{self, Failure};
use super::load::Loaded;
use super::recorder::{NoObserver, record_of};
use super::resolve::Images;
use super::{Caller, emulators};
use crate::cache::{TreeEntry, TreeId};
use crate::explain::{Audit, AuditVerdict, AuditedStep};
use crate::history::{BuildId, BuildRecord, Outcome};
use crate::image::Image;
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::solve::{self, Audited, Job};
use crate::store::Store;
use std::collections::BTreeMap;

/// What a build would do.
#[derive(Debug)]
pub struct Prediction {
    /// The build as the history would record it.
    pub record: BuildRecord,
    /// The files that steps would read, by the hashes that their inputs name.
    pub listings: BTreeMap<TreeId, Vec<TreeEntry>>,
}

/// Predicts a build. Nothing is run, pulled or written to `store`; images that it lacks are brought
/// to `elsewhere`.
///
/// # Errors
///
/// The failure that the build would end with before its first step.
pub fn predict(
    loaded: &Loaded<'_>,
    store: &Store,
    elsewhere: &Store,
    caller: &dyn Caller,
) -> Result<Prediction, Failure> {
    with_job(loaded, store, elsewhere, caller, |job, images| {
        let predicted = solve::predict(job)
            .map_err(|failed| loaded.solve_failure(failed.error, job.progress))?;
        let id = BuildId::at(caller.started().as_millisecond());
        let about = loaded.about(job.plan, caller);
        let steps = &predicted.steps;
        let record = record_of(id, about, Outcome::Predicted, job.plan, images, steps);
        Ok(Prediction { record, listings: predicted.listings })
    })
}

/// Runs the steps that a build would find in the cache once more, in scratch, and says which make
/// other files.
///
/// # Errors
///
/// As [`predict`]; a step that fails is part of the audit.
pub fn audit(loaded: &Loaded<'_>, store: &Store, caller: &dyn Caller) -> Result<Audit, Failure> {
    with_job(loaded, store, store, caller, |job, _| {
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
            .map_err(|failed| loaded.solve_failure(failed.error, job.progress))?;
        Ok(audit)
    })
}

/// Puts together what a build would begin with, without beginning one. Images that `store` lacks
/// are brought to `elsewhere`.
fn with_job<T>(
    loaded: &Loaded<'_>,
    store: &Store,
    elsewhere: &Store,
    caller: &dyn Caller,
    ask: impl FnOnce(&Job<'_>, &[Image]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let cancel = caller.cancel();
    let policies = &loaded.request.source.policies;
    let images = Images::new(store, &loaded.contexts, cancel);
    let mut images = images.brought_to(elsewhere).under(policies);
    let plan = loaded.plan(&mut images)?;
    let progress = Progress::quiet();
    let mut options = loaded.sandbox_options(store);
    let (contexts, machines) = (BTreeMap::new(), emulators::machines_of(&plan, &images.images));
    let mut known = Images::new(store, &contexts, cancel).brought_to(elsewhere);
    options.emulators = emulators::bring(&options.emulators, &machines, &mut known);
    let sandbox = Sandbox::new(options);
    let mut job = loaded.job(
        &plan,
        store,
        &images.images,
        &progress,
        &NoObserver,
        &sandbox,
        (caller, cancel),
        "",
    )?;
    job.workshop = elsewhere;
    ask(&job, &images.images)
}
