//! Selection of what is removed: a pure function of an inventory and a policy.

use super::inventory::{Inventory, Item, ItemKind, Reach};
use super::only::Only;
use crate::store::{GcClass, LayerId};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// How long records of results that are gone, listings and fingerprints are kept unused.
pub const EVIDENCE_AGE: Duration = Duration::from_hours(30 * 24);

/// What may be removed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Includes {
    /// What steps made: layers and packed layers, and what leads to them.
    Results,
    /// Cache mounts, downloads and fingerprints as well.
    Everything,
}

/// What is to be removed.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What may be removed at all.
    pub includes: Includes,
    /// Only these of it, and what has lost its meaning without them.
    pub only: Only,
    /// Only what has not been used since.
    pub unused_since: Option<SystemTime>,
    /// Only as much as is needed to get down to so many bytes of cache.
    pub keep_bytes: Option<u64>,
    /// The time, which the age of small things is counted from.
    pub now: SystemTime,
}

/// What is going to be removed.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    /// Places in [`Inventory::items`], in the order of removal.
    pub victims: Vec<usize>,
    /// The bytes of those.
    pub bytes: u64,
}

impl Inventory {
    /// The bytes of cache: all that no named image reaches, but for the history.
    pub fn cache_bytes(&self) -> u64 {
        let counts = |item: &&Item| item.reach == Reach::Cache && item.kind != ItemKind::Build;
        self.items.iter().filter(counts).map(|item| item.bytes).sum()
    }
}

/// Plans what goes.
pub fn select(inventory: &Inventory, policy: &Policy) -> Removals {
    let items = &inventory.items;
    let mut is_victim = vec![false; items.len()];
    let is_old = |item: &Item| policy.unused_since.is_none_or(|since| item.last_used < since);
    let is_meant = |item: &Item| policy.only.fits(item);

    let mut order: Vec<usize> = (0..items.len())
        .filter(|&index| {
            let item = &items[index];
            item.reach == Reach::Cache
                && is_included(item.kind, policy.includes)
                && is_old(item)
                && is_meant(item)
        })
        .collect();
    // Of what one build used, the steps it ended with are given up last: they stand for the others.
    // And what other layers stand on goes after them.
    let unders: BTreeSet<LayerId> = items.iter().filter_map(|item| item.links.under).collect();
    let is_under = |item: &Item| {
        item.kind == ItemKind::Layer && item.links.layers.iter().any(|id| unders.contains(id))
    };
    order.sort_by_key(|&index| (items[index].last_used, is_under(&items[index]), index));
    let mut excess =
        policy.keep_bytes.map_or(u64::MAX, |keep| inventory.cache_bytes().saturating_sub(keep));
    let mut victims = Vec::new();
    let mut gone: BTreeSet<LayerId> = BTreeSet::new();
    for index in order {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(items[index].bytes);
        is_victim[index] = true;
        victims.push(index);
        if items[index].kind == ItemKind::Layer {
            gone.extend(&items[index].links.layers);
        }
    }
    let is_gone = |layer: &LayerId| gone.contains(layer) || !inventory.has_layer(layer);

    // What has lost its meaning goes too, whatever its age.
    let lost = |item: &Item| match item.kind {
        ItemKind::Blob => !item.links.layers.is_empty() && item.links.layers.iter().all(is_gone),
        ItemKind::Pointer => item.links.layers.iter().any(is_gone),
        ItemKind::Layer => item.links.under.as_ref().is_some_and(is_gone),
        _ => false,
    };
    let is_everything = policy.includes == Includes::Everything
        && policy.unused_since.is_none()
        && policy.keep_bytes.is_none();
    let is_stale = |item: &Item| {
        is_meant(item)
            && (is_everything
                || policy.now.duration_since(item.last_used).is_ok_and(|age| age > EVIDENCE_AGE))
    };
    let mut listed: BTreeSet<[u8; 32]> = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        if is_victim[index] || item.reach == Reach::Image {
            continue;
        }
        let goes = match item.kind {
            // A record that cannot be read leads nowhere.
            ItemKind::Record => item.links.layers.iter().all(is_gone) && is_stale(item),
            // Written anew at the next request.
            ItemKind::Fingerprints | ItemKind::Remote => is_stale(item),
            _ => lost(item),
        };
        if goes {
            is_victim[index] = true;
            victims.push(index);
        } else if item.kind == ItemKind::Record {
            listed.extend(&item.links.listings);
        }
    }
    for (index, item) in items.iter().enumerate() {
        let is_listed = item.links.listings.iter().all(|listing| listed.contains(listing));
        if item.kind == ItemKind::Listing && !is_listed && is_stale(item) {
            victims.push(index);
        }
    }
    let bytes = victims.iter().map(|&index| items[index].bytes).sum();
    Removals { victims, bytes }
}

fn is_included(kind: ItemKind, includes: Includes) -> bool {
    match kind.class() {
        GcClass::Result => true,
        GcClass::OnRequest => includes == Includes::Everything,
        GcClass::Kept
        | GcClass::Session
        | GcClass::Pointer
        | GcClass::Evidence
        | GcClass::History => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::inventory::Links;
    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    const DAY: u64 = 24 * 60 * 60;

    fn at(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(day * DAY)
    }

    fn id(n: u8) -> LayerId {
        LayerId::from_bytes([n; 32])
    }

    fn item(kind: ItemKind, name: &str, day: u64, bytes: u64, layers: &[u8]) -> Item {
        Item {
            kind,
            path: PathBuf::from(name),
            bytes,
            last_used: at(day),
            reach: Reach::Cache,
            label: None,
            links: Links { layers: layers.iter().map(|n| id(*n)).collect(), ..Links::default() },
        }
    }

    fn inventory(items: Vec<Item>) -> Inventory {
        let layers: BTreeMap<_, _> = items
            .iter()
            .enumerate()
            .filter(|(_, item)| item.kind == ItemKind::Layer)
            .map(|(index, item)| (item.links.layers[0], index))
            .collect();
        Inventory { images: Vec::new(), items, names: Vec::new(), layers }
    }

    fn sample() -> Inventory {
        let mut image = item(ItemKind::Layer, "image", 1, 1000, &[9]);
        image.reach = Reach::Image;
        inventory(vec![
            image,
            item(ItemKind::Layer, "old", 10, 100, &[1]),
            item(ItemKind::Layer, "new", 20, 50, &[2]),
            item(ItemKind::Blob, "packed-old", 30, 30, &[1]),
            item(ItemKind::Blob, "document", 30, 5, &[]),
            item(ItemKind::Mount, "mount", 5, 70, &[]),
            item(ItemKind::Record, "record-old", 10, 1, &[1]),
            item(ItemKind::Record, "record-image", 1, 1, &[9]),
            item(ItemKind::Pointer, "chain-old", 10, 1, &[1]),
            item(ItemKind::Pointer, "chain-new", 10, 1, &[2]),
            item(ItemKind::Build, "build", 1, 9, &[]),
        ])
    }

    #[track_caller]
    fn goes(policy: &Policy, expected: &[&str]) {
        let inventory = sample();
        let select = select(&inventory, policy);
        let mut names: Vec<_> =
            select.victims.iter().map(|&i| inventory.items[i].path.to_str().unwrap()).collect();
        names.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(names, expected);
        let bytes: u64 = select.victims.iter().map(|&i| inventory.items[i].bytes).sum();
        assert_eq!(select.bytes, bytes);
    }

    const BASE: Policy = Policy {
        includes: Includes::Results,
        only: Only::ALL,
        unused_since: None,
        keep_bytes: None,
        now: SystemTime::UNIX_EPOCH,
    };

    #[test]
    fn images_mounts_and_evidence_stay() {
        let now = at(31);
        let all = ["old", "new", "packed-old", "document", "chain-old", "chain-new"];
        goes(&Policy { now, ..BASE }, &all);
    }

    #[test]
    fn everything_takes_mounts_and_evidence_too_but_no_image() {
        let all = [
            "old",
            "new",
            "packed-old",
            "document",
            "chain-old",
            "chain-new",
            "mount",
            "record-old",
        ];
        goes(&Policy { includes: Includes::Everything, now: at(31), ..BASE }, &all);
    }

    #[test]
    fn only_what_is_meant_goes_with_what_leads_to_it() {
        let of = |only: Only| Policy { includes: Includes::Everything, only, now: at(31), ..BASE };
        goes(&of(Only { kinds: Some(vec![ItemKind::Mount]), id: None }), &["mount"]);
        let old = Only { kinds: None, id: Some("ol".into()) };
        goes(&of(old), &["old", "packed-old", "chain-old"]);
        goes(&of(Only { kinds: Some(Vec::new()), id: None }), &[]);
    }

    #[test]
    fn a_packed_layer_goes_with_its_layer_and_a_stale_record_after_a_month() {
        let since = Some(at(15));
        let now = at(31);
        let young = ["old", "packed-old", "chain-old"];
        goes(&Policy { unused_since: since, now, ..BASE }, &young);
        let aged = ["old", "packed-old", "chain-old", "record-old"];
        goes(&Policy { unused_since: since, now: at(41), ..BASE }, &aged);
    }

    #[test]
    fn what_other_layers_stand_on_goes_after_them() {
        let mut above = item(ItemKind::Layer, "above", 20, 1, &[1]);
        above.links.under = Some(id(2));
        // Used with the one above, and later than something else.
        let under = item(ItemKind::Layer, "under", 20, 100, &[2]);
        let inventory = inventory(vec![under, above, item(ItemKind::Layer, "other", 19, 10, &[3])]);
        let names = |keep_bytes| {
            let select = select(&inventory, &Policy { keep_bytes, now: at(31), ..BASE });
            let name = |&i: &usize| inventory.items[i].path.to_str().unwrap().to_owned();
            select.victims.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(Some(101)), ["other"]);
        assert_eq!(names(Some(100)), ["other", "above"]);
        assert_eq!(names(None), ["other", "above", "under"]);
    }

    #[test]
    fn a_layer_that_stands_on_nothing_goes() {
        let mut above = item(ItemKind::Layer, "above", 20, 1, &[1]);
        above.links.under = Some(id(2));
        let inventory = inventory(vec![above]);
        let policy = Policy { keep_bytes: Some(1000), now: at(31), ..BASE };
        assert_eq!(select(&inventory, &policy).victims, [0]);
    }

    #[test]
    fn the_least_recently_used_goes_until_the_rest_fits() {
        // 259 bytes of cache; the mount is the oldest and brings it down to 189.
        let everything = Policy { includes: Includes::Everything, now: at(31), ..BASE };
        goes(&Policy { keep_bytes: Some(189), ..everything.clone() }, &["mount"]);
        let further = ["mount", "old", "packed-old", "chain-old"];
        goes(&Policy { keep_bytes: Some(188), ..everything.clone() }, &further);
        goes(&Policy { keep_bytes: Some(1000), ..everything }, &[]);
    }
}
