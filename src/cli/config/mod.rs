//! `config.toml`: defaults of flags, and policies, of the machine and of the user.
//!
//! A value of a file is a default like those of the program itself: what a command line or the
//! environment says goes before it, the user's file goes before the machine's. Policies add up
//! instead: no file and no flag takes one away.
//!
//! The files are read before the command line is parsed for good, since its defaults come from
//! them. The commands that need none (`version`, `completions`, `man`, `plugin`) do not read
//! them, and `doctor` goes on without them, so that these work where a file is wrong.
//!
//! # Trust
//!
//! A file decides what commands of a build can reach. It is refused, as ssh refuses its own, where
//! another user than root and the caller owns it or may write to it.
//!
//! # Not here
//!
//! Registries: `registries.toml`, read by [`super::registry`]. Logins: docker's and podman's files.

mod keys;
pub(super) mod show;
#[cfg(test)]
mod tests;

use super::failure::{Class, Excerpt, Failure, cannot, excerpt_at};
use crate::dockerfile::ast::Span;
use crate::dockerfile::errors::did_you_mean;
use clap::builder::OsStr;
use keys::{Form, KEYS, Key, Target};
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// The machine's file.
const SYSTEM: &str = "/etc/builder/config.toml";

/// Where the user's is, below the directory of configurations.
const OWN: &str = "builder/config.toml";

/// The largest file, in bytes.
const CONFIG_MAX: u64 = 1 << 20;

/// A file that was read.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
}

/// A value of a file.
#[derive(Debug, Clone)]
struct Given {
    key: &'static Key,
    /// Its texts: one, or those of a list.
    values: Vec<String>,
    source: Arc<Source>,
    /// Where the value is.
    span: Range<usize>,
}

impl Given {
    fn failure(&self, message: &str) -> Failure {
        let mut failure = Failure::new(Class::Usage, format!("{}: {message}", self.key.full()));
        failure.excerpts.push(self.source.excerpt(self.span.clone(), None));
        failure
    }

    /// The file and the line, as `/etc/builder/config.toml:3`.
    fn place(&self) -> String {
        let before = self.source.text.get(..self.span.start).unwrap_or_default();
        format!("{}:{}", self.source.path.display(), before.matches('\n').count() + 1)
    }
}

/// The values of all files: of each key one, of policies any number.
#[derive(Debug, Default)]
pub(super) struct Config {
    given: Vec<Given>,
}

/// What a `--config` names.
#[derive(Debug)]
pub(super) enum Named {
    /// A file, in place of the user's.
    File(PathBuf),
    /// A directory, which is docker's.
    DockerDirectory(PathBuf),
}

impl Named {
    /// Reads the value of `--config`: docker's client has a flag of that name for its directory.
    pub(super) fn new(path: &Path) -> Self {
        match path.is_dir() {
            true => Self::DockerDirectory(path.to_owned()),
            false => Self::File(path.to_owned()),
        }
    }
}

impl Config {
    /// Reads the files: the machine's and `named`, or else the user's. `variable` reads the
    /// environment.
    ///
    /// # Errors
    ///
    /// The failure to show, with file, line and column.
    pub(super) fn load(
        named: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let own = match named {
            Some(_) => None,
            None => {
                let directory =
                    |name: &str| variable(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
                let config = directory("XDG_CONFIG_HOME")
                    .or_else(|| directory("HOME").map(|home| home.join(".config")));
                config.map(|config| config.join(OWN))
            }
        };
        Self::of_files(Path::new(SYSTEM), own.as_deref(), named)
    }

    fn of_files(system: &Path, own: Option<&Path>, named: Option<&Path>) -> Result<Self, Failure> {
        let mut config = Self::default();
        for (path, is_named) in [(Some(system), false), (own, false), (named, true)] {
            let Some(path) = path else { continue };
            if let Some(text) = read(path, is_named)? {
                config.add(Source { path: path.to_owned(), text })?;
            }
        }
        Ok(config)
    }

    /// Adds the values of a file, which go before those that are there.
    fn add(&mut self, source: Source) -> Result<(), Failure> {
        let source = Arc::new(source);
        let table = DeTable::parse(&source.text).map_err(|error| {
            let mut failure = Failure::new(
                Class::Usage,
                format!("{}: {}", source.path.display(), error.message()),
            );
            failure.excerpts.extend(error.span().map(|span| source.excerpt(span, None)));
            failure
        })?;
        let mut sections: Vec<&str> = KEYS.iter().map(|key| key.section).collect();
        sections.dedup();
        for (name, section) in table.get_ref() {
            let known = sections.contains(&name.get_ref().as_ref());
            let DeValue::Table(keys) = section.get_ref() else {
                let failure =
                    source.unknown(name.span(), "section", name.get_ref(), &sections, known);
                return Err(failure.with_hint("a key stands below its section, such as [build]"));
            };
            if !known {
                return Err(source.unknown(
                    name.span(),
                    "section",
                    name.get_ref(),
                    &sections,
                    false,
                ));
            }
            let of_section: Vec<&'static Key> =
                KEYS.iter().filter(|key| key.section == name.get_ref().as_ref()).collect();
            for (name, value) in keys {
                let key = of_section.iter().find(|key| key.name == name.get_ref().as_ref());
                let Some(key) = key else {
                    let names: Vec<&str> = of_section.iter().map(|key| key.name).collect();
                    let section = of_section.first().map_or("", |key| key.section);
                    let kind = format!("key of [{section}]");
                    return Err(source.unknown(name.span(), &kind, name.get_ref(), &names, false));
                };
                let given = Given {
                    key,
                    values: Vec::new(),
                    source: Arc::clone(&source),
                    span: value.span(),
                };
                let values = texts(key.form, value.get_ref())
                    .and_then(|values| checked(key, values))
                    .map_err(|message| given.failure(&message))?;
                if !matches!(key.target, Target::Policies) {
                    self.given.retain(|other| !other.key.is(key));
                }
                self.given.push(Given { values, ..given });
            }
        }
        Ok(())
    }

    /// Returns what an environment variable that is not set stands for.
    pub(super) fn variable(&self, wanted: &str) -> Option<String> {
        self.given.iter().find_map(|given| match &given.key.target {
            Target::Variable { name, .. } if *name == wanted => given.values.first().cloned(),
            _ => None,
        })
    }

    /// Returns the files of source policies.
    pub(super) fn policies(&self) -> Vec<PathBuf> {
        let policies = self.given.iter().filter(|g| matches!(g.key.target, Target::Policies));
        policies.flat_map(|given| given.values.iter().map(PathBuf::from)).collect()
    }

    /// Says whether a command has defaults of its own here.
    pub(super) fn has_defaults_of(&self, command: &str) -> bool {
        self.given.iter().any(|given| given.key.is_of(command))
    }

    /// Checks the defaults of a command, and makes them those of its flags. `explicit` has the ids of
    /// flags that the command line or the environment gives.
    ///
    /// # Errors
    ///
    /// The failure to show, for a value that a flag does not take.
    pub(super) fn apply(
        &self,
        command: clap::Command,
        name: &'static str,
        explicit: &[String],
    ) -> Result<clap::Command, Failure> {
        let Some(sub) = command.find_subcommand(name) else { return Ok(command) };
        let mut defaults = Vec::new();
        let of_command = self.given.iter().enumerate().filter(|(_, given)| given.key.is_of(name));
        for (at, given) in of_command {
            let id = given.key.id();
            if self.is_replaced(at, name, explicit) {
                continue;
            }
            // What another command takes for the sake of a build's command lines has no effect.
            if sub.get_arguments().any(|arg| arg.get_id() == id.as_str()) {
                given.check(sub)?;
                defaults.push((id, given));
            }
        }
        Ok(command.mut_subcommand(name, |mut sub| {
            for (id, given) in defaults {
                if !matches!(given.key.target, Target::Flag { .. }) {
                    continue;
                }
                let values: Vec<OsStr> =
                    given.values.iter().map(|value| OsStr::from(value.clone())).collect();
                sub = sub.mut_arg(id, |arg| arg.default_values(values));
            }
            sub
        }))
    }

    /// Says whether a flag that goes together with the one of a value is given, or has a value in a
    /// file that goes before this one's: the two of one place belong together.
    fn is_replaced(&self, at: usize, command: &str, explicit: &[String]) -> bool {
        let given = &self.given[at];
        let Target::Flag { unless } = given.key.target else { return false };
        unless.iter().any(|other| {
            explicit.iter().any(|id| id == other)
                || self.given[at + 1..].iter().any(|later| {
                    later.key.is_of(command)
                        && later.key.id() == *other
                        && !Arc::ptr_eq(&later.source, &given.source)
                })
        })
    }
}

impl Given {
    /// Checks that the flag takes the values.
    fn check(&self, command: &clap::Command) -> Result<(), Failure> {
        let flag = self.key.name;
        let words = self.values.iter().map(|value| format!("--{flag}={value}"));
        let is_truth = self.key.form == Form::Truth;
        // A flag without a value takes both truth values.
        if is_truth {
            return Ok(());
        }
        // Of the file's value alone: the environment may have a wrong one for another flag.
        let command = command.clone().mut_args(|arg| arg.env(None::<&str>));
        let tried = command.no_binary_name(true).ignore_errors(false).try_get_matches_from(words);
        use clap::error::ErrorKind;
        match tried {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict
                ) =>
            {
                let text = error.to_string();
                let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                let first = lines.next().unwrap_or_default();
                let first = first.strip_prefix("error: ").unwrap_or(first).to_owned();
                let mut failure = self.failure(&first);
                failure.hints.extend(lines.find(|line| line.starts_with('[')).map(str::to_owned));
                Err(failure)
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    fn excerpt(&self, span: Range<usize>, label: Option<String>) -> Excerpt {
        let span = Span { start: span.start, end: span.end };
        excerpt_at(span, &self.path.display().to_string(), &self.text, label)
    }

    fn unknown(
        &self,
        span: Range<usize>,
        kind: &str,
        name: &str,
        known: &[&str],
        is_known: bool,
    ) -> Failure {
        let message = match is_known {
            true => format!("{name} is a section, not a key"),
            false => format!("no {kind} is called {name:?}: there are {}", known.join(", ")),
        };
        let near = did_you_mean(name, known.iter().copied());
        let label = near.map(|near| format!("did you mean `{near}`?"));
        let mut failure = Failure::new(Class::Usage, message);
        failure.excerpts.push(self.excerpt(span, label));
        failure
    }
}

/// Reads a value's texts.
fn texts(form: Form, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let text = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        _ => None,
    };
    match (form, value) {
        (Form::Truth, DeValue::Boolean(value)) => Ok(vec![value.to_string()]),
        (Form::Truth, _) => Err("expected true or false".to_owned()),
        // `provenance = false` and `pull = true` are what their flags take as words.
        (Form::Text, DeValue::Boolean(value)) => Ok(vec![value.to_string()]),
        (Form::Text, value) => {
            text(value).map(|text| vec![text]).ok_or("expected a string or a number".to_owned())
        }
        (Form::List, DeValue::Array(items)) => items
            .iter()
            .map(|item| text(item.get_ref()).ok_or("expected an array of strings".to_owned()))
            .collect(),
        (Form::List, value) => {
            text(value).map(|text| vec![text]).ok_or("expected an array of strings".to_owned())
        }
    }
}

/// Checks values that no flag checks.
fn checked(key: &Key, values: Vec<String>) -> Result<Vec<String>, String> {
    match &key.target {
        Target::Flag { .. } => Ok(values),
        Target::Variable { kind, .. } => values.iter().map(|value| kind.read(value)).collect(),
        Target::Policies => values.iter().map(|value| keys::absolute(value)).collect(),
    }
}

/// Reads a file that is trusted; `None` where there is none. One that was named must be there.
fn read(path: &Path, is_named: bool) -> Result<Option<String>, Failure> {
    let failed = |error: std::io::Error| cannot("read", path, &error);
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if !is_named && crate::sys::foreign::is_out_of_reach(path, &error) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let facts = file.metadata().map_err(failed)?;
    // /dev/null, which every user may write to, is a file without values.
    if facts.file_type().is_char_device() {
        return Ok(None);
    }
    let refuse =
        |message: String| Failure::new(Class::Usage, format!("{}: {message}", path.display()));
    if !facts.is_file() {
        return Err(refuse("it is not a regular file".to_owned()));
    }
    let caller = rustix::process::geteuid().as_raw();
    if facts.uid() != 0 && facts.uid() != caller {
        return Err(refuse(format!(
            "it is not used: user {} owns it, not you and not root",
            facts.uid()
        ))
        .with_hint("make it yours, or name another: builder --config FILE …"));
    }
    if facts.mode() & 0o022 != 0 {
        return Err(refuse("it is not used: other users may write to it".to_owned())
            .with_hint(format!("take that right away: chmod go-w {}", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > CONFIG_MAX {
        return Err(refuse(format!("it is larger than {} MiB", CONFIG_MAX >> 20)));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| refuse("it is not valid UTF-8".to_owned()))
}
