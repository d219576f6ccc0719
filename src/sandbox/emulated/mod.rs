//! The third rung: a command whose every path is resolved for it, where there is neither a namespace
//! nor another root directory, such as in a pod without any privilege.
//!
//! The tree is laid out in a directory, as for [`chroot`](super::chroot). The *keeper*, a fork of the
//! spawner, starts the command under a filter that hands it all calls which name a file, and answers
//! them: it opens, in the tree, and puts the descriptor into the caller; or it does what was asked.
//!
//! | | |
//! |---|---|
//! | files outside | no call with a path reaches the kernel; a Landlock domain that has no file at all is the net under that |
//! | programs | nothing can be executed by a path; a loader in memory maps what the keeper opened ([`exec`]) |
//! | other processes | the domain: no ptrace, no signal, no abstract socket; the filter: no reading of memory, no limits of others |
//! | sockets with paths | made, bound and connected by the keeper ([`sockets`]) |
//! | `/proc` | the step's own processes, and what any process may know of the machine ([`procfs`]) |
//! | mounts | directories and files in the tree; those that can only be read are refused to writers ([`places`]) |
//! | `/dev` | the container's null, zero, full, random, urandom and tty, and terminals that the step makes |
//! | users, owners, modes | written down and shown, as for a user with one id |
//! | other architectures | their calls are refused: they would have other numbers |
//!
//! # Invariants
//!
//! Nothing is decided by a text that the kernel reads again. A path is resolved once, to a
//! descriptor; memory of a caller is written only through a descriptor that was opened while its call
//! was known to wait. What the keeper does not know, it refuses.

mod calls;
mod change;
mod elf;
mod exec;
mod guard;
mod helpers;
mod look;
mod paths;
mod places;
mod procfs;
mod sockets;
mod vectors;

pub(super) use elf::probe as probe_program;
pub(super) use vectors::probe as probe_vectors;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::process::{DumpableBehavior, set_child_subreaper};

use super::chroot::{self, end_all};
use super::command::Command;
use super::descriptors::Descriptors;
use super::fault::{Doing, Fault};
use super::init::{self, Filters};
use super::mounts::NODES;
use super::policy::NetworkMode;
use super::protocol::{self, InitMessage, Order, RunRequest, StdioFds};
use super::supervisor::credentials::{Credentials, Identity};
use super::supervisor::target::Target;
use super::workdir;
use crate::layer::owner;
use crate::sys::landlock::{Domain, SCOPED_FROM};
use crate::sys::loader;
use crate::sys::notify::{self, Answer};
use crate::sys::process::{self, ChildUsage, Forked, SingleThreaded};

/// What a user is to know, once.
pub(super) const NOTICE: &str = "commands run with every path resolved for them, not in namespaces: other users are \
    names, devices cannot be made, 32-bit programs are refused, and the network is the container's";

/// The same of a command without network.
pub(super) const NOTICE_OFFLINE: &str = "commands without network run with every path resolved for \
    them, not in namespaces: they can make no socket but those of files, and have no loopback";

/// Says of a call that it is answered already, or will be.
const LATER: Errno = Errno::from_raw_os_error(4000);

/// The state of a step: what its calls mean.
struct World {
    proof: SingleThreaded,
    root: OwnedFd,
    /// Path of the root in the container.
    prefix: Vec<u8>,
    /// `/proc` of the tree: device and inode.
    proc: (u64, u64),
    /// Empty files of the tree that stand for devices.
    devices: Vec<((u64, u64), &'static str)>,
    keeper: u32,
    powers: u64,
    /// Whether the step has a network.
    has_network: bool,
    credentials: Credentials,
    /// Paths of what processes execute, by number, from 1 on.
    programs: Vec<Vec<u8>>,
    numbers: BTreeMap<Vec<u8>, u32>,
    loader: OwnedFd,
    pending: BTreeMap<u32, exec::Pending>,
    /// Processes in which calls that failed have left the loader, and its numbers there.
    left: BTreeMap<u32, (OwnedFd, i32)>,
    /// The terminals that the step has made, by number.
    terminals: BTreeMap<u32, OwnedFd>,
    /// Sockets that are not what they seem, by inode.
    sockets: BTreeMap<u64, SocketType>,
    /// Processes that ended while they were stopped, with their status.
    waited: Vec<(i32, i32)>,
    /// What stands for mounts.
    places: places::Places,
    /// Forks that wait in the keeper's place.
    helpers: helpers::Helpers,
    /// Who the command is, until its first call.
    first: Option<Identity>,
}

impl World {
    fn new(proof: SingleThreaded, root: OwnedFd, powers: u64) -> Result<Self, Fault> {
        let place = |path: &str| {
            let stat = rustix::fs::statat(&root, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
            stat.map(|stat| (stat.st_dev, stat.st_ino))
        };
        let devices = NODES.iter().filter_map(|(name, ..)| {
            place(&format!("dev/{name}")).ok().map(|place| (place, *name))
        });
        let (devices, proc) = (devices.collect(), place("proc").doing(|| "looking at /proc")?);
        let prefix = rustix::fs::readlink(paths::link(&root), Vec::new());
        Ok(Self {
            proof,
            prefix: prefix.doing(|| "finding the tree")?.into_bytes(),
            root,
            proc,
            devices,
            keeper: rustix::process::getpid().as_raw_nonzero().get() as u32,
            powers,
            has_network: true,
            credentials: Credentials::default(),
            programs: Vec::new(),
            numbers: BTreeMap::new(),
            loader: loader::make().doing(|| "making a loader")?,
            pending: BTreeMap::new(),
            left: BTreeMap::new(),
            terminals: BTreeMap::new(),
            sockets: BTreeMap::new(),
            waited: Vec::new(),
            places: places::Places::default(),
            helpers: helpers::Helpers::default(),
            first: None,
        })
    }

    /// Answers one call that waits.
    ///
    /// # Errors
    ///
    /// What keeps the command from being who it is to be.
    fn serve(&mut self, listener: BorrowedFd<'_>) -> Result<(), Fault> {
        // One that was given up in the meantime wants no answer.
        let Ok(call) = notify::receive(listener) else { return Ok(()) };
        let target = Target { listener, call: &call, powers: Some(self.powers) };
        if let Some(first) = self.first.take() {
            match self.credentials.set(target, first.clone()) {
                Ok(_) => {}
                // Given up: the next call is the first.
                Err(_) if target.check().is_err() => {
                    self.first = Some(first);
                    return Ok(());
                }
                Err(error) => return Err(error).doing(|| "becoming the step's user"),
            }
        }
        self.forget_failed(&call);
        let answer = match self.answer(target) {
            Err(LATER) => return Ok(()),
            Err(error) => Answer::Error(error.raw_os_error()),
            Ok(answer) => answer,
        };
        notify::answer(listener, &call, &answer).ok();
        Ok(())
    }
}

/// Says whether this process, which has one thread, could confine commands so, after trying in
/// processes that go: the version of Landlock.
///
/// # Errors
///
/// What is refused.
pub fn probe_emulation() -> Result<u32, String> {
    let proof = SingleThreaded::prove().map_err(|error| error.to_string())?;
    let Some(version) = crate::sys::landlock::version().filter(|version| *version >= SCOPED_FROM)
    else {
        return Err(
            "paths are resolved for commands with Landlock of Linux 6.12 or newer".to_owned()
        );
    };
    if !owner::is_without_rights() {
        return Err(
            "paths are resolved for commands of users without capabilities alone".to_owned()
        );
    }
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return Err("there is no loader for this machine".to_owned());
    }
    match probe(proof) {
        Ok(true) => Ok(version),
        Ok(false) => Err("seccomp listeners, ptrace or Landlock is refused".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Has a child execute the loader as a step's would, and answers it that it is to end.
fn probe(proof: SingleThreaded) -> std::io::Result<bool> {
    use crate::sys::trace::Stopped;
    const STATUS: i32 = 77;
    let filter = super::seccomp::for_supervisor(super::supervisor::Task::Everything)
        .map_err(std::io::Error::other)?;
    let (ours, theirs) = protocol::pair()?;
    let Forked::Parent(child) = proof.clone_process(0, None)? else {
        drop(ours);
        let run = || -> std::io::Result<()> {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
            rustix::thread::set_no_new_privs(true)?;
            Domain::new(SCOPED_FROM)?.enter()?;
            let listener = notify::load_filter_with_listener(&filter)?;
            protocol::send(theirs.as_fd(), &(), &[listener.as_fd()])?;
            drop(listener);
            nix::unistd::execve(c"/probe", &[c"probe"], &[] as &[&std::ffi::CStr])?;
            Ok(())
        };
        process::exit_now(i32::from(run().is_err()));
    };
    drop(theirs);
    let serve = || -> std::io::Result<()> {
        let received = protocol::receive::<()>(ours.as_fd())?;
        let listener = received.and_then(|((), mut fds)| fds.pop()).ok_or(Errno::IO)?;
        let loader = loader::make()?;
        loop {
            let mut watched = [PollFd::new(&listener, PollFlags::IN)];
            match rustix::event::poll(&mut watched, None) {
                Err(Errno::INTR) => continue,
                result => _ = result?,
            }
            if !watched[0].revents().contains(PollFlags::IN) {
                return Ok(());
            }
            let Ok(call) = notify::receive(listener.as_fd()) else { continue };
            let target = Target { listener: listener.as_fd(), call: &call, powers: Some(0) };
            if call.arguments[0] == u64::from(loader::ASK) {
                // An exit, and nothing after it.
                let exit = [libc::SYS_exit_group as u64, STATUS as u64, 0, 0, 0, 0, 0];
                let bytes: Vec<u8> = exit.iter().flat_map(|word| word.to_ne_bytes()).collect();
                let at = (call.arguments[1] - 4096) & !15;
                rustix::process::chdir("/proc")?;
                target.write(&bytes, at)?;
                notify::answer(listener.as_fd(), &call, &Answer::Value(at as i64))?;
                continue;
            }
            let path = target.text(call.arguments[0])?;
            let number = notify::add(listener.as_fd(), &call, loader.as_fd(), None)?;
            let stopped = Stopped::at(listener.as_fd(), &call).map_err(|_| Errno::PERM)?;
            let [_, argv, env, ..] = call.arguments;
            let empty = call.arguments[0] + path.len() as u64;
            let flags = libc::AT_EMPTY_PATH as u64;
            let arguments = [number as u64, empty, argv, env, flags, super::seccomp::MARK];
            stopped.call_instead(libc::SYS_execveat, arguments);
        }
    };
    let here = rustix::process::getcwd(Vec::new())?;
    let served = serve();
    rustix::process::chdir(here)?;
    if served.is_err() {
        process::send_signal(child.pid, libc::SIGKILL).ok();
    }
    let pid = rustix::process::Pid::from_raw(child.pid);
    let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    Ok(served.is_ok() && status.is_some_and(|(_, status)| status.exit_status() == Some(STATUS)))
}

/// Lives as the keeper of a command. Never returns.
pub(super) fn main(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    fds: Vec<OwnedFd>,
) -> ! {
    init::live(fds, |fds, control| {
        let (running, mut world, listener) = prepare(proof, request, filters, fds, control)?;
        supervise(&running, control, &mut world, listener)
    })
}

fn prepare(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    mut fds: Descriptors,
    control: &OwnedFd,
) -> Result<(chroot::Running, World, OwnedFd), Fault> {
    guard::split_off(proof)?;
    let spec = &request.spec;
    let version =
        request.emulated.ok_or_else(|| Fault::Refused("no version of Landlock".into()))?;
    owner::go_without_rights();
    process::reset_signals();
    let mut handled = SigSet::all();
    for fatal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE] {
        handled.remove(fatal);
    }
    // Before the first of them can come.
    handled.thread_block().doing(|| "blocking signals")?;
    chroot::die_with_parent()?;
    set_child_subreaper(Some(rustix::process::getpid()))
        .doing(|| "becoming the reaper of the command")?;
    rustix::process::umask(Mode::empty());
    for &index in &request.cgroup1 {
        rustix::io::write(fds.take(index)?, b"0").doing(|| "joining a control group")?;
    }
    if let Some(index) = request.cgroup2 {
        fds.close(index);
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /dev/null")?;
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /proc")?;
    let terminal = match request.stdio {
        StdioFds::Terminal { .. } => Some(chroot::open_terminal().doing(|| "opening a terminal")?),
        StdioFds::Pipes(_) => None,
    };
    let has_terminal = terminal.is_some();
    let root = fds.take(request.root)?;
    let domain = Domain::new(version).doing(|| "making a Landlock domain")?;
    let stdio = init::stdio(request, &fds, &null, terminal.as_ref())?;
    let mut agents = Vec::new();
    for &index in &request.listeners {
        agents.push(fds.take(index)?);
    }
    init::report(control.as_fd(), Vec::new(), Vec::new(), agents, terminal)?;
    drop((fds, null));
    let kept = [control.as_fd(), proc.as_fd(), domain.as_fd(), root.as_fd()];
    let open: Vec<BorrowedFd<'_>> = stdio.iter().map(AsFd::as_fd).chain(kept).collect();
    process::close_others(proof, &open).doing(|| "closing descriptors")?;

    let identity = init::identity_in(root.as_fd(), &spec.user)?;
    workdir::enter_in(root.as_fd(), &spec.cwd, &identity)?;
    let powers = init::capabilities(spec)?;
    let places = places::Places::open(&root, &request.places)?;
    let mut world = World::new(proof, root, powers)?;
    world.places = places;
    world.has_network = spec.policy.network != NetworkMode::None;
    if has_terminal {
        let name = rustix::fs::readlink(paths::link(&stdio[0]), Vec::new());
        name.and_then(|name| world.hold(&name)).doing(|| "holding the terminal")?;
    }
    world.first = Some(Identity::plain(identity.uid, identity.gid, identity.groups.clone()));
    let command = Command::new(request, &identity, filters, Vec::new())?.in_domain(&domain);
    let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "watching signals")?;
    let (ours, theirs) = protocol::pair().doing(|| "making a socket")?;
    let forked = proof.clone_process(0, None).doing(|| "starting the command's process")?;
    let Forked::Parent(child) = forked else {
        // Whatever becomes of the keeper.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok();
        drop((ours, world));
        let status = command.execute_supervised(control.as_fd(), theirs, &stdio, has_terminal);
        process::exit_now(status);
    };
    drop((stdio, child.pidfd, theirs, domain));
    allow_descriptors();
    let running = chroot::Running { pid: child.pid, signals, proc };
    let ready = || -> Result<OwnedFd, Fault> {
        rustix::process::chdir("/proc").doing(|| "entering /proc")?;
        let received = protocol::receive::<()>(ours.as_fd()).doing(|| "waiting for the command")?;
        let listener = received.and_then(|((), mut fds)| fds.pop());
        // It has said itself why it could not begin.
        let listener =
            listener.ok_or_else(|| Fault::Refused("the command could not be confined".into()))?;
        // Of the command alone, whose next call waits: the keeper needs what it needs.
        for limit in &spec.policy.ulimits {
            init::set_ulimit_of(running.pid, limit)?;
        }
        Ok(listener)
    };
    match ready() {
        Ok(listener) => Ok((running, world, listener)),
        Err(fault) => {
            end_all(running.proc.as_fd(), running.pid, &mut ChildUsage::default(), &mut None);
            Err(fault)
        }
    }
}

/// Lets this process have the descriptors that many programs need which are executed at once: as many
/// as it may. The command has its own limit.
fn allow_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok();
}

/// Answers calls until the command has ended, ends all that it left, and reports how.
fn supervise(
    running: &chroot::Running,
    control: &OwnedFd,
    world: &mut World,
    listener: OwnedFd,
) -> Result<(), Fault> {
    notify::take_turns(listener.as_fd());
    let mut listener = Some(listener);
    let mut used = ChildUsage::default();
    let mut status = None;
    let mut fault = None;
    let mut is_abandoned = false;
    while status.is_none() && fault.is_none() && !is_abandoned {
        let mut watched =
            vec![PollFd::new(&running.signals, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        watched.extend(listener.as_ref().map(|listener| PollFd::new(listener, PollFlags::IN)));
        if rustix::event::poll(&mut watched, world.helpers.timeout()).is_err() {
            continue;
        }
        let seen: Vec<PollFlags> = watched.iter().map(PollFd::revents).collect();
        drop(watched);
        if let Some(listener) = &listener {
            world.helpers.look_at_times(listener.as_fd());
        }
        if let (Some(flags), Some(waiting)) = (seen.get(2), &listener) {
            if flags.contains(PollFlags::IN) {
                fault = world.serve(waiting.as_fd()).err();
            } else if !flags.is_empty() {
                // No process is left that could call: it would be reported for ever.
                listener = None;
            }
        }
        let waited = world.waited.drain(..).find(|(pid, _)| *pid == running.pid);
        status = waited.map(|(_, status)| status);
        // The number of a command that was waited for may be another's.
        if !seen[1].is_empty() && status.is_none() {
            match protocol::receive::<Order>(control.as_fd()) {
                Ok(Some((Order::Signal(signal), _))) => {
                    process::send_signal(running.pid, signal).ok();
                }
                Ok(None) | Err(_) => is_abandoned = true,
            }
        }
        if !seen[0].is_empty() {
            while let Ok(Some(signal)) = running.signals.read_signal() {
                is_abandoned |= signal.ssi_signo == Signal::SIGTERM as u32;
            }
            status = status.or(init::reap(running.pid, &mut used, false));
            // Waited for, in whatever way: how it ended is not known.
            is_abandoned |= status.is_none() && !process::is_child(running.pid);
        }
    }
    // What waits for an answer gets none.
    drop(listener);
    end_all(running.proc.as_fd(), running.pid, &mut used, &mut status);
    if let Some(fault) = fault {
        return Err(fault);
    }
    protocol::send(control.as_fd(), &InitMessage::exited(status, &used), &[]).ok();
    Ok(())
}
