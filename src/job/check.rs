//! The checks that belong to every build, and what `builder check` adds to them.

use super::Caller;
use super::failure::{Class, Failure};
use super::load::Loaded;
use super::resolve::{Images, NotHere};
use super::sources;
use crate::context::ContextError;
use crate::dockerfile::ast::{Command, DirectiveName, Dockerfile};
use crate::dockerfile::errors::{Error as DockerfileError, ErrorKind};
use crate::dockerfile::lint::{self, Finding, Input, Options};
use crate::oci::Platform;
use crate::plan::{self, Resolved, Resolver, Scope, Survey};
use crate::progress::{self, Event, Progress, Source, Vertex, Warning};
use crate::store::Store;
use std::error::Error;

/// BuildKit's level of all its checks.
const LEVEL: u32 = 1;

/// Most warnings that a build shows. Each carries the whole file, for tools that point into it.
const WARNINGS_MAX: usize = 100;

/// What a check found out.
#[derive(Debug)]
pub struct Checked {
    /// What is likely a mistake, and advice.
    pub findings: Vec<Finding>,
    /// Images that are not at hand, so that nothing is known of their variables and platform.
    pub unknown_images: Vec<String>,
    /// Why the file cannot be built.
    pub error: Option<Failure>,
}

/// Looks for what is likely a mistake, with advice. Images that are not in the store are unknown
/// rather than an error.
///
/// # Errors
///
/// A failure for options of the checks that mean nothing, and for a context that cannot be read.
pub fn check(loaded: &Loaded<'_>, store: &Store, caller: &dyn Caller) -> Result<Checked, Failure> {
    let options = options(loaded)?;
    let images = Images::new(store, &loaded.contexts, caller.cancel())
        .under(&loaded.request.source.policies);
    let mut known = Known { images, unknown: Vec::new() };
    let secret_files = secret_files(loaded, store, caller)?;
    let (mut findings, mut error) = (Vec::new(), None);
    for planned in &loaded.plan_requests() {
        // As in BuildKit: without a target, all stages are looked at.
        let scope = if planned.target.is_some() { Scope::Target } else { Scope::All };
        let survey = Survey::new(planned, scope, &mut known);
        let found = find(loaded, planned, survey.as_ref().ok(), &options, Some(&secret_files));
        add_new(&mut findings, found);
        let failed = survey.and_then(Survey::plan).err();
        error = error.or(failed.map(|error| loaded.plan_failure(error)));
    }
    let violation = lint::violation(&options, &findings);
    let error = error.or(violation.map(|message| Failure::new(Class::Dockerfile, message)));
    let mut unknown_images = known.unknown;
    unknown_images.sort();
    unknown_images.dedup();
    Ok(Checked { findings, unknown_images, error })
}

/// The options of the checks.
pub(super) fn options(loaded: &Loaded<'_>) -> Result<Options, Failure> {
    let (file, build_args) = (&loaded.dockerfile, &loaded.request.source.build_args);
    Options::of(file, build_args).map_err(|error| {
        let message = format!("failed to parse check options: {error}");
        match file.directive(DirectiveName::Check) {
            Some(directive) if !build_args.contains_key(lint::CHECK_ARGUMENT) => {
                let error = DockerfileError::new(
                    ErrorKind::Directive,
                    message,
                    directive.value.span,
                    directive.line,
                );
                loaded.failure(&[error])
            }
            _ => Failure::new(
                Class::Usage,
                format!("--build-arg {}: {message}", lint::CHECK_ARGUMENT),
            ),
        }
    })
}

/// Adds the findings that are not there yet: most are the same for every platform.
pub(super) fn add_new(all: &mut Vec<Finding>, found: Vec<Finding>) {
    for finding in found {
        if !all.contains(&finding) {
            all.push(finding);
        }
    }
}

/// Looks for what is likely a mistake; `secret_files` is given where advice is wanted too.
pub(super) fn find(
    loaded: &Loaded<'_>,
    planned: &plan::PlanRequest<'_>,
    survey: Option<&Survey<'_, '_>>,
    options: &Options,
    secret_files: Option<&[String]>,
) -> Vec<Finding> {
    lint::check(&Input {
        file: &loaded.dockerfile,
        options,
        build_args: &loaded.request.source.build_args,
        platform_args: &plan::platform_args(planned),
        stages: &survey.map(Survey::facts).unwrap_or_default(),
        target: survey.map_or(0, Survey::target),
        ignore: loaded.inputs.context.ignore(),
        wants_advice: secret_files.is_some(),
        secret_files: secret_files.unwrap_or_default(),
    })
}

/// Files of the context that look like secrets. The context is listed only where something of it is
/// copied.
fn secret_files(
    loaded: &Loaded<'_>,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Vec<String>, Failure> {
    if !copies_from_context(&loaded.dockerfile) {
        return Ok(Vec::new());
    }
    let source = sources::open(&loaded.inputs.context, store)?;
    let files = source.files(caller.cancel()).map_err(|error| match error {
        ContextError::Cancelled => Failure::new(Class::Interrupted, "interrupted"),
        error => Failure::of(Class::Environment, &error),
    })?;
    let names = files.iter().map(|path| String::from_utf8_lossy(path));
    Ok(names.filter(|name| lint::looks_secret(name)).map(std::borrow::Cow::into_owned).collect())
}

fn copies_from_context(file: &Dockerfile) -> bool {
    let instructions = file.stages.iter().flat_map(|stage| &stage.instructions);
    instructions.into_iter().any(|instruction| match &instruction.command {
        Command::Copy(copy) => copy.from.is_none() && !copy.transfer.sources.is_empty(),
        Command::Add(add) => !add.transfer.sources.is_empty(),
        _ => false,
    })
}

/// Finds images that are at hand; the others are unknown rather than an error.
pub(super) struct Known<'a> {
    pub(super) images: Images<'a>,
    /// The names of those that are not.
    pub(super) unknown: Vec<String>,
}

impl Resolver for Known<'_> {
    fn resolve(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Resolved, Box<dyn Error + Send + Sync>> {
        match self.images.resolve(name, platform) {
            Err(error) if error.downcast_ref::<NotHere>().is_some() => {
                self.unknown.push(name.to_owned());
                Ok(Resolved::Unknown)
            }
            result => result,
        }
    }
}

/// The vertex of reading the Dockerfile, which findings are about.
fn definition(loaded: &Loaded<'_>) -> Vertex {
    let name = &loaded.inputs.dockerfile_name;
    Vertex::internal(format!("[internal] load build definition from {name}"))
}

/// Returns findings as progress and metadata files have them.
pub(super) fn warnings(findings: &[Finding], loaded: &Loaded<'_>) -> Vec<Warning> {
    let (name, text) = (&loaded.inputs.dockerfile_name, loaded.text());
    let digest = definition(loaded).digest;
    let warning = |finding: &Finding| Warning {
        vertex: Some(digest),
        level: LEVEL,
        short: finding.short(),
        detail: vec![finding.rule.description.to_owned()],
        url: finding.rule.url(),
        source: Some(Source { filename: name.clone(), text: text.clone() }),
        lines: (finding.lines.first..=finding.lines.last).map(|line| (line, line)).collect(),
    };
    findings.iter().map(warning).collect()
}

/// Shows findings as warnings of a build, under the vertex that BuildKit shows them under.
pub(super) fn warn(findings: &[Finding], loaded: &Loaded<'_>, progress: &Progress) {
    if findings.is_empty() {
        return;
    }
    let vertex = definition(loaded);
    let digest = vertex.digest;
    progress.started(vertex);
    for warning in warnings(&findings[..findings.len().min(WARNINGS_MAX)], loaded) {
        progress.emit(Event::Warning(warning));
    }
    progress.done(digest, progress::Outcome::Ran);
    if let Some(more) = findings.len().checked_sub(WARNINGS_MAX).filter(|more| *more > 0) {
        progress.notice(format!("{more} more warnings: builder check shows all"));
    }
}
