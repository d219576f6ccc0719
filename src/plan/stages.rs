//! Stages: what each FROM and `--from=` means, and which of them the target reaches.

use super::words;
use super::{PlanError, PlanRequest, Resolved, Resolver, Scope};
use crate::dockerfile::ast::{Command, Instruction, Lines, Stage as Ast, Word};
use crate::dockerfile::env::Env;
use crate::dockerfile::errors::{Error, ErrorKind};
use crate::dockerfile::lint::{self, ImageFacts, StageFacts};
use crate::oci::{Config, Platform, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What helps where the name of a base image has a variable without a value.
const VALUE_HINT: &str = "give the variable a value: an ARG with a default before the first FROM, or --build-arg NAME=VALUE";

/// The index of a stage in [`Stages::all`].
pub(super) type Index = usize;

/// All stages of a file, and behind them the images that `--from=` names.
pub(super) struct Stages<'a> {
    pub(super) all: Vec<Stage<'a>>,
    /// The stage to build.
    pub(super) target: Index,
    /// What the target needs, itself included.
    pub(super) reached: BTreeSet<Index>,
    /// Variables of FROM lines: platform arguments and global ARGs.
    pub(super) globals: Env,
    /// How many of `all` are stages of the file.
    pub(super) named: usize,
}

/// A stage, or an image that is only copied from.
pub(super) struct Stage<'a> {
    /// `build`, or `stage-0`; empty where the file has one stage only.
    pub(super) name: String,
    /// The name after AS.
    pub(super) given_name: Option<String>,
    /// The FROM; none for an image that is only copied from.
    pub(super) ast: Option<&'a Ast>,
    /// What it starts from.
    pub(super) base: Base,
    /// `--platform`, or that of the base.
    pub(super) platform: Option<Platform>,
    /// Its instructions, triggers of the base first.
    pub(super) commands: Vec<StageCommand>,
    /// How many steps its progress names count.
    pub(super) total: usize,
    /// Where a message about it points.
    pub(super) place: Place,
}

/// What a stage starts from.
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(Index),
    /// An image or context of this name; what it turned out to be, once it was needed.
    Name(String, Option<Resolved>),
}

/// An instruction with the stages it reads.
#[derive(Clone)]
pub(super) struct StageCommand {
    pub(super) instruction: Rc<Instruction>,
    /// The stage of `COPY --from`, or of each `--mount`, in order; none for the context.
    pub(super) sources: Vec<Option<Index>>,
    pub(super) is_on_build: bool,
}

/// A span with its line, for messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) span: crate::dockerfile::ast::Span,
    pub(super) lines: Lines,
}

impl Place {
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Stage, message, self.span, self.lines.first)
    }
}

impl<'a> Stages<'a> {
    /// Does everything short of walking the instructions.
    pub(super) fn resolve(
        request: &PlanRequest<'a>,
        scope: Scope,
        resolver: &mut dyn Resolver,
    ) -> Result<Self, PlanError> {
        let mut stages = Self::new(request)?;
        stages.link(request)?;
        stages.check_cycles()?;
        stages.find_target(request)?;
        stages.reach(request, scope, resolver)?;
        Ok(stages)
    }

    /// What the checks want to know of each stage of the file.
    pub(super) fn facts(&self, request: &PlanRequest<'_>) -> Vec<StageFacts> {
        let facts = |index: Index| {
            let stage = &self.all[index];
            StageFacts {
                counts: self.reached.contains(&index),
                base: stage.base_facts(request),
                triggers: stage
                    .commands
                    .iter()
                    .filter(|command| command.is_on_build)
                    .map(|command| (*command.instruction).clone())
                    .collect(),
            }
        };
        (0..self.named).map(facts).collect()
    }

    /// For each stage that reached ones start from, the last of those. The target has none: what it
    /// came to is wanted at the end.
    pub(super) fn last_children(&self) -> BTreeMap<Index, Index> {
        let reached = self.reached.iter().filter(|&&index| index < self.named);
        let base = |&index: &Index| match self.all[index].base {
            Base::Stage(base) if base != self.target => Some((base, index)),
            _ => None,
        };
        reached.filter_map(base).collect()
    }

    /// Gives every FROM its base.
    fn new(request: &PlanRequest<'a>) -> Result<Self, PlanError> {
        let file = request.dockerfile;
        let globals = words::globals(request)?;
        let mut all: Vec<Stage<'a>> = Vec::new();
        let mut by_name: BTreeMap<String, Index> = BTreeMap::new();
        for (index, ast) in file.stages.iter().enumerate() {
            let place = Place { span: ast.base.span, lines: ast.from.lines };
            let base_name = words::expand(&ast.base, place, &globals, file.escape)?;
            if base_name.is_empty() {
                let message = format!("base name ({}) should not be blank", ast.base.text);
                return Err(place.error(message).with_hint(VALUE_HINT).into());
            }
            let platform = match &ast.platform {
                Some(word) => Some(stage_platform(word, ast, &globals, file.escape)?),
                None => None,
            };
            let given_name = ast.name.as_ref().map(|name| name.text.to_lowercase());
            let is_overridden = given_name.as_ref().is_some_and(|name| {
                request.has_context(name, request.platform_of(platform.as_ref()))
            });
            let base = if is_overridden {
                Base::Name(given_name.clone().unwrap_or_default(), None)
            } else if let Some(&earlier) = by_name.get(&base_name) {
                Base::Stage(earlier)
            } else if base_name == "scratch" {
                Base::Scratch
            } else {
                Base::Name(base_name, None)
            };
            let commands: Vec<StageCommand> = if is_overridden {
                Vec::new()
            } else {
                ast.instructions.iter().map(|i| StageCommand::new(i.clone(), false)).collect()
            };
            let own = commands.iter().filter(|c| makes_step(&c.instruction.command)).count();
            let total = own + usize::from(matches!(base, Base::Name(..)));
            if let Some(name) = &given_name {
                by_name.insert(name.clone(), index);
            }
            all.push(Stage {
                name: given_name.clone().unwrap_or_else(|| format!("stage-{index}")),
                given_name,
                ast: Some(ast),
                base,
                platform,
                commands,
                total: if is_overridden { 0 } else { total },
                place,
            });
        }
        let named = all.len();
        Ok(Self { all, target: named - 1, reached: BTreeSet::new(), globals, named })
    }

    /// Gives every `--from=` its stage or image.
    fn link(&mut self, request: &PlanRequest<'_>) -> Result<(), PlanError> {
        for index in 0..self.named {
            for number in 0..self.all[index].commands.len() {
                let command = self.all[index].commands[number].clone();
                let sources = self.sources(&command.instruction, index, request)?;
                self.all[index].commands[number].sources = sources;
            }
        }
        if self.all.len() == 1 {
            self.all[0].name.clear();
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Index> {
        let name = name.to_lowercase();
        (0..self.named).rev().find(|&i| self.all[i].given_name.as_ref() == Some(&name))
    }

    fn sources(
        &mut self,
        instruction: &Instruction,
        reader: Index,
        request: &PlanRequest<'_>,
    ) -> Result<Vec<Option<Index>>, PlanError> {
        match &instruction.command {
            Command::Copy(copy) => {
                let Some(from) = &copy.from else { return Ok(vec![None]) };
                let place = Place { span: from.span, lines: instruction.origin.lines };
                let plain = words::expand(from, place, &Env::default(), request.dockerfile.escape);
                if plain.as_deref().ok() != Some(from.as_str()) {
                    let error = place
                        .error("variable expansion is not supported for --from")
                        .with_hint("define a new stage with FROM, using an ARG of global scope");
                    return Err(error.into());
                }
                if let Ok(number) = from.text.parse::<i64>() {
                    let index = usize::try_from(number).ok().filter(|&i| i < self.named);
                    return index.map(|index| vec![Some(index)]).ok_or_else(|| {
                        place.error(format!("invalid stage index {number}")).into()
                    });
                }
                Ok(vec![Some(self.stage_or_image(&from.text, place))])
            }
            Command::Run(run) => {
                let mut sources = Vec::with_capacity(run.mounts.len());
                for mount in &run.mounts {
                    let from = mount.fields.iter().rev().find(|field| field.key == "from");
                    let place = Place { span: mount.span, lines: instruction.origin.lines };
                    sources.push(match from.and_then(|field| field.value.clone()) {
                        Some(name) if !name.is_empty() => Some(self.stage_or_image(&name, place)),
                        _ => None,
                    });
                }
                let _ = reader;
                Ok(sources)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Finds a stage, or adds an image that is only read from.
    fn stage_or_image(&mut self, name: &str, place: Place) -> Index {
        if let Some(index) = self.find(name) {
            return index;
        }
        let known = (self.named..self.all.len())
            .find(|&i| matches!(&self.all[i].base, Base::Name(known, _) if known == name));
        known.unwrap_or_else(|| {
            let base = match name {
                "scratch" => Base::Scratch,
                name => Base::Name(name.to_owned(), None),
            };
            self.all.push(Stage {
                name: name.to_owned(),
                given_name: None,
                ast: None,
                base,
                platform: None,
                commands: Vec::new(),
                total: 0,
                place,
            });
            self.all.len() - 1
        })
    }

    fn needs(&self, index: Index) -> impl Iterator<Item = Index> + '_ {
        let stage = &self.all[index];
        let base = match stage.base {
            Base::Stage(base) => Some(base),
            _ => None,
        };
        base.into_iter()
            .chain(stage.commands.iter().flat_map(|c| c.sources.iter().flatten().copied()))
    }

    /// Refuses stages that need themselves.
    fn check_cycles(&self) -> Result<(), PlanError> {
        // 0: not seen, 1: on the way, 2: done. An explicit stack: files may have many stages.
        let mut state = vec![0u8; self.all.len()];
        for start in 0..self.all.len() {
            if state[start] != 0 {
                continue;
            }
            let mut stack = vec![(start, self.needs(start).collect::<Vec<_>>())];
            state[start] = 1;
            while let Some((index, open)) = stack.last_mut() {
                let Some(next) = open.pop() else {
                    state[*index] = 2;
                    stack.pop();
                    continue;
                };
                match state[next] {
                    0 => {
                        state[next] = 1;
                        stack.push((next, self.needs(next).collect()));
                    }
                    1 => {
                        let from = *index;
                        // The only stage has no name in progress.
                        let stage = &self.all[next];
                        let name = stage.given_name.as_ref().unwrap_or(&stage.name);
                        // The line to fix is the one that reads what comes later.
                        let place = stack
                            .iter()
                            .flat_map(|(stage, _)| {
                                self.all[*stage].commands.iter().map(move |c| (*stage, c))
                            })
                            .find(|(stage, c)| c.sources.iter().flatten().any(|s| s >= stage))
                            .map_or(self.all[from].place, |(_, c)| place_of(&c.instruction));
                        let message = format!("circular dependency detected on stage: {name}");
                        return Err(place.error(message).into());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn find_target(&mut self, request: &PlanRequest<'_>) -> Result<(), PlanError> {
        let Some(name) = &request.target else { return Ok(()) };
        self.target = self.find(name).ok_or_else(|| PlanError::NoSuchTarget {
            name: name.clone(),
            stages: self.all[..self.named].iter().filter_map(|s| s.given_name.clone()).collect(),
        })?;
        Ok(())
    }

    /// Finds what the target needs, resolving images as they are reached, since their triggers may
    /// reach further.
    fn reach(
        &mut self,
        request: &PlanRequest<'_>,
        scope: Scope,
        resolver: &mut dyn Resolver,
    ) -> Result<(), PlanError> {
        let mut open = match scope {
            Scope::Target => vec![self.target],
            Scope::All => (0..self.named).collect(),
        };
        while let Some(index) = open.pop() {
            if !self.reached.insert(index) {
                continue;
            }
            self.resolve_base(index, request, resolver)?;
            self.place_triggers(index, request)?;
            open.extend(self.needs(index));
        }
        self.check_cycles()
    }

    fn resolve_base(
        &mut self,
        index: Index,
        request: &PlanRequest<'_>,
        resolver: &mut dyn Resolver,
    ) -> Result<(), PlanError> {
        let stage = &mut self.all[index];
        let platform = stage
            .platform
            .clone()
            .or_else(|| request.platform.clone())
            .unwrap_or_else(|| request.build_platform.clone());
        match &mut stage.base {
            Base::Name(name, resolved) => {
                let is_context = request.has_context(name, &platform);
                if !is_context && let Err(error) = name.parse::<Reference>() {
                    let message = format!("failed to parse stage name {name:?}: {error}");
                    let mut error = stage.place.error(message);
                    // What is left of NAME:$TAG where TAG has no value.
                    if name.ends_with([':', '@']) {
                        error =
                            error.with_label("nothing follows the last mark").with_hint(VALUE_HINT);
                    }
                    return Err(error.into());
                }
                let found =
                    resolver.resolve(name, &platform).map_err(|source| PlanError::Image {
                        name: name.clone(),
                        place: Box::new(stage.place.error("not available")),
                        source,
                    })?;
                *resolved = Some(found);
                stage.platform = Some(platform);
            }
            Base::Scratch => stage.platform = Some(platform),
            Base::Stage(_) => {}
        }
        Ok(())
    }

    /// Puts the triggers of the base in front of the stage's own instructions.
    fn place_triggers(&mut self, index: Index, request: &PlanRequest<'_>) -> Result<(), PlanError> {
        let texts: Vec<String> = match &self.all[index].base {
            Base::Name(_, Some(Resolved::Image { config, .. }))
                if self.all[index].ast.is_some() =>
            {
                config.on_build()
            }
            Base::Stage(base) => self.all[*base]
                .commands
                .iter()
                .filter_map(|c| match &c.instruction.command {
                    Command::Onbuild(onbuild) => Some(onbuild.expression.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        if texts.is_empty() {
            return Ok(());
        }
        let place = self.all[index].place;
        let mut triggers = Vec::with_capacity(texts.len());
        for text in &texts {
            let mut instruction = words::parse_trigger(text).map_err(|mut error| {
                error.span = place.span;
                error.line = place.lines.first;
                error.message = format!("ONBUILD trigger {text:?} of the base: {}", error.message);
                error
            })?;
            instruction.origin.lines = place.lines;
            instruction.origin.span = place.span;
            let mut command = StageCommand::new(instruction, true);
            command.sources = self.sources(&command.instruction, index, request)?;
            triggers.push(command);
        }
        let stage = &mut self.all[index];
        stage.total += triggers.len();
        triggers.append(&mut stage.commands);
        stage.commands = triggers;
        Ok(())
    }
}

impl Stage<'_> {
    fn base_facts(&self, request: &PlanRequest<'_>) -> lint::Base {
        let is_replaced = self.given_name.as_ref().is_some_and(|name| {
            request.has_context(name, request.platform_of(self.platform.as_ref()))
        });
        match &self.base {
            Base::Name(..) if is_replaced => lint::Base::Replaced,
            Base::Stage(index) => lint::Base::Stage(*index),
            Base::Scratch => lint::Base::Scratch,
            Base::Name(_, Some(Resolved::Context(_))) => lint::Base::Directory,
            Base::Name(name, Some(Resolved::Image { config, .. })) => {
                let actual = config.platform();
                // An image without layers is for any platform.
                let has_layers = config.diff_ids().is_ok_and(|ids| !ids.is_empty());
                let expected = self.platform.clone().filter(|_| has_layers);
                lint::Base::Image(ImageFacts {
                    name: name.clone(),
                    is_given: request.has_context(
                        &context_name(name),
                        request.platform_of(self.platform.as_ref()),
                    ),
                    env: config.env(),
                    shell: config.shell(),
                    expected: expected.unwrap_or_else(|| actual.clone()),
                    actual,
                })
            }
            Base::Name(name, Some(Resolved::Unknown) | None) => lint::Base::Unknown(name.clone()),
        }
    }
}

/// An image's name in the form in which `--build-context` has it.
fn context_name(name: &str) -> String {
    let familiar = name.parse::<Reference>().map(|reference| reference.familiar());
    let familiar = familiar.unwrap_or_else(|_| name.to_owned());
    familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned)
}

impl StageCommand {
    fn new(instruction: Instruction, is_on_build: bool) -> Self {
        Self { instruction: Rc::new(instruction), sources: Vec::new(), is_on_build }
    }
}

/// Where a message about an instruction points.
pub(super) fn place_of(instruction: &Instruction) -> Place {
    Place { span: instruction.origin.keyword.span, lines: instruction.origin.lines }
}

fn makes_step(command: &Command) -> bool {
    matches!(command, Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_))
}

fn stage_platform(
    word: &Word,
    ast: &Ast,
    globals: &Env,
    escape: crate::dockerfile::ast::Escape,
) -> Result<Platform, PlanError> {
    let place = Place { span: word.span, lines: ast.from.lines };
    let text = words::expand(word, place, globals, escape)?;
    if text.is_empty() {
        let message = format!("empty platform value from expression {}", word.text);
        return Err(place.error(message).into());
    }
    text.parse().map_err(|error| {
        place.error(format!("failed to parse platform {}: {error}", word.text)).into()
    })
}

/// What [`Resolved`] says of the configuration.
pub(super) fn config_of(resolved: &Resolved) -> Option<&Config> {
    match resolved {
        Resolved::Image { config, .. } => Some(config),
        Resolved::Context(_) | Resolved::Unknown => None,
    }
}
