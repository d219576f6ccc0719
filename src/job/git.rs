//! What the git repository of a context says of the build: labels of the image, facts for the
//! history.
//!
//! Labels are part of the image's configuration only: no step sees them, so none misses by them.
//!
//! Source: docker/buildx, `build/git.go`.

use super::Caller;
use super::failure::{Class, Failure};
use super::request::GitFacts;
use super::sources::{Context, Inputs, Origin};
use crate::context::WorkTree;
use crate::context::remote::is_dirty;
use crate::store::Store;
use std::collections::BTreeMap;
use std::io;

/// What follows a commit where files were changed since.
const DIRTY: &str = "-dirty";

/// What is known of the repository of a context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Git {
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// The repository's address, without credentials; empty where it is not known, or not wanted.
    pub repository: String,
    /// The commit; empty where it is not known, or not wanted.
    pub revision: String,
}

/// Looks for the repository of the context.
pub(super) fn look(
    inputs: &Inputs,
    facts: GitFacts,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Git, Failure> {
    let mut git = Git::default();
    if let Some(Origin { repository, revision }) = inputs.origin.clone()
        && facts.is_recorded
    {
        (git.repository, git.revision) = (repository, revision);
    }
    let Context::Directory { dir, .. } = &inputs.context else { return Ok(git) };
    if !facts.sets_labels && !facts.is_recorded {
        return Ok(git);
    }
    let Some(tree) = WorkTree::around(dir) else { return Ok(git) };
    let mut revision = tree.commit.clone().unwrap_or_default();
    if !revision.is_empty() && facts.checks_dirty && look_for_changes(&tree, store, caller)? {
        revision.push_str(DIRTY);
    }
    let repository = tree.remote.clone().unwrap_or_default();
    if facts.sets_labels {
        let dockerfile = entrypoint(&tree, &inputs.dockerfile_name).unwrap_or_default();
        let labels = [
            ("org.opencontainers.image.revision", &revision),
            ("org.opencontainers.image.source", &repository),
            ("com.docker.image.source.entrypoint", &dockerfile),
        ];
        let known = labels.into_iter().filter(|(_, value)| !value.is_empty());
        git.labels = known.map(|(name, value)| (name.to_owned(), value.clone())).collect();
    }
    if facts.is_recorded {
        (git.repository, git.revision) = (repository, revision);
    }
    Ok(git)
}

/// Returns the Dockerfile's path in the repository; `None` for one that lies elsewhere.
fn entrypoint(tree: &WorkTree, dockerfile: &str) -> Option<String> {
    if dockerfile == "-" || dockerfile.contains("://") {
        return None;
    }
    let path = tree.dir.join(dockerfile);
    Some(path.strip_prefix(&tree.root).ok()?.to_str()?.to_owned())
}

fn look_for_changes(tree: &WorkTree, store: &Store, caller: &dyn Caller) -> Result<bool, Failure> {
    let scratch = store
        .session()
        .and_then(|session| session.new_work())
        .map_err(|error| Failure::of(Class::Environment, &error))?;
    is_dirty(tree, &scratch, caller.cancel()).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Failure::new(Class::Interrupted, "interrupted"),
        _ => super::failure::cannot("look for changes in", &tree.root, &error),
    })
}
