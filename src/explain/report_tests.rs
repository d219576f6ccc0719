//! Whole reports: two builds in, text out.

use super::listing::{Listings, Unwritten};
use super::report::{Report, Verdict, explain};
use super::testing::{build, entry, step};
use super::text::{Colour, render};
use crate::cache::{Cache, Cost, Inputs, Output, TreeEntry, TreeId};
use crate::history::{BuildId, BuildRecord, Miss, Origin, Outcome, StepOutcome, StepRecord};
use crate::oci::Digest;
use crate::store::{ChainId, ContentId, LayerId};
use std::collections::BTreeMap;

/// The chain that stands for `n`.
pub(super) fn chain(n: u8) -> ChainId {
    ChainId::scratch().with(&ContentId::from_bytes([n; 32]))
}

pub(super) fn output(n: u8) -> Output {
    let (layer, content) = (LayerId::from_bytes([n; 32]), ContentId::from_bytes([n; 32]));
    Output { layer, content, set_times: None }
}

fn cost(wall_us: u64) -> Cost {
    Cost { wall_us, ..Cost::default() }
}

pub(super) fn ran(seconds: u64) -> StepOutcome {
    StepOutcome::Ran { cost: cost(seconds * 1_000_000) }
}

pub(super) fn hit(seconds: u64) -> StepOutcome {
    StepOutcome::Hit { build: BuildId::at(1).to_string(), cost: cost(seconds * 1_000_000) }
}

/// A step with everything the cases vary. `inputs` as `name=value`; `name=tree:N`.
pub(super) fn made(
    number: usize,
    line: &str,
    inputs: &[&str],
    parent: u8,
    outcome: StepOutcome,
) -> StepRecord {
    let (stage, instruction) = line.split_once(": ").unwrap();
    let mut step = step(number, stage, instruction);
    let mut list = Inputs::new();
    for input in inputs {
        let (name, value) = input.split_once('=').unwrap();
        match value.strip_prefix("tree:") {
            Some(n) => list.tree(name, TreeId([n.parse().unwrap(); 32])),
            None => list.text(name, value),
        }
    }
    if number == 0 {
        step.from = Origin::Image {
            name: "docker.io/library/debian:bookworm".into(),
            digest: Some(Digest::of(&[parent])),
        };
    }
    if instruction.starts_with("COPY") {
        step.reads = vec![Origin::Context { name: String::new() }];
    }
    step.key = Some(list.key());
    step.inputs = list;
    step.parent = Some(chain(parent));
    step.output = Some(output(parent + 1));
    step.wall_us = match &outcome {
        StepOutcome::Ran { cost } => cost.wall_us,
        _ => 0,
    };
    step.outcome = outcome;
    step
}

pub(super) struct Kept(BTreeMap<TreeId, Vec<TreeEntry>>);

impl Listings for Kept {
    fn listing(&self, tree: &TreeId) -> Option<Vec<TreeEntry>> {
        self.0.get(tree).cloned()
    }
}

/// Tree 1 is the project, 2 has one file's mode changed, 3 is 1 under another umask, 4 has a
/// changed `.git`, 5 a changed source; 6 is 1 again, 7 has 25 files more, 8 has another manifest, 9
/// is 1 with two files under another umask, 10 has another changed `.git`,
/// 11 a new directory with 25 files.
pub(super) fn kept() -> Kept {
    let tree = |files: &[(&str, u32, &str)]| -> Vec<TreeEntry> {
        files.iter().map(|(path, mode, content)| entry(path, *mode, content)).collect()
    };
    let project = |git: &str, mode: u32, source: &str| {
        tree(&[
            (".git/index", 0o644, git),
            ("package.json", 0o644, "{}"),
            ("src/a.c", mode, source),
        ])
    };
    let new = (0..25).map(|n| entry(&format!("src/new/n{n:02}"), 0o644, "n"));
    let mut whole = vec![TreeEntry { kind: "dir".into(), ..entry("src/new", 0o755, "") }];
    whole.extend(new);
    let many = (0..25).map(|n| entry(&format!("src/n{n:02}"), 0o644, "n")).collect();
    let mut other_manifest = project("1", 0o644, "abc");
    other_manifest[1] = entry("package.json", 0o644, "{ }");
    let mut two = project("1", 0o664, "a");
    two[1] = entry("package.json", 0o664, "{}");
    Kept(BTreeMap::from([
        (TreeId([1; 32]), project("1", 0o644, "a")),
        (TreeId([2; 32]), project("1", 0o755, "a")),
        (TreeId([3; 32]), project("1", 0o664, "a")),
        (TreeId([4; 32]), project("2", 0o644, "a")),
        (TreeId([5; 32]), project("1", 0o644, "abc")),
        (TreeId([6; 32]), project("1", 0o644, "a")),
        (TreeId([7; 32]), [project("1", 0o644, "a"), many].concat()),
        (TreeId([8; 32]), other_manifest),
        (TreeId([9; 32]), two),
        (TreeId([10; 32]), project("3", 0o644, "a")),
        (TreeId([11; 32]), [project("1", 0o644, "a"), whole].concat()),
    ]))
}

pub(super) fn first() -> BuildRecord {
    build(
        1,
        vec![
            made(0, "build: RUN apt-get install -y gcc", &["argv=apt"], 1, ran(8)),
            made(1, "build: COPY . /src", &["files .=tree:1"], 2, ran(0)),
            made(2, "build: RUN make", &["argv=make"], 3, ran(3)),
            made(3, "build: RUN strip /out", &["argv=strip"], 4, ran(1)),
        ],
    )
}

fn explained(now: &BuildRecord, before: &[BuildRecord]) -> Report {
    explain(now, before, &kept())
}

#[track_caller]
fn shown(report: &Report) -> String {
    let text = render(report, Colour::Plain);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line:?} is too wide");
        assert!(!line.ends_with(' '), "{line:?} ends with a blank");
    }
    text
}

/// The file's mode changed; `make` runs again and makes the same files.
fn second() -> BuildRecord {
    let mut copy = made(1, "build: COPY . /src", &["files .=tree:2"], 2, ran(0));
    copy.output = Some(output(77));
    copy.miss = Some(Miss::Key);
    let mut make = made(2, "build: RUN make", &["argv=make"], 3, ran(3));
    make.parent = Some(chain(77));
    make.miss = Some(Miss::Parent);
    let mut strip = made(3, "build: RUN strip /out", &["argv=strip"], 4, ran(1));
    strip.parent = Some(chain(78));
    strip.miss = Some(Miss::Parent);
    build(
        2,
        vec![
            made(0, "build: RUN apt-get install -y gcc", &["argv=apt"], 1, hit(8)),
            copy,
            make,
            strip,
        ],
    )
}

#[test]
fn a_changed_mode_is_named_with_the_step_it_broke() {
    let report = explained(&second(), &[first()]);
    insta::assert_snapshot!(shown(&report), @r#"
build 00000000002: done
/src/app, Dockerfile, target build, linux/amd64
compared with build 00000000001

hit    [build 1/9] RUN apt-get install -y gcc              00000000001     8.0 s
MISS   [build 2/9] COPY . /src                                  line 3      0 ms
      first broken step:
      files .: 1 changed
        src/a.c: mode 0644 → 0755
MISS   [build 3/9] RUN make                                     line 4     3.0 s
      [build 2/9] made other files
      made the same files as before, on top of other files of [build 2/9]
MISS   [build 4/9] RUN strip /out                               line 5     1.0 s
      [build 2/9] made other files
      made the same files as before, on top of other files of [build 2/9]

3 of 4 steps ran: 4.0 s; the cache saved 8.0 s
"#);
    assert_eq!(report.first_broken, Some(1));
    assert_eq!(report.totals.saved_us, 8_000_000);
}

/// The command was edited, and makes the same files.
#[test]
fn what_follows_is_undisturbed_only_on_the_same_chain() {
    let mut now = first();
    now.id = BuildId::at(2);
    for step in &mut now.steps {
        step.outcome = hit(1);
    }
    now.steps[1] = made(1, "build: COPY . /src", &["files .=tree:2"], 2, ran(0));
    now.steps[1].miss = Some(Miss::Key);
    let report = explained(&now, &[first()]);
    assert_eq!(report.steps[1].made_same_files, Some(true));
    let text = shown(&report);
    assert!(text.contains("as before: what follows is undisturbed\nhit "), "{text}");
    // The same, if the step below it made other files.
    now.steps[0] = made(0, "build: RUN apt-get install -y gcc", &["argv=apt-get"], 1, ran(8));
    now.steps[0].miss = Some(Miss::Key);
    now.steps[0].output = Some(output(70));
    now.steps[1].parent = Some(chain(70));
    let report = explained(&now, &[first()]);
    assert_eq!(report.steps[1].made_same_files, Some(false));
    let text = shown(&report);
    assert!(!text.contains("undisturbed"), "{text}");
    assert!(text.contains("as before, on top of other files of [build 1/9]"), "{text}");
}

#[test]
fn a_fully_cached_build_is_short() {
    let mut now = first();
    for step in &mut now.steps {
        step.outcome = hit(2);
    }
    let report = explained(&now, &[first()]);
    insta::assert_snapshot!(shown(&report), @r#"
build 00000000001: done
/src/app, Dockerfile, target build, linux/amd64
compared with build 00000000001

hit    [build 1/9] RUN apt-get install -y gcc              00000000001     2.0 s
hit    [build 2/9] COPY . /src                             00000000001     2.0 s
hit    [build 3/9] RUN make                                00000000001     2.0 s
hit    [build 4/9] RUN strip /out                          00000000001     2.0 s

all 4 steps cached; the cache saved 8.0 s
"#);
}

#[test]
fn the_first_build_has_nothing_to_compare_with() {
    let mut now = first();
    for step in &mut now.steps {
        step.miss = Some(Miss::Key);
    }
    insta::assert_snapshot!(shown(&explained(&now, &[])), @r#"
build 00000000001: done
/src/app, Dockerfile, target build, linux/amd64

MISS   [build 1/9] RUN apt-get install -y gcc                   line 2     8.0 s
      no build to compare with is in the history
MISS   [build 2/9] COPY . /src                                  line 3      0 ms
MISS   [build 3/9] RUN make                                     line 4     3.0 s
MISS   [build 4/9] RUN strip /out                               line 5     1.0 s

4 of 4 steps ran: 12.0 s
"#);
}

#[test]
fn a_prediction_says_what_is_certain_and_what_is_not() {
    let mut now = build(
        9,
        vec![
            made(0, "build: RUN apt-get install -y gcc", &["argv=apt"], 1, hit(8)),
            made(1, "build: COPY . /src", &["files .=tree:5"], 2, StepOutcome::WouldRun),
            made(
                2,
                "build: RUN make",
                &["argv=make"],
                3,
                StepOutcome::DependsOn { number: 1, builds: vec!["00000000001".into()] },
            ),
            made(
                3,
                "build: RUN strip /out",
                &["argv=strip"],
                4,
                StepOutcome::DependsOn { number: 2, builds: vec!["00000000001".into()] },
            ),
        ],
    );
    now.outcome = Outcome::Predicted;
    for step in &mut now.steps[2..] {
        (step.parent, step.output) = (None, None);
    }
    let report = explained(&now, &[first()]);
    insta::assert_snapshot!(shown(&report), @r#"
A build now: nothing was run or written
/src/app, Dockerfile, target build, linux/amd64
compared with build 00000000001

hit    [build 1/9] RUN apt-get install -y gcc              00000000001     8.0 s
MISS   [build 2/9] COPY . /src                                  line 3      0 ms
      first broken step:
      files .: 1 changed
        src/a.c: content (1 → 3 bytes)
maybe  [build 3/9] RUN make                                     line 4     3.0 s
      hits only if [build 2/9] makes the same files as in build 00000000001
maybe  [build 4/9] RUN strip /out                               line 5     1.0 s
      hits only if [build 3/9] makes the same files as in build 00000000001

1 of 4 steps would run, 2 more may: 0 ms to 4.0 s; the cache saves 8.0 s
"#);
    assert_eq!(report.build, None);
}

#[test]
fn causes_outside_the_step_are_distinguished() {
    let one = |change: &dyn Fn(&mut BuildRecord, &mut BuildRecord)| {
        let (mut now, mut before) = (first(), first());
        now.id = BuildId::at(2);
        for step in &mut now.steps[1..] {
            step.outcome = hit(0);
        }
        now.steps[0].miss = Some(Miss::Key);
        change(&mut now, &mut before);
        let report = explained(&now, &[before]);
        serde_json::to_value(&report.steps[0].causes).unwrap()
    };
    let same = one(&|_, _| {});
    assert_eq!(same[0]["kind"], "evicted");
    assert_eq!(same[0]["what"], "record");
    let no_cache = one(&|now, _| now.steps[0].miss = Some(Miss::NoCache));
    assert_eq!(no_cache[0]["kind"], "no_cache");
    let layer = one(&|now, _| now.steps[0].miss = Some(Miss::Layer));
    assert_eq!(layer[0]["what"], "layer");
    let damaged = one(&|now, _| now.steps[0].miss = Some(Miss::Damaged));
    assert_eq!(damaged[0]["kind"], "damaged");
    let failed = one(&|_, before| {
        before.steps[0].outcome = StepOutcome::Failed { exit: Some(2), cost: Cost::default() }
    });
    assert_eq!((&failed[0]["kind"], &failed[0]["exit"]), (&"failed_before".into(), &2.into()));
    let base = one(&|now, _| {
        now.steps[0].parent = Some(chain(50));
        let Origin::Image { digest, .. } = &mut now.steps[0].from else { unreachable!() };
        *digest = Some(Digest::of(b"new"));
    });
    assert_eq!(base[0]["kind"], "base");
    assert_ne!(base[0]["old_digest"], base[0]["new_digest"]);
    let never = one(&|_, before| before.steps[0].key = None);
    assert_eq!(never[0]["reason"], "never_reached");
    let new = one(&|_, before| before.steps[0].instruction = "WORKDIR /".into());
    assert_eq!(new[0]["reason"], "new_step");
}

#[test]
fn a_removed_instruction_is_no_changed_one() {
    let mut now = first();
    now.id = BuildId::at(2);
    now.steps.remove(1);
    now.steps[0].outcome = hit(8);
    for (number, step) in now.steps.iter_mut().enumerate().skip(1) {
        step.number = number;
        step.from = Origin::Step { number: number - 1 };
        step.parent = Some(chain(90 + number as u8));
        step.miss = Some(Miss::Parent);
    }
    let report = explained(&now, &[first()]);
    let causes = serde_json::to_value(&report.steps[1].causes).unwrap();
    assert_eq!(causes[0]["kind"], "predecessor");
    assert_eq!(causes[0]["old"], "[build 2/9] COPY . /src");
    let after = serde_json::to_value(&report.steps[2].causes).unwrap();
    assert_eq!((&after[0]["kind"], &after[0]["first"]), (&"earlier_step".into(), &1.into()));
    assert_eq!(after[0]["is_moved"], true);
    let text = shown(&report);
    assert!(text.contains("[build 3/9] follows something else than before"), "{text}");
}

#[test]
fn a_hit_of_another_build_explains_what_follows_it() {
    // The argument went back to what it was: the first step hits, on other files than last time.
    let (mut now, mut before) = (first(), first());
    now.id = BuildId::at(2);
    before.steps[0] =
        made(0, "build: RUN apt-get install -y gcc", &["argv=apt", "arg V=2"], 1, ran(8));
    now.steps[0] =
        made(0, "build: RUN apt-get install -y gcc", &["argv=apt", "arg V=1"], 1, hit(8));
    now.steps[1].parent = Some(chain(60));
    now.steps[1].miss = Some(Miss::Parent);
    let report = explained(&now, &[before]);
    assert_eq!(report.steps[0].result, Verdict::Hit);
    let evidence = serde_json::to_value(&report.steps[0].causes).unwrap();
    assert_eq!((&evidence[0]["name"], &evidence[0]["old"]), (&"V".into(), &"2".into()));
    assert_eq!(report.first_broken, Some(1));
    let cause = serde_json::to_value(&report.steps[1].causes).unwrap();
    assert_eq!((&cause[0]["kind"], &cause[0]["number"]), (&"earlier_step".into(), &0.into()));
}

/// Kinds of suggestions for a build whose COPY reads `tree` and whose later step is `run`.
fn suggested(tree: u8, run: &str, same_files: bool) -> Vec<(String, String)> {
    let line = format!("build: {run}");
    let copy =
        |tree: u8| made(1, "build: COPY . /src", &[&format!("files .=tree:{tree}")], 2, ran(0));
    let install = |parent: u8| made(2, &line, &["argv=x"], parent, ran(20));
    let first = |at| vec![made(0, "build: RUN true", &["argv=t"], 1, at)];
    let mut before = first(ran(0));
    before.extend([copy(1), install(3)]);
    let mut now = first(hit(0));
    now.extend([copy(tree), install(70)]);
    now[1].miss = Some(Miss::Key);
    now[2].miss = Some(Miss::Parent);
    now[2].output = Some(output(if same_files { 4 } else { 71 }));
    let report = explained(&build(2, now), &[build(1, before)]);
    shown(&report);
    report
        .suggestions
        .iter()
        .map(|s| (format!("{:?}", s.kind), format!("{}; {}", s.text, s.evidence)))
        .collect()
}

#[test]
fn suggestions_need_support_in_the_records() {
    const CASES: &[(u8, &str, bool, &[&str])] = &[
        (5, "RUN make", false, &[]),
        (3, "RUN make", false, &["NormalizeModes"]),
        // `git describe` reads what changed.
        (4, "RUN make", false, &[]),
        (4, "RUN make", true, &["IgnoreFiles"]),
        (5, "RUN make", true, &[]),
        (5, "RUN npm ci", false, &["MoveCopy", "CacheMount"]),
        (5, "RUN npm ci && npm run build", false, &["CacheMount"]),
        (5, "RUN pip install -r requirements.txt", false, &["CacheMount"]),
        (5, "RUN pip install --no-cache-dir -r requirements.txt", false, &[]),
        (5, "RUN apt-get install -y gcc", false, &["MoveCopy"]),
        (5, "RUN apt-get install -y gcc && cp /src/a.c /", false, &[]),
        (5, "RUN --mount=type=cache,target=/root/.npm npm ci", false, &["MoveCopy"]),
    ];
    for (tree, run, same_files, expected) in CASES {
        let found = suggested(*tree, run, *same_files);
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, *expected, "{run}: {found:?}");
    }
    let npm = &suggested(5, "RUN npm ci", false)[0].1;
    assert!(npm.contains("package.json did not change"), "{npm}");
}

#[test]
fn an_argument_that_nothing_mentions_is_to_be_declared_later() {
    let (mut now, mut before) = (first(), first());
    now.id = BuildId::at(2);
    for (steps, sha) in [(&mut before.steps, "1"), (&mut now.steps, "2")] {
        for (number, run) in [(2, "build: RUN make"), (3, "build: RUN echo $SHA > /v")] {
            steps[number] = made(number, run, &["argv=x", &format!("arg SHA={sha}")], 3, ran(5));
            steps[number].miss = Some(Miss::Key);
        }
    }
    let report = explained(&now, std::slice::from_ref(&before));
    let texts: Vec<_> = report.suggestions.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(texts, ["declare ARG SHA below line 4, with what uses it"]);
    // A script may read it from the environment.
    now.steps[2].output = Some(output(90));
    let report = explained(&now, std::slice::from_ref(&before));
    assert_eq!(report.suggestions, []);
    // Nor is anything known of a step that has not run.
    now.steps[2].output = None;
    assert_eq!(explained(&now, std::slice::from_ref(&before)).suggestions, []);
}

/// A prediction has no files of its own: what earlier builds made speaks for it, or against it.
#[test]
fn a_prediction_suggests_what_earlier_builds_support() {
    let at = |id: i64, tree: u8, made_files: u8| {
        let mut copy = made(0, "build: COPY . /src", &[&format!("files .=tree:{tree}")], 1, ran(0));
        copy.output = Some(output(10 + tree));
        let mut run = made(1, "build: RUN ./describe", &["argv=d"], 9, ran(4));
        run.parent = Some(chain(10 + tree));
        run.output = Some(output(made_files));
        run.miss = Some(Miss::Parent);
        build(id, vec![copy, run])
    };
    let mut now = at(9, 10, 0);
    now.outcome = Outcome::Predicted;
    for step in &mut now.steps {
        step.outcome = StepOutcome::WouldRun;
        step.miss = Some(Miss::Key);
    }
    now.steps[1].output = None;
    let kinds = |before: &[BuildRecord]| -> Vec<String> {
        let report = explained(&now, before);
        report.suggestions.iter().map(|s| format!("{:?}", s.kind)).collect()
    };
    assert!(kinds(&[at(2, 1, 50)]).is_empty(), "nothing speaks for it");
    assert_eq!(kinds(&[at(3, 1, 50), at(2, 4, 50)]), ["IgnoreFiles"]);
    assert!(kinds(&[at(3, 1, 50), at(2, 4, 51)]).is_empty(), "it reads what changed");
}

#[test]
fn what_no_user_notices_is_not_suggested() {
    let at = |id: i64, tree: u8| {
        let copy = made(0, "build: COPY . /src", &[&format!("files .=tree:{tree}")], 1, ran(0));
        build(id, vec![copy])
    };
    let mut now = at(2, 3);
    now.steps[0].miss = Some(Miss::Key);
    assert_eq!(explained(&now, &[at(1, 1)]).suggestions, []);
    now.steps[0].outcome = ran(1);
    assert_eq!(explained(&now, &[at(1, 1)]).suggestions.len(), 1);
}

#[test]
fn listings_of_now_are_found_before_those_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(&dir.path().join("s")).unwrap();
    let cache = Cache::new(store);
    cache.keep_tree(&TreeId([1; 32]), [entry("kept", 0o644, "")].into_iter()).unwrap();
    let now = BTreeMap::from([(TreeId([2; 32]), vec![entry("now", 0o644, "")])]);
    let listings = Unwritten { kept: &cache, now };
    let path = |n| listings.listing(&TreeId([n; 32])).map(|list| list[0].path.clone());
    assert_eq!((path(1), path(2), path(3)), (Some("kept".into()), Some("now".into()), None));
}

#[test]
fn control_characters_are_shown_not_sent() {
    let mut now = second();
    now.steps[1].name = "[build 2/9] COPY \x1b[2J\n".into();
    now.about.context = "/a\u{9b}b".into();
    let text = shown(&explained(&now, &[first()]));
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
}

#[test]
fn a_step_that_always_makes_the_same_files_is_believed_not_to_read_the_copy() {
    let at = |id: i64, parent: u8| {
        let mut copy = made(0, "build: COPY . /src", &["files .=tree:1"], 1, ran(0));
        copy.output = Some(output(parent));
        let mut run = made(1, "build: RUN ./fetch", &["argv=f"], 9, ran(4));
        run.parent = Some(chain(parent));
        run.miss = Some(Miss::Parent);
        (build(id, vec![copy, run]), parent)
    };
    let (mut now, _) = at(3, 33);
    now.steps[0] = made(0, "build: COPY . /src", &["files .=tree:5"], 1, ran(0));
    let kinds = |before: &[BuildRecord]| -> Vec<String> {
        explained(&now, before).suggestions.iter().map(|s| s.evidence.clone()).collect()
    };
    let (two, one) = (at(2, 32).0, at(1, 31).0);
    assert!(kinds(std::slice::from_ref(&two)).is_empty(), "twice may be an edited comment");
    assert_eq!(kinds(&[two, one]), ["line 3 (4.0 s) made the same files from 3 different sources"]);
}
