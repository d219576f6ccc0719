//! How setting up fails inside the child, where no reply is possible.

use super::protocol::InitMessage;

/// A failure of the child before the command runs.
#[derive(Debug)]
pub(super) enum Fault {
    /// A system call failed.
    Failed {
        /// What was being done.
        doing: String,
        /// Error number.
        errno: i32,
    },
    /// The spec asks for what cannot be.
    Refused(String),
    /// An id that the sandbox's user namespace does not map.
    UnmappedId {
        /// What has the id: "user app", "a mount's owner".
        of: String,
        /// The id.
        id: u32,
        /// Whether the builder chose the ids of the namespace, rather than its user's ranges.
        is_chosen: bool,
    },
}

impl From<Fault> for InitMessage {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Failed { doing, errno } => Self::Failed { doing, errno },
            Fault::Refused(message) => Self::Refused { message },
            Fault::UnmappedId { of, id, is_chosen } => Self::UnmappedId { of, id, is_chosen },
        }
    }
}

/// Says what was being done when something failed.
pub(super) trait Doing<T> {
    /// Turns the error into a [`Fault`] with the text of `what`.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Fault>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Fault> {
        self.map_err(|error| Fault::Failed {
            doing: what().into(),
            errno: error.into().raw_os_error().unwrap_or(libc::EIO),
        })
    }
}
