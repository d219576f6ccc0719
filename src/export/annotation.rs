//! Annotations: what `annotation….NAME=VALUE` of an output and `--annotation` mean.
//!
//! Source: Docker's `buildx build --annotation`; BuildKit, "exporter/containerimage/exptypes".

use crate::oci::Platform;
use std::collections::BTreeMap;

/// What an annotation is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnnotationTarget {
    /// The image's manifest.
    Manifest,
    /// The manifest's entry in the index.
    ManifestDescriptor,
    /// The index.
    Index,
    /// The index's entry in the index of a layout.
    IndexDescriptor,
}

/// A name and a value to be put on something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// On what.
    pub target: AnnotationTarget,
    /// For which images; `None` for all.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// An annotation that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnotationError {
    /// No `NAME=VALUE`.
    #[error("annotation `{text}` is not of the form name=value")]
    NoValue {
        /// What was given.
        text: String,
    },
    /// A place that annotations do not go to.
    #[error(
        "cannot annotate `{target}`: expected manifest, manifest-descriptor, index or index-descriptor, as in index:name=value"
    )]
    Target {
        /// What was given.
        target: String,
    },
    /// A platform that is none.
    #[error("annotation for `{platform}`: expected a platform, as linux/arm64")]
    Platform {
        /// What was given.
        platform: String,
    },
}

impl Annotation {
    /// Parses a field of an output; `None` for one of another name.
    ///
    /// `annotation.N`, `annotation-manifest.N`, `annotation-manifest[linux/amd64].N`,
    /// `annotation-manifest-descriptor.N`, `annotation-index.N`, `annotation-index-descriptor.N`.
    pub(super) fn of_field(key: &str, value: &str) -> Option<Result<Self, AnnotationError>> {
        let rest = key.strip_prefix("annotation")?;
        let (place, name) = rest.split_once("].").map_or_else(
            || rest.split_once('.'),
            |(place, name)| Some((&rest[..=place.len()], name)),
        )?;
        let place = match place.strip_prefix('-') {
            Some(place) => place.to_owned(),
            // `annotation[linux/amd64].N` leaves out which.
            None if place.is_empty() || place.starts_with('[') => format!("manifest{place}"),
            None => return None,
        };
        (!name.is_empty()).then(|| Self::new(&place, name, value))
    }

    /// Parses `--annotation`: `NAME=VALUE` for the manifest, or after `index:`,
    /// `manifest-descriptor:`, `manifest[linux/amd64]:`, or several of these with commas.
    ///
    /// # Errors
    ///
    /// [`AnnotationError`].
    pub fn parse(text: &str) -> Result<Vec<Self>, AnnotationError> {
        let no_value = || AnnotationError::NoValue { text: text.to_owned() };
        let (left, value) = text.split_once('=').ok_or_else(no_value)?;
        let (places, name) = left.split_once(':').unwrap_or(("manifest", left));
        if name.is_empty() {
            return Err(no_value());
        }
        places.split(',').map(|place| Self::new(place, name, value)).collect()
    }

    /// Makes an annotation of the manifest.
    pub fn of_manifest(name: String, value: String) -> Self {
        Self { target: AnnotationTarget::Manifest, platform: None, name, value }
    }

    fn new(place: &str, name: &str, value: &str) -> Result<Self, AnnotationError> {
        let wrong = || AnnotationError::Target { target: place.to_owned() };
        let (target, platform) = match place.split_once('[') {
            None => (place, None),
            Some((target, platform)) => {
                let text = platform.strip_suffix(']').ok_or_else(wrong)?;
                let parsed = text
                    .parse()
                    .map_err(|_| AnnotationError::Platform { platform: text.to_owned() })?;
                (target, Some(parsed))
            }
        };
        let target = match target {
            "manifest" => AnnotationTarget::Manifest,
            "manifest-descriptor" => AnnotationTarget::ManifestDescriptor,
            "index" if platform.is_none() => AnnotationTarget::Index,
            "index-descriptor" if platform.is_none() => AnnotationTarget::IndexDescriptor,
            _ => return Err(wrong()),
        };
        Ok(Self { target, platform, name: name.to_owned(), value: value.to_owned() })
    }
}

/// Returns what is put on one thing of an image; what names its platform wins.
pub(super) fn chosen(
    all: &[Annotation],
    target: AnnotationTarget,
    platform: &Platform,
) -> BTreeMap<String, String> {
    let of = |is_named: bool| {
        all.iter().filter(move |one| {
            one.target == target
                && one.platform.is_some() == is_named
                && one.platform.as_ref().is_none_or(|wanted| wanted == platform)
        })
    };
    of(false).chain(of(true)).map(|one| (one.name.clone(), one.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_their_place_before_a_colon() {
        let places = |text: &str| {
            let all = Annotation::parse(text).map_err(|e| e.to_string())?;
            let name = |one: &Annotation| {
                let platform = one.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{:?}{platform} {}={}", one.target, one.name, one.value)
            };
            Ok::<_, String>(all.iter().map(name).collect::<Vec<_>>().join("; "))
        };
        for (text, want) in [
            ("a=b", "Manifest a=b"),
            ("url=http://x:1/?a=b", "Manifest url=http://x:1/?a=b"),
            ("index:a=", "Index a="),
            ("manifest[linux/arm64]:a=b", "Manifestlinux/arm64 a=b"),
            ("index,manifest-descriptor:a=b", "Index a=b; ManifestDescriptor a=b"),
            ("index-descriptor:a=b", "IndexDescriptor a=b"),
        ] {
            assert_eq!(places(text).as_deref(), Ok(want), "{text}");
        }
        for (text, what) in [
            ("a", "name=value"),
            ("index:=b", "name=value"),
            ("config:a=b", "cannot annotate `config`"),
            ("index[linux/amd64]:a=b", "cannot annotate"),
            ("manifest[x/y/z/w]:a=b", "expected a platform"),
        ] {
            assert!(places(text).unwrap_err().contains(what), "{text}");
        }
    }

    #[test]
    fn a_platform_in_brackets_chooses() {
        let all: Vec<_> = ["manifest[linux/arm64]:a=1", "manifest[linux/amd64]:a=2", "a=3", "b=4"]
            .iter()
            .flat_map(|text| Annotation::parse(text).unwrap())
            .collect();
        let amd64 = "linux/amd64".parse().unwrap();
        let chosen = chosen(&all, AnnotationTarget::Manifest, &amd64);
        let pairs: Vec<_> = chosen.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(pairs, ["a=2", "b=4"]);
    }
}
