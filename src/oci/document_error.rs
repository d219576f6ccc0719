//! What can be wrong with a manifest, an index or a config.

use super::Digest;

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It does not parse, or contradicts itself.
    #[error("the document {digest} is malformed: {what}")]
    Malformed {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        what: String,
    },
    /// It has Docker's first manifest format.
    #[error(
        "the manifest {digest} is of schema 1, which is no longer supported: push the image again with a current tool"
    )]
    Schema1 {
        /// Its digest.
        digest: Digest,
    },
    /// It is the manifest of something else: a chart, a signature, an attestation.
    #[error("the manifest {digest} is not an image: its config is of type `{media_type}`")]
    NotAnImage {
        /// Its digest.
        digest: Digest,
        /// The config's media type.
        media_type: String,
    },
}
