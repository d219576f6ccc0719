//! What tests need of the machine: other tools, and facts about what runs and what is mounted.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Tells whether a tool is here. A test that goes without one says so, and fails in CI instead.
pub fn has(tool: &str, package: &str) -> bool {
    let is_in = |directory| fs::exists(format!("{directory}/{tool}")).unwrap();
    is_there(super::PATH.split(':').any(is_in), tool, package)
}

/// As [`has`], of a file that no `PATH` leads to.
pub fn has_file(path: &str, package: &str) -> bool {
    is_there(fs::exists(path).unwrap(), path, package)
}

fn is_there(found: bool, what: &str, package: &str) -> bool {
    if !found {
        cannot_run_here!("{what} is missing (apt-get install {package})");
    }
    found
}

/// Runs a tool of the machine and returns what it printed; its failure is the test's.
#[track_caller]
pub fn tool(words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("PATH", super::PATH)
        .output()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The mounts of this mount namespace whose place or source mentions `part`.
pub fn mounts_with(part: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    table.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

/// The size of the file without a name that a process writes beneath a directory, if there is one.
pub fn written_below(pid: u32, directory: &Path) -> Option<u64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    open.flatten().find_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let is_it = target.starts_with(directory) && target.to_str()?.ends_with(" (deleted)");
        is_it.then(|| fs::metadata(entry.path()).ok()).flatten().map(|file| file.len())
    })
}

/// A process and all its descendants, as far as they still have their parents.
pub fn family(root: u32) -> BTreeSet<u32> {
    let mut known = BTreeSet::from([root]);
    loop {
        let before = known.len();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // Everything after the command's closing bracket: state, then the parent.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            if parent.is_some_and(|parent| known.contains(&parent)) {
                known.insert(pid);
            }
        }
        if known.len() == before {
            return known;
        }
    }
}
