//! Programs of other processors: busybox and the emulators of Debian, fetched once by
//! `scripts/emulation.sh` and shared by all tests. Nothing of them is installed.

use super::{Kit, base, host};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Platforms of which there is a busybox: name, Debian's name, QEMU's name.
pub const PLATFORMS: [(&str, &str, &str); 6] = [
    ("linux/arm64", "arm64", "aarch64"),
    ("linux/arm/v7", "armhf", "arm"),
    ("linux/riscv64", "riscv64", "riscv64"),
    ("linux/ppc64le", "ppc64el", "ppc64le"),
    ("linux/s390x", "s390x", "s390x"),
    ("linux/386", "i386", "i386"),
];

/// A platform whose programs no machine of ours runs.
pub const FOREIGN: &str = "linux/riscv64";

fn files() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulation-1");
    if !path.is_dir() {
        let lock = fs::File::create(path.with_extension("lock")).expect("lock");
        lock.lock().expect("lock");
        if !path.is_dir() {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/emulation.sh");
            let status = Command::new("bash").arg(script).arg(&path).status().expect("bash");
            assert!(status.success(), "{script}: {status}");
        }
    }
    path
}

/// Tells whether the packages of Debian can be fetched, and whether this kernel lets emulators be
/// registered for some commands.
pub fn can_run() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next(), numbers.next());
    if !matches!(version, (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 7)) {
        cannot_run_here!("emulators for some commands take Linux 6.7");
        return false;
    }
    host::has("apt-get", "apt") && host::has("dpkg-deb", "dpkg")
}

fn of(platform: &str) -> (&'static str, &'static str) {
    let found = PLATFORMS.iter().find(|(name, ..)| *name == platform);
    found.map(|&(_, debian, qemu)| (debian, qemu)).expect("a platform of the kit")
}

/// The root file system of `fixture/base`, for another platform.
pub fn rootfs(platform: &str) -> Vec<u8> {
    let busybox = files().join(format!("busybox-{}", of(platform).0));
    base::rootfs_of(&fs::read(busybox).expect("busybox"))
}

/// The emulator of a platform, as Debian has it.
pub fn emulator(platform: &str) -> PathBuf {
    files().join(format!("qemu-{}-static", of(platform).1))
}

impl Kit {
    /// Imports a root file system for a platform as an image of this name.
    pub fn import_foreign(&self, platform: &str, name: &str) {
        let flag = format!("--platform={platform}");
        self.builder(["import", &flag, "-", name]).input(rootfs(platform)).ok();
    }

    /// Puts the emulators of platforms into a directory that the program may be given, and returns
    /// it.
    pub fn emulators(&self, platforms: &[&str]) -> PathBuf {
        let directory = self.beside("emulators");
        super::make_dir(&directory);
        for platform in platforms {
            let from = emulator(platform);
            fs::copy(&from, directory.join(from.file_name().expect("a name"))).expect("copy");
        }
        directory
    }
}

/// A `PATH` that begins with a directory.
pub fn path_with(directory: &Path) -> String {
    format!("{}:{}", directory.display(), super::PATH)
}
