//! Every error ends here: failures as text, with their exit codes.
//!
//! What a failure is: [`crate::job::failure`].

use super::explain::ExplainError;
use super::image_arg::ImageCommandError;
use crate::history::HistoryError;
use crate::image::ImageError;
pub use crate::job::failure::{Class, Excerpt, Failure, cannot, chain, excerpt_at};
use crate::job::transfers::hint_of_platform;
use crate::show;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

impl Class {
    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Dockerfile => 3,
            Self::Step => 4,
            Self::Environment => 5,
            Self::Network => 6,
            Self::Bug => 70,
            Self::Interrupted => 130,
            Self::Status(status) => status,
        }
    }
}

impl Excerpt {
    /// Returns it as it is shown: text that steers no terminal, without credentials; places stay
    /// valid.
    pub(super) fn shown(&self) -> Self {
        Self {
            path: show::text(&self.path).into_owned(),
            source: show::in_place(&self.source),
            span: self.span.clone(),
            label: self.label.as_deref().map(shown),
        }
    }
}

/// Returns text of an error or a finding as it is shown.
pub(super) fn shown(text: &str) -> String {
    show::lines(&show::addresses(text)).into_owned()
}

impl Failure {
    /// Makes a failure of an output that cannot be written.
    pub fn output(error: &io::Error) -> Self {
        Self::new(Class::Environment, format!("cannot write the output: {error}"))
    }

    /// Makes a failure of what an image command says.
    pub fn of_images(error: &ImageCommandError) -> Self {
        let class = match error {
            ImageCommandError::Output(io) if io.kind() == io::ErrorKind::BrokenPipe => {
                return Self::new(Class::Status(0), "");
            }
            ImageCommandError::Listed(error) => return error.failure(),
            ImageCommandError::Several(errors) => {
                let mut failures = errors.iter().map(Self::of_images);
                let mut first = failures.next().unwrap_or_else(|| Self::new(Class::Bug, ""));
                first.others = failures.collect();
                return first;
            }
            ImageCommandError::Output(_)
            | ImageCommandError::Open { .. }
            | ImageCommandError::Image(_)
            | ImageCommandError::Store(_)
            | ImageCommandError::Export(_) => Class::Environment,
            _ => Class::Usage,
        };
        let failure = Self::of(class, error);
        let is_archive = match error {
            ImageCommandError::Unknown { .. } => {
                return failure.with_hint("list them: builder images");
            }
            ImageCommandError::PartOfIndex { indexes, .. } => {
                let remove = indexes.iter().map(|name| format!("builder rmi {name}"));
                return remove.fold(failure, Self::with_hint);
            }
            ImageCommandError::Image(error) if hint_of_platform(error).is_some() => {
                return hint_of_platform(error).into_iter().fold(failure, Self::with_hint);
            }
            ImageCommandError::Image(ImageError::NotAnArchive { .. }) => true,
            ImageCommandError::Image(ImageError::Read { what, .. }) => what == "the archive",
            _ => false,
        };
        if !is_archive {
            return failure;
        }
        failure
            .with_hint("`builder load` reads what docker, podman and builder `save` write")
            .with_hint("a root file system becomes an image with: builder import FILE NAME")
    }

    /// Makes a failure of what `explain` and the history's commands say.
    pub fn of_explain(error: &ExplainError) -> Self {
        match error {
            ExplainError::Write(io) if io.kind() == io::ErrorKind::BrokenPipe => {
                Self::new(Class::Status(0), "")
            }
            ExplainError::History(HistoryError::Write { source })
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                Self::new(Class::Status(0), "")
            }
            ExplainError::History(HistoryError::Cancelled) => {
                Self::new(Class::Interrupted, "interrupted")
            }
            ExplainError::History(HistoryError::Archive { .. }) => Self::of(Class::Usage, error)
                .with_hint("make one: builder history export -o builds.tar.gz BUILD"),
            ExplainError::History(HistoryError::NewerArchive { .. }) => {
                Self::of(Class::Usage, error).with_hint(
                    "import it with the version of builder that wrote it, or a newer one",
                )
            }
            ExplainError::Format(error) => error.failure(),
            ExplainError::NoAttachment { .. } => Self::of(Class::Usage, error)
                .with_hint("see what is kept of a build: builder history inspect BUILD"),
            ExplainError::Filter { .. } => Self::of(Class::Usage, error)
                .with_hint("see the builds: builder history ls --no-trunc"),
            ExplainError::NoRepository => Self::of(Class::Usage, error)
                .with_hint("see the builds of all directories: builder history ls"),
            error if error.is_usage() => {
                Self::of(Class::Usage, error).with_hint("list the builds: builder history builds")
            }
            error => Self::of(Class::Environment, error),
        }
    }

    /// Renders the failure as text.
    pub fn render(&self, is_coloured: bool) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let renderer = if is_coloured { Renderer::styled() } else { Renderer::plain() };
        let excerpts: Vec<_> = self.excerpts.iter().map(Excerpt::shown).collect();
        let message = shown(&self.message);
        let mut group =
            Level::ERROR.primary_title(message.as_str()).elements(excerpts.iter().map(|excerpt| {
                let mut annotation = AnnotationKind::Primary.span(excerpt.span.clone());
                if let Some(label) = &excerpt.label {
                    annotation = annotation.label(label.as_str());
                }
                Snippet::source(excerpt.source.as_str())
                    .path(excerpt.path.as_str())
                    .annotation(annotation)
            }));
        group = group.elements(std::iter::empty::<annotate_snippets::Padding>());
        let mut text = renderer.render(&[group]);
        text.push('\n');
        for line in &self.output {
            let _ = writeln!(text, "  | {}", shown(line));
        }
        for hint in &self.hints {
            let _ = writeln!(text, "hint: {}", shown(hint));
        }
        for other in &self.others {
            text.push('\n');
            text.push_str(&other.render(is_coloured));
        }
        text
    }

    /// Returns the exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.class.code())
    }
}
