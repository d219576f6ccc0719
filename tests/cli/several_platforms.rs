//! One build for several platforms: what runs once, what the index is, and where it goes.

use crate::kit::archive::members;
use crate::kit::{Archive, Kit, Run, State};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

const THREE: &str = "--platform=linux/riscv64,linux/amd64,linux/arm64";

/// A stage that builds for all, and a last one for each platform that runs nothing.
const PROJECT: &str = "FROM --platform=$BUILDPLATFORM fixture/base AS build\n\
    RUN echo built >> /built\n\
    ARG TARGETARCH\n\
    RUN echo for $TARGETARCH > /own\n\
    FROM scratch\n\
    ARG TARGETARCH TARGETPLATFORM\n\
    LABEL is=$TARGETPLATFORM\n\
    COPY --from=build /built /own /\n\
    COPY $TARGETARCH.txt /\n";

fn project() -> Kit {
    let kit = Kit::new();
    kit.dockerfile(PROJECT);
    for name in ["amd64", "arm64", "riscv64"] {
        kit.file(&format!("{name}.txt"), name);
    }
    kit
}

fn archive(kit: &Kit, name: &str, args: &[&str]) -> PathBuf {
    let path = kit.out(name);
    kit.build()
        .arg(THREE)
        .args(args)
        .arg(format!("--output=type=oci,rewrite-timestamp=true,dest={}", path.display()))
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .ok();
    path
}

/// The digest of what an archive lists.
fn digest(path: &Path) -> String {
    Archive::open_index(path).0["digest"].as_str().unwrap().to_owned()
}

#[test]
fn what_platforms_share_runs_once_and_each_has_its_own_image() {
    let kit = project();
    let path = kit.out("image.tar");
    let out = format!("--output=type=oci,dest={}", path.display());
    let outcome = kit.build().args([THREE, &out]).ok();
    let names: Vec<&str> = outcome.steps().iter().map(|step| step.name.as_str()).collect();
    // Once for all, then for each what depends on it.
    let count = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(count(&format!("[linux/{own} build 2/3] RUN echo built")), 1, "{names:?}");
    assert_eq!(count("RUN echo built"), 1, "{names:?}");
    assert_eq!(count("RUN echo for"), 3, "{names:?}");
    assert_eq!(count(&format!("[linux/{own}->riscv64 build 3/3] RUN echo for")), 1, "{names:?}");
    assert_eq!(count("[linux/riscv64 stage-1 2/2] COPY riscv64.txt"), 1, "{names:?}");
    let (listed, index, images) = Archive::open_index(&path);
    assert_eq!(listed["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(index["mediaType"], listed["mediaType"]);
    let platforms: Vec<_> = images.keys().map(String::as_str).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64", "linux/riscv64"]);
    for (platform, image) in &images {
        let architecture = platform.strip_prefix("linux/").unwrap();
        assert_eq!(image.document["architecture"], architecture);
        assert_eq!(image.config()["Labels"]["is"], *platform);
        assert_eq!(image.text("/own"), format!("for {architecture}\n"));
        assert_eq!(image.text(&format!("/{architecture}.txt")), architecture);
        assert_eq!(image.text("/built"), "built\n");
        assert_eq!(image.content().len(), 3, "{platform}");
    }
    // A change of one platform's file runs that platform's step again, and no other.
    kit.file("arm64.txt", "changed");
    let outcome = kit.build().args([THREE, &out]).ok();
    assert_eq!(outcome.ran(), ["COPY arm64.txt /"]);
    assert_eq!(Archive::open_index(&path).2["linux/arm64"].text("/arm64.txt"), "changed");
    let steps = outcome.steps().iter();
    assert!(steps.filter(|step| step.state == State::Cached).count() >= 9);
}

#[test]
fn an_index_is_the_same_whatever_the_order_the_threads_and_the_store() {
    let (kit, other) = (project(), project());
    let first = archive(&kit, "a.tar", &[]);
    let same = [
        archive(&kit, "b.tar", &["--platform=linux/riscv64"]),
        archive(&kit, "c.tar", &["--no-cache", "--max-parallelism=1"]),
        archive(&other, "d.tar", &["--max-parallelism=7"]),
    ];
    for path in same {
        assert_eq!(digest(&path), digest(&first), "{}", path.display());
    }
    // One platform of it is what a build of that platform alone gives.
    let alone = kit.out("alone.tar");
    kit.build()
        .arg("--platform=linux/arm64")
        .arg(format!("--output=type=oci,rewrite-timestamp=true,dest={}", alone.display()))
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .ok();
    let (_, _, images) = Archive::open_index(&first);
    assert_eq!(Archive::open(&alone).digest, images["linux/arm64"].digest);
}

#[test]
fn annotations_go_to_the_index_and_to_the_images_they_name() {
    let kit = project();
    let path = archive(
        &kit,
        "image.tar",
        &[
            "--annotation=index:i=1",
            "--annotation=index-descriptor:d=2",
            "--annotation=manifest[linux/arm64]:m=3",
            "--annotation=manifest-descriptor[linux/riscv64]:x=4",
            "--annotation=all=5",
        ],
    );
    let (listed, index, images) = Archive::open_index(&path);
    assert_eq!(listed["annotations"]["d"], "2");
    assert_eq!(index["annotations"], serde_json::json!({"i": "1"}));
    let entry = |place: usize| &index["manifests"][place];
    assert_eq!(entry(2)["platform"]["architecture"], "riscv64");
    assert_eq!(entry(2)["annotations"], serde_json::json!({"x": "4"}));
    assert_eq!(entry(0)["annotations"], Value::Null);
    let of = |name: &str| images[name].manifest["annotations"].clone();
    assert_eq!(of("linux/arm64"), serde_json::json!({"all": "5", "m": "3"}));
    assert_eq!(of("linux/amd64"), serde_json::json!({"all": "5"}));
    // An image alone has neither.
    for place in ["index", "index-descriptor"] {
        let annotation = format!("--annotation={place}:a=b");
        kit.build().arg(&annotation).fails(2).says(&["makes no index to annotate"]);
    }
}

#[test]
fn an_index_of_one_image_is_made_where_it_is_asked_for() {
    let kit = project();
    let path = kit.out("image.tar");
    kit.build()
        .args(["--platform=linux/arm64", "--build-arg=BUILDKIT_MULTI_PLATFORM=1"])
        .arg("--annotation=index:a=b")
        .arg(format!("--output=type=oci,dest={}", path.display()))
        .ok();
    let (_, index, images) = Archive::open_index(&path);
    assert_eq!(images.len(), 1);
    assert_eq!(index["annotations"]["a"], "b");
}

#[test]
fn files_of_several_platforms_go_into_a_directory_each() {
    let kit = project();
    let out = kit.out("files");
    kit.build().arg(THREE).arg(format!("-o={}", out.display())).ok();
    for name in ["amd64", "arm64", "riscv64"] {
        let own = out.join(format!("linux_{name}/{name}.txt"));
        assert_eq!(fs::read_to_string(own).unwrap(), name);
    }
    let tar = kit.out("files.tar");
    kit.build().arg(THREE).arg(format!("-o=type=tar,dest={}", tar.display())).ok();
    let files = members(&fs::read(&tar).unwrap());
    assert_eq!(files["linux_arm64/arm64.txt"], b"arm64");
    assert_eq!(files["linux_riscv64/built"], b"built\n");
    assert_eq!(files.len(), 3 + 3 * 3, "{:?}", files.keys());
    // Without directories of their own, none may have what another has.
    let into_one = format!("-o=type=local,platform-split=false,dest={}", kit.out("one").display());
    kit.build()
        .arg(THREE)
        .arg(&into_one)
        .fails(2)
        .says(&["linux/riscv64 and linux/amd64 both have", "platform-split=true"]);
    kit.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH.txt /d/\n");
    kit.build().arg(THREE).arg(&into_one).ok();
    assert_eq!(fs::read_dir(kit.out("one").join("d")).unwrap().count(), 3);
}

#[test]
fn what_names_an_index_names_its_digest() {
    let kit = project();
    let (path, metadata, id) = (kit.out("image.tar"), kit.out("metadata.json"), kit.out("id"));
    kit.build()
        .args([THREE, "-t=app:v1"])
        .arg(format!("--output=type=docker,dest={}", path.display()))
        .arg(format!("--metadata-file={}", metadata.display()))
        .arg(format!("--iidfile={}", id.display()))
        .ok();
    let files = members(&fs::read(&path).unwrap());
    let json = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
    let listed = &json("index.json")["manifests"][0];
    assert_eq!(listed["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    // A reader that knows no index finds this machine's image.
    let classic = json("manifest.json");
    assert_eq!(classic.as_array().map(Vec::len), Some(1));
    assert_eq!(classic[0]["RepoTags"][0], "app:v1");
    let config = json(classic[0]["Config"].as_str().unwrap());
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(config["architecture"], own);
    let metadata: Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], listed["digest"]);
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], listed["mediaType"]);
    assert_eq!(metadata.get("containerimage.config.digest"), None);
    assert_eq!(fs::read_to_string(&id).unwrap(), listed["digest"].as_str().unwrap());
}

#[test]
fn a_platform_that_fails_stops_the_others_and_is_named() {
    let kit = project();
    fs::remove_file(kit.path("riscv64.txt")).unwrap();
    let outcome = kit.build().arg(THREE).fails(3);
    outcome.says(&["riscv64.txt"]);
    let mut failed = outcome.steps().iter().filter(|step| step.state == State::Failed);
    assert!(failed.any(|step| step.name.starts_with("[linux/riscv64 stage-1")));
}

#[test]
fn explain_says_of_each_platform_what_ran_and_why() {
    let kit = project();
    kit.build().arg(THREE).ok();
    kit.file("arm64.txt", "changed");
    let json = |run: Run| serde_json::from_str::<Value>(&run.ok().stdout()).unwrap();
    let names = |report: &Value, result: &str| -> Vec<String> {
        let steps = report["steps"].as_array().unwrap().iter();
        let found = steps.filter(|step| step["result"] == result);
        found.map(|step| step["name"].as_str().unwrap().to_owned()).collect()
    };
    let is_right = |report: &Value| {
        assert_eq!(names(report, "miss"), ["[linux/arm64 stage-1 2/2] COPY arm64.txt /"]);
        let steps = report["steps"].as_array().unwrap();
        let missed = steps.iter().find(|step| step["result"] == "miss").unwrap();
        assert_eq!(missed["causes"][0]["kind"], "files", "{missed}");
        assert_eq!(missed["causes"][0]["changes"]["files"][0]["path"], "arm64.txt");
        assert_eq!(missed["platform"], "linux/arm64");
        for of in report["platforms"].as_array().unwrap() {
            let broken = usize::from(of["platform"] == "linux/arm64");
            assert_eq!(
                (&of["steps"], &of["totals"]["misses"]),
                (&4.into(), &broken.into()),
                "{of}"
            );
            assert_eq!(of.get("first_broken").is_some(), broken == 1);
        }
        let shared = steps.iter().find(|step| step["instruction"] == "RUN echo built >> /built");
        assert_eq!(shared.unwrap()["targets"].as_array().unwrap().len(), 3);
    };
    is_right(&json(kit.explain().args([THREE, "--format=json"])));
    kit.build().arg(THREE).ok();
    let past = |flags: &[&str]| kit.builder(["explain"]).args(flags);
    let prints = |run: Run, parts: &[&str]| {
        // Lines are broken where the path of the context says.
        let text = run.ok().stdout().replace('\n', " ");
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in:\n{text}");
    };
    is_right(&json(past(&["--format=json"])));
    prints(
        past(&[]),
        &[
            "linux/riscv64, linux/amd64, linux/arm64",
            "  linux/amd64: all 4 steps cached",
            "  linux/arm64: 1 of 4 steps ran",
            "files arm64.txt: 1 changed",
        ],
    );
    // One of them, only where the command line itself names it.
    let narrowed = json(past(&["--format=json", "--platform=linux/arm64"]));
    assert_eq!(
        (narrowed["steps"].as_array().unwrap().len(), names(&narrowed, "miss").len()),
        (4, 1)
    );
    let other = json(past(&["--format=json"]).env("DOCKER_DEFAULT_PLATFORM", "linux/arm64"));
    assert!(other["steps"].as_array().unwrap().len() > 4);
    past(&["--platform=linux/s390x"])
        .fails(2)
        .says(&["is not for linux/s390x: it is for linux/ri"]);
    prints(
        past(&["--format=html"]),
        &[">several platforms</text>", ">linux/amd64</text>", ">linux/arm64</text>"],
    );
    let inspect =
        |format: &str| kit.builder(["history", "inspect", "--format", format]).ok().stdout();
    assert!(inspect("text").contains("\nplatforms   linux/riscv64, linux/amd64, linux/arm64\n"));
    assert_eq!(inspect("{{index .Platform 1}}").trim(), "linux/amd64");
    // A platform that is built for the first time.
    kit.file("s390x.txt", "s390x");
    let report = json(kit.explain().args(["--platform=linux/arm64,linux/s390x", "--format=json"]));
    let misses = names(&report, "miss");
    assert!(!misses.is_empty() && misses.iter().all(|name| name.contains("s390x")), "{misses:?}");
    for step in report["steps"].as_array().unwrap() {
        if step["result"] == "miss" {
            assert_eq!(step["causes"][0]["reason"], "new_platform", "{step}");
        }
    }
}

#[test]
fn a_base_of_another_platform_still_gives_each_platform_its_own_image() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nARG TARGETARCH\nRUN echo $TARGETARCH > /own\n");
    let (path, files) = (kit.out("image.tar"), kit.out("files"));
    let outcome = kit
        .build()
        .args(["--platform=linux/amd64,linux/arm64", "--annotation=manifest[linux/arm64]:a=b"])
        .arg("--annotation=manifest[linux/s390x]:a=b")
        .arg(format!("--output=type=oci,dest={}", path.display()))
        .arg(format!("--output=type=local,dest={}", files.display()))
        .ok();
    let said = format!("{}{}", outcome.text(), outcome.log());
    assert!(said.contains("is for platform linux/"), "{said}");
    assert!(said.contains("no image for linux/s390x is built"), "{said}");
    let (_, _, images) = Archive::open_index(&path);
    for name in ["amd64", "arm64"] {
        assert_eq!(images[&format!("linux/{name}")].text("/own").trim(), name);
        let own = fs::read_to_string(files.join(format!("linux_{name}/own"))).unwrap();
        assert_eq!(own.trim(), name);
    }
    assert_eq!(images["linux/arm64"].manifest["annotations"]["a"], "b");
    assert_eq!(images["linux/amd64"].manifest["annotations"], Value::Null);
}

#[test]
fn a_link_in_the_place_of_a_platforms_directory_is_replaced_and_not_followed() {
    let kit = project();
    let (out, other) = (kit.out("files"), kit.out("other"));
    fs::create_dir(&out).unwrap();
    fs::create_dir(&other).unwrap();
    symlink(&other, out.join("linux_arm64")).unwrap();
    fs::write(out.join("linux_amd64"), "in the way").unwrap();
    kit.build()
        .arg(THREE)
        .arg(format!("-o={}", out.display()))
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .ok();
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    for name in ["amd64", "arm64"] {
        let dir = out.join(format!("linux_{name}"));
        let facts = fs::symlink_metadata(&dir).unwrap();
        assert!(facts.is_dir(), "{name}");
        assert_eq!((facts.mtime(), facts.mode() & 0o777), (1_700_000_000, 0o755), "{name}");
        assert_eq!(fs::read_to_string(dir.join(format!("{name}.txt"))).unwrap(), name);
    }
}

#[test]
fn an_outline_has_what_any_of_the_platforms_takes() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM scratch AS base-amd64\nARG INTEL=1\nFROM scratch AS base-arm64\nARG ARM=2\n\
         RUN --mount=type=secret,id=arm true\nFROM base-$TARGETARCH\n",
    );
    let platforms = "--platform=linux/amd64,linux/arm64";
    let outline =
        kit.builder(["build", platforms, "--call=outline"]).arg(kit.path("")).ok().stdout();
    for part in ["INTEL", "ARM", "arm"] {
        assert!(outline.contains(part), "{part}: {outline}");
    }
}
