//! Containers as clusters and runners start them, each a bundle that runc runs: what they may call,
//! which capabilities they have, and what their root is.
//!
//! The filters are Docker's and Podman's: `/usr/share/containers/seccomp.json` is Podman's own, and
//! Docker's is that without the calls that Docker leaves to `CAP_SYS_ADMIN`.

use super::{BUILDER, Run, host, make_dir};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kind of container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pod {
    /// Docker's, containerd's and so Kubernetes' own: root, 14 capabilities, their filter.
    Docker,
    /// The same with `--cap-add SYS_ADMIN`.
    DockerAdmin,
    /// Podman's own for root: 11 capabilities, a filter that lets namespaces be made.
    Podman,
    /// A pod under the policy "restricted": no capabilities, no new privileges, a root that cannot be
    /// written, the filter of Docker. Who runs it is the kit's user.
    Restricted,
}

/// Where the root of a container is mounted, in a mount namespace of its own: not in the kit's
/// directory, in which the container would find it again, with a `/proc` that nothing masks.
const ROOT: &str = "/mnt";

const PODMAN_PROFILE: &str = "/usr/share/containers/seccomp.json";

/// Docker's capabilities.
const DOCKER: &str = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP \
                      NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE";

/// Podman's.
const PODMAN: &str = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP \
                      SETUID SYS_CHROOT";

/// What Docker's filter has for `CAP_SYS_ADMIN` only.
const ADMIN: &[&str] = &[
    "bpf",
    "clone",
    "clone3",
    "fanotify_init",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "quotactl",
    "setdomainname",
    "sethostname",
    "setns",
    "syslog",
    "umount",
    "umount2",
    "unshare",
];

/// What Podman's filter has and Docker's never.
const PODMAN_ONLY: &[&str] = &[
    "add_key",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "keyctl",
    "pivot_root",
    "request_key",
    "userfaultfd",
];

/// The flags of clone(2) that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

impl Pod {
    /// Says whether containers can be run here.
    pub fn can_run() -> bool {
        host::has("runc", "runc")
            && host::has_file(PODMAN_PROFILE, "golang-github-containers-common")
    }

    fn capabilities(self) -> Vec<String> {
        let names = match self {
            Self::Docker | Self::DockerAdmin => DOCKER,
            Self::Podman => PODMAN,
            Self::Restricted => "",
        };
        let admin = (self == Self::DockerAdmin).then_some("SYS_ADMIN");
        names.split_whitespace().chain(admin).map(|name| format!("CAP_{name}")).collect()
    }

    /// Podman's filter for these capabilities, less what Docker's refuses.
    fn filter(self) -> Value {
        let text = fs::read(PODMAN_PROFILE).expect("Podman's profile");
        let profile: Value = serde_json::from_slice(&text).expect("JSON");
        let own = self.capabilities();
        let is_docker = self != Self::Podman;
        let is_here = |condition: &Value, all: bool| {
            let has = |name: &str, here: &dyn Fn(&str) -> bool| {
                let wanted = condition[name].as_array().cloned().unwrap_or_default();
                let mut found = wanted.iter().map(|word| here(word.as_str().expect("a word")));
                if all { found.all(|is| is) } else { found.any(|is| is) }
            };
            let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
            let of_arch = |name: &str| name == arch;
            // Architectures are alternatives.
            let wanted = condition["arches"].as_array().cloned().unwrap_or_default();
            let arches = wanted.iter().any(|word| of_arch(word.as_str().expect("a word")));
            let caps = has("caps", &|name| own.iter().any(|cap| cap == name));
            if all { caps && (wanted.is_empty() || arches) } else { caps || arches }
        };
        let mut calls = Vec::new();
        for rule in profile["syscalls"].as_array().expect("rules") {
            if !is_here(&rule["includes"], true) || is_here(&rule["excludes"], false) {
                continue;
            }
            let refused = |name: &str| {
                let of_admin = self != Self::DockerAdmin && ADMIN.contains(&name);
                is_docker && (of_admin || PODMAN_ONLY.contains(&name))
            };
            let names = rule["names"].as_array().expect("names").iter();
            let names: Vec<&Value> =
                names.filter(|name| !refused(name.as_str().expect("a name"))).collect();
            if !names.is_empty() {
                let (action, errno) = (&rule["action"], &rule["errnoRet"]);
                let mut call = json!({"names": names, "action": action});
                if !errno.is_null() {
                    call["errnoRet"] = errno.clone();
                }
                if rule["args"].as_array().is_some_and(|args| !args.is_empty()) {
                    call["args"] = rule["args"].clone();
                }
                calls.push(call);
            }
        }
        if is_docker {
            calls.push(json!({"names": ["add_key", "keyctl", "request_key"],
                "action": "SCMP_ACT_ERRNO", "errnoRet": 1}));
        }
        if is_docker && self != Self::DockerAdmin {
            calls.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}));
            calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
        }
        let architecture = match cfg!(target_arch = "x86_64") {
            true => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
            false => json!(["SCMP_ARCH_AARCH64"]),
        };
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": architecture, "syscalls": calls})
    }

    fn config(self, command: &Command, root: &Path, kit: &Path, ids: (u32, u32)) -> Value {
        let words: Vec<&str> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_str().expect("UTF-8"))
            .collect();
        let env: Vec<String> = command
            .get_envs()
            .filter_map(|(name, value)| {
                Some(format!("{}={}", name.to_str()?, value?.to_str().expect("UTF-8")))
            })
            .collect();
        let capabilities = self.capabilities();
        let bind = |path: &str, access: &str| {
            json!({"destination": path, "type": "bind", "source": path,
                "options": ["rbind", access]})
        };
        let mount = |path: &str, kind: &str, options: Value| json!({"destination": path, "type": kind, "source": kind, "options": options});
        let mut mounts = vec![
            mount("/proc", "proc", json!([])),
            mount("/dev", "tmpfs", json!(["nosuid", "strictatime", "mode=755", "size=65536k"])),
            mount(
                "/dev/pts",
                "devpts",
                json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            ),
            mount("/dev/shm", "tmpfs", json!(["nosuid", "noexec", "nodev", "mode=1777"])),
            mount("/sys", "sysfs", json!(["nosuid", "noexec", "nodev", "ro"])),
            mount("/tmp", "tmpfs", json!(["mode=1777"])),
            bind(super::base::layout().to_str().expect("UTF-8"), "ro"),
            bind(kit.to_str().expect("UTF-8"), "rw"),
        ];
        for path in ["/etc/resolv.conf", "/etc/hosts"] {
            mounts.extend(Path::new(path).exists().then(|| bind(path, "ro")));
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": ids.0, "gid": ids.1}, "args": words, "env": env,
                "cwd": command.get_current_dir().unwrap_or(kit),
                "noNewPrivileges": self == Self::Restricted,
                "capabilities": {"bounding": capabilities, "effective": capabilities,
                    "permitted": capabilities},
            },
            "root": {"path": root, "readonly": self == Self::Restricted},
            "hostname": "pod",
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                    "/proc/sysrq-trigger"],
                "seccomp": self.filter(),
            },
        })
    }
}

/// `hostUsers: false` of Kubernetes: root of the container is the kit's user.
pub fn own_users(config: &mut Value) {
    let map = |id: &Value| {
        json!([{"containerID": 0, "hostID": id, "size": 1},
            {"containerID": 1, "hostID": 1_000_000, "size": 65_535}])
    };
    let user = config["process"]["user"].clone();
    config["linux"]["uidMappings"] = map(&user["uid"]);
    config["linux"]["gidMappings"] = map(&user["gid"]);
    config["process"]["user"] = json!({"uid": 0, "gid": 0});
    config["linux"]["namespaces"].as_array_mut().expect("an array").push(json!({"type": "user"}));
    // The kernel mounts no other one: the network is the machine's.
    for mount in config["mounts"].as_array_mut().expect("an array") {
        if mount["destination"] == "/sys" {
            *mount = json!({"destination": "/sys", "type": "bind", "source": "/sys",
                "options": ["rbind", "ro"]});
        }
    }
}

impl Run {
    /// Runs it in a container. Its network is the machine's, for the servers of tests; the kit's
    /// directory is a volume, the rest of the root an overlay as engines make it.
    pub fn in_pod(self, pod: Pod) -> Self {
        self.in_pod_where(pod, |_| {})
    }

    /// As [`in_pod`](Self::in_pod), with a configuration that is changed first.
    pub fn in_pod_where(self, pod: Pod, change: impl FnOnce(&mut Value)) -> Self {
        let dir = self.new_pod();
        let lower = dir.join("lower");
        for name in ["bin", "etc", "proc", "dev", "sys", "tmp", "usr/lib64", "var/lib", "root"] {
            make_dir(&lower.join(name));
        }
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(lower.join("tmp"), all).expect("chmod");
        fs::copy(super::base::BUSYBOX, lower.join("bin/busybox")).expect("copy busybox");
        let applets = "sh ls cat stat id mkdir rm grep chmod kill cp tar gzip base64 tr sleep";
        for applet in applets.split(' ') {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).expect("link");
        }
        for (target, name) in [("usr/lib", "lib"), ("usr/lib64", "lib64")] {
            std::os::unix::fs::symlink(target, lower.join(name)).expect("link");
        }
        fs::write(lower.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("write");
        let of_machine = |path: &str| json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]});
        let program = Path::new(BUILDER).to_str().expect("UTF-8");
        self.run_pod(&dir, &lower, pod, |config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            let paths = ["/usr/lib", "/usr/lib64", "/etc/ssl", program];
            mounts
                .extend(paths.into_iter().filter(|path| Path::new(path).exists()).map(of_machine));
            change(config);
        })
    }

    /// As [`in_pod_where`](Self::in_pod_where), in a container whose root is that of an image, unpacked
    /// in a directory that stays as it is.
    pub fn in_pod_of(self, pod: Pod, root: &Path, change: impl FnOnce(&mut Value)) -> Self {
        let dir = self.new_pod();
        self.run_pod(&dir, root, pod, change)
    }

    /// A directory for a container. It goes with the kit: the container may outlive this value.
    fn new_pod(&self) -> PathBuf {
        let kit = self.command.get_current_dir().expect("the kit's");
        let dir = tempfile::Builder::new().prefix("pod-").tempdir_in(kit).expect("a directory");
        dir.keep()
    }

    fn run_pod(
        mut self,
        dir: &Path,
        lower: &Path,
        pod: Pod,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let kit = self.command.get_current_dir().expect("the kit's").to_owned();
        for name in ["upper", "work", "state"] {
            make_dir(&dir.join(name));
        }
        let ids = self.user.as_ref().map_or((0, 0), |user| (user.uid, user.gid));
        let mut config = pod.config(&self.command, Path::new(ROOT), &kit, ids);
        change(&mut config);
        if let Some(root) = config["linux"]["uidMappings"][0]["hostID"].as_u64() {
            let mut chown = Command::new("chown");
            let done = chown.args(["-R", &root.to_string()]).arg(dir).status().expect("chown");
            assert!(done.success(), "{chown:?}");
        }
        fs::write(dir.join("config.json"), config.to_string()).expect("write");
        let id = dir.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        let id = format!("builder-{}-{id}", std::process::id());
        let script = "cd \"$0\" && \
                      mount -t overlay -o \"lowerdir=$3,upperdir=upper,workdir=work\" overlay \"$2\" && \
                      exec runc --root \"$0/state\" run --bundle \"$0\" \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", script]).arg(dir).args([&id, ROOT]).arg(lower);
        command.env_clear().env("PATH", super::PATH).stdin(Stdio::null()).current_dir(&kit);
        self.command = command;
        self.user = None;
        self
    }
}
