//! `builder history`: which instructions an image was made by.

pub mod attachment;
pub mod builds;
mod fields;
pub mod list;
mod matching;
pub mod transfer;
pub mod usage;

use crate::cli::format::{Columns, ListFormat};
use crate::cli::image_arg::{self, ImageCommandError};
use crate::cli::images::{since, write_table};
use crate::cli::template::Value;
use crate::image;
use crate::progress::clean_line;
use crate::store::Store;
use crate::text::size::decimal;
use jiff::Timestamp;
use std::io::Write;

/// `builder history`: of an image, or of builds.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct HistoryCommand {
    #[command(subcommand)]
    /// What is done with builds.
    pub verb: Option<HistoryVerb>,
    /// Show what the steps of a build used, the last one's without a name
    #[arg(long, value_name = "BUILD", num_args = 0..=1, default_missing_value = "last")]
    pub usage: Option<String>,
    #[command(flatten)]
    /// Of an image.
    pub image: HistoryArgs,
}

/// A command of the history of builds.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum HistoryVerb {
    /// Those that need only the store.
    #[command(flatten)]
    Builds(builds::BuildsCommand),
    /// Those that take builds out of the store or into it.
    #[command(flatten)]
    Transfer(transfer::TransferCommand),
}

/// Show the history of an image.
#[derive(Debug, Clone, clap::Args)]
pub struct HistoryArgs {
    /// The image
    pub image: Option<String>,
    /// Print as `table`, as `json`, or by a Go template, as '{{.CreatedBy}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Do not shorten instructions
    #[arg(long)]
    pub no_trunc: bool,
    /// Print sizes and dates in human readable form
    #[arg(short = 'H', long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub human: bool,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Platform, of an image that has several
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
}

/// The fields of an entry that a template can show.
const COLUMNS: &Columns = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// How many characters of an instruction the table shows.
const SHOWN: usize = 45;

/// Prints the history of an image, the newest entry first.
///
/// # Errors
///
/// [`ImageCommandError`] for an unknown image or format.
pub fn run(
    name: &str,
    args: &HistoryArgs,
    store: &Store,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let format = ListFormat::parse(&args.format, COLUMNS)?;
    let found = image_arg::image(store, name)?;
    let platform = image_arg::platform_of(store, &found.descriptor, &args.platform)?;
    let (_, manifest, config) = image::read(store, &found.descriptor, &platform)?;
    let layers = image::layers_of(store, &config.diff_ids().unwrap_or_default())?;
    let mut next = 0;
    let mut rows = Vec::new();
    for entry in config.history() {
        let mut bytes = 0;
        if !entry.empty_layer {
            bytes = match (layers.get(next).and_then(Option::as_ref), manifest.layers.get(next)) {
                (Some(layer), _) => layer.meta.bytes,
                (None, Some(blob)) => blob.size,
                (None, None) => 0,
            };
            next += 1;
        }
        rows.push((entry, bytes));
    }
    let id = match args.no_trunc {
        true => manifest.config.digest.to_string(),
        false => manifest.config.digest.to_hex()[..12].to_owned(),
    };
    let header = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned);
    let mut table = vec![header.to_vec()];
    let mut values = Vec::new();
    for (i, (entry, bytes)) in rows.into_iter().rev().enumerate() {
        // Only the last entry is an image; the others were steps on the way.
        let image = if i == 0 { id.clone() } else { "<missing>".to_owned() };
        if args.quiet && format.is_table() {
            writeln!(out, "{image}")?;
            continue;
        }
        let created: Option<Timestamp> = entry.created.as_deref().and_then(|at| at.parse().ok());
        let shown = match (created, args.human) {
            (None, _) => "N/A".to_owned(),
            (Some(at), true) => since(at, now),
            (Some(at), false) => at.to_string(),
        };
        let bytes = if args.human { decimal(bytes) } else { bytes.to_string() };
        let by = clean_line(entry.created_by.replace(['\n', '\t'], " ").as_bytes());
        // JSON has the instruction as it is.
        if !format.is_table() {
            let is_whole = args.no_trunc || args.format.trim() == "json";
            let by = if is_whole { entry.created_by.clone() } else { shorten(by) };
            let at = entry.created.clone().map_or(Value::Nil, Value::text);
            let texts = [Value::text(image), Value::text(shown), at, Value::text(by)];
            let texts = texts.into_iter().chain([Value::text(bytes), Value::text(entry.comment)]);
            values.push(Value::row(COLUMNS.iter().map(|(name, _)| *name).zip(texts)));
            continue;
        }
        let by = if args.no_trunc { by } else { shorten(by) };
        table.push(vec![image, shown, by, bytes, clean_line(entry.comment.as_bytes())]);
    }
    if !format.is_table() {
        format.write(&values, out)?;
    } else if !args.quiet {
        write_table(&table, out)?;
    }
    Ok(())
}

/// Cuts an instruction to what fits into the table.
fn shorten(by: String) -> String {
    match by.char_indices().nth(SHOWN - 1) {
        Some((cut, _)) if by.chars().count() > SHOWN => format!("{}…", &by[..cut]),
        _ => by,
    }
}
