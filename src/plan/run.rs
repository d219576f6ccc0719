//! RUN: what it runs, with which mounts, and what its heredocs become.

use super::dispatch::Planner;
use super::stages::{Index, Place, StageCommand, place_of};
use super::step::{Network, Op, Run, Security, Tree};
use super::{MountKind, PlanError, paths, run_mounts, words};
use crate::dockerfile::as_text;
use crate::dockerfile::ast::{self, CommandLine};
use crate::dockerfile::errors::Error;
use crate::text::path;

/// The build argument that sets the cache mounts of builds apart.
const CACHE_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// The directory a heredoc script is mounted in.
const SCRIPT_DIR: &str = "/dev/pipes";

impl Planner<'_, '_> {
    pub(super) fn run(
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
        let resolved = run_mounts::resolve(run, place, &self.state(index).env, escape)?;
        let mut planned = Vec::with_capacity(resolved.len());
        for (mount, source) in resolved.into_iter().zip(&command.sources) {
            let tree = match source {
                Some(source) => Some(Tree::Files(self.files_of(*source, index, place, "mount")?)),
                None => None,
            };
            let tree = self.tree_or_context(*source, tree);
            let cwd = self.state(index).config.working_dir().to_owned();
            let namespace = self.request.build_args.get(CACHE_NAMESPACE).map_or("", String::as_str);
            planned.push(run_mounts::plan(&mount, tree, namespace, &cwd, place)?);
        }

        let mut shown = instruction.origin.original.clone();
        let mut script = None;
        let state = self.state(index);
        let argv = match (&run.command, run.heredocs.first()) {
            (CommandLine::Shell(word), Some(first)) => {
                let text = if words::is_only_heredoc(&word.text) {
                    let body = first.content();
                    shown += &format!(" ({})", first_line(&as_text(&body)));
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
                MountKind::Secret { env: Some(name), .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        let cwd = match state.config.working_dir() {
            "" => "/".to_owned(),
            path => path::clean(path),
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
}

/// What a RUN cannot be: an argument of a process may be any bytes, but BuildKit's are text, and so
/// are the keys and the history.
fn not_text(place: Place) -> Error {
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
