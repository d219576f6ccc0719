//! `builder df`: what the store holds, and what could go.

use super::failure::Failure;
use super::images::{since, write_table};
use super::parse_args::{self, TableFormat};
use super::prune;
use crate::explain::text::clean;
use crate::gc::{Includes, Inventory, Item, ItemKind, Policy, Reach, Removals, select};
use crate::oci::Reference;
use crate::store::{LayerId, Store};
use crate::text::size::decimal;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// What `builder df` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct DfArgs {
    /// List every thing, not only sums
    #[arg(short, long)]
    pub verbose: bool,
    /// Print as `table` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: TableFormat,
}

/// The classes of things, as people think of them.
const CLASSES: &[(&str, &str, &[ItemKind])] = &[
    ("layers", "Layers", &[ItemKind::Layer]),
    ("blobs", "Packed layers and documents", &[ItemKind::Blob]),
    (
        "records",
        "Step records",
        &[ItemKind::Record, ItemKind::Pointer, ItemKind::Listing, ItemKind::Remote],
    ),
    ("mounts", "Cache mounts", &[ItemKind::Mount]),
    ("downloads", "Downloads", &[ItemKind::Download]),
    ("fingerprints", "Fingerprints", &[ItemKind::Fingerprints]),
    ("builds", "Build history", &[ItemKind::Build]),
    ("damaged", "Set aside as damaged", &[ItemKind::Damaged]),
];

/// Sums of one class.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    count: u64,
    bytes: u64,
    shared: u64,
    prune: u64,
    prune_all: u64,
}

/// Shows what is in the store.
///
/// # Errors
///
/// A failure where the store cannot be read or the output not be written.
pub fn run(
    args: &DfArgs,
    store: &Store,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let inventory = Inventory::of(store).map_err(|error| prune::failure(&error))?;
    let planned = |includes| {
        let policy = Policy {
            includes,
            unused_since: None,
            keep_bytes: None,
            now: parse_args::system_time(now),
        };
        select(&inventory, &policy)
    };
    let plans = [planned(Includes::Results), planned(Includes::Everything)];
    let sums = sums(&inventory, &plans);
    let written = match args.format {
        TableFormat::Json => json(args, &inventory, &sums, out),
        TableFormat::Table => table(args, &inventory, &sums, now, out),
    };
    written.map_err(|error| Failure::output(&error))
}

fn sums(inventory: &Inventory, plans: &[Removals; 2]) -> Vec<Sum> {
    let sets =
        plans.each_ref().map(|select| select.victims.iter().copied().collect::<BTreeSet<_>>());
    let mut sums = vec![Sum::default(); CLASSES.len()];
    for (index, item) in inventory.items.iter().enumerate() {
        let class = CLASSES.iter().position(|(_, _, kinds)| kinds.contains(&item.kind));
        let sum = &mut sums[class.expect("every kind is in a class")];
        // A step is one record; notes and listings belong to it.
        sum.count += u64::from(!matches!(
            item.kind,
            ItemKind::Pointer | ItemKind::Listing | ItemKind::Remote
        ));
        sum.bytes += item.bytes;
        sum.shared += if item.reach == Reach::Image { item.bytes } else { 0 };
        sum.prune += if sets[0].contains(&index) { item.bytes } else { 0 };
        sum.prune_all += if sets[1].contains(&index) { item.bytes } else { 0 };
    }
    sums
}

fn total(sums: &[Sum]) -> Sum {
    sums.iter().fold(Sum::default(), |a, b| Sum {
        count: a.count + b.count,
        bytes: a.bytes + b.bytes,
        shared: a.shared + b.shared,
        prune: a.prune + b.prune,
        prune_all: a.prune_all + b.prune_all,
    })
}

fn table(
    args: &DfArgs,
    inventory: &Inventory,
    sums: &[Sum],
    now: Timestamp,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let header = ["TYPE", "COUNT", "SIZE", "IN IMAGES", "CACHE ONLY", "PRUNE FREES"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for ((_, name, _), sum) in CLASSES.iter().zip(sums) {
        rows.push(row(name, sum));
    }
    rows.push(row("Total", &total(sums)));
    write_table(&rows, out)?;
    let total = total(sums);
    if !inventory.images.is_empty() {
        let mut rows = vec![["IMAGE", "SIZE", "SHARED", "UNIQUE"].map(str::to_owned).to_vec()];
        rows.extend(inventory.images.iter().map(|image| {
            let names: Vec<_> = image.names.iter().map(|name| familiar(name)).collect();
            let unique = image.bytes - image.shared;
            vec![names.join(", "), decimal(image.bytes), decimal(image.shared), decimal(unique)]
        }));
        writeln!(out)?;
        write_table(&rows, out)?;
    }
    if total.prune_all > total.prune {
        writeln!(out, "\n`builder prune --all` would free {}", decimal(total.prune_all))?;
    }
    if args.verbose {
        writeln!(out)?;
        let mut rows = vec![
            ["TYPE", "NAME", "SIZE", "LAST USED", "IN IMAGES", "MADE BY"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let labels = labels(inventory);
        for item in listed(inventory) {
            let used = Timestamp::try_from(item.last_used).unwrap_or(Timestamp::UNIX_EPOCH);
            rows.push(vec![
                class_of(item).to_owned(),
                short_name(item),
                decimal(item.bytes),
                since(used, now),
                if item.reach == Reach::Image { "yes" } else { "no" }.to_owned(),
                label(item, &labels).map_or_else(String::new, |text| shorten(&clean(text), 50)),
            ]);
        }
        write_table(&rows, out)?;
    }
    Ok(())
}

/// A name as people type it.
fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| clean(name).into_owned(), |name| name.familiar())
}

fn row(name: &str, sum: &Sum) -> Vec<String> {
    vec![
        name.to_owned(),
        sum.count.to_string(),
        decimal(sum.bytes),
        decimal(sum.shared),
        decimal(sum.bytes - sum.shared),
        decimal(sum.prune),
    ]
}

fn json(
    args: &DfArgs,
    inventory: &Inventory,
    sums: &[Sum],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let of = |sum: &Sum| {
        json!({
            "count": sum.count,
            "bytes": sum.bytes,
            "in_images": sum.shared,
            "cache_only": sum.bytes - sum.shared,
            "prune_frees": sum.prune,
            "prune_all_frees": sum.prune_all,
        })
    };
    let mut document: BTreeMap<&str, Value> =
        CLASSES.iter().zip(sums).map(|((key, _, _), sum)| (*key, of(sum))).collect();
    document.insert("total", of(&total(sums)));
    let images = inventory.images.iter().map(|image| {
        let unique = image.bytes - image.shared;
        json!({
            "names": image.names,
            "bytes": image.bytes,
            "shared": image.shared,
            "unique": unique,
        })
    });
    document.insert("images", Value::Array(images.collect()));
    if args.verbose {
        let labels = labels(inventory);
        let items = listed(inventory).map(|item| {
            let used = Timestamp::try_from(item.last_used).unwrap_or(Timestamp::UNIX_EPOCH);
            json!({
                "type": class_of(item),
                "path": item.path,
                "bytes": item.bytes,
                "last_used": used.to_string(),
                "in_images": item.reach == Reach::Image,
                "made_by": label(item, &labels),
            })
        });
        document.insert("items", Value::Array(items.collect()));
    }
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

/// What is worth a line: notes and listings are not.
fn listed(inventory: &Inventory) -> impl Iterator<Item = &Item> {
    inventory.items.iter().filter(|item| {
        !matches!(
            item.kind,
            ItemKind::Pointer | ItemKind::Listing | ItemKind::Record | ItemKind::Remote
        )
    })
}

/// The steps that made layers.
fn labels(inventory: &Inventory) -> BTreeMap<LayerId, &str> {
    let records = inventory.items.iter().filter(|item| item.kind == ItemKind::Record);
    records.filter_map(|item| Some((*item.links.layers.first()?, item.label.as_deref()?))).collect()
}

fn label<'a>(item: &'a Item, labels: &BTreeMap<LayerId, &'a str>) -> Option<&'a str> {
    let of_layer = || item.links.layers.first().and_then(|layer| labels.get(layer).copied());
    item.label.as_deref().or_else(of_layer)
}

fn class_of(item: &Item) -> &'static str {
    match item.kind {
        ItemKind::Layer => "layer",
        ItemKind::Blob => "blob",
        ItemKind::Record | ItemKind::Pointer | ItemKind::Listing | ItemKind::Remote => "record",
        ItemKind::Mount => "mount",
        ItemKind::Download => "download",
        ItemKind::Fingerprints => "fingerprints",
        ItemKind::Build => "build",
        ItemKind::Damaged => "damaged",
    }
}

fn short_name(item: &Item) -> String {
    let name = item.path.file_name().unwrap_or_default().to_string_lossy();
    name.chars().take(12).collect()
}

fn shorten(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
