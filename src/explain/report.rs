//! What a build did, or would do, and why: the model behind all forms of `builder explain`.

use super::compare::{self, Cause, Evicted, NoRecord};
use super::listing::Listings;
use super::suggest::{self, Suggestion};
use super::{BuildRecord, Miss, Origin, Outcome, StepOutcome, StepRecord, place, redact};
use serde::Serialize;
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
    /// The newest earlier build it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<String>,
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
    /// The platform.
    pub platform: String,
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
    /// Its text in the Dockerfile.
    pub instruction: String,
    /// Its first line in the Dockerfile, from 1.
    pub line: u32,
    /// What became of it.
    pub result: Verdict,
    /// For a hit, the build that ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_build: Option<String>,
    /// For a miss, why; for what is unknown, on what it depends.
    pub causes: Vec<Cause>,
    /// The earlier build that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<String>,
    /// Where it ran and its earlier self is known: whether both made the same files, so that what
    /// follows was not disturbed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_same_files: Option<bool>,
    /// Where it failed: its exit status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
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

/// What became of a step.
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

/// The sum of the steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Steps that hit.
    pub hits: usize,
    /// Steps that ran or would run, failed ones included.
    pub misses: usize,
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
    let explainer = Explainer {
        build,
        before: before
            .iter()
            .map(|earlier| (earlier, place::counterparts(&build.steps, &earlier.steps)))
            .collect(),
        listings,
    };
    let mut steps: Vec<Step> = Vec::with_capacity(build.steps.len());
    for place in 0..build.steps.len() {
        let step = explainer.step(place, &steps);
        steps.push(step);
    }
    keep_evidence_of_hits(&mut steps);
    let first_broken = steps
        .iter()
        .find(|s| matches!(s.result, Verdict::Miss | Verdict::Failed))
        .map(|s| s.number);
    let totals = totals(&steps);
    let suggestions = suggest::suggestions(build, &steps, before, listings);
    let about = &build.about;
    Report {
        version: SCHEMA_VERSION,
        build: (build.outcome != Outcome::Predicted).then(|| build.id.to_string()),
        compared_with: before.first().map(|earlier| earlier.id.to_string()),
        started_ms: about.started_ms,
        finished_ms: build.finished_ms,
        outcome: build.outcome.clone(),
        context: redact::addresses(&about.context).into_owned(),
        dockerfile: about.dockerfile.clone(),
        target: about.target.clone(),
        platform: about.platform.clone(),
        tags: about.tags.clone(),
        image: build.image.map(|digest| digest.to_string()),
        steps,
        first_broken,
        totals,
        suggestions,
    }
}

struct Explainer<'a> {
    build: &'a BuildRecord,
    /// Earlier builds, each with the counterparts of our steps.
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
            (Verdict::Hit, Some((_, earlier))) => self.differences(now, earlier, done),
            _ => self.causes(place, earlier, done),
        };
        let made_same_files = match (&now.outcome, now.output, earlier) {
            (StepOutcome::Ran { .. }, Some(output), Some((_, earlier))) => {
                earlier.output.map(|before| before.content == output.content)
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
            instruction: redact::addresses(&now.instruction).into_owned(),
            line: now.lines.0,
            result,
            from_build,
            compared_with: earlier
                .filter(|_| !causes.is_empty())
                .map(|(build, _)| build.id.to_string()),
            causes,
            made_same_files,
            exit,
            after,
            reads: reads.into_iter().collect(),
            began_us: now.began_us,
            wall_us: now.wall_us,
            run_us,
        }
    }

    /// Returns the newest earlier self of a step whose inputs are known.
    fn earlier(&self, place: usize) -> Option<(&'a BuildRecord, &'a StepRecord)> {
        self.selves(place).find(|(_, step)| step.is_keyed())
    }

    fn selves(&self, place: usize) -> impl Iterator<Item = (&'a BuildRecord, &'a StepRecord)> + '_ {
        self.before
            .iter()
            .filter_map(move |(build, places)| Some((*build, &build.steps[places[place]?])))
    }

    fn last_cost(&self, place: usize) -> Option<u64> {
        self.selves(place).find_map(|(_, step)| step.run_us())
    }

    fn causes(
        &self,
        place: usize,
        earlier: Option<(&'a BuildRecord, &'a StepRecord)>,
        done: &[Step],
    ) -> Vec<Cause> {
        let now = &self.build.steps[place];
        let build = earlier.map(|(build, _)| build.id.to_string());
        match now.miss {
            Some(Miss::NoCache) => return vec![Cause::NoCache],
            Some(Miss::Damaged) => return vec![Cause::Damaged],
            // The very key was looked up and found.
            Some(Miss::Layer) => return vec![Cause::Evicted { what: Evicted::Layer, build }],
            Some(Miss::Key | Miss::Parent) | None => {}
        }
        let mut causes = match earlier {
            Some((_, earlier)) => self.differences(now, earlier, done),
            // Known on other files, from builds that are not in the history any more.
            None if now.miss == Some(Miss::Parent) => {
                let earlier_step = number(&now.from).and_then(|n| earlier_cause(n, true, done));
                earlier_step.or_else(|| compare::base(now, None)).into_iter().collect()
            }
            None => Vec::new(),
        };
        let is_waiting = matches!(now.outcome, StepOutcome::DependsOn { .. })
            || (now.outcome == StepOutcome::WouldRun && causes.is_empty() && now.parent.is_none());
        if is_waiting {
            let from = match now.outcome {
                StepOutcome::DependsOn { number } => Some(number),
                _ => number(&now.from),
            };
            causes.extend(from.and_then(|from| earlier_cause(from, false, done)));
        }
        if causes.is_empty() {
            causes.push(self.nothing_differs(place, earlier));
        }
        causes
    }

    /// Returns how a step differs from its earlier self: its inputs, and the files it starts from.
    fn differences(&self, now: &StepRecord, earlier: &StepRecord, done: &[Step]) -> Vec<Cause> {
        let mut causes = Vec::new();
        if now.is_keyed() {
            causes = compare::inputs(now, earlier, self.listings);
        }
        for cause in &mut causes {
            if let Cause::Files { made_by, .. } = cause {
                let reads: Vec<usize> = now.reads.iter().filter_map(number).collect();
                let changed = |n: &&usize| {
                    done.iter().any(|step| {
                        step.number == **n && (is_broken(step) || !step.causes.is_empty())
                    })
                };
                *made_by = reads.iter().find(changed).or(reads.first()).copied();
            }
        }
        // Unknown on one side: `COPY --link`, or a prediction behind a step that would run.
        if let (Some(new), Some(old)) = (now.parent, earlier.parent)
            && new != old
        {
            causes.extend(self.other_parent(now, earlier, done));
        }
        causes
    }

    /// The cause of a miss that lies in the files a step starts from.
    fn other_parent(&self, now: &StepRecord, earlier: &StepRecord, done: &[Step]) -> Option<Cause> {
        let predecessor = || {
            let old = self.before.iter().find_map(|(build, _)| {
                let is_it = build.steps.iter().any(|step| std::ptr::eq(step, earlier));
                is_it.then(|| origin_name(&earlier.from, build))
            });
            let new = origin_name(&now.from, self.build);
            Some(Cause::Predecessor { old: old?, new })
        };
        match (&now.from, &earlier.from) {
            (Origin::Step { number }, _) => {
                let from = done.iter().find(|step| step.number == *number)?;
                if is_broken(from) || self.is_same_place(*number, earlier) {
                    earlier_cause(*number, true, done)
                } else {
                    predecessor()
                }
            }
            (_, Origin::Step { .. }) => predecessor(),
            _ => compare::base(now, Some(earlier)),
        }
    }

    /// Says whether step `from` is the counterpart of what `earlier` started from.
    fn is_same_place(&self, from: usize, earlier: &StepRecord) -> bool {
        let Some(place) = self.build.steps.iter().position(|step| step.number == from) else {
            return false;
        };
        self.before.iter().any(|(build, places)| {
            build.steps.iter().any(|step| std::ptr::eq(step, earlier))
                && places[place].map(|there| build.steps[there].number) == number(&earlier.from)
        })
    }

    /// The cause of a miss where no input and no file differs.
    fn nothing_differs(&self, place: usize, earlier: Option<(&BuildRecord, &StepRecord)>) -> Cause {
        let Some((build, step)) = earlier else {
            let reason = if self.before.is_empty() {
                NoRecord::FirstBuild
            } else if self.selves(place).next().is_some() {
                NoRecord::NeverReached
            } else {
                NoRecord::NewStep
            };
            return Cause::NoRecord { reason };
        };
        let id = build.id.to_string();
        match step.outcome {
            StepOutcome::Failed { exit, .. } => Cause::FailedBefore { build: id, exit },
            StepOutcome::Hit { .. } | StepOutcome::Ran { .. } => {
                Cause::Evicted { what: Evicted::Record, build: Some(id) }
            }
            _ => Cause::NoRecord { reason: NoRecord::NeverReached },
        }
    }
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

/// Points at step `number`, and at the first broken one behind it.
fn earlier_cause(number: usize, is_certain: bool, done: &[Step]) -> Option<Cause> {
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
    Some(Cause::EarlierStep { number, name: start.name.clone(), first: first.number, is_certain })
}

fn totals(steps: &[Step]) -> Totals {
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
                totals.spent_us += cost;
            }
            Verdict::Unknown => {
                totals.unknown += 1;
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
