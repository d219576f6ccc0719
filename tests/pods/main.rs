//! Builds in the containers that clusters and runners start: what works without namespaces, and that
//! the images are those that root of a plain machine makes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: failing is its job")]

#[macro_use]
#[path = "../kit/skip.rs"]
mod skip;

#[path = "../kit/mod.rs"]
mod kit;

#[path = "../registry/server.rs"]
#[allow(dead_code, reason = "of the tests of registries, which use all of it")]
mod server;

#[path = "../registry/backend.rs"]
mod backend;
#[path = "../registry/http.rs"]
#[allow(dead_code, reason = "of the tests of registries, which use all of it")]
mod http;

mod builds;
mod chroot;
mod commands;
mod emulated;
mod emulation;
mod escapes;
mod mounts;
mod pages;
mod races;
mod release;
