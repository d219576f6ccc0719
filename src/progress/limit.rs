//! How much of a step's output is shown.
//!
//! Source: BuildKit, util/progress/logs (behaviour and defaults); moby/buildkit README,
//! `BUILDKIT_STEP_LOG_MAX_SIZE` and `BUILDKIT_STEP_LOG_MAX_SPEED`.

use crate::text::size;
use std::time::Duration;

/// Bounds of the output of one step that is shown. `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes in all.
    pub size: Option<u64>,
    /// Bytes for each second that the step has run, the current one included.
    pub speed: Option<u64>,
}

impl Default for LogLimits {
    /// BuildKit's: 2 MiB, and 200 KiB a second.
    fn default() -> Self {
        Self { size: Some(2 << 20), speed: Some(200 << 10) }
    }
}

impl LogLimits {
    /// No bounds.
    pub const UNLIMITED: Self = Self { size: None, speed: None };

    /// Parses a value of BuildKit's variables: a number of bytes, or a negative number for no
    /// bound.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Option<u64>, String> {
        let number: i64 = text
            .trim()
            .parse()
            .map_err(|_| format!("expected a number of bytes, or -1 for no limit, not `{text}`"))?;
        Ok(u64::try_from(number).ok())
    }
}

/// How much of one step's output was shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    began: Duration,
    bytes: u64,
    is_clipping: bool,
}

impl Shown {
    /// Begins with nothing at `now`.
    pub(super) fn from(now: Duration) -> Self {
        Self { began: now, bytes: 0, is_clipping: false }
    }

    /// Returns how many of `count` bytes to show at `now`, and what to say where that is the first
    /// time that some are left out.
    pub(super) fn admit(
        &mut self,
        count: usize,
        limits: LogLimits,
        now: Duration,
    ) -> (usize, Option<String>) {
        let seconds = now.saturating_sub(self.began).as_secs() + 1;
        let by_speed = limits.speed.map(|speed| speed.saturating_mul(seconds));
        let most = limits.size.into_iter().chain(by_speed).min().unwrap_or(u64::MAX);
        let room = usize::try_from(most.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
        let shown = count.min(room);
        self.bytes += shown as u64;
        let is_clipping = shown < count;
        let is_new = is_clipping && !std::mem::replace(&mut self.is_clipping, is_clipping);
        self.is_clipping = is_clipping;
        let notice = is_new.then(|| match (limits.size, limits.speed) {
            (Some(size), _) if self.bytes >= size => {
                format!("[output clipped, log limit {} reached]", size::binary(size))
            }
            (_, Some(speed)) => {
                format!("[output clipped, log limit {}/s reached]", size::binary(speed))
            }
            (size, None) => {
                format!("[output clipped, log limit {} reached]", size::binary(size.unwrap_or(0)))
            }
        });
        (shown, notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_is_shown_at_a_rate_and_up_to_a_size() {
        let limits = LogLimits::default();
        let mut shown = Shown::from(SECOND);
        let mut total = 0;
        let mut notices = Vec::new();
        for tick in 0..400 {
            for _ in 0..64 {
                let now = SECOND + SECOND * tick / 10;
                let (count, notice) = shown.admit(16 << 10, limits, now);
                total += count;
                notices.extend(notice);
            }
            let seconds = tick as usize / 10 + 1;
            assert!(total <= (seconds * (200 << 10)).min(2 << 20), "{total} after {tick}");
        }
        assert_eq!(total, 2 << 20);
        assert_eq!(notices[0], "[output clipped, log limit 200KiB/s reached]");
        assert_eq!(notices.last().unwrap(), "[output clipped, log limit 2MiB reached]");
        assert!(notices.len() <= 11, "one each time that clipping begins: {}", notices.len());
    }

    #[test]
    fn without_bounds_all_is_shown() {
        let mut shown = Shown::from(Duration::ZERO);
        for _ in 0..100 {
            let (count, notice) = shown.admit(1 << 20, LogLimits::UNLIMITED, SECOND);
            assert_eq!((count, notice), (1 << 20, None));
        }
        let only_size = LogLimits { size: Some(10), speed: None };
        let mut shown = Shown::from(Duration::ZERO);
        let clipped = Some("[output clipped, log limit 10B reached]".to_owned());
        assert_eq!(shown.admit(11, only_size, SECOND), (10, clipped));
        assert_eq!(shown.admit(11, only_size, SECOND), (0, None));
    }

    #[test]
    fn bounds_are_read_as_buildkit_reads_them() {
        assert_eq!(LogLimits::parse("-1"), Ok(None));
        assert_eq!(LogLimits::parse("10485760"), Ok(Some(10 << 20)));
        assert_eq!(LogLimits::parse("0"), Ok(Some(0)));
        assert!(LogLimits::parse("2MB").is_err());
    }
}
