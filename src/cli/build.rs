//! `builder build`: what was typed becomes a request, a plan, an image.

use super::build_args::BuildArguments;
use super::check::{Call, Format};
use super::deliver::{check_push, deliver};
use super::failure::{self, Class, Failure};
use super::findings::{self, Subject};
use super::limits::LimitArgs;
use super::on_error::{self, OnError};
use super::recorder::{Nobody, Recorder, record_of};
use super::registry::Pulls;
use super::resolve::{Images, NamedContext, context_name};
use super::security::SecurityArgs;
use super::shared_cache::{SharedCacheArgs, SharedCaches};
use super::{Environment, check, housekeeping, registry, secrets, sources, targets, values};
use crate::cache::{TreeEntry, TreeId};
use crate::dockerfile::lint::{self, Finding};
use crate::dockerfile::{self, ast::Dockerfile};
use crate::explain::{
    About, Audit, AuditVerdict, AuditedStep, BuildId, BuildRecord, History, Outcome,
};
use crate::export::{Annotation, AnnotationTarget, Dest, OutputKind, OutputSpec, SpecError};
use crate::image::{Image, Platform, Reference};
use crate::plan::{self, NoCache, Plan, Scope, Survey};
use crate::progress::{Mode, Output, Progress};
use crate::sandbox::{DEFAULT_HOSTNAME, DEFAULT_SHM_SIZE, NetworkMode, Sandbox};
use crate::solve::{self, Audited, Job, Observer, Secret, SolveError};
use crate::store::{Digest, Store};
use crate::sys::cancel::Cancel;
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What `builder build` takes; `builder explain` takes the same.
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    /// Name of the image, as name:tag; may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Dockerfile [default: PATH/Dockerfile]; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Value of an ARG; the environment's where no value is given
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Folder, image or OCI layout to be had under a name
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::full_pair)]
    pub build_context: Vec<(String, String)>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Platform to build for, as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub label: Vec<(String, String)>,
    /// Annotation of the image, or of another part of an output: [index:|manifest-descriptor:]NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Where the result goes: type=oci|docker|local|tar,dest=…; a folder, or - for a tar
    #[arg(short, long, value_name = "SPEC")]
    pub output: Vec<String>,
    /// Load the image into the Docker or Podman that is here: --output type=docker
    #[arg(long)]
    pub load: bool,
    /// Push the image to the registries of its names: short for -o type=registry
    #[arg(long)]
    pub push: bool,
    /// Ask registries for base images even where the store has them
    #[arg(long)]
    pub pull: bool,
    /// Caches shared with other machines.
    #[command(flatten)]
    pub shared: SharedCacheArgs,
    /// Leave write permission of group and others out of the modes of context files
    #[arg(long)]
    pub normalize_modes: bool,
    /// Run every step, whatever the cache has
    #[arg(long)]
    pub no_cache: bool,
    /// Run every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// How to show progress: auto, tty, plain, rawjson or quiet
    #[arg(long, value_name = "MODE", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: Mode,
    /// Print nothing but the image's digest
    #[arg(short, long)]
    pub quiet: bool,
    /// File to write the image's digest to
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// File to write facts about the build to, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Network of RUN steps: default, none or host; default:host-loopback reaches the host's loopback at 10.0.2.2
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: String,
    /// Line for /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = values::host)]
    pub add_host: Vec<(String, String)>,
    /// Host name in RUN steps
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Secret for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=PATH|,env=NAME]", value_parser = values::secret)]
    pub secret: Vec<values::SecretFlag>,
    /// Export the image even where a secret's value is found in it
    #[arg(long)]
    pub allow_secret_in_image: bool,
    /// Agent for RUN --mount=type=ssh
    #[arg(long, value_name = "default|ID[=SOCKET]", value_parser = values::ssh)]
    pub ssh: Vec<(String, Option<String>)>,
    /// What steps may ask for: network.host, security.insecure
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Time of the image, in seconds since 1970, and the latest time of files in its new layers
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<i64>,
    /// How many steps may run at once
    #[arg(long, value_name = "NUMBER")]
    pub max_parallelism: Option<usize>,
    /// Memory of all RUN steps that run at once: each reserves its --memory, or all without one
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    pub build_memory: Option<u64>,
    /// What a RUN step that fails leaves: nothing (fail), a shell in its files, or an image of them (keep)
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub on_error: OnError,
    /// Limits of each step
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Walls around each step
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// `builder build`: where to build, and how.
#[derive(Debug, Clone, Args)]
pub struct BuildCommand {
    /// Folder, git repository or archive to build from; - for a Dockerfile or a tar on standard input
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: String,
    /// What to do instead of building: check or targets, as check,format=json
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub call: Call,
    /// Look for likely mistakes instead of building: --call=check
    #[arg(long, conflicts_with = "call")]
    pub check: bool,
    /// How to build.
    #[command(flatten)]
    pub args: BuildArgs,
}

/// A build as it is meant: read, checked, with absolute paths.
pub(super) struct Request {
    pub(super) inputs: sources::Inputs,
    pub(super) dockerfile: Dockerfile,
    pub(super) build_args: BTreeMap<String, String>,
    pub(super) contexts: BTreeMap<String, NamedContext>,
    pub(super) tags: Vec<Reference>,
    pub(super) outputs: Vec<OutputSpec>,
    /// How the image goes into the store where no output says so.
    pub(super) store_output: OutputSpec,
    platform: Option<Platform>,
    options: solve::Options,
    caches: SharedCaches,
    normalizes_modes: bool,
}

/// Runs `builder build`.
///
/// # Errors
///
/// The failure to show.
pub fn run(command: &BuildCommand, environment: &Environment) -> Result<(), Failure> {
    let args = &command.args;
    match command.call {
        _ if command.check => {
            return check::run(&command.path, args, Format::Text, environment);
        }
        Call::Check(format) => return check::run(&command.path, args, format, environment),
        Call::Targets(format) => return targets::run(&command.path, args, format, environment),
        Call::Build => {}
    }
    args.on_error.check()?;
    let store = environment.store()?;
    let request = Request::new(&command.path, args, &store, environment)?;
    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let progress =
        Progress::new(mode, Output::stderr(environment.is_coloured), environment.started);
    let result = build(args, &request, environment, &store, &progress);
    progress.finish();
    let digest = result?;
    if mode == Mode::Quiet
        && let Some(digest) = digest
    {
        environment.print(&format!("{digest}\n"));
    }
    Ok(())
}

/// What a build would do, for `builder explain`.
///
/// # Errors
///
/// The failure to show.
pub fn predict(
    path: &str,
    args: &BuildArgs,
    environment: &Environment,
) -> Result<(BuildRecord, BTreeMap<TreeId, Vec<TreeEntry>>), Failure> {
    with_job(path, args, environment, |request, job, images| {
        let predicted = solve::predict(job)
            .map_err(|failed| request.solve_failure(failed.error, job.progress))?;
        let id = BuildId::at(environment.started.as_millisecond());
        let about = request.about(args, job.plan, environment);
        let steps = &predicted.steps;
        let record = record_of(id, about, Outcome::Predicted, job.plan, images, steps);
        Ok((record, predicted.listings))
    })
}

/// Runs the steps that a build would find in the cache once more, for `builder explain --audit`.
///
/// # Errors
///
/// The failure to show.
pub fn audit(path: &str, args: &BuildArgs, environment: &Environment) -> Result<Audit, Failure> {
    with_job(path, args, environment, |request, job, _| {
        let mut audit = Audit::default();
        let told = &mut |number: usize, audited: Audited| {
            let step = &job.plan.steps[number];
            audit.steps.push(AuditedStep {
                number,
                name: step.name.clone(),
                line: step.lines.0,
                verdict: match audited {
                    Audited::Same => AuditVerdict::Reproducible,
                    Audited::Differs { known, now } => AuditVerdict::of(&known, &now),
                    Audited::Failed(cause) => {
                        AuditVerdict::Failed { message: failure::chain(&cause) }
                    }
                    Audited::NoResult => AuditVerdict::NoResult,
                },
            });
        };
        solve::audit(job, told)
            .map_err(|failed| request.solve_failure(failed.error, job.progress))?;
        Ok(audit)
    })
}

/// Puts together what a build would begin with, without beginning one.
fn with_job<T>(
    path: &str,
    args: &BuildArgs,
    environment: &Environment,
    ask: impl FnOnce(&Request, &Job<'_>, &[Image]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let store = environment.store()?;
    let request = Request::new(path, args, &store, environment)?;
    let cancel = &environment.cancel;
    let mut images = Images::new(&store, &request.contexts, cancel);
    let plan = request.plan(args, &mut images)?;
    let progress = Progress::quiet();
    let sandbox = Sandbox::new(args.security.sandbox(&store));
    let job = request.job(
        &plan,
        &store,
        &images.images,
        &progress,
        &Nobody,
        &sandbox,
        (environment, cancel),
        "",
    )?;
    ask(&request, &job, &images.images)
}

/// Builds, and then says what may be wrong with the file.
fn build(
    args: &BuildArgs,
    request: &Request,
    environment: &Environment,
    store: &Store,
    progress: &Progress,
) -> Result<Option<Digest>, Failure> {
    let pulls =
        Pulls { client: registry::client(environment, progress)?, progress, is_forced: args.pull };
    let mut images = Images::new(store, &request.contexts, &environment.cancel).or_pulled(pulls);
    let (plan, findings) = request.checked_plan(args, &mut images);
    let result = plan
        .and_then(|plan| build_plan(args, request, environment, store, progress, &plan, &images));
    let text = request.text();
    let subject = Subject { name: &request.inputs.dockerfile_name, text: &text };
    findings::warn(&findings, subject, progress);
    result
}

fn build_plan(
    args: &BuildArgs,
    request: &Request,
    environment: &Environment,
    store: &Store,
    progress: &Progress,
    plan: &Plan,
    images: &Images<'_>,
) -> Result<Option<Digest>, Failure> {
    for name in &plan.unused_args {
        progress.notice(format!("build argument {name} is declared by no ARG"));
    }
    let is_idle = |spec: &OutputSpec| spec.layers.rewrites_times == Some(true);
    if request.options.epoch.is_none() && request.outputs.iter().any(is_idle) {
        progress.notice(
            "rewrite-timestamp=true changes nothing without SOURCE_DATE_EPOCH or --timestamp"
                .to_owned(),
        );
    }
    let history = History::new(store);
    let log = history
        .begin(request.about(args, plan, environment))
        .map_err(|error| Failure::of(Class::Environment, &error))?;
    let build = log.id();
    let id = build.to_string();
    let recorder = Recorder::new(log, plan, &images.images);
    let sandbox = sandbox(args, request, environment, store, progress)?;
    // A failure stops the other steps, and not what follows it.
    let steps_cancel = environment.cancel.child();
    let job = request.job(
        plan,
        store,
        &images.images,
        progress,
        &recorder,
        &sandbox,
        (environment, &steps_cancel),
        &id,
    )?;
    let solved = match solve::solve(&job) {
        Ok(solved) => solved,
        Err(failed) => {
            let message = match &failed.error {
                SolveError::Cancelled => None,
                error => Some(failure::chain(error)),
            };
            let outcome = message.map_or(Outcome::Cancelled, |message| Outcome::Failed { message });
            recorder.finish(environment, outcome, None, &failed.steps)?;
            let kept = match &failed.error {
                SolveError::Step(error) => {
                    job.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&error.step)
                }
                _ => None,
            };
            let failure = request.solve_failure(failed.error, progress);
            let Some(kept) = kept else { return Err(failure) };
            return Err(on_error::act(
                args.on_error,
                &job,
                kept,
                &failed.steps,
                failure,
                environment,
            ));
        }
    };
    let delivered = guarded(args, request, &job, &solved, build, &recorder)
        .and_then(|()| deliver(args, request, environment, &job, &solved))
        .and_then(|digest| request.caches.write(&job, &solved).map(|()| digest));
    let digest = match delivered {
        Ok(digest) => digest,
        Err(failure) => {
            let outcome = Outcome::Failed { message: failure.message.clone() };
            recorder.finish(environment, outcome, None, &solved.steps)?;
            return Err(failure);
        }
    };
    recorder.finish(environment, Outcome::Ok, digest, &solved.steps)?;
    store.sync().map_err(|error| Failure::of(Class::Environment, &error))?;
    let ran = solved.steps.iter().filter(|step| step.end == solve::End::Ran);
    let added = ran.map(|step| step.cost.layer_bytes).reduce(|a, b| a + b);
    housekeeping::after_build(environment, store, progress, added);
    Ok(digest)
}

/// What follows a network mode that reaches the host's loopback.
pub(super) const HOST_LOOPBACK: &str = ":host-loopback";

/// Makes what runs commands. Limits that nothing here can enforce are refused before anything runs;
/// ones that are enforced in part are told of.
fn sandbox(
    args: &BuildArgs,
    request: &Request,
    environment: &Environment,
    store: &Store,
    progress: &Progress,
) -> Result<Arc<Sandbox>, Failure> {
    let mut options = args.security.sandbox(store);
    options.network.reaches_host_loopback = args.network.ends_with(HOST_LOOPBACK);
    let sandbox = Arc::new(Sandbox::new(options));
    environment.signals.freeze_with_us(&sandbox);
    let weaknesses = sandbox.weaknesses(&request.options.limits);
    for weakness in weaknesses.map_err(|error| Failure::of(Class::Environment, &error))? {
        progress.notice(weakness);
    }
    Ok(sandbox)
}

/// Sees that no secret leaves with the image.
fn guarded(
    args: &BuildArgs,
    request: &Request,
    job: &Job<'_>,
    solved: &solve::Solved,
    build: BuildId,
    recorder: &Recorder<'_>,
) -> Result<(), Failure> {
    if !job.options.wants_image || job.options.secrets.is_empty() {
        return Ok(());
    }
    let image = solve::image_of(job, solved);
    let dockerfile = (&*request.inputs.dockerfile_name, &*request.text());
    let is_allowed = args.allow_secret_in_image;
    secrets::check(job, solved, &image, build, recorder, is_allowed, dockerfile)
}

impl Request {
    pub(super) fn new(
        path: &str,
        args: &BuildArgs,
        store: &Store,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(Class::Usage, message);
        let contexts: BTreeMap<String, NamedContext> = args
            .build_context
            .iter()
            .map(|(name, value)| (context_name(name), NamedContext::parse(value)))
            .collect();
        let BuildArguments { all: build_args, keeps_git_dir, hostname, epoch } =
            BuildArguments::read(&args.build_arg, args.timestamp, environment)?;
        let tags = args
            .tag
            .iter()
            .map(|tag| match tag.parse::<Reference>() {
                Ok(name) if name.digest().is_none() => Ok(name.or_latest()),
                Ok(_) => Err(usage(format!("-t {tag:?}: a name to give has no digest"))),
                Err(error) => Err(usage(format!("-t {tag:?}: {error}"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let held = |mut spec: OutputSpec| {
            spec.epoch = epoch;
            // As in buildah, whose flag it is: files of new layers get the time as well.
            if args.timestamp.is_some() {
                spec.layers.rewrites_times.get_or_insert(true);
            }
            spec
        };
        let mut annotations = Vec::new();
        for text in &args.annotation {
            let parsed = Annotation::parse(text);
            annotations.extend(parsed.map_err(|e| usage(format!("--annotation {text}: {e}")))?);
        }
        let output = |text: &str| {
            let mut spec = OutputSpec::parse(text)?;
            spec.annotate(&annotations)?;
            Ok(held(spec))
        };
        let load = args.load.then_some("type=docker");
        let outputs = args
            .output
            .iter()
            .map(String::as_str)
            .chain(load)
            .chain(args.push.then_some("type=registry"))
            .map(|text| {
                output(text).map_err(|e: SpecError| {
                    usage(format!("--output {text}: {}", failure::chain(&e)))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        check_stdout(&outputs, args.quiet)?;
        for spec in outputs.iter().filter(|spec| spec.push.is_wanted) {
            check_push(spec, &tags).map_err(usage)?;
        }
        let mut store_output = OutputSpec::new(OutputKind::Image, None);
        // Without an output of its own the store takes what it can: it makes no index.
        let of_store = annotations.iter().filter(|a| a.target != AnnotationTarget::Index);
        let of_store: Vec<_> = of_store.cloned().collect();
        store_output
            .annotate(if outputs.is_empty() { &annotations } else { &of_store })
            .map_err(|e| usage(format!("--annotation: {}", failure::chain(&e))))?;
        let platform = match args.platform.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|e| usage(failure::chain(&e)))?),
        };
        let inputs = sources::read(path, args.file.as_deref(), keeps_git_dir, store, environment)?;
        let text = dockerfile::as_shown(&inputs.dockerfile);
        let dockerfile = dockerfile::parse(&inputs.dockerfile)
            .map_err(|errors| Failure::of_dockerfile(&errors, &inputs.dockerfile_name, &text))?;
        let mut options = options(args, environment, epoch)?;
        if let Some(hostname) = hostname {
            options.hostname = hostname;
        }
        if let (Some(budget), Some(memory)) = (options.memory_budget, options.limits.memory)
            && memory > budget
        {
            return Err(usage("--memory is more than --build-memory".to_owned())
                .with_hint("a step that may use more than the build could never run"));
        }
        Ok(Self {
            inputs,
            dockerfile,
            build_args,
            contexts,
            tags,
            outputs,
            store_output: held(store_output),
            platform,
            options,
            caches: SharedCaches::new(&args.shared)?,
            normalizes_modes: args.normalize_modes,
        })
    }

    /// What is to be planned.
    pub(super) fn plan_request(&self, args: &BuildArgs) -> plan::Request<'_> {
        plan::Request {
            dockerfile: &self.dockerfile,
            build_args: self.build_args.clone(),
            target: args.target.clone().filter(|target| !target.is_empty()),
            platform: self.platform.clone(),
            build_platform: Platform::host(),
            labels: args.label.iter().cloned().collect(),
            named_contexts: self.contexts.keys().cloned().collect(),
            no_cache: match (args.no_cache, args.no_cache_filter.is_empty()) {
                (true, _) => NoCache::Always,
                (false, true) => NoCache::Never,
                (false, false) => {
                    let names = args.no_cache_filter.iter().map(|name| name.to_lowercase());
                    NoCache::Stages(names.collect())
                }
            },
        }
    }

    fn plan(&self, args: &BuildArgs, images: &mut Images<'_>) -> Result<Plan, Failure> {
        plan::plan(&self.plan_request(args), images).map_err(|error| self.plan_failure(error))
    }

    /// Plans, and looks for likely mistakes, which there may be whether or not there is a plan.
    fn checked_plan(
        &self,
        args: &BuildArgs,
        images: &mut Images<'_>,
    ) -> (Result<Plan, Failure>, Vec<Finding>) {
        let options = match check::options(self) {
            Ok(options) => options,
            Err(failure) => return (Err(failure), Vec::new()),
        };
        let request = self.plan_request(args);
        let survey = Survey::new(&request, Scope::Target, images);
        let findings = check::find(self, &request, survey.as_ref().ok(), &options, None);
        let plan = survey.and_then(Survey::plan).map_err(|error| self.plan_failure(error));
        let plan = plan.and_then(|plan| match lint::violation(&options, &findings) {
            None => Ok(plan),
            Some(message) => Err(Failure::new(Class::Dockerfile, message)
                .with_hint("see where, and how to mend it: builder check")),
        });
        (plan, findings)
    }

    pub(super) fn text(&self) -> String {
        dockerfile::as_shown(&self.inputs.dockerfile)
    }

    /// A failure of what is wrong with the file.
    pub(super) fn failure(&self, errors: &[dockerfile::errors::Error]) -> Failure {
        Failure::of_dockerfile(errors, &self.inputs.dockerfile_name, &self.text())
    }

    fn about(&self, args: &BuildArgs, plan: &Plan, environment: &Environment) -> About {
        About {
            started_ms: environment.started.as_millisecond(),
            context: self.inputs.context_name.clone(),
            dockerfile: self.inputs.dockerfile_name.clone(),
            target: args.target.clone().unwrap_or_else(|| plan.target.stage.clone()),
            platform: plan.target.platform.to_string(),
            tags: self.tags.iter().map(Reference::to_string).collect(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a job, put together once")]
    fn job<'a>(
        &self,
        plan: &'a Plan,
        store: &'a Store,
        images: &'a [Image],
        progress: &'a Progress,
        observer: &'a dyn Observer,
        sandbox: &'a Sandbox,
        (environment, cancel): (&'a Environment, &'a Cancel),
        build: &str,
    ) -> Result<Job<'a>, Failure> {
        let mut contexts = Vec::with_capacity(plan.contexts.len());
        for name in &plan.contexts {
            let context = match name {
                None => sources::open(&self.inputs.context, store)?,
                Some(name) => {
                    let known = self.contexts.get(name).expect("the resolver knew it");
                    sources::named(name, known, store, environment)?
                }
            };
            contexts.push(match self.normalizes_modes {
                true => context.with_normal_modes(),
                false => context,
            });
        }
        let mut options = self.options.clone();
        options.wants_image =
            !self.tags.is_empty() || !self.outputs.is_empty() || options.wants_image;
        options.downloads = store.root().join("context");
        Ok(Job {
            plan,
            store,
            images,
            contexts,
            options,
            progress,
            observer,
            cancel,
            interrupt: &environment.cancel,
            sandbox,
            told_of_network: Mutex::new(false),
            failed: Mutex::default(),
            build: build.to_owned(),
            imports: self.caches.open(progress),
            now: environment.started.as_second(),
        })
    }
}

fn options(
    args: &BuildArgs,
    environment: &Environment,
    epoch: Option<i64>,
) -> Result<solve::Options, Failure> {
    let usage = |message: String| Failure::new(Class::Usage, message);
    let network = match args.network.strip_suffix(HOST_LOOPBACK).unwrap_or(&args.network) {
        "" | "default" => NetworkMode::Private,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => {
            return Err(usage(format!(
                "unknown network mode {other:?}: expected default, none or host"
            )));
        }
    };
    let mut allow = BTreeSet::new();
    for name in &args.allow {
        match name.as_str() {
            "network.host" | "security.insecure" => allow.insert(name.clone()),
            other => {
                return Err(usage(format!(
                    "unknown entitlement {other:?}: expected network.host or security.insecure"
                )));
            }
        };
    }
    if network == NetworkMode::Host {
        allow.insert("network.host".to_owned());
    }
    let mut secrets = BTreeMap::new();
    for flag in &args.secret {
        let secret = match (&flag.src, &flag.env) {
            (Some(path), _) => {
                let path = std::path::absolute(path).map_err(|e| cannot("resolve", path, &e))?;
                fs::metadata(&path).map_err(|e| cannot("read secret", &path, &e))?;
                Secret::File(path)
            }
            (None, env) => {
                let name = env.as_deref().unwrap_or(&flag.id);
                match environment.variable(name) {
                    Some(value) => Secret::Value(value.into_bytes()),
                    None if env.is_some() => {
                        return Err(usage(format!(
                            "secret {}: environment variable {name} is not set",
                            flag.id
                        )));
                    }
                    None => {
                        return Err(usage(format!(
                            "secret {0} names no file, and environment variable {0} is not set",
                            flag.id
                        ))
                        .with_hint(format!("name its file: --secret id={},src=FILE", flag.id)));
                    }
                }
            }
        };
        secrets.insert(flag.id.clone(), secret);
    }
    let mut ssh = BTreeMap::new();
    for (id, socket) in &args.ssh {
        let socket = socket.clone().or_else(|| environment.variable("SSH_AUTH_SOCK"));
        let Some(socket) = socket else {
            return Err(usage(format!("ssh agent {id}: SSH_AUTH_SOCK is not set"))
                .with_hint(format!("start an agent, or name its socket: --ssh {id}=SOCKET")));
        };
        ssh.insert(id.clone(), PathBuf::from(socket));
    }
    Ok(solve::Options {
        network,
        hostname: args.hostname.clone().unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned()),
        extra_hosts: args.add_host.clone(),
        shm_size: args.limits.shm_size.unwrap_or(DEFAULT_SHM_SIZE),
        ulimits: args.limits.ulimit.clone(),
        limits: args.limits.limits()?,
        cap_add: args.security.cap_add.clone(),
        cap_drop: args.security.cap_drop.clone(),
        seccomp: args.security.seccomp()?,
        secrets,
        ssh,
        allow,
        memory_budget: args.build_memory,
        keeps_failed: args.on_error != OnError::Fail,
        parallelism: args.max_parallelism.unwrap_or(environment.processors * 4).max(1),
        wants_image: args.iidfile.is_some() || args.metadata_file.is_some() || args.quiet,
        epoch,
        downloads: PathBuf::new(),
    })
}

/// Checks that one output at most goes to the standard output, and that nobody is to read it there.
fn check_stdout(outputs: &[OutputSpec], is_quiet: bool) -> Result<(), Failure> {
    let refuse = |why: &str| Err(Failure::new(Class::Usage, why));
    match outputs.iter().filter(|spec| spec.dest == Some(Dest::Stdout)).count() {
        0 => Ok(()),
        1 if is_quiet => refuse("--quiet prints the image's id where an output is to go: stdout"),
        1 if std::io::stdout().is_terminal() => refuse(
            "refusing to write an archive to a terminal: name a file with dest=, or redirect",
        ),
        1 => Ok(()),
        _ => refuse("only one output can go to stdout"),
    }
}

/// A failure of a system call on a file that the user named.
pub(super) fn cannot(doing: &str, path: impl AsRef<Path>, error: &std::io::Error) -> Failure {
    let mut failure = Failure::of(Class::Environment, error);
    failure.message = format!("cannot {doing} {}: {error}", path.as_ref().display());
    if error.kind() == std::io::ErrorKind::NotFound {
        failure.class = Class::Usage;
    }
    failure
}
