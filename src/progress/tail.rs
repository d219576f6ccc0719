//! The last lines of a log.

use super::clean::clean_line;

/// How many bytes of a step's log are kept for error messages: some 100 long lines.
const KEPT: usize = 16 << 10;

/// The end of what a step wrote.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(&data[data.len().saturating_sub(KEPT)..]);
        // Dropping the front only at twice the size keeps the cost per byte constant.
        if self.bytes.len() > 2 * KEPT {
            self.bytes.drain(..self.bytes.len() - KEPT);
        }
    }

    /// Returns at most the `n` last lines, oldest first.
    pub(super) fn lines(&self, n: usize) -> Vec<String> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        if text.is_empty() {
            return Vec::new();
        }
        let mut lines: Vec<_> = text.rsplit(|&b| b == b'\n').take(n).map(clean_line).collect();
        lines.reverse();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_survive_a_long_log() {
        let mut tail = Tail::default();
        assert!(tail.lines(3).is_empty());
        for i in 0..100_000 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        tail.push(b"partial");
        assert_eq!(tail.lines(3), ["line 99998", "line 99999", "partial"]);
        assert!(tail.bytes.len() <= 2 * KEPT);
    }
}
