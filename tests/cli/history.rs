//! The history of builds: list, names, removal; what the git repository of a context says of it.

use crate::kit::{Kit, host};
use serde_json::Value;

/// Runs git in the context, as a user without any configuration.
fn git(kit: &Kit, words: &[&str]) {
    let dir = kit.path("");
    let dir = dir.to_str().unwrap();
    let mut line = vec!["git", "-C", dir, "-c", "user.name=a", "-c", "user.email=a@b.c"];
    line.extend(words);
    host::tool(&line);
}

/// Makes the context a repository with one commit.
fn commit(kit: &Kit) {
    git(kit, &["init", "-q"]);
    git(kit, &["remote", "add", "origin", "https://me:secret@git.example/team/app.git"]);
    git(kit, &["add", "-A"]);
    git(kit, &["commit", "-q", "-m", "1"]);
}

/// The lines of `history ls --format json`.
fn listed(kit: &Kit, words: &[&str]) -> Vec<Value> {
    let line = ["history", "ls", "--format", "json"].iter().chain(words);
    let text = kit.builder(line.copied().collect::<Vec<_>>()).ok().stdout();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(kit: &Kit, words: &[&str]) -> Vec<String> {
    let name = |line: &Value| line["name"].as_str().unwrap().to_owned();
    listed(kit, words).iter().map(name).collect()
}

#[test]
fn builds_are_listed_by_name_and_state_and_every_verb_takes_the_name() {
    let kit = Kit::new();
    assert!(listed(&kit, &[]).is_empty(), "an empty store");
    kit.dockerfile("FROM fixture/base\nRUN echo first words\n");
    kit.build().arg("--build-arg=BUILDKIT_BUILD_NAME=nightly").ok();
    kit.dockerfile("FROM fixture/base\nRUN exit 3\n");
    kit.build().fails(4);
    assert_eq!(names(&kit, &[]), ["context", "nightly"]);
    assert_eq!(names(&kit, &["--filter", "status=error"]), ["context"]);
    assert_eq!(names(&kit, &["--filter", "status!=error", "--filter", "duration<1h"]), ["nightly"]);
    let line = &listed(&kit, &["--filter", "name=nightly"])[0];
    assert_eq!((&line["status"], &line["total_steps"]), (&"Completed".into(), &1.into()));
    assert_eq!((&line["completed_steps"], &line["cached_steps"]), (&1.into(), &0.into()));
    let line_of = |format: &str| {
        kit.builder(["history", "ls", "--format", format, "--filter", "status=error"]).ok().stdout()
    };
    assert_eq!(line_of("{{.Name}}: {{.Status}}"), "context: Error\n");
    kit.builder(["history", "ls", "--format", "{{.Nope}}"]).fails(2).says(&["Ref, Name, Status"]);
    let table = kit.builder(["history", "ls"]).ok().stdout();
    assert!(table.starts_with("BUILD ID"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let said = |words: &[&str]| kit.builder(words).ok().stdout();
    let reference = line["ref"].as_str().unwrap();
    for name in ["nightly", "^1", reference, &reference["builder/builder/".len()..]] {
        assert!(said(&["history", "logs", name]).contains("first words"), "{name}");
        assert!(said(&["history", "inspect", name]).contains("name        nightly"), "{name}");
        assert!(said(&["explain", "--build", name]).contains("RUN echo first"), "{name}");
    }
    let inspected =
        |format: &str| kit.builder(["history", "inspect", "nightly", "--format", format]);
    let fields = "{{.Name}} {{.Status}} {{.NumTotalSteps}} {{index .Platform 0}}";
    assert!(inspected(fields).ok().stdout().starts_with("nightly completed 1 linux/"));
    assert_eq!(inspected("json").ok().json()["outcome"]["kind"], "ok");
    inspected("{{.Nope}}").fails(2).says(&["Name, Ref, Context"]);
    inspected("yaml").fails(2).says(&["yaml"]);
    kit.builder(["history", "logs", "nightly", "--progress", "plain"]).ok();
    let refused = kit.builder(["history", "ls", "--filter", "color=red"]).fails(2);
    refused.says(&["there are ref, name, repository, status, startedAt, completedAt and duration"]);
}

#[test]
fn builds_are_removed_by_reference_or_all() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    for name in ["a", "b", "c"] {
        kit.build().env("BUILDKIT_BUILD_NAME", name).ok();
    }
    // What `last` and ^1 are is looked up before anything goes.
    let gone = kit.builder(["history", "rm", "last", "^1"]).ok().stdout();
    assert_eq!(gone.lines().count(), 2);
    assert_eq!(names(&kit, &[]), ["a"]);
    kit.builder(["history", "rm", "none"]).fails(2).says(&["no build \"none\" in the history"]);
    kit.builder(["history", "rm"]).fails(2);
    kit.builder(["history", "rm", "a", "--all"]).fails(2);
    kit.builder(["history", "rm", "--all"]).ok();
    assert!(listed(&kit, &[]).is_empty());
    kit.builder(["history", "rm", "--all"]).ok();
    kit.builder(["history", "logs"]).fails(2).says(&["no build in the history"]);
}

#[test]
fn labels_name_commit_repository_and_dockerfile_where_they_are_asked_for() {
    let kit = Kit::new();
    kit.file("docker/Dockerfile", "FROM fixture/base\nRUN true\n");
    commit(&kit);
    let build = || kit.build().arg(format!("--file={}", kit.path("docker/Dockerfile").display()));
    let plain = build().image();
    assert!(plain.config()["Labels"].is_null(), "{}", plain.config());
    let labelled = build().env("BUILDX_GIT_LABELS", "full").image();
    let labels = &labelled.config()["Labels"];
    let commit = labels["org.opencontainers.image.revision"].as_str().unwrap();
    assert_eq!(commit.len(), 40);
    let source = &labels["org.opencontainers.image.source"];
    assert_eq!(source, "https://git.example/team/app.git");
    assert_eq!(labels["com.docker.image.source.entrypoint"], "docker/Dockerfile");
    assert_eq!(plain.layers, labelled.layers, "no step sees them");
    // What the user says goes first, and a change that is not committed shows.
    kit.file("new", "");
    let build =
        || build().env("BUILDX_GIT_LABELS", "1").arg("--label=org.opencontainers.image.source=x");
    let clean = build().image();
    assert_eq!(clean.config()["Labels"]["org.opencontainers.image.source"], "x");
    assert_eq!(clean.config()["Labels"]["org.opencontainers.image.revision"], commit);
    let dirty = build().env("BUILDX_GIT_CHECK_DIRTY", "true").image();
    let revision = dirty.config()["Labels"]["org.opencontainers.image.revision"].clone();
    assert_eq!(revision, format!("{commit}-dirty"));
    kit.build().env("BUILDX_GIT_LABELS", "some").fails(2).says(&["BUILDX_GIT_LABELS: \"some\""]);
}

#[test]
fn the_history_knows_the_repository_unless_that_is_not_wanted() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    commit(&kit);
    kit.build().env("BUILDKIT_BUILD_NAME", "with").ok();
    kit.build().env("BUILDKIT_BUILD_NAME", "without").env("BUILDX_GIT_INFO", "false").ok();
    assert_eq!(names(&kit, &["--filter", "repository=team/app"]), ["with"]);
    let shown = kit.builder(["history", "inspect", "with"]).ok().stdout();
    assert!(
        shown.contains("repository  https://git.example/team/app.git\ncommit      "),
        "{shown}"
    );
    let elsewhere = kit.builder(["history", "ls", "--local"]).fails(2);
    elsewhere.says(&["the working directory is not in a git repository"]);
    let local = kit
        .builder(["history", "ls", "--local"])
        .after(&format!("cd {}", kit.path("").display()))
        .ok()
        .stdout();
    assert_eq!(local.lines().count(), 3, "a directory of the repository counts: {local}");
}

#[test]
fn the_time_of_the_image_is_that_of_an_archive_and_a_directory_has_none() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /at\n");
    let created = |archive: &[u8]| {
        let run = kit.build_of(std::path::Path::new("-")).input(archive);
        let image = run.env("SOURCE_DATE_EPOCH", "context").image();
        (image.document["created"].as_str().unwrap().to_owned(), image.text("/at"))
    };
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text, time) in [
        ("Dockerfile", std::fs::read(kit.path("Dockerfile")).unwrap(), 1_000_000_000),
        ("newest", b"x".to_vec(), 1_400_000_000),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(time);
        tar.append_data(&mut header, name, &*text).unwrap();
    }
    let (created, seen) = created(&tar.into_inner().unwrap());
    assert_eq!((created.as_str(), seen.as_str()), ("2014-05-13T16:53:20Z", "1400000000\n"));
    let directory = kit.build_showing("plain").env("SOURCE_DATE_EPOCH", "context").ok();
    directory.says(&["a directory has no time of its own"]);
    kit.build()
        .env("SOURCE_DATE_EPOCH", "soon")
        .fails(2)
        .says(&["invalid SOURCE_DATE_EPOCH: soon"]);
}

/// Two stores, of which the first has two builds with a change between them; and an archive of both.
fn exported() -> (Kit, Kit, std::path::PathBuf) {
    let (here, there) = (Kit::new(), Kit::new());
    here.file("a", "1")
        .dockerfile("FROM fixture/base\nARG NPM_TOKEN\nCOPY a /a\nRUN echo said $(cat /a)\n");
    let build = |name: &str| here.build().env("BUILDKIT_BUILD_NAME", name);
    build("first").arg("--build-arg=NPM_TOKEN=hunter2").ok();
    here.file("a", "22");
    build("second").arg("--build-arg=NPM_TOKEN=hunter2").ok();
    let archive = here.out("builds.tar.gz");
    here.builder(["history", "export", "--all", "-o", archive.to_str().unwrap()]).ok();
    (here, there, archive)
}

#[test]
fn builds_are_explained_on_another_machine() {
    let (here, there, archive) = exported();
    let bytes = std::fs::read(&archive).unwrap();
    let again = here.builder(["history", "export", "second", "first"]).ok().bytes().to_vec();
    assert!(bytes == again, "the same builds give the same bytes");
    let path = archive.to_str().unwrap();
    let ids = there.builder(["history", "import", "-f", path]).ok().stdout();
    assert_eq!(ids.lines().count(), 2);
    assert_eq!(names(&there, &[]), ["second", "first"]);
    let said = |words: &[&str]| there.builder(words).ok().stdout();
    assert!(said(&["history", "logs", "second"]).contains("said 22"));
    let shown = said(&["history", "inspect", "first"]);
    assert!(shown.contains("imported") && shown.contains("arg NPM_TOKEN: ***"), "{shown}");
    let why = said(&["explain"]);
    assert!(why.contains("a: content (1 → 2 bytes)"), "{why}");
    assert_eq!(why, here.builder(["explain"]).ok().stdout());
    // Known by now, from standard input too.
    let known = there.builder(["history", "import"]).input(bytes.clone()).ok().stdout();
    assert!(known.lines().all(|line| line.ends_with("is here already")), "{known}");
    // A build of this machine is not explained by one of another.
    there.file("a", "1").dockerfile("FROM fixture/base\nCOPY a /a\n");
    there.build().ok();
    assert!(!said(&["explain"]).contains("compared with"));
    let text =
        String::from_utf8_lossy(&host::tool(&["tar", "-xzOf", path]).into_bytes()).into_owned();
    assert!(!text.contains("hunter2"));
    let refused = there.builder(["history", "import"]).input("no archive").fails(2);
    refused.says(&["this is not an archive of builds", "builder history export -o"]);
    there.builder(["history", "import", "none.tar.gz"]).fails(2).says(&["none.tar.gz"]);
    there.builder(["history", "export", "none"]).fails(2).says(&["no build \"none\""]);
}

#[test]
fn a_build_has_a_trace_a_page_and_documents() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo a > /a\nRUN echo b > /b\n");
    kit.build().arg("-t=app").ok();
    let trace = kit.builder(["history", "trace"]).ok().json();
    let spans = trace["data"][0]["spans"].as_array().unwrap();
    let named: Vec<_> = spans.iter().map(|span| span["operationName"].as_str().unwrap()).collect();
    assert_eq!(named, ["build context", "[2/3] RUN echo a > /a", "[3/3] RUN echo b > /b"]);
    assert_eq!(spans[2]["references"][1]["spanID"], spans[1]["spanID"]);
    let otlp = kit.builder(["history", "trace", "last", "--format", "otlp"]).ok().json();
    let of_otlp = &otlp["resourceSpans"][0]["scopeSpans"][0]["spans"];
    assert_eq!(
        (&of_otlp[1]["spanId"], &of_otlp[1]["traceId"]),
        (&spans[1]["spanID"], &spans[1]["traceID"])
    );
    let both = kit.builder(["history", "trace", "--compare", "last"]).ok().json();
    assert_eq!(both["data"].as_array().unwrap().len(), 2);
    // The page is where it is said to be; no browser is started without a terminal.
    let page = kit.builder(["history", "open"]).env("BROWSER", "false").ok().stdout();
    let text = std::fs::read_to_string(page.trim_end()).unwrap();
    assert!(text.contains("<!DOCTYPE html>") && text.contains("RUN echo b"));
    let named = kit.out("page.html");
    let open = kit.builder(["history", "open", "-o", named.to_str().unwrap(), "app"]);
    open.fails(2).says(&["no build \"app\""]);
    kit.builder(["history", "open", "-o", named.to_str().unwrap(), "context"]).ok();
    assert_eq!(std::fs::read_to_string(named).unwrap(), text);
    let document =
        |kind: &str| kit.builder(["history", "inspect", "attachment", "last", "--type", kind]);
    let manifest = document("manifest").ok().json();
    assert_eq!(document("image").ok().json()["os"], "linux");
    let digest = manifest["config"]["digest"].as_str().unwrap();
    let config = kit.builder(["history", "inspect", "attachment", "last", digest]).ok().json();
    assert_eq!(config["os"], "linux");
    document("provenance").fails(2).says(&["no attestation: none are made yet"]);
}
