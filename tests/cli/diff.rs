//! `builder diff`.

use crate::kit::{Kit, Outcome};
use serde_json::Value;

const BEFORE: &str = "FROM fixture/base\nCOPY f /f\nRUN mkdir /d && echo old > /d/gone && ln -s /f /d/link\nENV A=1\n";
const AFTER: &str = "FROM fixture/base\nCOPY f /f\nRUN mkdir -m 700 /d && echo new > /d/came && chown 5 /f && \
     ln -s /g /d/link\nENV A=2 B=3\n";

fn kit() -> Kit {
    let kit = Kit::new();
    kit.file("f", "same size 1\n");
    kit.dockerfile(BEFORE);
    let archive = format!("-otype=oci,dest={}", kit.out("a.tar").display());
    kit.build().args(["-t", "a", "--timestamp", "1500000000", &archive]).ok();
    kit.file("f", "same size 2\n");
    kit.dockerfile(AFTER);
    let layout = format!("-otype=oci,tar=false,dest={}", kit.out("b").display());
    kit.build().args(["-t", "b", "--timestamp", "1500000000", &layout]).ok();
    kit
}

#[test]
fn differences_are_told_by_field_path_and_attribute() {
    let kit = kit();
    let text = kit.builder(["diff", "a", "b"]).exits(1).stdout();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.retain(|line| !line.starts_with("history") && !line.starts_with("layers"));
    let content = lines.iter().find(|line| line.contains("content: ")).unwrap().to_owned();
    assert_eq!(
        lines,
        [
            "config.Env[1]: A=1 -> A=2",
            "config.Env[2]: nothing -> B=3",
            "  /d",
            "      mode: 0755 -> 0700",
            "+ /d/came",
            "- /d/gone",
            "  /d/link",
            "      target: /f -> /g",
            "  /f",
            "      uid: 0 -> 5",
            content,
        ]
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("layers")).count(), 2);
}

#[test]
fn archives_and_layouts_are_compared_like_images() {
    let kit = kit();
    let (a, b) = (kit.out("a.tar"), kit.out("b"));
    let diff = |words: &[&std::path::Path]| {
        let mut run = kit.builder(["diff", "--format", "json"]);
        for word in words {
            run = run.arg(word);
        }
        run
    };
    let json = |outcome: Outcome| -> Value { serde_json::from_str(&outcome.stdout()).unwrap() };
    let of_files = json(diff(&[&a, &b]).exits(1));
    let of_names = json(diff(&["a".as_ref(), "b".as_ref()]).exits(1));
    assert_eq!(of_files, of_names);
    assert_eq!(of_files["files"][1]["path"], "/d/came");
    assert_eq!(of_files["files"][1]["presence"], "only_b");
    let none = json(diff(&[&a, "a".as_ref()]).ok());
    assert_eq!(none, serde_json::json!({"config": [], "layers": [], "files": []}));
    diff(&["a".as_ref(), "nosuch".as_ref()]).fails(2).says(&["no image `nosuch`"]);
}
