//! A report as text of 80 columns.

use super::compare::{Cause, NoRecord};
pub use super::describe::clean;
use super::describe::{self, Ink, Line, shortened, stage_name};
use super::redact;
use super::report::{Report, Step, Totals, Verdict, seconds};
use crate::history::Outcome;
use std::fmt::Write as _;

/// How wide a line may be.
const WIDTH: usize = 80;

/// Where the causes of a step begin.
const INDENT: usize = 6;

/// Whether escape sequences may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Only the text.
    Plain,
    /// With the terminal's own colours.
    Terminal,
}

fn code(ink: Ink) -> &'static str {
    match ink {
        Ink::Plain => "0",
        Ink::Bold => "1",
        Ink::Dim => "2",
        Ink::Red | Ink::Removed => "31",
        Ink::Green | Ink::Added => "32",
        Ink::Yellow => "33",
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
            let _ = write!(self.out, "\x1b[{}m{text}\x1b[0m", code(ink));
        }
    }

    /// Writes a line, broken at blanks if it is too long. A word that alone is too long is broken
    /// behind a slash or another mark, so that names stay whole as far as they fit into a line.
    fn wrapped(&mut self, indent: usize, line: &Line) {
        let mut column = 0;
        for (ink, text) in &line.0 {
            let marked;
            let text = match (ink, self.colour) {
                (Ink::Removed, Colour::Plain) => {
                    marked = format!("[-{text}-]");
                    &marked
                }
                (Ink::Added, Colour::Plain) => {
                    marked = format!("{{+{text}+}}");
                    &marked
                }
                _ => text,
            };
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
                    let cut = cut_of(rest, WIDTH - column);
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

/// Returns where to break a word of which `room` characters fit.
fn cut_of(word: &str, room: usize) -> usize {
    let end = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
    let fits = &word[..end];
    let behind = |marks: &[char]| fits.rfind(marks).map(|at| at + 1);
    behind(&['/']).or_else(|| behind(&['-', '_', '.', ',', ':', '=', '&', ';'])).unwrap_or(end)
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
        clean(&stage_name(&report.target)),
        clean(&report.platform.replace(',', ", "))
    );
    page.wrapped(0, &Line::default().with(Ink::Dim, place));
    if let Some(earlier) = &report.compared_with {
        let text = format!("compared with build {earlier}{}", describe::basis(report));
        page.wrapped(0, &Line::default().with(Ink::Dim, text));
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
    if let (true, Some(with)) = (step.result != Verdict::Hit, &step.compared_with)
        && report.compared_with.as_ref() != Some(with)
    {
        page.wrapped(INDENT, &Line::plain(format!("compared with build {with}:")));
    }
    for cause in &step.causes {
        // Of a first build that is said once.
        if is_first || !matches!(cause, Cause::NoRecord { reason: NoRecord::FirstBuild }) {
            for (depth, line) in describe::cause(report, cause) {
                page.wrapped(INDENT + 2 * depth, &line);
            }
        }
    }
    if let Some(exit) = step.exit {
        page.wrapped(INDENT, &Line::default().with(Ink::Red, format!("exit status {exit}")));
    }
    if let Some(emulator) = &step.emulator {
        let text = format!("ran emulated, by {}", clean(emulator));
        page.wrapped(INDENT, &Line::default().with(Ink::Dim, text));
    }
    if let Some((ink, text)) = describe::remade(step) {
        page.wrapped(INDENT, &Line::default().with(ink, text));
    }
    for line in &step.output {
        page.wrapped(INDENT, &Line::default().with(Ink::Dim, format!("| {}", clean(line))));
    }
}

fn totals(page: &mut Page, report: &Report) {
    let is_prediction = report.outcome == Outcome::Predicted;
    page.out.push('\n');
    let text = in_words(&report.totals, report.steps.len(), is_prediction);
    page.wrapped(0, &Line::plain(text));
    for of in &report.platforms {
        let text = in_words(&of.totals, of.steps, is_prediction);
        page.wrapped(2, &Line::plain(format!("{}: {text}", clean(&of.platform))));
    }
}

/// Says what some steps cost and saved.
pub(super) fn in_words(totals: &Totals, count: usize, is_prediction: bool) -> String {
    let steps = if count == 1 { "step" } else { "steps" };
    let mut text = match (totals.misses, totals.unknown) {
        (0, 0) if totals.hits == count && count != 1 => format!("all {count} {steps} cached"),
        (0, 0) => format!("{} of {count} {steps} cached", totals.hits),
        (misses, 0) if is_prediction => format!("{misses} of {count} {steps} would run"),
        (misses, unknown) if is_prediction => {
            format!("{misses} of {count} {steps} would run, {unknown} more may")
        }
        (misses, _) => format!("{misses} of {count} {steps} ran"),
    };
    if totals.failed > 0 {
        let _ = write!(text, ", {} failed", totals.failed);
    }
    let most = totals.spent_us + totals.unknown_us;
    if totals.unknown_us > 0 {
        let _ = write!(text, ": {} to {}", seconds(totals.spent_us), seconds(most));
    } else if most > 0 {
        let about = if is_prediction { "about " } else { "" };
        let _ = write!(text, ": {about}{}", seconds(most));
    }
    if is_prediction && totals.unmeasured > 0 && most > 0 {
        let _ = write!(text, ", and {} not measured yet", totals.unmeasured);
    }
    if totals.saved_us > 0 {
        let saves = if is_prediction { "saves" } else { "saved" };
        let _ = write!(text, "; the cache {saves} {}", seconds(totals.saved_us));
    }
    text
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
