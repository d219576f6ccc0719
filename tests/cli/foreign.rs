//! Files that a context, a layout or a user chose: nothing leads out, nothing makes the build wait or fill memory.

use crate::kit::{Kit, base, host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

const CANARY: &str = "root:CANARY:not an instruction [";

fn fifo(path: &Path) {
    let _ = fs::remove_file(path);
    host::tool(&["mkfifo", path.to_str().unwrap()]);
}

/// Puts something that must not be read where a file should be.
fn replace(path: &Path, with: &str) {
    let _ = fs::remove_file(path);
    match with {
        "fifo" => fifo(path),
        "sparse" => File::create(path).unwrap().set_len(1 << 42).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "zero" => drop(host::tool(&["mknod", path.to_str().unwrap(), "c", "1", "5"])),
        link => symlink(link, path).unwrap(),
    }
}

#[test]
fn a_context_leads_nowhere_outside_and_no_error_quotes_what_is_there() {
    let kit = Kit::new();
    let canary = kit.beside("canary");
    fs::write(&canary, CANARY).unwrap();
    let link = canary.to_str().unwrap();
    for (name, file) in [
        ("Dockerfile", "Dockerfile"),
        ("sub/Other", "sub/Other"),
        (".dockerignore", "Dockerfile"),
        ("Dockerfile.dockerignore", "Dockerfile"),
    ] {
        for target in [link, "../canary", "../../canary", "sub/out/canary", "/proc/self/fd/0"] {
            kit.file("Dockerfile", "FROM scratch\nCOPY . /\n").file("sub/Other", "FROM scratch\n");
            let _ = fs::remove_file(kit.path("sub/out"));
            kit.symlink("../..", "sub/out");
            let _ = fs::remove_file(kit.path(name));
            kit.symlink(target, name);
            let outcome = kit.build().args(["-f", kit.path(file).to_str().unwrap()]).run();
            assert!(
                matches!(outcome.status, Some(2 | 3)),
                "{name} -> {target}: {}",
                outcome.text()
            );
            assert!(!outcome.text().contains("CANARY"), "{}", outcome.text());
            outcome.says(&[name.rsplit('/').next().unwrap()]);
            if name.ends_with("ignore") {
                // An archive has no ignore file: what stands for one there is not read.
                continue;
            }
            let mut tar = std::process::Command::new("tar");
            let tar = tar.arg("-C").arg(kit.path("")).args(["-cf", "-", "."]).output().unwrap();
            let outcome = kit.build_of("-".as_ref()).args(["-f", file]).input(tar.stdout).run();
            assert!(matches!(outcome.status, Some(2 | 3)), "{name}: {}", outcome.text());
            assert!(!outcome.text().contains("CANARY"), "{}", outcome.text());
            fs::remove_file(kit.path(name)).unwrap();
        }
        let _ = fs::remove_file(kit.path(name));
    }
}

#[test]
fn links_inside_a_context_are_followed_as_if_it_were_the_root() {
    let kit = Kit::new();
    kit.file("build/real", "FROM scratch\nCOPY . /\n").file("build/rules", "build\nhidden\n");
    kit.file("hidden", "").file("seen", "");
    kit.symlink("/build/real", "Dockerfile").symlink("../../build/rules", ".dockerignore");
    let image = kit.image();
    assert!(image.find("seen").is_some() && image.find("hidden").is_none());
    // A link of the user's own, outside of the context, leads anywhere.
    kit.file("../elsewhere/real", "FROM scratch\nCOPY seen /other\n");
    symlink("real", kit.beside("elsewhere/link")).unwrap();
    let image = kit.build().args(["-f", "elsewhere/link"]).image();
    assert!(image.find("other").is_some());
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let kit = Kit::new();
    for with in ["fifo", "zero", "sparse", "directory"] {
        for name in ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"] {
            if with == "directory" && name.ends_with("ignore") {
                continue;
            }
            kit.file("Dockerfile", "FROM scratch\n");
            replace(&kit.path(name), with);
            let outcome = kit.build().run();
            assert!(matches!(outcome.status, Some(2 | 3 | 5)), "{name} {with}: {}", outcome.text());
            outcome.says(&[name]);
            let path = kit.path(name);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }
}

#[test]
fn a_layout_of_pipes_devices_links_and_endless_files_is_refused_at_once() {
    let kit = Kit::new();
    let base = base::layout().to_str().unwrap();
    let layout = kit.beside("layout");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(base::layout().join("index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    let blob = |hex: &str| format!("blobs/sha256/{hex}");
    let read = fs::read(base::layout().join(blob(&manifest))).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&read).unwrap();
    let hex = |value: &serde_json::Value| value["digest"].as_str().unwrap().replace("sha256:", "");
    let places = [
        "index.json".to_owned(),
        blob(&manifest),
        blob(&hex(&document["config"])),
        blob(&hex(&document["layers"][0])),
    ];
    for place in places {
        // The link leads to the very bytes that are wanted.
        let true_copy = format!("{base}/{place}");
        for with in ["fifo", "zero", "sparse", "/dev/zero", &true_copy] {
            let _ = fs::remove_dir_all(&layout);
            host::tool(&["cp", "-r", base, layout.to_str().unwrap()]);
            replace(&layout.join(&place), with);
            let context = format!("--build-context=it=oci-layout://{}", layout.display());
            kit.dockerfile("FROM it\n");
            let runs = [
                kit.build().arg(context),
                kit.builder(["copy", &format!("oci:{}", layout.display()), "x"]),
                kit.builder(["diff", layout.to_str().unwrap(), layout.to_str().unwrap()]),
            ];
            for run in runs {
                let outcome = run.run();
                assert!(
                    !matches!(outcome.status, Some(0 | 1 | 70 | 101) | None),
                    "{place} {with}: {:?} {}",
                    outcome.status,
                    outcome.text()
                );
            }
        }
    }
    // A cache is no error where it is of no use.
    let cache = kit.beside("cache");
    fs::create_dir_all(cache.join("blobs/sha256")).unwrap();
    fifo(&cache.join("index.json"));
    kit.dockerfile("FROM scratch\n");
    kit.build().arg(format!("--cache-from=type=local,src={}", cache.display())).ok();
}

#[test]
fn what_the_user_names_may_be_a_pipe_and_has_a_limit() {
    let kit = Kit::new();
    kit.file("seen", "");
    let image =
        kit.build().args(["-f", "/dev/stdin"]).input("FROM scratch\nCOPY seen /x\n").image();
    assert!(image.find("x").is_some());
    kit.dockerfile(
        "FROM fixture/base\nRUN --mount=type=secret,id=s [ \"$(cat /run/secrets/s)\" = from-a-pipe ]\n",
    );
    kit.build().args(["--secret", "id=s,src=/dev/stdin"]).input("from-a-pipe").ok();
    for path in ["/dev/zero", "/dev/urandom"] {
        kit.build().args(["--secret", &format!("id=s,src={path}")]).fails(5).says(&["500 KiB"]);
        kit.build().args(["-f", path]).fails(5).says(&["16 MiB"]);
        kit.builder(["load", "-i", path]).fails(5).says(&["a device"]);
        kit.builder(["import", path, "x"]).fails(5).says(&["a device"]);
        kit.builder(["run", "--env-file", path, "fixture/base", "true"]).exits(125);
    }
}

#[test]
fn waiting_for_a_pipe_ends_with_the_first_signal() {
    let kit = Kit::new();
    let pipe = kit.beside("pipe");
    fifo(&pipe);
    let shown = pipe.to_str().unwrap();
    let secret = format!("id=s,src={shown}");
    kit.dockerfile("FROM scratch\n");
    let runs = [
        kit.build().args(["-f", shown]),
        kit.build().args(["--secret", &secret]),
        kit.builder(["load", "-i", shown]),
        kit.builder(["import", shown, "x"]),
        kit.builder(["copy", &format!("oci-archive:{shown}"), "x"]),
        kit.builder(["diff", shown, shown]),
    ];
    for run in runs {
        let mut command = run.into_command();
        let shown = format!("{command:?}");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Opens as soon as the program has, so that it is waiting when the signal comes.
        let writer = OpenOptions::new().write(true).open(&pipe).unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let output = child.wait_with_output().unwrap();
        drop(writer);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{shown}\n{said}");
    }
}

#[test]
fn a_named_archive_that_is_loaded_with_a_tag_has_both_names() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nLABEL a=b\n");
    let tar = kit.out("named.tar");
    kit.build().args(["-t", "known:1", "-o", &format!("type=docker,dest={}", tar.display())]).ok();
    let other = Kit::new();
    let loaded = other.builder(["load", "-t", "mine:2", "-i", tar.to_str().unwrap()]).ok();
    assert!(loaded.stdout().contains("known:1") && loaded.stdout().contains("mine:2"));
    other.builder(["inspect", "mine:2"]).ok();
}
