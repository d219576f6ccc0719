//! What is said of flags and commands that other programs have and this one refuses.

use super::argv;
use crate::dockerfile::errors::did_you_mean;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;

/// Flags of buildah's and podman's `build` that are refused, and what to do instead;
/// `docs/compat.md` has a row for each.
const FLAGS: &[(&str, &str)] = &[
    ("--all-platforms", "name them: --platform linux/amd64,linux/arm64"),
    ("--authfile", "name the file in the environment: REGISTRY_AUTH_FILE=FILE builder build …"),
    ("--cache-ttl", "remove what is old: builder prune --filter until=24h"),
    ("--cert-dir", "put the certificates into certs.d, or name them in registries.toml"),
    ("--cgroupns", OWN_NAMESPACE),
    ("--cpp-flag", "files are not preprocessed: cpp -E Dockerfile.in | builder build -f - ."),
    ("--creds", "a command line can be read by others: builder login REGISTRY"),
    ("--decryption-key", "encrypted images are not read"),
    ("--device", "steps get no devices of this machine"),
    (
        "--disable-compression",
        "name it in the output: -o type=oci,dest=FILE,compression=uncompressed",
    ),
    ("--dns", RESOLVERS),
    ("--dns-option", RESOLVERS),
    ("--dns-search", RESOLVERS),
    ("--env", "write ENV into the Dockerfile"),
    ("--from", "replace the base image: --build-context NAME=docker-image://IMAGE"),
    ("--group-add", "the groups of a user come from the image's /etc/group"),
    ("--hooks-dir", "there are no OCI hooks"),
    ("--identity-label", "no such label is written"),
    ("--ipc", OWN_NAMESPACE),
    ("--logfile", "redirect stderr: builder build . 2> FILE"),
    ("--no-hosts", "a step always has an /etc/hosts of its own, which is in no layer"),
    ("--omit-history", "an image always has its history"),
    ("--pid", OWN_NAMESPACE),
    ("--sign-by", "images are not signed"),
    ("--stdin", "steps read nothing: COPY what they need, or mount it"),
    ("--unsetenv", "a variable of the base image can be set to nothing: ENV NAME="),
    ("--userns-gid-map", "--userns-first says where the ids begin"),
    ("--userns-uid-map", "--userns-first says where the ids begin"),
    ("--uts", OWN_NAMESPACE),
];

const OWN_NAMESPACE: &str = "a step always has a namespace of its own";
const RESOLVERS: &str = "steps use the machine's resolvers";

/// Commands of docker that manage what an engine keeps: containers, networks, volumes, clusters.
const OF_ENGINES: &[&str] = &[
    "attach",
    "bake",
    "commit",
    "compose",
    "config",
    "container",
    "context",
    "cp",
    "create",
    "events",
    "exec",
    "export",
    "kill",
    "logs",
    "network",
    "node",
    "pause",
    "port",
    "ps",
    "rename",
    "restart",
    "rm",
    "scout",
    "secret",
    "service",
    "stack",
    "start",
    "stats",
    "stop",
    "swarm",
    "top",
    "trust",
    "unpause",
    "update",
    "volume",
    "wait",
];

/// Puts what helps in place of clap's tips: it offers `push` for `ps`, `--os` for
/// `--no-such-flag`, and to pass unknown flags as values.
pub(super) fn explained(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let text = |error: &clap::Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let is_of_build = argv::first_word(words)
        .is_some_and(|at| ["build", "check", "explain"].iter().any(|name| words[at] == *name));
    match error.kind() {
        ErrorKind::UnknownArgument => {
            error.remove(ContextKind::TrailingArg);
            error.remove(ContextKind::Suggested);
            let typed = text(&error, ContextKind::InvalidArg).unwrap_or_default();
            let flag = typed.split('=').next().unwrap_or_default();
            let reason = FLAGS.iter().find(|(name, _)| is_of_build && *name == flag);
            let is_kanikos = is_of_build
                && ["--destination", "--context", "--dockerfile", "--no-push"].contains(&flag);
            if is_kanikos {
                error.remove(ContextKind::SuggestedArg);
                let command = "that is a flag of kaniko's: builder kaniko --context dir://. --destination NAME";
                let command = vec![StyledStr::from(command)];
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(command));
            } else if let Some((_, reason)) = reason {
                error.remove(ContextKind::SuggestedArg);
                let reason = StyledStr::from(*reason);
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![reason]));
            } else if let Some(near) = text(&error, ContextKind::SuggestedArg)
                && did_you_mean(flag.trim_start_matches('-'), [near.trim_start_matches('-')])
                    .is_none()
            {
                error.remove(ContextKind::SuggestedArg);
            }
        }
        ErrorKind::InvalidSubcommand => {
            let typed = text(&error, ContextKind::InvalidSubcommand).unwrap_or_default();
            error.remove(ContextKind::Suggested);
            if OF_ENGINES.contains(&typed.as_str()) {
                error.remove(ContextKind::SuggestedSubcommand);
                let reason = "that is a command for an engine's containers, networks or volumes: \
                              there are none here, and `builder run` leaves none behind";
                let reason = vec![StyledStr::from(reason)];
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(reason));
            } else if let Some(ContextValue::Strings(names)) =
                error.remove(ContextKind::SuggestedSubcommand)
                // For tests and pipelines.
                && let names = names.iter().map(String::as_str).filter(|name| !["buildx", "manifest", "imagetools"].contains(name))
                && let Some(near) = did_you_mean(&typed, names)
            {
                let near = ContextValue::Strings(vec![near.to_owned()]);
                error.insert(ContextKind::SuggestedSubcommand, near);
            }
        }
        _ => {}
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn answer(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let flag = |name| Arg::new(name).long(name);
        let build = Command::new("build").arg(flag("quiet")).arg(flag("os")).arg(Arg::new("path"));
        let definition = Command::new("x").subcommands([build, Command::new("push")]);
        let error = definition.subcommand_required(true).try_get_matches_from(&words).unwrap_err();
        explained(error, &words).to_string()
    }

    #[test]
    fn what_helps_is_said_and_nothing_else() {
        for (line, part) in [
            ("x build --quite a", "'--quiet'"),
            ("x build --authfile=a b", "REGISTRY_AUTH_FILE"),
            ("x build --creds a:b c", "builder login"),
            ("x build --destination a c", "builder kaniko"),
            ("x ps", "leaves none behind"),
            ("x psuh", "'push'"),
            ("x buidl", "'build'"),
        ] {
            let answer = answer(line);
            assert!(answer.contains("tip:") && answer.contains(part), "{line}: {answer}");
        }
        for line in ["x build --no-such-flag", "x push --authfile", "x build --arm", "x frobnicate"]
        {
            assert!(!answer(line).contains("tip:"), "{line}: {}", answer(line));
        }
    }

    #[test]
    fn the_table_of_documents_has_the_same_flags() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compat.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter(|line| line.contains("| refused |"));
        let flags: Vec<&str> = rows.filter_map(|line| line.split('`').nth(1)).collect();
        assert_eq!(FLAGS.iter().map(|(flag, _)| *flag).collect::<Vec<_>>(), flags);
    }
}
