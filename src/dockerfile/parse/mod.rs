//! The parser: text to syntax tree.
//!
//! In: the bytes of a Dockerfile. Out: a [`Dockerfile`], or everything that is
//! wrong with it.
//!
//! # How
//!
//! 1. [`super::join`] makes one text of each instruction's lines.
//! 2. [`statement`] takes it apart with pest, by the grammar of its keyword.
//! 3. [`instruction`] checks what the parts mean.
//! 4. This file puts instructions into stages.
//!
//! # Errors
//!
//! Each instruction is read whatever the result of the one before, so that one run
//! shows all mistakes; but what only follows from another is not reported: of a
//! run of unknown instructions (a `\` that is missing) the first, of
//! instructions without a stage the first, and none behind a FROM that failed.
//!
//! # Not here
//!
//! Variables: [`super::expand`]. Stages and images: the plan room.

mod duration;
mod flags;
mod grammar;
mod instruction;
mod mount;
mod reference;
#[cfg(test)]
mod samples;
mod statement;
#[cfg(test)]
mod tests;

use super::ast::{Command, Directive, Dockerfile, Escape, Instruction, Span, Stage, Word};
use super::directives;
use super::errors::{Error, ErrorKind};
use super::heredoc::Marker;
use super::join::{Joiner, SOURCE_MAX};
use flags::Flags;

pub use reference::{Reference, culprit, references};
pub use statement::{Arguments, Flag, Statement};

/// Most errors of one run. Further ones mostly follow from these.
pub const ERRORS_MAX: usize = 20;

/// A file as its lines say, before its instructions are asked for a meaning.
#[derive(Debug, Default)]
pub struct Syntax {
    /// The escape character in force.
    pub escape: Escape,
    /// Directives.
    pub directives: Vec<Directive>,
    /// Instructions in order, without those that could not be taken apart.
    pub statements: Vec<Statement>,
    /// As [`Dockerfile::empty_continuations`].
    pub empty_continuations: Vec<(Span, u32)>,
    /// What could not be taken apart, in order.
    pub errors: Vec<Error>,
}

/// What chooses the frontend of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend {
    /// Its `# syntax=`, where it has one.
    OfFile,
    /// Something else, so that its `# syntax=` is a comment: `BUILDKIT_SYNTAX`.
    Given,
}

/// Reads the lines of a file.
pub fn syntax(source: &[u8]) -> Syntax {
    syntax_for(source, Frontend::OfFile)
}

fn syntax_for(source: &[u8], frontend: Frontend) -> Syntax {
    let mut syntax = Syntax::default();
    if source.len() > SOURCE_MAX {
        let message = format!("dockerfile greater than max allowed size of {SOURCE_MAX}");
        syntax.errors.push(Error::new(ErrorKind::Limit, message, Span::default(), 0));
        return syntax;
    }
    let head = match directives::read(source, frontend) {
        Ok(head) => head,
        Err(error) => {
            syntax.errors.push(error);
            return syntax;
        }
    };
    syntax.escape = head.escape;
    syntax.directives = head.directives;
    let mut joiner = Joiner::new(source, syntax.escape);
    for _ in 0..head.lines {
        joiner.line();
    }
    while syntax.errors.len() < ERRORS_MAX
        && let Some(logical) = joiner.instruction()
    {
        if let Some(span) = logical.empty_line {
            syntax.empty_continuations.push((span, logical.lines.last));
        }
        match Statement::parse(&logical, syntax.escape) {
            Ok(mut statement) => match statement.read_heredocs(&logical.text, &mut joiner) {
                Ok(()) => syntax.statements.push(statement),
                Err(error) => syntax.errors.push(error),
            },
            Err(error) => syntax.errors.push(error),
        }
    }
    syntax.errors.extend(joiner.fault());
    if syntax.statements.is_empty() && syntax.errors.is_empty() {
        let message = "file with no instructions";
        syntax.errors.push(Error::new(ErrorKind::Empty, message, Span::default(), 0));
    }
    syntax
}

impl Statement {
    /// Reads the bodies that its markers announce.
    fn read_heredocs(&mut self, line: &str, joiner: &mut Joiner<'_>) -> Result<(), Error> {
        if !self.may_have_heredocs() || !line.contains("<<") {
            return Ok(());
        }
        let markers = Marker::find(line).map_err(|error| {
            Error::new(ErrorKind::Heredoc, error.to_string(), self.span, self.lines.first)
        })?;
        for marker in markers {
            let name = marker.name.clone();
            let heredoc = marker.body(joiner).ok_or_else(|| {
                let message = "unterminated heredoc";
                Error::new(ErrorKind::Heredoc, message, self.span, self.lines.first)
                    .with_label(format!("no line behind it is just {name:?}"))
            })?;
            self.heredocs.push(heredoc);
            self.lines.last = joiner.lines_read();
        }
        Ok(())
    }

    fn may_have_heredocs(&self) -> bool {
        let own = match &self.arguments {
            Arguments::Trigger(trigger) => trigger,
            _ => self,
        };
        matches!(own.name, Some("ADD" | "COPY" | "RUN")) && !own.arguments.is_json()
    }
}

/// Reads what the statements of a file mean.
pub fn assemble(syntax: Syntax) -> (Dockerfile, Vec<Error>) {
    let mut file = Dockerfile {
        escape: syntax.escape,
        directives: syntax.directives,
        empty_continuations: syntax.empty_continuations,
        ..Dockerfile::default()
    };
    let mut errors = Vec::new();
    let mut was_unknown = false;
    // A FROM that failed, or an instruction that wants one: what follows has no place to go.
    let mut is_lost = !syntax.errors.is_empty();
    for statement in syntax.statements {
        if errors.len() >= ERRORS_MAX {
            break;
        }
        if statement.name == Some("FROM") {
            match statement.stage() {
                Ok(stage) => file.stages.push(stage),
                Err(error) => {
                    is_lost = true;
                    errors.push(error);
                }
            }
            was_unknown = false;
            continue;
        }
        match statement.instruction() {
            Err(error) => {
                let is_unknown = error.kind == ErrorKind::UnknownInstruction;
                if !(is_unknown && was_unknown) {
                    errors.push(error);
                }
                was_unknown = is_unknown;
                continue;
            }
            Ok(instruction) => match file.stages.last_mut() {
                Some(stage) => stage.instructions.push(instruction),
                None if matches!(instruction.command, Command::Arg(_)) => {
                    file.global_args.push(instruction);
                }
                None if is_lost => {}
                None => {
                    is_lost = true;
                    errors.push(outside(&instruction));
                }
            },
        }
        was_unknown = false;
    }
    (file, errors)
}

fn outside(instruction: &Instruction) -> Error {
    let origin = &instruction.origin;
    Error::new(
        ErrorKind::OutsideStage,
        "no build stage in current context",
        origin.keyword.span,
        origin.lines.first,
    )
    .with_label("expected FROM first")
}

/// Parses a file.
///
/// # Errors
///
/// Everything that is wrong with it on its own, in source order, [`ERRORS_MAX`]
/// at most; never empty.
pub fn parse(source: &[u8]) -> Result<Dockerfile, Vec<Error>> {
    parse_for(source, Frontend::OfFile)
}

/// As [`parse`], of a file whose `# syntax=` may not be what chooses the frontend.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_for(source: &[u8], frontend: Frontend) -> Result<Dockerfile, Vec<Error>> {
    let mut syntax = syntax_for(source, frontend);
    let mut errors = std::mem::take(&mut syntax.errors);
    let had_errors = !errors.is_empty();
    let (file, more) = assemble(Syntax { errors: errors.clone(), ..syntax });
    errors.extend(more);
    if errors.is_empty() && file.stages.is_empty() {
        let message = "dockerfile contains no stages to build";
        errors.push(
            Error::new(ErrorKind::Empty, message, Span::default(), 0)
                .with_hint("begin a stage: FROM scratch"),
        );
    }
    if errors.is_empty() {
        return Ok(file);
    }
    if had_errors {
        errors.sort_by_key(|error| error.span.start);
    }
    errors.truncate(ERRORS_MAX);
    Err(errors)
}

/// Parses a text that is to be one instruction: an ONBUILD trigger.
///
/// # Errors
///
/// What is wrong with it; the place is in `text`.
pub fn parse_instruction(text: &str) -> Result<Instruction, Error> {
    let mut syntax = syntax(text.as_bytes());
    if let Some(error) = syntax.errors.pop() {
        return Err(error);
    }
    match syntax.statements.as_slice() {
        [statement] => statement.instruction(),
        _ => Err(Error::new(
            ErrorKind::Arguments,
            "onbuild trigger should be a single expression",
            Span::default(),
            0,
        )),
    }
}

impl Statement {
    /// Reads a FROM.
    fn stage(&self) -> Result<Stage, Error> {
        let words = match &self.arguments {
            Arguments::List(words) => words.as_slice(),
            _ => &[],
        };
        let (base, alias) = match words {
            [base] => (base, None),
            [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
                (base, Some((keyword, name)))
            }
            _ => return Err(self.wrong_from(words)),
        };
        let name = match alias {
            Some((_, typed)) => Some(self.stage_name(typed)?),
            None => None,
        };
        let flags = Flags::check(self)?;
        Ok(Stage {
            base: base.clone(),
            name,
            as_keyword: alias.map(|(keyword, _)| keyword.clone()),
            name_as_typed: alias.map(|(_, name)| name.text.clone()),
            platform: flags.value("platform").cloned(),
            from: self.origin(),
            instructions: Vec::new(),
        })
    }

    fn stage_name(&self, typed: &Word) -> Result<Word, Error> {
        let text = typed.text.to_lowercase();
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(is_inner) {
            return Ok(Word { text, span: typed.span });
        }
        let message = format!(
            "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
            typed.text
        );
        Err(self
            .error_at(typed.span, message)
            .with_label("expected letters, digits, `-`, `_`, `.`"))
    }

    fn wrong_from(&self, words: &[Word]) -> Error {
        let message = "FROM requires either one or three arguments";
        let error = match words {
            [_, second, ..] => {
                let last = words.last().unwrap_or(second);
                self.error_at(second.span.join(last.span), message)
                    .with_label("expected AS and a name")
            }
            _ => self.error(message),
        };
        error.with_hint("write FROM IMAGE [AS NAME]")
    }
}
