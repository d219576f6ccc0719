//! `--cache-to` and `--cache-from`: a cache that other machines can use.

use crate::cli::failure::{Class, Failure};
use crate::export::{CacheFrom, CacheSpecError, CacheTo};
use std::path::{Path, PathBuf};

/// Reads `--cache-to`. A kind of cache that is not there yet is a notice.
///
/// # Errors
///
/// A failure of class usage for what is not a cache.
pub(super) fn to(texts: &[String], notices: &mut Vec<String>) -> Result<Vec<CacheTo>, Failure> {
    let read = |text: &str| {
        let to = CacheTo::parse(text)?;
        Ok(CacheTo { dir: absolute(&to.dir), ..to })
    };
    all("--cache-to", texts, notices, read)
}

/// Reads `--cache-from`, likewise.
///
/// # Errors
///
/// A failure of class usage for what is not a cache.
pub(super) fn from(texts: &[String], notices: &mut Vec<String>) -> Result<Vec<CacheFrom>, Failure> {
    let read = |text: &str| {
        let from = CacheFrom::parse(text)?;
        Ok(CacheFrom { dir: absolute(&from.dir), ..from })
    };
    all("--cache-from", texts, notices, read)
}

fn all<T>(
    flag: &str,
    texts: &[String],
    notices: &mut Vec<String>,
    read: impl Fn(&str) -> Result<T, CacheSpecError>,
) -> Result<Vec<T>, Failure> {
    let mut caches = Vec::new();
    for text in texts {
        match read(text) {
            Ok(cache) => caches.push(cache),
            Err(error @ CacheSpecError::NotYet { .. }) => {
                notices.push(format!("{flag} {text} is not used: {error}"));
            }
            Err(error) => {
                return Err(Failure::new(Class::Usage, format!("{flag} {text}: {error}")));
            }
        }
    }
    Ok(caches)
}

/// A path that stays the same wherever we go.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
