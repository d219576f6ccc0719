//! Differences between two listings of files, attribute by attribute.

use crate::cache::{Cache, TreeEntry, TreeId};
use serde::Serialize;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// How many files are named; of the rest there are counts. A user reads a page of them.
pub const SHOWN: usize = 20;

/// The bits a umask of 022 takes away and one of 002 or 000 leaves.
const UMASK_BITS: u32 = 0o022;

/// Where listings are found by their hash.
pub trait Listings {
    /// Returns a listing; `None` where it is kept nowhere.
    fn listing(&self, tree: &TreeId) -> Option<Vec<TreeEntry>>;
}

impl Listings for Cache {
    fn listing(&self, tree: &TreeId) -> Option<Vec<TreeEntry>> {
        self.tree(tree).ok().flatten()
    }
}

/// The listings of a prediction, which are not written to the store, in front of those that are.
#[derive(Debug)]
pub struct Unwritten<'a> {
    /// The store's.
    pub kept: &'a Cache,
    /// Those of the files as they are now.
    pub now: BTreeMap<TreeId, Vec<TreeEntry>>,
}

impl Listings for Unwritten<'_> {
    fn listing(&self, tree: &TreeId) -> Option<Vec<TreeEntry>> {
        self.now.get(tree).cloned().or_else(|| self.kept.listing(tree))
    }
}

/// How two listings differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileChanges {
    /// How many are only in the new one.
    pub added: usize,
    /// How many are only in the old one.
    pub removed: usize,
    /// How many are in both and differ.
    pub changed: usize,
    /// Some of them, by path, at most [`SHOWN`]: of more, those that say most.
    pub files: Vec<FileChange>,
    /// Whether all that differs is the write permission of group and others: the pattern of a
    /// checkout made under another umask.
    pub is_umask: bool,
}

impl FileChanges {
    /// Returns how many files differ.
    pub fn count(&self) -> usize {
        self.added + self.removed + self.changed
    }

    /// Returns how many of them [`files`](Self::files) does not name.
    pub fn left_out(&self) -> usize {
        self.count() - self.files.iter().map(|file| file.entries.unwrap_or(1)).sum::<usize>()
    }
}

/// How one file differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its path in its source.
    pub path: String,
    /// Whether it was added, removed or changed.
    pub change: Change,
    /// How many entries the directory has with itself, if this stands for all of them: in a long
    /// list, for a whole tree that was added or removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<usize>,
    /// What differs, of a changed one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<AttributeChange>,
}

/// Result of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It differs.
    Changed,
}

/// An attribute of a file with its two values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttributeChange {
    /// Which one.
    pub attribute: Attribute,
    /// The old value; of content the first digits of its hash.
    pub old: String,
    /// The new value.
    pub new: String,
}

/// An attribute of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// `file`, `dir`, `symlink` …
    Type,
    /// Permission bits, four octal digits.
    Mode,
    /// `uid:gid`.
    Owner,
    /// Bytes.
    Size,
    /// The bytes of a file.
    Content,
    /// What a symbolic link points to.
    Target,
    /// The number of a device.
    Device,
}

impl Attribute {
    /// Returns its name, as in the JSON form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
        }
    }
}

/// Compares two listings, in any order.
pub fn compare<'e>(old: &'e [TreeEntry], new: &'e [TreeEntry]) -> FileChanges {
    let mut pairs: BTreeMap<&str, (Option<&TreeEntry>, Option<&TreeEntry>)> = BTreeMap::new();
    for entry in old {
        pairs.insert(&entry.path, (Some(entry), None));
    }
    for entry in new {
        match pairs.entry(&entry.path) {
            // Most files of most builds.
            Entry::Occupied(slot) if slot.get().0 == Some(entry) => {
                slot.remove();
            }
            Entry::Occupied(mut slot) => slot.get_mut().1 = Some(entry),
            Entry::Vacant(slot) => {
                slot.insert((None, Some(entry)));
            }
        }
    }
    let mut changes = FileChanges { is_umask: !pairs.is_empty(), ..FileChanges::default() };
    let mut files = Vec::new();
    let dirs = |entries: &'e [TreeEntry]| -> BTreeSet<&'e str> {
        entries
            .iter()
            .filter(|entry| entry.kind == "dir")
            .map(|entry| entry.path.as_str())
            .collect()
    };
    let (old_dirs, new_dirs) = (dirs(old), dirs(new));
    for (path, pair) in pairs {
        let (change, attributes) = match pair {
            (Some(old), Some(new)) => {
                changes.changed += 1;
                changes.is_umask &= differs_by_umask(old, new);
                (Change::Changed, attributes(old, new))
            }
            (Some(_), None) => {
                changes.removed += 1;
                (Change::Removed, Vec::new())
            }
            (None, _) => {
                changes.added += 1;
                (Change::Added, Vec::new())
            }
        };
        changes.is_umask &= change == Change::Changed;
        let path = path.to_owned();
        files.push(FileChange { path, change, entries: None, attributes });
    }
    if files.len() > SHOWN {
        let is_dir = |file: &FileChange| {
            let dirs = if file.change == Change::Added { &new_dirs } else { &old_dirs };
            dirs.contains(file.path.as_str())
        };
        files = telling(&with_trees_as_one(files, is_dir));
    }
    changes.files = files;
    changes
}

/// Replaces a directory that was added or removed, with all that is in it, by one change. `files`
/// are sorted by path; `is_dir` says whether an added or removed one is a directory.
fn with_trees_as_one(
    files: Vec<FileChange>,
    is_dir: impl Fn(&FileChange) -> bool,
) -> Vec<FileChange> {
    let mut kept: Vec<FileChange> = Vec::new();
    // Paths beneath a directory need not stand right behind it: `a-b` is between `a` and `a/b`.
    let mut trees: Vec<usize> = Vec::new();
    for file in files {
        // `0` comes behind `/`: all beneath `a` is before `a0`.
        trees.retain(|&tree| file.path.as_str() < format!("{}0", kept[tree].path).as_str());
        let tree = trees.iter().copied().find(|&tree| {
            let above = &kept[tree];
            above.change == file.change
                && file.path.strip_prefix(&above.path).is_some_and(|rest| rest.starts_with('/'))
        });
        if let Some(tree) = tree {
            *kept[tree].entries.get_or_insert(1) += 1;
            continue;
        }
        if file.change != Change::Changed && is_dir(&file) {
            trees.push(kept.len());
        }
        kept.push(file);
    }
    kept
}

/// Chooses [`SHOWN`] of a long list: added, removed and changed ones in turn, as long as there are
/// any, and by-products last. They stay sorted, by-products at the end.
fn telling(files: &[FileChange]) -> Vec<FileChange> {
    let mut chosen: Vec<(bool, FileChange)> = Vec::new();
    for by_products in [false, true] {
        let mut kinds = [Change::Changed, Change::Added, Change::Removed].map(|kind| {
            let is_meant = move |file: &&FileChange| {
                file.change == kind && is_by_product(&file.path) == by_products
            };
            files.iter().filter(is_meant)
        });
        loop {
            let before = chosen.len();
            for kind in &mut kinds {
                if chosen.len() < SHOWN
                    && let Some(file) = kind.next()
                {
                    chosen.push((by_products, file.clone()));
                }
            }
            if chosen.len() == before {
                break;
            }
        }
    }
    chosen.sort_by(|(one, a), (other, b)| (one, &a.path).cmp(&(other, &b.path)));
    chosen.into_iter().map(|(_, file)| file).collect()
}

/// Names of directories that tools fill by themselves.
const BY_PRODUCT_DIRS: [&str; 8] = [
    "__pycache__",
    ".git",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".idea",
    ".vscode",
    "node_modules",
];

/// How names of files end that tools and editors leave behind.
const BY_PRODUCT_ENDS: [&str; 7] = [".pyc", ".pyo", ".swp", ".swo", "~", ".DS_Store", ".o"];

/// Whether a path is of a file that a tool made, and no user wrote.
fn is_by_product(path: &str) -> bool {
    path.split('/').any(|name| BY_PRODUCT_DIRS.contains(&name))
        || BY_PRODUCT_ENDS.iter().any(|end| path.ends_with(end))
}

/// Says whether two entries differ, and only in what a umask takes away.
fn differs_by_umask(old: &TreeEntry, new: &TreeEntry) -> bool {
    let bits = old.mode ^ new.mode;
    bits != 0 && bits & !UMASK_BITS == 0 && TreeEntry { mode: new.mode, ..old.clone() } == *new
}

fn attributes(old: &TreeEntry, new: &TreeEntry) -> Vec<AttributeChange> {
    let mut out = Vec::new();
    let mut note = |attribute, old: String, new: String| {
        if old != new {
            out.push(AttributeChange { attribute, old, new });
        }
    };
    let is_same_type = old.kind == new.kind;
    note(Attribute::Type, old.kind.clone(), new.kind.clone());
    note(Attribute::Mode, mode(old), mode(new));
    note(Attribute::Owner, owner(old), owner(new));
    if is_same_type {
        let size = |entry: &TreeEntry| entry.size.map(|s| s.to_string()).unwrap_or_default();
        note(Attribute::Size, size(old), size(new));
        let (attribute, digits) = match old.kind.as_str() {
            "symlink" => (Attribute::Target, usize::MAX),
            "char" | "block" => (Attribute::Device, usize::MAX),
            _ => (Attribute::Content, 16),
        };
        let content = |entry: &TreeEntry| -> String {
            entry.content.iter().flat_map(|text| text.chars()).take(digits).collect()
        };
        note(attribute, content(old), content(new));
    }
    out
}

fn mode(entry: &TreeEntry) -> String {
    format!("{:04o}", entry.mode)
}

fn owner(entry: &TreeEntry) -> String {
    entry.owner.map(|(uid, gid)| format!("{uid}:{gid}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, mode: u32, content: &str) -> TreeEntry {
        TreeEntry {
            path: path.into(),
            kind: "file".into(),
            mode,
            owner: None,
            size: Some(content.len() as u64),
            content: Some(content.into()),
        }
    }

    fn link(path: &str, target: &str) -> TreeEntry {
        TreeEntry { kind: "symlink".into(), size: None, ..file(path, 0o777, target) }
    }

    /// One line a file: `+path`, `-path`, `path mode 0644>0755 …`.
    fn shown(old: &[TreeEntry], new: &[TreeEntry]) -> Vec<String> {
        compare(old, new)
            .files
            .iter()
            .map(|file| match file.change {
                Change::Added => format!("+{}", file.path),
                Change::Removed => format!("-{}", file.path),
                Change::Changed => file.attributes.iter().fold(file.path.clone(), |text, a| {
                    format!("{text} {} {}>{}", a.attribute.name(), a.old, a.new)
                }),
            })
            .collect()
    }

    #[test]
    fn each_attribute_is_named_with_both_values() {
        let base = || file("a", 0o644, "xy");
        let cases: &[(TreeEntry, &[&str])] = &[
            (base(), &[]),
            (file("a", 0o755, "xy"), &["a mode 0644>0755"]),
            (file("a", 0o4644, "xy"), &["a mode 0644>4644"]),
            (file("a", 0o644, "zz"), &["a content xy>zz"]),
            (file("a", 0o644, "xyz"), &["a size 2>3 content xy>xyz"]),
            (TreeEntry { owner: Some((1, 2)), ..base() }, &["a owner >1:2"]),
            (link("a", "b"), &["a type file>symlink mode 0644>0777"]),
            (file("b", 0o644, "xy"), &["-a", "+b"]),
        ];
        for (new, expected) in cases {
            assert_eq!(shown(&[base()], std::slice::from_ref(new)), *expected);
        }
        assert_eq!(shown(&[link("l", "a")], &[link("l", "b")]), ["l target a>b"]);
    }

    #[test]
    fn the_first_twenty_are_named_and_all_are_counted() {
        let new: Vec<_> = (0..50).map(|i| file(&format!("f{i:02}"), 0o644, "")).collect();
        let changes = compare(&[file("gone", 0o644, "")], &new);
        assert_eq!((changes.added, changes.removed, changes.changed), (50, 1, 0));
        assert_eq!(changes.files.len(), SHOWN);
        assert_eq!(changes.files[0].path, "f00");
    }

    fn dir(path: &str) -> TreeEntry {
        TreeEntry { kind: "dir".into(), size: None, content: None, ..file(path, 0o755, "") }
    }

    /// The lines of a long list, trees with their entries.
    fn long(old: &[TreeEntry], new: &[TreeEntry]) -> Vec<String> {
        let changes = compare(old, new);
        let marks = changes.files.iter().map(|file| {
            let mark = match file.change {
                Change::Added => '+',
                Change::Removed => '-',
                Change::Changed => '~',
            };
            let entries = file.entries.map(|count| format!("/ {count}")).unwrap_or_default();
            format!("{mark}{}{entries}", file.path)
        });
        let mut lines: Vec<_> = marks.collect();
        if changes.left_out() > 0 {
            lines.push(format!("{} more", changes.left_out()));
        }
        lines
    }

    #[test]
    fn a_whole_tree_that_came_or_went_is_one_line_of_a_long_list() {
        let tree = |name: &str, count: usize| -> Vec<TreeEntry> {
            let files = (0..count).map(|i| file(&format!("{name}/sub/f{i:02}"), 0o644, ""));
            [dir(name), dir(&format!("{name}/sub"))].into_iter().chain(files).collect()
        };
        let old = [tree("gone", 30), vec![file("a", 0o644, "x")]].concat();
        let new = [tree("came", 40), vec![file("a", 0o644, "y"), file("came-too", 0o644, "")]];
        let lines = long(&old, &new.concat());
        assert_eq!(lines, ["~a", "+came/ 42", "+came-too", "-gone/ 32"]);
        // A directory that stays is not a tree that came, whatever is in it.
        let stays: Vec<_> = (0..25).map(|i| file(&format!("d/f{i:02}"), 0o644, "")).collect();
        let lines = long(&[dir("d")], &[vec![dir("d")], stays].concat());
        assert_eq!((lines.len(), lines[0].as_str(), lines[20].as_str()), (21, "+d/f00", "5 more"));
        // A short list names every file.
        let lines = long(&[], &tree("t", 2));
        assert_eq!(lines, ["+t", "+t/sub", "+t/sub/f00", "+t/sub/f01"]);
    }

    #[test]
    fn a_long_list_has_something_of_each_kind_and_by_products_last() {
        let many = |name: &str, count: usize, text: &str| -> Vec<TreeEntry> {
            (0..count).map(|i| file(&format!("{name}{i:02}"), 0o644, text)).collect()
        };
        let old = [many("changed", 30, "x"), many("removed", 3, "")].concat();
        let caches = (0..30).map(|i| file(&format!("a/__pycache__/m{i}.pyc"), 0o644, "")).collect();
        let new = [many("changed", 30, "y"), many("added", 40, ""), caches].concat();
        let lines = long(&old, &new);
        let count = |mark: char| lines.iter().filter(|line| line.starts_with(mark)).count();
        assert_eq!((count('~'), count('+'), count('-')), (9, 8, 3), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("pyc")), "{lines:?}");
        assert_eq!(lines[20], "83 more");
        let old = many("src", 2, "x");
        let caches = (0..30).map(|i| file(&format!("a/m{i:02}.pyc"), 0o644, "")).collect();
        let lines = long(&old, &[many("src", 2, "y"), caches].concat());
        assert_eq!(lines[..3], ["~src00", "~src01", "+a/m00.pyc"], "{lines:?}");
    }

    #[test]
    fn a_umask_is_recognised_only_where_nothing_else_differs() {
        let of = |new: &[TreeEntry]| {
            compare(&[file("a", 0o644, "x"), file("b", 0o755, "y")], new).is_umask
        };
        assert!(of(&[file("a", 0o664, "x"), file("b", 0o775, "y")]));
        assert!(of(&[file("a", 0o666, "x"), file("b", 0o755, "y")]));
        assert!(!of(&[file("a", 0o644, "x"), file("b", 0o755, "y")]), "nothing differs");
        assert!(!of(&[file("a", 0o664, "x"), file("b", 0o755, "z")]), "content");
        assert!(!of(&[file("a", 0o755, "x"), file("b", 0o775, "y")]), "execute bits");
        assert!(!of(&[file("a", 0o664, "x")]), "removed");
        assert!(
            !of(&[file("a", 0o664, "x"), file("b", 0o775, "y"), file("c", 0o664, "")]),
            "added"
        );
    }

    #[test]
    fn order_does_not_matter() {
        let (a, b) = (file("a", 0o644, "x"), file("b", 0o644, "x"));
        assert_eq!(compare(&[a.clone(), b.clone()], &[b, a]), FileChanges::default());
    }
}
