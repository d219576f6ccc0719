//! Environment variables of docker, buildx and BuildKit.

use crate::kit::Kit;
use serde_json::Value;
use std::fs;

fn kit(text: &str) -> Kit {
    let kit = Kit::new();
    kit.dockerfile(text);
    kit
}

const PLAIN: &str = "FROM fixture/base\nRUN true\n";

#[test]
fn the_metadata_file_has_warnings_where_they_are_asked_for() {
    let kit = kit("FROM fixture/base AS Base\nRUN true\n");
    let written = |variables: &[(&str, &str)]| {
        let path = kit.out("metadata.json");
        let mut run = kit.build_showing("plain").arg("--metadata-file").arg(&path);
        for (name, value) in variables {
            run = run.env(name, value);
        }
        let said = run.ok().text().to_owned();
        (serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap(), said)
    };
    let (plain, said) = written(&[]);
    assert!(plain["buildx.build.warnings"].is_null(), "{plain}");
    assert!(!said.contains("provenance"), "{said}");
    let (with, _) = written(&[("BUILDX_METADATA_WARNINGS", "1")]);
    let warning = &with["buildx.build.warnings"][0];
    let source = &warning["sourceInfo"];
    assert_eq!(
        (&source["filename"], &source["language"]),
        (&"Dockerfile".into(), &"Dockerfile".into())
    );
    assert_eq!(warning["range"][0]["start"]["line"], 1);
    assert!(warning["short"].is_string() && warning["url"].is_string(), "{warning}");
    for (mode, is_said) in [("max", true), ("min", true), ("disabled", false), ("false", false)] {
        let (_, said) = written(&[("BUILDX_METADATA_PROVENANCE", mode)]);
        let count = said.matches("the metadata file has no provenance").count();
        assert_eq!(count, usize::from(is_said), "{mode}: {said}");
    }
    let wrong = kit.build().env("BUILDX_METADATA_WARNINGS", "some").fails(2);
    wrong.says(&["BUILDX_METADATA_WARNINGS"]);
}

#[test]
fn the_built_in_frontend_reads_a_file_that_names_another() {
    let kit = kit("# syntax=example/other:1\nFROM fixture/base\nRUN true\n");
    kit.build().fails(3).says(&["frontend \"example/other:1\" is not supported"]);
    for frontend in ["dockerfile.v0", "docker/dockerfile:1"] {
        kit.build().arg(format!("--build-arg=BUILDKIT_SYNTAX={frontend}")).ok();
    }
    let other = kit.build().arg("--build-arg=BUILDKIT_SYNTAX=example/other:1").fails(2);
    other.says(&["frontend \"example/other:1\" is not supported"]);
}

#[test]
fn variables_that_set_flags_are_used_and_empty_ones_are_not() {
    let kit = kit(PLAIN);
    let unknown = kit.build().env("DOCKER_DEFAULT_PLATFORM", "linux/nothing").fails(2);
    unknown.says(&["nothing"]);
    for name in ["DOCKER_DEFAULT_PLATFORM", "BUILDKIT_PROGRESS", "BUILDKIT_COLORS", "NO_COLOR"] {
        kit.build_showing("plain").env(name, "").ok();
    }
    let plain = kit
        .builder(["build", "--build-context"])
        .arg(format!("fixture/base=oci-layout://{}", crate::kit::base::layout().display()));
    let said = plain.arg(kit.path("")).env("BUILDKIT_PROGRESS", "rawjson").ok();
    assert_eq!(said.steps().len(), 1, "progress is JSON");
    // Attestations are made for none, so there is nothing to switch off.
    let none = kit.build_showing("plain").env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1").ok();
    assert!(!none.text().contains("attestation"), "{}", none.text());
}

#[test]
fn what_cannot_be_read_of_colours_and_lines_is_said() {
    let kit = kit(PLAIN);
    let run = kit.build_showing("plain").env("BUILDKIT_COLORS", "run=blue:walk=red:error=pink");
    run.env("BUILDKIT_TTY_LOG_LINES", "many").ok().says(&[
        "BUILDKIT_COLORS: walk=red: expected run, cancel, error or warning",
        "BUILDKIT_COLORS: error=pink: expected a colour",
        "BUILDKIT_TTY_LOG_LINES: \"many\" is not a number of lines",
    ]);
}

/// The table of variables, and the help.
#[test]
fn variables_of_the_help_are_in_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/variables.md");
    let page = fs::read_to_string(path).unwrap();
    let help = kit(PLAIN).builder(["build", "--help"]).ok().stdout();
    let (_, variables) = help.split_once("Environment:").unwrap();
    let is_name =
        |word: &&str| word.len() > 4 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let names: Vec<&str> = variables
        .lines()
        .filter(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(is_name)
        .collect();
    assert!(names.len() > 15, "{names:?}");
    let lost: Vec<_> = names.iter().filter(|name| !page.contains(&format!("| `{name}`"))).collect();
    assert!(lost.is_empty(), "docs/variables.md lacks {lost:?}");
}
