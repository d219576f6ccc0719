//! `--filter` of `builder df` and `builder prune`.
//!
//! Source: docker/buildx, `commands/prune.go`; docker/cli, `docker image prune`.

use super::failure::{Class, Failure};
use super::parse_args;
use crate::gc::Only;
use jiff::Timestamp;

/// The filters there are, for messages.
const KNOWN: &str =
    "expected until=AGE such as until=24h or until=7d, unused-for=AGE, type=KIND or id=ID";

/// What filters say.
#[derive(Debug, Default)]
pub(super) struct StoreFilter {
    /// Only what has not been used since.
    pub(super) unused_since: Option<Timestamp>,
    /// Only these things.
    pub(super) only: Only,
}

impl StoreFilter {
    /// Reads filters, all of which are to fit.
    ///
    /// # Errors
    ///
    /// A failure of class usage for one that means nothing here.
    pub(super) fn parse(texts: &[String], now: Timestamp) -> Result<Self, Failure> {
        let mut filter = Self::default();
        for text in texts {
            let wrong =
                |why: &str| Failure::new(Class::Usage, format!("invalid filter `{text}`: {why}"));
            let (key, value) = text.split_once('=').ok_or_else(|| wrong(KNOWN))?;
            match key {
                "until" | "unused-for" => {
                    let since = parse_args::moment(value, now)
                        .map_err(|why| wrong(&format!("{why}; {KNOWN}")))?;
                    let earliest = filter.unused_since.map_or(since, |other| other.min(since));
                    filter.unused_since = Some(earliest);
                }
                "type" => {
                    let kinds = Only::kinds_of(value)
                        .map_err(|known| wrong(&format!("the types are {known}")))?;
                    let kept = filter.only.kinds.take();
                    let is_kept = |kind: &&crate::gc::ItemKind| {
                        kept.as_ref().is_none_or(|kept| kept.contains(kind))
                    };
                    filter.only.kinds = Some(kinds.iter().filter(is_kept).copied().collect());
                }
                "id" if filter.only.id.is_none() && !value.is_empty() => {
                    filter.only.id = Some(value.to_owned());
                }
                "id" => return Err(wrong("expected one id, or the beginning of it")),
                "dangling" if parse_args::truth(value) == Ok(true) => {}
                "dangling" => {
                    return Err(wrong("images with names are not removed here")
                        .with_hint("remove an image: builder rmi NAME"));
                }
                "label" | "label!" => {
                    return Err(wrong(&format!("what is here has no labels; {KNOWN}")).with_hint(
                        "remove images by label: builder rmi $(builder images -q --filter label=…)",
                    ));
                }
                _ => return Err(wrong(KNOWN)),
            }
        }
        Ok(filter)
    }
}
