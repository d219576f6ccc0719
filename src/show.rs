//! Text from outside made fit to be shown to people.
//!
//! Names of files and images, fields of configurations, answers of registries and messages of git are
//! chosen by others. Whatever of them is printed as text goes through [`text`] (or, for logs of commands,
//! through [`clean_line`](crate::progress::clean_line)); JSON output is escaped by JSON. Addresses are
//! shown without the credentials in them.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Replacement for a hidden part.
pub const HIDDEN: &str = "***";

/// Says whether a character can change more of a terminal than the cell it is printed to, or the order in
/// which text is read.
pub(crate) fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Zero-width spaces (joiners belong to words and emoji), marks of direction, separators of lines and paragraphs, embeddings
            // and overrides; isolates and other invisible characters; byte order mark; interlinear marks.
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

/// Escapes text of one line: control characters as `\n`, `\x1b`, characters that reorder or hide text as
/// `\u{202e}`. The result contains no line break.
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

/// As [`lines`], with each escaped character replaced by as many bytes as it had, so that places in the
/// text stay valid. Credentials in addresses are replaced by asterisks.
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
