//! What `--metadata-file` holds.
//!
//! Source: Docker's `buildx build --metadata-file`; BuildKit's exporter responses.

use super::Packed;
use crate::oci::Reference;
use serde_json::{Value, json};

/// Returns the metadata of a build: `containerimage.digest`, `containerimage.config.digest`,
/// `containerimage.descriptor` and `image.name`, names joined by commas.
pub fn metadata(packed: Option<&Packed>, names: &[Reference]) -> Value {
    let mut value = json!({});
    if let Some(packed) = packed {
        let mut descriptor = packed.manifest.clone();
        descriptor.platform = Some(packed.platform.to_json());
        descriptor.annotations.extend(packed.descriptor_annotations.clone());
        value["containerimage.config.digest"] = json!(packed.config.digest);
        value["containerimage.descriptor"] = json!(descriptor);
        value["containerimage.digest"] = json!(packed.manifest.digest);
    }
    if !names.is_empty() {
        let names: Vec<_> = names.iter().map(Reference::to_string).collect();
        value["image.name"] = json!(names.join(","));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Digest, Platform};
    use std::collections::BTreeMap;

    #[test]
    fn metadata_has_the_fields_of_docker() {
        let packed = Packed {
            manifest: Descriptor::new("m", Digest::of(b"m"), 1),
            config: Descriptor::new("c", Digest::of(b"c"), 2),
            layers: Vec::new(),
            diff_ids: Vec::new(),
            platform: Platform::new("linux", "amd64", ""),
            created: None,
            descriptor_annotations: BTreeMap::new(),
        };
        let names = ["a:1", "b"].map(|n| Reference::parse(n).unwrap().or_latest());
        let value = metadata(Some(&packed), &names);
        assert_eq!(value["containerimage.digest"], Digest::of(b"m").to_string());
        assert_eq!(value["containerimage.config.digest"], Digest::of(b"c").to_string());
        assert_eq!(value["containerimage.descriptor"]["platform"]["os"], "linux");
        assert_eq!(value["image.name"], "docker.io/library/a:1,docker.io/library/b:latest");
        assert_eq!(metadata(None, &[]), json!({}));
    }
}
