//! What comes from outside besides the arguments, read in one place: variables, the time, signals,
//! where the store is, and what this process may do.

use super::config::Config;
use super::failure::{self, Class, Failure};
use super::{Command, kaniko, parse_args, signals};
use crate::explain::text::Colour;
use crate::job::{DiskPolicy, housekeeping};
use crate::layer::owner;
use crate::sandbox::{EnterError, Standing};
use crate::show::{self, Guard};
use crate::store::{Store, StoreError};
use crate::sys::cancel::Cancel;
use crate::sys::foreign::Given;
use crate::sys::room::Watch;
use jiff::Timestamp;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where root's store is.
const ROOT_STORE: &str = "/var/lib/builder";

/// What comes from outside besides the arguments, read in one place.
#[derive(Debug)]
pub struct Environment {
    /// `--root`.
    root: Option<PathBuf>,
    /// Directory of docker's configuration, as given to docker's client.
    pub(super) docker_config: Option<String>,
    /// Text of a `registries.toml` that the command line makes; it goes before the files.
    pub(super) registries: String,
    /// Defaults that files give.
    pub(super) config: Config,
    /// Whether root started us.
    pub(super) is_root: bool,
    /// What we are root of.
    pub standing: Standing,
    /// Why we are root of no namespace.
    pub refused: Option<EnterError>,
    /// The version of Landlock where commands can be confined by chroot, else why they cannot.
    pub chroot: Option<Result<u32, String>>,
    /// The same where paths can be resolved for commands.
    pub emulated: Option<Result<u32, String>>,
    /// Whether this command may touch the files of layers.
    pub(super) touches_layers: bool,
    /// Whether the next command makes durable what this one puts into the store.
    syncs_later: bool,
    /// The time at which we were started.
    pub started: Timestamp,
    begun: Instant,
    /// What an interruption sets.
    pub cancel: Cancel,
    /// What other signals do.
    pub signals: signals::Signals,
    /// Whether stderr takes colours.
    pub is_coloured: bool,
}

impl Environment {
    pub(super) fn new(root: Option<OsString>, config: Config) -> Self {
        let root = root.filter(|root| !root.is_empty());
        let root = root.or_else(|| config.variable("BUILDER_ROOT").map(OsString::from));
        Self {
            root: root.map(PathBuf::from),
            docker_config: None,
            registries: String::new(),
            config,
            is_root: rustix::process::geteuid().is_root(),
            standing: Standing::Machine,
            refused: None,
            chroot: None,
            emulated: None,
            touches_layers: false,
            syncs_later: false,
            started: Timestamp::now(),
            begun: Instant::now(),
            cancel: Cancel::new(),
            signals: signals::Signals::default(),
            is_coloured: io::stderr().is_terminal() && !is_colour_refused(),
        }
    }

    /// Takes what a command line says of files that are otherwise found.
    pub(super) fn take_from(&mut self, command: &Command) -> Result<(), Failure> {
        let Command::Kaniko(args) = command else { return Ok(()) };
        self.registries = args.registries()?;
        // The store of a job of kaniko's mostly goes with its container.
        self.syncs_later = true;
        if self.variable("DOCKER_CONFIG").is_none_or(|dir| dir.is_empty()) {
            self.docker_config = kaniko::KanikoArgs::docker_config();
        }
        Ok(())
    }

    /// Reads an environment variable; one that is not UTF-8 counts as unset. Where a variable is
    /// unset or empty, a file of defaults may have its value.
    pub fn variable(&self, name: &str) -> Option<String> {
        match &self.docker_config {
            Some(dir) if name == "DOCKER_CONFIG" => Some(dir.clone()),
            _ => {
                let set = variable(name);
                let is_set = set.as_ref().is_some_and(|value| !value.is_empty());
                if is_set { set } else { self.config.variable(name).or(set) }
            }
        }
    }

    /// Returns the time: that of the start and what has passed since.
    pub fn now(&self) -> Timestamp {
        let passed = jiff::SignedDuration::try_from(self.begun.elapsed()).unwrap_or_default();
        self.started.saturating_add(passed).unwrap_or(self.started)
    }

    /// Opens the store: `--root`, else root's, else the user's own.
    ///
    /// # Errors
    ///
    /// A failure that says how to get at another one.
    pub fn store(&self) -> Result<Store, Failure> {
        let store = Store::open(&self.store_root()?).map_err(|error| unusable(&error))?;
        store.stop_waiting_with(&self.cancel);
        if self.syncs_later {
            store.sync_later();
        }
        self.agree_on_form(&store)?;
        Ok(store)
    }

    /// Opens the store for a command that leaves it as it is; where there is none, an empty one
    /// that goes with what is returned.
    ///
    /// # Errors
    ///
    /// As [`store`](Self::store).
    pub(super) fn store_to_look_at(&self) -> Result<LookedAt, Failure> {
        if let Some(store) =
            Store::open_to_look(&self.store_root()?).map_err(|error| unusable(&error))?
        {
            self.agree_on_form(&store)?;
            return Ok(LookedAt { store, _empty: None });
        }
        let (store, dir) = throwaway_store()?;
        Ok(LookedAt { store, _empty: Some(dir) })
    }

    pub(super) fn agree_on_form(&self, store: &Store) -> Result<(), Failure> {
        match self.touches_layers {
            true => store.agree_on_form(owner::form()).map_err(|error| unusable(&error)),
            false => Ok(()),
        }
    }

    pub(super) fn store_root(&self) -> Result<PathBuf, Failure> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        if self.is_root {
            return Ok(PathBuf::from(ROOT_STORE));
        }
        let data = self.variable("XDG_DATA_HOME").filter(|dir| dir.starts_with('/'));
        let home = self.variable("HOME").filter(|dir| dir.starts_with('/'));
        match (data, home) {
            (Some(data), _) => Ok(PathBuf::from(data).join("builder")),
            (None, Some(home)) => Ok(PathBuf::from(home).join(".local/share/builder")),
            (None, None) => {
                Err(Failure::new(Class::Environment, "no place for the store: HOME is not set")
                    .with_hint("name one: builder --root DIR …"))
            }
        }
    }

    /// Returns standard input; reading it ends when the command is cancelled.
    pub(super) fn input(&self) -> Result<Given, Failure> {
        Given::stdin(&self.cancel)
            .map_err(|error| failure::cannot("read", "standard input", &error))
    }

    /// Reads how much of the disk is left to others. What cannot be read counts as not set, and is
    /// reported to `notices`.
    pub(super) fn disk_policy(&self, notices: &mut Vec<String>) -> DiskPolicy {
        let mut bytes = |name: &str| {
            let text = self.variable(name).filter(|text| !text.is_empty())?;
            let read = parse_args::bytes(&text);
            read.map_err(|error| notices.push(format!("{name}: {error}"))).ok()
        };
        DiskPolicy {
            keep: bytes("BUILDER_KEEP_STORAGE"),
            min_free: bytes("BUILDER_MIN_FREE"),
            collects: self.variable("BUILDER_GC").as_deref() != Some("off"),
        }
    }

    /// Watches the disk of `dir` while a command writes there.
    pub(super) fn watch_room(&self, dir: &Path) -> Watch {
        housekeeping::watch_room(&self.disk_policy(&mut Vec::new()), dir, &self.cancel)
    }

    /// Returns whether stdout takes colours.
    pub(super) fn is_stdout_coloured(&self) -> bool {
        self.is_coloured && io::stdout().is_terminal()
    }

    /// Returns whether reports on stdout are coloured.
    pub(super) fn stdout_colour(&self) -> Colour {
        if self.is_stdout_coloured() { Colour::Terminal } else { Colour::Plain }
    }

    /// Shows a message on stderr.
    pub fn warn(&self, text: &str) {
        let _ = writeln!(io::stderr(), "warning: {}", show::lines(&show::addresses(text)));
    }

    /// Returns stdout for text: nothing that is written to it steers a terminal.
    pub(super) fn stdout(&self) -> Guard<io::Stdout> {
        Guard::new(io::stdout(), self.is_stdout_coloured())
    }

    /// Writes text to stdout. A reader that went away is not an error.
    pub fn print(&self, text: &str) {
        let mut stdout = self.stdout();
        if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            std::process::exit(0);
        }
    }
}

/// Reads a variable of the process's environment.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(super) fn variable(name: &str) -> Option<String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return None;
    }
    std::env::var(name).ok()
}

/// A store that is looked at.
pub(super) struct LookedAt {
    pub(super) store: Store,
    /// The directory of one that is empty.
    _empty: Option<tempfile::TempDir>,
}

/// Makes a store that goes with its directory.
pub(super) fn throwaway_store() -> Result<(Store, tempfile::TempDir), Failure> {
    let dir = tempfile::Builder::new().prefix("builder-").tempdir().map_err(|error| {
        Failure::new(Class::Environment, format!("cannot make a temporary directory: {error}"))
    })?;
    let store = Store::open(&dir.path().join("store")).map_err(|error| unusable(&error))?;
    Ok((store, dir))
}

pub(super) fn unusable(error: &StoreError) -> Failure {
    let failure = Failure::of(Class::Environment, error);
    let failure = match error {
        StoreError::Untrusted { path, what } if what.contains("write") => {
            failure.with_hint(format!("take that right away: chmod o-w {}", path.display()))
        }
        _ => failure,
    };
    failure.with_hint("name another store: builder --root DIR …")
}

/// Says whether the user wants no colours.
#[expect(clippy::disallowed_methods, reason = "the one room that reads the environment")]
pub(super) fn is_colour_refused() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
