//! One running sandbox, followed from outside: reports, output, signals, the end.

use super::protocol::{self, Order, Report, Stub};
use super::run::Control;
use super::spec::{MountKind, RunSpec, Stream};
use super::{Inputs, SandboxError, Source, Stdio, agent, deputy, mounts};
use crate::cgroup::Cgroup;
use crate::sys::cancel::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

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

/// One running sandbox, as seen from outside.
pub(super) struct Session {
    socket: OwnedFd,
    init: Option<OwnedFd>,
    streams: Vec<(Stream, File)>,
    terminal: Option<File>,
    /// Dropping them ends the agents' threads.
    agents: Vec<OwnedFd>,
    pub(super) stubs: Vec<Stub>,
    pub(super) notices: Vec<String>,
    pub(super) exited: Option<Ended>,
    pub(super) failed: Option<SandboxError>,
    closed: bool,
    ready: bool,
}

impl Session {
    /// Takes over a sandbox that was just started: init's socket, and what output is read from.
    pub(super) fn new(socket: OwnedFd, streams: Vec<(Stream, File)>) -> Self {
        Self {
            socket,
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

    pub(super) fn kill(&self, group: &Cgroup) {
        // The init's death is the death of its whole pid namespace.
        if let Some(init) = &self.init {
            rustix::process::pidfd_send_signal(init, rustix::process::Signal::KILL).ok();
        }
        group.kill();
    }

    /// Waits until nothing of the sandbox runs.
    pub(super) fn await_death(&mut self, group: &Cgroup) {
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
    pub(super) fn drain_terminal(&mut self, inputs: &Inputs<'_>) {
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
