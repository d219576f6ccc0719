//! The process that starts sandboxes.
//!
//! `builder` has many threads and much memory; a fork of it would be slow, and could do next to
//! nothing safely before an exec. So it runs itself once more, as this: one thread, little memory,
//! a socket as its input. Every request is a fork; the child goes on in ordinary code.
//!
//! When `builder` dies, however it dies, the socket closes and the spawner exits; with it die, by
//! their parent-death signal, the inits, and with each init everything in its sandbox.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use super::chroot;
use super::emulated;
use super::fault::{Doing, Fault};
use super::idmap::IdMap;
use super::init::{self, Filters};
use super::platforms::handler;
use super::policy::NetworkMode;
use super::protocol::SourceFd;
use super::protocol::{self, InitMessage, RunRequest, SpawnRequest};
use super::seccomp::{self, Program};
use super::supervisor::Task;
use crate::sys::process::{self, Forked, SingleThreaded};

/// Name under which `builder` runs itself to be the spawner.
pub(super) const NAME: &str = "builder: sandboxes";

/// Says whether the program was started, with this name, to be the spawner.
pub fn is_spawner_call(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| name == NAME)
}

/// Serves requests from the socket at standard input until it closes.
pub fn spawner_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> std::io::Result<()> {
    let proof = SingleThreaded::prove()?;
    // Signals that a terminal sends are the builder's to answer.
    rustix::process::setsid().ok();
    rustix::process::chdir("/")?;
    process::ignore_children();
    // Whatever the builder's caller left open ends here: a sandbox knows only what a request
    // brings.
    let socket = process::take_stdin_and_close_others(proof)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    process::dup_to(null.as_fd(), 0)?;

    let mut filters: BTreeMap<String, Option<Program>> = BTreeMap::new();
    while let Some((request, fds)) = protocol::receive::<SpawnRequest>(socket.as_fd())? {
        let Some(control) = fds.first() else { continue };
        let control = control.try_clone()?;
        if let Err(fault) = answer(proof, request, fds, &socket, &mut filters) {
            protocol::send(control.as_fd(), &InitMessage::from(fault), &[]).ok();
        }
    }
    Ok(())
}

fn answer(
    proof: SingleThreaded,
    request: SpawnRequest,
    fds: Vec<OwnedFd>,
    socket: &OwnedFd,
    filters: &mut BTreeMap<String, Option<Program>>,
) -> Result<(), Fault> {
    match request {
        SpawnRequest::Run(request) => {
            check_indices(&request, fds.len())?;
            let key = seccomp::cache_key(&request.spec);
            if !filters.contains_key(&key) {
                let filter = seccomp::for_spec(&request.spec).map_err(Fault::Refused)?;
                filters.insert(key.clone(), filter);
            }
            let task = Task::of(&request);
            let supervisor = format!("supervisor {task:?}");
            if let Some(task) = task.filter(|_| !filters.contains_key(&supervisor)) {
                let filter = seccomp::for_supervisor(task).map_err(Fault::Refused)?;
                filters.insert(supervisor.clone(), Some(filter));
            }
            let has_namespaces = request.chroot.or(request.emulated).is_none();
            let is_offline = !has_namespaces && request.spec.policy.network == NetworkMode::None;
            if is_offline && !filters.contains_key(OFFLINE) {
                let filter = seccomp::offline().map_err(Fault::Refused)?;
                filters.insert(OFFLINE.to_owned(), Some(filter));
            }
            let filters = Filters {
                offline: filters.get(OFFLINE).filter(|_| is_offline).and_then(Option::as_ref),
                confinement: filters.get(&key).and_then(Option::as_ref),
                supervisor: filters.get(&supervisor).and_then(Option::as_ref),
            };
            let cgroup = request.cgroup2.map(|index| fds[index].as_fd());
            if request.emulated.is_some() {
                return match proof.clone_process(0, cgroup).doing(|| "starting a process")? {
                    Forked::Child => {
                        close(socket);
                        emulated::main(proof, &request, filters, fds)
                    }
                    Forked::Parent(child) => {
                        started(&fds, &child);
                        Ok(())
                    }
                };
            }
            if request.chroot.is_some() {
                return match proof.clone_process(0, cgroup).doing(|| "starting a process")? {
                    Forked::Child => {
                        close(socket);
                        chroot::main(proof, &request, filters, fds)
                    }
                    Forked::Parent(child) => {
                        started(&fds, &child);
                        Ok(())
                    }
                };
            }
            let mut flags =
                libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
            if request.netns.is_none() && request.spec.policy.network != NetworkMode::Host {
                flags |= libc::CLONE_NEWNET;
            }
            match proof.clone_process(flags, cgroup).doing(|| "making namespaces")? {
                Forked::Child => {
                    close(socket);
                    init::main(proof, &request, filters, fds)
                }
                Forked::Parent(child) => {
                    started(&fds, &child);
                    Ok(())
                }
            }
        }
        SpawnRequest::MakeUserns(map) => make_userns(proof, &map, &fds),
        SpawnRequest::MakeNetns => make_netns(proof, &fds),
        SpawnRequest::Probe { program, has_namespaces } => {
            handler::probe(proof, &program, has_namespaces, &fds)
        }
        SpawnRequest::Register { rule } => handler::register(proof, &rule, &fds),
        SpawnRequest::Helper { argv } => helper(proof, &argv, &fds),
    }
}

/// Name of the filter of commands without network, among the others.
const OFFLINE: &str = "offline";

/// Lets go of the spawner's own socket in a child.
fn close(socket: &OwnedFd) {
    // The null device takes its number: an owned descriptor stays valid, the socket is gone.
    use std::os::fd::AsRawFd;
    process::dup_to(rustix::stdio::stdin(), socket.as_raw_fd()).ok();
}

fn started(fds: &[OwnedFd], child: &process::Child) {
    let report = InitMessage::Started { pid: child.pid };
    // A builder that is gone will be noticed by the next receive.
    protocol::send(fds[0].as_fd(), &report, &[child.pidfd.as_fd()]).ok();
}

/// Refuses a request that refers to descriptors it did not bring.
pub(super) fn check_indices(request: &RunRequest, count: usize) -> Result<(), Fault> {
    let sources = request.sources.iter().filter_map(|source| match source {
        SourceFd::Mount(index) | SourceFd::File(index) => Some(*index),
        SourceFd::Agent => None,
    });
    let stdio = match request.stdio {
        protocol::StdioFds::Pipes(pipes) => pipes.into_iter().flatten().collect(),
        protocol::StdioFds::Terminal { .. } => Vec::new(),
    };
    let highest = sources
        .chain(stdio)
        .chain([request.root])
        .chain(request.netns)
        .chain(request.userns.as_ref().map(|(index, _)| *index))
        .chain(request.cgroup2)
        .chain(request.cgroup1.iter().copied())
        .chain(request.listeners.iter().copied())
        .max();
    if highest.is_some_and(|highest| highest >= count) {
        return Err(Fault::Refused("a descriptor is missing".into()));
    }
    Ok(())
}

/// Makes a user namespace: a child is born in it and waits while the mapping is written from
/// outside; its namespace file outlives it.
fn make_userns(proof: SingleThreaded, map: &IdMap, fds: &[OwnedFd]) -> Result<(), Fault> {
    let (ours, theirs) = protocol::pair().doing(|| "making a socket")?;
    let forked =
        proof.clone_process(libc::CLONE_NEWUSER, None).doing(|| "making a user namespace")?;
    let Forked::Parent(child) = forked else {
        drop(ours);
        // Ends when the spawner lets go of its side.
        protocol::receive::<()>(theirs.as_fd()).ok();
        process::exit_now(0);
    };
    drop(theirs);
    for (file, text) in map.texts() {
        let path = format!("/proc/{}/{file}", child.pid);
        std::fs::write(&path, text).doing(|| format!("writing {file}"))?;
    }
    let path = format!("/proc/{}/ns/user", child.pid);
    let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening the user namespace")?;
    made(fds[0].as_fd(), &namespace)
}

fn made(control: BorrowedFd<'_>, namespace: &OwnedFd) -> Result<(), Fault> {
    protocol::send(control, &InitMessage::Made, &[namespace.as_fd()])
        .doing(|| "reporting to the builder")
}

/// Makes a network namespace that belongs to the user namespace at descriptor 1, if there is one,
/// so that the sandbox's root may open raw sockets in it.
fn make_netns(proof: SingleThreaded, fds: &[OwnedFd]) -> Result<(), Fault> {
    let Forked::Child = proof.clone_process(0, None).doing(|| "starting a process")? else {
        return Ok(());
    };
    let make = || -> Result<(), Fault> {
        if let Some(userns) = fds.get(1) {
            rustix::thread::move_into_link_name_space(
                userns.as_fd(),
                Some(LinkNameSpaceType::User),
            )
            .doing(|| "joining the user namespace")?;
        }
        proof.unshare(libc::CLONE_NEWNET).doing(|| "making a network namespace")?;
        process::loopback_up().doing(|| "bringing lo up")?;
        for (file, text) in [
            // Conveniences, as Docker has them.
            ("ipv4/ip_unprivileged_port_start", "0"),
            ("ipv4/ping_group_range", "0 2147483647"),
            // The helper is alone on its link and answers at once: no second goes by before a
            // command has its IPv6 address.
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/router_solicitation_delay", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/{file}"), text).ok();
        }
        let namespace =
            rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .doing(|| "opening the network namespace")?;
        made(fds[0].as_fd(), &namespace)
    };
    if let Err(fault) = make() {
        protocol::send(fds[0].as_fd(), &InitMessage::from(fault), &[]).ok();
    }
    process::exit_now(0)
}

/// Starts a program that dies with the spawner. It has the null device for input and output, and
/// the request's further descriptors from 3 on.
fn helper(proof: SingleThreaded, argv: &[String], fds: &[OwnedFd]) -> Result<(), Fault> {
    let strings: Option<Vec<_>> =
        argv.iter().map(|argument| std::ffi::CString::new(argument.as_str()).ok()).collect();
    let Some(strings) = strings.filter(|strings| !strings.is_empty()) else {
        return Err(Fault::Refused("a helper's arguments make no sense".into()));
    };
    match proof.clone_process(0, None).doing(|| "starting a process")? {
        Forked::Parent(child) => {
            started(fds, &child);
            Ok(())
        }
        Forked::Child => {
            let become_helper = || -> std::io::Result<()> {
                process::reset_signals();
                rustix::process::set_parent_process_death_signal(Some(
                    rustix::process::Signal::KILL,
                ))?;
                // Out of the way first: a descriptor may have a number that another is to get.
                let mut lifted = Vec::new();
                for fd in &fds[1..] {
                    lifted.push(rustix::io::fcntl_dupfd_cloexec(fd, 64)?);
                }
                process::close_on_exec_from(3)?;
                for number in 1..3 {
                    process::dup_to(rustix::stdio::stdin(), number)?;
                }
                for (number, fd) in (3..).zip(&lifted) {
                    process::dup_to(fd.as_fd(), number)?;
                }
                Ok(())
            };
            if become_helper().is_ok() {
                let path = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
                nix::unistd::execve(&strings[0], &strings, &path).ok();
            }
            process::exit_now(127)
        }
    }
}
