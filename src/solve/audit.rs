//! Audit: steps whose results are known run once more in scratch, and what they make is compared.
//!
//! Nothing is recorded. A RUN still is a command with a network and cache mounts, so what it does
//! there it does again.

use super::coordinator::Coordinator;
use super::digest::{self, LayerDigest};
use super::exec;
use super::inputs::StepInputs;
use super::step_context::Shared;
use super::{Cause, Failed, Job, SolveError};
use crate::cache::TreeEntry;
use crate::layer::{LayerEntryKind, LayerError, Walk, XattrSpace};
use crate::snapshot;
use crate::store::{self, Layer, Store};
use crate::sys::cancel::Cancel;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::thread;

/// What came of running a step once more.
#[derive(Debug)]
pub enum Audited {
    /// It made the very same files.
    Same,
    /// It made others: those of the known result, and those it made now.
    Differs {
        /// The known result.
        known: Vec<TreeEntry>,
        /// What was made now.
        now: Vec<TreeEntry>,
    },
    /// It failed, though it once did not.
    Failed(Cause),
    /// There is no result to compare with.
    NoResult,
}

/// Runs every step that would hit once more, on the files that it would start from. `report` gets
/// the place of each in the plan, in order.
///
/// # Errors
///
/// [`Failed`] where what would hit cannot be found out, or it was interrupted.
pub fn audit(job: &Job<'_>, report: &mut dyn FnMut(usize, Audited)) -> Result<(), Box<Failed>> {
    let shared = Shared::default();
    thread::scope(|scope| {
        let coordinator = Coordinator::predicted(job, &shared, scope)?;
        for index in 0..job.plan.steps.len() {
            let audited = match coordinator.known_result(index) {
                Some((known, inputs)) => again(job, &coordinator, index, known, inputs),
                None => Ok(Audited::NoResult),
            };
            match audited {
                Ok(audited) => report(index, audited),
                Err(cause) if cause.is_cancelled() || job.cancel.is_cancelled() => {
                    return Err(Box::new(Failed {
                        error: SolveError::Cancelled,
                        steps: Vec::new(),
                        failed_step: None,
                    }));
                }
                Err(cause) => report(index, Audited::Failed(cause)),
            }
        }
        Ok(())
    })
}

fn again(
    job: &Job<'_>,
    coordinator: &Coordinator<'_, '_>,
    index: usize,
    known: &Layer,
    inputs: &StepInputs,
) -> Result<Audited, Cause> {
    // A prediction holds nothing, and what is mounted must stay.
    for layer in coordinator.layers_below(index).into_iter().chain([known]) {
        job.store.layer(&layer.id)?;
    }
    let step = &job.plan.steps[index];
    let stack = coordinator.stack(step.parent);
    let context = coordinator.context(index);
    let made = exec::execute(&context, &inputs.chosen, &stack).map_err(|error| error.cause)?;
    let wanted = LayerDigest { wants_tar: false, stores_tar: false, wants_listing: false };
    let (scan, _) = digest::digest(job, &step.name, &made, wanted, job.cancel)?;
    let audited = if scan.content == known.meta.content {
        Audited::Same
    } else {
        let known = entries(job.workshop, &known.directories(), job.cancel)?;
        Audited::Differs {
            known,
            now: entries(job.workshop, &made.lower.directories(), job.cancel)?,
        }
    };
    let _ = store::remove_tree(&made.work);
    Ok(audited)
}

/// Lists what a layer has.
fn entries(
    store: &Store,
    directories: &[PathBuf],
    cancel: &Cancel,
) -> Result<Vec<TreeEntry>, Cause> {
    let files = snapshot::view(directories, store)?;
    let mut found = Vec::new();
    Walk::new(XattrSpace::detect(), cancel).run(files.root(), |entry, file| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut listed = TreeEntry {
            path: text(entry.path),
            kind: String::new(),
            mode: entry.mode,
            owner: Some((entry.uid, entry.gid)),
            size: None,
            content: entry.hard_link.map(text),
        };
        let kind = match entry.kind {
            _ if entry.hard_link.is_some() => "hard link",
            LayerEntryKind::File { size } => {
                listed.size = Some(size);
                let mut hasher = blake3::Hasher::new();
                if let Some(file) = file {
                    hasher
                        .update_reader(File::from(file).take(size))
                        .map_err(|source| LayerError::Input { source })?;
                }
                listed.content = Some(hasher.finalize().to_hex().to_string());
                "file"
            }
            LayerEntryKind::Dir => "dir",
            LayerEntryKind::Symlink { target } => {
                listed.content = Some(text(target));
                "symlink"
            }
            LayerEntryKind::Char { major, minor } | LayerEntryKind::Block { major, minor } => {
                listed.content = Some(format!("{major}:{minor}"));
                if matches!(entry.kind, LayerEntryKind::Char { .. }) { "char" } else { "block" }
            }
            LayerEntryKind::Fifo => "fifo",
            LayerEntryKind::Whiteout => "whiteout",
            LayerEntryKind::Opaque => "opaque",
        };
        kind.clone_into(&mut listed.kind);
        found.push(listed);
        Ok(())
    })?;
    Ok(found)
}
