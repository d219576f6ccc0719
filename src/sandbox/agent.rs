//! Forwarding of an ssh agent into a sandbox.
//!
//! The command talks to a socket of ours, whose owner and mode fit it, and we to the agent as
//! ourselves: agents ask who their peer is, and a mapped user would be a stranger. Only listing
//! keys and signing go through; a command may not add, remove or lock anything.
//!
//! Source: draft-ietf-sshm-ssh-agent, section 3 and 5.1.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const FAILURE: u8 = 5;

/// Longest message: OpenSSH's own limit.
const MESSAGE_MAX: u32 = 256 * 1024;

/// Forwards connections until `stop`'s other end closes. Meant for a thread of its own.
pub(super) fn forward(listener: OwnedFd, agent: &PathBuf, stop: &OwnedFd) {
    let listener = UnixListener::from(listener);
    std::thread::scope(|scope| {
        loop {
            let mut watched =
                [PollFd::new(&listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            match rustix::event::poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) if !watched[1].revents().is_empty() => return,
                Ok(_) => {}
            }
            let Ok((client, _)) = listener.accept() else { return };
            // The connection ends when the sandbox does: its side is closed with the command.
            scope.spawn(move || serve(client, agent).ok());
        }
    });
}

fn serve(mut client: UnixStream, agent: &PathBuf) -> io::Result<()> {
    let mut upstream = None;
    while let Some(request) = read_message(&mut client)? {
        let answer = match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                if upstream.is_none() {
                    upstream = UnixStream::connect(agent).ok();
                }
                upstream.as_mut().and_then(|agent| {
                    write_message(agent, &request).ok()?;
                    read_message(agent).ok().flatten()
                })
            }
            _ => None,
        };
        write_message(&mut client, &answer.unwrap_or_else(|| vec![FAILURE]))?;
    }
    Ok(())
}

fn read_message(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
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

fn write_message(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(&(message.len() as u32).to_be_bytes())?;
    stream.write_all(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn listing_and_signing_pass_and_all_else_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (agent_path, our_path) = (dir.path().join("agent"), dir.path().join("ours"));
        let agent = UnixListener::bind(&agent_path).unwrap();
        let ours = UnixListener::bind(&our_path).unwrap();
        let (stop, other_end) = super::super::protocol::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| forward(ours.into(), &agent_path, &stop));
            scope.spawn(|| {
                let (mut stream, _) = agent.accept().unwrap();
                while let Some(mut request) = read_message(&mut stream).unwrap() {
                    request.push(b'!');
                    write_message(&mut stream, &request).unwrap();
                }
            });
            let mut client = UnixStream::connect(&our_path).unwrap();
            for (request, answer) in [
                (vec![REQUEST_IDENTITIES], vec![REQUEST_IDENTITIES, b'!']),
                (vec![17, 1, 2], vec![FAILURE]),
                (vec![SIGN_REQUEST, 7], vec![SIGN_REQUEST, 7, b'!']),
                (Vec::new(), vec![FAILURE]),
            ] {
                write_message(&mut client, &request).unwrap();
                assert_eq!(read_message(&mut client).unwrap(), Some(answer));
            }
            drop(client);
            assert!(other_end.as_fd().try_clone_to_owned().is_ok());
            drop(other_end);
        });
    }
}
