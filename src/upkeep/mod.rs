//! The store's upkeep: what is in it, what of that can go, and whether it is sound.
//!
//! In comes a store that builds may be using at this moment; out come an [`Inventory`], a plan of
//! what to remove (pure, so that `--dry-run` shows what would really happen), and findings about
//! damage.
//!
//! # What is never removed
//!
//! - What a named image reaches: its documents, its layers' blobs, its unpacked layers.
//! - What a process uses: see the store's holds. Collection works beside builds and waits for nobody.
//!
//! # What goes first
//!
//! Everything else is cache, and the least recently used goes first. A look at a thing is a use. A
//! blob whose layer goes, goes with it; so do notes that lead nowhere any more. Records of results
//! that are gone stay for a while: they are small, and `explain` says "evicted" by them.
//!
//! # Not here
//!
//! The history of builds has its own rules: [`crate::explain::History::prune`]. When all this
//! happens: the command line.

mod collect;
mod inventory;
mod plan;
mod verify;

pub use collect::{Collected, collect};
pub use inventory::{ImageUse, Inventory, Item, ItemKind, Reach};
pub use plan::{EVIDENCE_AGE, Includes, Plan, Policy, plan};
pub use verify::{Finding, Report, verify};

use crate::store::StoreError;

/// What can go wrong with upkeep: only what is wrong with the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system call on a file of the store failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Names were given and taken away faster than a plan could be made.
    #[error("images were named all the time while garbage was collected")]
    Restless,
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}
