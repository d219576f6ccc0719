//! `builder check`, `build --check`, and the warnings of a build.

use crate::kit::{Kit, Run};
use serde_json::{Value, json};
use std::ffi::OsStr;

/// A kit whose Dockerfile has a warning of BuildKit's on line 1 and advice of ours on line 2.
fn kit() -> Kit {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base as one\nRUN cd /tmp\n");
    kit
}

/// `builder check` of the context.
fn check<S: AsRef<OsStr>>(kit: &Kit, args: impl IntoIterator<Item = S>) -> Run {
    kit.check().args(args)
}

/// Rules and lines in a JSON document.
fn found(document: &Value) -> Vec<(String, u64)> {
    let warnings = document["warnings"].as_array().unwrap().iter();
    warnings
        .map(|warning| {
            let line = &warning["location"]["ranges"][0]["start"]["line"];
            (warning["ruleName"].as_str().unwrap().to_owned(), line.as_u64().unwrap())
        })
        .collect()
}

#[test]
fn findings_are_shown_with_their_place_and_are_no_error() {
    let kit = kit();
    let outcome = check(&kit, ["--target=one"]).ok();
    let text = outcome.stdout();
    for part in [
        "warning[FromAsCasing]: 'as' and 'FROM' keywords' casing do not match",
        "--> Dockerfile:1:19",
        "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
        "advice[LostShellState]: What cd does is gone when this RUN ends",
        "Check complete: 1 warning and 1 piece of advice.",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "a pipe gets no colours:\n{text:?}");
    assert_eq!(outcome.text(), "");
    assert!(outcome.steps().is_empty(), "nothing is built");
}

#[test]
fn a_clean_file_has_no_findings() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    assert_eq!(check(&kit, [""; 0]).ok().stdout(), "Check complete, no warnings found.\n");
}

#[test]
fn json_has_the_form_of_buildkit() {
    let kit = kit();
    let document = check(&kit, ["--format=json"]).ok().json();
    assert_eq!(
        found(&document),
        [("FromAsCasing".to_owned(), 1), ("LostShellState".to_owned(), 2)]
    );
    assert_eq!(
        document["warnings"][0],
        json!({
            "ruleName": "FromAsCasing",
            "description": "The 'as' keyword should match the case of the 'from' keyword",
            "url": "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
            "detail": "'as' and 'FROM' keywords' casing do not match",
            "location": {"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]},
            "severity": "warning",
            "help": "write FROM and AS both in upper or both in lower case",
        })
    );
    assert_eq!(document["sources"][0]["filename"], "Dockerfile");
    assert_eq!(document.get("buildError"), None);
}

#[test]
fn build_with_check_or_call_does_the_same() {
    let kit = kit();
    let want = check(&kit, ["--format=json"]).ok().json();
    // Docker's exit status: 1 where there are warnings.
    let got = kit.build_showing("plain").arg("--call=check,format=json").exits(1);
    assert_eq!(got.json(), want);
    let text = kit.build_showing("plain").arg("--check").exits(1).stdout();
    assert!(text.contains("warning[FromAsCasing]"), "{text}");
    kit.build_showing("plain").arg("--call=nothing").exits(2);
}

#[test]
fn a_file_that_cannot_be_built_is_an_error() {
    for (file, line, words) in [
        ("FROM fixture/base\nCOPI a b\n", 2, "unknown instruction"),
        ("FROM fixture/base\nSTOPSIGNAL nonsense\n", 2, "invalid signal"),
        ("FROM fixture/base\nCOPY --from=$X a b\n", 2, "--from"),
    ] {
        let kit = Kit::new();
        kit.dockerfile(file);
        check(&kit, [""; 0]).fails(3).says(&[words]);
        let outcome = check(&kit, ["--format=json"]).exits(3);
        let error = &outcome.json()["buildError"];
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(error["location"]["ranges"][0]["start"]["line"], line, "{error}");
        assert_eq!(outcome.text(), "", "standard output has told it");
    }
}

#[test]
fn images_that_are_not_here_are_no_error() {
    let kit = Kit::new();
    kit.dockerfile("FROM not/here:1 as a\nENV PATH=$THEIR/bin:$PATH\nVOLUME $THEIRS\nUSER $ROOT\n");
    let outcome = kit.builder(["check", "context"]).ok();
    assert!(outcome.stdout().contains("FromAsCasing"), "{}", outcome.stdout());
    assert!(!outcome.stdout().contains("UndefinedVar"), "{}", outcome.stdout());
    outcome.says(&["image not/here:1 is not in the store"]);
    let document = kit.builder(["check", "context", "--format=json"]).ok().json();
    assert_eq!(document["unknownImages"], json!(["not/here:1"]));
}

#[test]
fn all_stages_are_checked_where_no_target_is_named() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base AS one\nENV a b\nFROM fixture/base AS two\nENV c d\n");
    let rules = |args: &[&str]| found(&check(&kit, ["--format=json"]).args(args).ok().json());
    let legacy = |line| ("LegacyKeyValueFormat".to_owned(), line);
    assert_eq!(rules(&[]), [legacy(2), legacy(4)]);
    assert_eq!(rules(&["--target=two"]), [legacy(4)]);
}

#[test]
fn secret_files_of_the_context_are_found_unless_ignored() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nCOPY . /app\n").file("conf/.env", "A=1\n");
    let outcome = check(&kit, [""; 0]).ok();
    assert!(outcome.stdout().contains("conf/.env looks secret"), "{}", outcome.stdout());
    kit.file(".dockerignore", "**/.env\n");
    let outcome = check(&kit, [""; 0]).ok();
    assert!(!outcome.stdout().contains("SecretFileInContext"), "{}", outcome.stdout());
}

#[test]
fn a_build_warns_at_its_end_and_gives_no_advice() {
    let kit = kit();
    let outcome = kit.build().ok();
    let [warning] = outcome.warnings() else { panic!("{:?}", outcome.warnings()) };
    assert_eq!(warning["level"], 1);
    assert_eq!(warning["range"], json!([{"start": {"line": 1}, "end": {"line": 1}}]));
    assert_eq!(warning["url"], "https://docs.docker.com/go/dockerfile/rule/from-as-casing/");
    assert_eq!(warning["sourceInfo"]["filename"], "Dockerfile");
    assert!(warning["vertex"].is_string());
    let short = crate::kit::base64(warning["short"].as_str().unwrap());
    assert_eq!(
        String::from_utf8(short).unwrap(),
        "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"
    );
    let plain = kit.build_showing("plain").ok();
    plain.says(&["WARN: FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"]);
    assert!(!plain.text().contains("LostShellState"), "{}", plain.text());
    assert!(!kit.build_showing("quiet").ok().text().contains("FromAsCasing"));
}

#[test]
fn a_build_that_fails_warns_too() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base as one\nRUN false\n");
    assert_eq!(kit.build().fails(4).warnings().len(), 1);
    kit.dockerfile("FROM fixture/base\nCOPY ${NOPE:?needed} /\n");
    assert_eq!(kit.build().fails(3).warnings().len(), 1);
}

#[test]
fn a_violation_fails_the_build_where_it_is_asked_for() {
    let kit = kit();
    let with = |text: &str| format!("--build-arg=BUILDKIT_DOCKERFILE_CHECK={text}");
    let words = "lint violation found for rules: FromAsCasing";
    let outcome = kit.build().arg(with("error=true")).fails(3);
    outcome.says(&[words]);
    assert!(outcome.steps().is_empty(), "nothing ran");
    check(&kit, [with("error=true")]).fails(3).says(&[words]);
    kit.build().arg(with("skip=FromAsCasing;error=true")).ok();
    check(&kit, [with("skip=FromAsCasing;error=true")]).ok();
    kit.build().arg(with("skip=all;nonsense")).exits(2);
}

#[test]
fn targets_are_listed() {
    let kit = Kit::new();
    kit.dockerfile(
        "# one is the first\nFROM fixture/base AS one\nFROM --platform=$BUILDPLATFORM one AS two\nFROM two\n",
    );
    let text = kit.build_showing("plain").arg("--call=targets").ok().stdout();
    assert_eq!(text, "TARGET    DESCRIPTION\none       is the first\ntwo\n(default)\n");
    let document = kit.build_showing("plain").arg("--call=targets,format=json").ok().json();
    assert_eq!(document["targets"][1]["name"], "two");
    assert_eq!(document["targets"][1]["platform"], "$BUILDPLATFORM");
    assert_eq!(document["targets"][2]["default"], true);
}

#[test]
fn what_a_build_takes_is_outlined() {
    let kit = Kit::new();
    kit.dockerfile(
        "# VERSION of the base\nARG VERSION=1.2\nARG UNUSED=x\nARG FULL=v${VERSION}\n\
         FROM fixture/base AS far\nARG FAR=1\n\
         FROM fixture/base AS tools\nARG FULL\n# LEVEL is how much\nARG LEVEL=3\nARG TARGETARCH\n\
         RUN --mount=type=secret,id=token,required true\nRUN --mount=type=ssh true\n\
         # app makes all\nFROM fixture/base AS app\nARG LEVEL=4 NAME\n\
         COPY --from=tools /x /x\nRUN --mount=type=secret,target=/etc/key true\n",
    );
    let outline = |words: &[&str]| kit.build_showing("plain").args(words).ok();
    let expected = "TARGET:      app\nDESCRIPTION: makes all\n\n\
                    BUILD ARG   VALUE   DESCRIPTION\nVERSION     1.2     of the base\nFULL        v1.2\n\
                    LEVEL       4\nNAME        me\n\n\
                    SECRET   REQUIRED\ntoken    true\nkey\n\nSSH       REQUIRED\ndefault\n";
    let text = outline(&["--call=outline", "--build-arg=NAME=me"]).stdout();
    assert_eq!(text, expected);
    let document = outline(&["--call=outline,format=json", "--target=tools"]).json();
    assert_eq!(document["name"], "tools");
    assert_eq!(document["args"][2]["name"], "LEVEL");
    assert_eq!(document["args"][2]["description"], "is how much");
    assert_eq!(document["args"][2]["location"]["ranges"][0]["start"]["line"], 10);
    assert_eq!(document["secrets"].as_array().unwrap().len(), 1);
    assert_eq!(document["secrets"][0]["required"], true);
    assert_eq!(document["ssh"][0]["name"], "default");
    kit.dockerfile("FROM fixture/base\n");
    let text = outline(&["--call=outline"]).stdout();
    assert_eq!(text, "This build takes no arguments, secrets or agents.\n");
    kit.dockerfile("FROM fixture/base\n")
        .build()
        .args(["--call=outline", "--target=gone"])
        .fails(3);
}

#[test]
fn a_build_shows_a_hundred_warnings_and_a_check_shows_all() {
    let kit = Kit::new();
    kit.dockerfile(&format!("FROM fixture/base\n{}", "ENV a b\n".repeat(130)));
    let outcome = kit.build().ok();
    assert_eq!(outcome.warnings().len(), 100);
    assert!(outcome.log().contains("30 more warnings: builder check shows all"));
    assert_eq!(found(&check(&kit, ["--format=json"]).ok().json()).len(), 130);
    let text = check(&kit, [""; 0]).ok().stdout();
    assert!(text.contains("--> Dockerfile:131:5"), "{text}");
}
