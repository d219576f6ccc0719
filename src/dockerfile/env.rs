//! The variables that expansion sees: ENV and declared ARGs, in order.
//!
//! # Not here
//!
//! Which of them a stage has at an instruction: the plan room walks the instructions for the build,
//! the checks do for what they look for.

use super::ast::{Command, Dockerfile};
use super::errors::Error;
use super::expand::Lexer;
use std::collections::BTreeMap;

/// The PATH of an image that has none.
///
/// Source: BuildKit, `util/system.DefaultPathEnvUnix`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names and values, each name once, in the order in which the names came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    pairs: Vec<(String, String)>,
    /// Where each name is, so that a Dockerfile of hundreds of thousands costs what its lines cost.
    places: BTreeMap<String, usize>,
}

impl Env {
    /// Sets a variable; a known name keeps its place.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.places.get(name) {
            Some(&place) => value.clone_into(&mut self.pairs[place].1),
            None => {
                self.places.insert(name.to_owned(), self.pairs.len());
                self.pairs.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// Looks a variable up.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|&place| self.pairs[place].1.as_str())
    }

    /// Returns all in their order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// Returns the names in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| name.as_str())
    }
}

impl FromIterator<(String, String)> for Env {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut env = Self::default();
        for (name, value) in pairs {
            env.set(&name, &value);
        }
        env
    }
}

/// Build arguments that pick what a scanner reads; never variables.
///
/// Source: BuildKit, `nonEnvArgs`.
pub fn is_scan_argument(name: &str) -> bool {
    matches!(name, "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE")
}

/// The variables of FROM lines: the platform arguments, then the ARGs before the first FROM.
///
/// # Errors
///
/// The first default that cannot be expanded.
pub fn globals(
    file: &Dockerfile,
    platform_args: &Env,
    build_args: &BTreeMap<String, String>,
) -> Result<Env, Error> {
    let mut env = platform_args.clone();
    for instruction in &file.global_args {
        let Command::Arg(declarations) = &instruction.command else { continue };
        for declaration in declarations {
            let name = &declaration.name.text;
            let value = match (build_args.get(name), &declaration.default) {
                (Some(given), _) => given.clone(),
                (None, Some(word)) => {
                    let lookup = |name: &str| env.get(name).map(str::to_owned);
                    let expanded = Lexer::new(file.escape).process_word(&word.text, &lookup);
                    expanded.map_err(|e| e.in_span(word.span, instruction.origin.lines.first))?.text
                }
                (None, None) => continue,
            };
            env.set(name, &value);
        }
    }
    Ok(env)
}
