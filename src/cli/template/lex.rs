//! A template as text and actions, and an action as words.

use super::{Escapes, Mistake};
use crate::dockerfile::ast::Span;

/// A part of a template.
#[derive(Debug)]
pub(super) enum Item {
    /// Text, trimmed as the markers beside it say.
    Text(String),
    /// What stands between `{{` and `}}`.
    Action {
        /// Its words.
        tokens: Vec<Token>,
        /// The whole action.
        span: Span,
    },
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: TokenKind,
    /// Where it is.
    pub(super) span: Span,
    /// Whether a blank stands before it.
    pub(super) is_apart: bool,
}

/// What a word is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$` or `$name`, without the dollar sign.
    Variable(String),
    /// The name of a function, or a keyword.
    Word(String),
    /// A string.
    Text(String),
    /// A whole number.
    Int(i128),
    /// A number.
    Float(f64),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

/// Splits a template.
pub(super) fn items(source: &str, escapes: Escapes) -> Result<Vec<Item>, Mistake> {
    let mut items = Vec::new();
    let (mut at, mut trims) = (0, false);
    loop {
        let rest = &source[at..];
        let Some(open) = rest.find("{{") else {
            push_text(&mut items, rest, trims, false, escapes);
            return Ok(items);
        };
        let start = at + open;
        let mut inner = start + 2;
        let after = &source[inner..];
        let trims_left = after.strip_prefix('-').is_some_and(|rest| rest.starts_with(is_blank));
        push_text(&mut items, &rest[..open], trims, trims_left, escapes);
        if trims_left {
            inner += 1;
        }
        let is_comment = source[inner..].trim_start_matches(is_blank).starts_with("/*");
        let (tokens, end, trims_right) = match is_comment {
            true => comment(source, inner, start)?,
            false => action(source, inner, start)?,
        };
        (at, trims) = (end, trims_right);
        if !is_comment {
            items.push(Item::Action { tokens, span: Span { start, end } });
        }
    }
}

fn push_text(items: &mut Vec<Item>, text: &str, left: bool, right: bool, escapes: Escapes) {
    let text = if left { text.trim_start_matches(is_blank) } else { text };
    let text = if right { text.trim_end_matches(is_blank) } else { text };
    if !text.is_empty() {
        items.push(Item::Text(match escapes {
            Escapes::Kept => text.to_owned(),
            Escapes::Read => text.replace("\\t", "\t").replace("\\n", "\n"),
        }));
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Returns where an action ends that may end here, and whether it trims what follows.
fn end_of(rest: &str) -> Option<(usize, bool)> {
    if rest.starts_with("}}") {
        return Some((2, false));
    }
    let marked = rest.trim_start_matches(is_blank);
    let blanks = rest.len() - marked.len();
    (blanks > 0 && marked.starts_with("-}}")).then_some((blanks + 3, true))
}

type Read = (Vec<Token>, usize, bool);

fn comment(source: &str, inner: usize, start: usize) -> Result<Read, Mistake> {
    let wrong = |message: &str| Mistake::new(Span { start, end: start + 2 }, message);
    let close = source[inner..].find("*/").ok_or_else(|| wrong("the comment is not closed"))?;
    let at = inner + close + 2;
    let (length, trims) =
        end_of(&source[at..]).ok_or_else(|| wrong("a comment must fill its action"))?;
    Ok((Vec::new(), at + length, trims))
}

fn action(source: &str, inner: usize, start: usize) -> Result<Read, Mistake> {
    let (mut tokens, mut at) = (Vec::new(), inner);
    loop {
        let rest = &source[at..];
        if let Some((length, trims)) = end_of(rest) {
            return Ok((tokens, at + length, trims));
        }
        let word = rest.trim_start_matches(is_blank);
        let blanks = rest.len() - word.len();
        at += blanks;
        if word.is_empty() {
            let message = "the action is not closed: `}}` is missing";
            return Err(Mistake::new(Span { start, end: start + 2 }, message));
        }
        if blanks > 0 && end_of(word).is_some() {
            continue;
        }
        let (kind, length) = token(word, at)?;
        let span = Span { start: at, end: at + length };
        tokens.push(Token { kind, span, is_apart: blanks > 0 || at == inner });
        at += length;
    }
}

/// Reads the word at the beginning of `rest`.
fn token(rest: &str, at: usize) -> Result<(TokenKind, usize), Mistake> {
    let span = |length: usize| Span { start: at, end: at + length };
    let name_end = |from: usize| {
        let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
        rest[from..].find(|c| !is_of_name(c)).map_or(rest.len(), |end| from + end)
    };
    let first = rest.chars().next().unwrap_or_default();
    let next = rest[first.len_utf8()..].chars().next().unwrap_or_default();
    Ok(match first {
        '|' => (TokenKind::Pipe, 1),
        '(' => (TokenKind::Open, 1),
        ')' => (TokenKind::Close, 1),
        ',' => (TokenKind::Comma, 1),
        '=' => (TokenKind::Assign, 1),
        ':' if next == '=' => (TokenKind::Declare, 2),
        '"' => quoted(rest, at)?,
        '`' => {
            let close = rest[1..].find('`');
            let close = close.ok_or_else(|| Mistake::new(span(1), "the string is not closed"))?;
            (TokenKind::Text(rest[1..=close].to_owned()), close + 2)
        }
        '\'' => character(rest, at)?,
        '.' if next.is_alphabetic() || next == '_' => {
            let end = name_end(1);
            (TokenKind::Field(rest[1..end].to_owned()), end)
        }
        '.' if !next.is_ascii_digit() => (TokenKind::Dot, 1),
        '$' => {
            let end = name_end(1);
            (TokenKind::Variable(rest[1..end].to_owned()), end)
        }
        c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => number(rest, at)?,
        c if c.is_alphabetic() || c == '_' => {
            let end = name_end(0);
            (TokenKind::Word(rest[..end].to_owned()), end)
        }
        other => {
            let message = format!("{other:?} is not expected in an action");
            return Err(Mistake::new(span(other.len_utf8()), message));
        }
    })
}

fn quoted(rest: &str, at: usize) -> Result<(TokenKind, usize), Mistake> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((place, c)) = chars.next() {
        match c {
            '"' => return Ok((TokenKind::Text(text), place + 1)),
            '\n' => break,
            '\\' => text.push(escape(&mut chars, at + place)?),
            c => text.push(c),
        }
    }
    Err(Mistake::new(Span { start: at, end: at + 1 }, "the string is not closed"))
}

fn character(rest: &str, at: usize) -> Result<(TokenKind, usize), Mistake> {
    let wrong = || {
        let message = "a character constant has one character between single quotes";
        Mistake::new(Span { start: at, end: at + 1 }, message)
            .labelled(Some("a string has double quotes or backquotes".to_owned()))
    };
    let mut chars = rest.char_indices().skip(1);
    let value = match chars.next() {
        Some((place, '\\')) => escape(&mut chars, at + place)?,
        Some((_, c)) if c != '\'' && c != '\n' => c,
        _ => return Err(wrong()),
    };
    match chars.next() {
        Some((place, '\'')) => Ok((TokenKind::Int(i128::from(u32::from(value))), place + 1)),
        _ => Err(wrong()),
    }
}

/// Reads what follows a backslash that is at `at`.
fn escape(chars: &mut impl Iterator<Item = (usize, char)>, at: usize) -> Result<char, Mistake> {
    let wrong =
        || Mistake::new(Span { start: at, end: at + 1 }, "this escape sequence is not Go's");
    let (_, first) = chars.next().ok_or_else(wrong)?;
    let digits = match first {
        'a' => return Ok('\u{7}'),
        'b' => return Ok('\u{8}'),
        'f' => return Ok('\u{c}'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'v' => return Ok('\u{b}'),
        '\\' | '\'' | '"' => return Ok(first),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return Err(wrong()),
    };
    let text: String = chars.take(digits).map(|(_, c)| c).collect();
    let value = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits);
    value.and_then(char::from_u32).ok_or_else(wrong)
}

fn number(rest: &str, at: usize) -> Result<(TokenKind, usize), Mistake> {
    let is_of_number = |(place, c): (usize, char)| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || {
            let before = rest[..place].chars().last().unwrap_or(' ');
            matches!(c, '+' | '-') && (place == 0 || matches!(before, 'e' | 'E'))
        }
    };
    let end = rest.char_indices().find(|found| !is_of_number(*found));
    let end = end.map_or(rest.len(), |(place, _)| place);
    let text = rest[..end].replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let lower = digits.to_ascii_lowercase();
    let whole = match lower.get(..2) {
        Some("0x") => i128::from_str_radix(&lower[2..], 16),
        Some("0o") => i128::from_str_radix(&lower[2..], 8),
        Some("0b") => i128::from_str_radix(&lower[2..], 2),
        _ => lower.parse(),
    };
    let is_64_bits = |whole: &i128| i64::try_from(sign * whole).is_ok();
    if lower.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        if let Some(whole) = whole.ok().filter(is_64_bits) {
            return Ok((TokenKind::Int(sign * whole), end));
        }
        if let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite()) {
            return Ok((TokenKind::Float(number), end));
        }
    }
    Err(Mistake::new(Span { start: at, end: at + end.max(1) }, format!("{text:?} is not a number")))
}
