//! Writing a selection: one pass over the entries, with a descriptor per open directory.

use super::data::{Copier, DataError};
use super::dest::{Destination, Directories, chown, times, umask};
use super::{
    CopyError, CopyRequest, CopySource, CopyStats, Entry, FileTime, Kind, Owner, Picked, Selection,
    absolute,
};
use crate::layer::{self, LayerError};
use crate::sys::cancel::Cancel;
use crate::sys::rooted;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Copies the sources of `request` below `root`, a merged root file system.
///
/// Existing files are replaced, links of their name too, while a destination that is itself a link
/// is written through. Directories are merged: those inside a copied tree take the source's mode
/// and owner, the destination itself keeps its own. Nothing is synced to disk.
///
/// # Errors
///
/// [`CopyError`]; what was copied before it stays.
pub fn copy_into(
    root: BorrowedFd<'_>,
    request: &CopyRequest<'_>,
    cancel: &Cancel,
) -> Result<CopyStats, CopyError> {
    let destination = Destination::parse(request.dest, request.workdir);
    let mode = request.mode.map_or(0o755, super::ChmodSpec::implied_dir_mode);
    let mut engine = Engine {
        request,
        cancel,
        directories: Directories {
            root,
            owner: request.owner,
            mode,
            created: request.created,
            made: Vec::new(),
        },
        copier: Copier::new(),
        stats: CopyStats::default(),
        euid: rustix::process::geteuid().as_raw(),
        egid: rustix::process::getegid().as_raw(),
    };
    for source in &request.sources {
        match source {
            CopySource::Tree { root, selection, keep_owner, unpack } => {
                for picked in &selection.picked {
                    let tree = Tree { root: *root, selection, keeps_owner: *keep_owner };
                    engine.picked(&destination, &tree, picked, *unpack)?;
                }
            }
            CopySource::Inline { name, data } => engine.inline(&destination, name, data)?,
        }
    }
    engine.stats.directories += engine.directories.finish()?;
    Ok(engine.stats)
}

struct Tree<'a> {
    root: BorrowedFd<'a>,
    selection: &'a Selection,
    keeps_owner: bool,
}

/// A directory that is being filled.
struct Level {
    /// Length of its path below the picked root; its entries' paths are one part longer.
    depth: usize,
    target: OwnedFd,
    /// The same directory of the source.
    source: OwnedFd,
    /// Group that new files in it get from the kernel, if not the process's own.
    group: Option<u32>,
    /// Time that it gets when it is full.
    mtime: Option<FileTime>,
    /// Path below the target's root, for messages.
    path: Vec<u8>,
}

struct Engine<'a> {
    request: &'a CopyRequest<'a>,
    cancel: &'a Cancel,
    directories: Directories<'a>,
    copier: Copier,
    stats: CopyStats,
    euid: u32,
    egid: u32,
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !path.is_empty() && !name.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (b"", path),
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

impl Engine<'_> {
    fn open_target(&self, path: &[u8]) -> Result<OwnedFd, CopyError> {
        rooted::open_beneath(self.directories.root, path, DIRECTORY)
            .map_err(|e| CopyError::io("open the directory", path, e))
    }

    fn owner_of(&self, entry: &Entry, tree: &Tree<'_>) -> Owner {
        match self.request.owner {
            Some(owner) => owner,
            None if tree.keeps_owner => Owner { uid: entry.uid, gid: entry.gid },
            None => Owner::ROOT,
        }
    }

    fn mode_of(&self, mode: u32, is_dir: bool) -> u32 {
        self.request.mode.map_or(mode, |spec| spec.apply(mode, is_dir))
    }

    fn inline(
        &mut self,
        destination: &Destination,
        name: &[u8],
        data: &[u8],
    ) -> Result<(), CopyError> {
        let (_, name) = split(name);
        let target = self.directories.place(destination, name, false, false)?;
        let (above, name) = split(&target);
        let dir = self.open_target(above)?;
        let group = group_in(dir.as_fd(), above)?;
        let mode = self.mode_of(0o644, false);
        let mut file = create(dir.as_fd(), name, mode, &target)?;
        std::io::Write::write_all(&mut file, data)
            .map_err(|e| CopyError::io("write", &target, e))?;
        let owner = self.request.owner.unwrap_or(Owner::ROOT);
        self.finish_file(&file, owner, mode, group, None, self.request.created, &target)?;
        self.stats.files += 1;
        self.stats.bytes += data.len() as u64;
        Ok(())
    }

    fn picked(
        &mut self,
        destination: &Destination,
        tree: &Tree<'_>,
        picked: &Picked,
        unpack: bool,
    ) -> Result<(), CopyError> {
        let entries = &tree.selection.entries[picked.range.clone()];
        let Some(first) = entries.first() else { return Ok(()) };
        let is_tree = first.kind == Kind::Dir;
        if unpack && first.kind == Kind::File && self.unpack(destination, tree, picked)? {
            return Ok(());
        }
        let target =
            self.directories.place(destination, &picked.name, is_tree, picked.contents_only)?;
        if is_tree {
            return self.tree(&target, tree, picked);
        }
        let (above, name) = split(&target);
        let dir = self.open_target(above)?;
        let (source_above, source_name) = split(&picked.path);
        let level = Level {
            depth: 0,
            group: group_in(dir.as_fd(), above)?,
            target: dir,
            source: rooted::open_beneath(tree.root, source_above, DIRECTORY)
                .map_err(|e| CopyError::io("open the source directory", source_above, e))?,
            mtime: None,
            path: above.to_vec(),
        };
        self.leaf(&level, tree, picked, first, source_name, name)
    }

    /// Extracts a file into the destination, which becomes a directory; `false` when it is no
    /// archive.
    fn unpack(
        &mut self,
        destination: &Destination,
        tree: &Tree<'_>,
        picked: &Picked,
    ) -> Result<bool, CopyError> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            rooted::open_beneath(tree.root, &picked.path, flags)
                .map(File::from)
                .map_err(|e| CopyError::io("read", &picked.path, e))
        };
        if !layer::is_archive(open()?) {
            return Ok(false);
        }
        // `--chmod` says nothing about what is in an archive, nor about where it goes.
        let mode = std::mem::replace(&mut self.directories.mode, 0o755);
        let target = self.directories.resolve(&destination.path)?;
        self.directories.make_all(&target)?;
        self.directories.mode = mode;
        let dir = rooted::open_beneath(self.directories.root, &target, OFlags::DIRECTORY)
            .map_err(|e| CopyError::io("open the directory", &target, e))?;
        let owner = self.request.owner.map(|owner| (owner.uid, owner.gid));
        let extracted =
            layer::extract_archive(open()?, dir.as_fd(), owner, self.cancel).map_err(|source| {
                match source {
                    LayerError::Cancelled => CopyError::Cancelled,
                    source => CopyError::Extract { path: absolute(&picked.path), source },
                }
            })?;
        self.stats.files += extracted.entries;
        self.stats.bytes += extracted.bytes;
        Ok(true)
    }

    /// Copies a directory and all below it.
    fn tree(&mut self, target: &[u8], tree: &Tree<'_>, picked: &Picked) -> Result<(), CopyError> {
        let entries = &tree.selection.entries[picked.range.clone()];
        let mut levels = vec![self.top(target, tree, picked, &entries[0])?];
        for entry in &entries[1..] {
            if self.cancel.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            let (above, name) = split(&entry.path);
            while levels.last().is_some_and(|level| level.depth > above.len()) {
                close(levels.pop())?;
            }
            let level = levels.last().expect("the picked root is an ancestor of all its entries");
            if entry.kind == Kind::Dir {
                let level = self.directory(level, tree, entry, name)?;
                levels.push(level);
            } else if let Some(index) = entry.hard_link {
                let first = &tree.selection.entries[index as usize];
                if !link(&levels[0], level, &first.path, name)? {
                    self.leaf(level, tree, picked, entry, name, name)?;
                }
            } else {
                self.leaf(level, tree, picked, entry, name, name)?;
            }
        }
        while let Some(level) = levels.pop() {
            close(Some(level))?;
        }
        Ok(())
    }

    /// Opens the destination of a tree, and makes it where it is copied with its own root.
    fn top(
        &mut self,
        target: &[u8],
        tree: &Tree<'_>,
        picked: &Picked,
        entry: &Entry,
    ) -> Result<Level, CopyError> {
        match self.directories.stat(target)? {
            Some(stat) if !is_dir(&stat) => {
                return Err(CopyError::DirectoryOverFile { path: absolute(target) });
            }
            Some(_) => {}
            None => {
                let (above, name) = split(target);
                let dir = self.open_target(above)?;
                self.make_directory(dir.as_fd(), name, target, tree, entry)?;
            }
        }
        let fd = self.open_target(target)?;
        Ok(Level {
            depth: 0,
            group: group_in(fd.as_fd(), target)?,
            target: fd,
            source: rooted::open_beneath(tree.root, &picked.path, DIRECTORY)
                .map_err(|e| CopyError::io("open the source directory", &picked.path, e))?,
            mtime: Some(entry.mtime()),
            path: target.to_vec(),
        })
    }

    /// Makes a directory, or takes over an existing one.
    fn directory(
        &mut self,
        level: &Level,
        tree: &Tree<'_>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<Level, CopyError> {
        let path = join(&level.path, name);
        let is_new = self.make_directory(level.target.as_fd(), name, &path, tree, entry)?;
        let flags = DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open =
            |dir: BorrowedFd<'_>, name: &[u8]| rustix::fs::openat(dir, name, flags, Mode::empty());
        let target = open(level.target.as_fd(), name)
            .map_err(|e| CopyError::io("open the directory", &path, e))?;
        let source = open(level.source.as_fd(), name)
            .map_err(|e| CopyError::io("open the source directory", &entry.path, e))?;
        let group = group_in(target.as_fd(), &path)?;
        let mtime = (is_new || !entry.is_implied).then_some(entry.mtime());
        Ok(Level { depth: entry.path.len(), target, source, group, mtime, path })
    }

    /// Returns whether the directory is new. An existing one takes the mode of the source, and its
    /// owner too unless it is there for something below it only.
    fn make_directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        tree: &Tree<'_>,
        entry: &Entry,
    ) -> Result<bool, CopyError> {
        let failed = |doing| move |e: Errno| CopyError::io(doing, path, e);
        let is_new = match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(entry.mode & 0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("look at"))?;
                if !is_dir(&stat) {
                    return Err(CopyError::DirectoryOverFile { path: absolute(path) });
                }
                false
            }
            Err(e) => return Err(failed("create the directory")(e)),
        };
        self.stats.directories += u64::from(is_new);
        let mut mode = entry.mode;
        if is_new || !entry.is_implied {
            chown(dir, name, self.owner_of(entry, tree)).map_err(failed("set the owner of"))?;
            mode = self.mode_of(mode, true);
        }
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(failed("set the mode of"))?;
        Ok(is_new)
    }

    /// Copies anything but a directory.
    fn leaf(
        &mut self,
        level: &Level,
        tree: &Tree<'_>,
        picked: &Picked,
        entry: &Entry,
        source_name: &[u8],
        name: &[u8],
    ) -> Result<(), CopyError> {
        let owner = self.owner_of(entry, tree);
        let dir = level.target.as_fd();
        if entry.kind == Kind::File {
            return self.file(level, tree, picked, entry, source_name, name);
        }
        let path = join(&level.path, name);
        let failed = |doing| {
            let path = path.clone();
            move |e: Errno| CopyError::io(doing, &path, e)
        };
        let make = || match entry.kind {
            Kind::Symlink => {
                rustix::fs::symlinkat(entry.link.as_deref().unwrap_or_default(), dir, name)
            }
            kind => {
                let file_type = match kind {
                    Kind::Char => FileType::CharacterDevice,
                    Kind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                rustix::fs::mknodat(dir, name, file_type, mode, entry.rdev)
            }
        };
        if entry.kind == Kind::Char && entry.rdev == 0 {
            return Err(CopyError::Whiteout { path: absolute(&join(&picked.path, &entry.path)) });
        }
        match make() {
            Err(Errno::EXIST) => {
                make_room(dir, name, &path)?;
                make().map_err(failed("create"))?;
            }
            result => result.map_err(failed("create"))?,
        }
        chown(dir, name, owner).map_err(failed("set the owner of"))?;
        if entry.kind != Kind::Symlink {
            let mode = Mode::from_raw_mode(self.mode_of(entry.mode, false));
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
                .map_err(failed("set the mode of"))?;
        }
        rustix::fs::utimensat(dir, name, &times(entry.mtime()), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time of"))
    }

    fn file(
        &mut self,
        level: &Level,
        tree: &Tree<'_>,
        picked: &Picked,
        entry: &Entry,
        source_name: &[u8],
        name: &[u8],
    ) -> Result<(), CopyError> {
        let source_path = || absolute(&join(&picked.path, &entry.path));
        let path = || join(&level.path, name);
        let source = if entry.size == 0 {
            None
        } else {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&level.source, source_name, flags, Mode::empty()).map_err(
                |e| CopyError::Io { doing: "read", path: source_path(), source: e.into() },
            )?;
            Some(File::from(fd))
        };
        let mode = self.mode_of(entry.mode, false);
        let mut file = match open_new(level.target.as_fd(), name, mode) {
            Ok(file) => file,
            Err(Errno::EXIST) => create(level.target.as_fd(), name, mode, &path())?,
            Err(e) => return Err(CopyError::io("create", &path(), e)),
        };
        let mut mtime = entry.mtime();
        if let Some(mut source) = source {
            let stat = rustix::fs::fstat(&source).map_err(|e| CopyError::Io {
                doing: "look at",
                path: source_path(),
                source: e.into(),
            })?;
            let allocated = stat.st_blocks as u64 * 512;
            let size = stat.st_size as u64;
            let copied = self.copier.copy(&mut source, &mut file, size, allocated, self.cancel);
            let copied = copied.map_err(|e| match e {
                DataError::Read(source) => {
                    CopyError::Io { doing: "read", path: source_path(), source }
                }
                DataError::Write(source) => CopyError::io("write", &path(), source),
                DataError::Cancelled => CopyError::Cancelled,
            })?;
            self.stats.bytes += copied;
            let is_as_chosen = copied == entry.size
                && stat.st_mtime == mtime.seconds
                && stat.st_mtime_nsec == u64::from(mtime.nanoseconds)
                // In a mount these mean nothing, and nobody else writes there.
                && (tree.keeps_owner
                    || stat.st_ino == entry.stamp.ino
                        && stat.st_ctime == entry.stamp.ctime.seconds
                        && stat.st_ctime_nsec == u64::from(entry.stamp.ctime.nanoseconds));
            if !is_as_chosen {
                mtime = FileTime { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
                self.stats.changed.push(source_path());
            }
        }
        self.stats.files += 1;
        let owner = self.owner_of(entry, tree);
        let capability = entry.capability.as_deref().filter(|_| tree.keeps_owner);
        self.finish_file(&file, owner, mode, level.group, capability, Some(mtime), &path())
    }

    /// Gives a new file its owner, mode, capability and time, in the one order in which none of
    /// them undoes another; asks the kernel only for what is not so already.
    #[expect(clippy::too_many_arguments, reason = "each is one attribute of the file")]
    fn finish_file(
        &self,
        file: &File,
        owner: Owner,
        mode: u32,
        group: Option<u32>,
        capability: Option<&[u8]>,
        mtime: Option<FileTime>,
        path: &[u8],
    ) -> Result<(), CopyError> {
        let failed = |doing| move |e: Errno| CopyError::io(doing, path, e);
        if owner.uid != self.euid || owner.gid != group.unwrap_or(self.egid) {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(failed("set the owner of"))?;
        }
        if mode & (umask() | 0o7000) != 0 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
                .map_err(failed("set the mode of"))?;
        }
        if let Some(value) = capability {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(file, c"security.capability", value, flags)
                .map_err(failed("set the capabilities of"))?;
        }
        if let Some(mtime) = mtime {
            rustix::fs::futimens(file, &times(mtime)).map_err(failed("set the time of"))?;
        }
        Ok(())
    }
}

/// Returns the group that the kernel gives to new files in a directory, if not the process's own.
fn group_in(dir: BorrowedFd<'_>, path: &[u8]) -> Result<Option<u32>, CopyError> {
    let stat = rustix::fs::fstat(dir).map_err(|e| CopyError::io("look at", path, e))?;
    Ok((stat.st_mode & 0o2000 != 0).then_some(stat.st_gid))
}

/// Creates a file that is not there yet.
fn open_new(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode & 0o777)).map(File::from)
}

/// Creates a file in the place of whatever is there, unless that is a directory.
fn create(dir: BorrowedFd<'_>, name: &[u8], mode: u32, path: &[u8]) -> Result<File, CopyError> {
    make_room(dir, name, path)?;
    open_new(dir, name, mode).map_err(|e| CopyError::io("create", path, e))
}

/// Removes what is in the way of a file.
fn make_room(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), CopyError> {
    let failed = |doing| move |e: Errno| CopyError::io(doing, path, e);
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_dir(&stat) => Err(CopyError::FileOverDirectory { path: absolute(path) }),
        Ok(_) => rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(failed("replace")),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(failed("look at")(e)),
    }
}

/// Makes `name` another name of what was copied as `first`; `false` when that cannot be, and the
/// content has to be copied again.
fn link(top: &Level, level: &Level, first: &[u8], name: &[u8]) -> Result<bool, CopyError> {
    let path = join(&level.path, name);
    let make = || rustix::fs::linkat(&top.target, first, &level.target, name, AtFlags::empty());
    let result = match make() {
        Err(Errno::EXIST) => {
            make_room(level.target.as_fd(), name, &path)?;
            make()
        }
        result => result,
    };
    match result {
        Ok(()) => Ok(true),
        Err(Errno::MLINK | Errno::NAMETOOLONG | Errno::XDEV) => Ok(false),
        Err(e) => Err(CopyError::io("link", &path, e)),
    }
}

/// Gives a full directory its time.
fn close(level: Option<Level>) -> Result<(), CopyError> {
    let Some(level) = level else { return Ok(()) };
    let Some(mtime) = level.mtime else { return Ok(()) };
    rustix::fs::utimensat(&level.target, ".", &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| CopyError::io("set the time of", &level.path, e))
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
