//! Programs of other processors, found out by running one of each in a sandbox: what `/proc` lists
//! need not work there, and may work without being listed.

use super::{Check, Health};
use crate::oci::Platform;
use crate::sandbox::{MACHINES, Machine, Runs, SandboxError};
use serde::Serialize;

/// How the programs of one platform run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PlatformCheck {
    /// `linux/arm64`.
    platform: String,
    /// What runs them.
    runs: How,
    /// The emulator of our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    emulator: Option<String>,
    /// Why they do not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum How {
    /// The kernel.
    Natively,
    /// An emulator that this machine has registered.
    Host,
    /// An emulator that is registered for the commands of a build.
    Own,
    /// Nothing.
    Not,
}

/// Finds out by `how` what runs the programs of each machine, and runs one so by `run`, which returns
/// its status. `fix` provides emulators.
pub(super) fn check(
    how: impl Fn(&Platform) -> Result<Runs, SandboxError>,
    run: impl Fn(&'static Machine, &Runs) -> Result<i32, String>,
    fix: &str,
) -> Check {
    /// What the program says of its arguments: its name is all it has.
    const COUNT: i32 = 1;
    let find_out = |machine: &'static Machine| {
        let platform = Platform::new("linux", machine.architecture, "");
        let tried = how(&platform).map_err(|error| error.to_string()).and_then(|runs| {
            match run(machine, &runs)? {
                COUNT => Ok(runs),
                status => Err(format!("a program ended with status {status}")),
            }
        });
        let (runs, emulator, reason) = match tried {
            Ok(Runs::Natively) => (How::Natively, None, None),
            Ok(Runs::ByHost) => (How::Host, None, None),
            Ok(runs @ Runs::ByOwn(_)) => (How::Own, runs.emulator().map(str::to_owned), None),
            Err(reason) => (How::Not, None, Some(reason)),
        };
        PlatformCheck { platform: platform.to_string(), runs, emulator, reason }
    };
    of(MACHINES.iter().map(find_out).collect(), fix)
}

fn of(platforms: Vec<PlatformCheck>, fix: &str) -> Check {
    let named = |how: How| {
        let names = platforms.iter().filter(|platform| platform.runs == how).map(|platform| {
            let name = platform.platform.trim_start_matches("linux/");
            match &platform.emulator {
                Some(emulator) => format!("{name} by {emulator}"),
                None => name.to_owned(),
            }
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let parts = [
        (named(How::Natively), "natively"),
        (named(How::Host), "by this machine's handlers"),
        (named(How::Own), ""),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, how)| format!("{names} {how}").trim_end().to_owned())
        .collect();
    let found = match parts.as_slice() {
        [] => "none".to_owned(),
        parts => format!("programs run of {}", parts.join("; ")),
    };
    let lacking = named(How::Not);
    let means = match lacking.as_str() {
        "" => "RUN steps run for all of these platforms".to_owned(),
        names => format!("no RUN steps for {names}: {fix}"),
    };
    // Nothing that a build for this machine needs.
    let mut check = Check::new("platforms", Health::Ok, found, &means);
    check.platforms = Some(platforms);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_what_runs_it_or_what_to_install() {
        let own = |architecture: &str| architecture == "arm64";
        let check = check(
            |_| Ok(Runs::ByHost),
            |machine, _| match machine.architecture {
                "riscv64" => Ok(3),
                "s390x" => Err("no sandbox".to_owned()),
                _ => Ok(1),
            },
            "install it",
        );
        assert_eq!(
            check.found,
            "programs run of amd64, 386, arm64, arm/v7, ppc64le by this machine's handlers"
        );
        assert_eq!(check.means, "no RUN steps for riscv64, s390x: install it");
        let mut platforms = check.platforms.unwrap();
        assert_eq!(platforms[4].reason.as_deref(), Some("a program ended with status 3"));
        for platform in &mut platforms {
            let is_own = own(platform.platform.trim_start_matches("linux/"));
            platform.runs = if is_own { How::Own } else { How::Natively };
            platform.emulator = is_own.then(|| "/bin/qemu-aarch64".to_owned());
        }
        let all = of(platforms, "");
        assert_eq!(
            all.found,
            "programs run of amd64, 386, arm/v7, riscv64, ppc64le, s390x natively; arm64 by \
             /bin/qemu-aarch64"
        );
        let none = super::check(|_| Ok(Runs::Natively), |_, _| Err("no".to_owned()), "x");
        assert_eq!(none.found, "none");
    }
}
