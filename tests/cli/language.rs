//! The language where it reaches beyond the file: variables, arguments that speak to the builder,
//! secrets, and what errors suggest.

use crate::kit::Kit;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn variables_come_from_where_the_reference_says() {
    let kit = Kit::new();
    kit.dockerfile(
        "ARG GLOBAL=global
FROM fixture/base AS one
RUN echo \"1 [$GLOBAL] [$TARGETPLATFORM] [$TARGETSTAGE]\"
ARG GLOBAL
ARG TARGETPLATFORM TARGETSTAGE
RUN echo \"2 [$GLOBAL] [$TARGETPLATFORM] [$TARGETSTAGE]\"
ARG GLOBAL=stage
RUN echo \"3 [$GLOBAL]\"
ARG LAST=arg
ENV LAST=env
RUN echo \"4 [$LAST]\"
FROM one
RUN echo \"5 [$GLOBAL] [$LAST]\"
",
    );
    let log = kit.build().arg("--platform=linux/amd64").ok().log().to_owned();
    for line in [
        "1 [] [] []",
        "2 [global] [linux/amd64] [default]",
        "3 [stage]",
        "4 [env]",
        "5 [stage] [env]",
    ] {
        assert!(log.lines().any(|l| l == line), "`{line}` is not in:\n{log}");
    }
    let log = kit.build().args(["--target=one", "--build-arg=GLOBAL=given"]).ok().log().to_owned();
    for line in ["3 [given]", "4 [env]"] {
        assert!(log.lines().any(|l| l == line), "`{line}` is not in:\n{log}");
    }
}

#[test]
fn proxies_are_seen_and_leave_no_trace() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo \"$http_proxy $HTTP_PROXY\"\n");
    let with = |value: &str| kit.build().arg(format!("--build-arg=http_proxy=http://{value}"));
    assert!(with("one").ok().log().starts_with("http://one http://one\n"));
    assert_eq!(with("two").ok().counts().cached, 1, "a proxy is not a part of the key");
    let image = with("three").image();
    assert!(!image.config().to_string().contains("proxy"), "{}", image.config());
}

#[test]
fn arguments_speak_to_the_builder() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/c,id=c hostname; echo x >> /c/f; wc -l /c/f\n");
    let with = |args: &[&str]| {
        let args = args.iter().map(|arg| format!("--build-arg={arg}"));
        kit.build().args(["--no-cache", "--keep-cache-mounts"]).args(args)
    };
    let log = |args: &[&str]| with(args).ok().log().to_owned();
    assert!(log(&["BUILDKIT_SANDBOX_HOSTNAME=here"]).starts_with("here\n1 "));
    assert!(log(&["BUILDKIT_CACHE_MOUNT_NS=mine"]).contains("\n1 "), "a cache of its own");
    assert!(log(&[]).contains("\n2 "), "the common cache");
    with(&["BUILDKIT_SYNTAX=docker/dockerfile:1.7"]).ok();
    with(&["BUILDKIT_SYNTAX=org/other:1"]).fails(2).says(&["frontend \"org/other:1\""]);
    with(&["BUILDKIT_MULTI_PLATFORM=maybe"]).fails(2).says(&["expected true or false"]);
}

/// Looks for a text in every file below a directory; returns where it is.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let output = Command::new("grep").args(["-rlaF", "--", text]).arg(directory).output().unwrap();
    // 1 means that nothing was found, 2 that something could not be read.
    assert_ne!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn secrets_are_nowhere_but_in_their_step() {
    const FILE: &str = "value-of-the-file-4711";
    const VARIABLE: &str = "value-of-the-variable-0815";
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base
RUN --mount=type=secret,id=file test \"$(cat /run/secrets/file)\" = \"$WANT_FILE\" || test -s /run/secrets/file
RUN --mount=type=secret,id=file,target=/etc/token,mode=0444 wc -c < /etc/token > /length
RUN --mount=type=secret,id=variable,env=TOKEN test -n \"$TOKEN\" && echo ${#TOKEN} > /length2
RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN false
",
    );
    crate::kit::write_file(&kit.beside("given"), FILE.as_bytes());
    let build = || {
        kit.build()
            .arg(format!("--secret=id=file,src={}", kit.beside("given").display()))
            .arg("--secret=id=variable,env=GIVEN")
            .env("GIVEN", VARIABLE)
    };
    // The last step fails: neither its error nor its records may tell.
    let failed = build().fails(4);
    let whole = kit.path("Dockerfile");
    let text = fs::read_to_string(&whole).unwrap();
    fs::write(&whole, text.rsplit_once("RUN ").unwrap().0).unwrap();
    let built = build()
        .arg(format!(
            "--output=type=oci,dest={},compression=uncompressed",
            kit.out("image.tar").display()
        ))
        .ok();
    kit.builder(["explain"]).ok();
    for outcome in [&failed, &built] {
        for shown in [outcome.text().to_owned(), outcome.log().to_owned(), outcome.stdout()] {
            assert!(!shown.contains(FILE) && !shown.contains(VARIABLE), "{shown}");
        }
    }
    let mut found = Vec::new();
    for secret in [FILE, VARIABLE] {
        for directory in [kit.store().to_owned(), kit.out(""), kit.beside("tmp")] {
            found.extend(files_with(&directory, secret));
        }
    }
    assert_eq!(found, Vec::<String>::new());
    let image = build().image();
    assert!(!image.config().to_string().contains("value-of-the"), "{}", image.config());
    assert!(image.find("run/secrets/file").is_none(), "the mount point is gone");
}

#[test]
fn errors_suggest_what_was_meant() {
    let kit = Kit::new();
    kit.file("package.json", "{}");
    for (file, words) in [
        (
            "FROM fixture/base AS builder\nFROM fixture/base\nCOPY --from=bulider /a /b\n",
            "did you mean the stage `builder`?",
        ),
        ("FROM fixture/base AS builder\nFROM bulider\n", "did you mean the stage `builder`?"),
        ("FROM fixture/base\nCOPY packge.json /\n", "did you mean `package.json`?"),
    ] {
        kit.dockerfile(file);
        // Nobody answers there, so nothing is looked for outside.
        let outcome = kit.build().env("HTTPS_PROXY", "http://127.0.0.1:1").run();
        assert_ne!(outcome.status, Some(0), "{file}");
        outcome.says(&[words]);
    }
}

#[test]
fn the_line_that_hid_a_source_is_quoted() {
    let kit = Kit::new();
    kit.file("notes.txt", "x").file(".dockerignore", "# nothing\n*.txt\n");
    kit.dockerfile("FROM fixture/base\nCOPY notes.txt /\n");
    kit.build().fails(3).says(&["line 2 of .dockerignore, \"*.txt\", excludes it"]);
    kit.file("Dockerfile.dockerignore", "notes*\n");
    kit.build().fails(3).says(&["line 1 of Dockerfile.dockerignore, \"notes*\", excludes it"]);
    // A named context has an ignore file of its own.
    let named = kit.beside("named");
    fs::create_dir(&named).unwrap();
    fs::write(named.join("a.log"), "x").unwrap();
    fs::write(named.join(".dockerignore"), "*.log\n").unwrap();
    kit.dockerfile("FROM fixture/base\nCOPY --from=named a.log /\n");
    let build = kit.build().arg(format!("--build-context=named={}", named.display()));
    build.fails(3).says(&["line 1 of .dockerignore, \"*.log\", excludes it"]);
}

#[test]
fn independent_mistakes_are_shown_in_one_run() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nCOPI a b\nRUN --mont=x true\nEXPOSE\n");
    let outcome = kit.build().exits(3);
    let errors = outcome.text().lines().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 3, "{}", outcome.text());
}
