//! Trees that are laid out in a directory, where nothing can be mounted.
//!
//! All that layers show together is copied into a directory of the store, sharing blocks where the
//! file system can. A step works on in it as it would in an overlay; afterwards the tree is compared
//! with what was there before, and what differs is copied into the step's upper directory, in
//! overlay form, so that all that follows is as with an overlay. The next step of a stage works on
//! in the same tree.
//!
//! # What changed
//!
//! A path has changed if it has another inode than before, or if its inode's change time differs: no
//! program can set that. A directory that was renamed keeps the change times of what is in it, but
//! each of those has a path now at which there was another inode, or none. Trees are looked at when
//! no process works in them. What was written in the tick of the clock in which the tree was looked
//! at last could go unseen, so that a tree is given to a step when that tick is over.
//!
//! In memory (tmpfs) a store through a mapping leaves no time. There the content of each file that looks
//! unchanged is compared with that of its layer as well ([`unseen`]).
//!
//! # Hard links
//!
//! Names of one file in a layer are names of one file in the tree. Names that were there before become
//! files of their own in the layer, and new names belong to the first of them, as with overlay. What
//! differs: overlay changes the one name through which a file is changed, and a tree changes all.
//! [`Laid::collect`] returns such names, for a notice. (A tree without links would take a copy for each:
//! git alone has more than a hundred.)

mod state;
mod unseen;

pub use state::TreeState;

use super::SnapshotError;
use crate::layer::whiteout::{Whiteout, announce_whiteout_files, make_whiteout};
use crate::layer::{LayerError, Stack, StackDir, XattrSpace, owner};
use crate::store::{Store, remove_tree};
use crate::sys::cancel::Cancel;
use crate::sys::copier::{Copier, DataError};
use crate::sys::rooted::{open_beneath, open_in_root};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, linkat, mkdirat,
    mknodat, openat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracing::debug;

/// How many trees are kept for steps to come.
const KEPT_MAX: usize = 4;

/// A tree in a directory of its own, which goes with this value.
#[derive(Debug)]
pub(super) struct Laid {
    dir: PathBuf,
    root: OwnedFd,
    lowers: Vec<PathBuf>,
    /// What is in it.
    known: Index,
    /// Whether a file of it has names outside.
    is_shared: bool,
}

impl Drop for Laid {
    fn drop(&mut self) {
        let _ = remove_tree(&self.dir);
    }
}

/// Trees that a build has laid out, for its next steps.
#[derive(Debug, Default)]
pub struct LaidTrees(Mutex<Vec<Kept>>);

/// A tree with the directories of the layers that it shows, held open: the numbers of ones that are
/// gone would be given to others.
#[derive(Debug)]
struct Kept {
    places: Vec<Place>,
    _held: Vec<OwnedFd>,
    tree: Laid,
}

/// A directory whatever it is called: device and inode.
type Place = (u64, u64);

fn places(lowers: &[PathBuf]) -> Option<Vec<Place>> {
    let place = |path: &PathBuf| rustix::fs::stat(path).ok().map(|s| (s.st_dev, s.st_ino));
    lowers.iter().map(place).collect()
}

impl LaidTrees {
    /// Keeps a tree that is what these layers show.
    pub(super) fn keep(&self, tree: Laid, lowers: &[PathBuf]) {
        // What it shares with others they could change, and what is hidden from commands is in it.
        if tree.is_shared || tree.known.iter().any(|(path, seen)| seen.is_device_at(path)) {
            return;
        }
        let open = |path: &PathBuf| {
            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
        };
        let Some(held) = lowers.iter().map(open).collect::<Option<Vec<_>>>() else { return };
        let Some(places) = places(lowers) else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Kept { places, _held: held, tree });
    }

    /// Takes the tree that these layers show, if there is one.
    fn take(&self, lowers: &[PathBuf]) -> Option<Laid> {
        let wanted = places(lowers)?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|kept| kept.places == wanted)?;
        let mut tree = kept.remove(at).tree;
        tree.lowers = lowers.to_vec();
        Some(tree)
    }
}

/// What is at the paths of a tree.
type Index = BTreeMap<Vec<u8>, Seen>;

/// What was seen of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    changed: (i64, u64),
    is_dir: bool,
    /// Mode, owner, group, size and time: what a further name alone does not change.
    facts: (u32, u32, u32, i64, (i64, u64)),
    /// How many names it has, in the tree and outside.
    names: u64,
}

impl Seen {
    fn of(stat: &Stat) -> Self {
        let mtime = (stat.st_mtime, stat.st_mtime_nsec);
        Self {
            inode: stat.st_ino,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            facts: (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, mtime),
            names: stat.st_nlink,
        }
    }

    /// Says whether it is a device that a command could open.
    fn is_device_at(&self, path: &[u8]) -> bool {
        is_device(self.facts.0) && !path.starts_with(b"dev/")
    }
}

fn is_device(mode: u32) -> bool {
    matches!(FileType::from_raw_mode(mode), FileType::CharacterDevice | FileType::BlockDevice)
}

impl Laid {
    /// Lays out what layers show, or takes a tree that has it. It may be written to when
    /// `is_writable`.
    pub(super) fn new(
        lowers: &[PathBuf],
        store: &Store,
        trees: Option<&LaidTrees>,
        is_writable: bool,
    ) -> Result<Self, SnapshotError> {
        if is_writable && let Some(tree) = trees.and_then(|trees| trees.take(lowers)) {
            debug!("works on in a tree that is laid out");
            return Ok(tree);
        }
        let work = store.session().and_then(|session| session.new_work());
        let dir = work.map_err(|error| SnapshotError::Io {
            doing: "make a directory in",
            path: store.root().to_owned(),
            source: std::io::Error::other(error.to_string()),
        })?;
        let fail = |doing, e: Errno| io(doing, &dir, e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = "tree";
        let place = openat(CWD, &dir, flags, Mode::empty()).map_err(|e| fail("open", e))?;
        mkdirat(&place, name, Mode::from(0o755)).map_err(|e| fail("create a directory in", e))?;
        rustix::fs::chmodat(&place, name, Mode::from(0o755), AtFlags::empty())
            .map_err(|e| fail("change", e))?;
        let root = openat(&place, name, flags, Mode::empty()).map_err(|e| fail("open", e))?;
        let mut laid =
            Self { dir, root, lowers: lowers.to_vec(), known: Index::new(), is_shared: false };
        let stack = Stack::open(lowers, XattrSpace::detect())?;
        // A device that is not in /dev, which commands get anew, opens nothing where things are mounted.
        lay_out(&stack, laid.root.as_fd(), is_writable, &store.cancel())?;
        if is_writable {
            laid.look()?;
        }
        debug!(layers = lowers.len(), entries = laid.known.len(), "laid out a tree");
        Ok(laid)
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Notes what is there now, and waits until the clock of its file system has moved on.
    fn look(&mut self) -> Result<(), SnapshotError> {
        self.known = index(self.root.as_fd())?;
        let mark = self.dir.join("mark");
        let has_passed = wait_until_past(&mark, newest(&self.known));
        let has_passed = has_passed.map_err(|source| SnapshotError::Io {
            doing: "create",
            path: mark,
            source,
        })?;
        match has_passed {
            true => Ok(()),
            // What is written next could go unseen.
            false => Err(SnapshotError::Io {
                doing: "wait for the clock to pass the newest file of",
                path: self.dir.clone(),
                source: std::io::Error::other("its file system has files of the future"),
            }),
        }
    }

    /// Copies what has changed into an empty upper directory, in overlay form.
    ///
    /// Returns two names of one file that was changed, if there is such a file.
    pub(super) fn collect(
        &mut self,
        upper: &Path,
        cancel: &Cancel,
    ) -> Result<Option<[PathBuf; 2]>, SnapshotError> {
        let before = std::mem::take(&mut self.known);
        self.look()?;
        let mut names: BTreeMap<u64, u64> = BTreeMap::new();
        for seen in self.known.values().filter(|seen| !seen.is_dir && seen.names > 1) {
            *names.entry(seen.inode).or_default() += 1;
        }
        self.is_shared = self
            .known
            .values()
            .any(|seen| names.get(&seen.inode).is_some_and(|found| *found < seen.names));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let into = openat(CWD, upper, flags, Mode::empty()).map_err(|e| io("open", upper, e))?;
        let mut collected = Collected {
            from: self.root.as_fd(),
            into: into.as_fd(),
            directories: BTreeMap::new(),
            links: BTreeMap::new(),
            copier: Copier::new(),
            cancel,
        };
        let unseen = match is_in_memory(self.root.as_fd()) {
            true => unseen::changed(&self.lowers, self.root.as_fd(), &before, &self.known, cancel)?,
            false => BTreeSet::new(),
        };
        let changed = self.known.iter().filter(|(path, seen)| {
            before.get(*path) != Some(seen) || unseen.contains(path.as_slice())
        });
        // Overlay gives each name that was there a file of its own, and new names to those.
        let (there, new): (Vec<_>, Vec<_>) = changed
            .partition(|(path, seen)| before.get(*path).is_some_and(|old| old.inode == seen.inode));
        let mut named: BTreeMap<u64, &[u8]> = BTreeMap::new();
        let mut shared = None;
        for (path, seen) in &there {
            collected.entry(path, seen.inode, false)?;
            let is_other = before.get(*path).is_some_and(|old| old.facts != seen.facts);
            if !seen.is_dir
                && is_other
                && let Some(first) = named.insert(seen.inode, path.as_slice())
            {
                shared.get_or_insert([absolute(first), absolute(path)]);
            }
        }
        for (path, seen) in &new {
            collected.entry(path, seen.inode, true)?;
        }
        let xattrs = XattrSpace::detect();
        for path in before.keys().filter(|path| !self.known.contains_key(*path)) {
            let (parent, name) = split(path);
            let is_hidden_with_it =
                !parent.is_empty() && !self.known.get(parent).is_some_and(|above| above.is_dir);
            if is_hidden_with_it {
                continue;
            }
            let fail = |e| LayerError::io("white out", path, e);
            let place = collected.directory(parent)?;
            if make_whiteout(place.as_fd(), name, xattrs).map_err(fail)? == Whiteout::File {
                announce_whiteout_files(into.as_fd(), xattrs).map_err(fail)?;
            }
        }
        collected.finish()?;
        Ok(shared)
    }
}

/// Says whether a file is in memory, where a store through a mapping leaves no time.
fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == TMPFS)
}

/// What goes into an upper directory.
struct Collected<'a> {
    from: BorrowedFd<'a>,
    into: BorrowedFd<'a>,
    /// The directories that were made, with the times they get at the end.
    directories: BTreeMap<Vec<u8>, Timespec>,
    /// Where the files are that other names share.
    links: BTreeMap<u64, Vec<u8>>,
    copier: Copier,
    cancel: &'a Cancel,
}

impl Collected<'_> {
    fn entry(&mut self, path: &[u8], inode: u64, shares: bool) -> Result<(), SnapshotError> {
        if self.cancel.is_cancelled() {
            return Err(SnapshotError::Cancelled);
        }
        let (parent, name) = split(path);
        let source = open(self.from, parent)?;
        let mut stat = statat(&source, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| LayerError::io("read", path, e))?;
        owner::amend(source.as_fd(), name, &mut stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => return Ok(()),
            FileType::Directory => return self.directory(path).map(drop),
            _ => {}
        }
        let place = self.directory(parent)?;
        if shares
            && let Some(first) = self.links.get(&inode)
            && link(self.into, first, place.as_fd(), name, &stat)
                .map_err(|e| fail("link", path, e))?
        {
            return Ok(());
        }
        let opened = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd = openat(&source, name, flags, Mode::empty());
                fd.map_err(|e| LayerError::io("open", path, e))?
            }
            _ => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = openat(&source, name, flags, Mode::empty());
                fd.map_err(|e| LayerError::io("open", path, e))?
            }
        };
        put(opened, &stat, place.as_fd(), name, path, &mut self.copier, self.cancel)?;
        if stat.st_nlink > 1 {
            self.links.entry(inode).or_insert_with(|| path.to_vec());
        }
        Ok(())
    }

    /// Opens a directory of the upper, which is made as it is in the tree where it is missing.
    fn directory(&mut self, path: &[u8]) -> Result<OwnedFd, SnapshotError> {
        if path.is_empty() || self.directories.contains_key(path) {
            return open(self.into, path);
        }
        let (parent, name) = split(path);
        let above = self.directory(parent)?;
        let source = open(self.from, path)?;
        let mut stat = rustix::fs::fstat(&source).map_err(|e| LayerError::io("read", path, e))?;
        owner::amend_open(&source, &mut stat);
        make_directory(above.as_fd(), name, &stat, path)?;
        self.directories.insert(path.to_vec(), time(&stat));
        open(self.into, path)
    }

    fn finish(self) -> Result<(), SnapshotError> {
        for (path, time) in self.directories.iter().rev() {
            let (parent, name) = split(path);
            let above = open(self.into, parent)?;
            set_time(above.as_fd(), name, *time)
                .map_err(|e| LayerError::io("set the time of", path, e))?;
        }
        Ok(())
    }
}

/// Copies all that a stack shows into an empty directory. Where `hides_devices`, empty files that no user may
/// open are in the places of devices.
fn lay_out(
    stack: &Stack,
    root: BorrowedFd<'_>,
    hides_devices: bool,
    cancel: &Cancel,
) -> Result<(), SnapshotError> {
    let mut copier = Copier::new();
    let mut links: BTreeMap<Place, Vec<u8>> = BTreeMap::new();
    let mut directories: Vec<(Vec<u8>, Timespec)> = Vec::new();
    let mut todo: Vec<(Vec<u8>, StackDir)> = vec![(Vec::new(), stack.root())];
    while let Some((path, dir)) = todo.pop() {
        let place = open(root, &path)?;
        for (name, _) in stack.list(&dir)? {
            if cancel.is_cancelled() {
                return Err(SnapshotError::Cancelled);
            }
            let Some(found) = stack.lookup(&dir, &name)? else { continue };
            let stat = found.stat;
            let path = join(&path, &name);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket => continue,
                FileType::Directory => {
                    let Some(below) = stack.dir(&dir, &name)? else { continue };
                    make_directory(place.as_fd(), &name, &stat, &path)?;
                    directories.push((path.clone(), time(&stat)));
                    todo.push((path, below));
                    continue;
                }
                _ => {}
            }
            if hides_devices && is_device(stat.st_mode) && !path.starts_with(b"dev/") {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                openat(&place, name.as_slice(), flags, Mode::empty())
                    .map_err(|e| fail("create", &path, e))?;
                set_time(place.as_fd(), &name, time(&stat))
                    .map_err(|e| LayerError::io("set the time of", &path, e))?;
                continue;
            }
            let file = (stat.st_dev, stat.st_ino);
            if stat.st_nlink > 1
                && let Some(first) = links.get(&file)
                && link(root, first, place.as_fd(), &name, &stat)
                    .map_err(|e| fail("link", &path, e))?
            {
                continue;
            }
            let flags = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK,
                _ => OFlags::PATH | OFlags::NOFOLLOW,
            };
            let opened = stack.open_found(&dir, &name, &found, flags)?;
            put(opened, &stat, place.as_fd(), &name, &path, &mut copier, cancel)?;
            if stat.st_nlink > 1 {
                links.entry(file).or_insert(path);
            }
        }
    }
    for (path, time) in directories.iter().rev() {
        let (parent, name) = split(path);
        let above = open(root, parent)?;
        set_time(above.as_fd(), name, *time)
            .map_err(|e| LayerError::io("set the time of", path, e))?;
    }
    Ok(())
}

/// Returns the latest time at which something was changed.
fn newest(index: &Index) -> (i64, u64) {
    index.values().map(|seen| seen.changed).max().unwrap_or_default()
}

/// Waits until the clock of a file system has passed a time, by making a file; says whether it has.
fn wait_until_past(mark: &Path, time: (i64, u64)) -> std::io::Result<bool> {
    let mut has_passed = false;
    // A tick has at most ten milliseconds; of some file systems it is a second or two.
    for _ in 0..3000 {
        let _ = fs::remove_file(mark);
        let stat = File::create(mark).and_then(|file| Ok(rustix::fs::fstat(file)?))?;
        has_passed = (stat.st_ctime, stat.st_ctime_nsec) > time;
        if has_passed {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = fs::remove_file(mark);
    Ok(has_passed)
}

/// Lists all that is in a tree.
fn index(root: BorrowedFd<'_>) -> Result<Index, SnapshotError> {
    let mut index = Index::new();
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    let mut todo: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let fd = open(root, &path)?;
        let mut entries = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| LayerError::io("list", &path, e))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = join(&path, name);
            let stat = statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| LayerError::io("read", &path, e))?;
            let seen = Seen::of(&stat);
            if seen.is_dir {
                todo.push(path.clone());
            }
            index.insert(path, seen);
        }
    }
    Ok(index)
}

/// Copies a part of a tree, a file or a directory with all in it, to a name in a directory.
///
/// # Errors
///
/// What the kernel said.
pub fn copy_part(
    from: BorrowedFd<'_>,
    part: &[u8],
    dir: BorrowedFd<'_>,
    name: &[u8],
    cancel: &Cancel,
) -> std::io::Result<()> {
    let source = open_in_root(from, part, OFlags::PATH | OFlags::CLOEXEC)?;
    let mut stat = rustix::fs::fstat(&source)?;
    let mut run = || -> Result<(), SnapshotError> {
        let mut copier = Copier::new();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let file = open_in_root(from, part, OFlags::RDONLY | OFlags::NONBLOCK)
                .map_err(|e| at("open", part, e))?;
            owner::amend_open(&file, &mut stat);
            return put(file, &stat, dir, name, part, &mut copier, cancel);
        }
        let source = open_in_root(from, part, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| at("open", part, e))?;
        make_directory(dir, name, &stat, part)?;
        let mut directories = vec![(name.to_vec(), time(&stat))];
        for path in index(source.as_fd())?.keys() {
            let (parent, leaf) = split(path);
            let above = open(source.as_fd(), parent)?;
            let mut stat = statat(&above, leaf, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| fail("read", path, e))?;
            owner::amend(above.as_fd(), leaf, &mut stat);
            let target = join(name, path);
            let (parent, _) = split(&target);
            let place = open(dir, parent)?;
            let flags = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    make_directory(place.as_fd(), leaf, &stat, path)?;
                    directories.push((target, time(&stat)));
                    continue;
                }
                FileType::Socket => continue,
                FileType::RegularFile => OFlags::RDONLY | OFlags::NONBLOCK,
                _ => OFlags::PATH,
            };
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                openat(&above, leaf, flags, Mode::empty()).map_err(|e| fail("open", path, e))?;
            put(file, &stat, place.as_fd(), leaf, path, &mut copier, cancel)?;
        }
        for (path, time) in directories.iter().rev() {
            let (parent, leaf) = split(path);
            let above = open(dir, parent)?;
            set_time(above.as_fd(), leaf, *time).map_err(|e| fail("set the time of", path, e))?;
        }
        Ok(())
    };
    run().map_err(|error| std::io::Error::other(crate::text::chain(&error)))
}

/// Makes a file, a link, a pipe or a device like the one that is open.
fn put(
    source: OwnedFd,
    stat: &Stat,
    dir: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    copier: &mut Copier,
    cancel: &Cancel,
) -> Result<(), SnapshotError> {
    let mode = stat.st_mode & 0o7777;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made = openat(dir, name, flags | OFlags::NOFOLLOW, Mode::from(0o600));
            let mut made = File::from(made.map_err(|e| fail("create", path, e))?);
            let mut value = [0; 64];
            let length = owner::capability(&source, &mut value)
                .map_err(|e| fail("read the capabilities of", path, e))?;
            let allocated = stat.st_blocks as u64 * 512;
            let size = stat.st_size as u64;
            copier.copy(&mut File::from(source), &mut made, size, allocated, cancel).map_err(
                |error| match error {
                    DataError::Cancelled => SnapshotError::Cancelled,
                    DataError::Read(source) => at("read", path, source),
                    DataError::Write(source) => at("write", path, source),
                },
            )?;
            owner::set_open(&made, stat.st_uid, stat.st_gid)
                .map_err(|e| fail("set the owner of", path, e))?;
            if length > 0 {
                owner::set_capability(&made, &value[..length])
                    .map_err(|e| fail("set the capabilities of", path, e))?;
            }
            owner::set_mode_open(&made, mode).map_err(|e| fail("set the mode of", path, e))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&source, "", Vec::new())
                .map_err(|e| fail("read the link", path, e))?;
            symlinkat(target, dir, name).map_err(|e| fail("create", path, e))?;
            owner::set(dir, name, stat.st_uid, stat.st_gid)
                .map_err(|e| fail("set the owner of", path, e))?;
        }
        kind => {
            mknodat(dir, name, kind, Mode::from(0o600), stat.st_rdev)
                .map_err(|e| fail("create", path, e))?;
            owner::set(dir, name, stat.st_uid, stat.st_gid)
                .and_then(|()| owner::set_mode(dir, name, mode))
                .map_err(|e| fail("set the owner of", path, e))?;
        }
    }
    set_time(dir, name, time(stat)).map_err(|e| fail("set the time of", path, e))
}

fn make_directory(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    path: &[u8],
) -> Result<(), SnapshotError> {
    mkdirat(dir, name, Mode::from(0o700)).map_err(|e| fail("create", path, e))?;
    owner::set(dir, name, stat.st_uid, stat.st_gid)
        .and_then(|()| owner::set_mode(dir, name, stat.st_mode & 0o7777))
        .map_err(|e| fail("set the owner of", path, e))
}

/// Makes another name of a file; `false` where that cannot be.
fn link(
    root: BorrowedFd<'_>,
    first: &[u8],
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
) -> Result<bool, Errno> {
    match linkat(root, first, dir, name, AtFlags::empty()) {
        // The owner of what has no attributes may be written down beside each of its names.
        Ok(()) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            owner::set(dir, name, stat.st_uid, stat.st_gid).map(|()| true)
        }
        Ok(()) => Ok(true),
        Err(Errno::MLINK | Errno::NAMETOOLONG | Errno::PERM) => Ok(false),
        Err(error) => Err(error),
    }
}

fn set_time(dir: BorrowedFd<'_>, name: &[u8], time: Timespec) -> Result<(), Errno> {
    let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access, last_modification: time };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn time(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 }
}

fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_beneath(root, path, flags).map_err(|source| at("open", path, source))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (b"", path),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn fail(doing: &'static str, path: &[u8], error: Errno) -> SnapshotError {
    at(doing, path, error.into())
}

fn at(doing: &'static str, path: &[u8], source: std::io::Error) -> SnapshotError {
    SnapshotError::Io { doing, path: absolute(path), source }
}

fn absolute(path: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path))
}

fn io(doing: &'static str, path: &Path, error: Errno) -> SnapshotError {
    SnapshotError::Io { doing, path: path.to_owned(), source: error.into() }
}
