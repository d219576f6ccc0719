//! Words and variables, as planning needs them.

use super::stages::Place;
use super::step::CopySource;
use super::{PlanError, PlanRequest};
use crate::dockerfile::address::Address;
use crate::dockerfile::as_text;
use crate::dockerfile::ast::{Escape, Heredoc, Instruction, Word};
use crate::dockerfile::chmod::ChmodSpec;
use crate::dockerfile::env::{self, Env};
use crate::dockerfile::errors::Error;
use crate::dockerfile::expand::{ExpandError, Lexer, Lookup};
use crate::dockerfile::git_url::GitUrl;
use crate::dockerfile::heredoc::Marker;
use crate::dockerfile::parse::culprit;
use crate::text::path;
use std::collections::BTreeMap;

/// Arguments that exist without being declared, and are no sign of a typing error when unused.
const PREDEFINED: &[&str] =
    &["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY", "SOURCE_DATE_EPOCH"];

/// Says whether a build argument of that name means something without an ARG.
pub(super) fn is_predefined(name: &str) -> bool {
    name.starts_with("BUILDKIT_") || PREDEFINED.iter().any(|p| p.eq_ignore_ascii_case(name))
}

/// The proxy variables among the build arguments, in both cases, as a RUN gets them.
pub(super) fn proxies(args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in &PREDEFINED[..5] {
        let value = args.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = value {
            found.push(((*name).to_owned(), value.clone()));
            found.push((name.to_lowercase(), value.clone()));
        }
    }
    found
}

/// The platform arguments with the values of this build.
pub(super) fn platform_args(request: &PlanRequest<'_>) -> Env {
    let build = &request.build_platform;
    let target = request.platform.as_ref().unwrap_or(build);
    let stages = &request.dockerfile.stages;
    let stage = request
        .target
        .clone()
        .or_else(|| stages.last().and_then(|stage| stage.name.as_ref()).map(|n| n.text.clone()))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    let mut env = Env::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage),
    ] {
        env.set(name, request.build_args.get(name).unwrap_or(&value));
    }
    env
}

/// The variables of FROM lines: platform arguments, then global ARGs.
pub(super) fn globals(request: &PlanRequest<'_>) -> Result<Env, PlanError> {
    Ok(env::globals(request.dockerfile, &platform_args(request), &request.build_args)?)
}

/// A failure at the very variable.
fn misplaced(
    error: &ExpandError,
    word: &Word,
    lexer: Lexer,
    lookup: &Lookup<'_>,
    place: Place,
) -> PlanError {
    error.in_span(culprit(word, lexer, lookup), place.lines.first).into()
}

/// Expands a word to one text.
pub(super) fn expand(
    word: &Word,
    place: Place,
    env: &Env,
    escape: Escape,
) -> Result<String, PlanError> {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    let lexer = Lexer::new(escape);
    let expanded = lexer.process_word(&word.text, &lookup);
    expanded.map(|out| out.text).map_err(|e| misplaced(&e, word, lexer, &lookup, place))
}

/// Expands a text that is not a [`Word`] of its own.
pub(super) fn expand_text(
    text: &str,
    place: Place,
    env: &Env,
    escape: Escape,
) -> Result<String, PlanError> {
    expand(&Word { text: text.to_owned(), span: place.span }, place, env, escape)
}

/// Expands a word and splits the result.
pub(super) fn expand_split(
    word: &Word,
    place: Place,
    env: &Env,
    escape: Escape,
) -> Result<Vec<String>, PlanError> {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    let lexer = Lexer::new(escape);
    let expanded = lexer.process_words(&word.text, &lookup);
    expanded.map_err(|e| misplaced(&e, word, lexer, &lookup, place))
}

/// Expands the body of a heredoc: variables only, quotes stay, and `\` escapes whatever the file's
/// escape character is. Bytes that are not text count as U+FFFD each.
pub(super) fn expand_body(heredoc: &Heredoc, place: Place, env: &Env) -> Result<String, PlanError> {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    let mut lexer = Lexer::new(Escape::Backslash);
    lexer.skip_quotes = true;
    let body = Word { text: as_text(&heredoc.content()), span: heredoc.span };
    let expanded = lexer.process_word(&body.text, &lookup);
    expanded.map(|out| out.text).map_err(|e| misplaced(&e, &body, lexer, &lookup, place))
}

/// An instruction as progress shows it: expanded where that works, as typed where not.
pub(super) fn show(original: &str, env: &Env, escape: Escape) -> String {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    match Lexer::new(escape).process_word(original, &lookup) {
        Ok(out) => out.text,
        Err(_) => original.to_owned(),
    }
}

/// As [`show`] for RUN: quotes and unknown variables, which are the shell's, stay; variables that
/// hold secrets show as `****`.
pub(super) fn show_run(original: &str, env: &Env, secrets: &[String], escape: Escape) -> String {
    let mut lexer = Lexer::new(escape);
    lexer.raw_quotes = true;
    lexer.skip_unset = true;
    let lookup = |name: &str| {
        if secrets.iter().any(|secret| secret == name) {
            return Some("****".to_owned());
        }
        env.get(name).map(str::to_owned)
    };
    match lexer.process_word(original, &lookup) {
        Ok(out) => out.text,
        Err(_) => original.to_owned(),
    }
}

/// Parses a trigger that a base image left.
pub(super) fn parse_trigger(text: &str) -> Result<Instruction, Error> {
    crate::dockerfile::parse_instruction(text)
}

/// Says whether a RUN is a heredoc and nothing else: `<<EOF`, `3<<-"EOF"`.
pub(super) fn is_only_heredoc(text: &str) -> bool {
    Marker::parse(text).is_ok_and(|marker| marker.is_some())
}

/// Says which kind of source a word of COPY or ADD is.
pub(super) fn copy_source(
    text: String,
    is_add: bool,
    place: Place,
) -> Result<CopySource, PlanError> {
    let repository = GitUrl::parse(&text).map_err(|error| place.error(error.to_string()))?;
    if repository.is_some() {
        return match is_add {
            true => Ok(CopySource::Git(Address::parse(&text))),
            false => Err(place.error("source can't be a git ref for COPY").into()),
        };
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return match is_add {
            true => Ok(CopySource::Url(Address::parse(&text))),
            false => Err(place
                .error("source can't be a URL for COPY")
                .with_hint("use ADD for remote sources")
                .into()),
        };
    }
    Ok(CopySource::Path(text))
}

/// Checks `--chmod` before anything is copied.
pub(super) fn check_chmod(text: &str) -> Result<(), String> {
    ChmodSpec::parse(text).map(drop).map_err(|error| error.to_string())
}

/// The last part of a path.
pub(super) fn base_name(path: &str) -> String {
    let clean = path::clean(path);
    clean.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_come_in_both_cases() {
        let args = BTreeMap::from([("http_proxy".to_owned(), "p".to_owned())]);
        let want = [("HTTP_PROXY", "p"), ("http_proxy", "p")];
        assert_eq!(proxies(&args), want.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
