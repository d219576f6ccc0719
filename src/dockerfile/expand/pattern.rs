//! Shell patterns of `#`, `%` and `/`: `*`, `?` and escapes; brackets are
//! plain characters.
//!
//! A search that remembers which pairs of pattern part and position failed:
//! its cost is their product, never more.

use super::{ExpandError, PATTERN_WORK_MAX, VALUES_MAX, is_name_char};

enum Part {
    Char(char),
    /// `?`: any character but a line break.
    One,
    /// `*`: any number of them.
    Many,
}

/// Reads a pattern.
fn parts(pattern: &[char]) -> Result<Vec<Part>, ExpandError> {
    let mut out = Vec::with_capacity(pattern.len());
    let mut chars = pattern.iter().copied().peekable();
    // Go's scanner, which reads patterns too, skips a byte-order mark.
    chars.next_if_eq(&'\u{feff}');
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Part::Many,
            '?' => Part::One,
            '\\' => match chars.next() {
                Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Part::Char(c),
                other => {
                    return Err(ExpandError::Pattern {
                        pattern: pattern.iter().collect(),
                        escaped: other.map(String::from).unwrap_or_default(),
                    });
                }
            },
            c => Part::Char(c),
        });
    }
    Ok(out)
}

/// Finds matches of one pattern in one value.
struct Search<'a> {
    parts: &'a [Part],
    value: &'a [char],
    is_greedy: bool,
    /// One bit per pair of part and position that leads nowhere.
    failed: Vec<u64>,
    /// Pairs seen by the search in progress.
    seen: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(parts: &'a [Part], value: &'a [char], is_greedy: bool) -> Result<Self, ExpandError> {
        let pairs = (parts.len() + 1).saturating_mul(value.len() + 1);
        if pairs > PATTERN_WORK_MAX {
            return Err(ExpandError::TooMuchWork);
        }
        Ok(Self { parts, value, is_greedy, failed: vec![0; pairs.div_ceil(64)], seen: Vec::new() })
    }

    /// End of the preferred match that starts at `start`.
    fn end_of_match(&mut self, start: usize) -> Option<usize> {
        self.seen.clear();
        let mut open = vec![(0, start)];
        while let Some((part, at)) = open.pop() {
            let Some(kind) = self.parts.get(part) else {
                // What led to a match is not a failure; what else was seen may be tried again.
                for &pair in &self.seen {
                    self.failed[pair / 64] &= !(1 << (pair % 64));
                }
                return Some(at);
            };
            let pair = part * (self.value.len() + 1) + at;
            if self.failed[pair / 64] & (1 << (pair % 64)) != 0 {
                continue;
            }
            // Seen once is enough: the first visit tries all that follows.
            self.failed[pair / 64] |= 1 << (pair % 64);
            self.seen.push(pair);
            let here = self.value.get(at).copied();
            match kind {
                Part::Char(c) if here == Some(*c) => open.push((part + 1, at + 1)),
                Part::One if here.is_some_and(|c| c != '\n') => open.push((part + 1, at + 1)),
                Part::Many => {
                    let more = here.is_some_and(|c| c != '\n').then_some((part, at + 1));
                    let enough = Some((part + 1, at));
                    // The last pushed is tried first.
                    let order = if self.is_greedy { [enough, more] } else { [more, enough] };
                    open.extend(order.into_iter().flatten());
                }
                _ => {}
            }
        }
        None
    }
}

/// `${VALUE#pattern}`
pub(super) fn trim_prefix(
    pattern: &str,
    value: &str,
    is_greedy: bool,
) -> Result<String, ExpandError> {
    let pattern: Vec<char> = pattern.chars().collect();
    let value: Vec<char> = value.chars().collect();
    Ok(trim(&pattern, &value, is_greedy)?.iter().collect())
}

/// `${VALUE%pattern}`: both turned round, so that the shortest match at the end
/// is found as one at the start.
pub(super) fn trim_suffix(
    pattern: &str,
    value: &str,
    is_greedy: bool,
) -> Result<String, ExpandError> {
    let mut turned: Vec<char> = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        // An escape stays in front of what it escapes.
        if c == '\\' {
            turned.extend(chars.next());
        }
        turned.push(c);
    }
    turned.reverse();
    let value: Vec<char> = value.chars().rev().collect();
    Ok(trim(&turned, &value, is_greedy)?.iter().rev().collect())
}

fn trim<'a>(
    pattern: &[char],
    value: &'a [char],
    is_greedy: bool,
) -> Result<&'a [char], ExpandError> {
    let parts = parts(pattern)?;
    let end = Search::new(&parts, value, is_greedy)?.end_of_match(0).unwrap_or(0);
    Ok(&value[end..])
}

/// `${VALUE/pattern/replacement}` and, with `all`, `//`.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
) -> Result<String, ExpandError> {
    let pattern: Vec<char> = pattern.chars().collect();
    let chars: Vec<char> = value.chars().collect();
    let parts = parts(&pattern)?;
    let mut search = Search::new(&parts, &chars, true)?;
    let mut out = String::with_capacity(value.len());
    let mut copied = 0;
    let mut start = 0;
    while start <= chars.len() {
        let Some(end) = search.end_of_match(start) else {
            start += 1;
            continue;
        };
        out.extend(&chars[copied..start]);
        if all {
            // An empty match right behind another one is none.
            if end > copied || start == 0 {
                let matched: String = chars[start..end].iter().collect();
                push_template(&mut out, replacement, &matched);
            }
        } else {
            out.push_str(replacement);
        }
        if out.len() > VALUES_MAX {
            return Err(ExpandError::TooLong);
        }
        copied = end;
        start = if end > start { end } else { start + 1 };
        if !all {
            break;
        }
    }
    out.extend(&chars[copied..]);
    Ok(out)
}

/// With `//`, BuildKit hands the replacement to Go as a template: `$0` is the
/// match, `$$` a dollar sign, any other `$name` nothing.
fn push_template(out: &mut String, template: &str, matched: &str) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (inner, is_braced) = match after.strip_prefix('{') {
            Some(inner) => (inner, true),
            None => (after, false),
        };
        let length = inner.find(|c| !is_name_char(c)).unwrap_or(inner.len());
        let (name, tail) = inner.split_at(length);
        let tail = if is_braced { tail.strip_prefix('}') } else { Some(tail) };
        match tail {
            Some(tail) if !name.is_empty() => {
                if name == "0" {
                    out.push_str(matched);
                }
                rest = tail;
            }
            _ => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
}
