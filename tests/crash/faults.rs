//! Death, a full disk and a failing disk at every point at which something is written: the store is
//! sound afterwards, nothing is left, and the next build makes the very same image.

use crate::kit::{BUILDER, Kit, Run, host};
use builder::sys::fault::POINTS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

const TEXT: &str = "FROM fixture/base AS one\nCOPY tree /tree\n\
                    RUN --mount=type=cache,target=/c mkdir -p /made/deep; echo a > /made/deep/f; ln -s f /made/deep/l\n\
                    FROM fixture/base\nCOPY --from=one /made /made\nRUN rm -r /made/deep; echo b > /b\n";

/// How often a point is reached before it is taken to be behind us.
const TIMES: usize = 4;

/// A build of which every byte of the image is determined, and its digest.
struct Case {
    kit: Kit,
    right: String,
}

impl Case {
    fn new() -> Self {
        let kit = Kit::new();
        for number in 0..10 {
            kit.file(&format!("tree/f{number}"), vec![number; 2000]);
        }
        kit.dockerfile(TEXT);
        let mut case = Self { kit, right: String::new() };
        case.right = case.digest();
        assert!(case.right.starts_with("sha256:"), "{}", case.right);
        fs::remove_dir_all(case.kit.store()).unwrap();
        case
    }

    fn build(&self) -> Run {
        let archive = format!("-otype=oci,dest={}", self.kit.out("image.tar").display());
        self.kit.build_showing("quiet").args(["--timestamp=1000000", "-t", "it", &archive])
    }

    /// Builds without any trouble; returns the image's id.
    #[track_caller]
    fn digest(&self) -> String {
        self.build().ok().stdout().trim().to_owned()
    }

    /// Checks that whatever has happened did no harm.
    #[track_caller]
    fn is_sound(&self, after: &str) {
        let store = self.kit.store().to_str().unwrap();
        assert_eq!(host::mounts_with(store), [""; 0], "nothing stays mounted after {after}");
        let verified = self.kit.builder(["store", "verify"]).run();
        let (told, status) = (verified.stdout(), verified.status);
        assert_eq!(status, Some(0), "after {after}: {told}{}", verified.text());
        let left = fs::read_dir(self.kit.store().join("tmp")).unwrap().flatten();
        let left: Vec<PathBuf> = left.map(|entry| entry.path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "swept after {after}");
        assert_eq!(self.digest(), self.right, "after {after}");
    }

    /// Forgets all that was built, so that the next build writes everything again.
    fn forget(&self) {
        fs::remove_dir_all(self.kit.store()).unwrap();
    }
}

/// Lets one action happen at every point, the first and some later times; returns the points at which
/// it did. `happened` tells that by the status of the build.
fn at_every_point(action: &str, happened: impl Fn(Option<i32>, &str) -> bool) -> BTreeSet<String> {
    let case = Case::new();
    let mut reached = BTreeSet::new();
    for point in POINTS {
        for time in 1..=TIMES {
            let fault = format!("{point}:{time}:{action}");
            // In a new store and in one that has it all: the same points, other company.
            let run = case.build().env("BUILDER_FAULT", &fault);
            let run = if time % 2 == 0 { run.arg("--no-cache") } else { run };
            let outcome = run.run();
            if happened(outcome.status, outcome.text()) {
                reached.insert((*point).to_owned());
                case.is_sound(&fault);
            } else {
                assert_eq!(outcome.status, Some(0), "{fault}: {}", outcome.text());
            }
            if time % 2 == 0 {
                case.forget();
            }
        }
    }
    reached
}

/// The points that a build reaches: all but those of other commands.
fn of_builds() -> BTreeSet<String> {
    POINTS.iter().filter(|point| **point != "collect.renamed").map(|p| (*p).to_owned()).collect()
}

#[test]
fn privileged_kill_at_every_write_point() {
    let reached = at_every_point("kill", |status, _| status.is_none());
    assert_eq!(reached, of_builds());
}

#[test]
fn privileged_full_disk_at_every_write_point() {
    let reached = at_every_point("enospc", |status, text| {
        assert!(status == Some(0) || status == Some(5), "{status:?}: {text}");
        if status == Some(5) {
            assert!(text.contains("No space left on device"), "{text}");
            assert!(text.contains("free some space"), "{text}");
        }
        status == Some(5)
    });
    assert!(reached.len() > POINTS.len() / 2, "{reached:?}");
}

#[test]
fn privileged_failing_disk_at_every_write_point() {
    let reached = at_every_point("eio", |status, text| {
        assert!(status == Some(0) || status == Some(5), "{status:?}: {text}");
        status == Some(5)
    });
    assert!(reached.len() > POINTS.len() / 2, "{reached:?}");
}

#[test]
fn privileged_kill_while_garbage_is_collected() {
    let case = Case::new();
    for time in 1.. {
        case.digest();
        let fault = format!("collect.renamed:{time}:kill");
        let run = case.kit.builder(["prune", "--all"]).env("BUILDER_FAULT", &fault);
        case.kit.builder(["rmi", "it"]).ok();
        let status = run.run().status;
        case.is_sound(&fault);
        if status == Some(0) {
            assert!(time > 10, "a store has more than {time} things");
            break;
        }
    }
}

/// Numbers without a pattern, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Kills builds at any moment; after each the store is sound, and a build makes the right image.
fn kills_at_any_moment(wanted: u32, seed: u64) {
    let case = Case::new();
    let mut dice = Dice(seed);
    let uncached = || case.build().arg("--no-cache");
    // However fast the machine is, the moments are spread over a whole build.
    let begun = Instant::now();
    uncached().ok();
    let whole = u64::try_from(begun.elapsed().as_nanos()).unwrap();
    let (mut killed, mut number) = (0, 0);
    while killed < wanted {
        number += 1;
        assert!(number < 10 * wanted, "builds are over before they can be killed");
        let mut command = uncached().into_command();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        // No waiting for anything: the moment is what is random here.
        let moment = Duration::from_nanos(dice.below(whole));
        let moment = Timespec::try_from(moment).unwrap();
        let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&moment));
        let _ = kill_process(pid, Signal::KILL);
        if child.wait().unwrap().signal().is_none() {
            continue;
        }
        killed += 1;
        case.is_sound(&format!("kill {killed} of seed {seed:#x}"));
        if killed % 30 == 0 {
            case.forget();
        }
    }
}

#[test]
fn privileged_three_hundred_kills_at_any_moment() {
    // Two stores at once: a build waits for the disk as long as it computes.
    std::thread::scope(|scope| {
        for seed in [0x5eed_012d_b888, 0x0dd_5eed_77a1] {
            scope.spawn(move || kills_at_any_moment(150, seed));
        }
    });
}

/// Builds on a disk that is too small in ever later moments, then checks the store, gives the disk
/// room and builds again.
#[test]
fn privileged_small_disks_of_many_sizes() {
    let case = Case::new();
    let script = "mkdir \"$BUILDER_ROOT\" && mount -t tmpfs -o mode=755,size=\"$0\" small \"$BUILDER_ROOT\" || exit 9\n\
                  \"$@\" >&2; status=$?\n\
                  \"$BUILDER\" store verify >&2 || exit 8\n\
                  mount -o remount,size=100m small \"$BUILDER_ROOT\" || exit 9\n\
                  \"$@\" || exit 7\n\
                  test -z \"$(ls \"$BUILDER_ROOT/tmp\")\" || exit 6\n\
                  test $status = 0 || exit 5";
    let (mut failed, mut kilobytes) = (0, 64);
    loop {
        let run = case.build().into_command();
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", script, &format!("{kilobytes}k")]);
        command.arg(run.get_program()).args(run.get_args()).env_clear().stdin(Stdio::null());
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.env("BUILDER", BUILDER).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            case.right,
            "{kilobytes}k: {text}"
        );
        fs::remove_dir_all(case.kit.store()).unwrap();
        match output.status.code() {
            Some(0) => break,
            Some(5) => failed += 1,
            other => panic!("{kilobytes}k: {other:?}: {text}"),
        }
        kilobytes += kilobytes / 4;
    }
    assert!(failed > 10, "{failed} disks were too small");
}
