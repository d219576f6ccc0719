//! A syntax tree as text again, in one form: one line for each instruction.
//!
//! What is printed parses to the same tree, places aside; tests and the fuzz
//! targets hold the parser to that.
//!
//! # Not here
//!
//! Layout, comments among continuations and the like: a tree does not have them.

use std::fmt::Write as _;

use super::ast::{
    Command, CommandLine, Directive, DirectiveName, Dockerfile, Escape, Healthcheck, Heredoc,
    InlineFile, Instruction, Network, Origin, Pair, Run, Security, Span, Stage, Transfer, Word,
};
use super::heredoc::Marker;
use super::join::LINE_MAX;

/// A tree that no text of one line for each instruction has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no single line says this: {what}")]
pub struct Unprintable {
    /// Why not.
    pub what: &'static str,
}

/// Prints a tree.
///
/// # Errors
///
/// [`Unprintable`] for lines that are too long, and for heredocs that only the
/// layout of the file kept apart.
pub fn print(file: &Dockerfile) -> Result<String, Unprintable> {
    let mut out = String::new();
    for directive in &file.directives {
        let name = match directive.name {
            DirectiveName::Syntax => "syntax",
            DirectiveName::Escape => "escape",
            DirectiveName::Check => "check",
        };
        let _ = writeln!(out, "# {name}={}", directive.value.text);
    }
    // Ends the head, so that no comment becomes a directive.
    out.push('\n');
    let mut printer = Printer { escape: file.escape, out };
    for argument in &file.global_args {
        printer.instruction(argument)?;
    }
    for stage in &file.stages {
        printer.stage(stage)?;
        for instruction in &stage.instructions {
            printer.instruction(instruction)?;
        }
    }
    Ok(printer.out)
}

/// A tree without what depends on layout: places, text as typed, comments in
/// continuations. Two texts that say the same have the same.
#[must_use]
pub fn without_places(mut file: Dockerfile) -> Dockerfile {
    file.empty_continuations.clear();
    for Directive { value, line, .. } in &mut file.directives {
        value.span = Span::default();
        *line = 0;
    }
    for instruction in &mut file.global_args {
        forget_instruction(instruction);
    }
    for stage in &mut file.stages {
        let words = [&mut stage.name, &mut stage.as_keyword, &mut stage.platform];
        words.into_iter().flatten().for_each(forget);
        forget(&mut stage.base);
        forget_origin(&mut stage.from);
        stage.instructions.iter_mut().for_each(forget_instruction);
    }
    file
}

fn forget(word: &mut Word) {
    word.span = Span::default();
}

fn forget_origin(origin: &mut Origin) {
    let comments = std::mem::take(&mut origin.comments);
    let keyword = std::mem::take(&mut origin.keyword.text);
    *origin = Origin { comments, ..Origin::default() };
    origin.keyword.text = keyword;
}

fn forget_heredoc(heredoc: &mut Heredoc) {
    heredoc.span = Span::default();
    heredoc.line = 0;
}

fn forget_pairs(pairs: &mut [Pair]) {
    for pair in pairs {
        forget(&mut pair.name);
        forget(&mut pair.value);
    }
}

fn forget_command_line(line: &mut CommandLine) {
    match line {
        CommandLine::Shell(word) => forget(word),
        CommandLine::Exec(words) => words.iter_mut().for_each(forget),
    }
}

fn forget_transfer(transfer: &mut Transfer) {
    transfer.sources.iter_mut().for_each(forget);
    forget(&mut transfer.dest);
    for InlineFile { heredoc, marker } in &mut transfer.inline {
        forget_heredoc(heredoc);
        forget(marker);
    }
}

fn forget_instruction(instruction: &mut Instruction) {
    forget_origin(&mut instruction.origin);
    match &mut instruction.command {
        Command::Add(add) => {
            forget_transfer(&mut add.transfer);
            let options = [&mut add.chown, &mut add.chmod, &mut add.checksum];
            options.into_iter().flatten().chain(&mut add.exclude).for_each(forget);
        }
        Command::Copy(copy) => {
            forget_transfer(&mut copy.transfer);
            let options = [&mut copy.from, &mut copy.chown, &mut copy.chmod];
            options.into_iter().flatten().chain(&mut copy.exclude).for_each(forget);
        }
        Command::Arg(declarations) => {
            for declaration in declarations {
                forget(&mut declaration.name);
                declaration.default.iter_mut().for_each(forget);
            }
        }
        Command::Cmd(line) | Command::Entrypoint(line) => forget_command_line(line),
        Command::Env(pairs) | Command::Label(pairs) => forget_pairs(pairs),
        Command::Expose(words) | Command::Shell(words) | Command::Volume(words) => {
            words.iter_mut().for_each(forget);
        }
        Command::Healthcheck(_) => {}
        Command::Maintainer(word)
        | Command::Stopsignal(word)
        | Command::User(word)
        | Command::Workdir(word) => forget(word),
        Command::Onbuild(onbuild) => {
            onbuild.trigger.iter_mut().for_each(|trigger| forget_instruction(trigger));
        }
        Command::Run(run) => {
            forget_command_line(&mut run.command);
            run.heredocs.iter_mut().for_each(forget_heredoc);
            run.devices.iter_mut().for_each(forget);
            for mount in &mut run.mounts {
                mount.span = Span::default();
                mount.fields.iter_mut().for_each(|field| field.span = Span::default());
            }
        }
    }
}

/// Collects text.
struct Printer {
    escape: Escape,
    out: String,
}

/// One instruction's line.
struct Line {
    escape: Escape,
    text: String,
}

impl Line {
    /// A flag, its value in quotes.
    fn flag(&mut self, name: &str, value: &str) {
        let _ = write!(self.text, " --{name}=\"");
        for c in value.chars() {
            if c == '"' || c == self.escape.as_char() {
                self.text.push(self.escape.as_char());
            }
            self.text.push(c);
        }
        self.text.push('"');
    }

    fn flag_of(&mut self, name: &str, value: Option<&Word>) {
        if let Some(value) = value {
            self.flag(name, &value.text);
        }
    }

    fn switch(&mut self, name: &str, value: Option<bool>) {
        if let Some(value) = value {
            let _ = write!(self.text, " --{name}={value}");
        }
    }

    /// The body, which may look like a flag.
    fn body(&mut self, body: &str) {
        self.text.push_str(if body.starts_with("--") { " -- " } else { " " });
        self.text.push_str(body);
    }

    fn json<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        let words: Vec<&str> = words.into_iter().collect();
        let array = serde_json::to_string(&words).expect("strings can be JSON");
        self.body(&array);
    }

    fn command_line(&mut self, line: &CommandLine) {
        match line {
            CommandLine::Shell(word) => self.body(&word.text),
            CommandLine::Exec(words) => self.json(words.iter().map(Word::as_str)),
        }
    }

    fn pairs(&mut self, pairs: &[Pair]) {
        let show = |pair: &Pair| {
            let sign = match pair.is_legacy {
                false => "=",
                // The first blank behind an escape character is part of the word.
                true if pair.name.text.ends_with(self.escape.as_char()) => "  ",
                true => " ",
            };
            format!("{}{sign}{}", pair.name.text, pair.value.text)
        };
        let body: Vec<String> = pairs.iter().map(show).collect();
        self.body(&body.join(" "));
    }

    /// Words as a list, or as an array where a list would say something else.
    fn list(&mut self, words: &[&Word]) {
        if words.iter().any(|word| is_no_item(word)) {
            self.json(words.iter().map(|word| word.as_str()));
        } else {
            let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
            self.body(&words.join(" "));
        }
    }

    fn healthcheck(&mut self, check: &Healthcheck) {
        for (name, value) in [
            ("interval", check.interval),
            ("timeout", check.timeout),
            ("start-period", check.start_period),
            ("start-interval", check.start_interval),
        ] {
            if value != 0 {
                self.flag(name, &format!("{value}ns"));
            }
        }
        if check.retries != 0 {
            self.flag("retries", &check.retries.to_string());
        }
        match check.test.split_first().map(|(kind, words)| (kind.as_str(), words)) {
            Some(("CMD", words)) => {
                self.text.push_str(" CMD");
                self.json(words.iter().map(String::as_str));
            }
            Some(("CMD-SHELL", [text])) => {
                let _ = write!(self.text, " CMD {text}");
            }
            _ => self.text.push_str(" NONE"),
        }
    }

    fn run(&mut self, run: &Run) {
        for mount in &run.mounts {
            let field = |text: &str| match text.contains([',', '"']) {
                true => format!("\"{}\"", text.replace('"', "\"\"")),
                false => text.to_owned(),
            };
            let fields: Vec<String> = mount.fields.iter().map(|f| field(&f.text)).collect();
            self.flag("mount", &fields.join(","));
        }
        match run.network {
            Network::Default => {}
            Network::None => self.flag("network", "none"),
            Network::Host => self.flag("network", "host"),
        }
        match run.security {
            Security::Sandbox => {}
            Security::Insecure => self.flag("security", "insecure"),
        }
        for device in &run.devices {
            self.flag("device", &device.text);
        }
        self.command_line(&run.command);
    }

    fn transfer(&mut self, transfer: &Transfer) -> Result<(), Unprintable> {
        let markers = transfer.inline.iter().map(|file| &file.marker);
        let paths = || transfer.sources.iter().chain([&transfer.dest]);
        if transfer.inline.is_empty() {
            self.list(&paths().collect::<Vec<_>>());
            return Ok(());
        }
        if paths().any(is_no_item) || transfer.inline.iter().any(|file| has_blank(&file.marker)) {
            return Err(Unprintable { what: "a heredoc beside a path that no list can have" });
        }
        let words = transfer.sources.iter().chain(markers).chain([&transfer.dest]);
        let words: Vec<&str> = words.map(Word::as_str).collect();
        self.body(&words.join(" "));
        Ok(())
    }
}

fn has_blank(word: &Word) -> bool {
    word.text.is_empty() || word.text.contains(char::is_whitespace)
}

fn is_continued(line: &str, escape: Escape) -> bool {
    let line = line.trim_end_matches([' ', '\t']);
    line.strip_suffix(escape.as_char()).is_some_and(|before| !before.ends_with(escape.as_char()))
}

/// Whether a word in a list would be read as something else.
fn is_no_item(word: &Word) -> bool {
    has_blank(word) || word.text.starts_with(['[', '-']) || word.text.contains("<<")
}

impl Printer {
    fn stage(&mut self, stage: &Stage) -> Result<(), Unprintable> {
        let mut line = self.line(&stage.from);
        line.flag_of("platform", stage.platform.as_ref());
        line.body(&stage.base.text);
        if let (Some(keyword), Some(name)) = (&stage.as_keyword, &stage.name_as_typed) {
            let _ = write!(line.text, " {} {name}", keyword.text);
        }
        self.end(&line, &[])
    }

    fn line(&mut self, origin: &Origin) -> Line {
        for comment in &origin.comments {
            let _ = writeln!(self.out, "# {comment}");
        }
        Line { escape: self.escape, text: origin.keyword.text.clone() }
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), Unprintable> {
        let mut line = self.line(&instruction.origin);
        let mut heredocs: Vec<&Heredoc> = Vec::new();
        match &instruction.command {
            Command::Add(add) => {
                line.flag_of("chown", add.chown.as_ref());
                line.flag_of("chmod", add.chmod.as_ref());
                line.switch("link", add.link.then_some(true));
                line.flag_of("checksum", add.checksum.as_ref());
                line.switch("keep-git-dir", add.keep_git_dir);
                line.switch("unpack", add.unpack);
                add.exclude.iter().for_each(|word| line.flag("exclude", &word.text));
                line.transfer(&add.transfer)?;
                heredocs.extend(add.transfer.inline.iter().map(|file| &file.heredoc));
            }
            Command::Copy(copy) => {
                line.flag_of("from", copy.from.as_ref());
                line.flag_of("chown", copy.chown.as_ref());
                line.flag_of("chmod", copy.chmod.as_ref());
                line.switch("link", copy.link.then_some(true));
                line.switch("parents", copy.parents.then_some(true));
                copy.exclude.iter().for_each(|word| line.flag("exclude", &word.text));
                line.transfer(&copy.transfer)?;
                heredocs.extend(copy.transfer.inline.iter().map(|file| &file.heredoc));
            }
            Command::Arg(declarations) => {
                let words = declarations.iter().map(|arg| match &arg.default {
                    Some(default) => format!("{}={}", arg.name.text, default.text),
                    None => arg.name.text.clone(),
                });
                line.body(&words.collect::<Vec<_>>().join(" "));
            }
            Command::Cmd(command) | Command::Entrypoint(command) => line.command_line(command),
            Command::Env(pairs) | Command::Label(pairs) => line.pairs(pairs),
            Command::Expose(words) => {
                let words: Vec<&str> = words.iter().map(Word::as_str).collect();
                line.body(&words.join(" "));
            }
            Command::Healthcheck(check) => line.healthcheck(check),
            Command::Maintainer(word)
            | Command::Stopsignal(word)
            | Command::User(word)
            | Command::Workdir(word) => line.body(&word.text),
            Command::Onbuild(onbuild) => {
                // Bodies and all.
                let (first, bodies) = match onbuild.expression.split_once('\n') {
                    Some((first, bodies)) => (first, Some(bodies)),
                    None => (onbuild.expression.as_str(), None),
                };
                if is_continued(first, self.escape) {
                    return Err(Unprintable { what: "a trigger that ends as if it went on" });
                }
                let _ = write!(line.text, " {first}");
                self.end(&line, &[])?;
                if let Some(bodies) = bodies {
                    let _ = writeln!(self.out, "{bodies}");
                }
                return Ok(());
            }
            Command::Run(run) => {
                line.run(run);
                heredocs.extend(&run.heredocs);
            }
            Command::Shell(words) => line.json(words.iter().map(Word::as_str)),
            Command::Volume(words) => line.list(&words.iter().collect::<Vec<_>>()),
        }
        let is_exec = matches!(&instruction.command, Command::Run(run)
            if matches!(run.command, CommandLine::Exec(_)));
        let may_have_bodies =
            matches!(instruction.command, Command::Add(_) | Command::Copy(_) | Command::Run(_));
        if may_have_bodies && !is_exec {
            let found = Marker::find(&line.text).unwrap_or_default();
            let is_same = found.len() == heredocs.len()
                && found.iter().zip(&heredocs).all(|(marker, heredoc)| {
                    (&marker.name, marker.strip_tabs) == (&heredoc.name, heredoc.strip_tabs)
                });
            if !is_same {
                return Err(Unprintable { what: "markers that are not heredocs" });
            }
        }
        self.end(&line, &heredocs)
    }

    fn end(&mut self, line: &Line, heredocs: &[&Heredoc]) -> Result<(), Unprintable> {
        if line.text.len() + 2 >= LINE_MAX {
            return Err(Unprintable { what: "a line over the limit" });
        }
        if line.text.ends_with('\r') {
            return Err(Unprintable { what: "a carriage return at the end of a trigger" });
        }
        self.out.push_str(&line.text);
        if is_continued(&line.text, self.escape) {
            // White space that is trimmed, but behind which a line is not continued.
            self.out.push('\u{a0}');
        }
        self.out.push('\n');
        for heredoc in heredocs {
            let Ok(body) = std::str::from_utf8(&heredoc.body) else {
                return Err(Unprintable { what: "bytes that are not text" });
            };
            self.out.push_str(body);
            let _ = writeln!(self.out, "{}", heredoc.name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse;
    use super::*;

    #[track_caller]
    fn check(source: &str) {
        let Ok(file) = parse(source.as_bytes()) else { return };
        let Ok(printed) = print(&file) else { return };
        match parse(printed.as_bytes()) {
            Ok(again) => assert_eq!(without_places(file), without_places(again), "{printed}"),
            Err(errors) => panic!("{printed}\n{errors:?}"),
        }
    }

    /// Pieces that have a meaning, and some that do not.
    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            " ",
            " ",
            " ",
            "  ",
            "\t",
            "\u{a0}",
            "a",
            "b/c",
            "=",
            "=",
            "'",
            "\"",
            "\\",
            "`",
            "$A",
            "${A:-b c}",
            "[",
            "]",
            ",",
            "\"x\"",
            "[\"x\", \"y\"]",
            "--",
            "--link",
            "--from=a",
            "--chown='a b'",
            "--mount=type=cache,target=/x",
            "--network=none",
            "--interval=5s",
            "--platform=$A",
            "<<E",
            "<<-'F'",
            "<",
            "AS",
            "NONE",
            "CMD",
            "#",
            "\\\n",
            "`\n",
            "\\\n# c\n",
            "\r",
            "é",
            "\u{fffd}",
        ])
    }

    fn line() -> impl Strategy<Value = String> {
        let keyword = prop::sample::select(vec![
            "FROM",
            "RUN",
            "run",
            "COPY",
            "Add",
            "ENV",
            "LABEL",
            "ARG",
            "CMD",
            "ENTRYPOINT",
            "VOLUME",
            "EXPOSE",
            "USER",
            "WORKDIR",
            "MAINTAINER",
            "STOPSIGNAL",
            "SHELL",
            "HEALTHCHECK",
            "ONBUILD",
            "ONBUILD RUN",
            "ONBUILD COPY",
            "#",
            "# escape=`",
            "",
        ]);
        let end = prop::sample::select(vec!["\n", "\n", "\n", "\nE\n", "\n\tx\nE\n\tF\n", "\r\n"]);
        (keyword, prop::collection::vec(piece(), 0..8), end)
            .prop_map(|(keyword, pieces, end)| format!("{keyword} {}{end}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn printed_tree_parses_to_itself(
            head in prop::sample::select(vec!["", "# escape=`\n", "# check=skip=all\n", "ARG A\n"]),
            lines in prop::collection::vec(line(), 1..4),
        ) {
            // One instruction at a time: most lines that chance makes are mistakes.
            for line in &lines {
                check(&format!("{head}FROM a\n{line}"));
            }
            check(&format!("{head}FROM a\n{}", lines.concat()));
        }
    }

    #[test]
    fn samples_print_to_themselves() {
        for source in [
            "\nFROM a\nCMD a \\\u{a0}\n",
            "\nFROM a\nENV \\  =\n",
            "\nFROM --platform=\"x\" a AS b\nRUN [\"a\",\"b c\"]\n",
            "# escape=`\n\nFROM a\n# why\nENV A=b` c B=\"d\"\nCOPY <<E /x\n`$A\nE\n",
            "\nARG A=1 B\nFROM a\nONBUILD RUN <<E\nx\nE\nHEALTHCHECK --interval=\"5000000000ns\" CMD x\n",
        ] {
            assert_eq!(print(&parse(source.as_bytes()).unwrap()).unwrap(), source);
        }
    }

    #[test]
    fn what_no_line_says_is_not_printed() {
        let long = format!("FROM a\nRUN {0}\\\n{0}", "x".repeat(40_000));
        for source in [long.as_str(), "FROM a\nCOPY << E <<F /x\na\nE\nb\nF\n"] {
            assert!(print(&parse(source.as_bytes()).unwrap()).is_err(), "{source:.40}");
        }
    }
}
