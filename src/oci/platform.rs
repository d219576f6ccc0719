//! Platforms: `linux/amd64`, `linux/arm/v7`.
//!
//! Source: containerd, `platforms` (aliases, default variants, order of preference).

use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;

/// An operating system and a processor, in normal form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's name: `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// Empty where it is the default one: of amd64 `v1`, of arm64 `v8`; arm always has one.
    pub variant: String,
}

/// A text that does not have the form of a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform `{text}`: expected os/arch or os/arch/variant, such as linux/arm64")]
pub struct PlatformParseError {
    /// What was given.
    pub text: String,
}

/// Operating systems, by Go's names.
pub const OSES: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

/// Architectures, by Go's names.
pub const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
];

/// The variants of architectures that have any.
pub const VARIANTS: &[(&str, &[&str])] = &[
    ("amd64", &["v1", "v2", "v3", "v4"]),
    ("arm", &["v5", "v6", "v7", "v8"]),
    (
        "arm64",
        &[
            "v8", "v8.0", "v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v8.6", "v8.7", "v8.8", "v8.9",
            "v9", "v9.0", "v9.1", "v9.2", "v9.3", "v9.4", "v9.5", "v9.6",
        ],
    ),
];

impl Platform {
    /// Makes a platform of parts in any spelling and normalises it.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let (architecture, variant) =
            (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.to_owned());
        Self { os, architecture, variant }
    }

    /// Returns the platform this program runs on.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, host_architecture(), "")
    }

    /// Parses `os/arch[/variant]`, or an operating system or architecture alone, the rest being
    /// that of `host`.
    ///
    /// # Errors
    ///
    /// Returns [`PlatformParseError`] for anything else.
    pub fn parse_for(text: &str, host: &Self) -> Result<Self, PlatformParseError> {
        let error = || PlatformParseError { text: text.to_owned() };
        let parts: Vec<_> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(is_word) {
            return Err(error());
        }
        match parts[..] {
            [one] => {
                let as_os = Self::new(one, "", "");
                if OSES.contains(&as_os.os.as_str()) {
                    return Ok(Self { os: as_os.os, ..host.clone() });
                }
                let as_architecture = Self::new(&host.os, one, "");
                if ARCHITECTURES.contains(&as_architecture.architecture.as_str()) {
                    return Ok(as_architecture);
                }
                Err(error())
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(error()),
        }
    }

    /// Reads the platform fields of a config or of a descriptor's `platform`; `None` where it has
    /// no architecture.
    pub fn of_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("");
        match text("architecture") {
            "" => None,
            architecture => Some(Self::new(text("os"), architecture, text("variant"))),
        }
    }

    /// Returns the object that a descriptor's `platform` holds.
    pub fn to_json(&self) -> Value {
        let mut value = json!({"architecture": self.architecture, "os": self.os});
        if !self.variant.is_empty() {
            value["variant"] = json!(self.variant);
        }
        value
    }

    /// Says how well an image for `other` serves here: 0 is an exact match, more is worse, `None`
    /// does not run.
    ///
    /// Processors run what older ones of their line run: arm/v7 also v6 and v5, amd64/v3 also v2
    /// and v1.
    pub fn rank(&self, other: &Self) -> Option<u32> {
        if self.os != other.os {
            return None;
        }
        let level = |p: &Self| match (p.architecture.as_str(), p.variant.as_str()) {
            ("amd64", "") => Some(1),
            ("arm64", "") => Some(80),
            ("arm64", variant) => {
                // v8, v8.1, v9: a decimal number.
                let (major, minor) =
                    variant.strip_prefix('v')?.split_once('.').unwrap_or((&variant[1..], "0"));
                Some(major.parse::<u32>().ok()? * 10 + minor.parse::<u32>().ok()?)
            }
            (_, variant) => variant.strip_prefix('v')?.parse().ok(),
        };
        if self.architecture == other.architecture {
            if self.variant == other.variant {
                return Some(0);
            }
            return match (level(self), level(other)) {
                (Some(mine), Some(theirs)) if theirs <= mine => Some(mine - theirs),
                _ => None,
            };
        }
        // 64-bit ARM processors run 32-bit programs, as a last resort.
        match (self.architecture.as_str(), other.architecture.as_str()) {
            ("arm64", "arm") => level(other).filter(|l| *l <= 8).map(|l| 1008 - l),
            ("amd64", "386") => Some(1000),
            _ => None,
        }
    }
}

/// Go's name of the processor this program was compiled for.
const fn host_architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else if cfg!(target_arch = "x86") {
        "386"
    } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        "ppc64le"
    } else {
        // riscv64, s390x, arm and loong64 have the same name here and there, or a prefix of it.
        std::env::consts::ARCH
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = PlatformParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse_for(text, &Self::host())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_become_one() {
        let host = Platform::new("linux", "amd64", "");
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("i386", "linux/386"),
            ("linux", "linux/amd64"),
            ("macos", "darwin/amd64"),
            ("windows/amd64", "windows/amd64"),
        ];
        for (text, normal) in cases {
            assert_eq!(Platform::parse_for(text, &host).unwrap().to_string(), normal, "{text}");
        }
        for text in ["", "/", "linux/", "a/b/c/d", "nonsense", "linux/am d64", "linux//v7"] {
            assert!(Platform::parse_for(text, &host).is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_older_variant_is_the_best_substitute() {
        let rank = |a: &str, b: &str| -> Option<u32> {
            a.parse::<Platform>().unwrap().rank(&b.parse().unwrap())
        };
        assert_eq!(rank("linux/arm/v7", "linux/arm/v7"), Some(0));
        assert!(rank("linux/arm/v7", "linux/arm/v6") < rank("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert!(rank("linux/arm64", "linux/arm/v7").is_some());
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/riscv64", "linux/riscv64"), Some(0));
    }
}
