//! Manifests and indexes: what names an image's blobs.
//!
//! Source: OCI image specification 1.1, "manifest.md", "image-index.md"; Docker's "Image Manifest
//! Version 2, Schema 2".

use super::annotation::ATTESTATION;
use super::{Descriptor, Digest, DocumentError, Platform, canonical_json, media_type};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type; old OCI tools leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact that is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, from the bottom up.
    #[serde(deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// What this is a statement about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// BuildKit writes `null` for no layers.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<Descriptor>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// A list of manifests: platforms of one image, or the images of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// Free-form notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that are not known here, kept as they came.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Manifest {
    /// Says whether this is an image rather than an artifact: a chart, a signature.
    pub fn is_image(&self) -> bool {
        let media_type = self.config.media_type.as_str();
        [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&media_type)
    }
}

impl Index {
    /// Lists `manifests` as an OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// Makes the index of images that were made apart: an OCI index, or for `is_docker` a manifest
    /// list of Docker's.
    ///
    /// Images are in the order of their platforms, those without one behind them, statements about
    /// images last; an image that is given twice is listed once. So the same images give the same
    /// bytes, whatever their order.
    pub fn joined(
        mut children: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
        is_docker: bool,
    ) -> Self {
        children.sort_by_cached_key(|child| (ListOrder::of(child), canonical_json(child)));
        children.dedup_by(|later, first| {
            let is_same =
                later.digest == first.digest && ListOrder::of(later) == ListOrder::of(first);
            if is_same {
                for (name, value) in std::mem::take(&mut later.annotations) {
                    first.annotations.entry(name).or_insert(value);
                }
            }
            is_same
        });
        let media_type = if is_docker { media_type::DOCKER_INDEX } else { media_type::OCI_INDEX };
        Self { media_type: Some(media_type.to_owned()), annotations, ..Self::new(children) }
    }

    /// Returns the images among the manifests that `wanted` can run, the best first; statements
    /// about images are left out. One without a platform comes last: only its config says it.
    pub fn candidates(&self, wanted: &Platform) -> Vec<&Descriptor> {
        let mut ranked: Vec<_> = self
            .manifests
            .iter()
            .filter(|d| !d.annotations.contains_key(ATTESTATION))
            .filter_map(|d| match d.platform.as_ref().and_then(Platform::of_json) {
                Some(platform) => wanted.rank(&platform).map(|rank| (rank, d)),
                None => Some((u32::MAX, d)),
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, d)| d).collect()
    }

    /// Returns the platforms there are, for error messages.
    pub fn platforms(&self) -> Vec<Platform> {
        let all = self.manifests.iter().filter(|d| !d.annotations.contains_key(ATTESTATION));
        all.filter_map(|d| d.platform.as_ref().and_then(Platform::of_json)).collect()
    }
}

/// The place of an image in an index: images of known platforms first, statements about images
/// last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ListOrder {
    group: u8,
    platform: Option<Platform>,
    /// Version and features of the operating system: Windows' images differ in them.
    system: String,
    digest: Digest,
}

impl ListOrder {
    fn of(child: &Descriptor) -> Self {
        let platform = child.platform.as_ref().and_then(Platform::of_json);
        let is_unknown = platform.as_ref().is_some_and(|p| p.os == "unknown");
        let group = match &platform {
            _ if is_unknown || child.annotations.contains_key(ATTESTATION) => 2,
            None => 1,
            Some(_) => 0,
        };
        let field = |name: &str| {
            let value = child.platform.as_ref().and_then(|platform| platform.get(name));
            value.map(Value::to_string).unwrap_or_default()
        };
        let system = format!("{} {}", field("os.version"), field("os.features"));
        Self { group, platform, system, digest: child.digest }
    }
}

/// What a manifest reference may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Index),
}

impl Document {
    /// Parses bytes whose digest was verified as `digest`.
    ///
    /// What a document is follows from its content and must agree with its own media type: one
    /// that could be read both ways is refused.
    ///
    /// # Errors
    ///
    /// [`DocumentError::Malformed`] for damage, [`DocumentError::Schema1`] for the format Docker gave
    /// up, [`DocumentError::NotAnImage`] for artifacts.
    pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Self, DocumentError> {
        let document = Self::parse_any(bytes, digest)?;
        if let Self::Manifest(manifest) = &document
            && !manifest.is_image()
        {
            let media_type = manifest.config.media_type.clone();
            return Err(DocumentError::NotAnImage { digest: *digest, media_type });
        }
        Ok(document)
    }

    /// As [`parse`](Self::parse), of manifests that need not be of images.
    ///
    /// # Errors
    ///
    /// [`DocumentError::Malformed`], [`DocumentError::Schema1`].
    pub fn parse_any(bytes: &[u8], digest: &Digest) -> Result<Self, DocumentError> {
        let bad = |what: String| DocumentError::Malformed { digest: *digest, what };
        let value: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
            return Err(DocumentError::Schema1 { digest: *digest });
        }
        let (has_layers, has_manifests) =
            (value.get("layers").is_some(), value.get("manifests").is_some());
        let stated = value.get("mediaType").and_then(Value::as_str).unwrap_or("");
        let is_index = match (has_layers, has_manifests) {
            (true, true) => {
                return Err(bad("it is both a manifest and an index".to_owned()));
            }
            (false, true) => true,
            _ => false,
        };
        if media_type::is_index(stated) != is_index && !stated.is_empty() {
            return Err(bad(format!("its content does not fit its media type {stated}")));
        }
        if is_index {
            return Ok(Self::Index(serde_json::from_value(value).map_err(|e| bad(e.to_string()))?));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        Ok(Self::Manifest(Box::new(manifest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Document, DocumentError> {
        let bytes = serde_json::to_vec(value).unwrap();
        Document::parse(&bytes, &Digest::of(&bytes))
    }

    fn blob(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(b"").to_string(), "size": 0})
    }

    #[test]
    fn ambiguous_old_and_foreign_documents_are_refused() {
        let config = blob(media_type::OCI_CONFIG);
        let ok = json!({"schemaVersion": 2, "config": config, "layers": null});
        assert!(matches!(parse(&ok), Ok(Document::Manifest(m)) if m.layers.is_empty()));
        let both = json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []});
        assert!(matches!(parse(&both), Err(DocumentError::Malformed { .. })));
        let lie = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "config": config, "layers": []});
        assert!(matches!(parse(&lie), Err(DocumentError::Malformed { .. })));
        let old = json!({"schemaVersion": 1, "fsLayers": []});
        assert!(matches!(parse(&old), Err(DocumentError::Schema1 { .. })));
        let chart = json!({"schemaVersion": 2, "config": blob("application/vnd.cncf.helm.config.v1+json"), "layers": []});
        assert!(matches!(parse(&chart), Err(DocumentError::NotAnImage { .. })));
        assert!(parse(&json!({"schemaVersion": 2})).is_err());
        assert!(parse(&json!([])).is_err());
    }

    #[test]
    fn an_index_offers_the_best_platform_and_no_attestations() {
        let entry = |n: u8, platform: Option<&str>, attests: bool| {
            let mut d = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&[n]), 1);
            d.platform = platform.map(|p| p.parse::<Platform>().unwrap().to_json());
            if attests {
                d.platform = Some(json!({"architecture": "unknown", "os": "unknown"}));
                d.annotations.insert(ATTESTATION.to_owned(), "attestation-manifest".to_owned());
            }
            d
        };
        let index = Index::new(vec![
            entry(0, None, true),
            entry(1, Some("linux/arm/v6"), false),
            entry(2, Some("linux/arm/v7"), false),
            entry(3, Some("linux/amd64"), false),
        ]);
        let best = |p: &str| index.candidates(&p.parse().unwrap()).first().map(|d| d.digest);
        assert_eq!(best("linux/arm/v7"), Some(Digest::of(&[2])));
        assert_eq!(best("linux/amd64"), Some(Digest::of(&[3])));
        assert_eq!(best("linux/s390x"), None);
        assert_eq!(index.platforms().len(), 3);
    }

    #[test]
    fn images_joined_in_any_order_make_the_same_bytes() {
        let entry = |n: u8, platform: &str| {
            let mut d = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&[n]), 1);
            d.platform = platform.parse::<Platform>().ok().map(|platform| platform.to_json());
            d
        };
        let mut statement = entry(9, "unknown/unknown");
        statement.annotations.insert(ATTESTATION.to_owned(), "attestation-manifest".to_owned());
        let noted = |mut d: Descriptor, note: &str| {
            d.annotations.insert(note.to_owned(), note.to_owned());
            d
        };
        let all = [
            statement,
            entry(1, "linux/riscv64"),
            entry(2, "linux/arm/v7"),
            entry(3, "linux/arm64"),
            noted(entry(3, "linux/arm64/v8"), "a"),
            noted(entry(3, "linux/arm64"), "b"),
            entry(4, "linux/amd64"),
            entry(5, "linux/arm/v6"),
            entry(6, "none"),
        ];
        let join = |children: Vec<Descriptor>| {
            canonical_json(&Index::joined(children, BTreeMap::new(), false))
        };
        let bytes = join(all.to_vec());
        for turn in 0..all.len() {
            let mut turned = all.to_vec();
            turned.rotate_left(turn);
            assert_eq!(join(turned.clone()), bytes, "{turn}");
            turned.reverse();
            assert_eq!(join(turned), bytes, "{turn}");
        }
        let Ok(Document::Index(index)) = Document::parse(&bytes, &Digest::of(&bytes)) else {
            panic!("an index");
        };
        let listed: Vec<_> = index.manifests.iter().map(|d| d.digest).collect();
        assert_eq!(listed, [4, 5, 2, 3, 1, 6, 9].map(|n: u8| Digest::of(&[n])));
        assert_eq!(index.manifests[3].annotations.len(), 2);
        let list = Index::joined(vec![entry(1, "linux/amd64")], BTreeMap::new(), true);
        assert_eq!(list.media_type.as_deref(), Some(media_type::DOCKER_INDEX));
    }

    #[test]
    fn fields_that_are_not_known_survive_being_written_again() {
        let mut child = blob(media_type::OCI_MANIFEST);
        child["data"] = json!("e30=");
        let text = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [child],
            "artifactType": "x/y", "subject": blob(media_type::OCI_MANIFEST), "annotations": {"a": "b"},
        });
        let Ok(Document::Index(index)) = parse(&text) else { panic!("an index") };
        assert_eq!(serde_json::to_value(index).unwrap(), text);
    }
}
