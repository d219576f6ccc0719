//! The command lines that tools write for docker, word for word as they write them.
//!
//! In a line, `.` is the context and `@NAME` a path beside it. An image `fixture/base` is there
//! for FROM. Sources: the tools' own code, named at each test.

use crate::kit::{Kit, Outcome, Run, base};

/// Two stages, an argument, a secret where one is given; the image prints `made`.
const DOCKERFILE: &str = "\
ARG _DEV_CONTAINERS_BASE_IMAGE=fixture/base
FROM $_DEV_CONTAINERS_BASE_IMAGE AS build
ARG VERSION=none
RUN --mount=type=secret,id=key echo $VERSION > /version
FROM build AS app
RUN echo made > /made
CMD [\"cat\", \"/made\"]
";

fn kit() -> Kit {
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    std::fs::write(kit.beside("key"), "a secret of some length").unwrap();
    std::fs::create_dir(kit.beside("empty")).unwrap();
    kit
}

/// Returns a call of the program with the words of `text`.
fn call(kit: &Kit, text: &str) -> Run {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let is_build = word == "build" && !words.iter().any(|word| word == "build");
        words.push(match word.rsplit_once('@') {
            _ if word == "." => kit.path("").display().to_string(),
            Some((before, name)) => format!("{before}{}", kit.beside(name).display()),
            None => word.to_owned(),
        });
        if is_build {
            let layout = base::layout();
            words.push(format!("--build-context=fixture/base=oci-layout://{}", layout.display()));
        }
    }
    kit.builder(words)
}

/// Runs lines one after the other, all of which must succeed.
#[track_caller]
fn run_all(kit: &Kit, lines: &[&str]) -> Vec<Outcome> {
    lines.iter().map(|line| call(kit, line).ok()).collect()
}

/// Runs the image of this name, which must print `made`.
#[track_caller]
fn is_made(kit: &Kit, name: &str) {
    assert_eq!(call(kit, &format!("run --rm {name}")).ok().stdout(), "made\n", "{name}");
}

/// docker/build-push-action and docker/setup-buildx-action: `src/context.ts` and
/// docker/actions-toolkit.
#[test]
fn build_push_action_of_github() {
    let kit = kit();
    run_all(
        &kit,
        &[
            "buildx version",
            "buildx create --name builder-64e --driver docker-container \
             --buildkitd-flags --allow-insecure-entitlement=network.host --use",
            "buildx inspect --bootstrap --builder builder-64e",
            "buildx build --builder builder-64e --add-host host:10.0.0.1 --allow network.host \
             --annotation org.opencontainers.image.title=app \
             --attest type=provenance,mode=max,builder-id=https://github.com/o/r/actions/runs/1 \
             --build-arg VERSION=1 --cache-from type=gha --cache-to type=gha,mode=max \
             --file ./Dockerfile --iidfile @iid --label org.opencontainers.image.version=1 \
             --metadata-file @metadata.json --network host --no-cache-filter build \
             --platform linux/amd64 --secret id=key,src=@key --shm-size 64m --tag me/app:1 \
             --tag me/app:latest --target app --ulimit nofile=1024:1024 --load .",
            "buildx rm builder-64e",
        ],
    );
    is_made(&kit, "me/app:1");
    // What docker/actions-toolkit reads.
    let version = call(&kit, "buildx version").ok().stdout();
    assert!(version.starts_with("buildx v0."), "{version}");
    let instance = call(&kit, "buildx inspect builder-64e").ok().stdout();
    assert!(instance.starts_with("Name:          builder-64e\nDriver:"), "{instance}");
    assert_eq!(call(&kit, "buildx ls --format {{.Name}}").ok().stdout(), "default\n");
    call(&kit, "info").ok();
    let id = std::fs::read_to_string(kit.beside("iid")).unwrap();
    is_made(&kit, id.trim());
    let metadata = std::fs::read(kit.beside("metadata.json")).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id.trim());
    assert!(metadata["buildx.build.ref"].is_string(), "{metadata}");
}

/// devcontainers/cli: `src/spec-node/singleContainer.ts` and `containerFeatures.ts`.
#[test]
fn devcontainers() {
    let kit = kit();
    run_all(
        &kit,
        &[
            "buildx version",
            "buildx build --load --build-arg BUILDKIT_INLINE_CACHE=1 \
             -f Dockerfile -t vsc-app-123 --target app --build-arg VERSION=1 .",
            "buildx build --load \
             --build-context dev_containers_feature_content_source=@empty \
             --build-arg _DEV_CONTAINERS_BASE_IMAGE=vsc-app-123 \
             --build-arg _DEV_CONTAINERS_IMAGE_USER=root \
             --build-arg _DEV_CONTAINERS_FEATURE_CONTENT_SOURCE=dev_container_feature_content_temp \
             --target app -f @context/Dockerfile -t vsc-app-123-features @empty",
            "build -f Dockerfile -t vsc-app-123-uid --platform linux/amd64 \
             --build-arg BASE_IMAGE=vsc-app-123-features --build-arg NEW_UID=1000 .",
        ],
    );
    is_made(&kit, "vsc-app-123-features");
}

/// docker-compose 1.29 (`compose/service.py`, with its CLI builder) and podman-compose
/// (`podman_compose.py`).
#[test]
fn compose() {
    let kit = kit();
    run_all(
        &kit,
        &[
            "build --add-host db:10.0.0.2 --build-arg VERSION=1 --file Dockerfile --iidfile @iid \
             --label com.docker.compose.service=web --memory 0 --network host --pull --progress plain \
             --tag app_web --target app .",
            "build -f Dockerfile -t app_job --label io.podman.compose.config-hash=1234 \
             --label io.podman.compose.project=app --ulimit nofile=1024 --build-arg VERSION=1 \
             --pull-always .",
            "run --name=app_web_1 --rm --label io.podman.compose.project=app --network host \
             --hostname web --add-host db:10.0.0.2 app_web",
        ],
    );
    is_made(&kit, "app_web");
    is_made(&kit, "app_job");
}

/// GoogleContainerTools/skaffold: `pkg/skaffold/build/docker/docker.go`.
#[test]
fn skaffold() {
    let kit = kit();
    run_all(
        &kit,
        &[
            "build . --file Dockerfile -t gcr.io/k8s/app:v1 --build-arg VERSION=1 \
             --cache-from gcr.io/k8s/app:latest --target app --network bridge --no-cache \
             --add-host db:10.0.0.2 --pull --secret id=key,src=@key",
            "build . --file Dockerfile -t gcr.io/k8s/app:v2 --cache-to type=inline \
             --platform linux/amd64 --load --squash",
            "inspect gcr.io/k8s/app:v2",
        ],
    );
    is_made(&kit, "gcr.io/k8s/app:v1");
}

/// Tilt's `custom_build` and `docker_build` in its documentation.
#[test]
fn tilt() {
    let kit = kit();
    let lines =
        ["build -t localhost:5005/app:tilt-1 -f Dockerfile .", "images -q localhost:5005/app"];
    let outcomes = run_all(&kit, &lines);
    assert_eq!(outcomes[1].stdout().lines().count(), 1);
    is_made(&kit, "localhost:5005/app:tilt-1");
}

/// Jenkins' docker-workflow plugin: `DockerDSL` and `Docker.groovy`.
#[test]
fn jenkins() {
    let kit = kit();
    run_all(
        &kit,
        &[
            "build -t app:7 .",
            "build -t app:8 -f Dockerfile --build-arg VERSION=8 --pull=false .",
            "tag app:8 registry.example/app:8",
            "tag app:8 registry.example/app:latest",
            "rmi app:7",
            "image prune -f",
            "system prune -af --volumes",
        ],
    );
    is_made(&kit, "registry.example/app:latest");
}

/// AWS CDK (`cdk-assets`, `lib/private/docker.ts`; `aws-cdk-lib`, `core/lib/bundling.ts`) and
/// SAM (`samcli/lib/build/app_builder.py`).
#[test]
fn aws_cdk_and_sam() {
    let kit = kit();
    let outcomes = run_all(
        &kit,
        &[
            "build --tag cdkasset-0123 --build-arg VERSION=1 --secret id=key,src=@key --target app \
             --file Dockerfile --network host --platform linux/amd64 --output type=docker \
             --cache-from type=registry,ref=a/b --no-cache .",
            "inspect cdkasset-0123",
            "tag cdkasset-0123 1234.dkr.ecr.eu-west-1.amazonaws.com/assets:0123",
            "build -t cdk-5678 -f @context/Dockerfile --platform linux/amd64 .",
            "run --rm -u 0:0 -v @empty:/asset-input:delegated -v @empty:/asset-output:delegated \
             --env A=1 -w /asset-input --entrypoint sh cdk-5678 -c pwd",
            "save -o @asset.tar cdk-5678",
            "buildx build -f Dockerfile -t function:latest --platform linux/amd64 \
             --build-arg VERSION=1 --target app --load --provenance=false --sbom=false .",
        ],
    );
    assert_eq!(outcomes[4].stdout(), "/asset-input\n");
    is_made(&kit, "cdkasset-0123");
    is_made(&kit, "function");
}

/// `GoReleaser`: `internal/pipe/docker/api_docker.go` and `internal/pipe/docker/v2`.
#[test]
fn goreleaser() {
    let kit = kit();
    run_all(
        &kit,
        &[
            "build -t me/app:v1 -t me/app:latest . --iidfile=@id.txt --pull \
             --label=org.opencontainers.image.created=2026-01-01 --build-arg=VERSION=1",
            "buildx build . --load -t me/app:v2 --iidfile=@id.txt --platform=linux/amd64 \
             --provenance=false --sbom=false --label org.opencontainers.image.revision=1",
        ],
    );
    is_made(&kit, "me/app:v1");
    is_made(&kit, std::fs::read_to_string(kit.beside("id.txt")).unwrap().trim());
}

/// GitLab's templates `Docker.gitlab-ci.yml` and `Jobs/Build.gitlab-ci.yml` (auto-build-image).
#[test]
fn gitlab() {
    let kit = kit();
    run_all(
        &kit,
        &[
            "build --pull -t registry.example/group/app/main -f Dockerfile .",
            "build --cache-from registry.example/app:before --cache-from registry.example/app:latest \
             --tag registry.example/app:sha --tag registry.example/app:latest --file=Dockerfile \
             --build-arg HTTP_PROXY --build-arg http_proxy --build-arg no_proxy \
             --secret id=key,src=@key .",
        ],
    );
    is_made(&kit, "registry.example/app:sha");
}

/// `act`, which runs a GitHub job on one's own machine: the job's steps call docker, and actions
/// of the kind `docker` are built so.
#[test]
fn act() {
    let kit = kit();
    run_all(
        &kit,
        &["build -t act-my-action-dockeraction:latest --platform linux/amd64 -f Dockerfile ."],
    );
    is_made(&kit, "act-my-action-dockeraction");
}

/// What people type, or have in an alias or a script.
#[test]
fn people() {
    let kit = kit();
    let lines = [
        "build --rm --force-rm --compress -t x .",
        "build --pull=true --no-cache=false --quiet=false .",
        "build --iidfile @i .",
        "build --cache-from registry.example/app:latest --tag registry.example/app:sha .",
        "build --secret id=KEY .",
        "build --secret src=@key .",
        "build --network bridge --progress none --debug .",
        "build -t z --layers --format docker --squash -v @empty:/mnt:Z --pull=always \
         --tls-verify=false .",
        "build --isolation=default --disable-content-trust --builder default --cgroup-parent x \
         --security-opt label=disable .",
        "build -qt clusters .",
    ];
    for line in lines {
        call(&kit, line).env("KEY", "a secret of some length").ok();
    }
    is_made(&kit, "x");
    is_made(&kit, "z");
    is_made(&kit, "clusters");
    let id = std::fs::read_to_string(kit.beside("i")).unwrap();
    call(&kit, &format!("tag {id} y")).ok();
    is_made(&kit, "y");
    let id = call(&kit, "build -q .").ok().stdout();
    is_made(&kit, id.trim());
    is_made(&kit, &id[7..19]);
    let from = format!("FROM {id}RUN cat /made\n");
    kit.builder(["build", "--progress=plain", "-"]).input(from).ok().says(&["made"]);
    for name in ["dockerfile", "Containerfile"] {
        std::fs::rename(kit.path("Dockerfile"), kit.path(name)).unwrap();
        call(&kit, "build -t named .").ok();
        std::fs::rename(kit.path(name), kit.path("Dockerfile")).unwrap();
    }
    for line in ["build -o type=tar .", "build -o - ."] {
        let outcome = call(&kit, line).ok();
        let mut archive = tar::Archive::new(outcome.bytes());
        let mut names = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned());
        assert!(names.any(|name| name.ends_with("made")), "{line}");
    }
    kit.dockerfile("FROM fixture/base\nMAINTAINER me\n");
    assert_eq!(call(&kit, "build --check .").any().status, Some(1));
}

#[test]
fn words_behind_the_image_are_the_commands() {
    let kit = kit();
    call(&kit, "build -t app .").ok();
    for (line, said) in [
        ("run --entrypoint echo app --version", "--version\n"),
        ("run --entrypoint echo app --env A=1 --rm", "--env A=1 --rm\n"),
        ("run --entrypoint echo app -- --help", "-- --help\n"),
        ("run --pull missing --entrypoint echo app -D", "-D\n"),
        ("container run --rm --entrypoint sh app -c pwd", "/\n"),
    ] {
        assert_eq!(call(&kit, line).ok().stdout(), said, "{line}");
    }
    call(&kit, "run --no-such-flag app").any().says(&["unexpected argument '--no-such-flag'"]);
}
