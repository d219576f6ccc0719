use super::super::*;
use crate::context::{SelectOptions, Source};
use crate::sys::cancel::Cancel;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

/// The times of all that is copied.
const TIME: i64 = 1_577_836_800;

/// Files in a directory of its own: `d/` a directory, `->x` a link, `=x` another name of x, else
/// the content, all with the time [`TIME`].
struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        for (path, content) in files {
            let full = dir.0.path().join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            if path.ends_with('/') {
                fs::create_dir_all(full).unwrap();
            } else if let Some(target) = content.strip_prefix("->") {
                symlink(target, full).unwrap();
            } else if let Some(other) = content.strip_prefix('=') {
                fs::hard_link(dir.0.path().join(other), full).unwrap();
            } else {
                fs::write(&full, content).unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(TIME as u64);
                File::options().write(true).open(full).unwrap().set_modified(time).unwrap();
            }
        }
        dir
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.0.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn facts(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.0.path().join(path)).unwrap()
    }

    /// Lists all files as `path mode content`, with links as `->target`.
    fn list(&self) -> Vec<String> {
        fn walk(root: &Path, path: &Path, out: &mut Vec<String>) {
            let mut names: Vec<_> =
                fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
            names.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
            for path in names {
                let facts = fs::symlink_metadata(&path).unwrap();
                let name = path.strip_prefix(root).unwrap().display();
                let mode = facts.mode() & 0o7777;
                if facts.is_dir() {
                    out.push(format!("{name}/ {mode:o}"));
                    walk(root, &path, out);
                } else if facts.is_symlink() {
                    out.push(format!("{name} ->{}", fs::read_link(&path).unwrap().display()));
                } else if facts.is_file() {
                    out.push(format!("{name} {mode:o} {}", fs::read_to_string(&path).unwrap()));
                } else {
                    out.push(format!("{name} {mode:o} special"));
                }
            }
        }
        let mut out = Vec::new();
        walk(self.0.path(), self.0.path(), &mut out);
        out
    }
}

/// The flags of one COPY.
#[derive(Default)]
struct Flags<'a> {
    chown: Option<Owner>,
    chmod: Option<&'a str>,
    workdir: &'a str,
    parents: bool,
    excludes: &'a [&'a str],
    created: Option<FileTime>,
    /// Copies as `--from` does.
    from: bool,
}

fn me() -> Owner {
    Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

fn copy(
    context: &Dir,
    target: &Dir,
    sources: &[&str],
    dest: &str,
    flags: &Flags<'_>,
) -> Result<CopyStats, CopyError> {
    let source = if flags.from {
        Source::snapshot(Arc::new(File::open(context.0.path()).unwrap()), None)
    } else {
        Source::dir(context.0.path(), None, None).unwrap()
    };
    let options = SelectOptions {
        parents: flags.parents,
        excludes: flags.excludes.iter().map(|e| (*e).to_owned()).collect(),
        exact: false,
    };
    let selection = source.select(sources, &options, &Cancel::new()).unwrap();
    let mode = flags.chmod.map(|text| ChmodSpec::parse(text).unwrap());
    let root = File::open(target.0.path()).unwrap();
    let request = CopyRequest {
        sources: vec![CopySource::Tree {
            root: source.root(),
            selection: &selection,
            keep_owner: source.keeps_owner(),
            unpack: false,
        }],
        dest: dest.as_bytes(),
        workdir: flags.workdir.as_bytes(),
        // Tests that are not root's may own files as themselves only.
        owner: flags.chown.or((!flags.from).then(me)),
        mode: mode.as_ref(),
        created: flags.created,
        before: None,
    };
    copy_into(root.as_fd(), &request, &Cancel::new())
}

#[track_caller]
fn check(context: &Dir, target: &Dir, sources: &[&str], dest: &str, expected: &[&str]) {
    copy(context, target, sources, dest, &Flags { workdir: "/", ..Flags::default() }).unwrap();
    assert_eq!(target.list(), expected, "COPY {sources:?} {dest}");
}

#[test]
fn files_go_where_the_destination_says() {
    let context = Dir::new(&[("a", "1"), ("b", "2"), ("d/x", "3"), ("d/s/y", "4")]);
    let fresh = || Dir::new(&[]);
    check(&context, &fresh(), &["a"], "/n", &["n 644 1"]);
    check(&context, &fresh(), &["a"], "/n/", &["n/ 755", "n/a 644 1"]);
    check(&context, &fresh(), &["a"], "/n/m/o", &["n/ 755", "n/m/ 755", "n/m/o 644 1"]);
    check(&context, &fresh(), &["a", "b"], "/n", &["n 644 2"]);
    check(&context, &fresh(), &["a", "b"], "/n/.", &["n/ 755", "n/a 644 1", "n/b 644 2"]);
    check(&context, &fresh(), &["a"], "/", &["a 644 1"]);
    check(&context, &fresh(), &["a"], ".", &["a 644 1"]);
    check(&context, &fresh(), &["z*"], "/n/", &[]);
    check(&context, &fresh(), &["d"], "/n", &["n/ 755", "n/s/ 755", "n/s/y 644 4", "n/x 644 3"]);
    check(&context, &fresh(), &["d"], "/", &["s/ 755", "s/y 644 4", "x 644 3"]);
    check(&context, &fresh(), &["a", "d/s"], "/n/", &["n/ 755", "n/a 644 1", "n/y 644 4"]);
    check(&context, &Dir::new(&[("n/", "")]), &["a"], "/n", &["n/ 755", "n/a 644 1"]);
    let target = fresh();
    copy(&context, &target, &["a"], "sub/f", &Flags { workdir: "/w", ..Flags::default() }).unwrap();
    assert_eq!(target.list(), ["w/ 755", "w/sub/ 755", "w/sub/f 644 1"]);
}

#[test]
fn links_in_the_destination_are_resolved_inside_the_root() {
    let context = Dir::new(&[("f", "1"), ("d/x", "2")]);
    let target = Dir::new(&[("real/", ""), ("link", "->/real")]);
    check(&context, &target, &["d"], "/link", &["link ->/real", "real/ 755", "real/x 644 2"]);
    let target = Dir::new(&[("t", "old"), ("link", "->/t")]);
    check(&context, &target, &["f"], "/link", &["link ->/t", "t 644 1"]);
    let target = Dir::new(&[("link", "->../../nowhere/deep")]);
    check(
        &context,
        &target,
        &["f"],
        "/link/sub/f",
        &[
            "link ->../../nowhere/deep",
            "nowhere/ 755",
            "nowhere/deep/ 755",
            "nowhere/deep/sub/ 755",
            "nowhere/deep/sub/f 644 1",
        ],
    );
    // A link that is not the destination but of a file's name in it is replaced.
    let target = Dir::new(&[("n/f", "->/t"), ("t", "old")]);
    check(&context, &target, &["f"], "/n/", &["n/ 755", "n/f 644 1", "t 644 old"]);
}

#[test]
fn what_cannot_replace_what_is_an_error() {
    let context = Dir::new(&[("foo", "1"), ("d/x", "2"), ("one/x/y", "3"), ("l", "->d")]);
    let flags = Flags { workdir: "/", ..Flags::default() };
    let target = Dir::new(&[("n/foo/", ""), ("t", "file"), ("x", "file")]);
    let fails =
        |sources: &[&str], dest: &str| copy(&context, &target, sources, dest, &flags).unwrap_err();
    assert!(
        matches!(fails(&["foo"], "/n/"), CopyError::FileOverDirectory { path } if path == Path::new("/n/foo"))
    );
    assert!(
        matches!(fails(&["d"], "/t"), CopyError::DirectoryOverFile { path } if path == Path::new("/t"))
    );
    assert!(
        matches!(fails(&["one"], "/"), CopyError::DirectoryOverFile { path } if path == Path::new("/x"))
    );
    assert!(
        matches!(fails(&["foo"], "/t/a"), CopyError::NotADirectory { path } if path == Path::new("/t"))
    );
    assert!(matches!(fails(&["foo"], "/t/"), CopyError::NotADirectory { .. }));
}

#[test]
fn trees_keep_modes_links_and_times() {
    let context = Dir::new(&[
        ("d/a", "1"),
        ("d/b", "=d/a"),
        ("d/s/c", "=d/a"),
        ("d/suid", "2"),
        ("d/l", "->nowhere"),
        ("d/private/", ""),
        ("d/empty", ""),
    ]);
    context.mode("d/suid", 0o4711);
    context.mode("d/private", 0o1700);
    context.mode("d", 0o750);
    rustix::fs::mknodat(
        File::open(context.0.path()).unwrap(),
        "d/pipe",
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let target = Dir::new(&[]);
    check(
        &context,
        &target,
        &["d"],
        "/n",
        &[
            "n/ 755",
            "n/a 644 1",
            "n/b 644 1",
            "n/empty 644 ",
            "n/l ->nowhere",
            "n/pipe 640 special",
            "n/private/ 1700",
            "n/s/ 755",
            "n/s/c 644 1",
            "n/suid 4711 2",
        ],
    );
    assert_eq!(target.facts("n/a").nlink(), 3);
    assert_eq!(target.facts("n/a").ino(), target.facts("n/s/c").ino());
    for path in ["n/a", "n/suid", "n/empty"] {
        assert_eq!(target.facts(path).mtime(), TIME, "{path}");
    }
    assert_eq!(target.facts("n/private").mtime(), context.facts("d/private").mtime());
    // Once more over what is there: same result.
    let before = target.list();
    check(&context, &target, &["d"], "/n", &before.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn existing_directories_inside_a_tree_take_its_mode_the_destination_keeps_its_own() {
    let context = Dir::new(&[("d/s/f", "1")]);
    context.mode("d/s", 0o700);
    context.mode("d", 0o711);
    let target = Dir::new(&[("n/s/old", "2")]);
    target.mode("n", 0o775);
    target.mode("n/s", 0o777);
    check(&context, &target, &["d"], "/n", &["n/ 775", "n/s/ 700", "n/s/f 644 1", "n/s/old 644 2"]);
}

#[test]
fn chmod_reaches_files_and_created_directories_only() {
    let context = Dir::new(&[("f", "1"), ("d/g", "2"), ("d/s/h", "3"), ("d/l", "->g")]);
    context.mode("d/g", 0o744);
    let run = |target: &Dir, chmod, sources: &[&str], dest| {
        let flags = Flags { workdir: "/", chmod: Some(chmod), ..Flags::default() };
        copy(&context, target, sources, dest, &flags).unwrap();
        target.list()
    };
    assert_eq!(
        run(&Dir::new(&[]), "1777", &["d"], "/st"),
        ["st/ 777", "st/g 1777 2", "st/l ->g", "st/s/ 1777", "st/s/h 1777 3"]
    );
    assert_eq!(
        run(&Dir::new(&[("old/", "")]), "700", &["f"], "/old/new/f"),
        ["old/ 755", "old/new/ 700", "old/new/f 700 1"]
    );
    assert_eq!(
        run(&Dir::new(&[]), "u=rwX,go=rX", &["d"], "/x/"),
        ["x/ 755", "x/g 755 2", "x/l ->g", "x/s/ 755", "x/s/h 644 3"]
    );
    assert_eq!(run(&Dir::new(&[]), "4711", &["f"], "/suid"), ["suid 4711 1"]);
}

#[test]
fn parents_make_the_directories_above_with_their_own_modes() {
    let context = Dir::new(&[("x/y/a", "1"), ("x/z/b", "2"), ("top", "3")]);
    context.mode("x/y", 0o711);
    let run = |target: &Dir, sources: &[&str]| {
        let flags = Flags { workdir: "/", parents: true, ..Flags::default() };
        copy(&context, target, sources, "/n/", &flags).unwrap();
        target.list()
    };
    assert_eq!(
        run(&Dir::new(&[]), &["x/y/a", "top"]),
        ["n/ 755", "n/top 644 3", "n/x/ 755", "n/x/y/ 711", "n/x/y/a 644 1"]
    );
    assert_eq!(run(&Dir::new(&[]), &["x/./y/a"]), ["n/ 755", "n/y/ 711", "n/y/a 644 1"]);
    assert_eq!(run(&Dir::new(&[]), &["none*"]), ["n/ 755"]);
}

#[test]
fn a_tree_of_several_batches_is_copied_whole_with_its_links_and_times() {
    let names: Vec<String> = (0..400).map(|i| format!("d/{}/f{i}", i % 80)).collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    files.push(("d/79/zz", "=d/0/f0"));
    let context = Dir::new(&files);
    let target = Dir::new(&[]);
    let flags = Flags { workdir: "/", ..Flags::default() };
    let stats = copy(&context, &target, &["."], "/", &flags).unwrap();
    assert_eq!((stats.files, stats.bytes, stats.changed.len()), (400, 400, 0));
    assert_eq!(target.list(), context.list());
    assert_eq!(target.facts("d/79/zz").ino(), target.facts("d/0/f0").ino());
    for path in ["d", "d/0", "d/79"] {
        assert_eq!(target.facts(path).modified().unwrap(), context.facts(path).modified().unwrap());
    }
}

#[test]
fn inline_documents_take_their_names_from_their_delimiters() {
    let target = Dir::new(&[("old", "->x")]);
    let root = File::open(target.0.path()).unwrap();
    let created = FileTime { seconds: TIME, nanoseconds: 0 };
    let run = |sources, dest: &[u8]| {
        let request = CopyRequest {
            sources,
            dest,
            workdir: b"/",
            owner: Some(me()),
            mode: None,
            created: Some(created),
            before: None,
        };
        copy_into(root.as_fd(), &request, &Cancel::new()).unwrap()
    };
    let inline = |name, data| CopySource::Inline { name, data };
    let stats = run(vec![inline(b"robots.txt", b"a\n"), inline(b"EOF", b"bc\n")], b"/n/");
    assert_eq!((stats.files, stats.bytes, stats.directories), (2, 5, 1));
    run(vec![inline(b"EOF", b"3")], b"/old");
    assert_eq!(
        target.list(),
        ["n/ 755", "n/EOF 644 bc\n", "n/robots.txt 644 a\n", "old ->x", "x 644 3"]
    );
    assert_eq!(target.facts("n").mtime(), TIME);
    assert_eq!(target.facts("n/EOF").mtime(), TIME);
}

#[test]
fn a_file_that_changed_since_it_was_chosen_is_reported() {
    let context = Dir::new(&[("f", "1")]);
    let source = Source::dir(context.0.path(), None, None).unwrap();
    let selection = source.select(&["f"], &SelectOptions::default(), &Cancel::new()).unwrap();
    fs::write(context.0.path().join("f"), "22").unwrap();
    let target = Dir::new(&[]);
    let root = File::open(target.0.path()).unwrap();
    let tree = CopySource::Tree {
        root: source.root(),
        selection: &selection,
        keep_owner: false,
        unpack: false,
    };
    let request = CopyRequest {
        sources: vec![tree],
        dest: b"/f",
        workdir: b"/",
        owner: Some(me()),
        mode: None,
        created: None,
        before: None,
    };
    let stats = copy_into(root.as_fd(), &request, &Cancel::new()).unwrap();
    assert_eq!(stats.changed, [Path::new("/f")]);
    assert_eq!(target.list(), ["f 644 22"]);
}

#[test]
fn archives_are_extracted_where_asked_and_only_if_they_are_picked_themselves() {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode) in [("p/q", 0o600), ("top", 0o4755)] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(1);
        header.set_mtime(TIME as u64);
        header.set_uid(u64::from(me().uid));
        header.set_gid(u64::from(me().gid));
        builder.append_data(&mut header, path, b"1".as_slice()).unwrap();
    }
    let archive = builder.into_inner().unwrap();
    let context = Dir::new(&[("d/plain", "2"), ("not.tar", "3")]);
    fs::write(context.0.path().join("a.tar"), &archive).unwrap();
    fs::write(context.0.path().join("cut.tar"), &archive[..512]).unwrap();
    let source = Source::dir(context.0.path(), None, None).unwrap();
    let run = |target: &Dir, pattern: &str, chmod: Option<&str>| {
        let selection =
            source.select(&[pattern], &SelectOptions::default(), &Cancel::new()).unwrap();
        let root = File::open(target.0.path()).unwrap();
        let mode = chmod.map(|text| ChmodSpec::parse(text).unwrap());
        let tree = CopySource::Tree {
            root: source.root(),
            selection: &selection,
            keep_owner: false,
            unpack: true,
        };
        let request = CopyRequest {
            sources: vec![tree],
            dest: b"/n",
            workdir: b"/",
            owner: Some(me()),
            mode: mode.as_ref(),
            created: None,
            before: None,
        };
        copy_into(root.as_fd(), &request, &Cancel::new())
    };
    let target = Dir::new(&[]);
    run(&target, "a.tar", Some("0640")).unwrap();
    assert_eq!(target.list(), ["n/ 755", "n/p/ 755", "n/p/q 600 1", "n/top 4755 1"]);
    let target = Dir::new(&[]);
    run(&target, "not.tar", None).unwrap();
    assert_eq!(target.list(), ["n 644 3"]);
    assert!(matches!(run(&Dir::new(&[]), "cut.tar", None), Err(CopyError::Extract { .. })));
}

#[test]
fn a_cancelled_copy_stops() {
    let context = Dir::new(&[("d/f", "1")]);
    let source = Source::dir(context.0.path(), None, None).unwrap();
    let selection = source.select(&["d"], &SelectOptions::default(), &Cancel::new()).unwrap();
    let target = Dir::new(&[]);
    let root = File::open(target.0.path()).unwrap();
    let tree = CopySource::Tree {
        root: source.root(),
        selection: &selection,
        keep_owner: false,
        unpack: false,
    };
    let request = CopyRequest {
        sources: vec![tree],
        dest: b"/n",
        workdir: b"/",
        owner: Some(me()),
        mode: None,
        created: None,
        before: None,
    };
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(copy_into(root.as_fd(), &request, &cancel), Err(CopyError::Cancelled)));
}

/// Says whether this is root, and why a test is skipped when it is not.
fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        cannot_run_here!("{test} gives files to other users, which needs root");
    }
    is_root
}

#[test]
fn privileged_owners_are_set_where_asked_and_kept_from_snapshots() {
    if !is_root("privileged_owners_are_set_where_asked_and_kept_from_snapshots") {
        return;
    }
    let context = Dir::new(&[("d/f", "1"), ("d/l", "->f"), ("g", "2")]);
    for path in ["d/f", "d/l", "g", "d"] {
        std::os::unix::fs::lchown(context.0.path().join(path), Some(7), Some(8)).unwrap();
    }
    let owners = |target: &Dir, paths: &[&str]| -> Vec<(u32, u32)> {
        paths.iter().map(|p| (target.facts(p).uid(), target.facts(p).gid())).collect()
    };
    let flags = |chown, from| Flags { workdir: "/", chown, from, ..Flags::default() };

    let target = Dir::new(&[]);
    copy(&context, &target, &["d", "g"], "/n/m/", &flags(Some(Owner { uid: 3, gid: 4 }), false))
        .unwrap();
    assert_eq!(owners(&target, &["n", "n/m", "n/m/f", "n/m/l", "n/m/g"]), [(3, 4); 5]);

    let target = Dir::new(&[("n/", "")]);
    copy(&context, &target, &["d", "g"], "/n/m/", &flags(None, true)).unwrap();
    assert_eq!(owners(&target, &["n", "n/m"]), [(0, 0); 2]);
    assert_eq!(owners(&target, &["n/m/f", "n/m/l", "n/m/g"]), [(7, 8); 3]);

    // A directory that hands its group down does not do so to what is copied.
    let target = Dir::new(&[("n/", "")]);
    std::os::unix::fs::lchown(target.0.path().join("n"), Some(1), Some(99)).unwrap();
    target.mode("n", 0o2775);
    copy(&context, &target, &["d", "g"], "/n/", &flags(Some(Owner::ROOT), false)).unwrap();
    assert_eq!(owners(&target, &["n/f", "n/l", "n/g"]), [(0, 0); 3]);
}

#[test]
fn privileged_capabilities_are_kept_from_snapshots_only() {
    if !is_root("privileged_capabilities_are_kept_from_snapshots_only") {
        return;
    }
    let context = Dir::new(&[("f", "1")]);
    context.mode("f", 0o755);
    // Version 2, effective, CAP_NET_BIND_SERVICE.
    let mut value = [0u8; 20];
    (value[0], value[3], value[5]) = (1, 2, 4);
    let file = File::open(context.0.path().join("f")).unwrap();
    let name = c"security.capability";
    rustix::fs::fsetxattr(&file, name, &value, rustix::fs::XattrFlags::empty()).unwrap();
    for (from, chown) in [(true, None), (true, Some(Owner { uid: 5, gid: 5 })), (false, None)] {
        let target = Dir::new(&[]);
        copy(
            &context,
            &target,
            &["f"],
            "/f",
            &Flags { workdir: "/", from, chown, ..Flags::default() },
        )
        .unwrap();
        let file = File::open(target.0.path().join("f")).unwrap();
        let mut found = [0u8; 64];
        let result = rustix::fs::fgetxattr(&file, name, &mut found);
        assert_eq!(result.is_ok(), from);
        if from {
            assert_eq!(&found[..20], &value);
        }
    }
}

#[test]
fn privileged_devices_are_copied_but_deletion_marks_are_not() {
    if !is_root("privileged_devices_are_copied_but_deletion_marks_are_not") {
        return;
    }
    let context = Dir::new(&[("d/ok", "1"), ("w/", "")]);
    let dir = File::open(context.0.path()).unwrap();
    let device = |path: &str, number| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&dir, path, rustix::fs::FileType::CharacterDevice, mode, number)
    };
    if device("d/null", rustix::fs::makedev(1, 3)).is_err() {
        cannot_run_here!(optional: "this root may make no device nodes");
        return;
    }
    device("w/whiteout", 0).unwrap();
    let target = Dir::new(&[]);
    let flags = Flags { workdir: "/", ..Flags::default() };
    copy(&context, &target, &["d"], "/n", &flags).unwrap();
    assert_eq!(target.facts("n/null").rdev(), rustix::fs::makedev(1, 3));
    let error = copy(&context, &target, &["w"], "/n", &flags).unwrap_err();
    assert!(matches!(error, CopyError::Whiteout { path } if path == Path::new("/w/whiteout")));
}
