//! One RUN or `builder run` in namespaces.
//!
//! In comes a [`RunSpec`], which is data only, with the descriptors it refers to; out go the
//! command's output and an [`Exit`]. Four parties do it:
//!
//! - [`Sandbox`], in the builder's threads: makes the control group, opens mounts, reads output;
//! - the spawner (`spawner`), a small process of one thread, which forks;
//! - the init (`init`), process 1 of a sandbox: mounts, changes root, reaps;
//! - the command, its child.
//!
//! `docs/sandbox.md` says why it is so.
//!
//! # Not here
//!
//! Root file systems are mounted by [`snapshot`](crate::snapshot); the directories and locks of
//! cache mounts and the values of secrets are the scheduler's.

mod agent;
mod caps;
mod chroot;
mod client;
mod command;
mod confinement;
mod descriptors;
mod emulated;
mod enter;
mod error;
mod fault;
mod idmap;
mod ids;
mod init;
mod limits;
mod linklocal;
mod mounts;
mod network;
mod networks;
mod notices;
mod options;
mod platforms;
mod policy;
#[doc(hidden)]
pub mod probe;
mod procfs;
mod program;
mod protocol;
mod relay;
mod run;
mod seccomp;
mod session;
mod spawner;
mod spec;
mod supervisor;
mod users;
mod workdir;

pub use agent::{Agent, KeyError, Keyring, connect as connect_to_agent};
pub use chroot::probe_chroot;
pub use confinement::{Confinement, Rung, WantedRung};
pub use emulated::probe_emulation;
pub use enter::{EnterError, Standing, enter};
pub use error::SandboxError;
pub use idmap::{Extent, IdMap};
pub use ids::{Ids, choose_map, owns_machine};
pub use mounts::PROC_IS_MASKED;
pub use network::{NetworkOptions, Port, Transport};
pub use options::SandboxOptions;
pub use platforms::{
    EmulatorLack, EmulatorPlace, Emulators, GivenEmulator, MACHINES, Machine, Runs,
    machine_of_command,
};
pub use policy::{
    DEFAULT_HOSTNAME, DEFAULT_SHM_SIZE, Limits, NetworkMode, SandboxPolicy, Seccomp, Throttle,
    Ulimit,
};
pub use run::{Control, Sandbox};
pub use spawner::{is_spawner_call, spawner_main};
pub use spec::{
    Exit, Lineage, MountKind, MountSpec, Oom, OsBytes, RunSpec, Security, Stream, Usage,
};

use std::os::fd::BorrowedFd;

/// What a spec refers to by index, and where input and output go.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// A detached mount (of an overlay, say) that becomes the root. It is moved into the sandbox:
    /// afterwards the descriptor still reads and writes, but cannot be mounted again.
    pub root: BorrowedFd<'a>,
    /// What mounts refer to.
    pub sources: Vec<Source<'a>>,
    /// Where input and output go.
    pub stdio: Stdio<'a>,
}

/// Something from outside that a mount shows inside.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A detached mount of the caller's, moved into the sandbox. It is used as it is: ids are
    /// the caller's affair.
    Detached(BorrowedFd<'a>),
    /// A directory or file of this process's mount namespace; a private clone of its mount is
    /// shown, with ids mapped as the sandbox maps them.
    Tree(BorrowedFd<'a>),
    /// Bytes, read to the end from where the descriptor stands.
    File(BorrowedFd<'a>),
    /// An ssh agent.
    Agent(&'a Agent),
}

/// Where a command's input and output go.
#[derive(Debug, Clone, Copy)]
pub enum Stdio<'a> {
    /// Input is empty; output goes to the callback.
    Capture,
    /// Input and output are copied from and to these descriptors of the caller's; the command
    /// itself holds pipes that its user owns.
    Relay {
        /// Where input comes from; `None` for an empty one.
        input: Option<BorrowedFd<'a>>,
        /// Where output goes.
        output: BorrowedFd<'a>,
        /// Where error output goes. Output and error output share a pipe where both go to one
        /// place, so that their order is kept.
        error: BorrowedFd<'a>,
    },
    /// The command gets a terminal of its own, joined to these two. A terminal at `input` is in
    /// raw mode in the meantime.
    Terminal {
        /// Where key strokes come from.
        input: BorrowedFd<'a>,
        /// Where output goes, and whose window size counts.
        output: BorrowedFd<'a>,
    },
}
