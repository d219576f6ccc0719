//! Listing a tree below a descriptor: names in order, types, modes, stamps, link targets.
//!
//! The walk goes level by level, so that the directories of a level (and the files of a large
//! directory) can be looked at by several threads, and no descriptor stays open.
//!
//! # Invariants
//!
//! - No link is ever followed: every directory is opened beneath the root with none on its way.
//! - A directory that the rules hide is not opened unless an exception can match inside it.
//! - The result does not depend on the number of threads.

use super::ContextError;
use super::wildcard::Wildcard;
use crate::copy::{EntryKind, FileTime, Stamp};
use crate::dockerfile::ignore::{Inherited, Matcher};
use crate::layer::owner;
use crate::sys::cancel::Cancel;
use crate::sys::{rooted, threads};
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, OFlags, RawDir, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// From how many entries on a directory's files are looked at by several threads.
const PARALLEL_ENTRIES: usize = 512;

/// Entries that one thread takes at a time.
const CHUNK: usize = 256;

/// Returns the threads for looking at and hashing files.
pub(super) fn pool() -> &'static rayon::ThreadPool {
    static POOL: OnceLock<rayon::ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let threads = threads::count().min(16);
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("context-{i}"))
            .build()
            .expect("a pool of at least one thread can be made")
    })
}

/// What a walk leaves out.
pub(super) struct Rules<'a> {
    /// `.dockerignore`: matches paths from the context root.
    pub(super) ignore: Option<&'a Matcher>,
    /// `--exclude`: matches paths from the picked root.
    pub(super) exclude: Option<&'a Matcher>,
    /// `--parents`: only what matches is taken, with the directories above it.
    pub(super) include: Option<&'a Include>,
    /// Whether to read `security.capability`.
    pub(super) wants_capabilities: bool,
}

/// The pattern of a `--parents` source.
#[derive(Debug)]
pub(super) struct Include {
    matcher: Matcher,
    /// What each part of a path must look like; `None` for `**`.
    parts: Vec<Option<Wildcard>>,
}

impl Include {
    /// Parses a cleaned pattern; `None` when it is malformed.
    pub(super) fn parse(pattern: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(pattern).ok()?;
        let parts = pattern.split(|&b| b == b'/').map(|part| {
            let is_any_depth = part.windows(2).any(|two| two == b"**");
            if is_any_depth { Ok(None) } else { Wildcard::parse(part).map(Some) }
        });
        Some(Self {
            matcher: Matcher::from_patterns([text]).ok()?,
            parts: parts.collect::<Result<_, _>>().ok()?,
        })
    }

    /// Says whether something below `dir` could match.
    fn may_match_below(&self, dir: &[u8]) -> bool {
        let mut wanted = self.parts.iter();
        for part in dir.split(|&b| b == b'/') {
            match wanted.next() {
                None => return false,
                Some(None) => return true,
                Some(Some(wildcard)) if wildcard.matches(part) => {}
                Some(Some(_)) => return false,
            }
        }
        wanted.next().is_some()
    }
}

/// One entry of a directory.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: Box<[u8]>,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u64,
    pub(super) rdev: u64,
    pub(super) stamp: Stamp,
    pub(super) link: Option<Box<[u8]>>,
    pub(super) capability: Option<Box<[u8]>>,
    /// False for a directory that is taken only if something below it is.
    pub(super) is_taken: bool,
    /// True when an `--exclude` or a `--parents` pattern left it out, not `.dockerignore`.
    pub(super) is_left_out: bool,
    /// Index of its listing, for a directory that was entered.
    pub(super) listing: Option<usize>,
}

/// A directory and what is taken of it, sorted by the raw bytes of the names.
#[derive(Debug)]
pub(super) struct Listing {
    /// Path from the source's root.
    path: Vec<u8>,
    /// Where in `path` the part below the picked root starts.
    below: usize,
    ignored: Inherited,
    excluded: Inherited,
    included: Inherited,
    pub(super) entries: Vec<Found>,
}

impl Listing {
    /// Paths of what is taken of it and is not a directory, from the source's root.
    pub(super) fn files(&self) -> impl Iterator<Item = Vec<u8>> {
        let taken = self.entries.iter().filter(|e| e.is_taken && e.kind != EntryKind::Dir);
        taken.map(|entry| join(&self.path, &entry.name))
    }
}

pub(super) fn time(seconds: i64, nanoseconds: u64) -> FileTime {
    FileTime { seconds, nanoseconds: nanoseconds as u32 }
}

/// Takes out of a stat what distinguishes a changed file from an unchanged one.
pub(super) fn stamp_of(stat: &Stat) -> Stamp {
    Stamp {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size as u64,
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// Returns the type of a file, and whether it is a socket, which is copied as an empty file.
pub(super) fn kind_of(file_type: FileType) -> (EntryKind, bool) {
    match file_type {
        FileType::Directory => (EntryKind::Dir, false),
        FileType::Symlink => (EntryKind::Symlink, false),
        FileType::Fifo => (EntryKind::Fifo, false),
        FileType::CharacterDevice => (EntryKind::Char, false),
        FileType::BlockDevice => (EntryKind::Block, false),
        FileType::Socket => (EntryKind::File, true),
        FileType::RegularFile | FileType::Unknown => (EntryKind::File, false),
    }
}

/// Makes an entry out of a stat. Links and capabilities are read by the caller.
#[allow(clippy::unnecessary_cast, reason = "the type of st_nlink differs by architecture")]
pub(super) fn found(name: &[u8], stat: &Stat) -> Found {
    let (kind, is_socket) = kind_of(FileType::from_raw_mode(stat.st_mode));
    let mut stamp = stamp_of(stat);
    if kind != EntryKind::File || is_socket {
        stamp.size = 0;
    }
    Found {
        name: name.into(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink as u64,
        rdev: if matches!(kind, EntryKind::Char | EntryKind::Block) { stat.st_rdev } else { 0 },
        stamp,
        link: None,
        capability: None,
        is_taken: true,
        is_left_out: false,
        listing: None,
    }
}

/// Reads `security.capability` of a file; a file system without such attributes has none.
pub(super) fn read_capability(
    dir: BorrowedFd<'_>,
    path: &[u8],
) -> std::io::Result<Option<Box<[u8]>>> {
    let file = rooted::open_beneath(dir, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    capability(|value| owner::capability(file, value))
}

/// Reads `security.capability` of a name in an open directory, which takes one call; a link is not
/// followed.
fn capability_at(dir: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<Option<Box<[u8]>>> {
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    match capability(|value| owner::capability_at(&path, value)) {
        // Without /proc, or where the name is too long behind that prefix.
        Err(_) => read_capability(dir, name),
        found => found,
    }
}

fn capability(
    read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
) -> std::io::Result<Option<Box<[u8]>>> {
    // Three words of four bytes, or six in later versions of the format.
    let mut value = [0u8; 64];
    match read(&mut value) {
        Ok(0) => Ok(None),
        Ok(length) => Ok(Some(value[..length].into())),
        Err(e) => Err(e.into()),
    }
}

/// A name in a directory, and the type that the directory gives for it.
pub(super) type Name = (Box<[u8]>, FileType);

/// Reads the names of a directory with their types, sorted by raw bytes.
pub(super) fn read_names(
    root: BorrowedFd<'_>,
    path: &[u8],
) -> std::io::Result<(OwnedFd, Vec<Name>)> {
    let dir = rooted::open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut names: Vec<Name> = Vec::new();
    let mut raw = RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((Box::from(name), entry.file_type()));
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok((dir, names))
}

/// A walk of one tree.
pub(super) struct Walk<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) rules: Rules<'a>,
    pub(super) cancel: &'a Cancel,
}

impl Walk<'_> {
    /// Lists the directory `top` and all below it; the first listing is `top`'s.
    pub(super) fn run(&self, top: &[u8]) -> Result<Vec<Listing>, ContextError> {
        let mut inherited = Inherited::default();
        if let Some(ignore) = self.rules.ignore
            && !top.is_empty()
        {
            let ends = top.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
            for end in ends.chain([top.len()]) {
                inherited = ignore.verdict(&top[..end], &inherited).inherited;
            }
        }
        let below = if top.is_empty() { 0 } else { top.len() + 1 };
        let mut done = vec![Listing {
            path: top.to_vec(),
            below,
            ignored: inherited,
            excluded: Inherited::default(),
            included: Inherited::default(),
            entries: Vec::new(),
        }];
        let mut level = 0..1;
        while !level.is_empty() {
            let batch = &mut done[level.clone()];
            if batch.len() > 1 {
                pool().install(|| {
                    batch.par_iter_mut().map(|l| self.fill(l)).collect::<Result<Vec<()>, _>>()
                })?;
            } else {
                self.fill(&mut batch[0])?;
            }
            let next = level.end;
            for at in level {
                let mut children = Vec::new();
                let listing = &mut done[at];
                let (mut parent, mut number) = (std::mem::take(&mut listing.entries), 0);
                for entry in parent.iter_mut().filter(|e| e.listing.is_some()) {
                    let child = self.child(&done[at], entry);
                    entry.listing = Some(done.len() + number);
                    number += 1;
                    children.push(child);
                }
                done[at].entries = parent;
                done.append(&mut children);
            }
            level = next..done.len();
        }
        Ok(done)
    }

    fn child(&self, listing: &Listing, entry: &Found) -> Listing {
        let path = join(&listing.path, &entry.name);
        let inherit = |matcher: Option<&Matcher>, path: &[u8], from: &Inherited| {
            matcher.map_or_else(Inherited::default, |m| m.verdict(path, from).inherited)
        };
        Listing {
            ignored: inherit(self.rules.ignore, &path, &listing.ignored),
            excluded: inherit(self.rules.exclude, &path[listing.below..], &listing.excluded),
            included: inherit(
                self.rules.include.map(|i| &i.matcher),
                &path[listing.below..],
                &listing.included,
            ),
            below: listing.below,
            path,
            entries: Vec::new(),
        }
    }

    /// Reads one directory and keeps what the rules leave.
    fn fill(&self, listing: &mut Listing) -> Result<(), ContextError> {
        if self.cancel.is_cancelled() {
            return Err(ContextError::Cancelled);
        }
        let failed = |e| ContextError::io("read the directory", &listing.path, e);
        let (dir, names) = match read_names(self.root, &listing.path) {
            Ok(read) => read,
            // Gone since its parent was read.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !listing.path.is_empty() => {
                return Ok(());
            }
            Err(e) => return Err(failed(e)),
        };
        let look = |(name, file_type): &Name| self.look(dir.as_fd(), listing, name, *file_type);
        let entries: Vec<Option<Found>> = if names.len() > PARALLEL_ENTRIES {
            pool().install(|| {
                names.par_iter().with_min_len(CHUNK).map(look).collect::<Result<_, _>>()
            })?
        } else {
            names.iter().map(look).collect::<Result<_, _>>()?
        };
        listing.entries = entries.into_iter().flatten().collect();
        Ok(())
    }

    /// Looks at one entry; `None` when it is not taken.
    fn look(
        &self,
        dir: BorrowedFd<'_>,
        listing: &Listing,
        name: &[u8],
        file_type: FileType,
    ) -> Result<Option<Found>, ContextError> {
        let rules = &self.rules;
        let has_rules =
            rules.ignore.is_some() || rules.exclude.is_some() || rules.include.is_some();
        let mut file_type = file_type;
        let mut stat = None;
        if file_type == FileType::Unknown {
            stat = stat_at(dir, listing, name)?;
            match &stat {
                Some(stat) => file_type = FileType::from_raw_mode(stat.st_mode),
                None => return Ok(None),
            }
        }
        let is_dir = file_type == FileType::Directory;
        let (mut is_taken, mut is_left_out, mut is_entered) = (true, false, is_dir);
        if has_rules {
            let path = join(&listing.path, name);
            let below = &path[listing.below..];
            if let Some(ignore) = rules.ignore {
                let verdict = ignore.verdict(&path, &listing.ignored);
                if verdict.is_ignored {
                    is_taken = false;
                    is_entered &= ignore.may_match_below_verdict(&path, &verdict);
                }
            }
            if let Some(exclude) = rules.exclude {
                let verdict = exclude.verdict(below, &listing.excluded);
                if verdict.is_ignored {
                    (is_taken, is_left_out) = (false, true);
                    // BuildKit enters an excluded directory only where there are exceptions.
                    is_entered &= exclude.may_match_below_verdict(below, &verdict);
                }
            }
            if let Some(include) = rules.include
                && !include.matcher.verdict(below, &listing.included).is_ignored
            {
                (is_taken, is_left_out) = (false, true);
                is_entered &= include.may_match_below(below);
            }
            if !is_taken && !is_entered {
                return Ok(None);
            }
        }
        let mut stat = match stat {
            Some(stat) => stat,
            None => match stat_at(dir, listing, name)? {
                Some(stat) => stat,
                None => return Ok(None),
            },
        };
        owner::amend(dir.as_fd(), name, &mut stat);
        let mut entry = found(name, &stat);
        entry.is_taken = is_taken;
        entry.is_left_out = is_left_out;
        entry.listing = (is_entered && entry.kind == EntryKind::Dir).then_some(0);
        let failed = |doing, e| ContextError::io(doing, &join(&listing.path, name), e);
        if entry.kind == EntryKind::Symlink {
            let target = rustix::fs::readlinkat(dir, name, Vec::new())
                .map_err(|e| failed("read the link", e.into()))?;
            entry.link = Some(target.into_bytes().into());
        }
        if rules.wants_capabilities && entry.kind == EntryKind::File {
            entry.capability =
                capability_at(dir, name).map_err(|e| failed("read the capabilities of", e))?;
        }
        Ok(Some(entry))
    }
}

/// Looks at one entry; `None` when it has gone since the names were read.
fn stat_at(
    dir: BorrowedFd<'_>,
    listing: &Listing,
    name: &[u8],
) -> Result<Option<Stat>, ContextError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(ContextError::io("look at", &join(&listing.path, name), e.into())),
    }
}

/// Joins a path and a name; the root's path is empty.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + name.len());
    joined.extend_from_slice(path);
    if !path.is_empty() && !name.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
