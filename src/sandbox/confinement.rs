//! How strongly commands are confined: the rungs of a ladder, which rung a place allows, and which
//! one was asked for.
//!
//! | rung | what confines a command |
//! |---|---|
//! | namespaces | user, mount, pid, network, ipc, uts and cgroup namespaces, capabilities, a filter of system calls |
//! | chroot | a root directory of its own, a Landlock domain, capabilities, no new privileges, the filter |
//! | emulated | a supervisor that resolves every path, a Landlock domain without files, no new privileges, the filter |
//!
//! A lower rung is taken only where the place refuses the ones above it, never because it is
//! cheaper; what refuses them is in [`Confinement::refused`].

use super::EnterError;
use crate::sys::landlock::SCOPED_FROM;

/// Which rung was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WantedRung {
    /// The strongest that the place allows.
    #[default]
    Auto,
    /// Namespaces, and never less.
    Namespaces,
    /// A root directory, and never less.
    Chroot,
    /// Paths that are resolved for commands.
    Emulated,
}

/// What confines commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Namespaces of their own.
    Namespaces,
    /// A root directory of their own, with this version of Landlock.
    Chroot(u32),
    /// Every path resolved for them, with this version of Landlock.
    Emulated(u32),
}

impl Rung {
    /// Returns its name, as `--confinement` takes it and records have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Chroot(_) => "chroot",
            Self::Emulated(_) => "emulated",
        }
    }

    /// Says how a command runs there, in a few words for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Namespaces => "in namespaces of their own",
            Self::Chroot(_) => "in a root directory of their own",
            Self::Emulated(_) => "with every path resolved for them",
        }
    }
}

/// What is known of a place when a build begins.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    /// Which rung was asked for.
    pub wanted: WantedRung,
    /// Why namespaces cannot be had.
    pub refused: Option<EnterError>,
    /// The version of Landlock, where commands can be confined by chroot; else why not.
    pub chroot: Option<Result<u32, String>>,
    /// The same where paths can be resolved for commands.
    pub emulated: Option<Result<u32, String>>,
    /// What to change so that they can be had.
    pub fix: String,
}

impl Confinement {
    /// Returns the rung that commands get; `None` where there is none for them.
    pub fn rung(&self) -> Option<Rung> {
        match self.refused {
            None => Some(Rung::Namespaces),
            Some(_) if self.wanted == WantedRung::Namespaces => None,
            Some(_) => match (&self.chroot, &self.emulated) {
                (Some(Ok(version)), _) if self.takes(*version) => Some(Rung::Chroot(*version)),
                (_, Some(Ok(version))) if self.wanted != WantedRung::Chroot => {
                    Some(Rung::Emulated(*version))
                }
                _ => None,
            },
        }
    }

    /// Says whether a version of Landlock is enough. Without its borders for signals and sockets two
    /// commands that work together could leave their trees: that is for who asks for it.
    fn takes(&self, version: u32) -> bool {
        match self.wanted {
            WantedRung::Chroot => true,
            WantedRung::Emulated => false,
            WantedRung::Auto | WantedRung::Namespaces => version >= SCOPED_FROM,
        }
    }

    /// Returns why there is no rung.
    pub(super) fn reason(&self) -> String {
        let namespaces = self.refused.as_ref().map(ToString::to_string).unwrap_or_default();
        let emulated = match &self.emulated {
            Some(Err(reason)) if self.wanted != WantedRung::Chroot => format!("; {reason}"),
            _ => String::new(),
        };
        match &self.chroot {
            Some(Err(reason)) => format!("{namespaces}; {reason}{emulated}"),
            Some(Ok(version)) if !self.takes(*version) => format!(
                "{namespaces}; before Linux 6.12 commands that are confined by chroot reach each \
                 other's processes: --confinement=chroot takes it all the same"
            ),
            Some(Ok(_)) | None => namespaces,
        }
    }
}
