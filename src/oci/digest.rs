//! Digests: 32 bytes of hash with their text form, each kind its own type so that none is taken
//! for another.
//!
//! Source: OCI image specification 1.1, "descriptor.md", section "Digests".

use std::fmt;

/// A string that is not a `sha256:` digest, or no 64-digit hexadecimal identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid digest: {text:?}")]
pub struct DigestParseError {
    /// What was to be parsed.
    pub text: String,
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes 64 lower-case hexadecimal digits.
pub(crate) fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut out = [0u8; 64];
    for (i, byte) in bytes.iter().enumerate() {
        out[2 * i] = HEX[usize::from(byte >> 4)];
        out[2 * i + 1] = HEX[usize::from(byte & 15)];
    }
    f.write_str(std::str::from_utf8(&out).expect("hexadecimal digits are ASCII"))
}

/// Reads 64 lower-case hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Option<[u8; 32]> {
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

/// Defines a type of 32-byte hashes whose text is a prefix and 64 lower-case hexadecimal digits.
macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
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

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($prefix)?;
                $crate::oci::write_hex(&self.0, f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{self}")
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::oci::DigestParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix)
                    .and_then($crate::oci::parse_hex)
                    .map(Self)
                    .ok_or_else(|| $crate::oci::DigestParseError { text: text.to_owned() })
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::oci::DigestParseError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

pub(crate) use hash_type;

hash_type!(
    /// The sha256 of bytes as they are stored or sent, printed `sha256:<hex>`.
    ///
    /// Also the type of a `diff_id`, which is the sha256 of a layer's uncompressed tar.
    Digest,
    "sha256:"
);
impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
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
}
