//! What can go wrong with a registry. No message holds a credential, a token or a query string.

use super::Ban;
use crate::oci::Digest;
use crate::store::DOCUMENT_MAX;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The longest part of a server's own words that a message quotes, in characters.
const SAID_MAX: usize = 300;

/// A request to a registry that failed for good.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The host was not reached, or the connection broke, more often than is tried.
    #[error("cannot {doing}: {host}: {what}")]
    Connection {
        /// What was being done.
        doing: String,
        /// The host that was talked to.
        host: String,
        /// What the connection said.
        what: String,
    },
    /// The server answered with a status that is not a success.
    #[error("cannot {doing}: {host} answered {status}{}", quoted(said))]
    Status {
        /// What was being done.
        doing: String,
        /// The host that was talked to.
        host: String,
        /// The status code.
        status: u16,
        /// What the server said about it; may be empty.
        said: String,
    },
    /// The server wants other credentials, or any.
    #[error("cannot {doing}: {host} {}{}", if *had_credentials { "refuses these credentials" } else { "wants credentials" }, quoted(said))]
    Unauthorized {
        /// What was being done.
        doing: String,
        /// The registry, as one logs in to it.
        host: String,
        /// Whether credentials were sent.
        had_credentials: bool,
        /// What the server said about it; may be empty.
        said: String,
    },
    /// There is no such thing.
    #[error("{host} has no {what}")]
    NotFound {
        /// The host that was talked to.
        host: String,
        /// The image or blob.
        what: String,
    },
    /// The server asks for patience beyond what is given.
    #[error("cannot {doing}: {host} answers no more requests for {} s", wait.as_secs())]
    TooManyRequests {
        /// What was being done.
        doing: String,
        /// The host that was talked to.
        host: String,
        /// How long it asks to wait.
        wait: Duration,
    },
    /// A redirect to where none may lead.
    #[error("cannot {doing}: {host} redirects to {to}, which is not followed: {why}")]
    Redirect {
        /// What was being done.
        doing: String,
        /// The host that was talked to.
        host: String,
        /// Scheme and host of the target.
        to: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An answer that does not fit the protocol.
    #[error("cannot {doing}: {host} gave an answer that makes no sense: {what}")]
    BadAnswer {
        /// What was being done.
        doing: String,
        /// The host that was talked to.
        host: String,
        /// What is wrong with it.
        what: String,
    },
    /// A document beyond what any honest one has.
    #[error("cannot {doing}: {host} sends more than the {DOCUMENT_MAX} bytes a document may have")]
    TooLarge {
        /// What was being done.
        doing: String,
        /// The host that was talked to.
        host: String,
    },
    /// The bytes are not those that were asked for.
    #[error("cannot {doing}: {host} sends bytes that hash to {actual} instead of {expected}")]
    WrongDigest {
        /// What was being done.
        doing: String,
        /// The host that was talked to.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A file of the machine's or the user's forbids to pull an image.
    #[error("pulling {image} is forbidden by {}: {what}", path.display())]
    Forbidden {
        /// The image, by its name.
        image: String,
        /// The file.
        path: PathBuf,
        /// What it says.
        what: String,
    },
    /// A file with credentials or certificates cannot be used.
    #[error("cannot use {}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A credential helper failed.
    #[error("credential helper docker-credential-{name} failed: {what}")]
    Helper {
        /// The helper's name, without its prefix.
        name: String,
        /// What it said.
        what: String,
    },
    /// The environment names a proxy that cannot be used.
    #[error("the proxy for {host} is not an address of a proxy")]
    Proxy {
        /// The host that was to be reached through it.
        host: String,
    },
    /// Something on this machine that was to be sent cannot be read.
    #[error("cannot read {what}: {why}")]
    Local {
        /// What was to be sent.
        what: String,
        /// Cause of the failure.
        why: String,
    },
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl RegistryError {
    /// Makes an error of a ban.
    pub fn forbidden(image: &str, ban: Ban) -> Self {
        Self::Forbidden { image: image.to_owned(), path: ban.path, what: ban.what }
    }

    /// Says whether the registry could not be asked at all, rather than having answered no.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::TooManyRequests { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// Wraps it for readers, whose errors are [`io::Error`]s.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Returns the registry's error that an [`io::Error`] carries.
    pub fn of_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// Returns what a server said, fit for one line of a terminal: of the protocol's JSON the messages,
/// of anything else nothing.
pub(super) fn said(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return String::new() };
    let mut texts = Vec::new();
    for error in json["errors"].as_array().into_iter().flatten() {
        let text = error["message"].as_str().filter(|text| !text.is_empty());
        texts.extend(text.or(error["code"].as_str()));
    }
    // Token servers answer with one text.
    let single = ["details", "message", "error_description", "error"];
    if texts.is_empty() {
        texts.extend(single.iter().find_map(|key| json[*key].as_str()));
    }
    texts.dedup();
    let text = texts.join("; ");
    text.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_quoted_without_escapes() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no \u001b[31mred"},{"code":"X"}]}"#;
        assert_eq!(said(body), "no [31mred; X");
        assert_eq!(
            said(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(said(b"<html>"), "");
        assert_eq!(
            said(format!(r#"{{"error":"{}"}}"#, "x".repeat(1000)).as_bytes()).len(),
            SAID_MAX
        );
    }
}
