use super::*;
use rustix::fs::{CWD, OFlags, ResolveFlags, openat2};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use tempfile::TempDir;

/// Says whether overlays can be mounted here, and prints why not.
fn can_mount() -> bool {
    if rustix::process::geteuid().is_root() && fsopen("overlay", FsOpenFlags::empty()).is_ok() {
        return true;
    }
    cannot_run_here!("needs root and overlayfs");
    false
}

struct Kit {
    dir: TempDir,
}

impl Kit {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn layer(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            let file = path.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        path
    }
}

fn options() -> MountOptions<'static> {
    MountOptions::detect()
}

fn at(mounted: &Mounted, path: &str, flags: OFlags) -> io::Result<File> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from(0o644) } else { Mode::empty() };
    Ok(openat2(mounted.root(), path, flags | OFlags::CLOEXEC, mode, resolve)?.into())
}

fn text(mounted: &Mounted, path: &str) -> io::Result<String> {
    let mut out = String::new();
    at(mounted, path, OFlags::RDONLY)?.read_to_string(&mut out)?;
    Ok(out)
}

type MountFn =
    fn(&[PathBuf], Option<&Upper<'_>>, &MountOptions<'_>) -> Result<Mounted, SnapshotError>;

const WAYS: &[(&str, MountFn)] = &[("new", mount), ("old", mount_in_thread)];

#[test]
fn privileged_upper_layers_win_and_writes_go_to_the_upper() {
    if !can_mount() {
        return;
    }
    for (name, mount) in WAYS {
        let kit = Kit::new();
        let lowers = [
            kit.layer("a", &[("f", "old"), ("d/a", "1")]),
            kit.layer("b,with:odd name", &[("f", "new"), ("d/b", "2")]),
        ];
        let (fs_dir, work) = (kit.layer("fs", &[]), kit.layer("work", &[]));
        let mounted =
            mount(&lowers, Some(&Upper { fs: &fs_dir, work: &work }), &options()).expect(name);
        assert_eq!(text(&mounted, "f").unwrap(), "new");
        assert_eq!(text(&mounted, "d/a").unwrap() + &text(&mounted, "/d/b").unwrap(), "12");
        at(&mounted, "made", OFlags::WRONLY | OFlags::CREATE).unwrap().write_all(b"x").unwrap();
        drop(mounted);
        assert_eq!(fs::read_to_string(fs_dir.join("made")).unwrap(), "x");
        assert!(!lowers[1].join("made").exists());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.lines().any(|line| line.starts_with("builder ")), "left behind: {mounts}");
    }
}

#[test]
fn privileged_stacks_of_few_layers_without_upper_are_read_only() {
    if !can_mount() {
        return;
    }
    for (name, mount) in WAYS {
        let kit = Kit::new();
        let one = [kit.layer("a", &[("f", "1")])];
        let mounted = mount(&one, None, &options()).expect(name);
        assert_eq!(text(&mounted, "f").unwrap(), "1");
        let error = at(&mounted, "g", OFlags::WRONLY | OFlags::CREATE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
}

#[test]
fn privileged_nothing_mounts_as_an_empty_read_only_directory() {
    if !can_mount() {
        return;
    }
    let mounted = mount(&[], None, &options()).unwrap();
    let names = rustix::fs::Dir::read_from(at(&mounted, ".", OFlags::RDONLY).unwrap()).unwrap();
    assert_eq!(names.count(), 2, "only . and ..");
    let error = at(&mounted, "g", OFlags::WRONLY | OFlags::CREATE).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn privileged_layer_that_comes_twice_counts_at_its_topmost_place() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let (a, b) = (kit.layer("a", &[("f", "a"), ("d/a", "1")]), kit.layer("b", &[("f", "b")]));
    let mounted = mount(&[a.clone(), b.clone(), a, b], None, &options()).unwrap();
    assert_eq!(text(&mounted, "f").unwrap(), "b");
    assert_eq!(text(&mounted, "d/a").unwrap(), "1");
}

#[test]
fn privileged_scratch_can_be_written() {
    if !can_mount() {
        return;
    }
    for (name, mount) in WAYS {
        let kit = Kit::new();
        let (fs_dir, work) = (kit.layer("fs", &[]), kit.layer("work", &[]));
        let mounted =
            mount(&[], Some(&Upper { fs: &fs_dir, work: &work }), &options()).expect(name);
        at(&mounted, "f", OFlags::WRONLY | OFlags::CREATE).unwrap();
        assert!(fs_dir.join("f").exists());
    }
}

#[test]
fn privileged_five_hundred_layers_mount_and_one_more_is_refused() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let mut lowers: Vec<PathBuf> = (0..LOWER_MAX)
        .map(|i| kit.layer(&format!("{i:064}/fs"), &[(&format!("f{i}"), "1")]))
        .collect();
    for (name, mount) in WAYS {
        let mounted = mount(&lowers, None, &options()).expect(name);
        assert_eq!(text(&mounted, "f0").unwrap() + &text(&mounted, "f499").unwrap(), "11");
    }
    lowers.push(kit.layer("last", &[]));
    assert!(matches!(
        mount(&lowers, None, &options()),
        Err(SnapshotError::TooManyLayers { count: 501 })
    ));
}

#[test]
fn privileged_an_error_names_the_layer() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let lowers = [kit.layer("a", &[]), kit.dir.path().join("missing"), kit.layer("c", &[])];
    let error = mount(&lowers, None, &options()).unwrap_err().to_string();
    let path = lowers[1].display();
    assert_eq!(error, format!("cannot open layer 2 of 3, {path}"));
    fs::write(kit.dir.path().join("missing"), "").unwrap();
    assert!(matches!(
        mount(&lowers, None, &options()),
        Err(SnapshotError::Lower { index: 1, total: 3, .. })
    ));
}

#[test]
fn privileged_whiteouts_and_opaque_directories_hide_what_is_below() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let lowers =
        [kit.layer("a", &[("gone", "1"), ("d/old", "1")]), kit.layer("b", &[("d/new", "1")])];
    rustix::fs::mknodat(
        CWD,
        lowers[1].join("gone"),
        rustix::fs::FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    let opaque = XattrSpace::Trusted.opaque();
    rustix::fs::setxattr(lowers[1].join("d"), opaque, b"y", rustix::fs::XattrFlags::empty())
        .unwrap();
    let mounted = mount(&lowers, None, &options()).unwrap();
    assert_eq!(text(&mounted, "gone").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(text(&mounted, "d/old").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(text(&mounted, "d/new").unwrap(), "1");
}

#[test]
fn privileged_a_read_only_mount_with_an_upper_refuses_writes() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let (fs_dir, work) = (kit.layer("fs", &[("f", "1")]), kit.layer("work", &[]));
    let options = MountOptions { read_only: true, ..options() };
    let mounted = mount(&[], Some(&Upper { fs: &fs_dir, work: &work }), &options).unwrap();
    assert_eq!(text(&mounted, "f").unwrap(), "1");
    let error = at(&mounted, "g", OFlags::WRONLY | OFlags::CREATE).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

/// A user namespace whose user 0 is 1000000 here, group 0 is 2000000, held by a process that
/// sleeps.
fn user_namespace() -> OwnedFd {
    let mut child =
        std::process::Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
    let pid = child.id();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let of_child = pid.to_string();
    crate::wait::eventually("a user namespace", || namespace(&of_child) != namespace("self"));
    fs::write(format!("/proc/{pid}/uid_map"), "0 1000000 65536").unwrap();
    fs::write(format!("/proc/{pid}/gid_map"), "0 2000000 65536").unwrap();
    let file = File::open(format!("/proc/{pid}/ns/user")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    file.into()
}

#[test]
fn privileged_mapped_layers_are_others_in_the_mount_and_keep_their_owners_on_disk() {
    use std::os::unix::fs::MetadataExt as _;
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let userns = user_namespace();
    let mapping = IdMapping { userns: userns.as_fd(), uid: 1_000_000, gid: 2_000_000 };
    can_map(kit.dir.path(), mapping).unwrap();
    let lowers = [kit.layer("one", &[("a", "a"), ("dir/b", "b")]), kit.layer("two", &[("c", "c")])];
    std::os::unix::fs::chown(lowers[0].join("a"), Some(7), Some(8)).unwrap();
    for (way, mount) in WAYS {
        let (upper, work) =
            (kit.layer(&format!("{way}/fs"), &[]), kit.layer(&format!("{way}/work"), &[]));
        let options = MountOptions { idmap: Some(mapping), ..options() };
        let mounted = mount(&lowers, Some(&Upper { fs: &upper, work: &work }), &options).unwrap();
        assert!(!is_read_only(&mounted), "{way}");
        let owner = |path: &str| {
            let meta = at(&mounted, path, OFlags::RDONLY).unwrap().metadata().unwrap();
            (meta.uid(), meta.gid())
        };
        assert_eq!(owner("a"), (1_000_007, 2_000_008), "{way}");
        assert_eq!(owner("c"), (1_000_000, 2_000_000), "{way}");
        let acting = FsIds::become_user(1_000_005, 2_000_006).unwrap();
        at(&mounted, "dir/new", OFlags::WRONLY | OFlags::CREATE).unwrap();
        drop(acting);
        let made = fs::metadata(upper.join("dir/new")).unwrap();
        assert_eq!((made.uid(), made.gid()), (5, 6), "{way}");
    }
}
