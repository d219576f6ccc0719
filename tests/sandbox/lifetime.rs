//! Ends: cancelled, signalled, killed from outside, and what is left then.

use crate::wait::eventually;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use builder::sandbox::{SandboxError, Stream};

use super::kit::Kit;

/// Says whether any process of the machine has `mark` in its command line.
fn is_running(mark: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
    })
}

#[test]
fn privileged_cancelling_kills_the_whole_tree() {
    let Some(kit) = Kit::new() else { return };
    let spec = kit.spec("trap '' TERM INT; setsid sleep 97531 & echo started; sleep 97532");
    let cancel = kit.cancel.clone();
    let result = kit.try_run(&spec, Vec::new(), &mut |stream, bytes| {
        if stream == Stream::Stdout && bytes.starts_with(b"started") {
            cancel.cancel();
        }
    });
    assert!(matches!(result, Err(SandboxError::Cancelled)), "{result:?}");
    assert!(!is_running("97531") && !is_running("97532"));
}

#[test]
fn privileged_signals_are_forwarded() {
    let Some(kit) = Kit::new() else { return };
    let spec =
        kit.spec("trap 'echo got it; exit 9' TERM; echo started; while :; do sleep 0.05; done");
    let control = kit.control.clone();
    let outcome = kit
        .try_run(&spec, Vec::new(), &mut |_, bytes| {
            if bytes.starts_with(b"started") {
                control.signal(15);
            }
        })
        .unwrap();
    assert_eq!((outcome.exit.status, outcome.stdout.as_str()), (9, "started\ngot it\n"));
}

#[test]
fn privileged_freezing_stops_and_thawing_goes_on() {
    let Some(kit) = Kit::new() else { return };
    let spec = kit.spec("echo started; read x < /proc/self/stat; echo done");
    let outcome = kit.try_run(&spec, Vec::new(), &mut |_, bytes| {
        if bytes.starts_with(b"started") {
            kit.sandbox.freeze();
            kit.sandbox.thaw();
        }
    });
    assert_eq!(outcome.unwrap().stdout, "started\ndone\n");
}

#[test]
fn privileged_sandboxes_run_side_by_side() {
    let Some(kit) = Kit::new() else { return };
    std::thread::scope(|scope| {
        for n in 0..8 {
            let kit = &kit;
            scope.spawn(move || assert_eq!(kit.says(&format!("echo {n}")), format!("{n}\n")));
        }
    });
}

#[test]
fn privileged_a_large_environment_and_long_arguments_arrive() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec("echo ${#BIG}");
    spec.env.push(("BIG".into(), "x".repeat(100_000)));
    assert_eq!(kit.run(&spec).stdout, "100000\n");
}

/// Not a test of its own: the process that the next test kills.
#[test]
fn helper_that_is_killed() {
    if !std::env::args().any(|argument| argument == "--nocapture") {
        return;
    }
    let Ok(leases) = fs::read_to_string("/proc/self/cwd/leases-for-helper") else { return };
    let Some(kit) = Kit::with(|options| options.leases = leases.into()) else { return };
    let spec = kit.spec("setsid sleep 86318 & echo started; sleep 86319");
    kit.try_run(&spec, Vec::new(), &mut |_, _| println!("sandbox is running")).ok();
}

#[test]
fn privileged_after_a_kill_nothing_runs_and_the_next_sweeps() {
    let Some(kit) = Kit::new() else { return };
    let leases = kit.dir.path().join("shared-leases");
    fs::write(kit.dir.path().join("leases-for-helper"), leases.to_str().unwrap()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["lifetime::helper_that_is_killed", "--exact", "--nocapture"])
        .current_dir(kit.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("sandbox is running")));
    eventually("both of its processes run", || is_running("86318") && is_running("86319"));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the killed builder's sandbox dies", || {
        !is_running("86318") && !is_running("86319")
    });

    let next = Kit::with(|options| options.leases.clone_from(&leases)).unwrap();
    let named: Vec<String> = fs::read_dir(&leases)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    next.sandbox.sweep();
    for claim in named {
        let claim: serde_json::Value = serde_json::from_str(&claim).unwrap();
        let prefix = claim["prefix"].as_str().unwrap();
        for parent in claim["parents"].as_array().unwrap() {
            let left = fs::read_dir(parent.as_str().unwrap())
                .unwrap()
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
            assert!(!left, "{parent}");
        }
    }
}
