//! Real commands in real sandboxes, over a root file system made of busybox.
//!
//! Needs root, `busybox-static` and overlay; a test that lacks one says so, and fails in CI.

#![expect(
    clippy::unwrap_used,
    clippy::unused_self,
    unreachable_pub,
    reason = "how a test fails and shares its kit"
)]

#[macro_use]
#[path = "../kit/skip.rs"]
mod skip;
#[path = "../kit/wait.rs"]
mod wait;

mod confinement;
mod kit;
mod lifetime;
mod limits;
mod mounts;
#[cfg(target_arch = "x86_64")]
#[path = "../kit/narrow.rs"]
mod narrow;
mod network;
mod userns;
