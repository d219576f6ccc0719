//! Mount points that have to be made, and how they disappear again.
//!
//! BuildKit's rule: what was missing is made before the step, and removed after it if it is still
//! empty, so that mounting leaves no trace in the layer. Ours goes a step further with times: where
//! nothing but the mount point changed a directory, the directory gets back the time it had before.
//!
//! Source: moby/buildkit `executor/stubs.go`.

use crate::text::path;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::super::fault::{Doing, Fault};
use super::super::protocol::Stub;
use super::super::spec::OsBytes;
use crate::sys::rooted::{open_beneath, resolve_in_root};

/// Makes mount points inside a root and remembers which.
pub(super) struct Maker<'a> {
    root: BorrowedFd<'a>,
    /// Device number of the root: what is made on another mount is not ours to remember.
    device: u64,
    made: Vec<Stub>,
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Dir,
    File,
}

impl<'a> Maker<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> io::Result<Self> {
        Ok(Self { root, device: rustix::fs::fstat(root)?.st_dev, made: Vec::new() })
    }

    pub(super) fn into_list(self) -> Vec<Stub> {
        self.made
    }

    /// Opens the directory at `path`, made if it is missing, to be removed later.
    pub(super) fn dir(&mut self, path: &str) -> Result<OwnedFd, Fault> {
        self.place(path, Shape::Dir)
    }

    /// Opens what is at `path`; an empty file where nothing is, to be removed later.
    pub(super) fn file(&mut self, path: &str) -> Result<OwnedFd, Fault> {
        self.place(path, Shape::File)
    }

    /// Opens a directory of the root in which we mount a file system of our own, made if it is
    /// missing, to stay. A link is an error: it would put the mount where the image says, and leave
    /// a directory of the image's in its place.
    pub(super) fn own(&mut self, name: &str) -> Result<OwnedFd, Fault> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || open_beneath(self.root, name.as_bytes(), flags);
        let opened = match open() {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.make(name.as_bytes(), true, false).doing(|| format!("making /{name}"))?;
                open_beneath(self.root, name.as_bytes(), flags)
            }
            opened => opened,
        };
        opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR) => Fault::Refused(format!(
                "/{name} of the image is a link or a file: a command can run only where it is a directory"
            )),
            errno => Fault::Failed {
                doing: format!("opening /{name}"),
                errno: errno.unwrap_or(libc::EIO),
            },
        })
    }

    /// Returns the permission bits of the directory at `path`; `None` where there is none.
    pub(super) fn mode_at(&self, path: &str) -> Option<u32> {
        let resolved = resolve_in_root(self.root, path.as_bytes()).ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = open_beneath(self.root, &resolved.path, flags).ok()?;
        Some(rustix::fs::fstat(&place).ok()?.st_mode & 0o7777)
    }

    /// The path is resolved link by link, by their texts: so its end is known by name, and no link
    /// of procfs is ever followed. What is opened then has no link in its path.
    fn place(&mut self, path: &str, shape: Shape) -> Result<OwnedFd, Fault> {
        let resolved =
            resolve_in_root(self.root, path.as_bytes()).doing(|| format!("resolving {path}"))?;
        check_place(path, &resolved.path)?;
        let mut run = || -> io::Result<OwnedFd> {
            let parts: Vec<&[u8]> = resolved.path.split(|&b| b == b'/').collect();
            let existing = parts.len().saturating_sub(resolved.missing);
            for count in existing + 1..=parts.len() {
                let here = parts[..count].join(&b'/');
                let is_dir = count < parts.len() || shape == Shape::Dir;
                self.make(&here, is_dir, true)?;
            }
            open_beneath(self.root, &resolved.path, OFlags::PATH | OFlags::CLOEXEC)
        };
        run().doing(|| format!("making {path}"))
    }

    fn make(&mut self, path: &[u8], is_dir: bool, remember: bool) -> io::Result<()> {
        let (parent, name) = split(path);
        let parent = open_beneath(self.root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let before = rustix::fs::fstat(&parent)?;
        if is_dir {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
        }
        if remember && before.st_dev == self.device {
            let after = rustix::fs::fstat(&parent)?;
            self.made.push(Stub {
                path: OsBytes(path.to_vec()),
                is_dir,
                before: (before.st_mtime, before.st_mtime_nsec as i64),
                after: (after.st_mtime, after.st_mtime_nsec as i64),
            });
        }
        Ok(())
    }
}

/// Checks where a mount would be. `/proc` takes none. `/sys` and `/dev` are ours: a mount there is
/// meant only where its target says so, and not where a link of the image leads there.
pub(in super::super) fn check_place(path: &str, resolved: &[u8]) -> Result<(), Fault> {
    let top = resolved.split(|&b| b == b'/').next().unwrap_or_default();
    match top {
        b"" => Err(Fault::Refused(format!("{path} cannot be a mount point: it is the root"))),
        b"proc" => {
            Err(Fault::Refused(format!("{path} cannot be a mount point: it is inside /proc")))
        }
        b"sys" | b"dev" if top_of(path).as_bytes() != top => Err(Fault::Refused(format!(
            "{path} cannot be a mount point: a link of the image leads to /{}",
            String::from_utf8_lossy(resolved)
        ))),
        _ => Ok(()),
    }
}

/// Returns the first part of a path, by its text alone.
fn top_of(path: &str) -> String {
    let mut cleaned = path::clean_below(path);
    cleaned.truncate(cleaned.find('/').unwrap_or(cleaned.len()));
    cleaned
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (b"", path),
    }
}

/// Removes the mount points that are still there, ours by kind and empty.
///
/// Nothing of the sandbox runs any more. A mount point that cannot be removed stays: it is an empty
/// file more in a layer, no reason to fail a step that worked.
pub(in super::super) fn remove(root: BorrowedFd<'_>, stubs: &[Stub]) {
    // Several made in one directory form a chain: what one's removal restores is what the one
    // before it left behind, so going backwards ends at the time before the first.
    for stub in stubs.iter().rev() {
        remove_one(root, stub).ok();
    }
}

fn remove_one(root: BorrowedFd<'_>, stub: &Stub) -> io::Result<()> {
    let (parent, name) = split(&stub.path.0);
    // No part may have become a link: then it is not the directory the stub was made in.
    let parent = open_beneath(root, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let removal = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if stub.is_dir => AtFlags::REMOVEDIR,
        FileType::RegularFile if !stub.is_dir && stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(()),
    };
    let now = rustix::fs::fstat(&parent)?;
    let now = (now.st_mtime, now.st_mtime_nsec as i64);
    match rustix::fs::unlinkat(&parent, name, removal) {
        Err(Errno::NOTEMPTY) => return Ok(()),
        result => result?,
    }
    let (tv_sec, tv_nsec) = if now == stub.after { stub.before } else { now };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec, tv_nsec },
    };
    rustix::fs::futimens(parent.as_fd(), &times)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    fn with_root(run: impl FnOnce(&std::path::Path, BorrowedFd<'_>)) {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        run(dir.path(), root.as_fd());
    }

    fn time(path: &std::path::Path) -> (i64, i64) {
        let meta = fs::metadata(path).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    }

    #[test]
    fn what_was_made_goes_and_times_come_back() {
        with_root(|path, root| {
            fs::create_dir(path.join("etc")).unwrap();
            let before = (time(path), time(&path.join("etc")));
            let mut maker = Maker::new(root).unwrap();
            maker.file("/etc/hosts").unwrap();
            maker.file("/etc/resolv.conf").unwrap();
            maker.dir("/new/deep/place").unwrap();
            let stubs = maker.into_list();
            assert_eq!(stubs.len(), 5);
            remove(root, &stubs);
            assert!(!path.join("etc/hosts").exists() && !path.join("new").exists());
            assert_eq!((time(path), time(&path.join("etc"))), before);
        });
    }

    #[test]
    fn what_is_used_stays_and_so_does_its_time() {
        with_root(|path, root| {
            let mut maker = Maker::new(root).unwrap();
            maker.file("/a/file").unwrap();
            maker.dir("/b/dir").unwrap();
            let stubs = maker.into_list();
            fs::write(path.join("a/file"), "used").unwrap();
            fs::write(path.join("b/other"), "used").unwrap();
            let after = time(&path.join("b"));
            remove(root, &stubs);
            assert_eq!(fs::read(path.join("a/file")).unwrap(), b"used");
            assert!(!path.join("b/dir").exists() && path.join("b/other").exists());
            assert_eq!(time(&path.join("b")), after);
        });
    }

    #[test]
    fn links_lead_to_places_inside() {
        with_root(|path, root| {
            fs::create_dir(path.join("run")).unwrap();
            std::os::unix::fs::symlink("../../../../run", path.join("link")).unwrap();
            std::os::unix::fs::symlink("/run/target", path.join("dangling")).unwrap();
            let mut maker = Maker::new(root).unwrap();
            maker.dir("/link/x").unwrap();
            maker.file("/dangling").unwrap();
            assert!(path.join("run/x").is_dir() && path.join("run/target").is_file());
            remove(root, &maker.into_list());
            assert_eq!(fs::read_dir(path.join("run")).unwrap().count(), 0);
        });
    }

    #[test]
    fn places_that_are_ours_take_no_mount_through_a_link() {
        with_root(|path, root| {
            for name in ["proc", "sys", "dev"] {
                fs::create_dir(path.join(name)).unwrap();
            }
            std::os::unix::fs::symlink("/proc/sys", path.join("to-proc")).unwrap();
            std::os::unix::fs::symlink("sys/kernel", path.join("to-sys")).unwrap();
            std::os::unix::fs::symlink("../../dev/shm", path.join("to-dev")).unwrap();
            let mut maker = Maker::new(root).unwrap();
            for target in [
                "/",
                "/x/..",
                "/proc",
                "/proc/x",
                "/x/../proc/y",
                "/to-proc",
                "/to-proc/kernel",
                "/to-sys",
                "/to-dev/x",
            ] {
                assert!(matches!(maker.dir(target), Err(Fault::Refused(_))), "{target}");
                assert!(matches!(maker.file(target), Err(Fault::Refused(_))), "{target}");
            }
            maker.dir("/dev/shm").unwrap();
            maker.file("/x/../sys/one").unwrap();
            remove(root, &maker.into_list());
            for name in ["proc", "sys", "dev"] {
                assert_eq!(fs::read_dir(path.join(name)).unwrap().count(), 0);
            }
        });
    }

    #[test]
    fn our_own_places_are_directories_and_not_links() {
        with_root(|path, root| {
            fs::create_dir(path.join("real")).unwrap();
            std::os::unix::fs::symlink("real", path.join("proc")).unwrap();
            std::os::unix::fs::symlink("nowhere", path.join("sys")).unwrap();
            fs::write(path.join("dev"), "").unwrap();
            let mut maker = Maker::new(root).unwrap();
            for name in ["proc", "sys", "dev"] {
                assert!(matches!(maker.own(name), Err(Fault::Refused(_))), "{name}");
            }
            fs::remove_file(path.join("proc")).unwrap();
            maker.own("proc").unwrap();
            assert!(path.join("proc").is_dir() && maker.into_list().is_empty());
        });
    }

    #[test]
    fn a_stub_that_became_a_link_is_left_alone() {
        with_root(|path, root| {
            let mut maker = Maker::new(root).unwrap();
            maker.file("/d/f").unwrap();
            let stubs = maker.into_list();
            fs::rename(path.join("d"), path.join("moved")).unwrap();
            std::os::unix::fs::symlink("moved", path.join("d")).unwrap();
            remove(root, &stubs);
            assert!(path.join("moved/f").exists());
        });
    }
}
