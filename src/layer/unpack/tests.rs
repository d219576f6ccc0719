use super::*;
use crate::layer::{ScanOptions, TarOptions, Times, scan, scan_written, write_tar};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};
use tempfile::TempDir;

/// Writes tars that no honest program would.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(
        mut self,
        kind: u8,
        name: &str,
        link: &str,
        content: &[u8],
        change: fn(&mut Header),
    ) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        let me = rustix::process::geteuid().as_raw();
        header.set_uid(u64::from(me));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn member(self, kind: u8, name: &str, link: &str, content: &[u8]) -> Self {
        self.raw(kind, name, link, content, |_| ())
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.member(b'0', name, "", text.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.member(b'5', name, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.member(b'2', name, target, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.member(b'1', name, target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length = rest + length.to_string().len();
            }
            text.extend(format!("{length} {key}=").into_bytes());
            text.extend(*value);
            text.push(b'\n');
        }
        self.member(b'x', "PaxHeaders.0/x", "", &text)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A root with a neighbour that nothing may touch.
struct Kit {
    dir: TempDir,
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/canary"), "alive").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self, tar: &[u8]) -> Result<Unpacked, LayerError> {
        self.unpack_over(tar, None)
    }

    fn unpack_over(&self, tar: &[u8], below: Option<&Stack>) -> Result<Unpacked, LayerError> {
        let root = File::open(self.root()).unwrap();
        let options = UnpackOptions { xattrs: XattrSpace::detect(), below };
        let unpacked = unpack_layer(tar, root.as_fd(), &options, &Cancel::new())?;
        // What was hashed while it was written is what reading finds.
        let (options, cancel) = (ScanOptions::detect(false), Cancel::new());
        let written = scan_written(root.as_fd(), &options, &unpacked.contents, &cancel).unwrap();
        assert_eq!(written, scan(root.as_fd(), &options, &cancel).unwrap());
        Ok(unpacked)
    }

    fn extract(&self, tar: &[u8]) -> Result<Extracted, LayerError> {
        let root = File::open(self.root()).unwrap();
        extract_archive(tar, root.as_fd(), None, &Cancel::new())
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    /// Checks that only `root` was written to.
    #[track_caller]
    fn is_contained(&self) {
        let names = |dir: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.dir.path()), ["outside", "root"]);
        assert_eq!(names(&self.dir.path().join("outside")), ["canary"]);
        let canary = self.dir.path().join("outside/canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
        assert_eq!(fs::metadata(&canary).unwrap().nlink(), 1);
    }
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        cannot_run_here!("needs root");
    }
    is_root
}

#[test]
fn privileged_names_that_climb_are_clamped_to_the_root() {
    needs_root!();
    for name in ["../outside/canary", "/outside/canary", "a/../../outside/canary"] {
        let kit = Kit::new();
        kit.unpack(&Tar::default().file(name, "x").end()).unwrap();
        kit.is_contained();
        assert_eq!(kit.text("outside/canary"), "x");
    }
}

#[test]
fn privileged_links_cannot_lead_out_of_the_root() {
    needs_root!();
    let kit = Kit::new();
    let outside = kit.dir.path().join("outside");
    let absolute = outside.to_str().unwrap();
    let tar = Tar::default()
        .symlink("up", "../outside")
        .file("up/canary", "1")
        .symlink("abs", absolute)
        .file("abs/canary", "2")
        .symlink("chain", "abs")
        .file("chain/deep/er", "3")
        .symlink("dot", "..")
        .file("dot/outside2", "4")
        .symlink("file", &format!("{absolute}/canary"))
        .file("file", "5")
        .end();
    kit.unpack(&tar).unwrap();
    kit.is_contained();
    assert_eq!(kit.text("outside/canary"), "1");
    assert_eq!(kit.text("outside2"), "4");
    assert_eq!(kit.text("file"), "5", "a file replaces the link of its name");
}

#[test]
fn privileged_magic_links_are_names_like_others() {
    needs_root!();
    let kit = Kit::new();
    let tar = Tar::default().symlink("p", "/proc/self/cwd").file("p/x", "1").end();
    kit.unpack(&tar).unwrap();
    assert_eq!(kit.text("proc/self/cwd/x"), "1");
    kit.is_contained();
}

#[test]
fn hard_links_cannot_lead_out_of_the_root() {
    for target in ["../outside/canary", "/outside/canary", "up/canary"] {
        let kit = Kit::new();
        let tar = Tar::default().symlink("up", "../outside").link("x", target).end();
        let error = kit.unpack(&tar).unwrap_err();
        assert!(matches!(error, LayerError::HardLink { .. }), "{target}: {error:?}");
        kit.is_contained();
    }
}

#[test]
fn a_hard_link_to_a_link_is_the_link() {
    let kit = Kit::new();
    let outside = kit.dir.path().join("outside/canary");
    let tar = Tar::default()
        .symlink("l", outside.to_str().unwrap())
        .link("m", "l")
        .file("m", "replaced")
        .end();
    kit.unpack(&tar).unwrap();
    kit.is_contained();
    assert_eq!(kit.text("m"), "replaced");
}

#[test]
fn the_last_of_equal_entries_wins_whatever_it_is() {
    let kit = Kit::new();
    let tar = Tar::default()
        .file("a", "1")
        .file("a", "2")
        .dir("b")
        .file("b/f", "1")
        .file("b", "file over directory")
        .file("c", "1")
        .dir("c")
        .file("c/f", "directory over file")
        .symlink("d", "nowhere")
        .dir("d")
        .dir("e")
        .file("e/f", "kept")
        .raw(b'5', "e", "", b"", |h| h.set_mode(0o700))
        .end();
    kit.unpack(&tar).unwrap();
    assert_eq!(kit.text("a"), "2");
    assert_eq!(kit.text("b"), "file over directory");
    assert_eq!(kit.text("c/f"), "directory over file");
    assert!(fs::symlink_metadata(kit.root().join("d")).unwrap().is_dir());
    assert_eq!(kit.text("e/f"), "kept");
    assert_eq!(fs::metadata(kit.root().join("e")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(kit.root().join("e")).unwrap().mtime(), 1_000_000);
}

#[test]
fn bad_tars_are_refused_by_name() {
    let good = Tar::default().file("f", &"x".repeat(3000)).end();
    let special = |what: &[(&str, &[u8])]| Tar::default().pax(what).file("f", "").end();
    let mut checksum = good.clone();
    checksum[0] = b'g';
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("cut off in content", good[..1500].to_vec()),
        ("cut off in a header", good[..100].to_vec()),
        ("checksum", checksum),
        ("unknown type", Tar::default().member(b'Z', "f", "", b"").end()),
        ("GNU sparse", Tar::default().member(b'S', "f", "", b"").end()),
        ("PAX sparse", special(&[("GNU.sparse.map", b"1,2")])),
        ("PAX size", special(&[("size", b"-1")])),
        ("PAX size too large", special(&[("size", b"99999999999999999999999")])),
        ("PAX time", special(&[("mtime", b"yesterday")])),
        ("PAX uid", special(&[("uid", b"4294967296")])),
        ("NUL in a path", special(&[("path", b"a\0b")])),
        ("PAX length", Tar::default().member(b'x', "p", "", b"99 path=x\n").file("f", "").end()),
        ("PAX no equals", Tar::default().member(b'x', "p", "", b"7 path\n").file("f", "").end()),
        (
            "size beyond the end",
            Tar::default().raw(b'0', "f", "", b"", |h| h.set_size(1 << 60)).end(),
        ),
        ("zero block inside", [vec![0; 512], good].concat()),
        ("whiteout of nothing", Tar::default().file("d/.wh.", "").end()),
        ("whiteout of the directory", Tar::default().file("d/.wh..", "").end()),
        ("whiteout of the parent", Tar::default().file("d/.wh...", "").end()),
        ("long name over 255", special(&[("path", &[b'n'; 256])])),
        ("link to nothing", Tar::default().link("a", "b").end()),
        ("link to the root", Tar::default().link("a", "/").end()),
        ("link to itself", Tar::default().link("a", "a").end()),
        ("not a tar", vec![b'x'; 10_000]),
    ];
    for (what, tar) in cases {
        let kit = Kit::new();
        let result = kit.unpack(&tar);
        assert!(result.is_err(), "{what}: {result:?}");
        kit.is_contained();
    }
}

#[test]
fn a_huge_pax_header_is_refused_before_it_is_read() {
    let tar = Tar::default().raw(b'x', "p", "", b"", |h| h.set_size(1 << 30)).0;
    let error = Kit::new().unpack(&tar).unwrap_err();
    assert!(matches!(error, LayerError::MalformedNext { .. }), "{error:?}");
}

#[test]
fn privileged_pax_and_gnu_records_apply_to_the_next_member_only() {
    needs_root!();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let tar = Tar::default()
        .pax(&[("path", long.as_bytes()), ("size", b"3"), ("mtime", b"7.5")])
        .raw(b'0', "short", "", b"abc", |h| h.set_size(0))
        .file("next", "x")
        .member(b'L', "././@LongLink", "", format!("{long}2\0").as_bytes())
        .file("short", "y")
        .member(b'K', "././@LongLink", "", format!("{}\0", "t".repeat(300)).as_bytes())
        .symlink("l", "short")
        .pax(&[("path", b"\xff\xfe")])
        .file("short", "z")
        .end();
    let kit = Kit::new();
    kit.unpack(&tar).unwrap();
    assert_eq!(kit.text(&long), "abc");
    let stat = fs::metadata(kit.root().join(&long)).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (7, 500_000_000));
    assert_eq!(kit.text("next"), "x");
    assert_eq!(kit.text(&format!("{long}2")), "y");
    assert_eq!(fs::read_link(kit.root().join("l")).unwrap().as_os_str().len(), 300);
    assert!(kit.root().join(OsStr::from_bytes(b"\xff\xfe")).exists());
    assert!(!kit.root().join("short").exists());
}

#[test]
fn the_diff_id_covers_the_tar_to_its_last_byte() {
    let mut tar = Tar::default().file("f", "x").end();
    tar.extend([0; 9000]);
    let unpacked = Kit::new().unpack(&tar).unwrap();
    assert_eq!(unpacked.tar, TarFacts { diff_id: Digest::of(&tar), size: tar.len() as u64 });
    let large = Tar::default().file("f", &"x".repeat(5_000_000)).file("g", "y").end();
    let unpacked = Kit::new().unpack(&large).unwrap();
    assert_eq!(unpacked.tar, TarFacts { diff_id: Digest::of(&large), size: large.len() as u64 });
    assert_eq!((unpacked.entries, unpacked.bytes), (2, 5_000_001));
}

#[test]
fn errors_of_the_source_end_a_large_unpack() {
    let large = Tar::default().file("f", &"x".repeat(5_000_000)).end();
    struct Broken<'a>(&'a [u8]);
    impl Read for Broken<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            self.0.read(out)
        }
    }
    let kit = Kit::new();
    let root = File::open(kit.root()).unwrap();
    let options = UnpackOptions { xattrs: XattrSpace::User, below: None };
    let source = Broken(&large[..4_000_000]);
    let error = unpack_layer(source, root.as_fd(), &options, &Cancel::new()).unwrap_err();
    assert!(matches!(error, LayerError::Input { .. }), "{error:?}");
}

#[test]
fn archives_are_reported_by_a_sound_first_header() {
    let tar = Tar::default().file("f", "x").end();
    let packed = zstd::encode_all(tar.as_slice(), 1).unwrap();
    assert!(is_archive(tar.as_slice()) && is_archive(packed.as_slice()));
    assert!(!is_archive(&[0; 1024][..]) && !is_archive(&b"text"[..]) && !is_archive(&b""[..]));
}

#[test]
fn adding_clamps_links_at_the_destination_and_replaces() {
    let kit = Kit::new();
    fs::create_dir(kit.root().join("d")).unwrap();
    fs::write(kit.root().join("d/f"), "old").unwrap();
    fs::write(kit.root().join("gone"), "old").unwrap();
    symlink(kit.dir.path().join("outside"), kit.root().join("out")).unwrap();
    let tar = Tar::default()
        .raw(b'5', "./", "", b"", |h| h.set_mode(0o700))
        .file("d/f", "new")
        .file("out/canary", "x")
        .file(".wh.gone", "")
        .file("new/parents/f", "1")
        .end();
    let mode = fs::metadata(kit.root()).unwrap().mode();
    kit.extract(&tar).unwrap();
    kit.is_contained();
    assert_eq!(fs::metadata(kit.root()).unwrap().mode(), mode, "the archive's root says nothing");
    assert_eq!(kit.text("d/f"), "new");
    assert_eq!(kit.text("gone"), "old");
    assert!(kit.root().join(".wh.gone").exists(), "a name like any other");
    assert_eq!(fs::metadata(kit.root().join("new/parents")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn privileged_adding_takes_owners_and_the_last_header_of_a_file() {
    if !is_root() {
        return;
    }
    let tar = Tar::default()
        .raw(b'5', "d/", "", b"", |h| {
            h.set_uid(3);
            h.set_gid(4);
            h.set_mode(0o750);
        })
        .raw(b'0', "d/f", "", b"in tar", |h| {
            h.set_uid(5);
            h.set_gid(6);
            h.set_mode(0o600);
        })
        .link("d/h", "d/f")
        .raw(b'0', "p/q/f", "", b"1", |h| h.set_uid(9))
        .end();
    let kit = Kit::new();
    kit.extract(&tar).unwrap();
    let stat = |path: &str| {
        let stat = fs::metadata(kit.root().join(path)).unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    };
    assert_eq!(stat("d"), (0o750, 3, 4));
    assert_eq!(stat("d/f"), (0o644, 0, 0));
    assert_eq!(stat("p/q"), (0o755, 0, 0));
    assert_eq!(stat("p/q/f"), (0o644, 9, 0));

    let kit = Kit::new();
    let root = File::open(kit.root()).unwrap();
    extract_archive(tar.as_slice(), root.as_fd(), Some((20, 30)), &Cancel::new()).unwrap();
    let owner = |path: &str| {
        let stat = fs::metadata(kit.root().join(path)).unwrap();
        (stat.uid(), stat.gid())
    };
    assert_eq!(
        [owner("d"), owner("d/h"), owner("p"), owner("p/q/f")],
        [(20, 30), (20, 30), (0, 0), (20, 30)]
    );
}

#[test]
fn privileged_whiteouts_become_overlays_own() {
    if !is_root() {
        return;
    }
    let tar = Tar::default()
        .file(".wh.gone", "")
        .file("d/.wh.x", "")
        .dir("e")
        .file("e/.wh..wh..opq", "")
        .file("e/f", "1")
        .file(".wh.replaced", "")
        .file("replaced/f", "implied directory over a whiteout")
        .file(".wh.again", "")
        .dir("again")
        .dir("here")
        .file(".wh.here", "")
        .file(".wh..wh.plnk", "aufs")
        .file(".wh.file", "")
        .file("file", "1")
        .end();
    let kit = Kit::new();
    kit.unpack(&tar).unwrap();
    let stat = |path: &str| fs::symlink_metadata(kit.root().join(path)).unwrap();
    for path in ["gone", "d/x"] {
        assert_eq!((stat(path).mode() & 0o170_000, stat(path).rdev()), (0o020_000, 0), "{path}");
    }
    let mark = |path: &str| {
        let mut value = [0; 4];
        let name = XattrSpace::detect().opaque();
        rustix::fs::getxattr(kit.root().join(path), name, &mut value).is_ok()
    };
    for path in ["e", "replaced", "again", "here"] {
        assert!(mark(path), "{path}");
    }
    assert!(!mark("d"));
    assert_eq!(kit.text("file"), "1");
    assert!(!kit.root().join(".wh..wh.plnk").exists());
}

#[test]
fn privileged_devices_capabilities_and_marks() {
    if !is_root() {
        return;
    }
    let null = Tar::default()
        .raw(b'3', "null", "", b"", |h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .end();
    let kit = Kit::new();
    let refused = kit.unpack(&null).unwrap().refused;
    if refused == 0 {
        let stat = fs::symlink_metadata(kit.root().join("null")).unwrap();
        assert_eq!(stat.rdev(), rustix::fs::makedev(1, 3));
    }
    let whiteout = Tar::default().member(b'3', "null", "", b"").end();
    assert!(matches!(Kit::new().unpack(&whiteout), Err(LayerError::Malformed { .. })));

    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.mine", b"1"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .raw(b'0', "f", "", b"x", |h| h.set_uid(7))
        .raw(b'1', "g", "f", b"", |h| h.set_uid(7))
        .end();
    let kit = Kit::new();
    kit.unpack(&tar).unwrap();
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(kit.root().join("g"), &mut names).unwrap();
    assert_eq!(&names[..length], b"security.capability\0");
}

#[test]
fn privileged_the_layers_below_lend_attributes_and_files() {
    if !is_root() {
        return;
    }
    let kit = Kit::new();
    let layer = |name: &str| {
        let path = kit.dir.path().join(name);
        fs::create_dir_all(path.join("usr/bin")).unwrap();
        path
    };
    let base = layer("outside/a");
    let over = layer("outside/b");
    fs::write(base.join("usr/bin/tool"), "text").unwrap();
    std::os::unix::fs::chown(over.join("usr"), Some(12), Some(34)).unwrap();
    fs::remove_dir(over.join("usr/bin")).unwrap();
    let stack = Stack::open(&[base, over], XattrSpace::detect()).unwrap();
    let tar = Tar::default().file("usr/lib/x", "1").link("usr/bin/same", "usr/bin/tool").end();
    kit.unpack_over(&tar, Some(&stack)).unwrap();
    let stat = fs::metadata(kit.root().join("usr")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (12, 34));
    assert_eq!(kit.text("usr/bin/same"), "text");
    let missing = Tar::default().link("x", "usr/bin/none").end();
    assert!(matches!(kit.unpack_over(&missing, Some(&stack)), Err(LayerError::HardLink { .. })));
}

mod round_trip {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
    use std::os::unix::fs::PermissionsExt as _;

    #[derive(Debug, Clone)]
    enum Node {
        File { content: Vec<u8>, mode: u32, mtime: i64 },
        Symlink(Vec<u8>),
        Link(usize),
        Fifo,
        Dir,
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![8 => proptest::char::range('!', '~').prop_map(|c| c as u8), 1 => any::<u8>()];
        prop_oneof![
            4 => proptest::collection::vec(byte.clone(), 1..8),
            1 => proptest::collection::vec(byte, 90..200),
        ]
        .prop_filter("a name", |name| {
            !name.contains(&b'/')
                && !name.contains(&0)
                && !matches!(name.as_slice(), b"." | b"..")
                && !name.starts_with(b".wh.")
        })
    }

    fn node() -> impl Strategy<Value = Node> {
        prop_oneof![
            4 => (proptest::collection::vec(any::<u8>(), 0..2000), 0u32..0o10000, -100i64..1 << 33)
                .prop_map(|(content, mode, mtime)| Node::File { content, mode, mtime }),
            1 => proptest::collection::vec(1u8.., 1..300).prop_map(Node::Symlink),
            1 => any::<usize>().prop_map(Node::Link),
            1 => Just(Node::Fifo),
            2 => Just(Node::Dir),
        ]
    }

    fn build(root: &Path, nodes: &[(Vec<Vec<u8>>, Node)]) {
        let mut files: Vec<PathBuf> = Vec::new();
        for (path, node) in nodes {
            let path: PathBuf =
                path.iter().fold(root.to_owned(), |at, part| at.join(OsStr::from_bytes(part)));
            if fs::create_dir_all(path.parent().unwrap()).is_err()
                || fs::symlink_metadata(&path).is_ok()
            {
                continue;
            }
            match node {
                Node::File { content, mode, mtime } => {
                    fs::write(&path, content).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode | 0o400)).unwrap();
                    let time = Timespec { tv_sec: *mtime, tv_nsec: 0 };
                    let times = Timestamps { last_access: time, last_modification: time };
                    utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
                    files.push(path);
                }
                Node::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
                Node::Link(which) => {
                    if let Some(file) = files.get(which % files.len().max(1)) {
                        fs::hard_link(file, &path).unwrap();
                    }
                }
                Node::Fifo => {
                    mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
                }
                Node::Dir => fs::create_dir(&path).unwrap(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn what_a_tar_made_gives_the_same_tar(
            nodes in proptest::collection::vec(
                (proptest::collection::vec(name(), 1..5), node()),
                0..30,
            ),
        ) {
            let kit = Kit::new();
            let source = kit.dir.path().join("outside");
            build(&source, &nodes);
            let options = TarOptions { xattrs: XattrSpace::User, times: Times::Kept, ..TarOptions::detect() };
            let tar_of = |path: &Path| {
                let mut out = Vec::new();
                let fd = File::open(path).unwrap();
                write_tar(fd.as_fd(), &mut out, &options, &Cancel::new()).unwrap();
                out
            };
            let content = |path: &Path| {
                let fd = File::open(path).unwrap();
                let options = ScanOptions { xattrs: XattrSpace::User, ..ScanOptions::detect(false) };
                scan(fd.as_fd(), &options, &Cancel::new()).unwrap().content
            };
            let first = tar_of(&source);
            let unpacked = kit.unpack(&first).unwrap();
            prop_assert_eq!(unpacked.tar.diff_id, Digest::of(&first));
            prop_assert!(tar_of(&kit.root()) == first);
            prop_assert_eq!(content(&kit.root()), content(&source));
        }
    }
}
