//! Findings of the checks as text, as JSON, and as warnings of a build.

use super::failure::{Excerpt, excerpt_at, shown};
use crate::dockerfile::ast::Span;
use crate::dockerfile::lint::{Finding, Severity};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::fmt::Write as _;

/// The file that findings are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// Its name, as the user knows it.
    pub(super) name: &'a str,
    /// Its text.
    pub(super) text: &'a str,
}

/// What a check ends with: an error with its place, where the file cannot be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BuildError {
    /// What is wrong.
    pub(super) message: String,
    /// Its lines; none where it has no place.
    pub(super) lines: Option<(u32, u32)>,
}

/// Writes findings for people: each with its place and what to do, and how many there are.
pub(super) fn text(findings: &[Finding], subject: Subject<'_>, is_coloured: bool) -> String {
    let renderer = if is_coloured { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    let ends = subject.text.match_indices('\n').map(|(at, _)| at + 1);
    let lines: Vec<usize> = std::iter::once(0).chain(ends).collect();
    for finding in findings {
        let level = match finding.rule.severity {
            Severity::Advice => Level::NOTE.with_name("advice"),
            Severity::Warning | Severity::Experimental => Level::WARNING,
        };
        let (first_line, excerpt) = excerpt_of(finding.span, subject, &lines);
        let (excerpt, message) = (excerpt.shown(), shown(&finding.message));
        let url = finding.rule.url();
        let group = level
            .primary_title(message.as_str())
            .id(finding.rule.name)
            .element(
                Snippet::source(excerpt.source.as_str())
                    .line_start(first_line)
                    .path(excerpt.path.as_str())
                    .annotation(AnnotationKind::Primary.span(excerpt.span.clone())),
            )
            .element(Level::HELP.message(finding.rule.fix))
            .elements(url.as_deref().map(|url| Level::NOTE.message(url)));
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    let advice = findings.iter().filter(|f| f.rule.severity == Severity::Advice).count();
    let parts = [(findings.len() - advice, "warning"), (advice, "piece of advice")];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| match (count, *what) {
            (1, what) => format!("1 {what}"),
            (count, "warning") => format!("{count} warnings"),
            (count, _) => format!("{count} pieces of advice"),
        })
        .collect();
    let _ = match shown.is_empty() {
        true => writeln!(out, "Check complete, no warnings found."),
        false => writeln!(out, "Check complete: {}.", shown.join(" and ")),
    };
    out
}

/// The lines that a span touches, and the number of the first; `lines` has where each begins. The
/// whole file for each finding would cost the square of its length.
fn excerpt_of(span: Span, subject: Subject<'_>, lines: &[usize]) -> (usize, Excerpt) {
    let number = lines.partition_point(|&start| start <= span.start).max(1);
    let start = lines[number - 1];
    let last = lines.partition_point(|&start| start < span.end).max(number);
    let end = lines.get(last).map_or(subject.text.len(), |next| next - 1);
    let text = subject.text.get(start..end).unwrap_or_default();
    let inside =
        Span { start: span.start.saturating_sub(start), end: span.end.saturating_sub(start) };
    (number, excerpt_at(inside, subject.name, text, None))
}

/// Writes findings for programs: the document of BuildKit's `frontend.lint`, with `severity`,
/// `help` and `unknownImages` added.
pub(super) fn json(
    findings: &[Finding],
    subject: Subject<'_>,
    unknown_images: &[String],
    error: Option<&BuildError>,
) -> String {
    let warnings = findings
        .iter()
        .map(|finding| WarningJson {
            rule_name: finding.rule.name,
            description: finding.rule.description,
            url: finding.rule.url(),
            detail: &finding.message,
            location: LocationJson::new((finding.lines.first, finding.lines.last)),
            severity: match finding.rule.severity {
                Severity::Advice => "advice",
                Severity::Warning | Severity::Experimental => "warning",
            },
            help: finding.rule.fix,
        })
        .collect();
    let document = DocumentJson {
        warnings,
        sources: [SourceJson {
            filename: subject.name,
            language: "Dockerfile",
            data: STANDARD.encode(subject.text.as_bytes()),
        }],
        build_error: error.map(|error| ErrorJson {
            message: &error.message,
            location: error.lines.map_or_else(LocationJson::default, LocationJson::new),
        }),
        unknown_images,
    };
    let mut text = serde_json::to_string_pretty(&document).expect("writing to memory cannot fail");
    text.push('\n');
    text
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DocumentJson<'a> {
    warnings: Vec<WarningJson<'a>>,
    sources: [SourceJson<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    build_error: Option<ErrorJson<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unknown_images: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningJson<'a> {
    rule_name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    detail: &'a str,
    location: LocationJson,
    severity: &'a str,
    help: &'a str,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    message: &'a str,
    location: LocationJson,
}

#[derive(Serialize)]
pub(super) struct SourceJson<'a> {
    pub(super) filename: &'a str,
    pub(super) language: &'a str,
    pub(super) data: String,
}

/// Lines, one range for each, as BuildKit has them. There is one source, whose index 0 is left out.
#[derive(Serialize, Default)]
pub(super) struct LocationJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeJson>,
}

#[derive(Serialize)]
struct RangeJson {
    start: PositionJson,
    end: PositionJson,
}

#[derive(Serialize)]
struct PositionJson {
    line: u32,
}

impl LocationJson {
    pub(super) fn new((first, last): (u32, u32)) -> Self {
        let range = |line| RangeJson { start: PositionJson { line }, end: PositionJson { line } };
        Self { ranges: (first..=last).map(range).collect() }
    }
}
