//! A report as text of 80 columns.

use super::compare::{Cause, Evicted, NoRecord, Variable};
use super::diff::{Op, Piece};
use super::listing::{Attribute, Change, FileChange, FileChanges};
use super::report::{Report, Step, Verdict};
use super::suggest::seconds;
use super::{Outcome, redact};
use std::borrow::Cow;
use std::fmt::Write as _;

/// How wide a line may be.
const WIDTH: usize = 80;

/// Where the causes of a step begin.
const INDENT: usize = 6;

/// How much of what did not change is shown on each side of what did, in characters.
const CONTEXT: usize = 24;

/// The most characters of one value that are shown; JSON has all.
const VALUE_MAX: usize = 120;

/// Whether escape sequences may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Only the text.
    Plain,
    /// With the terminal's own colours.
    Terminal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ink {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
        }
    }
}

/// A line in the making: stretches of text, each in one ink.
#[derive(Debug, Default)]
struct Line(Vec<(Ink, String)>);

impl Line {
    fn plain(text: impl Into<String>) -> Self {
        Self::default().with(Ink::Plain, text)
    }

    fn with(mut self, ink: Ink, text: impl Into<String>) -> Self {
        self.0.push((ink, text.into()));
        self
    }
}

struct Page {
    out: String,
    colour: Colour,
}

impl Page {
    fn paint(&mut self, ink: Ink, text: &str) {
        if self.colour == Colour::Plain || ink == Ink::Plain || text.is_empty() {
            self.out.push_str(text);
        } else {
            let _ = write!(self.out, "\x1b[{}m{text}\x1b[0m", ink.code());
        }
    }

    /// Writes a line, broken at blanks where it is too long, and within words where one alone is.
    fn wrapped(&mut self, indent: usize, line: &Line) {
        let mut column = 0;
        for (ink, text) in &line.0 {
            for word in text.split_inclusive(' ') {
                let shown = word.trim_end_matches(' ').chars().count();
                if column > indent + 2 && column + shown > WIDTH {
                    self.end_line();
                    column = 0;
                }
                if column == 0 {
                    column = indent;
                    self.out.push_str(&" ".repeat(indent));
                }
                let mut rest = word;
                while column + rest.trim_end_matches(' ').chars().count() > WIDTH {
                    let cut =
                        rest.char_indices().nth(WIDTH - column).map_or(rest.len(), |(i, _)| i);
                    self.paint(*ink, &rest[..cut]);
                    self.end_line();
                    self.out.push_str(&" ".repeat(indent + 2));
                    column = indent + 2;
                    rest = &rest[cut..];
                }
                self.paint(*ink, rest);
                column += rest.chars().count();
            }
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        let length = self.out.trim_end_matches(' ').len();
        self.out.truncate(length);
        self.out.push('\n');
    }
}

/// Renders a report. Every line fits 80 columns; control characters of names and paths are shown,
/// not sent.
pub fn render(report: &Report, colour: Colour) -> String {
    let mut page = Page { out: String::new(), colour };
    head(&mut page, report);
    for step in &report.steps {
        self::step(&mut page, report, step);
    }
    totals(&mut page, report);
    suggestions(&mut page, report);
    page.out
}

fn head(page: &mut Page, report: &Report) {
    let mut line = match &report.build {
        Some(id) => Line::plain("build ").with(Ink::Bold, id.clone()).with(Ink::Plain, ": "),
        None => Line::default().with(Ink::Bold, "A build now: "),
    };
    line = match &report.outcome {
        Outcome::Running => line.with(Ink::Yellow, "still running"),
        Outcome::Ok => line.with(Ink::Green, "done"),
        Outcome::Failed { message } => {
            line.with(Ink::Red, format!("failed: {}", clean(&redact::addresses(message))))
        }
        Outcome::Cancelled => line.with(Ink::Yellow, "cancelled"),
        Outcome::Interrupted => line.with(Ink::Red, "killed before its end"),
        Outcome::Predicted => line.with(Ink::Plain, "nothing was run or written"),
    };
    page.wrapped(0, &line);
    let place = format!(
        "{}, {}, target {}, {}",
        clean(&report.context),
        clean(&report.dockerfile),
        clean(&report.target),
        clean(&report.platform)
    );
    page.wrapped(0, &Line::default().with(Ink::Dim, place));
    if let Some(earlier) = &report.compared_with {
        page.wrapped(0, &Line::default().with(Ink::Dim, format!("compared with build {earlier}")));
    }
    page.out.push('\n');
}

fn step(page: &mut Page, report: &Report, step: &Step) {
    let (word, ink) = match step.result {
        Verdict::Hit => ("hit", Ink::Green),
        Verdict::Miss => ("MISS", Ink::Yellow),
        Verdict::Failed => ("FAILED", Ink::Red),
        Verdict::Unknown => ("maybe", Ink::Yellow),
        Verdict::NotReached => ("-", Ink::Dim),
    };
    let middle = match &step.from_build {
        Some(build) => build.clone(),
        None => format!("line {}", step.line),
    };
    let cost = match (step.result, step.run_us) {
        (Verdict::NotReached, _) | (_, None) => String::new(),
        (_, Some(us)) => seconds(us),
    };
    let right = format!("  {middle:>11}{cost:>10}");
    let room = WIDTH - 7 - right.chars().count();
    let name = shortened(&clean(&step.name), room);
    page.paint(ink, &format!("{word:<6} "));
    page.paint(if step.result == Verdict::Hit { Ink::Plain } else { Ink::Bold }, &name);
    page.out.push_str(&" ".repeat(room - name.chars().count()));
    page.paint(Ink::Dim, &right);
    page.end_line();

    let is_first = report.first_broken == Some(step.number);
    if is_first && report.compared_with.is_some() {
        page.wrapped(INDENT, &Line::default().with(Ink::Yellow, "first broken step:"));
    }
    if let (Verdict::Hit, Some(with)) = (step.result, &step.compared_with) {
        page.wrapped(INDENT, &Line::plain(format!("found again, other than in build {with}:")));
    }
    for cause in &step.causes {
        // Of a first build that is said once.
        if is_first || !matches!(cause, Cause::NoRecord { reason: NoRecord::FirstBuild }) {
            self::cause(page, report, cause);
        }
    }
    if let Some(exit) = step.exit {
        page.wrapped(INDENT, &Line::default().with(Ink::Red, format!("exit status {exit}")));
    }
    if step.made_same_files == Some(true) {
        page.wrapped(
            INDENT,
            &Line::default()
                .with(Ink::Green, "made the same files as before: what follows is undisturbed"),
        );
    }
}

fn cause(page: &mut Page, report: &Report, cause: &Cause) {
    let line = match cause {
        Cause::NoCache => Line::plain("--no-cache was given"),
        Cause::NoRecord { reason } => Line::plain(match reason {
            NoRecord::FirstBuild => "the first build of this context, Dockerfile and target",
            NoRecord::NewStep => "a new step",
            NoRecord::NeverReached => "no earlier build came this far",
        }),
        Cause::FailedBefore { build, exit } => Line::plain(match exit {
            Some(exit) => format!("it failed in build {build} (exit status {exit})"),
            None => format!("it failed in build {build}"),
        }),
        Cause::Evicted { what, build } => {
            let what = match what {
                Evicted::Record => "its record",
                Evicted::Layer => "the layer it made",
            };
            Line::plain(match build {
                Some(build) => format!("{what} was removed after build {build} (prune, or GC)"),
                None => format!("{what} was removed (prune, or GC)"),
            })
        }
        Cause::Damaged => Line::plain("its record is damaged"),
        Cause::Format => Line::plain("recorded by another version of builder, with other keys"),
        Cause::Base { old, new, old_digest, new_digest } => {
            base(old.as_deref(), new, old_digest.as_deref(), new_digest.as_deref())
        }
        Cause::EarlierStep { number, name, first, is_certain } => {
            let name = clean(short(name)).into_owned();
            if *is_certain {
                let line = Line::plain(format!("{name} made other files"));
                match report.steps.iter().find(|s| s.number == *first && first != number) {
                    Some(first) => {
                        line.with(Ink::Plain, format!(", broken by {}", clean(short(&first.name))))
                    }
                    None => line,
                }
            } else {
                Line::plain(format!("runs if {name} makes other files"))
            }
        }
        Cause::Predecessor { old, new } => Line::plain(format!(
            "it follows {} now, and followed {}",
            clean(short(new)),
            clean(short(old))
        )),
        Cause::Instruction { diff } => difference("instruction", diff, page.colour),
        Cause::Command { diff } => difference("command", diff, page.colour),
        Cause::Arg(variable) => self::variable("ARG", variable),
        Cause::Env(variable) => self::variable("ENV", variable),
        Cause::Platform { old, new } => values("platform", Some(old), Some(new)),
        Cause::Input { name, old, new } => values(&clean(name), old.as_deref(), new.as_deref()),
        Cause::Order { names } => Line::plain(format!("the order of {}", clean(&names.join(", ")))),
        Cause::Files { source, changes, made_by } => {
            let made_by = made_by.and_then(|n| report.steps.iter().find(|s| s.number == n));
            let by = match made_by {
                Some(step) => format!(" (made by {})", clean(short(&step.name))),
                None => String::new(),
            };
            files(page, &format!("files {}{by}", clean(source)), changes.as_ref());
            return;
        }
        Cause::Mount { target, old, new, changes } => {
            let name = format!("mount {}", clean(target));
            if old.is_some() || new.is_some() || changes.is_none() {
                page.wrapped(INDENT, &values(&name, old.as_deref(), new.as_deref()));
            }
            if changes.is_some() {
                files(page, &name, changes.as_ref());
            }
            return;
        }
    };
    page.wrapped(INDENT, &line);
}

fn base(old: Option<&str>, new: &str, old_digest: Option<&str>, new_digest: Option<&str>) -> Line {
    let digest = |digest: Option<&str>| match digest {
        // Enough to tell and to find it by.
        Some(digest) => digest.chars().take("sha256:".len() + 12).collect(),
        None => "another digest".to_owned(),
    };
    match old {
        Some(old) if old == new && (old_digest.is_none() && new_digest.is_none()) => {
            Line::plain(format!("base image {}: other files", clean(new)))
        }
        Some(old) if old == new => values(
            &format!("base image {}", clean(new)),
            Some(&digest(old_digest)),
            Some(&digest(new_digest)),
        ),
        Some(old) => values("base image", Some(old), Some(new)),
        None => Line::plain(format!("base image {}: recorded on another one only", clean(new))),
    }
}

fn variable(kind: &str, variable: &Variable) -> Line {
    let name = format!("{kind} {}", clean(&variable.name));
    if variable.is_hidden {
        return Line::plain(format!("{name}: another value (hidden)"));
    }
    values(&name, variable.old.as_deref(), variable.new.as_deref())
}

fn values(name: &str, old: Option<&str>, new: Option<&str>) -> Line {
    let shown = |value: &str| match value {
        "" => "\"\"".to_owned(),
        _ => shortened(&clean(value), VALUE_MAX),
    };
    let line = Line::plain(format!("{name}: "));
    match (old, new) {
        (Some(old), Some(new)) => {
            line.with(Ink::Red, shown(old)).with(Ink::Plain, " → ").with(Ink::Green, shown(new))
        }
        (None, Some(new)) => line.with(Ink::Plain, "new: ").with(Ink::Green, shown(new)),
        (Some(old), None) => line.with(Ink::Plain, "gone: ").with(Ink::Red, shown(old)),
        (None, None) => line.with(Ink::Plain, "changed"),
    }
}

fn difference(name: &str, diff: &[Piece], colour: Colour) -> Line {
    let mut line = Line::plain(format!("{name}: "));
    for (place, piece) in diff.iter().enumerate() {
        let text = clean(&piece.text);
        let marks = |open: &str, close: &str| match colour {
            Colour::Plain => format!("{open}{text}{close}"),
            Colour::Terminal => text.to_string(),
        };
        line = match piece.op {
            Op::Removed => line.with(Ink::Red, marks("[-", "-]")),
            Op::Added => line.with(Ink::Green, marks("{+", "+}")),
            Op::Same => line.with(Ink::Plain, excerpt(&text, place == 0, place + 1 == diff.len())),
        };
    }
    line
}

/// What did not change, without what is far from a change.
fn excerpt(text: &str, is_first: bool, is_last: bool) -> String {
    let length = text.chars().count();
    let (head, tail) = match (is_first, is_last) {
        (true, true) => (length, 0),
        (true, false) => (0, CONTEXT),
        (false, true) => (CONTEXT, 0),
        (false, false) => (CONTEXT, CONTEXT),
    };
    if head + tail + 3 >= length {
        return text.to_owned();
    }
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

fn files(page: &mut Page, name: &str, changes: Option<&FileChanges>) {
    let Some(changes) = changes else {
        page.wrapped(INDENT, &Line::plain(format!("{name}: changed; the old listing is gone")));
        return;
    };
    let mut counts = Vec::new();
    for (count, what) in
        [(changes.changed, "changed"), (changes.added, "added"), (changes.removed, "removed")]
    {
        if count > 0 {
            counts.push(format!("{count} {what}"));
        }
    }
    page.wrapped(INDENT, &Line::plain(format!("{name}: {}", counts.join(", "))));
    for file in &changes.files {
        page.wrapped(INDENT + 2, &self::file(file));
    }
    let more = changes.count() - changes.files.len();
    if more > 0 {
        page.wrapped(INDENT + 2, &Line::plain(format!("… and {more} more")));
    }
    if changes.is_umask {
        page.wrapped(
            INDENT,
            &Line::plain(
                "only write permission of group and others differs: made under another umask",
            ),
        );
    }
}

fn file(file: &FileChange) -> Line {
    let line = Line::plain(format!("{}: ", clean(&file.path)));
    match file.change {
        Change::Added => return line.with(Ink::Green, "added"),
        Change::Removed => return line.with(Ink::Red, "removed"),
        Change::Changed => {}
    }
    let has = |wanted| file.attributes.iter().any(|a| a.attribute == wanted);
    let mut parts = Vec::new();
    for change in &file.attributes {
        match change.attribute {
            // Hashes say nothing to a reader, and a size says it better.
            Attribute::Content if has(Attribute::Size) => {}
            Attribute::Content => parts.push("content".to_owned()),
            Attribute::Size => {
                parts.push(format!("content ({} → {} bytes)", change.old, change.new));
            }
            other => {
                let value = |text: &str| match text {
                    "" => "none".to_owned(),
                    _ => clean(text).into_owned(),
                };
                let (old, new) = (value(&change.old), value(&change.new));
                parts.push(format!("{} {old} → {new}", other.name()));
            }
        }
    }
    line.with(Ink::Plain, parts.join(", "))
}

fn totals(page: &mut Page, report: &Report) {
    let totals = &report.totals;
    let is_prediction = report.outcome == Outcome::Predicted;
    let count = report.steps.len();
    let steps = if count == 1 { "step" } else { "steps" };
    page.out.push('\n');
    let mut text = match (totals.misses, totals.unknown) {
        (0, 0) if totals.hits == count => format!("all {count} {steps} cached"),
        (0, 0) => format!("{} of {count} {steps} cached", totals.hits),
        (misses, 0) if is_prediction => format!("{misses} of {count} {steps} would run"),
        (misses, unknown) if is_prediction => {
            format!("{misses} of {count} {steps} would run, {unknown} more may")
        }
        (misses, _) => format!("{misses} of {count} {steps} ran"),
    };
    let most = totals.spent_us + totals.unknown_us;
    if totals.unknown_us > 0 {
        let _ = write!(text, ": {} to {}", seconds(totals.spent_us), seconds(most));
    } else if most > 0 {
        let about = if is_prediction { "about " } else { "" };
        let _ = write!(text, ": {about}{}", seconds(most));
    }
    if totals.saved_us > 0 {
        let _ = write!(text, "; the cache saves {}", seconds(totals.saved_us));
    }
    page.wrapped(0, &Line::plain(text));
}

fn suggestions(page: &mut Page, report: &Report) {
    for suggestion in &report.suggestions {
        let saves = match suggestion.saves_us {
            Some(us) if us > 0 => format!(", saves {}", seconds(us)),
            _ => String::new(),
        };
        let line = Line::default()
            .with(Ink::Bold, "hint: ")
            .with(Ink::Plain, clean(&suggestion.text).into_owned())
            .with(Ink::Dim, format!(" ({}{saves})", clean(&suggestion.evidence)));
        page.wrapped(0, &line);
    }
}

/// `[build 2/5]` of `[build 2/5] RUN make`.
pub(super) fn short(name: &str) -> &str {
    match name.find(']') {
        Some(end) if name.starts_with('[') => &name[..=end],
        _ => name,
    }
}

/// Cuts to at most `room` characters, with a mark.
fn shortened(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// Makes control characters visible, so that no file name moves a cursor; line breaks become `⏎`.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("⏎ "),
            '\t' => out.push(' '),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}
