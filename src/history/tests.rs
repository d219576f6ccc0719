use super::record::{Finish, Miss, Origin, StepOutcome};
use super::*;
use crate::cache::{Cost, Inputs};
use std::io::{self, Read as _, Write as _};

fn kit() -> (tempfile::TempDir, History) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    (dir, History::new(&store))
}

fn about(started_ms: i64, target: &str) -> About {
    About {
        started_ms,
        context: "/src".into(),
        dockerfile: "Dockerfile".into(),
        target: target.into(),
        platform: "linux/amd64".into(),
        confinement: Some("namespaces".into()),
        tags: vec!["app:latest".into()],
        ..About::default()
    }
}

fn step(number: usize, outcome: StepOutcome) -> StepRecord {
    let mut inputs = Inputs::new();
    inputs.text("env A", "1");
    StepRecord {
        number,
        name: format!("[build {}/9] RUN true", number + 1),
        stage: "build".into(),
        platform: String::new(),
        targets: Vec::new(),
        instruction: "RUN true".into(),
        lines: (3, 4),
        from: Origin::Scratch,
        reads: vec![Origin::Step { number: 0 }],
        key: Some(inputs.key()),
        parent: None,
        inputs,
        outcome,
        miss: Some(Miss::NoCache),
        is_unsound: false,
        emulator: None,
        output: None,
        began_us: 1,
        wall_us: 5,
    }
}

fn ok(finished_ms: i64) -> Finish {
    Finish { finished_ms, outcome: Outcome::Ok, image: None, manifest: None }
}

const NOW: i64 = 1_790_000_000_000;

#[test]
fn a_build_comes_back_as_it_was_noted() {
    let (_dir, history) = kit();
    let mut log = history.begin(about(NOW, "final")).unwrap();
    log.step(step(1, StepOutcome::Ran { cost: Cost::default() })).unwrap();
    log.step(step(0, StepOutcome::Failed { exit: Some(2), cost: Cost::default() })).unwrap();
    let written = log.finish(ok(NOW + 10)).unwrap();
    assert_eq!(written.steps.iter().map(|s| s.number).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(history.load(&written.id.to_string()).unwrap(), written);
    assert_eq!(history.last().unwrap().unwrap(), written);
    assert_eq!(history.list().unwrap(), [BuildRecord { steps: Vec::new(), ..written }]);
}

#[test]
fn builds_of_one_millisecond_get_different_ids_in_order() {
    let (_dir, history) = kit();
    let first = history.begin(about(NOW, "a")).unwrap();
    let second = history.begin(about(NOW, "a")).unwrap();
    assert!(first.id() < second.id());
    assert!(first.id().to_string() < second.id().to_string());
}

#[test]
fn a_build_that_runs_nothing_is_one_file() {
    let (_dir, history) = kit();
    let mut log = history.begin(about(NOW, "a")).unwrap();
    let hit = StepOutcome::Hit { build: "b".into(), cost: Cost::default() };
    log.step(step(0, hit)).unwrap();
    let directory = history.directory(log.id());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    log.finish(ok(NOW)).unwrap();
    let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [FINISHED]);
}

#[test]
fn a_running_build_is_distinguished_from_a_dead_one() {
    let (_dir, history) = kit();
    let mut log = history.begin(about(NOW, "a")).unwrap();
    log.running().unwrap();
    log.step(step(0, StepOutcome::Ran { cost: Cost::default() })).unwrap();
    let id = log.id();
    assert_eq!(history.read(id).unwrap().outcome, Outcome::Running);
    drop(log);
    // Killed in the middle of a line.
    let path = history.directory(id).join(RUNNING);
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"num").unwrap();
    let dead = history.read(id).unwrap();
    assert_eq!((dead.outcome, dead.steps.len()), (Outcome::Interrupted, 1));
}

#[test]
fn a_build_dropped_before_anything_ran_leaves_nothing() {
    let (_dir, history) = kit();
    drop(history.begin(about(NOW, "a")).unwrap());
    assert!(history.ids().unwrap().is_empty());
}

#[test]
fn the_last_build_of_a_place_is_found_behind_others() {
    let (_dir, history) = kit();
    for (at, target) in [(0, "a"), (1, "b"), (2, "a"), (3, "b")] {
        history.begin(about(NOW + at, target)).unwrap().finish(ok(NOW)).unwrap();
    }
    let found = |target| {
        let build = history.last_for("/src", "Dockerfile", target).unwrap();
        build.map(|build| build.about.started_ms - NOW)
    };
    assert_eq!((found("a"), found("b"), found("c")), (Some(2), Some(3), None));
    let third = history.read(BuildId::at(NOW + 2)).unwrap();
    let before = history.before(&third, 9).unwrap();
    assert_eq!(before.iter().map(|b| b.about.started_ms - NOW).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_build_is_found_by_place_by_name_and_as_metadata_files_have_it() {
    let (_dir, history) = kit();
    assert!(matches!(history.find("last"), Err(HistoryError::NoBuilds)));
    for (at, name) in [(0, "nightly"), (1, ""), (2, "nightly"), (3, "other")] {
        let about = About { name: name.into(), ..about(NOW + at, "a") };
        history.begin(about).unwrap().finish(ok(NOW + 9)).unwrap();
    }
    let found = |reference: &str| history.find(reference).ok().map(|id| id.started_ms() - NOW);
    assert_eq!(
        (found("last"), found("^0"), found("^1"), found("^3")),
        (Some(3), Some(3), Some(2), Some(0))
    );
    assert_eq!((found("^4"), found("^x"), found("")), (None, None, None));
    assert_eq!(found("nightly"), Some(2), "the newest of that name");
    assert_eq!(found("src"), Some(1), "a name that the context gives");
    let id = BuildId::at(NOW + 1);
    assert_eq!(found(&format!("builder/builder/{id}")), Some(1));
    assert_eq!(found("builder/builder/nightly"), None);
}

#[test]
fn builds_are_removed_but_those_that_run() {
    let (_dir, history) = kit();
    for at in [0, 1, 2] {
        history.begin(about(NOW + at, "a")).unwrap().finish(ok(NOW)).unwrap();
    }
    let mut running = history.begin(about(NOW + 3, "a")).unwrap();
    running.running().unwrap();
    let id = running.id();
    assert!(matches!(history.remove(id, NOW + 5), Err(HistoryError::Running { .. })));
    history.remove(BuildId::at(NOW + 1), NOW + 5).unwrap();
    assert!(matches!(
        history.remove(BuildId::at(NOW + 1), NOW + 5),
        Err(HistoryError::NoSuchBuild { .. })
    ));
    let cleared = history.clear(NOW + 5).unwrap();
    assert_eq!(cleared.removed, [BuildId::at(NOW + 2), BuildId::at(NOW)]);
    assert_eq!(cleared.running, 1);
    running.finish(ok(NOW + 9)).unwrap();
    assert_eq!(history.ids().unwrap(), [id]);
}

#[test]
fn names_are_made_as_buildx_makes_them() {
    for (context, dockerfile, target, name) in [
        ("/src/app", "Dockerfile", None, "app"),
        ("/src/app/", "Dockerfile", Some("test"), "app (test)"),
        ("/src/app", "docker/Dockerfile.dev", None, "app/docker/Dockerfile.dev"),
        ("/src/app", "/elsewhere/Other", None, "app/Other"),
        ("https://h/o/r.git#main", "Dockerfile", None, "https://h/o/r.git#main"),
        ("-", "-", None, "-"),
        ("/", "Dockerfile", None, "/"),
    ] {
        assert_eq!(derived_name(context, dockerfile, target), name);
    }
}

#[test]
fn a_prefix_is_enough_where_it_is_unique() {
    let (_dir, history) = kit();
    for at in [0, 1] {
        history.begin(about(NOW + at, "a")).unwrap().finish(ok(NOW)).unwrap();
    }
    let id = BuildId::at(NOW).to_string();
    assert_eq!(history.find(&id).unwrap(), BuildId::at(NOW));
    assert!(
        matches!(history.find(&id[..10]), Err(HistoryError::Ambiguous { ids, .. }) if ids.len() == 2)
    );
    for unknown in ["", "zz", "../.."] {
        assert!(matches!(history.find(unknown), Err(HistoryError::NoSuchBuild { .. })));
    }
}

#[test]
fn a_damaged_or_newer_record_is_named_and_left_out_of_lists() {
    let (_dir, history) = kit();
    let id = history.begin(about(NOW, "a")).unwrap().finish(ok(NOW)).unwrap().id;
    let path = history.directory(id).join(FINISHED);
    for (text, is_newer) in [("", false), ("{}", false), ("{\"version\":99}\n", true)] {
        fs::write(&path, text).unwrap();
        assert!(history.list().unwrap().is_empty());
        match history.read(id).unwrap_err() {
            HistoryError::Newer { found: 99, .. } => assert!(is_newer),
            HistoryError::Damaged { .. } => assert!(!is_newer),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_build_killed_before_its_first_line_was_whole_is_no_damage() {
    let (_dir, history) = kit();
    let mut log = history.begin(about(NOW, "a")).unwrap();
    log.running().unwrap();
    let (id, path) = (log.id(), history.directory(log.id()).join(RUNNING));
    drop(log);
    for text in ["", "{\"version\":1,\"id"] {
        fs::write(&path, text).unwrap();
        assert!(history.list().unwrap().is_empty());
        assert!(matches!(history.read(id), Err(HistoryError::NoSuchBuild { .. })));
    }
}

#[test]
fn pruning_keeps_the_newest_and_those_that_run() {
    let (_dir, history) = kit();
    let mut live = history.begin(about(NOW, "live")).unwrap();
    live.running().unwrap();
    for at in 1..6 {
        history.begin(about(NOW + at, "a")).unwrap().finish(ok(NOW)).unwrap();
    }
    let left = || -> Vec<i64> {
        history.list().unwrap().iter().map(|b| b.about.started_ms - NOW).collect()
    };
    assert_eq!(history.prune(9, 0, NOW).unwrap(), 0);
    assert_eq!(history.prune(3, 0, NOW).unwrap(), 2);
    assert_eq!(left(), [5, 4, 3, 0]);
    assert_eq!(history.prune(9, NOW + 5, NOW).unwrap(), 2);
    assert_eq!(left(), [5, 0]);
}

#[test]
fn what_a_step_wrote_is_kept_up_to_a_limit() {
    let (_dir, history) = kit();
    let log = history.begin(about(NOW, "a")).unwrap();
    let mut out = log.log(3);
    assert!(matches!(history.log(log.id(), 3), Err(HistoryError::NoLog { number: 3, .. })));
    // Bytes without a pattern, which do not become fewer.
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..20 {
        noise.fill(&mut chunk);
        out.write_all(&chunk).unwrap();
    }
    let mut bytes = Vec::new();
    history.log(log.id(), 3).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() as u64 >= log::LOG_MAX - (1 << 20));
    assert!(bytes.ends_with(b"was not kept]\n"));
    assert!(bytes.len() < 18 << 20);
}

#[test]
fn a_long_log_is_kept_whole_in_few_bytes_and_can_be_read_before_its_end() {
    let (_dir, history) = kit();
    let log = history.begin(about(NOW, "a")).unwrap();
    let mut out = log.log(0);
    let chunk = b"y\n".repeat(32 << 10);
    for _ in 0..512 {
        out.write_all(&chunk).unwrap();
    }
    let count = |history: &History| {
        io::copy(&mut history.log(log.id(), 0).unwrap(), &mut io::sink()).unwrap()
    };
    assert_eq!(count(&history), 32 << 20, "while the step runs");
    drop(out);
    assert_eq!(count(&history), 32 << 20);
    let path = history.directory(log.id()).join("logs/0");
    let kept = fs::metadata(path).unwrap().len();
    assert!(kept < 1 << 20, "{kept} bytes");
}

/// A build that was recorded, with a step of each value of `env A`.
fn recorded(history: &History, about: About, values: &[&str]) -> BuildRecord {
    let now = about.started_ms + 10;
    let mut log = history.begin(about).unwrap();
    for (number, value) in values.iter().enumerate() {
        let mut step = step(number, StepOutcome::Ran { cost: Cost::default() });
        step.instruction = format!("RUN make {number}");
        step.inputs = Inputs::new();
        step.inputs.text("env A", *value);
        step.key = Some(step.inputs.key());
        log.step(step).unwrap();
    }
    log.finish(ok(now)).unwrap()
}

#[test]
fn a_build_is_compared_with_the_nearest_of_its_place_also_where_many_are_newer() {
    let (_dir, history) = kit();
    let near = recorded(&history, about(NOW, "final"), &["1", "2"]);
    for n in 1..12 {
        recorded(&history, about(NOW + n, "final"), &["3", "4"]);
    }
    let now = recorded(&history, about(NOW + 20, "final"), &["1", "2"]);
    let (basis, found) = history.comparable(&now, 4, crate::explain::report::nearness_of).unwrap();
    assert_eq!(basis, Basis::Place);
    assert_eq!(found.len(), 4);
    assert!(found.contains(&near));
    assert_eq!(found[0].about.started_ms, NOW + 11);
}

#[test]
fn a_build_in_a_new_directory_is_compared_with_its_namesakes_then_with_equal_steps() {
    let (_dir, history) = kit();
    let in_job = |at: i64, job: &str, tag: &str| About {
        context: format!("/jobs/{job}"),
        confinement: None,
        tags: vec![tag.to_owned()],
        ..about(at, "final")
    };
    let same = recorded(&history, in_job(NOW, "1", "r.example:5000/app:abc"), &["1"]);
    let other = recorded(&history, in_job(NOW + 1, "2", "tool:abc"), &["1"]);
    let now = recorded(&history, in_job(NOW + 2, "3", "r.example:5000/app:def"), &["2"]);
    assert_eq!(
        history.comparable(&now, 8, crate::explain::report::nearness_of).unwrap(),
        (Basis::Name, vec![same.clone()])
    );
    let now = recorded(&history, in_job(NOW + 3, "4", "new:1"), &["2"]);
    let (basis, found) = history.comparable(&now, 8, crate::explain::report::nearness_of).unwrap();
    assert_eq!(basis, Basis::Steps);
    assert!(found.contains(&same) && found.contains(&other));
}
