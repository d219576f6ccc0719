//! What `-o`, `--iidfile` and `--metadata-file` write, read by other tools.

use crate::kit::archive::{Archive, entries, members};
use crate::kit::{self, Kit, Run, host};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

/// A kit whose Dockerfile makes a few files to look at.
fn small() -> Kit {
    let kit = Kit::new();
    kit.file("hello", "#!/bin/sh\necho hello from $0\n").chmod("hello", 0o755);
    kit.dockerfile(
        "FROM fixture/base\nCOPY hello /bin/hello\nRUN mkdir -m 700 /d && echo x > /d/f && chown 1000:1001 /d/f\n\
         ENV WHO=me\nENTRYPOINT [\"/bin/hello\"]\n",
    );
    kit
}

#[test]
fn compressions_hold_the_same_layers() {
    let kit = small();
    let mut seen = Vec::new();
    for compression in
        ["uncompressed", "gzip", "gzip,compression-level=1", "zstd", "zstd,compression-level=9"]
    {
        let path = kit.out("image.tar");
        kit.build()
            .arg(format!("-otype=oci,dest={},compression={compression}", path.display()))
            .ok();
        let image = Archive::open(&path);
        let kind = compression.split(',').next().unwrap();
        let kind = if kind == "uncompressed" { ".tar" } else { kind };
        let types = image.manifest["layers"].as_array().unwrap().iter();
        let types = types.map(|layer| layer["mediaType"].as_str().unwrap().to_owned());
        assert!(types.into_iter().skip(1).all(|media| media.ends_with(kind)), "{compression}");
        seen.push(image.document["rootfs"]["diff_ids"].clone());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "compression leaves diff_ids alone");
}

#[test]
fn oci_archive_on_standard_output() {
    let kit = small();
    let outcome = kit.build().args(["-o", "type=oci,dest=-"]).ok();
    fs::write(kit.out("x.tar"), outcome.bytes()).unwrap();
    assert_eq!(Archive::open(&kit.out("x.tar")).env("WHO"), Some("me"));
}

#[test]
fn local_export_is_the_file_tree() {
    let kit = small();
    kit.build().arg(format!("-otype=local,dest={}", kit.out("tree").display())).ok();
    // As docker build: a directory belongs to whom runs the build, owners are for images.
    assert_eq!(fs::read_to_string(kit.out("tree/d/f")).unwrap(), "x\n");
    assert_eq!(fs::metadata(kit.out("tree/d")).unwrap().permissions().mode() & 0o7777, 0o700);
    assert!(fs::symlink_metadata(kit.out("tree/usr/bin/env")).unwrap().is_symlink());
}

#[test]
fn path_alone_means_a_local_export() {
    let kit = small();
    kit.build().arg("-o").arg(kit.out("tree")).ok();
    assert!(kit.out("tree/bin/hello").is_file());
}

#[test]
fn tar_export_is_the_flat_file_tree() {
    let kit = small();
    kit.build().arg(format!("-otype=tar,dest={}", kit.out("flat.tar").display())).ok();
    let entries = entries(&fs::read(kit.out("flat.tar")).unwrap());
    let file = entries.iter().find(|entry| entry.path == "d/f").unwrap();
    assert_eq!((file.uid, file.gid, &file.content[..]), (1000, 1001, &b"x\n"[..]));
    assert!(entries.iter().all(|entry| !entry.path.contains(".wh.")));
}

#[test]
fn docker_archive_has_its_manifest() {
    let kit = small();
    let path = kit.out("docker.tar");
    kit.build().args(["-t", "hello:v1"]).arg(format!("-otype=docker,dest={}", path.display())).ok();
    let files = members(&fs::read(&path).unwrap());
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let tags = manifest[0]["RepoTags"].as_array().unwrap();
    assert!(tags.iter().any(|tag| tag.as_str().unwrap().ends_with("hello:v1")), "{manifest}");
    assert!(files.contains_key(manifest[0]["Config"].as_str().unwrap()));
    for layer in manifest[0]["Layers"].as_array().unwrap() {
        assert!(files.contains_key(layer.as_str().unwrap()), "{layer}");
    }
}

#[test]
fn iidfile_and_metadata_file() {
    let kit = small();
    let (iid, metadata) = (kit.out("iid"), kit.out("metadata.json"));
    let archive = kit.out("image.tar");
    kit.build()
        .arg("--iidfile")
        .arg(&iid)
        .arg("--metadata-file")
        .arg(&metadata)
        .args(["-t", "hello:v1"])
        .arg(format!("-otype=oci,dest={}", archive.display()))
        .arg(format!("-otype=docker,name=given:v2,dest={}", kit.out("second.tar").display()))
        .ok();
    let image = Archive::open(&archive);
    let written: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    assert_eq!(written["containerimage.digest"], image.digest);
    assert_eq!(written["containerimage.config.digest"], image.manifest["config"]["digest"]);
    let names = "docker.io/library/hello:v1,docker.io/library/given:v2";
    assert_eq!(written["image.name"], names, "of flags and of outputs");
    let build = written["buildx.build.ref"].as_str().unwrap();
    let id = build.strip_prefix("builder/builder/").unwrap();
    kit.builder(["explain", "--build", id]).ok();
    let id = fs::read_to_string(iid).unwrap();
    assert!(id == image.digest || id == image.manifest["config"]["digest"], "{id}");
}

#[test]
fn one_time_gives_one_image_whenever_it_is_built() {
    const TIME: &str = "1500000000";
    let digest = |build: &dyn Fn(Run) -> Run| {
        let kit = small();
        let image = build(kit.build()).image();
        let times = image.layers[1..].iter().flatten().map(|entry| entry.mtime);
        assert!(times.max() <= Some(1_500_000_000), "files of new layers have no later time");
        assert_eq!(image.document["created"], "2017-07-14T02:40:00Z");
        assert!(image.layers[0].iter().all(|entry| entry.mtime != 1_500_000_000));
        image.digest
    };
    let flag = digest(&|run| run.args(["--timestamp", TIME]));
    assert_eq!(digest(&|run| run.args(["--timestamp", TIME])), flag);
    // The same in BuildKit's words.
    let kit = small();
    let path = kit.out("i.tar");
    kit.build()
        .env("SOURCE_DATE_EPOCH", TIME)
        .arg("--output")
        .arg(format!(
            "type=oci,dest={},compression=uncompressed,rewrite-timestamp=true",
            path.display()
        ))
        .ok();
    assert_eq!(Archive::open(&path).digest, flag);
}

#[test]
fn umask_and_processors_do_not_show() {
    let digest = |setup: &str| {
        let kit = small();
        // Some blocks of a layer, and files that our own umask could touch.
        for number in 0..40u8 {
            let bytes: Vec<u8> = (0..100_000u32).map(|i| (i >> (number % 9)) as u8).collect();
            kit.file(&format!("data/f{number}"), bytes);
        }
        kit.dockerfile(
            "FROM fixture/base\nCOPY data /data\nRUN mkdir /new && echo x > /new/f\nWORKDIR /w/x\n",
        );
        let path = kit.out("i.tar");
        let output = format!("-otype=oci,dest={}", path.display());
        kit.build().args(["--timestamp", "1500000000"]).arg(output).after(setup).ok();
        Archive::open(&path).digest
    };
    let usual = digest("umask 022");
    for setup in ["umask 077", "umask 002", "taskset -p -c 0 $$ > /dev/null"] {
        assert_eq!(digest(setup), usual, "{setup}");
    }
}

#[test]
fn rewriting_without_a_time_is_told() {
    let kit = small();
    let path = kit.out("i.tar");
    let output = format!("-otype=oci,dest={},rewrite-timestamp=true", path.display());
    let outcome = kit.build_showing("plain").arg(output).ok();
    assert!(outcome.text().contains("rewrite-timestamp=true changes nothing without"));
}

#[test]
fn several_outputs_come_of_one_build() {
    let kit = small();
    let outcome = kit
        .build()
        .arg(format!("-otype=oci,dest={}", kit.out("a.tar").display()))
        .arg(format!("-otype=oci,dest={},compression=zstd", kit.out("b.tar").display()))
        .arg(format!("-otype=local,dest={}", kit.out("tree").display()))
        .args(["-o", "type=tar,dest=-"])
        .ok();
    assert_eq!(outcome.counts().ran, 2, "each step ran once");
    let (a, b) = (Archive::open(&kit.out("a.tar")), Archive::open(&kit.out("b.tar")));
    assert_eq!(a.content(), b.content());
    assert_eq!(a.document, b.document, "compression is not a part of the config");
    assert!(kit.out("tree/bin/hello").is_file());
    assert!(entries(outcome.bytes()).iter().any(|entry| entry.path == "bin/hello"));
}

#[test]
fn standard_output_holds_one_output() {
    let kit = small();
    let two = kit.build().args(["-o", "type=oci,dest=-", "-o", "type=tar,dest=-"]).fails(2);
    two.says(&["only one output can go to stdout"]);
    kit.build().args(["-q", "-o", "-"]).fails(2).says(&["--quiet prints the image's id"]);
}

#[test]
fn annotations_and_labels_go_where_they_are_sent() {
    let kit = small();
    let path = kit.out("i.tar");
    kit.build()
        .args(["--label", "who=me", "--annotation", "org.x=manifest"])
        .args(["--annotation", "index,manifest-descriptor:org.x=above"])
        .args(["--annotation", "manifest[linux/s390x]:org.x=other"])
        .arg(format!("-otype=oci,dest={},annotation.org.y=field", path.display()))
        .ok();
    let image = Archive::open(&path);
    assert_eq!(image.config()["Labels"]["who"], "me");
    let wanted = serde_json::json!({"org.x": "manifest", "org.y": "field"});
    assert_eq!(image.manifest["annotations"], wanted);
    let index: Value =
        serde_json::from_slice(&members(&fs::read(&path).unwrap())["index.json"]).unwrap();
    assert_eq!(index["annotations"]["org.x"], "above");
    assert_eq!(index["manifests"][0]["annotations"]["org.x"], "above");

    kit.build().args(["--annotation", "config:a=b"]).fails(2).says(&["cannot annotate `config`"]);
    let alone = kit.build().args(["-t", "x", "--annotation", "index:a=b"]).fails(2);
    alone.says(&["makes no index to annotate"]);
}

#[test]
fn every_compression_is_accepted_by_other_tools() {
    let tools = ["skopeo", "podman", "buildah"];
    if !tools.iter().all(|tool| host::has(tool, tool)) {
        return;
    }
    let kit = small();
    let root = kit.out("containers/root");
    let run = kit.out("containers/run");
    let in_store = |tool: &str, words: &[&str]| {
        let store = ["--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap()];
        let start = [tool].into_iter().chain(store).chain(["--storage-driver", "vfs"]);
        host::tool(&start.chain(words.iter().copied()).collect::<Vec<_>>())
    };
    let podman = |words: &[&str]| in_store("podman", words);
    let buildah = |words: &[&str]| in_store("buildah", words);
    let holds_hello = |directory: &str| {
        let hello = fs::read_to_string(format!("{}/bin/hello", directory.trim())).unwrap();
        hello.contains("echo hello")
    };
    for compression in ["gzip", "zstd", "estargz", "uncompressed"] {
        let options = format!("compression={compression},force-compression=true");
        let (oci, docker, dir) = (kit.out("oci.tar"), kit.out("docker.tar"), kit.out("layout"));
        kit.build()
            .args(["-t", "hello:v1"])
            .arg(format!("-otype=oci,dest={},{options}", oci.display()))
            .arg(format!("-otype=docker,dest={},{options}", docker.display()))
            .arg(format!("-otype=oci,tar=false,dest={},{options}", dir.display()))
            .ok();
        let copied = kit.out("copied");
        for from in [
            format!("oci-archive:{}", oci.display()),
            format!("docker-archive:{}", docker.display()),
            format!("oci:{}:v1", dir.display()),
        ] {
            let to = format!("dir:{}", copied.display());
            host::tool(&["skopeo", "--insecure-policy", "copy", "--quiet", &from, &to]);
        }
        let archives = [&oci, &docker].map(|path| path.to_str().unwrap());
        for archive in archives {
            assert!(
                podman(&["load", "--quiet", "-i", archive]).contains("hello:v1"),
                "{compression}"
            );
        }
        assert!(holds_hello(&podman(&["image", "mount", "hello:v1"])), "{compression}");
        // Limits that no machine has to raise, and no network to set up.
        let run = ["--cgroup-manager=cgroupfs", "run", "--rm", "--network=none"];
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "hello:v1"];
        let said = podman(&[run.as_slice(), &limits].concat());
        assert_eq!(said, "hello from /bin/hello\n", "{compression}");
        podman(&["image", "umount", "--all"]);
        podman(&["rmi", "--all", "--force"]);
        let from = format!("oci-archive:{}", oci.display());
        let container = buildah(&["from", "--quiet", &from]);
        assert!(holds_hello(&buildah(&["mount", container.trim()])), "{compression}");
        buildah(&["rm", "--all"]);
        buildah(&["rmi", "--all", "--force"]);
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn load_hands_the_image_to_the_engine_that_is_here() {
    let kit = small();
    // Engines as small as they can be: docker has no daemon, podman keeps what it is given.
    let bin = kit.beside("engines");
    let write = |name: &str, script: &str| {
        kit::write_file(&bin.join(name), format!("#!/bin/sh\n{script}\n").as_bytes());
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let loaded = kit.out("loaded.tar");
    write("docker", "exit 1");
    write("podman", &format!("case $1 in load) cat > {};; esac", loaded.display()));
    kit.build().env("PATH", &path).args(["-t", "hello:v1", "--load"]).ok();
    let files = members(&fs::read(&loaded).unwrap());
    assert!(String::from_utf8_lossy(&files["manifest.json"]).contains("hello:v1"));

    write("docker", "case $1 in load) echo no space >&2; exit 3;; esac");
    let refused = kit.build().env("PATH", &path).args(["-t", "hello:v1", "--load"]).fails(5);
    refused.says(&["docker load failed: no space"]);
    write("docker", "exit 1");
    write("podman", "exit 1");
    let alone = kit.build().env("PATH", &path).args(["-t", "hello:v1", "--load"]).fails(5);
    alone.says(&["neither docker nor podman"]);
}

#[test]
fn failed_build_writes_no_file() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN exit 1\n");
    kit.build()
        .arg("--iidfile")
        .arg(kit.out("iid"))
        .arg(format!("-otype=oci,dest={}", kit.out("x.tar").display()))
        .fails(4);
    assert_eq!(fs::read_dir(kit.out("")).unwrap().count(), 0);
}

#[test]
fn other_tools_accept_the_oci_archive() {
    if !host::has("skopeo", "skopeo") || !host::has("umoci", "umoci") || !host::has("runc", "runc")
    {
        return;
    }
    let kit = small();
    let (archive, layout, bundle) = (kit.out("i.tar"), kit.out("layout"), kit.out("bundle"));
    for compression in ["gzip", "zstd", "uncompressed"] {
        let output = format!("-otype=oci,dest={},compression={compression}", archive.display());
        kit.build().arg(output).ok();
        let inspected =
            host::tool(&["skopeo", "inspect", &format!("oci-archive:{}", archive.display())]);
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        assert!(inspected["Env"].as_array().unwrap().contains(&"WHO=me".into()), "{compression}");
    }
    // umoci 0.4 of Debian 12 reads gzip.
    kit.build().arg(format!("-otype=oci,dest={}", archive.display())).ok();
    fs::create_dir(&layout).unwrap();
    host::tool(&["tar", "-xf", archive.to_str().unwrap(), "-C", layout.to_str().unwrap()]);
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let name = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    let name = name.as_str().map_or("latest", |name| name);
    let image = format!("{}:{name}", layout.display());
    if index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].is_null() {
        let copy = format!("oci:{}:latest", layout.display());
        host::tool(&["skopeo", "copy", &format!("oci-archive:{}", archive.display()), &copy]);
    }
    host::tool(&["umoci", "unpack", "--image", &image, bundle.to_str().unwrap()]);
    let file = fs::metadata(bundle.join("rootfs/d/f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, 1001));
    run_bundle(&kit);
}

/// Runs the unpacked bundle under runc, without a terminal.
fn run_bundle(kit: &Kit) {
    let path = kit.out("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    fs::write(&path, config.to_string()).unwrap();
    let id = format!("builder-kit-{}", std::process::id());
    let (bundle, state) = (kit.out("bundle"), kit.out("runc"));
    let printed = host::tool(&[
        "runc",
        "--root",
        state.to_str().unwrap(),
        "run",
        "--bundle",
        bundle.to_str().unwrap(),
        &id,
    ]);
    assert_eq!(printed.trim(), "hello from /bin/hello");
}

#[test]
fn other_tools_accept_the_docker_archive() {
    if !host::has("skopeo", "skopeo") {
        return;
    }
    let kit = small();
    let path = kit.out("docker.tar");
    kit.build().args(["-t", "hello:v1"]).arg(format!("-otype=docker,dest={}", path.display())).ok();
    let copy = kit.out("copied");
    let from = format!("docker-archive:{}", path.display());
    host::tool(&["skopeo", "--insecure-policy", "copy", &from, &format!("dir:{}", copy.display())]);
    assert!(copy.join("manifest.json").is_file());
}

#[test]
fn store_is_an_oci_layout_that_other_tools_read() {
    if !host::has("skopeo", "skopeo") {
        return;
    }
    let kit = small();
    kit.build().args(["-t", "hello:v1"]).ok();
    let index: Value =
        serde_json::from_slice(&fs::read(kit.store().join("index.json")).unwrap()).unwrap();
    let name =
        index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
    assert_eq!(name, "docker.io/library/hello:v1");
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    assert!(kit.store().join("blobs").join(manifest).is_file());
}
