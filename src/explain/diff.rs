//! Differences between two texts, word by word.

use serde::Serialize;

/// A stretch of one or both texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Whether it is in both, only in the old, or only in the new text.
    pub op: Op,
    /// Its words with the white space between them.
    pub text: String,
}

/// Which text a [`Piece`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Both.
    Same,
    /// The old one.
    Removed,
    /// The new one.
    Added,
}

/// Beyond this many comparisons what differs is shown as replaced as a whole: a heredoc of a
/// thousand lines is not worth a second of waiting.
const WORK_MAX: usize = 1 << 20;

/// Compares two texts. The pieces that are not [`Op::Added`] make the old one, those that are not
/// [`Op::Removed`] the new one; no two neighbours have the same op.
pub fn words(old: &str, new: &str) -> Vec<Piece> {
    let (old, new) = (split(old), split(new));
    let mut pieces = Vec::new();
    for (op, word) in align(&old, &new) {
        push(&mut pieces, op, word);
    }
    pieces
}

/// Splits into words and the stretches of white space between them.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end =
            rest.find(|c: char| c.is_whitespace() != first.is_whitespace()).unwrap_or(rest.len());
        words.push(&rest[..end]);
        rest = &rest[end..];
    }
    words
}

fn push(pieces: &mut Vec<Piece>, op: Op, text: &str) {
    match pieces.last_mut() {
        Some(last) if last.op == op => last.text.push_str(text),
        _ => pieces.push(Piece { op, text: text.to_owned() }),
    }
}

fn align<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Op, &'a str)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (before, old) = old.split_at(head);
    let new = &new[head..];
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, after) = old.split_at(old.len() - tail);
    let new = &new[..new.len() - tail];

    let mut out: Vec<_> = before.iter().map(|word| (Op::Same, *word)).collect();
    if old.len().saturating_mul(new.len()) > WORK_MAX {
        out.extend(old.iter().map(|word| (Op::Removed, *word)));
        out.extend(new.iter().map(|word| (Op::Added, *word)));
    } else {
        middle(old, new, &mut out);
    }
    out.extend(after.iter().map(|word| (Op::Same, *word)));
    out
}

/// The longest common subsequence, by the table of the lengths of those of all tails.
fn middle<'a>(old: &[&'a str], new: &[&'a str], out: &mut Vec<(Op, &'a str)>) {
    let width = new.len() + 1;
    let mut length = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i * width + j] = if old[i] == new[j] {
                length[(i + 1) * width + j + 1] + 1
            } else {
                length[(i + 1) * width + j].max(length[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push((Op::Same, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len()
            && (j == new.len() || length[(i + 1) * width + j] >= length[i * width + j + 1])
        {
            out.push((Op::Removed, old[i]));
            i += 1;
        } else {
            out.push((Op::Added, new[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[-old-]`, `{+new+}`.
    fn shown(old: &str, new: &str) -> String {
        words(old, new)
            .iter()
            .map(|piece| match piece.op {
                Op::Same => piece.text.clone(),
                Op::Removed => format!("[-{}-]", piece.text),
                Op::Added => format!("{{+{}+}}", piece.text),
            })
            .collect()
    }

    #[test]
    fn only_what_differs_is_marked() {
        const CASES: &[(&str, &str, &str)] = &[
            ("make", "make", "make"),
            ("", "", ""),
            ("", "make", "{+make+}"),
            ("make", "", "[-make-]"),
            ("make all", "make test", "make [-all-]{+test+}"),
            ("install gcc", "install gcc make", "install gcc{+ make+}"),
            ("a b c d", "a c d e", "a [-b -]c d{+ e+}"),
            ("a\nb", "a b", "a[-\n-]{+ +}b"),
            ("é à", "é ù", "é [-à-]{+ù+}"),
        ];
        for (old, new, expected) in CASES {
            assert_eq!(shown(old, new), *expected, "{old:?} -> {new:?}");
        }
    }

    #[test]
    fn a_huge_text_is_replaced_as_a_whole() {
        let text = |word: &str| format!("x {} y", vec![word; 2000].join(" "));
        let pieces = words(&text("a"), &text("b"));
        assert_eq!(pieces.len(), 4);
        assert_eq!((pieces[0].text.as_str(), pieces[3].text.as_str()), ("x ", " y"));
    }

    proptest::proptest! {
        #[test]
        fn both_texts_can_be_read_back(old in "[ab \n]{0,40}", new in "[ab \n]{0,40}") {
            let pieces = words(&old, &new);
            let without = |op| -> String {
                pieces.iter().filter(|p| p.op != op).map(|p| p.text.as_str()).collect()
            };
            proptest::prop_assert_eq!(without(Op::Added), old);
            proptest::prop_assert_eq!(without(Op::Removed), new);
            proptest::prop_assert!(pieces.windows(2).all(|pair| pair[0].op != pair[1].op));
        }
    }
}
