//! The cache of a build leaves the store: `--cache-to type=local`.
//!
//! The format is in [`crate::cache`]'s `portable`; here it is written, into a [`LayoutDirectory`].

use super::{
    Compression, Context, Encoding, ExportError, LayoutDirectory, PackOptions, blob, put, spec,
};
use crate::cache::{
    ARTIFACT_TYPE, Cache, DOCUMENT_TYPE, DOCUMENT_VERSION, Document, Portable, Record, TreeEntry,
    TreeId, Value,
};
use crate::image::ImageLayer;
use crate::oci::{Descriptor, Manifest, canonical_json, media_type};
use crate::store::{Key, Layer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The tag of a cache by default.
pub const CACHE_TAG: &str = "latest";

/// A `--cache-to` or `--cache-from` that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheSpecError {
    /// Malformed CSV, or a part without `=`.
    #[error("expected key=value fields separated by commas, got `{text}`")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// No `type=`.
    #[error("a cache has no type: expected type=local")]
    NoType,
    /// A `type=` we do not have.
    #[error("unknown cache type `{name}`: expected type=local")]
    OtherType {
        /// What was given.
        name: String,
    },
    /// A type of BuildKit's that we do not have yet.
    #[error("caches of type {name} are not supported yet")]
    NotYet {
        /// The type.
        name: String,
    },
    /// A field we do not have.
    #[error("unknown field `{key}`: expected {expected}")]
    UnknownField {
        /// The field.
        key: String,
        /// Those there are.
        expected: &'static str,
    },
    /// A value that is no such thing.
    #[error("invalid value `{value}` for `{key}`: expected {expected}")]
    BadValue {
        /// The field.
        key: String,
        /// What was given.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// A field that must be there.
    #[error("a cache of type local needs {what}")]
    Lacks {
        /// The field.
        what: &'static str,
    },
}

/// Which steps an exported cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Those whose layers are in the image.
    Min,
    /// All.
    Max,
}

/// What `--cache-to` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTo {
    /// The directory of the layout.
    pub dir: PathBuf,
    /// The tag in it.
    pub tag: String,
    /// Which steps.
    pub mode: CacheMode,
    /// How layers are compressed.
    pub encoding: Encoding,
    /// Whether layers that are packed in another way are packed anew.
    pub is_forced: bool,
    /// Whether a failure is reported only, and does not fail the build.
    pub ignores_errors: bool,
}

/// What `--cache-from` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFrom {
    /// The directory of the layout.
    pub dir: PathBuf,
    /// The tag in it.
    pub tag: String,
}

impl CacheTo {
    /// Parses `type=local,dest=DIR[,mode=min|max][,compression=…][,compression-level=…][,tag=…]`.
    ///
    /// # Errors
    ///
    /// [`CacheSpecError`] about the first field that is wrong.
    pub fn parse(text: &str) -> Result<Self, CacheSpecError> {
        let (mut dir, mut tag, mut mode) = (None, CACHE_TAG.to_owned(), CacheMode::Min);
        let (mut compression, mut level) = (Compression::Zstd, None);
        let (mut is_forced, mut ignores_errors) = (false, false);
        for (key, value) in fields(text)? {
            match key.as_str() {
                "type" => {}
                "dest" if !value.is_empty() => dir = Some(PathBuf::from(value)),
                "tag" if !value.is_empty() => tag = value,
                "mode" => {
                    mode = match value.as_str() {
                        "min" => CacheMode::Min,
                        "max" => CacheMode::Max,
                        _ => return Err(bad(&key, &value, "min or max")),
                    };
                }
                "compression" => {
                    compression = match value.as_str() {
                        "gzip" => Compression::Gzip,
                        "zstd" => Compression::Zstd,
                        "uncompressed" => Compression::Uncompressed,
                        _ => return Err(bad(&key, &value, "gzip, zstd or uncompressed")),
                    };
                }
                "compression-level" => {
                    let number = value.parse();
                    level = Some(number.map_err(|_| bad(&key, &value, "a whole number"))?);
                }
                "force-compression" => is_forced = flag(&key, &value)?,
                "ignore-error" => ignores_errors = flag(&key, &value)?,
                // Layouts of ours always are of OCI's media types, with a manifest that names all.
                "oci-mediatypes" | "image-manifest" => {
                    flag(&key, &value)?;
                }
                _ => return Err(CacheSpecError::UnknownField { key, expected: TO_FIELDS }),
            }
        }
        let dir = dir.ok_or(CacheSpecError::Lacks { what: "dest=DIR" })?;
        let encoding = Encoding::new(compression, level);
        Ok(Self { dir, tag, mode, encoding, is_forced, ignores_errors })
    }
}

impl CacheFrom {
    /// Parses `type=local,src=DIR[,tag=…]`.
    ///
    /// # Errors
    ///
    /// [`CacheSpecError`] about the first field that is wrong.
    pub fn parse(text: &str) -> Result<Self, CacheSpecError> {
        let (mut dir, mut tag) = (None, CACHE_TAG.to_owned());
        for (key, value) in fields(text)? {
            match key.as_str() {
                "type" => {}
                "src" if !value.is_empty() => dir = Some(PathBuf::from(value)),
                "tag" if !value.is_empty() => tag = value,
                _ => return Err(CacheSpecError::UnknownField { key, expected: "src or tag" }),
            }
        }
        Ok(Self { dir: dir.ok_or(CacheSpecError::Lacks { what: "src=DIR" })?, tag })
    }
}

const TO_FIELDS: &str =
    "dest, tag, mode, compression, compression-level, force-compression or ignore-error";

/// Types of BuildKit's that we do not have yet.
const NOT_YET: [&str; 5] = ["registry", "inline", "gha", "s3", "azblob"];

/// Splits a flag into fields, which must be of a cache of type local.
fn fields(text: &str) -> Result<Vec<(String, String)>, CacheSpecError> {
    let malformed = || CacheSpecError::Malformed { text: text.to_owned() };
    let mut pairs = Vec::new();
    // As buildx: a name alone is an image of a registry.
    if !text.is_empty() && !text.contains(['=', ',', '"']) {
        return Err(CacheSpecError::NotYet { name: "registry".to_owned() });
    }
    for field in spec::split_csv(text).map_err(|_| malformed())? {
        let (key, value) = field.split_once('=').ok_or_else(malformed)?;
        pairs.push((key.trim().to_ascii_lowercase(), value.to_owned()));
    }
    match pairs.iter().find(|(key, _)| key == "type") {
        None => Err(CacheSpecError::NoType),
        Some((_, name)) if NOT_YET.contains(&name.as_str()) => {
            Err(CacheSpecError::NotYet { name: name.clone() })
        }
        Some((_, name)) if name != "local" => Err(CacheSpecError::OtherType { name: name.clone() }),
        Some(_) => Ok(pairs),
    }
}

fn flag(key: &str, value: &str) -> Result<bool, CacheSpecError> {
    spec::flag(key, value).map_err(|_| bad(key, value, "true or false"))
}

fn bad(key: &str, value: &str, expected: &'static str) -> CacheSpecError {
    CacheSpecError::BadValue { key: key.to_owned(), value: value.to_owned(), expected }
}

/// Writes records, the layers they made, and the definitions of steps that have any, to the
/// directory of `to`.
///
/// # Errors
///
/// [`ExportError`]; an older cache in the directory stays whole then.
pub fn export_cache(
    context: &Context<'_>,
    results: &[(Record, Layer, Option<Key>)],
    to: &CacheTo,
) -> Result<(), ExportError> {
    let options =
        PackOptions { compression: to.encoding, is_forced: to.is_forced, ..PackOptions::default() };
    let mut places: BTreeMap<_, usize> = BTreeMap::new();
    let mut layers = Vec::new();
    for (_, layer, _) in results {
        places.entry(layer.id).or_insert_with(|| {
            let diff_id = layer.meta.tar.map(|tar| tar.diff_id);
            layers.push(ImageLayer { diff_id, layer: layer.clone(), descriptor: None });
            layers.len() - 1
        });
    }
    let blobs = blob::layer_blobs(context, &layers, &options)?;
    let records: Vec<Portable> = results
        .iter()
        .map(|(record, layer, definition)| {
            let place = places[&layer.id];
            let (record, definition) = (record.clone(), *definition);
            Portable { record, layer: place, diff_id: blobs[place].1, definition }
        })
        .collect();
    let listings = listings(context, &records)?;
    let document = Document { version: DOCUMENT_VERSION, records, listings };
    let document = put(context.store, &canonical_json(&document), DOCUMENT_TYPE)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config: document.clone(),
        layers: blobs.into_iter().map(|(blob, _)| blob).collect(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    let mut top = put(context.store, &canonical_json(&manifest), media_type::OCI_MANIFEST)?;
    top.artifact_type = Some(ARTIFACT_TYPE.to_owned());

    let waiting = || {
        let text = format!("waiting for another export to {}", to.dir.display());
        context.progress.notice_of(context.vertex, text);
    };
    let mut directory = LayoutDirectory::open(&to.dir, context.cancel, waiting)?;
    let parts: Vec<&Descriptor> = [&top, &document].into_iter().chain(&manifest.layers).collect();
    for part in parts {
        if context.cancel.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        directory.add(part, &mut context.store.open_blob(&part.digest)?)?;
    }
    directory.name(top, &to.tag)?;
    directory.sweep();
    Ok(())
}

/// The listings that records name, each once.
fn listings(
    context: &Context<'_>,
    records: &[Portable],
) -> Result<Vec<(TreeId, Vec<TreeEntry>)>, ExportError> {
    let cache = Cache::new(context.store.clone());
    let ids: BTreeSet<TreeId> = records
        .iter()
        .flat_map(|portable| &portable.record.inputs)
        .filter_map(|input| match &input.value {
            Value::Tree(id) => Some(*id),
            _ => None,
        })
        .collect();
    let mut listings = Vec::new();
    for id in ids {
        if let Some(listing) = cache.tree(&id).map_err(|error| error.0)? {
            listings.push((id, listing));
        }
    }
    Ok(listings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn flags_are_read_and_mistakes_are_named() {
        let to = CacheTo::parse("type=local,dest=/d,mode=max,compression=gzip,compression-level=1");
        let to = to.unwrap();
        assert_eq!(
            (to.dir.as_path(), to.mode, to.tag.as_str()),
            (Path::new("/d"), CacheMode::Max, "latest")
        );
        assert_eq!(to.encoding, Encoding::new(Compression::Gzip, Some(1)));
        assert_eq!(CacheTo::parse("type=local,dest=d").unwrap().mode, CacheMode::Min);
        for (text, part) in [
            ("dest=d", "type"),
            ("type=local", "dest=DIR"),
            ("type=local,dest=d,mode=most", "min or max"),
            ("type=local,dest=d,x=y", "x"),
            ("type=s3,dest=d", "s3"),
        ] {
            let error = CacheTo::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let from = CacheFrom::parse("type=local,src=/d,tag=main").unwrap();
        assert_eq!((from.dir.as_path(), from.tag.as_str()), (Path::new("/d"), "main"));
        assert!(CacheFrom::parse("type=local,dest=/d").is_err());
    }
}
