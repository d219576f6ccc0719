//! Why a word has no value.

use super::super::ast::{Span, Word};
use super::super::errors::{Error, ErrorKind};
use super::{DEPTH_MAX, PATTERN_WORK_MAX, VALUES_MAX};

/// Why a word has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// A quote or brace is not closed.
    #[error("{what} is not closed")]
    Unclosed {
        /// What was opened.
        what: &'static str,
    },
    /// `${}`, `${{…`, `${:…`.
    #[error("bad substitution: a name must follow `${{`")]
    NoName,
    /// `${A^}` and others that no Dockerfile has.
    #[error("unsupported modifier `{modifier}` in substitution of `{name}`")]
    Modifier {
        /// The variable.
        name: String,
        /// The characters after it.
        modifier: String,
    },
    /// `${A:?message}` without a value.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the file says about it.
        message: String,
    },
    /// A pattern with an escape that means nothing.
    #[error("invalid escape `\\{escaped}` in pattern `{pattern}`")]
    Pattern {
        /// The pattern after expansion.
        pattern: String,
        /// What follows the backslash.
        escaped: String,
    },
    /// Over [`DEPTH_MAX`].
    #[error("substitutions are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// Over [`PATTERN_WORK_MAX`].
    #[error("pattern times value is larger than {PATTERN_WORK_MAX} steps")]
    TooMuchWork,
    /// Over [`VALUES_MAX`].
    #[error("variables expand to more than {VALUES_MAX} bytes")]
    TooLong,
}

impl ExpandError {
    /// Whether it is a limit of this program's.
    pub(super) fn is_limit(&self) -> bool {
        matches!(self, Self::TooDeep | Self::TooMuchWork | Self::TooLong)
    }

    /// As an error with a place.
    pub fn at(&self, word: &Word, line: u32) -> Error {
        self.in_span(word.span, line)
    }

    /// As an error with a place.
    pub fn in_span(&self, span: Span, line: u32) -> Error {
        let kind = if self.is_limit() { ErrorKind::Limit } else { ErrorKind::Expansion };
        let error = Error::new(kind, self.to_string(), span, line);
        match self {
            Self::Modifier { .. } => error
                .with_hint("use one of :- - :+ + :? ? # ## % %% / // after the variable's name"),
            Self::Required { name, .. } => {
                error.with_hint(format!("pass `--build-arg {name}=…`, or set it before this line"))
            }
            _ => error,
        }
    }
}
