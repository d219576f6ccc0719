//! Words and variables: quotes taken away, `$NAME` and `${NAME…}` replaced.
//!
//! Behaves as BuildKit's shell lexer does, oddities included, because images
//! depend on them: alternatives that are not taken are evaluated all the same
//! (so `${A:-${B:?no}}` fails without `B`), and where a result is split into
//! words, text right before a `${…}` with an alternative is lost
//! (`a${B:-b}` becomes the one word `b`).
//!
//! # Invariants
//!
//! - Cost is linear in the word, but for patterns: states times characters.
//! - Nesting is bounded by [`DEPTH_MAX`], pattern work by [`PATTERN_WORK_MAX`], the
//!   values of one word by [`VALUES_MAX`].
//!
//! # Why by hand
//!
//! What a character means here can depend on values (`${P#$HASH}` may trim
//! twice), on what stood before in the whole word, and on mistakes that images
//! have come to need; a grammar of it would be this walk again, at ten times its
//! cost. `grammar/word.pest` knows as much as it takes to find variables:
//! [`super::parse::references`].
//!
//! # Not here
//!
//! Which variables exist: the plan room knows a stage's ARGs and ENVs.
//!
//! Source: Dockerfile reference, "Environment replacement"; behaviour of
//! moby/buildkit frontend/dockerfile/shell.

mod error;
mod pattern;
#[cfg(test)]
mod tables;

use std::collections::BTreeSet;

use pest::unicode::{DECIMAL_NUMBER, LETTER};

use super::ast::Escape;

pub use error::ExpandError;

/// Deepest nesting of `${…}` in `${…}`. Real files nest two or three deep;
/// each level costs stack.
pub const DEPTH_MAX: usize = 100;

/// Most steps one pattern (`${A#pattern}`) may take on one value.
pub const PATTERN_WORK_MAX: usize = 1 << 26;

/// Most bytes the variables of one word may have in all, and most bytes a
/// replacement may make. Variables made of others several times grow
/// exponentially, and a process takes no more than 128 KiB in one argument.
pub const VALUES_MAX: usize = 64 * 1024 * 1024;

/// The value of a word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Variables that were looked up and found.
    pub matched: BTreeSet<String>,
    /// Variables that were looked up and are not set.
    pub unmatched: BTreeSet<String>,
}

/// Looks up a variable.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Expands a word to one text.
///
/// # Errors
///
/// [`ExpandError`] as BuildKit would.
pub fn process_word(word: &str, env: &Lookup<'_>, escape: Escape) -> Result<Expanded, ExpandError> {
    Lexer::new(escape).process_word(word, env)
}

/// Expands a word and splits the result at its unquoted white space.
///
/// # Errors
///
/// [`ExpandError`] as BuildKit would.
pub fn process_words(
    word: &str,
    env: &Lookup<'_>,
    escape: Escape,
) -> Result<Vec<String>, ExpandError> {
    Lexer::new(escape).process_words(word, env)
}

/// How words are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lexer {
    escape: Escape,
    /// Keep quotes in the result.
    pub raw_quotes: bool,
    /// Keep escape characters in the result.
    pub raw_escapes: bool,
    /// Quotes mean nothing: the body of a heredoc that COPY expands.
    pub skip_quotes: bool,
    /// `$NAME` stays as it is where NAME is not set.
    pub skip_unset: bool,
}

impl Lexer {
    /// A lexer with everything expanded and all quotes taken away.
    pub fn new(escape: Escape) -> Self {
        Self { escape, ..Self::default() }
    }

    /// The escape character.
    pub fn escape(self) -> Escape {
        self.escape
    }

    /// The lexer for bodies of heredocs that COPY and ADD expand: quotes and
    /// escapes stay.
    pub fn for_heredoc(escape: Escape) -> Self {
        Self { raw_quotes: true, raw_escapes: true, skip_quotes: true, ..Self::new(escape) }
    }

    /// Expands to one text.
    ///
    /// # Errors
    ///
    /// [`ExpandError`] as BuildKit would.
    pub fn process_word(self, word: &str, env: &Lookup<'_>) -> Result<Expanded, ExpandError> {
        let (expanded, result) = self.process_noting(word, env);
        result.map(|()| expanded)
    }

    /// As [`Self::process_word`], for checks: the variables that were looked up come out also where
    /// the word has no value, and then the text is empty.
    pub fn process_noting(
        self,
        word: &str,
        env: &Lookup<'_>,
    ) -> (Expanded, Result<(), ExpandError>) {
        let is_special = |b: u8| matches!(b, b'$' | b'\'' | b'"' | b'\\' | b'`' | 0xEF);
        if !word.bytes().any(is_special) {
            return (Expanded { text: word.to_owned(), ..Expanded::default() }, Ok(()));
        }
        let mut run = Run::new(self, word, env);
        let (text, result) = match run.until(None, self.raw_escapes, 0) {
            Ok((text, _)) => (text, Ok(())),
            Err(error) => (String::new(), Err(error)),
        };
        (Expanded { text, matched: run.matched, unmatched: run.unmatched }, result)
    }

    /// Expands and splits.
    ///
    /// # Errors
    ///
    /// [`ExpandError`] as BuildKit would.
    pub fn process_words(self, word: &str, env: &Lookup<'_>) -> Result<Vec<String>, ExpandError> {
        let mut run = Run::new(self, word, env);
        Ok(run.until(None, self.raw_escapes, 0)?.1)
    }
}

struct Run<'a> {
    lexer: Lexer,
    escape: char,
    raw_escapes: bool,
    rest: std::str::Chars<'a>,
    env: &'a Lookup<'a>,
    /// The word being collected. Shared between levels, as in BuildKit.
    word: String,
    /// Bytes of the variables looked up so far.
    value_bytes: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// The words of one level.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    is_in_word: bool,
}

impl Words {
    fn add(&mut self, word: &mut String, c: char) {
        if !c.is_whitespace() {
            self.add_raw(word, c);
        } else if self.is_in_word && !word.is_empty() {
            self.done.push(std::mem::take(word));
            self.is_in_word = false;
        }
    }

    fn add_raw(&mut self, word: &mut String, c: char) {
        word.push(c);
        self.is_in_word = true;
    }

    fn finish(mut self, word: &mut String) -> Vec<String> {
        if !word.is_empty() {
            self.done.push(std::mem::take(word));
        }
        self.done
    }
}

impl<'a> Run<'a> {
    fn new(lexer: Lexer, word: &'a str, env: &'a Lookup<'a>) -> Self {
        Self {
            lexer,
            escape: lexer.escape.as_char(),
            raw_escapes: lexer.raw_escapes,
            // Go's scanner skips a byte-order mark.
            rest: word.strip_prefix('\u{feff}').unwrap_or(word).chars(),
            env,
            word: String::new(),
            value_bytes: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Reads up to `stop`, which is consumed, or to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        depth: usize,
    ) -> Result<(String, Vec<String>), ExpandError> {
        if depth > DEPTH_MAX {
            return Err(ExpandError::TooDeep);
        }
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until_inner(stop, depth);
        self.raw_escapes = outer;
        result
    }

    fn until_inner(
        &mut self,
        stop: Option<char>,
        depth: usize,
    ) -> Result<(String, Vec<String>), ExpandError> {
        let mut text = String::new();
        let mut words = Words::default();
        self.word.clear();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.rest.next();
                return Ok((text, words.finish(&mut self.word)));
            }
            match c {
                '$' => {
                    let value = self.dollar(depth)?;
                    text.push_str(&value);
                    for c in value.chars() {
                        words.add(&mut self.word, c);
                    }
                }
                '\'' | '"' if !self.lexer.skip_quotes => {
                    let value = if c == '"' { self.double(depth)? } else { self.single()? };
                    text.push_str(&value);
                    self.word.push_str(&value);
                    words.is_in_word = true;
                }
                '<' => {
                    let marker = self.heredoc_marker();
                    text.push_str(marker);
                    self.word.push_str(marker);
                    words.is_in_word = true;
                }
                _ => {
                    self.rest.next();
                    let mut c = c;
                    if c == self.escape {
                        if self.raw_escapes {
                            words.add_raw(&mut self.word, c);
                            text.push(c);
                        }
                        let Some(escaped) = self.rest.next() else { break };
                        c = escaped;
                        words.add_raw(&mut self.word, c);
                    } else {
                        words.add(&mut self.word, c);
                    }
                    text.push(c);
                }
            }
        }
        match stop {
            None => Ok((text, words.finish(&mut self.word))),
            Some(_) => Err(ExpandError::Unclosed { what: "`${`" }),
        }
    }

    /// `<<` with the white space after it is part of a word, so that
    /// `<< EOF` stays together.
    fn heredoc_marker(&mut self) -> &'a str {
        let from = self.rest.as_str();
        let Some(after) = from.strip_prefix("<<") else {
            self.rest.next();
            return "<";
        };
        let name = after.trim_start_matches(['\t', '\r', ' ']);
        self.rest = name.chars();
        &from[..from.len() - name.len()]
    }

    fn single(&mut self) -> Result<String, ExpandError> {
        let from = self.rest.as_str();
        let Some(end) = from[1..].find('\'') else {
            self.rest = "".chars();
            return Err(ExpandError::Unclosed { what: "single quote" });
        };
        self.rest = from[end + 2..].chars();
        let range = if self.lexer.raw_quotes { 0..end + 2 } else { 1..end + 1 };
        Ok(from[range].to_owned())
    }

    fn double(&mut self, depth: usize) -> Result<String, ExpandError> {
        let mut text = String::new();
        let quote = self.rest.next();
        if self.lexer.raw_quotes {
            text.extend(quote);
        }
        loop {
            match self.peek() {
                None => return Err(ExpandError::Unclosed { what: "double quote" }),
                Some('"') => {
                    self.rest.next();
                    if self.lexer.raw_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar(depth)?),
                Some(mut c) => {
                    self.rest.next();
                    if c == self.escape {
                        if self.raw_escapes {
                            text.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            Some(escaped) if matches!(escaped, '"' | '$') || escaped == c => {
                                self.rest.next();
                                c = escaped;
                            }
                            Some(_) => {}
                        }
                    }
                    text.push(c);
                }
            }
        }
    }

    fn dollar(&mut self, depth: usize) -> Result<String, ExpandError> {
        const BRACE: ExpandError = ExpandError::Unclosed { what: "`${`" };
        self.rest.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(name)? {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.rest.next();
        match self.peek() {
            None => return Err(BRACE),
            Some('{' | '}' | ':') => return Err(ExpandError::NoName),
            Some(_) => {}
        }
        let name = self.name();
        let unsupported = |modifier: &str| ExpandError::Modifier {
            name: name.to_owned(),
            modifier: modifier.to_owned(),
        };
        let start = self.rest.as_str();
        let Some(mut modifier) = self.rest.next() else { return Err(BRACE) };
        let mut null_is_unset = false;
        match modifier {
            '}' => {
                return Ok(match self.get(name)? {
                    None if self.lexer.skip_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                });
            }
            '/' => return self.replace(name, depth),
            ':' => {
                null_is_unset = true;
                modifier = self.rest.next().ok_or(BRACE)?;
            }
            '+' | '-' | '?' | '#' | '%' => {}
            _ => return Err(unsupported(&start[..modifier.len_utf8()])),
        }
        let typed = &start[..start.len() - self.rest.as_str().len()];
        let is_pattern = matches!(modifier, '#' | '%');
        if null_is_unset && is_pattern {
            return Err(unsupported(typed));
        }
        let (word, _) = self.until(Some('}'), is_pattern, depth + 1).map_err(|error| {
            let at_end = self.rest.as_str().is_empty() && !error.is_limit();
            if at_end { BRACE } else { error }
        })?;
        let value = self.get(name)?;
        if self.lexer.skip_unset && value.is_none() {
            return Ok(format!("${{{name}{typed}{word}}}"));
        }
        let given = value.as_deref().filter(|value| !(null_is_unset && value.is_empty()));
        match modifier {
            '-' => Ok(given.map_or(word, str::to_owned)),
            '+' => Ok(if given.is_some() { word } else { String::new() }),
            '?' => given.map(str::to_owned).ok_or_else(|| {
                let state = if value.is_none() { "unset" } else { "empty" };
                let message =
                    if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                ExpandError::Required { name: name.to_owned(), message }
            }),
            '#' | '%' => {
                // Doubled, it takes the longest match.
                let (word, is_greedy) = match word.strip_prefix(modifier) {
                    Some(rest) => (rest, true),
                    None => (word.as_str(), false),
                };
                let value = value.unwrap_or_default();
                if modifier == '#' {
                    pattern::trim_prefix(word, &value, is_greedy)
                } else {
                    pattern::trim_suffix(word, &value, is_greedy)
                }
            }
            _ => Err(unsupported(typed)),
        }
    }

    /// `${NAME/pattern/replacement}` after the first slash.
    fn replace(&mut self, name: &str, depth: usize) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.rest.next();
        }
        let mut part = |stop| {
            self.until(Some(stop), true, depth + 1).map(|(text, _)| text).map_err(|error| {
                let at_end = self.rest.as_str().is_empty() && !error.is_limit();
                let what = if stop == '/' { "`${…/`" } else { "`${`" };
                if at_end { ExpandError::Unclosed { what } } else { error }
            })
        };
        let pattern = part('/')?;
        let replacement = part('}')?;
        let value = self.get(name)?;
        if self.lexer.skip_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        pattern::replace(&pattern, &value.unwrap_or_default(), &replacement, all)
    }

    /// A name, a number, or one of the special parameters; may be empty.
    fn name(&mut self) -> &'a str {
        let from = self.rest.as_str();
        let end = match self.peek() {
            Some(c) if DECIMAL_NUMBER(c) => from.find(|c| !DECIMAL_NUMBER(c)).unwrap_or(from.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => from.find(|c| !is_name_char(c)).unwrap_or(from.len()),
        };
        self.rest = from[end..].chars();
        &from[..end]
    }

    fn get(&mut self, name: &str) -> Result<Option<String>, ExpandError> {
        let value = (self.env)(name);
        let seen = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        self.value_bytes += value.as_ref().map_or(0, String::len);
        if self.value_bytes > VALUES_MAX { Err(ExpandError::TooLong) } else { Ok(value) }
    }
}

/// Go's letters and digits are fewer than Rust's: no marks, no `Ⅷ`, no `²`.
fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() && (LETTER(c) || DECIMAL_NUMBER(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("aa/bb.cc".to_owned()),
            "E" => Some(String::new()),
            "D" => Some("$0!".to_owned()),
            _ => None,
        }
    }

    #[track_caller]
    fn check(cases: &[(&str, Result<&str, ()>)]) {
        for (word, want) in cases {
            let got = process_word(word, &env, Escape::Backslash).map(|e| e.text).map_err(|_| ());
            assert_eq!(got, want.map(str::to_owned), "{word}");
        }
    }

    #[test]
    fn modifiers_choose_trim_and_replace() {
        check(&[
            ("${A:-x}${U:-x}${E:-x}${E-x}", Ok("aa/bb.ccxx")),
            ("${A:+x}${U:+x}${E:+x}${E+x}", Ok("xx")),
            ("${U?}", Err(())),
            ("${E:?no}", Err(())),
            ("${E?no}", Ok("")),
            ("${A#*/}", Ok("bb.cc")),
            ("${A#a}${A##*b}", Ok("a/bb.cc.cc")),
            ("${A%c*}${A%%c*}", Ok("aa/bb.caa/bb.")),
            ("${A/a/x}${A//a/x}", Ok("xa/bb.ccxx/bb.cc")),
            ("${A/\\//:}", Ok("aa:bb.cc")),
            ("${A//b/$D}", Ok("aa/b!b!.cc")),
            ("${A/b/$D}", Ok("aa/$0!b.cc")),
            ("${U:-${U:-${U:-y}}}", Ok("y")),
            ("${A:-${U:?no}}", Err(())),
            ("${A^}", Err(())),
            ("${", Err(())),
            ("${}", Err(())),
        ]);
    }

    #[test]
    fn quotes_and_escapes_are_taken_away_once() {
        check(&[
            ("'$A'\"$E\"\\$A", Ok("$A$A")),
            ("\"a\\b\\\"\"", Ok("a\\b\"")),
            ("a\\", Ok("a")),
            ("'", Err(())),
            ("\"", Err(())),
        ]);
    }

    #[test]
    fn nesting_and_pattern_work_are_bounded() {
        let deep = format!("{}x{}", "${U:-".repeat(100_000), "}".repeat(100_000));
        assert_eq!(process_word(&deep, &env, Escape::Backslash), Err(ExpandError::TooDeep));
        let stars = "*a".repeat(20_000);
        let value = "a".repeat(20_000);
        let word = format!("${{V#{stars}b}}");
        let result = process_word(&word, &|_| Some(value.clone()), Escape::Backslash);
        assert_eq!(result, Err(ExpandError::TooMuchWork));
    }

    #[test]
    fn text_before_an_alternative_is_lost_when_split() {
        let words = |word| process_words(word, &env, Escape::Backslash).unwrap();
        assert_eq!(words("x${U:-b} c"), ["b", "c"]);
        assert_eq!(words("x$A c"), ["xaa/bb.cc", "c"]);
    }
}
