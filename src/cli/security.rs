//! Flags for the confinement of a command; `build` and `run` share them.

use super::failure::{Class, Failure, cannot};
use super::limits::LimitArgs;
use super::{Environment, place};
use crate::sandbox::{
    self, Confinement, DEFAULT_SHM_SIZE, IdMap, SandboxOptions, SandboxPolicy, Seccomp, WantedRung,
};
use crate::store::{Store, StorePart};
use crate::sys::foreign;
use clap::{Args, ValueEnum};

/// The largest seccomp profile, in bytes; Docker's own has 15 KiB.
const PROFILE_MAX: u64 = 4 << 20;

/// Whose ids a command has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Userns {
    /// Ids that no user of this machine has
    #[default]
    #[value(aliases = ["private", "container"])]
    Auto,
    /// The builder's own: as root, root's
    Host,
}

/// How strongly commands are confined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// The strongest way that this place allows
    #[default]
    Auto,
    /// Namespaces of their own
    Namespaces,
    /// A root directory of their own, where namespaces are refused
    Chroot,
    /// Every path resolved for them, where nothing else is allowed
    Emulated,
}

/// Confinement, with Docker's names.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Security")]
pub struct SecurityArgs {
    /// Whose user ids commands have on this machine
    #[arg(long, value_name = "MODE", value_enum, default_value_t, env = "BUILDER_USERNS")]
    pub userns: Userns,
    /// How strongly commands are confined: auto takes the strongest way that this place allows,
    /// namespaces never anything less
    #[arg(long, value_name = "RUNG", value_enum, default_value_t, env = "BUILDER_CONFINEMENT")]
    pub confinement: Wanted,
    /// First of the ids that users 0 to 65535 of commands have, where root builds [default: that of
    /// builder or root in /etc/subuid, or 1879048192]
    #[arg(
        long,
        value_name = "ID",
        env = "BUILDER_USERNS_FIRST",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(u32::MAX - 65_537))
    )]
    pub userns_first: Option<u32>,
    /// Capability to add to Docker's default ones, or ALL
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub cap_add: Vec<String>,
    /// Capability to take away, or ALL
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub cap_drop: Vec<String>,
    /// System call filter: seccomp=FILE for a profile in Docker's form, seccomp=unconfined for none
    #[arg(long, value_name = "seccomp=FILE|unconfined")]
    pub security_opt: Vec<String>,
    /// Let commands in a private network reach link-local addresses, such as a cloud's metadata
    /// service
    #[arg(
        long,
        env = "BUILDER_ALLOW_LINK_LOCAL",
        value_parser = clap::builder::FalseyValueParser::new(),
        action = clap::ArgAction::SetTrue
    )]
    pub allow_link_local: bool,
}

impl SecurityArgs {
    /// Returns the settings of all sandboxes of this command.
    ///
    /// # Errors
    ///
    /// As [`confinement`](Self::confinement).
    pub(super) fn sandbox(
        &self,
        store: &Store,
        environment: &Environment,
    ) -> Result<SandboxOptions, Failure> {
        let mut options = SandboxOptions::new(store.place(StorePart::Locks));
        options.idmap = self.idmap();
        options.confinement = self.confinement(environment)?;
        options.network.reaches_link_local = self.allow_link_local;
        Ok(options)
    }

    /// Returns how strongly commands are confined.
    ///
    /// # Errors
    ///
    /// A usage failure for what this program does not have.
    pub(super) fn confinement(&self, environment: &Environment) -> Result<Confinement, Failure> {
        let wanted = match self.confinement {
            Wanted::Auto => WantedRung::Auto,
            Wanted::Namespaces => WantedRung::Namespaces,
            Wanted::Chroot if environment.refused.is_some() => WantedRung::Chroot,
            Wanted::Chroot => {
                return Err(Failure::new(
                    Class::Usage,
                    "--confinement=chroot is for places without namespaces: this one has them, which \
                     confine more",
                )
                .with_hint("leave the flag out: --confinement=auto takes the strongest way"));
            }
            Wanted::Emulated if matches!(environment.emulated, Some(Ok(_))) => WantedRung::Emulated,
            Wanted::Emulated => {
                let why = match (&environment.refused, &environment.emulated) {
                    (None, _) => "this place has them, which confine more",
                    (_, Some(Err(reason))) => reason.as_str(),
                    (_, Some(Ok(_)) | None) => "this place allows more",
                };
                return Err(Failure::new(
                    Class::Usage,
                    format!("--confinement=emulated is for users in containers without namespaces: {why}"),
                )
                .with_hint("see what this place allows: builder doctor"));
            }
        };
        let chroot = environment.chroot.clone();
        let emulated = environment.emulated.clone();
        let refused = environment.refused.clone();
        let fix = refused.as_ref().map(|error| place::next_rung(error, environment));
        Ok(Confinement { wanted, refused, chroot, emulated, fix: fix.unwrap_or_default() })
    }

    /// Returns how the ids of commands map to this machine's; `None` for the builder's own.
    pub(super) fn idmap(&self) -> Option<IdMap> {
        match self.userns {
            Userns::Auto => Some(sandbox::choose_map(self.userns_first)),
            Userns::Host => None,
        }
    }

    /// Returns a sentence for each option that changes nothing.
    pub(super) fn notices(&self) -> Vec<String> {
        let options = self.security_opt.iter();
        let named = options.filter_map(|option| {
            let why = without_effect(option)?;
            Some(format!("--security-opt {option} has no effect: {why}"))
        });
        named.collect()
    }

    /// Returns the limits and the confinement of commands; the caller sets network and names.
    ///
    /// # Errors
    ///
    /// A usage failure for limits that contradict each other, for what is not a filter, or for a
    /// capability that the kernel does not have.
    pub(super) fn policy(&self, limits: &LimitArgs) -> Result<SandboxPolicy, Failure> {
        let policy = SandboxPolicy {
            shm_size: limits.shm_size().unwrap_or(DEFAULT_SHM_SIZE),
            ulimits: limits.ulimit.clone(),
            limits: limits.limits()?,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            seccomp: self.seccomp()?,
            ..SandboxPolicy::default()
        };
        policy.check().map_err(|message| Failure::new(Class::Usage, message))?;
        Ok(policy)
    }

    /// Returns which filter is loaded.
    fn seccomp(&self) -> Result<Seccomp, Failure> {
        let usage = |message: String| Failure::new(Class::Usage, message);
        let mut seccomp = Seccomp::Default;
        for option in &self.security_opt {
            let value = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
            if value.is_none() && without_effect(option).is_some() {
                continue;
            }
            seccomp = match value {
                Some("unconfined") => Seccomp::Unconfined,
                Some("" | "builtin") => Seccomp::Default,
                Some(path) => Seccomp::Profile(
                    foreign::read_at(path.as_ref(), PROFILE_MAX)
                        .and_then(|bytes| {
                            String::from_utf8(bytes).map_err(|e| {
                                std::io::Error::new(std::io::ErrorKind::InvalidData, e)
                            })
                        })
                        .map_err(|e| cannot("read", path, &e))?,
                ),
                None => {
                    return Err(usage(format!(
                        "unknown security option {option:?}: expected seccomp=FILE or seccomp=unconfined"
                    )));
                }
            };
        }
        Ok(seccomp)
    }
}

/// Says why an option of Docker's has no effect: what it takes away or lifts is not there. One that
/// would put a wall up is not among these.
fn without_effect(option: &str) -> Option<&'static str> {
    let (key, value) = option.split_once(['=', ':'])?;
    match (key, value) {
        ("label", _) => Some("commands have no SELinux labels"),
        ("apparmor", "unconfined") => Some("commands have no AppArmor profile of their own"),
        ("systempaths", _) => None,
        ("no-new-privileges", "false") => Some("that is the default"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_and_no_capability_is_refused() {
        let args = |option: &str, capability: &str| SecurityArgs {
            security_opt: vec![option.to_owned()],
            cap_add: vec![capability.to_owned()],
            ..SecurityArgs::default()
        };
        let policy = |args: SecurityArgs| args.policy(&LimitArgs::default());
        let unconfined = policy(args("seccomp=unconfined", "ALL")).unwrap();
        assert_eq!(unconfined.seccomp, Seccomp::Unconfined);
        for (option, capability, part) in [
            ("apparmor=x", "ALL", "unknown security option"),
            ("seccomp=/no/such/file", "ALL", "cannot read /no/such/file"),
            ("seccomp=unconfined", "FLY", "unknown capability FLY"),
        ] {
            let failure = policy(args(option, capability)).unwrap_err();
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }
}
