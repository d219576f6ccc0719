//! Whose ids a command has, and that the layers do not know.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use builder::sandbox::{
    Agent, IdMap, MountKind, MountSpec, NetworkMode, SandboxError, Security, Source,
};

use super::kit::Kit;

/// First user and first group of a range that no machine gives to a user, so that seeing it is proof.
const FIRST: (u32, u32) = (0x7001_0000, 0x7002_0000);

fn mapped() -> Option<Kit> {
    let kit = Kit::with(|options| options.idmap = Some(IdMap::spread(FIRST, (&[], &[]))))?;
    if kit.sandbox.ids(Security::Default).unwrap().is_none() {
        cannot_run_here!("{:?}", kit.sandbox.take_notices());
        return None;
    }
    Some(kit)
}

fn owner(path: &std::path::Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn privileged_a_command_is_nobody_on_the_machine_and_root_in_its_layer() {
    let Some(kit) = mapped() else { return };
    let said = kit.sh(
        "cat /proc/self/uid_map /proc/self/gid_map; mkdir /d; touch /d/f; ln -s f /d/l; mkfifo /d/p; \
         chown 1000:77 /d/f; chown -h 33:44 /d/l; chown 65535:65534 /d; stat -c %u:%g / /d /d/f",
    );
    let fields: Vec<&str> = said.stdout.split_whitespace().collect();
    assert_eq!(fields[..3], ["0", "1879113728", "65536"], "{said:?}");
    assert!(said.stdout.contains(" 0 1879179264      65536\n"), "{said:?}");
    // No id of the machine's own users, root's above all, is within reach.
    let numbers: Vec<u32> = fields[..fields.len() - 3].iter().map(|f| f.parse().unwrap()).collect();
    assert!(numbers.chunks(3).all(|extent| extent[1] >= 65_536), "{said:?}");
    assert_eq!(fields[fields.len() - 3..], ["0:0", "65535:65534", "1000:77"]);
    for (path, ids) in
        [("d", (65_535, 65_534)), ("d/f", (1000, 77)), ("d/l", (33, 44)), ("d/p", (0, 0))]
    {
        assert_eq!(owner(&said.layer.join(path)), ids, "{path}");
    }
}

#[test]
fn privileged_generated_files_and_mount_points_are_roots_and_leave_nothing() {
    let Some(kit) = mapped() else { return };
    let script = "stat -c '%n %u:%g' /etc/hosts /etc/resolv.conf /dev /dev/null /dev/shm; \
                  touch /dev/shm/x && stat -c '%n %u' /dev/shm/x";
    for line in kit.says(script).lines() {
        assert!(line.ends_with(" 0:0") || line.ends_with(" 0"), "{line}");
    }
    assert_eq!(kit.sh("true").entries(), ["etc"]);
}

#[test]
fn privileged_mounts_have_the_owners_they_were_given() {
    let Some(kit) = mapped() else { return };
    let cache = kit.dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("f"), "kept").unwrap();
    std::os::unix::fs::chown(cache.join("f"), Some(1000), Some(1000)).unwrap();
    let secret = kit.dir.path().join("secret");
    fs::write(&secret, "hush").unwrap();
    let (tree, file) = (fs::File::open(&cache).unwrap(), fs::File::open(&secret).unwrap());
    let agent = kit.dir.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    let mut spec = kit.spec(
        "stat -c '%u:%g' /cache/f /secret /agent /t; cat /secret; touch /cache/new; \
         chown 7:8 /cache/new; echo x > /t/y && cat /t/y",
    );
    let kinds = [
        ("/cache", MountKind::Bind { source: 0, subpath: String::new(), readonly: false }),
        ("/secret", MountKind::Secret { source: 1, mode: 0o400, uid: 1000, gid: 7 }),
        ("/agent", MountKind::Ssh { source: 2, mode: 0o600, uid: 5, gid: 6 }),
        ("/t", MountKind::Tmpfs { size: None, mode: Some(0o1777) }),
    ];
    spec.mounts =
        kinds.map(|(target, kind)| MountSpec { target: target.to_owned(), kind }).to_vec();
    let agent = Agent::Socket(agent);
    let sources =
        vec![Source::Tree(tree.as_fd()), Source::File(file.as_fd()), Source::Agent(&agent)];
    let outcome = kit.run_with(&spec, sources);
    assert_eq!(outcome.stdout, "1000:1000\n1000:7\n5:6\n0:0\nhushx\n", "{outcome:?}");
    assert_eq!(owner(&cache.join("new")), (7, 8));
}

#[test]
fn privileged_setuid_programs_and_file_capabilities_work_and_stay_plain() {
    let Some(kit) = mapped() else { return };
    // busybox gives up such rights by itself.
    let source = "#include <stdio.h>\n#include <unistd.h>\n\
                  int main(void) { return printf(\"%d %d\\n\", getuid(), geteuid()) < 0; }";
    kit.compile(source, "bin/whose");
    fs::set_permissions(kit.base("bin/whose"), fs::Permissions::from_mode(0o4755)).unwrap();
    let mut spec = kit.spec("/bin/whose");
    spec.user = "app".into();
    assert_eq!(kit.run(&spec).stdout, "1000 0\n");

    // Version 2, cap_net_raw effective: what setcap(8) writes for the initial user namespace.
    let value = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    fs::copy(kit.base("bin/busybox"), kit.base("bin/capable")).unwrap();
    rustix::fs::setxattr(kit.base("bin/capable"), "security.capability", &value, flags).unwrap();
    let mut spec = kit.spec("ln -s /bin/capable /tmp/grep; /tmp/grep CapEff /proc/self/status");
    spec.user = "app".into();
    assert_eq!(kit.run(&spec).stdout, "CapEff:\t0000000000002000\n");
    let outcome =
        kit.sh("echo >> /bin/capable; cp -p /bin/busybox /bin/other; chmod 4755 /bin/other");
    let mode = fs::metadata(outcome.layer.join("bin/other")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o4755);
}

#[test]
fn privileged_removals_become_whiteouts_of_roots() {
    let Some(kit) = mapped() else { return };
    fs::create_dir_all(kit.base("gone/deep")).unwrap();
    fs::write(kit.base("gone/deep/f"), "").unwrap();
    let outcome = kit.sh("rm /etc/group && rm -r /gone && mkdir /gone && touch /gone/new");
    assert_eq!(outcome.exit.status, 0, "{outcome:?}");
    let whiteout = fs::symlink_metadata(outcome.layer.join("etc/group")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut mark = [0; 4];
    let length =
        rustix::fs::getxattr(outcome.layer.join("gone"), "trusted.overlay.opaque", &mut mark);
    assert_eq!(length.map(|length| mark[..length].to_vec()), Ok(b"y".to_vec()));
}

#[test]
fn privileged_devices_can_be_made_and_not_opened() {
    let Some(kit) = mapped() else { return };
    let outcome = kit.sh("umask 027; cd /tmp; mknod a c 1 5 && mknod -m 600 ../b b 7 0; ls a /b; \
         head -c1 a; head -c1 /b; mknod a c 1 5; mknod /sys/c c 1 5; mknod /dev/c c 1 5 && ls /dev/c; \
         su app -c 'mknod c c 1 5'; ls c");
    assert_eq!(outcome.stdout, "/b\na\n/dev/c\n", "{outcome:?}");
    for denied in ["mknod: a: File exists", "/sys/c: Operation not permitted"] {
        assert!(outcome.stderr.contains(denied), "{denied}: {}", outcome.stderr);
    }
    assert_eq!(outcome.stderr.matches("Permission denied").count(), 2, "{}", outcome.stderr);
    let a = fs::symlink_metadata(outcome.layer.join("tmp/a")).unwrap();
    assert!(a.file_type().is_char_device() && a.rdev() == 0x105 && a.mode() & 0o777 == 0o640);
    assert_eq!((a.uid(), a.gid()), (0, 0));
    assert!(fs::symlink_metadata(outcome.layer.join("b")).unwrap().file_type().is_block_device());
    let mut spec = kit.spec("mknod /tmp/a c 1 5");
    spec.policy.cap_drop = vec!["MKNOD".into()];
    assert_ne!(kit.run(&spec).exit.status, 0, "not without the capability");
}

#[test]
fn privileged_insecure_commands_and_host_ids_are_as_they_ever_were() {
    let Some(kit) = mapped() else { return };
    let mut spec = kit.spec("cat /proc/self/uid_map; mount -t tmpfs x /tmp && echo mounted");
    spec.security = Security::Insecure;
    let said = kit.run(&spec).stdout;
    assert!(said.contains("4294967295") && said.ends_with("mounted\n"), "{said}");
    let Some(kit) = Kit::with(|options| options.idmap = None) else { return };
    assert!(kit.says("cat /proc/self/uid_map").contains("4294967295"));
}

#[test]
fn privileged_capabilities_reach_no_further_than_the_sandbox() {
    let Some(kit) = mapped() else { return };
    let mut spec = kit.spec(
        "mount -t tmpfs x /tmp && echo mounted; umount /etc/hosts || umount /proc/sys || \
         mount -o remount,rw /proc/sys || hostname other || echo kept; \
         ip link add type dummy; ip link | grep -c dummy",
    );
    spec.policy.network = NetworkMode::None;
    spec.policy.cap_add = vec!["SYS_ADMIN".into(), "NET_ADMIN".into()];
    let outcome = kit.run(&spec);
    assert!(outcome.stdout.starts_with("mounted\nkept\n"), "{outcome:?}");
}

/// Ids beyond 65535: the first and the last, those of directory services and OpenShift, both ends of
/// each extent.
const LARGE: [u32; 9] = [
    65_536,
    70_000,
    100_000,
    1_000_700_000,
    2_147_483_647,
    2_147_483_648,
    3_000_000_000,
    4_294_836_223,
    4_294_967_294,
];

#[test]
fn privileged_files_of_large_ids_are_read_copied_changed_and_removed() {
    let Some(kit) = mapped() else { return };
    for id in LARGE {
        let path = kit.base(&format!("of/{id}"));
        fs::create_dir_all(path.join("d")).unwrap();
        fs::write(path.join("d/f"), "x").unwrap();
        fs::write(path.join("gone"), "x").unwrap();
        for name in ["d/f", "d", "gone", ""] {
            std::os::unix::fs::lchown(path.join(name), Some(id), Some(id)).unwrap();
        }
    }
    let outcome = kit.sh("cd /of; for id in *; do stat -c %u:%g $id/d/f; cp -a $id/d $id/copy; \
         echo y >> $id/d/f; touch $id/new; chown $id:$id $id/new; chmod 600 $id/copy/f; \
         chown 0 $id/copy/f; rm $id/gone; done");
    assert_eq!((outcome.exit.status, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    for id in LARGE {
        assert!(outcome.stdout.contains(&format!("{id}:{id}\n")), "{id}: {outcome:?}");
        let made = outcome.layer.join(format!("of/{id}"));
        for name in ["copy", "d/f", "new"] {
            assert_eq!(owner(&made.join(name)), (id, id), "{id} {name}");
        }
        assert_eq!(owner(&made.join("copy/f")), (0, id), "{id}");
        let gone = fs::symlink_metadata(made.join("gone")).unwrap();
        assert!(gone.file_type().is_char_device(), "{id}");
    }
}

#[test]
fn privileged_large_ids_are_users_groups_and_owners_of_mounts() {
    let Some(kit) = mapped() else { return };
    let secret = kit.dir.path().join("secret");
    fs::write(&secret, "hush").unwrap();
    let file = fs::File::open(&secret).unwrap();
    let mut spec = kit.spec("id -u; id -g; cat /s; touch /tmp/mine; stat -c %u:%g /s /tmp/mine");
    spec.user = "1000700000:2000000000".into();
    let (mode, uid, gid) = (0o400, 1_000_700_000, 4_294_967_294);
    let kind = MountKind::Secret { source: 0, mode, uid, gid };
    spec.mounts = vec![MountSpec { target: "/s".into(), kind }];
    let outcome = kit.run_with(&spec, vec![Source::File(file.as_fd())]);
    let expected = "1000700000\n2000000000\nhush1000700000:4294967294\n1000700000:2000000000\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    assert_eq!(owner(&outcome.layer.join("tmp/mine")), (1_000_700_000, 2_000_000_000));
}

#[test]
fn privileged_an_id_that_cannot_be_mapped_is_refused_before_the_command() {
    let taken = std::slice::from_ref(&(65_536..0x7000_0000_u64));
    let map = IdMap::spread(FIRST, (taken, taken));
    let Some(kit) = Kit::with(|options| options.idmap = Some(map)) else { return };
    if kit.sandbox.ids(Security::Default).unwrap().is_none() {
        return;
    }
    let secret = kit.dir.path().join("secret");
    fs::write(&secret, "hush").unwrap();
    let file = fs::File::open(&secret).unwrap();
    let mut spec = kit.spec("true");
    let kind = MountKind::Secret { source: 0, mode: 0o400, uid: 4_000_000_000, gid: 0 };
    spec.mounts = vec![MountSpec { target: "/s".into(), kind }];
    let sources = vec![Source::File(file.as_fd())];
    let error = kit.try_run(&spec, sources, &mut |_, _| {}).unwrap_err();
    let unmapped =
        matches!(error, SandboxError::UnmappedId { id: 4_000_000_000, is_chosen: true, .. });
    assert!(unmapped, "{error}");
}
