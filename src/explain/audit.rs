//! What an audit found, in words and as JSON.

use super::describe;
use super::listing::{FileChanges, compare};
use super::text::clean;
use crate::cache::TreeEntry;
use serde::Serialize;

/// The steps of an audit.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Audit {
    /// In the order of the plan.
    pub steps: Vec<AuditedStep>,
}

/// A step and what came of running it once more.
#[derive(Debug, Clone, Serialize)]
pub struct AuditedStep {
    /// Its place in the plan.
    pub number: usize,
    /// Its progress name.
    pub name: String,
    /// Its first line in the Dockerfile.
    pub line: u32,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came of running a step once more.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The same files, byte for byte.
    Reproducible,
    /// Other files: the step's result depends on more than its inputs.
    Differs {
        /// How they differ: old is the known result.
        changes: FileChanges,
    },
    /// It failed.
    Failed {
        /// Cause of the failure.
        message: String,
    },
    /// It has no known result.
    NoResult,
}

impl Verdict {
    /// Compares a known result with what was made now.
    pub fn of(known: &[TreeEntry], now: &[TreeEntry]) -> Self {
        Self::Differs { changes: compare(known, now) }
    }
}

impl Audit {
    /// Returns the audit as text, a line or more for each step.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let word = match &step.verdict {
                Verdict::Reproducible => "same",
                Verdict::Differs { .. } => "DIFFERS",
                Verdict::Failed { .. } => "FAILED",
                Verdict::NoResult => "-",
            };
            let name = describe::shortened(&clean(&step.name), 60);
            text.push_str(&format!("{word:<8} {name:<60} line {}\n", step.line));
            match &step.verdict {
                Verdict::Differs { changes } => {
                    for (depth, line) in describe::files("files", Some(changes)) {
                        let indent = " ".repeat(10 + 2 * depth);
                        let line: String = line.0.into_iter().map(|(_, text)| text).collect();
                        text.push_str(&format!("{indent}{line}\n"));
                    }
                }
                Verdict::Failed { message } => {
                    text.push_str(&format!("          {}\n", clean(message)));
                }
                Verdict::NoResult => {
                    text.push_str("          no result to compare with: build it first\n");
                }
                Verdict::Reproducible => {}
            }
        }
        let count = |wanted: fn(&Verdict) -> bool| {
            self.steps.iter().filter(|step| wanted(&step.verdict)).count()
        };
        let same = count(|verdict| matches!(verdict, Verdict::Reproducible));
        let differs = count(|verdict| matches!(verdict, Verdict::Differs { .. }));
        text.push_str(&format!("\n{same} of {} steps reproduced", self.steps.len()));
        if differs > 0 {
            text.push_str(&format!(", {differs} made other files"));
        }
        text.push('\n');
        text
    }
}
