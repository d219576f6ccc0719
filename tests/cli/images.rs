//! The store's images: `images`, `inspect`, `history`, `tag`, `rmi`, `import`, `load`, `save`.

use crate::kit::base::{Layout, rootfs};
use crate::kit::{Archive, Kit};
use std::fs;

#[test]
fn built_image_is_listed_inspected_tagged_and_removed() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nENV WHO=me\nRUN true\n");
    kit.build().args(["-t", "one", "-t", "two:v2"]).ok();
    let listed = kit.builder(["images"]).ok().stdout();
    assert!(listed.contains("one") && listed.contains("two") && listed.contains("v2"), "{listed}");

    let inspected = kit.builder(["inspect", "one"]).ok().stdout();
    assert!(inspected.contains("WHO=me"), "{inspected}");
    assert!(
        kit.builder(["history", "one"]).ok().stdout().contains("RUN"),
        "history shows the steps"
    );

    kit.builder(["tag", "one", "three:v3"]).ok();
    kit.builder(["rmi", "one"]).ok();
    let listed = kit.builder(["images"]).ok().stdout();
    assert!(!listed.contains("one") && listed.contains("three"), "{listed}");
    kit.dockerfile("FROM three:v3\nRUN test $WHO = me\n").build().ok();
}

#[test]
fn unknown_names_are_errors_that_name_them() {
    let kit = Kit::new();
    for words in [
        &["inspect", "nobody"][..],
        &["history", "nobody"],
        &["rmi", "nobody"],
        &["tag", "nobody", "x"],
    ] {
        let outcome = kit.builder(words).run();
        assert!(matches!(outcome.status, Some(2..=6)), "{words:?}: {:?}", outcome.status);
        outcome.says(&["nobody"]);
    }
}

#[test]
fn root_file_system_becomes_a_base() {
    let kit = Kit::new();
    fs::write(kit.out("rootfs.tar"), rootfs()).unwrap();
    kit.builder(["import"]).arg(kit.out("rootfs.tar")).arg("mine:1").ok();
    kit.dockerfile("FROM mine:1\nRUN id -un > /who\n");
    assert_eq!(kit.image().text("/who"), "root\n");
}

#[test]
fn compressed_root_file_systems_become_the_same_base() {
    let kit = Kit::new();
    fs::write(kit.out("plain.tar"), rootfs()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &rootfs()).unwrap();
    fs::write(kit.out("gzip.tar.gz"), gzip.finish().unwrap()).unwrap();
    fs::write(kit.out("zstd.tar.zst"), zstd::encode_all(&rootfs()[..], 1).unwrap()).unwrap();
    for file in ["plain.tar", "gzip.tar.gz", "zstd.tar.zst"] {
        kit.builder(["import"]).arg(kit.out(file)).arg("mine").ok();
        kit.dockerfile("FROM mine\nRUN true\n");
        let counts = kit.build().ok().counts();
        assert_eq!(counts.ran, usize::from(file == "plain.tar"), "{file}: equal files, so cached");
    }
}

#[test]
fn damaged_root_file_system_is_refused() {
    let kit = Kit::new();
    let mut bytes = rootfs();
    bytes.truncate(100_000);
    fs::write(kit.out("short.tar"), bytes).unwrap();
    let outcome = kit.builder(["import"]).arg(kit.out("short.tar")).arg("mine").run();
    assert!(matches!(outcome.status, Some(2..=6)), "{:?}", outcome.status);
    outcome.says(&["short.tar"]);
    assert!(!kit.builder(["images"]).ok().stdout().contains("mine"));
}

#[test]
fn archives_load_into_an_empty_store() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo built > /made\n");
    for kind in ["oci", "docker"] {
        let path = kit.out(&format!("{kind}.tar"));
        kit.build()
            .args(["-t", "moved:1"])
            .arg(format!("-otype={kind},dest={}", path.display()))
            .ok();
        let other = Kit::new();
        other.builder(["load", "-i"]).arg(&path).ok();
        assert!(other.builder(["images"]).ok().stdout().contains("moved"), "{kind}");
        other.dockerfile("FROM moved:1\nRUN cat /made > /again\n");
        assert_eq!(other.image().text("/again"), "built\n", "{kind}");
    }
}

#[test]
fn saved_image_is_what_was_built() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nENV a=1\nRUN echo x > /x\n");
    kit.build().args(["-t", "kept"]).ok();
    kit.builder(["save", "-o"]).arg(kit.out("kept.tar")).arg("kept").ok();
    let image = Archive::open(&kit.out("kept.tar"));
    assert_eq!((image.env("a"), image.text("/x").as_str()), (Some("1"), "x\n"));
}

#[test]
fn image_of_ours_is_a_base_without_unpacking_it() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo x > /x\n").build().args(["-t", "first"]).ok();
    let layers = || fs::read_dir(kit.store().join("layers")).unwrap().count();
    let before = layers();
    // What is not there cannot be unpacked.
    for blob in fs::read_dir(kit.store().join("blobs/sha256")).unwrap().flatten() {
        if blob.metadata().unwrap().len() > 100_000 || is_tar(&fs::read(blob.path()).unwrap()) {
            fs::File::options().write(true).truncate(true).open(blob.path()).unwrap();
        }
    }
    kit.dockerfile("FROM first\nCOPY --from=first /x /y\nRUN cat /x /y\n").build().ok();
    assert_eq!(layers(), before + 2);
}

fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

#[test]
fn implied_directories_of_a_base_have_the_group_of_a_set_group_id_directory() {
    let kit = Kit::new();
    let layer = |members: &[(&str, u32, u64)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode, gid) in members {
            let is_dir = path.ends_with('/');
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(if is_dir {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            header.set_path(path).unwrap();
            header.set_mode(*mode);
            header.set_uid(3);
            header.set_gid(*gid);
            header.set_size(0);
            header.set_cksum();
            tar.append(&header, &b""[..]).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let mut base = Layout::of(&rootfs());
    base.push(&layer(&[("g/", 0o2775, 50), ("g/a/f", 0o644, 7), ("plain/a/f", 0o644, 7)]));
    // Here the directory itself is implied: it is below.
    base.push(&layer(&[("g/b/c/f", 0o644, 7)]));
    base.write(&kit.beside("shared"));
    kit.dockerfile("FROM shared\nRUN stat -c '%n %a %u:%g' /g /g/a /g/b /g/b/c /plain/a > /list\n");
    let named = format!("--build-context=shared=oci-layout://{}", kit.beside("shared").display());
    let list = kit.build().arg(named).image().text("/list");
    let expected = "/g 2775 3:50\n/g/a 755 0:50\n/g/b 755 0:50\n/g/b/c 755 0:0\n/plain/a 755 0:0\n";
    assert_eq!(list, expected);
}
