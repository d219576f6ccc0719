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
    let one = format!("oci:{}", kit.out("one").display());
    kit.builder(["copy", "-q", "--all", &from, &one])
        .fails(2)
        .says(&["--all copies to a registry"]);
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

#[test]
fn what_is_not_there_is_not_copied() {
    let kit = Kit::new();
    let to = format!("oci:{}", kit.out("x").display());
    kit.builder(["copy", "nothing:1", &to]).fails(2).says(&["no image `nothing:1`"]);
    kit.builder(["copy", "oci:/no/such/dir", &to]).fails(6).says(&["no OCI image layout"]);
    kit.builder(["copy", "docker-archive:/no/such/file", &to]).fails(2);
    kit.builder(["copy", "docker://Bad", &to]).fails(2).says(&["lower case"]);
}
