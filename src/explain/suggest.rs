//! What would avoid a miss, said only where the records support it.
//!
//! A suggestion is a conclusion from recorded facts, and carries them as its evidence: the files
//! that changed and those that did not, what a step cost, how often it ran, that it made the same
//! files again. Advice that would be good for any Dockerfile is not given.

use super::compare::Cause;
use super::listing::{FileChanges, Listings, SHOWN};
use super::report::{Step, Verdict, seconds};
use crate::cache::{TreeEntry, Value};
use crate::history::{BuildRecord, Origin, StepRecord};
use serde::Serialize;
use std::collections::BTreeSet;

/// A step that costs less is not worth a change of the Dockerfile.
const WORTH_US: u64 = 1_000_000;

/// A step must have made the same files from so many different ones before it is believed not to
/// read what changed.
const SAME_MIN: usize = 3;

/// Before a cache mount is suggested, a step must have run this often.
const RUNS_MIN: usize = 2;

/// A change that would avoid a miss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// What kind of change.
    pub kind: SuggestionKind,
    /// The number of the step that it is about.
    pub step: usize,
    /// What to do: one imperative sentence.
    pub text: String,
    /// What in the records speaks for it.
    pub evidence: String,
    /// What it would have saved in this build, in microseconds, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saves_us: Option<u64>,
}

/// What a [`Suggestion`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SuggestionKind {
    /// `--normalize-modes`.
    NormalizeModes,
    /// A line in the ignore file.
    IgnoreFiles,
    /// Copying less before an expensive step.
    MoveCopy,
    /// Declaring an argument later.
    MoveArg,
    /// `RUN --mount=type=cache`.
    CacheMount,
}

/// What the suggestions are drawn from.
struct Facts<'a> {
    build: &'a BuildRecord,
    steps: &'a [Step],
    before: &'a [BuildRecord],
    listings: &'a dyn Listings,
}

/// Returns what would avoid the misses of a build, the greatest saving of each kind first.
pub(super) fn suggestions(
    build: &BuildRecord,
    steps: &[Step],
    before: &[BuildRecord],
    listings: &dyn Listings,
) -> Vec<Suggestion> {
    let facts = Facts { build, steps, before, listings };
    let mut found = Vec::new();
    for (place, step) in steps.iter().enumerate() {
        if matches!(step.result, Verdict::Miss | Verdict::Unknown) {
            found.extend(facts.files(place));
            found.extend(facts.move_copy(place));
            found.extend(facts.cache_mount(place));
        }
    }
    found.extend(facts.move_args());
    // What no user notices is not worth a sentence.
    found.retain(|s| s.saves_us.is_none_or(|us| us >= WORTH_US));
    found.sort_by_key(|s| (s.kind, std::cmp::Reverse(s.saves_us), s.step));
    // One line of the Dockerfile is a step of each platform.
    let line = |number: usize| steps.iter().find(|step| step.number == number).map(|s| s.line);
    let mut said: Vec<(SuggestionKind, Option<u32>, usize)> = Vec::new();
    found.retain(|s| {
        let at = line(s.step);
        let is_new = said.iter().all(|(kind, line, step)| {
            (*kind, *line) != (s.kind, at) || *step == s.step || at.is_none()
        });
        said.extend(is_new.then_some((s.kind, at, s.step)));
        is_new
    });
    found
}

/// Paths that say by their name that no build reads them, with the ignore line that hides them.
const NOISE: &[(&str, &str)] = &[
    (".git", ".git"),
    (".svn", ".svn"),
    (".hg", ".hg"),
    (".idea", ".idea"),
    (".vscode", ".vscode"),
    ("__pycache__", "**/__pycache__"),
    (".pytest_cache", "**/.pytest_cache"),
    (".mypy_cache", "**/.mypy_cache"),
    (".DS_Store", "**/.DS_Store"),
    ("Dockerfile", "Dockerfile"),
    (".dockerignore", ".dockerignore"),
    (".github", ".github"),
    (".gitlab-ci.yml", ".gitlab-ci.yml"),
];

/// The same, by the end of the name.
const NOISE_SUFFIXES: &[(&str, &str)] =
    &[(".swp", "**/*.swp"), (".pyc", "**/*.pyc"), ("~", "**/*~"), (".orig", "**/*.orig")];

/// Installs by name, from the network, and reads nothing of the context.
const SYSTEM_PACKAGES: &[&str] = &[
    "apt-get install",
    "apt-get -y install",
    "apt install",
    "apk add",
    "dnf install",
    "dnf -y install",
    "yum install",
    "yum -y install",
    "microdnf install",
    "zypper install",
    "pacman -S",
];

/// Commands that read only these files of a project.
const MANIFESTS: &[(&str, &[&str])] = &[
    ("npm ci", NODE),
    ("npm install", NODE),
    ("yarn install", NODE),
    ("pnpm install", NODE),
    ("pip install -r", &["requirements.txt"]),
    ("pip3 install -r", &["requirements.txt"]),
    ("poetry install", &["pyproject.toml", "poetry.lock"]),
    ("uv sync", &["pyproject.toml", "uv.lock"]),
    ("go mod download", &["go.mod", "go.sum"]),
    ("bundle install", &["Gemfile", "Gemfile.lock"]),
    ("cargo fetch", &["Cargo.toml", "Cargo.lock"]),
    ("composer install", &["composer.json", "composer.lock"]),
    ("mvn dependency:", &["pom.xml"]),
];

const NODE: &[&str] =
    &["package.json", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml"];

/// A tool that keeps downloads or objects in a directory, which a cache mount would save. Package
/// managers of distributions are not here: their images are set up to throw the downloads away.
struct Tool {
    command: &'static str,
    /// The variable that names the directory above `directory`, and what that directory is without
    /// it; relative to the home directory.
    base: (&'static str, &'static str),
    /// Below `base`.
    directory: &'static str,
    /// A flag that says that nothing is kept.
    off: &'static str,
}

const fn tool(
    command: &'static str,
    base: (&'static str, &'static str),
    directory: &'static str,
    off: &'static str,
) -> Tool {
    Tool { command, base, directory, off }
}

const XDG_CACHE: (&str, &str) = ("XDG_CACHE_HOME", ".cache");
const CARGO: (&str, &str) = ("CARGO_HOME", ".cargo");
const HOME: (&str, &str) = ("HOME", "");

const TOOLS: &[Tool] = &[
    tool("pip install", XDG_CACHE, "pip", "--no-cache-dir"),
    tool("pip3 install", XDG_CACHE, "pip", "--no-cache-dir"),
    tool("uv sync", XDG_CACHE, "uv", "--no-cache"),
    tool("uv pip install", XDG_CACHE, "uv", "--no-cache"),
    tool("npm ci", HOME, ".npm", ""),
    tool("npm install", HOME, ".npm", ""),
    tool("go build", XDG_CACHE, "go-build", ""),
    tool("go mod download", ("GOPATH", "go"), "pkg/mod", ""),
    tool("cargo build", CARGO, "registry", ""),
    tool("cargo fetch", CARGO, "registry", ""),
    tool("mvn ", HOME, ".m2", ""),
    tool("gradle ", HOME, ".gradle", ""),
];

impl Tool {
    /// Returns the directory, where the records say which it is.
    fn target(&self, record: &StepRecord) -> Option<String> {
        let text = |name: &str| match record.inputs.get(name) {
            Some(Value::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let (variable, fallback) = self.base;
        let base = if let Some(directory) = text(&format!("env {variable}")) {
            directory.to_owned()
        } else {
            let home = match text("env HOME") {
                Some(home) => home,
                None if matches!(text("user"), None | Some("" | "0" | "root")) => "/root",
                None => return None,
            };
            format!("{home}/{fallback}")
        };
        Some(format!("{}/{}", base.trim_end_matches('/'), self.directory))
    }
}

impl Facts<'_> {
    /// Suggestions from the very files that changed.
    fn files(&self, place: usize) -> Option<Suggestion> {
        let step = &self.steps[place];
        let (_, changes) = only_files(step)?;
        if changes.is_umask {
            return Some(Suggestion {
                kind: SuggestionKind::NormalizeModes,
                step: step.number,
                text:
                    "build with --normalize-modes, so that a checkout under another umask is the \
                       same context"
                        .to_owned(),
                evidence: format!(
                    "only the write permission of group and others differs, of {}",
                    files(changes.count())
                ),
                saves_us: Some(self.broken_by(place)),
            });
        }
        let is_context = self.build.steps[place]
            .reads
            .iter()
            .any(|origin| matches!(origin, Origin::Context { name } if name.is_empty()));
        if !is_context || changes.count() == 0 || changes.count() > SHOWN {
            return None;
        }
        let lines: Option<BTreeSet<&str>> =
            changes.files.iter().map(|file| ignore_line(&file.path)).collect();
        let lines: Vec<&str> = lines?.into_iter().collect();
        let support = match self.is_unread(place)? {
            0 => String::new(),
            1 => ", and the step behind it made the same files".to_owned(),
            count => format!(", and {count} steps behind it made the same files"),
        };
        Some(Suggestion {
            kind: SuggestionKind::IgnoreFiles,
            step: step.number,
            text: format!("add to .dockerignore: {}", lines.join(", ")),
            evidence: format!(
                "nothing else changed in what the step copies ({}){support}",
                files(changes.count())
            ),
            saves_us: Some(self.broken_by(place)),
        })
    }

    /// Returns how many commands behind a copy are known not to read what changed in it, if that is
    /// so of all that it broke: each made the same files when only such paths changed, and none
    /// made others.
    fn is_unread(&self, copy: usize) -> Option<usize> {
        let behind = self.behind(copy);
        let mut supported = BTreeSet::new();
        for [now, then] in self.pairs() {
            let (Some(new), Some(old)) = (now.step(copy), then.step(copy)) else { continue };
            if !self.differ_in_noise(new, old) {
                continue;
            }
            for &place in &behind {
                let (Some(new), Some(old)) = (now.step(place), then.step(place)) else { continue };
                if new.key != old.key || !new.is_keyed() {
                    continue;
                }
                match same_output(new, old) {
                    Some(true) => _ = supported.insert(place),
                    Some(false) => return None,
                    None => {}
                }
            }
        }
        let runs = |place: &&usize| is_run(&self.build.steps[**place]);
        let broken: Vec<&usize> =
            behind.iter().filter(runs).filter(|place| is_broken(&self.steps[**place])).collect();
        broken.iter().all(|place| supported.contains(*place)).then_some(broken.len())
    }

    /// The places of the steps that start from a step or read its files, or those of one behind it.
    fn behind(&self, place: usize) -> Vec<usize> {
        let mut numbers = BTreeSet::from([self.steps[place].number]);
        let mut behind = Vec::new();
        for (place, step) in self.steps.iter().enumerate().skip(place + 1) {
            if step.after.iter().any(|number| numbers.contains(number)) {
                numbers.insert(step.number);
                behind.push(place);
            }
        }
        behind
    }

    /// Builds to compare with each other: this one with each earlier one, and these with the next
    /// ones.
    fn pairs(&self) -> Vec<[Aligned<'_>; 2]> {
        let builds: Vec<Aligned<'_>> = std::iter::once(self.build)
            .chain(self.before)
            .map(|build| Aligned { build, places: super::align::counterparts(self.build, build) })
            .collect();
        let now = builds.iter().skip(1).map(|then| [builds[0].clone(), then.clone()]);
        let next = builds.windows(2).skip(1).map(|two| [two[0].clone(), two[1].clone()]);
        now.chain(next).collect()
    }

    /// Whether two copies differ in nothing but files that no build reads by their names.
    fn differ_in_noise(&self, now: &StepRecord, then: &StepRecord) -> bool {
        let (new, old) = (now.inputs.iter(), then.inputs.iter());
        if new.clone().count() != old.clone().count() || now.key == then.key {
            return false;
        }
        new.zip(old).all(|(new, old)| {
            if new == old {
                return true;
            }
            let (Value::Tree(a), Value::Tree(b)) = (&new.value, &old.value) else { return false };
            let (Some(a), Some(b)) = (self.listings.listing(a), self.listings.listing(b)) else {
                return false;
            };
            let changes = super::listing::compare(&b, &a);
            new.name == old.name
                && changes.count() > 0
                && changes.count() <= SHOWN
                && changes.files.iter().all(|file| ignore_line(&file.path).is_some())
        })
    }

    /// Whether a step made the same files whenever nothing but the argument `name` changed; `None`
    /// if that never was.
    fn ignores_arg(&self, place: usize, name: &str) -> Option<bool> {
        let name = format!("arg {name}");
        let rest = |step: &StepRecord| -> Vec<crate::cache::Input> {
            step.inputs.iter().filter(|input| input.name != name).cloned().collect()
        };
        let mut found = None;
        for [now, then] in self.pairs() {
            let (Some(new), Some(old)) = (now.step(place), then.step(place)) else { continue };
            let is_only_arg = new.parent.is_some()
                && new.parent == old.parent
                && new.key != old.key
                && rest(new) == rest(old);
            match same_output(new, old).filter(|_| is_only_arg) {
                Some(false) => return Some(false),
                Some(true) => found = Some(true),
                None => {}
            }
        }
        found
    }

    /// What the steps cost that missed only because of this one.
    fn broken_by(&self, place: usize) -> u64 {
        let number = self.steps[place].number;
        let behind = self.steps[place + 1..].iter().filter(|step| {
            is_broken(step)
                && !step.causes.is_empty()
                && step.causes.iter().all(
                    |cause| matches!(cause, Cause::EarlierStep { first, .. } if *first == number),
                )
        });
        let own = self.steps[place].run_us;
        own.unwrap_or(0) + behind.filter_map(|step| step.run_us).sum::<u64>()
    }

    /// A copy of changed files in front of an expensive step that does not read them.
    fn move_copy(&self, place: usize) -> Option<Suggestion> {
        let copy = &self.steps[place];
        only_files(copy)?;
        let mut behind = vec![copy.number];
        // The first command behind it: to a later one, the files that this one made count too.
        let (run, record) =
            self.steps.iter().zip(&self.build.steps).skip(place + 1).find(|(step, record)| {
                let follows =
                    matches!(record.from, Origin::Step { number } if behind.contains(&number));
                if follows && step.stage == copy.stage {
                    behind.push(step.number);
                    return is_run(record);
                }
                false
            })?;
        let is_only_by_copy = is_broken(run)
            && run.causes.iter().all(
                |cause| matches!(cause, Cause::EarlierStep { first, .. } if *first == copy.number),
            );
        let cost = run.run_us.filter(|cost| is_only_by_copy && *cost >= WORTH_US)?;
        let evidence = self.does_not_read(place, run, record)?;
        let text = format!(
            "copy only what line {} needs before it, and move the COPY of line {} below it",
            run.line, copy.line
        );
        Some(Suggestion {
            kind: SuggestionKind::MoveCopy,
            step: copy.number,
            text,
            evidence,
            saves_us: Some(cost),
        })
    }

    /// Returns what says that a step does not read the files that changed.
    fn does_not_read(&self, copy: usize, run: &Step, record: &StepRecord) -> Option<String> {
        let took = seconds(run.run_us.unwrap_or(0));
        if let Some(count) = self.same_files(record) {
            let line = run.line;
            return Some(format!(
                "line {line} ({took}) made the same files from {count} different sources"
            ));
        }
        let text = &record.instruction;
        let (_, changes) = only_files(&self.steps[copy])?;
        let mentions = changes
            .files
            .iter()
            .any(|file| file.path.rsplit('/').next().is_some_and(|name| text.contains(name)));
        if mentions {
            return None;
        }
        if SYSTEM_PACKAGES.iter().any(|command| text.contains(command)) && is_simple(text) {
            return Some(format!("line {} ({took}) installs packages by name", run.line));
        }
        let (command, names) = MANIFESTS.iter().find(|(command, _)| text.contains(command))?;
        let unchanged = self.unchanged(copy, names)?;
        is_simple(text).then(|| {
            format!("line {} runs `{command}` ({took}), and {unchanged} did not change", run.line)
        })
    }

    /// Returns from how many different files a step made the same ones, if it always did and that
    /// was often enough to be no chance, as an edited comment is.
    fn same_files(&self, record: &StepRecord) -> Option<usize> {
        let made = record.output?.content;
        let mut parents = BTreeSet::from([record.parent?]);
        let place = self.build.steps.iter().position(|step| std::ptr::eq(step, record))?;
        for earlier in self.before {
            let places = super::align::counterparts(self.build, earlier);
            let Some(step) = places[place].map(|there| &earlier.steps[there]) else { continue };
            if step.key != record.key {
                continue;
            }
            if let (Some(output), Some(parent)) = (step.output, step.parent) {
                if output.content != made {
                    return None;
                }
                parents.insert(parent);
            }
        }
        (parents.len() >= SAME_MIN).then_some(parents.len())
    }

    /// Returns those of the named files that a copy has, if it has any and none of them changed.
    fn unchanged(&self, copy: usize, names: &[&str]) -> Option<String> {
        let now = self.named(&self.build.steps[copy], names);
        let with = self.steps[copy].compared_with.as_ref()?;
        let earlier = self.before.iter().find(|build| build.id.to_string() == *with)?;
        let places = super::align::counterparts(self.build, earlier);
        let before = self.named(&earlier.steps[places[copy]?], names);
        if now.is_empty() || now != before {
            return None;
        }
        let names: BTreeSet<&str> = now.iter().map(|entry| base_name(&entry.path)).collect();
        Some(names.into_iter().collect::<Vec<_>>().join(", "))
    }

    fn named(&self, copy: &StepRecord, names: &[&str]) -> Vec<TreeEntry> {
        let mut found = Vec::new();
        for input in &copy.inputs {
            if let Value::Tree(tree) = &input.value {
                let entries = self.listings.listing(tree).unwrap_or_default();
                found.extend(entries.into_iter().filter(|e| names.contains(&base_name(&e.path))));
            }
        }
        found
    }

    /// An expensive step that runs again and again and downloads or compiles the same each time.
    fn cache_mount(&self, place: usize) -> Option<Suggestion> {
        let (step, record) = (&self.steps[place], &self.build.steps[place]);
        let cost = step.run_us.filter(|cost| *cost >= WORTH_US)?;
        let text = &record.instruction;
        let tool = TOOLS.iter().find(|tool| {
            text.contains(tool.command) && (tool.off.is_empty() || !text.contains(tool.off))
        })?;
        let directory = tool.target(record)?;
        let has_mount = text.contains("type=cache")
            || record.inputs.iter().any(|input| input.name.starts_with("mount "));
        if has_mount {
            return None;
        }
        let mut runs = usize::from(record.has_run());
        let mut total = if record.has_run() { cost } else { 0 };
        let mut builds = 1;
        for earlier in self.before {
            let places = super::align::counterparts(self.build, earlier);
            builds += 1;
            if let Some(there) = places[place].map(|there| &earlier.steps[there])
                && there.has_run()
            {
                runs += 1;
                total += there.wall_us;
            }
        }
        (runs >= RUNS_MIN).then(|| Suggestion {
            kind: SuggestionKind::CacheMount,
            step: step.number,
            text: format!(
                "keep what `{}` downloads: RUN --mount=type=cache,target={directory} on line {}",
                tool.command.trim(),
                step.line
            ),
            evidence: format!("it ran in {runs} of the last {builds} builds, {}", seconds(total)),
            saves_us: None,
        })
    }

    /// Arguments that changed and broke steps whose text does not mention them.
    fn move_args(&self) -> Vec<Suggestion> {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for step in self.steps.iter().filter(|step| is_broken(step)) {
            names.extend(step.causes.iter().filter_map(|cause| match cause {
                Cause::Arg(variable) => Some(variable.name.as_str()),
                _ => None,
            }));
        }
        names.into_iter().filter_map(|name| self.move_arg(name)).collect()
    }

    fn move_arg(&self, name: &str) -> Option<Suggestion> {
        let is_hit_by = |step: &&Step| {
            is_broken(step)
                && step.causes.iter().any(|c| matches!(c, Cause::Arg(v) if v.name == name))
        };
        let first = self.steps.iter().find(is_hit_by)?;
        // In the first stage that it breaks, up to the first step that may use it: by its text, or
        // by what it made, as scripts read their environment.
        let stage = self.steps.iter().enumerate().filter(|(_, step)| {
            step.stage == first.stage && step.number >= first.number && is_hit_by(step)
        });
        let idle: Vec<&Step> = stage
            .take_while(|(place, step)| {
                !mentions(&step.instruction, name)
                    && step.causes.iter().all(|c| matches!(c, Cause::Arg(v) if v.name == name))
                    && self.ignores_arg(*place, name) == Some(true)
            })
            .map(|(_, step)| step)
            .collect();
        let last = idle.last()?;
        let cost: u64 = idle.iter().filter_map(|step| step.run_us).sum();
        (cost >= WORTH_US).then(|| Suggestion {
            kind: SuggestionKind::MoveArg,
            step: first.number,
            text: format!("declare ARG {name} below line {}, with what uses it", last.line),
            evidence: format!(
                "{name} changed, and {} it broke {} not mention it and made the same files",
                if idle.len() == 1 {
                    "the step".to_owned()
                } else {
                    format!("{} steps", idle.len())
                },
                if idle.len() == 1 { "does" } else { "do" },
            ),
            saves_us: Some(cost),
        })
    }
}

/// A build, and which of its steps is which of the explained one.
#[derive(Clone)]
struct Aligned<'a> {
    build: &'a BuildRecord,
    places: Vec<Option<usize>>,
}

impl<'a> Aligned<'a> {
    fn step(&self, place: usize) -> Option<&'a StepRecord> {
        Some(&self.build.steps[self.places[place]?])
    }
}

/// Whether two steps made the same files; `None` if one made none.
fn same_output(now: &StepRecord, then: &StepRecord) -> Option<bool> {
    let (new, old) = (now.output?, then.output?);
    Some(new.content == old.content && new.set_times == old.set_times)
}

fn is_broken(step: &Step) -> bool {
    matches!(step.result, Verdict::Miss | Verdict::Unknown)
}

fn is_run(record: &StepRecord) -> bool {
    record.instruction.trim_start().get(..3).is_some_and(|word| word.eq_ignore_ascii_case("run"))
}

/// Returns the files that changed, if they are all that a step missed by.
fn only_files(step: &Step) -> Option<(&str, &FileChanges)> {
    match step.causes.as_slice() {
        [Cause::Files { source, changes: Some(changes), made_by: None }] => Some((source, changes)),
        _ => None,
    }
}

/// Returns the line that hides a path no build reads.
fn ignore_line(path: &str) -> Option<&'static str> {
    let part = path.trim_end_matches('/').split('/');
    NOISE
        .iter()
        .find(|(name, _)| part.clone().any(|part| part == *name))
        .or_else(|| NOISE_SUFFIXES.iter().find(|(end, _)| path.ends_with(end)))
        .map(|(_, line)| *line)
}

/// Says whether a command is not mixed with work on the project's own files.
fn is_simple(instruction: &str) -> bool {
    const WORK: &[&str] = &["make", "build", "compile", "./", "test"];
    !WORK.iter().any(|word| instruction.contains(word))
}

/// Says whether a text has `name` as a word.
fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}
