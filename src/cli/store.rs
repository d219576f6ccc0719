//! `builder store verify`: is what the store says true?

use super::failure::{Class, Failure};
use super::prune;
use crate::gc::verify;
use crate::store::Store;
use crate::sys::cancel::Cancel;
use serde_json::json;
use std::io::Write;

/// Commands on the store as a whole.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum StoreCommand {
    /// Read everything in the store and check it
    Verify(VerifyArgs),
}

/// What `builder store verify` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    /// Set aside what is damaged: the next build makes it again
    #[arg(long)]
    pub repair: bool,
    /// Print as `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: VerifyFormat,
}

/// How `builder store verify` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum VerifyFormat {
    /// A line for each finding, and a sum.
    Text,
    /// One JSON object.
    Json,
}

/// Checks the store; findings go to `out`.
///
/// # Errors
///
/// A failure of class environment where something is wrong and was not repaired.
pub fn run(
    command: &StoreCommand,
    store: &Store,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let StoreCommand::Verify(args) = command;
    let report = verify(store, args.repair, cancel).map_err(|error| prune::failure(&error))?;
    let mut text = String::new();
    match args.format {
        VerifyFormat::Json => {
            let findings = report.findings.iter().map(|finding| {
                json!({
                    "place": finding.place,
                    "trouble": finding.trouble,
                    "repaired": finding.is_repaired,
                })
            });
            let document = json!({
                "checked": report.checked,
                "findings": findings.collect::<Vec<_>>(),
                "sound": report.is_sound(),
            });
            text.push_str(&format!("{document}\n"));
        }
        VerifyFormat::Text => {
            for finding in &report.findings {
                let end = if finding.is_repaired { " (set aside)" } else { "" };
                text.push_str(&format!("{}: {}{end}\n", finding.place.display(), finding.trouble));
            }
            let checked: Vec<_> = report
                .checked
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            let nothing = "an empty store".to_owned();
            let checked = if checked.is_empty() { nothing } else { checked.join(", ") };
            text.push_str(&format!("Checked {checked}\n"));
        }
    }
    out.write_all(text.as_bytes()).map_err(|error| Failure::output(&error))?;
    if report.is_sound() {
        return Ok(());
    }
    let count = report.findings.iter().filter(|finding| !finding.is_repaired).count();
    let things = if count == 1 { "1 thing".to_owned() } else { format!("{count} things") };
    let failure = Failure::new(Class::Environment, format!("the store is damaged: {things}"));
    Err(if args.repair {
        failure.with_hint("wait until no build runs, then once more: builder store verify --repair")
    } else {
        failure.with_hint("set aside what is damaged: builder store verify --repair")
    })
}
