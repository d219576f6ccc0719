//! Secrets of a build are looked for in what is about to leave it.
//!
//! In come the values that were given as secrets; out go the places of an image that hold one, as
//! it is or in base64. Nothing here repeats a value: places are named with it blotted out.
//!
//! # What is found, and what is not
//!
//! - A value is found wherever its bytes stand in a row: in a file, a name, a link's target, a
//!   string of the config. White space around it does not count.
//! - In base64 it is found within a longer text too (as in `auth` of Docker's config file), with
//!   the alphabet of files and that of addresses; not across the line breaks that some tools put
//!   in.
//! - Values shorter than [`SHORTEST`] bytes are not looked for: they stand in any image by chance.
//! - What is compressed, encrypted or hashed is not seen through.
//!
//! # Not here
//!
//! Which layers a build made, and what is done about a find: the command line.

use super::ExportError;
use crate::layer::{LayerEntryKind, LayerError, Walk, XattrSpace};
use crate::oci::Config;
use crate::sys::cancel::Cancel;
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

/// The least number of bytes of a value that is looked for.
pub const SHORTEST: usize = 8;

/// How much of a file is looked at in one piece, in bytes.
const PIECE: usize = 1 << 20;

/// The encodings of base64: with the alphabet of files, and with that of addresses.
pub(crate) const ENCODINGS: [&GeneralPurpose; 2] = [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD];

/// How a secret stands in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// In base64.
    Base64,
}

/// A secret in a place where it should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The secret's id.
    pub id: String,
    /// How it stands there.
    pub form: Form,
    /// A path in a layer, with a `/` in front; or a field of the config, as `config.Env[2]`.
    pub place: String,
}

/// Knows what not to let through.
#[derive(Debug, Default)]
pub struct Guard {
    needles: Vec<Needle>,
    /// The bytes of the longest needle.
    longest: usize,
}

#[derive(Debug)]
struct Needle {
    id: String,
    form: Form,
    finder: Finder<'static>,
}

impl Guard {
    /// Adds a secret; says whether it is long enough to be looked for.
    pub fn add(&mut self, id: &str, value: &[u8]) -> bool {
        let value = value.trim_ascii();
        if value.len() < SHORTEST {
            return false;
        }
        let mut forms = vec![(Form::Plain, value.to_vec())];
        for encoding in ENCODINGS {
            for offset in 0..3 {
                let text = base64_within(value, offset, encoding);
                if forms.iter().all(|(_, other)| *other != text) {
                    forms.push((Form::Base64, text));
                }
            }
        }
        for (form, bytes) in forms {
            self.longest = self.longest.max(bytes.len());
            let finder = Finder::new(&bytes).into_owned();
            self.needles.push(Needle { id: id.to_owned(), form, finder });
        }
        true
    }

    /// Says whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    fn first(&self, bytes: &[u8]) -> Option<&Needle> {
        self.needles.iter().find(|needle| needle.finder.find(bytes).is_some())
    }

    /// Returns what is found in a stream, once.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn stream(&self, mut from: impl Read, place: &str) -> io::Result<Option<Leak>> {
        let mut window = vec![0; PIECE + self.longest];
        let mut kept = 0;
        loop {
            let length = match from.read(&mut window[kept..]) {
                Ok(0) => return Ok(None),
                Ok(length) => kept + length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if let Some(needle) = self.first(&window[..length]) {
                return Ok(Some(self.leak(needle, place)));
            }
            // What a needle may have begun in is looked at again with what follows.
            kept = length.min(self.longest.saturating_sub(1));
            window.copy_within(length - kept..length, 0);
        }
    }

    /// Returns what is found in a layer, for each file once.
    ///
    /// # Errors
    ///
    /// [`ExportError::Layer`] where it cannot be read.
    pub fn layer(&self, fs: BorrowedFd<'_>, cancel: &Cancel) -> Result<Vec<Leak>, ExportError> {
        let mut leaks = Vec::new();
        let walked = Walk::new(XattrSpace::detect(), cancel).run(fs, |entry, file| {
            let path = || format!("/{}", String::from_utf8_lossy(entry.path));
            let name = self.first(entry.path).or_else(|| match entry.kind {
                LayerEntryKind::Symlink { target } => self.first(target),
                _ => None,
            });
            if let Some(needle) = name {
                leaks.push(self.leak(needle, &path()));
            } else if let Some(file) = file {
                let found = self.stream(File::from(file), &path());
                leaks.extend(found.map_err(|e| LayerError::io("read", entry.path, e))?);
            }
            Ok(())
        });
        match walked {
            Ok(()) => Ok(leaks),
            Err(LayerError::Cancelled) => Err(ExportError::Cancelled),
            Err(e) => Err(e.into()),
        }
    }

    /// Returns what is found in a config, its history included, for each field once.
    pub fn config(&self, config: &Config) -> Vec<Leak> {
        let mut leaks = Vec::new();
        let mut open = vec![(String::new(), config.as_json())];
        while let Some((place, value)) = open.pop() {
            match value {
                Value::String(text) => {
                    leaks.extend(self.first(text.as_bytes()).map(|n| self.leak(n, &place)));
                }
                Value::Array(items) => {
                    let items = items.iter().enumerate();
                    open.extend(items.map(|(i, item)| (format!("{place}[{i}]"), item)));
                }
                Value::Object(fields) => {
                    let dot = if place.is_empty() { "" } else { "." };
                    for (key, value) in fields {
                        let place = format!("{place}{dot}{key}");
                        leaks.extend(self.first(key.as_bytes()).map(|n| self.leak(n, &place)));
                        open.push((place, value));
                    }
                }
                _ => {}
            }
        }
        leaks.sort_by(|a, b| a.place.cmp(&b.place));
        leaks
    }

    fn leak(&self, needle: &Needle, place: &str) -> Leak {
        Leak { id: needle.id.clone(), form: needle.form, place: self.blotted(place) }
    }

    /// Replaces whatever secrets a text holds.
    pub fn blotted(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for needle in &self.needles {
            while let Some(at) = needle.finder.find(text.as_bytes()) {
                let mut bytes = text.into_bytes();
                bytes.splice(at..at + needle.finder.needle().len(), *b"***");
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        text
    }
}

/// Returns the letters that base64 has for `value`, and for nothing else, where it begins `offset`
/// bytes after a group of three.
pub(crate) fn base64_within(value: &[u8], offset: usize, encoding: &GeneralPurpose) -> Vec<u8> {
    let text = encoding.encode([&[0; 2][..offset], value].concat());
    // Only groups of six bits that belong to the value alone are the same in every text.
    let first = (offset * 8).div_ceil(6);
    let last = (offset + value.len()) * 8 / 6;
    text.as_bytes().get(first..last).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::process::Command;

    const SECRET: &str = "s3cr3t-tok?n>>";

    fn guard() -> Guard {
        let mut guard = Guard::default();
        assert!(guard.add("token", format!("  {SECRET}\n").as_bytes()));
        guard
    }

    /// As the tool of the system writes it.
    fn base64(text: &str) -> String {
        let shell = Command::new("sh")
            .args(["-c", "printf %s \"$0\" | base64 -w0", text])
            .output()
            .unwrap();
        String::from_utf8(shell.stdout).unwrap()
    }

    #[test]
    fn a_value_is_found_as_it_is_and_in_base64() {
        let guard = guard();
        let form = |text: &str| guard.first(text.as_bytes()).map(|needle| needle.form);
        assert_eq!(form(&format!("token={SECRET};")), Some(Form::Plain));
        assert_eq!(form("s3cr3t-tok?n>"), None);
        for before in ["", "u", "us", "use", "user:", "someone:"] {
            for after in ["", "\n", "@host", "/x"] {
                let text = base64(&format!("{before}{SECRET}{after}"));
                assert_eq!(form(&text), Some(Form::Base64), "{before} {after}");
                let address = text.replace('+', "-").replace('/', "_");
                assert_eq!(form(&address), Some(Form::Base64), "{before} {after}");
            }
        }
        assert!(!Guard::default().add("short", b" 1234567 \n"));
    }

    #[test]
    fn it_is_found_across_the_pieces_that_are_read() {
        let guard = guard();
        for at in [0, PIECE - 5, PIECE, 2 * PIECE - 1, 3 * PIECE + 17] {
            let mut bytes = vec![b'.'; at];
            bytes.extend(SECRET.as_bytes());
            bytes.extend([b'.'; 100]);
            let leak = guard.stream(&bytes[..], "/f").unwrap().expect("found");
            assert_eq!((leak.id.as_str(), leak.place.as_str()), ("token", "/f"));
        }
        assert_eq!(guard.stream(&vec![b's'; 3 * PIECE][..], "/f").unwrap(), None);
    }

    #[test]
    fn files_names_and_fields_are_reported_and_the_value_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("clean"), "nothing").unwrap();
        fs::write(dir.path().join("conf"), format!("a\n{SECRET}\n")).unwrap();
        fs::write(dir.path().join(format!("x-{SECRET}")), "").unwrap();
        std::os::unix::fs::symlink(SECRET, dir.path().join("link")).unwrap();
        let fs = File::open(dir.path()).unwrap();
        let leaks = guard().layer(fs.as_fd(), &Cancel::new()).unwrap();
        let places: Vec<_> = leaks.iter().map(|leak| leak.place.as_str()).collect();
        assert_eq!(places, ["/conf", "/link", "/x-***"]);

        let config = Config::from_json(serde_json::json!({
            "config": {"Env": ["A=b", format!("T={SECRET}")], "Labels": {SECRET: "x"}},
            "history": [{"created_by": format!("RUN {}", base64(SECRET))}],
        }));
        let leaks = guard().config(&config);
        let places: Vec<_> = leaks.iter().map(|leak| leak.place.as_str()).collect();
        assert_eq!(places, ["config.Env[1]", "config.Labels.***", "history[0].created_by"]);
    }
}
