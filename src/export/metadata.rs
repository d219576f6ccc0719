//! What `--metadata-file` holds.
//!
//! Source: Docker's `buildx build --metadata-file`; BuildKit's exporter responses.

use super::PackedProduct;
use crate::oci::Reference;
use serde_json::{Value, json};

/// Returns the metadata of a build: `containerimage.digest`, `containerimage.descriptor` and
/// `image.name`, names joined by commas; of an image alone also `containerimage.config.digest`, for
/// which an index has no counterpart.
pub fn metadata(packed: Option<&PackedProduct>, names: &[Reference]) -> Value {
    let mut value = json!({});
    if let Some(packed) = packed {
        if packed.index.is_none() {
            value["containerimage.config.digest"] = json!(packed.id());
        }
        value["containerimage.descriptor"] = json!(packed.listed());
        value["containerimage.digest"] = json!(packed.top().digest);
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
    use crate::export::Packed;
    use crate::oci::{Descriptor, Digest, Platform};
    use std::collections::BTreeMap;

    #[test]
    fn metadata_has_the_fields_of_docker() {
        let image = Packed {
            manifest: Descriptor::new("m", Digest::of(b"m"), 1),
            config: Descriptor::new("c", Digest::of(b"c"), 2),
            layers: Vec::new(),
            diff_ids: Vec::new(),
            platform: Platform::new("linux", "amd64", ""),
            created: None,
            descriptor_annotations: BTreeMap::new(),
        };
        let packed = PackedProduct { images: vec![image], index: None };
        let names = ["a:1", "b"].map(|n| Reference::parse(n).unwrap().or_latest());
        let value = metadata(Some(&packed), &names);
        assert_eq!(value["containerimage.digest"], Digest::of(b"m").to_string());
        assert_eq!(value["containerimage.config.digest"], Digest::of(b"c").to_string());
        assert_eq!(value["containerimage.descriptor"]["platform"]["os"], "linux");
        assert_eq!(value["image.name"], "docker.io/library/a:1,docker.io/library/b:latest");
        let index = Some(Descriptor::new("i", Digest::of(b"i"), 1));
        let value = metadata(Some(&PackedProduct { index, ..packed }), &[]);
        assert_eq!(value["containerimage.digest"], Digest::of(b"i").to_string());
        assert_eq!(value.get("containerimage.config.digest"), None);
        assert_eq!(metadata(None, &[]), json!({}));
    }
}
