//! Writing a selection: one pass over the entries, with two descriptors per open directory; files
//! are collected into batches, which several threads copy.

use super::dest::{Destination, Directories, chown, times};
use super::file::{Worker, Writer, create, group_in, make_room};
use super::{
    CopyError, CopyRequest, CopySource, CopyStats, EntryKind, FileTime, Owner, Picked,
    SelectedEntry, Selection, absolute,
};
use crate::dockerfile::chmod::ChmodSpec;
use crate::layer::{self, LayerError, owner};
use crate::sys::cancel::Cancel;
use crate::sys::{rooted, threads};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

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
    let mode = request.mode.map_or(0o755, ChmodSpec::implied_dir_mode);
    let mut engine = Engine {
        writer: Writer {
            request,
            cancel,
            euid: owner::of_new_files().0,
            egid: owner::of_new_files().1,
        },
        worker: Worker::new(),
        directories: Directories {
            root,
            before: request.before,
            owner: request.owner,
            mode,
            created: request.created,
            made: Vec::new(),
        },
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
    engine.worker.stats.directories += engine.directories.finish()?;
    Ok(engine.worker.stats)
}

/// What is copied.
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    selection: &'a Selection,
    pub(super) keeps_owner: bool,
}

/// A directory that is being filled.
pub(super) struct Level {
    /// Length of its path below the picked root; its entries' paths are one part longer.
    depth: usize,
    pub(super) target: OwnedFd,
    /// The same directory of the source.
    pub(super) source: OwnedFd,
    /// Group that new files in it get from the kernel, if not the process's own.
    pub(super) group: Option<u32>,
    /// Time that it gets when it is full.
    mtime: Option<FileTime>,
    /// Path below the target's root, for messages.
    pub(super) path: Vec<u8>,
}

struct Engine<'a> {
    writer: Writer<'a>,
    worker: Worker,
    directories: Directories<'a>,
}

/// Files that are copied together, by several threads.
#[derive(Default)]
struct Batch<'a> {
    files: Vec<(Arc<Level>, &'a SelectedEntry)>,
    /// Other names of files, made when all files are there.
    links: Vec<(Arc<Level>, &'a SelectedEntry)>,
    /// Directories that nothing more is put into, in the order in which they were left.
    full: Vec<Arc<Level>>,
}

/// Files and directories of a batch: enough to occupy threads, few enough to keep open.
const BATCH_FILES: usize = 2048;
const BATCH_DIRECTORIES: usize = 64;

/// From how many files on threads are worth their start.
const PARALLEL_FILES: usize = 128;

/// More threads than this wait for each other in the file system's journal.
const THREADS_MAX: usize = 4;

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
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

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

impl Engine<'_> {
    fn open_target(&self, path: &[u8]) -> Result<OwnedFd, CopyError> {
        rooted::open_beneath(self.directories.root, path, DIRECTORY)
            .map_err(|e| CopyError::io("open the directory", path, e))
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
        let mode = self.writer.mode_of(0o644, false);
        let mut file = create(dir.as_fd(), name, mode, &target)?;
        std::io::Write::write_all(&mut file, data)
            .map_err(|e| CopyError::io("write", &target, e))?;
        let owner = self.writer.request.owner.unwrap_or(Owner::ROOT);
        self.writer.finish_file(
            &file,
            owner,
            mode,
            group,
            None,
            self.writer.request.created,
            &target,
        )?;
        self.worker.stats.files += 1;
        self.worker.stats.bytes += data.len() as u64;
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
        let is_tree = first.kind == EntryKind::Dir;
        if unpack && first.kind == EntryKind::File && self.unpack(destination, tree, picked)? {
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

    /// Extracts a file into the destination, which becomes a directory; `false` when it is not an
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
        let owner = self.writer.request.owner.map(|owner| (owner.uid, owner.gid));
        let extracted = layer::extract_archive(open()?, dir.as_fd(), owner, self.writer.cancel)
            .map_err(|source| match source {
                LayerError::Cancelled => CopyError::Cancelled,
                source => CopyError::Extract { path: absolute(&picked.path), source },
            })?;
        if extracted.sets_root {
            self.directories.made.retain(|made| *made != target);
        }
        self.worker.stats.files += extracted.entries;
        self.worker.stats.bytes += extracted.bytes;
        Ok(true)
    }

    /// Copies a directory and all below it.
    fn tree(&mut self, target: &[u8], tree: &Tree<'_>, picked: &Picked) -> Result<(), CopyError> {
        let entries = &tree.selection.entries[picked.range.clone()];
        let top = Arc::new(self.top(target, tree, picked, &entries[0])?);
        let mut levels = vec![Arc::clone(&top)];
        let mut batch = Batch::default();
        for entry in &entries[1..] {
            if self.writer.cancel.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            let (above, name) = split(&entry.path);
            while levels.last().is_some_and(|level| level.depth > above.len()) {
                batch.full.extend(levels.pop());
            }
            if batch.files.len() >= BATCH_FILES || batch.full.len() >= BATCH_DIRECTORIES {
                self.flush(&mut batch, &top, tree, picked)?;
            }
            let level = levels.last().expect("the picked root is an ancestor of all its entries");
            match entry.kind {
                EntryKind::Dir => {
                    let level = self.directory(level, tree, entry, name)?;
                    levels.push(Arc::new(level));
                }
                EntryKind::File if entry.hard_link.is_some() => {
                    batch.links.push((Arc::clone(level), entry));
                }
                EntryKind::File => batch.files.push((Arc::clone(level), entry)),
                _ => self.leaf(level, tree, picked, entry, name, name)?,
            }
        }
        batch.full.extend(levels.into_iter().rev());
        self.flush(&mut batch, &top, tree, picked)
    }

    /// Copies the files of a batch, then makes its links, then gives its directories their times.
    fn flush(
        &mut self,
        batch: &mut Batch<'_>,
        top: &Level,
        tree: &Tree<'_>,
        picked: &Picked,
    ) -> Result<(), CopyError> {
        let writer = self.writer;
        let copy = |worker: &mut Worker, files: &[(Arc<Level>, &SelectedEntry)]| {
            for (level, entry) in files {
                if writer.cancel.is_cancelled() {
                    return Err(CopyError::Cancelled);
                }
                let (_, name) = split(&entry.path);
                writer.file(worker, level, tree, picked, entry, name, name)?;
            }
            Ok(())
        };
        let threads = threads::count().min(THREADS_MAX);
        if threads == 1 || batch.files.len() < PARALLEL_FILES {
            copy(&mut self.worker, &batch.files)?;
        } else {
            let chunks = batch.files.chunks(batch.files.len().div_ceil(threads));
            let results: Vec<_> = std::thread::scope(|scope| {
                let run = |files| {
                    let mut worker = Worker::new();
                    copy(&mut worker, files).map(|()| worker.stats)
                };
                let handles: Vec<_> = chunks.map(|files| scope.spawn(move || run(files))).collect();
                handles.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for result in results {
                let stats = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                self.worker.stats.files += stats.files;
                self.worker.stats.bytes += stats.bytes;
                self.worker.stats.changed.extend(stats.changed);
            }
        }
        batch.files.clear();
        for (level, entry) in std::mem::take(&mut batch.links) {
            let (_, name) = split(&entry.path);
            let first = entry.hard_link.expect("only links are in this list");
            let first = &tree.selection.entries[first as usize];
            if !link(top, &level, &first.path, name)? {
                self.leaf(&level, tree, picked, entry, name, name)?;
            }
        }
        for level in batch.full.drain(..) {
            close(&level)?;
        }
        Ok(())
    }

    /// Opens the destination of a tree, and makes it where it is copied with its own root.
    fn top(
        &mut self,
        target: &[u8],
        tree: &Tree<'_>,
        picked: &Picked,
        entry: &SelectedEntry,
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
        entry: &SelectedEntry,
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
        entry: &SelectedEntry,
    ) -> Result<bool, CopyError> {
        let failed = |doing| move |e: Errno| CopyError::io(doing, path, e);
        let made = owner::mode_to_make(FileType::Directory, entry.mode & 0o777);
        let is_new = match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(made)) {
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
        self.worker.stats.directories += u64::from(is_new);
        let mut mode = entry.mode;
        if is_new || !entry.is_implied {
            chown(dir, name, self.writer.owner_of(entry, tree))
                .map_err(failed("set the owner of"))?;
            mode = self.writer.mode_of(mode, true);
        }
        owner::set_mode(dir, name, mode).map_err(failed("set the mode of"))?;
        Ok(is_new)
    }

    /// Copies anything but a directory.
    fn leaf(
        &mut self,
        level: &Level,
        tree: &Tree<'_>,
        picked: &Picked,
        entry: &SelectedEntry,
        source_name: &[u8],
        name: &[u8],
    ) -> Result<(), CopyError> {
        let wanted = self.writer.owner_of(entry, tree);
        let dir = level.target.as_fd();
        if entry.kind == EntryKind::File {
            let worker = &mut self.worker;
            return self.writer.file(worker, level, tree, picked, entry, source_name, name);
        }
        let path = join(&level.path, name);
        let failed = |doing| {
            let path = path.clone();
            move |e: Errno| CopyError::io(doing, &path, e)
        };
        let make = || match entry.kind {
            EntryKind::Symlink => {
                rustix::fs::symlinkat(entry.link.as_deref().unwrap_or_default(), dir, name)
            }
            kind => {
                let file_type = match kind {
                    EntryKind::Char => FileType::CharacterDevice,
                    EntryKind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                rustix::fs::mknodat(dir, name, file_type, mode, entry.rdev)
            }
        };
        if entry.kind == EntryKind::Char && entry.rdev == 0 {
            return Err(CopyError::Whiteout { path: absolute(&join(&picked.path, &entry.path)) });
        }
        match make() {
            Err(Errno::EXIST) => {
                make_room(dir, name, &path)?;
                make().map_err(failed("create"))?;
            }
            result => result.map_err(failed("create"))?,
        }
        chown(dir, name, wanted).map_err(failed("set the owner of"))?;
        if entry.kind != EntryKind::Symlink {
            let mode = self.writer.mode_of(entry.mode, false);
            owner::set_mode(dir, name, mode).map_err(failed("set the mode of"))?;
        }
        rustix::fs::utimensat(dir, name, &times(entry.mtime()), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time of"))
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
fn close(level: &Level) -> Result<(), CopyError> {
    let Some(mtime) = level.mtime else { return Ok(()) };
    rustix::fs::utimensat(&level.target, ".", &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| CopyError::io("set the time of", &level.path, e))
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
