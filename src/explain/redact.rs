//! Keeping secrets out of what is shown.
//!
//! Secret mounts never reach a record. But people do pass tokens by `--build-arg`, and addresses
//! carry passwords; a page that lands among the artifacts of a CI job must not repeat them.

use std::borrow::Cow;

/// What stands in for a hidden part.
pub const HIDDEN: &str = "***";

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

/// Hides the user and password in the addresses of a text.
pub fn addresses(text: &str) -> Cow<'_, str> {
    const MARK: &str = "://";
    let mut out: Option<String> = None;
    let (mut kept, mut from) = (0, 0);
    while let Some(found) = text[from..].find(MARK) {
        let start = from + found + MARK.len();
        let authority = text[start..]
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\''))
            .map_or(text.len(), |length| start + length);
        if let Some(at) = text[start..authority].rfind('@') {
            let out = out.get_or_insert_default();
            out.push_str(&text[kept..start]);
            out.push_str(HIDDEN);
            kept = start + at;
        }
        from = start;
    }
    match out {
        Some(mut out) => {
            out.push_str(&text[kept..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_secrets() {
        for name in ["NPM_TOKEN", "password", "AWS_SECRET_ACCESS_KEY", "GITHUB_PAT", "DB_PASSWD"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PWD", "VERSION", "PATH", "KEYBOARD", "MONKEY", "TOKENIZER", "SSH_KEY_PATH"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn passwords_in_addresses_are_hidden() {
        const CASES: &[(&str, &str)] = &[
            ("git clone https://u:p@h/x y", "git clone https://***@h/x y"),
            ("https://tok@h https://h/a@b", "https://***@h https://h/a@b"),
            ("ADD https://a:b@c@d/x /", "ADD https://***@d/x /"),
            ("no address user@host:path", "no address user@host:path"),
            ("://", "://"),
        ];
        for (text, expected) in CASES {
            assert_eq!(addresses(text), *expected);
        }
    }
}
