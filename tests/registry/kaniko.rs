//! Jobs written for kaniko's executor, against a real registry.

use super::kit::{Kit, base, host};
use super::server::{Kind, Registry};
use std::path::Path;

const DOCKERFILE: &str = "\
ARG BASE
FROM $BASE AS build
ARG VERSION=none
COPY source /source
RUN cp /source /made && echo $VERSION >> /made
FROM $BASE
COPY --from=build /made /made
CMD [\"cat\", \"/made\"]
";

/// Puts the base image into a registry that speaks TLS.
fn put(registry: &Registry) -> String {
    let name = format!("{}/base:1", registry.host());
    let (layout, to) = (format!("oci:{}", base::layout().display()), format!("docker://{name}"));
    host::tool(&["skopeo", "copy", "-q", "--dest-tls-verify=false", &layout, &to]);
    name
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// As GitLab's page on kaniko, and kaniko's own, write the job.
#[test]
fn a_job_of_kanikos_pushes_a_multi_stage_image_and_writes_its_digests() {
    let Some(registry) = Registry::start(Kind::Tls) else { return };
    let (kit, at) = (Kit::new(), registry.host());
    let base = put(&registry);
    kit.dockerfile(DOCKERFILE).file("source", "source\n");
    let out = |name: &str| kit.beside(name).display().to_string();
    let job = |more: &[&str]| {
        let context = format!("dir://{}", kit.path("").display());
        kit.builder(["kaniko", "--context", &context, "--dockerfile", "Dockerfile"])
            .args([&format!("--build-arg=BASE={base}"), "--build-arg", "VERSION=7", "--cache=true"])
            .args(["--cleanup", "--snapshot-mode=redo", "--verbosity=info"])
            .args(more)
    };
    let names = [format!("{at}/team/app:1"), format!("{at}/team/app:latest")];
    let authority = format!("--registry-certificate={at}={}", registry.authority().display());
    let outcome = job(&["-d", &names[0], "--destination", &names[1], &authority])
        .args([&format!("--digest-file={}", out("digest"))])
        .args([&format!("--image-name-with-digest-file={}", out("name"))])
        .args([&format!("--image-name-tag-with-digest-file={}", out("tag"))])
        .ok();
    outcome.says(&["--cleanup has no effect", "--snapshot-mode has no effect"]);
    let raw = |name: &str| {
        let name = format!("docker://{name}");
        host::tool(&["skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", &name])
    };
    let digest = read(&kit.beside("digest"));
    for name in &names {
        assert_eq!(raw(name).trim(), digest, "{name}");
    }
    assert_eq!(read(&kit.beside("name")), format!("{at}/team/app@{digest}\n").repeat(2));
    let tagged = [&names[0], &names[1]].map(|name| format!("{name}@{digest}\n"));
    assert_eq!(read(&kit.beside("tag")), tagged.concat());
    let ran = Kit::new();
    ran.builder(["pull", "-q", "--tls-verify=false", &names[0]]).ok();
    assert_eq!(ran.builder(["run", &names[0]]).ok().stdout(), "source\n7\n");

    // Without its certificate the registry is not trusted, but where the job says so.
    let name = format!("{at}/team/app:1");
    job(&["-d", &name]).fails(6);
    job(&["-d", &name, "--skip-tls-verify", "--reproducible"]).ok();
    assert_ne!(raw(&name).trim(), digest, "its times are others");
}

#[test]
fn a_job_of_kanikos_writes_archives_and_layouts_and_reads_archives() {
    let kit = Kit::new();
    let layout = format!("oci:{}", base::layout().display());
    kit.builder(["copy", "-q", &layout, "store:fixture/base:latest"]).ok();
    kit.dockerfile(DOCKERFILE)
        .file("source", "source\n")
        .file("sub/Dockerfile", "FROM fixture/base\n");
    let context = kit.beside("context.tar.gz").display().to_string();
    let directory = kit.path("").display().to_string();
    host::tool(&["tar", "czf", &context, "-C", &directory, "."]);
    let (archive, to) = (kit.beside("app.tar"), kit.beside("layout"));
    let common = ["kaniko", "--build-arg=BASE=fixture/base", "--no-push", "-d", "app:1"];
    kit.builder(common)
        .args([&format!("--context=tar://{context}"), &format!("--tarPath={}", archive.display())])
        .args([&format!("--oci-layout-path={}", to.display())])
        .ok();
    host::tool(&["skopeo", "inspect", &format!("docker-archive:{}", archive.display())]);
    host::tool(&["skopeo", "inspect", &format!("oci:{}", to.display())]);
    let bytes = std::fs::read(&context).unwrap();
    kit.builder(common).arg("--context=tar://stdin").input(bytes).ok();
    let sub = ["--context-sub-path=sub", "--context", &directory];
    kit.builder(common).args(sub).ok();
    kit.builder(["kaniko", "--context", &directory]).fails(2).says(&["--destination", "--no-push"]);
    kit.builder(["build", "--destination", "x", &directory]).fails(2).says(&["builder kaniko"]);
}
