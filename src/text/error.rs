//! Errors with their causes, in one line.

use std::error::Error;
use std::fmt::Write as _;

/// Returns an error with all its causes, none of them twice: `a: b: c`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layered {
        text: &'static str,
        source: Option<Box<Layered>>,
    }

    fn layered(texts: &[&'static str]) -> Option<Box<Layered>> {
        let (text, rest) = texts.split_first()?;
        Some(Box::new(Layered { text, source: layered(rest) }))
    }

    #[test]
    fn a_cause_that_the_message_ends_with_is_not_repeated() {
        let chained = |texts: &[&'static str]| chain(&*layered(texts).unwrap());
        assert_eq!(chained(&["a"]), "a");
        assert_eq!(chained(&["a", "b", "c"]), "a: b: c");
        assert_eq!(chained(&["a: b", "b", "c"]), "a: b: c");
    }
}
