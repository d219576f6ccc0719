//! What makes a cache mount the same mount, and when it is empty.

use crate::kit::{Kit, users};

/// Builds a RUN with one mount and returns what it prints; `number` keeps it from being cached.
fn say(kit: &Kit, number: usize, before: &str, options: &str, script: &str) -> String {
    kit.dockerfile(&format!(
        "{before}FROM fixture/base\nRUN --mount=type=cache,target=/c,{options} : {number}; {script}\n"
    ));
    kit.build().ok().log().to_owned()
}

/// The owner and the mode of a mount, and what those before it have left in it; then its own mark is left.
const MARK: &str = "stat -c %u:%g:%a /c | tr '\\n' ' '; echo marks $(ls /c); touch /c/m";

#[test]
fn a_mount_is_its_id_and_what_it_starts_from() {
    for kit in [Kit::new(), Kit::of(users::with_ranges()), Kit::of(users::without_ranges())] {
        let seed = |text: &str| {
            format!(
                "FROM fixture/base AS base\nRUN mkdir -p /s/d/e && echo {text} > /s/d/f && chown 5:6 /s/d && chmod 711 /s/d\n\
                 FROM scratch AS seed\nCOPY --from=base /s /\n"
            )
        };
        let mut number = 0;
        let mut check = |before: &str, options: &str, expected: &str| {
            number += 1;
            let said = say(&kit, number, before, options, MARK);
            assert!(said.contains(expected), "{options}: {said}");
        };
        let (one, two) = (seed("one"), seed("two"));
        // Each of these is another mount, so none has marks; those that say the same share one.
        check("", "id=a", "0:0:755 marks\n");
        check("", "id=a,uid=0", "0:0:755 marks\n");
        check("", "id=a,gid=0", "0:0:755 marks m\n");
        check("", "id=a,mode=0755", "0:0:755 marks m\n");
        check("", "id=a,uid=7", "7:0:755 marks\n");
        check("", "id=a,uid=7,gid=8,mode=0700", "7:8:700 marks\n");
        check("", "id=a", "0:0:755 marks m\n");
        check("", "id=b", "0:0:755 marks\n");
        check(&one, "id=a,from=seed", "marks d\n");
        check(&one, "id=a,from=seed", "marks d m\n");
        // A part of it, with the owner it has there, whatever the options say.
        check(&one, "id=a,from=seed,source=/d,uid=9,mode=0700", "5:6:711 marks e f\n");
        check(&one, "id=a,from=seed,source=d", "5:6:711 marks e f m\n");
        check(&one, "id=a,from=seed,source=/d/e", "marks\n");
        // Another content, another mount; the first one is still there.
        check(&two, "id=a,from=seed,source=/d", "marks e f\n");
        check(&one, "id=a,from=seed,source=/d", "marks e f m\n");
        // Without a source the options count, and nothing of the tree is shown.
        check(&one, "id=a,from=seed,uid=9", "9:0:755 marks\n");
        check(&one, "id=a,from=seed,uid=9", "9:0:755 marks m\n");
        check(&two, "id=a,from=seed,uid=9", "9:0:755 marks\n");
    }
}

#[test]
fn two_parts_of_one_mount_are_in_one_directory() {
    let kit = Kit::new();
    let seed = "FROM fixture/base AS seed\nRUN mkdir -p /d/e\n";
    say(&kit, 1, seed, "id=a,from=seed,source=/d/e", "touch /c/deep");
    let said = say(&kit, 2, seed, "id=a,from=seed,source=/d", "ls /c/e");
    assert!(said.contains("deep"), "{said}");
}

#[test]
fn a_step_runs_again_where_its_mount_starts_from_other_files() {
    let kit = Kit::new();
    let build = |text: &str| {
        kit.dockerfile(&format!(
            "FROM scratch AS seed\nCOPY <<x /f\n{text}\nx\nFROM fixture/base\n\
             RUN --mount=type=cache,target=/c,from=seed cat /c/f\n"
        ));
        kit.build().ok()
    };
    assert_eq!(build("one").log(), "one\n");
    assert_eq!(build("one").counts().ran, 0);
    assert_eq!(build("two").log(), "two\n");
}

#[test]
fn a_source_without_a_tree_is_refused_and_a_missing_one_named() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/c,source=/d true\n");
    kit.build().fails(3).says(&["a cache mount with source= needs from="]);
    kit.dockerfile(
        "FROM fixture/base\nRUN --mount=type=cache,target=/c,from=fixture/base,source=/none true\n",
    );
    let outcome = kit.build().run();
    assert_ne!(outcome.status, Some(0));
    assert!(outcome.text().contains("/none"), "{}", outcome.text());
}

#[test]
fn without_the_cache_mounts_are_empty_unless_they_are_to_be_kept() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base AS one\n\
         RUN --mount=type=cache,id=a,target=/c --mount=type=cache,id=a,uid=5,target=/o \\\n    echo one $(ls /c /o); touch /c/m /o/m\n\
         FROM fixture/base AS two\nRUN --mount=type=cache,id=b,target=/c echo two $(ls /c); touch /c/m\n\
         FROM scratch\nCOPY --from=one /etc/passwd /1\nCOPY --from=two /etc/passwd /2\n",
    );
    let log = |flags: &[&str]| {
        let mut lines: Vec<_> =
            kit.build().args(flags).ok().log().lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(", ")
    };
    assert_eq!(log(&[]), "one /c: /o:, two");
    assert_eq!(log(&["--no-cache", "--keep-cache-mounts"]), "one /c: m /o: m, two m");
    assert_eq!(log(&["--no-cache"]), "one /c: /o:, two");
    assert_eq!(log(&["--no-cache-filter=two"]), "two");
    assert_eq!(log(&["--no-cache", "--keep-cache-mounts"]), "one /c: m /o: m, two m");
}

#[test]
fn mounts_of_one_id_are_listed_exported_and_imported_each() {
    let kit = Kit::new();
    say(&kit, 1, "", "id=a", "touch /c/empty");
    say(&kit, 2, "", "id=a,uid=7", "touch /c/owned");
    let listed = kit.builder(["mounts", "ls", "--format=json"]).ok().json();
    let starts: Vec<_> =
        listed.as_array().unwrap().iter().map(|mount| mount["start"].as_str().unwrap()).collect();
    assert_eq!(starts, ["", "owner 7:0 mode 0755"]);
    kit.builder(["mounts", "export"]).arg(kit.out("layout")).ok();
    kit.builder(["mounts", "rm", "a"]).ok();
    kit.builder(["mounts", "import"]).arg(kit.out("layout")).ok();
    assert!(say(&kit, 3, "", "id=a", "ls /c").contains("empty"));
    assert!(say(&kit, 4, "", "id=a,uid=7", "ls /c").contains("owned"));
}

#[test]
fn mounts_have_the_modes_of_the_directories_they_show_or_hide() {
    let kit = Kit::new();
    kit.file("dir/f", "x").chmod("dir", 0o750);
    kit.dockerfile(
        "FROM fixture/base\nRUN mkdir -m 711 /old\n\
         RUN --mount=type=tmpfs,target=/old --mount=type=tmpfs,target=/new --mount=type=bind,source=dir,target=/bound \\\n    \
         stat -c %a /old /new /bound\n",
    );
    assert_eq!(kit.build().ok().log(), "711\n1777\n750\n");
}

#[test]
fn of_two_mounts_on_one_target_the_later_wins_and_secrets_come_last() {
    let kit = Kit::new();
    kit.file("dir/f", "from the context").file("secret", "hush, it is one");
    let run = |first: &str, second: &str, script: &str| {
        kit.dockerfile(&format!(
            "FROM fixture/base\nRUN --mount={first} --mount={second} {script}\n"
        ));
        let secret = format!("--secret=id=s,src={}", kit.path("secret").display());
        kit.build().args([secret.as_str(), "--no-cache"]).ok().log().to_owned()
    };
    let (tmpfs, bind) = ("type=tmpfs,target=/m", "type=bind,source=dir,target=/m");
    let (file, secret) = ("type=bind,source=dir/f,target=/m", "type=secret,id=s,target=/m");
    assert_eq!(run(tmpfs, bind, "ls /m"), "f\n");
    assert_eq!(run(bind, tmpfs, "ls /m"), "");
    assert_eq!(run(bind, file, "cat /m"), "from the context");
    // What it holds would be masked.
    assert_eq!(run(secret, file, "wc -c < /m"), "15\n");
    assert_eq!(run(bind, secret, "wc -c < /m"), "15\n");
}
