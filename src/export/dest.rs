//! A file that appears when it is finished.

use super::ExportError;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, renameat_with};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// From how many bytes on a file's way to the disk takes long enough to be noticed.
const LARGE: u64 = 1 << 20;

/// Where the bytes of an output go.
#[derive(Debug)]
pub(super) struct DestFile {
    file: File,
    path: PathBuf,
    state: FileState,
}

#[derive(Debug)]
enum FileState {
    /// Without a name: whatever happens to us, the kernel removes it.
    Unnamed,
    /// Under a name of its own beside the destination, where the file system knows no unnamed ones.
    Named(PathBuf),
    /// A pipe, a terminal, a device: written as it comes.
    Direct,
    Finished,
}

impl DestFile {
    /// Starts a file at `path`, which stays as it is until [`finish`](Self::finish).
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        let failed = |e: io::Error| ExportError::io("create", path, e);
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                return Err(ExportError::IsDirectory { path: path.to_owned() });
            }
            Ok(meta)
                if meta.file_type().is_fifo()
                    || meta.file_type().is_char_device()
                    || meta.file_type().is_socket() =>
            {
                let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                return Ok(Self { file, path: path.to_owned(), state: FileState::Direct });
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::open(directory(path), flags, Mode::from_raw_mode(0o666)) {
            return Ok(Self { file: fd.into(), path: path.to_owned(), state: FileState::Unnamed });
        }
        let (name, file) =
            beside(path, |name| OpenOptions::new().write(true).create_new(true).open(name))
                .map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), state: FileState::Named(name) })
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the file visible, replacing what was at its place in one step.
    pub(super) fn finish(mut self) -> Result<(), ExportError> {
        let path = self.path.clone();
        let failed = |e: io::Error| ExportError::io("write", &path, e);
        self.file.flush().map_err(failed)?;
        let state = std::mem::replace(&mut self.state, FileState::Finished);
        let name = match state {
            FileState::Direct | FileState::Finished => return Ok(()),
            FileState::Named(name) => name,
            FileState::Unnamed => {
                let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let (name, ()) = beside(&path, |name| {
                    Ok(rustix::fs::linkat(CWD, &from, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
                })
                .map_err(failed)?;
                name
            }
        };
        let placed = crate::sys::fault::at("export.written")
            .and_then(|()| replace(&self.file, &name, &path));
        placed.map_err(|e| {
            let _ = fs::remove_file(&name);
            failed(e)
        })
    }
}

impl Write for DestFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for DestFile {
    fn drop(&mut self) {
        if let FileState::Named(name) = &self.state {
            let _ = fs::remove_file(name);
        }
    }
}

/// Puts the file `name` at `path`, in place of what is there, in one step.
///
/// A large one changes places with its predecessor, which is removed then: ext4 sends a file to the
/// disk that is renamed over another (`auto_da_alloc`), and the half second that 500 MB take helps
/// no user.
fn replace(file: &File, name: &Path, path: &Path) -> io::Result<()> {
    let is_large = file.metadata()?.len() >= LARGE;
    if is_large && renameat_with(CWD, name, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        return fs::remove_file(name);
    }
    // Nothing is there, or the file system cannot do that.
    fs::rename(name, path)
}

/// Returns the directory a path is in; `.` for a bare name.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes something under an unused name beside `path`.
pub(super) fn beside<T>(
    path: &Path,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut n = 0u32;
    loop {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.{n}.tmp", std::process::id()));
        let candidate = directory(path).join(temporary);
        match make(&candidate) {
            Ok(made) => return Ok((candidate, made)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && n < 10_000 => n += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Writes a file by `write`; what is at `path` stays until all of it is there.
///
/// # Errors
///
/// What `write` says; [`ExportError`] where the file cannot be made.
pub fn write_by<E: From<ExportError>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let mut dest = DestFile::create(path)?;
    write(dest.file())?;
    Ok(dest.finish()?)
}

/// Writes a small file at once: all of it, or nothing.
///
/// # Errors
///
/// [`ExportError::Io`] with the path.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut file = DestFile::create(path)?;
    file.write_all(bytes).map_err(|e| ExportError::io("write", path, e))?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        write_whole(&path, b"old").unwrap();
        let mut file = DestFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_large_file_takes_the_place_of_another_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for byte in [1, 2, 3] {
            let bytes = vec![byte; LARGE as usize];
            write_whole(&path, &bytes).unwrap();
            assert!(fs::read(&path).unwrap() == bytes);
            assert_eq!(names(dir.path()), ["out"]);
        }
    }

    #[test]
    fn a_directory_and_a_missing_directory_are_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(DestFile::create(dir.path()), Err(ExportError::IsDirectory { .. })));
        let missing = DestFile::create(&dir.path().join("no/out"));
        assert!(matches!(missing, Err(ExportError::Io { .. })));
    }
}
