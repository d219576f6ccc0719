//! Entry points for fuzz targets and the tests that replay their inputs: bytes that another process
//! of a build may send, and files of an image that decide about a process. Each function asserts
//! what must hold for any input.
//!
//! Not for use by other code.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::MemfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::protocol::{self, InitMessage, Order, SpawnRequest};
use super::{agent, caps, emulated, limits, seccomp, spawner, supervisor, users};
use crate::sys::notify::Call;

/// Longest packet that is sent: more does not fit a socket's buffer.
const PACKET_MAX: usize = 32 << 10;

/// Bytes that a peer of the sandbox's protocol sends: they are a message or an error, and none of
/// them makes the receiver wait. A request refers to descriptors that it brought.
pub fn message(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(PACKET_MAX)];
    if bytes.is_empty() {
        return;
    }
    let receive_all = |packet: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]| {
        if let Some(Ok(Some((request, fds)))) = exchange::<SpawnRequest>(packet, fds) {
            request_is_checked(&request, fds.len());
        }
        let _ = exchange::<InitMessage>(packet, fds);
        let _ = exchange::<Order>(packet, fds);
    };
    receive_all(bytes, &[]);
    // The same in a file, beside descriptors that a run needs.
    let Ok(file) = rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC) else { return };
    let mut file = std::fs::File::from(file);
    if file.write_all(bytes).is_ok() && std::io::Seek::rewind(&mut file).is_ok() {
        receive_all(b"@", &[file.as_fd(), file.as_fd(), file.as_fd()]);
    }
}

type Received<M> = std::io::Result<Option<(M, Vec<OwnedFd>)>>;

fn exchange<M: serde::de::DeserializeOwned>(
    packet: &[u8],
    fds: &[std::os::fd::BorrowedFd<'_>],
) -> Option<Received<M>> {
    let (ours, theirs) = protocol::pair().ok()?;
    let mut space = vec![std::mem::MaybeUninit::uninit(); 256];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let slices = [std::io::IoSlice::new(packet)];
    rustix::net::sendmsg(&theirs, &slices, &mut ancillary, SendFlags::DONTWAIT).ok()?;
    drop(theirs);
    Some(protocol::receive(ours.as_fd()))
}

fn request_is_checked(request: &SpawnRequest, count: usize) {
    match request {
        SpawnRequest::Run(request) => {
            let has_all = spawner::check_indices(request, count).is_ok();
            assert!(!has_all || request.root < count, "a descriptor that did not come");
            let spec = &request.spec;
            if let Ok(Some(program)) = seccomp::for_spec(spec) {
                assert!(seccomp::decides(&program, 0, [0; 6]));
            }
            let _ = seccomp::cache_key(spec);
            let _ = caps::select(caps::DEFAULT, &spec.policy.cap_add, &spec.policy.cap_drop);
            let _ = users::look_up(&spec.user, "", "");
            spec.policy.ulimits.iter().for_each(|limit| _ = limits::rlimit(&limit.name));
            if let Some((_, map)) = &request.userns {
                map_is_read(map);
            }
        }
        SpawnRequest::MakeUserns(map) => map_is_read(map),
        SpawnRequest::Probe { .. }
        | SpawnRequest::Register { .. }
        | SpawnRequest::MakeNetns
        | SpawnRequest::Helper { .. } => {}
    }
}

fn map_is_read(map: &super::IdMap) {
    let _ = (map.root(), map.translates(), map.is_single(), map.texts());
    for id in [0, 1, 1000, 65_536, u32::MAX] {
        let _ = (map.uid(id), map.gid(id));
    }
}

/// Bytes that a command writes to its ssh agent's socket, then what the agent answers, or the
/// content of a key file: the agent is asked for its keys and for signatures only, and the
/// connection ends.
pub fn ssh_agent(requests: &[u8], answers: &[u8]) {
    let Ok((client, command)) = UnixStream::pair() else { return };
    let Ok((upstream, agent)) = UnixStream::pair() else { return };
    let fits = |bytes: &[u8]| bytes.len() <= PACKET_MAX;
    let send = |mut stream: &UnixStream, bytes: &[u8]| {
        fits(bytes) && stream.write_all(bytes).is_ok() && stream.shutdown(Shutdown::Write).is_ok()
    };
    if !send(&command, requests) || !send(&agent, answers) {
        return;
    }
    let drain = |mut stream: UnixStream| {
        let mut bytes = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut bytes);
        bytes
    };
    let asked = std::thread::scope(|scope| {
        scope.spawn(move || drain(command));
        let asked = scope.spawn(move || drain(agent));
        agent::pass_on(client, upstream);
        asked.join().unwrap_or_default()
    });
    let mut rest = asked.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((request, after)) = after.split_at_checked(length) else { break };
        assert!(matches!(request.first(), Some(11 | 13)), "{request:?} reached the agent");
        rest = after;
    }
    let mut keyring = agent::Keyring::default();
    let _ = keyring.add(answers);
    let Ok((client, command)) = UnixStream::pair() else { return };
    if send(&command, requests) {
        std::thread::scope(|scope| {
            scope.spawn(move || drain(command));
            agent::answer_with(client, &keyring);
        });
    }
}

/// A system call that a filter hands to the supervisor.
pub fn call(arch: u32, number: u32, arguments: [u64; 6]) {
    let call = Call { id: 0, pid: 0, arch, number, arguments };
    assert!(!supervisor::is_taken(&call) || seccomp::call_name(&call).is_some());
}

/// A file that a step executes where its paths are resolved for it: what is mapped are whole pages, in
/// places that a process may have.
pub fn program(bytes: &[u8]) {
    let Ok(file) = rustix::fs::memfd_create("program", MemfdFlags::CLOEXEC) else { return };
    let mut file = std::fs::File::from(file);
    if file.write_all(bytes).is_ok() {
        emulated::probe_program(&file);
    }
}

/// The stack of a process that executes a program there, with what the program is called by and the
/// words that a script puts in front: it is refused, or laid out anew with the same arguments.
pub fn vectors(memory: &[u8], called: &[u8], arguments: Option<&[Vec<u8>]>) {
    emulated::probe_vectors(memory, called, arguments);
}

/// A user as an image has it, with its `/etc/passwd` and `/etc/group`: the ids are such that the
/// kernel has.
pub fn user(user: &str, passwd: &str, group: &str) {
    if let Ok(found) = users::look_up(user, passwd, group) {
        let ids = found.groups.iter().chain([&found.uid, &found.gid]);
        assert!(ids.copied().all(|id| id != u32::MAX), "{found:?}");
    }
}

/// A seccomp profile: every call is decided by the filter made of it.
pub fn profile(json: &str, number: u32, argument: u64) {
    let mut spec = super::RunSpec::new(Vec::new());
    spec.policy.seccomp = super::Seccomp::Profile(json.to_owned());
    if let Ok(Some(program)) = seccomp::for_spec(&spec) {
        assert!(seccomp::decides(&program, number, [argument; 6]), "a call that is not decided");
    }
}
