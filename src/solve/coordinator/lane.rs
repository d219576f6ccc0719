//! A worker that does jobs one after another, in the order in which they were handed over.
//!
//! A build that runs something has one for all that it writes: layers, records and history. A
//! prediction has one for its questions to the store. A build in which every step hits has none.

use super::Event;
use crossbeam_channel::{Sender, unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Scope;

type LaneJob<'scope> = Box<dyn FnOnce() -> Option<Event> + Send + 'scope>;

/// The way to the worker. It ends, once its jobs are done, when this is dropped.
pub(super) struct Lane<'scope> {
    jobs: Sender<LaneJob<'scope>>,
}

impl<'scope> Lane<'scope> {
    /// Starts the worker; what its jobs return, and a panic in one of them, goes to `events`.
    pub(super) fn start(scope: &'scope Scope<'scope, '_>, events: Sender<Event>) -> Self {
        let (jobs, queue) = unbounded::<LaneJob<'scope>>();
        scope.spawn(move || {
            for job in queue {
                let event = catch_unwind(AssertUnwindSafe(job));
                if let Some(event) = event.unwrap_or_else(|panic| Some(Event::Panicked(panic))) {
                    let _ = events.send(event);
                }
            }
        });
        Self { jobs }
    }

    /// Hands a job over.
    pub(super) fn hand_over(&self, job: impl FnOnce() -> Option<Event> + Send + 'scope) {
        let _ = self.jobs.send(Box::new(job));
    }
}
