//! `builder build --call=targets`: the stages that `--target` takes.

use super::Environment;
use super::check::Format;
use super::failure::Failure;
use super::findings::LocationJson;
use crate::dockerfile::ast::{Stage, Word};
use crate::job::{self, BuildRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::fmt::Write as _;

/// Lists the stages.
///
/// # Errors
///
/// The failure to show.
pub(super) fn run(
    request: &BuildRequest,
    format: Format,
    environment: &Environment,
) -> Result<(), Failure> {
    let store = environment.store()?;
    let loaded = job::load(request, &store, environment)?;
    let stages = &loaded.dockerfile.stages;
    environment.print(&match format {
        Format::Text => text(stages),
        Format::Json => json(stages, &loaded.inputs.dockerfile),
    });
    Ok(())
}

/// The comment above a FROM that begins with the stage's name, without the name.
pub(super) fn description(stage: &Stage) -> Option<&str> {
    let name = stage.name.as_ref()?.as_str();
    let mut comments = stage.from.comments.iter();
    comments.find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '))
}

fn text(stages: &[Stage]) -> String {
    let rows: Vec<(String, &str)> = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let name = stage.name.as_ref().map_or("", Word::as_str);
            let is_default = index + 1 == stages.len();
            let shown = match (name, is_default) {
                ("", true) => "(default)".to_owned(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            };
            (shown, description(stage).unwrap_or_default())
        })
        .collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(6);
    let mut out = format!("{:width$} DESCRIPTION\n", "TARGET");
    for (name, description) in rows {
        let line = format!("{name:width$} {description}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[derive(Serialize)]
struct Targets<'a> {
    targets: Vec<Target<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    base: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
    location: LocationJson,
}

/// The document of BuildKit's `frontend.targets`.
fn json(stages: &[Stage], source: &[u8]) -> String {
    let targets = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| Target {
            name: stage.name.as_ref().map_or("", Word::as_str),
            default: index + 1 == stages.len(),
            description: description(stage),
            base: stage.base.as_str(),
            platform: stage.platform.as_ref().map(Word::as_str),
            location: LocationJson::new((stage.from.lines.first, stage.from.lines.last)),
        })
        .collect();
    let document = Targets { targets, sources: [STANDARD.encode(source)] };
    let mut text = serde_json::to_string_pretty(&document).expect("writing to memory cannot fail");
    text.push('\n');
    text
}
