//! Archives of builds: written here, read on another machine.
//!
//! ```text
//! builder-history.json        {"builds":["<id>",…],"format":"builder-history","version":1}
//! builds/<id>/build.jsonl     as in the store: the head, then one line a step
//! builds/<id>/logs/<number>   what a step wrote, as in the store
//! trees/<hash>                listings that inputs of steps name, one JSON object a line
//! ```
//!
//! A gzipped tar of regular files in this order: ids ascending, logs by number, listings by hash;
//! no times, no owners. The same builds give the same bytes.
//!
//! An archive is read as what a stranger sent: sizes and numbers are bounded, names are those above
//! or the archive is refused, and nothing is in the history before all of it has been read. One
//! record is in memory at a time. Listings stay with the builds that came with them, so none can
//! stand for files of this machine.

mod read;

use super::log::{FINISHED, LOGS};
use super::record::{BuildRecord, Head, Outcome, StepOutcome};
use super::{BuildId, History, HistoryError, IMPORTED, IoContext as _, TREES};
use crate::cache::{Cache, TreeEntry, TreeId, Value};
use crate::oci::Digest;
use crate::store::{Key, Store};
use crate::sys::cancel::Cancel;
use read::{Reading, Staged};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// The first member.
const TABLE: &str = "builder-history.json";

/// What the first member says the archive is.
const FORMAT: &str = "builder-history";

/// The format of the archive.
const VERSION: u32 = 1;

/// Most ids that are tried for a build whose own is taken. Builds of one millisecond have
/// neighbouring ids, so few are.
const IDS_MAX: usize = 1000;

#[derive(Debug, Serialize, Deserialize)]
struct Table {
    builds: Vec<BuildId>,
    format: String,
    version: u32,
}

/// A build that was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// The id it has in the archive.
    pub there: BuildId,
    /// The id it has here: another one where that one is taken.
    pub here: BuildId,
    /// Whether it was here before.
    pub is_known: bool,
    /// How many logs were left out because they expand to too much, or are damaged.
    pub logs_left_out: usize,
}

impl History {
    /// Writes an archive of builds. `hide` takes out of a record what must not leave the machine.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Running`] for a build that has not ended, what reading a build says, and
    /// [`HistoryError::Write`].
    pub fn export(
        &self,
        ids: &BTreeSet<BuildId>,
        listings: &Cache,
        hide: impl Fn(&mut BuildRecord),
        out: &mut dyn Write,
        cancel: &Cancel,
    ) -> Result<(), HistoryError> {
        let written = |source| HistoryError::Write { source };
        let gzip = flate2::GzBuilder::new().write(out, flate2::Compression::default());
        let mut tar = tar::Builder::new(gzip);
        let table = Table {
            builds: ids.iter().copied().collect(),
            format: FORMAT.to_owned(),
            version: VERSION,
        };
        let table = serde_json::to_vec(&table).expect("a table is plain data");
        append(&mut tar, TABLE, table.len() as u64, &*table).map_err(written)?;
        let mut trees = BTreeSet::new();
        for id in ids {
            let mut build = self.read(*id)?;
            if build.outcome == Outcome::Running {
                return Err(HistoryError::Running { id: *id });
            }
            hide(&mut build);
            trees.extend(trees_of(&build));
            let lines = lines(&build);
            let place = format!("builds/{id}");
            let name = format!("{place}/{FINISHED}");
            append(&mut tar, &name, lines.len() as u64, &*lines).map_err(written)?;
            for step in &build.steps {
                if cancel.is_cancelled() {
                    return Err(HistoryError::Cancelled);
                }
                let path = self.directory(*id).join(LOGS).join(step.number.to_string());
                let file = match File::open(&path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    other => other.context("open", &path)?,
                };
                let size = file.metadata().context("read", &path)?.len();
                let name = format!("{place}/{LOGS}/{}", step.number);
                append(&mut tar, &name, size, file.take(size)).map_err(written)?;
            }
        }
        for tree in trees {
            let Some(entries) = self.listing_of(&tree, ids, listings) else { continue };
            let mut bytes = Vec::new();
            for entry in entries {
                push(&mut bytes, &entry);
            }
            let name = format!("{TREES}/{}", Key::from_bytes(tree.0).to_hex());
            append(&mut tar, &name, bytes.len() as u64, &*bytes).map_err(written)?;
        }
        let gzip = tar.into_inner().map_err(written)?;
        gzip.finish().map_err(written)?.flush().map_err(written)
    }

    /// Finds a listing: in the store, or with a build that was imported.
    fn listing_of(
        &self,
        tree: &TreeId,
        ids: &BTreeSet<BuildId>,
        listings: &Cache,
    ) -> Option<Vec<TreeEntry>> {
        let known = listings.tree(tree).ok().flatten();
        known.or_else(|| ids.iter().find_map(|id| self.imported_listing(*id, tree)))
    }

    /// Reads a listing that came with an imported build; `None` where there is none.
    pub fn imported_listing(&self, id: BuildId, tree: &TreeId) -> Option<Vec<TreeEntry>> {
        let name = Key::from_bytes(tree.0).to_hex();
        let bytes = fs::read(self.directory(id).join(TREES).join(name)).ok()?;
        serde_json::Deserializer::from_slice(&bytes).into_iter().collect::<Result<_, _>>().ok()
    }

    /// Reads an archive and adds its builds to the history.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Archive`] for what is not such an archive, [`HistoryError::NewerArchive`]; the
    /// history is as it was then.
    pub fn import(
        &self,
        store: &Store,
        input: impl Read + Send,
        now_ms: i64,
        cancel: &Cancel,
    ) -> Result<Vec<Imported>, HistoryError> {
        let work =
            store.session().and_then(|session| session.new_work()).map_err(HistoryError::Store)?;
        let mut claimed = Vec::new();
        let result = Reading::new(&work, now_ms, cancel)
            .read(input)
            .and_then(|builds| self.take_in(builds, &work, &mut claimed, cancel));
        if result.is_err() {
            for id in claimed {
                // Fails for a build that is there by now.
                let _ = fs::remove_dir(self.directory(id));
            }
        }
        let _ = fs::remove_dir_all(&work);
        result
    }

    /// Puts builds that have been read and checked into the history.
    fn take_in(
        &self,
        builds: BTreeMap<BuildId, Staged>,
        work: &Path,
        claimed: &mut Vec<BuildId>,
        cancel: &Cancel,
    ) -> Result<Vec<Imported>, HistoryError> {
        // Ids first: builds name each other.
        let (mut ids, mut imported) = (BTreeMap::new(), Vec::new());
        for (there, staged) in &builds {
            let (here, is_known) = self.id_for(*there, &staged.facts, cancel)?;
            if !is_known {
                claimed.push(here);
            }
            ids.insert(there.to_string(), here.to_string());
            let logs_left_out = staged.logs_left_out;
            imported.push(Imported { there: *there, here, is_known, logs_left_out });
        }
        for (done, staged) in imported.iter().zip(builds.into_values()) {
            if done.is_known {
                continue;
            }
            let record = staged.dir.join(FINISHED);
            let bytes = fs::read(&record).context("read", &record)?;
            let mut build = read::parse(done.there, &bytes)?;
            (build.id, build.is_imported) = (done.here, true);
            for step in &mut build.steps {
                if let StepOutcome::Hit { build, .. } = &mut step.outcome
                    && let Some(here) = ids.get(build)
                {
                    build.clone_from(here);
                }
            }
            let trees = staged.dir.join(TREES);
            for tree in trees_of(&build) {
                let name = Key::from_bytes(tree.0).to_hex();
                let from = work.join(TREES).join(&name);
                if from.exists() {
                    fs::create_dir_all(&trees).context("create", &trees)?;
                    fs::hard_link(&from, trees.join(name)).context("link", &from)?;
                }
            }
            fs::write(&record, lines(&build)).context("write", &record)?;
            let mark = staged.dir.join(IMPORTED);
            File::create_new(&mark).context("create", &mark)?;
            let place = self.directory(done.here);
            fs::rename(&staged.dir, &place).context("create", &place)?;
        }
        Ok(imported)
    }

    /// Finds the id that a build gets here, and claims it by an empty directory; or the id that it
    /// has here already.
    fn id_for(
        &self,
        there: BuildId,
        facts: &Facts,
        cancel: &Cancel,
    ) -> Result<(BuildId, bool), HistoryError> {
        let mut id = there;
        for _ in 0..IDS_MAX {
            if cancel.is_cancelled() {
                return Err(HistoryError::Cancelled);
            }
            let dir = self.directory(id);
            match fs::create_dir(&dir) {
                Ok(()) => return Ok((id, false)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).context("create", &dir),
            }
            if self.read(id).is_ok_and(|here| Facts::of(&here) == *facts) {
                return Ok((id, true));
            }
            id = id.next();
        }
        Err(refused(format!("build {there}: {IDS_MAX} builds here have its id and the next ones")))
    }
}

/// What sets a build apart from another one: of two builds not even the times are the same.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    started_ms: i64,
    finished_ms: Option<i64>,
    target: String,
    image: Option<Digest>,
    steps: usize,
}

impl Facts {
    fn of(build: &BuildRecord) -> Self {
        Self {
            started_ms: build.about.started_ms,
            finished_ms: build.finished_ms,
            target: build.about.target.clone(),
            image: build.image,
            steps: build.steps.len(),
        }
    }
}

fn refused(what: impl Into<String>) -> HistoryError {
    HistoryError::Archive { what: what.into() }
}

/// The listings that the inputs of a build name.
fn trees_of(build: &BuildRecord) -> BTreeSet<TreeId> {
    let inputs = build.steps.iter().flat_map(|step| step.inputs.iter());
    let tree = |value: &Value| match value {
        Value::Tree(tree) => Some(*tree),
        Value::Text(_) | Value::List(_) => None,
    };
    inputs.filter_map(|input| tree(&input.value)).collect()
}

/// A build as its file has it.
fn lines(build: &BuildRecord) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, &Head::of(build));
    for step in &build.steps {
        push(&mut bytes, step);
    }
    bytes
}

fn push(bytes: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *bytes, value).expect("a record is plain data");
    bytes.push(b'\n');
}

/// Adds a regular file without times and owners.
fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    tar.append(&header, content)
}

#[cfg(test)]
mod tests;
