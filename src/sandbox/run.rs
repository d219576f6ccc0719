//! The builder's side of a sandbox: starts it, reads its output, learns how it ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio as ProcessStdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};

use super::ids::Ids;
use super::network::{self, NetworkOptions, Private, Servers};
use super::notices::Notices;
use super::protocol::{self, IdMap, Order, Report, Request, RunRequest, SourceFd, StdioFds, Stub};
use super::spec::{Exit, MountKind, NetworkMode, Oom, RunSpec, Security, Stream, Ulimit, Usage};
use super::{Inputs, SandboxError, Source, Stdio, agent, deputy, mounts, spawner};
use crate::cgroup::{Cgroup, Cgroups, Limits, Substitute};
use crate::snapshot::IdMapping;
use crate::sys::cancel::Cancel;
use crate::sys::mount::{MountAttributes, mount_setattr};

/// How often a running step looks whether it is to stop, and a terminal for its size.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How long a killed sandbox may take to be gone. Processes that wait for a disk can take their
/// time; after this they are left to the kernel.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// Output is read in pieces of at most this, which is a pipe's usual capacity.
const PIECE: usize = 64 * 1024;

/// What a build's sandboxes have in common.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Program run to be the spawner: this one.
    pub program: PathBuf,
    /// Folder for leases of control groups, in the store.
    pub leases: PathBuf,
    /// How ids inside map to the host's; `None` for a command that has the builder's own.
    pub idmap: Option<IdMap>,
    /// Text of the host's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// What the private network lets through.
    pub network: NetworkOptions,
}

impl SandboxOptions {
    /// Returns the usual: this program, ids as they are, the host's resolver settings.
    pub fn new(leases: PathBuf) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            leases,
            idmap: None,
            resolv_conf: host_resolv_conf(),
            network: NetworkOptions::default(),
        }
    }
}

/// Reads the host's resolver settings; where a local stub stands in for the real servers, theirs.
fn host_resolv_conf() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let usual = read("/etc/resolv.conf");
    let mut servers = usual.lines().filter_map(|line| line.strip_prefix("nameserver "));
    if servers.next().map(str::trim) == Some("127.0.0.53") && servers.next().is_none() {
        // systemd-resolved keeps what it knows here.
        let real = read("/run/systemd/resolve/resolv.conf");
        if !real.is_empty() {
            return real;
        }
    }
    usual
}

/// Reads what a helper on the host would resolve names by, with the servers that stand behind a stub.
fn host_resolver() -> String {
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let real = host_resolv_conf();
    if own == real { own } else { own + &real }
}

/// Runs the commands of one build. Everything it needs is started when first needed, and dies with
/// it.
#[derive(Debug)]
pub struct Sandbox {
    options: SandboxOptions,
    spawner: Mutex<Option<OwnedFd>>,
    cgroups: OnceLock<Cgroups>,
    ids: Mutex<Decided>,
    notices: Mutex<Notices>,
    private: Mutex<Option<Result<Arc<Private>, String>>>,
    running: Mutex<Running>,
    next: AtomicU64,
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

    fn take(&self) -> Vec<i32> {
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
        Self {
            options,
            spawner: Mutex::default(),
            cgroups: OnceLock::new(),
            ids: Mutex::default(),
            notices: Mutex::default(),
            private: Mutex::default(),
            running: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    fn cgroups(&self) -> &Cgroups {
        self.cgroups.get_or_init(|| Cgroups::open(&self.options.leases))
    }

    /// Removes control groups that killed builders left behind. [`Sandbox::run`] does so too, before
    /// its first step.
    pub fn sweep(&self) {
        self.cgroups();
    }

    /// Returns what of these limits can be enforced in part only, as sentences for people.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Cgroup`] for a limit that cannot be enforced at all.
    pub fn weaknesses(&self, limits: &Limits) -> Result<Vec<String>, SandboxError> {
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let group = self.cgroups().create(limits)?;
        let tell = |s: &Substitute| {
            format!("{} without a control group is the ulimit {}: {}", s.limit, s.rlimit, s.lack)
        };
        Ok(group.substitutes().iter().map(tell).collect())
    }

    /// Stops all running commands until [`Sandbox::thaw`]; one that starts meanwhile stands still
    /// from its first instruction on.
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

    /// Returns the user namespace of commands and how it maps, for mounts to be mapped the same way;
    /// `None` where a command has the ids of the builder: with [`Security::Insecure`], where that was
    /// asked for, and where the machine cannot map, which is a notice.
    ///
    /// # Errors
    ///
    /// When the spawner cannot be started.
    pub fn ids(&self, security: Security) -> Result<Option<Arc<Ids>>, SandboxError> {
        match self.options.idmap {
            Some(map) if security == Security::Default => self.mapped_ids(map),
            _ => Ok(None),
        }
    }

    fn mapped_ids(&self, map: IdMap) -> Result<Option<Arc<Ids>>, SandboxError> {
        let mut decided = lock(&self.ids);
        match &*decided {
            Decided::NotYet => {}
            Decided::Own => return Ok(None),
            Decided::Mapped(ids) => return Ok(Some(Arc::clone(ids))),
        }
        let ids = match self.make_namespace(&Request::MakeUserns(map), None) {
            Ok(userns) => Ids::new(userns, map, &self.options.leases).map(Arc::new),
            Err(SandboxError::Setup { doing, errno }) => {
                Err(format!("{doing}: {}", io::Error::from_raw_os_error(errno)))
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

    /// Returns what the user is to be told of walls that this machine lacks, each thing once.
    pub fn take_notices(&self) -> Vec<String> {
        lock(&self.notices).take()
    }

    /// Starts the private network if it is not there yet.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Network`] where no helper works, each time: the caller falls back to
    /// [`NetworkMode::Host`] and says so.
    pub fn start_network(&self) -> Result<(), SandboxError> {
        self.private().map(drop)
    }

    fn private(&self) -> Result<Arc<Private>, SandboxError> {
        let mut private = lock(&self.private);
        if private.is_none() {
            let namespace = self.make_netns(self.ids(Security::Default)?.as_deref())?;
            let start = |argv: Vec<String>, fds: &[&OwnedFd]| {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                self.start_helper(argv, &fds).map_err(|error| error.to_string())
            };
            *private = Some(
                network::start(namespace, &self.options.network, &host_resolver(), &start)
                    .map(Arc::new),
            );
        }
        match &*private {
            Some(Ok(network)) => Ok(Arc::clone(network)),
            Some(Err(reason)) => Err(SandboxError::Network { reason: reason.clone() }),
            None => Err(SandboxError::Network { reason: "not started".into() }),
        }
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
        let begun = Instant::now();
        let group = Arc::new(self.cgroups().create(&spec.limits)?);
        let (ours, theirs) =
            protocol::pair().map_err(|error| SandboxError::io("cannot make a socket", error))?;
        let mut plan = Plan::new(theirs);
        let request = self.plan(spec, inputs, &group, &mut plan)?;
        // Before anything of it runs, so that no moment escapes a freeze.
        let number = self.enlist(&group);
        if let Err(error) = self.send(&Request::Run(Box::new(request)), &plan.borrowed()) {
            lock(&self.running).groups.remove(&number);
            return Err(error);
        }
        let streams = plan.finish();
        let mut session = Session {
            socket: ours,
            init: None,
            streams,
            terminal: None,
            agents: Vec::new(),
            stubs: Vec::new(),
            notices: Vec::new(),
            exited: None,
            failed: None,
            closed: false,
            ready: false,
        };
        let outcome = session.follow(spec, inputs, cancel, control, output);
        lock(&self.running).groups.remove(&number);
        if outcome.is_err() || session.exited.is_none() {
            session.kill(&group);
        }
        session.await_death(&group);
        session.drain(output);
        session.drain_terminal(inputs);
        mounts::remove_stubs(inputs.root, &session.stubs);
        for notice in session.notices {
            lock(&self.notices).add(notice);
        }
        outcome?;
        if let Some(failure) = session.failed {
            return Err(failure);
        }
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
        plan: &mut Plan,
    ) -> Result<RunRequest, SandboxError> {
        let copy = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        let root = plan.add(copy(inputs.root)?);
        let ids = self.ids(spec.security)?;
        let mapping = ids.as_deref().and_then(Ids::mapping);
        let mut sources = Vec::new();
        for source in &inputs.sources {
            sources.push(match source {
                Source::Detached(fd) => SourceFd::Mount(plan.add(copy(*fd)?)),
                Source::Tree(fd) => {
                    let flags = OpenTreeFlags::OPEN_TREE_CLONE
                        | OpenTreeFlags::OPEN_TREE_CLOEXEC
                        | OpenTreeFlags::AT_EMPTY_PATH;
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
        let (netns, servers) = match spec.network {
            NetworkMode::Private => {
                let network = self.private()?;
                let servers = network.dns.map_or(Servers::Reachable, Servers::This);
                (Some(plan.add(copy(network.namespace.as_fd())?)), servers)
            }
            NetworkMode::Host => (None, Servers::Host),
            // One that belongs to the command's user namespace, so that its capabilities count there.
            NetworkMode::None => match &ids {
                Some(ids) => (Some(plan.add(self.make_netns(Some(ids))?)), Servers::Reachable),
                None => (None, Servers::Reachable),
            },
        };
        let userns = match ids {
            Some(ids) => Some((plan.add(copy(ids.userns())?), ids.map())),
            None => None,
        };
        let stdio = plan.stdio(&inputs.stdio)?;
        let mut cgroup1 = Vec::new();
        for file in group.v1_procs()? {
            cgroup1.push(plan.add(file.into()));
        }
        let cgroup2 = group.v2_fd().map(copy).transpose()?.map(|fd| plan.add(fd));
        let mut spec = spec.clone();
        for substitute in group.substitutes() {
            // What the user says of the same resource counts.
            if !spec.ulimits.iter().any(|limit| limit.name == substitute.rlimit) {
                let value = Some(substitute.value);
                let name = substitute.rlimit.to_owned();
                spec.ulimits.push(Ulimit { name, soft: value, hard: value });
            }
        }
        Ok(RunRequest {
            root,
            sources,
            stdio,
            netns,
            userns,
            cgroup2,
            cgroup2_only: self.cgroups().is_v2_only(),
            cgroup1,
            hosts: network::hosts(&spec, &self.options.network),
            resolv_conf: network::resolv_conf(&self.options.resolv_conf, servers),
            spec,
        })
    }

    /// Shows a tree as the sandbox's users are to see it, where its file system can.
    fn map_tree(&self, tree: &OwnedFd, mapping: IdMapping<'_>) -> Result<(), SandboxError> {
        let change = MountAttributes { idmap: Some(mapping.userns), ..MountAttributes::default() };
        match mount_setattr(tree.as_fd(), &change) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                lock(&self.notices).add(
                    "a mount's file system cannot map ids; its files are nobody's to the command \
                     (--userns=host shows their owners)"
                        .to_owned(),
                );
                Ok(())
            }
            result => {
                result.map_err(|error| SandboxError::io("cannot map the ids of a mount", error))
            }
        }
    }

    /// Sends a request, starting the spawner if there is none.
    fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        let gone = |source| SandboxError::Spawner { program: self.options.program.clone(), source };
        let mut spawner = lock(&self.spawner);
        if spawner.is_none() {
            *spawner = Some(self.start_spawner().map_err(gone)?);
        }
        match &*spawner {
            Some(socket) => protocol::send(socket.as_fd(), request, fds).map_err(gone),
            None => Err(gone(io::ErrorKind::NotConnected.into())),
        }
    }

    fn start_spawner(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = protocol::pair()?;
        let mut child = Command::new(&self.options.program)
            .arg0(spawner::NAME)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(ProcessStdio::null())
            .stderr(ProcessStdio::null())
            .spawn()?;
        // Whoever drops the socket ends the spawner; this thread then takes its status.
        std::thread::Builder::new().name("spawner".into()).spawn(move || child.wait().ok())?;
        Ok(ours)
    }

    /// Asks for something that is answered by one report with a descriptor.
    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, SandboxError> {
        let gone = |source| SandboxError::Spawner { program: self.options.program.clone(), source };
        let (ours, theirs) = protocol::pair().map_err(gone)?;
        let mut all = vec![theirs.as_fd()];
        all.extend_from_slice(fds);
        self.send(request, &all)?;
        drop(theirs);
        match protocol::receive::<Report>(ours.as_fd()).map_err(gone)? {
            Some((Report::Failed { doing, errno }, _)) => Err(SandboxError::Setup { doing, errno }),
            Some((Report::Refused { message }, _)) => Err(SandboxError::Spec { message }),
            Some((_, mut fds)) if !fds.is_empty() => Ok(fds.swap_remove(0)),
            _ => Err(gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn make_namespace(
        &self,
        request: &Request,
        userns: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd, SandboxError> {
        self.ask(request, userns.as_slice())
    }

    fn make_netns(&self, ids: Option<&Ids>) -> Result<OwnedFd, SandboxError> {
        self.make_namespace(&Request::MakeNetns, ids.map(Ids::userns))
    }

    fn start_helper(
        &self,
        argv: Vec<String>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<OwnedFd, SandboxError> {
        self.ask(&Request::Helper { argv }, fds)
    }
}

/// Descriptors gathered for a request.
struct Plan {
    fds: Vec<OwnedFd>,
    streams: Vec<(Stream, File)>,
}

impl Plan {
    fn new(control: OwnedFd) -> Self {
        Self { fds: vec![control], streams: Vec::new() }
    }

    fn add(&mut self, fd: OwnedFd) -> usize {
        self.fds.push(fd);
        self.fds.len() - 1
    }

    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }

    /// Lets go of what was sent; keeps the reading ends of pipes.
    fn finish(self) -> Vec<(Stream, File)> {
        self.streams
    }

    fn stdio(&mut self, stdio: &Stdio<'_>) -> Result<StdioFds, SandboxError> {
        match stdio {
            Stdio::Capture => {
                let null =
                    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                        .map_err(|error| SandboxError::io("cannot open /dev/null", error))?;
                let mut three = [self.add(null), 0, 0];
                for (place, stream) in [(1, Stream::Stdout), (2, Stream::Stderr)] {
                    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)
                        .map_err(|error| SandboxError::io("cannot make a pipe", error))?;
                    three[place] = self.add(writer);
                    self.streams.push((stream, reader.into()));
                }
                Ok(StdioFds::Three(three))
            }
            Stdio::Inherit(fds) => {
                let mut three = [0; 3];
                for (place, fd) in three.iter_mut().zip(fds) {
                    let fd = fd
                        .try_clone_to_owned()
                        .map_err(|error| SandboxError::io("cannot copy a descriptor", error))?;
                    *place = self.add(fd);
                }
                Ok(StdioFds::Three(three))
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

/// What init reported at the end.
#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    status: i32,
    user_us: u64,
    system_us: u64,
    max_rss: u64,
    io_read: u64,
    io_written: u64,
}

/// One running sandbox, as seen from outside.
struct Session {
    socket: OwnedFd,
    init: Option<OwnedFd>,
    streams: Vec<(Stream, File)>,
    terminal: Option<File>,
    /// Dropping them ends the agents' threads.
    agents: Vec<OwnedFd>,
    stubs: Vec<Stub>,
    notices: Vec<String>,
    exited: Option<Ended>,
    failed: Option<SandboxError>,
    closed: bool,
    ready: bool,
}

impl Session {
    /// Serves the sandbox until its command has ended or it failed.
    fn follow(
        &mut self,
        spec: &RunSpec,
        inputs: &Inputs<'_>,
        cancel: &Cancel,
        control: &Control,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<(), SandboxError> {
        let (typed, shown) = match &inputs.stdio {
            Stdio::Terminal { input, output } => (Some(*input), Some(*output)),
            Stdio::Capture | Stdio::Inherit(_) => (None, None),
        };
        let _raw = typed.map(RawMode::enter);
        let mut typed_open = typed.is_some();
        let mut size = shown.and_then(|fd| rustix::termios::tcgetwinsize(fd).ok());
        let mut piece = vec![0; PIECE];
        while self.exited.is_none() && self.failed.is_none() && !self.closed {
            if cancel.is_cancelled() {
                return Err(SandboxError::Cancelled);
            }
            if self.ready {
                for signal in control.take() {
                    protocol::send(self.socket.as_fd(), &Order::Signal(signal), &[]).ok();
                }
            }
            let mut watched = vec![PollFd::new(&self.socket, PollFlags::IN)];
            watched.extend(self.streams.iter().map(|(_, file)| PollFd::new(file, PollFlags::IN)));
            let terminal_at = watched.len();
            watched.extend(self.terminal.iter().map(|file| PollFd::new(file, PollFlags::IN)));
            let typed_at = watched.len();
            if let (Some(input), true, true) = (&typed, typed_open, self.terminal.is_some()) {
                watched.push(PollFd::from_borrowed_fd(*input, PollFlags::IN));
            }
            match rustix::event::poll(&mut watched, Some(&TICK)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(SandboxError::io("cannot wait for the sandbox", error)),
                Ok(_) => {}
            }
            let events: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(watched);
            if let (Some(master), Some(shown)) = (&self.terminal, shown) {
                let now = rustix::termios::tcgetwinsize(shown).ok();
                let changed = |a: &rustix::termios::Winsize, b: &rustix::termios::Winsize| {
                    (a.ws_row, a.ws_col) != (b.ws_row, b.ws_col)
                };
                if let Some(new) =
                    now.filter(|new| size.as_ref().is_none_or(|old| changed(old, new)))
                {
                    rustix::termios::tcsetwinsize(master, new).ok();
                    size = Some(new);
                }
                if events.get(terminal_at) == Some(&true) {
                    self.pass_terminal(shown, &mut piece);
                }
            }
            if events.get(typed_at) == Some(&true)
                && let (Some(input), Some(master)) = (typed, &self.terminal)
            {
                match rustix::io::read(input, &mut piece[..]) {
                    Ok(0) | Err(_) => typed_open = false,
                    Ok(count) => write_all(master.as_fd(), &piece[..count]),
                }
            }
            self.pass_output(&events[1..terminal_at], &mut piece, output);
            if events[0] {
                self.hear(spec, inputs)?;
            }
        }
        Ok(())
    }

    /// Takes one report.
    fn hear(&mut self, spec: &RunSpec, inputs: &Inputs<'_>) -> Result<(), SandboxError> {
        let received = protocol::receive::<Report>(self.socket.as_fd())
            .map_err(|error| SandboxError::io("cannot hear from the sandbox", error))?;
        let Some((report, mut fds)) = received else {
            self.closed = true;
            return Ok(());
        };
        match report {
            Report::Started { .. } => self.init = fds.pop(),
            Report::Made => {}
            Report::Deputized => {
                if let Some(listener) = fds.pop() {
                    start("deputy", move || deputy::serve(&listener).ok())?;
                }
            }
            Report::Failed { doing, errno } => {
                self.failed = Some(SandboxError::Setup { doing, errno });
            }
            Report::Refused { message } => self.failed = Some(SandboxError::Spec { message }),
            Report::Exited { status, user_us, system_us, max_rss, io_read, io_written } => {
                self.exited =
                    Some(Ended { status, user_us, system_us, max_rss, io_read, io_written });
            }
            Report::Ready { stubs, notices } => {
                self.stubs = stubs;
                self.notices = notices;
                self.ready = true;
                if matches!(inputs.stdio, Stdio::Terminal { .. }) {
                    self.terminal = fds.pop().map(File::from);
                }
                self.start_agents(spec, inputs, fds)?;
            }
        }
        Ok(())
    }

    fn start_agents(
        &mut self,
        spec: &RunSpec,
        inputs: &Inputs<'_>,
        sockets: Vec<OwnedFd>,
    ) -> Result<(), SandboxError> {
        // Init made the sockets in the order of the mounts' depth, as it mounted them.
        let mut mounts: Vec<_> = spec.mounts.iter().collect();
        mounts.sort_by_key(|mount| mounts::depth(&mount.target));
        let agents = mounts.iter().filter_map(|mount| match mount.kind {
            MountKind::Ssh { source, .. } => match inputs.sources.get(source) {
                Some(Source::Agent(path)) => Some(path.to_path_buf()),
                _ => None,
            },
            _ => None,
        });
        for (path, socket) in agents.zip(sockets) {
            let (ours, stop) = protocol::pair()
                .map_err(|error| SandboxError::io("cannot make a socket", error))?;
            self.agents.push(ours);
            start("ssh agent", move || agent::forward(socket, &path, &stop))?;
        }
        Ok(())
    }

    fn pass_output(
        &mut self,
        events: &[bool],
        piece: &mut [u8],
        output: &mut dyn FnMut(Stream, &[u8]),
    ) {
        let mut events = events.iter();
        self.streams.retain_mut(|(stream, file)| {
            if events.next() != Some(&true) {
                return true;
            }
            match rustix::io::read(&*file, &mut *piece) {
                Ok(0) => false,
                Ok(count) => {
                    output(*stream, &piece[..count]);
                    true
                }
                Err(error) => error == rustix::io::Errno::INTR,
            }
        });
    }

    fn pass_terminal(&mut self, shown: BorrowedFd<'_>, piece: &mut [u8]) {
        let Some(master) = &self.terminal else { return };
        match rustix::io::read(master, &mut *piece) {
            Ok(count) if count > 0 => write_all(shown, &piece[..count]),
            Err(rustix::io::Errno::INTR) => {}
            // All who held the other side are gone.
            Ok(_) | Err(_) => self.terminal = None,
        }
    }

    fn kill(&self, group: &Cgroup) {
        // The init's death is the death of its whole pid namespace.
        if let Some(init) = &self.init {
            rustix::process::pidfd_send_signal(init, rustix::process::Signal::KILL).ok();
        }
        group.kill();
    }

    /// Waits until nothing of the sandbox runs.
    fn await_death(&mut self, group: &Cgroup) {
        // A sandbox killed in its first moments may not have been announced yet.
        while self.init.is_none() && !self.closed {
            match protocol::receive::<Report>(self.socket.as_fd()) {
                Ok(Some((Report::Started { .. }, mut fds))) => self.init = fds.pop(),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.closed = true,
            }
            if self.exited.is_none() {
                self.kill(group);
            }
        }
        if let Some(init) = &self.init {
            let begun = Instant::now();
            while begun.elapsed() < DEATH_LIMIT {
                let mut watched = [PollFd::new(init, PollFlags::IN)];
                if !matches!(rustix::event::poll(&mut watched, Some(&TICK)), Ok(0)) {
                    break;
                }
            }
        }
        self.agents.clear();
    }

    /// Hands on what the command wrote to its terminal just before it ended.
    fn drain_terminal(&mut self, inputs: &Inputs<'_>) {
        let Stdio::Terminal { output: shown, .. } = &inputs.stdio else { return };
        let mut piece = vec![0; PIECE];
        while let Some(master) = &self.terminal {
            let mut watched = [PollFd::new(master, PollFlags::IN)];
            match rustix::event::poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Err(rustix::io::Errno::INTR) => {}
                // Nobody holds the other side: reading ends by itself, with an error.
                Ok(1..) => self.pass_terminal(*shown, &mut piece),
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Hands on what is still in the pipes. Nobody writes any more, unless the command gave its
    /// output to somebody outside; so what is there now is all that is waited for.
    fn drain(&mut self, output: &mut dyn FnMut(Stream, &[u8])) {
        let mut piece = vec![0; PIECE];
        while !self.streams.is_empty() {
            let mut watched: Vec<PollFd<'_>> =
                self.streams.iter().map(|(_, file)| PollFd::new(file, PollFlags::IN)).collect();
            match rustix::event::poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(0) => return,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            let events: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(watched);
            self.pass_output(&events, &mut piece, output);
        }
    }
}

/// Starts a thread that ends with the sandbox.
fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(), SandboxError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|error| SandboxError::io("cannot start a thread", error))
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// A terminal in raw mode, put back when dropped.
struct RawMode<'a> {
    fd: BorrowedFd<'a>,
    before: Option<rustix::termios::Termios>,
}

impl<'a> RawMode<'a> {
    fn enter(fd: BorrowedFd<'a>) -> Self {
        let before = rustix::termios::tcgetattr(fd).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(fd, rustix::termios::OptionalActions::Now, &raw).ok();
        }
        Self { fd, before }
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            rustix::termios::tcsetattr(self.fd, rustix::termios::OptionalActions::Now, before).ok();
        }
    }
}
