//! Where the variables of a word are.
//!
//! Expansion makes values and looks at no places, so that it stays one walk over
//! a word; who wants to point at `$NAME` asks here.

use pest::iterators::Pair;

use super::grammar::{self, Rule};
use crate::dockerfile::ast::{Escape, Span, Word};
use crate::dockerfile::expand::{DEPTH_MAX, Lexer, Lookup};

/// `$NAME` or `${NAME…}` in a word, not within another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// All of it.
    pub word: Word,
    /// The variable's name; `None` in `${}` and the like.
    pub name: Option<Word>,
}

/// Finds the variables of a word, in order; none where it is nested deeper than
/// any expansion.
pub fn references(word: &Word, escape: Escape) -> Vec<Reference> {
    let text = word.as_str();
    if text.matches("${").count() > DEPTH_MAX {
        return Vec::new();
    }
    let Ok(parts) = grammar::word(text, escape) else { return Vec::new() };
    let part = |pair: &Pair<'_, Rule>| word.part(pair.as_span().start()..pair.as_span().end());
    let references = parts.into_inner().filter(|pair| pair.as_rule() == Rule::reference);
    let references = references.map(|pair| Reference {
        word: part(&pair),
        name: pair.into_inner().find(|p| p.as_rule() == Rule::variable).map(|name| part(&name)),
    });
    references.collect()
}

/// The place of a word that keeps it from having a value: the first variable
/// that has none by itself, or all of it.
pub fn culprit(word: &Word, lexer: Lexer, env: &Lookup<'_>) -> Span {
    references(word, lexer.escape())
        .into_iter()
        .find(|reference| lexer.process_word(&reference.word.text, env).is_err())
        .map_or(word.span, |reference| reference.word.span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word { text: text.to_owned(), span: Span { start: 10, end: 10 + text.len() } }
    }

    #[test]
    fn variables_are_found_with_their_places() {
        for (text, want) in [
            ("a$B/${C}d", &[("$B", "B"), ("${C}", "C")] as &[_]),
            ("${A:-$B}${C#${D}}", &[("${A:-$B}", "A"), ("${C#${D}}", "C")]),
            ("\"$A\"'$B'\\$C$D", &[("$A", "A"), ("$D", "D")]),
            ("\"'$A'\"", &[("$A", "A")]),
            ("${A:-'}'}x${B:-\"}\"}", &[("${A:-'}'}", "A"), ("${B:-\"}\"}", "B")]),
            ("${A:-\\}}$B", &[("${A:-\\}}", "A"), ("$B", "B")]),
            ("$12x$@$", &[("$12", "12"), ("$@", "@")]),
            ("${A:?no", &[("${A:?no", "A")]),
            ("${}", &[("${}", "")]),
            ("$éa b", &[("$éa", "éa")]),
        ] {
            let found = references(&word(text), Escape::Backslash);
            let got: Vec<(&str, &str)> = found
                .iter()
                .map(|r| (r.word.as_str(), r.name.as_ref().map_or("", Word::as_str)))
                .collect();
            assert_eq!(got, want, "{text}");
            for reference in found {
                let span = reference.word.span;
                assert_eq!(&text[span.start - 10..span.end - 10], reference.word.text);
            }
        }
        assert_eq!(references(&word("`$A\\$B"), Escape::Backtick)[0].word.text, "$B");
        assert_eq!(references(&word(&"${A:-".repeat(100_000)), Escape::Backslash), []);
    }

    #[test]
    fn culprit_is_the_variable_that_fails() {
        let env = |name: &str| (name == "A").then(|| "a".to_owned());
        for (text, want) in [
            ("x${A}y${B:?no}$A", "${B:?no}"),
            ("${A^}", "${A^}"),
            ("a${A", "${A"),
            ("a'b", "a'b"),
            ("\"${A:-${B:?no}}\"", "${A:-${B:?no}}"),
        ] {
            let span = culprit(&word(text), Lexer::new(Escape::Backslash), &env);
            assert_eq!(&text[span.start - 10..span.end - 10], want);
        }
    }
}
