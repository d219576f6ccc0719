//! BuildKit's recorded results for other people's Dockerfiles: builds the `buildah-*` cases of
//! `../shared/conformance`, which is not part of this repository, and compares; and reads its corpora of
//! Dockerfiles, words and ignore files. This project's own cases are in `tests/oracle`.
//!
//! A case that fails must stand in `conformance-deviations.txt` with its reason, and
//! `docs/dockerfile.md` must name it; one that stands there must still fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test program: failing is its job, and it looks at CI's environment"
)]

#[macro_use]
#[path = "../kit/skip.rs"]
mod skip;

#[path = "../kit/mod.rs"]
mod kit;
mod suite;

use kit::{BUILDER, base, make_dir};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use suite::Suite;

/// What a case may need and finds here.
const HAVE: &str = "http,ssh,git,insecure,network";

/// Cases that differ on purpose: `check` or `cache`, a name and, after `#`, why.
const DEVIATIONS: &str = include_str!("../conformance-deviations.txt");

/// Makes the base images the cases build on; Debian's only where a mirror can be reached.
fn bases(suite: &Suite, directory: &Path) {
    let mut command = suite.python();
    command.arg("mkbases.py").arg(directory).args(["--busybox", "/bin/busybox"]);
    match std::panic::catch_unwind(base::debian) {
        Ok(debian) => drop(command.arg("--debian").arg(debian)),
        Err(_) => {
            cannot_run_here!(optional: "the cases on Debian, which mmdebstrap could not make");
        }
    }
    assert!(command.status().unwrap().success());
}

/// A verdict on a case: its name, and what is wrong with it.
type Verdicts = BTreeMap<String, Vec<String>>;

/// Runs one of the suite's commands and returns its verdicts; a case that passes has nothing wrong.
fn verdicts(suite: &Suite, work: &Path, mode: &str, flags: &[String]) -> Verdicts {
    let file = work.join("verdicts.json");
    let output = suite
        .python()
        .args(["conform.py", mode, "cases", "golden", "--builder", BUILDER])
        .args(["--state-env", "BUILDER_ROOT", "--have", HAVE, "--jobs", "2"])
        .arg("--state")
        .arg(work.join("store"))
        .arg("--bases")
        .arg(work.join("bases"))
        // The others are this project's own: `tests/oracle` has them.
        .args(["--only", "buildah-*", "--json"])
        .arg(&file)
        .args(flags)
        .env("CONFORM_TMP", work.join("tmp"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let Ok(verdicts) = fs::read(&file) else {
        panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    println!("{}", said.lines().last().unwrap_or_default());
    let verdicts: Value = serde_json::from_slice(&verdicts).unwrap();
    let row = |row: &Value| {
        let wrong = row["hard"].as_array().unwrap().iter();
        let wrong = wrong.map(|line| line.as_str().unwrap().to_owned()).collect();
        (row["case"].as_str().unwrap().to_owned(), wrong)
    };
    verdicts.as_array().unwrap().iter().map(row).collect()
}

/// Runs one of the suite's commands over all cases and holds its verdicts against the list.
fn judge(mode: &str, flags: &[&str]) {
    let Some(suite) = Suite::with_links() else { return };
    let work = tempfile::tempdir().unwrap();
    bases(&suite, &work.path().join("bases"));
    make_dir(&work.path().join("tmp"));
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let mut all = verdicts(&suite, work.path(), mode, &flags);
    let deviations = deviations();
    let deviates = |case: &str| deviations.contains(&(mode, case));
    let failed = |all: &Verdicts| -> Vec<String> {
        let failed = all.iter().filter(|(case, wrong)| !wrong.is_empty() && !deviates(case));
        failed.map(|(case, _)| case.clone()).collect()
    };
    // The recordings were made without a cache. In one store for all cases, a COPY may find the files that
    // another case copied, of the same content but another time, and that is as it should be.
    let again = failed(&all);
    if !again.is_empty() && mode == "check" {
        let mut alone = flags.clone();
        alone.push("--fresh-state".to_owned());
        let alone = verdicts(&suite, work.path(), mode, &alone);
        all.extend(alone.into_iter().filter(|(case, _)| again.contains(case)));
    }
    let mut report = String::new();
    for case in failed(&all) {
        writeln!(report, "FAIL {case}\n  - {}", all[&case].join("\n  - ")).unwrap();
    }
    for case in all.iter().filter(|(case, wrong)| wrong.is_empty() && deviates(case)) {
        writeln!(report, "{} passes: take it off the list of deviations", case.0).unwrap();
    }
    assert!(report.is_empty(), "{report}");
}

/// The list: what is judged, and the case.
fn deviations() -> BTreeSet<(&'static str, &'static str)> {
    let lines = DEVIATIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (judged, reason) = line.split_once('#').expect("a case, `#`, and its reason");
            assert!(!reason.trim().is_empty(), "{line}");
            let (mode, case) = judged.trim().split_once(' ').expect("check or cache, and a case");
            assert!(matches!(mode, "check" | "cache"), "{line}");
            (mode, case)
        })
        .collect()
}

/// Runs one corpus of inputs, whose paths are relative to `root`, through a hidden command.
fn corpus(file: &str, kind: &str, root: &str) {
    let Some(suite) = Suite::find() else { return };
    let output = suite
        .python()
        .args(["conform.py", "corpus", file, "--kind", kind, "--root", root])
        .args(["--cmd", &format!("{BUILDER} dev {kind}")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn images_are_what_buildkit_made() {
    judge("check", &["--no-cache-checks"]);
}

#[test]
fn dockerfiles_parse_as_buildkit_parsed_them() {
    corpus("parser/ast.jsonl", "ast", "parser");
}

#[test]
fn dockerfiles_of_the_cases_parse_as_buildkit_parsed_them() {
    corpus("parser/cases-ast.jsonl", "ast", ".");
}

#[test]
fn words_expand_as_buildkit_expanded_them() {
    corpus("parser/words.jsonl", "words", "parser");
}

#[test]
fn ignore_files_match_as_buildkit_matched_them() {
    corpus("parser/ignore.jsonl", "ignore", "parser");
}

/// A warning: its rule, its words, its lines.
type Warning = (String, String, Vec<u64>);

/// What BuildKit warned of in a case: `Rule: words (line 3)`.
fn recorded_warnings(record: &Value) -> BTreeSet<Warning> {
    let warnings = record["warnings"].as_array().into_iter().flatten();
    let read = |warning: &Value| {
        let text = warning["text"].as_str().unwrap();
        let (rule, rest) = text.split_once(": ").unwrap();
        let words = rest.rsplit_once(" (line ").map_or(rest, |(words, _)| words);
        let lines = warning["lines"].as_array().unwrap().iter();
        (rule.to_owned(), words.to_owned(), lines.map(|line| line.as_u64().unwrap()).collect())
    };
    warnings.map(read).collect()
}

/// What `builder check` warned of, its own advice left out; `None` where it printed no document.
fn found_warnings(output: &str) -> Option<BTreeSet<Warning>> {
    let document: Value = serde_json::from_str(output).ok()?;
    let warnings = document["warnings"].as_array().unwrap().iter();
    let read = |warning: &Value| {
        let text = |name: &str| warning[name].as_str().unwrap().to_owned();
        let ranges = warning["location"]["ranges"].as_array().into_iter().flatten();
        let lines = ranges.map(|range| range["start"]["line"].as_u64().unwrap()).collect();
        (text("ruleName"), text("detail"), lines)
    };
    Some(warnings.filter(|warning| warning["severity"] != "advice").map(read).collect())
}

#[test]
fn checks_find_what_buildkit_found() {
    let Some(suite) = Suite::with_links() else { return };
    let work = tempfile::tempdir().unwrap();
    let bases_directory = work.path().join("bases");
    bases(&suite, &bases_directory);
    make_dir(&work.path().join("tmp"));
    let output = suite
        .python()
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/checks.py"))
        .args([suite.path(""), BUILDER.into(), bases_directory, work.path().join("store")])
        .env("CONFORM_TMP", work.path().join("tmp"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut report = String::new();
    let (mut cases, mut warnings) = (0, 0);
    for line in said.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let case = record["case"].as_str().unwrap();
        let want = recorded_warnings(&record);
        let output = record["output"].as_str().unwrap();
        cases += 1;
        warnings += want.len();
        match found_warnings(output) {
            Some(got) if got == want => {}
            Some(got) => writeln!(report, "{case}: want {want:?}, got {got:?}").unwrap(),
            // Without a document there was nothing to read, and BuildKit had nothing to say.
            None if want.is_empty() && record["result"] == "error" => {}
            None => writeln!(report, "{case}: want {want:?}, got {output}").unwrap(),
        }
    }
    println!("{cases} cases with {warnings} warnings");
    assert!(report.is_empty(), "{report}");
    assert!(cases > 0);
}

#[test]
fn every_deviation_is_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dockerfile.md");
    let page = fs::read_to_string(page).unwrap_or_default();
    let missing: Vec<&str> = deviations()
        .into_iter()
        .map(|(_, case)| case)
        .filter(|case| !page.contains(case))
        .collect();
    assert!(missing.is_empty(), "not in docs/dockerfile.md: {missing:?}");
}
