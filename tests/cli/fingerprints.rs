//! The index of fingerprints never takes one file for another.

use crate::kit::{Counts, Kit, Outcome};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const HIT: Counts = Counts { ran: 0, cached: 1 };
const MISS: Counts = Counts { ran: 1, cached: 0 };

fn kit() -> Kit {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nCOPY tree /tree\n");
    kit
}

/// Writes a file that has the same size and time whatever it says.
fn write(kit: &Kit, name: &str, byte: u8) {
    kit.file(name, [byte; 100]);
    let file = fs::File::options().write(true).open(kit.path(name)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
}

#[test]
fn edits_in_quick_succession_are_all_seen() {
    let kit = kit();
    for byte in 0..12 {
        // Between two builds of the same second, in place, with the old time.
        write(&kit, "tree/f", byte);
        assert_eq!(kit.image().entry("tree/f").content, [byte; 100]);
    }
}

#[test]
fn files_that_change_places_are_told_apart() {
    let kit = kit();
    write(&kit, "tree/a", 1);
    write(&kit, "tree/b", 2);
    kit.build().ok();
    assert_eq!(kit.build().ok().counts(), HIT);
    fs::rename(kit.path("tree/a"), kit.path("tree/c")).unwrap();
    fs::rename(kit.path("tree/b"), kit.path("tree/a")).unwrap();
    fs::rename(kit.path("tree/c"), kit.path("tree/b")).unwrap();
    let image = kit.image();
    assert_eq!((image.entry("tree/a").content[0], image.entry("tree/b").content[0]), (2, 1));
}

#[test]
fn reused_inode_is_another_file() {
    let kit = kit();
    write(&kit, "tree/f", 1);
    kit.build().ok();
    let inode = fs::metadata(kit.path("tree/f")).unwrap().ino();
    let mut is_reused = false;
    for _ in 0..50 {
        fs::remove_file(kit.path("tree/f")).unwrap();
        write(&kit, "tree/f", 2);
        is_reused |= fs::metadata(kit.path("tree/f")).unwrap().ino() == inode;
        if is_reused {
            break;
        }
    }
    println!("the inode was {}", if is_reused { "reused" } else { "not given out again" });
    assert_eq!(kit.image().entry("tree/f").content[0], 2);
}

#[test]
fn privileged_directory_mounted_over_another_is_seen() {
    let kit = kit();
    write(&kit, "tree/f", 1);
    kit.build().ok();
    fs::create_dir(kit.beside("other")).unwrap();
    write(&kit, "f", 2);
    fs::rename(kit.path("f"), kit.beside("other/f")).unwrap();
    let run = kit.build().into_command();
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--",
        "sh",
        "-c",
        "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"",
    ]);
    command.arg(kit.beside("other")).arg(kit.path("tree")).arg(run.get_program());
    command.args(run.get_args()).env_clear().stdin(Stdio::null());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = Outcome::of(command.output().unwrap());
    assert_eq!((outcome.status, outcome.counts()), (Some(0), MISS), "{}", outcome.text());
    assert_eq!(kit.build().ok().counts(), HIT, "and what is below is what it was");
}

#[test]
fn builds_that_share_an_index_disturb_none_of_each_other() {
    let kit = kit();
    for number in 0..200 {
        write(&kit, &format!("tree/f{number}"), number);
    }
    let children: Vec<_> = (0..6)
        .map(|number| {
            let text = format!("FROM fixture/base\nCOPY tree /tree{number}\n");
            let file = kit.path(&format!("Dockerfile.{number}"));
            fs::write(&file, text).unwrap();
            let mut command = kit.build().arg("-f").arg(file).into_command();
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.status, Some(0), "{}", outcome.text());
    }
    let image = kit.image();
    for number in 0..200 {
        assert_eq!(image.entry(&format!("tree/f{number}")).content, [number; 100]);
    }
}
