//! Each sentence of a report: a build in which it is true, and one near it that must not have it.
//!
//! The sentences are read out of the source, so that one without its two builds fails.

mod pairs;

use super::report::explain;
use super::report_tests::{chain, first, hit, kept, made, output, ran};
use super::text::{Colour, render};
use crate::cache::Output;
use crate::history::{Basis, BuildId, BuildRecord, Miss, Origin, Outcome, StepOutcome, StepRecord};
use crate::oci::Digest;
use crate::store::TimesId;
use pairs::PAIRS;
use std::collections::BTreeSet;

const APT: &str = "build: RUN apt-get install -y gcc";
const COPY: &str = "build: COPY . /src";
const MAKE: &str = "build: RUN make";
const OLD: (&str, Option<&[u8]>) = ("debian:12", Some(b"old"));

/// What is explained, and by what. The build before made four steps; all of them hit now.
struct World {
    now: BuildRecord,
    before: Vec<BuildRecord>,
    basis: Option<Basis>,
}

impl World {
    fn new() -> Self {
        let mut now = first();
        now.id = BuildId::at(2);
        now.steps.iter_mut().for_each(|step| step.outcome = hit(9));
        Self { now, before: vec![first()], basis: None }
    }

    fn miss(&mut self, place: usize, why: Miss) -> &mut StepRecord {
        let step = &mut self.now.steps[place];
        (step.outcome, step.miss) = (ran(5), Some(why));
        step
    }

    /// A step that ran since its inputs are others.
    fn edited(&mut self, place: usize, line: &str, inputs: &[&str]) -> &mut StepRecord {
        let parent = self.now.steps[place].parent;
        self.now.steps[place] = made(place, line, inputs, place as u8 + 1, ran(5));
        let step = self.miss(place, Miss::Key);
        step.parent = parent;
        step
    }

    fn earlier(&mut self, place: usize) -> &mut StepRecord {
        &mut self.before[0].steps[place]
    }

    /// The inputs of a step then and now.
    fn inputs(&mut self, place: usize, line: &str, old: &[&str], new: &[&str]) {
        *self.earlier(place) = made(place, line, old, place as u8 + 1, ran(5));
        self.edited(place, line, new);
    }

    /// A step that starts from other files than before.
    fn on_others(&mut self, place: usize, parent: u8) {
        self.miss(place, Miss::Parent).parent = Some(chain(parent));
    }

    fn would(&mut self, place: usize, outcome: StepOutcome) {
        let step = &mut self.now.steps[place];
        (step.outcome, step.parent, step.output) = (outcome, None, None);
        self.now.outcome = Outcome::Predicted;
    }

    fn said(mut self, change: fn(&mut Self)) -> String {
        change(&mut self);
        let mut report = explain(&self.now, &self.before, &kept());
        report.basis = self.basis;
        // Lines that were broken to fit are one again.
        render(&report, Colour::Plain).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn with_times(output: Output, n: u8) -> Output {
    Output { set_times: Some(TimesId::from_bytes([n; 32])), ..output }
}

fn depends(number: usize, builds: &[i64]) -> StepOutcome {
    let builds = builds.iter().map(|at| BuildId::at(*at).to_string()).collect();
    StepOutcome::DependsOn { number, builds }
}

fn would_copy(w: &mut World) {
    w.edited(1, COPY, &["files .=tree:5"]);
    w.would(1, StepOutcome::WouldRun);
}

/// Edits the ENV or ARG that a step has.
fn variable(w: &mut World, old: &[&str], new: &[&str]) {
    w.inputs(0, APT, &[&["argv=apt"], old].concat(), &[&["argv=apt"], new].concat());
}

fn files(w: &mut World, old: u8, new: u8) {
    w.inputs(1, COPY, &[&format!("files .=tree:{old}")], &[&format!("files .=tree:{new}")]);
}

fn base(w: &mut World, old: (&str, Option<&[u8]>), new: (&str, Option<&[u8]>)) {
    let origin = |(name, digest): (&str, Option<&[u8]>)| Origin::Image {
        name: format!("docker.io/library/{name}"),
        digest: digest.map(Digest::of),
    };
    w.earlier(0).from = origin(old);
    w.now.steps[0].from = origin(new);
    w.on_others(0, 50);
}

/// The copy was changed; the command behind it ran again.
fn behind_copy(w: &mut World, tree: u8, run: &str, made_files: u8) {
    *w.earlier(2) = made(2, run, &["argv=x"], 3, ran(5));
    w.edited(1, COPY, &[&format!("files .=tree:{tree}")]).output = Some(output(77));
    w.edited(2, run, &["argv=x"]).miss = Some(Miss::Parent);
    let step = &mut w.now.steps[2];
    (step.parent, step.output) = (Some(chain(77)), Some(output(made_files)));
}

#[test]
fn each_sentence_is_said_where_it_is_true_and_not_of_a_build_near_it() {
    let mut wrong = Vec::new();
    for (sentences, shown, is_true, near) in PAIRS {
        let (with, without) = (World::new().said(*is_true), World::new().said(*near));
        if !with.contains(shown) {
            wrong.push(format!("{sentences:?}: no `{shown}` in\n{with}"));
        }
        if without.contains(shown) {
            wrong.push(format!("{sentences:?}: `{shown}` in\n{without}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The texts of a source that a report may show: of two words at least.
fn sentences(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let code = source.lines().filter(is_code).collect::<Vec<_>>().join("\n").replace("'\"'", "");
    let mut found = BTreeSet::new();
    let mut parts = code.split('"');
    parts.next();
    while let Some(text) = parts.next() {
        let mut text = text.to_owned();
        while text.ends_with('\\') {
            text.push('"');
            text.push_str(parts.next().unwrap());
        }
        parts.next();
        // A text that goes on in the next line.
        let mut pieces = text.split("\\\n");
        let mut whole = pieces.next().unwrap().to_owned();
        pieces.for_each(|piece| whole.push_str(piece.trim_start()));
        let mut is_in_braces = false;
        let letters: String = whole
            .chars()
            .filter(|c| {
                is_in_braces = *c == '{' || is_in_braces && *c != '}';
                !is_in_braces && (c.is_alphabetic() || *c == ' ')
            })
            .collect();
        if letters.trim().chars().count() > 1 && whole.trim().contains(' ') {
            found.insert(whole);
        }
    }
    found
}

#[test]
fn every_sentence_has_its_two_builds() {
    let suggest = include_str!("suggest.rs");
    let mut all = sentences(include_str!("describe.rs"));
    all.extend(sentences(include_str!("text.rs")));
    all.extend(sentences(&suggest[suggest.find("impl Facts").unwrap()..]));
    // What records are searched for.
    all.remove("arg {name}");
    let tested: BTreeSet<String> =
        PAIRS.iter().flat_map(|pair| pair.0).map(|text| (*text).to_owned()).collect();
    let untested: Vec<_> = all.difference(&tested).collect();
    assert!(untested.is_empty(), "no pair of builds in this file for {untested:#?}");
    let gone: Vec<_> = tested.difference(&all).collect();
    assert!(gone.is_empty(), "no such sentence is left: {gone:#?}");
}
