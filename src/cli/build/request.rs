//! What was typed becomes what was meant: read, checked, with absolute paths.

use super::arguments::BuildArguments;
use super::deliver::check_push;
use super::flags::BuildArgs;
use super::housekeeping;
use super::on_error::OnError;
use super::shared_cache::SharedCaches;
use crate::cli::failure::{self, Class, Failure};
use crate::cli::{Environment, check, parse_args, platforms};
use crate::context::remote::Access;
use crate::dockerfile::lint::{self, Finding};
use crate::dockerfile::{self, ast::Dockerfile};
use crate::export::{
    Annotation, AnnotationTarget, Dest, OutputKind, OutputSpec, PackOptions, SpecError,
};
use crate::history::About;
use crate::image::Image;
use crate::job::resolve::{Images, NamedContext, context_name};
use crate::job::sources;
use crate::oci::{Platform, Reference};
use crate::plan::{self, Mount, NoCache, Plan, Scope, Survey};
use crate::progress::Progress;
use crate::sandbox::{DEFAULT_HOSTNAME, NetworkMode, Sandbox, SandboxPolicy};
use crate::solve::{self, Job, Observer};
use crate::store::{Store, StorePart};
use crate::sys::cancel::Cancel;
use crate::sys::threads;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::PathBuf;

/// A build as it is meant: read, checked, with absolute paths.
pub(in crate::cli) struct Request {
    pub(in crate::cli) inputs: sources::Inputs,
    pub(in crate::cli) dockerfile: Dockerfile,
    pub(in crate::cli) build_args: BTreeMap<String, String>,
    pub(in crate::cli) contexts: BTreeMap<String, NamedContext>,
    pub(in crate::cli) tags: Vec<Reference>,
    pub(in crate::cli) outputs: Vec<OutputSpec>,
    /// How the image goes into the store where no output says so.
    pub(in crate::cli) store_output: OutputSpec,
    pub(super) platform: Option<Platform>,
    pub(super) options: solve::Options,
    pub(super) caches: SharedCaches,
    pub(super) normalizes_modes: bool,
    /// What every RUN sees of this machine.
    volumes: Vec<Mount>,
}

impl Request {
    pub(in crate::cli) fn new(
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
        store_output.layers.oci_media_types =
            args.neighbours.format.as_deref().map(|format| format == "oci");
        // Without an output of its own the store takes what it can: it makes no index.
        let of_store = annotations.iter().filter(|a| a.target != AnnotationTarget::Index);
        let of_store: Vec<_> = of_store.cloned().collect();
        store_output
            .annotate(if outputs.is_empty() { &annotations } else { &of_store })
            .map_err(|e| usage(format!("--annotation: {}", failure::chain(&e))))?;
        let parts: Vec<String> = args.neighbours.platform().into_iter().collect();
        let platform = platforms::parse(if parts.is_empty() { &args.platform } else { &parts });
        let platform = platform.map_err(|e| usage(failure::chain(&e)))?;
        let (secrets, access) = super::given::secrets(args, environment)?;
        let inputs =
            sources::read(path, args.file.as_deref(), keeps_git_dir, &access, store, environment)?;
        let text = dockerfile::as_shown(&inputs.dockerfile);
        let dockerfile = dockerfile::parse(&inputs.dockerfile)
            .map_err(|errors| Failure::of_dockerfile(&errors, &inputs.dockerfile_name, &text))?;
        let mut options = options(args, environment, epoch)?;
        options.secrets = secrets;
        options.access = access;
        options.credentials = super::given::credentials(path, &contexts, &build_args);
        if let Some(hostname) = hostname {
            options.policy.hostname = hostname;
        }
        if let (Some(budget), Some(memory)) = (options.memory_budget, options.policy.limits.memory)
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
            volumes: super::given::volumes(&args.volume)?,
        })
    }

    /// What is to be planned.
    pub(in crate::cli) fn plan_request(&self, args: &BuildArgs) -> plan::Request<'_> {
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

    pub(super) fn plan(&self, args: &BuildArgs, images: &mut Images<'_>) -> Result<Plan, Failure> {
        let plan = plan::plan(&self.plan_request(args), images);
        self.with_volumes(plan.map_err(|error| self.plan_failure(error)))
    }

    fn with_volumes(&self, plan: Result<Plan, Failure>) -> Result<Plan, Failure> {
        plan.map(|mut plan| {
            plan.mount_everywhere(&self.volumes);
            plan
        })
    }

    /// Plans, and looks for likely mistakes, which there may be whether or not there is a plan.
    pub(super) fn checked_plan(
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
        let plan = self.with_volumes(plan);
        let plan = plan.and_then(|plan| match lint::violation(&options, &findings) {
            None => Ok(plan),
            Some(message) => Err(Failure::new(Class::Dockerfile, message)
                .with_hint("see where, and how to fix it: builder check")),
        });
        (plan, findings)
    }

    pub(in crate::cli) fn text(&self) -> String {
        dockerfile::as_shown(&self.inputs.dockerfile)
    }

    /// A failure of what is wrong with the file.
    pub(in crate::cli) fn failure(&self, errors: &[dockerfile::errors::Error]) -> Failure {
        Failure::of_dockerfile(errors, &self.inputs.dockerfile_name, &self.text())
    }

    pub(super) fn about(&self, args: &BuildArgs, plan: &Plan, environment: &Environment) -> About {
        About {
            started_ms: environment.started.as_millisecond(),
            context: self.inputs.context_name.clone(),
            dockerfile: self.inputs.dockerfile_name.clone(),
            target: args.target.clone().unwrap_or_else(|| plan.target.stage.clone()),
            platform: plan.target.platform.to_string(),
            tags: self.tags.iter().map(Reference::to_string).collect(),
        }
    }

    /// Returns what the image is put out as. Without any output, and for a name that no output
    /// gives it, it goes into the store.
    pub(super) fn all_outputs(&self) -> impl Iterator<Item = &OutputSpec> {
        let wants_store = self.outputs.is_empty()
            || !self.tags.is_empty()
                && self.outputs.iter().all(|spec| spec.kind != OutputKind::Image);
        self.outputs.iter().chain(wants_store.then_some(&self.store_output))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a job, put together once")]
    pub(super) fn job<'a>(
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
                    sources::named(name, known, &self.options.access, store, environment)?
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
        options.stores_tars =
            options.wants_image && self.all_outputs().any(PackOptions::stores_tars);
        options.downloads = store.place(StorePart::Downloads);
        options.disk_floor = housekeeping::step_floor(environment, store, progress);
        Ok(Job {
            plan,
            store,
            workshop: store,
            images,
            contexts,
            options,
            progress,
            observer,
            cancel,
            interrupt: &environment.cancel,
            sandbox,
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
    let network = parse_args::network(&args.network).map_err(usage)?.mode;
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
    let ssh = super::given::agents(args, environment)?;
    let policy = SandboxPolicy {
        network,
        hostname: args.hostname.clone().unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned()),
        extra_hosts: args.add_host.clone(),
        ..args.security.policy(&args.limits)?
    };
    Ok(solve::Options {
        policy,
        secrets: BTreeMap::new(),
        access: Access::default(),
        credentials: Vec::new(),
        ssh,
        allow,
        memory_budget: args.build_memory,
        keeps_cache_mounts: args.keep_cache_mounts,
        keeps_failed: args.on_error != OnError::Fail,
        parallelism: args.max_parallelism.unwrap_or(threads::count() * 4).max(1),
        // An image that no user could name or find is not packed.
        wants_image: args.iidfile.is_some() || args.metadata_file.is_some() || args.quiet,
        stores_tars: false,
        epoch,
        disk_floor: 0,
        downloads: PathBuf::new(),
    })
}

/// Checks that one output at most goes to the standard output, and that it is not shown on a
/// terminal.
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
