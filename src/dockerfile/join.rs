//! Lines to instructions: continuations joined, comments and empty lines taken
//! out, with a map from the joined text back to the file.
//!
//! In: the bytes of a Dockerfile. Out, one after the other, a [`Logical`] line
//! for each instruction and, when asked for, the body of a heredoc. Reading is
//! lazy because only the caller knows whether an instruction may have heredocs.
//!
//! # Invariants
//!
//! - Spans are of the bytes as given, byte-order mark and all.
//! - Bytes that are not UTF-8 are U+FFFD in joined text, one for each byte, as
//!   Go reads them; heredoc bodies keep them.
//! - Each byte of the file is looked at a bounded number of times.
//!
//! # Not here
//!
//! What a line says: [`super::parse`]. Directives: [`super::directives`].
//!
//! Source: moby/buildkit frontend/dockerfile/parser, of August 2026.

use std::ops::Range;

use super::ast::{Escape, Lines, Span};
use super::errors::{Error, ErrorKind};

/// Longest line, in bytes, its line break included: the buffer of Go's line
/// scanner, so that no file builds here and fails with Docker.
pub(super) const LINE_MAX: usize = 64 * 1024;

/// Longest Dockerfile, in bytes. BuildKit's frontend gets its file in one
/// message, which may not be longer.
pub(super) const SOURCE_MAX: usize = 16 * 1024 * 1024;

/// A stretch of joined text that stands in the file as it is.
#[derive(Debug, Clone, Copy)]
struct Piece {
    text: usize,
    source: usize,
    /// Bytes in the file: as many as in the text, or one for a U+FFFD.
    len: usize,
}

/// From joined text to the file.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceMap(Vec<Piece>);

impl SourceMap {
    /// The span in the file of a range of the text. A range over a continuation
    /// spans from its first to its last byte.
    pub(super) fn span(&self, range: Range<usize>) -> Span {
        let start = self.at(range.start, |piece| piece.text <= range.start);
        let end = if range.is_empty() {
            start
        } else {
            self.at(range.end, |piece| piece.text < range.end)
        };
        Span { start, end: end.max(start) }
    }

    fn at(&self, text: usize, is_before: impl Fn(&Piece) -> bool) -> usize {
        let index = self.0.partition_point(is_before);
        match index.checked_sub(1).map(|last| self.0[last]) {
            Some(piece) => piece.source + (text - piece.text).min(piece.len),
            None => self.0.first().map_or(0, |piece| piece.source),
        }
    }
}

/// The lines of one instruction as one text.
#[derive(Debug, Clone, Default)]
pub(super) struct Logical {
    /// No white space in front; what stands at the end stays.
    pub(super) text: String,
    pub(super) map: SourceMap,
    /// Heredocs not included.
    pub(super) lines: Lines,
    /// First byte of the text, and one past the last.
    pub(super) span: Span,
    /// Comments above it.
    pub(super) comments: Vec<String>,
    /// The first empty line among its continuations.
    pub(super) empty_line: Option<Span>,
    /// First bytes that are not UTF-8.
    pub(super) invalid_utf8: Option<Span>,
}

impl Logical {
    /// Appends bytes that stand at `source` in the file.
    fn push(&mut self, bytes: &[u8], source: usize) {
        let mut source = source;
        for chunk in bytes.utf8_chunks() {
            let valid = chunk.valid();
            if !valid.is_empty() {
                self.map.0.push(Piece { text: self.text.len(), source, len: valid.len() });
                self.text.push_str(valid);
                source += valid.len();
            }
            let invalid = chunk.invalid().len();
            if invalid > 0 {
                self.invalid_utf8.get_or_insert(Span { start: source, end: source + invalid });
            }
            for _ in 0..invalid {
                self.map.0.push(Piece { text: self.text.len(), source, len: 1 });
                self.text.push(char::REPLACEMENT_CHARACTER);
                source += 1;
            }
        }
        self.span.end = source;
    }
}

/// One line of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// With its line break.
    pub(super) bytes: &'a [u8],
    /// Offset in the file.
    pub(super) start: usize,
    /// From 1.
    pub(super) number: u32,
}

impl<'a> Line<'a> {
    /// Without its line break.
    pub(super) fn content(&self) -> &'a [u8] {
        let end = self.bytes.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
        &self.bytes[..end.map_or(0, |last| last + 1)]
    }

    /// The text of a comment line. What stands in front of an indented `#` cuts
    /// off as many bytes as one, as in BuildKit: `  # a` is the comment `# a`.
    fn comment(self) -> Option<String> {
        let content = self.content();
        if trim_start(content).first() != Some(&b'#') {
            return None;
        }
        Some(String::from_utf8_lossy(&content[1..]).trim().to_owned())
    }
}

/// The byte-order mark that editors put in front of UTF-8.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Reads instructions one after the other.
#[derive(Debug)]
pub(super) struct Joiner<'a> {
    source: &'a [u8],
    at: usize,
    /// Lines read so far.
    read: u32,
    escape: u8,
    comments: Vec<String>,
    /// The line that is too long, which nothing behind is read of.
    too_long: Option<Span>,
}

impl<'a> Joiner<'a> {
    /// Starts in front of the first line. Directives, which are not comments, are
    /// the caller's to skip.
    pub(super) fn new(source: &'a [u8], escape: Escape) -> Self {
        Self {
            source,
            at: if source.starts_with(BOM) { BOM.len() } else { 0 },
            read: 0,
            escape: escape.as_char() as u8,
            comments: Vec::new(),
            too_long: None,
        }
    }

    /// How many lines have been read.
    pub(super) fn lines_read(&self) -> u32 {
        self.read
    }

    /// Reads a line.
    pub(super) fn line(&mut self) -> Option<Line<'a>> {
        let rest = &self.source[self.at..];
        if rest.is_empty() || self.too_long.is_some() {
            return None;
        }
        let window = &rest[..rest.len().min(LINE_MAX)];
        let length = match window.iter().position(|&b| b == b'\n') {
            Some(end) => end + 1,
            None if rest.len() < LINE_MAX => rest.len(),
            None => {
                self.too_long = Some(Span { start: self.at, end: self.at + 1 });
                return None;
            }
        };
        let start = self.at;
        self.at += length;
        self.read += 1;
        Some(Line { bytes: &rest[..length], start, number: self.read })
    }

    /// What ended the reading before the end of the file.
    pub(super) fn fault(&self) -> Option<Error> {
        self.too_long.map(|span| {
            let message =
                format!("dockerfile line greater than max allowed size of {}", LINE_MAX - 1);
            Error::new(ErrorKind::Limit, message, span, self.read + 1)
                .with_label("this line")
                .with_hint(format!(
                    "break it with {} at its end, or COPY the text from a file",
                    char::from(self.escape)
                ))
        })
    }

    /// Reads the next instruction.
    pub(super) fn instruction(&mut self) -> Option<Logical> {
        let first = loop {
            let line = self.line()?;
            if let Some(comment) = line.comment() {
                match comment {
                    text if text.is_empty() => self.comments.clear(),
                    text => self.comments.push(text),
                }
            } else if !trim_start(line.content()).is_empty() {
                break line;
            }
        };
        let content = trim_start(first.content());
        let start = first.start + first.content().len() - content.len();
        let mut logical = Logical {
            lines: Lines { first: first.number, last: first.number },
            span: Span { start, end: start },
            comments: std::mem::take(&mut self.comments),
            ..Logical::default()
        };
        let (content, mut is_continued) = self.cut_continuation(content);
        logical.push(content, start);
        while is_continued {
            let Some(line) = self.line() else { break };
            logical.lines.last = line.number;
            let content = line.content();
            match trim_start(content) {
                [b'#', ..] => {}
                [] => {
                    let span = Span { start: line.start, end: line.start + content.len() };
                    logical.empty_line.get_or_insert(span);
                }
                _ => {
                    let (content, more) = self.cut_continuation(content);
                    logical.push(content, line.start);
                    is_continued = more;
                }
            }
        }
        Some(logical)
    }

    /// Takes the escape character off the end of a line that goes on. Two of
    /// them do not continue, whatever stands before.
    fn cut_continuation<'b>(&self, line: &'b [u8]) -> (&'b [u8], bool) {
        let end = line.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |last| last + 1);
        match &line[..end] {
            [before @ .., last] if *last == self.escape && before.last() != Some(&self.escape) => {
                (before, true)
            }
            _ => (line, false),
        }
    }
}

/// Without white space in front, Unicode's included.
pub(super) fn trim_start(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    loop {
        match rest {
            [b'\t'..=b'\r' | b' ', after @ ..] => rest = after,
            [first, ..] if !first.is_ascii() => {
                // No more than one character, so that a line of them costs what it is long.
                let one = &rest[..rest.len().min(4)];
                let Some(c) = one.utf8_chunks().next().and_then(|c| c.valid().chars().next())
                else {
                    return rest;
                };
                if !c.is_whitespace() {
                    return rest;
                }
                rest = &rest[c.len_utf8()..];
            }
            _ => return rest,
        }
    }
}
