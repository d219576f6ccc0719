//! The checks of `builder doctor`, each of one part of the machine.

use super::{Check, Health, emulators};
use crate::cgroup::{Cgroups, Limits};
use crate::cli::Environment;
use crate::cli::emulators::EmulatorArgs;
use crate::cli::security::SecurityArgs;
use crate::cli::{failure, place};
use crate::job::emulators::bring;
use crate::job::resolve::Images;
use crate::sandbox::{
    Control, Ids, Inputs, MACHINES, NetworkMode, OsBytes, PROC_IS_MASKED, RunSpec, Rung, Runs,
    Sandbox, Security, Standing, Stdio,
};
use crate::snapshot::{self, MountOptions, Scratch};
use crate::store::{Store, StorePart};
use crate::sys::landlock::SCOPED_FROM;
use rustix::fs::statvfs;
use rustix::system::uname;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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
            Check::new("store", Health::Missing, failure.message, "there is no place to build in")
                .fixed_by("builder --root DIR …"),
        ),
    }
    checks.push(subordinate_ids(environment));
    checks.push(seccomp());
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
            Check::new("kernel", Health::Missing, found, "sandboxes need Linux 5.12")
        }
        Some(version) if version < KERNEL_IDMAPPED => {
            let means = "before Linux 5.19 root's RUN steps have root's own ids";
            Check::new("kernel", Health::Degraded, found, means)
        }
        _ => Check::new("kernel", Health::Ok, found, "new enough for everything"),
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
        return Check::new("store", Health::Degraded, found, means).fixed_by("builder prune");
    }
    match kind.as_str() {
        "overlay" => Check::new(
            "store",
            Health::Degraded,
            found,
            "steps write into memory, since an overlay takes no overlay",
        )
        .fixed_by("mount a volume there, or: builder --root DIR …"),
        "nfs" | "nfs4" | "cifs" | "9p" => {
            let means = "file systems of other machines may not do as overlays";
            Check::new("store", Health::Degraded, found, means).fixed_by("builder --root DIR …")
        }
        _ => Check::new("store", Health::Ok, found, "a place to build in"),
    }
}

/// The type of the file system that holds a directory.
fn file_system(directory: &Path) -> Option<String> {
    let directory = std::path::absolute(directory).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let place = PathBuf::from(before.split(' ').nth(4)?);
        directory.starts_with(&place).then(|| (place, after.split(' ').next().unwrap_or_default()))
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
    let mut checks = vec![confinement(environment), overlay(store)];
    let options = SecurityArgs::default().sandbox(store, environment).and_then(|mut options| {
        options.emulators = EmulatorArgs::of_variable(environment)?.emulators(environment)?;
        let contexts = BTreeMap::new();
        let mut images = Images::new(store, &contexts, &environment.cancel);
        let machines: Vec<_> = MACHINES.iter().collect();
        options.emulators = bring(&options.emulators, &machines, &mut images);
        Ok(options)
    });
    let options = match options {
        Ok(options) if environment.standing.has_namespaces() => options,
        Ok(options) => {
            checks.push(control_groups(store));
            if options.confinement.rung().is_some() {
                let sandbox = Sandbox::new(options);
                checks.push(whole(store, &sandbox, environment));
                checks.push(platforms(store, &sandbox, environment));
            }
            return checks;
        }
        Err(failure) => {
            let means = "nothing is known of sandboxes here";
            checks.push(Check::new("sandbox", Health::Degraded, failure.message, means));
            return checks;
        }
    };
    let sandbox = Sandbox::new(options);
    let standing = environment.standing;
    checks.extend([ids(&sandbox, standing), control_groups(store)]);
    checks.push(network(&sandbox));
    checks.push(whole(store, &sandbox, environment));
    checks.push(platforms(store, &sandbox, environment));
    checks
}

/// What runs the programs of each platform.
fn platforms(store: &Store, sandbox: &Sandbox, environment: &Environment) -> Check {
    emulators::check(
        |platform| sandbox.runs(platform, Security::Default, None),
        |machine, runs| {
            let program = Some((&*machine.program(), runs));
            run_in_sandbox(store, sandbox, environment, program)
        },
        &place::install("qemu-user-static"),
    )
}

/// Which rung of the ladder commands get here.
fn confinement(environment: &Environment) -> Check {
    match &environment.refused {
        None => Check::new(
            "confinement",
            Health::Ok,
            Rung::Namespaces.name(),
            "RUN steps get namespaces of their own: the strongest confinement there is",
        ),
        Some(error) if matches!(environment.chroot, Some(Ok(SCOPED_FROM..))) => Check::new(
            "confinement",
            Health::Degraded,
            format!("chroot and Landlock; {error}"),
            "RUN steps get a root directory of their own: /sys is empty there, and the network is the container's",
        )
        .fixed_by(place::next_rung(error, environment)),
        Some(error) if matches!(environment.emulated, Some(Ok(_))) => Check::new(
            "confinement",
            Health::Degraded,
            format!("emulated; {error}"),
            "RUN steps have every path resolved for them: other users are names there, and the network is the container's",
        )
        .fixed_by(place::next_rung(error, environment)),
        Some(error) => Check::new(
            "confinement",
            Health::Degraded,
            format!("none: {error}"),
            "RUN steps cannot run here; builds of all other instructions work, and give the same images",
        )
        .fixed_by(place::next_rung(error, environment)),
    }
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
        Ok(_) => Check::new("overlay", Health::Ok, "mounted", "layers are shared, never copied"),
        Err(error) if !snapshot::can_mount() => {
            let means = match clones_files(store) {
                true => "layers are laid out in the store, as clones",
                false => "layers are laid out in the store, which takes a copy for each stage",
            };
            Check::new("overlay", Health::Degraded, error, means)
        }
        Err(error) => {
            let means = "steps have no file system to run in";
            Check::new("overlay", Health::Missing, error, means)
                .fixed_by("builder --root DIR … on ext4, xfs or btrfs")
        }
    }
}

fn ids(sandbox: &Sandbox, standing: Standing) -> Check {
    let setting = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let sysctl = if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        Some("sysctl -w user.max_user_namespaces=15000")
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        Some("sysctl -w kernel.unprivileged_userns_clone=1")
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref()
        == Some("1")
    {
        Some(place::APPARMOR_PROFILE)
    } else {
        None
    };
    let fix = match sysctl {
        Some(command) => place::as_root_of_the_machine(command),
        None => "builder --root DIR … on a file system whose mounts can map ids: ext4, xfs, btrfs"
            .to_owned(),
    };
    match sandbox.ids(Security::Default) {
        Ok(_) if standing == Standing::Single => Check::new(
            "users",
            Health::Degraded,
            "one id: that of your user",
            "all users of RUN steps are your user on this machine; owners of files are written down",
        )
        .fixed_by(place::more_ids()),
        // What we are root of is a namespace of the user's own ids already.
        Ok(_) if standing == Standing::Ranges => Check::new(
            "users",
            Health::Ok,
            "a user namespace with your subordinate ids",
            "users in RUN steps are ids of yours, and no other user of this machine",
        ),
        Ok(Some(_)) => Check::new(
            "users",
            Health::Ok,
            "a user namespace, and layers seen through its mapping",
            "users in RUN steps have no ids of this machine's users",
        ),
        Ok(None) => {
            let found = sandbox.take_notices().join("; ");
            let found = if found.is_empty() { "no mapping of ids".to_owned() } else { found };
            let means = "users in RUN steps have the ids that they have on this machine";
            Check::new("users", Health::Degraded, found, means).fixed_by(fix)
        }
        Err(error) => {
            let means = "no sandbox can be made";
            Check::new("users", Health::Missing, failure::chain(&error), means).fixed_by(fix)
        }
    }
}

fn control_groups(store: &Store) -> Check {
    let groups = Cgroups::open(&store.place(StorePart::Locks));
    let found = groups.describe();
    let wanted =
        Limits { memory: Some(1 << 30), cpus: Some(1.0), pids: Some(1000), ..Limits::default() };
    let check = match groups.create(&wanted) {
        Ok(group) if group.substitutes().is_empty() => {
            let means = "--memory, --cpus and --pids-limit are enforced";
            Check::new("limits", Health::Ok, found, means)
        }
        Ok(_) => {
            let means = "limits are enforced in part, by ulimits";
            Check::new("limits", Health::Degraded, found, means)
        }
        Err(error) => {
            let means = format!("limits are errors: {}", failure::chain(&error));
            Check::new("limits", Health::Degraded, found, &means)
        }
    };
    match place::delegation() {
        Some(command) => check.fixed_by(command),
        None => check,
    }
}

fn network(sandbox: &Sandbox) -> Check {
    match sandbox.start_network(&Runs::Natively) {
        Ok(()) => Check::new(
            "network",
            Health::Ok,
            "a private network was started",
            "RUN steps reach the outside, and nothing of this machine's loopback",
        ),
        Err(error) => {
            let found = failure::chain(&error);
            let has_helper = ["slirp4netns", "pasta"].iter().any(|name| place::has_program(name));
            let fix = if !has_helper {
                place::install("slirp4netns")
            } else if place::is_container() {
                "start the container with --device /dev/net/tun".to_owned()
            } else if found.contains("/dev/net/tun: No such") {
                place::as_root_of_the_machine("modprobe tun")
            } else if found.contains("/dev/net/tun") {
                place::as_root_of_the_machine("chmod 0666 /dev/net/tun")
            } else {
                "builder build --network=host …".to_owned()
            };
            let means = "RUN steps use this machine's own network";
            Check::new("network", Health::Degraded, found, means).fixed_by(fix)
        }
    }
}

/// Runs a sandbox up to the point where its command would start: there is none.
fn whole(store: &Store, sandbox: &Sandbox, environment: &Environment) -> Check {
    /// What init says of a program that is not there.
    const NOT_FOUND: i32 = 127;
    // What was noticed before belongs to other checks.
    drop(sandbox.take_notices());
    let ended = run_in_sandbox(store, sandbox, environment, None);
    let notices = sandbox.take_notices();
    match ended {
        Ok(NOT_FOUND) if !notices.is_empty() => {
            let found = format!("a whole one was made; {}", notices.join("; "));
            let check =
                Check::new("sandbox", Health::Degraded, found, "RUN steps can run, confined less");
            let is_masked = notices.iter().any(|notice| notice == PROC_IS_MASKED);
            match is_masked.then(|| place::own_proc(environment)).flatten() {
                Some(change) => check.fixed_by(change),
                None => check,
            }
        }
        Ok(NOT_FOUND) => {
            Check::new("sandbox", Health::Ok, "a whole one was made", "RUN steps can run")
        }
        Ok(status) => Check::new(
            "sandbox",
            Health::Missing,
            format!("its init ended with status {status}"),
            "RUN steps cannot run",
        ),
        Err(error) => Check::new("sandbox", Health::Missing, error, "RUN steps cannot run"),
    }
}

/// Runs a program, the bytes of a file, in a sandbox; without one, a program that is not there.
/// Returns its status.
fn run_in_sandbox(
    store: &Store,
    sandbox: &Sandbox,
    environment: &Environment,
    program: Option<(&[u8], &Runs)>,
) -> Result<i32, String> {
    let work = store.session().and_then(|s| s.new_work()).map_err(|e| failure::chain(&e))?;
    let scratch = Scratch::new(&work).map_err(|e| failure::chain(&e))?;
    if let Some((program, _)) = program {
        // Not through the mount, which may have no id for us.
        let path = scratch.written().join("program");
        fs::write(&path, program)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .map_err(|e| e.to_string())?;
    }
    let ids = sandbox.ids(Security::Default).map_err(|e| failure::chain(&e))?;
    let idmap = ids.as_deref().and_then(Ids::mapping);
    let options = MountOptions { idmap, ..MountOptions::in_store(store) };
    let root =
        snapshot::mount(&[], Some(&scratch.upper()), &options).map_err(|e| failure::chain(&e))?;
    let mut spec = RunSpec::new(vec![OsBytes::from("/program")]);
    if let Some((_, runs)) = program {
        spec.runs = runs.clone();
    }
    if sandbox.rung().is_ok_and(|rung| rung != Rung::Namespaces) {
        spec.policy.network = NetworkMode::Host;
    }
    let inputs = Inputs { root: root.root(), sources: Vec::new(), stdio: Stdio::Capture };
    let cancel = &environment.cancel;
    sandbox
        .run(&spec, &inputs, cancel, &Control::default(), &mut |_, _| {})
        .map(|exit| exit.status)
        .map_err(|e| failure::chain(&e))
}

fn subordinate_ids(environment: &Environment) -> Check {
    let helper = place::has_program("newuidmap");
    let (uid, name) = place::user();
    let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let number = uid.to_string();
    let range = text
        .lines()
        .find(|line| line.split(':').next().is_some_and(|owner| owner == name || owner == number));
    let found = format!(
        "{} in /etc/subuid, {}newuidmap",
        range.map_or_else(|| format!("nothing for {name}"), str::to_owned),
        if helper { "" } else { "no " }
    );
    let (state, means) = match environment.standing {
        Standing::Machine => (Health::Ok, "root needs none: it may use any ids"),
        Standing::Ranges => (Health::Ok, "files and RUN steps have owners and users of their own"),
        Standing::Single => (
            Health::Degraded,
            "owners of files are written down; other users of RUN steps are names, and may do what root may",
        ),
        Standing::Container => (Health::Ok, "files have the owners that they are given"),
        Standing::User => {
            (Health::Degraded, "owners, modes and capabilities of files are written down")
        }
    };
    Check::new("subuids", state, found, means).fixed_by(place::more_ids())
}

fn seccomp() -> Check {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    match fs::read_to_string(path) {
        Ok(actions) if actions.contains("errno") => Check::new(
            "seccomp",
            Health::Ok,
            actions.trim(),
            "system calls that no build needs are refused",
        ),
        _ => Check::new(
            "seccomp",
            Health::Missing,
            "not in this kernel",
            "the filter of RUN steps cannot be loaded",
        )
        .fixed_by("builder build --security-opt seccomp=unconfined …"),
    }
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
    fn the_file_system_of_a_directory_is_found() {
        assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
        assert!(file_system(Path::new("/")).is_some());
    }
}
