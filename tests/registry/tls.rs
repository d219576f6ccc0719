//! Whom we trust, what we show, and that nothing leads out of encryption.

use super::fixture::{Packing, busybox, describe, file, image, put_blob, put_manifest};
use super::http::{Answer, Http, ask};
use super::kit::base::rootfs;
use super::kit::{Kit, base, host, write_file};
use super::proxy;
use super::pull::settings;
use super::secure::Secure;
use super::server::{Kind, Registry};
use std::path::Path;

/// Puts busybox into a registry that speaks TLS, with the given certificate.
fn put(registry: &Registry, name: &str) {
    let layout = format!("oci:{}", base::layout().display());
    let shown = tempfile::tempdir().unwrap();
    let (cert, key) = registry.keypair();
    std::fs::copy(cert, shown.path().join("client.cert")).unwrap();
    std::fs::copy(key, shown.path().join("client.key")).unwrap();
    std::fs::copy(registry.authority(), shown.path().join("ca.crt")).unwrap();
    let directory = shown.path().to_str().unwrap();
    host::tool(&["skopeo", "copy", "-q", "--dest-cert-dir", directory, &layout, name]);
}

/// Copies a file to a place below the user's configuration.
fn configure(kit: &Kit, from: &Path, to: &str) {
    let bytes = std::fs::read(from).unwrap();
    write_file(&kit.beside("home/.config").join(to), &bytes);
}

#[test]
fn a_registry_that_wants_a_certificate_is_shown_one() {
    let Some(registry) = Registry::start(Kind::MutualTls) else { return };
    let name = format!("{}/x:1", registry.host());
    put(&registry, &format!("docker://{name}"));
    let (ca, (cert, key)) = (registry.authority(), registry.keypair());
    let kit = Kit::new();
    let pull = |kit: &Kit| kit.builder(["pull", "-q", &name]);
    let table = |rest: &str| {
        let at = registry.host();
        format!("tries = 1\n[registry.\"{at}\"]\nca = [\"{}\"]\n{rest}", ca.display())
    };
    settings(&kit, &table(""));
    let refused = pull(&kit).fails(6);
    assert_eq!(refused.text().matches("error:").count(), 1, "{}", refused.text());
    refused.says(&["it wants a certificate of ours", "hint: name one in registries.toml"]);
    let pair =
        format!("keypair = [{{ cert = \"{}\", key = \"{}\" }}]\n", cert.display(), key.display());
    settings(&kit, &table(&pair));
    pull(&kit).ok();
    let pushed = format!("{}/pushed:1", registry.host());
    kit.builder(["tag", &name, &pushed]).ok();
    kit.builder(["push", "-q", &pushed]).ok();
}

#[test]
fn certificates_are_found_where_docker_and_podman_keep_them() {
    let Some(registry) = Registry::start(Kind::MutualTls) else { return };
    let name = format!("{}/x:1", registry.host());
    put(&registry, &format!("docker://{name}"));
    let (cert, key) = registry.keypair();
    for program in ["docker", "containers"] {
        let kit = Kit::new();
        settings(&kit, "tries = 1\n");
        let pull = || kit.builder(["pull", "-q", &name]);
        let directory = format!("{program}/certs.d/{}", registry.host());
        configure(&kit, &registry.authority(), &format!("{directory}/ca.crt"));
        configure(&kit, &cert, &format!("{directory}/client.cert"));
        pull().fails(5).says(&["client.key", "No such file"]);
        configure(&kit, &key, &format!("{directory}/client.key"));
        pull().ok();
    }
}

#[test]
fn a_directory_of_authorities_replaces_the_built_in_list() {
    let Some(registry) = Registry::start(Kind::Tls) else { return };
    let name = format!("{}/x:1", registry.host());
    put(&registry, &format!("docker://{name}"));
    let kit = Kit::new();
    settings(&kit, "tries = 1\n");
    let directories = [kit.beside("empty"), kit.beside("certs")];
    for directory in &directories {
        write_file(&directory.join("README"), b"no certificate");
    }
    let pull = |variable: String| kit.builder(["pull", "-q", &name]).env("SSL_CERT_DIR", variable);
    pull(directories[0].display().to_string()).fails(6).says(&["certificate"]);
    let authority = std::fs::read(registry.authority()).unwrap();
    write_file(&directories[1].join("tests.pem"), &authority);
    pull(format!("{}:{}", directories[0].display(), directories[1].display())).ok();
}

#[test]
fn no_redirect_leaves_encryption() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    busybox().put(registry.host(), "x", "1");
    let plain = Http::serve(|_| Answer::new(200));
    let (behind, away) = (registry.host().to_owned(), plain.host());
    let secure =
        Secure::serve("IP:127.0.0.1", move |request| match request.path.contains("/blobs/") {
            true => Answer::new(307).header("Location", format!("http://{away}{}", request.path)),
            false => ask(&behind, request),
        });
    let kit = Kit::new();
    let (at, ca) = (secure.host(), secure.authority());
    settings(&kit, &format!("[registry.\"{at}\"]\nca = [\"{}\"]\n", ca.display()));
    let outcome = kit.builder(["pull", "-q", &format!("{at}/x:1")]).fails(6);
    outcome.says(&[&format!("redirects to http://{}", plain.host()), "it leaves encryption"]);
    assert_eq!(plain.seen(), Vec::<String>::new());
    assert!(secure.requests().iter().any(|request| request.path.contains("/blobs/")));
}

#[test]
fn a_foreign_layer_is_fetched_from_the_address_it_brings() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let mut made = image(&[(rootfs(), Packing::Gzip), (file("foreign", 1000), Packing::Gzip)]);
    let (kind, bytes) = made.layers.pop().unwrap();
    let served = bytes.clone();
    let secure = Secure::serve("DNS:layers.invalid", move |request| match request.path.as_str() {
        "/a/layer?x=1" => Answer::new(200).body(served.clone()),
        _ => Answer::new(404),
    });
    for blob in [&made.layers[0].1, &made.config] {
        put_blob(registry.host(), "foreign", blob);
    }
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    manifest["layers"][1] = describe(&kind, &bytes);
    manifest["layers"][1]["mediaType"] =
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    manifest["layers"][1]["urls"] =
        serde_json::json!(["https://127.0.0.1:1/layer", "https://layers.invalid/a/layer?x=1"]);
    let manifest = manifest.to_string().into_bytes();
    put_manifest(registry.host(), "foreign", "1", made.media_type, &manifest);
    let (tunnel, asked) = proxy::tunnel(secure.host());
    let kit = Kit::new();
    let ca = secure.authority();
    settings(&kit, &format!("[registry.\"layers.invalid\"]\nca = [\"{}\"]\n", ca.display()));
    let name = format!("{}/foreign:1", registry.host());
    kit.builder(["pull", "-q", &name]).env("https_proxy", format!("http://{tunnel}")).ok();
    assert_eq!(kit.builder(["run", &name, "sh", "-c", "wc -c < /foreign"]).ok().stdout(), "1000\n");
    assert_eq!(asked.lock().unwrap().concat(), "CONNECT layers.invalid:443 HTTP/1.1");
    let told = secure.requests().iter().any(|request| request.header("authorization").is_some());
    assert!(!told, "who keeps the layer gets no credentials");
}

#[test]
fn a_build_without_verification_pulls_and_pushes_without_it() {
    let Some(registry) = Registry::start(Kind::Tls) else { return };
    let kit = Kit::new();
    let name = format!("{}/app:1", registry.host());
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    settings(&kit, "tries = 1\n");
    kit.build().args(["-t", &name, "--push"]).fails(6).says(&["certificate"]);
    kit.build().args(["-t", &name, "--push", "--tls-verify=false"]).ok();
    kit.builder(["rmi", &name]).ok();
    kit.dockerfile(&format!("FROM {name}\nRUN true\n"));
    kit.build().arg("--pull").fails(6).says(&["certificate"]);
    kit.build().args(["--pull", "--tls-verify=false"]).ok();
}
