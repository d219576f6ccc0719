//! What processes of the spawner's do about programs of other machines: try whether one starts, and
//! register an emulator.
//!
//! An instance of binfmt_misc belongs to a user namespace; programs that are executed in the
//! namespace, or in one below that has none, are looked up there and nowhere else. It is made by
//! mounting it, and lasts as long as its mount, which is attached nowhere: all there is of it is a
//! descriptor.
//!
//! Source: `fs/binfmt_misc.c` of Linux 6.7.

use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Resource, Rlimit};
use rustix::thread::LinkNameSpaceType;

use crate::sandbox::fault::{Doing, Fault};
use crate::sandbox::init;
use crate::sandbox::protocol::{self, InitMessage};
use crate::sys::process::{self, Forked, SingleThreaded};

/// What is being done where a kernel does not let the root of a user namespace register emulators.
pub(super) const OPENING: &str = "opening binfmt_misc in a user namespace";

/// How emulators are registered: a program's own argument 0 is passed on (P), set-user-ID programs
/// keep their meaning (C, which implies O), and the emulator is opened now (F), not in the root of
/// the program.
const FLAGS: &str = "POCF";

/// Seconds of the processor that a program may use that was started to be tried.
const TRIAL: u64 = 1;

/// Joins the user namespace at a descriptor, if there is one, as its root, and takes a mount namespace
/// in it.
fn enter(proof: SingleThreaded, fds: &[OwnedFd], index: usize) -> Result<(), Fault> {
    if let Some(userns) = fds.get(index) {
        rustix::thread::move_into_link_name_space(userns.as_fd(), Some(LinkNameSpaceType::User))
            .doing(|| "joining the user namespace")?;
        // Who has no id there can make no file.
        init::become_root()?;
    }
    proof.unshare(libc::CLONE_NEWNS).doing(|| "making a mount namespace")
}

fn make(kind: &str, attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Registers an emulator in the user namespace at descriptor 2, from the file at descriptor 1, and
/// reports the mount that keeps it registered.
pub(in crate::sandbox) fn register(
    proof: SingleThreaded,
    rule: &str,
    fds: &[OwnedFd],
) -> Result<(), Fault> {
    let [control, emulator, _userns] = fds else {
        return Err(Fault::Refused("an emulator and a user namespace are missing".into()));
    };
    let Forked::Child = proof.clone_process(0, None).doing(|| "starting a process")? else {
        return Ok(());
    };
    let register = || -> Result<(), Fault> {
        enter(proof, fds, 2)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = make("binfmt_misc", attributes).doing(|| OPENING)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, "register", flags, Mode::empty())
            .doing(|| "opening binfmt_misc's register")?;
        let rule = format!("{rule}/proc/self/fd/{}:{FLAGS}", emulator.as_raw_fd());
        rustix::io::write(&file, rule.as_bytes()).doing(|| "registering the emulator")?;
        protocol::send(control.as_fd(), &InitMessage::Made, &[mount.as_fd()])
            .doing(|| "reporting to the builder")
    };
    if let Err(fault) = register() {
        protocol::send(control.as_fd(), &InitMessage::from(fault), &[]).ok();
    }
    process::exit_now(0)
}

/// Starts a program that does not end by itself, in a root that has nothing else, and ends it at
/// once; reports the error of its start. With namespaces that is in the user namespace at descriptor
/// 1, if there is one.
pub(in crate::sandbox) fn probe(
    proof: SingleThreaded,
    program: &[u8],
    has_namespaces: bool,
    fds: &[OwnedFd],
) -> Result<(), Fault> {
    let Forked::Child = proof.clone_process(0, None).doing(|| "starting a process")? else {
        return Ok(());
    };
    let control = fds[0].as_fd();
    let run = || -> Result<(), Fault> {
        let place = match has_namespaces {
            true => {
                enter(proof, fds, 1)?;
                Place::empty_root(program)?
            }
            false => Place::in_memory(program)?,
        };
        let errno = start(proof, &place)?;
        protocol::send(control, &InitMessage::Probed { errno }, &[])
            .doing(|| "reporting to the builder")
    };
    if let Err(fault) = run() {
        protocol::send(control, &InitMessage::from(fault), &[]).ok();
    }
    process::exit_now(0)
}

/// Where a program is that is to be tried.
enum Place {
    /// In a file system of its own, which becomes the root.
    Root(OwnedFd),
    /// In memory.
    Memory(OwnedFd),
}

impl Place {
    fn empty_root(program: &[u8]) -> Result<Self, Fault> {
        let doing = || "making a root for a trial";
        let root = make("tmpfs", MountAttrFlags::empty()).doing(doing)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o755);
        rustix::process::umask(Mode::empty());
        let file = rustix::fs::openat(&root, "program", flags, mode).doing(doing)?;
        rustix::io::write(&file, program).doing(doing)?;
        Ok(Self::Root(root))
    }

    fn in_memory(program: &[u8]) -> Result<Self, Fault> {
        let doing = || "putting a program into memory";
        let mut program = program;
        let file = crate::sandbox::program::in_memory("program", &mut program).doing(doing)?;
        // One that is closed when it is executed would not be there for an emulator.
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).doing(doing)?;
        Ok(Self::Memory(file))
    }

    /// Executes the program. Returns why that does not work.
    fn execute(&self) -> Errno {
        let names: [CString; 1] = [c"program".to_owned()];
        let nothing: [CString; 0] = [];
        let error = match self {
            Self::Root(root) => {
                let changed =
                    rustix::process::fchdir(root).and_then(|()| rustix::process::chroot("."));
                if let Err(error) = changed {
                    return error;
                }
                let Err(error) = nix::unistd::execve(c"/program", &names, &nothing);
                error
            }
            Self::Memory(file) => {
                // Where nothing of an emulator's is, if that is allowed.
                rustix::process::chdir("/proc/self/fdinfo")
                    .and_then(|()| rustix::process::chroot("."))
                    .ok();
                let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
                let Err(error) = nix::unistd::execveat(file, c"", &names, &nothing, flags);
                error
            }
        };
        Errno::from_raw_os_error(error as i32)
    }
}

/// Returns the error of starting a program; 0 where it started. It is over afterwards.
fn start(proof: SingleThreaded, place: &Place) -> Result<i32, Fault> {
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "making a pipe")?;
    let Forked::Parent(child) = proof.clone_process(0, None).doing(|| "starting a process")? else {
        drop(reader);
        die_with_parent();
        let limit = Rlimit { current: Some(TRIAL), maximum: Some(TRIAL) };
        rustix::process::setrlimit(Resource::Cpu, limit).ok();
        let error = place.execute();
        rustix::io::write(&writer, &error.raw_os_error().to_ne_bytes()).ok();
        process::exit_now(1);
    };
    drop(writer);
    // The kernel closes the other end when the program takes over.
    let mut bytes = Vec::new();
    std::fs::File::from(reader).read_to_end(&mut bytes).doing(|| "waiting for a program")?;
    match bytes.first_chunk() {
        Some(errno) => Ok(i32::from_ne_bytes(*errno)),
        None => {
            let kill = rustix::process::Signal::KILL;
            rustix::process::pidfd_send_signal(&child.pidfd, kill).ok();
            Ok(0)
        }
    }
}

fn die_with_parent() {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok();
}
