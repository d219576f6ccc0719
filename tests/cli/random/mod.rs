//! Builds made at random, compared with a model of the rules.
//!
//! `PROPTEST_CASES` sets how many are tried of each kind (3), `PROPTEST_RNG_SEED` another beginning. A failure is
//! made smaller and printed as the numbers that it came from.

mod archives;
mod copies;
mod ignores;
mod layers;
mod model;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

/// Builds of each kind where the caller says nothing.
const CASES: u32 = 3;

/// Tries `check` on lists of numbers, each of which stands for one operation.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "the caller chooses how many builds are tried")]
fn try_numbers(operations: std::ops::Range<usize>, check: impl Fn(&[u64])) {
    let mut config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(2026);
    }
    let result = TestRunner::new(config).run(&vec(any::<u64>(), operations), |numbers| {
        check(&numbers);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
