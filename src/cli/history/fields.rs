//! What a Go template of `builder history inspect --format` can show of a build: buildx's fields.
//!
//! Source: docker/buildx, `commands/history/inspect.go`.

use super::builds::as_name;
use crate::cli::explain::ExplainError;
use crate::cli::format::FormatError;
use crate::cli::template::{Escapes, Template, Value};
use crate::explain::redact;
use crate::history::{BuildRecord, Outcome, StepOutcome};
use jiff::Timestamp;
use std::io::Write;

/// The fields.
const NAMES: [&str; 17] = [
    "Name",
    "Ref",
    "Context",
    "Dockerfile",
    "VCSRepository",
    "VCSRevision",
    "Target",
    "Platform",
    "StartedAt",
    "CompletedAt",
    "Duration",
    "Status",
    "Error",
    "NumCompletedSteps",
    "NumTotalSteps",
    "NumCachedSteps",
    "Image",
];

/// Prints a build by a template.
///
/// # Errors
///
/// [`ExplainError`] for a template that is wrong or names a field that there is not.
pub(super) fn write(
    build: &BuildRecord,
    template: &str,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    if !template.contains("{{") {
        let text = template.to_owned();
        return Err(FormatError::Unknown { text, field: NAMES[0] }.into());
    }
    let parsed = Template::parse(template, Escapes::Kept).map_err(FormatError::from)?;
    parsed.check_fields(&NAMES).map_err(FormatError::from)?;
    let text = parsed.render(&value(build)).map_err(FormatError::from)?;
    writeln!(out, "{text}")?;
    Ok(())
}

fn value(build: &BuildRecord) -> Value {
    let about = &build.about;
    let text = |text: &str| Value::text(redact::addresses(text).as_ref());
    let time = |ms: Option<i64>| {
        let at = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        at.map_or(Value::Nil, |at| Value::text(at.to_string()))
    };
    let count = |is_wanted: fn(&StepOutcome) -> bool| {
        Value::Int(build.steps.iter().filter(|step| is_wanted(&step.outcome)).count() as i128)
    };
    let duration =
        build.finished_ms.map(|end| format!("{:.1}s", (end - about.started_ms) as f64 / 1e3));
    let (status, error) = match &build.outcome {
        Outcome::Running | Outcome::Predicted => ("running", None),
        Outcome::Ok => ("completed", None),
        Outcome::Failed { message } => ("failed", Some(message.as_str())),
        Outcome::Cancelled => ("canceled", Some("interrupted")),
        Outcome::Interrupted => ("canceled", Some("killed")),
    };
    let error = error.map_or(Value::Nil, |message| Value::row([("Message", text(message))]));
    let image = build.image.map_or(Value::text(""), |image| Value::text(image.to_string()));
    Value::row(NAMES.into_iter().zip([
        Value::text(as_name(build)),
        Value::text(build.id.to_string()),
        text(&about.context),
        text(&about.dockerfile),
        text(&about.repository),
        text(&about.revision),
        text(&about.target),
        Value::List(about.platforms().into_iter().map(text).collect()),
        time(Some(about.started_ms)),
        time(build.finished_ms),
        Value::text(duration.unwrap_or_default()),
        Value::text(status),
        error,
        count(|outcome| matches!(outcome, StepOutcome::Hit { .. } | StepOutcome::Ran { .. })),
        Value::Int(build.steps.len() as i128),
        count(|outcome| matches!(outcome, StepOutcome::Hit { .. })),
        image,
    ]))
}
