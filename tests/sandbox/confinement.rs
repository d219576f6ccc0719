//! What a command sees, and what it does not.

use std::fs;
use std::process::Command;

use super::kit::Kit;

#[test]
fn privileged_exit_statuses_are_exact() {
    let Some(kit) = Kit::new() else { return };
    for (script, status) in
        [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        assert_eq!(kit.sh(script).exit.status, status, "{script}");
    }
}

#[test]
fn privileged_output_arrives_whole_and_apart() {
    let Some(kit) = Kit::new() else { return };
    let outcome = kit.sh("echo out; echo err >&2; seq 100000 | tail -1; (sleep 100 &)");
    assert_eq!(outcome.stdout, "out\n100000\n");
    assert_eq!(outcome.stderr, "err\n");
    assert!(outcome.exit.usage.wall_us < 60_000_000);
}

#[test]
fn privileged_commands_that_cannot_start_say_why() {
    let Some(kit) = Kit::new() else { return };
    fs::write(kit.base("bin/plain"), "text").unwrap();
    fs::write(kit.base("bin/script"), "#!/no/such/interpreter\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(kit.base("bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
    for (program, status, text) in [
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/no/such", 127, "no such file or directory"),
        ("/bin/plain", 126, "permission denied"),
        ("plain", 126, "permission denied"),
        ("/etc", 126, "permission denied"),
        ("/bin/script", 127, "interpreter"),
    ] {
        let mut spec = kit.spec("");
        spec.argv = vec![program.into()];
        let outcome = kit.run(&spec);
        assert_eq!(outcome.exit.status, status, "{program}: {outcome:?}");
        assert!(outcome.stderr.contains(text), "{program}: {}", outcome.stderr);
    }
}

#[test]
fn privileged_the_command_is_alone() {
    let Some(kit) = Kit::new() else { return };
    let canary = Command::new("sleep").arg("86421").spawn().unwrap();
    let seen = kit.says("echo $$; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls -d /proc/[0-9]*");
    let mut canary = canary;
    canary.kill().unwrap();
    canary.wait().unwrap();
    assert_eq!(seen.lines().next(), Some("2"));
    assert!(!seen.contains("86421"), "{seen}");
    assert!(seen.lines().filter(|line| line.starts_with("/proc/")).count() <= 4, "{seen}");
}

#[test]
fn privileged_names_mounts_and_ipc_are_its_own() {
    let Some(kit) = Kit::new() else { return };
    let mut spec =
        kit.spec("hostname; cat /etc/hosts; cat /proc/self/mounts; ipcs; ls /dev/mqueue");
    spec.policy.hostname = "a-name".into();
    spec.policy.extra_hosts = vec![("db".into(), "10.9.8.7".into())];
    let outcome = kit.run(&spec);
    assert!(outcome.stdout.starts_with("a-name\n127.0.0.1\tlocalhost a-name\n"), "{outcome:?}");
    assert!(outcome.stdout.contains("10.9.8.7\tdb\n"));
    let points: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| line.contains(" rw,") || line.contains(" ro,"))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(points.first(), Some(&"/"), "{}", outcome.stdout);
    let allowed = ["/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf"];
    for point in &points[1..] {
        assert!(allowed.iter().any(|place| point.starts_with(place)), "{point}");
    }
}

#[test]
fn privileged_descriptors_environment_and_umask_are_clean() {
    let Some(kit) = Kit::new() else { return };
    // No pipe here: the shell would hold its reading end for a moment. And `ls` must be its child.
    assert_eq!(kit.says("ls /proc/$$/fd; true"), "0\n1\n2\n");
    assert_eq!(kit.says("umask"), "0022\n");
    assert_eq!(kit.says("env | sort"), "HOME=/root\nPATH=/usr/bin:/bin\nPWD=/\nSHLVL=1\n");
    let mut spec = kit.spec("");
    spec.argv = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"].map(Into::into).to_vec();
    assert_eq!(kit.run(&spec).stdout, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    assert_eq!(kit.says("cut -d' ' -f6 /proc/$$/stat"), "2\n", "session");
}

#[test]
fn privileged_capabilities_and_filter_are_dockers() {
    let Some(kit) = Kit::new() else { return };
    let script = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)|^NoNewPrivs|^Seccomp:' /proc/self/status";
    assert_eq!(
        kit.says(script),
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
    let mut spec = kit.spec(script);
    spec.user = "1000".into();
    assert_eq!(
        kit.run(&spec).stdout,
        "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
}

#[test]
fn privileged_users_come_from_the_image() {
    let Some(kit) = Kit::new() else { return };
    for (user, says) in [
        ("", "uid=0(root) gid=0(root) groups=0(root) /root"),
        ("app", "uid=1000(app) gid=1000(app) groups=77(extra),1000(app) /home/app"),
        ("app:extra", "uid=1000(app) gid=77(extra) groups=77(extra) /home/app"),
        ("4242", "uid=4242 gid=0(root) groups=0(root) /"),
    ] {
        let mut spec = kit.spec("echo $(id) $HOME; echo again > /dev/stdout; touch /tmp/x");
        spec.user = user.into();
        let outcome = kit.run(&spec);
        assert_eq!(outcome.stdout, format!("{says}\nagain\n"), "{outcome:?}");
    }
    let mut spec = kit.spec("");
    spec.user = "nobody-here".into();
    let error = kit.try_run(&spec, Vec::new(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("nobody-here"), "{error}");
}

#[test]
fn privileged_dev_is_minimal_and_works() {
    let Some(kit) = Kit::new() else { return };
    assert_eq!(
        kit.says("ls /dev | tr '\\n' ' '; stat -c '%a' /dev/null /dev/shm /dev/pts | tr '\\n' ' '"),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 666 1777 755 "
    );
    assert_eq!(
        kit.says("head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c1 /dev/urandom | wc -c"),
        "3\n1\n"
    );
    let mut spec = kit.spec("df -k /dev/shm | tail -1 | awk '{print $2}'");
    spec.policy.shm_size = 128 << 20;
    assert_eq!(kit.run(&spec).stdout, "131072\n");
}

#[test]
fn privileged_kernel_files_are_masked_or_frozen() {
    let Some(kit) = Kit::new() else { return };
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do \
        if [ -e $f ]; then wc -c < $f; fi; done | grep -vx 0; ls -A /sys/firmware /proc/acpi | grep -v :";
    assert_eq!(kit.sh(script).stdout.trim(), "");
    for path in ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"] {
        assert_ne!(kit.sh(&format!("echo x > {path}")).exit.status, 0, "{path}");
    }
}

#[test]
fn privileged_what_needs_more_than_dockers_rights_is_refused() {
    let Some(kit) = Kit::new() else { return };
    for script in [
        "mount -t tmpfs x /tmp",
        "unshare -m true",
        "mount -o remount,rw /sys",
        "mknod /tmp/disk b 254 0 && head -c1 /tmp/disk",
        "mknod /dev/disk b 254 0 && head -c1 /dev/disk",
        "hostname other",
        "cat /proc/1/environ",
        "ls /proc/1/root/",
        "readlink /proc/1/exe | grep .",
        "readlink /proc/1/fd/* | grep .",
    ] {
        assert_ne!(kit.sh(script).exit.status, 0, "{script}");
    }
}

#[test]
fn privileged_orphans_are_reaped() {
    let Some(kit) = Kit::new() else { return };
    let script = "for i in 1 2 3 4 5; do (true &); done; for i in $(seq 200); do \
        ls -d /proc/[0-9]* | wc -l | grep -qx 4 && exit 0; sleep 0.05; done; ps; exit 1";
    let outcome = kit.sh(script);
    assert_eq!(outcome.exit.status, 0, "{outcome:?}");
}

#[test]
fn privileged_the_working_directory_is_made() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec("pwd; stat -c '%a %u' .");
    spec.cwd = "/w/x".into();
    let outcome = kit.run(&spec);
    assert_eq!(outcome.stdout, "/w/x\n755 0\n");
    assert_eq!(outcome.entries(), ["etc", "w", "w/x"]);
}

/// Numbers that mean something else to 64-bit programs, so that each answer shows which table was asked.
#[cfg(target_arch = "x86_64")]
#[test]
fn privileged_32_bit_programs_have_a_table_of_their_own() {
    use super::narrow::{CALLS, EXIT, ROOM, is_run_here, program, write};
    use std::os::unix::fs::PermissionsExt;
    let Some(kit) = Kit::new() else { return };
    if !is_run_here(kit.dir.path()) {
        return;
    }
    let calls = [
        [20, 0, 0, 0],              // getpid, there writev
        [165, ROOM, ROOM, ROOM],    // getresuid, there mount: refused
        [288, 0, -3_i32 as u32, 0], // keyctl: refused, there accept4
        [136, 0x4_0000, 0, 0],      // personality, but not this one
        [435, 0, 0, 0],             // clone3: not there
        [4000, 0, 0, 0],            // nothing yet
    ];
    let all = [&calls[..], &[write(CALLS, 16 * calls.len() as u32), EXIT]].concat();
    fs::write(kit.base("bin/narrow"), program(&all, b"")).unwrap();
    fs::set_permissions(kit.base("bin/narrow"), fs::Permissions::from_mode(0o755)).unwrap();
    let results = |seccomp| {
        let script = "/bin/narrow | od -An -v -t d4 -w16 | awk '{ print $1 }'";
        let mut spec = kit.spec(script);
        spec.policy.seccomp = seccomp;
        let outcome = kit.run(&spec);
        let numbers = outcome.stdout.lines().map(|line| line.parse::<i32>().expect("a number"));
        numbers.collect::<Vec<_>>()
    };
    let walled = results(builder::sandbox::Seccomp::Default);
    assert!(walled[0] > 1, "{walled:?}");
    assert_eq!(walled[1..], [0, -libc::EPERM, -libc::EPERM, -libc::ENOSYS, -libc::ENOSYS]);
    // It is the filter that refuses: the kernel would do all that it has.
    let free = results(builder::sandbox::Seccomp::Unconfined);
    assert!(free[2] > 0 && free[3] >= 0 && free[4..] == [-libc::EINVAL, -libc::ENOSYS], "{free:?}");
}
