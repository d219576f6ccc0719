//! One instruction taken apart, before it is checked:
//! keyword, flags, and the body in the form its keyword has.
//!
//! In: a joined line. Out: a [`Statement`], whose words know their places in
//! the file. What BuildKit's line parser refuses is refused here; unknown
//! keywords and flags are not.
//!
//! # Not here
//!
//! The grammar: `grammar/instruction.pest`. Meaning: [`super::instruction`].
//!
//! Source: moby/buildkit frontend/dockerfile/parser, of August 2026.

use pest::iterators::Pair;
use serde::de::IgnoredAny;

use super::grammar::{self, Refusal, Rule};
use crate::dockerfile::ast::{self, Escape, Heredoc, Span, Word};
use crate::dockerfile::errors::{Error, ErrorKind};
use crate::dockerfile::join::{Logical, SOURCE_MAX, SourceMap};

/// Deepest ONBUILD in ONBUILD that is looked into. Even one is an error; this
/// keeps a line of them from costing the square of its length.
const TRIGGER_DEPTH_MAX: usize = 4;

/// An instruction in its parts.
#[derive(Debug, Clone)]
pub struct Statement {
    /// As typed; empty on a line of continuations and nothing else.
    pub keyword: Word,
    /// The keyword in upper case; `None` where there is no such instruction.
    pub name: Option<&'static str>,
    /// `--name=value` words in front of the body.
    pub flags: Vec<Flag>,
    /// The body.
    pub arguments: Arguments,
    /// Heredocs in the order of their markers.
    pub heredocs: Vec<Heredoc>,
    /// The joined line as typed.
    pub original: String,
    /// From the keyword to the last byte, heredocs not included.
    pub span: Span,
    /// Its lines, heredocs included.
    pub lines: ast::Lines,
    /// Comments above it.
    pub comments: Vec<String>,
    /// First bytes that are not UTF-8.
    pub invalid_utf8: Option<Span>,
    /// Where a body that begins like an exec form stops being one.
    pub invalid_json: Option<Span>,
}

/// A flag with its quotes and escapes taken away.
#[derive(Debug, Clone)]
pub struct Flag {
    /// `--name=value`
    pub text: Word,
    /// `--name`
    pub name: Word,
    /// What stands behind the `=`.
    pub value: Option<Word>,
}

/// A body.
#[derive(Debug, Clone)]
pub enum Arguments {
    /// There is none.
    Nothing,
    /// An array of strings.
    Json(Vec<Word>),
    /// Words.
    List(Vec<Word>),
    /// All of it.
    Text(Word),
    /// `name=value` pairs, or one pair of the old form.
    Pairs(Vec<ast::Pair>),
    /// A word, and a text or an array behind it.
    Health {
        /// `CMD` or `NONE`.
        kind: Word,
        /// What stands behind it.
        command: Box<Arguments>,
    },
    /// An instruction.
    Trigger(Box<Statement>),
}

impl Arguments {
    /// Whether it is an exec form.
    pub fn is_json(&self) -> bool {
        match self {
            Self::Json(_) => true,
            Self::Health { command, .. } => command.is_json(),
            _ => false,
        }
    }

    /// All words one after the other, as BuildKit's tree has them.
    fn flat(&self) -> Vec<&str> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Json(words) | Self::List(words) => words.iter().map(Word::as_str).collect(),
            Self::Text(word) => vec![word.as_str()],
            Self::Pairs(pairs) => pairs
                .iter()
                .flat_map(|pair| {
                    let sign = if pair.is_legacy { "" } else { "=" };
                    [pair.name.as_str(), pair.value.as_str(), sign]
                })
                .collect(),
            Self::Health { kind, command } => {
                let mut words = vec![kind.as_str()];
                words.extend(command.flat());
                words
            }
            Self::Trigger(statement) => {
                let mut words = vec![statement.keyword.as_str()];
                words.extend(statement.flat());
                words
            }
        }
    }
}

impl Statement {
    /// The words of its body; an unknown instruction has one, and that empty.
    pub fn flat(&self) -> Vec<&str> {
        match self.name {
            Some(_) => self.arguments.flat(),
            None => vec![""],
        }
    }
}

/// A text with its place in the file.
#[derive(Clone, Copy)]
struct Located<'a> {
    text: &'a str,
    /// Offset of the text in the joined line.
    base: usize,
    map: &'a SourceMap,
    line: u32,
    escape: Escape,
}

impl Located<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        self.map.span(self.base + start..self.base + end)
    }

    fn word(&self, pair: &Pair<'_, Rule>) -> Word {
        let span = pair.as_span();
        Word { text: pair.as_str().to_owned(), span: self.span(span.start(), span.end()) }
    }

    fn error(&self, kind: ErrorKind, message: impl Into<String>, span: Span) -> Error {
        Error::new(kind, message, span, self.line)
    }
}

impl Statement {
    /// Takes a line apart.
    ///
    /// # Errors
    ///
    /// The first thing that no instruction could mean.
    pub(super) fn parse(logical: &Logical, escape: Escape) -> Result<Self, Error> {
        let text = Located {
            text: &logical.text,
            base: 0,
            map: &logical.map,
            line: logical.lines.first,
            escape,
        };
        let mut statement = Self::of(text, 0)?;
        statement.lines = logical.lines;
        statement.comments.clone_from(&logical.comments);
        statement.invalid_utf8 = logical.invalid_utf8;
        Ok(statement)
    }

    fn of(whole: Located<'_>, depth: usize) -> Result<Self, Error> {
        let trimmed = whole.text.trim();
        let front = whole.text.len() - whole.text.trim_start().len();
        let text = Located { text: trimmed, base: whole.base + front, ..whole };
        let span = text.span(0, trimmed.len());
        let pair = grammar::instruction(trimmed, text.escape).map_err(|refusal| match refusal {
            Refusal::Limit => {
                let message = format!("instruction too complex: files may have {SOURCE_MAX} bytes");
                text.error(ErrorKind::Limit, message, span)
            }
            Refusal::At(at) => text.error(
                ErrorKind::Arguments,
                "instruction cannot be read",
                text.span(at, trimmed.len()),
            ),
        })?;
        let pair = pair.into_inner().next().expect("an instruction has a rule");
        let rule = pair.as_rule();
        let mut statement = Self {
            keyword: Word::default(),
            name: name(rule),
            flags: Vec::new(),
            arguments: Arguments::Nothing,
            heredocs: Vec::new(),
            original: whole.text.to_owned(),
            span,
            lines: ast::Lines { first: text.line, last: text.line },
            comments: Vec::new(),
            invalid_utf8: None,
            invalid_json: None,
        };
        let mut body = Body { text, start: None, kind: None, form: Form::Nothing };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::keyword => statement.keyword = text.word(&part),
                Rule::flag => statement.flags.push(flag(text, &part)),
                _ => body.take(&part),
            }
        }
        statement.arguments = body.arguments(rule, &mut statement.invalid_json, depth)?;
        Ok(statement)
    }
}

/// The pairs of a body as they come.
struct Body<'a> {
    text: Located<'a>,
    /// Where it begins, a HEALTHCHECK's kind not counted.
    start: Option<usize>,
    kind: Option<Word>,
    form: Form,
}

enum Form {
    Nothing,
    Json(Vec<Word>),
    List(Vec<Word>),
    Text(Word),
}

impl Body<'_> {
    fn take(&mut self, part: &Pair<'_, Rule>) {
        if part.as_rule() == Rule::kind {
            self.kind = Some(self.text.word(part));
            return;
        }
        self.start.get_or_insert(part.as_span().start());
        match part.as_rule() {
            Rule::json => {
                let words = part.clone().into_inner().filter(|p| p.as_rule() == Rule::json_string);
                let words = words.map(|literal| Word {
                    text: json_string(literal.as_str()),
                    ..self.text.word(&literal)
                });
                self.form = Form::Json(words.collect());
            }
            Rule::text => self.form = Form::Text(self.text.word(part)),
            Rule::item | Rule::word => {
                let word = self.text.word(part);
                match &mut self.form {
                    Form::List(words) => words.push(word),
                    form => *form = Form::List(vec![word]),
                }
            }
            _ => {}
        }
    }

    fn arguments(
        self,
        rule: Rule,
        invalid_json: &mut Option<Span>,
        depth: usize,
    ) -> Result<Arguments, Error> {
        let text = self.text;
        let rest = self.start.map_or("", |start| &text.text[start..]);
        let may_be_json = !matches!(
            rule,
            Rule::arg
                | Rule::env
                | Rule::expose
                | Rule::from
                | Rule::label
                | Rule::maintainer
                | Rule::onbuild
                | Rule::stopsignal
                | Rule::user
                | Rule::workdir
        );
        if may_be_json && rest.starts_with('[') && !matches!(self.form, Form::Json(_)) {
            let start = self.start.unwrap_or_default();
            let at = start + grammar::json_fault(rest).unwrap_or_default();
            let end = text.text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
            let span = text.span(at, end);
            if serde_json::from_str::<IgnoredAny>(rest).is_ok() {
                let message =
                    "when using JSON array syntax, arrays must be comprised of strings only";
                return Err(text.error(ErrorKind::Json, message, span).with_label("not a string"));
            }
            *invalid_json = Some(span);
        }
        Ok(match (rule, self.form) {
            (Rule::env | Rule::label, Form::List(words)) => {
                Arguments::Pairs(pairs(text, rule, rest, words)?)
            }
            (Rule::onbuild, Form::Text(_)) => {
                let base = text.base + self.start.unwrap_or_default();
                let trigger = Located { text: rest, base, ..text };
                if depth == TRIGGER_DEPTH_MAX {
                    let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
                    let span = trigger.span(0, rest.len());
                    return Err(text.error(ErrorKind::Arguments, message, span));
                }
                Arguments::Trigger(Box::new(Statement::of(trigger, depth + 1)?))
            }
            (Rule::healthcheck, form) => match self.kind {
                Some(kind) => Arguments::Health { kind, command: Box::new(form.into()) },
                None => Arguments::Nothing,
            },
            (_, form) => form.into(),
        })
    }
}

impl From<Form> for Arguments {
    fn from(form: Form) -> Self {
        match form {
            Form::Nothing => Self::Nothing,
            Form::Json(words) => Self::Json(words),
            Form::List(words) => Self::List(words),
            Form::Text(word) => Self::Text(word),
        }
    }
}

fn name(rule: Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::add => "ADD",
        Rule::arg => "ARG",
        Rule::cmd => "CMD",
        Rule::copy => "COPY",
        Rule::entrypoint => "ENTRYPOINT",
        Rule::env => "ENV",
        Rule::expose => "EXPOSE",
        Rule::from => "FROM",
        Rule::healthcheck => "HEALTHCHECK",
        Rule::label => "LABEL",
        Rule::maintainer => "MAINTAINER",
        Rule::onbuild => "ONBUILD",
        Rule::run => "RUN",
        Rule::shell => "SHELL",
        Rule::stopsignal => "STOPSIGNAL",
        Rule::user => "USER",
        Rule::volume => "VOLUME",
        Rule::workdir => "WORKDIR",
        _ => return None,
    })
}

/// Names and values of ENV and LABEL. The first word decides which form it is.
fn pairs(
    text: Located<'_>,
    rule: Rule,
    rest: &str,
    words: Vec<Word>,
) -> Result<Vec<ast::Pair>, Error> {
    let name = name(rule).unwrap_or_default();
    let start = text.text.len() - rest.len();
    if !words.first().is_some_and(|word| word.text.contains('=')) {
        let is_blank = |c| matches!(c, '\t' | '\x0B' | '\x0C' | '\r' | ' ');
        let Some(end) = rest.find(is_blank) else {
            let span = text.span(start, text.text.len());
            return Err(text
                .error(ErrorKind::Arguments, format!("{name} must have two arguments"), span)
                .with_label("a name without a value")
                .with_hint(format!("write {name} {rest}=value")));
        };
        let value = rest[end..].trim_start_matches(is_blank);
        let value_start = text.text.len() - value.len();
        return Ok(vec![ast::Pair {
            name: Word { text: rest[..end].to_owned(), span: text.span(start, start + end) },
            value: Word { text: value.to_owned(), span: text.span(value_start, text.text.len()) },
            is_legacy: true,
        }]);
    }
    words
        .into_iter()
        .map(|word| match word.text.split_once('=') {
            Some((name, value)) => Ok(ast::Pair {
                name: word.part(0..name.len()),
                value: word.part(word.text.len() - value.len()..word.text.len()),
                is_legacy: false,
            }),
            None => {
                let message = format!(
                    "Syntax error - can't find = in {:?}. Must be of the form: name=value",
                    word.text
                );
                let error = text.error(ErrorKind::Arguments, message, word.span);
                Err(error.with_hint(format!("quote values with spaces: {name} name=\"a value\"")))
            }
        })
        .collect()
}

fn flag(text: Located<'_>, pair: &Pair<'_, Rule>) -> Flag {
    let raw = pair.as_str();
    let whole = text.word(pair);
    let plain = unquote(raw, text.escape);
    let Some((name, value)) = plain.split_once('=') else {
        let word = Word { text: plain, span: whole.span };
        return Flag { text: word.clone(), name: word, value: None };
    };
    // Quotes and escapes are never `=`, so the first in each is the same.
    let sign = pair.as_span().start() + raw.find('=').unwrap_or(raw.len());
    let name_span = text.span(pair.as_span().start(), sign);
    // A value that is quoted as a whole is pointed at without its quotes.
    let raw_value = raw.split_once('=').map_or("", |(_, value)| value);
    let is_quoted =
        raw_value.len() == value.len() + 2 && raw_value.get(1..1 + value.len()) == Some(value);
    let inset = usize::from(is_quoted);
    let value_span = text.span(sign + 1 + inset, pair.as_span().end() - inset);
    Flag {
        name: Word { text: name.to_owned(), span: name_span },
        value: Some(Word { text: value.to_owned(), span: value_span }),
        text: Word { text: plain, span: whole.span },
    }
}

/// Takes quotes and escapes off a flag. The escape character escapes anything,
/// in either kind of quotes.
fn unquote(raw: &str, escape: Escape) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut quote = None;
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, _) if c == escape.as_char() => out.extend(chars.next()),
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (c, _) => out.push(c),
        }
    }
    out
}

/// The value of a string literal; a surrogate without its other half is U+FFFD,
/// as in Go.
fn json_string(literal: &str) -> String {
    let inner = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut chars = after.chars();
        let Some(escaped) = chars.next() else { break };
        rest = chars.as_str();
        out.push(match escaped {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit =
                    |text: &str| text.get(..4).and_then(|hex| u16::from_str_radix(hex, 16).ok());
                let first = unit(rest).unwrap_or_default();
                rest = rest.get(4..).unwrap_or_default();
                let second = rest.strip_prefix("\\u").and_then(unit);
                match char::decode_utf16([first].into_iter().chain(second)).next() {
                    Some(Ok(c)) => {
                        if c.len_utf16() == 2 {
                            rest = &rest[6..];
                        }
                        c
                    }
                    _ => char::REPLACEMENT_CHARACTER,
                }
            }
            other => other,
        });
    }
    out.push_str(rest);
    out
}
