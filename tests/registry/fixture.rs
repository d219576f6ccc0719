//! Images for registries, made with code of the tests' own and put there with plain requests.

use super::http::{Request, ask};
use super::kit::base::{append, hex, rootfs};
use serde_json::{Value, json};
use std::io::Write as _;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// An image in the making.
pub(super) struct Made {
    /// Its layers: media type and bytes.
    pub(super) layers: Vec<(String, Vec<u8>)>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
    pub(super) media_type: &'static str,
}

/// A tar with one file, of some length that does not compress to nothing.
pub(super) fn file(name: &str, size: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ name.len() as u64;
    let content: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    append(&mut tar, tar::EntryType::Regular, name, 0o644, None, &content);
    tar.into_inner().unwrap()
}

pub(super) fn pack(tar: &[u8], packing: Packing) -> (String, Vec<u8>) {
    let oci = "application/vnd.oci.image.layer.v1.tar";
    match packing {
        Packing::Plain => (oci.to_owned(), tar.to_vec()),
        Packing::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(tar).unwrap();
            (format!("{oci}+gzip"), out.finish().unwrap())
        }
        Packing::Zstd => (format!("{oci}+zstd"), zstd::encode_all(tar, 1).unwrap()),
    }
}

/// An image of these layers.
pub(super) fn image(layers: &[(Vec<u8>, Packing)]) -> Made {
    image_for("amd64", layers)
}

pub(super) fn image_for(architecture: &str, layers: &[(Vec<u8>, Packing)]) -> Made {
    let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| format!("sha256:{}", hex(tar))).collect();
    let config = json!({
        "created": "2026-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created_by": "fixture"})).collect::<Vec<_>>(),
    });
    let layers: Vec<_> = layers.iter().map(|(tar, packing)| pack(tar, *packing)).collect();
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|(kind, bytes)| describe(kind, bytes)).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    Made { layers, config, manifest, media_type: OCI_MANIFEST }
}

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A descriptor.
pub(super) fn describe(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// busybox with two small layers on top.
pub(super) fn busybox() -> Made {
    image(&[
        (rootfs(), Packing::Gzip),
        (file("one", 100_000), Packing::Gzip),
        (file("two", 50_000), Packing::Zstd),
    ])
}

impl Made {
    /// Puts the image into a registry under a name with a tag; returns its digest.
    pub(super) fn put(&self, host: &str, name: &str, tag: &str) -> String {
        for (_, bytes) in &self.layers {
            put_blob(host, name, bytes);
        }
        put_blob(host, name, &self.config);
        put_manifest(host, name, tag, self.media_type, &self.manifest);
        digest(&self.manifest)
    }

    /// The digest of a layer's blob.
    pub(super) fn layer(&self, number: usize) -> String {
        digest(&self.layers[number].1)
    }
}

pub(super) fn request(method: &str, host: &str, path: &str, body: &[u8]) -> Request {
    let headers = vec![("Host".to_owned(), host.to_owned())];
    Request { method: method.to_owned(), path: path.to_owned(), headers, body: body.to_vec() }
}

pub(super) fn put_blob(host: &str, name: &str, bytes: &[u8]) {
    let begun = ask(host, &request("POST", host, &format!("/v2/{name}/blobs/uploads/"), b""));
    assert_eq!(begun.status, 202);
    let location = begun.headers.iter().find(|(key, _)| key == "Location").unwrap().1.clone();
    let path = location.split_once(host).map_or(location.as_str(), |(_, path)| path).to_owned();
    let path = format!("{path}&digest={}", digest(bytes));
    assert_eq!(ask(host, &request("PUT", host, &path, bytes)).status, 201);
}

pub(super) fn put_manifest(
    host: &str,
    name: &str,
    reference: &str,
    media_type: &str,
    bytes: &[u8],
) {
    let mut put = request("PUT", host, &format!("/v2/{name}/manifests/{reference}"), bytes);
    put.headers.push(("Content-Type".to_owned(), media_type.to_owned()));
    let answer = ask(host, &put);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
}

/// Makes an index of manifests with their platforms.
pub(super) fn index(entries: &[(&Made, &str)]) -> Vec<u8> {
    let manifests: Vec<_> = entries
        .iter()
        .map(|(made, architecture)| {
            let mut entry = describe(made.media_type, &made.manifest);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
        .to_string()
        .into_bytes()
}
