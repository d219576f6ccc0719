//! Dockerignore matching: which context entries a build may see.
//!
//! The language is Docker's, not Git's: patterns are anchored at the context
//! root, `*` never crosses a `/`, a pattern also holds for everything below a
//! directory it matches, and the last matching line wins.
//!
//! # Invariants
//!
//! - A [`Matcher`] is immutable and `Sync`; walks share one by reference. The one thing it notes is
//!   that a malformed pattern was tried, see [`Matcher::failure`].
//! - Rule order is source order. Reordering rules changes their meaning.
//! - Paths are relative to the context root, `/`-separated, without leading or
//!   trailing slash; bytes that are not UTF-8 are allowed.
//!
//! # Not here
//!
//! Walking and reading the file: the context room does both, and decides which
//! of `.dockerignore` and `<Dockerfile>.dockerignore` counts.
//!
//! Source: Dockerfile reference, ".dockerignore file"; behaviour of
//! moby/patternmatcher as BuildKit uses it.

mod pattern;

use crate::text::path::clean_bytes;
use pattern::Pattern;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest accepted line, in bytes. Docker's line scanner stops here, so no
/// file works with us and fails there.
pub const LINE_MAX: usize = 64 * 1024 - 1;

/// A rule file Docker would refuse, with the place to point at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoreError {
    /// `!` with nothing after it.
    #[error("line {line}: exception pattern is empty")]
    EmptyException {
        /// One-based line in the ignore file.
        line: u32,
    },
    /// An unclosed `[`, an escape at the end, a range that runs backwards.
    #[error("line {line}: syntax error in pattern `{text}`")]
    BadPattern {
        /// One-based line in the ignore file.
        line: u32,
        /// The line as it stands, trimmed.
        text: String,
    },
    /// A line over [`LINE_MAX`].
    #[error("line {line} is longer than {LINE_MAX} bytes")]
    LineTooLong {
        /// One-based line in the ignore file.
        line: u32,
    },
}

impl IgnoreError {
    /// The line it is about.
    pub fn line(&self) -> u32 {
        match self {
            Self::EmptyException { line }
            | Self::BadPattern { line, .. }
            | Self::LineTooLong { line } => *line,
        }
    }
}

/// A line of the file that decided about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule<'a> {
    /// One-based line in the ignore file.
    pub line: u32,
    /// The line as it stands, trimmed.
    pub text: &'a str,
}

#[derive(Debug, Clone)]
struct RuleEntry {
    line: u32,
    text: String,
    is_exception: bool,
    pattern: Pattern,
}

/// A parsed ignore file.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    /// The file's name, for messages; empty for patterns of flags.
    file: String,
    entries: Vec<RuleEntry>,
    /// Whether a malformed pattern was tried on a path; clones share it.
    has_failed: Arc<AtomicBool>,
}

/// Which rules match a directory or a parent of it: what a walk hands down from a
/// directory to its entries, so that no parent is matched twice.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    /// One flag per rule; empty at the context root.
    matched: Vec<bool>,
}

/// What the rules say about one path.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The build may not see it.
    pub is_ignored: bool,
    /// What its entries inherit.
    pub inherited: Inherited,
    /// Index of the deciding rule.
    decided_by: Option<usize>,
}

impl Matcher {
    /// Returns the same rules as those of the file that messages call `name`.
    #[must_use]
    pub fn of_file(self, name: impl Into<String>) -> Self {
        Self { file: name.into(), ..self }
    }

    /// Returns the file's name, for messages; empty where none was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Parses the text of a `.dockerignore` file.
    ///
    /// `text` may start with a UTF-8 byte-order mark. Cost is linear in its
    /// length.
    ///
    /// # Errors
    ///
    /// Returns [`IgnoreError`] for the first line that Docker itself would
    /// refuse. Blank lines and `#` comments are never errors. Of some malformed patterns, such as
    /// `d\\e`, Docker finds out only at the first path that they are tried on: [`Self::failure`]
    /// reports those.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        let mut entries = Vec::new();
        for (index, raw) in text.split(|&b| b == b'\n').enumerate() {
            let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
            if raw.len() > LINE_MAX {
                return Err(IgnoreError::LineTooLong { line });
            }
            let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
            if raw.starts_with(b"#") {
                continue;
            }
            let trimmed = trim(raw);
            if trimmed.is_empty() {
                continue;
            }
            let text = String::from_utf8_lossy(trimmed).into_owned();
            let bad = || IgnoreError::BadPattern { line, text: text.clone() };
            let (is_exception, cleaned) = read_line(trimmed);
            // Docker cleans the line with its `!` once more.
            let cleaned = if is_exception {
                let mut again = vec![b'!'];
                again.extend_from_slice(&cleaned);
                let again = clean_bytes(&again);
                if again == b"!" {
                    return Err(IgnoreError::EmptyException { line });
                }
                again[1..].to_vec()
            } else {
                clean_bytes(trim(&cleaned))
            };
            let pattern = Pattern::new(&cleaned).ok_or_else(bad)?;
            entries.push(RuleEntry { line, text, is_exception, pattern });
        }
        Ok(Self { entries, ..Self::default() })
    }

    /// Builds a matcher from the patterns of `--exclude` flags.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`]; the line is the 1-based number of the pattern.
    pub fn from_patterns<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, IgnoreError> {
        let mut entries = Vec::new();
        for (index, text) in patterns.into_iter().enumerate() {
            let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let trimmed = text.trim();
            if trimmed.is_empty() {
                continue;
            }
            let cleaned = clean_bytes(trimmed.as_bytes());
            let (is_exception, cleaned) = match cleaned.strip_prefix(b"!") {
                Some(b"") => return Err(IgnoreError::EmptyException { line }),
                Some(rest) => (true, rest.to_vec()),
                None => (false, cleaned),
            };
            let pattern = Pattern::new(&cleaned)
                .filter(|p| !p.is_broken())
                .ok_or_else(|| IgnoreError::BadPattern { line, text: trimmed.to_owned() })?;
            entries.push(RuleEntry { line, text: trimmed.to_owned(), is_exception, pattern });
        }
        Ok(Self { entries, ..Self::default() })
    }

    /// Whether there are no rules at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether any rule is an exception (`!`).
    pub fn has_exceptions(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_exception)
    }

    /// The patterns after cleaning, exceptions with their `!`.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        self.entries.iter().map(|entry| {
            let cleaned = String::from_utf8_lossy(entry.pattern.cleaned());
            if entry.is_exception { format!("!{cleaned}") } else { cleaned.into_owned() }
        })
    }

    /// What the rules say about `path`, given what its directory inherited.
    ///
    /// A walk starts with [`Inherited::default`] and hands
    /// [`Verdict::inherited`] of a directory to its entries.
    pub fn verdict(&self, path: &[u8], parent: &Inherited) -> Verdict {
        let mut is_ignored = false;
        let mut decided_by = None;
        let mut matched = vec![false; self.entries.len()];
        for (index, entry) in self.entries.iter().enumerate() {
            let mut matches = parent.matched.get(index).copied().unwrap_or(false);
            if !matches {
                if entry.is_exception != is_ignored {
                    continue;
                }
                if entry.pattern.is_broken() {
                    self.has_failed.store(true, Ordering::Relaxed);
                }
                matches = entry.pattern.matches(path);
            }
            matched[index] = matches;
            if matches {
                is_ignored = !entry.is_exception;
                decided_by = Some(index);
            }
        }
        Verdict { is_ignored, inherited: Inherited { matched }, decided_by }
    }

    /// Returns what is wrong with a malformed pattern that was tried so far; such a pattern matches
    /// nothing.
    pub fn failure(&self) -> Option<IgnoreError> {
        if !self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        // The first line, so that the message does not depend on the order of threads.
        let entry = self.entries.iter().find(|entry| entry.pattern.is_broken())?;
        Some(IgnoreError::BadPattern { line: entry.line, text: entry.text.clone() })
    }

    /// Whether the build may not see `path`. Looks at every parent; a walk
    /// uses [`Self::verdict`].
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        !self.entries.is_empty() && self.full_verdict(path).is_ignored
    }

    /// The rule that hides `path`; `None` when nothing does.
    pub fn which_rule(&self, path: &[u8]) -> Option<Rule<'_>> {
        let verdict = self.full_verdict(path);
        let index = verdict.decided_by.filter(|_| verdict.is_ignored)?;
        let entry = &self.entries[index];
        Some(Rule { line: entry.line, text: &entry.text })
    }

    /// Whether something below the ignored directory `dir` may still be seen
    /// because a later exception can match there. `false` means that the
    /// directory need not be entered.
    pub fn may_match_below(&self, dir: &[u8]) -> bool {
        let verdict = self.full_verdict(dir);
        self.may_match_below_verdict(dir, &verdict)
    }

    /// As [`Self::may_match_below`], for a walk that has the verdict already.
    pub fn may_match_below_verdict(&self, dir: &[u8], verdict: &Verdict) -> bool {
        // Rules before the deciding one lose to it for every entry below.
        let from = match verdict.decided_by {
            Some(index) if verdict.is_ignored => index + 1,
            _ => return true,
        };
        let mut inside = dir.to_vec();
        inside.push(b'/');
        self.entries[from..]
            .iter()
            .any(|entry| entry.is_exception && entry.pattern.can_match_from(&inside))
    }

    fn full_verdict(&self, path: &[u8]) -> Verdict {
        let mut inherited = Inherited::default();
        for (index, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            inherited = self.verdict(&path[..index], &inherited).inherited;
        }
        self.verdict(path, &inherited)
    }

    /// Whether `path` or one of its parents is matched, each rule tried on all
    /// of them: what the corpus of moby/patternmatcher records. It differs
    /// from a walk in one thing: an exception for a parent that nothing hid
    /// counts here, and is never looked at there.
    ///
    /// # Errors
    ///
    /// A rule that had to be tried is malformed.
    pub fn matches_or_parent(&self, path: &[u8]) -> Result<bool, IgnoreError> {
        let mut is_ignored = false;
        for entry in &self.entries {
            if entry.is_exception != is_ignored {
                continue;
            }
            if entry.pattern.is_broken() {
                return Err(IgnoreError::BadPattern { line: entry.line, text: entry.text.clone() });
            }
            let matches = entry.pattern.matches(path)
                || (0..path.len())
                    .filter(|&i| path[i] == b'/')
                    .any(|i| entry.pattern.matches(&path[..i]));
            if matches {
                is_ignored = !entry.is_exception;
            }
        }
        Ok(is_ignored)
    }
}

/// Whether a trimmed line is an exception, and its pattern cleaned and anchored.
fn read_line(trimmed: &[u8]) -> (bool, Vec<u8>) {
    let (is_exception, rest) = match trimmed.strip_prefix(b"!") {
        Some(rest) => (true, trim(rest)),
        None => (false, trimmed),
    };
    if rest.is_empty() {
        return (is_exception, Vec::new());
    }
    let mut cleaned = clean_bytes(rest);
    if cleaned.len() > 1 && cleaned[0] == b'/' {
        cleaned.remove(0);
    }
    (is_exception, cleaned)
}

/// Without white space at both ends, Unicode's included where it is UTF-8.
fn trim(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => bytes.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, ignored: &[&str], seen: &[&str]) {
        let matcher = Matcher::parse(text.as_bytes()).unwrap();
        for path in ignored {
            assert!(matcher.is_ignored(path.as_bytes()), "{path} should be ignored by {text:?}");
            assert!(matcher.which_rule(path.as_bytes()).is_some());
        }
        for path in seen {
            assert!(!matcher.is_ignored(path.as_bytes()), "{path} should be seen by {text:?}");
        }
    }

    #[test]
    fn paths_match_as_docker_says() {
        const CASES: &[(&str, &[&str], &[&str])] = &[
            ("a", &["a", "a/b/c"], &["b/a", "ab"]),
            ("/a/", &["a", "a/b"], &["b/a"]),
            ("*.md", &["x.md"], &["d/x.md"]),
            ("**/*.md", &["x.md", "d/e/x.md"], &["x.mdx"]),
            ("a/**", &["a/b", "a/b/c"], &["a"]),
            ("a/**/z", &["a/z", "a/b/c/z"], &["z"]),
            ("*\n!keep", &["x", "d/keep"], &["keep", "keep/x"]),
            ("d\n!d/e\nd/e/f", &["d", "d/x", "d/e/f"], &["d/e", "d/e/g"]),
            (" # notes", &["# notes"], &["notes"]),
            ("# notes\n\n", &[], &["# notes"]),
            ("\u{feff}a", &["a"], &[]),
            ("a\r\nb\r\n", &["a", "b"], &[]),
            ("[a-c]x", &["ax", "cx"], &["dx"]),
            ("[^a]x", &["bx"], &["ax"]),
            ("\\*", &["*"], &["a"]),
            ("?", &["a", "ä"], &["ab"]),
            ("^a", &["^a"], &["a"]),
            ("^a?", &["ab"], &["^ab"]),
        ];
        for (text, ignored, seen) in CASES {
            check(text, ignored, seen);
        }
    }

    #[test]
    fn an_exception_that_is_malformed_fails_only_where_it_is_tried() {
        let matcher = Matcher::parse(b"*.o\n!d\\e\n").unwrap();
        assert!(!matcher.is_ignored(b"a"));
        assert_eq!(matcher.failure(), None);
        assert!(matcher.clone().is_ignored(b"x.o"));
        let error = IgnoreError::BadPattern { line: 2, text: "!d\\e".into() };
        assert_eq!(matcher.failure(), Some(error));
        let matcher = Matcher::parse(b"d\\e\n").unwrap();
        matcher.is_ignored(b"a");
        assert!(matcher.failure().is_some());
    }

    #[test]
    fn malformed_rules_name_their_line() {
        let error = |text: &str| Matcher::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error("a\n!"), IgnoreError::EmptyException { line: 2 });
        assert_eq!(error("a\n[b"), IgnoreError::BadPattern { line: 2, text: "[b".into() });
        let reversed = Matcher::parse(b"[z-a]").unwrap();
        reversed.is_ignored(b"a");
        let text = "[z-a]".into();
        assert_eq!(reversed.failure(), Some(IgnoreError::BadPattern { line: 1, text }));
        assert_eq!(error("a\\"), IgnoreError::BadPattern { line: 1, text: "a\\".into() });
        assert_eq!(error(&"a".repeat(70_000)), IgnoreError::LineTooLong { line: 1 });
    }

    #[test]
    fn the_deciding_line_is_quoted() {
        let matcher = Matcher::parse(b"# c\n*\n!src\n src/*.o \n").unwrap();
        let rule = |path: &str| matcher.which_rule(path.as_bytes()).map(|r| (r.line, r.text));
        assert_eq!(rule("a"), Some((2, "*")));
        assert_eq!(rule("src/x.o"), Some((4, "src/*.o")));
        assert_eq!(rule("src/x.c"), None);
    }

    #[test]
    fn an_ignored_directory_is_entered_only_for_a_later_exception_inside() {
        for (text, dir, want) in [
            ("node_modules", "node_modules", false),
            ("node_modules\n!src", "node_modules", false),
            ("a\n!a/b/c", "a", true),
            ("a\n!a/b/c", "a/b", true),
            ("a\n!a/b/c", "a/x", false),
            ("!a/b\na", "a", false),
            ("a\n!**/*.md", "a", true),
            ("a\n!*.md", "a", false),
            ("a\n!a*/b", "a", true),
            ("a\n!a/**", "a", true),
        ] {
            let matcher = Matcher::parse(text.as_bytes()).unwrap();
            assert_eq!(matcher.may_match_below(dir.as_bytes()), want, "{text:?} below {dir}");
        }
    }

    #[test]
    fn many_stars_do_not_backtrack() {
        let matcher = Matcher::parse("*a".repeat(300).as_bytes()).unwrap();
        assert!(!matcher.is_ignored("a".repeat(299).as_bytes()));
        assert!(matcher.is_ignored("a".repeat(300).as_bytes()));
    }
}
