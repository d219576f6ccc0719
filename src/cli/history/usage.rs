//! `builder history usage`, or `builder history --usage`: what the steps of a build used.
//!
//! A step from the cache shows what it used in the build that ran it, in parentheses: that is what
//! the cache saved. Sums are of the steps that ran.

use super::builds::ListFormat;
use crate::cache::Cost;
use crate::cli::explain::ExplainError;
use crate::explain::redact;
use crate::explain::text::clean;
use crate::history::{History, StepOutcome};
use crate::store::Store;
use crate::text::size::mebibytes;
use serde_json::json;
use std::io::Write;

/// What `builder history usage` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct UsageArgs {
    /// The build: its id or the beginning of it, its name, `last`, or ^1 for the one before it
    #[arg(default_value = "last")]
    pub build: String,
    /// How to show it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: ListFormat,
}

/// Prints a line a step.
///
/// # Errors
///
/// [`ExplainError`] for a build that does not exist.
pub fn run(args: &UsageArgs, store: &Store, out: &mut dyn Write) -> Result<(), ExplainError> {
    let build = History::new(store).load(&args.build)?;
    if args.format == ListFormat::Text {
        writeln!(out, "build {}", build.id)?;
        let names = ["STEP", "TOOK", "USER", "SYSTEM", "PEAK", "READ", "WRITTEN", "PIDS"];
        writeln!(out, "{}  NAME", row(&names.map(str::to_owned)))?;
    }
    let mut sum = Cost::default();
    for step in &build.steps {
        let (cost, word) = match &step.outcome {
            StepOutcome::Ran { cost } => (cost, "ran"),
            StepOutcome::Failed { cost, .. } => (cost, "failed"),
            StepOutcome::Hit { cost, .. } => (cost, "cached"),
            _ => continue,
        };
        let name = redact::addresses(&step.name);
        if args.format == ListFormat::Json {
            let mut line = serde_json::to_value(cost).unwrap_or_default();
            line["step"] = json!(step.number + 1);
            line["name"] = json!(name);
            line["outcome"] = json!(word);
            writeln!(out, "{line}")?;
            continue;
        }
        let mut cells = cells(&(step.number + 1).to_string(), cost);
        if word == "cached" {
            for cell in &mut cells[1..] {
                *cell = format!("({cell})");
            }
        } else {
            add(&mut sum, cost);
        }
        let mark = if word == "failed" { " (failed)" } else { "" };
        writeln!(out, "{}  {}{mark}", row(&cells), clean(&name))?;
    }
    if args.format == ListFormat::Text {
        writeln!(out, "{}  all that ran", row(&cells("", &sum)))?;
    }
    Ok(())
}

/// Adds up times and bytes; of peaks the highest counts.
fn add(sum: &mut Cost, cost: &Cost) {
    sum.wall_us += cost.wall_us;
    sum.cpu_us += cost.cpu_us;
    sum.system_us += cost.system_us;
    sum.io_read += cost.io_read;
    sum.io_written += cost.io_written;
    sum.peak_memory = sum.peak_memory.max(cost.peak_memory);
    sum.max_pids = sum.max_pids.max(cost.max_pids);
}

fn cells(step: &str, cost: &Cost) -> [String; 8] {
    let time = |us: u64| format!("{:.3} s", us as f64 / 1e6);
    let bytes = |bytes: u64| match bytes {
        0 => "-".to_owned(),
        bytes => mebibytes(bytes),
    };
    let pids = if cost.max_pids == 0 { "-".to_owned() } else { cost.max_pids.to_string() };
    [
        step.to_owned(),
        time(cost.wall_us),
        time(cost.cpu_us.saturating_sub(cost.system_us)),
        time(cost.system_us),
        bytes(cost.peak_memory),
        bytes(cost.io_read),
        bytes(cost.io_written),
        pids,
    ]
}

fn row(cells: &[String; 8]) -> String {
    let [step, took, user, system, peak, read, written, pids] = cells;
    format!(
        "{step:>4} {took:>11} {user:>11} {system:>11} {peak:>12} {read:>12} {written:>12} {pids:>5}"
    )
}
