//! One step's control group: its directory in every hierarchy that is needed.
//!
//! What a group used is read in [`super::accounts`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::hierarchy::Hierarchy;
use super::{CgroupError, Limit, Limits, Missing, Throttle, read, write};

/// A control group, removed when dropped.
#[derive(Debug, Default)]
pub struct Cgroup {
    pub(super) v2: Option<(PathBuf, OwnedFd)>,
    /// Controllers that the version 2 directory has.
    has_v2: Vec<String>,
    v1: BTreeMap<String, PathBuf>,
    pub(super) memory_limit: Option<u64>,
    substitutes: Vec<Substitute>,
}

/// A limit that no controller here can enforce, and the resource limit of processes that stands in
/// for it in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Substitute {
    /// For [`Limit::Memory`] the kernel's limit of data, in bytes: each process of a step may use
    /// so much, not the step as a whole.
    Memory(u64),
    /// For [`Limit::Pids`] the kernel's limit of processes: all processes of the user count, and
    /// root's do not.
    Pids(u64),
}

impl Substitute {
    /// Returns the limit that is enforced in part.
    pub fn limit(&self) -> Limit {
        match self {
            Self::Memory(_) => Limit::Memory,
            Self::Pids(_) => Limit::Pids,
        }
    }

    /// Returns the resource limit's name, as setrlimit(2) has it after `RLIMIT_`, in lower case.
    pub fn rlimit(&self) -> &'static str {
        match self {
            Self::Memory(_) => "data",
            Self::Pids(_) => "nproc",
        }
    }

    /// Returns the resource limit's value, soft and hard.
    pub fn value(&self) -> u64 {
        match self {
            Self::Memory(value) | Self::Pids(value) => *value,
        }
    }
}

/// Controllers of version 1 that account for a step without limits. Others cost as much and report
/// what init's resource usage reports as well.
const ACCOUNTING: [&str; 2] = ["memory", "pids"];

/// How long removing waits for the last members to be gone, in tries of a millisecond each.
const REMOVE_TRIES: u32 = 200;

pub(super) fn create(
    hierarchy: &Hierarchy,
    name: Option<&str>,
    limits: &Limits,
) -> Result<Cgroup, CgroupError> {
    let mut group = Cgroup::default();
    group.memory_limit = limits.memory;
    let wanted = wanted(limits);
    let Some(name) = name else {
        group.substitutes = substitutes(limits, &wanted, Missing::Group)?;
        return Ok(group);
    };
    if let Some(v2) = &hierarchy.v2 {
        let path = v2.parent.join(name);
        if make(&path).is_ok() {
            let fd = File::open(&path).map_err(|source| CgroupError::Io {
                doing: "cannot open",
                path: path.clone(),
                source,
            })?;
            group.v2 = Some((path, fd.into()));
            group.has_v2 = v2.enabled.iter().cloned().collect();
        }
    }
    let mut v1_names: Vec<&str> = ACCOUNTING.to_vec();
    v1_names.extend(wanted.iter().map(|(_, v1, _)| *v1));
    if group.v2.is_none() {
        v1_names.push("freezer");
    }
    for controller in v1_names {
        if group.v1.contains_key(controller) || group.has(controller) {
            continue;
        }
        if let Some(parent) = hierarchy.v1.get(controller) {
            let path = parent.join(name);
            // Several controllers may share a hierarchy, and so the directory.
            if path.is_dir() || make(&path).is_ok() {
                group.v1.insert(controller.to_owned(), path);
            }
        }
    }
    let lacking: Vec<Wanted> = wanted
        .into_iter()
        .filter(|(v2, v1, _)| !group.has(v2) && !group.v1.contains_key(*v1))
        .collect();
    group.substitutes = substitutes(limits, &lacking, Missing::Controller)?;
    group.apply(limits)?;
    Ok(group)
}

/// Finds what can stand in for limits without a controller.
///
/// # Errors
///
/// [`CgroupError::NotEnforceable`] for the first that nothing can stand in for.
fn substitutes(
    limits: &Limits,
    lacking: &[Wanted],
    missing: Missing,
) -> Result<Vec<Substitute>, CgroupError> {
    let mut found = Vec::new();
    for &(_, _, limit) in lacking {
        found.push(match (limit, limits.memory, limits.pids) {
            (Limit::Memory, Some(bytes), _) => Substitute::Memory(bytes),
            (Limit::Pids, _, Some(count)) => Substitute::Pids(count),
            (limit, _, _) => return Err(CgroupError::NotEnforceable { limit, missing }),
        });
    }
    Ok(found)
}

/// A controller that a limit needs: in version 2, in version 1, and the limit.
type Wanted = (&'static str, &'static str, Limit);

/// Lists the controllers that limits need.
fn wanted(limits: &Limits) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut want = |is_set: bool, v2, v1, limit| {
        if is_set {
            wanted.push((v2, v1, limit));
        }
    };
    want(limits.memory.is_some(), "memory", "memory", Limit::Memory);
    want(limits.memory_swap.is_some_and(|swap| swap >= 0), "memory", "memory", Limit::MemorySwap);
    want(limits.cpus.is_some(), "cpu", "cpu", Limit::Cpus);
    want(limits.cpu_shares.is_some(), "cpu", "cpu", Limit::CpuShares);
    want(limits.cpuset_cpus.is_some(), "cpuset", "cpuset", Limit::CpusetCpus);
    want(limits.cpuset_mems.is_some(), "cpuset", "cpuset", Limit::CpusetMems);
    want(limits.pids.is_some(), "pids", "pids", Limit::Pids);
    want(limits.io_weight.is_some(), "io", "blkio", Limit::IoWeight);
    want(!limits.io_throttle.is_empty(), "io", "blkio", Limit::IoThrottle);
    wanted
}

fn make(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)
}

/// The period over which CPU time is given out, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

impl Cgroup {
    fn has(&self, v2_controller: &str) -> bool {
        self.has_v2.iter().any(|name| name == v2_controller)
    }

    pub(super) fn v2_file(&self, controller: &str, file: &str) -> Option<PathBuf> {
        let (path, _) = self.v2.as_ref()?;
        self.has(controller).then(|| path.join(file))
    }

    pub(super) fn v1_file(&self, controller: &str, file: &str) -> Option<PathBuf> {
        Some(self.v1.get(controller)?.join(file))
    }

    fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.limit_memory(limits)?;
        if let Some(cpus) = limits.cpus {
            let period = limits.cpu_period.unwrap_or(CPU_PERIOD);
            // The kernel refuses quotas under a millisecond.
            let quota = ((cpus * period as f64).round() as u64).max(1000);
            if let Some(file) = self.v2_file("cpu", "cpu.max") {
                write(file, &format!("{quota} {period}"))?;
            } else if let (Some(period_file), Some(file)) =
                (self.v1_file("cpu", "cpu.cfs_period_us"), self.v1_file("cpu", "cpu.cfs_quota_us"))
            {
                write(period_file, &period.to_string())?;
                write(file, &quota.to_string())?;
            }
        }
        if let Some(shares) = limits.cpu_shares {
            let shares = shares.clamp(2, 262_144);
            if let Some(file) = self.v2_file("cpu", "cpu.weight") {
                write(file, &weight_of_shares(shares).to_string())?;
            } else if let Some(file) = self.v1_file("cpu", "cpu.shares") {
                write(file, &shares.to_string())?;
            }
        }
        self.limit_cpuset("cpus", limits.cpuset_cpus.as_deref())?;
        self.limit_cpuset("mems", limits.cpuset_mems.as_deref())?;
        if let Some(pids) = limits.pids {
            let file =
                self.v2_file("pids", "pids.max").or_else(|| self.v1_file("pids", "pids.max"));
            if let Some(file) = file {
                write(file, &pids.to_string())?;
            }
        } else if let Some(pids) = limits.default_pids
            && let Some(file) =
                self.v2_file("pids", "pids.max").or_else(|| self.v1_file("pids", "pids.max"))
        {
            // The user did not ask for it, so a failure is not an error.
            write(file, &pids.to_string()).ok();
        }
        self.limit_io(limits)
    }

    fn limit_memory(&self, limits: &Limits) -> Result<(), CgroupError> {
        // Docker's rule: as much swap again as memory, by default.
        let total = match (limits.memory, limits.memory_swap) {
            (_, Some(swap)) if swap < 0 => None,
            (_, Some(total)) => Some(total as u64),
            (Some(memory), None) => Some(memory.saturating_mul(2)),
            (None, None) => None,
        };
        if let Some(file) = self.v2_file("memory", "memory.max") {
            if let Some(memory) = limits.memory {
                write(file, &memory.to_string())?;
                // A step of which one process is gone is of no use: all of it goes. Linux 4.19.
                if let Some(file) = self.v2_file("memory", "memory.oom.group")
                    && file.exists()
                {
                    write(file, "1")?;
                }
            }
            let swap = total.map(|total| total.saturating_sub(limits.memory.unwrap_or(0)));
            if let (Some(swap), Some(file)) = (swap, self.v2_file("memory", "memory.swap.max")) {
                // Absent where the kernel has no swap accounting.
                if file.exists() || limits.memory_swap.is_some() {
                    write(file, &swap.to_string())?;
                }
            }
            return Ok(());
        }
        if let (Some(memory), Some(file)) =
            (limits.memory, self.v1_file("memory", "memory.limit_in_bytes"))
        {
            write(file, &memory.to_string())?;
        }
        if let (Some(total), Some(file)) =
            (total, self.v1_file("memory", "memory.memsw.limit_in_bytes"))
            && (file.exists() || limits.memory_swap.is_some())
        {
            write(file, &total.to_string())?;
        }
        Ok(())
    }

    fn limit_cpuset(&self, what: &str, value: Option<&str>) -> Result<(), CgroupError> {
        let name = format!("cpuset.{what}");
        if let Some(file) = self.v2_file("cpuset", &name) {
            return value.map_or(Ok(()), |value| write(file, value));
        }
        let Some(directory) = self.v1.get("cpuset") else { return Ok(()) };
        // Version 1 admits no process to a group that has not been given both.
        let inherited = || {
            let parent = directory.parent()?;
            read(&parent.join(format!("cpuset.effective_{what}")))
                .or_else(|| read(&parent.join(&name)))
        };
        match value.map(str::to_owned).or_else(inherited) {
            Some(value) => write(directory.join(&name), value.trim()),
            None => Ok(()),
        }
    }

    fn limit_io(&self, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(weight) = limits.io_weight {
            let weight = weight.clamp(10, 1000);
            let files = if self.has("io") {
                // The one is the cost model's, the other the BFQ scheduler's: what is there counts.
                [
                    self.v2_file("io", "io.weight").map(|f| (f, weight_of_blkio(weight))),
                    self.v2_file("io", "io.bfq.weight").map(|f| (f, weight)),
                ]
            } else {
                [
                    self.v1_file("blkio", "blkio.weight").map(|f| (f, weight)),
                    self.v1_file("blkio", "blkio.bfq.weight").map(|f| (f, weight)),
                ]
            };
            let mut written = false;
            for (file, value) in files.into_iter().flatten() {
                written |= file.exists() && fs::write(&file, value.to_string()).is_ok();
            }
            if !written {
                return Err(CgroupError::NotEnforceable {
                    limit: Limit::IoWeight,
                    missing: Missing::WeightedScheduler,
                });
            }
        }
        for throttle in &limits.io_throttle {
            self.throttle(throttle)?;
        }
        Ok(())
    }

    fn throttle(&self, throttle: &Throttle) -> Result<(), CgroupError> {
        let device = format!("{}:{}", throttle.major, throttle.minor);
        let ceilings = [
            ("rbps", "blkio.throttle.read_bps_device", throttle.read_bps),
            ("wbps", "blkio.throttle.write_bps_device", throttle.write_bps),
            ("riops", "blkio.throttle.read_iops_device", throttle.read_iops),
            ("wiops", "blkio.throttle.write_iops_device", throttle.write_iops),
        ];
        for (v2_key, v1_file, ceiling) in ceilings {
            let Some(ceiling) = ceiling else { continue };
            if let Some(file) = self.v2_file("io", "io.max") {
                write(file, &format!("{device} {v2_key}={ceiling}"))?;
            } else if let Some(file) = self.v1_file("blkio", v1_file) {
                write(file, &format!("{device} {ceiling}"))?;
            }
        }
        Ok(())
    }

    /// Returns the resource limits that stand in for limits without a controller.
    pub fn substitutes(&self) -> &[Substitute] {
        &self.substitutes
    }

    /// Returns the version 2 directory, for a process to be born in.
    pub fn v2_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|(_, fd)| fd.as_fd())
    }

    /// Opens the files that a process writes `0` to in order to join the version 1 groups.
    ///
    /// # Errors
    ///
    /// When one cannot be opened.
    pub fn v1_procs(&self) -> Result<Vec<File>, CgroupError> {
        let mut directories: Vec<&PathBuf> = self.v1.values().collect();
        directories.dedup();
        directories
            .into_iter()
            .map(|directory| {
                let path = directory.join("cgroup.procs");
                OpenOptions::new().write(true).open(&path).map_err(|source| CgroupError::Io {
                    doing: "cannot open",
                    path,
                    source,
                })
            })
            .collect()
    }

    /// Stops everything in the group until [`Cgroup::thaw`]. Where nothing can freeze, nothing
    /// happens.
    pub fn freeze(&self) {
        self.set_frozen(true);
    }

    /// Lets everything in the group go on.
    pub fn thaw(&self) {
        self.set_frozen(false);
    }

    fn set_frozen(&self, frozen: bool) {
        if let Some((path, _)) = &self.v2 {
            fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" }).ok();
        } else if let Some(file) = self.v1_file("freezer", "freezer.state") {
            fs::write(file, if frozen { "FROZEN" } else { "THAWED" }).ok();
        }
    }

    /// Kills everything in the group.
    pub fn kill(&self) {
        for directory in self.directories() {
            kill_members(directory);
        }
    }

    fn directories(&self) -> impl Iterator<Item = &Path> {
        self.v2.iter().map(|(path, _)| path.as_path()).chain(self.v1.values().map(PathBuf::as_path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in self.directories() {
            remove(directory);
        }
    }
}

/// Kills the members of one directory until none is left.
pub(super) fn kill_members(directory: &Path) {
    // Opened, not made: where the kernel has no such file there must be none.
    let switch = OpenOptions::new().write(true).open(directory.join("cgroup.kill"));
    if switch.and_then(|mut file| file.write_all(b"1")).is_ok() {
        return;
    }
    // A frozen process of version 1 answers no signal. Opened, not made, as above.
    if let Ok(mut file) = OpenOptions::new().write(true).open(directory.join("freezer.state")) {
        file.write_all(b"THAWED").ok();
    }
    // Members may fork while the list is read; each round finds the new ones.
    for _ in 0..REMOVE_TRIES {
        let pids = read(&directory.join("cgroup.procs")).unwrap_or_default();
        let mut any = false;
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
            // 0 is a process of a namespace we cannot see; signalling 0 would mean ourselves.
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                any |= rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
            }
        }
        if !any {
            return;
        }
    }
}

/// Removes one directory, waiting a little for members that are just dying. Says whether it is
/// gone.
pub(super) fn remove(directory: &Path) -> bool {
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(directory) {
            Ok(()) => return true,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => return true,
                Some(libc::EBUSY) => {}
                _ => return false,
            },
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    false
}

/// Translates Docker's scale of shares, 2 to 262144, to version 2's weights, 1 to 10000. runc's
/// older formula, which is linear.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares - 2) * 9999 / 262_142
}

/// Translates version 1's scale of I/O weights, 10 to 1000, to version 2's, 1 to 10000.
fn weight_of_blkio(weight: u64) -> u64 {
    1 + (weight - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_ends() {
        assert_eq!((weight_of_shares(2), weight_of_shares(262_144)), (1, 10_000));
        assert_eq!((weight_of_blkio(10), weight_of_blkio(1000)), (1, 10_000));
    }

    /// A group of this machine's version 1 freezer alone, as on machines without version 2.
    #[test]
    fn privileged_version_1_freezes_thaws_and_kills_what_is_frozen() {
        use std::process::{Command, Stdio};
        let mut hierarchy = Hierarchy::detect();
        hierarchy.v2 = None;
        hierarchy.prepare();
        if !hierarchy.v1.contains_key("freezer") {
            cannot_run_here!(optional: "no freezer of version 1 can be had here");
            return;
        }
        let name = format!("builder-test-{}", std::process::id());
        let group = create(&hierarchy, Some(&name), &Limits::default()).unwrap();
        let state = group.v1_file("freezer", "freezer.state").unwrap();
        let has_state = |wanted: &str| {
            // Freezing passes through FREEZING.
            crate::wait::eventually(wanted, || read(&state).unwrap().trim() == wanted);
        };
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        for mut procs in group.v1_procs().unwrap() {
            procs.write_all(child.id().to_string().as_bytes()).unwrap();
        }
        group.freeze();
        has_state("FROZEN");
        group.thaw();
        has_state("THAWED");
        group.freeze();
        has_state("FROZEN");
        group.kill();
        assert!(!child.wait().unwrap().success(), "it was killed, frozen as it was");
        let directories: Vec<PathBuf> = group.directories().map(Path::to_owned).collect();
        drop(group);
        assert!(directories.iter().all(|directory| !directory.exists()), "{directories:?}");
    }

    #[test]
    fn a_limit_without_control_groups_is_refused_and_none_is_fine() {
        let nothing = Hierarchy::default();
        assert!(create(&nothing, None, &Limits::default()).is_ok());
        let limits = Limits { cpus: Some(0.5), ..Limits::default() };
        let error = create(&nothing, None, &limits).unwrap_err();
        assert!(
            matches!(
                error,
                CgroupError::NotEnforceable { limit: Limit::Cpus, missing: Missing::Group }
            ),
            "{error}"
        );
        let limits = Limits { memory: Some(7), pids: Some(5), ..Limits::default() };
        let unasked = Limits { default_pids: Some(5), ..Limits::default() };
        assert!(create(&nothing, None, &unasked).unwrap().substitutes().is_empty());
        assert!(unasked.is_empty());
        let group = create(&nothing, None, &limits).unwrap();
        let found: Vec<_> = group.substitutes().iter().map(|s| (s.rlimit(), s.value())).collect();
        assert_eq!(found, [("data", 7), ("nproc", 5)]);
    }
}
