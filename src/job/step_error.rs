//! Why a build failed, in the user's words: a class, a place, and what to do about it.

use super::failure::{self, Class, Failure, hint_of_id, hint_of_owner, lines_excerpt};
use super::load::Loaded;
use super::on_error::OnError;
use super::resolve::NotHere;
use super::sources::Context;
use super::transfers::{self, NoClient, PullFailed};
use super::{emulators, limits};
use crate::cgroup::CgroupError;
use crate::context::ContextError;
use crate::dockerfile::ast::Word;
use crate::dockerfile::errors::did_you_mean;
use crate::plan::PlanError;
use crate::policy::PolicyError;
use crate::progress::Progress;
use crate::sandbox::SandboxError;
use crate::solve::{Cause, SolveError};
use crate::sys::rooted::open_beneath;
use crate::text::path::clean_below;
use crate::text::size::mebibytes;
use nix::sys::signal::Signal;
use rustix::fs::{OFlags, readlinkat};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Component, Path};

/// How many lines of a failed step's output an error shows.
const OUTPUT_LINES: usize = 20;

impl Loaded<'_> {
    /// A failure to plan.
    pub(super) fn plan_failure(&self, error: PlanError) -> Failure {
        match error {
            PlanError::Dockerfile(errors) => self.failure(&errors),
            PlanError::Image { source, .. } if source.is::<NoClient>() => {
                let failure = source.downcast_ref().map(|NoClient(failure)| failure.clone());
                failure.unwrap_or_else(|| Failure::new(Class::Bug, "a client failed twice"))
            }
            PlanError::Image { name, place, source } => {
                let mut place = *place;
                let stages = self.dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
                if let Some(near) = did_you_mean(&name, stages.map(Word::as_str)) {
                    place = place.with_label(format!("did you mean the stage `{near}`?"));
                }
                let mut failure = self.failure(&[place]);
                failure.message = format!("cannot use image {name}: {}", failure::chain(&*source));
                failure.class = Class::Environment;
                failure.hints.extend(Failure::of(Class::Environment, &*source).hints);
                let mut is_elsewhere = false;
                if let Some(PullFailed(error)) = source.downcast_ref() {
                    let pull = transfers::failure_of(error);
                    failure.class = pull.class;
                    is_elsewhere = pull.hints.is_empty() && transfers::is_unreachable(error);
                    failure.hints.extend(pull.hints);
                }
                if source.downcast_ref::<PolicyError>().is_some() {
                    failure.class = Class::Dockerfile;
                }
                if source.downcast_ref::<NotHere>().is_some() {
                    failure.class = Class::Network;
                    failure.hints.push(format!("pull it: builder pull {name}"));
                    is_elsewhere = true;
                }
                if is_elsewhere {
                    failure.hints.extend([
                        format!("import a root file system: builder import ROOTFS.tar {name}"),
                        "load an archive: builder load -i IMAGE.tar".to_owned(),
                        format!("name a layout: --build-context {name}=oci-layout://DIR"),
                    ]);
                }
                failure
            }
            PlanError::NoSuchTarget { name, stages } => {
                let message = format!("target stage {name:?} could not be found");
                let failure = Failure::new(Class::Dockerfile, message);
                let near = did_you_mean(&name, stages.iter().map(String::as_str));
                match near {
                    Some(near) => failure.with_hint(format!("did you mean `--target {near}`?")),
                    None if stages.is_empty() => {
                        failure.with_hint("no stage of the file has a name")
                    }
                    None => failure.with_hint(format!("stages: {}", stages.join(", "))),
                }
            }
        }
    }

    /// A failure of a step.
    pub(super) fn solve_failure(&self, error: SolveError, progress: &Progress) -> Failure {
        let error = match error {
            SolveError::Cancelled => return Failure::new(Class::Interrupted, "interrupted"),
            SolveError::Other(cause) => return Failure::of(Class::Environment, &cause),
            SolveError::Step(error) => *error,
        };
        let text = self.text();
        let excerpt = lines_excerpt(&self.inputs.dockerfile_name, &text, error.lines);
        let name = match (&error.cause, &excerpt) {
            // The excerpt shows the command.
            (Cause::Exit { .. }, Some(_)) => place_of(&error.name),
            _ => &error.name,
        };
        let (class, message, hints) = explain_cause(name, &error.cause);
        let mut failure = match class {
            Class::Environment => {
                let mut failure = Failure::of(class, &error.cause);
                failure.message = message;
                failure
            }
            class => Failure::new(class, message),
        };
        let mut excerpt = excerpt;
        // A missing source is pointed at, not only its line.
        if let (Cause::Context(ContextError::NotFound { pattern, similar, .. }), Some(excerpt)) =
            (&error.cause, &mut excerpt)
        {
            if let Some(at) = excerpt.source[excerpt.span.clone()].find(&format!(" {pattern}")) {
                let start = excerpt.span.start + at + 1;
                excerpt.span = start..start + pattern.len();
            }
            if let Some((first, others)) = similar.split_first() {
                let others =
                    others.iter().fold(String::new(), |text, other| text + " or `" + other + "`");
                excerpt.label = Some(format!("did you mean `{first}`{others}?"));
            }
        }
        failure.excerpts.extend(excerpt);
        failure.hints.extend(hints);
        match &error.cause {
            Cause::Context(ContextError::NotFound { pattern, hidden_by: Some(line), .. }) => {
                failure.hints.push(format!(
                    "take the line out, or write !{} at the end of {}",
                    clean_below(pattern),
                    line.file
                ));
            }
            Cause::Context(ContextError::NotFound { pattern, hidden_by: None, .. })
                if !error.name.contains("--from=") =>
            {
                failure.hints.extend(self.hint_of_source(pattern));
            }
            _ => {}
        }
        if class == Class::Step {
            failure.output = progress.last_lines(&error.vertex, OUTPUT_LINES + 1);
            let starts = |start: &str| failure.output.iter().any(|line| line.starts_with(start));
            if starts("exec: \"/bin/sh\": no such file") {
                failure.hints.push(
                    "the image has no shell: write RUN [\"/PROGRAM\", \"ARGUMENT\"], or take a base with one"
                        .to_owned(),
                );
            } else if !starts("exec: \"") && self.request.steps.on_error == OnError::Fail {
                failure
                    .hints
                    .push("get a shell where it failed: build with --on-error=shell".to_owned());
            }
            if failure.output.len() > OUTPUT_LINES {
                failure.output.remove(0);
                failure.hints.push("see all of its output: builder history logs last".to_owned());
            }
        }
        failure
    }
}

impl Loaded<'_> {
    /// Says why a source of the main context is not found although something seems to be there.
    fn hint_of_source(&self, pattern: &str) -> Option<String> {
        let Context::Directory { dir, .. } = &self.inputs.context else { return None };
        if Path::new(pattern).components().any(|part| part == Component::ParentDir) {
            return Some(
                "`..` does not lead out of the context: name the other directory with \
                 --build-context NAME=DIR, and write COPY --from=NAME"
                    .to_owned(),
            );
        }
        // Through no other link: what is outside the context is not looked at.
        let inside = clean_below(pattern);
        let (parent, name) = inside.rsplit_once('/').unwrap_or(("", &inside));
        let root = File::open(dir).ok()?;
        let parent =
            open_beneath(root.as_fd(), parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY).ok()?;
        let target = readlinkat(&parent, name, Vec::new()).ok()?;
        let target = target.to_string_lossy();
        Some(format!(
            "{pattern:?} is a link to \"{target}\", which the context does not have: \
             put the file itself into the context"
        ))
    }
}

/// Returns the part of a step's name before its command: `[build 2/4] RUN`.
fn place_of(name: &str) -> &str {
    let after = name.find("] ").map_or(0, |at| at + 2);
    let end = name[after..].find(' ').map_or(name.len(), |at| after + at);
    &name[..end]
}

/// The class, the fact and the hints of a step's failure.
fn explain_cause(name: &str, cause: &Cause) -> (Class, String, Vec<String>) {
    match cause {
        Cause::Exit { status, oom: Some(oom), .. } => {
            let limit = match oom.limit {
                Some(limit) => format!("over its memory limit of {}", mebibytes(limit)),
                None => "the machine ran out of memory".to_owned(),
            };
            let message = format!(
                "{name}: killed by the kernel: {limit}, peak {} (exit code {status})",
                mebibytes(oom.peak)
            );
            let hints = match oom.limit {
                Some(limit) => vec![format!("allow more: --memory {}m", (limit >> 20) * 2)],
                None => Vec::new(),
            };
            (Class::Step, message, hints)
        }
        Cause::Exit { status, oom: None, pids, .. } => {
            let meaning = match status {
                126 => " (not executable)",
                127 => " (command not found)",
                _ => "",
            };
            let signal = signal_of(*status)
                .map_or_else(String::new, |name| format!(" (killed by the signal {name})"));
            (
                Class::Step,
                format!(
                    "{name} did not complete successfully: exit code: {status}{meaning}{signal}"
                ),
                pids.iter().map(|limit| of_processes(*limit)).collect(),
            )
        }
        Cause::DiskFull { left } => (
            Class::Environment,
            format!("{name} was ended: it left only {} of the disk free", mebibytes(*left)),
            vec![
                "free some space, or name a store elsewhere: builder --root DIR …".to_owned(),
                "BUILDER_MIN_FREE=0 lets steps fill the disk".to_owned(),
            ],
        ),
        Cause::Remote(_) => {
            (Class::Network, format!("{name}: {}", failure::chain(cause)), Vec::new())
        }
        Cause::Context(_) | Cause::Copy(_) | Cause::NotGiven { .. } => {
            let is_disk = matches!(Failure::of(Class::Dockerfile, cause).class, Class::Environment);
            let class = if is_disk { Class::Environment } else { Class::Dockerfile };
            let mut hints: Vec<String> = hint_of_owner(cause).into_iter().collect();
            if let Cause::NotGiven { kind, id } = cause {
                hints.push(match *kind {
                    "secret" => format!("give it: --secret id={id},src=FILE"),
                    _ => format!("give it: --ssh {id}"),
                });
            }
            (class, format!("{name}: {}", failure::chain(cause)), hints)
        }
        Cause::NotAllowed { entitlement } => {
            let hint = format!("grant it: --allow {entitlement}");
            (Class::Dockerfile, format!("{name}: {}", failure::chain(cause)), vec![hint])
        }
        Cause::Sandbox(SandboxError::Spec { .. }) => {
            (Class::Step, format!("{name}: {}", failure::chain(cause)), Vec::new())
        }
        Cause::Sandbox(error @ SandboxError::NoConfinement { .. }) => {
            let hints = hint_of_id(error).into_iter().collect();
            (Class::Environment, format!("{name}: {}", failure::chain(cause)), hints)
        }
        Cause::Sandbox(error @ SandboxError::NoEmulator { .. }) => {
            let hints = emulators::hints(error);
            (Class::Environment, format!("{name}: {}", failure::chain(cause)), hints)
        }
        Cause::Sandbox(error @ SandboxError::UnmappedId { .. }) => {
            let hints = hint_of_id(error).into_iter().collect();
            (Class::Step, format!("{name}: {}", failure::chain(cause)), hints)
        }
        Cause::Sandbox(SandboxError::Cgroup(error @ CgroupError::NotEnforceable { .. })) => {
            (Class::Environment, format!("{name}: {}", limits::not_enforced(error)), Vec::new())
        }
        cause => (Class::Environment, format!("{name}: {}", failure::chain(cause)), Vec::new()),
    }
}

/// The hint of a command that reached its limit of processes.
pub fn of_processes(limit: u64) -> String {
    format!(
        "the command reached its limit of {limit} processes and threads; allow more: --pids-limit {}",
        limit.saturating_mul(2)
    )
}

/// The signal that a status of 128 + N stands for. Other statuses above 128, such as 255, are the
/// command's own.
fn signal_of(status: i32) -> Option<&'static str> {
    Signal::try_from(status.checked_sub(128)?).ok().map(Signal::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_status_of_a_signal_is_explained_by_one() {
        for (status, want) in [
            (255, None),
            (200, None),
            (128, None),
            (1, None),
            (137, Some("SIGKILL")),
            (139, Some("SIGSEGV")),
            (143, Some("SIGTERM")),
        ] {
            assert_eq!(signal_of(status), want, "{status}");
        }
    }
}
