//! Whose turn it is: locks shared with other builds, the number of steps at once, the memory
//! budget.

use super::phase::{Admitted, Phase};
use super::{Coordinator, Event};
use crate::plan::Op;
use crate::solve::Cause;
use crate::solve::exec::ExecError;
use crate::solve::inputs::StepInputs;
use crate::solve::record::micros;
use crate::solve::{deltas, exec};
use crate::store::{Key, StepLock};
use std::sync::Arc;
use std::thread;
use tracing::debug;

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    /// The name of a step's lock: what it is, on what.
    pub(super) fn lock_name(&self, index: usize) -> Option<String> {
        let key = self.nodes[index].report.key?;
        let parent = self.key_parent(self.step(index))?;
        Some(format!("{}-{}", &key.to_hex()[..32], &parent.to_hex()[..32]))
    }

    pub(super) fn holder(&self) -> String {
        format!("build {} (pid {})", self.job.build, std::process::id())
    }

    /// Makes sure that no other build runs the step, where that can be said already.
    pub(super) fn lock(&mut self, index: usize, inputs: Arc<StepInputs>) -> Result<(), Cause> {
        let Some(name) = self.lock_name(index) else {
            self.enqueue(index, Admitted { inputs, lock: None });
            return Ok(());
        };
        if let Some(lock) = self.job.store.try_lock_step(&name, &self.holder())? {
            return self.on_locked(index, inputs, lock);
        }
        let other = self.job.store.step_holder(&name).unwrap_or_else(|| "another build".to_owned());
        if other != self.holder() {
            let place = self.step(index).place();
            self.job.progress.notice(format!("{place} waiting for {other}"));
        }
        debug!(parent: &self.span(index), lock = name, holder = other, "waits for a lock");
        self.nodes[index].phase = Phase::AwaitingLock;
        self.locking += 1;
        // Not one of the scope's threads: nothing can wake it but the other build.
        let (store, holder, sender) = (self.job.store.clone(), self.holder(), self.sender.clone());
        thread::spawn(move || {
            let lock = store.lock_step(&name, &holder).map_err(Cause::from);
            let _ = sender.send(Event::Locked(index, inputs, lock));
        });
        Ok(())
    }

    /// The lock is ours; the result may have come since we looked.
    pub(super) fn on_locked(
        &mut self,
        index: usize,
        inputs: Arc<StepInputs>,
        lock: StepLock,
    ) -> Result<(), Cause> {
        let step = self.step(index);
        let known = match (self.key_parent(step), step.ignore_cache) {
            (Some(parent), false) => {
                self.counts.looked_up += 1;
                self.cache.lookup(&inputs.key, &parent)?.ok()
            }
            _ => None,
        };
        if let Some((record, layer)) = known {
            drop(lock);
            return self.hit(index, Some(inputs), &record, layer);
        }
        self.enqueue(index, Admitted { inputs, lock: Some(lock) });
        Ok(())
    }

    fn enqueue(&mut self, index: usize, admitted: Admitted) {
        self.nodes[index].phase = Phase::Queued(admitted);
        self.to_run.push_back(index);
    }

    /// How much of the memory budget a step takes while it runs. Only commands count: copies use
    /// little, whatever they copy.
    pub(super) fn reservation(&self, index: usize) -> u64 {
        match (&self.step(index).op, self.job.options.memory_budget) {
            (Op::Run(_), Some(budget)) => {
                self.job.options.policy.limits.memory.map_or(budget, |memory| memory.min(budget))
            }
            _ => 0,
        }
    }

    /// Takes the first step in line that fits into what is left of the budget. None waits for ever:
    /// all commands of a build reserve the same.
    fn next_to_run(&mut self) -> Option<usize> {
        let left = self.job.options.memory_budget.map_or(u64::MAX, |b| b - self.reserved);
        let place = self.to_run.iter().position(|&index| self.reservation(index) <= left)?;
        self.to_run.remove(place)
    }

    /// Where copies like this one are noted, for those that go by what was copied before.
    pub(super) fn place_of_copy(&self, index: usize, inputs: &StepInputs) -> Option<Key> {
        let step = self.step(index);
        let Op::Copy(copy) = &step.op else { return None };
        let parent = self.key_parent(step)?;
        if step.ignore_cache { None } else { deltas::place(copy, inputs, &parent) }
    }

    pub(super) fn start_running(&mut self) {
        while self.running < self.job.options.parallelism && !self.is_stopping() {
            let Some(index) = self.next_to_run() else { return };
            self.reserved += self.reservation(index);
            let node = &mut self.nodes[index];
            let Phase::Queued(admitted) = node.phase.take() else {
                unreachable!("a step in line is queued");
            };
            let inputs = Arc::clone(&admitted.inputs);
            node.phase = Phase::Running(admitted);
            node.report.began_us = micros(self.begun.elapsed());
            self.job.progress.started(self.vertex(index));
            self.running += 1;
            self.counts.ran += 1;
            // From the first step that runs on, what is written is written in order.
            self.lane();
            let (context, stack) = (self.context(index), self.stack(self.step(index).parent));
            let place = self.place_of_copy(index, &inputs);
            self.work(index, move || {
                debug!("runs");
                context.job.observer.started(index);
                let over = || {
                    let Some(place) = place else { return Ok(None) };
                    match deltas::find(context.job, &place, &inputs)? {
                        Some(delta) => exec::execute_over(&context, delta, &stack),
                        None => Ok(None),
                    }
                };
                let result = match over().map_err(ExecError::from) {
                    Ok(None) => exec::execute(&context, &inputs.chosen, &stack),
                    Ok(Some(result)) => Ok(result),
                    Err(error) => Err(error),
                };
                Event::Executed(index, result)
            });
        }
    }
}
