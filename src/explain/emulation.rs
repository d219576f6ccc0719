//! What it cost that steps of a build ran emulated, and whether cross-compiling would pay.
//!
//! A step is compared with its like: one of the same instruction that ran natively, in the same
//! build for another platform, or in an earlier build.

use super::report::seconds;
use crate::history::{StepOutcome, StepRecord};

/// Steps that ran emulated for so long together, in microseconds, are worth a hint in any case.
const LONG_US: u64 = 60_000_000;

/// A step that took less, in microseconds, is not worth a change of the Dockerfile.
const WORTH_US: u64 = 2_000_000;

/// How many times as long as natively a step must have taken.
const SLOWER: u64 = 4;

/// How long a step's command ran in its build, if it did.
fn ran_us(step: &StepRecord) -> Option<u64> {
    match &step.outcome {
        StepOutcome::Ran { cost } | StepOutcome::Failed { cost, .. } => Some(cost.wall_us),
        _ => None,
    }
}

/// Says whether steps ran emulated for so long that other records are worth a look.
pub fn is_notable(steps: &[StepRecord]) -> bool {
    emulated(steps).map(|(_, us)| us).sum::<u64>() >= WORTH_US
}

fn emulated(steps: &[StepRecord]) -> impl Iterator<Item = (&StepRecord, u64)> {
    let steps = steps.iter().filter(|step| step.emulator.is_some());
    steps.filter_map(|step| Some((step, ran_us(step)?)))
}

/// Returns a hint for the author of the Dockerfile, with the figures of these steps of a build, and
/// of the steps of earlier ones.
pub fn hint<'a>(
    steps: &'a [StepRecord],
    earlier: impl IntoIterator<Item = &'a StepRecord>,
) -> Option<String> {
    let total: u64 = emulated(steps).map(|(_, us)| us).sum();
    let (slowest, us) = emulated(steps).max_by_key(|(_, us)| *us)?;
    let is_like = |step: &&StepRecord| {
        step.emulator.is_none()
            && step.instruction == slowest.instruction
            && matches!(step.outcome, StepOutcome::Ran { .. })
    };
    let natively = steps.iter().chain(earlier).find(is_like).and_then(ran_us);
    let natively = natively.filter(|own| us >= WORTH_US && us / SLOWER >= (*own).max(1));
    if natively.is_none() && total < LONG_US {
        return None;
    }
    let name = slowest.instruction.lines().next().unwrap_or_default();
    let figures = match natively {
        Some(own) => format!("{} emulated, {} natively", seconds(us), seconds(own)),
        None => format!("{} of {} that steps ran emulated", seconds(us), seconds(total)),
    };
    Some(format!(
        "{name}: {figures}; a stage FROM --platform=$BUILDPLATFORM that cross-compiles needs no \
         emulator"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cost;
    use crate::explain::testing::step;

    fn ran(number: usize, instruction: &str, seconds: u64, emulator: Option<&str>) -> StepRecord {
        let cost = Cost { wall_us: seconds * 1_000_000, ..Cost::default() };
        StepRecord {
            outcome: StepOutcome::Ran { cost },
            emulator: emulator.map(str::to_owned),
            ..step(number, "build", instruction)
        }
    }

    #[test]
    fn the_hint_has_the_figures_of_the_slowest_step_and_of_its_like() {
        let qemu = Some("qemu");
        let steps = [ran(0, "RUN apt", 3, qemu), ran(1, "RUN make", 63, qemu)];
        let alone = hint(&steps, []).unwrap();
        assert!(alone.starts_with("RUN make: 1 min 3 s of 1 min 6 s that steps ran emulated; "));
        assert!(alone.contains("FROM --platform=$BUILDPLATFORM"), "{alone}");
        let earlier = [ran(0, "RUN make", 4, None)];
        let beside = hint(&steps, &earlier).unwrap();
        assert!(beside.starts_with("RUN make: 1 min 3 s emulated, 4.0 s natively; "), "{beside}");
        // The same in a build for several platforms.
        let both = [ran(0, "RUN make", 8, qemu), ran(1, "RUN make", 1, None)];
        assert!(hint(&both, []).unwrap().contains("8.0 s emulated, 1.0 s natively"));
    }

    #[test]
    fn what_costs_little_is_not_worth_a_hint() {
        let qemu = Some("qemu");
        for (us, own) in [(1, Some(0)), (30, None), (30, Some(20))] {
            let steps = [ran(0, "RUN make", us, qemu)];
            let earlier: Vec<_> =
                own.map(|own| ran(0, "RUN make", own, None)).into_iter().collect();
            assert_eq!(hint(&steps, &earlier), None, "{us} {own:?}");
        }
        assert_eq!(hint(&[ran(0, "RUN make", 900, None)], []), None);
        assert!(!is_notable(&[ran(0, "RUN make", 1, qemu)]));
        assert!(is_notable(&[ran(0, "RUN make", 2, qemu)]));
    }
}
