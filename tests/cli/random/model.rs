//! A file system in memory that follows the rules as they are written down, in the simplest way: what a build
//! makes is compared with it.

use crate::kit::Archive;
use crate::kit::archive::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// What a path shows: kind, mode, owner, and content or target.
pub(super) type Shown = BTreeMap<String, String>;

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// `d`, `f` or `l`.
    pub(super) kind: char,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// The content of a file, the target of a link.
    pub(super) data: String,
}

/// Paths without a leading slash, and the inodes they name.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    names: BTreeMap<String, usize>,
    nodes: Vec<Node>,
    /// Inodes that were made or changed since [`Model::settle`].
    pub(super) touched: BTreeSet<usize>,
}

impl Model {
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.names.get(path).map(|inode| &self.nodes[*inode])
    }

    pub(super) fn inode(&self, path: &str) -> Option<usize> {
        self.names.get(path).copied()
    }

    pub(super) fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.get(path).is_some_and(|node| node.kind == 'd')
    }

    /// Paths of a kind, sorted.
    pub(super) fn paths(&self, kinds: &str) -> Vec<String> {
        let wanted = |path: &&String| kinds.contains(self.get(path).expect("it is there").kind);
        self.names.keys().filter(wanted).cloned().collect()
    }

    /// Paths beneath a directory, without it.
    pub(super) fn beneath(&self, dir: &str) -> Vec<String> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        self.names.keys().filter(|path| path.starts_with(&prefix)).cloned().collect()
    }

    pub(super) fn put(&mut self, path: &str, kind: char, mode: u32, owner: (u32, u32), data: &str) {
        self.remove(path);
        self.nodes.push(Node { kind, mode, owner, data: data.to_owned() });
        self.names.insert(path.to_owned(), self.nodes.len() - 1);
        self.touched.insert(self.nodes.len() - 1);
    }

    pub(super) fn dir(&mut self, path: &str) {
        self.put(path, 'd', 0o755, (0, 0), "");
    }

    /// Makes the directories on the way to a path that are missing.
    pub(super) fn parents(&mut self, path: &str, mode: u32, owner: (u32, u32)) {
        for (at, _) in path.match_indices('/') {
            if self.get(&path[..at]).is_none() {
                self.put(&path[..at], 'd', mode, owner, "");
            }
        }
    }

    pub(super) fn change(&mut self, path: &str, edit: impl FnOnce(&mut Node)) {
        let inode = self.names[path];
        self.touched.insert(inode);
        edit(&mut self.nodes[inode]);
    }

    pub(super) fn link(&mut self, old: &str, new: &str) {
        self.remove(new);
        self.names.insert(new.to_owned(), self.names[old]);
        self.touched.insert(self.names[old]);
    }

    pub(super) fn remove(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.names.retain(|name, _| name != path && !name.starts_with(&prefix));
    }

    pub(super) fn rename(&mut self, old: &str, new: &str) {
        let prefix = format!("{old}/");
        let moved: Vec<_> = self
            .names
            .keys()
            .filter(|name| *name == old || name.starts_with(&prefix))
            .cloned()
            .collect();
        let inodes: Vec<_> = moved.iter().map(|name| self.names[name]).collect();
        self.remove(old);
        self.remove(new);
        for (name, inode) in moved.iter().zip(inodes) {
            self.names.insert(format!("{new}{}", &name[old.len()..]), inode);
            self.touched.insert(inode);
        }
    }

    /// Ends a step. Names of one inode go their own ways from here on: overlayfs copies a file up under one name.
    pub(super) fn settle(&mut self) {
        self.touched.clear();
        for inode in self.names.values_mut() {
            self.nodes.push(self.nodes[*inode].clone());
            *inode = self.nodes.len() - 1;
        }
    }

    /// What is beneath a directory, by paths from the root.
    pub(super) fn shown(&self, dir: &str) -> Shown {
        self.beneath(dir)
            .into_iter()
            .map(|path| {
                let text = show(self.get(&path).expect("it is there"));
                (path, text)
            })
            .collect()
    }
}

pub(super) fn show(node: &Node) -> String {
    // A link has the mode that the kernel says.
    let mode = if node.kind == 'l' { 0o777 } else { node.mode };
    format!("{} {mode:o} {}:{} {}", node.kind, node.owner.0, node.owner.1, node.data)
}

/// What layers of an image, from the bottom up, show beneath a directory, in the form of [`Model::shown`].
pub(super) fn shown_by(layers: &[Vec<Entry>], dir: &str) -> Shown {
    let files = crate::kit::archive::flatten(layers);
    let prefix = format!("{dir}/");
    files
        .iter()
        .filter(|(path, _)| path.starts_with(&prefix))
        .map(|(path, entry)| {
            let entry = match (entry.kind, &entry.link) {
                ('1', Some(link)) => &files[link.trim_start_matches('/')],
                _ => entry,
            };
            let (kind, data) = match entry.kind {
                '5' => ('d', String::new()),
                '2' => ('l', entry.link.clone().expect("a target")),
                _ => ('f', String::from_utf8_lossy(&entry.content).into_owned()),
            };
            let owner = (entry.uid as u32, entry.gid as u32);
            (path.clone(), show(&Node { kind, mode: entry.mode, owner, data }))
        })
        .collect()
}

/// What a whole image shows.
pub(super) fn image_shows(image: &Archive, dir: &str) -> Shown {
    shown_by(&image.layers, dir)
}

/// Compares, naming what differs.
#[track_caller]
pub(super) fn same(what: &str, found: &Shown, expected: &Shown) {
    if found == expected {
        return;
    }
    let paths: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let lines: Vec<_> = paths
        .into_iter()
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            format!("{path}: {:?}, and by the model {:?}", found.get(path), expected.get(path))
        })
        .collect();
    panic!("{what}:\n{}", lines.join("\n"));
}

/// Choices out of numbers, one number each: proptest makes a failure smaller by leaving numbers out.
pub(super) struct Choices<'a> {
    numbers: &'a [u64],
    spent: usize,
}

impl<'a> Choices<'a> {
    pub(super) fn new(numbers: &'a [u64]) -> Self {
        Self { numbers, spent: 0 }
    }

    /// The next operation's own choices, until there are none.
    pub(super) fn next(&mut self) -> Option<Dice> {
        let number = self.numbers.get(self.spent)?;
        self.spent += 1;
        Some(Dice(*number))
    }
}

/// Numbers that follow from one (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    pub(super) fn of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.roll(all.len())]
    }

    pub(super) fn pick(&mut self, all: &[String]) -> Option<String> {
        (!all.is_empty()).then(|| self.of(all).clone())
    }
}
