//! Instructions become configuration changes and steps.
//!
//! A mistake in an instruction whose effect no other sees the value of is put aside and the walk
//! goes on, so that one run shows them all; one in ENV, ARG or WORKDIR ends it.
//!
//! # Not here
//!
//! RUN: [`super::run`]. COPY and ADD: [`super::copy`]. The stage being walked: [`super::state`].

use super::copy::CopyLike;
use super::stages::{Base, Index, Place, StageCommand, Stages, config_of, place_of};
use super::state::{StageState, healthcheck_json, healthcheck_message};
use super::step::{
    Base as PlanBase, BaseId, ContextId, Copy, CopySource, Files, Op, Plan, Step, StepId, Target,
    Tree, Workdir,
};
use super::{NoCache, PlanError, PlanRequest, Resolved, paths, ports, signals, words};
use crate::dockerfile::ast::{self, Command, Escape, Pair, Word};
use crate::dockerfile::env::is_scan_argument;
use crate::dockerfile::errors::Error;
use crate::dockerfile::golang;
use crate::oci::Platform;
use crate::show;
use std::collections::BTreeMap;

/// Walks the reached stages.
pub(super) fn dispatch(request: &PlanRequest<'_>, stages: Stages<'_>) -> Result<Plan, PlanError> {
    let mut planner = Planner {
        request,
        states: (0..stages.all.len()).map(|_| Walked::NotYet).collect(),
        last_child: stages.last_children(),
        steps: Vec::new(),
        bases: Vec::new(),
        base_ids: BTreeMap::new(),
        contexts: vec![None],
        context_ids: BTreeMap::new(),
        used_args: stages.globals.names().map(str::to_owned).collect(),
        errors: Vec::new(),
        stages,
    };
    // Images first: a stage may read them wherever they are named.
    for index in planner.stages.named..planner.stages.all.len() {
        if planner.stages.reached.contains(&index) {
            planner.begin(index)?;
        }
    }
    for index in 0..planner.stages.named {
        if planner.stages.reached.contains(&index) {
            planner.stage(index)?;
        }
    }
    match planner.errors.is_empty() {
        true => Ok(planner.finish()),
        false => Err(PlanError::Dockerfile(planner.errors)),
    }
}

/// Makes steps of instructions.
pub(super) struct Planner<'a, 'r> {
    pub(super) request: &'r PlanRequest<'a>,
    pub(super) stages: Stages<'a>,
    states: Vec<Walked>,
    /// The last stage that starts from each, which needs no copy of its state.
    last_child: BTreeMap<Index, Index>,
    steps: Vec<Step>,
    bases: Vec<PlanBase>,
    /// From the caller's number of an image to ours.
    base_ids: BTreeMap<usize, BaseId>,
    contexts: Vec<Option<String>>,
    context_ids: BTreeMap<String, ContextId>,
    used_args: Vec<String>,
    /// Mistakes that the walk went on behind.
    errors: Vec<Error>,
}

/// What is known of a stage.
enum Walked {
    NotYet,
    As(Box<StageState>),
    /// Its state went on into the last stage that starts from it; others can still read its files.
    Handed(Files),
}

impl Walked {
    fn begun(&mut self) -> &mut StageState {
        match self {
            Self::As(state) => state,
            Self::NotYet | Self::Handed(_) => unreachable!("the stage is being walked"),
        }
    }

    /// Returns its state, where that is still here.
    fn copy(&self) -> Option<StageState> {
        match self {
            Self::As(state) => Some((**state).clone()),
            Self::NotYet | Self::Handed(_) => None,
        }
    }

    /// Takes its state, and leaves its files.
    fn hand_on(&mut self) -> Option<StageState> {
        let Self::As(state) = std::mem::replace(self, Self::NotYet) else { return None };
        *self = Self::Handed(state.files);
        Some(*state)
    }
}

impl Planner<'_, '_> {
    pub(super) fn escape(&self) -> Escape {
        self.request.dockerfile.escape
    }

    /// Sets a stage's state to what its base gives.
    fn begin(&mut self, index: Index) -> Result<(), PlanError> {
        let stage = &self.stages.all[index];
        let place = stage.place;
        let platform = stage.platform.clone();
        let mut state = match &stage.base {
            Base::Stage(base) => {
                let is_last = self.last_child.get(base) == Some(&index);
                let walked = &mut self.states[*base];
                let state = if is_last { walked.hand_on() } else { walked.copy() };
                let mut state = state.ok_or_else(|| {
                    place.error(format!("stage {:?} is not built yet", self.stages.all[*base].name))
                })?;
                state.config.set_on_build(&[]);
                state.has_cmd = false;
                state.counted = 0;
                state
            }
            Base::Scratch => {
                let target = self.request.platform.as_ref();
                let target = target.unwrap_or(&self.request.build_platform).clone();
                let mut state = StageState::new(Files::Nothing, None, platform);
                state.config.set_platform(&target);
                state.image_platform = target;
                state
            }
            Base::Name(name, resolved) => {
                let resolved = resolved.clone().expect("reached stages are resolved");
                let config = config_of(&resolved).cloned();
                match resolved {
                    Resolved::Image { image, name, .. } => {
                        let id = self.base(index, image, &name);
                        StageState::new(Files::Base(id), config, platform)
                    }
                    Resolved::Unknown => {
                        let mut state = StageState::new(Files::Nothing, None, platform);
                        state.is_guess = true;
                        state
                    }
                    // Read where it is; nothing starts from it.
                    Resolved::Context(_) if stage.ast.is_none() => {
                        StageState::new(Files::Nothing, config, platform)
                    }
                    Resolved::Context(context) => {
                        let name = name.clone();
                        let tree = self.context(Some(context));
                        let state = StageState::new(Files::Nothing, config, platform);
                        self.whole_context(index, &name, tree, state)
                    }
                }
            }
        };
        if matches!(self.stages.all[index].base, Base::Name(..)) {
            state.config.set_on_build(&[]);
        }
        if state.config.env_var("PATH").is_none() {
            state.config.set_env("PATH", super::DEFAULT_PATH);
        }
        for (name, value) in state.config.env() {
            state.env.set(&name, &value);
        }
        if !state.config.working_dir().is_empty() {
            let path = paths::workdir("/", state.config.working_dir());
            state.config.set_working_dir(&path);
        }
        self.states[index] = Walked::As(Box::new(state));
        Ok(())
    }

    fn base(&mut self, index: Index, image: usize, name: &str) -> BaseId {
        if let Some(&id) = self.base_ids.get(&image) {
            return id;
        }
        let id = BaseId(self.bases.len());
        let stage = &self.stages.all[index];
        let platform = stage.platform.as_ref().filter(|_| self.request.names_platforms);
        let platform = platform.map(ToString::to_string);
        let step_name = format!("{}FROM {name}", stage.prefix(1, platform.as_deref()));
        self.bases.push(PlanBase { name: name.to_owned(), image, step_name });
        self.base_ids.insert(image, id);
        id
    }

    fn context(&mut self, name: Option<String>) -> ContextId {
        let Some(name) = name else { return ContextId(0) };
        if let Some(&id) = self.context_ids.get(&name) {
            return id;
        }
        let id = ContextId(self.contexts.len());
        self.contexts.push(Some(name.clone()));
        self.context_ids.insert(name, id);
        id
    }

    /// `FROM` a directory: all of it, as one layer.
    fn whole_context(
        &mut self,
        index: Index,
        name: &str,
        context: ContextId,
        mut state: StageState,
    ) -> StageState {
        let copy = Copy {
            is_add: false,
            tree: Tree::Context(context),
            sources: vec![CopySource::Path("/".into())],
            dest: "/".into(),
            chown: None,
            chmod: None,
            is_link: false,
            keeps_parents: false,
            excludes: Vec::new(),
            checksum: None,
            keep_git_dir: None,
            unpack: None,
        };
        let stage = &self.stages.all[index];
        let step = Step {
            name: format!("[context {name}] load"),
            instruction: format!("FROM {name}"),
            stage: stage.name.clone(),
            index: 0,
            lines: (stage.place.lines.first, stage.place.lines.last),
            parent: Files::Nothing,
            op: Op::Copy(Box::new(copy)),
            ignore_cache: false,
            platform: state.platform.clone(),
        };
        self.steps.push(step);
        let id = StepId(self.steps.len() - 1);
        state.files = Files::Step(id);
        state.commit(format!("FROM {name}"), Some(id));
        state
    }

    fn stage(&mut self, index: Index) -> Result<(), PlanError> {
        self.begin(index)?;
        if matches!(self.stages.all[index].base, Base::Name(_, Some(Resolved::Image { .. }))) {
            self.state(index).counted = 1;
        }
        let commands = self.stages.all[index].commands.clone();
        for (number, command) in commands.iter().enumerate() {
            let Err(error) = self.command(index, number, command) else { continue };
            // The variable may well be the unknown image's.
            let may_be_right =
                self.state(index).is_guess && command.instruction.origin.original.contains('$');
            if may_be_right {
                continue;
            }
            let PlanError::Dockerfile(errors) = error else { return Err(error) };
            self.errors.extend(errors);
            if is_seen_by_others(&command.instruction.command) {
                return Err(PlanError::Dockerfile(std::mem::take(&mut self.errors)));
            }
        }
        Ok(())
    }

    pub(super) fn state(&mut self, index: Index) -> &mut StageState {
        self.states[index].begun()
    }

    pub(super) fn expand(
        &mut self,
        index: Index,
        word: &Word,
        place: Place,
    ) -> Result<String, PlanError> {
        let escape = self.escape();
        words::expand(word, place.at(word), &self.state(index).env, escape)
    }

    pub(super) fn expand_all(
        &mut self,
        index: Index,
        words: &[Word],
        place: Place,
    ) -> Result<Vec<String>, PlanError> {
        words.iter().map(|word| self.expand(index, word, place)).collect()
    }

    fn pairs(
        &mut self,
        index: Index,
        pairs: &[Pair],
        place: Place,
    ) -> Result<Vec<(String, String)>, PlanError> {
        pairs
            .iter()
            .map(|pair| {
                Ok((
                    self.expand(index, &pair.name, place)?,
                    self.expand(index, &pair.value, place)?,
                ))
            })
            .collect()
    }

    fn command(
        &mut self,
        index: Index,
        number: usize,
        command: &StageCommand,
    ) -> Result<(), PlanError> {
        let instruction = &*command.instruction;
        let place = place_of(instruction);
        match &instruction.command {
            Command::Env(pairs) => {
                let pairs = self.pairs(index, pairs, place)?;
                let state = self.state(index);
                let mut message = "ENV".to_owned();
                for (name, value) in &pairs {
                    state.env.set(name, value);
                    state.config.set_env(name, value);
                    message += &format!(" {name}={value}");
                }
                state.commit(message, None);
            }
            Command::Label(pairs) => {
                let pairs = self.pairs(index, pairs, place)?;
                let state = self.state(index);
                let mut message = "LABEL".to_owned();
                for (name, value) in pairs {
                    message += &format!(" {name}={value}");
                    state.config.set_label(&name, &value);
                }
                state.commit(message, None);
            }
            Command::Arg(declarations) => self.arg(index, declarations, place)?,
            Command::Maintainer(name) => {
                let state = self.state(index);
                state.config.set_author(&name.text);
                state.commit(format!("MAINTAINER {}", name.text), None);
            }
            Command::Cmd(line) => {
                let state = self.state(index);
                let argv = state.argv(line);
                state.commit(format!("CMD {}", golang::quoted_list(&argv)), None);
                state.config.set_cmd(Some(&argv));
                state.config.set("ArgsEscaped", true.into());
                state.has_cmd = true;
            }
            Command::Entrypoint(line) => {
                let state = self.state(index);
                let argv = state.argv(line);
                state.commit(format!("ENTRYPOINT {}", golang::quoted_list(&argv)), None);
                state.config.set_entrypoint(Some(&argv));
                if !state.has_cmd {
                    state.config.set_cmd(None);
                }
            }
            Command::Healthcheck(check) => {
                let state = self.state(index);
                state.commit(healthcheck_message(check), None);
                state.config.set_healthcheck(Some(healthcheck_json(check)));
            }
            Command::Expose(words) => self.expose(index, words, place)?,
            Command::User(word) => {
                let user = self.expand(index, word, place)?;
                let state = self.state(index);
                state.commit(format!("USER {user}"), None);
                state.config.set_user(&user);
            }
            Command::Volume(words) => {
                let volumes = self.expand_all(index, words, place)?;
                if volumes.iter().any(String::is_empty) {
                    return Err(place.error("VOLUME specified can not be an empty string").into());
                }
                let state = self.state(index);
                state.commit(format!("VOLUME {}", golang::list(&volumes)), None);
                for volume in &volumes {
                    state.config.add_volume(volume);
                }
            }
            Command::Stopsignal(word) => {
                let signal = self.expand(index, word, place)?;
                if signals::signal_number(&signal).is_none() {
                    return Err(place.at(word).error(format!("invalid signal: {signal}")).into());
                }
                let state = self.state(index);
                state.commit(format!("STOPSIGNAL {signal}"), None);
                state.config.set_stop_signal(&signal);
            }
            Command::Shell(words) => {
                let shell: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
                let state = self.state(index);
                state.commit(format!("SHELL {}", golang::list(&shell)), None);
                state.config.set_shell(&shell);
            }
            Command::Onbuild(onbuild) => {
                self.state(index).config.add_on_build(&onbuild.expression);
            }
            Command::Workdir(word) => self.workdir(index, number, command, word)?,
            Command::Run(run) => self.run(index, number, command, run)?,
            Command::Copy(copy) => self.copy(index, number, command, CopyLike::Copy(copy))?,
            Command::Add(add) => self.copy(index, number, command, CopyLike::Add(add))?,
        }
        Ok(())
    }

    fn arg(
        &mut self,
        index: Index,
        declarations: &[ast::ArgDeclaration],
        place: Place,
    ) -> Result<(), PlanError> {
        let mut shown = Vec::with_capacity(declarations.len());
        for declaration in declarations {
            let name = &declaration.name.text;
            let given = self.request.build_args.get(name).cloned();
            let value = match (given, &declaration.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(self.expand(index, default, place)?),
                (None, None) => self.stages.globals.get(name).map(str::to_owned),
            };
            self.used_args.push(name.clone());
            let state = self.state(index);
            match &value {
                Some(value) => {
                    if !is_scan_argument(name) {
                        state.env.set(name, value);
                    }
                    shown.push(format!("{name}={value}"));
                }
                None => shown.push(name.clone()),
            }
            state.args.push((name.clone(), value));
        }
        self.state(index).commit(format!("ARG {}", shown.join(" ")), None);
        Ok(())
    }

    fn expose(&mut self, index: Index, words: &[Word], place: Place) -> Result<(), PlanError> {
        let escape = self.escape();
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.text.cmp(&b.text));
        let mut found = Vec::new();
        for word in sorted {
            let place = place.at(word);
            for port in words::expand_split(word, place, &self.state(index).env, escape)? {
                found.extend(ports::parse(&port).map_err(|message| place.error(message))?);
            }
        }
        let state = self.state(index);
        state.commit(format!("EXPOSE {}", golang::list(&found)), None);
        for port in &found {
            state.config.add_exposed_port(port);
        }
        Ok(())
    }

    fn workdir(
        &mut self,
        index: Index,
        number: usize,
        command: &StageCommand,
        word: &Word,
    ) -> Result<(), PlanError> {
        let path = self.expand(index, word, place_of(&command.instruction))?;
        let escape = self.escape();
        let state = self.state(index);
        let path = paths::workdir(state.config.working_dir(), &path);
        state.config.set_working_dir(&path);
        let message = format!("WORKDIR {path}");
        if path == "/" {
            state.commit(message, None);
            return Ok(());
        }
        let user = state.config.user().to_owned();
        let shown = words::show(&command.instruction.origin.original, &state.env, escape);
        let id = self.step(index, number, command, &shown, Op::Workdir(Workdir { path, user }));
        self.state(index).commit(message, Some(id));
        Ok(())
    }

    /// The files of a stage that another reads, which must come before it.
    pub(super) fn files_of(
        &mut self,
        source: Index,
        reader: Index,
        place: Place,
        verb: &str,
    ) -> Result<Files, PlanError> {
        match &self.states[source] {
            Walked::As(state) if source != reader => Ok(state.files),
            Walked::Handed(files) if source != reader => Ok(*files),
            _ => {
                let (from, to) = (&self.stages.all[source].name, &self.stages.all[reader].name);
                let message = format!(
                    "cannot {verb} from stage {from:?}, it needs to be defined before current stage {to:?}"
                );
                Err(place.error(message).into())
            }
        }
    }

    /// A name after `from` may be a directory given by `--build-context`.
    pub(super) fn tree_or_context(
        &mut self,
        source: Option<Index>,
        tree: Option<Tree>,
    ) -> Option<Tree> {
        let index = source?;
        let is_image_only = self.stages.all[index].ast.is_none();
        match &self.stages.all[index].base {
            Base::Name(_, Some(Resolved::Context(name))) if is_image_only => {
                let name = name.clone();
                Some(Tree::Context(self.context(Some(name))))
            }
            _ => tree,
        }
    }

    /// Adds a step on top of the stage.
    pub(super) fn step(
        &mut self,
        index: Index,
        number: usize,
        command: &StageCommand,
        shown: &str,
        op: Op,
    ) -> StepId {
        let stage = &self.stages.all[index];
        let state = self.states[index].begun();
        state.counted += 1;
        let mark = if command.is_on_build { "ONBUILD " } else { "" };
        let (keyword, rest) = shown.split_once(' ').unwrap_or((shown, ""));
        let text = format!("{} {rest}", keyword.to_uppercase());
        let lines = command.instruction.origin.lines;
        let platform = self.request.names_platforms.then(|| {
            let target = self.request.platform.as_ref().unwrap_or(&state.platform);
            between(&state.platform, target)
        });
        let step = Step {
            name: format!(
                "{}{mark}{}",
                stage.prefix(state.counted, platform.as_deref()),
                show::addresses(text.trim_end())
            ),
            instruction: show::addresses(&command.instruction.origin.original).into_owned(),
            stage: stage.given_name.clone().unwrap_or_else(|| index.to_string()),
            index: number,
            lines: (lines.first, lines.last),
            parent: state.files,
            op,
            ignore_cache: match &self.request.no_cache {
                NoCache::Never => false,
                NoCache::Always => true,
                NoCache::Stages(names) => {
                    stage.given_name.as_ref().is_some_and(|name| names.contains(name))
                }
            },
            platform: state.platform.clone(),
        };
        let id = StepId(self.steps.len());
        self.steps.push(step);
        state.files = Files::Step(id);
        id
    }

    fn finish(mut self) -> Plan {
        let target = self.stages.target;
        let mut state = self.states[target].hand_on().expect("the target is reached");
        for (name, value) in &self.request.labels {
            state.config.set_label(name, value);
        }
        // What a base of another platform holds does not become one of this by its label.
        if let Some(platform) = self.request.platform.as_ref().filter(|_| !state.is_foreign) {
            let known = state.config.platform();
            let is_same =
                (&known.os, &known.architecture) == (&platform.os, &platform.architecture);
            // A variant that only the base knows stays.
            if !(is_same && platform.variant.is_empty()) {
                state.config.set_platform(platform);
            }
        }
        let unused_args = self
            .request
            .build_args
            .keys()
            .filter(|name| !self.used_args.contains(name) && !words::is_predefined(name))
            .cloned()
            .collect();
        let given = &self.stages.all[target].given_name;
        Plan {
            steps: self.steps,
            bases: self.bases,
            contexts: self.contexts,
            targets: vec![Target {
                stage: given.clone().unwrap_or_else(|| target.to_string()),
                files: state.files,
                config: state.config,
                made_by: state.made_by,
                platform: state.image_platform,
                wanted: self.request.platform_of(None).clone(),
            }],
            unused_args,
        }
    }
}

impl super::stages::Stage<'_> {
    /// `[build  2/12] `: which of the stage's steps this is; nothing where they are not counted.
    fn prefix(&self, number: usize, platform: Option<&str>) -> String {
        if self.total == 0 {
            return String::new();
        }
        let width = self.total.to_string().len();
        let words = platform.into_iter().chain((!self.name.is_empty()).then_some(&*self.name));
        let number = format!("{number:>width$}/{}", self.total);
        let words: Vec<&str> = words.chain([&*number]).collect();
        format!("[{}] ", words.join(" "))
    }
}

impl Place {
    /// The same lines, pointing at `word`.
    pub(super) fn at(self, word: &Word) -> Self {
        Self { span: word.span, ..self }
    }
}

/// `linux/amd64->arm64`: the platform of a step that makes something for another, and that one as
/// far as it differs.
fn between(own: &Platform, target: &Platform) -> String {
    if own == target {
        return own.to_string();
    }
    let text = target.to_string();
    let other = match own.os == target.os {
        true => text.split_once('/').map_or(&*text, |(_, rest)| rest),
        false => &text,
    };
    format!("{own}->{other}")
}

/// Whether what comes behind an instruction depends on what it says.
fn is_seen_by_others(command: &Command) -> bool {
    matches!(command, Command::Arg(_) | Command::Env(_) | Command::Workdir(_))
}
