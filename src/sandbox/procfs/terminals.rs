//! Terminals that a command makes: `/dev/ptmx` and `/dev/pts` of the container, of which it has those
//! that it opened itself.
//!
//! A terminal is held from its beginning on, without any right to it, so that its number means it and
//! no later one: what is held opens as long as the terminal is there, and never again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;

use super::object::Object;
use super::{Caller, Change, HELD, Procfs};

/// Most terminals of a command at one time, each of which takes a descriptor.
const TERMINALS_MAX: usize = 256;

/// The device that makes terminals.
const MULTIPLEXER: &str = "/dev/ptmx";

/// Terminals of a command.
#[derive(Debug, Default)]
pub(super) struct Terminals {
    /// By their numbers.
    made: BTreeMap<u32, OwnedFd>,
    /// Mode and owners of the multiplexer before any was made. The command has it open, and can
    /// change them.
    before: Option<(u32, u32, u32)>,
}

impl Drop for Terminals {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        if multiplexer() != Some(before) {
            let (mode, uid, gid) = before;
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(CWD, MULTIPLEXER, uid, gid, AtFlags::empty()).ok();
            rustix::fs::chmodat(CWD, MULTIPLEXER, Mode::from(mode), AtFlags::empty()).ok();
        }
    }
}

/// Returns mode and owners of the multiplexer.
fn multiplexer() -> Option<(u32, u32, u32)> {
    let stat = rustix::fs::stat(MULTIPLEXER).ok()?;
    Some((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid))
}

/// The first of the numbers of devices that are the far sides of terminals; there are eight.
const FAR_SIDES: std::ops::Range<u32> = 136..144;

impl Terminals {
    /// Notes a terminal by its near side.
    fn add(&mut self, near: BorrowedFd<'_>) -> Result<(), Errno> {
        self.made.retain(|_, held| is_there(held));
        if self.made.len() >= TERMINALS_MAX {
            return Err(Errno::NOSPC);
        }
        let path = rustix::pty::ptsname(near, Vec::new())?;
        let number = path.to_str().ok().and_then(|path| path.strip_prefix("/dev/pts/"));
        let number = number.and_then(|number| number.parse().ok()).ok_or(Errno::NXIO)?;
        let held = openat(CWD, path, HELD, Mode::empty())?;
        let stat = rustix::fs::fstat(&held)?;
        let is_terminal = FileType::from_raw_mode(stat.st_mode).is_char_device()
            && FAR_SIDES.contains(&rustix::fs::major(stat.st_rdev));
        if !is_terminal {
            return Err(Errno::NXIO);
        }
        self.made.insert(number, held);
        Ok(())
    }

    /// Returns the terminal of this name, if it is still there.
    fn get(&self, names: &[Vec<u8>]) -> Result<&OwnedFd, Errno> {
        let [name] = names else { return Err(Errno::NOENT) };
        let number = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        let held = number.and_then(|number: u32| self.made.get(&number));
        held.filter(|held| is_there(held)).ok_or(Errno::NOENT)
    }
}

/// Says whether a terminal has its name still.
fn is_there(held: &OwnedFd) -> bool {
    rustix::fs::fstat(held).is_ok_and(|stat| stat.st_nlink > 0)
}

impl Procfs {
    /// Makes a terminal for the caller and opens its near side.
    ///
    /// # Errors
    ///
    /// What opening `/dev/ptmx` says.
    pub(in super::super) fn make_terminal(
        &mut self,
        caller: &Caller,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let kept = OFlags::RWMODE | OFlags::NONBLOCK;
        let flags = flags & kept | OFlags::NOCTTY | OFlags::CLOEXEC;
        if self.terminals.before.is_none() {
            self.terminals.before = multiplexer();
        }
        let near = {
            let _acting = Self::act(caller)?;
            openat(CWD, MULTIPLEXER, flags, Mode::empty())?
        };
        self.terminals.add(near.as_fd())?;
        Ok(near)
    }

    /// Notes a terminal that was made for the command.
    ///
    /// # Errors
    ///
    /// What looking at it says.
    pub(in super::super) fn add_terminal(&mut self, near: BorrowedFd<'_>) -> Result<(), Errno> {
        self.terminals.add(near)
    }

    /// Opens the far side of a terminal of the command.
    ///
    /// # Errors
    ///
    /// `ENOENT` for any other.
    pub(in super::super) fn open_terminal(
        &self,
        names: &[Vec<u8>],
        caller: &Caller,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let held = self.hold_terminal(names)?;
        let name = names.first().map(Vec::as_slice).unwrap_or_default();
        Object::new(self.proc.as_fd(), held, false, name).open(caller, flags)
    }

    /// Changes the owner, the mode or the times of a terminal of the command.
    ///
    /// # Errors
    ///
    /// `ENOENT` for any other.
    pub(in super::super) fn change_terminal(
        &self,
        names: &[Vec<u8>],
        caller: &Caller,
        change: Change,
    ) -> Result<(), Errno> {
        let held = self.hold_terminal(names)?;
        Object::new(self.proc.as_fd(), held, false, b"").change(caller, change)
    }

    /// Holds the far side of a terminal of the command, to look at it.
    ///
    /// # Errors
    ///
    /// `ENOENT` for any other.
    pub(in super::super) fn hold_terminal(&self, names: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(self.terminals.get(names)?, 0)
    }

    /// Holds the file system of terminals, to ask which one it is.
    ///
    /// # Errors
    ///
    /// What looking at it says.
    pub(in super::super) fn hold_terminals() -> Result<OwnedFd, Errno> {
        openat(CWD, "/dev/pts", HELD, Mode::empty())
    }

    /// Holds the device that makes terminals, to look at it.
    ///
    /// # Errors
    ///
    /// What looking at it says.
    pub(in super::super) fn hold_multiplexer() -> Result<OwnedFd, Errno> {
        openat(CWD, MULTIPLEXER, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }
}
