//! Whether a working tree has files that its commit does not: `git status`, without the repository's
//! configuration.
//!
//! A configuration can name programs that `git status` runs (file system monitors, filters), and a
//! build must not run what a directory brings along. So git gets a repository of ours: an empty
//! directory with the commit as its `HEAD`, and the objects and the index of the other.
//!
//! Source: git(1), "The Git Repository"; gitattributes(5), "filter".

use super::git;
use crate::context::WorkTree;
use crate::sys::cancel::Cancel;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Settings that say how files of the tree are to be compared. None of them runs anything.
const SETTINGS: [(&str, &str); 7] = [
    ("core", "autocrlf"),
    ("core", "eol"),
    ("core", "filemode"),
    ("core", "ignorecase"),
    ("core", "symlinks"),
    ("core", "trustctime"),
    ("extensions", "objectformat"),
];

/// Says whether files were changed, added or removed since the commit, those that are ignored
/// included, as buildx does. Where git cannot say it, or is not there, they were.
///
/// `scratch` is an empty directory.
///
/// # Errors
///
/// Of the kind `Interrupted` where the build was cancelled; where `scratch` cannot be written.
pub fn is_dirty(tree: &WorkTree, scratch: &Path, cancel: &Cancel) -> io::Result<bool> {
    let Some(commit) = &tree.commit else { return Ok(true) };
    let ours = scratch.join("git");
    for dir in ["refs", "objects"] {
        fs::create_dir_all(ours.join(dir))?;
    }
    fs::write(ours.join("HEAD"), format!("{commit}\n"))?;
    let known = |section: &str, key: &str| tree.setting(section, key);
    let mut config = "[core]\n\tbare = false\n".to_owned();
    for (section, key) in SETTINGS {
        let value = known(section, key);
        let is_word = |value: &String| value.bytes().all(|b| b.is_ascii_alphanumeric());
        if let Some(value) = value.filter(is_word) {
            config.push_str(&format!("[{section}]\n\t{key} = {value}\n"));
        }
    }
    let format = u8::from(known("extensions", "objectformat").is_some());
    config.push_str(&format!("[core]\n\trepositoryformatversion = {format}\n"));
    fs::write(ours.join("config"), config)?;
    // The parts of a split index are looked for beside the repository.
    for entry in fs::read_dir(&tree.git_dir).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"sharedindex.") {
            std::os::unix::fs::symlink(entry.path(), ours.join(entry.file_name()))?;
        }
    }
    let said = scratch.join("status");
    let mut command = Command::new("git");
    command
        .args(["--no-optional-locks", "-c", "core.hooksPath=/dev/null"])
        .args(["-c", "core.fsmonitor=false", "-c", "core.attributesFile=/dev/null"])
        // A submodule has a configuration of its own.
        .args(["status", "--porcelain", "--ignored", "--ignore-submodules=dirty"])
        .current_dir(&tree.root);
    git::forget_variables(&mut command);
    let child = command
        .env("GIT_DIR", &ours)
        .env("GIT_WORK_TREE", &tree.root)
        .env("GIT_INDEX_FILE", tree.git_dir.join("index"))
        .env("GIT_OBJECT_DIRECTORY", tree.common_dir.join("objects"))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(File::create(&said)?)
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let Ok(child) = child else { return Ok(true) };
    match git::wait(child, cancel)? {
        None => Err(io::ErrorKind::Interrupted.into()),
        Some(status) => Ok(!status.success() || fs::metadata(&said)?.len() > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(dir: &Path, words: &[&str]) {
        let status = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"])
            .args(words)
            .current_dir(dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .status()
            .unwrap();
        assert!(status.success(), "{words:?}");
    }

    fn is_dirty(dir: &Path) -> bool {
        let scratch = tempfile::tempdir().unwrap();
        super::is_dirty(&WorkTree::around(dir).unwrap(), scratch.path(), &Cancel::new()).unwrap()
    }

    #[test]
    fn a_changed_tree_is_dirty_and_its_configuration_runs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, ran) = (dir.path().join("tree"), dir.path().join("ran"));
        fs::create_dir(&tree).unwrap();
        git(&tree, &["init", "-q"]);
        assert!(is_dirty(&tree), "nothing is committed");
        fs::write(tree.join("a"), "1").unwrap();
        fs::write(tree.join(".gitattributes"), "* filter=evil\n").unwrap();
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "-qm", "1"]);
        assert!(!is_dirty(&tree));
        let script = format!("touch {}; cat", ran.display());
        for key in ["filter.evil.clean", "filter.evil.process", "core.fsmonitor", "core.pager"] {
            git(&tree, &["config", key, &script]);
        }
        // Of another size than the index knows, so that it has to be read.
        fs::write(tree.join("a"), "22").unwrap();
        assert!(is_dirty(&tree));
        fs::write(tree.join("a"), "1").unwrap();
        assert!(!is_dirty(&tree));
        fs::write(tree.join("new"), "").unwrap();
        assert!(is_dirty(&tree), "a file that is not tracked");
        assert!(!ran.exists(), "a program of the configuration ran");
    }
}
