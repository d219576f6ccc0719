//! The diagnostic log: `--debug`, `BUILDER_LOG`, `BUILDER_LOG_FILE`.

use crate::kit::Kit;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn kit(instructions: &str) -> Kit {
    let kit = Kit::new();
    kit.dockerfile(&format!("FROM fixture/base\n{instructions}"));
    kit
}

/// The lines of a log below a step, without time.
fn lines_of<'a>(log: &'a str, step: &str) -> Vec<&'a str> {
    log.lines().filter_map(|line| Some(line.split_once(&format!("{step}: "))?.1)).collect()
}

#[test]
fn a_log_has_what_was_decided_of_each_step_under_its_name() {
    let kit = kit("COPY a /a\nRUN echo made > /made\n");
    kit.file("a", "a");
    let log = |name: &str| {
        let file = kit.out(name);
        let run = kit.build().env("BUILDER_LOG", "debug").env("BUILDER_LOG_FILE", &file);
        let outcome = run.ok();
        // Standard error is what it is without a log.
        assert!(!outcome.text().contains("DEBUG"), "{}", outcome.text());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others cannot read it: {mode:o}");
        fs::read_to_string(&file).unwrap()
    };
    let first = log("first.log");
    for (step, parts) in [
        (
            "[2/3] COPY a /a",
            ["inputs known key=", "miss key=", "runs", "hashed layer=", "recorded"],
        ),
        (
            "[3/3] RUN echo made > /made",
            ["miss key=", "mounts layers=", "starts a command", "a command ended status=0", "ran"],
        ),
    ] {
        let lines = lines_of(&first, step);
        for part in parts {
            assert!(lines.iter().any(|line| line.starts_with(part)), "{step}: {part}\n{first}");
        }
    }
    // Each line: seconds, level, room.
    for line in first.lines() {
        let mut words = line.split_whitespace();
        assert!(words.next().unwrap().parse::<f64>().is_ok(), "{line}");
        assert!(["DEBUG", "INFO"].contains(&words.next().unwrap()), "{line}");
        assert!(words.next().unwrap().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    }
    let second = log("second.log");
    for step in ["[2/3] COPY a /a", "[3/3] RUN echo made > /made"] {
        let lines = lines_of(&second, step);
        assert!(lines.iter().any(|line| line.starts_with("hit key=")), "{second}");
        assert!(!lines.contains(&"runs"), "{second}");
    }
}

#[test]
fn the_flag_is_taken_before_and_behind_the_command_and_logs_to_stderr() {
    let kit = kit("");
    let context = kit.path("");
    let context = context.to_str().unwrap();
    kit.build().ok();
    for (words, is_logged) in [
        (vec!["-D", "images"], true),
        (vec!["images", "-D"], true),
        (vec!["--debug", "check", context], true),
        (vec!["check", "--debug", context], true),
        (vec!["--debug=true", "images"], true),
        (vec!["images", "--debug=false"], false),
        (vec!["images"], false),
    ] {
        let outcome = kit.builder(&words).ok();
        assert_eq!(outcome.text().contains(" INFO  cli       began"), is_logged, "{words:?}");
        assert!(!outcome.stdout().contains("began"), "stdout is data");
    }
    // The variable says more than the flag, and can switch it off.
    let outcome = kit.builder(["-D", "images"]).env("BUILDER_LOG", "off").ok();
    assert!(outcome.text().is_empty(), "{}", outcome.text());
}

#[test]
fn a_room_can_be_asked_alone() {
    let kit = kit("RUN echo made > /made\n");
    let run = kit.build().env("BUILDER_LOG", "sandbox=debug");
    let outcome = run.ok();
    let lines = outcome.text().lines().filter(|line| line.contains(" DEBUG "));
    let (sandbox, others): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains(" sandbox "));
    // It is still shown what step it was for.
    assert!(sandbox.iter().any(|line| line.contains("[2/2] RUN echo made > /made: ")));
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn no_secret_and_no_credential_of_an_address_reaches_the_log() {
    const SECRETS: [&str; 4] = [
        "hunter2-of-a-file",
        "hunter2-of-a-variable",
        "hunter2-of-an-address",
        "hunter2-of-a-token",
    ];
    let kit = kit("ARG REPO\nARG PLAIN\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN \
         cat /run/secrets/file && echo $TOKEN $REPO\n");
    fs::write(kit.beside("file"), format!("{}\n", SECRETS[0])).unwrap();
    let log = kit.out("log");
    let repo = format!("http://user:{}@127.0.0.1:9/f.tar?token={}", SECRETS[2], SECRETS[3]);
    let run = || {
        kit.build()
            .arg(format!("--secret=id=file,src={}", kit.beside("file").display()))
            .arg("--secret=id=variable,env=VARIABLE")
            .env("VARIABLE", SECRETS[1])
            .arg(format!("--build-arg=REPO={repo}"))
            .arg(format!("--build-arg=PLAIN=https://{}@example.invalid/", SECRETS[2]))
            .env("BUILDER_LOG", "trace")
            .env("BUILDER_LOG_FILE", &log)
    };
    run().ok();
    // Nothing listens there, so the address is in an error as well.
    kit.dockerfile("FROM fixture/base\nARG REPO\nADD ${REPO} /repo/\n");
    assert_ne!(run().run().status, Some(0));
    let log = fs::read_to_string(&log).unwrap();
    let refused = "/repo/: failed cause=\"cannot download http://127.0.0.1:9/f.tar?***";
    for part in ["a command ended status=0", refused] {
        assert!(log.contains(part), "{part}\n{log}");
    }
    for secret in SECRETS {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[test]
fn a_filter_that_is_wrong_is_a_usage_error_that_names_the_place() {
    let kit = Kit::new();
    for (filter, says) in [
        ("verbose", ["BUILDER_LOG=verbose: character 1: \"verbose\" is neither a level", "hint:"]),
        (
            "info,solve=debgu",
            [
                "character 12: \"debgu\" is not a level",
                "hint: BUILDER_LOG=info,solve=debug builder",
            ],
        ),
        (
            "registyr=trace",
            ["character 1: \"registyr\" is not a room", "hint: BUILDER_LOG=registry=trace builder"],
        ),
        ("debug,,solve", ["character 7: expected a level", "or a room"]),
    ] {
        kit.builder(["images"]).env("BUILDER_LOG", filter).fails(2).says(&says);
    }
    // An empty variable is none.
    kit.builder(["images"]).env("BUILDER_LOG", "").ok();
}

#[test]
fn a_log_file_that_cannot_be_opened_is_an_error_before_anything_is_done() {
    let kit = kit("RUN echo made > /made\n");
    let file = "/nowhere/at/all/log";
    let run = kit.build().env("BUILDER_LOG", "debug").env("BUILDER_LOG_FILE", file);
    let outcome = run.fails(2);
    outcome.says(&["BUILDER_LOG_FILE: cannot open /nowhere/at/all/log"]);
    assert!(!kit.store().join("layers").exists());
    // Without a log, the file does not matter.
    kit.builder(["images"]).env("BUILDER_LOG_FILE", file).ok();
}
