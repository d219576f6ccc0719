//! BuildKit's "did you mean" for names of variables.
//!
//! Not the one of [`crate::dockerfile::errors`], which forgives more: these words stand in messages
//! that tools compare with BuildKit's.
//!
//! Source: BuildKit `util/suggest/error.go`, of August 2026.

/// A name this many edits away is another name.
const DISTANCE_MAX: usize = 3;

/// The nearest of `options`, the first of several; `None` where `word` is one of them.
pub(super) fn suggest<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let mut best = None;
    let mut limit = DISTANCE_MAX;
    for option in options {
        if option == word {
            return None;
        }
        let distance = distance(word, option, limit);
        if distance < limit {
            limit = distance;
            best = Some(option);
        }
    }
    best
}

/// Edits (insert, delete, replace) between two words; `limit` or more where they are that far
/// apart.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    // Also keeps long values out of the quadratic part.
    if a.len().abs_diff(b.len()) >= limit {
        return limit;
    }
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
        }
        if row.iter().all(|&n| n >= limit) {
            return limit;
        }
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn two_edits_are_near_three_are_not() {
        for (word, options, want) in [
            ("PAHT", &["HOME", "PATH"][..], Some("PATH")),
            ("varB", &["varA", "varC"], Some("varA")),
            ("NOPE", &["PATH"], None),
            ("PATH", &["PATHS", "PATH"], None),
            ("a", &[], None),
        ] {
            assert_eq!(suggest(word, options.iter().copied()), want, "{word}");
        }
    }
}
