//! The renderers of a build's progress.

use crate::kit::Kit;

#[test]
fn plain_numbers_the_steps_as_buildkit_does() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base AS one\nRUN echo spoken\nRUN true\n");
    let first = kit.build_showing("plain").ok();
    first.says(&["[2/3] RUN echo spoken", "[3/3] RUN true", "DONE", "spoken"]);
    kit.build_showing("plain").ok().says(&["CACHED"]);
}

#[test]
fn quiet_prints_the_digest_alone() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo spoken\n");
    let outcome = kit.build_showing("quiet").args(["-t", "x"]).ok();
    assert_eq!(outcome.text(), "");
    assert!(outcome.stdout().trim().starts_with("sha256:"), "{}", outcome.stdout());
}

#[test]
fn auto_without_a_terminal_is_plain() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    let outcome = kit.build_showing("auto").ok();
    outcome.says(&["RUN true"]);
    assert!(!outcome.text().contains('\u{1b}'));
}

#[test]
fn rawjson_shows_inputs_and_times() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo out; echo err >&2\nRUN true\n");
    let outcome = kit.build().ok();
    let names = outcome.steps().iter().map(|step| step.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["[2/3] RUN echo out; echo err >&2", "[3/3] RUN true"]);
    assert_eq!(outcome.log(), "out\nerr\n");
}

#[test]
fn closed_pipe_is_no_panic() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN seq 100000\n");
    let mut command = kit.build_showing("plain").into_command();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stderr(writer);
    let status = command.status().unwrap();
    assert_ne!(status.code(), Some(70), "a bug in us");
    assert_ne!(status.code(), Some(101), "a panic");
}
