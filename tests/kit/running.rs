//! A run that a test talks to while it goes on, at a terminal where it wants one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

pub use rustix::process::Signal;

use super::Run;

/// After this a test fails rather than hangs.
const LIMIT: Duration = Duration::from_mins(1);

/// A program that runs. Dropped before its end, it is killed.
pub struct Running {
    pub child: Child,
    pieces: Receiver<Vec<u8>>,
    heard: String,
}

impl Running {
    /// Starts it; what it prints on standard output is heard, the rest goes to the test's own.
    pub fn start(run: Run) -> Self {
        let mut command = run.into_command();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let output = OwnedFd::from(child.stdout.take().expect("a pipe"));
        Self { child, pieces: listen(output), heard: String::new() }
    }

    /// Waits until it has printed `text`, after what was expected before; returns all up to there.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.heard.find(text) {
                return self.heard.drain(..at + text.len()).collect();
            }
            match self.pieces.recv_timeout(LIMIT) {
                Ok(piece) => self.heard.push_str(&String::from_utf8_lossy(&piece)),
                Err(error) => panic!("{text:?} never came ({error}); last: {:?}", self.heard),
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// Its input ends.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Lets its input end, and waits for the program's own end.
    pub fn end(&mut self) -> ExitStatus {
        self.close_input();
        self.child.wait().expect("it ends")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(output: OwnedFd) -> Receiver<Vec<u8>> {
    let (sender, pieces) = channel();
    std::thread::spawn(move || {
        let mut output = File::from(output);
        let mut piece = vec![0; 4096];
        // A terminal that nobody holds any more ends in an error.
        while let Ok(count @ 1..) = output.read(&mut piece) {
            if sender.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

/// A terminal: the test sits at it, a program runs in it.
pub struct Terminal {
    seat: OwnedFd,
}

impl Terminal {
    /// Makes one of this size.
    pub fn new(rows: u16, cols: u16) -> Self {
        let seat = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let terminal = Self { seat: seat.expect("a terminal") };
        grantpt(&terminal.seat).expect("grantpt");
        unlockpt(&terminal.seat).expect("unlockpt");
        terminal.resize(rows, cols);
        terminal
    }

    /// Its path, for programs.
    pub fn path(&self) -> PathBuf {
        let name = ptsname(&self.seat, Vec::new()).expect("a name");
        name.into_string().expect("a path").into()
    }

    /// Changes its size.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.seat, size).expect("a size");
    }

    /// Types.
    pub fn type_in(&self, text: &str) {
        File::from(self.seat.try_clone().expect("a copy")).write_all(text.as_bytes()).unwrap();
    }

    /// Starts a program in it, as the leader of a session whose terminal this is.
    pub fn start(&self, run: Run) -> Running {
        let name = ptsname(&self.seat, Vec::new()).expect("a name");
        let open = || {
            let name = name.to_str().expect("a path");
            Stdio::from(File::options().read(true).write(true).open(name).expect("it opens"))
        };
        let run = run.into_command();
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg("--wait").arg(run.get_program()).args(run.get_args()).env_clear();
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = run.get_current_dir() {
            command.current_dir(directory);
        }
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().expect("it starts");
        let pieces = listen(self.seat.try_clone().expect("a copy"));
        Running { child, pieces, heard: String::new() }
    }
}
