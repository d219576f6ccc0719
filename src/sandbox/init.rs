//! Process 1 of a sandbox: builds it, starts the command, reaps, forwards signals, and reports.
//!
//! It is a fork of the spawner, hence single-threaded and small. It never executes a program itself,
//! is not dumpable (so nothing inside can trace it or read its `/proc` entries), and once the
//! command runs it holds no descriptor but its socket and its signals, and no capability but the one
//! to send signals.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::LinkNameSpaceType;

use super::caps;
use super::deputy::Task;
use super::fault::{Doing, Fault};
use super::mounts;
use super::protocol::{self, Order, Report, RunRequest, StdioFds};
use super::seccomp::Program;
use super::spec::{RunSpec, Security, Ulimit};
use super::users::{self, Identity};
use super::workdir;
use crate::layer::owner;
use crate::sys::notify::load_filter_with_listener;
use crate::sys::process::{self, ChildUsage, Forked, SingleThreaded};
use crate::sys::rooted::open_in_root;

/// The filters that a command may get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filters<'a> {
    /// What it may not call.
    pub walls: Option<&'a Program>,
    /// What the builder does for it.
    pub deputy: Option<&'a Program>,
}

/// Lives as process 1. Never returns.
pub(super) fn main(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    fds: Vec<OwnedFd>,
) -> ! {
    let status = match run(proof, request, filters, fds) {
        Ok(()) => 0,
        Err((control, fault)) => {
            protocol::send(control.as_fd(), &Report::from(fault), &[]).ok();
            1
        }
    };
    process::exit_now(status)
}

fn run(
    proof: SingleThreaded,
    request: &RunRequest,
    filters: Filters<'_>,
    mut fds: Vec<OwnedFd>,
) -> Result<(), (OwnedFd, Fault)> {
    // Everything below refers to descriptors by index, so the socket's place keeps a duplicate.
    let control = match fds[0].try_clone() {
        Ok(control) => control,
        Err(error) => {
            let control = fds.swap_remove(0);
            return Err((control, Fault::Refused(format!("no descriptors left: {error}"))));
        }
    };
    match prepare(proof, request, filters, fds, control.as_fd()) {
        Ok(running) => {
            supervise(&running, &control);
            Ok(())
        }
        Err(fault) => Err((control, fault)),
    }
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
    fds: Vec<OwnedFd>,
    control: BorrowedFd<'_>,
) -> Result<Running, Fault> {
    let spec = &request.spec;
    let fds = Descriptors(fds.into_iter().map(Some).collect());
    die_with_parent()?;
    process::reset_signals();
    rustix::process::umask(Mode::empty());

    for &index in &request.cgroup1 {
        rustix::io::write(fds.get(index)?, b"0").doing(|| "joining a control group")?;
    }
    // Only now, so that the sandbox's own groups are what it sees as the tops.
    proof.unshare(libc::CLONE_NEWCGROUP).doing(|| "making a control group namespace")?;
    if let Some(index) = request.netns {
        rustix::thread::move_into_link_name_space(
            fds.get(index)?,
            Some(LinkNameSpaceType::Network),
        )
        .doing(|| "joining the build's network")?;
    } else if spec.network != super::spec::NetworkMode::Host {
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
    rustix::system::sethostname(spec.hostname.as_bytes()).doing(|| "setting the host name")?;
    for limit in &spec.ulimits {
        set_ulimit(limit)?;
    }

    let map = request.userns.as_ref().map(|(_, map)| map);
    if let Some(map) = map {
        let (uid, gid) = map.root();
        process::set_fs_ids(uid, gid);
        caps::raise().doing(|| "keeping capabilities")?;
    }
    let tree = mounts::build(request, &fds, map)?;
    let stdio = stdio(request, &fds, &tree.null, tree.terminal.as_ref())?;
    // From here on, paths are resolved that the image, the Dockerfile or the user chose: `/etc/passwd`, the
    // working directory, the program. Nothing is open any more that such a path could lead to.
    let userns = fds.keep(request.userns.as_ref().map(|(index, _)| *index));
    let mut kept: Vec<BorrowedFd<'_>> = vec![control, tree.null.as_fd()];
    kept.extend(stdio.iter().map(AsFd::as_fd));
    kept.extend(userns.iter().map(AsFd::as_fd));
    kept.extend(tree.agents.iter().map(AsFd::as_fd));
    if let Some((master, slave)) = &tree.terminal {
        kept.extend([master.as_fd(), slave.as_fd()]);
    }
    process::close_others(proof, &kept).doing(|| "closing descriptors")?;
    let (uid_of, gid_of) = (
        |id: u32| map.map_or(id, |map| map.uid(id).unwrap_or(id)),
        |id: u32| map.map_or(id, |map| map.gid(id).unwrap_or(id)),
    );
    let identity = identity(&spec.user)?;
    let mut notices = tree.notices;
    // The deputy shows such a command any ids, see there.
    let is_single = owner::is_recorded();
    if is_single && identity.uid != 0 {
        notices.push(
            "without subordinate ids (/etc/subuid) other users are names: commands of theirs may write \
             what is root's"
                .to_owned(),
        );
    }
    if let (Some(map), false) = (map, is_single) {
        let unknown = map.uid(identity.uid).is_none().then_some(identity.uid).or_else(|| {
            let mut groups = identity.groups.iter().chain([&identity.gid]);
            groups.find(|&&gid| map.gid(gid).is_none()).copied()
        });
        if let Some(id) = unknown {
            return Err(Fault::Refused(map.lacks(id, &format!("user {}", spec.user))));
        }
    }
    // So that /dev/stdout and similar names can be opened again by the command's user.
    for fd in &stdio {
        own_pipe(fd.as_fd(), uid_of(identity.uid), gid_of(identity.gid));
    }

    if let Some(userns) = userns {
        rustix::thread::move_into_link_name_space(userns.as_fd(), Some(LinkNameSpaceType::User))
            .doing(|| "joining the user namespace")?;
        become_root()?;
        if capabilities(spec)? & caps::SYS_ADMIN != 0 {
            // Who may mount needs a namespace to do it in. All that is mounted so far is locked there.
            proof.unshare(libc::CLONE_NEWNS).doing(|| "making a mount namespace")?;
        }
    }
    workdir::enter(&spec.cwd, &identity)?;
    die_with_parent()?;

    let command = Command::new(request, &identity, filters, tree.own)?;
    let mut extra: Vec<BorrowedFd<'_>> = tree.agents.iter().map(AsFd::as_fd).collect();
    extra.extend(tree.terminal.as_ref().map(|(master, _)| master.as_fd()));
    protocol::send(control, &Report::Ready { stubs: tree.stubs, notices }, &extra)
        .doing(|| "reporting to the builder")?;

    let mut handled = SigSet::all();
    for fatal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE] {
        handled.remove(fatal);
    }
    handled.thread_block().doing(|| "blocking signals")?;
    let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(|| "watching signals")?;

    let terminal = tree.terminal.is_some();
    let forked = proof.clone_process(0, None).doing(|| "starting the command's process")?;
    let Forked::Parent(child) = forked else {
        let status = command.execute(control, &stdio, terminal);
        process::exit_now(status);
    };

    drop((tree.agents, tree.terminal, tree.null, stdio, child.pidfd));
    caps::bound(KILL).doing(|| "giving up capabilities")?;
    caps::hold(KILL).doing(|| "giving up capabilities")?;
    die_with_parent()?;
    Ok(Running { pid: child.pid, signals })
}

/// The one capability init needs: commands change their user.
const KILL: u64 = 1 << 5;

/// Waits until the command has ended, and tells how.
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
                    // A command that has just ended is told by its status.
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
    let report = Report::Exited {
        status: status.unwrap_or(255),
        user_us: used.user_us,
        system_us: used.system_us,
        max_rss: used.max_rss,
        io_read: used.io_read,
        io_written: used.io_written,
    };
    protocol::send(control.as_fd(), &report, &[]).ok();
}

/// Waits for all that has ended (`all`: until no child is left); returns the status of `main`.
fn reap(main: i32, used: &mut ChildUsage, all: bool) -> Option<i32> {
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

fn become_root() -> Result<(), Fault> {
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
fn capabilities(spec: &RunSpec) -> Result<u64, Fault> {
    let base = match spec.security {
        Security::Default => caps::DEFAULT,
        Security::Insecure => caps::ALL,
    };
    caps::select(base, &spec.cap_add, &spec.cap_drop).map_err(Fault::Refused)
}

/// Reads one of the image's own files; nothing where it is no regular file.
fn image_text(path: &str) -> String {
    use rustix::fs::{FileType, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let read = || -> std::io::Result<String> {
        let file = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let file = open_in_root(file.as_fd(), path.as_bytes(), flags)?;
        let stat = rustix::fs::fstat(&file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
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

fn identity(user: &str) -> Result<Identity, Fault> {
    users::look_up(user, &image_text("/etc/passwd"), &image_text("/etc/group"))
        .map_err(Fault::Refused)
}

fn set_ulimit(limit: &Ulimit) -> Result<(), Fault> {
    let Some(number) = super::limits::rlimit(&limit.name) else {
        return Err(Fault::Refused(format!("unknown ulimit {}", limit.name)));
    };
    // It limits nothing, and the deputy keeps there who a process is.
    if number == process::LIMIT_LOCKS && owner::is_recorded() {
        return Ok(());
    }
    let or_all = |value: Option<u64>| value.unwrap_or(u64::MAX);
    process::set_rlimit(number, or_all(limit.soft), or_all(limit.hard))
        .doing(|| format!("setting the ulimit {}", limit.name))
}

/// The descriptors of a request, by index.
pub(super) struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    /// Returns one of them.
    pub(super) fn get(&self, index: usize) -> Result<BorrowedFd<'_>, Fault> {
        let fd = self.0.get(index).and_then(Option::as_ref);
        fd.map(AsFd::as_fd).ok_or_else(|| Fault::Refused("a descriptor is missing".into()))
    }

    /// Closes all but one, and returns that.
    fn keep(mut self, index: Option<usize>) -> Option<OwnedFd> {
        index.and_then(|index| self.0.get_mut(index)?.take())
    }
}

/// Returns the command's input, output and error output.
fn stdio(
    request: &RunRequest,
    fds: &Descriptors,
    null: &OwnedFd,
    terminal: Option<&(OwnedFd, OwnedFd)>,
) -> Result<[OwnedFd; 3], Fault> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().doing(|| "copying a descriptor");
    match (request.stdio, terminal) {
        (StdioFds::Pipes([input, output, error]), _) => {
            let pipe = |index: Option<usize>| match index {
                Some(index) => copy(fds.get(index)?),
                None => copy(null.as_fd()),
            };
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
fn own_pipe(fd: BorrowedFd<'_>, uid: u32, gid: u32) {
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

/// A command with its arguments and environment, and what it may do.
struct Command<'a> {
    argv: Vec<CString>,
    env: Vec<CString>,
    /// Files to try in turn.
    programs: Vec<CString>,
    identity: &'a Identity,
    keep: u64,
    walls: Option<&'a Program>,
    deputy: Option<&'a Program>,
    /// Numbers of the file systems that are the sandbox's alone.
    own: Vec<u64>,
}

/// Where programs are looked for when the environment has no `PATH`. Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Says whether a program's path leads to a file without a magic link of `/proc`, with the command's own rights.
///
/// The path is then executed by its name rather than by descriptor: a script's interpreter is given the name,
/// and a program of execveat(2) sees another `AT_EXECFN` and, before Linux 6.14, another name of its process. Should
/// the path be changed in between, by a step that shares a mount, nothing is open that it could lead to: input and output
/// are pipes, the socket closes on exec, and the program of this process is read-only.
fn check_program(program: &CString) -> Result<(), Errno> {
    use rustix::fs::OFlags;
    let path = program.as_bytes();
    let mut absolute = Vec::new();
    if !path.starts_with(b"/") {
        absolute = rustix::process::getcwd(Vec::new())?.into_bytes();
        absolute.push(b'/');
    }
    absolute.extend(path);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags | OFlags::DIRECTORY, Mode::empty())?;
    open_in_root(root.as_fd(), &absolute, flags)
        .map(drop)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))
}

impl<'a> Command<'a> {
    fn new(
        request: &RunRequest,
        identity: &'a Identity,
        filters: Filters<'a>,
        own: Vec<u64>,
    ) -> Result<Self, Fault> {
        let spec = &request.spec;
        let string = |bytes: Vec<u8>| {
            CString::new(bytes)
                .map_err(|_| Fault::Refused("an argument contains a NUL byte".into()))
        };
        let argv = spec
            .argv
            .iter()
            .map(|argument| string(argument.0.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(program) = spec.argv.first() else {
            return Err(Fault::Refused("no command was given".into()));
        };
        let mut env = spec
            .env
            .iter()
            .map(|(name, value)| string(format!("{name}={value}").into_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        if !spec.env.iter().any(|(name, _)| name == "HOME") {
            env.push(string(format!("HOME={}", identity.home).into_bytes())?);
        }
        let programs = if program.0.contains(&b'/') || program.0.is_empty() {
            vec![string(program.0.clone())?]
        } else {
            let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
            let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_str());
            path.split(':')
                .filter(|dir| !dir.is_empty())
                .map(|dir| string([dir.as_bytes(), b"/", program.0.as_slice()].concat()))
                .collect::<Result<_, _>>()?
        };
        let keep = capabilities(spec)?;
        let task = Task::under(request.userns.as_ref().map(|(_, map)| map));
        let deputy = filters.deputy.filter(|_| task.is_some_and(|task| task.serves(keep)));
        Ok(Self { argv, env, programs, identity, keep, walls: filters.walls, deputy, own })
    }

    /// Becomes the command. Returns the status to end with when it cannot.
    fn execute(&self, control: BorrowedFd<'_>, stdio: &[OwnedFd; 3], terminal: bool) -> i32 {
        match self.become_user(control, stdio, terminal) {
            Ok(()) => {}
            Err(fault) => {
                protocol::send(control, &Report::from(fault), &[]).ok();
                return 1;
            }
        }
        let mut failure = Errno::NOENT;
        for program in &self.programs {
            let error = match check_program(program) {
                Ok(()) => {
                    let Err(error) = nix::unistd::execve(program, &self.argv, &self.env);
                    Errno::from_raw_os_error(error as i32)
                }
                Err(error) => error,
            };
            match error {
                Errno::NOENT | Errno::NOTDIR => {}
                // Go on looking, but remember it: a file that may not be run is worth more words
                // than one that is not there.
                Errno::ACCESS => failure = error,
                _ => {
                    failure = error;
                    break;
                }
            }
        }
        self.explain(failure)
    }

    /// Says on the command's own error output why it cannot start.
    fn explain(&self, error: Errno) -> i32 {
        let name = self.argv[0].to_string_lossy();
        let looked_up = !self.argv[0].as_bytes().contains(&b'/');
        let (what, status) = match error {
            Errno::NOENT | Errno::NOTDIR if looked_up => {
                ("executable file not found in $PATH".to_owned(), 127)
            }
            // The file may be there and its interpreter missing.
            Errno::NOENT if std::fs::symlink_metadata(&*name).is_ok() => {
                ("its interpreter was not found in the image".to_owned(), 127)
            }
            Errno::NOENT | Errno::NOTDIR => ("no such file or directory".to_owned(), 127),
            Errno::ACCESS => ("permission denied".to_owned(), 126),
            Errno::NOEXEC => ("exec format error".to_owned(), 126),
            Errno::LOOP => {
                ("its path leads through a link of /proc, or in a circle".to_owned(), 126)
            }
            other => (std::io::Error::from(other).to_string(), 126),
        };
        let text = format!("exec: \"{name}\": {what}\n");
        rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).ok();
        status
    }

    fn become_user(
        &self,
        control: BorrowedFd<'_>,
        stdio: &[OwnedFd; 3],
        terminal: bool,
    ) -> Result<(), Fault> {
        use rustix::fs::{Gid, Uid};
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        process::reset_signals();
        rustix::process::setsid().doing(|| "starting a session")?;
        for (number, fd) in stdio.iter().enumerate() {
            process::dup_to(fd.as_fd(), number as i32).doing(|| "connecting input and output")?;
        }
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
                .doing(|| "taking the terminal")?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));

        caps::bound(self.keep).doing(|| "limiting capabilities")?;
        // Before the ids change, while CAP_SYS_ADMIN is held: the other way to be allowed, to give
        // up gaining privileges for good, breaks sudo and su inside.
        if let Some(filter) = self.deputy {
            match load_filter_with_listener(filter) {
                // A builder around this one keeps up the same appearances, for us too.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && owner::is_recorded() => {
                }
                listener => {
                    let listener = listener.doing(|| "loading a second filter")?;
                    let report = Report::Deputized { own: self.own.clone() };
                    protocol::send(control, &report, &[listener.as_fd()])
                        .doing(|| "reporting to the builder")?;
                }
            }
        }
        if let Some(filter) = self.walls {
            process::load_filter(filter).doing(|| "loading the system call filter")?;
        }
        // The group is among the supplementary ones, as a login has it: else a program that drops its
        // group would gain what a file's mode refuses to that group (CVE-2022-36109).
        let mut groups = vec![self.identity.gid];
        groups.extend(self.identity.groups.iter().filter(|&&gid| gid != self.identity.gid));
        let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
        match set_thread_groups(&groups) {
            Ok(()) => {}
            // A namespace of a single id does not allow it.
            Err(Errno::PERM) if groups.len() == 1 => {}
            Err(error) => return Err(error).doing(|| "setting groups"),
        }
        let (uid, gid) = (Uid::from_raw(self.identity.uid), Gid::from_raw(self.identity.gid));
        set_thread_res_gid(gid, gid, gid).doing(|| "setting the group")?;
        set_thread_res_uid(uid, uid, uid).doing(|| "setting the user")?;
        caps::hold(if self.identity.uid == 0 { self.keep } else { 0 })
            .doing(|| "setting capabilities")?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .doing(|| "becoming an ordinary process")?;
        // Marked rather than closed: an error between here and the program still needs the socket.
        process::close_on_exec_from(3).doing(|| "closing descriptors")?;
        Ok(())
    }
}
