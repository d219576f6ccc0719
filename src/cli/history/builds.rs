//! `builder history builds|logs|inspect|usage|compare`: what the history keeps of builds.

use super::{attachment, fields, list, usage};
use crate::cache::Value;
use crate::cli::explain::{self, ExplainError, Format};
use crate::explain::report::seconds;
use crate::explain::text::{Colour, clean};
use crate::explain::{builds, redact};
use crate::history::{BuildRecord, History, Outcome, StepOutcome, StepRecord};
use crate::progress::clean_line;
use crate::store::Store;
use crate::text::size::mebibytes;
use jiff::Timestamp;
use serde_json::json;
use std::io::{self, BufRead as _, Read as _, Write};

/// What can be asked of the history of builds.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BuildsCommand {
    /// List the builds that were made, the newest first
    Builds(BuildsArgs),
    /// List builds as buildx does: names, states, durations
    Ls(list::LsArgs),
    /// Remove builds from the history
    Rm(list::RmArgs),
    /// Show what the steps of a build wrote
    Logs(LogsArgs),
    /// Show all that is kept of a build
    Inspect(InspectArgs),
    /// Show what the steps of a build used: processor time, memory, storage, processes
    Usage(usage::UsageArgs),
    /// Explain a build by another one
    Compare(CompareArgs),
}

impl BuildsCommand {
    /// Says whether bytes are asked for, which no terminal should see.
    pub fn is_raw(&self) -> bool {
        matches!(self, Self::Logs(LogsArgs { raw: true, .. }))
    }
}

/// What `builder history builds` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct BuildsArgs {
    /// How many to list; 0 for all
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: usize,
    /// How to show them
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: ListFormat,
}

/// What `builder history logs` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct LogsArgs {
    /// The build: its id or the beginning of it, its name, `last`, or ^1 for the one before it
    #[arg(default_value = "last")]
    pub build: String,
    /// One step only: its number, or a part of its name
    pub step: Option<String>,
    /// Accepted for buildx's sake: outputs are shown one after the other
    #[arg(long, hide = true, value_name = "MODE", value_parser = ["auto", "plain"])]
    pub progress: Option<String>,
    /// Write the bytes that the steps wrote, with what steers a terminal
    #[arg(long)]
    pub raw: bool,
}

/// What `builder history inspect` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct InspectArgs {
    #[command(subcommand)]
    command: Option<attachment::InspectCommand>,
    /// The build: its id or the beginning of it, its name, `last`, or ^1 for the one before it
    #[arg(default_value = "last")]
    pub build: String,
    /// Print as `text`, as `json`, or by a Go template, as '{{.Name}} {{.Status}}'
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: String,
}

/// What `builder history compare` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// The older build
    pub old: String,
    /// The newer build
    pub new: String,
    /// How to show it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// Text or data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// Text
    Text,
    /// One JSON object a line
    Json,
}

/// Runs a command of the history.
///
/// # Errors
///
/// [`ExplainError`] for a build or step that does not exist.
pub fn run(
    command: &BuildsCommand,
    store: &Store,
    now: Timestamp,
    colour: Colour,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    match command {
        BuildsCommand::Ls(args) => list::list(args, store, now, out),
        BuildsCommand::Rm(args) => list::remove(args, store, now, out),
        BuildsCommand::Builds(args) => list(args, store, out),
        BuildsCommand::Logs(args) => logs(args, store, out),
        BuildsCommand::Inspect(args) => inspect(args, store, out),
        BuildsCommand::Usage(args) => usage::run(args, store, out),
        BuildsCommand::Compare(args) => {
            let report = builds::compared(store, &args.old, &args.new)?;
            explain::write(&report, args.format, colour, out)
        }
    }
}

/// The name of a build, fit to be shown.
pub(super) fn as_name(build: &BuildRecord) -> String {
    clean(&redact::addresses(&build.about.name())).into_owned()
}

fn list(args: &BuildsArgs, store: &Store, out: &mut dyn Write) -> Result<(), ExplainError> {
    let history = History::new(store);
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    // An id whose record cannot be read is not a build to list.
    let builds = history.ids()?.into_iter().filter_map(|id| history.read(id).ok()).take(limit);
    if args.format == ListFormat::Text {
        writeln!(
            out,
            "{:<11}  {:<16}  {:>10}  {:<11}  {:>7}  CONTEXT",
            "BUILD", "STARTED (UTC)", "TOOK", "RESULT", "RAN"
        )?;
    }
    for build in builds {
        let ran = build.steps.iter().filter(|step| step.has_run()).count();
        match args.format {
            ListFormat::Text => {
                let started = time(build.about.started_ms, "%Y-%m-%d %H:%M");
                writeln!(
                    out,
                    "{:<11}  {started:<16}  {:>10}  {:<11}  {:>7}  {}",
                    build.id,
                    took(&build).map(seconds).unwrap_or_default(),
                    word(&build.outcome),
                    format!("{ran}/{}", build.steps.len()),
                    place(&build),
                )?;
            }
            ListFormat::Json => {
                let line = json!({
                    "build": build.id,
                    "name": as_name(&build),
                    "started_ms": build.about.started_ms,
                    "finished_ms": build.finished_ms,
                    "outcome": build.outcome,
                    "context": redact::addresses(&build.about.context),
                    "dockerfile": build.about.dockerfile,
                    "target": build.about.target,
                    "platform": build.about.platform,
                    "platforms": build.about.platforms(),
                    "confinement": build.about.confinement,
                    "tags": build.about.tags,
                    "image": build.image,
                    "steps": build.steps.len(),
                    "ran": ran,
                });
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}

/// The context with the Dockerfile and tags where they say more.
fn place(build: &BuildRecord) -> String {
    let about = &build.about;
    let mut text = clean(&redact::addresses(&about.context)).into_owned();
    if about.dockerfile != "Dockerfile" {
        text = format!("{text} ({})", clean(&about.dockerfile));
    }
    match about.tags.first() {
        Some(tag) => format!("{text} → {}", clean(tag)),
        None => text,
    }
}

fn took(build: &BuildRecord) -> Option<u64> {
    u64::try_from(build.finished_ms? - build.about.started_ms).ok().map(|ms| ms * 1000)
}

fn time(ms: i64, format: &str) -> String {
    Timestamp::from_millisecond(ms).map(|at| at.strftime(format).to_string()).unwrap_or_default()
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Running => "running",
        Outcome::Ok => "ok",
        Outcome::Failed { .. } => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::Interrupted => "killed",
        Outcome::Predicted => "predicted",
    }
}

fn logs(args: &LogsArgs, store: &Store, out: &mut dyn Write) -> Result<(), ExplainError> {
    let history = History::new(store);
    let build = history.load(&args.build)?;
    if let Some(text) = &args.step {
        let step = find_step(&build, text)?;
        return copy_log(history.log(build.id, step.number)?, args.raw, out).map(drop);
    }
    for step in &build.steps {
        let Ok(log) = history.log(build.id, step.number) else { continue };
        writeln!(out, "{}", clean(&redact::addresses(&step.name)))?;
        if !copy_log(log, args.raw, out)? {
            writeln!(out)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Most bytes of a line of a log that are shown as one.
const LINE_MAX: u64 = 64 * 1024;

/// Writes a log, a line at a time, for it may be of many megabytes: as a terminal may see it, or
/// `is_raw`. Returns whether what was written ends a line.
fn copy_log(log: impl io::Read, is_raw: bool, out: &mut dyn Write) -> Result<bool, ExplainError> {
    let mut log = io::BufReader::new(log);
    let mut line = Vec::new();
    let mut ends_a_line = true;
    loop {
        line.clear();
        if log.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(ends_a_line);
        }
        ends_a_line = line.ends_with(b"\n");
        if is_raw {
            out.write_all(&line)?;
            continue;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        out.write_all(clean_line(text).as_bytes())?;
        if ends_a_line {
            out.write_all(b"\n")?;
        }
    }
}

/// Finds a step by its number from 1, its whole name, or a part that only its name has.
fn find_step<'a>(build: &'a BuildRecord, text: &str) -> Result<&'a StepRecord, ExplainError> {
    if let Ok(number) = text.parse::<usize>()
        && let Some(step) = build.steps.iter().find(|step| step.number + 1 == number)
    {
        return Ok(step);
    }
    let found: Vec<&StepRecord> =
        build.steps.iter().filter(|step| step.name.contains(text)).collect();
    match found.as_slice() {
        [] => Err(ExplainError::NoSuchStep { build: build.id.to_string(), text: text.to_owned() }),
        [step] => Ok(step),
        many => match many.iter().find(|step| step.name == text) {
            Some(step) => Ok(step),
            None => Err(ExplainError::AmbiguousStep {
                build: build.id.to_string(),
                text: text.to_owned(),
                names: many.iter().map(|step| step.name.clone()).collect(),
            }),
        },
    }
}

fn inspect(args: &InspectArgs, store: &Store, out: &mut dyn Write) -> Result<(), ExplainError> {
    if let Some(attachment::InspectCommand::Attachment(args)) = &args.command {
        return attachment::run(args, store, out);
    }
    let build = History::new(store).load(&args.build)?;
    if !matches!(args.format.trim(), "text" | "pretty" | "json") {
        return fields::write(&build, &args.format, out);
    }
    if args.format.trim() == "json" {
        let document = json!({
            "build": build.id,
            "about": build.about,
            "finished_ms": build.finished_ms,
            "outcome": build.outcome,
            "image": build.image,
            "manifest": build.manifest,
            "is_imported": build.is_imported,
            "notes": build.notes,
            "steps": build.steps.iter().map(shown_step).collect::<Vec<_>>(),
        });
        writeln!(out, "{document}")?;
        return Ok(());
    }
    let about = &build.about;
    let mut row =
        |name: &str, value: &str| writeln!(out, "{name:<11} {}", crate::show::text(value));
    row("build", &build.id.to_string())?;
    row("name", &as_name(&build))?;
    if build.is_imported {
        row("imported", "from another store")?;
    }
    row("context", &clean(&redact::addresses(&about.context)))?;
    row("Dockerfile", &clean(&about.dockerfile))?;
    if !about.repository.is_empty() {
        row("repository", &clean(&redact::addresses(&about.repository)))?;
    }
    if !about.revision.is_empty() {
        row("commit", &clean(&about.revision))?;
    }
    row("target", &clean(&about.target))?;
    let platforms = about.platforms();
    let name = if platforms.len() > 1 { "platforms" } else { "platform" };
    row(name, &clean(&platforms.join(", ")))?;
    if let Some(rung) = &about.confinement {
        row("confinement", &clean(rung))?;
    }
    for tag in &about.tags {
        row("tag", &clean(tag))?;
    }
    row("started", &time(about.started_ms, "%Y-%m-%d %H:%M:%S UTC"))?;
    if let Some(us) = took(&build) {
        row("took", &seconds(us))?;
    }
    row("result", word(&build.outcome))?;
    if let Outcome::Failed { message } = &build.outcome {
        row("error", &clean(&redact::addresses(message)))?;
    }
    if let Some(image) = &build.image {
        row("image", &image.to_string())?;
    }
    if let Some(manifest) = &build.manifest {
        row("manifest", &manifest.to_string())?;
    }
    for note in &build.notes {
        row("note", &clean(note))?;
    }
    for step in &build.steps {
        writeln!(out, "\n{:>3} {}", step.number + 1, clean(&redact::addresses(&step.name)))?;
        let what = match &step.outcome {
            StepOutcome::Hit { build, cost } => {
                format!("cached, from build {build}, saves {}", seconds(cost.wall_us))
            }
            StepOutcome::Ran { cost } => {
                let mut text = format!("ran {}", seconds(cost.wall_us));
                if cost.cpu_us > 0 {
                    text = format!("{text}, {} of processors", seconds(cost.cpu_us));
                }
                if cost.peak_memory > 0 {
                    text = format!("{text}, {} of memory", mebibytes(cost.peak_memory));
                }
                text
            }
            StepOutcome::Failed { exit: Some(exit), .. } => format!("failed, exit status {exit}"),
            StepOutcome::Failed { exit: None, .. } => "failed".to_owned(),
            StepOutcome::NotReached => "not reached".to_owned(),
            StepOutcome::WouldRun | StepOutcome::DependsOn { .. } => "not run".to_owned(),
        };
        writeln!(out, "    line {}, {what}", step.lines.0)?;
        for input in &step.inputs {
            let value = shown_value(&input.name, &input.value);
            let value = if value.is_empty() { "\"\"".into() } else { clean(&value) };
            writeln!(out, "    {}: {value}", clean(&input.name))?;
        }
        if let Some(output) = &step.output {
            writeln!(out, "    layer: {}", output.layer)?;
        }
    }
    Ok(())
}

/// A step as data, with what looks secret hidden.
fn shown_step(step: &StepRecord) -> serde_json::Value {
    let inputs: Vec<_> = step
        .inputs
        .iter()
        .map(|input| json!({"name": input.name, "value": shown_value(&input.name, &input.value)}))
        .collect();
    let mut document = serde_json::to_value(step).unwrap_or_default();
    document["inputs"] = inputs.into();
    document["name"] = redact::addresses(&step.name).into();
    document["instruction"] = redact::addresses(&step.instruction).into();
    document
}

fn shown_value(name: &str, value: &Value) -> String {
    if redact::is_hidden_input(name) {
        return redact::HIDDEN.to_owned();
    }
    let text = match value {
        Value::Text(text) => text.clone(),
        Value::List(words) => words.join(" "),
        Value::Tree(tree) => crate::store::Key::from_bytes(tree.0).to_hex(),
    };
    redact::addresses(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Cost, Inputs};
    use crate::history::{About, Finish, HistoryError, Origin};

    const START: i64 = 1_790_000_000_000;

    /// A store with one build of two steps, the first of which wrote something.
    fn kit() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let about = About {
            started_ms: START,
            context: "/src/app".into(),
            dockerfile: "Dockerfile".into(),
            target: "build".into(),
            platform: "linux/amd64".into(),
            confinement: Some("namespaces".into()),
            tags: vec!["app".into()],
            ..About::default()
        };
        let mut log = History::new(&store).begin(about).unwrap();
        log.running().unwrap();
        log.log(0).write_all(b"hello").unwrap();
        for (number, text) in [(0, "RUN make all"), (1, "RUN make test")] {
            let mut inputs = Inputs::new();
            inputs.text("arg NPM_TOKEN", "hunter2");
            inputs.text("arg V", "1");
            log.step(StepRecord {
                number,
                name: format!("[build {}/2] {text}", number + 1),
                stage: "build".into(),
                platform: String::new(),
                targets: Vec::new(),
                instruction: text.into(),
                lines: (2, 2),
                from: Origin::Scratch,
                reads: Vec::new(),
                key: Some(inputs.key()),
                parent: None,
                inputs,
                outcome: StepOutcome::Ran { cost: Cost { wall_us: 1_500_000, ..Cost::default() } },
                miss: None,
                is_unsound: false,
                emulator: None,
                output: None,
                began_us: 0,
                wall_us: 1_500_000,
            })
            .unwrap();
        }
        log.finish(Finish {
            finished_ms: START + 3000,
            outcome: Outcome::Ok,
            image: None,
            manifest: None,
        })
        .unwrap();
        (dir, store)
    }

    fn output(store: &Store, command: &BuildsCommand) -> Result<String, ExplainError> {
        let mut out = Vec::new();
        let now = Timestamp::from_millisecond(START + 60_000).unwrap();
        run(command, store, now, Colour::Plain, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn log_of(store: &Store, step: Option<&str>) -> Result<String, ExplainError> {
        let (build, step) = ("last".into(), step.map(str::to_owned));
        let args = LogsArgs { build, step, progress: None, raw: false };
        output(store, &BuildsCommand::Logs(args))
    }

    #[test]
    fn builds_are_listed() {
        let (_dir, store) = kit();
        let args = BuildsArgs { limit: 20, format: ListFormat::Text };
        insta::assert_snapshot!(output(&store, &BuildsCommand::Builds(args)).unwrap(), @r"
        BUILD        STARTED (UTC)           TOOK  RESULT           RAN  CONTEXT
        1a0c4506c00  2026-09-21 14:13       3.0 s  ok               2/2  /src/app → app
        ");
    }

    #[test]
    fn logs_are_found_by_number_and_by_name() {
        let (_dir, store) = kit();
        assert_eq!(log_of(&store, None).unwrap(), "[build 1/2] RUN make all\nhello\n\n");
        for step in ["1", "all", "[build 1/2] RUN make all"] {
            assert_eq!(log_of(&store, Some(step)).unwrap(), "hello", "{step}");
        }
        assert!(matches!(log_of(&store, Some("make")), Err(ExplainError::AmbiguousStep { .. })));
        assert!(matches!(log_of(&store, Some("9")), Err(ExplainError::NoSuchStep { .. })));
        assert!(log_of(&store, Some("2")).unwrap_err().is_usage());
    }

    #[test]
    fn inspecting_shows_inputs_but_no_secret() {
        let (_dir, store) = kit();
        for format in ["text", "json"] {
            let (build, format) = ("1a0c45".into(), format.to_owned());
            let args = InspectArgs { command: None, build, format };
            let text = output(&store, &BuildsCommand::Inspect(args)).unwrap();
            assert!(text.contains("arg V") && text.contains("NPM_TOKEN"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn an_empty_history_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        assert!(matches!(log_of(&store, None), Err(ExplainError::History(HistoryError::NoBuilds))));
        assert!(matches!(explain::past(&store, None), Err(ExplainError::NoBuilds)));
    }

    #[test]
    fn every_format_of_a_report_is_written() {
        let (_dir, store) = kit();
        let report = explain::past(&store, None).unwrap();
        for (format, mark) in [
            (Format::Text, "2 of 2 steps ran: 3.0 s"),
            (Format::Json, "\"version\": 1,"),
            (Format::Html, "<!DOCTYPE html>"),
        ] {
            let mut out = Vec::new();
            explain::write(&report, format, Colour::Plain, &mut out).unwrap();
            assert!(String::from_utf8(out).unwrap().contains(mark));
        }
    }
}
