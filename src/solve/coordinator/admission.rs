//! Whose turn it is: locks shared with other builds, the number of steps at once, the memory
//! budget.

use super::results::micros;
use super::{Coordinator, Event, Phase};
use crate::plan::{Op, Tree};
use crate::solve::Cause;
use crate::solve::{deltas, exec};
use crate::store::{Key, StepLock};
use std::sync::Arc;
use std::thread;

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
    pub(super) fn lock(&mut self, index: usize) -> Result<(), Cause> {
        let Some(name) = self.lock_name(index) else {
            self.enqueue(index);
            return Ok(());
        };
        if let Some(lock) = self.job.store.try_lock_step(&name, &self.holder())? {
            return self.on_locked(index, lock);
        }
        let other = self.job.store.step_holder(&name).unwrap_or_else(|| "another build".to_owned());
        if other != self.holder() {
            let place = self.step(index).place();
            self.job.progress.notice(format!("{place} waiting for {other}"));
        }
        self.nodes[index].phase = Phase::AwaitingLock;
        self.locking += 1;
        // Not one of the scope's threads: nothing can wake it but the other build.
        let (store, holder, sender) = (self.job.store.clone(), self.holder(), self.sender.clone());
        thread::spawn(move || {
            let lock = store.lock_step(&name, &holder).map_err(Cause::from);
            let _ = sender.send(Event::Locked(index, lock));
        });
        Ok(())
    }

    /// The lock is ours; the result may have come since we looked.
    pub(super) fn on_locked(&mut self, index: usize, lock: StepLock) -> Result<(), Cause> {
        let step = self.step(index);
        let node = &self.nodes[index];
        let known = match (node.report.key, self.key_parent(step), step.ignore_cache) {
            (Some(key), Some(parent), false) => {
                self.counts.looked_up += 1;
                self.cache.lookup(&key, &parent)?.ok()
            }
            _ => None,
        };
        if let Some((record, layer)) = known {
            drop(lock);
            return self.hit(index, &record, layer);
        }
        self.nodes[index].lock = Some(lock);
        self.enqueue(index);
        Ok(())
    }

    pub(super) fn enqueue(&mut self, index: usize) {
        self.nodes[index].phase = Phase::Queued;
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
    pub(super) fn next_to_run(&mut self) -> Option<usize> {
        let left = self.job.options.memory_budget.map_or(u64::MAX, |b| b - self.reserved);
        let place = self.to_run.iter().position(|&index| self.reservation(index) <= left)?;
        self.to_run.remove(place)
    }

    /// Where copies like this one are noted, for those that go by what was copied before.
    pub(super) fn place_of_copy(&self, index: usize) -> Option<Key> {
        let step = self.step(index);
        let Op::Copy(copy) = &step.op else { return None };
        let described = self.nodes[index].described.as_ref()?;
        let parent = self.key_parent(step)?;
        if step.ignore_cache { None } else { deltas::place(copy, described, &parent) }
    }

    pub(super) fn start_running(&mut self) {
        while self.running < self.job.options.parallelism && !self.is_stopping() {
            let Some(index) = self.next_to_run() else { return };
            self.reserved += self.reservation(index);
            let step = self.step(index);
            let stack = self.stack(step.parent);
            let files = self.files_of_trees(step);
            let described =
                Arc::clone(self.nodes[index].described.as_ref().expect("a queued step has inputs"));
            let vertex = self.vertex(index);
            let digest = vertex.digest;
            self.job.progress.started(vertex);
            self.job.observer.started(index);
            self.nodes[index].phase = Phase::Running;
            self.nodes[index].report.began_us = micros(self.begun.elapsed());
            self.running += 1;
            self.counts.ran += 1;
            let (job, trees, place) = (self.job, self.trees, self.place_of_copy(index));
            self.work(move || {
                let files = |tree: Tree| files.get(&tree).cloned().unwrap_or_default();
                let run = || {
                    if let Some(place) = place
                        && let Some(delta) = deltas::find(job, &place, &described)?
                        && let Some(made) = exec::execute_over(job, index, delta, &stack)?
                    {
                        return Ok(made);
                    }
                    exec::execute(job, trees, index, digest, &described.chosen, &stack, &files)
                };
                Event::ExecResult(index, run())
            });
        }
    }
}
