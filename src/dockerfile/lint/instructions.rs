//! Instructions that only change the configuration: ENV, LABEL, ARG, WORKDIR, EXPOSE, CMD and the
//! like.

use super::Site;
use super::rules::{
    EXPOSE_INVALID_FORMAT, EXPOSE_PROTO_CASING, JSON_ARGS_RECOMMENDED, LEGACY_KEY_VALUE_FORMAT,
    MULTIPLE_INSTRUCTIONS_DISALLOWED, SECRETS_USED_IN_ARG_OR_ENV, WORKDIR_RELATIVE_PATH,
};
use super::scope::{Context, Scope};
use crate::dockerfile::ast::{CommandLine, Pair, Word};
use crate::dockerfile::golang::quote;

/// Where a stage had each of the instructions of which only the last counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Last {
    cmd: Option<Site>,
    entrypoint: Option<Site>,
    healthcheck: Option<Site>,
}

/// Parts of a name that say it holds a secret.
const SECRET_PARTS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Parts of a name that say it does not.
const PUBLIC_PARTS: [&str; 3] = ["public", "file", "version"];

pub(super) fn env(context: &mut Context<'_, '_>, pairs: &[Pair], values: &[(String, String)]) {
    for (pair, (name, _)) in pairs.iter().zip(values) {
        legacy(context, pair);
        secret(context, "ENV", &pair.name, name);
    }
}

pub(super) fn label(context: &mut Context<'_, '_>, pairs: &[Pair]) {
    for pair in pairs {
        legacy(context, pair);
    }
}

fn legacy(context: &mut Context<'_, '_>, pair: &Pair) {
    if pair.is_legacy {
        let keyword = context.keyword;
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        context.add(&LEGACY_KEY_VALUE_FORMAT, context.place.at(&pair.name), message);
    }
}

pub(super) fn secret(context: &mut Context<'_, '_>, keyword: &str, word: &Word, name: &str) {
    let has = |parts: &[&str]| {
        name.split('_').any(|part| parts.iter().any(|known| part.eq_ignore_ascii_case(known)))
    };
    if has(&SECRET_PARTS) && !has(&PUBLIC_PARTS) {
        let quoted = quote(name);
        let message =
            format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {quoted})");
        context.add(&SECRETS_USED_IN_ARG_OR_ENV, context.place.at(word), message);
    }
}

pub(super) fn workdir(context: &mut Context<'_, '_>, scope: &mut Scope, word: &Word, path: &str) {
    // Of several relative paths, only the first hangs on the base image.
    if !scope.has_workdir && !path.starts_with('/') {
        let quoted = quote(path);
        let message = format!(
            "Relative workdir {quoted} can have unexpected results if the base image changes"
        );
        context.add(&WORKDIR_RELATIVE_PATH, context.place.at(word), message);
    }
    scope.has_workdir = true;
}

/// CMD, ENTRYPOINT and HEALTHCHECK; `line` is none for the last.
pub(super) fn command(
    context: &mut Context<'_, '_>,
    scope: &mut Scope,
    which: &str,
    line: Option<&CommandLine>,
) {
    let last = match which {
        "CMD" => &mut scope.last.cmd,
        "ENTRYPOINT" => &mut scope.last.entrypoint,
        _ => &mut scope.last.healthcheck,
    };
    let keyword = context.keyword;
    // The one before is pointed at: it is the one that does nothing.
    if let Some(before) = last.replace(context.place) {
        let message = format!(
            "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
        );
        context.add(&MULTIPLE_INSTRUCTIONS_DISALLOWED, before, message);
    }
    if matches!(line, Some(CommandLine::Shell(_))) && scope.shell.is_none() {
        let message = format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        );
        context.add(&JSON_ARGS_RECOMMENDED, context.place, message);
    }
}

/// One port of EXPOSE, expanded. What is not a port is the build's to refuse.
pub(super) fn port(context: &mut Context<'_, '_>, word: &Word, text: &str) {
    let (rest, container) = text.rsplit_once(':').map_or((None, text), |(a, b)| (Some(a), b));
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    let lower = protocol.to_lowercase();
    if port.is_empty() || !matches!(lower.as_str(), "" | "tcp" | "udp" | "sctp") {
        return;
    }
    let place = context.place.at(word);
    if protocol != lower {
        let message =
            format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
        context.add(&EXPOSE_PROTO_CASING, place, message);
    }
    if rest.is_some_and(|rest| !rest.is_empty()) {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
        );
        context.add(&EXPOSE_INVALID_FORMAT, place, message);
    }
}
