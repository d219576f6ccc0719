//! Logs made harmless: what a step prints must not steer the user's terminal.

/// Returns one line of a log as text that changes nothing but the cells it is printed to.
///
/// Escape sequences, control characters other than tab, and characters that reorder the line are
/// dropped; bytes that are no UTF-8 become U+FFFD. Of a line that overwrites itself with carriage
/// returns only the last version is kept, as a terminal shows it.
pub fn clean_line(line: &[u8]) -> String {
    let mut end = line.len();
    while end > 0 && line[end - 1] == b'\r' {
        end -= 1;
    }
    let start = line[..end].iter().rposition(|&b| b == b'\r').map_or(0, |i| i + 1);
    let text = String::from_utf8_lossy(&line[start..end]);
    if !text.chars().any(is_unwanted) {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                Some('[') => skip_csi(&mut chars),
                // OSC, DCS, SOS, PM, APC: a string up to its terminator.
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut chars),
                // Two-byte sequences with intermediates, as `ESC ( B`.
                Some(' '..='/') => {
                    while chars.next_if(|c| (' '..='/').contains(c)).is_some() {}
                    chars.next();
                }
                _ => {}
            },
            '\u{9b}' => skip_csi(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut chars),
            c if is_unwanted(c) => {}
            c => out.push(c),
        }
    }
    out
}

fn is_unwanted(c: char) -> bool {
    // Joiners are part of emoji and of many languages' words, and change nothing else.
    c != '\t' && !matches!(c, '\u{200c}' | '\u{200d}') && crate::show::is_active(c)
}

fn skip_csi(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    // Parameters and intermediates are 0x20–0x3f, the final byte 0x40–0x7e; anything else ends it.
    while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
    chars.next_if(|c| ('@'..='~').contains(c));
}

fn skip_string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while let Some(c) = chars.next() {
        match c {
            '\x07' | '\u{9c}' => return,
            '\x1b' => {
                chars.next_if(|c| *c == '\\');
                return;
            }
            _ => {}
        }
    }
}

/// Returns how many columns a character takes.
///
/// Good enough to cut lines: wide East Asian characters and emoji count two, combining marks none.
fn columns(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Cuts text, tabs made spaces, to at most `width` columns, marking a cut with `…`.
pub(super) fn fit(text: &str, width: usize) -> String {
    let text = text.replace('\t', "    ");
    let mut used = 0;
    for (i, c) in text.char_indices() {
        let wide = columns(c);
        if used + wide > width {
            // Step back until the mark fits.
            let mut kept = text[..i].to_owned();
            while used + 1 > width {
                match kept.pop() {
                    Some(c) => used -= columns(c),
                    None => return String::new(),
                }
            }
            kept.push('…');
            return kept;
        }
        used += wide;
    }
    text
}

/// Returns how many columns text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_log_reaches_the_terminal_as_a_command() {
        const CASES: &[(&[u8], &str)] = &[
            (b"plain \xc3\xa4\ttext", "plain ä\ttext"),
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"a\x1b[2J\x1b[1;1Hb", "ab"),
            (b"\x1b]0;title\x07x", "x"),
            (b"\x1b]8;;http://e\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1b(Bx\x1b)0y", "xy"),
            (b"\x1bPq#0\x1b\\z", "z"),
            (b"\xc2\x9b31mred", "red"),
            (b"bell\x07back\x08nul\x00del\x7f", "bellbacknuldel"),
            (b"10%\r50%\r100%\r", "100%"),
            (b"crlf\r", "crlf"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            ("abc\u{202e}def".as_bytes(), "abcdef"),
            (b"cut \x1b", "cut "),
            (b"cut \x1b[3", "cut "),
        ];
        for (raw, shown) in CASES {
            assert_eq!(clean_line(raw), *shown, "{raw:?}");
        }
    }

    #[test]
    fn lines_are_cut_by_columns_not_bytes() {
        assert_eq!(fit("äöü", 3), "äöü");
        assert_eq!(fit("äöüß", 3), "äö…");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("x", 0), "");
    }
}
