//! The keys of `config.toml`: what each sets.
//!
//! A key of a command's section has the name of a flag of that command; its values are the flag's.
//! `docs/config.md` has a row for each, and says which flags can have no default, and why.

use crate::cli::parse_args;

/// A key.
#[derive(Debug)]
pub(super) struct Key {
    /// Its section: a command's name, or that of a group.
    pub(super) section: &'static str,
    /// Its name.
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) target: Target,
}

/// What values a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A string or a number.
    Text,
    /// `true` or `false`.
    Truth,
    /// An array of strings, or one.
    List,
}

/// What a key sets.
#[derive(Debug)]
pub(super) enum Target {
    /// The default of the flag of its name; not where one of these flags is given.
    Flag { unless: &'static [&'static str] },
    /// An environment variable that is not set.
    Variable { name: &'static str, kind: Kind },
    /// Files of source policies, besides those that flags name.
    Policies,
}

/// What a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything.
    Any,
    /// An absolute path.
    Path,
    /// A number of bytes.
    Size,
    /// `on` or `off`.
    Switch,
    /// A number, 1 or more.
    Threads,
}

impl Kind {
    /// Checks a value of a file, and returns what the variable would have.
    pub(super) fn read(self, text: &str) -> Result<String, String> {
        match self {
            Self::Any => {}
            Self::Path => return absolute(text),
            Self::Size => drop(parse_args::bytes(text)?),
            Self::Switch => return Ok(if text == "true" { "on" } else { "off" }.to_owned()),
            Self::Threads => {
                if !matches!(text.parse::<usize>(), Ok(1..)) {
                    return Err(format!("{text:?} is not a number of threads: expected 1 or more"));
                }
            }
        }
        Ok(text.to_owned())
    }
}

const fn flag(section: &'static str, name: &'static str, form: Form) -> Key {
    Key { section, name, form, target: Target::Flag { unless: &[] } }
}

const fn flag_unless(
    section: &'static str,
    name: &'static str,
    unless: &'static [&'static str],
) -> Key {
    Key { section, name, form: Form::Text, target: Target::Flag { unless } }
}

const fn variable(
    section: &'static str,
    name: &'static str,
    form: Form,
    variable: &'static str,
    kind: Kind,
) -> Key {
    Key { section, name, form, target: Target::Variable { name: variable, kind } }
}

/// All keys, in the order in which they are shown.
pub(super) static KEYS: &[Key] = &[
    flag("build", "platform", Form::List),
    flag("build", "progress", Form::Text),
    flag("build", "pull", Form::Text),
    flag("build", "on-error", Form::Text),
    flag("build", "emulator", Form::List),
    flag("build", "network", Form::Text),
    flag("build", "add-host", Form::List),
    flag("build", "hostname", Form::Text),
    flag("build", "normalize-modes", Form::Truth),
    flag("build", "keep-cache-mounts", Form::Truth),
    flag("build", "max-parallelism", Form::Text),
    flag("build", "build-memory", Form::Text),
    flag("build", "cache-from", Form::List),
    flag("build", "cache-to", Form::List),
    flag("build", "memory", Form::Text),
    flag_unless("build", "memory-swap", &["memory"]),
    flag_unless("build", "cpus", &["cpu_quota", "cpu_period"]),
    flag("build", "cpu-shares", Form::Text),
    flag("build", "cpuset-cpus", Form::Text),
    flag("build", "cpuset-mems", Form::Text),
    flag("build", "pids-limit", Form::Text),
    flag("build", "io-weight", Form::Text),
    flag("build", "shm-size", Form::Text),
    flag("build", "ulimit", Form::List),
    flag("build", "userns", Form::Text),
    flag("build", "userns-first", Form::Text),
    flag("build", "cap-drop", Form::List),
    flag("build", "provenance", Form::Text),
    flag("build", "sbom", Form::Text),
    flag("build", "require-attestations", Form::Truth),
    flag("run", "platform", Form::List),
    flag("run", "pull", Form::Text),
    flag("run", "emulator", Form::List),
    flag("run", "network", Form::Text),
    flag("run", "memory", Form::Text),
    flag_unless("run", "memory-swap", &["memory"]),
    flag_unless("run", "cpus", &["cpu_quota", "cpu_period"]),
    flag("run", "cpu-shares", Form::Text),
    flag("run", "cpuset-cpus", Form::Text),
    flag("run", "cpuset-mems", Form::Text),
    flag("run", "pids-limit", Form::Text),
    flag("run", "io-weight", Form::Text),
    flag("run", "shm-size", Form::Text),
    flag("run", "ulimit", Form::List),
    flag("run", "userns", Form::Text),
    flag("run", "userns-first", Form::Text),
    flag("run", "cap-drop", Form::List),
    flag("pull", "platform", Form::List),
    flag("pull", "progress", Form::Text),
    flag("push", "progress", Form::Text),
    flag("copy", "platform", Form::List),
    flag("copy", "progress", Form::Text),
    variable("store", "root", Form::Text, "BUILDER_ROOT", Kind::Path),
    variable("store", "keep-storage", Form::Text, "BUILDER_KEEP_STORAGE", Kind::Size),
    variable("store", "min-free", Form::Text, "BUILDER_MIN_FREE", Kind::Size),
    variable("store", "gc", Form::Truth, "BUILDER_GC", Kind::Switch),
    variable("program", "threads", Form::Text, "BUILDER_THREADS", Kind::Threads),
    variable("program", "log", Form::Text, "BUILDER_LOG", Kind::Any),
    variable("program", "log-file", Form::Text, "BUILDER_LOG_FILE", Kind::Path),
    Key {
        section: "policy",
        name: "source-policy-files",
        form: Form::List,
        target: Target::Policies,
    },
];

impl Key {
    /// Returns what it is called in messages: `build.platform`.
    pub(super) fn full(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Says whether it is that key.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.section, self.name) == (other.section, other.name)
    }

    /// Returns the id of the flag of its name.
    pub(super) fn id(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Says whether it is a default of a command. `explain` and `check` answer for builds.
    pub(super) fn is_of(&self, command: &str) -> bool {
        let is_like_build = matches!(command, "explain" | "check") && self.section == "build";
        matches!(self.target, Target::Flag { .. }) && (self.section == command || is_like_build)
    }
}

/// Checks a path.
pub(super) fn absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not an absolute path")),
    }
}
