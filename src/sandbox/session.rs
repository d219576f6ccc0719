//! One running sandbox, followed from outside: reports, output, signals, the end.

use super::protocol::{self, InitMessage, Order, Stub};
use super::relay::{Copy, Relays, StreamKind};
use super::run::Control;
use super::spec::{MountKind, RunSpec, Stream};
use super::{Inputs, SandboxError, Source, Stdio, agent, chroot, mounts, supervisor};
use crate::cgroup::Cgroup;
use crate::sys::cancel::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tracing::debug;

/// How often a running step looks whether it is to stop, and a terminal for its size.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How long a killed sandbox may take to be gone. Processes that wait for a disk can take their
/// time; after this they are left to the kernel.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// Output is read in pieces of at most this, which is a pipe's usual capacity.
const PIECE: usize = 64 * 1024;

/// What init reported at the end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ended {
    pub(super) status: i32,
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    pub(super) max_rss: u64,
    pub(super) io_read: u64,
    pub(super) io_written: u64,
}

/// Our ends of a command's input and output.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Pipes whose content goes to a callback.
    pub(super) captured: Vec<(Stream, File)>,
    /// Pipes that are joined to descriptors of the caller's.
    pub(super) copies: Vec<Copy>,
}

/// One running sandbox, as seen from outside.
pub(super) struct Session {
    socket: OwnedFd,
    init: Option<OwnedFd>,
    streams: Vec<(Stream, File)>,
    /// Copies to be started with the command.
    copies: Vec<Copy>,
    relays: Option<Relays>,
    /// The master side of the command's terminal, for its size.
    terminal: Option<OwnedFd>,
    raw: Option<RawMode>,
    /// Whether a signal that ends commands was passed on.
    is_stopping: bool,
    /// Dropping them ends the agents' threads.
    agents: Vec<OwnedFd>,
    /// What the user is to know of agents.
    complaints: agent::Complaints,
    pub(super) stubs: Vec<Stub>,
    pub(super) notices: Vec<String>,
    pub(super) exited: Option<Ended>,
    pub(super) failed: Option<SandboxError>,
    closed: bool,
    ready: bool,
    /// Set when the command has a keeper in the place of an init: what it is served.
    kept: Option<Kept>,
    /// The thread that serves it, and returns what the user is to know.
    server: Option<std::thread::JoinHandle<Option<String>>>,
}

/// A command in a root directory.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its root directory.
    pub(super) root: OwnedFd,
    /// Whether it has a network.
    pub(super) has_network: bool,
}

impl Session {
    /// Takes over a sandbox that was just started: init's socket, and what output is read from.
    pub(super) fn new(socket: OwnedFd, streams: Streams) -> Self {
        Self {
            socket,
            init: None,
            streams: streams.captured,
            copies: streams.copies,
            relays: None,
            terminal: None,
            raw: None,
            is_stopping: false,
            agents: Vec::new(),
            complaints: agent::Complaints::default(),
            stubs: Vec::new(),
            notices: Vec::new(),
            exited: None,
            failed: None,
            closed: false,
            ready: false,
            kept: None,
            server: None,
        }
    }

    /// Says that the command has a keeper in the place of an init.
    pub(super) fn keep(&mut self, kept: Kept) {
        self.kept = Some(kept);
    }

    /// Starts to serve `/proc`.
    fn serve(&mut self, listener: OwnedFd, keeper: i32) -> Result<(), SandboxError> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let copy = |fd: &OwnedFd| {
            fd.try_clone().map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        let root = copy(&kept.root)?;
        let terminal = self.terminal.as_ref().map(copy).transpose()?;
        let has_network = kept.has_network;
        let service = chroot::Service { root, keeper, has_network, terminal };
        let thread = std::thread::Builder::new().name("supervisor".into());
        let started = thread.spawn(move || chroot::serve(&listener, &service));
        self.server =
            Some(started.map_err(|error| SandboxError::io("cannot start a thread", error))?);
        Ok(())
    }

    /// Waits until nothing is served any more, as it is when no process is left.
    pub(super) fn end_service(&mut self) {
        if let Some(Ok(Some(notice))) = self.server.take().map(std::thread::JoinHandle::join) {
            self.notices.push(notice);
        }
    }

    /// Serves the sandbox until its command has ended or it failed.
    pub(super) fn follow(
        &mut self,
        spec: &RunSpec,
        inputs: &Inputs<'_>,
        cancel: &Cancel,
        control: &Control,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<(), SandboxError> {
        let shown = match &inputs.stdio {
            Stdio::Terminal { input, output } => {
                self.raw = RawMode::enter(*input);
                Some(*output)
            }
            Stdio::Capture | Stdio::Relay { .. } => None,
        };
        let mut size = shown.and_then(|fd| rustix::termios::tcgetwinsize(fd).ok());
        let mut piece = vec![0; PIECE];
        while self.exited.is_none() && self.failed.is_none() && !self.closed {
            if cancel.is_cancelled() {
                return Err(SandboxError::Cancelled);
            }
            if self.ready {
                for signal in control.take() {
                    self.is_stopping |= ends_commands(signal);
                    protocol::send(self.socket.as_fd(), &Order::Signal(signal), &[]).ok();
                }
            }
            let mut watched = vec![PollFd::new(&self.socket, PollFlags::IN)];
            watched.extend(self.streams.iter().map(|(_, file)| PollFd::new(file, PollFlags::IN)));
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
            }
            self.pass_output(&events[1..], &mut piece, output);
            if events[0] {
                self.hear(spec, inputs)?;
            }
        }
        Ok(())
    }

    /// Takes one report.
    fn hear(&mut self, spec: &RunSpec, inputs: &Inputs<'_>) -> Result<(), SandboxError> {
        let received = protocol::receive::<InitMessage>(self.socket.as_fd())
            .map_err(|error| SandboxError::io("cannot hear from the sandbox", error))?;
        let Some((report, mut fds)) = received else {
            self.closed = true;
            return Ok(());
        };
        debug!(stage = report.stage(), "the sandbox reports");
        match report {
            InitMessage::Started { .. } => self.init = fds.pop(),
            InitMessage::Made | InitMessage::Probed { .. } => {}
            InitMessage::Notice { text } => self.notices.push(text),
            InitMessage::Supervised { own } => {
                if let Some(listener) = fds.pop() {
                    start("supervisor", move || supervisor::serve(&listener, &own).ok())?;
                }
            }
            InitMessage::Served { keeper } => {
                if let Some(listener) = fds.pop() {
                    self.serve(listener, keeper)?;
                }
            }
            InitMessage::Failed { doing, errno } => {
                self.failed = Some(SandboxError::Setup { doing, errno });
            }
            InitMessage::Refused { message } => self.failed = Some(SandboxError::Spec { message }),
            InitMessage::UnmappedId { of, id, is_chosen } => {
                self.failed = Some(SandboxError::UnmappedId { of, id, is_chosen });
            }
            InitMessage::Exited { status, user_us, system_us, max_rss, io_read, io_written } => {
                self.exited =
                    Some(Ended { status, user_us, system_us, max_rss, io_read, io_written });
            }
            InitMessage::Ready { stubs, notices } => {
                self.stubs = stubs;
                self.notices = notices;
                self.ready = true;
                if let Stdio::Terminal { input, output } = inputs.stdio {
                    self.terminal = fds.pop();
                    self.join_terminal(input, output)?;
                }
                self.relays = Some(Relays::start(std::mem::take(&mut self.copies))?);
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
                Some(Source::Agent(agent)) => Some((*agent).clone()),
                _ => None,
            },
            _ => None,
        });
        for (agent, socket) in agents.zip(sockets) {
            let (ours, stop) = protocol::pair()
                .map_err(|error| SandboxError::io("cannot make a socket", error))?;
            self.agents.push(ours);
            let complaints = agent::Complaints::clone(&self.complaints);
            start("ssh agent", move || agent::serve(socket, &agent, &stop, &complaints))?;
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

    /// Joins the command's terminal to the caller's.
    fn join_terminal(
        &mut self,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> Result<(), SandboxError> {
        let Some(master) = &self.terminal else { return Ok(()) };
        let copy = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        for (from, to, kind) in [
            (input, master.as_fd(), StreamKind::TerminalInput),
            (master.as_fd(), output, StreamKind::Output),
        ] {
            self.copies.push(Copy { from: copy(from)?, to: copy(to)?, kind });
        }
        Ok(())
    }

    pub(super) fn kill(&self, group: &Cgroup) {
        // The init's death is the death of its whole pid namespace. A keeper has to end all that it
        // keeps first.
        let signal = match self.kept.is_some() {
            true => rustix::process::Signal::TERM,
            false => rustix::process::Signal::KILL,
        };
        if let Some(init) = &self.init {
            rustix::process::pidfd_send_signal(init, signal).ok();
        }
        group.kill();
    }

    /// Waits until nothing of the sandbox runs.
    pub(super) fn await_death(&mut self, group: &Cgroup) {
        // A sandbox killed in its first moments may not have been announced yet.
        while self.init.is_none() && !self.closed {
            match protocol::receive::<InitMessage>(self.socket.as_fd()) {
                Ok(Some((InitMessage::Started { .. }, mut fds))) => self.init = fds.pop(),
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
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        self.notices.append(&mut complaints);
    }

    /// Says whether a keeper has said that nothing of the command is left, or that it never ran.
    /// To be asked after its death.
    pub(super) fn has_ended_all(&mut self) -> bool {
        while self.exited.is_none() && self.failed.is_none() && !self.closed {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
            if !matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..)) {
                return false;
            }
            match protocol::receive::<InitMessage>(self.socket.as_fd()) {
                Ok(Some((InitMessage::Exited { .. }, _))) => return true,
                Ok(Some((InitMessage::Failed { .. } | InitMessage::Refused { .. }, _))) => {
                    return true;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.closed = true,
            }
        }
        self.exited.is_some() || self.failed.is_some()
    }

    /// Waits until the caller has all that the command wrote, and gives the caller's terminal back.
    ///
    /// # Errors
    ///
    /// When some of it could not be written.
    pub(super) fn finish_relays(
        &mut self,
        cancel: &Cancel,
        control: &Control,
    ) -> std::io::Result<()> {
        self.copies.clear();
        let delivered = match self.relays.take() {
            Some(relays) => relays.finish(self.is_stopping, || {
                cancel.is_cancelled() || control.take().into_iter().any(ends_commands)
            }),
            None => Ok(()),
        };
        self.raw = None;
        delivered
    }

    /// Hands on what is still in the pipes. No process writes any more, unless the command gave its
    /// output to a process outside; so what is there now is all that is waited for.
    pub(super) fn drain(&mut self, output: &mut dyn FnMut(Stream, &[u8])) {
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
pub(super) fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(), SandboxError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|error| SandboxError::io("cannot start a thread", error))
}

/// Whether a signal, unless handled, ends the process that gets it.
fn ends_commands(signal: i32) -> bool {
    !matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGURG
            | libc::SIGWINCH
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
    )
}

/// A terminal in raw mode, put back when dropped.
struct RawMode {
    fd: OwnedFd,
    before: rustix::termios::Termios,
}

impl RawMode {
    /// Changes a terminal's mode; `None` where there is no terminal.
    fn enter(fd: BorrowedFd<'_>) -> Option<Self> {
        let before = rustix::termios::tcgetattr(fd).ok()?;
        let fd = fd.try_clone_to_owned().ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&fd, rustix::termios::OptionalActions::Now, &raw).ok()?;
        Some(Self { fd, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        rustix::termios::tcsetattr(&self.fd, rustix::termios::OptionalActions::Now, &self.before)
            .ok();
    }
}
