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
                // A layer that the store has already is not read, whatever lies in its place.
                let _ = fs::remove_dir_all(kit.store());
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
    // A cache that cannot be used is not an error.
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
        "FROM fixture/base\nRUN --mount=type=secret,id=s [ \"$(wc -c < /run/secrets/s)\" = 11 ]\n",
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
        assert_eq!(output.status.code(), Some(143), "{shown}\n{said}");
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

#[test]
fn a_store_that_others_may_write_is_refused() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\n");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = |says: &str| {
        for run in [kit.build(), kit.builder(["images"]), kit.explain()] {
            run.fails(5).says(&["cannot be trusted", says, "hint"]);
        }
    };
    fs::create_dir(kit.store()).unwrap();
    mode(kit.store(), 0o1777);
    refused("all users may write there");
    assert_eq!(fs::read_dir(kit.store()).unwrap().count(), 0, "nothing was made there");
    mode(kit.store(), 0o755);
    chown(kit.store(), Some(4321), None).unwrap();
    refused("another user owns it");
    chown(kit.store(), Some(0), None).unwrap();
    kit.build().ok();
    mode(&kit.store().join("layers"), 0o777);
    refused("chmod o-w");
    mode(&kit.store().join("layers"), 0o700);
    kit.build().ok();
}

#[test]
fn owners_of_an_archive_are_kept_and_its_ignore_file_does_not_count() {
    let kit = Kit::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, owner: u64, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_uid(owner);
        header.set_gid(owner + 1);
        tar.append_data(&mut header, name, content).unwrap();
    };
    put("Dockerfile", 0, b"FROM scratch\nCOPY . /all/\nCOPY --chown=5:6 f /chosen\n");
    put(".dockerignore", 0, b"f\n");
    put("f", 1234, b"x");
    let image = kit.build_of("-".as_ref()).input(tar.into_inner().unwrap()).image();
    let owner = |path: &str| (image.entry(path).uid, image.entry(path).gid);
    assert_eq!((owner("all/f"), owner("chosen")), ((1234, 1235), (5, 6)));
}

#[test]
fn a_named_context_may_be_scratch_or_for_one_platform() {
    let kit = Kit::new();
    kit.file("one/f", "one").file("other/f", "other");
    let host = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let context =
        |name: &str, dir: &str| format!("--build-context={name}={}", kit.path(dir).display());
    kit.dockerfile("FROM scratch\nCOPY --from=it /f /f\n");
    let image = kit
        .build()
        .args([
            context("it", "one"),
            context(&format!("it::{host}"), "other"),
            context("it::linux/s390x", "one"),
        ])
        .image();
    assert_eq!(image.text("f"), "other");
    kit.build().arg(context("it::linux/s390x", "one")).run();
    let scratch = "--build-context=it=docker-image://scratch";
    kit.dockerfile("FROM it\nCOPY one/f /f\n");
    let image = kit.build().arg(scratch).image();
    assert_eq!((image.text("f").as_str(), image.layers.len()), ("one", 1));
    kit.dockerfile("FROM scratch\nCOPY --from=it /f /f\n");
    kit.build().arg(scratch).fails(3).says(&["not found"]);
}

#[test]
fn a_local_export_replaces_what_has_another_type_and_follows_nothing() {
    let kit = Kit::new();
    let away = kit.beside("away");
    fs::create_dir(&away).unwrap();
    fs::write(away.join("kept"), "").unwrap();
    let tree = kit.out("tree");
    let makers: [(&str, &str); 5] = [
        ("file", "echo x > /t/it"),
        ("directory", "mkdir /t/it && echo x > /t/it/f"),
        ("link", &format!("ln -s {} /t/it", away.display())),
        ("fifo", "mkfifo /t/it"),
        ("hard link", "echo x > /t/first && ln /t/first /t/it"),
    ];
    for (before, _) in makers {
        for (after, make) in makers {
            let _ = fs::remove_dir_all(&tree);
            fs::create_dir_all(tree.join("t")).unwrap();
            let it = tree.join("t/it");
            match before {
                "file" | "hard link" => fs::write(&it, "old").unwrap(),
                "directory" => fs::create_dir_all(it.join("deep/down")).unwrap(),
                "link" => symlink(&away, &it).unwrap(),
                _ => fifo(&it),
            }
            kit.dockerfile(&format!(
                "FROM fixture/base AS made\nRUN mkdir /t && {make}\nFROM scratch\nCOPY --from=made /t /t\n"
            ));
            kit.build().arg(format!("-otype=local,dest={}", tree.display())).ok();
            let kind = fs::symlink_metadata(&it).unwrap().file_type();
            let is_right = match after {
                "file" | "hard link" => kind.is_file() && fs::read_to_string(&it).unwrap() == "x\n",
                "directory" => kind.is_dir() && fs::read_to_string(it.join("f")).unwrap() == "x\n",
                "link" => fs::read_link(&it).unwrap() == away,
                _ => std::os::unix::fs::FileTypeExt::is_fifo(&kind),
            };
            assert!(is_right, "{before} to {after}");
            assert_eq!(fs::read_dir(&away).unwrap().count(), 1, "{before} to {after}");
        }
    }
}

#[test]
fn a_local_export_leaves_devices_out_and_reports_files_with_rights() {
    let kit = Kit::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Block);
    header.set_mode(0o666);
    header.set_size(0);
    header.set_device_major(8).unwrap();
    header.set_device_minor(0).unwrap();
    tar.append_data(&mut header, "disk", std::io::empty()).unwrap();
    base::append(&mut tar, tar::EntryType::Regular, "su", 0o4755, None, b"x");
    base::append(&mut tar, tar::EntryType::Regular, "only/.wh.gone", 0o644, None, b"");
    base::append(&mut tar, tar::EntryType::Regular, ".wh.old", 0o644, None, b"");
    base::append(&mut tar, tar::EntryType::Regular, "old/f", 0o644, None, b"x");
    base::append(&mut tar, tar::EntryType::Regular, "old/.wh.f2", 0o644, None, b"");
    let layout = kit.beside("layout");
    base::Layout::of(&tar.into_inner().unwrap()).write(&layout);
    kit.dockerfile("FROM it\n");
    let tree = kit.out("tree");
    let context = format!("--build-context=it=oci-layout://{}", layout.display());
    let build = || kit.build_showing("plain").arg(&context);
    let said = build().arg(format!("-otype=local,dest={}", tree.display())).ok();
    said.says(&["a device node (disk)", "a file (su)", "set-user-id"]);
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&tree), ["old", "only", "su"]);
    assert!(names(&tree.join("only")).is_empty(), "a whiteout of nothing is nothing");
    assert_eq!(names(&tree.join("old")), ["f"]);
    let tar = kit.out("tree.tar");
    build().arg(format!("-otype=tar,dest={}", tar.display())).ok();
    let listed = host::tool(&["tar", "-tf", tar.to_str().unwrap()]);
    assert!(listed.contains("disk") && !listed.contains("gone"), "{listed}");
    kit.dockerfile("FROM scratch\nCOPY --from=it /only /only/\nCOPY --from=it /old /old/\n");
    assert_eq!(kit.build().arg(&context).image().list("old"), ["f"]);
}

#[test]
fn a_home_that_cannot_be_searched_is_no_error_where_nothing_there_is_needed() {
    let kit = Kit::of(crate::kit::users::with_ranges());
    kit.dockerfile("FROM scratch\nCOPY f /f\n").file("f", "");
    let closed = kit.beside("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    kit.build().env("HOME", &closed).ok();
}
