//! Puts the commit into release builds. Development builds have none, so that a commit compiles nothing
//! again.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "how a build script talks to cargo"
)]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=BUILDER_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let given = std::env::var("BUILDER_COMMIT").ok();
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| is_release.then(head).flatten());
    println!("cargo::rustc-env=BUILDER_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The commit that is checked out; `None` outside a repository.
fn head() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    // The log of HEAD changes with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
