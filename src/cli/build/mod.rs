//! `builder build`: what was typed becomes a request; the job does the rest.
//!
//! `flags` is what clap reads, `request` what it means, for `explain` and `check` as well.

mod arguments;
mod attestations;
mod flags;
mod given;
mod neighbours;
pub(super) mod on_error;
mod policy;
pub(super) mod request;
mod shared_cache;

pub use flags::{BuildCommand, NameArgs, SourceArgs, StepArgs, Unused};
pub(super) use flags::{ConductArgs, OutputArgs};
pub(super) use neighbours::NeighbourArgs;

use super::check::{Call, Format};
use super::failure::{Class, Failure};
use super::{Environment, check, list_targets, outline};
use crate::export::Dest;
use crate::job;
use crate::progress::{LogLimits, Looks, Mode, Output, Progress};
use crate::text::size;

/// Runs `builder build`.
///
/// # Errors
///
/// The failure to show.
pub fn run(command: &BuildCommand, environment: &Environment) -> Result<(), Failure> {
    let mut notices = Vec::new();
    let request = request::of_build(command, environment, &mut notices)?;
    match command.call {
        _ if command.check => return check::run_as_docker(&request, Format::Text, environment),
        Call::Check(format) => return check::run_as_docker(&request, format, environment),
        Call::Targets(format) => return list_targets::run(&request, format, environment),
        Call::Outline(format) => return outline::run(&request, format, environment),
        Call::Build => {}
    }
    let store = environment.store()?;
    let _room = environment.watch_room(store.root());
    let loaded = job::load(&request, &store, environment)?;
    // An output may be on another disk than the store.
    let dests = request.delivery.all_outputs().filter_map(|spec| match &spec.dest {
        Some(Dest::Path(path)) => Some(environment.watch_room(path)),
        Some(Dest::Stdout) | None => None,
    });
    let _rooms: Vec<_> = dests.collect();
    let conduct = &command.conduct;
    let mode = if conduct.quiet { Mode::Quiet } else { conduct.progress };
    let mut output = Output::stderr(environment.is_coloured);
    output.looks = looks(environment, &mut notices);
    let progress =
        Progress::new(mode, output, environment.started).with_log_limits(log_limits(environment)?);
    for text in notices {
        progress.notice(text);
    }
    let result = job::build(&loaded, &store, environment, &progress);
    if let Ok(job::Built { collected: bytes @ 1.., .. }) = result {
        let size = size::decimal(bytes);
        progress.notice(format!("removed {size} of cache that was used least recently"));
    }
    progress.finish();
    let built = result?;
    if mode == Mode::Quiet
        && let Some(digest) = built.image
    {
        environment.print(&format!("{digest}\n"));
    }
    Ok(())
}

/// Reads how the terminal progress looks, by BuildKit's names. What cannot be read is reported, and
/// counts as not set.
fn looks(environment: &Environment, notices: &mut Vec<String>) -> Looks {
    let mut looks = Looks::default();
    let variable = |name: &str| environment.variable(name).filter(|text| !text.is_empty());
    if let Some(text) = variable("BUILDKIT_COLORS") {
        let wrong = looks.set_colours(&text);
        notices.extend(wrong.iter().map(|why| format!("BUILDKIT_COLORS: {why}")));
    }
    if let Some(text) = variable("BUILDKIT_TTY_LOG_LINES")
        && let Err(why) = looks.set_log_lines(&text)
    {
        notices.push(format!("BUILDKIT_TTY_LOG_LINES: {why}"));
    }
    looks
}

/// Reads how much of a step's output is shown, by BuildKit's names.
fn log_limits(environment: &Environment) -> Result<LogLimits, Failure> {
    let defaults = LogLimits::default();
    let read = |name: &str, default| match environment.variable(name) {
        Some(text) if !text.is_empty() => LogLimits::parse(&text)
            .map_err(|error| Failure::new(Class::Usage, format!("{name}: {error}"))),
        _ => Ok(default),
    };
    Ok(LogLimits {
        size: read("BUILDKIT_STEP_LOG_MAX_SIZE", defaults.size)?,
        speed: read("BUILDKIT_STEP_LOG_MAX_SPEED", defaults.speed)?,
    })
}
