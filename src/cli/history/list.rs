//! `builder history ls` and `rm`: the builds as buildx lists and removes them.
//!
//! Source: docker/buildx, `commands/history/{ls,rm,utils}.go`.

use super::builds::as_name;
use super::matching::Filter;
use crate::cli::explain::ExplainError;
use crate::cli::format::{Columns, ListFormat};
use crate::cli::images::{since, write_table};
use crate::cli::template::Value as Field;
use crate::context::WorkTree;
use crate::history::{BuildRecord, History, Outcome, REF_PREFIX, StepOutcome};
use crate::store::Store;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Most characters of a name in the table, so that a line has 80 columns; of a longer one the end is
/// shown, as buildx does it.
const NAME_SHOWN: usize = 22;

/// The fields of a build that a template can show, as buildx has them; there is no link to open.
const COLUMNS: &Columns = &[
    ("Ref", "BUILD ID"),
    ("Name", "NAME"),
    ("Status", "STATUS"),
    ("CreatedAt", "CREATED AT"),
    ("Duration", "DURATION"),
    ("Link", ""),
];

/// How many of the fields the table shows.
const SHOWN: usize = 5;

/// What `builder history ls` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct LsArgs {
    /// Only builds that fit: ref=, name=, repository=, status= (or !=), and startedAt, completedAt
    /// or duration with <, <=, > or >=, as duration>30s
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Print as `table`, as `json`, or by a Go template, as '{{.Name}} {{.Status}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Only builds of the git repository around the working directory
    #[arg(long)]
    pub local: bool,
    /// Do not shorten names
    #[arg(long)]
    pub no_trunc: bool,
}

/// What `builder history rm` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct RmArgs {
    /// Builds: ids or their beginnings, names, `last`, ^1 for the one before it
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub build: Vec<String>,
    /// Remove all builds but those that run
    #[arg(long)]
    pub all: bool,
}

/// Lists builds, the newest first.
///
/// # Errors
///
/// [`ExplainError`] for a filter that is not one.
pub fn list(
    args: &LsArgs,
    store: &Store,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    let filters = args
        .filter
        .iter()
        .map(|text| {
            Filter::parse(text, now)
                .map_err(|why| ExplainError::Filter { filter: text.clone(), why })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let place = match args.local {
        true => Some(WorkTree::around(Path::new(".")).ok_or(ExplainError::NoRepository)?),
        false => None,
    };
    let format = ListFormat::parse(&args.format, COLUMNS)?;
    let is_json = args.format.trim() == "json";
    let history = History::new(store);
    let titles = COLUMNS.iter().map(|(_, title)| (*title).to_owned()).take(SHOWN);
    let (mut table, mut rows) = (vec![titles.collect::<Vec<_>>()], Vec::new());
    for head in history.list()? {
        let is_local = place.as_ref().is_none_or(|tree| is_of(&head, tree));
        if !is_local || !filters.iter().all(|filter| filter.fits(&head)) {
            continue;
        }
        if is_json {
            // An id whose record cannot be read is not a build to list.
            let Ok(build) = history.read(head.id) else { continue };
            writeln!(out, "{}", line(&build))?;
            continue;
        }
        let is_whole = args.no_trunc || !format.is_table();
        let cells = row(&head, now, is_whole);
        let fields = cells.iter().map(|cell| Field::text(cell.as_str())).chain([Field::text("")]);
        rows.push(Field::row(COLUMNS.iter().map(|(name, _)| *name).zip(fields)));
        table.push(cells);
    }
    if format.is_table() {
        write_table(&table, out)?;
    } else if !is_json {
        format.write(&rows, out)?;
    }
    Ok(())
}

/// Says whether a build is of a working tree: of the same repository, or of a directory in it.
fn is_of(build: &BuildRecord, tree: &WorkTree) -> bool {
    let about = &build.about;
    tree.remote.as_ref().is_some_and(|remote| *remote == about.repository)
        || !build.is_imported && Path::new(&about.context).starts_with(&tree.root)
}

fn row(build: &BuildRecord, now: Timestamp, is_whole: bool) -> Vec<String> {
    let name = as_name(build);
    let length = name.chars().count();
    let name = match length > NAME_SHOWN && !is_whole {
        true => {
            name.chars().skip(length - NAME_SHOWN + 1).fold("…".to_owned(), |mut shown, c| {
                shown.push(c);
                shown
            })
        }
        false => name,
    };
    let created = Timestamp::from_millisecond(build.about.started_ms).unwrap_or_default();
    let mark =
        if build.finished_ms.is_none() && build.outcome == Outcome::Running { "+" } else { "" };
    let took = build.finished_ms.or((!mark.is_empty()).then(|| now.as_millisecond()));
    let took = took.map(|end| duration(end - build.about.started_ms)).unwrap_or_default();
    vec![
        build.id.to_string(),
        name,
        status(&build.outcome).to_owned(),
        since(created, now),
        format!("{took}{mark}"),
    ]
}

/// A build as buildx prints it with `--format json`.
fn line(build: &BuildRecord) -> Value {
    let count = |is_wanted: fn(&StepOutcome) -> bool| {
        build.steps.iter().filter(|step| is_wanted(&step.outcome)).count()
    };
    let rfc3339 = |ms: i64| Timestamp::from_millisecond(ms).map(|at| at.to_string()).ok();
    let mut line = json!({
        "ref": format!("{REF_PREFIX}{}", build.id),
        "name": as_name(build),
        "status": status(&build.outcome),
        "created_at": rfc3339(build.about.started_ms),
        "total_steps": build.steps.len(),
        "completed_steps": count(|outcome| {
            matches!(outcome, StepOutcome::Hit { .. } | StepOutcome::Ran { .. })
        }),
        "cached_steps": count(|outcome| matches!(outcome, StepOutcome::Hit { .. })),
    });
    if let Some(end) = build.finished_ms {
        line["completed_at"] = json!(rfc3339(end));
    }
    line
}

/// The state of a build in buildx's words, which end with a failure for whatever ended without an
/// image; here those that were stopped have words of their own.
pub(super) fn status(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Running => "Running",
        Outcome::Ok => "Completed",
        Outcome::Failed { .. } => "Error",
        Outcome::Cancelled => "Canceled",
        Outcome::Interrupted => "Killed",
        Outcome::Predicted => "Predicted",
    }
}

fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    match ms / 60_000 {
        0 => format!("{:.1}s", ms as f64 / 1000.0),
        minutes => format!("{minutes}m {:2}s", ms / 1000 % 60),
    }
}

/// Removes builds, and prints the ids of those that are gone.
///
/// # Errors
///
/// [`ExplainError`] for a build that does not exist or runs; those named before it are gone then.
pub fn remove(
    args: &RmArgs,
    store: &Store,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    let (history, now_ms) = (History::new(store), now.as_millisecond());
    if args.all {
        let cleared = history.clear(now_ms)?;
        for id in &cleared.removed {
            writeln!(out, "{id}")?;
        }
        if cleared.running > 0 {
            writeln!(out, "kept, as they run: {}", cleared.running)?;
        }
        return Ok(());
    }
    // All are looked up first: removing one moves what `last` and ^1 mean.
    let ids = args.build.iter().map(|build| history.find(build)).collect::<Result<Vec<_>, _>>()?;
    let mut gone = Vec::new();
    for id in ids {
        if gone.contains(&id) {
            continue;
        }
        history.remove(id, now_ms)?;
        writeln!(out, "{id}")?;
        gone.push(id);
    }
    Ok(())
}
