//! What can be wrong with a Dockerfile: facts with a place, ready for a
//! renderer.
//!
//! # Not here
//!
//! Excerpts and colours: the command line room draws them from these facts.

use super::ast::Span;

/// What kind of mistake; stable names for machine-readable output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A parser directive is wrong or repeated.
    Directive,
    /// Another frontend than Dockerfile's is asked for.
    Frontend,
    /// The file has no instructions, or no stages.
    Empty,
    /// No such instruction.
    UnknownInstruction,
    /// No such flag, or one given twice or without its value.
    Flag,
    /// The arguments do not fit the instruction.
    Arguments,
    /// A JSON array of something else than strings.
    Json,
    /// A heredoc without end, or where none may be.
    Heredoc,
    /// An instruction before the first FROM.
    OutsideStage,
    /// A `$` expression that is malformed or fails.
    Expansion,
    /// The options of a `--mount`.
    Mount,
    /// What a stage asks for cannot be: an unknown stage, a cycle, a value that makes no sense.
    Stage,
    /// Over a limit this program sets; the message names it.
    Limit,
}

/// A mistake in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{message}")]
pub struct Error {
    /// What kind.
    pub kind: ErrorKind,
    /// The fact: lower case, no full stop.
    pub message: String,
    /// The very characters; empty where there is no place (an empty file).
    pub span: Span,
    /// Line of the span's start, 1-based.
    pub line: u32,
    /// What to write beside the characters.
    pub label: Option<String>,
    /// What to do about it, each an imperative sentence that stands alone.
    pub hints: Vec<String>,
}

impl Error {
    /// An error with neither label nor hints.
    pub fn new(kind: ErrorKind, message: impl Into<String>, span: Span, line: u32) -> Self {
        Self { kind, message: message.into(), span, line, label: None, hints: Vec::new() }
    }

    /// Adds what stands beside the characters.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// The candidate nearest to `word` if it is near enough to be meant: at most a
/// third of its characters wrong, without regard to case.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer than any name here, and bounds the quadratic distance.
    const LONGEST: usize = 64;
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    let limit = (lower.chars().count().max(3) / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_offered_only_when_near() {
        const NAMES: [&str; 4] = ["COPY", "FROM", "RUN", "ENTRYPOINT"];
        for (word, want) in [
            ("CPOY", Some("COPY")),
            ("from", Some("FROM")),
            ("FORM", Some("FROM")),
            ("ENTRYPONT", Some("ENTRYPOINT")),
            ("INCLUDE", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(word, NAMES), want, "{word}");
        }
    }
}
