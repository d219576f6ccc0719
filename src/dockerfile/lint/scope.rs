//! The instructions of the stages that count, each with the variables it sees.
//!
//! A stage begins with what its base ends with: an earlier stage's variables, declared arguments
//! and shell, or an image's. What an instruction does to them is all that is kept here; what may be
//! wrong with it is asked in the files of the families.

use super::rules::UNDEFINED_VAR;
use super::suggest::suggest;
use super::{Base, Findings, Input, Options, Site, StageFacts, copies, instructions, runs};
use crate::dockerfile::ast::{ArgDeclaration, Command, Instruction, MountFlag, Pair, Word};
use crate::dockerfile::env::{self, DEFAULT_PATH, Env, is_scan_argument};
use crate::dockerfile::expand::Lexer;
use std::collections::BTreeSet;

/// What a stage has at one of its instructions.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    env: Env,
    /// Whether `env` has all there is: false on an image that is not at hand.
    is_env_known: bool,
    /// Arguments that an ARG declared, with or without a value.
    declared: BTreeSet<String>,
    /// Whether a WORKDIR of this file came before.
    pub(super) has_workdir: bool,
    /// What SHELL says, here or in the base; `None` for the default.
    pub(super) shell: Option<Vec<String>>,
    /// The CMD, ENTRYPOINT and HEALTHCHECK that this stage had last.
    pub(super) last: instructions::Last,
    /// Whether what the stage makes is in the image, rather than copied from.
    pub(super) is_shipped: bool,
    /// What COPYs of this stage have brought so far.
    pub(super) copied: copies::Copied,
}

/// An instruction about to be checked.
pub(super) struct Context<'a, 'r> {
    pub(super) input: &'a Input<'a>,
    pub(super) options: &'a Options,
    pub(super) place: Site,
    pub(super) keyword: &'a str,
    pub(super) report: &'r mut Findings,
}

impl Context<'_, '_> {
    pub(super) fn add(&mut self, rule: &'static super::Rule, place: Site, text: impl Into<String>) {
        self.report.add(self.options, rule, place, text);
    }
}

pub(super) fn check(input: &Input<'_>, report: &mut Findings) {
    let Ok(globals) = env::globals(input.file, input.platform_args, input.build_args) else {
        return;
    };
    let shipped = shipped(input);
    let mut scopes: Vec<Scope> = Vec::with_capacity(input.stages.len());
    for (index, (stage, facts)) in input.file.stages.iter().zip(input.stages).enumerate() {
        let mut scope = begin(facts, &scopes);
        scope.is_shipped = shipped.contains(&index);
        if facts.counts && !matches!(facts.base, Base::Replaced) {
            let from = Site::of(&stage.from);
            for trigger in &facts.triggers {
                // Only the FROM that brought it can be pointed at.
                instruction(input, trigger, Some(from), &globals, &mut scope, report);
            }
            for own in &stage.instructions {
                instruction(input, own, None, &globals, &mut scope, report);
            }
        }
        scopes.push(scope);
    }
}

/// The target and the stages beneath it.
fn shipped(input: &Input<'_>) -> BTreeSet<usize> {
    let mut shipped = BTreeSet::new();
    let mut next = Some(input.target);
    while let Some(index) = next.filter(|&index| shipped.insert(index)) {
        next = match input.stages.get(index).map(|facts| &facts.base) {
            Some(Base::Stage(base)) => Some(*base),
            _ => None,
        };
    }
    shipped
}

fn begin(facts: &StageFacts, scopes: &[Scope]) -> Scope {
    let mut scope = match &facts.base {
        Base::Stage(base) => {
            let mut scope = scopes.get(*base).cloned().unwrap_or_default();
            scope.last = instructions::Last::default();
            scope.copied = copies::Copied::default();
            scope
        }
        Base::Image(image) => Scope {
            env: image.env.iter().cloned().collect(),
            is_env_known: true,
            shell: image.shell.clone().filter(|shell| !shell.is_empty()),
            ..Scope::default()
        },
        Base::Scratch | Base::Directory | Base::Replaced => {
            Scope { is_env_known: true, ..Scope::default() }
        }
        Base::Unknown(_) => Scope::default(),
    };
    if scope.env.get("PATH").is_none() {
        scope.env.set("PATH", DEFAULT_PATH);
    }
    scope
}

fn instruction(
    input: &Input<'_>,
    instruction: &Instruction,
    place: Option<Site>,
    globals: &Env,
    scope: &mut Scope,
    report: &mut Findings,
) {
    let origin = &instruction.origin;
    let options = input.options.with_comments(&origin.comments);
    let place = place.unwrap_or_else(|| Site::of(origin));
    let keyword = origin.keyword.as_str();
    let mut context = Context { input, options: &options, place, keyword, report };
    let context = &mut context;
    match &instruction.command {
        Command::Arg(declarations) => scope.arg(context, declarations, globals),
        Command::Env(pairs) => {
            // One instruction sees one state of the variables.
            let values = scope.pairs(context, pairs);
            instructions::env(context, pairs, &values);
            for (name, value) in values {
                scope.env.set(&name, &value);
            }
        }
        Command::Label(pairs) => {
            scope.pairs(context, pairs);
            instructions::label(context, pairs);
        }
        Command::Workdir(path) => {
            let value = scope.expand(context, path);
            instructions::workdir(context, scope, path, &value);
        }
        Command::User(word) | Command::Stopsignal(word) => {
            scope.expand(context, word);
        }
        Command::Volume(words) => {
            for word in words {
                scope.expand(context, word);
            }
        }
        Command::Expose(words) => {
            let mut sorted: Vec<&Word> = words.iter().collect();
            sorted.sort_by(|a, b| a.text.cmp(&b.text));
            for word in sorted {
                for port in scope.split(context, word) {
                    instructions::port(context, word, &port);
                }
            }
        }
        Command::Shell(words) => {
            scope.shell = Some(words.iter().map(|word| word.text.clone()).collect());
        }
        Command::Cmd(line) => instructions::command(context, scope, "CMD", Some(line)),
        Command::Entrypoint(line) => {
            instructions::command(context, scope, "ENTRYPOINT", Some(line));
        }
        Command::Healthcheck(_) => instructions::command(context, scope, "HEALTHCHECK", None),
        Command::Copy(copy) => {
            scope.expand_optional(context, copy.chown.as_ref());
            scope.expand_optional(context, copy.chmod.as_ref());
            let sources = scope.transfer(context, &copy.transfer);
            copies::copy(context, scope, copy, &sources);
        }
        Command::Add(add) => {
            scope.expand_optional(context, add.chown.as_ref());
            scope.expand_optional(context, add.chmod.as_ref());
            scope.expand_optional(context, add.checksum.as_ref());
            let sources = scope.transfer(context, &add.transfer);
            copies::add(context, scope, add, &sources);
        }
        Command::Run(run) => {
            for mount in &run.mounts {
                scope.mount(context, mount);
            }
            runs::check(context, scope, run);
        }
        Command::Maintainer(_) | Command::Onbuild(_) => {}
    }
}

impl Scope {
    fn arg(
        &mut self,
        context: &mut Context<'_, '_>,
        declarations: &[ArgDeclaration],
        globals: &Env,
    ) {
        for declaration in declarations {
            let name = declaration.name.as_str();
            instructions::secret(context, "ARG", &declaration.name, name);
            let value = match (context.input.build_args.get(name), &declaration.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(context, default)),
                (None, None) => globals.get(name).map(str::to_owned),
            };
            if let Some(value) = value
                && !is_scan_argument(name)
            {
                self.env.set(name, &value);
            }
            self.declared.insert(name.to_owned());
        }
    }

    fn pairs(&self, context: &mut Context<'_, '_>, pairs: &[Pair]) -> Vec<(String, String)> {
        let expand =
            |pair: &Pair| (self.expand(context, &pair.name), self.expand(context, &pair.value));
        pairs.iter().map(expand).collect()
    }

    /// The sources of a COPY or ADD after expansion.
    fn transfer(
        &self,
        context: &mut Context<'_, '_>,
        transfer: &crate::dockerfile::ast::Transfer,
    ) -> Vec<String> {
        let sources = transfer.sources.iter().map(|word| self.expand(context, word)).collect();
        self.expand(context, &transfer.dest);
        for inline in transfer.inline.iter().filter(|inline| inline.heredoc.expand) {
            let body = String::from_utf8_lossy(&inline.heredoc.content()).into_owned();
            let mut lexer = Lexer::new(crate::dockerfile::ast::Escape::Backslash);
            lexer.skip_quotes = true;
            self.expand_with(context, lexer, &body, context.place.at(&inline.marker));
        }
        sources
    }

    fn mount(&self, context: &mut Context<'_, '_>, mount: &MountFlag) {
        let place = Site { span: mount.span, ..context.place };
        let lexer = Lexer::new(context.input.file.escape);
        for value in mount.fields.iter().filter_map(|field| field.value.as_ref()) {
            self.expand_with(context, lexer, value, place);
        }
    }

    fn expand_optional(&self, context: &mut Context<'_, '_>, word: Option<&Word>) {
        if let Some(word) = word {
            self.expand(context, word);
        }
    }

    /// The value of a word; nothing where it has none, which the build will say.
    fn expand(&self, context: &mut Context<'_, '_>, word: &Word) -> String {
        let lexer = Lexer::new(context.input.file.escape);
        self.expand_with(context, lexer, &word.text, context.place.at(word))
    }

    fn expand_with(
        &self,
        context: &mut Context<'_, '_>,
        lexer: Lexer,
        text: &str,
        place: Site,
    ) -> String {
        let lookup = |name: &str| self.env.get(name).map(str::to_owned);
        let (expanded, _) = lexer.process_noting(text, &lookup);
        for name in &expanded.unmatched {
            self.undefined(context, name, place);
        }
        expanded.text
    }

    /// As [`Self::expand`], in words. BuildKit says nothing of variables here.
    fn split(&self, context: &Context<'_, '_>, word: &Word) -> Vec<String> {
        let lookup = |name: &str| self.env.get(name).map(str::to_owned);
        let lexer = Lexer::new(context.input.file.escape);
        lexer.process_words(&word.text, &lookup).unwrap_or_default()
    }

    fn undefined(&self, context: &mut Context<'_, '_>, name: &str, place: Site) {
        if !self.is_env_known || self.declared.contains(name) || is_scan_argument(name) {
            return;
        }
        let mut message = format!("Usage of undefined variable '${name}'");
        if let Some(near) = suggest(name, self.env.names()) {
            message += &format!(" (did you mean ${near}?)");
        }
        context.add(&UNDEFINED_VAR, place, message);
    }
}
