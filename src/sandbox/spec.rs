//! A RUN as data: what to execute, as whom, with which mounts, limits and network.
//!
//! A [`RunSpec`] names no path of the host. Descriptors and host sockets that it needs travel
//! beside it, in [`Inputs`](super::Inputs), and mounts refer to them by index.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use super::platforms::Runs;
use super::policy::SandboxPolicy;

/// Bytes of an argument or a path, which need not be UTF-8.
///
/// Serialised as a string where that loses nothing, as a list of numbers otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(from = "OsBytesForm", into = "OsBytesForm")]
pub struct OsBytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OsBytesForm {
    Text(String),
    Raw(Vec<u8>),
}

impl From<OsBytesForm> for OsBytes {
    fn from(form: OsBytesForm) -> Self {
        match form {
            OsBytesForm::Text(text) => Self(text.into_bytes()),
            OsBytesForm::Raw(bytes) => Self(bytes),
        }
    }
}

impl From<OsBytes> for OsBytesForm {
    fn from(bytes: OsBytes) -> Self {
        match String::from_utf8(bytes.0) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Raw(error.into_bytes()),
        }
    }
}

impl From<&str> for OsBytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for OsBytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<OsString> for OsBytes {
    fn from(text: OsString) -> Self {
        Self(text.into_vec())
    }
}

impl OsBytes {
    /// Returns the bytes as the operating system's string.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

/// One command to run in an image's root file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Program and arguments. A program without a slash is looked up in `PATH` of `env`, in the
    /// image. Must not be empty.
    pub argv: Vec<OsBytes>,
    /// The whole environment in order; nothing of ours is added but `HOME`, when it is missing.
    pub env: Vec<(String, String)>,
    /// Absolute working directory; made with mode 0755, owned by the user and group, where it is
    /// missing.
    pub cwd: String,
    /// `USER` as an image has it: empty, or a name or number, then perhaps `:` and a group.
    pub user: String,
    /// Network, limits and confinement.
    pub policy: SandboxPolicy,
    /// Further mounts; a later one of the same target replaces an earlier one.
    pub mounts: Vec<MountSpec>,
    /// Whether the usual confinement applies.
    pub security: Security,
    /// Whether the root is mounted read-only.
    pub readonly_root: bool,
    /// Which commands made the files it runs on.
    #[serde(skip)]
    pub lineage: Lineage,
    /// How programs of its platform run.
    #[serde(skip)]
    pub runs: Runs,
}

/// Which commands made the files that a command runs on. A private network passes from a command to
/// those that follow it, and to no other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage {
    /// The command's own number in its build; `None` for one that stands alone.
    pub own: Option<usize>,
    /// The numbers of the commands that made its files, in any order.
    pub ancestors: Vec<usize>,
}

impl Lineage {
    /// Whether it runs on files of this command.
    pub(super) fn follows(&self, command: usize) -> bool {
        self.ancestors.contains(&command)
    }
}

impl RunSpec {
    /// Returns a spec that runs `argv` as root in `/` with Docker's defaults and no network.
    pub fn new(argv: Vec<OsBytes>) -> Self {
        Self {
            argv,
            env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            policy: SandboxPolicy::default(),
            mounts: Vec::new(),
            security: Security::Default,
            readonly_root: false,
            lineage: Lineage::default(),
            runs: Runs::default(),
        }
    }
}

/// Whether the usual confinement applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Default capabilities, seccomp, masked paths.
    Default,
    /// All capabilities, no filter, nothing masked, `/sys` writable (`RUN --security=insecure`).
    Insecure,
}

/// One more mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute path inside. It and missing parents are made for the step, and taken away
    /// afterwards where they are still empty.
    pub target: String,
    /// What is mounted there.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A tree or a file of [`Inputs::sources`](super::Inputs).
    ///
    /// Also what `type=cache` is: the caller makes the cache's directory with its mode and owner,
    /// holds the lock that its sharing asks for, and passes the directory. For `type=bind,rw`,
    /// whose writes are thrown away, the caller passes an overlay with a scratch upper.
    Bind {
        /// Index in the sources.
        source: usize,
        /// Path beneath the source, resolved as if the source were the root; empty for itself.
        subpath: String,
        /// Whether writes are refused.
        readonly: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Most bytes it can hold; `None` for half of the machine's memory.
        size: Option<u64>,
        /// Mode of its root; `None` for that of the directory it hides, 1777 where there is none.
        mode: Option<u32>,
    },
    /// The root's own directory, writable even where the rest of the root is not.
    Writable,
    /// A file in memory that swap never sees where the kernel can promise it.
    Secret {
        /// Index in the sources, of a descriptor that is read to its end.
        source: usize,
        /// Mode of the file.
        mode: u32,
        /// Owner, as seen inside.
        uid: u32,
        /// Group, as seen inside.
        gid: u32,
    },
    /// A socket that leads to an ssh agent; adding and removing keys is refused.
    Ssh {
        /// Index in the sources, of an agent.
        source: usize,
        /// Mode of the socket.
        mode: u32,
        /// Owner, as seen inside.
        uid: u32,
        /// Group, as seen inside.
        gid: u32,
    },
}

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status; 128 + signal number for a command that a signal ended.
    pub status: i32,
    /// Set when the kernel killed something in the sandbox for memory.
    pub oom: Option<Oom>,
    /// Its limit of processes and threads, if the kernel refused one because of it.
    pub pids: Option<u64>,
    /// What it used.
    pub usage: Usage,
}

/// An out-of-memory kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oom {
    /// The memory limit that was in force, in bytes; `None` when the machine itself ran out.
    pub limit: Option<u64>,
    /// Most memory ever used, in bytes; 0 where it is not known.
    pub peak: u64,
    /// How many processes were killed.
    pub kills: u64,
}

/// What a command used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Elapsed time, in microseconds.
    pub wall_us: u64,
    /// CPU time in user mode, in microseconds.
    pub cpu_user_us: u64,
    /// CPU time in the kernel, in microseconds.
    pub cpu_system_us: u64,
    /// Most memory ever used, in bytes, where known.
    pub peak_memory: Option<u64>,
    /// Bytes read from storage, where known.
    pub io_read: Option<u64>,
    /// Bytes written to storage, where known.
    pub io_written: Option<u64>,
    /// Most processes and threads at one time, where known.
    pub max_pids: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_not_text_survive_json() {
        for bytes in [b"plain".to_vec(), vec![0xff, 0x00, b'a'], Vec::new()] {
            let json = serde_json::to_string(&OsBytes(bytes.clone())).unwrap();
            assert_eq!(serde_json::from_str::<OsBytes>(&json).unwrap().0, bytes);
        }
    }
}
