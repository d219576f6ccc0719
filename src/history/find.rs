//! How a build is referred to, and removal of builds.

use super::{BuildId, BuildState, GRACE_MS, History, HistoryError, IoContext as _};
use std::fs;
use std::io;

/// What metadata files have before a build's id, as buildx has the names of a builder and a node.
pub const REF_PREFIX: &str = "builder/builder/";

/// The reference of the newest build.
pub const LAST: &str = "last";

/// What was removed when all builds were to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleared {
    /// The builds that are gone, newest first.
    pub removed: Vec<BuildId>,
    /// How many were left because they run.
    pub running: usize,
}

impl History {
    /// Returns the build that is meant: `last` for the newest, `^1` for the one before it, an id
    /// (as a metadata file has it too), the newest of that name, or the only id that begins so.
    ///
    /// # Errors
    ///
    /// [`HistoryError::NoBuilds`], [`HistoryError::NoSuchBuild`] and [`HistoryError::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<BuildId, HistoryError> {
        let unknown = || HistoryError::NoSuchBuild { id: reference.to_owned() };
        let back = match reference {
            LAST => Some("0"),
            reference => reference.strip_prefix('^'),
        };
        if let Some(back) = back.and_then(|back| back.parse::<usize>().ok()) {
            let mut builds = self.heads()?.peekable();
            if builds.peek().is_none() {
                return Err(HistoryError::NoBuilds);
            }
            return builds.nth(back).map(|build| build.id).ok_or_else(unknown);
        }
        let text = reference.strip_prefix(REF_PREFIX).unwrap_or(reference);
        let ids = self.ids()?;
        // An id of one more digit may begin like a shorter one.
        if let Some(exact) = ids.iter().find(|id| id.to_string() == text) {
            return Ok(*exact);
        }
        if reference.is_empty() {
            return Err(unknown());
        }
        if let Some(named) = self.heads()?.find(|build| build.about.name() == reference) {
            return Ok(named.id);
        }
        let alike: Vec<_> = ids.iter().filter(|id| id.to_string().starts_with(text)).collect();
        match alike.as_slice() {
            [] => Err(unknown()),
            [id] => Ok(**id),
            many => Err(HistoryError::Ambiguous {
                id: reference.to_owned(),
                ids: many.iter().rev().take(5).map(ToString::to_string).collect(),
            }),
        }
    }

    /// Removes a build.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Running`] for one that runs, [`HistoryError::NoSuchBuild`] for one that is
    /// gone, and [`HistoryError::Io`].
    pub fn remove(&self, id: BuildId, now_ms: i64) -> Result<(), HistoryError> {
        if self.is_live(id, now_ms)? && self.directory(id).exists() {
            return Err(HistoryError::Running { id });
        }
        match self.remove_directory(id)? {
            true => Ok(()),
            false => Err(HistoryError::NoSuchBuild { id: id.to_string() }),
        }
    }

    /// Removes all builds but those that run.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] for the first that cannot be removed.
    pub fn clear(&self, now_ms: i64) -> Result<Cleared, HistoryError> {
        let mut cleared = Cleared::default();
        for id in self.ids()? {
            if self.is_live(id, now_ms)? {
                cleared.running += 1;
            } else if self.remove_directory(id)? {
                cleared.removed.push(id);
            }
        }
        Ok(cleared)
    }

    /// Says whether a build may still be written.
    pub(super) fn is_live(&self, id: BuildId, now_ms: i64) -> Result<bool, HistoryError> {
        Ok(match self.open(id)? {
            Some(opened) => opened.state == BuildState::Running,
            None => now_ms.abs_diff(id.started_ms()) < GRACE_MS.unsigned_abs(),
        })
    }

    /// Removes a build's directory; returns false where another process did beside us.
    pub(super) fn remove_directory(&self, id: BuildId) -> Result<bool, HistoryError> {
        let dir = self.directory(id);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.context("remove", &dir).map(|()| true),
        }
    }
}
