//! Keeping secrets out of what is shown.
//!
//! Secret mounts never reach a record. But people do pass tokens by `--build-arg`, and addresses
//! carry passwords; a page that lands among the artifacts of a CI job must not repeat them.

pub use crate::show::{HIDDEN, addresses};

use crate::history::{BuildRecord, Outcome};
use std::borrow::Cow;

/// Parts of a variable's name, between underscores, that make its value a secret.
const SECRET_PARTS: &[&str] = &[
    "APIKEY",
    "AUTH",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "PASS",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PAT",
    "PWD",
    "SECRET",
    "SECRETS",
    "TOKEN",
];

/// Names that look secret and are not.
const PLAIN_NAMES: &[&str] = &["PWD", "OLDPWD"];

/// Parts that say that the value is public, though another part looks secret.
const PUBLIC_PARTS: &[&str] = &["PUBLIC", "FINGERPRINT", "ID", "FILE", "PATH", "URL"];

/// Says whether a variable's value is not to be shown, by its name.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    if PLAIN_NAMES.contains(&name.as_str()) {
        return false;
    }
    let has = |parts: &[&str]| name.split(['_', '-', '.']).any(|part| parts.contains(&part));
    has(SECRET_PARTS) && !has(PUBLIC_PARTS)
}

/// Takes secrets out of a build's record, so that it can leave the machine: values of variables
/// whose names say so, and passwords in addresses.
pub fn record(build: &mut BuildRecord) {
    let hide = |text: &mut String| {
        if let Cow::Owned(hidden) = addresses(text) {
            *text = hidden;
        }
    };
    let about = &mut build.about;
    for text in [&mut about.context, &mut about.dockerfile, &mut about.name, &mut about.repository]
    {
        hide(text);
    }
    if let Outcome::Failed { message } = &mut build.outcome {
        hide(message);
    }
    build.notes.iter_mut().for_each(hide);
    for step in &mut build.steps {
        hide(&mut step.name);
        hide(&mut step.instruction);
        step.inputs.change_texts(|name, text| match is_hidden_input(name) {
            true => HIDDEN.clone_into(text),
            false => hide(text),
        });
    }
}

/// Says whether an input of a step is a variable whose value is not to be shown.
pub fn is_hidden_input(name: &str) -> bool {
    let variable = name.split_once(' ').filter(|(kind, _)| matches!(*kind, "arg" | "env"));
    variable.is_some_and(|(_, variable)| is_secret(variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_secrets() {
        for name in ["NPM_TOKEN", "password", "AWS_SECRET_ACCESS_KEY", "GITHUB_PAT", "DB_PASSWD"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PWD", "VERSION", "PATH", "KEYBOARD", "MONKEY", "TOKENIZER", "SSH_KEY_PATH"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
