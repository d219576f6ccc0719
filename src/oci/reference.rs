//! Image names: `debian`, `ghcr.io/org/app:1.2`, `app@sha256:…`.
//!
//! Source: `distribution/reference` (grammar and normalisation of familiar names).

use super::Digest;
use std::fmt;
use std::str::FromStr;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The longest repository name, domain included, in bytes.
const NAME_MAX: usize = 255;
/// The longest tag, in bytes.
const TAG_MAX: usize = 128;

/// A normalised image name: domain and path always, tag and digest where given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing at all.
    #[error("the image name is empty")]
    Empty,
    /// A character or a separator where none may be.
    #[error("invalid image name `{text}`: {what}")]
    Invalid {
        /// What was given.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Upper case in the repository.
    #[error("invalid image name `{text}`: the repository must be lower case, as `{lower}`")]
    UpperCase {
        /// What was given.
        text: String,
        /// The same in lower case.
        lower: String,
    },
    /// 64 hexadecimal digits, which would be taken for an image id.
    #[error("invalid image name `{text}`: 64 hexadecimal digits are an id, not a name")]
    LooksLikeId {
        /// What was given.
        text: String,
    },
    /// A digest of an algorithm other than sha256.
    #[error("invalid image name `{text}`: only sha256 digests are supported")]
    Algorithm {
        /// What was given.
        text: String,
    },
    /// A name above the limit of 255 bytes.
    #[error("invalid image name `{text}`: the repository is longer than {NAME_MAX} bytes")]
    TooLong {
        /// What was given.
        text: String,
    },
}

impl Reference {
    /// Parses a name as people write it and normalises it: `debian` means
    /// `docker.io/library/debian`. No tag is added; see [`or_latest`](Self::or_latest).
    ///
    /// # Errors
    ///
    /// What `docker build` would refuse, with the reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use builder::oci::Reference;
    /// let name: Reference = "debian:12".parse()?;
    /// assert_eq!(name.to_string(), "docker.io/library/debian:12");
    /// assert_eq!(name.familiar(), "debian:12");
    /// # Ok::<(), builder::oci::ReferenceError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let invalid = |what| ReferenceError::Invalid { text: text.to_owned(), what };
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId { text: text.to_owned() });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(text, digest)?)),
            None => (text, None),
        };
        let (domain, remote) = split_domain(rest);
        let (path, tag) = match remote.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remote, None),
        };
        if path.is_empty() {
            return Err(invalid("the repository is missing"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            let lower = text.replacen(path, &path.to_ascii_lowercase(), 1);
            return Err(ReferenceError::UpperCase { text: text.to_owned(), lower });
        }
        if !is_domain(domain) {
            return Err(invalid("the registry host is malformed"));
        }
        if !path.split('/').all(is_component) {
            return Err(invalid(
                "a repository is of lower-case letters and digits, separated by `.`, `_`, `__`, `-` or `/`",
            ));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(invalid(
                "a tag is at most 128 letters, digits, `_`, `.` and `-`, and starts with none of the last two",
            ));
        }
        let is_official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if is_official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong { text: text.to_owned() });
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// Returns the registry's host, with its port: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the path within the registry: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns host and path, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns the tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the same name with the tag `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Returns the name with another tag and without digest. The tag is not checked.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.tag = Some(tag.to_owned());
        self.digest = None;
        self
    }

    /// Returns the name without tag and with a digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Returns the name as people write it, without what is implied: `debian:12`.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// Returns [`familiar`](Self::familiar) without tag and digest.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Separates the host from the path: the part before the first `/` is a host only where it looks
/// like one, by a dot, a port, upper case, or by being `localhost`.
fn split_domain(text: &str) -> (&str, &str) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    (if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain }, rest)
}

fn parse_digest(text: &str, digest: &str) -> Result<Digest, ReferenceError> {
    digest.parse().map_err(|_| match digest.split_once(':') {
        Some((algorithm, hex))
            if algorithm != "sha256"
                && !algorithm.is_empty()
                && hex.len() >= 32
                && hex.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            ReferenceError::Algorithm { text: text.to_owned() }
        }
        _ => ReferenceError::Invalid {
            text: text.to_owned(),
            what: "a digest is `sha256:` and 64 lower-case hexadecimal digits",
        },
    })
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        // A colon within brackets belongs to an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| {
            !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
        });
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Checks one component: runs of letters and digits with single separators between them, which are
/// a dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let mut rest = component.as_bytes();
    loop {
        let run = rest.iter().take_while(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9')).count();
        if run == 0 {
            return false;
        }
        rest = &rest[run..];
        let separator = match rest {
            [] => return true,
            [b'.', ..] => 1,
            [b'_', b'_', ..] => 2,
            [b'_', ..] => 1,
            [b'-', ..] => rest.iter().take_while(|b| **b == b'-').count(),
            _ => return false,
        };
        rest = &rest[separator..];
    }
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let at = format!("a@sha256:{HEX}");
        let full_at = format!("docker.io/library/a@sha256:{HEX}");
        let both = format!("localhost/a:1@sha256:{HEX}");
        let cases = [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("org/app", "docker.io/org/app", "org/app"),
            ("docker.io/debian", "docker.io/library/debian", "debian"),
            ("index.docker.io/library/debian", "docker.io/library/debian", "debian"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("ghcr.io/o/a__b--c.d:T-1.x", "ghcr.io/o/a__b--c.d:T-1.x", "ghcr.io/o/a__b--c.d:T-1.x"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("Host/a", "Host/a", "Host/a"),
            (&at, &full_at, &at),
            (&both, &both, &both),
        ];
        for (text, full, familiar) in cases {
            let name = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(name.to_string(), full);
            assert_eq!(name.familiar(), familiar);
            assert_eq!(Reference::parse(full).unwrap(), name, "the full form is a fixed point");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_reason() {
        let cases = [
            ("", "empty"),
            (HEX, "id"),
            ("Debian", "lower case, as `debian`"),
            ("ghcr.io/Org/app", "as `ghcr.io/org/app`"),
            ("a/", "repository"),
            ("/a", "repository"),
            ("a//b", "repository"),
            ("-a", "repository"),
            ("a-", "repository"),
            ("a___b", "repository"),
            ("a..b", "repository"),
            ("a b", "repository"),
            (":tag", "missing"),
            ("a:", "tag"),
            ("a:-x", "tag"),
            ("a:b/c", "host"),
            ("a@sha256:abc", "digest"),
            ("a@", "digest"),
            (&format!("a@sha512:{HEX}{HEX}"), "sha256"),
            ("-host.io/a", "host"),
            ("host.io:port/a", "host"),
            (&format!("a:{}", "t".repeat(129)), "tag"),
            (&"a/".repeat(130), "repository"),
            (&"abc/abc".repeat(40), "longer"),
        ];
        for (text, what) in cases {
            let error = Reference::parse(text).expect_err(text).to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn latest_is_implied_only_without_tag_and_digest() {
        let latest = |text: &str| Reference::parse(text).unwrap().or_latest().familiar();
        assert_eq!(latest("a"), "a:latest");
        assert_eq!(latest("a:1"), "a:1");
        assert_eq!(latest(&format!("a@sha256:{HEX}")), format!("a@sha256:{HEX}"));
    }
}
