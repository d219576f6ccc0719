//! What a RUN sees of the machine: as little as Docker lets it.

use crate::kit::{Kit, host};
use std::fs;

/// Runs a script as a step and returns what it printed.
#[track_caller]
fn seen(script: &str, flags: &[&str]) -> String {
    let kit = Kit::new();
    kit.file("script", script);
    kit.dockerfile("FROM fixture/base\nCOPY script /script\nRUN sh /script > /said 2>&1\n");
    kit.build().args(flags).image().text("/said")
}

#[test]
fn process_ids_start_anew_and_no_process_of_the_host_is_visible() {
    let own =
        seen("echo $$; cd /proc; for p in [0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done", &[]);
    let pid: u32 = own.lines().next().unwrap().parse().unwrap();
    assert!(pid < 10, "{own}");
    let commands = own.lines().skip(1).filter(|line| !line.is_empty()).count();
    assert!(commands <= 6, "{own}");
    assert!(!own.contains("cli-"), "the test's own process is hidden:\n{own}");
}

#[test]
fn hostname_is_the_builds_own() {
    let ours = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(seen("hostname", &[]).trim(), ours.trim());
    assert_eq!(seen("hostname; grep -c chosen /etc/hosts", &["--hostname=chosen"]), "chosen\n1\n");
}

#[test]
fn without_a_network_there_is_only_the_loopback() {
    let links = seen("ls /sys/class/net; ip -o addr | grep -c 127.0.0.1", &["--network=none"]);
    assert_eq!(links, "lo\n1\n");
}

#[test]
fn network_of_a_single_step() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --network=none ls /sys/class/net > /links\n");
    assert_eq!(kit.image().text("/links"), "lo\n");
}

#[test]
fn host_network_is_the_hosts() {
    let links = seen("cat /proc/net/dev", &["--network=host"]);
    let ours = fs::read_to_string("/proc/net/dev").unwrap();
    let names = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    };
    assert_eq!(names(&links), names(&ours));
}

#[test]
fn private_network_reaches_out_but_not_to_our_loopback() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text =
        seen(&format!("ls /sys/class/net; nc -w 2 127.0.0.1 {port} < /dev/null; echo $?"), &[]);
    assert!(text.lines().count() > 2, "lo and one more: {text}");
    assert_eq!(text.lines().last(), Some("1"), "{text}");
}

#[test]
fn mounts_of_the_host_are_invisible() {
    let table = seen("cat /proc/self/mountinfo", &[]);
    for line in table.lines() {
        let place = line.split(' ').nth(4).unwrap();
        let known = place == "/"
            || ["/proc", "/sys", "/dev"].iter().any(|top| place.starts_with(top))
            || ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"].contains(&place);
        assert!(known, "{line}");
    }
    assert!(table.lines().any(|line| line.split(' ').nth(4) == Some("/proc")), "{table}");
}

#[test]
fn interprocess_communication_is_its_own() {
    let shm = host::tool(&["ipcmk", "--shmem", "4096"]);
    let id = shm.trim().rsplit(' ').next().unwrap().to_owned();
    let posix = format!("/dev/shm/builder-kit-{}", std::process::id());
    fs::write(&posix, "").unwrap();
    let text = seen(
        "tail -qn +2 /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem; ls -A /dev/shm",
        &[],
    );
    host::tool(&["ipcrm", "--shmem-id", &id]);
    fs::remove_file(&posix).unwrap();
    assert_eq!(text, "");
}

#[test]
fn devices_are_the_harmless_ones() {
    let text = seen(
        "ls /dev; echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 5 /dev/urandom | wc -c",
        &[],
    );
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "shm", "pts", "fd", "stdin", "stdout",
        "stderr", "ptmx",
    ] {
        assert!(text.lines().any(|line| line == name), "{name} is missing:\n{text}");
    }
    for name in ["kmsg", "mem", "sda", "vda", "loop0", "fuse", "kvm"] {
        assert!(!text.lines().any(|line| line == name), "{name} is there:\n{text}");
    }
    assert!(text.ends_with("3\n5\n"), "{text}");
}

#[test]
fn kernel_files_are_read_only_or_masked() {
    let script = "echo 1 > /proc/sys/kernel/sysrq; echo 1 > /sys/kernel/profiling; echo c > /proc/sysrq-trigger\n\
                  cat /proc/kcore | head -c 1 | wc -c; mount -t tmpfs x /tmp; mknod /tmp/d b 7 0 && cat /tmp/d\n\
                  echo end";
    let text = seen(script, &[]);
    let refusals = ["sysrq", "sysrq-trigger", "mount"];
    for name in refusals {
        assert!(text.lines().any(|line| line.contains(name)), "no complaint of {name}:\n{text}");
    }
    assert!(text.ends_with("end\n"), "{text}");
}

#[test]
fn capabilities_are_dockers() {
    let text = seen("grep -E 'CapEff|CapBnd|CapAmb|CapInh' /proc/self/status", &[]);
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    let docker = 0x0000_0000_a804_25fb;
    assert_eq!(value("CapEff") & !docker, 0, "{text}");
    assert_eq!(value("CapBnd") & !docker, 0, "{text}");
    assert_eq!(value("CapAmb"), 0, "{text}");
}

#[test]
fn nothing_of_ours_leaks_in() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN env > /env; ls /proc/self/fd > /fds; umask > /umask; grep SigBlk /proc/self/status > /sig\n");
    let image = kit.build().env("SECRET_OF_OURS", "x").image();
    assert!(!image.text("/env").contains("SECRET"), "{}", image.text("/env"));
    let names = image.text("/env");
    let mut names =
        names.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect::<Vec<_>>();
    names.sort_unstable();
    assert!(
        names.iter().all(|name| ["HOME", "PATH", "PWD", "SHLVL", "HOSTNAME"].contains(name)),
        "{names:?}"
    );
    assert!(image.text("/fds").lines().count() <= 4, "{}", image.text("/fds"));
    assert_eq!(image.text("/umask"), "0022\n");
    assert!(image.text("/sig").trim_end().ends_with("0000000000000000"), "{}", image.text("/sig"));
}

#[test]
fn home_follows_the_user() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo $HOME > /root-home\nUSER app\nRUN echo $HOME $(id) > /tmp/app-home\n");
    let image = kit.image();
    assert_eq!(image.text("/root-home"), "/root\n");
    let app = image.text("/tmp/app-home");
    assert!(
        app.starts_with("/home/app uid=1000(app) gid=1001(app)") && app.contains("100(users)"),
        "{app}"
    );
}

#[test]
fn orphans_are_reaped_and_killed_with_their_step() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN (sleep 98761 &) ; (sh -c 'exit 0' &) ; sleep 0.1; grep -l Z /proc/[0-9]*/stat | wc -l\n",
    );
    // A step ends with its command, whatever that left running.
    kit.build().ok();
    let running =
        host::tool(&["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true"]);
    assert!(!running.contains("sleep 98761"), "{running}");
}

#[test]
fn terminal_escapes_in_a_log_are_harmless() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN printf '\\033]0;title\\007\\033[2Jtext\\n'\n");
    let text = kit.build_showing("plain").ok();
    assert!(text.text().contains("text") && !text.text().contains('\u{1b}'), "{:?}", text.text());
}

#[test]
fn ids_beyond_65535_are_owners_and_users_in_every_instruction() {
    let kit = Kit::new();
    kit.file("f", "x").dockerfile(
        "FROM fixture/base AS one\n\
         COPY --chown=100000:2147483647 f /f\n\
         RUN chown :4294967294 /f && cp -a /f /copy && touch /x && chown 1000700000:70000 /x\n\
         FROM one\n\
         COPY --from=one --chown=1000700000 /x /y\n\
         RUN --mount=type=cache,target=/c,uid=3000000000,gid=5 stat -c %u:%g /c /y /copy > /seen && rm /f /y\n\
         USER 70000:100000\n\
         WORKDIR /w\n\
         RUN touch mine && ! rm /copy\n",
    );
    let image = kit.image();
    assert_eq!(image.text("/seen"), "3000000000:5\n1000700000:1000700000\n100000:4294967294\n");
    let owners: Vec<(u64, u64)> = ["/copy", "/x", "/w", "/w/mine"]
        .iter()
        .map(|path| {
            let entry = image.entry(path);
            (entry.uid, entry.gid)
        })
        .collect();
    let expected =
        [(100_000, 4_294_967_294), (1_000_700_000, 70_000), (70_000, 100_000), (70_000, 100_000)];
    assert_eq!(owners, expected);
    assert!(image.find("/f").is_none() && image.find("/y").is_none());
}
