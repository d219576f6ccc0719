//! Opening paths beneath a directory descriptor, so that no link can lead out of it.
//!
//! The kernel resolves (`openat2`); where it cannot (before Linux 5.6, or a filter that refuses the
//! call) the path is walked one component at a time.
//!
//! Source: openat2(2).

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest path that is given to the kernel at once; its limit is 4096 with the final zero.
const PATH_STEP: usize = 4000;

/// Links followed before a path is taken for a loop; the kernel's own limit.
const LINKS_MAX: u32 = 40;

static LACKS_OPENAT2: AtomicBool = AtomicBool::new(false);

fn try_openat2(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> Option<rustix::io::Result<OwnedFd>> {
    if LACKS_OPENAT2.load(Ordering::Relaxed) {
        return None;
    }
    loop {
        match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM)
                if rustix::fs::openat2(
                    dir,
                    ".",
                    OFlags::PATH | OFlags::CLOEXEC,
                    Mode::empty(),
                    ResolveFlags::BENEATH,
                )
                .is_err() =>
            {
                LACKS_OPENAT2.store(true, Ordering::Relaxed);
                return None;
            }
            // A rename somewhere raced with a `..`; the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Some(result),
        }
    }
}

/// Opens `path` beneath `dir` without following any link, not even the last part.
///
/// `path` has no leading slash, no `.` and no `..`; empty means `dir` itself. Paths longer than the
/// kernel's limit work.
///
/// # Errors
///
/// `ELOOP` where a part is a link, else what openat2(2) says.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    if path.len() > PATH_STEP {
        let cut = path[..PATH_STEP].iter().rposition(|&b| b == b'/');
        let cut = cut.ok_or(io::Error::from(Errno::NAMETOOLONG))?;
        let next = open_beneath(dir, &path[..cut], OFlags::PATH | OFlags::DIRECTORY)?;
        return open_beneath(next.as_fd(), &path[cut + 1..], flags);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    if let Some(result) = try_openat2(dir, path, flags | OFlags::NOFOLLOW, resolve) {
        return Ok(result?);
    }
    let wants_link_itself = flags.contains(OFlags::PATH);
    let mut parts = path.split(|&b| b == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let how = if is_last { flags } else { OFlags::PATH | OFlags::DIRECTORY };
        let from = at.as_ref().map_or(dir, AsFd::as_fd);
        let how = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = Some(rustix::fs::openat(from, part, how, Mode::empty())?);
    }
    let file = at.ok_or_else(|| io::Error::from(Errno::NOENT))?;
    // With O_PATH a link at the end is opened itself, which openat2 refuses.
    if wants_link_itself && is_link(&file)? {
        return Err(Errno::LOOP.into());
    }
    Ok(file)
}

fn is_link(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_symlink())
}

/// Opens `path` as a process would whose root directory is `root`: links are followed, and absolute
/// ones and `..` stay inside. The links of procfs that lead to whatever a process has open
/// (`/proc/PID/fd/N`, `exe`, `cwd`, `root`) are not followed.
///
/// # Errors
///
/// `ELOOP` for a link of procfs and for a loop, else what openat2(2) says.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    if path.len() <= PATH_STEP
        && let Some(result) =
            try_openat2(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    {
        return Ok(result?);
    }
    let resolved = resolve_in_root(root, path)?;
    if resolved.missing > 0 {
        return Err(Errno::NOENT.into());
    }
    open_beneath(root, &resolved.path, flags)
}

/// Where a path leads inside a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Path without links, `.`, `..` or a leading slash; empty is the root.
    pub path: Vec<u8>,
    /// How many parts at its end do not exist.
    pub missing: usize,
    /// Every link that was followed, as a path of the same form.
    pub links: Vec<Vec<u8>>,
}

/// Follows all links of `path` inside `root`, the last part included, also where parts are missing.
///
/// # Errors
///
/// `ELOOP` after 40 links, and at a link of procfs that leads to what a process has open; `EACCES`
/// and the like from readlinkat(2). A file where a directory should be is not an error: what
/// follows it counts as missing.
pub fn resolve_in_root(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Resolved> {
    let mut todo: Vec<Vec<u8>> = path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut out = Resolved { path: Vec::new(), missing: 0, links: Vec::new() };
    while let Some(part) = todo.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                let cut = out.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                out.path.truncate(cut);
                out.missing = out.missing.saturating_sub(1);
                continue;
            }
            _ => {}
        }
        let parent = out.path.len();
        if parent > 0 {
            out.path.push(b'/');
        }
        out.path.extend_from_slice(&part);
        if out.missing > 0 {
            out.missing += 1;
            continue;
        }
        match readlink_at(root, &out.path) {
            Ok(target) => {
                if out.links.len() as u32 >= LINKS_MAX || is_magic(root, &out.path, &target)? {
                    return Err(Errno::LOOP.into());
                }
                out.links.push(out.path.clone());
                out.path.truncate(if target.starts_with(b"/") { 0 } else { parent });
                todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
            }
            Err(Errno::INVAL) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => out.missing = 1,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(out)
}

/// Reads the link at `path`, of which no other part is a link.
fn readlink_at(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Vec<u8>> {
    if path.len() > PATH_STEP {
        let cut = path.iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
        let dir = open_beneath(root, &path[..cut], OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        return Ok(rustix::fs::readlinkat(dir, &path[cut + 1..], Vec::new())?.into_bytes());
    }
    Ok(rustix::fs::readlinkat(root, path, Vec::new())?.into_bytes())
}

/// Says whether a link leads to an object of a process rather than to a name: in procfs all links
/// do but those that name another entry of procfs (`self`, `mounts`, `net`).
fn is_magic(root: BorrowedFd<'_>, path: &[u8], target: &[u8]) -> io::Result<bool> {
    const NAMES: [&[u8]; 4] = [b"self", b"thread-self", b"mounts", b"net"];
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    // What a link of an ordinary filesystem says may look the same; so the filesystem is asked,
    // where the text can be that of an object at all.
    let is_object = target.starts_with(b"/")
        || target.starts_with(b"(unreachable)")
        || (target.contains(&b':') && target.ends_with(b"]"))
        || target.starts_with(b"anon_inode:");
    if !is_object || NAMES.contains(&name) {
        return Ok(false);
    }
    let (parent, _) = path.split_at(path.len() - name.len());
    let parent = parent.strip_suffix(b"/").unwrap_or(parent);
    let parent = open_beneath(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
    is_procfs(parent.as_fd())
}

/// Says whether a file is one of procfs.
///
/// # Errors
///
/// What fstatfs(2) says.
pub fn is_procfs(file: BorrowedFd<'_>) -> io::Result<bool> {
    const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;
    Ok(rustix::fs::fstatfs(file)?.f_type == PROC_SUPER_MAGIC)
}

/// Says whether `path`, of which no part is a link, is there, and what it is.
///
/// # Errors
///
/// What fstatat(2) says, but for a missing file.
pub fn stat_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<rustix::fs::Stat>> {
    let result = if path.len() > PATH_STEP {
        open_beneath(root, path, OFlags::PATH).and_then(|fd| Ok(rustix::fs::fstat(fd)?))
    } else {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
    };
    match result {
        Ok(stat) => Ok(Some(stat)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/f"), "1").unwrap();
        symlink("/a/b", dir.path().join("abs")).unwrap();
        symlink("../../../../a", dir.path().join("up")).unwrap();
        symlink("/nowhere/deep", dir.path().join("dangling")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        symlink("abs/f", dir.path().join("two")).unwrap();
        dir
    }

    #[test]
    fn links_are_resolved_inside_the_root() {
        let dir = tree();
        let root = std::fs::File::open(dir.path()).unwrap();
        const CASES: [(&str, &str, usize); 12] = [
            ("", "", 0),
            ("/", "", 0),
            ("/a/./b/", "a/b", 0),
            ("abs/f", "a/b/f", 0),
            ("up/b/f", "a/b/f", 0),
            ("two", "a/b/f", 0),
            ("../../a", "a", 0),
            ("a/../abs", "a/b", 0),
            ("dangling/sub", "nowhere/deep/sub", 3),
            ("new/x/y", "new/x/y", 3),
            ("new/../a", "a", 0),
            ("a/b/f/x", "a/b/f/x", 1),
        ];
        for (path, expected, missing) in CASES {
            let got = resolve_in_root(root.as_fd(), path.as_bytes()).unwrap();
            assert_eq!(
                (got.path.as_slice(), got.missing),
                (expected.as_bytes(), missing),
                "{path}"
            );
        }
        let error = resolve_in_root(root.as_fd(), b"loop").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn links_of_procfs_are_not_followed() {
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let proc = std::fs::File::open("/proc").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        for lacks in [false, true] {
            LACKS_OPENAT2.store(lacks, Ordering::Relaxed);
            for path in [
                format!("self/fd/{number}"),
                format!("thread-self/fd/{number}"),
                "self/exe".to_owned(),
                "self/cwd".to_owned(),
                "self/root/etc/passwd".to_owned(),
                "self/ns/mnt".to_owned(),
            ] {
                for flags in [OFlags::PATH, OFlags::RDONLY] {
                    let opened = open_in_root(proc.as_fd(), path.as_bytes(), flags);
                    let error = opened.expect_err(&path).raw_os_error();
                    assert_eq!(error, Some(libc::ELOOP), "{path}");
                }
            }
            assert!(open_in_root(proc.as_fd(), b"self/status", OFlags::RDONLY).is_ok());
            assert!(open_in_root(proc.as_fd(), b"mounts", OFlags::RDONLY).is_ok());
        }
        LACKS_OPENAT2.store(false, Ordering::Relaxed);
    }

    #[test]
    fn opening_beneath_follows_nothing() {
        let dir = tree();
        let root = std::fs::File::open(dir.path()).unwrap();
        for lacks in [false, true] {
            LACKS_OPENAT2.store(lacks, Ordering::Relaxed);
            assert!(open_beneath(root.as_fd(), b"a/b/f", OFlags::RDONLY).is_ok());
            assert!(open_beneath(root.as_fd(), b"", OFlags::RDONLY).is_ok());
            for path in ["abs", "abs/f", "up/b", "two"] {
                assert!(
                    open_beneath(root.as_fd(), path.as_bytes(), OFlags::RDONLY).is_err(),
                    "{path}"
                );
            }
            assert!(open_in_root(root.as_fd(), b"two", OFlags::RDONLY).is_ok());
            assert!(open_in_root(root.as_fd(), b"dangling", OFlags::RDONLY).is_err());
        }
        LACKS_OPENAT2.store(false, Ordering::Relaxed);
    }
}
