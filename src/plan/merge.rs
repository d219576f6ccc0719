//! Plans for several platforms become one.
//!
//! What two plans both do is one step of the merged plan: a stage that builds for its own platform
//! runs once, whatever the targets' platforms are. Equal means equal in everything that a step is
//! made of, and on equal files; only its progress name may differ.

use super::step::{BaseId, ContextId, Files, Plan, Step, StepId, Target, Tree};
use std::collections::BTreeMap;

impl Plan {
    /// Merges plans of one file, of which each has the images of one caller.
    ///
    /// The targets stay in the order of the plans.
    #[must_use]
    pub fn merged(self, others: impl IntoIterator<Item = Self>) -> Self {
        let mut merger = Merger { known: BTreeMap::new(), plan: self };
        for (index, step) in merger.plan.steps.iter().enumerate() {
            merger.known.entry(step.position()).or_default().push(StepId(index));
        }
        for other in others {
            merger.add(other);
        }
        merger.plan
    }
}

/// The stage of a step, and its place there.
type Position = (String, usize);

impl Step {
    fn position(&self) -> Position {
        (self.stage.clone(), self.index)
    }

    /// Says whether both do the same, names apart.
    fn does_the_same(&self, other: &Self) -> bool {
        let Self { name: _, instruction, stage, index, lines, parent, op, ignore_cache, platform } =
            self;
        (stage, index, lines, parent) == (&other.stage, &other.index, &other.lines, &other.parent)
            && (platform, ignore_cache) == (&other.platform, &other.ignore_cache)
            && instruction == &other.instruction
            && op == &other.op
    }

    /// Takes the platform that it is made for out of its name: it is made for several.
    fn unname_target(&mut self) {
        let end = self.place().len();
        if let Some(arrow) = self.name[..end].find("->") {
            let rest = &self.name[arrow..end];
            let length = rest.find([' ', ']']).unwrap_or(rest.len());
            self.name.replace_range(arrow..arrow + length, "");
        }
    }
}

struct Merger {
    plan: Plan,
    /// The steps of the plan by their positions.
    known: BTreeMap<Position, Vec<StepId>>,
}

/// What the numbers of another plan are here.
struct Renumbered {
    bases: Vec<BaseId>,
    contexts: Vec<ContextId>,
    steps: Vec<StepId>,
}

impl Renumbered {
    fn files(&self, files: Files) -> Files {
        match files {
            Files::Nothing => Files::Nothing,
            Files::Base(BaseId(index)) => Files::Base(self.bases[index]),
            Files::Step(StepId(index)) => Files::Step(self.steps[index]),
        }
    }

    fn tree(&self, tree: Tree) -> Tree {
        match tree {
            Tree::Context(ContextId(index)) => Tree::Context(self.contexts[index]),
            Tree::Files(files) => Tree::Files(self.files(files)),
        }
    }
}

impl Merger {
    fn add(&mut self, other: Plan) {
        let Plan { steps, bases, contexts, targets, unused_args } = other;
        let plan = &mut self.plan;
        let mut numbers = Renumbered {
            bases: bases
                .into_iter()
                .map(|base| BaseId(place_of(&mut plan.bases, base, |a, b| a.image == b.image)))
                .collect(),
            contexts: contexts
                .into_iter()
                .map(|name| ContextId(place_of(&mut plan.contexts, name, PartialEq::eq)))
                .collect(),
            steps: Vec::with_capacity(steps.len()),
        };
        for mut step in steps {
            step.parent = numbers.files(step.parent);
            step.replace_trees(|tree| numbers.tree(tree));
            let id = self.step(step);
            numbers.steps.push(id);
        }
        for mut target in targets {
            let Target { files, made_by, .. } = &mut target;
            *files = numbers.files(*files);
            for made in made_by.iter_mut().flatten() {
                *made = numbers.steps[made.0];
            }
            self.plan.targets.push(target);
        }
        self.plan.unused_args.retain(|name| unused_args.contains(name));
    }

    fn step(&mut self, step: Step) -> StepId {
        let alike = self.known.entry(step.position()).or_default();
        let steps = &mut self.plan.steps;
        if let Some(id) = alike.iter().find(|id| steps[id.0].does_the_same(&step)) {
            let known = &mut steps[id.0];
            if known.name != step.name {
                known.unname_target();
            }
            return *id;
        }
        let id = StepId(steps.len());
        steps.push(step);
        alike.push(id);
        id
    }
}

/// Returns the place of `item` in `all`, where it is added unless something equal is there.
fn place_of<T>(all: &mut Vec<T>, item: T, is_equal: impl Fn(&T, &T) -> bool) -> usize {
    all.iter().position(|known| is_equal(known, &item)).unwrap_or_else(|| {
        all.push(item);
        all.len() - 1
    })
}
