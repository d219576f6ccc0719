//! `builder check`, and the checks that belong to every build.

use super::Environment;
use super::build::{BuildArgs, Request};
use super::failure::{Class, Failure};
use super::findings::{self, BuildError, Subject};
use crate::context::ContextError;
use crate::dockerfile::ast::{Command, DirectiveName, Dockerfile};
use crate::dockerfile::errors::{Error as DockerfileError, ErrorKind};
use crate::dockerfile::lint::{self, Finding, Input, Options};
use crate::job::resolve::{Images, NotHere};
use crate::job::sources;
use crate::oci::Platform;
use crate::plan::{self, Resolved, Resolver, Scope, Survey};
use crate::store::Store;
use clap::{Args, ValueEnum};
use std::error::Error;
use std::str::FromStr;

/// How findings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs, in the form of `docker build --call=check,format=json`.
    Json,
}

/// What `builder build` is to do: `--call`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Build.
    Build,
    /// Look for likely mistakes.
    Check(Format),
    /// List the stages that `--target` takes.
    Targets(Format),
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.split(',');
        let method = fields.next().unwrap_or_default();
        let mut format = Format::Text;
        for field in fields {
            format = match field {
                "format=json" => Format::Json,
                "format=text" | "format=table" => Format::Text,
                _ => return Err(format!("{field:?}: expected format=text or format=json")),
            };
        }
        match method {
            "build" | "" => Ok(Self::Build),
            "check" | "lint" => Ok(Self::Check(format)),
            "targets" => Ok(Self::Targets(format)),
            _ => Err(format!("{method:?} is not a method: expected build, check or targets")),
        }
    }
}

/// `builder check`: what to check, as it would be built.
#[derive(Debug, Clone, Args)]
pub struct CheckCommand {
    /// Directory, git repository or archive to build from; - for a Dockerfile or a tar on standard
    /// input
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: String,
    /// How to show what is found
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// How it would be built.
    #[command(flatten)]
    pub args: BuildArgs,
}

/// What a check found out.
struct Checked {
    findings: Vec<Finding>,
    /// Images that are not at hand, so that nothing is known of their variables and platform.
    unknown_images: Vec<String>,
    /// Why the file cannot be built.
    error: Option<Failure>,
}

/// Runs `builder check`.
///
/// # Errors
///
/// The failure to show: exit status 3 where the file cannot be built, or where it asks for
/// `error=true` and there are warnings.
pub fn run(
    path: &str,
    args: &BuildArgs,
    format: Format,
    environment: &Environment,
) -> Result<(), Failure> {
    checked(path, args, format, environment).map(drop)
}

/// Checks, prints, and returns whether there are warnings, advice aside.
fn checked(
    path: &str,
    args: &BuildArgs,
    format: Format,
    environment: &Environment,
) -> Result<bool, Failure> {
    let store = environment.store()?;
    let request = match Request::new(path, args, &store, environment) {
        Ok(request) => request,
        Err(failure) => return unreadable(failure, format, environment).map(|()| true),
    };
    let Checked { findings, unknown_images, error } = check(&request, args, &store, environment)?;
    let text = request.text();
    let subject = Subject { name: &request.inputs.dockerfile_name, text: &text };
    let warns = findings.iter().any(|finding| finding.rule.severity != lint::Severity::Advice);
    match format {
        Format::Text => {
            let is_coloured = environment.is_stdout_coloured();
            environment.print(&findings::text(&findings, subject, is_coloured));
            for image in &unknown_images {
                environment.warn(&format!(
                    "image {image} is not in the store: its variables and platform are not checked"
                ));
            }
            error.map_or(Ok(warns), Err)
        }
        Format::Json => {
            let shown = error.as_ref().map(build_error);
            environment.print(&findings::json(&findings, subject, &unknown_images, shown.as_ref()));
            match error {
                Some(failure) => Err(silent(&failure)),
                None => Ok(warns),
            }
        }
    }
}

/// Runs `builder build --check` and `--call=check`: as [`run`], with exit status 1 where there are
/// warnings, as `docker build --check` has it.
///
/// # Errors
///
/// As [`run`].
pub fn run_as_docker(
    path: &str,
    args: &BuildArgs,
    format: Format,
    environment: &Environment,
) -> Result<(), Failure> {
    match checked(path, args, format, environment)? {
        true => Err(Failure::new(Class::Status(1), "")),
        false => Ok(()),
    }
}

/// A file that is not a Dockerfile, or inputs that cannot be read.
fn unreadable(failure: Failure, format: Format, environment: &Environment) -> Result<(), Failure> {
    if format == Format::Text || failure.class != Class::Dockerfile {
        return Err(failure);
    }
    let (name, text) = match failure.excerpts.first() {
        Some(excerpt) => (excerpt.path.clone(), excerpt.source.clone()),
        None => ("Dockerfile".to_owned(), String::new()),
    };
    let subject = Subject { name: &name, text: &text };
    environment.print(&findings::json(&[], subject, &[], Some(&build_error(&failure))));
    Err(silent(&failure))
}

/// A failure that standard output has already shown.
fn silent(failure: &Failure) -> Failure {
    Failure::new(Class::Status(failure.class.code()), "")
}

fn build_error(failure: &Failure) -> BuildError {
    let lines = failure.excerpts.first().map(|excerpt| {
        let line_at = |at: usize| {
            let before = excerpt.source.get(..at).unwrap_or_default();
            u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX)
        };
        let last = excerpt.span.end.max(excerpt.span.start + 1) - 1;
        (line_at(excerpt.span.start), line_at(last))
    });
    BuildError { message: failure.message.clone(), lines }
}

fn check(
    request: &Request,
    args: &BuildArgs,
    store: &Store,
    environment: &Environment,
) -> Result<Checked, Failure> {
    let options = options(request)?;
    let planned = request.plan_request(args);
    // As in BuildKit: without a target, all stages are looked at.
    let scope = if planned.target.is_some() { Scope::Target } else { Scope::All };
    let images = Images::new(store, &request.contexts, &environment.cancel);
    let mut known = Known { images, unknown: Vec::new() };
    let survey = Survey::new(&planned, scope, &mut known);
    let secret_files = secret_files(request, store, environment)?;
    let findings = find(request, &planned, survey.as_ref().ok(), &options, Some(&secret_files));
    let violation = lint::violation(&options, &findings);
    let error = match survey.and_then(Survey::plan) {
        Err(error) => Some(request.plan_failure(error)),
        Ok(_) => violation.map(|message| Failure::new(Class::Dockerfile, message)),
    };
    let mut unknown_images = known.unknown;
    unknown_images.sort();
    unknown_images.dedup();
    Ok(Checked { findings, unknown_images, error })
}

/// The options of the checks.
pub(super) fn options(request: &Request) -> Result<Options, Failure> {
    let file = &request.dockerfile;
    Options::of(file, &request.build_args).map_err(|error| {
        let message = format!("failed to parse check options: {error}");
        match file.directive(DirectiveName::Check) {
            Some(directive) if !request.build_args.contains_key(lint::CHECK_ARGUMENT) => {
                let error = DockerfileError::new(
                    ErrorKind::Directive,
                    message,
                    directive.value.span,
                    directive.line,
                );
                request.failure(&[error])
            }
            _ => Failure::new(
                Class::Usage,
                format!("--build-arg {}: {message}", lint::CHECK_ARGUMENT),
            ),
        }
    })
}

/// Looks for what is likely a mistake; `secret_files` is given where advice is wanted too.
pub(super) fn find(
    request: &Request,
    planned: &plan::Request<'_>,
    survey: Option<&Survey<'_, '_>>,
    options: &Options,
    secret_files: Option<&[String]>,
) -> Vec<Finding> {
    lint::check(&Input {
        file: &request.dockerfile,
        options,
        build_args: &request.build_args,
        platform_args: &plan::platform_args(planned),
        stages: &survey.map(Survey::facts).unwrap_or_default(),
        target: survey.map_or(0, Survey::target),
        ignore: request.inputs.context.ignore(),
        wants_advice: secret_files.is_some(),
        secret_files: secret_files.unwrap_or_default(),
    })
}

/// Files of the context that look like secrets. The context is listed only where something of it is
/// copied.
fn secret_files(
    request: &Request,
    store: &Store,
    environment: &Environment,
) -> Result<Vec<String>, Failure> {
    if !copies_from_context(&request.dockerfile) {
        return Ok(Vec::new());
    }
    let source = sources::open(&request.inputs.context, store)?;
    let files = source.files(&environment.cancel).map_err(|error| match error {
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
struct Known<'a> {
    images: Images<'a>,
    unknown: Vec<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_a_format() {
        for (text, want) in [
            ("build", Some(Call::Build)),
            ("check", Some(Call::Check(Format::Text))),
            ("check,format=json", Some(Call::Check(Format::Json))),
            ("targets,format=table", Some(Call::Targets(Format::Text))),
            ("checks", None),
            ("check,json", None),
        ] {
            assert_eq!(text.parse::<Call>().ok(), want, "{text}");
        }
    }
}
