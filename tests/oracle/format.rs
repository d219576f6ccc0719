//! The text form of a case: one file that holds a Dockerfile, its context, the flags of the build and
//! the result that BuildKit recorded.
//!
//! A header of `key: value` lines, then sections. A section starts with a line `=== KIND …` and runs
//! up to the next such line. `README.md` beside the cases describes every key and section.

use std::collections::VecDeque;

/// A case as its file describes it.
#[derive(Debug, Default)]
pub(crate) struct Case {
    /// The file's name without its extension.
    pub name: String,
    /// What the machine must have: `http`, `git`, `ssh`, `network`.
    pub needs: Vec<String>,
    /// Fields after `type=oci,dest=…`.
    pub output: Option<String>,
    /// The Dockerfile's path in the context.
    pub dockerfile: String,
    /// The first build, then one for each `edit`.
    pub builds: Vec<Build>,
    /// The image, or the refusal, that the first build must end in.
    pub expected: Expected,
    /// Warnings of the first build: lines, and the text.
    pub warnings: Vec<(Vec<u64>, String)>,
}

/// One build of a case: what is put into the directory before it, and which steps it must run.
#[derive(Debug, Default)]
pub(crate) struct Build {
    /// The text after `edit`; empty for the first.
    pub title: String,
    /// Flags; those of earlier builds count as well.
    pub flags: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// What is done to the directory, in order.
    pub setup: Vec<Op>,
    /// `[stage n]` and whether the step is found in the cache; `None` where nothing is expected.
    pub steps: Option<Vec<(String, bool)>>,
}

/// How the first build must end.
#[derive(Debug)]
pub(crate) enum Expected {
    /// With an image.
    Image(Image),
    /// With an error.
    Error(Refusal),
}

impl Default for Expected {
    fn default() -> Self {
        Self::Error(Refusal::default())
    }
}

/// What an error must say.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    /// The line of the Dockerfile that it points at.
    pub line: Option<u64>,
    /// Parts of its text, in any case of letters.
    pub says: Vec<String>,
}

/// What an image must hold.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Fields of the configuration, as JSON; a field that is not named must be empty.
    pub config: Vec<(String, serde_json::Value)>,
    /// Entries that the base lacks or has otherwise.
    pub entries: Vec<Entry>,
    /// Paths of the base that are gone.
    pub removed: Vec<Vec<u8>>,
    /// Faults of the archive that BuildKit has as well.
    pub problems: Vec<String>,
}

/// One entry of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Absolute path.
    pub path: Vec<u8>,
    /// `file`, `dir`, `symlink`, `fifo`, `char` or `block`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Target of a symbolic link.
    pub link: Option<Vec<u8>>,
    /// Device numbers, `major:minor`.
    pub device: Option<String>,
    /// Seconds since 1970; `None` for the time of the build, which is not compared.
    pub mtime: Option<i64>,
    /// The first path, in byte order, of the file that this is a hard link to.
    pub same_as: Option<Vec<u8>>,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Size in bytes and SHA-256 in hexadecimal digits.
    pub content: Option<(u64, String)>,
}

/// A change to the directory of a case. Paths that start with `_` lie beside the context.
#[derive(Debug)]
pub(crate) enum Op {
    File { path: Vec<u8>, mode: u32, content: Vec<u8> },
    Dir { path: Vec<u8>, mode: u32 },
    Symlink { path: Vec<u8>, target: Vec<u8> },
    HardLink { path: Vec<u8>, target: Vec<u8> },
    Device { path: Vec<u8>, is_char: bool, major: u32, minor: u32 },
    Chmod { path: Vec<u8>, mode: u32 },
    Chown { path: Vec<u8>, owner: (u32, u32) },
    Mtime { path: Vec<u8>, seconds: i64 },
    Xattr { path: Vec<u8>, name: String, value: Vec<u8> },
    Sparse { path: Vec<u8>, size: u64, chunks: Vec<(u64, Vec<u8>)> },
    Tar { path: Vec<u8>, form: TarForm, members: Vec<Member> },
    Git { path: Vec<u8>, commits: Vec<Commit> },
    Remove { path: Vec<u8> },
    Rename { path: Vec<u8>, to: Vec<u8> },
}

/// How an archive is written.
#[derive(Debug, Default)]
pub(crate) struct TarForm {
    /// `gz`, `bz2`, `xz` or `zst`.
    pub compression: Option<String>,
    /// Cut off after so many bytes.
    pub truncate: Option<usize>,
    /// In GNU's format rather than with PAX records.
    pub is_gnu: bool,
}

/// A member of an archive.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub kind: String,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub mode: Option<u32>,
    pub owner: (u64, u64),
    pub mtime: Option<i64>,
    pub pax: Vec<(String, Vec<u8>)>,
    pub content: Vec<u8>,
}

/// A commit of a repository.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub tags: Vec<String>,
    pub branches: Vec<String>,
    /// Path, content, and whether it can be executed.
    pub files: Vec<(Vec<u8>, Vec<u8>, bool)>,
}

/// Splits a line into words; a quoted word may hold any byte.
#[derive(Debug)]
struct Words(VecDeque<Word>);

#[derive(Debug, Clone)]
struct Word {
    bytes: Vec<u8>,
    /// It was quoted from its first character on.
    is_text: bool,
}

impl Words {
    fn of(line: &str) -> Self {
        let mut words = VecDeque::new();
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let is_text = rest.starts_with('"');
            let mut bytes = Vec::new();
            let mut characters = rest.char_indices().peekable();
            let (mut is_quoted, mut end) = (false, rest.len());
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => is_quoted = !is_quoted,
                    '\\' if is_quoted => match characters.next().expect("an escape is whole").1 {
                        'n' => bytes.push(b'\n'),
                        't' => bytes.push(b'\t'),
                        'r' => bytes.push(b'\r'),
                        'x' => {
                            let digit = |next: Option<(usize, char)>| {
                                next.and_then(|(_, c)| c.to_digit(16)).expect("two hex digits")
                            };
                            let high = digit(characters.next());
                            bytes.push((high * 16 + digit(characters.next())) as u8);
                        }
                        other => bytes.extend(other.to_string().bytes()),
                    },
                    ' ' if !is_quoted => {
                        end = at;
                        break;
                    }
                    other => bytes.extend(other.to_string().bytes()),
                }
            }
            assert!(!is_quoted, "a quote is not closed: {line}");
            words.push_back(Word { bytes, is_text });
            rest = rest[end..].trim_start();
        }
        Self(words)
    }

    fn next(&mut self) -> Option<Word> {
        self.0.pop_front()
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.next().expect("one more word").bytes
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.bytes()).expect("UTF-8")
    }

    /// Takes `-> TARGET`.
    fn target(&mut self) -> Vec<u8> {
        assert_eq!(self.text(), "->");
        self.bytes()
    }

    /// Takes the word after `KEY=`, wherever it stands.
    fn option(&mut self, key: &str) -> Option<Vec<u8>> {
        let prefix = format!("{key}=");
        let found = |word: &Word| !word.is_text && word.bytes.starts_with(prefix.as_bytes());
        let at = self.0.iter().position(found)?;
        self.0.remove(at).map(|word| word.bytes[prefix.len()..].to_vec())
    }

    /// Takes a bare word, wherever it stands.
    fn flag(&mut self, name: &str) -> bool {
        let found = |word: &Word| !word.is_text && word.bytes == name.as_bytes();
        let at = self.0.iter().position(found);
        at.and_then(|at| self.0.remove(at)).is_some()
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Option<T> {
        self.option(key).map(|bytes| parse(&bytes))
    }

    /// Takes the words `PREFIX:NAME=VALUE`.
    fn named(&mut self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let prefix = format!("{prefix}:");
        let mut found = Vec::new();
        self.0.retain(|word| {
            let Some(pair) = word.bytes.strip_prefix(prefix.as_bytes()).filter(|_| !word.is_text)
            else {
                return true;
            };
            let cut = pair.iter().position(|&byte| byte == b'=').expect("NAME=VALUE");
            found.push((string(&pair[..cut]), pair[cut + 1..].to_vec()));
            false
        });
        found
    }

    fn end(&mut self) {
        assert!(self.0.is_empty(), "more words than expected: {:?}", self.0);
    }
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn parse<T: std::str::FromStr>(bytes: &[u8]) -> T {
    string(bytes).parse().unwrap_or_else(|_| panic!("a number: {}", string(bytes)))
}

fn octal(bytes: &[u8]) -> u32 {
    u32::from_str_radix(&string(bytes), 8).expect("an octal mode")
}

/// Reads `A:B`.
fn pair<T: std::str::FromStr>(bytes: &[u8]) -> (T, T) {
    let cut = bytes.iter().position(|&byte| byte == b':').expect("A:B");
    (parse(&bytes[..cut]), parse(&bytes[cut + 1..]))
}

/// Splits a case's text into its header and its sections: the line after `===`, and the body.
fn sections(text: &str) -> (&str, Vec<(&str, &str)>) {
    let mut starts: Vec<usize> = text.match_indices("\n=== ").map(|(at, _)| at + 1).collect();
    if text.starts_with("=== ") {
        starts.insert(0, 0);
    }
    let header = &text[..starts.first().copied().unwrap_or(text.len())];
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let whole = starts.iter().zip(ends).map(|(&start, end)| &text[start + 4..end]);
    (header, whole.map(|section| section.split_once('\n').unwrap_or((section, ""))).collect())
}

impl Case {
    /// Reads a case; what it cannot read is a panic that names the line.
    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let mut case = Self {
            name: name.to_owned(),
            dockerfile: "Dockerfile".to_owned(),
            builds: vec![Build::default()],
            ..Self::default()
        };
        let (header, sections) = sections(text);
        for line in header.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            case.setting(line);
        }
        let mut is_expected = false;
        for (head, body) in sections {
            let mut words = Words::of(head);
            match words.text().as_str() {
                "expect" => {
                    match words.text().as_str() {
                        "ok" => case.expected = Expected::Image(image(body)),
                        "error" => case.expected = Expected::Error(refusal(body)),
                        "warnings" => case.warnings = warnings(body),
                        "steps" => case.last().steps = Some(steps(body)),
                        other => panic!("{name}: expect {other}"),
                    }
                    is_expected = true;
                }
                "edit" => {
                    let title = head.strip_prefix("edit").unwrap_or_default().trim().to_owned();
                    case.builds.push(Build { title, ..Build::default() });
                    for line in body.lines() {
                        case.setting(line);
                    }
                }
                kind => {
                    let op = op(kind, &mut words, body);
                    words.end();
                    case.last().setup.push(op);
                }
            }
        }
        assert!(is_expected, "{name}: nothing is expected");
        case
    }

    fn last(&mut self) -> &mut Build {
        self.builds.last_mut().expect("there is a first build")
    }

    fn setting(&mut self, line: &str) {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("`key: value`: {line}"));
        match key {
            "needs" => self.needs = value.split(' ').map(str::to_owned).collect(),
            "flag" => self.last().flags.push(value.to_owned()),
            "env" => {
                let (name, value) = value.split_once('=').expect("NAME=VALUE");
                self.last().env.push((name.to_owned(), value.to_owned()));
            }
            "output" => self.output = Some(value.to_owned()),
            "dockerfile" => value.clone_into(&mut self.dockerfile),
            other => panic!("{}: no such key: {other}", self.name),
        }
    }
}

/// Reads the body of a file: plain text, or compressed bytes in base64.
fn file_content(words: &mut Words, body: &str) -> Vec<u8> {
    if words.flag("deflated") {
        let bytes = crate::kit::base64(body);
        let mut content = Vec::new();
        let mut decoder = flate2::read::ZlibDecoder::new(bytes.as_slice());
        std::io::Read::read_to_end(&mut decoder, &mut content).expect("deflated bytes");
        return content;
    }
    let body = if words.flag("no-newline") {
        body.strip_suffix('\n').expect("the body ends in a newline")
    } else {
        body
    };
    body.as_bytes().to_vec()
}

fn op(kind: &str, words: &mut Words, body: &str) -> Op {
    let path = words.bytes();
    match kind {
        "file" => {
            let content = file_content(words, body);
            Op::File {
                path,
                mode: words.option("mode").map_or(0o644, |mode| octal(&mode)),
                content,
            }
        }
        "dir" => Op::Dir { path, mode: words.option("mode").map_or(0o755, |mode| octal(&mode)) },
        "symlink" => Op::Symlink { path, target: words.target() },
        "hardlink" => Op::HardLink { path, target: words.target() },
        "device" => {
            let is_char = words.text() == "char";
            let (major, minor) = pair(&words.bytes());
            Op::Device { path, is_char, major, minor }
        }
        "chmod" => Op::Chmod { path, mode: octal(&words.bytes()) },
        "chown" => Op::Chown { path, owner: pair(&words.bytes()) },
        "mtime" => Op::Mtime { path, seconds: parse(&words.bytes()) },
        "xattr" => Op::Xattr { path, name: words.text(), value: words.bytes() },
        "sparse" => {
            let chunks = body.lines().map(|line| {
                let mut words = Words::of(line);
                (parse(&words.bytes()), words.bytes())
            });
            Op::Sparse {
                path,
                size: words.number("size").expect("size="),
                chunks: chunks.collect(),
            }
        }
        "tar" => {
            let form = TarForm {
                truncate: words.number("truncate"),
                is_gnu: words.option("format").is_some_and(|format| format == b"gnu"),
                compression: words.next().map(|word| string(&word.bytes)),
            };
            Op::Tar { path, form, members: body.lines().map(member).collect() }
        }
        "git" => Op::Git { path, commits: commits(body) },
        "rm" => Op::Remove { path },
        "rename" => Op::Rename { path, to: words.target() },
        other => panic!("no such section: {other}"),
    }
}

fn member(line: &str) -> Member {
    let mut words = Words::of(line);
    let (kind, name) = (words.text(), words.bytes());
    let mut member = Member {
        mode: words.option("mode").map(|mode| octal(&mode)),
        owner: words.option("owner").map_or((0, 0), |owner| pair(&owner)),
        mtime: words.number("mtime"),
        pax: words.named("pax"),
        kind,
        name,
        ..Member::default()
    };
    let repeat: usize = words.number("repeat").unwrap_or(1);
    match member.kind.as_str() {
        "file" => member.content = words.bytes().repeat(repeat),
        "symlink" | "hardlink" => member.link = words.target(),
        "char" | "block" => member.device = pair(&words.bytes()),
        _ => {}
    }
    words.end();
    member
}

fn commits(body: &str) -> Vec<Commit> {
    let mut commits = Vec::new();
    for line in body.lines() {
        let mut words = Words::of(line);
        match words.text().as_str() {
            "commit" => {
                let mut commit = Commit::default();
                while let Some(tag) = words.option("tag") {
                    commit.tags.push(string(&tag));
                }
                while let Some(branch) = words.option("branch") {
                    commit.branches.push(string(&branch));
                }
                commits.push(commit);
            }
            kind => {
                let commit: &mut Commit = commits.last_mut().expect("`commit` comes first");
                commit.files.push((words.bytes(), words.bytes(), kind == "exec"));
            }
        }
        words.end();
    }
    commits
}

fn refusal(body: &str) -> Refusal {
    let mut refusal = Refusal::default();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let mut words = Words::of(line);
        match words.text().as_str() {
            "line" => refusal.line = Some(parse(&words.bytes())),
            "says" => refusal.says.push(words.text()),
            other => panic!("no such line of an error: {other}"),
        }
    }
    refusal
}

fn image(body: &str) -> Image {
    let mut image = Image::default();
    for line in body.lines() {
        let mut words = Words::of(line.split_once(' ').expect("more than one word").0);
        let rest = line.split_once(' ').map_or("", |(_, rest)| rest);
        match words.text().as_str() {
            "platform" => rest.clone_into(&mut image.platform),
            "base" => {}
            "config" => {
                let (field, json) = rest.split_once(' ').expect("a field and its value");
                let value = serde_json::from_str(json).expect("JSON");
                image.config.push((field.to_owned(), value));
            }
            "removed" => image.removed.push(Words::of(rest).bytes()),
            "problem" => image.problems.push(rest.to_owned()),
            _ => image.entries.push(entry(line)),
        }
    }
    image
}

fn entry(line: &str) -> Entry {
    let mut words = Words::of(line);
    let kind = words.text();
    let mode = octal(&words.bytes());
    let owner = pair(&words.bytes());
    let path = words.bytes();
    let mut entry = Entry {
        mtime: words.number("mtime"),
        same_as: words.option("same-as"),
        xattrs: words.named("xattr"),
        kind,
        mode,
        owner,
        path,
        ..Entry::default()
    };
    let size = words.number("size");
    let sha256 = words.option("sha256").map(|bytes| string(&bytes));
    match entry.kind.as_str() {
        "symlink" => entry.link = Some(words.target()),
        "char" | "block" => entry.device = Some(words.text()),
        "file" if entry.same_as.is_none() => {
            entry.content = size.zip(sha256).or_else(|| {
                let content = words.bytes();
                Some((content.len() as u64, crate::kit::base::hex(&content)))
            });
        }
        _ => {}
    }
    words.end();
    entry
}

fn warnings(body: &str) -> Vec<(Vec<u64>, String)> {
    let read = |line: &str| {
        let (lines, text) = line.split_once(' ').expect("lines and a text");
        let lines = lines.split(',').filter(|line| !line.is_empty());
        (lines.map(|line| line.parse().expect("a line")).collect(), text.to_owned())
    };
    body.lines().map(read).collect()
}

fn steps(body: &str) -> Vec<(String, bool)> {
    let read = |line: &str| {
        let (state, rest) = line.split_once(" [").expect("a state and a step");
        assert!(matches!(state, "ran" | "cached"), "{line}");
        let place = rest.split_once(']').expect("[stage n]").0;
        (place.to_owned(), state == "cached")
    };
    body.lines().map(read).collect()
}
