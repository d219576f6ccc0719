//! The graph of a page: a column for each stage, a box for each step, a line for each thing that is read.

use super::super::phrase::{clean, familiar, shortened, stage_name};
use super::super::report::{Report, Step, Verdict, seconds};
use super::{class, safe, word};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The width that the graph has on a wide screen, and what a step has of it, in CSS pixels: few stages leave
/// room for long instructions.
const GRAPH_WIDTH: usize = 1136;
const NODE_WIDTH: std::ops::RangeInclusive<usize> = 236..=420;

/// The height of a step in the graph, in CSS pixels, and the gaps between steps and stages.
const NODE_HEIGHT: usize = 46;
const GAP_X: usize = 44;
const GAP_Y: usize = 20;

/// Room above the first step for the name of its stage, and for where it starts from.
const STAGE_HEAD: usize = 44;

/// The width of a character in the graph, in tenths of a CSS pixel.
const CHAR_WIDTH: usize = 74;

/// Where the steps stand: a column for each stage in the order of their first steps, a row for each
/// length of the longest way to a step.
fn places(steps: &[Step]) -> (Vec<&str>, Vec<(usize, usize)>) {
    let mut stages: Vec<&str> = Vec::new();
    let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
    let mut places = Vec::with_capacity(steps.len());
    for step in steps {
        let column = stages.iter().position(|stage| *stage == step.stage).unwrap_or_else(|| {
            stages.push(&step.stage);
            stages.len() - 1
        });
        let row = step.after.iter().filter_map(|n| rows.get(n)).max().map_or(0, |row| row + 1);
        rows.insert(step.number, row);
        places.push((column, row));
    }
    // Two steps of a stage that do not follow each other (`COPY --link`) must not cover each other.
    let mut taken: BTreeSet<(usize, usize)> = BTreeSet::new();
    for place in &mut places {
        while !taken.insert(*place) {
            place.1 += 1;
        }
    }
    (stages, places)
}

/// Draws the graph of the steps.
pub(super) fn draw(out: &mut String, report: &Report) {
    let steps = &report.steps;
    let (stages, places) = places(steps);
    let rows = places.iter().map(|place| place.1).max().unwrap_or(0) + 1;
    let columns = stages.len().max(1);
    let node = ((GRAPH_WIDTH + GAP_X) / columns).saturating_sub(GAP_X);
    let node = node.clamp(*NODE_WIDTH.start(), *NODE_WIDTH.end());
    let chars = (node - 20) * 10 / CHAR_WIDTH;
    let x = |column: usize| 1 + column * (node + GAP_X);
    let y = |row: usize| STAGE_HEAD + row * (NODE_HEIGHT + GAP_Y);
    let (width, height) = (x(stages.len()) - GAP_X + 1, y(rows) - GAP_Y + 1);
    // Shrunk to the page as far as it can be read, then scrolled.
    let least = width * 7 / 10;
    let _ = writeln!(
        out,
        "<div class=\"graph\"><svg width=\"{width}\" style=\"min-width:{least}px\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"graph of the steps\">\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"context-stroke\"/></marker></defs>"
    );
    for (column, stage) in stages.iter().enumerate() {
        let first = places.iter().filter(|place| place.0 == column).map(|place| place.1).min();
        let top = y(first.unwrap_or(0));
        let from: Vec<&str> = steps
            .iter()
            .zip(&places)
            .filter(|(_, place)| place.0 == column)
            .flat_map(|(step, _)| step.reads.iter().map(String::as_str))
            .filter(|name| *name != "context")
            .take(1)
            .collect();
        let _ = write!(
            out,
            "<text class=\"stage\" x=\"{}\" y=\"{}\">{}</text>",
            x(column),
            top - 26,
            safe(&shortened(&stage_name(stage), chars))
        );
        if let [from] = from[..] {
            let _ = write!(
                out,
                "<text class=\"sub\" x=\"{}\" y=\"{}\">from {}</text>",
                x(column),
                top - 9,
                safe(&shortened(familiar(from), chars - "from ".len()))
            );
        }
        out.push('\n');
    }
    let by_number: BTreeMap<usize, usize> =
        steps.iter().enumerate().map(|(place, step)| (step.number, place)).collect();
    for (step, &(column, row)) in steps.iter().zip(&places) {
        for from in step.after.iter().filter_map(|n| by_number.get(n)) {
            let (from_column, from_row) = places[*from];
            edge(
                out,
                class(&steps[*from]),
                (x(from_column), y(from_row)),
                (x(column), y(row)),
                node,
                from_column == column && from_row + 1 == row,
            );
        }
    }
    for (step, &(column, row)) in steps.iter().zip(&places) {
        let (x, y) = (x(column), y(row));
        let first = if report.first_broken == Some(step.number) { " broken" } else { "" };
        let name = step.name.split_once("] ").map_or(step.name.as_str(), |(_, rest)| rest);
        let cost = step.run_us.filter(|_| step.result != Verdict::NotReached).map(seconds);
        let _ = writeln!(
            out,
            "<a href=\"#s{}\"><g class=\"node {}{first}\"><title>{}</title>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{node}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>\
             <text x=\"{}\" y=\"{}\">{}</text><text class=\"sub\" x=\"{}\" y=\"{}\">{}{}</text>\
             <text class=\"sub\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text></g></a>",
            step.number,
            class(step),
            safe(&step.name),
            x + 10,
            y + 19,
            safe(&shortened(&clean(name), chars)),
            x + 10,
            y + 36,
            word(report, step),
            if first.is_empty() { "" } else { " – first" },
            x + node - 10,
            y + 36,
            cost.unwrap_or_default(),
        );
    }
    out.push_str("</svg></div>\n");
}

/// A line from the bottom of one step to the top of another, or from side to side between stages.
fn edge(
    out: &mut String,
    class: &str,
    from: (usize, usize),
    to: (usize, usize),
    node: usize,
    is_straight: bool,
) {
    let path = if is_straight {
        let x = from.0 + node / 2;
        format!("M{x} {}V{}", from.1 + NODE_HEIGHT, to.1)
    } else if from.0 == to.0 {
        // Past the steps between.
        let (x, out) = (from.0 + node, from.0 + node + GAP_X / 2);
        let (a, b) = (from.1 + NODE_HEIGHT / 2, to.1 + NODE_HEIGHT / 2);
        format!("M{x} {a}C{out} {a} {out} {b} {x} {b}")
    } else {
        let (a, b) = (from.1 + NODE_HEIGHT / 2, to.1 + NODE_HEIGHT / 2);
        let (from, to) = if from.0 < to.0 { (from.0 + node, to.0) } else { (from.0, to.0 + node) };
        let middle = usize::midpoint(from, to);
        format!("M{from} {a}C{middle} {a} {middle} {b} {to} {b}")
    };
    let _ = writeln!(out, "<path class=\"edge {class}\" d=\"{path}\" marker-end=\"url(#tip)\"/>");
}
