//! The command of a sandbox: the last steps of its process, and its program.
//!
//! A program is named by a path that an image, a Dockerfile or a user chose. The init looks at
//! every candidate first: one whose path leads through a link of procfs to what a process has open
//! (`/proc/self/exe`, `/proc/1/fd/N`) is refused, and so is a script whose interpreter does. What
//! is left is executed by its path, not by a descriptor, so that a program sees the name by which
//! it was called and a script finds itself. Between the two, a process that shares a volume with
//! the command may change the path; then it could lead to what is open: the command's own input and
//! output, and a program of the builder's that cannot be written ([`super::program`]).

use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;

use super::caps;
use super::chroot;
use super::fault::{Doing, Fault};
use super::init::{Filters, capabilities};
use super::protocol::{self, InitMessage, RunRequest};
use super::seccomp::Program;
use super::spec::{OsBytes, RunSpec};
use super::supervisor::Task;
use super::users::Identity;
use crate::sys::landlock::Domain;
use crate::sys::notify::load_filter_with_listener;
use crate::sys::process;
use crate::sys::rooted::open_in_root;

/// A command that is ready to be executed: its argument and environment vectors are made.
pub(super) struct Command<'a> {
    argv: Vec<CString>,
    env: Vec<CString>,
    /// Files to try in turn, and why one is not to be.
    programs: Vec<(CString, Result<(), Errno>)>,
    identity: &'a Identity,
    keep: u64,
    confinement: Option<&'a Program>,
    offline: Option<&'a Program>,
    supervisor: Option<(Task, &'a Program)>,
    /// What files it reaches, where it has no namespaces.
    domain: Option<&'a Domain>,
    /// Device numbers of the file systems that were made for this step.
    own: Vec<u64>,
}

/// Where programs are looked for when the environment has no `PATH`. Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// From this length on, in bytes and without the NUL, execve(2) does not take a string
/// (`MAX_ARG_STRLEN`).
const ARGUMENT_MAX: usize = 128 * 1024;

impl<'a> Command<'a> {
    /// Prepares a command. The working directory and the root are the command's already.
    ///
    /// # Errors
    ///
    /// A fault for what no process can be given.
    pub(super) fn new(
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
        if spec.argv.is_empty() {
            return Err(Fault::Refused("no command was given".into()));
        }
        let mut env = spec
            .env
            .iter()
            .map(|(name, value)| string(format!("{name}={value}").into_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        if !spec.env.iter().any(|(name, _)| name == "HOME") {
            env.push(string(format!("HOME={}", identity.home).into_bytes())?);
        }
        let programs =
            candidates(spec).into_iter().map(string).collect::<Result<Vec<CString>, _>>()?;
        let programs = programs.into_iter().map(|program| {
            let verdict = match request.emulated {
                // Its supervisor looks.
                Some(_) => Ok(()),
                None => check(program.as_bytes(), INTERPRETERS_MAX),
            };
            (program, verdict)
        });
        let programs = programs.collect();
        let withheld = if request.chroot.is_some() { chroot::WITHHELD } else { 0 };
        let keep = capabilities(spec)? & !withheld;
        let task = Task::of(request);
        let supervisor = task.filter(|task| task.serves(keep)).zip(filters.supervisor);
        Ok(Self {
            argv,
            env,
            programs,
            identity,
            keep,
            confinement: filters.confinement,
            offline: filters.offline,
            supervisor,
            domain: None,
            own,
        })
    }

    /// Confines the command to a domain, and lets it gain no privileges.
    pub(super) fn in_domain(self, domain: &'a Domain) -> Self {
        Self { domain: Some(domain), ..self }
    }

    /// Becomes the command. Returns the status to end with when it cannot.
    pub(super) fn execute(
        &self,
        control: BorrowedFd<'_>,
        stdio: &[OwnedFd; 3],
        terminal: bool,
    ) -> i32 {
        match self.become_user(control, stdio, terminal) {
            Ok(()) => {}
            Err(fault) => {
                protocol::send(control, &InitMessage::from(fault), &[]).ok();
                return 1;
            }
        }
        self.run()
    }

    /// Becomes a command whose supervisor, at the other end of a socket, does all that it does with
    /// files. Returns the status to end with when it cannot.
    pub(super) fn execute_supervised(
        &self,
        control: BorrowedFd<'_>,
        supervisor: OwnedFd,
        stdio: &[OwnedFd; 3],
        terminal: bool,
    ) -> i32 {
        match self.become_supervised(supervisor, stdio, terminal) {
            Ok(()) => self.run(),
            Err(fault) => {
                protocol::send(control, &InitMessage::from(fault), &[]).ok();
                1
            }
        }
    }

    /// Gives all up but what the supervisor grants.
    fn become_supervised(
        &self,
        supervisor: OwnedFd,
        stdio: &[OwnedFd; 3],
        terminal: bool,
    ) -> Result<(), Fault> {
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
        let (Some(domain), Some((_, filter))) = (self.domain, self.supervisor) else {
            return Err(Fault::Refused("a command without confinement".into()));
        };
        match caps::bound(0) {
            // It has no right to give any up, and none of them.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error).doing(|| "limiting capabilities"),
        }
        caps::hold(0).doing(|| "setting capabilities")?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .doing(|| "becoming an ordinary process")?;
        rustix::thread::set_no_new_privs(true).doing(|| "giving up gaining privileges")?;
        domain.enter().doing(|| "entering a Landlock domain")?;
        process::close_on_exec_from(3).doing(|| "closing descriptors")?;
        let listener = load_filter_with_listener(filter).doing(|| "loading a filter of paths")?;
        protocol::send(supervisor.as_fd(), &(), &[listener.as_fd()])
            .doing(|| "reporting to the keeper")?;
        drop((listener, supervisor));
        for filter in self.offline.iter().chain(&self.confinement) {
            process::load_filter(filter).doing(|| "loading the system call filter")?;
        }
        Ok(())
    }

    /// Executes the program. Returns the status to end with when none can be.
    fn run(&self) -> i32 {
        let mut failure = Errno::NOENT;
        for (program, verdict) in &self.programs {
            let error = verdict.err().unwrap_or_else(|| {
                let Err(error) = nix::unistd::execve(program, &self.argv, &self.env);
                Errno::from_raw_os_error(error as i32)
            });
            match error {
                Errno::NOENT | Errno::NOTDIR => {}
                // Go on looking, but remember it: a file that may not be run is worth more words
                // than one that is not there.
                Errno::ACCESS | Errno::LOOP => failure = error,
                _ => {
                    failure = error;
                    break;
                }
            }
        }
        self.explain(failure)
    }

    /// Explains what of the command is longer than the kernel takes.
    fn too_big(&self) -> String {
        let is_long = |text: &CString| text.as_bytes().len() >= ARGUMENT_MAX;
        if self.argv.iter().any(is_long) {
            "a single argument of more than 128 KiB, which is the kernel's limit; a heredoc may be longer if it begins \
             with a line such as `#!/bin/sh`, and so may a script that COPY brings in"
                .to_owned()
        } else if self.env.iter().any(is_long) {
            "a single environment variable of more than 128 KiB, which is the kernel's limit"
                .to_owned()
        } else {
            "arguments and environment together are longer than the kernel takes".to_owned()
        }
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
            Errno::LOOP => (
                "its path, or that of its interpreter, has a loop of links, or a link of /proc that could \
                 lead out of the sandbox"
                    .to_owned(),
                126,
            ),
            Errno::NOEXEC => ("exec format error".to_owned(), 126),
            Errno::TOOBIG => (self.too_big(), 126),
            other => (std::io::Error::from(other).to_string(), 126),
        };
        let text = format!("exec: \"{}\": {what}\n", crate::show::text(&name));
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
        if let Some(domain) = self.domain {
            rustix::thread::set_no_new_privs(true).doing(|| "giving up gaining privileges")?;
            domain.enter().doing(|| "entering a Landlock domain")?;
        }
        // Before the ids change, while CAP_SYS_ADMIN is held: the other way to be allowed, to give
        // up gaining privileges for good, breaks sudo and su inside.
        if let Some((task, filter)) = self.supervisor {
            match (task, load_filter_with_listener(filter)) {
                // A builder around this one keeps up the same appearances, for us too.
                (Task::Owners, Err(error)) if error.raw_os_error() == Some(libc::EBUSY) => {}
                (Task::Paths, Err(error)) => {
                    let text = format!("{} (no supervisor: {error})", chroot::NO_PROC);
                    protocol::send(control, &InitMessage::Notice { text }, &[])
                        .doing(|| "reporting to the builder")?;
                }
                (Task::Paths, Ok(listener)) => {
                    let keeper = rustix::process::getppid();
                    let keeper = keeper.map_or(0, |pid| pid.as_raw_nonzero().get());
                    protocol::send(control, &InitMessage::Served { keeper }, &[listener.as_fd()])
                        .doing(|| "reporting to the builder")?;
                }
                (_, listener) => {
                    let listener = listener.doing(|| "loading a second filter")?;
                    let report = InitMessage::Supervised { own: self.own.clone() };
                    protocol::send(control, &report, &[listener.as_fd()])
                        .doing(|| "reporting to the builder")?;
                }
            }
        }
        for filter in self.offline.iter().chain(&self.confinement) {
            process::load_filter(filter).doing(|| "loading the system call filter")?;
        }
        // The group is among the supplementary ones, as a login has it: else a program that drops
        // its group would gain what a file's mode refuses to that group (CVE-2022-36109).
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
        // All else was closed by the init. Marked rather than closed: an error between here and the
        // program still needs the socket.
        process::close_on_exec_from(3).doing(|| "closing descriptors")?;
        Ok(())
    }
}

/// Returns the files that a command's program may be, to be tried in turn.
pub(super) fn candidates(spec: &RunSpec) -> Vec<Vec<u8>> {
    let Some(OsBytes(program)) = spec.argv.first() else { return Vec::new() };
    if program.contains(&b'/') || program.is_empty() {
        return vec![program.clone()];
    }
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_str());
    let dirs = path.split(':').filter(|dir| !dir.is_empty());
    dirs.map(|dir| [dir.as_bytes(), b"/", program].concat()).collect()
}

/// Scripts may have scripts as their interpreters; the kernel follows this many.
pub(super) const INTERPRETERS_MAX: u32 = 5;

/// Looks where the path of a program leads, and that of its interpreter if it is a script, as the
/// sandbox's root.
///
/// # Errors
///
/// `ELOOP` where it leads through a link of procfs; otherwise what execve(2) would say of the path.
fn check(program: &[u8], interpreters: u32) -> Result<(), Errno> {
    const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    if program.is_empty() {
        return Err(Errno::NOENT);
    }
    let mut path = Vec::new();
    if !program.starts_with(b"/") {
        path = rustix::process::getcwd(Vec::new())?.into_bytes();
        path.push(b'/');
    }
    path.extend_from_slice(program);
    let root = rustix::fs::open("/", DIR, Mode::empty())?;
    let place = open_in_root(root.as_fd(), &path, OFlags::PATH).map_err(errno)?;
    let stat = rustix::fs::fstat(&place)?;
    if interpreters == 0 || !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    // One that root cannot read is judged by its own path alone.
    let Ok(file) = open_in_root(root.as_fd(), &path, flags) else { return Ok(()) };
    let mut head = Vec::new();
    std::fs::File::from(file).take(HEAD).read_to_end(&mut head).map_err(errno)?;
    match interpreter(&head) {
        Some(interpreter) => match check(interpreter, interpreters - 1) {
            Err(Errno::LOOP) => Err(Errno::LOOP),
            // The kernel says it better.
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

/// Bytes of a file in which the kernel looks for an interpreter.
pub(super) const HEAD: u64 = 256;

/// Returns the interpreter that the beginning of a script names.
pub(super) fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
    words.find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn interpreters_are_found_as_the_kernel_finds_them() {
        for (head, expected) in [
            (&b"#!/bin/sh\necho"[..], Some(&b"/bin/sh"[..])),
            (b"#! \t/bin/sh -e\n", Some(b"/bin/sh")),
            (b"#!/bin/sh", Some(b"/bin/sh")),
            (b"#!\n/bin/sh", None),
            (b"\x7fELF", None),
        ] {
            assert_eq!(interpreter(head), expected);
        }
    }

    #[test]
    fn programs_are_not_looked_for_behind_links_of_procfs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).into_os_string().into_encoded_bytes();
        symlink("/proc/self/exe", dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("script"), "#!/proc/self/exe\n").unwrap();
        std::fs::write(dir.path().join("outer"), [b"#!", &*path("script")].concat()).unwrap();
        std::fs::write(dir.path().join("good"), "#!/bin/sh\n").unwrap();
        let look = |program: &[u8]| check(program, INTERPRETERS_MAX);
        for program in [
            &b"/proc/self/exe"[..],
            b"/proc/self/fd/0",
            b"/proc/self/root/bin/true",
            b"/proc/thread-self/cwd/x",
            &path("link"),
            &path("script"),
            &path("outer"),
        ] {
            assert_eq!(look(program), Err(Errno::LOOP), "{}", program.escape_ascii());
        }
        assert_eq!(look(&path("good")), Ok(()));
        assert_eq!(look(b"/bin/true"), Ok(()));
        assert_eq!(look(b""), Err(Errno::NOENT));
        assert_eq!(look(&path("none")), Err(Errno::NOENT));
    }
}
