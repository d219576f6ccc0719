//! Finding the image that an argument names, and what to say when there is none.

use super::format::FormatError;
use super::platforms;
use crate::export::ExportError;
use crate::image::{self, ImageError, StoredImage};
use crate::oci::{Descriptor, Platform, Reference, ReferenceError};
use crate::store::{Store, StoreError, Tagged};
use std::io;

/// A command on the store's images that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageCommandError {
    /// No such image.
    #[error("no image `{name}` in the store{}", did_you_mean(.similar))]
    Unknown {
        /// What was given.
        name: String,
        /// Names of the store that are like it, the most similar first; at most three.
        similar: Vec<String>,
    },
    /// A name that cannot be one.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A name with a digest where a tag is given.
    #[error("`{name}` cannot be a tag: it has a digest")]
    TagWithDigest {
        /// What was given.
        name: String,
    },
    /// A `--filter` that is not known.
    #[error(
        "invalid filter `{text}`: expected dangling=true, reference=PATTERN, label=KEY[=VALUE], before=IMAGE, since=IMAGE or until=TIME"
    )]
    Filter {
        /// What was given.
        text: String,
    },
    /// A `--format` that is not known.
    #[error("unknown format `{text}`: expected {expected}")]
    Format {
        /// What was given.
        text: String,
        /// What would do.
        expected: &'static str,
    },
    /// Removing an image by its id would take several names.
    #[error("image {id} has several names: {}: remove them one by one, or use --force", names.join(", "))]
    SeveralNames {
        /// The id, as given.
        id: String,
        /// The names.
        names: Vec<String>,
    },
    /// An image of an index is to be removed alone.
    #[error("image {id} is part of {}: it goes with that", indexes.join(", "))]
    PartOfIndex {
        /// The id, as given.
        id: String,
        /// The names of the indexes.
        indexes: Vec<String>,
    },
    /// Something that is not there yet.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// An image cannot be named.
    #[error("the archive's image {digest} has no name: give it one with --tag NAME")]
    Nameless {
        /// Its digest.
        digest: crate::oci::Digest,
    },
    /// One name for several images.
    #[error("--tag {name} cannot name {count} images: the archive holds that many")]
    SeveralImages {
        /// The name.
        name: String,
        /// How many images there are.
        count: usize,
    },
    /// Binary data for a terminal.
    #[error("refusing to write an archive to the terminal: use --output FILE or redirect stdout")]
    Terminal,
    /// A file given as an argument cannot be read.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// A `--platform` is wrong.
    #[error(transparent)]
    Platform(#[from] platforms::PlatformError),
    /// The image room failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The export room failed.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A `--format` that is wrong, or its output.
    #[error(transparent)]
    Listed(#[from] FormatError),
    /// Several failed; what could be done was.
    #[error("{}", .0[0])]
    Several(Vec<ImageCommandError>),
}

fn did_you_mean(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            format!(": did you mean {}?", names.join(" or "))
        }
    }
}

/// Finds the image that `text` names.
///
/// # Errors
///
/// [`ImageCommandError::Unknown`] with similar names.
pub fn image(store: &Store, text: &str) -> Result<Tagged, ImageCommandError> {
    match image::find(store, text)? {
        Some(found) => Ok(found),
        None => Err(ImageCommandError::Unknown {
            name: text.to_owned(),
            similar: similar(store, text)?,
        }),
    }
}

/// Returns the platform that is meant of an image of the store: the one that was asked for, else
/// this machine's, unless the store has one image of the index only.
///
/// # Errors
///
/// [`ImageCommandError::Platform`] for options that name none, or several.
pub fn platform_of(
    store: &Store,
    top: &Descriptor,
    asked: &[String],
) -> Result<Platform, ImageCommandError> {
    if let Some(asked) = platforms::parse(asked)? {
        return Ok(asked);
    }
    let host = Platform::host();
    // What is wrong with the image is for its reader to report.
    Ok(match StoredImage::read(store, top) {
        Ok(found) if found.index.is_some() && found.best(&host).is_none() => {
            let mut here = found.platforms();
            if here.len() == 1 { here.remove(0) } else { host }
        }
        _ => host,
    })
}

/// Returns at most three names of the store that are like `text`, the most similar first.
///
/// # Errors
///
/// [`StoreError`] where the names cannot be read.
pub fn similar(store: &Store, text: &str) -> Result<Vec<String>, StoreError> {
    let mut ranked: Vec<(usize, String)> = store
        .images()?
        .into_iter()
        .filter_map(|image| Some(Reference::parse(&image.name?).ok()?.familiar()))
        .filter_map(|name| {
            let bare = name.strip_suffix(":latest").unwrap_or(&name);
            let repository = name.rsplit_once(':').map_or(name.as_str(), |(name, _)| name);
            let wanted = text.rsplit_once(':').map_or(text, |(name, _)| name);
            // The same repository under another tag is the likeliest of all.
            let distance = if repository == wanted { 0 } else { distance(text, bare) };
            (distance <= text.len().div_ceil(3)).then_some((distance, name))
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    Ok(ranked.into_iter().take(3).map(|(_, name)| name).collect())
}

/// Returns how many letters must be changed, added, dropped or swapped to get from one to the
/// other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Digest};

    #[test]
    fn a_mistyped_name_finds_its_likes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        for name in ["debian:latest", "debian:12", "ghcr.io/org/app:v1", "busybox:latest"] {
            let name = Reference::parse(name).unwrap();
            store.tag(&name.to_string(), &Descriptor::new("m", Digest::of(b"x"), 1)).unwrap();
        }
        let similar = |text: &str| similar(&store, text).unwrap();
        assert_eq!(similar("debain"), ["debian:latest"]);
        assert_eq!(similar("debian:13"), ["debian:12", "debian:latest"]);
        assert_eq!(similar("busyboxx"), ["busybox:latest"]);
        assert!(similar("postgres").is_empty());
        let error = image(&store, "debain").unwrap_err().to_string();
        assert_eq!(error, "no image `debain` in the store: did you mean `debian:latest`?");
    }
}
