//! `builder doctor`: what this machine offers, what follows for builds, and how to fix what is
//! missing.
//!
//! Nothing is guessed from versions where it can be tried: an overlay is mounted, a private network
//! is started, and a sandbox is run to the point where its command would start.
//!
//! # Not here
//!
//! The checks themselves are in [`checks`]; this file runs them and shows what they found.

mod checks;
mod emulators;

use super::Environment;
use super::failure::{Class, Failure};
use serde::Serialize;
use std::fmt::Write as _;

/// What `builder doctor` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// How to show it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// Text or data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text
    Text,
    /// One JSON document
    Json,
}

/// How well a part of the machine serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    /// As it should.
    Ok,
    /// Builds work, with less than they could have.
    Degraded,
    /// No build works.
    Missing,
}

/// What was found of one part of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    /// Its name: a word.
    name: &'static str,
    state: Health,
    /// What is there.
    found: String,
    /// What follows for builds.
    means: String,
    /// A command that provides what is missing, run as root where it needs that.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    /// What runs the programs of each platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    platforms: Option<Vec<emulators::PlatformCheck>>,
}

impl Check {
    fn new(name: &'static str, state: Health, found: impl Into<String>, means: &str) -> Self {
        Self {
            name,
            state,
            found: found.into(),
            means: means.to_owned(),
            fix: None,
            platforms: None,
        }
    }

    fn fixed_by(mut self, command: impl Into<String>) -> Self {
        if self.state != Health::Ok {
            self.fix = Some(command.into());
        }
        self
    }
}

/// Runs `builder doctor`.
///
/// # Errors
///
/// A failure of class environment where builds cannot work here.
pub fn run(args: &DoctorArgs, environment: &Environment) -> Result<(), Failure> {
    let checks = checks::all(environment);
    let lacking: Vec<&str> =
        checks.iter().filter(|c| c.state == Health::Missing).map(|c| c.name).collect();
    match args.format {
        Format::Text => environment.print(&text(&checks)),
        Format::Json => {
            let document = serde_json::json!({ "works": lacking.is_empty(), "checks": checks });
            environment.print(&format!("{document:#}\n"));
        }
    }
    match lacking.as_slice() {
        [] => Ok(()),
        names => Err(Failure::new(
            Class::Environment,
            format!("builds do not work here: {}", names.join(", ")),
        )),
    }
}

fn text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let word = match check.state {
            Health::Ok => "ok",
            Health::Degraded => "less",
            Health::Missing => "LACKS",
        };
        let _ = writeln!(text, "{word:<6}{:<12}{}", check.name, check.found);
        let _ = writeln!(text, "{:<18}{}", "", check.means);
        if let Some(fix) = &check.fix {
            let _ = writeln!(text, "{:<18}fix: {fix}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_shown_with_what_follows_and_the_fix() {
        let lack = Check::new("network", Health::Degraded, "no /dev/net/tun", "the host's is used");
        let fine = Check::new("overlay", Health::Ok, "mounted", "layers are shared");
        let checks = [fine.fixed_by("never shown"), lack.fixed_by("modprobe tun")];
        assert_eq!(
            text(&checks),
            "ok    overlay     mounted\n                  layers are shared\n\
             less  network     no /dev/net/tun\n                  the host's is used\n\
             \x20                 fix: modprobe tun\n"
        );
    }
}
