//! The distribution protocol: documents and blobs from and to a registry, and who may have them.
//!
//! In come the name of a repository, [`Settings`] (`registries.toml`, proxies, limits) and a
//! [`Keychain`] (the credentials that docker and podman keep); out go documents and blobs whose
//! digest the caller knows. A [`Client`] is shared by all threads; requests block.
//!
//! # Invariants
//!
//! - Nothing that a server says is trusted: documents are capped at [`DOCUMENT_MAX`] and hashed, a
//!   blob's length must be that of its descriptor (who reads it compares the digest).
//! - Plain HTTP is spoken to this machine, and to hosts whose settings say so. No redirect leads
//!   from HTTPS to anything else.
//! - Credentials and tokens go to the host they are for and to the token server it names, never to
//!   where a redirect leads, and never into a message.
//! - What may pass (a reset, 429, 5xx, silence) is tried again, with pauses that grow; a blob that
//!   broke off goes on where it stopped.
//!
//! # Not here
//!
//! Which manifest of an index, and the results of layers: [`crate::image`]. The environment, and
//! where configuration files are: the command line.
//!
//! Source: OCI distribution specification 1.1; Docker's "Token Authentication Specification".
//!
//! [`DOCUMENT_MAX`]: crate::store::DOCUMENT_MAX

mod auth;
mod blob;
mod challenge;
mod client;
mod containers;
mod credentials;
pub mod docker_file;
mod error;
mod host;
mod keychain;
mod pace;
mod settings;
mod tls;
mod transport;
mod upload;

pub use blob::BlobReader;
pub use client::{Client, Notify, Remote};
pub use containers::{Ban, Containers};
pub use credentials::Credentials;
pub use error::RegistryError;
pub use keychain::{Keychain, Saved};
pub use settings::{Proxies, Settings, SettingsError};
pub use tls::Roots;
pub use transport::resolve as resolve_location;
pub use upload::{Open, UploadReport};

/// A repository: `docker.io` and `library/debian`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Repository {
    /// The registry's host as image names have it, with its port.
    pub host: String,
    /// The path within the registry.
    pub path: String,
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// Whether a host, with or without a port, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(bare, _)| bare),
    };
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Says whether the value of a `WWW-Authenticate` header asks for credentials that we could give.
/// For fuzzing: requests use the parser itself.
#[doc(hidden)]
pub fn is_challenge(header: &str) -> bool {
    challenge::Challenge::choose(std::iter::once(header)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_several_names() {
        for host in
            ["localhost", "localhost:5000", "127.0.0.1:80", "127.1.2.3", "[::1]:5000", "[::1]"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["localhost.example", "example.com", "10.0.0.1:5000", "[fe80::1]:1", "127.0.0.1.nip"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
