//! How many threads work side by side.

use std::num::NonZeroUsize;
use std::sync::OnceLock;

static COUNT: OnceLock<NonZeroUsize> = OnceLock::new();

/// Says how many are to; counts only before the first [`count`]. What is made does not depend on
/// it.
pub fn set(count: NonZeroUsize) {
    let _ = COUNT.set(count);
}

/// Returns how many may: what was set, else as many as there are processors for this process (its
/// affinity and its control group's quota count).
pub fn count() -> usize {
    COUNT.get_or_init(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)).get()
}
