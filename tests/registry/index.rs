//! Indexes made of what is in registries, layouts and the store.

use super::fixture::{self, OCI_INDEX, Packing, busybox, file, image_for};
use super::http::ask;
use super::kit::{Kit, host};
use super::proxy::{self, Do};
use super::server::{Kind, Registry};
use serde_json::{Value, json};

/// The bytes that a registry has under a tag or digest, with the status of its answer.
fn stored(at: &str, name: &str, reference: &str) -> (u16, Vec<u8>) {
    let mut get = fixture::request("GET", at, &format!("/v2/{name}/manifests/{reference}"), b"");
    get.headers.push(("Accept".to_owned(), format!("{OCI_INDEX}, {}", fixture::OCI_MANIFEST)));
    let answer = ask(at, &get);
    (answer.status, answer.body)
}

fn document(at: &str, name: &str, reference: &str) -> Value {
    serde_json::from_slice(&stored(at, name, reference).1).unwrap()
}

/// The platforms that an index lists, as `arch/variant`.
fn platforms(index: &Value) -> Vec<&str> {
    let manifests = index["manifests"].as_array().unwrap().iter();
    manifests.map(|child| child["platform"]["architecture"].as_str().unwrap()).collect()
}

/// Builds an image for each architecture and pushes it under that tag.
fn push_each(kit: &Kit, repository: &str, architectures: &[&str]) {
    kit.dockerfile("FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY Dockerfile /\n");
    for architecture in architectures {
        kit.build()
            .env("SOURCE_DATE_EPOCH", "1000000000")
            .arg(format!("--platform=linux/{architecture}"))
            .args(["-t", &format!("{repository}:{architecture}"), "--push"])
            .ok();
    }
}

#[test]
fn an_index_of_separate_pushes_has_the_same_bytes_in_any_order_and_others_read_it() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    let app = format!("{at}/team/app");
    push_each(&kit, &app, &["riscv64", "amd64", "arm64"]);
    let names = ["riscv64", "amd64", "arm64"].map(|it| format!("{app}:{it}"));
    let printed = kit.builder(["index", "create", "-t", &format!("{app}:1")]).args(&names).ok();
    let (status, bytes) = stored(at, "team/app", "1");
    assert_eq!(status, 200);
    assert_eq!(printed.stdout(), format!("{app}:1@{}\n", fixture::digest(&bytes)));
    let turned = [&names[2], &names[0], &names[1], &names[0]];
    let other = Kit::new();
    other
        .builder(["buildx", "imagetools", "create", "--tag", &format!("{app}:2")])
        .args(turned)
        .ok();
    assert_eq!(stored(at, "team/app", "2").1, bytes);
    let shown = other.builder(["index", "create", "--dry-run"]).args(&names).ok().stdout();
    assert_eq!(shown.trim_end().as_bytes(), bytes);
    // One build for all platforms, in another store, makes the very index.
    other
        .build_of(&kit.path(""))
        .env("SOURCE_DATE_EPOCH", "1000000000")
        .arg("--platform=linux/arm64,linux/riscv64,linux/amd64")
        .args(["-t", &format!("{app}:whole"), "--push"])
        .ok();
    assert_eq!(stored(at, "team/app", "whole").1, bytes);
    let index: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(platforms(&index), ["amd64", "arm64", "riscv64"]);
    assert_eq!(index["mediaType"], OCI_INDEX);
    for architecture in ["amd64", "arm64", "riscv64"] {
        let flag = format!("--override-arch={architecture}");
        let place = format!("docker://{app}:1");
        let shown = host::tool(&["skopeo", &flag, "inspect", "--tls-verify=false", &place]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["Labels"]["for"], architecture);
    }
    for tool in ["podman", "buildah"].into_iter().filter(|tool| host::has(tool, tool)) {
        let dirs = ["root", "run"].map(|name| kit.out(tool).join(name));
        let [root, run] = dirs.each_ref().map(|dir| dir.to_str().unwrap());
        let own = [tool, "--root", root, "--runroot", run, "--storage-driver=vfs"];
        let name = format!("{app}:1");
        let pull = ["pull", "-q", "--tls-verify=false", "--arch=arm64", &name];
        let id = host::tool(&[&own[..], &pull].concat());
        let shown = host::tool(&[&own[..], &["inspect", "--type=image", id.trim()]].concat());
        assert!(shown.contains("arm64") && !shown.contains("amd64"), "{tool}: {shown}");
    }
    // An index among the sources gives what it lists, and alone it is copied as it is.
    let two = format!("{app}:two");
    kit.builder(["index", "create", "-t", &two, &names[0], &names[1]]).ok();
    kit.builder(["index", "create", "-t", &format!("{app}:3"), &two, &names[2]]).ok();
    assert_eq!(stored(at, "team/app", "3").1, bytes);
    kit.builder(["index", "create", "-t", &format!("{app}:4"), &format!("{app}:1")]).ok();
    assert_eq!(stored(at, "team/app", "4").1, bytes);
    kit.builder(["index", "create", "-t", &format!("{app}:5"), "--platform=linux/arm64,amd64"])
        .arg(format!("{app}:1"))
        .ok();
    assert_eq!(platforms(&document(at, "team/app", "5")), ["amd64", "arm64"]);
}

#[test]
fn images_of_other_repositories_are_mounted_into_that_of_the_index() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let layers = [(file("large", 200_000), Packing::Gzip), (file("small", 10), Packing::Plain)];
    for (name, architecture) in [("job/a", "amd64"), ("job/b", "arm64")] {
        image_for(architecture, &layers).put(registry.host(), name, "1");
    }
    let at = proxy.host();
    let name = format!("{at}/whole/app:1");
    kit.builder(["index", "create", "-t", &name])
        .args([format!("{at}/job/a:1"), format!("{at}/job/b:1")])
        .ok();
    let seen = proxy.seen();
    let count = |verb: &str, part: &str| {
        seen.iter().filter(|r| r.starts_with(verb) && r.contains(part)).count()
    };
    // Two configs, and two layers that both images have.
    assert_eq!(count("POST", "mount="), 4, "{seen:?}");
    assert_eq!(count("PUT", "/uploads/"), 0, "{seen:?}");
    assert_eq!(count("GET", &image_for("amd64", &layers).layer(0)), 0, "{seen:?}");
    assert_eq!(count("PUT", "/whole/app/manifests/"), 3, "{seen:?}");
    assert_eq!(seen.last().unwrap(), "PUT /v2/whole/app/manifests/1", "the tag comes last");
    let other = Kit::new();
    other.builder(["pull", "-q", "--all-platforms", &name]).ok();
    let listed = other.builder(["images", "--format", "{{.Platform}}"]).ok().stdout();
    assert_eq!(listed, "linux/amd64,linux/arm64\n");
    // Of a registry that mounts nothing, or of another one, they are carried.
    let Some(second) = Registry::start(Kind::Plain) else { return };
    let far = format!("{}/app:1", second.host());
    kit.builder(["index", "create", "-t", &far])
        .args([format!("{at}/job/b:1"), format!("{at}/job/a:1")])
        .ok();
    assert_eq!(stored(second.host(), "app", "1"), stored(registry.host(), "whole/app", "1"));
}

#[test]
fn append_replaces_the_image_for_a_platform_and_keeps_what_the_index_says() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    let app = format!("{at}/app");
    let [amd, arm, new] = [("amd64", 10), ("arm64", 10), ("arm64", 20)]
        .map(|(architecture, size)| image_for(architecture, &[(file("x", size), Packing::Gzip)]));
    for (made, tag) in [(&amd, "amd"), (&arm, "arm"), (&new, "new")] {
        made.put(at, "app", tag);
    }
    kit.builder(["index", "create", "-t", &format!("{app}:1"), "--annotation", "index:who=me"])
        .args(["--annotation", "manifest-descriptor[linux/arm64]:of=arm"])
        .args([format!("{app}:amd"), format!("{app}:arm")])
        .ok();
    let first = document(at, "app", "1");
    assert_eq!(first["annotations"], json!({"who": "me"}));
    assert_eq!(first["manifests"][1]["annotations"], json!({"of": "arm"}));
    // A name that nothing has cannot be added to, and a dry run changes nothing.
    let append = ["index", "create", "--append", "-t"];
    kit.builder(append)
        .args([&format!("{app}:none"), &format!("{app}:new")])
        .fails(6)
        .says(&["leave out --append"]);
    kit.builder(append).args([&format!("{app}:1"), &format!("{app}:new"), "--dry-run"]).ok();
    assert_eq!(document(at, "app", "1"), first);
    let metadata = kit.out("metadata.json");
    kit.builder(append)
        .args([&format!("{app}:1"), &format!("{app}:new")])
        .arg(format!("--metadata-file={}", metadata.display()))
        .ok();
    let (_, bytes) = stored(at, "app", "1");
    let second: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(platforms(&second), ["amd64", "arm64"]);
    assert_eq!(second["manifests"][1]["digest"], fixture::digest(&new.manifest));
    assert_eq!(second["annotations"], json!({"who": "me"}));
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], fixture::digest(&bytes));
    assert_eq!(metadata["image.name"], format!("{app}:1"));
    // Two images for one platform are a mistake where none replaces the other.
    kit.builder(["index", "create", "-t", &format!("{app}:2")])
        .args([format!("{app}:arm"), format!("{app}:new")])
        .fails(2)
        .says(&["two images for linux/arm64", "--append"]);
    kit.builder(["index", "create", "-t", &format!("{app}:2"), "--annotation", "manifest:a=b"])
        .arg(format!("{app}:arm"))
        .fails(2)
        .says(&["manifest-descriptor:a=b"]);
    // By digest, and by a descriptor that states another platform.
    let descriptor = kit.out("descriptor.json");
    let text = json!({
        "mediaType": fixture::OCI_MANIFEST, "size": arm.manifest.len(),
        "digest": fixture::digest(&arm.manifest), "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
    });
    std::fs::write(&descriptor, text.to_string()).unwrap();
    kit.builder(["index", "create", "-t", &format!("{app}:3"), "-f"])
        .arg(&descriptor)
        .arg(fixture::digest(&amd.manifest))
        .ok();
    let third = document(at, "app", "3");
    assert_eq!(platforms(&third), ["amd64", "arm"]);
    assert_eq!(third["manifests"][1]["platform"]["variant"], "v7");
}

#[test]
fn images_of_layouts_and_of_the_store_are_joined_too() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    let app = format!("{at}/app");
    push_each(&kit, &app, &["amd64", "arm64"]);
    let names = ["amd64", "arm64"].map(|it| format!("{app}:{it}"));
    kit.builder(["index", "create", "-t", &format!("{app}:1")]).args(&names).ok();
    let (_, bytes) = stored(at, "app", "1");
    let layout = kit.out("layout");
    let tar = kit.out("arm.tar");
    kit.builder(["copy", "-q", &format!("docker://{}", names[0])])
        .arg(format!("oci:{}:amd", layout.display()))
        .ok();
    kit.builder(["copy", "-q", "--platform=linux/arm64", &format!("docker://{}", names[1])])
        .arg(format!("oci-archive:{}:arm", tar.display()))
        .ok();
    // The layers of the store's own images are not compressed: they are on their way.
    for (amd, arm, tag) in [
        (format!("oci:{}:amd", layout.display()), names[1].clone(), "a"),
        (names[0].clone(), format!("oci-archive:{}:arm", tar.display()), "b"),
        (format!("store:{}", names[0]), format!("store:{}", names[1]), "c"),
    ] {
        let target = format!("{at}/other:{tag}");
        kit.builder(["index", "create", "-t", &target, &arm, &amd]).ok();
        assert_eq!(stored(at, "other", tag).1, bytes, "{arm} {amd}");
    }
    // Into a layout, where skopeo reads it, and with it into the store and a registry.
    let to = format!("oci:{}:whole", layout.display());
    kit.builder(["index", "create", "-t", &to, "-t", "store:whole"])
        .args(["--annotation", "index-descriptor:listed=here"])
        .args([format!("oci:{}:amd", layout.display()), names[1].clone()])
        .ok();
    let raw = host::tool(&["skopeo", "inspect", "--raw", &to]);
    assert_eq!(raw.as_bytes(), bytes);
    let listed = std::fs::read_to_string(layout.join("index.json")).unwrap();
    assert!(listed.contains("\"listed\":\"here\"") && listed.contains("\"amd\""), "{listed}");
    assert_eq!(kit.builder(["inspect", "--raw", "whole"]).ok().bytes(), bytes);
    let name = format!("{at}/pushed:1");
    kit.builder(["tag", "whole", &name]).ok();
    kit.builder(["push", "-q", &name]).ok();
    assert_eq!(stored(at, "pushed", "1").1, bytes);
    // The store's own images make an index whose layers `push` compresses.
    kit.builder(["index", "create", "-t", &format!("store:{at}/plain:1")])
        .args(names.each_ref().map(|name| format!("store:{name}")))
        .ok();
    kit.builder(["push", "-q", &format!("{at}/plain:1")]).ok();
    assert_eq!(stored(at, "plain", "1").1, bytes);
}

#[test]
fn an_index_is_inspected_annotated_and_removed_where_it_is() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    let app = format!("{at}/app");
    let [amd, arm] = ["amd64", "arm64"].map(|it| image_for(it, &[(file("x", 9), Packing::Gzip)]));
    amd.put(at, "app", "amd");
    arm.put(at, "app", "arm");
    let mut index: Value =
        serde_json::from_slice(&fixture::index(&[(&amd, "amd64"), (&arm, "arm64")])).unwrap();
    index["artifactType"] = json!("application/vnd.example");
    index["manifests"][0]["data"] = json!("e30=");
    fixture::put_manifest(at, "app", "1", OCI_INDEX, index.to_string().as_bytes());
    let name = format!("{app}:1");
    let text = kit.builder(["index", "inspect", &name]).ok().stdout();
    for part in [
        &format!("Name:      {name}\n"),
        &format!("MediaType: {OCI_INDEX}\n"),
        &format!("  Name:        {app}@{}\n", fixture::digest(&arm.manifest)),
        "  Platform:    linux/arm64\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let raw = kit.builder(["imagetools", "inspect", "--raw", &name]).ok();
    assert_eq!(raw.bytes(), index.to_string().as_bytes());
    let format =
        "{{range .Manifest.Manifests}}{{.Digest}} {{end}}{{(index .Image \"linux/arm64\").OS}}";
    let shown = kit.builder(["index", "inspect", "--format", format, &name]).ok().stdout();
    let digests = [&amd, &arm].map(|made| fixture::digest(&made.manifest));
    assert_eq!(shown, format!("{} {} linux\n", digests[0], digests[1]));
    // The image by its name, its platform, its digest.
    let annotate = ["index", "annotate", &name];
    kit.builder(annotate).args([&format!("{app}:arm"), "--variant=v9", "--annotation=a=b"]).ok();
    kit.builder(annotate).args(["linux/amd64", "--os-version=1.2", "--os-features=x,y"]).ok();
    kit.builder(annotate).args([&digests[0][..20], "--annotation", "c=d"]).ok();
    kit.builder(annotate).args(["--annotation", "e=f"]).ok();
    let changed = document(at, "app", "1");
    index["manifests"][1]["platform"]["variant"] = json!("v9");
    index["manifests"][1]["annotations"] = json!({"a": "b"});
    index["manifests"][0]["platform"]["os.version"] = json!("1.2");
    index["manifests"][0]["platform"]["os.features"] = json!(["x", "y"]);
    index["manifests"][0]["annotations"] = json!({"c": "d"});
    index["annotations"] = json!({"e": "f"});
    assert_eq!(changed, index, "what is not known stays");
    kit.builder(annotate).args(["linux/s390x", "--variant=v1"]).fails(2).says(&["linux/amd64"]);
    kit.builder(annotate).args(["linux/amd64", "--arch=amd65"]).fails(2).says(&["amd64"]);
    kit.builder(annotate).fails(2).says(&["nothing to change"]);
    kit.builder(["index", "annotate", &format!("{app}:arm"), "--annotation=a=b"])
        .fails(2)
        .says(&["not an index", "builder index create"]);
    // This registry cannot remove a tag alone.
    let (_, bytes) = stored(at, "app", "1");
    let whole = format!("{app}@{}", fixture::digest(&bytes));
    kit.builder(["index", "rm", &name]).fails(6).says(&[&format!("builder index rm {whole}")]);
    kit.builder(["index", "rm", &format!("{app}:arm")]).fails(2).says(&["not an index"]);
    assert_eq!(stored(at, "app", "1").0, 200);
    assert_eq!(kit.builder(["index", "rm", &whole]).ok().stdout(), format!("Deleted: {whole}\n"));
    assert_eq!((stored(at, "app", "1").0, stored(at, "app", "arm").0), (404, 200));
}

#[test]
fn commands_of_docker_manifest_work_on_the_store_until_the_index_is_pushed() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    for architecture in ["amd64", "arm64"] {
        image_for(architecture, &[(file("x", 9), Packing::Gzip)]).put(at, "app", architecture);
    }
    let [list, amd, arm] = ["1", "amd64", "arm64"].map(|tag| format!("{at}/app:{tag}"));
    kit.builder(["manifest", "create", &list, &amd]).ok();
    kit.builder(["manifest", "create", "--amend", &list, &arm]).ok();
    kit.builder(["manifest", "annotate", &list, &arm, "--arch=arm64", "--variant=v8"]).ok();
    assert_eq!(stored(at, "app", "1").0, 404, "it is not pushed yet");
    let shown: Value =
        serde_json::from_slice(kit.builder(["manifest", "inspect", &list]).ok().bytes()).unwrap();
    assert_eq!(platforms(&shown), ["amd64", "arm64"]);
    kit.builder(["manifest", "push", "--purge", &list]).ok();
    assert_eq!(document(at, "app", "1"), shown);
    assert_eq!(shown["manifests"][1]["platform"]["variant"], "v8");
    kit.builder(["manifest", "rm", &list]).fails(2).says(&["no image"]);
}

#[test]
fn an_image_that_is_only_in_the_store_is_named_so() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    busybox().put(registry.host(), "a", "1");
    let name = format!("{}/only-here:1", registry.host());
    kit.builder(["copy", "-q", &format!("docker://{}/a:1", registry.host())])
        .arg(format!("store:{name}"))
        .ok();
    kit.builder(["index", "create", "-t", &format!("{}/b:1", registry.host()), &name])
        .fails(6)
        .says(&[&format!("store:{name}")]);
}

#[test]
fn statements_about_an_image_go_with_it() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    let [amd, arm] = ["amd64", "arm64"].map(|it| image_for(it, &[(file("x", 9), Packing::Gzip)]));
    amd.put(at, "job/a", "amd");
    arm.put(at, "job/b", "1");
    // As BuildKit puts them into an index.
    let (config, layer) = (b"{}".as_slice(), br#"{"_type":"https://in-toto.io/Statement/v1"}"#);
    for blob in [config, layer] {
        fixture::put_blob(at, "job/a", blob);
    }
    let statement = json!({
        "schemaVersion": 2, "mediaType": fixture::OCI_MANIFEST,
        "config": fixture::describe("application/vnd.oci.image.config.v1+json", config),
        "layers": [fixture::describe("application/vnd.in-toto+json", layer)],
    });
    let statement = statement.to_string().into_bytes();
    fixture::put_manifest(at, "job/a", "s", fixture::OCI_MANIFEST, &statement);
    let mut index: Value = serde_json::from_slice(&fixture::index(&[(&amd, "amd64")])).unwrap();
    let mut entry = fixture::describe(fixture::OCI_MANIFEST, &statement);
    entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": fixture::digest(&amd.manifest),
    });
    index["manifests"].as_array_mut().unwrap().insert(0, entry);
    fixture::put_manifest(at, "job/a", "1", OCI_INDEX, index.to_string().as_bytes());
    let [whole, only] = ["whole", "only"].map(|tag| format!("{at}/app:{tag}"));
    let sources = [format!("{at}/job/b:1"), format!("{at}/job/a:1")];
    kit.builder(["index", "create", "-t", &whole]).args(&sources).ok();
    let made = document(at, "app", "whole");
    assert_eq!(platforms(&made), ["amd64", "arm64", "unknown"]);
    let digest = fixture::digest(&statement);
    assert_eq!(stored(at, "app", &digest), (200, statement));
    let arm = ["index", "create", "--platform=arm64", "-t", &only];
    kit.builder(arm).args(&sources).ok();
    assert_eq!(platforms(&document(at, "app", "only")), ["arm64"]);
    // Pulled whole and saved, it is the same.
    let other = Kit::new();
    other.builder(["pull", "-q", "--all-platforms", &whole]).ok();
    let tar = other.out("all.tar");
    other.builder(["save", "-o"]).arg(&tar).arg(&whole).ok();
    other.builder(["load", "-i"]).arg(&tar).ok();
    let raw: Value =
        serde_json::from_slice(other.builder(["inspect", "--raw", &whole]).ok().bytes()).unwrap();
    assert_eq!(raw, made);
    // An image that is not here cannot be joined.
    let part = Kit::new();
    part.builder(["pull", "-q", "--platform=arm64", &whole]).ok();
    part.builder(["index", "create", "-t", &format!("{at}/app:2"), &format!("store:{whole}")])
        .fails(5)
        .says(&["linux/amd64 is not in the store", "builder pull --platform linux/amd64"]);
}
