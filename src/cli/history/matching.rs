//! Filters of `builder history ls`.
//!
//! Source: docker/buildx, `commands/history/utils.go`.

use crate::cli::parse_args;
use crate::history::{BuildRecord, Outcome, REF_PREFIX};
use jiff::Timestamp;

/// The filters there are, for messages.
const KNOWN: &str = "ref, name, repository, status, startedAt, completedAt and duration";

/// The states there are, for messages.
const STATES: &str = "running, completed, error, canceled and killed";

/// Whether values are compared to be alike, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    Is,
    IsNot,
}

/// How numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// What a build's name, id or repository must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Reference,
    Name,
    Repository,
}

/// A number of a build, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    StartedAt,
    CompletedAt,
    Duration,
}

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    Text(Text, Sense, String),
    Status(Sense, &'static str),
    Number(Number, Order, i64),
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub(super) fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        let at = text.find(['=', '!', '<', '>']).filter(|at| *at > 0);
        let (key, rest) = text.split_at(at.ok_or("expected KEY=VALUE, such as status=error")?);
        let signs = ["!=", "<=", ">=", "=", "<", ">"];
        let sign = signs.into_iter().find(|sign| rest.starts_with(sign));
        let sign = sign.ok_or("expected =, !=, <, <=, > or >= after its name")?;
        let value = &rest[sign.len()..];
        let sense = || match sign {
            "=" => Ok(Sense::Is),
            "!=" => Ok(Sense::IsNot),
            _ => Err(format!("{key} is compared with = or !=")),
        };
        let order = || match sign {
            "<" => Ok(Order::Less),
            "<=" => Ok(Order::AtMost),
            ">" => Ok(Order::More),
            ">=" => Ok(Order::AtLeast),
            _ => Err(format!("{key} is compared with <, <=, > or >=")),
        };
        let moment = || parse_args::moment(value, now).map(Timestamp::as_millisecond);
        Ok(match key {
            "ref" => {
                let value = value.strip_prefix(REF_PREFIX).unwrap_or(value);
                Self::Text(Text::Reference, sense()?, value.to_owned())
            }
            "name" => Self::Text(Text::Name, sense()?, value.to_owned()),
            "repository" => Self::Text(Text::Repository, sense()?, value.to_owned()),
            "status" => Self::Status(sense()?, state(value)?),
            "startedAt" => Self::Number(Number::StartedAt, order()?, moment()?),
            "completedAt" => Self::Number(Number::CompletedAt, order()?, moment()?),
            "duration" => {
                let order = order()?;
                let ms = i64::try_from(parse_args::age(value)?.as_millis()).unwrap_or(i64::MAX);
                Self::Number(Number::Duration, order, ms)
            }
            key => return Err(format!("unknown filter {key:?}: there are {KNOWN}")),
        })
    }

    /// Says whether a build fits.
    pub(super) fn fits(&self, build: &BuildRecord) -> bool {
        match self {
            Self::Text(what, sense, value) => {
                let text = match what {
                    Text::Reference => build.id.to_string(),
                    Text::Name => build.about.name(),
                    Text::Repository => build.about.repository.clone(),
                };
                match sense {
                    // As in buildx: a part is enough.
                    Sense::Is => text.contains(value.as_str()),
                    Sense::IsNot => text != *value,
                }
            }
            Self::Status(sense, value) => (word(&build.outcome) == *value) == (*sense == Sense::Is),
            Self::Number(what, order, value) => {
                let started = build.about.started_ms;
                let number = match what {
                    Number::StartedAt => Some(started),
                    Number::CompletedAt => build.finished_ms,
                    Number::Duration => build.finished_ms.map(|end| end - started),
                };
                number.is_some_and(|number| match order {
                    Order::Less => number < *value,
                    Order::AtMost => number <= *value,
                    Order::More => number > *value,
                    Order::AtLeast => number >= *value,
                })
            }
        }
    }
}

/// Reads a state, in buildx's words or in ours.
fn state(text: &str) -> Result<&'static str, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "running" => "running",
        "completed" | "success" | "ok" => "completed",
        "error" | "failed" => "error",
        "canceled" | "cancelled" => "canceled",
        "killed" | "interrupted" => "killed",
        _ => return Err(format!("unknown status {text:?}: there are {STATES}")),
    })
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Running => "running",
        Outcome::Ok => "completed",
        Outcome::Failed { .. } => "error",
        Outcome::Cancelled => "canceled",
        Outcome::Interrupted => "killed",
        Outcome::Predicted => "predicted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{About, BuildId};

    const NOW: i64 = 1_790_000_000_000;

    fn build(outcome: Outcome, finished_ms: Option<i64>) -> BuildRecord {
        let about = About {
            started_ms: NOW - 3_600_000,
            context: "/src/app".into(),
            dockerfile: "Dockerfile".into(),
            repository: "https://h/team/app.git".into(),
            ..About::default()
        };
        BuildRecord {
            id: BuildId::at(about.started_ms),
            about,
            finished_ms,
            outcome,
            image: None,
            manifest: None,
            is_imported: false,
            notes: Vec::new(),
            steps: Vec::new(),
        }
    }

    #[test]
    fn filters_choose_by_reference_status_time_and_repository() {
        let now = Timestamp::from_millisecond(NOW).unwrap();
        let ok = build(Outcome::Ok, Some(NOW - 3_600_000 + 31_000));
        let fits = |text: &str| Filter::parse(text, now).unwrap().fits(&ok);
        for (text, is_fit) in [
            ("status=completed", true),
            ("status=success", true),
            ("status!=error", true),
            ("status=error", false),
            ("name=app", true),
            ("name!=app", false),
            ("repository=team/app", true),
            ("repository=other", false),
            ("duration>30s", true),
            ("duration>=31s", true),
            ("duration<31s", false),
            ("startedAt<30m", true),
            ("startedAt>2h", true),
            ("startedAt>30m", false),
            ("completedAt>=2020-01-01", true),
        ] {
            assert_eq!(fits(text), is_fit, "{text}");
        }
        let id = ok.id.to_string();
        assert!(fits(&format!("ref={}", &id[..8])) && fits(&format!("ref=builder/builder/{id}")));
        let running = build(Outcome::Running, None);
        let of_running = |text: &str| Filter::parse(text, now).unwrap().fits(&running);
        assert!(of_running("status=running") && !of_running("duration<9999h"));
    }

    #[test]
    fn what_is_not_a_filter_is_refused_with_those_there_are() {
        let now = Timestamp::from_millisecond(NOW).unwrap();
        for (text, part) in [
            ("color=red", "there are ref, name"),
            ("status=blue", "there are running"),
            ("status", "expected KEY=VALUE"),
            ("=x", "expected KEY=VALUE"),
            ("status>error", "compared with = or !="),
            ("duration=3s", "compared with <"),
            ("duration>soon", "is not an age"),
            ("startedAt>yesterday", "neither an age nor a time"),
            ("status!error", "expected =, !="),
        ] {
            let why = Filter::parse(text, now).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
