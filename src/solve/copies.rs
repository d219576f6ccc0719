//! COPY and ADD: choosing what is copied, and copying it.

use super::inputs::document;
use super::step_context::StepContext;
use super::{Cause, Job};
use crate::cache::{Inputs, TreeId};
use crate::context::{SelectOptions, Source};
use crate::copy::{
    self as engine, CopyError, CopyRequest, CopyStats, EntryKind, FileTime, Owner, Selection,
    lookup_owner, unknown_names,
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
                CopySource::Url(address) => {
                    super::remote::download(context, copy, address, &options)?
                }
                CopySource::Git(address) => super::remote::clone(context, copy, address, &options)?,
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

/// Returns sentences on what a copy takes that is likely not meant: names that the image does not
/// know, and files that are not files.
pub(super) fn remarks(copy: &Copy, chosen: &[SelectedSource], root: BorrowedFd<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    let spec = copy.chown.as_deref().filter(|_| !copy.is_link);
    for (what, name) in spec.map(|spec| unknown_names(root, spec)).unwrap_or_default() {
        remarks.push(format!(
            "--chown={}: the image has no {what} {name:?}: the files belong to root",
            copy.chown.as_deref().unwrap_or_default()
        ));
    }
    let (mut sockets, mut pipes) = (Vec::new(), Vec::new());
    for chosen in chosen {
        let SelectedSource::Files { source, selection, .. } = chosen else { continue };
        for picked in selection.picked() {
            for entry in &selection.entries()[picked.range.clone()] {
                let path = || {
                    let mut path = picked.path.to_vec();
                    if !path.is_empty() && !entry.path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&entry.path);
                    path
                };
                match entry.kind {
                    EntryKind::Fifo => pipes.push(path()),
                    // A socket is listed as an empty file.
                    EntryKind::File if entry.size == 0 && is_socket(source, &path()) => {
                        sockets.push(path());
                    }
                    _ => {}
                }
            }
        }
    }
    for (found, what, result) in [
        (sockets, "socket", "an empty file is copied in place of"),
        (pipes, "FIFO", "the image gets a FIFO in place of"),
    ] {
        let Some(first) = found.first() else { continue };
        let first = String::from_utf8_lossy(first).into_owned();
        remarks.push(match found.len() {
            1 => format!("{first} is a {what}: {result} it"),
            count => format!("{first} and {} more are {what}s: {result} each", count - 1),
        });
    }
    remarks
}

fn is_socket(source: &Source, path: &[u8]) -> bool {
    let facts = rustix::fs::statat(source.root(), path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    facts.is_ok_and(|facts| {
        rustix::fs::FileType::from_raw_mode(facts.st_mode) == rustix::fs::FileType::Socket
    })
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
