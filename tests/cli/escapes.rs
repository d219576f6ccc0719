//! Text that others chose, on its way to a terminal: no command passes on what steers one.

use crate::kit::{Kit, running::Terminal};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::thread;

/// Sequences that clear a screen, set a clipboard, make a link, colour, begin a line anew, and reorder text.
const HOSTILE: &str =
    "x\u{1b}[2J\u{1b}]52;c;eA==\u{7}\u{1b}]8;;http:e\u{7}\u{9b}31m\u{202e}\u{2066}\u{e0041}\ry";

#[track_caller]
fn is_harmless(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let active = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
    };
    if let Some(at) = text.find(active) {
        let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
        panic!("{what}: {:?}", text[start..].lines().next().unwrap_or_default());
    }
}

/// Files whose names hold sequences, bytes that are no text, and a line break.
fn names(kit: &Kit, more: &[&[u8]]) {
    let hostile = HOSTILE.replace('/', "_");
    let fixed: [&[u8]; 3] = [hostile.as_bytes(), b"bad\xff\x1bname", b"line\nbreak"];
    for name in fixed.iter().chain(more) {
        fs::write(kit.path("").join(OsStr::from_bytes(name)), "1").unwrap();
    }
}

/// [`HOSTILE`] where a carriage return would end a word.
fn odd() -> String {
    HOSTILE.replace('\r', "")
}

/// Builds an image whose files, configuration and history hold sequences.
fn image(kit: &Kit, name: &str, extra: &str) {
    let (odd, key) = (odd(), odd().replace('=', ""));
    kit.dockerfile(&format!(
        "FROM fixture/base\nCOPY . /c/\nLABEL l=\"{HOSTILE}\" \"{key}\"=v maintainer=\"{odd}\"\n\
         ENV E=\"{HOSTILE}\"\nEXPOSE 80\nVOLUME \"/v{odd}\"\nENTRYPOINT [{}]\n{extra}",
        serde_json::to_string(HOSTILE).unwrap(),
    ));
    kit.build().args(["-t", name]).ok();
}

/// A server that answers every request with sequences: a registry, a place of a file.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |mut stream: TcpStream| {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let body = serde_json::json!({"errors": [{"code": HOSTILE, "message": HOSTILE, "detail": HOSTILE}]});
        // JSON's escapes are undone by whoever reads them.
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 404 {}\r\nContent-Type: application/json\r\nX-Odd: \u{1b}[2J\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            odd(),
            body.len()
        );
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    port
}

/// The subcommands that the help lists below some words.
fn listed(kit: &Kit, words: &[&str]) -> Vec<String> {
    let help = kit.builder(words.iter().copied().chain(["--help"])).ok().stdout();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let of = |line: &str| line.split_whitespace().next().map(str::to_owned);
    commands.take_while(|line| line.starts_with("  ")).filter_map(of).collect()
}

#[test]
fn no_command_passes_on_what_would_steer_a_terminal() {
    let kit = Kit::new();
    names(&kit, &[]);
    image(&kit, "a", "");
    names(&kit, &[b"more\xfe\x1b[1A"]);
    let extra = format!(
        "WORKDIR \"/w{HOSTILE}\"\nSHELL [\"/bin/sh\", \"-c\"]\n\
         RUN --mount=type=cache,id=\"i{id}\",target=/k printf '\\033[2J\\233%s\\r\\n' '{run}'\n",
        id = odd(),
        run = odd(),
    );
    image(&kit, "b", &extra);
    let fault = format!("FROM fixture/base\nRUN printf '\\033[2J\\n'; exit 3 # {}\n", odd());
    kit.dockerfile(&fault);
    is_harmless("a failed step", kit.build_showing("plain").fails(4).text().as_bytes());
    let registry = format!("127.0.0.1:{}", server());
    let (there, layout) = (format!("{registry}/r:t"), kit.out("mounts").display().to_string());
    let bad_archive = kit.beside("bad.tar").display().to_string();
    fs::write(&bad_archive, HOSTILE).unwrap();
    let odd_file = kit.beside(&HOSTILE.replace('/', "_")).display().to_string();
    fs::write(&odd_file, HOSTILE).unwrap();
    let saved = kit.out("saved.tar").display().to_string();
    let cases: &[&[&str]] = &[
        &["build", HOSTILE],
        &["build", "--target", HOSTILE, "CONTEXT"],
        &["build", "-f", &odd_file, "CONTEXT"],
        &["build", "--build-arg", HOSTILE, "--progress=plain", "CONTEXT"],
        &["build", "--no-such-flag", HOSTILE],
        &[HOSTILE],
        &["check", HOSTILE],
        &["check", "CONTEXT"],
        &["explain"],
        &["explain", "--format=json"],
        &["explain", "--format=html"],
        &["explain", "CONTEXT"],
        &["explain", "--build", HOSTILE],
        &["run", HOSTILE],
        &["run", "a", HOSTILE],
        &["run", "-w", HOSTILE, "--entrypoint", HOSTILE, "a"],
        &["images"],
        &["images", "--format=json"],
        &["inspect", "b"],
        &["inspect", "--format=json", "b"],
        &["inspect", HOSTILE],
        &["history", "b"],
        &["history", "--no-trunc", "b"],
        &["history", "--format=json", "b"],
        &["history", "--usage"],
        &["history", "builds"],
        &["history", "builds", "--format=json"],
        &["history", "logs", "last"],
        &["history", "logs", "last", "2"],
        &["history", "logs", "last", HOSTILE],
        &["history", "inspect", "last"],
        &["history", "inspect", "last", "--format=json"],
        &["history", "usage", "last"],
        &["history", "compare", "last", "last"],
        &["pull", &there],
        &["pull", HOSTILE],
        &["push", "a", &there],
        &["push", "a"],
        &["copy", &there, "oci:/nowhere/at:all"],
        &["copy", HOSTILE, HOSTILE],
        &["login", "-u", HOSTILE, "-p", "x", &registry],
        &["logout", HOSTILE],
        &["diff", "a", "b"],
        &["diff", "--format=json", "a", "b"],
        &["diff", "a", "nothing\u{1b}[2J"],
        &["tag", "a", HOSTILE],
        &["tag", HOSTILE, "a"],
        &["rmi", HOSTILE],
        &["import", &odd_file, HOSTILE],
        &["import", &odd_file, "c"],
        &["load", "-i", &bad_archive],
        &["load", "-i", &odd_file],
        &["save", "-o", &saved, HOSTILE],
        &["save", "-o", &odd_file, "a"],
        &["df"],
        &["df", "-v"],
        &["df", "--format=json"],
        &["prune", "--filter", HOSTILE],
        &["mounts", "ls"],
        &["mounts", "ls", "--format=json"],
        &["mounts", "export", &layout],
        &["mounts", "rm", HOSTILE],
        &["mounts", "import", &layout],
        &["mounts", "import", &odd_file],
        &["store", "verify"],
        &["doctor"],
        &["doctor", "--format=json"],
        &["prune", "--dry-run"],
    ];
    let context = kit.path("").display().to_string();
    let odd = odd();
    kit.dockerfile(&format!(
        "FROM scratch as \"{odd}\"\nMAINTAINER {odd}\nLABEL {odd} x\nENV a {odd}\nCOPY {odd}missing /\nCMD {odd}\n"
    ));
    for arguments in cases {
        let real =
            |word: &&str| if *word == "CONTEXT" { context.clone() } else { (*word).to_owned() };
        let outcome = kit.builder(arguments.iter().map(real)).run();
        let what = format!("{arguments:?}");
        is_harmless(&what, outcome.bytes());
        is_harmless(&what, outcome.text().as_bytes());
        assert!(!outcome.text().contains("panicked"), "{what}: {}", outcome.text());
        if arguments.iter().any(|word| word.ends_with("json")) && outcome.status == Some(0) {
            for line in outcome.stdout().lines().filter(|line| line.starts_with('{')) {
                // One document a line, or one of many lines.
                if !line.ends_with('{') {
                    serde_json::from_str::<serde_json::Value>(line).unwrap();
                }
            }
        }
    }
    let tried: BTreeSet<&str> = cases.iter().map(|words| words[0]).collect();
    for command in listed(&kit, &[]) {
        assert!(tried.contains(command.as_str()), "{command} is not tried");
        for sub in listed(&kit, &[&command]) {
            let is_tried =
                cases.iter().any(|words| words.len() > 1 && words[..2] == [&command, &sub]);
            assert!(is_tried, "{command} {sub} is not tried");
        }
    }
    for mistake in [
        format!("FROM scratch\nNONSENSE {odd}\n"),
        format!("FROM scratch\nCOPY --{odd}=1 a /\n"),
        format!("FROM {there}{odd}\n"),
        format!("FROM {there}\n"),
        format!("FROM scratch\nADD http://{registry}/{odd} /\n"),
        format!("FROM scratch\nADD http://{registry}/f /\n"),
        format!("FROM fixture/base\nRUN echo; {odd}\n"),
        format!("FROM fixture/base\nUSER {odd}\nRUN true\n"),
        format!("FROM fixture/base\nCOPY --chown={odd} Dockerfile /\n"),
        format!("FROM fixture/base\nCOPY --from={odd} Dockerfile /\n"),
        format!("FROM fixture/base\nRUN --mount=type={odd} true\n"),
        format!("FROM fixture/base\nRUN [\"{odd}\"]\n"),
    ] {
        kit.dockerfile(&mistake);
        let outcome = kit.build_showing("plain").run();
        // A user whom the base does not know is root.
        assert!(outcome.status != Some(0) || mistake.contains("--chown"), "{mistake}");
        is_harmless(&mistake, outcome.text().as_bytes());
    }
    // What a program asks for byte by byte it gets.
    kit.dockerfile("FROM fixture/base\nRUN printf '\\033[2Jraw\\n'\n");
    kit.build().ok();
    let raw = kit.builder(["history", "logs", "last", "--raw", "printf"]).ok();
    assert_eq!(raw.bytes(), b"\x1b[2Jraw\n");
    assert_eq!(kit.builder(["history", "logs", "last", "printf"]).ok().bytes(), b"raw\n");
}

#[test]
fn a_terminal_gets_colours_of_ours_and_none_of_others() {
    let kit = Kit::new();
    names(&kit, &[]);
    let odd = odd();
    kit.dockerfile(&format!("FROM fixture/base\nCOPY . /c\nRUN printf '\\033[2J\\033]52;c;eA==\\007%s\\n' '{odd}'; exit 3\n"));
    let terminal = Terminal::new(40, 120);
    let run = kit.build_showing("tty");
    let mut running = terminal.start(run);
    let shown = running.expect("exit code: 3");
    running.end();
    assert!(shown.contains("\u{1b}["), "no colours: {shown}");
    for part in ["\u{1b}[2J", "\u{1b}]52", "\u{1b}]8", "\u{9b}", "\u{202e}", "\u{7}"] {
        assert!(!shown.contains(part), "{part:?}: {shown:?}");
    }
}
