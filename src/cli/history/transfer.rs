//! `builder history export|import|trace|open`: builds that leave the store, and come from another.
//!
//! Source: docker/buildx, `commands/history/{export,import,trace,open}.go`.

use crate::cache::Cache;
use crate::cli::Environment;
use crate::cli::explain::{self, ExplainError};
use crate::cli::failure::{Class, Failure, cannot};
use crate::explain::{html, redact, spans};
use crate::export::write_by;
use crate::history::{History, HistoryError, Imported, LAST, Outcome};
use crate::store::Store;
use crate::sys::foreign::Given;
use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Commands of the history that take builds out of the store or into it.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum TransferCommand {
    /// Write builds to an archive that another store can import
    Export(ExportArgs),
    /// Add the builds of an archive to the history
    Import(ImportArgs),
    /// Write the trace of a build, for Jaeger or OpenTelemetry
    Trace(TraceArgs),
    /// Write the page of a build, and show it in a browser
    Open(OpenArgs),
}

/// Runs such a command.
///
/// # Errors
///
/// The failure to show.
pub(in crate::cli) fn run(
    command: &TransferCommand,
    environment: &Environment,
) -> Result<(), Failure> {
    match command {
        TransferCommand::Export(args) => export(args, environment),
        TransferCommand::Import(args) => import(args, environment),
        TransferCommand::Trace(args) => trace(args, environment),
        TransferCommand::Open(args) => open(args, environment),
    }
}

/// What `builder history export` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// Builds: ids or their beginnings, names, `last`, ^1 for the one before it [default: last]
    #[arg(conflicts_with = "all")]
    pub build: Vec<String>,
    /// Export all builds that have ended
    #[arg(long)]
    pub all: bool,
    /// File to write; stdout without it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Accepted for buildx's sake: records are whole when a build ends
    #[arg(long, hide = true)]
    pub finalize: bool,
}

/// What `builder history import` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// Archives that `builder history export` wrote; - for standard input, as without any
    #[arg(value_name = "FILE", conflicts_with = "file")]
    pub archive: Vec<PathBuf>,
    /// The same as FILE, as buildx has it
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
}

/// What `builder history trace` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// The build: its id or the beginning of it, its name, `last`, or ^1 for the one before it
    #[arg(default_value = LAST)]
    pub build: String,
    /// Another build, whose trace goes into the same file
    #[arg(long, value_name = "BUILD")]
    pub compare: Option<String>,
    /// For Jaeger's UI, which loads such files, or for a collector of OpenTelemetry
    #[arg(long, value_name = "FORMAT", default_value = "jaeger")]
    pub format: TraceFormat,
    /// File to write; stdout without it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Address of a UI; none is served
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub addr: Option<String>,
}

/// The form of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TraceFormat {
    /// Jaeger's JSON
    Jaeger,
    /// OTLP in JSON
    Otlp,
}

/// What `builder history open` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct OpenArgs {
    /// The build: its id or the beginning of it, its name, `last`, or ^1 for the one before it
    #[arg(default_value = LAST)]
    pub build: String,
    /// File to write the page to; a temporary one without it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

fn of_history(error: HistoryError) -> Failure {
    Failure::of_explain(&error.into())
}

/// Writes an archive of builds.
fn export(args: &ExportArgs, environment: &Environment) -> Result<(), Failure> {
    if args.output.is_none() && io::stdout().is_terminal() {
        let message = "refusing to write an archive to a terminal";
        return Err(Failure::new(Class::Usage, message)
            .with_hint("name a file: builder history export -o builds.tar.gz"));
    }
    if args.finalize {
        environment.warn("--finalize has no effect: records are whole when a build ends");
    }
    let store = environment.store()?;
    let history = History::new(&store);
    let ids: BTreeSet<_> = if args.all {
        let builds = history.list().map_err(of_history)?.into_iter();
        builds.filter(|build| build.outcome != Outcome::Running).map(|build| build.id).collect()
    } else {
        let last = [LAST.to_owned()];
        let names = if args.build.is_empty() { &last[..] } else { &args.build };
        let ids = names.iter().map(|name| history.find(name));
        ids.collect::<Result<_, _>>().map_err(of_history)?
    };
    if ids.is_empty() {
        return Err(of_history(HistoryError::NoBuilds));
    }
    let cache = Cache::new(store.clone());
    let write = |out: &mut dyn Write| -> Result<(), ExplainError> {
        Ok(history.export(&ids, &cache, redact::record, out, &environment.cancel)?)
    };
    match &args.output {
        Some(path) => write_by(path, write),
        None => write(&mut io::stdout()),
    }
    .map_err(|error| Failure::of_explain(&error))
}

/// Reads archives, and prints the ids of the builds.
fn import(args: &ImportArgs, environment: &Environment) -> Result<(), Failure> {
    let store = environment.store()?;
    let history = History::new(&store);
    let stdin = [PathBuf::from("-")];
    let files = match (args.archive.as_slice(), args.file.as_slice()) {
        ([], []) => &stdin[..],
        ([], files) | (files, _) => files,
    };
    for path in files {
        let input = match path.as_os_str() == "-" {
            true if io::stdin().is_terminal() => {
                return Err(Failure::new(Class::Usage, "standard input is a terminal")
                    .with_hint("name a file: builder history import FILE"));
            }
            true => environment.input()?,
            false => Given::open(path, &environment.cancel)
                .map_err(|error| cannot("read", path, &error))?,
        };
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let imported = history.import(&store, input, now_ms, &environment.cancel);
        let imported = imported.map_err(|error| {
            let failure = of_history(error);
            if path.as_os_str() == "-" { failure } else { failure.about(&path.display()) }
        })?;
        let text: String = imported.iter().map(|done| line(done, environment)).collect();
        environment.print(&text);
    }
    store.sync().map_err(|error| Failure::of(Class::Environment, &error))
}

fn line(done: &Imported, environment: &Environment) -> String {
    let Imported { there, here, is_known, logs_left_out } = done;
    if *logs_left_out > 0 {
        environment.warn(&format!(
            "build {here}: outputs of {logs_left_out} steps are left out, too large or damaged"
        ));
    }
    match (is_known, there == here) {
        (true, _) => format!("{here} is here already\n"),
        (false, true) => format!("{here}\n"),
        (false, false) => format!("{here} ({there} in the archive)\n"),
    }
}

/// Writes the trace of a build, and of the one that it is to be compared with.
fn trace(args: &TraceArgs, environment: &Environment) -> Result<(), Failure> {
    if args.addr.is_some() {
        environment.warn("--addr has no effect: no UI is served; Jaeger's loads the file");
    }
    let store = environment.store()?;
    let history = History::new(&store);
    let mut builds = Vec::new();
    for name in std::iter::once(&args.build).chain(&args.compare) {
        let mut build = history.load(name).map_err(of_history)?;
        if build.outcome == Outcome::Running {
            return Err(of_history(HistoryError::Running { id: build.id }));
        }
        redact::record(&mut build);
        builds.push(build);
    }
    let document = match args.format {
        TraceFormat::Jaeger => spans::jaeger(&builds),
        TraceFormat::Otlp => spans::otlp(&builds),
    };
    let text = format!("{document:#}\n");
    match &args.output {
        Some(path) => write_text(path, &text),
        None => {
            environment.print(&text);
            Ok(())
        }
    }
}

fn write_text(path: &Path, text: &str) -> Result<(), Failure> {
    let write =
        |out: &mut dyn Write| -> Result<(), ExplainError> { Ok(out.write_all(text.as_bytes())?) };
    write_by(path, write).map_err(|error| Failure::of_explain(&error))
}

/// Writes the page of a build and prints where it is. On a terminal with `BROWSER` set, shows it.
fn open(args: &OpenArgs, environment: &Environment) -> Result<(), Failure> {
    let store = environment.store()?;
    let page = page(&store, &args.build).map_err(|error| Failure::of_explain(&error))?;
    let path = match &args.output {
        Some(path) => {
            write_text(path, &page)?;
            std::path::absolute(path).map_err(|error| cannot("resolve", path, &error))?
        }
        None => {
            let made = tempfile::Builder::new().prefix("builder-").suffix(".html").tempfile();
            let made = made.and_then(|mut file| {
                file.write_all(page.as_bytes())?;
                Ok(file.keep()?.1)
            });
            made.map_err(|error| cannot("write", std::env::temp_dir(), &error))?
        }
    };
    environment.print(&format!("{}\n", path.display()));
    let browser = environment.variable("BROWSER").filter(|name| !name.is_empty());
    if let Some(browser) = browser.filter(|_| io::stdout().is_terminal()) {
        show(&browser, &path).map_err(|error| {
            cannot("start the browser", &browser, &error)
                .with_hint("unset BROWSER to see only where the page is")
        })?;
    }
    Ok(())
}

fn page(store: &Store, build: &str) -> Result<String, ExplainError> {
    Ok(html::render(&explain::past(store, Some(build))?))
}

/// Starts the first program of `BROWSER`, a list with colons, and does not wait for it.
fn show(browser: &str, page: &Path) -> io::Result<()> {
    let first = browser.split(':').next().unwrap_or(browser);
    let mut words = first.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    let mut is_placed = false;
    for word in words {
        if word == "%s" {
            command.arg(page);
            is_placed = true;
        } else {
            command.arg(word);
        }
    }
    if !is_placed {
        command.arg(page);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
}
