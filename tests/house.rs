//! The shape of the repository: one order of rooms, no retired word, documents that can be read in a
//! terminal. Nothing is built or run here.

#![allow(clippy::unwrap_used, reason = "a test program: failing is its job")]

use std::fs;
use std::path::{Path, PathBuf};

/// All files below a path of the repository that end so, with their paths in it, sorted.
fn files(below: &str, endings: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut queue) = (Vec::new(), vec![root.join(below)]);
    while let Some(path) = queue.pop() {
        if path.is_dir() {
            queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if endings.iter().any(|ending| path.to_str().unwrap().ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The rooms in the first column of a file's table: those that a line begins with.
fn order_in(file: &str, before: &str) -> Vec<String> {
    let (_, text) = files(file, &[""]).remove(0);
    let rows = text.lines().filter_map(|line| line.strip_prefix(before)?.split_once('`'));
    rows.map(|(room, _)| room.to_owned()).collect()
}

#[test]
fn the_map_and_the_architecture_page_list_the_rooms_in_one_order() {
    let order = order_in("src/lib.rs", "//! | [`");
    assert!(order.len() > 15, "{order:?}");
    assert_eq!(order, order_in("docs/architecture.md", "| [`"));
    let mut rooms: Vec<_> = order.clone();
    rooms.sort();
    let (_, map) = files("src/lib.rs", &[""]).remove(0);
    let modules = map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    assert_eq!(rooms, modules.collect::<Vec<_>>());
}

/// A room above the one it uses cannot be used by it as well, so there are no circles either.
#[test]
fn a_room_uses_only_rooms_below_it() {
    let order = order_in("src/lib.rs", "//! | [`");
    let floor = |room: &str| order.iter().position(|name| name == room);
    let mut upward = Vec::new();
    for (path, text) in files("src", &[".rs"]) {
        let room = path["src/".len()..].split(['/', '.']).next().unwrap().to_owned();
        let Some(here) = floor(&room) else { continue };
        // A test may ask a room above; it is not part of the program.
        if path.ends_with("tests.rs") {
            continue;
        }
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = program.lines().zip(1..).filter(|(line, _)| !line.trim().starts_with("//"));
        for (line, number) in lines {
            for used in line.split("crate::").skip(1) {
                let end = used.find(|c: char| !c.is_ascii_lowercase() && c != '_');
                let used = &used[..end.unwrap_or(used.len())];
                if floor(used).is_some_and(|there| there < here) {
                    upward.push(format!("{path}:{number}: {room} uses {used}, which is above it"));
                }
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

/// Flags are the command line's: what another room takes can be made without them.
#[test]
fn only_the_command_line_knows_of_flags() {
    let outside =
        files("src", &[".rs"]).into_iter().filter(|(path, _)| !path.starts_with("src/cli/"));
    let knows =
        |text: &str| text.lines().any(|line| line.contains("clap") || line.contains("args_os"));
    let found: Vec<_> = outside.filter(|(_, text)| knows(text)).map(|(path, _)| path).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// Words and turns that plain technical English does without, and what to write instead.
const RETIRED: &[(&str, &str)] = &[
    ("somebody", "user, process or caller"),
    ("nobody", "no user, no process"),
    ("anybody", "any user, any process"),
    ("whoever", "the user or process that"),
    ("what became of", "result, outcome"),
    ("comes of", "results from"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("its kin", "similar calls"),
    ("their kin", "similar calls"),
    ("and its like", "similar ones"),
    ("tell", "report, notify"),
    ("tells", "reports, returns"),
    ("told", "reported, notified"),
    ("heed", "use"),
    ("heeds", "uses"),
    ("foretell", "predict"),
    ("meanwhile", "in the meantime"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("is no", "is not a"),
    ("deputy", "supervisor"),
    (", as 512m", "such as 512m"),
    ("/// why.", "what failed, in a sentence"),
];

/// Where such a word is right: a name of the field, or another sense.
const FINE: &[&str] = &[
    "`nobody`",
    "\"nobody\"",
    "user nobody",
    "there is no",
    "is no longer",
    "is no more",
    "is no such",
    "is no sign",
    "fs::tell(",
];

#[test]
fn no_retired_word_is_in_the_source_the_documents_or_the_help() {
    let mut texts = files("src", &[".rs"]);
    for (place, ending) in [("docs", ".md"), ("testdata/screens", ".snap"), ("README.md", ".md")] {
        texts.extend(files(place, &[ending]));
    }
    for page in ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        texts.extend(files(page, &[".md"]));
    }
    let mut found = Vec::new();
    for (path, text) in &texts {
        for (line, number) in text.lines().zip(1..) {
            let mut words = line.to_lowercase();
            for fine in FINE {
                words = words.replace(fine, "");
            }
            let of_word = |c: char| c.is_ascii_alphanumeric();
            for (retired, instead) in RETIRED {
                let is_here = words.match_indices(retired).any(|(at, _)| {
                    !words[..at].ends_with(of_word)
                        && !words[at + retired.len()..].starts_with(of_word)
                });
                if is_here {
                    found.push(format!("{path}:{number}: \"{retired}\": write {instead}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn lines_of_documents_have_at_most_100_columns() {
    let mut long = Vec::new();
    let pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs"];
    for (path, text) in pages.iter().flat_map(|page| files(page, &[".md"])) {
        for (line, number) in text.lines().zip(1..) {
            // A row of a table cannot be wrapped, nor what a program printed.
            let can_wrap = !line.trim_start().starts_with('|') && !line.starts_with("    ");
            if can_wrap && line.chars().count() > 100 {
                long.push(format!("{path}:{number}"));
            }
        }
    }
    assert!(long.is_empty(), "wrap at 100 columns: {}", long.join(", "));
}
