//! What was typed becomes what was meant: a request that is read and checked.
//!
//! Flags, the environment and the files that they name end here.

use super::arguments::BuildArguments;
use super::flags::{BuildCommand, OutputArgs, SourceArgs, StepArgs};
use super::given;
use super::shared_cache;
use crate::cli::failure::{self, Class, Failure};
use crate::cli::{Environment, parse_args, platforms, registry};
use crate::export::{Annotation, Dest, OutputKind, OutputSpec, SpecError};
use crate::image::LayoutRef;
use crate::job::resolve::{NamedContext, context_name};
use crate::job::{BuildRequest, DeliverySpec, GitFacts, OnError, SourceSpec, StepSpec, check_push};
use crate::oci::{Platform, Reference};
use crate::plan::NoCache;
use crate::sandbox::{DEFAULT_HOSTNAME, NetworkMode, NetworkOptions, SandboxPolicy};
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::slice;

/// Reads what `builder build` takes. Sentences about flags without effect are added to `notices`.
///
/// # Errors
///
/// A failure of class usage for values that mean nothing.
pub(super) fn of_build(
    command: &BuildCommand,
    environment: &Environment,
    notices: &mut Vec<String>,
) -> Result<BuildRequest, Failure> {
    let BuildCommand { source, steps, output, neighbours, .. } = command;
    notices.extend(neighbours.notices());
    notices.extend(steps.security.notices());
    if !steps.volume.is_empty() {
        let text = "what steps read of --volume does not count for their cache keys";
        notices.push(text.to_owned());
    }
    notices.extend(output.attestations.notice()?);
    let on_error = command.conduct.on_error.checked()?;
    let (mut source, hostname) = source_of(&command.path, source, environment)?;
    source.has_index |= command.names.manifest.is_some();
    let delivery = delivery(command, output, &source, environment, notices)?;
    notices.extend(provenance_notice(output, environment));
    source.pull = neighbours.pull().unwrap_or(command.conduct.pull);
    let mut steps = steps_of(steps, hostname, environment, notices)?;
    steps.on_error = on_error;
    let verifies_tls = neighbours.tls_verify != Some(false);
    Ok(BuildRequest { source, steps, delivery, verifies_tls })
}

/// Reads what `builder explain PATH` takes: of the result, only its names.
///
/// # Errors
///
/// A failure of class usage for values that mean nothing.
pub(in crate::cli) fn of_explain(
    path: &str,
    tags: &[String],
    source: &SourceArgs,
    steps: &StepArgs,
    environment: &Environment,
) -> Result<BuildRequest, Failure> {
    let (source, hostname) = source_of(path, source, environment)?;
    let steps = steps_of(steps, hostname, environment, &mut Vec::new())?;
    let delivery = DeliverySpec { tags: names(tags)?, ..DeliverySpec::default() };
    Ok(BuildRequest { source, steps, delivery, verifies_tls: true })
}

/// Reads what `builder check` takes.
///
/// # Errors
///
/// A failure of class usage for values that mean nothing.
pub(in crate::cli) fn of_check(
    path: &str,
    source: &SourceArgs,
    environment: &Environment,
) -> Result<BuildRequest, Failure> {
    let (source, _) = source_of(path, source, environment)?;
    Ok(BuildRequest { source, ..BuildRequest::new(path) })
}

fn usage(message: String) -> Failure {
    Failure::new(Class::Usage, message)
}

/// Reads what is built, and the host name that build arguments set.
fn source_of(
    path: &str,
    args: &SourceArgs,
    environment: &Environment,
) -> Result<(SourceSpec, Option<String>), Failure> {
    let BuildArguments {
        all: build_args,
        keeps_git_dir,
        hostname,
        epoch,
        has_epoch_of_context,
        build_name,
        has_index,
    } = BuildArguments::read(&args.build_arg, args.timestamp, environment)?;
    let named = |(name, value): &(String, String)| (context_name(name), NamedContext::parse(value));
    for (_, value) in &args.build_context {
        if let NamedContext::Layout(text) = NamedContext::parse(value)
            && let Ok(layout) = LayoutRef::parse(&text)
        {
            registry::check_place(environment, "oci", &layout.dir)?;
        }
    }
    let parts: Vec<String> = args.platform_of_parts().into_iter().collect();
    let platforms = platforms::parse_all(if parts.is_empty() { &args.platform } else { &parts });
    let platforms = platforms.map_err(|e| usage(failure::chain(&e)))?;
    let (secrets, access) = given::secrets(&args.secret, environment)?;
    let source = SourceSpec {
        dockerfile: args.file.clone(),
        ignore_file: args.ignorefile.clone(),
        contexts: args.build_context.iter().map(named).collect(),
        target: args.target.clone(),
        has_index: has_index || platforms.len() > 1,
        platforms,
        labels: args.label.iter().cloned().collect(),
        normalizes_modes: args.normalize_modes,
        ssh: given::agents(&args.ssh, environment)?,
        policies: args.policy.policies(environment)?,
        ignores_rego: args.policy.ignores_rego()?,
        build_args,
        keeps_git_dir,
        secrets,
        access,
        epoch,
        has_epoch_of_context,
        build_name,
        git: git_facts(environment)?,
        ..SourceSpec::new(path)
    };
    Ok((source, hostname))
}

/// Reads a variable that is a truth value.
fn truth_of(environment: &Environment, name: &str, default: bool) -> Result<bool, Failure> {
    match environment.variable(name).as_deref() {
        None | Some("") => Ok(default),
        Some(text) => parse_args::truth(text).map_err(|error| usage(format!("{name}: {error}"))),
    }
}

/// Returns the notice that the metadata file has no provenance, where it was asked for explicitly.
fn provenance_notice(args: &OutputArgs, environment: &Environment) -> Option<String> {
    const NAME: &str = "BUILDX_METADATA_PROVENANCE";
    args.metadata_file.as_ref()?;
    let mode = environment.variable(NAME).filter(|mode| !mode.is_empty())?;
    let is_refused = mode == "disabled" || parse_args::truth(&mode) == Ok(false);
    (!is_refused).then(|| {
        format!("{NAME}={mode}: the metadata file has no provenance, since none is made yet")
    })
}

/// Reads what is taken from the git repository around the context, by buildx's names.
fn git_facts(environment: &Environment) -> Result<GitFacts, Failure> {
    let defaults = GitFacts::default();
    let read = |name: &str, default: bool| match environment.variable(name).as_deref() {
        // All labels, when there were fewer ones by default.
        Some("full") if name == "BUILDX_GIT_LABELS" => Ok(true),
        _ => truth_of(environment, name, default),
    };
    Ok(GitFacts {
        sets_labels: read("BUILDX_GIT_LABELS", defaults.sets_labels)?,
        is_recorded: read("BUILDX_GIT_INFO", defaults.is_recorded)?,
        checks_dirty: read("BUILDX_GIT_CHECK_DIRTY", defaults.checks_dirty)?,
    })
}

/// Reads how steps run; `hostname` goes before `--hostname`.
fn steps_of(
    args: &StepArgs,
    hostname: Option<String>,
    environment: &Environment,
    notices: &mut Vec<String>,
) -> Result<StepSpec, Failure> {
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
    if args.network.mode == NetworkMode::Host {
        allow.insert("network.host".to_owned());
    }
    let hostname = hostname.or_else(|| args.hostname.clone());
    let policy = SandboxPolicy {
        network: args.network.mode,
        hostname: hostname.unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned()),
        extra_hosts: args.add_host.clone(),
        ..args.security.policy(&args.limits)?
    };
    if let (Some(budget), Some(memory)) = (args.build_memory, policy.limits.memory)
        && memory > budget
    {
        return Err(usage("--memory is more than --build-memory".to_owned())
            .with_hint("a step that may use more than the build could never run"));
    }
    let stages = args.no_cache_filter.iter().map(|name| name.to_lowercase());
    Ok(StepSpec {
        policy,
        idmap: args.security.idmap(),
        confinement: args.security.confinement(environment)?,
        network: NetworkOptions {
            ports: Vec::new(),
            reaches_host_loopback: args.network.reaches_host_loopback,
            reaches_link_local: args.security.allow_link_local,
        },
        emulators: args.emulators.emulators(environment)?,
        allow,
        volumes: given::volumes(&args.volume)?,
        no_cache: match (args.no_cache, args.no_cache_filter.is_empty()) {
            (true, _) => NoCache::Always,
            (false, true) => NoCache::Never,
            (false, false) => NoCache::Stages(stages.collect()),
        },
        keeps_cache_mounts: args.keep_cache_mounts,
        caches: shared_cache::from(&args.cache_from, notices)?,
        parallelism: args.max_parallelism,
        memory_budget: args.build_memory,
        on_error: OnError::Fail,
        program: None,
        disk: environment.disk_policy(notices),
    })
}

/// Reads the names of an image.
fn names(tags: &[String]) -> Result<Vec<Reference>, Failure> {
    let read = |tag: &String| match tag.parse::<Reference>() {
        Ok(name) if name.digest().is_none() => Ok(name.or_latest()),
        Ok(_) => Err(usage(format!("-t {tag:?}: a name to give has no digest"))),
        Err(error) => Err(usage(format!("-t {tag:?}: {error}"))),
    };
    tags.iter().map(read).collect()
}

/// Reads where the result goes.
fn delivery(
    command: &BuildCommand,
    args: &OutputArgs,
    source: &SourceSpec,
    environment: &Environment,
    notices: &mut Vec<String>,
) -> Result<DeliverySpec, Failure> {
    let (epoch, has_index) = (source.epoch, source.has_index);
    let platforms = match &*source.platforms {
        [] => &[Platform::host()][..],
        platforms => platforms,
    };
    let tags = command.names.tag.iter().chain(&command.names.manifest).cloned();
    let tags = names(&tags.collect::<Vec<_>>())?;
    let dated = |mut spec: OutputSpec| {
        spec.epoch = epoch;
        // As in buildah, whose flag it is: files of new layers get the time as well.
        if command.source.timestamp.is_some() {
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
        Ok(dated(spec))
    };
    let texts = args.output.iter().map(String::as_str);
    let texts = texts.chain(args.load.then_some("type=docker"));
    let texts = texts.chain(args.push.then_some("type=registry"));
    let outputs = texts
        .map(|text| {
            output(text)
                .map_err(|e: SpecError| usage(format!("--output {text}: {}", failure::chain(&e))))
        })
        .collect::<Result<Vec<_>, _>>()?;
    check_stdout(&outputs, command.conduct.quiet)?;
    for spec in outputs.iter().filter(|spec| spec.push.is_wanted) {
        check_push(spec, &tags).map_err(usage)?;
    }
    let mut store_output = OutputSpec::new(OutputKind::Image, None);
    store_output.layers.oci_media_types = command.format.as_deref().map(|format| format == "oci");
    store_output
        .annotate(&annotations)
        .map_err(|e| usage(format!("--annotation: {}", failure::chain(&e))))?;
    let made = if outputs.is_empty() { slice::from_ref(&store_output) } else { &*outputs };
    for spec in made {
        for platform in spec.annotated_platforms() {
            if !platforms.contains(platform) {
                notices.push(format!("no image for {platform} is built, and so none is annotated"));
            }
        }
        spec.check_index(has_index)
            .map_err(|e| usage(format!("--annotation: {}", failure::chain(&e))))?;
    }
    Ok(DeliverySpec {
        tags,
        outputs,
        store_output: dated(store_output),
        caches: shared_cache::to(&args.cache_to, notices)?,
        id_file: args.iidfile.clone(),
        metadata_file: args.metadata_file.clone(),
        metadata_has_warnings: truth_of(environment, "BUILDX_METADATA_WARNINGS", false)?,
        allows_secrets: args.allow_secret_in_image,
        shows_only_id: command.conduct.quiet,
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
