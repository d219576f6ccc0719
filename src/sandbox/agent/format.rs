//! Files of private keys: OpenSSH's own format, and PEM with PKCS#1, SEC 1 or PKCS#8 inside.
//!
//! Only unencrypted files are read. What is found are numbers and names; whether they make a key is
//! decided in [`super::key`].
//!
//! Source: PROTOCOL.key of OpenSSH; RFC 5958 (PKCS#8), RFC 8017 A.1 (PKCS#1), RFC 5915 (SEC 1),
//! RFC 8410 (Ed25519), RFC 7468 (PEM).

use super::KeyError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_bigint::{BoxedUint, NonZero};

/// Start of OpenSSH's private keys.
const MAGIC: &[u8] = b"openssh-key-v1\0";

const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];

/// The parts of a private key, as they are in a file. Numbers are big-endian, without leading
/// zeros.
pub(super) enum Parts {
    Ed25519 { seed: Vec<u8> },
    Ecdsa { curve: Curve, scalar: Vec<u8> },
    Rsa(Box<RsaParts>),
}

/// Numbers of an RSA key, named as in RFC 8017.
#[derive(Default)]
pub(super) struct RsaParts {
    pub(super) n: Vec<u8>,
    pub(super) e: Vec<u8>,
    pub(super) d: Vec<u8>,
    pub(super) p: Vec<u8>,
    pub(super) q: Vec<u8>,
    pub(super) dp: Vec<u8>,
    pub(super) dq: Vec<u8>,
    pub(super) qinv: Vec<u8>,
}

/// Curves of ECDSA keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Name in the protocol.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
            Self::P521 => "nistp521",
        }
    }

    fn of_oid(oid: &[u8]) -> Result<Self, KeyError> {
        match oid {
            OID_P256 => Ok(Self::P256),
            OID_P384 => Ok(Self::P384),
            OID_P521 => Ok(Self::P521),
            _ => Err(KeyError::Unsupported("ECDSA key on an unknown curve".to_owned())),
        }
    }
}

/// Reads the first private key of a file.
pub(super) fn read(file: &[u8]) -> Result<Parts, KeyError> {
    let text = String::from_utf8_lossy(file);
    let Some((label, body)) = pem(&text) else {
        let starts = ["ssh-", "ecdsa-", "sk-", "---- BEGIN SSH2 PUBLIC"];
        return Err(match starts.iter().any(|start| text.trim_start().starts_with(start)) {
            true => KeyError::Public,
            false => KeyError::NotAKey,
        });
    };
    if label.ends_with("PUBLIC KEY") || label.ends_with("CERTIFICATE") {
        return Err(KeyError::Public);
    }
    // Headers of RFC 1421, as OpenSSL wrote them: `Proc-Type: 4,ENCRYPTED`.
    if label.starts_with("ENCRYPTED") || body.contains("ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    let packed: String = body.lines().filter(|line| !line.contains(':')).map(str::trim).collect();
    let bytes = STANDARD.decode(packed).map_err(|_| KeyError::Malformed)?;
    match label {
        "OPENSSH PRIVATE KEY" => openssh(&bytes),
        "RSA PRIVATE KEY" => pkcs1(&bytes),
        "EC PRIVATE KEY" => sec1(&bytes, None),
        "PRIVATE KEY" => pkcs8(&bytes),
        _ => Err(KeyError::Unsupported(label.to_owned())),
    }
}

/// Returns the label and the body of the first PEM block that is not one of curve parameters, which
/// OpenSSL puts before keys.
fn pem(text: &str) -> Option<(&str, &str)> {
    let mut rest = text;
    loop {
        let (_, from) = rest.split_once("-----BEGIN ")?;
        let (label, from) = from.split_once("-----")?;
        let (body, after) = from.split_once("-----END ")?;
        if label != "EC PARAMETERS" {
            return Some((label, body));
        }
        rest = after;
    }
}

/// A cursor over the strings and numbers of the ssh protocol.
pub(super) struct Wire<'a>(pub(super) &'a [u8]);

impl<'a> Wire<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length as usize)
    }

    /// A non-negative mpint.
    fn mpint(&mut self) -> Option<Vec<u8>> {
        Some(unsigned(self.string()?))
    }
}

/// Takes the leading zeros off a number.
fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_vec()
}

fn openssh(bytes: &[u8]) -> Result<Parts, KeyError> {
    let mut wire = Wire(bytes.strip_prefix(MAGIC).ok_or(KeyError::Malformed)?);
    let cipher = wire.string().ok_or(KeyError::Malformed)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let mut private = || {
        let (_kdf, _options, count) = (wire.string()?, wire.string()?, wire.number()?);
        let _public = (count == 1).then(|| wire.string())??;
        wire.string()
    };
    let mut wire = Wire(private().ok_or(KeyError::Malformed)?);
    let mut head = || Some((wire.number()?, wire.number()?, wire.string()?));
    let (one, other, kind) = head().ok_or(KeyError::Malformed)?;
    if one != other {
        return Err(KeyError::Malformed);
    }
    let parts = match kind {
        b"ssh-ed25519" => ed25519_fields(&mut wire),
        b"ssh-rsa" => match rsa_fields(&mut wire) {
            Some(mut parts) => {
                (parts.dp, parts.dq) = exponents(&parts).ok_or(KeyError::Malformed)?;
                Some(Parts::Rsa(Box::new(parts)))
            }
            None => None,
        },
        b"ecdsa-sha2-nistp256" => ecdsa_fields(&mut wire, Curve::P256),
        b"ecdsa-sha2-nistp384" => ecdsa_fields(&mut wire, Curve::P384),
        b"ecdsa-sha2-nistp521" => ecdsa_fields(&mut wire, Curve::P521),
        other => {
            return Err(KeyError::Unsupported(String::from_utf8_lossy(other).into_owned()));
        }
    };
    parts.ok_or(KeyError::Malformed)
}

fn ed25519_fields(wire: &mut Wire<'_>) -> Option<Parts> {
    let (public, private) = (wire.string()?, wire.string()?);
    let seed = private.strip_suffix(public).filter(|seed| seed.len() == 32)?.to_vec();
    Some(Parts::Ed25519 { seed })
}

fn ecdsa_fields(wire: &mut Wire<'_>, curve: Curve) -> Option<Parts> {
    let (name, _public) = (wire.string()?, wire.string()?);
    let scalar = wire.mpint()?;
    (name == curve.name().as_bytes()).then_some(Parts::Ecdsa { curve, scalar })
}

fn rsa_fields(wire: &mut Wire<'_>) -> Option<RsaParts> {
    let mut next = || wire.mpint();
    // In the order of the file.
    Some(RsaParts {
        n: next()?,
        e: next()?,
        d: next()?,
        qinv: next()?,
        p: next()?,
        q: next()?,
        ..RsaParts::default()
    })
}

/// Computes the exponents of the Chinese remainder theorem, which OpenSSH's format leaves out: d
/// mod p-1, d mod q-1.
fn exponents(parts: &RsaParts) -> Option<(Vec<u8>, Vec<u8>)> {
    let number = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, (bytes.len() * 8) as u32).ok();
    let d = number(&parts.d)?;
    let reduced = |prime: &[u8]| {
        let mut below = prime.to_vec();
        // An odd number is one above the number without its last bit.
        let last = below.last_mut().filter(|last| **last & 1 == 1)?;
        *last -= 1;
        let below: NonZero<BoxedUint> = Option::from(NonZero::new(number(&below)?))?;
        Some(unsigned(&d.rem(&below).to_be_bytes()))
    };
    Some((reduced(&parts.p)?, reduced(&parts.q)?))
}

/// A cursor over DER.
struct Der<'a>(&'a [u8]);

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const TAGGED_0: u8 = 0xa0;

impl<'a> Der<'a> {
    /// Takes the next element if it has this tag.
    fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&[found, length], mut rest) = self.0.split_first_chunk::<2>()?;
        if found != tag {
            return None;
        }
        let mut length = usize::from(length);
        if length > 0x7f {
            let (digits, after) = rest.split_at_checked(length & 0x7f)?;
            if digits.len() > 4 {
                return None;
            }
            length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    fn integer(&mut self) -> Option<Vec<u8>> {
        Some(unsigned(self.element(INTEGER)?))
    }
}

fn pkcs1(bytes: &[u8]) -> Result<Parts, KeyError> {
    let read = || {
        let mut der = Der(Der(bytes).element(SEQUENCE)?);
        // Version 1 has more than two primes.
        if !der.integer()?.is_empty() {
            return None;
        }
        let mut next = || der.integer();
        Some(RsaParts {
            n: next()?,
            e: next()?,
            d: next()?,
            p: next()?,
            q: next()?,
            dp: next()?,
            dq: next()?,
            qinv: next()?,
        })
    };
    read().map(|parts| Parts::Rsa(Box::new(parts))).ok_or(KeyError::Malformed)
}

/// Reads the key of a curve, which is in the key or known from around it.
fn sec1(bytes: &[u8], known: Option<Curve>) -> Result<Parts, KeyError> {
    let read = || {
        let mut der = Der(Der(bytes).element(SEQUENCE)?);
        let _version = der.integer()?;
        let scalar = unsigned(der.element(OCTETS)?);
        let oid = der.element(TAGGED_0).and_then(|tagged| Der(tagged).element(OID));
        Some((scalar, oid))
    };
    let (scalar, oid) = read().ok_or(KeyError::Malformed)?;
    let curve = match (known, oid) {
        (Some(curve), _) => curve,
        (None, Some(oid)) => Curve::of_oid(oid)?,
        (None, None) => {
            return Err(KeyError::Unsupported("ECDSA key without a named curve".to_owned()));
        }
    };
    Ok(Parts::Ecdsa { curve, scalar })
}

fn pkcs8(bytes: &[u8]) -> Result<Parts, KeyError> {
    let read = || {
        let mut der = Der(Der(bytes).element(SEQUENCE)?);
        let _version = der.integer()?;
        let mut algorithm = Der(der.element(SEQUENCE)?);
        Some((algorithm.element(OID)?, algorithm.element(OID), der.element(OCTETS)?))
    };
    let (algorithm, parameter, key) = read().ok_or(KeyError::Malformed)?;
    match algorithm {
        OID_RSA => pkcs1(key),
        OID_EC => sec1(key, parameter.map(Curve::of_oid).transpose()?),
        OID_ED25519 => {
            let seed = Der(key).element(OCTETS).filter(|seed| seed.len() == 32);
            let seed = seed.ok_or(KeyError::Malformed)?.to_vec();
            Ok(Parts::Ed25519 { seed })
        }
        _ => Err(KeyError::Unsupported("key of an unknown algorithm".to_owned())),
    }
}
