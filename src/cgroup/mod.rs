//! Control groups v1, v2 and the hybrid of both, behind one type.
//!
//! [`Cgroups`] finds out once per build where groups can be made and which controllers they would
//! have; [`Cgroups::create`] makes one group for one step: a directory in every hierarchy that is
//! needed. A machine may have version 2 throughout, version 1, or version 1 for resources beside a
//! version 2 tree without controllers, which still freezes and kills.
//!
//! What the user limits must be enforced or is an error; what is only accounted may be missing. For
//! two limits there is something between: without a controller a resource limit stands in for
//! memory and for the number of processes, and a notice says what that does not enforce.
//!
//! # Leases
//!
//! Groups outlive the process that made them. Before the first is made, a lease file says where
//! groups of this process are and under which prefix; its lock shows whether the process lives. The
//! next command of any user removes the groups of leases that no process holds, and then the lease.
//!
//! Source: the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/; runc `libcontainer/cgroups` for
//! Docker's translation of weights and swap.

mod accounts;
mod error;
mod group;
mod hierarchy;
mod lease;
mod limits;

pub use accounts::{Accounts, OomKills};
pub use error::{CgroupError, Missing};
pub use group::{Cgroup, Substitute};
pub use limits::{Limit, Limits, Throttle};

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hierarchy::Hierarchy;
use lease::Lease;

/// Where this process may make control groups.
#[derive(Debug)]
pub struct Cgroups {
    hierarchy: Hierarchy,
    lease: Option<Lease>,
    next: AtomicU64,
}

impl Cgroups {
    /// Looks at what the machine has, and removes what dead processes left behind according to the
    /// leases in `leases`, a directory that is made where it is missing.
    ///
    /// Never fails: where nothing can be had, [`Cgroups::create`] makes groups without directories
    /// and refuses limits.
    pub fn open(leases: &Path) -> Self {
        let mut hierarchy = Hierarchy::detect();
        if fs::create_dir_all(leases).is_ok() {
            lease::sweep(leases);
        }
        hierarchy.prepare();
        let lease = if hierarchy.is_empty() { None } else { Lease::take(leases, &hierarchy).ok() };
        Self { hierarchy, lease, next: AtomicU64::new(0) }
    }

    /// Says whether all controllers are version 2's, so that one mount inside shows them.
    pub fn is_v2_only(&self) -> bool {
        self.hierarchy.v1_sizing.is_empty() && self.hierarchy.v2.is_some()
    }

    /// Returns the version 1 hierarchies by whose files programs size themselves: the controllers
    /// of each, sorted, as `cpu,cpuacct`.
    pub fn v1_sizing(&self) -> &[String] {
        &self.hierarchy.v1_sizing
    }

    /// Returns a line on what can be enforced here, for people.
    pub fn describe(&self) -> String {
        let list = |names: Vec<&str>| {
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let v2 = self.hierarchy.v2.as_ref();
        let v2_names = v2.map_or(Vec::new(), |v2| v2.enabled.iter().map(String::as_str).collect());
        let v1_names = self.hierarchy.v1.keys().map(String::as_str).collect();
        format!(
            "version 2: {}, controllers {}; version 1 controllers {}",
            if v2.is_some() { "yes" } else { "no" },
            list(v2_names),
            list(v1_names)
        )
    }

    /// Makes a group for one step.
    ///
    /// # Errors
    ///
    /// [`CgroupError::NotEnforceable`] for a limit that nothing here can enforce, or the failure to
    /// write it. A group that is for accounting only is left out where it cannot be made.
    pub fn create(&self, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = self.lease.as_ref().map(|lease| format!("{}{number}", lease.prefix()));
        group::create(&self.hierarchy, name.as_deref(), limits)
    }
}

/// Reads a small file of the control group file system.
fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Writes a setting.
fn write(path: PathBuf, value: &str) -> Result<(), CgroupError> {
    fs::write(&path, value).map_err(|source| CgroupError::Io {
        doing: "cannot write to",
        path,
        source,
    })
}
