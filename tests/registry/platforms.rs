//! One build for several platforms, from a registry and into one.

use super::fixture::{self, OCI_INDEX, Packing, file, image_for};
use super::kit::{Kit, host};
use super::proxy::{self, Do};
use super::server::{Kind, Registry};
use crate::kit::Archive;
use serde_json::Value;

#[test]
fn an_index_is_built_from_an_index_and_others_read_it() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let bases = ["amd64", "arm64"].map(|name| {
        let made = image_for(name, &[(file(name, 10_000), Packing::Gzip)]);
        made.put(registry.host(), "base", name);
        made
    });
    let index = fixture::index(&[(&bases[0], "amd64"), (&bases[1], "arm64")]);
    fixture::put_manifest(registry.host(), "base", "1", OCI_INDEX, &index);
    let kit = Kit::new();
    kit.dockerfile(&format!(
        "FROM {}/base:1\nARG TARGETARCH\nCOPY $TARGETARCH /own\n",
        proxy.host()
    ));
    kit.file("amd64", "for amd64").file("arm64", "for arm64");
    let name = format!("{}/app:1", proxy.host());
    let metadata = kit.out("metadata.json");
    kit.build()
        .args(["--platform=linux/arm64,linux/amd64", "--push", "-t", &name])
        .arg(format!("--metadata-file={}", metadata.display()))
        .ok();
    // The tag is asked for once, so both platforms are of one index.
    let seen = proxy.seen();
    let asked = seen.iter().filter(|line| line.ends_with("/v2/base/manifests/1")).count();
    assert_eq!(asked, 1, "{seen:?}");
    assert_eq!(seen.last().map(String::as_str), Some("PUT /v2/app/manifests/1"));
    let pushed = format!("docker://{}/app:1", registry.host());
    let raw = host::tool(&["skopeo", "inspect", "--raw", "--tls-verify=false", &pushed]);
    let read: Value = serde_json::from_str(&raw).unwrap();
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], fixture::digest(raw.trim_end().as_bytes()));
    assert_eq!(read["manifests"].as_array().map(Vec::len), Some(2));
    for architecture in ["amd64", "arm64"] {
        let layout = kit.out(architecture);
        let to = format!("oci-archive:{}:x", layout.display());
        let arch = format!("--override-arch={architecture}");
        host::tool(&["skopeo", "copy", "-q", &arch, "--src-tls-verify=false", &pushed, &to]);
        let image = Archive::open(&layout);
        assert_eq!(image.text("/own"), format!("for {architecture}"));
        assert_eq!(image.entry(architecture).content.len(), 10_000);
    }
    // All of it, for tools that copy lists.
    let whole = format!("oci:{}:x", kit.out("whole").display());
    host::tool(&["skopeo", "copy", "-q", "--all", "--src-tls-verify=false", &pushed, &whole]);
    let listed = std::fs::read_to_string(kit.out("whole").join("index.json")).unwrap();
    assert!(listed.contains(&fixture::digest(raw.trim_end().as_bytes())), "{listed}");
}

#[test]
fn a_platform_that_an_index_lacks_is_an_error_that_lists_what_there_is() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let made = image_for("amd64", &[(file("a", 100), Packing::Gzip)]);
    made.put(registry.host(), "base", "amd64");
    let index = fixture::index(&[(&made, "amd64")]);
    fixture::put_manifest(registry.host(), "base", "1", OCI_INDEX, &index);
    let kit = Kit::new();
    kit.dockerfile(&format!("FROM {}/base:1\nCOPY Dockerfile /\n", registry.host()));
    let outcome = kit.build().arg("--platform=linux/amd64,linux/s390x").fails(6);
    outcome.says(&["linux/s390x", "linux/amd64"]);
}

#[test]
fn what_platforms_add_from_one_address_is_downloaded_once() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let made = image_for("amd64", &[(file("a", 100), Packing::Gzip)]);
    made.put(registry.host(), "base", "amd64");
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let kit = Kit::new();
    let path = format!("/v2/base/blobs/{}", made.layer(0));
    // A parent for each platform, so that the steps are not one.
    kit.dockerfile(&format!(
        "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /own\nADD http://{}{path} /added\n",
        proxy.host()
    ));
    kit.file("amd64", "1").file("arm64", "2").file("riscv64", "3");
    let platforms = "--platform=linux/amd64,linux/arm64,linux/riscv64";
    kit.build().args([platforms, "--no-cache"]).ok();
    let seen = proxy.seen();
    assert_eq!(seen.iter().filter(|line| line.ends_with(&path)).count(), 1, "{seen:?}");
}

#[test]
fn jobs_for_one_platform_each_make_the_index_of_one_job_for_all() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    kit.dockerfile(
        "FROM scratch\nARG TARGETARCH TARGETVARIANT\nCOPY $TARGETARCH$TARGETVARIANT /own\n",
    );
    let platforms = ["linux/riscv64", "linux/arm/v7", "linux/amd64", "linux/arm64"];
    for platform in platforms {
        let name = platform.trim_start_matches("linux/").replace('/', "");
        kit.file(&name, platform);
    }
    for (repository, format) in [("oci", "oci-mediatypes=true"), ("docker", "oci-mediatypes=false")]
    {
        let name = |tag: &str| format!("{}/{repository}:{tag}", registry.host());
        let push = |platform: &str, tag: &str| {
            let output = format!("--output=type=registry,name={},{format}", name(tag));
            let run = kit.build().arg(format!("--platform={platform}")).arg(output);
            run.env("SOURCE_DATE_EPOCH", "1700000000").ok();
        };
        push(&platforms.join(","), "whole");
        for platform in platforms {
            push(platform, &platform.replace('/', "-"));
        }
        let parts = platforms.map(|platform| name(&platform.replace('/', "-")));
        kit.builder(["index", "create", "-t", &name("joined")]).args(&parts).ok();
        let raw = |tag: &str| {
            let image = format!("docker://{}", name(tag));
            host::tool(&["skopeo", "inspect", "--raw", "--tls-verify=false", &image])
        };
        assert_eq!(raw("joined"), raw("whole"), "{format}");
    }
}
