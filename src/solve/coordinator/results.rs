//! What a step made: usable at once, hashed in the background, linked to the chain, recorded.

use super::phase::{Digested, Phase};
use super::{Coordinator, Event, Mode};
use crate::cache::Output;
use crate::layer::{Meter, Scan};
use crate::plan::Op;
use crate::progress::{Outcome, Tally};
use crate::solve::digest::{self, LayerDigest};
use crate::solve::exec::ExecResult;
use crate::solve::record::{NewRecord, micros};
use crate::solve::{Cause, Job, StepReport, deltas};
use crate::store::{ChainId, Layer, LayerMeta};
use crate::sys::cancel::Cancel;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use tracing::debug;

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    pub(super) fn on_executed(&mut self, index: usize, result: ExecResult) -> Result<(), Cause> {
        let is_predicted = self.mode == Mode::Predict;
        let is_copy = matches!(self.step(index).op, Op::Copy(_));
        let node = &mut self.nodes[index];
        let Phase::Running(admitted) = node.phase.take() else {
            unreachable!("a step that has a result was running");
        };
        let wanted = LayerDigest {
            wants_tar: !is_predicted && self.job.options.wants_image && self.in_target[index],
            stores_tar: self.job.options.stores_tars,
            wants_listing: !is_predicted
                && is_copy
                && result.delta.is_none()
                && deltas::is_notable(&admitted.inputs),
        };
        node.report.wall_us = micros(result.wall);
        node.report.emulator = self.shared.emulations.of(index);
        let result = Arc::new(result);
        node.phase = Phase::Digesting(admitted, Arc::clone(&result));
        let (wall_us, is_delta) = (micros(result.wall), result.delta.is_some());
        debug!(parent: &self.span(index), wall_us, is_delta, "ran");
        self.job.progress.done(self.vertex_digest(index), Outcome::Ran);
        self.background += 1;
        self.counts.hashed += 1;
        let job = self.job;
        self.work(index, move || {
            let name = &job.plan.steps[index].name;
            Event::Digested(index, digest::digest(job, name, &result, wanted, job.interrupt))
        });
        self.on_usable(index)
    }

    pub(super) fn on_digested(
        &mut self,
        index: usize,
        (scan, meta): (Scan, LayerMeta),
    ) -> Result<(), Cause> {
        let output = Output { layer: scan.id, content: scan.content, set_times: scan.set_times };
        debug!(
            parent: &self.span(index),
            layer = %meta.id, content = %meta.content, entries = meta.entries, bytes = meta.bytes,
            "hashed"
        );
        let node = &mut self.nodes[index];
        node.report.output = Some(output);
        let Phase::Digesting(admitted, result) = node.phase.take() else {
            unreachable!("a step whose files are hashed was being hashed");
        };
        if self.mode == Mode::Predict {
            let lower = Some(result.lower.clone());
            node.phase = Phase::Done { inputs: Some(admitted.inputs), lower };
            return self.on_foreseen(index);
        }
        node.phase = Phase::Digested(Box::new(Digested { admitted, result, meta, output }));
        self.link(index)
    }

    /// A step's own files are there: notifies all that waited for them, where what is below is
    /// there too. A copy that stands by itself (`--link`) may have come before what it stands on.
    pub(super) fn on_usable(&mut self, index: usize) -> Result<(), Cause> {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let node = &self.nodes[index];
            if node.is_usable
                || node.phase.lower().is_none()
                || !self.is_usable(self.step(index).parent)
            {
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

    /// Learns a step's chain, if its parent's and its own content are known; has its record
    /// written; goes on with its children.
    pub(super) fn link(&mut self, index: usize) -> Result<(), Cause> {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let node = &self.nodes[index];
            let (None, Some(output), Some(below)) =
                (node.chain, node.report.output, self.chain(self.step(index).parent))
            else {
                continue;
            };
            self.nodes[index].chain = Some(output.on(&below));
            for child in self.children[index].clone() {
                self.lock_ahead(child)?;
            }
            self.record(index, below);
            for child in self.children[index].clone() {
                self.decide(child)?;
                open.push(child);
            }
        }
        Ok(())
    }

    /// Takes the lock on a step that was admitted before its chain was known, and now has a name.
    /// That is before the record below it is visible: a build that hits that one will ask for this
    /// step next, and is to wait for ours, also where it has run already and is only being hashed.
    fn lock_ahead(&mut self, index: usize) -> Result<(), Cause> {
        let is_unlocked = matches!(self.nodes[index].phase.lock_mut(), Some(None));
        if self.mode == Mode::Solve
            && is_unlocked
            && let Some(name) = self.lock_name(index)
        {
            let taken = self.job.store.try_lock_step(&name, &self.holder())?;
            if let Some(lock) = self.nodes[index].phase.lock_mut() {
                *lock = taken;
            }
        }
        Ok(())
    }

    /// Has a hashed step put into the store. `below` is the chain of the files it stands on.
    fn record(&mut self, index: usize, below: ChainId) {
        let Some(parent) = self.key_parent(self.step(index)) else { return };
        let phase = &mut self.nodes[index].phase;
        let Digested { admitted, result, meta, output } = match phase.take() {
            Phase::Digested(digested) => *digested,
            other => {
                *phase = other;
                return;
            }
        };
        *phase = Phase::Recording(result.lower.clone());
        let new = NewRecord {
            job: self.job,
            cache: self.cache.clone(),
            index,
            copies: self.place_of_copy(index, &admitted.inputs),
            inputs: admitted.inputs,
            result,
            meta,
            output,
            parent,
            below,
            lock: admitted.lock,
            report: self.nodes[index].report.clone(),
        };
        self.work_in_order(index, move || Event::Recorded(index, new.write().map(Box::new)));
    }

    /// A step is in the store.
    pub(super) fn on_recorded(&mut self, index: usize, report: StepReport) {
        let node = &mut self.nodes[index];
        let lower = node.phase.lower().cloned();
        node.phase = Phase::Done { inputs: None, lower };
        node.report = report;
    }
}

/// Hashes the tars of layers that were not part of an exported image before, side by side.
pub(in crate::solve) fn add_tar_facts<'l>(
    job: &Job<'_>,
    layers: impl IntoIterator<Item = &'l mut Layer>,
    cancel: &Cancel,
) -> Result<(), Cause> {
    let missing: Vec<&mut Layer> =
        layers.into_iter().filter(|layer| layer.meta.tar.is_none()).collect();
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
                        layer.meta.tar =
                            digest::scan(job.store, &layer.directories(), meter, cancel)?.tar;
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
