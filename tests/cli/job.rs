//! Whole builds without a command line: a request as data, what comes back as data.

use crate::kit::{BUILDER, Kit, base};
use builder::job::failure::cannot;
use builder::job::resolve::{NamedContext, context_name};
use builder::job::{self, BuildRequest, Built, Caller, Class, Failure, Loaded};
use builder::progress::Progress;
use builder::registry::Client;
use builder::store::Store;
use builder::sys::cancel::Cancel;
use builder::sys::foreign::Given;
use jiff::Timestamp;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::sync::Mutex;

/// A program without arguments, environment or network.
#[derive(Default)]
struct Embedder {
    cancel: Cancel,
    warnings: Mutex<Vec<String>>,
}

impl Caller for Embedder {
    fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    fn started(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn stdin(&self) -> Result<Given, Failure> {
        Given::stdin(&self.cancel).map_err(|error| cannot("read", "standard input", &error))
    }

    fn stdout(&self) -> Box<dyn Write + '_> {
        Box::new(std::io::sink())
    }

    fn client(&self, _: bool, _: &Progress) -> Result<Client, Failure> {
        Err(Failure::new(Class::Network, "no network here"))
    }

    fn warn(&self, text: &str) {
        self.warnings.lock().unwrap().push(text.to_owned());
    }
}

/// Asks for the kit's context, all files dated 2026-01-01, with the shared base and no registry.
fn request(kit: &Kit) -> BuildRequest {
    let mut request = BuildRequest::new(kit.path("").to_str().unwrap());
    let layout = NamedContext::Layout(base::layout().to_str().unwrap().to_owned());
    request.source.contexts.insert(context_name("fixture/base"), layout);
    request.source.pull = job::PullPolicy::Never;
    request.source.epoch = Some(i64::try_from(base::TIME).unwrap());
    let epoch = request.source.epoch.unwrap().to_string();
    request.source.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    request.delivery.store_output.epoch = request.source.epoch;
    request.delivery.store_output.layers.rewrites_times = Some(true);
    request.delivery.tags.push("app:1".parse().unwrap());
    request.steps.program = Some(BUILDER.into());
    request.steps.disk.collects = false;
    request.steps.disk.min_free = Some(0);
    request
}

fn open(kit: &Kit) -> Store {
    Store::open(&kit.beside("embedded")).unwrap()
}

#[track_caller]
fn build(request: &BuildRequest, store: &Store) -> Built {
    let caller = Embedder::default();
    let loaded = job::load(request, store, &caller).unwrap();
    let built = job::build(&loaded, store, &caller, &Progress::quiet()).unwrap();
    assert_eq!(*caller.warnings.lock().unwrap(), [""; 0]);
    built
}

#[test]
fn privileged_a_request_as_data_makes_the_image_that_the_command_line_makes() {
    let kit = Kit::new();
    kit.file("src/a", "a\n").chmod("src/a", 0o755);
    kit.dockerfile(
        "FROM fixture/base AS made\nRUN echo made > /made\n\
         FROM scratch\nCOPY src /src\nCOPY --from=made /made /made\nENV A=b\n",
    );
    let store = open(&kit);
    let request = request(&kit);
    let built = build(&request, &store);
    assert_eq!(built.counts.ran, 3);
    let again = build(&request, &store);
    assert_eq!((again.counts.ran, again.manifest), (0, built.manifest));
    assert_ne!(again.build, built.build, "two builds in the history");
    assert_eq!(store.resolve("docker.io/library/app:1").unwrap().map(|d| d.digest), built.manifest);

    let facts = kit.out("facts.json");
    kit.build()
        .args(["-t", "app:1", "--metadata-file", facts.to_str().unwrap()])
        .arg(format!("--timestamp={}", base::TIME))
        .ok();
    let facts: Value = serde_json::from_slice(&fs::read(facts).unwrap()).unwrap();
    let digest = facts["containerimage.digest"].as_str();
    assert_eq!(built.manifest.map(|d| d.to_string()).as_deref(), digest);
}

#[test]
fn privileged_a_prediction_and_a_check_of_a_request_are_data() {
    let kit = Kit::new();
    kit.file("a", "a\n").dockerfile("FROM fixture/base as base\nCOPY a /a\nRUN cd /tmp\n");
    let (store, caller) = (open(&kit), Embedder::default());
    let request = request(&kit);
    let loaded = job::load(&request, &store, &caller).unwrap();
    let outcomes = |loaded: &Loaded<'_>| {
        let elsewhere = Store::open(&kit.beside("elsewhere")).unwrap();
        let predicted = job::predict(loaded, &store, &elsewhere, &caller).unwrap();
        predicted.record.steps.iter().map(|step| format!("{:?}", step.outcome)).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(&loaded), ["WouldRun", "WouldRun"]);
    build(&request, &store);
    assert!(outcomes(&loaded).iter().all(|outcome| outcome.starts_with("Hit")));

    let checked = job::check(&loaded, &store, &caller).unwrap();
    let rules: Vec<_> = checked.findings.iter().map(|finding| finding.rule.name).collect();
    assert_eq!(rules, ["FromAsCasing", "LostShellState"]);
    assert!(checked.error.is_none());
}

#[test]
fn privileged_what_fails_is_a_failure_with_its_class_and_place() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo last words; exit 42\n");
    let (store, caller) = (open(&kit), Embedder::default());
    let request = request(&kit);
    let loaded = job::load(&request, &store, &caller).unwrap();
    let failure = job::build(&loaded, &store, &caller, &Progress::quiet()).unwrap_err();
    assert_eq!((failure.class, failure.excerpts.len()), (Class::Step, 1));
    assert!(failure.message.contains("exit code: 42"), "{}", failure.message);
    kit.dockerfile("FROM fixture/base\nNOPE\n");
    let failure = job::load(&request, &store, &caller).unwrap_err();
    assert_eq!(failure.class, Class::Dockerfile);
}
