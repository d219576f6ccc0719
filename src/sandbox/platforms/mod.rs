//! Programs of other processors: whether they run here, and by what.
//!
//! | they run | where |
//! |---|---|
//! | natively | the kernel takes them: 386 on amd64, arm on arm64 |
//! | by the host's emulator | an administrator registered one, and it starts in a root that has nothing of it |
//! | by one of our own | it is registered in a user namespace that only such commands have |
//!
//! Which of them it is, is found out by starting a program of the processor, never by reading what
//! `/proc` lists; once for each processor, before the first command that needs it.
//!
//! # Emulators of our own
//!
//! From Linux 6.7 on the root of a user namespace may mount an instance of binfmt_misc that belongs
//! to the namespace. So commands of each foreign processor get a namespace of their own beside the
//! one of other commands, with the same ids, and one handler in it ([`handler`]). Neither this
//! machine nor other commands see that: the host's handlers stay what they are, no mount is attached
//! anywhere, and what there is ends with the last descriptor. In the command's `/proc` the directory
//! of binfmt_misc is empty and cannot be written.
//!
//! # Not here
//!
//! Getting an emulator out of an image: [`crate::job`].

mod emulator;
pub(super) mod handler;
mod machine;

pub use emulator::{EmulatorPlace, Emulators, GivenEmulator};
pub use machine::{MACHINES, Machine};

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, OFlags};
use tracing::debug;

use super::confinement::Rung;
use super::ids::{self, Ids};
use super::networks::Networks;
use super::protocol::SpawnRequest;
use super::run::{Sandbox, Spare};
use super::spec::{RunSpec, Security};
use super::{SandboxError, command};
use crate::oci::Platform;
use crate::sys::rooted::open_in_root;
use emulator::{Found, NotFound};

/// What the host's emulator is called in messages and records.
const OF_HOST: &str = "the host's handler";

/// What is lacking where programs of another processor do not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmulatorLack {
    /// An emulator.
    Emulator,
    /// A kernel that lets an emulator be registered for some commands only.
    Kernel,
    /// A user namespace of the command's own.
    Namespace,
    /// Instructions of this machine's own processor.
    Processor,
}

/// How the programs of a platform run.
#[derive(Debug, Clone, Default)]
pub enum Runs {
    /// By the kernel.
    #[default]
    Natively,
    /// By an emulator that this machine has registered.
    ByHost,
    /// By an emulator that is registered for such commands only.
    ByOwn(Arc<OwnEmulator>),
}

impl Runs {
    /// Returns what the emulator is called; `None` where there is none.
    pub fn emulator(&self) -> Option<&str> {
        match self {
            Self::Natively => None,
            Self::ByHost => Some(OF_HOST),
            Self::ByOwn(own) => Some(&own.name),
        }
    }
}

impl PartialEq for Runs {
    fn eq(&self, other: &Self) -> bool {
        self.emulator() == other.emulator()
    }
}

/// An emulator that is registered in a user namespace, with what belongs to that namespace. It is
/// registered until this value is dropped.
#[derive(Debug)]
pub struct OwnEmulator {
    name: String,
    pub(super) ids: Arc<Ids>,
    pub(super) networks: Networks,
    pub(super) spare: Mutex<Spare>,
    /// The instance of binfmt_misc.
    _handlers: OwnedFd,
    _emulator: OwnedFd,
}

/// What was found out so far, by architecture, and whether the usual confinement applies.
pub(super) type Known = BTreeMap<(&'static str, bool), Runs>;

impl Sandbox {
    /// Finds out how programs of a platform run, and has an emulator registered if it takes one.
    /// `program` is the machine that the command's own program is for, as far as that can be seen: it
    /// counts for more than the platform, which may be a wrong label.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NoEmulator`] where they do not run.
    pub fn runs(
        &self,
        platform: &Platform,
        security: Security,
        program: Option<&'static Machine>,
    ) -> Result<Runs, SandboxError> {
        let foreign = program.filter(|machine| !machine.is_host());
        let Some(machine) = foreign.or_else(|| Machine::of(platform)) else {
            return Ok(Runs::Natively);
        };
        if machine.is_host() {
            return self.runs_variant(platform, machine, security);
        }
        let shown = match foreign {
            // Its label says something else.
            Some(machine) if Machine::of(platform) != Some(machine) => {
                format!("linux/{}", machine.architecture)
            }
            _ => platform.to_string(),
        };
        match self.runs_foreign(&shown, machine, security) {
            Err(SandboxError::NoEmulator { .. }) if program.is_some_and(Machine::is_host) => {
                Ok(Runs::Natively)
            }
            runs => runs,
        }
    }

    /// The same of the machine's own architecture, whose variants take instructions that a processor
    /// may lack.
    fn runs_variant(
        &self,
        platform: &Platform,
        machine: &'static Machine,
        security: Security,
    ) -> Result<Runs, SandboxError> {
        let lacking = machine::lacking(platform);
        if lacking.is_empty() {
            return Ok(Runs::Natively);
        }
        // One that was named may have them.
        if self.options.emulators.named(machine).is_some() && self.may_register(security)? {
            return self.runs_foreign(&platform.to_string(), machine, security);
        }
        Err(SandboxError::NoEmulator {
            platform: platform.to_string(),
            reason: format!("this processor lacks {}", lacking.join(", ")),
            lack: EmulatorLack::Processor,
        })
    }

    fn runs_foreign(
        &self,
        shown: &str,
        machine: &'static Machine,
        security: Security,
    ) -> Result<Runs, SandboxError> {
        // Held until it is known: commands of one platform may start at the same time.
        let mut known = self.platforms.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (machine.architecture, security == Security::Default);
        if let Some(runs) = known.get(&key) {
            return Ok(runs.clone());
        }
        let runs = self.find_out(shown, machine, security)?;
        debug!(platform = shown, emulator = runs.emulator(), "found out how programs run");
        known.insert(key, runs.clone());
        Ok(runs)
    }

    fn find_out(
        &self,
        platform: &str,
        machine: &'static Machine,
        security: Security,
    ) -> Result<Runs, SandboxError> {
        let lack = |lack, reason: String| SandboxError::NoEmulator {
            platform: platform.to_owned(),
            reason,
            lack,
        };
        let rung = self.rung()?;
        if let Rung::Emulated(_) = rung {
            let reason = "--confinement=emulated loads programs of this machine's own processor \
                          only";
            return Err(lack(EmulatorLack::Namespace, reason.to_owned()));
        }
        let starts = || -> Result<bool, SandboxError> {
            let ids = self.ids(security)?;
            let has_namespaces = rung == Rung::Namespaces;
            let error = self.client.probe(machine.endless(), has_namespaces, ids.as_deref())?;
            debug!(architecture = machine.architecture, ?error, "started a program for a trial");
            Ok(error.is_none())
        };
        if machine.is_of_family() && !machine.is_host() && starts()? {
            return Ok(Runs::Natively);
        }
        let may_register = self.may_register(security)?;
        let named = self.options.emulators.named(machine).filter(|_| may_register);
        if named.is_none() && !machine.is_of_family() && starts()? {
            return Ok(Runs::ByHost);
        }
        let no_handler = "this machine has no handler for them";
        if !may_register {
            let why = match rung {
                Rung::Namespaces if security == Security::Insecure => {
                    "and a step with --security=insecure has no user namespace of its own, which \
                     could have one"
                }
                Rung::Namespaces => {
                    "and commands have no user namespace of their own, which could have one"
                }
                Rung::Chroot(_) | Rung::Emulated(_) => {
                    "and this place allows no user namespace, which could have one"
                }
            };
            return Err(lack(EmulatorLack::Namespace, format!("{no_handler}, {why}")));
        }
        let found = named.unwrap_or_else(|| self.options.emulators.in_path(machine));
        let found = found.map_err(|error| {
            let [first, second] = machine.emulators();
            let places = self.options.emulators.shown_places();
            let reason = match error {
                NotFound::Unusable(reason) => reason,
                NotFound::Nowhere(None) => {
                    format!("{no_handler}, and there is no {first} and no {second} in {places}")
                }
                NotFound::Nowhere(Some(unfit)) => format!("{no_handler}, and {unfit}"),
            };
            lack(EmulatorLack::Emulator, reason)
        })?;
        let own = self.register(machine, found, security);
        own.map(|own| Runs::ByOwn(Arc::new(own))).map_err(|error| match error {
            SandboxError::Setup { doing, errno } if doing == handler::OPENING => {
                let release = rustix::system::uname().release().to_string_lossy().into_owned();
                let reason = match errno {
                    libc::ENODEV => "this kernel has no binfmt_misc".to_owned(),
                    libc::EPERM => format!(
                        "{no_handler}, and before Linux 6.7 none can be registered for some \
                         commands only: this is Linux {release}"
                    ),
                    errno => {
                        let error = std::io::Error::from_raw_os_error(errno);
                        format!("{no_handler}, and none can be registered: {doing}: {error}")
                    }
                };
                lack(EmulatorLack::Kernel, reason)
            }
            error => error,
        })
    }

    /// Says whether commands have, or can have, a user namespace that is not the machine's.
    fn may_register(&self, security: Security) -> Result<bool, SandboxError> {
        if self.rung()? != Rung::Namespaces {
            return Ok(false);
        }
        Ok(self.ids(security)?.is_some() || !ids::owns_machine())
    }

    /// Makes a user namespace for commands of one machine, and registers the emulator in it.
    fn register(
        &self,
        machine: &'static Machine,
        found: Found,
        security: Security,
    ) -> Result<OwnEmulator, SandboxError> {
        let map = match self.ids(security)? {
            Some(ids) => ids.map().clone(),
            // Below the one that we were put in by a user without privileges: ids stay as they are.
            None => ids::choose_map(None),
        };
        let userns = self.client.ask(&SpawnRequest::MakeUserns(map.clone()), &[])?;
        let ids = Ids::same(userns, map);
        let handlers = self.client.register(machine.rule(), found.file.as_fd(), &ids)?;
        debug!(architecture = machine.architecture, found.name, "registered an emulator");
        Ok(OwnEmulator {
            name: found.name,
            ids: Arc::new(ids),
            networks: self.networks.elsewhere(),
            spare: Mutex::default(),
            _handlers: handlers,
            _emulator: found.file,
        })
    }
}

/// Returns the machine that a command's program is for, where its root shows it: that of the
/// program's interpreter if it is a script. `None` where it is not seen, as in a mount.
pub fn machine_of_command(root: BorrowedFd<'_>, spec: &RunSpec) -> Option<&'static Machine> {
    command::candidates(spec)
        .into_iter()
        .find_map(|program| machine_of(root, &spec.cwd, &program, command::INTERPRETERS_MAX))
}

fn machine_of(
    root: BorrowedFd<'_>,
    cwd: &str,
    program: &[u8],
    interpreters: u32,
) -> Option<&'static Machine> {
    let path = match program.first()? {
        b'/' => program.to_vec(),
        _ => [cwd.as_bytes(), b"/", program].concat(),
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open_in_root(root, &path, flags).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut head = Vec::new();
    std::fs::File::from(file).take(command::HEAD).read_to_end(&mut head).ok()?;
    match command::interpreter(&head) {
        Some(_) if interpreters == 0 => None,
        Some(interpreter) => machine_of(root, cwd, interpreter, interpreters - 1),
        None => Machine::of_program(&head),
    }
}
