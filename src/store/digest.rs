//! The identities things are filed under, each its own type so that they cannot be mixed.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A string that is not a `sha256:` digest, or no 64-digit hexadecimal identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid digest: {text:?}")]
pub struct DigestParseError {
    /// What was to be parsed.
    pub text: String,
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut out = [0u8; 64];
    for (i, byte) in bytes.iter().enumerate() {
        out[2 * i] = HEX[usize::from(byte >> 4)];
        out[2 * i + 1] = HEX[usize::from(byte & 15)];
    }
    f.write_str(std::str::from_utf8(&out).expect("hexadecimal digits are ASCII"))
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0u8; 32];
    for (i, pair) in digits.chunks_exact(2).enumerate() {
        out[i] = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps a finished 32-byte hash.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the 32 bytes of the hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the 64 lower-case hexadecimal digits, without any prefix.
            pub fn to_hex(&self) -> String {
                let text = self.to_string();
                text[$prefix.len()..].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = DigestParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix)
                    .and_then(parse_hex)
                    .map(Self)
                    .ok_or_else(|| DigestParseError { text: text.to_owned() })
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = DigestParseError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

identity!(
    /// The sha256 of bytes as they are stored or sent, printed `sha256:<hex>`.
    ///
    /// Also the type of a `diff_id`, which is the sha256 of a layer's uncompressed tar.
    Digest,
    "sha256:"
);
identity!(
    /// The hash (BLAKE3) of a layer's entries without times; see `layer::content`.
    ContentId,
    ""
);
identity!(
    /// The hash (BLAKE3) of a layer's entries with their times: the name of its directory in the
    /// store.
    LayerId,
    ""
);
identity!(
    /// The hash (BLAKE3) of the times that a step gave its entries on purpose; see
    /// `layer::content`.
    TimesId,
    ""
);
identity!(
    /// The hash (BLAKE3) of a stack's content ids, and of the times that its steps set, from the
    /// bottom up: which files a step starts from.
    ChainId,
    ""
);
identity!(
    /// What a cache record is filed under: the hash (BLAKE3) of a step's own inputs, without its
    /// parent.
    Key,
    ""
);

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl ChainId {
    /// The chain of no layers: `FROM scratch`.
    pub fn scratch() -> Self {
        Self(*blake3::hash(b"builder chain v1").as_bytes())
    }

    /// Returns the chain that `content` on top of `self` makes.
    #[must_use]
    pub fn with(&self, content: &ContentId) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(content.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Returns the chain whose topmost step set these times; the same chain where it set none.
    #[must_use]
    pub fn with_times(&self, times: Option<&TimesId>) -> Self {
        let Some(times) = times else { return *self };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(b"times").update(times.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_printing_and_parsing() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn upper_case_short_and_foreign_digests_are_refused() {
        for text in ["sha256:ABC", "", "sha512:00", &format!("sha256:{}", "G".repeat(64))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_that_were_set_make_another_chain() {
        let chain = ChainId::scratch().with(&ContentId::from_bytes([1; 32]));
        assert_eq!(chain.with_times(None), chain);
        let (a, b) = (TimesId::from_bytes([1; 32]), TimesId::from_bytes([2; 32]));
        assert_ne!(chain.with_times(Some(&a)), chain);
        assert_ne!(chain.with_times(Some(&a)), chain.with_times(Some(&b)));
    }

    #[test]
    fn the_order_of_layers_matters_to_a_chain() {
        let (a, b) = (ContentId::from_bytes([1; 32]), ContentId::from_bytes([2; 32]));
        assert_ne!(ChainId::scratch().with(&a).with(&b), ChainId::scratch().with(&b).with(&a));
    }
}
