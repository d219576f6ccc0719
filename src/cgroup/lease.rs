//! Record of the control groups that were made, so that the next command can remove them after a
//! `kill -9`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::group::{kill_members, remove};
use super::hierarchy::Hierarchy;

/// A claim on groups whose names start with a prefix. Dropping it gives the claim up.
#[derive(Debug)]
pub(super) struct Lease {
    path: PathBuf,
    prefix: String,
    /// Holds the lock.
    _file: File,
    parents: Vec<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Claim {
    prefix: String,
    parents: Vec<PathBuf>,
}

impl Lease {
    pub(super) fn take(dir: &Path, hierarchy: &Hierarchy) -> io::Result<Self> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let id = format!("{:016x}", u64::from_ne_bytes(random));
        let prefix = format!("builder-{id}-");
        let parents: Vec<PathBuf> = hierarchy
            .v1
            .values()
            .chain(hierarchy.v2.as_ref().map(|v2| &v2.parent))
            .cloned()
            .collect();
        let claim = Claim { prefix: prefix.clone(), parents: parents.clone() };
        // Locked before it has its name: a sweep that sees the name sees the lock.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.as_file().lock()?;
        file.write_all(&serde_json::to_vec(&claim)?)?;
        let path = dir.join(format!("cgroups-{id}"));
        let file = file.persist(&path)?;
        Ok(Self { path, prefix, _file: file, parents })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What could not be removed is left to the next sweep, with the file that names it.
        if clear(&self.parents, &self.prefix) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Removes the groups of all leases that no process holds.
pub(super) fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("cgroups-") {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => continue,
        }
        let claim = serde_json::from_reader::<_, Claim>(&file);
        let is_done = match &claim {
            // A prefix that names nothing of ours would reach others' groups.
            Ok(claim) if claim.prefix.starts_with("builder-") => {
                clear(&claim.parents, &claim.prefix)
            }
            _ => true,
        };
        if is_done {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Removes all groups with the prefix; says whether none is left.
fn clear(parents: &[PathBuf], prefix: &str) -> bool {
    let mut is_clear = true;
    for parent in parents {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                kill_members(&entry.path());
                is_clear &= remove(&entry.path());
            }
        }
    }
    is_clear
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(parent: &Path) -> Hierarchy {
        let mut hierarchy = Hierarchy::default();
        hierarchy.v1.insert("memory".into(), parent.to_owned());
        hierarchy
    }

    #[test]
    fn a_dead_process_s_groups_are_swept_and_a_living_one_s_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, tree) = (dir.path().join("leases"), dir.path().join("tree"));
        fs::create_dir(&leases).unwrap();
        fs::create_dir(&tree).unwrap();
        let alive = Lease::take(&leases, &hierarchy(&tree)).unwrap();
        fs::create_dir(tree.join(format!("{}1", alive.prefix))).unwrap();
        fs::create_dir(tree.join("another-program")).unwrap();
        fs::create_dir(tree.join("builder-dead-1")).unwrap();
        let claim = Claim { prefix: "builder-dead-".into(), parents: vec![tree.clone()] };
        fs::write(leases.join("cgroups-dead"), serde_json::to_vec(&claim).unwrap()).unwrap();

        sweep(&leases);
        assert!(!tree.join("builder-dead-1").exists() && !leases.join("cgroups-dead").exists());
        assert!(tree.join(format!("{}1", alive.prefix)).exists());
        assert!(tree.join("another-program").exists());

        drop(alive);
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&leases).unwrap().count(), 0);
    }
}
