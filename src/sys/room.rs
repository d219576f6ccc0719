//! Watch over the free space of a disk that is written to.
//!
//! RUN steps are watched one by one, so that the error names the step; this watches everything else
//! that fills a disk: downloads, unpacking, copies, exports. It rests while a RUN step is watched.

use super::cancel::Cancel;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the disk is looked at: a fast one takes less in that time than what is to stay.
const EVERY: Duration = Duration::from_millis(50);

/// RUN steps that are watched by themselves.
static STEPS: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are free for others than root on the disk of `dir`, or of the nearest directory above
/// that exists.
pub fn free(dir: &Path) -> Option<u64> {
    let disk = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Keeps [`Watch`]es at rest until it is dropped.
#[derive(Debug)]
pub struct Step(());

impl Step {
    /// Begins a RUN step that is watched by itself.
    pub fn begin() -> Self {
        STEPS.fetch_add(1, Ordering::SeqCst);
        Self(())
    }

    /// Ends it with its own error about the disk, which is the only one to report.
    pub fn has_failed(self) {
        std::mem::forget(self);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        STEPS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Watches a disk until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Cancels `cancel`, with the reason, once the disk of `dir` has less than `floor` bytes free,
    /// or less than half of what it had before, if that is little already. 0 watches nothing.
    pub fn start(dir: &Path, floor: u64, cancel: &Cancel) -> Self {
        let dir: PathBuf = dir.to_owned();
        Self::start_with(move || free(&dir), floor, EVERY, cancel)
    }

    fn start_with(
        free: impl Fn() -> Option<u64> + Send + 'static,
        floor: u64,
        every: Duration,
        cancel: &Cancel,
    ) -> Self {
        if floor == 0 {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = channel::<()>();
        let cancel = cancel.clone();
        let lowest = |before: Option<u64>| before.map_or(0, |before| floor.min(before / 2));
        let mut least = lowest(free());
        let watch = move || {
            let mut is_resting = false;
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if STEPS.load(Ordering::SeqCst) > 0 {
                    is_resting = true;
                    continue;
                }
                let Some(left) = free() else { continue };
                if std::mem::take(&mut is_resting) {
                    // What the step left is where the rest begins.
                    least = least.min(left / 2);
                }
                if left < least {
                    cancel.fill(left);
                    return;
                }
            }
        };
        // Without a thread (a limit of processes) the disk is not watched.
        let thread = std::thread::Builder::new().name("room".to_owned()).spawn(watch).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    /// Watches a disk that has a byte less free at each look; returns what was left when it was
    /// stopped.
    fn stopped_at(before: u64, floor: u64) -> u64 {
        let cancel = Cancel::new();
        let left = Arc::new(AtomicU64::new(before));
        let look = move || Some(left.fetch_sub(1, Ordering::SeqCst));
        let _watch = Watch::start_with(look, floor, Duration::from_micros(10), &cancel);
        crate::wait::eventually("the watch stops the work", || cancel.is_cancelled());
        cancel.room_left().unwrap()
    }

    #[test]
    fn work_is_stopped_at_the_floor_or_at_half_of_what_there_was() {
        assert_eq!(stopped_at(100, 40), 39);
        assert_eq!(stopped_at(100, 1000), 49);
    }

    #[test]
    fn without_a_floor_nothing_is_watched() {
        let cancel = Cancel::new();
        drop(Watch::start(Path::new("/"), 0, &cancel));
        drop(Watch::start(Path::new("/nowhere/at/all"), 1, &cancel));
        assert!(!cancel.is_cancelled() && cancel.room_left().is_none());
    }
}
