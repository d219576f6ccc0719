//! Build arguments and the environment: who sees which, and which wins.

use crate::kit::Kit;

/// Builds with these flags and returns what the image's `/said` holds.
#[track_caller]
fn said(dockerfile: &str, flags: &[&str]) -> String {
    let kit = Kit::new();
    kit.dockerfile(dockerfile);
    kit.build().args(flags).image().text("/said").trim_end().to_owned()
}

#[test]
fn argument_has_its_default_and_the_flag_wins() {
    let text = "FROM fixture/base\nARG v=default\nRUN echo $v > /said\n";
    assert_eq!(said(text, &[]), "default");
    assert_eq!(said(text, &["--build-arg", "v=flag"]), "flag");
    assert_eq!(said(text, &["--build-arg=v="]), "");
}

#[test]
fn flag_without_a_value_takes_it_from_the_environment() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nARG v=default\nRUN echo $v > /said\n");
    let image = kit.build().args(["--build-arg", "v"]).env("v", "outer").image();
    assert_eq!(image.text("/said"), "outer\n");
}

#[test]
fn global_argument_is_seen_in_from_and_only_after_redeclaring_in_a_stage() {
    let text = "ARG base=fixture/base\nARG v=global\nFROM $base\nRUN echo \"[$v]\" > /one\n\
                ARG v\nRUN echo \"$(cat /one) [$v]\" > /said\n";
    assert_eq!(said(text, &[]), "[] [global]");
    assert_eq!(said(text, &["--build-arg", "v=flag"]), "[] [flag]");
}

#[test]
fn argument_ends_with_its_stage() {
    let text = "FROM fixture/base AS one\nARG v=one\nRUN echo $v > /x\n\
                FROM fixture/base\nCOPY --from=one /x /x\nRUN echo \"$(cat /x) [$v]\" > /said\n";
    assert_eq!(said(text, &["--build-arg", "v=flag"]), "flag []");
}

#[test]
fn environment_wins_over_an_argument_declared_before_it() {
    let text = "FROM fixture/base\nARG v=arg\nENV v=env\nRUN echo $v > /said\n";
    assert_eq!(said(text, &["--build-arg", "v=flag"]), "env");
}

#[test]
fn one_instruction_sees_one_snapshot() {
    let text = "FROM fixture/base\nENV a=old\nENV a=new b=$a\nRUN echo $a $b > /said\n";
    assert_eq!(said(text, &[]), "new old");
}

#[test]
fn expansion_has_its_modifiers() {
    let text = "FROM fixture/base\nENV set=s empty=\n\
                ENV said=\"${set:-d} ${empty:-d} ${empty-d}. ${none:-d} ${set:+p} ${none:+p}. \\$set '${set}'\"\n\
                RUN echo \"$said\" > /said\n";
    assert_eq!(said(text, &[]), "s d . d p . $set 's'");
}

#[test]
fn argument_is_not_in_the_image_and_environment_is() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nARG a=1\nENV e=2 from_arg=$a\n");
    let image = kit.image();
    assert_eq!(image.env("a"), None);
    assert_eq!((image.env("e"), image.env("from_arg")), (Some("2"), Some("1")));
}

#[test]
fn predefined_arguments_need_no_declaration() {
    let text = "FROM fixture/base\nRUN echo \"$http_proxy $HTTPS_PROXY\" > /said\n";
    let flags = ["--build-arg", "http_proxy=http://p:1", "--build-arg", "HTTPS_PROXY=http://p:2"];
    assert_eq!(said(text, &flags), "http://p:1 http://p:2");
}

#[test]
fn unused_build_argument_is_a_warning_not_an_error() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\n");
    kit.build().args(["--build-arg", "nobody=1", "--progress=plain"]).ok().says(&["nobody"]);
}

#[test]
fn path_is_set_when_the_base_has_none() {
    let kit = Kit::new();
    kit.file("a", "").dockerfile("FROM scratch\nCOPY a /\n");
    assert!(kit.image().env("PATH").is_some_and(|path| path.contains("/usr/bin")));
}

#[test]
fn attestations_may_be_declined() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\n");
    kit.build().args(["--provenance=false", "--sbom=false"]).ok();
}

#[test]
fn a_number_of_threads_that_is_none_is_refused() {
    let kit = Kit::new();
    kit.builder(["images"]).env("BUILDER_THREADS", "8").ok();
    for wrong in ["0", "many", "-1"] {
        let run = kit.builder(["images"]).env("BUILDER_THREADS", wrong);
        run.fails(2).says(&["BUILDER_THREADS", wrong]);
    }
}
