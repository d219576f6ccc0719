//! Hostile images, against every command that reads images: none writes outside of its own places, none crashes,
//! none waits for ever, and the machine is as it was.
//!
//! A test here has a list of images and runs all commands on each. What a command makes of an image, an error or
//! not, is its own business; the canaries say whether something got out.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: failing is its job")]

#[macro_use]
#[path = "kit/skip.rs"]
mod skip;

#[path = "registry/http.rs"]
#[allow(dead_code, reason = "shared with the tests of registries, which use more of it")]
mod http;
mod kit;

use http::{Answer, Http, Request};
use kit::base::{append, hex, rootfs};
use kit::{Kit, Outcome, Run, host};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// What must not change, whatever an image says.
struct Canaries {
    dir: PathBuf,
    settings: Vec<String>,
}

const SETTINGS: [&str; 5] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/passwd",
];

fn settings() -> Vec<String> {
    SETTINGS.map(|path| fs::read_to_string(path).unwrap_or_default()).to_vec()
}

impl Canaries {
    fn new(kit: &Kit) -> Self {
        let dir = kit.beside("canary");
        kit::write_file(&dir.join("marker"), b"untouched");
        Self { dir, settings: settings() }
    }

    #[track_caller]
    fn are_unharmed(&self, after: &str) {
        let names: Vec<_> =
            fs::read_dir(&self.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["marker"], "after {after}");
        let marker = self.dir.join("marker");
        assert_eq!(fs::read_to_string(&marker).unwrap(), "untouched", "after {after}");
        let facts = fs::symlink_metadata(&marker).unwrap();
        assert_eq!((facts.nlink(), facts.mode(), facts.uid()), (1, 0o100_644, 0), "after {after}");
        assert_eq!(settings(), self.settings, "after {after}");
    }
}

/// A layout that need not make sense.
struct Layout {
    layers: Vec<Vec<u8>>,
    config: Value,
    manifest: fn(&mut Value),
    entry: fn(&mut Value),
}

impl Layout {
    fn of(layers: &[&[u8]]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|tar| format!("sha256:{}", hex(tar))).collect();
        let config = json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": kit::base::architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created_by": "x"})).collect::<Vec<_>>(),
        });
        let layers = layers.iter().map(|tar| tar.to_vec()).collect();
        Self { layers, config, manifest: |_| {}, entry: |_| {} }
    }

    fn write(&self, dir: &Path) {
        let _ = fs::remove_dir_all(dir);
        kit::make_dir(&dir.join("blobs/sha256"));
        let put = |bytes: &[u8], kind: &str| {
            let hex = hex(bytes);
            fs::write(dir.join("blobs/sha256").join(&hex), bytes).unwrap();
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": format!("sha256:{hex}"),
                "size": bytes.len(),
            })
        };
        let layers: Vec<_> = self.layers.iter().map(|tar| put(tar, "layer.v1.tar")).collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(self.config.to_string().as_bytes(), "config.v1+json"),
            "layers": layers,
        });
        (self.manifest)(&mut manifest);
        let mut entry = put(manifest.to_string().as_bytes(), "manifest.v1+json");
        (self.entry)(&mut entry);
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    /// The same as `docker save` writes it, with the layers under names that it chooses.
    fn archive(&self, path: &Path, config_name: &str, layer_name: fn(usize) -> String) {
        let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
        let names: Vec<_> = (0..self.layers.len()).map(layer_name).collect();
        let index =
            json!([{"Config": config_name, "RepoTags": ["a:1", "../x:2", "B"], "Layers": names}]);
        let mut put = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            let old = &mut header.as_gnu_mut().unwrap().name;
            old[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, bytes).unwrap();
        };
        put("manifest.json", index.to_string().as_bytes());
        put(config_name, self.config.to_string().as_bytes());
        for (name, layer) in names.iter().zip(&self.layers) {
            put(name, layer);
        }
        tar.into_inner().unwrap();
    }
}

/// A registry that hands out what is in a layout under any name, whatever it is, and takes what is pushed.
fn registry(layout: &Path) -> Http {
    let layout = layout.to_owned();
    Http::serve(move |request| {
        let blob = |digest: &str| {
            fs::read(layout.join("blobs/sha256").join(digest.strip_prefix("sha256:")?)).ok()
        };
        let entry = || -> Option<Value> {
            let index: Value =
                serde_json::from_slice(&fs::read(layout.join("index.json")).ok()?).ok()?;
            Some(index["manifests"][0].clone())
        };
        let path = request.path.split('?').next().unwrap_or_default();
        let Some((_, rest)) = path.split_once("/v2/r/") else { return Answer::new(200) };
        let found = match (request.method.as_str(), rest.split_once('/')) {
            ("GET" | "HEAD", Some(("manifests", "t"))) => entry().and_then(|entry| {
                let answer = Answer::new(200).body(blob(entry["digest"].as_str()?)?);
                Some(answer.header(
                    "Content-Type",
                    entry["mediaType"].as_str()?.replace(char::is_control, ""),
                ))
            }),
            ("GET" | "HEAD", Some(("manifests" | "blobs", digest))) => {
                blob(digest).map(|it| Answer::new(200).body(it))
            }
            ("POST", _) => Some(Answer::new(202).header("Location", "/v2/r/blobs/uploads/1")),
            ("PUT" | "PATCH", _) => Some(taken(request)),
            _ => None,
        };
        found.unwrap_or_else(|| Answer::new(404))
    })
}

fn taken(request: &Request) -> Answer {
    let answer = Answer::new(201).header("Location", "/v2/r/blobs/x");
    answer.header("Docker-Content-Digest", format!("sha256:{}", hex(&request.body)))
}

/// The Dockerfile that uses all that is mounted or written.
const ALL: &str = "FROM it
WORKDIR /work/sub
RUN --mount=type=secret,id=s --mount=type=cache,target=/cache --mount=type=tmpfs,target=/mnt/t \\
    --mount=type=bind,from=it,target=/mnt/b \\
    echo x >> /etc/hosts; echo x >> /etc/resolv.conf; echo x > /work/f; echo x > /cache/f; \\
    echo x > /tmp/f; echo '|/x' > /proc/sys/kernel/core_pattern; true
COPY Dockerfile /work/copied
COPY Dockerfile /cache/copied
ADD Dockerfile /etc/added
";

/// Runs every command that reads images on a layout; says which were run and what came of each.
fn everywhere(kit: &Kit, layout: &Path) -> Vec<(String, Outcome)> {
    let shown = layout.to_str().unwrap();
    let context = format!("--build-context=it=oci-layout://{shown}");
    let mut done = Vec::new();
    let mut run = |name: &str, run: Run| {
        let outcome = run.run();
        is_sound(name, &outcome);
        let status = outcome.status;
        done.push((name.to_owned(), outcome));
        status == Some(0)
    };
    kit.dockerfile(ALL);
    let (tree, tar) = (kit.out("tree"), kit.out("tree.tar"));
    let _ = fs::remove_dir_all(&tree);
    run(
        "build",
        kit.build()
            .args([&context, "--secret=id=s,src=canary/marker", "--allow-secret-in-image"])
            .arg(format!("-otype=local,dest={}", tree.display()))
            .arg(format!("-otype=tar,dest={}", tar.display())),
    );
    kit.dockerfile(
        "FROM scratch\nCOPY --from=it / /all/\nCOPY --from=it --chown=1:1 /e[t]c /etc/\n",
    );
    run("COPY --from", kit.build().arg(&context));
    run("explain", kit.explain().arg(&context));
    kit.dockerfile("FROM it\n");
    run(
        "FROM, -o local",
        kit.build().arg(&context).arg(format!("-otype=local,dest={}", tree.display())),
    );
    run(
        "FROM, -o oci",
        kit.build().arg(&context).arg(format!("-otype=oci,dest={}", tar.display())),
    );
    run(
        "cache-from",
        kit.build().args([&context, &format!("--cache-from=type=local,src={shown}")]),
    );
    let registry = registry(layout);
    let remote = format!("{}/r:t", registry.host());
    kit.builder(["rmi", "-f", &remote]).run();
    run("pull", kit.builder(["pull", &remote]));
    kit.dockerfile(&format!("FROM {remote}\nRUN true\n"));
    run("FROM a registry", kit.build().arg("--pull"));
    kit.dockerfile("FROM it\n");
    run("mounts import", kit.builder(["mounts", "import", shown]));
    run("diff", kit.builder(["diff", shown, shown]));
    kit.builder(["rmi", "-f", "hostile"]).run();
    if run("copy", kit.builder(["copy", &format!("oci:{shown}"), "hostile"])) {
        let pushed = format!("{}/r:pushed", registry.host());
        kit.builder(["tag", "hostile", &pushed]).run();
        run("push", kit.builder(["push", &pushed]));
        run("inspect", kit.builder(["inspect", "hostile"]));
        run("history", kit.builder(["history", "hostile"]));
        run("run", kit.builder(["run", "hostile", "/bin/true"]));
        run("run, own command", kit.builder(["run", "--read-only", "hostile"]));
        run("save", kit.builder(["save", "-o", tar.to_str().unwrap(), "hostile"]));
        run("load", kit.builder(["load", "-i", tar.to_str().unwrap()]));
    }
    run("images", kit.builder(["images"]));
    run("df", kit.builder(["df"]));
    // As an archive, whatever is in it.
    host::tool(&["tar", "-C", shown, "-cf", tar.to_str().unwrap(), "."]);
    run("load of an archive", kit.builder(["load", "-t", "l", "-i", tar.to_str().unwrap()]));
    run(
        "copy of an archive",
        kit.builder(["copy", &format!("oci-archive:{}", tar.display()), "x"]),
    );
    run("import", kit.builder(["import", tar.to_str().unwrap(), "i"]));
    done
}

/// The program said what it had to say: it did not panic, and did not call itself broken.
#[track_caller]
fn is_sound(name: &str, outcome: &Outcome) {
    let text = outcome.text();
    assert!(
        !matches!(outcome.status, None | Some(70 | 101)) && !text.contains("panicked"),
        "{name}: {:?}\n{text}",
        outcome.status
    );
}

fn tar_of(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    tar.into_inner().unwrap()
}

/// Appends a member whose name is taken byte by byte.
fn raw(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

/// What is at the root of the kit, but for what commands make on purpose.
fn litter(kit: &Kit) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(kit.beside("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_link_in_place_of_what_is_mounted_on_or_written_in_leads_nowhere() {
    let kit = Kit::new();
    let canaries = Canaries::new(&kit);
    let base = rootfs();
    let layout = kit.beside("layout");
    let canary = canaries.dir.to_str().unwrap().to_owned();
    let up = format!("../../../../../../../..{canary}");
    let places = [
        "proc",
        "sys",
        "dev",
        "etc",
        "etc/hosts",
        "etc/resolv.conf",
        "run",
        "run/secrets",
        "tmp",
        "work",
        "cache",
        "mnt",
        "dev/shm",
        "dev/pts",
    ];
    for place in places {
        // One that leads to the canaries and one that leads to a descriptor of ours; the rest for one place.
        let targets: &[&str] = match place {
            "work" | "proc" => {
                &[&canary, &up, "/proc/self/fd/3", "/proc/self/root", "/proc/1/cwd", "/"]
            }
            _ => &[&up, "/proc/self/fd/4/../.."],
        };
        for target in targets {
            let layer =
                tar_of(|tar| append(tar, EntryType::Symlink, place, 0o777, Some(target), b""));
            Layout::of(&[&base, &layer]).write(&layout);
            let context = format!("--build-context=it=oci-layout://{}", layout.display());
            kit.dockerfile(ALL);
            let name = format!("{place} -> {target}");
            let outcome = kit.build().args([&context, "--secret=id=s,src=canary/marker"]).run();
            is_sound(&name, &outcome);
            canaries.are_unharmed(&name);
            kit.builder(["rmi", "-f", "hostile"]).run();
            kit.builder(["copy", &format!("oci:{}", layout.display()), "hostile"]).ok();
            for directory in ["/work", "/proc/self/fd/5"] {
                let script = "echo x > pwned; echo x > /etc/hosts; echo '|/x' > /proc/sys/kernel/core_pattern";
                let run =
                    ["run", "-w", directory, "--tmpfs", "/tmp", "hostile", "/bin/sh", "-c", script];
                is_sound(&name, &kit.builder(run).run());
                canaries.are_unharmed(&name);
            }
        }
    }
}

#[test]
fn members_of_layers_stay_inside() {
    let kit = Kit::new();
    let canaries = Canaries::new(&kit);
    let base = rootfs();
    let layout = kit.beside("layout");
    let canary = canaries.dir.to_str().unwrap();
    let up = format!("../../../../../../../..{canary}");
    let marker = format!("{up}/marker");
    kit::make_dir(&kit.out(""));
    let before = litter(&kit);
    let link = EntryType::Symlink;
    let file = EntryType::Regular;
    let mut layers: Vec<(&str, Vec<u8>)> = vec![
        (
            "names",
            tar_of(|tar| {
                for name in
                    [format!("{up}/pwned"), format!("{canary}/pwned"), "./../../pwned".to_owned()]
                {
                    raw(tar, file, name.as_bytes(), b"", b"x");
                }
                raw(tar, file, b"a/../../../../pwned", b"", b"x");
                raw(tar, file, b"/", b"", b"");
                raw(tar, file, b"..", b"", b"x");
                raw(tar, EntryType::Directory, b"../..", b"", b"");
            }),
        ),
        (
            "writes through links",
            tar_of(|tar| {
                raw(tar, link, b"out", up.as_bytes(), b"");
                raw(tar, file, b"out/pwned", b"", b"x");
                raw(tar, link, b"over", marker.as_bytes(), b"");
                raw(tar, file, b"over", b"", b"x");
                raw(tar, link, b"dir", canary.as_bytes(), b"");
                raw(tar, EntryType::Directory, b"dir", b"", b"");
                raw(tar, link, b"sub", b"/proc/self/root", b"");
                raw(tar, file, format!("sub{canary}/pwned").as_bytes(), b"", b"x");
                raw(tar, link, b"a", b"b", b"");
                raw(tar, link, b"b", b"a", b"");
            }),
        ),
        (
            "a loop of links as a directory",
            tar_of(|tar| {
                raw(tar, link, b"a", b"a", b"");
                raw(tar, file, b"a/x", b"", b"x");
            }),
        ),
        (
            "hard links out",
            tar_of(|tar| raw(tar, EntryType::Link, b"hard", marker.as_bytes(), b"")),
        ),
        (
            "hard links through links",
            tar_of(|tar| {
                raw(tar, link, b"out", up.as_bytes(), b"");
                raw(tar, EntryType::Link, b"hard", b"out/marker", b"");
                raw(tar, file, b"hard", b"", b"x");
            }),
        ),
        (
            "hard link to a link, then written",
            tar_of(|tar| {
                raw(tar, link, b"out", marker.as_bytes(), b"");
                raw(tar, EntryType::Link, b"hard", b"out", b"");
                raw(tar, file, b"hard", b"", b"x");
            }),
        ),
        (
            "devices and bits",
            tar_of(|tar| {
                let mut header = tar::Header::new_gnu();
                for (name, kind, major, minor) in [
                    ("disk", EntryType::Block, 8, 0),
                    ("memory", EntryType::Char, 1, 1),
                    ("whiteout", EntryType::Char, 0, 0),
                ] {
                    header.set_entry_type(kind);
                    header.set_size(0);
                    header.set_mode(0o6777);
                    header.set_device_major(major).unwrap();
                    header.set_device_minor(minor).unwrap();
                    tar.append_data(&mut header, name, std::io::empty()).unwrap();
                }
                append(tar, file, "bin/su2", 0o6755, None, b"#!/bin/sh\n");
                append(tar, EntryType::Fifo, "fifo", 0o644, None, b"");
                append(tar, EntryType::Fifo, "etc/passwd", 0o644, None, b"");
            }),
        ),
        (
            "whiteouts of everything",
            tar_of(|tar| {
                for name in [
                    ".wh..wh..opq",
                    ".wh.bin",
                    ".wh.etc",
                    "usr/.wh..wh..opq",
                    "new/.wh.gone",
                    "new/sub/.wh.gone",
                    ".wh.old",
                    "old/f",
                    "old/.wh.f",
                    ".wh..wh.plnk",
                    ".wh..wh..opq.x",
                ] {
                    raw(tar, file, name.as_bytes(), b"", b"");
                }
            }),
        ),
        ("a whiteout of nothing", tar_of(|tar| raw(tar, file, b".wh.", b"", b""))),
        ("a whiteout of the parent", tar_of(|tar| raw(tar, file, b"a/.wh...", b"", b""))),
        (
            "a whiteout through a link",
            tar_of(|tar| {
                raw(tar, link, b"out", up.as_bytes(), b"");
                raw(tar, file, b"out/.wh.marker", b"", b"");
                raw(tar, file, b"out/.wh..wh..opq", b"", b"");
            }),
        ),
        (
            "names that a terminal obeys",
            tar_of(|tar| {
                raw(tar, file, b"a\x1b]0;x\x07\x1b[31mb\r\nc", b"", b"x");
                raw(tar, link, b"\xff\xfe", b"\x1b[2J", b"");
                raw(tar, file, b"etc/\x1b[2J/f", b"", b"x");
            }),
        ),
        ("not a tar", b"\x1f\x8b\x08\x00garbage".repeat(100)),
        ("nothing", Vec::new()),
        ("half a tar", rootfs()[..70_000].to_vec()),
    ];
    for key in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.whiteout",
        "security.selinux",
    ] {
        layers.push((
            key,
            tar_of(|tar| {
                let value: &[u8] = if key.ends_with("redirect") { b"/../../etc" } else { b"y" };
                let name = format!("SCHILY.xattr.{key}");
                tar.append_pax_extensions([(name.as_str(), value)]).unwrap();
                append(tar, EntryType::Directory, "etc", 0o755, None, b"");
                tar.append_pax_extensions([(name.as_str(), value)]).unwrap();
                append(tar, file, "marked", 0o644, None, b"");
            }),
        ));
    }
    for (key, value) in [
        ("size", "99999999999999"),
        ("path", "../../../pwned"),
        ("uid", "-5"),
        ("linkpath", "/"),
        ("mtime", "1e99"),
    ] {
        layers.push((
            key,
            tar_of(|tar| {
                tar.append_pax_extensions([(key, value.as_bytes())]).unwrap();
                append(tar, file, "pax", 0o644, None, b"x");
            }),
        ));
    }
    for (name, layer) in layers {
        Layout::of(&[&base, &layer]).write(&layout);
        for (verb, outcome) in everywhere(&kit, &layout) {
            is_sound(&format!("{name}, {verb}"), &outcome);
        }
        canaries.are_unharmed(name);
        // Of what was exported no file is a device.
        let devices = devices_below(&kit.out("tree"));
        assert!(devices.is_empty(), "{name}: {devices:?}");
        let now: Vec<_> =
            litter(&kit).into_iter().filter(|it| !["layout", "store"].contains(&&**it)).collect();
        let before: Vec<_> = before
            .iter()
            .filter(|it| !["layout", "store"].contains(&it.as_str()))
            .cloned()
            .collect();
        assert_eq!(now, before, "{name}");
    }
    assert!(marks_below(&kit.store().join("layers")).is_empty());
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let facts = fs::symlink_metadata(&path).unwrap();
        visit(&path, &facts);
        if facts.is_dir() {
            walk(&path, visit);
        }
    }
}

fn devices_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(dir, &mut |path, facts| {
        if facts.file_type().is_char_device() || facts.file_type().is_block_device() {
            found.push(path.to_owned());
        }
    });
    found
}

/// Directories whose content overlay would take from elsewhere.
fn marks_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(dir, &mut |path, _| {
        for name in
            ["trusted.overlay.redirect", "user.overlay.redirect", "trusted.overlay.metacopy"]
        {
            if rustix::fs::lgetxattr(path, name, &mut [0u8; 64]).is_ok() {
                found.push(path.to_owned());
            }
        }
    });
    found
}

#[test]
fn an_honest_image_passes_through_every_command() {
    let kit = Kit::new();
    let layout = kit.beside("layout");
    Canaries::new(&kit);
    Layout::of(&[&rootfs()]).write(&layout);
    let done = everywhere(&kit, &layout);
    let failed: Vec<_> = done
        .iter()
        .filter(|(verb, outcome)| {
            outcome.status != Some(0) && !["mounts import"].contains(&verb.as_str())
        })
        .map(|(verb, outcome)| format!("{verb}: {:?} {}", outcome.status, outcome.text()))
        .collect();
    assert!(failed.is_empty() && done.len() >= 21, "{failed:#?}");
}

#[test]
fn a_configuration_may_say_anything() {
    let kit = Kit::new();
    let canaries = Canaries::new(&kit);
    let base = rootfs();
    let layout = kit.beside("layout");
    let escape = "\u{1b}]0;x\u{7}\u{1b}[31m";
    let fields: Vec<(&str, Value)> = vec![
        ("Env", json!("PATH=/bin")),
        ("Env", json!([1, null, {}])),
        (
            "Env",
            json!([
                "=x",
                "A",
                "A\u{0}B=c",
                "PATH=/proc/self/fd/3:../../bin",
                escape,
                "LD_PRELOAD=/x"
            ]),
        ),
        ("User", json!(5)),
        ("User", json!("../../x:..")),
        ("User", json!("4294967295:4294967295")),
        ("User", json!(escape)),
        ("WorkingDir", json!("/proc/self/fd/7")),
        ("WorkingDir", json!("../../..")),
        ("WorkingDir", json!(["/"])),
        ("WorkingDir", json!("/a\u{0}b")),
        ("WorkingDir", json!("/".repeat(5000))),
        ("Volumes", json!([])),
        ("Volumes", json!({"..": {}, "/proc": {}, "/proc/self/fd/3": {}, "": {}, escape: {}})),
        ("ExposedPorts", json!(3)),
        ("ExposedPorts", json!({escape: {}, "99999/x": 3})),
        ("Cmd", json!("sh")),
        ("Entrypoint", json!({"a": 1})),
        ("Entrypoint", json!(["/proc/self/exe"])),
        ("Entrypoint", json!(["/proc/self/fd/3/../../../../bin/sh"])),
        ("Labels", json!([1])),
        ("Labels", json!({escape: escape})),
        ("OnBuild", json!(["FROM x", "COPY ../../x /", "RUN --security=insecure true", escape, 5])),
        ("OnBuild", json!({"RUN": "x"})),
        ("Healthcheck", json!(3)),
        ("StopSignal", json!("99999")),
        ("Shell", json!([])),
        ("Shell", json!("sh")),
        ("", json!(null)),
        ("", json!([])),
        ("", json!("x")),
        ("/history", json!("x")),
        ("/history", json!([1, null, {"created_by": 5, "empty_layer": "yes", "created": "x"}])),
        (
            "/history",
            json!([{"created_by": escape, "comment": escape, "author": escape, "created": escape}]),
        ),
        ("/created", json!(5)),
        ("/created", json!("9999999-99-99")),
        ("/architecture", json!(7)),
        ("/architecture", json!(escape)),
        ("/os", json!("windows")),
        ("/rootfs", json!(null)),
        ("/rootfs", json!({"type": "layers", "diff_ids": ["sha256:../../x"]})),
        ("/rootfs", json!({"type": "layers", "diff_ids": [5]})),
        ("/rootfs", json!({"type": "layers", "diff_ids": []})),
        ("/variant", json!([])),
    ];
    let context = format!("--build-context=it=oci-layout://{}", layout.display());
    let shown = layout.to_str().unwrap();
    for (field, value) in fields {
        let mut image = Layout::of(&[&base]);
        match field.strip_prefix('/') {
            Some(outer) => image.config[outer] = value.clone(),
            None if field.is_empty() => image.config["config"] = value.clone(),
            None => image.config["config"][field] = value.clone(),
        }
        image.write(&layout);
        let name = format!("{field} {value:.60}");
        kit.dockerfile("FROM it\nRUN echo x > f; true\n");
        kit.builder(["rmi", "-f", "hostile"]).run();
        let mut runs = vec![
            kit.build().args([&context, "-ttagged"]),
            kit.builder(["diff", shown, shown]),
            kit.builder(["copy", &format!("oci:{shown}"), "hostile"]),
        ];
        for verb in ["inspect", "history"] {
            runs.push(kit.builder([verb, "hostile"]));
        }
        runs.push(kit.builder(["images"]));
        runs.push(kit.builder(["run", "hostile"]));
        runs.push(kit.builder(["run", "hostile", "/bin/sh", "-c", "echo x > f"]));
        for run in runs {
            is_sound(&name, &run.run());
        }
        let archive = kit.out("saved.tar");
        image.archive(&archive, "config.json", |n| format!("layer{n}"));
        is_sound(&name, &kit.builder(["load", "-i", archive.to_str().unwrap()]).run());
        canaries.are_unharmed(&name);
    }
}

#[test]
fn documents_may_lie_about_sizes_digests_and_types() {
    let kit = Kit::new();
    let canaries = Canaries::new(&kit);
    let base = rootfs();
    let layout = kit.beside("layout");
    let up = "sha256:../../../../canary/marker".to_owned();
    let secret = kit.beside("canary/marker");
    let mut images: Vec<(String, Layout)> = Vec::new();
    let mut with = |name: &str, manifest: fn(&mut Value), entry: fn(&mut Value)| {
        images.push((name.to_owned(), Layout { manifest, entry, ..Layout::of(&[&base]) }));
    };
    fn nothing(_: &mut Value) {}
    with("layer of no bytes", |m| m["layers"][0]["size"] = json!(0), nothing);
    with(
        "layer of one byte less",
        |m| m["layers"][0]["size"] = json!(m["layers"][0]["size"].as_u64().unwrap() - 1),
        nothing,
    );
    with("endless layer", |m| m["layers"][0]["size"] = json!(u64::MAX), nothing);
    with("negative layer", |m| m["layers"][0]["size"] = json!(-1), nothing);
    with("half a layer", |m| m["layers"][0]["size"] = json!(0.5), nothing);
    with("endless config", |m| m["config"]["size"] = json!(1u64 << 62), nothing);
    with("endless manifest", nothing, |e| e["size"] = json!(1u64 << 62));
    with("layer elsewhere", |m| m["layers"][0]["digest"] = json!("sha256:../../x"), nothing);
    with(
        "config elsewhere",
        |m| m["config"]["digest"] = json!("sha256:../../../index.json"),
        nothing,
    );
    with("manifest elsewhere", nothing, |e| {
        e["digest"] = json!("sha256:../../../../canary/marker");
    });
    with("absolute digest", nothing, |e| e["digest"] = json!("/etc/passwd"));
    with(
        "other algorithm",
        |m| m["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128))),
        nothing,
    );
    with(
        "capitals",
        |m| m["config"]["digest"] = json!(m["config"]["digest"].as_str().unwrap().to_uppercase()),
        nothing,
    );
    with("other layer", |m| m["layers"][0]["digest"] = m["config"]["digest"].clone(), nothing);
    with("no layers", |m| m["layers"] = json!(null), nothing);
    with("layers of another kind", |m| m["layers"] = json!({"a": 1}), nothing);
    with(
        "ten thousand layers",
        |m| m["layers"] = json!(vec![m["layers"][0].clone(); 10_000]),
        nothing,
    );
    with("both", |m| m["manifests"] = m["layers"].clone(), nothing);
    with(
        "gzip that is none",
        |m| m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip"),
        nothing,
    );
    with(
        "foreign layer",
        |m| {
            m["layers"][0]["mediaType"] =
                json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
            m["layers"][0]["urls"] = json!(["http://127.0.0.1:1/x", "file:///etc/passwd"]);
        },
        nothing,
    );
    with("config as manifest", nothing, |e| e["mediaType"] = json!("\u{1b}[31m"));
    with("absurd platform", nothing, |e| e["platform"] = json!([{"os": "\u{1b}[31m"}]));
    with("absurd annotations", nothing, |e| {
        e["annotations"] = json!({"org.opencontainers.image.ref.name": "../../\u{1b}[31m"});
    });
    with("annotations of another kind", nothing, |e| e["annotations"] = json!([5]));
    for (name, image) in &images {
        image.write(&layout);
        for (verb, outcome) in everywhere(&kit, &layout) {
            is_sound(&format!("{name}, {verb}"), &outcome);
            assert!(!outcome.text().contains("untouched"), "{name}, {verb}: {}", outcome.text());
        }
        canaries.are_unharmed(name);
    }
    // Index documents that are none.
    Layout::of(&[&base]).write(&layout);
    let index = layout.join("index.json");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let link = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"{up}","size":9}}]}}"#
    );
    for text in [
        "",
        "null",
        "[]",
        "5",
        "{}",
        r#"{"schemaVersion":1}"#,
        r#"{"manifests":{}}"#,
        "\u{0}",
        &nested,
        &link,
    ] {
        fs::write(&index, text).unwrap();
        for (verb, outcome) in everywhere(&kit, &layout) {
            is_sound(&format!("{text:.40}, {verb}"), &outcome);
        }
    }
    // Indexes in indexes, fifty deep.
    Layout::of(&[&base]).write(&layout);
    for _ in 0..50 {
        let bytes = fs::read(&index).unwrap();
        fs::write(layout.join("blobs/sha256").join(hex(&bytes)), &bytes).unwrap();
        let entry = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": format!("sha256:{}", hex(&bytes)),
            "size": bytes.len(),
        });
        fs::write(&index, json!({"schemaVersion": 2, "manifests": [entry]}).to_string()).unwrap();
    }
    for (verb, outcome) in everywhere(&kit, &layout) {
        is_sound(&verb, &outcome);
        assert!(!verb.starts_with("copy") || outcome.status != Some(0), "{verb} went fifty deep");
    }
    // A docker archive with names of its choice.
    let archive = kit.out("saved.tar");
    type LayerName = fn(usize) -> String;
    let names: [(&str, LayerName); 4] = [
        ("config.json", |n| format!("../../../../canary/{n}")),
        ("../canary/marker", |n| format!("{n}/layer.tar")),
        ("manifest.json", |_| "manifest.json".to_owned()),
        ("/etc/passwd", |_| "/etc/passwd".to_owned()),
    ];
    for (config, layer) in names {
        Layout::of(&[&base]).archive(&archive, config, layer);
        let path = archive.to_str().unwrap();
        is_sound(config, &kit.builder(["load", "-i", path]).run());
        is_sound(config, &kit.builder(["copy", &format!("docker-archive:{path}"), "x"]).run());
        is_sound(config, &kit.builder(["diff", path, path]).run());
    }
    assert_eq!(fs::read_to_string(secret).unwrap(), "untouched");
    canaries.are_unharmed("documents");
}
