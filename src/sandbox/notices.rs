//! Notices about confinement that is weaker here than elsewhere.

use std::collections::BTreeSet;

/// Sentences for the user. Each is shown once, however often it arises.
#[derive(Debug, Default)]
pub(super) struct Notices {
    known: BTreeSet<String>,
    untold: Vec<String>,
}

impl Notices {
    /// Adds a sentence, unless it was added before.
    pub(super) fn add(&mut self, notice: String) {
        if self.known.insert(notice.clone()) {
            self.untold.push(notice);
        }
    }

    /// Takes the notices that have not been shown yet.
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_notice_is_shown_twice() {
        let mut notices = Notices::default();
        notices.add("a".into());
        notices.add("a".into());
        assert_eq!(notices.take(), ["a"]);
        notices.add("a".into());
        assert!(notices.take().is_empty());
    }
}
