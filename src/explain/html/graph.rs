//! The graph of a page: a column for each stage, a box for each step, a line for each thing that is
//! read.
//!
//! Of a build for several platforms each has columns of its own, under its name: those of the stages
//! that its image needs alone. What several images need stands once, to the left of them.
//!
//! Steps of one stage that say nothing by themselves share a box: all of a stage that was taken
//! from the cache, and runs of steps with one outcome that only follow each other. Lines between
//! stages run at right angles in lanes of their own: down in the gaps between columns, across in
//! the gaps between rows. So no line passes behind a box, and two lines share a way only if they
//! come from the same step.

use super::super::compare::Cause;
use super::super::describe::{clean, familiar, shortened, stage_name};
use super::super::report::{Report, Step, Verdict, seconds};
use super::{class, safe, word};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The width that the graph has on a wide screen, and what a step has of it, in CSS pixels: few
/// stages leave room for long instructions.
const GRAPH_WIDTH: usize = 1136;
const NODE_WIDTH: std::ops::RangeInclusive<usize> = 220..=420;

/// The height of a box, in CSS pixels, and the least gaps between boxes and columns.
const NODE_HEIGHT: usize = 46;
const GAP_X: usize = 28;
const GAP_Y: usize = 20;

/// The distance between lanes, in CSS pixels.
const LANE: usize = 8;

/// How far below the top of a box lines come in and go out: never at one height, or two lines would
/// look like one.
const IN_AT: usize = 14;
const OUT_AT: usize = 32;

/// Room above the first box of a stage for its name, and for where it starts from.
const STAGE_HEAD: usize = 44;

/// Room above all for the names of platforms.
const PLATFORM_HEAD: usize = 30;

/// The width of a character in the graph, in tenths of a CSS pixel.
const CHAR_WIDTH: usize = 74;

/// The fewest steps of one outcome that share a box.
const FOLDED_FROM: usize = 4;

/// One box: a step, or several.
#[derive(Debug)]
struct Node {
    /// Places of its steps in the report.
    steps: Vec<usize>,
    column: usize,
    row: usize,
}

/// A line from the steps of one box to those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: usize,
    to: usize,
}

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column<'a> {
    /// The place of its platform among those of the build, from 1; 0 for what several need.
    platform: usize,
    stage: &'a str,
}

/// Boxes and lines, without sizes.
#[derive(Debug)]
struct Layout<'a> {
    columns: Vec<Column<'a>>,
    nodes: Vec<Node>,
    edges: BTreeSet<Edge>,
}

impl<'a> Layout<'a> {
    fn new(report: &'a Report) -> Self {
        let steps = &report.steps;
        let of: Vec<Column<'_>> = steps.iter().map(|step| column_of(report, step)).collect();
        let mut columns: Vec<Column<'_>> = Vec::new();
        for column in &of {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        // In the order of their first steps.
        columns.sort_by_key(|column| column.platform);
        let mut nodes: Vec<Node> = Vec::new();
        for (column, name) in columns.iter().enumerate() {
            let members = (0..steps.len()).filter(|place| of[*place] == *name).collect::<Vec<_>>();
            let groups = grouped(report, &members, &of);
            nodes.extend(groups.into_iter().map(|steps| Node { steps, column, row: 0 }));
        }
        nodes.sort_by_key(|node| node.steps[0]);
        let mut node_of = vec![0; steps.len()];
        for (number, node) in nodes.iter().enumerate() {
            node.steps.iter().for_each(|place| node_of[*place] = number);
        }
        let places = places(steps);
        let mut edges = BTreeSet::new();
        for (place, step) in steps.iter().enumerate() {
            for from in step.after.iter().filter_map(|number| places.get(number)) {
                let edge = Edge { from: node_of[*from], to: node_of[place] };
                if edge.from != edge.to {
                    edges.insert(edge);
                }
            }
        }
        let mut layout = Self { columns, nodes, edges };
        layout.set_rows();
        layout
    }

    /// Gives each box a row below those it comes after, and below the one before it in its column.
    fn set_rows(&mut self) {
        let mut next_free = vec![0; self.columns.len()];
        for number in 0..self.nodes.len() {
            let before = self.edges.iter().filter(|edge| edge.to == number);
            let row = before.map(|edge| self.nodes[edge.from].row + 1).max().unwrap_or(0);
            let node = &mut self.nodes[number];
            node.row = row.max(next_free[node.column]);
            next_free[node.column] = node.row + 1;
        }
    }

    /// Whether the columns are of several platforms.
    fn has_platforms(&self) -> bool {
        self.columns.iter().any(|column| column.platform > 0)
    }

    /// Whether nothing stands between two boxes of one column.
    fn is_straight(&self, edge: Edge) -> bool {
        let (from, to) = (&self.nodes[edge.from], &self.nodes[edge.to]);
        let stands_between =
            |node: &Node| node.column == from.column && from.row < node.row && node.row < to.row;
        from.column == to.column && from.row < to.row && !self.nodes.iter().any(stands_between)
    }
}

/// Says in which column a step is.
fn column_of<'a>(report: &'a Report, step: &'a Step) -> Column<'a> {
    let platform = match step.targets.as_slice() {
        [target] => report.platforms.iter().position(|of| of.platform == *target),
        _ => None,
    };
    Column { platform: platform.map_or(0, |place| place + 1), stage: &step.stage }
}

/// The place of each step by its number.
fn places(steps: &[Step]) -> BTreeMap<usize, usize> {
    steps.iter().enumerate().map(|(place, step)| (step.number, place)).collect()
}

/// Puts the steps of a column into groups, each of which gets one box; `columns` are those of all
/// steps.
fn grouped(report: &Report, members: &[usize], columns: &[Column<'_>]) -> Vec<Vec<usize>> {
    let steps = &report.steps;
    let is_hit = |place: &usize| steps[*place].result == Verdict::Hit;
    if members.len() > 1 && members.iter().all(is_hit) {
        return vec![members.to_vec()];
    }
    let places = places(steps);
    // Steps that other columns read, or that read other columns.
    let mut is_joint = BTreeSet::new();
    for (place, step) in steps.iter().enumerate() {
        for from in step.after.iter().filter_map(|number| places.get(number)) {
            if columns[*from] != columns[place] {
                is_joint.extend([place, *from]);
            }
        }
    }
    let is_quiet = |place: usize| {
        let step = &steps[place];
        let follows = |cause: &Cause| matches!(cause, Cause::EarlierStep { .. });
        !is_joint.contains(&place)
            && step.result != Verdict::Failed
            && report.first_broken != Some(step.number)
            && step.causes.iter().all(follows)
    };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &place in members {
        let joins = groups.last().is_some_and(|group| {
            let last = group[group.len() - 1];
            is_quiet(last)
                && is_quiet(place)
                && steps[last].result == steps[place].result
                && steps[place].after == [steps[last].number]
        });
        match groups.last_mut() {
            Some(group) if joins => group.push(place),
            _ => groups.push(vec![place]),
        }
    }
    let mut all = Vec::new();
    for group in groups {
        match group.len() >= FOLDED_FROM {
            true => all.push(group),
            false => all.extend(group.into_iter().map(|place| vec![place])),
        }
    }
    all
}

/// Lanes that were given out in one gap, by who runs in them.
#[derive(Debug, Default, Clone)]
struct Lanes(Vec<(usize, Way)>);

/// What a lane is for: a line leaves a box through one that it shares with others of the same box,
/// and comes to a box through one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In(usize),
}

impl Lanes {
    fn lane(&mut self, from: usize, way: Way) -> usize {
        self.0.iter().position(|taken| *taken == (from, way)).unwrap_or_else(|| {
            self.0.push((from, way));
            self.0.len() - 1
        })
    }
}

/// The way of one line: lanes by gap and number.
#[derive(Debug, Clone, Copy)]
enum Route {
    /// Down to the next box of the column.
    Straight,
    /// Through one gap between columns.
    Beside { gap: usize, lane: usize },
    /// Through a gap, across above the row of the target, and through another gap.
    Across { out: (usize, usize), over: usize, into: (usize, usize) },
}

/// Gives each line a way. Gap `n` is to the right of column `n`; row gaps are above their rows.
fn routes(layout: &Layout<'_>) -> (Vec<(Edge, Route)>, Vec<Lanes>, Vec<Lanes>) {
    let rows = layout.nodes.iter().map(|node| node.row + 1).max().unwrap_or(1);
    let mut gaps = vec![Lanes::default(); layout.columns.len()];
    let mut overs = vec![Lanes::default(); rows];
    let mut routes = Vec::new();
    for &edge in &layout.edges {
        let (from, to) = (&layout.nodes[edge.from], &layout.nodes[edge.to]);
        let route = if layout.is_straight(edge) {
            Route::Straight
        } else if from.column == to.column || from.column + 1 == to.column {
            let lane = gaps[from.column].lane(edge.from, Way::Out);
            Route::Beside { gap: from.column, lane }
        } else {
            let out = (from.column, gaps[from.column].lane(edge.from, Way::Out));
            let over = overs[to.row].lane(edge.from, Way::Out);
            // From the right, to a column on the left.
            let gap = if from.column < to.column { to.column - 1 } else { to.column };
            let into = (gap, gaps[gap].lane(edge.from, Way::In(edge.to)));
            Route::Across { out, over, into }
        };
        routes.push((edge, route));
    }
    (routes, gaps, overs)
}

/// Where columns, rows and lanes are, in CSS pixels.
struct Places {
    node_width: usize,
    columns: Vec<usize>,
    rows: Vec<usize>,
    /// Whether a stage begins in a row, whose name stands above it.
    has_head: Vec<bool>,
    width: usize,
    height: usize,
}

impl Places {
    fn new(layout: &Layout<'_>, gaps: &[Lanes], overs: &[Lanes]) -> Self {
        let last = gaps.len().saturating_sub(1);
        // Behind the last column there is a gap only if lines run there.
        let gap = |column: usize| match (column == last, gaps[column].0.len()) {
            (true, 0) => 0,
            (_, lanes) => GAP_X + LANE * lanes,
        };
        let all: usize = (0..gaps.len()).map(gap).sum();
        let node_width = (GRAPH_WIDTH.saturating_sub(all) / gaps.len().max(1))
            .clamp(*NODE_WIDTH.start(), *NODE_WIDTH.end());
        let mut columns = Vec::new();
        let mut x = 2;
        for column in 0..gaps.len() {
            columns.push(x);
            x += node_width + gap(column);
        }
        let mut has_head = vec![false; overs.len()];
        let mut has_begun = vec![false; gaps.len()];
        for node in &layout.nodes {
            has_head[node.row] |= !std::mem::replace(&mut has_begun[node.column], true);
        }
        let mut rows = Vec::new();
        let mut y = if layout.has_platforms() { PLATFORM_HEAD } else { 0 };
        for (row, over) in overs.iter().enumerate() {
            let head = if has_head[row] { STAGE_HEAD } else { 0 };
            let least = if row == 0 { 0 } else { GAP_Y };
            y += head.max(least) + LANE * over.0.len();
            rows.push(y);
            y += NODE_HEIGHT;
        }
        Self { node_width, columns, rows, has_head, width: x + 2, height: y + 2 }
    }

    fn corner(&self, node: &Node) -> (usize, usize) {
        (self.columns[node.column], self.rows[node.row])
    }

    fn lane(&self, (gap, lane): (usize, usize)) -> usize {
        self.columns[gap] + self.node_width + GAP_X / 2 + LANE * lane
    }

    /// The height of a way across, which is above the names of stages that begin in its row.
    fn over(&self, row: usize, lane: usize) -> usize {
        let head = if self.has_head[row] { STAGE_HEAD } else { GAP_Y / 2 };
        self.rows[row].saturating_sub(head + LANE * lane)
    }

    fn path(&self, layout: &Layout<'_>, edge: Edge, route: Route) -> String {
        let (from, to) = (&layout.nodes[edge.from], &layout.nodes[edge.to]);
        let ((from_x, from_y), (to_x, to_y)) = (self.corner(from), self.corner(to));
        let (right, out_y, in_y) = (from_x + self.node_width, from_y + OUT_AT, to_y + IN_AT);
        // A line comes from the side on which its last lane is.
        let side = |lane: usize| if lane < to_x { to_x } else { to_x + self.node_width };
        match route {
            Route::Straight => {
                let x = from_x + self.node_width / 2;
                format!("M{x} {}V{to_y}", from_y + NODE_HEIGHT)
            }
            Route::Beside { gap, lane } => {
                let x = self.lane((gap, lane));
                format!("M{right} {out_y}H{x}V{in_y}H{}", side(x))
            }
            Route::Across { out, over, into } => {
                let (out, over) = (self.lane(out), self.over(to.row, over));
                let into = self.lane(into);
                format!("M{right} {out_y}H{out}V{over}H{into}V{in_y}H{}", side(into))
            }
        }
    }
}

/// Draws the graph of the steps.
pub(super) fn draw(out: &mut String, report: &Report) {
    let layout = Layout::new(report);
    let (routes, gaps, overs) = routes(&layout);
    let places = Places::new(&layout, &gaps, &overs);
    let (width, height) = (places.width, places.height);
    // Shrunk to the page as far as it can be read, then scrolled.
    let least = width * 7 / 10;
    let _ = writeln!(
        out,
        "<div class=\"graph\"><svg width=\"{width}\" style=\"min-width:{least}px\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"graph of the steps\">\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"context-stroke\"/></marker></defs>"
    );
    platforms(out, report, &layout, &places);
    heads(out, report, &layout, &places);
    for (edge, route) in routes {
        let source = &report.steps[layout.nodes[edge.from].steps[0]];
        let path = places.path(&layout, edge, route);
        let class = class(source);
        let _ =
            writeln!(out, "<path class=\"edge {class}\" d=\"{path}\" marker-end=\"url(#tip)\"/>");
    }
    for node in &layout.nodes {
        draw_node(out, report, node, &places);
    }
    out.push_str("</svg></div>\n");
}

/// How many characters of a width fit into a box.
fn chars(places: &Places) -> usize {
    (places.node_width - 20) * 10 / CHAR_WIDTH
}

/// The names of the platforms, each above its columns, with a line below it.
fn platforms(out: &mut String, report: &Report, layout: &Layout<'_>, places: &Places) {
    if !layout.has_platforms() {
        return;
    }
    for platform in 0..=report.platforms.len() {
        let is_of = |column: &Column<'_>| column.platform == platform;
        let first = layout.columns.iter().position(is_of);
        let Some((first, last)) = first.zip(layout.columns.iter().rposition(is_of)) else {
            continue;
        };
        let (left, right) = (places.columns[first], places.columns[last] + places.node_width);
        let name = match platform.checked_sub(1).and_then(|place| report.platforms.get(place)) {
            Some(of) => of.platform.as_str(),
            None if report.platforms.len() == 2 => "both platforms",
            None => "several platforms",
        };
        let chars = (right - left) * 10 / CHAR_WIDTH;
        let _ = writeln!(
            out,
            "<text class=\"platform\" x=\"{left}\" y=\"14\">{}</text>\
             <path class=\"platform\" d=\"M{left} 21H{right}\"/>",
            safe(&shortened(&clean(name), chars))
        );
    }
}

/// The names of the stages, each above its first box.
fn heads(out: &mut String, report: &Report, layout: &Layout<'_>, places: &Places) {
    let chars = chars(places);
    for (column, Column { stage, .. }) in layout.columns.iter().enumerate() {
        let members = || layout.nodes.iter().filter(|node| node.column == column);
        let Some(first) = members().min_by_key(|node| node.row) else { continue };
        let (x, top) = places.corner(first);
        let reads = members()
            .flat_map(|node| &node.steps)
            .flat_map(|place| report.steps[*place].reads.iter().map(String::as_str));
        let from: Vec<&str> = reads.filter(|name| *name != "context").take(1).collect();
        let _ = write!(
            out,
            "<text class=\"stage\" x=\"{x}\" y=\"{}\">{}</text>",
            top - 26,
            safe(&shortened(&stage_name(stage), chars))
        );
        if let [from] = from[..] {
            let _ = write!(
                out,
                "<text class=\"sub\" x=\"{x}\" y=\"{}\">from {}</text>",
                top - 9,
                safe(&shortened(familiar(from), chars - "from ".len()))
            );
        }
        out.push('\n');
    }
}

fn draw_node(out: &mut String, report: &Report, node: &Node, places: &Places) {
    let (x, y) = places.corner(node);
    let steps: Vec<&Step> = node.steps.iter().map(|place| &report.steps[*place]).collect();
    let first = steps[0];
    let is_first_broken = report.first_broken == Some(first.number);
    let broken = if is_first_broken { " broken" } else { "" };
    let instruction = first.name.split_once("] ").map_or(first.name.as_str(), |(_, rest)| rest);
    let (folded, name) = match steps.len() {
        1 => ("", clean(instruction)),
        count => (" folded", format!("{count} steps, from line {}", first.line).into()),
    };
    let titles: Vec<String> = steps.iter().map(|step| safe(&step.name)).collect();
    let costs = steps.iter().filter(|step| step.result != Verdict::NotReached);
    let costs: Vec<u64> = costs.filter_map(|step| step.run_us).collect();
    let cost = if costs.is_empty() { String::new() } else { seconds(costs.iter().sum()) };
    let _ = writeln!(
        out,
        "<a href=\"#s{}\"><g class=\"node {}{broken}{folded}\"><title>{}</title>\
         <rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>\
         <text x=\"{}\" y=\"{}\">{}</text><text class=\"sub\" x=\"{}\" y=\"{}\">{}{}</text>\
         <text class=\"sub\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{cost}</text></g></a>",
        first.number,
        class(first),
        titles.join("\n"),
        places.node_width,
        x + 10,
        y + 19,
        safe(&shortened(&name, chars(places))),
        x + 10,
        y + 36,
        word(report, first),
        if is_first_broken { " – first" } else { "" },
        x + places.node_width - 10,
        y + 36,
    );
}
