//! A report as one self-contained page: the graph, the times, the causes.
//!
//! No script, no font, no address: the page opens from a CI artifact, an e-mail, or a disk, and a
//! content security policy in it forbids anything else. All that comes from a build is escaped.

mod graph;

use super::compare::Cause;
use super::describe::{self, Ink, Line, clean, short};
use super::redact;
use super::report::{Report, Step, Verdict, seconds};
use super::text::in_words;
use crate::history::Outcome;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Text that is safe between tags and in quoted attributes.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in crate::show::lines(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Cleans and escapes.
fn safe(text: &str) -> String {
    Escaped(&clean(text)).to_string()
}

/// Renders a report as an HTML page.
pub fn render(report: &Report) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let title = match &report.build {
        Some(build) => format!("build {build}"),
        None => "a build now".to_owned(),
    };
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{} – builder explain</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        safe(&title)
    );
    header(&mut out, report, &title);
    summary(&mut out, report);
    verdict(&mut out, report);
    tiles(&mut out, report);
    facts(&mut out, report);
    legend(&mut out, report);
    suggestions(&mut out, report);
    if !report.steps.is_empty() {
        out.push_str("<h2>Steps and what they read</h2>\n");
        graph::draw(&mut out, report);
    }
    times(&mut out, report);
    out.push_str("<h2>Every step, and why</h2>\n");
    for step in &report.steps {
        self::step(&mut out, report, step);
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn header(out: &mut String, report: &Report, title: &str) {
    let (class, text) = match &report.outcome {
        Outcome::Running => ("maybe", "still running".to_owned()),
        Outcome::Ok => ("hit", "done".to_owned()),
        Outcome::Failed { message } => {
            ("failed", format!("failed: {}", redact::addresses(message)))
        }
        Outcome::Cancelled => ("maybe", "cancelled".to_owned()),
        Outcome::Interrupted => ("failed", "killed before its end".to_owned()),
        Outcome::Predicted => ("maybe", "prediction: nothing was run or written".to_owned()),
    };
    let _ = writeln!(
        out,
        "<header><h1>{}</h1><p class=\"outcome {class}\">{}</p></header>",
        safe(title),
        safe(&text)
    );
}

/// What the build was for, and when.
fn facts(out: &mut String, report: &Report) {
    out.push_str("<dl class=\"facts-of-build\">\n");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", safe(value));
    };
    row("context", &report.context);
    row("Dockerfile", &report.dockerfile);
    row("target", &describe::stage_name(&report.target));
    match report.platforms.is_empty() {
        true => row("platform", &report.platform),
        false => row("platforms", &report.platform.replace(',', ", ")),
    }
    if let Ok(started) = jiff::Timestamp::from_millisecond(report.started_ms) {
        row("started", &started.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    }
    if let Some(finished) = report.finished_ms {
        let took = u64::try_from(finished - report.started_ms).unwrap_or(0) * 1000;
        row("took", &seconds(took));
    }
    if !report.tags.is_empty() {
        row("image", &report.tags.join(", "));
    }
    if let Some(earlier) = &report.compared_with {
        row("compared with", &format!("build {earlier}{}", describe::basis(report)));
    }
    out.push_str("</dl>\n");
}

fn tiles(out: &mut String, report: &Report) {
    let totals = &report.totals;
    let is_prediction = report.outcome == Outcome::Predicted;
    let ran = if is_prediction { "would run" } else { "ran" };
    out.push_str("<ul class=\"tiles\">\n");
    let mut tile = |class: &str, value: String, name: &str| {
        let _ = writeln!(out, "<li class=\"{class}\"><b>{value}</b>{name}</li>");
    };
    tile("hit", totals.hits.to_string(), "cached");
    tile("miss", (totals.misses - totals.failed).to_string(), ran);
    if totals.failed > 0 {
        tile("failed", totals.failed.to_string(), "failed");
    }
    if totals.unknown > 0 {
        tile("maybe", totals.unknown.to_string(), "may run");
    }
    if totals.spent_us > 0 {
        tile("miss", seconds(totals.spent_us), if is_prediction { "to spend" } else { "spent" });
    }
    if totals.unknown_us > 0 {
        tile("maybe", seconds(totals.unknown_us), "may be spent");
    }
    if totals.saved_us > 0 {
        tile("hit", seconds(totals.saved_us), "saved by the cache");
    }
    out.push_str("</ul>\n");
}

/// What happened, in a sentence or two.
fn summary(out: &mut String, report: &Report) {
    let totals = &report.totals;
    let all = report.steps.len();
    let is_prediction = report.outcome == Outcome::Predicted;
    let first = report.first_broken.and_then(|n| report.steps.iter().find(|step| step.number == n));
    out.push_str("<p class=\"summary\">");
    let _ = match (first, is_prediction) {
        _ if all == 0 => write!(out, "The build has no steps that make files."),
        (None, true) => write!(out, "Every step would be taken from the cache."),
        (None, false) if totals.hits == all => {
            write!(out, "Every step was taken from the cache.")
        }
        (None, false) => write!(out, "{} of {all} steps were taken from the cache.", totals.hits),
        (Some(first), _) => {
            let verb = if is_prediction { "would run" } else { "ran" };
            let begins = if is_prediction { "It would begin" } else { "It began" };
            write!(
                out,
                "{} of {all} steps {verb}. {begins} with <a href=\"#s{}\">{}</a>, line {}.",
                totals.misses,
                first.number,
                safe(short(&first.name)),
                first.line
            )
        }
    };
    out.push_str("</p>\n");
    for of in &report.platforms {
        let text = in_words(&of.totals, of.steps, is_prediction);
        let _ = writeln!(out, "<p class=\"summary\">{}: {}.</p>", safe(&of.platform), safe(&text));
    }
}

/// What the colours mean.
fn legend(out: &mut String, report: &Report) {
    out.push_str("<p class=\"legend\">");
    let verdicts: BTreeSet<(&str, &str, &str)> = report
        .steps
        .iter()
        .map(|step| {
            let meaning = match step.result {
                Verdict::Hit => "its result was in the cache",
                Verdict::Miss => "no result was used; the causes stand below it",
                Verdict::Failed => "it did not succeed",
                Verdict::Unknown => "it hits only if a step before it makes the same files again",
                Verdict::NotReached => "the build ended before it was done",
            };
            (class(step), word(report, step), meaning)
        })
        .collect();
    for (class, word, meaning) in verdicts {
        let _ = write!(
            out,
            "<span class=\"{class}\"><span class=\"badge\">{word}</span> {meaning}</span>"
        );
    }
    out.push_str("</p>\n");
}

/// The first broken step with its causes: what a reader came for.
fn verdict(out: &mut String, report: &Report) {
    let Some(first) =
        report.first_broken.and_then(|n| report.steps.iter().find(|step| step.number == n))
    else {
        return;
    };
    let lead = if report.compared_with.is_some() { "First broken step" } else { "First step" };
    let _ = writeln!(
        out,
        "<section class=\"first\"><h2>{lead}: <a href=\"#s{}\">{}</a> <small>line {}</small></h2>",
        first.number,
        safe(&first.name),
        first.line
    );
    causes(out, report, &first.causes);
    output(out, first);
    if let Some(failed) = report
        .steps
        .iter()
        .find(|step| step.result == Verdict::Failed && step.number != first.number)
    {
        let _ = writeln!(
            out,
            "<h2>Failed step: <a href=\"#s{}\">{}</a> <small>line {}</small></h2>",
            failed.number,
            safe(&failed.name),
            failed.line
        );
        output(out, failed);
    }
    out.push_str("</section>\n");
}

fn suggestions(out: &mut String, report: &Report) {
    if report.suggestions.is_empty() {
        return;
    }
    out.push_str("<h2>What would avoid it</h2>\n<ul class=\"hints\">\n");
    for suggestion in &report.suggestions {
        let saves = match suggestion.saves_us {
            Some(us) if us > 0 => format!("; saves {}", seconds(us)),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "<li>{} <small>{}{saves}</small></li>",
            safe(&suggestion.text),
            safe(&suggestion.evidence)
        );
    }
    out.push_str("</ul>\n");
}

fn class(step: &Step) -> &'static str {
    match step.result {
        Verdict::Hit => "hit",
        Verdict::Miss => "miss",
        Verdict::Failed => "failed",
        Verdict::Unknown => "maybe",
        Verdict::NotReached => "none",
    }
}

fn word(report: &Report, step: &Step) -> &'static str {
    match step.result {
        Verdict::Hit => "cached",
        Verdict::Miss if report.outcome == Outcome::Predicted => "would run",
        Verdict::Miss => "ran",
        Verdict::Failed => "failed",
        Verdict::Unknown => "may run",
        Verdict::NotReached => "not done",
    }
}

/// Bars from begin to end, for a build that was run.
fn times(out: &mut String, report: &Report) {
    let ran: Vec<&Step> = report
        .steps
        .iter()
        .filter(|step| matches!(step.result, Verdict::Miss | Verdict::Failed) && step.wall_us > 0)
        .collect();
    let end = ran.iter().map(|step| step.began_us + step.wall_us).max().unwrap_or(0);
    if end == 0 {
        return;
    }
    let _ = writeln!(
        out,
        "<h2>When they ran <small>0 to {} after the start</small></h2>\n<div class=\"times\">",
        seconds(end)
    );
    let percent = |us: u64| us as f64 * 100.0 / end as f64;
    for step in ran {
        // Long enough to be seen.
        let width = percent(step.wall_us).max(0.4);
        let left = percent(step.began_us).min(100.0 - width);
        let _ = writeln!(
            out,
            "<a href=\"#s{}\" title=\"{}\"><span class=\"name\">{}</span>\
             <span class=\"lane\"><span class=\"bar {}\" style=\"left:{left:.2}%;width:{width:.2}%\">\
             </span></span><span class=\"cost\">{}</span></a>",
            step.number,
            safe(&step.name),
            safe(&step.name),
            class(step),
            seconds(step.wall_us)
        );
    }
    out.push_str("</div>\n");
}

fn step(out: &mut String, report: &Report, step: &Step) {
    let is_first = report.first_broken == Some(step.number);
    let is_open = if step.result == Verdict::Hit && step.causes.is_empty() { "" } else { " open" };
    let cost = step.run_us.filter(|_| step.result != Verdict::NotReached).map(seconds);
    let _ = writeln!(
        out,
        "<details id=\"s{}\" class=\"{}\"{is_open}><summary><span class=\"badge\">{}</span>\
         <code>{}</code><span class=\"cost\">{}</span></summary>",
        step.number,
        class(step),
        word(report, step),
        safe(&step.name),
        cost.unwrap_or_default()
    );
    out.push_str("<p class=\"facts\">");
    let _ = write!(out, "line {}", step.line);
    if let Some(build) = &step.from_build {
        let _ = write!(out, ", taken from build {}", safe(build));
    }
    for number in &step.after {
        if let Some(from) = report.steps.iter().find(|step| step.number == *number) {
            let name = safe(short(&from.name));
            let _ = write!(out, ", after <a href=\"#s{number}\">{name}</a>");
        }
    }
    for name in &step.reads {
        let _ = write!(out, ", reads {}", safe(name));
    }
    if let Some(exit) = step.exit {
        let _ = write!(out, ", exit status {exit}");
    }
    out.push_str("</p>\n");
    if is_first && report.compared_with.is_some() {
        out.push_str("<p class=\"mark\">first broken step</p>\n");
    }
    causes(out, report, &step.causes);
    if let Some((ink, text)) = describe::remade(step) {
        let class = if ink == Ink::Green { "same" } else { "facts" };
        let _ = writeln!(out, "<p class=\"{class}\">It {text}.</p>");
    }
    output(out, step);
    out.push_str("</details>\n");
}

/// The last lines that a failed step wrote.
fn output(out: &mut String, step: &Step) {
    if !step.output.is_empty() {
        let lines: Vec<String> = step.output.iter().map(|line| safe(line)).collect();
        let _ = writeln!(out, "<pre class=\"output\">{}</pre>", lines.join("\n"));
    }
}

fn causes(out: &mut String, report: &Report, causes: &[Cause]) {
    if causes.is_empty() {
        return;
    }
    out.push_str("<div class=\"causes\">\n");
    for cause in causes {
        for (depth, line) in describe::cause(report, cause) {
            let _ = write!(out, "<p class=\"d{depth}\">");
            self::line(out, &line);
            out.push_str("</p>\n");
        }
    }
    out.push_str("</div>\n");
}

fn line(out: &mut String, line: &Line) {
    for (ink, text) in &line.0 {
        let text = Escaped(text);
        let _ = match ink {
            Ink::Plain => write!(out, "{text}"),
            Ink::Bold => write!(out, "<b>{text}</b>"),
            Ink::Dim => write!(out, "<small>{text}</small>"),
            Ink::Red | Ink::Removed => write!(out, "<del>{text}</del>"),
            Ink::Green | Ink::Added => write!(out, "<ins>{text}</ins>"),
            Ink::Yellow => write!(out, "<em>{text}</em>"),
        };
    }
}

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
mod tests {
    use super::super::listing::Listings;
    use super::super::report;
    use super::super::testing::{build, step};
    use super::*;
    use crate::cache::{Cost, TreeEntry, TreeId};
    use crate::history::{Outcome, StepOutcome};

    struct NoListings;

    impl Listings for NoListings {
        fn listing(&self, _: &TreeId) -> Option<Vec<TreeEntry>> {
            None
        }
    }

    fn page(lines: &[(&str, &str)]) -> String {
        let mut steps: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(number, (stage, text))| step(number, stage, text))
            .collect();
        for step in &mut steps {
            step.outcome = StepOutcome::Ran { cost: Cost { wall_us: 5, ..Cost::default() } };
            step.wall_us = 5;
        }
        let mut build = build(7, steps);
        build.outcome = Outcome::Failed { message: "<b>".into() };
        render(&report::explain(&build, &[], &NoListings))
    }

    #[test]
    fn what_comes_from_a_build_is_escaped() {
        let page = page(&[("<script>", "RUN echo '<img src=x onerror=\"alert(1)\">' && \x1b[2J")]);
        assert!(!page.contains("<img") && !page.contains("<script"), "{page}");
        assert!(!page.contains('\x1b'));
        assert!(page.contains("&lt;img src=x"));
        assert!(page.contains("failed: &lt;b&gt;"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page(&[("a", "RUN true")]);
        let page = page.replace("url(#tip)", "");
        for mark in ["http:", "https:", "src=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(mark), "{mark}");
        }
    }

    #[test]
    fn every_step_has_a_place_of_its_own_and_every_link_a_target() {
        let lines: Vec<_> =
            (0..9).map(|n| if n % 2 == 0 { ("a", "RUN x") } else { ("b", "RUN y") }).collect();
        let page = page(&lines);
        for n in 0..9 {
            assert!(page.contains(&format!("<details id=\"s{n}\"")));
            assert!(page.contains(&format!("<a href=\"#s{n}\"><g")));
        }
        let rects: Vec<&str> =
            page.split("<rect ").skip(1).map(|r| r.split(" width").next().unwrap()).collect();
        let mut unique = rects.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), rects.len());
    }

    #[test]
    fn each_platform_has_columns_of_its_own_right_of_what_all_need() {
        let lines = [("build", "a,b"), ("app", "a"), ("app", "b"), ("build", "b"), ("app", "b")];
        let of = |(number, (stage, targets)): (usize, &(&str, &str))| {
            let mut step = step(number, stage, "RUN x");
            step.targets = targets.split(',').map(str::to_owned).collect();
            step.outcome = StepOutcome::Ran { cost: Cost::default() };
            step
        };
        let mut build = build(7, lines.iter().enumerate().map(of).collect());
        build.about.platform = "a,b".into();
        let page = render(&report::explain(&build, &[], &NoListings));
        let left = |class: &str, text: &str| -> Vec<usize> {
            let begins = format!("<text class=\"{class}\" x=\"");
            let found = page.split(begins.as_str()).skip(1);
            let found = found.filter(|rest| rest.contains(&format!(">{text}</text>")));
            let found = found.filter(|rest| rest.find('<') == rest.find("</text>"));
            found
                .filter(|rest| rest[rest.find('>').unwrap() + 1..].starts_with(text))
                .map(|rest| rest[..rest.find('"').unwrap()].parse().unwrap())
                .collect()
        };
        let (both, a, b) =
            (left("platform", "both platforms"), left("platform", "a"), left("platform", "b"));
        assert!(both.len() == 1 && both < a && a < b, "{both:?} {a:?} {b:?}");
        let (builds, apps) = (left("stage", "build"), left("stage", "app"));
        assert_eq!(builds.len() + apps.len(), 4, "{builds:?} {apps:?}");
        let all: BTreeSet<usize> = builds.into_iter().chain(apps).collect();
        let all: Vec<usize> = all.into_iter().collect();
        assert_eq!((all[0], all[1], all[2]), (both[0], a[0], b[0]));
        assert!(page.contains("<dt>platforms</dt><dd>a, b</dd>"));
        assert!(page.contains("a: 2 of 2 steps ran"));
    }

    #[test]
    fn tags_are_closed() {
        let page = page(&[("a", "RUN x"), ("b", "COPY <&> /")]);
        for tag in [
            "main", "header", "dl", "details", "summary", "svg", "g", "div", "ul", "p", "a", "text",
        ] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
