//! Writing a build's history while it runs.
//!
//! A build in which nothing runs costs one directory and one file. As soon as a step runs,
//! `running.jsonl` appears beside it, locked by this process and grown by one line a step, so that
//! a build that dies is still explained.

use super::record::{About, BuildRecord, Finish, Head, Outcome, RECORD_VERSION, StepRecord};
use super::{BuildId, HistoryError, IoContext as _};
use crate::sys::fault;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Most compressed bytes that are kept of one step's output, so that the history does not fill a
/// disk. Ordinary logs are ten to thirty times as long as that.
pub(super) const LOG_MAX: u64 = 16 * 1024 * 1024;

/// Compression level: several hundred megabytes a second, so that a step does not wait for its log.
const LEVEL: i32 = 1;

pub(super) const FINISHED: &str = "build.jsonl";
pub(super) const RUNNING: &str = "running.jsonl";
pub(super) const LOGS: &str = "logs";

/// The history of one build in the making. Dropped without [`BuildLog::finish`], it leaves what a
/// killed process would leave: nothing, or an interrupted build.
#[derive(Debug)]
pub struct BuildLog {
    dir: PathBuf,
    head: Head,
    steps: Vec<StepRecord>,
    running: Option<File>,
    is_finished: bool,
}

impl BuildLog {
    /// Takes a directory that was made for this build.
    pub(super) fn new(dir: PathBuf, id: BuildId, about: About) -> Self {
        let head = Head {
            version: RECORD_VERSION,
            id,
            about,
            finished_ms: None,
            outcome: Outcome::Running,
            image: None,
            manifest: None,
            is_imported: false,
            notes: Vec::new(),
        };
        Self { dir, head, steps: Vec::new(), running: None, is_finished: false }
    }

    /// Returns the build's name, which cache records made by it carry.
    pub fn id(&self) -> BuildId {
        self.head.id
    }

    /// Notes that a step is about to run. From here on the build is listed as running.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`], for example on a full disk.
    pub fn running(&mut self) -> Result<(), HistoryError> {
        if self.running.is_some() {
            return Ok(());
        }
        let path = self.dir.join(RUNNING);
        let mut file =
            OpenOptions::new().append(true).create(true).open(&path).context("create", &path)?;
        // Says that we live for as long as we do.
        file.lock().context("lock", &path)?;
        let mut bytes = Vec::new();
        push_line(&mut bytes, &self.head);
        for step in &self.steps {
            push_line(&mut bytes, step);
        }
        file.write_all(&bytes).context("write", &path)?;
        self.running = Some(file);
        Ok(())
    }

    /// Notes the result of a step. Once for each, in any order.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`]; the step is kept in memory for [`BuildLog::finish`] all the same.
    pub fn step(&mut self, step: StepRecord) -> Result<(), HistoryError> {
        let has_run = step.has_run();
        let mut line = Vec::new();
        if self.running.is_some() {
            push_line(&mut line, &step);
        }
        self.steps.push(step);
        match &mut self.running {
            Some(file) => file.write_all(&line).context("write", &self.dir.join(RUNNING)),
            None if has_run => self.running(),
            None => Ok(()),
        }
    }

    /// Adds what should be known of the image, as a sentence.
    pub fn note(&mut self, text: &str) {
        self.head.notes.push(text.to_owned());
    }

    /// Returns where the output of step `number` goes. Its file is made at the first byte.
    pub fn log(&self, number: usize) -> StepLog {
        StepLog { path: self.dir.join(LOGS).join(number.to_string()), stream: None, is_full: false }
    }

    /// Ends the build's history: one file, put in place by one rename.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`]; what was written so far stays as an interrupted build.
    pub fn finish(mut self, finish: Finish) -> Result<BuildRecord, HistoryError> {
        let Finish { finished_ms, outcome, image, manifest } = finish;
        self.head.finished_ms = Some(finished_ms);
        self.head.outcome = outcome;
        self.head.image = image;
        self.head.manifest = manifest;
        self.steps.sort_by_key(|step| step.number);
        let mut bytes = Vec::with_capacity(1024 * (1 + self.steps.len()));
        push_line(&mut bytes, &self.head);
        for step in &self.steps {
            push_line(&mut bytes, step);
        }
        let temp = self.dir.join("build.new");
        let path = self.dir.join(FINISHED);
        match fs::write(&temp, &bytes) {
            // Pruned under our feet: a build of days.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.dir).context("create", &self.dir)?;
                fs::write(&temp, &bytes).context("write", &temp)?;
            }
            other => other.context("write", &temp)?,
        }
        fault::at("history.written").context("write", &path)?;
        fs::rename(&temp, &path).context("rename", &path)?;
        fault::at("history.renamed").context("write", &path)?;
        self.is_finished = true;
        if self.running.take().is_some() {
            let _ = fs::remove_file(self.dir.join(RUNNING));
        }
        Ok(self.head.clone().into_record(std::mem::take(&mut self.steps)))
    }
}

impl Drop for BuildLog {
    fn drop(&mut self) {
        if !self.is_finished && self.running.is_none() {
            // Fails where there is a log, which is right.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

fn push_line(bytes: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(&mut *bytes, value).expect("a build's record is plain data");
    bytes.push(b'\n');
}

/// The kept output of one step: a zstd stream of at most [`LOG_MAX`] bytes, readable while it
/// grows.
pub struct StepLog {
    path: PathBuf,
    stream: Option<zstd::stream::write::Encoder<'static, Counted>>,
    is_full: bool,
}

impl fmt::Debug for StepLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepLog").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A file, and how many bytes it got.
struct Counted {
    file: File,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StepLog {
    fn open(path: &Path) -> io::Result<File> {
        match File::create(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                File::create(path)
            }
            other => other,
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self.stream.take() {
            Some(stream) => stream.finish().map(drop),
            None => Ok(()),
        }
    }
}

impl Write for StepLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() || self.is_full {
            return Ok(bytes.len());
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let file = Counted { file: Self::open(&self.path)?, written: 0 };
                self.stream.insert(zstd::stream::write::Encoder::new(file, LEVEL)?)
            }
        };
        stream.write_all(bytes)?;
        // Pieces come as the step writes them, and a reader of a running step wants all of them.
        stream.flush()?;
        if stream.get_ref().written >= LOG_MAX {
            self.is_full = true;
            stream.write_all(b"\n[the rest of this output was not kept]\n")?;
            self.end()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for StepLog {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Reads what a step wrote, also of a step that still runs or whose builder was killed.
pub struct LogReader {
    input: Box<dyn Read + Send>,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogReader")
    }
}

impl LogReader {
    /// Takes a log, compressed or, from older versions, not.
    ///
    /// # Errors
    ///
    /// Whatever reading its first bytes gives.
    pub(super) fn new(file: File) -> io::Result<Self> {
        Ok(Self { input: crate::layer::decompress(file)? })
    }
}

impl Read for LogReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            // The stream has no end yet.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}
