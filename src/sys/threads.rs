//! How many threads work side by side.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

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

/// Does `work` for each number below `count`, at most `workers` at once; returns the results in the
/// order of the numbers.
///
/// # Errors
///
/// The first error; nothing new is begun after one.
pub fn side_by_side<T: Send, E: Send>(
    count: usize,
    workers: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let result = work(number);
            if result.is_err() {
                next.store(count, Ordering::Relaxed);
            }
            done.lock().expect("no thread panics while it holds this").push((number, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(count) {
            scope.spawn(worker);
        }
        worker();
    });
    let mut done = done.into_inner().expect("all threads ended");
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_an_error_ends_it() {
        let squares = side_by_side(20, 4, |n| Ok::<_, ()>(n * n)).unwrap();
        assert_eq!(squares, (0..20).map(|n| n * n).collect::<Vec<_>>());
        assert!(side_by_side(0, 4, Ok::<_, ()>).unwrap().is_empty());
        let begun = AtomicUsize::new(0);
        let failed = side_by_side(1000, 1, |n| {
            begun.fetch_add(1, Ordering::Relaxed);
            if n == 3 { Err("it ends here") } else { Ok(n) }
        });
        assert!(failed.is_err());
        assert_eq!(begun.into_inner(), 4);
    }
}
