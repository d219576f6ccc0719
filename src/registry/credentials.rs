//! Who we are to a registry.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// The user name that marks what follows as an identity token.
const TOKEN_USER: &str = "<token>";

/// A name and a password, or a token in their place. Shown, it hides its secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Password {
        /// The name.
        user: String,
        /// The password, or a personal token used as one.
        password: String,
    },
    /// A token that the token server exchanges for a short-lived one.
    Identity {
        /// The token.
        token: String,
    },
    /// A token for the registry itself.
    Registry {
        /// The token.
        token: String,
    },
}

impl Credentials {
    /// Makes credentials of a name and a secret; Docker's helpers mark identity tokens by the name.
    pub fn new(user: &str, secret: &str) -> Self {
        match user {
            TOKEN_USER => Self::Identity { token: secret.to_owned() },
            user => Self::Password { user: user.to_owned(), password: secret.to_owned() },
        }
    }

    /// Reads the `auth` of a configuration file: base64 of `user:password`.
    pub(super) fn parse(auth: &str) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        // Docker's own files have ended in zero bytes.
        let password = password.trim_end_matches('\0');
        (!user.is_empty()).then(|| Self::new(user, password))
    }

    /// Returns name and password in the form of the `Authorization` header and of `auth`.
    pub(super) fn basic(user: &str, password: &str) -> String {
        STANDARD.encode(format!("{user}:{password}"))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::Identity { .. } => "Identity(…)",
            Self::Registry { .. } => "Registry(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_is_name_and_password() {
        let basic = Credentials::basic("me", "a:b");
        assert_eq!(Credentials::parse(&basic), Some(Credentials::new("me", "a:b")));
        let token = Credentials::basic(TOKEN_USER, "x");
        assert_eq!(
            Credentials::parse(&token),
            Some(Credentials::Identity { token: "x".to_owned() })
        );
        for bad in ["", "!", &STANDARD.encode("no colon"), &STANDARD.encode(":x")] {
            assert_eq!(Credentials::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert!(!format!("{:?}", Credentials::new("user", "secret")).contains("secret"));
    }
}
