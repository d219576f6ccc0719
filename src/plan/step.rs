//! What a plan is made of: steps, what each reads, and the image at the end.

use crate::dockerfile::address::Address;
use crate::oci::{Config, Platform};

/// The index of a step in [`Plan::steps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(pub usize);

/// The index of a base image in [`Plan::bases`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseId(pub usize);

/// The index of a context in [`Plan::contexts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextId(pub usize);

/// A stack of layers, by where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Files {
    /// No layers: `FROM scratch`.
    Nothing,
    /// The layers of a base image.
    Base(BaseId),
    /// What a step left behind.
    Step(StepId),
}

/// A tree that COPY, ADD and bind mounts read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    /// A build context.
    Context(ContextId),
    /// A stage or an image.
    Files(Files),
}

/// The work of one build, in an order in which every step comes after all that it reads.
#[derive(Debug)]
pub struct Plan {
    /// The steps that the target needs, and no others.
    pub steps: Vec<Step>,
    /// The images that steps start from or copy from.
    pub bases: Vec<Base>,
    /// The contexts that steps read: their names, `None` for the main one.
    pub contexts: Vec<Option<String>>,
    /// What is built: one image for each platform that was asked for, in that order.
    pub targets: Vec<Target>,
    /// Build arguments that no ARG declares, in the order of their names.
    pub unused_args: Vec<String>,
}

impl Plan {
    /// Returns the steps that made a stack of layers, from the bottom up.
    pub fn made(&self, top: Files) -> Vec<StepId> {
        let mut steps = Vec::new();
        let mut files = top;
        while let Files::Step(id) = files {
            steps.push(id);
            files = self.steps[id.0].parent;
        }
        steps.reverse();
        steps
    }

    /// Returns what a stack of layers starts from: a base image, or nothing.
    pub fn bottom(&self, top: Files) -> Files {
        let mut files = top;
        while let Files::Step(StepId(index)) = files {
            files = self.steps[index].parent;
        }
        files
    }
}

/// A base image, resolved.
#[derive(Debug, Clone)]
pub struct Base {
    /// Its full name, as in the name of its FROM step; an index of the caller's images.
    pub name: String,
    /// Which of the caller's resolved images it is.
    pub image: usize,
    /// Name shown for its step, such as `[build 1/4] FROM docker.io/library/debian:bookworm`; none
    /// for an image that is only copied from.
    pub step_name: String,
}

/// What the build is for.
#[derive(Debug)]
pub struct Target {
    /// The stage's name, or its number from 0.
    pub stage: String,
    /// Its layers.
    pub files: Files,
    /// Its configuration, but for layers and times.
    pub config: Config,
    /// The steps that made the layers of the history's last entries; none where an entry has none.
    pub made_by: Vec<Option<StepId>>,
    /// The platform of its image.
    pub platform: Platform,
    /// The platform that was asked for, under which an index lists it: another than that of its
    /// image where the base has no image for it.
    pub wanted: Platform,
}

/// One instruction that changes files.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The name that progress shows: `[build 2/4] RUN make`.
    pub name: String,
    /// The instruction with its variables as they stand in the Dockerfile.
    pub instruction: String,
    /// The name of its stage, or its number from 0.
    pub stage: String,
    /// The place among its stage's instructions, from 0.
    pub index: usize,
    /// First and last line in the Dockerfile, from 1.
    pub lines: (u32, u32),
    /// What it starts from.
    pub parent: Files,
    /// What it does.
    pub op: Op,
    /// Whether records are not to be looked up (`--no-cache`).
    pub ignore_cache: bool,
    /// The platform it is for.
    pub platform: Platform,
}

impl Step {
    /// Returns where it stands, as its name begins: `[build 2/4]`.
    pub fn place(&self) -> &str {
        self.name.find(']').map_or(self.name.as_str(), |end| &self.name[..=end])
    }

    /// Replaces each tree that the step reads besides its parent.
    pub(super) fn replace_trees(&mut self, new: impl Fn(Tree) -> Tree) {
        match &mut self.op {
            Op::Copy(copy) => copy.tree = new(copy.tree),
            Op::Workdir(_) => {}
            Op::Run(run) => {
                for mount in &mut run.mounts {
                    match &mut mount.kind {
                        MountKind::Bind { tree, .. } => *tree = new(*tree),
                        MountKind::Cache { start: CacheStart::Files { tree, .. }, .. }
                        | MountKind::Cache {
                            start: CacheStart::Owned { tree: Some(tree), .. },
                            ..
                        } => *tree = new(*tree),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Returns every tree the step reads besides its parent, in order.
    pub fn trees(&self) -> Vec<Tree> {
        match &self.op {
            Op::Copy(copy) if copy.sources.iter().any(|s| matches!(s, CopySource::Path(_))) => {
                vec![copy.tree]
            }
            Op::Copy(_) | Op::Workdir(_) => Vec::new(),
            Op::Run(run) => run
                .mounts
                .iter()
                .filter_map(|mount| match &mount.kind {
                    MountKind::Bind { tree, .. } => Some(*tree),
                    MountKind::Cache { start, .. } => start.tree(),
                    _ => None,
                })
                .collect(),
        }
    }
}

/// What a step does to the files it starts from.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// Runs a command.
    Run(Box<Run>),
    /// Copies files in.
    Copy(Box<Copy>),
    /// Makes the working directory.
    Workdir(Workdir),
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command and its arguments, SHELL included.
    pub argv: Vec<String>,
    /// Its environment, in order: ENV and declared ARGs.
    pub env: Vec<(String, String)>,
    /// Which of the names in `env` were declared by ARG.
    pub args: Vec<String>,
    /// The proxy variables it also gets, which count for nothing.
    pub proxy: Vec<(String, String)>,
    /// USER as it stands: `name`, `uid`, with `:group`; empty for root.
    pub user: String,
    /// The absolute working directory.
    pub cwd: String,
    /// Its network.
    pub network: Network,
    /// Whether it may do what root may.
    pub security: Security,
    /// What is mounted for it.
    pub mounts: Vec<Mount>,
    /// A heredoc with a `#!` line: its absolute path (as the last of `argv`) and its bytes.
    pub script: Option<(String, Vec<u8>)>,
}

/// The network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The build's default.
    Default,
    /// Only the loopback interface.
    None,
    /// The host's own.
    Host,
}

/// What a command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Docker's default capabilities.
    Sandbox,
    /// All capabilities.
    Insecure,
}

/// Something mounted for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The absolute path at which it is seen; empty for a secret that is only a variable.
    pub target: String,
    /// What it is.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A part of a tree. Writes, where allowed, are thrown away.
    Bind {
        /// The tree.
        tree: Tree,
        /// The absolute path in it.
        source: String,
        /// Whether writing fails.
        is_read_only: bool,
    },
    /// A directory of the store that lasts from build to build.
    Cache {
        /// Its name.
        id: String,
        /// What happens when two commands want it.
        sharing: Sharing,
        /// What it starts from.
        start: CacheStart,
        /// Whether writing fails.
        is_read_only: bool,
    },
    /// A directory or file of this machine, shown in every RUN of the build. What commands read
    /// there is no part of what their results depend on.
    Host {
        /// Its absolute path.
        source: String,
        /// Whether writing fails.
        is_read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// Its limit in bytes; 0 for the kernel's own.
        size: u64,
    },
    /// A secret, as a file or a variable.
    Secret {
        /// Its name on the command line.
        id: String,
        /// The variable that holds it.
        env: Option<String>,
        /// Whether a missing one is an error.
        is_required: bool,
        /// Permission bits of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
    },
    /// The socket of an ssh agent.
    Ssh {
        /// Its name on the command line.
        id: String,
        /// Whether a missing one is an error.
        is_required: bool,
        /// Permission bits of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
}

/// What a cache mount starts from, which is part of what makes it the same mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheStart {
    /// Nothing: an empty directory of root's.
    Empty,
    /// An empty directory of this owner, group and mode; of a mount that names a tree, one for each
    /// content of that.
    Owned {
        /// The tree.
        tree: Option<Tree>,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
    },
    /// The files of a tree, of which the mount shows a part.
    Files {
        /// The tree.
        tree: Tree,
        /// The absolute path of the part.
        source: String,
    },
}

impl CacheStart {
    /// Returns the tree whose content makes a difference.
    pub fn tree(&self) -> Option<Tree> {
        match self {
            Self::Empty => None,
            Self::Owned { tree, .. } => *tree,
            Self::Files { tree, .. } => Some(*tree),
        }
    }
}

/// What happens when two commands want one cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Both use it.
    Shared,
    /// Each gets one of its own.
    Private,
    /// The second waits.
    Locked,
}

/// Files to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Whether it is ADD.
    pub is_add: bool,
    /// Where [`CopySource::Path`]s are.
    pub tree: Tree,
    /// What to copy, in order.
    pub sources: Vec<CopySource>,
    /// The absolute destination; a trailing slash means a directory.
    pub dest: String,
    /// `user[:group]`, names or numbers.
    pub chown: Option<String>,
    /// Octal or symbolic.
    pub chmod: Option<String>,
    /// Whether the layer stands by itself, without its parent. Never with `chmod`.
    pub is_link: bool,
    /// Whether the sources' parent directories come along.
    pub keeps_parents: bool,
    /// Patterns of what to leave out.
    pub excludes: Vec<String>,
    /// The expected digest of a remote source.
    pub checksum: Option<String>,
    /// Whether a git source keeps its `.git`.
    pub keep_git_dir: Option<bool>,
    /// Whether archives are unpacked; for ADD of local files by default.
    pub unpack: Option<bool>,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern in the tree.
    Path(String),
    /// A heredoc.
    Inline {
        /// The file's name.
        name: String,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// An http(s) address.
    Url(Address),
    /// A git repository, with `#ref:subdir`.
    Git(Address),
}

/// The working directory to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir {
    /// Its absolute path.
    pub path: String,
    /// Whom it belongs to: USER as it stands; empty for root.
    pub user: String,
}
