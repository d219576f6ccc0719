//! Reads exported images with code of its own, so that writer and reader cannot share a mistake.

use super::base::hex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

/// One image out of an OCI archive.
pub struct Archive {
    /// The whole image configuration.
    pub document: Value,
    /// The manifest.
    pub manifest: Value,
    /// The manifest's digest.
    pub digest: String,
    /// The entries of each layer, in the order of the tar.
    pub layers: Vec<Vec<Entry>>,
    files: BTreeMap<String, Entry>,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path, without a leading slash.
    pub path: String,
    /// The type flag of tar: `0` file, `1` hard link, `2` symbolic link, `5` directory …
    pub kind: char,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: u64,
    /// The target of a link.
    pub link: Option<String>,
    /// The bytes of a file.
    pub content: Vec<u8>,
    /// The PAX records.
    pub pax: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads an OCI archive of one image; every blob must hash to its name.
    #[track_caller]
    pub fn open(path: &Path) -> Self {
        let blobs = members(&fs::read(path).expect("the archive is there"));
        let mut top = listed(&blobs);
        let manifest = json(&blob(&blobs, &top));
        if manifest["manifests"].is_array() {
            top = manifest["manifests"][0].clone();
        }
        Self::read(&blobs, &top)
    }

    /// Reads an OCI archive of an index: how the archive lists it, the index, and its images by
    /// their platforms.
    #[track_caller]
    pub fn open_index(path: &Path) -> (Value, Value, BTreeMap<String, Self>) {
        let blobs = members(&fs::read(path).expect("the archive is there"));
        let top = listed(&blobs);
        let index = json(&blob(&blobs, &top));
        let children = index["manifests"].as_array().expect("an index").iter();
        let images =
            children.map(|child| (platform_of(child), Self::read(&blobs, child))).collect();
        (top, index, images)
    }

    #[track_caller]
    fn read(blobs: &BTreeMap<String, Vec<u8>>, top: &Value) -> Self {
        let blob = |descriptor: &Value| blob(blobs, descriptor);
        let manifest = json(&blob(top));
        let document = json(&blob(&manifest["config"]));
        let mut layers = Vec::new();
        let descriptors = manifest["layers"].as_array().expect("layers").clone();
        for (number, descriptor) in descriptors.iter().enumerate() {
            let tar =
                decompress(&blob(descriptor), descriptor["mediaType"].as_str().expect("type"));
            let diff_id = document["rootfs"]["diff_ids"][number].as_str().expect("a diff_id");
            assert_eq!(format!("sha256:{}", hex(&tar)), diff_id, "layer {number}");
            layers.push(entries(&tar));
        }
        assert_eq!(document["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(layers.len()));
        let files = flatten(&layers);
        let digest = top["digest"].as_str().expect("a digest").to_owned();
        Self { document, manifest, digest, layers, files }
    }

    /// The `config` object: Env, Cmd, User …
    pub fn config(&self) -> &Value {
        &self.document["config"]
    }

    /// The value of a variable of the image's environment.
    pub fn env(&self, name: &str) -> Option<&str> {
        let list = self.config()["Env"].as_array()?;
        list.iter()
            .filter_map(|pair| pair.as_str()?.split_once('='))
            .find(|pair| pair.0 == name)
            .map(|p| p.1)
    }

    /// The layers' diff_ids, from the bottom up.
    pub fn diff_ids(&self) -> Vec<&str> {
        let list = self.document["rootfs"]["diff_ids"].as_array().expect("diff_ids");
        list.iter().map(|id| id.as_str().expect("a digest")).collect()
    }

    /// An entry of the whole image.
    #[track_caller]
    pub fn entry(&self, path: &str) -> &Entry {
        self.find(path).unwrap_or_else(|| panic!("no {path} in the image"))
    }

    /// An entry of the whole image, if it is there.
    pub fn find(&self, path: &str) -> Option<&Entry> {
        self.files.get(path.trim_start_matches('/'))
    }

    /// The text of a file, hard links followed.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        let entry = self.entry(path);
        let entry = match (&entry.link, entry.kind) {
            (Some(link), '1') => self.entry(link),
            _ => entry,
        };
        String::from_utf8(entry.content.clone()).expect("text")
    }

    /// All paths beneath a directory, sorted.
    pub fn list(&self, directory: &str) -> Vec<&str> {
        let prefix = format!("{}/", directory.trim_matches('/'));
        let inside = self.files.keys().filter_map(|path| path.strip_prefix(&prefix));
        inside.collect()
    }

    /// The paths in the last layer, as its tar orders them.
    pub fn last_layer(&self) -> Vec<&str> {
        self.layers.last().expect("a layer").iter().map(|entry| entry.path.as_str()).collect()
    }

    /// All that is in the image, times left out: what two builds of one tree must agree on.
    pub fn content(&self) -> BTreeMap<&str, Entry> {
        let untimed = |entry: &Entry| Entry { mtime: 0, pax: BTreeMap::new(), ..entry.clone() };
        self.files.iter().map(|(path, entry)| (path.as_str(), untimed(entry))).collect()
    }
}

/// What the `index.json` of an archive lists: one thing.
#[track_caller]
fn listed(blobs: &BTreeMap<String, Vec<u8>>) -> Value {
    assert_eq!(json(&blobs["oci-layout"])["imageLayoutVersion"], "1.0.0");
    let index = json(&blobs["index.json"]);
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1), "{index}");
    index["manifests"][0].clone()
}

/// The bytes that a descriptor names.
#[track_caller]
fn blob(blobs: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let bytes = &blobs[&format!("blobs/{}", digest.replace(':', "/"))];
    assert_eq!(format!("sha256:{}", hex(bytes)), digest, "the blob is what its name says");
    assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64), "{digest}");
    bytes.clone()
}

#[track_caller]
fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// The platform of an index's entry, as `linux/arm/v7`.
fn platform_of(child: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|part| child["platform"][part].as_str());
    parts.into_iter().flatten().collect::<Vec<_>>().join("/")
}

/// The files of a tar, by name.
pub fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    entries(tar).into_iter().map(|entry| (entry.path, entry.content)).collect()
}

/// Decompresses by what a media type says.
fn decompress(bytes: &[u8], media_type: &str) -> Vec<u8> {
    let mut tar = Vec::new();
    if media_type.ends_with("gzip") {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut tar).expect("gzip");
    } else if media_type.ends_with("zstd") {
        zstd::stream::copy_decode(bytes, &mut tar).expect("zstd");
    } else {
        tar.extend(bytes);
    }
    tar
}

/// The entries of a tar in their order.
pub fn entries(tar: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(Cursor::new(tar));
    let mut found = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let mut pax = BTreeMap::new();
        if let Some(records) = entry.pax_extensions().expect("PAX records") {
            for record in records {
                let record = record.expect("a PAX record");
                let name = String::from_utf8_lossy(record.key_bytes()).into_owned();
                pax.insert(name, record.value_bytes().to_vec());
            }
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        let header = entry.header();
        let kind = char::from(header.entry_type().as_byte());
        let (mode, mtime) = (header.mode().expect("mode") & 0o7777, header.mtime().expect("mtime"));
        let (uid, gid) = (header.uid().expect("uid"), header.gid().expect("gid"));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        found.push(Entry { path, kind, mode, uid, gid, mtime, link, content, pax });
    }
    found
}

/// Lays the layers over each other.
pub fn flatten(layers: &[Vec<Entry>]) -> BTreeMap<String, Entry> {
    let mut files = BTreeMap::<String, Entry>::new();
    for layer in layers {
        for entry in layer {
            let (directory, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
            let within = |name: &str| {
                if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
            };
            if name == ".wh..wh..opq" {
                let prefix = within("");
                files.retain(|path, _| !path.starts_with(&prefix));
            } else if let Some(hidden) = name.strip_prefix(".wh.") {
                remove(&mut files, &within(hidden));
            }
        }
        for entry in layer {
            let name = entry.path.rsplit('/').next().expect("a name");
            if name.starts_with(".wh.") || entry.path.is_empty() || entry.path == "." {
                continue;
            }
            if entry.kind != '5' {
                remove(&mut files, &entry.path);
            }
            files.insert(entry.path.clone(), entry.clone());
        }
    }
    files
}

fn remove(files: &mut BTreeMap<String, Entry>, path: &str) {
    let prefix = format!("{path}/");
    files.retain(|other, _| other != path && !other.starts_with(&prefix));
}
