//! The builder's side of a sandbox: starts it, reads its output, learns how it ended.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};

use tracing::debug;

use super::chroot::{self, Placed};
use super::client::Client;
use super::confinement::Rung;
use super::emulated;
use super::idmap::IdMap;
use super::ids::Ids;
use super::network::{self, Private, Servers};
use super::networks::Networks;
use super::notices::Notices;
use super::options::SandboxOptions;
use super::platforms::{self, Runs};
use super::policy::{NetworkMode, Ulimit};
use super::protocol::{self, RunRequest, SourceFd, SpawnRequest, StdioFds};
use super::relay::{self, Copy, StreamKind};
use super::session::{Ended, Kept, Session, Streams};
use super::spec::{Exit, MountKind, Oom, RunSpec, Security, Stream, Usage};
use super::{Inputs, SandboxError, Source, Stdio, error, mounts};
use crate::cgroup::{Cgroup, Cgroups, Limits, Substitute};
use crate::snapshot::IdMapping;
use crate::sys::cancel::Cancel;
use crate::sys::landlock;
use crate::sys::mount::{MountAttributes, mount_setattr};

/// Runs the commands of one build. Everything it needs is started when first needed, and dies with
/// it.
#[derive(Debug)]
pub struct Sandbox {
    pub(super) options: SandboxOptions,
    pub(super) client: Arc<Client>,
    cgroups: OnceLock<Cgroups>,
    ids: Mutex<Decided>,
    notices: Mutex<Notices>,
    pub(super) networks: Networks,
    /// How programs of other platforms run.
    pub(super) platforms: Mutex<platforms::Known>,
    running: Mutex<Running>,
    spare: Mutex<Spare>,
    next: AtomicU64,
}

/// Network namespaces take the kernel as long as all the rest of a sandbox. So from the second
/// command without network on, the one for the next command is made while this one runs.
#[derive(Debug, Default)]
pub(super) enum Spare {
    #[default]
    Unknown,
    UsedOnce,
    Wanted,
    /// Where the answer comes.
    Ordered(OwnedFd),
}

/// The groups of running commands, and whether they are to stand still.
#[derive(Debug, Default)]
struct Running {
    groups: BTreeMap<u64, Arc<Cgroup>>,
    is_frozen: bool,
}

/// Whose ids commands have: decided once, before the first.
#[derive(Debug, Default)]
enum Decided {
    #[default]
    NotYet,
    Own,
    Mapped(Arc<Ids>),
}

/// Lets others act on one running command.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Mutex<Vec<i32>>>);

impl Control {
    /// Sends a signal to the command; one sent before it starts is delivered when it does.
    pub fn signal(&self, signal: i32) {
        lock(&self.0).push(signal);
    }

    pub(super) fn take(&self) -> Vec<i32> {
        std::mem::take(&mut *lock(&self.0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics with a lock held and data half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    /// Makes a sandbox for a build; starts nothing yet.
    pub fn new(options: SandboxOptions) -> Self {
        let client = Arc::new(Client::new(options.program.clone()));
        Self {
            networks: Networks::new(Arc::clone(&client), options.network.clone()),
            options,
            client,
            cgroups: OnceLock::new(),
            ids: Mutex::default(),
            notices: Mutex::default(),
            platforms: Mutex::default(),
            running: Mutex::default(),
            spare: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    fn cgroups(&self) -> &Cgroups {
        self.cgroups.get_or_init(|| Cgroups::open(&self.options.leases))
    }

    /// Removes control groups that killed builders left behind. [`Sandbox::run`] does so too,
    /// before its first step.
    pub fn sweep(&self) {
        self.cgroups();
    }

    /// Returns which of these limits can be enforced in part only, and by what.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Cgroup`] for a limit that cannot be enforced at all.
    pub fn weaknesses(&self, limits: &Limits) -> Result<Vec<Substitute>, SandboxError> {
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.cgroups().create(limits)?.substitutes().to_vec())
    }

    /// Stops all running commands until [`Sandbox::thaw`]; one that starts in the meantime stands
    /// still from its first instruction on.
    pub fn freeze(&self) {
        let mut running = lock(&self.running);
        running.is_frozen = true;
        for group in running.groups.values() {
            group.freeze();
        }
    }

    /// Lets all running commands go on.
    pub fn thaw(&self) {
        let mut running = lock(&self.running);
        running.is_frozen = false;
        for group in running.groups.values() {
            group.thaw();
        }
    }

    /// Makes a command's group one that [`Sandbox::freeze`] reaches.
    fn enlist(&self, group: &Arc<Cgroup>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut running = lock(&self.running);
        if running.is_frozen {
            group.freeze();
        }
        running.groups.insert(number, Arc::clone(group));
        number
    }

    /// Returns what confines commands here.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NoConfinement`] where nothing can.
    pub fn rung(&self) -> Result<Rung, SandboxError> {
        let confinement = &self.options.confinement;
        confinement.rung().ok_or_else(|| SandboxError::NoConfinement {
            reason: confinement.reason(),
            fix: confinement.fix.clone(),
        })
    }

    fn has_namespaces(&self) -> bool {
        self.options.confinement.rung() == Some(Rung::Namespaces)
    }

    /// Returns the user namespace of commands and how it maps, for mounts to be mapped the same
    /// way; `None` where a command has the ids of the builder: with [`Security::Insecure`], where
    /// that was asked for, and where the machine cannot map, which is a notice.
    ///
    /// # Errors
    ///
    /// When the spawner cannot be started.
    pub fn ids(&self, security: Security) -> Result<Option<Arc<Ids>>, SandboxError> {
        match &self.options.idmap {
            Some(map) if security == Security::Default && self.has_namespaces() => {
                self.mapped_ids(map)
            }
            _ => Ok(None),
        }
    }

    fn mapped_ids(&self, map: &IdMap) -> Result<Option<Arc<Ids>>, SandboxError> {
        let mut decided = lock(&self.ids);
        match &*decided {
            Decided::NotYet => {}
            Decided::Own => return Ok(None),
            Decided::Mapped(ids) => return Ok(Some(Arc::clone(ids))),
        }
        let ids = match self.client.ask(&SpawnRequest::MakeUserns(map.clone()), &[]) {
            Ok(userns) => Ids::new(userns, map.clone(), &self.options.leases).map(Arc::new),
            Err(SandboxError::Setup { doing, errno }) => {
                Err(format!("{doing}: {}", error::reason(&doing, errno)))
            }
            Err(error) => return Err(error),
        };
        match ids {
            Ok(ids) => {
                *decided = Decided::Mapped(Arc::clone(&ids));
                Ok(Some(ids))
            }
            Err(reason) => {
                lock(&self.notices).add(format!(
                    "ids cannot be mapped here ({reason}); commands run with the builder's own user ids"
                ));
                *decided = Decided::Own;
                Ok(None)
            }
        }
    }

    /// Returns notices about confinement that this machine lacks, each thing once.
    pub fn take_notices(&self) -> Vec<String> {
        lock(&self.notices).take()
    }

    /// Makes sure that private networks can be had, by starting one where there is none yet, for
    /// commands that run so.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Network`] where no helper works, each time: the caller falls back to
    /// [`NetworkMode::Host`] and says so.
    pub fn start_network(&self, runs: &Runs) -> Result<(), SandboxError> {
        if !self.has_namespaces() {
            let reason = "no network namespace can be made here".to_owned();
            return Err(SandboxError::Network { reason });
        }
        let networks = self.networks_of(runs);
        let started = networks.prepare(self.ids_of(runs, Security::Default)?.as_deref());
        self.note_lacks(networks);
        started
    }

    fn note_lacks(&self, networks: &Networks) {
        for lack in networks.take_lacks() {
            lock(&self.notices).add(lack);
        }
    }

    /// The user namespace of commands that run so, as [`ids`](Self::ids).
    fn ids_of(&self, runs: &Runs, security: Security) -> Result<Option<Arc<Ids>>, SandboxError> {
        match runs {
            Runs::ByOwn(own) => Ok(Some(Arc::clone(&own.ids))),
            Runs::Natively | Runs::ByHost => self.ids(security),
        }
    }

    /// The networks that belong to that namespace.
    fn networks_of<'a>(&'a self, runs: &'a Runs) -> &'a Networks {
        match runs {
            Runs::ByOwn(own) => &own.networks,
            Runs::Natively | Runs::ByHost => &self.networks,
        }
    }

    fn spare_of<'a>(&'a self, runs: &'a Runs) -> &'a Mutex<Spare> {
        match runs {
            Runs::ByOwn(own) => &own.spare,
            Runs::Natively | Runs::ByHost => &self.spare,
        }
    }

    /// Returns a private network of the command's own, if it is to have one.
    fn private(&self, spec: &RunSpec) -> Result<Option<Private>, SandboxError> {
        if spec.policy.network != NetworkMode::Private {
            return Ok(None);
        }
        let networks = self.networks_of(&spec.runs);
        let ids = self.ids_of(&spec.runs, Security::Default)?;
        let network = networks.take(ids.as_ref(), &spec.lineage)?;
        debug!("took a private network");
        self.note_lacks(networks);
        Ok(Some(network))
    }

    /// Runs a command to its end, handing its output to `output` in pieces as they come.
    ///
    /// The root's descriptor still reads and writes afterwards; mount points made for the step are
    /// gone again.
    ///
    /// # Errors
    ///
    /// [`SandboxError`] where the command did not run or was given up. One that ran and failed is
    /// an [`Exit`].
    pub fn run(
        &self,
        spec: &RunSpec,
        inputs: &Inputs<'_>,
        cancel: &Cancel,
        control: &Control,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Exit, SandboxError> {
        if cancel.is_cancelled() {
            return Err(SandboxError::Cancelled);
        }
        let rung = self.rung()?;
        if rung != Rung::Namespaces {
            chroot::check(spec)?;
        }
        let begun = Instant::now();
        let group = Arc::new(self.cgroups().create(&spec.policy.limits)?);
        debug!(limits = ?spec.policy.limits, "made a control group");
        let (ours, theirs) =
            protocol::pair().map_err(|error| SandboxError::io("cannot make a socket", error))?;
        let mut plan = Gathered::new(theirs);
        let network = match rung {
            Rung::Namespaces => self.private(spec)?,
            Rung::Chroot(_) | Rung::Emulated(_) => None,
        };
        let (request, placed) = match rung {
            Rung::Namespaces => {
                (self.plan(spec, inputs, &group, network.as_ref(), &mut plan)?, None)
            }
            Rung::Chroot(_) | Rung::Emulated(_) => {
                let (request, placed) =
                    self.plan_in_tree(spec, inputs, &group, rung, &mut plan, cancel)?;
                (request, Some(placed))
            }
        };
        // Before anything of it runs, so that no moment escapes a freeze.
        let number = self.enlist(&group);
        if let Err(error) =
            self.client.send(&SpawnRequest::Run(Box::new(request)), &plan.borrowed())
        {
            lock(&self.running).groups.remove(&number);
            return Err(error);
        }
        debug!("ordered a sandbox");
        if placed.is_none() {
            self.order_netns(&spec.runs)?;
        }
        let streams = plan.finish();
        let mut session = Session::new(ours, streams);
        if placed.is_some() {
            let root = inputs.root.try_clone_to_owned();
            let root = root.map_err(|error| SandboxError::io("cannot copy a descriptor", error))?;
            let has_network = spec.policy.network != NetworkMode::None;
            session.keep(Kept { root, has_network });
        }
        let outcome = session.follow(spec, inputs, cancel, control, output);
        lock(&self.running).groups.remove(&number);
        if outcome.is_err() || session.exited.is_none() {
            session.kill(&group);
        }
        session.await_death(&group);
        if let (Some(network), Some(_), Ok(())) = (network, &session.exited, &outcome) {
            self.networks_of(&spec.runs).give_back(network, spec);
        }
        session.drain(output);
        let delivered = session.finish_relays(cancel, control);
        mounts::remove_stubs(inputs.root, &session.stubs);
        if let Some(placed) = placed {
            if session.has_ended_all() {
                session.end_service();
                for path in placed.take_out()? {
                    lock(&self.notices).add(chroot::written_to(&path));
                }
            } else {
                // A process that is left could be led out of the tree by what is moved out of it.
                placed.abandon();
                outcome?;
                return Err(SandboxError::KeeperLost);
            }
        }
        for notice in session.notices {
            lock(&self.notices).add(notice);
        }
        outcome?;
        if let Some(failure) = session.failed {
            return Err(failure);
        }
        delivered.map_err(|source| SandboxError::Output { source })?;
        let oom = group.oom_kills();
        let accounts = group.accounts();
        let exited = match (session.exited, oom) {
            (Some(exited), _) => exited,
            // The kernel took the init itself.
            (None, Some(_)) => Ended { status: 137, ..Ended::default() },
            (None, None) => return Err(SandboxError::InitLost),
        };
        let (cpu_user_us, cpu_system_us) =
            accounts.cpu_us.unwrap_or((exited.user_us, exited.system_us));
        Ok(Exit {
            status: exited.status,
            oom: oom.map(|o| Oom { limit: o.limit, peak: o.peak, kills: o.kills }),
            pids: group.reached_pids(),
            usage: Usage {
                wall_us: begun.elapsed().as_micros() as u64,
                cpu_user_us,
                cpu_system_us,
                peak_memory: accounts
                    .peak_memory
                    .or((exited.max_rss > 0).then_some(exited.max_rss)),
                io_read: Some(accounts.io.map_or(exited.io_read, |io| io.0.max(exited.io_read))),
                io_written: Some(
                    accounts.io.map_or(exited.io_written, |io| io.1.max(exited.io_written)),
                ),
                max_pids: accounts.max_pids,
            },
        })
    }

    /// Opens all that the request refers to.
    fn plan(
        &self,
        spec: &RunSpec,
        inputs: &Inputs<'_>,
        group: &Cgroup,
        network: Option<&Private>,
        plan: &mut Gathered,
    ) -> Result<RunRequest, SandboxError> {
        let copy = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        let root = plan.add(copy(inputs.root)?);
        let ids = self.ids_of(&spec.runs, spec.security)?;
        let mapping = ids.as_deref().and_then(Ids::mapping);
        let mut sources = Vec::new();
        for source in &inputs.sources {
            sources.push(match source {
                Source::Detached(fd) => SourceFd::Mount(plan.add(copy(*fd)?)),
                Source::Tree(fd) => {
                    let flags = OpenTreeFlags::OPEN_TREE_CLONE
                        | OpenTreeFlags::OPEN_TREE_CLOEXEC
                        | OpenTreeFlags::AT_EMPTY_PATH
                        | OpenTreeFlags::AT_RECURSIVE;
                    let tree = open_tree(fd, "", flags).map_err(|error| {
                        SandboxError::io("cannot clone the source of a mount", error)
                    })?;
                    if let Some(mapping) = mapping {
                        self.map_tree(&tree, mapping)?;
                    }
                    SourceFd::Mount(plan.add(tree))
                }
                Source::File(fd) => SourceFd::File(plan.add(copy(*fd)?)),
                Source::Agent(_) => SourceFd::Agent,
            });
        }
        let (netns, servers) = match spec.policy.network {
            NetworkMode::Private => {
                let network = network.ok_or_else(|| SandboxError::Network {
                    reason: "none was started".to_owned(),
                })?;
                let servers = network.dns.map_or(Servers::Reachable, Servers::This);
                (Some(plan.add(copy(network.namespace.as_fd())?)), servers)
            }
            NetworkMode::Host => (None, Servers::Host),
            // One that belongs to the command's user namespace, so that its capabilities count
            // there.
            NetworkMode::None => match &ids {
                Some(ids) => {
                    (Some(plan.add(self.empty_netns(&spec.runs, ids)?)), Servers::Reachable)
                }
                None => (None, Servers::Reachable),
            },
        };
        let userns = match ids {
            Some(ids) => Some((plan.add(copy(ids.userns())?), ids.map().clone())),
            None => None,
        };
        let stdio = plan.stdio(&inputs.stdio)?;
        let mut cgroup1 = Vec::new();
        for file in group.v1_procs()? {
            cgroup1.push(plan.add(file.into()));
        }
        let cgroup2 = group.v2_fd().map(copy).transpose()?.map(|fd| plan.add(fd));
        Ok(RunRequest {
            root,
            chroot: None,
            emulated: None,
            listeners: Vec::new(),
            places: Vec::new(),
            sources,
            stdio,
            netns,
            userns,
            cgroup2,
            cgroup2_only: self.cgroups().is_v2_only(),
            cgroup1_shown: self.cgroups().v1_sizing().to_vec(),
            cgroup1,
            hosts: network::hosts(&spec.policy, &self.options.network),
            resolv_conf: network::resolv_conf(&self.options.resolv_conf, servers),
            spec: with_substitutes(spec, group),
        })
    }

    /// Puts what a command is to see into its tree, and opens what the request refers to.
    fn plan_in_tree(
        &self,
        spec: &RunSpec,
        inputs: &Inputs<'_>,
        group: &Cgroup,
        rung: Rung,
        plan: &mut Gathered,
        cancel: &Cancel,
    ) -> Result<(RunRequest, Placed), SandboxError> {
        let (chroot, emulated) = match rung {
            Rung::Namespaces => (None, None),
            Rung::Chroot(version) => (Some(version), None),
            Rung::Emulated(version) => (None, Some(version)),
        };
        let notice = match (spec.policy.network, emulated) {
            (NetworkMode::None, None) => chroot::NOTICE_OFFLINE,
            (NetworkMode::None, Some(_)) => emulated::NOTICE_OFFLINE,
            (NetworkMode::Host | NetworkMode::Private, None) => chroot::NOTICE,
            (NetworkMode::Host | NetworkMode::Private, Some(_)) => emulated::NOTICE,
        };
        lock(&self.notices).add(notice.to_owned());
        if spec.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Secret { .. })) {
            lock(&self.notices).add(
                "a secret is a file on the disk of the store while its command runs".to_owned(),
            );
        }
        for lack in chroot::lacks(spec) {
            lock(&self.notices).add(lack);
        }
        if chroot.is_some_and(|version| version < landlock::SCOPED_FROM) {
            lock(&self.notices).add(
                "before Linux 6.12 commands reach the other processes of the container by signals \
                 and abstract sockets"
                    .to_owned(),
            );
        }
        let copy = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        let hosts = network::hosts(&spec.policy, &self.options.network);
        let resolv_conf = network::resolv_conf(&self.options.resolv_conf, Servers::Host);
        let texts = (hosts.as_str(), resolv_conf.as_str());
        let placed =
            Placed::new(inputs.root, spec, &inputs.sources, texts, emulated.is_some(), cancel);
        let (placed, sockets) = placed.map_err(|error| match error {
            SandboxError::Setup { doing, errno } if doing == chroot::OPENING => {
                let reason = error::reason(&doing, errno);
                SandboxError::NoConfinement {
                    reason: format!("{}; {doing}: {reason}", self.options.confinement.reason()),
                    fix: self.options.confinement.fix.clone(),
                }
            }
            error => error,
        })?;
        let places = match emulated {
            Some(_) => placed.places(),
            None => Ok(Vec::new()),
        };
        let places = places.map_err(|error| SandboxError::io("cannot find a mount", error))?;
        let root = plan.add(copy(inputs.root)?);
        let listeners = sockets.into_iter().map(|socket| plan.add(socket)).collect();
        let stdio = plan.stdio(&inputs.stdio)?;
        let mut cgroup1 = Vec::new();
        for file in group.v1_procs()? {
            cgroup1.push(plan.add(file.into()));
        }
        let cgroup2 = group.v2_fd().map(copy).transpose()?.map(|fd| plan.add(fd));
        let request = RunRequest {
            root,
            chroot,
            emulated,
            listeners,
            places,
            sources: Vec::new(),
            stdio,
            netns: None,
            userns: None,
            cgroup2,
            cgroup2_only: false,
            cgroup1_shown: Vec::new(),
            cgroup1,
            hosts: String::new(),
            resolv_conf: String::new(),
            spec: with_substitutes(spec, group),
        };
        Ok((request, placed))
    }

    /// Shows a tree as the sandbox's users are to see it, where its file system can; what is
    /// mounted below it too, where all of that can.
    fn map_tree(&self, tree: &OwnedFd, mapping: IdMapping<'_>) -> Result<(), SandboxError> {
        for is_recursive in [true, false] {
            let idmap = Some(mapping.userns);
            let change = MountAttributes { set: None, idmap, is_recursive };
            match mount_setattr(tree.as_fd(), &change) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    lock(&self.notices).add(
                        "this filesystem does not support ID-mapped mounts: files in the mount \
                         appear owned by `nobody` (--userns=host shows their owners)"
                            .to_owned(),
                    );
                }
                result => {
                    return result
                        .map_err(|error| SandboxError::io("cannot map the ids of a mount", error));
                }
            }
        }
        Ok(())
    }

    /// Returns a network namespace with `lo` alone.
    fn empty_netns(&self, runs: &Runs, ids: &Ids) -> Result<OwnedFd, SandboxError> {
        let mut spare = lock(self.spare_of(runs));
        let next = if matches!(*spare, Spare::Unknown) { Spare::UsedOnce } else { Spare::Wanted };
        let before = std::mem::replace(&mut *spare, next);
        drop(spare);
        match before {
            Spare::Ordered(answer) => self.client.answer(&answer),
            Spare::Unknown | Spare::UsedOnce | Spare::Wanted => self.client.make_netns(Some(ids)),
        }
    }

    /// Has one made for the next command, if there is going to be one.
    fn order_netns(&self, runs: &Runs) -> Result<(), SandboxError> {
        let mut spare = lock(self.spare_of(runs));
        if matches!(*spare, Spare::Wanted)
            && let Some(ids) = self.ids_of(runs, Security::Default)?
        {
            *spare = Spare::Ordered(self.client.order(&SpawnRequest::MakeNetns, &[ids.userns()])?);
        }
        Ok(())
    }
}

/// Adds the limits of processes that stand in for those of a control group.
fn with_substitutes(spec: &RunSpec, group: &Cgroup) -> RunSpec {
    let mut spec = spec.clone();
    for substitute in group.substitutes() {
        // What the user says of the same resource counts.
        if !spec.policy.ulimits.iter().any(|limit| limit.name == substitute.rlimit()) {
            let value = Some(substitute.value());
            let name = substitute.rlimit().to_owned();
            spec.policy.ulimits.push(Ulimit { name, soft: value, hard: value });
        }
    }
    spec
}

/// Descriptors gathered for a request.
struct Gathered {
    fds: Vec<OwnedFd>,
    streams: Streams,
}

impl Gathered {
    fn new(control: OwnedFd) -> Self {
        Self { fds: vec![control], streams: Streams::default() }
    }

    fn add(&mut self, fd: OwnedFd) -> usize {
        self.fds.push(fd);
        self.fds.len() - 1
    }

    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }

    /// Lets go of what was sent; keeps our ends of pipes.
    fn finish(self) -> Streams {
        self.streams
    }

    fn stdio(&mut self, stdio: &Stdio<'_>) -> Result<StdioFds, SandboxError> {
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC)
                .map_err(|error| SandboxError::io("cannot make a pipe", error))
        };
        let duplicate = |fd: &BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        match stdio {
            Stdio::Capture => {
                let mut pipes = [None; 3];
                for (place, stream) in [(1, Stream::Stdout), (2, Stream::Stderr)] {
                    let (reader, writer) = pipe()?;
                    pipes[place] = Some(self.add(writer));
                    self.streams.captured.push((stream, reader.into()));
                }
                Ok(StdioFds::Pipes(pipes))
            }
            Stdio::Relay { input, output, error } => {
                let mut pipes = [None; 3];
                if let Some(from) = input {
                    let (reader, to) = pipe()?;
                    pipes[0] = Some(self.add(reader));
                    let from = duplicate(from)?;
                    self.streams.copies.push(Copy { from, to, kind: StreamKind::Input });
                }
                for (place, to) in [(1, output), (2, error)] {
                    if place == 2 && relay::is_same(*output, *error) {
                        pipes[2] = pipes[1];
                        continue;
                    }
                    let (from, writer) = pipe()?;
                    pipes[place] = Some(self.add(writer));
                    let to = duplicate(to)?;
                    self.streams.copies.push(Copy { from, to, kind: StreamKind::Output });
                }
                Ok(StdioFds::Pipes(pipes))
            }
            Stdio::Terminal { output, .. } => {
                let size = rustix::termios::tcgetwinsize(output).ok();
                Ok(StdioFds::Terminal {
                    rows: size.map_or(24, |size| size.ws_row),
                    cols: size.map_or(80, |size| size.ws_col),
                })
            }
        }
    }
}
