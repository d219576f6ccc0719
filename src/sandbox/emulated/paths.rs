//! Where the paths of a step lead.
//!
//! The kernel resolves a path beneath the root directory of the step (`openat2` with
//! `RESOLVE_IN_ROOT`): no link and no `..` leads out, whatever the step changes in the meantime. What
//! is found is an open descriptor, and all that follows is done with that, never with the path again.
//!
//! A relative path begins with the name of the directory that it starts from, as the kernel knows that
//! now. `/proc` of the tree is a directory that cannot be searched, so that the kernel refuses a path
//! that leads into it, by whatever links: such a path is followed here, part by part, and ends at a
//! file of the container's `/proc` if [`procfs`](super::procfs) lets it be seen.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::super::supervisor::target::{Name, Target};
use super::World;
use super::procfs::Text;

/// Links followed before a path is taken for a loop; the kernel's own limit.
const LINKS_MAX: u32 = 40;

/// To hold a thing without opening it.
pub(super) const HELD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// Something of the tree.
    File(OwnedFd, Stat),
    /// A device of the container, where the tree has an empty file.
    Device(String),
    /// A file or a directory of the container's `/proc`, and its path.
    Proc(OwnedFd, String),
    /// A file of `/proc` that is made up, and the one it stands for.
    Text(OwnedFd, Text),
    /// A link of `/proc` itself, with what it says.
    Link(OwnedFd, Vec<u8>),
    /// What a process has open.
    Open(OwnedFd, Stat),
}

/// Names an open file in `/proc`.
pub(super) fn link(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl World {
    /// Returns the absolute path, in the step's view, that a call names. A name without a path has
    /// none.
    pub(super) fn path(&self, target: Target<'_>, name: Name) -> Result<Vec<u8>, Errno> {
        let given = match name.path {
            Some(0) if name.flags & libc::AT_EMPTY_PATH != 0 => Vec::new(),
            Some(address) => target.text(address)?,
            None => Vec::new(),
        };
        self.absolute(target, name.directory, given)
    }

    /// Puts the path of the directory that a relative path starts from in front of it.
    pub(super) fn absolute(
        &self,
        target: Target<'_>,
        directory: i32,
        given: Vec<u8>,
    ) -> Result<Vec<u8>, Errno> {
        if given.is_empty() {
            return Err(Errno::NOENT);
        }
        let path = if given.starts_with(b"/") {
            given
        } else {
            let mut path = self.directory(target, directory)?;
            path.push(b'/');
            path.extend_from_slice(&given);
            path
        };
        if path.len() >= libc::PATH_MAX as usize { Err(Errno::NAMETOOLONG) } else { Ok(path) }
    }

    /// Returns the path of a working directory or of an open directory.
    pub(super) fn directory(&self, target: Target<'_>, number: i32) -> Result<Vec<u8>, Errno> {
        let pid = target.call.pid;
        let place = match number {
            libc::AT_FDCWD => format!("/proc/{pid}/cwd"),
            number if number >= 0 => format!("/proc/{pid}/fd/{number}"),
            _ => return Err(Errno::BADF),
        };
        let text = rustix::fs::readlink(place, Vec::new()).map_err(|error| match error {
            Errno::NOENT => Errno::BADF,
            error => error,
        })?;
        target.check()?;
        self.inside(text.as_bytes()).ok_or(Errno::NOTDIR)
    }

    /// Returns what a path of the container's is called in the step's view.
    pub(super) fn inside(&self, path: &[u8]) -> Option<Vec<u8>> {
        if is_proc(path) {
            return Some(path.to_vec());
        }
        match path.strip_prefix(self.prefix.as_slice())? {
            b"" => Some(b"/".to_vec()),
            rest if rest.starts_with(b"/") => Some(rest.to_vec()),
            _ => None,
        }
    }

    /// Finds what a call names: a path, or an open file.
    pub(super) fn named(&self, target: Target<'_>, name: Name) -> Result<Found, Errno> {
        let given = match name.path {
            Some(0) if name.flags & libc::AT_EMPTY_PATH != 0 => Vec::new(),
            Some(address) => target.text(address)?,
            None => Vec::new(),
        };
        self.named_by(target, name, given)
    }

    /// The same with the text of the path, which has been read.
    pub(super) fn named_by(
        &self,
        target: Target<'_>,
        name: Name,
        given: Vec<u8>,
    ) -> Result<Found, Errno> {
        if given.is_empty() {
            if name.path.is_some() && name.flags & libc::AT_EMPTY_PATH == 0 {
                return Err(Errno::NOENT);
            }
            return self.opened(target, name.directory);
        }
        if given == b"." {
            return self.current(target, name.directory);
        }
        let path = self.absolute(target, name.directory, given)?;
        self.find(target, &path, name.flags & libc::AT_SYMLINK_NOFOLLOW == 0)
    }

    /// Finds a directory that paths start from, which may have no name any more.
    pub(super) fn current(&self, target: Target<'_>, number: i32) -> Result<Found, Errno> {
        if number != libc::AT_FDCWD {
            let found = self.opened(target, number)?;
            return match &found {
                Found::Open(_, stat) if kind(stat).is_dir() => Ok(found),
                _ => Err(Errno::NOTDIR),
            };
        }
        let place = format!("/proc/{}/cwd", target.call.pid);
        let file = rustix::fs::open(place, HELD, Mode::empty())?;
        target.check()?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(Found::Open(file, stat))
    }

    /// Finds what the caller has open.
    fn opened(&self, target: Target<'_>, number: i32) -> Result<Found, Errno> {
        let pid = target.call.pid;
        if number == libc::AT_FDCWD {
            return self.current(target, number);
        }
        if number < 0 {
            return Err(Errno::BADF);
        }
        let place = format!("/proc/{pid}/fd/{number}");
        let file = rustix::fs::open(place, HELD, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => Errno::BADF,
            error => error,
        })?;
        target.check()?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(Found::Open(file, stat))
    }

    /// Finds what is at an absolute path.
    pub(super) fn find(
        &self,
        target: Target<'_>,
        path: &[u8],
        follows: bool,
    ) -> Result<Found, Errno> {
        let flags = if follows { OFlags::empty() } else { OFlags::NOFOLLOW };
        match self.open_in_tree(path, HELD | flags) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file)?;
                if (stat.st_dev, stat.st_ino) == self.proc {
                    let path = "/proc".to_owned();
                    return Ok(Found::Proc(rustix::fs::open(&path, HELD, Mode::empty())?, path));
                }
                match self.device(&stat) {
                    Some(name) => Ok(Found::Device(name)),
                    None => Ok(Found::File(file, stat)),
                }
            }
            Err(Errno::ACCESS) => self.walk(target, path, follows),
            Err(Errno::NOENT) => self.terminal(path),
            Err(error) => Err(error),
        }
    }

    /// Opens a path as a process would whose root is the tree.
    pub(super) fn open_in_tree(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..64 {
            match rustix::fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                // A rename somewhere raced with a `..`.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens the directory in which a name is, and returns that name.
    pub(super) fn parent<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), Errno> {
        let mut path = path;
        while path.len() > 1 && path.ends_with(b"/") {
            path = &path[..path.len() - 1];
        }
        let at = path.iter().rposition(|&byte| byte == b'/').ok_or(Errno::INVAL)?;
        let (directory, name) = (&path[..=at], &path[at + 1..]);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::EXIST);
        }
        Ok((self.open_in_tree(directory, HELD | OFlags::DIRECTORY)?, name))
    }

    /// Returns the directory of something of the tree, and its name there.
    pub(super) fn home(&self, file: &OwnedFd) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let text = rustix::fs::readlink(link(file), Vec::new())?;
        let path = self.inside(text.as_bytes()).ok_or(Errno::PERM)?;
        let (parent, name) = self.parent(&path)?;
        Ok((parent, name.to_vec()))
    }

    /// Follows a path part by part, for one that leads into `/proc`.
    fn walk(&self, target: Target<'_>, path: &[u8], follows: bool) -> Result<Found, Errno> {
        let mut todo: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                at.pop();
                continue;
            }
            let is_last = todo.is_empty();
            at.push(part);
            let text = if at[0] == b"proc" {
                match self.proc_link(target, &at)? {
                    None => continue,
                    Some(link) if is_last && !follows => {
                        return Ok(Found::Link(link.held()?, link.text));
                    }
                    Some(link) if is_last && is_descriptor(&at) => {
                        let file = link.end()?;
                        let stat = rustix::fs::fstat(&file)?;
                        return Ok(Found::Open(file, stat));
                    }
                    Some(link) => link.text,
                }
            } else {
                let file = self.open_in_tree(&at.join(&b'/'), HELD | OFlags::NOFOLLOW)?;
                let stat = rustix::fs::fstat(&file)?;
                if !kind(&stat).is_symlink() || is_last && !follows {
                    continue;
                }
                rustix::fs::readlinkat(&file, "", Vec::new())?.into_bytes()
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            if text.starts_with(b"/") {
                at.clear();
            } else {
                at.pop();
            }
            todo.extend(parts(&text).rev().map(<[u8]>::to_vec));
        }
        if at.first().is_some_and(|first| first == b"proc") {
            return self.shown_of_proc(target, &at);
        }
        // It only passed through.
        let file = self
            .open_in_tree(&[b"/", at.join(&b'/').as_slice()].concat(), HELD | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&file)?;
        match self.device(&stat) {
            Some(name) => Ok(Found::Device(name)),
            None => Ok(Found::File(file, stat)),
        }
    }

    /// Returns what holds a found thing.
    pub(super) fn held(found: Found) -> Result<(OwnedFd, Stat), Errno> {
        let file = match found {
            Found::File(file, stat) | Found::Open(file, stat) => return Ok((file, stat)),
            Found::Device(name) => rustix::fs::open(format!("/dev/{name}"), HELD, Mode::empty())?,
            Found::Proc(file, _) | Found::Text(file, _) | Found::Link(file, _) => file,
        };
        let stat = rustix::fs::fstat(&file)?;
        Ok((file, stat))
    }

    /// The same of what may be changed: what is in the tree, by whatever name.
    pub(super) fn own(&self, found: Found) -> Result<(OwnedFd, Stat), Errno> {
        match found {
            Found::File(file, stat) => Ok((file, stat)),
            Found::Open(file, stat) => {
                let text = rustix::fs::readlink(link(&file), Vec::new())?;
                let is_outside = !is_nameless(text.as_bytes())
                    && self.inside(text.as_bytes()).is_none_or(|path| is_proc(&path));
                if is_outside { Err(Errno::PERM) } else { Ok((file, stat)) }
            }
            Found::Device(_) => Err(Errno::PERM),
            Found::Proc(..) | Found::Text(..) | Found::Link(..) => Err(Errno::PERM),
        }
    }

    /// Says which device of the container an empty file of the tree stands for.
    fn device(&self, stat: &Stat) -> Option<String> {
        let place = (stat.st_dev, stat.st_ino);
        self.devices.iter().find(|(known, _)| *known == place).map(|(_, name)| (*name).to_owned())
    }

    /// Finds a terminal of the container: what makes one, and those that the step has made, which are
    /// held, so that their names lead to no later ones.
    fn terminal(&self, path: &[u8]) -> Result<Found, Errno> {
        if matches!(path, b"/dev/ptmx" | b"/dev/pts/ptmx") {
            return Ok(Found::Device("ptmx".to_owned()));
        }
        let number = path.strip_prefix(b"/dev/pts/").and_then(|n| std::str::from_utf8(n).ok());
        let number = number.and_then(|number| number.parse::<u32>().ok());
        let held = number.and_then(|number| self.terminals.get(&number)).ok_or(Errno::NOENT)?;
        let file = rustix::io::fcntl_dupfd_cloexec(held, 0)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(Found::Open(file, stat))
    }

    /// Says whether something is still in the tree where its descriptor says.
    pub(super) fn is_in_tree(&self, file: &OwnedFd) -> bool {
        let text = rustix::fs::readlink(link(file), Vec::new());
        text.is_ok_and(|text| self.inside(text.as_bytes()).is_some_and(|path| !is_proc(&path)))
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// Says whether the text of a descriptor is that of something that has never had a name: pipes, sockets
/// and files in memory, which are the step's own.
pub(super) fn is_nameless(text: &[u8]) -> bool {
    !text.starts_with(b"/") || text.starts_with(b"/memfd:")
}

/// Says whether a path without links is `/proc` or leads into it. A name may begin like that one.
pub(super) fn is_proc(path: &[u8]) -> bool {
    path == b"/proc" || path.starts_with(b"/proc/")
}

/// Says whether a path of `/proc` is a descriptor's.
fn is_descriptor(at: &[Vec<u8>]) -> bool {
    at.len() >= 4 && at[at.len() - 2] == b"fd"
}

#[cfg(test)]
mod tests {
    use super::is_proc;

    #[test]
    fn names_that_begin_like_proc_are_of_the_tree() {
        for path in ["/proc", "/proc/", "/proc/self", "/proc/1/fd/0"] {
            assert!(is_proc(path.as_bytes()), "{path}");
        }
        for path in ["/process", "/procs/x", "/proc.old/self", "/proc (deleted)", "/", "/a/proc"] {
            assert!(!is_proc(path.as_bytes()), "{path}");
        }
    }
}
