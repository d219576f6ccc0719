//! Stacks of layers, and the trees that copies and mounts read.

use super::step_context::Shared;
use super::{Cause, Job};
use crate::context::Source;
use crate::image::ImageLayer;
use crate::plan::{Files, Tree};
use crate::sandbox::Ids;
use crate::snapshot::{self, MountOptions, Mounted, Upper};
use crate::store::{ChainId, Layer, Store, StorePart};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A layer of a stack. Its directory is held open so that it may be renamed while others are about
/// to mount it.
#[derive(Debug, Clone)]
pub(super) struct LowerDir {
    /// The directory of the layer that its own only says the difference to.
    under: Option<PathBuf>,
    /// A name that stays good as long as `_held` lives.
    path: PathBuf,
    _held: Option<Arc<OwnedFd>>,
    /// Whether nothing is in it, so that no mount needs it.
    is_empty: bool,
}

impl LowerDir {
    /// A finished layer, which is never renamed.
    pub(super) fn finished(layer: &Layer) -> Self {
        let mut directories = layer.directories();
        let path = directories.pop().expect("a layer has a directory");
        Self { under: directories.pop(), path, _held: None, is_empty: layer.meta.entries == 0 }
    }

    /// The same directory, over that of a finished layer which stands by itself.
    pub(super) fn over(self, under: &Layer) -> Self {
        Self { under: Some(under.fs()), is_empty: false, ..self }
    }

    /// A layer in the making.
    pub(super) fn held(fs: &Path, is_empty: bool) -> Result<Self, Cause> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = openat(CWD, fs, flags, Mode::empty()).map_err(|e| Cause::Io {
            doing: "open",
            path: fs.to_owned(),
            source: e.into(),
        })?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        Ok(Self { under: None, path, _held: Some(Arc::new(held)), is_empty })
    }

    /// Returns a name of its own directory for this process.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns names of all its directories, the bottom first.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        self.under.iter().chain([&self.path]).cloned().collect()
    }
}

/// Layers from the bottom up, as far as they are usable.
#[derive(Debug, Clone, Default)]
pub(super) struct Stack(pub(super) Vec<LowerDir>);

impl Stack {
    /// Returns names of the layers for this process, the bottom first, without empty ones.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().filter(|lower| !lower.is_empty).flat_map(LowerDir::directories).collect()
    }

    /// Mounts the stack as the builder sees it, for reading.
    pub(super) fn mount(&self, store: &Store) -> Result<Mounted, Cause> {
        Ok(snapshot::mount(&self.paths(), None, &MountOptions::in_store(store))?)
    }

    /// Mounts the stack as a command with these ids is to see it, writable where `upper` is given.
    pub(super) fn mount_for(
        &self,
        shared: &Shared,
        store: &Store,
        upper: Option<&Upper<'_>>,
        ids: Option<&Ids>,
    ) -> Result<Mounted, Cause> {
        let (idmap, trees) = (ids.and_then(Ids::mapping), Some(&shared.laid));
        let options = MountOptions { idmap, trees, ..MountOptions::in_store(store) };
        Ok(snapshot::mount(&self.paths(), upper, &options)?)
    }
}

/// The chain id of finished layers.
pub(super) fn chain_of(layers: &[ImageLayer]) -> ChainId {
    layers.iter().fold(ChainId::scratch(), |chain, layer| chain.with(&layer.layer.meta.content))
}

/// The trees of one build, each opened once.
#[derive(Debug, Default)]
pub(super) struct Trees {
    open: Mutex<BTreeMap<Files, Source>>,
}

impl Trees {
    /// Opens a tree. `stack` and `chain` are those of its files; the chain names its fingerprints.
    pub(super) fn source(
        &self,
        job: &Job<'_>,
        tree: Tree,
        stack: &Stack,
        chain: Option<&ChainId>,
    ) -> Result<Source, Cause> {
        let files = match tree {
            Tree::Context(id) => return Ok(job.contexts[id.0].clone()),
            Tree::Files(files) => files,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = open.get(&files) {
            return Ok(source.clone());
        }
        let mounted = stack.mount(job.workshop)?;
        let index = chain.map(|chain| {
            job.store.place(StorePart::Fingerprints).join(format!("chain-{}", chain.to_hex()))
        });
        let source = Source::snapshot(Arc::new(mounted), index);
        open.insert(files, source.clone());
        Ok(source)
    }

    /// Writes down what was learnt about files. Failing costs the next build time, nothing else.
    pub(super) fn flush(&self, job: &Job<'_>) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for source in open.values().chain(&job.contexts) {
            let _ = source.flush();
        }
    }
}
