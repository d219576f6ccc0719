//! `builder build`: stages, targets, shell and exec form, heredocs.

use crate::kit::{Counts, Kit};

#[test]
fn second_build_runs_nothing() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN touch /x\n");
    assert_eq!(kit.build().ok().counts(), Counts { ran: 1, cached: 0 });
    assert_eq!(kit.build().ok().counts(), Counts { ran: 0, cached: 1 });
}

#[test]
fn second_build_gives_the_same_image() {
    let kit = Kit::new();
    kit.file("a", "a").dockerfile("FROM fixture/base\nCOPY a /a\nRUN date > /now\nENV x=1\n");
    assert_eq!(kit.image().digest, kit.image().digest);
}

#[test]
fn a_stage_copies_from_another() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base AS first\nRUN mkdir /out && echo made > /out/file\n\
         FROM scratch\nCOPY --from=first /out /\n",
    );
    let image = kit.image();
    assert_eq!(image.text("/file"), "made\n");
    assert_eq!(image.layers.len(), 1);
    assert!(image.find("/bin/busybox").is_none(), "nothing of the first stage but what was copied");
}

#[test]
fn a_stage_can_be_named_by_its_number_and_in_any_case() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base AS Named\nRUN echo 0 > /a; echo 1 > /b\n\
         FROM scratch\nCOPY --from=0 /a /a\nCOPY --from=NAMED /b /b\n",
    );
    let image = kit.image();
    assert_eq!((image.text("/a"), image.text("/b")), ("0\n".into(), "1\n".into()));
}

#[test]
fn a_stage_builds_on_another_and_inherits_its_config() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base AS one\nENV place=/here\nWORKDIR /w\nUSER app\n\
         FROM one\nRUN echo $place $(pwd) $(id -un) > /tmp/said\n",
    );
    assert_eq!(kit.image().text("/tmp/said"), "/here /w app\n");
}

#[test]
fn unused_stage_is_not_built() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base AS unused\nRUN exit 1\n\
         FROM fixture/base AS wanted\nRUN touch /wanted\n",
    );
    assert_eq!(kit.build().ok().counts(), Counts { ran: 1, cached: 0 });
}

#[test]
fn target_ends_the_build_at_that_stage() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base AS one\nRUN touch /one\nFROM one AS two\nRUN touch /two\n\
         FROM two\nRUN exit 1\n",
    );
    let image = kit.build().args(["--target", "TWO"]).image();
    assert!(image.find("/one").is_some() && image.find("/two").is_some());
}

#[test]
fn independent_stages_run_side_by_side() {
    let kit = Kit::new();
    // Each waits for the other: were they run one after the other, the first would wait in vain.
    let meet = |me: &str, other: &str| {
        format!(
            "FROM fixture/base AS {me}\nRUN --mount=type=cache,id=meeting,target=/m touch /m/{me}; i=0; \
             until [ -e /m/{other} ]; do i=$((i+1)); [ $i -lt 3000 ] || exit 9; usleep 10000; done\n"
        )
    };
    kit.dockerfile(&format!(
        "{}{}FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
        meet("a", "b"),
        meet("b", "a")
    ));
    kit.build().ok();
}

#[test]
fn first_failure_cancels_the_other_stages() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base AS long\nRUN sleep 1000\nFROM fixture/base AS broken\nRUN exit 7\n\
         FROM scratch\nCOPY --from=long /etc /a\nCOPY --from=broken /etc /b\n",
    );
    // Without cancelling, this takes longer than any time limit of the test runner.
    kit.build().fails(4).says(&["RUN exit 7"]);
}

#[test]
fn exec_form_runs_without_a_shell_and_shell_form_with_one() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nENV v=value\nRUN [\"/bin/touch\", \"/$v\"]\nRUN touch /$v\n\
         SHELL [\"/bin/sh\", \"-eu\", \"-c\"]\nRUN echo $- > /flags\n",
    );
    let image = kit.image();
    assert!(image.find("$v").is_some() && image.find("value").is_some());
    assert!(image.text("/flags").contains('u'));
}

#[test]
fn heredocs_are_scripts_and_files() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nARG who=you\nRUN <<EOF\necho one > /a\necho $who >> /a\nEOF\n\
         RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk\" > \"/b\" }\nEOF\n\
         COPY <<one <<\"two\" /files/\nplain $who\none\nquoted $who\ntwo\n",
    );
    let image = kit.image();
    assert_eq!(image.text("/a"), "one\nyou\n");
    assert_eq!(image.text("/b"), "awk\n");
    assert_eq!(image.text("/files/one"), "plain you\n");
    assert_eq!(image.text("/files/two"), "quoted $who\n");
    assert_eq!(image.entry("/files/one").mode, 0o644);
}

#[test]
fn removed_files_become_whiteouts() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN mkdir /d && touch /d/a /d/b /gone\n\
         RUN rm /gone && rm -r /d && mkdir /d && touch /d/c\n",
    );
    let image = kit.image();
    assert!(image.find("/gone").is_none());
    assert_eq!(image.list("d"), ["c"]);
    assert!(image.last_layer().contains(&".wh.gone"), "{:?}", image.last_layer());
}

#[test]
fn layers_hold_only_what_changed() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo x > /etc/new && cat /etc/passwd > /dev/null\n");
    let image = kit.image();
    let files = image.last_layer();
    assert!(files.contains(&"etc/new"), "{files:?}");
    for path in ["etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/passwd"] {
        assert!(!files.contains(&path), "{path} leaked into {files:?}");
    }
}

#[test]
fn odd_files_survive_a_layer() {
    let kit = Kit::new();
    let long = "n".repeat(200);
    kit.dockerfile(&format!(
        "FROM fixture/base\nRUN mkdir /o && cd /o && touch file && ln file hard && ln -s nowhere soft && mkfifo pipe \
         && chown 1000:1001 file && chmod 4755 file && mkdir -m 1777 sticky \
         && touch \"$(printf 'b\\377d')\" && mkdir -p {long}/{long} && touch {long}/{long}/deep\nRUN test -p /o/pipe\n"
    ));
    let image = kit.image();
    let file = image.entry("/o/file");
    let hard = image.entry("/o/hard");
    assert_eq!((file.mode, file.uid, file.gid), (0o4755, 1000, 1001));
    assert!(file.kind == '1' || hard.kind == '1', "one of the two names is a hard link");
    assert_eq!(image.entry("/o/soft").link.as_deref(), Some("nowhere"));
    assert_eq!(image.entry("/o/pipe").kind, '6');
    assert_eq!(image.entry("/o/sticky").mode, 0o1777);
    assert!(
        image.list("o").iter().any(|name| name.starts_with("b\u{fffd}")),
        "a name of any bytes"
    );
}

#[test]
fn dockerfile_from_elsewhere_and_from_stdin() {
    let kit = Kit::new();
    kit.file("a", "content");
    crate::kit::write_file(&kit.beside("other.Dockerfile"), b"FROM scratch\nCOPY a /from-file\n");
    let image = kit.build().arg("-f").arg(kit.beside("other.Dockerfile")).image();
    assert_eq!(image.text("/from-file"), "content");
    let image = kit.build().args(["-f", "-"]).input("FROM scratch\nCOPY a /from-stdin\n").image();
    assert_eq!(image.text("/from-stdin"), "content");
}

#[test]
fn named_contexts_are_sources() {
    let kit = Kit::new();
    crate::kit::write_file(&kit.beside("extra/file"), b"beside");
    kit.dockerfile("FROM scratch\nCOPY --from=extra file /file\n");
    let context = format!("--build-context=extra={}", kit.beside("extra").display());
    assert_eq!(kit.build().arg(context).image().text("/file"), "beside");
}

#[test]
fn no_cache_runs_everything_again() {
    let kit = Kit::new();
    kit.file("a", "a").dockerfile("FROM fixture/base\nCOPY a /\nRUN touch /x\n");
    kit.build().ok();
    assert_eq!(kit.build().arg("--no-cache").ok().counts().cached, 0);
}
