//! Putting the result of a step into the store: its layer, its place in the chain, the listings of
//! its files, its record.
//!
//! A worker does this, one step after another in the order in which their chains became known, so
//! that of two steps that made the same files the second finds the layer of the first.
//!
//! # Order of writes
//!
//! 1. the layer, by one rename;
//! 2. the chain that it completes;
//! 3. the listings that the record names;
//! 4. the record;
//! 5. the history of the build.
//!
//! Whatever is there after a crash names only what is there as well. One `syncfs` makes all of it
//! durable when the build ends or the store is opened next: see [`crate::store`].
//!
//! # Not here
//!
//! Hashing: [`super::digest`]. When a step is recorded: [`super::coordinator`].

use super::exec::ExecResult;
use super::inputs::StepInputs;
use super::{Cause, Job, StepEnd, StepReport, deltas};
use crate::cache::{Cache, Cost, Output};
use crate::sandbox::Usage;
use crate::store::{ChainId, Key, LayerMeta, StepLock};
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;

/// A step that ran and has been hashed.
pub(super) struct NewRecord<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) cache: Cache,
    /// Its place in the plan.
    pub(super) index: usize,
    pub(super) inputs: Arc<StepInputs>,
    pub(super) result: Arc<ExecResult>,
    pub(super) meta: LayerMeta,
    pub(super) output: Output,
    /// The chain that its record is filed under.
    pub(super) parent: ChainId,
    /// The chain of the files below it: another one than `parent` for a copy that stands by itself
    /// (`--link`).
    pub(super) below: ChainId,
    /// Where copies like this one are noted.
    pub(super) copies: Option<Key>,
    /// Keeps other builds from running the step until it is filed.
    pub(super) lock: Option<StepLock>,
    /// What is known of the step so far.
    pub(super) report: StepReport,
}

impl NewRecord<'_> {
    /// Writes everything, and returns what is known of the step now.
    pub(super) fn write(self) -> Result<StepReport, Cause> {
        let Self { job, cache, index, inputs, result, meta, output, parent, below, .. } = self;
        let usage = result.usage.unwrap_or_default();
        let cost = Cost { layer_bytes: meta.bytes, ..cost_of(result.wall, &usage) };
        let chain = output.on(&parent);
        let ignores_cache = job.plan.steps[index].ignore_cache;
        let known = if ignores_cache { None } else { cache.interned(&chain)? };
        let is_interned = known.is_some();
        let (layer, finished) = match known {
            // With its older time: an image made of the same files stays the same image.
            Some(known) => known,
            None => {
                let layer = job.store.add_layer(&result.work, &meta)?;
                cache.intern(&chain, &layer.id, job.now, &parent)?;
                (layer, job.now)
            }
        };
        // What stands by itself (`--link`) is filed as such; its place in this chain is known too.
        let whole = output.on(&below);
        if below != parent && cache.parent_of(&whole)?.is_none() {
            cache.intern(&whole, &layer.id, finished, &below)?;
        }
        let output = Output { layer: layer.id, ..output };
        if !result.is_unsound {
            inputs.keep_listings(&cache)?;
            let (inputs_of, build) = (inputs.inputs.clone(), job.build.clone());
            cache.file(&Cache::new_record(inputs_of, parent, output, build, finished, cost))?;
            if let Some(place) = self.copies
                && result.delta.is_none()
            {
                deltas::note(&cache, &place, &inputs, &layer, result.now)?;
            }
        }
        drop(self.lock);
        let is_filed = !result.is_unsound;
        debug!(layer = %layer.id, %chain, %parent, is_interned, is_filed, "recorded");
        let report = StepReport {
            parent: Some(parent),
            end: StepEnd::Ran,
            is_unsound: result.is_unsound,
            created: Some(finished),
            cost,
            layer: Some(layer),
            output: Some(output),
            ..self.report
        };
        job.observer.ended(index, &report);
        Ok(report)
    }
}

pub(super) fn cost_of(wall: Duration, usage: &Usage) -> Cost {
    Cost {
        wall_us: micros(wall),
        cpu_us: usage.cpu_user_us + usage.cpu_system_us,
        system_us: usage.cpu_system_us,
        peak_memory: usage.peak_memory.unwrap_or(0),
        io_read: usage.io_read.unwrap_or(0),
        io_written: usage.io_written.unwrap_or(0),
        max_pids: usage.max_pids.unwrap_or(0),
        layer_bytes: 0,
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
