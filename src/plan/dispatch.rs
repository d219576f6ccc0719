//! Instructions become configuration changes and steps.

use super::stages::{Base, Index, Place, StageCommand, Stages, config_of, place_of};
use super::step::{
    Base as PlanBase, BaseId, ContextId, Copy, CopySource, Files, Network, Op, Plan, Run, Security,
    Step, StepId, Target, Tree, Workdir,
};
use super::{NoCache, PlanError, Request, Resolved, mounts, paths, ports, signals, words};
use crate::dockerfile::ast::{self, Command, CommandLine, Escape, Pair, Word};
use crate::dockerfile::env::{Env, is_scan_argument};
use crate::dockerfile::golang;
use crate::image::{Config, HISTORY_COMMENT, History, Platform};
use std::collections::BTreeMap;

/// The shell of shell forms where SHELL says nothing.
const DEFAULT_SHELL: &[&str] = &["/bin/sh", "-c"];

/// The folder a heredoc script is mounted in.
const SCRIPT_DIR: &str = "/dev/pipes";

/// Walks the reached stages.
pub(super) fn dispatch(request: &Request<'_>, stages: Stages<'_>) -> Result<Plan, PlanError> {
    let mut planner = Planner {
        request,
        states: (0..stages.all.len()).map(|_| None).collect(),
        steps: Vec::new(),
        bases: Vec::new(),
        base_ids: BTreeMap::new(),
        contexts: vec![None],
        context_ids: BTreeMap::new(),
        used_args: stages.globals.names().map(str::to_owned).collect(),
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
    Ok(planner.finish())
}

/// A stage as far as it has been walked.
#[derive(Clone)]
struct State {
    files: Files,
    config: Config,
    /// Which step made the layer of each entry that was added to the history.
    made_by: Vec<Option<StepId>>,
    env: Env,
    /// What ARG declared, in order, with the values they had.
    args: Vec<(String, Option<String>)>,
    platform: Platform,
    /// Whether CMD came in this stage.
    has_cmd: bool,
    /// How many names with a number progress has seen.
    counted: usize,
    /// Whether it starts from an image of which nothing is known.
    is_guess: bool,
}

struct Planner<'a, 'r> {
    request: &'r Request<'a>,
    stages: Stages<'a>,
    states: Vec<Option<State>>,
    steps: Vec<Step>,
    bases: Vec<PlanBase>,
    /// From the caller's number of an image to ours.
    base_ids: BTreeMap<usize, BaseId>,
    contexts: Vec<Option<String>>,
    context_ids: BTreeMap<String, ContextId>,
    used_args: Vec<String>,
}

impl Planner<'_, '_> {
    fn escape(&self) -> Escape {
        self.request.dockerfile.escape
    }

    /// Sets a stage's state to what its base gives.
    fn begin(&mut self, index: Index) -> Result<(), PlanError> {
        let stage = &self.stages.all[index];
        let place = stage.place;
        let platform = stage.platform.clone();
        let mut state = match &stage.base {
            Base::Stage(base) => {
                let mut state = self.states[*base].clone().ok_or_else(|| {
                    place.error(format!("stage {:?} is not built yet", self.stages.all[*base].name))
                })?;
                state.config.set_on_build(&[]);
                state.has_cmd = false;
                state.counted = 0;
                state
            }
            Base::Scratch => State::new(Files::Nothing, None, platform),
            Base::Name(name, resolved) => {
                let resolved = resolved.clone().expect("reached stages are resolved");
                let config = config_of(&resolved).cloned();
                match resolved {
                    Resolved::Image { image, name, .. } => {
                        let id = self.base(index, image, &name);
                        State::new(Files::Base(id), config, platform)
                    }
                    Resolved::Unknown => {
                        let mut state = State::new(Files::Nothing, None, platform);
                        state.is_guess = true;
                        state
                    }
                    // Read where it is; nothing starts from it.
                    Resolved::Context(_) if stage.ast.is_none() => {
                        State::new(Files::Nothing, config, platform)
                    }
                    Resolved::Context(context) => {
                        let name = name.clone();
                        let tree = self.context(Some(context));
                        let state = State::new(Files::Nothing, config, platform);
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
        self.states[index] = Some(state);
        Ok(())
    }

    fn base(&mut self, index: Index, image: usize, name: &str) -> BaseId {
        if let Some(&id) = self.base_ids.get(&image) {
            return id;
        }
        let id = BaseId(self.bases.len());
        let step_name = format!("{}FROM {name}", self.stages.all[index].prefix(1));
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

    /// `FROM` a folder: all of it, as one layer.
    fn whole_context(
        &mut self,
        index: Index,
        name: &str,
        context: ContextId,
        mut state: State,
    ) -> State {
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
            let result = self.command(index, number, command);
            // The variable may well be the unknown image's.
            let may_be_right =
                self.state(index).is_guess && command.instruction.origin.original.contains('$');
            if !may_be_right {
                result?;
            }
        }
        Ok(())
    }

    fn state(&mut self, index: Index) -> &mut State {
        self.states[index].as_mut().expect("the stage has begun")
    }

    fn expand(&mut self, index: Index, word: &Word, place: Place) -> Result<String, PlanError> {
        let escape = self.escape();
        words::expand(word, place.at(word), &self.state(index).env, escape)
    }

    fn expand_all(
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
                let config = &mut self.state(index).config;
                let mut triggers = config.on_build();
                triggers.push(onbuild.expression.clone());
                config.set_on_build(&triggers);
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

    fn run(
        &mut self,
        index: Index,
        number: usize,
        command: &StageCommand,
        run: &ast::Run,
    ) -> Result<(), PlanError> {
        let instruction = &*command.instruction;
        let place = place_of(instruction);
        if let Some(span) = instruction.origin.invalid_utf8 {
            let place = Place { span, ..place };
            return Err(not_text(place).into());
        }
        if let Some(device) = run.devices.first() {
            return Err(place.at(device).error("RUN --device is not supported").into());
        }
        let escape = self.escape();
        let resolved = mounts::resolve(run, place, &self.state(index).env, escape)?;
        let mut planned = Vec::with_capacity(resolved.len());
        for (mount, source) in resolved.into_iter().zip(&command.sources) {
            let tree = match source {
                Some(source) => Some(Tree::Files(self.files_of(*source, index, place, "mount")?)),
                None => None,
            };
            let tree = self.tree_or_context(*source, tree);
            let cwd = self.state(index).config.working_dir().to_owned();
            planned.push(mounts::plan(&mount, tree, &cwd, place)?);
        }

        let mut shown = instruction.origin.original.clone();
        let mut script = None;
        let state = self.state(index);
        let argv = match (&run.command, run.heredocs.first()) {
            (CommandLine::Shell(word), Some(first)) => {
                let text = if words::is_only_heredoc(&word.text) {
                    let body = first.content();
                    shown += &format!(" ({})", first_line(&words::text_of(&body)));
                    if body.starts_with(b"#!") {
                        script = Some((paths::join(SCRIPT_DIR, &first.name), body));
                        None
                    } else {
                        Some(text_of_run(body, first.span, place)?)
                    }
                } else {
                    let mut text = word.text.clone();
                    for heredoc in &run.heredocs {
                        text.push('\n');
                        text += &text_of_run(heredoc.body.clone(), heredoc.span, place)?;
                        text += &heredoc.name;
                    }
                    Some(text)
                };
                match (text, &script) {
                    (Some(text), _) => state.with_shell(&text),
                    // A script goes to the shell as a command of one word.
                    (None, Some((path, _))) => state.with_shell(path),
                    (None, None) => unreachable!("a heredoc is a text or a script"),
                }
            }
            (line, _) => state.argv(line),
        };
        let names = state.args.iter().map(|(name, _)| name.clone()).collect();
        let message = state.run_message(&argv);
        let env = state.env.clone();
        let secret_names: Vec<String> = planned
            .iter()
            .filter_map(|mount| match &mount.kind {
                super::MountKind::Secret { env: Some(name), .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        let cwd = match state.config.working_dir() {
            "" => "/".to_owned(),
            path => paths::clean(path),
        };
        let op = Op::Run(Box::new(Run {
            argv,
            env: env.pairs().to_vec(),
            args: names,
            proxy: words::proxies(&self.request.build_args),
            user: self.state(index).config.user().to_owned(),
            cwd,
            network: match run.network {
                ast::Network::Default => Network::Default,
                ast::Network::None => Network::None,
                ast::Network::Host => Network::Host,
            },
            security: match run.security {
                ast::Security::Sandbox => Security::Sandbox,
                ast::Security::Insecure => Security::Insecure,
            },
            mounts: planned,
            script,
        }));
        let shown = words::show_run(&shown, &env, &secret_names, escape);
        let id = self.step(index, number, command, &shown, op);
        self.state(index).commit(format!("RUN {message} # buildkit"), Some(id));
        Ok(())
    }

    /// The files of a stage that another reads, which must come before it.
    fn files_of(
        &mut self,
        source: Index,
        reader: Index,
        place: Place,
        verb: &str,
    ) -> Result<Files, PlanError> {
        match &self.states[source] {
            Some(state) if source != reader => Ok(state.files),
            _ => {
                let (from, to) = (&self.stages.all[source].name, &self.stages.all[reader].name);
                let message = format!(
                    "cannot {verb} from stage {from:?}, it needs to be defined before current stage {to:?}"
                );
                Err(place.error(message).into())
            }
        }
    }

    /// A name after `from` may be a folder given by `--build-context`.
    fn tree_or_context(&mut self, source: Option<Index>, tree: Option<Tree>) -> Option<Tree> {
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

    fn copy(
        &mut self,
        index: Index,
        number: usize,
        command: &StageCommand,
        copy: CopyLike<'_>,
    ) -> Result<(), PlanError> {
        let instruction = &*command.instruction;
        let place = place_of(instruction);
        let escape = self.escape();
        let transfer = copy.transfer();
        let optional = |planner: &mut Self, word: Option<&Word>| match word {
            Some(word) => planner.expand(index, word, place).map(|t| (!t.is_empty()).then_some(t)),
            None => Ok(None),
        };
        let chown = optional(self, copy.chown())?;
        let chmod = optional(self, copy.chmod())?;
        let checksum = optional(self, copy.checksum())?;
        let names = self.expand_all(index, &transfer.sources, place)?;
        let dest = self.expand(index, &transfer.dest, place)?;

        let mut message = copy.keyword().to_owned();
        if copy.keeps_parents() {
            message += " --parents";
        }
        if let Some(chown) = &chown {
            message += &format!(" --chown={chown}");
        }
        if let Some(chmod) = &chmod {
            message += &format!(" --chmod={chmod}");
        }
        let mut sources = Vec::with_capacity(names.len() + transfer.inline.len());
        for (name, word) in names.into_iter().zip(&transfer.sources) {
            message += &format!(" {name}");
            sources.push(words::copy_source(name, copy.is_add(), place.at(word))?);
        }
        if checksum.is_some() {
            let is_remote =
                sources.iter().all(|s| matches!(s, CopySource::Url(_) | CopySource::Git(_)));
            if sources.len() != 1 {
                return Err(place.error("checksum can't be specified for multiple sources").into());
            }
            if !is_remote {
                return Err(place.error("checksum requires HTTP(S) or Git sources").into());
            }
        }
        for inline in &transfer.inline {
            let heredoc = &inline.heredoc;
            let data = if heredoc.expand {
                words::expand_body(heredoc, place, &self.state(index).env)?.into_bytes()
            } else {
                heredoc.content()
            };
            message += &format!(" <<{}", heredoc.name);
            sources.push(CopySource::Inline { name: heredoc.name.clone(), data });
        }
        message += &format!(" {dest}");

        let tree = match command.sources.first().copied().flatten() {
            Some(source) => {
                let files = self.files_of(source, index, place, "copy")?;
                self.tree_or_context(Some(source), Some(Tree::Files(files)))
                    .unwrap_or(Tree::Files(files))
            }
            None => Tree::Context(ContextId(0)),
        };
        if let Some(chmod) = &chmod {
            words::check_chmod(chmod).map_err(|text| place.error(text))?;
        }
        let state = self.state(index);
        let op = Op::Copy(Box::new(Copy {
            is_add: copy.is_add(),
            tree,
            sources,
            dest: paths::destination(state.config.working_dir(), &dest),
            chown,
            chmod,
            is_link: copy.is_link(),
            keeps_parents: copy.keeps_parents(),
            excludes: copy.excludes().iter().map(|word| word.text.clone()).collect(),
            checksum,
            keep_git_dir: copy.keep_git_dir(),
            unpack: copy.unpack(),
        }));
        let shown = words::show(&instruction.origin.original, &state.env, escape);
        let id = self.step(index, number, command, &shown, op);
        self.state(index).commit(format!("{message} # buildkit"), Some(id));
        Ok(())
    }

    /// Adds a step on top of the stage.
    fn step(
        &mut self,
        index: Index,
        number: usize,
        command: &StageCommand,
        shown: &str,
        op: Op,
    ) -> StepId {
        let stage = &self.stages.all[index];
        let state = self.states[index].as_mut().expect("the stage has begun");
        state.counted += 1;
        let mark = if command.is_on_build { "ONBUILD " } else { "" };
        let (keyword, rest) = shown.split_once(' ').unwrap_or((shown, ""));
        let text = format!("{} {rest}", keyword.to_uppercase());
        let lines = command.instruction.origin.lines;
        let step = Step {
            name: format!("{}{mark}{}", stage.prefix(state.counted), text.trim_end()),
            instruction: command.instruction.origin.original.clone(),
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
        let mut state = self.states[target].take().expect("the target is reached");
        for (name, value) in &self.request.labels {
            state.config.set_label(name, value);
        }
        if let Some(platform) = &self.request.platform {
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
            target: Target {
                stage: given.clone().unwrap_or_else(|| target.to_string()),
                files: state.files,
                config: state.config,
                made_by: state.made_by,
                platform: state.platform,
            },
            unused_args,
        }
    }
}

impl State {
    fn new(files: Files, config: Option<Config>, platform: Option<Platform>) -> Self {
        let platform = platform.expect("reached stages have a platform");
        let config = config.unwrap_or_else(|| {
            let mut config = Config::empty(&platform);
            config.set_working_dir("/");
            config
        });
        Self {
            files,
            config,
            made_by: Vec::new(),
            env: Env::default(),
            args: Vec::new(),
            platform,
            has_cmd: false,
            counted: 0,
            is_guess: false,
        }
    }

    /// Adds an entry to the history; `step` made its layer.
    fn commit(&mut self, created_by: String, step: Option<StepId>) {
        self.config.push_history(&History {
            created_by,
            comment: HISTORY_COMMENT.to_owned(),
            empty_layer: step.is_none(),
            ..History::default()
        });
        self.made_by.push(step);
    }

    fn with_shell(&self, text: &str) -> Vec<String> {
        let mut argv = self.config.shell().unwrap_or_default();
        if argv.is_empty() {
            argv = DEFAULT_SHELL.iter().map(|&word| word.to_owned()).collect();
        }
        argv.push(text.to_owned());
        argv
    }

    fn argv(&self, line: &CommandLine) -> Vec<String> {
        match line {
            CommandLine::Shell(word) => self.with_shell(&word.text),
            CommandLine::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        }
    }

    /// `|2 A=1 B=2 /bin/sh -c make`: the arguments a RUN could see come first.
    fn run_message(&self, argv: &[String]) -> String {
        let mut shown: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &self.args {
            let value = self.env.get(name).or(value.as_deref()).unwrap_or_default();
            match shown.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => *old = value,
                None => shown.push((name, value)),
            }
        }
        let mut parts = Vec::with_capacity(shown.len() + argv.len() + 1);
        if !shown.is_empty() {
            parts.push(format!("|{}", shown.len()));
        }
        parts.extend(shown.iter().map(|(name, value)| format!("{name}={value}")));
        parts.extend_from_slice(argv);
        parts.join(" ")
    }
}

impl super::stages::Stage<'_> {
    /// `[build  2/12] `: which of the stage's steps this is; nothing where they are not counted.
    fn prefix(&self, number: usize) -> String {
        if self.total == 0 {
            return String::new();
        }
        let width = self.total.to_string().len();
        let space = if self.name.is_empty() { "" } else { " " };
        format!("[{}{space}{number:>width$}/{}] ", self.name, self.total)
    }
}

impl Place {
    /// The same lines, pointing at `word`.
    pub(super) fn at(self, word: &Word) -> Self {
        Self { span: word.span, ..self }
    }
}

/// What a RUN cannot be: an argument of a process may be any bytes, but BuildKit's are text, and so
/// are the keys and the history.
fn not_text(place: Place) -> crate::dockerfile::errors::Error {
    place.error("RUN holds bytes that are not UTF-8")
}

fn text_of_run(body: Vec<u8>, span: ast::Span, place: Place) -> Result<String, PlanError> {
    String::from_utf8(body).map_err(|_| {
        not_text(Place { span, ..place })
            .with_hint("begin the heredoc with a #! line: then it is a file, of any bytes")
            .into()
    })
}

fn first_line(text: &str) -> String {
    let text = text.trim();
    match text.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => text.to_owned(),
    }
}

fn healthcheck_message(check: &ast::Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        golang::list(&check.test),
        golang::duration(check.interval),
        golang::duration(check.timeout),
        golang::duration(check.start_period),
        golang::duration(check.start_interval),
        check.retries
    )
}

fn healthcheck_json(check: &ast::Healthcheck) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    object.insert("Test".into(), serde_json::json!(check.test));
    for (key, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", i64::from(check.retries)),
    ] {
        if value != 0 {
            object.insert(key.into(), value.into());
        }
    }
    object.into()
}

/// COPY and ADD, which differ in their flags.
#[derive(Clone, Copy)]
enum CopyLike<'a> {
    Copy(&'a ast::Copy),
    Add(&'a ast::Add),
}

impl<'a> CopyLike<'a> {
    fn transfer(&self) -> &'a ast::Transfer {
        match self {
            Self::Copy(copy) => &copy.transfer,
            Self::Add(add) => &add.transfer,
        }
    }

    fn keyword(&self) -> &'static str {
        if self.is_add() { "ADD" } else { "COPY" }
    }

    fn is_add(&self) -> bool {
        matches!(self, Self::Add(_))
    }

    fn chown(&self) -> Option<&'a Word> {
        match self {
            Self::Copy(copy) => copy.chown.as_ref(),
            Self::Add(add) => add.chown.as_ref(),
        }
    }

    fn chmod(&self) -> Option<&'a Word> {
        match self {
            Self::Copy(copy) => copy.chmod.as_ref(),
            Self::Add(add) => add.chmod.as_ref(),
        }
    }

    fn is_link(&self) -> bool {
        match self {
            Self::Copy(copy) => copy.link,
            Self::Add(add) => add.link,
        }
    }

    fn keeps_parents(&self) -> bool {
        matches!(self, Self::Copy(copy) if copy.parents)
    }

    fn excludes(&self) -> &'a [Word] {
        match self {
            Self::Copy(copy) => &copy.exclude,
            Self::Add(add) => &add.exclude,
        }
    }

    fn checksum(&self) -> Option<&'a Word> {
        match self {
            Self::Copy(_) => None,
            Self::Add(add) => add.checksum.as_ref(),
        }
    }

    fn keep_git_dir(&self) -> Option<bool> {
        match self {
            Self::Copy(_) => None,
            Self::Add(add) => add.keep_git_dir,
        }
    }

    fn unpack(&self) -> Option<bool> {
        match self {
            Self::Copy(_) => None,
            Self::Add(add) => add.unpack,
        }
    }
}
