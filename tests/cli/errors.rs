//! One error for each mistake, with its place, its exit status, and no image left behind.

use crate::kit::Kit;

/// A build that must fail, and everything its message must hold.
#[track_caller]
fn refused(status: i32, dockerfile: &str, flags: &[&str], says: &[&str]) {
    let kit = Kit::new();
    kit.file("file", "x").dockerfile(dockerfile);
    kit.build().args(flags).args(["-t", "wanted"]).fails(status).says(says);
    let images = kit.builder(["images"]).ok().stdout();
    assert!(!images.contains("wanted"), "no image of a failed build:\n{images}");
}

#[test]
fn unknown_instruction() {
    refused(3, "FROM fixture/base\nCOPPY a b\n", &[], &["COPPY", "Dockerfile:2:1", "COPY"]);
}

#[test]
fn unknown_flag_of_an_instruction() {
    refused(
        3,
        "FROM fixture/base\nRUN --nework=none x\n",
        &[],
        &["--nework", "Dockerfile:2:5", "--network"],
    );
}

#[test]
fn unknown_stage() {
    refused(3, "FROM fixture/base AS build\n", &["--target", "biuld"], &["biuld", "build"]);
}

#[test]
fn stage_that_comes_later_is_no_source() {
    refused(
        3,
        "FROM fixture/base AS one\nCOPY --from=two /a /a\nFROM one AS two\nRUN true\n",
        &[],
        &["two", "Dockerfile:2"],
    );
}

#[test]
fn stages_in_a_circle() {
    refused(3, "FROM fixture/base AS one\nCOPY --from=one /a /a\n", &[], &["one", "Dockerfile:2"]);
}

#[test]
fn missing_file() {
    refused(3, "FROM fixture/base\nCOPY fil /x\n", &[], &["fil", "Dockerfile:2:6", "file"]);
}

#[test]
fn missing_base_names_the_ways_to_get_one() {
    refused(
        6,
        "FROM no.such.invalid/image:1\n",
        &[],
        &[
            "no.such.invalid/image:1",
            "Dockerfile:1:6",
            "builder import",
            "builder load",
            "--build-context",
        ],
    );
}

#[test]
fn failing_run_shows_its_place_status_and_last_output() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo last words; exit 42\n");
    kit.build().fails(4).says(&["RUN echo last words", "42", "Dockerfile:2", "last words"]);
}

#[test]
fn command_that_is_not_there() {
    refused(4, "FROM fixture/base\nRUN [\"/no/such\"]\n", &[], &["/no/such", "Dockerfile:2"]);
}

#[test]
fn unknown_user() {
    refused(4, "FROM fixture/base\nUSER stranger\nRUN true\n", &[], &["stranger", "Dockerfile:"]);
}

#[test]
fn bad_values() {
    refused(3, "FROM fixture/base\nSTOPSIGNAL SIGNOPE\n", &[], &["SIGNOPE", "Dockerfile:2:12"]);
    refused(3, "FROM fixture/base\nEXPOSE 80/foo\n", &[], &["80/foo", "Dockerfile:2:8"]);
    refused(
        3,
        "FROM fixture/base\nHEALTHCHECK --interval=soon CMD x\n",
        &[],
        &["soon", "Dockerfile:2"],
    );
    refused(3, "FROM fixture/base\nENV =x\n", &[], &["Dockerfile:2"]);
    refused(3, "FROM fixture/base\nENV a=${b\n", &[], &["Dockerfile:2"]);
    refused(3, "FROM fixture/base\nCOPY --chmod=rwx file /x\n", &[], &["rwx", "Dockerfile:2"]);
    refused(3, "", &[], &["Dockerfile"]);
    refused(3, "RUN true\n", &[], &["FROM", "Dockerfile:1"]);
}

#[test]
fn bad_flags_of_the_command() {
    for flags in [
        &["--no-such-flag"][..],
        &["--memory=lots"],
        &["--output=type=nonsense"],
        &["--output=type=oci,compression=lzw,dest=/dev/null"],
        &["--build-context=noequals"],
        &["--progress=loud"],
        &["--provenance=mode=most"],
        &["--sbom"],
        &["-t", "Bad Name"],
    ] {
        let kit = Kit::new();
        kit.dockerfile("FROM fixture/base\n");
        let mut run = kit.builder(["build"]).arg(kit.path(""));
        run = run.args(flags);
        run.fails(2).says(&[flags[0].split('=').next().unwrap()]);
    }
}

#[test]
fn context_that_is_not_there_or_no_directory() {
    let kit = Kit::new();
    kit.build_of(&kit.beside("nowhere")).fails(2).says(&["nowhere"]);
    kit.file("plain", "");
    kit.build_of(&kit.path("plain")).fails(2).says(&["plain"]);
}

#[test]
fn dockerfile_that_is_not_there() {
    let kit = Kit::new();
    kit.file("Dockerfle", "FROM scratch\n");
    kit.build().fails(3).says(&["Dockerfile"]);
    kit.build().args(["-f", "other"]).fails(3).says(&["other"]);
}

#[test]
fn several_independent_errors_of_one_file_come_with_their_places() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nSTOPSIGNAL NOPE\nEXPOSE x\n");
    let outcome = kit.build().exits(3);
    outcome.says(&["Dockerfile:2:12", "Dockerfile:3:8"]);
    kit.dockerfile("FROM fixture/base\nCPOY a b\nRUN --nework=none x\nENV A\n");
    let outcome = kit.build().exits(3);
    outcome.says(&["Dockerfile:2:1", "`COPY`", "Dockerfile:3:5", "`--network`", "Dockerfile:4:5"]);
}

#[test]
fn privileged_step_that_fills_the_disk_leaves_no_image() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN dd if=/dev/zero of=/big bs=1M count=200\nRUN true\n");
    let outcome = kit.build().args(["-t", "wanted"]).on_disk_of("24m").fails(4);
    outcome.says(&["RUN dd", "No space left"]);
    assert!(!outcome.stdout().contains("wanted"), "{}", outcome.stdout());
}

#[test]
fn privileged_copy_that_fills_the_disk_is_the_environments_fault() {
    let kit = Kit::new();
    kit.file("big", vec![7; 30 << 20]).dockerfile("FROM fixture/base\nCOPY big /big\n");
    let outcome = kit.build().args(["-t", "wanted"]).on_disk_of("24m").fails(5);
    assert!(outcome.text().to_lowercase().contains("no space left"), "{}", outcome.text());
    assert!(!outcome.stdout().contains("wanted"), "{}", outcome.stdout());
}

#[test]
fn privileged_export_that_fills_the_disk_leaves_no_half_file() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    let export = format!("type=oci,dest={}/small.tar", kit.store().display());
    let outcome = kit.build().args(["-o", &export]).on_disk_of("5m").exits(5);
    assert!(outcome.text().to_lowercase().contains("no space left"), "{}", outcome.text());
    assert!(!outcome.stdout().contains("small.tar"), "{}", outcome.stdout());
}

#[test]
fn privileged_mistakes_name_their_cause_and_what_to_do() {
    let kit = Kit::new();
    kit.symlink("nowhere", "broken").symlink("/etc/passwd", "outside").file("deep/f", "f");
    kit.symlink("nowhere", "deep/broken");
    for (text, status, parts) in [
        ("FROM scratch\nCOPY broken /x\n", 3, ["is a link to \"nowhere\"", "put the file itself"]),
        ("FROM scratch\nCOPY outside /x\n", 3, ["is a link to \"/etc/passwd\"", "put the file"]),
        ("FROM scratch\nCOPY deep/broken /x\n", 3, ["is a link to \"nowhere\"", "deep/broken"]),
        ("FROM scratch\nCOPY ../x /x\n", 3, ["does not lead out", "--build-context NAME=DIR"]),
        ("FROM scratch AS a\nCOPY --from=a /x /x\n", 3, ["on stage: a", "Dockerfile:2"]),
        ("FROM fixture/base:$TAG\n", 3, ["nothing follows", "--build-arg"]),
        ("FROM app:\n", 3, ["nothing follows", "\"app:\""]),
        ("FROM scratch\nRUN echo\n", 4, ["the image has no shell", "write RUN [\"/PROGRAM\""]),
    ] {
        kit.dockerfile(text);
        let outcome = kit.build().fails(status);
        for part in parts {
            assert!(outcome.text().contains(part), "{text}: {part}: {}", outcome.text());
        }
    }
}

#[test]
fn what_run_cannot_do_is_refused_with_what_comes_near() {
    let kit = Kit::new();
    for (flags, what) in [
        (["-d", "x"].as_slice(), "builder run IMAGE COMMAND &"),
        (&["--detach", "x", "true"], "no daemon"),
        (&["--privileged", "x"], "--cap-add"),
        (&["--gpus", "all", "x"], "no devices"),
        (&["--device", "/dev/kvm", "x"], "no devices"),
        (&["--restart=always", "x"], "until builder run"),
    ] {
        let outcome = kit.builder([&["run"], flags].concat()).fails(125);
        assert!(outcome.text().contains(what), "{flags:?}: {}", outcome.text());
    }
}

#[test]
fn an_empty_variable_for_the_store_is_an_unset_one() {
    let kit = Kit::new();
    let run = kit.builder(["images"]).env("BUILDER_ROOT", "").env("XDG_DATA_HOME", kit.out("data"));
    // Root's store is the machine's: only whether the value is taken is looked at.
    let run = run.args(["--root", kit.out("named").to_str().unwrap()]);
    run.ok();
    assert!(kit.out("named").exists());
    let outcome = kit.builder(["version"]).env("BUILDER_ROOT", "").ok();
    assert!(outcome.stdout().starts_with("builder "), "{}", outcome.stdout());
}

/// The commands of ours that a text names: from `builder` to the end of the line, or of the quotation.
fn commands_in(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (at, _) in text.match_indices("builder ") {
        let before = &text[..at];
        if !(before.ends_with(": ") || before.ends_with('`') || before.ends_with("| ")) {
            continue;
        }
        let end = |c: char| matches!(c, '`' | '|' | '&' | ';' | '<' | '>' | '\n');
        let command = text[at..].split(end).next().unwrap_or_default();
        let command = command.split(" …").next().unwrap_or_default().trim_end_matches([',', '.']);
        commands.push(command.trim().to_owned());
    }
    commands
}

#[test]
fn commands_that_messages_name_have_the_flags_that_they_name() {
    let kit = Kit::new();
    let mut tried = std::collections::BTreeSet::new();
    for screens in ["errors", "reports"] {
        let path = format!("{}/testdata/screens/{screens}.snap", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| {
            ["hint: ", "  tip: ", "  try: "].iter().any(|start| line.starts_with(start))
        });
        for command in lines.flat_map(commands_in) {
            if !tried.insert(command.clone()) {
                continue;
            }
            let mut words: Vec<&str> = command.split_whitespace().skip(1).collect();
            // What follows the image is the command's.
            let image = words.iter().position(|word| *word == "IMAGE" && words[0] == "run");
            words.insert(image.unwrap_or(words.len()), "--help");
            let outcome = kit.builder(&words).any();
            assert_eq!(outcome.status, Some(0), "{command}:\n{}", outcome.text());
        }
    }
    assert!(tried.len() > 10, "{tried:?}");
}

#[test]
fn a_registry_of_this_machine_that_is_down_is_not_waited_for() {
    let kit = Kit::new();
    kit.dockerfile("FROM 127.0.0.1:1/image:1\n");
    let outcome = kit.build().fails(6);
    outcome.says(&["Connection refused"]);
    assert!(!outcome.text().contains("trying again"), "{}", outcome.text());
}
