//! Calls that look at files, and open them.

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, OwnedFd};

use super::super::supervisor::target::{Name, Target};
use super::World;
use super::paths::{Found, HELD, is_proc, kind, link};
use super::procfs::file_of;
use crate::layer::owner;
use crate::sys::notify::Answer;
use crate::sys::stat::{stat_bytes, statfs_bytes, statx_bytes};

/// What a call about a file fills in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Plain,
    Extended { flags: i32, mask: u32 },
}

/// Most terminals that are held.
const TERMINALS_MAX: usize = 64;

/// Flags of open(2) that mean something to us; `openat2` refuses those that it does not know.
const FLAGS: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::NOATIME)
    .union(OFlags::DIRECT)
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::TRUNC)
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::TMPFILE);

impl World {
    pub(super) fn stat(
        &mut self,
        target: Target<'_>,
        name: Name,
        form: Form,
        buffer: u64,
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let (file, mut stat) = Self::held(found)?;
        self.show(&file, &mut stat);
        let owner = (stat.st_uid, stat.st_gid);
        let bytes = match form {
            Form::Plain => stat_bytes(file.as_fd(), owner, Some(stat.st_mode))?,
            Form::Extended { flags, mask } => {
                statx_bytes(file.as_fd(), flags, mask, owner, Some(stat.st_mode))?
            }
        };
        target.write(&bytes, buffer)?;
        Ok(Answer::Value(0))
    }

    /// Puts the owner and the mode of a file into what is known of it.
    pub(super) fn show(&self, file: &OwnedFd, stat: &mut Stat) {
        match kind(stat) {
            FileType::RegularFile | FileType::Directory => owner::amend_linked(&link(file), stat),
            FileType::Symlink | FileType::Fifo | FileType::Socket => {
                owner::amend_linked(&link(file), stat);
                if let Ok((parent, name)) = self.home(file) {
                    owner::amend(parent.as_fd(), &name, stat);
                }
            }
            _ => (stat.st_uid, stat.st_gid) = (0, 0),
        }
    }

    pub(super) fn access(
        &mut self,
        target: Target<'_>,
        name: Name,
        wanted: i32,
    ) -> Result<Answer, Errno> {
        const EXECUTE: i32 = 1;
        const WRITE: i32 = 2;
        let found = self.named(target, name)?;
        let is_writable = match &found {
            Found::Proc(_, path) => Self::is_writable(path),
            Found::Text(..) => false,
            _ => true,
        };
        let (file, mut stat) = Self::held(found)?;
        self.show(&file, &mut stat);
        let is_program = kind(&stat).is_dir() || stat.st_mode & 0o111 != 0;
        if wanted & EXECUTE != 0 && !is_program || wanted & WRITE != 0 && !is_writable {
            return Err(Errno::ACCESS);
        }
        let can_refuse =
            matches!(kind(&stat), FileType::RegularFile | FileType::Directory | FileType::Symlink);
        if wanted & WRITE != 0 && can_refuse {
            self.check_writable(&file)?;
        }
        Ok(Answer::Value(0))
    }

    pub(super) fn readlink(
        &mut self,
        target: Target<'_>,
        name: Name,
        buffer: u64,
        size: u64,
    ) -> Result<Answer, Errno> {
        if size as i32 <= 0 {
            return Err(Errno::INVAL);
        }
        let mut text = match self.named(target, name)? {
            Found::Link(_, text) => text,
            Found::File(file, stat) | Found::Open(file, stat) if kind(&stat).is_symlink() => {
                rustix::fs::readlinkat(&file, "", Vec::new())?.into_bytes()
            }
            _ => return Err(Errno::INVAL),
        };
        text.truncate(size as u32 as usize);
        target.write(&text, buffer)?;
        Ok(Answer::Value(text.len() as i64))
    }

    pub(super) fn getcwd(
        &mut self,
        target: Target<'_>,
        buffer: u64,
        size: u64,
    ) -> Result<Answer, Errno> {
        let mut path = self.directory(target, libc::AT_FDCWD)?;
        if path.ends_with(b" (deleted)") && self.find(target, &path, true).is_err() {
            return Err(Errno::NOENT);
        }
        path.push(0);
        if (path.len() as u64) > size {
            return Err(Errno::RANGE);
        }
        target.write(&path, buffer)?;
        Ok(Answer::Value(path.len() as i64))
    }

    pub(super) fn statfs(
        &mut self,
        target: Target<'_>,
        name: Name,
        buffer: u64,
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let (file, _) = Self::held(found)?;
        let is_read_only = self.is_read_only(&file)?;
        target.write(&statfs_bytes(file.as_fd(), is_read_only)?, buffer)?;
        Ok(Answer::Value(0))
    }

    /// Opens a file, or makes one.
    pub(super) fn open(
        &mut self,
        target: Target<'_>,
        name: Name,
        flags: i32,
        mode: u32,
    ) -> Result<Answer, Errno> {
        let mut given = OFlags::from_bits_retain(flags as u32);
        let holds = given.contains(OFlags::PATH);
        if holds {
            // The kernel passes no descriptor on that only holds a file: one that reads it stands in.
            let kept = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            given = given & kept & !OFlags::PATH | OFlags::NONBLOCK;
        }
        let closes = given.contains(OFlags::CLOEXEC);
        let flags = given & FLAGS;
        let address = name.path.ok_or(Errno::FAULT)?;
        let text = target.text(address)?;
        let makes = flags.contains(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
        if text == b"." && !makes {
            let found = self.current(target, name.directory)?;
            return self.reopen(target, found, flags, closes);
        }
        let mut path = self.absolute(target, name.directory, text)?;
        if flags.contains(OFlags::TMPFILE) {
            return self.nameless(target, &path, flags, mode, closes);
        }
        if !flags.contains(OFlags::CREATE) {
            let found = self.find(target, &path, !flags.contains(OFlags::NOFOLLOW))?;
            return self.reopen(target, found, flags, closes).map_err(|error| match error {
                // A link itself can be held by none. It is what libraries say of its mode.
                Errno::LOOP if holds => Errno::OPNOTSUPP,
                error => error,
            });
        }
        let is_new = flags.contains(OFlags::EXCL);
        for _ in 0..64 {
            if !is_new {
                match self.find(target, &path, !flags.contains(OFlags::NOFOLLOW)) {
                    Ok(found) => return self.reopen(target, found, flags, closes),
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            match self.make_file(target, &path, flags, mode, closes) {
                Err(Errno::EXIST) if !is_new && !flags.contains(OFlags::NOFOLLOW) => {
                    // A link to what is not there, unless another process was faster.
                    if let Ok(Found::File(file, stat)) = self.find(target, &path, false)
                        && kind(&stat).is_symlink()
                    {
                        let text = rustix::fs::readlinkat(&file, "", Vec::new())?.into_bytes();
                        path = match text.starts_with(b"/") {
                            true => text,
                            false => {
                                let cut = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                                [&path[..=cut], text.as_slice()].concat()
                            }
                        };
                    }
                }
                result => return result,
            }
        }
        Err(Errno::LOOP)
    }

    fn make_file(
        &mut self,
        target: Target<'_>,
        path: &[u8],
        flags: OFlags,
        mode: u32,
        closes: bool,
    ) -> Result<Answer, Errno> {
        if path.ends_with(b"/") {
            return Err(Errno::ISDIR);
        }
        let (parent, name) = self.parent(path)?;
        self.check_new(&parent, name)?;
        let mode = mode & 0o7777 & !target.status()?.umask;
        let made = owner::mode_to_make(FileType::RegularFile, mode);
        let how = flags & !(OFlags::TRUNC | OFlags::DIRECTORY)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, how, Mode::from_raw_mode(made))?;
        if made != mode {
            owner::set_mode_open(&file, mode)?;
        }
        self.give_to_caller(target, &parent, &file, name)?;
        Ok(Answer::Descriptor(file, closes))
    }

    /// Makes a file without a name.
    fn nameless(
        &mut self,
        target: Target<'_>,
        path: &[u8],
        flags: OFlags,
        mode: u32,
        closes: bool,
    ) -> Result<Answer, Errno> {
        let Found::File(directory, stat) = self.find(target, path, true)? else {
            return Err(Errno::OPNOTSUPP);
        };
        if !kind(&stat).is_dir() {
            return Err(Errno::NOTDIR);
        }
        self.check_writable(&directory)?;
        let mode = mode & 0o7777 & !target.status()?.umask;
        let made = owner::mode_to_make(FileType::RegularFile, mode);
        let how = flags & !(OFlags::CREATE | OFlags::NOFOLLOW) | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, ".", how, Mode::from_raw_mode(made))?;
        if made != mode {
            owner::set_mode_open(&file, mode)?;
        }
        self.give_to_caller(target, &directory, &file, b"")?;
        Ok(Answer::Descriptor(file, closes))
    }

    /// Opens what was found with a call's flags.
    fn reopen(
        &mut self,
        target: Target<'_>,
        found: Found,
        flags: OFlags,
        closes: bool,
    ) -> Result<Answer, Errno> {
        let again = flags & !(OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW)
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        let is_wanted = flags.contains(OFlags::CREATE);
        let open = |path: &str| rustix::fs::open(path, again, Mode::empty());
        // What was judged is what is opened: by no number or name that may be another's by now.
        let (held, stat) = match found {
            Found::File(file, stat) => (file, stat),
            Found::Open(file, stat) => {
                let text = rustix::fs::readlink(link(&file), Vec::new())?;
                if let Ok(text) = text.to_str()
                    && is_proc(text.as_bytes())
                    && writes
                    && !Self::is_writable(text)
                {
                    return Err(Errno::ACCESS);
                }
                (file, stat)
            }
            Found::Device(name) => {
                let file = open(&format!("/dev/{name}"))?;
                if name == "ptmx" {
                    self.hold_terminal(&file)?;
                }
                return Ok(Answer::Descriptor(file, closes));
            }
            Found::Proc(_, path) if writes && !Self::is_writable(&path) => {
                return Err(Errno::ACCESS);
            }
            Found::Proc(file, _) => {
                return Ok(Answer::Descriptor(open(&link(&file))?, closes));
            }
            Found::Text(file, text) => {
                return match (writes, flags.contains(OFlags::DIRECTORY)) {
                    (true, _) => Err(Errno::ACCESS),
                    (_, true) => Err(Errno::NOTDIR),
                    _ => Ok(Answer::Descriptor(file_of(&self.content(text, &file)?)?, closes)),
                };
            }
            Found::Link(..) => return Err(Errno::LOOP),
        };
        let kind = kind(&stat);
        if flags.contains(OFlags::DIRECTORY) && !kind.is_dir() {
            return Err(Errno::NOTDIR);
        }
        match kind {
            FileType::Symlink => Err(Errno::LOOP),
            FileType::Directory if writes || is_wanted => Err(Errno::ISDIR),
            FileType::RegularFile if writes && self.is_read_only(&held)? => Err(Errno::ROFS),
            FileType::Fifo if !flags.contains(OFlags::NONBLOCK) => {
                self.open_waiting(target, &held, again, closes)
            }
            _ => Ok(Answer::Descriptor(open(&link(&held))?, closes)),
        }
    }

    /// Holds the other side of a terminal that is being made.
    fn hold_terminal(&mut self, file: &OwnedFd) -> Result<(), Errno> {
        self.hold(&rustix::pty::ptsname(file, Vec::new())?)
    }

    pub(super) fn hold(&mut self, path: &std::ffi::CStr) -> Result<(), Errno> {
        let name = path.to_str().ok().and_then(|path| path.strip_prefix("/dev/pts/"));
        let number = name.and_then(|name| name.parse().ok()).ok_or(Errno::NXIO)?;
        if self.terminals.len() == TERMINALS_MAX {
            self.terminals.pop_first();
        }
        let held = rustix::fs::open(path, HELD | OFlags::NOFOLLOW, Mode::empty())?;
        self.terminals.insert(number, held);
        Ok(())
    }

    /// Opens a pipe, which waits for the other end: in a helper.
    fn open_waiting(
        &mut self,
        target: Target<'_>,
        held: &OwnedFd,
        flags: OFlags,
        closes: bool,
    ) -> Result<Answer, Errno> {
        self.helpers.answer(self.proof, target, || {
            let file = rustix::fs::open(link(held), flags, Mode::empty())?;
            Ok(Answer::Descriptor(file, closes))
        })
    }

    pub(super) fn get_attribute(
        &mut self,
        target: Target<'_>,
        name: Name,
        [attribute, buffer, size]: [u64; 3],
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let (file, _) = self.own(found).map_err(|_| Errno::OPNOTSUPP)?;
        let attribute = Self::attribute(target, attribute)?;
        owner::settle_linked(&link(&file))?;
        let mut value = vec![0; 65_536];
        let length = rustix::fs::getxattr(link(&file), attribute, value.as_mut_slice())?;
        value.truncate(length);
        Self::fill(target, &value, buffer, size)
    }

    /// Reads the name of an attribute; those of ours are not there, and the kernel's own are of no
    /// file here.
    pub(super) fn attribute(target: Target<'_>, address: u64) -> Result<Vec<u8>, Errno> {
        let name = target.text(address)?;
        if owner::is_attribute_of_ours(&name) {
            return Err(Errno::NODATA);
        }
        if name.starts_with(b"system.") {
            return Err(Errno::OPNOTSUPP);
        }
        if name == b"security.capability" {
            return Ok(owner::capability_attribute().as_bytes().to_vec());
        }
        Ok(name)
    }

    pub(super) fn list_attributes(
        &mut self,
        target: Target<'_>,
        name: Name,
        buffer: u64,
        size: u64,
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let Ok((file, _)) = self.own(found) else { return Ok(Answer::Value(0)) };
        owner::settle_linked(&link(&file))?;
        let mut names = vec![0; 65_536];
        let length = rustix::fs::listxattr(link(&file), names.as_mut_slice())?;
        names.truncate(length);
        let mut shown = Vec::new();
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let name: &[u8] = match name {
                name if name == owner::capability_attribute().as_bytes() => b"security.capability",
                name if owner::is_attribute_of_ours(name) => continue,
                name if name.starts_with(b"system.") => continue,
                name => name,
            };
            shown.extend_from_slice(name);
            shown.push(0);
        }
        Self::fill(target, &shown, buffer, size)
    }

    /// Writes a value into a buffer of a size, or says how long it is.
    fn fill(target: Target<'_>, value: &[u8], buffer: u64, size: u64) -> Result<Answer, Errno> {
        if size != 0 {
            if size < value.len() as u64 {
                return Err(Errno::RANGE);
            }
            target.write(value, buffer)?;
        }
        Ok(Answer::Value(value.len() as i64))
    }
}
