use super::*;
use crate::copy::Stamp;

/// A tree of 40 directories of 10 files each.
fn tree() -> Selection {
    let mut entries = vec![entry("", EntryKind::Dir)];
    for dir in 0..40 {
        entries.push(entry(&format!("d{dir:02}"), EntryKind::Dir));
        entries.extend((0..10).map(|file| entry(&format!("d{dir:02}/f{file}"), EntryKind::File)));
    }
    selection(entries)
}

fn selection(entries: Vec<SelectedEntry>) -> Selection {
    let picked = Picked {
        name: b"src"[..].into(),
        path: b"src"[..].into(),
        range: 0..entries.len(),
        contents_only: true,
    };
    Selection { picked: vec![picked], entries }
}

fn entry(path: &str, kind: EntryKind) -> SelectedEntry {
    SelectedEntry {
        path: path.as_bytes().into(),
        kind,
        mode: 0o644,
        uid: 5,
        gid: 6,
        size: 3,
        content: (kind == EntryKind::File).then_some([1; 32]),
        link: None,
        rdev: 0,
        capability: None,
        hard_link: None,
        is_implied: false,
        stamp: Stamp::default(),
    }
}

fn note() -> Copied {
    let now = Now { from: (1, 2), to: (3, 4), made: None };
    let made = Copied::new(LayerId::from_bytes([7; 32]), now, &tree(), false).unwrap();
    let read = Copied::parse(&made.to_bytes()).unwrap();
    assert_eq!((read.layer, read.now), (made.layer, now));
    read
}

/// What is to be copied after a change; `None` where all is.
fn after(change: impl FnOnce(&mut Vec<SelectedEntry>)) -> Option<Vec<String>> {
    let mut entries = tree().entries;
    change(&mut entries);
    let changed = note().changed(&selection(entries), false)?;
    assert_eq!(changed.picked[0].range, 0..changed.entries.len());
    Some(changed.entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect())
}

fn at<'a>(entries: &'a mut [SelectedEntry], path: &str) -> &'a mut SelectedEntry {
    entries.iter_mut().find(|entry| &*entry.path == path.as_bytes()).unwrap()
}

#[test]
fn only_what_differs_is_taken_with_the_directories_above() {
    let with_all_above = Some(vec![String::new(), "d07".into(), "d07/f3".into()]);
    let changes: [fn(&mut SelectedEntry); 6] = [
        |file| file.content = Some([2; 32]),
        |file| file.size = 4,
        |file| file.mode = 0o600,
        |file| file.stamp.mtime.nanoseconds = 1,
        |file| file.capability = Some(b"x"[..].into()),
        |file| file.kind = EntryKind::Fifo,
    ];
    for change in changes {
        assert_eq!(after(|entries| change(at(entries, "d07/f3"))), with_all_above);
    }
    assert_eq!(after(|_| {}), Some(vec![]));
    assert_eq!(after(|entries| at(entries, "d07/f3").uid = 9), Some(vec![]), "owners are not kept");
    let other_dir = after(|entries| at(entries, "d07").stamp.mtime.seconds = 1);
    assert_eq!(other_dir, Some(vec![String::new(), "d07".into()]));
    let added = after(|entries| entries.insert(2, entry("d00/a", EntryKind::Dir)));
    assert_eq!(added, Some(vec![String::new(), "d00".into(), "d00/a".into()]));
    let last = after(|entries| entries.push(entry("e", EntryKind::File)));
    assert_eq!(last, Some(vec![String::new(), "e".into()]));
}

#[test]
fn what_takes_something_away_is_copied_whole() {
    assert_eq!(after(|entries| drop(entries.remove(2))), None, "a file is gone");
    assert_eq!(after(|entries| drop(entries.pop())), None, "the last file is gone");
    assert_eq!(after(|entries| at(entries, "d07/f3").kind = EntryKind::Dir), None);
    assert_eq!(after(|entries| entries.iter_mut().for_each(|e| e.mode = 0o600)), None, "too much");
}

#[test]
fn entries_that_depend_on_others_are_not_noted() {
    let noted = |change: fn(&mut Selection)| {
        let mut selection = tree();
        change(&mut selection);
        let now = Now { from: (1, 2), to: (3, 4), made: Some((5, 6)) };
        Copied::new(LayerId::from_bytes([7; 32]), now, &selection, false).is_some()
    };
    assert!(noted(|_| {}));
    assert!(!noted(|selection| selection.entries[9].hard_link = Some(8)));
    assert!(!noted(|selection| selection.entries[1].is_implied = true));
    assert!(!noted(|selection| selection.picked[0].contents_only = false));
    assert!(!noted(|selection| selection.picked.push(selection.picked[0].clone())));
    assert!(!noted(|selection| {
        selection.entries.truncate(20);
        selection.picked[0].range = 0..20;
    }));
}

#[test]
fn a_damaged_note_is_none() {
    let good = note().to_bytes();
    for at in [0, 70, 200, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(Copied::parse(&bad).is_none());
        assert!(Copied::parse(&good[..at]).is_none());
    }
}

#[test]
fn the_place_leaves_out_what_is_copied_and_nothing_else() {
    let inputs = |dest: &str, tree: u8| {
        let mut inputs = Inputs::new();
        inputs.text("destination", dest);
        inputs.tree("files .", super::super::TreeId([tree; 32]));
        inputs
    };
    let chain = ChainId::scratch();
    let place = |dest, tree, keeps| Cache::place_of_copy(&inputs(dest, tree), &chain, keeps);
    assert_eq!(place("/a", 1, false), place("/a", 2, false));
    assert_ne!(place("/a", 1, false), place("/b", 1, false));
    assert_ne!(place("/a", 1, false), place("/a", 1, true));
}
