//! Which commands of a build run in an emulator, for its history and for one hint.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a command runs emulated before a hint is due.
const LONG: Duration = Duration::from_mins(1);

/// The commands of one build.
#[derive(Debug, Default)]
pub(super) struct Emulations(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the places of their steps in the plan.
    emulators: BTreeMap<usize, String>,
    has_hinted: bool,
}

impl Emulations {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command begins to run in an emulator.
    pub(super) fn begin(&self, step: usize, emulator: String) {
        self.lock().emulators.insert(step, emulator);
    }

    /// Returns the emulator that a step's command ran in.
    pub(super) fn of(&self, step: usize) -> Option<String> {
        self.lock().emulators.get(&step).cloned()
    }

    /// Returns the hint that a command that has run for so long is due: once a build.
    pub(super) fn hint(&self, step: usize, running: Duration) -> Option<String> {
        if running < LONG {
            return None;
        }
        let mut state = self.lock();
        if state.has_hinted || !state.emulators.contains_key(&step) {
            return None;
        }
        state.has_hinted = true;
        Some(
            "it has run emulated for a minute: a stage FROM --platform=$BUILDPLATFORM that \
             cross-compiles runs without an emulator"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_that_runs_for_a_minute_is_hinted_at_once() {
        let emulations = Emulations::default();
        assert_eq!(emulations.hint(1, LONG), None, "it runs natively");
        emulations.begin(1, "qemu".to_owned());
        emulations.begin(2, "qemu".to_owned());
        assert_eq!(emulations.hint(1, LONG / 2), None);
        assert!(emulations.hint(1, LONG).is_some());
        assert_eq!(emulations.hint(2, LONG), None, "once a build");
        assert_eq!(emulations.of(2).as_deref(), Some("qemu"));
        assert_eq!(emulations.of(3), None);
    }
}
