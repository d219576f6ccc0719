//! Tables: our own of the edges, and BuildKit's where the project is developed.

use std::path::Path;

use super::*;

fn env<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| variables.iter().rfind(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
}

const ENV: &[(&str, &str)] = &[
    ("X", "x"),
    ("E", ""),
    ("S", "two words"),
    ("P", "/usr/lib/libfoo.so.1"),
    ("HASH", "#/*/"),
    ("STAR", r"*\"),
    ("LINES", "xaabby\nab"),
];

fn backslash() -> Lexer {
    Lexer::new(Escape::Backslash)
}

#[track_caller]
fn check(lexer: Lexer, cases: &[(&str, &str)]) {
    for (text, want) in cases {
        match lexer.process_word(text, &env(ENV)) {
            Ok(got) => assert_eq!(got.text, *want, "{text}"),
            Err(_) => assert_eq!("error", *want, "{text}"),
        }
    }
}

#[test]
fn edges_are_buildkits() {
    check(
        backslash(),
        &[
            ("\u{feff}$X\u{feff}", "x\u{feff}"),
            // The second `#` may come out of a variable.
            ("${P#/*/} ${P#$HASH}", "lib/libfoo.so.1 libfoo.so.1"),
            (r#"${P#"/u"}"#, "sr/lib/libfoo.so.1"),
            ("${U/$E/new}", "new"),
            ("${S//$E/-}", "-t-w-o- -w-o-r-d-s-"),
            // Wildcards stop at a line's end.
            ("${LINES/a*b/-} ${LINES//a*b/-}", "x-y\nab x-y\n-"),
            ("${LINES//*/-}", "-\n-"),
            (r"${P//u?r/[\$0]}", r"/[\usr]/lib/libfoo.so.1"),
            // The suffix's escape is sought in the reversed text.
            ("${X%$STAR}", "x"),
            ("${X#$STAR}", "error"),
            (r"${U#\a}", "error"),
            ("${U:-'}'}${U:-\"}\"}${U:-\\}}", "}}}"),
            ("${%a}${?}", ""),
            // Alphabetic and numeric to Rust, but neither letter nor digit to Go.
            ("$X\u{345}$Ⅷ$²", "x\u{345}$Ⅷ$²"),
            ("$٣x", "x"),
            ("${X:0:1}", "error"),
            ("${X:}", "error"),
            ("${X:#a}", "error"),
        ],
    );
    let backtick = Lexer::new(Escape::Backtick);
    check(backtick, &[("`$X", "$X"), (r"C:\$X", r"C:\x"), (r"${P#\/}", "usr/lib/libfoo.so.1")]);
}

#[test]
fn modes_keep_what_they_say() {
    let quotes = Lexer { raw_quotes: true, ..backslash() };
    check(quotes, &[(r#""$X" '$X' \""#, r#""x" '$X' ""#), (r#"${U:-"a"}"#, r#""a""#)]);
    let plain = Lexer { skip_quotes: true, ..backslash() };
    check(plain, &[(r#""$X" '$X' \" '"#, r#""x" 'x' " '"#), (r#"${U:-"}""#, r#""""#)]);
    let escapes = Lexer { raw_escapes: true, ..backslash() };
    check(escapes, &[(r"\$X \a \", r"\$X \a \"), (r#""\t""#, r"\\t"), (r"${U:-\$X}\$", r"$X\$")]);
    let unset = Lexer { skip_unset: true, ..backslash() };
    check(
        unset,
        &[
            ("$U ${U} $X $E| $1", "$U ${U} x | $1"),
            ("${U:-$X} ${U+'a'} ${U:?m} ${U##*$X}", "${U:-x} ${U+a} ${U:?m} ${U##*x}"),
            // One slash for two is BuildKit's.
            ("${U/a/$X} ${U//a/b} ${U:0:1}", "${U/a/x} ${U/a/b} ${U:0:1}"),
        ],
    );
}

#[test]
fn words_are_split_outside_of_quotes() {
    for (text, want) in [
        ("", &[] as &[&str]),
        ("  a\t b\u{a0}c ", &["a", "b", "c"]),
        ("a'b c'd \"\" e", &["ab cd", "e"]),
        (r"a\ b", &["a b"]),
        ("$S\"$S\"", &["two", "wordstwo words"]),
        ("a << b <c", &["a", "<< b", "<c"]),
        ("${U:-'a b'} c", &["a", "b", "c"]),
        ("80$X 80${X} 80${U:-81}/tcp", &["80x", "80x", "81/tcp"]),
    ] {
        assert_eq!(backslash().process_words(text, &env(ENV)).unwrap(), want, "{text}");
    }
}

#[test]
fn values_that_multiply_are_refused() {
    let value = "a".repeat(1 << 20);
    let variables = [("BIG", value.as_str())];
    for text in ["$BIG".repeat(100), "${BIG//a/$BIG}".to_owned(), "${U:-${BIG//a/$BIG}".to_owned()]
    {
        let got = backslash().process_word(&text, &env(&variables));
        assert_eq!(got, Err(ExpandError::TooLong));
    }
}

/// A file of BuildKit's, which lies beside the project where it is developed.
fn table(name: &str) -> Option<String> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join("shared/conformance/parser").join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        cannot_run_here!(optional: "no shared/conformance/parser/{name} beside the project");
    }
    Some(std::fs::read_to_string(found?).unwrap())
}

#[test]
fn buildkits_table_of_texts_holds() {
    let Some(table) = table("envVarTest") else { return };
    let variables = [("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")];
    let mut checked = 0;
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [platform, text, want] = fields[..] else { panic!("{line}") };
        if platform == "W" {
            continue;
        }
        let got = backslash().process_word(text, &env(&variables));
        assert_eq!(got.map_or("error".to_owned(), |got| got.text), want, "{line}");
        checked += 1;
    }
    assert!(checked > 150, "{checked}");
}

#[test]
fn buildkits_table_of_words_holds() {
    let Some(table) = table("wordsTest") else { return };
    let mut variables = Vec::new();
    let mut checked = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        if let Some(variable) = line.strip_prefix("ENV ") {
            variables.push(variable.trim_start_matches(' ').split_once('=').unwrap());
            continue;
        }
        let (text, want) = line.split_once('|').unwrap();
        let want: Vec<&str> = want.trim_start_matches(' ').split(',').collect();
        let got = backslash().process_words(text.trim(), &env(&variables));
        assert_eq!(got.unwrap_or_else(|_| vec!["error".to_owned()]), want, "{line}");
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}
