//! Wildcards in COPY sources: the language of Go's `path.Match`.
//!
//! `*` and `?` never cross a slash, `[a-c]` and `[^a-c]` are classes, a backslash takes the next
//! character as it is. A malformed pattern is an error even where a shorter one would have failed
//! to match.
//!
//! Source: Go, package path/filepath, `Match`.

/// A pattern that is not a pattern, such as `[a` or one that ends in a backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Char(char),
    /// A byte that is not a part of a UTF-8 character; stands for itself.
    Byte(u8),
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wildcard(Vec<Token>);

/// Takes the first character; a byte that starts none is returned as `Err`.
fn take(text: &[u8]) -> Option<(Result<char, u8>, &[u8])> {
    let first = *text.first()?;
    let width = match first {
        0..0x80 => return Some((Ok(char::from(first)), &text[1..])),
        0xC2..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0..0xF5 => 4,
        _ => 0,
    };
    let parsed = text.get(..width).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match parsed.and_then(|text| text.chars().next()) {
        Some(character) => Some((Ok(character), &text[width..])),
        None => Some((Err(first), &text[1..])),
    }
}

/// Takes one character of a class, which may be escaped.
fn take_in_class(text: &[u8]) -> Result<(char, &[u8]), Malformed> {
    let text = match text.first() {
        None | Some(b'-' | b']') => return Err(Malformed),
        Some(b'\\') => &text[1..],
        Some(_) => text,
    };
    match take(text) {
        Some((Ok(character), rest)) if !rest.is_empty() => Ok((character, rest)),
        _ => Err(Malformed),
    }
}

impl Wildcard {
    pub(super) fn parse(mut text: &[u8]) -> Result<Self, Malformed> {
        let mut tokens = Vec::new();
        while let Some((first, rest)) = take(text) {
            text = rest;
            tokens.push(match first {
                Ok('*') => {
                    if tokens.last() == Some(&Token::Star) {
                        continue;
                    }
                    Token::Star
                }
                Ok('?') => Token::Any,
                Ok('\\') => {
                    let (next, rest) = take(text).ok_or(Malformed)?;
                    text = rest;
                    next.map_or_else(Token::Byte, Token::Char)
                }
                Ok('[') => {
                    let is_negated = text.first() == Some(&b'^');
                    if is_negated {
                        text = &text[1..];
                    }
                    let mut ranges = Vec::new();
                    loop {
                        if text.first() == Some(&b']') && !ranges.is_empty() {
                            text = &text[1..];
                            break;
                        }
                        let (low, rest) = take_in_class(text)?;
                        text = rest;
                        let mut high = low;
                        if text.first() == Some(&b'-') {
                            (high, text) = take_in_class(&text[1..])?;
                        }
                        ranges.push((low, high));
                    }
                    Token::Class { is_negated, ranges }
                }
                Ok(character) => Token::Char(character),
                Err(byte) => Token::Byte(byte),
            });
        }
        Ok(Self(tokens))
    }

    /// Says whether the whole of `name` matches.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let tokens = &self.0;
        let (mut at, mut rest) = (0, name);
        // Where to go on when what follows the last star does not fit: one character further.
        let mut retry: Option<(usize, &[u8])> = None;
        loop {
            if at == tokens.len() {
                if rest.is_empty() {
                    return true;
                }
            } else if tokens[at] == Token::Star {
                retry = Some((at + 1, rest));
                at += 1;
                continue;
            } else if let Some((got, after)) = take(rest)
                && tokens[at].takes(got)
            {
                (at, rest) = (at + 1, after);
                continue;
            }
            let Some((again, from)) = retry else { return false };
            let Some((skipped, after)) = take(from) else { return false };
            if skipped == Ok('/') {
                return false;
            }
            retry = Some((again, after));
            (at, rest) = (again, after);
        }
    }
}

impl Token {
    fn takes(&self, got: Result<char, u8>) -> bool {
        match self {
            Self::Star => false,
            Self::Any => got != Ok('/'),
            Self::Char(wanted) => got == Ok(*wanted),
            Self::Byte(wanted) => got == Err(*wanted),
            Self::Class { is_negated, ranges } => {
                let got = got.unwrap_or(char::REPLACEMENT_CHARACTER);
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&got)) != *is_negated
            }
        }
    }
}

/// Says whether a part of a path has an unescaped wildcard.
pub(super) fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_those_of_go() {
        const CASES: [(&str, &str, bool); 40] = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^b-d]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("a[^a][^a][^a]b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "-", true),
            ("*x", "xxx", true),
            ("**", "abc", true),
            ("**/*.txt", "a/b.txt", true),
            ("**/*.txt", "b.txt", false),
            ("[[]x].txt", "[x].txt", true),
            ("", "", true),
        ];
        for (pattern, name, expected) in CASES {
            let parsed = Wildcard::parse(pattern.as_bytes()).unwrap();
            assert_eq!(parsed.matches(name.as_bytes()), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\"] {
            assert_eq!(Wildcard::parse(pattern.as_bytes()), Err(Malformed), "{pattern}");
        }
    }

    #[test]
    fn bytes_that_are_no_characters_match_themselves_and_one_question_mark() {
        let parsed = Wildcard::parse(b"a?\xff").unwrap();
        assert!(parsed.matches(b"a\xfe\xff"));
        assert!(!parsed.matches(b"a\xfe\xfe"));
    }
}
