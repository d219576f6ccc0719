//! What a step made: usable at once, hashed in the background, linked to the chain, recorded.

use super::{Coordinator, Event, Mode, Phase};
use crate::cache::{Cache, Cost, Output};
use crate::layer::{Meter, Scan};
use crate::plan::Op;
use crate::progress::{Outcome, Tally};
use crate::sandbox::Usage;
use crate::solve::digest::{self, LayerDigest};
use crate::solve::exec::ExecResult;
use crate::solve::{Cause, Job, StepEnd, deltas};
use crate::store::{Layer, LayerMeta};
use crate::sys::cancel::Cancel;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    pub(super) fn on_made(&mut self, index: usize, made: ExecResult) -> Result<(), Cause> {
        let is_predicted = self.mode == Mode::Predict;
        let is_copy = matches!(self.step(index).op, Op::Copy(_));
        let node = &mut self.nodes[index];
        let described = node.described.as_ref().expect("a step that ran has inputs");
        let wanted = LayerDigest {
            wants_tar: !is_predicted && self.job.options.wants_image && self.in_target[index],
            stores_tar: self.job.options.stores_tars,
            wants_listing: !is_predicted
                && is_copy
                && made.delta.is_none()
                && deltas::is_notable(described),
        };
        node.lower = Some(made.lower.clone());
        node.report.wall_us = micros(made.wall);
        let made = Arc::new(made);
        node.made = Some(Arc::clone(&made));
        node.phase = Phase::Sealing;
        self.job.progress.done(self.vertex_digest(index), Outcome::Ran);
        self.sealing += 1;
        self.counts.hashed += 1;
        let job = self.job;
        self.work(move || {
            let name = &job.plan.steps[index].name;
            Event::Digested(index, digest::digest(job, name, &made, wanted, job.interrupt))
        });
        self.on_usable(index)
    }

    pub(super) fn on_sealed(
        &mut self,
        index: usize,
        (scan, meta): (Scan, LayerMeta),
    ) -> Result<(), Cause> {
        let output = Output { layer: scan.id, content: scan.content, set_times: scan.set_times };
        self.nodes[index].report.output = Some(output);
        if self.mode == Mode::Predict {
            return self.on_foreseen(index);
        }
        self.nodes[index].meta = Some(meta);
        self.link(index)
    }

    /// A step's own files are there: notifies all that waited for them, where what is below is
    /// there too. A copy that stands by itself (`--link`) may have come before what it stands on.
    pub(super) fn on_usable(&mut self, index: usize) -> Result<(), Cause> {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let node = &self.nodes[index];
            if node.is_usable || node.lower.is_none() || !self.is_usable(self.step(index).parent) {
                continue;
            }
            self.nodes[index].is_usable = true;
            for reader in self.readers[index].clone() {
                self.nodes[reader].missing_trees -= 1;
            }
            for child in self.children[index].clone() {
                self.decide(child)?;
                open.push(child);
            }
        }
        Ok(())
    }

    /// Learns a step's chain, if its parent's and its own content are known; files its record; goes
    /// on with its children.
    pub(super) fn link(&mut self, index: usize) -> Result<(), Cause> {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let node = &self.nodes[index];
            let (None, Some(output), Some(parent)) =
                (node.chain, node.report.output, self.chain(self.step(index).parent))
            else {
                continue;
            };
            self.nodes[index].chain = Some(output.on(&parent));
            for child in self.children[index].clone() {
                // Before the record is visible: a build that hits it will ask for the child next,
                // and is to wait for ours, also where that has run already and is only being
                // hashed.
                if self.mode == Mode::Solve
                    && matches!(
                        self.nodes[child].phase,
                        Phase::Queued | Phase::Running | Phase::Sealing
                    )
                    && self.nodes[child].lock.is_none()
                    && let Some(name) = self.lock_name(child)
                {
                    self.nodes[child].lock = self.job.store.try_lock_step(&name, &self.holder())?;
                }
            }
            if self.nodes[index].phase == Phase::Sealing {
                self.record(index)?;
            }
            for child in self.children[index].clone() {
                self.decide(child)?;
                open.push(child);
            }
        }
        Ok(())
    }

    /// Puts a finished layer in its place: interned, filed.
    pub(super) fn record(&mut self, index: usize) -> Result<(), Cause> {
        let step = self.step(index);
        let parent = self.key_parent(step).expect("a step is recorded when its parent is known");
        let node = &mut self.nodes[index];
        let meta = node.meta.take().expect("a sealing step has been scanned");
        let made = node.made.take().expect("a sealing step has been made");
        let described = Arc::clone(node.described.as_ref().expect("a step that ran has inputs"));
        let usage = made.usage.unwrap_or_default();
        let cost = Cost { layer_bytes: meta.bytes, ..cost_of(made.wall, &usage) };
        let made_output = node.report.output.expect("a scanned step has an output");
        let chain = made_output.on(&parent);
        let known = if step.ignore_cache { None } else { self.cache.interned(&chain)? };
        let (layer, finished) = match known {
            // With its older time: an image made of the same files stays the same image.
            Some(known) => known,
            None => {
                let layer = self.job.store.add_layer(&made.work, &meta)?;
                self.cache.intern(&chain, &layer.id, self.job.now, &parent)?;
                (layer, self.job.now)
            }
        };
        // What stands by itself (`--link`) is filed as such; its place in this chain is known too.
        if let (Some(whole), Some(below)) = (self.nodes[index].chain, self.chain(step.parent))
            && below != parent
            && self.cache.parent_of(&whole)?.is_none()
        {
            self.cache.intern(&whole, &layer.id, finished, &below)?;
        }
        let output = Output { layer: layer.id, ..made_output };
        let record = Cache::new_record(
            described.inputs.clone(),
            parent,
            output,
            self.job.build.clone(),
            finished,
            cost,
        );
        if !made.is_unsound {
            described.keep_listings(&self.cache)?;
            self.cache.file(&record)?;
            if let Some(place) = self.place_of_copy(index)
                && made.delta.is_none()
            {
                deltas::note(&self.cache, &place, &described, &layer, made.now)?;
            }
        }
        let node = &mut self.nodes[index];
        node.report.parent = Some(parent);
        node.report.end = StepEnd::Ran;
        node.report.is_unsound = made.is_unsound;
        node.report.created = Some(record.finished);
        node.report.cost = cost;
        node.report.layer = Some(layer);
        node.report.output = Some(output);
        node.phase = Phase::Done;
        node.lock = None;
        self.job.observer.ended(index, &self.nodes[index].report);
        Ok(())
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

/// Hashes the tars of layers that were not part of an exported image before, side by side.
pub(in crate::solve) fn add_tar_facts(
    job: &Job<'_>,
    layers: &mut [Layer],
    cancel: &Cancel,
) -> Result<(), Cause> {
    let missing: Vec<&mut Layer> =
        layers.iter_mut().filter(|layer| layer.meta.tar.is_none()).collect();
    let queue = std::sync::Mutex::new(missing.into_iter());
    let workers = job.options.parallelism.clamp(1, 4);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().expect("workers do not panic").next();
                        let Some(layer) = next else { return Ok(()) };
                        let name = format!("hashing layer {}", &layer.id.to_hex()[..12]);
                        let total = Some(layer.meta.bytes);
                        let tally = Arc::new(Tally::of_long_work(job.progress, name, total));
                        let counting = Arc::clone(&tally);
                        let meter = Meter::new(move |bytes| counting.add(bytes, || None));
                        layer.meta.tar = digest::scan(&layer.directories(), meter, cancel)?.tar;
                        tally.finish(None);
                        job.store.update_layer(&layer.meta)?;
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|p| resume_unwind(p)))
    })
}
