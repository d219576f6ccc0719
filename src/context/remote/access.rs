//! Credentials for sources: out of addresses, and out of secrets with names that BuildKit gave a
//! meaning.
//!
//! | secret | meaning |
//! |---|---|
//! | `GIT_AUTH_HEADER.HOST`, `GIT_AUTH_HEADER` | value of `Authorization` for git over http(s) |
//! | `GIT_AUTH_TOKEN.HOST`, `GIT_AUTH_TOKEN` | token, sent as the password of `x-access-token` |
//! | `HTTP_AUTH_HEADER_HOST` | value of `Authorization` for downloads from HOST |
//! | `HTTP_AUTH_TOKEN_HOST` | token, sent as `Bearer` |
//!
//! HOST is the host name, with `:PORT` or without. The more specific name is taken first, and
//! credentials of the address itself before all of them.
//!
//! Source: BuildKit, source/git/source.go, source/http/source.go.

use crate::dockerfile::address::Address;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt;

/// What a server of git takes as a proof of who we are.
#[derive(PartialEq, Eq)]
pub(super) enum Proof {
    /// A user name and a password; neither has a line break.
    Password(String, String),
    /// The value of `Authorization`.
    Header(String),
}

impl Proof {
    /// Reads the value of `Authorization`.
    fn of(header: &str) -> Self {
        let read = || {
            let (scheme, encoded) = header.split_once(' ')?;
            let decoded = STANDARD.decode(encoded.trim()).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, password) = text.split_once(':')?;
            let is_plain =
                scheme.eq_ignore_ascii_case("basic") && !text.contains(['\n', '\r', '\0']);
            is_plain.then(|| Self::Password(user.to_owned(), password.to_owned()))
        };
        read().unwrap_or_else(|| Self::Header(header.to_owned()))
    }
}

/// The secrets of a build that authenticate sources.
#[derive(Clone, Default)]
pub struct Access {
    secrets: BTreeMap<String, String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(…)")
    }
}

impl Access {
    /// Says whether a secret of that id authenticates sources.
    pub fn concerns(id: &str) -> bool {
        ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"].iter().any(|name| {
            id.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }) || id.starts_with("HTTP_AUTH_TOKEN_")
            || id.starts_with("HTTP_AUTH_HEADER_")
    }

    /// Adds a secret; others than those of [`Access::concerns`] have no effect.
    pub fn add(&mut self, id: &str, value: &[u8]) {
        let text = String::from_utf8_lossy(value).trim().to_owned();
        // A line break in a header would begin another one.
        if Self::concerns(id) && !text.is_empty() && !text.contains(char::is_control) {
            self.secrets.insert(id.to_owned(), text);
        }
    }

    /// Returns how git proves who we are, over http and https only.
    pub(super) fn git(&self, address: &Address) -> Option<Proof> {
        self.git_header(address).map(|header| Proof::of(&header))
    }

    /// Returns the value of `Authorization` for git, which is sent over http and https only.
    fn git_header(&self, address: &Address) -> Option<String> {
        let scheme = address.text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if !matches!(scheme.as_deref(), Some("http" | "https")) {
            return None;
        }
        if let Some(login) = &address.login {
            return Some(login.header());
        }
        let token =
            |token: &str| format!("Basic {}", STANDARD.encode(format!("x-access-token:{token}")));
        let mut names = hosts(address).map(|host| format!(".{host}")).collect::<Vec<_>>();
        names.push(String::new());
        names.iter().find_map(|name| {
            let header = self.secrets.get(&format!("GIT_AUTH_HEADER{name}")).cloned();
            header
                .or_else(|| self.secrets.get(&format!("GIT_AUTH_TOKEN{name}")).map(|it| token(it)))
        })
    }

    /// Returns the value of `Authorization` for a download.
    pub(super) fn http_header(&self, address: &Address) -> Option<String> {
        if let Some(login) = &address.login {
            return Some(login.header());
        }
        hosts(address).find_map(|host| {
            let header = self.secrets.get(&format!("HTTP_AUTH_HEADER_{host}")).cloned();
            let token = || self.secrets.get(&format!("HTTP_AUTH_TOKEN_{host}"));
            header.or_else(|| token().map(|token| format!("Bearer {token}")))
        })
    }
}

/// The names of an address's host in secrets: with its port, and without.
fn hosts(address: &Address) -> impl Iterator<Item = String> {
    let whole = address.authority();
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let bare = match whole.rsplit_once(':') {
        Some((host, port)) if is_port(port) => Some(host.to_owned()),
        _ => None,
    };
    std::iter::once(whole).chain(bare).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(secrets: &[(&str, &str)]) -> Access {
        let mut access = Access::default();
        for (id, value) in secrets {
            access.add(id, value.as_bytes());
        }
        access
    }

    #[test]
    fn the_more_specific_credentials_are_taken() {
        let git = |secrets: &[(&str, &str)], text: &str| access(secrets).git_header(&text.into());
        let token = |text: &str| {
            Some(format!("Basic {}", STANDARD.encode(format!("x-access-token:{text}"))))
        };
        let all = [
            ("GIT_AUTH_TOKEN", "t\n"),
            ("GIT_AUTH_TOKEN.h:8", "port"),
            ("GIT_AUTH_HEADER.o", "Own x"),
        ];
        assert_eq!(git(&all, "https://h/r.git"), token("t"));
        assert_eq!(git(&all, "https://H:8/r.git"), token("port"));
        assert_eq!(git(&all, "https://o:9/r.git"), Some("Own x".into()));
        assert_eq!(git(&all, "https://u:p@h:8/r.git"), Some("Basic dTpw".into()));
        assert_eq!(git(&all, "ssh://git@h/r.git"), None);
        assert_eq!(git(&[("GIT_AUTH_HEADER", "a\nb: c")], "https://h/r.git"), None);
        let http = |secrets: &[(&str, &str)], text: &str| access(secrets).http_header(&text.into());
        let all = [("HTTP_AUTH_TOKEN_h", "t"), ("HTTP_AUTH_HEADER_o", "Own x")];
        assert_eq!(http(&all, "http://h:80/f"), Some("Bearer t".into()));
        assert_eq!(http(&all, "http://o/f"), Some("Own x".into()));
        assert_eq!(http(&all, "http://other/f"), None);
    }
}
