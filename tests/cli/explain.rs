//! `builder explain`: why steps hit and missed, and what a build would do now.

use crate::kit::{Kit, Outcome};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A kit with a built tree of a few files.
fn built() -> Kit {
    let kit = Kit::new();
    kit.file("src/a.c", "int a;\n").file("src/b.c", "int b;\n").file("notes", "n");
    kit.dockerfile("FROM fixture/base\nRUN true\nCOPY src /src\nRUN cat /src/*.c > /all\nENV x=1\nRUN echo $x\n");
    kit.build().args(["-t", "it"]).ok();
    kit
}

#[track_caller]
fn shows(outcome: &Outcome, parts: &[&str]) {
    for part in parts {
        assert!(outcome.stdout().contains(part), "`{part}` is not in:\n{}", outcome.stdout());
    }
}

#[test]
fn changed_mode_is_named_with_both_values() {
    let kit = built();
    kit.chmod("src/a.c", 0o755);
    let outcome = kit.explain().ok();
    shows(&outcome, &["src/a.c", "0644", "0755", "COPY src /src"]);
    assert!(!outcome.stdout().contains("src/b.c"), "only what changed:\n{}", outcome.stdout());
}

#[test]
fn changed_content_added_and_removed_files_are_named() {
    let kit = built();
    kit.file("src/a.c", "int c;\n").file("src/new.c", "");
    fs::remove_file(kit.path("src/b.c")).unwrap();
    shows(&kit.explain().ok(), &["src/a.c", "content", "src/new.c", "src/b.c"]);
}

#[test]
fn changed_instruction_and_variable_are_named() {
    let kit = built();
    kit.dockerfile("FROM fixture/base\nRUN true\nCOPY src /src\nRUN cat /src/*.c > /all\nENV x=2\nRUN echo $x\n");
    let outcome = kit.explain().ok();
    shows(&outcome, &["RUN echo 2", "x"]);
    kit.dockerfile("FROM fixture/base\nRUN true\nCOPY src /src\nRUN cat /src/*.c > /everything\n");
    shows(&kit.explain().ok(), &["/everything"]);
}

/// Everything below a directory, with all that a write would change.
fn below(directory: &Path) -> Vec<(PathBuf, u64, SystemTime, (i64, i64))> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let facts = fs::symlink_metadata(entry.path()).unwrap();
            if facts.is_dir() {
                open.push(entry.path());
            }
            let changed = (facts.ctime(), facts.ctime_nsec());
            found.push((entry.path(), facts.len(), facts.modified().unwrap(), changed));
        }
    }
    found.sort();
    found
}

#[test]
fn nothing_is_run_or_written() {
    let kit = built();
    kit.file("src/a.c", "changed");
    let places = [kit.store().to_owned(), kit.beside("home"), kit.beside("tmp"), kit.path("")];
    let before = places.each_ref().map(|place| below(place));
    kit.explain().ok();
    kit.explain().arg("--format=html").ok();
    kit.builder(["explain"]).ok();
    for (place, before) in places.iter().zip(&before) {
        assert!(below(place) == *before, "something in {} is not as it was", place.display());
    }
    assert_eq!(kit.build().ok().ran(), ["COPY src /src", "RUN cat /src/*.c > /all", "RUN echo 1"]);
}

#[test]
fn nothing_is_written_where_nothing_is() {
    let kit = built();
    fs::remove_dir_all(kit.store()).unwrap();
    let outcome = kit.explain().ok();
    shows(&outcome, &["RUN true", "COPY src /src", "4 of 4 steps would run"]);
    kit.builder(["explain"]).fails(2).says(&["no build in the history"]);
    assert!(!kit.store().exists());
    assert_eq!(fs::read_dir(kit.beside("tmp")).unwrap().count(), 0);
    // A store that lacks the base only.
    kit.builder(["prune", "--all"]).ok();
    let before = below(kit.store());
    kit.explain().ok();
    assert!(below(kit.store()) == before);
}

#[test]
fn audit_names_the_files_that_come_out_differently() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    kit.dockerfile(
        "FROM fixture/base AS s\nCOPY src /src\nRUN head -c 8 /dev/urandom | od > /noise; echo same > /same\n\
         FROM fixture/base\nCOPY --from=s /same /same\nRUN cat /same > /again\n",
    );
    let outcome = kit.explain().arg("--audit").ok();
    shows(&outcome, &["no result to compare with", "0 of 4 steps reproduced"]);
    kit.build().ok();
    let before = kit.builder(["df", "--format=json"]).ok().stdout();
    let outcome = kit.explain().arg("--audit").ok();
    shows(&outcome, &["DIFFERS", "noise: content", "3 of 4 steps reproduced, 1 made other files"]);
    assert!(!outcome.stdout().contains("same: "), "{}", outcome.stdout());
    assert_eq!(kit.builder(["df", "--format=json"]).ok().stdout(), before, "nothing is kept");
    let json = kit.explain().args(["--audit", "--format=json"]).ok().json();
    let verdicts: Vec<_> =
        json["steps"].as_array().unwrap().iter().map(|s| &s["verdict"]).collect();
    assert_eq!(verdicts, ["reproducible", "differs", "reproducible", "reproducible"]);
    assert_eq!(kit.build().ok().counts().ran, 0);
}

#[test]
fn one_changed_mode_among_ten_thousand_files_is_named() {
    let kit = Kit::new();
    for directory in 0..100 {
        for file in 0..100 {
            kit.file(&format!("src/d{directory}/f{file}"), [file, directory]);
        }
    }
    kit.dockerfile("FROM fixture/base\nRUN true\nCOPY src /src\nRUN ls /src\n").build().ok();
    kit.chmod("src/d57/f42", 0o755);
    let outcome = kit.explain().ok();
    shows(&outcome, &["src/d57/f42: mode 0644 → 0755", "MISS   [3/4] COPY src /src", "1 changed"]);
    assert!(
        outcome.stdout().lines().all(|line| line.chars().count() <= 80),
        "{}",
        outcome.stdout()
    );
}

#[test]
fn last_build_is_explained_afterwards() {
    let kit = built();
    kit.chmod("src/a.c", 0o755);
    kit.build().ok();
    let outcome = kit.builder(["explain"]).ok();
    shows(&outcome, &["src/a.c", "0644", "0755", "RUN true"]);
}

#[test]
fn touched_file_is_no_cause() {
    let kit = built();
    let file = fs::File::options().write(true).open(kit.path("src/a.c")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let outcome = kit.explain().ok();
    assert!(!outcome.stdout().contains("src/a.c"), "{}", outcome.stdout());
}

#[test]
fn empty_store_has_nothing_to_explain() {
    let outcome = Kit::new().builder(["explain"]).run();
    assert!(matches!(outcome.status, Some(0 | 2)), "{:?}", outcome.status);
}
