//! How the file is written: cases, names, comments, empty lines, instructions that have had their
//! day. Needs no variable's value, so it holds for every stage, built or not.

use super::rules::{
    BROKEN_JSON_FORM, CONSISTENT_INSTRUCTION_CASING, DUPLICATE_STAGE_NAME, FROM_AS_CASING,
    INVALID_DEFINITION_DESCRIPTION, MAINTAINER_DEPRECATED, NO_EMPTY_CONTINUATION,
    RESERVED_STAGE_NAME, STAGE_NAME_CASING,
};
use super::{Findings, Input, Site};
use crate::dockerfile::ast::{Command, Instruction, Lines, Origin, Stage};
use crate::dockerfile::golang::quote;
use std::collections::BTreeSet;

/// Names that mean something else after FROM and `--from=`.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(input: &Input<'_>, report: &mut Findings) {
    let file = input.file;
    for &(span, line) in &file.empty_continuations {
        let place = Site { span, lines: Lines { first: line, last: line } };
        report.add(input.options, &NO_EMPTY_CONTINUATION, place, "Empty continuation line");
    }
    for instruction in &file.global_args {
        instruction_spelling(input, instruction, report);
    }
    for stage in &file.stages {
        from_spelling(input, stage, report);
        for instruction in &stage.instructions {
            instruction_spelling(input, instruction, report);
        }
    }
    stage_names(input, report);
    instruction_casing(input, report);
}

fn from_spelling(input: &Input<'_>, stage: &Stage, report: &mut Findings) {
    let options = input.options.with_comments(&stage.from.comments);
    let place = Site::of(&stage.from);
    let keyword = stage.from.keyword.text.as_str();
    let Some(name) = &stage.name else { return };
    if let Some(typed) = &stage.name_as_typed
        && *typed != typed.to_lowercase()
    {
        let message = format!("Stage name '{typed}' should be lowercase");
        report.add(&options, &STAGE_NAME_CASING, place.at(name), message);
    }
    if let Some(word) = &stage.as_keyword {
        // A FROM of mixed case is another rule's, and there is nothing to match.
        let matches = match keyword {
            from if from == from.to_lowercase() => word.text == word.text.to_lowercase(),
            from if from == from.to_uppercase() => word.text == word.text.to_uppercase(),
            _ => true,
        };
        if !matches {
            let message = format!("'{}' and '{keyword}' keywords' casing do not match", word.text);
            report.add(&options, &FROM_AS_CASING, place.at(word), message);
        }
    }
    description(input, "FROM", &[name.text.as_str()], &stage.from, report);
}

fn instruction_spelling(input: &Input<'_>, instruction: &Instruction, report: &mut Findings) {
    let origin = &instruction.origin;
    broken_json(input, origin, report);
    match &instruction.command {
        Command::Maintainer(_) => {
            let options = input.options.with_comments(&origin.comments);
            let message = "Maintainer instruction is deprecated in favor of using label";
            report.add(&options, &MAINTAINER_DEPRECATED, Site::of(origin), message);
        }
        Command::Arg(declarations) => {
            let names: Vec<&str> = declarations.iter().map(|d| d.name.as_str()).collect();
            description(input, "ARG", &names, origin, report);
        }
        _ => {}
    }
}

/// `["a', "b"]`. A `[` without a quote behind it may be the shell's test.
fn broken_json(input: &Input<'_>, origin: &Origin, report: &mut Findings) {
    let Some(span) = origin.invalid_json else { return };
    let looks_meant = origin.original.split_once('[').is_some_and(|(_, rest)| {
        let rest = rest.trim_start();
        rest.starts_with('"') || rest.starts_with('\'')
    });
    if looks_meant {
        let options = input.options.with_comments(&origin.comments);
        let place = Site { span, lines: origin.lines };
        let message = format!("{} is given text that is almost JSON", origin.keyword.text);
        report.add(&options, &BROKEN_JSON_FORM, place, message);
    }
}

/// The comment above a definition begins with its name, or is not a description of it.
fn description(
    input: &Input<'_>,
    keyword: &str,
    names: &[&str],
    origin: &Origin,
    report: &mut Findings,
) {
    let (Some(comment), [first, rest @ ..]) = (origin.comments.last(), names) else { return };
    if comment.split(' ').next().is_some_and(|word| names.contains(&word)) {
        return;
    }
    let example = if rest.is_empty() { first } else { "<arg_key>" };
    let message =
        format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    let options = input.options.with_comments(&origin.comments);
    report.add(&options, &INVALID_DEFINITION_DESCRIPTION, Site::of(origin), message);
}

fn stage_names(input: &Input<'_>, report: &mut Findings) {
    let mut seen = BTreeSet::new();
    for stage in &input.file.stages {
        let Some(name) = &stage.name else { continue };
        let place = Site::of(&stage.from).at(name);
        if RESERVED.contains(&name.as_str()) {
            let quoted = quote(&name.text);
            let message =
                format!("Stage name should not use the same name as reserved stage {quoted}");
            report.add(input.options, &RESERVED_STAGE_NAME, place, message);
        }
        if !seen.insert(name.as_str()) {
            let quoted = quote(&name.text);
            let message = format!("Duplicate stage name {quoted}, stage names should be unique");
            report.add(input.options, &DUPLICATE_STAGE_NAME, place, message);
        }
    }
}

/// All instructions in the case that most of them have; ARGs before the first FROM do not vote.
fn instruction_casing(input: &Input<'_>, report: &mut Findings) {
    let origins = || {
        input.file.stages.iter().flat_map(|stage| {
            let own = stage.instructions.iter().map(|instruction| &instruction.origin);
            std::iter::once(&stage.from).chain(own)
        })
    };
    let is_lower = |word: &str| word == word.to_lowercase();
    let is_upper = |word: &str| word == word.to_uppercase();
    let (mut lower, mut upper) = (0, 0);
    for origin in origins() {
        let keyword = origin.keyword.as_str();
        if is_lower(keyword) {
            lower += 1;
        } else if is_upper(keyword) {
            upper += 1;
        }
    }
    let wants_lower = lower > upper;
    for origin in origins() {
        let keyword = origin.keyword.as_str();
        let case = match wants_lower {
            true if !is_lower(keyword) => "lowercase",
            false if !is_upper(keyword) => "uppercase",
            _ => continue,
        };
        let message =
            format!("Command '{keyword}' should match the case of the command majority ({case})");
        report.add(input.options, &CONSISTENT_INSTRUCTION_CASING, Site::of(origin), message);
    }
}
