//! Sockets with names in the file system.
//!
//! No process of a step ever has such a socket that is neither connected nor listening, since it could
//! connect that to any path of the container. What it gets in its place is one end of a pair whose other end
//! is closed; bind(2) and connect(2) put the real one there, which the keeper has bound or connected.
//! Calls on all other sockets go on to the kernel: whatever the caller exchanges in the meantime is a
//! socket that has no use for such a name. Options that are set before one of the two calls are lost,
//! and datagrams are refused by the filter.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd as _, OwnedFd};

use super::super::supervisor::target::Target;
use super::World;
use super::paths::{Found, HELD, kind, link};
use crate::layer::owner;
use crate::sys::notify::{self, Answer};
use crate::sys::process;

/// How many connections wait for a server that has not said it.
const WAITING: i32 = 128;

/// Most sockets that are waited for to be named.
const SOCKETS_MAX: usize = 1 << 16;

/// Longest `struct sockaddr`.
const ADDRESS_MAX: usize = 128;

impl World {
    pub(super) fn socket(&mut self, kind: u64, protocol: u64) -> Result<Answer, Errno> {
        let kind = kind as i32;
        let flags = SocketFlags::from_bits_retain(kind as u32 & libc::SOCK_NONBLOCK as u32)
            | SocketFlags::CLOEXEC;
        let socket_type = match kind & 0xf {
            libc::SOCK_STREAM => SocketType::STREAM,
            libc::SOCK_SEQPACKET => SocketType::SEQPACKET,
            _ => return Err(Errno::PROTONOSUPPORT),
        };
        if protocol as i32 > 1 {
            return Err(Errno::PROTONOSUPPORT);
        }
        let (socket, _) = rustix::net::socketpair(AddressFamily::UNIX, socket_type, flags, None)?;
        if self.sockets.len() == SOCKETS_MAX {
            // What is forgotten can be neither bound nor connected any more.
            self.sockets.clear();
        }
        self.sockets.insert(rustix::fs::fstat(&socket)?.st_ino, socket_type);
        Ok(Answer::Descriptor(socket, kind & libc::SOCK_CLOEXEC != 0))
    }

    /// Binds or connects a socket.
    pub(super) fn name_socket(
        &mut self,
        target: Target<'_>,
        [number, address, length]: [u64; 3],
        is_bind: bool,
    ) -> Result<Answer, Errno> {
        let (number, pid) = (number as u32, target.call.pid);
        let text = rustix::fs::readlink(format!("/proc/{pid}/fd/{number}"), Vec::new());
        let text = text.map_err(|_| Errno::BADF)?;
        target.check()?;
        let inode = text
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
        let Some(&socket_type) = inode.and_then(|inode| self.sockets.get(&inode)) else {
            // One that is connected or listens has no use for a path, but the kernel would look
            // there first, and so say whether it is there.
            let mut family = [0; 2];
            target.read_exact(&mut family, address)?;
            return match i32::from(u16::from_ne_bytes(family)) == libc::AF_UNIX {
                true if is_bind => Err(Errno::INVAL),
                true => Err(Errno::ISCONN),
                false => Ok(Answer::Kernel),
            };
        };
        let mut bytes = vec![0; (length as u32 as usize).min(ADDRESS_MAX)];
        target.read_exact(&mut bytes, address)?;
        let [low, high, path @ ..] = bytes.as_slice() else { return Err(Errno::INVAL) };
        if i32::from(u16::from_ne_bytes([*low, *high])) != libc::AF_UNIX {
            return Err(Errno::INVAL);
        }
        let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
        let path = &path[..end];
        if path.is_empty() {
            // Names that are not files are the container's.
            return Err(if is_bind { Errno::ACCESS } else { Errno::CONNREFUSED });
        }
        let path = self.absolute(target, libc::AT_FDCWD, path.to_vec())?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
        let status = status.map_err(|_| Errno::BADF)?;
        let flags = status.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        let flags = flags.ok_or(Errno::BADF)?;
        let kinds = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, socket_type, kinds, None)?;
        if is_bind {
            self.bind(target, &socket, &path)?;
        } else {
            let Found::File(file, stat) = self.find(target, &path, true)? else {
                return Err(Errno::CONNREFUSED);
            };
            if kind(&stat) != FileType::Socket {
                return Err(Errno::CONNREFUSED);
            }
            let server = SocketAddrUnix::new(link(&file))?;
            match rustix::net::connect(&socket, &server) {
                // The server has as many connections waiting as it wants: so does the caller.
                Err(Errno::AGAIN) if flags & libc::O_NONBLOCK == 0 => {
                    return self.helpers.answer(self.proof, target, || {
                        rustix::io::ioctl_fionbio(&socket, false)?;
                        rustix::net::connect(&socket, &server)?;
                        place(target, &socket, number, flags)?;
                        Ok(Answer::Value(0))
                    });
                }
                connected => connected?,
            }
        }
        place(target, &socket, number, flags)?;
        if let Some(inode) = inode {
            self.sockets.remove(&inode);
        }
        Ok(Answer::Value(0))
    }

    fn bind(&mut self, target: Target<'_>, socket: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
        let in_use = |error| if error == Errno::EXIST { Errno::ADDRINUSE } else { error };
        let (parent, name) = self.parent(path).map_err(in_use)?;
        self.check_new(&parent, name).map_err(in_use)?;
        let mode = 0o777 & !target.status()?.umask;
        let address = SocketAddrUnix::new(name)?;
        // A path of the directory would leave a long name no room.
        rustix::process::fchdir(&parent)?;
        let bound = rustix::net::bind(socket, &address);
        if rustix::process::chdir("/proc").is_err() {
            // The keeper reads its own paths from there: in a directory of the step it must not.
            process::exit_now(1);
        }
        bound?;
        rustix::net::listen(socket, WAITING)?;
        let made = rustix::fs::openat(&parent, name, HELD | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = rustix::fs::fstat(&made)?;
        if kind(&stat) == FileType::Socket {
            owner::set_mode_linked(&link(&made), FileType::Socket, mode)?;
            self.give_to_caller(target, &parent, &made, name)?;
        }
        Ok(())
    }
}

/// Puts a socket where the caller has the one that stood in for it, with the flags of that.
fn place(target: Target<'_>, socket: &OwnedFd, number: u32, flags: i32) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(socket, flags & libc::O_NONBLOCK != 0)?;
    let at = Some((number, flags & libc::O_CLOEXEC != 0));
    notify::add(target.listener, target.call, socket.as_fd(), at)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(())
}
