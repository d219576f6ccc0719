//! Here-documents: which markers stand on a line, and the bodies below it.
//!
//! # Not here
//!
//! Which instructions may have them: [`super::parse`]. What becomes of a body:
//! the plan room.
//!
//! Source: moby/buildkit frontend/dockerfile/parser, `ParseHeredoc`.

use super::ast::{Escape, Heredoc, Span};
use super::expand::{ExpandError, Lexer};
use super::join::Joiner;

/// `3<<-"EOF"`: what announces a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The delimiter without quotes.
    pub name: String,
    /// The delimiter was not quoted.
    pub expand: bool,
    /// `<<-`
    pub strip_tabs: bool,
    /// The number in front, 0 without one.
    pub fd: u64,
}

impl Marker {
    /// Reads a word that may be a marker.
    ///
    /// # Errors
    ///
    /// A delimiter with quotes that are not closed.
    pub fn parse(word: &str) -> Result<Option<Self>, ExpandError> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = &word[..word.len() - rest.len()];
        let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
        let (strip_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let is_blank = |c| matches!(c, '\t' | '\n' | '\x0C' | '\r' | ' ');
        let delimiter = rest.trim_start_matches(is_blank);
        if delimiter.is_empty() || delimiter.contains('<') {
            return Ok(None);
        }
        // The escape character of heredocs is `\` whatever the file's is.
        let mut lexer = Lexer::new(Escape::Backslash);
        lexer.skip_unset = true;
        let Ok([name]) = <[String; 1]>::try_from(lexer.process_words(delimiter, &|_| None)?) else {
            return Ok(None);
        };
        lexer.raw_quotes = true;
        let raw = lexer.process_words(delimiter, &|_| None)?.concat();
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        let expand = quotes(&name) == quotes(&raw);
        // Go reads 0 of a number that is none, and the greatest of one too great.
        let fd = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u64::MAX) };
        Ok(Some(Self { name, expand, strip_tabs, fd }))
    }

    /// Finds the markers of a joined line, in order.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub(super) fn find(line: &str) -> Result<Vec<Self>, ExpandError> {
        let mut lexer = Lexer::new(Escape::Backslash);
        lexer.raw_quotes = true;
        lexer.raw_escapes = true;
        lexer.skip_unset = true;
        // A line that cannot be split has no heredocs: it may be a shell's business.
        let words = lexer.process_words(line, &|_| None).unwrap_or_default();
        words.iter().filter_map(|word| Self::parse(word).transpose()).collect()
    }

    /// Reads the body; `None` where the file ends first.
    pub(super) fn body(self, joiner: &mut Joiner<'_>) -> Option<Heredoc> {
        let mut body = Vec::new();
        let mut first = None;
        loop {
            let line = joiner.line()?;
            let (start, number) = *first.get_or_insert((line.start, line.number));
            let mut content = line.content();
            if self.strip_tabs {
                content = skip_tabs(content);
            }
            if content == self.name.as_bytes() {
                let span = Span { start, end: line.start };
                let Self { name, expand, strip_tabs, fd } = self;
                return Some(Heredoc { name, body, expand, strip_tabs, fd, span, line: number });
            }
            body.extend_from_slice(line.bytes);
        }
    }
}

fn skip_tabs(line: &[u8]) -> &[u8] {
    &line[line.iter().take_while(|&&b| b == b'\t').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read_as_buildkit_reads_them() {
        for (word, want) in [
            ("<<EOF", Some(("EOF", true, false, 0))),
            ("3<<-'E F'", Some(("E F", false, true, 3))),
            ("<<\"a\"b", Some(("ab", false, false, 0))),
            ("<< \tEOF", Some(("EOF", true, false, 0))),
            ("<<\\EOF", Some(("EOF", true, false, 0))),
            ("<<$X", Some(("$X", true, false, 0))),
            ("<<<x", None),
            ("<<", None),
            ("<<a<b", None),
            ("a<<b", None),
            ("<a", None),
            ("<<a b", None),
        ] {
            let got = Marker::parse(word).unwrap();
            let got = got.as_ref().map(|m| (m.name.as_str(), m.expand, m.strip_tabs, m.fd));
            assert_eq!(got, want, "{word}");
        }
        assert!(Marker::parse("<<'a").is_err());
    }

    #[test]
    fn markers_of_a_line_come_in_order() {
        let names = |line| -> Vec<String> {
            Marker::find(line).unwrap().into_iter().map(|marker| marker.name).collect()
        };
        assert_eq!(names("RUN 3<<A cat <<-'B c' << D; x"), ["A", "B c", "D;"]);
        assert_eq!(names("RUN echo '<<A' \\<<B"), [""; 0]);
        assert_eq!(names("RUN it's <<A"), [""; 0]);
    }

    #[test]
    fn body_keeps_its_bytes_and_line_breaks() {
        let source = b"\tone\r\n\xFF\n\t EOF\n\tEOF\r\nnext";
        let mut joiner = Joiner::new(source, Escape::Backslash);
        let marker = Marker::parse("<<-EOF").unwrap().unwrap();
        let heredoc = marker.body(&mut joiner).unwrap();
        assert_eq!(heredoc.body, b"\tone\r\n\xFF\n\t EOF\n");
        assert_eq!(heredoc.content(), b"one\r\n\xFF\n EOF\n");
        assert_eq!((heredoc.span, heredoc.line), (Span { start: 0, end: 14 }, 1));
        assert_eq!(joiner.line().unwrap().bytes, b"next");
        assert!(Marker::parse("<<X").unwrap().unwrap().body(&mut joiner).is_none());
    }
}
