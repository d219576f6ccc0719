use crate::layer::{Beneath, Listing, Now, Scan, ScanOptions, XattrSpace, scan_into, scan_over};
use crate::sys::cancel::Cancel;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

#[derive(Debug, Clone, PartialEq)]
enum Node {
    File { size: usize, byte: u8, mode: u32 },
    Link(String),
}

/// Files by their paths; none is a directory of another.
type Tree = BTreeMap<String, (Node, u64)>;

fn tree() -> impl Strategy<Value = Tree> {
    // Around the sizes of a block and of a chunk, and with names that a header has no room for.
    let size = prop_oneof![0..1500_usize, Just(511), Just(512), 200_000..300_000_usize];
    let mode = prop_oneof![Just(0o644_u32), Just(0o4755), Just(0o600)];
    let file =
        (size, any::<u8>(), mode).prop_map(|(size, byte, mode)| Node::File { size, byte, mode });
    let node = prop_oneof![8 => file, 1 => "[a-z]{1,120}".prop_map(Node::Link)];
    let path = prop_oneof![8 => "[ab]/[a-c-]{1,2}f", 1 => "[ab]/x{90,110}", 1 => "[ab]/\u{e9}"];
    prop::collection::btree_map(path, (node, 1_000_000_000..1_000_000_009_u64), 0..12)
}

fn write(dir: &Path, tree: &Tree) {
    let set = |path: &Path, seconds| {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(path).unwrap().set_modified(time).unwrap();
    };
    for (path, (node, time)) in tree {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match node {
            Node::File { size, byte, mode } => {
                fs::write(&path, vec![*byte; *size]).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                set(&path, *time);
            }
            Node::Link(target) => symlink(target, &path).unwrap(),
        }
    }
    for directory in ["a", "b"].map(|name| dir.join(name)) {
        if directory.exists() {
            set(&directory, 1_000_000_000);
        }
    }
}

/// No run of ours was then, so all times count as set.
const NOW: Now = Now { from: (5, 0), to: (6, 0), made: None };

fn options() -> ScanOptions {
    ScanOptions {
        xattrs: XattrSpace::User,
        want_tar: true,
        now: Some(NOW),
        want_listing: true,
        ..ScanOptions::detect(true)
    }
}

fn scanned(dir: &Path) -> (Scan, Vec<u8>) {
    let mut tar = Vec::new();
    let directory = File::open(dir).unwrap();
    let scan = scan_into(directory.as_fd(), &options(), Some(&mut tar), &Cancel::new()).unwrap();
    (scan, tar)
}

fn over(dir: &Path, beneath: &Beneath<'_>) -> (Option<Scan>, Vec<u8>) {
    let mut tar = Vec::new();
    let options = ScanOptions { want_listing: false, ..options() };
    let directory = File::open(dir).unwrap();
    let scan =
        scan_over(directory.as_fd(), beneath, &options, Some(&mut tar), &Cancel::new()).unwrap();
    (scan, tar)
}

fn with_link_times(mut tree: Tree) -> Tree {
    // Nothing here sets those: the same link is not made twice.
    tree.retain(|_, (node, _)| !matches!(node, Node::Link(_)));
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_is_hashed_as_the_whole_is(old in tree(), new in tree()) {
        let old = with_link_times(old);
        let work = tempfile::tempdir().unwrap();
        let [below, above, both] = ["below", "above", "both"].map(|name| {
            fs::create_dir(work.path().join(name)).unwrap();
            work.path().join(name)
        });
        write(&below, &old);
        write(&above, &new);
        let (first, tar) = scanned(&below);
        fs::write(work.path().join("tar"), &tar).unwrap();
        let tar = File::open(work.path().join("tar")).unwrap();
        let listing = Listing::parse(first.listing.unwrap(), &first.id).unwrap();

        let kept = old.into_iter().filter(|(path, _)| !new.contains_key(path)).collect();
        write(&both, &kept);
        // The same inodes' times, links' too.
        let status = std::process::Command::new("cp").arg("-a").arg(above.join(".")).arg(&both).status();
        prop_assert!(status.unwrap().success());
        let (whole, whole_tar) = scanned(&both);

        let beneath = Beneath { listing: &listing, tar: Some(&tar), now: Some(NOW) };
        let (spliced, spliced_tar) = over(&above, &beneath);
        let spliced = spliced.unwrap();
        prop_assert!(spliced_tar == whole_tar);
        prop_assert_eq!(spliced.own_bytes, scanned(&above).0.bytes);
        prop_assert_eq!(Scan { listing: whole.listing.clone(), own_bytes: whole.own_bytes, ..spliced }, whole);
    }
}

#[test]
fn another_tar_and_none_are_of_no_use() {
    let work = tempfile::tempdir().unwrap();
    let tree = Tree::from([("a/f".to_owned(), (Node::File { size: 3, byte: 1, mode: 0o644 }, 1))]);
    write(work.path(), &tree);
    let (first, mut tar) = scanned(work.path());
    let id = first.id;
    let bytes = first.listing.unwrap();
    let listing = Listing::parse(bytes.clone(), &id).unwrap();
    let none = Beneath { listing: &listing, tar: None, now: Some(NOW) };
    assert!(over(work.path(), &none).0.is_none());
    tar.extend([0; 512]);
    let longer = tempfile::NamedTempFile::new().unwrap();
    fs::write(longer.path(), &tar).unwrap();
    let longer = File::open(longer.path()).unwrap();
    assert!(over(work.path(), &Beneath { tar: Some(&longer), ..none }).0.is_none());

    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    assert!(Listing::parse(damaged, &id).is_none());
    assert!(Listing::parse(bytes[..bytes.len() - 1].to_vec(), &id).is_none());
}

#[test]
fn entries_that_depend_on_others_make_no_listing() {
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("a"), "a").unwrap();
    fs::hard_link(work.path().join("a"), work.path().join("b")).unwrap();
    let (scan, _) = scanned(work.path());
    assert!(Listing::parse(scan.listing.unwrap(), &scan.id).is_none());
}
