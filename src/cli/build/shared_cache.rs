//! `--cache-to` and `--cache-from`: a cache that other machines can use.

use crate::cache::{Cache, Import, ImportError};
use crate::cli::failure::{self, Class, Failure};
use crate::export::{self, CacheFrom, CacheMode, CacheSpecError, CacheTo, ExportError};
use crate::image::LayoutSource;
use crate::plan::{Files, StepId, Tree};
use crate::progress::{self, Progress, Vertex};
use crate::solve::{self, Job, Solved};
use std::path::PathBuf;

/// The flags, as they were typed.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SharedCacheArgs {
    /// Where to keep the cache for other machines: type=local,dest=DIR[,mode=max]
    #[arg(long, value_name = "SPEC")]
    pub cache_to: Vec<String>,
    /// Cache of another machine to look steps up in: type=local,src=DIR
    #[arg(long, value_name = "SPEC")]
    pub cache_from: Vec<String>,
}

/// The flags, as they were meant.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedCaches {
    to: Vec<CacheTo>,
    from: Vec<CacheFrom>,
    /// Sentences about those that are not used.
    notices: Vec<String>,
}

impl SharedCaches {
    /// Reads the flags.
    pub(super) fn new(args: &SharedCacheArgs) -> Result<Self, Failure> {
        let wrong = |flag: &str, text: &str, error: &dyn std::error::Error| {
            Failure::new(Class::Usage, format!("{flag} {text}: {error}"))
        };
        let mut caches = Self::default();
        let unused = |flag: &str, text: &str, error: &CacheSpecError| {
            format!("{flag} {text} is not used: {error}")
        };
        for text in &args.cache_to {
            match CacheTo::parse(text) {
                Ok(to) => caches.to.push(CacheTo { dir: absolute(&to.dir), ..to }),
                Err(error @ CacheSpecError::NotYet { .. }) => {
                    caches.notices.push(unused("--cache-to", text, &error));
                }
                Err(error) => return Err(wrong("--cache-to", text, &error)),
            }
        }
        for text in &args.cache_from {
            match CacheFrom::parse(text) {
                Ok(from) => caches.from.push(CacheFrom { dir: absolute(&from.dir), ..from }),
                Err(error @ CacheSpecError::NotYet { .. }) => {
                    caches.notices.push(unused("--cache-from", text, &error));
                }
                Err(error) => return Err(wrong("--cache-from", text, &error)),
            }
        }
        Ok(caches)
    }

    /// Returns a sentence for each cache that is not used.
    pub(super) fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Opens the caches to look into. One that cannot be used is reported, and the build goes on
    /// without.
    pub(super) fn open(&self, progress: &Progress) -> Vec<Import> {
        let open = |from: &CacheFrom| -> Result<Import, ImportError> {
            let source = LayoutSource { dir: from.dir.clone() };
            let index = source.index()?;
            Import::open(Box::new(source), &index, &from.tag)
        };
        self.from
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
    pub(super) fn write(&self, job: &Job<'_>, solved: &Solved) -> Result<(), Failure> {
        for to in &self.to {
            let vertex = Vertex::internal("exporting cache");
            let context = export::Context {
                store: job.store,
                progress: job.progress,
                vertex: vertex.digest,
                cancel: job.cancel,
            };
            job.progress.started(vertex);
            let written = write(&context, job, solved, to);
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
}

fn write(
    context: &export::Context<'_>,
    job: &Job<'_>,
    solved: &Solved,
    to: &CacheTo,
) -> Result<(), ExportError> {
    let mut is_wanted = vec![to.mode == CacheMode::Max; solved.steps.len()];
    let mut files = job.plan.target.files;
    while let Files::Step(StepId(index)) = files {
        is_wanted[index] = true;
        files = job.plan.steps[index].parent;
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

/// A path that stays the same wherever we go.
fn absolute(path: &std::path::Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
