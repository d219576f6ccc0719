//! RUN steps of other platforms in containers: with namespaces by an emulator of their own, without by
//! none.

use crate::kit::emulation::{self, FOREIGN};
use crate::kit::pod::Pod;
use crate::kit::{Kit, Run, users};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// A build of a foreign step, in a store that was filled in a container of that kind.
fn build(kit: &Kit, pod: Pod) -> Run {
    let directory = kit.emulators(&[FOREIGN]);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    kit.file("root.tar", emulation::rootfs(FOREIGN));
    let (flag, tar) = (format!("--platform={FOREIGN}"), kit.path("root.tar"));
    let import = kit.builder(["import", &flag, tar.to_str().unwrap(), "localhost:1/riscv64"]);
    import.in_pod(pod).ok();
    kit.dockerfile("FROM localhost:1/riscv64\nRUN uname -m\n");
    let run = kit.build_showing("plain").arg(flag);
    run.env("PATH", emulation::path_with(&directory)).in_pod(pod)
}

#[test]
fn emulators_are_registered_in_a_container_that_may_make_namespaces() {
    if !Pod::can_run() || !emulation::can_run() {
        return;
    }
    for pod in [Pod::Podman, Pod::DockerAdmin] {
        let said = build(&Kit::new(), pod).ok();
        assert!(said.text().contains(" riscv64\n"), "{pod:?}: {}", said.text());
        assert!(said.text().contains("emulated: linux/riscv64 by "), "{pod:?}: {}", said.text());
    }
}

#[test]
fn without_namespaces_a_foreign_step_is_an_error_before_it_runs() {
    if !Pod::can_run() || !emulation::can_run() {
        return;
    }
    let said = build(&Kit::new(), Pod::Docker).run();
    // A handler of this machine would do.
    if !said.text().contains("by the host's handler") {
        assert_eq!(said.status, Some(5), "{}", said.text());
        said.says(&["this place allows no user namespace", "--install riscv64", "BUILDPLATFORM"]);
    }
    let said = build(&Kit::of(users::without_ranges()), Pod::Restricted).run();
    assert_eq!(said.status, Some(5), "{}", said.text());
    said.says(&["programs of linux/riscv64 do not run here", "BUILDPLATFORM"]);
}
