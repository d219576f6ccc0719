//! The history of builds: `builds/<id>/`.
//!
//! ```text
//! builds/<id>/build.jsonl     a finished build: its head, then one line a step
//! builds/<id>/running.jsonl   the same of a build that runs, locked while its process lives
//! builds/<id>/logs/<number>   what a step wrote, a zstd stream
//! builds/<id>/trees/<hash>    of an imported build: listings of the files that its steps read
//! builds/<id>/imported        of an imported build: an empty file, which says so to who counts
//! ```
//!
//! An id is the time of the build's start, so names sort by time and age is known without opening
//! anything; the head is a line of its own, so lists read one block a build.

mod bundle;
mod find;
mod log;
mod record;

pub use bundle::Imported;
pub use find::{Cleared, LAST, REF_PREFIX};
pub use log::{BuildLog, LogReader, StepLog};
pub use record::{
    About, BuildRecord, Finish, Miss, Origin, Outcome, StepOutcome, StepRecord, derived_name,
};

use crate::store::{Store, StoreError, StorePart};
use log::{FINISHED, LOGS, RUNNING};
use record::{Head, RECORD_VERSION};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How many builds are kept, by default: months of work of one person, a
/// few megabytes.
pub const KEEP_BUILDS: usize = 200;

/// Digits of an id: milliseconds since 1970 in hexadecimal reach this width until the year 2527.
const ID_DIGITS: usize = 11;

/// The directory of listings, of builds that were imported and in archives.
const TREES: &str = "trees";

/// The file that an imported build has, so that one `stat` is enough to count it apart.
const IMPORTED: &str = "imported";

/// How many of the newest builds are searched for ones to compare with.
const SEARCHED: usize = 50;

/// An unfinished build that no process has locked is left alone for this long, since it may be one
/// that has not run anything yet.
const GRACE_MS: i64 = 60 * 60 * 1000;

/// What can go wrong with the history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why the kernel refused.
        source: io::Error,
    },
    /// The history has no build at all.
    #[error("no build in the history")]
    NoBuilds,
    /// No build has that name, and no id begins so.
    #[error("no build {id:?} in the history")]
    NoSuchBuild {
        /// What was asked for.
        id: String,
    },
    /// More than one build's id begins so.
    #[error("build {id:?} could be any of {}", ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// The ids that begin so, at most five, oldest first.
        ids: Vec<String>,
    },
    /// The build has not ended.
    #[error("build {id} is still running")]
    Running {
        /// The build.
        id: BuildId,
    },
    /// An archive of builds is not one, or is damaged.
    #[error("this is not an archive of builds: {what}")]
    Archive {
        /// What is wrong with it.
        what: String,
    },
    /// An archive of builds was written by a newer program.
    #[error("the archive has format {found}, newer than this program's {known}")]
    NewerArchive {
        /// Its format.
        found: u32,
        /// The newest format that is known.
        known: u32,
    },
    /// An archive cannot be read.
    #[error("cannot read the archive")]
    ReadArchive {
        /// What the system or the decompressor said.
        source: io::Error,
    },
    /// An archive cannot be written.
    #[error("cannot write the archive")]
    Write {
        /// Why the kernel refused.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The user interrupted it.
    #[error("cancelled")]
    Cancelled,
    /// The build's record cannot be read.
    #[error("the record of build {id} is damaged")]
    Damaged {
        /// The build.
        id: BuildId,
    },
    /// The build's record was written by a newer program.
    #[error(
        "the record of build {id} has format {found}, newer than this program's {RECORD_VERSION}"
    )]
    Newer {
        /// The build.
        id: BuildId,
        /// Its format.
        found: u32,
    },
    /// The step wrote nothing, or did not run.
    #[error("build {id} has no output of step {number}")]
    NoLog {
        /// The build.
        id: BuildId,
        /// The step's number, from 0.
        number: usize,
    },
}

/// Attaches what was being done, and to what, to an [`io::Error`].
pub(super) trait IoContext<T> {
    fn context(self, doing: &'static str, path: &Path) -> Result<T, HistoryError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, doing: &'static str, path: &Path) -> Result<T, HistoryError> {
        self.map_err(|source| HistoryError::Io { doing, path: path.to_owned(), source })
    }
}

/// The name of a build: the milliseconds since 1970 at which it began, in hexadecimal; one more for
/// each other build of that millisecond. Names sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BuildId(u64);

impl BuildId {
    /// Returns the id that a build of this start has, if it is free.
    pub fn at(started_ms: i64) -> Self {
        Self(u64::try_from(started_ms).unwrap_or(0))
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }

    fn started_ms(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:0width$x}", self.0, width = ID_DIGITS))
    }
}

impl FromStr for BuildId {
    type Err = HistoryError;

    fn from_str(text: &str) -> Result<Self, HistoryError> {
        let is_ours =
            text.len() >= ID_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16)
            .ok()
            .filter(|_| is_ours)
            .map(Self)
            .ok_or_else(|| HistoryError::NoSuchBuild { id: text.to_owned() })
    }
}

impl From<BuildId> for String {
    fn from(id: BuildId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for BuildId {
    type Error = HistoryError;

    fn try_from(text: String) -> Result<Self, HistoryError> {
        text.parse()
    }
}

/// The builds of one store.
#[derive(Debug, Clone)]
pub struct History {
    dir: PathBuf,
}

impl History {
    /// Uses the history of `store`.
    pub fn new(store: &Store) -> Self {
        Self { dir: store.place(StorePart::Builds) }
    }

    /// Begins a build's history. One `mkdir`, which also makes the id unique.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`], for example on a full disk.
    pub fn begin(&self, about: About) -> Result<BuildLog, HistoryError> {
        let mut id = BuildId::at(about.started_ms);
        loop {
            let dir = self.directory(id);
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(BuildLog::new(dir, id, about)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => id = id.next(),
                Err(e) => return Err(e).context("create", &dir),
            }
        }
    }

    /// Returns the ids of all builds, newest first.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] where the directory cannot be read.
    pub fn ids(&self) -> Result<Vec<BuildId>, HistoryError> {
        let mut ids: Vec<BuildId> = fs::read_dir(&self.dir)
            .context("list", &self.dir)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// Returns all builds, newest first, without their steps. What cannot be read is left out.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] where the directory cannot be read.
    pub fn list(&self) -> Result<Vec<BuildRecord>, HistoryError> {
        Ok(self.heads()?.collect())
    }

    fn heads(&self) -> Result<impl Iterator<Item = BuildRecord> + '_, HistoryError> {
        Ok(self.ids()?.into_iter().filter_map(|id| self.head(id).ok().flatten()))
    }

    /// Returns the newest build, with its steps.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] where the history cannot be read.
    pub fn last(&self) -> Result<Option<BuildRecord>, HistoryError> {
        self.newest(|_| true)
    }

    /// Returns the newest build of this context, Dockerfile and target, with its steps.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] where the history cannot be read.
    pub fn last_for(
        &self,
        context: &str,
        dockerfile: &str,
        target: &str,
    ) -> Result<Option<BuildRecord>, HistoryError> {
        self.newest(|build| {
            let about = &build.about;
            about.context == context && about.dockerfile == dockerfile && about.target == target
        })
    }

    /// Returns the builds before `build` of the same context, Dockerfile and target, newest first,
    /// with their steps: at most `count`, those of the same platforms before others. Builds of other
    /// machines are compared with such ones only.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] where the history cannot be read.
    pub fn before(
        &self,
        build: &BuildRecord,
        count: usize,
    ) -> Result<Vec<BuildRecord>, HistoryError> {
        let (about, is_imported) = (&build.about, build.is_imported);
        let mut found: Vec<BuildRecord> = self
            .heads()?
            .filter(|earlier| {
                earlier.id < build.id
                    && earlier.is_imported == is_imported
                    && earlier.about.context == about.context
                    && earlier.about.dockerfile == about.dockerfile
                    && earlier.about.target == about.target
            })
            .collect();
        let wanted = about.platforms();
        found.sort_by_cached_key(|earlier| {
            let platforms = earlier.about.platforms();
            let common = wanted.iter().filter(|platform| platforms.contains(platform)).count();
            (Reverse(common), platforms.len() - common)
        });
        Ok(found.into_iter().filter_map(|head| self.read(head.id).ok()).take(count).collect())
    }

    /// Returns the builds that `build` is compared with, at most `count`, and what they have in
    /// common with it: those of the same place; else, as in a CI job with a directory of its own,
    /// those of the same name, target and stages; else those that share most steps.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] where the history cannot be read.
    pub fn comparable(
        &self,
        build: &BuildRecord,
        count: usize,
        nearness: Nearness,
    ) -> Result<(Basis, Vec<BuildRecord>), HistoryError> {
        let about = &build.about;
        let same = self.before(build, SEARCHED)?;
        if !same.is_empty() {
            return Ok((Basis::Place, newest_and_nearest(build, same, count, nearness)));
        }
        let mut others: Vec<(usize, BuildRecord)> = self
            .heads()?
            .filter(|head| head.id < build.id && head.is_imported == build.is_imported)
            .take(SEARCHED)
            .filter_map(|head| self.read(head.id).ok())
            .map(|other| (shared(build, &other), other))
            .filter(|(shared, _)| *shared > 0)
            .collect();
        let is_namesake = |other: &BuildRecord| {
            other.about.target == about.target
                && names(&other.about) == names(about)
                && stages(other) == stages(build)
        };
        let basis = if others.iter().any(|(_, other)| is_namesake(other)) {
            others.retain(|(_, other)| is_namesake(other));
            Basis::Name
        } else {
            others.sort_by_key(|(shared, _)| Reverse(*shared));
            Basis::Steps
        };
        let others = others.into_iter().map(|(_, other)| other).collect();
        Ok((basis, newest_and_nearest(build, others, count, nearness)))
    }

    fn newest(
        &self,
        is_wanted: impl Fn(&BuildRecord) -> bool,
    ) -> Result<Option<BuildRecord>, HistoryError> {
        Ok(self.heads()?.filter(|head| is_wanted(head)).find_map(|head| self.read(head.id).ok()))
    }

    /// Returns the build that is meant, with its steps: see [`find`](Self::find).
    ///
    /// # Errors
    ///
    /// What [`find`](Self::find) and [`read`](Self::read) say.
    pub fn load(&self, id: &str) -> Result<BuildRecord, HistoryError> {
        self.read(self.find(id)?)
    }

    /// Reads a build with its steps. Of an unfinished one, those steps that are over.
    ///
    /// # Errors
    ///
    /// [`HistoryError::NoSuchBuild`], [`HistoryError::Damaged`], [`HistoryError::Newer`].
    pub fn read(&self, id: BuildId) -> Result<BuildRecord, HistoryError> {
        let Some(mut opened) = self.open(id)? else {
            return Err(HistoryError::NoSuchBuild { id: id.to_string() });
        };
        let head = opened.head(id)?;
        let mut steps = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let path = || self.directory(id);
            if opened.reader.read_until(b'\n', &mut line).context("read", &path())? == 0 {
                break;
            }
            match serde_json::from_slice::<StepRecord>(&line) {
                Ok(step) => steps.push(step),
                // The last line of a process that was killed.
                Err(_) if opened.state != BuildState::Finished => break,
                Err(_) => return Err(HistoryError::Damaged { id }),
            }
        }
        steps.sort_by_key(|step| step.number);
        Ok(head.into_record(steps))
    }

    /// Reads a build without its steps; `None` where it says nothing of itself yet.
    fn head(&self, id: BuildId) -> Result<Option<BuildRecord>, HistoryError> {
        let Some(mut opened) = self.open(id)? else { return Ok(None) };
        Ok(Some(opened.head(id)?.into_record(Vec::new())))
    }

    /// Opens a build's file; `None` where it has none yet.
    fn open(&self, id: BuildId) -> Result<Option<Opened>, HistoryError> {
        for name in [FINISHED, RUNNING] {
            let path = self.directory(id).join(name);
            match File::open(&path) {
                Ok(file) => {
                    let state = if name == FINISHED {
                        BuildState::Finished
                    } else if matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
                        BuildState::Running
                    } else {
                        BuildState::Dead
                    };
                    let mut reader = BufReader::new(file);
                    let capacity = reader.capacity();
                    let start = reader.fill_buf().context("read", &path)?;
                    // Killed before its first line was whole, it has said nothing.
                    if state != BuildState::Finished
                        && start.len() < capacity
                        && !start.contains(&b'\n')
                    {
                        return Ok(None);
                    }
                    return Ok(Some(Opened { reader, state }));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context("open", &path),
            }
        }
        Ok(None)
    }

    /// Returns what step `number` of a build wrote.
    ///
    /// # Errors
    ///
    /// [`HistoryError::NoLog`] where it wrote nothing.
    pub fn log(&self, id: BuildId, number: usize) -> Result<LogReader, HistoryError> {
        let path = self.directory(id).join(LOGS).join(number.to_string());
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(HistoryError::NoLog { id, number })
            }
            other => other.and_then(LogReader::new).context("open", &path),
        }
    }

    /// Removes all but the newest `keep` builds of this machine and as many imported ones, and of
    /// those the ones that began before `oldest_ms`. Returns how many went. Builds that run are
    /// kept.
    ///
    /// One listing of a directory where there is nothing to remove.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Io`] for the first that cannot be removed.
    pub fn prune(&self, keep: usize, oldest_ms: i64, now_ms: i64) -> Result<usize, HistoryError> {
        let ids = self.ids()?;
        if ids.len() <= keep && ids.last().is_none_or(|id| id.started_ms() >= oldest_ms) {
            return Ok(0);
        }
        let (mut own, mut imported, mut removed) = (0, 0, 0);
        for id in ids {
            let kept = match self.directory(id).join(IMPORTED).exists() {
                true => &mut imported,
                false => &mut own,
            };
            *kept += 1;
            if *kept <= keep && id.started_ms() >= oldest_ms {
                continue;
            }
            if !self.is_live(id, now_ms)? && self.remove_directory(id)? {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn directory(&self, id: BuildId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

/// What a build has in common with the earlier ones that it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Context, Dockerfile and target.
    Place,
    /// The image's name (if none, the Dockerfile's), the target, and the stages.
    Name,
    /// Steps.
    Steps,
}

/// The repositories that an image is named by, without tags, which CI makes of commits; the name of
/// the Dockerfile if there are none.
fn names(about: &About) -> BTreeSet<&str> {
    if about.tags.is_empty() {
        let path = about.dockerfile.as_str();
        return BTreeSet::from([path.rsplit('/').next().unwrap_or(path)]);
    }
    let repository = |tag: &'_ String| -> usize {
        let start = tag.rfind('/').map_or(0, |slash| slash + 1);
        tag[start..].find(':').map_or(tag.len(), |colon| start + colon)
    };
    about.tags.iter().map(|tag| &tag[..repository(tag)]).collect()
}

/// How near to a build an earlier one is; the larger, the nearer.
pub type Nearness = fn(&BuildRecord, &BuildRecord) -> usize;

/// Takes the first `count` builds, the nearest one in any case.
fn newest_and_nearest(
    build: &BuildRecord,
    mut found: Vec<BuildRecord>,
    count: usize,
    nearness: Nearness,
) -> Vec<BuildRecord> {
    if found.len() > count {
        let near = |place: &usize| (nearness(build, &found[*place]), Reverse(*place));
        let nearest = (0..found.len()).max_by_key(near).unwrap_or(0);
        let kept = nearest.min(count - 1);
        found.swap(kept, nearest);
        found.truncate(count);
    }
    found
}

fn stages(build: &BuildRecord) -> BTreeSet<&str> {
    build.steps.iter().map(|step| step.stage.as_str()).collect()
}

/// How many instructions of `build` another one has in a stage of the same name.
fn shared(build: &BuildRecord, other: &BuildRecord) -> usize {
    let of = |build: &'_ BuildRecord| -> BTreeSet<(String, String)> {
        build.steps.iter().map(|step| (step.stage.clone(), step.instruction.clone())).collect()
    };
    of(build).intersection(&of(other)).count()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BuildState {
    Finished,
    Running,
    /// Unfinished, and no process holds its lock.
    Dead,
}

struct Opened {
    reader: BufReader<File>,
    state: BuildState,
}

impl Opened {
    /// Reads the first line.
    fn head(&mut self, id: BuildId) -> Result<Head, HistoryError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Any {
            version: u32,
        }
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).map_err(|_| HistoryError::Damaged { id })?;
        match serde_json::from_slice::<Any>(&line) {
            Ok(any) if any.version > RECORD_VERSION => {
                return Err(HistoryError::Newer { id, found: any.version });
            }
            Ok(_) => {}
            Err(_) => return Err(HistoryError::Damaged { id }),
        }
        let mut head: Head =
            serde_json::from_slice(&line).map_err(|_| HistoryError::Damaged { id })?;
        if self.state == BuildState::Dead {
            head.outcome = Outcome::Interrupted;
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests;
