//! Failures: a class, the place it points at, and hints. What a job ends with that ends without a
//! result.
//!
//! # Not here
//!
//! The text that the user sees and the exit status: [`crate::cli::failure`].

use crate::dockerfile::ast::Span;
use crate::dockerfile::errors::Error as DockerfileError;
use crate::sandbox::SandboxError;
use crate::sys::cancel::Cancel;
use crate::text::size::mebibytes;

pub use crate::text::chain;
use std::error::Error;
use std::io;
use std::path::Path;

/// What kind of failure it is, and so the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The command line.
    Usage,
    /// The Dockerfile.
    Dockerfile,
    /// A RUN step.
    Step,
    /// The machine: no namespaces, a full disk, an unreadable file.
    Environment,
    /// The network, or a registry.
    Network,
    /// A bug in us.
    Bug,
    /// The user interrupted the program.
    Interrupted,
    /// A command of `builder run`: its own status.
    Status(u8),
}

/// Where in a text an error is.
#[derive(Debug, Clone)]
pub struct Excerpt {
    /// The file's name, as the user knows it.
    pub path: String,
    /// Its text.
    pub source: String,
    /// The bytes that are wrong.
    pub span: std::ops::Range<usize>,
    /// What stands beside them.
    pub label: Option<String>,
}

/// An error as the user sees it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// The fact, without a full stop; empty where nothing is to be printed.
    pub message: String,
    /// Where it is.
    pub excerpts: Vec<Excerpt>,
    /// Lines to show below, such as the end of a command's output.
    pub output: Vec<String>,
    /// What to do about it.
    pub hints: Vec<String>,
    /// Further errors that are independent of this one.
    pub others: Vec<Failure>,
}

impl Failure {
    /// Makes a failure without a place.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            excerpts: Vec::new(),
            output: Vec::new(),
            hints: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Makes a failure of an error and its causes: `a: b: c`.
    pub fn of(class: Class, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(class, chain(error));
        if class != Class::Usage && is_full_disk(error) {
            failure.class = Class::Environment;
            failure.hints.push(
                "free some space, or name a store elsewhere: builder --root DIR …".to_owned(),
            );
        }
        failure.hints.extend(hint_of_owner(error).or_else(|| hint_of_id(error)));
        failure
    }

    /// Turns trouble that an interruption caused into the interruption.
    #[must_use]
    pub fn unless_cancelled(self, cancel: &Cancel) -> Self {
        let may_be_caused = matches!(
            self.class,
            Class::Usage | Class::Dockerfile | Class::Environment | Class::Network
        );
        match may_be_caused && cancel.is_cancelled() {
            true => Self::new(Class::Interrupted, "interrupted"),
            false => self,
        }
    }

    /// Turns a stop because of a full disk into an error that says so.
    #[must_use]
    pub fn unless_full(self, cancel: &Cancel) -> Self {
        match (self.class, cancel.room_left()) {
            (Class::Interrupted, Some(left)) => Self::new(
                Class::Environment,
                format!("stopped before the disk is full: {} are free", mebibytes(left)),
            )
            .with_hint("free some space: builder prune")
            .with_hint("or lower what is to stay free: BUILDER_MIN_FREE=0 lifts it"),
            _ => self,
        }
    }

    /// Puts what it is about in front, where the message does not say so.
    #[must_use]
    pub fn about(mut self, what: &dyn std::fmt::Display) -> Self {
        let what = what.to_string();
        if !self.message.contains(&what) {
            self.message = format!("{what}: {}", self.message);
        }
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Makes failures of what is wrong with a Dockerfile; the first carries the others.
    pub fn of_dockerfile(errors: &[DockerfileError], path: &str, source: &str) -> Self {
        let mut failures = errors.iter().map(|error| {
            let mut failure = Self::new(Class::Dockerfile, &error.message);
            failure.excerpts.extend(excerpt(error, path, source));
            if failure.excerpts.is_empty() {
                failure = failure.about(&path);
            }
            failure.hints.clone_from(&error.hints);
            failure
        });
        let mut first = failures
            .next()
            .unwrap_or_else(|| Self::new(Class::Bug, "a Dockerfile was refused without a reason"));
        first.others = failures.collect();
        first
    }
}

/// Whether an error, or one of its causes, is a full disk.
fn is_full_disk(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<io::Error>().is_some_and(|io| {
            matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Returns what to do where a file's owner is an id that the builder's user namespace lacks, which
/// is why chown(2) refuses it.
pub fn hint_of_owner(error: &(dyn Error + 'static)) -> Option<String> {
    let text = chain(error);
    let is_owner = ["owner of", "create the directory"].iter().any(|doing| text.contains(doing));
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.raw_os_error() == Some(libc::EINVAL)
            && is_owner
            && !crate::sandbox::owns_machine()
        {
            return Some(
                "the owner's id is not mapped in the builder's user namespace: add ids to /etc/subuid and \
                 /etc/subgid, or build as root"
                    .to_owned(),
            );
        }
        next = cause.source();
    }
    None
}

/// Returns what to do where the sandbox's user namespace does not map an id, or where no sandbox can
/// be made.
pub fn hint_of_id(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(SandboxError::UnmappedId { is_chosen, .. }) = cause.downcast_ref() {
            return Some(match is_chosen {
                true => "give commands every id of the machine: --userns=host".to_owned(),
                false => "add ids to /etc/subuid and /etc/subgid".to_owned(),
            });
        }
        if let Some(SandboxError::NoConfinement { fix, .. }) = cause.downcast_ref() {
            return Some(fix.clone());
        }
        next = cause.source();
    }
    None
}

fn excerpt(error: &DockerfileError, path: &str, source: &str) -> Option<Excerpt> {
    if source.is_empty() || error.line == 0 {
        return None;
    }
    Some(excerpt_at(error.span, path, source, error.label.clone()))
}

/// The excerpt of some bytes, as far as the text has them.
pub fn excerpt_at(span: Span, path: &str, source: &str, label: Option<String>) -> Excerpt {
    let floor = |mut at: usize| {
        at = at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    Excerpt { path: path.to_owned(), source: source.to_owned(), span: start..end, label }
}

/// The excerpt of whole lines, from 1.
pub fn lines_excerpt(path: &str, source: &str, (first, last): (u32, u32)) -> Option<Excerpt> {
    let mut start = None;
    let mut end = 0;
    let mut at = 0;
    for (number, line) in (1u32..).zip(source.split_inclusive('\n')) {
        if number == first {
            start = Some(at);
        }
        at += line.len();
        if number <= last {
            end = at - (line.len() - line.trim_end().len());
        }
    }
    let start = start?;
    // A long instruction is not shown whole: its first line says which it is.
    let first_end = source[start..].find('\n').map_or(source.len(), |n| start + n);
    let end = if last > first { first_end } else { end.max(start) };
    Some(Excerpt {
        path: path.to_owned(),
        source: source.to_owned(),
        span: start..end,
        label: None,
    })
}

/// A failure of a system call on a file that the user named.
pub fn cannot(doing: &str, path: impl AsRef<Path>, error: &io::Error) -> Failure {
    let mut failure = Failure::of(Class::Environment, error);
    failure.message = format!("cannot {doing} {}: {error}", path.as_ref().display());
    if error.kind() == io::ErrorKind::NotFound {
        failure.class = Class::Usage;
    }
    failure
}
