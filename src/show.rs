//! Text from outside made fit to be shown to people.
//!
//! Names of files and images, fields of configurations, answers of registries and messages of git
//! are chosen by others. Whatever of them is printed as text goes through [`text`] (or, for logs of
//! commands, through [`clean_line`](crate::progress::clean_line)), which shows it best in its
//! place. What is written to stdout passes a [`Guard`] besides, so that a text which was forgotten
//! does no harm. Addresses are shown without the credentials in them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Replacement for a hidden part.
pub const HIDDEN: &str = "***";

/// Says whether a character can change more of a terminal than the cell it is printed to, or the
/// order in which text is read.
pub(crate) fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Zero-width spaces (joiners belong to words and emoji), marks of direction, separators
            // of lines and paragraphs, embeddings and overrides; isolates and other invisible
            // characters; byte order mark; interlinear marks.
            | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            // Tags, which are invisible.
            | '\u{e0000}'..='\u{e007f}')
}

fn push_escaped(out: &mut String, c: char) {
    // Writing to a string does not fail.
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if u32::from(c) < 0x100 => write!(out, "\\x{:02x}", u32::from(c)),
        c => write!(out, "\\u{{{:x}}}", u32::from(c)),
    };
}

fn escape(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_changed = |c: char| is_active(c) && !is_kept(c);
    let Some(first) = text.find(is_changed) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(&text[..first]);
    for c in text[first..].chars() {
        if is_changed(c) {
            push_escaped(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Escapes text of one line: control characters as `\n`, `\x1b`, characters that reorder or hide
/// text as `\u{202e}`. The result contains no line break.
pub fn text(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// As [`text`] for text of several lines: line feeds and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

/// As [`text`] for bytes: those that are not UTF-8 become `\xff`.
pub fn bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&text(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// As [`lines`], with each escaped character replaced by as many bytes as it had, so that places in
/// the text stay valid. Credentials in addresses are replaced by asterisks.
pub fn in_place(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // The last line's end may be `\r\n`, which renderers know.
        if is_active(c) && !matches!(c, '\n' | '\t' | '\r') {
            match c.len_utf8() {
                // As wide in bytes as what it replaces.
                3 => out.push('\u{fffd}'),
                length => (0..length).for_each(|_| out.push('?')),
            }
        } else {
            out.push(c);
        }
    }
    for (start, end) in userinfos(text) {
        out.replace_range(start..end, &"*".repeat(end - start));
    }
    out
}

/// The places of user names and passwords in the addresses of a text, without the `@`.
fn userinfos(text: &str) -> Vec<(usize, usize)> {
    const MARK: &str = "://";
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(MARK) {
        let scheme_end = from + at;
        let start = scheme_end + MARK.len();
        let end = text[start..]
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\''))
            .map_or(text.len(), |length| start + length);
        if let Some(at) = text[start..end].rfind('@') {
            // The user of ssh is a part of the address, and not a secret.
            let user = &text[start..start + at];
            if !text[..scheme_end].ends_with("ssh") || user.contains(':') {
                found.push((start, start + at));
            }
        }
        from = start;
    }
    found
}

/// Hides the user names and passwords in the addresses of a text.
pub fn addresses(text: &str) -> Cow<'_, str> {
    let found = userinfos(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut kept = 0;
    for (start, end) in found {
        out.push_str(&text[kept..start]);
        out.push_str(HIDDEN);
        kept = end;
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

/// Most bytes of an unfinished line that a [`Guard`] holds back.
const HELD_MAX: usize = 64 * 1024;

/// A writer of text that lets nothing through which could steer a terminal.
///
/// Active characters other than line feeds and tabs become the escapes of JSON (`\u001b`), so that
/// a JSON document stays the same document; bytes that are not UTF-8 become U+FFFD. Colours
/// (`ESC [ … m`) pass where they are asked for. Whole lines are passed on at once;
/// [`flush`](Write::flush) and dropping pass on the rest.
pub struct Guard<W: Write> {
    out: W,
    is_coloured: bool,
    held: Vec<u8>,
}

impl<W: Write> Guard<W> {
    /// Guards `out`; colours pass where `is_coloured`.
    pub fn new(out: W, is_coloured: bool) -> Self {
        Self { out, is_coloured, held: Vec::new() }
    }

    /// Passes on the first `count` of the bytes held.
    fn pass(&mut self, count: usize) -> io::Result<()> {
        let text: Vec<u8> = self.held.drain(..count).collect();
        let text = String::from_utf8_lossy(&text);
        self.out.write_all(harmless(&text, self.is_coloured).as_bytes())
    }
}

impl<W: Write> Write for Guard<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.held.len();
        self.held.extend_from_slice(bytes);
        // What is held has no line feed, and a document without any comes in very small pieces.
        match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => self.pass(before + end + 1)?,
            None if self.held.len() > HELD_MAX => {
                // A character or an escape sequence is not cut in two.
                let end = self.held.iter().rposition(|&b| b == 0x1b || b >= 0xc0);
                self.pass(end.filter(|&end| end > 0).unwrap_or(self.held.len()))?;
            }
            None => {}
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass(self.held.len())?;
        self.out.flush()
    }
}

impl<W: Write> Drop for Guard<W> {
    fn drop(&mut self) {
        // A caller that must know of errors flushes.
        let _ = self.flush();
    }
}

/// Replaces active characters by the escapes of JSON, but for line feeds, tabs and, where asked
/// for, colours.
pub fn harmless(text: &str, is_coloured: bool) -> Cow<'_, str> {
    let is_unwanted = |c: char| is_active(c) && !matches!(c, '\n' | '\t');
    if !text.contains(is_unwanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if is_coloured && let Some(length) = colour_length(rest) {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        if is_unwanted(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(out)
}

/// The length in bytes of the sequence that sets a colour or weight (`ESC [ 1 ; 31 m`) with which
/// text begins.
fn colour_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(text.len() - parameters.len() + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_is_a_command_to_the_terminal() {
        const CASES: &[(&str, &str)] = &[
            ("plain ä 日本", "plain ä 日本"),
            ("\x1b[2J", "\\x1b[2J"),
            ("\x1b]52;c;eA==\x07", "\\x1b]52;c;eA==\\x07"),
            ("\u{9b}31m", "\\x9b31m"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("abc\u{202e}def\u{2066}\u{200b}", "abc\\u{202e}def\\u{2066}\\u{200b}"),
            ("\0\x7f", "\\x00\\x7f"),
        ];
        for (raw, shown) in CASES {
            assert_eq!(text(raw), *shown);
        }
        assert_eq!(bytes(b"a\xffb\x1b"), "a\\xffb\\x1b");
        assert_eq!(lines("a\n\tb\x1b"), "a\n\tb\\x1b");
    }

    #[test]
    fn a_guard_passes_nothing_but_text_and_wanted_colours() {
        let passed = |pieces: &[&[u8]], is_coloured| {
            let mut out = Vec::new();
            let mut guard = Guard::new(&mut out, is_coloured);
            for piece in pieces {
                guard.write_all(piece).unwrap();
            }
            drop(guard);
            String::from_utf8(out).unwrap()
        };
        const RED: &[u8] = b"\x1b[1;31mred\x1b[0m";
        assert_eq!(passed(&[RED], true), "\x1b[1;31mred\x1b[0m");
        assert_eq!(passed(&[RED], false), "\\u001b[1;31mred\\u001b[0m");
        assert_eq!(
            passed(&[b"\x1b", b"[", b"3", b"2m", b"x\n\x1b[2", b"J"], true),
            "\x1b[32mx\n\\u001b[2J"
        );
        assert_eq!(
            passed(&[b"\xc2", b"\x9b1m \xe2\x80", b"\xae\xff\r\n\t"], true),
            "\\u009b1m \\u202e\u{fffd}\\u000d\n\t"
        );
        let long = "ä".repeat(HELD_MAX);
        assert_eq!(
            passed(&[long.as_bytes(), b"\x1b]0;t\x07"], true),
            format!("{long}\\u001b]0;t\\u0007")
        );
        // A JSON document stays the same.
        let value = serde_json::json!({"a": "\u{9b}\u{202e}\u{e0001}\x1b\n"});
        let text = passed(&[value.to_string().as_bytes()], false);
        assert!(!text.contains(is_active), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn text_escaped_in_place_keeps_its_length() {
        for raw in
            ["a\x1bb", "\u{9b}x", "x\u{202e}y", "\u{e0001}", "ADD https://u:p\u{e4}@h/x /\r\n"]
        {
            let shown = in_place(raw);
            assert_eq!(shown.len(), raw.len(), "{raw:?}");
            assert!(!shown.contains(|c: char| is_active(c) && !"\r\n".contains(c)), "{shown:?}");
        }
        assert_eq!(in_place("ADD https://u:p@h/x"), "ADD https://***@h/x");
    }

    #[test]
    fn credentials_in_addresses_are_hidden() {
        const CASES: &[(&str, &str)] = &[
            ("git clone https://u:p@h/x y", "git clone https://***@h/x y"),
            ("https://tok@h https://h/a@b", "https://***@h https://h/a@b"),
            ("ADD https://a:b@c@d/x /", "ADD https://***@d/x /"),
            ("ssh://git@h/r ssh://git:p@h/r", "ssh://git@h/r ssh://***@h/r"),
            ("no address user@host:path", "no address user@host:path"),
            ("://", "://"),
        ];
        for (text, expected) in CASES {
            assert_eq!(addresses(text), *expected);
        }
    }
}
