//! What builder, spawner and init say to each other.
//!
//! One message is one packet of a `SOCK_SEQPACKET` pair: JSON, and descriptors beside it. JSON too
//! long for a packet travels in a memfd, which is then the last descriptor. Both ends are the same
//! program, so the form has no version.

use std::io::{self, IoSlice, IoSliceMut, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::idmap::IdMap;
use super::spec::RunSpec;
use crate::sys::foreign;
use crate::sys::process::ChildUsage;

/// Longest JSON sent as a packet. Well under the least default socket buffer; an environment and
/// argv of usual size fit many times over.
const PACKET_MAX: usize = 32 * 1024;

/// Longest JSON in a memfd. An environment that the kernel takes, hosts and a seccomp profile are
/// far below.
const MESSAGE_MAX: u64 = 64 << 20;

/// Most descriptors in one message: the kernel's limit (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;

/// What the builder asks of the spawner. Descriptor 0 of every request is the socket on which
/// [`InitMessage`]s about it are sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SpawnRequest {
    /// Start a sandbox.
    Run(Box<RunRequest>),
    /// Make a user namespace with this mapping and report its descriptor.
    MakeUserns(IdMap),
    /// Make a network namespace, inside a user namespace where descriptor 1 is one.
    MakeNetns,
    /// Try whether a program starts, in the user namespace at descriptor 1 if there is one; it is
    /// ended at once.
    Probe {
        /// The bytes of its file. It must not end by itself.
        program: Vec<u8>,
        /// Whether there are namespaces to try it in.
        has_namespaces: bool,
    },
    /// Register the emulator at descriptor 1 in the user namespace at descriptor 2, and report the
    /// mount that keeps it registered.
    Register {
        /// Which programs it runs, as binfmt_misc takes it, up to the emulator's path.
        rule: String,
    },
    /// Start a program that dies with the spawner; further descriptors become 3, 4, ….
    Helper {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// A sandbox to start. Numbers are indices of the descriptors sent along.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RunRequest {
    /// What to run.
    pub spec: RunSpec,
    /// The root's detached mount.
    pub root: usize,
    /// What `spec.mounts` refer to by index.
    pub sources: Vec<SourceFd>,
    /// Input and output.
    pub stdio: StdioFds,
    /// The version of Landlock with which the command is confined to the root, a directory, where no
    /// namespaces are made.
    pub chroot: Option<u32>,
    /// The same where the command's paths are resolved for it in the root.
    pub emulated: Option<u32>,
    /// Listening sockets of agents, which are in the root already.
    pub listeners: Vec<usize>,
    /// What was put into the root, where the command's paths are resolved for it and some of that can
    /// only be read.
    #[serde(default)]
    pub places: Vec<Place>,
    /// Network namespace to join.
    pub netns: Option<usize>,
    /// User namespace to join, and how it maps.
    pub userns: Option<(usize, IdMap)>,
    /// Version 2 control group to be born in.
    pub cgroup2: Option<usize>,
    /// Whether control groups are version 2 throughout, and so worth showing inside.
    pub cgroup2_only: bool,
    /// Version 1 hierarchies to show inside: the controllers of each, such as `cpu,cpuacct`.
    pub cgroup1_shown: Vec<String>,
    /// `cgroup.procs` files of version 1 control groups to join.
    pub cgroup1: Vec<usize>,
    /// Text of `/etc/hosts`.
    pub hosts: String,
    /// Text of `/etc/resolv.conf`.
    pub resolv_conf: String,
}

/// Where something was put into the root, in the place of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The path in the root, without links and a leading slash.
    pub path: super::spec::OsBytes,
    /// Whether writes are refused.
    pub is_read_only: bool,
}

/// A source as it travels.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum SourceFd {
    /// A detached mount.
    Mount(usize),
    /// Bytes to read.
    File(usize),
    /// A socket that the builder listens on; nothing is sent.
    Agent,
}

/// Input and output as they travel.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum StdioFds {
    /// Pipes made for the command, which its user is to own; `None` for the sandbox's null device.
    Pipes([Option<usize>; 3]),
    /// A terminal made inside.
    Terminal {
        /// Rows of its window.
        rows: u16,
        /// Columns of its window.
        cols: u16,
    },
}

/// What spawner and init report.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum InitMessage {
    /// The process exists; its pidfd is attached.
    Started {
        /// Its number as the spawner sees it.
        pid: i32,
    },
    /// A namespace is made; its descriptor is attached.
    Made,
    /// It was tried whether a program starts.
    Probed {
        /// The error of execve(2); 0 where it started.
        errno: i32,
    },
    /// The sandbox's tree stands. Attached: the listening socket of each agent mount in order, then
    /// the terminal's master side if there is one.
    Ready {
        /// Mount points made for the step, parents before children.
        stubs: Vec<Stub>,
        /// Confinement that is weaker here than elsewhere.
        notices: Vec<String>,
    },
    /// One more confinement that is weaker here than elsewhere.
    Notice {
        /// What the user is to know.
        text: String,
    },
    /// The command is about to start; calls that it needs a supervisor for arrive at the descriptor
    /// attached.
    Supervised {
        /// Numbers of the file systems that belong to the sandbox alone, where devices may be made.
        own: Vec<u64>,
    },
    /// The command is about to start in a root directory; its calls with paths arrive at the descriptor
    /// attached.
    Served {
        /// The number of its keeper.
        keeper: i32,
    },
    /// Setting up failed.
    Failed {
        /// What was being done.
        doing: String,
        /// Error number.
        errno: i32,
    },
    /// The spec asks for what cannot be.
    Refused {
        /// What is wrong.
        message: String,
    },
    /// An id that the sandbox's user namespace does not map.
    UnmappedId {
        /// What has the id.
        of: String,
        /// The id.
        id: u32,
        /// Whether the builder chose the ids of the namespace.
        is_chosen: bool,
    },
    /// The command ended.
    Exited {
        /// Exit status; 128 + signal.
        status: i32,
        /// CPU time in user mode.
        user_us: u64,
        /// CPU time in the kernel.
        system_us: u64,
        /// Most memory resident in one process.
        max_rss: u64,
        /// Bytes read from storage.
        io_read: u64,
        /// Bytes written to storage.
        io_written: u64,
    },
}

impl InitMessage {
    /// Says how a command ended, and what it and all that it started used.
    pub(super) fn exited(status: Option<i32>, used: &ChildUsage) -> Self {
        Self::Exited {
            status: status.unwrap_or(255),
            user_us: used.user_us,
            system_us: used.system_us,
            max_rss: used.max_rss,
            io_read: used.io_read,
            io_written: used.io_written,
        }
    }

    /// The name of what it reports, for the diagnostic log.
    pub(super) fn stage(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Made => "made",
            Self::Probed { .. } => "probed",
            Self::Ready { .. } => "ready",
            Self::Notice { .. } => "notice",
            Self::Supervised { .. } => "supervised",
            Self::Served { .. } => "served",
            Self::Failed { .. } => "failed",
            Self::UnmappedId { .. } => "unmapped id",
            Self::Refused { .. } => "refused",
            Self::Exited { .. } => "exited",
        }
    }
}

/// A mount point made for a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stub {
    /// Path beneath the root, links resolved.
    pub path: super::spec::OsBytes,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Modification time of its parent before it was made, seconds and nanoseconds.
    pub before: (i64, i64),
    /// The same right after.
    pub after: (i64, i64),
}

/// Messages of the builder to init while the command runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Order {
    /// Send this signal to the command.
    Signal(i32),
}

/// Returns a connected pair of packet sockets, closed on exec.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message.
pub(super) fn send<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    if json.len() <= PACKET_MAX {
        return send_packet(socket, &json, fds);
    }
    let mut file = std::fs::File::from(rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?);
    file.write_all(&json)?;
    file.rewind()?;
    let mut fds = fds.to_vec();
    fds.push(file.as_fd());
    // A packet may not be empty: that is how the end of the connection looks.
    send_packet(socket, IN_FILE, &fds)
}

/// Packet whose JSON is in its last descriptor.
const IN_FILE: &[u8] = b"@";

fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > FDS_MAX {
        return Err(io::Error::other(format!("{} descriptors in one message", fds.len())));
    }
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message, waiting for it; `None` when the other end is closed.
pub(super) fn receive<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET_MAX];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            // A peer that ends with packets unread resets the connection. The kernel says so once, before
            // the packets that the peer sent: these come next, and then the end.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(error) => return Err(error.into()),
            Ok(received) => break received.bytes,
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received == 0 {
        return Ok(None);
    }
    bytes.truncate(received);
    if bytes == IN_FILE {
        let file = std::fs::File::from(fds.pop().ok_or(io::ErrorKind::InvalidData)?);
        // Reading anything else could wait for ever.
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes = foreign::whole(file, MESSAGE_MAX)?;
    }
    Ok(Some((serde_json::from_slice(&bytes)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_peer_that_did_not_read_all_arrive() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &"last", &[]).unwrap();
        send(b.as_fd(), &"unread", &[]).unwrap();
        drop(a);
        let (got, _) = receive::<String>(b.as_fd()).unwrap().unwrap();
        assert_eq!(got, "last");
        assert!(receive::<String>(b.as_fd()).unwrap().is_none());
    }

    #[test]
    fn short_and_long_messages_arrive_with_their_descriptors() {
        let (a, b) = pair().unwrap();
        for text in ["short".to_owned(), "long".repeat(100_000)] {
            send(a.as_fd(), &text, &[a.as_fd(), b.as_fd()]).unwrap();
            let (got, fds) = receive::<String>(b.as_fd()).unwrap().unwrap();
            assert_eq!((got, fds.len()), (text, 2));
        }
    }

    #[test]
    fn a_message_in_something_else_than_a_short_file_is_refused() {
        let (a, b) = pair().unwrap();
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        let large = tempfile::tempfile().unwrap();
        large.set_len(MESSAGE_MAX + 1).unwrap();
        for fd in [pipe.as_fd(), zeros.as_fd(), large.as_fd(), a.as_fd()] {
            send_packet(a.as_fd(), IN_FILE, &[fd]).unwrap();
            assert!(receive::<String>(b.as_fd()).is_err());
        }
        send_packet(a.as_fd(), IN_FILE, &[]).unwrap();
        assert!(receive::<String>(b.as_fd()).is_err());
        send(a.as_fd(), &"next", &[]).unwrap();
        assert_eq!(receive::<String>(b.as_fd()).unwrap().unwrap().0, "next");
    }

    #[test]
    fn a_closed_peer_is_the_end() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert!(receive::<String>(b.as_fd()).unwrap().is_none());
    }
}
