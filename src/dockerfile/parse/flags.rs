//! Flags of instructions: which there are, and what they take.
//!
//! Source: moby/buildkit frontend/dockerfile/instructions/bflag.go.

use super::statement::{Flag, Statement};
use crate::dockerfile::ast::Word;
use crate::dockerfile::errors::{Error, ErrorKind, did_you_mean};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing, `=true` or `=false`.
    Bool,
    /// A value, once.
    One,
    /// Values.
    Many,
}

/// The flags of an instruction.
fn known(instruction: &str) -> &'static [(&'static str, Takes)] {
    use Takes::{Bool, Many, One};
    match instruction {
        "ADD" => &[
            ("chown", One),
            ("chmod", One),
            ("link", Bool),
            ("keep-git-dir", Bool),
            ("checksum", One),
            ("unpack", Bool),
            ("exclude", Many),
        ],
        "COPY" => &[
            ("from", One),
            ("chown", One),
            ("chmod", One),
            ("link", Bool),
            ("parents", Bool),
            ("exclude", Many),
        ],
        "FROM" => &[("platform", One)],
        "HEALTHCHECK" => &[
            ("interval", One),
            ("timeout", One),
            ("start-period", One),
            ("start-interval", One),
            ("retries", One),
        ],
        "RUN" => &[("mount", Many), ("network", One), ("security", One), ("device", Many)],
        _ => &[],
    }
}

/// Flags that have been checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flags<'a>(&'a [Flag]);

impl<'a> Flags<'a> {
    /// Checks the flags of a statement.
    pub(super) fn check(statement: &'a Statement) -> Result<Self, Error> {
        let instruction = statement.name.unwrap_or_default();
        let known = known(instruction);
        for (index, flag) in statement.flags.iter().enumerate() {
            let wrong = |message: String| {
                Error::new(ErrorKind::Flag, message, flag.text.span, statement.lines.first)
            };
            let name = &flag.name.text;
            let Some((_, takes)) = known.iter().find(|(known, _)| name[2..] == **known) else {
                return Err(unknown(instruction, flag, known, statement.lines.first));
            };
            let earlier = statement.flags[..index].iter().any(|other| other.name.text == *name);
            if earlier && *takes != Takes::Many {
                return Err(
                    wrong(format!("duplicate flag specified: {name}")).with_label("the second one")
                );
            }
            match (takes, flag.value.as_ref().map(Word::as_str)) {
                (Takes::Bool, Some("")) | (Takes::One | Takes::Many, None) => {
                    return Err(wrong(format!("missing a value on flag: {name}"))
                        .with_label(format!("expected {name}=…")));
                }
                (Takes::Bool, Some(value)) if !is_bool(value) => {
                    return Err(wrong(format!(
                        "expecting boolean value for flag {name}, not: {value}"
                    ))
                    .with_label("expected true or false"));
                }
                _ => {}
            }
        }
        Ok(Self(&statement.flags))
    }

    fn find(self, name: &str) -> Option<&'a Flag> {
        self.0.iter().find(|flag| flag.name.text[2..] == *name)
    }

    /// The value of a flag; `None` also where it is empty, which is the default
    /// of every flag.
    pub(super) fn value(self, name: &str) -> Option<&'a Word> {
        self.find(name)?.value.as_ref().filter(|value| !value.text.is_empty())
    }

    /// The value of a flag, empty ones included.
    pub(super) fn given(self, name: &str) -> Option<&'a Word> {
        self.find(name)?.value.as_ref()
    }

    /// All values of a flag.
    pub(super) fn values(self, name: &'static str) -> impl Iterator<Item = &'a Word> {
        self.all(name).filter_map(|flag| flag.value.as_ref())
    }

    /// All flags of a name.
    pub(super) fn all(self, name: &'static str) -> impl Iterator<Item = &'a Flag> {
        self.0.iter().filter(move |flag| flag.name.text[2..] == *name)
    }

    /// What a flag without a value says, where it is given.
    pub(super) fn switch(self, name: &str) -> Option<bool> {
        let flag = self.find(name)?;
        Some(flag.value.as_ref().is_none_or(|value| value.text.eq_ignore_ascii_case("true")))
    }
}

fn is_bool(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
}

fn unknown(instruction: &str, flag: &Flag, known: &[(&str, Takes)], line: u32) -> Error {
    let name = &flag.name.text;
    let message = format!("unknown flag `{name}` on {instruction}");
    let mut error = Error::new(ErrorKind::Flag, message, flag.name.span, line);
    if let Some(near) = did_you_mean(&name[2..], known.iter().map(|(name, _)| *name)) {
        error = error.with_label(format!("did you mean `--{near}`?"));
    }
    let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
    error.with_hint(match names.as_slice() {
        [] => {
            format!("write `{instruction} -- {name}` if it is not a flag: {instruction} has none")
        }
        names => format!("{instruction} accepts {}", names.join(", ")),
    })
}
