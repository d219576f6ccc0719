//! Hard links: a second name for an earlier member, or for a file of a layer below, which is copied
//! up.

use super::names::{check_path, split};
use super::parents::find;
use super::{Applier, MakeError, NOFOLLOW, Target, set_times};
use crate::layer::stack::{Found, Stack, StackDir};
use crate::layer::untar::Member;
use crate::layer::whiteout::is_whiteout_at;
use crate::layer::{LayerError, owner};
use crate::text::path::clean_bytes_below;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, linkat, openat, statat, symlinkat};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

impl Applier<'_> {
    /// Links to an earlier member, or to a file of a layer below, which is copied up.
    pub(super) fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        member: &Member,
        path: &[u8],
        name: &[u8],
        time: Timespec,
        (uid, gid): (u32, u32),
    ) -> Result<(), MakeError> {
        let other = |e| MakeError::Other(e);
        let target = clean_bytes_below(&member.link);
        let (directory, base) = split(&target);
        let missing = |source: Errno| {
            MakeError::Other(LayerError::HardLink {
                path: String::from_utf8_lossy(path).into(),
                target: String::from_utf8_lossy(&target).into(),
                source: source.into(),
            })
        };
        if base.is_empty() {
            return Err(missing(Errno::ISDIR));
        }
        if target == path {
            // A link to itself: the file is there already.
            return match statat(parent, name, NOFOLLOW) {
                Ok(_) => Ok(()),
                Err(e) => Err(missing(e)),
            };
        }
        check_path(&target).map_err(other)?;
        let from = self
            .link_way
            .go(directory)
            .and_then(|()| self.link_way.here().ok_or_else(|| Errno::BADF.into()));
        let linked = match from {
            Ok(from) => {
                let hides = match self.target {
                    Target::Layer { xattrs, .. } => is_whiteout_at(from, base, xattrs),
                    Target::Tree { .. } | Target::Plain => Ok(false),
                };
                match hides {
                    Ok(true) => return Err(missing(Errno::NOENT)),
                    Ok(false) => linkat(from, base, parent, name, AtFlags::empty()),
                    Err(e) => Err(e),
                }
            }
            Err(e) => Err(e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)),
        };
        match linked {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(MakeError::Exists),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let Target::Layer { below: Some(stack), .. } = self.target else {
                    return Err(missing(Errno::NOENT));
                };
                let (dir, found) =
                    find(stack, &target).map_err(other)?.ok_or_else(|| missing(Errno::NOENT))?;
                self.copy_up(stack, &dir, base, &found, parent, path, name)?;
                self.applied.borrowed += 1;
            }
            Err(e) => return Err(missing(e)),
        }
        // As in Docker, the attributes of the last header are those of the file.
        let fail = |e: Errno| MakeError::Other(LayerError::io("set the attributes of", path, e));
        let mut stat = statat(parent, name, NOFOLLOW).map_err(fail)?;
        owner::amend(parent, name, &mut stat);
        // chown drops the capabilities that the first header gave, so only where it is needed.
        if (stat.st_uid, stat.st_gid) != (uid, gid) {
            owner::set(parent, name, uid, gid).map_err(fail)?;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                self.restore_capability(parent, name, member, path)?;
            }
            owner::set_mode(parent, name, member.mode).map_err(fail)?;
            set_times(parent, name, time).map_err(fail)?;
        }
        Ok(())
    }

    /// Copies a file of the layers below into this one, under a new name.
    #[expect(clippy::too_many_arguments, reason = "from where and to where take that many")]
    fn copy_up(
        &mut self,
        stack: &Stack,
        dir: &StackDir,
        base: &[u8],
        found: &Found,
        parent: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), MakeError> {
        let fail = |e: Errno| match e {
            Errno::EXIST => MakeError::Exists,
            e => MakeError::Other(LayerError::io("copy up", path, e)),
        };
        match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::RegularFile => {
                let from =
                    stack.open_found(dir, base, found, OFlags::RDONLY).map_err(MakeError::Other)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let to = openat(parent, name, flags | OFlags::NOFOLLOW, Mode::from(0o600))
                    .map_err(fail)?;
                self.contents.forget(&to).map_err(fail)?;
                let mut from = std::fs::File::from(from);
                let mut to = std::fs::File::from(to);
                self.applied.bytes += self
                    .cancel
                    .copy(&mut from, &mut to)
                    .map_err(|e| MakeError::Other(LayerError::io("copy up", path, e)))?;
                Ok(())
            }
            FileType::Symlink => {
                let at = stack
                    .open_found(dir, base, found, OFlags::PATH | OFlags::NOFOLLOW)
                    .map_err(MakeError::Other)?;
                let link = rustix::fs::readlinkat(&at, "", Vec::new()).map_err(fail)?;
                symlinkat(link, parent, name).map_err(fail)
            }
            _ => Err(fail(Errno::PERM)),
        }
    }
}
