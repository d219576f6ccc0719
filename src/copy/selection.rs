//! What a COPY takes: the listing of the files it reads, in the order they are copied.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file; also a socket, which is copied as an empty one.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

impl EntryKind {
    /// Returns the name of the type in records and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Char => "char",
            Self::Block => "block",
        }
    }
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What distinguishes a changed file from an unchanged one without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the content.
    pub mtime: FileTime,
    /// Time of the last change of anything.
    pub ctime: FileTime,
}

/// One file of a [`Selection`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedEntry {
    /// Path beneath its [`Picked`] root, without a leading slash; empty for the root itself.
    pub path: Box<[u8]>,
    /// Type.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// Owner in the source. Counts only where the source keeps owners.
    pub uid: u32,
    /// Group in the source. Counts only where the source keeps owners.
    pub gid: u32,
    /// Size in bytes of a regular file, else 0.
    pub size: u64,
    /// BLAKE3 of a regular file's content.
    pub content: Option<[u8; 32]>,
    /// Target of a symbolic link.
    pub link: Option<Box<[u8]>>,
    /// Number of a device, else 0.
    pub rdev: u64,
    /// Value of `security.capability`, where the source keeps it.
    pub capability: Option<Box<[u8]>>,
    /// Index in [`Selection::entries`] of the first entry of the same root and inode.
    pub hard_link: Option<u32>,
    /// True for a directory that is here only because something below it was chosen by a pattern.
    pub is_implied: bool,
    /// What was seen when the content was read, to notice a change before the copy.
    pub stamp: Stamp,
}

impl SelectedEntry {
    /// Returns the time of the last change of the content.
    pub fn mtime(&self) -> FileTime {
        self.stamp.mtime
    }
}

/// One path that a source pattern picked, with all that is copied below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// Name that a file gets inside a destination directory: the last part of the path as it was
    /// written or matched, before links were followed.
    pub name: Box<[u8]>,
    /// Path in the source after links were followed, without a leading slash; empty is its root.
    pub path: Box<[u8]>,
    /// Its entries: the root first, then all below, each directory before its children, the
    /// children sorted by the raw bytes of their names.
    pub range: Range<usize>,
    /// True when of a directory only the contents are copied, and nothing of its own mode.
    pub contents_only: bool,
}

/// The files that one COPY or ADD takes out of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    pub(crate) picked: Vec<Picked>,
    pub(crate) entries: Vec<SelectedEntry>,
}

impl Selection {
    /// Returns the picked roots in the order they are copied.
    pub fn picked(&self) -> &[Picked] {
        &self.picked
    }

    /// Returns the entries of all roots.
    pub fn entries(&self) -> &[SelectedEntry] {
        &self.entries
    }

    /// Returns the number of bytes in regular files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().filter(|e| e.hard_link.is_none()).map(|e| e.size).sum()
    }

    /// Calls `visit` with every entry and its full path in the source, without a leading slash.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], &SelectedEntry)) {
        let mut path = Vec::new();
        for picked in &self.picked {
            for entry in &self.entries[picked.range.clone()] {
                path.clear();
                path.extend_from_slice(&picked.path);
                if !path.is_empty() && !entry.path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&entry.path);
                visit(&path, entry);
            }
        }
    }

    /// Hashes all that a cache key must know of these files.
    ///
    /// In it: names, types, permission bits, sizes, contents, link targets, device numbers, which
    /// names are one file, capabilities, and with `keep_owner` the owners. Not in it: times,
    /// inodes, where the source is, and the mode and owner of a directory of which only the
    /// contents are copied, because the copy does not take them.
    pub fn digest(&self, keep_owner: bool) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = Vec::with_capacity(1 << 16);
        let bytes = |part: &mut Vec<u8>, bytes: &[u8]| {
            part.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            part.extend_from_slice(bytes);
        };
        part.extend_from_slice(b"builder selection 1\0");
        for picked in &self.picked {
            part.push(1);
            part.push(u8::from(picked.contents_only));
            let entries = &self.entries[picked.range.clone()];
            // A directory's own name never reaches the destination, a file's may.
            let is_dir = entries.first().is_some_and(|e| e.kind == EntryKind::Dir);
            bytes(&mut part, if is_dir && picked.contents_only { b"" } else { &picked.name });
            for entry in entries {
                part.push(2);
                bytes(&mut part, &entry.path);
                part.push(entry.kind as u8);
                let is_unused_root = entry.path.is_empty() && is_dir && picked.contents_only;
                if !is_unused_root {
                    part.extend_from_slice(&entry.mode.to_le_bytes());
                    if keep_owner {
                        part.extend_from_slice(&entry.uid.to_le_bytes());
                        part.extend_from_slice(&entry.gid.to_le_bytes());
                    }
                }
                part.push(u8::from(entry.is_implied));
                part.extend_from_slice(&entry.size.to_le_bytes());
                part.extend_from_slice(&entry.rdev.to_le_bytes());
                bytes(&mut part, entry.content.as_ref().map_or(&[], |c| c.as_slice()));
                bytes(&mut part, entry.link.as_deref().unwrap_or_default());
                bytes(&mut part, entry.capability.as_deref().unwrap_or_default());
                let first =
                    entry.hard_link.map_or(u64::MAX, |i| u64::from(i) - picked.range.start as u64);
                part.extend_from_slice(&first.to_le_bytes());
                if part.len() > 1 << 15 {
                    hasher.update(&part);
                    part.clear();
                }
            }
        }
        hasher.update(&part);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Selection {
        let entry = |path: &[u8], kind| SelectedEntry {
            path: path.into(),
            kind,
            mode: 0o755,
            uid: 1,
            gid: 2,
            size: 0,
            content: None,
            link: None,
            rdev: 0,
            capability: None,
            hard_link: None,
            is_implied: false,
            stamp: Stamp::default(),
        };
        Selection {
            picked: vec![Picked {
                name: b"d".as_slice().into(),
                path: b"d".as_slice().into(),
                range: 0..2,
                contents_only: true,
            }],
            entries: vec![entry(b"", EntryKind::Dir), entry(b"f", EntryKind::File)],
        }
    }

    /// Says whether the digest changes when `change` is made.
    #[track_caller]
    fn check(keep_owner: bool, counts: bool, change: impl FnOnce(&mut Selection)) {
        let mut changed = sample();
        change(&mut changed);
        assert_eq!(changed.digest(keep_owner) != sample().digest(keep_owner), counts);
    }

    #[test]
    fn the_digest_holds_what_the_copy_takes_and_nothing_else() {
        check(false, true, |s| s.entries[1].mode = 0o700);
        check(false, true, |s| s.entries[1].path = b"g".as_slice().into());
        check(false, true, |s| s.entries[1].size = 1);
        check(false, true, |s| s.entries[1].content = Some([1; 32]));
        check(false, true, |s| s.entries[1].kind = EntryKind::Fifo);
        check(false, true, |s| s.entries[1].link = Some(b"x".as_slice().into()));
        check(false, true, |s| s.entries[1].rdev = 9);
        check(false, true, |s| s.entries[1].capability = Some(b"x".as_slice().into()));
        check(false, true, |s| s.entries[1].hard_link = Some(0));
        check(false, false, |s| s.entries[1].uid = 7);
        check(true, true, |s| s.entries[1].gid = 7);
        check(false, false, |s| s.entries[1].stamp.mtime.seconds = 7);
        check(false, false, |s| s.entries[1].stamp.ino = 7);
        check(false, false, |s| s.entries[0].mode = 0o700);
        check(true, false, |s| s.entries[0].uid = 7);
        check(false, false, |s| s.picked[0].path = b"e".as_slice().into());
        check(false, true, |s| s.picked[0].contents_only = false);
    }
}
