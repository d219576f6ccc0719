//! Ssh agents that commands can use: one of the user's, or one of ours that has keys from files.
//!
//! The command talks to a socket of ours, whose owner and mode fit it, and we to the user's agent
//! as ourselves: agents ask who their peer is, and refuse a mapped user. Only listing keys and
//! signing go through; a command may not add, remove or lock anything.
//!
//! A request to the user's agent has a time limit, after which it fails: a command never waits for
//! an agent that does not answer.
//!
//! Source: draft-ietf-sshm-ssh-agent, section 3 and 5.1.

mod format;
mod key;

pub use key::KeyError;

use format::Wire;
use key::{Key, joined};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const FAILURE: u8 = 5;

/// Longest message: OpenSSH's own limit.
const MESSAGE_MAX: u32 = 256 * 1024;

/// How long the user's agent may take to accept a connection and to list its keys.
const LISTING_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take to sign. The user may have to confirm it, or to touch a security key.
const SIGNING_LIMIT: Duration = Duration::from_mins(1);

/// Maximum number of connections served at one time, each of which costs a thread. Further ones
/// wait in the socket's queue.
const CONNECTIONS_MAX: usize = 64;

/// Interval at which a full house of connections is looked at again.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// An agent that a mount of type ssh leads to.
#[derive(Debug, Clone)]
pub enum Agent {
    /// The socket of an agent of the user's.
    Socket(PathBuf),
    /// Keys of which we are the agent.
    Keys(Arc<Keyring>),
}

/// Private keys, in the order in which they are listed.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// Adds the key in the content of a key file.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it is not a private key, or one that cannot be used.
    pub fn add(&mut self, file: &[u8]) -> Result<(), KeyError> {
        self.keys.push(Key::parse(file)?);
        Ok(())
    }

    /// Answers a request; `None` for all but listing and signing, and for keys that are not here.
    fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        let (kind, body) = request.split_first()?;
        match *kind {
            REQUEST_IDENTITIES => {
                let mut answer = vec![IDENTITIES_ANSWER];
                answer.extend((self.keys.len() as u32).to_be_bytes());
                // Comments are often paths or hosts of the user's; commands get none.
                answer.extend(self.keys.iter().flat_map(|key| joined(&[&key.public, b""])));
                Some(answer)
            }
            SIGN_REQUEST => {
                let mut body = Wire(body);
                let (public, data, flags) = (body.string()?, body.string()?, body.number()?);
                let key = self.keys.iter().find(|key| key.public == public)?;
                let mut answer = vec![SIGN_RESPONSE];
                answer.extend(joined(&[&key.sign(data, flags)?]));
                Some(answer)
            }
            _ => None,
        }
    }
}

/// Connects to the agent at `path`, or fails within the limit for a listing.
///
/// # Errors
///
/// If nothing listens there.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    connect_within(path, LISTING_LIMIT)
}

fn connect_within(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // It bounds `connect` too, which waits while a listener accepts nothing.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Sentences for the user about agents that did not answer.
pub(super) type Complaints = Arc<Mutex<Vec<String>>>;

/// Serves connections until `stop`'s other end closes. Meant for a thread of its own.
pub(super) fn serve(listener: OwnedFd, agent: &Agent, stop: &OwnedFd, complaints: &Complaints) {
    let listener = UnixListener::from(listener);
    let open = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        loop {
            let mut watched =
                [PollFd::new(stop, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
            let is_full = open.load(Ordering::Acquire) >= CONNECTIONS_MAX;
            let (watched, timeout) = match is_full {
                true => (&mut watched[..1], Some(&LOOK_AGAIN)),
                false => (&mut watched[..], None),
            };
            match rustix::event::poll(watched, timeout) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) if !watched[0].revents().is_empty() => return,
                Ok(_) if is_full => continue,
                Ok(_) => {}
            }
            let Ok((client, _)) = listener.accept() else { return };
            open.fetch_add(1, Ordering::AcqRel);
            // The connection ends when the sandbox does: its side is closed with the command.
            let serving = std::thread::Builder::new().spawn_scoped(scope, || {
                let _ = match agent {
                    Agent::Keys(keyring) => converse(client, |request| keyring.answer(request)),
                    Agent::Socket(path) => {
                        let limits = [LISTING_LIMIT, SIGNING_LIMIT];
                        let mut upstream = Upstream { path, limits, stream: None, complaints };
                        converse(client, |request| upstream.ask(request))
                    }
                };
                open.fetch_sub(1, Ordering::AcqRel);
            });
            // Without a thread the connection is closed, and the command sees an agent that is
            // gone.
            if serving.is_err() {
                open.fetch_sub(1, Ordering::AcqRel);
            }
        }
    });
}

/// Answers a client, asking an agent that is connected already. For fuzzing.
pub(super) fn pass_on(client: UnixStream, agent: UnixStream) {
    let (complaints, limits) = (Complaints::default(), [Duration::from_secs(1); 2]);
    let path = Path::new("/nonexistent");
    let mut upstream = Upstream { path, limits, stream: Some(agent), complaints: &complaints };
    let _ = converse(client, |request| upstream.ask(request));
}

/// Answers a client with these keys. For fuzzing.
pub(super) fn answer_with(client: UnixStream, keyring: &Keyring) {
    let _ = converse(client, |request| keyring.answer(request));
}

/// Answers the requests of a client until it ends the connection.
fn converse(
    mut client: UnixStream,
    mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    while let Some(request) = read_message(&mut client)? {
        let answer = answer(&request).unwrap_or_else(|| vec![FAILURE]);
        write_message(&mut client, &answer)?;
    }
    Ok(())
}

/// The user's agent, seen from one connection of a command.
struct Upstream<'a> {
    path: &'a Path,
    /// For listing, and for signing.
    limits: [Duration; 2],
    /// A connection on which all requests were answered.
    stream: Option<UnixStream>,
    complaints: &'a Complaints,
}

impl Upstream<'_> {
    /// Passes on a request that commands may make.
    fn ask(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let limit = match request.first() {
            Some(&REQUEST_IDENTITIES) => self.limits[0],
            Some(&SIGN_REQUEST) => self.limits[1],
            _ => return None,
        };
        match self.exchange(request, limit) {
            Ok((answer, stream)) => {
                self.stream = Some(stream);
                Some(answer)
            }
            Err(error) => {
                let path = self.path.display();
                // A timeout on a socket is EAGAIN.
                let complaint = match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
                        "the ssh agent at {path} did not answer within {} s: the request of the command failed",
                        limit.as_secs()
                    ),
                    _ => format!("the ssh agent at {path} does not answer: {error}"),
                };
                let mut all = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
                // A command may ask any number of times.
                if !all.contains(&complaint) {
                    all.push(complaint);
                }
                None
            }
        }
    }

    /// Sends a request and waits for its answer. A connection that failed is not used again: an
    /// answer that comes late would be taken for that to the next request.
    fn exchange(&mut self, request: &[u8], limit: Duration) -> io::Result<(Vec<u8>, UnixStream)> {
        let end = Instant::now() + limit;
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect_within(self.path, limit)?,
        };
        let mut bounded = Bounded { stream: &stream, end };
        write_message(&mut bounded, request)?;
        let answer = read_message(&mut bounded)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((answer, stream))
    }
}

/// A stream that fails once a point in time has passed.
struct Bounded<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl Bounded<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length);
    if length > MESSAGE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    stream.write_all(&(message.len() as u32).to_be_bytes())?;
    stream.write_all(message)
}

#[cfg(test)]
mod tests;
