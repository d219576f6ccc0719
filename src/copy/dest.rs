//! Where a copy goes: destination paths, links in them, and the directories made on the way.

use super::{CopyError, FileTime, Owner, absolute};
use crate::layer::owner;
use crate::sys::rooted;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// Returns the bits that the kernel takes away from the modes of new files. All of them where that
/// cannot be found out, so that modes are then always set by hand.
pub(super) fn umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        // umask(2) can only be read by changing it, for all threads.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
    })
}

/// Says what times a file gets: its access time is left alone.
pub(super) fn times(mtime: FileTime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: i64::from(mtime.nanoseconds),
        },
    }
}

/// Changes the owner of a name, not of what it links to.
pub(super) fn chown(dir: BorrowedFd<'_>, name: &[u8], wanted: Owner) -> rustix::io::Result<()> {
    owner::set(dir, name, wanted.uid, wanted.gid)
}

/// A path as a destination has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Without `.`, `..` and outer slashes; links are not followed yet.
    pub(super) path: Vec<u8>,
    /// True when it names a directory by a final `/` or `/.`, or is the working directory.
    pub(super) is_directory: bool,
}

impl Destination {
    /// Reads a destination as it was written, relative to `workdir`.
    pub(super) fn parse(written: &[u8], workdir: &[u8]) -> Self {
        let is_directory = written.is_empty()
            || written == b"."
            || written.ends_with(b"/")
            || written.ends_with(b"/.");
        let start: &[u8] = if written.starts_with(b"/") { b"" } else { workdir };
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in start.split(|&b| b == b'/').chain(written.split(|&b| b == b'/')) {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        Self { path: parts.join(&b'/'), is_directory }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(b"", |cut| &path[..cut])
}

/// Makes directories below a root and remembers which.
pub(super) struct Directories<'a> {
    pub(super) root: BorrowedFd<'a>,
    /// As [`super::CopyRequest::before`].
    pub(super) before: Option<BorrowedFd<'a>>,
    /// Owner of what is made; `None` leaves what mkdir(2) gives: root, and the group of a
    /// set-group-ID directory above it.
    pub(super) owner: Option<Owner>,
    /// Permission bits of what is made.
    pub(super) mode: u32,
    /// Time of what is made, set when all is done.
    pub(super) created: Option<FileTime>,
    /// What was made, parents first.
    pub(super) made: Vec<Vec<u8>>,
}

impl Directories<'_> {
    /// Follows every link in `path`, where parts may be missing.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        rooted::resolve_in_root(self.root, path)
            .map(|resolved| resolved.path)
            .map_err(|e| CopyError::io("resolve", path, e))
    }

    /// Looks at a path that has no links in it.
    pub(super) fn stat(&self, path: &[u8]) -> Result<Option<Stat>, CopyError> {
        rooted::stat_beneath(self.root, path).map_err(|e| CopyError::io("look at", path, e))
    }

    /// Makes `path`, which has no links in it, and what is missing above it.
    pub(super) fn make_all(&mut self, path: &[u8]) -> Result<(), CopyError> {
        let is_dir = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match self.stat(path)?.map(is_dir) {
            Some(true) => return Ok(()),
            Some(false) => return Err(CopyError::NotADirectory { path: absolute(path) }),
            None => {}
        }
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        for end in ends.chain([path.len()]) {
            let path = &path[..end];
            match self.make(path) {
                Ok(()) => self.made.push(path.to_vec()),
                Err(Errno::EXIST) => {
                    if !self.stat(path)?.is_some_and(is_dir) {
                        return Err(CopyError::NotADirectory { path: absolute(path) });
                    }
                }
                Err(e) => return Err(CopyError::io("create the directory", path, e)),
            }
        }
        Ok(())
    }

    fn make(&self, path: &[u8]) -> rustix::io::Result<()> {
        let (dir, name) = open_parent(self.root, path)?;
        let dir = dir.as_ref().map_or(self.root, AsFd::as_fd);
        let made = owner::mode_to_make(FileType::Directory, self.mode);
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(made))?;
        if let Some(owner) = self.owner {
            chown(dir, name, owner)?;
        }
        if self.mode & umask() != 0 || made != self.mode {
            // Below a set-group-ID directory mkdir(2) has passed that bit on.
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            owner::set_mode(dir, name, self.mode | stat.st_mode & 0o2000)?;
        }
        Ok(())
    }

    /// Gives all that was made its time. Last of all, because writing into a directory changes it.
    pub(super) fn finish(&mut self) -> Result<u64, CopyError> {
        if let Some(created) = self.created {
            for path in self.made.iter().rev() {
                open_parent(self.root, path)
                    .and_then(|(dir, name)| {
                        let dir = dir.as_ref().map_or(self.root, AsFd::as_fd);
                        rustix::fs::utimensat(dir, name, &times(created), AtFlags::SYMLINK_NOFOLLOW)
                    })
                    .map_err(|e| CopyError::io("set the time of", path, e))?;
            }
        }
        Ok(self.made.len() as u64)
    }

    /// Decides where the root of what is copied goes, and makes the directories above it.
    ///
    /// `name` is what a file is called inside a directory, `contents_only` whether a directory is
    /// copied without itself.
    pub(super) fn place(
        &mut self,
        destination: &Destination,
        name: &[u8],
        is_dir: bool,
        contents_only: bool,
    ) -> Result<Vec<u8>, CopyError> {
        let above: &[u8] =
            if destination.is_directory { &destination.path } else { parent(&destination.path) };
        let above = self.resolve(above)?;
        self.make_all(&above)?;
        let mut target = self.resolve(&destination.path)?;
        let existing = self.stat(&target)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
        let goes_inside = if is_dir {
            !contents_only && existing.is_some()
        } else {
            existing == Some(FileType::Directory)
        };
        if goes_inside && !name.is_empty() {
            if !target.is_empty() {
                target.push(b'/');
            }
            target.extend_from_slice(name);
        }
        if is_dir && contents_only && existing.is_none() {
            self.make_all(&target)?;
        } else {
            let above = parent(&target).to_vec();
            self.make_all(&above)?;
            if self.was_made_before(&target)? {
                self.made.push(target.clone());
            }
        }
        Ok(target)
    }

    /// Says whether a directory that is there was made by the copy that this one goes over.
    fn was_made_before(&self, path: &[u8]) -> Result<bool, CopyError> {
        let Some(before) = self.before else { return Ok(false) };
        let stat = rooted::stat_beneath(before, path);
        Ok(stat.map_err(|e| CopyError::io("look at", path, e))?.is_none())
    }
}

/// Opens the parent of a path that is too long to be given to the kernel; `None` for the root.
pub(super) fn open_parent<'p>(
    root: BorrowedFd<'_>,
    path: &'p [u8],
) -> rustix::io::Result<(Option<OwnedFd>, &'p [u8])> {
    if path.len() < 4000 {
        return Ok((None, if path.is_empty() { b"." } else { path }));
    }
    let cut = path.iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
    let dir = rooted::open_beneath(root, &path[..cut], OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok((Some(dir), &path[cut + 1..]))
}

/// Makes a working directory, and what is missing above it: 0755, each part with `owner`; `None`
/// leaves what mkdir(2) gives.
///
/// Links in the path are followed inside the root. `created` is the time of what is made. Returns
/// whether anything was made; an existing directory is left as it is.
///
/// # Errors
///
/// [`CopyError::NotADirectory`] where a file is in the way, else [`CopyError::Io`].
pub fn make_workdir(
    root: BorrowedFd<'_>,
    path: &[u8],
    owner: Option<Owner>,
    created: Option<FileTime>,
) -> Result<bool, CopyError> {
    let destination = Destination::parse(path, b"/");
    let mut directories =
        Directories { root, before: None, owner, mode: 0o755, created, made: Vec::new() };
    let path = directories.resolve(&destination.path)?;
    directories.make_all(&path)?;
    Ok(directories.finish()? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_cleaned_before_links_are_followed() {
        const CASES: [(&str, &str, &str, bool); 12] = [
            ("/x", "/w", "x", false),
            ("/x/", "/w", "x", true),
            ("/x/.", "/w", "x", true),
            ("", "/w", "w", true),
            (".", "/w", "w", true),
            ("./", "/w", "w", true),
            ("sub/f", "/w", "w/sub/f", false),
            ("../../../up", "/w", "up", false),
            ("/a/../b/c", "/", "b/c", false),
            ("/", "/w", "", true),
            ("..", "/w", "", false),
            ("a//b/./c", "/", "a/b/c", false),
        ];
        for (written, workdir, path, is_directory) in CASES {
            let got = Destination::parse(written.as_bytes(), workdir.as_bytes());
            assert_eq!(
                got,
                Destination { path: path.into(), is_directory },
                "{written} in {workdir}"
            );
        }
    }

    #[test]
    fn working_directories_are_made_once_and_through_links() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let me = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        symlink("/real/deep", dir.path().join("l")).unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let created = FileTime { seconds: 1_000, nanoseconds: 0 };
        let make =
            |path: &str| make_workdir(root.as_fd(), path.as_bytes(), Some(me), Some(created));
        assert!(make("/l/w").unwrap());
        assert!(!make("/real/deep/w/").unwrap());
        assert!(!make("/").unwrap());
        let facts = std::fs::metadata(dir.path().join("real/deep")).unwrap();
        assert_eq!(facts.permissions().mode() & 0o7777, 0o755);
        let time = facts.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(time.as_secs(), 1_000);
        assert!(matches!(make("/f/x"), Err(CopyError::NotADirectory { .. })));
        assert!(matches!(make("/f"), Err(CopyError::NotADirectory { .. })));
    }
}
