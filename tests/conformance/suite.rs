//! The directory of recorded cases, as it was recorded.
//!
//! Copies of the suite may have lost their symbolic links on the way: each is then a file that holds
//! the link's target. The links are put back in a copy of our own, where there is none at all.

use crate::kit::host;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest target of a lost link, in bytes; the cases have no longer one.
const TARGET_MAX: u64 = 100;

/// A link of the suite whose target is not there, so that nothing shows that it was one.
const DANGLING: &str = "copy-symlink-dangling-direct/l";

/// The suite, and the copy it may be.
pub(crate) struct Suite {
    dir: PathBuf,
    _copy: Option<tempfile::TempDir>,
}

impl Suite {
    /// Finds the suite beside this checkout; `None`, said aloud, where it stands without it.
    pub(crate) fn find() -> Option<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join("shared/conformance");
        if !dir.join("conform.py").is_file() {
            cannot_run_here!(optional: "no recorded cases at {}", dir.display());
            return None;
        }
        host::has("python3", "python3").then_some(Self { dir, _copy: None })
    }

    /// As [`Suite::find`], with the cases as they are to be built.
    pub(crate) fn with_links() -> Option<Self> {
        let found = Self::find()?;
        let mut files = Vec::new();
        list(&found.dir.join("cases"), &mut files);
        if files.iter().any(|path| path.is_symlink()) {
            return Some(found);
        }
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(&found.dir).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let dir = copy.path().join("conformance");
        let cases = dir.join("cases");
        let mut count = 0;
        for file in &files {
            let file = cases.join(file.strip_prefix(found.dir.join("cases")).unwrap());
            if let Some(target) = lost_link(&cases, &file) {
                fs::remove_file(&file).unwrap();
                std::os::unix::fs::symlink(target, &file).unwrap();
                count += 1;
            }
        }
        println!("{} has no symbolic links: {count} are put back in a copy", found.dir.display());
        Some(Self { dir, _copy: Some(copy) })
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts to describe a run of Python in it.
    pub(crate) fn python(&self) -> Command {
        let mut command = Command::new("python3");
        command.current_dir(&self.dir).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            list(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// The target that a file without a line end holds, if it is the name of something beside it.
fn lost_link(cases: &Path, file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let metadata = fs::symlink_metadata(file).ok()?;
    if !metadata.is_file() || metadata.len() >= TARGET_MAX || name.starts_with("Dockerfile") {
        return None;
    }
    let target = fs::read_to_string(file).ok()?;
    let is_path = !target.is_empty() && !target.contains(['\n', '\0']) && !target.starts_with('/');
    let is_there =
        is_path && target != name && fs::symlink_metadata(file.parent()?.join(&target)).is_ok();
    (is_there || is_path && file == cases.join(DANGLING)).then_some(target)
}
