//! What a request names, read: the Dockerfile, the context, and then the plan and the solver's job.

use super::failure::{Class, Failure};
use super::git::{self, Git};
use super::policies;
use super::recipe;
use super::request::BuildRequest;
use super::resolve::{Images, NamedContext};
use super::sources::{self, Checkouts, Context, Inputs};
use super::{Caller, OnError, check, housekeeping, shared_cache};
use crate::context;
use crate::dockerfile::lint::{self, Finding};
use crate::dockerfile::{self, Frontend, ast::Dockerfile};
use crate::export::PackOptions;
use crate::history::{About, derived_name};
use crate::image::Image;
use crate::oci::{Platform, Reference};
use crate::plan::{self, Plan, Scope, Survey};
use crate::progress::Progress;
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::solve::{self, Job, Observer};
use crate::store::{Store, StorePart};
use crate::sys::cancel::Cancel;
use crate::sys::threads;
use std::collections::BTreeMap;

/// A request whose Dockerfile and context have been read.
#[derive(Debug)]
pub struct Loaded<'r> {
    /// The request.
    pub request: &'r BuildRequest,
    /// What was read.
    pub inputs: Inputs,
    /// The Dockerfile as a tree.
    pub dockerfile: Dockerfile,
    /// The contexts that have names, as policies let them be.
    pub contexts: BTreeMap<String, NamedContext>,
    /// The time of the image, in seconds since 1970: the one that was asked for, or that of the
    /// context.
    pub epoch: Option<i64>,
    /// What the git repository of the context says of the build.
    pub git: Git,
}

/// Reads the Dockerfile and finds the context. Remote ones are fetched.
///
/// # Errors
///
/// A failure that points at what is wrong with the Dockerfile, or says what cannot be read.
pub fn load<'r>(
    request: &'r BuildRequest,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Loaded<'r>, Failure> {
    let source = &request.source;
    let policies = &source.policies;
    let context = policies::main_context(policies, &source.context)?;
    let file = source.dockerfile.as_deref();
    let file = file.map(|file| policies::dockerfile(policies, file)).transpose()?;
    let mut contexts = BTreeMap::new();
    for (name, named) in &source.contexts {
        contexts.insert(name.clone(), policies::named_context(policies, name, named.clone())?);
    }
    let checkouts = Checkouts {
        keeps_git_dir: source.keeps_git_dir,
        sets_commit_time: source.epoch.is_some() || source.has_epoch_of_context,
    };
    let access = &source.access;
    let mut inputs = sources::read(&context, file.as_deref(), checkouts, access, store, caller)?;
    if let Some(path) = &source.ignore_file {
        let Context::Directory { ignore, .. } = &mut inputs.context else {
            return Err(Failure::new(
                Class::Usage,
                "--ignorefile is for a context that is a directory of this machine",
            ));
        };
        *ignore = Some(recipe::ignore_at(path)?);
    }
    if let Some(name) = inputs.policy.as_deref().filter(|_| !source.ignores_rego) {
        return Err(policies::not_evaluated(name));
    }
    let frontend = match source.build_args.contains_key("BUILDKIT_SYNTAX") {
        true => Frontend::Given,
        false => Frontend::OfFile,
    };
    let dockerfile = dockerfile::parse_for(&inputs.dockerfile, frontend).map_err(|errors| {
        let text = dockerfile::as_shown(&inputs.dockerfile);
        Failure::of_dockerfile(&errors, &inputs.dockerfile_name, &text)
    })?;
    let epoch = source.epoch.or_else(|| inputs.time.filter(|_| source.has_epoch_of_context));
    let git = git::look(&inputs, source.git, store, caller)?;
    Ok(Loaded { request, inputs, dockerfile, contexts, epoch, git })
}

impl Loaded<'_> {
    /// Returns the text of the Dockerfile, as messages show it.
    pub fn text(&self) -> String {
        dockerfile::as_shown(&self.inputs.dockerfile)
    }

    /// A failure of what is wrong with the file.
    pub(super) fn failure(&self, errors: &[dockerfile::errors::Error]) -> Failure {
        Failure::of_dockerfile(errors, &self.inputs.dockerfile_name, &self.text())
    }

    /// What is to be planned: for each platform in turn.
    pub(super) fn plan_requests(&self) -> Vec<plan::PlanRequest<'_>> {
        match &*self.request.source.platforms {
            [] => vec![self.plan_request(None)],
            all => all.iter().map(|platform| self.plan_request(Some(platform))).collect(),
        }
    }

    fn plan_request(&self, platform: Option<&Platform>) -> plan::PlanRequest<'_> {
        let source = &self.request.source;
        let mut build_args = source.build_args.clone();
        if source.has_epoch_of_context {
            build_args.remove("SOURCE_DATE_EPOCH");
            build_args
                .extend(self.epoch.map(|at| ("SOURCE_DATE_EPOCH".to_owned(), at.to_string())));
        }
        // What the user says goes before what is found.
        let mut labels = self.git.labels.clone();
        labels.extend(source.labels.clone());
        plan::PlanRequest {
            dockerfile: &self.dockerfile,
            build_args,
            target: source.target.clone().filter(|target| !target.is_empty()),
            platform: platform.cloned(),
            names_platforms: source.has_index,
            build_platform: Platform::host(),
            labels,
            named_contexts: source.contexts.keys().cloned().collect(),
            no_cache: self.request.steps.no_cache.clone(),
        }
    }

    pub(super) fn plan(&self, images: &mut Images<'_>) -> Result<Plan, Failure> {
        let mut all: Option<Plan> = None;
        for request in &self.plan_requests() {
            let plan = plan::plan(request, images).map_err(|error| self.plan_failure(error))?;
            all = Some(merged(all, plan));
        }
        self.prepared(Ok(all.expect("there is a platform at least")))
    }

    fn prepared(&self, plan: Result<Plan, Failure>) -> Result<Plan, Failure> {
        plan.and_then(|mut plan| {
            plan.mount_everywhere(&self.request.steps.volumes);
            policies::plan(&self.request.source.policies, &mut plan)?;
            Ok(plan)
        })
    }

    /// Plans, and looks for likely mistakes, which there may be whether or not there is a plan.
    pub(super) fn checked_plan(
        &self,
        images: &mut Images<'_>,
    ) -> (Result<Plan, Failure>, Vec<Finding>) {
        let options = match check::options(self) {
            Ok(options) => options,
            Err(failure) => return (Err(failure), Vec::new()),
        };
        let mut findings = Vec::new();
        let mut all: Option<Plan> = None;
        for request in &self.plan_requests() {
            let survey = Survey::new(request, Scope::Target, images);
            let found = check::find(self, request, survey.as_ref().ok(), &options, None);
            check::add_new(&mut findings, found);
            match survey.and_then(Survey::plan) {
                Ok(plan) => all = Some(merged(all, plan)),
                Err(error) => return (Err(self.plan_failure(error)), findings),
            }
        }
        let plan = self.prepared(Ok(all.expect("there is a platform at least")));
        let plan = plan.and_then(|plan| match lint::violation(&options, &findings) {
            None => Ok(plan),
            Some(message) => Err(Failure::new(Class::Dockerfile, message)
                .with_hint("see where, and how to fix it: builder check")),
        });
        (plan, findings)
    }

    pub(super) fn about(&self, plan: &Plan, caller: &dyn Caller) -> About {
        let rung = self.request.steps.confinement.rung().filter(|_| plan.runs_commands());
        let platforms = plan.targets.iter().map(|target| target.platform.to_string());
        let platforms: Vec<_> = platforms.collect();
        About {
            started_ms: caller.started().as_millisecond(),
            context: self.inputs.context_name.clone(),
            dockerfile: self.inputs.dockerfile_name.clone(),
            target: self
                .request
                .source
                .target
                .clone()
                .unwrap_or_else(|| plan.targets[0].stage.clone()),
            platform: platforms.join(","),
            confinement: rung.map(|rung| rung.name().to_owned()),
            tags: self.request.delivery.tags.iter().map(Reference::to_string).collect(),
            name: self.build_name(),
            repository: self.git.repository.clone(),
            revision: self.git.revision.clone(),
        }
    }

    /// Returns the name of the build in the history.
    fn build_name(&self) -> String {
        let source = &self.request.source;
        let target = source.target.as_deref().filter(|target| !target.is_empty());
        let Inputs { context_name, dockerfile_name, .. } = &self.inputs;
        source
            .build_name
            .clone()
            .unwrap_or_else(|| derived_name(context_name, dockerfile_name, target))
    }

    /// Returns the settings of what runs commands.
    pub(super) fn sandbox_options(&self, store: &Store) -> SandboxOptions {
        let steps = &self.request.steps;
        let mut options = SandboxOptions::new(store.place(StorePart::Locks));
        options.idmap.clone_from(&steps.idmap);
        options.network = steps.network.clone();
        options.confinement = steps.confinement.clone();
        options.emulators = steps.emulators.clone();
        if let Some(program) = &steps.program {
            options.program.clone_from(program);
        }
        options
    }

    /// Puts the solver's job together. `cancel` stops the steps, the caller's token everything.
    #[expect(clippy::too_many_arguments, reason = "the parts of a job, put together once")]
    pub(super) fn job<'a>(
        &self,
        plan: &'a Plan,
        store: &'a Store,
        images: &'a [Image],
        progress: &'a Progress,
        observer: &'a dyn Observer,
        sandbox: &'a Sandbox,
        (caller, cancel): (&'a dyn Caller, &'a Cancel),
        build: &str,
    ) -> Result<Job<'a>, Failure> {
        Ok(Job {
            plan,
            store,
            workshop: store,
            images,
            contexts: self.contexts(plan, store, caller)?,
            options: self.options(store),
            progress,
            observer,
            cancel,
            interrupt: caller.cancel(),
            sandbox,
            build: build.to_owned(),
            imports: shared_cache::open(&self.request.steps.caches, progress),
            now: caller.started().as_second(),
        })
    }

    /// Opens the contexts of a plan.
    fn contexts(
        &self,
        plan: &Plan,
        store: &Store,
        caller: &dyn Caller,
    ) -> Result<Vec<context::Source>, Failure> {
        let source = &self.request.source;
        let open = |name: &Option<String>| {
            let context = match name {
                None => sources::open(&self.inputs.context, store)?,
                Some(name) => {
                    let known = self.contexts.get(name).expect("the resolver knew it");
                    sources::named(name, known, &source.access, store, caller)?
                }
            };
            Ok(match source.normalizes_modes {
                true => context.with_normal_modes(),
                false => context,
            })
        };
        plan.contexts.iter().map(open).collect()
    }

    fn options(&self, store: &Store) -> solve::Options {
        let BuildRequest { source, steps, delivery, .. } = self.request;
        let wants_image = delivery.wants_image();
        solve::Options {
            policy: steps.policy.clone(),
            secrets: source.secrets.clone(),
            access: source.access.clone(),
            credentials: source.credentials(),
            ssh: source.ssh.clone(),
            allow: steps.allow.clone(),
            memory_budget: steps.memory_budget,
            keeps_cache_mounts: steps.keeps_cache_mounts,
            keeps_failed: steps.on_error != OnError::Fail,
            parallelism: steps.parallelism.unwrap_or(threads::count() * 4).max(1),
            wants_image,
            stores_tars: wants_image && delivery.all_outputs().any(PackOptions::stores_tars),
            epoch: self.epoch,
            disk_floor: housekeeping::step_floor(&steps.disk, store),
            downloads: store.place(StorePart::Downloads),
        }
    }
}

/// Adds the plan for a platform to those for others.
fn merged(all: Option<Plan>, plan: Plan) -> Plan {
    match all {
        None => plan,
        Some(all) => all.merged([plan]),
    }
}
