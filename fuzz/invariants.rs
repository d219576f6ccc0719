// What holds for any input. Shared by the fuzz targets, which need a nightly
// compiler, and by `tests/fuzz_smoke.rs`, which does not.

use std::collections::BTreeMap;

use builder::dockerfile::ast::{Escape, Span};
use builder::dockerfile::expand::{self, Lexer};
use builder::dockerfile::ignore::Matcher;
use builder::dockerfile::parse::{Arguments, Statement, syntax};
use builder::dockerfile::{parse, parse_instruction, print};

/// A Dockerfile: places lie in it, and what is printed parses to the same tree.
pub(crate) fn dockerfile(data: &[u8]) {
    for statement in syntax(data).statements {
        check_statement(&statement, data.len());
    }
    match parse(data) {
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in &errors {
                check_span(error.span, data.len());
            }
        }
        Ok(file) => {
            let Ok(printed) = print::print(&file) else { return };
            let again = parse(printed.as_bytes()).expect("what was printed parses");
            // Triggers are text, where bytes are not what they were.
            if std::str::from_utf8(data).is_ok() {
                assert_eq!(print::without_places(file), print::without_places(again));
            }
        }
    }
    let _ = parse_instruction(&String::from_utf8_lossy(data));
}

fn check_span(span: Span, length: usize) {
    assert!(span.start <= span.end && span.end <= length, "{span:?} of {length}");
}

fn check_statement(statement: &Statement, length: usize) {
    check_span(statement.span, length);
    check_span(statement.keyword.span, length);
    statement.invalid_json.iter().for_each(|span| check_span(*span, length));
    for flag in &statement.flags {
        check_span(flag.text.span, length);
        check_span(flag.name.span, length);
        flag.value.iter().for_each(|value| check_span(value.span, length));
    }
    for heredoc in &statement.heredocs {
        check_span(heredoc.span, length);
    }
    check_arguments(&statement.arguments, length);
}

fn check_arguments(arguments: &Arguments, length: usize) {
    match arguments {
        Arguments::Nothing => {}
        Arguments::Json(words) | Arguments::List(words) => {
            for word in words {
                check_span(word.span, length);
            }
        }
        Arguments::Text(word) => check_span(word.span, length),
        Arguments::Pairs(pairs) => {
            for pair in pairs {
                check_span(pair.name.span, length);
                check_span(pair.value.span, length);
            }
        }
        Arguments::Health { kind, command } => {
            check_span(kind.span, length);
            check_arguments(command, length);
        }
        Arguments::Trigger(trigger) => check_statement(trigger, length),
    }
}

/// A word: it has a value or none, and a text without specials is its own.
pub(crate) fn word(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let env = BTreeMap::from([("A", "aa/bb"), ("E", ""), ("P", "*?\\")]);
    let lookup = |name: &str| env.get(name).map(|value| (*value).to_owned());
    for escape in [Escape::Backslash, Escape::Backtick] {
        let value = expand::process_word(&text, &lookup, escape);
        let _ = expand::process_words(&text, &lookup, escape);
        let _ = Lexer::for_heredoc(escape).process_word(&text, &lookup);
        if !text.contains(['$', '\'', '"', '\\', '`', '\u{feff}']) {
            assert_eq!(value.map(|value| value.text).as_deref(), Ok(&*text));
        }
    }
}

/// An ignore file, and a path to hold against it.
pub(crate) fn ignore(data: &[u8]) {
    let (file, path) = match data.iter().position(|&b| b == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b"a/b/c.rs"[..]),
    };
    if let Ok(matcher) = Matcher::parse_leniently(file) {
        let _ = matcher.matches_or_parent(path);
    }
}
