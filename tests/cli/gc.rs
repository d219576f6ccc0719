//! Garbage collection and verification: `df`, `prune`, collection after builds, `store verify`.

use crate::kit::{Counts, Kit, Run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

const TEXT: &str = "FROM fixture/base\nCOPY tree /tree\n\
                    RUN --mount=type=cache,target=/c echo c > /c/f; echo a > /a\nRUN echo b > /b\n";

fn kit() -> Kit {
    let kit = Kit::new();
    kit.file("tree/f", [1; 3000]).dockerfile(TEXT);
    kit
}

fn df(kit: &Kit) -> Value {
    kit.builder(["df", "--format=json"]).ok().json()
}

/// The files of a directory of the store, by path.
fn files(kit: &Kit, directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![kit.store().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_images_reach_is_told_apart_from_cache() {
    let kit = kit();
    assert_eq!(df(&kit)["total"]["bytes"], 0, "an empty store");
    kit.build().ok();
    let unnamed = df(&kit);
    assert_eq!(unnamed["layers"]["in_images"], 0);
    assert_eq!(unnamed["records"]["count"], 3);
    assert_eq!(unnamed["mounts"]["count"], 1);
    assert_eq!(unnamed["layers"]["prune_frees"], unnamed["layers"]["bytes"]);
    kit.build().args(["-t", "named"]).ok();
    let named = df(&kit);
    assert_eq!(named["layers"]["cache_only"], 0);
    assert_eq!(named["layers"]["prune_frees"], 0);
    let text = kit.builder(["df", "-v"]).ok().stdout();
    for part in ["Cache mounts", "RUN echo b > /b", "COPY tree /tree", "/c"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn what_images_share_is_told_apart_from_what_is_theirs_alone() {
    let kit = kit();
    kit.build().args(["-t", "one", "-t", "again"]).ok();
    let alone = df(&kit)["images"].clone();
    assert_eq!(alone.as_array().unwrap().len(), 1, "one image of two names: {alone}");
    assert_eq!(alone[0]["names"].as_array().unwrap().len(), 2);
    assert_eq!((&alone[0]["shared"], &alone[0]["unique"]), (&0.into(), &alone[0]["bytes"]));
    kit.dockerfile(&format!("{TEXT}RUN head -c 5000 /dev/zero > /z\n"));
    kit.build().args(["-t", "two"]).ok();
    let images = df(&kit)["images"].clone();
    let of = |name: &str| {
        let images = images.as_array().unwrap().iter();
        let is_it = |image: &&Value| image["names"][0].as_str().unwrap().contains(name);
        images.clone().find(is_it).unwrap_or_else(|| panic!("no {name}"))
    };
    let (one, two) = (of("again"), of("two"));
    assert_eq!(one["shared"], two["shared"]);
    assert!(two["unique"].as_u64().unwrap() > 5000, "{two}");
    assert!(one["unique"].as_u64().unwrap() < 5000, "its documents: {one}");
    let text = kit.builder(["df"]).ok().stdout();
    assert!(text.contains("again:latest, one:latest") && text.contains("two:latest"), "{text}");
}

#[test]
fn prune_keeps_named_images_and_a_dry_run_keeps_all() {
    let kit = kit();
    kit.build().args(["-t", "named"]).ok();
    kit.dockerfile(&format!("{TEXT}RUN echo unnamed > /u\n")).build().ok();
    let before = files(&kit, "");
    let dry = kit.builder(["prune", "--dry-run"]).ok().stdout();
    assert_eq!(files(&kit, ""), before);
    let wet = kit.builder(["prune"]).ok().stdout();
    assert_eq!(dry.replace("Would free", "Freed"), wet, "what was promised");
    assert!(wet.contains("1 layer: 8B"), "{wet}");
    assert_eq!(kit.builder(["prune"]).ok().stdout(), "Freed: 0B\n");
    assert_eq!(kit.build().ok().counts(), Counts { ran: 1, cached: 3 }, "the named image's steps");
    kit.builder(["run", "named", "cat", "/b"]).ok();
    kit.builder(["store", "verify"]).ok();
}

#[test]
fn prune_takes_one_type_or_one_thing_and_names_it() {
    let kit = kit();
    kit.build().ok();
    let freed = |words: &[&str]| kit.builder(["prune"].iter().chain(words)).ok().stdout();
    let shown = freed(&["--filter", "type=exec.cachemount", "--verbose"]);
    assert!(shown.contains("mounts/") && shown.contains("1 cache mount"), "{shown}");
    let left = df(&kit);
    assert_eq!((&left["mounts"]["count"], &left["layers"]["count"]), (&0.into(), &4.into()));
    assert_eq!(freed(&["--filter", "type=frontend"]), "Freed: 0B\n");
    assert_eq!(freed(&["--min-free-space", "1"]), "Freed: 0B\n", "enough is free");
    assert_eq!(freed(&["--max-used-space", "1g"]), "Freed: 0B\n");
    let items = kit.builder(["df", "-v", "--format=json", "--filter=type=layer"]).ok().json();
    let items = items["items"].as_array().unwrap();
    assert_eq!(items.len(), 4);
    let id = items[0]["path"].as_str().unwrap().strip_prefix("layers/").unwrap();
    freed(&["--filter", &format!("id={}", &id[..12])]);
    assert!(!kit.store().join("layers").join(id).exists());
    freed(&["--max-used-space", "0", "--reserved-space", "1g"]);
    assert!(df(&kit)["layers"]["count"].as_u64() > Some(0), "what is reserved stays");
    freed(&["--max-used-space", "0"]);
    assert_eq!(df(&kit)["layers"]["count"], 0);
}

#[test]
fn df_has_one_line_for_an_image_on_a_terminal_of_80_columns() {
    let kit = kit();
    let long = format!("registry.example:5000/a/{}app:1.0", "long/".repeat(20));
    kit.build().args(["-t", &long, "-t", "again", "-t", "other"]).ok();
    let text = kit.builder(["df"]).ok().stdout();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains(" +2 "), "{text}");
    assert!(kit.builder(["df", "--verbose"]).ok().stdout().contains(&long));
    let line = kit.builder(["df", "--format", "{{.Type}}={{.TotalCount}}"]).ok().stdout();
    assert!(line.contains("Layers=4\n"), "{line}");
    kit.builder(["df", "--format", "{{.Nope}}"]).fails(2).says(&["Type, TotalCount"]);
    let one = kit.builder(["df", "--filter", "type=layer"]).ok().stdout();
    assert!(!one.contains("again"), "{one}");
}

#[test]
fn prune_of_everything_takes_mounts_and_leaves_a_store_that_works() {
    let kit = kit();
    let right = kit.build().image();
    kit.builder(["prune", "--all"]).ok();
    let left = df(&kit);
    for class in ["layers", "blobs", "records", "mounts", "fingerprints"] {
        assert_eq!(left[class]["count"], 0, "{class}: {left}");
    }
    assert_eq!(files(&kit, "tmp"), Vec::<PathBuf>::new());
    kit.builder(["store", "verify"]).ok();
    assert_eq!(kit.image().content(), right.content());
}

#[test]
fn prune_goes_by_last_use() {
    let kit = kit();
    kit.build().ok();
    assert_eq!(kit.builder(["prune", "--filter", "until=1h"]).ok().stdout(), "Freed: 0B\n");
    let kept = kit.builder(["prune", "--keep-storage", "1g"]).ok().stdout();
    assert_eq!(kept, "Freed: 0B\n");
    kit.builder(["prune", "--keep-storage", "0"]).ok();
    assert_eq!(df(&kit)["layers"]["count"], 0);
    for wrong in ["until=soon", "until", "label=x", "until=-1h", "inuse=true"] {
        kit.builder(["prune", "--filter", wrong]).fails(2).says(&[wrong, "until=24h"]);
    }
    for (wrong, part) in [
        ("type=thing", "the types are layer, blob"),
        ("dangling=false", "builder rmi NAME"),
        ("label=x", "builder images -q --filter label="),
    ] {
        kit.builder(["prune", "--filter", wrong]).fails(2).says(&[part]);
    }
    kit.builder(["prune", "--keep-storage", "many"]).exits(2);
}

#[test]
fn explain_says_that_a_result_was_evicted() {
    let kit = kit();
    kit.build().ok();
    kit.builder(["prune"]).ok();
    let told = kit.explain().ok().stdout();
    assert_eq!(told.matches("the layer it made was removed after build").count(), 3, "{told}");
    assert_eq!(kit.build().ok().counts(), Counts { ran: 3, cached: 0 });
    assert_eq!(kit.build().ok().counts(), Counts { ran: 0, cached: 3 });
}

/// A build in the middle of a RUN.
struct Running(Child);

impl Running {
    fn start(run: Run) -> Self {
        let mut child =
            run.into_command().stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let is_there = lines.map_while(Result::ok).any(|line| line.ends_with(" started"));
        assert!(is_there, "the step says so");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn privileged_prune_beside_a_running_build_takes_nothing_of_it() {
    let kit = kit();
    let release = kit.path("release");
    kit.build().ok();
    // It goes on when the context gets a file, which a second build gives it through the cache mount.
    let slow = format!(
        "{TEXT}RUN --mount=type=cache,target=/c echo started; while ! test -e /c/go; do :; done; cat /a /b\n"
    );
    kit.dockerfile(&slow);
    let mut running = Running::start(kit.build_showing("plain").args(["-t", "done"]));
    let told = kit.builder(["prune", "--all"]).ok().stdout();
    assert!(told.contains("in use by running builds"), "{told}");
    kit.file("release", "");
    let go = "FROM fixture/base\nRUN --mount=type=cache,target=/c touch /c/go\n";
    fs::write(&release, go).unwrap();
    kit.build().arg("-f").arg(&release).ok();
    assert!(running.0.wait().unwrap().success(), "the build found all it needed");
    kit.builder(["store", "verify"]).ok();
    kit.builder(["run", "done", "cat", "/a", "/b"]).ok();
}

#[test]
fn cache_over_its_cap_is_collected_after_a_build_and_images_are_not() {
    let kit = kit();
    kit.build().args(["-t", "named"]).ok();
    kit.file("tree/f", vec![7; 500_000]);
    kit.build().env("BUILDER_KEEP_STORAGE", "100k").ok();
    assert_eq!(kit.build().ok().counts().ran, 0, "what that very build used is still there");
    kit.file("tree/f", vec![8; 500_000]);
    let outcome = kit.build().env("BUILDER_KEEP_STORAGE", "100k").ok();
    assert!(outcome.log().contains("used least recently"), "{}", outcome.log());
    kit.file("tree/f", [1; 3000]);
    assert_eq!(kit.build().ok().counts().ran, 0, "the named image's steps");
    kit.file("tree/f", vec![7; 500_000]);
    assert_eq!(kit.build().ok().counts().ran, 3, "collected");
    kit.file("tree/f", vec![9; 500_000]);
    let off = kit.build().env("BUILDER_KEEP_STORAGE", "0").env("BUILDER_GC", "off").ok();
    assert!(!off.log().contains("used least recently"));
}

#[test]
fn full_disk_floor_is_kept_by_collection() {
    let kit = kit();
    kit.build().ok();
    kit.file("tree/f", vec![7; 500_000]);
    let outcome = kit.build().env("BUILDER_MIN_FREE", "1000t").ok();
    assert!(outcome.log().contains("used least recently"), "{}", outcome.log());
}

#[test]
fn damage_is_found_set_aside_and_made_again() {
    let kit = kit();
    let right = kit.build().args(["-t", "named"]).image();
    kit.builder(["store", "verify"]).ok();

    let spoil = |path: &PathBuf| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let layer = files(&kit, "layers").into_iter().find(|path| path.ends_with("fs/tree/f")).unwrap();
    let blob =
        files(&kit, "blobs").into_iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    let record = files(&kit, "records").remove(0);
    for path in [&layer, &blob, &record] {
        spoil(path);
    }
    let outcome = kit.builder(["store", "verify"]).exits(5);
    let told = outcome.stdout();
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let layer_id = layer.strip_prefix(kit.store().join("layers")).unwrap().iter().next().unwrap();
    for part in [&name(&blob), &name(&record), layer_id.to_str().unwrap()] {
        assert!(told.contains(part), "`{part}` is not in:\n{told}");
    }
    outcome.says(&["the store is damaged", "builder store verify --repair"]);
    let json = kit.builder(["store", "verify", "--format=json"]).exits(5).json();
    assert_eq!(json["sound"], false);

    kit.builder(["store", "verify", "--repair"]).ok();
    kit.builder(["store", "verify"]).ok();
    assert!(df(&kit)["damaged"]["count"].as_u64() >= Some(3));
    assert_eq!(kit.build().image().content(), right.content());
    kit.builder(["prune"]).ok();
    assert_eq!(df(&kit)["damaged"]["count"], 0);
}

#[test]
fn image_that_lacks_a_layer_is_told() {
    let kit = kit();
    kit.build().args(["-t", "named"]).ok();
    let blobs = files(&kit, "blobs");
    let largest = blobs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    fs::remove_file(largest).unwrap();
    let told = kit.builder(["store", "verify"]).exits(5).stdout();
    assert!(told.contains("named") && told.contains("missing"), "{told}");
    kit.builder(["store", "verify", "--repair"]).ok();
    assert!(!kit.builder(["images"]).ok().stdout().contains("named"));
}
