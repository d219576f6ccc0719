//! `builder mounts`: cache mounts go from machine to machine.

use crate::kit::{Kit, users};
use builder::oci::Digest;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Two mounts: one of 12 MB in 24 files with all kinds of entries beside it, and a small one.
const TEXT: &str = r"FROM fixture/base
RUN --mount=type=cache,target=/c --mount=type=cache,id=small,target=/s \
    --mount=type=bind,source=noise,target=/n \
    mkdir /c/d && cd /c/d && cp /n/* . && \
    chown 7:8 1 && chmod 4755 2 && ln 3 linked && ln -s /etc/passwd link && mkfifo pipe && echo x > .wh.kept && \
    echo small > /s/f
";

/// Says what is in both mounts, times included.
const LOOK: &str = r"FROM fixture/base
ARG when
RUN --mount=type=cache,target=/c --mount=type=cache,id=small,target=/s \
    (cd /c && find . ! -type l -exec stat -c '%n %a %u:%g %s %Y %h' {} + && find . -type f | sort | xargs cat | md5sum \
    && readlink d/link; cat /s/f) > /look
";

fn kit() -> Kit {
    let kit = Kit::new();
    // The same each time, so that it is cut at the same places.
    for n in 1..=24 {
        let mut noise = vec![0; 500_000];
        blake3::Hasher::new_keyed(&[n; 32]).finalize_xof().fill(&mut noise);
        kit.file(&format!("noise/{n}"), noise);
    }
    kit.dockerfile(TEXT).build().ok();
    let time = UNIX_EPOCH + Duration::from_millis(1_000_500);
    fs::File::open(directory(&kit, "/c").join("fs/d/4")).unwrap().set_modified(time).unwrap();
    kit
}

/// What the steps of a build see in the mounts.
fn look(kit: &Kit, when: &str) -> String {
    kit.dockerfile(LOOK);
    let out = kit.out(when);
    let output = format!("--output=type=local,dest={}", out.display());
    kit.build().args([format!("--build-arg=when={when}"), output]).ok();
    let mut lines: Vec<_> =
        fs::read_to_string(out.join("look")).unwrap().lines().map(str::to_owned).collect();
    // `find` goes by the order on disk.
    lines.sort();
    lines.join("\n")
}

fn blobs(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The path of the mount's directory in the store.
fn directory(kit: &Kit, id: &str) -> PathBuf {
    let mounts = fs::read_dir(kit.store().join("mounts")).unwrap();
    mounts
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path.join("id")).unwrap() == id)
        .unwrap()
}

fn export(kit: &Kit, more: &[&str]) -> String {
    let dest = kit.out("layout");
    kit.builder(["mounts", "export"]).arg(dest).args(more).ok().stdout()
}

/// As if the machine were a new one.
fn wipe(kit: &Kit) {
    fs::remove_dir_all(kit.store()).unwrap();
}

#[test]
fn a_wiped_machine_gets_its_mounts_back_as_they_were() {
    let kit = kit();
    let before = look(&kit, "before");
    assert!(before.contains("./d/2 4755 0:0 500000"), "{before}");
    export(&kit, &[]);
    wipe(&kit);
    let told = kit.builder(["mounts", "import"]).arg(kit.out("layout")).ok().stdout();
    assert!(told.contains("Imported /c: 29 entries, 12MB"), "{told}");
    assert!(told.contains("Imported small"), "{told}");
    assert_eq!(look(&kit, "after"), before);
    let four = fs::metadata(directory(&kit, "/c").join("fs/d/4")).unwrap();
    assert_eq!((four.mtime(), four.mtime_nsec()), (1000, 500_000_000));
    kit.builder(["store", "verify"]).ok();
}

#[test]
fn a_second_export_writes_only_what_has_changed() {
    let kit = kit();
    let told = export(&kit, &[]);
    assert!(told.lines().all(|line| !line.contains(" 0 new")), "{told}");
    let first = blobs(&kit.out("layout"));
    assert!(first.len() > 12, "{} blobs", first.len());
    let modified = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let times: Vec<_> = first.iter().map(modified).collect();

    let told = export(&kit, &[]);
    assert!(told.lines().all(|line| line.contains(" 0 new")), "{told}");
    assert_eq!(blobs(&kit.out("layout")), first, "nothing changed");

    let mount = directory(&kit, "/c").join("fs/d");
    fs::write(mount.join("12"), "changed").unwrap();
    export(&kit, &[]);
    let second = blobs(&kit.out("layout"));
    let new = second.difference(&first).count();
    assert!((4..=6).contains(&new), "{new} new blobs: manifest, document, listing, contents");
    for (path, time) in first.iter().zip(times).filter(|(path, _)| second.contains(*path)) {
        let name = path.file_name().unwrap();
        let is_document = fs::read(path).unwrap().starts_with(b"{");
        assert!(is_document || modified(path) == time, "{} was written again", name.display());
    }

    // Tools touch what they use.
    for file in fs::read_dir(&mount).unwrap().map(|entry| entry.unwrap()) {
        if file.file_type().unwrap().is_file() {
            fs::File::open(file.path()).unwrap().set_modified(UNIX_EPOCH).unwrap();
        }
    }
    export(&kit, &[]);
    let third = blobs(&kit.out("layout"));
    let new = third.difference(&second).count();
    assert_eq!(new, 3, "manifest, document and listing");
    assert_eq!(third.len(), second.len(), "and what was needed before only is gone");
}

#[test]
fn mounts_are_listed_chosen_and_removed_by_their_ids() {
    let kit = kit();
    let listed = kit.builder(["mounts", "ls", "--format=json"]).ok().json();
    assert_eq!(listed[0]["id"], "/c");
    assert_eq!(listed[1]["id"], "small");
    assert!(listed[0]["bytes"].as_u64().unwrap() > 12_000_000);
    assert!(kit.builder(["mounts", "ls"]).ok().stdout().contains("small"));

    let told = export(&kit, &["small"]);
    assert!(told.contains("Exported small") && !told.contains("/c"), "{told}");
    let dest = kit.out("layout");
    let unknown = kit.builder(["mounts", "export"]).arg(&dest).arg("smal").fails(2);
    assert!(unknown.text().contains("no cache mount smal"), "{}", unknown.text());
    assert!(unknown.text().contains("there are: /c, small"), "{}", unknown.text());
    kit.builder(["mounts", "rm", "small"]).ok();
    assert_eq!(kit.builder(["mounts", "ls", "--format=json"]).ok().json()[0]["id"], "/c");
    let told = kit.builder(["mounts", "import"]).args([&dest]).ok().stdout();
    assert!(told.contains("Imported small"), "{told}");
    kit.builder(["mounts", "import"]).args([dest.as_path(), Path::new("/c")]).fails(2);
    let none = kit.builder(["mounts", "import"]).arg(kit.out("nothing")).fails(5);
    assert!(none.text().contains("nothing"), "{}", none.text());
}

#[test]
fn a_mount_that_is_here_stays_unless_it_is_to_be_replaced() {
    let kit = kit();
    export(&kit, &["small"]);
    let file = directory(&kit, "small").join("fs/f");
    fs::write(&file, "newer").unwrap();
    let import = |more: &[&str]| {
        kit.builder(["mounts", "import"]).arg(kit.out("layout")).args(more).ok().stdout()
    };
    let told = import(&[]);
    assert!(told.contains("Kept small"), "{told}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
    let told = import(&["--replace"]);
    assert!(told.contains("Replaced small"), "{told}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "small\n");
}

#[test]
fn caches_and_mounts_share_a_layout_and_other_tools_copy_it() {
    let kit = kit();
    let layout = kit.out("layout");
    kit.build().arg(format!("--cache-to=type=local,mode=max,dest={}", layout.display())).ok();
    export(&kit, &[]);
    kit.build().arg(format!("--cache-to=type=local,mode=max,dest={}", layout.display())).ok();
    wipe(&kit);
    let counts =
        kit.build().arg(format!("--cache-from=type=local,src={}", layout.display())).ok().counts();
    assert_eq!((counts.ran, counts.cached), (0, 1));
    let index = read_json(&layout.join("index.json"));
    let copy = kit.out("copy");
    let copied = |tag: &str| {
        let [from, to] = [&layout, &copy].map(|dir| format!("oci:{}:{tag}", dir.display()));
        crate::kit::host::tool(&["skopeo", "copy", "--quiet", &from, &to]);
    };
    let tag = index["manifests"].as_array().unwrap().iter().find_map(|entry| {
        let tag = entry["annotations"]["org.opencontainers.image.ref.name"].as_str()?;
        tag.starts_with("mount-").then(|| tag.to_owned())
    });
    copied(&tag.unwrap());
    copied("latest");
    wipe(&kit);
    let from = format!("--cache-from=type=local,src={}", copy.display());
    assert_eq!(kit.build().arg(from).ok().counts().ran, 0);
    let told = kit.builder(["mounts", "import"]).arg(&copy).ok().stdout();
    assert!(told.contains("Imported"), "{told}");
}

#[test]
fn what_is_damaged_or_hostile_is_named_and_nothing_is_lost() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN --mount=type=cache,target=/c --mount=type=cache,target=/s \
         echo old > /c/f; echo other > /s/f\n",
    );
    kit.build().ok();
    export(&kit, &[]);
    let sound = kit.out("layout");
    let mount = directory(&kit, "/c").join("fs/f");
    fs::write(&mount, "kept").unwrap();
    let secret = kit.beside("secret");
    fs::write(&secret, "secret").unwrap();

    let layout = kit.out("bad");
    let blob =
        |digest: &Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    // Documents are found by their names, so a changed one gets a new one, up to the index.
    let rename = |bytes: &[u8], descriptor: &mut Value| {
        let digest = Digest::of(bytes).to_string();
        descriptor["digest"] = json!(digest);
        descriptor["size"] = json!(bytes.len());
        fs::write(blob(&descriptor["digest"]), bytes).unwrap();
    };
    type Harm<'h> = (&'h str, &'h dyn Fn(&mut Value, &mut Value));
    let content = |manifest: &Value| manifest["layers"][1].clone();
    let harms: &[Harm<'_>] = &[
        ("is missing", &|manifest, _| fs::remove_file(blob(&content(manifest)["digest"])).unwrap()),
        ("not a file of", &|manifest, _| {
            fs::write(blob(&content(manifest)["digest"]), "short").unwrap();
        }),
        ("not a file of", &|manifest, _| {
            let path = blob(&content(manifest)["digest"]);
            let moved = path.with_extension("moved");
            fs::rename(&path, &moved).unwrap();
            symlink(&moved, &path).unwrap();
        }),
        ("is damaged", &|manifest, _| {
            let path = blob(&content(manifest)["digest"]);
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
        }),
        ("is damaged", &|_, document| {
            document["chunks"][1]["digest"] = document["chunks"][0]["digest"].clone();
        }),
        ("chunk", &|manifest, document| {
            let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
            let mut descriptor = content(manifest);
            rename(&bomb, &mut descriptor);
            manifest["layers"][1] = descriptor;
            document["chunks"][1]["size"] = json!(1000);
        }),
        ("too large", &|_, document| document["chunks"][1]["size"] = json!(1u64 << 40)),
        ("too large", &|manifest, _| manifest["layers"][1]["size"] = json!(1u64 << 40)),
        ("unknown type", &|manifest, _| manifest["layers"][1]["mediaType"] = json!("x/y")),
        ("other chunks", &|_, document| _ = document["chunks"].as_array_mut().unwrap().pop()),
        ("unexpected end", &|manifest, document| {
            manifest["layers"].as_array_mut().unwrap().pop();
            document["chunks"].as_array_mut().unwrap().pop();
        }),
        ("format is 9", &|_, document| document["version"] = json!(9)),
        ("does not parse", &|_, document| *document = json!({"version": 1})),
    ];
    for (expected, harm) in harms {
        let _ = fs::remove_dir_all(&layout);
        crate::kit::host::tool(&["cp", "-r", sound.to_str().unwrap(), layout.to_str().unwrap()]);
        let mut index = read_json(&layout.join("index.json"));
        let entries = index["manifests"].as_array_mut().unwrap();
        let (entry, mut manifest, mut document) = entries
            .iter_mut()
            .map(|entry| {
                let manifest = read_json(&blob(&entry["digest"]));
                let document = read_json(&blob(&manifest["config"]["digest"]));
                (entry, manifest, document)
            })
            .find(|(_, _, document)| document["id"] == "/c")
            .unwrap();
        harm(&mut manifest, &mut document);
        rename(document.to_string().as_bytes(), &mut manifest["config"]);
        rename(manifest.to_string().as_bytes(), entry);
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        let outcome = kit.builder(["mounts", "import", "--replace"]).arg(&layout).fails(5);
        let told = outcome.text();
        assert!(told.contains(expected), "expected `{expected}`: {told}");
        assert!(outcome.stdout().contains("Replaced /s"), "the other one is sound");
        assert_eq!(fs::read_to_string(&mount).unwrap(), "kept");
    }
    kit.builder(["store", "verify"]).ok();
    assert_eq!(fs::read_dir(kit.store().join("tmp")).unwrap().count(), 0);
}

#[test]
fn whoever_is_killed_leaves_what_was_there() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/c echo old > /c/f\n");
    kit.build().ok();
    export(&kit, &[]);
    let layout = kit.out("layout");
    let read = || fs::read_to_string(directory(&kit, "/c").join("fs/f")).unwrap();
    for (action, status) in [("kill", None), ("enospc", Some(5)), ("eio", Some(5))] {
        fs::write(directory(&kit, "/c").join("fs/f"), "newer").unwrap();
        let fault = format!("mount.made:1:{action}");
        let import = kit.builder(["mounts", "import", "--replace"]).arg(&layout);
        assert_eq!(import.env("BUILDER_FAULT", fault).run().status, status, "{action}");
        assert_eq!(read(), "newer");
    }
    let mut point = 1;
    loop {
        fs::write(directory(&kit, "/c").join("fs/f"), format!("after {point}")).unwrap();
        let fault = format!("export.written:{point}:kill");
        let outcome =
            kit.builder(["mounts", "export"]).arg(&layout).env("BUILDER_FAULT", fault).run();
        let new = read();
        kit.builder(["mounts", "import", "--replace"]).arg(&layout).ok();
        if outcome.status == Some(0) {
            assert_eq!(read(), new);
            break;
        }
        assert_eq!(read(), "old\n", "the export before it is whole");
        point += 1;
    }
    assert!(point > 4, "an export writes more than {point} files");
    kit.builder(["store", "verify"]).ok();
    assert_eq!(fs::read_dir(kit.store().join("tmp")).unwrap().count(), 0);
}

#[test]
fn rootless_mounts_come_back_too() {
    for (user, has_ranges) in [(users::with_ranges(), true), (users::without_ranges(), false)] {
        let kit = Kit::of(user);
        let run = |command: &str| {
            kit.dockerfile(&format!(
                "FROM fixture/base\nRUN --mount=type=cache,target=/c {command}\n"
            ));
            kit.build().ok();
        };
        run("mkdir /c/d && echo x > /c/d/f && chmod 640 /c/d/f && chown 5:6 /c/d/f");
        export(&kit, &[]);
        kit.builder(["mounts", "rm", "/c"]).ok();
        kit.builder(["mounts", "import"]).arg(kit.out("layout")).ok();
        run("grep x /c/d/f && test $(stat -c %a /c/d/f) = 640");
        if has_ranges {
            run("test $(stat -c %u:%g /c/d/f) = 5:6");
        }
    }
}
