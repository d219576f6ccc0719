//! Opening and reading files that another party chose, or can change while they are read.
//!
//! | whose file | function | links | kinds | size |
//! |---|---|---|---|---|
//! | in a context, a layout, a cache | [`open`], [`read`] | none, or inside the root ([`Links`]) | regular | limited |
//! | found beside something the user named | [`read_at`] | followed | regular | limited |
//! | named by the user | [`Given::open`] | followed | regular, pipe, character device | limited by [`Given::read_to_limit`], or a stream |
//! | standard input | [`Given::stdin`] | | any | as above |
//!
//! A file of the first two rows is opened only after its type was checked, without blocking and
//! without becoming a controlling terminal, and its type is checked again by descriptor: a FIFO, a
//! device, a socket or a lease of another process cannot make the program wait. A [`Given`] may
//! wait for its writer, and every wait ends when the build is cancelled.

use super::cancel::Cancel;
use super::rooted::{open_beneath, open_in_root};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// How long a read waits before it looks at the cancel flag again.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How symbolic links of a path are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// A link anywhere in the path is an error.
    Refused,
    /// Links are followed as if the directory were the root of the file system.
    InsideRoot,
}

/// Says whether an optional file at `path` counts as absent: it is not there, or a directory above
/// it cannot be searched, such as another user's home.
pub fn is_out_of_reach(path: &Path, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        // Where the file itself is refused, its name can be looked at.
        io::ErrorKind::PermissionDenied => std::fs::symlink_metadata(path).is_err(),
        _ => false,
    }
}

/// A read that ended because the build was cancelled.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Opens the regular file `path` beneath `root`. `path` has no leading slash, no `.` and no `..`
/// where links are refused.
///
/// # Errors
///
/// `InvalidInput` with the type for anything but a regular file; else what openat2(2) says.
pub fn open(root: BorrowedFd<'_>, path: &[u8], links: Links) -> io::Result<File> {
    checked(|flags| match links {
        Links::Refused => open_beneath(root, path, flags).map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) => is_link(),
            _ => e,
        }),
        Links::InsideRoot => open_in_root(root, path, flags),
    })
}

/// Opens the regular file at `path`, following links.
///
/// # Errors
///
/// As [`open`].
pub fn open_at(path: &Path) -> io::Result<File> {
    checked(|flags| Ok(openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())?))
}

/// Opens a file twice: to check its type, which has no effect on a device or FIFO, and to read it.
fn checked(open: impl Fn(OFlags) -> io::Result<OwnedFd>) -> io::Result<File> {
    let seen = fstat(open(OFlags::PATH)?)?;
    expect_regular(&seen)?;
    let file = open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    expect_regular(&fstat(&file)?)?;
    Ok(File::from(file))
}

fn expect_regular(stat: &Stat) -> io::Result<()> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::Symlink => return Err(is_link()),
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(not_regular(kind))
}

fn is_link() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link, which is not followed here")
}

fn not_regular(kind: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, not a regular file"))
}

fn too_large(max: u64) -> io::Error {
    let limit = match max {
        max if max >= 1 << 20 && max.is_multiple_of(1 << 20) => format!("{} MiB", max >> 20),
        max if max >= 1 << 10 && max.is_multiple_of(1 << 10) => format!("{} KiB", max >> 10),
        max => format!("{max} bytes"),
    };
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit}"))
}

/// Reads a file of at most `max` bytes beneath `root`.
///
/// # Errors
///
/// As [`open`]; `FileTooLarge`.
pub fn read(root: BorrowedFd<'_>, path: &[u8], links: Links, max: u64) -> io::Result<Vec<u8>> {
    whole(open(root, path, links)?, max)
}

/// Reads a regular file of at most `max` bytes, following links.
///
/// # Errors
///
/// As [`read`].
pub fn read_at(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    whole(open_at(path)?, max)
}

/// Reads an open file of at most `max` bytes.
///
/// # Errors
///
/// `FileTooLarge`, or what read(2) says.
pub fn whole(file: File, max: u64) -> io::Result<Vec<u8>> {
    if file.metadata()?.len() > max {
        return Err(too_large(max));
    }
    limited(file, max)
}

fn limited(file: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(too_large(max));
    }
    Ok(bytes)
}

/// A file that the user named, or standard input. Reading it ends with [`Interrupted`] once the
/// build is cancelled.
#[derive(Debug)]
pub struct Given {
    file: File,
    kind: FileType,
    cancel: Cancel,
}

impl Given {
    /// Opens what is at `path`; links are followed. A pipe without a writer is opened, and reading
    /// waits for one.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a block device; else what open(2) says.
    pub fn open(path: &Path, cancel: &Cancel) -> io::Result<Self> {
        let seen = fstat(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
        match FileType::from_raw_mode(seen.st_mode) {
            FileType::Directory => return Err(Errno::ISDIR.into()),
            FileType::BlockDevice => return Err(not_regular("a device")),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Self::of(openat(CWD, path, flags, Mode::empty())?, cancel)
    }

    /// Opens what is at `path` for a stream without a size limit, so not an endless device.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `InvalidInput` for any device but a terminal.
    pub fn open_stream(path: &Path, cancel: &Cancel) -> io::Result<Self> {
        let given = Self::open(path, cancel)?;
        if given.kind == FileType::CharacterDevice && !rustix::termios::isatty(&given.file) {
            return Err(not_regular("a device"));
        }
        Ok(given)
    }

    /// Takes standard input.
    ///
    /// # Errors
    ///
    /// Where its descriptor cannot be duplicated.
    pub fn stdin(cancel: &Cancel) -> io::Result<Self> {
        Self::of(rustix::stdio::stdin().try_clone_to_owned()?, cancel)
    }

    fn of(fd: OwnedFd, cancel: &Cancel) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        Ok(Self { file: File::from(fd), kind, cancel: cancel.clone() })
    }

    /// Reads at most `max` bytes to the end.
    ///
    /// # Errors
    ///
    /// `FileTooLarge`, [`Interrupted`], or what read(2) says.
    pub fn read_to_limit(self, max: u64) -> io::Result<Vec<u8>> {
        if self.kind == FileType::RegularFile && self.file.metadata()?.len() > max {
            return Err(too_large(max));
        }
        limited(self, max)
    }

    /// Waits until there is something to read, or the end, for a moment.
    fn is_ready(&self) -> io::Result<bool> {
        let mut watched = [PollFd::new(&self.file, PollFlags::IN)];
        match poll(&mut watched, Some(&LOOK_EVERY)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Read for Given {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let is_regular = self.kind == FileType::RegularFile;
        loop {
            if self.cancel.is_cancelled() {
                // Not of kind `Interrupted`, which the standard library tries again.
                return Err(io::Error::other(Interrupted));
            }
            if !is_regular && !self.is_ready()? {
                continue;
            }
            match self.file.read(out) {
                // A file of procfs that has nothing more to say for now.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && is_regular => return Err(e),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                result => return result,
            }
        }
    }
}

impl AsFd for Given {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn fifo(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    }

    #[test]
    fn only_regular_files_inside_the_root_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root_path = dir.path().join("root");
        std::fs::create_dir(&root_path).unwrap();
        let place = |name: &str| root_path.join(name);
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        std::fs::write(place("file"), "12345").unwrap();
        std::fs::create_dir(place("dir")).unwrap();
        symlink("file", place("link")).unwrap();
        symlink("/file", place("absolute")).unwrap();
        symlink("../outside", place("out")).unwrap();
        symlink("/dev/zero", place("endless")).unwrap();
        symlink("/proc/self/fd/0", place("magic")).unwrap();
        fifo(&place("fifo"));
        let _socket = UnixListener::bind(place("socket")).unwrap();
        let sparse = File::create(place("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let root = File::open(&root_path).unwrap();
        let get = |name: &str, links| read(root.as_fd(), name.as_bytes(), links, 5);
        assert_eq!(get("file", Links::Refused).unwrap(), b"12345");
        for name in ["file", "link", "absolute"] {
            assert_eq!(get(name, Links::InsideRoot).unwrap(), b"12345", "{name}");
        }
        for links in [Links::Refused, Links::InsideRoot] {
            let refused = ["dir", "out", "endless", "magic", "fifo", "socket", "sparse", "none"];
            for name in refused {
                assert!(get(name, links).is_err(), "{name}");
            }
        }
        assert!(get("link", Links::Refused).is_err());
        let short = read(root.as_fd(), b"file", Links::Refused, 4).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::FileTooLarge);
        assert!(read_at(&place("fifo"), 5).is_err());
        assert!(read_at(Path::new("/dev/null"), 5).is_err());
        assert_eq!(read_at(&place("link"), 5).unwrap(), b"12345");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_whenever_its_writer_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        fifo(&path);
        let cancel = Cancel::new();
        let given = Given::open(&path, &cancel).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || File::create(path).unwrap().write_all(b"late").unwrap()
        });
        assert_eq!(given.read_to_limit(10).unwrap(), b"late");
        writer.join().unwrap();
        let given = Given::open(Path::new("/dev/zero"), &cancel).unwrap();
        let endless = given.read_to_limit(1 << 20).unwrap_err();
        assert_eq!(endless.to_string(), "it is larger than 1 MiB");
        assert!(Given::open_stream(Path::new("/dev/zero"), &cancel).is_err());
        let empty = Given::open(Path::new("/dev/null"), &cancel).unwrap();
        assert_eq!(empty.read_to_limit(1).unwrap(), b"");
    }

    #[test]
    fn waiting_for_a_writer_ends_when_the_build_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        fifo(&path);
        let cancel = Cancel::new();
        let given = Given::open(&path, &cancel).unwrap();
        let reader = std::thread::spawn(move || given.read_to_limit(10));
        cancel.cancel();
        let error = reader.join().unwrap().unwrap_err();
        let inner = error.into_inner().unwrap();
        assert!(inner.is::<Interrupted>(), "{inner}");
    }
}
