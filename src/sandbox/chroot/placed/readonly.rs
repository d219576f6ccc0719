//! What a command may read and not write, where it is a copy in the tree and no mount.
//!
//! On the third rung the supervisor refuses to write to it, and has to know where it is. On the second
//! one nothing does: a rule of Landlock holds for all that is below a directory, so that one that lets
//! a command make files in `/` lets it make them in every directory there. What a command wrote is
//! thrown away with the copy, and the user is to know of it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use super::super::super::protocol::Place;
use super::super::super::spec::OsBytes;
use super::{Placed, Put};
use crate::snapshot::TreeState;

impl Placed {
    /// Says of what was put last whether it is to be read only.
    pub(super) fn mark_last(&mut self, is_read_only: bool) {
        if let Some(put) = self.put.last_mut() {
            put.is_read_only = is_read_only;
        }
    }

    /// Notes what is at the places that are to be read only, without what was put below them.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if !self.put.iter().any(|put| put.is_read_only) {
            return Ok(());
        }
        let places = self.paths()?;
        let mut states = Vec::new();
        for (put, path) in self.put.iter().zip(&places) {
            let state = match (&put.made, path) {
                (Some(made), Some(path)) if put.is_read_only => {
                    Some(TreeState::of(made.as_fd(), &below(path, &places))?)
                }
                _ => None,
            };
            states.push(state);
        }
        for state in states.iter().flatten() {
            state.wait_until_past(&self.stash.join("mark"))?;
        }
        for (put, state) in self.put.iter_mut().zip(states) {
            put.before = state;
        }
        Ok(())
    }

    /// Returns the path of each thing in the tree, `None` of what is not there: what was put in the
    /// place of a directory around it has hidden it.
    fn paths(&self) -> io::Result<Vec<Option<Vec<u8>>>> {
        let root = path_of(&self.root)?;
        let path = |put: &Put| {
            let path = path_of(put.made.as_ref()?).ok()?;
            Some(path.strip_prefix(root.as_slice())?.strip_prefix(b"/")?.to_vec())
        };
        Ok(self.put.iter().map(path).collect())
    }

    /// Returns where things were put; none where all of them can be written.
    pub(in super::super::super) fn places(&self) -> io::Result<Vec<Place>> {
        if !self.put.iter().any(|put| put.is_read_only) {
            return Ok(Vec::new());
        }
        let place = |(put, path): (&Put, Option<Vec<u8>>)| {
            Some(Place { path: OsBytes(path?), is_read_only: put.is_read_only })
        };
        Ok(self.put.iter().zip(self.paths()?).filter_map(place).collect())
    }

    /// Returns the paths of what was to be read only and was written to.
    pub(super) fn written_to(&self) -> Vec<String> {
        if !self.put.iter().any(|put| put.before.is_some()) {
            return Vec::new();
        }
        let Ok(places) = self.paths() else { return Vec::new() };
        let is_changed = |put: &Put, path: Option<&Vec<u8>>| {
            let (Some(before), Some(made)) = (&put.before, &put.made) else { return false };
            // What has no path any more was moved or removed.
            let Some(path) = path else { return true };
            !TreeState::of(made.as_fd(), &below(path, &places)).is_ok_and(|now| now == *before)
        };
        let changed =
            self.put.iter().zip(&places).filter(|(put, path)| is_changed(put, path.as_ref()));
        changed
            .map(|(put, path)| match path {
                Some(path) => format!("/{}", String::from_utf8_lossy(path)),
                None => String::from_utf8_lossy(&put.name).into_owned(),
            })
            .collect()
    }
}

/// Returns the path of an open file, as it is called now.
fn path_of(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let text = rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())?;
    Ok(text.into_bytes())
}

/// Returns those of some paths that are below one, as they are called from there.
fn below(path: &[u8], paths: &[Option<Vec<u8>>]) -> Vec<Vec<u8>> {
    let rest = |other: &Vec<u8>| Some(other.strip_prefix(path)?.strip_prefix(b"/")?.to_vec());
    paths.iter().flatten().filter_map(rest).collect()
}
