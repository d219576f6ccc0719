//! What differs between two images: config field by field, files by path and attribute, layers.
//!
//! # Not here
//!
//! Where the images come from and how the differences are shown: the command line.

use super::{Image, ImageError};
use crate::layer::{LayerEntry, LayerEntryKind, LayerError, Walk, XattrSpace};
use crate::oci::Digest;
use crate::snapshot::{self, MountOptions, Mounted};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use crate::sys::rooted::open_beneath;
use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// All that differs between two images, A and B.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// Fields of the configs, by their paths; layers have a list of their own.
    pub config: Vec<Difference>,
    /// Layers, by their places from the bottom: their `diff_id`s.
    pub layers: Vec<Difference>,
    /// Files, by their paths.
    pub files: Vec<FileDifference>,
}

/// Something that is different, or only on one side.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What: `config.Env[2]`, `layers[0]`, `mode`.
    pub what: String,
    /// What A has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<Value>,
    /// What B has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<Value>,
}

/// A file that is different, or only on one side.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// Its path, with a `/` in front.
    pub path: String,
    /// On which side it is.
    pub presence: Presence,
    /// Its attributes that differ; `content` has the BLAKE3 of both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Difference>,
}

/// On which side a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// On both.
    Both,
    /// Only in A.
    OnlyA,
    /// Only in B.
    OnlyB,
}

impl Differences {
    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.config.is_empty() && self.layers.is_empty() && self.files.is_empty()
    }
}

/// Compares two images of the store.
///
/// # Errors
///
/// [`ImageError`] where files cannot be read.
pub fn compare(
    store: &Store,
    a: &Image,
    b: &Image,
    cancel: &Cancel,
) -> Result<Differences, ImageError> {
    let ids = |image: &Image| image.config.diff_ids().unwrap_or_default();
    let (ids_a, ids_b) = (ids(a), ids(b));
    let mut found = Differences { layers: layers(&ids_a, &ids_b), ..Differences::default() };
    fields(String::new(), Some(a.config.as_json()), Some(b.config.as_json()), &mut found.config);
    let directories =
        |image: &Image| image.layers.iter().map(|layer| layer.layer.id).collect::<Vec<_>>();
    if directories(a) != directories(b) {
        found.files = files(store, a, b, cancel)?;
    }
    Ok(found)
}

fn layers(a: &[Digest], b: &[Digest]) -> Vec<Difference> {
    let text = |id: Option<&Digest>| id.map(|id| Value::from(id.to_string()));
    (0..a.len().max(b.len()))
        .filter(|&at| a.get(at) != b.get(at))
        .map(|at| Difference {
            what: format!("layers[{at}]"),
            a: text(a.get(at)),
            b: text(b.get(at)),
        })
        .collect()
}

/// Goes down two documents for as long as both have objects or lists.
fn fields(what: String, a: Option<&Value>, b: Option<&Value>, found: &mut Vec<Difference>) {
    let dot = if what.is_empty() { "" } else { "." };
    match (a, b) {
        _ if a == b || what == "rootfs" => {}
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
            for key in keys {
                fields(format!("{what}{dot}{key}"), left.get(key), right.get(key), found);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for at in 0..left.len().max(right.len()) {
                fields(format!("{what}[{at}]"), left.get(at), right.get(at), found);
            }
        }
        _ => found.push(Difference { what, a: a.cloned(), b: b.cloned() }),
    }
}

/// What an entry has besides its content, by name.
type Attributes = BTreeMap<&'static str, Value>;

fn attributes(entry: &LayerEntry<'_>) -> Attributes {
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
    let kind = match entry.kind {
        LayerEntryKind::File { .. } => "file",
        LayerEntryKind::Dir => "directory",
        LayerEntryKind::Symlink { .. } => "symlink",
        LayerEntryKind::Char { .. } => "character device",
        LayerEntryKind::Block { .. } => "block device",
        LayerEntryKind::Fifo => "fifo",
        LayerEntryKind::Whiteout | LayerEntryKind::Opaque => "whiteout",
    };
    let mut all = Attributes::from([
        ("type", kind.into()),
        ("mode", format!("{:04o}", entry.mode).into()),
        ("uid", entry.uid.into()),
        ("gid", entry.gid.into()),
        ("mtime", entry.mtime.into()),
    ]);
    match entry.kind {
        LayerEntryKind::File { size } => _ = all.insert("size", size.into()),
        LayerEntryKind::Symlink { target } => _ = all.insert("target", text(target)),
        LayerEntryKind::Char { major, minor } | LayerEntryKind::Block { major, minor } => {
            all.insert("device", format!("{major}:{minor}").into());
        }
        _ => {}
    }
    if let Some(first) = entry.hard_link {
        all.insert("hard link to", text(first));
    }
    if !entry.capability.is_empty() {
        let bytes = format!("{:02x?}", entry.capability);
        all.insert("xattr security.capability", bytes.into());
    }
    all
}

fn mounted(store: &Store, image: &Image) -> Result<Option<Mounted>, ImageError> {
    if image.layers.is_empty() {
        return Ok(None);
    }
    let lowers: Vec<PathBuf> =
        image.layers.iter().flat_map(|layer| layer.layer.directories()).collect();
    let options = MountOptions { read_only: true, ..MountOptions::in_store(store) };
    Ok(Some(snapshot::mount(&lowers, None, &options)?))
}

fn walk(
    image: Option<&Mounted>,
    cancel: &Cancel,
    visit: impl FnMut(&LayerEntry<'_>, Option<OwnedFd>) -> Result<(), LayerError>,
) -> Result<(), ImageError> {
    let Some(image) = image else { return Ok(()) };
    Ok(Walk::new(XattrSpace::detect(), cancel).run(image.root(), visit)?)
}

fn files(
    store: &Store,
    a: &Image,
    b: &Image,
    cancel: &Cancel,
) -> Result<Vec<FileDifference>, ImageError> {
    let (mount_a, mount_b) = (mounted(store, a)?, mounted(store, b)?);
    let mut left: BTreeMap<Vec<u8>, Attributes> = BTreeMap::new();
    walk(mount_a.as_ref(), cancel, |entry, _| {
        left.insert(entry.path.to_vec(), attributes(entry));
        Ok(())
    })?;
    let mut found = BTreeMap::new();
    let mut report = |path: &[u8], presence, attributes| {
        let shown = format!("/{}", String::from_utf8_lossy(path));
        found.insert(path.to_vec(), FileDifference { path: shown, presence, attributes });
    };
    walk(mount_b.as_ref(), cancel, |entry, file| {
        let Some(of_a) = left.remove(entry.path) else {
            report(entry.path, Presence::OnlyB, Vec::new());
            return Ok(());
        };
        let mut differences = unequal(of_a, attributes(entry));
        if let (Some(file), Some(mount)) = (file, &mount_a)
            && !differences.iter().any(|d| matches!(d.what.as_str(), "type" | "size"))
        {
            differences.extend(contents(mount.root(), entry.path, file)?);
        }
        if !differences.is_empty() {
            report(entry.path, Presence::Both, differences);
        }
        Ok(())
    })?;
    for path in left.keys() {
        report(path, Presence::OnlyA, Vec::new());
    }
    Ok(found.into_values().collect())
}

fn unequal(mut a: Attributes, b: Attributes) -> Vec<Difference> {
    let mut found: Vec<_> = b
        .into_iter()
        .filter_map(|(name, of_b)| {
            let of_a = a.remove(name);
            let is_equal = of_a.as_ref() == Some(&of_b);
            (!is_equal).then(|| Difference { what: name.to_owned(), a: of_a, b: Some(of_b) })
        })
        .collect();
    let rest = a.into_iter();
    found.extend(rest.map(|(name, of_a)| Difference {
        what: name.to_owned(),
        a: Some(of_a),
        b: None,
    }));
    found
}

/// Compares the contents of a file of A with those of an open one of the same size.
fn contents(a: BorrowedFd<'_>, path: &[u8], b: OwnedFd) -> Result<Option<Difference>, LayerError> {
    let failed = |e: io::Error| LayerError::io("compare", path, e);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let a = open_beneath(a, path, flags).map_err(failed)?;
    let hash = |file: File| -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut file = file;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize()),
                length => _ = hasher.update(&buffer[..length]),
            }
        }
    };
    let (of_a, of_b) = (hash(a.into()).map_err(failed)?, hash(b.into()).map_err(failed)?);
    let text = |hash: blake3::Hash| Some(Value::from(hash.to_hex().as_str()));
    Ok((of_a != of_b).then(|| Difference {
        what: "content".to_owned(),
        a: text(of_a),
        b: text(of_b),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_compared_to_their_leaves() {
        let a =
            json!({"config": {"Env": ["A=1", "B=2"], "Cmd": ["x"]}, "os": "linux", "rootfs": 1});
        let b = json!({"config": {"Env": ["A=1", "B=3", "C"], "User": "u"}, "os": "linux", "rootfs": 2});
        let mut found = Vec::new();
        fields(String::new(), Some(&a), Some(&b), &mut found);
        let text: Vec<_> = found
            .iter()
            .map(|d| {
                let side = |v: &Option<Value>| v.as_ref().map_or("-".into(), Value::to_string);
                format!("{} {} {}", d.what, side(&d.a), side(&d.b))
            })
            .collect();
        assert_eq!(
            text,
            [
                r#"config.Cmd ["x"] -"#,
                r#"config.Env[1] "B=2" "B=3""#,
                r#"config.Env[2] - "C""#,
                r#"config.User - "u""#,
            ]
        );
    }
}
