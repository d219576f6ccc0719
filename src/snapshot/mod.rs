//! Overlay stacks: layers on disk become a tree that a step sees, and what it wrote a layer.
//!
//! In come layer directories in overlay form (what marks whiteouts and opaque directories is drawn
//! in `layer/whiteout.rs`), bottom first. Out come a [`Mounted`] tree, which is a descriptor and needs
//! no mount point, and, after a step, an upper directory that [`clean`] has made fit to be a layer.
//!
//! # Invariants
//!
//! - No mount made here is ever attached to a name: when its last descriptor closes, which the
//!   kernel does for a killed process too, it is gone.
//! - A layer is self-contained: no overlay feature that refers from one layer to another
//!   (`redirect_dir`, `metacopy`, `index`) is ever on.
//! - A step writes into a directory of the store, or, where overlay cannot use that, into memory
//!   ([`Scratch`]). Where nothing can be mounted it writes into a tree that is laid out ([`laid`]),
//!   and what it changed is copied out of that: the layer is the same.
//! - Layers are never written through a lower. An upper may be read as a lower of the next step
//!   once it is clean.
//!
//! # Not here
//!
//! Tars, hashes and compression live in `layer`; who runs in a tree lives in `sandbox`.

mod commit;
mod error;
mod laid;
mod mount;
mod scratch;

pub use crate::layer::XattrSpace;
pub use commit::{Cleaned, clean, commit};
pub use error::SnapshotError;
pub use laid::{LaidTrees, TreeState, copy_part};
pub use mount::{
    Finished, IdMapping, LOWER_MAX, MountOptions, Mounted, Upper, View, can_map, can_mount, mount,
    view,
};
pub use scratch::Scratch;
