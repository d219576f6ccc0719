//! Which files a COPY's sources mean.
//!
//! | written | means |
//! |---|---|
//! | `f`, `d` | the file, or the contents of the directory; a link is followed; it must be there |
//! | `*.c`, `d/?/[a-c]` | what matches, also nothing; a matching directory's contents |
//! | `--parents a/b` | with the directories above, from the source's root or from a `/./` on |
//! | `--parents a*/./b` | for each match of `a*`, what fits `b` below it; a match that is a file, that file |
//!
//! With `--parents`, something must be there only where there is no wildcard, neither before the
//! `/./` nor behind it. Nothing behind the `/./` fits nothing.
//!
//! Links are followed in what is written and in what a wildcard matched, never below, and never out
//! of the source.
//!
//! Source: BuildKit, solver/llbsolver/file and cache/contenthash; tonistiigi/fsutil, copy.

use super::walk::{Found, Include, Listing, Rules, Walk, found, join, read_capability, read_names};
use super::wildcard::{Wildcard, has_wildcard};
use super::{ContextError, HiddenBy, SelectOptions, Source};
use crate::copy::{EntryKind, Picked, SelectedEntry, Selection};
use crate::dockerfile::ignore::Matcher;
use crate::sys::cancel::Cancel;
use crate::sys::rooted;
use crate::text::path::clean_bytes_below;
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Most near names that an error offers.
const SIMILAR_MAX: usize = 3;

impl Source {
    /// Chooses and fingerprints what `patterns` mean, in their order.
    ///
    /// Only directories that a pattern can match in are read, and only files are hashed that the
    /// index does not know. Safe to call from several threads.
    ///
    /// # Errors
    ///
    /// [`ContextError::NotFound`] for a source without wildcards that is not there or is ignored;
    /// [`ContextError::BadPattern`]; [`ContextError::Io`]; [`ContextError::Cancelled`].
    pub fn select<S: AsRef<[u8]>>(
        &self,
        patterns: &[S],
        options: &SelectOptions,
        cancel: &Cancel,
    ) -> Result<Selection, ContextError> {
        let exclude =
            Matcher::from_patterns(options.excludes.iter().map(String::as_str)).map_err(|e| {
                ContextError::BadPattern {
                    pattern: options
                        .excludes
                        .get(e.line() as usize - 1)
                        .cloned()
                        .unwrap_or_default(),
                }
            })?;
        let mut selecting = Selecting {
            source: self,
            exclude: (!exclude.is_empty()).then_some(exclude),
            options,
            cancel,
            selection: Selection::default(),
        };
        for pattern in patterns {
            let result = selecting.pattern(pattern.as_ref());
            self.check_ignore()?;
            result?;
        }
        let mut selection = selecting.selection;
        self.fingerprint(&mut selection, cancel)?;
        for entry in &mut selection.entries {
            entry.mode &= self.0.mode_mask;
        }
        Ok(selection)
    }
}

struct Selecting<'a> {
    source: &'a Source,
    exclude: Option<Matcher>,
    options: &'a SelectOptions,
    cancel: &'a Cancel,
    selection: Selection,
}

fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or_default()
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Selecting<'_> {
    fn pattern(&mut self, written: &[u8]) -> Result<(), ContextError> {
        let bad = || ContextError::BadPattern { pattern: show(written) };
        if !self.options.parents {
            return self.roots(written, &clean_bytes_below(written), None);
        }
        let pivot = written.windows(3).position(|three| three == b"/./");
        let (above, below) = match pivot {
            Some(at) => (clean_bytes_below(&written[..at]), clean_bytes_below(&written[at + 3..])),
            None => (Vec::new(), clean_bytes_below(written)),
        };
        // BuildKit finds nothing in `.`; here it means all there is, as without `--parents`.
        if pivot.is_none() && below.is_empty() && !written.starts_with(b"/") {
            return self.roots(written, &above, None);
        }
        let include = Include::parse(&below).ok_or_else(bad)?;
        let first = self.selection.entries.len();
        self.roots(written, &above, Some(&include))?;
        // Without wildcards what was asked for must be there.
        if !has_wildcard(&above) && !has_wildcard(&below) {
            let is_there = !below.is_empty()
                && self.selection.entries[first..].iter().any(|e| e.path.starts_with(&below));
            if !is_there {
                return Err(self.not_found(written, &join(&above, &below)));
            }
        }
        Ok(())
    }

    /// Picks the one path, or all that match.
    fn roots(
        &mut self,
        written: &[u8],
        cleaned: &[u8],
        include: Option<&Include>,
    ) -> Result<(), ContextError> {
        let bad = || ContextError::BadPattern { pattern: show(written) };
        if self.options.exact || !has_wildcard(cleaned) {
            return if self.pick(cleaned, include)? {
                Ok(())
            } else {
                Err(self.not_found(written, cleaned))
            };
        }
        let parts: Vec<&[u8]> = cleaned.split(|&b| b == b'/').collect();
        let literal = parts.iter().position(|part| has_wildcard(part)).unwrap_or(0);
        let (base, rest) = (parts[..literal].join(&b'/'), parts[literal..].join(&b'/'));
        let wildcard = Wildcard::parse(&rest).map_err(|_| bad())?;
        let resolved = self.resolve(&base)?;
        let Some(resolved) = resolved else {
            return Err(self.not_found(written, &base));
        };
        let mut prefixes = Vec::new();
        for part in &parts[literal..] {
            // A class may match a slash, so what comes after one says nothing about a level.
            if part.contains(&b'[') {
                break;
            }
            prefixes.push(Wildcard::parse(part).map_err(|_| bad())?);
        }
        let glob = Glob {
            wildcard,
            prefixes,
            depth: parts.len() - literal + rest.split(|&b| b == b'[').count() - 1,
        };
        let mut matches = Vec::new();
        self.glob(written, &glob, &resolved, &mut Vec::new(), 1, &mut matches)?;
        for matched in matches {
            let full = join(&resolved, &matched);
            if !self.pick(&full, include)? && !self.is_hidden(&full) {
                return Err(self.not_found(&full, &full));
            }
        }
        Ok(())
    }

    fn is_hidden(&self, path: &[u8]) -> bool {
        self.source.0.ignore.as_ref().is_some_and(|ignore| ignore.is_ignored(path))
    }

    /// Follows all links of a path; `None` when it is not there, or goes over an ignored link.
    fn resolve(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        let resolved = match rooted::resolve_in_root(self.source.root(), path) {
            Ok(resolved) => resolved,
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
            Err(e) => return Err(ContextError::io("resolve", path, e)),
        };
        let is_visible = resolved.missing == 0 && !resolved.links.iter().any(|l| self.is_hidden(l));
        Ok(is_visible.then_some(resolved.path))
    }

    /// Finds what matches below `base`, in the order of the names. Links to directories are not
    /// entered, and what matched is not looked into.
    fn glob(
        &self,
        written: &[u8],
        glob: &Glob,
        base: &[u8],
        below: &mut Vec<u8>,
        depth: usize,
        matches: &mut Vec<Vec<u8>>,
    ) -> Result<(), ContextError> {
        if self.cancel.is_cancelled() {
            return Err(ContextError::Cancelled);
        }
        let path = join(base, below);
        self.source.0.directories.fetch_add(1, Ordering::Relaxed);
        let names = match read_names(self.source.root(), &path) {
            Ok((_, names)) => names,
            // The base is a file, with nothing below it: not an error in the files of a stage or an
            // image.
            Err(e) if e.raw_os_error() == Some(libc::ENOTDIR) && self.source.keeps_owner() => {
                return Ok(());
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOTDIR) => {
                return Err(self.not_found(written, base));
            }
            Err(e) => return Err(ContextError::io("read the directory", &path, e)),
        };
        for (name, file_type) in names {
            let length = below.len();
            if length > 0 {
                below.push(b'/');
            }
            below.extend_from_slice(&name);
            let full = join(base, below);
            let is_hidden = self.is_hidden(&full);
            let is_dir = file_type == FileType::Directory
                || file_type == FileType::Unknown
                    && rooted::stat_beneath(self.source.root(), &full)
                        .map_err(|e| ContextError::io("look at", &full, e))?
                        .is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
            let has_visible =
                || self.source.0.ignore.as_ref().is_none_or(|ignore| ignore.may_match_below(&full));
            if glob.wildcard.matches(below) {
                if !is_hidden || is_dir && has_visible() {
                    matches.push(below.clone());
                }
            } else if is_dir
                && depth < glob.depth
                && glob.prefixes.get(depth - 1).is_none_or(|p| p.matches(&name))
                && (!is_hidden || has_visible())
            {
                self.glob(written, glob, base, below, depth + 1, matches)?;
            }
            below.truncate(length);
        }
        Ok(())
    }

    /// Adds the path and all below it; `false` when there is nothing to be seen.
    fn pick(&mut self, path: &[u8], include: Option<&Include>) -> Result<bool, ContextError> {
        let Some(resolved) = self.resolve(path)? else { return Ok(false) };
        let root = self.source.root();
        let failed = |e| ContextError::io("look at", &resolved, e);
        let Some(mut stat) = rooted::stat_beneath(root, &resolved).map_err(failed)? else {
            return Ok(false);
        };
        let place = if resolved.is_empty() { b"." } else { resolved.as_slice() };
        crate::layer::owner::amend(root, place, &mut stat);
        let mut top = found(b"", &stat);
        let is_hidden = !resolved.is_empty() && self.is_hidden(&resolved);
        let start = self.selection.entries.len();
        let wants_capabilities = self.source.keeps_owner();
        if top.kind == EntryKind::Dir {
            let walk = Walk {
                root,
                rules: Rules {
                    ignore: self.source.0.ignore.as_ref(),
                    exclude: self.exclude.as_ref(),
                    include,
                    wants_capabilities,
                },
                cancel: self.cancel,
            };
            let may_enter = !is_hidden
                || self.source.0.ignore.as_ref().is_some_and(|i| i.may_match_below(&resolved));
            if !may_enter {
                return Ok(false);
            }
            let mut listings = walk.run(&resolved)?;
            self.source.0.directories.fetch_add(listings.len() as u64, Ordering::Relaxed);
            let mut emit = Emit {
                listings: &mut listings,
                entries: &mut self.selection.entries,
                first_names: BTreeMap::new(),
            };
            emit.push(top, Vec::new());
            emit.children(0);
            if is_hidden && self.selection.entries.len() == start + 1 {
                self.selection.entries.truncate(start);
                return Ok(false);
            }
        } else {
            if is_hidden {
                return Ok(false);
            }
            if wants_capabilities && top.kind == EntryKind::File {
                top.capability = read_capability(root, &resolved)
                    .map_err(|e| ContextError::io("read the capabilities of", &resolved, e))?;
            }
            let mut emit = Emit {
                listings: &mut [],
                entries: &mut self.selection.entries,
                first_names: BTreeMap::new(),
            };
            emit.push(top, Vec::new());
        }
        self.selection.picked.push(Picked {
            name: last_part(path).into(),
            path: resolved.into(),
            range: start..self.selection.entries.len(),
            contents_only: !self.options.exact,
        });
        Ok(true)
    }

    /// Explains why nothing is at `path`.
    fn not_found(&self, written: &[u8], path: &[u8]) -> ContextError {
        let root = self.source.root();
        let mut hidden_by = None;
        let mut similar = Vec::new();
        if let Ok(resolved) = rooted::resolve_in_root(root, path) {
            if let Some(ignore) = &self.source.0.ignore
                && (resolved.missing == 0 || !resolved.links.is_empty())
            {
                let seen = resolved.links.iter().chain([&resolved.path]);
                hidden_by =
                    seen.map(Vec::as_slice).find_map(|path| ignore.which_rule(path)).map(|rule| {
                        HiddenBy {
                            file: ignore.file().to_owned(),
                            line: rule.line,
                            text: rule.text.to_owned(),
                        }
                    });
            }
            if hidden_by.is_none() && resolved.missing > 0 {
                similar = self.similar(&resolved.path, resolved.missing);
            }
        }
        ContextError::NotFound { pattern: show(written), hidden_by, similar }
    }

    /// Finds names near the first missing part of a path.
    fn similar(&self, path: &[u8], missing: usize) -> Vec<String> {
        let parts: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
        let at = parts.len().saturating_sub(missing);
        let parent = parts[..at].join(&b'/');
        let wanted = show(parts[at]);
        let Ok((_, names)) = read_names(self.source.root(), &parent) else { return Vec::new() };
        let mut near: Vec<(usize, String)> = names
            .into_iter()
            .filter_map(|(name, _)| {
                let full = join(&parent, &name);
                let distance = distance(&wanted, &show(&name));
                let is_near = distance <= (wanted.chars().count() / 3).max(1);
                (is_near && !self.is_hidden(&full)).then(|| {
                    let rest = parts[at + 1..].join(&b'/');
                    (distance, show(&join(&full, &rest)))
                })
            })
            .collect();
        near.sort();
        near.into_iter().take(SIMILAR_MAX).map(|(_, path)| path).collect()
    }
}

/// Counts the edits between two names. Swapped neighbours are one edit, a change of case is half of
/// one; the sum is rounded down.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut cost = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            cost[i][j] = if i == 0 || j == 0 {
                2 * (i + j)
            } else {
                let (x, y) = (a[i - 1], b[j - 1]);
                let change = if x == y { 0 } else { 2 - usize::from(x.eq_ignore_ascii_case(&y)) };
                let mut best = cost[i - 1][j - 1] + change;
                best = best.min(cost[i - 1][j] + 2).min(cost[i][j - 1] + 2);
                if i > 1 && j > 1 && x == b[j - 2] && y == a[i - 2] {
                    best = best.min(cost[i - 2][j - 2] + 2);
                }
                best
            };
        }
    }
    cost[a.len()][b.len()] / 2
}

struct Glob {
    wildcard: Wildcard,
    /// What the first parts of a path must match for a directory to be entered.
    prefixes: Vec<Wildcard>,
    /// Most parts that a match can have.
    depth: usize,
}

/// Turns listings into entries, each directory before what is in it.
struct Emit<'a> {
    listings: &'a mut [Listing],
    entries: &'a mut Vec<SelectedEntry>,
    /// The first entry of each inode with several names.
    first_names: BTreeMap<(u64, u64), u32>,
}

impl Emit<'_> {
    fn push(&mut self, found: Found, path: Vec<u8>) {
        let mut hard_link = None;
        if found.kind == EntryKind::File && found.links > 1 {
            let here = self.entries.len() as u32;
            let inode = (found.stamp.dev, found.stamp.ino);
            hard_link = Some(*self.first_names.entry(inode).or_insert(here)).filter(|&i| i != here);
        }
        self.entries.push(SelectedEntry {
            path: path.into(),
            kind: found.kind,
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            size: found.stamp.size,
            content: None,
            link: found.link,
            rdev: found.rdev,
            capability: found.capability,
            hard_link,
            is_implied: !found.is_taken && found.is_left_out,
            stamp: found.stamp,
        });
    }

    /// Emits all below a listing. Trees can be thousands of levels deep, so this does not recurse.
    fn children(&mut self, listing: usize) {
        struct Level {
            path: Vec<u8>,
            rest: std::vec::IntoIter<Found>,
            /// Where the directory's own entry is, if it goes when nothing follows it.
            mark: Option<usize>,
        }
        let take = |listings: &mut [Listing], at: usize| {
            std::mem::take(&mut listings[at].entries).into_iter()
        };
        let rest = take(self.listings, listing);
        let mut levels = vec![Level { path: Vec::new(), rest, mark: None }];
        while let Some(level) = levels.last_mut() {
            let Some(found) = level.rest.next() else {
                if level.mark.is_some_and(|mark| self.entries.len() == mark + 1) {
                    self.entries.pop();
                }
                levels.pop();
                continue;
            };
            let path = join(&level.path, &found.name);
            let (is_taken, below, mark) = (found.is_taken, found.listing, self.entries.len());
            self.push(found, path.clone());
            if let Some(below) = below {
                let rest = take(self.listings, below);
                levels.push(Level { path, rest, mark: (!is_taken).then_some(mark) });
            }
        }
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
