//! The state of a step whose command failed: entered with a shell, or kept as an image.
//!
//! The command's own writes are there, above the files it started from. Entered, the step has all
//! it had: environment, user, mounts, network, limits. Kept, it is an image like any other, so it
//! is listed, run and removed like one; what was mounted is not part of it.

use super::coordinator::add_tar_facts;
use super::step_context::{Shared, StepContext, TreeStacks};
use super::trees::Stack;
use super::{Cause, Job, StepReport};
use super::{digest, exec};
use crate::image::{Image, ImageLayer};
use crate::layer::{Meter, XattrSpace};
use crate::oci::{Config, Digest};
use crate::plan::{Files, Op, Run, StepId};
use crate::sandbox::{Control, Exit, Inputs, OsBytes, Stdio};
use crate::snapshot::{self, Scratch};
use crate::sys::cancel::Cancel;
use std::path::PathBuf;

/// The shell where a step's own command has none.
const SHELL: &str = "/bin/sh";

/// A step that failed, with its files.
#[derive(Debug)]
pub struct FailedStep {
    step: usize,
    work: PathBuf,
    scratch: Scratch,
    below: Stack,
    trees: TreeStacks,
}

impl FailedStep {
    pub(super) fn new(
        step: usize,
        work: PathBuf,
        scratch: Scratch,
        below: Stack,
        trees: TreeStacks,
    ) -> Self {
        Self { step, work, scratch, below, trees }
    }

    fn run<'a>(&self, job: &Job<'a>) -> &'a Run {
        match &job.plan.steps[self.step].op {
            Op::Run(run) => run,
            Op::Copy(_) | Op::Workdir(_) => unreachable!("only commands fail with their files"),
        }
    }

    /// Runs a shell where the command failed, with everything that it had.
    ///
    /// # Errors
    ///
    /// [`Cause`] where the shell cannot be started.
    pub fn enter(
        &self,
        job: &Job<'_>,
        terminal: Option<String>,
        stdio: Stdio<'_>,
    ) -> Result<Exit, Cause> {
        let run = self.run(job);
        // The overlay of the command is gone; its directory of work serves once only.
        self.scratch.renew()?;
        let ids = job.sandbox.ids(exec::security_of(job, run)?)?;
        let shared = Shared::after_build();
        let mounted = self.below.mount_for(
            &shared,
            job.store,
            Some(&self.scratch.upper()),
            ids.as_deref(),
        )?;
        let trees = self.trees.clone();
        let context = StepContext { job, shared: &shared, index: self.step, trees };
        let root = mounted.root();
        let exec::Command { mut spec, prepared, .. } =
            exec::prepare(&context, run, root, ids.as_deref())?;
        spec.argv = vec![OsBytes::from(shell(run))];
        spec.env.extend(terminal.map(|kind| ("TERM".to_owned(), kind)));
        let inputs = Inputs { root, sources: prepared.sources(), stdio };
        let cancel = Cancel::new();
        Ok(job.sandbox.run(&spec, &inputs, &cancel, &Control::default(), &mut |_, _| {})?)
    }

    /// Makes an image of the files, whose command is a shell.
    ///
    /// # Errors
    ///
    /// [`Cause`], for example on a full disk.
    pub fn keep(self, job: &Job<'_>, steps: &[StepReport]) -> Result<Image, Cause> {
        let run = self.run(job);
        let cancel = Cancel::new();
        let below = self.below.paths();
        snapshot::clean(self.scratch.written(), &below, XattrSpace::detect(), &cancel)?;
        let fs = self.scratch.into_layer(&cancel)?;
        let scan = digest::scan(job.store, &[fs], Meter::default(), &cancel)?;
        let mut layers = vec![job.store.add_layer(&self.work, &scan.meta())?];
        let step = &job.plan.steps[self.step];
        let made = job.plan.made(step.parent);
        layers
            .splice(0..0, made.into_iter().filter_map(|StepId(index)| steps[index].layer.clone()));
        add_tar_facts(job, &mut layers, &cancel)?;
        let base = match job.plan.bottom(step.parent) {
            Files::Base(base) => Some(&job.images[job.plan.bases[base.0].image]),
            _ => None,
        };
        let mut config =
            base.map_or_else(|| Config::empty(&step.platform), |base| base.config.clone());
        for (name, value) in &run.env {
            config.set_env(name, value);
        }
        config.set_working_dir(&run.cwd);
        config.set_user(&run.user);
        config.set_entrypoint(None);
        config.set_cmd(Some(&[shell(run).to_owned()]));
        let mut all = base.map_or_else(Vec::new, |base| base.layers.clone());
        all.extend(layers.into_iter().map(|layer| ImageLayer {
            diff_id: layer.meta.tar.map(|tar| tar.diff_id),
            layer,
            descriptor: None,
        }));
        let diff_ids: Vec<Digest> = all.iter().filter_map(|layer| layer.diff_id).collect();
        config.set_diff_ids(&diff_ids);
        config.reconcile_history(all.len());
        Ok(Image { config, layers: all, manifest: None })
    }
}

/// The shell that the command was written for, where it names one.
fn shell(run: &Run) -> &str {
    match run.argv.first() {
        Some(program) if program.ends_with("sh") => program,
        _ => SHELL,
    }
}
