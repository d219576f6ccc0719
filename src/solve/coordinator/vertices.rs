//! Steps as the progress shows them.

use super::Coordinator;
use crate::oci::Digest;
use crate::plan::{Files, StepId, Tree};
use crate::progress::Vertex;
use crate::solve::step_context::vertex_digest;

impl<'scope, 'env: 'scope> Coordinator<'scope, 'env> {
    pub(super) fn show_bases(&self) {
        for base in &self.job.plan.bases {
            if base.step_name.starts_with('[') {
                self.job.progress.cached(Vertex {
                    is_step: false,
                    ..Vertex::step(base_vertex(&base.step_name), Vec::new(), &base.step_name)
                });
            }
        }
    }

    pub(super) fn vertex_digest(&self, index: usize) -> Digest {
        vertex_digest(index, &self.step(index).name)
    }

    pub(super) fn vertex(&self, index: usize) -> Vertex {
        let step = self.step(index);
        let of_files = |files: Files| match files {
            Files::Nothing => None,
            Files::Base(base) => Some(base_vertex(&self.job.plan.bases[base.0].step_name)),
            Files::Step(StepId(index)) => Some(self.vertex_digest(index)),
        };
        let read = step.trees().into_iter().filter_map(|tree| match tree {
            Tree::Files(files) => of_files(files),
            Tree::Context(_) => None,
        });
        let inputs = of_files(step.parent).into_iter().chain(read).collect();
        Vertex::step(self.vertex_digest(index), inputs, &step.name)
    }
}

pub(super) fn base_vertex(name: &str) -> Digest {
    Digest::of(format!("base {name}").as_bytes())
}
