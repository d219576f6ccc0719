//! `fixture/base`: busybox and a few accounts, as an OCI layout, made once and shared by all tests.

use super::host::tool;
use super::make_dir;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Changes with what [`layout`] writes.
const FORMAT: u32 = 1;

/// 2026-01-01T00:00:00Z, the time of everything in the base.
pub const TIME: u64 = 1_767_225_600;

/// The static busybox of the machine.
pub const BUSYBOX: &str = "/bin/busybox";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      app:x:1000:1001:app:/home/app:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/home:/bin/false\n";

const GROUP: &str = "root:x:0:\nusers:x:100:app\napp:x:1001:\nnobody:x:65534:\n";

/// The directory of the layout that `fixture/base` stands for.
pub fn layout() -> &'static Path {
    static LAYOUT: OnceLock<PathBuf> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        let busybox = fs::metadata(BUSYBOX).expect("busybox-static: scripts/test.sh installs it");
        let name = format!("base-{FORMAT}-{}-{}", busybox.size(), busybox.mtime());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if !path.is_dir() {
            // Other tests may be at the same: each makes its own, the first rename wins.
            let own = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temp dir");
            Layout::of(&rootfs()).write(&own.path().join("layout"));
            if fs::rename(own.path().join("layout"), &path).is_err() {
                assert!(path.is_dir(), "{} could not be made", path.display());
            }
        }
        path
    })
}

/// Debian 12 as the tar of a root file system, made once. Needs mmdebstrap and a mirror of Debian.
pub fn debian() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-bookworm.tar");
    if !path.is_file() {
        let own = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temp dir");
        let tar = own.path().join("bookworm.tar");
        tool(&["mmdebstrap", "--variant=minbase", "bookworm", tar.to_str().expect("UTF-8")]);
        fs::rename(tar, &path).expect("rename");
    }
    path
}

/// An image about to be written as an OCI layout.
pub struct Layout {
    layers: Vec<Vec<u8>>,
    /// The `config` object of the image configuration.
    pub config: Value,
    /// When it says it was made.
    pub created: String,
}

impl Layout {
    /// An image of one layer, a tar.
    pub fn of(layer: &[u8]) -> Self {
        Self {
            layers: vec![layer.to_vec()],
            config: json!({"Env": [format!("PATH={}", super::PATH)], "Cmd": ["sh"]}),
            created: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    /// Puts a layer on top, a tar.
    pub fn push(&mut self, layer: &[u8]) {
        self.layers.push(layer.to_vec());
    }

    /// Writes the layout into a directory that is not there yet.
    pub fn write(&self, directory: &Path) {
        make_dir(&directory.join("blobs/sha256"));
        let put = |bytes: &[u8], kind: &str| {
            let hex = hex(bytes);
            fs::write(directory.join("blobs/sha256").join(&hex), bytes).expect("write a blob");
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": format!("sha256:{hex}"),
                "size": bytes.len(),
            })
        };
        let diff_ids = self.layers.iter().map(|tar| format!("sha256:{}", hex(tar)));
        let config = json!({
            "created": self.created,
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>()},
            "history": [{"created": self.created, "created_by": "fixture"}],
        });
        let layers = self.layers.iter().map(|tar| put(tar, "layer.v1.tar")).collect::<Vec<_>>();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(config.to_string().as_bytes(), "config.v1+json"),
            "layers": layers,
        });
        let mut entry = put(manifest.to_string().as_bytes(), "manifest.v1+json");
        entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        fs::write(directory.join("index.json"), index.to_string()).expect("write the index");
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("write the marker");
    }
}

/// A root file system: busybox under all its names, accounts, and the usual directories.
pub fn rootfs() -> Vec<u8> {
    rootfs_of(&fs::read(BUSYBOX).expect("read busybox"))
}

/// The same with another busybox, which need not run here.
pub fn rootfs_of(busybox: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let directories = [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("home/app", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("var", 0o755),
        ("var/tmp", 0o1777),
    ];
    for (name, mode) in directories {
        append(&mut tar, tar::EntryType::Directory, name, mode, None, b"");
    }
    append(&mut tar, tar::EntryType::Regular, "bin/busybox", 0o755, None, busybox);
    let applets = Command::new(BUSYBOX).arg("--list").output().expect("busybox runs").stdout;
    for applet in String::from_utf8(applets).expect("names").lines().filter(|n| *n != "busybox") {
        let name = format!("bin/{applet}");
        append(&mut tar, tar::EntryType::Link, &name, 0o755, Some("bin/busybox"), b"");
    }
    append(&mut tar, tar::EntryType::Symlink, "usr/bin/env", 0o777, Some("../../bin/env"), b"");
    append(&mut tar, tar::EntryType::Regular, "etc/passwd", 0o644, None, PASSWD.as_bytes());
    append(&mut tar, tar::EntryType::Regular, "etc/group", 0o644, None, GROUP.as_bytes());
    tar.into_inner().expect("a tar in memory")
}

/// Adds one entry, owned by root, of the fixed time.
pub fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    name: &str,
    mode: u32,
    link: Option<&str>,
    content: &[u8],
) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(name).expect("a short name");
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header.set_size(content.len() as u64);
    if let Some(link) = link {
        header.set_link_name(link).expect("a short link");
    }
    header.set_cksum();
    tar.append(&header, content).expect("a tar in memory");
}

/// The sha256 of some bytes, in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
