//! `builder run`: an image's command in the sandbox, its exit status passed through.

use crate::kit::Kit;

/// A kit with an image `it`.
fn with_image(dockerfile: &str) -> Kit {
    let kit = Kit::new();
    kit.dockerfile(dockerfile);
    kit.build().args(["-t", "it"]).ok();
    kit
}

#[test]
fn entrypoint_and_command_come_from_the_image_or_the_line() {
    let kit = with_image(
        "FROM fixture/base\nENV who=env\nENTRYPOINT [\"/bin/echo\", \"said\"]\nCMD [\"default\"]\n",
    );
    assert_eq!(kit.builder(["run", "it"]).ok().stdout(), "said default\n");
    assert_eq!(kit.builder(["run", "it", "a", "b"]).ok().stdout(), "said a b\n");
}

#[test]
fn environment_user_and_workdir_come_from_the_image() {
    let kit = with_image("FROM fixture/base\nENV who=env\nUSER app\nWORKDIR /w\n");
    let outcome = kit.builder(["run", "it", "sh", "-c", "echo $who $(id -un) $(pwd)"]).ok();
    assert_eq!(outcome.stdout(), "env app /w\n");
}

#[test]
fn exit_status_is_passed_through() {
    let kit = with_image("FROM fixture/base\n");
    kit.builder(["run", "it", "sh", "-c", "exit 42"]).exits(42);
    kit.builder(["run", "it", "sh", "-c", "kill -9 $$"]).exits(137);
    kit.builder(["run", "it", "/no/such"]).exits(127);
}

#[test]
fn input_reaches_the_command_and_its_streams_stay_apart() {
    let kit = with_image("FROM fixture/base\n");
    let run =
        kit.builder(["run", "-i", "it", "sh", "-c", "cat; echo err >&2"]).input("typed\n").ok();
    assert_eq!((run.stdout().as_str(), run.text()), ("typed\n", "err\n"));
}

#[test]
fn what_it_writes_is_gone_afterwards() {
    let kit = with_image("FROM fixture/base\n");
    kit.builder(["run", "it", "touch", "/new"]).ok();
    kit.builder(["run", "it", "test", "-e", "/new"]).exits(1);
}

#[test]
fn unknown_image_is_an_error() {
    let kit = Kit::new();
    let outcome = kit.builder(["run", "nobody"]).run();
    assert!(matches!(outcome.status, Some(2..=6)), "{:?}", outcome.status);
    outcome.says(&["nobody"]);
}
