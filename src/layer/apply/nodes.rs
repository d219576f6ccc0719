//! Directories that a tar has named, as a tree of names: memory is that of the names, however deep
//! they are.

use rustix::fs::Timespec;
use std::collections::BTreeMap;

/// The number of the root.
pub(super) const ROOT: u32 = 0;

/// What is to be done to a directory when the tar is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Node {
    /// The time to set.
    pub(super) time: Option<Timespec>,
    /// Whether no member has described it so far.
    pub(super) is_implied: bool,
}

/// Nodes by number. The root is there from the start.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    children: BTreeMap<(u32, Vec<u8>), u32>,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()], children: BTreeMap::new() }
    }

    /// Returns the number of `name` in `parent`, which it gets if it has none.
    pub(super) fn number(&mut self, parent: u32, name: &[u8]) -> u32 {
        let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let number = *self.children.entry((parent, name.to_vec())).or_insert(next);
        if number == next {
            self.nodes.push(Node::default());
        }
        number
    }

    pub(super) fn at(&mut self, number: u32) -> &mut Node {
        &mut self.nodes[number as usize]
    }

    /// Forgets `name` in `parent`, and all below it.
    pub(super) fn remove(&mut self, parent: u32, name: &[u8]) {
        let mut gone: Vec<u32> =
            self.children.remove(&(parent, name.to_vec())).into_iter().collect();
        while let Some(number) = gone.pop() {
            self.nodes[number as usize] = Node::default();
            let below: Vec<_> = self.children(number).map(|(name, _)| name.to_vec()).collect();
            gone.extend(below.into_iter().filter_map(|name| self.children.remove(&(number, name))));
        }
    }

    /// Lists what is in a directory, in the order of names.
    pub(super) fn children(&self, parent: u32) -> impl Iterator<Item = (&[u8], u32)> {
        self.children
            .range((parent, Vec::new())..)
            .take_while(move |((of, _), _)| *of == parent)
            .map(|((_, name), number)| (name.as_slice(), *number))
    }

    /// Counts directories that no member has described.
    pub(super) fn implied(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_implied).count()
    }
}
