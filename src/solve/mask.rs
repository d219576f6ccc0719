//! Secrets in what a command writes: replaced by `***` before it is shown or kept.
//!
//! A secret is found as it is, without white space around it, in base64 (in any alignment, with
//! both alphabets), and line by line if it has several. It is found across the pieces in which
//! output arrives. A text shorter than [`SHORTEST`] bytes is not replaced: it stands in any output
//! by chance; nor are lines shorter than [`SHORTEST_LINE`]. A secret longer than [`LONGEST_WHOLE`]
//! is replaced line by line only, one longer than [`LONGEST`] not at all: the search would cost
//! more memory and time than the step. The mask is made once for a build, and anew when a secret
//! has changed. Encoded, encrypted or interrupted in any other way, it is not recognised.

use super::Job;
use crate::export::guard::{ENCODINGS, base64_within};
use crate::trace;
use aho_corasick::{AhoCorasick, MatchKind};
use std::sync::{Arc, Mutex, PoisonError};

/// The least number of bytes of a secret that is replaced.
const SHORTEST: usize = 4;

/// The least number of bytes of a line of a secret, and of its base64, that is replaced.
const SHORTEST_LINE: usize = 8;

/// The most bytes of a secret that is found as a whole and in base64, of which there are a dozen
/// forms.
const LONGEST_WHOLE: usize = 16 << 10;

/// The most bytes of a secret whose lines are found.
const LONGEST: usize = 64 << 10;

/// Replacement for a secret.
const MASK: &[u8] = b"***";

/// The texts to replace.
pub(super) struct Mask {
    needles: Vec<Vec<u8>>,
    finder: AhoCorasick,
}

impl Mask {
    /// Takes the secrets of a build; `None` if nothing is to be replaced. `kept` is the mask that was
    /// made before, if one was.
    pub(super) fn of(job: &Job<'_>, kept: &Mutex<Option<Kept>>) -> Option<Arc<Self>> {
        let mut values = Vec::new();
        for secret in job.options.secrets.values() {
            // A secret that cannot be read is reported by the step that needs it.
            values.extend(secret.read(job.cancel).ok());
        }
        let credentials = job.options.credentials.iter().cloned().chain(job.plan.credentials());
        values.extend(credentials.map(|(_, value)| value.into_bytes()));
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(kept) if kept.values == values => kept.mask.clone(),
            _ => {
                for value in &values {
                    trace::hide(value);
                }
                let mask = Self::new(&values).map(Arc::new);
                *kept = Some(Kept { values, mask: mask.clone() });
                mask
            }
        }
    }

    fn new(values: &[Vec<u8>]) -> Option<Self> {
        let mut needles = Vec::new();
        for value in values {
            let trimmed = value.trim_ascii();
            if !(SHORTEST..=LONGEST).contains(&trimmed.len()) {
                continue;
            }
            if trimmed.len() <= LONGEST_WHOLE {
                for form in [value.as_slice(), trimmed] {
                    for encoding in ENCODINGS {
                        let encoded = (0..3).map(|offset| base64_within(form, offset, encoding));
                        needles.extend(encoded.filter(|text| text.len() >= SHORTEST_LINE));
                    }
                }
                needles.push(trimmed.to_vec());
            }
            let lines = trimmed.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
            needles.extend(lines.filter(|it| it.len() >= SHORTEST_LINE).map(<[u8]>::to_vec));
        }
        needles.sort();
        needles.dedup();
        if needles.is_empty() {
            return None;
        }
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&needles);
        Some(Self { needles, finder: finder.ok()? })
    }

    /// Returns how many bytes at the end of `bytes` may be the beginning of a secret.
    fn pending(&self, bytes: &[u8]) -> usize {
        let mut most = 0;
        for needle in &self.needles {
            let window = bytes.len().saturating_sub(needle.len() - 1);
            for at in memchr::memchr_iter(needle[0], &bytes[window..]) {
                let rest = &bytes[window + at..];
                if needle.starts_with(rest) {
                    most = most.max(rest.len());
                    break;
                }
            }
        }
        most
    }
}

/// The mask of a build, with the secrets it was made for.
pub(super) struct Kept {
    values: Vec<Vec<u8>>,
    mask: Option<Arc<Mask>>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(…)")
    }
}

/// One stream of output, as it comes.
#[derive(Debug, Default)]
pub(super) struct Stream {
    held: Vec<u8>,
    /// Whether a secret was replaced.
    pub(super) has_masked: bool,
}

impl Stream {
    /// Takes output; returns what can be shown of it and of what was held back.
    pub(super) fn push(&mut self, mask: &Mask, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.take(mask, false)
    }

    /// Returns what is left at the end.
    pub(super) fn finish(&mut self, mask: &Mask) -> Vec<u8> {
        self.take(mask, true)
    }

    fn take(&mut self, mask: &Mask, is_end: bool) -> Vec<u8> {
        let open = if is_end { 0 } else { mask.pending(&self.held) };
        let settled = self.held.len() - open;
        let mut out = Vec::with_capacity(self.held.len());
        let mut done = 0;
        for found in mask.finder.find_iter(&self.held) {
            // One that ends in what may be the beginning of a longer one waits with it.
            if found.end() > settled {
                break;
            }
            out.extend_from_slice(&self.held[done..found.start()]);
            out.extend_from_slice(MASK);
            done = found.end();
            self.has_masked = true;
        }
        // A match that began before the open end, and reaches into it, stays whole.
        let next = mask.finder.find(&self.held[done..]).map(|found| done + found.start());
        let keep_from = settled.min(next.unwrap_or(settled)).max(done);
        out.extend_from_slice(&self.held[done..keep_from]);
        self.held.drain(..keep_from);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    fn shown(mask: &Mask, pieces: &[&[u8]]) -> String {
        let mut stream = Stream::default();
        let mut out: Vec<u8> = Vec::new();
        for piece in pieces {
            out.extend(stream.push(mask, piece));
        }
        out.extend(stream.finish(mask));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_secret_is_masked_wherever_the_output_is_cut() {
        let mask = Mask::new(&[b"hunter2?>secret\n".to_vec()]).unwrap();
        let encoded = STANDARD.encode("hunter2?>secret");
        let texts = [
            "x hunter2?>secret y\n".to_owned(),
            "hunthunter2?>secret".to_owned(),
            format!("a {encoded}"),
        ];
        for text in texts {
            for cut in 0..=text.len() {
                let (a, b) = text.as_bytes().split_at(cut);
                let all = shown(&mask, &[a, b]);
                assert!(all.contains("***") && !all.contains("hunter2?>"), "{cut}: {all}");
                assert!(!all.contains(&encoded[..12]), "{cut}: {all}");
            }
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert!(!shown(&mask, &bytes).contains("secret"));
        }
    }

    #[test]
    fn base64_is_masked_in_every_alignment_and_alphabet() {
        let mask = Mask::new(&[b"hunter2?>secret~~".to_vec()]).unwrap();
        for before in ["", "u", "us", "user:"] {
            for engine in [STANDARD, URL_SAFE] {
                let text = engine.encode(format!("{before}hunter2?>secret~~:more"));
                let out = shown(&mask, &[text.as_bytes()]);
                assert!(out.contains("***") && out.len() < text.len() - 10, "{out}");
            }
        }
    }

    #[test]
    fn lines_of_a_secret_are_masked_and_short_texts_are_not() {
        let mask =
            Mask::new(&[b"first line here\nab\nsecond line here\n".to_vec(), b"abc".to_vec()]);
        let out = shown(&mask.unwrap(), &[b"> second line here < ab abc"]);
        assert_eq!(out, "> *** < ab abc");
        assert!(Mask::new(&[b"abc\n".to_vec(), Vec::new()]).is_none());
    }

    #[test]
    fn a_long_secret_is_masked_line_by_line_and_a_huge_one_not_at_all() {
        let line = |number: usize| format!("a line of a long secret, number {number}\n");
        let text: String = (0..1000).map(line).collect();
        assert!(text.len() > LONGEST_WHOLE && text.len() < LONGEST);
        let mask = Mask::new(&[text.clone().into_bytes()]).unwrap();
        assert!(mask.needles.len() <= 1000 && mask.needles.iter().all(|text| text.len() < 64));
        assert_eq!(shown(&mask, &[line(7).as_bytes()]), "***\n");
        assert!(Mask::new(&[text.repeat(2).into_bytes()]).is_none());
    }

    #[test]
    fn output_without_secrets_is_as_it_was() {
        let mask = Mask::new(&[b"aaab".to_vec(), b"secret-value".to_vec()]).unwrap();
        for text in ["aaaaaaaa", "secret-valuX", "", "secret-secret-", "\r\x1b[31m"] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(3).collect();
            assert_eq!(shown(&mask, &pieces), text);
        }
        assert_eq!(shown(&mask, &[b"aaa", b"aab", b"secret-", b"value"]), "aa******");
    }
}
