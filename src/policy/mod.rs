//! Source policies: rules that allow, deny or replace what a build reads from elsewhere.
//!
//! A policy is a JSON document of BuildKit's:
//!
//! ```json
//! {"version": 1, "rules": [
//!     {"action": "DENY", "selector": {"identifier": "docker-image://docker.io/*"}},
//!     {"action": "ALLOW", "selector": {"identifier": "docker-image://docker.io/library/*"}},
//!     {"action": "CONVERT",
//!      "selector": {"identifier": "docker-image://docker.io/library/(.*)", "matchType": "REGEX"},
//!      "updates": {"identifier": "docker-image://mirror.example/$1"}}]}
//! ```
//!
//! # Rules
//!
//! - Within a policy the last matching ALLOW or DENY counts. A CONVERT that changes a source ends the
//!   round: all policies are asked again about what it has become.
//! - A source that no rule matches is allowed.
//! - A key, an action or a condition that is not known is an error: a rule that is not understood must
//!   not be passed over.
//!
//! # Not here
//!
//! Where sources come from: [`crate::context`], [`crate::registry`]. Policies of podman's:
//! [`crate::registry::Containers`]. Rego: a build with such a policy is refused in [`crate::job`].
//!
//! Source: BuildKit, `sourcepolicy` and `docs/build-repro.md`.

mod pattern;
mod source;

pub use source::Source;

use pattern::Pattern;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How often a source may be replaced, as in BuildKit.
const CONVERSIONS: usize = 20;

/// The largest policy, in bytes.
pub const POLICY_MAX: u64 = 4 << 20;

/// A policy that cannot be used, or what it forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file is not a policy.
    #[error("{} is not a source policy: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the place.
        what: String,
    },
    /// A rule forbids a source.
    #[error("{identifier} is denied by rule {rule} of {}", path.display())]
    Denied {
        /// The source.
        identifier: String,
        /// The file.
        path: PathBuf,
        /// The number of the rule, from 1.
        rule: usize,
    },
    /// Rules replace a source for ever.
    #[error("the rules of {} replace {identifier} more than {CONVERSIONS} times", path.display())]
    Endless {
        /// The source as it was.
        identifier: String,
        /// The file with the last rule.
        path: PathBuf,
    },
    /// A rule replaces a source by what cannot stand in its place.
    #[error("rule {rule} of {} replaces {identifier}: {what}", path.display())]
    Unfit {
        /// The source.
        identifier: String,
        /// The file.
        path: PathBuf,
        /// The number of the rule, from 1.
        rule: usize,
        /// What is wrong with the replacement.
        what: String,
    },
}

/// The policies of a build, in the order in which they are asked.
#[derive(Debug, Clone, Default)]
pub struct Policies(Vec<Policy>);

#[derive(Debug, Clone)]
struct Policy {
    path: PathBuf,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    action: Action,
    pattern: Pattern,
    constraints: Vec<(String, Condition)>,
    /// The identifier of what replaces a source.
    identifier: String,
    attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Name")]
enum Action {
    Allow,
    Deny,
    Convert,
}

#[derive(Debug, Clone)]
enum Condition {
    Equal(String),
    NotEqual(String),
    Matches(regex_lite::Regex),
}

/// A name or number of an enumeration, as protobuf's JSON has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Number(u64),
}

impl Name {
    /// Returns the position in `names`.
    fn index(&self, names: &[&str]) -> Result<usize, String> {
        let found = match self {
            Self::Text(text) => names.iter().position(|name| name == text),
            Self::Number(number) => usize::try_from(*number).ok().filter(|n| *n < names.len()),
        };
        found.ok_or_else(|| match self {
            Self::Text(text) => format!("{text:?} is none of {}", names.join(", ")),
            Self::Number(number) => format!("{number} is none of {}", names.join(", ")),
        })
    }
}

impl TryFrom<Name> for Action {
    type Error = String;

    fn try_from(name: Name) -> Result<Self, String> {
        Ok([Self::Allow, Self::Deny, Self::Convert][name.index(&["ALLOW", "DENY", "CONVERT"])?])
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    version: Option<u64>,
    #[serde(default)]
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    /// ALLOW is protobuf's default.
    #[serde(default)]
    action: Option<Action>,
    selector: Selector,
    #[serde(default)]
    updates: Option<Updates>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    identifier: String,
    #[serde(default, alias = "matchType")]
    match_type: Option<Name>,
    #[serde(default)]
    constraints: Vec<Constraint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraint {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Option<Name>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Updates {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

impl Policies {
    /// Adds the policy of a file.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Malformed`]; nothing is added then.
    pub fn add(&mut self, text: &[u8], path: &Path) -> Result<(), PolicyError> {
        let bad = |what: String| PolicyError::Malformed { path: path.to_owned(), what };
        let document: Document = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        if let Some(version @ 2..) = document.version {
            return Err(bad(format!("version {version} is not known, only 1 is")));
        }
        let rules = document.rules.into_iter().zip(1..).map(|(rule, number)| {
            Rule::of(rule).map_err(|what| bad(format!("rule {number}: {what}")))
        });
        self.0.push(Policy { path: path.to_owned(), rules: rules.collect::<Result<_, _>>()? });
        Ok(())
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what the policies make of a source; `None` where it stays as it is.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] where a rule denies it, or cannot replace it.
    pub fn apply(&self, source: &Source) -> Result<Option<Source>, PolicyError> {
        let mut current = source.clone();
        for _ in 0..=CONVERSIONS {
            match self.replaced(&current)? {
                Some(next) => current = next,
                None => return Ok((current != *source).then_some(current)),
            }
        }
        let path = self.0.last().map(|policy| policy.path.clone()).unwrap_or_default();
        Err(PolicyError::Endless { identifier: source.identifier.clone(), path })
    }

    /// Asks all policies once; returns the first replacement.
    fn replaced(&self, source: &Source) -> Result<Option<Source>, PolicyError> {
        for policy in &self.0 {
            let mut denied = None;
            for (rule, number) in policy.rules.iter().zip(1..) {
                let Some(groups) = rule.groups(source) else { continue };
                match rule.action {
                    Action::Allow => denied = None,
                    Action::Deny => denied = Some(number),
                    Action::Convert => {
                        let next = rule.convert(source, &groups).map_err(|what| {
                            let (identifier, path) =
                                (source.identifier.clone(), policy.path.clone());
                            PolicyError::Unfit { identifier, path, rule: number, what }
                        })?;
                        if next != *source {
                            return Ok(Some(next));
                        }
                    }
                }
            }
            if let Some(rule) = denied {
                let (identifier, path) = (source.identifier.clone(), policy.path.clone());
                return Err(PolicyError::Denied { identifier, path, rule });
            }
        }
        Ok(None)
    }
}

impl Rule {
    fn of(written: WrittenRule) -> Result<Self, String> {
        let Selector { identifier, match_type, constraints } = written.selector;
        let kind = match_type.map_or(Ok(0), |name| name.index(&["WILDCARD", "EXACT", "REGEX"]))?;
        let pattern = match kind {
            0 => Pattern::wildcard(&identifier)?,
            1 => Pattern::exact(&identifier),
            _ => Pattern::regex(&identifier)?,
        };
        let constraints = constraints.into_iter().map(|constraint| {
            let Constraint { key, value, condition } = constraint;
            let names = ["EQUAL", "NOTEQUAL", "MATCHES"];
            let condition = match condition.map_or(Ok(0), |name| name.index(&names))? {
                0 => Condition::Equal(value),
                1 => Condition::NotEqual(value),
                _ => Condition::Matches(pattern::expression(&value)?),
            };
            Ok((key, condition))
        });
        let constraints = constraints.collect::<Result<Vec<_>, String>>()?;
        let action = written.action.unwrap_or(Action::Allow);
        let updates = written.updates.unwrap_or_default();
        if action != Action::Convert
            && (!updates.identifier.is_empty() || !updates.attrs.is_empty())
        {
            return Err("`updates` are for CONVERT".to_owned());
        }
        let replacement =
            if updates.identifier.is_empty() { identifier } else { updates.identifier };
        Ok(Self {
            action,
            pattern,
            constraints,
            identifier: replacement,
            attributes: updates.attrs,
        })
    }

    /// Returns the groups of the match, the whole first; `None` where the rule is for others.
    fn groups(&self, source: &Source) -> Option<Vec<String>> {
        let holds = |(key, condition): &(String, Condition)| {
            let value = source.attributes.get(key).map_or("", String::as_str);
            match condition {
                Condition::Equal(wanted) => value == wanted,
                Condition::NotEqual(other) => value != other,
                Condition::Matches(pattern) => pattern.is_match(value),
            }
        };
        self.constraints.iter().all(holds).then(|| self.pattern.groups(&source.identifier))?
    }

    fn convert(&self, source: &Source, groups: &[String]) -> Result<Source, String> {
        let identifier = pattern::filled(&self.identifier, groups);
        let mut next = source.clone();
        next.attributes.extend(self.attributes.clone());
        if identifier != source.identifier {
            next.identifier = identifier;
            next.forget_address_of(source, &self.attributes);
        }
        next.check_instead_of(source)?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
