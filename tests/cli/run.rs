//! `builder run`: an image's command in the sandbox, its exit status passed through.

use crate::kit::running::{Running, Signal, Terminal};
use crate::kit::wait::eventually;
use crate::kit::{Kit, host};
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A kit with an image `it`.
fn with_image(dockerfile: &str) -> Kit {
    let kit = Kit::new();
    kit.dockerfile(dockerfile);
    kit.build().args(["-t", "it"]).ok();
    kit
}

#[test]
fn entrypoint_and_command_come_from_the_image_or_the_line() {
    let kit = with_image(
        "FROM fixture/base\nENV who=env\nENTRYPOINT [\"/bin/echo\", \"said\"]\nCMD [\"default\"]\n",
    );
    assert_eq!(kit.builder(["run", "it"]).ok().stdout(), "said default\n");
    assert_eq!(kit.builder(["run", "it", "a", "b"]).ok().stdout(), "said a b\n");
}

#[test]
fn environment_user_and_workdir_come_from_the_image() {
    let kit = with_image("FROM fixture/base\nENV who=env\nUSER app\nWORKDIR /w\n");
    let outcome = kit.builder(["run", "it", "sh", "-c", "echo $who $(id -un) $(pwd)"]).ok();
    assert_eq!(outcome.stdout(), "env app /w\n");
}

#[test]
fn exit_status_is_passed_through() {
    let kit = with_image("FROM fixture/base\n");
    kit.builder(["run", "it", "sh", "-c", "exit 42"]).exits(42);
    kit.builder(["run", "it", "sh", "-c", "kill -9 $$"]).exits(137);
    kit.builder(["run", "it", "/no/such"]).exits(127);
}

#[test]
fn input_reaches_the_command_and_its_streams_stay_apart() {
    let kit = with_image("FROM fixture/base\n");
    let run =
        kit.builder(["run", "-i", "it", "sh", "-c", "cat; echo err >&2"]).input("typed\n").ok();
    assert_eq!((run.stdout().as_str(), run.text()), ("typed\n", "err\n"));
}

#[test]
fn what_it_writes_is_gone_afterwards() {
    let kit = with_image("FROM fixture/base\n");
    kit.builder(["run", "it", "touch", "/new"]).ok();
    kit.builder(["run", "it", "test", "-e", "/new"]).exits(1);
}

#[test]
fn what_cannot_be_started_has_dockers_status() {
    let kit = with_image("FROM fixture/base\n");
    kit.builder(["run", "127.0.0.1:1/nobody"]).fails(125).says(&["nobody", "builder images"]);
    kit.builder(["run", "-v/no/such:/x", "it", "true"]).fails(125).says(&["mkdir -p /no/such"]);
    kit.builder(["run", "--network=x", "it", "true"]).fails(125).says(&["\"x\"", "host"]);
    kit.builder(["run", "--stop-signal=NOPE", "it", "true"]).fails(125).says(&["NOPE"]);
    kit.builder(["run", "it", "no-such-program"]).exits(127);
    kit.builder(["run", "it", "/etc/passwd"]).exits(126);
}

#[test]
fn environment_comes_from_flags_and_files() {
    let kit = with_image("FROM fixture/base\nENV a=image b=image\n");
    kit.file("env", "# a comment\n\nb=file\nFROM_HOST\nUNSET\n");
    let run = kit
        .builder(["run", "-ea=flag", "--env-file"])
        .arg(kit.path("env"))
        .env("FROM_HOST", "h")
        .args(["it", "sh", "-c", "echo $a $b $FROM_HOST ${UNSET-unset}"]);
    assert_eq!(run.ok().stdout(), "flag file h unset\n");
}

#[test]
fn volumes_show_the_host_and_memory() {
    let kit = with_image("FROM fixture/base\n");
    kit.file("shared/in", "from outside\n");
    let dir = kit.path("shared").display().to_string();
    let script = "cat /v/in && echo from inside > /v/out && ! touch /ro/x && \
                  mount | grep ' /t ' && echo x > /t/x && ! test -e /new";
    let outcome = kit
        .builder(["run", "--read-only", "--tmpfs=/t:size=1m", "-v"])
        .arg(format!("{dir}:/v"))
        .arg("--mount")
        .arg(format!("type=bind,src={dir},dst=/ro,readonly"))
        .args(["it", "sh", "-c", script])
        .ok();
    assert!(outcome.stdout().contains("from outside") && outcome.stdout().contains("size=1024k"));
    assert_eq!(fs::read_to_string(kit.path("shared/out")).unwrap(), "from inside\n");
    kit.builder(["run", "--read-only", "it", "touch", "/new"]).exits(1);
}

#[test]
fn volumes_of_an_image_are_writable_where_the_rest_is_not() {
    let kit =
        with_image("FROM fixture/base\nRUN mkdir /data && echo old > /data/f\nVOLUME /data /new\n");
    let script = "cat /data/f && echo > /data/g && echo > /new/h && ! echo > /no";
    let run = || kit.builder(["run", "--read-only", "it", "sh", "-c"]);
    assert_eq!(run().arg(script).ok().stdout(), "old\n");
    run().arg("! test -e /data/g").ok();
}

#[test]
fn volumes_bring_what_is_mounted_below_them() {
    let kit = with_image("FROM fixture/base\n");
    kit.file("shared/f", "f").file("shared/below/hidden", "");
    let directory = kit.path("shared").display().to_string();
    let script =
        "test ! -e /v/below/hidden && touch /v/below/seen && ! touch /ro/below/x && ls /ro/below";
    let run = kit
        .builder(["run", "-v"])
        .arg(format!("{directory}:/v"))
        .arg("-v")
        .arg(format!("{directory}:/ro:ro"));
    let below = format!("{directory}/below");
    host::tool(&["mount", "-t", "tmpfs", "below", &below]);
    let outcome = run.args(["it", "sh", "-c", script]).run();
    host::tool(&["umount", &below]);
    assert_eq!(outcome.stdout(), "seen\n", "{}", outcome.text());
}

#[test]
fn a_name_is_taken_while_its_command_runs() {
    let kit = with_image("FROM fixture/base\n");
    let first = kit.builder(["run", "-i", "--name", "one", "it", "sh", "-c", "echo up; cat"]);
    let mut first = Running::start(first);
    first.expect("up");
    let run = || kit.builder(["run", "--name", "one", "it", "true"]);
    run().fails(125).says(&["\"one\""]);
    kit.builder(["run", "--name", "other", "it", "true"]).ok();
    assert_eq!(first.end().code(), Some(0));
    run().ok();
}

#[test]
fn privileged_a_polite_kill_is_the_images_stop_signal() {
    let kit = with_image("FROM fixture/base\nSTOPSIGNAL SIGUSR1\n");
    let script = "trap 'echo stopping; exit 9' USR1; echo up; while :; do sleep 0.05; done";
    let mut running = Running::start(kit.builder(["run", "it", "sh", "-c", script]));
    running.expect("up");
    running.signal(Signal::TERM);
    running.expect("stopping");
    assert_eq!(running.end().code(), Some(9));
}

#[test]
fn privileged_a_command_that_will_not_stop_is_killed() {
    let kit = with_image("FROM fixture/base\n");
    let script = "trap '' TERM INT; echo up; while :; do sleep 0.05; done";
    let command = ["it", "sh", "-c", script];
    let run = kit.builder(["run", "--stop-timeout", "0"]).args(command);
    let mut running = Running::start(run);
    running.expect("up");
    running.signal(Signal::TERM);
    assert_eq!(running.end().code(), Some(137));

    let mut running = Running::start(kit.builder(["run"]).args(command));
    running.expect("up");
    // Signals of one kind do not queue: each is sent until it has been taken.
    let mut ended = None;
    eventually("the second interruption ends it", || {
        running.signal(Signal::INT);
        ended = running.child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(137));
}

#[test]
fn privileged_other_signals_reach_the_command_as_they_are() {
    let kit = with_image("FROM fixture/base\n");
    let script = "trap 'echo one' USR1; trap 'echo interrupted; exit 3' INT; \
                  echo up; while :; do sleep 0.05; done";
    let mut running = Running::start(kit.builder(["run", "it", "sh", "-c", script]));
    running.expect("up");
    running.signal(Signal::USR1);
    running.expect("one");
    running.signal(Signal::INT);
    running.expect("interrupted");
    assert_eq!(running.end().code(), Some(3));
}

#[test]
fn privileged_a_terminal_has_the_size_of_ours_and_follows_it() {
    let kit = with_image("FROM fixture/base\n");
    let script = "tty; stty size; until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; \
                  echo changed; read answer; echo got $answer; exit 5";
    let terminal = Terminal::new(33, 101);
    let mut running = terminal.start(kit.builder(["run", "-it", "it", "sh", "-c", script]));
    running.expect("/dev/pts/0");
    running.expect("33 101");
    terminal.resize(40, 120);
    running.expect("changed");
    terminal.type_in("typed\n");
    running.expect("got typed");
    assert_eq!(running.end().code(), Some(5));
}

#[test]
fn privileged_a_terminals_last_words_are_not_lost() {
    let kit = with_image("FROM fixture/base\n");
    let terminal = Terminal::new(24, 80);
    let run = kit.builder(["run", "-t", "it", "sh", "-c", "seq 3000; echo the end"]);
    let mut running = terminal.start(run);
    running.expect("the end");
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn privileged_ctrl_c_in_a_terminal_goes_to_the_command() {
    let kit = with_image("FROM fixture/base\n");
    let terminal = Terminal::new(24, 80);
    let mut running =
        terminal.start(kit.builder(["run", "-it", "it", "sh", "-c", "echo up; sleep 99"]));
    running.expect("up");
    terminal.type_in("\x03");
    assert_eq!(running.end().code(), Some(130));
}

#[test]
fn a_terminal_is_needed_where_one_is_asked_for() {
    let kit = with_image("FROM fixture/base\n");
    kit.builder(["run", "-it", "it", "true"]).fails(125).says(&["not a terminal", "-t"]);
    assert_eq!(kit.builder(["run", "-t", "it", "echo", "x"]).ok().stdout(), "x\r\n");
}

#[test]
fn privileged_ten_commands_of_one_image_share_its_layers() {
    let kit = with_image(
        "FROM fixture/base\nRUN head -c 30000000 /dev/urandom > /big\nRUN echo small > /small\n",
    );
    let image = disk_usage(kit.store());
    assert!(image > 30_000_000, "{image}");
    let mut running: Vec<Running> = (0..10)
        .map(|n| {
            let script =
                format!("head -c 10 /big | wc -c; echo {n} > /mine; echo up; cat; cat /mine");
            Running::start(kit.builder(["run", "-i", "it", "sh", "-c", &script]))
        })
        .collect();
    for one in &mut running {
        one.expect("up");
    }
    let grown = disk_usage(kit.store()) - image;
    println!("ten commands cost {grown} bytes beside an image of {image}");
    assert!(grown < 1 << 20, "ten commands cost {grown} bytes");
    for (n, mut one) in running.into_iter().enumerate() {
        one.close_input();
        one.expect(&n.to_string());
        assert_eq!(one.end().code(), Some(0));
    }
    assert!(disk_usage(kit.store()) <= image + (1 << 16), "they left nothing");
}

#[test]
fn privileged_a_port_leads_inside() {
    if !host::has("slirp4netns", "slirp4netns") && !host::has("pasta", "passt") {
        return;
    }
    let kit = with_image("FROM fixture/base\n");
    let script = "echo up; echo hello from inside | nc -l -p 80";
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let run = kit.builder(["run", "-p", &format!("127.0.0.1:{port}:80"), "it", "sh", "-c", script]);
    let mut running = Running::start(run);
    running.expect("up");
    // The command says so a moment before it listens: a connection until then ends empty.
    let mut said = String::new();
    while said.is_empty() {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        let _ = stream.read_to_string(&mut said);
    }
    assert_eq!(said, "hello from inside\n");
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn a_taken_port_is_an_error() {
    let kit = with_image("FROM fixture/base\n");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = kit.builder(["run", "-p", &format!("{address}:80"), "it", "true"]);
    run.fails(125).says(&[&address, "in use"]);
}

/// Bytes on disk of all files below a directory, each counted once.
fn disk_usage(directory: &Path) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    let mut bytes = 0;
    while let Some(directory) = open.pop() {
        // Others work in the same tree: what vanishes meanwhile costs nothing.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                open.push(entry.path());
            }
            if seen.insert((meta.dev(), meta.ino())) {
                bytes += meta.blocks() * 512;
            }
        }
    }
    bytes
}

#[test]
fn privileged_a_private_network_speaks_ipv6_where_the_machine_does() {
    if !host::has("ip", "iproute2") || !host::has("slirp4netns", "slirp4netns") {
        return;
    }
    let kit = with_image("FROM fixture/base\n");
    // A machine with an address and a way out; what serves there is beyond the sandbox's own network.
    let machine = "ip link set lo up && ip link add v0 type veth peer name v1 && \
                   ip addr add fd12::1/64 dev v0 nodad && ip link set v0 up && ip link set v1 up && \
                   ip -6 route add default dev v0 && ip route add default dev v0 && \
                   (echo canary | busybox nc -l -p 8080 & )";
    let fetch = "for i in $(seq 100); do nc -w 9 fd12::1 8080 && exit; usleep 50000; done; exit 1";
    let run = kit.builder(["run", "it", "sh", "-c", fetch]).in_network_after(machine);
    assert_eq!(run.ok().stdout(), "canary\n");
}
