//! Tables of what files mean, where their words stand, and what is wrong.

use super::*;
use crate::dockerfile::ast::{CommandLine, Lines};

/// The instructions of a file, each as keyword, flags, `json` and body.
fn shown(source: &[u8]) -> Vec<String> {
    let syntax = syntax(source);
    assert_eq!(syntax.errors, [], "{}", String::from_utf8_lossy(source));
    let show = |statement: &Statement| {
        let mut parts = vec![statement.keyword.text.clone()];
        parts.extend(statement.flags.iter().map(|flag| format!("{{{}}}", flag.text.text)));
        parts.extend(statement.arguments.is_json().then(|| "json".to_owned()));
        parts.extend(statement.flat().iter().map(|word| format!("[{word}]")));
        parts.join(" ")
    };
    syntax.statements.iter().map(show).collect()
}

#[track_caller]
fn check_shown(cases: &[(&str, &str)]) {
    for (source, want) in cases {
        assert_eq!(shown(source.as_bytes()), [*want], "{source}");
    }
}

#[test]
fn bodies_are_read_by_their_keyword() {
    check_shown(&[
        ("from a  AS\tb", "from [a] [AS] [b]"),
        ("FROM --platform=x a", "FROM {--platform=x} [a]"),
        ("RUN", "RUN"),
        ("RUN  a  'b c' \"d", "RUN [a  'b c' \"d]"),
        ("RUN [\"a\", \"b c\"] ", "RUN json [a] [b c]"),
        ("RUN [ \"\\u00e9\\ud83d\\ude00\\ud83d\\n\\/\" ]", "RUN json [é😀\u{fffd}\n/]"),
        ("RUN []", "RUN json"),
        ("RUN ['a']", "RUN [['a']]"),
        ("RUN [\"a\",]", "RUN [[\"a\",]]"),
        ("RUN [\"a\"] && b", "RUN [[\"a\"] && b]"),
        ("CMD [\"a\tb\"]", "CMD [[\"a\tb\"]]"),
        ("COPY [\"a b\", \"c\"]", "COPY json [a b] [c]"),
        ("COPY [a b] c", "COPY [[a] [b]] [c]"),
        ("ADD 'a b' c", "ADD ['a] [b'] [c]"),
        ("VOLUME /a\u{a0}b /c", "VOLUME [/a\u{a0}b] [/c]"),
        ("EXPOSE 80 81/udp", "EXPOSE [80] [81/udp]"),
        (
            "ENV a=b c=\"d e\" f=g\\ h i='j'k",
            "ENV [a] [b] [=] [c] [\"d e\"] [=] [f] [g\\ h] [=] [i] ['j'k] [=]",
        ),
        ("ENV a b=c  d", "ENV [a] [b=c  d] []"),
        ("ENV 'a b'=c", "ENV ['a b'] [c] [=]"),
        ("ENV 'a=b' c=", "ENV ['a] [b'] [=] [c] [] [=]"),
        ("LABEL a=b\u{a0}c=d", "LABEL [a] [b] [=] [c] [d] [=]"),
        ("ARG a b=c d=\"e f", "ARG [a] [b=c] [d=\"e f]"),
        ("MAINTAINER a  b", "MAINTAINER [a  b]"),
        ("HEALTHCHECK --retries=1 CMD a  b", "HEALTHCHECK {--retries=1} [CMD] [a  b]"),
        ("HEALTHCHECK cmd\t[\"a\"]", "HEALTHCHECK json [cmd] [a]"),
        ("HEALTHCHECK", "HEALTHCHECK"),
        ("ONBUILD copy --link [\"a\", \"b\"]", "ONBUILD [copy] [a] [b]"),
        ("ONBUILD", "ONBUILD"),
        ("FROBNICATE --a b", "FROBNICATE []"),
        ("RUNx a", "RUNx []"),
        ("RUN\u{a0}x", "RUN\u{a0}x []"),
    ]);
}

#[test]
fn flags_lose_quotes_and_escapes() {
    check_shown(&[
        ("COPY --a='b c'\"d e\"\\ f g h", "COPY {--a=b cd e f} [g] [h]"),
        ("COPY --a=\"b\\\"c\" '--x' y", "COPY {--a=b\"c} ['--x'] [y]"),
        ("COPY --a --b=\t--c d e", "COPY {--a} {--b=} {--c} [d] [e]"),
        ("COPY -- --a b", "COPY [--a] [b]"),
        ("COPY --a -- b c", "COPY {--a} [b] [c]"),
        ("COPY --a='b c d", "COPY {--a=b c d}"),
        ("RUN --\"\" a", "RUN [a]"),
        ("RUN -a --b", "RUN [-a --b]"),
        ("# escape=`\nCOPY --a=b` c`\"d\\ e f", "COPY {--a=b c\"d\\} [e] [f]"),
    ]);
}

#[test]
fn escape_character_at_the_end_is_left_out() {
    check_shown(&[
        ("ENV a=b\\\\\\", "ENV [a] [b\\\\] [=]"),
        ("ENV a=\"b\\\\\\", "ENV [a] [\"b\\\\] [=]"),
        ("ENV a='b\\\\\\", "ENV [a] ['b\\\\\\] [=]"),
        ("ARG a \\\\\\", "ARG [a] [\\\\]"),
        ("# escape=`\nENV a=b``` c=`\"d", "ENV [a] [b``` c=`\"d] [=]"),
    ]);
}

#[test]
fn lines_are_joined_as_buildkit_joins_them() {
    for (source, want) in [
        ("RUN a \\\n  b\n", &["RUN a   b"] as &[&str]),
        ("RUN a\\ \t\nb", &["RUN ab"]),
        ("RUN a \\\r\nb\r\n", &["RUN a b"]),
        ("RUN a \\\\\nRUN b", &["RUN a \\\\", "RUN b"]),
        ("RUN a\\\n# comment \\\n\n  # another\n b", &["RUN a b"]),
        ("RUN a\\\n\\\n \\\nb", &["RUN a b"]),
        ("RUN a # b\\\nc", &["RUN a # bc"]),
        ("RUN a\\", &["RUN a"]),
        ("\u{feff}  RUN a ", &["RUN a "]),
        ("\u{2003}RUN a\u{85}", &["RUN a\u{85}"]),
        ("# escape=`\nRUN a`\nb\\\nRUN c", &["RUN ab\\", "RUN c"]),
        ("#escape=`\nRUN a`\n", &["RUN a"]),
        ("RUN \\\n\n\n#\n", &["RUN "]),
        ("RUN a\rb", &["RUN a\rb"]),
    ] {
        let syntax = syntax(source.as_bytes());
        let got: Vec<&str> = syntax.statements.iter().map(|s| s.original.as_str()).collect();
        assert_eq!(got, want, "{source:?}");
    }
}

#[test]
fn lines_and_comments_are_those_of_the_file() {
    let source = "# escape=\\\n\n# one\n#\n# two\n  # three\n\nFROM a\n# four\nRUN <<A <<B \\\n\n  x\nA\nB\n# five";
    let syntax = syntax(source.as_bytes());
    let got: Vec<(Lines, Vec<&str>)> = syntax
        .statements
        .iter()
        .map(|s| (s.lines, s.comments.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(
        got,
        [
            (Lines { first: 8, last: 8 }, vec!["two", "# three"]),
            (Lines { first: 10, last: 14 }, vec!["four"]),
        ]
    );
    let [(span, line)] = syntax.empty_continuations[..] else { panic!("one") };
    assert_eq!(
        (span.start, span.end, line),
        (source.find("\n\n  x").unwrap() + 1, source.find("\n  x").unwrap(), 12)
    );
}

/// The text of a span, in quotes where it holds a line break.
fn slice(source: &str, span: Span) -> String {
    let text = &source[span.start..span.end];
    if text.contains('\n') { format!("{text:?}") } else { text.to_owned() }
}

#[test]
fn words_know_their_places() {
    for (source, want) in [
        (
            "  FROM --platform='a b' c AS D",
            &["FROM", "--platform", "a b", "c", "AS", "D"] as &[&str],
        ),
        ("COPY a \\\n # x\n b\\\nc d", &["COPY", "a", "\"b\\\\\\nc\"", "d"]),
        (
            "ENV a=b \\\n c=\"d \\\ne\"",
            &["ENV", "a", "b", "\"c=\\\"d \\\\\\ne\\\"\"", "\"c=\\\"d \\\\\\ne\\\"\""],
        ),
        ("LABEL é=ü \u{1F600}=x", &["LABEL", "é", "ü", "\u{1F600}", "x"]),
        ("CMD [\"a\", \"b\\n\"]", &["CMD", "\"a\"", "\"b\\n\""]),
        ("HEALTHCHECK CMD  x y ", &["HEALTHCHECK", "CMD", "x y"]),
        ("ONBUILD ADD a\tb", &["ONBUILD", "ADD", "a", "b"]),
        ("\u{feff}USER a:b", &["USER", "a:b"]),
    ] {
        let syntax = syntax(source.as_bytes());
        let mut spans = Vec::new();
        collect(&syntax.statements[0], &mut spans);
        let got: Vec<String> = spans.into_iter().map(|span| slice(source, span)).collect();
        assert_eq!(got, want, "{source}");
    }
}

fn collect(statement: &Statement, out: &mut Vec<Span>) {
    out.push(statement.keyword.span);
    for flag in &statement.flags {
        out.push(flag.name.span);
        out.extend(flag.value.as_ref().map(|value| value.span));
    }
    collect_arguments(&statement.arguments, out);
}

fn collect_arguments(arguments: &Arguments, out: &mut Vec<Span>) {
    match arguments {
        Arguments::Nothing => {}
        Arguments::Json(words) | Arguments::List(words) => {
            out.extend(words.iter().map(|word| word.span));
        }
        Arguments::Text(word) => out.push(word.span),
        Arguments::Pairs(pairs) => {
            out.extend(pairs.iter().flat_map(|pair| [pair.name.span, pair.value.span]));
        }
        Arguments::Health { kind, command } => {
            out.push(kind.span);
            collect_arguments(command, out);
        }
        Arguments::Trigger(trigger) => collect(trigger, out),
    }
}

#[test]
fn bytes_that_are_not_text_count_as_one_each() {
    let source = b"FROM a\nENV x=\xE2\x82 y=z\nCOPY <<E /\n\xFF\nE\n";
    let file = parse(source).unwrap();
    let [env, copy] = &file.stages[0].instructions[..] else { panic!("two") };
    let Command::Env(pairs) = &env.command else { panic!("ENV") };
    assert_eq!(pairs[0].value.text, "\u{fffd}\u{fffd}");
    assert_eq!(pairs[1].value.span, Span { start: 18, end: 19 });
    assert_eq!(env.origin.invalid_utf8, Some(Span { start: 13, end: 15 }));
    let Command::Copy(copy) = &copy.command else { panic!("COPY") };
    assert_eq!(copy.transfer.inline[0].heredoc.body, b"\xFF\n");
}

#[test]
fn json_that_is_none_is_text_and_says_where() {
    for (source, want) in [
        ("FROM a\nCMD ['x']", Some("'")),
        ("FROM a\nCMD [\"x\", ]", Some("]")),
        ("FROM a\nRUN [\"x\"] y", Some("y")),
        ("FROM a\nCOPY [\"x\" \"y\"] z", Some("\"")),
        ("FROM a\nRUN [ -f x ]", Some("-")),
        ("FROM a\nRUN [\"x\"]", None),
        ("FROM a\nRUN x", None),
    ] {
        let file = parse(source.as_bytes()).unwrap();
        let origin = &file.stages[0].instructions[0].origin;
        assert_eq!(
            origin.invalid_json.map(|span| slice(source, span)).as_deref(),
            want,
            "{source}"
        );
    }
}

#[track_caller]
fn check_errors(cases: &[(&str, &[(&str, &str)])]) {
    for (source, want) in cases {
        let errors = parse(source.as_bytes()).unwrap_err();
        let got: Vec<(&str, String)> =
            errors.iter().map(|e| (e.message.as_str(), slice(source, e.span))).collect();
        let want: Vec<(&str, String)> = want.iter().map(|(m, p)| (*m, (*p).to_owned())).collect();
        assert_eq!(got, want, "{source}");
        for error in errors.iter().filter(|error| error.line > 0) {
            let line = source[..error.span.start].matches('\n').count() as u32 + 1;
            assert!(error.line <= line, "{source}: {error:?}");
        }
    }
}

#[test]
fn mistakes_are_named_at_their_place() {
    check_errors(&[
        ("", &[("file with no instructions", "")]),
        ("# x\n\n", &[("file with no instructions", "")]),
        ("ARG a", &[("dockerfile contains no stages to build", "")]),
        ("RUN a\nFROM b\nRUN c", &[("no build stage in current context", "RUN")]),
        ("FROM", &[("FROM requires either one or three arguments", "FROM")]),
        ("FROM a b", &[("FROM requires either one or three arguments", "b")]),
        (
            "FROM a AS 1b",
            &[(
                "invalid name for build stage: \"1b\", name can't start with a number or contain symbols",
                "1b",
            )],
        ),
        ("FROM --platfrom=x a", &[("unknown flag `--platfrom` on FROM", "--platfrom")]),
        ("FROM a\nCPOY x y", &[("unknown instruction `CPOY`", "CPOY")]),
        ("FROM a\nCOPY --link --link x y", &[("duplicate flag specified: --link", "--link")]),
        ("FROM a\nCOPY --from x y", &[("missing a value on flag: --from", "--from")]),
        (
            "FROM a\nCOPY --link=1 x y",
            &[("expecting boolean value for flag --link, not: 1", "--link=1")],
        ),
        ("FROM a\nCOPY --link= x y", &[("missing a value on flag: --link", "--link=")]),
        (
            "FROM a\nCOPY x",
            &[(
                "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
                "COPY x",
            )],
        ),
        ("FROM a\nCOPY x <<E\nE", &[("COPY cannot accept a heredoc as a destination", "<<E")]),
        ("FROM a\nCOPY <<E /\nx", &[("unterminated heredoc", "COPY <<E /")]),
        ("FROM a\nENV a", &[("ENV must have two arguments", "a")]),
        (
            "FROM a\nENV a=b c",
            &[("Syntax error - can't find = in \"c\". Must be of the form: name=value", "c")],
        ),
        ("FROM a\nENV =b", &[("ENV names can not be blank", "=b")]),
        ("FROM a\nARG =b", &[("ARG names can not be blank", "=b")]),
        ("FROM a\nLABEL", &[("LABEL requires at least one argument", "LABEL")]),
        ("FROM a\nUSER", &[("USER requires exactly one argument", "USER")]),
        (
            "FROM a\nCMD [\"a\", 1]",
            &[("when using JSON array syntax, arrays must be comprised of strings only", "1")],
        ),
        ("FROM a\nSHELL sh -c", &[("SHELL requires the arguments to be in JSON form", "sh -c")]),
        ("FROM a\nSHELL []", &[("SHELL requires at least one argument", "SHELL []")]),
        ("FROM a\nVOLUME [\" \"]", &[("VOLUME specified can not be an empty string", "\" \"")]),
        ("FROM a\nRUN --network=frob x", &[("invalid network mode \"frob\"", "frob")]),
        ("FROM a\nRUN --security=x y", &[("security \"x\" is not valid", "x")]),
        (
            "FROM a\nRUN --mount=from=$X,target=/a x",
            &[("'from' doesn't support variable expansion, define alias stage instead", "from=$X")],
        ),
        (
            "FROM a\nHEALTHCHECK NONE x",
            &[("HEALTHCHECK NONE takes no arguments", "HEALTHCHECK NONE x")],
        ),
        (
            "FROM a\nHEALTHCHECK CMD",
            &[("Missing command after HEALTHCHECK CMD", "HEALTHCHECK CMD")],
        ),
        (
            "FROM a\nHEALTHCHECK frob x",
            &[("Unknown type \"FROB\" in HEALTHCHECK (try CMD)", "frob")],
        ),
        (
            "FROM a\nHEALTHCHECK --interval=1us CMD x",
            &[("Interval \"interval\" cannot be less than 1ms", "1us")],
        ),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", &[("--retries cannot be negative (-1)", "-1")]),
        ("FROM a\nONBUILD FROM x", &[("FROM isn't allowed as an ONBUILD trigger", "FROM")]),
        (
            "FROM a\nONBUILD ONBUILD RUN x",
            &[("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", "ONBUILD")],
        ),
    ]);
}

#[test]
fn mistakes_that_do_not_depend_on_each_other_come_together() {
    check_errors(&[
        (
            "FROM a\nENV x\nCPOY\nUSER\nEXPOSE 80",
            &[
                ("ENV must have two arguments", "x"),
                ("unknown instruction `CPOY`", "CPOY"),
                ("USER requires exactly one argument", "USER"),
            ],
        ),
        // A `\` is missing at the end of the RUN.
        (
            "FROM a\nRUN x &&\n  y && \\\n  z\n  w\nUSER",
            &[("unknown instruction `y`", "y"), ("USER requires exactly one argument", "USER")],
        ),
        (
            "FROM a b c d\nRUN x\nUSER",
            &[
                ("FROM requires either one or three arguments", "b c d"),
                ("USER requires exactly one argument", "USER"),
            ],
        ),
        ("RUN a\nRUN b", &[("no build stage in current context", "RUN")]),
    ]);
    let many = format!("FROM a\n{}", "USER\n".repeat(100));
    assert_eq!(parse(many.as_bytes()).unwrap_err().len(), ERRORS_MAX);
}

#[test]
fn unchecked_flags_are_buildkits() {
    // BuildKit does not look at the flags of these.
    let source = "FROM a\nARG --x A\nSTOPSIGNAL --x 9\nHEALTHCHECK --x NONE";
    assert_eq!(parse(source.as_bytes()).unwrap().stages[0].instructions.len(), 3);
}

#[test]
fn triggers_are_recorded_as_typed_and_read() {
    for (source, expression, is_read) in [
        ("ONBUILD  RUN  a   b ", "RUN  a   b ", true),
        ("onbuild\tcopy a b", "copy a b", true),
        ("ONBUILD RUN <<A <<-B\n\tx\nA\n\ty\n\tB", "RUN <<A <<-B\n\tx\nA\n\ty\nB", true),
        ("ONBUILD COPY a", "COPY a", false),
        ("ONBUILD FROBNICATE", "FROBNICATE", false),
    ] {
        let file = parse(format!("FROM x\n{source}").as_bytes()).unwrap();
        let Command::Onbuild(onbuild) = &file.stages[0].instructions[0].command else {
            panic!("{source}")
        };
        assert_eq!((onbuild.expression.as_str(), onbuild.trigger.is_some()), (expression, is_read));
        if let Ok(trigger) = parse_instruction(&onbuild.expression) {
            assert!(is_read);
            let inner = onbuild.trigger.as_ref().unwrap();
            assert_eq!(trigger.command.name(), inner.command.name());
        }
    }
    assert!(parse_instruction("RUN a\nRUN b").is_err());
    assert!(parse_instruction("FROM a").is_err());
}

#[test]
fn of_bodies_with_one_name_the_last_counts() {
    let file = parse(b"FROM a\nCOPY <<E <<E /\none\nE\ntwo\nE\n").unwrap();
    let Command::Copy(copy) = &file.stages[0].instructions[0].command else { panic!("COPY") };
    let bodies: Vec<_> = copy.transfer.inline.iter().map(|f| f.heredoc.body.as_slice()).collect();
    assert_eq!(bodies, [b"two\n", b"two\n"]);
}

#[test]
fn longest_line_is_buildkits() {
    let line = |length: usize| format!("FROM a\nRUN {}", "x".repeat(length - 4));
    assert!(parse(line(65535).as_bytes()).is_ok());
    assert!(parse(format!("{}\n", line(65535)).as_bytes()).is_ok());
    for source in [line(65536), format!("{}\n", line(65536))] {
        let errors = parse(source.as_bytes()).unwrap_err();
        assert_eq!(errors[0].kind, ErrorKind::Limit);
        assert_eq!(errors[0].message, "dockerfile line greater than max allowed size of 65535");
        assert_eq!((errors[0].line, errors[0].span.start), (2, 7));
    }
}

#[test]
fn file_over_the_limit_is_refused_by_name() {
    let source = vec![b'\n'; SOURCE_MAX + 1];
    let errors = parse(&source).unwrap_err();
    assert!(errors[0].message.contains("16777216"), "{errors:?}");
}

/// The parts of the only instruction behind `FROM a`.
fn parts_of(body: &str) -> usize {
    let file = parse(format!("FROM a\n{body}").as_bytes()).unwrap();
    match &file.stages[0].instructions[0].command {
        Command::Run(run) => match &run.command {
            CommandLine::Shell(word) => word.text.len(),
            CommandLine::Exec(words) => words.len(),
        },
        Command::Env(pairs) => pairs.len(),
        other => panic!("{other:?}"),
    }
}

/// A text in lines that are not too long.
fn continued(text: &str) -> String {
    let chunks = text.as_bytes().chunks(60_000).map(|c| std::str::from_utf8(c).unwrap());
    chunks.collect::<Vec<_>>().join("\\\n")
}

/// Bytes: enough that what is quadratic does not end, and not so many that a build without
/// optimisation takes its time. `benches/parse.rs` has longer ones.
const LONG: usize = 1 << 18;

#[test]
fn many_lines_are_read_in_linear_time() {
    assert_eq!(parts_of(&format!("RUN x{}", "\\\ny".repeat(100_000))), 100_001);
    assert_eq!(parts_of(&format!("RUN x{}\\\ny", "\\\n# c\n".repeat(100_000))), 2);
    let file = parse(format!("FROM a\n{}", "USER x\n".repeat(20_000)).as_bytes()).unwrap();
    assert_eq!(file.stages[0].instructions.len(), 20_000);
    assert_eq!(parse("FROM a\n".repeat(20_000).as_bytes()).unwrap().stages.len(), 20_000);
    let markers = (0..1_000).map(|n| format!(" <<E{n}")).collect::<Vec<_>>().concat();
    let bodies = (0..1_000).map(|n| format!("E{n}\n")).collect::<Vec<_>>().concat();
    assert!(parts_of(&format!("RUN{markers}\n{bodies}")) > 0);
}

#[test]
fn many_words_are_read_in_linear_time() {
    let words = LONG / 4;
    assert_eq!(parts_of(&format!("ENV {}", continued(&"a=b ".repeat(words)))), words);
    let array = format!("[{}\"a\"]", "\"a\",".repeat(words));
    assert_eq!(parts_of(&format!("RUN {}", continued(&array))), words + 1);
}

/// None of these may overflow a test thread's stack.
#[test]
fn what_nests_without_end_is_read_or_refused() {
    for text in ["${a:-", "[", "[[[\"", "{\"a\":[", "<<", " <<", "\\\"", "\u{a0}"] {
        let text = format!("{}x", text.repeat(LONG / text.len()));
        assert!(parts_of(&format!("RUN {}", continued(&text))) > 0);
    }
    assert_eq!(parts_of(&format!("RUN {}", continued(&"${a:-".repeat(200_000)))), 1_000_000);
    let triggers = format!("FROM a\n{}", continued(&"ONBUILD ".repeat(LONG / 8)));
    let errors = parse(triggers.as_bytes()).unwrap_err();
    assert!(errors[0].message.starts_with("Chaining ONBUILD"));
}
