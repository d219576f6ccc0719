//! Outputs, read back with our own reader and, where they are installed, with other tools.

use super::*;
use crate::image::fixture::{Layout, gzip, store, tar_of};
use crate::image::{
    ImageLayer, ImportOptions, LayoutRef, import_rootfs, load_archive, load_layout, load_stored,
};
use crate::layer::{ScanOptions, scan};
use crate::oci::History;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

fn host() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// Makes a layer of files on disk, as a step leaves it.
fn built(store: &Store, make: impl FnOnce(&Path)) -> ImageLayer {
    let work = store.session().unwrap().new_work().unwrap();
    let fs = work.join("fs");
    fs::create_dir(&fs).unwrap();
    fs::set_permissions(&fs, fs::Permissions::from_mode(0o755)).unwrap();
    make(&fs);
    let dir = File::open(&fs).unwrap();
    let facts = scan(dir.as_fd(), &ScanOptions::detect(false), &Cancel::new()).unwrap();
    let layer = store.add_layer(&work, &facts.meta()).unwrap();
    ImageLayer { diff_id: None, layer, descriptor: None }
}

fn file(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_001);
    File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
}

/// An image of two layers that steps made.
fn image(store: &Store) -> Image {
    let mut config = Config::empty(&host());
    config.set_created("2024-01-01T00:00:00Z");
    config.set_cmd(Some(&["sh".to_owned()]));
    for by in ["COPY a", "COPY b"] {
        config.push_history(&History { created_by: by.to_owned(), ..History::default() });
    }
    let layers = vec![
        built(store, |dir| file(dir, "a", &"first ".repeat(1000))),
        built(store, |dir| file(dir, "b", "second")),
    ];
    Image { config, layers, manifest: None }
}

fn with<T>(store: &Store, run: impl FnOnce(&Context<'_>) -> T) -> T {
    let (progress, cancel) = (Progress::quiet(), Cancel::new());
    let vertex = Digest::of(b"export");
    run(&Context { store, progress: &progress, vertex, cancel: &cancel })
}

fn names(texts: &[&str]) -> Vec<Reference> {
    texts.iter().map(|text| Reference::parse(text).unwrap().or_latest()).collect()
}

#[track_caller]
fn run(store: &Store, image: &Image, tags: &[&str], spec: &str) -> Option<Packed> {
    let spec = OutputSpec::parse(spec).unwrap();
    let mut stdout = Vec::new();
    let product = Product::Image(image);
    let made = with(store, |context| export(context, product, &names(tags), &spec, &mut stdout));
    made.unwrap().map(|mut made| made.images.remove(0))
}

fn store_image(
    context: &Context<'_>,
    image: &Image,
    names: &[Reference],
    options: &PackOptions,
) -> Result<Packed, ExportError> {
    let made = store_product(context, Product::Image(image), names, options)?;
    Ok(made.images.into_iter().next().unwrap())
}

fn blobs(store: &Store) -> Vec<(String, u64)> {
    let mut all: Vec<_> = fs::read_dir(store.root().join("blobs/sha256"))
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            (e.file_name().into_string().unwrap(), e.metadata().unwrap().ino())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn an_image_of_the_store_is_whole_and_made_once() {
    let (_dir, store) = store();
    let image = image(&store);
    let options = PackOptions::default();
    let first =
        with(&store, |c| store_image(c, &image, &names(&["app", "app:v1"]), &options)).unwrap();
    for d in first.layers.iter().chain([&first.config, &first.manifest]) {
        let bytes = fs::read(store.blob_path(&d.digest)).unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (d.digest, d.size));
    }
    assert_eq!(first.layers[0].media_type, media_type::OCI_LAYER);
    let config: serde_json::Value =
        serde_json::from_slice(&store.read_blob(&first.config.digest).unwrap()).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][1], first.layers[1].digest.to_string());
    let found = store.resolve("docker.io/library/app:v1").unwrap().unwrap();
    assert_eq!(found.digest, first.manifest.digest);
    let before = blobs(&store);
    let second = with(&store, |c| store_image(c, &image, &[], &options)).unwrap();
    assert_eq!(second, first);
    assert_eq!(blobs(&store), before, "a second time writes nothing");
}

#[test]
fn archives_are_the_same_bytes_wherever_they_are_made() {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2 {
        let (dir, store) = store();
        let image = image(&store);
        let path = dir.path().join("out.tar");
        for spec in ["type=oci", "type=docker", "type=oci,compression=zstd,compression-level=5"] {
            run(&store, &image, &["app:v1"], &format!("{spec},dest={}", path.display()));
            seen.push(fs::read(&path).unwrap());
        }
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "the store and the archive, no temporary file");
    }
    assert_eq!(seen[..3], seen[3..]);
    assert_ne!(seen[0], seen[2]);
}

#[test]
fn archives_and_layouts_are_loaded_again_as_they_were() {
    let (dir, store) = store();
    let image = image(&store);
    for spec in [
        "type=oci",
        "type=oci,compression=zstd",
        "type=oci,compression=uncompressed",
        "type=docker",
        "type=docker,compression=uncompressed,oci-mediatypes=true",
    ] {
        let path = dir.path().join("out.tar");
        let packed =
            run(&store, &image, &["app:v1"], &format!("{spec},dest={}", path.display())).unwrap();
        let fresh = tempfile::tempdir().unwrap();
        let other = Store::open(&fresh.path().join("s")).unwrap();
        let loaded =
            load_archive(&other, File::open(&path).unwrap(), "out.tar", &host(), &Cancel::new())
                .unwrap();
        assert_eq!(loaded[0].names, names(&["app:v1"]), "{spec}");
        let manifest = loaded[0].image.manifest.as_ref().unwrap();
        assert_eq!(manifest.digest, packed.manifest.digest, "{spec}");
        let text = fs::read_to_string(loaded[0].image.layers[1].layer.fs().join("b")).unwrap();
        assert_eq!(text, "second", "{spec}");
        for (made, read) in image.layers.iter().zip(&loaded[0].image.layers) {
            assert_eq!(made.layer.id, read.layer.id, "{spec}: the same files and times");
        }
    }
    let oci = dir.path().join("oci");
    let packed =
        run(&store, &image, &["app:v1"], &format!("type=oci,tar=false,dest={}", oci.display()))
            .unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let other = Store::open(&fresh.path().join("s")).unwrap();
    let reference = LayoutRef::parse(&format!("{}:v1", oci.display())).unwrap();
    let loaded = load_layout(&other, &reference, &host(), &Cancel::new()).unwrap();
    assert_eq!(loaded.manifest.unwrap().digest, packed.manifest.digest);
}

#[test]
fn a_base_keeps_its_blobs_unless_it_came_plain_or_force_is_asked_for() {
    let (dir, store) = store();
    let tar = tar_of(&[("f", &"base ".repeat(500))]);
    let oci = dir.path().join("base");
    let mut layout = Layout::new(&oci);
    let manifest = layout.image("linux/amd64", std::slice::from_ref(&tar));
    layout.tag("v1", manifest.clone());
    let reference = LayoutRef::parse(&oci.display().to_string()).unwrap();
    let base = load_layout(&store, &reference, &host(), &Cancel::new()).unwrap();
    let dest = dir.path().join("out.tar");
    let dest = dest.display();

    let kept = run(&store, &base, &[], &format!("type=oci,dest={dest}")).unwrap();
    assert_eq!(kept.layers[0].digest, Digest::of(&gzip(&tar)));
    assert_eq!(kept.config.digest, manifest_config(&layout, &manifest), "the config's own bytes");
    let zstd = run(&store, &base, &[], &format!("type=oci,compression=zstd,dest={dest}")).unwrap();
    assert_eq!(zstd.layers, kept.layers);
    let docker = run(&store, &base, &[], &format!("type=docker,dest={dest}")).unwrap();
    assert_eq!(docker.layers[0].media_type, media_type::layer(false, "gzip"));
    assert_eq!(docker.layers[0].digest, kept.layers[0].digest);

    let spec = format!("type=oci,compression=zstd,force-compression=true,dest={dest}");
    let forced = run(&store, &base, &[], &spec).unwrap();
    let bytes = fs::read(store.blob_path(&forced.layers[0].digest)).unwrap();
    assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), tar, "the tar is the one received");
    let before = blobs(&store);
    assert_eq!(run(&store, &base, &[], &spec).unwrap(), forced);
    assert_eq!(blobs(&store), before);

    let options = ImportOptions {
        platform: host(),
        created: "2024-01-01T00:00:00Z".to_owned(),
        message: String::new(),
    };
    let plain = import_rootfs(&store, &tar[..], "x", &options, &Cancel::new()).unwrap();
    let packed = run(&store, &plain, &[], &format!("type=oci,dest={dest}")).unwrap();
    assert_eq!(packed.layers[0].media_type, media_type::layer(true, "gzip"));
    let mut unpacked = Vec::new();
    let blob = store.open_blob(&packed.layers[0].digest).unwrap();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, tar);
}

fn manifest_config(layout: &Layout<'_>, manifest: &Descriptor) -> Digest {
    let bytes = fs::read(layout.path(&manifest.digest)).unwrap();
    serde_json::from_slice::<Manifest>(&bytes).unwrap().config.digest
}

#[test]
fn annotations_go_where_they_are_sent() {
    let (dir, store) = store();
    let image = image(&store);
    let oci = dir.path().join("oci");
    let spec = format!(
        "type=oci,tar=false,dest={},annotation.a=1,annotation-index.b=2,\
         annotation-manifest-descriptor.c=3",
        oci.display()
    );
    let packed = run(&store, &image, &["app:v1", "ghcr.io/o/x:2"], &spec).unwrap();
    let read = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(oci.join(path)).unwrap()).unwrap()
    };
    let index = read("index.json");
    assert_eq!(index["annotations"]["b"], "2");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let entry = &index["manifests"][1]["annotations"];
    assert_eq!(entry["c"], "3");
    assert_eq!(entry["io.containerd.image.name"], "ghcr.io/o/x:2");
    assert_eq!(entry["org.opencontainers.image.ref.name"], "2");
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
    let manifest = read(&format!("blobs/sha256/{}", packed.manifest.digest.to_hex()));
    assert_eq!(manifest["annotations"], serde_json::json!({"a": "1"}));
}

#[test]
fn a_cancelled_or_failed_export_leaves_the_old_file() {
    let (dir, store) = store();
    let image = image(&store);
    let path = dir.path().join("out.tar");
    fs::write(&path, "old").unwrap();
    let spec = OutputSpec::parse(&format!("type=oci,dest={}", path.display())).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let progress = Progress::quiet();
    let context =
        Context { store: &store, progress: &progress, vertex: Digest::of(b""), cancel: &cancel };
    let error = export(&context, Product::Image(&image), &[], &spec, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ExportError::Cancelled), "{error}");
    // A blob that was cut short in the store.
    let packed = run(&store, &image, &[], "type=oci,dest=/dev/null").unwrap();
    let blob = store.blob_path(&packed.layers[0].digest);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    File::options().write(true).open(&blob).unwrap().set_len(5).unwrap();
    let error = with(&store, |c| export(c, Product::Image(&image), &[], &spec, &mut Vec::new()))
        .unwrap_err();
    assert!(matches!(error, ExportError::BlobSize { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn dest_dash_is_stdout() {
    let (dir, store) = store();
    let image = image(&store);
    let path = dir.path().join("out.tar");
    run(&store, &image, &["a"], &format!("type=oci,dest={}", path.display()));
    let spec = OutputSpec::parse("type=oci,dest=-").unwrap();
    let mut stdout = Vec::new();
    with(&store, |c| export(c, Product::Image(&image), &names(&["a"]), &spec, &mut stdout))
        .unwrap();
    assert_eq!(stdout, fs::read(&path).unwrap());
}

/// An image whose second layer removes and replaces files of the first.
fn layered(store: &Store) -> Image {
    let base = built(store, |dir| {
        file(dir, "kept", "kept");
        file(dir, "gone", "gone");
        fs::create_dir(dir.join("sub")).unwrap();
        file(&dir.join("sub"), "tool", "#!");
        fs::set_permissions(dir.join("sub/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(dir.join("sub/tool"), dir.join("sub/twin")).unwrap();
        symlink("../kept", dir.join("sub/link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
    });
    let top = built(store, |dir| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("gone"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )
        .unwrap();
        file(dir, "new", "new");
    });
    Image { config: Config::empty(&host()), layers: vec![base, top], manifest: None }
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        cannot_run_here!("mounting an overlay takes root");
    }
    is_root
}

#[test]
fn privileged_a_directory_gets_the_final_files_and_nothing_is_written_through_links() {
    if !is_root() {
        return;
    }
    let (dir, store) = store();
    let image = layered(&store);
    let out = dir.path().join("out");
    let outside = dir.path().join("outside");
    fs::create_dir(&out).unwrap();
    fs::write(&outside, "mine").unwrap();
    fs::write(out.join("other"), "stays").unwrap();
    symlink(&outside, out.join("kept")).unwrap();
    run(&store, &image, &[], &out.display().to_string());
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    assert_eq!(fs::read(out.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read(out.join("other")).unwrap(), b"stays");
    assert_eq!(fs::read(out.join("new")).unwrap(), b"new");
    assert!(!out.join("gone").exists());
    let (tool, twin) = (out.join("sub/tool"), out.join("sub/twin"));
    let (tool, twin) = (fs::metadata(tool).unwrap(), fs::metadata(twin).unwrap());
    assert_eq!(tool.ino(), twin.ino());
    assert_eq!(tool.mode() & 0o7777, 0o4755);
    assert_eq!(tool.mtime(), 1_500_000_001);
    assert_eq!(fs::read_link(out.join("sub/link")).unwrap(), Path::new("../kept"));
    // A second time over the first.
    run(&store, &image, &[], &out.display().to_string());
    let mut left: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["kept", "new", "other", "pipe", "sub"]);

    // A link where the image has a directory: replaced, not followed.
    fs::remove_dir_all(out.join("sub")).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, out.join("sub")).unwrap();
    let spec = OutputSpec::parse(&out.display().to_string()).unwrap();
    with(&store, |c| export(c, Product::Image(&image), &[], &spec, &mut Vec::new())).unwrap();
    assert!(out.join("sub/tool").exists());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn privileged_a_tar_has_the_final_files() {
    if !is_root() {
        return;
    }
    let (dir, store) = store();
    let image = layered(&store);
    let path = dir.path().join("root.tar");
    run(&store, &image, &[], &format!("type=tar,dest={}", path.display()));
    let bytes = fs::read(&path).unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let paths: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap())
        .collect();
    let expected = ["kept", "new", "pipe", "sub/", "sub/link", "sub/tool", "sub/twin"];
    assert_eq!(paths, expected);
    let spec = OutputSpec::parse("-").unwrap();
    let mut stdout = Vec::new();
    with(&store, |c| export(c, Product::Image(&image), &[], &spec, &mut stdout)).unwrap();
    assert_eq!(stdout, bytes);
}

/// Runs another tool; `None` where it is not installed.
fn tool(program: &str, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(_) => {
            cannot_run_here!("{program} is not installed");
            None
        }
    }
}

#[test]
fn with_skopeo_all_archives_are_accepted() {
    let (dir, store) = store();
    let image = image(&store);
    let path = dir.path().join("out.tar");
    for spec in [
        "type=oci",
        "type=oci,compression=zstd",
        "type=oci,compression=uncompressed",
        "type=docker",
        "type=docker,compression=uncompressed",
    ] {
        run(&store, &image, &["app:v1"], &format!("{spec},dest={}", path.display()));
        let kind = if spec.starts_with("type=oci") { "oci-archive" } else { "docker-archive" };
        let from = format!("{kind}:{}", path.display());
        let Some((is_ok, text)) = tool("skopeo", &["inspect", &from]) else { return };
        assert!(is_ok, "{spec}: {text}");
        assert!(text.contains("\"Architecture\": \"amd64\""), "{text}");
        let to = format!("oci:{}:v1", dir.path().join("copied").display());
        let (is_ok, text) = tool("skopeo", &["--insecure-policy", "copy", &from, &to]).unwrap();
        assert!(is_ok, "{spec}: {text}");
    }
    // The store itself is a layout that other tools read in place.
    let options = PackOptions::default();
    let packed = with(&store, |c| store_image(c, &image, &names(&["app:v1"]), &options)).unwrap();
    let from = format!("oci:{}:docker.io/library/app:v1", store.root().display());
    let (is_ok, text) = tool("skopeo", &["inspect", &from]).unwrap();
    assert!(is_ok && text.contains(&packed.manifest.digest.to_string()), "{text}");
}

#[test]
fn privileged_with_umoci_every_compression_unpacks() {
    let (dir, store) = store();
    let image = image(&store);
    if !is_root() {
        return;
    }
    for compression in ["gzip", "uncompressed", "zstd"] {
        let oci = dir.path().join(compression);
        let spec = format!("type=oci,tar=false,compression={compression},dest={}", oci.display());
        run(&store, &image, &["app:v1"], &spec);
        let bundle = dir.path().join(format!("{compression}-bundle"));
        let from = format!("{}:v1", oci.display());
        let unpack = ["unpack", "--image", &from, bundle.to_str().unwrap()];
        let Some((is_ok, text)) = tool("umoci", &unpack) else { return };
        // Debian 12's umoci is older than zstd layers.
        if compression == "zstd" && text.contains("mediatype") {
            continue;
        }
        assert!(is_ok, "{compression}: {text}");
        assert_eq!(fs::read(bundle.join("rootfs/b")).unwrap(), b"second");
    }
}

#[test]
fn times_are_rewritten_in_new_layers_only() {
    const EPOCH: i64 = 1_400_000_000;
    let (dir, store) = store();
    let first = image(&store);
    let kept = run(&store, &first, &["app"], "type=image,compression=gzip").unwrap();
    let descriptor = store.resolve("docker.io/library/app:latest").unwrap().unwrap();
    let mut based = load_stored(&store, &descriptor, &host(), &Cancel::new()).unwrap();
    based.layers.push(built(&store, |dir| file(dir, "c", "third")));
    based.manifest = None;

    let path = dir.path().join("out.tar");
    let text = format!("type=oci,dest={},rewrite-timestamp=true", path.display());
    let spec = OutputSpec { epoch: Some(EPOCH), ..OutputSpec::parse(&text).unwrap() };
    let pack = |spec: &OutputSpec| {
        let product = Product::Image(&based);
        let made =
            with(&store, |context| export(context, product, &[], spec, &mut Vec::new())).unwrap();
        made.map(|mut made| made.images.remove(0))
    };
    let rewritten = pack(&spec).unwrap();
    assert_eq!(rewritten.layers[..2], kept.layers[..], "a received layer keeps its bytes");
    let blob = store.open_blob(&rewritten.layers[2].digest).unwrap();
    let mut tar = tar::Archive::new(crate::layer::decompress(blob).unwrap());
    let times: Vec<_> =
        tar.entries().unwrap().map(|e| e.unwrap().header().mtime().unwrap()).collect();
    assert_eq!(times, [EPOCH as u64]);

    let before = blobs(&store);
    assert_eq!(pack(&spec).as_ref(), Some(&rewritten));
    assert_eq!(blobs(&store), before, "a rewritten layer is remembered as well");
    let spec = OutputSpec { epoch: None, ..spec };
    assert_ne!(pack(&spec).unwrap().layers[2], rewritten.layers[2]);
    let meta = store.layer(&based.layers[2].layer.id).unwrap().unwrap().meta;
    let written = Digest::of(&{
        let mut bytes = Vec::new();
        let dir = File::open(based.layers[2].layer.fs()).unwrap();
        let options = crate::layer::TarOptions::detect();
        crate::layer::write_tar(dir.as_fd(), &mut bytes, &options, &Cancel::new()).unwrap();
        bytes
    });
    assert_eq!(meta.tar.unwrap().diff_id, written, "the layer's own facts are not touched");
}

#[test]
fn privileged_trees_get_the_time_that_is_given() {
    const EPOCH: i64 = 1_400_000_000;
    needs_root!();
    let (dir, store) = store();
    let image = image(&store);
    let tree = dir.path().join("tree");
    let text = format!("type=local,dest={},platform-split=true", tree.display());
    let spec = OutputSpec { epoch: Some(EPOCH), ..OutputSpec::parse(&text).unwrap() };
    with(&store, |context| export(context, Product::Image(&image), &[], &spec, &mut Vec::new()))
        .unwrap();
    let stat = fs::metadata(tree.join("linux_amd64/b")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (EPOCH, 0));

    let spec = OutputSpec { epoch: Some(EPOCH), ..OutputSpec::parse("-").unwrap() };
    let mut bytes = Vec::new();
    with(&store, |context| export(context, Product::Image(&image), &[], &spec, &mut bytes))
        .unwrap();
    let mut tar = tar::Archive::new(bytes.as_slice());
    let times = tar.entries().unwrap().map(|e| e.unwrap().header().mtime().unwrap());
    assert!(times.into_iter().all(|time| time == EPOCH as u64));
}
