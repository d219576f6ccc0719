//! RUN: our own rules about what is kept, lost or hidden between steps.

use super::Site;
use super::rules::{
    APT_GET_UPDATE_ALONE, APT_LISTS_KEPT, COPY_BEFORE_INSTALL, LOST_SHELL_STATE,
    PIPE_WITHOUT_PIPEFAIL,
};
use super::scope::{Context, Scope};
use super::shell::{self, Joint, Simple};
use crate::dockerfile::ast::{CommandLine, Run};

/// Where apt keeps what `update` fetched.
const APT_LISTS: &str = "/var/lib/apt/lists";

/// Commands that change nothing but the shell they run in.
const SHELL_STATE: [&str; 8] = ["cd", "export", "source", ".", "alias", "unset", "umask", "set"];

pub(super) fn check(context: &mut Context<'_, '_>, scope: &mut Scope, run: &Run) {
    let CommandLine::Shell(word) = &run.command else { return };
    let body;
    let text = match run.heredocs.as_slice() {
        [] => word.text.as_str(),
        // `RUN <<EOF` alone: the body is the script, unless it names another interpreter.
        [only] if word.text.trim_start().starts_with("<<") => {
            body = String::from_utf8_lossy(&only.content()).into_owned();
            if body.starts_with("#!") {
                return;
            }
            body.as_str()
        }
        _ => return,
    };
    let commands = shell::commands(text);
    let whole = context.place.at(word);
    // Bytes of the text are bytes of the file where no continuation lies between.
    let is_plain = run.heredocs.is_empty() && word.span.end - word.span.start == word.text.len();
    let place_of = |command: &Simple| {
        if !is_plain {
            return Site { span: context.place.span, ..whole };
        }
        let start = whole.span.start + command.start;
        let length = command.words.first().map_or(0, String::len);
        let span =
            crate::dockerfile::ast::Span { start, end: (start + length).min(whole.span.end) };
        Site { span, ..whole }
    };
    let mut found = Vec::new();
    apt(&commands, run, scope, &mut |rule, command, text| {
        found.push((rule, place_of(command), text));
    });
    if !scope.shell.as_ref().is_some_and(|shell| shell.iter().any(|word| word.contains("pipefail")))
        && let Some(command) = hidden_failure(&commands)
    {
        let text = format!("A failure of {} is hidden by the pipe after it", command.program());
        found.push((&PIPE_WITHOUT_PIPEFAIL, place_of(command), text));
    }
    let is_state = |command: &Simple| {
        SHELL_STATE.contains(&command.program())
            || command.words.iter().all(|word| shell::is_assignment(word))
    };
    if let Some(first) = commands.first().filter(|_| commands.iter().all(is_state)) {
        let text = format!("What {} does is gone when this RUN ends", first.words[0]);
        found.push((&LOST_SHELL_STATE, place_of(first), text));
    }
    for (rule, place, text) in found {
        context.add(rule, place, text);
    }
    install(context, scope, run, &commands);
}

fn apt(
    commands: &[Simple],
    run: &Run,
    scope: &Scope,
    add: &mut dyn FnMut(&'static super::Rule, &Simple, String),
) {
    let is_apt = |command: &&Simple| matches!(command.program(), "apt-get" | "apt");
    let update = commands.iter().filter(is_apt).find(|command| command.subcommand() == "update");
    let Some(update) = update else { return };
    // With a mount there, the lists are in no layer.
    let is_mounted = run.mounts.iter().flat_map(|mount| &mount.fields).any(|field| {
        matches!(field.key.as_str(), "target" | "dst" | "destination")
            && field.value.as_deref().is_some_and(|target| {
                APT_LISTS.starts_with(target.trim_end_matches('/')) && target.len() > 1
            })
    });
    if is_mounted {
        return;
    }
    let uses = ["install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep", "satisfy"];
    let installs = commands.iter().filter(is_apt).any(|c| uses.contains(&c.subcommand()));
    let others = ["source", "download"];
    if !installs && !commands.iter().filter(is_apt).any(|c| others.contains(&c.subcommand())) {
        let text = format!("{} update has no install in its RUN", update.program());
        add(&APT_GET_UPDATE_ALONE, update, text);
        return;
    }
    let removes = commands.iter().any(|command| {
        command.program() == "rm" && command.arguments().iter().any(|a| a.contains(APT_LISTS))
            || matches!(command.subcommand(), "dist-clean" | "distclean")
    });
    if scope.is_shipped && !removes {
        let text = format!("The lists that {} update fetched stay in the layer", update.program());
        add(&APT_LISTS_KEPT, update, text);
    }
}

/// A download whose failure a pipe hides.
fn hidden_failure(commands: &[Simple]) -> Option<&Simple> {
    let sets_it = |command: &Simple| {
        command.program() == "set" && command.arguments().iter().any(|word| word == "pipefail")
    };
    let end = commands.iter().position(sets_it).unwrap_or(commands.len());
    commands[..end].windows(2).find_map(|pair| {
        let is_download = matches!(pair[0].program(), "curl" | "wget");
        (is_download && pair[1].joint == Joint::Pipe).then_some(&pair[0])
    })
}

/// An install of what the context lists, after all of the context has come.
fn install(context: &mut Context<'_, '_>, scope: &mut Scope, run: &Run, commands: &[Simple]) {
    let has_cache = run
        .mounts
        .iter()
        .flat_map(|mount| &mount.fields)
        .any(|field| field.key == "type" && field.value.as_deref() == Some("cache"));
    let Some(command) = commands.iter().find(|command| is_dependency_install(command)) else {
        return;
    };
    if let Some(place) = scope.copied.whole_context.take_if(|_| !has_cache) {
        let text = format!(
            "{} installs again whenever any file of the context changes",
            command.words[..command.words.len().min(2)].join(" ")
        );
        context.add(&COPY_BEFORE_INSTALL, place, text);
    }
}

/// Whether a command installs what a file of the context lists, rather than what is named on its
/// line.
fn is_dependency_install(command: &Simple) -> bool {
    let arguments = command.arguments();
    let named = || {
        arguments.iter().filter(|word| !word.starts_with('-')).count() > 1
            || arguments.iter().any(|word| matches!(word.as_str(), "-g" | "--global"))
    };
    let has =
        |words: &[&str]| words.iter().all(|word| arguments.iter().any(|argument| argument == word));
    let subcommand = command.subcommand();
    match command.program() {
        "npm" | "pnpm" | "bun" => matches!(subcommand, "install" | "ci" | "i") && !named(),
        "yarn" => matches!(subcommand, "" | "install") && !named(),
        "pip" | "pip3" => subcommand == "install" && has(&["-r"]),
        "python" | "python3" => has(&["-m", "pip", "install", "-r"]),
        "bundle" | "composer" | "poetry" | "pipenv" => subcommand == "install" && !named(),
        "uv" => subcommand == "sync",
        "go" => has(&["mod", "download"]),
        "cargo" => subcommand == "fetch",
        "dotnet" => subcommand == "restore",
        "mix" => subcommand == "deps.get",
        "mvn" => subcommand.starts_with("dependency:"),
        _ => false,
    }
}
