//! Whole files against expected trees: our own of `testdata/dockerfile`, and
//! BuildKit's where the project is developed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::*;

/// Lines and columns of spans.
struct Places<'a>(&'a [u8]);

impl Places<'_> {
    fn show(&self, span: Span) -> String {
        let point = |at: usize| {
            let before = &self.0[..at];
            let line = before.split(|&b| b == b'\n').count();
            let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
            (line, at - start + 1)
        };
        let ((line, column), (last, end)) = (point(span.start), point(span.end));
        if line == last {
            format!("{line}:{column}-{end}")
        } else {
            format!("{line}:{column}-{last}:{end}")
        }
    }

    fn word(&self, kind: &str, word: &Word) -> String {
        format!("{kind} {:?} {}", word.text, self.show(word.span))
    }
}

/// A file as its tree, with all places.
fn tree(source: &[u8]) -> String {
    let places = Places(source);
    let mut out = String::new();
    let syntax = syntax(source);
    for directive in &syntax.directives {
        let kind = format!("{:?}", directive.name).to_lowercase();
        let _ = writeln!(out, "{}", places.word(&kind, &directive.value));
    }
    for (span, line) in &syntax.empty_continuations {
        let _ = writeln!(out, "empty line {} in the instruction to {line}", places.show(*span));
    }
    for statement in &syntax.statements {
        show_statement(statement, &places, 0, &mut out);
    }
    if let Err(errors) = parse(source) {
        for error in errors {
            let label = error.label.map(|label| format!(" ({label})")).unwrap_or_default();
            let _ = writeln!(out, "{}: {}{label}", places.show(error.span), error.message);
        }
    }
    out
}

fn show_statement(statement: &Statement, places: &Places<'_>, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for comment in &statement.comments {
        let _ = writeln!(out, "{indent}# {comment}");
    }
    let _ = writeln!(out, "{indent}{}", places.word("instruction", &statement.keyword));
    for flag in &statement.flags {
        let _ = writeln!(out, "{indent}  {}", places.word("flag", &flag.name));
        if let Some(value) = &flag.value {
            let _ = writeln!(out, "{indent}    {}", places.word("value", value));
        }
    }
    show_arguments(&statement.arguments, places, depth + 1, out);
    for heredoc in &statement.heredocs {
        let kind = match (heredoc.expand, heredoc.strip_tabs) {
            (true, false) => "expanded",
            (false, false) => "plain",
            (true, true) => "expanded, without tabs",
            (false, true) => "plain, without tabs",
        };
        let body = String::from_utf8_lossy(&heredoc.body);
        let (name, fd) = (&heredoc.name, heredoc.fd);
        let place = places.show(heredoc.span);
        let _ = writeln!(out, "{indent}  heredoc {name:?} {fd} {kind} {body:?} {place}");
    }
    if let Some(span) = statement.invalid_json {
        let _ = writeln!(out, "{indent}  no JSON from {}", places.show(span));
    }
    if let Some(span) = statement.invalid_utf8 {
        let _ = writeln!(out, "{indent}  no UTF-8 at {}", places.show(span));
    }
}

fn show_arguments(arguments: &Arguments, places: &Places<'_>, depth: usize, out: &mut String) {
    let mut line = |kind: &str, word: &Word| {
        let _ = writeln!(out, "{}{}", "  ".repeat(depth), places.word(kind, word));
    };
    match arguments {
        Arguments::Nothing => {}
        Arguments::Json(words) => words.iter().for_each(|word| line("json", word)),
        Arguments::List(words) => words.iter().for_each(|word| line("word", word)),
        Arguments::Text(word) => line("text", word),
        Arguments::Pairs(pairs) => {
            for pair in pairs {
                line(if pair.is_legacy { "legacy name" } else { "name" }, &pair.name);
                line("value", &pair.value);
            }
        }
        Arguments::Health { kind, command } => {
            line("kind", kind);
            show_arguments(command, places, depth, out);
        }
        Arguments::Trigger(trigger) => show_statement(trigger, places, depth, out),
    }
}

/// `cargo insta review` shows and takes what has changed.
#[test]
fn samples_have_their_trees() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfile");
    for name in ["backtick", "bytes", "heredocs", "json", "mistakes", "mounts", "pairs", "stages"] {
        let source = std::fs::read(directory.join(name)).unwrap();
        insta::with_settings!({
            snapshot_path => &directory,
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, tree(&source));
        });
    }
}

/// BuildKit's own files, which lie beside the project where it is developed.
fn buildkits(name: &str) -> Vec<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join("shared/conformance/parser").join(name))
        .find(|directory| directory.is_dir());
    let Some(directory) = found else {
        cannot_run_here!(optional: "no shared/conformance/parser/{name} beside the project");
        return Vec::new();
    };
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

/// BuildKit's text form of a tree.
fn dump(statement: &Statement) -> String {
    let mut out = statement.keyword.text.to_lowercase();
    if !statement.flags.is_empty() {
        let flags: Vec<String> =
            statement.flags.iter().map(|flag| format!("{:?}", flag.text.text)).collect();
        let _ = write!(out, " [{}]", flags.join(" "));
    }
    match &statement.arguments {
        Arguments::Trigger(trigger) => {
            let _ = write!(out, " ({})", dump(trigger));
        }
        _ => statement.flat().into_iter().for_each(|word| {
            let _ = write!(out, " {}", quoted(word));
        }),
    }
    out
}

/// As Go quotes, for what these files hold.
fn quoted(text: &str) -> String {
    let quoted = text.chars().map(|c| match c {
        '\\' | '"' => format!("\\{c}"),
        '\u{8}' => "\\b".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", quoted.collect::<String>())
}

#[test]
fn buildkits_files_have_buildkits_trees() {
    for directory in buildkits("testfiles") {
        let source = std::fs::read(directory.join("Dockerfile")).unwrap();
        let want = std::fs::read_to_string(directory.join("result")).unwrap();
        let syntax = syntax(&source);
        assert_eq!(syntax.errors, [], "{}", directory.display());
        let got: Vec<String> =
            syntax.statements.iter().map(|statement| format!("({})", dump(statement))).collect();
        assert_eq!(got, want.lines().collect::<Vec<_>>(), "{}", directory.display());
    }
}

#[test]
fn files_that_buildkit_refuses_are_refused() {
    for directory in buildkits("testfiles-negative") {
        let source = std::fs::read(directory.join("Dockerfile")).unwrap();
        assert!(!syntax(&source).errors.is_empty(), "{}", directory.display());
    }
}
