//! Waiting for what another process or thread does, with a deadline.

use std::time::{Duration, Instant};

/// After this a test fails rather than waits for ever.
const LIMIT: Duration = Duration::from_mins(1);

/// The pause between two looks, for what sends no event: states of processes and of files.
const PAUSE: Duration = Duration::from_millis(1);

/// Looks again and again until `holds` is true.
///
/// # Panics
///
/// After a minute, with `what` was waited for.
#[track_caller]
#[allow(dead_code, reason = "each test program uses a part of the kit")]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(PAUSE);
    }
}
