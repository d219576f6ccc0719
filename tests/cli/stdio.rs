//! Input and output of `builder run`: what the command holds is made for it, never its caller's.

use crate::kit::running::{Signal, Terminal};
use crate::kit::{Kit, users};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

fn with_image(kit: Kit) -> Kit {
    kit.dockerfile("FROM fixture/base\n");
    kit.build().args(["-t", "it"]).ok();
    kit
}

const BY_NAME: &str = "echo out > /dev/stdout && echo err > /dev/stderr && echo more >> /dev/stdout \
                       && ! cat < /dev/stdin | grep .";

#[track_caller]
fn open_by_name(kit: &Kit, flags: &[&str]) {
    let run = |user: &str| {
        kit.builder(["run", "--user", user]).args(flags).args(["it", "sh", "-c", BY_NAME])
    };
    for user in ["root", "app", "1:1", "65534"] {
        let piped = run(user).ok();
        assert_eq!(
            (piped.stdout().as_str(), piped.text().contains("err\n")),
            ("out\nmore\n", true),
            "{user}: {}",
            piped.text()
        );

        let (out, err) = (kit.out("stdout"), kit.out("stderr"));
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        let create = |path| fs::File::create(path).unwrap();
        let status =
            run(user).into_command().stdout(create(&out)).stderr(create(&err)).status().unwrap();
        let error = fs::read_to_string(&err).unwrap();
        assert!(status.success(), "{user}: {error}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "out\nmore\n", "{user}");
        assert!(error.contains("err\n"), "{user}: {error}");
        // The file is still its maker's.
        let file = fs::metadata(&out).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o644), "{user}");
    }
}

#[test]
fn privileged_outputs_can_be_opened_by_name_by_any_user() {
    let kit = with_image(Kit::new());
    open_by_name(&kit, &[]);
    open_by_name(&kit, &["--userns=host"]);
}

#[test]
fn rootless_outputs_can_be_opened_by_name_by_any_user() {
    open_by_name(&with_image(Kit::of(users::with_ranges())), &["--network=none"]);
    open_by_name(&with_image(Kit::of(users::without_ranges())), &["--network=none"]);
}

#[test]
fn privileged_a_step_s_outputs_can_be_opened_by_name_by_any_user() {
    let kit = Kit::new();
    kit.dockerfile(&format!("FROM fixture/base\nRUN {BY_NAME}\nUSER app\nRUN {BY_NAME}\n"));
    let outcome = kit.build().ok();
    let log = outcome.log();
    assert_eq!(log.matches("out").count(), 2, "{log}");
}

/// Prints what a terminal at its outputs would let it do.
const TRY_TERMINAL: &str = "tty; for fd in 0 1 2; do [ -t $fd ] && echo terminal $fd; \
    (sed s/^/read:/ <&$fd) 2> /dev/null; (sed s/^/reopened:/ < /proc/self/fd/$fd & sleep 0.2; kill $!) 2> /dev/null; done; \
    (: < /dev/tty) 2> /dev/null && echo has a terminal; chmod 777 /proc/self/fd/1; echo the end";

#[test]
fn privileged_a_terminal_of_the_callers_is_out_of_reach() {
    let kit = with_image(Kit::new());
    for flags in [&[][..], &["--user=app"], &["--userns=host"], &["-i", "--user=app"]] {
        let terminal = Terminal::new(24, 80);
        let path = terminal.path();
        let facts = || {
            let terminal = fs::metadata(&path).unwrap();
            assert!(terminal.file_type().is_char_device());
            (terminal.uid(), terminal.gid(), terminal.mode())
        };
        let before = facts();
        let run = kit.builder(["run"]).args(flags).args(["it", "sh", "-c", TRY_TERMINAL]);
        let mut running = terminal.start(run);
        if flags.first() == Some(&"-i") {
            terminal.type_in("\x04");
        } else {
            terminal.type_in("typed\n");
        }
        let seen = running.expect("the end");
        for word in ["terminal", "read:", "reopened:"] {
            assert!(!seen.contains(word), "{flags:?}: {seen}");
        }
        assert_eq!(running.end().code(), Some(0));
        assert_eq!(facts(), before, "{flags:?}");
    }
}

#[test]
fn privileged_the_null_device_of_a_command_is_not_the_machines() {
    let kit = Kit::new();
    let show = "stat -L -c 'null %d:%i' /dev/stdin";
    kit.dockerfile(&format!("FROM fixture/base\nRUN {show}\n"));
    let null = fs::metadata("/dev/null").unwrap();
    let machines = format!("null {}:{}\n", null.dev(), null.ino());
    let outcome = kit.build().arg("--userns=host").ok();
    let log = outcome.log();
    assert!(log.contains("null ") && !log.contains(&machines), "{log}");
    let kit = with_image(kit);
    let shown = kit.builder(["run", "--userns=host", "it", "sh", "-c", show]).ok().stdout();
    assert!(shown.starts_with("null ") && shown != machines, "{shown}");
}

#[test]
fn one_place_for_both_outputs_keeps_their_order() {
    let kit = with_image(Kit::new());
    let script = "for i in $(seq 200); do echo $i; echo $i >&2; done";
    let path = kit.out("both");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let both = fs::File::create(&path).unwrap();
    let mut command = kit.builder(["run", "it", "sh", "-c", script]).into_command();
    command.stdout(both.try_clone().unwrap()).stderr(both);
    assert!(command.status().unwrap().success());
    let wanted = (1..=200).fold(String::new(), |text, i| text + &format!("{i}\n{i}\n"));
    assert_eq!(fs::read_to_string(path).unwrap(), wanted);
}

#[test]
fn much_goes_in_and_out_at_once() {
    let kit = with_image(Kit::new());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let run = kit.builder(["run", "-i", "it", "sh", "-c", "tee /dev/stderr"]).input(bytes.clone());
    let outcome = run.ok();
    assert!(outcome.bytes() == bytes);
}

#[test]
fn the_end_of_input_leaves_output_open() {
    let kit = with_image(Kit::new());
    let run = kit.builder(["run", "-i", "it", "sh", "-c", "cat; sleep 0.1; echo after"]);
    assert_eq!(run.input("before\n").ok().stdout(), "before\nafter\n");
    // A command that does not want its input does not wait for it.
    let mut command = kit.builder(["run", "-i", "it", "sh", "-c", "exec <&-; echo"]).into_command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let _held = child.stdin.take();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_is_gone_ends_the_command() {
    let kit = with_image(Kit::new());
    let mut command = kit.builder(["run", "it", "yes"]).into_command();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 2]).unwrap();
    drop(output);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}

#[test]
fn privileged_a_reader_that_stalls_does_not_keep_a_command_from_being_ended() {
    let kit = with_image(Kit::new());
    let mut command =
        kit.builder(["run", "it", "sh", "-c", "echo up >&2; exec yes"]).into_command();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "up"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let kit = with_image(Kit::new());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = kit.builder(["run", "it", "echo", "lost"]).into_command();
    let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert!(error.contains("No space left") && !error.contains("--root"), "{error}");
}

#[test]
fn streams_may_be_closed_or_sockets_or_named_pipes() {
    let kit = with_image(Kit::new());
    let script = "cat; echo out; echo err >&2";
    let run = || kit.builder(["run", "-i", "it", "sh", "-c", script]);
    run().after("exec <&- >&- 2>&-").ok();
    assert_eq!(run().after("exec <&-").ok().stdout(), "out\n");

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut child = run().into_command().stdout(OwnedFd::from(theirs)).spawn().unwrap();
    let mut got = String::new();
    ours.read_to_string(&mut got).unwrap();
    assert_eq!((got.as_str(), child.wait().unwrap().code()), ("out\n", Some(0)));

    let path = kit.path("fifo");
    let name = path.display().to_string();
    crate::kit::host::tool(&["mkfifo", &name]);
    let mut child = run().after(&format!("exec > '{name}'")).into_command().spawn().unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "out\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
