//! Indexes in the store: every command knows all of their images, or those that are here.

use crate::kit::{Kit, host};
use serde_json::Value;

/// The machine's own architecture, one that it does not have, and another.
const OWN: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const OTHER: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };
const THIRD: &str = "riscv64";

/// A store with the images `one:ARCH` of these architectures, and the index `app` of them all.
fn with_index(architectures: &[&str]) -> Kit {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY Dockerfile /${TARGETARCH}\n",
    );
    for architecture in architectures {
        kit.build()
            .arg(format!("--platform=linux/{architecture}"))
            .args(["-t", &format!("one:{architecture}")])
            .ok();
    }
    kit.builder(["index", "create", "-t", "store:app"])
        .args(architectures.iter().map(|it| format!("store:one:{it}")))
        .ok();
    kit
}

/// A template of what a command prints.
fn shown(kit: &Kit, words: &[&str]) -> String {
    kit.builder(words).ok().stdout().trim().to_owned()
}

fn digest(kit: &Kit, name: &str) -> String {
    shown(kit, &["index", "inspect", "--format={{.Manifest.Digest}}", &format!("store:{name}")])
}

#[test]
fn an_index_is_one_row_with_its_platforms() {
    let kit = with_index(&[OWN, OTHER]);
    let both = format!("linux/{},linux/{}", OWN.min(OTHER), OWN.max(OTHER));
    let listed = kit.builder(["images"]).ok().stdout();
    assert!(!listed.contains("<damaged>"), "{listed}");
    assert_eq!(listed.lines().filter(|line| line.starts_with("app ")).count(), 1, "{listed}");
    let row = shown(&kit, &["images", "app", "--no-trunc", "--format={{.ID}} {{.Platform}}"]);
    assert_eq!(row, format!("{} {both}", digest(&kit, "app")));
    let tree = kit.builder(["images", "--tree", "app"]).ok().stdout();
    for architecture in [OWN, OTHER] {
        assert!(tree.contains(&format!("linux/{architecture}")), "{tree}");
    }
    // Where this machine's image is not there, another one is shown.
    let kit = with_index(&[OTHER]);
    let row = shown(&kit, &["images", "app", "--format={{.Platform}} {{.Labels}}"]);
    assert_eq!(row, format!("linux/{OTHER} for={OTHER}"));
    let inspected: Value =
        serde_json::from_str(&shown(&kit, &["inspect", "--platform", OTHER, "app"])).unwrap();
    assert_eq!(inspected[0]["Architecture"], OTHER);
    assert!(shown(&kit, &["history", "app"]).contains("COPY"));
}

#[test]
fn commands_take_the_image_for_a_platform_and_name_those_that_there_are() {
    let kit = with_index(&[OWN, OTHER]);
    let other = format!("--platform=linux/{OTHER}");
    let inspected: Value = serde_json::from_str(&shown(&kit, &["inspect", "app"])).unwrap();
    assert_eq!(inspected[0]["Id"], digest(&kit, "app"));
    assert_eq!(inspected[0]["Platforms"].as_array().unwrap().len(), 2);
    assert_eq!(inspected[0]["Platforms"][0]["Available"], true);
    assert_eq!(shown(&kit, &["inspect", &other, "--format={{.Architecture}}", "app"]), OTHER);
    let by = format!("COPY Dockerfile /{OTHER}");
    let lines = shown(&kit, &["history", &other, "--no-trunc", "--format={{.CreatedBy}}", "app"]);
    assert!(lines.contains(&by) || lines.contains("TARGETARCH"), "{lines}");
    kit.builder(["diff", &other, "app", &format!("one:{OTHER}")]).ok();
    assert_eq!(kit.builder(["diff", "app", &format!("one:{OTHER}")]).run().status, Some(1));
    for words in [&["inspect"][..], &["history"], &["diff", "app"], &["save", "-o", "/dev/null"]] {
        let run = kit.builder(words).args(["--platform=linux/s390x", "app"]).run();
        assert_eq!(run.status, Some(5), "{words:?}");
        run.says(&["linux/s390x", OWN, OTHER]);
    }
    let run = kit.builder(["run", "--pull=never", "--platform=linux/s390x", "app", "true"]);
    run.fails(125).says(&["no image for linux/s390x", OWN, OTHER, "--platform"]);
    // By its digest it is a base too, which no registry is asked for.
    let child = shown(&kit, &["inspect", &other, "--format={{.Descriptor.digest}}", "app"]);
    let text = format!("FROM localhost:1/app@{child}\nCOPY Dockerfile /again\n");
    kit.builder(["tag", "app", "localhost:1/app"]).ok();
    kit.dockerfile(&text).build().arg(&other).ok();
    kit.builder(["rmi", "localhost:1/app"]).ok();
    // An image of the index is found by its id, and gets a name of its own by it.
    let id = shown(&kit, &["inspect", &other, "--format={{.Descriptor.digest}}", "app"]);
    kit.builder(["rmi", &format!("one:{OTHER}")]).ok();
    assert_eq!(shown(&kit, &["inspect", "--format={{.Architecture}}", &id[7..20]]), OTHER);
    kit.builder(["rmi", &id]).fails(2).says(&["is part of app:latest", "builder rmi app:latest"]);
    kit.builder(["tag", &id, "again"]).ok();
    assert_eq!(
        shown(&kit, &["images", "again", "--format={{.Platform}}"]),
        format!("linux/{OTHER}")
    );
}

#[test]
fn save_and_load_keep_an_index() {
    let kit = with_index(&[OWN, OTHER, THIRD]);
    let whole = digest(&kit, "app");
    let path = kit.out("all.tar");
    kit.builder(["save", "-o"]).arg(&path).args(["app", &format!("one:{OWN}")]).ok();
    let place = format!("docker-archive:{}", path.display());
    let listed = host::tool(&["skopeo", "list-tags", &place]);
    assert!(listed.contains("app:latest") && listed.contains(OWN), "{listed}");
    let place = format!("oci-archive:{}:latest", path.display());
    let raw = host::tool(&["skopeo", "inspect", "--raw", &place]);
    assert_eq!(crate::kit::base::hex(raw.as_bytes()), whole[7..]);
    let other = Kit::new();
    let said = other.builder(["load", "-i"]).arg(&path).ok().stdout();
    assert_eq!(said, format!("Loaded image: app:latest\nLoaded image: one:{OWN}\n"));
    assert_eq!(digest(&other, "app"), whole);
    assert_eq!(
        shown(&other, &["inspect", "--format={{.Architecture}}", "--platform", THIRD, "app"]),
        THIRD
    );
    other.builder(["store", "verify"]).ok();
    // Some of them make an index of their own; one is an image.
    let part = kit.out("part.tar");
    let two = format!("--platform=linux/{OTHER},linux/{THIRD}");
    kit.builder(["save", &two, "-o"]).arg(&part).arg("app").ok();
    let other = Kit::new();
    other.builder(["load", "-i"]).arg(&part).ok();
    let mut expected = [OTHER, THIRD].map(|it| format!("linux/{it}"));
    expected.sort();
    assert_eq!(shown(&other, &["images", "--format={{.Platform}}"]), expected.join(","));
    let one = kit.out("one.tar");
    kit.builder(["save", "--platform", OTHER, "-o"]).arg(&one).arg("app").ok();
    let other = Kit::new();
    other.builder(["load", "-i"]).arg(&one).ok();
    assert_eq!(shown(&other, &["images", "--format={{.Platform}}"]), format!("linux/{OTHER}"));
    // Of all that the archive has, one can be loaded.
    let other = Kit::new();
    other.builder(["load", "--platform", THIRD, "-i"]).arg(&path).ok();
    let rows = shown(&other, &["images", "app", "--format={{.Platform}}"]);
    assert_eq!(rows, format!("linux/{THIRD}"));
}

#[test]
fn collection_keeps_what_an_index_reaches_until_its_name_goes() {
    let kit = with_index(&[OWN, OTHER]);
    for architecture in [OWN, OTHER] {
        kit.builder(["rmi", &format!("one:{architecture}")]).ok();
    }
    kit.builder(["prune", "--all"]).ok();
    kit.builder(["store", "verify"]).ok();
    let path = kit.out("all.tar");
    kit.builder(["save", "-o"]).arg(&path).arg("app").ok();
    let said = kit.builder(["index", "rm", "store:app"]).ok().stdout();
    assert!(said.starts_with("Untagged: app:latest\nDeleted: sha256:"), "{said}");
    kit.builder(["prune", "--all"]).ok();
    assert_eq!(shown(&kit, &["images", "-q"]), "");
    let blobs = std::fs::read_dir(kit.store().join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 0);
}

#[test]
fn an_index_of_the_store_is_annotated_under_its_name() {
    let kit = with_index(&[OWN, OTHER]);
    let before = digest(&kit, "app");
    let child = format!("linux/{OTHER}");
    kit.builder(["index", "annotate", "store:app", &child, "--annotation=note=this"])
        .args(["--annotation=index:about=all", "--annotation=index-descriptor:listed=here"])
        .ok();
    assert_ne!(digest(&kit, "app"), before);
    let raw: Value = serde_json::from_str(&shown(&kit, &["inspect", "--raw", "app"])).unwrap();
    assert_eq!(raw["annotations"]["about"], "all");
    let noted = raw["manifests"].as_array().unwrap().iter();
    let noted: Vec<_> = noted.filter(|child| child["annotations"]["note"] == "this").collect();
    assert_eq!(noted.len(), 1);
    assert_eq!(noted[0]["platform"]["architecture"], OTHER);
    let listed = std::fs::read_to_string(kit.store().join("index.json")).unwrap();
    assert!(listed.contains("\"listed\":\"here\""), "{listed}");
    kit.builder(["index", "rm", &format!("store:one:{OWN}")]).fails(2).says(&["builder rmi"]);
    kit.builder(["index", "create", "-t", "docker-archive:x.tar", "store:app"])
        .fails(2)
        .says(&["oci-archive:FILE:NAME"]);
}

#[test]
fn a_build_makes_an_index_of_one_platform_where_it_is_named() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    kit.build().args(["--manifest", "list", "-t", "other"]).ok();
    let raw: Value = serde_json::from_str(&shown(&kit, &["inspect", "--raw", "list"])).unwrap();
    assert_eq!(raw["manifests"][0]["platform"]["architecture"], OWN);
    assert_eq!(digest(&kit, "list"), digest(&kit, "other"));
}
