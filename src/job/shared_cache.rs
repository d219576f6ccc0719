//! Caches that other machines can use: looked into before a build, written after it.

use super::failure::{self, Class, Failure};
use crate::cache::{Cache, Import, ImportError};
use crate::export::{self, CacheFrom, CacheMode, CacheTo, ExportError};
use crate::image::LayoutSource;
use crate::plan::{StepId, Tree};
use crate::progress::{self, Progress, Vertex};
use crate::solve::{self, Job, Solved};

/// Opens the caches to look into. One that cannot be used is reported, and the build goes on
/// without.
pub(super) fn open(caches: &[CacheFrom], progress: &Progress) -> Vec<Import> {
    let open = |from: &CacheFrom| -> Result<Import, ImportError> {
        let source = LayoutSource { dir: from.dir.clone() };
        let index = source.index()?;
        Import::open(Box::new(source), &index, &from.tag)
    };
    caches
        .iter()
        .filter_map(|from| {
            let opened = open(from);
            if let Err(error) = &opened {
                let why = failure::chain(error);
                progress.notice(format!("cache {} is not used: {why}", from.dir.display()));
            }
            opened.ok()
        })
        .collect()
}

/// Writes the caches of a build that has succeeded.
pub(super) fn write(caches: &[CacheTo], job: &Job<'_>, solved: &Solved) -> Result<(), Failure> {
    for to in caches {
        let vertex = Vertex::internal("exporting cache");
        let context = export::Context {
            store: job.store,
            progress: job.progress,
            vertex: vertex.digest,
            cancel: job.cancel,
        };
        job.progress.started(vertex);
        let written = write_one(&context, job, solved, to);
        let outcome = match &written {
            Ok(()) => progress::Outcome::Ran,
            Err(error) => progress::Outcome::Failed(failure::chain(error)),
        };
        job.progress.done(context.vertex, outcome);
        match written {
            Ok(()) => {}
            Err(ExportError::Cancelled) => {
                return Err(Failure::new(Class::Interrupted, "interrupted"));
            }
            Err(error) if to.ignores_errors => job.progress.notice(format!(
                "the cache was not written to {}: {}",
                to.dir.display(),
                failure::chain(&error)
            )),
            Err(error) => {
                return Err(
                    Failure::of(Class::Environment, &error).about(&"cannot write the cache")
                );
            }
        }
    }
    Ok(())
}

fn write_one(
    context: &export::Context<'_>,
    job: &Job<'_>,
    solved: &Solved,
    to: &CacheTo,
) -> Result<(), ExportError> {
    let mut is_wanted = vec![to.mode == CacheMode::Max; solved.steps.len()];
    for StepId(index) in job.plan.targets.iter().flat_map(|target| job.plan.made(target.files)) {
        is_wanted[index] = true;
    }
    let cache = Cache::new(job.store.clone());
    let definitions = solve::definitions(job, &solved.steps);
    let mut results = Vec::new();
    for (index, report) in solved.steps.iter().enumerate().filter(|(index, _)| is_wanted[*index]) {
        let (Some(key), Some(parent), Some(layer)) = (&report.key, &report.parent, &report.layer)
        else {
            continue;
        };
        // A step whose sources changed under it has none.
        if let Some(record) = cache.record(key, parent).map_err(|error| error.0)? {
            let reads_files = |tree: &Tree| matches!(tree, Tree::Files(_));
            let is_defined = job.plan.steps[index].trees().iter().any(reads_files);
            results.push((record, layer.clone(), is_defined.then_some(definitions[index])));
        }
    }
    export::export_cache(context, &results, to)
}
