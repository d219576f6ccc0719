//! Copying between the caller's descriptors and the pipes or the terminal of a command.
//!
//! A command never holds a descriptor of its caller: it could change the owner or mode of what is
//! behind it, read a terminal through its output, push characters into a terminal's input
//! (`TIOCSTI`), or make it its controlling terminal. It holds pipes made for it, which its user
//! owns, so that `/dev/stdout` and `/dev/stderr` can be opened by name.
//!
//! Each direction has a thread, because a write to the caller's descriptor may block for any time:
//! a descriptor that another process shares must not be made non-blocking. A slow reader fills the
//! command's pipe, so back-pressure reaches the command as it would without the copy.
//!
//! | event | result |
//! |---|---|
//! | the caller's input ends | the command's input ends; output goes on |
//! | the command closes its input | the caller's input is not read any further |
//! | the caller's reader is gone | the command's next write gets `SIGPIPE` |
//! | a write fails for another reason | the same, and [`Relays::finish`] returns the error |
//! | the command ends | what it wrote is delivered first, see [`Relays::finish`] |

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::SandboxError;

/// Bytes copied at a time: a pipe's usual capacity.
const PIECE: usize = 64 * 1024;

/// Interval at which a wait for the last output looks for signals.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How long the last output may take without any progress after the user asked the command to end.
/// Without such a request the wait has no limit, as for any program that writes to a slow reader.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// `f_type` of anonymous pipes (`PIPEFS_MAGIC`).
const PIPEFS: i64 = 0x5049_5045;

/// One direction: what is read at `from` is written to `to`.
#[derive(Debug)]
pub(super) struct Copy {
    /// Read end.
    pub from: OwnedFd,
    /// Write end.
    pub to: OwnedFd,
    /// What it carries.
    pub kind: StreamKind,
}

/// What a [`Copy`] carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// The caller's input to the command's pipe.
    Input,
    /// The caller's input to the command's terminal, which stays open at the end of input.
    TerminalInput,
    /// A pipe or terminal of the command to the caller's output.
    Output,
}

/// Running copies.
#[derive(Debug)]
pub(super) struct Relays {
    /// Closed to end inputs, and outputs once they are empty.
    stop: Option<OwnedFd>,
    /// Reads as closed when every output has ended.
    done: OwnedFd,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes delivered.
    written: AtomicU64,
    error: Mutex<Option<io::Error>>,
}

impl Relays {
    /// Starts a thread for each copy.
    ///
    /// # Errors
    ///
    /// When a pipe or a thread cannot be made.
    pub(super) fn start(copies: Vec<Copy>) -> Result<Self, SandboxError> {
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC)
                .map_err(|error| SandboxError::io("cannot make a pipe", error))
        };
        let duplicate = |fd: &OwnedFd| {
            fd.try_clone().map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        let (stopped, stop) = pipe()?;
        let (done, last) = pipe()?;
        let shared = Arc::new(Shared::default());
        for copy in copies {
            let stopped = duplicate(&stopped)?;
            let shared = Arc::clone(&shared);
            match copy.kind {
                StreamKind::Output => {
                    let last = duplicate(&last)?;
                    super::session::start("output", move || {
                        if let Err(error) = copy_out(copy, &stopped, &shared.written) {
                            let mut first =
                                shared.error.lock().unwrap_or_else(PoisonError::into_inner);
                            first.get_or_insert(error.into());
                        }
                        drop(last);
                    })?;
                }
                StreamKind::Input | StreamKind::TerminalInput => {
                    super::session::start("input", move || copy_in(copy, &stopped).ok())?;
                }
            }
        }
        Ok(Self { stop: Some(stop), done, shared })
    }

    /// Ends inputs, and waits until everything the command wrote has been delivered.
    ///
    /// The wait ends early when `gives_up` returns true, and, if `is_stopping`, when the reader
    /// has taken nothing for [`STALL_LIMIT`].
    ///
    /// # Errors
    ///
    /// The first failed write, unless its reader was gone.
    pub(super) fn finish(
        mut self,
        is_stopping: bool,
        mut gives_up: impl FnMut() -> bool,
    ) -> io::Result<()> {
        self.stop = None;
        let mut progress = (self.shared.written.load(Ordering::Relaxed), Instant::now());
        loop {
            let mut watched = [PollFd::new(&self.done, PollFlags::IN)];
            match rustix::event::poll(&mut watched, Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
            let written = self.shared.written.load(Ordering::Relaxed);
            if written != progress.0 {
                progress = (written, Instant::now());
            }
            if gives_up() || (is_stopping && progress.1.elapsed() > STALL_LIMIT) {
                break;
            }
        }
        match self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Copies output until its writers are gone, its reader is gone, or it is empty after the stop.
fn copy_out(copy: Copy, stopped: &OwnedFd, written: &AtomicU64) -> Result<(), Errno> {
    let Copy { from, to, .. } = copy;
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    let watches_reader = !is_named_pipe(to.as_fd());
    let mut piece = vec![0; PIECE];
    let mut is_stopped = false;
    loop {
        let none = PollFlags::empty();
        let mut watched = vec![PollFd::new(&from, PollFlags::IN)];
        if watches_reader {
            watched.push(PollFd::new(&to, none));
        }
        if !is_stopped {
            watched.push(PollFd::new(stopped, none));
        }
        let limit = is_stopped.then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
        match rustix::event::poll(&mut watched, limit.as_ref()) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
            // A process that still holds the other end is outside of the sandbox, and not waited
            // for.
            Ok(0) => return Ok(()),
            Ok(_) => {}
        }
        let has_more = !watched[0].revents().is_empty();
        if watches_reader && watched[1].revents().intersects(gone) {
            return Ok(());
        }
        if !is_stopped {
            is_stopped = watched.last().is_some_and(|stop| !stop.revents().is_empty());
        }
        if !has_more {
            continue;
        }
        let count = match rustix::io::read(&from, &mut piece[..]) {
            Err(Errno::INTR | Errno::AGAIN) => continue,
            // A terminal without holders of its other side.
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => count,
        };
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            match rustix::io::write(&to, rest) {
                Ok(count) => {
                    written.fetch_add(count as u64, Ordering::Relaxed);
                    rest = &rest[count..];
                }
                Err(Errno::INTR) => {}
                // Non-blocking for a reason of the caller's.
                Err(Errno::AGAIN) => {
                    let mut room = [PollFd::new(&to, PollFlags::OUT)];
                    rustix::event::poll(&mut room, None).ok();
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                // A terminal that was hung up.
                Err(Errno::IO) if rustix::termios::isatty(&to) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Copies input until it ends, the command has closed it, or the stop.
fn copy_in(copy: Copy, stopped: &OwnedFd) -> Result<(), Errno> {
    let Copy { from, to, kind } = copy;
    // Our end alone: the command's is another open file.
    let flags = rustix::fs::fcntl_getfl(&to)?;
    rustix::fs::fcntl_setfl(&to, flags | OFlags::NONBLOCK)?;
    let watches_command = kind == StreamKind::Input;
    let mut piece = vec![0; PIECE];
    loop {
        let none = PollFlags::empty();
        let mut watched = vec![PollFd::new(&from, PollFlags::IN), PollFd::new(stopped, none)];
        if watches_command {
            watched.push(PollFd::new(&to, none));
        }
        match rustix::event::poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        if watched[1..].iter().any(|fd| !fd.revents().is_empty()) {
            return Ok(());
        }
        let count = match rustix::io::read(&from, &mut piece[..]) {
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => count,
        };
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            match rustix::io::write(&to, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut room = [PollFd::new(&to, PollFlags::OUT), PollFd::new(stopped, none)];
                    rustix::event::poll(&mut room, None).ok();
                    if !room[1].revents().is_empty() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether this is a pipe with a name. A new reader may open it after the last one has left, so
/// only a write shows whether there is one.
fn is_named_pipe(fd: BorrowedFd<'_>) -> bool {
    let is_pipe = rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    #[cfg_attr(
        not(target_pointer_width = "32"),
        expect(clippy::useless_conversion, reason = "the type differs between architectures")
    )]
    let is_anonymous = rustix::fs::fstatfs(fd).is_ok_and(|fs| i64::from(fs.f_type) == PIPEFS);
    is_pipe && !is_anonymous
}

/// Whether two descriptors write to one place, as after `2>&1`. Such output has one pipe, so that
/// what is written first is also delivered first.
pub(super) fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let facts = |fd: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(fd).ok()?;
        let flags = rustix::fs::fcntl_getfl(fd).ok()?;
        // Two openings of a file have positions of their own.
        let position = rustix::fs::tell(fd).ok();
        Some((stat.st_dev, stat.st_ino, flags, position))
    };
    facts(one).is_some_and(|one| facts(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn pipe() -> (io::PipeReader, io::PipeWriter) {
        io::pipe().unwrap()
    }

    fn output(from: impl Into<OwnedFd>, to: impl Into<OwnedFd>) -> Copy {
        Copy { from: from.into(), to: to.into(), kind: StreamKind::Output }
    }

    #[test]
    fn everything_is_delivered_before_the_end() {
        let ((command, mut writes), (mut reads, caller)) = (pipe(), pipe());
        let relays = Relays::start(vec![output(command, caller)]).unwrap();
        let wanted: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let sent = wanted.clone();
        let writer = std::thread::spawn(move || writes.write_all(&sent).unwrap());
        let mut got = vec![0; 1_000_000 - 1000];
        reads.read_exact(&mut got).unwrap();
        writer.join().unwrap();
        let rest = std::thread::spawn(move || {
            let mut rest = Vec::new();
            reads.read_to_end(&mut rest).unwrap();
            rest
        });
        relays.finish(false, || false).unwrap();
        got.extend(rest.join().unwrap());
        assert!(got == wanted);
    }

    #[test]
    fn a_reader_that_is_gone_ends_the_writer() {
        let ((command, mut writes), (reads, caller)) = (pipe(), pipe());
        let relays = Relays::start(vec![output(command, caller)]).unwrap();
        drop(reads);
        let piece = vec![0; PIECE];
        // The pipe takes two pieces at most before its reader is gone.
        let broken = (0..1000).find_map(|_| writes.write_all(&piece).err()).unwrap();
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        relays.finish(false, || false).unwrap();
    }

    #[test]
    fn a_write_that_fails_is_reported() {
        let (command, mut writes) = pipe();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let relays = Relays::start(vec![output(command, full)]).unwrap();
        writes.write_all(b"x").unwrap();
        let error = relays.finish(false, || false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_reader_that_stalls_is_given_up_on_request_only() {
        let ((command, mut writes), (_reads, caller)) = (pipe(), pipe());
        let relays = Relays::start(vec![output(command, caller)]).unwrap();
        // More than the second pipe holds, less than both do.
        writes.write_all(&vec![0; PIECE + 1000]).unwrap();
        let mut asked = 0;
        relays
            .finish(false, || {
                asked += 1;
                asked == 3
            })
            .unwrap();
        assert_eq!(asked, 3);
    }

    #[test]
    fn input_ends_with_the_callers_and_is_left_when_the_command_closes_it() {
        let ((caller, mut types), (mut command, to)) = (pipe(), pipe());
        let copy = |from: io::PipeReader, to: io::PipeWriter| {
            vec![Copy { from: from.into(), to: to.into(), kind: StreamKind::Input }]
        };
        let relays = Relays::start(copy(caller, to)).unwrap();
        types.write_all(b"typed").unwrap();
        drop(types);
        let mut got = String::new();
        command.read_to_string(&mut got).unwrap();
        assert_eq!(got, "typed");
        relays.finish(false, || false).unwrap();

        let ((caller, types), (command, to)) = (pipe(), pipe());
        let _relays = Relays::start(copy(caller, to)).unwrap();
        drop(command);
        // The copy lets go of the caller's input: its writer has no reader left.
        let mut watched = [PollFd::new(&types, PollFlags::empty())];
        rustix::event::poll(&mut watched, None).unwrap();
        assert!(watched[0].revents().contains(PollFlags::ERR));
    }

    #[test]
    fn one_place_is_known_by_its_file_and_position() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
        let (one, mut other) = (open(), open());
        assert!(is_same(one.as_fd(), one.try_clone().unwrap().as_fd()));
        other.write_all(b"moved").unwrap();
        assert!(!is_same(one.as_fd(), other.as_fd()));
        let ((_, a), (_, b)) = (pipe(), pipe());
        assert!(is_same(a.as_fd(), a.as_fd()) && !is_same(a.as_fd(), b.as_fd()));
    }
}
