//! ADD: local archives are unpacked, whatever they are called; other files are copied.

use crate::kit::base::append;
use crate::kit::{Archive, Kit, host};
use std::fs;

fn small_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, tar::EntryType::Directory, "d", 0o750, None, b"");
    append(&mut tar, tar::EntryType::Regular, "d/file", 0o640, None, b"inside");
    append(&mut tar, tar::EntryType::Symlink, "d/link", 0o777, Some("file"), b"");
    append(&mut tar, tar::EntryType::Link, "d/hard", 0o640, Some("d/file"), b"");
    tar.into_inner().unwrap()
}

#[track_caller]
fn added(name: &str, bytes: &[u8]) -> Archive {
    let kit = Kit::new();
    kit.file(name, bytes).dockerfile(&format!("FROM scratch\nADD {name} /x/\n"));
    kit.image()
}

#[track_caller]
fn is_unpacked(image: &Archive) {
    assert_eq!(image.list("x"), ["d", "d/file", "d/hard", "d/link"]);
    assert_eq!(image.text("/x/d/file"), "inside");
    assert_eq!(image.text("/x/d/hard"), "inside");
    assert_eq!(image.entry("/x/d").mode, 0o750);
}

#[test]
fn tar_is_unpacked_by_its_content_not_its_name() {
    is_unpacked(&added("archive.bin", &small_tar()));
}

#[test]
fn compressed_tars_are_unpacked() {
    for (name, words) in [
        ("a.tgz", &["gzip", "-c"][..]),
        ("a.tbz", &["bzip2", "-c"]),
        ("a.txz", &["xz", "-c"]),
        ("a.tzst", &["zstd", "-q", "-c"]),
    ] {
        if !host::has(words[0], words[0]) {
            continue;
        }
        let kit = Kit::new();
        fs::write(kit.out("plain.tar"), small_tar()).unwrap();
        let plain = fs::File::open(kit.out("plain.tar")).unwrap();
        let output = std::process::Command::new(words[0]).args(&words[1..]).stdin(plain).output();
        is_unpacked(&added(name, &output.unwrap().stdout));
    }
}

#[test]
fn copy_does_not_unpack() {
    let kit = Kit::new();
    kit.file("a.tar", small_tar()).dockerfile("FROM scratch\nCOPY a.tar /x/\n");
    assert_eq!(kit.image().list("x"), ["a.tar"]);
}

#[test]
fn file_that_is_no_archive_is_copied() {
    let image = added("not.tar.gz", b"only a name");
    assert_eq!(image.text("/x/not.tar.gz"), "only a name");
}

#[test]
fn names_in_an_archive_stay_beneath_the_destination() {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, tar::EntryType::Symlink, "out", 0o777, Some("/etc"), b"");
    append(&mut tar, tar::EntryType::Regular, "plain", 0o644, None, b"p");
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..10].copy_from_slice(b"../../evil");
    header.set_mode(0o644);
    header.set_size(1);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    tar.append(&header, &b"e"[..]).unwrap();
    let image = added("a.tar", &tar.into_inner().unwrap());
    assert!(image.find("/x/plain").is_some());
    assert!(!fs::exists("/evil").unwrap(), "nothing of it reached the host");
}

#[test]
fn damaged_archive_is_an_error() {
    let kit = Kit::new();
    let mut bytes = small_tar();
    bytes.truncate(700);
    kit.file("a.tar", bytes).dockerfile("FROM scratch\nADD a.tar /x/\n");
    kit.build().fails(3).says(&["a.tar", "Dockerfile:2"]);
}
