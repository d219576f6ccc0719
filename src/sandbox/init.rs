//! Process 1 of a sandbox: builds it, starts the command, reaps, forwards signals, and reports.
//!
//! It is a fork of the spawner, hence single-threaded and small. It never executes a program
//! itself, is not dumpable (so nothing inside can trace it or read its `/proc` entries), and once
//! the command runs it holds no descriptor but its socket and its signals, and no capability but
//! the one to send signals.
//!
//! # Paths that an image chose
//!
//! Each descriptor is closed once it has served its purpose. Sources of mounts are closed before
//! the first mount target is resolved ([`mounts`]); all but the socket, the command's input and
//! output and the file of its user namespace before `/etc/passwd` and `/etc/group` are read; that
//! file too before the working directory ([`workdir`]) and the program ([`super::command`]) are
//! looked for. So a path that leads through `/proc/self/fd` finds nothing there, besides being
//! refused.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::LinkNameSpaceType;

use super::caps;
use super::command::Command;
use super::descriptors::Descriptors;
use super::fault::{Doing, Fault};
use super::mounts;
use super::policy::{NetworkMode, Ulimit};
use super::protocol::{self, InitMessage, Order, RunRequest, StdioFds, Stub};
use super::seccomp::Program;
use super::spec::{RunSpec, Security};
use super::users::{self, Identity};
use super::workdir;
use crate::layer::owner;
use crate::sys::process::{self, ChildUsage, Forked, SingleThreaded};
use crate::sys::rooted::{is_procfs, open_in_root};

/// The filters that a command may get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filters<'a> {
    /// What it may not call.
    pub confinement: Option<&'a Program>,
    /// What the builder does for it.
    pub supervisor: Option<&'a Program>,
    /// That it has no network, where that is the filter's to say.
    pub offline: Option<&'a Program>,
}

/// Lives as process 1. Never returns.
pub(super) fn main(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    fds: Vec<OwnedFd>,
) -> ! {
    live(fds, |fds, control| {
        let running = prepare(proof, request, filters, fds, control.as_fd())?;
        supervise(&running, control);
        Ok(())
    })
}

/// Lives with these descriptors, the control socket first, over which what fails is reported. Never
/// returns.
pub(super) fn live(
    mut fds: Vec<OwnedFd>,
    life: impl FnOnce(Descriptors, &OwnedFd) -> Result<(), Fault>,
) -> ! {
    // All are meant by their indexes, so the socket's place keeps a duplicate.
    let (control, result) = match fds[0].try_clone() {
        Ok(control) => {
            let result = life(Descriptors::new(fds), &control);
            (control, result)
        }
        Err(error) => {
            let fault = Fault::Refused(format!("no descriptors left: {error}"));
            (fds.swap_remove(0), Err(fault))
        }
    };
    let status = i32::from(result.is_err());
    if let Err(fault) = result {
        protocol::send(control.as_fd(), &InitMessage::from(fault), &[]).ok();
    }
    process::exit_now(status)
}

/// A command that was started.
struct Running {
    pid: i32,
    signals: SignalFd,
}

/// Dies with the spawner, which dies with the builder. To be called again after every change of
/// credentials, which the kernel answers by forgetting it.
fn die_with_parent() -> Result<(), Fault> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .doing(|| "tying the sandbox to the builder")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing(|| "closing the init to tracing")
}

fn prepare(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    mut fds: Descriptors,
    control: BorrowedFd<'_>,
) -> Result<Running, Fault> {
    let spec = &request.spec;
    die_with_parent()?;
    process::reset_signals();
    rustix::process::umask(Mode::empty());

    for &index in &request.cgroup1 {
        rustix::io::write(fds.take(index)?, b"0").doing(|| "joining a control group")?;
    }
    if let Some(index) = request.cgroup2 {
        fds.close(index);
    }
    // Only now, so that the sandbox's own groups are what it sees as the tops.
    proof.unshare(libc::CLONE_NEWCGROUP).doing(|| "making a control group namespace")?;
    if let Some(index) = request.netns {
        rustix::thread::move_into_link_name_space(
            fds.take(index)?.as_fd(),
            Some(LinkNameSpaceType::Network),
        )
        .doing(|| "joining the build's network")?;
    } else if spec.policy.network != NetworkMode::Host {
        process::loopback_up().doing(|| "bringing lo up")?;
    }
    match process::join_new_keyring() {
        // No keys in this kernel, none left of the user's quota, or a container around us forbids
        // it: the filter keeps the command from the keyring calls in any case.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOSYS | libc::EDQUOT | libc::EPERM | libc::EACCES)
            ) => {}
        result => result.doing(|| "joining a new keyring")?,
    }
    let mut notices = Vec::new();
    match rustix::system::sethostname(spec.policy.hostname.as_bytes()) {
        // The filter of a container around us: Podman's own has it for CAP_SYS_ADMIN only.
        Err(Errno::PERM | Errno::NOSYS) => notices.push(format!(
            "a container around the builder does not let a host name be set; commands see its own \
             instead of {}",
            spec.policy.hostname
        )),
        result => result.doing(|| "setting the host name")?,
    }
    for limit in &spec.policy.ulimits {
        set_ulimit(limit)?;
    }

    let map = request.userns.as_ref().map(|(_, map)| map);
    if let Some(map) = map {
        let (uid, gid) = map.root();
        process::set_fs_ids(uid, gid);
        caps::raise().doing(|| "keeping capabilities")?;
    }
    let tree = mounts::build(request, &mut fds, map)?;
    let stdio = stdio(request, &fds, &tree.null, tree.terminal.as_ref())?;
    let terminal = tree.terminal.is_some();
    notices.extend(tree.notices);
    report(control, tree.stubs, notices, tree.agents, tree.terminal)?;
    let userns = request.userns.as_ref().map(|(index, _)| fds.take(*index)).transpose()?;
    // From here on paths of the image are resolved: with nothing open that could lead out of it.
    drop((fds, tree.null));
    let open = stdio.iter().chain(&userns).map(AsFd::as_fd).chain([control]);
    process::close_others(proof, &open.collect::<Vec<_>>()).doing(|| "closing descriptors")?;

    let (uid_of, gid_of) = (
        |id: u32| map.map_or(id, |map| map.uid(id).unwrap_or(id)),
        |id: u32| map.map_or(id, |map| map.gid(id).unwrap_or(id)),
    );
    let identity = identity(&spec.user)?;
    // The supervisor shows such a command any ids, see there.
    let is_single = owner::is_recorded();
    if is_single && identity.uid != 0 {
        let text = "without subordinate ids (/etc/subuid) other users are names: commands of theirs \
                    may write what is root's";
        protocol::send(control, &InitMessage::Notice { text: text.to_owned() }, &[])
            .doing(|| "reporting to the builder")?;
    }
    if let (Some(map), false) = (map, is_single) {
        let unknown = map.uid(identity.uid).is_none().then_some(identity.uid).or_else(|| {
            let mut groups = identity.groups.iter().chain([&identity.gid]);
            groups.find(|&&gid| map.gid(gid).is_none()).copied()
        });
        if let Some(id) = unknown {
            return Err(map.lacks(id, &format!("user {}", spec.user)));
        }
    }
    // So that /dev/stdout and similar names can be opened again by the command's user.
    for fd in &stdio {
        own_pipe(fd.as_fd(), uid_of(identity.uid), gid_of(identity.gid));
    }

    if let Some(userns) = userns {
        rustix::thread::move_into_link_name_space(userns.as_fd(), Some(LinkNameSpaceType::User))
            .doing(|| "joining the user namespace")?;
        drop(userns);
        become_root()?;
        if capabilities(spec)? & caps::SYS_ADMIN != 0 {
            // Who may mount needs a namespace to do it in. All that is mounted so far is locked
            // there.
            proof.unshare(libc::CLONE_NEWNS).doing(|| "making a mount namespace")?;
        }
    }
    workdir::enter(&spec.cwd, &identity)?;
    die_with_parent()?;

    let command = Command::new(request, &identity, filters, tree.own)?;
    let mut handled = SigSet::all();
    for fatal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE] {
        handled.remove(fatal);
    }
    handled.thread_block().doing(|| "blocking signals")?;
    let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "watching signals")?;

    let forked = proof.clone_process(0, None).doing(|| "starting the command's process")?;
    let Forked::Parent(child) = forked else {
        let status = command.execute(control, &stdio, terminal);
        process::exit_now(status);
    };

    drop((stdio, child.pidfd));
    caps::bound(KILL).doing(|| "giving up capabilities")?;
    caps::hold(KILL).doing(|| "giving up capabilities")?;
    die_with_parent()?;
    Ok(Running { pid: child.pid, signals })
}

/// Reports that the tree stands, and hands over what the builder serves: sockets of agents, then
/// the master side of the terminal.
pub(super) fn report(
    control: BorrowedFd<'_>,
    stubs: Vec<Stub>,
    notices: Vec<String>,
    agents: Vec<OwnedFd>,
    terminal: Option<(OwnedFd, OwnedFd)>,
) -> Result<(), Fault> {
    let mut extra: Vec<BorrowedFd<'_>> = agents.iter().map(AsFd::as_fd).collect();
    extra.extend(terminal.as_ref().map(|(master, _)| master.as_fd()));
    protocol::send(control, &InitMessage::Ready { stubs, notices }, &extra)
        .doing(|| "reporting to the builder")?;
    // Closed here: the builder has them now.
    drop((agents, terminal));
    Ok(())
}

/// The one capability init needs: commands change their user.
const KILL: u64 = 1 << 5;

/// Waits until the command has ended, and reports how.
fn supervise(running: &Running, control: &OwnedFd) {
    let mut used = ChildUsage::default();
    let mut status = None;
    while status.is_none() {
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
                    // A command that has just ended is reported by its status.
                    process::send_signal(running.pid, signal).ok();
                }
                // The builder is gone; so is all that runs for it.
                Ok(None) | Err(_) => return,
            }
        }
        if signalled {
            while let Ok(Some(_)) = running.signals.read_signal() {}
            status = reap(running.pid, &mut used, false);
        }
    }
    // What the command left behind ends with it, as it does in any container.
    if process::kill_all(libc::SIGKILL).is_ok() {
        reap(-1, &mut used, true);
    }
    protocol::send(control.as_fd(), &InitMessage::exited(status, &used), &[]).ok();
}

/// Waits for all that has ended (`all`: until no child is left); returns the status of `main`.
pub(super) fn reap(main: i32, used: &mut ChildUsage, all: bool) -> Option<i32> {
    let mut status = None;
    loop {
        match process::wait_any(all) {
            Ok(Some(ended)) => {
                used.user_us += ended.usage.user_us;
                used.system_us += ended.usage.system_us;
                used.max_rss = used.max_rss.max(ended.usage.max_rss);
                used.io_read += ended.usage.io_read;
                used.io_written += ended.usage.io_written;
                if ended.pid == main {
                    status = Some(ended.status);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(None) | Err(_) => return status,
        }
    }
}

/// Becomes the root of the user namespace that was joined, with its capabilities.
pub(super) fn become_root() -> Result<(), Fault> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    // A namespace of a single id does not allow it, and has no groups to lose.
    match set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(error).doing(|| "dropping groups"),
    }
    set_thread_res_gid(gid, gid, gid).doing(|| "becoming the sandbox's root group")?;
    set_thread_res_uid(uid, uid, uid).doing(|| "becoming the sandbox's root")?;
    caps::raise().doing(|| "raising capabilities")
}

/// Which capabilities the command's root has.
pub(super) fn capabilities(spec: &RunSpec) -> Result<u64, Fault> {
    let base = match spec.security {
        Security::Default => caps::DEFAULT,
        Security::Insecure => caps::ALL,
    };
    caps::select(base, &spec.policy.cap_add, &spec.policy.cap_drop).map_err(Fault::Refused)
}

/// Reads one of the image's own files; nothing where it is not a regular file.
fn image_text(root: BorrowedFd<'_>, path: &str) -> String {
    use rustix::fs::{FileType, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let read = || -> std::io::Result<String> {
        let file = open_in_root(root, path.as_bytes(), flags)?;
        let stat = rustix::fs::fstat(&file)?;
        // A link may lead to a file of /proc, which is regular and not the image's.
        if !FileType::from_raw_mode(stat.st_mode).is_file() || is_procfs(file.as_fd())? {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        let mut file = std::io::Read::take(std::fs::File::from(file), USERS_MAX);
        std::io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// More of `/etc/passwd` or `/etc/group` than this is not read.
const USERS_MAX: u64 = 8 << 20;

pub(super) fn identity(user: &str) -> Result<Identity, Fault> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).doing(|| "opening the root")?;
    identity_in(root.as_fd(), user)
}

/// The same of a root that is not the process's.
pub(super) fn identity_in(root: BorrowedFd<'_>, user: &str) -> Result<Identity, Fault> {
    let (passwd, group) = (image_text(root, "/etc/passwd"), image_text(root, "/etc/group"));
    users::look_up(user, &passwd, &group).map_err(Fault::Refused)
}

pub(super) fn set_ulimit(limit: &Ulimit) -> Result<(), Fault> {
    set_ulimit_of(0, limit)
}

/// As [`set_ulimit`], of a child.
pub(super) fn set_ulimit_of(pid: i32, limit: &Ulimit) -> Result<(), Fault> {
    let Some(number) = super::limits::rlimit(&limit.name) else {
        return Err(Fault::Refused(format!("unknown ulimit {}", limit.name)));
    };
    // It limits nothing, and the supervisor keeps there who a process is.
    if number == process::LIMIT_LOCKS && owner::is_recorded() {
        return Ok(());
    }
    let or_all = |value: Option<u64>| value.unwrap_or(u64::MAX);
    process::set_rlimit(pid, number, or_all(limit.soft), or_all(limit.hard))
        .doing(|| format!("setting the ulimit {}", limit.name))
}

/// Returns the command's input, output and error output.
pub(super) fn stdio(
    request: &RunRequest,
    fds: &Descriptors,
    null: &OwnedFd,
    terminal: Option<&(OwnedFd, OwnedFd)>,
) -> Result<[OwnedFd; 3], Fault> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().doing(|| "copying a descriptor");
    match (request.stdio, terminal) {
        (StdioFds::Pipes([input, output, error]), _) => {
            let pipe = |index: Option<usize>| copy(index.map_or(Ok(null.as_fd()), |i| fds.get(i))?);
            Ok([pipe(input)?, pipe(output)?, pipe(error)?])
        }
        (StdioFds::Terminal { rows, cols }, Some((_, slave))) => {
            let size =
                rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(slave, size).ok();
            let slave = slave.as_fd();
            Ok([copy(slave)?, copy(slave)?, copy(slave)?])
        }
        (StdioFds::Terminal { .. }, None) => Err(Fault::Refused("no terminal was made".into())),
    }
}

/// Gives a pipe or the terminal to the command's user. Both were made for the command; of the null
/// device nothing is changed.
pub(super) fn own_pipe(fd: BorrowedFd<'_>, uid: u32, gid: u32) {
    use rustix::fs::{FileType, Gid, Uid};
    let Ok(stat) = rustix::fs::fstat(fd) else { return };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).ok();
        }
        FileType::CharacterDevice if rustix::termios::isatty(fd) => {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None).ok();
        }
        _ => {}
    }
}
