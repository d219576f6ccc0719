//! A random walk of edits: after each, what `explain` predicted is compared with what the build did,
//! what `explain` says of the build with what was edited, and the image with one built from nothing.
//!
//! `BUILDER_WALK_SEED` and `BUILDER_WALK_EDITS` walk another way, or further.

use crate::kit::Kit;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Numbers that a seed determines (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A project between two edits.
#[derive(Debug, Clone, PartialEq)]
struct Project {
    /// Content and mode of each file of the context.
    files: BTreeMap<String, (String, u32)>,
    ignored: BTreeSet<String>,
    arg: usize,
    env: usize,
    base: usize,
    /// Which command a step has.
    command: usize,
    is_swapped: bool,
    has_extra: bool,
    fails: bool,
}

impl Project {
    fn new() -> Self {
        let files = [("src/a", "a1"), ("src/b", "b1"), ("src/deep/c", "c1"), ("conf", "k1")];
        Self {
            files: files.map(|(name, text)| (name.to_owned(), (text.to_owned(), 0o644))).into(),
            ignored: BTreeSet::new(),
            arg: 0,
            env: 0,
            base: 0,
            command: 0,
            is_swapped: false,
            has_extra: false,
            fails: false,
        }
    }

    fn dockerfile(&self) -> String {
        let extra = if self.has_extra { "RUN echo extra > /extra\n" } else { "" };
        let mut pair = [
            "COPY conf /etc/conf\n".to_owned(),
            "RUN mkdir -p /made && echo made > /made/x\n".to_owned(),
        ];
        if self.is_swapped {
            pair.reverse();
        }
        let command = ["cat /src/a > /out", "head -c 1 /src/a > /out", "echo fixed > /out"];
        format!(
            "FROM walk/base{} AS build\nARG level=0\nENV mode=m{}\nWORKDIR /work\n{}{}{extra}COPY src /src\n\
             RUN {}\nRUN wc -c < /out > /count{}\nFROM fixture/base\n\
             COPY --from=build /out /final/out\nRUN cat /final/out > /last\n\
             COPY --link conf /linked\nRUN echo $(cat /linked) end > /end\n",
            self.base,
            self.env,
            pair[0],
            pair[1],
            command[self.command],
            if self.fails { "; exit 7" } else { "" },
        )
    }

    /// The files that COPY of `source` takes.
    fn copied(&self, source: &str) -> BTreeMap<&str, &(String, u32)> {
        let beneath = format!("{source}/");
        let is_in = |name: &str| name == source || name.starts_with(&beneath);
        self.files
            .iter()
            .filter(|(name, _)| is_in(name) && !self.ignored.contains(*name))
            .map(|(name, file)| (name.as_str(), file))
            .collect()
    }

    fn write(&self, kit: &Kit) {
        let _ = fs::remove_dir_all(kit.path("src"));
        for (name, (text, mode)) in &self.files {
            kit.file(name, text).chmod(name, *mode);
        }
        let ignored: Vec<&str> = self.ignored.iter().flat_map(|name| [&**name, "\n"]).collect();
        let ignored = ignored.concat();
        kit.file(".dockerignore", ignored).dockerfile(&self.dockerfile());
        // Times are no part of what is edited: a COPY that hits keeps those it was made with.
        settle(&kit.path(""));
    }
}

fn settle(path: &Path) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            settle(&entry.unwrap().path());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// What happened besides edits of the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Edit,
    PruneAll,
    NoCache,
}

fn edit(project: &mut Project, random: &mut Random) -> (String, Event) {
    let names: Vec<String> = project.files.keys().cloned().collect();
    let name = names[random.below(names.len())].clone();
    project.fails = false;
    let what = match random.below(14) {
        0 | 1 => {
            let text = format!("{}{}", &name[name.len() - 1..], random.below(3));
            project.files.get_mut(&name).unwrap().0.clone_from(&text);
            format!("{name} is {text}")
        }
        2 => {
            let mode = &mut project.files.get_mut(&name).unwrap().1;
            *mode ^= 0o111;
            format!("{name} has mode {mode:o}")
        }
        3 => {
            project.arg = random.below(3);
            format!("ARG {}", project.arg)
        }
        4 => {
            project.env = random.below(3);
            format!("ENV {}", project.env)
        }
        5 => {
            project.is_swapped ^= true;
            "order".to_owned()
        }
        6 => {
            if !project.ignored.remove("src/b") {
                project.ignored.insert("src/b".to_owned());
            }
            format!("ignored: {:?}", project.ignored)
        }
        7 => {
            project.base = random.below(2);
            format!("base {}", project.base)
        }
        8 => {
            project.fails = true;
            "failure".to_owned()
        }
        9 => return ("prune".to_owned(), Event::PruneAll),
        10 => {
            project.command = random.below(3);
            format!("command {}", project.command)
        }
        11 => {
            project.has_extra ^= true;
            format!("extra {}", project.has_extra)
        }
        12 => {
            let new = "src/new".to_owned();
            if project.files.remove(&new).is_none() {
                project.files.insert(new, ("new".to_owned(), 0o644));
            }
            "a file comes or goes".to_owned()
        }
        _ => return ("no cache".to_owned(), Event::NoCache),
    };
    (what, Event::Edit)
}

struct Walk {
    kit: Kit,
    bases: [String; 2],
    /// The project at each build, and whether the build failed.
    builds: BTreeMap<String, (Project, bool)>,
    last_prune: String,
    maybes: usize,
    /// The image that each project is when it is built from nothing.
    fresh: Vec<(Project, String)>,
}

impl Walk {
    fn new() -> Self {
        let kit = Kit::new();
        let bases = ["0", "1"].map(|n| {
            let layout = kit.out(&format!("base{n}"));
            kit.dockerfile(&format!("FROM fixture/base\nRUN echo {n} > /base\n"));
            kit.build()
                .env("BUILDER_ROOT", kit.beside("other"))
                .arg(format!("--output=type=oci,tar=false,dest={}", layout.display()))
                .ok();
            format!("--build-context=walk/base{n}=oci-layout://{}", layout.display())
        });
        Self {
            kit,
            bases,
            builds: BTreeMap::new(),
            last_prune: String::new(),
            maybes: 0,
            fresh: Vec::new(),
        }
    }

    fn args(&self, project: &Project, event: Event) -> Vec<String> {
        let mut args = self.bases.to_vec();
        args.push(format!("--build-arg=level={}", project.arg));
        if event == Event::NoCache {
            args.push("--no-cache".to_owned());
        }
        args
    }

    /// Builds, and returns the digest of the image.
    fn build(&self, project: &Project, event: Event, store: &Path) -> Option<String> {
        let output = self.kit.out("walk.tar");
        let run = self
            .kit
            .build()
            .args(self.args(project, event))
            .arg(format!("--output=type=oci,rewrite-timestamp=true,dest={}", output.display()))
            .arg("-q")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("BUILDER_ROOT", store);
        if project.fails {
            run.exits(4);
            return None;
        }
        Some(run.ok().stdout())
    }

    fn explain(run: crate::kit::Run) -> (Value, String) {
        let outcome = run.arg("--format=json").env("SOURCE_DATE_EPOCH", "1700000000").ok();
        (outcome.json(), outcome.stdout())
    }

    fn step(&mut self, project: &Project, event: Event, story: &str) {
        project.write(&self.kit);
        if event == Event::PruneAll {
            self.kit.builder(["prune", "--all"]).ok();
            self.last_prune = self.builds.keys().last().cloned().unwrap_or_default();
        }
        let run = self.kit.explain().args(self.args(project, event));
        let (predicted, shown) = Self::explain(run);
        let digest = self.build(project, event, self.kit.store());
        let (fact, said) = Self::explain(self.kit.builder(["explain"]));
        let id = fact["build"].as_str().unwrap().to_owned();
        self.builds.insert(id, (project.clone(), project.fails));
        self.compare(&predicted, &fact, &format!("{story}\npredicted: {shown}\nfact: {said}"));
        for (report, text) in [(&predicted, &shown), (&fact, &said)] {
            self.check(report, project, event, &format!("{story}\n{text}"));
        }
        if let Some(digest) = digest {
            // One project is built from nothing once.
            let known = self.fresh.iter().find(|(known, _)| known == project);
            let again = match known {
                Some((_, digest)) => Some(digest.clone()),
                None => {
                    let fresh = self.kit.beside("fresh");
                    let again = self.build(project, Event::Edit, &fresh);
                    fs::remove_dir_all(fresh).unwrap();
                    self.fresh.extend(again.clone().map(|digest| (project.clone(), digest)));
                    again
                }
            };
            assert_eq!(again.as_ref(), Some(&digest), "{story}: built from nothing\n{said}");
        }
    }

    /// What was certain came true; what was not could not be known.
    fn compare(&mut self, predicted: &Value, fact: &Value, story: &str) {
        let steps = |report: &Value| report["steps"].as_array().unwrap().clone();
        let (predictions, facts) = (steps(predicted), steps(fact));
        assert_eq!(predictions.len(), facts.len(), "{story}");
        for (before, after) in predictions.iter().zip(&facts) {
            let name = before["name"].as_str().unwrap();
            let (said, was) =
                (before["result"].as_str().unwrap(), after["result"].as_str().unwrap());
            match (said, was) {
                (_, "not_reached") | ("hit", "hit") | ("miss", "miss" | "failed") => {}
                ("unknown", "hit" | "miss" | "failed") => {
                    self.maybes += 1;
                    let causes = before["causes"].as_array().unwrap();
                    let cause = causes.iter().find(|c| c["is_certain"] == false);
                    let cause = cause.unwrap_or_else(|| panic!("{name}: maybe, and why?\n{story}"));
                    let on = &predictions[cause["number"].as_u64().unwrap() as usize];
                    let text = on["instruction"].as_str().unwrap();
                    assert!(
                        text.starts_with("RUN") || on["result"] == "unknown",
                        "{name} depends on what is known: {text}\n{story}"
                    );
                    if was == "hit" {
                        let builds = cause["builds"].as_array().unwrap();
                        let from = &after["from_build"];
                        assert!(builds.contains(from), "{name}: hit of {from}\n{story}");
                    }
                }
                _ => panic!("{name}: predicted {said}, was {was}\n{story}"),
            }
        }
        let misses = |report: &Value| report["totals"]["misses"].as_u64().unwrap();
        assert!(
            fact["outcome"]["kind"] != "ok" || misses(predicted) <= misses(fact),
            "{story}: more would run than ran"
        );
    }

    /// Every cause is a difference that was made.
    fn check(&self, report: &Value, project: &Project, event: Event, story: &str) {
        let steps = report["steps"].as_array().unwrap();
        for step in steps {
            let name = step["name"].as_str().unwrap();
            let text = step["instruction"].as_str().unwrap();
            let then = step["compared_with"].as_str().map(|id| (id, &self.builds[id]));
            for cause in step["causes"].as_array().unwrap() {
                let wrong = || panic!("{name}: {cause}\n{story}");
                let kind = cause["kind"].as_str().unwrap();
                let is_true = match (kind, then) {
                    ("no_cache", _) => event == Event::NoCache,
                    ("evicted", Some((id, _))) => id <= self.last_prune.as_str(),
                    ("failed_before", Some((_, (_, failed)))) => *failed,
                    ("base", Some((_, (old, _)))) => old.base != project.base,
                    ("arg", Some((_, (old, _)))) => {
                        cause["name"] == "level"
                            && cause["old"].as_str() == Some(&*old.arg.to_string())
                            && cause["new"].as_str() == Some(&*project.arg.to_string())
                            && old.arg != project.arg
                    }
                    ("env", Some((_, (old, _)))) => {
                        cause["name"] == "mode"
                            && cause["old"] == format!("m{}", old.env)
                            && cause["new"] == format!("m{}", project.env)
                            && old.env != project.env
                    }
                    ("instruction", Some((_, (old, _)))) => {
                        old.dockerfile() != project.dockerfile()
                            && !old.dockerfile().lines().any(|line| line == text)
                    }
                    ("predecessor", Some((_, (old, _)))) => {
                        (old.is_swapped, old.has_extra) != (project.is_swapped, project.has_extra)
                    }
                    ("files", Some((_, (old, _)))) => {
                        let source = cause["source"].as_str().unwrap();
                        text.contains("--from") || is_told_rightly(cause, old, project, source)
                    }
                    ("earlier_step", Some((_, (old, _)))) if cause["is_moved"] == true => {
                        let from = &steps[cause["number"].as_u64().unwrap() as usize];
                        let causes = from["causes"].as_array().unwrap();
                        causes.iter().any(|cause| cause["kind"] == "predecessor")
                            && (old.is_swapped, old.has_extra)
                                != (project.is_swapped, project.has_extra)
                    }
                    ("earlier_step", _) if cause["is_certain"] == true => {
                        let from = &steps[cause["number"].as_u64().unwrap() as usize];
                        from["remade"] != "same" && from["remade"] != "on_others"
                    }
                    ("earlier_step", _) => step["result"] == "unknown",
                    ("no_record", _) => match cause["reason"].as_str().unwrap() {
                        "first_build" => report["compared_with"].is_null(),
                        "new_step" => !report["compared_with"].is_null(),
                        "never_reached" => self.builds.values().any(|(_, failed)| *failed),
                        "not_kept" => {
                            let had = |(old, _): &(Project, bool)| {
                                old.dockerfile().lines().any(|line| line == text)
                            };
                            !self.last_prune.is_empty() || self.builds.values().any(had)
                        }
                        _ => false,
                    },
                    _ => false,
                };
                if !is_true {
                    wrong();
                }
            }
            if step["made_same_files"] == true {
                let number = &step["number"];
                let blamed = steps.iter().flat_map(|s| s["causes"].as_array().unwrap());
                let is_blamed =
                    blamed.clone().any(|c| c["kind"] == "earlier_step" && c["number"] == *number);
                assert!(
                    !is_blamed,
                    "{name} made the same files, and what follows says otherwise\n{story}"
                );
            }
            let needs_why = matches!(step["result"].as_str(), Some("miss" | "failed" | "unknown"));
            assert!(
                !needs_why || !step["causes"].as_array().unwrap().is_empty(),
                "{name}: no cause\n{story}"
            );
            if step["result"] == "failed" {
                assert!(step["run_us"].as_u64().unwrap() > 0, "{name}: no time\n{story}");
                assert_eq!(step["exit"], 7);
            }
        }
    }
}

/// Whether the files that a cause names are those that differ, each in that way.
fn is_told_rightly(cause: &Value, old: &Project, new: &Project, source: &str) -> bool {
    let (old, new) = (old.copied(source), new.copied(source));
    let told: BTreeMap<&str, &str> = cause["changes"]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["path"].as_str().unwrap(), file["change"].as_str().unwrap()))
        .collect();
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let differing: BTreeMap<&str, &str> = names
        .into_iter()
        .filter_map(|name| match (old.get(name), new.get(name)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(_), Some(_)) => Some((name, "changed")),
            (Some(_), None) => Some((name, "removed")),
            (None, _) => Some((name, "added")),
        })
        .collect();
    !differing.is_empty() && told == differing
}

fn walk(seed: u64, edits: usize) {
    let mut random = Random(seed);
    let mut walk = Walk::new();
    let mut project = Project::new();
    walk.step(&project, Event::Edit, "the first build");
    for number in 1..=edits {
        let (what, event) = edit(&mut project, &mut random);
        walk.step(&project, event, &format!("seed {seed}, edit {number}: {what}"));
    }
}

#[allow(clippy::disallowed_methods, reason = "a seed for one run is given to the tests so")]
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Fifty edits from a seed of its own, by each of four tests that run side by side.
fn part(n: u64) {
    let edits = number("BUILDER_WALK_EDITS", 50);
    walk(number("BUILDER_WALK_SEED", 20_261_130) + n, usize::try_from(edits).unwrap());
}

#[test]
fn what_is_said_of_two_hundred_edits_is_true_part_one() {
    part(0);
}

#[test]
fn what_is_said_of_two_hundred_edits_is_true_part_two() {
    part(1);
}

#[test]
fn what_is_said_of_two_hundred_edits_is_true_part_three() {
    part(2);
}

#[test]
fn what_is_said_of_two_hundred_edits_is_true_part_four() {
    part(3);
}
