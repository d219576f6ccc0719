//! Secrets that got into the image a build made: the build stops, or says so.

use super::failure::{Class, Failure, cannot, lines_excerpt};
use super::recorder::Recorder;
use crate::export::ExportError;
use crate::export::guard::{Form, Guard, Leak, SHORTEST};
use crate::history::{BuildId, History};
use crate::image::Image;
use crate::plan::StepId;
use crate::snapshot;
use crate::solve::{Job, Solved};
use std::collections::BTreeSet;

/// Maximum number of finds that are shown.
const SHOWN_MAX: usize = 10;

/// A find, and the step it came from.
struct Find {
    leak: Leak,
    what: What,
    step: Option<usize>,
}

enum What {
    File,
    /// Of the image for this platform, where there are several.
    Config(Option<String>),
    Log,
}

/// Looks for the build's secrets in the layers it made, the config and what its steps wrote.
///
/// `build` is the history's name of it. Where `is_allowed`, finds are reported and noted in the
/// history.
///
/// # Errors
///
/// A failure that names the steps and the places; nothing has been exported then.
pub(super) fn check(
    job: &Job<'_>,
    solved: &Solved,
    images: &[Image],
    build: BuildId,
    recorder: &Recorder<'_>,
    is_allowed: bool,
    dockerfile: (&str, &str),
) -> Result<(), Failure> {
    let mut guard = Guard::default();
    for (id, secret) in &job.options.secrets {
        let value = secret.read(job.cancel).map_err(|e| cannot("read secret", id, &e))?;
        if !guard.add(id, &value) {
            job.progress.notice(format!(
                "secret {id} has less than {SHORTEST} bytes: the image is not searched for it"
            ));
        }
    }
    for (place, value) in &credentials(job) {
        guard.add(&format!("of {place}"), value.as_bytes());
    }
    if guard.is_empty() {
        return Ok(());
    }
    let finds = finds(job, solved, images, build, &guard)?;
    if finds.is_empty() {
        return Ok(());
    }
    let describe = |find: &Find| {
        let name = find.step.map(|step| guard.blotted(&job.plan.steps[step].name));
        let form = match find.leak.form {
            Form::Plain => "",
            Form::Base64 => " in base64",
        };
        let place = match &find.what {
            What::File => find.leak.place.clone(),
            What::Config(None) => format!("{} of the image's configuration", find.leak.place),
            What::Config(Some(platform)) => {
                format!("{} of the configuration for {platform}", find.leak.place)
            }
            What::Log => "its output".to_owned(),
        };
        let step = name.map(|name| format!(", of {name}")).unwrap_or_default();
        format!("secret {} is{form} in {place}{step}", find.leak.id)
    };
    let mut texts: Vec<_> = finds.iter().take(SHOWN_MAX).map(describe).collect();
    if finds.len() > SHOWN_MAX {
        texts.push(format!("and in {} more places", finds.len() - SHOWN_MAX));
    }
    if is_allowed {
        for text in texts {
            job.progress.notice(format!("{text}: allowed by --allow-secret-in-image"));
            recorder.note(&text);
        }
        return Ok(());
    }
    let mut texts = texts.into_iter();
    let mut failure = Failure::new(Class::Dockerfile, texts.next().unwrap_or_default());
    failure.output = texts.collect();
    if let Some(step) = finds[0].step {
        let (name, text) = dockerfile;
        let mut excerpt = lines_excerpt(name, text, job.plan.steps[step].lines);
        if let Some(excerpt) = &mut excerpt {
            excerpt.label = None;
        }
        failure.excerpts.extend(excerpt);
    }
    Err(failure
        .with_hint("mount it only while a command runs: RUN --mount=type=secret,id=…")
        .with_hint("or, if it is meant to be there: --allow-secret-in-image"))
}

/// Says whether a build has nothing secret.
pub(super) fn is_nothing(job: &Job<'_>) -> bool {
    job.options.secrets.is_empty() && credentials(job).is_empty()
}

/// Returns the credentials that stood in addresses: those of the command line, and those of ADD.
fn credentials(job: &Job<'_>) -> Vec<(String, String)> {
    let mut all = job.options.credentials.clone();
    all.extend(job.plan.credentials());
    all
}

fn finds(
    job: &Job<'_>,
    solved: &Solved,
    images: &[Image],
    build: BuildId,
    guard: &Guard,
) -> Result<Vec<Find>, Failure> {
    let mut finds = Vec::new();
    let mut seen = BTreeSet::new();
    let targets = &job.plan.targets;
    for StepId(step) in targets.iter().flat_map(|target| job.plan.made(target.files)) {
        let Some(layer) = &solved.steps[step].layer else { continue };
        if !seen.insert(layer.id) {
            continue;
        }
        let step = Some(step);
        let files = snapshot::view(&layer.directories(), job.store)
            .map_err(|error| Failure::of(Class::Environment, &error))?;
        let leaks = guard.layer(files.root(), job.cancel).map_err(|error| match error {
            ExportError::Cancelled => Failure::new(Class::Interrupted, "interrupted"),
            error => Failure::of(Class::Environment, &error),
        })?;
        finds.extend(leaks.into_iter().map(|leak| Find { leak, what: What::File, step }));
    }
    for (target, image) in targets.iter().zip(images) {
        let made_by = &target.made_by;
        let inherited = image.config.history().len() - made_by.len();
        for leak in guard.config(&image.config) {
            let entry = leak.place.strip_prefix("history[").and_then(|rest| rest.split_once(']'));
            let entry = entry.and_then(|(number, _)| number.parse::<usize>().ok());
            let made = entry.and_then(|entry| made_by.get(entry.checked_sub(inherited)?).copied());
            let step = made.flatten().map(|StepId(step)| step);
            let what = What::Config((targets.len() > 1).then(|| target.wanted.to_string()));
            finds.push(Find { leak, what, step });
        }
    }
    let history = History::new(job.store);
    for (step, _) in job.plan.steps.iter().enumerate() {
        // A step that wrote nothing has no log.
        let Ok(log) = history.log(build, step) else { continue };
        let leak = guard.stream(log, "").map_err(|e| Failure::of(Class::Environment, &e))?;
        let find = |leak| Find { leak, what: What::Log, step: Some(step) };
        finds.extend(leak.map(find));
    }
    Ok(finds)
}
