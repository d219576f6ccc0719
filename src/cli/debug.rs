//! `--debug`, `BUILDER_LOG` and `BUILDER_LOG_FILE`: the diagnostic log of the program itself.

use super::Environment;
use super::failure::{Class, Failure, cannot};
use crate::dockerfile::errors::did_you_mean;
use crate::trace::{self, Filter, FilterError};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use tracing::info;

/// Which events are logged.
const FILTER: &str = "BUILDER_LOG";

/// Where they go.
const FILE: &str = "BUILDER_LOG_FILE";

/// Starts the log where it is asked for. `BUILDER_LOG` counts before `--debug`.
///
/// # Errors
///
/// A usage failure for a filter that cannot be understood; one of class environment for a file that
/// cannot be opened.
pub(super) fn start(is_debug: bool, environment: &Environment) -> Result<(), Failure> {
    let given = |name| environment.variable(name).filter(|text| !text.is_empty());
    let filter = match given(FILTER) {
        Some(text) => Filter::parse(&text).map_err(|error| refusal(&text, &error))?,
        None if is_debug => Filter::debug(),
        None => return Ok(()),
    };
    let file = given(FILE).map(|path| open(&path)).transpose()?;
    trace::start(&filter, file);
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("BUILDER_COMMIT"));
    info!(version, commit, pid = std::process::id(), standing = ?environment.standing, "began");
    Ok(())
}

/// Opens a file for appending. Only its owner reads it: the names of files and images are in it.
fn open(path: &str) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.open(path).map_err(|error| {
        let mut failure = cannot("open", path, &error);
        failure.message = format!("{FILE}: {}", failure.message);
        failure
    })
}

/// The failure for a filter, with a line that works where one word was mistyped.
fn refusal(text: &str, error: &FilterError) -> Failure {
    let failure = Failure::new(Class::Usage, format!("{FILTER}={text}: {error}"));
    let near = error.problem.word_and_candidates().and_then(|(word, candidates)| {
        let near = did_you_mean(word, candidates)?;
        let begin = text.char_indices().nth(error.at - 1).map_or(text.len(), |(at, _)| at);
        Some(format!("{}{near}{}", &text[..begin], &text[begin + word.len()..]))
    });
    let filter = near.unwrap_or_else(|| "info,solve=debug".to_owned());
    failure.with_hint(format!("{FILTER}={filter} builder …"))
}
