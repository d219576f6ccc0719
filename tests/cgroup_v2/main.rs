//! Control groups of version 2 alone, on a kernel that has them: a small machine is emulated.
//!
//! Debian's kernel for virtual machines, a busybox, the builder with its libraries, and `guest.sh` as
//! process 1. Emulated in software, so that it runs where no hardware helps: ten seconds on a quiet
//! machine. Needs `qemu-system-x86`, `busybox-static` and a Debian mirror for the kernel, which is kept
//! between runs.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "how a test fails, and what it shows"
)]
#![cfg(target_arch = "x86_64")]

#[macro_use]
#[path = "../kit/skip.rs"]
mod skip;

#[path = "../kit/mod.rs"]
mod kit;

use kit::{base, host};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After this the machine is switched off and the test fails.
const LIMIT: Duration = Duration::from_mins(5);

/// Everything that `guest.sh` checks.
const CHECKS: [&str; 18] = [
    "memory",
    "oom-group",
    "pids",
    "cpu",
    "cpu-weight",
    "io-max",
    "cpuset",
    "oom-explained",
    "oom-whole",
    "pids-hold",
    "usage-cpu",
    "usage-memory",
    "freeze",
    "thaw",
    "kill-frozen",
    "sweep",
    "undelegated",
    "substitute",
];

#[test]
fn privileged_version_2_alone_limits_kills_freezes_and_counts() {
    if !host::has("qemu-system-x86_64", "qemu-system-x86")
        || !host::has("apt-get", "apt")
        || !host::has("dpkg-deb", "dpkg")
    {
        return;
    }
    let kernel = kernel();
    let dir = tempfile::tempdir().unwrap();
    let initramfs = initramfs(dir.path(), &kernel);
    let said = boot(&image(&kernel), &initramfs);
    let failed: Vec<&String> = said.iter().filter(|line| line.starts_with("not ok")).collect();
    let missing: Vec<&str> = CHECKS
        .into_iter()
        .filter(|check| !said.iter().any(|line| line.strip_prefix("ok ") == Some(check)))
        .collect();
    assert!(failed.is_empty() && missing.is_empty(), "{missing:?}\n{}", said.join("\n"));
}

/// The unpacked kernel package, downloaded once.
fn kernel() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel");
    if !directory.is_dir() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kernel.sh");
        host::tool(&[script, directory.to_str().unwrap()]);
    }
    directory
}

fn image(kernel: &Path) -> PathBuf {
    let mut boot = fs::read_dir(kernel.join("boot")).unwrap().flatten();
    boot.find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz")).unwrap().path()
}

/// Packs all that the machine has.
fn initramfs(dir: &Path, kernel: &Path) -> PathBuf {
    let root = dir.join("root");
    for directory in
        ["bin", "sbin", "etc", "proc", "sys", "dev", "modules", "new", "usr/bin", "usr/sbin"]
    {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in host::tool(&["/bin/busybox", "--list"]).lines().filter(|name| *name != "busybox")
    {
        std::os::unix::fs::symlink("/bin/busybox", root.join("bin").join(applet)).unwrap();
    }
    copy_program(Path::new(kit::BUILDER), &root, "bin/builder");
    let mke2fs = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].map(Path::new);
    let mke2fs = mke2fs.into_iter().find(|path| path.exists()).expect("e2fsprogs");
    copy_program(mke2fs, &root, "sbin/mke2fs");
    for module in ["overlay.ko", "brd.ko"] {
        let found = host::tool(&["find", kernel.to_str().unwrap(), "-name", module]);
        fs::copy(found.trim(), root.join("modules").join(module)).unwrap();
    }
    fs::write(root.join("base.tar"), base::rootfs()).unwrap();
    let copy_script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(root.join(name), text).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    copy_script("guest.sh", include_str!("guest.sh"));
    // No sandbox can leave the initial file system: its root has no mount above. So a copy of it
    // in memory becomes the root.
    copy_script(
        "init",
        "#!/bin/sh\n\
         mount -t tmpfs tmpfs /new\n\
         cp -a /bin /base.tar /etc /guest.sh /lib* /modules /sbin /usr /new/ 2>/dev/null\n\
         mkdir /new/proc /new/sys /new/dev\n\
         exec switch_root /new /guest.sh\n",
    );
    let archive = dir.join("initramfs");
    let pack = "cd \"$1\" && find . | busybox cpio -o -H newc > \"$2\"";
    let (root, to) = (root.to_str().unwrap(), archive.to_str().unwrap());
    host::tool(&["sh", "-c", pack, "pack", root, to]);
    archive
}

/// Copies a program and the libraries it is linked with, without what only debuggers read.
fn copy_program(program: &Path, root: &Path, name: &str) {
    let linked = host::tool(&["ldd", program.to_str().unwrap()]);
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries {
        let to = root.join(&library[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
    let to = root.join(name);
    fs::copy(program, &to).unwrap();
    if Command::new("strip").arg(&to).status().is_err() {
        println!("strip is missing: the machine gets a larger program");
    }
}

/// Runs the machine to its end and returns what it said.
fn boot(kernel: &Path, initramfs: &Path) -> Vec<String> {
    let mut machine = Command::new("qemu-system-x86_64")
        // Never hardware: where it is there it may not work, and every run is to be the same.
        .args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "2", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none"])
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = channel();
    let output = machine.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + LIMIT;
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => said.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                said.push(format!("switched off after {} s", LIMIT.as_secs()));
                machine.kill().unwrap();
                break;
            }
        }
    }
    machine.wait().unwrap();
    said
}
