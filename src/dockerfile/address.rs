//! Addresses of sources, as FROM, COPY, ADD and the command line write them, and the credentials in them.
//!
//! # Not here
//!
//! Credentials from secrets, and what is done at an address: `context::remote`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// An address that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not an address that can be read: {reason}")]
pub struct AddressError {
    /// The address, without credentials.
    pub url: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An address without the credentials that were written in it, and those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// The address without credentials: fit for logs, records and keys.
    pub text: String,
    /// The credentials that stood in it.
    pub login: Option<Login>,
}

impl Address {
    /// Takes the credentials out of an address. The user of an ssh address is a part of it and
    /// stays.
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
    pub(crate) fn authority(&self) -> String {
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
    pub(crate) fn header(&self) -> String {
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

/// Shows an address without the user name and password it may hold.
pub fn redact(url: &str) -> String {
    Address::parse(url).text
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
