//! Reading an archive: what a stranger sent, checked and put beside the history.

use super::{FORMAT, Facts, TABLE, Table, VERSION, refused};
use crate::cache::{Cost, TreeEntry};
use crate::history::log::{FINISHED, LOG_MAX, LOGS, LogReader};
use crate::history::record::{
    BuildRecord, Head, Origin, Outcome, RECORD_VERSION, StepOutcome, StepRecord,
};
use crate::history::{BuildId, HistoryError, IoContext as _, TREES};
use crate::layer::decompress;
use crate::sys::cancel::Cancel;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Most bytes of the first member.
const TABLE_MAX: u64 = 4 << 20;

/// Most bytes of a build's record: a build of a thousand steps has two megabytes.
const RECORD_MAX: u64 = 64 << 20;

/// Most bytes of all records together.
const RECORDS_MAX: u64 = 1 << 30;

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

/// How far ahead of this machine's clock the one of another may be, in milliseconds: a day. A build
/// of later would be the newest of the history for ever.
pub(super) const AHEAD_MAX: i64 = 24 * 60 * 60 * 1000;

/// The last moment that is a time: the year 9999.
const TIME_MAX: i64 = 253_402_300_799_000;

/// A build that was read, in a directory of the session.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) dir: PathBuf,
    pub(super) facts: Facts,
    /// The numbers of its steps, ascending.
    steps: Vec<usize>,
    pub(super) logs_left_out: usize,
}

/// An archive that is being read.
pub(super) struct Reading<'a> {
    work: &'a Path,
    cancel: &'a Cancel,
    latest: i64,
    left: u64,
    records_left: u64,
    expected: BTreeSet<BuildId>,
    builds: BTreeMap<BuildId, Staged>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(work: &'a Path, now_ms: i64, cancel: &'a Cancel) -> Self {
        Self {
            work,
            cancel,
            latest: now_ms.saturating_add(AHEAD_MAX),
            left: TOTAL_MAX,
            records_left: RECORDS_MAX,
            expected: BTreeSet::new(),
            builds: BTreeMap::new(),
        }
    }

    pub(super) fn read(
        mut self,
        input: impl Read + Send,
    ) -> Result<BTreeMap<BuildId, Staged>, HistoryError> {
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
        if id.started_ms() > self.latest {
            return Err(refused(format!("build {id} began in the future")));
        }
        self.records_left = self
            .records_left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| refused(format!("its records have more than {RECORDS_MAX} bytes")))?;
        let build = parse(id, bytes)?;
        let dir = self.work.join(id.to_string());
        fs::create_dir(&dir).context("create", &dir)?;
        let record = dir.join(FINISHED);
        fs::write(&record, bytes).context("write", &record)?;
        let steps = build.steps.iter().map(|step| step.number).collect();
        let staged = Staged { dir, facts: Facts::of(&build), steps, logs_left_out: 0 };
        self.builds.insert(id, staged);
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
            .filter(|staged| staged.steps.binary_search(&step).is_ok())
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
pub(super) fn parse(id: BuildId, bytes: &[u8]) -> Result<BuildRecord, HistoryError> {
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
