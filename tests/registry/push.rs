//! What is here becomes what a registry has.

use super::fixture::{self, Packing, busybox, file, image};
use super::http::{Answer, Fault, Http, Request};
use super::kit::base::{hex, rootfs};
use super::kit::{Kit, host};
use super::proxy::{self, Do};
use super::pull::settings;
use super::server::{Kind, Registry};
use crate::kit::wait::eventually;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What skopeo reads of an image: its manifest.
fn manifest(name: &str) -> Value {
    let raw = host::tool(&[
        "skopeo",
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{name}"),
    ]);
    serde_json::from_str(&raw).unwrap()
}

/// What a registry answers for a tag: 200 or 404.
fn status_of(registry: &Registry, name: &str, tag: &str) -> u16 {
    let path = format!("/v2/{name}/manifests/{tag}");
    let mut request = fixture::request("GET", registry.host(), &path, b"");
    request.headers.push(("Accept".to_owned(), fixture::OCI_MANIFEST.to_owned()));
    super::http::ask(registry.host(), &request).status
}

const DOCKERFILE: &str = "FROM fixture/base\nRUN echo made > /made\nENV WHO=me\n";

#[test]
fn what_a_build_pushes_others_can_read() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    let names =
        ["team/app:1", "team/app:latest", "other:x"].map(|n| format!("{}/{n}", registry.host()));
    let tags = names.iter().flat_map(|name| ["-t", name]);
    kit.build().args(tags).args(["--push"]).ok();
    for name in &names {
        let manifest = manifest(name);
        for layer in manifest["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        }
    }
    let shown =
        host::tool(&["skopeo", "inspect", "--tls-verify=false", &format!("docker://{}", names[0])]);
    assert!(shown.contains("WHO=me"), "{shown}");
    let copy = kit.out("copy");
    host::tool(&[
        "skopeo",
        "copy",
        "-q",
        "--src-tls-verify=false",
        &format!("docker://{}", names[0]),
        &format!("oci:{}:1", copy.display()),
    ]);
    // And what was pushed is pulled again as it was.
    let other = Kit::new();
    other.dockerfile(&format!("FROM {}\nRUN cat /made > /again\n", names[2]));
    assert_eq!(other.image().text("again"), "made\n");
}

#[test]
fn every_compression_goes_there_and_back() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    for compression in ["gzip", "zstd", "estargz", "uncompressed"] {
        let name = format!("{}/packed:{compression}", registry.host());
        let output =
            format!("type=registry,name={name},compression={compression},force-compression=true");
        kit.build().arg(format!("--output={output}")).ok();
        let other = Kit::new();
        other.builder(["pull", "-q", &name]).ok();
        assert_eq!(other.builder(["run", &name, "cat", "/made"]).ok().stdout(), "made\n");
        let shown =
            host::tool(&["skopeo", "inspect", "--tls-verify=false", &format!("docker://{name}")]);
        assert!(shown.contains("WHO=me"), "{shown}");
    }
}

#[test]
fn push_sends_only_what_is_missing() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let name = format!("{}/app:1", proxy.host());
    kit.dockerfile(DOCKERFILE);
    kit.build().args(["-t", &name]).ok();
    let printed = kit.builder(["push", &name]).ok().stdout();
    let puts = |part: &str| {
        proxy.seen().iter().filter(|r| r.starts_with("PUT") && r.contains(part)).count()
    };
    assert_eq!((puts("/uploads/"), puts("/manifests/")), (3, 1), "{:?}", proxy.seen());
    let last = proxy.seen().pop().unwrap();
    assert_eq!(last, "PUT /v2/app/manifests/1", "the tag comes last");
    proxy.forget();
    assert_eq!(kit.builder(["push", &name]).ok().stdout(), printed);
    assert_eq!((puts("/uploads/"), puts("/manifests/")), (0, 1));
    proxy.forget();
    kit.builder(["tag", &name, &format!("{}/app:2", proxy.host())]).ok();
    kit.builder(["push", "-a", &format!("{}/app", proxy.host())]).ok();
    assert_eq!(puts("/manifests/"), 2);
    assert_eq!(status_of(&registry, "app", "2"), 200);
}

#[test]
fn blobs_of_another_repository_are_mounted() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let base = busybox();
    base.put(registry.host(), "base", "1");
    let name = format!("{}/app:1", proxy.host());
    kit.dockerfile(&format!("FROM {}/base:1\nRUN touch /new\n", proxy.host()));
    kit.build().args(["-t", &name, "--push"]).ok();
    let seen = proxy.seen();
    for number in 0..3 {
        let mount = format!("mount={}&from=base", base.layer(number).replace(':', "%3A"));
        assert!(seen.iter().any(|r| r.starts_with("POST") && r.contains(&mount)), "{seen:?}");
    }
    let sent = seen.iter().filter(|r| r.starts_with("PUT") && r.contains("/uploads/")).count();
    assert_eq!(sent, 2, "the new layer and the config: {seen:?}");
}

#[test]
fn an_image_that_was_pulled_is_pushed_byte_for_byte() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let (from, to) = (format!("{}/a:1", registry.host()), format!("{}/b:1", registry.host()));
    let digest = busybox().put(registry.host(), "a", "1");
    kit.builder(["pull", "-q", &from]).ok();
    kit.builder(["tag", &from, &to]).ok();
    let printed = kit.builder(["push", "-q", &to]).ok().stdout();
    assert_eq!(printed, format!("{to}@{digest}\n"));
}

#[test]
fn the_metadata_file_has_the_digest_of_what_was_pushed() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    let (metadata, name) = (kit.out("metadata.json"), format!("{}/app:1", registry.host()));
    let archive = format!("-otype=docker,dest={}", kit.out("image.tar").display());
    let run = kit.build().args([&archive, "-otype=registry", "-t", &name, "--metadata-file"]);
    run.arg(&metadata).ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    assert_eq!(status_of(&registry, "app", digest), 200);
    assert_eq!(metadata["containerimage.descriptor"]["digest"], digest);
    assert_eq!(metadata["image.name"], name);
}

#[test]
fn push_by_digest_sets_no_tag() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    let metadata = kit.out("metadata.json");
    let output = format!(
        "-otype=image,name={}/app,push=true,push-by-digest=true,name-canonical=true",
        registry.host()
    );
    kit.build().args([&output, "--metadata-file"]).arg(&metadata).ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    assert_eq!(status_of(&registry, "app", digest), 200);
    assert_eq!(status_of(&registry, "app", "latest"), 404);
    let listed = kit.builder(["images", "--digests", "--no-trunc"]).ok().stdout();
    assert!(listed.contains(digest), "{listed}");
    kit.build()
        .arg(output.replace("/app,", "/app:1,"))
        .fails(2)
        .says(&["push-by-digest=true sets none"]);
    kit.build().arg("--push").fails(2).says(&["give it one with -t"]);
}

#[test]
fn a_push_survives_what_passes() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    // Each request fails in its first try, and uploads in the middle of their bodies.
    let proxy = proxy::before_gated(
        registry.host(),
        |request, number| {
            (request.method == "PUT" && request.path.contains("/uploads/") && number == 1)
                .then_some(100)
        },
        |request, number| match number {
            1 if request.method != "PUT" => Do::Answer(Answer::new(503)),
            1 => Do::Break(Fault::Reset),
            _ => Do::Carry,
        },
    );
    kit.dockerfile(DOCKERFILE);
    let name = format!("{}/app:1", proxy.host());
    kit.build().args(["-t", &name, "--push"]).ok();
    assert_eq!(status_of(&registry, "app", "1"), 200);
    let other = Kit::new();
    let direct = format!("{}/app:1", registry.host());
    assert_eq!(other.builder(["run", &direct, "cat", "/made"]).ok().stdout(), "made\n");
}

#[test]
fn a_push_that_fails_leaves_no_tag() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    settings(&kit, "tries = 2\n");
    let proxy = proxy::before(registry.host(), |request, _| match request.method == "PUT" {
        true if request.path.contains("/uploads/") => Do::Answer(Answer::new(500)),
        _ => Do::Carry,
    });
    kit.dockerfile(DOCKERFILE);
    let name = format!("{}/app:1", proxy.host());
    kit.build().args(["-t", &name, "--push"]).fails(6).says(&["cannot push blob", "500"]);
    assert_eq!(status_of(&registry, "app", "1"), 404);
    let denied = proxy::before(registry.host(), |request, _| match request.method.as_str() {
        "HEAD" => Do::Carry,
        _ => {
            let body =
                r#"{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}"#;
            Do::Answer(Answer::new(403).body(body))
        }
    });
    kit.builder(["tag", &name, &format!("{}/app:1", denied.host())]).ok();
    let outcome = kit.builder(["push", &format!("{}/app:1", denied.host())]).fails(6);
    outcome.says(&["requested access is denied", "hint: log in: builder login 127"]);
}

#[test]
fn a_killed_push_leaves_no_half_image_and_the_next_sends_the_rest() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let made = image(&[
        (rootfs(), Packing::Gzip),
        (file("one", 300_000), Packing::Gzip),
        (file("two", 400_000), Packing::Gzip),
    ]);
    made.put(registry.host(), "from", "1");
    let from = format!("{}/from:1", registry.host());
    kit.builder(["pull", "-q", &from]).ok();
    // The last layer is never answered, until the push has been killed.
    let last = made.layer(2).replace(':', "%3A");
    let proxy = proxy::before(registry.host(), move |request, number| {
        let is_last = request.method == "PUT" && request.path.ends_with(&last);
        match is_last && number == 1 {
            true => Do::Answer(Answer::new(201).broken(Fault::Silence)),
            false => Do::Carry,
        }
    });
    let name = format!("{}/to:1", proxy.host());
    kit.builder(["tag", &from, &name]).ok();
    let mut child =
        kit.builder(["push", "--progress=quiet", &name]).into_command().spawn().unwrap();
    let is_there = |number: usize| {
        let path = format!("/v2/to/blobs/{}", made.layer(number));
        super::http::ask(registry.host(), &fixture::request("HEAD", registry.host(), &path, b""))
            .status
            == 200
    };
    let begun = || proxy.seen().iter().filter(|r| r.starts_with("PUT")).count();
    eventually("two layers are there", || {
        assert!(child.try_wait().unwrap().is_none(), "it waits for the last layer");
        is_there(0) && is_there(1) && begun() == 4
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status_of(&registry, "to", "1"), 404);
    proxy.forget();
    kit.builder(["push", "--progress=quiet", &name]).ok();
    let sent: Vec<_> = proxy
        .seen()
        .into_iter()
        .filter(|r| r.starts_with("PUT") && r.contains("/uploads/"))
        .collect();
    assert_eq!(sent.len(), 1, "only what was missing: {sent:?}");
    assert_eq!(status_of(&registry, "to", "1"), 200);
}

/// A registry that tells how far a broken upload came, which Debian's does not.
fn patient() -> Http {
    let blobs: &'static Mutex<BTreeMap<String, Vec<u8>>> = Box::leak(Box::default());
    let uploads: &'static Mutex<BTreeMap<String, Vec<u8>>> = Box::leak(Box::default());
    let counts = proxy::Counts::default();
    let id = |request: &Request| {
        request.path.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    let gate = move |request: &Request| {
        let is_first = request.method == "PUT"
            && request.path.contains("/uploads/")
            && counts.next(request) == 1;
        let length =
            request.header("content-length").map_or(0, |text| text.parse::<usize>().unwrap());
        (is_first && length > 1000).then_some(length / 2)
    };
    let cut = move |request: &Request| {
        uploads.lock().unwrap().entry(id(request)).or_default().extend(&request.body);
    };
    Http::serve_cutting(gate, cut, move |request| {
        let id = id(request);
        let place = |id: &str| format!("/v2/x/blobs/uploads/{id}?state=1");
        let mut uploads = uploads.lock().unwrap();
        let mut blobs = blobs.lock().unwrap();
        match request.method.as_str() {
            "POST" => {
                let id = uploads.len().to_string();
                let answer = Answer::new(202).header("Location", place(&id));
                uploads.insert(id, Vec::new());
                answer
            }
            "GET" if request.path.contains("/uploads/") => {
                let last = uploads[&id].len().saturating_sub(1);
                Answer::new(204).header("Range", format!("0-{last}")).header("Location", place(&id))
            }
            "PATCH" => {
                let upload = uploads.get_mut(&id).unwrap();
                let start = format!("{}-", upload.len());
                assert!(request.header("content-range").unwrap().starts_with(&start));
                upload.extend(&request.body);
                Answer::new(202).header("Location", place(&id))
            }
            "PUT" if request.path.contains("/uploads/") => {
                let mut bytes = uploads.remove(&id).unwrap();
                bytes.extend(&request.body);
                let digest = request.path.rsplit("digest=").next().unwrap().replace("%3A", ":");
                match digest == format!("sha256:{}", hex(&bytes)) {
                    true => {
                        blobs.insert(digest, bytes);
                        Answer::new(201)
                    }
                    false => Answer::new(400),
                }
            }
            "PUT" => Answer::new(201),
            _ if blobs.contains_key(&id) => Answer::new(200),
            _ => Answer::new(404),
        }
    })
}

#[test]
fn an_upload_goes_on_where_the_registry_says_it_stopped() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    image(&[(file("one", 300_000), Packing::Gzip)]).put(registry.host(), "a", "1");
    let patient = patient();
    let from = format!("docker://{}/a:1", registry.host());
    kit.builder(["copy", "-q", &from, &format!("docker://{}/x:1", patient.host())]).ok();
    let rest = patient.requests().into_iter().find(|request| request.method == "PATCH").unwrap();
    assert!(rest.header("content-range").is_some_and(|range| !range.starts_with("0-")), "{rest:?}");
}
