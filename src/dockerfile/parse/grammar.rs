//! The pest grammars of `grammar/`, run under limits.
//!
//! In: the text of one instruction or word. Out: pest's pairs. No rule of an
//! instruction recurses, so its depth is not a concern; a word's is bounded before
//! it comes here. Work is bounded by [`CALLS_MAX`].
//!
//! # Not here
//!
//! What pairs mean: [`super::statement`], [`super::reference`]. Joining lines:
//! `dockerfile::join`.

use std::num::NonZeroUsize;
use std::sync::Once;

use pest::Parser as _;
use pest::error::{ErrorVariant, InputLocation};
use pest::iterators::Pair;

use crate::dockerfile::ast::Escape;

/// The parser that pest derives of the grammars.
#[derive(pest_derive::Parser)]
#[grammar = "../grammar/instruction.pest"]
#[grammar = "../grammar/json.pest"]
#[grammar = "../grammar/word.pest"]
struct Grammar;

/// Most rule calls of one parse: some ten for each byte of the longest file
/// there can be, so that it is reached by a fault of the grammar only.
pub(super) const CALLS_MAX: usize = 1 << 29;

/// Why a text has no pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not what the rule describes; where that shows.
    At(usize),
    /// Over [`CALLS_MAX`].
    Limit,
}

/// Parses an instruction.
pub(super) fn instruction(text: &str, escape: Escape) -> Result<Pair<'_, Rule>, Refusal> {
    let rule = match escape {
        Escape::Backslash => Rule::backslash,
        Escape::Backtick => Rule::backtick,
    };
    run(rule, text)
}

/// Parses a word into its parts. Recurses as deep as its `${…}` nest, which is
/// the caller's to bound.
pub(super) fn word(text: &str, escape: Escape) -> Result<Pair<'_, Rule>, Refusal> {
    let rule = match escape {
        Escape::Backslash => Rule::word_backslash,
        Escape::Backtick => Rule::word_backtick,
    };
    run(rule, text)
}

/// Finds where a text that begins like an exec form stops being one.
pub(super) fn json_fault(text: &str) -> Option<usize> {
    match run(Rule::json, text) {
        Err(Refusal::At(at)) => Some(at),
        _ => None,
    }
}

fn run(rule: Rule, text: &str) -> Result<Pair<'_, Rule>, Refusal> {
    static LIMIT: Once = Once::new();
    LIMIT.call_once(|| pest::set_call_limit(NonZeroUsize::new(CALLS_MAX)));
    match Grammar::parse(rule, text) {
        Ok(mut pairs) => Ok(pairs.next().expect("a parse yields the pair of its rule")),
        Err(error) => Err(match (error.variant, error.location) {
            (ErrorVariant::CustomError { .. }, _) => Refusal::Limit,
            (_, InputLocation::Pos(at) | InputLocation::Span((at, _))) => Refusal::At(at),
        }),
    }
}
