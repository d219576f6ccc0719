//! Causes in words: lines of coloured stretches, which text and HTML lay out.

use super::compare::{Cause, Evicted, NoRecord, Variable};
use super::diff::{Op, Piece};
use super::listing::{Attribute, Change, FileChange, FileChanges};
use super::report::Report;
use std::borrow::Cow;

/// How much of what did not change is shown on each side of what did, in characters.
const CONTEXT: usize = 24;

/// The most characters of one value that are shown; JSON has all.
const VALUE_MAX: usize = 120;

/// What a stretch of text stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    /// An old value within a text.
    Removed,
    /// A new value within a text.
    Added,
    Yellow,
}

/// A line in the making: stretches of text, each in one ink.
#[derive(Debug, Default)]
pub(super) struct Line(pub(super) Vec<(Ink, String)>);

impl Line {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::default().with(Ink::Plain, text)
    }

    pub(super) fn with(mut self, ink: Ink, text: impl Into<String>) -> Self {
        self.0.push((ink, text.into()));
        self
    }
}

/// A line with its depth below the step.
pub(super) type Phrase = (usize, Line);

/// Says a cause in one or more lines.
pub(super) fn cause(report: &Report, cause: &Cause) -> Vec<Phrase> {
    let line = match cause {
        Cause::NoCache => Line::plain("--no-cache was given"),
        Cause::NoRecord { reason } => Line::plain(match reason {
            NoRecord::FirstBuild => "the first build of this context, Dockerfile and target",
            NoRecord::NewStep => "a new step",
            NoRecord::NeverReached => "no earlier build came this far",
        }),
        Cause::FailedBefore { build, exit } => Line::plain(match exit {
            Some(exit) => format!("it failed in build {build} (exit status {exit})"),
            None => format!("it failed in build {build}"),
        }),
        Cause::Evicted { what, build } => {
            let what = match what {
                Evicted::Record => "its record",
                Evicted::Layer => "the layer it made",
            };
            Line::plain(match build {
                Some(build) => format!("{what} was removed after build {build} (prune, or GC)"),
                None => format!("{what} was removed (prune, or GC)"),
            })
        }
        Cause::Damaged => Line::plain("its record is damaged"),
        Cause::Format => Line::plain("recorded by another version of builder, with other keys"),
        Cause::Base { old, new, old_digest, new_digest } => {
            base(old.as_deref(), new, old_digest.as_deref(), new_digest.as_deref())
        }
        Cause::EarlierStep { number, name, first, is_certain } => {
            let name = clean(short(name)).into_owned();
            if *is_certain {
                let line = Line::plain(format!("{name} made other files"));
                match report.steps.iter().find(|s| s.number == *first && first != number) {
                    Some(first) => {
                        line.with(Ink::Plain, format!(", broken by {}", clean(short(&first.name))))
                    }
                    None => line,
                }
            } else {
                Line::plain(format!("runs if {name} makes other files"))
            }
        }
        Cause::Predecessor { old, new } => Line::plain(format!(
            "it follows {} now, and followed {}",
            clean(short(new)),
            clean(short(old))
        )),
        Cause::Instruction { diff } => difference("instruction", diff),
        Cause::Command { diff } => difference("command", diff),
        Cause::Arg(variable) => self::variable("ARG", variable),
        Cause::Env(variable) => self::variable("ENV", variable),
        Cause::Platform { old, new } => values("platform", Some(old), Some(new)),
        Cause::Input { name, old, new } => values(&clean(name), old.as_deref(), new.as_deref()),
        Cause::Order { names } => Line::plain(format!("the order of {}", clean(&names.join(", ")))),
        Cause::Files { source, changes, made_by } => {
            let made_by = made_by.and_then(|n| report.steps.iter().find(|s| s.number == n));
            let by = match made_by {
                Some(step) => format!(" (made by {})", clean(short(&step.name))),
                None => String::new(),
            };
            return files(&format!("files {}{by}", clean(source)), changes.as_ref());
        }
        Cause::Mount { target, old, new, changes } => {
            let name = format!("mount {}", clean(target));
            let mut phrases = Vec::new();
            if old.is_some() || new.is_some() || changes.is_none() {
                phrases.push((0, values(&name, old.as_deref(), new.as_deref())));
            }
            if changes.is_some() {
                phrases.extend(files(&name, changes.as_ref()));
            }
            return phrases;
        }
    };
    vec![(0, line)]
}

fn base(old: Option<&str>, new: &str, old_digest: Option<&str>, new_digest: Option<&str>) -> Line {
    let digest = |digest: Option<&str>| match digest {
        // Enough to tell and to find it by.
        Some(digest) => digest.chars().take("sha256:".len() + 12).collect(),
        None => "another digest".to_owned(),
    };
    let (old, new) = (old.map(familiar), familiar(new));
    match old {
        Some(old) if old == new && (old_digest.is_none() && new_digest.is_none()) => {
            Line::plain(format!("base image {}: other files", clean(new)))
        }
        Some(old) if old == new => values(
            &format!("base image {}", clean(new)),
            Some(&digest(old_digest)),
            Some(&digest(new_digest)),
        ),
        Some(old) => values("base image", Some(old), Some(new)),
        None => Line::plain(format!("base image {}: recorded on another one only", clean(new))),
    }
}

fn variable(kind: &str, variable: &Variable) -> Line {
    let name = format!("{kind} {}", clean(&variable.name));
    if variable.is_hidden {
        return Line::plain(format!("{name}: another value (hidden)"));
    }
    values(&name, variable.old.as_deref(), variable.new.as_deref())
}

fn values(name: &str, old: Option<&str>, new: Option<&str>) -> Line {
    let shown = |value: &str| match value {
        "" => "\"\"".to_owned(),
        _ => shortened(&clean(value), VALUE_MAX),
    };
    let line = Line::plain(format!("{name}: "));
    match (old, new) {
        (Some(old), Some(new)) => {
            line.with(Ink::Red, shown(old)).with(Ink::Plain, " → ").with(Ink::Green, shown(new))
        }
        (None, Some(new)) => line.with(Ink::Plain, "new: ").with(Ink::Green, shown(new)),
        (Some(old), None) => line.with(Ink::Plain, "gone: ").with(Ink::Red, shown(old)),
        (None, None) => line.with(Ink::Plain, "changed"),
    }
}

fn difference(name: &str, diff: &[Piece]) -> Line {
    let mut line = Line::plain(format!("{name}: "));
    for (place, piece) in diff.iter().enumerate() {
        let text = clean(&piece.text);
        line = match piece.op {
            Op::Removed => line.with(Ink::Removed, text),
            Op::Added => line.with(Ink::Added, text),
            Op::Same => line.with(Ink::Plain, excerpt(&text, place == 0, place + 1 == diff.len())),
        };
    }
    line
}

/// What did not change, without what is far from a change.
fn excerpt(text: &str, is_first: bool, is_last: bool) -> String {
    let length = text.chars().count();
    let (head, tail) = match (is_first, is_last) {
        (true, true) => (length, 0),
        (true, false) => (0, CONTEXT),
        (false, true) => (CONTEXT, 0),
        (false, false) => (CONTEXT, CONTEXT),
    };
    if head + tail + 3 >= length {
        return text.to_owned();
    }
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

pub(super) fn files(name: &str, changes: Option<&FileChanges>) -> Vec<Phrase> {
    let Some(changes) = changes else {
        return vec![(0, Line::plain(format!("{name}: changed; the old listing is gone")))];
    };
    let mut counts = Vec::new();
    for (count, what) in
        [(changes.changed, "changed"), (changes.added, "added"), (changes.removed, "removed")]
    {
        if count > 0 {
            counts.push(format!("{count} {what}"));
        }
    }
    let mut phrases = vec![(0, Line::plain(format!("{name}: {}", counts.join(", "))))];
    phrases.extend(changes.files.iter().map(|file| (1, self::file(file))));
    let more = changes.count() - changes.files.len();
    if more > 0 {
        phrases.push((1, Line::plain(format!("… and {more} more"))));
    }
    if changes.is_umask {
        let text = "only write permission of group and others differs: made under another umask";
        phrases.push((0, Line::plain(text)));
    }
    phrases
}

fn file(file: &FileChange) -> Line {
    let line = Line::plain(format!("{}: ", clean(&file.path)));
    match file.change {
        Change::Added => return line.with(Ink::Green, "added"),
        Change::Removed => return line.with(Ink::Red, "removed"),
        Change::Changed => {}
    }
    let has = |wanted| file.attributes.iter().any(|a| a.attribute == wanted);
    let mut parts = Vec::new();
    for change in &file.attributes {
        match change.attribute {
            // Hashes say nothing to a reader, and a size says it better.
            Attribute::Content if has(Attribute::Size) => {}
            Attribute::Content => parts.push("content".to_owned()),
            Attribute::Size => {
                parts.push(format!("content ({} → {} bytes)", change.old, change.new));
            }
            other => {
                let value = |text: &str| match text {
                    "" => "none".to_owned(),
                    _ => clean(text).into_owned(),
                };
                let (old, new) = (value(&change.old), value(&change.new));
                parts.push(format!("{} {old} → {new}", other.name()));
            }
        }
    }
    line.with(Ink::Plain, parts.join(", "))
}

/// An image as people write it: without the registry that is meant anyway, and without a digest.
pub(super) fn familiar(image: &str) -> &str {
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    let image = image.strip_prefix("library/").unwrap_or(image);
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    image.strip_suffix(":latest").unwrap_or(image)
}

/// What a stage without a name is called, as in the names of steps.
pub(super) fn stage_name(stage: &str) -> String {
    match stage.parse::<usize>() {
        Ok(number) => format!("stage-{number}"),
        Err(_) => stage.to_owned(),
    }
}

/// `[build 2/5]` of `[build 2/5] RUN make`.
pub(super) fn short(name: &str) -> &str {
    match name.find(']') {
        Some(end) if name.starts_with('[') => &name[..=end],
        _ => name,
    }
}

/// Cuts to at most `room` characters, with a mark.
pub(super) fn shortened(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// Escapes what could steer a terminal, as [`show::text`](crate::show::text) does; line breaks become `⏎`.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(['\n', '\t']) {
        return crate::show::text(text);
    }
    let text = text.replace('\n', "⏎ ").replace('\t', " ");
    Cow::Owned(crate::show::text(&text).into_owned())
}
