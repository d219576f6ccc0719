//! What a build takes: arguments, secrets and agents of the target and of the stages that it needs.
//!
//! Nothing is built and no image is pulled. As in BuildKit, an argument that a stage declares
//! without a default is the one before the first FROM, if that is there.
//!
//! Source: BuildKit, `frontend/dockerfile/dockerfile2llb/outline.go`.

use super::Caller;
use super::check::Known;
use super::failure::Failure;
use super::load::Loaded;
use super::resolve::Images;
use crate::dockerfile::ast::{Command, Instruction, Lines, MountType, Pair, Word};
use crate::dockerfile::env::Env;
use crate::dockerfile::expand::{Expanded, Lexer, VALUES_MAX};
use crate::plan::{self, Scope, Survey};
use crate::store::Store;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// What a build takes. Everything is in the order of its lines.
#[derive(Debug)]
pub struct Outline {
    /// The target's index among the stages.
    pub target: usize,
    /// Arguments.
    pub arguments: Vec<Argument>,
    /// Secrets.
    pub secrets: Vec<Wanted>,
    /// Agents.
    pub agents: Vec<Wanted>,
}

impl Outline {
    /// Adds what a build for another platform takes. Of an argument whose value depends on the
    /// platform the first value stays.
    fn joined(mut self, other: Self) -> Self {
        for argument in other.arguments {
            if self.arguments.iter().all(|known| known.name != argument.name) {
                self.arguments.push(argument);
            }
        }
        self.arguments.sort_by_key(|argument| argument.lines.first);
        for (all, more) in [(&mut self.secrets, other.secrets), (&mut self.agents, other.agents)] {
            for wanted in more {
                match all.iter_mut().find(|known| known.id == wanted.id) {
                    Some(known) => known.is_required |= wanted.is_required,
                    None => all.push(wanted),
                }
            }
            all.sort_by_key(|wanted| wanted.lines.first);
        }
        self
    }
}

/// An argument.
#[derive(Debug, Clone)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its value in this build: the one that is given, or its default.
    pub value: String,
    /// The comment above it.
    pub description: Option<String>,
    /// Where it is declared.
    pub lines: Lines,
    /// Other arguments that its default is made of.
    parts: BTreeSet<String>,
}

/// A secret or an agent.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub is_required: bool,
    /// The RUN that wants it first.
    pub lines: Lines,
}

/// Returns what a build takes.
///
/// # Errors
///
/// A failure that points at what is wrong with the Dockerfile.
pub fn outline(
    loaded: &Loaded<'_>,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Outline, Failure> {
    let images = Images::new(store, &loaded.contexts, caller.cancel())
        .under(&loaded.request.source.policies);
    let mut known = Known { images, unknown: Vec::new() };
    let mut all: Option<Outline> = None;
    for planned in &loaded.plan_requests() {
        let outline = of_platform(loaded, planned, &mut known)?;
        all = Some(match all {
            None => outline,
            Some(all) => all.joined(outline),
        });
    }
    Ok(all.expect("there is a platform at least"))
}

fn of_platform(
    loaded: &Loaded<'_>,
    planned: &plan::PlanRequest<'_>,
    known: &mut Known<'_>,
) -> Result<Outline, Failure> {
    let survey = Survey::new(planned, Scope::Target, known);
    let survey = survey.map_err(|error| loaded.plan_failure(error))?;
    let (facts, target) = (survey.facts(), survey.target());
    let mut walk = Walk::new(loaded, &plan::platform_args(planned));
    let stages = loaded.dockerfile.stages.iter().zip(&facts).filter(|(_, facts)| facts.counts);
    // What the target says of an argument goes before what the stages below it say.
    for (stage, facts) in stages.rev() {
        walk.uses(&stage.base);
        if let Some(word) = &stage.platform {
            walk.uses(word);
        }
        walk.stage(facts.triggers.iter().chain(&stage.instructions));
    }
    Ok(walk.outline(target))
}

struct Walk<'a> {
    lexer: Lexer,
    build_args: &'a BTreeMap<String, String>,
    platform: Env,
    /// Arguments before the first FROM.
    globals: BTreeMap<String, Argument>,
    used: BTreeSet<String>,
    arguments: BTreeMap<String, Argument>,
    secrets: BTreeMap<String, Wanted>,
    agents: BTreeMap<String, Wanted>,
    /// How many bytes words have become.
    expanded: Cell<usize>,
}

impl<'a> Walk<'a> {
    fn new(loaded: &'a Loaded<'_>, platform: &Env) -> Self {
        let mut walk = Self {
            lexer: Lexer::new(loaded.dockerfile.escape),
            build_args: &loaded.request.source.build_args,
            platform: platform.clone(),
            globals: BTreeMap::new(),
            used: BTreeSet::new(),
            arguments: BTreeMap::new(),
            secrets: BTreeMap::new(),
            agents: BTreeMap::new(),
            expanded: Cell::new(0),
        };
        let mut env = platform.clone();
        for instruction in &loaded.dockerfile.global_args {
            for argument in walk.declared(instruction, &env) {
                env.set(&argument.name, &argument.value);
                walk.globals.insert(argument.name.clone(), argument);
            }
        }
        walk
    }

    /// Expands a word; one that cannot be expanded stays as it is, and so do all once they have become
    /// more than a build takes.
    fn expand(&self, word: &str, env: &Env) -> Expanded {
        let as_it_is = || Expanded { text: word.to_owned(), ..Expanded::default() };
        if self.expanded.get() > VALUES_MAX {
            return as_it_is();
        }
        let lookup = |name: &str| env.get(name).map(str::to_owned);
        let expanded = self.lexer.process_word(word, &lookup).unwrap_or_else(|_| as_it_is());
        self.expanded.set(self.expanded.get() + expanded.text.len());
        expanded
    }

    /// Returns the arguments that an ARG declares.
    fn declared(&self, instruction: &Instruction, env: &Env) -> Vec<Argument> {
        let Command::Arg(declarations) = &instruction.command else { return Vec::new() };
        let argument = |declaration: &crate::dockerfile::ast::ArgDeclaration| {
            let name = self.expand(&declaration.name.text, env).text;
            let default = declaration.default.as_ref();
            let default = default.map(|word| self.expand(&word.text, env));
            let given = self.build_args.get(&name).cloned();
            let (text, parts) = match default {
                Some(Expanded { text, matched, .. }) => (text, matched),
                None => (String::new(), BTreeSet::new()),
            };
            Argument {
                value: given.unwrap_or(text),
                description: declaration.description.clone(),
                lines: instruction.origin.lines,
                parts,
                name,
            }
        };
        declarations.iter().map(argument).collect()
    }

    /// Notes which arguments before the first FROM a FROM names.
    fn uses(&mut self, word: &Word) {
        let globals =
            self.globals.iter().map(|(name, argument)| (name.clone(), argument.value.clone()));
        let env: Env = globals.collect();
        let names = self.expand(&word.text, &env).matched;
        self.used.extend(names);
    }

    fn stage<'i>(&mut self, instructions: impl Iterator<Item = &'i Instruction>) {
        let mut env = Env::default();
        for instruction in instructions {
            match &instruction.command {
                Command::Arg(declarations) => {
                    let declared = self.declared(instruction, &env);
                    for (argument, declaration) in declared.into_iter().zip(declarations) {
                        self.argument(argument, declaration.default.is_some(), &mut env);
                    }
                }
                Command::Env(pairs) => {
                    let pair = |pair: &Pair| {
                        let name = self.expand(&pair.name.text, &env).text;
                        (name, self.expand(&pair.value.text, &env).text)
                    };
                    let expanded: Vec<(String, String)> = pairs.iter().map(pair).collect();
                    for (name, value) in expanded {
                        env.set(&name, &value);
                    }
                }
                Command::Run(run) => {
                    for flag in &run.mounts {
                        let expand = |word: &str| Ok(self.expand(word, &env).text);
                        let Ok(mount) = flag.resolve(&expand) else { continue };
                        let lines = instruction.origin.lines;
                        let name = mount.target.rsplit('/').next().unwrap_or_default();
                        let (all, fallback) = match mount.kind {
                            MountType::Secret => (&mut self.secrets, name),
                            MountType::Ssh => (&mut self.agents, "default"),
                            _ => continue,
                        };
                        let id = if mount.id.is_empty() { fallback } else { &mount.id };
                        let wanted = Wanted { id: id.to_owned(), is_required: false, lines };
                        let wanted = all.entry(id.to_owned()).or_insert(wanted);
                        wanted.is_required |= mount.required;
                        wanted.lines =
                            if lines.first < wanted.lines.first { lines } else { wanted.lines };
                    }
                }
                _ => {}
            }
        }
    }

    /// Adds an argument of a stage, and declares it there.
    fn argument(&mut self, argument: Argument, has_default: bool, env: &mut Env) {
        let Argument { name, value, .. } = &argument;
        if !has_default {
            // It is the one that is known already: that of the platform has no line.
            if let Some(global) = self.globals.get(name) {
                env.set(name, &global.value);
                self.used.insert(name.clone());
                return;
            }
            if let Some(value) = self.platform.get(name) {
                env.set(name, value);
                return;
            }
        }
        env.set(name, value);
        self.arguments.entry(name.clone()).or_insert(argument);
    }

    fn outline(mut self, target: usize) -> Outline {
        // What a default is made of is used, too.
        let mut queue: Vec<String> = self.used.iter().cloned().collect();
        queue.extend(self.arguments.values().flat_map(|argument| argument.parts.iter().cloned()));
        let mut seen = BTreeSet::new();
        while let Some(name) = queue.pop() {
            let Some(global) = self.globals.get(&name) else { continue };
            if seen.insert(name.clone()) {
                queue.extend(global.parts.iter().cloned());
                self.arguments.entry(name).or_insert_with(|| global.clone());
            }
        }
        let mut arguments: Vec<_> = self.arguments.into_values().collect();
        arguments.sort_by_key(|argument| argument.lines.first);
        let in_order = |wanted: BTreeMap<String, Wanted>| {
            let mut wanted: Vec<_> = wanted.into_values().collect();
            wanted.sort_by_key(|wanted| wanted.lines.first);
            wanted
        };
        Outline {
            target,
            arguments,
            secrets: in_order(self.secrets),
            agents: in_order(self.agents),
        }
    }
}
