//! `--platform`, as all commands take it.

use crate::dockerfile::errors::did_you_mean;
use crate::oci::{ARCHITECTURES, OSES, Platform, PlatformParseError, VARIANTS};

/// Options that do not name a platform, or several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// One does not have the form of a platform.
    #[error(transparent)]
    Form(#[from] PlatformParseError),
    /// A part of it is not the name of anything.
    #[error("unknown {what} `{word}` in platform `{text}`{}", .near.map_or_else(String::new, |near| format!(": did you mean `{near}`?")))]
    Unknown {
        /// What was given.
        text: String,
        /// What the part should name.
        what: &'static str,
        /// The part.
        word: String,
        /// A similar name.
        near: Option<&'static str>,
    },
    /// More than one where one image has one.
    #[error("several platforms ({}): this command takes one; call it once for each", .texts.join(", "))]
    Several {
        /// What was given.
        texts: Vec<String>,
    },
}

/// Names that users give to some of [`ARCHITECTURES`].
const OTHER_SPELLINGS: &[&str] = &["aarch64", "armhf", "armel", "i386", "x86_64"];

/// Reads the values of all `--platform` options of a command that takes one platform, each of which
/// may be a list with commas; empty ones count for nothing.
///
/// # Errors
///
/// [`PlatformError`] for several platforms, and for operating systems, architectures and variants
/// that do not exist.
pub fn parse(texts: &[String]) -> Result<Option<Platform>, PlatformError> {
    let mut found = parse_all(texts)?;
    if found.len() > 1 {
        let texts = found.iter().map(ToString::to_string).collect();
        return Err(PlatformError::Several { texts });
    }
    Ok(found.pop())
}

/// As [`parse`], for a command that takes several: each once, in their order. `local` is the
/// platform of this machine.
///
/// # Errors
///
/// [`PlatformError`], but for several platforms.
pub fn parse_all(texts: &[String]) -> Result<Vec<Platform>, PlatformError> {
    let texts = texts.iter().flat_map(|text| text.split(','));
    let mut found: Vec<Platform> = Vec::new();
    for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
        let platform = match text {
            "local" => Platform::host(),
            text => parse_known(text)?,
        };
        if !found.contains(&platform) {
            found.push(platform);
        }
    }
    Ok(found)
}

/// Parses a text, of which every part must be known.
fn parse_known(text: &str) -> Result<Platform, PlatformError> {
    let unknown = |what, word: &str, names: &[&'static str]| {
        let near = did_you_mean(word, names.iter().copied());
        PlatformError::Unknown { text: text.to_owned(), what, word: word.to_owned(), near }
    };
    let platform = text.parse::<Platform>().map_err(|error| {
        let names = [ARCHITECTURES, OTHER_SPELLINGS, OSES].concat();
        match did_you_mean(text, names) {
            Some(near) => PlatformError::Unknown {
                text: text.to_owned(),
                what: "operating system or architecture",
                word: text.to_owned(),
                near: Some(near),
            },
            None => PlatformError::from(error),
        }
    })?;
    let parts: Vec<&str> = text.split('/').collect();
    if !OSES.contains(&platform.os.as_str()) {
        return Err(unknown("operating system", parts[0], OSES));
    }
    if !ARCHITECTURES.contains(&platform.architecture.as_str()) {
        let names = [ARCHITECTURES, OTHER_SPELLINGS].concat();
        return Err(unknown("architecture", parts.get(1).unwrap_or(&text), &names));
    }
    let variants = VARIANTS.iter().find(|(name, _)| *name == platform.architecture);
    if let (Some((_, variants)), variant) = (variants, platform.variant.as_str())
        && !variant.is_empty()
        && !variants.contains(&variant)
    {
        return Err(unknown("variant", parts.get(2).unwrap_or(&variant), variants));
    }
    Ok(platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_one_platform_that_exists() {
        let read = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            parse(&texts)
        };
        let said = |texts: &[&str]| read(texts).unwrap_err().to_string();
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["", " , "]), Ok(None));
        for same in [&["linux/arm64"][..], &["arm64", "linux/aarch64"], &["linux/arm64/v8,arm64"]] {
            assert_eq!(read(same).unwrap().unwrap().to_string(), "linux/arm64", "{same:?}");
        }
        assert_eq!(read(&["local"]), Ok(Some(Platform::host())));
        assert_eq!(read(&["linux/arm/6"]).unwrap().unwrap().variant, "v6");
        for several in [&["linux/amd64", "linux/arm64"][..], &["linux/amd64,linux/arm64"]] {
            assert!(said(several).contains("(linux/amd64, linux/arm64)"), "{several:?}");
            let texts: Vec<String> = several.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(parse_all(&texts).unwrap().len(), 2, "{several:?}");
        }
        for (text, expected) in [
            ("amd65", "did you mean `amd64`?"),
            (
                "linux/amd65",
                "unknown architecture `amd65` in platform `linux/amd65`: did you mean `amd64`?",
            ),
            (
                "linus/amd64",
                "unknown operating system `linus` in platform `linus/amd64`: did you mean `linux`?",
            ),
            ("linux/arm/v77", "unknown variant `v77`"),
            ("linux/amd64/v5", "unknown variant `v5`"),
            ("linux/aarch46", "did you mean `aarch64`?"),
            ("linux/", "did you mean `linux`?"),
            (
                "linux/amd64,linux/quantum",
                "unknown architecture `quantum` in platform `linux/quantum`",
            ),
            ("nothing-like-it", "expected os/arch"),
        ] {
            assert!(said(&[text]).contains(expected), "{text}: {}", said(&[text]));
        }
    }
}
