//! The final files of an image, without its layers: as a tar, or in a directory.

use super::{Context, ExportError, Product};
use crate::image::Image;
use crate::layer::{self, LayerEntry, LayerEntryKind, LayerError, TarOptions, Times, Walk};
use crate::oci::Platform;
use crate::snapshot::{self, MountOptions, Mounted, XattrSpace};
use crate::sys::cancel::Cancel;
use crate::sys::remove::remove_tree;
use crate::sys::rooted::open_beneath;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, fchmod, fchown, futimens,
    linkat, mkdirat, mknodat, openat, renameat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

fn mounted(context: &Context<'_>, image: &Image) -> Result<Mounted, ExportError> {
    let lowers: Vec<PathBuf> =
        image.layers.iter().flat_map(|layer| layer.layer.directories()).collect();
    let options = MountOptions { read_only: true, ..MountOptions::in_store(context.store) };
    Ok(snapshot::mount(&lowers, None, &options)?)
}

/// Returns the directory of each image's files: one named after its platform where there are
/// several images or `is_split` says so, else none.
///
/// # Errors
///
/// [`ExportError::SamePath`] where images of several platforms are to share one directory, and
/// both have a file of one name.
fn directories(
    context: &Context<'_>,
    product: Product<'_>,
    is_split: Option<bool>,
) -> Result<Vec<String>, ExportError> {
    let images = product.images();
    let is_split = is_split.unwrap_or(matches!(product, Product::Index(_)));
    if !is_split && images.len() > 1 {
        check_apart(context, &images)?;
    }
    let name = |platform: &Platform| match is_split {
        true => platform.to_string().replace('/', "_"),
        false => String::new(),
    };
    Ok(images.iter().map(|(platform, _)| name(platform)).collect())
}

/// Checks that no path is that of a file in one image and of anything in another.
fn check_apart(context: &Context<'_>, images: &[(Platform, &Image)]) -> Result<(), ExportError> {
    let mut taken: BTreeMap<Vec<u8>, (usize, bool)> = BTreeMap::new();
    for (number, (_, image)) in images.iter().enumerate() {
        let mount = mounted(context, image)?;
        let mut twice = None;
        let walked =
            Walk::new(XattrSpace::detect(), context.cancel).run(mount.root(), |entry, _| {
                let is_dir = entry.kind == LayerEntryKind::Dir;
                match taken.get(entry.path) {
                    Some((first, was_dir)) if *first != number && !(is_dir && *was_dir) => {
                        twice = Some((entry.path.to_vec(), *first));
                        return Err(LayerError::Cancelled);
                    }
                    Some(_) => {}
                    None => drop(taken.insert(entry.path.to_vec(), (number, is_dir))),
                }
                Ok(())
            });
        if let Some((path, first)) = twice {
            return Err(ExportError::SamePath {
                path: String::from_utf8_lossy(&path).into_owned(),
                platforms: [first, number].map(|number| images[number].0.clone()),
            });
        }
        walked.map_err(|error| match error {
            LayerError::Cancelled => ExportError::Cancelled,
            error => error.into(),
        })?;
    }
    Ok(())
}

/// Writes the final files as one tar, in the form layers have.
pub(super) fn write_tar(
    context: &Context<'_>,
    product: Product<'_>,
    is_split: Option<bool>,
    times: Times,
    path: &Path,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let names = directories(context, product, is_split)?;
    let mounts = product.images().into_iter().map(|(_, image)| mounted(context, image));
    let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    let trees: Vec<_> = names.into_iter().zip(mounts.iter().map(Mounted::root)).collect();
    let mut out = io::BufWriter::with_capacity(256 << 10, out);
    let options = TarOptions { times, ..TarOptions::detect() };
    layer::write_trees(&trees, &mut out, &options, context.cancel).map_err(|e| at_path(e, path))?;
    out.flush().map_err(|e| ExportError::io("write", path, e))
}

/// Says which file could not be written.
fn at_path(error: LayerError, path: &Path) -> ExportError {
    match error {
        LayerError::Output { source, .. } => ExportError::io("write", path, source),
        LayerError::Cancelled => ExportError::Cancelled,
        other => other.into(),
    }
}

/// Writes the final files into a directory, or into one below it for each platform.
pub(super) fn write_local(
    context: &Context<'_>,
    product: Product<'_>,
    is_split: Option<bool>,
    times: Times,
    dir: &Path,
) -> Result<(), ExportError> {
    let names = directories(context, product, is_split)?;
    fs::create_dir_all(dir).map_err(|e| ExportError::io("create", dir, e))?;
    let root: OwnedFd = File::open(dir).map_err(|e| ExportError::io("open", dir, e))?.into();
    for ((_, image), name) in product.images().into_iter().zip(names) {
        if name.is_empty() {
            write_files(context, image, times, (dir, root.as_fd()))?;
            continue;
        }
        let path = dir.join(&name);
        // As entries of an image: what is in the way is replaced, and never followed.
        let made = CString::new(name).map_err(|e| ExportError::io("name", &path, e.into()))?;
        let made = make_dir(root.as_fd(), &made).and_then(|made| own(&made).map(|()| made));
        let made = made.map_err(|e| ExportError::io("create", &path, e))?;
        write_files(context, image, times, (&path, made.as_fd()))?;
        finish_directory(&made, times)
            .map_err(|e| ExportError::io("set mode and times of", &path, e))?;
    }
    Ok(())
}

/// Writes the final files of an image into a directory, beside what is there. They belong to the caller, as
/// those that `docker build -o` writes; modes and times are kept. Files are replaced one by one,
/// each whole; what has another type than the image's entry is removed first, with all below it,
/// and never followed. Device nodes are left out, and files that run with their owner's rights are
/// reported.
fn write_files(
    context: &Context<'_>,
    image: &Image,
    times: Times,
    (dir, root): (&Path, BorrowedFd<'_>),
) -> Result<(), ExportError> {
    let mount = mounted(context, image)?;
    let mut local = Local {
        dir,
        cancel: context.cancel,
        root,
        times,
        directories: Vec::new(),
        open: None,
        devices: Noted::default(),
        privileged: Noted::default(),
    };
    let mut failed = None;
    let walked =
        Walk::new(XattrSpace::detect(), context.cancel).run(mount.root(), |entry, file| {
            local.entry(entry, file).map_err(|error| {
                failed = Some(error);
                LayerError::Cancelled
            })
        });
    match (failed, walked) {
        _ if context.cancel.is_cancelled() => Err(ExportError::Cancelled),
        (Some(error), _) => Err(error),
        (None, Err(LayerError::Cancelled)) => Err(ExportError::Cancelled),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(())) => {
            local.notify(context);
            local.finish()
        }
    }
}

struct Local<'a> {
    dir: &'a Path,
    cancel: &'a Cancel,
    root: BorrowedFd<'a>,
    times: Times,
    /// Directories whose times are set at the end, when nothing changes them any more.
    directories: Vec<(Vec<u8>, u32, Timestamps)>,
    /// The directory of the last entry: siblings come one after the other.
    open: Option<(Vec<u8>, OwnedFd)>,
    /// Device nodes that were left out.
    devices: Noted,
    /// Files with set-user-id or set-group-id bits.
    privileged: Noted,
}

/// How many entries of a kind there are, and the first one.
#[derive(Debug, Default)]
struct Noted {
    count: u64,
    first: String,
}

impl Noted {
    fn add(&mut self, path: &[u8]) {
        if self.count == 0 {
            self.first = String::from_utf8_lossy(path).escape_debug().to_string();
        }
        self.count += 1;
    }

    fn shown(&self, one: &str, many: &str) -> String {
        match self.count {
            1 => format!("{one} ({})", self.first),
            count => format!("{count} {many} (the first is {})", self.first),
        }
    }
}

/// The name a file has until it is whole.
const TEMPORARY: &str = ".builder-export.tmp";

impl Local<'_> {
    fn entry(&mut self, entry: &LayerEntry<'_>, file: Option<OwnedFd>) -> Result<(), ExportError> {
        let (parent, name) = match entry.path.iter().rposition(|&b| b == b'/') {
            Some(cut) => (&entry.path[..cut], &entry.path[cut + 1..]),
            None => (&b""[..], entry.path),
        };
        if self.open.as_ref().is_none_or(|(path, _)| path != parent) {
            let fd =
                open_beneath(self.root, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)
                    .map_err(|e| self.error("open the directory of", entry, e))?;
            self.open = Some((parent.to_vec(), fd));
        }
        let (_, directory) = self.open.as_ref().expect("opened above");
        let name = CString::new(name).map_err(|e| self.error("name", entry, e.into()))?;
        let tv_sec = self.times.of(entry.mtime);
        let tv_nsec = if tv_sec == entry.mtime { entry.mtime_nsec.into() } else { 0 };
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        let mode = Mode::from_raw_mode(entry.mode);
        if matches!(entry.kind, LayerEntryKind::Char { .. } | LayerEntryKind::Block { .. }) {
            self.devices.add(entry.path);
            return Ok(());
        }
        if entry.kind == LayerEntryKind::Dir {
            let made =
                make_dir(directory.as_fd(), &name).map_err(|e| self.error("create", entry, e))?;
            own(&made).map_err(|e| self.error("change the owner of", entry, e))?;
            self.directories.push((entry.path.to_vec(), entry.mode, times));
            return Ok(());
        }
        if is_privileged(entry) {
            self.privileged.add(entry.path);
        }
        remove(directory.as_fd(), c".builder-export.tmp")
            .map_err(|e| self.error("create", entry, e))?;
        let result = make(
            directory.as_fd(),
            self.root,
            entry,
            file.map(|file| (file, self.cancel)),
            mode,
            &times,
        )
        .and_then(|()| {
            let rename = || renameat(directory, TEMPORARY, directory, &name);
            let renamed = match rename() {
                // A directory is in the way.
                Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                    remove(directory.as_fd(), &name).and_then(|()| Ok(rename()?))
                }
                other => other.map_err(io::Error::from),
            };
            renamed.map_err(|e| ("create", e))
        });
        // Renaming onto another name of the same file leaves both.
        let _ = unlinkat(directory, TEMPORARY, AtFlags::empty());
        result.map_err(|(doing, e)| self.error(doing, entry, e))
    }

    /// Says what is special about the files.
    fn notify(&self, context: &Context<'_>) {
        if self.devices.count > 0 {
            context.progress.notice_of(context.vertex, format!(
                "left out of {}: {}; outside of an image a device node gives access to the device, \
                 and -o type=tar keeps it",
                self.dir.display(),
                self.devices.shown("a device node", "device nodes")
            ));
        }
        if self.privileged.count > 0 {
            context.progress.notice_of(context.vertex, format!(
                "{} has {} with set-user-id or set-group-id bits: any user who can reach it runs it with the rights \
                 of its owner",
                self.dir.display(),
                self.privileged.shown("a file", "files")
            ));
        }
    }

    fn finish(self) -> Result<(), ExportError> {
        for (path, mode, times) in self.directories.iter().rev() {
            let set = || -> io::Result<()> {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
                let fd = open_beneath(self.root, path, flags)?;
                fchmod(&fd, Mode::from_raw_mode(*mode))?;
                Ok(futimens(&fd, times)?)
            };
            set().map_err(|source| ExportError::Entry {
                doing: "set mode and times of",
                path: String::from_utf8_lossy(path).into_owned(),
                dest: self.dir.to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    fn error(&self, doing: &'static str, entry: &LayerEntry<'_>, source: io::Error) -> ExportError {
        ExportError::Entry {
            doing,
            path: String::from_utf8_lossy(entry.path).into_owned(),
            dest: self.dir.to_owned(),
            source,
        }
    }
}

/// Says whether a program runs with the rights of its owner or group.
fn is_privileged(entry: &LayerEntry<'_>) -> bool {
    matches!(entry.kind, LayerEntryKind::File { .. })
        && (entry.mode & 0o4000 != 0 || entry.mode & 0o2010 == 0o2010)
}

/// Removes what has a name, and all below it; nothing is followed.
fn remove(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove_tree(directory, name),
        Err(e) => Err(e.into()),
    }
}

/// Makes a directory, or takes one that is there; a link or file of that name is replaced.
fn make_dir(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let make = || mkdirat(directory, name, Mode::from_raw_mode(0o700));
    let open = || openat(directory, name, flags, Mode::empty());
    let made = match make() {
        Err(Errno::EXIST) => match open() {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                remove(directory, name)?;
                make()?;
                open()?
            }
            other => other?,
        },
        other => {
            other?;
            open()?
        }
    };
    // One of an export before may not let us write; its mode is set at the end.
    let mode = rustix::fs::fstat(&made)?.st_mode;
    if mode & 0o700 != 0o700 {
        fchmod(&made, Mode::from_raw_mode(mode & 0o7777 | 0o700))?;
    }
    Ok(made)
}

/// Gives a platform's directory its mode, and its time where one is set.
fn finish_directory(fd: &OwnedFd, times: Times) -> io::Result<()> {
    fchmod(fd, Mode::from_raw_mode(0o755))?;
    if let Times::Set(tv_sec) = times {
        let time = Timespec { tv_sec, tv_nsec: 0 };
        futimens(fd, &Timestamps { last_access: time, last_modification: time })?;
    }
    Ok(())
}

/// Gives a directory to the caller, if the kernel gave it to another user (a setgid parent).
fn own(fd: &OwnedFd) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let stat = rustix::fs::fstat(fd)?;
    if (stat.st_uid, stat.st_gid) != (uid.as_raw(), gid.as_raw()) {
        fchown(fd, Some(Uid::from_raw(uid.as_raw())), Some(Gid::from_raw(gid.as_raw())))?;
    }
    Ok(())
}

/// Makes an entry other than a directory under its temporary name.
fn make(
    directory: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    entry: &LayerEntry<'_>,
    file: Option<(OwnedFd, &Cancel)>,
    mode: Mode,
    times: &Timestamps,
) -> Result<(), (&'static str, io::Error)> {
    let on = |doing: &'static str| move |e: Errno| (doing, io::Error::from(e));
    if let Some(first) = entry.hard_link {
        let from =
            open_beneath(root, first, OFlags::PATH | OFlags::CLOEXEC).map_err(|e| ("link", e))?;
        let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&from));
        return linkat(CWD, from, directory, TEMPORARY, AtFlags::SYMLINK_FOLLOW)
            .map_err(on("link"));
    }
    let special = match entry.kind {
        LayerEntryKind::File { .. } => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let made = openat(directory, TEMPORARY, flags, Mode::from_raw_mode(0o600))
                .map_err(on("create"))?;
            let mut made = File::from(made);
            if let Some((file, cancel)) = file {
                cancel.copy(&mut File::from(file), &mut made).map_err(|e| ("write", e))?;
            }
            fchmod(&made, mode).map_err(on("set the mode of"))?;
            return futimens(&made, times).map_err(on("set the times of"));
        }
        LayerEntryKind::Symlink { target } => {
            symlinkat(target, directory, TEMPORARY).map_err(on("create"))?;
            return utimensat(directory, TEMPORARY, times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(on("set the times of"));
        }
        LayerEntryKind::Fifo => (FileType::Fifo, 0),
        LayerEntryKind::Char { .. }
        | LayerEntryKind::Block { .. }
        | LayerEntryKind::Dir
        | LayerEntryKind::Whiteout
        | LayerEntryKind::Opaque => {
            return Err(("create", io::ErrorKind::Unsupported.into()));
        }
    };
    mknodat(directory, TEMPORARY, special.0, mode, special.1).map_err(on("create"))?;
    rustix::fs::chmodat(directory, TEMPORARY, mode, AtFlags::empty())
        .map_err(on("set the mode of"))?;
    utimensat(directory, TEMPORARY, times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(on("set the times of"))
}
