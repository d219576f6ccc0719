//! `builder images`: what is in the store.

mod tree;

use super::format::{Columns, ListFormat};
use super::image_arg::{self, ImageCommandError};
use super::parse_args;
use super::template::Value;
use crate::image::{self, StoredImage};
use crate::oci::{Config, Digest, Manifest, Platform, Reference};
use crate::store::{Store, Tagged};
use crate::text::size::decimal;
use jiff::Timestamp;
use std::io::Write;

/// List the images of the store.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ImagesArgs {
    /// Show only images of this repository, or of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub repository: Option<String>,
    /// Show all images (there are no hidden ones)
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Show only images that fit: dangling=, reference=, label=, before=, since=, until=
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Print as `table`, as `json`, or by a Go template, as '{{.ID}}' or 'table {{.ID}}\t{{.Size}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Show the platforms of each image below it
    #[arg(long, conflicts_with_all = ["quiet", "format", "digests"])]
    pub tree: bool,
}

/// The fields of an image that a template can show. The last four are there for docker's sake.
const COLUMNS: &Columns = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Bytes", "BYTES"),
    ("Platform", "PLATFORM"),
    ("Labels", "LABELS"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

/// One line of the list. Of an index, what it shows is that of this machine's image, or of the first
/// that is here.
struct Row {
    image: Tagged,
    name: Option<Reference>,
    id: Option<Digest>,
    config: Option<Config>,
    /// Those of the images that are here.
    platforms: Vec<Platform>,
    /// The bytes of all images that are here.
    size: u64,
}

impl Row {
    fn repository(&self) -> String {
        self.name.as_ref().map_or("<none>".to_owned(), Reference::familiar_name)
    }

    fn tag(&self) -> &str {
        self.name.as_ref().and_then(Reference::tag).unwrap_or("<none>")
    }

    fn created(&self) -> Option<Timestamp> {
        self.config.as_ref()?.created()?.parse().ok()
    }

    fn platforms(&self) -> String {
        let platforms: Vec<_> = self.platforms.iter().map(Platform::to_string).collect();
        platforms.join(",")
    }

    /// Returns the fields of [`COLUMNS`].
    fn value(&self, id: String, now: Timestamp) -> Value {
        let or_none = |text: Option<String>| Value::text(text.unwrap_or("N/A".to_owned()));
        let labels = self.config.as_ref().map(Config::labels).unwrap_or_default();
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let values = [
            Value::text(id),
            Value::text(self.repository()),
            Value::text(self.tag()),
            Value::text(self.image.descriptor.digest.to_string()),
            or_none(self.created().map(|at| since(at, now))),
            or_none(
                self.created().map(|at| at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()),
            ),
            Value::text(decimal(self.size)),
            Value::Int(self.size.into()),
            or_none((!self.platforms.is_empty()).then(|| self.platforms())),
            Value::text(labels.join(",")),
            Value::text("N/A"),
            Value::text("N/A"),
            Value::text("N/A"),
            Value::text(decimal(self.size)),
        ];
        Value::row(COLUMNS.iter().map(|(name, _)| *name).zip(values))
    }
}

/// Shows an id: whole, or as much of it as people type.
fn id(id: Option<&Digest>, is_whole: bool) -> String {
    match id {
        None => "<damaged>".to_owned(),
        Some(id) if is_whole => id.to_string(),
        Some(id) => id.to_hex()[..12].to_owned(),
    }
}

/// Lists images; `now` is what ages are counted from.
///
/// # Errors
///
/// [`ImageCommandError`] for a bad filter or format, or a damaged store.
pub fn run(
    args: &ImagesArgs,
    store: &Store,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let format = ListFormat::parse(&args.format, COLUMNS)?;
    let mut rows = Vec::new();
    for image in store.images()? {
        rows.push(row(store, image)?);
    }
    if let Some(wanted) = &args.repository {
        rows.retain(|row| matches_reference(row, wanted));
    }
    filter(&args.filter, store, now, &mut rows)?;
    // The newest first, as Docker has it; then by name.
    rows.sort_by(|a, b| b.created().cmp(&a.created()).then_with(|| a.name.cmp(&b.name)));
    let id_of = |row: &Row| id(row.id.as_ref(), args.no_trunc);
    if args.tree {
        return tree::write(&rows, store, args.no_trunc, out);
    }
    if !format.is_table() {
        let values: Vec<Value> = rows.iter().map(|row| row.value(id_of(row), now)).collect();
        return Ok(format.write(&values, out)?);
    }
    if args.quiet {
        let mut seen = std::collections::BTreeSet::new();
        for row in &rows {
            let id = id_of(row);
            if seen.insert(id.clone()) {
                writeln!(out, "{id}")?;
            }
        }
        return Ok(());
    }
    let mut table = vec![vec!["REPOSITORY".to_owned(), "TAG".to_owned()]];
    if args.digests {
        table[0].push("DIGEST".to_owned());
    }
    table[0].extend(["IMAGE ID", "CREATED", "SIZE"].map(str::to_owned));
    for row in &rows {
        let mut line = vec![row.repository(), row.tag().to_owned()];
        if args.digests {
            line.push(row.image.descriptor.digest.to_string());
        }
        let created = row.created().map_or("N/A".to_owned(), |at| since(at, now));
        line.extend([id_of(row), created, decimal(row.size)]);
        table.push(line);
    }
    write_table(&table, out)?;
    Ok(())
}

fn row(store: &Store, image: Tagged) -> Result<Row, ImageCommandError> {
    let name = image.name.as_deref().and_then(|name| Reference::parse(name).ok());
    // A damaged image is shown as such; the others must not suffer.
    let Ok(found) = StoredImage::read(store, &image.descriptor) else {
        return Ok(Row { image, name, id: None, config: None, platforms: Vec::new(), size: 0 });
    };
    let id = Some(found.id(&image.descriptor));
    let config = found.shown().map(|(_, _, config)| config.clone());
    let size = files_size(store, &found)?;
    Ok(Row { image, name, id, config, platforms: found.platforms(), size })
}

/// Returns the bytes of the files of all images that are here; a layer that several have counts once.
fn files_size(store: &Store, found: &StoredImage) -> Result<u64, ImageCommandError> {
    let mut counted = std::collections::BTreeSet::new();
    let mut sum = 0_u64;
    for (_, manifest, config) in &found.here {
        let diff_ids = config.diff_ids().unwrap_or_default();
        let mut layers = image::layers_of(store, &diff_ids)?.into_iter();
        let mut own = std::collections::BTreeSet::new();
        for blob in &manifest.layers {
            let layer = layers.next().flatten();
            // An image may have a layer twice, and has its files twice then.
            let is_new = own.contains(&blob.digest) || !counted.contains(&blob.digest);
            own.insert(blob.digest);
            if is_new {
                sum = sum.saturating_add(layer.map_or(blob.size, |layer| layer.meta.bytes));
            }
        }
        counted.extend(own);
    }
    Ok(sum)
}

/// Returns the bytes of an image's files; of layers that are not unpacked those of the blob.
///
/// # Errors
///
/// [`ImageCommandError::Store`] where the store cannot be read.
pub fn unpacked_size(
    store: &Store,
    manifest: &Manifest,
    config: &Config,
) -> Result<u64, ImageCommandError> {
    let mut layers = image::layers_of(store, &config.diff_ids().unwrap_or_default())?.into_iter();
    let sizes = manifest.layers.iter().map(|blob| {
        let layer = layers.next().flatten();
        layer.map_or(blob.size, |layer| layer.meta.bytes)
    });
    Ok(sizes.sum())
}

/// Docker's: a name without `/` or `:` may hold wildcards; a tag must fit where one is given.
fn matches_reference(row: &Row, wanted: &str) -> bool {
    let Some(name) = &row.name else { return false };
    let (repository, tag) = match wanted.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (wanted, None),
    };
    let fits = |pattern: &str| glob(pattern, &name.familiar_name()) || glob(pattern, &name.name());
    fits(repository) && tag.is_none_or(|tag| glob(tag, name.tag().unwrap_or("")))
}

/// Matches `*`, which crosses no `/`, and `?`.
fn glob(pattern: &str, text: &str) -> bool {
    fn go(p: &[u8], t: &[u8]) -> bool {
        match (p, t) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                go(rest, t) || matches!(t, [c, tail @ ..] if *c != b'/' && go(p, tail))
            }
            ([b'?', p @ ..], [c, t @ ..]) => *c != b'/' && go(p, t),
            ([a, p @ ..], [b, t @ ..]) => a == b && go(p, t),
            _ => false,
        }
    }
    go(pattern.as_bytes(), text.as_bytes())
}

/// Keeps the images that fit. Of several patterns of names one must fit, of other filters all.
fn filter(
    filters: &[String],
    store: &Store,
    now: Timestamp,
    rows: &mut Vec<Row>,
) -> Result<(), ImageCommandError> {
    let mut patterns = Vec::new();
    for filter in filters {
        let bad = || ImageCommandError::Filter { text: filter.clone() };
        let (key, value) = filter.split_once('=').ok_or_else(bad)?;
        match key {
            "dangling" => {
                let wanted = parse_args::truth(value).map_err(|_| bad())?;
                rows.retain(|row| row.name.is_none() == wanted);
            }
            "reference" => patterns.push(value),
            "label" => {
                let (name, wanted) = match value.split_once('=') {
                    Some((name, wanted)) => (name, Some(wanted)),
                    None => (value, None),
                };
                rows.retain(|row| {
                    let labels = row.config.as_ref().map(Config::labels).unwrap_or_default();
                    let label = labels.get(name);
                    label.is_some_and(|label| wanted.is_none_or(|wanted| label == wanted))
                });
            }
            "before" | "since" => {
                let other = row(store, image_arg::image(store, value)?)?.created();
                let is_before = key == "before";
                rows.retain(
                    |row| if is_before { row.created() < other } else { row.created() > other },
                );
            }
            "until" => {
                let until = parse_args::moment(value, now).map_err(|_| bad())?;
                rows.retain(|row| row.created().is_some_and(|created| created < until));
            }
            _ => return Err(bad()),
        }
    }
    if !patterns.is_empty() {
        rows.retain(|row| patterns.iter().any(|pattern| matches_reference(row, pattern)));
    }
    Ok(())
}

/// Prints how long ago something was, as Docker does: `3 days ago`.
pub(super) fn since(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, (seconds + 1800) / 3600, seconds / 86_400);
    let plural = |n: i64, unit: &str| format!("{n} {unit}s ago");
    match () {
        () if seconds < 1 => "Less than a second ago".to_owned(),
        () if seconds == 1 => "1 second ago".to_owned(),
        () if seconds < 60 => plural(seconds, "second"),
        () if minutes == 1 => "About a minute ago".to_owned(),
        () if minutes < 60 => plural(minutes, "minute"),
        () if hours == 1 => "About an hour ago".to_owned(),
        () if hours < 48 => plural(hours, "hour"),
        () if days < 14 => plural(days, "day"),
        () if days < 60 => plural(days / 7, "week"),
        () if days < 730 => plural(days / 30, "month"),
        () => plural(days / 365, "year"),
    }
}

/// Prints columns three spaces apart.
pub(super) fn write_table(rows: &[Vec<String>], out: &mut dyn Write) -> std::io::Result<()> {
    let shown = |cell: &String| crate::show::text(cell).into_owned();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(shown).collect()).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 3));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_dockers() {
        let now: Timestamp = "2024-06-15T12:00:00Z".parse().unwrap();
        for (at, text) in [
            ("2024-06-15T12:00:00Z", "Less than a second ago"),
            ("2024-06-15T11:59:15Z", "45 seconds ago"),
            ("2024-06-15T11:58:30Z", "About a minute ago"),
            ("2024-06-15T11:15:00Z", "45 minutes ago"),
            ("2024-06-15T10:50:00Z", "About an hour ago"),
            ("2024-06-14T11:00:00Z", "25 hours ago"),
            ("2024-06-10T12:00:00Z", "5 days ago"),
            ("2024-05-20T12:00:00Z", "3 weeks ago"),
            ("2024-01-15T12:00:00Z", "5 months ago"),
            ("2014-06-15T12:00:00Z", "10 years ago"),
            ("2034-06-15T12:00:00Z", "Less than a second ago"),
        ] {
            assert_eq!(since(at.parse().unwrap(), now), text, "{at}");
        }
    }

    #[test]
    fn wildcards_stay_within_a_part() {
        for (pattern, text, fits) in [
            ("deb*", "debian", true),
            ("*", "org/app", false),
            ("*/app", "org/app", true),
            ("a?p", "app", true),
            ("app", "apps", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
