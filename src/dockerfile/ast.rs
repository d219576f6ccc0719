//! The syntax tree: what a Dockerfile says, with the place of every word.
//!
//! Nothing here is expanded: a [`Word`] holds quotes, escapes and `$NAME`s as
//! they were typed, and [`super::expand`] makes values of them once the stage's
//! variables are known. What BuildKit checks only when a stage is built (the
//! options of `--mount`, a signal, a port) is checked then here too, so that a
//! mistake in a stage that is not needed does not fail a build that works there.
//!
//! # Invariants
//!
//! - Spans are byte ranges of the *source as given*, byte-order mark and all.
//!   A word that runs over a continuation has the span from its first to its
//!   last byte.
//! - Lines are 1-based. An instruction's last line is that of its last heredoc
//!   terminator.

use serde::{Deserialize, Serialize};

/// A byte range of the source text, end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The smallest span that holds both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// Lines of the source, 1-based and inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lines {
    /// Line of the keyword.
    pub first: u32,
    /// Last line, heredoc terminators included.
    pub last: u32,
}

/// A piece of text as typed, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Word {
    /// The text, not expanded. Bytes that are not UTF-8 are U+FFFD, one each.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Word {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A part of the word. Its span is that of the whole word where the text is
    /// not in the file as it is: for lack of quotes or escapes that were taken
    /// away, or because of a line break within.
    ///
    /// # Panics
    ///
    /// Where the range does not lie on characters of the text.
    #[must_use]
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        let span = if self.span.end - self.span.start == self.text.len() {
            Span { start: self.span.start + range.start, end: self.span.start + range.end }
        } else {
            self.span
        };
        Self { text: self.text[range].to_owned(), span }
    }
}

/// The character that escapes and continues lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Escape {
    /// `\`, the default.
    #[default]
    Backslash,
    /// `` ` ``, by `# escape=` directive.
    Backtick,
}

impl Escape {
    /// The character itself.
    pub fn as_char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }
}

/// Which parser directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DirectiveName {
    /// `# syntax=`: which frontend reads the file.
    Syntax,
    /// `# escape=`: the escape character.
    Escape,
    /// `# check=`: which build checks count, and whether they are errors.
    Check,
}

/// A parser directive at the head of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Which one.
    pub name: DirectiveName,
    /// Its value, trimmed.
    pub value: Word,
    /// Its line.
    pub line: u32,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dockerfile {
    /// The escape character in force.
    pub escape: Escape,
    /// Directives in source order, each name at most once.
    pub directives: Vec<Directive>,
    /// `ARG` instructions before the first `FROM`; each holds [`Command::Arg`].
    pub global_args: Vec<Instruction>,
    /// Stages in source order; never empty in a file that parsed.
    pub stages: Vec<Stage>,
    /// Instructions that have an empty line among their continuations: the
    /// place and line of the instruction's end, for the check of that name.
    pub empty_continuations: Vec<(Span, u32)>,
}

impl Dockerfile {
    /// The value of a directive.
    pub fn directive(&self, name: DirectiveName) -> Option<&Directive> {
        self.directives.iter().find(|directive| directive.name == name)
    }

    /// Index of the stage of that name (without regard to case), or of that
    /// number. The last of several stages of one name wins, as in BuildKit.
    pub fn stage(&self, name: &str) -> Option<usize> {
        self.stages
            .iter()
            .rposition(|s| s.name.as_ref().is_some_and(|n| n.text.eq_ignore_ascii_case(name)))
    }
}

/// What one `FROM` starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The image or stage after `FROM`, not expanded.
    pub base: Word,
    /// The name after `AS`, in lower case.
    pub name: Option<Word>,
    /// The `AS` as typed.
    pub as_keyword: Option<Word>,
    /// The name after `AS` as typed.
    pub name_as_typed: Option<String>,
    /// `--platform`, not expanded.
    pub platform: Option<Word>,
    /// The `FROM` itself.
    pub from: Origin,
    /// What follows, in order.
    pub instructions: Vec<Instruction>,
}

/// Where an instruction comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The keyword as typed.
    pub keyword: Word,
    /// The instruction with its continuation lines joined, without heredoc
    /// bodies, trimmed. History entries are made of it.
    pub original: String,
    /// From the keyword to the end of the last line.
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
    /// Text of the comment lines directly above it.
    pub comments: Vec<String>,
    /// Flags as typed, with quotes and escapes taken away: `--chown=a:b`.
    pub flags: Vec<Word>,
    /// First place that was not UTF-8 in the joined text. BuildKit cannot send
    /// such a RUN to its worker and fails; elsewhere each byte becomes U+FFFD.
    pub invalid_utf8: Option<Span>,
    /// Where a body that begins like an exec form (`[`) stops being one: it was
    /// read as text, or as words, as BuildKit does without a word.
    pub invalid_json: Option<Span>,
}

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// What it says.
    pub command: Command,
    /// Where it comes from.
    pub origin: Origin,
}

/// What an instruction says. `FROM` is a [`Stage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// `ADD`
    Add(Add),
    /// `ARG`, one or more on a line.
    Arg(Vec<ArgDeclaration>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<Pair>),
    /// `EXPOSE`: unexpanded, in source order (BuildKit sorts them).
    Expose(Vec<Word>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<Pair>),
    /// `MAINTAINER`
    Maintainer(Word),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Run),
    /// `SHELL`: at least one word.
    Shell(Vec<Word>),
    /// `STOPSIGNAL`
    Stopsignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

impl Command {
    /// The keyword in upper case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// A command in shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandLine {
    /// One text for the SHELL, never expanded by the builder; may be empty.
    Shell(Word),
    /// A JSON array: the arguments themselves, never expanded; may be empty.
    Exec(Vec<Word>),
}

/// `name=value` of ENV and LABEL; both sides are expanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Name, not expanded.
    pub name: Word,
    /// Value, not expanded.
    pub value: Word,
    /// The old form without `=`.
    pub is_legacy: bool,
}

/// One variable of an ARG; both sides are expanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArgDeclaration {
    /// Name, not expanded.
    pub name: Word,
    /// Default, not expanded; `None` without `=`.
    pub default: Option<Word>,
    /// From a comment `# NAME text` directly above.
    pub description: Option<String>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heredoc {
    /// The delimiter without quotes.
    pub name: String,
    /// The body as it stands in the file, the terminator line not included.
    #[serde(with = "body_text")]
    pub body: Vec<u8>,
    /// The delimiter was not quoted: COPY and ADD expand the body.
    pub expand: bool,
    /// `<<-`: leading tabs of each line do not count.
    pub strip_tabs: bool,
    /// The number before `<<`, 0 without one.
    pub fd: u64,
    /// Where the body stands.
    pub span: Span,
    /// Line of the body's first byte.
    pub line: u32,
}

impl Heredoc {
    /// The body as a file has it: without leading tabs under `<<-`.
    pub fn content(&self) -> Vec<u8> {
        if !self.strip_tabs {
            return self.body.clone();
        }
        let mut out = Vec::with_capacity(self.body.len());
        for line in self.body.split_inclusive(|&b| b == b'\n') {
            let tabs = line.iter().take_while(|&&b| b == b'\t').count();
            out.extend_from_slice(&line[tabs..]);
        }
        out
    }
}

/// Bodies are bytes; as data they are text.
mod body_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(body: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&String::from_utf8_lossy(body))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Ok(String::deserialize(from)?.into_bytes())
    }
}

/// Network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// What the build uses.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's; needs permission.
    Host,
}

/// Security of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// The sandbox.
    #[default]
    Sandbox,
    /// Privileged; needs permission.
    Insecure,
}

/// A RUN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// Heredocs, in the order their markers stand on the line; empty for exec form.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`s in order; [`MountFlag::resolve`] makes mounts of them.
    pub mounts: Vec<MountFlag>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
    /// `--device`s as typed. Nothing here can provide them: refuse by name.
    pub devices: Vec<Word>,
}

/// A `--mount` as typed: its comma-separated fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFlag {
    /// Fields in order.
    pub fields: Vec<MountField>,
    /// The whole flag.
    pub span: Span,
}

/// One `key=value` or `key` of a `--mount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountField {
    /// Key in lower case.
    pub key: String,
    /// Value, not expanded; `None` without `=`.
    pub value: Option<String>,
    /// The field as typed.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// What kind of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountType {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory kept between builds.
    Cache,
    /// A fresh tmpfs.
    Tmpfs,
    /// A secret as a file or a variable.
    Secret,
    /// An ssh agent's socket.
    Ssh,
}

/// How builds share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All write at once.
    Shared,
    /// A second writer gets a new one.
    Private,
    /// A second writer waits.
    Locked,
}

/// A mount with its options expanded and checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mount {
    /// Which kind.
    pub kind: MountType,
    /// Stage, image or named context; empty without.
    pub from: String,
    /// `source`, empty without.
    pub source: String,
    /// `target`, empty without.
    pub target: String,
    /// Writes are refused.
    pub readonly: bool,
    /// Size limit of a tmpfs in bytes, 0 without.
    pub size: i64,
    /// `id`, empty without.
    pub id: String,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// A secret or agent that must be there.
    pub required: bool,
    /// `env` of a secret: the variable it is put in.
    pub env: Option<String>,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
}

/// A file whose content stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineFile {
    /// The heredoc; its name is the file's name, [`Heredoc::content`] its bytes.
    pub heredoc: Heredoc,
    /// The marker among the sources.
    pub marker: Word,
}

/// Sources and destination of COPY and ADD. All are expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Transfer {
    /// Paths, patterns and (ADD) URLs in order.
    pub sources: Vec<Word>,
    /// Heredoc sources in order; BuildKit copies them after the paths.
    pub inline: Vec<InlineFile>,
    /// Destination.
    pub dest: Word,
}

/// A COPY.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Copy {
    /// From where to where.
    pub transfer: Transfer,
    /// `--from`: a stage, image or named context. Variables are refused later,
    /// by name, because BuildKit does so only for stages it builds.
    pub from: Option<Word>,
    /// `--chown`, expanded.
    pub chown: Option<Word>,
    /// `--chmod`, expanded.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`s; not expanded by BuildKit.
    pub exclude: Vec<Word>,
}

/// An ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Add {
    /// From where to where.
    pub transfer: Transfer,
    /// `--chown`, expanded.
    pub chown: Option<Word>,
    /// `--chmod`, expanded.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude`s; not expanded by BuildKit.
    pub exclude: Vec<Word>,
    /// `--checksum`, expanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, when given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, when given.
    pub unpack: Option<bool>,
}

/// A HEALTHCHECK. Durations are nanoseconds, as in the image config; 0 means
/// "inherit".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`, as the config has it.
    pub test: Vec<String>,
    /// `--interval`
    pub interval: i64,
    /// `--timeout`
    pub timeout: i64,
    /// `--start-period`
    pub start_period: i64,
    /// `--start-interval`
    pub start_interval: i64,
    /// `--retries`
    pub retries: i32,
}

/// An ONBUILD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onbuild {
    /// What the config keeps: the trigger's text with its heredoc bodies.
    pub expression: String,
    /// The trigger as an instruction; `None` when it is not one that could
    /// stand by itself, which BuildKit finds only in the child's build.
    pub trigger: Option<Box<Instruction>>,
}
