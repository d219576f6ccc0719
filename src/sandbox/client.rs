//! The builder's connection to the spawner, which is started with the first request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::ids::Ids;
use super::protocol::{self, InitMessage, SpawnRequest};
use super::{SandboxError, program, spawner};

/// A connection to a spawner, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Client {
    program: PathBuf,
    socket: Mutex<Option<OwnedFd>>,
}

impl Client {
    /// Makes one that starts `program` as the spawner.
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program, socket: Mutex::default() }
    }

    fn gone(&self, source: io::Error) -> SandboxError {
        SandboxError::Spawner { program: self.program.clone(), source }
    }

    /// Sends a request, starting the spawner if there is none.
    pub(super) fn send(
        &self,
        request: &SpawnRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), SandboxError> {
        let gone = |source| self.gone(source);
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.is_none() {
            *socket = Some(self.start().map_err(gone)?);
        }
        match &*socket {
            Some(socket) => protocol::send(socket.as_fd(), request, fds).map_err(gone),
            None => Err(gone(io::ErrorKind::NotConnected.into())),
        }
    }

    fn start(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = protocol::pair()?;
        let program = program::sealed(&self.program)?;
        let mut child = Command::new(program.path())
            .arg0(spawner::NAME)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // The spawner ends when the socket is dropped; this thread then takes its status.
        std::thread::Builder::new().name("spawner".into()).spawn(move || child.wait().ok())?;
        Ok(ours)
    }

    /// Asks for something that is answered by one report with a descriptor.
    pub(super) fn ask(
        &self,
        request: &SpawnRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<OwnedFd, SandboxError> {
        let answer = self.order(request, fds)?;
        self.answer(&answer)
    }

    /// Asks without waiting; returns where the answer will come.
    pub(super) fn order(
        &self,
        request: &SpawnRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<OwnedFd, SandboxError> {
        let (ours, theirs) = protocol::pair().map_err(|source| self.gone(source))?;
        let mut all = vec![theirs.as_fd()];
        all.extend_from_slice(fds);
        self.send(request, &all)?;
        Ok(ours)
    }

    /// Waits for the answer to an order.
    pub(super) fn answer(&self, ours: &OwnedFd) -> Result<OwnedFd, SandboxError> {
        let gone = |source| self.gone(source);
        match protocol::receive::<InitMessage>(ours.as_fd()).map_err(gone)? {
            Some((InitMessage::Failed { doing, errno }, _)) => {
                Err(SandboxError::Setup { doing, errno })
            }
            Some((InitMessage::Refused { message }, _)) => Err(SandboxError::Spec { message }),
            Some((_, mut fds)) if !fds.is_empty() => Ok(fds.swap_remove(0)),
            _ => Err(gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Makes a network namespace with `lo` alone, which belongs to the user namespace of `ids`.
    pub(super) fn make_netns(&self, ids: Option<&Ids>) -> Result<OwnedFd, SandboxError> {
        self.ask(&SpawnRequest::MakeNetns, ids.map(Ids::userns).as_slice())
    }

    /// Tries whether a program starts, which must not end by itself, with namespaces in the user
    /// namespace of `ids`; returns the error of its start.
    pub(super) fn probe(
        &self,
        program: Vec<u8>,
        has_namespaces: bool,
        ids: Option<&Ids>,
    ) -> Result<Option<io::Error>, SandboxError> {
        let request = SpawnRequest::Probe { program, has_namespaces };
        let ours = self.order(&request, ids.map(Ids::userns).as_slice())?;
        let gone = |source| self.gone(source);
        match protocol::receive::<InitMessage>(ours.as_fd()).map_err(gone)? {
            Some((InitMessage::Probed { errno: 0 }, _)) => Ok(None),
            Some((InitMessage::Probed { errno }, _)) => {
                Ok(Some(io::Error::from_raw_os_error(errno)))
            }
            Some((InitMessage::Failed { doing, errno }, _)) => {
                Err(SandboxError::Setup { doing, errno })
            }
            _ => Err(gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Registers an emulator in a user namespace; returns the mount that keeps it registered.
    pub(super) fn register(
        &self,
        rule: String,
        emulator: BorrowedFd<'_>,
        ids: &Ids,
    ) -> Result<OwnedFd, SandboxError> {
        self.ask(&SpawnRequest::Register { rule }, &[emulator, ids.userns()])
    }

    /// Starts a program that dies with the spawner, with descriptors from 3 on; returns its pidfd.
    pub(super) fn start_helper(
        &self,
        argv: Vec<String>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<OwnedFd, SandboxError> {
        self.ask(&SpawnRequest::Helper { argv }, fds)
    }
}
