//! BuildKit's recorded results: builds each case of `tests/oracle/cases` and compares.
//!
//! A case is one text file; `tests/oracle/cases/README.md` says how to read and write one.
//! `ORACLE_CASE=copy-*` in the environment runs the cases of that name only.
//!
//! A case that differs on purpose stands in `deviations.txt` with its reason, and `docs/dockerfile.md`
//! names it; a case that stands there must still differ.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test program: failing is its job, and it reads its environment"
)]

#[macro_use]
#[path = "../kit/skip.rs"]
mod skip;

mod format;
mod image;
#[path = "../kit/mod.rs"]
mod kit;
mod stage;

use format::{Build, Case, Entry, Expected, Image, Refusal};
use image::Base;
use kit::host;
use serde_json::Value;
use stage::{Agent, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cases that differ on purpose: what is compared, a name and, after `#`, why.
const DEVIATIONS: &str = include_str!("deviations.txt");

/// What the recorded Dockerfiles call the base.
const BASE_NAMES: [&str; 5] = [
    "busybox",
    "alpine",
    "mirror.gcr.io/busybox",
    "mirror.gcr.io/alpine",
    "quay.io/libpod/busybox",
];

/// Entries that a runtime leaves where it mounts something; they are compared by `tests/sandbox`.
const MOUNT_POINTS: [&str; 10] = [
    "/proc",
    "/sys",
    "/dev",
    "/dev/pts",
    "/dev/shm",
    "/etc",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/run",
];

/// A base image: its layout, and what its layers hold.
struct Ready {
    layout: PathBuf,
    base: Base,
}

fn ready(name: &str, layer: &[u8], shell: &str) -> Ready {
    let digest = kit::base::hex(layer);
    let layout =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{name}-{shell}-{digest}"));
    if !layout.is_dir() {
        // Other tests may do the same: each makes its own, the first rename wins.
        let own = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut image = kit::base::Layout::of(layer);
        image.config["Cmd"] = serde_json::json!([shell]);
        image.write(&own.path().join("layout"));
        if fs::rename(own.path().join("layout"), &layout).is_err() {
            assert!(layout.is_dir(), "{} could not be made", layout.display());
        }
    }
    Ready { layout, base: Base::of(layer) }
}

fn busybox() -> &'static Ready {
    static READY: OnceLock<Ready> = OnceLock::new();
    READY.get_or_init(|| ready("busybox", &stage::busybox(), "sh"))
}

fn debian() -> &'static Ready {
    static READY: OnceLock<Ready> = OnceLock::new();
    READY.get_or_init(|| ready("debian", &fs::read(kit::base::debian()).unwrap(), "bash"))
}

/// All cases, or those that `ORACLE_CASE` names.
fn cases() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/cases");
    let wanted = std::env::var("ORACLE_CASE").unwrap_or_else(|_| "*".to_owned());
    let (start, end) = wanted.split_once('*').map_or((&*wanted, None), |(s, e)| (s, Some(e)));
    let is_wanted = |name: &str| match end {
        None => name == start,
        Some(end) => name.starts_with(start) && name.ends_with(end),
    };
    let mut cases = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_some_and(|extension| extension == "case") && is_wanted(name) {
            cases.push(Case::parse(name, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!cases.is_empty(), "no case is called {wanted}");
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// Says whether the machine has what a case needs; without it, CI fails.
fn is_possible(case: &Case) -> bool {
    case.needs.iter().all(|need| match need.as_str() {
        "http" | "network" => true,
        "git" => host::has("git", "git"),
        "ssh" => host::has("ssh-agent", "openssh-client"),
        "debian" => host::has("mmdebstrap", "mmdebstrap"),
        other => panic!("{}: no such need: {other}", case.name),
    })
}

/// A case laid out, with its servers and a store of its own.
struct Place<'a> {
    case: &'a Case,
    stage: Stage,
    server: Option<String>,
    agent: Option<Agent>,
}

impl<'a> Place<'a> {
    fn new(case: &'a Case) -> Self {
        let mut stage = Stage::new();
        stage.apply(&case.builds[0].setup, 0);
        let needs = |what: &str| case.needs.iter().any(|need| need == what);
        let server = needs("http").then(|| stage::serve(stage.beside().join("_http")));
        let agent = needs("ssh").then(Agent::start).flatten();
        Self { case, stage, server, agent }
    }

    /// Puts addresses and paths in the place of `{http}`, `{agent}`, `{beside}` and `{busybox}`.
    fn resolve(&self, flag: &str) -> String {
        let mut flag = flag
            .replace("{beside}", self.stage.beside().to_str().unwrap())
            .replace("{busybox}", busybox().layout.to_str().unwrap());
        if let Some(agent) = &self.agent {
            flag = flag.replace("{agent}", agent.socket().to_str().unwrap());
        }
        flag
    }

    /// Runs `builder VERB` as the builds up to and with the `round`th ask.
    fn run(&self, verb: &str, round: usize, flags: &[&str]) -> Output {
        let mut command = Command::new(kit::BUILDER);
        command
            .arg(verb)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.stage.beside())
            .env("BUILDER_ROOT", self.stage.beside().join("store"))
            .env("BUILDER_MIN_FREE", "0")
            .stdin(Stdio::null());
        let own = |name: &str| {
            let flag = format!("--build-context={name}=");
            self.case.builds[0].flags.iter().any(|given| given.starts_with(&flag))
        };
        for name in BASE_NAMES.iter().filter(|name| !own(name)) {
            command
                .arg(format!("--build-context={name}=oci-layout://{}", busybox().layout.display()));
        }
        if self.case.needs.iter().any(|need| need == "debian") {
            command
                .arg(format!("--build-context=debian=oci-layout://{}", debian().layout.display()));
        }
        if let Some(address) = &self.server {
            command.arg(format!("--build-arg=HTTP_URL={address}"));
        }
        // A later value of an argument takes the place of an earlier one.
        let builds: Vec<&Build> = self.case.builds[..=round].iter().collect();
        let replaced = |at: usize, flag: &str| {
            let name = flag.rsplit_once('=').map_or(flag, |(name, _)| name);
            let later = builds[at + 1..].iter().flat_map(|build| &build.flags);
            later.clone().any(|other| other.starts_with(&format!("{name}=")))
        };
        for (at, build) in builds.iter().enumerate() {
            let flags = build.flags.iter().filter(|flag| !replaced(at, flag));
            command.args(flags.map(|flag| self.resolve(flag)));
            command.envs(build.env.iter().map(|(name, value)| (name, value)));
        }
        let dockerfile = self.stage.context().join(&self.case.dockerfile);
        let output =
            command.args(flags).arg("-f").arg(dockerfile).arg(self.stage.context()).output();
        output.unwrap()
    }

    fn build(&self, round: usize, progress: &str) -> (Output, PathBuf) {
        let archive = self.stage.beside().join("result.tar");
        let mut output = format!("--output=type=oci,dest={}", archive.display());
        if let Some(fields) = &self.case.output {
            output = format!("{output},{fields}");
        }
        (self.run("build", round, &[&output, progress]), archive)
    }
}

/// Builds a case and says what is not as recorded.
fn compare_result(case: &Case) -> Vec<String> {
    let place = Place::new(case);
    let (output, archive) = place.build(0, "--progress=plain");
    let text = String::from_utf8_lossy(&output.stderr);
    match &case.expected {
        Expected::Error(_) if output.status.success() => {
            vec!["it built; BuildKit refuses it".to_owned()]
        }
        Expected::Error(refusal) => compare_refusal(refusal, &text),
        Expected::Image(_) if !output.status.success() => {
            vec![format!("it failed; BuildKit builds it:\n{text}")]
        }
        Expected::Image(image) => {
            let bases = [&busybox().base, &Base::default()];
            let with_debian;
            let bases = if case.needs.iter().any(|need| need == "debian") {
                with_debian = [&debian().base, bases[0]];
                &with_debian
            } else {
                &bases
            };
            compare_image(image, &image::read(&fs::read(archive).unwrap(), bases))
        }
    }
}

fn compare_refusal(refusal: &Refusal, text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let missing = refusal.says.iter().filter(|part| !lower.contains(&part.to_lowercase()));
    missing.map(|part| format!("the error does not say {part:?}:\n{text}")).collect()
}

fn compare_image(want: &Image, got: &Image) -> Vec<String> {
    let mut wrong = Vec::new();
    if want.platform != got.platform {
        wrong.push(format!("platform: want {}, got {}", want.platform, got.platform));
    }
    let of = |image: &Image| image.config.iter().cloned().collect::<BTreeMap<String, Value>>();
    let (a, b) = (of(want), of(got));
    for field in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        if a.get(field) != b.get(field) {
            wrong.push(format!("{field}: want {:?}, got {:?}", a.get(field), b.get(field)));
        }
    }
    let of = |image: &Image| {
        let entries = image.entries.iter().map(|entry| (entry.path.clone(), entry.clone()));
        entries.collect::<BTreeMap<Vec<u8>, Entry>>()
    };
    let (a, b) = (of(want), of(got));
    for path in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        let shown = String::from_utf8_lossy(path);
        match (a.get(path), b.get(path)) {
            (Some(a), Some(b)) => wrong.extend(compare_entry(a, b)),
            (Some(one), None) | (None, Some(one)) if is_mount_point(one) => {}
            (Some(a), None) => wrong.push(format!("{shown} is missing: {a:?}")),
            (None, b) => wrong.push(format!("{shown} is not wanted: {b:?}")),
        }
    }
    let of = |image: &Image| image.removed.iter().cloned().collect::<BTreeSet<_>>();
    for path in of(want).symmetric_difference(&of(got)) {
        wrong.push(format!("{}: removed in one only", String::from_utf8_lossy(path)));
    }
    let new = got.problems.iter().filter(|problem| !want.problems.contains(problem));
    wrong.extend(new.cloned());
    wrong
}

/// An empty directory or file that a runtime leaves where it mounted something.
fn is_mount_point(entry: &Entry) -> bool {
    let is_empty = entry.content.as_ref().is_none_or(|content| content.0 == 0);
    is_empty && MOUNT_POINTS.iter().any(|point| point.as_bytes() == entry.path)
}

fn compare_entry(want: &Entry, got: &Entry) -> Option<String> {
    let mut got = got.clone();
    // Only files are compared by time, and only those with a time of their own. A hard link's content is
    // that of the path it is the same as.
    if want.mtime.is_none() || want.kind != "file" {
        got.mtime = want.mtime;
    }
    if want.same_as.is_some() {
        got.content.clone_from(&want.content);
    }
    got.xattrs.sort();
    let mut want = want.clone();
    want.xattrs.sort();
    (want != got).then(|| format!("want {want:?}\n    got  {got:?}"))
}

/// Makes all builds of a case and says which steps were cached otherwise than recorded.
fn compare_steps(case: &Case) -> Vec<String> {
    let mut place = Place::new(case);
    let mut wrong = Vec::new();
    for (round, build) in case.builds.iter().enumerate() {
        if round > 0 {
            place.stage.apply(&build.setup, round);
        }
        let (output, _) = place.build(round, "--progress=rawjson");
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return vec![format!("build {:?} failed:\n{text}", build.title)];
        }
        let seen = steps(&text);
        for (step, is_cached) in build.steps.iter().flatten() {
            match seen.get(step) {
                Some(cached) if cached == is_cached => {}
                // A stage that is wholly cached may not be shown.
                None => {}
                Some(cached) => wrong.push(format!(
                    "build {:?}, [{step}]: cached is {cached}, recorded {is_cached}",
                    build.title
                )),
            }
        }
    }
    wrong
}

/// Reads JSON progress: `stage n`, FROM not counted, and whether the step was found in the cache.
fn steps(progress: &str) -> BTreeMap<String, bool> {
    let mut names: BTreeMap<String, (String, bool)> = BTreeMap::new();
    for line in progress.lines().filter(|line| line.starts_with('{')) {
        let event: Value = serde_json::from_str(line).unwrap();
        for vertex in event["vertexes"].as_array().into_iter().flatten() {
            let digest = vertex["digest"].as_str().unwrap().to_owned();
            let known = names.entry(digest).or_default();
            if let Some(name) = vertex["name"].as_str() {
                name.clone_into(&mut known.0);
            }
            known.1 |= vertex["cached"] == Value::Bool(true);
        }
    }
    let mut found: BTreeMap<(String, usize), bool> = BTreeMap::new();
    for (name, is_cached) in names.into_values() {
        let Some((place, text)) = name.strip_prefix('[').and_then(|name| name.split_once("] "))
        else {
            continue;
        };
        if text.starts_with("FROM ") || text.starts_with("LINK ") {
            continue;
        }
        let (stage, number) = place.rsplit_once(' ').unwrap_or(("", place));
        let Some((number, _)) = number.split_once('/') else { continue };
        let Ok(number) = number.parse() else { continue };
        let entry = found.entry((stage.to_owned(), number)).or_insert(true);
        *entry &= is_cached;
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let renumber = |((stage, _), is_cached): ((String, usize), bool)| {
        let count = counts.entry(stage.clone()).or_default();
        *count += 1;
        (format!("{stage} {count}").trim_start().to_owned(), is_cached)
    };
    found.into_iter().map(renumber).collect()
}

/// Says which warnings of `builder check` are not as recorded.
fn compare_warnings(case: &Case) -> Vec<String> {
    let place = Place::new(case);
    let output = place.run("check", 0, &["--format=json"]);
    let want: BTreeSet<(Vec<u64>, String)> = case.warnings.iter().cloned().collect();
    let Ok(document) = serde_json::from_slice::<Value>(&output.stdout) else {
        // A file that does not parse has errors only; BuildKit warns of what it read before.
        let is_refused = matches!(case.expected, Expected::Error(_)) && want.is_empty();
        let text = String::from_utf8_lossy(&output.stderr);
        return if is_refused { Vec::new() } else { vec![format!("no document:\n{text}")] };
    };
    let read = |warning: &Value| {
        let text = |name: &str| warning[name].as_str().unwrap();
        let ranges = warning["location"]["ranges"].as_array().into_iter().flatten();
        let lines = ranges.map(|range| range["start"]["line"].as_u64().unwrap()).collect();
        (lines, format!("{}: {}", text("ruleName"), text("detail")))
    };
    let warnings = document["warnings"].as_array().into_iter().flatten();
    let got: BTreeSet<_> =
        warnings.filter(|warning| warning["severity"] != "advice").map(read).collect();
    if want == got { Vec::new() } else { vec![format!("want {want:?}, got {got:?}")] }
}

/// The cases that may differ: what is compared, and the name.
fn deviations() -> BTreeSet<(&'static str, &'static str)> {
    let lines = DEVIATIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &'static str| {
        let (judged, reason) = line.split_once('#').expect("a case, `#`, and its reason");
        assert!(!reason.trim().is_empty(), "{line}");
        judged.trim().split_once(' ').expect("what is compared, and a case")
    };
    lines.map(read).collect()
}

/// Compares cases on all processors, and fails with a report of those that differ without a reason.
fn judge(what: &str, cases: &[&Case], compare: fn(&Case) -> Vec<String>) {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let mut wrong = Vec::new();
        loop {
            let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { return wrong };
            let compared = std::panic::catch_unwind(|| compare(case));
            let differences = compared.unwrap_or_else(|_| vec!["a panic, shown above".to_owned()]);
            wrong.push((case.name.as_str(), differences));
        }
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    all.sort();
    let deviations = deviations();
    let mut report = String::new();
    for (name, differences) in &all {
        match (differences.is_empty(), deviations.contains(&(what, *name))) {
            (false, false) => {
                writeln!(report, "FAIL {name}\n  - {}", differences.join("\n  - ")).unwrap();
            }
            (true, true) => {
                writeln!(report, "{name} passes: take it off the list of deviations").unwrap();
            }
            _ => {}
        }
    }
    println!("{what}: {} cases", all.len());
    assert!(report.is_empty(), "{report}");
}

#[test]
fn images_are_what_buildkit_recorded() {
    let cases = cases();
    let possible: Vec<&Case> = cases.iter().filter(|case| is_possible(case)).collect();
    judge("image", &possible, compare_result);
}

#[test]
fn steps_are_cached_where_buildkit_recorded_it() {
    let cases = cases();
    let mutating = cases.iter().filter(|case| case.builds.len() > 1 && is_possible(case));
    judge("steps", &mutating.collect::<Vec<_>>(), compare_steps);
}

#[test]
fn warnings_are_what_buildkit_recorded() {
    let cases = cases();
    let possible: Vec<&Case> = cases.iter().filter(|case| is_possible(case)).collect();
    judge("warnings", &possible, compare_warnings);
}

#[test]
fn every_deviation_is_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dockerfile.md");
    let page = fs::read_to_string(page).unwrap();
    let missing: Vec<&str> = deviations()
        .into_iter()
        .map(|(_, case)| case)
        .filter(|case| !page.contains(case))
        .collect();
    assert!(missing.is_empty(), "not in docs/dockerfile.md: {missing:?}");
}
