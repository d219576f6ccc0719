//! Attempts to get out of a sandbox. Each is refused, and the machine is as it was.
//!
//! They are aimed at canaries that the test makes (a marker file, a sleeping process, a loop device, a
//! socket) and would do no harm if they succeeded. Most are system calls, in `escape/attempts.c`;
//! those that need a whole build are here.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: failing is its job")]

#[macro_use]
#[path = "kit/skip.rs"]
mod skip;

mod kit;
#[path = "escape/paths.rs"]
mod paths;
#[path = "escape/races.rs"]
mod races;

use kit::{Kit, host};
use std::fs;
use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command};

/// What an attempt is aimed at.
struct Canaries {
    marker: std::path::PathBuf,
    victim: Child,
    abstract_name: String,
    socket: UnixListener,
    /// The loop device, where the machine can make one.
    device: Option<String>,
}

impl Canaries {
    fn new(kit: &Kit) -> Self {
        let marker = kit.beside("marker");
        fs::write(&marker, "untouched").unwrap();
        let victim = Command::new("sleep").arg("1000").spawn().unwrap();
        let abstract_name = format!("builder-test-{}", victim.id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let socket = UnixListener::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let disk = kit.beside("disk");
        fs::write(&disk, vec![7; 1 << 20]).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
        let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let device = made.status.success().then_some(device);
        Self { marker, victim, abstract_name, socket, device }
    }

    /// The arguments of `attempts`.
    fn arguments(&self) -> String {
        let minor = self.device.as_deref().and_then(|path| path.strip_prefix("/dev/loop"));
        let disk = fs::metadata("/").unwrap().dev();
        format!(
            "{} {} {} {} {disk}",
            self.marker.display(),
            self.abstract_name,
            self.victim.id(),
            minor.unwrap_or("0")
        )
    }

    /// Says that nothing happened to any of them.
    #[track_caller]
    fn are_unharmed(&mut self) {
        assert_eq!(fs::read_to_string(&self.marker).unwrap(), "untouched");
        assert!(self.victim.try_wait().unwrap().is_none(), "the victim lives");
        assert_eq!(
            self.socket.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "nobody came to the socket"
        );
        if let Some(device) = &self.device {
            assert!(
                fs::read(device).unwrap().iter().all(|&byte| byte == 7),
                "the disk is as it was"
            );
        }
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        self.victim.kill().unwrap();
        self.victim.wait().unwrap();
        if let Some(device) = &self.device {
            host::tool(&["losetup", "--detach", device]);
        }
    }
}

/// Compiles attempts into the context.
fn compile(kit: &Kit, name: &str) {
    let source = format!("{}/tests/escape/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let program = kit.path(name);
    host::tool(&[
        "cc",
        "-static",
        "-pthread",
        "-O1",
        "-w",
        "-o",
        program.to_str().unwrap(),
        &source,
    ]);
}

/// What a machine's settings must not have changed.
fn settings() -> Vec<String> {
    ["kernel/core_pattern", "kernel/modprobe", "kernel/hostname"]
        .iter()
        .map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default())
        .collect()
}

#[track_caller]
fn all_refused(said: &str) {
    let lines: Vec<&str> =
        said.lines().filter(|l| l.contains(" refused: ") || l.contains("SUCCEEDED")).collect();
    let through: Vec<&&str> = lines.iter().filter(|line| line.contains("SUCCEEDED")).collect();
    assert!(through.is_empty(), "{through:#?}");
    assert!(lines.len() >= 70, "all were tried: {}\n{said}", lines.len());
}

#[test]
fn privileged_no_call_leads_out() {
    let kit = Kit::new();
    compile(&kit, "attempts");
    let mut canaries = Canaries::new(&kit);
    let before = settings();
    let arguments = canaries.arguments();
    kit.dockerfile(&format!(
        "FROM fixture/base\nCOPY attempts /attempts\nRUN /attempts {arguments}\n"
    ));
    all_refused(kit.build().arg("--no-cache").ok().log());
    canaries.are_unharmed();
    assert_eq!(settings(), before);
    assert_eq!(kit.build().ok().counts().ran, 0, "nothing of the step is special");
}

#[test]
fn privileged_no_call_leads_out_of_a_user_namespace_with_more_capabilities() {
    let kit = Kit::new();
    compile(&kit, "attempts");
    let mut canaries = Canaries::new(&kit);
    let before = settings();
    let arguments = canaries.arguments();
    kit.dockerfile(&format!(
        "FROM fixture/base\nCOPY attempts /attempts\nRUN /attempts {arguments}\n"
    ));
    // Every capability and no filter: the namespaces alone must hold. What stays inside may succeed.
    let outcome = kit.build().args(["--cap-add=ALL", "--security-opt=seccomp=unconfined"]).ok();
    let inside = [
        "mount tmpfs",
        "mount proc",
        "bind mount",
        "new mount calls",
        "open_tree",
        "pivot_root",
        "new user namespace",
        "new mount namespace",
        "new user namespace by clone",
        "userfaultfd",
        "io_uring",
        "perf_event_open",
        "load a BPF program",
        "add a key",
        "use the session keyring",
        "packet of a virtual machine",
        "the kernel's ciphers",
        "mount_setattr",
        "read the kernel log",
        "set the host name",
        "unmount a mask",
        "fanotify of the file system",
        "raise a limit",
        "type into the terminal",
    ];
    for line in outcome.log().lines().filter(|line| line.contains("SUCCEEDED")) {
        assert!(inside.iter().any(|name| line.starts_with(name)), "{line}");
    }
    canaries.are_unharmed();
    assert_eq!(settings(), before);
}

#[test]
fn privileged_no_call_leads_out_for_a_user_without_privileges() {
    for user in [kit::users::with_ranges(), kit::users::without_ranges()] {
        let kit = Kit::of(user);
        compile(&kit, "attempts");
        let mut canaries = Canaries::new(&kit);
        let arguments = canaries.arguments();
        kit.dockerfile(&format!(
            "FROM fixture/base\nCOPY attempts /attempts\nRUN --network=none /attempts {arguments}\n"
        ));
        all_refused(kit.build().ok().log());
        canaries.are_unharmed();
    }
}

/// Where there is one id, the builder answers calls about files with its own rights, see
/// `sandbox::supervisor`.
#[test]
fn rootless_the_supervisor_reaches_nothing_that_the_command_cannot() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    const OWNER: &str = "user.builder.owner";
    let kit = Kit::of(kit::users::without_ranges());
    compile(&kit, "appearances");
    // Where the builder could read and change it.
    let outside = kit.beside("tmp").join("outside");
    fs::write(&outside, "untouched").unwrap();
    std::os::unix::fs::chown(&outside, Some(kit::users::without_ranges().uid), None).unwrap();
    setxattr(&outside, OWNER, b"77:88", XattrFlags::empty()).unwrap();
    kit.dockerfile(&format!(
        "FROM fixture/base\nCOPY appearances /\nRUN --network=none /appearances {}\n",
        outside.display()
    ));
    let outcome = kit.build().ok();
    let said = outcome.log();
    assert!(said.contains("done") && !said.contains("SUCCEEDED"), "{said}");
    let mut value = [0; 16];
    let length = getxattr(&outside, OWNER, &mut value).unwrap();
    assert_eq!(value[..length], *b"77:88");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
}

#[test]
fn privileged_links_of_an_image_lead_nowhere_outside() {
    let kit = Kit::new();
    let outside = kit.beside("outside");
    kit::make_dir(&outside);
    let up = format!("/../../../../../../..{}", outside.display());
    kit.symlink(&format!("{up}/resolv"), "links/resolv.conf");
    kit.symlink(&format!("{up}/hosts"), "links/hosts");
    kit.file("f", "from the context").dockerfile(&format!(
        "FROM fixture/base\n\
         COPY links /etc\n\
         RUN ln -s {up} /link\n\
         COPY f /link/copied\n\
         WORKDIR /link/made\n\
         RUN --mount=type=cache,target=/link/cache --mount=type=tmpfs,target=/link/tmp touch /link/cache/x /link/y\n\
         RUN mv /link /other && echo > /other/z; true\n"
    ));
    kit.build().ok();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing of it is outside");
}

#[test]
fn privileged_bombs_are_contained() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\n").build().args(["-t", "base"]).ok();
    let mut canaries = Canaries::new(&kit);
    let run = |flags: &[&str], script: &str| {
        kit.builder(["run", "--network=none"]).args(flags).args(["base", "sh", "-c", script]).run()
    };
    let forks =
        run(&["--pids-limit=40"], "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done");
    assert!(forks.text().contains("fork"), "{}", forks.text());
    let memory = run(&["--memory=32m"], "x=x; while :; do x=$x$x; done");
    assert_eq!(memory.status, Some(137), "{}", memory.text());
    assert!(memory.text().contains("memory"), "{}", memory.text());
    let signals = run(&[], "kill -9 1; kill -9 -1; echo alive; kill -STOP 1; true");
    assert!(matches!(signals.status, Some(0 | 137)), "{:?}: {}", signals.status, signals.text());
    canaries.are_unharmed();
}

#[test]
fn privileged_a_full_disk_ends_the_step_and_no_more() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN dd if=/dev/zero of=/big bs=1M count=200\n");
    let outcome = kit.build().on_disk_of("40m").run();
    assert_ne!(outcome.status, Some(0));
    assert!(
        format!("{}{}", outcome.text(), outcome.log()).contains("No space left on device"),
        "{}",
        outcome.text()
    );
}

#[test]
fn privileged_a_step_is_ended_before_the_disk_is_full() {
    let kit = Kit::new();
    // Writes a little at a time, and where it meets the end of the disk, it stays.
    kit.dockerfile(
        "FROM fixture/base\nRUN while head -c 1m /dev/zero >> /big; do usleep 20000; done; echo full; sleep 1000\n",
    );
    let outcome = kit.build().env("BUILDER_MIN_FREE", "200m").on_disk_of("80m").exits(5);
    outcome.says(&["RUN while", "was ended", "of the disk free", "BUILDER_MIN_FREE"]);
    assert!(!outcome.log().contains("full"), "{}", outcome.log());
}

#[test]
fn privileged_what_is_unpacked_or_downloaded_stops_before_the_disk_is_full() {
    let kit = Kit::new();
    let big = fs::File::create(kit.path("big")).unwrap();
    std::io::copy(&mut std::io::repeat(7).take(400 << 20), &mut &big).unwrap();
    let tar =
        Command::new("tar").args(["-cf", "big.tar", "big"]).current_dir(kit.path("")).status();
    assert!(tar.unwrap().success());
    let import = kit.builder(["import", kit.path("big.tar").to_str().unwrap(), "x"]);
    let import = import.env("BUILDER_MIN_FREE", "3g").on_disk_of("300m");
    import.exits(5).says(&["stopped before the disk is full", "BUILDER_MIN_FREE"]);
    let context = Kit::new();
    fs::rename(kit.path("big"), context.path("big")).unwrap();
    context.dockerfile("FROM scratch\nCOPY big /\n");
    let build = context.build().env("BUILDER_MIN_FREE", "3g").on_disk_of("300m");
    build.exits(5).says(&["stopped before the disk is full", "BUILDER_MIN_FREE"]);
}

#[test]
fn privileged_nothing_of_ours_is_left_open_and_our_program_is_out_of_reach() {
    let kit = Kit::new();
    let program = fs::metadata(kit::BUILDER).unwrap();
    kit.dockerfile(
        "FROM fixture/base\n\
         RUN ls -l /proc/self/fd | grep -v '/dev/null\\|pipe:\\|/proc/' | grep -- '->' && exit 1; \
         for p in /proc/[0-9]*; do readlink $p/exe | grep builder && exit 1; done; \
         printf '#!/proc/self/exe\\n' > /x && chmod 755 /x && /x; \
         for e in /proc/*/exe; do (echo x > $e) 2>/dev/null; done; true\n",
    );
    kit.build().ok();
    let now = fs::metadata(kit::BUILDER).unwrap();
    assert_eq!((now.len(), now.mtime_nsec()), (program.len(), program.mtime_nsec()));
}

#[test]
fn privileged_output_cannot_drive_our_terminal() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN printf '\\033]0;owned\\007\\033[2J\\033[31mred\\033[0m\\033P1;1|17/ab\\033\\\\\\b\\r\\n'\n",
    );
    let said = kit.build_showing("plain").arg("--no-cache").ok();
    assert!(said.text().contains("red"), "{}", said.text());
    let control = |c: char| c.is_control() && !"\n\t".contains(c);
    let bad: Vec<char> = said.text().chars().filter(|&c| control(c)).collect();
    assert!(bad.is_empty(), "{bad:?} in {:?}", said.text());
}
