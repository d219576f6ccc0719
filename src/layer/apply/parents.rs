//! The directories that members go into: opened on the way, made where they are missing, with the
//! attributes that the layers below give them.

use super::names::split;
use super::way::{Below, Next};
use super::{Applier, Target, chown_fd, is_absent, is_dir, nodes, open_dir, stat_time};
use crate::layer::stack::{Found, Stack, StackDir};
use crate::layer::whiteout::{is_whiteout_at, make_opaque};
use crate::layer::{LayerError, owner};
use crate::sys::rooted::{open_beneath, resolve_in_root};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, mkdirat};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

impl Applier<'_> {
    /// Goes to the directory `path`, making what is missing, and takes its descriptor from the way.
    pub(super) fn open_parent(&mut self, path: &[u8]) -> Result<OwnedFd, LayerError> {
        let fail = |e: std::io::Error| LayerError::io("open", path, e);
        let walked = self.way.rejoin(path).map_err(fail)?;
        let rest = &path[walked..];
        for name in rest.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let number = self.nodes.number(self.way.node(), name);
            let next = self.way.next(name).map_err(fail)?;
            let (fd, is_new) = match next {
                Next::Dir(fd) => (fd, false),
                Next::Missing => (self.make_dir(name).map_err(fail)?, true),
                Next::Link => match self.way.follow(name) {
                    Ok(fd) => (fd, false),
                    Err(e) if e.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                        let what = "a path through a symbolic link is longer than 4000 bytes";
                        return Err(LayerError::malformed(what, path));
                    }
                    Err(e) if is_absent(&e) => {
                        let link = self.way.path_of_link(name).map_err(fail)?;
                        (self.make_target(&link)?, false)
                    }
                    Err(e) => return Err(fail(e)),
                },
                Next::Other => {
                    let here = self.way.here().ok_or(Errno::BADF).map_err(|e| fail(e.into()))?;
                    (self.make_over_whiteout(here, name).map_err(fail)?, true)
                }
            };
            let attributes = is_new.then(|| self.attributes(name)).transpose()?;
            self.way.push(name, fd, number).map_err(fail)?;
            if let Some((attributes, below)) = attributes {
                let dir = self.way.lend().ok_or(Errno::BADF).map_err(|e| fail(e.into()))?;
                let time = describe(&dir, attributes, self.way.path())?;
                self.way.give_back(dir);
                self.way.set_below(below);
                if attributes.is_some() {
                    *self.nodes.at(number) = nodes::Node { time, is_implied: true };
                }
            }
        }
        self.way.lend().ok_or(Errno::BADF).map_err(|e| fail(e.into()))
    }

    fn make_dir(&self, name: &[u8]) -> std::io::Result<OwnedFd> {
        let here = self.way.here().ok_or(Errno::BADF)?;
        match mkdirat(here, name, Mode::from(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(open_dir(here, name)?),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes what a link leads to, where that is missing.
    fn make_target(&mut self, path: &[u8]) -> Result<OwnedFd, LayerError> {
        let fail = |e: std::io::Error| LayerError::io("make", path, e);
        let resolved = resolve_in_root(self.root, path).map_err(fail)?;
        let parts: Vec<&[u8]> = resolved.path.split(|&b| b == b'/').collect();
        let known = parts.len() - resolved.missing.min(parts.len());
        let mut at = open_beneath(
            self.root,
            &parts[..known].join(&b'/'),
            OFlags::RDONLY | OFlags::DIRECTORY,
        )
        .or_else(|e| {
            // The last known part may be a whiteout, or a file in the way, which is an error.
            if e.raw_os_error() == Some(libc::ENOTDIR) && known > 0 {
                open_beneath(
                    self.root,
                    &parts[..known - 1].join(&b'/'),
                    OFlags::RDONLY | OFlags::DIRECTORY,
                )
                .and_then(|above| self.make_over_whiteout(above.as_fd(), parts[known - 1]))
            } else {
                Err(e)
            }
        })
        .map_err(fail)?;
        let mut number = nodes::ROOT;
        for &part in &parts[..known] {
            number = self.nodes.number(number, part);
        }
        for (i, &part) in parts.iter().enumerate().skip(known) {
            number = self.nodes.number(number, part);
            let here = parts[..=i].join(&b'/');
            let fail = |e: Errno| LayerError::io("make", &here, e);
            let next = match mkdirat(&at, part, Mode::from(0o755)) {
                Ok(()) => open_dir(at.as_fd(), part).map_err(fail)?,
                Err(Errno::EXIST) => match open_dir(at.as_fd(), part) {
                    Err(Errno::NOTDIR) => self
                        .make_over_whiteout(at.as_fd(), part)
                        .map_err(|e| LayerError::io("make", &here, e))?,
                    other => other.map_err(fail)?,
                },
                Err(e) => return Err(fail(e)),
            };
            let attributes = match self.target {
                Target::Layer { below, .. } => {
                    let group = inherited_group(at.as_fd()).map_err(fail)?;
                    let found = below.map(|stack| find(stack, &here)).transpose()?.flatten();
                    Some(attributes_of(found.map(|(_, found)| found.stat), group))
                }
                Target::Tree { .. } | Target::Plain => None,
            };
            let time = describe(&next, attributes, &here)?;
            if attributes.is_some() {
                *self.nodes.at(number) = nodes::Node { time, is_implied: true };
            }
            at = next;
        }
        Ok(at)
    }

    /// Returns the attributes that a directory `name`, which no member describes, gets in the
    /// current one: those it has in the layers below. `None` for a target that is not a layer.
    pub(super) fn attributes(
        &mut self,
        name: &[u8],
    ) -> Result<(Option<Attributes>, Below), LayerError> {
        let Target::Layer { below, .. } = self.target else { return Ok((None, Below::Unknown)) };
        let group = match self.way.here() {
            Some(here) => inherited_group(here).map_err(|e| LayerError::io("read", name, e))?,
            None => 0,
        };
        let Some(stack) = below else { return Ok((Some(new_in(group)), Below::Nothing)) };
        let here = match self.way.below() {
            Below::Unknown => {
                let mut dir = Some(stack.root());
                for part in self.way.path().split(|&b| b == b'/').filter(|part| !part.is_empty()) {
                    let Some(above) = &dir else { break };
                    dir = stack.dir(above, part)?;
                }
                dir.map_or(Below::Nothing, Below::Dir)
            }
            known => known,
        };
        self.way.set_below(here.clone());
        let Below::Dir(here) = here else {
            return Ok((Some(new_in(group)), Below::Nothing));
        };
        let stat = stack.lookup(&here, name)?.map(|found| found.stat);
        let inside = stack.dir(&here, name)?.map_or(Below::Nothing, Below::Dir);
        Ok((Some(attributes_of(stat, group)), inside))
    }

    /// Replaces this layer's own whiteout by a directory that goes on hiding what is below.
    pub(super) fn make_over_whiteout(
        &self,
        above: BorrowedFd<'_>,
        name: &[u8],
    ) -> std::io::Result<OwnedFd> {
        let Target::Layer { xattrs, .. } = self.target else {
            return Err(Errno::NOTDIR.into());
        };
        if !is_whiteout_at(above, name, xattrs)? {
            return Err(Errno::NOTDIR.into());
        }
        rustix::fs::unlinkat(above, name, AtFlags::empty())?;
        mkdirat(above, name, Mode::from(0o755))?;
        let fd = open_dir(above, name)?;
        make_opaque(fd.as_fd(), xattrs)?;
        Ok(fd)
    }
}

/// Finds a path in the layers below. Links in its middle are not followed: a layer records for each
/// directory where it is.
pub(super) fn find(stack: &Stack, path: &[u8]) -> Result<Option<(StackDir, Found)>, LayerError> {
    let (directory, name) = split(path);
    let mut dir = stack.root();
    for part in directory.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
        match stack.dir(&dir, part)? {
            Some(next) => dir = next,
            None => return Ok(None),
        }
    }
    Ok(stack.lookup(&dir, name)?.map(|found| (dir, found)))
}

/// Mode, owner, group and time of a directory.
type Attributes = (u32, u32, u32, Timespec);

/// The attributes of a directory that no member describes: those of `below`, else those of
/// [`new_in`].
fn attributes_of(below: Option<Stat>, group: u32) -> Attributes {
    match below.filter(is_dir) {
        Some(stat) => (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid, stat_time(&stat)),
        None => new_in(group),
    }
}

/// The attributes of a directory that is neither described nor in the layers below: 0755 and
/// root's, but for the group, which mkdir(2) takes from a directory with the set-group-ID bit. The
/// bit itself is not passed on.
///
/// Source: containerd, `pkg/archive/tar.go` (`mkparent`) and `tar_unix.go` (`mkdir`).
fn new_in(group: u32) -> Attributes {
    (0o755, 0, group, Timespec { tv_sec: 0, tv_nsec: 0 })
}

/// Returns the group that a new directory in `dir` gets.
fn inherited_group(dir: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut stat = rustix::fs::fstat(dir)?;
    owner::amend_open(dir, &mut stat);
    Ok(if stat.st_mode & 0o2000 == 0 { 0 } else { stat.st_gid })
}

/// Sets the attributes of a directory that was just made. Without any, it gets 0755 and is ours:
/// ADD's implied directories are root's whatever `--chown` says, and new. The set-group-ID bit that
/// mkdir(2) passes on stays. Returns the time to set at the end.
fn describe(
    dir: &OwnedFd,
    attributes: Option<Attributes>,
    path: &[u8],
) -> Result<Option<Timespec>, LayerError> {
    let fail = |e: Errno| LayerError::io("set the attributes of", path, e);
    let Some((mode, uid, gid, time)) = attributes else {
        let stat = rustix::fs::fstat(dir).map_err(fail)?;
        let ours = owner::of_new_files();
        if !owner::is_without_rights() && (stat.st_uid, stat.st_gid) != ours {
            chown_fd(dir, ours.0, ours.1).map_err(fail)?;
        }
        owner::set_mode_open(dir, 0o755 | stat.st_mode & 0o2000).map_err(fail)?;
        return Ok(None);
    };
    chown_fd(dir, uid, gid).map_err(fail)?;
    owner::set_mode_open(dir, mode).map_err(fail)?;
    Ok(Some(time))
}
