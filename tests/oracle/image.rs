//! Reads an OCI archive and says what it adds to its base, in the form that cases are written in.
//!
//! Reader and writer share no code: tar headers and layers are read here with the `tar` crate alone.

use crate::format::{Entry, Image};
use crate::kit::base::hex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

/// An image's files by path, without a leading slash. Hard links share their node.
type Tree = BTreeMap<Vec<u8>, Arc<Entry>>;

/// Fields of a configuration that are compared.
const FIELDS: [&str; 12] = [
    "Env",
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "User",
    "ExposedPorts",
    "Volumes",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
];

/// The layers of a base image.
#[derive(Debug, Default)]
pub(crate) struct Base {
    diff_ids: Vec<String>,
    files: Tree,
}

impl Base {
    /// A base of one layer, an uncompressed tar.
    pub(crate) fn of(layer: &[u8]) -> Self {
        let mut files = Tree::new();
        apply(&mut files, layer, &mut Vec::new());
        Self { diff_ids: vec![format!("sha256:{}", hex(layer))], files }
    }
}

/// Reads the only image of an archive, and says what it has besides `base`.
pub(crate) fn read(archive: &[u8], bases: &[&Base]) -> Image {
    let mut problems = Vec::new();
    let blobs = members(archive);
    let blob = |descriptor: &Value| -> &[u8] {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let bytes = &blobs[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(format!("sha256:{}", hex(bytes)), digest, "a blob is what its name says");
        assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64), "{digest}");
        bytes
    };
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).expect("JSON") };
    let mut manifest = json(&blobs["index.json"]);
    while let Some(list) = manifest["manifests"].as_array() {
        let is_image =
            |d: &&Value| d["annotations"]["vnd.docker.reference.type"].as_str().is_none();
        let images: Vec<&Value> = list.iter().filter(is_image).collect();
        assert_eq!(images.len(), 1, "one image: {manifest}");
        manifest = json(blob(images[0]));
    }
    let document = json(blob(&manifest["config"]));
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.map(|text| text.as_str().expect("a string").to_owned()).collect()
    };
    let diff_ids = strings(&document["rootfs"]["diff_ids"]);
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    assert_eq!(layers.len(), diff_ids.len(), "as many layers as diff_ids");

    let empty = Base::default();
    let is_below = |base: &&&Base| diff_ids.starts_with(&base.diff_ids);
    let base = bases.iter().find(is_below).copied().unwrap_or(&empty);
    let mut files = base.files.clone();
    for (layer, diff_id) in layers.iter().zip(&diff_ids).skip(base.diff_ids.len()) {
        let kind = layer["mediaType"].as_str().expect("a media type");
        let tar = decompress(blob(layer), kind);
        assert_eq!(&format!("sha256:{}", hex(&tar)), diff_id, "a layer is what its diff_id says");
        apply(&mut files, &tar, &mut problems);
    }
    Image {
        platform: platform(&document),
        config: config(&document["config"]),
        entries: added(&files, &base.files),
        removed: base
            .files
            .keys()
            .filter(|path| !files.contains_key(*path))
            .map(absolute)
            .collect(),
        problems,
    }
}

fn absolute(path: &Vec<u8>) -> Vec<u8> {
    [b"/", path.as_slice()].concat()
}

fn platform(document: &Value) -> String {
    let part = |name: &str| document[name].as_str().unwrap_or_default();
    let platform = format!("{}/{}", part("os"), part("architecture"));
    match part("variant") {
        "" => platform,
        variant => format!("{platform}/{variant}"),
    }
}

/// The fields of a configuration that say something; sets as sorted lists of their names.
fn config(config: &Value) -> Vec<(String, Value)> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let read = |field: &&str| {
        let mut value = config[*field].clone();
        if let ("ExposedPorts" | "Volumes", Value::Object(names)) = (*field, &value) {
            let mut names: Vec<&String> = names.keys().collect();
            names.sort();
            value = serde_json::json!(names);
        }
        (!is_empty(&value)).then(|| ((*field).to_owned(), value))
    };
    FIELDS.iter().filter_map(read).collect()
}

/// The entries that `files` has besides those of `base`.
fn added(files: &Tree, base: &Tree) -> Vec<Entry> {
    let mut first: BTreeMap<*const Entry, (&Vec<u8>, usize)> = BTreeMap::new();
    for (path, node) in files {
        first.entry(Arc::as_ptr(node)).or_insert((path, 0)).1 += 1;
    }
    let is_same = |a: &Entry, b: &Entry| {
        let untimed = |entry: &Entry| Entry { mtime: None, path: Vec::new(), ..entry.clone() };
        untimed(a) == untimed(b)
    };
    let mut entries = Vec::new();
    for (path, node) in files {
        if base.get(path).is_some_and(|old| Arc::ptr_eq(old, node) || is_same(old, node)) {
            continue;
        }
        let (original, count) = first[&Arc::as_ptr(node)];
        let mut entry = Entry { path: absolute(path), ..(**node).clone() };
        if count > 1 && original != path {
            entry.same_as = Some(absolute(original));
        }
        entries.push(entry);
    }
    entries
}

/// The files of a tar, by name.
fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = String::from_utf8(entry.path_bytes().into_owned()).expect("UTF-8");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("content");
        found.insert(name.trim_start_matches("./").to_owned(), bytes);
    }
    found
}

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

/// A path without `.`, `..`, empty parts and a leading slash.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (b"", path),
    }
}

fn within(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Forgets what is below a path.
fn remove_below(files: &mut Tree, path: &[u8]) {
    let prefix = within(path, b"");
    files.retain(|other, _| !other.starts_with(&prefix) || other == path);
}

/// Lays a layer over the files: its whiteouts first, whatever their order.
fn apply(files: &mut Tree, tar: &[u8], problems: &mut Vec<String>) {
    let entries = read_layer(tar);
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    for entry in &entries {
        let (dir, name) = split(&entry.path);
        if name == b".wh..wh..opq" {
            remove_below(files, dir);
        } else if let Some(hidden) = name.strip_prefix(b".wh.").filter(|n| !n.starts_with(b".wh."))
        {
            let hidden = within(dir, hidden);
            if !files.contains_key(&hidden) {
                let path = shown(&hidden);
                problems.push(format!("whiteout of a path that is not there: {path}"));
            }
            remove_below(files, &hidden);
            files.remove(&hidden);
        }
    }
    for mut entry in entries {
        let path = std::mem::take(&mut entry.path);
        if split(&path).1.starts_with(b".wh.") {
            continue;
        }
        let was_dir = files.get(&path).is_some_and(|old| old.kind == "dir");
        if was_dir && entry.kind != "dir" {
            remove_below(files, &path);
        }
        let node = if entry.kind == "hardlink" {
            let target = clean(entry.link.as_deref().expect("a target"));
            let Some(node) = files.get(&target) else {
                problems.push(format!(
                    "hard link {} to a path that is not there: {}",
                    shown(&path),
                    shown(&target)
                ));
                continue;
            };
            Arc::clone(node)
        } else {
            Arc::new(entry)
        };
        files.insert(path, node);
    }
}

/// The entries of a layer in their order.
fn read_layer(tar: &[u8]) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for entry in tar::Archive::new(tar).entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let (mut xattrs, mut mtime) = (Vec::new(), None);
        if let Some(records) = entry.pax_extensions().expect("PAX records") {
            for record in records {
                let record = record.expect("a PAX record");
                let key = record.key().expect("UTF-8").to_owned();
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    xattrs.push((name.to_owned(), record.value_bytes().to_vec()));
                } else if key == "mtime" {
                    let seconds: f64 = record.value().expect("text").parse().expect("a time");
                    mtime = Some(seconds.floor() as i64);
                }
            }
        }
        let header = entry.header();
        let kind = match header.entry_type().as_byte() {
            b'0' | 0 | b'7' => "file",
            b'1' => "hardlink",
            b'2' => "symlink",
            b'3' => "char",
            b'4' => "block",
            b'5' => "dir",
            b'6' => "fifo",
            other => panic!("a member of type {other}"),
        };
        let device = matches!(kind, "char" | "block").then(|| {
            let number = |n: std::io::Result<Option<u32>>| n.expect("a number").unwrap_or(0);
            format!("{}:{}", number(header.device_major()), number(header.device_minor()))
        });
        let mut read = Entry {
            path: clean(&entry.path_bytes()),
            kind: kind.to_owned(),
            mode: header.mode().expect("a mode") & 0o7777,
            owner: (header.uid().expect("a uid"), header.gid().expect("a gid")),
            link: entry.link_name_bytes().map(std::borrow::Cow::into_owned),
            device,
            mtime: mtime.or(Some(header.mtime().expect("a time") as i64)),
            xattrs,
            ..Entry::default()
        };
        if !matches!(kind, "symlink" | "hardlink") {
            read.link = None;
        }
        if kind == "file" {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            read.content = Some((content.len() as u64, hex(&content)));
        }
        assert!(seen.insert(read.path.clone()), "{:?} is in a layer twice", read.path);
        found.push(read);
    }
    found
}
