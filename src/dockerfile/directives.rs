//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the head of a
//! file.
//!
//! They count only in front of the first other comment, blank line or
//! instruction. BuildKit looks for `syntax` and `check` also below a shebang
//! line, and for `syntax` also as `// syntax=` and in a JSON object.
//!
//! # Not here
//!
//! What `check` says: the lint room.
//!
//! Source: moby/buildkit frontend/dockerfile/parser/directives.go.

use super::ast::{Directive, DirectiveName, Escape, Span, Word};
use super::errors::{Error, ErrorKind};
use super::join::{Joiner, Line, trim_start};
use super::parse::Frontend;

/// What the head of a file says.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) escape: Escape,
    pub(super) directives: Vec<Directive>,
    /// How many lines from the top are directives.
    pub(super) lines: u32,
}

/// Reads the head.
///
/// # Errors
///
/// A directive given twice, an escape character that is none, another frontend.
pub(super) fn read(source: &[u8], frontend: Frontend) -> Result<Head, Error> {
    let mut head = Head::default();
    head.directives = scan(&mut Joiner::new(source, Escape::default()), "#")?;
    head.lines = head.directives.len() as u32;
    for directive in &head.directives {
        if directive.name == DirectiveName::Escape {
            head.escape = escape(directive)?;
        }
    }
    let mut joiner = Joiner::new(source, Escape::default());
    let is_script = joiner.line().is_some_and(|line| line.bytes.starts_with(b"#!"));
    if is_script {
        head.directives.extend(scan(&mut joiner, "#").unwrap_or_default().into_iter().filter(
            |directive| {
                // The escape character does not matter for choosing the frontend.
                directive.name != DirectiveName::Escape
            },
        ));
    }
    let is_syntax = |directive: &&Directive| directive.name == DirectiveName::Syntax;
    let other = || {
        let mut joiner = Joiner::new(source, Escape::default());
        if is_script {
            joiner.line();
        }
        scan(&mut joiner, "//").unwrap_or_default()
    };
    match head.directives.iter().find(is_syntax) {
        _ if frontend == Frontend::Given => {}
        Some(directive) => check_frontend(directive)?,
        None => other().iter().filter(is_syntax).try_for_each(check_frontend)?,
    }
    Ok(head)
}

/// Reads directives, one a line, behind `comment`.
fn scan(joiner: &mut Joiner<'_>, comment: &str) -> Result<Vec<Directive>, Error> {
    let mut found: Vec<Directive> = Vec::new();
    while let Some(directive) = joiner.line().and_then(|line| directive(line, comment)) {
        if found.iter().any(|known| known.name == directive.name) {
            let name = text(directive.name);
            let message = format!("only one {name} parser directive can be used");
            let error =
                Error::new(ErrorKind::Directive, message, directive.value.span, directive.line);
            return Err(error.with_label("the second one"));
        }
        found.push(directive);
    }
    Ok(found)
}

fn directive(line: Line<'_>, comment: &str) -> Option<Directive> {
    let content = line.content();
    let after = trim_start(trim_start(content).strip_prefix(comment.as_bytes())?);
    let name_len = after.iter().position(|b| !b.is_ascii_alphanumeric())?;
    let name = match after[..name_len].to_ascii_lowercase().as_slice() {
        b"syntax" => DirectiveName::Syntax,
        b"escape" => DirectiveName::Escape,
        b"check" => DirectiveName::Check,
        _ => return None,
    };
    let value = trim_ascii_start(&after[name_len..]).strip_prefix(b"=")?;
    let value = trim_ascii_start(value);
    let start = line.start + content.len() - value.len();
    let value = trim_ascii_end(value);
    if value.is_empty() {
        return None;
    }
    let span = Span { start, end: start + value.len() };
    let text = String::from_utf8_lossy(value).into_owned();
    Some(Directive { name, value: Word { text, span }, line: line.number })
}

/// What a regular expression of Go's means by white space.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0C')
}

fn trim_ascii_start(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&b| !is_blank(b)).unwrap_or(bytes.len());
    &bytes[start..]
}

fn trim_ascii_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| !is_blank(b)).map_or(0, |last| last + 1);
    &bytes[..end]
}

fn text(name: DirectiveName) -> &'static str {
    match name {
        DirectiveName::Syntax => "syntax",
        DirectiveName::Escape => "escape",
        DirectiveName::Check => "check",
    }
}

fn escape(directive: &Directive) -> Result<Escape, Error> {
    match directive.value.as_str() {
        "\\" => Ok(Escape::Backslash),
        "`" => Ok(Escape::Backtick),
        other => {
            let message = format!("invalid escape token '{other}' does not match ` or \\");
            Err(Error::new(ErrorKind::Directive, message, directive.value.span, directive.line)
                .with_label("expected ` or \\"))
        }
    }
}

/// Says whether an image is a frontend of Dockerfile's language, wherever it is mirrored. What
/// follows a space is the frontend's own.
pub fn is_dockerfile_frontend(image: &str) -> bool {
    let image = image.trim().split(' ').next().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split([':', '@']).next().unwrap_or_default();
    matches!(name, "dockerfile" | "dockerfile-upstream")
}

/// Refuses frontends other than Dockerfile's, wherever they are mirrored.
fn check_frontend(directive: &Directive) -> Result<(), Error> {
    let image = directive.value.text.split(' ').next().unwrap_or_default();
    if is_dockerfile_frontend(image) {
        return Ok(());
    }
    let message = format!("frontend {image:?} is not supported: only docker/dockerfile is");
    let span = directive.value.span;
    let span = Span { end: span.start + image.len().min(span.end - span.start), ..span };
    Err(Error::new(ErrorKind::Frontend, message, span, directive.line)
        .with_label("another language than Dockerfile's")
        .with_hint("remove this line if the file is a plain Dockerfile"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Want<'a> = Result<(Escape, &'a [(DirectiveName, &'a str)]), &'a str>;

    #[track_caller]
    fn check(cases: &[(&str, Want<'_>)]) {
        for (source, want) in cases {
            match (read(source.as_bytes(), Frontend::OfFile), want) {
                (Ok(head), Ok((escape, directives))) => {
                    let got: Vec<_> =
                        head.directives.iter().map(|d| (d.name, d.value.as_str())).collect();
                    assert_eq!((&head.escape, got.as_slice()), (escape, *directives), "{source}");
                    for directive in &head.directives {
                        let span = directive.value.span;
                        assert_eq!(&source[span.start..span.end], directive.value.text);
                    }
                }
                (Err(error), Err(want)) => {
                    let place = &source[error.span.start..error.span.end];
                    assert_eq!(&format!("{} @{place}", error.message), want, "{source}");
                }
                (got, _) => panic!("{source}: {got:?}"),
            }
        }
    }

    #[test]
    fn directives_count_only_at_the_head() {
        use DirectiveName::{Check, Escape as EscapeName, Syntax};
        let plain = Escape::Backslash;
        let tick = Escape::Backtick;
        check(&[
            ("", Ok((plain, &[]))),
            ("# escape=`\nFROM a", Ok((tick, &[(EscapeName, "`")]))),
            (
                "\u{feff}  #\tESCAPE = ` \r\n#check=skip=all;error=true\r\n",
                Ok((tick, &[(EscapeName, "`"), (Check, "skip=all;error=true")])),
            ),
            ("\n# escape=`\n", Ok((plain, &[]))),
            ("# a comment\n# escape=`\n", Ok((plain, &[]))),
            ("# other=1\n# escape=`\n", Ok((plain, &[]))),
            ("# escape=\n# check=a\n", Ok((plain, &[]))),
            (
                "#syntax=docker/dockerfile:1@sha256:0 x\n",
                Ok((plain, &[(Syntax, "docker/dockerfile:1@sha256:0 x")])),
            ),
            ("#!/bin/x\n# escape=`\n# check=a\n", Ok((plain, &[(Check, "a")]))),
            ("// syntax=docker/dockerfile\n", Ok((plain, &[]))),
        ]);
    }

    #[test]
    fn directives_that_make_no_sense_are_refused() {
        check(&[
            ("# escape=x\n", Err("invalid escape token 'x' does not match ` or \\ @x")),
            ("# escape=`\n# escape=\\\n", Err("only one escape parser directive can be used @\\")),
            (
                "# syntax=tonistiigi/dockerfile-x:2 y\n",
                Err("frontend \"tonistiigi/dockerfile-x:2\" is not supported: only \
                     docker/dockerfile is @tonistiigi/dockerfile-x:2"),
            ),
            (
                "#!/bin/x\n// syntax=other\n",
                Err("frontend \"other\" is not supported: only docker/dockerfile is @other"),
            ),
        ]);
    }
}
