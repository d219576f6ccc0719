//! Where we run, and which commands can be run there: a suggestion that cannot work is none.

use super::Environment;
use crate::sandbox::EnterError;
use rustix::fs::{Access, access};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What starts the containers of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    /// No container.
    None,
    Kubernetes,
    GitLab,
    GitHub,
    Docker,
    Podman,
    /// Another one, or one that leaves no sign.
    Other,
}

impl Engine {
    /// Reads who started us from what each engine leaves in its containers.
    fn detect(environment: &Environment) -> Self {
        let has = |name: &str| environment.variable(name).is_some_and(|value| !value.is_empty());
        let is_there = |path: &str| Path::new(path).exists();
        let is_inside = is_container();
        match () {
            () if has("GITLAB_CI") && is_inside => Self::GitLab,
            () if has("GITHUB_ACTIONS") && is_inside => Self::GitHub,
            () if has("KUBERNETES_SERVICE_HOST") || is_there("/var/run/secrets/kubernetes.io") => {
                Self::Kubernetes
            }
            () if is_there("/run/.containerenv") => Self::Podman,
            () if is_there("/.dockerenv") => Self::Docker,
            () if is_inside || is_on_overlay() => Self::Other,
            () => Self::None,
        }
    }
}

/// Says whether the root is an overlay, as that of a container mostly is.
fn is_on_overlay() -> bool {
    const OVERLAY: rustix::fs::FsWord = 0x794c_7630;
    rustix::fs::statfs("/").is_ok_and(|found| found.f_type == OVERLAY)
}

/// Returns the one change of the place that gives commands namespaces.
pub(in crate::cli) fn next_rung(refused: &EnterError, environment: &Environment) -> String {
    next_rung_of(refused, Engine::detect(environment), &setting)
}

/// Reads a setting of the kernel.
fn setting(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn next_rung_of(
    refused: &EnterError,
    engine: Engine,
    setting: &dyn Fn(&str) -> Option<String>,
) -> String {
    if matches!(refused, EnterError::UserZero) {
        return match engine {
            Engine::Kubernetes => "in the pod: securityContext: {runAsUser: 1000}",
            Engine::GitLab | Engine::GitHub | Engine::Other => {
                "start the container as another user than 0, or with the capability SETFCAP"
            }
            Engine::Docker => "docker run --cap-add SETFCAP …, or: docker run --user 1000 …",
            Engine::Podman => "podman run --cap-add SETFCAP …, or: podman run --user 1000 …",
            Engine::None => "start builder as another user than 0, or with the capability SETFCAP",
        }
        .to_owned();
    }
    // A setting of the machine holds in all its containers.
    let sysctl = [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
    ]
    .into_iter()
    .find(|(path, off, _)| setting(path).as_deref() == Some(off));
    if let Some((_, _, command)) = sysctl {
        return as_root_of_the_machine(command);
    }
    let is_restricted = setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if engine == Engine::None && is_restricted.as_deref() == Some("1") {
        return as_root_of_the_machine(APPARMOR_PROFILE);
    }
    match engine {
        Engine::Kubernetes => {
            "in the pod: hostUsers: false, and in its container: securityContext: \
             {capabilities: {add: [SYS_ADMIN]}}; in a cluster without user namespaces: \
             securityContext: {seccompProfile: {type: Unconfined}, appArmorProfile: {type: \
             Unconfined}}"
        }
        Engine::GitLab => {
            "in the runner's config.toml: [runners.docker] security_opt = \
             [\"seccomp:unconfined\", \"apparmor:unconfined\"]; with the Kubernetes executor, a \
             [[runners.kubernetes.pod_spec]] patch of the container build: securityContext: \
             {seccompProfile: {type: Unconfined}}"
        }
        Engine::GitHub => {
            "in the job: container: {options: --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined}"
        }
        Engine::Docker => {
            "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined …"
        }
        Engine::Podman => "podman run --security-opt seccomp=unconfined …",
        Engine::Other => {
            "start the container without a seccomp filter: --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined"
        }
        Engine::None => "start builder without the filter of system calls that it was started with",
    }
    .to_owned()
}

/// Returns the one change of a container that gives commands a `/proc` of their own; `None` where
/// it is not a container that masks it.
pub(in crate::cli) fn own_proc(environment: &Environment) -> Option<String> {
    let change = match Engine::detect(environment) {
        Engine::None => return None,
        Engine::Kubernetes => {
            "in the pod: hostUsers: false, and in its container: securityContext: {procMount: \
             Unmasked}"
        }
        Engine::GitLab => {
            // `systempaths` is an option of docker's client, and runners talk to the daemon.
            "with the Kubernetes executor, in the runner's config.toml: a \
             [[runners.kubernetes.pod_spec]] patch: hostUsers: false, and of the container build: \
             securityContext: {procMount: Unmasked}; the Docker executor has no such setting"
        }
        Engine::GitHub => "in the job: container: {options: --security-opt systempaths=unconfined}",
        Engine::Docker => "docker run --security-opt systempaths=unconfined …",
        Engine::Podman => "podman run --security-opt unmask=ALL …",
        Engine::Other => "start the container with --security-opt systempaths=unconfined",
    };
    Some(change.to_owned())
}

/// Ubuntu's way to let one program make user namespaces.
pub(in crate::cli) const APPARMOR_PROFILE: &str = "sh -c 'printf \"abi <abi/4.0>,\\nprofile builder \
    /usr/{,local/}bin/builder flags=(unconfined) { userns, }\\n\" > /etc/apparmor.d/builder && \
    apparmor_parser -r /etc/apparmor.d/builder'";

/// Says whether this is a container, whose kernel settings and devices are the machine's.
pub(in crate::cli) fn is_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists())
        || fs::read("/proc/1/environ").is_ok_and(|text| {
            text.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"container="))
        })
}

/// Returns a command that only root of the machine can run, and says where.
pub(in crate::cli) fn as_root_of_the_machine(command: &str) -> String {
    let (uid, _) = user();
    match (is_container(), uid) {
        (true, _) => format!("on the machine that runs the container, as root: {command}"),
        (false, 0) => command.to_owned(),
        (false, _) => format!("sudo {command}"),
    }
}

/// Returns the id and the name of the user who started us, whatever we are root of.
pub(in crate::cli) fn user() -> (u32, String) {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let inside = rustix::process::geteuid().as_raw();
    let outside = map.lines().find_map(|line| {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [first, outer, count] = numbers.as_slice() else { return None };
        let offset = inside.checked_sub(*first).filter(|offset| offset < count)?;
        outer.checked_add(offset)
    });
    let uid = outside.unwrap_or(inside);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    (uid, name_of(uid, &passwd))
}

/// Returns the name of a user in the text of `/etc/passwd`; the number if it has none.
fn name_of(uid: u32, passwd: &str) -> String {
    let number = uid.to_string();
    let entry = passwd.lines().find(|line| line.split(':').nth(2) == Some(number.as_str()));
    entry.and_then(|line| line.split(':').next()).map_or(number.clone(), str::to_owned)
}

/// Says whether a program is installed in one of the usual directories.
pub(in crate::cli) fn has_program(name: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin"]
        .iter()
        .any(|dir| access(format!("{dir}/{name}"), Access::EXEC_OK).is_ok())
}

/// Returns the command that installs a package here, by the package manager that is here.
pub(in crate::cli) fn install(package: &str) -> String {
    // The package of newuidmap has several names.
    let (debian, other) = match package {
        "uidmap" => ("uidmap", "shadow-utils"),
        package => (package, package),
    };
    let command = if has_program("apt-get") {
        format!("apt-get install {debian}")
    } else if has_program("dnf") {
        format!("dnf install {other}")
    } else if has_program("zypper") {
        format!("zypper install {}", if package == "uidmap" { "shadow" } else { other })
    } else if has_program("apk") {
        format!("apk add {}", if package == "uidmap" { "shadow-uidmap" } else { other })
    } else if has_program("pacman") {
        format!("pacman -S {}", if package == "uidmap" { "shadow" } else { other })
    } else {
        return format!("install {package}");
    };
    let (uid, _) = user();
    if uid == 0 { command } else { format!("sudo {command}") }
}

/// Returns what gives the user subordinate ids.
pub(in crate::cli) fn more_ids() -> String {
    if !has_program("newuidmap") {
        return install("uidmap");
    }
    let (uid, name) = user();
    let lines = |path| fs::read_to_string(path).unwrap_or_default();
    let has_range = |text: String| {
        let number = uid.to_string();
        text.lines().any(|line| line.split(':').next().is_some_and(|o| o == name || o == number))
    };
    if has_range(lines("/etc/subuid")) && has_range(lines("/etc/subgid")) {
        // The ranges are there, and newuidmap could not use them. With set-user-id bits it takes
        // CAP_SYS_ADMIN of the place, which containers do not have; with capabilities it does not.
        let has_bits = fs::metadata("/usr/bin/newuidmap").is_ok_and(|m| m.mode() & 0o4000 != 0);
        if has_bits {
            let command = "sh -c 'cd /usr/bin && chmod u-s newuidmap newgidmap && setcap \
                           cap_setuid=ep newuidmap && setcap cap_setgid=ep newgidmap'";
            return match is_container() {
                true => format!("as root, where the container's image is made: {command}"),
                false => as_root_of_the_machine(command),
            };
        }
        return match is_container() {
            true => "start the container with newuidmap's capabilities: --cap-add SETUID,SETGID"
                .to_owned(),
            false => as_root_of_the_machine("chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap"),
        };
    }
    let range = "100000-165535";
    let command = match has_program("usermod") {
        true => format!("usermod --add-subuids {range} --add-subgids {range} {name}"),
        false => format!("sh -c 'echo {name}:100000:65536 | tee -a /etc/subuid >> /etc/subgid'"),
    };
    if uid == 0 { command } else { format!("sudo {command}") }
}

/// Returns what starts a build in control groups of its own, where a service manager is there to
/// ask.
pub(in crate::cli) fn delegation() -> Option<String> {
    if !has_program("systemd-run") || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let (uid, _) = user();
    let bus = format!("/run/user/{uid}/bus");
    match uid {
        0 => Some("systemd-run --scope -p Delegate=yes builder build …".to_owned()),
        _ if Path::new(&bus).exists() => {
            Some("systemd-run --user --scope -p Delegate=yes builder build …".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_one_change_that_gives_namespaces() {
        let none = |_: &str| None;
        let refused = EnterError::Made { errno: libc::EPERM };
        let fix = |engine| next_rung_of(&refused, engine, &none);
        assert!(fix(Engine::Docker).starts_with("docker run --security-opt seccomp=unconfined"));
        assert!(fix(Engine::Kubernetes).contains("hostUsers: false"));
        assert!(fix(Engine::Kubernetes).contains("seccompProfile: {type: Unconfined}"));
        assert!(fix(Engine::GitLab).contains("config.toml"));
        assert!(fix(Engine::GitHub).starts_with("in the job: container:"));
        let zero = next_rung_of(&EnterError::UserZero, Engine::Docker, &none);
        assert!(zero.contains("--user 1000"), "{zero}");
        // What the machine forbids, no flag of a container lifts.
        let off = |path: &str| path.ends_with("max_user_namespaces").then(|| "0".to_owned());
        let fix = next_rung_of(&refused, Engine::Kubernetes, &off);
        assert!(fix.contains("sysctl -w user.max_user_namespaces=15000"), "{fix}");
        let ubuntu = |path: &str| path.ends_with("_userns").then(|| "1".to_owned());
        let fix = next_rung_of(&refused, Engine::None, &ubuntu);
        assert!(fix.contains("apparmor_parser -r"), "{fix}");
        // It is the profile that packages have.
        let words = |text: &str| text.replace("\\n", " ").split_whitespace().collect::<String>();
        let packaged = words(&include_str!("../../deploy/apparmor").replace("userns,", "userns, "));
        for part in ["abi <abi/4.0>,", "/usr/{,local/}bin/builder flags=(unconfined) { userns, }"] {
            assert!(
                words(&fix).contains(&words(part)) && packaged.contains(&words(part)),
                "{part}"
            );
        }
    }

    #[test]
    fn a_user_has_the_name_of_its_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(1000, passwd), "ann");
        assert_eq!(name_of(0, passwd), "root");
        assert_eq!(name_of(7, passwd), "7");
        assert!(!user().1.is_empty());
    }
}
