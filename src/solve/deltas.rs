//! COPY again: where the same instruction was run on the same files before, only what has changed
//! since is copied, over the layer that was made then.
//!
//! The resulting layer is the one that copying all would make, to the byte. It is kept as a
//! difference: its directory holds what was copied, and
//! [`LayerMeta::under`](crate::store::LayerMeta::under) names the other layer, which always stands
//! by itself, so that no chain of differences grows. Nothing can be taken away from that other: a
//! copy in which something is missing is done in full, and is what later ones are compared with.
//! [`Copied::changed`] has the conditions.

use super::copies::SelectedSource;
use super::inputs::StepInputs;
use super::{Cause, Job};
use crate::cache::{Cache, Copied};
use crate::layer::{Beneath, Listing, Now};
use crate::plan::Copy;
use crate::store::{ChainId, Key, LISTING, Layer};
use std::fs::{self, File};

/// A layer that a copy goes over, and what is left to copy.
#[derive(Debug)]
pub(super) struct Delta {
    /// The layer. It is held.
    pub(super) layer: Layer,
    /// What has changed.
    pub(super) chosen: Vec<SelectedSource>,
    listing: Listing,
    now: Now,
}

impl Delta {
    /// Says what the layer has, for a scan; `tar` is what [`Self::tar`] returned.
    pub(super) fn beneath<'a>(&'a self, tar: Option<&'a File>) -> Beneath<'a> {
        Beneath { listing: &self.listing, tar, now: Some(self.now) }
    }

    /// Opens the layer's tar, where it is in the store.
    pub(super) fn tar(&self, job: &Job<'_>) -> Result<Option<File>, Cause> {
        let Some(facts) = self.layer.meta.tar else { return Ok(None) };
        let is_it = |digest| digest == facts.diff_id;
        if !self.layer.meta.blobs.iter().any(|blob| is_it(blob.digest))
            || !job.store.lease_blob(&facts.diff_id)?
        {
            return Ok(None);
        }
        Ok(Some(job.store.open_blob(&facts.diff_id)?))
    }
}

/// Where the copies of an instruction are noted; `None` where a copy cannot be one of several.
pub(super) fn place(copy: &Copy, described: &StepInputs, parent: &ChainId) -> Option<Key> {
    let [SelectedSource::Files { source, .. }] = &described.chosen[..] else { return None };
    let may_unpack = copy.unpack.unwrap_or(copy.is_add);
    (!may_unpack).then(|| Cache::place_of_copy(&described.inputs, parent, source.keeps_owner()))
}

/// Finds the layer that a copy can go over. A damaged cache has none.
pub(super) fn find(
    job: &Job<'_>,
    place: &Key,
    described: &StepInputs,
) -> Result<Option<Delta>, Cause> {
    let [SelectedSource::Files { source, selection, id }] = &described.chosen[..] else {
        return Ok(None);
    };
    let Some(copied) = Cache::new(job.store.clone()).copied(place)? else { return Ok(None) };
    let Some(changed) = copied.changed(selection, source.keeps_owner()) else { return Ok(None) };
    let Some(layer) = job.store.layer(&copied.layer)? else { return Ok(None) };
    if layer.meta.under.is_some() {
        return Ok(None);
    }
    let listing = fs::read(layer.dir.join(LISTING)).ok();
    let listing = listing.and_then(|bytes| Listing::parse(bytes, &layer.id));
    let chosen =
        vec![SelectedSource::Files { source: source.clone(), selection: changed, id: *id }];
    Ok(listing.map(|listing| Delta { layer, chosen, listing, now: copied.now }))
}

/// Notes what a copy that was done in full has taken.
pub(super) fn note(
    cache: &Cache,
    place: &Key,
    described: &StepInputs,
    layer: &Layer,
    now: Now,
) -> Result<(), Cause> {
    let [SelectedSource::Files { source, selection, .. }] = &described.chosen[..] else {
        return Ok(());
    };
    if layer.meta.under.is_some() || !layer.dir.join(LISTING).exists() {
        return Ok(());
    }
    match Copied::new(layer.id, now, selection, source.keeps_owner()) {
        Some(copied) => Ok(cache.note_copied(place, &copied)?),
        None => Ok(()),
    }
}

/// Whether a copy in full is going to be noted.
pub(super) fn is_notable(described: &StepInputs) -> bool {
    let [SelectedSource::Files { selection, .. }] = &described.chosen[..] else { return false };
    Copied::can_be_of(selection)
}
