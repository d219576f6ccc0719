//! `builder df`: what the store holds, and what could go.

use super::failure::Failure;
use super::format::{Columns, ListFormat};
use super::images::{since, write_table};
use super::store_filter::StoreFilter;
use super::template::Value as Field;
use super::{parse_args, prune};
use crate::explain::text::clean;
use crate::gc::{Includes, Inventory, Item, ItemKind, Only, Policy, Reach, Removals, select};
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
    /// Only what fits: type=KIND, id=ID, until=AGE (not used for that long)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Print as `table`, as `json`, or each type by a Go template, as '{{.Type}} {{.Size}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
}

/// The fields of a type of things that a template can show, as `docker system df` has them.
const COLUMNS: &Columns = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// Columns of a terminal that the table fits in.
const WIDTH: usize = 80;

/// The classes of things, as people think of them.
const CLASSES: &[(&str, &str, &[ItemKind])] = &[
    ("layers", "Layers", &[ItemKind::Layer]),
    ("blobs", "Packed layers", &[ItemKind::Blob]),
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
    /// How many named images lead to.
    active: u64,
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
    let format = ListFormat::parse(&args.format, COLUMNS).map_err(|error| error.failure())?;
    let filter = StoreFilter::parse(&args.filter, now)?;
    let mut inventory = Inventory::of(store).map_err(|error| prune::failure(&error))?;
    let planned = |includes| {
        let policy = Policy {
            includes,
            only: Only::ALL,
            unused_since: None,
            keep_bytes: None,
            now: parse_args::system_time(now),
        };
        select(&inventory, &policy)
    };
    let plans = [planned(Includes::Results), planned(Includes::Everything)];
    let since = filter.unused_since.map(parse_args::system_time);
    let is_meant =
        |item: &Item| filter.only.fits(item) && since.is_none_or(|since| item.last_used < since);
    let sums = sums(&inventory, &plans, is_meant);
    if !args.filter.is_empty() {
        inventory.items.retain(is_meant);
        // An image is more than the things that were chosen.
        inventory.images.clear();
    }
    if args.format.trim() == "json" {
        return json(args, &inventory, &sums, out).map_err(|error| Failure::output(&error));
    }
    if !format.is_table() {
        let rows: Vec<_> =
            CLASSES.iter().zip(&sums).map(|((_, name, _), sum)| fields(name, sum)).collect();
        return format.write(&rows, out).map_err(|error| error.failure());
    }
    table(args, &inventory, &sums, now, out).map_err(|error| Failure::output(&error))
}

/// A type of things as `docker system df` shows it.
fn fields(name: &str, sum: &Sum) -> Field {
    let share = (sum.prune_all * 100).checked_div(sum.bytes).unwrap_or(0);
    let texts = [
        name.to_owned(),
        sum.count.to_string(),
        sum.active.to_string(),
        decimal(sum.bytes),
        format!("{} ({share}%)", decimal(sum.prune_all)),
    ];
    let texts = texts.iter().map(|text| Field::text(text.as_str()));
    Field::row(COLUMNS.iter().map(|(name, _)| *name).zip(texts))
}

fn sums(
    inventory: &Inventory,
    plans: &[Removals; 2],
    is_meant: impl Fn(&Item) -> bool,
) -> Vec<Sum> {
    let sets =
        plans.each_ref().map(|select| select.victims.iter().copied().collect::<BTreeSet<_>>());
    let mut sums = vec![Sum::default(); CLASSES.len()];
    for (index, item) in inventory.items.iter().enumerate().filter(|(_, item)| is_meant(item)) {
        let class = CLASSES.iter().position(|(_, _, kinds)| kinds.contains(&item.kind));
        let sum = &mut sums[class.expect("every kind is in a class")];
        // A step is one record; notes and listings belong to it.
        let is_thing =
            !matches!(item.kind, ItemKind::Pointer | ItemKind::Listing | ItemKind::Remote);
        sum.count += u64::from(is_thing);
        sum.active += u64::from(is_thing && item.reach == Reach::Image);
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
        active: a.active + b.active,
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
        let sizes = inventory
            .images
            .iter()
            .map(|image| [image.bytes, image.shared, image.bytes - image.shared].map(decimal));
        let sizes: Vec<[String; 3]> = sizes.collect();
        // Three columns with a gap before each, and what is left for names.
        let widest = |column: usize| {
            sizes
                .iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or(0)
                .max(rows[0][column + 1].len())
        };
        let room = WIDTH - (0..3).map(|column| widest(column) + 3).sum::<usize>();
        for (image, sizes) in inventory.images.iter().zip(sizes.clone()) {
            let names: Vec<_> = image.names.iter().map(|name| familiar(name)).collect();
            let names = if args.verbose { names.join(", ") } else { in_width(&names, room) };
            rows.push([names].into_iter().chain(sizes).collect());
        }
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

/// The names of an image in one line: all of them, or the first and how many more there are; of a
/// name that is too long its end, which has the tag.
fn in_width(names: &[String], width: usize) -> String {
    let all = names.join(", ");
    if all.chars().count() <= width {
        return all;
    }
    let more = match names.len() {
        0 | 1 => String::new(),
        many => format!(" +{}", many - 1),
    };
    let first = names.first().map_or("", String::as_str);
    let room = width.saturating_sub(more.len());
    let length = first.chars().count();
    let shown: String = match length > room {
        true => std::iter::once('…').chain(first.chars().skip(length + 1 - room)).collect(),
        false => first.to_owned(),
    };
    format!("{shown}{more}")
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
    word_of(item.kind)
}

/// The word for a kind of things, as `--filter type=` takes it.
pub(super) fn word_of(kind: ItemKind) -> &'static str {
    match kind {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_one_line() {
        let of = |names: &[&str], width| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            in_width(&names, width)
        };
        assert_eq!(of(&["a:1", "b:2"], 8), "a:1, b:2");
        assert_eq!(of(&["a:1", "b:2", "c:3"], 8), "a:1 +2");
        assert_eq!(of(&["r.example/team/app:1.0"], 10), "…m/app:1.0");
        assert_eq!(of(&["r.example/team/app:1.0", "x"], 10), "…pp:1.0 +1");
    }
}
