//! Images between any two places.

use super::fixture::{self, OCI_INDEX, Packing, busybox, file, image_for};
use super::kit::{Archive, Kit, host};
use super::server::{Kind, Registry};

#[test]
fn an_image_goes_round_all_places_and_stays_the_same() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let digest = busybox().put(registry.host(), "a", "1");
    let (dir, tar) = (kit.out("layout"), kit.out("layout.tar"));
    let places = [
        format!("docker://{}/a:1", registry.host()),
        format!("oci:{}:tag", dir.display()),
        format!("oci-archive:{}:name:2", tar.display()),
        "store:copied:3".to_owned(),
        format!("docker://{}/b/c:4", registry.host()),
    ];
    for pair in places.windows(2) {
        let printed = kit.builder(["copy", "-q", &pair[0], &pair[1]]).ok().stdout();
        assert_eq!(printed, format!("{digest}\n"), "{pair:?}");
    }
    assert_eq!(Archive::open(&tar).digest, digest);
    for place in [&places[1], &format!("docker://{}/b/c:4", registry.host())] {
        let shown = host::tool(&["skopeo", "inspect", "--tls-verify=false", place]);
        assert!(shown.contains("\"Layers\""), "{place}: {shown}");
    }
    let docker = kit.out("docker.tar");
    let to = format!("docker-archive:{}:copied:5", docker.display());
    kit.builder(["copy", "-q", "copied:3", &to]).ok();
    let shown = host::tool(&["skopeo", "inspect", &format!("docker-archive:{}", docker.display())]);
    assert!(shown.contains("\"Layers\""), "{shown}");
    let other = Kit::new();
    other.builder(["copy", "-q", &to, "back:6"]).ok();
    assert_eq!(
        other.builder(["run", "back:6", "sh", "-c", "wc -c < /one"]).ok().stdout(),
        "100000\n"
    );
}

#[test]
fn all_platforms_go_where_an_index_can_be() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let at = registry.host();
    let [amd, arm] = ["amd64", "arm64"].map(|a| image_for(a, &[(file(a, 100), Packing::Gzip)]));
    for made in [&amd, &arm] {
        made.put(at, "multi", &fixture::digest(&made.manifest));
    }
    let index = fixture::index(&[(&arm, "arm64"), (&amd, "amd64")]);
    fixture::put_manifest(at, "multi", "1", OCI_INDEX, &index);
    let (from, to) = (format!("docker://{at}/multi:1"), format!("docker://{at}/all:1"));
    let printed = kit.builder(["copy", "-q", "--all", &from, &to]).ok().stdout();
    assert_eq!(printed, format!("{}\n", fixture::digest(&index)));
    for architecture in ["amd64", "arm64"] {
        let flag = format!("--override-arch={architecture}");
        let shown = host::tool(&["skopeo", &flag, "inspect", "--tls-verify=false", &to]);
        assert!(shown.contains(architecture), "{shown}");
    }
    let docker = format!("docker-archive:{}", kit.out("one.tar").display());
    kit.builder(["copy", "-q", "--all", &from, &docker])
        .fails(2)
        .says(&["a docker-archive holds an image of one platform"]);
    let one = format!("oci:{}", kit.out("one").display());
    let printed = kit.builder(["copy", "-q", "--platform=linux/arm64", &from, &one]).ok().stdout();
    assert_eq!(printed, format!("{}\n", fixture::digest(&arm.manifest)));
    // An index that is here in part is pushed as the image that is here.
    let other = Kit::new();
    let name = format!("{at}/multi:1");
    other.builder(["pull", "-q", &name]).ok();
    let target = format!("{at}/part:1");
    other.builder(["tag", &name, &target]).ok();
    let outcome = other.builder(["push", "--progress=plain", &target]).ok();
    outcome.says(&["only the image for linux/amd64 is here"]);
    assert_eq!(outcome.stdout(), format!("{target}@{}\n", fixture::digest(&amd.manifest)));
}

/// The places that a matrix of copies goes from and to, each with what is to be there for it.
fn places(kit: &Kit, registry: &Registry, name: &str) -> Vec<String> {
    vec![
        format!("docker://{}/{name}:1", registry.host()),
        format!("oci:{}:{name}", kit.out("layout").display()),
        format!("oci-archive:{}:{name}", kit.out(&format!("{name}.oci.tar")).display()),
        format!("docker-archive:{}:{name}", kit.out(&format!("{name}.docker.tar")).display()),
        format!("store:{name}"),
    ]
}

#[test]
fn from_any_place_to_any_other() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let digest = busybox().put(registry.host(), "from", "1");
    let from = places(&kit, &registry, "from");
    for place in &from[1..] {
        kit.builder(["copy", "-q", &from[0], place]).ok();
    }
    for (i, from) in from.iter().enumerate() {
        let name = format!("to-{i}");
        for to in places(&kit, &registry, &name) {
            // Nothing of it is here but what the source has.
            let other = if from.starts_with("store:") { &kit } else { &Kit::new() };
            let printed = other.builder(["copy", "-q", from, &to]).ok().stdout();
            if from.starts_with("docker-archive:") {
                assert!(printed.starts_with("sha256:"), "{from} {to}");
            } else {
                assert_eq!(printed, format!("{digest}\n"), "{from} {to}");
            }
            let check = if to.starts_with("store:") { other } else { &Kit::new() };
            check.builder(["copy", "-q", &to, "check:1"]).ok();
            let command = ["run", "check:1", "sh", "-c", "wc -c < /one; wc -c < /two"];
            assert_eq!(check.builder(command).ok().stdout(), "100000\n50000\n", "{from} {to}");
        }
    }
}

#[test]
fn an_index_goes_round_all_places_that_can_hold_one() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let made = ["amd64", "arm64"].map(|a| image_for(a, &[(file(a, 100), Packing::Gzip)]));
    for image in &made {
        image.put(registry.host(), "from", &fixture::digest(&image.manifest));
    }
    let index = fixture::index(&[(&made[1], "arm64"), (&made[0], "amd64")]);
    fixture::put_manifest(registry.host(), "from", "1", OCI_INDEX, &index);
    let digest = format!("{}\n", fixture::digest(&index));
    let can_hold = |place: &String| !place.starts_with("docker-archive:");
    let from: Vec<_> = places(&kit, &registry, "from").into_iter().filter(can_hold).collect();
    for place in &from[1..] {
        assert_eq!(kit.builder(["copy", "-q", "--all", &from[0], place]).ok().stdout(), digest);
    }
    for (i, from) in from.iter().enumerate() {
        for to in places(&kit, &registry, &format!("to-{i}")).into_iter().filter(can_hold) {
            let other = if from.starts_with("store:") { &kit } else { &Kit::new() };
            let copied = other.builder(["copy", "-q", "--all", from, &to]).ok().stdout();
            assert_eq!(copied, digest, "{from} {to}");
            let again = if to.starts_with("store:") { other } else { &Kit::new() };
            let found = again.builder(["copy", "-q", "--all", &to, "check:1"]).ok().stdout();
            assert_eq!(found, digest, "{from} {to}");
        }
    }
    // A layout keeps what it has under other names; other tools see them all.
    let layout = kit.out("layout");
    for name in ["from", "to-0", "to-1", "to-2", "to-3"] {
        let place = format!("oci:{}:{name}", layout.display());
        let shown = host::tool(&["skopeo", "--override-arch=arm64", "inspect", &place]);
        assert!(shown.contains("arm64"), "{name}: {shown}");
    }
    host::tool(&[
        "skopeo",
        "copy",
        "-q",
        "--all",
        &from[2],
        &format!("oci:{}", kit.out("x").display()),
    ]);
}

#[test]
fn what_skopeo_writes_is_found_by_its_tag() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    busybox().put(registry.host(), "a", "1");
    let from = format!("docker://{}/a:1", registry.host());
    let archive = format!("oci-archive:{}:v1", kit.out("skopeo.tar").display());
    host::tool(&["skopeo", "copy", "-q", "--src-tls-verify=false", &from, &archive]);
    kit.builder(["copy", "-q", &archive, "v:1"]).ok();
    let other = format!("oci-archive:{}:v2", kit.out("skopeo.tar").display());
    kit.builder(["copy", "-q", &other, "v:2"]).fails(2).says(&["no single image: v2 was asked"]);
}

#[test]
fn an_artifact_is_copied_and_pushed_byte_for_byte() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    // As ORAS has it: an empty config, and files as layers.
    let (config, page) = (b"{}".to_vec(), b"# a page\n".to_vec());
    for blob in [&config, &page] {
        fixture::put_blob(at, "art", blob);
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": fixture::OCI_MANIFEST,
        "artifactType": "application/vnd.example.page",
        "config": fixture::describe("application/vnd.oci.empty.v1+json", &config),
        "layers": [fixture::describe("application/vnd.oci.image.layer.v1.tar", &page)],
    });
    let manifest = manifest.to_string().into_bytes();
    fixture::put_manifest(at, "art", "1", fixture::OCI_MANIFEST, &manifest);
    let digest = format!("{}\n", fixture::digest(&manifest));
    let places = [
        format!("docker://{at}/art:1"),
        format!("oci:{}:art", kit.out("layout").display()),
        format!("oci-archive:{}", kit.out("art.tar").display()),
        format!("{at}/pushed/art:2"),
    ];
    for pair in places.windows(2) {
        let printed = kit.builder(["copy", "-q", &pair[0], &pair[1]]).ok().stdout();
        assert_eq!(printed, digest, "{pair:?}");
    }
    let pushed = kit.builder(["push", "-q", &places[3]]).ok().stdout();
    assert_eq!(pushed, format!("{}@{digest}", places[3]));
    let other = Kit::new();
    let back = format!("docker://{}", places[3]);
    assert_eq!(other.builder(["copy", "-q", &back, "art:3"]).ok().stdout(), digest);
    let shown = other.builder(["inspect", "--raw", "art:3"]).ok().stdout();
    assert_eq!(shown.trim_end().as_bytes(), manifest);
    // It is listed, found whole, and not collected.
    assert!(other.builder(["images"]).ok().stdout().contains("art"));
    other.builder(["store", "verify"]).ok();
    other.builder(["prune", "-f", "--all"]).ok();
    let again = format!("docker://{at}/again:1");
    assert_eq!(other.builder(["copy", "-q", "art:3", &again]).ok().stdout(), digest);
    let docker = format!("docker-archive:{}", kit.out("no.tar").display());
    kit.builder(["copy", "-q", &places[0], &docker]).fails(6).says(&["is not an image"]);
    kit.builder(["pull", "-q", &format!("{at}/art:1")]).fails(6).says(&["is not an image"]);
}

#[test]
fn what_is_not_there_is_not_copied() {
    let kit = Kit::new();
    let to = format!("oci:{}", kit.out("x").display());
    kit.builder(["copy", "nothing:1", &to]).fails(2).says(&["no image `nothing:1`"]);
    kit.builder(["copy", "oci:/no/such/dir", &to]).fails(6).says(&["not an OCI image layout"]);
    kit.builder(["copy", "docker-archive:/no/such/file", &to]).fails(2);
    kit.builder(["copy", "docker://Bad", &to]).fails(2).says(&["lower case"]);
}
