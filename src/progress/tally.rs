//! Counting towards the status of a vertex, from any thread.

use super::{Event, Outcome, Progress, Vertex};
use crate::oci::Digest;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Interval at which a status is sent while its amount grows.
const EVERY: Duration = Duration::from_millis(100);

/// How long work goes on before it is worth a vertex of its own.
const PATIENCE: Duration = Duration::from_secs(1);

/// An amount of bytes that grows, shown as a part of a vertex.
#[derive(Debug)]
pub struct Tally {
    progress: Progress,
    vertex: Vertex,
    id: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    done: u64,
    total: Option<u64>,
    /// When the status was last sent; before the first, when the work began.
    sent: Instant,
    shown: Shown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// The vertex is not known to the renderer yet, and starts if the work takes long.
    Not,
    /// The vertex is of this tally alone.
    AsVertex,
    /// The vertex belongs to something larger.
    AsPart,
}

impl Tally {
    /// Starts a part `id` of a vertex that has begun. `total` is in bytes.
    pub fn part(progress: &Progress, vertex: Digest, id: String, total: Option<u64>) -> Self {
        let vertex = Vertex { digest: vertex, ..Vertex::internal(String::new()) };
        let tally = Self::new(progress, vertex, id, total, Shown::AsPart);
        tally.send(&tally.lock(), false);
        tally
    }

    /// Starts work that gets a vertex of its own, called `name`, if it takes long.
    pub fn of_long_work(progress: &Progress, name: String, total: Option<u64>) -> Self {
        let id = name.clone();
        Self::new(progress, Vertex::internal(name), id, total, Shown::Not)
    }

    fn new(
        progress: &Progress,
        vertex: Vertex,
        id: String,
        total: Option<u64>,
        shown: Shown,
    ) -> Self {
        let state = State { done: 0, total, sent: Instant::now(), shown };
        Self { progress: progress.clone(), vertex, id, state: Mutex::new(state) }
    }

    /// Adds bytes. `measure` finds out the total where it is not known; it is asked once, before
    /// the amount is first shown.
    pub fn add(&self, bytes: u64, measure: impl FnOnce() -> Option<u64>) {
        let mut state = self.lock();
        state.done += bytes;
        let wait = if state.shown == Shown::Not { PATIENCE } else { EVERY };
        if state.sent.elapsed() < wait {
            return;
        }
        if state.shown == Shown::Not {
            state.shown = Shown::AsVertex;
            state.total = state.total.or_else(measure);
            self.progress.started(self.vertex.clone());
        }
        state.sent = Instant::now();
        self.send(&state, false);
    }

    /// Ends the part. `made` is the number of bytes that came out of it, if that is another one.
    pub fn finish(&self, made: Option<u64>) {
        let mut state = self.lock();
        if let Some(made) = made {
            (state.done, state.total) = (made, None);
        }
        if state.shown != Shown::Not {
            self.send(&state, true);
        }
        if state.shown == Shown::AsVertex {
            self.progress.done(self.vertex.digest, Outcome::Ran);
        }
        state.shown = Shown::AsPart;
    }

    fn send(&self, state: &State, is_done: bool) {
        let (vertex, id) = (self.vertex.digest, self.id.clone());
        let (current, total) = (state.done, state.total.map(|total| total.max(state.done)));
        self.progress.emit(Event::Status { vertex, id, current, total, is_done });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tally {
    /// A vertex that was started ends, also after a failure.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.shown == Shown::AsVertex {
            self.progress.done(self.vertex.digest, Outcome::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Mode, Output};
    use std::io::Write;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(work: impl FnOnce(&Progress)) -> String {
        let sink = Sink::default();
        let progress =
            Progress::new(Mode::Plain, Output::to(sink.clone()), jiff::Timestamp::UNIX_EPOCH);
        work(&progress);
        progress.finish();
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    /// As if the last status had been sent long ago.
    fn later(tally: &Tally) {
        tally.lock().sent -= PATIENCE;
    }

    #[test]
    fn work_is_shown_with_its_total_once_it_takes_long() {
        let text = shown(|progress| {
            let tally = Tally::of_long_work(progress, "hashing the files".to_owned(), None);
            tally.add(1_000, || panic!("not yet"));
            later(&tally);
            tally.add(1_000, || Some(4_000));
            later(&tally);
            tally.add(2_000, || panic!("not again"));
            tally.finish(None);
        });
        assert!(text.starts_with("#1 hashing the files\n"), "{text}");
        assert!(text.contains("2.00kB / 4.00kB"), "{text}");
        assert!(text.contains("4.00kB / 4.00kB done") && text.contains("#1 DONE"), "{text}");
        let text = shown(|progress| {
            let tally = Tally::of_long_work(progress, "hashing the files".to_owned(), None);
            tally.add(1_000, || Some(1));
            tally.finish(None);
        });
        assert_eq!(text, "");
    }

    #[test]
    fn a_part_shows_what_goes_in_and_ends_with_what_came_out() {
        let text = shown(|progress| {
            let vertex = Vertex::internal("exporting");
            progress.started(vertex.clone());
            let tally = Tally::part(progress, vertex.digest, "gzip".to_owned(), Some(10_000));
            later(&tally);
            tally.add(5_000, || None);
            tally.finish(Some(3_000));
            progress.done(vertex.digest, Outcome::Ran);
        });
        assert!(text.contains("gzip 5.00kB / 10.00kB"), "{text}");
        assert!(text.contains("gzip 3.00kB done"), "{text}");
    }

    #[test]
    fn work_that_fails_ends_its_vertex() {
        let text = shown(|progress| {
            let tally = Tally::of_long_work(progress, "hashing".to_owned(), Some(9));
            later(&tally);
            tally.add(1, || None);
        });
        assert!(text.contains("#1 CANCELED"), "{text}");
    }
}
