//! Calls that change files by their names, which the keeper makes itself, and writes down whose what
//! is made is.

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use super::super::caps::{CHOWN, FOWNER, FSETID, SETFCAP};
use super::super::supervisor::credentials::Identity;
use super::super::supervisor::target::{Name, Target};
use super::World;
use super::paths::{Found, HELD, is_nameless, kind, link};
use crate::layer::owner;
use crate::sys::notify::Answer;

const DONE: Result<Answer, Errno> = Ok(Answer::Value(0));

/// Bits of a mode that make who executes a file another user or group.
const SET_USER: u32 = libc::S_ISUID;
const SET_GROUP: u32 = libc::S_ISGID;

/// What can have no attribute of its own and is about to get a name: the directory, the name, its inode
/// and its owner.
type Coming<'a> = (&'a OwnedFd, &'a [u8], u64, (u32, u32));

impl World {
    /// Writes down whose something is that was just made.
    pub(super) fn give_to_caller(
        &mut self,
        target: Target<'_>,
        parent: &OwnedFd,
        made: &OwnedFd,
        name: &[u8],
    ) -> Result<(), Errno> {
        let identity = self.credentials.noted(target.call.pid as i32);
        let mut above = rustix::fs::fstat(parent)?;
        owner::amend_linked(&link(parent), &mut above);
        let passes_group = above.st_mode & SET_GROUP != 0;
        let group = if passes_group { above.st_gid } else { identity.group.file };
        let owner = (identity.user.file, group);
        let stat = rustix::fs::fstat(made)?;
        match kind(&stat) {
            FileType::RegularFile | FileType::Directory if owner == (0, 0) => Ok(()),
            kind @ (FileType::RegularFile | FileType::Directory) => {
                owner::write(&link(made), kind, owner)
            }
            // A name may have been another's before.
            _ => owner::set(parent.as_fd(), name, owner.0, owner.1),
        }
    }

    fn path_of_new(
        &self,
        target: Target<'_>,
        name: Name,
    ) -> Result<(OwnedFd, Vec<u8>, bool), Errno> {
        let path = self.path(target, name)?;
        let (parent, name) = self.parent(&path)?;
        self.check_new(&parent, name)?;
        Ok((parent, name.to_vec(), path.ends_with(b"/")))
    }

    pub(super) fn mkdir(
        &mut self,
        target: Target<'_>,
        name: Name,
        mode: u32,
    ) -> Result<Answer, Errno> {
        let (parent, name, _) = self.path_of_new(target, name)?;
        let mode = mode & 0o1777 & !target.status()?.umask;
        let made = owner::mode_to_make(FileType::Directory, mode);
        rustix::fs::mkdirat(&parent, name.as_slice(), Mode::from_raw_mode(made))?;
        let how = HELD | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = rustix::fs::openat(&parent, name.as_slice(), how, Mode::empty())?;
        // The kernel passes the set-group-id bit on.
        let bits = rustix::fs::fstat(&directory)?.st_mode & SET_GROUP;
        if made != mode {
            owner::set_mode_linked(&link(&directory), FileType::Directory, mode | bits)?;
        }
        self.give_to_caller(target, &parent, &directory, &name)?;
        DONE
    }

    pub(super) fn mknod(
        &mut self,
        target: Target<'_>,
        name: Name,
        mode: u32,
        device: u64,
    ) -> Result<Answer, Errno> {
        let (parent, name, is_directory) = self.path_of_new(target, name)?;
        let node = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileType::RegularFile,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR | libc::S_IFBLK => return Err(Errno::PERM),
            _ => return Err(Errno::INVAL),
        };
        if is_directory {
            return Err(Errno::NOENT);
        }
        let mode = mode & 0o7777 & !target.status()?.umask;
        let made = owner::mode_to_make(node, mode);
        let bits = Mode::from_raw_mode(made);
        rustix::fs::mknodat(&parent, name.as_slice(), node, bits, device)?;
        let file =
            rustix::fs::openat(&parent, name.as_slice(), HELD | OFlags::NOFOLLOW, Mode::empty())?;
        if made != mode {
            owner::set_mode_linked(&link(&file), node, mode)?;
        }
        self.give_or_remove(target, &parent, &file, &name)
    }

    pub(super) fn symlink(
        &mut self,
        target: Target<'_>,
        text: u64,
        name: Name,
    ) -> Result<Answer, Errno> {
        let text = target.text(text)?;
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        let (parent, name, is_directory) = self.path_of_new(target, name)?;
        if is_directory {
            return Err(Errno::NOENT);
        }
        rustix::fs::symlinkat(text.as_slice(), &parent, name.as_slice())?;
        let made =
            rustix::fs::openat(&parent, name.as_slice(), HELD | OFlags::NOFOLLOW, Mode::empty())?;
        self.give_or_remove(target, &parent, &made, &name)
    }

    /// Writes down whose something is that was just made, and is not a directory; what has no owner is
    /// not made.
    fn give_or_remove(
        &mut self,
        target: Target<'_>,
        parent: &OwnedFd,
        made: &OwnedFd,
        name: &[u8],
    ) -> Result<Answer, Errno> {
        if let Err(error) = self.give_to_caller(target, parent, made, name) {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            return Err(error);
        }
        DONE
    }

    pub(super) fn link(
        &mut self,
        target: Target<'_>,
        from: Name,
        to: Name,
        follows: bool,
    ) -> Result<Answer, Errno> {
        let flags = if follows { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        let empty = from.flags & libc::AT_EMPTY_PATH;
        let found = self.named(target, Name { flags: flags | empty, ..from })?;
        let (file, stat) = self.own(found)?;
        let (parent, name, _) = self.path_of_new(target, to)?;
        self.check_same_place(&file, &parent)?;
        if kind(&stat).is_dir() || !self.is_in_tree(&file) && stat.st_nlink > 0 {
            return Err(Errno::PERM);
        }
        let owner = self.owner_of_link(&file, &stat);
        let coming = owner.map(|owner| (&parent, name.as_slice(), stat.st_ino, owner));
        let make = || {
            if kind(&stat).is_symlink() {
                // A link of /proc/self/fd would lead further.
                let (home, old) = self.home(&file)?;
                let (old, new) = (old.as_slice(), name.as_slice());
                return rustix::fs::linkat(&home, old, &parent, new, AtFlags::empty());
            }
            let follow = AtFlags::SYMLINK_FOLLOW;
            rustix::fs::linkat(CWD, link(&file), &parent, name.as_slice(), follow)
        };
        Self::with_owners([coming, None], make)?;
        DONE
    }

    /// Returns the owner of what can have no attribute of its own.
    fn owner_of_link(&self, file: &OwnedFd, stat: &Stat) -> Option<(u32, u32)> {
        if matches!(kind(stat), FileType::RegularFile | FileType::Directory) {
            return None;
        }
        let mut stat = *stat;
        self.show(file, &mut stat);
        Some((stat.st_uid, stat.st_gid))
    }

    /// Gives links names, with their owners written down before; if that fails, or the names cannot be
    /// given, nothing has changed.
    fn with_owners(
        coming: [Option<Coming<'_>>; 2],
        name: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut records = Vec::new();
        for (parent, ..) in coming.iter().flatten() {
            records.push((parent, owner::links_of(parent.as_fd())?));
        }
        let write = || {
            for &(parent, name, inode, owner) in coming.iter().flatten() {
                owner::set_coming(parent.as_fd(), name, inode, owner)?;
            }
            name()
        };
        let result = write();
        if result.is_err() {
            for (parent, record) in records {
                let now = owner::links_of(parent.as_fd())?;
                if now != record {
                    owner::put_back_links(parent.as_fd(), &record)?;
                }
            }
        }
        result
    }

    fn kind_at(parent: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
        rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub(super) fn unlink(
        &mut self,
        target: Target<'_>,
        name: Name,
        is_directory: bool,
    ) -> Result<Answer, Errno> {
        let path = self.path(target, name)?;
        let (parent, last) = self.parent(&path).map_err(|error| match error {
            // `.` and `..`.
            Errno::EXIST if path.ends_with(b"..") => Errno::NOTEMPTY,
            Errno::EXIST if path.ends_with(b".") => Errno::INVAL,
            Errno::EXIST => Errno::BUSY,
            error => error,
        })?;
        self.check_name(&parent, last)?;
        if is_directory {
            rustix::fs::unlinkat(&parent, last, AtFlags::REMOVEDIR)?;
            return DONE;
        }
        if path.ends_with(b"/") {
            return Err(Errno::NOTDIR);
        }
        rustix::fs::unlinkat(&parent, last, AtFlags::empty())?;
        DONE
    }

    pub(super) fn rename(
        &mut self,
        target: Target<'_>,
        from: Name,
        to: Name,
        flags: u32,
    ) -> Result<Answer, Errno> {
        let busy = |error| if error == Errno::EXIST { Errno::BUSY } else { error };
        let (from, to) = (self.path(target, from)?, self.path(target, to)?);
        let (old, old_name) = self.parent(&from).map_err(busy)?;
        let (new, new_name) = self.parent(&to).map_err(busy)?;
        self.check_same_place(&old, &new)?;
        self.check_name(&old, old_name)?;
        self.check_name(&new, new_name)?;
        let stat = Self::kind_at(&old, old_name)?;
        if !kind(&stat).is_dir() && (from.ends_with(b"/") || to.ends_with(b"/")) {
            return Err(Errno::NOTDIR);
        }
        let flags = RenameFlags::from_bits_retain(flags);
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let is_plain =
            |stat: &Stat| matches!(kind(stat), FileType::RegularFile | FileType::Directory);
        let owner = |parent: &OwnedFd, name: &[u8], mut stat: Stat| {
            owner::amend(parent.as_fd(), name, &mut stat);
            (stat.st_uid, stat.st_gid)
        };
        let moved =
            (!is_plain(&stat)).then(|| (&new, new_name, stat.st_ino, owner(&old, old_name, stat)));
        let replaced = Self::kind_at(&new, new_name).ok();
        let is_exchange = flags.contains(RenameFlags::EXCHANGE);
        let back = replaced
            .filter(|there| is_exchange && !is_plain(there))
            .map(|there| (&old, old_name, there.st_ino, owner(&new, new_name, there)));
        Self::with_owners([moved, back], || {
            rustix::fs::renameat_with(&old, old_name, &new, new_name, flags)
        })?;
        self.places.renamed();
        DONE
    }

    pub(super) fn chmod(
        &mut self,
        target: Target<'_>,
        name: Name,
        mode: u32,
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let (file, stat) = self.own(found)?;
        self.check_writable(&file)?;
        if kind(&stat).is_symlink() {
            return Err(Errno::OPNOTSUPP);
        }
        let (identity, shown) = self.as_owner(target, &file, &stat)?;
        let mut mode = mode & 0o7777;
        // Of a group that the caller is not in: as the kernel does.
        let me = identity.user.file;
        let is_in_group = identity.may_give((me, !shown.st_gid), (me, shown.st_gid));
        let keeps_bits = is_in_group || me == 0 && self.powers & FSETID != 0;
        if !keeps_bits {
            mode &= !SET_GROUP;
        }
        owner::set_mode_linked(&link(&file), kind(&stat), mode)?;
        DONE
    }

    /// Says that a caller is the owner of a file, or root. Returns who that is, and what is shown of
    /// the file.
    fn as_owner(
        &self,
        target: Target<'_>,
        file: &OwnedFd,
        stat: &Stat,
    ) -> Result<(Rc<Identity>, Stat), Errno> {
        let mut shown = *stat;
        self.show(file, &mut shown);
        let identity = self.identity(target)?;
        let is_root = identity.user.file == 0 && self.powers & FOWNER != 0;
        if !is_root && identity.user.file != shown.st_uid {
            // What has no name has no owner written down.
            let text = rustix::fs::readlink(link(file), Vec::new())?;
            if !is_nameless(text.as_bytes()) {
                return Err(Errno::PERM);
            }
        }
        Ok((identity, shown))
    }

    /// Says that a caller may set or remove an attribute.
    fn may_set_attribute(
        &self,
        target: Target<'_>,
        (file, stat): (&OwnedFd, &Stat),
        attribute: &[u8],
    ) -> Result<(), Errno> {
        if attribute == owner::capability_attribute().as_bytes() {
            let [_, effective, ..] = self.identity(target)?.shown();
            let may = effective == 0 && self.powers & SETFCAP != 0;
            return if may { Ok(()) } else { Err(Errno::PERM) };
        }
        if attribute.starts_with(b"user.") {
            return self.as_owner(target, file, stat).map(drop).map_err(|_| Errno::ACCESS);
        }
        let is_privileged =
            [&b"security."[..], b"trusted."].iter().any(|&p| attribute.starts_with(p));
        Err(if is_privileged { Errno::PERM } else { Errno::OPNOTSUPP })
    }

    /// Returns who a caller is.
    fn identity(&self, target: Target<'_>) -> Result<Rc<Identity>, Errno> {
        let identity = self.credentials.noted(target.call.pid as i32);
        target.check()?;
        Ok(identity)
    }

    pub(super) fn chown(
        &mut self,
        target: Target<'_>,
        name: Name,
        (uid, gid): (u32, u32),
    ) -> Result<Answer, Errno> {
        const KEEP: u32 = u32::MAX;
        let found = self.named(target, name)?;
        let (file, stat) = self.own(found)?;
        self.check_writable(&file)?;
        let mut shown = stat;
        self.show(&file, &mut shown);
        let before = (shown.st_uid, shown.st_gid);
        let or = |id: u32, old: u32| if id == KEEP { old } else { id };
        let after = (or(uid, before.0), or(gid, before.1));
        let identity = self.identity(target)?;
        let may_all = identity.user.file == 0 && self.powers & CHOWN != 0;
        if !may_all && !identity.may_give(before, after) {
            return Err(Errno::PERM);
        }
        let kind = kind(&stat);
        match kind {
            FileType::RegularFile | FileType::Directory => {
                owner::write(&link(&file), kind, after)?;
            }
            _ if stat.st_nlink == 0 || !self.is_in_tree(&file) => {}
            _ => {
                let (parent, name) = self.home(&file)?;
                owner::set(parent.as_fd(), &name, after.0, after.1)?;
                // What is written into the directory leaves no change time here.
                let same = Some(rustix::process::geteuid());
                rustix::fs::chownat(&file, "", same, None, AtFlags::EMPTY_PATH)?;
            }
        }
        if kind == FileType::RegularFile {
            // As the kernel does.
            let mut mode = shown.st_mode & 0o7777 & !SET_USER;
            if mode & libc::S_IXGRP != 0 {
                mode &= !SET_GROUP;
            }
            if mode != shown.st_mode & 0o7777 {
                owner::set_mode_linked(&link(&file), kind, mode)?;
            }
            rustix::fs::removexattr(link(&file), owner::capability_attribute()).ok();
        }
        DONE
    }

    /// Sets times; `None` is now.
    pub(super) fn set_times(
        &mut self,
        target: Target<'_>,
        name: Name,
        times: Option<[Timespec; 2]>,
    ) -> Result<Answer, Errno> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let [last_access, last_modification] = times.unwrap_or([now, now]);
        let omits = |time: Timespec| time.tv_nsec == UTIME_OMIT;
        let found = self.named(target, name)?;
        if omits(last_access) && omits(last_modification) {
            return DONE;
        }
        let (file, _) = match found {
            // Of a device's own place.
            Found::Device(_) => return DONE,
            found => self.own(found)?,
        };
        self.check_writable(&file)?;
        let times = Timestamps { last_access, last_modification };
        rustix::fs::utimensat(&file, "", &times, AtFlags::EMPTY_PATH)?;
        DONE
    }

    pub(super) fn truncate(
        &mut self,
        target: Target<'_>,
        name: Name,
        length: u64,
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let (file, stat) = self.own(found)?;
        match kind(&stat) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        self.check_writable(&file)?;
        let how = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(link(&file), how, Mode::empty())?;
        rustix::fs::ftruncate(&file, length)?;
        DONE
    }

    pub(super) fn set_attribute(
        &mut self,
        target: Target<'_>,
        name: Name,
        [attribute, value, size, flags]: [u64; 4],
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let (file, stat) = self.own(found)?;
        let attribute = match Self::attribute(target, attribute) {
            Err(Errno::NODATA) => return Err(Errno::PERM),
            attribute => attribute?,
        };
        if size > 65_536 {
            return Err(Errno::TOOBIG);
        }
        let mut bytes = vec![0; size as usize];
        target.read_exact(&mut bytes, value)?;
        self.check_writable(&file)?;
        if kind(&stat).is_symlink() {
            return Err(Errno::PERM);
        }
        let is_capability = attribute == owner::capability_attribute().as_bytes();
        if is_capability && !is_of_known_revision(&bytes) {
            return Err(Errno::INVAL);
        }
        self.may_set_attribute(target, (&file, &stat), &attribute)?;
        let flags = XattrFlags::from_bits_retain(flags as u32);
        match is_capability {
            true => owner::set_capability_linked(&link(&file), &bytes, flags)?,
            false => rustix::fs::setxattr(link(&file), attribute, &bytes, flags)?,
        }
        DONE
    }

    pub(super) fn remove_attribute(
        &mut self,
        target: Target<'_>,
        name: Name,
        attribute: u64,
    ) -> Result<Answer, Errno> {
        let found = self.named(target, name)?;
        let (file, stat) = self.own(found)?;
        let attribute = Self::attribute(target, attribute)?;
        self.check_writable(&file)?;
        self.may_set_attribute(target, (&file, &stat), &attribute)?;
        owner::settle_linked(&link(&file))?;
        rustix::fs::removexattr(link(&file), attribute)?;
        DONE
    }
}

/// Says whether the kernel would take a value for capabilities: one of the two revisions that it still
/// takes, each of which has its length.
fn is_of_known_revision(value: &[u8]) -> bool {
    /// Whether the capabilities have effect at once.
    const EFFECTIVE: u32 = 1;
    let word = value.first_chunk().map(|&word| u32::from_le_bytes(word) & !EFFECTIVE);
    matches!((value.len(), word), (20, Some(0x0200_0000)) | (24, Some(0x0300_0000)))
}
