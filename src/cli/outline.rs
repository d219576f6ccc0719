//! `builder build --call=outline`: what a build takes.

use super::Environment;
use super::check::Format;
use super::failure::Failure;
use super::findings::LocationJson;
use super::list_targets::description;
use crate::dockerfile::ast::{Lines, Stage, Word};
use crate::job::outline::{self, Outline, Wanted};
use crate::job::{self, BuildRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// Shows what a build takes.
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
    let outline = outline::outline(&loaded, &store, environment)?;
    let target = &loaded.dockerfile.stages[outline.target];
    environment.print(&match format {
        Format::Text => text(&outline, target),
        Format::Json => json(&outline, target, &loaded.inputs.dockerfile),
    });
    Ok(())
}

/// Prints columns as buildx does: the last one is not padded.
fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0) + gap).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn text(outline: &Outline, target: &Stage) -> String {
    let mut parts = Vec::new();
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let name = target.name.as_ref().map_or("", Word::as_str);
    let about = description(target);
    if !name.is_empty() || about.is_some() {
        let mut rows = vec![row(&["TARGET:", if name.is_empty() { "(default)" } else { name }])];
        rows.extend(about.map(|about| row(&["DESCRIPTION:", about])));
        parts.push(table(&rows, 1));
    }
    if !outline.arguments.is_empty() {
        let mut rows = vec![row(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
        rows.extend(outline.arguments.iter().map(|argument| {
            let about = argument.description.as_deref().unwrap_or_default();
            row(&[&argument.name, &argument.value, about])
        }));
        parts.push(table(&rows, 3));
    }
    for (title, wanted) in [("SECRET", &outline.secrets), ("SSH", &outline.agents)] {
        if !wanted.is_empty() {
            let mut rows = vec![row(&[title, "REQUIRED"])];
            let required = |is_required| if is_required { "true" } else { "" };
            rows.extend(wanted.iter().map(|w| row(&[&w.id, required(w.is_required)])));
            parts.push(table(&rows, 3));
        }
    }
    match parts.is_empty() {
        true => "This build takes no arguments, secrets or agents.\n".to_owned(),
        false => parts.join("\n"),
    }
}

#[derive(Serialize)]
struct OutlineJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ArgumentJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<WantedJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<WantedJson<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct ArgumentJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    location: LocationJson,
}

#[derive(Serialize)]
struct WantedJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: LocationJson,
}

impl<'a> WantedJson<'a> {
    fn all(list: &'a [Wanted]) -> Vec<Self> {
        let of = |wanted: &'a Wanted| Self {
            name: &wanted.id,
            required: wanted.is_required,
            location: location(wanted.lines),
        };
        list.iter().map(of).collect()
    }
}

fn location(lines: Lines) -> LocationJson {
    LocationJson::new((lines.first, lines.last))
}

/// The document of BuildKit's `frontend.outline`.
fn json(outline: &Outline, target: &Stage, source: &[u8]) -> String {
    let arguments = outline.arguments.iter().map(|argument| ArgumentJson {
        name: &argument.name,
        description: argument.description.as_deref(),
        value: &argument.value,
        location: location(argument.lines),
    });
    let document = OutlineJson {
        name: target.name.as_ref().map_or("", Word::as_str),
        description: description(target),
        args: arguments.collect(),
        secrets: WantedJson::all(&outline.secrets),
        ssh: WantedJson::all(&outline.agents),
        sources: [STANDARD.encode(source)],
    };
    let mut text = serde_json::to_string_pretty(&document).expect("writing to memory cannot fail");
    text.push('\n');
    text
}
