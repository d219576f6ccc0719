//! Go templates, as docker's `--format` takes them.
//!
//! The language of `text/template` over finite data: text, pipelines, variables, `if`, `with`,
//! `range`, `break`, `continue`, comments, trim markers, Go's functions and docker's (`json`,
//! `join`, `split`, `lower`, `upper`, `title`, `pad`, `truncate`). What is left out (`define`,
//! `template`, `block`, `call`, methods) is refused with its place.
//!
//! # Limits
//!
//! A template may come from a script that a stranger wrote. There is no recursion and no function
//! that reads files or the environment; nesting, work and output are bounded.
//!
//! # Not here
//!
//! What `--format` means to a list, with its headers: [`super::format`].
//!
//! Source: Go, packages `text/template` and `fmt`; docker/cli, `templates/templates.go`. The one
//! crate that reads this language had its last release in 2021, panics on some input and has no
//! limits.

mod eval;
mod functions;
mod lex;
mod parse;
mod print;
#[cfg(test)]
mod tests;
mod value;

pub(super) use value::{Kind, Value};

use super::failure::{Class, Failure};
use crate::dockerfile::ast::Span;
use crate::job::failure::excerpt_at;
use parse::Node;

/// Longest template, in bytes.
const TEMPLATE_MAX: usize = 64 * 1024;

/// How deep actions and parentheses may nest.
const NESTING_MAX: usize = 64;

/// The work that one execution may do: bytes that functions read and write, and [`NODE_COST`] for
/// each action. About a second.
const WORK_MAX: u64 = 1 << 28;

/// What one action counts as work.
const NODE_COST: u64 = 64;

/// Longest output, and longest text that a function makes, in bytes.
const TEXT_MAX: usize = 16 << 20;

/// What is wrong with a template, and where.
#[derive(Debug, Clone, thiserror::Error)]
#[error("template: {message}")]
pub struct TemplateError {
    /// The fact.
    message: String,
    /// What stands beside the place.
    label: Option<String>,
    /// The template.
    template: Box<str>,
    /// The bytes of it that are wrong.
    span: Span,
}

/// A mistake before it is known whose template it is in.
#[derive(Debug)]
struct Mistake {
    message: String,
    label: Option<String>,
    span: Span,
}

impl Mistake {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), label: None, span }
    }

    fn labelled(mut self, label: Option<String>) -> Self {
        self.label = label;
        self
    }
}

impl TemplateError {
    fn of(mistake: Mistake, source: &str) -> Self {
        let Mistake { message, label, span } = mistake;
        Self { message, label, template: source.into(), span }
    }

    /// Returns the failure to show, with the template and the place.
    pub(super) fn failure(&self) -> Failure {
        let mut failure = Failure::new(Class::Usage, self.to_string());
        // Of a very long template only its place is of use.
        if self.template.len() <= TEMPLATE_MAX {
            let label = self.label.clone();
            failure.excerpts.push(excerpt_at(self.span, "--format", &self.template, label));
        }
        failure
    }
}

/// How backslashes outside actions are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// As they stand: docker's `inspect`.
    Kept,
    /// `\t` and `\n` are a tab and a line end: docker's lists.
    Read,
}

/// A template that was parsed.
#[derive(Debug)]
pub(super) struct Template {
    source: Box<str>,
    nodes: Vec<Node>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] for the first mistake.
    pub(super) fn parse(source: &str, escapes: Escapes) -> Result<Self, TemplateError> {
        if source.len() > TEMPLATE_MAX {
            let message = format!("it is longer than {TEMPLATE_MAX} bytes");
            return Err(TemplateError::of(Mistake::new(Span::default(), message), source));
        }
        let nodes = lex::items(source, escapes)
            .and_then(parse::parse)
            .map_err(|mistake| TemplateError::of(mistake, source))?;
        Ok(Self { source: source.into(), nodes })
    }

    /// Checks that the fields that are taken of the data itself are among these. A list without
    /// rows would show no mistake otherwise.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] for the first that is not.
    pub(super) fn check_fields(&self, known: &[&str]) -> Result<(), TemplateError> {
        for (name, span) in parse::fields_of_root(&self.nodes) {
            if !known.contains(&name) {
                let mistake = value::unknown_field(span, name, known.iter().copied());
                return Err(TemplateError::of(mistake, &self.source));
            }
        }
        Ok(())
    }

    /// Returns the text for this data.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] for a field that is not there, a function that cannot do with what it is
    /// given, or too much work.
    pub(super) fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, functions::Mode::Data)
            .map_err(|mistake| TemplateError::of(mistake, &self.source))
    }

    /// Returns the line above a table, where `headers` has the titles of the fields; none where
    /// the template does more than show fields.
    pub(super) fn header(&self, headers: &Value) -> Option<String> {
        eval::render(&self.nodes, headers, functions::Mode::Header).ok()
    }
}
