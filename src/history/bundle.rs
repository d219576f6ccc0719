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
//! or the archive is refused, and nothing is in the history before all of it has been read. Listings
//! stay with the builds that came with them, so none can stand for files of this machine.

use super::log::{FINISHED, LOG_MAX, LOGS, LogReader};
use super::record::{BuildRecord, Head, Origin, Outcome, RECORD_VERSION, StepOutcome, StepRecord};
use super::{BuildId, History, HistoryError, IoContext as _, TREES};
use crate::cache::{Cache, Cost, TreeEntry, TreeId, Value};
use crate::layer::decompress;
use crate::store::{Key, Store};
use crate::sys::cancel::Cancel;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The first member.
const TABLE: &str = "builder-history.json";

/// What the first member says the archive is.
const FORMAT: &str = "builder-history";

/// The format of the archive.
const VERSION: u32 = 1;

/// Most bytes of the first member.
const TABLE_MAX: u64 = 4 << 20;

/// Most bytes of a build's record: a build of a thousand steps has two megabytes.
const RECORD_MAX: u64 = 64 << 20;

/// Most bytes of a listing: that of a million files has a hundred megabytes.
const TREE_MAX: u64 = 256 << 20;

/// Most bytes of all members together.
const TOTAL_MAX: u64 = 8 << 30;

/// Most builds, and most steps of a build.
const BUILDS_MAX: usize = 20_000;
const STEPS_MAX: usize = 20_000;

/// Most bytes that a log may expand to. Larger ones are left out, since reading them takes minutes.
const EXPANDED_MAX: u64 = 4 << 30;

/// Largest length of time, in microseconds, and largest count of bytes: sums of them do not
/// overflow.
const NUMBER_MAX: u64 = 1 << 48;

/// The last moment that is a time: the year 9999.
const TIME_MAX: i64 = 253_402_300_799_000;

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
        cancel: &Cancel,
    ) -> Result<Vec<Imported>, HistoryError> {
        let work =
            store.session().and_then(|session| session.new_work()).map_err(HistoryError::Store)?;
        let mut claimed = Vec::new();
        let result = Reading::new(&work, cancel)
            .read(input)
            .and_then(|builds| self.take_in(builds, &work, &mut claimed));
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
    ) -> Result<Vec<Imported>, HistoryError> {
        // Ids first: builds name each other.
        let (mut ids, mut imported) = (BTreeMap::new(), Vec::new());
        for (there, staged) in &builds {
            let (here, is_known) = self.id_for(*there, &staged.build)?;
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
            let mut build = staged.build;
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
            let record = staged.dir.join(FINISHED);
            fs::write(&record, lines(&build)).context("write", &record)?;
            let place = self.directory(done.here);
            fs::rename(&staged.dir, &place).context("create", &place)?;
        }
        Ok(imported)
    }

    /// Finds the id that a build gets here, and claims it by an empty directory; or the id that it
    /// has here already.
    fn id_for(&self, there: BuildId, build: &BuildRecord) -> Result<(BuildId, bool), HistoryError> {
        let mut id = there;
        loop {
            let dir = self.directory(id);
            match fs::create_dir(&dir) {
                Ok(()) => return Ok((id, false)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).context("create", &dir),
            }
            if self.read(id).is_ok_and(|here| is_same(&here, build)) {
                return Ok((id, true));
            }
            id = id.next();
        }
    }
}

/// Says whether two records are of one build: of two builds not even the times are the same.
fn is_same(one: &BuildRecord, other: &BuildRecord) -> bool {
    let facts = |build: &BuildRecord| {
        let about = &build.about;
        (about.started_ms, build.finished_ms, about.target.clone(), build.image, build.steps.len())
    };
    facts(one) == facts(other)
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

/// A build that was read, in a directory of the session.
#[derive(Debug)]
struct Staged {
    dir: PathBuf,
    build: BuildRecord,
    logs_left_out: usize,
}

/// An archive that is being read.
struct Reading<'a> {
    work: &'a Path,
    cancel: &'a Cancel,
    left: u64,
    expected: BTreeSet<BuildId>,
    builds: BTreeMap<BuildId, Staged>,
}

fn refused(what: impl Into<String>) -> HistoryError {
    HistoryError::Archive { what: what.into() }
}

impl<'a> Reading<'a> {
    fn new(work: &'a Path, cancel: &'a Cancel) -> Self {
        Self { work, cancel, left: TOTAL_MAX, expected: BTreeSet::new(), builds: BTreeMap::new() }
    }

    fn read(mut self, input: impl Read + Send) -> Result<BTreeMap<BuildId, Staged>, HistoryError> {
        let failed = |source| HistoryError::ReadArchive { source };
        let input = decompress(input).map_err(failed)?;
        let mut archive = tar::Archive::new(input);
        let mut is_first = true;
        for entry in archive.entries().map_err(failed)?.raw(true) {
            if self.cancel.is_cancelled() {
                return Err(HistoryError::Cancelled);
            }
            // Of what is not a tar, the first header is not one.
            let entry = entry.map_err(|source| match is_first {
                true => refused("it is not a tar"),
                false => failed(source),
            })?;
            let name = String::from_utf8(entry.path_bytes().into_owned());
            let name = name.map_err(|_| refused("a name in it is not text"))?;
            if !entry.header().entry_type().is_file() {
                return Err(refused(format!("{name:?} is not a regular file")));
            }
            let size = entry.size();
            self.left = self
                .left
                .checked_sub(size)
                .ok_or_else(|| refused(format!("it has more than {TOTAL_MAX} bytes")))?;
            if is_first != (name == TABLE) {
                return Err(refused(format!("{TABLE} is not its first file")));
            }
            is_first = false;
            self.member(&name, size, entry)?;
        }
        if is_first {
            return Err(refused("it is empty"));
        }
        match self.expected.iter().find(|id| !self.builds.contains_key(*id)) {
            Some(id) => Err(refused(format!("build {id} is not in it"))),
            None => Ok(self.builds),
        }
    }

    fn member(&mut self, name: &str, size: u64, content: impl Read) -> Result<(), HistoryError> {
        let parts: Vec<&str> = name.split('/').collect();
        let unknown = || refused(format!("unknown file {name:?}"));
        match parts.as_slice() {
            [TABLE] => self.table(&whole(name, size, TABLE_MAX, content)?),
            ["builds", id, FINISHED] => {
                let id: BuildId = id.parse().map_err(|_| unknown())?;
                self.record(id, &whole(name, size, RECORD_MAX, content)?)
            }
            ["builds", id, LOGS, number] => {
                let id: BuildId = id.parse().map_err(|_| unknown())?;
                let step: usize = number.parse().map_err(|_| unknown())?;
                if step.to_string() != *number {
                    return Err(unknown());
                }
                // The last bytes of a log are the compressor's.
                let bytes = whole(name, size, LOG_MAX + (1 << 20), content)?;
                self.log(id, step, name, &bytes)
            }
            [TREES, hash] => {
                let is_hash = hash.len() == 64
                    && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !is_hash {
                    return Err(unknown());
                }
                self.tree(hash, &whole(name, size, TREE_MAX, content)?)
            }
            _ => Err(unknown()),
        }
    }

    fn table(&mut self, bytes: &[u8]) -> Result<(), HistoryError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Any {
            format: String,
            version: u32,
        }
        let bad = |error: serde_json::Error| refused(format!("{TABLE}: {error}"));
        let any: Any = serde_json::from_slice(bytes).map_err(bad)?;
        if any.format != FORMAT {
            return Err(refused(format!("{TABLE} says that it is {:?}", any.format)));
        }
        if any.version > VERSION {
            return Err(HistoryError::NewerArchive { found: any.version, known: VERSION });
        }
        let table: Table = serde_json::from_slice(bytes).map_err(bad)?;
        if table.builds.len() > BUILDS_MAX {
            return Err(refused(format!("it has more than {BUILDS_MAX} builds")));
        }
        self.expected = table.builds.into_iter().collect();
        Ok(())
    }

    fn record(&mut self, id: BuildId, bytes: &[u8]) -> Result<(), HistoryError> {
        if !self.expected.contains(&id) || self.builds.contains_key(&id) {
            return Err(refused(format!("build {id} is not in its table, or is in it twice")));
        }
        let build = parse(id, bytes)?;
        let dir = self.work.join(id.to_string());
        fs::create_dir(&dir).context("create", &dir)?;
        self.builds.insert(id, Staged { dir, build, logs_left_out: 0 });
        Ok(())
    }

    fn log(
        &mut self,
        id: BuildId,
        step: usize,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), HistoryError> {
        let staged = self.builds.get_mut(&id);
        let staged = staged
            .filter(|staged| staged.build.steps.iter().any(|known| known.number == step))
            .ok_or_else(|| refused(format!("{name} is of no step of a build before it")))?;
        let dir = staged.dir.join(LOGS);
        fs::create_dir_all(&dir).context("create", &dir)?;
        let path = dir.join(step.to_string());
        let mut file =
            File::options().write(true).create_new(true).open(&path).context("create", &path)?;
        file.write_all(bytes).context("write", &path)?;
        let reader = File::open(&path).and_then(LogReader::new);
        let expanded = reader.and_then(|log| {
            io::copy(&mut log.take(EXPANDED_MAX + 1), &mut CancellableSink(self.cancel))
        });
        if self.cancel.is_cancelled() {
            return Err(HistoryError::Cancelled);
        }
        if !expanded.is_ok_and(|expanded| expanded <= EXPANDED_MAX) {
            fs::remove_file(&path).context("remove", &path)?;
            staged.logs_left_out += 1;
        }
        Ok(())
    }

    fn tree(&mut self, hash: &str, bytes: &[u8]) -> Result<(), HistoryError> {
        let mut entries = serde_json::Deserializer::from_slice(bytes).into_iter::<TreeEntry>();
        if let Some(error) = entries.find_map(Result::err) {
            return Err(refused(format!("{TREES}/{hash}: {error}")));
        }
        let dir = self.work.join(TREES);
        fs::create_dir_all(&dir).context("create", &dir)?;
        let path = dir.join(hash);
        fs::write(&path, bytes).context("write", &path)
    }
}

/// Takes what is written to it, until the build is cancelled.
struct CancellableSink<'a>(&'a Cancel);

impl Write for CancellableSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.is_cancelled() {
            true => Err(io::Error::other("interrupted")),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a whole member.
fn whole(name: &str, size: u64, max: u64, content: impl Read) -> Result<Vec<u8>, HistoryError> {
    if size > max {
        return Err(refused(format!("{name} has {size} bytes, more than {max}")));
    }
    let mut bytes = Vec::new();
    let read = content.take(size).read_to_end(&mut bytes);
    read.map_err(|source| HistoryError::ReadArchive { source })?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(refused(format!("it ends in {name}"))),
    }
}

/// Reads a build's file, and checks what other code relies on.
fn parse(id: BuildId, bytes: &[u8]) -> Result<BuildRecord, HistoryError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Any {
        version: u32,
    }
    let bad = |what: String| refused(format!("build {id}: {what}"));
    let unreadable = |error: serde_json::Error| bad(error.to_string());
    let mut lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let first = lines.next().ok_or_else(|| bad("its record is empty".to_owned()))?;
    let any: Any = serde_json::from_slice(first).map_err(unreadable)?;
    if any.version > RECORD_VERSION {
        return Err(HistoryError::Newer { id, found: any.version });
    }
    let head: Head = serde_json::from_slice(first).map_err(unreadable)?;
    let mut steps: Vec<StepRecord> = Vec::new();
    for line in lines {
        if steps.len() == STEPS_MAX {
            return Err(bad(format!("it has more than {STEPS_MAX} steps")));
        }
        steps.push(serde_json::from_slice(line).map_err(unreadable)?);
    }
    steps.sort_by_key(|step| step.number);
    let mut build = head.into_record(steps);
    check(id, &build).map_err(bad)?;
    if build.outcome == Outcome::Running {
        build.outcome = Outcome::Interrupted;
    }
    Ok(build)
}

fn check(id: BuildId, build: &BuildRecord) -> Result<(), String> {
    if build.id != id {
        return Err(format!("its record is that of build {}", build.id));
    }
    let times = [Some(id.started_ms()), Some(build.about.started_ms), build.finished_ms];
    if times.iter().flatten().any(|ms| !(0..=TIME_MAX).contains(ms)) {
        return Err("a time is out of range".to_owned());
    }
    if build.outcome == Outcome::Predicted {
        return Err("it has not been run".to_owned());
    }
    let mut last = None;
    for step in &build.steps {
        let number = step.number;
        if last >= Some(number) {
            return Err(format!("step {number} is in it twice"));
        }
        last = Some(number);
        let origins = std::iter::once(&step.from).chain(&step.reads);
        let is_later =
            |origin: &Origin| matches!(origin, Origin::Step { number: other } if *other >= number);
        if number >= STEPS_MAX || origins.into_iter().any(is_later) {
            return Err(format!("step {number} reads one that does not come before it"));
        }
        let cost = match &step.outcome {
            StepOutcome::Hit { cost, .. }
            | StepOutcome::Ran { cost }
            | StepOutcome::Failed { cost, .. } => *cost,
            StepOutcome::NotReached => Cost::default(),
            StepOutcome::WouldRun | StepOutcome::DependsOn { .. } => {
                return Err(format!("step {number} has not been run"));
            }
        };
        let Cost {
            wall_us,
            cpu_us,
            system_us,
            peak_memory,
            io_read,
            io_written,
            max_pids,
            layer_bytes,
        } = cost;
        let numbers = [wall_us, cpu_us, system_us, io_read, io_written, max_pids, layer_bytes];
        let of_step = [step.began_us, step.wall_us, peak_memory];
        if numbers.iter().chain(&of_step).any(|n| *n > NUMBER_MAX) {
            return Err(format!("a number of step {number} is out of range"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
