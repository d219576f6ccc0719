//! The checks of `builder doctor`, each of one part of the machine.

use super::{Check, State};
use crate::cgroup::{Cgroups, Limits};
use crate::cli::Environment;
use crate::cli::failure;
use crate::cli::security::SecurityArgs;
use crate::sandbox::{Control, Ids, Inputs, OsBytes, RunSpec, Sandbox, Security, Standing, Stdio};
use crate::snapshot::{self, MountOptions, Scratch};
use crate::store::Store;
use rustix::fs::{Access, CWD, Mode, OFlags, openat, statvfs};
use rustix::system::uname;
use std::fs;
use std::path::{Path, PathBuf};

/// `mount_setattr`, without which nothing of a sandbox can be restricted.
const KERNEL_MIN: (u32, u32) = (5, 12);

/// Overlays over id-mapped layers.
const KERNEL_IDMAPPED: (u32, u32) = (5, 19);

/// With less than this a build of any size ends in a full disk.
const SPACE_MIN: u64 = 1 << 30;

pub(super) fn all(environment: &Environment) -> Vec<Check> {
    let mut checks = vec![kernel()];
    match environment.store() {
        Ok(opened) => {
            checks.push(store(&opened));
            checks.extend(inside(&opened, environment));
        }
        Err(failure) => checks.push(
            Check::new("store", State::Missing, failure.message, "there is no place to build in")
                .mended_by("builder --root DIR …"),
        ),
    }
    checks.push(subordinate_ids(environment));
    checks.push(seccomp());
    checks.push(emulators());
    checks
}

fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel() -> Check {
    let release = release();
    let machine = uname().machine().to_string_lossy().into_owned();
    let found = format!("Linux {release}, {machine}");
    match version(&release) {
        Some(version) if version < KERNEL_MIN => {
            Check::new("kernel", State::Missing, found, "sandboxes need Linux 5.12")
        }
        Some(version) if version < KERNEL_IDMAPPED => {
            let means = "before Linux 5.19 root's RUN steps have root's own ids";
            Check::new("kernel", State::Degraded, found, means)
        }
        _ => Check::new("kernel", State::Ok, found, "new enough for everything"),
    }
}

fn store(store: &Store) -> Check {
    let root = store.root();
    let space = statvfs(root).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    let kind = file_system(root).unwrap_or_else(|| "unknown".into());
    let clones = if clones_files(store) { "clones files" } else { "copies files" };
    let gib = space as f64 / f64::from(1 << 30);
    let found = format!("{} on {kind}, {gib:.1} GiB free, {clones}", root.display());
    if space < SPACE_MIN {
        let means = "a build of any size will fill the disk";
        return Check::new("store", State::Degraded, found, means).mended_by("builder prune");
    }
    match kind.as_str() {
        "overlay" => Check::new(
            "store",
            State::Degraded,
            found,
            "steps write into memory, since an overlay takes no overlay",
        )
        .mended_by("mount a volume there, or: builder --root DIR …"),
        "nfs" | "nfs4" | "cifs" | "9p" => {
            let means = "file systems of other machines may not do as overlays";
            Check::new("store", State::Degraded, found, means).mended_by("builder --root DIR …")
        }
        _ => Check::new("store", State::Ok, found, "a place to build in"),
    }
}

/// The type of the file system that holds a folder.
fn file_system(folder: &Path) -> Option<String> {
    let folder = std::path::absolute(folder).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let place = PathBuf::from(before.split(' ').nth(4)?);
        folder.starts_with(&place).then(|| (place, after.split(' ').next().unwrap_or_default()))
    });
    // Of several at one place the last is on top.
    let (_, kind) = mounts.fold(None, |best: Option<(PathBuf, &str)>, next| match best {
        Some(best) if best.0.components().count() > next.0.components().count() => Some(best),
        _ => Some(next),
    })?;
    Some(kind.to_owned())
}

/// Whether files of the store can share their blocks.
fn clones_files(store: &Store) -> bool {
    let clone = || -> std::io::Result<()> {
        let work = store.session().and_then(|s| s.new_work()).map_err(std::io::Error::other)?;
        fs::write(work.join("from"), "x")?;
        let (from, to) = (fs::File::open(work.join("from"))?, fs::File::create(work.join("to"))?);
        Ok(rustix::fs::ioctl_ficlone(to, from)?)
    };
    clone().is_ok()
}

/// What can be seen only by trying: overlays, ids, control groups, networks, and a whole sandbox.
fn inside(store: &Store, environment: &Environment) -> Vec<Check> {
    let sandbox = Sandbox::new(SecurityArgs::default().sandbox(store));
    let mut checks = vec![overlay(store), ids(&sandbox), control_groups(store)];
    checks.push(network(&sandbox));
    checks.push(whole(store, &sandbox, environment));
    checks
}

fn overlay(store: &Store) -> Check {
    let mount = || -> Result<bool, String> {
        let work = store.session().and_then(|s| s.new_work()).map_err(|e| failure::chain(&e))?;
        let scratch = Scratch::new(&work).map_err(|e| failure::chain(&e))?;
        let options = MountOptions::detect();
        snapshot::mount(&[], Some(&scratch.upper()), &options).map_err(|e| failure::chain(&e))?;
        Ok(scratch.is_in_memory())
    };
    match mount() {
        Ok(_) => Check::new("overlay", State::Ok, "mounted", "layers are shared, never copied"),
        Err(error) => {
            let means = "steps have no file system to run in";
            Check::new("overlay", State::Missing, error, means).mended_by("modprobe overlay")
        }
    }
}

fn ids(sandbox: &Sandbox) -> Check {
    let setting = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let mend = if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        "sysctl -w user.max_user_namespaces=15000"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        "sysctl -w kernel.unprivileged_userns_clone=1"
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref()
        == Some("1")
    {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        "builder --root DIR … on a file system whose mounts can map ids: ext4, xfs, btrfs"
    };
    match sandbox.ids(Security::Default) {
        Ok(Some(_)) => Check::new(
            "users",
            State::Ok,
            "a user namespace, and layers seen through its mapping",
            "users in RUN steps are nobody on this machine",
        ),
        Ok(None) => {
            let found = sandbox.take_notices().join("; ");
            let found = if found.is_empty() { "no mapping of ids".to_owned() } else { found };
            let means = "users in RUN steps have the ids that they have on this machine";
            Check::new("users", State::Degraded, found, means).mended_by(mend)
        }
        Err(error) => {
            let means = "no sandbox can be made";
            Check::new("users", State::Missing, failure::chain(&error), means).mended_by(mend)
        }
    }
}

fn control_groups(store: &Store) -> Check {
    let groups = Cgroups::open(&store.root().join("locks"));
    let found = groups.describe();
    let wanted =
        Limits { memory: Some(1 << 30), cpus: Some(1.0), pids: Some(1000), ..Limits::default() };
    let check = match groups.create(&wanted) {
        Ok(group) if group.substitutes().is_empty() => {
            let means = "--memory, --cpus and --pids-limit are enforced";
            Check::new("limits", State::Ok, found, means)
        }
        Ok(_) => {
            let means = "limits are enforced in part, by ulimits";
            Check::new("limits", State::Degraded, found, means)
        }
        Err(error) => {
            let means = format!("limits are errors: {}", failure::chain(&error));
            Check::new("limits", State::Degraded, found, &means)
        }
    };
    check.mended_by("systemd-run --user --scope -p Delegate=yes builder build …")
}

fn network(sandbox: &Sandbox) -> Check {
    match sandbox.start_network() {
        Ok(()) => Check::new(
            "network",
            State::Ok,
            "a private network was started",
            "RUN steps reach the outside, and nothing of this machine's loopback",
        ),
        Err(error) => {
            let found = failure::chain(&error);
            let mend = if found.contains("/dev/net/tun: No such") {
                "modprobe tun"
            } else if found.contains("/dev/net/tun") {
                "chmod 0666 /dev/net/tun"
            } else {
                "apt-get install slirp4netns"
            };
            let means = "RUN steps use this machine's own network";
            Check::new("network", State::Degraded, found, means).mended_by(mend)
        }
    }
}

/// Runs a sandbox up to the point where its command would start: there is none.
fn whole(store: &Store, sandbox: &Sandbox, environment: &Environment) -> Check {
    /// What init says of a program that is not there.
    const NOT_FOUND: i32 = 127;
    let run = || -> Result<i32, String> {
        let work = store.session().and_then(|s| s.new_work()).map_err(|e| failure::chain(&e))?;
        let scratch = Scratch::new(&work).map_err(|e| failure::chain(&e))?;
        let ids = sandbox.ids(Security::Default).map_err(|e| failure::chain(&e))?;
        let idmap = ids.as_deref().and_then(Ids::mapping);
        let options = MountOptions { idmap, ..MountOptions::detect() };
        let root = snapshot::mount(&[], Some(&scratch.upper()), &options)
            .map_err(|e| failure::chain(&e))?;
        let spec = RunSpec::new(vec![OsBytes::from("/nothing")]);
        let inputs = Inputs { root: root.root(), sources: Vec::new(), stdio: Stdio::Capture };
        let cancel = &environment.cancel;
        sandbox
            .run(&spec, &inputs, cancel, &Control::default(), &mut |_, _| {})
            .map(|exit| exit.status)
            .map_err(|e| failure::chain(&e))
    };
    match run() {
        Ok(NOT_FOUND) => {
            Check::new("sandbox", State::Ok, "a whole one was made", "RUN steps can run")
        }
        Ok(status) => Check::new(
            "sandbox",
            State::Missing,
            format!("its init ended with status {status}"),
            "RUN steps cannot run",
        ),
        Err(error) => Check::new("sandbox", State::Missing, error, "RUN steps cannot run"),
    }
}

fn subordinate_ids(environment: &Environment) -> Check {
    let helper = ["/usr/bin/newuidmap", "/usr/local/bin/newuidmap", "/bin/newuidmap"]
        .iter()
        .any(|path| rustix::fs::access(*path, Access::EXEC_OK).is_ok());
    let name = environment.variable("USER").unwrap_or_else(|| "root".to_owned());
    let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let range = text.lines().find(|line| line.split(':').next() == Some(name.as_str()));
    let found = format!(
        "{} in /etc/subuid, {}newuidmap",
        range.map_or_else(|| format!("nothing for {name}"), str::to_owned),
        if helper { "" } else { "no " }
    );
    let (state, means) = match environment.standing {
        Standing::Machine => (State::Ok, "root needs none: it may use any ids"),
        Standing::Ranges => (State::Ok, "files and RUN steps have owners and users of their own"),
        Standing::Single => (
            State::Degraded,
            "owners of files are written down; other users of RUN steps are names, and may do what root may",
        ),
    };
    let mend = if helper {
        format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}")
    } else {
        "apt-get install uidmap".to_owned()
    };
    Check::new("subuids", state, found, means).mended_by(mend)
}

fn seccomp() -> Check {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    match fs::read_to_string(path) {
        Ok(actions) if actions.contains("errno") => Check::new(
            "seccomp",
            State::Ok,
            actions.trim(),
            "system calls that no build needs are refused",
        ),
        _ => Check::new(
            "seccomp",
            State::Missing,
            "not in this kernel",
            "the filter of RUN steps cannot be loaded",
        )
        .mended_by("builder build --security-opt seccomp=unconfined …"),
    }
}

/// Emulators that the kernel starts for programs of other machines.
fn emulators() -> Check {
    let folder = openat(
        CWD,
        "/proc/sys/fs/binfmt_misc",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let mut names: Vec<String> = Vec::new();
    if folder.is_ok() {
        for entry in fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_prefix("qemu-").map(str::to_owned));
        }
    }
    names.sort();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    // Nothing that a build for this machine needs.
    let means = "RUN steps for other platforms need an emulator: apt-get install qemu-user-static";
    let means = if names.is_empty() { means } else { "RUN steps can run programs of these too" };
    Check::new("emulators", State::Ok, found, means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, want) in [
            ("6.18.5", Some((6, 18))),
            ("5.4.0-150-generic", Some((5, 4))),
            ("6.1-rc3", Some((6, 1))),
            ("strange", None),
        ] {
            assert_eq!(version(release), want, "{release}");
        }
        assert!(version("5.9").unwrap() < KERNEL_MIN && version("5.12").unwrap() >= KERNEL_MIN);
    }

    #[test]
    fn the_file_system_of_a_folder_is_found() {
        assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
        assert!(file_system(Path::new("/")).is_some());
    }
}
