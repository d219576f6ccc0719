//! COPY and ADD: choosing what is copied, and copying it.

use super::inputs::document;
use super::step_context::StepContext;
use super::{Cause, Job};
use crate::cache::{Inputs, TreeId};
use crate::context::{SelectOptions, Source};
use crate::copy::{
    self as engine, CopyError, CopyRequest, CopyStats, FileTime, Owner, Selection, lookup_owner,
};
use crate::dockerfile::chmod::ChmodSpec;
use crate::plan::{Copy, CopySource};
use std::os::fd::BorrowedFd;

/// What one source of a copy turned out to be.
#[derive(Debug)]
pub(super) enum SelectedSource {
    /// Files of a tree.
    Files {
        /// The tree.
        source: Source,
        /// What of it.
        selection: Selection,
        /// The hash of that.
        id: TreeId,
    },
    /// A heredoc, which the plan holds.
    Inline,
}

impl SelectedSource {
    /// Adds what the key needs to know of it.
    pub(super) fn describe(&self, source: &CopySource, inputs: &mut Inputs) {
        match (self, source) {
            (Self::Files { id, .. }, CopySource::Path(path)) => {
                inputs.text("source", path);
                inputs.tree(format!("files {path}"), *id);
            }
            (Self::Files { id, .. }, CopySource::Url(address) | CopySource::Git(address)) => {
                inputs.text("source", &address.text);
                inputs.tree(format!("files {}", address.text), *id);
            }
            (_, CopySource::Inline { name, data }) => {
                inputs.list(format!("heredoc {name}"), document(name, data));
            }
            (Self::Inline, _) => unreachable!("only heredocs are inline"),
        }
    }
}

/// Finds the files of every source, and fingerprints them.
pub(super) fn choose(context: &StepContext<'_>, copy: &Copy) -> Result<Vec<SelectedSource>, Cause> {
    let job = context.job;
    let options = SelectOptions {
        parents: copy.keeps_parents,
        excludes: copy.excludes.clone(),
        ..SelectOptions::default()
    };
    copy.sources
        .iter()
        .map(|source| {
            let (source, selection) = match source {
                CopySource::Inline { .. } => return Ok(SelectedSource::Inline),
                CopySource::Path(path) => {
                    let source = context.source(copy.tree)?;
                    let selection = source.select(&[path.as_str()], &options, job.cancel)?;
                    (source, selection)
                }
                CopySource::Url(address) => super::remote::download(job, copy, address, &options)?,
                CopySource::Git(address) => super::remote::clone(job, copy, address, &options)?,
            };
            let id = TreeId(selection.digest(source.keeps_owner()));
            Ok(SelectedSource::Files { source, selection, id })
        })
        .collect()
}

/// Copies into a mounted root; `before` is as in [`CopyRequest`].
pub(super) fn perform(
    job: &Job<'_>,
    copy: &Copy,
    chosen: &[SelectedSource],
    root: BorrowedFd<'_>,
    before: Option<BorrowedFd<'_>>,
) -> Result<CopyStats, Cause> {
    let mode = copy.chmod.as_deref().map(ChmodSpec::parse).transpose().map_err(CopyError::from)?;
    // A copy that stands by itself has no files to look names up in.
    let names = (!copy.is_link).then_some(root);
    let owner = copy.chown.as_deref().map(|spec| lookup_owner(names, spec)).transpose()?;
    let sources = chosen
        .iter()
        .zip(&copy.sources)
        .map(|(chosen, source)| match (chosen, source) {
            (SelectedSource::Files { source: tree, selection, .. }, source) => {
                engine::CopySource::Tree {
                    root: tree.root(),
                    selection,
                    keep_owner: tree.keeps_owner(),
                    unpack: match source {
                        CopySource::Path(_) => copy.unpack.unwrap_or(copy.is_add),
                        _ => copy.unpack.unwrap_or(false),
                    },
                }
            }
            (SelectedSource::Inline, CopySource::Inline { name, data }) => {
                engine::CopySource::Inline { name: name.as_bytes(), data }
            }
            (SelectedSource::Inline, _) => unreachable!("only heredocs are inline"),
        })
        .collect();
    let request = CopyRequest {
        sources,
        dest: copy.dest.as_bytes(),
        workdir: b"/",
        owner,
        mode: mode.as_ref(),
        created: Some(created(job)),
        before,
    };
    Ok(engine::copy_into(root, &request, job.cancel)?)
}

/// The time of what a step makes by itself.
pub(super) fn created(job: &Job<'_>) -> FileTime {
    FileTime { seconds: job.options.epoch.unwrap_or(job.now), nanoseconds: 0 }
}

/// The owner that a USER means, for directories made in its name; `None` without a USER.
pub(super) fn owner_of(root: BorrowedFd<'_>, user: &str) -> Result<Option<Owner>, Cause> {
    match user {
        "" => Ok(None),
        user => Ok(Some(lookup_owner(Some(root), user)?)),
    }
}
