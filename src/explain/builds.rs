//! Reports on whole builds: those of the history, and one that is only predicted.

use super::listing::{Listings, Unwritten};
use super::report::{self, Report, Verdict};
use crate::cache::{Cache, TreeEntry, TreeId};
use crate::history::{BuildId, BuildRecord, History, HistoryError};
use crate::store::Store;
use std::collections::BTreeMap;
use std::io::Read;

/// How many earlier builds a build is compared with at most: the newest says what changed, the
/// others fill in what it did not reach and how often a step ran.
const EARLIER: usize = 8;

/// How many lines of a failed step's output a report has, and the most bytes they are looked for
/// in.
const OUTPUT_LINES: usize = 20;
const TAIL: usize = 64 * 1024;

/// Explains a build of the history; the last one where none is named. `None` where the history is
/// empty.
///
/// # Errors
///
/// [`HistoryError`].
pub fn past(store: &Store, build: Option<&str>) -> Result<Option<Report>, HistoryError> {
    load(store, build)?.map(|build| explained(store, &build)).transpose()
}

/// Reads a build of the history; the last one where none is named. `None` where the history is empty.
///
/// # Errors
///
/// [`HistoryError`].
pub fn load(store: &Store, build: Option<&str>) -> Result<Option<BuildRecord>, HistoryError> {
    let history = History::new(store);
    match build {
        Some(id) => history.load(id).map(Some),
        None => history.last(),
    }
}

/// Explains a build of the history.
///
/// # Errors
///
/// [`HistoryError`].
pub fn explained(store: &Store, build: &BuildRecord) -> Result<Report, HistoryError> {
    against_history(&History::new(store), build, &Cache::new(store.clone()))
}

/// Explains what a build would do now. `listings` are those of the files as they are, which no
/// build has written to the store.
///
/// # Errors
///
/// [`HistoryError`].
pub fn prediction(
    store: &Store,
    build: &BuildRecord,
    listings: BTreeMap<TreeId, Vec<TreeEntry>>,
) -> Result<Report, HistoryError> {
    let cache = Cache::new(store.clone());
    let listings = Unwritten { kept: &cache, now: listings };
    against_history(&History::new(store), build, &listings)
}

fn against_history(
    history: &History,
    build: &BuildRecord,
    listings: &dyn Listings,
) -> Result<Report, HistoryError> {
    let (basis, before) = history.comparable(build, EARLIER, report::nearness_of)?;
    let listings = &of_builds(history, build, &before, listings);
    let mut report = report::explain(build, &before, listings);
    report.basis = report.compared_with.as_ref().map(|_| basis);
    add_output(history, build, &mut report);
    Ok(report)
}

/// Listings of the store, and those that came with imported builds.
struct OfBuilds<'a> {
    kept: &'a dyn Listings,
    history: &'a History,
    imported: Vec<BuildId>,
}

impl Listings for OfBuilds<'_> {
    fn listing(&self, tree: &TreeId) -> Option<Vec<TreeEntry>> {
        let mut imported = self.imported.iter();
        let came = imported.find_map(|id| self.history.imported_listing(*id, tree));
        came.or_else(|| self.kept.listing(tree))
    }
}

fn of_builds<'a>(
    history: &'a History,
    build: &BuildRecord,
    before: &[BuildRecord],
    kept: &'a dyn Listings,
) -> OfBuilds<'a> {
    let builds = std::iter::once(build).chain(before);
    let imported = builds.filter(|build| build.is_imported).map(|build| build.id).collect();
    OfBuilds { kept, history, imported }
}

/// Adds the last lines that failed steps wrote, if they are kept.
fn add_output(history: &History, build: &BuildRecord, report: &mut Report) {
    for step in &mut report.steps {
        if step.result == Verdict::Failed
            && let Ok(log) = history.log(build.id, step.number)
        {
            step.output = last_lines(log);
        }
    }
}

/// Reads the last lines of a step's output. Of a line that a carriage return wrote over, what was
/// written last.
fn last_lines(mut log: impl Read) -> Vec<String> {
    let mut tail = Vec::new();
    let mut piece = vec![0; TAIL];
    while let Ok(read @ 1..) = log.read(&mut piece) {
        tail.extend_from_slice(&piece[..read]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES)..]
        .iter()
        .map(|line| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default().to_owned())
        .collect()
}

/// Explains `new` by `old`, whatever else was built between them.
///
/// # Errors
///
/// [`HistoryError`].
pub fn compared(store: &Store, old: &str, new: &str) -> Result<Report, HistoryError> {
    let history = History::new(store);
    let (old, new) = (history.load(old)?, history.load(new)?);
    let (cache, before) = (Cache::new(store.clone()), [old]);
    let listings = of_builds(&history, &new, &before, &cache);
    let mut report = report::explain(&new, &before, &listings);
    add_output(&history, &new, &mut report);
    Ok(report)
}
