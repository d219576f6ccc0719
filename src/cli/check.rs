//! `builder check`: findings as text and as JSON.

use super::Environment;
use super::build::{
    ConductArgs, NameArgs, NeighbourArgs, OutputArgs, SourceArgs, StepArgs, Unused, request,
};
use super::failure::{Class, Failure};
use super::findings::{self, BuildError, Subject};
use crate::dockerfile::lint;
use crate::job::{self, BuildRequest, Checked};
use clap::{Args, ValueEnum};
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
    /// List what the build takes: arguments, secrets, agents.
    Outline(Format),
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
            "outline" => Ok(Self::Outline(format)),
            _ => Err(format!(
                "{method:?} is not a method: expected build, check, outline or targets"
            )),
        }
    }
}

/// `builder check`: what to check.
#[derive(Debug, Clone, Args)]
pub struct CheckCommand {
    /// Directory, git repository or archive to build from; - for a Dockerfile or a tar on standard
    /// input
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: String,
    /// How to show what is found
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// What would be built.
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    conduct: Unused<ConductArgs>,
    #[command(flatten)]
    names: Unused<NameArgs>,
    #[command(flatten)]
    output: Unused<OutputArgs>,
    #[command(flatten)]
    steps: Unused<StepArgs>,
    #[command(flatten)]
    neighbours: Unused<NeighbourArgs>,
}

/// Runs `builder check`.
///
/// # Errors
///
/// The failure to show: exit status 3 where the file cannot be built, or where it asks for
/// `error=true` and there are warnings.
pub fn run(command: &CheckCommand, environment: &Environment) -> Result<(), Failure> {
    let request = request::of_check(&command.path, &command.source, environment)?;
    checked(&request, command.format, environment).map(drop)
}

/// Checks, prints, and returns whether there are warnings, advice aside.
fn checked(
    request: &BuildRequest,
    format: Format,
    environment: &Environment,
) -> Result<bool, Failure> {
    let store = environment.store()?;
    let loaded = match job::load(request, &store, environment) {
        Ok(loaded) => loaded,
        Err(failure) => return unreadable(failure, format, environment).map(|()| true),
    };
    let Checked { findings, unknown_images, error } = job::check(&loaded, &store, environment)?;
    let text = loaded.text();
    let subject = Subject { name: &loaded.inputs.dockerfile_name, text: &text };
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
    request: &BuildRequest,
    format: Format,
    environment: &Environment,
) -> Result<(), Failure> {
    match checked(request, format, environment)? {
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
            ("outline,format=json", Some(Call::Outline(Format::Json))),
            ("checks", None),
            ("check,json", None),
        ] {
            assert_eq!(text.parse::<Call>().ok(), want, "{text}");
        }
    }
}
