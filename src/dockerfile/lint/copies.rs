//! COPY and ADD: sources that the ignore file hides, and our own rules about what they bring.

use super::Site;
use super::rules::{ADD_WITHOUT_CHECKSUM, COPY_IGNORED_FILE, SECRET_FILE_IN_CONTEXT};
use super::scope::{Context, Scope};
use crate::dockerfile::ast::{Add, Copy, Word};
use crate::dockerfile::git_url::GitUrl;
use crate::text::path::clean;

/// What COPYs of a stage have brought.
#[derive(Debug, Clone, Default)]
pub(super) struct Copied {
    /// Where the whole context came in.
    pub(super) whole_context: Option<Site>,
}

/// How many files one message names.
const NAMED_MAX: usize = 3;

pub(super) fn copy(
    context: &mut Context<'_, '_>,
    scope: &mut Scope,
    copy: &Copy,
    sources: &[String],
) {
    if copy.from.is_none() {
        for (word, source) in copy.transfer.sources.iter().zip(sources) {
            local(context, scope, "Copy", word, source);
        }
    }
}

pub(super) fn add(context: &mut Context<'_, '_>, scope: &mut Scope, add: &Add, sources: &[String]) {
    for (word, source) in add.transfer.sources.iter().zip(sources) {
        if !matches!(GitUrl::parse(source), Ok(None)) {
            continue;
        }
        if source.starts_with("http://") || source.starts_with("https://") {
            if add.checksum.is_none() {
                let message = format!("Nothing says what {source} has to be");
                context.add(&ADD_WITHOUT_CHECKSUM, context.place.at(word), message);
            }
            continue;
        }
        local(context, scope, "Add", word, source);
    }
}

fn local(context: &mut Context<'_, '_>, scope: &mut Scope, verb: &str, word: &Word, source: &str) {
    let place = context.place.at(word);
    let source = clean(source);
    ignored(context, verb, place, &source);
    let is_whole = source == "." || source == "/";
    if is_whole {
        scope.copied.whole_context.get_or_insert(place);
    }
    let below = format!("{}/", source.trim_start_matches('/'));
    let brought: Vec<&str> = context
        .input
        .secret_files
        .iter()
        .map(String::as_str)
        .filter(|file| {
            is_whole || file.starts_with(&below) || *file == source.trim_start_matches('/')
        })
        .collect();
    if !brought.is_empty() {
        let shown = brought[..brought.len().min(NAMED_MAX)].join(", ");
        let more = match brought.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let verb = if brought.len() == 1 { "looks" } else { "look" };
        let message = format!("{shown}{more} {verb} secret and would be in the image");
        context.add(&SECRET_FILE_IN_CONTEXT, place, message);
    }
}

/// BuildKit's check of one source against the ignore file.
fn ignored(context: &mut Context<'_, '_>, verb: &str, place: Site, source: &str) {
    // With exceptions, an ignored directory may still have files.
    let Some(ignore) = context.input.ignore.filter(|m| !m.is_empty() && !m.has_exceptions()) else {
        return;
    };
    if (source == "." || source == "/")
        && !ignore.patterns().any(|pattern| matches!(pattern.as_str(), "*" | "**" | "**/*"))
    {
        return;
    }
    if ignore.is_ignored(source.as_bytes()) {
        let quoted = crate::dockerfile::golang::quote(source);
        let message =
            format!("Attempting to {verb} file {quoted} that is excluded by .dockerignore");
        context.add(&COPY_IGNORED_FILE, place, message);
    }
}

/// Whether a path of the context looks like that of a secret: keys, passwords, credentials by the
/// names that the usual programs give them.
pub fn looks_secret(path: &str) -> bool {
    const NAMES: [&str; 13] = [
        ".env",
        ".netrc",
        ".git-credentials",
        ".pgpass",
        ".pypirc",
        ".htpasswd",
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "kubeconfig",
        "service-account.json",
        "credentials.json",
    ];
    const ENDINGS: [&str; 7] =
        [".key", "-key.pem", "_key.pem", ".p12", ".pfx", ".jks", ".keystore"];
    const PATHS: [&str; 3] = [".aws/credentials", ".docker/config.json", ".kube/config"];
    /// Files that show what such a file has to hold.
    const SAMPLES: [&str; 4] = ["example", "sample", "template", "dist"];
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let ending = name.rsplit('.').next().unwrap_or_default();
    NAMES.contains(&name.as_str())
        || name.starts_with(".env.") && !SAMPLES.contains(&ending)
        || ENDINGS.iter().any(|end| name.ends_with(end) && name.len() > end.len())
        || PATHS.iter().any(|known| path == *known || path.ends_with(&format!("/{known}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for (path, want) in [
            (".env", true),
            ("app/.env.production", true),
            (".env.example", false),
            ("deploy/id_ed25519", true),
            ("id_ed25519.pub", false),
            ("tls/server.key", true),
            ("tls/server.pem", false),
            ("tls/server-key.pem", true),
            ("home/.aws/credentials", true),
            ("credentials", false),
            ("src/monkey", false),
            (".key", false),
        ] {
            assert_eq!(looks_secret(path), want, "{path}");
        }
    }
}
