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
//! Each row has a test in `tests/cli/cache.rs`, in both directions.
//!
//! # Interning
//!
//! A chain id is made of its layers' contents without times, so a step that ran again and made the
//! same files arrives at a chain that is already known (`chains/<kk>/<chain>`). The known layer
//! then takes the place of the new one, with its older times. So its diff_id and everything built
//! on it hold: early cutoff.
//!
//! Not every time may be forgotten, though: `touch -d 2020-01-01 /f` means what it says. A time
//! within a step's own run, by the clock of the file system, is no more than the moment at which a
//! file was written, and no two runs agree on it. Any other was *set*: by `touch`, by an archive,
//! by COPY, which keeps those of its sources. Times that were set are part of the chain
//! ([`Output::set_times`]); the time that the build itself gives to missing directories is not. All
//! steps go by this one rule:
//!
//! | what ran again | and made | the layer is |
//! |---|---|---|
//! | `RUN make` | the same files, as new as the run | the known one |
//! | `RUN touch -d DATE /f` | the same file, of the same DATE | the known one |
//! | `RUN touch -d DATE /f` | the same file, of another DATE | a new one; what follows runs |
//! | `COPY a /f`, then `COPY b /f` of equal bytes | a file of b's time | the known one only if a and b are of one time |
//!
//! That is about steps that run. A COPY that *hits* does so whatever its sources' times are: they
//! are not in its key, and the layer keeps those of the sources it was made from.
//!
//! # Caches from elsewhere
//!
//! A step that misses here may hit in an exported cache ([`Import`]): its layer is brought here and
//! its record filed, and then it is a hit like any other.
//!
//! # A broken cache is a miss
//!
//! A record that does not parse, is of a newer format, or names a layer that is gone is not a
//! record.
//!
//! # Known imperfections
//!
//! - A record is trusted to have been written by a process that may write the store.
//! - A file that a step moves, or changes the mode of, keeps the time at which an earlier step
//!   wrote it, which counts as set. Where both steps ran again, this one's successors run as well,
//!   though only that time differs.
//! - Files of a base image count without their times, whatever set them: two bases that differ in
//!   nothing else share the steps on top.
//! - Where the clock is set while a step runs, times that it merely wrote may look set. That costs
//!   a hit and nothing else.
//!
//! # Not here
//!
//! Deciding when to look: [`crate::solve`]. Comparing records: [`crate::explain`]. Listing files:
//! [`crate::context`].

mod copied;
mod inputs;
mod portable;
mod records;

pub use copied::Copied;
pub use inputs::{Input, Inputs, TreeEntry, TreeId, Value};
pub use portable::{
    ARTIFACT_TYPE, DOCUMENT_TYPE, DOCUMENT_VERSION, Document, Import, ImportError, Portable,
};
pub use records::{Cache, CacheError, Completed, Cost, Missing, Output, Record};
