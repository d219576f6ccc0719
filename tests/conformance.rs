//! BuildKit's recorded answers: builds every case of `../shared/conformance` and compares.
//!
//! A case that fails must stand in `conformance-deviations.txt` with its reason, and
//! `docs/dockerfile.md` must name it; one that stands there must still fail.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test program: failing is its job, and it looks at CI's environment"
)]

mod kit;

use kit::{BUILDER, base, host, make_dir};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a case may need and finds here.
const HAVE: &str = "http,ssh,git,insecure,network";

/// Cases that differ on purpose: a name and, after `#`, why.
const DEVIATIONS: &str = include_str!("conformance-deviations.txt");

/// The folder of cases; `None`, said aloud, where this checkout stands without it.
fn suite() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join("shared/conformance");
    let found = path.join("conform.py").is_file();
    if !found {
        println!("left out: no recorded cases at {}", path.display());
    }
    (found && host::has("python3", "python3")).then_some(path)
}

fn python(suite: &Path) -> Command {
    let mut command = Command::new("python3");
    command.current_dir(suite).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Makes the base images the cases build on; Debian's only where a mirror can be reached.
fn bases(suite: &Path, folder: &Path) {
    let mut command = python(suite);
    command.arg("mkbases.py").arg(folder).args(["--busybox", "/bin/busybox"]);
    match std::panic::catch_unwind(base::debian) {
        Ok(debian) => drop(command.arg("--debian").arg(debian)),
        Err(_) => println!("left out: the cases on Debian, which mmdebstrap could not make"),
    }
    assert!(command.status().unwrap().success());
}

/// Runs one of the suite's commands over all cases and holds its verdicts against the list.
fn judge(mode: &str, flags: &[&str]) {
    let Some(suite) = suite() else { return };
    let work = tempfile::tempdir().unwrap();
    let (bases_folder, verdicts) = (work.path().join("bases"), work.path().join("verdicts.json"));
    bases(&suite, &bases_folder);
    make_dir(&work.path().join("tmp"));
    let output = python(&suite)
        .args(["conform.py", mode, "cases", "golden", "--builder", BUILDER])
        .args(["--state-env", "BUILDER_ROOT", "--have", HAVE, "--jobs", "2"])
        .arg("--state")
        .arg(work.path().join("store"))
        .arg("--bases")
        .arg(&bases_folder)
        .arg("--json")
        .arg(&verdicts)
        .args(flags)
        .env("CONFORM_TMP", work.path().join("tmp"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let Ok(verdicts) = fs::read(&verdicts) else {
        panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let verdicts: Value = serde_json::from_slice(&verdicts).unwrap();
    let verdicts = verdicts.as_array().unwrap();
    let of = |row: &Value| row["case"].as_str().unwrap().to_owned();
    let (failed, passed): (Vec<_>, Vec<_>) =
        verdicts.iter().partition(|row| row["verdict"] == "fail");
    let deviations = deviations();
    let mut report = String::new();
    for row in failed.iter().filter(|row| !deviations.contains_key(of(row).as_str())) {
        writeln!(report, "FAIL {}", of(row)).unwrap();
        for line in row["hard"].as_array().unwrap() {
            writeln!(report, "  - {}", line.as_str().unwrap()).unwrap();
        }
    }
    for row in
        passed.iter().filter(|row| mode == "check" && deviations.contains_key(of(row).as_str()))
    {
        writeln!(report, "{} passes: take it off the list of deviations", of(row)).unwrap();
    }
    let summary = said.lines().rev().take(4).collect::<Vec<_>>();
    println!("{}", summary.join("\n"));
    assert!(report.is_empty(), "{report}\n{}", summary.join("\n"));
}

/// The list: case and reason.
fn deviations() -> BTreeMap<&'static str, &'static str> {
    let lines = DEVIATIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (case, reason) = line.split_once('#').expect("a case, `#`, and its reason");
            (case.trim(), reason.trim())
        })
        .collect()
}

/// Runs one corpus of inputs, whose paths are relative to `root`, through a hidden command.
fn corpus(file: &str, kind: &str, root: &str) {
    let Some(suite) = suite() else { return };
    let output = python(&suite)
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
fn steps_are_cached_where_buildkit_cached_them() {
    judge("cache", &[]);
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

#[test]
fn every_deviation_is_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dockerfile.md");
    let page = fs::read_to_string(page).unwrap_or_default();
    let missing =
        deviations().into_keys().filter(|case| !page.contains(case)).collect::<BTreeSet<_>>();
    assert!(missing.is_empty(), "not in docs/dockerfile.md: {missing:?}");
}
