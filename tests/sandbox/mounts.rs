//! Extra mounts, and that they leave nothing behind.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use builder::sandbox::{Agent, MountKind, MountSpec, Source};

use super::kit::Kit;

fn at(target: &str, kind: MountKind) -> MountSpec {
    MountSpec { target: target.into(), kind }
}

fn bind(source: usize, subpath: &str, readonly: bool) -> MountKind {
    MountKind::Bind { source, subpath: subpath.into(), readonly }
}

#[test]
fn privileged_an_empty_step_leaves_only_mount_directories() {
    let Some(kit) = Kit::new() else { return };
    let before = fs::metadata(kit.base("etc")).unwrap().modified().unwrap();
    let outcome = kit.sh("true");
    // A directory that was touched is copied up, but not changed: layers leave it out.
    assert_eq!(outcome.entries(), ["etc"]);
    assert_eq!(fs::metadata(outcome.layer.join("etc")).unwrap().modified().unwrap(), before);
}

#[test]
fn privileged_binds_show_directories_files_and_parts() {
    let Some(kit) = Kit::new() else { return };
    let tree = kit.dir.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("f"), "file").unwrap();
    fs::write(tree.join("sub/g"), "inner").unwrap();
    std::os::unix::fs::symlink("/etc", tree.join("out")).unwrap();
    let source = File::open(&tree).unwrap();
    let mut spec = kit.spec(
        "cat /a/f /b/g /new/file; echo x > /a/f; echo x > /c/f && cat /a/f; ls /a | tr '\\n' ' '",
    );
    spec.mounts = vec![
        at("/new/file", bind(0, "f", true)),
        at("/a", bind(0, "", true)),
        at("/b", bind(0, "/sub", true)),
        at("/c", bind(0, "", false)),
    ];
    let outcome = kit.run_with(&spec, vec![Source::Tree(source.as_fd())]);
    assert_eq!(outcome.stdout, "fileinnerfilex\nf out sub ");
    assert!(outcome.stderr.contains("Read-only file system"));
    assert_eq!(fs::read(tree.join("f")).unwrap(), b"x\n");
    assert_eq!(outcome.entries(), ["etc"]);

    spec.mounts = vec![at("/d", bind(0, "out/passwd", true))];
    let error = kit.try_run(&spec, vec![Source::Tree(source.as_fd())], &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("/out/passwd: not found"), "{error}");
}

#[test]
fn privileged_tmpfs_has_its_size_and_mode() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit
        .spec("stat -c %a /t; dd if=/dev/zero of=/t/x bs=1M count=4 2>/dev/null; stat -c %s /t/x");
    spec.mounts = vec![at("/t", MountKind::Tmpfs { size: Some(1 << 20), mode: Some(0o1777) })];
    let outcome = kit.run(&spec);
    assert_eq!(outcome.stdout, "1777\n1048576\n");
    assert_eq!(outcome.entries(), ["etc"]);
}

#[test]
fn privileged_secrets_have_their_owner_and_leave_nothing() {
    let Some(kit) = Kit::new() else { return };
    let mut secret = tempfile::tempfile().unwrap();
    secret.write_all(b"the-secret").unwrap();
    secret.rewind().unwrap();
    let mut spec = kit.spec("cat /run/secrets/s; stat -c ' %a %u %g' /run/secrets/s");
    let kind = MountKind::Secret { source: 0, mode: 0o400, uid: 1000, gid: 77 };
    spec.mounts = vec![at("/run/secrets/s", kind)];
    spec.user = "app".into();
    let outcome = kit.run_with(&spec, vec![Source::File(secret.as_fd())]);
    assert_eq!(outcome.stdout, "the-secret 400 1000 77\n");
    assert_eq!(outcome.entries(), ["etc"]);
}

#[test]
fn privileged_an_agent_is_reached_through_our_socket() {
    let Some(kit) = Kit::new() else { return };
    let path = kit.dir.path().join("agent");
    let agent = UnixListener::bind(&path).unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = agent.accept().unwrap();
        let mut request = [0; 5];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&[0, 0, 0, 3, 12, b'o', b'k']).unwrap();
        request
    });
    let mut spec = kit.spec(
        "stat -c '%a %u %F' /run/agent; printf '\\0\\0\\0\\1\\13' | nc -w 2 local:/run/agent | od -An -c",
    );
    spec.mounts = vec![at("/run/agent", MountKind::Ssh { source: 0, mode: 0o600, uid: 7, gid: 8 })];
    let outcome = kit.run_with(&spec, vec![Source::Agent(&Agent::Socket(path.clone()))]);
    if outcome.stdout.contains("\\f") {
        assert_eq!(served.join().unwrap(), [0, 0, 0, 1, 11]);
    } else {
        // This busybox's nc knows no local sockets; the socket itself is what is left to see.
        println!("not spoken to: {}", outcome.stderr);
    }
    assert!(outcome.stdout.starts_with("600 7 socket\n"), "{outcome:?}");
    assert_eq!(outcome.entries(), ["etc"]);
}

#[test]
fn privileged_a_read_only_root_refuses_writes() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec("touch /x; touch /dev/shm/y && echo shm");
    spec.readonly_root = true;
    let outcome = kit.run(&spec);
    assert_eq!(outcome.stdout, "shm\n");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
}
