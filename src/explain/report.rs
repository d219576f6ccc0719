//! What a build did, or would do, and why: the model behind all forms of `builder explain`.

use super::compare::{self, Cause, Evicted, NoRecord};
use super::listing::Listings;
use super::platforms::{self, OfPlatform};
use super::suggest::{self, Suggestion};
use super::{align, redact};
use crate::history::{Basis, BuildRecord, Miss, Origin, Outcome, StepOutcome, StepRecord};
use crate::store::ChainId;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// The number of the JSON form, `docs/explain.md`. Fields may be added without a new number.
pub const SCHEMA_VERSION: u32 = 1;

/// A build, explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub version: u32,
    /// The build; none for a prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The nearest earlier build, with which it was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<String>,
    /// What that build and this one have in common.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<i64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The context.
    pub context: String,
    /// The Dockerfile.
    pub dockerfile: String,
    /// The stage that was built.
    pub target: String,
    /// The platform; several with commas between them.
    pub platform: String,
    /// Of a build for several platforms: each by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<OfPlatform>,
    /// The names of the image.
    pub tags: Vec<String>,
    /// The digest of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The steps, each after all that it reads.
    pub steps: Vec<Step>,
    /// The number of the first step that missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_broken: Option<usize>,
    /// What it cost and saved.
    pub totals: Totals,
    /// What would avoid the misses, where the records support it.
    pub suggestions: Vec<Suggestion>,
}

/// One step, explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its number, from 0.
    pub number: usize,
    /// `[build 2/5] RUN make`.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// The platform that it is on, where known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Of a build for several platforms: those whose images need it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Its text in the Dockerfile.
    pub instruction: String,
    /// Its first line in the Dockerfile, from 1.
    pub line: u32,
    /// Its result.
    pub result: Verdict,
    /// For a hit, the build that ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_build: Option<String>,
    /// For a miss, why; for what is unknown, on what it depends.
    pub causes: Vec<Cause>,
    /// The earlier build that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<String>,
    /// For one that ran and whose earlier self is known: whether both made the same files on the
    /// same files, so that what follows was not disturbed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_same_files: Option<bool>,
    /// What it made, beside what its earlier self made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remade: Option<Remade>,
    /// For one that made the same files on top of others: what changed below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<Cause>,
    /// Where it failed: its exit status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// Where its command ran emulated in this build: the emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<String>,
    /// The last lines of its output, of a failed one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// The numbers of the steps whose files it starts from or reads, in order.
    pub after: Vec<usize>,
    /// The images and contexts that it starts from or reads.
    pub reads: Vec<String>,
    /// When it began, in microseconds after the build.
    pub began_us: u64,
    /// How long it took in this build, in microseconds.
    pub wall_us: u64,
    /// What it costs when it runs, in microseconds: measured in this build, or the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_us: Option<u64>,
}

/// Result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A record was used.
    Hit,
    /// It ran, or would run.
    Miss,
    /// It ran and failed.
    Failed,
    /// In a prediction: known only once an earlier step has run.
    Unknown,
    /// The build ended before it.
    NotReached,
}

/// What a step that ran again made, beside what it made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remade {
    /// The same files on the same files.
    Same,
    /// The same files, on top of other ones.
    OnOthers,
    /// The same files with other times, which it set.
    OtherTimes,
    /// Other files.
    Other,
}

/// The sum of the steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Steps that hit.
    pub hits: usize,
    /// Steps that ran or would run, failed ones included.
    pub misses: usize,
    /// Those of them that failed.
    pub failed: usize,
    /// Those of them whose cost is not known, since they never ran to their end.
    pub unmeasured: usize,
    /// Steps that would run only if an earlier one makes other files.
    pub unknown: usize,
    /// Microseconds spent (or to be spent, by the last time) in misses, one after the other.
    pub spent_us: u64,
    /// Microseconds that the unknown steps would cost.
    pub unknown_us: u64,
    /// Microseconds that the hits cost when they ran.
    pub saved_us: u64,
}

/// Explains `build` by the builds `before` it of the same place, newest first.
///
/// `before` may be empty; more than one helps where the newest did not reach a step.
pub fn explain(build: &BuildRecord, before: &[BuildRecord], listings: &dyn Listings) -> Report {
    let mut explainer = Explainer {
        build,
        before: before
            .iter()
            .map(|earlier| (earlier, align::counterparts(build, earlier)))
            .collect(),
        listings,
    };
    // The nearest first; of equally near ones the newest.
    explainer
        .before
        .sort_by_cached_key(|(earlier, places)| Reverse(nearness(build, earlier, places)));
    let compared_with = explainer.before.first().map(|(earlier, _)| earlier.id.to_string());
    let mut steps: Vec<Step> = Vec::with_capacity(build.steps.len());
    for place in 0..build.steps.len() {
        let step = explainer.step(place, &steps);
        steps.push(step);
    }
    keep_evidence_of_hits(&mut steps);
    let totals = totals(steps.iter());
    let platforms = platforms::each(build, &steps);
    let suggestions = suggest::suggestions(build, &steps, before, listings);
    let about = &build.about;
    Report {
        version: SCHEMA_VERSION,
        build: (build.outcome != Outcome::Predicted).then(|| build.id.to_string()),
        compared_with,
        basis: None,
        started_ms: about.started_ms,
        finished_ms: build.finished_ms,
        outcome: build.outcome.clone(),
        context: redact::addresses(&about.context).into_owned(),
        dockerfile: about.dockerfile.clone(),
        target: about.target.clone(),
        platform: about.platform.clone(),
        platforms,
        tags: about.tags.clone(),
        image: build.image.map(|digest| digest.to_string()),
        first_broken: first_broken(steps.iter()),
        steps,
        totals,
        suggestions,
    }
}

struct Explainer<'a> {
    build: &'a BuildRecord,
    /// Earlier builds, the nearest first, each with the counterparts of our steps.
    before: Vec<(&'a BuildRecord, Vec<Option<usize>>)>,
    listings: &'a dyn Listings,
}

impl<'a> Explainer<'a> {
    fn step(&self, place: usize, done: &[Step]) -> Step {
        let now = &self.build.steps[place];
        let earlier = self.earlier(place);
        let (result, from_build, exit) = match &now.outcome {
            StepOutcome::Hit { build, .. } => (Verdict::Hit, Some(build.clone()), None),
            StepOutcome::Ran { .. } | StepOutcome::WouldRun => (Verdict::Miss, None, None),
            StepOutcome::Failed { exit, .. } => (Verdict::Failed, None, *exit),
            StepOutcome::DependsOn { .. } => (Verdict::Unknown, None, None),
            StepOutcome::NotReached => (Verdict::NotReached, None, None),
        };
        let causes = match (result, earlier) {
            (Verdict::NotReached, _) | (Verdict::Hit, None) => Vec::new(),
            (Verdict::Hit, Some(earlier)) => self.differences(now, earlier, done),
            _ => self.causes(place, earlier, done),
        };
        let remade = match &now.outcome {
            StepOutcome::Ran { .. } => earlier.and_then(|earlier| self.remade(now, earlier)),
            _ => None,
        };
        let below = match (remade, earlier) {
            (Some(Remade::OnOthers), Some((build, before))) => {
                self.other_files(now, build, before, done)
            }
            _ => None,
        };
        let run_us = match &now.outcome {
            StepOutcome::Failed { .. } => Some(now.wall_us),
            _ => now.run_us().or_else(|| self.last_cost(place)),
        };
        let origins = || std::iter::once(&now.from).chain(&now.reads);
        let mut after: Vec<usize> = origins().filter_map(number).collect();
        after.sort_unstable();
        after.dedup();
        let reads: BTreeSet<String> = origins()
            .filter_map(|origin| match origin {
                Origin::Image { name, .. } => Some(name.clone()),
                Origin::Context { name } if name.is_empty() => Some("context".to_owned()),
                Origin::Context { name } => Some(format!("context {name}")),
                Origin::Scratch | Origin::Step { .. } => None,
            })
            .collect();
        Step {
            number: now.number,
            name: redact::addresses(&now.name).into_owned(),
            stage: now.stage.clone(),
            platform: now.platform.clone(),
            targets: now.targets.clone(),
            instruction: redact::addresses(&now.instruction).into_owned(),
            line: now.lines.0,
            result,
            from_build,
            compared_with: earlier
                .filter(|_| !causes.is_empty())
                .map(|(build, _)| build.id.to_string()),
            causes,
            made_same_files: remade.map(|remade| remade == Remade::Same),
            remade,
            below,
            exit,
            emulator: now.emulator.clone(),
            output: Vec::new(),
            after,
            reads: reads.into_iter().collect(),
            began_us: now.began_us,
            wall_us: now.wall_us,
            run_us,
        }
    }

    /// Returns the earlier self of a step in the nearest build that has one with a result; failing
    /// that, in the nearest that knows its inputs. So steps are compared with one and the same
    /// build as far as that goes, and what is said of one fits what is said of the next.
    fn earlier(&self, place: usize) -> Option<Earlier<'a>> {
        let has_result = |step: &StepRecord| step.run_us().is_some() || step.has_run();
        self.selves(place)
            .filter(|(_, step)| step.is_keyed())
            .min_by_key(|(_, step)| !has_result(step))
    }

    /// The earlier selves of a step, that of the nearest build first. What a step was before it was
    /// edited, only the nearest says: a step that it does not have is a new one.
    fn selves(&self, place: usize) -> impl Iterator<Item = Earlier<'a>> + '_ {
        let now = &self.build.steps[place];
        self.before.iter().enumerate().filter_map(move |(rank, (build, places))| {
            let step = &build.steps[places[place]?];
            let is_equal =
                step.instruction == now.instruction || now.is_keyed() && step.key == now.key;
            (rank == 0 || is_equal).then_some((*build, step))
        })
    }

    fn last_cost(&self, place: usize) -> Option<u64> {
        self.selves(place).find_map(|(_, step)| step.run_us())
    }

    fn causes(&self, place: usize, earlier: Option<Earlier<'a>>, done: &[Step]) -> Vec<Cause> {
        let now = &self.build.steps[place];
        match now.miss {
            Some(Miss::NoCache) => return vec![Cause::NoCache],
            Some(Miss::Damaged) => return vec![Cause::Damaged],
            Some(Miss::Format) => return vec![Cause::Format],
            // The very key was looked up and found.
            Some(Miss::Layer) => {
                let had = self.selves(place).filter(|(_, step)| {
                    step.key == now.key
                        && step.run_us().is_some()
                        && (now.parent.is_none() || step.parent == now.parent)
                });
                let build = had.map(|(build, _)| build.id).max().map(|id| id.to_string());
                return vec![Cause::Evicted { what: Evicted::Layer, build }];
            }
            Some(Miss::Key | Miss::Parent) | None => {}
        }
        let mut causes = match earlier {
            Some(earlier) => self.differences(now, earlier, done),
            // Known on other files, from builds that are not in the history any more.
            None if now.miss == Some(Miss::Parent) => {
                compare::base(now, None).into_iter().collect()
            }
            None => Vec::new(),
        };
        if let StepOutcome::DependsOn { number, builds } = &now.outcome {
            let reads = self::number(&now.from) != Some(*number);
            causes.extend(earlier_cause(*number, Certainty::Unless(builds, reads), done));
        }
        if causes.is_empty() {
            causes.push(self.nothing_differs(place, earlier));
        }
        causes
    }

    /// Returns how a step differs from its earlier self: its inputs, and the files it starts from.
    fn differences(&self, now: &StepRecord, earlier: Earlier<'a>, done: &[Step]) -> Vec<Cause> {
        let (build, before) = earlier;
        let mut causes = Vec::new();
        if now.is_keyed() {
            causes = compare::inputs(now, before, self.listings);
        } else if !now.inputs.is_empty() {
            causes = compare::outlines(now, before, self.listings);
        }
        for cause in &mut causes {
            if let Cause::Files { made_by, .. } = cause {
                let reads = || now.reads.iter().filter_map(number);
                let changed = |n: &usize| {
                    done.iter().any(|step| {
                        step.number == *n && (is_broken(step) || !step.causes.is_empty())
                    })
                };
                *made_by = reads().find(changed).or_else(|| reads().next());
            }
        }
        match (now.parent, before.parent) {
            (Some(new), Some(old)) if new == old => {}
            (Some(_), Some(_)) => {
                let root = self.other_files(now, build, before, done);
                causes.extend(
                    root.or_else(|| earlier_cause(number(&now.from)?, Certainty::Files, done)),
                );
            }
            // Unknown on one side: behind a step that would run, or that failed.
            _ => causes.extend(self.other_files(now, build, before, done)),
        }
        causes
    }

    /// Finds what made the files that a step starts from other ones than those of its earlier self:
    /// the nearest step that made other files, another order of steps, or another base.
    fn other_files(
        &self,
        now: &StepRecord,
        build: &'a BuildRecord,
        earlier: &StepRecord,
        done: &[Step],
    ) -> Option<Cause> {
        self.other_files_below(now, now, build, earlier, done)
    }

    /// As [`Self::other_files`] of `step`, for `now`, which is that step or one below it.
    fn other_files_below(
        &self,
        step: &StepRecord,
        now: &StepRecord,
        build: &'a BuildRecord,
        earlier: &StepRecord,
        done: &[Step],
    ) -> Option<Cause> {
        let predecessor = || {
            if now.number != step.number {
                return earlier_cause(now.number, Certainty::Moved, done);
            }
            Some(Cause::Predecessor {
                old: origin_name(&earlier.from, build),
                new: origin_name(&now.from, self.build),
            })
        };
        match (&now.from, &earlier.from) {
            (Origin::Step { number: new }, Origin::Step { number: old }) => {
                let place = self.build.steps.iter().position(|step| step.number == *new)?;
                let (_, places) = self.before.iter().find(|(b, _)| std::ptr::eq(*b, build))?;
                let there = places[place].map(|there| &build.steps[there]);
                let Some(there) = there.filter(|there| there.number == *old) else {
                    return predecessor();
                };
                let here = &self.build.steps[place];
                match (here.output, there.output) {
                    (Some(a), Some(b)) if a.content != b.content => {
                        earlier_cause(*new, Certainty::Files, done)
                    }
                    (Some(a), Some(b)) if a.set_times != b.set_times => {
                        earlier_cause(*new, Certainty::Times, done)
                    }
                    _ => self.other_files_below(step, here, build, there, done),
                }
            }
            (Origin::Step { .. }, _) | (_, Origin::Step { .. }) => predecessor(),
            (new, old) => {
                let is_known = |step: &StepRecord| step.parent.filter(|_| !is_link(step));
                let is_other = match (is_known(now), is_known(earlier)) {
                    (Some(new), Some(old)) => new != old,
                    _ => new != old,
                };
                is_other.then(|| compare::base(now, Some(earlier))).flatten()
            }
        }
    }

    /// Says what a step that ran made, beside what its earlier self made.
    fn remade(&self, now: &StepRecord, (build, earlier): Earlier<'a>) -> Option<Remade> {
        let (new, old) = (now.output?, earlier.output?);
        if new.content != old.content {
            return Some(Remade::Other);
        }
        if new.set_times != old.set_times {
            return Some(Remade::OtherTimes);
        }
        match (chain_below(self.build, now), chain_below(build, earlier)) {
            (Some(new), Some(old)) if new == old => Some(Remade::Same),
            (Some(_), Some(_)) => Some(Remade::OnOthers),
            _ => None,
        }
    }

    /// The cause of a miss where no input and no file differs.
    fn nothing_differs(&self, place: usize, earlier: Option<Earlier<'a>>) -> Cause {
        let now = &self.build.steps[place];
        let Some((build, step)) = earlier else {
            let reason = if now.miss == Some(Miss::Parent) {
                NoRecord::NotKept
            } else if self.before.is_empty() {
                NoRecord::FirstBuild
            } else if self.selves(place).next().is_some() {
                NoRecord::NeverReached
            } else if platforms::are_new(
                self.build,
                now,
                self.before.iter().map(|(build, _)| *build),
            ) {
                NoRecord::NewPlatform
            } else {
                NoRecord::NewStep
            };
            return Cause::NoRecord { reason };
        };
        let id = build.id.to_string();
        let below = |build, step| chain_below(build, step);
        let is_same = now.key == step.key
            && below(self.build, now).is_some_and(|chain| below(build, step) == Some(chain));
        match &step.outcome {
            StepOutcome::Ran { .. } if step.is_unsound && is_same => {
                Cause::NoRecord { reason: NoRecord::Unsound }
            }
            StepOutcome::Failed { exit, .. } if is_same => {
                Cause::FailedBefore { build: id, exit: *exit }
            }
            StepOutcome::Hit { .. } | StepOutcome::Ran { .. } if is_same => {
                Cause::Evicted { what: Evicted::Record, build: Some(id) }
            }
            StepOutcome::NotReached => Cause::NoRecord { reason: NoRecord::NeverReached },
            _ => Cause::NoRecord { reason: NoRecord::NotKept },
        }
    }
}

/// An earlier build, and the step in it that is compared.
type Earlier<'a> = (&'a BuildRecord, &'a StepRecord);

/// Whether a step is filed without what it starts from.
fn is_link(step: &StepRecord) -> bool {
    step.inputs.get("--link").is_some()
}

/// Returns the chain of the files that a step starts from, as far as the build's record says.
fn chain_below(build: &BuildRecord, step: &StepRecord) -> Option<ChainId> {
    if !is_link(step) && step.parent.is_some() {
        return step.parent;
    }
    match step.from {
        Origin::Scratch => Some(ChainId::scratch()),
        Origin::Step { number } => {
            let from = build.steps.iter().find(|step| step.number == number)?;
            Some(from.output?.on(&chain_below(build, from)?))
        }
        Origin::Image { .. } | Origin::Context { .. } => None,
    }
}

/// Returns how near to `build` an earlier one is.
pub fn nearness_of(build: &BuildRecord, earlier: &BuildRecord) -> usize {
    nearness(build, earlier, &align::counterparts(build, earlier))
}

/// Returns how much of `build` an earlier one has: steps of the same inputs, on the same files.
fn nearness(build: &BuildRecord, earlier: &BuildRecord, places: &[Option<usize>]) -> usize {
    let pairs = build.steps.iter().zip(places);
    pairs
        .filter_map(|(step, there)| Some((step, &earlier.steps[(*there)?])))
        .map(|(now, then)| {
            let is_same = now.is_keyed() && now.key == then.key;
            usize::from(is_same) * 2 + usize::from(is_same && now.parent == then.parent)
        })
        .sum()
}

/// Takes the differences of hits away again, but for those that later misses point at.
fn keep_evidence_of_hits(steps: &mut [Step]) {
    let mut needed: BTreeSet<usize> = BTreeSet::new();
    for step in steps.iter_mut().rev() {
        if step.result == Verdict::Hit && !needed.contains(&step.number) {
            step.causes.clear();
            step.compared_with = None;
        }
        for cause in &step.causes {
            match cause {
                Cause::EarlierStep { number, .. } => needed.extend([*number]),
                Cause::Files { made_by, .. } => needed.extend(*made_by),
                _ => {}
            }
        }
    }
}

fn origin_name(origin: &Origin, build: &BuildRecord) -> String {
    match origin {
        Origin::Scratch => "scratch".to_owned(),
        Origin::Image { name, .. } => name.clone(),
        Origin::Context { name } => format!("context {name}"),
        Origin::Step { number } => build
            .steps
            .iter()
            .find(|step| step.number == *number)
            .map(|step| redact::addresses(&step.name).into_owned())
            .unwrap_or_default(),
    }
}

fn number(origin: &Origin) -> Option<usize> {
    match origin {
        Origin::Step { number } => Some(*number),
        _ => None,
    }
}

fn is_broken(step: &Step) -> bool {
    matches!(step.result, Verdict::Miss | Verdict::Failed | Verdict::Unknown)
}

/// What is said of an earlier step.
#[derive(Clone, Copy)]
enum Certainty<'a> {
    /// It made other files.
    Files,
    /// It made the same files with other times.
    Times,
    /// It follows another step or image.
    Moved,
    /// Not known: a hit is possible if it makes the same files as in one of these builds, or, if
    /// the flag is set, what is read of them.
    Unless(&'a [String], bool),
}

/// Points at step `number`, and at the first broken one behind it.
fn earlier_cause(number: usize, certainty: Certainty<'_>, done: &[Step]) -> Option<Cause> {
    let by_number = |n: usize| done.iter().find(|step| step.number == n);
    let start = by_number(number)?;
    let mut first = start;
    // Each step comes after all that it reads, so this ends.
    while let Some(next) = first
        .causes
        .iter()
        .find_map(|cause| match cause {
            Cause::EarlierStep { number, .. } => Some(*number),
            Cause::Files { made_by, .. } => *made_by,
            _ => None,
        })
        .filter(|next| *next < first.number)
        .and_then(by_number)
    {
        first = next;
    }
    let (builds, reads) = match certainty {
        Certainty::Unless(builds, reads) => (builds.to_vec(), reads),
        _ => (Vec::new(), false),
    };
    Some(Cause::EarlierStep {
        number,
        name: start.name.clone(),
        first: first.number,
        is_certain: !matches!(certainty, Certainty::Unless(..)),
        is_found: start.result == Verdict::Hit,
        is_times: matches!(certainty, Certainty::Times),
        is_moved: matches!(certainty, Certainty::Moved),
        builds,
        is_read: reads,
    })
}

/// Returns the number of the first step that missed.
pub(super) fn first_broken<'a>(mut steps: impl Iterator<Item = &'a Step>) -> Option<usize> {
    let first = steps.find(|step| matches!(step.result, Verdict::Miss | Verdict::Failed));
    first.map(|step| step.number)
}

/// Sums up what steps cost and saved.
pub(super) fn totals<'a>(steps: impl Iterator<Item = &'a Step>) -> Totals {
    let mut totals = Totals::default();
    for step in steps {
        let cost = step.run_us.unwrap_or(0);
        match step.result {
            Verdict::Hit => {
                totals.hits += 1;
                totals.saved_us += cost;
            }
            Verdict::Miss | Verdict::Failed => {
                totals.misses += 1;
                totals.failed += usize::from(step.result == Verdict::Failed);
                totals.unmeasured += usize::from(step.run_us.is_none());
                totals.spent_us += cost;
            }
            Verdict::Unknown => {
                totals.unknown += 1;
                totals.unmeasured += usize::from(step.run_us.is_none());
                totals.unknown_us += cost;
            }
            Verdict::NotReached => {}
        }
    }
    totals
}

/// Shows microseconds as seconds with one decimal, or as milliseconds below 100.
pub fn seconds(us: u64) -> String {
    match us {
        0..100_000 => format!("{} ms", us.div_ceil(1000)),
        100_000..60_000_000 => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
        _ => format!("{} min {} s", us / 60_000_000, us / 1_000_000 % 60),
    }
}
