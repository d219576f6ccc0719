//! Tests that cannot run on a machine: one way to say so, and to fail where they must run.
//!
//! The unit tests and every test program include this file.

/// Reports why a test cannot run on this machine. Under `CI=true` it fails the test instead, because CI
/// has all that the tests need; with `optional:` in front it never fails.
#[allow(unused_macros, reason = "each test program uses a part of the kit")]
macro_rules! cannot_run_here {
    (optional: $($reason:tt)+) => {
        crate::skip::report(false, format_args!($($reason)+))
    };
    ($($reason:tt)+) => {
        crate::skip::report(true, format_args!($($reason)+))
    };
}

/// Ends a test that only root can run; under `CI=true` it fails. Such tests are named `privileged_…`.
#[allow(unused_macros, reason = "each test program uses a part of the kit")]
macro_rules! needs_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            crate::skip::report(true, format_args!("it needs root"));
            return;
        }
    };
}

#[allow(dead_code, reason = "each test program uses a part of the kit")]
#[allow(clippy::print_stdout, reason = "a test that did not run says why")]
#[allow(clippy::disallowed_methods, reason = "CI is how a test run learns where it is")]
#[track_caller]
pub(crate) fn report(must_run: bool, reason: std::fmt::Arguments<'_>) {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!(must_run && is_ci), "CI must be able to run this: {reason}");
    println!("cannot run here: {reason}");
}
