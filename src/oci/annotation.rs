//! Annotation keys that this program reads and writes.
//!
//! Source: OCI image specification 1.1, "annotations.md".

/// The tag of an index's entry, or its whole name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name of an index's entry, as containerd and BuildKit write it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// When an image was made, in RFC 3339.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Marks a manifest in an index as a statement about another one: provenance, an SBOM.
pub const ATTESTATION: &str = "vnd.docker.reference.type";
/// The digest of the image that such a statement is about.
pub const SUBJECT: &str = "vnd.docker.reference.digest";
