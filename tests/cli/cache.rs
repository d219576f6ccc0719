//! The table in `src/cache/mod.rs`, row by row and in both directions: what must make a step run
//! again, and what must not.

use crate::kit::base::{Layout, rootfs};
use crate::kit::{Counts, Kit, Outcome, Run, write_file};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{chown, symlink};

/// Builds twice, the second time with another Dockerfile and flags, and tells what ran then.
#[track_caller]
fn changed(first: (&str, &[&str]), second: (&str, &[&str])) -> Counts {
    let kit = Kit::new();
    kit.file("file", "content");
    kit.dockerfile(first.0).build().args(first.1).ok();
    kit.dockerfile(second.0).build().args(second.1).ok().counts()
}

const HIT: Counts = Counts { ran: 0, cached: 1 };
const MISS: Counts = Counts { ran: 1, cached: 0 };

/// Checks pairs of Dockerfiles (the lines after FROM) of one step each.
#[track_caller]
fn check(expected: Counts, cases: &[(&str, &str, &str)]) {
    for (what, first, second) in cases {
        let text = |lines: &str| format!("FROM fixture/base\n{lines}\n");
        let counts = changed((&text(first), &[]), (&text(second), &[]));
        assert_eq!(counts, expected, "{what}");
    }
}

/// Checks pairs of flags on one Dockerfile of one step.
#[track_caller]
fn check_flags(expected: Counts, cases: &[(&str, &str, &[&str], &[&str])]) {
    for (what, lines, first, second) in cases {
        let text = format!("FROM fixture/base\n{lines}\n");
        assert_eq!(changed((&text, first), (&text, second)), expected, "{what}");
    }
}

#[test]
fn run_depends_on() {
    check(
        MISS,
        &[
            ("the command", "RUN true a", "RUN true b"),
            ("its form", "RUN true", "RUN [\"true\"]"),
            ("the shell", "RUN true", "SHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN true"),
            ("a heredoc's text", "RUN <<E\ntrue\nE", "RUN <<E\ntrue \nE"),
            ("the environment", "ENV a=1\nRUN true", "ENV a=2\nRUN true"),
            ("a variable more", "RUN true", "ENV a=1\nRUN true"),
            ("an argument's value", "ARG a=1\nRUN true", "ARG a=2\nRUN true"),
            ("an argument declared", "RUN true", "ARG a=1\nRUN true"),
            ("the user", "RUN true", "USER app\nRUN true"),
            ("the network", "RUN true", "RUN --network=none true"),
        ],
    );
    check_flags(
        MISS,
        &[
            ("a build argument", "ARG a\nRUN true", &["--build-arg=a=1"], &["--build-arg=a=2"]),
            (
                "a predefined one that is declared",
                "ARG http_proxy\nRUN true",
                &["--build-arg=http_proxy=http://a"],
                &["--build-arg=http_proxy=http://b"],
            ),
        ],
    );
}

#[test]
fn run_depends_on_the_workdir() {
    let first = "FROM fixture/base\nWORKDIR /tmp\nRUN true\n";
    let second = "FROM fixture/base\nWORKDIR /etc\nRUN true\n";
    assert_eq!(changed((first, &[]), (second, &[])).ran, 2, "the WORKDIR and the RUN");
}

#[test]
fn run_does_not_depend_on() {
    check(
        HIT,
        &[
            ("comments", "RUN true", "# comment\nRUN true\n# more"),
            ("the case of the instruction", "RUN true", "run true"),
            ("space around it", "RUN true", "\n\n   RUN   true  "),
            ("a comment in a continuation", "RUN true \\\n a", "RUN true \\\n # comment\n a"),
            ("where it stands", "RUN true", "LABEL a=1\nEXPOSE 80\nRUN true"),
            ("labels before it", "LABEL a=1\nRUN true", "LABEL a=2\nRUN true"),
            ("what comes after it", "RUN true", "RUN true\nENV a=1\nCMD x"),
            ("an argument declared after it", "RUN true\nARG a=1", "RUN true\nARG a=2"),
            ("CMD and ENTRYPOINT", "CMD a\nENTRYPOINT b\nRUN true", "RUN true"),
        ],
    );
    check_flags(
        HIT,
        &[
            ("an argument nobody declared", "RUN true", &[], &["--build-arg=a=1"]),
            ("a proxy", "RUN true", &[], &["--build-arg=http_proxy=http://p"]),
            ("a memory limit", "RUN true", &[], &["--memory=64m"]),
            (
                "a limit of processes and processors",
                "RUN true",
                &["--pids-limit=50"],
                &["--cpus=1"],
            ),
            ("names of the build", "RUN true", &["-t", "one"], &["-t", "two"]),
            ("the progress", "RUN true", &[], &["--iidfile=/dev/null"]),
        ],
    );
}

#[test]
fn run_in_another_stage_is_the_same_step() {
    let first = "FROM fixture/base\nRUN true\n";
    let second = "FROM fixture/base AS other\nRUN true\nFROM other AS last\n";
    assert_eq!(changed((first, &[]), (second, &["--target", "last"])), HIT);
}

#[test]
fn run_depends_on_the_files_before_it() {
    let kit = Kit::new();
    kit.file("file", "1").dockerfile("FROM fixture/base\nCOPY file /f\nRUN true\n").build().ok();
    kit.file("file", "2");
    assert_eq!(kit.build().ok().ran(), ["COPY file /f", "RUN true"]);
}

/// Builds a COPY of a small tree, changes something, and tells what the second build did.
#[track_caller]
fn after(line: &str, change: impl FnOnce(&Kit)) -> Counts {
    let kit = Kit::new();
    kit.file("tree/a", "aa").file("tree/sub/b", "bb").symlink("a", "tree/l").file("other", "o");
    kit.dockerfile(&format!("FROM fixture/base\n{line}\n"));
    kit.build().ok();
    change(&kit);
    kit.build().ok().counts()
}

#[test]
fn copy_depends_on_its_text() {
    check(
        MISS,
        &[
            ("the destination", "COPY file /a", "COPY file /b"),
            ("the owner", "COPY file /a", "COPY --chown=1:1 file /a"),
            ("the mode", "COPY file /a", "COPY --chmod=600 file /a"),
            ("being ADD's archive", "COPY file /a/", "COPY file /a"),
        ],
    );
    check(
        HIT,
        &[
            ("the environment", "COPY file /a", "ENV a=1\nCOPY file /a"),
            ("the user", "COPY file /a", "USER app\nCOPY file /a"),
        ],
    );
}

#[test]
fn copy_depends_on_every_property_of_its_files() {
    let tree = "COPY tree /t";
    assert_eq!(after(tree, |kit| _ = kit.file("tree/a", "aA")), MISS, "content of equal size");
    assert_eq!(after(tree, |kit| _ = kit.file("tree/a", "a")), MISS, "size");
    assert_eq!(after(tree, |kit| _ = kit.chmod("tree/a", 0o600)), MISS, "mode of a file");
    assert_eq!(after(tree, |kit| _ = kit.chmod("tree/sub", 0o700)), MISS, "mode of a directory");
    assert_eq!(after(tree, |kit| _ = kit.file("tree/c", "c")), MISS, "a file more");
    assert_eq!(after(tree, |kit| fs::remove_file(kit.path("tree/a")).unwrap()), MISS, "one less");
    let rename = |kit: &Kit| fs::rename(kit.path("tree/a"), kit.path("tree/z")).unwrap();
    assert_eq!(after(tree, rename), MISS, "a name");
    let retarget = |kit: &Kit| {
        fs::remove_file(kit.path("tree/l")).unwrap();
        kit.symlink("sub", "tree/l");
    };
    assert_eq!(after(tree, retarget), MISS, "a link's target");
    let retype = |kit: &Kit| {
        fs::remove_file(kit.path("tree/a")).unwrap();
        kit.symlink("aa", "tree/a");
    };
    assert_eq!(after(tree, retype), MISS, "a type");
    let directory = |kit: &Kit| fs::create_dir(kit.path("tree/empty")).unwrap();
    assert_eq!(after(tree, directory), MISS, "an empty directory");
}

#[test]
fn copy_sees_an_edit_that_hides_behind_an_old_time() {
    let edit = |kit: &Kit| {
        let time = fs::metadata(kit.path("tree/a")).unwrap().modified().unwrap();
        kit.file("tree/a", "AA");
        fs::File::options()
            .write(true)
            .open(kit.path("tree/a"))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    assert_eq!(after("COPY tree /t", edit), MISS, "same path, size and mtime");
}

#[test]
fn copy_does_not_depend_on() {
    let tree = "COPY tree /t";
    let touch = |kit: &Kit| {
        let file = fs::File::options().write(true).open(kit.path("tree/a")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    assert_eq!(after(tree, touch), HIT, "mtime");
    let replace = |kit: &Kit| {
        fs::remove_file(kit.path("tree/a")).unwrap();
        kit.file("tree/a", "aa");
    };
    assert_eq!(after(tree, replace), HIT, "inode");
    let own = |kit: &Kit| chown(kit.path("tree/a"), Some(1), Some(1)).unwrap();
    assert_eq!(after(tree, own), HIT, "the owner, which the image doesn't get");
    assert_eq!(after(tree, |kit| _ = kit.file("other", "changed")), HIT, "files beside it");
    let there_and_back = |kit: &Kit| {
        fs::rename(kit.path("tree"), kit.path("moved")).unwrap();
        fs::rename(kit.path("moved"), kit.path("tree")).unwrap();
    };
    assert_eq!(after(tree, there_and_back), HIT, "ctime");
}

#[test]
fn copy_does_not_depend_on_ignored_files_nor_on_the_ignore_file() {
    let kit = Kit::new();
    kit.file("tree/a", "a").file("tree/log", "1").file(".dockerignore", "**/log\n");
    kit.dockerfile("FROM fixture/base\nCOPY tree /t\n").build().ok();
    kit.file("tree/log", "2").file(".dockerignore", "# why\n**/log\nnothing\n");
    assert_eq!(kit.build().ok().counts(), HIT);
    kit.file(".dockerignore", "");
    assert_eq!(kit.build().ok().counts(), MISS);
}

#[test]
fn copy_does_not_depend_on_where_the_context_is() {
    let kit = Kit::new();
    for context in ["one", "two"] {
        write_file(&kit.beside(context).join("Dockerfile"), b"FROM fixture/base\nCOPY f /f\n");
        write_file(&kit.beside(context).join("f"), b"same");
    }
    kit.build_of(&kit.beside("one")).ok();
    assert_eq!(kit.build_of(&kit.beside("two")).ok().counts(), HIT);
}

#[test]
fn copy_from_a_stage_depends_on_content_and_owner_but_not_on_time() {
    let build = |kit: &Kit, line: &str| -> Outcome {
        kit.dockerfile(&format!(
            "FROM fixture/base AS s\nRUN {line}\nFROM fixture/base\nCOPY --from=s /f /f\n"
        ));
        kit.build().ok()
    };
    let kit = Kit::new();
    build(&kit, "echo 1 > /f");
    assert_eq!(build(&kit, "echo 1 > /f; touch -d @1000 /f").ran().len(), 1, "time");
    assert_eq!(build(&kit, "echo 1 > /f; touch /elsewhere").ran().len(), 1, "another file");
    assert_eq!(build(&kit, "echo 2 > /f").ran().len(), 2, "content");
    assert_eq!(build(&kit, "echo 1 > /f; chown 5 /f").ran().len(), 2, "owner");
    assert_eq!(build(&kit, "echo 1 > /f; chmod 600 /f").ran().len(), 2, "mode");
}

/// Builds one RUN on a base of our making.
fn on_base(kit: &Kit, name: &str, edit: impl FnOnce(&mut Layout)) -> Run {
    let mut layout = Layout::of(&rootfs());
    edit(&mut layout);
    layout.write(&kit.beside(name));
    kit.dockerfile("FROM own\nRUN true\n");
    kit.build().arg(format!("--build-context=own=oci-layout://{}", kit.beside(name).display()))
}

#[test]
fn base_counts_by_its_files_and_the_fields_that_steps_read() {
    let kit = Kit::new();
    on_base(&kit, "plain", |_| ()).ok();
    let labelled = on_base(&kit, "labelled", |layout| {
        layout.config["Labels"] = json!({"a": "b"});
        layout.created = "2020-02-02T00:00:00Z".to_owned();
    });
    assert_eq!(labelled.ok().counts(), HIT, "labels and the time it was made");
    let variable = on_base(&kit, "variable", |layout| {
        layout.config["Env"].as_array_mut().unwrap().push(json!("a=1"));
    });
    assert_eq!(variable.ok().counts(), MISS, "a variable");
    let user = on_base(&kit, "user", |layout| layout.config["User"] = json!("app"));
    assert_eq!(user.ok().counts(), MISS, "the user");
}

#[test]
fn base_does_not_count_by_its_name() {
    let kit = Kit::new();
    on_base(&kit, "plain", |_| ()).args(["-t", "first"]).ok();
    kit.dockerfile("FROM renamed\nRUN true\n");
    let layout = kit.beside("plain");
    let run = kit.build().arg(format!("--build-context=renamed=oci-layout://{}", layout.display()));
    assert_eq!(run.ok().counts(), HIT);
}

#[test]
fn step_that_made_the_same_files_leaves_its_successors_cached() {
    let kit = Kit::new();
    let text = |comment: &str| {
        format!("FROM fixture/base\nRUN echo same > /f # {comment}\nRUN cat /f > /g\nRUN true\n")
    };
    kit.dockerfile(&text("one")).build().ok();
    let second = kit.dockerfile(&text("two")).build().ok();
    assert_eq!(second.counts(), Counts { ran: 1, cached: 2 });
    let (one, two) = (kit.dockerfile(&text("one")).image(), kit.dockerfile(&text("two")).image());
    assert_eq!(one.diff_ids(), two.diff_ids(), "the very same layers");
    assert_ne!(one.digest, two.digest, "the command, comment and all, is in the image's history");
}

/// Builds one Dockerfile after the other in one store: what each ran, and the time of a file in
/// each image.
fn times_of(path: &str, dockerfiles: &[&str]) -> Vec<(usize, u64)> {
    let kit = Kit::new();
    kit.file("a", "same").file("b", "same");
    for (name, seconds) in [("a", 1000), ("b", 2000)] {
        let file = fs::File::options().write(true).open(kit.path(name)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    }
    dockerfiles
        .iter()
        .map(|lines| {
            kit.dockerfile(&format!("FROM fixture/base\n{lines}\nRUN true\n"));
            let ran = kit.build().ok().counts().ran;
            (ran, kit.image().entry(path).mtime)
        })
        .collect()
}

#[test]
fn times_that_a_step_set_are_its_own() {
    let set = ["RUN echo a >/f; touch -d @1000 /f", "RUN echo a >/f; touch -d @2000 /f"];
    assert_eq!(times_of("f", &set), [(2, 1000), (2, 2000)], "another time: what follows runs too");
    let same = ["RUN echo a >/f; touch -d @1000 /f", "RUN touch /f; echo a >/f; touch -d @1000 /f"];
    assert_eq!(times_of("f", &same), [(2, 1000), (1, 1000)], "the same time");
    let directory = ["RUN mkdir /f; touch -d @1000 /f", "RUN mkdir /f; touch -d @2000 /f"];
    assert_eq!(times_of("f", &directory), [(2, 1000), (2, 2000)]);
    let link = ["RUN ln -s a /f; touch -hd @1000 /f", "RUN ln -s a /f; touch -hd @2000 /f"];
    assert_eq!(times_of("f", &link), [(2, 1000), (2, 2000)]);
    let copy = ["COPY a /f", "COPY b /f"];
    assert_eq!(times_of("f", &copy), [(2, 1000), (2, 2000)], "COPY keeps its sources' times");
    let add = ["ADD a /f", "COPY a /f"];
    assert_eq!(times_of("f", &add), [(2, 1000), (1, 1000)]);
}

#[test]
fn times_at_which_a_step_wrote_are_nobodys() {
    let run = ["RUN echo a >/f", "RUN echo  a >/f"];
    let copied = ["COPY a /new/f", "COPY ./a /new/f"];
    let workdir = ["WORKDIR /new/f\nUSER root", "USER root\nWORKDIR /new/f"];
    for (path, dockerfiles) in [("f", run), ("new", copied), ("new", workdir)] {
        let built = times_of(path, &dockerfiles);
        assert!(built[1].0 <= 1, "what follows is cached: {dockerfiles:?} {built:?}");
        assert_eq!(built[0].1, built[1].1, "the layer made first is kept: {dockerfiles:?}");
    }
}

#[test]
fn a_step_found_again_after_a_detour_is_still_there() {
    let kit = Kit::new();
    for content in ["1", "2", "1"] {
        kit.file("f", content).dockerfile("FROM fixture/base\nCOPY f /f\nRUN true\n").build().ok();
    }
    kit.file("f", "2");
    assert_eq!(kit.build().ok().counts(), Counts { ran: 0, cached: 2 });
}

#[test]
fn damaged_record_is_a_miss_not_an_error() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n").build().ok();
    let mut spoiled = 0;
    let mut directories = vec![kit.store().join("records")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else {
                fs::write(entry.path(), "{\"version\":").unwrap();
                spoiled += 1;
            }
        }
    }
    assert!(spoiled > 0, "there was a record");
    assert_eq!(kit.build().ok().counts(), MISS);
    assert_eq!(kit.build().ok().counts(), HIT, "and it is mended");
}

#[test]
fn failed_step_is_not_cached() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN touch /a\nRUN exit 1\n");
    kit.build().fails(4);
    let second = kit.build().fails(4);
    assert_eq!(second.counts(), Counts { ran: 0, cached: 1 }, "the step before it is");
}

#[test]
fn link_to_the_context_is_the_context() {
    let kit = Kit::new();
    kit.file("f", "f").dockerfile("FROM fixture/base\nCOPY f /f\n").build().ok();
    symlink(kit.path(""), kit.beside("alias")).unwrap();
    assert_eq!(kit.build_of(&kit.beside("alias")).ok().counts(), HIT);
}
