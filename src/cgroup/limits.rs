//! What a control group is asked to enforce.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Limits of one step; `None` means not limited.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Memory and swap together in bytes; -1 for unlimited swap. Docker's rule where it is not
    /// given: as much swap again as memory.
    pub memory_swap: Option<i64>,
    /// How many CPUs' worth of time, 1.5 say.
    pub cpus: Option<f64>,
    /// The period over which that time is given out, in microseconds; the kernel's default where
    /// `None`.
    pub cpu_period: Option<u64>,
    /// Relative weight in Docker's scale, 2 to 262144; 1024 is the usual.
    pub cpu_shares: Option<u64>,
    /// CPUs it may run on, as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Most processes and threads, as the user asked: an error or a notice where it cannot be
    /// enforced.
    pub pids: Option<u64>,
    /// Most processes and threads where `pids` is not given: enforced by a control group if there
    /// is one for it, and by nothing else.
    pub default_pids: Option<u64>,
    /// Relative weight of storage requests, 10 to 1000.
    pub io_weight: Option<u64>,
    /// Ceilings per device.
    pub io_throttle: Vec<Throttle>,
}

impl Limits {
    /// Says whether the user asked for no limit.
    pub fn is_empty(&self) -> bool {
        *self == Self { default_pids: self.default_pids, ..Self::default() }
    }
}

/// One of the [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::memory`].
    Memory,
    /// [`Limits::memory_swap`].
    MemorySwap,
    /// [`Limits::cpus`].
    Cpus,
    /// [`Limits::cpu_shares`].
    CpuShares,
    /// [`Limits::cpuset_cpus`].
    CpusetCpus,
    /// [`Limits::cpuset_mems`].
    CpusetMems,
    /// [`Limits::pids`].
    Pids,
    /// [`Limits::io_weight`].
    IoWeight,
    /// [`Limits::io_throttle`].
    IoThrottle,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "the limit of memory",
            Self::MemorySwap => "the limit of memory and swap",
            Self::Cpus => "the limit of CPU time",
            Self::CpuShares => "the weight of CPU time",
            Self::CpusetCpus => "the choice of CPUs",
            Self::CpusetMems => "the choice of memory nodes",
            Self::Pids => "the limit of processes",
            Self::IoWeight => "the weight of storage requests",
            Self::IoThrottle => "the limit of storage requests",
        })
    }
}

/// Ceilings for one block device, in bytes or requests a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Bytes read a second.
    pub read_bps: Option<u64>,
    /// Bytes written a second.
    pub write_bps: Option<u64>,
    /// Reads a second.
    pub read_iops: Option<u64>,
    /// Writes a second.
    pub write_iops: Option<u64>,
}
