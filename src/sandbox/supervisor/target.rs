//! The target: the process that made a call, as seccomp_unotify(2) names it. Its memory, its
//! rights, and what its paths lead to.

use std::fs::File;
use std::io::{IoSliceMut, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::super::caps::{FILES, MKNOD};
use crate::layer::owner;
use crate::sys::notify::{self, Call};
use crate::sys::process::FsIds;

/// Who made a call.
#[derive(Clone, Copy)]
pub(in super::super) struct Target<'a> {
    pub listener: BorrowedFd<'a>,
    pub call: &'a Call,
    /// Which capabilities its root has in name, where it has none.
    pub powers: Option<u64>,
}

/// How a call names a file.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Name {
    /// Descriptor that a relative path starts from.
    pub directory: i32,
    /// Address of the path; `None` for the descriptor itself.
    pub path: Option<u64>,
    /// `AT_SYMLINK_NOFOLLOW` and `AT_EMPTY_PATH`.
    pub flags: i32,
}

/// Where a call's path starts and how it goes on.
pub(in super::super) struct Location {
    /// `None` for an absolute path, which starts at this thread's root.
    directory: Option<OwnedFd>,
    path: Vec<u8>,
    flags: i32,
}

/// What the kernel knows of a caller, beside its memory.
pub(in super::super) struct Status {
    /// Ids that it makes files with.
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
}

impl Target<'_> {
    /// Says that the call still waits. All that was opened before by the caller's number is then
    /// the caller's, as no other can have had its number in the meantime.
    ///
    /// # Errors
    ///
    /// `ESRCH` where it was given up.
    pub(in super::super) fn check(self) -> Result<(), Errno> {
        if notify::is_waiting(self.listener, self.call) { Ok(()) } else { Err(Errno::SRCH) }
    }

    /// Says whether a number of an argument is the caller's own: zero, or that of its thread or its
    /// process, which no other can get while the call waits.
    pub(in super::super) fn is_itself(self, number: u64) -> bool {
        let number = number as u32;
        if number == 0 || number == self.call.pid {
            return true;
        }
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.call.pid));
        let text = text.unwrap_or_default();
        let group = text.lines().find_map(|line| line.strip_prefix("Tgid:"));
        group.and_then(|group| group.trim().parse().ok()) == Some(number) && self.check().is_ok()
    }

    /// The same, and the number of another thread of its process, which may end in the meantime: for
    /// calls that do no harm to the process that then has its number.
    pub(in super::super) fn is_of_its_process(self, number: u64) -> bool {
        let thread = format!("/proc/{}/task/{}", self.call.pid, number as u32);
        self.is_itself(number)
            || rustix::fs::access(thread, rustix::fs::Access::EXISTS).is_ok()
                && self.check().is_ok()
    }

    /// Returns which capabilities have effect for it, in its own user namespace.
    pub(in super::super) fn capabilities(self) -> Result<u64, Errno> {
        if let Some(powers) = self.powers {
            return Ok(powers);
        }
        let pid = rustix::process::Pid::from_raw(self.call.pid as i32).ok_or(Errno::SRCH)?;
        Ok(rustix::thread::capabilities(Some(pid))?.effective.bits())
    }

    pub(in super::super) fn status(self) -> Result<Status, Errno> {
        let mut text = String::new();
        let path = format!("{}/status", self.call.pid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        File::from(file).read_to_string(&mut text).map_err(|_| Errno::SRCH)?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        // Real, effective, saved, and that for files.
        let id = |name| field(name)?.split_ascii_whitespace().nth(3)?.parse().ok();
        let umask = field("Umask:").and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
        Ok(Status {
            uid: id("Uid:").ok_or(Errno::SRCH)?,
            gid: id("Gid:").ok_or(Errno::SRCH)?,
            umask: umask.ok_or(Errno::SRCH)?,
        })
    }

    /// Stands where the caller stands: its root becomes that of this thread.
    ///
    /// # Errors
    ///
    /// `EFAULT`, `EBADF`, `ENAMETOOLONG` as any call; `ESRCH` where it was given up.
    pub(in super::super) fn place(self, name: Name) -> Result<Location, Errno> {
        let pid = self.call.pid;
        let mut path = name.path.map_or(Ok(Vec::new()), |address| self.text(address))?;
        let mut directory = name.directory;
        if let Some(number) = own_descriptor(&path).filter(|_| name.is_followed()) {
            (path, directory) = (Vec::new(), number);
        } else if path.is_empty() && name.path.is_some() && name.flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::NOENT);
        }
        let directory = match (path.first(), directory) {
            (Some(b'/'), _) => None,
            (_, libc::AT_FDCWD) => Some(format!("{pid}/cwd")),
            (_, number) => Some(format!("{pid}/fd/{number}")),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let open = |name| rustix::fs::openat(CWD, name, flags, Mode::empty());
        let directory = directory.map(open).transpose().map_err(|error| match error {
            Errno::NOENT => Errno::BADF,
            error => error,
        })?;
        rustix::process::chroot(format!("{pid}/root"))?;
        self.check()?;
        Ok(Location { directory, path, flags: name.flags })
    }

    /// Takes the caller's rights about files, as long as the guard lives: none where this thread
    /// has just those already.
    pub(in super::super) fn act(self) -> Result<Option<FsIds>, Errno> {
        let kept = self.capabilities()? & FILES;
        // There is one id; all that a caller can lack is a capability.
        if owner::is_recorded() && kept | MKNOD == FILES {
            return Ok(None);
        }
        let Status { uid, gid, .. } = self.status()?;
        self.check()?;
        let acting = FsIds::become_user_with(uid, gid, CapabilitySet::from_bits_retain(kept));
        acting.map(Some).map_err(|_| Errno::PERM)
    }

    /// Reads out of its memory; less where that ends. By its number, which may be another's by then:
    /// what was read counts only once [`check`](Self::check) says that it waits still.
    fn read(self, bytes: &mut [u8], address: u64) -> Result<usize, Errno> {
        let pid = nix::unistd::Pid::from_raw(self.call.pid as i32);
        let base = usize::try_from(address).map_err(|_| Errno::FAULT)?;
        let remote = [RemoteIoVec { base, len: bytes.len() }];
        let read = process_vm_readv(pid, &mut [IoSliceMut::new(bytes)], &remote);
        read.map_err(|_| Errno::FAULT)
    }

    /// Reads all of it.
    pub(in super::super) fn read_exact(self, bytes: &mut [u8], address: u64) -> Result<(), Errno> {
        let read = self.read(bytes, address)?;
        self.check()?;
        if read == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads a path.
    pub(in super::super) fn text(self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut piece = [0; 256];
        while text.len() < libc::PATH_MAX as usize {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            // Up to the end of a page: the next may not be there.
            let length = piece.len().min(4096 - (at % 4096) as usize);
            let read = self.read(&mut piece[..length], at)?;
            if read == 0 {
                return Err(Errno::FAULT);
            }
            if let Some(end) = piece[..read].iter().position(|&byte| byte == 0) {
                text.extend(&piece[..end]);
                self.check()?;
                return Ok(text);
            }
            text.extend(&piece[..read]);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes into its memory: into the one that was opened while it waited, should its number be
    /// another's by then.
    pub(in super::super) fn write(self, bytes: &[u8], address: u64) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let memory = format!("{}/mem", self.call.pid);
        let memory = rustix::fs::openat(CWD, memory, flags, Mode::empty())?;
        self.check()?;
        File::from(memory).write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }
}

impl Name {
    fn is_followed(self) -> bool {
        self.flags & libc::AT_SYMLINK_NOFOLLOW == 0
    }
}

/// Returns which descriptor of the caller a path of its `/proc` means: that directory is another
/// one for us.
fn own_descriptor(path: &[u8]) -> Option<i32> {
    let number = path.strip_prefix(b"/proc/self/fd/").or_else(|| path.strip_prefix(b"/dev/fd/"))?;
    std::str::from_utf8(number).ok()?.parse().ok().filter(|&number| number >= 0)
}

impl Location {
    /// Opens what is there, without any right to it.
    pub(in super::super) fn file(&self) -> Result<OwnedFd, Errno> {
        if self.path.is_empty() {
            let directory = self.directory.as_ref().ok_or(Errno::NOENT)?;
            return rustix::io::fcntl_dupfd_cloexec(directory, 0);
        }
        let follow = self.flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        self.open(&self.path, if follow { OFlags::empty() } else { OFlags::NOFOLLOW })
    }

    /// Opens the directory in which a new name is to be, and returns that name.
    ///
    /// # Errors
    ///
    /// `EEXIST` where nothing new can have such a name.
    pub(in super::super) fn parent(&self) -> Result<(OwnedFd, &[u8]), Errno> {
        let slash = self.path.iter().rposition(|&byte| byte == b'/');
        let (directory, name) = match slash {
            Some(at) => (&self.path[..=at], &self.path[at + 1..]),
            None => (&b"."[..], self.path.as_slice()),
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::EXIST);
        }
        Ok((self.open(directory, OFlags::DIRECTORY)?, name))
    }

    /// Takes slashes away that say no more than that a directory is meant.
    pub(in super::super) fn trim(&mut self) {
        while self.path.len() > 1 && self.path.ends_with(b"/") {
            self.path.pop();
        }
    }

    /// Opens a path without following what only looks like a link: it could lead out of the root.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let from = self.directory.as_ref().map_or(CWD, |directory| directory.as_fd());
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(from, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
    }
}

#[cfg(test)]
mod tests {
    use super::own_descriptor;

    #[test]
    fn own_descriptors_are_known_by_their_names() {
        for (path, number) in [
            (&b"/proc/self/fd/7"[..], Some(7)),
            (b"/dev/fd/0", Some(0)),
            (b"/proc/self/fd/-100", None),
            (b"/proc/self/fd/7/x", None),
            (b"/proc/1/fd/7", None),
            (b"7", None),
        ] {
            assert_eq!(own_descriptor(path), number);
        }
    }
}
