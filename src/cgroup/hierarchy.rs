//! Where control groups of this process can be made, and with which controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::read;

/// Version 1 controllers that we may use.
const V1_CONTROLLERS: [&str; 6] = ["memory", "cpu", "cpuset", "pids", "blkio", "freezer"];

/// Version 1 controllers whose limits say how much of the machine a program has.
const V1_SIZING: [&str; 5] = ["memory", "cpu", "cpuacct", "cpuset", "pids"];

/// Version 2 controllers that we enable for our groups.
const V2_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// The directories in which groups are made.
#[derive(Debug, Default)]
pub(super) struct Hierarchy {
    pub v2: Option<V2>,
    /// Parent directory by controller.
    pub v1: BTreeMap<String, PathBuf>,
    /// Version 1 hierarchies by whose files programs size themselves: the controllers of each, as
    /// `/proc/self/cgroup` names them (`cpu,cpuacct`), whether groups can be made there or not.
    pub v1_sizing: Vec<String>,
}

#[derive(Debug)]
pub(super) struct V2 {
    /// Parent directory.
    pub parent: PathBuf,
    /// Controllers that groups made there have.
    pub enabled: BTreeSet<String>,
}

impl Hierarchy {
    /// Reads where this process is.
    pub(super) fn detect() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v2.is_none() && self.v1.is_empty()
    }

    /// Works out own directories from the text of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    fn parse(own: &str, mounts: &str) -> Self {
        // Controllers are mounted one by one or several at once; paths may differ for each.
        let mut own_paths: BTreeMap<&str, &str> = BTreeMap::new();
        let mut v1_sizing = Vec::new();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            if let (Some(names), Some(path)) = (fields.next(), fields.next()) {
                if names.split(',').any(|name| V1_SIZING.contains(&name)) {
                    v1_sizing.push(names.to_owned());
                }
                own_paths.extend(names.split(',').map(|name| (name, path)));
            }
        }
        v1_sizing.sort();
        let mut found = Self { v1_sizing, ..Self::default() };
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let before: Vec<&str> = before.split(' ').collect();
            let after: Vec<&str> = after.split(' ').collect();
            let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (&before[..], &after[..])
            else {
                continue;
            };
            let directory = |own: &str| {
                // Mounts may show a part of the tree only: a container's.
                let below = if *root == "/" { Some(own) } else { own.strip_prefix(root) };
                let below = below.unwrap_or("").trim_matches('/');
                let point = Path::new(point);
                if below.is_empty() { point.to_owned() } else { point.join(below) }
            };
            match *kind {
                "cgroup2" if found.v2.is_none() => {
                    let parent = directory(own_paths.get("").copied().unwrap_or("/"));
                    found.v2 = Some(V2 { parent, enabled: BTreeSet::new() });
                }
                "cgroup" => {
                    for option in options.split(',') {
                        if V1_CONTROLLERS.contains(&option)
                            && let Some(own) = own_paths.get(option)
                        {
                            found.v1.entry(option.to_owned()).or_insert_with(|| directory(own));
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Chooses writable directories and enables version 2 controllers; drops what cannot be used.
    pub(super) fn prepare(&mut self) {
        self.v1.retain(|_, parent| is_writable(parent));
        let Some(v2) = &mut self.v2 else { return };
        // A group that has processes cannot give controllers to its children; only the root of
        // all can. So root goes there, as Docker does. Where our own group is all we see (a
        // container, a delegated unit), it has to be that one.
        let top = mount_top(&v2.parent);
        let is_real_root = !top.join("cgroup.type").exists();
        if is_real_root && is_writable(&top) {
            v2.parent = top;
        } else if !is_writable(&v2.parent) {
            self.v2 = None;
            return;
        }
        v2.enable();
    }
}

impl V2 {
    fn enable(&mut self) {
        let has = read(&self.parent.join("cgroup.controllers")).unwrap_or_default();
        let file = self.parent.join("cgroup.subtree_control");
        let mut moved = false;
        for name in V2_CONTROLLERS {
            if !has.split_whitespace().any(|known| known == name) {
                continue;
            }
            let on = || fs::write(&file, format!("+{name}"));
            if let Err(error) = on()
                && error.raw_os_error() == Some(libc::EBUSY)
                && !moved
            {
                moved = self.step_aside();
                on().ok();
            }
        }
        let on = read(&file).unwrap_or_default();
        self.enabled = on.split_whitespace().map(str::to_owned).collect();
    }

    /// Moves this process into a leaf of its own, if it is alone in the group: then the group has
    /// no processes, and may give controllers to its children.
    fn step_aside(&self) -> bool {
        let own = std::process::id().to_string();
        let alone = read(&self.parent.join("cgroup.procs"))
            .is_some_and(|pids| pids.lines().all(|pid| pid == own));
        let leaf = self.parent.join("builder-self");
        alone
            && (fs::create_dir(&leaf).is_ok() || leaf.is_dir())
            && fs::write(leaf.join("cgroup.procs"), own).is_ok()
    }
}

/// Returns the topmost directory above `directory` that is still a control group.
fn mount_top(directory: &Path) -> PathBuf {
    let mut top = directory;
    while let Some(parent) = top.parent()
        && parent.join("cgroup.procs").exists()
    {
        top = parent;
    }
    top.to_owned()
}

fn is_writable(directory: &Path) -> bool {
    use rustix::fs::Access;
    let may = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
    may(directory) && may(&directory.join("cgroup.procs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_has_a_directory_per_controller() {
        let own = "8:pids:/\n4:memory:/process/ab\n2:cpu,cpuacct:/x\n0::/user\n";
        let mounts = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let found = Hierarchy::parse(own, mounts);
        let v1: Vec<(&str, &str)> =
            found.v1.iter().map(|(n, p)| (n.as_str(), p.to_str().unwrap())).collect();
        assert_eq!(
            v1,
            [
                ("cpu", "/sys/fs/cgroup/cpu,cpuacct/x"),
                ("memory", "/sys/fs/cgroup/memory/process/ab"),
                ("pids", "/sys/fs/cgroup/pids"),
            ]
        );
        assert_eq!(found.v2.unwrap().parent, Path::new("/sys/fs/cgroup/unified/user"));
    }

    #[test]
    fn a_container_sees_its_part_of_the_tree() {
        let own = "4:memory:/docker/abc\n0::/\n";
        let mounts = "\
35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/unified ro - cgroup2 cgroup rw,nsdelegate
";
        let found = Hierarchy::parse(own, mounts);
        assert_eq!(found.v1["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(found.v2.unwrap().parent, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn no_control_groups_at_all_is_no_error() {
        assert!(Hierarchy::parse("", "22 1 8:1 / / rw - ext4 /dev/sda rw\n").is_empty());
    }
}
