//! Media types of the documents and layers we read and write.
//!
//! Source: OCI image specification 1.1, "media-types.md"; Docker's "Image Manifest Version 2,
//! Schema 2".

/// An OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// An OCI layer, uncompressed; `+gzip` and `+zstd` follow for the compressed ones.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// An OCI layer compressed with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// An OCI layer compressed with Zstandard.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// A Docker manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A Docker layer, uncompressed; `.gzip` and `.zstd` follow for the compressed ones.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// The prefix of Docker's layers that may not be distributed.
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// Returns the media type of a layer with a compression suffix: `""`, `"gzip"` or `"zstd"`.
pub fn layer(is_oci: bool, compression: &str) -> String {
    match (is_oci, compression) {
        (true, "") => OCI_LAYER.to_owned(),
        (true, suffix) => format!("{OCI_LAYER}+{suffix}"),
        (false, "") => DOCKER_LAYER.to_owned(),
        (false, suffix) => format!("{DOCKER_LAYER}.{suffix}"),
    }
}

/// Says whether an index is meant.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Returns the media type of the same thing in the other family, OCI for `is_oci`.
pub fn convert(media_type: &str, is_oci: bool) -> String {
    let suffix = |text: &str| match text.rsplit_once(['+', '.']) {
        Some((_, "gzip")) => "gzip",
        Some((_, "zstd")) => "zstd",
        _ => "",
    };
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST if is_oci => OCI_MANIFEST.to_owned(),
        OCI_MANIFEST | DOCKER_MANIFEST => DOCKER_MANIFEST.to_owned(),
        OCI_CONFIG | DOCKER_CONFIG if is_oci => OCI_CONFIG.to_owned(),
        OCI_CONFIG | DOCKER_CONFIG => DOCKER_CONFIG.to_owned(),
        text if text.starts_with(OCI_LAYER) || text.starts_with(DOCKER_LAYER) => {
            layer(is_oci, suffix(text))
        }
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_convert_both_ways() {
        let oci = layer(true, "gzip");
        let docker = layer(false, "gzip");
        assert_eq!(oci, "application/vnd.oci.image.layer.v1.tar+gzip");
        assert_eq!(docker, "application/vnd.docker.image.rootfs.diff.tar.gzip");
        assert_eq!(convert(&oci, false), docker);
        assert_eq!(convert(&docker, true), oci);
        assert_eq!(convert(OCI_LAYER, false), DOCKER_LAYER);
    }

    #[test]
    fn media_types_and_platform_words_are_those_of_oci_spec() {
        use oci_spec::image::{Arch, MediaType, Os};
        for (ours, theirs) in [
            (OCI_MANIFEST, MediaType::ImageManifest),
            (OCI_INDEX, MediaType::ImageIndex),
            (OCI_CONFIG, MediaType::ImageConfig),
            (OCI_LAYER, MediaType::ImageLayer),
            (OCI_LAYER_GZIP, MediaType::ImageLayerGzip),
            (OCI_LAYER_ZSTD, MediaType::ImageLayerZstd),
        ] {
            assert_eq!(ours, theirs.to_string());
        }
        // Go knows more ports than the specification lists.
        let later = ["illumos", "ios", "wasip1"];
        for os in crate::oci::OSES.iter().filter(|os| !later.contains(os)) {
            assert!(!matches!(Os::from(*os), Os::Other(_)), "{os}");
        }
        for architecture in crate::oci::ARCHITECTURES {
            assert!(!matches!(Arch::from(*architecture), Arch::Other(_)), "{architecture}");
        }
    }
}
