//! `builder config show`: the value of each key, and where it comes from.

use super::keys::{KEYS, Key, Target};
use super::{Config, Given};
use crate::cli::failure::Failure;
use crate::cli::format::{Columns, ListFormat};
use crate::cli::template::Value;
use std::io::Write;

/// Commands on the configuration.
#[derive(Debug, Clone, clap::Subcommand)]
pub(in crate::cli) enum ConfigCommand {
    /// Show the default of each flag that can have one, and where it comes from
    Show(ShowArgs),
}

/// What `builder config show` takes.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct ShowArgs {
    /// Print as `table`, as `json`, or by a Go template, as '{{.Key}}={{.Value}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
}

/// The fields of a key that a template can show.
const COLUMNS: &Columns = &[("Key", "KEY"), ("Value", "VALUE"), ("From", "FROM")];

/// Shows all keys. `command` is the definition of the command line, `variable` reads the
/// environment without the configuration.
///
/// # Errors
///
/// The failure to show: a value that its flag does not take, or a bad format.
pub(in crate::cli) fn run(
    command: &ConfigCommand,
    config: &Config,
    definition: clap::Command,
    variable: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let ConfigCommand::Show(args) = command;
    let format = ListFormat::parse(&args.format, COLUMNS).map_err(|error| error.failure())?;
    let mut definition = definition;
    for command in ["build", "run", "pull", "push", "copy"] {
        // Only to check them: what is shown are the values as they are written.
        definition = config.apply(definition, command, &[])?;
    }
    let mut rows = Vec::new();
    for key in KEYS {
        let given: Vec<&Given> = config.given.iter().filter(|given| given.key.is(key)).collect();
        let arg = definition.find_subcommand(key.section).and_then(|command| {
            command.get_arguments().find(|arg| arg.get_id() == key.id().as_str())
        });
        let name = match (&key.target, arg.and_then(clap::Arg::get_env)) {
            (Target::Variable { name, .. }, _) => Some((*name).to_owned()),
            (_, Some(name)) => name.to_str().map(str::to_owned),
            (_, None) => None,
        };
        let set = name.and_then(|name| {
            let value = variable(&name).filter(|value| !value.is_empty())?;
            Some((value, format!("environment {name}")))
        });
        match (set, given.as_slice()) {
            (Some((value, from)), _) => rows.push(row(key, value, from)),
            (None, []) => {
                let default = arg.map(|arg| {
                    let values = arg.get_default_values().iter();
                    values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(", ")
                });
                rows.push(row(key, default.unwrap_or_default(), "default".to_owned()));
            }
            (None, given) => rows
                .extend(given.iter().map(|given| row(key, given.values.join(", "), given.place()))),
        }
    }
    format.write(&rows, out).map_err(|error| error.failure())
}

fn row(key: &Key, value: String, from: String) -> Value {
    let texts = [key.full(), value, from].map(Value::text);
    Value::row(COLUMNS.iter().map(|(name, _)| *name).zip(texts))
}
