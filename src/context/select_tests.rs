use super::super::*;
use super::{distance, show};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

/// A context directory made of `(path, content)`; a path that ends in a slash is a directory, a
/// content that starts with `->` a link.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let full = dir.path().join(path);
        if path.ends_with('/') {
            fs::create_dir_all(full).unwrap();
            continue;
        }
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        match content.strip_prefix("->") {
            Some(target) => symlink(target, full).unwrap(),
            None => fs::write(full, content).unwrap(),
        }
    }
    dir
}

fn source(dir: &tempfile::TempDir, ignore: &str) -> Source {
    let matcher = Matcher::parse(ignore.as_bytes()).unwrap();
    Source::dir(dir.path(), Some(matcher), None).unwrap()
}

/// Lists a selection as `root: entry entry …`, with the name of files in brackets.
fn list(selection: &Selection) -> Vec<String> {
    let mut lines = Vec::new();
    for picked in selection.picked() {
        let entries = &selection.entries()[picked.range.clone()];
        let names: Vec<String> = entries.iter().skip(1).map(|e| show(&e.path)).collect();
        lines.push(format!("{}[{}] {}", show(&picked.path), show(&picked.name), names.join(" ")));
    }
    lines.iter().map(|l| l.trim_end().to_owned()).collect()
}

#[track_caller]
fn check(source: &Source, patterns: &[&str], options: &SelectOptions, expected: &[&str]) {
    let selection = source.select(patterns, options, &crate::sys::cancel::Cancel::new()).unwrap();
    assert_eq!(list(&selection), expected, "{patterns:?}");
}

fn fails(source: &Source, pattern: &str, options: &SelectOptions) -> ContextError {
    source.select(&[pattern], options, &crate::sys::cancel::Cancel::new()).unwrap_err()
}

const PLAIN: SelectOptions = SelectOptions { parents: false, excludes: Vec::new(), exact: false };

#[test]
fn literal_sources_are_files_or_the_contents_of_directories() {
    let dir = tree(&[
        ("f", "1"),
        ("d/b", "2"),
        ("d/a/x", "3"),
        ("d-e", "4"),
        ("l", "->d/a"),
        ("lf", "->l/x"),
        ("abs", "->/d"),
        ("out", "->../../../../../f"),
        ("sp\\*", "5"),
    ]);
    let source = source(&dir, "");
    check(&source, &["f"], &PLAIN, &["f[f]"]);
    check(&source, &["/f", "./f/"], &PLAIN, &["f[f]", "f[f]"]);
    check(&source, &["d"], &PLAIN, &["d[d] a a/x b"]);
    check(&source, &["d/../d/."], &PLAIN, &["d[d] a a/x b"]);
    check(&source, &["l"], &PLAIN, &["d/a[l] x"]);
    check(&source, &["lf"], &PLAIN, &["d/a/x[lf]"]);
    check(&source, &["abs/a"], &PLAIN, &["d/a[a] x"]);
    check(&source, &["out"], &PLAIN, &["f[out]"]);
    check(&source, &["../../f"], &PLAIN, &["f[f]"]);
    check(&source, &["sp\\*"], &PLAIN, &["sp\\*[sp\\*]"]);
    check(&source, &[""], &PLAIN, &["[] abs d d/a d/a/x d/b d-e f l lf out sp\\*"]);
}

#[test]
fn wildcards_match_as_in_go_and_never_follow_links_on_the_way() {
    let dir = tree(&[
        ("a.c", "1"),
        ("b.c", "2"),
        ("d/x.c", "3"),
        ("d/e/y.c", "4"),
        ("ld", "->d"),
        ("l.c", "->a.c"),
        ("big/x/y/z", "5"),
    ]);
    let source = source(&dir, "");
    check(&source, &["*.c"], &PLAIN, &["a.c[a.c]", "b.c[b.c]", "a.c[l.c]"]);
    check(&source, &["[^b].c"], &PLAIN, &["a.c[a.c]", "a.c[l.c]"]);
    check(&source, &["*/*.c"], &PLAIN, &["d/x.c[x.c]"]);
    check(&source, &["ld/*.c"], &PLAIN, &["d/x.c[x.c]"]);
    check(&source, &["**/*.c"], &PLAIN, &["d/x.c[x.c]"]);
    check(&source, &["d*"], &PLAIN, &["d[d] e e/y.c x.c"]);
    check(&source, &["z*"], &PLAIN, &[]);
    assert!(matches!(fails(&source, "a.c/*", &PLAIN), ContextError::NotFound { .. }));
    assert!(matches!(fails(&source, "none/*", &PLAIN), ContextError::NotFound { .. }));
    assert!(matches!(fails(&source, "[a", &PLAIN), ContextError::BadPattern { .. }));
}

#[test]
fn only_directories_that_can_match_are_read() {
    let dir = tree(&[("a/x", "1"), ("a/deep/y", "2"), ("big/1/2/3/f", "3"), ("src/f", "4")]);
    let read = |ignore: &str, patterns: &[&str]| {
        let source = source(&dir, ignore);
        source.select(patterns, &PLAIN, &crate::sys::cancel::Cancel::new()).unwrap();
        source.directories_read()
    };
    assert_eq!(read("", &["a/x"]), 0);
    assert_eq!(read("", &["src"]), 1);
    assert_eq!(read("", &["s*"]), 2, "the root and src");
    assert_eq!(read("", &["*/f"]), 4, "the root, a, big, src");
    assert_eq!(read("", &["."]), 8);
    assert_eq!(read("big", &["."]), 4);
    assert_eq!(read("*\n!src", &["."]), 2);
    assert_eq!(read("big\n!big/1/2", &["."]), 8, "big, 1, 2 and 3 are on the way");
    assert_eq!(read("big\n!big/none/f", &["."]), 5, "big is entered, 1 is not");
}

#[test]
fn ignored_files_are_not_there() {
    let dir = tree(&[
        ("a", "1"),
        ("d/x", "2"),
        ("d/keep", "3"),
        ("e/y", "4"),
        ("empty/", ""),
        ("l", "->a"),
        ("hl", "->e/y"),
    ]);
    let all = source(&dir, "d/*\n!d/keep\ne\nl");
    check(&all, &["."], &PLAIN, &["[] a d d/keep empty hl"]);
    check(&all, &["[ade]*"], &PLAIN, &["a[a]", "d[d] keep", "empty[empty]"]);
}

#[test]
fn a_missing_source_names_the_line_that_hid_it() {
    let dir = tree(&[
        ("a.txt", "1"),
        ("d/x", "2"),
        ("l", "->a.txt"),
        ("Makefile", "3"),
        ("src/main.c", "4"),
    ]);
    let hidden = source(&dir, "# all\n*.txt\nd");
    for (pattern, line) in [("a.txt", 2), ("/d/x", 3), ("d", 3), ("l", 2)] {
        match fails(&hidden, pattern, &PLAIN) {
            ContextError::NotFound { hidden_by: Some(rule), .. } => {
                assert_eq!(rule.line, line, "{pattern}");
            }
            other => panic!("{pattern}: {other:?}"),
        }
    }
    let open = source(&dir, "");
    for (pattern, expected) in [
        ("makefile", vec!["Makefile"]),
        ("src/mian.c", vec!["src/main.c"]),
        ("scr/main.c", vec!["src/main.c"]),
        ("zzz", vec![]),
    ] {
        match fails(&open, pattern, &PLAIN) {
            ContextError::NotFound { similar, hidden_by: None, .. } => {
                assert_eq!(similar, expected, "{pattern}");
            }
            other => panic!("{pattern}: {other:?}"),
        }
    }
}

#[test]
fn excludes_are_relative_to_the_picked_root_and_spare_it() {
    let dir = tree(&[("a.txt", "1"), ("d/b.txt", "2"), ("d/s/c.txt", "3"), ("d/s/k", "4")]);
    let source = source(&dir, "");
    let with = |excludes: &[&str]| SelectOptions {
        excludes: excludes.iter().map(|e| (*e).to_owned()).collect(),
        ..PLAIN
    };
    check(&source, &["a.txt"], &with(&["a.txt"]), &["a.txt[a.txt]"]);
    check(&source, &["*.txt"], &with(&["*.txt"]), &["a.txt[a.txt]"]);
    check(&source, &["d"], &with(&["*.txt"]), &["d[d] s s/c.txt s/k"]);
    check(&source, &["d"], &with(&["**/*.txt"]), &["d[d] s s/k"]);
    check(&source, &["."], &with(&["d/s", "!d/s/k"]), &["[] a.txt d d/b.txt d/s d/s/k"]);
    assert!(matches!(fails(&source, "d", &with(&["[a"])), ContextError::BadPattern { .. }));
}

#[test]
fn parents_keep_the_directories_above() {
    let dir = tree(&[
        ("x/y/a.txt", "1"),
        ("x/y/b.c", "2"),
        ("x/z/a.txt", "3"),
        ("top.txt", "4"),
        ("w/v/u", "5"),
    ]);
    let source = source(&dir, "");
    let parents = SelectOptions { parents: true, ..PLAIN };
    check(&source, &["x/y/a.txt"], &parents, &["[] x x/y x/y/a.txt"]);
    check(&source, &["./x/./y/a.txt"], &parents, &["x[x] y y/a.txt"]);
    check(&source, &["x/y"], &parents, &["[] x x/y x/y/a.txt x/y/b.c"]);
    check(&source, &["**/a.txt"], &parents, &["[] x x/y x/y/a.txt x/z x/z/a.txt"]);
    check(&source, &["x/*/./*.txt"], &parents, &["x/y[y] a.txt", "x/z[z] a.txt"]);
    check(&source, &["x/none*"], &parents, &["[]"]);
    assert!(matches!(fails(&source, "x/none", &parents), ContextError::NotFound { .. }));
    let before = source.directories_read();
    check(&source, &["x/y/a.txt"], &parents, &["[] x x/y x/y/a.txt"]);
    assert_eq!(source.directories_read() - before, 3, "w is not entered");
}

#[test]
fn hard_links_and_modes_are_kept() {
    let dir = tree(&[("d/a", "1"), ("d/x", "2")]);
    fs::hard_link(dir.path().join("d/a"), dir.path().join("d/b")).unwrap();
    fs::set_permissions(dir.path().join("d/x"), fs::Permissions::from_mode(0o4711)).unwrap();
    let selection =
        source(&dir, "").select(&["d"], &PLAIN, &crate::sys::cancel::Cancel::new()).unwrap();
    let [_, a, b, x] = selection.entries() else { panic!("{selection:?}") };
    assert_eq!((a.hard_link, b.hard_link, x.hard_link), (None, Some(1), None));
    assert_eq!(b.content, a.content);
    assert_eq!(x.mode, 0o4711);
    assert_eq!(x.content, Some(*blake3::hash(b"2").as_bytes()));
}

#[test]
fn sockets_are_empty_files_and_links_stay_links() {
    let dir = tree(&[("d/l", "->nowhere")]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("d/s")).unwrap();
    let selection =
        source(&dir, "").select(&["d"], &PLAIN, &crate::sys::cancel::Cancel::new()).unwrap();
    let [_, link, socket] = selection.entries() else { panic!("{selection:?}") };
    assert_eq!(
        (link.kind, link.link.as_deref()),
        (EntryKind::Symlink, Some(b"nowhere".as_slice()))
    );
    assert_eq!((socket.kind, socket.size), (EntryKind::File, 0));
}

#[test]
fn the_same_files_elsewhere_and_touched_have_the_same_digest() {
    let files = [("d/a", "1"), ("d/s/b", "2"), ("d/l", "->a")];
    let digest = |dir: &tempfile::TempDir| {
        let selection = source(dir, "").select(&["d"], &PLAIN, &crate::sys::cancel::Cancel::new());
        selection.unwrap().digest(false)
    };
    let (one, two) = (tree(&files), tree(&files));
    let file = fs::File::options().write(true).open(two.path().join("d/a")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(digest(&one), digest(&two));
    fs::set_permissions(two.path().join("d/a"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_ne!(digest(&one), digest(&two));
}

#[test]
fn unchanged_files_are_hashed_once_over_all_builds() {
    let dir = tree(&[("d/a", "1"), ("d/b", "22"), ("c", "333"), ("empty", "")]);
    let store = tempfile::tempdir().unwrap();
    let index = store.path().join("index");
    let cancel = crate::sys::cancel::Cancel::new();
    let build = || {
        let source = Source::dir(dir.path(), None, Some(index.clone())).unwrap();
        let selections = std::thread::scope(|scope| {
            let select = || source.select(&["."], &PLAIN, &cancel).unwrap().digest(false);
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(select)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(selections.iter().all(|digest| *digest == selections[0]));
        source.flush().unwrap();
        (source.files_hashed(), selections[0])
    };
    // Files as young as the clock are racy and not remembered: wait until the clock has moved on,
    // by letting it write other files.
    let (hashed, first) = build();
    assert_eq!(hashed, 3, "once for four steps");
    let young = |name: &str| {
        let ctime = walk::stamp_of(&rustix::fs::stat(dir.path().join(name)).unwrap());
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        index::is_racy(&ctime, walk::time(now.tv_sec, now.tv_nsec as u64))
    };
    while ["d/a", "d/b", "c"].iter().any(|name| young(name)) {
        fs::write(store.path().join("tick"), "").unwrap();
    }
    assert_eq!(build().1, first);
    assert_eq!(build(), (0, first));

    // An edit of the same size with the old mtime put back is seen by its ctime.
    let path = dir.path().join("d/b");
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "23").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    let (hashed, second) = build();
    assert_eq!(hashed, 1);
    assert_ne!(second, first);

    // Two files that change their names keep inodes and times.
    fs::write(dir.path().join("d/a"), "7").unwrap();
    fs::write(dir.path().join("d/x"), "8").unwrap();
    let (_, before) = build();
    fs::rename(dir.path().join("d/a"), dir.path().join("d/t")).unwrap();
    fs::rename(dir.path().join("d/x"), dir.path().join("d/a")).unwrap();
    fs::rename(dir.path().join("d/t"), dir.path().join("d/x")).unwrap();
    assert_ne!(build().1, before);
}

#[test]
fn near_names_are_measured_in_edits() {
    for (a, b, expected) in [
        ("abc", "abc", 0),
        ("abc", "abd", 1),
        ("makefile", "Makefile", 0),
        ("ab", "ba", 1),
        ("", "xy", 2),
    ] {
        assert_eq!(distance(a, b), expected, "{a} {b}");
    }
}
