//! Which things a removal or a list is about, by kind and name.

use super::inventory::{Item, ItemKind};

/// Words for kinds: ours, and BuildKit's types of records.
const KINDS: [(&str, &[ItemKind]); 14] = [
    ("layer", &[ItemKind::Layer]),
    ("blob", &[ItemKind::Blob]),
    ("record", &[ItemKind::Record]),
    ("mount", &[ItemKind::Mount]),
    ("download", &[ItemKind::Download]),
    ("fingerprints", &[ItemKind::Fingerprints]),
    ("damaged", &[ItemKind::Damaged]),
    ("regular", &[ItemKind::Layer, ItemKind::Blob, ItemKind::Record]),
    ("exec.cachemount", &[ItemKind::Mount]),
    ("source.local", &[ItemKind::Fingerprints]),
    ("source.http", &[ItemKind::Download]),
    // Repositories are fetched for each build anew, and there is no frontend to keep.
    ("source.git.checkout", &[]),
    ("internal", &[]),
    ("frontend", &[]),
];

/// A choice of things. The default chooses all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Only {
    /// Kinds; `None` for all.
    pub kinds: Option<Vec<ItemKind>>,
    /// What the names begin with.
    pub id: Option<String>,
}

impl Only {
    /// All things.
    pub const ALL: Self = Self { kinds: None, id: None };

    /// Returns the kinds that a word stands for.
    ///
    /// # Errors
    ///
    /// The words that there are.
    pub fn kinds_of(word: &str) -> Result<&'static [ItemKind], String> {
        let known = KINDS.iter().find(|(name, _)| *name == word);
        known.map(|(_, kinds)| *kinds).ok_or_else(|| {
            let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
            names.join(", ")
        })
    }

    /// Says whether a thing is one of those.
    pub fn fits(&self, item: &Item) -> bool {
        let name = || item.path.file_name().unwrap_or_default().to_string_lossy();
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&item.kind))
            && self.id.as_ref().is_none_or(|id| name().starts_with(id.as_str()))
    }
}
