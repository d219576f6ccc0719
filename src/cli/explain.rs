//! `builder explain`: why steps hit and missed.

use super::build::{
    ConductArgs, NameArgs, NeighbourArgs, OutputArgs, SourceArgs, StepArgs, Unused, request,
};
use super::failure::{Class, Failure};
use super::format::FormatError;
use super::{Environment, platforms, throwaway_store};
use crate::cache::CacheError;
use crate::explain::report::Report;
use crate::explain::text::{self, Colour};
use crate::explain::{builds, html};
use crate::export::ExportError;
use crate::history::HistoryError;
use crate::job::{self, Prediction};
use crate::oci::Platform;
use crate::store::Store;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::io::{self, Write};

/// `builder explain`: a build of the history, or the one that a directory would be now.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainCommand {
    // Before the flags of a build, which take their values.
    #[command(flatten)]
    narrowed: NarrowedTo,
    #[command(flatten)]
    report: ReportArgs,
    /// Directory whose build is to be predicted; without it, a build of the history is explained
    #[arg(value_name = "PATH", conflicts_with = "build")]
    path: Option<String>,
    #[command(flatten)]
    names: NameArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    steps: StepArgs,
    #[command(flatten)]
    conduct: Unused<ConductArgs>,
    #[command(flatten)]
    output: Unused<OutputArgs>,
    #[command(flatten)]
    neighbours: Unused<NeighbourArgs>,
}

/// The platforms that the command line itself names: a default of what to build for does not narrow
/// what was built.
#[derive(Debug, Default)]
struct NarrowedTo(Vec<String>);

impl Args for NarrowedTo {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for NarrowedTo {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        const FLAG: &str = "platform";
        let is_named = matches.value_source(FLAG) == Some(ValueSource::CommandLine);
        let values = matches.get_many::<String>(FLAG).filter(|_| is_named);
        Ok(Self(values.into_iter().flatten().cloned().collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// How a report is to be shown, and of which build.
#[derive(Debug, Clone, clap::Args)]
pub struct ReportArgs {
    /// Build of the history to explain: its id or the beginning of it, its name, ^1 for the one
    /// before the last [default: the last]
    #[arg(long, value_name = "BUILD")]
    pub build: Option<String>,
    /// How to show it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Run the steps that would hit once more in scratch, and say which make other files
    #[arg(long, requires = "path")]
    pub audit: bool,
}

/// A form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// 80 columns of text
    Text,
    /// One object; see docs/explain.md
    Json,
    /// One self-contained page
    Html,
}

/// What can go wrong with `builder explain` and the history's commands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The history has no build at all.
    #[error("no build in the history")]
    NoBuilds,
    /// The build has no such step.
    #[error("build {build} has no step {text:?}")]
    NoSuchStep {
        /// The build.
        build: String,
        /// What was asked for.
        text: String,
    },
    /// More than one step has such a name.
    #[error("step {text:?} of build {build} could be any of {}", names.join(", "))]
    AmbiguousStep {
        /// The build.
        build: String,
        /// What was asked for.
        text: String,
        /// The names of the steps.
        names: Vec<String>,
    },
    /// The build is not for the platform that is asked for.
    #[error("build {build} is not for {platform}: it is for {of}")]
    OtherPlatform {
        /// The build.
        build: String,
        /// What was asked for.
        platform: String,
        /// What it is for.
        of: String,
    },
    /// A filter of builds is not one.
    #[error("--filter {filter}: {why}")]
    Filter {
        /// What was typed.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// The build made no such document, or it is gone.
    #[error("build {build} has {what}")]
    NoAttachment {
        /// The build.
        build: String,
        /// What it has not.
        what: String,
    },
    /// A format is not one, or cannot be applied.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A file cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The working directory is in no git repository.
    #[error("the working directory is not in a git repository")]
    NoRepository,
    /// The history cannot be read, or has no such build.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The store cannot be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Write(#[from] io::Error),
}

impl ExplainError {
    /// Says whether it is about what was typed, not about the machine.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoBuilds
            | Self::NoSuchStep { .. }
            | Self::AmbiguousStep { .. }
            | Self::Filter { .. }
            | Self::OtherPlatform { .. }
            | Self::NoAttachment { .. }
            | Self::NoRepository => true,
            Self::History(error) => matches!(
                error,
                HistoryError::NoBuilds
                    | HistoryError::NoSuchBuild { .. }
                    | HistoryError::Running { .. }
                    | HistoryError::Archive { .. }
                    | HistoryError::NewerArchive { .. }
                    | HistoryError::Ambiguous { .. }
                    | HistoryError::NoLog { .. }
            ),
            Self::Cache(_) | Self::Export(_) | Self::Format(_) | Self::Write(_) => false,
        }
    }
}

/// Runs `builder explain`.
///
/// # Errors
///
/// The failure to show.
pub(super) fn run(command: &ExplainCommand, environment: &Environment) -> Result<(), Failure> {
    let request = |path: &str| {
        let ExplainCommand { names, source, steps, .. } = command;
        request::of_explain(path, &names.tag, source, steps, environment)
    };
    if let (true, Some(path)) = (command.report.audit, &command.path) {
        let (request, store) = (request(path)?, environment.store()?);
        let loaded = job::load(&request, &store, environment)?;
        let audit = job::audit(&loaded, &store, environment)?;
        let text = match command.report.format {
            Format::Text => audit.to_text(),
            Format::Json => {
                format!("{}\n", serde_json::to_string(&audit).expect("an audit is plain data"))
            }
            Format::Html => {
                return Err(Failure::new(Class::Usage, "an audit has no page: use text or json"));
            }
        };
        environment.print(&text);
        return Ok(());
    }
    let looked_at = environment.store_to_look_at()?;
    let store = &looked_at.store;
    let report = match &command.path {
        Some(path) => {
            let request = request(path)?;
            let loaded = job::load(&request, store, environment)?;
            let (elsewhere, _dir) = throwaway_store()?;
            let Prediction { record, listings } =
                job::predict(&loaded, store, &elsewhere, environment)?;
            builds::prediction(store, &record, listings).map_err(ExplainError::from)
        }
        None => {
            let platform = platforms::parse(&command.narrowed.0);
            let platform = platform.map_err(|error| Failure::of(Class::Usage, &error))?;
            past_for(store, command.report.build.as_deref(), platform.as_ref())
        }
    };
    let colour = environment.stdout_colour();
    report
        .and_then(|report| write(&report, command.report.format, colour, &mut environment.stdout()))
        .map_err(|error| Failure::of_explain(&error))
}

/// Explains a build of the history; the last one where none is named.
///
/// # Errors
///
/// [`ExplainError::NoBuilds`], or what the history says.
pub fn past(store: &Store, build: Option<&str>) -> Result<Report, ExplainError> {
    builds::past(store, build)?.ok_or(ExplainError::NoBuilds)
}

/// Explains what a build of the history did for one platform, or all of it.
fn past_for(
    store: &Store,
    build: Option<&str>,
    platform: Option<&Platform>,
) -> Result<Report, ExplainError> {
    let Some(platform) = platform.map(Platform::to_string) else { return past(store, build) };
    let record = builds::load(store, build)?.ok_or(ExplainError::NoBuilds)?;
    let other = || ExplainError::OtherPlatform {
        build: record.id.to_string(),
        platform: platform.clone(),
        of: record.about.platforms().join(", "),
    };
    let narrowed = record.clone().only_for(&platform).ok_or_else(other)?;
    Ok(builds::explained(store, &narrowed)?)
}

/// Writes a report.
///
/// # Errors
///
/// [`ExplainError::Write`].
pub fn write(
    report: &Report,
    format: Format,
    colour: Colour,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    match format {
        Format::Text => out.write_all(text::render(report, colour).as_bytes())?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, report).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
        Format::Html => out.write_all(html::render(report).as_bytes())?,
    }
    Ok(())
}
