//! What can go wrong with an image.

use super::receive::BlobSource;
use crate::layer::LayerError;
use crate::oci::{Descriptor, Digest, DocumentError, Platform};
use crate::registry::RegistryError;
use crate::store::{DOCUMENT_MAX, StoreError};
use std::io;
use std::path::{Path, PathBuf};

/// Work on an image that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A system call on a file of an image failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done: "read", "open" …
        doing: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// Why the kernel refused.
        source: io::Error,
    },
    /// Reading from the source failed midway.
    #[error("cannot read {what} from {name}")]
    Read {
        /// The source.
        name: String,
        /// The blob or file that was being read.
        what: String,
        /// Cause of the failure.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {digest}")]
    Layer {
        /// The digest of its blob.
        digest: Digest,
        /// Cause of the failure.
        source: LayerError,
    },
    /// The files of an image cannot be read.
    #[error("cannot read the image's files")]
    Files(#[from] LayerError),
    /// The files of an image cannot be put together.
    #[error("cannot read the image's files")]
    Mount(#[from] crate::snapshot::SnapshotError),
    /// A tar cannot be unpacked.
    #[error("cannot unpack the tar")]
    Tar(#[source] LayerError),
    /// A document cannot be used.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A file without a digest does not parse.
    #[error("{} is malformed: {what}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A document is larger than any honest one.
    #[error("the document {digest} has {size} bytes, more than the {DOCUMENT_MAX} it may have")]
    TooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes, as announced.
        size: u64,
    },
    /// Manifest and config disagree.
    #[error("the manifest {digest} has {layers} layers, its config {diff_ids} diff_ids")]
    LayerCount {
        /// The manifest's digest.
        digest: Digest,
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the config.
        diff_ids: usize,
    },
    /// More layers than can be mounted.
    #[error("the image {digest} has {layers} layers, more than can be mounted")]
    TooManyLayers {
        /// The manifest's digest.
        digest: Digest,
        /// How many.
        layers: usize,
    },
    /// Nothing for the wanted platform.
    #[error("{name} has no image for {wanted}{}", list(" (it has ", available, ")"))]
    NoPlatform {
        /// The source.
        name: String,
        /// What was looked for.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// The store has an index without the image of it that is wanted.
    #[error(
        "the image for {wanted} is not in the store{}",
        list(" (of that index it has ", here, ")")
    )]
    PlatformNotHere {
        /// What was looked for.
        wanted: Platform,
        /// What is here.
        here: Vec<Platform>,
    },
    /// A repository has no image of that tag.
    #[error("{source}")]
    NoTag {
        /// What the registry answered.
        source: RegistryError,
        /// Tags that it has, those nearest to the one that was asked for first; none where it
        /// lists none.
        near: Vec<String>,
        /// How many it lists.
        count: usize,
    },
    /// A blob's bytes are not those promised.
    #[error("blob {expected} of {name} is damaged: its bytes hash to {actual}")]
    WrongDigest {
        /// The source.
        name: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A blob is shorter or longer than promised.
    #[error("blob {digest} of {name} has {actual} bytes instead of {expected}")]
    WrongSize {
        /// The source.
        name: String,
        /// The blob.
        digest: Digest,
        /// The size its descriptor promises.
        expected: u64,
        /// The size it has.
        actual: u64,
    },
    /// A layer's tar is not the one its config promises.
    #[error("layer {digest} unpacks to {actual}, but its image's config says {expected}")]
    WrongDiffId {
        /// The layer's blob.
        digest: Digest,
        /// The `diff_id` of the config.
        expected: Digest,
        /// The digest of the tar.
        actual: Digest,
    },
    /// A blob that a manifest names is not there.
    #[error("{name} has no blob {digest}")]
    MissingBlob {
        /// The source.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// `oci-layout://` with something malformed behind it.
    #[error("invalid layout reference `{text}`: expected DIR, DIR:TAG or DIR@sha256:DIGEST")]
    BadLayoutRef {
        /// What was given.
        text: String,
    },
    /// A directory is not a layout.
    #[error("{} is not an OCI image layout: it has no index.json that lists manifests", dir.display())]
    NotALayout {
        /// The directory.
        dir: PathBuf,
    },
    /// A layout has no such image.
    #[error("the layout {} has no single image {wanted}{}", dir.display(), list(" (it has ", known, ")"))]
    NotInLayout {
        /// The layout.
        dir: PathBuf,
        /// `:tag` or `@digest`; empty where none was given.
        wanted: String,
        /// The tags there are.
        known: Vec<String>,
    },
    /// Several images of one name.
    #[error("the layout {} has several images of that name: choose one of{}", dir.display(), list(" ", digests, ""))]
    Ambiguous {
        /// The layout.
        dir: PathBuf,
        /// The images.
        digests: Vec<Digest>,
    },
    /// The beginning of an id fits several images.
    #[error("`{id}` is the beginning of several images' ids")]
    AmbiguousId {
        /// What was given.
        id: String,
    },
    /// A file is neither an OCI nor a Docker archive.
    #[error("{name} is not an image archive: it has neither index.json nor manifest.json")]
    NotAnArchive {
        /// The file.
        name: String,
    },
    /// A file is compressed in a way, or holds something, that is not supported.
    #[error("{name}: {what}")]
    Unsupported {
        /// The file.
        name: String,
        /// What is not supported.
        what: String,
    },
    /// A registry refused, or could not be reached.
    #[error(transparent)]
    Registry(RegistryError),
    /// It was interrupted.
    #[error("cancelled")]
    Cancelled,
}

impl From<RegistryError> for ImageError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Cancelled => Self::Cancelled,
            error => Self::Registry(error),
        }
    }
}

impl ImageError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn read_blob(source: &dyn BlobSource, blob: &Descriptor, error: io::Error) -> Self {
        if let Some(error) = RegistryError::of_io(&error) {
            return error.clone().into();
        }
        let what = format!("blob {}", blob.digest);
        Self::Read { name: source.name(), what, source: error }
    }

    /// Says which blob a tar was in.
    pub(super) fn in_blob(self, digest: &Digest) -> Self {
        match self {
            Self::Tar(source) => Self::Layer { digest: *digest, source },
            other => other,
        }
    }
}

/// Prints items between two texts; nothing where there are none.
fn list<T: ToString>(before: &str, items: &[T], after: &str) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    format!("{before}{}{after}", items.join(", "))
}
