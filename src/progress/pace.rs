//! How far a part of a vertex is, in a form that fits beside its name: amount, rate, remaining
//! time.

use super::seconds;
use crate::text::size;
use jiff::Timestamp;

/// Rates are shown from this much time on, in seconds; before it they say nothing.
const RATE_FROM: f64 = 1.0;

/// A transfer, a compression, a hash in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) started: Timestamp,
    /// What was done before it was watched: a download that goes on.
    first: u64,
    pub(super) current: u64,
    total: Option<u64>,
}

impl Pace {
    pub(super) fn new(started: Timestamp, current: u64, total: Option<u64>) -> Self {
        Self { started, first: current, current, total }
    }

    pub(super) fn advance(&mut self, current: u64, total: Option<u64>) {
        self.current = current;
        self.total = total;
    }

    /// Returns ` 12.30MB / 45.60MB`, or less where less is known.
    pub(super) fn amount(&self) -> String {
        match self.total {
            Some(total) => format!(" {} / {}", size::progress(self.current), size::progress(total)),
            None if self.current > 0 => format!(" {}", size::progress(self.current)),
            None => String::new(),
        }
    }

    /// Returns ` 3.20MB/s 11s left`; empty in the beginning.
    pub(super) fn rate(&self, now: Timestamp) -> String {
        let time = seconds(self.started, now);
        let moved = self.current.saturating_sub(self.first);
        if time < RATE_FROM || moved == 0 {
            return String::new();
        }
        let rate = moved as f64 / time;
        let text = format!(" {}/s", size::progress(rate as u64));
        match self.total.map(|total| total.saturating_sub(self.current)) {
            Some(left) if left > 0 => format!("{text} {} left", duration(left as f64 / rate)),
            _ => text,
        }
    }
}

/// A time without fractions: `9s`, `4m05s`, `2h10m`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil().min(360_000.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Digits of a digest that are shown.
const DIGITS: usize = 12;

/// Shortens the sha256 digests of a text to 12 digits, so that amounts fit beside them.
pub(super) fn short(text: &str) -> String {
    const MARK: &str = "sha256:";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (before, from) = rest.split_at(at + MARK.len());
        out.push_str(before);
        let digits = from.bytes().take_while(u8::is_ascii_hexdigit).count();
        let kept = if digits == 64 { DIGITS } else { digits };
        out.push_str(&from[..kept]);
        rest = &from[digits..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_pace_has_amount_rate_and_remaining_time() {
        let mut pace = Pace::new(at(10), 500, Some(10_000_500));
        assert_eq!((pace.amount().as_str(), pace.rate(at(10)).as_str()), (" 500B / 10.00MB", ""));
        pace.advance(2_000_500, Some(10_000_500));
        assert_eq!(pace.rate(at(12)), " 1.00MB/s 8s left");
        pace.advance(10_000_500, Some(10_000_500));
        assert_eq!(pace.rate(at(15)), " 2.00MB/s");
        let mut open = Pace::new(at(0), 0, None);
        open.advance(3_000, None);
        assert_eq!((open.amount().as_str(), open.rate(at(3)).as_str()), (" 3.00kB", " 1.00kB/s"));
    }

    #[test]
    fn remaining_times_are_short() {
        for (seconds, text) in [(0.2, "1s"), (59.0, "59s"), (245.0, "4m05s"), (7800.0, "2h10m")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn digests_are_shortened_and_other_text_is_not() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(short(&format!("pushing {digest}")), "pushing sha256:0123456789ab");
        assert_eq!(
            short(&format!("{digest} {digest}x")),
            "sha256:0123456789ab sha256:0123456789abx"
        );
        for text in ["", "sha256:", "sha256:abc", "plain text"] {
            assert_eq!(short(text), text);
        }
    }
}
