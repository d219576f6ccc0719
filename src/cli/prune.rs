//! `builder prune`: removal of unused cache, and how much that freed.

use super::failure::{Class, Failure, cannot};
use super::images::write_table;
use super::store_filter::StoreFilter;
use super::{df, parse_args};
use crate::gc::{Collected, GcError, Includes, Inventory, ItemKind, Policy, collect, select};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use crate::text::size::decimal;
use jiff::Timestamp;
use std::io::Write;

/// What `builder prune` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Remove cache mounts, downloads and fingerprints too
    #[arg(short, long)]
    pub all: bool,
    /// Only what fits: until=AGE (not used for that long, as 24h, or since a date), type=KIND, id=ID
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Only as much as needed to get down to this size, the least recently used first
    #[arg(long, value_name = "SIZE", value_parser = parse_args::bytes, visible_alias = "keep-storage")]
    pub reserved_space: Option<u64>,
    /// The same; with --reserved-space, which stays in any case
    #[arg(long, value_name = "SIZE", value_parser = parse_args::bytes)]
    pub max_used_space: Option<u64>,
    /// Only as much as needed until so much of the disk is free
    #[arg(long, value_name = "SIZE", value_parser = parse_args::bytes)]
    pub min_free_space: Option<u64>,
    /// Show what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Name each thing that goes
    #[arg(long)]
    pub verbose: bool,
    /// Accepted for Docker's sake: there are no volumes
    #[arg(long, hide = true)]
    pub volumes: bool,
    /// Accepted for Docker's sake: nothing is asked
    #[arg(short, long)]
    pub force: bool,
}

impl PruneArgs {
    /// Returns how many of `total` bytes of cache may stay, where `free` bytes of the disk are;
    /// `None` where none need.
    fn keep(&self, total: u64, free: u64) -> Option<u64> {
        let Self { reserved_space, max_used_space, min_free_space, .. } = *self;
        let sizes = [reserved_space, max_used_space, min_free_space];
        sizes.iter().flatten().next()?;
        let most = max_used_space.unwrap_or(if min_free_space.is_some() { total } else { 0 });
        let lacking = min_free_space.unwrap_or(0).saturating_sub(free);
        Some(most.min(total.saturating_sub(lacking)).max(reserved_space.unwrap_or(0)))
    }
}

/// Removes what no named image and no running build needs.
///
/// # Errors
///
/// A failure for a filter that is none, or where the store cannot be read or written.
pub fn run(
    args: &PruneArgs,
    store: &Store,
    now: Timestamp,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let filter = StoreFilter::parse(&args.filter, now)?;
    let keep_bytes = match args.min_free_space {
        None => args.keep(u64::MAX, 0),
        Some(_) => {
            let disk = rustix::fs::statvfs(store.root())
                .map_err(|error| cannot("read", store.root(), &error.into()))?;
            let inventory = Inventory::of(store).map_err(|error| failure(&error))?;
            args.keep(inventory.cache_bytes(), disk.f_bavail * disk.f_frsize)
        }
    };
    // A type is asked for by its name: no further flag is needed.
    let includes_all = args.all || filter.only.kinds.is_some();
    let policy = Policy {
        includes: if includes_all { Includes::Everything } else { Includes::Results },
        only: filter.only,
        unused_since: filter.unused_since.map(parse_args::system_time),
        keep_bytes,
        now: parse_args::system_time(now),
    };
    let (collected, verb) = if args.dry_run {
        let inventory = Inventory::of(store).map_err(|error| failure(&error))?;
        let mut collected = Collected::default();
        for victim in select(&inventory, &policy).victims {
            let item = &inventory.items[victim];
            let (count, bytes) = collected.removed.entry(item.kind).or_default();
            *count += 1;
            *bytes += item.bytes;
            collected.things.push((item.kind, item.path.clone(), item.bytes));
        }
        (collected, "Would free")
    } else {
        (collect(store, &policy, cancel).map_err(|error| failure(&error))?, "Freed")
    };
    if args.verbose && !collected.things.is_empty() {
        let mut rows = vec![["TYPE", "SIZE", "PATH"].map(str::to_owned).to_vec()];
        rows.extend(collected.things.iter().map(|(kind, path, bytes)| {
            let path = path.display().to_string();
            vec![df::word_of(*kind).to_owned(), decimal(*bytes), path]
        }));
        write_table(&rows, out).map_err(|error| Failure::output(&error))?;
        writeln!(out).map_err(|error| Failure::output(&error))?;
    }
    let mut text = String::new();
    for (kind, (count, bytes)) in &collected.removed {
        text.push_str(&format!("{count} {}: {}\n", noun(*kind, *count), decimal(*bytes)));
    }
    if collected.held > 0 {
        text.push_str(&format!("{} in use by running builds, kept\n", collected.held));
    }
    text.push_str(&format!("{verb}: {}\n", decimal(collected.bytes())));
    out.write_all(text.as_bytes()).map_err(|error| Failure::output(&error))
}

fn noun(kind: ItemKind, count: u64) -> &'static str {
    let (one, many) = match kind {
        ItemKind::Blob => ("packed layer or document", "packed layers and documents"),
        ItemKind::Layer => ("layer", "layers"),
        ItemKind::Mount => ("cache mount", "cache mounts"),
        ItemKind::Download => ("download", "downloads"),
        ItemKind::Fingerprints => ("index of fingerprints", "indexes of fingerprints"),
        ItemKind::Record => ("step record", "step records"),
        ItemKind::Pointer => ("note", "notes"),
        ItemKind::Remote => ("note of a registry", "notes of registries"),
        ItemKind::Listing => ("listing of files", "listings of files"),
        ItemKind::Build => ("build", "builds"),
        ItemKind::Damaged => ("damaged thing", "damaged things"),
    };
    if count == 1 { one } else { many }
}

/// Failure of a collection, as it is shown.
pub(super) fn failure(error: &GcError) -> Failure {
    match error {
        GcError::Cancelled => Failure::new(Class::Interrupted, "interrupted"),
        error => Failure::of(Class::Environment, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_say_how_much_stays_as_in_buildkit() {
        let keep = |reserved_space, max_used_space, min_free_space| {
            let args = PruneArgs {
                all: false,
                filter: Vec::new(),
                reserved_space,
                max_used_space,
                min_free_space,
                dry_run: false,
                verbose: false,
                volumes: false,
                force: false,
            };
            // 1000 bytes of cache, 40 of the disk are free.
            args.keep(1000, 40)
        };
        assert_eq!(keep(None, None, None), None);
        assert_eq!(keep(Some(300), None, None), Some(300));
        assert_eq!(keep(None, Some(600), None), Some(600));
        assert_eq!(keep(Some(700), Some(600), None), Some(700), "what is reserved stays");
        assert_eq!(keep(None, None, Some(100)), Some(940), "60 bytes are missing on the disk");
        assert_eq!(keep(None, None, Some(10)), Some(1000), "enough is free");
        assert_eq!(keep(None, Some(600), Some(100)), Some(600));
        assert_eq!(keep(Some(500), Some(600), Some(5000)), Some(500));
    }
}
