//! What a registry has becomes an image here.

use super::fixture::{self, OCI_INDEX, Packing, busybox, file, image, image_for};
use super::kit::base::rootfs;
use super::kit::{Archive, Counts, Kit};
use super::proxy::{self, Do};
use super::server::{Kind, PASSWORD, Registry, USER};

fn is_there(kind: Kind) -> Option<(Registry, Kit)> {
    Some((Registry::start(kind)?, Kit::new()))
}

#[test]
fn from_pulls_once_and_then_asks_once() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let made = busybox();
    let digest = made.put(registry.host(), "library/x", "1");
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let name = format!("{}/library/x:1", proxy.host());
    kit.dockerfile(&format!("FROM {name}\nRUN cmp /one /two || touch /made\n"));
    let image = kit.image();
    assert_eq!(image.entry("one").content.len(), 100_000);
    assert!(image.find("made").is_some());
    let fetched = |digest: &str| {
        proxy.seen().iter().filter(|r| r.starts_with("GET") && r.contains(digest)).count()
    };
    for number in 0..3 {
        assert_eq!(fetched(&made.layer(number)), 1, "{:?}", proxy.seen());
    }
    proxy.forget();
    assert_eq!(kit.build().ok().counts(), Counts { ran: 0, cached: 1 });
    assert_eq!(proxy.seen(), ["HEAD /v2/library/x/manifests/1"], "one request");
    proxy.forget();
    kit.dockerfile(&format!("FROM {name}@{digest}\nRUN cmp /one /two || touch /made\n"));
    assert_eq!(kit.build().ok().counts(), Counts { ran: 0, cached: 1 });
    assert!(proxy.seen().is_empty(), "a digest needs none: {:?}", proxy.seen());
}

#[test]
fn a_digest_is_pulled_by_itself() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let digest = busybox().put(registry.host(), "a/b/c", "t");
    kit.dockerfile(&format!("FROM {}/a/b/c@{digest}\nRUN true\n", registry.host()));
    kit.build().ok();
    kit.builder(["pull", "-q", &format!("{}/a/b/c:t", registry.host())]).ok();
    let raw = kit.builder(["inspect", "--raw", &format!("{}/a/b/c:t", registry.host())]).ok();
    assert_eq!(fixture::digest(raw.bytes()), digest, "the manifest is kept byte for byte");
    let pinned = format!("{}/a/b/c@{digest}", registry.host());
    kit.builder(["pull", "-q", &pinned]).ok();
    let removed = kit.builder(["rmi", &pinned]).ok().stdout();
    assert_eq!(removed, format!("Untagged: {pinned}\n"), "the tag stays");
}

#[test]
fn copy_and_mounts_pull_their_images() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    image(&[(file("data", 1000), Packing::Plain)]).put(registry.host(), "data", "v");
    let data = format!("{}/data:v", registry.host());
    kit.dockerfile(&format!(
        "FROM fixture/base\nCOPY --from={data} /data /a\nRUN --mount=from={data},target=/m cp /m/data /b\nCOPY --from=named /data /c\n"
    ));
    let context = format!("--build-context=named=docker-image://{data}");
    let image = kit.build().arg(context).image();
    let sizes = ["a", "b", "c"].map(|name| image.entry(name).content.len());
    assert_eq!(sizes, [1000; 3]);
}

#[test]
fn a_login_is_found_where_docker_and_podman_keep_it() {
    let Some((registry, kit)) = is_there(Kind::Login) else { return };
    let name = format!("{}/private:1", registry.host());
    kit.dockerfile(&format!("FROM {name}\nRUN true\n"));
    kit.build().fails(6).says(&["wants credentials", "hint: log in: builder login 127.0.0.1"]);
    let auth = |password: &str| {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
        format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}", registry.host())
    };
    let file =
        |name: &str, text: String| super::kit::write_file(&kit.beside(name), text.as_bytes());
    file("home/.docker/config.json", auth("wrong"));
    let outcome = kit.build().fails(6);
    outcome.says(&["refuses these credentials"]);
    assert!(!outcome.text().contains("wrong"), "{}", outcome.text());
    // Put there by somebody who may; found by REGISTRY_AUTH_FILE, DOCKER_CONFIG and in podman's place.
    file("auth.json", auth(PASSWORD));
    put_with_login(&registry);
    kit.build().env("REGISTRY_AUTH_FILE", kit.beside("auth.json")).ok();
    file("docker/config.json", auth(PASSWORD));
    kit.builder(["pull", &name]).env("DOCKER_CONFIG", kit.beside("docker")).ok();
    std::fs::remove_file(kit.beside("home/.docker/config.json")).unwrap();
    file("home/.config/containers/auth.json", auth(PASSWORD));
    kit.builder(["pull", &name]).ok();
}

/// Puts an image into a registry that wants a login, with skopeo.
fn put_with_login(registry: &Registry) {
    let layout = format!("oci:{}", super::kit::base::layout().display());
    let target = format!("docker://{}/private:1", registry.host());
    let login = format!("{USER}:{PASSWORD}");
    super::kit::host::tool(&[
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        "--dest-creds",
        &login,
        &layout,
        &target,
    ]);
}

#[test]
fn credential_helpers_are_asked() {
    let Some((registry, kit)) = is_there(Kind::Login) else { return };
    put_with_login(&registry);
    let bin = kit.beside("bin");
    let helper = bin.join("docker-credential-tests");
    let script = format!(
        "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get {}\" ] || {{ echo credentials not found in native keychain; exit 1; }}\necho '{{\"Username\": \"{USER}\", \"Secret\": \"{PASSWORD}\"}}'\n",
        registry.host()
    );
    super::kit::write_file(&helper, script.as_bytes());
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!(
        "{{\"credHelpers\": {{\"{}\": \"tests\"}}, \"credsStore\": \"gone\"}}",
        registry.host()
    );
    super::kit::write_file(&kit.beside("home/.docker/config.json"), config.as_bytes());
    let path = format!("{}:/usr/bin:/bin", bin.display());
    kit.builder(["pull", &format!("{}/private:1", registry.host())]).env("PATH", path).ok();
}

#[test]
fn tls_is_verified_against_the_authority_of_the_settings() {
    let Some((registry, kit)) = is_there(Kind::Tls) else { return };
    let name = format!("{}/x:1", registry.host());
    let layout = format!("oci:{}", super::kit::base::layout().display());
    super::kit::host::tool(&[
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        &layout,
        &format!("docker://{name}"),
    ]);
    kit.dockerfile(&format!("FROM {name}\nRUN true\n"));
    kit.build().fails(6).says(&["certificate", "hint: name its certificate in registries.toml"]);
    settings(
        &kit,
        &format!(
            "[registry.\"{}\"]\nca = [\"{}\"]\n",
            registry.host(),
            registry.authority().display()
        ),
    );
    kit.build().ok();
    let other = Kit::new();
    other.dockerfile(&format!("FROM {name}\nRUN true\n"));
    other.build().env("SSL_CERT_FILE", registry.authority()).ok();
    settings(&other, &format!("[registry.\"{}\"]\ninsecure = true\n", registry.host()));
    other.build().arg("--pull").ok();
}

/// Writes the user's `registries.toml`.
pub(super) fn settings(kit: &Kit, text: &str) {
    super::kit::write_file(&kit.beside("home/.config/builder/registries.toml"), text.as_bytes());
}

#[test]
fn mirrors_are_asked_first_and_passed_over_when_they_fail() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let made = busybox();
    let digest = made.put(registry.host(), "mirrored/app", "1");
    let mirror = proxy::before(registry.host(), move |_, _| Do::Carry);
    // No registry of that name exists: only the mirror can have it.
    settings(
        &kit,
        &format!(
            "[registry.\"registry.invalid\"]\nmirrors = [\"http://{}/mirrored\"]\n",
            mirror.host()
        ),
    );
    kit.dockerfile("FROM registry.invalid/app:1\nRUN true\n");
    kit.build().ok();
    assert!(
        mirror
            .seen()
            .iter()
            .any(|r| r.contains("/v2/mirrored/app/manifests/1?ns=registry.invalid")),
        "{:?}",
        mirror.seen()
    );
    let other = Kit::new();
    let broken = proxy::before(registry.host(), |_, _| Do::Answer(super::http::Answer::new(404)));
    settings(
        &other,
        &format!(
            "[registry.\"{0}/short\"]\nmirrors = [\"{1}/m\"]\nlocation = \"{0}/mirrored\"\n",
            registry.host(),
            broken.host()
        ),
    );
    other.dockerfile(&format!("FROM {}/short/app@{digest}\nRUN true\n", registry.host()));
    other.build().ok();
    assert!(!broken.seen().is_empty());
}

#[test]
fn what_is_elsewhere_goes_through_the_proxy_of_the_environment() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    busybox().put(registry.host(), "app", "1");
    let (proxy, asked) = proxy::tunnel(registry.host());
    settings(&kit, "tries = 1\n[registry.\"registry.invalid\"]\nhttp = true\n");
    let pull = || {
        let run = kit.builder(["pull", "-q", "registry.invalid/app:1"]);
        run.env("http_proxy", format!("http://{proxy}"))
    };
    pull().ok();
    let asked = || asked.lock().unwrap().clone();
    assert!(
        asked().iter().all(|line| line == "CONNECT registry.invalid:80 HTTP/1.1"),
        "{:?}",
        asked()
    );
    let before = asked().len();
    pull().env("no_proxy", ".invalid").fails(6);
    let direct = format!("{}/app:1", registry.host());
    kit.builder(["pull", "-q", &direct]).env("http_proxy", format!("http://{proxy}")).ok();
    assert_eq!(asked().len(), before, "this machine is reached directly");
}

#[test]
fn a_layer_that_may_not_be_distributed_is_left_where_it_is() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let mut made = image(&[(rootfs(), Packing::Gzip), (file("foreign", 1000), Packing::Gzip)]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    let layer = &mut manifest["layers"][1];
    layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    layer["urls"] = serde_json::json!(["https://127.0.0.1:1/layer"]);
    made.manifest = manifest.to_string().into_bytes();
    let name = format!("{}/foreign:1", registry.host());
    made.put(registry.host(), "foreign", "1");
    // Where the registry has it, it is a layer as any other.
    kit.builder(["pull", "-q", &name]).ok();
    assert_eq!(kit.builder(["run", &name, "sh", "-c", "wc -c < /foreign"]).ok().stdout(), "1000\n");
    let to = format!("{}/elsewhere:1", registry.host());
    kit.builder(["tag", &name, &to]).ok();
    kit.builder(["push", "-q", &to]).ok();
    let other = Kit::new();
    let outcome = other.builder(["pull", "-q", &to]).fails(6);
    outcome.says(&[&format!("has no blob {}", made.layer(1))]);
}

#[test]
fn an_index_gives_the_platform_that_is_wanted() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let host = registry.host();
    let amd = image_for("amd64", &[(rootfs(), Packing::Gzip), (file("amd", 10), Packing::Gzip)]);
    let arm = image_for("arm64", &[(file("arm", 20), Packing::Gzip)]);
    for made in [&amd, &arm] {
        made.put(host, "multi", &fixture::digest(&made.manifest));
    }
    let index = fixture::index(&[(&arm, "arm64"), (&amd, "amd64")]);
    fixture::put_manifest(host, "multi", "1", OCI_INDEX, &index);
    kit.dockerfile(&format!("FROM {host}/multi:1\n"));
    let path = kit.out("arm.tar");
    kit.build()
        .args(["--platform=linux/arm64", &format!("-otype=oci,dest={}", path.display())])
        .ok();
    assert!(Archive::open(&path).find("arm").is_some());
    assert!(kit.build().arg("--platform=linux/amd64").image().find("amd").is_some());
    kit.build()
        .arg("--platform=linux/s390x")
        .fails(6)
        .says(&["no image for linux/s390x", "linux/arm64"]);
    kit.builder(["pull", "-q", &format!("{host}/multi:1")]).ok();
    let shown = kit.builder(["images", "--format=json"]).ok().stdout();
    assert!(shown.contains(&fixture::digest(&index)), "the index is what the name means: {shown}");
}

#[test]
fn an_image_of_a_registry_is_inspected_without_a_pull() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let amd = image_for("amd64", &[(rootfs(), Packing::Gzip), (file("amd", 10), Packing::Gzip)]);
    let arm = image_for("arm64", &[(file("arm", 20), Packing::Gzip)]);
    for made in [&amd, &arm] {
        made.put(registry.host(), "multi", &fixture::digest(&made.manifest));
    }
    let index = fixture::index(&[(&arm, "arm64"), (&amd, "amd64")]);
    fixture::put_manifest(registry.host(), "multi", "1", OCI_INDEX, &index);
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let name = format!("docker://{}/multi:1", proxy.host());
    let show = |words: &[&str]| kit.builder(["inspect", &name]).args(words).ok();
    let format =
        "{{.Architecture}} {{range .Platforms}}{{.Platform}} {{end}}{{len .RootFS.Layers}}";
    let arm_shown = show(&["--platform=linux/arm64", "--format", format]).stdout();
    assert_eq!(arm_shown, "arm64 linux/arm64 linux/amd64 1\n");
    let digests = show(&["-f", "{{index .RepoDigests 0}}", "--platform=linux/amd64"]).stdout();
    let digest = fixture::digest(&index);
    assert_eq!(digests, format!("{}/multi@{digest}\n", proxy.host()));
    assert_eq!(show(&["--raw"]).bytes(), index, "without a platform the list is shown");
    let of_arm = show(&["--raw", "--platform=linux/arm64"]);
    assert_eq!(fixture::digest(of_arm.bytes()), fixture::digest(&arm.manifest));
    let config = show(&["--raw=config", "--platform=linux/arm64"]).stdout();
    assert!(config.contains("\"architecture\":\"arm64\""), "{config}");
    for number in 0..2 {
        let layer = amd.layer(number);
        assert!(!proxy.seen().iter().any(|request| request.contains(&layer)), "no layer is read");
    }
    assert!(!kit.store().exists(), "the store is not even made");
    let outcome = kit.builder(["inspect", "--platform=linux/s390x", &name]).fails(6);
    outcome.says(&["no image for linux/s390x", "linux/arm64"]);
    kit.builder(["inspect", &format!("docker://{}/gone:1", proxy.host())]).fails(6);
}

#[test]
fn a_registry_is_asked_where_the_store_has_another_platform_only() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let host = registry.host();
    let amd = image_for("amd64", &[(rootfs(), Packing::Gzip), (file("amd", 10), Packing::Gzip)]);
    amd.put(host, "multi", &fixture::digest(&amd.manifest));
    let index = fixture::index(&[(&amd, "amd64")]);
    fixture::put_manifest(host, "multi", "1", OCI_INDEX, &index);
    let arm = image_for("arm64", &[(file("arm", 20), Packing::Gzip)]);
    arm.put(host, "single", "1");
    let [multi, single] = ["multi", "single"].map(|name| format!("{host}/{name}:1"));
    let import = kit.builder(["import", "--platform=linux/arm64", "-", &multi]);
    import.input(rootfs()).ok();
    kit.dockerfile(&format!("FROM {multi}\n"));
    let image = kit.build().arg("--platform=linux/amd64").image();
    assert!(image.find("amd").is_some() && image.document["architecture"] == "amd64");
    // It has none either: the one that is here is taken, and said to be another.
    let outcome = kit.build().args(["--platform=linux/s390x", "-q"]).ok();
    outcome.says(&["is for platform linux/arm64, not linux/s390x"]);
    let pulled = kit.builder(["pull", "-q", "--platform=linux/amd64", &single]).ok();
    pulled.says(&["is for platform linux/arm64, not linux/amd64"]);
    let quiet = kit.builder(["pull", "-q", "--platform=linux/arm64", &single]).ok();
    assert_eq!(quiet.text(), "");
}

#[test]
fn layers_of_every_kind_and_many_of_them() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let mut layers = vec![(rootfs(), Packing::Zstd)];
    let packings = [Packing::Plain, Packing::Gzip, Packing::Zstd];
    layers.extend((0..126).map(|n| (file(&format!("f{n}"), 10 + n), packings[n % 3])));
    image(&layers).put(registry.host(), "many", "1");
    kit.dockerfile(&format!("FROM {}/many:1\nRUN ls / | wc -l > /count\n", registry.host()));
    let image = kit.image();
    assert_eq!(image.entry("f125").content.len(), 135);
    assert_eq!(image.layers.len(), 128);
}

#[test]
fn a_name_in_the_store_is_not_asked_for_unless_that_is_wanted() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    busybox().put(registry.host(), "x", "1");
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let name = format!("{}/x:1", proxy.host());
    let printed = kit.builder(["pull", &name]).ok().stdout();
    assert!(printed.starts_with(&format!("{name}@sha256:")), "{printed}");
    proxy.forget();
    kit.dockerfile(&format!("FROM {name}\nRUN true\n"));
    kit.build().ok();
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    kit.build().arg("--pull").ok();
    assert_eq!(proxy.seen().len(), 1, "{:?}", proxy.seen());
    assert_eq!(kit.builder(["run", &name, "echo", "hi"]).ok().stdout(), "hi\n");
}

#[test]
fn explain_asks_nobody() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    busybox().put(registry.host(), "x", "1");
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    kit.dockerfile(&format!("FROM {}/x:1\nRUN true\n", proxy.host()));
    kit.explain().fails(6).says(&["hint: pull it: builder pull"]);
    assert!(proxy.seen().is_empty());
    kit.build().ok();
    proxy.forget();
    let explained = kit.explain().ok().stdout();
    assert!(explained.contains("RUN true"), "{explained}");
    assert!(proxy.seen().is_empty());
}

#[test]
fn without_the_registry_a_build_goes_on_with_what_it_said_last() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    let name = format!("{}/x:1", registry.host());
    busybox().put(registry.host(), "x", "1");
    kit.dockerfile(&format!("FROM {name}\nRUN true\n"));
    kit.build().ok();
    drop(registry);
    settings(&kit, "tries = 1\n");
    let outcome = kit.build().ok();
    assert_eq!(outcome.counts(), Counts { ran: 0, cached: 1 });
    assert!(outcome.log().contains("using what"), "{}", outcome.log());
    kit.build().arg("--pull").fails(6);
    kit.dockerfile(&format!("FROM {name}0\nRUN true\n"));
    kit.build().fails(6).says(&["cannot look up"]);
}

#[test]
fn what_is_not_there_is_told_with_its_place() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    kit.dockerfile(&format!("FROM {}/nothing:1\n", registry.host()));
    kit.build().fails(6).says(&["has no 127.0.0.1", "nothing:1", "Dockerfile:1"]);
}

#[test]
fn a_tag_that_is_not_there_names_those_that_are() {
    let Some((registry, kit)) = is_there(Kind::Plain) else { return };
    for tag in ["1.36", "1.35", "latest", "other"] {
        busybox().put(registry.host(), "tool", tag);
    }
    kit.dockerfile(&format!("FROM {}/tool:1.37\nRUN true\n", registry.host()));
    let hint = "hint: tags that are there: 1.35, 1.36, latest, other";
    kit.build().fails(6).says(&["tool:1.37", hint]);
    kit.builder(["pull", &format!("{}/tool:1.37", registry.host())]).fails(6).says(&[hint]);
    let unknown = format!("docker://{}/gone:1", registry.host());
    kit.builder(["inspect", &unknown]).fails(6).says(&["the registry lists no tags for it"]);
}
