//! Every text that the program shows, as a snapshot: a change of words is reviewed as a diff of
//! `testdata/screens/`. `INSTA_UPDATE=always` writes the files anew.
//!
//! What a machine, a clock or a random number decides is replaced before the comparison.

use crate::kit::{Kit, Run};
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Compares a text with the file of this name in `testdata/screens/`.
#[track_caller]
fn is_as_recorded(name: &str, text: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/screens");
    insta::with_settings!({
        snapshot_path => directory,
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

/// Replaces what differs from run to run in any text: the kit's directory and ids.
fn same_everywhere(kit: &Kit, text: &str) -> String {
    let text = text.replace(kit.beside("").to_str().unwrap().trim_end_matches('/'), "KIT");
    replace_words(&text, |word| is_id(word).then_some("ID"))
}

/// Also replaces numbers and times of a report, and the padding that depends on them.
fn without_figures(text: &str) -> String {
    let mut shown = String::new();
    for line in text.lines() {
        if line.starts_with("====") {
            let _ = writeln!(shown, "{line}");
            continue;
        }
        let line = replace_words(line, |word| is_quantity(word).then_some("N"));
        let indent = line.len() - line.trim_start().len();
        let columns = line.split("  ").map(str::trim).filter(|column| !column.is_empty());
        let columns: Vec<String> = columns.map(without_unit).collect();
        let _ = writeln!(shown, "{:indent$}{}", "", columns.join("  "));
    }
    shown
}

/// `N ms` and `N s`, `-` for nothing, and how long ago something was: all are `N`.
fn without_unit(column: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in column.split(' ') {
        let unit = word.trim_end_matches([';', ',', ')']);
        match words.last() {
            Some(last) if last.ends_with('N') && matches!(unit, "ms" | "s" | "MiB") => {
                words.push(&word[unit.len()..]);
            }
            _ => words.extend([" ", word]),
        }
    }
    let column = words.concat().trim().to_owned();
    match column.trim_start_matches('(').trim_end_matches(')') {
        "-" | "N" | "Less than a second ago" => "N".to_owned(),
        inner if inner.ends_with(" ago") => "N".to_owned(),
        _ => column,
    }
}

fn replace_words(text: &str, replaced: impl Fn(&str) -> Option<&'static str>) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let parts = text.split_inclusive(|c: char| !is_of_word(c));
    let words = parts.map(|part| {
        let word = part.trim_end_matches(|c: char| !is_of_word(c));
        replaced(word).unwrap_or(word).to_owned() + &part[word.len()..]
    });
    words.collect()
}

/// A digest, or a build's id.
fn is_id(word: &str) -> bool {
    word.len() >= 10
        && word.bytes().all(|byte| byte.is_ascii_hexdigit())
        && word.bytes().any(|byte| byte.is_ascii_digit())
}

/// `12`, `0.1s`, `4.1MB`, `2026-11-30`: all that depends on the machine or the moment.
fn is_quantity(word: &str) -> bool {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    let is_mode =
        word.len() == 4 && word.starts_with('0') && unit.is_empty() && !word.contains('.');
    unit.len() < word.len()
        && !is_mode
        && word.starts_with(|c: char| c.is_ascii_digit())
        && matches!(unit, "" | "s" | "ms" | "B" | "kB" | "MB" | "GB")
}

/// One section of a file of screens: the command line, its status, what it printed.
#[track_caller]
fn section(kit: &Kit, title: &str, run: Run) -> String {
    let outcome = run.any();
    let status = outcome.status.map_or("signal".to_owned(), |status| status.to_string());
    let mut text = format!("==== {title} [{status}]\n");
    text.push_str(&same_everywhere(kit, &outcome.stdout()));
    if !outcome.text().is_empty() {
        let _ = writeln!(text, "---- stderr\n{}", same_everywhere(kit, outcome.text()));
    }
    text
}

/// The first words of the lines that list commands, above the options.
fn commands_of(help: &str) -> Vec<String> {
    let lists = help.split("Options:").next().unwrap();
    let lines = lists.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let words = lines.filter_map(|line| line.split_whitespace().next());
    let names = words.filter(|word| word.chars().all(|c| c.is_ascii_lowercase()));
    names.map(str::to_owned).collect()
}

#[test]
fn help_of_every_command_is_as_recorded() {
    let kit = Kit::new();
    let help = |words: &[&str]| {
        kit.builder(words.iter().copied().chain(["--help"])).env("BUILDER_ROOT", "").ok().stdout()
    };
    let top = help(&[]);
    let mut text = format!("==== builder --help\n{top}\n");
    let commands = commands_of(&top);
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.iter().filter(|name| *name != "help") {
        let of_command = help(&[command]);
        let _ = write!(text, "==== builder {command} --help\n{of_command}\n");
        if !of_command.contains("Commands:") {
            continue;
        }
        for sub in commands_of(&of_command).iter().filter(|name| *name != "help") {
            let _ =
                write!(text, "==== builder {command} {sub} --help\n{}\n", help(&[command, sub]));
        }
    }
    // Trailing blanks are clap's, and no words of ours.
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    is_as_recorded("help", &lines.join("\n"));
}

/// A Dockerfile with a mistake, or flags that are wrong, beside a file `file` and an image `fixture/base`.
const BUILDS: &[(&str, &str, &[&str])] = &[
    ("unknown instruction", "FROM fixture/base\nCOPPY a b\n", &[]),
    ("unknown flag of an instruction", "FROM fixture/base\nRUN --nework=none x\n", &[]),
    ("unknown stage", "FROM fixture/base AS build\n", &["--target", "biuld"]),
    ("a later stage", "FROM fixture/base AS one\nCOPY --from=two /a /a\nFROM one AS two\n", &[]),
    ("its own stage", "FROM fixture/base AS one\nCOPY --from=one /a /a\n", &[]),
    ("missing file", "FROM fixture/base\nCOPY fil /x\n", &[]),
    ("missing file of a stage", "FROM fixture/base AS a\nFROM a\nCOPY --from=a /nowhere /x\n", &[]),
    ("missing base", "FROM 127.0.0.1:1/image:1\n", &[]),
    ("failing command", "FROM fixture/base\nRUN echo last words; exit 42\n", &[]),
    ("missing program", "FROM fixture/base\nRUN [\"/no/such\"]\n", &[]),
    ("missing user", "FROM fixture/base\nUSER stranger\nRUN true\n", &[]),
    ("missing secret", "FROM fixture/base\nRUN --mount=type=secret,id=s,required true\n", &[]),
    ("missing agent", "FROM fixture/base\nRUN --mount=type=ssh,required true\n", &[]),
    ("command killed", "FROM fixture/base\nRUN kill -9 $$\n", &[]),
    ("bad signal", "FROM fixture/base\nSTOPSIGNAL SIGNOPE\n", &[]),
    ("bad port", "FROM fixture/base\nEXPOSE 80/foo\n", &[]),
    ("bad duration", "FROM fixture/base\nHEALTHCHECK --interval=soon CMD x\n", &[]),
    ("bad variable", "FROM fixture/base\nENV =x\n", &[]),
    ("open brace", "FROM fixture/base\nENV a=${b\n", &[]),
    ("bad mode", "FROM fixture/base\nCOPY --chmod=rwx file /x\n", &[]),
    ("bad owner", "FROM fixture/base\nCOPY --chown=nobody-here file /x\n", &[]),
    ("empty file", "", &[]),
    ("no FROM", "RUN true\n", &[]),
    ("two mistakes", "FROM fixture/base\nSTOPSIGNAL NOPE\nEXPOSE x\n", &[]),
    ("open heredoc", "FROM fixture/base\nRUN <<EOF\ntrue\n", &[]),
    ("bad JSON", "FROM fixture/base\nSHELL [\"a\", b]\n", &[]),
    ("bad mount", "FROM fixture/base\nRUN --mount=type=nope true\n", &[]),
    ("bad mount field", "FROM fixture/base\nRUN --mount=type=cache,targt=/x true\n", &[]),
    ("several sources, one file", "FROM fixture/base\nCOPY file Dockerfile /x\n", &[]),
    ("entitlement", "FROM fixture/base\nRUN --security=insecure true\n", &[]),
    ("network entitlement", "FROM fixture/base\nRUN --network=host true\n", &[]),
    ("bad platform", "FROM fixture/base\n", &["--platform=linux"]),
    ("unknown flag", "FROM fixture/base\n", &["--no-such-flag"]),
    ("bad size", "FROM fixture/base\n", &["--memory=lots"]),
    ("bad number of processors", "FROM fixture/base\n", &["--cpus=many"]),
    ("bad output", "FROM fixture/base\n", &["--output=type=nonsense"]),
    ("bad compression", "FROM fixture/base\n", &["--output=type=oci,compression=lzw,dest=/x"]),
    ("field that an output lacks", "FROM fixture/base\n", &["--output=type=local,dest=x,name=y"]),
    ("bad named context", "FROM fixture/base\n", &["--build-context=noequals"]),
    ("bad progress", "FROM fixture/base\n", &["--progress=loud"]),
    ("bad network", "FROM fixture/base\n", &["--network=wide"]),
    ("attestations", "FROM fixture/base\n", &["--provenance=mode=max"]),
    ("bad tag", "FROM fixture/base\n", &["-t", "Bad Name"]),
    ("bad secret", "FROM fixture/base\n", &["--secret=src="]),
    ("secret of a missing file", "FROM fixture/base\n", &["--secret=id=a,src=/no/such/file"]),
    ("bad ulimit", "FROM fixture/base\n", &["--ulimit=nofile"]),
    ("bad host", "FROM fixture/base\n", &["--add-host=name"]),
    ("bad label", "FROM fixture/base\n", &["--label==x"]),
    ("bad cache", "FROM fixture/base\n", &["--cache-from=type=s4,src=x"]),
    ("missing Dockerfile", "FROM fixture/base\n", &["-f", "other"]),
    ("bad call", "FROM fixture/base\n", &["--call=guess"]),
    ("link to nothing", "FROM fixture/base\nCOPY broken /x\n", &[]),
    ("link out of the context", "FROM fixture/base\nCOPY outside /x\n", &[]),
    ("file above the context", "FROM fixture/base\nCOPY ../file /x\n", &[]),
    ("hidden by the ignore file", "FROM fixture/base\nCOPY hidden /x\n", &[]),
    ("tag without a value", "FROM fixture/base:$TAG\n", &[]),
    ("base without a value", "ARG BASE\nFROM $BASE\n", &[]),
    ("no shell", "FROM scratch\nRUN echo hello\n", &[]),
    ("no program", "FROM scratch\nRUN [\"/hello\"]\n", &[]),
    ("directory as a command", "FROM fixture/base\nRUN [\"/etc\"]\n", &[]),
    ("too little memory", "FROM fixture/base\nRUN true\n", &["--memory=1k"]),
    ("empty tag", "FROM fixture/base\n", &["-t", "app:"]),
    ("two colons in a tag", "FROM fixture/base\n", &["-t", "a:b:c"]),
    (
        "output to a missing directory",
        "FROM fixture/base\n",
        &["-o", "type=oci,dest=no/such/x.tar"],
    ),
    ("empty output", "FROM fixture/base\n", &["-o", ""]),
    ("id in a missing directory", "FROM fixture/base\n", &["--iidfile", "no/such/id"]),
    ("broken policy", "FROM fixture/base\n", &["--source-policy-file", "missing.json"]),
    ("secret without an id", "FROM fixture/base\n", &["--secret", "src=a=b"]),
    ("cache import of nothing", "FROM fixture/base\n", &["--cache-from=type=local,src=no/such"]),
    ("flag of run", "FROM fixture/base\n", &["--detach"]),
    ("flag of another builder", "FROM fixture/base\n", &["--authfile=x"]),
];

/// Further commands that must fail.
const COMMANDS: &[&[&str]] = &[
    &["explain", "--build", "none"],
    &["explain", "--format", "yaml"],
    &["inspect", "nothing/here"],
    &["history"],
    &["history", "nothing/here"],
    &["history", "log", "none"],
    &["history", "--usage", "none"],
    &["rmi", "nothing/here"],
    &["tag", "nothing/here", "other"],
    &["run", "127.0.0.1:1/here"],
    &["save", "nothing/here"],
    &["load", "-i", "missing.tar"],
    &["import", "missing.tar", "name"],
    &["import", "/etc/passwd", "name"],
    &["diff", "a", "b"],
    &["copy", "oci:missing", "docker://127.0.0.1:1/y"],
    &["copy", "floppy:a", "oci:b"],
    &["images", "--filter", "color=red"],
    &["images", "--format", "{{.Nope}}"],
    &["images", "--format", "table {{.Repositry}}\\t{{.Tag}}"],
    &["images", "--format", "yaml"],
    &["images", "--format", "{{range .Tag}}"],
    &["inspect", "--format", "{{.Id | uper}}", "nothing/here"],
    &["inspect", "--type", "container", "nothing/here"],
    &["prune", "--older-than", "soon"],
    &["mounts", "rm", "none"],
    &["store", "verify", "--deep"],
    &["push", "x.invalid/y"],
    &["login", "x.invalid"],
    &["build", "missing"],
    &["build", "https://"],
    &["check", "missing"],
    &["run", "-d", "x"],
    &["run", "--privileged", "x"],
    &["run", "--gpus", "all", "x"],
    &["run", "--pid", "host", "x"],
    &["run", "--no-such-flag", "x"],
    &["run", "-p", "http", "x"],
    &["run", "-v", "relative:/x", "x"],
    &["load", "-i", "/etc/passwd"],
    &["tag", "x"],
    &["rmi"],
    &["save", "x", "-o", "no/such/x.tar"],
    &["ps"],
    &["--config", "gone.toml", "images"],
    &["config", "show", "--format", "{{.Nope}}"],
    &["buidl"],
    &[],
];

#[test]
fn privileged_errors_are_as_recorded() {
    let mut text = String::new();
    for (title, dockerfile, flags) in BUILDS {
        let kit = Kit::new();
        kit.file("file", "x").file("hidden", "x").file(".dockerignore", "hidden\n");
        kit.dockerfile(dockerfile);
        symlink("nothing", kit.path("broken")).unwrap();
        symlink("/etc/passwd", kit.path("outside")).unwrap();
        text += &section(&kit, title, kit.build_showing("quiet").args(*flags));
    }
    for words in COMMANDS {
        let kit = Kit::new();
        let title = format!("builder {}", words.join(" "));
        text += &section(&kit, &title, kit.builder(*words));
    }
    is_as_recorded("errors", &text);
}

#[test]
fn privileged_reports_and_plain_progress_are_as_recorded() {
    let kit = Kit::new();
    kit.file("src/a", "1").file("b", "1").dockerfile(
        "FROM fixture/base AS tools\nARG level=1\nRUN echo $level > /level\n\
         FROM fixture/base\nCOPY src /src\nCOPY b /b\nRUN cat /b; echo made > /made\n\
         COPY --from=tools /level /level\nCMD [\"cat\", \"/made\"]\n",
    );
    let build = || kit.build_showing("plain").args(["--max-parallelism=1", "-t", "app"]);
    let mut text = section(&kit, "build, all runs", build());
    text += &section(&kit, "build, all cached", build());
    kit.file("src/a", "2").chmod("b", 0o755);
    text += &section(&kit, "explain PATH", kit.explain());
    text += &section(&kit, "build, some runs", build());
    text += &section(&kit, "explain", kit.builder(["explain"]));
    text += &section(&kit, "explain --audit PATH", kit.explain().arg("--audit"));
    text += &section(&kit, "history", kit.builder(["history", "app"]));
    text += &section(&kit, "history builds", kit.builder(["history", "builds"]));
    text += &section(&kit, "history --usage", kit.builder(["history", "--usage"]));
    text += &section(&kit, "df", kit.builder(["df"]));
    text += &section(&kit, "images", kit.builder(["images"]));
    text += &section(&kit, "check", kit.check());
    text += &section(&kit, "check of mistakes", {
        kit.dockerfile("from fixture/base as Tools\nMAINTAINER me\nENV a b\nRUN cd /x\nCMD true\n");
        kit.check()
    });
    text += &section(&kit, "targets", kit.build_showing("plain").arg("--call=targets"));
    text += &section(&kit, "store verify", kit.builder(["store", "verify"]));
    text += &section(&kit, "prune --dry-run", kit.builder(["prune", "--dry-run"]));
    text += &section(&kit, "prune --all", kit.builder(["prune", "--all"]));
    text += &section(&kit, "mounts ls", kit.builder(["mounts", "ls"]));
    is_as_recorded("reports", &without_figures(&text));
}
