//! Build checks: what is legal in a Dockerfile and yet likely a mistake.
//!
//! In: the syntax tree, and what planning found out about each stage ([`StageFacts`]). Out:
//! [`Finding`]s with their place, by line. Nothing is read and nothing runs.
//!
//! # How
//!
//! Three passes, as in BuildKit: over the file as it is written (`spelling`), over the FROM lines
//! with the global variables (`from`), and over the instructions of the stages that count, each
//! with the variables it sees (`scope`). What was reported twice in the same words for the same
//! lines is reported once.
//!
//! Which stages count is the caller's to say: those that the target needs after a build, all of
//! them in `builder check` without a target. A stage whose base image is not at hand is walked too,
//! but nothing is said about its variables, since the image may well define them.
//!
//! # Not here
//!
//! The rules' names and texts: `rules`. Where findings are shown, and as what: the command line
//! room.
//!
//! Source: BuildKit `frontend/dockerfile/linter`, and its uses in `instructions/parse.go` and
//! `dockerfile2llb`, of August 2026.

mod copies;
mod from;
mod instructions;
mod options;
mod rules;
mod runs;
mod scope;
mod shell;
mod spelling;
mod suggest;
#[cfg(test)]
mod tests;

use super::ast::{Dockerfile, Instruction, Lines, Origin, Span, Word};
use super::env::Env;
use super::ignore::Matcher;
use crate::oci::Platform;
use std::collections::{BTreeMap, BTreeSet};

pub use copies::looks_secret;
pub use options::{CHECK_ARGUMENT, Options, OptionsError};
pub use rules::{RULES, Rule, Severity};

/// What is to be checked, and with what in mind.
#[derive(Debug)]
pub struct Input<'a> {
    /// The file.
    pub file: &'a Dockerfile,
    /// Which rules count.
    pub options: &'a Options,
    /// `--build-arg`s.
    pub build_args: &'a BTreeMap<String, String>,
    /// TARGETPLATFORM and similar ones, with the values of this build.
    pub platform_args: &'a Env,
    /// What is known of each stage, in source order; empty where planning did not get so far, and
    /// then only what is written in the file is checked.
    pub stages: &'a [StageFacts],
    /// The stage that becomes the image.
    pub target: usize,
    /// The context's ignore file.
    pub ignore: Option<&'a Matcher>,
    /// Whether our own rules are asked for.
    pub wants_advice: bool,
    /// Files of the context that the build may see and that [`looks_secret`], relative to its root.
    pub secret_files: &'a [String],
}

/// What planning found out about a stage.
#[derive(Debug, Clone)]
pub struct StageFacts {
    /// Whether its instructions are checked.
    pub counts: bool,
    /// What it starts from.
    pub base: Base,
    /// ONBUILD instructions of the base, which come first.
    pub triggers: Vec<Instruction>,
}

/// What a stage starts from.
#[derive(Debug, Clone)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage, by its index.
    Stage(usize),
    /// A directory or image that `--build-context` put in the place of the whole stage.
    Replaced,
    /// A directory that `--build-context` put in the place of the image.
    Directory,
    /// An image.
    Image(ImageFacts),
    /// An image that is not at hand, by its name.
    Unknown(String),
}

/// What checks want to know of a base image.
#[derive(Debug, Clone)]
pub struct ImageFacts {
    /// Its name, expanded.
    pub name: String,
    /// Whether `--build-context` gave it.
    pub is_given: bool,
    /// Its variables.
    pub env: Vec<(String, String)>,
    /// What it says its shell is.
    pub shell: Option<Vec<String>>,
    /// What the stage is built for.
    pub expected: Platform,
    /// What the image is for.
    pub actual: Platform,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// By which rule.
    pub rule: &'static Rule,
    /// What, in a sentence without a full stop; BuildKit's words for BuildKit's rules.
    pub message: String,
    /// The very characters.
    pub span: Span,
    /// The lines of the instruction.
    pub lines: Lines,
}

impl Finding {
    /// The line BuildKit shows: `Rule: message (line 3)`.
    pub fn short(&self) -> String {
        format!("{}: {} (line {})", self.rule.name, self.message, self.lines.first)
    }
}

/// Where a finding points.
#[derive(Debug, Clone, Copy)]
struct Site {
    span: Span,
    lines: Lines,
}

impl Site {
    fn of(origin: &Origin) -> Self {
        Self { span: origin.keyword.span, lines: origin.lines }
    }

    fn at(self, word: &Word) -> Self {
        Self { span: word.span, ..self }
    }
}

/// Takes findings in and keeps those that are wanted.
struct Findings {
    kept: Vec<Finding>,
    /// What was found, so that it is not reported twice: rule, lines, message.
    seen: BTreeSet<(&'static str, (u32, u32), String)>,
    wants_advice: bool,
}

impl Findings {
    fn add(
        &mut self,
        options: &Options,
        rule: &'static Rule,
        place: Site,
        message: impl Into<String>,
    ) {
        if !options.wants(rule) || rule.severity == Severity::Advice && !self.wants_advice {
            return;
        }
        let (message, lines) = (message.into(), place.lines);
        if self.seen.insert((rule.name, (lines.first, lines.last), message.clone())) {
            self.kept.push(Finding { rule, message, span: place.span, lines });
        }
    }
}

/// Checks a file.
pub fn check(input: &Input<'_>) -> Vec<Finding> {
    let mut report =
        Findings { kept: Vec::new(), seen: BTreeSet::new(), wants_advice: input.wants_advice };
    spelling::check(input, &mut report);
    from::check(input, &mut report);
    scope::check(input, &mut report);
    let mut findings = report.kept;
    findings.sort_by_key(|finding| finding.lines.first);
    findings
}

/// The rules that fail a build under `error=true`, by name; `None` where nothing fails it.
pub fn violation(options: &Options, findings: &[Finding]) -> Option<String> {
    let mut names: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.rule.severity != Severity::Advice)
        .map(|finding| finding.rule.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    (options.is_error && !names.is_empty())
        .then(|| format!("lint violation found for rules: {}", names.join(", ")))
}
