use super::*;
use crate::layer::{ScanOptions, scan};
use crate::oci::Digest;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr, utimensat};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

fn options() -> TarOptions {
    TarOptions { xattrs: XattrSpace::User, times: Times::Kept, meter: Meter::default() }
}

fn tar_of(dir: &Path, options: &TarOptions) -> Vec<u8> {
    let mut out = Vec::new();
    let fd = File::open(dir).unwrap();
    let size = write_tar(fd.as_fd(), &mut out, options, &Cancel::new()).unwrap();
    assert_eq!(size, out.len() as u64);
    let facts = scan(
        fd.as_fd(),
        &ScanOptions { xattrs: options.xattrs, ..ScanOptions::detect(true) },
        &Cancel::new(),
    )
    .unwrap();
    let tar = facts.tar.unwrap();
    assert_eq!(tar.size, size);
    if options.times == Times::Kept {
        assert_eq!(tar.diff_id, Digest::of(&out));
    }
    out
}

fn names(tar: &[u8]) -> Vec<String> {
    tar::Archive::new(tar)
        .entries()
        .unwrap()
        .map(|e| String::from_utf8_lossy(&e.unwrap().path_bytes()).into_owned())
        .collect()
}

#[test]
fn entries_go_by_the_raw_bytes_of_whole_paths() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["a/c", "a/-", "a!", "a!!/x", "a-b", "a0", "b/a", "Z", "a/c.d"] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let got = names(&tar_of(dir.path(), &options()));
    assert_eq!(
        got,
        ["Z", "a/", "a!", "a!!/", "a!!/x", "a-b", "a/-", "a/c", "a/c.d", "a0", "b/", "b/a"]
    );
    let mut sorted: Vec<_> = got.iter().map(|name| name.trim_end_matches('/')).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, got.iter().map(|name| name.trim_end_matches('/')).collect::<Vec<_>>());
}

#[test]
fn an_empty_layer_is_two_zero_blocks() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(tar_of(dir.path(), &options()), [0; 1024]);
}

#[test]
fn hard_links_point_to_the_first_path() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("z"), "text").unwrap();
    fs::hard_link(dir.path().join("z"), dir.path().join("m")).unwrap();
    symlink("nowhere", dir.path().join("l")).unwrap();
    rustix::fs::linkat(
        CWD,
        dir.path().join("l"),
        CWD,
        dir.path().join("l2"),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    let tar = tar_of(dir.path(), &options());
    let mut archive = tar::Archive::new(tar.as_slice());
    let got: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name_bytes().map(|l| String::from_utf8_lossy(&l).into_owned());
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            (name, entry.header().entry_type(), entry.size(), link)
        })
        .collect();
    let want = [
        ("l", tar::EntryType::Symlink, 0, Some("nowhere")),
        ("l2", tar::EntryType::Link, 0, Some("l")),
        ("m", tar::EntryType::Regular, 4, None),
        ("z", tar::EntryType::Link, 0, Some("m")),
    ];
    let want: Vec<_> =
        want.iter().map(|&(n, t, s, l)| (n.to_owned(), t, s, l.map(str::to_owned))).collect();
    assert_eq!(got, want);
}

/// A tree with every kind of difficulty that needs no privilege.
fn odd_tree(dir: &Path) {
    let long = "d".repeat(120);
    fs::create_dir_all(dir.join(&long).join("e".repeat(90)).join("f".repeat(200))).unwrap();
    fs::create_dir_all(dir.join("p".repeat(90)).join("q".repeat(90))).unwrap();
    fs::write(dir.join("p".repeat(90)).join("q".repeat(90)).join("file"), "split").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"\xffbad")), "bytes").unwrap();
    fs::write(dir.join("ünï"), "utf8").unwrap();
    fs::write(dir.join("new\nline"), "nl").unwrap();
    symlink("t".repeat(300), dir.join("far")).unwrap();
    symlink(OsStr::from_bytes(b"\xfe"), dir.join("odd-target")).unwrap();
    fs::write(dir.join("big"), vec![7; 700_001]).unwrap();
    fs::write(dir.join("suid"), "x").unwrap();
    fs::set_permissions(dir.join("suid"), fs::Permissions::from_mode(0o6755)).unwrap();
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from(0o640), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap());
    let time = |seconds| {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 999_999_999 };
        rustix::fs::Timestamps { last_access: time, last_modification: time }
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    utimensat(CWD, dir.join("suid"), &time(1_115_269_505), flags).unwrap();
    utimensat(CWD, dir.join("ünï"), &time(-5), flags).unwrap();
}

#[test]
fn odd_names_modes_and_times_survive_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    odd_tree(dir.path());
    let tar = tar_of(dir.path(), &options());
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut seen = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path_bytes().into_owned();
        let on_disk = dir.path().join(OsStr::from_bytes(&name));
        let stat = fs::symlink_metadata(&on_disk).unwrap();
        seen += 1;
        if stat.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, fs::read(&on_disk).unwrap());
        }
        if stat.file_type().is_symlink() {
            let target = fs::read_link(&on_disk).unwrap();
            assert_eq!(entry.link_name_bytes().unwrap(), target.as_os_str().as_bytes());
        }
        assert_eq!(entry.header().mode().unwrap(), stat.permissions().mode() & 0o7777);
        if name == b"suid" {
            assert_eq!(entry.header().mtime().unwrap(), 1_115_269_505, "whole seconds, cut off");
        }
    }
    assert_eq!(seen, 14, "everything but the socket");
}

#[test]
fn python_and_gnu_tar_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    odd_tree(dir.path());
    let tar = tar_of(dir.path(), &options());
    let file = dir
        .path()
        .join("../")
        .join(format!("{}.tar", dir.path().file_name().unwrap().to_str().unwrap()));
    fs::write(&file, &tar).unwrap();
    let list = Command::new("tar").arg("--list").arg("--file").arg(&file).output();
    match &list {
        Ok(out) => {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 14);
        }
        Err(e) => cannot_run_here!("GNU tar: {e}"),
    }
    let script = "import sys, tarfile, os\n\
        root = sys.argv[2]\n\
        for m in tarfile.open(sys.argv[1]):\n\
        \tst = os.lstat(os.path.join(root, m.name))\n\
        \tassert m.mode == st.st_mode & 0o7777, m.name\n\
        \tassert int(m.mtime) == st.st_mtime_ns // 10**9, (m.name, m.mtime, st.st_mtime_ns)\n\
        \tif m.issym(): assert m.linkname == os.readlink(os.path.join(root, m.name)), m.name\n\
        \tif m.isfile(): assert m.size == st.st_size, m.name\n";
    match Command::new("python3").args(["-c", script]).arg(&file).arg(dir.path()).output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => cannot_run_here!("Python: {e}"),
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn clamping_touches_later_times_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("new"), "").unwrap();
    fs::write(dir.path().join("old"), "").unwrap();
    let old = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 };
    let old = rustix::fs::Timestamps { last_access: old, last_modification: old };
    utimensat(CWD, dir.path().join("old"), &old, rustix::fs::AtFlags::empty()).unwrap();
    let tar = tar_of(dir.path(), &TarOptions { times: Times::Clamped(1000), ..options() });
    let mut archive = tar::Archive::new(tar.as_slice());
    let times: Vec<u64> =
        archive.entries().unwrap().map(|e| e.unwrap().header().mtime().unwrap()).collect();
    assert_eq!(times, [1000, 5]);
}

#[test]
fn privileged_whiteouts_marks_devices_owners_and_capabilities() {
    if !rustix::process::geteuid().is_root() {
        cannot_run_here!("needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/f"), "x").unwrap();
    let char = FileType::CharacterDevice;
    mknodat(CWD, at("d/gone"), char, Mode::empty(), 0).unwrap();
    mknodat(CWD, at("null"), char, Mode::from(0o666), rustix::fs::makedev(1, 3)).unwrap();
    fs::hard_link(at("d/gone"), at("also-gone")).unwrap();
    setxattr(at("d"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    setxattr(at("d/f"), "user.mine", b"1", XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(at("d/f"), Some(3_000_000), Some(2_097_152)).unwrap();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    setxattr(at("d/f"), "security.capability", capability, XattrFlags::empty()).unwrap();
    let tar = tar_of(
        dir.path(),
        &TarOptions { xattrs: XattrSpace::Trusted, times: Times::Kept, meter: Meter::default() },
    );
    assert_eq!(names(&tar), [".wh.also-gone", "d/", "d/.wh..wh..opq", "d/.wh.gone", "d/f", "null"]);
    let mut archive = tar::Archive::new(tar.as_slice());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path_bytes().into_owned();
        let records: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .into_iter()
            .flatten()
            .map(|r| r.unwrap())
            .map(|r| (r.key().unwrap().to_owned(), r.value_bytes().to_vec()))
            .collect();
        match name.as_slice() {
            b"d/f" => {
                let want: &[(&str, &[u8])] = &[
                    ("SCHILY.xattr.security.capability", capability),
                    ("gid", b"2097152"),
                    ("uid", b"3000000"),
                ];
                let want: Vec<_> =
                    want.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
                assert_eq!(records, want);
            }
            b"null" => {
                assert_eq!(entry.header().device_major().unwrap(), Some(1));
                assert_eq!(entry.header().device_minor().unwrap(), Some(3));
            }
            name if name.starts_with(b".wh.") || name.starts_with(b"d/.wh.") => {
                assert_eq!(entry.header().mtime().unwrap(), 0);
                assert_eq!(entry.header().mode().unwrap(), 0);
                assert_eq!(entry.header().entry_type(), tar::EntryType::Regular);
            }
            _ => {}
        }
    }
    let plain = tar_of(dir.path(), &options());
    assert!(!names(&plain).contains(&"d/.wh..wh..opq".to_owned()), "another namespace's mark");
}

#[test]
fn trees_deeper_than_the_open_file_limit_are_walked() {
    let dir = tempfile::tempdir().unwrap();
    let mut fd: OwnedFd = File::open(dir.path()).unwrap().into();
    for _ in 0..1100 {
        rustix::fs::mkdirat(&fd, "deep", Mode::from(0o755)).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        fd = rustix::fs::openat(&fd, "deep", flags, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&fd, "side", Mode::from(0o755)).unwrap();
    }
    let root = File::open(dir.path()).unwrap();
    let options = ScanOptions { xattrs: XattrSpace::User, ..ScanOptions::detect(false) };
    let facts = scan(root.as_fd(), &options, &Cancel::new()).unwrap();
    assert_eq!(facts.entries, 2200);
}

#[test]
fn a_cancelled_scan_stops() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let root = File::open(dir.path()).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let options = ScanOptions { xattrs: XattrSpace::User, ..ScanOptions::detect(true) };
    let error = scan(root.as_fd(), &options, &cancel).unwrap_err();
    assert!(matches!(error, LayerError::Cancelled));
}

#[test]
fn a_full_disk_is_distinguished() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(libc::ENOSPC))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let root = File::open(dir.path()).unwrap();
    let error = write_tar(root.as_fd(), &mut Full, &options(), &Cancel::new()).unwrap_err();
    let LayerError::Output { what: "tar", source } = error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}
