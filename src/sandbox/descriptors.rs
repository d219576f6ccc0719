//! The descriptors that came with a request, by index.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::fault::Fault;

/// Descriptors of a request. Each is closed as soon as it has served its purpose, so that few are
/// open while a path that an image chose is resolved.
#[derive(Debug)]
pub(super) struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    pub(super) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    /// Returns one that stays open.
    ///
    /// # Errors
    ///
    /// A fault of ours, for an index that has none or no longer.
    pub(super) fn get(&self, index: usize) -> Result<BorrowedFd<'_>, Fault> {
        let fd = self.0.get(index).and_then(Option::as_ref);
        fd.map(|fd| fd.as_fd()).ok_or_else(|| missing(index))
    }

    /// Takes one out, for the caller to close.
    ///
    /// # Errors
    ///
    /// As [`Descriptors::get`].
    pub(super) fn take(&mut self, index: usize) -> Result<OwnedFd, Fault> {
        self.0.get_mut(index).and_then(Option::take).ok_or_else(|| missing(index))
    }

    /// Closes one, if it is open.
    pub(super) fn close(&mut self, index: usize) {
        if let Some(fd) = self.0.get_mut(index) {
            *fd = None;
        }
    }
}

fn missing(index: usize) -> Fault {
    Fault::Refused(format!("descriptor {index} of the request is missing"))
}
