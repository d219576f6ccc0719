//! `--cache-to` and `--cache-from`: a cache that goes from machine to machine.

use crate::kit::{Counts, Kit, Run};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const TEXT: &str = "FROM fixture/base AS tools\nRUN echo tool > /tool; touch -d @1000 /tool\n\
                    FROM fixture/base\nCOPY tree /tree\nCOPY --from=tools /tool /tool\n\
                    WORKDIR /new\nRUN cat /tool /tree/f > /all\n";

fn kit() -> Kit {
    let kit = Kit::new();
    kit.file("tree/f", "content\n").symlink("f", "tree/l").dockerfile(TEXT);
    kit
}

fn to(kit: &Kit, more: &str) -> Run {
    kit.build().arg(format!("--cache-to=type=local,dest={}{more}", kit.out("cache").display()))
}

fn from(kit: &Kit) -> Run {
    kit.build().arg(format!("--cache-from=type=local,src={}", kit.out("cache").display()))
}

/// As if the machine were a new one.
fn wipe(kit: &Kit) {
    fs::remove_dir_all(kit.store()).unwrap();
}

fn blobs(kit: &Kit) -> Vec<PathBuf> {
    let directory = kit.out("cache/blobs/sha256");
    let mut blobs: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    blobs.sort();
    blobs
}

/// The manifest and the document of the exported cache.
fn documents(kit: &Kit) -> (Value, PathBuf) {
    let json = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let index = json(&kit.out("cache/index.json"));
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        kit.out("cache/blobs").join(digest.replace(':', "/"))
    };
    let manifest = json(&blob(&index["manifests"][0]));
    let document = blob(&manifest["config"]);
    (manifest, document)
}

const ALL: Counts = Counts { ran: 0, cached: 5 };

#[test]
fn wiped_machine_finds_every_step_and_makes_the_same_image() {
    let kit = kit();
    let first = to(&kit, ",mode=max").image();
    wipe(&kit);
    let second = from(&kit).image();
    assert_eq!(second.digest, first.digest);
    wipe(&kit);
    assert_eq!(from(&kit).ok().counts(), ALL);
    kit.builder(["store", "verify"]).ok();
    assert_eq!(kit.build().ok().counts(), ALL, "and has them from then on");
    let told = kit.explain().ok().stdout();
    assert!(!told.contains("error"), "{told}");
}

#[test]
fn smaller_cache_has_the_steps_of_the_image_and_hits_wholly() {
    let kit = kit();
    let first = to(&kit, "").image();
    let small = blobs(&kit).len();
    wipe(&kit);
    let second = from(&kit).image();
    assert_eq!(second.digest, first.digest);
    wipe(&kit);
    // The other stage's step is not in the cache; nothing needs its files.
    let outcome =
        from(&kit).arg(format!("--cache-to=type=local,dest={}", kit.out("cache").display()));
    assert_eq!(outcome.ok().counts(), ALL);
    assert_eq!(blobs(&kit).len(), small, "what was found is exported again");
    wipe(&kit);
    assert_eq!(from(&kit).ok().counts(), ALL, "with its definitions");
    to(&kit, ",mode=max").ok();
    assert!(blobs(&kit).len() > small);
}

#[test]
fn stages_behind_a_smaller_cache_run_where_their_definition_is_another_one() {
    const STAGES: &str = "FROM fixture/base AS one\nARG V=1\nCOPY tree /src\nRUN echo $V > /one\n\
                          FROM fixture/base AS two\nCOPY --from=one /one /two\nRUN echo two >> /two\n\
                          FROM fixture/base\nRUN echo first > /first\nCOPY --from=two --link /two /linked\n\
                          RUN --mount=type=bind,from=two,target=/m cat /m/two > /mounted\nCOPY --from=two /two /copied\n";
    let kit = kit();
    kit.dockerfile(STAGES);
    let first = to(&kit, "").image();
    let build = |edit: &dyn Fn(&Kit) -> Run| {
        wipe(&kit);
        let outcome = edit(&kit).ok();
        kit.file("tree/f", "content\n").dockerfile(STAGES);
        outcome
            .ran()
            .into_iter()
            .map(|name| name[..12.min(name.len())].to_owned())
            .collect::<Vec<_>>()
    };
    assert!(build(&|kit| from(kit)).is_empty());
    wipe(&kit);
    assert_eq!(from(&kit).image().digest, first.digest);
    let stages = ["COPY tree /s", "RUN echo 1 >", "COPY --from=", "RUN echo two"];
    let ran = build(&|kit| from(kit).arg("--build-arg=V=2"));
    assert_eq!(ran.len(), 7, "all of the stages, and all that reads them: {ran:?}");
    // A comment and a source that makes no difference to the files that are read.
    let ran =
        build(&|kit| from(kit.dockerfile(&STAGES.replace("ARG V=1", "# a comment\nARG V=1"))));
    assert!(ran.is_empty(), "{ran:?}");
    let ran = build(&|kit| from(kit.file("tree/f", "other\n")));
    assert_eq!(ran, stages, "what they make is the same, so that what reads it hits");
    // Another parent: only the copy that stands by itself still hits, the rest needs the stages.
    let ran = build(&|kit| from(kit.dockerfile(&STAGES.replace("echo first", "echo other"))));
    assert_eq!(ran.len(), 7, "{ran:?}");
    let ran = build(&|kit| from(kit).arg("--no-cache-filter=two"));
    assert_eq!(ran, stages, "what a stage is asked to make anew is made anew");
    let ran = build(&|kit| from(kit).arg("--no-cache"));
    assert_eq!(ran.len(), 8, "{ran:?}");
}

#[test]
fn a_damaged_layer_of_a_smaller_cache_makes_the_stage_run() {
    let kit = kit();
    let right = to(&kit, "").image();
    let (manifest, _) = documents(&kit);
    let layers: Vec<String> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().replace(':', "/"))
        .collect();
    for layer in layers {
        wipe(&kit);
        let path = kit.out("cache/blobs").join(&layer);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let outcome = from(&kit).ok();
        assert!(outcome.counts().ran >= 1, "{layer}");
        assert_eq!(kit.image().content(), right.content(), "{layer}");
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn layers_come_when_they_are_hit() {
    let kit = kit();
    to(&kit, ",mode=max").ok();
    wipe(&kit);
    kit.file("tree/f", "changed\n");
    let outcome = from(&kit).ok();
    assert_eq!(
        outcome.ran(),
        [
            "COPY tree /tree",
            "COPY --from=tools /tool /tool",
            "WORKDIR /new",
            "RUN cat /tool /tree/f > /all"
        ]
    );
}

#[test]
fn second_export_writes_what_is_new_and_forgets_what_is_old() {
    let kit = kit();
    to(&kit, ",mode=max").ok();
    let before = blobs(&kit);
    let time = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let times: Vec<_> = before.iter().map(time).collect();
    kit.dockerfile(&TEXT.replace("> /all", "> /other"));
    to(&kit, ",mode=max").ok();
    let after = blobs(&kit);
    assert_eq!(after.len(), before.len(), "one layer, the document and the manifest are others");
    let kept: Vec<_> = before.iter().zip(&times).filter(|(path, _)| after.contains(path)).collect();
    assert_eq!(kept.len(), before.len() - 3);
    assert!(kept.iter().all(|(path, old)| time(path) == **old), "not written again");
}

#[test]
fn any_compression_will_do_and_the_directory_is_a_layout() {
    for (compression, end) in
        [("gzip", "tar+gzip"), ("zstd", "tar+zstd"), ("uncompressed", "v1.tar")]
    {
        let kit = kit();
        to(&kit, &format!(",mode=max,compression={compression}")).ok();
        let (manifest, _) = documents(&kit);
        let layers = manifest["layers"].as_array().unwrap();
        assert!(
            layers.iter().all(|l| l["mediaType"].as_str().unwrap().ends_with(end)),
            "{layers:?}"
        );
        assert!(kit.out("cache/oci-layout").exists());
        wipe(&kit);
        assert_eq!(from(&kit).ok().counts(), ALL, "{compression}");
    }
}

/// Spoils an exported cache in one way and builds with it on a wiped machine.
#[track_caller]
fn spoiled(what: &str, spoil: impl FnOnce(&Kit)) -> (usize, String) {
    let kit = kit();
    let right = to(&kit, ",mode=max").image();
    wipe(&kit);
    spoil(&kit);
    let outcome = from(&kit).ok();
    assert_eq!(kit.image().content(), right.content(), "{what}");
    kit.builder(["store", "verify"]).ok();
    (outcome.counts().ran, outcome.log().to_owned())
}

#[test]
fn damaged_cut_and_foreign_caches_are_told_and_cost_hits_only() {
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let (ran, told) =
        spoiled("no cache at all", |kit| fs::remove_dir_all(kit.out("cache")).unwrap());
    assert_eq!(ran, 5);
    assert!(told.contains("is not used"), "{told}");
    let (ran, told) = spoiled("a damaged document", |kit| flip(&documents(kit).1));
    assert_eq!(ran, 5);
    assert!(told.contains("damaged"), "{told}");
    let (ran, told) =
        spoiled("a cut index", |kit| fs::write(kit.out("cache/index.json"), "{").unwrap());
    assert_eq!(ran, 5);
    assert!(told.contains("is not used"), "{told}");
    let (ran, told) = spoiled("layers that are cut or damaged", |kit| {
        let (manifest, _) = documents(kit);
        for layer in manifest["layers"].as_array().unwrap() {
            let digest = layer["digest"].as_str().unwrap();
            let path = kit.out("cache/blobs").join(digest.replace(':', "/"));
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
    });
    assert_eq!(ran, 5);
    assert!(told.contains("cache "), "{told}");
    let (ran, _) = spoiled("a missing layer", |kit| {
        let (manifest, _) = documents(kit);
        let digest = manifest["layers"][0]["digest"].as_str().unwrap();
        fs::remove_file(kit.out("cache/blobs").join(digest.replace(':', "/"))).unwrap();
    });
    assert_eq!(ran, 1, "what was in it");
}

/// Gives the document of the exported cache another content, with digests that are right.
fn rewrite(kit: &Kit, edit: impl FnOnce(&mut Value)) {
    let write = |value: &Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        let hex = crate::kit::base::hex(&bytes);
        fs::write(kit.out("cache/blobs/sha256").join(&hex), &bytes).unwrap();
        (json!(format!("sha256:{hex}")), json!(bytes.len()))
    };
    let (mut manifest, document) = documents(kit);
    let mut value: Value = serde_json::from_slice(&fs::read(document).unwrap()).unwrap();
    edit(&mut value);
    (manifest["config"]["digest"], manifest["config"]["size"]) = write(&value);
    let path = kit.out("cache/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let top = &mut index["manifests"][0];
    (top["digest"], top["size"]) = write(&manifest);
    fs::write(path, serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn caches_of_other_versions_and_forged_records_are_misses() {
    let (ran, told) = spoiled("a newer cache", |kit| rewrite(kit, |d| d["version"] = json!(99)));
    assert_eq!(ran, 5);
    assert!(told.contains("99"), "{told}");
    let (ran, _) = spoiled("older records", |kit| {
        rewrite(kit, |document| {
            for record in document["records"].as_array_mut().unwrap() {
                record["record"]["version"] = json!(0);
            }
        });
    });
    assert_eq!(ran, 5);
    let (ran, _) = spoiled("inputs that are not those of the key", |kit| {
        rewrite(kit, |document| {
            let last = document["records"].as_array_mut().unwrap().last_mut();
            last.unwrap()["record"]["inputs"] = json!([]);
        });
    });
    assert_eq!(ran, 1);
    let (ran, told) = spoiled("another layer's files", |kit| {
        rewrite(kit, |document| {
            let other = document["records"][1].clone();
            document["records"][0]["layer"] = other["layer"].clone();
            document["records"][0]["diff_id"] = other["diff_id"].clone();
        });
    });
    assert_eq!(ran, 1);
    assert!(told.contains("other files"), "{told}");
}

#[test]
fn mistakes_in_the_flags_are_usage_errors() {
    let kit = kit();
    for (flag, part) in [
        ("--cache-to=type=local", "dest=DIR"),
        ("--cache-to=dest=d", "type=local"),
        ("--cache-to=type=floppy", "floppy"),
        ("--cache-from=type=local", "src=DIR"),
        ("--cache-from=src=x,nonsense", "key=value"),
    ] {
        kit.build().arg(flag).fails(2).says(&[part]);
    }
    fs::write(kit.out("file"), "").unwrap();
    let dest = format!("--cache-to=type=local,dest={}", kit.out("file").display());
    kit.build().arg(&dest).fails(5).says(&["cannot write the cache"]);
    kit.build().arg(format!("{dest},ignore-error=true")).ok();
}
