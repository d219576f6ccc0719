//! The build cache: what a step's result is filed under, and what is filed.
//!
//! # Overview
//!
//! A step is described by its **inputs**, a list of named values. Their hash is its [`Key`]. A
//! **record** is filed under that key and under the chain id of the files the step started from:
//! `records/<kk>/<key>/<parent chain>`. The two parts are kept apart on purpose: whether any record
//! could be hit is known from the step alone, before the content of the parent has been hashed, so
//! a scheduler waits for that hash only where it can pay off.
//!
//! # What invalidates what
//!
//! | step | in the key | not in the key |
//! |---|---|---|
//! | RUN | argv after SHELL, heredoc bodies, effective ENV, ARGs declared before it in the stage (predefined ones only if declared), user, workdir, network mode, security mode, mounts (target, type, options; content of what a bind mounts; secret and ssh *ids*), platform | secret values, resource limits, proxy arguments, hostname, extra hosts, comments, formatting, step numbers |
//! | COPY, ADD | destination, flags, owner, and of each source entry: name, type, mode, uid and gid where kept, size, content, link target, capabilities | mtime, ctime, inode, where the context is, ignored files |
//! | WORKDIR | path, owner | everything else |
//! | FROM | nothing: its chain of content ids is the parent of the next step, and the config fields that later steps read are inputs of those | tag, created time, labels |
//!
//! Every step but `COPY --link` and `ADD --link` also depends on its parent's chain id.
//!
//! Each row has a test in `tests/cache.rs`, in both directions.
//!
//! # Interning
//!
//! Chain ids leave times out. When a step that ran again arrives at a chain that is already known
//! (`chains/<kk>/<chain>`), the known layer takes the place of the new one, with its older times.
//! So its diff_id and everything built on it hold: early cutoff.
//!
//! # A broken cache is a miss
//!
//! A record that does not parse, is of a newer format, or names a layer that is gone is no record.
//!
//! # Known imperfections
//!
//! A record is trusted to have been written by a process that may write the store.
//!
//! # Not here
//!
//! Deciding when to look: [`crate::solve`]. Comparing records: [`crate::explain`]. Listing files:
//! [`crate::context`].

mod inputs;
mod records;

pub use inputs::{Input, Inputs, TreeEntry, TreeId, Value};
pub use records::{Cache, CacheError, Cost, Missing, Output, Record};
