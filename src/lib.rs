//! `builder` turns a Dockerfile into an OCI image: no daemon, root or not.
//!
//! This file is the map of the rooms. Data flows down the list: a room uses only rooms below it, which
//! `tests/house.rs` enforces; events flow up to [`progress`].
//!
//! | room | what it is for |
//! |---|---|
//! | [`cli`] | flags become requests, errors become text; the only place that prints |
//! | [`job`] | one build as data: images, contexts, the solver, the delivery, the record |
//! | [`gc`] | what is in the store, what of it can be removed, whether it is undamaged |
//! | [`cache_mounts`] | export and import of cache mounts, as an OCI layout |
//! | [`explain`] | why a step hit or missed |
//! | [`solve`] | the scheduler: probes the cache, runs steps, cancels |
//! | [`history`] | what each build did: records and logs of its steps |
//! | [`export`] | an image becomes an OCI or Docker archive, a directory, a tar |
//! | [`cache`] | keys, records, interning |
//! | [`plan`] | stages, arguments and platform become a DAG of steps; no I/O |
//! | [`policy`] | rules that allow, deny or replace what a build reads from elsewhere |
//! | [`context`] | where COPY and ADD bytes come from |
//! | [`copy`] | what a COPY selected, and the engine that copies it |
//! | [`dockerfile`] | text becomes a spanned syntax tree; words, heredocs, ignore files, addresses, checks |
//! | [`progress`] | events become tty, plain or JSON progress |
//! | [`image`] | images that arrive and leave: layouts, archives, transfers |
//! | [`registry`] | the distribution protocol: pull, push, logins, mirrors |
//! | [`sandbox`] | one RUN or `builder run`: namespaces, mounts, network, limits |
//! | [`cgroup`] | v1 and v2 behind one type |
//! | [`snapshot`] | overlay stacks: mount, commit, unpack |
//! | [`layer`] | tar in, tar out, compression, digests |
//! | [`store`] | content-addressed blobs, layers, tags, leases, locks |
//! | [`trace`] | the diagnostic log of the program itself |
//! | [`show`] | text from outside, made fit for a terminal |
//! | [`oci`] | names, digests, platforms, configs, manifests: plain data, canonical JSON |
//! | [`text`] | cleaned paths, byte sizes, error chains: pure functions that several rooms need alike |
//! | [`sys`] | the only unsafe code: system calls the libraries lack |

#[cfg(test)]
#[macro_use]
#[path = "../tests/kit/skip.rs"]
mod skip;
#[cfg(test)]
#[path = "../tests/kit/wait.rs"]
mod wait;

pub mod cache;
pub mod cache_mounts;
pub mod cgroup;
pub mod cli;
pub mod context;
pub mod copy;
pub mod dockerfile;
pub mod explain;
pub mod export;
pub mod gc;
pub mod history;
pub mod image;
pub mod job;
pub mod layer;
pub mod oci;
pub mod plan;
pub mod policy;
pub mod progress;
pub mod registry;
pub mod sandbox;
pub mod show;
pub mod snapshot;
pub mod solve;
pub mod store;
pub mod sys;
pub mod text;
pub mod trace;
