//! What a statement means: arguments counted, flags checked, values read.
//!
//! In: a [`Statement`]. Out: a [`Command`]. Errors say what BuildKit says, where
//! it says it: what BuildKit checks only once a stage is built is the plan
//! room's to check.
//!
//! # Not here
//!
//! Mounts: [`super::mount`]. Stages: [`super`].
//!
//! Source: moby/buildkit frontend/dockerfile/instructions/parse.go.

use super::flags::Flags;
use super::statement::{Arguments, Statement};
use super::{duration, mount};
use crate::dockerfile::as_text;
use crate::dockerfile::ast::{
    Add, ArgDeclaration, Command, CommandLine, Copy, Healthcheck, Heredoc, InlineFile, Instruction,
    Network, Onbuild, Origin, Run, Security, Span, Transfer, Word,
};
use crate::dockerfile::errors::{Error, ErrorKind, did_you_mean};
use crate::dockerfile::heredoc::Marker;

/// The instructions there are.
pub(super) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Statement {
    /// An error that points at the whole instruction.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        self.error_at(self.span, message)
    }

    /// An error that points at a part.
    pub(super) fn error_at(&self, span: Span, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Arguments, message, span, self.lines.first)
    }

    /// Where it comes from.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            keyword: self.keyword.clone(),
            original: self.original.trim().to_owned(),
            span: self.span,
            lines: self.lines,
            comments: self.comments.clone(),
            flags: self.flags.iter().map(|flag| flag.text.clone()).collect(),
            invalid_utf8: self.invalid_utf8,
            invalid_json: self.invalid_json,
        }
    }

    /// Reads what it means.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub(super) fn instruction(&self) -> Result<Instruction, Error> {
        let command = self.command(&self.heredocs)?;
        Ok(Instruction { command, origin: self.origin() })
    }

    fn command(&self, heredocs: &[Heredoc]) -> Result<Command, Error> {
        Ok(match self.name {
            Some("ADD") => Command::Add(self.add(heredocs)?),
            Some("ARG") => Command::Arg(self.arg()?),
            Some("CMD") => Command::Cmd(self.flagless_command_line()?),
            Some("COPY") => Command::Copy(self.copy(heredocs)?),
            Some("ENTRYPOINT") => Command::Entrypoint(self.flagless_command_line()?),
            Some("ENV") => Command::Env(self.pairs()?),
            Some("EXPOSE") => Command::Expose(self.at_least_one()?),
            Some("HEALTHCHECK") => Command::Healthcheck(self.healthcheck()?),
            Some("LABEL") => Command::Label(self.pairs()?),
            Some("MAINTAINER") => Command::Maintainer(self.exactly_one()?),
            Some("ONBUILD") => Command::Onbuild(self.onbuild(heredocs)?),
            Some("RUN") => Command::Run(self.run(heredocs)?),
            Some("SHELL") => Command::Shell(self.shell()?),
            Some("STOPSIGNAL") => Command::Stopsignal(self.only_text()?),
            Some("USER") => Command::User(self.exactly_one()?),
            Some("VOLUME") => Command::Volume(self.volume()?),
            Some("WORKDIR") => Command::Workdir(self.exactly_one()?),
            Some("FROM") => return Err(self.error("FROM isn't allowed here")),
            _ => return Err(self.unknown()),
        })
    }

    fn keyword_name(&self) -> &'static str {
        self.name.unwrap_or_default()
    }

    fn unknown(&self) -> Error {
        let keyword = &self.keyword;
        let mut error = Error::new(
            ErrorKind::UnknownInstruction,
            format!("unknown instruction `{}`", keyword.text),
            keyword.span,
            self.lines.first,
        );
        if let Some(near) = did_you_mean(&keyword.text, KEYWORDS) {
            error = error.with_label(format!("did you mean `{near}`?"));
        }
        error
    }

    fn words(&self) -> &[Word] {
        match &self.arguments {
            Arguments::Json(words) | Arguments::List(words) => words,
            _ => &[],
        }
    }

    fn at_least_one(&self) -> Result<Vec<Word>, Error> {
        if self.words().is_empty() {
            let name = self.keyword_name();
            return Err(self.error(format!("{name} requires at least one argument")));
        }
        Flags::check(self)?;
        Ok(self.words().to_vec())
    }

    fn only_text(&self) -> Result<Word, Error> {
        match &self.arguments {
            Arguments::Text(word) => Ok(word.clone()),
            _ => {
                let name = self.keyword_name();
                Err(self.error(format!("{name} requires exactly one argument")))
            }
        }
    }

    fn exactly_one(&self) -> Result<Word, Error> {
        let word = self.only_text()?;
        Flags::check(self)?;
        Ok(word)
    }

    fn command_line(arguments: &Arguments, behind: Span) -> CommandLine {
        match arguments {
            Arguments::Json(words) => CommandLine::Exec(words.clone()),
            Arguments::Text(word) => CommandLine::Shell(word.clone()),
            _ => {
                let span = Span { start: behind.end, end: behind.end };
                CommandLine::Shell(Word { text: String::new(), span })
            }
        }
    }

    fn flagless_command_line(&self) -> Result<CommandLine, Error> {
        Flags::check(self)?;
        Ok(Self::command_line(&self.arguments, self.span))
    }

    fn pairs(&self) -> Result<Vec<crate::dockerfile::ast::Pair>, Error> {
        Flags::check(self)?;
        let name = self.keyword_name();
        let Arguments::Pairs(pairs) = &self.arguments else {
            return Err(self.error(format!("{name} requires at least one argument")));
        };
        if let Some(pair) = pairs.iter().find(|pair| pair.name.text.is_empty()) {
            let span = pair.name.span.join(pair.value.span);
            return Err(self
                .error_at(span, format!("{name} names can not be blank"))
                .with_label("no name in front of `=`"));
        }
        Ok(pairs.clone())
    }

    fn arg(&self) -> Result<Vec<ArgDeclaration>, Error> {
        if self.words().is_empty() {
            return Err(self.error("ARG requires at least one argument"));
        }
        let declaration = |word: &Word| {
            let (name, default) = match word.text.split_once('=') {
                Some(("", _)) => {
                    return Err(self
                        .error_at(word.span, "ARG names can not be blank")
                        .with_label("no name in front of `=`"));
                }
                Some((name, _)) => {
                    let default = word.part(name.len() + 1..word.text.len());
                    (word.part(0..name.len()), Some(default))
                }
                None => (word.clone(), None),
            };
            let description = self.comments.iter().find_map(|comment| {
                comment.strip_prefix(name.as_str())?.strip_prefix(' ').map(str::to_owned)
            });
            Ok(ArgDeclaration { name, default, description })
        };
        self.words().iter().map(declaration).collect()
    }

    fn shell(&self) -> Result<Vec<Word>, Error> {
        Flags::check(self)?;
        match &self.arguments {
            Arguments::Json(words) if !words.is_empty() => Ok(words.clone()),
            Arguments::Text(word) => {
                let error = self
                    .error_at(word.span, "SHELL requires the arguments to be in JSON form")
                    .with_label("expected an array of strings");
                let words: Vec<&str> = word.text.split_whitespace().collect();
                Err(error.with_hint(format!("write SHELL {words:?}")))
            }
            _ => Err(self.error("SHELL requires at least one argument")),
        }
    }

    fn volume(&self) -> Result<Vec<Word>, Error> {
        let mut words = self.at_least_one()?;
        for word in &mut words {
            word.text = word.text.trim().to_owned();
            if word.text.is_empty() {
                return Err(self.error_at(word.span, "VOLUME specified can not be an empty string"));
            }
        }
        Ok(words)
    }

    fn transfer(&self, heredocs: &[Heredoc]) -> Result<(Flags<'_>, Transfer), Error> {
        let name = self.keyword_name();
        let [sources @ .., dest] = self.words() else {
            return Err(self.no_destination());
        };
        if sources.is_empty() {
            return Err(self.no_destination());
        }
        let flags = Flags::check(self)?;
        let marker = |word: &Word| Marker::parse(&word.text).ok().flatten();
        if marker(dest).is_some() {
            let message = format!("{name} cannot accept a heredoc as a destination");
            return Err(self.error_at(dest.span, message).with_label("expected a path"));
        }
        let mut transfer = Transfer { dest: dest.clone(), ..Transfer::default() };
        for word in sources {
            let Some(marker) = marker(word) else {
                transfer.sources.push(word.clone());
                continue;
            };
            // Of several bodies with one name the last counts, for all of them.
            let body = heredocs.iter().rfind(|heredoc| heredoc.name == marker.name);
            let heredoc = Heredoc {
                body: body.map(|heredoc| heredoc.body.clone()).unwrap_or_default(),
                span: body.map_or(word.span, |heredoc| heredoc.span),
                line: body.map_or(self.lines.first, |heredoc| heredoc.line),
                name: marker.name,
                expand: marker.expand,
                strip_tabs: marker.strip_tabs,
                fd: marker.fd,
            };
            transfer.inline.push(InlineFile { heredoc, marker: word.clone() });
        }
        Ok((flags, transfer))
    }

    fn no_destination(&self) -> Error {
        let name = self.keyword_name();
        self.error(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could \
             not be determined"
        ))
        .with_hint(format!("write {name} SOURCE… DESTINATION"))
    }

    fn copy(&self, heredocs: &[Heredoc]) -> Result<Copy, Error> {
        let (flags, transfer) = self.transfer(heredocs)?;
        Ok(Copy {
            transfer,
            from: flags.value("from").cloned(),
            chown: flags.value("chown").cloned(),
            chmod: flags.value("chmod").cloned(),
            link: flags.switch("link").unwrap_or(false),
            parents: flags.switch("parents").unwrap_or(false),
            exclude: flags.values("exclude").cloned().collect(),
        })
    }

    fn add(&self, heredocs: &[Heredoc]) -> Result<Add, Error> {
        let (flags, transfer) = self.transfer(heredocs)?;
        Ok(Add {
            transfer,
            chown: flags.value("chown").cloned(),
            chmod: flags.value("chmod").cloned(),
            link: flags.switch("link").unwrap_or(false),
            exclude: flags.values("exclude").cloned().collect(),
            checksum: flags.value("checksum").cloned(),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        })
    }

    fn run(&self, heredocs: &[Heredoc]) -> Result<Run, Error> {
        let flags = Flags::check(self)?;
        let mounts = flags
            .all("mount")
            .filter_map(|flag| Some(mount::fields(flag.value.as_ref()?, flag.text.span)))
            .collect::<Result<Vec<_>, String>>();
        let mounts = mounts.map_err(|message| self.error(message))?;
        for mount in &mounts {
            mount::check_from(mount, self.lines.first)?;
        }
        let network = match flags.given("network").map(|word| (word, word.as_str())) {
            None | Some((_, "default")) => Network::Default,
            Some((_, "none")) => Network::None,
            Some((_, "host")) => Network::Host,
            Some((word, other)) => {
                return Err(self
                    .error_at(word.span, format!("invalid network mode {other:?}"))
                    .with_label("expected default, none or host"));
            }
        };
        let security = match flags.given("security").map(|word| (word, word.as_str())) {
            None | Some((_, "sandbox")) => Security::Sandbox,
            Some((_, "insecure")) => Security::Insecure,
            Some((word, other)) => {
                return Err(self
                    .error_at(word.span, format!("security {other:?} is not valid"))
                    .with_label("expected sandbox or insecure"));
            }
        };
        Ok(Run {
            command: Self::command_line(&self.arguments, self.span),
            heredocs: heredocs.to_vec(),
            mounts,
            network,
            security,
            devices: flags.values("device").cloned().collect(),
        })
    }

    fn healthcheck(&self) -> Result<Healthcheck, Error> {
        let Arguments::Health { kind, command } = &self.arguments else {
            return Err(self.error("HEALTHCHECK requires at least one argument"));
        };
        let mut check = Healthcheck {
            test: Vec::new(),
            interval: 0,
            timeout: 0,
            start_period: 0,
            start_interval: 0,
            retries: 0,
        };
        let command = Self::command_line(command, kind.span);
        match kind.text.to_uppercase().as_str() {
            "NONE" => {
                match command {
                    CommandLine::Exec(words) if words.is_empty() => {}
                    CommandLine::Shell(word) if word.text.is_empty() => {}
                    _ => return Err(self.error("HEALTHCHECK NONE takes no arguments")),
                }
                check.test.push("NONE".to_owned());
                return Ok(check);
            }
            "CMD" => {}
            other => {
                Flags::check(self)?;
                let message = format!("Unknown type {other:?} in HEALTHCHECK (try CMD)");
                return Err(self.error_at(kind.span, message).with_label("expected CMD or NONE"));
            }
        }
        let flags = Flags::check(self)?;
        match command {
            CommandLine::Exec(words) if !words.is_empty() => {
                check.test.push("CMD".to_owned());
                check.test.extend(words.into_iter().map(|word| word.text));
            }
            CommandLine::Shell(word) if !word.text.is_empty() => {
                check.test = vec!["CMD-SHELL".to_owned(), word.text];
            }
            _ => return Err(self.error("Missing command after HEALTHCHECK CMD")),
        }
        for (name, value) in [
            ("interval", &mut check.interval),
            ("timeout", &mut check.timeout),
            ("start-period", &mut check.start_period),
            ("start-interval", &mut check.start_interval),
        ] {
            if let Some(word) = flags.value(name) {
                *value = self.interval(name, word)?;
            }
        }
        if let Some(word) = flags.value("retries") {
            let wrong = |message: String| self.error_at(word.span, message);
            check.retries = word.text.parse().map_err(|_| {
                wrong(format!("strconv.ParseInt: parsing {:?}: invalid syntax", word.text))
                    .with_label("expected a number")
            })?;
            if check.retries < 0 {
                return Err(wrong(format!("--retries cannot be negative ({})", check.retries)));
            }
        }
        Ok(check)
    }

    fn interval(&self, name: &str, word: &Word) -> Result<i64, Error> {
        const MILLISECOND: i64 = 1_000_000;
        let wrong = |message: String| self.error_at(word.span, message);
        let value = duration::parse(&word.text)
            .map_err(|message| wrong(message).with_label("expected a duration such as 1m30s"))?;
        if value != 0 && value < MILLISECOND {
            return Err(wrong(format!("Interval {name:?} cannot be less than 1ms")));
        }
        Ok(value)
    }

    fn onbuild(&self, heredocs: &[Heredoc]) -> Result<Onbuild, Error> {
        let Arguments::Trigger(trigger) = &self.arguments else {
            return Err(self.error("ONBUILD requires at least one argument"));
        };
        Flags::check(self)?;
        let keyword = &trigger.keyword;
        match trigger.name {
            Some("ONBUILD") => {
                let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
                return Err(self.error_at(keyword.span, message));
            }
            Some(name @ ("FROM" | "MAINTAINER")) => {
                let message = format!("{name} isn't allowed as an ONBUILD trigger");
                return Err(self.error_at(keyword.span, message));
            }
            _ => {}
        }
        // What stands in front of the keyword ONBUILD is white space.
        let original = self.original.trim_start();
        let behind = &original[self.keyword.text.len().min(original.len())..];
        let is_blank = |c| matches!(c, '\t' | '\n' | '\x0C' | '\r' | ' ');
        let mut expression = behind.trim_start_matches(is_blank).to_owned();
        for heredoc in heredocs {
            expression.push('\n');
            expression.push_str(&as_text(&heredoc.body));
            expression.push_str(&heredoc.name);
        }
        let instruction = trigger
            .command(heredocs)
            .ok()
            .map(|command| Box::new(Instruction { command, origin: trigger.origin() }));
        Ok(Onbuild { expression, trigger: instruction })
    }
}
