// Directories that another process wrote: stores, layouts, archives of images.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Component, Path};
use std::time::SystemTime;

use builder::cache::{Cache, Import, Record};
use builder::cache_mounts::{found_mounts, import_mount};
use builder::gc::{Includes, Inventory, Only, Policy, select, verify};
use builder::history::History;
use builder::image::{
    LayoutArchive, LayoutRef, LayoutSource, Selector, fetch, load_archive, load_layout,
};
use builder::layer::Listing;
use builder::oci::{Digest, Platform};
use builder::store::Store;
use builder::sys::cancel::Cancel;

/// Ends a file of a tree. In no text; seldom in a binary file.
const END: u8 = 0xff;

/// Files beyond this count are left out.
const FILES_MAX: usize = 24;

/// A tree as one input: files that 0xff ends, each a line with its path and its content. `$0` to `$9` stand for the
/// digest, without the algorithm, of an earlier file's content, `#0` to `#9` for its size, `$=` in a path for the digest
/// of the file's own content.
fn tree(data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for file in data.split(|&b| b == END).take(FILES_MAX) {
        let end = file.iter().position(|&b| b == b'\n').unwrap_or(file.len());
        let content = replaced(file.get(end + 1..).unwrap_or_default(), &files);
        let path = String::from_utf8_lossy(&replaced(&file[..end], &files)).into_owned();
        files.push((path.replace("$=", &Digest::of(&content).to_hex()), content));
    }
    files
}

fn replaced(text: &[u8], files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        let file = rest.as_slice().first().and_then(|digit| {
            let number = digit.checked_sub(b'0').filter(|number| *number < 10)?;
            files.get(usize::from(number))
        });
        match (byte, file) {
            (b'$', Some((_, content))) => out.extend(Digest::of(content).to_hex().bytes()),
            (b'#', Some((_, content))) => out.extend(content.len().to_string().bytes()),
            _ => {
                out.push(byte);
                continue;
            }
        }
        rest.next();
    }
    out
}

/// Writes a tree beneath a directory; files whose paths lead elsewhere are left out.
fn write(root: &Path, files: &[(String, Vec<u8>)]) {
    for (path, content) in files {
        let path = Path::new(path);
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            continue;
        }
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            let _ = fs::create_dir_all(parent);
        }
        let _ = fs::write(path, content);
    }
}

fn platform() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

/// A store in which another process changed files: it is used or refused, and what is removed is inside.
pub(crate) fn store(data: &[u8]) {
    let outer = tempfile::tempdir().expect("a directory for the test");
    let root = outer.path().join("store");
    drop(Store::open(&root).expect("a new store"));
    fs::write(outer.path().join("canary"), "alive").expect("a file for the test");
    let files = tree(data);
    write(&root, &files);
    if let Ok(store) = Store::open(&root) {
        use_store(&store, &files);
    }
    assert_eq!(fs::read(outer.path().join("canary")).expect("it is there"), b"alive");
}

fn use_store(store: &Store, files: &[(String, Vec<u8>)]) {
    let cancel = Cancel::new();
    for image in store.images().unwrap_or_default() {
        let _ = image.name.map(|name| store.resolve(&name));
        let _ = store.read_blob(&image.descriptor.digest);
    }
    let _ = (store.mounts(), store.known_blocks("gzip-1"));
    let cache = Cache::peeking(store.clone());
    for (_, content) in files {
        if let Ok(record) = serde_json::from_slice::<Record>(content) {
            let _ = cache.lookup(&record.key, &record.parent);
            let _ = cache.interned(&record.output.on(&record.parent));
        }
        let hash = builder::store::LayerId::from_bytes(*blake3::hash(content).as_bytes());
        let _ = Listing::parse(content.clone(), &hash);
    }
    let history = History::new(store);
    for id in history.ids().unwrap_or_default() {
        if let Ok(build) = history.read(id) {
            for step in &build.steps {
                let log = history.log(id, step.number);
                let _ = log.map(|log| {
                    let mut start = std::io::Read::take(log, 1 << 20);
                    std::io::copy(&mut start, &mut std::io::sink()).is_ok()
                });
            }
            let _ = history.before(&build, 3);
        }
    }
    if let Ok(inventory) = Inventory::of(store) {
        let policy = Policy {
            includes: Includes::Everything,
            only: Only::ALL,
            unused_since: None,
            keep_bytes: Some(0),
            now: SystemTime::UNIX_EPOCH,
        };
        let _ = (select(&inventory, &policy), inventory.cache_bytes());
    }
    let _ = verify(store, false, &cancel);
}

/// An image, a cache or a cache mount in an OCI layout, or packed into one file: it is loaded or refused, and
/// nothing beside the store changes.
pub(crate) fn load(data: &[u8]) {
    let outer = tempfile::tempdir().expect("a directory for the test");
    let (dir, root) = (outer.path().join("layout"), outer.path().join("store"));
    fs::create_dir(&dir).expect("a directory for the test");
    let files = tree(data);
    write(&dir, &files);
    let Ok(store) = Store::open(&root) else { return };
    let (platform, cancel) = (platform(), Cancel::new());
    let reference = LayoutRef { dir: dir.clone(), tag: None, digest: None };
    let _ = load_layout(&store, &reference, &platform, &cancel);
    let source = LayoutSource { dir: dir.clone() };
    if let Ok(index) = source.index() {
        for entry in index.manifests.iter().take(4) {
            let _ = fetch(&store, &source, entry, Selector::All, &cancel);
        }
        if let Ok(import) = Import::open(Box::new(source), &index, "latest") {
            for (_, content) in &files {
                if let Ok(record) = serde_json::from_slice::<Record>(content) {
                    let _ = import.bring(&store, &record.key, &record.parent, &cancel);
                }
            }
        }
    }
    for found in found_mounts(&dir).unwrap_or_default() {
        let _ = import_mount(&store, &found, true, &cancel, || {});
    }
    let archive = archive(&files);
    let _ = load_archive(&store, archive.as_slice(), "archive", &platform, &cancel);
    if let Ok(read) = LayoutArchive::read(&store, archive.as_slice(), "archive", &cancel) {
        let _ = read.find(None, &platform);
    }
    let beside = fs::read_dir(outer.path()).expect("the directory is there").count();
    assert_eq!(beside, 2, "nothing is made outside");
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if header.set_path(path).is_ok() {
            header.set_cksum();
            let _ = archive.append(&header, content.as_slice());
        }
    }
    archive.into_inner().unwrap_or_default()
}

/// The file that `docker save` wrote, or another tool, as bytes: it is loaded or refused.
pub(crate) fn saved(data: &[u8]) {
    let outer = tempfile::tempdir().expect("a directory for the test");
    let Ok(store) = Store::open(&outer.path().join("store")) else { return };
    let _ = load_archive(&store, data, "archive", &platform(), &Cancel::new());
    let beside = fs::read_dir(outer.path()).expect("the directory is there").count();
    assert_eq!(beside, 1, "nothing is made outside");
}

/// A compressed stream, whose memory does not follow from its header.
pub(crate) fn stream(data: &[u8]) {
    let mut out = [0; 4096];
    if let Ok(mut stream) = builder::layer::decompress(data) {
        // Content of one input: a bomb is the reader's to stop.
        for _ in 0..256 {
            if matches!(std::io::Read::read(&mut stream, &mut out), Ok(0) | Err(_)) {
                break;
            }
        }
    }
}

/// The two streams of a cache mount that was exported: they are put together or refused, inside the directory.
pub(crate) fn mount(data: &[u8]) {
    let split = data.iter().position(|&b| b == END).unwrap_or(data.len());
    let (listing, contents) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    let outer = tempfile::tempdir().expect("a directory for the test");
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).expect("a directory for the test");
    let dir = fs::File::open(&inner).expect("the directory was made");
    let whole = builder::layer::JoinedTar::new(listing, contents);
    let _ = builder::layer::unpack_plain(whole, dir.as_fd(), &Cancel::new());
    let beside = fs::read_dir(outer.path()).expect("the directory is there").count();
    assert_eq!(beside, 1, "nothing is made outside");
}
