//! Each cause that `builder explain` can name, on a build that has it.

use crate::kit::Kit;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;

/// A Dockerfile, a change of it or of its context, flags of the build after that, and what must be said.
struct Case {
    name: &'static str,
    text: &'static str,
    change: fn(&Kit),
    then: &'static str,
    flags: &'static [&'static str],
    says: &'static [&'static str],
}

fn nothing(_: &Kit) {}

const CASES: &[Case] = &[
    Case {
        name: "the words of a command",
        text: "RUN echo one two three > /f",
        change: nothing,
        then: "RUN echo one 2 three > /f",
        flags: &[],
        says: &["instruction: RUN echo one [-two-]{+2+} three > /f", "first broken step"],
    },
    Case {
        name: "another shell under the same text",
        text: "RUN true",
        change: nothing,
        then: "SHELL [\"/bin/sh\", \"-ec\"]\nRUN true",
        flags: &[],
        says: &["command: /bin/sh [--c-]{+-ec+} true"],
    },
    Case {
        name: "a build argument",
        text: "ARG level=1\nRUN true",
        change: nothing,
        then: "ARG level=1\nRUN true",
        flags: &["--build-arg=level=2"],
        says: &["ARG level: 1 → 2"],
    },
    Case {
        name: "a variable",
        text: "ENV mode=fast\nRUN true",
        change: nothing,
        then: "ENV mode=slow\nRUN true",
        flags: &[],
        says: &["ENV mode: fast → slow"],
    },
    Case {
        name: "an argument whose name says that it is secret",
        text: "ARG NPM_TOKEN=hunter1\nRUN true",
        change: nothing,
        then: "ARG NPM_TOKEN=hunter2\nRUN true",
        flags: &[],
        says: &["ARG NPM_TOKEN: another value (hidden)", "!hunter"],
    },
    Case {
        name: "another user and working directory",
        text: "RUN true",
        change: nothing,
        then: "USER 5\nWORKDIR /bin\nRUN true",
        flags: &[],
        says: &["user", "5", "/bin"],
    },
    Case {
        name: "files that came, went and changed, the first twenty and then counts",
        text: "COPY src /src",
        change: |kit| {
            for n in 0..30 {
                kit.file(&format!("src/new-{n:02}"), "");
            }
            fs::remove_file(kit.path("src/b")).unwrap();
            kit.file("src/a", "longer than before");
        },
        then: "COPY src /src",
        flags: &[],
        says: &[
            "files src: 1 changed, 30 added, 1 removed",
            "src/a: content (2 → 18 bytes)",
            "src/b: removed",
            "src/new-17: added",
            "!src/new-18",
            "… and 12 more",
        ],
    },
    Case {
        name: "the content of a file of the same size",
        text: "COPY src /src",
        change: |kit| _ = kit.file("src/a", "A\n"),
        then: "COPY src /src",
        flags: &[],
        says: &["src/a: content", "!bytes"],
    },
    Case {
        name: "another link target and another type",
        text: "COPY src /src",
        change: |kit| {
            fs::remove_file(kit.path("src/link")).unwrap();
            symlink("b", kit.path("src/link")).unwrap();
            fs::remove_file(kit.path("src/b")).unwrap();
            fs::create_dir(kit.path("src/b")).unwrap();
        },
        then: "COPY src /src",
        flags: &[],
        says: &["src/link: target a → b", "src/b: type file → dir"],
    },
    Case {
        name: "the owner of a file of another stage",
        text: "RUN echo x > /f; chown 1:1 /f\nFROM fixture/base\nCOPY --from=0 /f /g",
        change: nothing,
        then: "RUN echo x > /f; chown 2:3 /f\nFROM fixture/base\nCOPY --from=0 /f /g",
        flags: &[],
        says: &["f: owner 1:1 → 2:3", "files /f (from [stage-0"],
    },
    Case {
        name: "modes as of another umask",
        text: "COPY src /src",
        change: |kit| _ = kit.chmod("src/a", 0o664).chmod("src/b", 0o664),
        then: "COPY src /src",
        flags: &[],
        says: &["src/a: mode 0644 → 0664", "only write permission of group and others differs"],
    },
    Case {
        name: "what a bind mount shows, and its options",
        text: "RUN --mount=type=bind,source=src,target=/m true",
        change: |kit| _ = kit.file("src/a", "other"),
        then: "RUN --mount=type=bind,source=src,target=/m true",
        flags: &[],
        says: &["mount /m: 1 changed", "a: content (2 → 5 bytes)"],
    },
    Case {
        name: "a mount that was not there",
        text: "RUN true",
        change: nothing,
        then: "RUN --mount=type=tmpfs,target=/t true",
        flags: &[],
        says: &["instruction: RUN {+--mount=type=tmpfs,target=/t +}true"],
    },
    Case {
        name: "no cache",
        text: "RUN true",
        change: nothing,
        then: "RUN true",
        flags: &["--no-cache"],
        says: &["--no-cache was given"],
    },
    Case {
        name: "a result that was collected",
        text: "RUN true",
        change: |kit| _ = kit.builder(["prune"]).ok(),
        then: "RUN true",
        flags: &[],
        says: &["the layer it made was removed after build"],
    },
    Case {
        name: "an instruction that was put in",
        text: "RUN touch /a\nRUN touch /b",
        change: nothing,
        then: "RUN touch /a\nRUN touch /new\nRUN touch /b",
        flags: &[],
        says: &["a new step", "[3/4]"],
    },
];

#[track_caller]
fn check(case: &Case, when: &str, said: &str) {
    for part in case.says {
        match part.strip_prefix('!') {
            Some(part) => {
                assert!(!said.contains(part), "{}, {when}: `{part}` in\n{said}", case.name);
            }
            None => assert!(said.contains(part), "{}, {when}: no `{part}` in\n{said}", case.name),
        }
    }
    for line in said.lines() {
        assert!(line.chars().count() <= 80, "{}: over 80 columns: {line}", case.name);
        assert!(!line.contains('\x1b'), "{}: colour, and no terminal: {line}", case.name);
    }
}

#[test]
fn each_cause_is_named_before_the_build_and_after_it() {
    for case in CASES {
        let kit = Kit::new();
        kit.file("src/a", "a\n").file("src/b", "b\n").symlink("a", "src/link");
        kit.dockerfile(&format!("FROM fixture/base\n{}\n", case.text)).build().ok();
        (case.change)(&kit);
        kit.dockerfile(&format!("FROM fixture/base\n{}\n", case.then));
        let predicted = kit.explain().args(case.flags).ok().stdout();
        // What another stage will have made is known when it has been made.
        if !case.name.contains("another stage") {
            check(case, "predicted", &predicted);
        }
        kit.build().args(case.flags).ok();
        check(case, "looked back on", &kit.builder(["explain"]).ok().stdout());
    }
}

#[test]
fn another_base_image_is_named_with_both_digests() {
    let kit = Kit::new();
    let base = |text: &str| {
        let layout = kit.out(&format!("base-{text}"));
        kit.dockerfile(&format!("FROM fixture/base\nRUN echo {text} > /base\n"));
        let output = format!("--output=type=oci,tar=false,dest={}", layout.display());
        kit.build().args([&output, "-t=made/base"]).ok();
        let index: Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        (format!("--build-context=made/base=oci-layout://{}", layout.display()), digest)
    };
    let ((old, old_digest), (new, new_digest)) = (base("old"), base("new"));
    kit.dockerfile("FROM made/base\nRUN true\nRUN echo second\n").build().arg(old).ok();
    let said = kit.explain().arg(&new).ok().stdout();
    let short = |digest: &str| digest[..19].to_owned();
    let both = format!("base image made/base: {} → {}", short(&old_digest), short(&new_digest));
    assert!(said.contains(&both), "no `{both}` in\n{said}");
    kit.build().arg(&new).ok();
    let json = kit.builder(["explain", "--format=json"]).ok().json();
    let cause = &json["steps"][0]["causes"][0];
    assert_eq!(cause["kind"], "base");
    assert_eq!(cause["old_digest"], old_digest);
    assert_eq!(cause["new_digest"], new_digest);
}

#[test]
fn another_platform_is_named() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n").build().arg("--platform=linux/amd64").ok();
    let said = kit.explain().arg("--platform=linux/amd64/v2").ok().stdout();
    assert!(said.contains("platform: linux/amd64 → linux/amd64/v2"), "{said}");
}

#[test]
fn the_cost_of_what_follows_is_added_up_from_the_first_broken_step() {
    let kit = Kit::new();
    kit.file("src/a", "a\n");
    kit.dockerfile(
        "FROM fixture/base\nRUN true\nCOPY src /src\nRUN sleep 0.3; cp /src/a /b\nRUN sleep 0.2; cp /b /c\n",
    );
    kit.build().ok();
    kit.file("src/a", "b\n");
    kit.build().ok();
    let json = kit.builder(["explain", "--format=json"]).ok().json();
    assert_eq!((&json["version"], &json["first_broken"]), (&Value::from(1), &Value::from(1)));
    let results: Vec<_> = json["steps"].as_array().unwrap().iter().map(|s| &s["result"]).collect();
    assert_eq!(results, ["hit", "miss", "miss", "miss"]);
    let costs =
        json["steps"].as_array().unwrap()[1..].iter().map(|s| s["run_us"].as_u64().unwrap());
    assert_eq!(json["totals"]["spent_us"].as_u64().unwrap(), costs.sum::<u64>());
    assert!(json["totals"]["spent_us"].as_u64().unwrap() >= 500_000);
}

#[test]
fn only_a_terminal_gets_colours() {
    let kit = Kit::new();
    kit.file("src/a", "a\n").dockerfile("FROM fixture/base\nCOPY src /src\n").build().ok();
    kit.chmod("src/a", 0o755);
    let plain = kit.explain().ok().stdout();
    assert!(!plain.contains('\x1b'), "{plain}");
    let terminal = crate::kit::running::Terminal::new(24, 80);
    let mut running = terminal.start(kit.explain());
    running.expect("\x1b[");
    running.end();
}
