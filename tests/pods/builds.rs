//! Containers as clusters and runners start them, in which no namespace can be made.

use crate::kit::pod::{Pod, own_users};
use crate::kit::{Archive, Kit, Run, base, users};

/// What can be said of a Dockerfile without running a command.
const DOCKERFILE: &str = "\
FROM fixture/base AS one
WORKDIR /work/deep
COPY --chown=app:app --chmod=0751 f /d/f
COPY --chown=7:8 tree /tree
ADD files.tar /added/
FROM fixture/base
LABEL a=b
USER app
WORKDIR /home/app/w
COPY --from=one /d /tree /again/
COPY --from=one /added/sub/ /bin/busybox /etc/
COPY f /bin/env
COPY g /again/f
CMD [\"true\"]
";

fn context(kit: &Kit) {
    kit.file("f", "1").file("g", "two").file("tree/a", "a").file("tree/deep/b", "b");
    kit.symlink("a", "tree/link").symlink("/nowhere", "tree/deep/link").dockerfile(DOCKERFILE);
    kit.chmod("tree/a", 0o444);
    let mut tar = tar::Builder::new(Vec::new());
    base::append(&mut tar, tar::EntryType::Directory, "sub", 0o500, None, b"");
    base::append(&mut tar, tar::EntryType::Regular, "sub/closed", 0o000, None, b"closed");
    base::append(&mut tar, tar::EntryType::Regular, "sub/setuid", 0o4755, None, b"s");
    base::append(&mut tar, tar::EntryType::Link, "sub/hard", 0o4755, Some("sub/setuid"), b"");
    base::append(&mut tar, tar::EntryType::Symlink, "sub/link", 0o777, Some("closed"), b"");
    base::append(&mut tar, tar::EntryType::Fifo, "sub/pipe", 0o640, None, b"");
    kit.file("files.tar", tar.into_inner().unwrap());
}

/// Builds, and returns the digest of the image.
pub(crate) fn digest(kit: &Kit, lay: impl FnOnce(Run) -> Run) -> String {
    let archive = kit.out("image.tar");
    let run = kit.build().env("SOURCE_DATE_EPOCH", "1600000000");
    let output = format!("-otype=oci,dest={},rewrite-timestamp=true", archive.display());
    lay(run.arg(output)).ok();
    Archive::open(&archive).digest
}

#[test]
fn builds_without_commands_need_no_namespace() {
    if !Pod::can_run() {
        return;
    }
    let plain = Kit::new();
    context(&plain);
    let wanted = digest(&plain, |run| run);
    let kit = Kit::new();
    context(&kit);
    assert_eq!(digest(&kit, |run| run.in_pod(Pod::Docker)), wanted);
    let restricted = Kit::of(users::without_ranges());
    context(&restricted);
    assert_eq!(digest(&restricted, |run| run.in_pod(Pod::Restricted)), wanted);
}

/// What commands leave behind, in all the forms that a layer has.
const COMMANDS: &str = "\
FROM fixture/base AS one
RUN mkdir -p /d/sub /gone/deep && echo 1 > /d/f && echo 2 > /d/sub/g && ln /d/f /d/hard && mkfifo /d/pipe
RUN chown -R app:app /d && chmod 4711 /d/f && ln -s f /d/link && touch -d @1500000000 /d/sub/g
RUN rm -r /gone /d/sub && mkdir /d/sub && echo new > /d/sub/h && mv /d/hard /d/moved && chmod 0700 /home
USER app
WORKDIR /home/app/w
RUN id -u > uid && echo $HOME >> uid && cat /proc/self/status > /dev/null && ls /sys > /dev/null
FROM fixture/base
COPY --from=one /d /d
COPY --from=one /home/app /home/app
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t --mount=type=bind,from=one,source=/d,target=/b \\
    cp -a /b/f /t/ && cp -a /t/f /kept && echo x > /cache/x && test ! -e /d/gone
RUN --network=none ip link > /dev/null && rm /d/pipe
";

#[test]
fn containers_that_let_namespaces_be_made_have_the_first_rung() {
    if !Pod::can_run() {
        return;
    }
    let plain = Kit::new();
    plain.dockerfile(COMMANDS);
    let wanted = digest(&plain, |run| run);
    for (pod, notice) in
        [(Pod::Podman, "does not let a host name be set"), (Pod::DockerAdmin, "pivot_root")]
    {
        let kit = Kit::new();
        kit.dockerfile(COMMANDS);
        assert_eq!(digest(&kit, |run| run.in_pod(pod)), wanted, "{pod:?}");
        // The same in a container without /sys, and as the first lines and the record say.
        kit.dockerfile("FROM fixture/base\nRUN ls -A /sys | wc -l && hostname && echo it ran\n");
        let without_sys = |config: &mut serde_json::Value| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/sys");
        };
        let run = kit.build_showing("plain").arg("--confinement=namespaces");
        let outcome = run.in_pod_where(pod, without_sys).ok();
        outcome.says(&["it ran", "--confinement=namespaces", notice]);
        let listed = kit.builder(["history", "builds", "--format=json"]).in_pod(pod).ok().stdout();
        assert!(listed.contains("\"confinement\":\"namespaces\""), "{listed}");
    }
}

#[test]
fn user_zero_that_may_not_map_itself_hears_of_another_user() {
    if !Pod::can_run() {
        return;
    }
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    let without_setfcap = |config: &mut serde_json::Value| {
        for set in ["bounding", "effective", "permitted"] {
            let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
            set.retain(|name| name != "CAP_SETFCAP");
        }
    };
    let outcome = kit.build().in_pod_where(Pod::Podman, without_setfcap).fails(5);
    outcome.says(&["that takes CAP_SETFCAP", "another user than 0"]);
}

#[test]
fn a_pod_with_users_of_its_own_has_the_first_rung_where_it_may_mount() {
    if !Pod::can_run() {
        return;
    }
    let plain = Kit::new();
    plain.dockerfile(COMMANDS);
    let wanted = digest(&plain, |run| run);
    let user = users::without_ranges();
    let kit = Kit::of(user);
    kit.dockerfile(COMMANDS);
    assert_eq!(digest(&kit, |run| run.in_pod_where(Pod::DockerAdmin, own_users)), wanted);
}

#[test]
fn doctor_names_the_change_of_the_place_that_unmasks_proc() {
    if !Pod::can_run() {
        return;
    }
    let unmask = |config: &mut serde_json::Value| {
        config["linux"]["maskedPaths"] = serde_json::json!([]);
        config["linux"]["readonlyPaths"] = serde_json::json!([]);
    };
    let own = |kit: Kit, pod: Pod, change: fn(&mut serde_json::Value)| {
        let doctor = || kit.builder(["doctor"]).env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        let found = doctor().in_pod_where(pod, change).ok().stdout();
        for text in ["confinement namespaces", "/proc is masked", "{procMount: Unmasked}"] {
            assert!(found.contains(text), "{found}");
        }
        let changed = |config: &mut serde_json::Value| {
            change(config);
            unmask(config);
        };
        let found = doctor().in_pod_where(pod, changed).ok().stdout();
        assert!(!found.contains("masked"), "{found}");
    };
    own(Kit::new(), Pod::Podman, |_| {});
    own(Kit::of(users::without_ranges()), Pod::DockerAdmin, own_users);
}

#[test]
fn the_setting_of_a_machine_that_forbids_user_namespaces_is_named() {
    if !Pod::can_run() {
        return;
    }
    let kit = Kit::of(users::without_ranges());
    let limited = |config: &mut serde_json::Value| {
        own_users(config);
        config["linux"]["readonlyPaths"] = serde_json::json!([]);
        for set in ["bounding", "effective", "permitted"] {
            let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
            set.extend(["CAP_SYS_RESOURCE", "CAP_MKNOD"].map(serde_json::Value::from));
        }
    };
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let run = kit.command("/bin/sh").args(["-c", script]);
    let run = run.arg(kit.builder([""; 0]).program()).arg("doctor");
    let run = run.env("BUILDER_ROOT", kit.store()).in_pod_where(Pod::Podman, limited);
    let found = run.ok().stdout();
    assert!(found.contains("sysctl -w user.max_user_namespaces=15000"), "{found}");
}
