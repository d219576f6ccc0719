//! Network, limits and confinement of commands: what a user sets once for a build or a `run`.
//!
//! One type from the command line to the sandbox's init: the flags make a [`SandboxPolicy`], a build
//! holds it for all its steps, and each [`RunSpec`](super::RunSpec) carries it. None of it is part
//! of a cache key.
//!
//! # Not here
//!
//! What one step asks for itself, `RUN --security` and mounts: [`super::spec`]. How user ids map:
//! [`SandboxOptions`](super::SandboxOptions).

use super::spec::Security;
use super::{caps, seccomp};
use serde::{Deserialize, Serialize};

pub use crate::cgroup::{Limits, Throttle};

/// Size of `/dev/shm` by default: 64 MiB, as Docker's.
pub const DEFAULT_SHM_SIZE: u64 = 64 << 20;

/// Host name inside a RUN by default. BuildKit's, so that what images record of it stays the same.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// Network, limits and confinement of commands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxPolicy {
    /// Which network commands see.
    pub network: NetworkMode,
    /// Host name inside.
    pub hostname: String,
    /// Lines for `/etc/hosts`: host name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Resource limits of each process (`--ulimit`).
    pub ulimits: Vec<Ulimit>,
    /// Limits of each command's control group.
    pub limits: Limits,
    /// Capabilities added to Docker's default set, such as `CAP_NET_ADMIN` or `NET_ADMIN`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken from Docker's default set, or `ALL`.
    pub cap_drop: Vec<String>,
    /// Which system call filter is loaded.
    pub seccomp: Seccomp,
}

impl Default for SandboxPolicy {
    /// Docker's defaults, and no network.
    fn default() -> Self {
        Self {
            network: NetworkMode::None,
            hostname: DEFAULT_HOSTNAME.into(),
            extra_hosts: Vec::new(),
            shm_size: DEFAULT_SHM_SIZE,
            ulimits: Vec::new(),
            limits: Limits::default(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            seccomp: Seccomp::Default,
        }
    }
}

impl SandboxPolicy {
    /// Checks the capabilities and the system call filter, without starting anything.
    ///
    /// # Errors
    ///
    /// A message that names the capability or the part of the profile.
    pub fn check(&self) -> Result<(), String> {
        match &self.seccomp {
            Seccomp::Profile(_) => seccomp::filter(self, Security::Default).map(drop),
            // Docker's own profile is compiled when the first command starts: in a build whose steps are
            // all cached that would be a third of all work.
            Seccomp::Default | Seccomp::Unconfined => {
                caps::select(caps::DEFAULT, &self.cap_add, &self.cap_drop).map(drop)
            }
        }
    }
}

/// Which network a command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Only `lo`.
    None,
    /// The host's, whole.
    Host,
    /// A network of the build's own, which reaches the outside through a user-mode helper.
    Private,
}

/// Which system call filter is loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// Docker's default profile.
    Default,
    /// None.
    Unconfined,
    /// The text of a profile in Docker's JSON form.
    Profile(String),
}

/// One resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name as in Docker's `--ulimit`: `nofile`, `nproc`, `core`, …
    pub name: String,
    /// Soft limit; `None` for unlimited.
    pub soft: Option<u64>,
    /// Hard limit; `None` for unlimited.
    pub hard: Option<u64>,
}
