//! Patterns of selectors: wildcards, exact texts, regular expressions; and what stands for their groups.

use regex_lite::Regex;

/// What an identifier has to match.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    /// This text.
    Exact(String),
    /// This text, or the expression.
    Expression(String, Regex),
}

/// Compiles a regular expression.
pub(super) fn expression(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("{text:?} is not a regular expression: {error}"))
}

impl Pattern {
    /// A pattern in which `*` stands for any text, slashes included.
    pub(super) fn wildcard(text: &str) -> Result<Self, String> {
        let parts: Vec<String> = text.split('*').map(regex_lite::escape).collect();
        let written = format!("(?s)^{}$", parts.join("(.*)"));
        let compiled = Regex::new(&written).map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self::Expression(text.to_owned(), compiled))
    }

    pub(super) fn exact(text: &str) -> Self {
        Self::Exact(text.to_owned())
    }

    /// A pattern that is found anywhere, as Go's expressions are.
    pub(super) fn regex(text: &str) -> Result<Self, String> {
        Ok(Self::Expression(text.to_owned(), expression(text)?))
    }

    /// Returns the groups of a match, the whole first; `None` where there is none.
    pub(super) fn groups(&self, identifier: &str) -> Option<Vec<String>> {
        match self {
            Self::Exact(text) => (text == identifier).then(|| vec![identifier.to_owned()]),
            Self::Expression(text, regex) => match regex.captures(identifier) {
                Some(found) => Some(
                    found
                        .iter()
                        .map(|group| group.map_or_else(String::new, |g| g.as_str().to_owned()))
                        .collect(),
                ),
                None => (text == identifier).then(|| vec![identifier.to_owned()]),
            },
        }
    }
}

/// Puts the groups of a match where `$1` or `${1}` is written; `$$` is a dollar sign.
pub(super) fn filled(template: &str, groups: &[String]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let (inner, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, after)) => (name, after),
            None => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        };
        match inner.parse::<usize>() {
            Ok(number) => {
                text.push_str(groups.get(number).map_or("", String::as_str));
                rest = after;
            }
            Err(_) => text.push('$'),
        }
    }
    text.push_str(rest);
    text
}
