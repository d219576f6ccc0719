//! The way from a root to the directory that members are put into, one descriptor a level.
//!
//! Members of a tar mostly share their directory with the member before, or go one level down or
//! some up. So the way is kept: going down opens one component, going up follows `..`, and a tree
//! of ten thousand levels costs what as many directories beside each other cost. Paths longer than
//! `PATH_MAX` work, since no path is given to the kernel whole.

use crate::layer::stack::StackDir;
use crate::sys::rooted::open_in_root;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// How many levels keep their descriptor; those further up are found again through `..`.
const OPEN_LEVELS: usize = 64;

/// Longest path, in bytes, that may lead through a symbolic link: it is resolved by the kernel,
/// whose limit is 4096 with the final zero.
const LINK_PATH_MAX: usize = 4000;

const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Directories from the root down to the current one.
#[derive(Debug)]
pub(super) struct Way<'a> {
    root: BorrowedFd<'a>,
    /// The path of the current directory, as it was asked for.
    path: Vec<u8>,
    /// The root is the first. Only the last one always has its descriptor.
    steps: Vec<Step>,
    /// How many directories were opened.
    opened: u64,
}

#[derive(Debug)]
struct Step {
    /// Length of its path in [`Way::path`].
    end: usize,
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    node: u32,
    below: Below,
}

/// What the layers below have at the path of a step.
#[derive(Debug, Clone, Default)]
pub(super) enum Below {
    /// Not looked up.
    #[default]
    Unknown,
    /// No directory.
    Nothing,
    /// A directory.
    Dir(StackDir),
}

/// What is at the next component.
#[derive(Debug)]
pub(super) enum Next {
    Dir(OwnedFd),
    /// A symbolic link.
    Link,
    /// Something else.
    Other,
    Missing,
}

impl<'a> Way<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, path: Vec::new(), steps: Vec::new(), opened: 0 }
    }

    /// Goes up to the last directory that the way shares with `path`. Returns how many bytes of
    /// `path` lead there, the `/` after it included.
    pub(super) fn rejoin(&mut self, path: &[u8]) -> io::Result<usize> {
        let common = self.path.iter().zip(path).take_while(|(a, b)| a == b).count();
        let is_on = |step: &Step| {
            step.end == 0
                || (step.end <= common && path.get(step.end).is_none_or(|&byte| byte == b'/'))
        };
        while self.steps.last().is_some_and(|last| !is_on(last)) {
            let gone = self.steps.pop().and_then(|step| step.fd);
            let Some(last) = self.steps.last_mut() else { break };
            self.path.truncate(last.end);
            if last.fd.is_none() {
                // Behind a link, `..` is another directory.
                self.opened += 1;
                last.fd = gone.and_then(|below| up(&below, last.identity));
                if last.fd.is_none() {
                    self.forget();
                }
            }
        }
        if self.steps.is_empty() {
            self.path.clear();
            let fd = openat(self.root, ".", FLAGS, Mode::empty())?;
            self.push(b"", fd, 0)?;
        }
        Ok(match self.path.len() {
            0 => 0,
            length => (length + 1).min(path.len()),
        })
    }

    /// Forgets the way: the next one starts at the root.
    pub(super) fn forget(&mut self) {
        self.steps.clear();
        self.path.clear();
    }

    /// Goes down into `name`, which was opened as `fd`.
    pub(super) fn push(&mut self, name: &[u8], fd: OwnedFd, node: u32) -> io::Result<()> {
        self.opened += 1;
        let stat = fstat(&fd)?;
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.steps.push(Step {
            end: self.path.len(),
            fd: Some(fd),
            identity: (stat.st_dev, stat.st_ino),
            node,
            below: Below::Unknown,
        });
        if let Some(far) = self.steps.len().checked_sub(1 + OPEN_LEVELS) {
            self.steps[far].fd = None;
            self.steps[far].below = Below::Unknown;
        }
        Ok(())
    }

    /// Goes up one level.
    pub(super) fn pop(&mut self) -> io::Result<()> {
        let cut = self.path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let path = self.path[..cut].to_vec();
        self.rejoin(&path).map(drop)
    }

    /// Opens `name` in the current directory, if it is a directory.
    pub(super) fn next(&self, name: &[u8]) -> io::Result<Next> {
        let here = self.here().ok_or(Errno::BADF)?;
        match openat(here, name, FLAGS, Mode::empty()) {
            Ok(fd) => Ok(Next::Dir(fd)),
            Err(Errno::NOENT) => Ok(Next::Missing),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {
                let stat = statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink => Ok(Next::Link),
                    _ => Ok(Next::Other),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the directory that the link `name` in the current directory leads to, inside the root.
    pub(super) fn follow(&self, name: &[u8]) -> io::Result<OwnedFd> {
        open_in_root(self.root, &self.path_of_link(name)?, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Returns the path of a link in the current directory, if it is one that may be followed.
    pub(super) fn path_of_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let path = self.path_of(name);
        match path.len() > LINK_PATH_MAX {
            true => Err(Errno::NAMETOOLONG.into()),
            false => Ok(path),
        }
    }

    /// Returns the path of `name` in the current directory.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() }
    }

    /// Goes to a directory that exists.
    pub(super) fn go(&mut self, path: &[u8]) -> io::Result<()> {
        let walked = self.rejoin(path)?;
        for name in path[walked..].split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let fd = match self.next(name)? {
                Next::Dir(fd) => fd,
                Next::Link => self.follow(name)?,
                Next::Other => return Err(Errno::NOTDIR.into()),
                Next::Missing => return Err(Errno::NOENT.into()),
            };
            self.push(name, fd, 0)?;
        }
        Ok(())
    }

    /// Returns the current directory, unless it is [lent](Self::lend) or the way has not begun.
    pub(super) fn here(&self) -> Option<BorrowedFd<'_>> {
        Some(self.steps.last()?.fd.as_ref()?.as_fd())
    }

    /// Takes the descriptor of the current directory, to be [given back](Self::give_back).
    pub(super) fn lend(&mut self) -> Option<OwnedFd> {
        self.steps.last_mut()?.fd.take()
    }

    pub(super) fn give_back(&mut self, fd: OwnedFd) {
        if let Some(last) = self.steps.last_mut() {
            last.fd = Some(fd);
        }
    }

    /// Returns what [`push`](Self::push) was given for the current directory.
    pub(super) fn node(&self) -> u32 {
        self.steps.last().map_or(0, |step| step.node)
    }

    /// Returns what the layers below have at the path of the current directory.
    pub(super) fn below(&self) -> Below {
        self.steps.last().map_or(Below::Unknown, |step| step.below.clone())
    }

    pub(super) fn set_below(&mut self, below: Below) {
        if let Some(last) = self.steps.last_mut() {
            last.below = below;
        }
    }

    /// Returns how many directories were opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }
}

/// Opens the directory above, if it is the one that is meant.
fn up(below: &OwnedFd, identity: (u64, u64)) -> Option<OwnedFd> {
    let fd = openat(below, "..", FLAGS, Mode::empty()).ok()?;
    let stat = fstat(&fd).ok()?;
    ((stat.st_dev, stat.st_ino) == identity).then_some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_way_leads_to_any_directory_by_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let deep = vec!["d"; 200].join("/");
        std::fs::create_dir_all(dir.path().join(&deep)).unwrap();
        std::fs::create_dir(dir.path().join("d/e")).unwrap();
        symlink("d/e", dir.path().join("link")).unwrap();
        symlink("/d", dir.path().join("d/e/up")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let mut way = Way::new(root.as_fd());
        let half = vec!["d"; 100].join("/");
        let other = format!("{half}/d/d");
        for path in ["", &deep, &half, "d", "link", "link/up/d/d", &other, "d/e/up", &deep, ""] {
            way.go(path.as_bytes()).unwrap();
            let stat = fstat(way.here().unwrap()).unwrap();
            // The absolute link means the root of the tree, which is another one for this test.
            let plain = path.replace("link/up", "d").replace("d/e/up", "d");
            let expected = rustix::fs::stat(dir.path().join(plain)).unwrap();
            assert_eq!(stat.st_ino, expected.st_ino, "{path}");
        }
        assert!(way.go(b"d/nothing").is_err());
        way.go(deep.as_bytes()).unwrap();
        for left in (0..200).rev() {
            way.pop().unwrap();
            assert_eq!(way.path().len(), (2 * left as usize).saturating_sub(1));
        }
    }
}
