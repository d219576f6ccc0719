//! What an ignore file leaves of a context.

use super::model::{Choices, Model, image_shows, same};
use super::try_numbers;
use crate::kit::Kit;
use std::collections::BTreeSet;

const NAMES: [&str; 6] = ["a", "b", "ab", "abc", "x.o", ".h"];

/// Whether the parts of a pattern match the parts of a path.
fn matches(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**"], _) => !path.is_empty(),
        (["**", rest @ ..], _) => {
            matches(rest, path) || !path.is_empty() && matches(pattern, &path[1..])
        }
        ([first, rest @ ..], [name, below @ ..]) => {
            glob(first.as_bytes(), name.as_bytes()) && matches(rest, below)
        }
        _ => false,
    }
}

/// A backslash takes the meaning from punctuation. Before letters it is one of Go's escapes, which is left out here.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => glob(rest, name) || !name.is_empty() && glob(pattern, &name[1..]),
        ([b'?', rest @ ..], [_, below @ ..]) => glob(rest, below),
        ([b'[', from, b'-', to, b']', rest @ ..], [byte, below @ ..]) => {
            (from..=to).contains(&byte) && glob(rest, below)
        }
        ([b'\\', byte, rest @ ..], [first, below @ ..]) => byte == first && glob(rest, below),
        ([byte, rest @ ..], [first, below @ ..]) => byte == first && glob(rest, below),
        _ => false,
    }
}

/// Whether the lines leave a path out: of all that match it or what it is in, the last counts.
fn is_left_out(lines: &[String], path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let mut is_out = false;
    for line in lines {
        if line.starts_with('#') {
            continue;
        }
        let (is_exception, pattern) = match line.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, line.as_str()),
        };
        let pattern: Vec<&str> =
            pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let hits = (1..=parts.len()).any(|length| matches(&pattern, &parts[..length]));
        if hits && !pattern.is_empty() {
            is_out = !is_exception;
        }
    }
    is_out
}

#[test]
fn random_ignore_files_leave_what_the_model_leaves() {
    try_numbers(10..50, |numbers| {
        let kit = Kit::new();
        let mut tree = Model::default();
        let mut lines: Vec<String> = Vec::new();
        let mut choices = Choices::new(numbers);
        while let Some(mut dice) = choices.next() {
            let depth = 1 + dice.roll(3);
            if dice.roll(3) > 0 {
                let parts: Vec<&str> = (0..depth).map(|_| *dice.of(&NAMES)).collect();
                let path = parts.join("/");
                let is_blocked = path
                    .match_indices('/')
                    .any(|(at, _)| tree.get(&path[..at]).is_some_and(|n| n.kind == 'f'));
                if tree.get(&path).is_none() && !is_blocked {
                    tree.parents(&path, 0o755, (0, 0));
                    tree.put(&path, 'f', 0o644, (0, 0), "x");
                    kit.file(&path, "x");
                }
            } else {
                let words = [
                    "a", "b", "ab", "*", "**", "?b", "[a-b]", "*.o", "a*", "abc", ".h", "\\.h",
                    "x.?", "**",
                ];
                let parts: Vec<&str> = (0..depth).map(|_| *dice.of(&words)).collect();
                let before = *dice.of(&["", "", "!", "!", "/", "!/", "./", "# "]);
                let after = *dice.of(&["", "", "", "/", "/."]);
                lines.push(format!("{before}{}{after}", parts.join("/")));
            }
        }
        kit.file("out/Dockerfile", "FROM scratch\nCOPY . /w/\n");
        let text = lines.join("\n") + "\n";
        kit.file("out/Dockerfile.dockerignore", &text);
        for (path, content) in [
            ("out/Dockerfile", "FROM scratch\nCOPY . /w/\n"),
            ("out/Dockerfile.dockerignore", text.as_str()),
        ] {
            tree.parents(path, 0o755, (0, 0));
            tree.put(path, 'f', 0o644, (0, 0), content);
        }
        let mut kept = BTreeSet::new();
        for path in tree.paths("fd") {
            if !is_left_out(&lines, &path) {
                // With the directories on the way to it.
                kept.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
                kept.insert(path);
            }
        }
        let mut expected = tree.shown("");
        expected.retain(|path, _| kept.contains(path));
        let expected =
            expected.into_iter().map(|(path, text)| (format!("w/{path}"), text)).collect();
        let dockerfile = kit.path("out/Dockerfile");
        let image = kit.build().arg("-f").arg(dockerfile).image();
        same(&format!("with\n{text}"), &image_shows(&image, "w"), &expected);
    });
}
