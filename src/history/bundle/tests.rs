use super::read::AHEAD_MAX;
use super::*;
use crate::cache::{Cost, Inputs};
use crate::history::record::{About, Finish, Origin, StepRecord};

const NOW: i64 = 1_790_000_000_000;

struct Kit {
    _dir: tempfile::TempDir,
    store: Store,
    history: History,
}

fn kit() -> Kit {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    let history = History::new(&store);
    Kit { _dir: dir, store, history }
}

fn step(number: usize, tree: u8) -> StepRecord {
    let mut inputs = Inputs::new();
    inputs.text("arg NPM_TOKEN", "hunter2");
    inputs.tree("files .", TreeId([tree; 32]));
    StepRecord {
        number,
        name: format!("[a {number}/2] RUN x"),
        stage: "a".into(),
        platform: String::new(),
        targets: Vec::new(),
        instruction: "RUN x".into(),
        lines: (1, 1),
        from: Origin::Scratch,
        reads: Vec::new(),
        key: Some(inputs.key()),
        parent: None,
        inputs,
        outcome: StepOutcome::Ran { cost: Cost { wall_us: 5, ..Cost::default() } },
        miss: None,
        is_unsound: false,
        emulator: None,
        output: None,
        began_us: 0,
        wall_us: 5,
    }
}

impl Kit {
    /// Adds a build of one step with a log and a listing.
    fn build(&self, at: i64, tree: u8) -> BuildId {
        let about = About { started_ms: at, context: "/src".into(), ..About::default() };
        let mut log = self.history.begin(about).unwrap();
        log.log(0).write_all(b"said\n").unwrap();
        log.step(step(0, tree)).unwrap();
        let entry = TreeEntry {
            path: "f".into(),
            kind: "file".into(),
            mode: 0o644,
            owner: None,
            size: Some(1),
            content: None,
        };
        Cache::new(self.store.clone())
            .keep_tree(&TreeId([tree; 32]), std::iter::once(entry))
            .unwrap();
        let finish =
            Finish { finished_ms: at + 9, outcome: Outcome::Ok, image: None, manifest: None };
        log.finish(finish).unwrap().id
    }

    fn export(&self, ids: &[BuildId]) -> Result<Vec<u8>, HistoryError> {
        let mut bytes = Vec::new();
        let hide = |build: &mut BuildRecord| {
            build.steps.iter_mut().for_each(|step| {
                step.inputs.change_texts(|_, text| text.clear());
            });
        };
        let cache = Cache::new(self.store.clone());
        let ids = ids.iter().copied().collect();
        self.history.export(&ids, &cache, hide, &mut bytes, &Cancel::new())?;
        Ok(bytes)
    }

    fn import(&self, bytes: &[u8]) -> Result<Vec<Imported>, HistoryError> {
        self.history.import(&self.store, bytes, NOW, &Cancel::new())
    }
}

fn said(history: &History, id: BuildId) -> String {
    let mut text = String::new();
    history.log(id, 0).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn builds_arrive_with_logs_and_listings_and_without_what_is_hidden() {
    let (here, there) = (kit(), kit());
    let (one, two) = (here.build(NOW, 1), here.build(NOW + 1, 2));
    let bytes = here.export(&[two, one]).unwrap();
    assert_eq!(bytes, here.export(&[one, two]).unwrap(), "the same builds give the same bytes");
    let done = there.import(&bytes).unwrap();
    assert_eq!(
        done.iter().map(|d| (d.here, d.is_known)).collect::<Vec<_>>(),
        [(one, false), (two, false)]
    );
    let build = there.history.read(one).unwrap();
    assert!(build.is_imported);
    assert_eq!(build.steps[0].inputs.get("arg NPM_TOKEN"), Some(&Value::Text(String::new())));
    assert_eq!(said(&there.history, two), "said\n");
    assert_eq!(there.history.imported_listing(one, &TreeId([1; 32])).unwrap()[0].path, "f");
    assert!(there.history.imported_listing(one, &TreeId([2; 32])).is_none());
    assert_eq!(Cache::new(there.store.clone()).tree(&TreeId([1; 32])).unwrap(), None);
    // From there it goes on, and again it is what is there already.
    let again = there.export(&[one, two]).unwrap();
    assert!(there.import(&again).unwrap().iter().all(|done| done.is_known));
    assert_eq!(there.history.ids().unwrap().len(), 2);
}

#[test]
fn a_build_whose_id_is_taken_gets_another_and_those_that_name_it_follow() {
    let (here, there) = (kit(), kit());
    let id = here.build(NOW, 1);
    let mut about = here.history.read(id).unwrap().about;
    about.started_ms = NOW + 7;
    let mut log = here.history.begin(about).unwrap();
    let outcome = StepOutcome::Hit { build: id.to_string(), cost: Cost::default() };
    log.step(StepRecord { outcome, ..step(0, 1) }).unwrap();
    let finish = Finish { finished_ms: NOW + 8, outcome: Outcome::Ok, image: None, manifest: None };
    let second = log.finish(finish).unwrap().id;
    let other = there.history.begin(About { started_ms: NOW, ..About::default() }).unwrap();
    let finish = Finish { finished_ms: NOW, outcome: Outcome::Ok, image: None, manifest: None };
    other.finish(finish).unwrap();
    let done = there.import(&here.export(&[id, second]).unwrap()).unwrap();
    assert_eq!(done[0].here, BuildId::at(NOW + 1));
    let build = there.history.read(second).unwrap();
    let hit = StepOutcome::Hit { build: done[0].here.to_string(), cost: Cost::default() };
    assert_eq!(build.steps[0].outcome, hit);
}

/// The name and the bytes of a file in an archive.
type Member<'a> = (&'a str, &'a [u8]);

/// An archive of members; the table names the build of `NOW`.
fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        append(&mut tar, name, content.len() as u64, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn table(version: u32) -> Vec<u8> {
    let id = BuildId::at(NOW);
    format!("{{\"builds\":[\"{id}\"],\"format\":\"builder-history\",\"version\":{version}}}").into()
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let kit = kit();
    let id = BuildId::at(NOW);
    let record = |steps: &[StepRecord], outcome: Outcome| {
        let about = About { started_ms: NOW, ..About::default() };
        let build = BuildRecord {
            id,
            about,
            finished_ms: Some(NOW + 1),
            outcome,
            image: None,
            manifest: None,
            is_imported: false,
            notes: Vec::new(),
            steps: steps.to_vec(),
        };
        lines(&build)
    };
    let good = record(&[step(0, 1)], Outcome::Ok);
    let own = format!("builds/{id}/build.jsonl");
    let of = |steps: &[StepRecord]| record(steps, Outcome::Ok);
    let later = StepRecord { from: Origin::Step { number: 0 }, ..step(0, 1) };
    let huge = Cost { wall_us: u64::MAX, ..Cost::default() };
    let huge = StepRecord { outcome: StepOutcome::Ran { cost: huge }, ..step(0, 1) };
    let unrun = StepRecord { outcome: StepOutcome::WouldRun, ..step(0, 1) };
    let (two, nine) = (table(1), table(9));
    let log = format!("builds/{id}/logs/0");
    let odd = format!("builds/{id}/logs/00");
    let other = format!("builds/{id}/logs/7");
    let up = format!("builds/{id}/../../x");
    let cases: &[(&[Member<'_>], &str)] = &[
        (&[], "it is empty"),
        (&[("x", b"")], "is not its first file"),
        (&[(TABLE, b"{}")], "missing field"),
        (&[(TABLE, &nine)], "newer than this program's 1"),
        (&[(TABLE, &two)], "is not in it"),
        (&[(TABLE, &two), (&own, &good), (&own, &good)], "twice"),
        (&[(TABLE, &two), ("builds/00000000001/build.jsonl", &good)], "not in its table"),
        (&[(TABLE, &two), (&own, b"nonsense")], "expected"),
        (&[(TABLE, &two), (&own, &of(&[later]))], "does not come before it"),
        (&[(TABLE, &two), (&own, &of(&[step(0, 1), step(0, 1)]))], "twice"),
        (&[(TABLE, &two), (&own, &of(&[step(usize::MAX, 1)]))], "does not come before it"),
        (&[(TABLE, &two), (&own, &of(&[huge]))], "out of range"),
        (&[(TABLE, &two), (&own, &of(&[unrun]))], "has not been run"),
        (&[(TABLE, &two), (&own, &record(&[], Outcome::Predicted))], "has not been run"),
        (&[(TABLE, &two), (&log, b"x"), (&own, &good)], "of no step of a build before it"),
        (&[(TABLE, &two), (&own, &good), (&other, b"x")], "of no step"),
        (&[(TABLE, &two), (&own, &good), (&odd, b"x")], "unknown file"),
        (&[(TABLE, &two), (&own, &good), ("trees/../x", b"{}")], "unknown file"),
        (&[(TABLE, &two), (&own, &good), (&up, b"{}")], "unknown file"),
    ];
    for (members, part) in cases {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in *members {
            let mut header = tar::Header::new_ustar();
            // Past the check that a polite writer makes.
            header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        let error = kit.import(&tar.into_inner().unwrap()).unwrap_err().to_string();
        assert!(error.contains(part), "{members:?}: {error}");
    }
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_link(&mut header, TABLE, "/etc/passwd").unwrap();
    let error = kit.import(&link.into_inner().unwrap()).unwrap_err().to_string();
    assert!(error.contains("is not a regular file"), "{error}");
    assert!(kit.import(b"no archive").unwrap_err().to_string().contains("not a tar"));
    let cut = archive(&[(TABLE, &two), (&own, &good)]);
    assert!(kit.import(&cut[..700]).is_err());
    assert!(kit.history.ids().unwrap().is_empty());
}

#[test]
fn builds_of_the_future_are_refused_and_those_of_a_clock_that_is_ahead_are_not() {
    let (here, there) = (kit(), kit());
    let near = here.build(NOW + AHEAD_MAX, 1);
    assert_eq!(there.import(&here.export(&[near]).unwrap()).unwrap()[0].here, near);
    let far = here.build(NOW + AHEAD_MAX + 1, 1);
    let error = there.import(&here.export(&[far]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("began in the future"), "{error}");
}

#[test]
fn imported_builds_are_counted_apart() {
    let (here, there) = (kit(), kit());
    let own = there.build(NOW, 1);
    let sent: Vec<BuildId> = (1..=5).map(|n| here.build(NOW + n, 1)).collect();
    there.import(&here.export(&sent).unwrap()).unwrap();
    assert_eq!(there.history.prune(2, 0, NOW).unwrap(), 3);
    assert_eq!(there.history.ids().unwrap(), [sent[4], sent[3], own]);
}

#[test]
fn the_search_for_an_id_ends_and_leaves_nothing() {
    let (here, there) = (kit(), kit());
    let ids = [here.build(NOW - 1, 1), here.build(NOW, 1)];
    let bytes = here.export(&ids).unwrap();
    let taken = i64::try_from(IDS_MAX).unwrap();
    for n in 0..taken {
        fs::create_dir(there.history.directory(BuildId::at(NOW + n))).unwrap();
    }
    let error = there.import(&bytes).unwrap_err().to_string();
    assert!(error.contains("have its id"), "{error}");
    assert!(!there.history.directory(ids[0]).exists(), "what was claimed is free again");
    let cancel = Cancel::new();
    cancel.cancel();
    let error = there.history.import(&there.store, &*bytes, NOW, &cancel).unwrap_err();
    assert!(matches!(error, HistoryError::Cancelled));
}

#[test]
fn a_damaged_log_is_left_out() {
    let kit = kit();
    let id = kit.build(NOW, 1);
    let other = self::kit();
    let path = kit.history.directory(id).join(LOGS).join("0");
    // A frame whose block is of a reserved kind.
    fs::write(&path, [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x07, 0x00, 0x00, 0x00]).unwrap();
    let done = other.import(&kit.export(&[id]).unwrap()).unwrap();
    assert_eq!(done[0].logs_left_out, 1);
    assert!(matches!(other.history.log(id, 0), Err(HistoryError::NoLog { .. })));
}

#[test]
fn a_build_that_runs_is_not_exported() {
    let kit = kit();
    let mut log = kit.history.begin(About { started_ms: NOW, ..About::default() }).unwrap();
    log.running().unwrap();
    assert!(matches!(kit.export(&[log.id()]), Err(HistoryError::Running { .. })));
}
