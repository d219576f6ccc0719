//! Command lines that people have for other programs, as they write them.

use crate::kit::{Kit, Outcome, Run, base};

/// A command line, split at spaces; `.` is the context.
fn line(kit: &Kit, text: &str) -> Run {
    let context = kit.path("").display().to_string();
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        words.push(if word == "." { context.clone() } else { word.to_owned() });
        if word == "build" && words.len() == 1 {
            words.push(format!(
                "--build-context=fixture/base=oci-layout://{}",
                base::layout().display()
            ));
        }
    }
    kit.builder(words)
}

fn kit() -> Kit {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo made > /made\nCMD [\"cat\", \"/made\"]\n");
    kit
}

/// How often a sentence is in what was said.
fn count(outcome: &Outcome, part: &str) -> usize {
    outcome.text().matches(part).count()
}

#[test]
fn flags_of_others_are_taken_and_told_of_once() {
    let kit = kit();
    for (text, notices) in [
        ("build --rm --force-rm --compress -t x .", 3),
        ("build --rm=false --force-rm=true -t x .", 1),
        ("build --pull=false --no-cache=false --quiet=false .", 0),
        ("build --network bridge --progress none .", 0),
        ("build --network=sandbox .", 0),
        ("build -t z --layers --squash --pull=missing --tls-verify=false .", 1),
        (
            "build --isolation=default --disable-content-trust --builder default --cgroup-parent x .",
            2,
        ),
        ("build --isolation chroot --builder other .", 2),
        ("build --retry 3 --retry-delay 2s --runtime runc --http-proxy=false --jobs 2 .", 4),
        ("build --stream -qt x .", 0),
        ("build --provenance=false --sbom=false .", 0),
        ("build --provenance=mode=max,version=v1 --sbom=true .", 1),
        ("build --provenance true .", 1),
        ("build --attest type=provenance,mode=max --attest type=sbom .", 1),
        ("build --cache-from fixture/other:latest --tag x:sha .", 1),
        ("build --cache-from type=gha --cache-to type=gha,mode=max .", 2),
        ("build --cache-from type=registry,ref=a/b --cache-to type=inline .", 2),
    ] {
        let outcome = line(&kit, text).arg("--progress=plain").ok();
        let said = count(&outcome, "has no effect")
            + count(&outcome, "is not used")
            + count(&outcome, "no attestation is written");
        assert_eq!(said, notices, "{text}:\n{}", outcome.text());
    }
    for (text, part) in [
        ("build --attest mode=max .", "type= is missing"),
        ("build --provenance=mode=most .", "expected min or max"),
        ("build --sbom=required=true .", "this one is required"),
        ("build --provenance=true --require-attestations .", "this one is required"),
        ("build --cache-from type=floppy,src=x .", "unknown cache type"),
        ("build --pull=sometimes .", "is not a policy"),
        ("build --no-cache=perhaps .", "neither true nor false"),
        ("build --pull=never -f - .", "no image"),
    ] {
        let run = line(&kit, text).input("FROM absent/image\n");
        let outcome = run.run();
        assert!(matches!(outcome.status, Some(2 | 3 | 6)), "{text}: {}", outcome.text());
        outcome.says(&[part]);
    }
}

#[test]
fn an_image_without_a_name_is_kept_and_found_by_its_id() {
    let kit = kit();
    let id = line(&kit, "build -q .").ok().stdout();
    let id = id.trim();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let short = &id[7..19];
    for name in [id, &id[7..], short, &format!("sha256:{short}")] {
        assert_eq!(kit.builder(["run", name]).ok().stdout(), "made\n", "{name}");
        kit.dockerfile(&format!("FROM {name}\nRUN cat /made\n"));
        if name.len() != 64 {
            assert!(kit.build().arg("--no-cache").ok().log().contains("made"), "{name}");
        }
    }
    kit.dockerfile("FROM fixture/base\nRUN echo made > /made\nCMD [\"cat\", \"/made\"]\n");
    let list =
        |filter: &str| kit.builder(["images", "--no-trunc", "-q", "-f", filter]).ok().stdout();
    assert!(list("dangling=true").contains(id));
    // Building it again adds nothing; a name is the name of the same image.
    let before = list("dangling=true");
    line(&kit, "build .").ok();
    assert_eq!(list("dangling=true"), before);
    let file = kit.out("id");
    crate::kit::write_file(&file, b"");
    line(&kit, "build .").args(["--iidfile", file.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id);
    kit.builder(["rmi", id]).ok();
    line(&kit, "build -o type=cacheonly .").ok();
    assert!(!list("dangling=true").contains(id), "no image was asked for");
    line(&kit, "build .").ok().says(&["in the store", "give it a name with -t"]);
    assert!(list("dangling=true").contains(id));
    kit.builder(["tag", id, "named"]).ok();
    assert!(!list("dangling=true").contains(id));
    assert_eq!(kit.builder(["run", "named"]).ok().stdout(), "made\n");
    kit.builder(["rmi", "named"]).ok();
    // A few digits are a word, which a registry may know, and not the beginning of an id.
    kit.dockerfile(&format!("FROM {}\n", &short[..6]));
    assert_ne!(kit.build().run().status, Some(0));
    // What is an id, and is not here, is nowhere.
    let unknown = format!("sha256:{}", "0".repeat(64));
    kit.builder(["run", &unknown]).exits(125).says(&["no image"]);
    kit.dockerfile(&format!("FROM {unknown}\n"));
    let outcome = kit.build().run();
    outcome.says(&["no image"]);
    assert!(!outcome.text().contains("registry-1"), "{}", outcome.text());
    // Removed by its id, and collected like any cache.
    kit.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let id = line(&kit, "build -q .").ok().stdout();
    kit.builder(["rmi", id.trim()]).ok();
    assert!(!list("dangling=true").contains(id.trim()));
    line(&kit, "build -q .").ok();
    kit.builder(["prune", "--all", "--force"]).run();
    kit.builder(["store", "verify"]).ok();
}

#[test]
fn an_output_says_whether_and_how_the_store_names_an_image() {
    let kit = kit();
    let names = || kit.builder(["images", "--digests"]).ok().stdout();
    line(&kit, "build -o type=image,name=kept .").ok();
    line(&kit, "build -o type=image,name=gone,store=false .").ok().says(&["not kept"]);
    line(&kit, "build -o type=image,dangling-name-prefix=prefix .").ok();
    line(&kit, "build -o type=image,name=named,dangling-name-prefix=other .").ok();
    let names = names();
    assert!(names.contains("kept ") && names.contains("named "), "{names}");
    assert!(!names.contains("gone ") && !names.contains("other "), "{names}");
    assert!(names.lines().any(|l| l.starts_with("prefix ") && l.contains("sha256:")), "{names}");
    line(&kit, "build -o type=image,dangling-name-prefix=a:b .").fails(2).says(&["without a tag"]);
    line(&kit, "build -o type=image,store=perhaps .").fails(2);
}

#[test]
fn archives_go_to_stdout_and_dockerfiles_are_found_under_their_names() {
    let kit = kit();
    for output in ["build -o type=tar .", "build -o - .", "build -o type=oci ."] {
        let outcome = line(&kit, output).ok();
        assert!(outcome.bytes().len() > 1024 && outcome.bytes()[257..262] == *b"ustar", "{output}");
    }
    for name in ["dockerfile", "Containerfile"] {
        let _ = std::fs::remove_file(kit.path("Dockerfile"));
        kit.file(name, "FROM fixture/base\nRUN echo found\n");
        assert!(
            line(&kit, "build .")
                .args(["--no-cache", "--progress=rawjson"])
                .ok()
                .log()
                .contains("found"),
            "{name}"
        );
        std::fs::remove_file(kit.path(name)).unwrap();
    }
    kit.file("Dockerfile", "FROM scratch\n").file("Containerfile", "NONSENSE\n");
    line(&kit, "build .").ok();
}

#[test]
fn checks_of_build_fail_on_warnings_as_docker_s_do() {
    let kit = Kit::new();
    kit.dockerfile("from scratch AS x\nCOPY Dockerfile /\n");
    for text in ["build --check .", "build --call=check .", "build --call=check,format=json ."] {
        line(&kit, text).exits(1);
    }
    line(&kit, "check .").ok();
    kit.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    for text in ["build --check .", "build --call=check,format=json .", "check ."] {
        line(&kit, text).ok();
    }
}

#[test]
fn volumes_are_mounted_in_every_run_and_in_no_layer() {
    let kit = Kit::new();
    let dir = kit.beside("shared-dir");
    crate::kit::write_file(&dir.join("f"), b"from the machine");
    kit.dockerfile(
        "FROM fixture/base\nRUN cat /mnt/f > /copied\nRUN echo back > /mnt/g && ls /mnt\n",
    );
    let volume = format!("{}:/mnt:Z", dir.display());
    let image = kit.build().args(["-v", &volume]).image();
    assert_eq!(image.text("copied"), "from the machine");
    assert!(image.find("mnt/f").is_none());
    assert_eq!(std::fs::read_to_string(dir.join("g")).unwrap(), "back\n");
    // Another volume is another step.
    let read_only = format!("{}:/mnt:ro", dir.display());
    let outcome = kit.build().args(["--volume", &read_only]).fails(4);
    assert!(outcome.log().contains("Read-only file system"), "{}", outcome.log());
    kit.build().args(["-v", "/nowhere/at/all:/mnt"]).fails(2).says(&["/nowhere/at/all"]);
}

#[test]
fn forms_and_parts_of_platforms_are_as_in_podman() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    line(&kit, "build --format docker --arch arm64 --os linux -t d .").ok();
    let image = kit.builder(["inspect", "d"]).ok().json();
    assert_eq!(image[0]["Architecture"], "arm64");
    let media_type = image[0]["Manifest"]["MediaType"].as_str().unwrap();
    assert!(media_type.contains("docker"), "{media_type}");
    line(&kit, "build --security-opt label=disable --security-opt apparmor=unconfined .")
        .ok()
        .says(&["label=disable has no effect", "apparmor=unconfined has no effect"]);
    line(&kit, "build --security-opt apparmor=strict .").fails(2);
}

/// The rows of `docs/compat.md`: a flag and what becomes of it.
fn rows() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compat.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `--"));
    let cells = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[1].trim_matches('`').to_owned(), cells[3].to_owned())).collect()
}

#[test]
fn the_table_of_flags_and_the_command_line_agree() {
    let kit = kit();
    let rows = rows();
    assert!(rows.len() > 90, "{}", rows.len());
    let mut sorted = rows.clone();
    sorted.sort();
    assert_eq!(rows, sorted, "the rows are in the order of the alphabet");
    for (flag, verdict) in &rows {
        // A value that no flag takes, so that nothing is built.
        let outcome = kit.builder(["build", flag, "--no-such-flag-at-all"]).run();
        assert_eq!(outcome.status, Some(2), "{flag}");
        let is_unknown = outcome.text().contains(&format!("unexpected argument '{flag}'"));
        match verdict.as_str() {
            "same" | "differs" | "no effect" => assert!(!is_unknown, "{flag} is not taken"),
            "refused" => assert!(is_unknown, "{flag} is taken"),
            other => panic!("{flag}: {other}"),
        }
    }
}

#[test]
fn explain_and_check_take_the_command_line_of_a_build_as_it_stands() {
    let kit = kit();
    let line = [
        "-t=app:1",
        "--push",
        "-q",
        "--pull",
        "--progress=plain",
        "--iidfile=id",
        "--load",
        "--cache-to=type=local,dest=c",
        "--memory=64m",
        "--network=none",
        "--no-cache",
        "--rm",
        "--label=a=b",
        "--on-error=keep",
        "--provenance=false",
        "--userns=host",
        "--tls-verify=false",
    ];
    kit.explain().args(line).ok();
    kit.check().args(line).ok();
    assert!(!kit.out("id").exists() && !kit.path("id").exists());
    kit.check().arg("--memory=lots").fails(2).says(&["--memory"]);
    for (command, shown, hidden) in [
        (
            "explain",
            &["--tag", "--memory", "--build-arg"][..],
            &["--push", "--iidfile", "--rm"][..],
        ),
        ("check", &["--build-arg", "--secret"], &["--push", "--memory", "--tag", "--on-error"]),
    ] {
        let help = kit.builder([command, "--help"]).ok().stdout();
        let has = |flag: &&str| help.contains(&format!("{flag} "));
        assert!(shown.iter().all(has) && !hidden.iter().any(has), "{help}");
    }
}
