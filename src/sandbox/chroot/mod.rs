//! The second rung: a command in a root directory of its own, where no namespace can be made.
//!
//! The tree is laid out in a directory ([`snapshot`](crate::snapshot)); what a command sees besides is
//! put into it and taken out again ([`placed`]). The *keeper*, a fork of the spawner, changes its root
//! to the tree, starts the command and stays above all that it starts. What stands between the command
//! and the container:
//!
//! | | |
//! |---|---|
//! | root directory | chroot(2), without `CAP_SYS_CHROOT` in it, so that there is no second one to leave by |
//! | files outside | a Landlock domain that has the tree alone: a descriptor or a link that led out would open nothing |
//! | other processes | the same domain: no ptrace, and from Linux 6.12 no signal and no abstract socket beyond it |
//! | privileges | Docker's capabilities, less those that make devices or change the root; `no_new_privs` |
//! | system calls | the filter of the first rung |
//! | what is left at the end | the keeper is the subreaper of all of it, and kills until nothing is left |
//!
//! `/proc` is served ([`serve`]), `/sys` is empty. The network is the container's.

mod placed;
mod serve;

pub(super) use placed::{OPENING, Placed};
pub(super) use serve::{Service, serve};

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, set_child_subreaper};

use super::SandboxError;
use super::caps;
use super::command::Command;
use super::descriptors::Descriptors;
use super::fault::{Doing, Fault};
use super::init::{self, Filters};
use super::policy::DEFAULT_SHM_SIZE;
use super::protocol::{self, InitMessage, Order, RunRequest, StdioFds};
use super::spec::{MountKind, RunSpec, Security};
use super::workdir;
use crate::sys::landlock::Domain;
use crate::sys::process::{self, ChildUsage, Forked, SingleThreaded};

/// What a user is to know, once.
pub(super) const NOTICE: &str = "commands run in a root directory of their own, not in namespaces: \
    /sys is empty, sudo and set-user-id programs gain nothing, and the network is the container's";

/// The same of a command without network.
pub(super) const NOTICE_OFFLINE: &str = "commands without network run in a root directory of their \
    own, not in namespaces: they can make no socket but those of files, and have no loopback";

/// What a user is to know where `/proc` cannot be served.
pub(super) const NO_PROC: &str = "/proc of commands is empty, so that a JRE, rustc, /dev/stdin and \
    <(…) of bash fail";

/// Refuses what takes a namespace.
pub(super) fn check(spec: &RunSpec) -> Result<(), SandboxError> {
    let lacks = if spec.readonly_root {
        "--read-only"
    } else if spec.security == Security::Insecure {
        "--security=insecure"
    } else {
        return Ok(());
    };
    let message = format!("{lacks} takes namespaces, which this place does not allow");
    Err(SandboxError::Spec { message })
}

/// Says what of a spec has no effect here, where directories stand for what is mounted elsewhere.
pub(super) fn lacks(spec: &RunSpec) -> Vec<String> {
    let mut lacks = Vec::new();
    for mount in &spec.mounts {
        if let MountKind::Tmpfs { size: Some(size), .. } = mount.kind {
            lacks.push(format!(
                "size={size} of the tmpfs mount at {} has no effect here: it is a directory of the store",
                mount.target
            ));
        }
    }
    let size = spec.policy.shm_size;
    if size != DEFAULT_SHM_SIZE {
        lacks.push(format!(
            "--shm-size={size} has no effect here: /dev/shm is a directory of the store"
        ));
    }
    lacks
}

/// Says that a command has written to what it was to read only, which no rule of Landlock can refuse:
/// rules add rights, and one that lets files be made in a directory lets them be made below it.
pub(super) fn written_to(path: &str) -> String {
    format!(
        "a command has written to {path}, which is mounted read-only: in namespaces that fails; here \
         it wrote to a copy, which is thrown away"
    )
}

/// What no command gets here: a root to change, devices to make.
pub(super) const WITHHELD: u64 = caps::SYS_CHROOT | caps::MKNOD;

/// Says whether this process, which has one thread, could confine commands so, after trying in a
/// process that goes: the version of Landlock.
///
/// # Errors
///
/// What is refused.
pub fn probe_chroot() -> Result<u32, String> {
    let proof = SingleThreaded::prove().map_err(|error| error.to_string())?;
    // The first version lets no file be moved to another directory.
    let Some(version) = crate::sys::landlock::version().filter(|version| *version >= 2) else {
        return Err("the kernel's Landlock is older than Linux 5.19, or there is none".to_owned());
    };
    let tried = || -> std::io::Result<bool> {
        match proof.clone_process(0, None)? {
            Forked::Child => {
                let run = || -> std::io::Result<()> {
                    make_device()?;
                    let root = rustix::fs::open("/", OFlags::PATH, Mode::empty())?;
                    let domain = Domain::new(version)?;
                    domain.allow(root.as_fd())?;
                    rustix::process::chroot("/")?;
                    rustix::thread::set_no_new_privs(true)?;
                    Ok(domain.enter()?)
                };
                process::exit_now(i32::from(run().is_err()));
            }
            Forked::Parent(child) => {
                let pid = rustix::process::Pid::from_raw(child.pid);
                let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
                Ok(status.is_some_and(|(_, status)| status.exit_status() == Some(0)))
            }
        }
    };
    match tried() {
        Ok(true) => Ok(version),
        Ok(false) => Err("mknod, chroot or Landlock is refused".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes a null device where files are made for a moment, and removes it.
fn make_device() -> std::io::Result<()> {
    use rustix::fs::{CWD, FileType, makedev, mknodat, unlink};
    let mut last = rustix::io::Errno::NOENT;
    for dir in ["/tmp", "/var/tmp", "/dev/shm", "/dev"] {
        let path = format!("{dir}/.builder-probe-{}", std::process::id());
        let mode = Mode::from_raw_mode(0o600);
        match mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, 3)) {
            Ok(()) => return Ok(unlink(&path)?),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// Lives as the keeper of a command. Never returns.
pub(super) fn main(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    fds: Vec<OwnedFd>,
) -> ! {
    init::live(fds, |fds, control| {
        let running = prepare(proof, request, filters, fds, control)?;
        supervise(&running, control);
        Ok(())
    })
}

pub(super) struct Running {
    pub pid: i32,
    pub signals: SignalFd,
    /// `/proc` of the container, where the keeper's children are listed.
    pub proc: OwnedFd,
}

/// Gets a signal, which it can answer, when the spawner is gone.
pub(super) fn die_with_parent() -> Result<(), Fault> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .doing(|| "tying the sandbox to the builder")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing(|| "closing the keeper to tracing")
}

fn prepare(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    mut fds: Descriptors,
    control: &OwnedFd,
) -> Result<Running, Fault> {
    let spec = &request.spec;
    let version = request.chroot.ok_or_else(|| Fault::Refused("no version of Landlock".into()))?;
    process::reset_signals();
    let mut handled = SigSet::all();
    for fatal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE] {
        handled.remove(fatal);
    }
    // Before the first of them can come.
    handled.thread_block().doing(|| "blocking signals")?;
    die_with_parent()?;
    let myself = rustix::process::getpid();
    set_child_subreaper(Some(myself)).doing(|| "becoming the reaper of the command")?;
    rustix::process::umask(Mode::empty());
    for &index in &request.cgroup1 {
        rustix::io::write(fds.take(index)?, b"0").doing(|| "joining a control group")?;
    }
    if let Some(index) = request.cgroup2 {
        fds.close(index);
    }
    process::join_new_keyring().ok();
    for limit in &spec.policy.ulimits {
        init::set_ulimit(limit)?;
    }

    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /proc")?;
    let terminal = match request.stdio {
        StdioFds::Terminal { .. } => Some(open_terminal().doing(|| "opening a terminal")?),
        StdioFds::Pipes(_) => None,
    };
    let root = fds.take(request.root)?;
    let domain = Domain::new(version)
        .and_then(|domain| domain.allow(root.as_fd()).map(|()| domain))
        .doing(|| "making a Landlock domain")?;
    rustix::process::fchdir(&root).doing(|| "entering the root")?;
    rustix::process::chroot(".").doing(|| "changing the root")?;
    rustix::process::chdir("/").doing(|| "entering the new root")?;
    // The tree's own: the mode of the container's could be changed by who has it open.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /dev/null")?;
    let stdio = init::stdio(request, &fds, &null, terminal.as_ref())?;
    let has_terminal = terminal.is_some();
    let mut agents = Vec::new();
    for &index in &request.listeners {
        agents.push(fds.take(index)?);
    }
    init::report(control.as_fd(), Vec::new(), Vec::new(), agents, terminal)?;
    drop((fds, null, root));
    // From here on paths of the image are resolved. There is no procfs in the tree, so that no path
    // leads to what is open.
    let kept = [control.as_fd(), proc.as_fd(), domain.as_fd()];
    let open: Vec<BorrowedFd<'_>> = stdio.iter().map(AsFd::as_fd).chain(kept).collect();
    process::close_others(proof, &open).doing(|| "closing descriptors")?;

    let identity = init::identity(&spec.user)?;
    for fd in &stdio {
        init::own_pipe(fd.as_fd(), identity.uid, identity.gid);
    }
    workdir::enter(&spec.cwd, &identity)?;
    let command = Command::new(request, &identity, filters, Vec::new())?.in_domain(&domain);
    let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "watching signals")?;
    let forked = proof.clone_process(0, None).doing(|| "starting the command's process")?;
    let Forked::Parent(child) = forked else {
        // Whatever becomes of the keeper.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok();
        let status = command.execute(control.as_fd(), &stdio, has_terminal);
        process::exit_now(status);
    };
    drop((stdio, child.pidfd));
    let running = Running { pid: child.pid, signals, proc };
    if let Err(fault) =
        caps::bound(KILL).and_then(|()| caps::hold(KILL)).doing(|| "giving up capabilities")
    {
        // What is reported as a failure has left nothing.
        end_all(running.proc.as_fd(), running.pid, &mut ChildUsage::default(), &mut None);
        return Err(fault);
    }
    Ok(running)
}

/// Makes a terminal of the container's, near side first.
pub(super) fn open_terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::OpenptFlags;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let near = rustix::fs::open("/dev/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&near)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let far = rustix::pty::ioctl_tiocgptpeer(&near, flags)?;
    Ok((near, far))
}

/// The one capability the keeper needs: commands change their user.
const KILL: u64 = 1 << 5;

/// Waits until the command has ended, ends all that it left, and reports how.
fn supervise(running: &Running, control: &OwnedFd) {
    let mut used = ChildUsage::default();
    let mut status = None;
    let mut is_abandoned = false;
    while status.is_none() && !is_abandoned {
        let mut watched =
            [PollFd::new(&running.signals, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        if rustix::event::poll(&mut watched, None).is_err() {
            continue;
        }
        let (signalled, ordered) =
            (!watched[0].revents().is_empty(), !watched[1].revents().is_empty());
        if ordered {
            match protocol::receive::<Order>(control.as_fd()) {
                Ok(Some((Order::Signal(signal), _))) => {
                    process::send_signal(running.pid, signal).ok();
                }
                Ok(None) | Err(_) => is_abandoned = true,
            }
        }
        if signalled {
            while let Ok(Some(signal)) = running.signals.read_signal() {
                is_abandoned |= signal.ssi_signo == Signal::SIGTERM as u32;
            }
            status = init::reap(running.pid, &mut used, false);
        }
    }
    end_all(running.proc.as_fd(), running.pid, &mut used, &mut status);
    protocol::send(control.as_fd(), &InitMessage::exited(status, &used), &[]).ok();
}

/// Kills all children, and theirs, which become ours, until there is none. `status` becomes that of
/// the child `main`, if it had not ended before.
pub(super) fn end_all(
    proc: BorrowedFd<'_>,
    main: i32,
    used: &mut ChildUsage,
    status: &mut Option<i32>,
) {
    loop {
        let children = children(proc);
        for &child in children.iter().flatten() {
            process::send_signal(child, libc::SIGKILL).ok();
        }
        // One at least, then what else has ended. Which there are may not be known for a moment.
        let is_known = children.is_some_and(|children| !children.is_empty());
        match process::wait_any(is_known) {
            Ok(Some(ended)) => {
                used.max_rss = used.max_rss.max(ended.usage.max_rss);
                used.user_us += ended.usage.user_us;
                used.system_us += ended.usage.system_us;
                if ended.pid == main {
                    *status = Some(ended.status);
                }
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return,
            Err(_) => {}
        }
        if let Some(found) = init::reap(main, used, false) {
            *status = Some(found);
        }
    }
}

/// Lists the children of this process, which has one thread; `None` where that cannot be read.
fn children(proc: BorrowedFd<'_>) -> Option<Vec<i32>> {
    // Names of processes in them may have any bytes.
    let read = |path: &str| -> std::io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(proc, path, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let thread = rustix::thread::gettid().as_raw_nonzero();
    match read(&format!("self/task/{thread}/children")) {
        Ok(text) => {
            return Some(text.split_whitespace().filter_map(|word| word.parse().ok()).collect());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(_) => return None,
    }
    // A kernel without that file: whose parent we are.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(proc, ".", flags, Mode::empty()).ok()?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&listing).ok()? {
        let entry = entry.ok()?;
        let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match read(&format!("{pid}/stat")) {
            Ok(stat) if parent_in(&stat) == Some(own) => found.push(pid),
            Ok(_) => {}
            // Ended in the meantime.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// Reads the parent from the text of `/proc/PID/stat`, whose second field may have any bytes.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("12 (sh) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent_in("12 (a) b) (c) R 9 1 1"), Some(9));
        assert_eq!(parent_in("12 (sh"), None);
    }
}
