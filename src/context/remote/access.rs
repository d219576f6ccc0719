//! Credentials for sources: out of addresses, and out of secrets with names that BuildKit gave a meaning.
//!
//! | secret | meaning |
//! |---|---|
//! | `GIT_AUTH_HEADER.HOST`, `GIT_AUTH_HEADER` | value of `Authorization` for git over http(s) |
//! | `GIT_AUTH_TOKEN.HOST`, `GIT_AUTH_TOKEN` | token, sent as the password of `x-access-token` |
//! | `HTTP_AUTH_HEADER_HOST` | value of `Authorization` for downloads from HOST |
//! | `HTTP_AUTH_TOKEN_HOST` | token, sent as `Bearer` |
//!
//! HOST is the host name, with `:PORT` or without. The more specific name is taken first, and credentials
//! of the address itself before all of them.
//!
//! Source: BuildKit, source/git/source.go, source/http/source.go.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt;

/// An address without the credentials that were written in it, and those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// The address without credentials: fit for logs, records and keys.
    pub text: String,
    /// The credentials that stood in it.
    pub login: Option<Login>,
}

impl Address {
    /// Takes the credentials out of an address. The user of an ssh address is a part of it and stays.
    pub fn parse(address: &str) -> Self {
        let whole = || Self { text: address.to_owned(), login: None };
        let Some((scheme, rest)) = address.split_once("://") else { return whole() };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let Some(at) = rest[..end].rfind('@') else { return whole() };
        let (userinfo, host) = (&rest[..at], &rest[at + 1..]);
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        if scheme.eq_ignore_ascii_case("ssh") {
            let login = password.map(|_| Login::new(user, password));
            return Self { text: format!("{scheme}://{user}@{host}"), login };
        }
        Self { text: format!("{scheme}://{host}"), login: Some(Login::new(user, password)) }
    }

    /// Returns `host[:port]` of an address with a scheme, in lower case.
    fn authority(&self) -> String {
        let rest = self.text.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        rest.rsplit('@').next().unwrap_or_default().to_ascii_lowercase()
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        Self::parse(text)
    }
}

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: String,
    password: String,
    /// As they stood in the address, percent-encoded.
    raw: Vec<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    fn new(user: &str, password: Option<&str>) -> Self {
        let raw = match password {
            Some(password) => vec![password.to_owned()],
            // A user name alone is a token.
            None => vec![user.to_owned()],
        };
        Self { user: decode(user), password: decode(password.unwrap_or_default()), raw }
    }

    /// Returns the value of `Authorization`.
    fn header(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }

    /// Returns the texts that are secret, as typed and decoded.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = self.raw.clone();
        let decoded = if self.password.is_empty() { &self.user } else { &self.password };
        if !secrets.contains(decoded) {
            secrets.push(decoded.clone());
        }
        secrets
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let decoded = (byte == b'%')
            .then(|| Some((digit(ahead.next())? * 16 + digit(ahead.next())?) as u8))
            .flatten();
        match decoded {
            Some(decoded) => {
                out.push(decoded);
                bytes = ahead;
            }
            None => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

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
    fn credentials_are_taken_out_of_addresses() {
        for (text, clean, secrets) in [
            ("https://u:p%40q@h:1/x.git#a", "https://h:1/x.git#a", Some(vec!["p%40q", "p@q"])),
            ("https://token@h/x", "https://h/x", Some(vec!["token"])),
            ("http://a:b@c@h?x", "http://h?x", Some(vec!["b@c"])),
            ("ssh://git@h/r", "ssh://git@h/r", None),
            ("ssh://git:pw@h/r", "ssh://git@h/r", Some(vec!["pw"])),
            ("https://h/a@b", "https://h/a@b", None),
            ("git@h:r", "git@h:r", None),
            ("dir", "dir", None),
        ] {
            let address = Address::parse(text);
            assert_eq!(address.text, clean);
            let expected =
                secrets.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(address.login.as_ref().map(Login::secrets), expected, "{text}");
            assert!(!format!("{address:?}").contains("p%40q"));
        }
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
