//! Which events the log takes: `LEVEL`, `ROOM=LEVEL` or `ROOM`, separated by commas.
//!
//! A room is a directory of `src/`, as [`crate`] lists them. A rule for a room counts before one
//! for all; of two for the same the last one counts.

use super::STEPS;
use crate::show::text as shown;
use std::fmt;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The levels, each with all that the ones before it have.
pub const LEVELS: &[(&str, LevelFilter)] = &[
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// What every target of this program begins with.
pub(super) const PROGRAM: &str = "builder";

/// Which events the log takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Targets);

/// A filter that cannot be understood, with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("character {at}: {problem}")]
pub struct FilterError {
    /// One-based place of the first character that is wrong.
    pub at: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Nothing between two commas, or nothing at all.
    Empty,
    /// The word behind `=` is not a level.
    Level(String),
    /// The word before `=` is not a room.
    Room(String),
    /// A word alone that is neither.
    Word(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = LEVELS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        match self {
            Self::Empty => write!(f, "expected a level ({levels}) or a room"),
            Self::Level(word) => {
                write!(f, "{:?} is not a level: expected {levels}", shown(word))
            }
            Self::Room(word) => write!(f, "{:?} is not a room of the program", shown(word)),
            Self::Word(word) => {
                write!(f, "{:?} is neither a level ({levels}) nor a room", shown(word))
            }
        }
    }
}

impl Problem {
    /// Returns the word that is wrong, with those that may stand in its place.
    pub fn word_and_candidates(&self) -> Option<(&str, Vec<&'static str>)> {
        let levels = || LEVELS.iter().map(|(name, _)| *name);
        match self {
            Self::Empty => None,
            Self::Level(word) => Some((word, levels().collect())),
            Self::Room(word) => Some((word, rooms().collect())),
            Self::Word(word) => Some((word, levels().chain(rooms()).collect())),
        }
    }
}

impl Filter {
    /// Returns a filter that takes everything up to `debug`.
    pub fn debug() -> Self {
        Self(with_steps(Targets::new().with_target(PROGRAM, LevelFilter::DEBUG)))
    }

    /// Parses a filter. White space around words does not count, nor does the case of levels.
    ///
    /// # Errors
    ///
    /// [`FilterError`] for the first word that is wrong.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut targets = Targets::new();
        for rule in text.split(',') {
            let fail = |word: &str, make: fn(String) -> Problem| {
                let start = word.as_ptr() as usize - text.as_ptr() as usize;
                let at = text[..start].chars().count() + 1;
                let problem = if word.is_empty() { Problem::Empty } else { make(word.to_owned()) };
                FilterError { at, problem }
            };
            let word = rule.trim();
            let (room, level) = match word.split_once('=') {
                Some((room, level)) => {
                    let (room, level) = (room.trim(), level.trim());
                    let room = known_room(room).ok_or_else(|| fail(room, Problem::Room))?;
                    let known = known_level(level).ok_or_else(|| fail(level, Problem::Level))?;
                    (Some(room), known)
                }
                None => match (known_level(word), known_room(word)) {
                    (Some(level), _) => (None, level),
                    (None, Some(room)) => (Some(room), LevelFilter::TRACE),
                    (None, None) => return Err(fail(word, Problem::Word)),
                },
            };
            let target =
                room.map_or_else(|| PROGRAM.to_owned(), |room| format!("{PROGRAM}::{room}"));
            targets = targets.with_target(target, level);
        }
        Ok(Self(with_steps(targets)))
    }

    pub(super) fn targets(&self) -> Targets {
        self.0.clone()
    }
}

fn with_steps(targets: Targets) -> Targets {
    targets.with_target(STEPS, LevelFilter::INFO)
}

fn known_level(word: &str) -> Option<LevelFilter> {
    LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, level)| *level)
}

fn known_room(word: &str) -> Option<&'static str> {
    rooms().find(|room| *room == word)
}

/// The rooms: the modules of the map.
fn rooms() -> impl Iterator<Item = &'static str> {
    let map = include_str!("../lib.rs");
    map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[track_caller]
    fn takes(text: &str, target: &str, level: Level) -> bool {
        Filter::parse(text).unwrap().0.would_enable(target, &level)
    }

    #[test]
    fn a_rule_for_a_room_counts_before_one_for_all() {
        let lookup = "builder::solve::coordinator::lookup";
        for (text, target, level, is_taken) in [
            ("debug", lookup, Level::DEBUG, true),
            ("debug", lookup, Level::TRACE, false),
            ("DEBUG", "builder::registry::transport", Level::DEBUG, true),
            ("debug", "other_crate", Level::ERROR, false),
            ("info,solve=trace", lookup, Level::TRACE, true),
            (" solve = trace , info ", lookup, Level::TRACE, true),
            ("info,solve=trace", "builder::store", Level::DEBUG, false),
            ("debug,solve=off", lookup, Level::ERROR, false),
            ("solve", lookup, Level::TRACE, true),
            ("solve", "builder::store", Level::ERROR, false),
            ("registry=debug", STEPS, Level::INFO, true),
            ("debug,info", lookup, Level::DEBUG, false),
        ] {
            assert_eq!(takes(text, target, level), is_taken, "{text}: {target} {level}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, message) in [
            ("", "character 1: expected a level (off, error, warn, info, debug, trace) or a room"),
            ("debug,", "character 7: expected a level"),
            ("verbose", "character 1: \"verbose\" is neither a level"),
            ("debug,solve=verbose", "character 13: \"verbose\" is not a level: expected off,"),
            ("debug, slove=trace", "character 8: \"slove\" is not a room of the program"),
            ("solve=", "character 7: expected a level"),
            ("=debug", "character 1: expected a level"),
            ("ü\u{1b}[2J", "character 1: \"ü\\\\x1b[2J\" is neither"),
        ] {
            let error = Filter::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn every_room_of_the_map_can_be_named() {
        assert!(rooms().count() > 15);
        assert!(["solve", "registry", "sandbox", "trace"].iter().all(|r| known_room(r).is_some()));
    }
}
