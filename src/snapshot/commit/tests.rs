use super::*;
use crate::snapshot::mount::lay_out;
use crate::snapshot::{LaidTrees, MountOptions, Mounted, Upper, mount};
use crate::store::Store;
use rustix::fs::{CWD, ResolveFlags, XattrFlags, mknodat, openat2, utimensat};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use tempfile::TempDir;

/// A layer that was unpacked from a tar (whole seconds) and a step over it.
struct Kit {
    dir: TempDir,
    lowers: Vec<PathBuf>,
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir_all(base.join("d/e")).unwrap();
        for (path, text) in [("f", "1"), ("d/g", "2"), ("d/h", "3"), ("d/e/i", "4")] {
            fs::write(base.join(path), text).unwrap();
        }
        std::os::unix::fs::symlink("f", base.join("l")).unwrap();
        for path in ["f", "l", "d/g", "d/h", "d/e/i", "d/e", "d"] {
            let time = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, base.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        Self { lowers: vec![base], dir }
    }

    fn upper(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    /// Runs `step` in a mount over the layers, and returns what is left of its upper: paths, those
    /// of directories with a `/`, those of whiteouts with a `-` in front.
    ///
    /// A tree that is laid out gives the same, as where nothing can be mounted.
    fn step(&self, step: impl Fn(&Root)) -> Vec<String> {
        let mounted = self.step_in(&step, |upper| {
            mount(&self.lowers, Some(upper), &MountOptions::detect()).unwrap()
        });
        let store = Store::open(&self.dir.path().join("store")).unwrap();
        let laid =
            self.step_in(&step, |upper| lay_out(&self.lowers, Some(upper), &store, None).unwrap());
        assert_eq!(laid, mounted, "laid out and mounted");
        laid
    }

    fn step_in(
        &self,
        step: &impl Fn(&Root),
        mount: impl FnOnce(&Upper<'_>) -> Mounted,
    ) -> Vec<String> {
        let (upper, work) = (self.upper(), self.dir.path().join("work"));
        for path in [&upper, &work] {
            let _ = fs::remove_dir_all(path);
            fs::create_dir(path).unwrap();
        }
        let mounted = mount(&Upper { fs: &upper, work: &work });
        step(&Root(&mounted));
        mounted.finish(&Cancel::new()).unwrap();
        let cleaned = clean(&upper, &self.lowers, XattrSpace::Trusted, &Cancel::new()).unwrap();
        let left = self.left();
        assert_eq!(cleaned.is_empty, left.is_empty());
        left
    }

    fn left(&self) -> Vec<String> {
        fn walk(dir: &Path, prefix: &str, out: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let stat = fs::symlink_metadata(entry.path()).unwrap();
                let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
                if stat.is_dir() {
                    out.push(format!("{name}/"));
                    walk(&entry.path(), &format!("{name}/"), out);
                    let mut value = [0; 4];
                    let mark = XattrSpace::Trusted.opaque();
                    assert!(rustix::fs::getxattr(entry.path(), mark, &mut value).is_err());
                } else if stat.rdev() == 0 && stat.mode() & 0o170_000 == 0o020_000 {
                    out.push(format!("-{name}"));
                } else {
                    out.push(name);
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.upper(), "", &mut out);
        out.sort();
        out
    }
}

/// The tree of a step. A detached mount has no path, so all goes through its descriptor.
struct Root<'a>(&'a Mounted);

impl Root<'_> {
    fn open(&self, path: &str, flags: OFlags) -> File {
        let mode = if flags.contains(OFlags::CREATE) { Mode::from(0o644) } else { Mode::empty() };
        let flags = flags | OFlags::CLOEXEC;
        openat2(self.0.root(), path, flags, mode, ResolveFlags::IN_ROOT).unwrap().into()
    }

    fn write(&self, path: &str, text: &str) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        self.open(path, flags).write_all(text.as_bytes()).unwrap();
    }

    fn remove(&self, path: &str) {
        unlinkat(self.0.root(), path, AtFlags::empty()).unwrap();
    }

    fn rmdir(&self, path: &str) {
        unlinkat(self.0.root(), path, AtFlags::REMOVEDIR).unwrap();
    }

    fn mkdir(&self, path: &str, mode: u32) {
        rustix::fs::mkdirat(self.0.root(), path, Mode::from(mode)).unwrap();
    }

    fn chmod(&self, path: &str, mode: u32) {
        rustix::fs::chmodat(self.0.root(), path, Mode::from(mode), AtFlags::empty()).unwrap();
    }

    fn set_time(&self, path: &str, seconds: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(self.0.root(), path, &times, AtFlags::empty()).unwrap();
    }
}

fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root()
        && rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::empty()).is_ok();
    if !can {
        cannot_run_here!("needs root and overlayfs");
    }
    can
}

#[test]
fn an_untouched_upper_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let missing = [dir.path().join("never opened")];
    let cleaned = clean(dir.path(), &missing, XattrSpace::User, &Cancel::new()).unwrap();
    assert_eq!(cleaned, Cleaned { is_empty: true, unchanged: 0 });
}

#[test]
fn privileged_what_changed_is_in_the_layer_with_its_directories() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    assert_eq!(kit.step(|root| root.write("d/e/new", "x")), ["d/", "d/e/", "d/e/new"]);
    assert_eq!(kit.step(|root| root.write("f", "1")), ["f"], "the same content, at another time");
    assert_eq!(kit.step(|root| root.chmod("d/g", 0o600)), ["d/", "d/g"]);
    assert_eq!(kit.step(|root| root.chmod("d", 0o700)), ["d/"]);
    assert_eq!(kit.step(|root| root.remove("d/g")), ["-d/g", "d/"]);
    let made = kit.step(|root| {
        root.mkdir("new", 0o755);
        root.mkdir("new/sub", 0o755);
    });
    assert_eq!(made, ["new/", "new/sub/"]);
}

#[test]
fn privileged_what_ends_as_it_was_is_not_in_the_layer() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let nothing: [&str; 0] = [];
    assert_eq!(kit.step(|_| ()), nothing);
    let passing = kit.step(|root| {
        root.write("d/e/tmp", "x");
        root.remove("d/e/tmp");
    });
    assert_eq!(passing, nothing, "directories that were passed through");
    assert_eq!(kit.step(|root| root.chmod("d/g", 0o644)), nothing, "copied up, not changed");
    let rewritten = kit.step(|root| {
        root.write("f", "1");
        root.set_time("f", 1_000_000);
    });
    assert_eq!(rewritten, nothing, "same time in whole seconds, same content");
    let other = kit.step(|root| {
        root.write("f", "x");
        root.set_time("f", 1_000_000);
    });
    assert_eq!(other, ["f"], "same time in whole seconds, other content");
}

#[test]
fn privileged_opaque_directories_become_whiteouts_of_what_they_hid() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let again = kit.step(|root| {
        for path in ["d/g", "d/h", "d/e/i"] {
            root.remove(path);
        }
        root.rmdir("d/e");
        root.rmdir("d");
        root.mkdir("d", 0o700);
        root.write("d/g", "2");
        root.mkdir("d/e", 0o755);
        root.write("d/e/j", "5");
    });
    assert_eq!(again, ["-d/e/i", "-d/h", "d/", "d/e/", "d/e/j", "d/g"]);

    let gone = kit.step(|root| {
        for path in ["d/g", "d/h", "d/e/i"] {
            root.remove(path);
        }
        root.rmdir("d/e");
        root.rmdir("d");
    });
    assert_eq!(gone, ["-d"]);
}

#[test]
fn privileged_a_cleaned_upper_shows_the_same_tree_as_before() {
    if !can_mount() {
        return;
    }
    let mut kit = Kit::new();
    kit.step(|root| {
        root.remove("d/e/i");
        root.rmdir("d/e");
        root.mkdir("d/e", 0o755);
        root.write("d/e/k", "new");
        root.remove("l");
        root.mkdir("l", 0o755);
    });
    let first = kit.dir.path().join("first");
    fs::rename(kit.upper(), &first).unwrap();
    kit.lowers.push(first);
    kit.step(|root| {
        let names = |path: &str| {
            let mut names: Vec<_> = rustix::fs::Dir::read_from(root.open(path, OFlags::RDONLY))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_owned().into_string().unwrap())
                .filter(|name| !name.starts_with('.'))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("d/e"), ["k"]);
        assert_eq!(names("d"), ["e", "g", "h"]);
        assert_eq!(names("l"), Vec::<String>::new());
        root.remove("d/e/k");
    });
    assert_eq!(kit.left(), ["-d/e/k", "d/", "d/e/"]);
}

#[test]
fn privileged_a_link_to_a_lower_file_is_in_the_layer_alone() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let left = kit.step(|root| {
        let fd = root.0.root();
        rustix::fs::linkat(fd, "f", fd, "b", AtFlags::empty()).unwrap();
    });
    assert_eq!(left, ["b"]);
}

#[test]
fn privileged_directory_times_survive_cleaning_and_capabilities_count() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    let left = kit.step(|root| {
        root.write("d/new", "x");
        root.chmod("d/g", 0o644);
        root.set_time("d", 77);
    });
    assert_eq!(left, ["d/", "d/new"]);
    assert_eq!(fs::metadata(kit.upper().join("d")).unwrap().mtime(), 77);

    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let left = kit.step(|root| {
        let file = root.open("f", OFlags::RDONLY);
        let flags = XattrFlags::empty();
        rustix::fs::fsetxattr(&file, "security.capability", capability, flags).unwrap();
    });
    assert_eq!(left, ["f"]);
}

#[test]
fn privileged_a_whiteout_of_nothing_is_taken_out() {
    if !can_mount() {
        return;
    }
    let kit = Kit::new();
    fs::create_dir_all(kit.upper().join("d")).unwrap();
    let char = FileType::CharacterDevice;
    mknodat(CWD, kit.upper().join("d/none"), char, Mode::empty(), 0).unwrap();
    mknodat(CWD, kit.upper().join("f"), char, Mode::empty(), 0).unwrap();
    clean(&kit.upper(), &kit.lowers, XattrSpace::Trusted, &Cancel::new()).unwrap();
    assert_eq!(kit.left(), ["-f"]);
}

#[test]
fn a_laid_out_tree_is_worked_on_in_by_the_next_step() {
    let kit = Kit::new();
    let store = Store::open(&kit.dir.path().join("store")).unwrap();
    let (trees, cancel) = (LaidTrees::default(), Cancel::new());
    let mut lowers = kit.lowers.clone();
    let inode = |root: &Root| root.open("f", OFlags::RDONLY).metadata().unwrap().ino();
    let mut step = |name: &str, work: &dyn Fn(&Root)| {
        let (fs, scratch) = (kit.dir.path().join(name), kit.dir.path().join("work"));
        fs::create_dir(&fs).unwrap();
        let upper = Upper { fs: &fs, work: &scratch };
        let mounted = lay_out(&lowers, Some(&upper), &store, Some(&trees)).unwrap();
        let before = inode(&Root(&mounted));
        work(&Root(&mounted));
        let finished = mounted.finish(&cancel).unwrap();
        clean(&fs, &lowers, XattrSpace::detect(), &cancel).unwrap();
        lowers.push(fs.clone());
        finished.keep(&trees, &lowers);
        let mut names: Vec<_> = fs::read_dir(&fs)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        (before, names)
    };
    let (first, names) = step("one", &|root| root.write("new", "x"));
    assert_eq!(names, ["new"]);
    // In the same tree: only what this step writes is in its layer.
    let (second, names) = step("two", &|root| root.write("newer", "y"));
    assert_eq!((second, names), (first, vec!["newer".to_owned()]));
    // A directory that was renamed keeps the change times of what is in it.
    let (third, names) = step("three", &|root| {
        rustix::fs::renameat(root.0.root(), "d/e", root.0.root(), "moved").unwrap();
        root.write("new", "z");
    });
    assert_eq!((third, names), (first, ["d", "moved", "new"].map(str::to_owned).to_vec()));
    assert_eq!(fs::read(kit.dir.path().join("three/moved/i")).unwrap(), b"4");
    assert_eq!(fs::read(kit.dir.path().join("three/new")).unwrap(), b"z");
}
