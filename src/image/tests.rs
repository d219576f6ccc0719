//! Images from layouts, archives and root filesystems.

use super::fixture::{Layout, gzip, store, tar_of};
use super::import::DEFAULT_PATH;
use super::*;
use crate::oci::{Descriptor, Index, Manifest, Reference, canonical_json, media_type};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use std::fs;
use std::path::Path;

fn host() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn load(store: &Store, dir: &Path, rest: &str) -> Result<Image, ImageError> {
    let reference = LayoutRef::parse(&format!("{}{rest}", dir.display())).unwrap();
    load_layout(store, &reference, &host(), &Cancel::new())
}

fn text(image: &Image, layer: usize, path: &str) -> String {
    fs::read_to_string(image.layers[layer].layer.fs().join(path)).unwrap()
}

/// Nothing of a failed attempt may stay visible, and no work directory.
fn assert_untouched(store: &Store) {
    let count = |name: &str| fs::read_dir(store.root().join(name)).unwrap().count();
    assert_eq!(count("layers"), 0);
    let session = store.session().unwrap();
    let directories = fs::read_dir(session.dir())
        .unwrap()
        .filter(|e| {
            let e = e.as_ref().unwrap();
            e.file_type().unwrap().is_dir() && e.file_name() != "pending"
        })
        .count();
    assert_eq!(directories, 0, "no work directory is left");
}

#[test]
fn a_layout_is_loaded_once_and_then_only_looked_up() {
    let (dir, store) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let (one, two) = (tar_of(&[("etc/", ""), ("etc/a", "one")]), tar_of(&[("b", "two")]));
    let manifest = layout.image("linux/amd64", &[one, two.clone(), two]);
    layout.tag("v1", manifest.clone());
    let image = load(&store, layout.dir, ":v1").unwrap();
    assert_eq!(text(&image, 0, "etc/a"), "one");
    assert_eq!(text(&image, 2, "b"), "two");
    assert_eq!(image.manifest.as_ref().unwrap().digest, manifest.digest);
    assert_eq!(image.layers[1].layer.id, image.layers[2].layer.id);
    // Without its blobs the layout still loads: nothing but the index is read again.
    fs::remove_dir_all(layout.dir.join("blobs")).unwrap();
    let again = load(&store, layout.dir, "").unwrap();
    assert_eq!(again.layers[0].layer.id, image.layers[0].layer.id);
    assert_eq!(again.config, image.config);
}

#[test]
fn platforms_are_chosen_through_nested_indexes() {
    let (dir, store) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let amd = layout.image("linux/amd64", &[tar_of(&[("f", "amd")])]);
    let arm = layout.image("linux/arm64", &[tar_of(&[("f", "arm")])]);
    let mut attestation = amd.clone();
    attestation
        .annotations
        .insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    attestation.platform = Some(serde_json::json!({"os": "unknown", "architecture": "unknown"}));
    let inner = layout.blob(
        media_type::OCI_INDEX,
        &canonical_json(&Index::new(vec![attestation, arm.clone(), amd.clone()])),
    );
    layout.tag("multi", inner);
    let image = load(&store, &oci, ":multi").unwrap();
    assert_eq!(text(&image, 0, "f"), "amd");
    let s390x = "linux/s390x".parse().unwrap();
    let reference = LayoutRef::parse(&oci.display().to_string()).unwrap();
    let error = load_layout(&store, &reference, &s390x, &Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("linux/s390x (it has linux/arm64, linux/amd64)"), "{error}");
}

#[test]
fn damage_is_found_wherever_it_is() {
    let (dir, _) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let tar = tar_of(&[("f", "x")]);
    let manifest = layout.image("linux/amd64", std::slice::from_ref(&tar));
    layout.tag("v1", manifest.clone());
    let packed = gzip(&tar);
    let blob = Digest::of(&packed);
    let mut same_size = packed.clone();
    let middle = same_size.len() / 2;
    same_size[middle] ^= 0x40;
    type Check = fn(&ImageError) -> bool;
    let cases: [(Digest, Vec<u8>, Check); 5] = [
        (manifest.digest, b"{}".to_vec(), |e| matches!(e, ImageError::WrongSize { .. })),
        (manifest.digest, vec![b' '; manifest.size as usize], |e| {
            matches!(e, ImageError::WrongDigest { .. })
        }),
        (blob, packed[..packed.len() - 9].to_vec(), |e| matches!(e, ImageError::WrongSize { .. })),
        (blob, same_size, |e| matches!(e, ImageError::WrongDigest { .. })),
        (blob, b"".to_vec(), |e| matches!(e, ImageError::WrongSize { .. })),
    ];
    for (n, (digest, bytes, fits)) in cases.into_iter().enumerate() {
        let store = Store::open(&dir.path().join(format!("store{n}"))).unwrap();
        let sound = fs::read(layout.path(&digest)).unwrap();
        fs::write(layout.path(&digest), bytes).unwrap();
        let error = load(&store, &oci, ":v1").unwrap_err();
        assert!(fits(&error), "case {n}: {error}");
        assert!(!store.has_blob(&digest), "case {n}");
        assert_untouched(&store);
        fs::write(layout.path(&digest), sound).unwrap();
        load(&store, &oci, ":v1").unwrap();
    }
}

#[test]
fn a_config_that_lies_about_its_layer_is_refused() {
    let (dir, store) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let mut config = Config::empty(&host());
    config.set_diff_ids(&[Digest::of(b"another")]);
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        artifact_type: None,
        config: layout.blob(media_type::OCI_CONFIG, &config.to_bytes()),
        layers: vec![layout.blob(media_type::OCI_LAYER, &tar_of(&[("f", "x")]))],
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let manifest = layout.blob(media_type::OCI_MANIFEST, &canonical_json(&manifest));
    layout.tag("v1", manifest);
    let error = load(&store, &oci, "").unwrap_err();
    assert!(matches!(error, ImageError::WrongDiffId { .. }), "{error}");
    assert_untouched(&store);
}

/// A member of a tar: path, mode, and what a hard link leads to.
fn members(list: &[(&str, u32, Option<&str>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, target) in list {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_mtime(1_500_000_000);
        header.set_size(0);
        header.set_entry_type(match target {
            Some(_) => tar::EntryType::Link,
            None if path.ends_with('/') => tar::EntryType::Directory,
            None => tar::EntryType::Regular,
        });
        match target {
            Some(target) => tar.append_link(&mut header, path, target).unwrap(),
            None => tar.append_data(&mut header, path, &[][..]).unwrap(),
        }
    }
    tar.into_inner().unwrap()
}

#[test]
fn privileged_a_directory_that_a_layer_does_not_describe_keeps_the_attributes_it_has_below() {
    needs_root!();
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, store) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let sticky = members(&[("tmp/", 0o1777, None), ("tmp/old", 0o600, None)]);
    let private = members(&[("tmp/", 0o700, None), ("tmp/old", 0o600, None)]);
    let bare = members(&[("tmp/new", 0o644, None), ("tmp/link", 0o600, Some("tmp/old"))]);
    let one = layout.image("linux/amd64", &[sticky, bare.clone()]);
    let two = layout.image("linux/amd64", &[private, bare]);
    layout.tag("one", one.clone());
    layout.tag("two", two);
    for (tag, directory) in [(":one", 0o1777), (":two", 0o700), (":one", 0o1777)] {
        let image = load(&store, &oci, tag).unwrap();
        let mode = |path| {
            let path = image.layers[1].layer.fs().join(path);
            fs::metadata(path).unwrap().permissions().mode() & 0o7777
        };
        assert_eq!((mode("tmp"), mode("tmp/link")), (directory, 0o600), "{tag}");
        assert_eq!(mode("tmp/new"), 0o644);
        let known = layers_of(&store, &image.config.diff_ids().unwrap()).unwrap();
        assert_eq!(known[1].as_ref().unwrap().id, image.layers[1].layer.id);
    }
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 4);
}

#[test]
fn a_hard_link_to_nothing_is_refused() {
    let (dir, store) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let manifest = layout.image("linux/amd64", &[members(&[("link", 0, Some("nowhere"))])]);
    layout.tag("v1", manifest);
    let error = load(&store, &oci, "").unwrap_err();
    assert!(crate::cli::failure::chain(&error).contains("`link`"), "{error}");
}

#[test]
fn a_directory_that_is_no_layout_and_a_missing_tag_say_so() {
    let (dir, store) = store();
    let missing = load(&store, &dir.path().join("no"), "").unwrap_err();
    assert!(matches!(missing, ImageError::NotALayout { .. }), "{missing}");
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let manifest = layout.image("linux/amd64", &[]);
    layout.tag("v1", manifest);
    let error = load(&store, &oci, ":v2").unwrap_err().to_string();
    assert!(error.contains("no single image :v2 (it has v1)"), "{error}");
}

#[test]
fn two_threads_load_one_image_at_the_same_time() {
    let (dir, store) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let files: Vec<_> = (0..50).map(|i| (format!("f{i}"), "x".repeat(i * 100))).collect();
    let files: Vec<_> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let manifest = layout.image("linux/amd64", &[tar_of(&files), tar_of(&files[..10])]);
    layout.tag("v1", manifest);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let image = load(&store, &oci, "").unwrap();
                assert_eq!(text(&image, 0, "f7"), "x".repeat(700));
            });
        }
    });
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 2);
}

/// Packs a directory as an archive, as `tar -C DIR -c .` would.
fn packed(dir: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", dir).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn an_oci_archive_is_loaded_with_its_names_compressed_or_not() {
    let (dir, _) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let manifest = layout.image("linux/amd64", &[tar_of(&[("f", "x")])]);
    layout.tag("app:v1", manifest.clone());
    layout.tag("ghcr.io/o/app:v2", manifest.clone());
    let plain = packed(&oci);
    for (n, bytes) in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()]
        .into_iter()
        .enumerate()
    {
        let store = Store::open(&dir.path().join(format!("store{n}"))).unwrap();
        let loaded = load_archive(&store, &bytes[..], "x.tar", &host(), &Cancel::new()).unwrap();
        assert_eq!(loaded.len(), 1);
        let names: Vec<_> = loaded[0].names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["app:v1", "ghcr.io/o/app:v2"]);
        assert_eq!(loaded[0].image.manifest.as_ref().unwrap().digest, manifest.digest);
        assert_eq!(text(&loaded[0].image, 0, "f"), "x");
        for entry in fs::read_dir(store.session().unwrap().dir()).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(name == "lock" || name == "pending", "left behind: {name:?}");
        }
    }
}

#[test]
fn a_docker_archive_is_loaded_links_and_all() {
    let (dir, store) = store();
    let old = dir.path().join("save");
    fs::create_dir_all(old.join("aaa")).unwrap();
    fs::create_dir_all(old.join("bbb")).unwrap();
    let tar = tar_of(&[("f", "docker")]);
    fs::write(old.join("aaa/layer.tar"), &tar).unwrap();
    std::os::unix::fs::symlink("../aaa/layer.tar", old.join("bbb/layer.tar")).unwrap();
    let mut config = Config::empty(&host());
    config.set_diff_ids(&[Digest::of(&tar), Digest::of(&tar)]);
    let bytes = config.to_bytes();
    let name = format!("{}.json", Digest::of(&bytes).to_hex());
    fs::write(old.join(&name), &bytes).unwrap();
    let manifest = serde_json::json!([{
        "Config": name, "RepoTags": ["hello:1"], "Layers": ["aaa/layer.tar", "bbb/layer.tar"],
    }]);
    fs::write(old.join("manifest.json"), manifest.to_string()).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all("", &old).unwrap();
    let archive = archive.into_inner().unwrap();
    let loaded = load_archive(&store, &archive[..], "save.tar", &host(), &Cancel::new()).unwrap();
    assert_eq!(loaded[0].names[0].familiar(), "hello:1");
    assert_eq!(text(&loaded[0].image, 1, "f"), "docker");
    let (_, manifest, read) =
        read(&store, loaded[0].image.manifest.as_ref().unwrap(), &host()).unwrap();
    assert_eq!(manifest.config.digest, Digest::of(&bytes), "the config keeps its bytes");
    assert_eq!(read, config);
}

#[test]
fn what_is_no_archive_says_so_and_leaves_nothing() {
    let (_dir, store) = store();
    let load = |bytes: &[u8]| load_archive(&store, bytes, "x.tar", &host(), &Cancel::new());
    let other = tar_of(&[("README", "hello")]);
    assert!(matches!(load(&other), Err(ImageError::NotAnArchive { .. })));
    assert!(load(b"garbage").is_err());
    let evil = tar_of(&[("manifest.json", r#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]);
    let error = load(&evil).unwrap_err().to_string();
    assert!(error.contains("`../../etc/passwd` is missing"), "{error}");
    assert_untouched(&store);
}

#[test]
fn a_root_filesystem_becomes_a_base_image() {
    let (_dir, store) = store();
    let tar = tar_of(&[("./", ""), ("./bin/", ""), ("./bin/sh", "#!"), ("./etc/", "")]);
    let options = ImportOptions {
        platform: host(),
        created: "2024-01-01T00:00:00Z".to_owned(),
        message: "imported".to_owned(),
    };
    let import =
        |bytes: &[u8]| import_rootfs(&store, bytes, "rootfs.tar", &options, &Cancel::new());
    let image = import(&tar).unwrap();
    assert_eq!(image.config.env_var("PATH").as_deref(), Some(DEFAULT_PATH));
    assert_eq!(image.config.cmd().unwrap(), ["sh"]);
    assert_eq!(image.layers[0].diff_id, Some(Digest::of(&tar)));
    let blob = image.layers[0].descriptor.as_ref().unwrap();
    assert_eq!((blob.digest, blob.size), (Digest::of(&tar), tar.len() as u64));
    let manifest = image.manifest.as_ref().unwrap();
    let again = load_stored(&store, manifest, &host(), &Cancel::new()).unwrap();
    assert_eq!(again.layers[0].layer.id, image.layers[0].layer.id);

    let packed = gzip(&tar);
    let compressed = import(&packed).unwrap();
    let blob = compressed.layers[0].descriptor.as_ref().unwrap();
    assert_eq!(blob.media_type, media_type::layer(true, "gzip"));
    assert_eq!(blob.digest, Digest::of(&packed));
    assert_eq!(compressed.layers[0].layer.id, image.layers[0].layer.id);
    assert!(import(&tar[..700]).is_err());
}

#[test]
fn an_image_of_the_store_is_found_by_name_digest_and_id() {
    let (dir, store) = store();
    let oci = dir.path().join("oci");
    let mut layout = Layout::new(&oci);
    let manifest = layout.image("linux/amd64", &[tar_of(&[("f", "x")])]);
    layout.tag("v1", manifest.clone());
    let image = load(&store, &oci, "").unwrap();
    let descriptor: &Descriptor = image.manifest.as_ref().unwrap();
    store.tag("docker.io/library/app:latest", descriptor).unwrap();
    let config = id(&store, descriptor).unwrap();
    let found = |text: &str| find(&store, text).unwrap().map(|t| t.descriptor.digest);
    for text in [
        "app".to_owned(),
        "docker.io/library/app:latest".to_owned(),
        format!("app@{}", manifest.digest),
        manifest.digest.to_hex()[..12].to_owned(),
        config.to_hex()[..8].to_owned(),
        config.to_string(),
    ] {
        assert_eq!(found(&text), Some(manifest.digest), "{text}");
    }
    for text in ["app:v2", "apps", "abcdef0123456789", "UPPER", &config.to_hex()[..3]] {
        assert_eq!(found(text), None, "{text}");
    }
}
