//! `.dockerignore`, seen through COPY.

use crate::kit::Kit;

/// Copies a fixed tree under an ignore file and returns what arrived.
#[track_caller]
fn left(ignore: &str) -> Vec<String> {
    let kit = Kit::new();
    for name in ["a.md", "b.txt", "src/a.md", "src/c.rs", "src/deep/d.md", "target/out/big"] {
        kit.file(name, name);
    }
    kit.file(".dockerignore", ignore);
    kit.file("Dockerfile", "FROM scratch\nCOPY . /c/\n");
    let image = kit.image();
    let files =
        image.list("c").into_iter().filter(|path| image.entry(&format!("c/{path}")).kind == '0');
    files
        .filter(|path| !matches!(*path, "Dockerfile" | ".dockerignore"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn patterns_choose_what_the_build_sees() {
    let all = ["a.md", "b.txt", "src/a.md", "src/c.rs", "src/deep/d.md", "target/out/big"];
    let without = |gone: &[&str]| -> Vec<String> {
        all.iter().filter(|path| !gone.contains(path)).map(|path| (*path).to_owned()).collect()
    };
    assert_eq!(left(""), without(&[]));
    assert_eq!(left("*.md"), without(&["a.md"]), "a star stays in its directory");
    assert_eq!(left("**/*.md"), without(&["a.md", "src/a.md", "src/deep/d.md"]));
    assert_eq!(left("target"), without(&["target/out/big"]), "and all beneath");
    assert_eq!(left("/target/"), without(&["target/out/big"]));
    assert_eq!(left("src\n!src/c.rs"), without(&["src/a.md", "src/deep/d.md"]));
    assert_eq!(left("!a.md\n*.md"), without(&["a.md"]), "the last match wins");
    assert_eq!(left("# a.md\n  b.txt  "), without(&["b.txt"]));
}

#[test]
fn everything_but_one_file() {
    assert_eq!(left("*\n!src/c.rs"), ["src/c.rs"]);
}

#[test]
fn dockerfile_may_be_ignored_and_is_still_read() {
    let kit = Kit::new();
    kit.file(".dockerignore", "Dockerfile\n.dockerignore\n").file("a", "a");
    kit.dockerfile("FROM scratch\nCOPY . /c/\n");
    assert_eq!(kit.image().list("c"), ["a"]);
}

#[test]
fn ignore_file_of_the_dockerfile_wins() {
    let kit = Kit::new();
    kit.file(".dockerignore", "a\n").file("my.Dockerfile.dockerignore", "b\n");
    kit.file("a", "").file("b", "").file("my.Dockerfile", "FROM scratch\nCOPY a* b* /c/\n");
    let image = kit.build().arg("-f").arg(kit.path("my.Dockerfile")).image();
    assert_eq!(image.list("c"), ["a"]);
}

#[test]
fn ignored_source_is_missing_and_the_error_quotes_the_line() {
    let kit = Kit::new();
    kit.file("notes.md", "").file(".dockerignore", "# text\n*.md\n");
    kit.dockerfile("FROM scratch\nCOPY notes.md /\n");
    kit.build().fails(3).says(&["notes.md", "Dockerfile:2:6", ".dockerignore", "*.md"]);
}

#[test]
fn podman_s_file_and_one_that_is_named_hide_files_too() {
    let kit = Kit::new();
    kit.file("a", "a")
        .file("b", "b")
        .file("c", "c")
        .file("Dockerfile", "FROM scratch\nCOPY . /c/\n");
    let arrived = |flags: &[&str]| {
        let image = kit.build().args(flags).image();
        let files = image.list("c").into_iter().filter(|name| matches!(*name, "a" | "b" | "c"));
        files.map(str::to_owned).collect::<Vec<_>>()
    };
    kit.file(".containerignore", "a\n");
    assert_eq!(arrived(&[]), ["b", "c"]);
    kit.file("Dockerfile.containerignore", "b\n");
    assert_eq!(arrived(&[]), ["a", "c"], "that of the Dockerfile goes first");
    kit.file(".dockerignore", "c\n");
    assert_eq!(arrived(&[]), ["a", "c"]);
    std::fs::remove_file(kit.path("Dockerfile.containerignore")).unwrap();
    assert_eq!(arrived(&[]), ["a", "b"], "docker's goes before podman's");
    let named = kit.beside("named");
    std::fs::write(&named, "a\nb\n").unwrap();
    assert_eq!(arrived(&["--ignorefile", named.to_str().unwrap()]), ["c"]);
    kit.build().args(["--ignorefile", "missing"]).fails(2).says(&["cannot read missing"]);
}
