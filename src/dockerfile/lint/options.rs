//! What a file or a build argument says about the checks themselves: which to leave out, which
//! experimental ones to add, and whether a finding fails the build.
//!
//! Source: BuildKit `frontend/dockerfile/linter/linter.go` (`ParseLintOptions`), of August 2026.

use super::rules::{Rule, Severity};
use crate::dockerfile::ast::{DirectiveName, Dockerfile};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The build argument that replaces the `# check=` directive.
pub const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Most options that one text has; what follows belongs to the last.
const OPTIONS_MAX: usize = 3;

/// Some rules, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self { all: true, names: BTreeSet::new() },
            text => Self {
                all: false,
                names: text.split(',').map(|name| name.trim().to_owned()).collect(),
            },
        }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }

    fn merge(&mut self, other: &Self) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }
}

/// `skip=A,B;experimental=all;error=true`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    skip: Names,
    experimental: Names,
    /// A warning fails the build.
    pub is_error: bool,
}

/// A text that is no such options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// No such option, or one without `=`.
    #[error("invalid check option {option:?}: expected skip=, experimental= or error=")]
    Unknown {
        /// The option.
        option: String,
    },
    /// `error=` with something else than a truth value.
    #[error("failed to parse check option {option:?}: expected true or false")]
    NotABool {
        /// The option.
        option: String,
    },
}

impl Options {
    /// Reads options; an empty text has none.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] where BuildKit refuses the text.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        for part in text.splitn(OPTIONS_MAX, ';') {
            let unknown = |option: &str| OptionsError::Unknown { option: option.to_owned() };
            let (key, value) = part.split_once('=').ok_or_else(|| unknown(part))?;
            match key.trim() {
                "skip" => options.skip = Names::parse(value),
                "experimental" => options.experimental = Names::parse(value),
                "error" => {
                    options.is_error = match value.trim() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        _ => return Err(OptionsError::NotABool { option: part.to_owned() }),
                    }
                }
                key => return Err(unknown(key)),
            }
        }
        Ok(options)
    }

    /// The options of a build: the build argument's, else the directive's up to its first space.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub fn of(
        file: &Dockerfile,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, OptionsError> {
        if let Some(text) = build_args.get(CHECK_ARGUMENT) {
            return Self::parse(text);
        }
        match file.directive(DirectiveName::Check) {
            Some(directive) => Self::parse(first_word(&directive.value.text)),
            None => Ok(Self::default()),
        }
    }

    /// The options of one instruction: comments above it may add some.
    pub(super) fn with_comments(&self, comments: &[String]) -> Cow<'_, Self> {
        let Some(text) = comments.iter().find_map(|comment| check_comment(comment)) else {
            return Cow::Borrowed(self);
        };
        let Ok(more) = Self::parse(first_word(text)) else { return Cow::Borrowed(self) };
        let mut merged = self.clone();
        merged.skip.merge(&more.skip);
        merged.experimental.merge(&more.experimental);
        Cow::Owned(merged)
    }

    /// Whether findings of a rule are wanted.
    pub(super) fn wants(&self, rule: &Rule) -> bool {
        match rule.severity {
            // As in BuildKit, skip= has no say in what experimental= switched on.
            Severity::Experimental => self.experimental.has(rule.name),
            Severity::Warning | Severity::Advice => !self.skip.has(rule.name),
        }
    }

    /// Names that are no rule's, for a hint.
    pub fn unknown_names(&self) -> impl Iterator<Item = &str> {
        let named = self.skip.names.iter().chain(&self.experimental.names);
        named.map(String::as_str).filter(|name| !name.is_empty() && Rule::named(name).is_none())
    }
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// The value of a comment `check = value`.
fn check_comment(comment: &str) -> Option<&str> {
    let (name, value) = comment.split_once('=')?;
    (name.trim().eq_ignore_ascii_case("check") && !value.trim().is_empty()).then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::super::rules::{FROM_AS_CASING, INVALID_DEFINITION_DESCRIPTION, STAGE_NAME_CASING};
    use super::*;

    #[test]
    fn options_are_skip_experimental_and_error() {
        let options = Options::parse(" skip = FromAsCasing , Other ; error = T ").unwrap();
        assert!(options.is_error);
        assert!(!options.wants(&FROM_AS_CASING));
        assert!(options.wants(&STAGE_NAME_CASING));
        assert!(!options.wants(&INVALID_DEFINITION_DESCRIPTION));
        assert_eq!(options.unknown_names().collect::<Vec<_>>(), ["Other"]);
        let options = Options::parse("skip=all;experimental=all").unwrap();
        assert!(!options.wants(&FROM_AS_CASING));
        assert!(options.wants(&INVALID_DEFINITION_DESCRIPTION));
        assert_eq!(Options::parse("").unwrap(), Options::default());
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for text in ["skip", "nope=1", "error=maybe", "skip=A;"] {
            assert!(Options::parse(text).is_err(), "{text}");
        }
        // Of more than three, the rest belongs to the third.
        let options = Options::parse("error=true;skip=A;skip=B;error=false").unwrap();
        assert!(options.is_error);
    }

    #[test]
    fn comments_add_to_the_options() {
        let options = Options::parse("skip=StageNameCasing").unwrap();
        let comments = ["why".to_owned(), "Check = skip=FromAsCasing // because".to_owned()];
        let merged = options.with_comments(&comments);
        assert!(!merged.wants(&FROM_AS_CASING) && !merged.wants(&STAGE_NAME_CASING));
        assert!(options.with_comments(&["check=nonsense".to_owned()]).wants(&FROM_AS_CASING));
    }
}
