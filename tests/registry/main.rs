//! Registries, from outside: the real program against a real registry server, alone, behind a login,
//! behind TLS, and behind a proxy of ours that breaks what it carries.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: failing is its job")]

#[macro_use]
#[path = "../kit/skip.rs"]
mod skip;

#[path = "../kit/mod.rs"]
mod kit;

mod fixture;
mod http;
mod proxy;
mod secure;
mod server;

mod backend;
mod copy;
mod faults;
mod git;
mod index;
mod kaniko;
mod login;
mod platforms;
mod pull;
mod push;
mod tls;
mod tokens;
mod trust;
