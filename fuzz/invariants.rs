// What holds for any input. Shared by the fuzz targets, which need a nightly
// compiler, and by `tests/fuzz_smoke.rs`, which does not.

#[path = "peers.rs"]
pub(crate) mod peers;
#[path = "places.rs"]
pub(crate) mod places;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd as _;

use builder::cache::Copied;
use builder::context::remote::file_name_of;
use builder::dockerfile::address::Address;
use builder::dockerfile::ast::{Escape, Span};
use builder::dockerfile::expand::{self, Lexer};
use builder::dockerfile::git_url::GitUrl;
use builder::dockerfile::ignore::Matcher;
use builder::dockerfile::parse::{Arguments, Statement, syntax};
use builder::dockerfile::{parse, parse_instruction, print};
use builder::image::LayoutRef;
use builder::oci::{Config, Digest, Document, Index, Manifest, Reference};
use builder::sys::cancel::Cancel;

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
    if let Ok(matcher) = Matcher::parse(file) {
        let _ = matcher.matches_or_parent(path);
    }
}

/// A document of an image: config, manifest, index. What was read can be written and read again.
pub(crate) fn document(data: &[u8]) {
    let digest = Digest::of(data);
    if let Ok(config) = Config::parse(data, &digest) {
        let _ = (config.env(), config.history(), config.user(), config.working_dir());
        let _ = config.platform();
    }
    let _ = serde_json::from_slice::<Manifest>(data);
    let _ = serde_json::from_slice::<Index>(data);
    let _ = Document::parse(data, &digest);
    let _ = Document::parse_any(data, &digest);
}

/// An archive: it is unpacked or refused, and nothing beside the directory changes.
pub(crate) fn archive(data: &[u8]) {
    let outer = tempfile::tempdir().expect("a directory for the test");
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).expect("a directory for the test");
    fs::write(outer.path().join("canary"), "alive").expect("a file for the test");
    let dir = File::open(&inner).expect("the directory was made");
    let me = fs::metadata(&inner).expect("the directory was made");
    let owner = {
        use std::os::unix::fs::MetadataExt as _;
        (me.uid(), me.gid())
    };
    let _ = builder::layer::extract_archive(data, dir.as_fd(), Some(owner), &Cancel::new());
    let canary = fs::read(outer.path().join("canary")).expect("nothing outside is removed");
    assert_eq!(canary, b"alive");
    let beside = fs::read_dir(outer.path()).expect("the directory is there").count();
    assert_eq!(beside, 2, "nothing is made outside");
}

/// What an OCI layout has at its top, and how one is named.
pub(crate) fn layout(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = LayoutRef::parse(text);
        let _ = text.parse::<Digest>();
    }
    let _ = serde_json::from_slice::<Index>(data);
}

/// Addresses and names: of repositories, downloads, images. Credentials do not survive.
pub(crate) fn address(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let address = Address::parse(&text);
    if address.login.is_some() {
        assert!(Address::parse(&address.text).login.is_none() || address.text.contains("://"));
    }
    if let Ok(Some(url)) = GitUrl::parse(&text) {
        assert!(!url.remote.starts_with('-') && !url.remote.contains(char::is_control));
        assert!(!url.subdir.split('/').any(|part| part == ".."));
    }
    let name = file_name_of(&text);
    assert!(!name.contains('/') && !["", ".", ".."].contains(&&*name), "{name:?}");
    let _ = Reference::parse(&text);
}

/// What is kept of a copy between builds, and the document of an exported cache.
pub(crate) fn record(data: &[u8]) {
    let _ = Copied::parse(data);
    let _ = serde_json::from_slice::<builder::cache::Document>(data);
    let mut whole = data.to_vec();
    whole.extend(blake3::hash(data).as_bytes());
    let _ = Copied::parse(&whole);
}

/// The header with which a registry asks for credentials.
pub(crate) fn challenge(data: &[u8]) {
    let _ = builder::registry::is_challenge(&String::from_utf8_lossy(data));
}

/// Text from outside, as it is shown.
pub(crate) fn shown(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let is_bad = |c: char| c.is_control() || "\u{202e}\u{2066}\u{200f}".contains(c);
    assert!(!builder::show::text(&text).contains(is_bad));
    assert!(!builder::show::bytes(data).contains(is_bad));
    let kept = |c: char| is_bad(c) && !matches!(c, '\n' | '\t');
    assert!(!builder::show::lines(&text).contains(kept));
    assert_eq!(builder::show::in_place(&text).len(), text.len());
    let _ = builder::show::addresses(&text);
}
