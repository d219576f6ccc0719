//! The scheduler counted: how often steps are described, looked up, run and hashed. A result alone
//! cannot show wasted work.

use super::{Counts, Job, Observer, Options, StepReport, solve};
use crate::cache::Cache;
use crate::context::Source;
use crate::dockerfile;
use crate::oci::Platform;
use crate::plan::{self, NoCache, Resolved, Resolver};
use crate::progress::Progress;
use crate::sandbox::{Sandbox, SandboxOptions, SandboxPolicy};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::{self, ThreadId};

struct NoObserver;

impl Observer for NoObserver {
    fn started(&self, _: usize) {}
    fn output(&self, _: usize, _: &[u8]) {}
    fn ended(&self, _: usize, _: &StepReport) {}
}

struct NoImages;

impl Resolver for NoImages {
    fn resolve(
        &mut self,
        name: &str,
        _: &Platform,
    ) -> Result<Resolved, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("no image {name} in this test").into())
    }
}

/// A store and a context of three files.
struct Kit {
    dir: tempfile::TempDir,
}

impl Kit {
    fn new() -> Self {
        let kit = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(kit.context()).unwrap();
        for name in ["a", "b", "c"] {
            kit.file(name, name);
        }
        kit
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    fn file(&self, name: &str, content: &str) {
        fs::write(self.context().join(name), content).unwrap();
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("store")).unwrap()
    }

    fn build(&self, text: &str) -> Counts {
        self.build_for(text, &NoObserver)
    }

    fn build_for(&self, text: &str, observer: &dyn Observer) -> Counts {
        let store = self.store();
        let dockerfile = dockerfile::parse(text.as_bytes()).unwrap();
        let request = plan::PlanRequest {
            dockerfile: &dockerfile,
            build_args: BTreeMap::new(),
            target: None,
            platform: None,
            names_platforms: false,
            build_platform: Platform::host(),
            labels: BTreeMap::new(),
            named_contexts: BTreeSet::new(),
            no_cache: NoCache::Never,
        };
        let plan = plan::plan(&request, &mut NoImages).unwrap();
        let (progress, cancel) = (Progress::quiet(), Cancel::new());
        let sandbox = Sandbox::new(SandboxOptions::new(store.root().join("locks")));
        let index = store.root().join("context/test");
        let contexts = plan
            .contexts
            .iter()
            .map(|_| Source::dir(&self.context(), None, Some(index.clone())).unwrap())
            .collect();
        let job = Job {
            plan: &plan,
            store: &store,
            workshop: &store,
            images: &[],
            contexts,
            options: options(store.root()),
            progress: &progress,
            observer,
            cancel: &cancel,
            interrupt: &cancel,
            sandbox: &sandbox,
            build: "test".to_owned(),
            imports: Vec::new(),
            now: 1_000_000,
        };
        solve(&job).unwrap().counts
    }
}

fn options(root: &Path) -> Options {
    Options {
        access: crate::context::remote::Access::default(),
        credentials: Vec::new(),
        policy: SandboxPolicy::default(),
        secrets: BTreeMap::new(),
        ssh: BTreeMap::new(),
        allow: BTreeSet::new(),
        parallelism: 4,
        memory_budget: None,
        keeps_cache_mounts: false,
        keeps_failed: false,
        wants_image: false,
        disk_floor: 0,
        stores_tars: false,
        epoch: None,
        downloads: root.join("context/http"),
    }
}

const CHAIN: &str = "FROM scratch\nCOPY a /a\nCOPY b /b\nCOPY c /c\n";

#[test]
fn privileged_new_chain_waits_for_no_hash() {
    needs_root!();
    let kit = Kit::new();
    // Only the first step has a parent that is known when it is decided about: it is looked up, and
    // once more under its lock. No record can be hit by the others, so they do not wait to be
    // looked up.
    let counts = Counts { described: 3, looked_up: 2, ran: 3, hashed: 3, brought: 0 };
    assert_eq!(kit.build(CHAIN), counts);
}

#[test]
fn privileged_unchanged_chain_is_looked_up_once_each_and_nothing_else() {
    needs_root!();
    let kit = Kit::new();
    kit.build(CHAIN);
    let counts = Counts { described: 3, looked_up: 3, ran: 0, hashed: 0, brought: 0 };
    assert_eq!(kit.build(CHAIN), counts);
}

#[test]
fn privileged_last_file_changed_runs_one_step() {
    needs_root!();
    let kit = Kit::new();
    kit.build(CHAIN);
    kit.file("c", "changed");
    let counts = Counts { described: 3, looked_up: 4, ran: 1, hashed: 1, brought: 0 };
    assert_eq!(kit.build(CHAIN), counts);
}

#[test]
fn privileged_first_file_changed_waits_for_hashes_that_could_have_paid_off() {
    needs_root!();
    let kit = Kit::new();
    kit.build(CHAIN);
    kit.file("a", "changed");
    let counts = Counts { described: 3, looked_up: 6, ran: 3, hashed: 3, brought: 0 };
    assert_eq!(kit.build(CHAIN), counts);
}

#[test]
fn privileged_step_that_makes_the_same_again_cuts_off_early() {
    needs_root!();
    let kit = Kit::new();
    kit.build(CHAIN);
    let renamed = CHAIN.replace("COPY a", "COPY ./a");
    let counts = Counts { described: 3, looked_up: 4, ran: 1, hashed: 1, brought: 0 };
    assert_eq!(kit.build(&renamed), counts);
}

#[test]
fn privileged_steps_that_depend_on_nothing_run_side_by_side_and_once() {
    needs_root!();
    let kit = Kit::new();
    let text = "FROM scratch AS one\nCOPY a /a\nFROM scratch AS two\nCOPY b /b\n\
                FROM scratch\nCOPY --from=one /a /x\nCOPY --from=two /b /y\n";
    let counts = kit.build(text);
    assert_eq!((counts.described, counts.ran, counts.hashed), (4, 4, 4));
    let counts = Counts { described: 4, looked_up: 4, ran: 0, hashed: 0, brought: 0 };
    assert_eq!(kit.build(text), counts);
}

/// Notes of each step that ended: whether the coordinator's thread said so, and whether its record
/// was there then.
struct Ends {
    coordinator: ThreadId,
    cache: Cache,
    seen: Mutex<Vec<(bool, bool)>>,
}

impl Ends {
    fn of(kit: &Kit) -> Self {
        let cache = Cache::peeking(kit.store());
        Self { coordinator: thread::current().id(), cache, seen: Mutex::default() }
    }
}

impl Observer for Ends {
    fn started(&self, _: usize) {
        assert_ne!(thread::current().id(), self.coordinator, "it would write");
    }

    fn output(&self, _: usize, _: &[u8]) {}

    fn ended(&self, _: usize, report: &StepReport) {
        let (key, parent) = (report.key.unwrap(), report.parent.unwrap());
        let is_recorded = self.cache.lookup(&key, &parent).unwrap().is_ok();
        let is_coordinator = thread::current().id() == self.coordinator;
        self.seen.lock().unwrap().push((is_coordinator, is_recorded));
    }
}

#[test]
fn privileged_results_are_written_by_a_worker_and_then_reported() {
    let kit = Kit::new();
    let ends = Ends::of(&kit);
    kit.build_for(CHAIN, &ends);
    assert_eq!(*ends.seen.lock().unwrap(), [(false, true); 3]);
}

#[test]
fn privileged_a_build_that_runs_nothing_has_no_worker_for_writes() {
    let kit = Kit::new();
    kit.build(CHAIN);
    let ends = Ends::of(&kit);
    kit.build_for(CHAIN, &ends);
    assert_eq!(*ends.seen.lock().unwrap(), [(true, true); 3]);
}

#[test]
fn privileged_hits_after_a_step_that_ran_are_reported_in_order_by_the_worker() {
    let kit = Kit::new();
    kit.build(CHAIN);
    let ends = Ends::of(&kit);
    // The first step runs again and makes the same files, so that the others hit.
    kit.build_for(&CHAIN.replace("COPY a", "COPY ./a"), &ends);
    assert_eq!(*ends.seen.lock().unwrap(), [(false, true); 3]);
}
