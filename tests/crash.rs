//! `kill -9` and Ctrl-C at awkward moments: nothing of the build goes on, nothing stays mounted, the
//! next command clears up, and the next build is right.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: failing is its job")]

#[macro_use]
#[path = "kit/skip.rs"]
mod skip;

#[path = "crash/faults.rs"]
mod faults;
mod kit;

use kit::wait::eventually;
use kit::{Archive, Kit, Run, host};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

/// How long the kernel may take to end what lost its parent.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

const DOCKERFILE: &str = "\
FROM fixture/base AS one
COPY tree /tree
RUN mkdir /many && cd /many && for i in $(seq 2000); do echo $i > f$i; done; echo all written
FROM fixture/base
COPY --from=one /many /many
RUN rm /many/f1 && echo end > /end
";

/// A build that can be interrupted, and the reader of what it says.
struct Victim {
    child: Child,
    /// Handles of the builder and of every process below it, as of [`Victim::look`].
    family: Vec<OwnedFd>,
}

impl Victim {
    fn start(run: Run) -> (Self, impl Iterator<Item = String>) {
        let mut command = run.into_command();
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        (Self { child, family: Vec::new() }, lines)
    }

    /// Takes hold of every process the build has now.
    fn look(&mut self) {
        let pids = host::family(self.child.id());
        let pids = pids.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        self.family = pids.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
    }

    /// Sends a signal to the builder alone and waits until all it had started is gone.
    fn end(mut self, signal: Signal) -> ExitStatus {
        self.look();
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        for handle in &self.family {
            let mut ready = [PollFd::new(handle, PollFlags::IN)];
            assert_eq!(
                poll(&mut ready, Some(&PATIENCE)).unwrap(),
                1,
                "a process outlived its build"
            );
        }
        status
    }
}

fn prepared() -> Kit {
    let kit = Kit::new();
    for number in 0..50 {
        kit.file(&format!("tree/f{number}"), vec![number; 5000]);
    }
    kit.dockerfile(DOCKERFILE);
    kit
}

/// Checks that a store was left such that one command clears up and the next build is right.
#[track_caller]
fn recovers(kit: &Kit, right: &Archive) {
    let store = kit.store().to_str().unwrap();
    assert_eq!(host::mounts_with(store), [""; 0], "nothing stays mounted");
    kit.builder(["images"]).ok();
    let left = fs::read_dir(kit.store().join("tmp")).unwrap().flatten().map(|entry| entry.path());
    assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "the next command swept tmp/");
    let image = kit.image();
    assert_eq!(image.content(), right.content());
    assert_eq!(kit.build().ok().counts().ran, 0, "and everything is cached");
}

#[test]
fn privileged_kill_at_every_line_of_the_progress() {
    let right = prepared().image();
    let kit = prepared();
    let mut line = 1;
    loop {
        let (victim, mut lines) = Victim::start(kit.build_showing("plain").arg("--no-cache"));
        if lines.nth(line - 1).is_none() {
            break;
        }
        victim.end(Signal::KILL);
        kit.builder(["images"]).ok();
        line += 1;
    }
    assert!(line > 8, "a build of several lines, not {line}");
    recovers(&kit, &right);
}

#[test]
fn privileged_kill_in_the_middle_of_a_run() {
    let kit = prepared();
    let right = kit.image();
    let slow = DOCKERFILE.replace("; echo all written", "; echo started; sleep 98762");
    kit.dockerfile(&slow);
    let (victim, mut lines) = Victim::start(kit.build_showing("plain"));
    assert!(lines.any(|line| line.ends_with(" started")));
    victim.end(Signal::KILL);
    kit.dockerfile(DOCKERFILE);
    recovers(&kit, &right);
}

#[test]
fn privileged_kill_in_the_middle_of_a_commit() {
    let right = prepared().image();
    let kit = prepared();
    let (victim, mut lines) = Victim::start(kit.build_showing("plain"));
    // The command's last words: what follows is its end and the commit.
    assert!(lines.any(|line| line.ends_with(" all written")));
    victim.end(Signal::KILL);
    recovers(&kit, &right);
}

#[test]
fn privileged_kill_in_the_middle_of_an_export() {
    let kit = prepared();
    kit.dockerfile(&format!("{DOCKERFILE}RUN dd if=/dev/urandom of=/big bs=1M count=64\n"));
    let right = kit.image();
    let before = fs::read_dir(kit.out("")).unwrap().count();
    let archive = kit.out("killed.tar");
    // The archive has no name until it is whole, so the process itself is asked how far it is. One
    // that was faster than the look at it is let go, and the next one is tried.
    let in_the_middle = (0..100).any(|_| {
        let _ = fs::remove_file(&archive);
        let run = kit.build().arg(format!("-otype=oci,dest={}", archive.display()));
        let (mut victim, _lines) = Victim::start(run);
        let pid = Pid::from_child(&victim.child);
        eventually("the export writes or has ended", || {
            victim.child.try_wait().unwrap().is_some()
                || host::written_below(victim.child.id(), &kit.out("")).is_some_and(|size| size > 0)
        });
        let _ = kill_process(pid, Signal::STOP);
        let is_early = !archive.exists() && victim.child.try_wait().unwrap().is_none();
        if is_early {
            victim.end(Signal::KILL);
            assert_eq!(fs::read_dir(kit.out("")).unwrap().count(), before, "nothing has a name");
        } else {
            let _ = kill_process(pid, Signal::CONT);
            victim.child.wait().unwrap();
        }
        is_early
    });
    assert!(in_the_middle, "no export was seen in the middle");
    recovers(&kit, &right);

    // And one that is read as it is written.
    let (mut victim, _lines) = Victim::start(kit.build().args(["-o", "type=oci,dest=-"]));
    victim.child.stdout.as_mut().unwrap().read_exact(&mut [0; 10_000]).unwrap();
    victim.end(Signal::KILL);
    recovers(&kit, &right);
}

#[test]
fn privileged_interrupt_stops_everything_and_clears_up_at_once() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN trap '' INT TERM; echo started; sleep 98763 & sleep 98764\n",
    );
    for signal in [Signal::INT, Signal::TERM] {
        let (victim, mut lines) = Victim::start(kit.build_showing("plain").args(["-t", "wanted"]));
        assert!(lines.any(|line| line.ends_with(" started")));
        let status = victim.end(signal);
        assert!(!status.success());
        assert_ne!(status.code(), Some(70), "no bug in us");
        let store = kit.store().to_str().unwrap().to_owned();
        assert_eq!(host::mounts_with(&store), [""; 0]);
        let left = fs::read_dir(kit.store().join("tmp")).unwrap().count();
        assert_eq!(left, 0, "tmp/ is empty without any further command");
    }
    assert!(!kit.builder(["images"]).ok().stdout().contains("wanted"));
}
