//! Private keys that sign for commands.

use super::format::{Curve, Parts, RsaParts, read};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{self, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use std::fmt;

/// Bits of an RSA modulus that can sign here.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Flags of a request to sign: the hash that is wanted of an RSA key.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// A file without a private key that can sign here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key at all.
    #[error("not a private key")]
    NotAKey,
    /// The other half.
    #[error("a public key; the private key is wanted")]
    Public,
    /// Protected by a passphrase.
    #[error("the key is encrypted")]
    Encrypted,
    /// A format or an algorithm that this agent does not sign with; the text names it.
    #[error("{0}: this kind of key is not supported here")]
    Unsupported(String),
    /// An RSA key with fewer or more bits than can be used.
    #[error("an RSA key of {0} bits; keys of 2048 to 4096 bits are supported here")]
    RsaSize(usize),
    /// The format is known, what is in it is not a key.
    #[error("the private key is damaged")]
    Malformed,
}

impl KeyError {
    /// Whether an agent of OpenSSH may be able to use the key.
    pub fn is_for_an_agent(&self) -> bool {
        matches!(self, Self::Encrypted | Self::Unsupported(_) | Self::RsaSize(_))
    }
}

/// A key pair that signs.
pub(super) struct Key {
    /// The public half, as the protocol has it.
    pub(super) public: Vec<u8>,
    secret: Secret,
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// Reads the content of a key file.
    pub(super) fn parse(file: &[u8]) -> Result<Self, KeyError> {
        match read(file)? {
            Parts::Ed25519 { seed } => {
                let pair =
                    Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Malformed)?;
                let public = joined(&[b"ssh-ed25519", pair.public_key().as_ref()]);
                Ok(Self { public, secret: Secret::Ed25519(pair) })
            }
            Parts::Ecdsa { curve, scalar } => Self::ecdsa(curve, &scalar),
            Parts::Rsa(parts) => Self::rsa(&parts),
        }
    }

    fn ecdsa(curve: Curve, scalar: &[u8]) -> Result<Self, KeyError> {
        /// Makes a key of the curve that `$library` implements, whose scalars have `$width` bytes.
        macro_rules! key {
            ($library:ident, $width:literal, $variant:ident) => {{
                let padding =
                    usize::checked_sub($width, scalar.len()).ok_or(KeyError::Malformed)?;
                let padded = [&vec![0; padding], scalar].concat();
                let key = $library::ecdsa::SigningKey::from_slice(&padded)
                    .map_err(|_| KeyError::Malformed)?;
                let point = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
                (point, Secret::$variant(key))
            }};
        }
        let (point, secret) = match curve {
            Curve::P256 => key!(p256, 32, P256),
            Curve::P384 => key!(p384, 48, P384),
            Curve::P521 => key!(p521, 66, P521),
        };
        let name = format!("ecdsa-sha2-{}", curve.name());
        let public = joined(&[name.as_bytes(), curve.name().as_bytes(), &point]);
        Ok(Self { public, secret })
    }

    fn rsa(parts: &RsaParts) -> Result<Self, KeyError> {
        let bits =
            parts.n.len() * 8 - parts.n.first().map_or(0, |top| top.leading_zeros()) as usize;
        if !RSA_BITS.contains(&bits) {
            return Err(KeyError::RsaSize(bits));
        }
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n: &parts.n, e: &parts.e },
            d: &parts.d,
            p: &parts.p,
            q: &parts.q,
            dP: &parts.dp,
            dQ: &parts.dq,
            qInv: &parts.qinv,
        };
        let pair = RsaKeyPair::from_components(&components).map_err(|_| KeyError::Malformed)?;
        let public = joined(&[b"ssh-rsa", &mpint(&parts.e), &mpint(&parts.n)]);
        Ok(Self { public, secret: Secret::Rsa(Box::new(pair)) })
    }

    /// Signs `data`; `None` if the key cannot sign as `flags` ask. SHA-1, which RSA keys without
    /// flags would use, is not offered.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        use p256::ecdsa::signature::Signer as _;
        /// The two halves of an ECDSA signature.
        macro_rules! halves {
            ($key:expr, $library:ident, $name:literal) => {{
                let signature: $library::ecdsa::Signature = $key.try_sign(data).ok()?;
                let (r, s) = signature.split_bytes();
                joined(&[$name, &joined(&[&mpint(&r), &mpint(&s)])])
            }};
        }
        Some(match &self.secret {
            Secret::Ed25519(pair) => joined(&[b"ssh-ed25519", pair.sign(data).as_ref()]),
            Secret::P256(key) => halves!(key, p256, b"ecdsa-sha2-nistp256"),
            Secret::P384(key) => halves!(key, p384, b"ecdsa-sha2-nistp384"),
            Secret::P521(key) => halves!(key, p521, b"ecdsa-sha2-nistp521"),
            Secret::Rsa(pair) => {
                let (name, padding): (&[u8], &dyn signature::RsaEncoding) =
                    if flags & RSA_SHA2_256 != 0 {
                        (b"rsa-sha2-256", &signature::RSA_PKCS1_SHA256)
                    } else if flags & RSA_SHA2_512 != 0 {
                        (b"rsa-sha2-512", &signature::RSA_PKCS1_SHA512)
                    } else {
                        return None;
                    };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signature).ok()?;
                joined(&[name, &signature])
            }
        })
    }
}

/// Writes strings of the protocol one behind the other.
pub(super) fn joined(strings: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for string in strings {
        bytes.extend((string.len() as u32).to_be_bytes());
        bytes.extend(*string);
    }
    bytes
}

/// Writes a non-negative number as the protocol has it: no leading zeros but one before a set top
/// bit.
fn mpint(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    let sign = number.first().is_some_and(|top| top & 0x80 != 0);
    [&vec![0; usize::from(sign)], number].concat()
}
