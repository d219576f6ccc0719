//! The command line, from outside: each module runs the real program on a real store in the real
//! sandbox and looks at what it leaves and says.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: failing is its job")]

#[macro_use]
#[path = "../kit/skip.rs"]
mod skip;

#[path = "../kit/mod.rs"]
mod kit;

mod add;
mod args;
mod build;
mod cache;
mod cache_mounts;
mod causes;
mod check;
mod config;
mod contexts;
mod copy;
mod debug;
mod deltas;
mod destinations;
mod diff;
mod doctor;
mod drop_in;
mod emulation;
mod errors;
mod escapes;
mod explain;
mod export;
mod fingerprints;
mod foreign;
mod formats;
mod gc;
mod history;
mod ignore;
mod images;
mod indexes;
mod interrupts;
mod job;
mod language;
mod limits;
mod many;
mod metadata;
mod mounts;
mod mutations;
mod nested;
mod networks;
mod on_error;
mod page;
mod platforms;
mod plugin;
mod policies;
mod progress;
mod project;
mod random;
mod run;
mod sandbox;
mod schemas;
mod screens;
mod secrets;
mod several_platforms;
mod shared_cache;
mod ssh;
mod stdio;
mod tools;
mod variables;
mod walk;
