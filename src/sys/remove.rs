//! Removing a tree by descriptors: any depth, directories without permissions included.
//!
//! `std::fs::remove_dir_all` recurses and needs to be let into each directory; layers hold trees of
//! thousands of levels, and directories of mode 0.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, chmodat, fstat, openat, unlinkat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

/// How many levels keep their descriptor; those further up are found again through `..`.
const OPEN_LEVELS: usize = 64;

const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Level {
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    /// Its name in the directory above.
    name: CString,
    /// Directories in it, still to be emptied.
    directories: Vec<CString>,
}

/// Removes `name` in `dir`, whatever it is, with all that is in it. Links are removed, not
/// followed; absence is not an error.
///
/// # Errors
///
/// The kernel's; part of the tree is gone then.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // PERM is what POSIX says of unlinking a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    let mut levels = vec![empty(dir, name, &mut buffer)?];
    loop {
        let depth = levels.len();
        let level = &mut levels[depth - 1];
        if let Some(directory) = level.directories.pop() {
            let fd = level.fd.as_ref().expect("the lowest level is open");
            if unlinkat(fd, &directory, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            let below = empty(fd.as_fd(), &directory, &mut buffer)?;
            levels.push(below);
            if let Some(far) = levels.len().checked_sub(1 + OPEN_LEVELS) {
                levels[far].fd = None;
            }
            continue;
        }
        let done = levels.pop().expect("there is a level");
        let Some(above) = levels.last_mut() else {
            return Ok(unlinkat(dir, &done.name, AtFlags::REMOVEDIR)?);
        };
        if above.fd.is_none() {
            let up = openat(done.fd.as_ref().expect("just emptied"), "..", FLAGS, Mode::empty())?;
            let stat = fstat(&up)?;
            if (stat.st_dev, stat.st_ino) != above.identity {
                return Err(Errno::STALE.into());
            }
            above.fd = Some(up);
        }
        unlinkat(above.fd.as_ref().expect("it was just opened"), &done.name, AtFlags::REMOVEDIR)?;
    }
}

/// Opens a directory, removes all in it but directories, and lists those.
fn empty(dir: BorrowedFd<'_>, name: &CStr, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Level> {
    let fd = match openat(dir, name, FLAGS, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // By a descriptor: a link may take the name's place.
            let held = openat(dir, name, FLAGS | OFlags::PATH, Mode::empty())?;
            let link = format!("/proc/self/fd/{}", held.as_raw_fd());
            chmodat(CWD, link, Mode::RWXU, AtFlags::empty())?;
            openat(dir, name, FLAGS, Mode::empty())?
        }
        other => other?,
    };
    let stat = fstat(&fd)?;
    if stat.st_mode & 0o700 != 0o700 {
        // Who is not root cannot remove entries without these; for root it does no harm.
        let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
    }
    let mut directories = Vec::new();
    let mut entries = RawDir::new(&fd, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            directories.push(name.to_owned());
            continue;
        }
        match unlinkat(&fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if entry.file_type() == FileType::Unknown => {
                directories.push(name.to_owned());
            }
            Err(e) => return Err(e.into()),
        }
    }
    let identity = (stat.st_dev, stat.st_ino);
    Ok(Level { fd: Some(fd), identity, name: name.to_owned(), directories })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn deep_trees_and_closed_directories_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        fs::write(dir.path().join("keep"), "x").unwrap();
        fs::create_dir(dir.path().join("t")).unwrap();
        fs::create_dir(dir.path().join("t/closed")).unwrap();
        fs::write(dir.path().join("t/closed/f"), "x").unwrap();
        fs::set_permissions(dir.path().join("t/closed"), fs::Permissions::from_mode(0o000))
            .unwrap();
        symlink("../keep", dir.path().join("t/link")).unwrap();
        symlink("..", dir.path().join("t/up")).unwrap();
        let mut fd = openat(&root, "t", FLAGS, Mode::empty()).unwrap();
        for _ in 0..1100 {
            rustix::fs::mkdirat(&fd, "d", Mode::from(0o755)).unwrap();
            fd = openat(&fd, "d", FLAGS, Mode::empty()).unwrap();
        }
        remove_tree(root.as_fd(), c"t").unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["keep"]);
        remove_tree(root.as_fd(), c"t").unwrap();
        remove_tree(root.as_fd(), c"keep").unwrap();
        assert!(!dir.path().join("keep").exists());
    }
}
