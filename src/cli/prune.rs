//! `builder prune`: removal of unused cache, and how much that freed.

use super::failure::{Class, Failure};
use super::parse_args;
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
    /// Only what has not been used for that long: until=24h
    #[arg(long, value_name = "until=AGE")]
    pub filter: Vec<String>,
    /// Only as much as needed to get down to this size, the least recently used first
    #[arg(long, value_name = "SIZE", value_parser = parse_args::bytes, visible_alias = "max-used-space")]
    pub keep_storage: Option<u64>,
    /// Show what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Accepted for Docker's sake: nothing is asked
    #[arg(short, long)]
    pub force: bool,
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
    let mut unused_since = None;
    for filter in &args.filter {
        let since = until(filter, now)?;
        unused_since = Some(unused_since.map_or(since, |other: Timestamp| other.min(since)));
    }
    let policy = Policy {
        includes: if args.all { Includes::Everything } else { Includes::Results },
        unused_since: unused_since.map(parse_args::system_time),
        keep_bytes: args.keep_storage,
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
        }
        (collected, "Would free")
    } else {
        (collect(store, &policy, cancel).map_err(|error| failure(&error))?, "Freed")
    };
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

/// The moment that `until=…` names.
fn until(filter: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let wrong = || {
        Failure::new(
            Class::Usage,
            format!("invalid filter `{filter}`: expected until=AGE, as until=24h or until=7d"),
        )
    };
    let age = filter.strip_prefix("until=").ok_or_else(wrong)?;
    let age = parse_args::age(age).map_err(|_| wrong())?;
    now.checked_sub(jiff::SignedDuration::try_from(age).map_err(|_| wrong())?).map_err(|_| wrong())
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
