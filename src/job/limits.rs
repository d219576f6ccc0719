//! Limits that cannot be enforced here, or in part only, by the flags that set them.

use super::failure::{self, Class, Failure};
use crate::cgroup::{CgroupError, Limit, Substitute};
use crate::sandbox::{Limits, Sandbox, SandboxError};

/// Returns the flag that sets a limit.
fn flag_of(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => "--memory",
        Limit::MemorySwap => "--memory-swap",
        Limit::Cpus => "--cpus",
        Limit::CpuShares => "--cpu-shares",
        Limit::CpusetCpus => "--cpuset-cpus",
        Limit::CpusetMems => "--cpuset-mems",
        Limit::Pids => "--pids-limit",
        Limit::IoWeight => "--io-weight",
        Limit::IoThrottle => "--device-read-bps and similar ones",
    }
}

/// Returns the message for a limit that cannot be enforced, or for another failure of control
/// groups.
pub fn not_enforced(error: &CgroupError) -> String {
    match error {
        CgroupError::NotEnforceable { limit, missing } => {
            format!("{} cannot be enforced: {missing}", flag_of(*limit))
        }
        error => failure::chain(error),
    }
}

/// Checks that the limits can be enforced, and returns a notice for each that can be in part only.
///
/// # Errors
///
/// A failure of the environment for a limit that cannot be enforced at all.
pub fn check(sandbox: &Sandbox, limits: &Limits) -> Result<Vec<String>, Failure> {
    let substitutes = sandbox.weaknesses(limits).map_err(|error| match &error {
        SandboxError::Cgroup(cause @ CgroupError::NotEnforceable { .. }) => {
            Failure::new(Class::Environment, not_enforced(cause))
        }
        error => Failure::of(Class::Environment, error),
    })?;
    let notice = |substitute: &Substitute| {
        let lack = match substitute {
            Substitute::Memory(_) => "each process of a step may use it, not the step as a whole",
            Substitute::Pids(_) => "all processes of the user count, and root's do not",
        };
        let (flag, rlimit) = (flag_of(substitute.limit()), substitute.rlimit());
        format!("{flag} without a control group is the ulimit {rlimit}: {lack}")
    };
    Ok(substitutes.iter().map(notice).collect())
}
