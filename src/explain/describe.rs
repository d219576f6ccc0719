//! Causes in words: lines of coloured stretches, which text and HTML lay out.

use super::compare::{Cause, Evicted, NoRecord, Variable};
use super::diff::{Op, Piece};
use super::listing::{Attribute, Change, FileChange, FileChanges};
use super::report::{Remade, Report, Step};
use crate::history::Basis;
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
        Cause::NoCache => Line::plain("--no-cache was given (or --no-cache-filter)"),
        Cause::NoRecord { reason } => Line::plain(match reason {
            NoRecord::FirstBuild => "no build to compare with is in the history",
            NoRecord::NotKept => "no result of it on these files is in the cache",
            NoRecord::Unsound => {
                "what it copied changed while it was copied, so the result was not kept"
            }
            NoRecord::NewStep => "a new step",
            NoRecord::NewPlatform => "no earlier build was for this platform",
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
                Some(build) => {
                    format!("{what} was removed after build {build} (prune, GC or repair)")
                }
                None => format!("{what} was removed (prune, GC or repair)"),
            })
        }
        Cause::Damaged => Line::plain("its record is damaged"),
        Cause::Format => Line::plain("recorded by another version of builder, with other keys"),
        Cause::Base { old, new, old_digest, new_digest } => {
            base(old.as_deref(), new, old_digest.as_deref(), new_digest.as_deref())
        }
        Cause::EarlierStep {
            number,
            name,
            first,
            is_certain,
            is_found,
            is_times,
            is_moved,
            builds,
            is_read,
        } => {
            let name = clean(short(name)).into_owned();
            if *is_moved {
                Line::plain(format!("{name} follows something else than before"))
            } else if *is_certain {
                let line = Line::plain(match (is_found, is_times) {
                    (false, false) => format!("{name} made other files"),
                    (false, true) => format!("{name} made the same files with other times"),
                    (true, false) => format!("{name} was found with other files"),
                    (true, true) => format!("{name} was found with other times of files"),
                });
                match report.steps.iter().find(|s| s.number == *first && first != number) {
                    Some(first) => {
                        line.with(Ink::Plain, format!(", broken by {}", clean(short(&first.name))))
                    }
                    None => line,
                }
            } else {
                let builds = match builds.is_empty() {
                    false => format!("in build {}", builds.join(" or ")),
                    true => "before".to_owned(),
                };
                Line::plain(match is_read {
                    false => format!("hits only if {name} makes the same files as {builds}"),
                    true => format!("hits only if what it reads of {name} is as {builds}"),
                })
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
                Some(step) => format!(" (from {})", clean(short(&step.name))),
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
        // Enough to recognise and to find it.
        Some(digest) => digest.chars().take("sha256:".len() + 12).collect(),
        None => "another digest".to_owned(),
    };
    let (old, new) = (old.map(familiar), familiar(new));
    match old {
        Some(old) if old == new && old_digest == new_digest => {
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
        return Line::plain(match variable.was_and_is_set {
            (false, _) => format!("{name}: new (hidden)"),
            (_, false) => format!("{name}: gone (hidden)"),
            _ => format!("{name}: another value (hidden)"),
        });
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
        return vec![(
            0,
            Line::plain(format!("{name}: changed; one of the two listings is not kept")),
        )];
    };
    let mut counts = Vec::new();
    for (count, what) in
        [(changes.changed, "changed"), (changes.added, "added"), (changes.removed, "removed")]
    {
        if count > 0 {
            counts.push(format!("{count} {what}"));
        }
    }
    if counts.is_empty() {
        counts.push("capabilities, links or names that listings do not show".to_owned());
    }
    let mut phrases = vec![(0, Line::plain(format!("{name}: {}", counts.join(", "))))];
    phrases.extend(changes.files.iter().map(|file| (1, self::file(file))));
    let more = changes.left_out();
    if more > 0 {
        phrases.push((1, Line::plain(format!("… and {more} more"))));
    }
    if changes.is_umask {
        let text = "only write permission of group and others differs, as under another umask";
        phrases.push((0, Line::plain(text)));
    }
    phrases
}

fn file(file: &FileChange) -> Line {
    let slash = if file.entries.is_some() { "/" } else { "" };
    let line = Line::plain(format!("{}{slash}: ", clean(&file.path)));
    let all =
        file.entries.map(|count| format!(" with all its {count} entries")).unwrap_or_default();
    match file.change {
        Change::Added => return line.with(Ink::Green, "added").with(Ink::Plain, all),
        Change::Removed => return line.with(Ink::Red, "removed").with(Ink::Plain, all),
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

/// Says why a build of another place was taken to compare with.
pub(super) fn basis(report: &Report) -> &'static str {
    match report.basis {
        None | Some(Basis::Place) => "",
        Some(Basis::Name) => " (another directory; the same name, target and stages)",
        Some(Basis::Steps) => " (another directory or target; the nearest with the same steps)",
    }
}

/// Says what a step that ran again made, beside what it made before.
pub(super) fn remade(step: &Step) -> Option<(Ink, String)> {
    let same = "made the same files as before";
    let (ink, rest) = match (step.remade?, &step.below) {
        (Remade::Same, _) => (Ink::Green, ": what follows is undisturbed".to_owned()),
        (
            Remade::OnOthers,
            Some(Cause::EarlierStep { name, is_times: false, is_moved: false, .. }),
        ) => (Ink::Plain, format!(", on top of other files of {}", clean(short(name)))),
        (Remade::OnOthers, Some(Cause::EarlierStep { name, is_times: true, .. })) => {
            (Ink::Plain, format!(", on top of files with other times of {}", clean(short(name))))
        }
        (Remade::OnOthers, Some(Cause::Base { .. })) => {
            (Ink::Plain, ", on another base image".to_owned())
        }
        (Remade::OnOthers, _) => (Ink::Plain, ", on top of others".to_owned()),
        (Remade::OtherTimes, _) => (Ink::Plain, ", with other times".to_owned()),
        (Remade::Other, _) => return None,
    };
    Some((ink, format!("{same}{rest}")))
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

/// Escapes what could steer a terminal, as [`show::text`](crate::show::text) does; line breaks
/// become `⏎`.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(['\n', '\t']) {
        return crate::show::text(text);
    }
    let text = text.replace('\n', "⏎ ").replace('\t', " ");
    Cow::Owned(crate::show::text(&text).into_owned())
}
