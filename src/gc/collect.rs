//! Removal of the selected things, while builds may be using the store.

use super::GcError;
use super::inventory::{Inventory, Item, ItemKind, read_names};
use super::selection::{Policy, Removals, select};
use crate::store::{self, CollectResult, LayerId, Store};
use crate::sys::cancel::Cancel;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tracing::debug;

/// Maximum number of selections, when images are named while collection runs.
const ATTEMPTS: usize = 5;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many of each kind, and their bytes.
    pub removed: BTreeMap<ItemKind, (u64, u64)>,
    /// How many were left because a process uses them.
    pub held: u64,
    /// Each thing that was removed, with its bytes.
    pub things: Vec<(ItemKind, PathBuf, u64)>,
}

impl Collected {
    /// The bytes of all that was removed.
    pub fn bytes(&self) -> u64 {
        self.removed.values().map(|(_, bytes)| bytes).sum()
    }
}

/// Removes what the policy says, and returns what that was.
///
/// # Errors
///
/// [`GcError`]; what was removed until then stays removed, and nothing else is touched.
pub fn collect(store: &Store, policy: &Policy, cancel: &Cancel) -> Result<Collected, GcError> {
    let mut collected = Collected::default();
    for _ in 0..ATTEMPTS {
        let inventory = Inventory::of(store)?;
        let select = select(&inventory, policy);
        if remove(store, &inventory, &select, &mut collected, cancel)? == Names::Same {
            return Ok(collected);
        }
    }
    Err(GcError::Restless)
}

/// Whether images have been named or unnamed since the inventory was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Same,
    Other,
}

fn remove(
    store: &Store,
    inventory: &Inventory,
    select: &Removals,
    collected: &mut Collected,
    cancel: &Cancel,
) -> Result<Names, GcError> {
    collected.held = 0;
    // What layers that stay stand on.
    let mut needed: BTreeSet<LayerId> = BTreeSet::new();
    for &victim in &select.victims {
        if cancel.is_cancelled() {
            return Err(GcError::Cancelled);
        }
        let item = &inventory.items[victim];
        if item.links.layers.iter().any(|id| needed.contains(id)) && item.kind == ItemKind::Layer {
            collected.held += 1;
            continue;
        }
        let mut names = Names::Same;
        // A process that named an image has let go of it only after the name was there to be seen.
        let is_current = || {
            let is_same = !may_be_named(item)
                || read_names(store).is_ok_and(|names| names == inventory.names);
            if !is_same {
                names = Names::Other;
            }
            is_same
        };
        let result = store.try_collect(&item.path, Some(item.last_used), is_current)?;
        debug!(path = %item.path.display(), kind = ?item.kind, bytes = item.bytes, ?result, "collects");
        match result {
            CollectResult::Removed(path) => {
                store::remove_tree(&path).map_err(|source| GcError::Io {
                    doing: "remove",
                    path,
                    source,
                })?;
                let (count, bytes) = collected.removed.entry(item.kind).or_default();
                *count += 1;
                *bytes += item.bytes;
                collected.things.push((item.kind, item.path.clone(), item.bytes));
            }
            CollectResult::Leased => {
                needed.extend(item.links.under);
                collected.held += 1;
            }
            CollectResult::Used if names == Names::Other => return Ok(Names::Other),
            CollectResult::Used => needed.extend(item.links.under),
            CollectResult::Gone => {}
        }
    }
    Ok(Names::Same)
}

/// Whether an image can lead to such a thing.
fn may_be_named(item: &Item) -> bool {
    matches!(item.kind, ItemKind::Blob | ItemKind::Layer)
}

#[cfg(test)]
mod tests {
    use super::super::only::Only;
    use super::super::selection::Includes;
    use super::*;
    use crate::oci::{Descriptor, Digest};
    use crate::store::{ContentId, LayerMeta};
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn policy() -> Policy {
        // Tests have no clock: everything was used before the end of time.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        Policy {
            includes: Includes::Results,
            only: Only::ALL,
            unused_since: None,
            keep_bytes: None,
            now,
        }
    }

    fn add_layer(store: &Store, n: u8) -> LayerId {
        let work = store.session().unwrap().new_work().unwrap();
        fs::create_dir(work.join("fs")).unwrap();
        fs::write(work.join("fs/f"), [n; 100]).unwrap();
        let id = LayerId::from_bytes([n; 32]);
        store
            .add_layer(&work, &LayerMeta::new(id, ContentId::from_bytes([n; 32]), 1, 100))
            .unwrap();
        id
    }

    /// A store with two layers and three blobs that no living process uses.
    fn at_rest(root: &Path) -> Store {
        let store = Store::open(root).unwrap();
        add_layer(&store, 1);
        add_layer(&store, 2);
        for text in ["one", "two", "three"] {
            store.put_blob(text.as_bytes()).unwrap();
        }
        drop(store);
        Store::open(root).unwrap()
    }

    #[test]
    fn what_no_image_needs_goes_and_what_a_process_uses_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = at_rest(&dir.path().join("s"));
        let build = Store::open(store.root()).unwrap();
        let used = LayerId::from_bytes([1; 32]);
        assert!(build.layer(&used).unwrap().is_some());
        let collected = collect(&store, &policy(), &Cancel::new()).unwrap();
        assert_eq!(collected.removed[&ItemKind::Layer], (1, 100));
        assert_eq!(collected.removed[&ItemKind::Blob].0, 3);
        assert_eq!(collected.held, 1);
        assert!(store.peek_layer(&used).unwrap().is_some());
        drop(build);
        let collected = collect(&store, &policy(), &Cancel::new()).unwrap();
        assert_eq!(collected.removed[&ItemKind::Layer], (1, 100));
        assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_name_reaches_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = at_rest(&dir.path().join("s"));
        let blob = Digest::of(b"two");
        store.tag("a:1", &Descriptor::new("m", blob, 3)).unwrap();
        collect(&store, &policy(), &Cancel::new()).unwrap();
        assert!(store.has_blob(&blob));
        assert!(!store.has_blob(&Digest::of(b"one")));
    }

    #[test]
    fn a_name_given_after_the_plan_was_made_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = at_rest(&dir.path().join("s"));
        let inventory = Inventory::of(&store).unwrap();
        let select = select(&inventory, &policy());
        let blob = Digest::of(b"one");
        store.tag("a:1", &Descriptor::new("m", blob, 3)).unwrap();
        let mut collected = Collected::default();
        let names = remove(&store, &inventory, &select, &mut collected, &Cancel::new()).unwrap();
        assert_eq!(names, Names::Other);
        assert_eq!(collected, Collected::default());
    }
}
